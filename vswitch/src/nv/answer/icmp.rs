//! ICMP of the customer network's router (RFC 792, RFC 1191, RFC 1812, RFC 4443).

use std::net::IpAddr;

use super::{TTL, ethernet, finish, ip, is_one_station, pad, question, seal, v4_pair, v6_pair, vlan};
use crate::Mac;
use crate::frame::ethernet::{Ethernet, ethertype};
use crate::frame::headers::Ip;
use crate::frame::ipv4::{self, Ipv4};
use crate::frame::ipv6::{self, Ipv6};
use crate::frame::neighbour::kind;
use crate::frame::protocol;
use crate::nv::wire::tos;

/// ICMP and ICMPv6 types and their codes.
mod message {
    pub(super) const ECHO_REPLY: u8 = 0;
    pub(super) const UNREACHABLE: u8 = 3;
    pub(super) const FRAGMENTATION_NEEDED: u8 = 4; // a code
    pub(super) const SOURCE_QUENCH: u8 = 4;
    pub(super) const REDIRECT: u8 = 5;
    pub(super) const ECHO: u8 = 8;
    pub(super) const TIME_EXCEEDED: u8 = 11;
    pub(super) const PARAMETER_PROBLEM: u8 = 12;
    pub(super) const HOST: u8 = 1; // a code
    pub(super) const V6_UNREACHABLE: u8 = 1;
    pub(super) const V6_ADDRESS: u8 = 3; // a code
    pub(super) const V6_TOO_BIG: u8 = 2;
    pub(super) const V6_TIME_EXCEEDED: u8 = 3;
    pub(super) const V6_FIRST_INFORMATION: u8 = 128;
    pub(super) const V6_ECHO: u8 = 128;
    pub(super) const V6_ECHO_REPLY: u8 = 129;
}

/// Bytes of an ICMP header.
const HEADER: usize = 8;

/// Bytes of the largest error: what every host must take (RFC 1812, 4.3.2.3; RFC 4443, 2.4).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;

/// Of that for what is quoted.
const ROOM_V4: usize = MAX_V4 - ipv4::MIN_HEADER_LEN - HEADER;
const ROOM_V6: usize = MAX_V6 - ipv6::HEADER_LEN - HEADER;

/// Precedence of what routers say about the network itself (RFC 1812, 4.3.2.5: internetwork control).
const TOS_V4: u8 = 0xc0;

/// The flag of IPv4 that forbids routers to fragment.
const DONT_FRAGMENT: u8 = 0x40;

/// What an answer needs of the packet in a frame. Places are from the frame's beginning.
struct Asked<'a> {
    ether: Ethernet<'a>,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    /// The IP header and the transport header.
    network: usize,
    upper: usize,
    /// End of the packet as its header says, or of the frame if that says nothing sensible (as of TSO frames).
    end: usize,
    tos: u8,
    dont_fragment: bool,
    /// Whether this is all of the packet.
    whole: bool,
    /// Whether this is its beginning.
    first: bool,
}

