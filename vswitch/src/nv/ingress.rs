//! What comes from the physical network: whether it is a tunnel's packet to this host, and what is in it.
//!
//! Everything that is not addressed to a provider address of this host, at the uplink and in the VLAN where that address is, is an ordinary
//! frame: other people's tunnels are none of its business. In IP rewrite a packet to the provider address that stands for a guest of this
//! host is that guest's.

use std::fmt;
use std::net::IpAddr;

use super::model::Encap;
use super::overlay::Ingress;
use super::policy::{LocalProvider, Policy, ROUTER_MAC};
use super::wire::{self, rewrite};
use super::{errors, gateway};
use crate::frame::ethernet::{self, HEADER_LEN, ethertype};
use crate::frame::headers::Headers;
use crate::frame::offload::Offload;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::trace::DropReason;
use crate::{HEAD_LEN, Mac, Nanos, PortId};

/// A customer's frame in one of the physical network's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Out of which tunnel it comes.
    pub ingress: Ingress,
    /// Bytes to be taken off the front.
    pub strip: u16,
    /// Bytes of it after that; what follows is padding.
    pub len: u32,
    /// The outer packet's congestion mark, to be combined with its own (RFC 6040).
    pub ecn: Option<u8>,
    /// What changes of it after that (IP rewrite).
    pub rewrite: Option<Readdress>,
}

impl Opened {
    /// The beginning of the customer's frame, of which the physical one begins with `head`, as it is judged.
    pub(crate) fn inner(&self, head: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut inner = head.get(usize::from(self.strip)..).ok_or(DropReason::NvMalformed)?.to_vec();
        inner.truncate(self.len as usize);
        if let Some(outer) = self.ecn {
            wire::ecn::arrive(&mut inner, outer).map_err(|_| DropReason::NvCongestion)?;
        }
        if let Some(rewrite) = &self.rewrite {
            rewrite.apply(&mut inner, &Offload::None)?;
        }
        Ok(inner)
    }
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ingress { encap, vsid, src, dst, gateway } = self.ingress;
        if gateway {
            return write!(f, "through the gateway from {src} to {dst}, virtual subnet {vsid}");
        }
        write!(f, "{} from {src} to {dst}, virtual subnet {vsid}", encap.name())
    }
}

/// IP rewrite and gateways: what the packet was before its addresses were replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readdress {
    /// Ethernet addresses, destination first, and ethertype.
    ether: [u8; HEADER_LEN],
    src: IpAddr,
    dst: IpAddr,
    /// The beginning of the frame with its ports, too, replaced as if nothing were open of it.
    translated: Option<[u8; HEAD_LEN]>,
}

impl Readdress {
    pub(super) fn new(
        dst_mac: Mac,
        src_mac: Mac,
        ethertype: u16,
        (src, dst): (IpAddr, IpAddr),
        translated: Option<[u8; HEAD_LEN]>,
    ) -> Self {
        let mut ether = [0; HEADER_LEN];
        ether[..6].copy_from_slice(&dst_mac.0);
        ether[6..12].copy_from_slice(&src_mac.0);
        ether[12..].copy_from_slice(&ethertype.to_be_bytes());
        Self { ether, src, dst, translated }
    }

    /// Changes a frame, without its outer tag, to what it was; `offload` is what is still open of it.
    pub fn apply(&self, head: &mut [u8], offload: &Offload) -> Result<(), DropReason> {
        head.get_mut(..HEADER_LEN).ok_or(DropReason::NvMalformed)?.copy_from_slice(&self.ether);
        if let Some(translated) = &self.translated {
            return self.translate(head, offload, translated);
        }
        rewrite::apply(head, self.src, self.dst, offload).map_err(|_| DropReason::NvMalformed)
    }
}

impl Readdress {
    fn translate(&self, head: &mut [u8], offload: &Offload, to: &[u8; HEAD_LEN]) -> Result<(), DropReason> {
        let seen = head.len().min(HEAD_LEN);
        if matches!(offload, Offload::None) {
            head[HEADER_LEN..seen].copy_from_slice(&to[HEADER_LEN..seen]);
            return Ok(());
        }
        // Its checksum is open and covers addresses only, as yet; so nothing but the port itself changes beside them.
        rewrite::apply(head, self.src, self.dst, offload).map_err(|_| DropReason::NvMalformed)?;
        let upper = Headers::parse(head, head.len() as u32)?.ip.map_or(seen, |ip| ip.upper);
        let ports = upper..upper + 4;
        if let (Some(from), Some(into)) = (to.get(ports.clone()), head.get_mut(ports)) {
            into.copy_from_slice(from);
        }
        Ok(())
    }
}

