//! The agent as a controller and as the switch see it.

mod bounds;
mod shown;

use serde_json::json;

use super::message::{Header, Reader, port};
use super::*;
use crate::extension::PortCounters;
use crate::port::PortKind;

const SECOND: Nanos = 1_000_000_000;
const A: PortId = PortId(1);
const B: PortId = PortId(2);
const C: PortId = PortId(3);
const ANY: u32 = u32::MAX;

struct Counted;

impl Counters for Counted {
    fn of(&self, port: PortId) -> Option<PortCounters> {
        (port == A).then(|| PortCounters { out_packets: 7, in_bytes: 9, ..PortCounters::default() })
    }
}

fn mac(port: PortId) -> [u8; 6] {
    [2, 0, 0, 0, 0, port.0 as u8]
}

/// A switch with ports 1 to 3 whose controller has just called.
struct Scene {
    of: Openflow,
    now: Nanos,
}

impl Scene {
    fn with(config: &Value) -> Self {
        let mut all = json!({ "controllers": ["tcp:192.0.2.1"], "datapath-id": "00:ab" });
        all.as_object_mut().expect("an object").extend(config.as_object().cloned().unwrap_or_default());
        let of = Openflow::new(&all).expect("valid");
        for port in [A, B, C] {
            of.change(0, &Change::PortCreate { port, name: "web", kind: PortKind::Guest }).expect("heard");
            of.change(0, &Change::NicConnect { port }).expect("heard");
        }
        Self { of, now: SECOND }
    }

    fn new() -> Self {
        let scene = Self::with(&json!({}));
        scene.call(0);
        scene
    }

    fn hear(&self, peer: usize, what: Heard<'_>) -> Effects {
        let mut effects = Effects::default();
        self.of.heard(self.now, peer, what, &Counted, &mut effects).expect("no fault");
        effects
    }

    fn call(&self, peer: usize) {
        self.hear(peer, Heard::Opened);
        let said = self.say(kind::HELLO, &[]);
        assert!(said.is_empty(), "{said:?}");
    }

    /// Says a message and returns the answers: types and bodies.
    fn say(&self, kind: u8, body: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut effects = self.hear(0, Heard::Bytes(&framed(kind, body)));
        answers(&mut effects)
    }

    fn error(&self, kind: u8, body: &[u8]) -> (u16, u16) {
        let all = self.say(kind, body);
        let [(kind::ERROR, body)] = all.as_slice() else { panic!("{all:?}") };
        let mut reader = Reader(body);
        (reader.u16().expect("type"), reader.u16().expect("code"))
    }

    fn add(&self, flow: &Mod) {
        let said = self.say(kind::FLOW_MOD, &flow.body());
        assert!(said.is_empty(), "{said:?}");
    }

    fn sight<'a>(&self, from: PortId, head: &'a [u8]) -> Sight<'a> {
        Sight::new(self.now, Direction::Out, from, head, head.len() as u32)
    }

    fn forward(&self, from: PortId, head: &[u8]) -> (Destination, Scope) {
        self.of.forward(&self.sight(from, head), &mut Effects::default()).expect("no fault")
    }

    fn goes(&self, from: PortId, head: &[u8]) -> Destination {
        self.forward(from, head).0
    }

    fn tick(&mut self, later: Nanos) -> Effects {
        self.now += later;
        let mut effects = Effects::default();
        self.of.tick(self.now, &Counted, &mut effects).expect("no fault");
        effects
    }
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    message::write(&mut out, kind, 77, |out| out.extend_from_slice(body));
    out
}

fn answers(effects: &mut Effects) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    for (_, output) in effects.take_outputs() {
        let Output::Stream { bytes, frame: 0, .. } = output else { continue };
        let mut rest = bytes.as_slice();
        while let Some(header) = Header::read(rest) {
            all.push((header.kind, rest[message::HEADER..header.len].to_vec()));
            rest = &rest[header.len..];
        }
    }
    all
}

/// A flow-mod.
#[derive(Clone, Default)]
struct Mod {
    command: u8,
    priority: u16,
    idle: u16,
    hard: u16,
    flags: u16,
    cookie: u64,
    fields: Vec<u8>,
    instructions: Vec<u8>,
}

