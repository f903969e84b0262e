//! A customer network's way to a physical one, at this host: routed with customer addresses as they are (`forward`), or behind one shared
//! address (`nat`).
//!
//! *Out*: what a customer route gives to the gateway leaves by its uplink in its VLAN, to the destination itself if that is on the gateway's
//! subnet, otherwise to the lowest host address of that subnet, where the physical network's router is taken to be.
//!
//! *In*: what comes to the uplink's MAC address in that VLAN, for a customer address of a network with a `forward` gateway there or for the
//! shared address, becomes a frame of the customer network's router, and goes by the destination's record from there. Its source must be outside
//! of the customer network's subnets.
//!
//! Other hosts accept packets from the router with such a source only where a route of the customer network leads to its gateway.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

use super::ingress::{Opened, Readdress};
use super::model::{Encap, GatewayMode, Rdid};
use super::nat::{Nat, Refused, Share, TenantId};
use super::neighbours::Hop;
use super::overlay::{Exit, Ingress, Overlay, Rewrite};
use super::policy::{LocalGateway, NetworkId, Policy, ROUTER_MAC, Target};
use super::records::Of;
use super::wire::rewrite;
use super::{Answer, walk};
use crate::frame::ethernet::{Ethernet, HEADER_LEN, ethertype};
use crate::frame::headers::Headers;
use crate::frame::offload::Offload;
use crate::frame::tag::Tagging;
use crate::hash::Seeded;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::trace::DropReason;
use crate::verdict::{Frame, Verdict};
use crate::{HEAD_LEN, Nanos, PortId, hash};

/// The shared addresses of this host and their sessions. They live on from one policy to the next.
#[derive(Debug)]
pub struct Nats {
    seed: u64,
    by_address: RwLock<HashMap<IpAddr, Shared, Seeded>>,
}

/// A shared address, and who is what behind it.
#[derive(Debug)]
struct Shared {
    nat: Nat,
    tenants: HashMap<Rdid, TenantId>,
}

impl Nats {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, by_address: RwLock::new(HashMap::with_hasher(Seeded(hash::expand(seed, 0)))) }
    }

    fn with<T>(&self, outside: IpAddr, what: impl FnOnce(&Shared) -> T) -> Option<T> {
        self.by_address.read().unwrap_or_else(PoisonError::into_inner).get(&outside).map(what)
    }

    /// The shared addresses are those of the policy, and behind each are its customer networks; what has expired is forgotten. To be called
    /// about every second.
    pub(super) fn follow(&self, policy: &Policy, now: Nanos) {
        let wanted = || {
            policy.all_gateways().filter(|(_, g)| g.mode == GatewayMode::Nat).filter_map(
                |(network, gateway)| Some((gateway.address?.addr(), policy.network(network)?.rdid)),
            )
        };
        let outside: HashSet<IpAddr> = wanted().map(|(outside, _)| outside).collect();
        let mut nats = self.by_address.write().unwrap_or_else(PoisonError::into_inner);
        nats.retain(|address, _| outside.contains(address));
        for (index, &address) in outside.iter().enumerate() {
            let seed = hash::expand(self.seed, 1 + index as u64);
            nats.entry(address).or_insert_with(|| {
                let nat = Nat::new(address, seed, Share::default());
                Shared { nat, tenants: HashMap::new() }
            });
        }
        for (address, Shared { nat, tenants }) in nats.iter_mut() {
            let here: HashSet<Rdid> =
                wanted().filter(|(outside, _)| outside == address).map(|(_, rdid)| rdid).collect();
            tenants.retain(|&network, _| {
                let stays = here.contains(&network);
                if !stays {
                    nat.dismiss(network);
                }
                stays
            });
            for network in here {
                if let Some(tenant) = nat.admit(network) {
                    tenants.insert(network, tenant);
                }
            }
            nat.age(now);
        }
    }
}

/// Out of the customer network.
pub(super) fn leave(
    frame: &mut Frame<'_>,
    policy: &Policy,
    (network, routers): (NetworkId, &[IpAddr]),
    to: IpAddr,
) -> Result<Verdict, DropReason> {
    let gateways = policy.gateways(network);
    let fits = |g: &LocalGateway| g.address.is_some_and(|address| address.addr().is_ipv4() == to.is_ipv4());
    let Some(index) = gateways.iter().position(fits) else {
        frame.note(|| "by way of the customer network's gateway, of which this host has none".into());
        return walk::no_route(frame, to);
    };
    if walk::ttl_of(frame.head).is_none_or(|ttl| ttl <= 1) {
        frame.single = true;
        let router = routers.iter().copied().find(|router| router.is_ipv4() == to.is_ipv4());
        let router = router.ok_or(DropReason::NvTtlExpired)?;
        return Ok(walk::answer(frame, Answer::TimeExceeded { router }));
    }
    let uplink = frame.snap.port(gateways[index].port).map(|port| port.id);
    frame.note(|| format!("{to} is behind the customer network's gateway"));
    frame.overlay = Some(Overlay {
        rewrite: Some(Rewrite { dst: frame.dst, src: frame.src, hop: true }),
        exit: Some(Exit { network, gateway: index as u16 }),
        ..Overlay::NONE
    });
    uplink.map(Verdict::Unicast).ok_or(DropReason::NvNoRoute)
}

