//! Administrative link state: a port whose link is down neither sends nor receives.

use crate::port::Port;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, Verdict};

/// Drops what comes from a port whose link is down.
pub(crate) fn sender(frame: &mut Frame<'_>) -> Step {
    if frame.port.policy.link_up {
        Step::Continue(())
    } else {
        Step::Break(Verdict::Drop(DropReason::LinkDown))
    }
}

/// Whether the port that is to receive a frame has its link up.
pub(crate) fn receiver(_: &mut Frame<'_>, to: &Port) -> Result<(), DropReason> {
    if to.policy.link_up { Ok(()) } else { Err(DropReason::ReceiverLinkDown) }
}
