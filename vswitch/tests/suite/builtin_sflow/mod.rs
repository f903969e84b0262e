//! sFlow: what is sampled, how it is counted, and that an independent reader (tshark) understands what is sent.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use vswitch::extension::change::Edit;
use vswitch::extension::{
    Change, Counters, Effects, Extension, FailMode, Output, PortCounters, Sample, Slot, Stack, builtin,
};
use vswitch::flow::Forwarder;
use vswitch::pipeline::Verdict;
use vswitch::port::PortKind;
use vswitch::snapshot::{FloodSet, Snapshot, SwitchConfig};
use vswitch::trace::DropReason;
use vswitch::{PortId, frame::protocol};

use crate::packets::{ethernet, framed, udp, v4};
use crate::support::{SECOND, guest, mac_of};

/// Bytes of a flow sample that shows 128 bytes, and of one that shows 64.
const LONG: usize = 216;
const SHORT: usize = LONG - 64;

fn start(config: &Value) -> Arc<dyn Extension> {
    builtin::start("sflow", config).expect("it exists").expect("it starts")
}

fn config(sampling: u32, polling: u32) -> Value {
    json!({
        "collector": "192.0.2.9", "agent": "192.0.2.1", "sub-agent": 3, "sampling": sampling,
        "polling": polling,
    })
}

/// 64 bytes of a local experimental protocol.
fn plain() -> Vec<u8> {
    ethernet(mac_of(2), mac_of(1), &[], 0x88b5, &[0; 50])
}

fn sample(head: &[u8], verdict: Verdict, pool: u64) -> Sample<'_> {
    Sample { now: SECOND, from: PortId(1), vsid: None, head, len: head.len() as u32, verdict, pool }
}

struct Fixed;

impl Counters for Fixed {
    fn of(&self, port: PortId) -> Option<PortCounters> {
        let counters = PortCounters {
            out_packets: 10,
            out_bytes: 5_000_000_000,
            out_drops: 1,
            in_packets: 20,
            in_bytes: 2000,
            in_drops: 2,
        };
        (port.0 <= 300).then_some(counters)
    }
}

fn datagrams(effects: &mut Effects) -> Vec<Vec<u8>> {
    let datagram = |(_, output)| match output {
        Output::Datagram { to, bytes } => {
            assert_eq!(to, SocketAddr::from(([192, 0, 2, 9], 6343)));
            bytes
        }
        other => panic!("{other:?}"),
    };
    effects.take_outputs().into_iter().map(datagram).collect()
}

/// Lets time pass, a tenth of a second at a time, and returns what was sent and when.
fn pass(instance: &dyn Extension, from: u64, to: u64) -> Vec<(u64, Vec<u8>)> {
    let mut sent = Vec::new();
    let mut now = from;
    while now <= to {
        let mut effects = Effects::default();
        instance.tick(now, &Fixed, &mut effects).expect("it ticks");
        assert_eq!(effects.take_refused().map(|(_, count)| count).sum::<u64>(), 0);
        sent.extend(datagrams(&mut effects).into_iter().map(|bytes| (now, bytes)));
        now += SECOND / 10;
    }
    sent
}

fn create(instance: &dyn Extension, port: u16, vlan: &str) {
    let port = PortId(port);
    instance.change(0, &Change::PortCreate { port, name: "p", kind: PortKind::Guest }).expect("a port");
    let value = json!(vlan);
    let change = Change::Policy { port, edit: Edit::Add, name: "vlan", value: &value };
    instance.change(0, &change).expect("a policy");
}

/// What tshark reads in datagrams: for each of them, values by field. `None` if there is no tshark.
fn decode(datagrams: &[Vec<u8>], fields: &[&str]) -> Option<Vec<HashMap<String, String>>> {
    let mut capture = Vec::new();
    for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65_535, 1] {
        capture.extend(word.to_le_bytes());
    }
    for payload in datagrams {
        let whole = framed(&v4("192.0.2.1", "192.0.2.9", protocol::UDP, &udp(40_000, 6343, payload)));
        for word in [0, 0, whole.len() as u32, whole.len() as u32] {
            capture.extend(word.to_le_bytes());
        }
        capture.extend(whole);
    }
    let mut tshark = Command::new("tshark");
    tshark.args(["-r", "-", "-n", "-d", "udp.port==6343,sflow", "-T", "fields", "-E", "separator=;"]);
    let always = ["_ws.malformed", "_ws.expert.message"];
    for field in fields.iter().chain(&always) {
        tshark.args(["-e", field]);
    }
    let pipes = tshark.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().ok()?;
    child.stdin.take().expect("a pipe").write_all(&capture).expect("tshark reads");
    let output = child.wait_with_output().expect("tshark ends");
    let text = String::from_utf8(output.stdout).expect("text");
    let trouble = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text
        .lines()
        .map(|line| {
            let names = fields.iter().chain(&always).map(|&field| field.to_owned());
            names.zip(line.split(';').map(str::to_owned)).collect::<HashMap<_, _>>()
        })
        .collect();
    assert_eq!(lines.len(), datagrams.len(), "{text} {trouble}");
    for line in &lines {
        assert_eq!(
            (line["_ws.malformed"].as_str(), line["_ws.expert.message"].as_str()),
            ("", ""),
            "{line:?}"
        );
    }
    Some(lines)
}