/// Makes a frame that leaves through a gateway one of the physical network's, and says which tag it goes with. The error is why it cannot go.
pub fn exit(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    exit: &Exit,
    head: &mut [u8],
    offload: &Offload,
) -> Result<Tagging, DropReason> {
    let unreachable = DropReason::ProviderUnreachable;
    let policy = snap.nv().ok_or(unreachable)?;
    let gateway = policy.gateways(exit.network).get(usize::from(exit.gateway)).ok_or(unreachable)?;
    let ip = Headers::parse(head, head.len() as u32)?.ip.ok_or(DropReason::NvEthertype)?;
    let subnet = gateway.address.ok_or(unreachable)?;
    let address = if subnet.contains(&ip.dst) { ip.dst } else { super::policy::lowest_host(&subnet) };
    let mac = snap.port(gateway.port).map(|port| port.mac).ok_or(unreachable)?;
    let hop = Hop { port: gateway.port, vlan: gateway.vlan, address };
    let next = state.nv.neighbours.find(&hop).ok_or(unreachable)?;
    if gateway.mode == GatewayMode::Nat {
        let network = policy.network(exit.network).ok_or(unreachable)?.rdid;
        let translated = state.nv.nats.with(subnet.addr(), |Shared { nat, tenants }| {
            let &tenant = tenants.get(&network).ok_or(DropReason::SessionLimit)?;
            nat.translate_out(now, tenant, head, offload).map_err(reason)
        });
        translated.unwrap_or(Err(unreachable))?;
    }
    rewrite::macs(head, next, mac);
    Ok(match gateway.vlan {
        Some(vid) => Tagging::Write { vid, priority: false },
        None => Tagging::Keep,
    })
}

fn reason(refused: Refused) -> DropReason {
    match refused {
        Refused::NoPort | Refused::Full => DropReason::SessionLimit,
        Refused::NoSession | Refused::ToItself => DropReason::NvDestinationUnknown,
        Refused::Unreadable | Refused::Fragment | Refused::Protocol => DropReason::MalformedPacket,
    }
}

/// Into a customer network: a frame from the physical one, if it is for one. As [`super::open`].
pub(super) fn arrive(
    snap: &Snapshot,
    policy: &Policy,
    state: &State,
    now: Nanos,
    from: PortId,
    head: &[u8],
    len: u32,
) -> Option<Result<Opened, DropReason>> {
    let ether = Ethernet::parse(head)?;
    let vlan = Some(ether.vlan_id()).filter(|&vlan| vlan != 0);
    let ours = snap.port(from).is_some_and(|port| port.mac == ether.dst()) && ether.tags() < 2;
    let ways = policy.ways();
    if !ways.has_gateway(from, vlan) || !ours {
        return None;
    }
    if !matches!(ether.ethertype(), ethertype::IPV4 | ethertype::IPV6) {
        return None;
    }
    let strip = ether.header_len() - HEADER_LEN;
    let ip = Headers::parse(head, len).ok()?.ip?;
    let mut translated = None;
    let (network, dst) = if ways.is_nat(from, vlan, ip.dst) {
        let mut bytes = [0; HEAD_LEN];
        let seen = head.get(strip..)?;
        let seen = seen.get(..HEAD_LEN.min((len as usize).saturating_sub(strip))).unwrap_or(seen);
        let copy = bytes.get_mut(..seen.len())?;
        copy.copy_from_slice(seen);
        let kind = ether.ethertype().to_be_bytes();
        copy.get_mut(12..HEADER_LEN)?.copy_from_slice(&kind);
        let found =
            state.nv.nats.with(ip.dst, |shared| shared.nat.translate_in(now, copy, &Offload::None))?;
        let (_, rdid) = match found {
            Ok(found) => found,
            // Nobody's session: it is the physical network's packet, to an address that has no other use.
            Err(refused) => return Some(Err(reason(refused))),
        };
        let inside = Headers::parse(copy, len - strip as u32).ok()?.ip?.dst;
        translated = Some(bytes);
        (policy.network_of(rdid)?, inside)
    } else {
        let network = ways.forward(from, vlan, ip.dst, |network| policy.route(network, ip.dst))?;
        (network, ip.dst)
    };
    let Some(Target::OnLink(vsid)) = policy.route(network, dst) else {
        return Some(Err(DropReason::NvNoRoute));
    };
    if matches!(policy.route(network, ip.src), Some(Target::OnLink(_))) {
        return Some(Err(DropReason::NvSourceSpoofed));
    }
    let Some((_, view)) = state.nv.records.find(vsid, Of::Address(dst)) else {
        return Some(Err(DropReason::NvDestinationUnknown));
    };
    let readdress = Readdress::new(view.mac, ROUTER_MAC, ether.ethertype(), (ip.src, dst), translated);
    // The encapsulation is of no meaning: there was none.
    let ingress = Ingress { encap: Encap::Nvgre, vsid, src: ip.src, dst: ip.dst, gateway: true };
    let len = len.checked_sub(strip as u32)?;
    Some(Ok(Opened { ingress, strip: strip as u16, len, ecn: None, rewrite: Some(readdress) }))
}
