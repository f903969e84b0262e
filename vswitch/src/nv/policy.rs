//! What is configured of network virtualization, compiled for look-ups: virtual subnets and routes of every customer network, provider
//! addresses of this host. Immutable; part of the [`crate::snapshot::Snapshot`].
//!
//! What contradicts itself is refused before it comes here ([`super::model`]'s objects are checked by the control plane); what does come
//! is taken as far as it makes sense, and the first of two that contradict each other counts.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{
    Gateway, GatewayMode, MAX_VSID, MIN_VSID, Network, NextHop, Provider, Rdid, Route, Subnet,
};
use super::ways::Ways;
use crate::{Mac, PortId, Segment};

/// The distributed router's address: the same at every host, so that a guest that moves finds its router where it was. Locally
/// administered; seen nowhere but in customers' frames.
pub const ROUTER_MAC: Mac = Mac([0x02, 0x54, 0x50, 0x4b, 0x00, 0x01]);

/// A customer network's number in one policy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NetworkId(u32);

/// Where a customer address is, by its network's subnets and routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// In this virtual subnet.
    OnLink(u32),
    /// Behind a guest that forwards.
    Via {
        /// The guest's customer address.
        hop: IpAddr,
        /// Its virtual subnet.
        vsid: u32,
    },
    /// Behind the customer network's gateway to a physical network.
    Gateway,
}

/// A virtual subnet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualSubnet {
    /// The customer network it belongs to.
    pub network: NetworkId,
    /// Its prefixes.
    pub prefixes: Vec<IpNet>,
    /// The router's addresses in it.
    pub routers: Vec<IpAddr>,
}

impl VirtualSubnet {
    /// Whether an address is in the subnet: in a prefix, or a link-local one.
    pub fn has(&self, address: IpAddr) -> bool {
        is_link_local(address) || self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }

    /// Whether it is the router's.
    pub fn is_router(&self, address: IpAddr) -> bool {
        self.routers.contains(&address)
    }
}

/// fe80::/10: on every link for itself.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// A provider address of this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalProvider {
    /// The address and its subnet.
    pub address: IpNet,
    /// The uplink.
    pub port: PortId,
    /// The uplink's Ethernet address, the source of outer frames.
    pub mac: Mac,
    /// The VLAN of outer frames.
    pub vlan: Option<u16>,
    /// The router to other subnets.
    pub gateway: Option<IpAddr>,
}

impl LocalProvider {
    /// The network of the switch that its outer frames are in.
    pub fn segment(&self) -> Segment {
        Segment(self.vlan.unwrap_or(0).into())
    }

    /// Whom an outer frame to `to` is given to; `None` = it cannot be sent from here.
    pub fn next_hop(&self, to: IpAddr) -> Option<IpAddr> {
        if to.is_ipv4() != self.address.addr().is_ipv4() {
            return None;
        }
        if self.address.contains(&to) { Some(to) } else { self.gateway }
    }
}

/// A customer network's way to a physical one, at this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalGateway {
    /// How it connects.
    pub mode: GatewayMode,
    /// The uplink.
    pub port: PortId,
    /// The VLAN on the physical side.
    pub vlan: Option<u16>,
    /// Its address there.
    pub address: Option<IpNet>,
}

#[derive(Clone, Debug, Default)]
struct Domain {
    /// By prefix length, the longest first.
    v4: Vec<(u8, HashMap<u128, Target>)>,
    v6: Vec<(u8, HashMap<u128, Target>)>,
    gateways: Vec<LocalGateway>,
}

/// The compiled policy.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    networks: Vec<Network>,
    domains: Vec<Domain>,
    subnets: HashMap<u32, VirtualSubnet>,
    providers: Vec<LocalProvider>,
    by_rdid: HashMap<Rdid, NetworkId>,
    ways: Ways,
}

