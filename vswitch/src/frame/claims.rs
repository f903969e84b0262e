//! The IP addresses that an ARP message or a neighbour advertisement says its sender has.
//!
//! Read as loosely as the loosest receiver reads them, so that a rule about addresses cannot be evaded by a message that is odd
//! but understood: any hardware type, any operation, whatever the options. What no receiver understands claims nothing.

use std::net::{IpAddr, Ipv4Addr};

use crate::frame::arp::Arp;
use crate::frame::ethernet::ethertype;
use crate::frame::headers::Headers;
use crate::frame::neighbour::{Neighbour, Unreadable, kind};
use crate::trace::DropReason;

/// The address that a frame claims: the sender's of ARP and RARP, the target's of a neighbour advertisement. `None` = none, or
/// the unspecified one of a probe. An error if the frame is a message of neighbour discovery that cannot be read.
pub fn of(headers: &Headers, head: &[u8]) -> Result<Option<IpAddr>, DropReason> {
    if matches!(headers.ethertype, ethertype::ARP | ethertype::RARP) {
        let message = head.get(headers.payload..).and_then(Arp::parse);
        return Ok(message.map(|arp| arp.sender).filter(|&ip| ip != Ipv4Addr::UNSPECIFIED).map(IpAddr::V4));
    }
    match Neighbour::parse(headers, head) {
        Ok(message) => Ok(message.filter(|m| m.kind() == kind::ADVERTISEMENT).and_then(|m| m.target())),
        Err(Unreadable) => Err(DropReason::MalformedPacket),
    }
}
