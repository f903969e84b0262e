//! Outer headers: built once for each tunnel, completed for each packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{BRIDGED_ETHERNET, GRE, GRE_KEY, TUNNEL_HEADER, VXLAN_PORT, VXLAN_VNI};
use crate::Mac;
use crate::frame::checksum::Sum;
use crate::frame::ethernet::{HEADER_LEN, TAG_LEN, ethertype};
use crate::frame::{ipv4, ipv6, protocol};
use crate::nv::model::Encap;

/// Bytes of the longest outer header: Ethernet with a tag, IPv6, UDP, VXLAN.
pub const OUTER_MAX: usize = HEADER_LEN + TAG_LEN + ipv6::HEADER_LEN + 2 * TUNNEL_HEADER;

/// First of the UDP source ports that tell flows apart (RFC 7348, section 5: the dynamic ports).
const FIRST_SOURCE_PORT: u16 = 49_152;

/// Largest VSID that fits.
const VSID_MASK: u32 = 0xff_ffff;

/// The flag of IPv4 that forbids routers to fragment.
const DONT_FRAGMENT: u16 = 0x4000;

/// Bytes by which a frame grows when it is carried so. What that takes from the MTU is the same without the tag: a packet of
/// `mtu - overhead(encap, v6, false)` bytes is one of `mtu` bytes in the tunnel, since the inner Ethernet header takes what the outer one adds.
#[inline]
pub const fn overhead(encap: Encap, pa_is_v6: bool, vlan: bool) -> usize {
    let ip = if pa_is_v6 { ipv6::HEADER_LEN } else { ipv4::MIN_HEADER_LEN };
    let tag = if vlan { TAG_LEN } else { 0 };
    tag + match encap {
        Encap::Nvgre => HEADER_LEN + ip + TUNNEL_HEADER,
        Encap::Vxlan => HEADER_LEN + ip + 2 * TUNNEL_HEADER,
        Encap::Rewrite => 0,
    }
}

/// What all packets of one tunnel have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// The next hop's Ethernet address.
    pub dst: Mac,
    /// The sending host's.
    pub src: Mac,
    /// VLAN of the provider network; `None` = untagged.
    pub vlan: Option<u16>,
    /// Sending host's provider address.
    pub from: IpAddr,
    /// Receiving host's provider address.
    pub to: IpAddr,
    /// How packets are carried.
    pub encap: Encap,
    /// The virtual subnet; of no meaning for IP rewrite.
    pub vsid: u32,
    /// TTL or hop limit on the physical network.
    pub ttl: u8,
    /// Whether the customer's DSCP is copied to the outer header; otherwise that has 0. ECN always is (RFC 6040).
    pub copy_dscp: bool,
}

/// An outer header that lacks only what differs from packet to packet.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    bytes: [u8; OUTER_MAX],
    /// How many of them there are.
    len: u8,
    /// Where the IP header begins.
    network: u8,
    encap: Encap,
    v6: bool,
    /// What of the customer's TOS byte is copied.
    tos: u8,
    /// Sum of the IPv4 header without TOS, total length, identification and checksum.
    sum: u16,
}

impl Outer {
    /// The header for all packets of this tunnel; `None` if the two provider addresses are not of one family, or VSID or VLAN are larger than
    /// any can be. Of IP rewrite it is the Ethernet header alone, which takes the place of the customer's.
    pub fn template(&self) -> Option<Template> {
        if self.vsid > VSID_MASK || self.vlan.is_some_and(|vlan| vlan > 0xfff) {
            return None;
        }
        let mut out = Writer { bytes: [0; OUTER_MAX], len: 0 };
        out.put(&self.dst.0);
        out.put(&self.src.0);
        if let Some(vlan) = self.vlan {
            out.put(&ethertype::VLAN.to_be_bytes());
            out.put(&vlan.to_be_bytes());
        }
        let protocol = if self.encap == Encap::Vxlan { protocol::UDP } else { GRE };
        let v6 = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out.put(&ethertype::IPV4.to_be_bytes());
                out.ipv4(self, protocol, from, to);
                false
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                out.put(&ethertype::IPV6.to_be_bytes());
                out.ipv6(self, protocol, from, to);
                true
            }
            _ => return None,
        };
        let network = HEADER_LEN + if self.vlan.is_some() { TAG_LEN } else { 0 };
        let vsid = self.vsid << 8;
        match self.encap {
            Encap::Nvgre => {
                out.put(&GRE_KEY.to_be_bytes());
                out.put(&BRIDGED_ETHERNET.to_be_bytes());
                out.put(&vsid.to_be_bytes());
            }
            Encap::Vxlan => {
                out.put(&FIRST_SOURCE_PORT.to_be_bytes());
                out.put(&VXLAN_PORT.to_be_bytes());
                out.put(&[0; 4]);
                out.put(&[VXLAN_VNI, 0, 0, 0]);
                out.put(&vsid.to_be_bytes());
            }
            Encap::Rewrite => {}
        }
        let mut sum = Sum::new();
        if !v6 && self.encap != Encap::Rewrite {
            sum.add(out.bytes.get(network..network + ipv4::MIN_HEADER_LEN)?);
        }
        Some(Template {
            bytes: out.bytes,
            len: out.len as u8,
            network: network as u8,
            encap: self.encap,
            v6,
            tos: if self.copy_dscp { 0xff } else { 3 },
            sum: sum.sum(),
        })
    }
}

