//! Frames that the switch itself sends for network virtualization: answers in the name of a customer network's router, of customers whose
//! addresses are known, and of this host's provider addresses.
//!
//! Each function writes one frame into the caller's buffer, whatever was in it before, and says whether there is one: no station answers
//! everything. The buffer keeps its memory, so that a worker that reuses one allocates nothing. An answer to a tagged frame has the same
//! VLAN. Who may be answered how often is the caller's to say.

mod arp;
mod icmp;
mod nd;

pub use arp::{arp_reply, arp_request};
pub use icmp::{echo_reply, host_unreachable, may_be_error, time_exceeded, too_big};
pub use nd::{Advertised, neighbour_advertisement, neighbour_solicitation};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Mac;
use crate::frame::checksum::{self, Sum};
use crate::frame::ethernet::{Ethernet, TAG_LEN, ethertype};
use crate::frame::{ipv4, protocol};

/// Bytes of the shortest frame on a wire, without FCS.
const SHORTEST: usize = 60;

/// TTL and hop limit of what stations exchange over routers.
const TTL: u8 = 64;

/// Begins a frame. Of a VLAN tag only the number matters.
fn ethernet(out: &mut Vec<u8>, dst: Mac, src: Mac, vlan: Option<u16>, kind: u16) {
    out.clear();
    out.extend_from_slice(&dst.0);
    out.extend_from_slice(&src.0);
    if let Some(vlan) = vlan {
        out.extend_from_slice(&ethertype::VLAN.to_be_bytes());
        out.extend_from_slice(&(vlan & 0xfff).to_be_bytes());
    }
    out.extend_from_slice(&kind.to_be_bytes());
}

/// The header of a frame that may be answered: one with more than one tag may not, because that is nobody's who asks the switch.
fn question(frame: &[u8]) -> Option<Ethernet<'_>> {
    Ethernet::parse(frame).filter(|ether| ether.tags() <= 1 && ether.src().is_valid_source())
}

/// The VLAN of an answer to this frame.
fn vlan(ether: &Ethernet<'_>) -> Option<u16> {
    (ether.tags() > 0).then(|| ether.vlan_id())
}

/// Fills a frame up to what a wire needs at least. A tag may be taken off on its way.
fn pad(out: &mut Vec<u8>, vlan: Option<u16>) {
    let shortest = SHORTEST + if vlan.is_some() { TAG_LEN } else { 0 };
    if out.len() < shortest {
        out.resize(shortest, 0);
    }
}

/// An IP header in front of `len` bytes of ICMP; the two addresses are of one family.
fn ip(out: &mut Vec<u8>, from: IpAddr, to: IpAddr, len: usize, tos: u8, ttl: u8) -> Option<()> {
    let at = out.len();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(ipv4::MIN_HEADER_LEN + len).ok()?;
            out.extend_from_slice(&[0x45, tos]);
            out.extend_from_slice(&total.to_be_bytes());
            out.extend_from_slice(&[0, 0, 0x40, 0, ttl, protocol::ICMP, 0, 0]); // may not be fragmented, so needs no number
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
            let sum = checksum::checksum(out.get(at..)?).to_be_bytes();
            let field = at + ipv4::field::CHECKSUM;
            out.get_mut(field..field + 2)?.copy_from_slice(&sum);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(len).ok()?;
            out.extend_from_slice(&[0x60 | tos >> 4, tos << 4, 0, 0]);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&[protocol::ICMPV6, ttl]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        _ => return None,
    }
    Some(())
}

/// Completes the checksum of the ICMP message that begins at `at` and ends the frame.
fn seal(out: &mut [u8], at: usize, from: IpAddr, to: IpAddr) -> Option<()> {
    let (_, message) = out.split_at_mut_checked(at)?;
    let length = u16::try_from(message.len()).ok()?;
    let mut sum = Sum::new();
    if let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) {
        sum.add(&from.octets());
        sum.add(&to.octets());
        sum.add_u16(length);
        sum.add_u16(u16::from(protocol::ICMPV6));
    }
    message.get_mut(2..4)?.fill(0);
    sum.add(message);
    message.get_mut(2..4)?.copy_from_slice(&sum.checksum().to_be_bytes());
    Some(())
}

/// Empties the buffer unless there is an answer in it.
fn finish(out: &mut Vec<u8>, done: Option<()>) -> bool {
    if done.is_none() {
        out.clear();
    }
    done.is_some()
}

/// Whether a packet's source may be answered: one station, not any, many or the asker itself (RFC 1812, 4.3.2.7; RFC 4443, 2.4).
fn is_one_station(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let class_e = address.octets()[0] >= 240;
            let this_network = address.octets()[0] == 0;
            !(class_e || this_network || address.is_multicast() || address.is_loopback())
        }
        IpAddr::V6(address) => !(address.is_unspecified() || address.is_multicast() || address.is_loopback()),
    }
}

/// Source and destination of an IPv4 or IPv6 header's two addresses.
fn v6_pair(addresses: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let (src, dst) = addresses.split_first_chunk::<16>()?;
    Some(((*src).into(), (*dst.first_chunk::<16>()?).into()))
}

fn v4_pair(addresses: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (src, dst) = addresses.split_first_chunk::<4>()?;
    Some(((*src).into(), (*dst.first_chunk::<4>()?).into()))
}
