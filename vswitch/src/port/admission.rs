//! Which network a frame is in, and which ports are in it: VLAN modes, virtual subnets, private VLANs.
//!
//! - A port with a VLAN mode sends and receives as [`crate::port::vlan`] says; one with a virtual subnet only untagged, in
//!   that subnet; the uplink carries every VLAN, tagged, and the untagged network, but no virtual subnet.
//! - Behind a priority tag there may be no other tag: without the first one it would be the outer one, and so the guest would
//!   choose its VLAN on the physical network. For the same reason a port that gets a network untagged gets no frame of it
//!   with a second tag: without the first one the receiver, if it is a trunk, would take it for another network's.
//! - The 802.1p priority that a port sends is kept only if its policy says so, and that of the uplink always.

use crate::Segment;
use crate::frame::ethernet;
use crate::frame::tag::Tagging;
use crate::port::vlan::{self, Receives};
use crate::port::{Port, PortKind};
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, Verdict};

impl Port {
    /// The segment of a frame that the port sends with this outermost tag.
    #[inline]
    pub fn segment(&self, tag: Option<u16>) -> Result<Segment, DropReason> {
        let id = tag.unwrap_or(0);
        if self.kind == PortKind::Uplink {
            return if id <= vlan::MAX {
                Ok(Segment(u32::from(id)))
            } else {
                Err(DropReason::VlanNotAllowed)
            };
        }
        match self.policy.vsid {
            Some(_) if id != 0 => Err(DropReason::VlanNotAllowed),
            Some(vsid) => Ok(Segment(vsid)),
            None => self.policy.vlan.admit(tag),
        }
    }

    /// Whether and how the port receives frames of a segment.
    #[inline]
    pub fn receives(&self, segment: Segment) -> Receives {
        if self.kind == PortKind::Uplink {
            return match u16::try_from(segment.0) {
                Ok(0) => Receives::Untagged,
                Ok(id) if id <= vlan::MAX => Receives::Tagged(id),
                _ => Receives::No,
            };
        }
        match self.policy.vsid {
            Some(vsid) if segment.0 == vsid => Receives::Untagged,
            Some(_) => Receives::No,
            None => self.policy.vlan.receives(segment),
        }
    }

    /// Whether the port sends or receives frames of a segment.
    pub(crate) fn is_in(&self, segment: Result<Segment, DropReason>) -> bool {
        segment
            .is_ok_and(|segment| self.receives(segment) != Receives::No || self.segment(None) == Ok(segment))
    }

    /// Whether 802.1p priorities pass this port.
    fn passes_priority(&self) -> bool {
        self.policy.priority_tag || self.kind == PortKind::Uplink
    }
}

/// Puts the frame into its segment, or drops it.
pub(crate) fn admit(frame: &mut Frame<'_>) -> Step {
    if frame.tag == Some(0) && ethernet::has_inner_tag(frame.head) {
        return Step::Break(Verdict::Drop(DropReason::TagInHeader));
    }
    match frame.port.segment(frame.tag) {
        Ok(segment) => {
            frame.segment = segment;
            frame.note(|| format!("in {}", name(segment)));
            Step::Continue(())
        }
        Err(reason) => Step::Break(Verdict::Drop(reason)),
    }
}

/// Whether `to` is in the frame's segment, and how it gets the frame.
pub(crate) fn membership(frame: &mut Frame<'_>, to: &Port) -> Result<(), DropReason> {
    let Some(tagging) = tagging(frame.port, to, frame.segment, frame.tag.is_some()) else {
        return Err(mismatch(frame, to));
    };
    if uncovers(tagging, frame.head) {
        return Err(DropReason::TagInHeader);
    }
    frame.actions.tagging = tagging;
    let segment = frame.segment;
    frame.note(|| match tagging {
        Tagging::Keep => format!("{} reaches it, as sent", name(segment)),
        Tagging::Strip => format!("{} reaches it, the tag is removed", name(segment)),
        Tagging::Write { vid: 0, .. } => format!("{} reaches it, tagged only for a priority", name(segment)),
        Tagging::Write { vid, .. } => format!("{} reaches it, tagged with VLAN {vid}", name(segment)),
    });
    Ok(())
}

/// How `to` gets a frame of this segment that `from` sent; `None` = not at all.
pub(crate) fn tagging(from: &Port, to: &Port, segment: Segment, tagged: bool) -> Option<Tagging> {
    let priority = tagged && from.passes_priority();
    match to.receives(segment) {
        Receives::No => None,
        Receives::Untagged if priority && to.passes_priority() => Some(Tagging::Write { vid: 0, priority }),
        Receives::Untagged if tagged => Some(Tagging::Strip),
        Receives::Untagged => Some(Tagging::Keep),
        Receives::Tagged(vid) => Some(Tagging::Write { vid, priority }),
    }
}

/// Whether the receiver would take the frame's second tag for its first.
pub(crate) fn uncovers(tagging: Tagging, head: &[u8]) -> bool {
    matches!(tagging, Tagging::Strip | Tagging::Write { vid: 0, .. }) && ethernet::has_inner_tag(head)
}

/// Why a port is not in the frame's segment.
pub(crate) fn mismatch(frame: &Frame<'_>, to: &Port) -> DropReason {
    let virtual_subnet = |port: &Port| port.policy.vsid.is_some();
    if virtual_subnet(frame.port) || virtual_subnet(to) {
        DropReason::VsidMismatch
    } else if frame.snap.same_primary(to, frame.segment) {
        DropReason::PrivateVlan
    } else {
        DropReason::VlanFiltered
    }
}

/// A segment as it is shown.
pub(crate) fn name(segment: Segment) -> String {
    match segment.0 {
        0 => "the untagged network".into(),
        id if id <= u32::from(vlan::MAX) => format!("VLAN {id}"),
        vsid => format!("virtual subnet {vsid}"),
    }
}