impl Template {
    /// Whether packets of this tunnel are UDP datagrams, of which links may take many at once.
    pub fn is_datagram(&self) -> bool {
        self.encap == Encap::Vxlan
    }

    /// Writes the outer header of one packet to the beginning of `out` and says how long it is. The packet follows: the inner frame
    /// of `inner_len` bytes without FCS, or, for IP rewrite, what is behind its Ethernet header. `None` if that is more than an IP packet holds.
    ///
    /// `entropy` is [`super::entropy`] of the inner frame, `tos` its [`super::tos`]. `id` is of no consequence, because
    /// the packet must not be fragmented (RFC 6864, section 4), and may be 0.
    ///
    /// Flows show in GRE's FlowID, the UDP source port, and with IPv6 in the flow label too (RFC 6438). The UDP checksum is
    /// left zero, over IPv6 too (RFC 6935: the inner packet has its own, and who is to get it is in there as well).
    #[inline]
    pub fn emit(
        &self,
        entropy: u32,
        inner_len: usize,
        tos: u8,
        id: u16,
        out: &mut [u8; OUTER_MAX],
    ) -> Option<usize> {
        *out = self.bytes;
        let len = usize::from(self.len);
        if self.encap == Encap::Rewrite {
            return Some(len);
        }
        let at = usize::from(self.network);
        let packet_len = u16::try_from(inner_len.checked_add(len - at)?).ok()?;
        let (upper, udp_len) = if self.v6 {
            let header = out.get_mut(at..)?.first_chunk_mut::<{ ipv6::HEADER_LEN }>()?;
            let payload = packet_len - ipv6::HEADER_LEN as u16;
            let first = 6 << 28 | u32::from(tos & self.tos) << 20 | entropy & 0xf_ffff;
            header[..4].copy_from_slice(&first.to_be_bytes());
            header[ipv6::field::PAYLOAD_LEN..ipv6::field::NEXT].copy_from_slice(&payload.to_be_bytes());
            (at + ipv6::HEADER_LEN, payload)
        } else {
            let header = out.get_mut(at..)?.first_chunk_mut::<{ ipv4::MIN_HEADER_LEN }>()?;
            let tos = tos & self.tos;
            header[1] = tos;
            let (length, id) = (packet_len.to_be_bytes(), id.to_be_bytes());
            header[ipv4::field::TOTAL_LEN..ipv4::field::ID].copy_from_slice(&length);
            header[ipv4::field::ID..ipv4::field::FRAGMENT].copy_from_slice(&id);
            let sum = [u16::from(tos), packet_len, u16::from_be_bytes(id)];
            let sum = sum.into_iter().fold(u32::from(self.sum), |sum, word| sum + u32::from(word));
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            header[ipv4::field::CHECKSUM..ipv4::field::ADDRESSES]
                .copy_from_slice(&(!sum as u16).to_be_bytes());
            (at + ipv4::MIN_HEADER_LEN, packet_len - ipv4::MIN_HEADER_LEN as u16)
        };
        let tunnel = out.get_mut(upper..)?.first_chunk_mut::<TUNNEL_HEADER>()?;
        if self.encap == Encap::Nvgre {
            tunnel[7] = entropy as u8;
        } else {
            let port = FIRST_SOURCE_PORT | entropy as u16 & !FIRST_SOURCE_PORT;
            tunnel[..2].copy_from_slice(&port.to_be_bytes());
            tunnel[4..6].copy_from_slice(&udp_len.to_be_bytes());
        }
        Some(len)
    }
}

/// The header in the making; it is never longer than [`OUTER_MAX`].
struct Writer {
    bytes: [u8; OUTER_MAX],
    len: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if let Some(place) = self.bytes.get_mut(self.len..end) {
            place.copy_from_slice(bytes);
            self.len = end;
        }
    }

    fn ipv4(&mut self, outer: &Outer, protocol: u8, from: Ipv4Addr, to: Ipv4Addr) {
        if outer.encap == Encap::Rewrite {
            return;
        }
        self.put(&[0x45, 0, 0, 0, 0, 0]);
        self.put(&DONT_FRAGMENT.to_be_bytes());
        self.put(&[outer.ttl, protocol, 0, 0]);
        self.put(&from.octets());
        self.put(&to.octets());
    }

    fn ipv6(&mut self, outer: &Outer, protocol: u8, from: Ipv6Addr, to: Ipv6Addr) {
        if outer.encap == Encap::Rewrite {
            return;
        }
        self.put(&[0x60, 0, 0, 0, 0, 0, protocol, outer.ttl]);
        self.put(&from.octets());
        self.put(&to.octets());
    }
}