fn oxm(number: u8, value: &[u8]) -> Vec<u8> {
    [&[0x80, 0, number << 1, value.len() as u8], value].concat()
}

fn masked(number: u8, value: &[u8], mask: &[u8]) -> Vec<u8> {
    [&[0x80, 0, number << 1 | 1, value.len() as u8 * 2], value, mask].concat()
}

fn output(port: u32) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 16];
    put32(&mut out, port);
    zeros(&mut out, 8);
    out
}

fn apply(actions: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 4];
    put16(&mut out, 8 + actions.len() as u16);
    zeros(&mut out, 4);
    out.extend_from_slice(actions);
    out
}

impl Mod {
    fn new(priority: u16, fields: &[Vec<u8>], actions: &[Vec<u8>]) -> Self {
        Self { priority, fields: fields.concat(), instructions: apply(&actions.concat()), ..Self::default() }
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put64(&mut out, self.cookie);
        put64(&mut out, 0);
        out.extend_from_slice(&[0, self.command]);
        for number in [self.idle, self.hard, self.priority] {
            put16(&mut out, number);
        }
        for number in [NO_BUFFER, ANY, ANY] {
            put32(&mut out, number);
        }
        put16(&mut out, self.flags);
        zeros(&mut out, 2);
        matching(&mut out, &self.fields);
        out.extend_from_slice(&self.instructions);
        out
    }
}

fn matching(out: &mut Vec<u8>, fields: &[u8]) {
    let len = fields.len() + 4;
    put16(out, 1);
    put16(out, len as u16);
    out.extend_from_slice(fields);
    zeros(out, len.next_multiple_of(8) - len);
}

fn ether(to: PortId, from: PortId, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&mac(to)[..], &mac(from), &kind.to_be_bytes(), payload].concat()
}

/// UDP from 5000 to a port.
fn udp(to: PortId, from: PortId, port: u16, dscp: u8) -> Vec<u8> {
    let mut ip =
        vec![0x45, dscp << 2, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, from.0 as u8, 10, 0, 0, to.0 as u8];
    put16(&mut ip, 5000);
    put16(&mut ip, port);
    put64(&mut ip, 12 << 48);
    put32(&mut ip, 0x0102_0304);
    ether(to, from, 0x800, &ip)
}

#[test]
fn of13_both_sides_begin_with_hello_and_who_does_not_is_hung_up_on() {
    let scene = Scene::with(&json!({}));
    let said = answers(&mut scene.hear(0, Heard::Opened));
    assert_eq!(said, [(kind::HELLO, vec![0, 1, 0, 8, 0, 0, 0, 1 << 4])]);
    for wrong in
        [framed(kind::BARRIER_REQUEST, &[]), vec![1, 0, 0, 8, 0, 0, 0, 1], vec![4, 0, 0, 7, 0, 0, 0, 1]]
    {
        scene.hear(0, Heard::Opened);
        let outputs = scene.hear(0, Heard::Bytes(&wrong)).take_outputs();
        assert!(matches!(outputs.last(), Some((_, Output::HangUp { peer: 0 }))), "{outputs:?}");
    }
    // A list of versions counts more than the number in the header.
    scene.hear(0, Heard::Opened);
    let mut newer = framed(kind::HELLO, &[0, 1, 0, 8, 0, 0, 0, 0b11_0000]);
    newer[0] = 5;
    assert!(scene.hear(0, Heard::Bytes(&newer)).take_outputs().is_empty());
    assert_eq!(scene.say(kind::BARRIER_REQUEST, &[]), [(kind::BARRIER_REPLY, vec![])]);
}

#[test]
fn of13_messages_are_understood_wherever_the_stream_is_cut() {
    let scene = Scene::new();
    let all = [
        framed(kind::FEATURES_REQUEST, &[]),
        framed(kind::ECHO_REQUEST, b"x"),
        framed(kind::BARRIER_REQUEST, &[]),
    ]
    .concat();
    let mut got = Vec::new();
    for byte in &all {
        got.append(&mut answers(&mut scene.hear(0, Heard::Bytes(&[*byte]))));
    }
    assert_eq!(got.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [6, 3, 21]);
    assert_eq!(got[0].1[..8], 0xab_u64.to_be_bytes());
    assert_eq!(got[1].1, b"x");
}

