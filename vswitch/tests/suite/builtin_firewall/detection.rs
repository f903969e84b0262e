//! Scans, floods and known payloads: found, said once, blocked for a while, and never at the cost of connections that exist.

use serde_json::{Value, json};
use vswitch::Direction;
use vswitch::extension::Scope;
use vswitch::frame::protocol;

use super::{ACK, FIN, GUEST, OTHER, PEER, RST, SYN, Wall, asks, denied, open, to_guest, to_peer};
use crate::packets::{tcp, udp, v4};

fn watching(what: &str, how: &Value) -> Wall {
    let rules = json!([{ "action": "allow", "direction": "in", "protocol": "tcp", "local-ports": [80] }]);
    Wall::new(&rules, &[("intrusion", json!({ what: how }))])
}

fn syn_from(src: &str, port: u16) -> Vec<u8> {
    v4(src, GUEST, protocol::TCP, &tcp(4000, port, SYN, &[]))
}

#[test]
fn s15_a_port_scan_is_found_said_and_blocked_for_a_while() {
    let mut wall = watching("port-scan", &json!({ "ports": 10, "window": 5, "block": 30 }));
    open(&mut wall, 4000);
    for port in 100..110 {
        assert_eq!(wall.come(&syn_from(PEER, port)), denied("denied"));
        assert_eq!(wall.come(&syn_from(PEER, port)), denied("denied"), "the same port is no other");
    }
    assert_eq!(wall.come(&syn_from(PEER, 110)), denied("port-scan"));
    assert_eq!(wall.logs, ["port 1: port scan by 192.0.2.7"]);
    assert_eq!(wall.come(&syn_from(PEER, 80)), denied("port-scan"), "what is open is not, to it");
    assert!(wall.come(&syn_from(OTHER, 80)).is_ok());
    assert!(wall.come(&to_guest(80, 4000, ACK)).is_ok(), "the connection it has stays");
    let blocked = json!([{ "source": PEER, "reason": "port-scan", "seconds": 31 }]);
    assert_eq!(wall.status("blocked"), blocked);
    wall.pass(29);
    assert_eq!(wall.come(&syn_from(PEER, 80)), denied("port-scan"));
    wall.pass(2);
    assert!(wall.come(&syn_from(PEER, 80)).is_ok());
    assert_eq!(wall.logs.len(), 1);
}

#[test]
fn s15_slow_tries_answers_and_the_middle_of_connections_are_no_scan() {
    let mut wall = watching("port-scan", &json!({ "ports": 5, "window": 5 }));
    for port in 100..150 {
        assert_eq!(wall.come(&syn_from(PEER, port)), denied("denied"));
        wall.pass(2);
    }
    for port in 200..250 {
        for flags in [ACK, RST, RST | ACK, FIN | ACK, SYN | ACK] {
            assert_eq!(wall.come(&to_guest(80, port, flags)), denied("denied"));
        }
        assert!(wall.out(&to_peer(80, port, RST | ACK)).is_ok(), "it refuses what others try");
    }
    assert!(wall.logs.is_empty());
    // What only scanners send is counted, whatever it is.
    wall.pass(6);
    for port in 0..6 {
        let reason = if port < 5 { "malformed" } else { "port-scan" };
        assert_eq!(wall.come(&to_guest(4000, port, FIN | 0x28)), denied(reason));
    }
}

#[test]
fn s15_a_guest_that_scans_hosts_is_found_whatever_address_it_uses() {
    let mut wall = watching("port-scan", &json!({ "hosts": 10 }));
    for n in 0..=10 {
        let (src, dst) = (format!("10.0.0.{}", n % 3), format!("192.0.2.{n}"));
        let said = wall.out(&v4(&src, &dst, protocol::UDP, &udp(4000, 161, b"x")));
        assert_eq!(said.is_ok(), n < 10, "{n}");
    }
    assert_eq!(wall.logs, ["port 1: port scan by the guest"]);
    assert_eq!(wall.out(&v4("10.0.0.77", OTHER, protocol::UDP, &udp(1, 2, b"x"))), denied("port-scan"));
    assert!(wall.come(&syn_from(OTHER, 80)).is_ok(), "its peers are not blocked");
}

#[test]
fn s15_a_syn_flood_is_half_open_connections_of_one_source() {
    let mut wall = watching("syn-flood", &json!({ "half-open": 20, "block": 10 }));
    let from = |port: u16, flags| v4(PEER, GUEST, protocol::TCP, &tcp(port, 80, flags, &[]));
    let to = |port: u16, flags| v4(GUEST, PEER, protocol::TCP, &tcp(80, port, flags, &[]));
    // Those that are completed do not count.
    for port in 1..100 {
        assert!(wall.come(&from(port, SYN)).is_ok());
        assert!(wall.out(&to(port, SYN | ACK)).is_ok());
        assert!(wall.come(&from(port, ACK)).is_ok());
    }
    // Nor those that are reset, or forgotten.
    for port in 100..115 {
        assert!(wall.come(&from(port, SYN)).is_ok());
        assert!(wall.out(&to(port, RST | ACK)).is_ok());
    }
    for port in 115..130 {
        assert!(wall.come(&from(port, SYN)).is_ok());
    }
    wall.pass(35);
    assert_eq!(wall.status("half-open"), 0);
    for port in 200..220 {
        assert_eq!(wall.come(&from(port, SYN)), Ok(Scope::Second), "{port}");
    }
    assert_eq!(wall.come(&from(220, SYN)), denied("syn-flood"));
    assert!(wall.come(&from(5, ACK)).is_ok());
    assert!(wall.come(&syn_from(OTHER, 80)).is_ok());
    assert_eq!(wall.logs, ["port 1: SYN flood: more than 20 half-open connections of 192.0.2.7"]);
}