impl Policy {
    /// Compiles what is configured. Each provider comes with its uplink and that one's Ethernet address, each gateway with its uplink.
    pub fn new(
        networks: &[Network],
        subnets: &[Subnet],
        routes: &[Route],
        providers: Vec<(Provider, PortId, Mac)>,
        gateways: &[(Gateway, PortId)],
    ) -> Self {
        let mut this = Self {
            networks: networks.to_vec(),
            domains: vec![Domain::default(); networks.len()],
            ..Self::default()
        };
        let by_name: HashMap<&str, usize> =
            networks.iter().enumerate().rev().map(|(at, network)| (network.name.as_str(), at)).collect();
        let index = |name: &str| by_name.get(name).copied();
        for subnet in subnets.iter().filter(|subnet| (MIN_VSID..=MAX_VSID).contains(&subnet.vsid)) {
            let Some(network) = index(&subnet.network) else { continue };
            if this.subnets.contains_key(&subnet.vsid) {
                continue;
            }
            let prefixes: Vec<IpNet> = subnet.prefixes.iter().map(IpNet::trunc).collect();
            for &prefix in &prefixes {
                this.domains[network].add(prefix, Target::OnLink(subnet.vsid));
            }
            let routers = prefixes.iter().map(|prefix| router(prefix, &subnet.gateways)).collect();
            let network = NetworkId(network as u32);
            this.subnets.insert(subnet.vsid, VirtualSubnet { network, prefixes, routers });
        }
        let mut sorted: Vec<&Route> = routes.iter().collect();
        sorted.sort_by_key(|route| route.metric);
        for route in sorted {
            let Some(network) = index(&route.network) else { continue };
            let target = match route.next_hop {
                NextHop::Gateway => Target::Gateway,
                // The next hop must be in a subnet of the network, or the route leads nowhere.
                NextHop::Address(hop) => match this.domains[network].on_link(hop) {
                    Some(vsid) => Target::Via { hop, vsid },
                    None => continue,
                },
            };
            this.domains[network].add(route.prefix.trunc(), target);
        }
        for (gateway, port) in gateways {
            if let Some(domain) = index(&gateway.network).and_then(|network| this.domains.get_mut(network)) {
                let Gateway { mode, vlan, address, .. } = *gateway;
                domain.gateways.push(LocalGateway { mode, port: *port, vlan, address });
            }
        }
        this.providers = providers
            .into_iter()
            .map(|(Provider { address, vlan, gateway, .. }, port, mac)| LocalProvider {
                address,
                port,
                mac,
                vlan,
                gateway,
            })
            .collect();
        let mut prefixes: HashMap<NetworkId, Vec<IpNet>> = HashMap::new();
        for subnet in this.subnets.values() {
            prefixes.entry(subnet.network).or_default().extend(&subnet.prefixes);
        }
        this.ways = Ways::new(&this.providers, this.all_gateways(), &prefixes);
        for (id, network) in (0..).map(NetworkId).zip(networks) {
            this.by_rdid.entry(network.rdid).or_insert(id);
        }
        this
    }

    /// A virtual subnet.
    pub fn subnet(&self, vsid: u32) -> Option<&VirtualSubnet> {
        self.subnets.get(&vsid)
    }

    /// A customer network.
    pub fn network(&self, id: NetworkId) -> Option<&Network> {
        self.networks.get(id.0 as usize)
    }

    /// Where an address is in a customer network: longest prefix first, then smallest metric.
    pub fn route(&self, network: NetworkId, to: IpAddr) -> Option<Target> {
        self.domains.get(network.0 as usize)?.route(to)
    }

    /// Whether an address is the router's, in any virtual subnet of a customer network.
    pub fn is_router(&self, network: NetworkId, address: IpAddr) -> bool {
        match self.route(network, address) {
            Some(Target::OnLink(vsid)) => self.subnet(vsid).is_some_and(|subnet| subnet.is_router(address)),
            _ => false,
        }
    }

    /// The ways of a customer network to physical ones, at this host.
    pub fn gateways(&self, network: NetworkId) -> &[LocalGateway] {
        self.domains.get(network.0 as usize).map_or(&[], |domain| &domain.gateways)
    }

