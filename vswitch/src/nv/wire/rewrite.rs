//! Changes of a customer's packet on its way: Ethernet addresses, the hop that a router counts, and IP rewrite, which replaces
//! customer by provider addresses and back (hyperv-semantics 14.12).
//!
//! All checksums are updated from what changed (RFC 1624), so that damage that a packet had before stays visible after. What cannot be
//! changed rightly is refused and left as it was.

use std::net::IpAddr;

use super::delta::Delta;
use crate::Mac;
use crate::frame::checksum;
use crate::frame::ethernet::{Ethernet, ethertype};
use crate::frame::headers::{Fragment, Headers};
use crate::frame::ipv4::{self, Ipv4};
use crate::frame::ipv6::{self, Ipv6};
use crate::frame::offload::Offload;
use crate::frame::{protocol, tcp};

/// The packet's life ended: its TTL or hop limit would become zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the packet's TTL or hop limit ended")]
pub struct Expired;

/// Why a packet's addresses cannot be replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It is not IP, or headers are broken or not within the bytes that can be seen.
    #[error("not an IP packet whose headers can be seen")]
    Unreadable,
    /// The new addresses are not of the packet's version of IP.
    #[error("addresses of another version of IP")]
    Family,
    /// A routing header names the last destination, which checksums cover (RFC 8200, section 8.1).
    #[error("the packet is routed by its source")]
    SourceRouted,
}

/// Replaces the Ethernet addresses. Nothing happens to what is no frame.
#[inline]
pub fn macs(head: &mut [u8], dst: Mac, src: Mac) {
    if let Some((old_dst, rest)) = head.split_first_chunk_mut::<6>()
        && let Some(old_src) = rest.first_chunk_mut::<6>()
    {
        (*old_dst, *old_src) = (dst.0, src.0);
    }
}

/// Counts a router's hop: TTL or hop limit become one less. Nothing happens to what is not IP, and to what has expired.
#[inline]
pub fn hop(head: &mut [u8]) -> Result<(), Expired> {
    /// Where the TTL and the hop limit are.
    const TTL: usize = 8;
    const HOP_LIMIT: usize = 7;
    let Some((at, kind)) = Ethernet::parse(head).map(|e| (e.header_len(), e.ethertype())) else {
        return Ok(());
    };
    let Some(packet) = head.get_mut(at..) else { return Ok(()) };
    match kind {
        ethertype::IPV4 => {
            let Some(header) = packet.first_chunk_mut::<{ ipv4::MIN_HEADER_LEN }>() else { return Ok(()) };
            let ttl = header[TTL];
            if ttl <= 1 {
                return Err(Expired);
            }
            let before = u16_at(header, TTL);
            let field = checksum::update(u16_at(header, ipv4::field::CHECKSUM), before, before - 0x100);
            header[TTL] = ttl - 1;
            put(header, ipv4::field::CHECKSUM, field);
        }
        ethertype::IPV6 => {
            let Some(limit) = packet.get_mut(HOP_LIMIT) else { return Ok(()) };
            if *limit <= 1 {
                return Err(Expired);
            }
            *limit -= 1;
        }
        _ => {}
    }
    Ok(())
}

/// Replaces the source and destination address of the packet in a frame, whose beginning `head` is; `offload` is what its sender left open
/// (its TCP, UDP or ICMPv6 checksum is then a sum of addresses only, which changes otherwise than a checksum).
///
/// In an ICMP error's quotation of the packet that caused it, the same addresses are replaced the other way round: who gets the
/// error sees the packet as it was sent, so that its path MTU discovery works and nobody sees the other side's addresses.
#[inline]
pub fn apply(head: &mut [u8], src: IpAddr, dst: IpAddr, offload: &Offload) -> Result<(), Refused> {
    let headers = Headers::parse(head, head.len() as u32).map_err(|_| Refused::Unreadable)?;
    let ip = headers.ip.ok_or(Refused::Unreadable)?;
    let at = headers.payload;
    let packet = head.get_mut(at..).ok_or(Refused::Unreadable)?;
    if packet.first().is_some_and(|first| first >> 4 == 6)
        && Ipv6::parse(packet).is_none_or(|ip| ip.is_routed())
    {
        return Err(Refused::SourceRouted);
    }
    let swap = Swap { old: [ip.src, ip.dst], new: [src, dst] };
    let delta = swap.addresses(packet, ip.src, ip.dst).ok_or(Refused::Family)?;
    if ip.fragment == Fragment::Later {
        return Ok(());
    }
    let upper = ip.upper - at;
    let open = matches!(*offload, Offload::Checksum { start, .. } | Offload::Tcp { csum_start: start, .. }
        if usize::from(start) == ip.upper);
    let quoted = match (ip.protocol, ip.icmp) {
        (protocol::ICMP, Some((kind, _))) => matches!(kind, 3..=5 | 11 | 12),
        (protocol::ICMPV6, Some((kind, _))) => kind < 128,
        _ => false,
    };
    let inside = if quoted { swap.quotation(packet, upper + ICMP_HEADER) } else { Delta::default() };
    let Some(field) = checksum_field(ip.protocol).and_then(|field| field_at(packet, upper + field)) else {
        return Ok(());
    };
    let value = u16::from_be_bytes(*field);
    let new = match ip.protocol {
        protocol::UDP if value == 0 => 0,
        _ if open => delta.sum(value),
        // ICMP for IPv4 has no pseudo header.
        protocol::ICMP => inside.checksum(value),
        protocol => never_zero(protocol, delta.and(inside).checksum(value)),
    };
    *field = new.to_be_bytes();
    Ok(())
}

