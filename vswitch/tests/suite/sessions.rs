//! Sessions of stateful rules: what opens them, how long they live, what a change of rules does to them.

mod bounds;
mod model;
mod moves;
mod tcp;
mod threads;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vswitch::session::{Counters, Full, Grant, Handle, Key, Sessions, Shown, State};
use vswitch::{Direction, PortId, Segment, Tally};

use crate::support::SECOND;
use Direction::{In, Out};

const MS: u64 = 1_000_000;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// A session of port `port`, different for every `n`.
fn key(port: u16, n: u32) -> Key {
    Key {
        port: PortId(port),
        segment: Segment(0),
        protocol: UDP,
        local: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        remote: IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + (n >> 16))),
        local_port: 40_000,
        remote_port: n as u16,
    }
}

fn grant(idle: u64) -> Grant {
    Grant { opened: Out, weight: 10, idle, tally: Tally(3) }
}

/// Opens a UDP session out.
fn open(sessions: &Sessions, now: u64, key: Key, idle: u64) -> Result<Handle, Full> {
    sessions.open(now, key, grant(idle), None)
}

/// Opens a UDP session and answers it.
fn answered(sessions: &Sessions, now: u64, key: Key, idle: u64) -> Handle {
    let handle = open(sessions, now, key, idle).expect("room");
    assert!(sessions.pass(now, handle, In, None));
    handle
}

#[test]
fn s8_the_first_packet_opens_and_the_reverse_direction_passes() {
    let sessions = Sessions::new(1024, 1);
    assert_eq!(sessions.find(0, &key(1, 1)), None);
    let handle = open(&sessions, 0, key(1, 1), 30 * SECOND).unwrap();
    let found = sessions.find(0, &key(1, 1)).unwrap();
    assert_eq!((found.handle, found.grant, found.state), (handle, grant(30 * SECOND), State::Open));
    assert!(found.admits(In, None) && found.admits(Out, None));
    assert!(sessions.pass(0, handle, Out, None));
    assert_eq!(sessions.find(0, &key(1, 1)).unwrap().state, State::Open, "nobody answered");
    assert!(sessions.pass(0, handle, In, None));
    assert_eq!(sessions.find(0, &key(1, 1)).unwrap().state, State::Established);
}

#[test]
fn s8_a_session_is_for_its_own_tuple_network_and_port_only() {
    let sessions = Sessions::new(1024, 1);
    let own = key(1, 1);
    open(&sessions, 0, own, SECOND).unwrap();
    let mapped = |ip| match ip {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => unreachable!("the keys of this test are IPv4"),
    };
    let others = [
        Key { port: PortId(2), ..own },
        Key { segment: Segment(5), ..own },
        Key { protocol: TCP, ..own },
        Key { local: own.remote, remote: own.local, ..own },
        Key { local_port: own.remote_port, remote_port: own.local_port, ..own },
        Key { local_port: own.local_port + 1, ..own },
        Key { remote_port: own.remote_port + 1, ..own },
        Key { remote: IpAddr::V6(Ipv6Addr::LOCALHOST), ..own },
        Key { local: mapped(own.local), remote: mapped(own.remote), ..own },
    ];
    for other in others {
        assert_eq!(sessions.find(0, &other), None, "{other:?}");
    }
    for other in others {
        open(&sessions, 0, other, SECOND).unwrap();
    }
    assert_eq!(sessions.len(), 1 + others.len());
    for other in others.into_iter().chain([own]) {
        assert_eq!(sessions.list(0, None).iter().filter(|s| s.key == other).count(), 1);
        assert!(sessions.find(0, &other).is_some());
    }
}

#[test]
fn s8_it_is_gone_when_nothing_passed_for_the_idle_timeout() {
    let sessions = Sessions::new(1024, 1);
    let (start, idle) = (7 * SECOND, 30 * SECOND);
    let handle = open(&sessions, start, key(1, 1), idle).unwrap();
    let end = start + idle;
    assert!(sessions.find(end - 1, &key(1, 1)).is_some());
    assert_eq!(sessions.find(end, &key(1, 1)), None);
    assert!(!sessions.touch(end, handle));
    assert!(!sessions.pass(end, handle, In, None));
    assert_eq!(sessions.len(), 1, "only ageing removes it");
    assert_eq!(sessions.age(end - 1), 0);
    assert_eq!(sessions.age(end), 1);
    assert_eq!(sessions.len(), 0);
    assert_eq!(sessions.counters(), Counters { opened: 1, expired: 1, ..Counters::default() });
}

