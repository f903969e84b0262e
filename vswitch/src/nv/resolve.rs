//! Why packets for a customer address go where they go: every step of the packet walk, told for an operator.

use std::fmt;
use std::net::IpAddr;

use super::model::{Encap, Kind, Rdid};
use super::neighbours::Hop;
use super::overlay::Tunnel;
use super::policy::{Target, is_link_local};
use super::records::Of;
use super::underlay::room;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::trace::DropReason;
use crate::{Mac, Nanos, PortId};

/// One step, and what it found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The customer network a virtual subnet belongs to.
    Network {
        /// Its name.
        name: String,
        /// Its identity.
        rdid: Rdid,
    },
    /// The address is the router's.
    Router,
    /// The address is in this virtual subnet.
    OnLink {
        /// The virtual subnet.
        vsid: u32,
    },
    /// The address is behind a guest that forwards.
    Via {
        /// That one's customer address.
        hop: IpAddr,
        /// Its virtual subnet.
        vsid: u32,
    },
    /// The address is behind the network's gateway to a physical one.
    Gateway,
    /// The record that was found.
    Record {
        /// The customer address that was looked up.
        ca: IpAddr,
        /// The guest's MAC address.
        mac: Mac,
        /// Where it is.
        pa: IpAddr,
        /// What the record is for.
        kind: Kind,
        /// How its packets are carried.
        encap: Encap,
    },
    /// It is at this host, behind this port.
    Port {
        /// The port.
        port: PortId,
    },
    /// It is at another host, reached so.
    Provider {
        /// The provider address that packets go from.
        from: IpAddr,
        /// What they go to.
        to: IpAddr,
        /// The uplink.
        uplink: PortId,
        /// Whom they are given to.
        next_hop: IpAddr,
        /// That one's MAC address; `None` = it has not answered (yet).
        mac: Option<Mac>,
        /// How long packets on the way there may be, IP header included: the uplink's MTU, or less by a router's word.
        path_mtu: u16,
        /// How long the guest's own may be.
        mtu: u16,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { name, rdid } => write!(f, "in customer network {name} ({rdid})"),
            Self::Router => f.write_str("the customer network's router, at every host"),
            Self::OnLink { vsid } => write!(f, "in virtual subnet {vsid}"),
            Self::Via { hop, vsid } => write!(f, "routed to {hop} in virtual subnet {vsid}"),
            Self::Gateway => f.write_str("routed to the customer network's gateway"),
            Self::Record { ca, mac, pa, kind, encap } => {
                let (kind, encap) = (kind.name(), encap.name());
                write!(f, "{kind} record of {ca}: {mac} at {pa}, {encap}")
            }
            Self::Port { port } => write!(f, "at this host, behind port {port}"),
            Self::Provider { from, to, uplink, next_hop, mac, path_mtu, mtu } => {
                write!(f, "from {from} to {to} by uplink {uplink}, next hop {next_hop}")?;
                match mac {
                    Some(mac) => write!(f, " ({mac})"),
                    None => f.write_str(" (which has not answered yet)"),
                }?;
                write!(f, ", path MTU {path_mtu}, of which the guest may use {mtu}")
            }
        }
    }
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolution {
    /// What was found, in order.
    pub steps: Vec<Step>,
    /// Why packets for the address end here, if they do.
    pub dropped: Option<DropReason>,
}

/// Says where packets go that a guest of virtual subnet `vsid` sends to a customer address. Changes nothing.
pub fn resolve(snap: &Snapshot, state: &State, now: Nanos, vsid: u32, ca: IpAddr) -> Resolution {
    let mut steps = Vec::new();
    let dropped = walk(snap, state, now, vsid, ca, &mut steps).err();
    Resolution { steps, dropped }
}

fn walk(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    vsid: u32,
    ca: IpAddr,
    steps: &mut Vec<Step>,
) -> Result<(), DropReason> {
    let policy = snap.nv().ok_or(DropReason::NvNoRoute)?;
    let subnet = policy.subnet(vsid).ok_or(DropReason::NvNoRoute)?;
    if let Some(network) = policy.network(subnet.network) {
        steps.push(Step::Network { name: network.name.clone(), rdid: network.rdid });
    }
    if policy.is_router(subnet.network, ca) {
        steps.push(Step::Router);
        return Ok(());
    }
    let target =
        if is_link_local(ca) { Some(Target::OnLink(vsid)) } else { policy.route(subnet.network, ca) };
    let (hop, to) = match target.ok_or(DropReason::NvNoRoute)? {
        Target::OnLink(to) => {
            steps.push(Step::OnLink { vsid: to });
            (ca, to)
        }
        Target::Via { hop, vsid } => {
            steps.push(Step::Via { hop, vsid });
            (hop, vsid)
        }
        Target::Gateway => {
            steps.push(Step::Gateway);
            return if policy.gateways(subnet.network).is_empty() {
                Err(DropReason::NvNoRoute)
            } else {
                Ok(())
            };
        }
    };
    let records = &state.nv.records;
    let (_, view) = records.find(to, Of::Address(hop)).ok_or(DropReason::NvDestinationUnknown)?;
    let address = |id| records.peers.address(id).ok_or(DropReason::ProviderUnreachable);
    let (pa, wire) = (address(view.pa)?, address(view.wire)?);
    let (kind, encap) = (view.kind, view.encap);
    steps.push(Step::Record { ca: hop, mac: view.mac, pa, kind, encap });
    if view.local {
        let learned = || state.fdb.lookup(view.mac, crate::Segment(to));
        let port = snap.station(to, view.mac).or_else(learned).ok_or(DropReason::NvNotHere)?;
        steps.push(Step::Port { port });
        return Ok(());
    }
    let provider = policy.towards(wire).ok_or(DropReason::ProviderUnreachable)?;
    let next_hop = provider.next_hop(wire).ok_or(DropReason::ProviderUnreachable)?;
    let mac = state.nv.neighbours.get(&Hop { port: provider.port, vlan: provider.vlan, address: next_hop });
    let from = provider.address.addr();
    let uplink = snap.port(provider.port).map_or(0, |port| port.mtu);
    let (src, dst) = (view.wire, view.wire);
    let path_mtu = room(state, now, &Tunnel { encap: Encap::Rewrite, vsid: to, src, dst }, uplink);
    let mtu = room(state, now, &Tunnel { encap, vsid: to, src, dst }, uplink);
    steps.push(Step::Provider { from, to: wire, uplink: provider.port, next_hop, mac, path_mtu, mtu });
    if mac.is_some() { Ok(()) } else { Err(DropReason::ProviderUnreachable) }
}
