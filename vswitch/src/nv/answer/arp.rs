//! ARP (RFC 826).

use std::net::Ipv4Addr;

use super::{ethernet, finish, pad, question, vlan};
use crate::Mac;
use crate::frame::arp::{self, Arp, ETHERNET};
use crate::frame::ethernet::ethertype;

/// Writes the answer to an ARP request: `ip` is at `mac`. It goes to the station that asked, a probe's (whose sender address is 0.0.0.0,
/// RFC 5227) too. `false` if `request` is the beginning of no request.
pub fn arp_reply(request: &[u8], mac: Mac, ip: Ipv4Addr, out: &mut Vec<u8>) -> bool {
    let done = reply(request, mac, ip, out);
    finish(out, done)
}

fn reply(request: &[u8], mac: Mac, ip: Ipv4Addr, out: &mut Vec<u8>) -> Option<()> {
    let ether = question(request)?;
    let asked = request.get(ether.header_len()..).and_then(Arp::parse)?;
    if ether.ethertype() != ethertype::ARP || asked.op != arp::op::REQUEST {
        return None;
    }
    let to = (asked.sender_mac, asked.sender);
    message(out, ether.src(), vlan(&ether), arp::op::REPLY, (mac, ip), to);
    Some(())
}

/// Writes a broadcast ARP request: who has `target`? With the unspecified address as `src_ip` it is the probe for duplicates
/// of RFC 5227.
pub fn arp_request(src: Mac, src_ip: Ipv4Addr, target: Ipv4Addr, vlan: Option<u16>, out: &mut Vec<u8>) {
    message(out, Mac::BROADCAST, vlan, arp::op::REQUEST, (src, src_ip), (Mac([0; 6]), target));
}

fn message(
    out: &mut Vec<u8>,
    dst: Mac,
    vlan: Option<u16>,
    op: u16,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
) {
    ethernet(out, dst, sender.0, vlan, ethertype::ARP);
    out.extend_from_slice(&ETHERNET.to_be_bytes());
    out.extend_from_slice(&arp::KIND);
    out.extend_from_slice(&op.to_be_bytes());
    for (mac, address) in [sender, target] {
        out.extend_from_slice(&mac.0);
        out.extend_from_slice(&address.octets());
    }
    pad(out, vlan);
}
