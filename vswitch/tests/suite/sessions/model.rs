//! The table against a plain map that does the same the slow way.

use std::collections::HashMap;

use proptest::prelude::*;
use vswitch::Direction::{self, In, Out};
use vswitch::PortId;
use vswitch::session::{CLOSING, Grant, Handle, Key, Sessions, State};

use super::{MS, TCP, UDP, grant, key};
use crate::support::SECOND;

const IDLE: u64 = 20 * SECOND;

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    /// A packet of a session: found, admitted and passed, else opened.
    Packet {
        port: u16,
        n: u32,
        direction: Direction,
        flags: Option<u8>,
    },
    Close {
        port: u16,
        n: u32,
    },
    Flush(u16),
    Age,
    Regrant {
        port: u16,
        odd: bool,
        idle: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flags = prop_oneof![
        2 => Just(None),
        6 => prop::sample::select(vec![0x02, 0x12, 0x10, 0x11, 0x14, 0x04, 0x18, 0, 0x03]).prop_map(Some),
    ];
    let direction = prop::sample::select(vec![In, Out]);
    let packet = (1..4u16, 0..6u32, direction, flags);
    let step = prop_oneof![
        4 => (0..12 * SECOND).prop_map(|ns| Step::Wait(ns / MS * MS)),
        20 => packet.prop_map(|(port, n, direction, flags)| Step::Packet { port, n, direction, flags }),
        1 => (1..4u16, 0..6u32).prop_map(|(port, n)| Step::Close { port, n }),
        1 => (1..4u16).prop_map(Step::Flush),
        2 => Just(Step::Age),
        1 => (1..4u16, any::<bool>(), 1..30u64)
            .prop_map(|(port, odd, s)| Step::Regrant { port, odd, idle: s * SECOND }),
    ];
    prop::collection::vec(step, 1..200)
}

/// What the rule book says of one session, in the words of its states.
#[derive(Clone, Debug)]
struct Naive {
    grant: Grant,
    state: State,
    seen: u64,
    fins: Vec<Direction>,
}

impl Naive {
    fn new(now: u64, grant: Grant, flags: Option<u8>) -> Self {
        let state = match flags {
            None => State::Open,
            Some(f) if f & 0x12 == 0x02 => State::SynSent,
            Some(_) => State::Established,
        };
        let fin = state == State::Established && flags.is_some_and(|f| f & 1 != 0);
        Self { grant, state, seen: now, fins: if fin { vec![grant.opened] } else { Vec::new() } }
    }

    fn timeout(&self) -> u64 {
        if self.state == State::Closing { self.grant.idle.min(CLOSING) } else { self.grant.idle }
    }

    fn alive(&self, now: u64) -> bool {
        now < self.seen + self.timeout()
    }

    fn admits(&self, direction: Direction, flags: Option<u8>) -> bool {
        let (Some(f), true) = (flags, direction != self.grant.opened) else { return true };
        let (syn, ack, rst) = (f & 2 != 0, f & 16 != 0, f & 4 != 0);
        if syn && !ack && !rst { false } else { self.state != State::SynSent || ack || rst }
    }

    fn pass(&mut self, now: u64, direction: Direction, flags: Option<u8>) {
        let own = direction == self.grant.opened;
        self.seen = now;
        let Some(f) = flags else {
            if !own && matches!(self.state, State::Open | State::SynSent) {
                self.state = State::Established;
            }
            return;
        };
        let (fin, syn, rst, ack) = (f & 1 != 0, f & 2 != 0, f & 4 != 0, f & 16 != 0);
        match self.state {
            State::Open if !own => self.state = State::Established,
            State::Closing if own && syn && !ack && !rst => *self = Self::new(now, self.grant, flags),
            State::Open | State::Closing => {}
            _ if rst => self.state = State::Closing,
            _ => {
                if self.state == State::SynSent && !own && syn && ack {
                    self.state = State::Established;
                }
                if fin && !syn && !self.fins.contains(&direction) {
                    self.fins.push(direction);
                }
                if self.fins.len() == 2 {
                    self.state = State::Closing;
                }
            }
        }
    }
}