#[test]
fn s8_a_packet_in_either_direction_keeps_it() {
    let sessions = Sessions::new(1024, 1);
    let idle = 30 * SECOND;
    let handle = open(&sessions, 0, key(1, 1), idle).unwrap();
    let mut now = 0;
    for direction in [In, Out, In, In, Out] {
        now += idle - MS;
        assert!(sessions.pass(now, handle, direction, None), "a packet going {direction} at {now}");
    }
    for _ in 0..5 {
        now += idle - 2 * MS;
        assert!(sessions.touch(now, handle));
    }
    assert_eq!(sessions.find(now + idle, &key(1, 1)), None);
}

#[test]
fn s8_touch_never_shortens_by_more_than_its_tick() {
    for idle in [SECOND, 30 * SECOND, 80 * MS] {
        let tick = (64 * MS).min(idle / 8);
        for gap in [MS, 5 * MS, tick - MS, tick, tick + MS] {
            let sessions = Sessions::new(1024, 1);
            let handle = answered(&sessions, 0, key(1, 1), idle);
            let mut now = 0;
            for _ in 0..200 {
                now += gap;
                assert!(sessions.touch(now, handle), "idle {idle}, a packet every {gap}");
            }
            let alive = |at| sessions.find(at, &key(1, 1)).is_some();
            assert!(alive(now + idle - tick), "idle {idle}, gap {gap}: early by more than the tick");
            assert!(!alive(now + idle), "idle {idle}, gap {gap}: late");
        }
    }
}

#[test]
fn s8_a_timeout_is_a_millisecond_at_least_and_any_length_is_kept() {
    let sessions = Sessions::new(1024, 1);
    let year = 365 * 24 * 3600 * SECOND;
    open(&sessions, 0, key(1, 1), 0).unwrap();
    open(&sessions, 0, key(1, 2), 100 * year).unwrap();
    open(&sessions, 0, key(1, 3), u64::MAX).unwrap();
    open(&sessions, 0, key(1, 4), SECOND).unwrap();
    let alive = |now, n| sessions.find(now, &key(1, n)).is_some();
    assert!(alive(MS - 1, 1) && !alive(MS, 1));
    assert!(alive(100 * year - 1, 2) && !alive(100 * year, 2));
    assert!(alive(u64::MAX, 3));
    for years in 1..500 {
        assert!(!alive(years * year, 4), "still gone after {years} years without ageing");
    }
}

#[test]
fn s8_a_clock_that_runs_backwards_between_workers_ages_nothing() {
    let sessions = Sessions::new(1024, 1);
    let handle = open(&sessions, 100 * SECOND, key(1, 1), SECOND).unwrap();
    assert!(sessions.touch(0, handle) && sessions.pass(0, handle, In, None));
    assert_eq!(sessions.age(0), 0);
    assert!(sessions.find(101 * SECOND - 1, &key(1, 1)).is_some(), "the older packet took nothing back");
}

#[test]
fn s8_an_expired_key_opens_afresh() {
    let sessions = Sessions::new(1024, 1);
    let old = answered(&sessions, 0, key(1, 1), SECOND);
    let new = sessions.open(SECOND, key(1, 1), Grant { weight: 20, ..grant(SECOND) }, None).unwrap();
    assert_ne!(old, new);
    assert!(!sessions.touch(SECOND, old) && sessions.touch(SECOND, new));
    let found = sessions.find(SECOND, &key(1, 1)).unwrap();
    assert_eq!((found.state, found.grant.weight), (State::Open, 20));
    assert_eq!(sessions.counters(), Counters { opened: 2, expired: 1, ..Counters::default() });
}

#[test]
fn s8_two_workers_that_open_at_once_share_one_session() {
    let sessions = Sessions::new(1024, 1);
    let first = open(&sessions, 0, key(1, 1), SECOND).unwrap();
    let second =
        sessions.open(SECOND / 2, key(1, 1), Grant { weight: 99, ..grant(5 * SECOND) }, None).unwrap();
    assert_eq!(first, second);
    assert_eq!(sessions.len(), 1);
    let found = sessions.find(SECOND, &key(1, 1)).expect("the second packet counts");
    assert_eq!(found.grant, grant(SECOND), "the first one's grant stays");
}

