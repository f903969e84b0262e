//! What the firewall sees of a frame, from the port's side: the guest's address is local, whichever way it goes.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Direction;
use crate::extension::Sight;
use crate::frame::headers::{Fragment, Ip};
use crate::frame::ipv4::{self, Ipv4};
use crate::frame::tcp::{self, flag};
use crate::frame::{ipv6, neighbour, protocol};

/// Acknowledges something: in every segment of a connection but the first.
pub(super) const ACK: u8 = 0x10;

/// Frames up to this length may be padding at their end (60 bytes, and a tag).
const PADDED: u32 = 64;

/// What tells connections of one port apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    pub(super) protocol: u8,
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    /// Local and remote. Of ICMP queries: identifier, and 1 if the peer asks. 0 for everything else.
    pub(super) ports: (u16, u16),
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let word = |address| match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        state.write_u128(word(self.local));
        state.write_u128(word(self.remote));
        let ports = u64::from(self.ports.0) << 16 | u64::from(self.ports.1);
        state.write_u64(u64::from(self.protocol) << 32 | ports);
    }
}

impl Key {
    /// The same without ports: what later fragments show.
    pub(super) fn pair(self) -> Self {
        Self { ports: (0, 0), ..self }
    }
}

/// What part of a conversation a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// A TCP segment with these flags.
    Segment(u8),
    /// Something that opens a connection or belongs to one: UDP, an ICMP request, any other protocol.
    Message,
    /// The answer to an ICMP request.
    Answer,
    /// A fragment that shows no ports.
    Fragment,
    /// An ICMP message about a packet that went the other way, of this connection if that can be seen.
    Error(Option<Key>),
    /// Another ICMP message.
    Notice,
}

/// One IP packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) direction: Direction,
    pub(super) key: Key,
    pub(super) part: Part,
    /// The visible beginning of the payload of its transport protocol.
    pub(super) payload: &'a [u8],
    /// That is payload for certain, and not padding.
    pub(super) carries: bool,
}

/// A frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen<'a> {
    /// An IP packet that is judged.
    Ip(Packet<'a>),
    /// No IP, or what IPv6 needs to find its neighbours: it passes. ARP, neighbour discovery and the like have policies of their own.
    Other,
    /// What it is cannot be seen, or it contradicts itself.
    Unreadable,
}

/// Looks at a frame.
pub(super) fn see<'a>(sight: &Sight<'a>) -> Seen<'a> {
    let Some(headers) = sight.headers() else { return Seen::Unreadable };
    if headers.hidden(sight.head) {
        return Seen::Unreadable;
    }
    let Some(ip) = &headers.ip else { return Seen::Other };
    let end = sight.head.len().min(sight.len as usize);
    let upper = sight.head.get(ip.upper..end).unwrap_or_default();
    let (local, remote) = match sight.direction {
        Direction::Out => (ip.src, ip.dst),
        Direction::In => (ip.dst, ip.src),
    };
    let mut key = Key { protocol: ip.protocol, local, remote, ports: (0, 0) };
    let (part, header) = match (ip.fragment, ip.protocol, ip.ports, ip.icmp) {
        (Fragment::Later, ..) => (Part::Fragment, 0),
        (_, protocol::TCP, Some(ports), _) => {
            key.ports = oriented(sight.direction, ports);
            let offset = upper.get(tcp::field::DATA_OFFSET).map_or(0, |byte| usize::from(byte >> 4) * 4);
            (Part::Segment(ip.tcp_flags), offset.max(tcp::MIN_HEADER_LEN))
        }
        (_, protocol::UDP, Some(ports), _) => {
            key.ports = oriented(sight.direction, ports);
            (Part::Message, 8)
        }
        (.., Some((kind, _))) => {
            if ip.protocol == protocol::ICMPV6 && neighbour::kind::is_discovery(kind) {
                return Seen::Other;
            }
            (icmp(sight.direction, ip, kind, upper, &mut key), 8)
        }
        _ => (Part::Message, 0),
    };
    let payload = upper.get(header..).unwrap_or_default();
    let carries = !payload.is_empty() && sight.len > PADDED && part != Part::Fragment;
    Seen::Ip(Packet { direction: sight.direction, key, part, payload, carries })
}

