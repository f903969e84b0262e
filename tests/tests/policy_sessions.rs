//! Sessions of stateful rules (rule book, section 8; H29): the reverse direction passes, nothing else does, and not for ever.

use std::time::{Duration, Instant};

use turnpike_tests::frame::tcp;
use turnpike_tests::lan::{mac, v4};
use turnpike_tests::{Frame, Lan};

/// `a` (number 1) may open what the rule allows; all else is denied in both directions.
fn walled(allowed: &str) -> Lan {
    let lan = Lan::new(&[("a", ""), ("b", ""), ("c", "")]);
    for direction in ["in", "out"] {
        lan.run(&format!("rule add a --action deny --direction {direction} --weight 1"));
    }
    lan.run(&format!("rule add a --action allow --weight 10 --stateful {allowed}"));
    lan
}

fn to_b() -> Frame {
    Frame::new(mac(2), mac(1)).ipv4()
}

fn to_a() -> Frame {
    Frame::new(mac(1), mac(2)).ipv4()
}

const SYN: u8 = tcp::SYN;
const SYN_ACK: u8 = tcp::SYN | tcp::ACK;

fn flags(frame: Frame, flags: u8) -> Vec<u8> {
    frame.tcp_seq(1, flags).build()
}

fn sessions(lan: &Lan) -> Vec<serde_json::Value> {
    lan.switch.json(&["session", "list", "a"]).as_array().expect("a list").clone()
}

/// Opens a TCP connection from `a`, port 1000, to `b`, port 80.
fn open(lan: &mut Lan) {
    lan.passes("a", "b", &flags(to_b().tcp(1000, 80), SYN));
    lan.passes("b", "a", &flags(to_a().tcp(80, 1000), SYN_ACK));
    lan.passes("a", "b", &flags(to_b().tcp(1000, 80), tcp::ACK));
}

#[test]
fn s8_only_the_reverse_direction_of_a_session_passes() {
    let mut lan = walled("--direction out --protocol tcp");
    let answer = flags(to_a().tcp(80, 1000), tcp::ACK);
    lan.dropped("b", &answer, ("a", "in"), "rule-denied");
    lan.dropped("b", &flags(to_a().tcp(80, 1000), SYN), ("a", "in"), "rule-denied");
    open(&mut lan);
    lan.passes("b", "a", &answer);
    // Near it, nothing.
    for near in [
        to_a().tcp(81, 1000),
        to_a().tcp(80, 1001),
        to_a().udp(80, 1000),
        to_a().from_ip(v4(3)).tcp(80, 1000),
        to_a().to_ip(v4(9)).tcp(80, 1000),
        Frame::new(mac(1), mac(2)).ipv6().tcp(80, 1000),
    ] {
        lan.dropped("b", &near.build(), ("a", "in"), "rule-denied");
    }
    assert_eq!(sessions(&lan).len(), 1);
    // What the rule does not allow opens nothing.
    lan.dropped("a", &to_b().udp(1000, 80).build(), ("a", "out"), "rule-denied");
}

#[test]
fn s8_sessions_open_inwards_too() {
    let mut lan = walled("--direction in --protocol tcp --local-port 443");
    lan.dropped("a", &flags(to_b().tcp(443, 5000), SYN_ACK), ("a", "out"), "rule-denied");
    lan.passes("b", "a", &flags(to_a().tcp(5000, 443), SYN));
    lan.passes("a", "b", &flags(to_b().tcp(443, 5000), SYN_ACK));
    lan.passes("b", "a", &flags(to_a().tcp(5000, 443), tcp::ACK));
    lan.dropped("a", &flags(to_b().tcp(443, 5001), SYN_ACK), ("a", "out"), "rule-denied");
    lan.dropped("a", &flags(to_b().tcp(5000, 443), SYN), ("a", "out"), "rule-denied");
}

