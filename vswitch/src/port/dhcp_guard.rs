//! DHCP guard: a port with it may not act as a DHCP server. Only what the port sends is looked at.
//!
//! A server's message is
//! - DHCPv4: whatever comes from port 67, except what a relay agent passes on to a server (a request with the agent's
//!   address in it); and a reply to port 67 or 68, whichever port it comes from;
//! - DHCPv6: whatever comes from port 547 (so relay agents too); and ADVERTISE, REPLY, RECONFIGURE and RELAY-REPL to port 546,
//!   RELAY-REPL to port 547, whichever port they come from.
//!
//! The first fragment of a datagram that is from a server's port or to one of DHCP is dropped: what it says could be replaced
//! by an overlapping one. Its other fragments carry no ports and pass; without the first they are nothing. A frame whose
//! headers cannot be read is dropped for that reason.

use std::net::IpAddr;

use crate::HEAD_LEN;
use crate::frame::dhcp::{self, CLIENT, CLIENT_V6, SERVER, SERVER_V6, message};
use crate::frame::headers::{Fragment, Ip};
use crate::frame::protocol;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, stop};

/// Bytes of a UDP header.
const UDP_LEN: usize = 8;

/// Drops what a DHCP server would send.
pub(crate) fn guard(frame: &mut Frame<'_>) -> Step {
    if !frame.port.policy.dhcp_guard {
        return Step::Continue(());
    }
    match frame.visible() {
        Ok(headers) if headers.ip.is_some_and(|ip| is_servers(&ip, frame.head, frame.len)) => {
            stop(DropReason::DhcpGuard)
        }
        Ok(_) => Step::Continue(()),
        Err(reason) => stop(reason),
    }
}

fn is_servers(ip: &Ip, head: &[u8], len: u32) -> bool {
    let Some((src, dst)) = ip.ports.filter(|_| ip.protocol == protocol::UDP) else { return false };
    let at = ip.upper + UDP_LEN;
    let message = head.get(..HEAD_LEN).unwrap_or(head).get(at..).unwrap_or_default();
    // Whether its first byte is there to be read, or the receiver could see one that we do not.
    let unsure = ip.fragment != Fragment::Whole || message.is_empty() && at < len as usize;
    let first = message.first().copied();
    match (ip.src, src, dst) {
        (IpAddr::V4(_), SERVER, _) => unsure || !dhcp::is_relayed(message),
        (IpAddr::V4(_), _, SERVER | CLIENT) => unsure || first == Some(dhcp::REPLY),
        (IpAddr::V6(_), SERVER_V6, _) => true,
        (IpAddr::V6(_), _, CLIENT_V6) => unsure || first.is_some_and(message::is_servers),
        (IpAddr::V6(_), _, SERVER_V6) => unsure || first == Some(message::RELAY_REPLY),
        _ => false,
    }
}
