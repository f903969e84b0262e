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
use crate::frame::headers::{Fragment, Headers, Ip};
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

/// The flag of IPv4 that forbids routers to fragment, in the first byte of its field.
const DONT_FRAGMENT: u8 = 0x40;

/// Replaces the Ethernet addresses. Nothing happens to what is no frame.
#[inline]
pub fn macs(head: &mut [u8], dst: Mac, src: Mac) {
    if let Some((old_dst, rest)) = head.split_first_chunk_mut::<6>()
        && let Some(old_src) = rest.first_chunk_mut::<6>()
    {
        (*old_dst, *old_src) = (dst.0, src.0);
    }
}

/// Whether routers must leave a frame's packet in one piece: IPv6, and IPv4 that says so.
pub fn is_whole(head: &[u8]) -> bool {
    let whole = |ether: &Ethernet<'_>| match ether.ethertype() {
        ethertype::IPV4 => head
            .get(ether.header_len() + ipv4::field::FRAGMENT)
            .is_some_and(|&flags| flags & DONT_FRAGMENT != 0),
        _ => true,
    };
    Ethernet::parse(head).is_some_and(|ether| whole(&ether))
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

/// Where a packet is from and to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// What the source port of TCP or UDP, or the identifier of an ICMP echo, becomes; `None` = it stays.
    pub src_port: Option<u16>,
    /// What the destination port becomes; `None` = it stays. Echoes have none.
    pub dst_port: Option<u16>,
}

impl Ends {
    const fn addresses(src: IpAddr, dst: IpAddr) -> Self {
        Self { src, dst, src_port: None, dst_port: None }
    }
}

/// Replaces the source and destination address of the packet in a frame, whose beginning `head` is; `offload` is what its sender left open
/// (its TCP, UDP or ICMPv6 checksum is then a sum of addresses only, which changes otherwise than a checksum).
///
/// In an ICMP error's quotation of the packet that caused it, the same addresses are replaced the other way round: who gets the
/// error sees the packet as it was sent, so that its path MTU discovery works and nobody sees the other side's addresses.
#[inline]
pub fn apply(head: &mut [u8], src: IpAddr, dst: IpAddr, offload: &Offload) -> Result<(), Refused> {
    let swapped = |old: &Ip, quoted: &Quoted| {
        let new = |address| match address {
            a if a == old.dst => dst,
            a if a == old.src => src,
            a => a,
        };
        Ends::addresses(new(quoted.src), new(quoted.dst))
    };
    change(head, &Ends::addresses(src, dst), swapped, offload)
}

/// The same with ports. Of an ICMP error's quotation, `quoted` says what its ends become; `None` = it stays as it is.
pub fn translate(
    head: &mut [u8],
    new: &Ends,
    quoted: Option<&Ends>,
    offload: &Offload,
) -> Result<(), Refused> {
    let as_it_is = |_: &Ip, found: &Quoted| Ends::addresses(found.src, found.dst);
    change(head, new, |ip, found| quoted.copied().unwrap_or_else(|| as_it_is(ip, found)), offload)
}

#[inline]
fn change(
    head: &mut [u8],
    new: &Ends,
    quotation: impl Fn(&Ip, &Quoted) -> Ends,
    offload: &Offload,
) -> Result<(), Refused> {
    let headers = Headers::parse(head, head.len() as u32).map_err(|_| Refused::Unreadable)?;
    let ip = headers.ip.ok_or(Refused::Unreadable)?;
    let at = headers.payload;
    let packet = head.get_mut(at..).ok_or(Refused::Unreadable)?;
    if ip.src.is_ipv6() && Ipv6::parse(packet).is_none_or(|ip| ip.is_routed()) {
        return Err(Refused::SourceRouted);
    }
    let delta = addresses(packet, ip.src, new).ok_or(Refused::Family)?;
    if ip.fragment == Fragment::Later {
        return Ok(());
    }
    let upper = ip.upper - at;
    let open = matches!(*offload, Offload::Checksum { start, .. } | Offload::Tcp { csum_start: start, .. }
        if usize::from(start) == ip.upper);
    let inside = if ip.icmp.is_some_and(|(kind, _)| is_error(ip.protocol, kind)) {
        quote(packet, upper + ICMP_HEADER, |found| quotation(&ip, found))
    } else {
        ports(packet, upper, ip.protocol, new)
    };
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

/// Whether ICMP messages of a type quote the packet that caused them.
pub const fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        protocol::ICMP => matches!(kind, 3..=5 | 11 | 12),
        protocol::ICMPV6 => kind < 128,
        _ => false,
    }
}