#[test]
fn s8_a_stateless_allow_opens_nothing() {
    let mut lan = walled("--direction out --protocol tcp");
    lan.run("rule add a --action allow --direction out --weight 20 --protocol udp");
    lan.passes("a", "b", &to_b().udp(1, 2).build());
    lan.dropped("b", &to_a().udp(2, 1).build(), ("a", "in"), "rule-denied");
    assert!(sessions(&lan).is_empty());
}

#[test]
fn s8_udp_sessions_end_when_nothing_passed_for_the_idle_timeout() {
    let mut lan = walled("--direction out --protocol udp --idle-timeout 1s");
    let (question, answer) = (to_b().udp(1000, 53).build(), to_a().udp(53, 1000).build());
    lan.passes("a", "b", &question);
    // Traffic in either direction keeps it.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1600) {
        std::thread::sleep(Duration::from_millis(300));
        lan.passes("b", "a", &answer);
    }
    assert_eq!(sessions(&lan).len(), 1);
    std::thread::sleep(Duration::from_millis(1400));
    lan.dropped("b", &answer, ("a", "in"), "rule-denied");
    assert!(turnpike_tests::eventually(|| sessions(&lan).is_empty()), "an expired session is listed");
    lan.passes("a", "b", &question);
    lan.passes("b", "a", &answer);
}

#[test]
fn s8_a_heavier_deny_ends_a_running_session_at_once() {
    let mut lan = walled("--direction out --protocol tcp");
    open(&mut lan);
    let (there, back) = (flags(to_b().tcp(1000, 80), tcp::ACK), flags(to_a().tcp(80, 1000), tcp::ACK));
    lan.run("rule add a --action deny --direction out --weight 50 --remote 10.0.0.2");
    lan.dropped("a", &there, ("a", "out"), "rule-denied");
    lan.dropped("b", &back, ("a", "in"), "rule-denied");
    lan.run("rule remove a --direction out --weight 50");
    lan.dropped("b", &back, ("a", "in"), "rule-denied");
    lan.passes("a", "b", &there);
    lan.passes("b", "a", &back);
    // The rule itself goes: so does what it opened.
    lan.run("rule remove a --direction out --weight 10");
    lan.dropped("b", &back, ("a", "in"), "rule-denied");
    lan.dropped("a", &there, ("a", "out"), "rule-denied");
    assert!(sessions(&lan).is_empty());
}

#[test]
fn s8_a_change_elsewhere_leaves_a_session_alone() {
    let mut lan = walled("--direction out --protocol tcp");
    open(&mut lan);
    lan.run("rule add a --action deny --direction out --weight 50 --remote 10.0.0.77");
    lan.run("rule add b --action deny --direction in --weight 50 --remote 10.0.0.77");
    lan.set("c", "--vlan access:7");
    lan.passes("b", "a", &flags(to_a().tcp(80, 1000), tcp::ACK));
    assert_eq!(sessions(&lan).len(), 1);
}

#[test]
fn s7_an_acl_binds_sessions_too() {
    let mut lan = walled("--direction out --protocol tcp");
    open(&mut lan);
    lan.run("acl add a --action deny --direction in --remote 10.0.0.2");
    lan.dropped("b", &flags(to_a().tcp(80, 1000), tcp::ACK), ("a", "in"), "acl-denied");
    lan.passes("a", "b", &flags(to_b().tcp(1000, 80), tcp::ACK));
}

#[test]
fn s8_a_flush_ends_all_sessions_of_a_port() {
    let mut lan = walled("--direction out --protocol tcp");
    for port in 1000..1020 {
        lan.passes("a", "b", &flags(to_b().tcp(port, 80), SYN));
        lan.passes("b", "a", &flags(to_a().tcp(80, port), SYN_ACK));
    }
    let list = sessions(&lan);
    assert_eq!(list.len(), 20);
    assert!(list.iter().all(|s| s.to_string().contains("10.0.0.2")), "{list:?}");
    lan.run("session flush a");
    assert!(sessions(&lan).is_empty());
    for port in 1000..1020 {
        let heard = lan.send("b", &flags(to_a().tcp(80, port), tcp::ACK));
        assert!(heard.0.is_empty(), "the session of port {port} outlived the flush");
    }
}

