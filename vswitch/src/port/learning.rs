//! Learning of source addresses.
//!
//! Configured addresses are known without learning. Learned are only sources that may vary: those of guest and host ports
//! with MAC spoofing on. Sources seen on the uplink are not learned (but for one kind, below), because an unknown destination goes to the uplink
//! anyway; but an address learned behind a port that shows up on the uplink has moved there, so its entry is removed
//! and the move is reported. (Moving the entry to the uplink instead would change no verdict and would let the wire fill
//! the table.) A table or share that is full costs the port its learning, never the frame.
//!
//! Of two teamed ports of one machine, the one that sent last with an address gets what is sent to it: the address of its
//! partner is learned behind a port until the partner itself uses it again.
//!
//! The address of a port whose guest is not here ([`Port::present`](crate::port::Port)) is learned behind the uplink when it is heard
//! there: the guest has moved to another host, and frames for it follow. Of these there can be no more than ports.
//!
//! Where the physical network reflects frames ([`crate::snapshot::Snapshot::reflects`]), an address that comes back from there has not
//! moved: its entry stays, and ages when its own port is silent.
//!
//! Addresses are learned per network; the VLANs of a private VLAN share theirs.

use crate::PortId;
use crate::event::Event;
use crate::fdb::Learned;
use crate::port::PortKind;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, Verdict};

/// Learns the source, or notes that it moved.
pub(crate) fn learn(frame: &mut Frame<'_>) -> Step {
    let (mac, port) = (frame.src, frame.port);
    let network = frame.snap.filtering(frame.segment);
    if port.kind == PortKind::Uplink {
        if let Some(owner) = frame.snap.owner(mac).filter(|&owner| frame.snap.stands_in(port.id, owner)) {
            return guest_is_elsewhere(frame, owner);
        }
        if !frame.snap.reflects(port.id)
            && let Some(from) = frame.state.fdb.lookup(mac, network)
            && (frame.dry || frame.state.fdb.forget(mac, network).is_some())
        {
            frame.notice(Event::MacMoved { mac, from, to: port.id });
        }
        return Step::Continue(());
    }
    if mac == port.mac {
        if port.policy.teaming && !frame.dry && frame.state.fdb.lookup(mac, network).is_some() {
            frame.state.fdb.forget(mac, network);
        }
        return Step::Continue(());
    }
    let partners = port.policy.teaming && frame.snap.owner(mac).is_some();
    if !(port.learns() || partners) || frame.dry {
        return Step::Continue(());
    }
    frame.revisit = true; // to keep the entry from ageing while frames hit the flow cache
    match frame.state.fdb.learn(frame.now, port.id, mac, network, frame.snap) {
        Learned::New | Learned::Refreshed | Learned::Held => {}
        Learned::Moved { from } => frame.notice(Event::MacMoved { mac, from, to: port.id }),
        Learned::Full => frame.notice(Event::FdbFull { port: port.id, limit: frame.state.fdb.share() }),
        Learned::Pinned { owner } => {
            frame.notice(Event::MacPinned { mac, port: port.id, owner });
            return Step::Break(Verdict::Drop(DropReason::MacPinned));
        }
    }
    Step::Continue(())
}

/// The address of `owner`, which has no guest, was heard on the uplink.
fn guest_is_elsewhere(frame: &mut Frame<'_>, owner: PortId) -> Step {
    if frame.dry {
        frame.note(|| "its guest is elsewhere".into());
        return Step::Continue(());
    }
    let (mac, at) = (frame.src, frame.port.id);
    let network = frame.snap.filtering(frame.segment);
    frame.revisit = true;
    if matches!(
        frame.state.fdb.learn(frame.now, at, mac, network, frame.snap),
        Learned::New | Learned::Moved { .. }
    ) {
        frame.notice(Event::SeenElsewhere { port: owner, mac, at });
    }
    Step::Continue(())
}
