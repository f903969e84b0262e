//! The headers of a frame down to the transport ports, as policy sees them.
//!
//! What is read: destination, source, tags and ethertype; of IPv4 the whole header (options are skipped unread); of IPv6
//! the fixed header and the first four bytes of each extension header; of TCP the ports and the flags, of UDP the ports, of
//! ICMP and `ICMPv6` type and code. Of lengths that the sender claims, header lengths are believed, because every receiver does;
//! total and payload length only in fragments, because offloaded segments may have any value there and short frames are
//! padded. Nothing beyond the first [`HEAD_LEN`] bytes or beyond the frame's end is looked at, even if the caller has it.
//!
//! A frame from which two readers could make different packets is an error, not a guess:
//! - `malformed-packet`: a header is cut off or not within the first [`HEAD_LEN`] bytes, the version contradicts the ethertype,
//!   an IPv6 chain is longer than [`MAX_EXTENSIONS`](super::ipv6::MAX_EXTENSIONS) headers, has two fragment headers, or goes on
//!   behind a header that is always the last (mobility, host identity, Shim6);
//! - `bad-fragment`: the first fragment does not hold what policy needs of the transport header (TCP 20 bytes, everything
//!   else 8), another one begins within it (RFC 1858, RFC 3128) or ends beyond 65535 bytes, or IPv6 extension headers are
//!   cut up with the payload (RFC 7112), so that another fragment could replace them.
//!
//! Not looked into, therefore no IP packets: what is behind a third tag, in LLC/SNAP ([`Headers::hidden`] tells those), and
//! in tunnels and encrypted payloads (a receiver opens them only if configured to).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::HEAD_LEN;
use crate::frame::ethernet::{self, Ethernet, ethertype};
use crate::frame::ipv4::Ipv4;
use crate::frame::ipv6::{self, Ipv6};
use crate::frame::{protocol, tcp};
use crate::trace::DropReason;

/// Bytes of the transport header that the first fragment must hold, and that no other may begin in.
const UPPER_MIN: usize = 8;

/// Smallest ethertype; what is smaller in its place is a length, and LLC follows (IEEE 802.3).
pub const MIN_ETHERTYPE: u16 = 0x600;

/// Which part of an IP packet a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The beginning, with the next header.
    First,
    /// Something from its middle or end, without a next header.
    Later,
}

/// The IP part of [`Headers`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol after extension headers.
    pub protocol: u8,
    /// Which part of the packet this is. A single fragment that is all of its packet (RFC 6946) is whole.
    pub fragment: Fragment,
    /// Source and destination port of TCP and UDP; `None` in later fragments.
    pub ports: Option<(u16, u16)>,
    /// TCP flags; 0 for everything else.
    pub tcp_flags: u8,
    /// Type and code of ICMP and ICMPv6; `None` in later fragments.
    pub icmp: Option<(u8, u8)>,
    /// Where the header of `protocol` begins, from the frame's beginning.
    pub upper: usize,
}

/// What policy looks at beyond Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Ethertype behind the (at most two) tags.
    pub ethertype: u16,
    /// Where the payload of Ethernet begins: 14, 18 or 22.
    pub payload: usize,
    /// The IP packet, if it is one.
    pub ip: Option<Ip>,
}

impl Headers {
    /// Looks at the beginning of a frame of `len` bytes in all. The error is the reason to drop it if policy has to look.
    pub fn parse(head: &[u8], len: u32) -> Result<Self, DropReason> {
        let len = len as usize;
        let head = head.get(..len.min(HEAD_LEN)).unwrap_or(head);
        let ether = Ethernet::parse(head).ok_or(DropReason::MalformedPacket)?;
        let payload = ether.header_len();
        let packet = head.get(payload..).ok_or(DropReason::MalformedPacket)?;
        let packet_len = len.saturating_sub(payload);
        let ip = match ether.ethertype() {
            ethertype::IPV4 => Some(ipv4(packet, packet_len, payload)?),
            ethertype::IPV6 => Some(ipv6(packet, packet_len, payload)?),
            _ => None,
        };
        Ok(Self { ethertype: ether.ethertype(), payload, ip })
    }

    /// Whether the frame carries IP, ARP or a tag in a place that is not looked into but that some receivers do look into:
    /// behind a third tag (which systems skip that take a tag of VLAN 0 for none), or in LLC/SNAP (which bridges to other
    /// media make into plain Ethernet). `head` is what was parsed.
    pub fn hidden(&self, head: &[u8]) -> bool {
        if ethernet::is_tag(self.ethertype.to_be_bytes()) {
            return true;
        }
        if self.ethertype >= MIN_ETHERTYPE {
            return false;
        }
        // SNAP (RFC 1042) and its bridge-tunnel variant (802.1H).
        let Some(&[0xaa, 0xaa, 3, 0, 0, 0 | 0xf8, t0, t1]) =
            head.get(self.payload..).and_then(<[u8]>::first_chunk)
        else {
            return false;
        };
        let inner = u16::from_be_bytes([t0, t1]);
        ethernet::is_tag([t0, t1])
            || matches!(inner, ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP | ethertype::RARP)
    }
}