#[test]
fn s8_a_half_open_session_admits_answers_only() {
    let mut lan = walled("--direction out --protocol tcp");
    lan.passes("a", "b", &flags(to_b().tcp(1000, 80), SYN));
    let heard = lan.send("b", &flags(to_a().tcp(80, 1000), SYN));
    assert!(heard.0.is_empty(), "the peer opened a connection of its own through a half-open session");
    lan.passes("b", "a", &flags(to_a().tcp(80, 1000), SYN_ACK));
}

#[test]
fn s8_both_ends_may_be_stateful() {
    let mut lan = walled("--direction out --protocol tcp");
    for direction in ["in", "out"] {
        lan.run(&format!("rule add b --action deny --direction {direction} --weight 1"));
    }
    let syn = flags(to_b().tcp(1000, 80), SYN);
    lan.dropped("a", &syn, ("b", "in"), "rule-denied");
    lan.run("rule add b --action allow --direction in --weight 10 --stateful --protocol tcp --local-port 80");
    open(&mut lan);
    lan.passes("b", "a", &flags(to_a().tcp(80, 1000), tcp::ACK));
    assert!(lan.send("b", &flags(to_a().tcp(81, 1000), tcp::ACK)).0.is_empty());
}

#[test]
fn h29_a_flood_of_syns_costs_a_neighbour_nothing() {
    let mut lan = walled("--direction out --protocol tcp");
    lan.run("rule add c --action deny --direction in --weight 1");
    lan.run("rule add c --action allow --direction out --weight 10 --stateful --protocol tcp");
    open(&mut lan);
    let flood: Vec<Vec<u8>> = (0..30_000u32)
        .map(|n| {
            let [_, hi, mid, lo] = n.to_be_bytes();
            flags(Frame::new(mac(2), mac(3)).ipv4().to_ip([10, 1 + hi, mid, lo]).tcp(1000, 80), SYN)
        })
        .collect();
    let _ = lan.send_all("c", &flood);
    lan.passes("b", "a", &flags(to_a().tcp(80, 1000), tcp::ACK));
    lan.passes("a", "b", &flags(to_b().tcp(1000, 80), tcp::ACK));
    lan.passes("a", "b", &flags(to_b().tcp(1001, 80), SYN));
    let held = lan.switch.json(&["session", "list", "c"]).as_array().map_or(0, Vec::len);
    assert!((64..=131_072 / 8).contains(&held), "port c holds {held} sessions");
}

#[test]
fn s8_sessions_pass_on_every_worker() {
    let mut lan = Lan::new(&[]);
    lan.add("a", "", turnpike_tests::Options::default().pairs(4).ring_size(64));
    lan.add("b", "", turnpike_tests::Options::default().pairs(4).ring_size(64));
    lan.run("rule add a --action deny --direction in --weight 1");
    lan.run("rule add a --action allow --direction out --weight 10 --stateful --protocol udp");
    for round in 0..40u16 {
        let pair = usize::from(round % 4);
        let there = to_b().udp(2000 + round, 80).build();
        assert_eq!(lan.send_on("a", pair, turnpike_tests::NetHdr::default(), &there).by(), ["b"]);
        for back_pair in 0..4 {
            let back = to_a().udp(80, 2000 + round).build();
            let heard = lan.send_on("b", back_pair, turnpike_tests::NetHdr::default(), &back);
            assert_eq!(heard.by(), ["a"], "opened by queue {pair}, answered by queue {back_pair}");
        }
    }
    assert_eq!(sessions(&lan).len(), 40);
    lan.run("session flush a");
    for back_pair in 0..4 {
        let back = to_a().udp(80, 2000).build();
        assert!(lan.send_on("b", back_pair, turnpike_tests::NetHdr::default(), &back).0.is_empty());
    }
}
