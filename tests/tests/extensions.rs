//! What extensions do to frames, through the real switch: modules that change, add, drop and fail, sFlow and the firewall.

use std::net::UdpSocket;
use std::time::Duration;

use turnpike_tests::extension::{module, module_with};
use turnpike_tests::features::{MRG_RXBUF, RECEIVE_OFFLOADS, SEND_OFFLOADS};
use turnpike_tests::frame::pattern;
use turnpike_tests::lan::mac;
use turnpike_tests::{Frame, Lan, Options, eventually};

const PORTS: [(&str, &str); 3] = [("a", ""), ("b", ""), ("c", "")];

fn udp(to: u8, len: usize) -> Frame {
    Frame::new(mac(to), mac(1)).ipv4().udp(1000, 80).payload(&pattern(len, 7))
}

/// A counter of an extension.
fn counter(lan: &Lan, name: &str, counter: &str) -> u64 {
    let show = lan.switch.json(&["extension", "show", name]);
    show["counters"][counter].as_u64().unwrap_or_else(|| panic!("no {counter} in {show}"))
}

fn enable(lan: &Lan, name: &str, module: &[u8], more: &str) {
    lan.switch.load_extension(name, module);
    lan.run(&format!("extension enable {name} {more}"));
}

/// What is sent to the guest `b` gets the address of `c` in the module's memory, each frame for itself.
const TO_C: &str = "
    (if (i32.eq (i32.load8_u offset=47 (local.get 0)) (i32.const 2))
        (then (i32.store8 offset=47 (local.get 0) (i32.const 3)) (return (i32.const 0x22))))
    (i32.const 0x20)";

#[test]
fn s15_2_a_changed_frame_goes_where_it_now_says_whole_and_with_what_lies_beyond_the_head() {
    let mut lan = Lan::new(&PORTS);
    enable(&lan, "divert", &module(2, "", TO_C), "");
    for len in [20, 1400] {
        let mut frame = udp(2, len).build();
        let heard = lan.send("a", &frame);
        assert_eq!(heard.by(), ["c"]);
        frame[5] = 3;
        assert_eq!(heard.only("c").frame, frame);
        lan.passes("a", "c", &udp(3, len).build());
    }
    assert_eq!(counter(&lan, "divert", "replaced"), 2);
    lan.run("extension disable divert");
    lan.passes("a", "b", &udp(2, 1400).build());
}

#[test]
fn s15_2_a_changed_frame_that_contradicts_its_offload_is_dropped() {
    let mut lan = Lan::new(&[]);
    lan.add("a", "", Options::plain().with(SEND_OFFLOADS));
    lan.add("b", "", Options::plain().with(RECEIVE_OFFLOADS | MRG_RXBUF));
    // The IP version becomes 0.
    let garbage = "(i32.store8 offset=56 (local.get 0) (i32.const 0)) (i32.const 0x22)";
    enable(&lan, "garbage", &module(2, "", garbage), "");
    let (header, frame) =
        Frame::new(mac(2), mac(1)).ipv4().tcp(1, 2).payload(&pattern(5000, 1)).build_large(1000);
    let heard = lan.send_with("a", header, &frame);
    assert!(heard.0.is_empty(), "{:?} received it", heard.by());
    assert_eq!(lan.switch.drops("a", "out", "bad-offload"), 5, "as many as it would be on a wire");
    lan.run("extension disable garbage");
    assert_eq!(lan.send_with("a", header, &frame).by(), ["b"]);
}

#[test]
fn s15_2_an_added_frame_is_its_ports_own_and_begets_no_others() {
    let mut lan = Lan::new(&PORTS);
    let import = r#"(import "turnpike" "tp_inject" (func $inject (param i32 i32 i32) (result i32)))"#;
    let twice = "
        (drop (call $inject (i32.load16_u offset=28 (local.get 0)) (i32.add (local.get 0) (i32.const 42))
            (i32.load offset=20 (local.get 0))))
        (i32.const 0x20)";
    enable(&lan, "twice", &module(2, import, twice), "");
    let frame = udp(2, 60).build();
    let mut got = lan.send("a", &frame).0;
    assert!(eventually(|| {
        got.extend(lan.heard().0);
        got.len() >= 2
    }));
    std::thread::sleep(Duration::from_millis(50));
    got.extend(lan.heard().0);
    assert_eq!(got.len(), 2, "the frame and its copy");
    assert!(got.iter().all(|(by, received)| by == "b" && received.frame == frame));
    assert_eq!(counter(&lan, "twice", "injected"), 1);
    assert_eq!(lan.switch.counter("a", "out_packets"), 2, "the port's policy and counters saw both");
}

