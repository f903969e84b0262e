//! The life of a TCP session, by flags.

use vswitch::Direction::{self, In, Out};
use vswitch::session::{CLOSING, Counters, Grant, Handle, Key, Sessions, State};

use super::{TCP, grant, key};
use crate::support::SECOND;

const FIN: Option<u8> = Some(0x11);
const SYN: Option<u8> = Some(0x02);
const SYN_ACK: Option<u8> = Some(0x12);
const RST: Option<u8> = Some(0x04);
const RST_ACK: Option<u8> = Some(0x14);
const ACK: Option<u8> = Some(0x10);
const NO_FLAGS: Option<u8> = Some(0);

const IDLE: u64 = 600 * SECOND;

/// One session that the guest of port 1 opens.
struct Connection {
    sessions: Sessions,
    key: Key,
}

impl Connection {
    fn new() -> Self {
        Self { sessions: Sessions::new(1024, 1), key: Key { protocol: TCP, ..key(1, 80) } }
    }

    fn open(&self, now: u64, flags: Option<u8>) -> Handle {
        self.sessions.open(now, self.key, grant(IDLE), flags).unwrap()
    }

    /// What a worker does with a packet that has no cached verdict: whether its session lets it pass.
    fn packet(&self, now: u64, direction: Direction, flags: Option<u8>) -> bool {
        let Some(found) = self.sessions.find(now, &self.key) else { return false };
        let admitted = found.admits(direction, flags);
        assert_eq!(self.sessions.pass(now, found.handle, direction, flags), admitted);
        admitted
    }

    fn state(&self, now: u64) -> Option<State> {
        self.sessions.find(now, &self.key).map(|found| found.state)
    }

    fn established(now: u64) -> (Self, Handle) {
        let tcp = Self::new();
        let handle = tcp.open(now, SYN);
        assert!(tcp.packet(now, In, SYN_ACK) && tcp.packet(now, Out, ACK));
        assert_eq!(tcp.state(now), Some(State::Established));
        (tcp, handle)
    }
}

#[test]
fn s8_tcp_opens_with_syn_and_is_established_by_its_answer() {
    let tcp = Connection::new();
    tcp.open(0, SYN);
    assert_eq!(tcp.state(0), Some(State::SynSent));
    assert!(tcp.packet(0, Out, SYN), "sent again");
    assert!(!tcp.packet(0, In, NO_FLAGS), "no answer to a SYN is without ACK or RST");
    assert!(!tcp.packet(0, In, SYN), "the peer's own SYN is for the rules");
    assert!(tcp.packet(0, In, ACK), "about an earlier connection of these ports");
    assert_eq!(tcp.state(0), Some(State::SynSent));
    assert!(tcp.packet(0, In, SYN_ACK));
    assert_eq!(tcp.state(0), Some(State::Established));
    assert!(tcp.packet(IDLE - 1, In, ACK));
    assert!(tcp.packet(2 * IDLE - SECOND, Out, ACK));
}

#[test]
fn s8_a_refused_connection_is_closing() {
    for reset in [RST, RST_ACK] {
        let tcp = Connection::new();
        tcp.open(0, SYN);
        assert!(tcp.packet(0, In, reset));
        assert_eq!(tcp.state(0), Some(State::Closing));
        assert_eq!(tcp.state(CLOSING - 1), Some(State::Closing));
        assert_eq!(tcp.state(CLOSING), None);
    }
}

#[test]
fn s8_fin_of_both_sides_closes_and_data_still_passes() {
    for (first, second) in [(In, Out), (Out, In)] {
        let (tcp, handle) = Connection::established(0);
        assert!(tcp.packet(0, first, FIN) && tcp.packet(0, first, FIN), "sent again");
        assert_eq!(tcp.state(0), Some(State::Established), "half-closed: data still goes the other way");
        assert_eq!(tcp.state(IDLE - 1), Some(State::Established));
        assert!(tcp.packet(100 * SECOND, second, FIN));
        assert_eq!(tcp.state(100 * SECOND), Some(State::Closing));
        assert!(tcp.packet(109 * SECOND, first, ACK) && tcp.packet(109 * SECOND, second, FIN));
        assert!(tcp.sessions.touch(118 * SECOND, handle));
        assert_eq!(tcp.state(128 * SECOND - 1), Some(State::Closing));
        assert_eq!(tcp.state(128 * SECOND), None);
    }
}

#[test]
fn s8_rst_closes_and_the_short_timeout_counts_from_it() {
    for direction in [In, Out] {
        let (tcp, handle) = Connection::established(0);
        let now = 100 * SECOND;
        assert!(tcp.packet(now, direction, RST), "long after the last packet");
        assert_eq!(tcp.state(now + CLOSING - 1), Some(State::Closing));
        assert!(!tcp.sessions.touch(now + CLOSING, handle));
    }
}

#[test]
fn s8_closing_never_prolongs_a_shorter_timeout() {
    let tcp = Connection::new();
    tcp.sessions.open(0, tcp.key, grant(3 * SECOND), SYN).unwrap();
    assert!(tcp.packet(0, In, RST_ACK));
    assert_eq!(tcp.state(3 * SECOND - 1), Some(State::Closing));
    assert_eq!(tcp.state(3 * SECOND), None);
}

