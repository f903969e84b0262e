//! Mirroring: what a source sends or receives is copied to every destination.
//!
//! Decided last, whatever forwarding said: a frame that was dropped is not copied, one that its receiver's policy refused was still
//! sent. A copy is never copied again, never goes back to the sender, and never to a port that gets the frame anyway. The
//! monitor's VLAN mode decides whether and how it gets the copy; its ACL and rules do not.

use crate::port::{Mirror, Port, PortKind};
use crate::snapshot::Snapshot;

impl Port {
    /// Whether what it sends and receives is copied.
    #[inline]
    pub fn is_mirrored(&self) -> bool {
        self.policy.mirror == Mirror::Source
    }

    /// Whether it gets the copies. Never the uplink.
    pub fn is_monitor(&self) -> bool {
        self.policy.mirror == Mirror::Destination && self.kind != PortKind::Uplink
    }
}

/// Whether a frame between these ports has to be copied. `to` is `None` in a flood, where each receiver is asked for itself.
pub(crate) fn wanted(snap: &Snapshot, from: &Port, to: Option<&Port>) -> bool {
    !snap.monitors().is_empty() && (from.is_mirrored() || to.is_some_and(Port::is_mirrored))
}
