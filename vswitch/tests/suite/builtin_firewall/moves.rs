//! What travels with a guest to another host, and what does not get in that way.

use proptest::prelude::*;
use serde_json::json;
use vswitch::PortId;
use vswitch::extension::MOST_SAVED;
use vswitch::frame::protocol;

use super::{ACK, GUEST, PEER, RST, SYN, Wall, answers, asks, denied, open, to_guest, to_peer};
use crate::packets::{tcp, udp, v4, v6};
use crate::support::SECOND;

const PORT: PortId = PortId(1);

fn watching() -> Wall {
    Wall::new(&json!([]), &[("intrusion", json!({ "port-scan": { "ports": 3, "block": 60 } }))])
}

/// A firewall with some of everything, and its state.
fn lived() -> (Wall, Vec<u8>) {
    let mut wall = watching();
    wall.now = 1000 * SECOND;
    wall.pass(1);
    assert!(wall.out(&asks(5000, 53)).is_ok());
    wall.pass(50);
    open(&mut wall, 4000);
    assert!(wall.out(&to_peer(4001, 80, SYN)).is_ok());
    assert!(wall.out(&v6("fd00::1", "fd00::2", protocol::UDP, &udp(5000, 53, b"q"))).is_ok());
    for port in 0..5 {
        let _ = wall.come(&v4("203.0.113.9", GUEST, protocol::TCP, &tcp(1, port, SYN, &[])));
    }
    let saved = wall.instance.save(wall.now, PORT).expect("something to save");
    (wall, saved)
}

#[test]
fn s15_4_connections_and_blocks_travel_with_the_guest() {
    let (_, saved) = lived();
    let mut there = watching();
    there.now = 77_000 * SECOND; // another host's clock
    there.instance.restore(there.now, PORT, &saved).expect("it is taken");
    assert!(there.come(&to_guest(80, 4000, ACK)).is_ok());
    assert!(there.come(&v6("fd00::2", "fd00::1", protocol::UDP, &udp(53, 5000, b"a"))).is_ok());
    assert!(there.refreshed, "what was judged before that is judged again");
    assert_eq!(there.come(&to_guest(80, 4002, ACK)), denied("denied"));
    assert_eq!(there.status("connections"), 4);
    assert_eq!(there.status("half-open"), 1);
    // The silent one has nine or ten seconds left, and the block fifty-nine or sixty.
    there.pass(8);
    assert!(there.instance.status(Some(PORT))["blocked"][0]["seconds"].as_u64().is_some_and(|s| s <= 53));
    let scanner = v4("203.0.113.9", GUEST, protocol::TCP, &tcp(1, 80, SYN, &[]));
    assert_eq!(there.come(&scanner), denied("port-scan"));
    there.pass(4);
    assert_eq!(there.come(&answers(53, 5000)), denied("denied"));
    assert!(there.come(&to_guest(80, 4001, SYN | ACK)).is_ok(), "and a handshake goes on");
}

#[test]
fn s15_4_what_the_rules_there_do_not_allow_does_not_travel() {
    let (_, saved) = lived();
    let rules = json!([{ "action": "deny", "direction": "out", "protocol": "tcp" }]);
    let mut there = Wall::new(&rules, &[]);
    there.instance.restore(there.now, PORT, &saved).expect("it is taken");
    assert_eq!(there.come(&to_guest(80, 4000, ACK)), denied("denied"));
    assert!(there.come(&answers(53, 5000)).is_ok());
    // The same if the settings come after the state.
    let there = Wall::new(&rules, &[]);
    there.instance.restore(there.now, PortId(2), &saved).expect("it is taken");
    there.instance.set(Some(PortId(2)), Some(&json!({ "sets": ["one"] }))).expect("settings");
    assert_eq!(there.instance.status(Some(PortId(2)))["connections"], 2);
}

#[test]
fn s15_4_a_port_with_nothing_to_remember_saves_nothing_and_the_largest_state_fits() {
    let mut wall = Wall::new(&json!([]), &[("share", json!(5000)), ("connections", json!(5000))]);
    assert_eq!(wall.instance.save(wall.now, PORT), None);
    for n in 0..5000_u16 {
        let packet = v6("fd00::1", "fd00::2", protocol::UDP, &udp(n, 53, b"q"));
        assert!(wall.out(&packet).is_ok());
    }
    let saved = wall.instance.save(wall.now, PORT).expect("connections");
    assert!(saved.len() > 5000 * 40 && saved.len() <= MOST_SAVED, "{}", saved.len());
    let small = Wall::new(&json!([]), &[("share", json!(100)), ("connections", json!(100))]);
    small.instance.restore(wall.now, PORT, &saved).expect("as many as there is room for");
    assert_eq!(small.status("connections"), 100);
}

#[test]
fn s15_4_state_that_is_none_is_refused_and_changes_nothing() {
    let (_, saved) = lived();
    let mut there = watching();
    open(&mut there, 9);
    let mut longer = saved.clone();
    longer.push(0);
    let mut version = saved.clone();
    version[0] = 2;
    let mut state = saved.clone();
    state[3] |= 0x1c;
    let shorter = &saved[..saved.len() - 1];
    let wrong = [
        (&[][..], "it ends too early"),
        (shorter, "it ends too early"),
        (&longer, "1 bytes are left over"),
        (&version, "its version is 2; this switch knows 1"),
        (&state, "there is no state 7"),
        (&[1, 0xff, 0xff], "65535 connections; at most 5000"),
        (&[1, 0, 0, 0xff, 0xff], "65535 blocks; at most 256"),
    ];
    for (bytes, why) in wrong {
        let veto = there.instance.restore(there.now, PORT, bytes).expect_err(why);
        assert_eq!(veto.to_string(), why);
    }
    assert!(there.come(&to_guest(80, 9, ACK)).is_ok(), "what was here is here");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn s15_4_any_bytes_are_refused_or_leave_a_firewall_that_works(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
        own in any::<bool>(),
    ) {
        let (_, mut bytes) = lived();
        if own {
            bytes = noise;
            bytes.insert(0, 1);
        } else {
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cuts {
                bytes.truncate(cut.index(bytes.len()));
            }
        }
        let mut there = watching();
        let taken = there.instance.restore(there.now, PORT, &bytes).is_ok();
        let count = there.status("connections").as_u64().expect("a number");
        prop_assert!(count <= bytes.len() as u64 / 18 && (taken || count == 0));
        prop_assert_eq!(there.instance.status(None)["connections"].as_u64(), Some(count));
        // What was taken can be saved again, and ends as everything does.
        if let Some(again) = there.instance.save(there.now, PORT) {
            prop_assert!(again.len() <= bytes.len());
            let twice = watching();
            prop_assert!(twice.instance.restore(there.now, PORT, &again).is_ok());
        }
        let _ = there.come(&to_guest(80, 4000, RST));
        prop_assert_eq!(there.come(&to_guest(80, 4000, ACK)), denied("denied"));
        there.now += 8 * 86_400 * SECOND;
        there.pass(5);
        prop_assert_eq!(there.status("connections"), 0);
        prop_assert_eq!(there.status("blocked"), json!([]));
        let fresh = v4(GUEST, PEER, protocol::TCP, &tcp(7, 80, SYN, &[]));
        prop_assert!(there.out(&fresh).is_ok());
    }
}
