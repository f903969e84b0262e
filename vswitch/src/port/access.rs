//! Port ACLs applied to a frame: what a port sends is judged before it is forwarded, what it receives after that.
//!
//! The entries and which of them wins are in [`crate::port::acl`]. Beyond those, the addresses that an ARP message or a neighbour
//! advertisement claims obey the entries about local IP addresses: a white-list of the guest's own addresses would be worth nothing
//! if the guest could still answer for others.

use crate::event::Event;
use crate::frame::claims;
use crate::port::Port;
use crate::port::acl::{Entry, Packet};
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, Verdict};
use crate::{Direction, Tally};

/// Judges a frame by the ACL of the port that sends it.
pub(crate) fn out(frame: &mut Frame<'_>) -> Step {
    match check(frame, frame.port, Direction::Out) {
        Ok(()) => Step::Continue(()),
        Err(reason) => Step::Break(Verdict::Drop(reason)),
    }
}

/// Judges a frame by the ACL of the port that is to receive it.
pub(crate) fn inward(frame: &mut Frame<'_>, to: &Port) -> Result<(), DropReason> {
    check(frame, to, Direction::In)
}

fn check(frame: &mut Frame<'_>, port: &Port, direction: Direction) -> Result<(), DropReason> {
    let acl = &port.policy.acl;
    if acl.is_empty() {
        return Ok(());
    }
    frame.looked = true;
    let (local_mac, remote_mac) = match direction {
        Direction::Out => (frame.src, frame.dst),
        Direction::In => (frame.dst, frame.src),
    };
    let ip = match frame.visible() {
        Ok(headers) => headers.ip.map(|ip| match direction {
            Direction::Out => (ip.src, ip.dst),
            Direction::In => (ip.dst, ip.src),
        }),
        // What cannot be read cannot be compared with addresses, so it does not pass a port that compares them.
        Err(reason) if acl.judges_ip() => return Err(reason),
        Err(_) => None,
    };
    let answer = acl.look(direction, &Packet { local_mac, remote_mac, ip });
    if let Some(entry) = answer.denied_by {
        return Err(deny(frame, port, direction, entry));
    }
    if direction == Direction::Out && acl.judges_ip() {
        let claimed = claims::of(&frame.visible()?, frame.head)?;
        if let Some(entry) = claimed.and_then(|address| acl.denies_local(direction, address)) {
            return Err(deny(frame, port, direction, entry));
        }
    }
    let account = frame.actions.account(direction);
    (account.tallies[0], account.tallies[1]) = (answer.ip_meter, answer.mac_meter);
    Ok(())
}

fn deny(frame: &mut Frame<'_>, port: &Port, direction: Direction, entry: &Entry) -> DropReason {
    // Only the attempt is counted: a meter counts what passes.
    let account = frame.actions.account(direction);
    account.tallies = [Tally::NONE, Tally::NONE, entry.tally];
    frame.notice(Event::AclDenied { port: port.id, direction, entry: entry.to_string() });
    frame.note(|| format!("denied by '{entry}'"));
    DropReason::AclDenied
}