    /// All of them, with their customer networks.
    pub fn all_gateways(&self) -> impl Iterator<Item = (NetworkId, &LocalGateway)> {
        let of = |(network, domain)| {
            let domain: &Domain = domain;
            domain.gateways.iter().map(move |gateway| (NetworkId(network), gateway))
        };
        (0..).zip(&self.domains).flat_map(of)
    }

    /// Where this host is in physical networks.
    pub(super) fn ways(&self) -> &Ways {
        &self.ways
    }

    /// A customer network by its identity.
    pub(super) fn network_of(&self, rdid: Rdid) -> Option<NetworkId> {
        self.by_rdid.get(&rdid).copied()
    }

    /// The provider addresses of this host.
    pub fn providers(&self) -> &[LocalProvider] {
        &self.providers
    }

    /// The provider address of this host that this is.
    #[inline]
    pub fn local(&self, address: IpAddr) -> Option<&LocalProvider> {
        self.providers.iter().find(|provider| provider.address.addr() == address)
    }

    /// The provider address of this host from which another is reached: on the same link, the longest prefix first, or through a router.
    pub fn towards(&self, to: IpAddr) -> Option<&LocalProvider> {
        let on_link = self.providers.iter().filter(|provider| provider.address.contains(&to));
        let routed = || self.providers.iter().find(|provider| provider.next_hop(to).is_some());
        on_link.max_by_key(|provider| provider.address.prefix_len()).or_else(routed)
    }
}