impl<'a> Asked<'a> {
    /// Looks at a packet that may be answered at all: from one station to one station, on Ethernet too.
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let ether = question(frame)?;
        let network = ether.header_len();
        let packet = frame.get(network..)?;
        let asked = match ether.ethertype() {
            ethertype::IPV4 => {
                let ip = Ipv4::parse(packet)?;
                let (src, dst) = v4_pair(ip.addresses())?;
                let len = usize::from(ip.total_len());
                let sensible = (ip.header_len()..packet.len()).contains(&len);
                Self {
                    ether,
                    src: src.into(),
                    dst: dst.into(),
                    protocol: ip.protocol(),
                    network,
                    upper: network + ip.header_len(),
                    end: network + if sensible { len } else { packet.len() },
                    tos: tos(frame),
                    dont_fragment: packet.get(ipv4::field::FRAGMENT)? & DONT_FRAGMENT != 0,
                    whole: !ip.is_fragment(),
                    first: ip.fragment().0 == 0,
                }
            }
            ethertype::IPV6 => {
                let ip = Ipv6::parse(packet)?;
                let (src, dst) = v6_pair(ip.addresses())?;
                let len = ipv6::HEADER_LEN + usize::from(ip.payload_len());
                let sensible = (ip.upper_offset()..packet.len()).contains(&len);
                Self {
                    ether,
                    src: src.into(),
                    dst: dst.into(),
                    protocol: ip.protocol(),
                    network,
                    upper: network + ip.upper_offset(),
                    end: network + if sensible { len } else { packet.len() },
                    tos: tos(frame),
                    dont_fragment: true,
                    whole: ip.fragment() == (0, false),
                    first: ip.fragment().0 == 0,
                }
            }
            _ => return None,
        };
        let one = is_one_station(asked.src) && is_one_station(asked.dst);
        (one && !ether.dst().is_group()).then_some(asked)
    }

    /// Whether it is an ICMP error or a redirect, or may be: what is answered with an error must not be one (RFC 1812, 4.3.2.7;
    /// RFC 4443, 2.4).
    fn is_error(&self, frame: &[u8]) -> bool {
        is_error(self.protocol, self.dst, frame.get(self.upper).copied())
    }
}

/// The same of a packet whose headers are known.
pub fn may_be_error(ip: &Ip) -> bool {
    is_error(ip.protocol, ip.dst, ip.icmp.map(|(kind, _)| kind))
}

fn is_error(protocol: u8, dst: IpAddr, kind: Option<u8>) -> bool {
    let icmp = matches!((protocol, dst), (protocol::ICMP, IpAddr::V4(_)) | (protocol::ICMPV6, IpAddr::V6(_)));
    icmp && kind.is_none_or(|kind| match dst {
        IpAddr::V4(_) => matches!(
            kind,
            message::UNREACHABLE
                | message::SOURCE_QUENCH
                | message::REDIRECT
                | message::TIME_EXCEEDED
                | message::PARAMETER_PROBLEM
        ),
        IpAddr::V6(_) => kind < message::V6_FIRST_INFORMATION || kind == kind::REDIRECT,
    })
}

/// Writes the reply to an echo request in the name of the address it was sent to. `frame` is all of it. `false` if it is no echo request,
/// or one that nobody answers: to or from a group, or in fragments.
///
/// The request's checksum is not looked at, because its sender may have left it open.
pub fn echo_reply(frame: &[u8], out: &mut Vec<u8>) -> bool {
    let done = echo(frame, out);
    finish(out, done)
}

fn echo(frame: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let asked = Asked::parse(frame)?;
    let message = frame.get(asked.upper..asked.end)?;
    let &[kind, 0, _, _, ref rest @ ..] = message else { return None };
    let reply = match (asked.protocol, kind, asked.dst) {
        (protocol::ICMP, message::ECHO, IpAddr::V4(_)) => message::ECHO_REPLY,
        (protocol::ICMPV6, message::V6_ECHO, IpAddr::V6(_)) => message::V6_ECHO_REPLY,
        _ => return None,
    };
    if !asked.whole || message.len() < HEADER {
        return None;
    }
    let vlan = vlan(&asked.ether);
    ethernet(out, asked.ether.src(), asked.ether.dst(), vlan, asked.ether.ethertype());
    ip(out, asked.dst, asked.src, message.len(), asked.tos & !3, TTL)?;
    let at = out.len();
    out.extend_from_slice(&[reply, 0, 0, 0]);
    out.extend_from_slice(rest);
    seal(out, at, asked.dst, asked.src)?;
    pad(out, vlan);
    Some(())
}