/// Compares what tshark reads with what is expected, where there is a tshark.
fn check(test: &str, datagrams: &[Vec<u8>], expected: &[&[(&str, &str)]]) {
    let mut fields: Vec<&str> =
        expected.iter().flat_map(|line| line.iter().map(|(field, _)| *field)).collect();
    fields.sort_unstable();
    fields.dedup();
    let Some(lines) = decode(datagrams, &fields) else {
        // Past the test harness, which keeps what a passing test prints to itself.
        let tshark = "no tshark; apt-get install -y --no-install-recommends tshark";
        let _ = writeln!(std::io::stderr(), "skipped: {test}: {tshark}");
        return;
    };
    assert_eq!(lines.len(), expected.len());
    for (line, expected) in lines.iter().zip(expected) {
        for (field, value) in *expected {
            assert_eq!(line[*field], *value, "{field} of {line:?}");
        }
    }
}

#[test]
fn s19_tshark_reads_flow_samples() {
    let instance = start(&config(50, 0));
    create(&*instance, 1, "trunk:1-100/7");
    let mut effects = Effects::default();
    let tagged = ethernet(mac_of(2), mac_of(1), &[(0x8100, 0xa00a)], 0x88b5, &[1; 300]);
    let plain = plain();
    let verdicts = [
        (&tagged, Verdict::Unicast(PortId(2))),
        (&plain, Verdict::Flood(FloodSet::Members)),
        (&plain, Verdict::Drop(DropReason::AclDenied)),
        (&plain, Verdict::Refuse(DropReason::ReceiverFull, PortId(2))),
    ];
    for (n, (frame, verdict)) in verdicts.into_iter().enumerate() {
        let pool = 50 * (n as u64 + 1);
        instance.sample(&sample(frame, verdict, pool), &mut effects).expect("it samples");
    }
    assert!(effects.is_empty(), "they wait for company");
    let sent = pass(&*instance, SECOND, 2 * SECOND);
    let [(at, datagram)] = &sent[..] else { panic!("{} datagrams", sent.len()) };
    assert!(*at <= 2 * SECOND);
    check(
        "s19_tshark_reads_flow_samples",
        std::slice::from_ref(datagram),
        &[&[
            ("sflow_245.version", "5"),
            ("sflow_245.agent", "192.0.2.1"),
            ("sflow_245.sub_agent_id", "3"),
            ("sflow_245.sequence_number", "1"),
            ("sflow_245.numsamples", "4"),
            ("sflow_245.sampletype", "1,1,1,1"),
            ("sflow.flow_sample.sequence_number", "1,2,3,4"),
            ("sflow.flow_sample.source_id_class", "2,2,2,2"),
            ("sflow.flow_sample.index", "1,1,1,1"),
            ("sflow.flow_sample.sampling_rate", "50,50,50,50"),
            ("sflow.flow_sample.sample_pool", "50,100,150,200"),
            ("sflow.flow_sample.dropped_packets", "0,0,0,0"),
            ("sflow.flow_sample.input_interface", "1,1,1,1"),
            ("sflow_245.flow_record_format", "1,1001,1,1001,1,1001,1,1001"),
            ("sflow_245.header_protocol", "1,1,1,1"),
            ("sflow_245.header.frame_length", "322,68,68,68"),
            ("sflow_245.header.payload_stripped", "4,4,4,4"),
            ("sflow_245.header.sampled_header_length", "128,64,64,64"),
            ("sflow_245.vlan.in", "10,7,7,7"),
            ("sflow_245.pri.in", "5,0,0,0"),
            ("sflow_245.vlan.out", "10,7,0,0"),
            ("sflow_245.pri.out", "0,0,0,0"),
        ]],
    );
    // tshark has no field that shows format and value of all outputs together; these are the words themselves.
    let output_of = |n: usize| {
        let at = 28 + [0, LONG, LONG + SHORT, LONG + 2 * SHORT][n] + 8 + 24;
        u32::from_be_bytes(datagram[at..at + 4].try_into().expect("four bytes"))
    };
    let outputs: Vec<u32> = (0..4).map(output_of).collect();
    assert_eq!(outputs, [2, 0x8000_0000, (1 << 30) + 258, (1 << 30) + 259]);
}