const INJECT: &str = r#"(import "turnpike" "tp_inject" (func $inject (param i32 i32 i32) (result i32)))"#;

/// Adds a copy of the frame at hand, as a port's.
fn adding(port: &str) -> String {
    format!(
        "(drop (call $inject {port} (i32.add (local.get 0) (i32.const 42)) (i32.load offset=20 (local.get 0))))
         (i32.const 0x20)"
    )
}

/// All that is received, once everything has come to rest.
fn all_heard(lan: &mut Lan, first: turnpike_tests::lan::Heard, least: usize) -> Vec<String> {
    let mut by: Vec<String> = first.0.into_iter().map(|(by, _)| by).collect();
    let mut listen = |by: &mut Vec<String>| by.extend(lan.heard().0.into_iter().map(|(by, _)| by));
    assert!(eventually(|| {
        listen(&mut by);
        by.len() >= least
    }));
    std::thread::sleep(Duration::from_millis(50));
    listen(&mut by);
    by
}

#[test]
fn s15_2_who_copies_what_comes_to_a_port_is_not_shown_its_own_copies() {
    let mut lan = Lan::new(&PORTS);
    let both = r#"(func (export "tp_judges") (param i32) (result i32) (i32.const 1))"#;
    let inward = format!(
        "(if (i32.eqz (i32.load8_u offset=34 (local.get 0))) (then (return (i32.const 0x20)))) {}",
        adding("(i32.load16_u offset=30 (local.get 0))")
    );
    for name in ["one", "two"] {
        enable(&lan, name, &module_with(2, INJECT, &inward, both), "");
    }
    let first = lan.send("a", &udp(2, 60).build());
    // The frame, a copy of it by each, and of each copy one by the other.
    assert_eq!(all_heard(&mut lan, first, 5), ["b"; 5]);
    assert_eq!(["one", "two"].map(|name| counter(&lan, name, "injected")), [2, 2]);
    assert_eq!(lan.switch.counter("c", "in_packets"), 0);
}

#[test]
fn s15_2_a_frame_of_nobody_passes_its_senders_policy_by_and_not_its_receivers() {
    let mut lan = Lan::new(&PORTS);
    enable(&lan, "trusted", &module(2, INJECT, &adding("(i32.const 0)")), "");
    lan.run("acl add a --action deny --direction out --remote any-mac");
    let frame = udp(2, 60).build();
    let first = lan.send("a", &frame);
    assert_eq!(all_heard(&mut lan, first, 1), ["b"], "of two frames that which is nobody's");
    assert_eq!((lan.switch.counter("a", "out_packets"), lan.switch.drops("a", "out", "acl-denied")), (0, 1));
    lan.run("acl add b --action deny --direction in --remote any-mac");
    assert!(lan.send("a", &frame).0.is_empty());
    assert!(eventually(|| lan.switch.drops("b", "in", "acl-denied") == 1));
    // A flood comes to all, the port too whose frame it was.
    let mut everybody = frame.clone();
    everybody[..6].fill(0xff);
    let first = lan.send("a", &everybody);
    let mut by = all_heard(&mut lan, first, 2);
    by.sort();
    assert_eq!(by, ["a", "c"]);
    assert_eq!(counter(&lan, "trusted", "injected"), 3);
}

#[test]
fn what_fails_ends_alone_and_frames_pass_or_end_as_it_was_enabled() {
    let loops = "(loop $again (br $again)) (i32.const 0)";
    for (name, body) in [("trap", "(unreachable)"), ("loop", loops), ("lie", "(i32.const 0x901)")] {
        let mut lan = Lan::new(&PORTS);
        enable(&lan, name, &module(2, "", body), "");
        lan.passes("a", "b", &udp(2, 60).build());
        assert!(eventually(|| lan.run("events").contains("extension-failed")), "{}", lan.run("events"));
        let show = lan.run(&format!("extension show {name}"));
        assert!(show.contains("tp_judge") || name == "lie", "{show}");
        lan.run(&format!("extension disable {name}"));
        lan.run(&format!("extension enable {name} --fail closed"));
        lan.dropped("a", &udp(2, 60).build(), ("a", "out"), "extension-failed");
        lan.dropped("a", &udp(2, 60).build(), ("a", "out"), "extension-failed");
        lan.run(&format!("extension disable {name}"));
        lan.passes("a", "b", &udp(2, 60).build());
    }
}