/// Writes what tells a packet's sender that its TTL or hop limit ended here, at the router `from`. `frame` is the packet's as it
/// came; as much as may be of what is given is quoted. `false` if there must be no such answer: to an ICMP error, a
/// fragment other than the first, and to and from what is not one station.
pub fn time_exceeded(frame: &[u8], from: IpAddr, router_mac: Mac, out: &mut Vec<u8>) -> bool {
    let kind = match from {
        IpAddr::V4(_) => message::TIME_EXCEEDED,
        IpAddr::V6(_) => message::V6_TIME_EXCEEDED,
    };
    let done =
        Asked::parse(frame).and_then(|asked| error(frame, &asked, from, router_mac, [kind, 0], 0, out));
    finish(out, done)
}

/// Writes what tells a packet's sender that packets of at most `mtu` bytes (IP header included) get through: "fragmentation
/// needed" (RFC 1191) or "packet too big" (RFC 4443). `false` as with [`time_exceeded`], and if the packet may be fragmented instead.
pub fn too_big(frame: &[u8], from: IpAddr, router_mac: Mac, mtu: u16, out: &mut Vec<u8>) -> bool {
    let kind = match from {
        IpAddr::V4(_) => [message::UNREACHABLE, message::FRAGMENTATION_NEEDED],
        IpAddr::V6(_) => [message::V6_TOO_BIG, 0],
    };
    let asked = Asked::parse(frame).filter(|asked| asked.dont_fragment);
    let done = asked.and_then(|asked| error(frame, &asked, from, router_mac, kind, u32::from(mtu), out));
    finish(out, done)
}

/// Writes what tells a station that a packet of its cannot be delivered to the guest it is for: "host unreachable" (RFC 792) or "address
/// unreachable" (RFC 4443). The first of `ends` gets it, the second says it; of the packet, given in two parts, as much as may be is quoted.
/// That the packet may be answered at all is the caller's to say. `false` if the two ends cannot speak with each other.
pub fn host_unreachable(
    ends: [(Mac, IpAddr); 2],
    tag: Option<u16>,
    packet: [&[u8]; 2],
    out: &mut Vec<u8>,
) -> bool {
    let [(to_mac, to), (from_mac, from)] = ends;
    let (kind, room, tos, ethertype) = match from {
        IpAddr::V4(_) => ([message::UNREACHABLE, message::HOST], ROOM_V4, TOS_V4, ethertype::IPV4),
        IpAddr::V6(_) => ([message::V6_UNREACHABLE, message::V6_ADDRESS], ROOM_V6, 0, ethertype::IPV6),
    };
    if !is_one_station(to) {
        return finish(out, None);
    }
    let first = packet[0].get(..room).unwrap_or(packet[0]);
    let rest = packet[1].get(..room - first.len()).unwrap_or(packet[1]);
    ethernet(out, to_mac, from_mac, tag, ethertype);
    let done = ip(out, from, to, HEADER + first.len() + rest.len(), tos, TTL).and_then(|()| {
        let at = out.len();
        out.extend_from_slice(&kind);
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(first);
        out.extend_from_slice(rest);
        seal(out, at, from, to)?;
        pad(out, tag);
        Some(())
    });
    finish(out, done)
}

/// An error of one type and code, with the word that follows the checksum.
fn error(
    frame: &[u8],
    asked: &Asked<'_>,
    from: IpAddr,
    router_mac: Mac,
    kind: [u8; 2],
    word: u32,
    out: &mut Vec<u8>,
) -> Option<()> {
    if !asked.first || asked.is_error(frame) {
        return None;
    }
    let (room, tos) = match from {
        IpAddr::V4(_) => (ROOM_V4, TOS_V4),
        IpAddr::V6(_) => (ROOM_V6, 0),
    };
    let quoted = frame.get(asked.network..asked.end)?;
    let quoted = quoted.get(..room).unwrap_or(quoted);
    let vlan = vlan(&asked.ether);
    ethernet(out, asked.ether.src(), router_mac, vlan, asked.ether.ethertype());
    ip(out, from, asked.src, HEADER + quoted.len(), tos, TTL)?;
    let at = out.len();
    out.extend_from_slice(&kind);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&word.to_be_bytes());
    out.extend_from_slice(quoted);
    seal(out, at, from, asked.src)?;
    pad(out, vlan);
    Some(())
}