/// Local and remote of source and destination.
fn oriented(direction: Direction, (src, dst): (u16, u16)) -> (u16, u16) {
    match direction {
        Direction::Out => (src, dst),
        Direction::In => (dst, src),
    }
}

fn icmp(direction: Direction, ip: &Ip, kind: u8, message: &[u8], key: &mut Key) -> Part {
    let v4 = ip.protocol == protocol::ICMP;
    match (v4, kind) {
        (true, 8 | 13) | (false, 128) => {
            key.ports = asked(direction, message);
            Part::Message
        }
        (true, 0 | 14) | (false, 129) => {
            key.ports = asked(direction.reverse(), message);
            Part::Answer
        }
        (true, 3 | 11 | 12) | (false, 1..=4) => {
            // It quotes a packet that went the other way.
            Part::Error(message.get(8..).and_then(|quoted| quoted_key(direction.reverse(), quoted)))
        }
        _ => Part::Notice,
    }
}

/// The identifier of an ICMP query, and who asks.
fn asked(by: Direction, message: &[u8]) -> (u16, u16) {
    let id = message.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |id| u16::from_be_bytes(*id));
    (id, u16::from(by == Direction::In))
}

/// The connection of a packet that is quoted in an ICMP message, and that went in this direction.
fn quoted_key(direction: Direction, quoted: &[u8]) -> Option<Key> {
    let (protocol, src, dst, upper): (u8, IpAddr, IpAddr, usize) = match quoted.first()? >> 4 {
        4 => {
            let ip = Ipv4::parse(quoted)?;
            if ip.fragment().0 != 0 {
                return None;
            }
            let bytes: [u8; 8] = *quoted.get(ipv4::field::ADDRESSES..)?.first_chunk()?;
            let [s0, s1, s2, s3, d0, d1, d2, d3] = bytes;
            let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
            (ip.protocol(), src.into(), dst.into(), ip.header_len())
        }
        6 => {
            let addresses = quoted.get(ipv6::field::ADDRESSES..)?;
            let src: [u8; 16] = *addresses.first_chunk()?;
            let dst: [u8; 16] = *addresses.get(16..)?.first_chunk()?;
            let next = *quoted.get(ipv6::field::NEXT)?;
            (next, Ipv6Addr::from(src).into(), Ipv6Addr::from(dst).into(), ipv6::HEADER_LEN)
        }
        _ => return None,
    };
    let upper = quoted.get(upper..)?;
    let (local, remote) = if direction == Direction::Out { (src, dst) } else { (dst, src) };
    let ports = match protocol {
        protocol::TCP | protocol::UDP => {
            let [s0, s1, d0, d1] = *upper.first_chunk::<4>()?;
            oriented(direction, (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
        }
        protocol::ICMP | protocol::ICMPV6 => asked(direction, upper),
        _ => (0, 0),
    };
    Some(Key { protocol, local, remote, ports })
}

impl Packet<'_> {
    /// A TCP segment that no honest sender makes: it opens and ends at once, or does not say what it belongs to.
    pub(super) fn is_odd(&self) -> bool {
        let Part::Segment(flags) = self.part else { return false };
        let opens_and_ends = flags & flag::SYN != 0 && flags & (flag::FIN | flag::RST) != 0;
        opens_and_ends || flags & (flag::SYN | ACK | flag::RST) == 0
    }

    /// It tries whether something is there: it could be the first of something, or is what only scanners send. What acknowledges, ends or answers
    /// something is not counted: a guest does that to all who scan it, or whose connections were forgotten.
    pub(super) fn tries(&self) -> bool {
        match self.part {
            Part::Segment(flags) => flags & (ACK | flag::RST) == 0,
            Part::Message => true,
            Part::Answer | Part::Fragment | Part::Error(_) | Part::Notice => false,
        }
    }

    /// It is the first of a TCP connection.
    pub(super) fn is_first(&self) -> bool {
        matches!(self.part, Part::Segment(flags) if flags & (flag::SYN | ACK) == flag::SYN)
    }
}
