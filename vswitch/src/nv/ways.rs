//! Where this host is in physical networks for customers' sake, for look-ups: a host may have thousands of gateways, and every frame from the
//! uplink, and every new flow there, asks whether it concerns one of them.
//!
//! Compiled with the [`Policy`](super::policy::Policy); immutable. Keys are what is configured, so their hashing need not be seeded.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::model::GatewayMode;
use super::policy::{LocalGateway, LocalProvider, NetworkId, Target, bits};
use crate::{PortId, Segment};

/// A network of an uplink: its VLAN.
type Place = (PortId, Option<u16>);

/// The look-ups.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways {
    /// Where gateways are, and whose subnets can be reached through those that forward.
    gateways: HashMap<Place, Leads>,
    /// Shared addresses.
    nat: HashMap<IpAddr, Place>,
    /// This host's own addresses.
    own: HashMap<Segment, Vec<(PortId, IpNet)>>,
    /// The same, each for itself.
    addresses: HashMap<(Segment, IpAddr), PortId>,
}

/// The customer networks that have a prefix, ascending, by prefix length and prefix.
#[derive(Clone, Debug, Default)]
struct Leads {
    v4: Vec<(u8, HashMap<u128, Vec<NetworkId>>)>,
    v6: Vec<(u8, HashMap<u128, Vec<NetworkId>>)>,
}

impl Leads {
    fn table(&mut self, v4: bool) -> &mut Vec<(u8, HashMap<u128, Vec<NetworkId>>)> {
        if v4 { &mut self.v4 } else { &mut self.v6 }
    }

    fn add(&mut self, prefix: IpNet, network: NetworkId) {
        let (table, len) = (self.table(prefix.addr().is_ipv4()), prefix.prefix_len());
        let at = table.iter().position(|&(other, _)| other == len).unwrap_or_else(|| {
            table.push((len, HashMap::new()));
            table.len() - 1
        });
        if let Some((_, prefixes)) = table.get_mut(at) {
            let networks = prefixes.entry(bits(prefix.addr(), len)).or_default();
            if let Err(place) = networks.binary_search(&network) {
                networks.insert(place, network);
            }
        }
    }
}

fn segment(vlan: Option<u16>) -> Segment {
    Segment(vlan.unwrap_or(0).into())
}

impl Ways {
    /// `prefixes` are those of each customer network's subnets, by its number.
    pub(super) fn new<'a>(
        providers: &[LocalProvider],
        gateways: impl Iterator<Item = (NetworkId, &'a LocalGateway)>,
        prefixes: &HashMap<NetworkId, Vec<IpNet>>,
    ) -> Self {
        let mut this = Self::default();
        for provider in providers {
            this.own(provider.segment(), provider.port, provider.address);
        }
        for (network, gateway) in gateways {
            let place = (gateway.port, gateway.vlan);
            let leads = this.gateways.entry(place).or_default();
            if gateway.mode == GatewayMode::Forward {
                for &prefix in prefixes.get(&network).into_iter().flatten() {
                    leads.add(prefix, network);
                }
            }
            if let Some(address) = gateway.address {
                if gateway.mode == GatewayMode::Nat {
                    this.nat.entry(address.addr()).or_insert(place);
                }
                this.own(segment(gateway.vlan), gateway.port, address);
            }
        }
        this
    }

    fn own(&mut self, segment: Segment, port: PortId, address: IpNet) {
        // A shared address is many gateways', but one of the host's.
        if self.addresses.get(&(segment, address.addr())) != Some(&port) {
            self.own.entry(segment).or_default().push((port, address));
        }
        self.addresses.entry((segment, address.addr())).or_insert(port);
    }

    /// Whether there is a gateway.
    pub(super) fn has_gateway(&self, port: PortId, vlan: Option<u16>) -> bool {
        self.gateways.contains_key(&(port, vlan))
    }

    /// Whether an address is one that customer networks share there.
    pub(super) fn is_nat(&self, port: PortId, vlan: Option<u16>, address: IpAddr) -> bool {
        self.nat.get(&address) == Some(&(port, vlan))
    }

    /// The first customer network with a gateway there that forwards, to which an address belongs: `route` says where it is in one.
    pub(super) fn forward(
        &self,
        port: PortId,
        vlan: Option<u16>,
        to: IpAddr,
        route: impl Fn(NetworkId) -> Option<Target>,
    ) -> Option<NetworkId> {
        let leads = self.gateways.get(&(port, vlan))?;
        let table = if to.is_ipv4() { &leads.v4 } else { &leads.v6 };
        let of = |(len, prefixes): &(u8, HashMap<u128, Vec<NetworkId>>)| {
            let networks = prefixes.get(&bits(to, *len))?;
            networks.iter().copied().find(|&network| matches!(route(network), Some(Target::OnLink(_))))
        };
        table.iter().filter_map(of).min()
    }

    /// This host's addresses in a network of an uplink: those of providers and of gateways.
    pub(super) fn own_on(&self, segment: Segment) -> &[(PortId, IpNet)] {
        self.own.get(&segment).map_or(&[], Vec::as_slice)
    }

    /// Whether an address is one of them.
    pub(super) fn is_own(&self, segment: Segment, address: IpAddr) -> bool {
        self.addresses.contains_key(&(segment, address))
    }

    /// Whether it is, at this uplink.
    pub(super) fn is_own_at(&self, segment: Segment, port: PortId, address: IpAddr) -> bool {
        self.addresses.get(&(segment, address)) == Some(&port)
    }
}
