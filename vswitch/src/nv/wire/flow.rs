//! What all packets of one flow have in common: the number that spreads flows over the paths of the physical network, and the byte that
//! says how they are to be treated there.

use std::net::IpAddr;

use crate::frame::ethernet::{Ethernet, ethertype};
use crate::frame::headers::{Fragment, Headers};
use crate::frame::ipv4::MIN_HEADER_LEN;
use crate::hash;

/// A number for the flow that a frame of `len` bytes belongs to: the same for all its frames in this direction, and probably another
/// for other flows. Any value, 0 included. Not secret, because whoever can aim flows at one path of the physical network could as well send
/// them as one flow.
///
/// Flows are told apart by addresses, protocol and ports. Of packets that are sent in fragments only the addresses count, because all
/// parts must go one way; of what is not IP, the MAC addresses and the ethertype.
pub fn entropy(head: &[u8], len: u32) -> u32 {
    let headers = Headers::parse(head, len).ok();
    let ip = headers.and_then(|headers| headers.ip);
    let (a, b) = match ip.map(|ip| (ip.src, ip.dst)) {
        Some((IpAddr::V4(src), IpAddr::V4(dst))) => (u64::from(src.to_bits()), u64::from(dst.to_bits())),
        Some((IpAddr::V6(src), IpAddr::V6(dst))) => (halves(src.to_bits(), 1), halves(dst.to_bits(), 2)),
        _ => {
            let ether = Ethernet::parse(head);
            ether.map_or((0, 0), |e| (e.src().to_u64(), e.dst().to_u64() | u64::from(e.ethertype()) << 48))
        }
    };
    let upper = ip.filter(|ip| ip.fragment == Fragment::Whole).map_or(0, |ip| {
        let (src, dst) = ip.ports.unwrap_or_default();
        u64::from(ip.protocol) << 32 | u64::from(src) << 16 | u64::from(dst)
    });
    let hash = hash::mix(hash::mix(a, b), upper);
    (hash >> 32) as u32
}

fn halves(address: u128, seed: u64) -> u64 {
    hash::mix(seed ^ (address >> 64) as u64, address as u64)
}

/// DSCP and ECN of the packet in a frame; 0 if there is none (ARP), or if it is IPv4 without a whole header, whose checksum nobody could keep
/// right.
#[inline]
pub fn tos(head: &[u8]) -> u8 {
    let Some(ether) = Ethernet::parse(head) else { return 0 };
    let packet = head.get(ether.header_len()..).unwrap_or(&[]);
    match (ether.ethertype(), packet) {
        (ethertype::IPV4, [_, second, ..]) if packet.len() >= MIN_HEADER_LEN => *second,
        (ethertype::IPV6, [first, second, ..]) => super::traffic_class(*first, *second),
        _ => 0,
    }
}
