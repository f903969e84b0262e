//! Where a frame goes.
//!
//! | destination | from a guest or the host | from the uplink |
//! |---|---|---|
//! | broadcast, multicast | all other ports and the uplink | all other ports |
//! | configured or learned address | that port only | that port only |
//! | the same, behind the sending port | dropped | dropped (split horizon) |
//! | unknown, external switch | uplink only | ports with MAC spoofing, else dropped |
//! | unknown, internal or private switch | ports with MAC spoofing, else dropped | - |

use crate::port::{Port, PortKind, link};
use crate::snapshot::{FloodSet, SwitchKind};
use crate::trace::DropReason;
use crate::verdict::{Frame, Verdict};

/// The last step: always ends in a verdict.
pub(crate) fn destination(frame: &mut Frame<'_>) -> Verdict {
    if frame.dst.is_group() {
        return Verdict::Flood(FloodSet::Members);
    }
    match known(frame) {
        Some(port) if port.id == frame.port.id => Verdict::Drop(DropReason::SameSegmentReturn),
        Some(port) => link::receiver(port),
        None => unknown(frame),
    }
}

/// The port that has the destination. Configuration goes before learning, and what was learned counts only while the
/// port may still have learned addresses: policy may have changed since.
fn known<'a>(frame: &Frame<'a>) -> Option<&'a Port> {
    if let Some(owner) = frame.snap.owner(frame.dst) {
        return frame.snap.port(owner);
    }
    let learned = frame.state.fdb.lookup(frame.dst, frame.vlan)?;
    frame.snap.port(learned).filter(|p| p.learns())
}

fn unknown(frame: &Frame<'_>) -> Verdict {
    let snap = frame.snap;
    if snap.config().kind == SwitchKind::External && frame.port.kind != PortKind::Uplink {
        return match snap.uplink().and_then(|id| snap.port(id)) {
            Some(uplink) => link::receiver(uplink),
            None => Verdict::Drop(DropReason::UnknownUnicast),
        };
    }
    if snap.flood(FloodSet::Learning, frame.port.id).next().is_some() {
        Verdict::Flood(FloodSet::Learning)
    } else {
        Verdict::Drop(DropReason::UnknownUnicast)
    }
}
