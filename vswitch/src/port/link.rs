//! Administrative link state: a port whose link is down neither sends nor receives, and no more does one that requires an extension which is
//! not there.

use crate::port::Port;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, Verdict};

/// Drops what comes from a port whose link is down.
pub(crate) fn sender(frame: &mut Frame<'_>) -> Step {
    if !frame.port.policy.link_up {
        return Step::Break(Verdict::Drop(DropReason::LinkDown));
    }
    if frame.port.unmet {
        return Step::Break(Verdict::Drop(DropReason::ExtensionMissing));
    }
    Step::Continue(())
}

/// Whether the port that is to receive a frame has its link up.
pub(crate) fn receiver(_: &mut Frame<'_>, to: &Port) -> Result<(), DropReason> {
    match to {
        to if !to.policy.link_up => Err(DropReason::ReceiverLinkDown),
        to if to.unmet => Err(DropReason::ExtensionMissing),
        _ => Ok(()),
    }
}
