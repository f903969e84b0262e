//! Sessions that travel with their port: saved on one switch, restored on another with a clock of its own.

use vswitch::session::{Key, Saved, Sessions, State};
use vswitch::{Direction, PortId, Tally};

use super::{MS, TCP, answered, grant, key, open};
use crate::support::SECOND;
use Direction::{In, Out};

const SYN: u8 = 2;
const ACK: u8 = 16;

/// Everything is granted, and counted where this switch counts.
#[allow(clippy::unnecessary_wraps, reason = "what the table asks for")]
fn granted(_: &Key, was: &vswitch::session::Grant) -> Option<vswitch::session::Grant> {
    Some(vswitch::session::Grant { tally: Tally(77), ..*was })
}

#[test]
fn s20_2_sessions_come_back_with_their_state_ages_and_timeouts_under_another_clock() {
    let source = Sessions::new(1024, 1);
    answered(&source, 5 * SECOND, key(3, 1), 30 * SECOND);
    open(&source, 20 * SECOND, key(3, 2), 60 * SECOND).unwrap();
    let tcp = Key { protocol: TCP, ..key(3, 3) };
    let half = source.open(24 * SECOND, tcp, grant(30 * SECOND), Some(SYN)).unwrap();
    assert!(source.pass(24 * SECOND, half, In, Some(SYN | ACK)));
    let other = key(4, 1);
    open(&source, 20 * SECOND, other, 60 * SECOND).unwrap();
    let saved = source.save(25 * SECOND, PortId(3));
    assert_eq!(saved.len(), 3, "those of the port and no others");

    let destination = Sessions::new(1024, 2);
    let now = 1_000_000 * SECOND;
    assert_eq!(destination.restore(now, PortId(9), &saved, granted), 3);
    let at = |k: Key| Key { port: PortId(9), ..k };
    let mut shown = destination.list(now, Some(PortId(9)));
    shown.sort_by_key(|s| s.key.remote_port);
    let ages: Vec<_> = shown.iter().map(|s| (s.age_ms, s.idle_ms, s.expires_ms)).collect();
    assert_eq!(ages, [(20_000, 20_000, 10_000), (5_000, 5_000, 55_000), (1_000, 1_000, 29_000)]);
    assert_eq!(
        shown.iter().map(|s| s.state).collect::<Vec<_>>(),
        [State::Established, State::Open, State::Established]
    );
    assert!(shown.iter().all(|s| s.grant.tally == Tally(77) && s.grant.opened == Out));
    assert!(destination.find(now + 10 * SECOND - MS, &at(key(3, 1))).is_some());
    assert!(
        destination.find(now + 10 * SECOND, &at(key(3, 1))).is_none(),
        "the timeout goes on, it does not begin anew"
    );
    assert_eq!(destination.save(now, PortId(9)).len(), 3);
    let sorted = |mut list: Vec<Saved>| {
        list.sort_by_key(|s| s.remote_port);
        list
    };
    assert_eq!(sorted(destination.save(now, PortId(9))), sorted(saved), "nothing is lost on the way");
}

#[test]
fn s20_2_a_session_that_the_rules_no_longer_grant_or_that_expired_is_left_out() {
    let source = Sessions::new(1024, 1);
    for n in 1..=4 {
        open(&source, 0, key(3, n), 30 * SECOND).unwrap();
    }
    let mut saved = source.save(SECOND, PortId(3));
    saved.sort_by_key(|s| s.remote_port);
    saved[3].idle_ms = 30_000;
    let destination = Sessions::new(1024, 2);
    let judge = |k: &Key, g: &_| if k.remote_port == 2 { None } else { granted(k, g) };
    assert_eq!(destination.restore(100 * SECOND, PortId(1), &saved, judge), 2);
    assert_eq!(
        destination.restore(100 * SECOND, PortId(1), &saved, judge),
        0,
        "a second time nothing comes in"
    );
    assert_eq!(destination.list(100 * SECOND, None).len(), 2);
}

#[test]
fn s20_2_an_arriving_port_gets_no_more_than_its_share() {
    let source = Sessions::new(8 * 1024, 1);
    for n in 0..1000 {
        answered(&source, 0, key(3, n), 300 * SECOND);
    }
    let destination = Sessions::new(1024, 2);
    let neighbour: Vec<_> =
        (0..100).map(|n| answered(&destination, SECOND, key(7, n), 300 * SECOND)).collect();
    let saved = source.save(SECOND, PortId(3));
    assert_eq!(destination.restore(SECOND, PortId(3), &saved, granted), u64::from(destination.share()));
    assert!(neighbour.iter().all(|&handle| destination.touch(SECOND, handle)));
}

#[test]
fn s20_2_a_verdict_remembered_for_there_being_no_session_ends_with_a_restored_one() {
    let source = Sessions::new(64, 1);
    open(&source, 0, key(3, 1), 30 * SECOND).unwrap();
    let destination = Sessions::new(64, 2);
    let absent = destination.absence(&key(3, 1));
    assert!(destination.touch(0, absent));
    destination.restore(SECOND, PortId(3), &source.save(0, PortId(3)), granted);
    assert!(!destination.touch(SECOND, absent));
}
