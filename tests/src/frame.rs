//! Builders of Ethernet frames: VLAN tags, IPv4 and IPv6 with options and extension headers, TCP, UDP, ARP.
//!
//! [`Frame::build`] makes a complete frame with right checksums, [`Frame::build_partial`] one whose transport
//! checksum the receiver (or the device) is to complete, [`Frame::build_large`] a TSO frame.
//!
//! ```
//! use turnpike_tests::{Frame, Packet};
//! let frame = Frame::new([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]).vlan(7).ipv6().tcp(1, 2).payload(&[1; 100]).build();
//! assert_eq!(frame.len(), 14 + 4 + 40 + 20 + 100);
//! Packet::of(&frame).verify().unwrap();
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::guest::Guest;
use crate::net_hdr::{self, NetHdr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The broadcast address.
pub const BROADCAST: Mac = [0xff; 6];

/// TCP flag bits.
pub mod tcp {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Begin of a connection.
    pub const SYN: u8 = 0x02;
    /// The connection is broken off.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// Acknowledgement.
    pub const ACK: u8 = 0x10;
    /// Congestion experienced (ECN echo).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// IPv6 extension header numbers.
pub mod ext {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
}

const PROTO_ICMP: u8 = 1;
const PROTO_TCP: u8 = 6;
const PROTO_UDP: u8 = 17;
const PROTO_ICMPV6: u8 = 58;

#[derive(Clone, Debug)]
enum Net {
    Raw(u16),
    V4 { options: Vec<u8>, id: u16, fragment: u16, tos: u8 },
    V6 { extensions: Vec<(u8, Vec<u8>)>, class: u8 },
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    None,
    Other(u8),
    Udp,
    Tcp { seq: u32, ack: u32, flags: u8, options: usize },
}

/// A frame under construction. Every method takes and returns it.
#[derive(Clone, Debug)]
pub struct Frame {
    dst: Mac,
    src: Mac,
    tags: Vec<(u16, u16)>,
    net: Net,
    v4: (Ipv4Addr, Ipv4Addr),
    v6: (Ipv6Addr, Ipv6Addr),
    transport: Transport,
    ports: (u16, u16),
    payload: Vec<u8>,
}

impl Frame {
    /// A frame of ethertype 0x88b5 (for local experiments) without payload.
    #[must_use]
    pub fn new(dst: Mac, src: Mac) -> Self {
        let v4 = |mac: Mac| Ipv4Addr::new(10, mac[3], mac[4], mac[5]);
        let v6 = |mac: Mac| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, mac[3].into(), mac[4].into(), mac[5].into());
        Self {
            dst,
            src,
            tags: Vec::new(),
            net: Net::Raw(0x88b5),
            v4: (v4(src), v4(dst)),
            v6: (v6(src), v6(dst)),
            transport: Transport::None,
            ports: (0, 0),
            payload: Vec::new(),
        }
    }

    /// A frame from one guest to another.
    #[must_use]
    pub fn between(from: &Guest, to: &Guest) -> Self {
        Self::new(to.mac, from.mac)
    }

    /// A whole frame of exactly `len` bytes (14 at least) from one guest to another, filled with a pattern of `seed`.
    #[must_use]
    pub fn of_len(from: &Guest, to: &Guest, len: usize, seed: u64) -> Vec<u8> {
        Self::between(from, to).payload(&pattern(len - 14, seed)).build()
    }

    /// Another source address; the IP addresses stay.
    #[must_use]
    pub fn source(mut self, mac: Mac) -> Self {
        self.src = mac;
        self
    }

    /// Another destination address; the IP addresses stay.
    #[must_use]
    pub fn destination(mut self, mac: Mac) -> Self {
        self.dst = mac;
        self
    }

    /// Another IP source address of either family.
    #[must_use]
    pub fn from_ip(mut self, ip: impl Into<IpAddr>) -> Self {
        match ip.into() {
            IpAddr::V4(ip) => self.v4.0 = ip,
            IpAddr::V6(ip) => self.v6.0 = ip,
        }
        self
    }

    /// Another IP destination address of either family.
    #[must_use]
    pub fn to_ip(mut self, ip: impl Into<IpAddr>) -> Self {
        match ip.into() {
            IpAddr::V4(ip) => self.v4.1 = ip,
            IpAddr::V6(ip) => self.v6.1 = ip,
        }
        self
    }

    /// Makes the packet a fragment that begins `offset` bytes (a multiple of eight) into the whole and may have `more` behind it.
    /// IPv6: by a fragment header behind the extension headers so far.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        assert!(offset.is_multiple_of(8), "fragments begin at multiples of eight bytes, not {offset}");
        match &mut self.net {
            Net::V4 { fragment, .. } => *fragment = (offset / 8) | if more { 0x2000 } else { 0 },
            Net::V6 { extensions, .. } => {
                let [high, low] = (offset | u16::from(more)).to_be_bytes();
                extensions.push((ext::FRAGMENT, vec![0, 0, high, low, 0, 0, 0, 7]));
            }
            Net::Raw(_) => {}
        }
        self
    }

    /// Replaces the ethertype; what follows is payload.
    #[must_use]
    pub fn ethertype(mut self, ethertype: u16) -> Self {
        self.net = Net::Raw(ethertype);
        self
    }

    /// Adds an 802.1Q tag behind those already there.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        self.tag(0x8100, id)
    }

    /// Adds a tag of any kind (0x88a8 for 802.1ad).
    #[must_use]
    pub fn tag(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push((tpid, tci));
        self
    }

    /// IPv4, addresses made from the MAC addresses.
    #[must_use]
    pub fn ipv4(mut self) -> Self {
        self.net = Net::V4 { options: Vec::new(), id: 0x1234, fragment: 0x4000, tos: 0 };
        self
    }

    /// IPv6, addresses made from the MAC addresses.
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.net = Net::V6 { extensions: Vec::new(), class: 0 };
        self
    }

    /// IPv4 options (a multiple of four bytes).
    #[must_use]
    pub fn ip_options(mut self, bytes: &[u8]) -> Self {
        assert!(
            bytes.len().is_multiple_of(4),
            "IPv4 options come in words of four bytes, not {}",
            bytes.len()
        );
        if let Net::V4 { options, .. } = &mut self.net {
            bytes.clone_into(options);
        }
        self
    }

    /// IPv4 identification and the flags-and-offset word (default: 0x1234, don't fragment).
    #[must_use]
    pub fn ip_id(mut self, new_id: u16, flags_and_offset: u16) -> Self {
        if let Net::V4 { id, fragment, .. } = &mut self.net {
            (*id, *fragment) = (new_id, flags_and_offset);
        }
        self
    }

    /// The ECN and DSCP byte of IPv4 or IPv6.
    #[must_use]
    pub fn traffic_class(mut self, value: u8) -> Self {
        match &mut self.net {
            Net::V4 { tos, .. } => *tos = value,
            Net::V6 { class, .. } => *class = value,
            Net::Raw(_) => {}
        }
        self
    }

    /// Appends an IPv6 extension header of `len` bytes in all (a multiple of eight).
    #[must_use]
    pub fn extension(mut self, kind: u8, len: usize) -> Self {
        assert!(
            len >= 8 && len.is_multiple_of(8),
            "extension headers come in units of eight bytes, not {len}"
        );
        let mut bytes = vec![0; len];
        bytes[1] = (len / 8 - 1) as u8;
        match kind {
            // One PadN option fills the rest.
            ext::HOP_BY_HOP | ext::DESTINATION => (bytes[2], bytes[3]) = (1, (len - 4) as u8),
            // A routing type without meaning and no segments left: to be ignored.
            ext::ROUTING => bytes[2] = 253,
            _ => {}
        }
        if let Net::V6 { extensions, .. } = &mut self.net {
            extensions.push((kind, bytes));
        }
        self
    }

    /// UDP.
    #[must_use]
    pub fn udp(mut self, from: u16, to: u16) -> Self {
        (self.transport, self.ports) = (Transport::Udp, (from, to));
        self
    }

    /// TCP with the ACK flag.
    #[must_use]
    pub fn tcp(mut self, from: u16, to: u16) -> Self {
        self.transport = Transport::Tcp { seq: 1, ack: 1, flags: tcp::ACK, options: 0 };
        self.ports = (from, to);
        self
    }

    /// TCP sequence number and flags.
    #[must_use]
    pub fn tcp_seq(mut self, new_seq: u32, new_flags: u8) -> Self {
        if let Transport::Tcp { seq, flags, .. } = &mut self.transport {
            (*seq, *flags) = (new_seq, new_flags);
        }
        self
    }

    /// TCP options: `len` bytes (a multiple of four) of no-operations.
    #[must_use]
    pub fn tcp_options(mut self, len: usize) -> Self {
        if let Transport::Tcp { options, .. } = &mut self.transport {
            *options = len;
        }
        self
    }

    /// Another IP protocol; what follows is payload.
    #[must_use]
    pub fn protocol(mut self, number: u8) -> Self {
        self.transport = Transport::Other(number);
        self
    }

    /// An ARP request to everybody: who has the IPv4 address of `dst`'s MAC?
    #[must_use]
    pub fn arp_request(mut self) -> Self {
        let (src, dst) = self.v4;
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 1];
        bytes.extend(self.src.iter().chain(&src.octets()).chain(&[0; 6]).chain(&dst.octets()));
        (self.dst, self.net, self.payload) = (BROADCAST, Net::Raw(0x0806), bytes);
        self
    }

    /// What comes behind all headers.
    #[must_use]
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        bytes.clone_into(&mut self.payload);
        self
    }

    /// The complete frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        self.assemble(false).1
    }

    /// The frame with a partial transport checksum, and the header that says where to complete it.
    #[must_use]
    pub fn build_partial(&self) -> (NetHdr, Vec<u8>) {
        let (header, frame) = self.assemble(true);
        assert!(header.needs_csum(), "only TCP and UDP over IP have a checksum to leave out");
        (header, frame)
    }

    /// A TSO frame that is to be cut into segments of `mss` bytes of payload.
    #[must_use]
    pub fn build_large(&self, mss: u16) -> (NetHdr, Vec<u8>) {
        let (mut header, frame) = self.build_partial();
        header.gso_type = match self.net {
            Net::V4 { .. } => net_hdr::GSO_TCPV4,
            _ => net_hdr::GSO_TCPV6,
        };
        if matches!(self.transport, Transport::Tcp { flags, .. } if flags & tcp::CWR != 0) {
            header.gso_type |= net_hdr::GSO_ECN;
        }
        header.gso_size = mss;
        header.hdr_len = (frame.len() - self.payload.len()) as u16;
        (header, frame)
    }

    fn assemble(&self, partial: bool) -> (NetHdr, Vec<u8>) {
        let segment = self.segment();
        let protocol = match self.transport {
            Transport::None => 59, // no next header
            Transport::Other(number) => number,
            Transport::Udp => PROTO_UDP,
            Transport::Tcp { .. } => PROTO_TCP,
        };
        let mut frame = [self.dst, self.src].concat();
        for (tpid, tci) in &self.tags {
            frame.extend(tpid.to_be_bytes().into_iter().chain(tci.to_be_bytes()));
        }
        let pseudo = match &self.net {
            Net::Raw(ethertype) => {
                frame.extend(ethertype.to_be_bytes());
                None
            }
            Net::V4 { options, id, fragment, tos } => {
                frame.extend([0x08, 0x00]);
                let mut ip = vec![0x45 + (options.len() / 4) as u8, *tos];
                ip.extend((20 + options.len() as u16 + segment.len() as u16).to_be_bytes());
                ip.extend(id.to_be_bytes().into_iter().chain(fragment.to_be_bytes()));
                ip.extend([64, protocol, 0, 0]);
                ip.extend(self.v4.0.octets().into_iter().chain(self.v4.1.octets()));
                ip.extend(options);
                let sum = !fold(sum(&ip));
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(&ip);
                Some(sum_of(&self.v4.0.octets(), &self.v4.1.octets()))
            }
            Net::V6 { extensions, class } => {
                frame.extend([0x86, 0xdd, 0x60 | class >> 4, class << 4, 0, 0]);
                let headers: usize = extensions.iter().map(|(_, bytes)| bytes.len()).sum();
                frame.extend(((headers + segment.len()) as u16).to_be_bytes());
                let kinds: Vec<u8> = extensions.iter().map(|&(kind, _)| kind).chain([protocol]).collect();
                frame.extend([kinds[0], 64]);
                frame.extend(self.v6.0.octets().into_iter().chain(self.v6.1.octets()));
                for ((_, bytes), next) in extensions.iter().zip(&kinds[1..]) {
                    frame.push(*next);
                    frame.extend(&bytes[1..]);
                }
                Some(sum_of(&self.v6.0.octets(), &self.v6.1.octets()))
            }
        };
        let start = frame.len();
        frame.extend(&segment);
        let Some(addresses) = pseudo else { return (NetHdr::default(), frame) };
        let pseudo = addresses + u64::from(protocol) + segment.len() as u64;
        let (offset, pseudo) = match self.transport {
            Transport::Udp => (6, pseudo),
            Transport::Tcp { .. } => (16, pseudo),
            Transport::Other(PROTO_ICMPV6) if segment.len() >= 4 && !partial => (2, pseudo),
            Transport::Other(PROTO_ICMP) if segment.len() >= 4 && !partial => (2, 0),
            _ => return (NetHdr::default(), frame),
        };
        let place = start + offset..start + offset + 2;
        if partial {
            frame[place].copy_from_slice(&fold(pseudo).to_be_bytes());
            let header = NetHdr {
                flags: net_hdr::NEEDS_CSUM,
                csum_start: start as u16,
                csum_offset: offset as u16,
                ..NetHdr::default()
            };
            return (header, frame);
        }
        let mut checksum = !fold(pseudo + sum(&segment));
        if checksum == 0 && protocol == PROTO_UDP {
            checksum = 0xffff; // zero means "none" in UDP
        }
        frame[place].copy_from_slice(&checksum.to_be_bytes());
        (NetHdr::default(), frame)
    }

    /// Transport header, checksum zero, and payload.
    fn segment(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ports = self.ports.0.to_be_bytes().into_iter().chain(self.ports.1.to_be_bytes());
        match self.transport {
            Transport::None | Transport::Other(_) => {}
            Transport::Udp => {
                bytes.extend(ports);
                bytes.extend((8 + self.payload.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
            }
            Transport::Tcp { seq, ack, flags, options } => {
                bytes.extend(ports.chain(seq.to_be_bytes()).chain(ack.to_be_bytes()));
                bytes.extend([(((20 + options) / 4) << 4) as u8, flags, 0x20, 0, 0, 0, 0, 0]);
                bytes.extend(std::iter::repeat_n(1, options));
            }
        }
        bytes.extend(&self.payload);
        bytes
    }
}

/// `len` bytes that differ from place to place and from seed to seed.
#[must_use]
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Sum of 16-bit big-endian words, an odd byte padded with zero.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low))).sum()
}

fn sum_of(a: &[u8], b: &[u8]) -> u64 {
    sum(a) + sum(b)
}

/// One's complement 16-bit sum.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
