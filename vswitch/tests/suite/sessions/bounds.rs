//! How many sessions there may be, and who gives way.

use vswitch::Direction::In;
use vswitch::PortId;
use vswitch::session::{Full, Handle, Key, MIN_SHARE, Sessions, State};

use super::{TCP, answered, grant, key, open};
use crate::support::SECOND;

const SYN: Option<u8> = Some(0x02);
const SYN_ACK: Option<u8> = Some(0x12);
const ACK: Option<u8> = Some(0x10);
const IDLE: u64 = 300 * SECOND;

fn held_by(sessions: &Sessions, port: u16) -> usize {
    sessions.list(0, Some(PortId(port))).len()
}

fn tcp(port: u16, n: u32) -> Key {
    Key { protocol: TCP, ..key(port, n) }
}

fn established(sessions: &Sessions, now: u64, key: Key) -> Handle {
    let handle = sessions.open(now, key, grant(IDLE), SYN).unwrap();
    assert!(sessions.pass(now, handle, In, SYN_ACK));
    handle
}

#[test]
fn h29_the_share_is_an_eighth_but_enough_for_a_small_guest() {
    let shares = [0, 10, 64, 100, 512, 1024, 65_536].map(|limit| Sessions::new(limit, 1).share());
    assert_eq!(shares, [0, 10, MIN_SHARE, MIN_SHARE, MIN_SHARE, 128, 8192]);
    let none = Sessions::new(0, 1);
    assert_eq!(open(&none, 0, key(1, 1), IDLE), Err(Full));
    assert!(!none.would_open(0, &key(1, 1)));
    assert_eq!((none.len(), none.limit(), none.counters().refused), (0, 0, 1));
}

#[test]
fn h29_at_its_share_a_port_is_refused_when_all_its_sessions_are_in_use() {
    let sessions = Sessions::new(1024, 1);
    let handles: Vec<Handle> = (0..128).map(|n| answered(&sessions, 0, key(1, n), IDLE)).collect();
    for n in 128..1000 {
        assert!(!sessions.would_open(0, &key(1, n)));
        assert_eq!(open(&sessions, 0, key(1, n), IDLE), Err(Full));
    }
    assert!(sessions.would_open(0, &key(1, 5)), "it has one");
    assert!(sessions.would_open(0, &key(2, 0)), "a neighbour may");
    assert!(handles.iter().all(|&handle| sessions.touch(0, handle)));
    assert_eq!((sessions.len(), sessions.counters().refused), (128, 872));
}

#[test]
fn h29_at_its_share_the_longest_idle_of_a_few_half_open_sessions_makes_room() {
    let sessions = Sessions::new(1024, 1);
    let mine: Vec<Handle> = (0..120).map(|n| established(&sessions, 0, tcp(1, n))).collect();
    for n in 0..8 {
        // The third is the longest idle.
        let now = if n == 3 { SECOND } else { 2 * SECOND };
        sessions.open(now, tcp(1, 1000 + n), grant(IDLE), SYN).unwrap();
    }
    assert!(sessions.would_open(2 * SECOND, &tcp(1, 2000)));
    sessions.open(3 * SECOND, tcp(1, 2000), grant(IDLE), SYN).unwrap();
    for n in 0..8 {
        assert_eq!(sessions.find(3 * SECOND, &tcp(1, 1000 + n)).is_some(), n != 3);
    }
    assert!(mine.iter().all(|&handle| sessions.touch(3 * SECOND, handle)));
    assert_eq!((sessions.len(), sessions.counters().evicted), (128, 1));
}

#[test]
fn h29_a_flood_of_data_without_an_answer_leaves_a_port_room() {
    let sessions = Sessions::new(1024, 1);
    for n in 0..10_000 {
        // Every one looks like a connection picked up in the middle.
        sessions.open(0, tcp(1, n), grant(IDLE), ACK).expect("unanswered ones make room");
    }
    let real = established(&sessions, SECOND, tcp(1, 1 << 20));
    for n in 10_000..20_000 {
        sessions.open(2 * SECOND, tcp(1, n), grant(IDLE), ACK).unwrap();
    }
    assert!(sessions.touch(2 * SECOND, real));
    assert_eq!(held_by(&sessions, 1), 128);
}

#[test]
fn h29_an_expired_session_makes_room_before_a_live_one() {
    let sessions = Sessions::new(512, 1);
    for n in 0..60 {
        answered(&sessions, 0, key(1, n), IDLE);
    }
    for n in 60..64 {
        answered(&sessions, 0, key(1, n), if n == 61 { SECOND } else { IDLE });
    }
    // The sample moves on with every search that finds a victim, so let the weak one there is be found first.
    assert_eq!(open(&sessions, 0, key(1, 100), IDLE), Err(Full));
    let handle = sessions.find(0, &key(1, 3)).unwrap().handle;
    sessions.regrant(handle, grant(SECOND));
    assert!(sessions.would_open(SECOND, &key(1, 100)));
    open(&sessions, SECOND, key(1, 100), IDLE).unwrap();
    assert_eq!(sessions.find(0, &key(1, 3)), None);
    assert_eq!((sessions.counters().expired, sessions.counters().evicted), (1, 0));
    assert_eq!(sessions.len(), 64);
}