#[test]
fn of13_the_entry_of_the_highest_priority_decides() {
    let scene = Scene::new();
    let frame = udp(B, A, 53, 0);
    assert_eq!(scene.forward(A, &frame), (Destination::Drop(NO_MATCH), Scope::Flow));
    scene.add(&Mod::new(1, &[], &[output(port::ALL)]));
    scene.add(&Mod::new(5, &[oxm(3, &mac(B))], &[output(2)]));
    assert_eq!(scene.forward(A, &frame), (Destination::Port(B), Scope::Flow));
    let dns = [oxm(5, &[8, 0]), oxm(10, &[17]), oxm(16, &[0, 53])];
    scene.add(&Mod::new(9, &dns, &[]));
    assert_eq!(scene.goes(A, &frame), Destination::Drop(NO_OUTPUT));
    assert_eq!(scene.goes(A, &udp(B, A, 54, 0)), Destination::Port(B));
    assert_eq!(scene.goes(A, &udp(C, A, 54, 0)), Destination::All);
    scene.add(&Mod { command: 4, ..Mod::new(9, &dns, &[]) });
    assert_eq!(scene.goes(A, &frame), Destination::Port(B));
    scene.add(&Mod::new(
        11,
        &[masked(3, &[2, 0, 0, 0, 0, 0], &[0xff, 0, 0, 0, 0, 0])],
        &[output(port::NORMAL)],
    ));
    assert_eq!(scene.goes(A, &frame), Destination::Native);
    assert_eq!(scene.goes(B, &frame[..13]), Destination::All, "what cannot be read has no fields");
}

#[test]
fn of13_each_frame_is_counted_where_counts_are_exact_and_none_where_they_are_not() {
    for (mode, scope, expected) in [("exact", Scope::Frame, 3), ("none", Scope::Flow, u64::MAX)] {
        let scene = Scene::with(&json!({ "flow-counts": mode }));
        scene.call(0);
        scene.add(&Mod::new(5, &[oxm(3, &mac(B))], &[output(2)]));
        let frame = udp(B, A, 53, 0);
        for _ in 0..3 {
            let answer = scene.of.judge(&scene.sight(A, &frame), &mut Effects::default());
            assert_eq!(answer, Answer { judgement: Judgement::Pass, scope });
        }
        let mut dry = scene.sight(A, &frame);
        dry.dry = true;
        scene.of.judge(&dry, &mut Effects::default());
        let mut request = vec![0, 2, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0];
        for number in [ANY, ANY, 0] {
            put32(&mut request, number);
        }
        zeros(&mut request, 16);
        matching(&mut request, &[]);
        let said = scene.say(kind::MULTIPART_REQUEST, &request);
        let mut reader = Reader(&said[0].1[8..]);
        assert_eq!(reader.u64(), Some(expected), "{mode}");
        let bytes = if mode == "exact" { 3 * frame.len() as u64 } else { u64::MAX };
        assert_eq!((reader.u64(), reader.u32()), (Some(bytes), Some(1)), "{mode}");
    }
}

#[test]
fn of13_an_answer_stands_for_one_frame_where_an_entry_looks_at_what_flows_do_not_have_in_common() {
    let scene = Scene::new();
    scene.add(&Mod::new(1, &[], &[output(3)]));
    scene.add(&Mod::new(5, &[oxm(5, &[8, 0]), oxm(8, &[46])], &[output(2)]));
    assert_eq!(scene.forward(A, &udp(C, A, 1, 46)), (Destination::Port(B), Scope::Frame));
    assert_eq!(scene.forward(A, &udp(C, A, 1, 0)), (Destination::Port(C), Scope::Frame));
    assert_eq!(scene.forward(A, &ether(C, A, 0x88b5, &[0; 46])), (Destination::Port(C), Scope::Flow));
    scene.add(&Mod { command: 3, ..Mod::new(0, &[oxm(5, &[8, 0])], &[]) });
    assert_eq!(scene.forward(A, &udp(C, A, 1, 46)), (Destination::Port(C), Scope::Flow));
}