/// Whether ICMP messages of a type are echo requests or their replies, and so have an identifier.
pub const fn is_echo(protocol: u8, kind: u8) -> bool {
    matches!((protocol, kind), (protocol::ICMP, 0 | 8) | (protocol::ICMPV6, 128 | 129))
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

/// Replaces the two addresses of a packet's header (`old` tells its version of IP), and what of the header's checksum that changes. Gives
/// what it does to checksums over the addresses. `None`, with nothing written, if the new ones are not of the same version.
fn addresses(packet: &mut [u8], old: IpAddr, new: &Ends) -> Option<Delta> {
    let mut delta = Delta::default();
    match (old, new.src, new.dst) {
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

/// Replaces ports of TCP and UDP, or the identifier of an echo, where the transport header begins. Gives what it does to checksums.
fn ports(packet: &mut [u8], upper: usize, protocol: u8, new: &Ends) -> Delta {
    let mut delta = Delta::default();
    let kind = packet.get(upper).copied().unwrap_or_default();
    let places = match protocol {
        protocol::TCP | protocol::UDP => [(0, new.src_port), (2, new.dst_port)],
        _ if is_echo(protocol, kind) => [(4, new.src_port), (0, None)],
        _ => return delta,
    };
    for (at, port) in places {
        if let (Some(port), Some(field)) = (port, field_at(packet, upper + at)) {
            delta.word(u16::from_be_bytes(*field), port);
            *field = port.to_be_bytes();
        }
    }
    delta
}

/// Changes the packet that an ICMP error quotes, with its checksums as far as they can be seen. Gives what that does to
/// the checksum of the ICMP message.
fn quote(packet: &mut [u8], at: usize, new: impl Fn(&Quoted) -> Ends) -> Delta {
    let mut outside = Delta::default();
    let Some(bytes) = packet.get_mut(at..) else { return outside };
    let Some(found) = Quoted::parse(bytes) else { return outside };
    let new = new(&found);
    let Some(delta) = addresses(bytes, found.src, &new) else { return outside };
    if found.src.is_ipv6() {
        outside = delta;
    } // In IPv4 the header's own checksum makes up for its addresses.
    let Some(upper) = found.upper else { return outside };
    let ports = ports(bytes, upper, found.protocol, &new);
    outside = outside.and(ports);
    let delta = if found.protocol == protocol::ICMP { ports } else { delta.and(ports) };
    if let Some(field) = checksum_field(found.protocol).and_then(|field| field_at(bytes, upper + field)) {
        let before = u16::from_be_bytes(*field);
        if found.protocol != protocol::UDP || before != 0 {
            let after = never_zero(found.protocol, delta.checksum(before));
            *field = after.to_be_bytes();
            outside.word(before, after);
        }
    }
    outside
}

/// What can be seen of the packet in an ICMP error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// Its source address.
    pub src: IpAddr,
    /// Its destination address.
    pub dst: IpAddr,
    /// Its protocol; "no next header" if that cannot be seen.
    pub protocol: u8,
    /// Source port (or identifier of an echo request) and destination port (or 0), if they can be seen.
    pub ports: Option<(u16, u16)>,
    /// Where its transport header begins; `None` = not in this fragment, or not seen.
    upper: Option<usize>,
}

impl Quoted {
    /// Reads what is behind the header of an ICMP error.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let mut found = match packet.first()? >> 4 {
            4 => Self::ipv4(packet),
            6 => Self::ipv6(packet),
            _ => None,
        }?;
        let begin = found.upper.and_then(|upper| packet.get(upper..)?.first_chunk::<6>());
        found.ports = begin.and_then(|&[b0, b1, b2, b3, b4, b5]| match found.protocol {
            protocol::TCP | protocol::UDP => {
                Some((u16::from_be_bytes([b0, b1]), u16::from_be_bytes([b2, b3])))
            }
            protocol if is_echo(protocol, b0) => Some((u16::from_be_bytes([b4, b5]), 0)),
            _ => None,
        });
        Some(found)
    }

    fn ipv4(packet: &[u8]) -> Option<Self> {
        let ip = Ipv4::parse(packet)?;
        let (src, dst) = ip.addresses().split_first_chunk::<4>()?;
        Some(Self {
            src: IpAddr::from(*src),
            dst: IpAddr::from(*dst.first_chunk::<4>()?),
            protocol: ip.protocol(),
            ports: None,
            upper: (ip.fragment().0 == 0).then_some(ip.header_len()),
        })
    }

    fn ipv6(packet: &[u8]) -> Option<Self> {
        let header = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
        let (src, dst) = header[ipv6::field::ADDRESSES..].split_first_chunk::<16>()?;
        // Extension headers may be cut off in a quotation; its addresses are not.
        let ip = Ipv6::parse(packet).filter(|ip| ip.fragment().0 == 0 && !ip.is_routed());
        Some(Self {
            src: IpAddr::from(*src),
            dst: IpAddr::from(*dst.first_chunk::<16>()?),
            protocol: ip.map_or(protocol::NONE, |ip| ip.protocol()),
            ports: None,
            upper: ip.map(|ip| ip.upper_offset()),
        })
    }
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