#[test]
fn s8_a_regrant_keeps_the_closing_timeout() {
    let (tcp, handle) = Connection::established(0);
    assert!(tcp.packet(0, In, RST));
    assert!(tcp.sessions.regrant(handle, grant(2 * IDLE)));
    assert_eq!(tcp.state(CLOSING), None);
}

#[test]
fn s8_a_syn_of_the_opener_begins_again_after_the_end() {
    let (tcp, old) = Connection::established(0);
    assert!(tcp.packet(0, In, RST));
    assert!(!tcp.packet(SECOND, In, SYN), "the peer may not begin through the opener's session");
    assert!(tcp.packet(SECOND, Out, SYN));
    assert_eq!(tcp.state(SECOND), Some(State::SynSent));
    assert!(!tcp.sessions.touch(SECOND, old), "verdicts of the old connection admit too much");
    assert!(!tcp.packet(SECOND, In, NO_FLAGS));
    assert_eq!(tcp.state(SECOND + IDLE - 1), Some(State::SynSent), "the rule's timeout again");
    assert!(tcp.packet(2 * SECOND, In, SYN_ACK));
    assert_eq!(tcp.state(2 * SECOND), Some(State::Established));
    let counters = Counters { opened: 2, closed: 1, ..Counters::default() };
    assert_eq!((tcp.sessions.len(), tcp.sessions.counters()), (1, counters));
}

#[test]
fn s8_a_session_is_no_way_in_for_the_peers_own_connections() {
    let (tcp, _) = Connection::established(0);
    assert!(!tcp.packet(0, In, SYN) && !tcp.packet(0, In, Some(0x03)));
    assert!(tcp.packet(0, Out, FIN) && tcp.packet(0, In, FIN));
    assert!(!tcp.packet(0, In, SYN));
    let handle = tcp.sessions.open(SECOND, tcp.key, Grant { opened: In, ..grant(IDLE) }, SYN).unwrap();
    assert_eq!(tcp.state(SECOND), Some(State::SynSent), "the rules allowed it");
    assert!(tcp.packet(SECOND, In, SYN) && !tcp.packet(SECOND, Out, SYN), "now it is the peer's");
    assert!(tcp.sessions.touch(SECOND, handle));
}

#[test]
fn s8_both_sides_may_ask_at_once() {
    let tcp = Connection::new();
    let handle = tcp.open(0, SYN);
    assert!(!tcp.packet(0, In, SYN));
    let same = tcp.sessions.open(0, tcp.key, Grant { opened: In, ..grant(IDLE) }, SYN).unwrap();
    assert_eq!(same, handle);
    assert_eq!(tcp.state(0), Some(State::Established));
    assert!(tcp.packet(0, Out, SYN_ACK) && tcp.packet(0, In, SYN_ACK) && tcp.packet(0, In, ACK));
    assert_eq!(tcp.sessions.len(), 1);
}

#[test]
fn s8_tcp_is_picked_up_in_the_middle_but_not_by_rst() {
    for flags in [ACK, SYN_ACK, FIN, Some(0x18)] {
        let tcp = Connection::new();
        tcp.open(0, flags);
        assert_eq!(tcp.state(0), Some(State::Established));
        assert!(tcp.packet(0, In, ACK));
    }
    for flags in [RST, RST_ACK, Some(0x06)] {
        let tcp = Connection::new();
        assert_eq!(tcp.open(0, flags), Handle::NONE);
        assert!(!tcp.sessions.touch(0, Handle::NONE) && !tcp.packet(0, In, ACK));
        assert!(tcp.sessions.is_empty());
    }
}

#[test]
fn s8_a_fin_that_was_the_first_packet_counts() {
    let tcp = Connection::new();
    tcp.open(0, FIN);
    assert!(tcp.packet(0, In, FIN));
    assert_eq!(tcp.state(0), Some(State::Closing));
}

#[test]
fn s8_an_absence_ends_when_a_session_opens_or_admits_more() {
    let tcp = Connection::new();
    let nobody = tcp.sessions.absence(&tcp.key);
    assert!(tcp.sessions.touch(0, nobody) && !nobody.is_session());
    tcp.open(0, SYN);
    assert!(!tcp.sessions.touch(0, nobody));
    let refused = tcp.sessions.absence(&tcp.key);
    assert!(!tcp.packet(0, In, NO_FLAGS), "a forged segment that the rules drop, and workers remember that");
    assert!(tcp.packet(0, Out, SYN) && tcp.sessions.touch(0, refused));
    assert!(tcp.packet(0, In, SYN_ACK));
    assert!(!tcp.sessions.touch(0, refused), "the answered connection must not be dropped with it");
    let steady = tcp.sessions.absence(&tcp.key);
    assert!(tcp.packet(0, Out, ACK) && tcp.packet(0, In, ACK) && tcp.sessions.touch(0, steady));
}

#[test]
fn h29_a_refused_session_ends_no_absence() {
    let sessions = Sessions::new(0, 1);
    let absence = sessions.absence(&key(1, 1));
    assert!(sessions.open(0, key(1, 1), grant(IDLE), None).is_err());
    assert!(sessions.touch(0, absence), "a flood at its limit leaves cached verdicts alone");
}