#[test]
fn s19_tshark_reads_counter_samples() {
    let instance = start(&config(0, 1));
    create(&*instance, 2, "none");
    let sent = pass(&*instance, SECOND, 5 * SECOND);
    let bytes: Vec<Vec<u8>> = sent.into_iter().map(|(_, bytes)| bytes).collect();
    assert!((3..=5).contains(&bytes.len()), "{}", bytes.len());
    // tshark shows no field for the source: class 0 (ifIndex), and the port's number.
    assert!(bytes.iter().all(|datagram| datagram[40..44] == [0, 0, 0, 2]));
    let line = |sequence: &'static str| {
        [
            ("sflow_245.sequence_number", sequence),
            ("sflow_245.sampletype", "2"),
            ("sflow.counters_sample.sequence_number", sequence),
            ("sflow_245.counters_record_format", "1"),
            ("sflow_245.ifindex", "2"),
            ("sflow_245.ifdirection", "1"),
            ("sflow_245.ifinoct", "5000000000"),
            ("sflow_245.ifinpkt", "10"),
            ("sflow_245.ifinmcast", "4294967295"),
            ("sflow_245.ifindisc", "1"),
            ("sflow_245.ifoutoct", "2000"),
            ("sflow_245.ifoutpkt", "20"),
            ("sflow_245.ifoutdisc", "2"),
            ("sflow_245.ifpromisc", "2"),
        ]
    };
    let lines = [line("1"), line("2"), line("3"), line("4"), line("5")];
    let expected: Vec<&[_]> = lines[..bytes.len()].iter().map(|line| &line[..]).collect();
    check("s19_tshark_reads_counter_samples", &bytes, &expected);
}

#[test]
fn s19_datagrams_are_bounded_and_leave_within_a_second() {
    let instance = start(&config(1, 0));
    let long = vec![7; 1500];
    let mut effects = Effects::default();
    for n in 0..40 {
        let one = sample(&long, Verdict::Unicast(PortId(2)), n + 1);
        instance.sample(&one, &mut effects).expect("it samples");
    }
    let mut sent = datagrams(&mut effects);
    assert_eq!(sent.len(), 6, "six to a datagram, and the last four wait");
    let later = pass(&*instance, SECOND, 3 * SECOND);
    let [(at, last)] = &later[..] else { panic!("{} datagrams", later.len()) };
    assert!(*at < 2 * SECOND, "{at}");
    sent.push(last.clone());
    for (n, datagram) in sent.iter().enumerate() {
        assert!(datagram.len() <= 1400, "{}", datagram.len());
        assert_eq!(datagram[16..20], (n as u32 + 1).to_be_bytes(), "no number is missing");
        let samples: u32 = if n == 6 { 4 } else { 6 };
        assert_eq!(datagram[24..28], samples.to_be_bytes());
    }
}

#[test]
fn s19_one_frame_in_n_is_sampled_in_the_mean() {
    let instance = start(&config(100, 0));
    let slot = Slot::new("sflow", Arc::clone(&instance), FailMode::Open, &[]);
    let stack = Stack::new(vec![slot]).expect("a stack");
    let snap = Snapshot::new(1, SwitchConfig::default(), vec![guest(1), guest(2)]);
    let snap = snap.with_extensions(Arc::new(stack));
    let mut forwarder = Forwarder::new(9, 64);
    let bytes = plain();
    let (frames, burst) = (1_000_000_u64, 32);
    let (mut sent, mut now) = (Vec::new(), SECOND);
    for _ in 0..frames / burst {
        now += 1000;
        let verdict = Verdict::Unicast(PortId(2));
        let make = |_| Some(Sample { now, ..sample(&bytes, verdict, 0) });
        forwarder.sample(&snap, burst as usize, make);
        sent.extend(datagrams(forwarder.effects()));
    }
    sent.extend(pass(&*instance, now + SECOND, now + SECOND).into_iter().map(|(_, bytes)| bytes));
    let word = |at: usize, datagram: &[u8]| {
        u64::from(u32::from_be_bytes(datagram[at..at + 4].try_into().expect("four bytes")))
    };
    let samples: u64 = sent.iter().map(|datagram| word(24, datagram)).sum();
    // A skip is even in 1..=199, of variance 3300: over 10000 skips the number of samples has a deviation of 57.5. Five of those.
    let expected = frames / 100;
    assert!(samples.abs_diff(expected) < 288, "{samples} of {expected}");
    assert_eq!(instance.status(None)["flow-samples"], samples);
    // The last sample's pool is what it and all before it were drawn from: with the rate it gives the number of frames back.
    let last = sent.last().expect("datagrams");
    let pool = word(28 + (word(24, last) as usize - 1) * SHORT + 8 + 12, last);
    assert!(frames - pool < 200, "{pool}");
}

