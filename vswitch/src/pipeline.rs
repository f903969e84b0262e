//! THE order of steps: what is asked about a frame, in which order, until one step has the answer.
//!
//! A frame is first parsed and its port looked up (`frame-too-short`, `frame-too-long`, `no-such-port`), then [`STEPS`]
//! are taken in turn, and what none of them stopped is forwarded. What depends on more than the flow (the receiver's MTU
//! and rings, offloads) is asked when the frame is delivered.
//!
//! Runs on a flow-cache miss. Each rule lives in the file named after it; the order lives here and nowhere else.

use std::ops::ControlFlow;

use crate::event::Event;
use crate::fdb::Fdb;
use crate::frame::ethernet;
use crate::port::{Port, learning, link, reserved, source};
use crate::snapshot::{FloodSet, Snapshot};
use crate::trace::DropReason;
use crate::{Mac, Nanos, PortId, forward};

/// The steps between parsing and forwarding, in order. Names are shown in traces.
pub const STEPS: [(&str, Rule); 5] = [
    ("sender-link", link::sender),
    ("valid-source", source::valid),
    ("allowed-source", source::allowed),
    ("reserved-destination", reserved::destination),
    ("learning", learning::learn),
];

/// Decides one frame: its first bytes `head` (all of it, or at least [`crate::HEAD_LEN`]) and its whole length `len`
/// in bytes. Learns its source. Judges exactly as [`crate::flow::Forwarder::judge`] does, without a cache.
pub fn run(snap: &Snapshot, fdb: &Fdb, now: Nanos, from: PortId, head: &[u8], len: u32) -> Verdict {
    decide(snap, fdb, now, from, head, len).verdict
}

/// As [`run`], with what else is to be known about the decision.
pub fn decide(snap: &Snapshot, fdb: &Fdb, now: Nanos, from: PortId, head: &[u8], len: u32) -> Decision {
    let ether = match ethernet::check(head, len) {
        Ok(ether) => ether,
        Err(reason) => return Decision::drop(reason),
    };
    let Some(port) = snap.port(from) else {
        return Decision::drop(DropReason::NoSuchPort);
    };
    let ethernet::Outer { dst, src, vlan } = ether;
    let mut frame = Frame { snap, fdb, now, port, dst, src, vlan, event: None, revisit: false };
    for (_, rule) in &STEPS {
        if let Step::Break(verdict) = rule(&mut frame) {
            return frame.end(verdict);
        }
    }
    let verdict = forward::destination(&mut frame);
    frame.end(verdict)
}

/// What is to happen with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes nowhere.
    Drop(DropReason),
    /// It goes to one port.
    Unicast(PortId),
    /// It goes to every port of [`Snapshot::flood`].
    Flood(FloodSet),
}

/// A verdict and what else came out of the decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What is to happen with the frame.
    pub verdict: Verdict,
    /// What an operator may want to know.
    pub event: Option<Event>,
    /// Whether the pipeline must see a frame of this flow again after a second: its source was learned and must not age,
    /// or it caused an event that is to be reported as long as it lasts.
    pub revisit: bool,
}

impl Decision {
    fn drop(reason: DropReason) -> Self {
        Self { verdict: Verdict::Drop(reason), event: None, revisit: false }
    }
}

/// What a step says: go on, or this is the verdict.
pub(crate) type Step = ControlFlow<Verdict>;

/// One rule.
type Rule = fn(&mut Frame<'_>) -> Step;

/// A frame on its way through the steps.
#[derive(Debug)]
pub struct Frame<'a> {
    pub(crate) snap: &'a Snapshot,
    pub(crate) fdb: &'a Fdb,
    pub(crate) now: Nanos,
    /// The port it came from.
    pub(crate) port: &'a Port,
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
    /// VLAN it belongs to; 0 = untagged.
    pub(crate) vlan: u16,
    pub(crate) revisit: bool,
    event: Option<Event>,
}

impl Frame<'_> {
    /// Notes what an operator may want to know. No frame has more than one such thing to report.
    pub(crate) fn notice(&mut self, event: Event) {
        self.event = Some(event);
        self.revisit = true;
    }

    fn end(self, verdict: Verdict) -> Decision {
        Decision { verdict, event: self.event, revisit: self.revisit }
    }
}