fn name(port: u16, n: u32, tcp: bool) -> Key {
    Key { protocol: if tcp { TCP } else { UDP }, ..key(port, n) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s8_sessions_behave_as_a_plain_map_does(steps in steps()) {
        let sessions = Sessions::new(64, 1);
        let mut model: HashMap<Key, Naive> = HashMap::new();
        let mut handles: HashMap<Handle, Key> = HashMap::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Wait(ns) => now += ns,
                Step::Packet { port, n, direction, flags } => {
                    let key = name(port, n, flags.is_some());
                    let live = model.get_mut(&key).filter(|m| m.alive(now));
                    let found = sessions.find(now, &key);
                    prop_assert_eq!(found.map(|f| (f.state, f.grant)), live.as_ref().map(|m| (m.state, m.grant)));
                    match live {
                        Some(m) if m.admits(direction, flags) => {
                            let found = found.expect("compared above");
                            prop_assert!(found.admits(direction, flags));
                            prop_assert!(sessions.pass(now, found.handle, direction, flags));
                            m.pass(now, direction, flags);
                        }
                        Some(_) => {
                            let found = found.expect("compared above");
                            prop_assert!(!found.admits(direction, flags));
                            prop_assert!(!sessions.pass(now, found.handle, direction, flags));
                        }
                        None => {
                            let grant = Grant { opened: direction, ..grant(IDLE) };
                            let handle = sessions.open(now, key, grant, flags);
                            if flags.is_some_and(|f| f & 4 != 0) {
                                prop_assert_eq!(handle, Ok(Handle::NONE));
                            } else {
                                let handle = handle.expect("fewer keys than room");
                                prop_assert_eq!(handles.insert(handle, key), None, "a handle is never given twice");
                                model.insert(key, Naive::new(now, grant, flags));
                            }
                        }
                    }
                }
                Step::Close { port, n } => {
                    for tcp in [false, true] {
                        let key = name(port, n, tcp);
                        if let Some(found) = sessions.find(now, &key) {
                            sessions.close(found.handle);
                            model.remove(&key);
                        }
                    }
                }
                Step::Flush(port) => {
                    let before = model.len();
                    model.retain(|key, _| key.port != PortId(port));
                    let live = sessions.flush(PortId(port));
                    prop_assert!(live >= (before - model.len()) as u64, "and what expired but was not removed");
                }
                Step::Age => {
                    sessions.age(now);
                    model.retain(|_, m| m.alive(now));
                    prop_assert_eq!(sessions.len(), model.len());
                }
                Step::Regrant { port, odd, idle } => {
                    let judge = |key: &Key, grant: &Grant| match key.remote_port % 2 == u16::from(odd) {
                        true if key.port == PortId(port) => None,
                        true => Some(Grant { idle, ..*grant }),
                        false => Some(*grant),
                    };
                    let before = model.len();
                    model.retain(|key, m| m.alive(now) && match judge(key, &m.grant) {
                        Some(grant) => { m.grant = grant; true }
                        None => false,
                    });
                    prop_assert_eq!(sessions.reconcile(now, None, judge), (before - model.len()) as u64);
                }
            }
            model.retain(|_, m| m.alive(now));
            let mut shown = sessions.list(now, None);
            shown.sort_by_key(|s| (s.key.port, s.key.remote_port, s.key.protocol));
            let mut expected: Vec<_> = model.iter().collect();
            expected.sort_by_key(|(k, _)| (k.port, k.remote_port, k.protocol));
            prop_assert_eq!(shown.len(), expected.len());
            for (s, (key, m)) in shown.iter().zip(expected) {
                prop_assert_eq!((&s.key, s.grant, s.state), (key, m.grant, m.state));
                prop_assert_eq!(s.idle_ms, (now - m.seen) / MS);
                prop_assert_eq!(s.expires_ms, (m.seen + m.timeout() - now) / MS);
            }
            let c = sessions.counters();
            prop_assert_eq!(c.opened - c.closed - c.expired - c.evicted, sessions.len() as u64);
        }
    }

    #[test]
    fn h29_no_order_of_floods_breaks_the_bounds(
        steps in prop::collection::vec((1..14u16, 0..200u32, any::<bool>(), 0..50u64), 1..1500)
    ) {
        let sessions = Sessions::new(512, 1);
        let mut now = 0;
        for (port, n, reply, wait) in steps {
            now += wait * MS;
            let would = sessions.would_open(now, &key(port, n));
            let held = |port| sessions.list(now, Some(PortId(port))).len();
            let before: Vec<usize> = if would { Vec::new() } else { (1..14).map(held).collect() };
            let result = sessions.open(now, key(port, n), grant(3600 * SECOND), None);
            prop_assert_eq!(would, result.is_ok());
            match result {
                Ok(handle) if reply => prop_assert!(sessions.pass(now, handle, In, None)),
                Ok(_) => {}
                Err(_) => {
                    let own = before[usize::from(port) - 1];
                    prop_assert!(own == 64 || before.iter().all(|&other| other <= own), "{:?}", before);
                    let shown = sessions.list(now, Some(PortId(port)));
                    prop_assert!(shown.iter().all(|s| s.state == State::Established), "all its own are in use");
                }
            }
            prop_assert!(sessions.len() <= 512);
        }
        for port in 1..14 {
            prop_assert!(sessions.list(now, Some(PortId(port))).len() <= 64);
        }
    }
}