#[test]
fn s19_counters_of_many_ports_are_spread_and_none_is_left_out() {
    let instance = start(&config(0, 2));
    (1..=300).for_each(|port| create(&*instance, port, "none"));
    let sent = pass(&*instance, SECOND, 21 * SECOND);
    let most = sent.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len).max().expect("datagrams");
    assert!(most <= 3, "{most} in one tick");
    for port in 1..=300 {
        let samples = instance.status(Some(PortId(port)))["counter-samples"].as_u64().expect("a number");
        assert!((9..=11).contains(&samples), "{samples} of port {port}");
    }
    instance.change(0, &Change::PortDelete { port: PortId(7) }).expect("told");
    assert_eq!(instance.status(Some(PortId(7))), Value::Null);
}

#[test]
fn s19_samples_that_there_is_no_room_for_are_told_of() {
    let instance = start(&config(1, 0));
    let long = vec![7; 1500];
    let mut effects = Effects::default();
    while effects.output(Output::Log("full".into())) {}
    for n in 0..7 {
        let one = sample(&long, Verdict::Unicast(PortId(2)), n + 1);
        instance.sample(&one, &mut effects).expect("it samples");
    }
    let one = sample(&long, Verdict::Unicast(PortId(2)), 8);
    instance.sample(&one, &mut Effects::default()).expect("it samples");
    let (_, datagram) = pass(&*instance, SECOND, 2 * SECOND).pop().expect("what waited");
    assert_eq!(datagram[16..20], 2_u32.to_be_bytes(), "the first one never left");
    let lost = |n: usize| &datagram[28 + n * LONG + 8 + 16..][..4];
    assert_eq!((lost(0), lost(1)), (&[0, 0, 0, 0][..], &[0, 0, 0, 6][..]));
}

#[test]
fn s19_a_collector_without_a_port_is_asked_at_the_usual_one_and_agents_may_be_of_ipv6() {
    let value = json!({ "collector": "[2001:db8::9]", "agent": "2001:db8::1", "sampling": 1 });
    let instance = start(&value);
    let mut effects = Effects::default();
    let bytes = plain();
    instance.sample(&sample(&bytes, Verdict::Answer, 1), &mut effects).expect("it samples");
    instance.tick(3 * SECOND, &Fixed, &mut effects).expect("it ticks");
    let (_, output) = effects.take_outputs().pop().expect("a datagram");
    let Output::Datagram { to, bytes } = output else { panic!("{output:?}") };
    assert_eq!(to, SocketAddr::new("2001:db8::9".parse::<IpAddr>().expect("an address"), 6343));
    assert_eq!(bytes[..8], [0, 0, 0, 5, 0, 0, 0, 2]);
    let expected = [("sflow_245.agent.v6", "2001:db8::1"), ("sflow_245.numsamples", "1")];
    check("s19_agents_of_ipv6", &[bytes], &[&expected]);
}

#[test]
fn s19_what_is_wrong_with_a_configuration_is_said() {
    let wrong = [
        (json!({ "agent": "192.0.2.1" }), "sflow: missing field `collector`"),
        (json!({ "collector": "x", "agent": "192.0.2.1" }), "sflow: 'collector' is 'x', no address; write"),
        (json!({ "collector": "0.0.0.0", "agent": "192.0.2.1" }), "sflow: 'collector' is '0.0.0.0', where"),
        (json!({ "collector": "192.0.2.9", "agent": "me" }), "sflow: invalid IP address syntax"),
        (
            json!({ "collector": "192.0.2.9", "agent": "192.0.2.1", "sampling": 1 << 25 }),
            "sflow: 'sampling' is 33554432; it must be 0 to 16777216",
        ),
        (
            json!({ "collector": "192.0.2.9", "agent": "192.0.2.1", "rate": 1 }),
            "sflow: unknown field `rate`, expected one of `collector`",
        ),
    ];
    for (config, expected) in wrong {
        let error = builtin::start("sflow", &config).expect("it exists").expect_err("wrong").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(builtin::start("no-such", &Value::Null).is_none());
    let all: Vec<_> = builtin::available().iter().map(|one| one.name).collect();
    for name in all {
        assert!(builtin::start(name, &Value::Null).is_some(), "{name}");
    }
}