/// Bytes of an ICMP header; behind it is the quotation of errors.
const ICMP_HEADER: usize = 8;

/// UDP-Lite (RFC 3828) and DCCP (RFC 4340), whose checksums cover addresses too.
const UDP_LITE: u8 = 136;
const DCCP: u8 = 33;

/// Where a protocol's checksum is in its header, if it has one that changes.
const fn checksum_field(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(tcp::field::CHECKSUM),
        protocol::UDP | UDP_LITE | DCCP => Some(6),
        protocol::ICMP | protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

/// A UDP checksum that is zero is sent as ffff, because zero says that there is none (RFC 768).
const fn never_zero(protocol: u8, checksum: u16) -> u16 {
    if checksum == 0 && matches!(protocol, protocol::UDP | UDP_LITE) { 0xffff } else { checksum }
}

/// Two addresses that are replaced by two others.
struct Swap {
    old: [IpAddr; 2],
    new: [IpAddr; 2],
}

impl Swap {
    /// What is written in place of an address of a quotation.
    fn quoted(&self, address: IpAddr) -> IpAddr {
        let [src, dst] = self.old;
        let [new_src, new_dst] = self.new;
        if address == dst {
            new_dst
        } else if address == src {
            new_src
        } else {
            address
        }
    }

    /// Replaces the two addresses of a packet's header, and what of the header's checksum that changes. Gives what it does to checksums
    /// over the addresses. `None`, with nothing written, if the new ones are not of the same version of IP.
    fn addresses(&self, packet: &mut [u8], src: IpAddr, dst: IpAddr) -> Option<Delta> {
        let [new_src, new_dst] =
            if [src, dst] == self.old { self.new } else { [self.quoted(src), self.quoted(dst)] };
        let mut delta = Delta::default();
        match (src, new_src, new_dst) {
            (IpAddr::V4(_), IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = packet.first_chunk_mut::<{ ipv4::MIN_HEADER_LEN }>()?;
                let mut new = [0; 8];
                new[..4].copy_from_slice(&src.octets());
                new[4..].copy_from_slice(&dst.octets());
                let place = &mut header[ipv4::field::ADDRESSES..];
                delta.bytes(place, &new);
                place.copy_from_slice(&new);
                let field = delta.checksum(u16_at(header, ipv4::field::CHECKSUM));
                put(header, ipv4::field::CHECKSUM, field);
            }
            (IpAddr::V6(_), IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = packet.first_chunk_mut::<{ ipv6::HEADER_LEN }>()?;
                let mut new = [0; 32];
                new[..16].copy_from_slice(&src.octets());
                new[16..].copy_from_slice(&dst.octets());
                let place = &mut header[ipv6::field::ADDRESSES..];
                delta.bytes(place, &new);
                place.copy_from_slice(&new);
            }
            _ => return None,
        }
        Some(delta)
    }

    /// Replaces addresses in the packet that an ICMP error quotes, with its checksums as far as they can be seen. Gives what that does to
    /// the checksum of the ICMP message.
    fn quotation(&self, packet: &mut [u8], at: usize) -> Delta {
        let mut outside = Delta::default();
        let Some(quoted) = packet.get_mut(at..) else { return outside };
        let parsed = match quoted.first().map(|first| first >> 4) {
            Some(4) => quoted_ipv4(quoted),
            Some(6) => quoted_ipv6(quoted),
            _ => None,
        };
        let Some(Quoted { src, dst, protocol, upper }) = parsed else { return outside };
        let Some(delta) = self.addresses(quoted, src, dst) else { return outside };
        if src.is_ipv6() {
            outside = delta;
        } // In IPv4 the header's own checksum makes up for its addresses.
        let field =
            upper.zip(checksum_field(protocol)).and_then(|(upper, field)| field_at(quoted, upper + field));
        if let Some(field) = field
            && protocol != protocol::ICMP
        {
            let before = u16::from_be_bytes(*field);
            if protocol != protocol::UDP || before != 0 {
                let after = never_zero(protocol, delta.checksum(before));
                *field = after.to_be_bytes();
                outside.word(before, after);
            }
        }
        outside
    }
}

/// What can be seen of a packet in an ICMP error.
struct Quoted {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    /// Where its transport header begins; `None` = not in this fragment.
    upper: Option<usize>,
}

fn quoted_ipv4(packet: &[u8]) -> Option<Quoted> {
    let ip = Ipv4::parse(packet)?;
    let (src, dst) = ip.addresses().split_first_chunk::<4>()?;
    Some(Quoted {
        src: IpAddr::from(*src),
        dst: IpAddr::from(*dst.first_chunk::<4>()?),
        protocol: ip.protocol(),
        upper: (ip.fragment().0 == 0).then_some(ip.header_len()),
    })
}

fn quoted_ipv6(packet: &[u8]) -> Option<Quoted> {
    let header = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
    let (src, dst) = header[ipv6::field::ADDRESSES..].split_first_chunk::<16>()?;
    // Extension headers may be cut off in a quotation; its addresses are not.
    let ip = Ipv6::parse(packet).filter(|ip| ip.fragment().0 == 0 && !ip.is_routed());
    Some(Quoted {
        src: IpAddr::from(*src),
        dst: IpAddr::from(*dst.first_chunk::<16>()?),
        protocol: ip.map_or(protocol::NONE, |ip| ip.protocol()),
        upper: ip.map(|ip| ip.upper_offset()),
    })
}

fn field_at(packet: &mut [u8], at: usize) -> Option<&mut [u8; 2]> {
    packet.get_mut(at..)?.first_chunk_mut()
}

fn u16_at<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

fn put<const N: usize>(header: &mut [u8; N], at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