#[test]
fn h29_a_full_table_takes_from_the_largest_holder_only() {
    let sessions = Sessions::new(512, 1);
    // Eight ports with their share of 64 fill the table.
    for port in 1..=8 {
        for n in 0..64 {
            answered(&sessions, 0, key(port, n), IDLE);
        }
    }
    assert_eq!(sessions.len(), 512);
    for n in 0..56 {
        assert!(sessions.would_open(0, &key(9, n)));
        answered(&sessions, 0, key(9, n), IDLE);
        assert_eq!(sessions.len(), 512);
    }
    let held: Vec<usize> = (1..=9).map(|port| held_by(&sessions, port)).collect();
    assert_eq!((held.iter().sum::<usize>(), held[8]), (512, 56));
    assert!(held.iter().all(|&n| n == 57 || n == 56), "everyone gave alike: {held:?}");
    answered(&sessions, 0, key(9, 56), IDLE);
    assert_eq!(open(&sessions, 0, key(9, 57), IDLE), Err(Full), "nobody has more than it has");
    assert!(!sessions.would_open(0, &key(9, 57)));
}

#[test]
fn h29_the_largest_holder_gives_half_open_sessions_first() {
    let sessions = Sessions::new(512, 1);
    for port in 1..=7 {
        for n in 0..63 {
            answered(&sessions, 0, key(port, n), IDLE);
        }
    }
    let strong: Vec<Handle> = (0..32).map(|n| answered(&sessions, 0, key(8, n), IDLE)).collect();
    for n in 32..64 {
        open(&sessions, SECOND, key(8, n), IDLE).unwrap();
    }
    for n in 0..7 {
        open(&sessions, 0, key(9, n), IDLE).unwrap();
    }
    assert_eq!(sessions.len(), 512);
    open(&sessions, SECOND, key(9, 100), IDLE).unwrap();
    assert_eq!((held_by(&sessions, 8), held_by(&sessions, 9)), (63, 8));
    assert!(strong.iter().all(|&handle| sessions.touch(SECOND, handle)), "longer idle, but in use");
}

#[test]
fn h29_a_million_syns_cost_no_neighbour_an_established_session() {
    let sessions = Sessions::new(65_536, 1);
    let neighbours: Vec<Handle> =
        (0..4000).map(|n| established(&sessions, 0, tcp(2 + (n % 40) as u16, n))).collect();
    let own: Vec<Handle> = (0..500).map(|n| established(&sessions, 0, tcp(1, n))).collect();
    for n in 0..1_000_000 {
        sessions.open(u64::from(n) * 1000, tcp(1, 1000 + n), grant(IDLE), SYN).expect("its own give way");
        assert!(sessions.len() <= 4000 + 8192);
    }
    let now = 2 * SECOND;
    assert!(neighbours.iter().chain(&own).all(|&handle| sessions.touch(now, handle)));
    assert_eq!(held_by(&sessions, 1), sessions.share() as usize);
    for n in 0..1000 {
        established(&sessions, now, tcp(50, n));
    }
    let counters = sessions.counters();
    assert_eq!((counters.evicted, counters.refused), (1_000_000 + 500 - 8192, 0));
}

#[test]
fn h29_a_table_filled_by_many_floods_serves_a_quiet_port() {
    let sessions = Sessions::new(1024, 1);
    let quiet: Vec<Handle> = (0..50).map(|n| established(&sessions, 0, tcp(99, n))).collect();
    for n in 0..50_000 {
        sessions.open(SECOND, tcp(1 + (n % 20) as u16, n), grant(IDLE), SYN).unwrap();
    }
    assert_eq!(sessions.len(), 1024);
    assert!(quiet.iter().all(|&handle| sessions.touch(SECOND, handle)));
    let late = established(&sessions, SECOND, tcp(99, 7000));
    assert!(sessions.touch(SECOND, late));
    assert_eq!(sessions.find(SECOND, &tcp(99, 7000)).unwrap().state, State::Established);
}

#[test]
fn h29_the_search_for_room_goes_round_so_the_oldest_of_a_flood_go() {
    let sessions = Sessions::new(1024, 1);
    for n in 0..128 + 1000 {
        sessions.open(u64::from(n) * SECOND / 100, tcp(1, n), grant(IDLE), SYN).unwrap();
    }
    let now = 12 * SECOND;
    let oldest = sessions.list(now, Some(PortId(1))).iter().map(|s| s.idle_ms).max();
    assert!(oldest.is_some_and(|ms| ms < 10_000), "the first 128 are gone: {oldest:?}");
}
