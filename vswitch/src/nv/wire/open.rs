//! What came out of the physical network: whether it is a tunnel's packet, and what is in it.
//!
//! Strict where two readers could see different packets, tolerant where the standards demand it: reserved bits that are to be
//! ignored are, and so is FlowID. A UDP checksum is not verified, which RFC 7348, section 5, leaves to the receiver: what matters
//! of the packet is covered by the customer's own checksums, and by the lookup records. IPv4's header checksum is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{BRIDGED_ETHERNET, GRE, GRE_KEY, TUNNEL_HEADER, VXLAN_PORT, VXLAN_VNI};
use crate::Mac;
use crate::frame::checksum::checksum;
use crate::frame::ethernet::{self, Ethernet, ethertype};
use crate::frame::ipv4::{self, Ipv4};
use crate::frame::ipv6::{self, Ipv6};
use crate::frame::join::Joint;
use crate::frame::protocol;
use crate::nv::model::{Encap, MAX_VSID, MIN_VSID};
use crate::nv::overlay::Ingress;

/// Bits of GRE's first word that must be clear (RFC 2784, section 2.3; RFC 7637, section 3.2): checksum, routing, sequence number, the two
/// behind it, and the version. Those in between are reserved and ignored.
const GRE_FORBIDDEN: u16 = 0xdc07;

/// A packet that came in a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnelled {
    /// Outer Ethernet destination.
    pub mac: Mac,
    /// VLAN of the outer frame; `None` = untagged or priority-tagged.
    pub vlan: Option<u16>,
    /// Outer source address, as yet a claim.
    pub src: IpAddr,
    /// Outer destination address. It is the caller's to say whether it is one of this host's.
    pub dst: IpAddr,
    /// How it was carried.
    pub encap: Encap,
    /// The virtual subnet: one of the valid ones, but not compared with anything.
    pub vsid: u32,
    /// Outer congestion mark, see [`super::ecn`].
    pub ecn: u8,
    /// Where the inner frame begins.
    pub inner: usize,
    /// Bytes of the inner frame. What follows it is padding of the outer one.
    pub inner_len: u32,
}

impl Tunnelled {
    /// The part of it that decides about the frame.
    pub fn ingress(&self) -> Ingress {
        Ingress { encap: self.encap, vsid: self.vsid, src: self.src, dst: self.dst, gateway: false }
    }
}

/// What looks like a tunnel's packet but is not a valid one. If `dst` is not an address of this host's, it is none of its business: an
/// ordinary frame, perhaps of a tenant's or a neighbour's own tunnel, or any fragment of a UDP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// Outer Ethernet destination.
    pub mac: Mac,
    /// VLAN of the outer frame; `None` = untagged or priority-tagged.
    pub vlan: Option<u16>,
    /// Outer source address.
    pub src: IpAddr,
    /// Outer destination address.
    pub dst: IpAddr,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a tunnel's packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// Tunnels' packets must not be fragmented (RFC 7637, section 4.1; RFC 7348, section 4.3).
    #[error("the outer packet is a fragment")]
    Fragment,
    /// IPv4 only.
    #[error("the outer header's checksum is wrong")]
    HeaderChecksum,
    /// Lengths of outer headers contradict each other or the frame's.
    #[error("the outer lengths contradict each other")]
    Length,
    /// The headers are not within the bytes that can be seen.
    #[error("the headers are cut off")]
    CutOff,
    /// A routing header sends the packet on.
    #[error("the outer packet is to be routed on by its source")]
    SourceRouted,
    /// A checksum, a sequence number, no key, another version.
    #[error("the GRE header is not NVGRE's")]
    GreHeader,
    /// The VNI is not valid.
    #[error("the VXLAN header has no VNI")]
    VxlanHeader,
    /// Smaller than 4096, or 16777215.
    #[error("the virtual subnet is a reserved one")]
    Vsid,
    /// The frame in the tunnel has a VLAN tag (RFC 7637, section 3.3; RFC 7348, section 6.1).
    #[error("the inner frame has a VLAN tag")]
    InnerTag,
}

/// Looks at a frame of `len` bytes from the physical network. `None` = it is not a tunnel's packet.
///
/// An IP packet is one if it has GRE for Ethernet frames, or UDP to port 4789, in it; fragments of GRE and UDP may be, and are errors.
/// Outer frames have at most one tag.
#[inline]
pub fn open(head: &[u8], len: u32) -> Option<Result<Tunnelled, Malformed>> {
    let head = head.get(..len as usize).unwrap_or(head);
    let ether = Ethernet::parse(head)?;
    if ether.tags() > 1 {
        return None;
    }
    let network = ether.header_len();
    let packet = head.get(network..)?;
    let frame_rest = (len as usize).checked_sub(network)?;
    let outer = match ether.ethertype() {
        ethertype::IPV4 => ipv4(packet, frame_rest)?,
        ethertype::IPV6 => ipv6(packet, frame_rest)?,
        _ => return None,
    };
    let vlan = Some(ether.vlan_id()).filter(|&vlan| vlan != 0);
    let (src, dst) = (outer.src, outer.dst);
    let inner = outer.inner(packet)?.map(|(encap, vsid, at)| Tunnelled {
        mac: ether.dst(),
        vlan,
        src,
        dst,
        encap,
        vsid,
        ecn: outer.ecn,
        inner: network + at,
        inner_len: (outer.len - at) as u32,
    });
    Some(inner.map_err(|fault| Malformed { mac: ether.dst(), vlan, src, dst, fault }))
}