/// Looks at a frame that came from `from`, by its first bytes `head` (all of it, or at least [`crate::HEAD_LEN`]) and its length. `None` = an
/// ordinary frame. An error is the reason to drop it.
#[inline]
pub fn open(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    from: PortId,
    head: &[u8],
    len: u32,
) -> Option<Result<Opened, DropReason>> {
    let policy = snap.nv()?;
    match wire::open(head, len) {
        Some(Ok(tunnelled)) => {
            ours(policy, from, tunnelled.mac, tunnelled.vlan, tunnelled.dst)?;
            Some(Ok(Opened {
                ingress: tunnelled.ingress(),
                strip: tunnelled.inner as u16,
                len: tunnelled.inner_len,
                ecn: Some(tunnelled.ecn),
                rewrite: None,
            }))
        }
        Some(Err(bad)) if ours(policy, from, bad.mac, bad.vlan, bad.dst).is_some() => {
            Some(Err(DropReason::NvMalformed))
        }
        _ => rewritten(policy, state, from, head, len)
            .or_else(|| gateway::arrive(snap, policy, state, now, from, head, len)),
    }
}

/// The provider address that a packet is for, if it is one of this host's.
fn ours(policy: &Policy, from: PortId, mac: Mac, vlan: Option<u16>, dst: IpAddr) -> Option<&LocalProvider> {
    let here = |p: &&LocalProvider| p.port == from && p.vlan == vlan && p.mac == mac;
    policy.local(dst).filter(here)
}

/// A packet to the address that stands for a guest of this host.
fn rewritten(
    policy: &Policy,
    state: &State,
    from: PortId,
    head: &[u8],
    len: u32,
) -> Option<Result<Opened, DropReason>> {
    let ether = ethernet::Ethernet::parse(head)?;
    let v4 = match ether.ethertype() {
        ethertype::IPV4 => true,
        ethertype::IPV6 => false,
        _ => return None,
    };
    let payload = ether.header_len();
    let at = |offset: usize, len: usize| head.get(payload + offset..)?.get(..len);
    let address = |v4_at: usize, v6_at: usize| -> Option<IpAddr> {
        if v4 {
            Some(IpAddr::from(*at(v4_at, 4)?.first_chunk::<4>()?))
        } else {
            Some(IpAddr::from(*at(v6_at, 16)?.first_chunk::<16>()?))
        }
    };
    let (src, dst) = (address(12, 8)?, address(16, 24)?);
    let records = &state.nv.records;
    let (vsid, ca, view) = records.rewritten(dst)?;
    let vlan = Some(ether.vlan_id()).filter(|&vlan| vlan != 0);
    let here = |p: &LocalProvider| p.port == from && p.vlan == vlan && p.mac == ether.dst();
    if ether.tags() > 1 || !policy.providers().iter().any(here) {
        return None;
    }
    let Ok(headers) = Headers::parse(head, len) else { return Some(Err(DropReason::NvMalformed)) };
    let Some((source_vsid, source, source_view)) = records.rewritten(src) else {
        // A router has something to say about the guest's packet, to this host.
        let error = view.local && headers.ip.is_some_and(|ip| errors::is_error(&ip));
        return (!error).then_some(Err(DropReason::NvSourceSpoofed));
    };
    let mac = if source_vsid == vsid { source_view.mac } else { ROUTER_MAC };
    let readdress = Readdress::new(view.mac, mac, ether.ethertype(), (source, ca), None);
    let strip = payload - HEADER_LEN;
    Some(Ok(Opened {
        ingress: Ingress { encap: Encap::Rewrite, vsid, src, dst, gateway: false },
        strip: strip as u16,
        len: len.checked_sub(strip as u32)?,
        ecn: None,
        rewrite: Some(readdress),
    }))
}
