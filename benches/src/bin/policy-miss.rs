//! Prints what judging a frame costs in the switch alone: the first frame of a flow, and any later one.
//!
//! Two guest ports, each with 1,000 ACL entries and 1,000 extended rules in each direction, so that a frame from one to the
//! other is judged by the sender's for `out` and the receiver's for `in`. What the frames match are the last of the rules.
//! Each frame of the first measurement has a 5-tuple of its own. One JSON object on standard output, nanoseconds a frame,
//! medians of many batches that are shorter than a time slice, so that other processes do not count.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net};
use vswitch::flow::{Forwarder, Plan};
use vswitch::pipeline::Verdict;
use vswitch::port::{Policy, Port, PortKind, acl, rule};
use vswitch::snapshot::{Snapshot, SwitchConfig};
use vswitch::state::State;
use vswitch::trace::DropReason;
use vswitch::{Direction, Mac, Nanos, PortId, Tally};

const ENTRIES: u32 = 1000;
const BATCHES: usize = 501;
/// Frames of one batch of first frames: less than a port's share of sessions, so that each may open one.
const BATCH: usize = 256;
const BURST: usize = 64;
const LEN: usize = 64;
const SENDER: (PortId, Mac, Ipv4Addr) = (PortId(1), Mac([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(198, 18, 0, 1));
const RECEIVER: (PortId, Mac, Ipv4Addr) = (PortId(2), Mac([2, 0, 0, 0, 0, 2]), Ipv4Addr::new(198, 18, 0, 2));
const PASSES: Verdict = Verdict::Unicast(RECEIVER.0);
const UDP: u8 = 17;
const SECOND: Nanos = 1_000_000_000;

fn main() {
    let plain = Bench::new(|_| Policy::default());
    let stateless = Bench::new(|own| guarded(own, None));
    let stateful = Bench::new(|own| guarded(own, Some(30 * SECOND)));
    for bench in [&stateless, &stateful] {
        assert!(
            bench.judge_one(56) == Verdict::Drop(DropReason::RuleDenied) && bench.judge_one(5000) == PASSES,
            "policy is not at work"
        );
    }
    println!(
        "{{\"first_ns\": {:.1}, \"first_stateful_ns\": {:.1}, \"later_ns\": {:.1}, \
         \"later_stateful_ns\": {:.1}, \"later_without_policy_ns\": {:.1}}}",
        stateless.first(),
        stateful.first(),
        stateless.later(),
        stateful.later(),
        plain.later()
    );
}

/// A small switch and its state.
struct Bench {
    snap: Snapshot,
    state: State,
}

impl Bench {
    /// Two ports with the policy that `policy` makes of the address they own.
    fn new(policy: impl Fn(Ipv4Addr) -> Policy) -> Self {
        let ports = [SENDER, RECEIVER]
            .map(|(id, mac, own)| Port { policy: policy(own), ..Port::new(id, PortKind::Guest, mac) });
        let snap = Snapshot::new(1, SwitchConfig::default(), ports.into());
        Self { snap, state: State::new(8192, 1) }
    }

    /// What happens with one frame to this UDP port.
    fn judge_one(&self, port: u16) -> Verdict {
        let mut forwarder = Forwarder::new(1, 64);
        let (head, mut plan) = (frame(40_000, port), Plan::default());
        forwarder.begin(&self.snap, &self.state, 0, SENDER.0);
        forwarder.judge(&self.snap, &self.state, 0, SENDER.0, &head, LEN as u32, &mut plan)
    }

    /// Nanoseconds for the first frame of a flow.
    fn first(&self) -> f64 {
        let mut forwarder = Forwarder::new(1, 1 << 15);
        let mut tuples = (1024..=u16::MAX).flat_map(|from| (1024..=u16::MAX).map(move |to| (from, to)));
        let batches = (0..BATCHES).map(|_| {
            let frames: Vec<_> = tuples.by_ref().take(BATCH).map(|(from, to)| frame(from, to)).collect();
            let before = forwarder.counters().misses;
            let took = self.timed(&mut forwarder, &frames, 1);
            assert_eq!(
                forwarder.counters().misses - before,
                BATCH as u64,
                "every frame was to be a first one"
            );
            self.state.sessions.flush(SENDER.0);
            self.state.sessions.flush(RECEIVER.0);
            took
        });
        median(batches.collect())
    }

    /// Nanoseconds for a later frame of one of 64 flows.
    fn later(&self) -> f64 {
        let mut forwarder = Forwarder::new(1, 1 << 15);
        let frames: Vec<_> = (0..BURST as u16).map(|n| frame(40_000, 5000 + n)).collect();
        self.timed(&mut forwarder, &frames, 2); // the first opens sessions, the second finds them
        let batches = (0..BATCHES).map(|_| {
            let before = forwarder.counters().misses;
            let took = self.timed(&mut forwarder, &frames, 50);
            assert_eq!(forwarder.counters().misses, before, "every frame was to be a later one");
            took
        });
        median(batches.collect())
    }

    /// Judges all frames that many times, in bursts as a worker does; nanoseconds a frame.
    fn timed(&self, forwarder: &mut Forwarder, frames: &[[u8; LEN]], times: usize) -> f64 {
        let (now, len, mut plan) = (SECOND, LEN as u32, Plan::default());
        let began = Instant::now();
        for _ in 0..times {
            for burst in frames.chunks(BURST) {
                forwarder.begin(&self.snap, &self.state, now, SENDER.0);
                for frame in burst {
                    let verdict =
                        forwarder.judge(&self.snap, &self.state, now, SENDER.0, frame, len, &mut plan);
                    assert_eq!(verdict, PASSES);
                    black_box(&plan);
                }
            }
        }
        began.elapsed().as_secs_f64() * 1e9 / f64::from((times * frames.len()) as u32)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A UDP frame of 64 bytes from the sender to the receiver.
fn frame(from: u16, to: u16) -> [u8; LEN] {
    let mut frame = [0; LEN];
    frame[..6].copy_from_slice(&RECEIVER.1.0);
    frame[6..12].copy_from_slice(&SENDER.1.0);
    frame[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, LEN as u8 - 14]);
    frame[22..24].copy_from_slice(&[64, UDP]);
    frame[26..30].copy_from_slice(&SENDER.2.octets());
    frame[30..34].copy_from_slice(&RECEIVER.2.octets());
    frame[34..36].copy_from_slice(&from.to_be_bytes());
    frame[36..38].copy_from_slice(&to.to_be_bytes());
    frame[38..40].copy_from_slice(&[0, LEN as u8 - 34]);
    frame
}

/// A policy in which nothing decides early: guards, an owned address, entries and rules of all kinds, and last a rule for
/// everything in UDP above port 1023.
fn guarded(own: Ipv4Addr, stateful: Option<Nanos>) -> Policy {
    let entries: Vec<_> = [Direction::Out, Direction::In].into_iter().flat_map(entries).collect();
    let rules: Vec<_> =
        [Direction::Out, Direction::In].into_iter().flat_map(|d| rules(d, stateful)).collect();
    Policy {
        dhcp_guard: true,
        router_guard: true,
        addresses: Some(Arc::new([IpNet::from(IpAddr::V4(own))])),
        acl: Arc::new(acl::Table::new(&entries)),
        rules: Arc::new(rule::Table::new(&rules)),
        ..Policy::default()
    }
}

/// `base` and all that is beside it in steps of its own size, as prefixes of that length.
fn prefix(base: [u8; 4], length: u8, n: u32) -> IpNet {
    let step = 1_u32.checked_shl(32 - u32::from(length)).unwrap_or(1);
    let address = u32::from_be_bytes(base).wrapping_add(step.wrapping_mul(n));
    IpNet::V4(Ipv4Net::new_assert(address.into(), length).trunc())
}

/// 1,000 entries of one direction: a white-list for the local address, ten meters of which the longest counts, and denied
/// prefixes of all lengths around the peer's address.
fn entries(direction: Direction) -> impl Iterator<Item = acl::Entry> {
    (0..ENTRIES).map(move |n| {
        let tally = Tally(n + 1);
        let (action, applies, address) = match n {
            0 => (acl::Action::Deny, acl::Applies::Local, acl::Address::Any),
            1 => (acl::Action::Allow, acl::Applies::Local, acl::Address::Ip(prefix([198, 18, 0, 0], 24, 0))),
            2..12 => {
                let length = 7 + n as u8; // 9 to 18: each holds the peer's address
                (
                    acl::Action::Meter,
                    acl::Applies::Remote,
                    acl::Address::Ip(prefix([198, 18, 0, 0], length, 0)),
                )
            }
            _ => {
                let length = 20 + (n % 13) as u8;
                (
                    acl::Action::Deny,
                    acl::Applies::Remote,
                    acl::Address::Ip(prefix([198, 18, 128, 0], length, n)),
                )
            }
        };
        acl::Entry { direction, applies, address, action, tally }
    })
}

/// 1,000 rules of one direction, heaviest first; what a frame of ours looks like is nearly matched by many of them.
fn rules(direction: Direction, stateful: Option<Nanos>) -> impl Iterator<Item = rule::Rule> {
    (0..ENTRIES).map(move |n| {
        let low = (n % 1000) as u16;
        let mut rule = rule::Rule {
            direction,
            weight: ENTRIES - n,
            action: if n % 3 == 0 { rule::Action::Allow } else { rule::Action::Deny },
            local: None,
            remote: None,
            local_ports: None,
            remote_ports: None,
            protocol: Some(UDP),
            stateful: None,
            isolation: None,
            tally: Tally(10_000 + n),
        };
        match n % 5 {
            _ if n == ENTRIES - 1 => {
                rule.action = rule::Action::Allow;
                rule.remote_ports = (direction == Direction::Out).then_some(1024..=u16::MAX);
                rule.local_ports = (direction == Direction::In).then_some(1024..=u16::MAX);
                rule.stateful = stateful;
            }
            0 => rule.remote = Some(prefix([198, 18, 128, 0], 20 + (n % 13) as u8, n)),
            1 => {
                rule.remote = Some(prefix([198, 18, 0, 0], 16, 0));
                rule.remote_ports = Some(low..=low);
            }
            2 => {
                rule.protocol = Some(6);
                rule.local_ports = Some(low..=low + 20_000);
            }
            3 => {
                rule.local = Some(prefix([198, 18, 64, 0], 24, n));
                rule.remote_ports = Some(1024..=u16::MAX);
            }
            _ => {
                rule.action = rule::Action::Deny;
                rule.local_ports = Some(low..=low);
            }
        }
        rule
    })
}
