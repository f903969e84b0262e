//! Which source addresses a port may send with.
//!
//! - A group address or zero is never a source.
//! - An address configured for another port is pinned there: no other port, and not the uplink either, may use it. From
//!   the uplink it is a spoofed frame or one of our own that a loop brought back.
//!   One exception: two ports of one virtual machine with guest teaming on may use each other's, because the machine's team moves
//!   the address of a card that fails to one that works.
//!   Another: the uplink may use that of a port whose guest is not here, in the networks of that port, because the guest may be on
//!   another host by now. No other port may: who can reach this host's ports could otherwise take over a guest on the move.
//!   A third: while a forwarding extension has the neighbouring switch reflect frames, the uplink may use those of all ports, in the
//!   networks of those ports.
//! - Otherwise the uplink may send with any address, a port with MAC spoofing too, every other port only with its own.

use crate::event::Event;
use crate::port::PortKind;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, Verdict};

/// Drops frames whose source is no station's address.
pub(crate) fn valid(frame: &mut Frame<'_>) -> Step {
    if frame.src.is_valid_source() {
        Step::Continue(())
    } else {
        Step::Break(Verdict::Drop(DropReason::InvalidSource))
    }
}

/// Drops frames whose source the port may not use.
pub(crate) fn allowed(frame: &mut Frame<'_>) -> Step {
    let (mac, port) = (frame.src, frame.port);
    if mac == port.mac {
        return Step::Continue(());
    }
    if let Some(owner) = frame.snap.owner(mac).and_then(|owner| frame.snap.port(owner))
        && (frame.snap.stands_in(port.id, owner.id) || frame.snap.reflects(port.id))
        && (port.kind != PortKind::Uplink || owner.is_in(port.segment(frame.tag)))
    {
        return Step::Continue(());
    }
    if !(port.policy.mac_spoofing || port.kind == PortKind::Uplink) {
        frame.notice(Event::MacSpoofed { mac, port: port.id });
        return Step::Break(Verdict::Drop(DropReason::SourceNotAllowed));
    }
    match frame.snap.owner(mac) {
        Some(owner) if owner != port.id => {
            frame.notice(Event::MacPinned { mac, port: port.id, owner });
            Step::Break(Verdict::Drop(DropReason::MacPinned))
        }
        _ => Step::Continue(()),
    }
}