impl Domain {
    fn table(&self, address: IpAddr) -> &[(u8, HashMap<u128, Target>)] {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    fn add(&mut self, prefix: IpNet, target: Target) {
        let table = if prefix.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let len = prefix.prefix_len();
        let at = table.partition_point(|&(other, _)| other > len);
        if table.get(at).is_none_or(|&(other, _)| other != len) {
            table.insert(at, (len, HashMap::new()));
        }
        if let Some((_, targets)) = table.get_mut(at) {
            targets.entry(bits(prefix.addr(), len)).or_insert(target);
        }
    }

    fn route(&self, to: IpAddr) -> Option<Target> {
        self.table(to).iter().find_map(|(len, targets)| targets.get(&bits(to, *len)).copied())
    }

    /// The virtual subnet an address is in, whatever the routes say.
    fn on_link(&self, address: IpAddr) -> Option<u32> {
        self.table(address).iter().find_map(|(len, targets)| match targets.get(&bits(address, *len)) {
            Some(&Target::OnLink(vsid)) => Some(vsid),
            _ => None,
        })
    }
}

/// The first `len` bits of an address.
pub(super) fn bits(address: IpAddr, len: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let rest = 128_u32.min(width - u32::from(len).min(width));
    if rest == 128 { 0 } else { bits >> rest }
}

/// The router's address in a prefix: the one that is configured, or the lowest that a host could have.
fn router(prefix: &IpNet, configured: &[IpAddr]) -> IpAddr {
    configured.iter().copied().find(|address| prefix.contains(address)).unwrap_or_else(|| lowest_host(prefix))
}

/// The lowest address of a prefix that a host could have.
pub(super) fn lowest_host(prefix: &IpNet) -> IpAddr {
    match prefix {
        IpNet::V4(v4) => v4.hosts().next().unwrap_or(v4.addr()).into(),
        IpNet::V6(v6) => {
            let first = u128::from(v6.network());
            if v6.prefix_len() < 127 { IpAddr::V6((first + 1).into()) } else { IpAddr::V6(first.into()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, rdid: u128) -> Network {
        Network { name: name.into(), rdid: Rdid(rdid) }
    }

    fn subnet(network: &str, vsid: u32, prefixes: &[&str]) -> Subnet {
        let prefixes = prefixes.iter().map(|p| p.parse().expect("a prefix")).collect();
        Subnet { network: network.into(), vsid, prefixes, gateways: Vec::new() }
    }

    fn route(prefix: &str, next_hop: &str, metric: u32) -> Route {
        let next_hop = next_hop.parse().expect("a next hop");
        Route { network: "blue".into(), prefix: prefix.parse().expect("a prefix"), next_hop, metric }
    }

    #[test]
    fn s14_3_the_longest_prefix_counts_then_the_smallest_metric() {
        let policy = Policy::new(
            &[network("blue", 1), network("red", 2)],
            &[
                subnet("blue", 5001, &["10.0.0.0/24", "2001:db8:1::/64"]),
                subnet("blue", 5002, &["10.0.1.0/24"]),
                subnet("red", 6001, &["10.0.0.0/16"]),
            ],
            &[
                route("0.0.0.0/0", "10.0.1.9", 20),
                route("0.0.0.0/0", "10.0.0.9", 10),
                route("10.0.0.0/25", "10.0.1.7", 0),
                route("192.168.0.0/16", "172.16.0.1", 0), // leads nowhere
                route("192.168.1.0/24", "gateway", 0),
            ],
            Vec::new(),
            &[],
        );
        let (blue, red) = (NetworkId(0), NetworkId(1));
        let to = |network, text: &str| policy.route(network, text.parse().expect("an address"));
        let via = |hop: &str, vsid| Some(Target::Via { hop: hop.parse().expect("an address"), vsid });
        assert_eq!(to(blue, "10.0.0.200"), Some(Target::OnLink(5001)));
        assert_eq!(to(blue, "10.0.0.5"), via("10.0.1.7", 5002));
        assert_eq!(to(blue, "10.0.1.5"), Some(Target::OnLink(5002)));
        assert_eq!(to(blue, "10.9.1.5"), via("10.0.0.9", 5001));
        assert_eq!(to(blue, "192.168.1.1"), Some(Target::Gateway));
        assert_eq!(to(blue, "192.168.2.1"), via("10.0.0.9", 5001));
        assert_eq!(to(blue, "2001:db8:1::5"), Some(Target::OnLink(5001)));
        assert_eq!(to(blue, "2001:db8:2::5"), None);
        assert_eq!(to(red, "10.0.1.5"), Some(Target::OnLink(6001)));
        assert_eq!(to(red, "10.1.1.5"), None);
    }

    #[test]
    fn s14_10_the_router_is_the_lowest_host_of_the_prefix_unless_configured() {
        let mut with = subnet("blue", 5002, &["10.0.1.0/24"]);
        with.gateways = vec![[10, 0, 1, 254].into()];
        let subnets = [
            subnet("blue", 5001, &["10.0.0.0/24", "2001:db8:1::/64"]),
            with,
            subnet("blue", 5003, &["10.0.2.4/31"]),
        ];
        let policy = Policy::new(&[network("blue", 1)], &subnets, &[], Vec::new(), &[]);
        let is = |text: &str| policy.is_router(NetworkId(0), text.parse().expect("an address"));
        assert!(is("10.0.0.1") && is("2001:db8:1::1") && is("10.0.1.254") && is("10.0.2.4"));
        assert!(!is("10.0.1.1") && !is("10.0.0.2") && !is("10.0.0.0"));
    }

    #[test]
    fn s14_4_a_provider_address_reaches_its_own_subnet_and_by_its_gateway_others() {
        let provider = |address: &str, gateway: Option<&str>| {
            let gateway = gateway.map(|g| g.parse().expect("an address"));
            let address = address.parse().expect("a prefix");
            (Provider { address, uplink: "up".into(), vlan: None, gateway }, PortId(1), Mac([2; 6]))
        };
        let providers = vec![
            provider("192.168.1.10/24", None),
            provider("192.168.2.10/24", Some("192.168.2.1")),
            provider("2001:db8::10/64", None),
        ];
        let policy = Policy::new(&[], &[], &[], providers, &[]);
        let from = |to: &str| {
            let to = to.parse().expect("an address");
            policy.towards(to).map(|p| (p.address.addr().to_string(), p.next_hop(to).map(|h| h.to_string())))
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), Some(b.to_owned())));
        assert_eq!(from("192.168.1.9"), pair("192.168.1.10", "192.168.1.9"));
        assert_eq!(from("10.0.0.9"), pair("192.168.2.10", "192.168.2.1"));
        assert_eq!(from("2001:db8::9"), pair("2001:db8::10", "2001:db8::9"));
        assert_eq!(from("2001:db9::9"), None);
    }
}
