//! Packets with right checksums, computed over everything and word by word.

use std::net::IpAddr;

use proptest::prelude::*;
use vswitch::frame::ipv4::Ipv4;
use vswitch::frame::ipv6::Ipv6;
use vswitch::frame::protocol;
use vswitch::nv::model::Encap;
use vswitch::nv::wire::{OUTER_MAX, Outer};

use crate::packets::{extension, fragment, framed, icmp, tcp, udp, v4, v4_piece, v6, with_options};
use crate::support::{slow_sum, stranger};

pub(crate) const UDP_LITE: u8 = 136;

/// Where the checksum is that a whole packet or a first fragment has behind its IP header, and what it covers beside that.
fn transport(packet: &[u8]) -> Option<(usize, usize, Vec<u8>)> {
    let (protocol, upper, addresses, later) = if packet[0] >> 4 == 4 {
        let ip = Ipv4::parse(packet)?;
        (ip.protocol(), ip.header_len(), packet[12..20].to_vec(), ip.fragment().0 != 0)
    } else {
        let ip = Ipv6::parse(packet)?;
        (ip.protocol(), ip.upper_offset(), packet[8..40].to_vec(), ip.fragment().0 != 0)
    };
    let field = match protocol {
        protocol::TCP => 16,
        protocol::UDP | UDP_LITE => 6,
        protocol::ICMP | protocol::ICMPV6 => 2,
        _ => return None,
    };
    let length = (packet.len().saturating_sub(upper) as u32).to_be_bytes();
    let pseudo = [&addresses[..], &length, &[0, 0, 0, protocol]].concat();
    let pseudo = if protocol == protocol::ICMP { vec![] } else { pseudo };
    (!later && packet.len() >= upper + field + 2).then_some((upper, upper + field, pseudo))
}

/// The packet with every checksum computed: of its IPv4 header, and of the transport header it begins with.
pub(crate) fn complete(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        let len = usize::from(packet[0] & 15) * 4;
        packet[10..12].fill(0);
        let sum = !slow_sum(&[&packet[..len]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if let Some((upper, field, pseudo)) = transport(&packet) {
        packet[field..field + 2].fill(0);
        let sum = match !slow_sum(&[&pseudo, &packet[upper..]]) {
            0 if field == upper + 6 => 0xffff,
            sum => sum,
        };
        packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// Asserts that all checksums of a packet are right.
pub(crate) fn assert_right(packet: &[u8]) {
    let upper = transport(packet).map(|(_, field, _)| field);
    let complete = complete(packet.to_vec());
    if packet[0] >> 4 == 4 {
        assert_eq!(packet[10..12], complete[10..12], "header checksum of {packet:02x?}");
    }
    if let Some(field) = upper {
        assert_eq!(
            packet[field..field + 2],
            complete[field..field + 2],
            "checksum at {field} of {packet:02x?}"
        );
    }
}

/// The sum of the pseudo header in the place of the checksum, as a sender leaves it that has others complete it; with where the checksum
/// begins to cover the frame and where it stands, for a frame with a plain Ethernet header.
pub(crate) fn leave_open(packet: &mut [u8]) -> Option<(u16, u16)> {
    let (upper, field, pseudo) = transport(packet).filter(|(_, _, pseudo)| !pseudo.is_empty())?;
    packet[field..field + 2].copy_from_slice(&slow_sum(&[&pseudo]).to_be_bytes());
    Some((upper as u16 + 14, (field - upper) as u16))
}

/// A packet that can be built again with other addresses.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ports: (u16, u16),
    pub(crate) payload: Vec<u8>,
    /// 0 = whole, 1 = first fragment, 2 = later one.
    pub(crate) part: u8,
    /// IPv4 options or an IPv6 extension header.
    pub(crate) more_headers: bool,
}

impl Packet {
    pub(crate) fn build(&self) -> Vec<u8> {
        let (src, dst) = (self.src.to_string(), self.dst.to_string());
        let upper = match self.protocol {
            protocol::TCP => tcp(self.ports.0, self.ports.1, 0x18, &self.payload),
            protocol::UDP | UDP_LITE => udp(self.ports.0, self.ports.1, &self.payload),
            protocol::ICMP => icmp(8, &[&[0, 1, 0, 1], &self.payload[..]].concat()),
            protocol::ICMPV6 => icmp(128, &[&[0, 1, 0, 1], &self.payload[..]].concat()),
            _ => [&[0; 8], &self.payload[..]].concat(),
        };
        let (at, more) = ([0, 0, 1480][usize::from(self.part)], self.part == 1);
        complete(if self.src.is_ipv4() {
            let packet = v4_piece(&src, &dst, self.protocol, at, more, &upper);
            if self.more_headers { with_options(packet, 8) } else { packet }
        } else {
            let (next, rest) = match self.part {
                0 => (self.protocol, upper),
                _ => (protocol::FRAGMENT, fragment(self.protocol, at, more, &upper)),
            };
            if self.more_headers {
                v6(&src, &dst, protocol::DESTINATION, &extension(protocol::DESTINATION, next, 1, &rest))
            } else {
                v6(&src, &dst, next, &rest)
            }
        })
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        framed(&self.build())
    }

    /// The same packet between other stations.
    pub(crate) fn between(&self, src: IpAddr, dst: IpAddr) -> Self {
        Self { src, dst, ..self.clone() }
    }
}

pub(crate) fn address(v6: bool) -> BoxedStrategy<IpAddr> {
    if v6 {
        any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
    } else {
        any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
    }
}

pub(crate) fn packet(v6: bool) -> impl Strategy<Value = Packet> {
    let icmp = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
    let protocols = prop::sample::select(vec![protocol::TCP, protocol::UDP, UDP_LITE, icmp, 50]);
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    let shape = (prop::sample::select(vec![0, 0, 0, 1, 2]), any::<bool>());
    (address(v6), address(v6), protocols, any::<(u16, u16)>(), payload, shape).prop_map(
        |(src, dst, protocol, ports, mut payload, (part, more_headers))| {
            if part == 1 {
                payload.resize(payload.len() / 8 * 8 + 24, 7);
            }
            Packet { src, dst, protocol, ports, payload, part, more_headers }
        },
    )
}

/// The outer header that most tests use.
pub(crate) fn outer(encap: Encap, v6: bool) -> Outer {
    let (from, to) = if v6 { ("fd00:1::1", "fd00:2::2") } else { ("192.168.34.8", "192.168.42.12") };
    Outer {
        dst: stranger(2),
        src: stranger(1),
        vlan: None,
        from: from.parse().expect("an address"),
        to: to.parse().expect("an address"),
        encap,
        vsid: 5001,
        ttl: 64,
        copy_dscp: true,
    }
}

/// The whole outer frame around an inner one.
pub(crate) fn carried(outer: &Outer, inner: &[u8]) -> Vec<u8> {
    let template = outer.template().expect("a template");
    let mut header = [0; OUTER_MAX];
    let entropy = vswitch::nv::wire::entropy(inner, inner.len() as u32);
    let len = template
        .emit(entropy, inner.len(), vswitch::nv::wire::tos(inner), 0, &mut header)
        .expect("a packet that is not too long");
    [&header[..len], inner].concat()
}

/// A TCP packet of the course manual's example, from VM-A to VM-C.
pub(crate) fn example() -> Vec<u8> {
    framed(&complete(v4(
        "10.16.1.3",
        "10.16.1.7",
        protocol::TCP,
        &tcp(40_000, 7777, 0x18, b"data of the VM-A"),
    )))
}