#[test]
fn h21_a_packet_that_cannot_be_read_does_not_pass_below_an_entry_that_looks_into_packets() {
    let scene = Scene::new();
    scene.add(&Mod::new(1, &[], &[output(2)]));
    let mut cut = udp(B, A, 53, 0);
    cut.truncate(30);
    assert_eq!(scene.goes(A, &cut), Destination::Port(B), "nobody looks");
    scene.add(&Mod::new(9, &[oxm(5, &[8, 0]), oxm(10, &[17]), oxm(16, &[0, 53])], &[]));
    assert_eq!(scene.goes(A, &cut), Destination::Drop(MALFORMED));
}

#[test]
fn of13_entries_end_when_their_time_is_over() {
    let mut scene = Scene::new();
    scene.add(&Mod { hard: 3, flags: 1, ..Mod::new(1, &[], &[output(2)]) });
    scene.add(&Mod { idle: 2, flags: 1, cookie: 9, ..Mod::new(5, &[oxm(3, &mac(C))], &[output(3)]) });
    scene.tick(SECOND);
    assert_eq!(scene.goes(A, &udp(C, A, 1, 0)), Destination::Port(C));
    let said = answers(&mut scene.tick(SECOND + SECOND / 2));
    assert!(said.is_empty(), "it was used: {said:?}");
    let mut effects = scene.tick(SECOND / 2);
    assert!(effects.take_refresh(), "kept answers stand no longer");
    let reasons: Vec<_> =
        answers(&mut effects).into_iter().map(|(kind, body)| (kind, body[10], body[7])).collect();
    assert_eq!(reasons.len(), 2);
    assert!(
        reasons.contains(&(kind::FLOW_REMOVED, 1, 0)) && reasons.contains(&(kind::FLOW_REMOVED, 0, 9)),
        "{reasons:?}"
    );
    assert_eq!(scene.goes(A, &udp(C, A, 1, 0)), Destination::Drop(NO_MATCH));
}

#[test]
fn of13_without_a_controller_the_table_stays_or_the_switch_forwards() {
    for (mode, expected) in [("secure", Destination::Port(C)), ("standalone", Destination::Native)] {
        let scene = Scene::with(&json!({ "fail-mode": mode }));
        scene.call(0);
        scene.add(&Mod::new(1, &[], &[output(3)]));
        let frame = udp(B, A, 1, 0);
        assert_eq!(scene.goes(A, &frame), Destination::Port(C));
        let mut effects = scene.hear(0, Heard::Closed("gone"));
        assert_eq!((scene.goes(A, &frame), effects.take_refresh()), (expected, mode == "standalone"));
        scene.call(0);
        assert_eq!(scene.goes(A, &frame), Destination::Port(C), "the table was kept");
    }
}

#[test]
fn of13_a_silent_controller_is_asked_and_then_given_up() {
    let mut scene = Scene::new();
    assert!(scene.tick(9 * SECOND).take_outputs().is_empty());
    assert_eq!(answers(&mut scene.tick(SECOND)), [(kind::ECHO_REQUEST, vec![])]);
    assert!(scene.tick(5 * SECOND).take_outputs().is_empty(), "once is enough");
    scene.say(kind::ECHO_REPLY, &[]);
    assert_eq!(answers(&mut scene.tick(10 * SECOND)).len(), 1);
    let outputs = scene.tick(10 * SECOND).take_outputs();
    assert!(matches!(outputs.as_slice(), [(_, Output::HangUp { peer: 0 })]), "{outputs:?}");
}