/// Whether a whole frame from the physical network is a tunnel's packet with a TCP segment behind which its sender has more of the same, so
/// that it is worth waiting a moment for: [`crate::frame::join`] makes one frame of them.
pub fn continues(frame: &[u8]) -> bool {
    let Some(Ok(tunnelled)) = open(frame, frame.len() as u32) else { return false };
    let inner = frame.get(tunnelled.inner..tunnelled.inner + tunnelled.inner_len as usize);
    inner.is_some_and(|inner| Joint::new(inner, inner.len() as u32).is_some())
}

/// An IP packet that is GRE or UDP. Offsets and lengths are from its first byte.
struct Outer {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    ecn: u8,
    upper: usize,
    /// Bytes of the packet as its header says.
    len: usize,
    fault: Option<Fault>,
}

fn ipv4(packet: &[u8], present: usize) -> Option<Outer> {
    let &[_, tos, ..] = packet else { return None };
    let &protocol = packet.get(ipv4::field::PROTOCOL).filter(|p| matches!(**p, GRE | protocol::UDP))?;
    let ip = Ipv4::parse(packet)?;
    let &[s0, s1, s2, s3, d0, d1, d2, d3] = ip.addresses().first_chunk()?;
    let (upper, len) = (ip.header_len(), usize::from(ip.total_len()));
    let fault = if ip.is_fragment() {
        Some(Fault::Fragment)
    } else {
        (len > present || len < upper).then_some(Fault::Length)
    };
    let (src, dst) = (Ipv4Addr::new(s0, s1, s2, s3).into(), Ipv4Addr::new(d0, d1, d2, d3).into());
    Some(Outer { src, dst, protocol, ecn: tos & 3, upper, len, fault })
}

fn ipv6(packet: &[u8], present: usize) -> Option<Outer> {
    let &[first, second, ..] = packet else { return None };
    let ip = Ipv6::parse(packet)?;
    let protocol = Some(ip.protocol()).filter(|p| matches!(*p, GRE | protocol::UDP))?;
    let (src, dst) = ip.addresses().split_first_chunk::<16>()?;
    let (upper, len) = (ip.upper_offset(), ipv6::HEADER_LEN + usize::from(ip.payload_len()));
    let fault = if ip.fragment() != (0, false) {
        Some(Fault::Fragment)
    } else if ip.is_routed() {
        Some(Fault::SourceRouted)
    } else {
        (len > present || len < upper).then_some(Fault::Length)
    };
    let (src, dst) = (Ipv6Addr::from(*src).into(), Ipv6Addr::from(*dst.first_chunk::<16>()?).into());
    Some(Outer { src, dst, protocol, ecn: super::traffic_class(first, second) & 3, upper, len, fault })
}

impl Outer {
    /// Encapsulation, virtual subnet and where the inner frame begins; `None` = something else than a tunnel.
    fn inner(&self, packet: &[u8]) -> Option<Result<(Encap, u32, usize), Fault>> {
        if self.fault == Some(Fault::Fragment) {
            return Some(Err(Fault::Fragment)); // which one it is cannot always be seen
        }
        let header = packet.get(self.upper..)?;
        let &[b0, b1, b2, b3, ref rest @ ..] = header.first_chunk::<TUNNEL_HEADER>()?;
        let second = u16::from_be_bytes([b2, b3]);
        let checked = match self.protocol {
            GRE if second == BRIDGED_ETHERNET => self.nvgre(u16::from_be_bytes([b0, b1]), *rest),
            protocol::UDP if second == VXLAN_PORT => {
                let [l0, l1, _, _] = *rest;
                self.vxlan(usize::from(u16::from_be_bytes([l0, l1])), header.get(TUNNEL_HEADER..)?)
            }
            _ => return None,
        };
        Some(checked.and_then(|found| self.frame(packet, found)))
    }

    fn nvgre(&self, flags: u16, [v0, v1, v2, _]: [u8; 4]) -> Result<(Encap, u32, usize), Fault> {
        if flags & (GRE_FORBIDDEN | GRE_KEY) != GRE_KEY {
            return Err(Fault::GreHeader);
        }
        Ok((Encap::Nvgre, u32::from_be_bytes([0, v0, v1, v2]), self.upper + TUNNEL_HEADER))
    }

    fn vxlan(&self, udp_len: usize, header: &[u8]) -> Result<(Encap, u32, usize), Fault> {
        if self.upper + udp_len != self.len {
            return Err(Fault::Length);
        }
        let &[flags, _, _, _, v0, v1, v2, _] = header.first_chunk::<TUNNEL_HEADER>().ok_or(Fault::CutOff)?;
        if flags & VXLAN_VNI == 0 {
            return Err(Fault::VxlanHeader);
        }
        Ok((Encap::Vxlan, u32::from_be_bytes([0, v0, v1, v2]), self.upper + 2 * TUNNEL_HEADER))
    }

    fn frame(
        &self,
        packet: &[u8],
        (encap, vsid, at): (Encap, u32, usize),
    ) -> Result<(Encap, u32, usize), Fault> {
        // Only of what would be opened: every other UDP packet comes this way as far as its port.
        let damaged =
            self.src.is_ipv4() && packet.get(..self.upper).is_none_or(|header| checksum(header) != 0);
        if damaged {
            return Err(Fault::HeaderChecksum);
        }
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if !(MIN_VSID..=MAX_VSID).contains(&vsid) {
            return Err(Fault::Vsid);
        }
        if self.len < at + ethernet::HEADER_LEN {
            return Err(Fault::Length);
        }
        let inner = packet.get(at..).and_then(<[u8]>::first_chunk::<{ ethernet::HEADER_LEN }>);
        let &[.., t0, t1] = inner.ok_or(Fault::CutOff)?;
        if ethernet::is_tag([t0, t1]) {
            return Err(Fault::InnerTag);
        }
        Ok((encap, vsid, at))
    }
}
