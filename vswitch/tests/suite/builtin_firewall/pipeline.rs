//! The firewall behind the real pipeline and flow cache: what is remembered of an answer never outlives it by more than a second.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use vswitch::extension::{Extension, FailMode, Slot, Stack};
use vswitch::flow::{Forwarder, Plan};
use vswitch::frame::protocol;
use vswitch::pipeline::Verdict;
use vswitch::snapshot::{Snapshot, SwitchConfig};
use vswitch::state::State;
use vswitch::trace::DropReason;
use vswitch::{PortId, Tally};

use super::{ACK, GUEST, PEER, RST, SYN, start};
use crate::packets::{ethernet, tcp, udp, v4};
use crate::support::{SECOND, dropped, guest, mac_of, to};

/// Port 1 is behind the firewall; its peer is port 2.
struct Bench {
    snap: Snapshot,
    state: State,
    forwarder: Forwarder,
    wall: Arc<dyn Extension>,
    now: u64,
}

impl Bench {
    fn new(config: &Value) -> Self {
        let wall = start(config);
        wall.set(Some(PortId(1)), Some(&json!({ "sets": [] }))).expect("settings");
        let tallies: Vec<Tally> = (1..=6).map(Tally).collect();
        let slot = Slot::new("firewall", Arc::clone(&wall), FailMode::Closed, &tallies);
        let stack = Stack::new(vec![slot]).expect("a stack");
        let snap = Snapshot::new(1, SwitchConfig::default(), vec![guest(1), guest(2)]);
        let snap = snap.with_extensions(Arc::new(stack));
        Self { snap, state: State::new(64, 7), forwarder: Forwarder::new(3, 64), wall, now: 10 * SECOND }
    }

    fn send(&mut self, from: u16, packet: &[u8]) -> (Verdict, Plan) {
        let frame = ethernet(mac_of(3 - from), mac_of(from), &[], 0x0800, packet);
        self.forwarder.begin(&self.snap, &self.state, self.now, PortId(from));
        let mut plan = Plan::default();
        let (snap, state, len) = (&self.snap, &self.state, frame.len() as u32);
        let verdict = self.forwarder.judge(snap, state, self.now, PortId(from), &frame, len, &mut plan);
        (verdict, plan)
    }

    /// How often the firewall was asked.
    fn asked(&self) -> u64 {
        let stack = self.snap.extensions().expect("a stack");
        stack.slots()[0].activity().judged.load(Ordering::Relaxed)
    }

    fn out(&mut self, flags: u8) -> Verdict {
        self.send(1, &v4(GUEST, PEER, protocol::TCP, &tcp(4000, 80, flags, &[]))).0
    }

    fn come(&mut self, flags: u8) -> Verdict {
        self.send(2, &v4(PEER, GUEST, protocol::TCP, &tcp(80, 4000, flags, &[]))).0
    }

    fn open(&mut self) {
        assert_eq!(self.out(SYN), to(2));
        assert_eq!(self.come(SYN | ACK), to(1));
        assert_eq!(self.out(ACK), to(2));
        assert_eq!(self.come(ACK), to(1));
    }
}

fn kept_out() -> Verdict {
    Verdict::Refuse(DropReason::ExtensionFiltered, PortId(1))
}

#[test]
fn s15_an_ended_connection_lets_nothing_through_after_a_second() {
    let mut bench = Bench::new(&Value::Null);
    bench.open();
    let misses = bench.forwarder.counters().misses;
    for _ in 0..100 {
        assert_eq!(bench.come(ACK), to(1));
    }
    assert_eq!(bench.forwarder.counters().misses, misses, "the cache answers");
    assert_eq!(bench.come(RST), to(1));
    bench.now += 2 * SECOND;
    assert_eq!(bench.come(ACK), kept_out());
}

#[test]
fn s15_a_connection_in_use_lasts_though_the_cache_answers() {
    let mut bench = Bench::new(&json!({ "timeouts": { "tcp": 5 } }));
    bench.open();
    for _ in 0..600 {
        bench.now += SECOND / 10;
        assert_eq!(bench.come(ACK), to(1));
    }
    bench.now += 8 * SECOND;
    assert_eq!(bench.come(ACK), kept_out());
}

#[test]
fn s15_2_what_was_refused_passes_at_once_when_it_is_an_answer() {
    let mut bench = Bench::new(&Value::Null);
    let answer = v4(PEER, GUEST, protocol::UDP, &udp(53, 4000, b"answer"));
    for _ in 0..3 {
        let (verdict, plan) = bench.send(2, &answer);
        assert_eq!(verdict, kept_out());
        assert_eq!(plan.actions.inward.tallies[2], Tally(1), "its first reason");
    }
    let question = v4(GUEST, PEER, protocol::UDP, &udp(4000, 53, b"question"));
    assert_eq!(bench.send(1, &question).0, to(2));
    assert_eq!(bench.send(2, &answer).0, to(1));
    // The same for what the guest sends.
    let mut bench = Bench::new(&json!({ "default": { "out": "deny", "in": "allow" } }));
    for _ in 0..3 {
        assert_eq!(bench.send(1, &question).0, dropped(DropReason::ExtensionFiltered));
    }
    assert_eq!(bench.send(2, &answer).0, to(1));
    assert_eq!(bench.send(1, &question).0, to(2));
}

#[test]
fn s15_settings_are_in_force_with_the_next_frame_that_is_asked_about() {
    let config = json!({ "sets": { "none": [{ "action": "deny", "direction": "out" }] } });
    let mut bench = Bench::new(&config);
    bench.open();
    bench.wall.set(Some(PortId(1)), Some(&json!({ "sets": ["none"] }))).expect("settings");
    // Any frame that is asked about has the others asked about, at all workers.
    assert_eq!(bench.out(SYN), dropped(DropReason::ExtensionFiltered));
    assert_eq!(bench.come(ACK), kept_out());
    assert_eq!(bench.out(ACK), dropped(DropReason::ExtensionFiltered));
}

#[test]
fn s15_payload_is_seen_behind_the_cache_and_later_left_alone() {
    let payloads =
        json!({ "intrusion": { "payloads": [{ "name": "worm", "hex": "cafebabe", "block": 0 }] } });
    let mut bench = Bench::new(&payloads);
    bench.open();
    let carrying = |payload: &[u8]| v4(PEER, GUEST, protocol::TCP, &tcp(80, 4000, ACK, payload));
    assert_eq!(bench.come(ACK), to(1));
    let (verdict, plan) = bench.send(2, &carrying(b"\xca\xfe\xba\xbe"));
    assert_eq!((verdict, plan.actions.inward.tallies[2]), (kept_out(), Tally(6)));
    assert_eq!(bench.come(ACK), kept_out());
    // Of a connection that begins harmlessly only the first few are looked at.
    bench.open();
    for _ in 0..4 {
        assert_eq!(bench.send(2, &carrying(&[7; 100])).0, to(1));
    }
    bench.now += 2 * SECOND;
    assert_eq!(bench.come(ACK), to(1));
    let before = bench.asked();
    for _ in 0..10 {
        assert_eq!(bench.come(ACK), to(1));
    }
    assert_eq!(bench.asked(), before);
}
