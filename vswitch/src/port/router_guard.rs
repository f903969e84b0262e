//! Router guard: a port with it may not act as a router towards its neighbours. Only what the port sends is looked at.
//!
//! Dropped are router advertisements and redirects of ICMP (types 9 and 5) and ICMPv6 (134 and 137; RFC 6105, RFC 7113), whole
//! or as a first fragment; their other fragments carry no type and are nothing without the first. Other messages of neighbour
//! discovery are dropped as `bad-fragment` if they have a fragment header (RFC 6980). A frame whose headers cannot be read is
//! dropped for that reason. Routing protocols, VRRP and proxy ARP are not covered.

use std::net::IpAddr;

use crate::frame::ipv6::Ipv6;
use crate::frame::neighbour::kind;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, stop};

/// ICMP redirect (RFC 792).
const REDIRECT: u8 = 5;
/// ICMP router advertisement (RFC 1256).
const ADVERTISEMENT: u8 = 9;

/// Drops what a router would tell its neighbours.
pub(crate) fn guard(frame: &mut Frame<'_>) -> Step {
    if !frame.port.policy.router_guard {
        return Step::Continue(());
    }
    let headers = match frame.visible() {
        Ok(headers) => headers,
        Err(reason) => return stop(reason),
    };
    let Some((ip, (message, _))) = headers.ip.and_then(|ip| Some((ip, ip.icmp?))) else {
        return Step::Continue(());
    };
    match (ip.src, message) {
        (IpAddr::V4(_), REDIRECT | ADVERTISEMENT)
        | (IpAddr::V6(_), kind::REDIRECT | kind::ROUTER_ADVERTISEMENT) => stop(DropReason::RouterGuard),
        (IpAddr::V6(_), message) if kind::is_discovery(message) => {
            let packet = frame.head.get(headers.payload..).and_then(Ipv6::parse);
            if packet.is_none_or(|packet| packet.is_fragment()) {
                return stop(DropReason::BadFragment);
            }
            Step::Continue(())
        }
        _ => Step::Continue(()),
    }
}
