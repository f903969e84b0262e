//! What belongs to a connection passes, nothing else does, and it ends.

use serde_json::json;
use vswitch::extension::{Change, Scope};
use vswitch::frame::protocol;
use vswitch::{Direction, PortId};

use super::{ACK, FIN, GUEST, OTHER, PEER, RST, SYN, Wall, answers, asks, denied, open, to_guest, to_peer};
use crate::packets::{icmp, tcp, udp, v4, v4_piece, v6};

fn plain() -> Wall {
    Wall::new(&json!([]), &[])
}

#[test]
fn s15_what_was_allowed_out_is_answered_and_nothing_else_comes_in() {
    let mut wall = plain();
    assert_eq!(wall.come(&to_guest(80, 4000, SYN)), denied("denied"));
    assert_eq!(wall.come(&to_guest(80, 4000, SYN | ACK)), denied("denied"));
    assert_eq!(wall.come(&to_guest(80, 4000, ACK)), denied("denied"));
    open(&mut wall, 4000);
    assert_eq!(wall.come(&to_guest(80, 4000, ACK)), Ok(Scope::Second));
    assert_eq!(wall.come(&to_guest(80, 4001, ACK)), denied("denied"), "another port");
    assert_eq!(wall.come(&to_guest(81, 4000, ACK)), denied("denied"), "another port of the peer");
    let stranger = v4(OTHER, GUEST, protocol::TCP, &tcp(80, 4000, ACK, &[]));
    assert_eq!(wall.come(&stranger), denied("denied"), "another peer");
    assert_eq!(wall.come(&answers(80, 4000)), denied("denied"), "another protocol");
    assert_eq!(wall.come(&to_guest(80, 4000, SYN)), denied("denied"), "a connection of the peer's own");
}

#[test]
fn s15_udp_is_answered_until_it_is_silent() {
    let mut wall = plain();
    assert_eq!(wall.come(&answers(53, 4000)), denied("denied"));
    assert_eq!(wall.out(&asks(4000, 53)), Ok(Scope::Second));
    for _ in 0..3 {
        assert_eq!(wall.come(&answers(53, 4000)), Ok(Scope::Second));
        wall.pass(59);
    }
    wall.pass(2);
    assert_eq!(wall.come(&answers(53, 4000)), denied("denied"));
    assert_eq!(wall.status("connections"), 0, "it is not kept either");
}

#[test]
fn s15_a_tcp_connection_ends_with_a_reset() {
    for from_guest in [true, false] {
        let mut wall = plain();
        open(&mut wall, 4000);
        if from_guest {
            assert!(wall.out(&to_peer(4000, 80, RST)).is_ok());
        } else {
            assert!(wall.come(&to_guest(80, 4000, RST | ACK)).is_ok());
        }
        assert_eq!(wall.come(&to_guest(80, 4000, ACK)), denied("denied"));
        assert_eq!(wall.status("connections"), 0);
    }
}

#[test]
fn s15_a_tcp_connection_ends_when_both_sides_have_finished() {
    let mut wall = plain();
    open(&mut wall, 4000);
    assert!(wall.out(&to_peer(4000, 80, FIN | ACK)).is_ok());
    wall.pass(60);
    assert!(wall.come(&to_guest(80, 4000, ACK)).is_ok(), "half closed is open");
    assert!(wall.come(&to_guest(80, 4000, FIN | ACK)).is_ok());
    assert!(wall.out(&to_peer(4000, 80, ACK)).is_ok());
    // Sending on does not keep it.
    for _ in 0..3 {
        wall.pass(3);
        assert!(wall.come(&to_guest(80, 4000, ACK)).is_ok());
    }
    wall.pass(2);
    assert_eq!(wall.come(&to_guest(80, 4000, ACK)), denied("denied"));
}

#[test]
fn s15_how_long_silence_may_last_depends_on_how_far_a_connection_is() {
    let mut wall = Wall::new(&json!([]), &[("timeouts", json!({ "tcp": 600, "opening": 20 }))]);
    assert!(wall.out(&to_peer(1, 80, SYN)).is_ok());
    open(&mut wall, 2);
    wall.pass(19);
    assert_eq!(wall.status("half-open"), 1);
    wall.pass(2);
    assert_eq!(wall.come(&to_guest(80, 1, SYN | ACK)), denied("denied"));
    wall.pass(578);
    assert!(wall.come(&to_guest(80, 2, ACK)).is_ok());
    wall.pass(601);
    assert_eq!(wall.come(&to_guest(80, 2, ACK)), denied("denied"));
}

