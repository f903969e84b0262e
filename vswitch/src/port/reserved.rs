//! Destinations that no switch forwards: the link-local protocol addresses 01-80-C2-00-00-00 to 0F (IEEE 802.1Q, 8.6.3),
//! among them those of spanning tree, LACP and LLDP. A bridge inside a guest must not speak them to its neighbours, nor
//! does a frame to the null address go anywhere.

use crate::Mac;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, Verdict};

/// Whether the address is one of the sixteen link-local protocol addresses.
pub fn is_reserved(mac: Mac) -> bool {
    matches!(mac.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
}

/// Drops frames to addresses that are never forwarded.
pub(crate) fn destination(frame: &mut Frame<'_>) -> Step {
    if frame.dst == Mac([0; 6]) {
        return Step::Break(Verdict::Drop(DropReason::NullDestination));
    }
    if is_reserved(frame.dst) {
        return Step::Break(Verdict::Drop(DropReason::ReservedMulticast));
    }
    Step::Continue(())
}