/// An IP packet before its transport header is looked at. Offsets and lengths are from its first byte.
struct Packet<'a> {
    /// What can be seen of it.
    bytes: &'a [u8],
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    upper: usize,
    /// Length, where the header says so bounded by that.
    len: usize,
    /// Fragment offset in bytes, more fragments.
    fragment: (u16, bool),
}

fn ipv4(bytes: &[u8], len: usize, payload: usize) -> Result<Ip, DropReason> {
    let ip = Ipv4::parse(bytes).ok_or(DropReason::MalformedPacket)?;
    let [s0, s1, s2, s3, d0, d1, d2, d3] =
        *ip.addresses().first_chunk().ok_or(DropReason::MalformedPacket)?;
    let claimed = usize::from(ip.total_len());
    let packet = Packet {
        bytes,
        src: Ipv4Addr::new(s0, s1, s2, s3).into(),
        dst: Ipv4Addr::new(d0, d1, d2, d3).into(),
        protocol: ip.protocol(),
        upper: ip.header_len(),
        len: if ip.is_fragment() { len.min(claimed) } else { len },
        fragment: ip.fragment(),
    };
    packet.transport(payload, protocol::ICMP)
}

fn ipv6(bytes: &[u8], len: usize, payload: usize) -> Result<Ip, DropReason> {
    let ip = Ipv6::parse(bytes).ok_or(DropReason::MalformedPacket)?;
    let (src, dst) = ip.addresses().split_first_chunk::<16>().ok_or(DropReason::MalformedPacket)?;
    let dst = *dst.first_chunk::<16>().ok_or(DropReason::MalformedPacket)?;
    let claimed = ipv6::HEADER_LEN + usize::from(ip.payload_len());
    let parted = ip.fragment() != (0, false);
    if parted && ip.is_chain_split() {
        return Err(DropReason::BadFragment);
    }
    let packet = Packet {
        bytes,
        src: Ipv6Addr::from(*src).into(),
        dst: Ipv6Addr::from(dst).into(),
        protocol: ip.protocol(),
        upper: ip.upper_offset(),
        len: if parted { len.min(claimed) } else { len },
        fragment: ip.fragment(),
    };
    if matches!(packet.protocol, protocol::MOBILITY | protocol::HOST_IDENTITY | protocol::SHIM6)
        && packet.fragment.0 == 0
        && bytes.get(packet.upper) != Some(&protocol::NONE)
    {
        return Err(DropReason::MalformedPacket);
    }
    packet.transport(payload, protocol::ICMPV6)
}

impl Packet<'_> {
    /// Looks at the transport header. `icmp` is the protocol that has a type and a code in this version of IP.
    fn transport(&self, payload: usize, icmp: u8) -> Result<Ip, DropReason> {
        let present = self.len.checked_sub(self.upper);
        let (fragment, needed) = match (self.fragment, self.protocol) {
            ((0, false), protocol::TCP) => (Fragment::Whole, tcp::MIN_HEADER_LEN),
            ((0, false), p) if p == protocol::UDP || p == icmp => (Fragment::Whole, UPPER_MIN),
            ((0, false), _) => (Fragment::Whole, 0),
            ((0, true), protocol::TCP) => (Fragment::First, tcp::MIN_HEADER_LEN),
            ((0, true), _) => (Fragment::First, UPPER_MIN),
            ((offset, _), protocol) => {
                let (offset, end) = (usize::from(offset), present.map(|p| p + usize::from(offset)));
                let within_header = protocol == protocol::TCP && offset < tcp::MIN_HEADER_LEN;
                if within_header || end.is_none_or(|end| end > usize::from(u16::MAX)) {
                    return Err(DropReason::BadFragment);
                }
                (Fragment::Later, 0)
            }
        };
        if present.is_none_or(|present| present < needed) {
            let first = fragment == Fragment::First;
            return Err(if first { DropReason::BadFragment } else { DropReason::MalformedPacket });
        }
        let header = self.bytes.get(self.upper..).and_then(|rest| rest.get(..needed));
        let header = header.ok_or(DropReason::MalformedPacket)?;
        let mut ip = Ip {
            src: self.src,
            dst: self.dst,
            protocol: self.protocol,
            fragment,
            ports: None,
            tcp_flags: 0,
            icmp: None,
            upper: payload + self.upper,
        };
        if let Some(&[b0, b1, b2, b3]) = header.first_chunk() {
            if matches!(self.protocol, protocol::TCP | protocol::UDP) {
                ip.ports = Some((u16::from_be_bytes([b0, b1]), u16::from_be_bytes([b2, b3])));
            }
            if self.protocol == icmp {
                ip.icmp = Some((b0, b1));
            }
            if self.protocol == protocol::TCP {
                ip.tcp_flags = header.get(tcp::field::FLAGS).copied().unwrap_or_default();
            }
        }
        Ok(ip)
    }
}