#[test]
fn of13_a_slave_may_look_and_not_touch() {
    let scene = Scene::with(&json!({ "controllers": ["tcp:192.0.2.1", "tcp:192.0.2.2"] }));
    scene.call(0);
    scene.hear(1, Heard::Opened);
    scene.hear(1, Heard::Bytes(&framed(kind::HELLO, &[])));
    let role = |role: u32, generation: u64| {
        let mut body = Vec::new();
        put32(&mut body, role);
        put32(&mut body, 0);
        put64(&mut body, generation);
        body
    };
    assert_eq!(scene.say(kind::ROLE_REQUEST, &role(2, 5))[0].0, kind::ROLE_REPLY);
    let others = answers(&mut scene.hear(1, Heard::Bytes(&framed(kind::ROLE_REQUEST, &role(2, 6)))));
    assert_eq!(others[0].1[..4], [0, 0, 0, 2], "there is one master, the newest");
    assert_eq!(scene.error(kind::FLOW_MOD, &Mod::new(1, &[], &[]).body()), (1, 10));
    assert_eq!(scene.error(kind::ROLE_REQUEST, &role(2, 5)), (11, 0), "an old claim");
    assert_eq!(scene.say(kind::BARRIER_REQUEST, &[])[0].0, kind::BARRIER_REPLY);
    assert_eq!(scene.of.watchers[0].load(Ordering::Relaxed), 0b10, "who is shown frames");
}

#[test]
fn of13_the_end_of_a_group_is_that_of_its_entries() {
    let scene = Scene::new();
    let bucket = |port: u32| {
        let mut out = vec![0, 32];
        zeros(&mut out, 14);
        out.extend_from_slice(&output(port));
        out
    };
    let group = |command: u8, kind: u8, buckets: &[Vec<u8>]| {
        [&[0, command, kind, 0, 0, 0, 0, 1][..], &buckets.concat()].concat()
    };
    let to_group = vec![0, 22, 0, 8, 0, 0, 0, 1];
    let entry = Mod { flags: 1, ..Mod::new(1, &[], &[to_group]) };
    assert_eq!(scene.error(kind::FLOW_MOD, &entry.body()), (2, 9), "there is no such group");
    assert_eq!(scene.error(kind::GROUP_MOD, &group(0, 1, &[])), (6, 10), "select is not there");
    assert!(scene.say(kind::GROUP_MOD, &group(0, 0, &[bucket(2)])).is_empty());
    scene.add(&entry);
    assert_eq!(scene.goes(A, &udp(C, A, 1, 0)), Destination::Port(B));
    assert!(scene.say(kind::GROUP_MOD, &group(1, 0, &[bucket(2), bucket(3)])).is_empty());
    assert_eq!(scene.goes(A, &udp(C, A, 1, 0)), Destination::All);
    let said = scene.say(kind::GROUP_MOD, &group(2, 0, &[]));
    assert_eq!((said[0].0, said[0].1[10]), (kind::FLOW_REMOVED, 3));
    assert_eq!(scene.goes(A, &udp(C, A, 1, 0)), Destination::Drop(NO_MATCH));
}

#[test]
fn cli_a_configuration_says_what_would_be_valid() {
    for (config, word) in [
        (json!({}), "controllers"),
        (json!({ "controllers": [], "datapath-id": "1" }), "one to 2"),
        (json!({ "controllers": ["tcp:example.com"], "datapath-id": "1" }), "tcp:192.0.2.1"),
        (json!({ "controllers": ["tcp:192.0.2.1"], "datapath-id": "xyz" }), "16 hexadecimal digits"),
        (json!({ "controllers": ["tls:192.0.2.1"], "datapath-id": "1" }), "'ca' is missing"),
        (json!({ "controllers": ["tls:192.0.2.1"], "datapath-id": "1", "ca": "a.pem" }), "absolute"),
        (json!({ "controllers": ["tcp:192.0.2.1"], "datapath-id": "1", "fail-mode": "open" }), "standalone"),
        (json!({ "controllers": ["tcp:192.0.2.1"], "datapath-id": "1", "packet-ins": 0 }), "1 to"),
        (json!({ "controllers": ["tcp:192.0.2.1"], "datapath-id": "1", "colour": 1 }), "colour"),
    ] {
        let text = Openflow::new(&config).expect_err("refused").to_string();
        assert!(text.contains(word), "{text}");
    }
    let both = json!({ "controllers": ["tcp:[2001:db8::1]", "tcp:192.0.2.1:1"], "datapath-id": "0x1" });
    let peers = Openflow::new(&both).expect("valid").peers();
    assert_eq!(peers.iter().map(|peer| peer.address.port()).collect::<Vec<_>>(), [6653, 1]);
}
