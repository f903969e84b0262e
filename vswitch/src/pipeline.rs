//! THE order of steps: what is asked about a frame, in which order, until one step has the answer.
//!
//! A frame is first parsed and its port looked up (`frame-too-short`, `frame-too-long`, `no-such-port`), then [`STEPS`]
//! are taken in turn, and what none of them stopped is forwarded. What depends on more than the flow (the receiver's MTU
//! and rings, offloads) is asked when the frame is delivered.
//!
//! Runs on a flow-cache miss. Each rule lives in the file named after it; the order lives here and nowhere else.

use crate::frame::ethernet;
use crate::port::{
    address_limit, addresses, dhcp_guard, learning, link, reserved, router_guard, source, storm,
};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::trace::DropReason;
use crate::verdict::{Frame, Rule, Step};
use crate::{Nanos, PortId, forward};

pub use crate::verdict::{Decision, Verdict};

/// The steps between parsing and forwarding, in order. Names are shown in traces.
pub const STEPS: [(&str, Rule); 10] = [
    ("sender-link", link::sender),
    ("valid-source", source::valid),
    ("allowed-source", source::allowed),
    ("reserved-destination", reserved::destination),
    ("dhcp-guard", dhcp_guard::guard),
    ("router-guard", router_guard::guard),
    ("owned-addresses", addresses::owned),
    ("address-limit", address_limit::limit),
    ("storm-limit", storm::limit),
    ("learning", learning::learn),
];

/// Decides one frame: its first bytes `head` (all of it, or at least [`crate::HEAD_LEN`]) and its whole length `len`
/// in bytes. Learns its source. Judges exactly as [`crate::flow::Forwarder::judge`] does, without a cache.
pub fn run(snap: &Snapshot, state: &State, now: Nanos, from: PortId, head: &[u8], len: u32) -> Verdict {
    decide(snap, state, now, from, head, len).verdict
}

/// As [`run`], with what else is to be known about the decision.
pub fn decide(snap: &Snapshot, state: &State, now: Nanos, from: PortId, head: &[u8], len: u32) -> Decision {
    let ether = match ethernet::check(head, len) {
        Ok(ether) => ether,
        Err(reason) => return Decision::drop(reason),
    };
    let Some(port) = snap.port(from) else {
        return Decision::drop(DropReason::NoSuchPort);
    };
    let ethernet::Outer { dst, src, vlan } = ether;
    let mut frame = Frame::new(snap, state, now, port, (head, len), (dst, src, vlan));
    for (_, rule) in &STEPS {
        if let Step::Break(verdict) = rule(&mut frame) {
            return frame.end(verdict);
        }
    }
    let verdict = forward::destination(&mut frame);
    frame.end(verdict)
}