#[test]
fn s8_an_old_handle_never_names_a_new_session() {
    let sessions = Sessions::new(1, 1);
    let mut old = vec![Handle::NONE];
    for n in 0..1000 {
        let handle = open(&sessions, 0, key(1, n), SECOND).unwrap();
        for &stale in &old {
            assert!(!sessions.touch(SECOND / 2, stale));
            assert!(!sessions.pass(SECOND / 2, stale, In, None));
            assert!(!sessions.regrant(stale, grant(9 * SECOND)));
            sessions.close(stale);
        }
        assert_eq!(sessions.len(), 1);
        let shown = sessions.list(SECOND / 2, None);
        assert_eq!((shown[0].idle_ms, shown[0].state), (500, State::Open), "nothing was noted for it");
        sessions.close(handle);
        assert_eq!(sessions.len(), 0);
        old.push(handle);
    }
}

#[test]
fn s8_flush_ends_one_port_only() {
    let sessions = Sessions::new(8192, 1);
    let handles: Vec<Handle> =
        (0..600).map(|n| open(&sessions, 0, key(1 + (n % 2) as u16, n), SECOND).unwrap()).collect();
    assert_eq!(sessions.flush(PortId(1)), 300);
    assert_eq!(sessions.flush(PortId(1)), 0);
    assert_eq!(sessions.flush(PortId(9)), 0);
    for (n, &handle) in handles.iter().enumerate() {
        assert_eq!(sessions.touch(0, handle), n % 2 == 1);
    }
    assert!(sessions.list(0, Some(PortId(1))).is_empty());
    assert_eq!(sessions.list(0, Some(PortId(2))).len(), 300);
    assert_eq!(sessions.remove_port(PortId(2)), 300);
    assert_eq!(sessions.remove_port(PortId(2)), 0);
    assert!(sessions.is_empty());
    assert_eq!(sessions.counters().closed, 600);
    open(&sessions, 0, key(2, 1), SECOND).expect("the number may be given to another port");
}

#[test]
fn s8_a_change_of_rules_is_asked_for_every_live_session() {
    let sessions = Sessions::new(8192, 1);
    for n in 0..900 {
        open(&sessions, 0, key(1, n), 10 * SECOND).unwrap();
    }
    open(&sessions, 0, key(2, 0), SECOND).unwrap();
    let kept = sessions.find(0, &key(1, 1)).unwrap().handle;
    let mut asked = Vec::new();
    let ended = sessions.reconcile(5 * SECOND, None, |key, grant| {
        asked.push((*key, *grant));
        match key.remote_port % 3 {
            0 => None,
            1 => Some(Grant { weight: 77, opened: In, idle: 6 * SECOND, tally: Tally(9) }),
            _ => Some(*grant),
        }
    });
    assert_eq!(ended, 300);
    asked.sort_by_key(|(key, _)| key.remote_port);
    let expected: Vec<_> = (0..900).map(|n| (key(1, n), grant(10 * SECOND))).collect();
    assert_eq!(asked, expected, "each once, and not the expired one");
    assert_eq!(sessions.find(5 * SECOND, &key(1, 0)), None);
    assert!(sessions.touch(5 * SECOND, kept), "a session that stays keeps its handle");
    let regranted = Grant { weight: 77, opened: Out, idle: 6 * SECOND, tally: Tally(9) };
    assert_eq!(sessions.find(5 * SECOND, &key(1, 4)).unwrap().grant, regranted);
    assert_eq!(sessions.find(6 * SECOND, &key(1, 4)), None, "the new timeout counts from the last packet");
    assert!(sessions.find(6 * SECOND, &key(1, 5)).is_some());
}

#[test]
fn s8_a_session_shows_what_it_is() {
    let sessions = Sessions::new(1024, 1);
    let handle = open(&sessions, SECOND, key(1, 1), 30 * SECOND).unwrap();
    assert!(sessions.pass(3 * SECOND, handle, In, None));
    let shown = Shown {
        key: key(1, 1),
        grant: grant(30 * SECOND),
        state: State::Established,
        age_ms: 4_500,
        idle_ms: 2_500,
        expires_ms: 27_500,
    };
    assert_eq!(sessions.list(5_500 * MS, None), [shown]);
    assert_eq!(sessions.list(5_500 * MS, Some(PortId(1))), [shown]);
    assert_eq!(sessions.list(5_500 * MS, Some(PortId(2))), []);
    assert_eq!(sessions.list(33 * SECOND, None), [], "expired");
    let names = [State::Open, State::SynSent, State::Established, State::Closing].map(State::name);
    assert_eq!(names, ["open", "syn-sent", "established", "closing"]);
}