#[test]
fn s15_a_connection_may_be_met_in_its_middle_by_the_side_that_may_open_it() {
    let mut wall = plain();
    assert!(wall.out(&to_peer(4000, 80, ACK)).is_ok());
    assert!(wall.come(&to_guest(80, 4000, ACK)).is_ok());
    // Resets, and answers to openings that nobody saw, open nothing.
    assert!(wall.out(&to_peer(4001, 80, RST)).is_ok());
    assert_eq!(wall.out(&to_peer(4001, 80, SYN | ACK)), denied("denied"));
    assert_eq!(wall.come(&to_guest(80, 4001, ACK)), denied("denied"));
}

#[test]
fn s15_segments_that_no_honest_sender_makes_end() {
    let mut wall = Wall::new(&json!([{ "action": "allow", "direction": "in" }]), &[]);
    for flags in [0, FIN, SYN | FIN, SYN | RST, FIN | 0x28] {
        assert_eq!(wall.come(&to_guest(80, 4000, flags)), denied("malformed"), "{flags:#x}");
    }
    open(&mut wall, 4000);
    assert_eq!(wall.come(&to_guest(80, 4000, SYN | FIN)), denied("malformed"));
}

#[test]
fn s15_a_forged_opening_does_not_weaken_a_connection_in_use() {
    let mut wall = Wall::new(&json!([{ "action": "allow", "direction": "in" }]), &[]);
    open(&mut wall, 4000);
    assert!(wall.out(&to_peer(4000, 80, SYN)).is_ok());
    assert!(wall.come(&to_guest(80, 4000, SYN)).is_ok());
    assert_eq!(wall.status("half-open"), 0);
    assert_eq!(wall.status("connections"), 1);
}

#[test]
fn s15_icmp_goes_by_its_request_and_errors_by_what_they_quote() {
    let mut wall = plain();
    let echo = |src, dst, kind, id: u16| {
        let [high, low] = id.to_be_bytes();
        v4(src, dst, protocol::ICMP, &icmp(kind, &[high, low, 0, 1]))
    };
    assert_eq!(wall.come(&echo(PEER, GUEST, 0, 7)), denied("denied"));
    assert_eq!(wall.out(&echo(GUEST, PEER, 8, 7)), Ok(Scope::Frame), "the cache knows no identifiers");
    assert_eq!(wall.come(&echo(PEER, GUEST, 0, 7)), Ok(Scope::Frame));
    assert_eq!(wall.come(&echo(PEER, GUEST, 0, 8)), denied("denied"), "another request's");
    assert_eq!(wall.come(&echo(PEER, GUEST, 8, 7)), denied("denied"), "a request of its own");
    // A router on the way says that a packet was too big.
    let about = |packet: &[u8]| v4(OTHER, GUEST, protocol::ICMP, &icmp(3, &[&[0, 0, 5, 0], packet].concat()));
    assert_eq!(wall.come(&about(&asks(4000, 53))), denied("denied"));
    assert!(wall.out(&asks(4000, 53)).is_ok());
    assert_eq!(wall.come(&about(&asks(4000, 53))), Ok(Scope::Frame));
    assert_eq!(wall.come(&about(&answers(53, 4000))), denied("denied"), "no packet of the guest");
    assert_eq!(wall.come(&about(&asks(4000, 53)[..22])), denied("denied"), "too little of it");
    assert_eq!(wall.come(&about(&asks(4001, 53))), denied("denied"));
    let (guest, peer) = ("fd00::1", "fd00::2");
    let question = v6(guest, peer, protocol::UDP, &udp(4000, 53, b"q"));
    let too_big = v6("fd00::9", guest, protocol::ICMPV6, &icmp(2, &[&[0, 0, 5, 0][..], &question].concat()));
    assert_eq!(wall.come(&too_big), denied("denied"));
    assert!(wall.out(&question).is_ok());
    assert!(wall.come(&too_big).is_ok());
}