#[test]
fn s19_samples_and_counters_reach_the_collector() {
    let collector = UdpSocket::bind("127.0.0.1:0").expect("a collector");
    collector.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
    let mut lan = Lan::new(&PORTS);
    let config = lan.switch.dir().join("sflow.json");
    let address = collector.local_addr().expect("an address");
    let text = format!(r#"{{"collector": "{address}", "agent": "192.0.2.1", "sampling": 4, "polling": 1}}"#);
    std::fs::write(&config, text).expect("written");
    lan.run(&format!("extension enable sflow --config {}", config.display()));
    let frames: Vec<_> = (0..400).map(|n| udp(2, 60 + n % 9).build()).collect();
    assert_eq!(lan.send_all("a", &frames).0.len(), 400);
    let (mut flows, mut ports, mut space) = (0, 0, [0; 2048]);
    while flows == 0 || ports == 0 {
        let len = collector.recv(&mut space).expect("a datagram within 5 s");
        let word = |at: usize| u32::from_be_bytes(space[at..at + 4].try_into().expect("four bytes"));
        assert_eq!((word(0), word(4)), (5, 1), "version and family of the agent");
        assert_eq!(space[8..12], [192, 0, 2, 1]);
        assert!(len <= 1400, "{len}");
        let mut at = 28;
        for _ in 0..word(24) {
            match word(at) {
                1 => flows += 1,
                2 => ports += 1,
                other => panic!("a sample of type {other}"),
            }
            at += 8 + word(at + 4) as usize;
        }
        assert_eq!(at, len, "samples fill the datagram");
    }
    let sampled = counter(&lan, "sflow", "sampled");
    assert!((50..200).contains(&sampled), "{sampled} of 400, one in 4");
}

#[test]
fn s15_the_firewall_lets_answers_in_and_nothing_else() {
    let mut lan = Lan::new(&PORTS);
    let config = lan.switch.dir().join("firewall.json");
    std::fs::write(&config, r#"{"default": {"out": "allow", "in": "deny"}, "sets": {"closed": []}}"#)
        .expect("written");
    lan.run(&format!("extension enable firewall --config {}", config.display()));
    lan.run(r#"extension set firewall --port b sets=["closed"]"#);
    let ask =
        |from: u8, to: u8| Frame::new(mac(to), mac(from)).ipv4().udp(1000, 53).payload(&[1; 20]).build();
    let answer =
        |from: u8, to: u8| Frame::new(mac(to), mac(from)).ipv4().udp(53, 1000).payload(&[2; 20]).build();
    lan.dropped("a", &answer(1, 2), ("b", "in"), "extension-filtered");
    lan.passes("b", "a", &ask(2, 1));
    lan.passes("a", "b", &answer(1, 2));
    lan.dropped("c", &answer(3, 2), ("b", "in"), "extension-filtered");
    lan.run("extension disable firewall");
    lan.passes("c", "b", &answer(3, 2));
}

#[test]
fn s15_1_no_frame_is_judged_by_half_a_stack_while_extensions_come_and_go() {
    let mut lan = Lan::new(&PORTS);
    // Each marks the frame in a byte of its own; together they say which of them a frame met.
    let mark = |at: u32, scope: u32| {
        let body = format!("(i32.store8 offset={at} (local.get 0) (i32.const 0xaa)) (i32.const {scope})");
        module(2, "", &body)
    };
    // Bytes 46 and 47 of the frame: its payload.
    lan.switch.load_extension("one", &mark(42 + 46, 0x22));
    lan.switch.load_extension("two", &mark(42 + 47, 0x22));
    lan.run("extension enable one");
    let (mut sender, mut met) = (lan.take("a"), std::collections::BTreeMap::new());
    let frame = Frame::new(mac(2), mac(1)).payload(&[0; 50]).build();
    for round in 0..40 {
        let command = if round % 2 == 0 { "extension enable two" } else { "extension disable two" };
        std::thread::scope(|scope| {
            let switch = &lan.switch;
            let words: Vec<&str> = command.split(' ').collect();
            let change = scope.spawn(move || switch.ok(&words));
            while !change.is_finished() {
                sender.send_all(&vec![frame.clone(); 50]);
                assert!(sender.flush(turnpike_tests::PATIENCE));
            }
        });
        let after = if round % 2 == 0 { (true, true) } else { (true, false) };
        for (_, received) in lan.heard().0 {
            *met.entry((received.frame[46] == 0xaa, received.frame[47] == 0xaa)).or_insert(0u32) += 1;
        }
        sender.send(&frame);
        assert!(sender.flush(turnpike_tests::PATIENCE));
        let heard = lan.heard();
        let last = &heard.only("b").frame;
        assert_eq!((last[46] == 0xaa, last[47] == 0xaa), after, "the first frame after the command");
    }
    assert!(
        met.keys().all(|&(one, _)| one),
        "a frame missed the extension that was enabled all the time: {met:?}"
    );
    assert!(met.len() == 2, "frames met each of the two stacks: {met:?}");
}
