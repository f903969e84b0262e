//! Where a frame goes.
//!
//! | destination | from a guest or the host | from the uplink |
//! |---|---|---|
//! | broadcast, multicast | all other ports and the uplink | all other ports |
//! | configured or learned address | that port only | that port only |
//! | the same, behind the sending port | dropped | dropped (split horizon) |
//! | unknown, external switch | uplink only | ports with MAC spoofing, else dropped |
//! | unknown, internal or private switch | ports with MAC spoofing, else dropped | - |
//!
//! With network virtualization, what comes from a port of a virtual subnet goes by its IP address: [`crate::nv`].
//!
//! Within the frame's network only. An address that is configured for a port of another network is unknown in this one; between
//! the two halves of a private VLAN, and in a virtual subnet, that is the end of it, because the frame must not find a way around.

use crate::nv;
use crate::port::vlan::Receives;
use crate::port::{Port, PortKind, admission, storm};
use crate::snapshot::{FloodSet, SwitchKind};
use crate::trace::DropReason;
use crate::verdict::{Frame, Verdict};

/// The last step: always ends in a verdict. What the receiver's policy says comes after it.
pub(crate) fn destination(frame: &mut Frame<'_>) -> Verdict {
    if let Some(policy) = frame.snap.nv()
        && frame.port.policy.vsid.is_some()
    {
        return nv::walk::out(frame, policy);
    }
    if frame.dst.is_group() {
        return Verdict::Flood(FloodSet::Members);
    }
    if frame.dst == frame.src {
        // Whoever it is, it is where the frame came from; whether that was learned does not matter.
        return Verdict::Drop(DropReason::SameSegmentReturn);
    }
    match known(frame) {
        Some(port) if port.id == frame.port.id => Verdict::Drop(DropReason::SameSegmentReturn),
        Some(port) if port.receives(frame.segment) != Receives::No => Verdict::Unicast(port.id),
        Some(port) => match admission::mismatch(frame, port) {
            DropReason::VlanFiltered => unknown(frame, DropReason::VlanFiltered),
            apart => Verdict::Drop(apart),
        },
        None => unknown(frame, DropReason::UnknownUnicast),
    }
}

/// The port that has the destination. Configuration goes before learning (but for an address that a teamed port has taken over, or that was
/// heard on the uplink while its own port has no guest), and what was learned counts only while the port may still have learned
/// addresses: policy may have changed since.
fn known<'a>(frame: &Frame<'a>) -> Option<&'a Port> {
    let snap = frame.snap;
    let learned = || frame.state.fdb.lookup(frame.dst, snap.filtering(frame.segment));
    match snap.owner(frame.dst).and_then(|owner| snap.port(owner)) {
        Some(owner) if owner.present && !owner.policy.teaming => Some(owner),
        Some(owner) => {
            let other = learned().filter(|&id| snap.stands_in(id, owner.id));
            other.and_then(|id| snap.port(id)).or(Some(owner))
        }
        None => learned().and_then(|id| snap.port(id)).filter(|port| port.learns()),
    }
}

/// What becomes of a frame to an address nobody in its network has; `reason` if there is nowhere to send it.
fn unknown(frame: &mut Frame<'_>, reason: DropReason) -> Verdict {
    let (snap, segment) = (frame.snap, frame.segment);
    let verdict = if snap.config().kind == SwitchKind::External && frame.port.kind != PortKind::Uplink {
        match snap.uplink().and_then(|id| snap.port(id)) {
            Some(uplink) if uplink.receives(segment) != Receives::No => Verdict::Unicast(uplink.id),
            _ => return Verdict::Drop(reason),
        }
    } else {
        let receives = |id| snap.port(id).is_some_and(|port: &Port| port.receives(segment) != Receives::No);
        if !snap.flood(FloodSet::Learning, frame.port.id).any(receives) {
            return Verdict::Drop(reason);
        }
        Verdict::Flood(FloodSet::Learning)
    };
    if storm::take(frame) { verdict } else { Verdict::Drop(DropReason::StormLimit) }
}