#[test]
fn s15_fragments_without_ports_pass_between_hosts_that_have_a_connection() {
    let mut wall = plain();
    let piece = |src| v4_piece(src, GUEST, protocol::UDP, 1480, false, &[0; 100]);
    assert_eq!(wall.come(&piece(PEER)), denied("denied"));
    assert!(wall.out(&asks(4000, 53)).is_ok());
    assert_eq!(wall.come(&piece(PEER)), Ok(Scope::Second));
    assert_eq!(wall.come(&piece(OTHER)), denied("denied"));
    let other_protocol = v4_piece(PEER, GUEST, protocol::TCP, 1480, false, &[0; 100]);
    assert_eq!(wall.come(&other_protocol), denied("denied"));
    wall.pass(62);
    assert_eq!(wall.come(&piece(PEER)), denied("denied"));
}

#[test]
fn s15_a_port_has_no_more_than_its_share_and_what_is_in_use_stays() {
    let mut wall = Wall::new(&json!([]), &[("share", json!(100)), ("connections", json!(200))]);
    (0..50).for_each(|n| open(&mut wall, n));
    for n in 1000..3000 {
        assert!(wall.out(&to_peer(n, 80, SYN)).is_ok(), "half-open ones make room for each other");
    }
    assert_eq!(wall.status("connections"), 100);
    for n in 0..50 {
        assert!(wall.come(&to_guest(80, n, ACK)).is_ok(), "{n}");
    }
    // Only once all of them are in use there is no room.
    let mut wall = Wall::new(&json!([]), &[("share", json!(100)), ("connections", json!(200))]);
    (0..100).for_each(|n| open(&mut wall, n));
    assert_eq!(wall.out(&to_peer(5000, 80, SYN)), denied("no-room"));
    // Another port has its own, and at least a little when all together have too many.
    let sets = json!({ "sets": ["one"] });
    for port in [2, 3, 4] {
        wall.instance.set(Some(PortId(port)), Some(&sets)).expect("settings");
        for n in 0..100 {
            let packet = asks(n, 53);
            let back = answers(53, n);
            let opened = wall.at(port, Direction::Out, &packet, false);
            let few = n < 64 || port == 2;
            assert_eq!(opened.is_ok(), few, "{n} of port {port}");
            assert_eq!(wall.at(port, Direction::In, &back, false).is_ok(), few);
        }
    }
    assert_eq!(wall.instance.status(None)["connections"], 200 + 2 * 64);
}

#[test]
fn s15_whoever_only_asks_what_would_happen_changes_nothing() {
    let mut wall = plain();
    assert!(wall.at(1, Direction::Out, &asks(4000, 53), true).is_ok());
    assert_eq!(wall.come(&answers(53, 4000)), denied("denied"));
    open(&mut wall, 4000);
    assert!(wall.at(1, Direction::In, &to_guest(80, 4000, RST), true).is_ok());
    assert!(wall.come(&to_guest(80, 4000, ACK)).is_ok());
}

#[test]
fn s15_connections_go_with_the_card_and_ports_without_settings_are_not_looked_at() {
    let mut wall = plain();
    open(&mut wall, 4000);
    wall.instance.change(wall.now, &Change::NicDelete { port: PortId(1) }).expect("told");
    assert_eq!(wall.come(&to_guest(80, 4000, ACK)), denied("denied"));
    assert_eq!(wall.at(7, Direction::In, &to_guest(80, 4000, SYN), false), Ok(Scope::Flow));
    wall.instance.change(wall.now, &Change::PortDelete { port: PortId(1) }).expect("told");
    assert_eq!(wall.come(&to_guest(80, 4000, SYN)), Ok(Scope::Flow), "the number is another's now");
}

#[test]
fn s15_what_is_no_ip_and_neighbour_discovery_pass() {
    let mut wall = plain();
    let solicitation =
        v6("fe80::2", "ff02::1:ff00:1", protocol::ICMPV6, &crate::packets::neighbour(135, "fe80::1", None));
    assert_eq!(wall.come(&solicitation), Ok(Scope::Flow));
    let hidden = v6("fe80::2", "fd00::1", protocol::TCP, &[0; 8]);
    assert_eq!(wall.come(&hidden), denied("malformed"), "a header that is cut off");
}
