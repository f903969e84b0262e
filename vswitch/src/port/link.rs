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

/// The verdict for a frame that only `port` is to get.
pub(crate) fn receiver(port: &Port) -> Verdict {
    if port.policy.link_up { Verdict::Unicast(port.id) } else { Verdict::Drop(DropReason::ReceiverLinkDown) }
}