#[test]
fn s15_a_known_payload_ends_its_connection() {
    let payloads = json!([{ "name": "worm", "hex": "cafeBABE", "protocol": "tcp", "block": 20 }]);
    let mut wall = watching("payloads", &payloads);
    let carrying = |port: u16, payload: &[u8]| v4(PEER, GUEST, protocol::TCP, &tcp(80, port, ACK, payload));
    open(&mut wall, 4000);
    open(&mut wall, 4001);
    assert_eq!(wall.come(&carrying(4000, b"xx\xca\xfe\xba\xbe")), Ok(Scope::Frame), "not at its beginning");
    assert_eq!(wall.come(&carrying(4000, b"\xca\xfe\xba\xbe and more")), denied("known-payload"));
    assert_eq!(wall.come(&carrying(4000, b"x")), denied("known-payload"), "there is no connection any more");
    assert!(wall.come(&carrying(4001, b"x")).is_ok(), "another stays");
    assert_eq!(wall.logs, ["port 1: payload 'worm' from 192.0.2.7"]);
    wall.pass(21);
    assert_eq!(wall.come(&carrying(4000, b"x")), denied("denied"));
    let datagram = v4(GUEST, PEER, protocol::UDP, &udp(4000, 53, b"\xca\xfe\xba\xbe"));
    assert!(wall.out(&datagram).is_ok(), "another protocol");
}

#[test]
fn s15_payloads_are_inspected_until_the_first_few_of_each_direction_were_seen() {
    let mut wall = watching("payloads", &json!([{ "name": "worm", "hex": "cafebabe" }]));
    let carrying = |payload: &[u8]| v4(PEER, GUEST, protocol::TCP, &tcp(80, 4000, ACK, payload));
    open(&mut wall, 4000);
    for _ in 0..10 {
        assert_eq!(wall.come(&to_guest(80, 4000, ACK)), Ok(Scope::Frame), "no payload, though padded");
    }
    let scopes: Vec<_> = (0..6).map(|_| wall.come(&carrying(&[7; 100])).expect("it passes")).collect();
    let (each, second) = (Scope::Frame, Scope::Second);
    assert_eq!(scopes, [each, each, each, each, second, second]);
    assert_eq!(wall.out(&to_peer(4000, 80, ACK)), Ok(Scope::Frame), "the other direction for itself");
}

#[test]
fn s15_lines_for_the_operator_are_few_and_tell_of_those_left_out() {
    let mut wall = watching("payloads", &json!([{ "name": "worm", "hex": "cafebabe", "block": 0 }]));
    let bad = |n: u16| v4(OTHER, GUEST, protocol::UDP, &udp(n, 53, b"\xca\xfe\xba\xbe"));
    for n in 0..1000 {
        assert_eq!(wall.come(&bad(n)), denied("known-payload"));
    }
    assert_eq!(wall.logs.len(), 1);
    wall.pass(1);
    assert_eq!(wall.come(&bad(1)), denied("known-payload"));
    assert_eq!(wall.logs[1], "port 1: payload 'worm' from 198.51.100.9 (999 more like this)");
    assert_eq!(wall.status("blocked"), json!([]), "nobody is blocked for no time");
}

#[test]
fn s15_sources_are_bounded_and_a_block_outlives_a_crowd() {
    let mut wall = watching("port-scan", &json!({ "ports": 3, "block": 600 }));
    for port in 100..104 {
        let _ = wall.come(&syn_from(PEER, port));
    }
    assert_eq!(wall.come(&syn_from(PEER, 80)), denied("port-scan"));
    for n in 0..20_000_u32 {
        let src = std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string();
        assert_eq!(wall.come(&syn_from(&src, 100)), denied("denied"));
    }
    assert_eq!(wall.come(&syn_from(PEER, 80)), denied("port-scan"));
}

#[test]
fn s15_whoever_only_asks_is_no_scanner() {
    let mut wall = watching("port-scan", &json!({ "ports": 3 }));
    for port in 100..150 {
        assert_eq!(wall.at(1, Direction::In, &syn_from(PEER, port), true), denied("denied"));
        assert!(wall.at(1, Direction::Out, &asks(port, port), true).is_ok());
    }
    assert!(wall.come(&syn_from(PEER, 80)).is_ok());
    assert!(wall.logs.is_empty());
}
