//! The objects of network virtualization of which there are few, and whether they and records fit together.
//!
//! Objects that come from commands and documents are refused when they do not fit. What other hosts wrote into a shared store cannot be
//! refused; [`Objects::usable`] leaves out what does not fit, the same at every host.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use vswitch::nv::model::{Encap, Gateway, Kind, Network, NextHop, Provider, Rdid, Record, Route, Subnet};
use vswitch::refusal::{NvRefusal, Refusal, Refused};

use super::check;
use super::object::{Key, Object, RecordKey};

/// Customer networks at most.
pub const MAX_NETWORKS: usize = 16_384;
/// Virtual subnets at most.
pub const MAX_SUBNETS: usize = 16_384;
/// Customer routes at most.
pub const MAX_ROUTES: usize = 65_536;
/// Provider addresses of one host at most.
pub const MAX_PROVIDERS: usize = 256;
/// Lookup records at most.
pub const MAX_RECORDS: usize = 1 << 20;

/// All but the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    networks: BTreeMap<String, Network>,
    subnets: BTreeMap<u32, Subnet>,
    routes: BTreeMap<Key, Route>,
    providers: BTreeMap<IpAddr, Provider>,
    gateways: BTreeMap<String, Gateway>,
    /// Networks of each routing domain; more than one only where others wrote them.
    by_rdid: BTreeMap<Rdid, BTreeSet<String>>,
    /// Subnets of each network, also of one that does not exist.
    of_network: BTreeMap<String, BTreeSet<u32>>,
}

/// Where a record may be asked for while another one is judged.
pub trait Known {
    /// The record of this key.
    fn record(&self, key: &RecordKey) -> Option<Record>;
    /// For which record a provider address stands on the wire.
    fn rewritten(&self, pa: IpAddr) -> Option<RecordKey>;
    /// How many records there are.
    fn count(&self) -> usize;
}

impl Objects {
    /// The networks, by name.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.values()
    }

    /// The subnets, by identifier.
    pub fn subnets(&self) -> impl Iterator<Item = &Subnet> {
        self.subnets.values()
    }

    /// The routes, by network and prefix.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values()
    }

    /// The provider addresses of this host.
    pub fn providers(&self) -> impl Iterator<Item = &Provider> {
        self.providers.values()
    }

    /// The gateways at this host, by network.
    pub fn gateways(&self) -> impl Iterator<Item = &Gateway> {
        self.gateways.values()
    }

    /// A subnet.
    pub fn subnet(&self, vsid: u32) -> Option<&Subnet> {
        self.subnets.get(&vsid)
    }

    /// The subnets of a network.
    pub fn subnets_of(&self, network: &str) -> impl Iterator<Item = &Subnet> {
        self.of_network.get(network).into_iter().flatten().filter_map(|vsid| self.subnets.get(vsid))
    }

    /// The object of this key. Records are not here.
    pub fn get(&self, key: &Key) -> Option<Object> {
        match key {
            Key::Network(name) => self.networks.get(name).cloned().map(Object::Network),
            Key::Subnet(vsid) => self.subnets.get(vsid).cloned().map(Object::Subnet),
            Key::Route(..) => self.routes.get(key).cloned().map(Object::Route),
            Key::Provider(address) => self.providers.get(address).cloned().map(Object::Provider),
            Key::Gateway(network) => self.gateways.get(network).cloned().map(Object::Gateway),
            Key::Record(_) => None,
        }
    }

    /// Puts an object in, in the place of one with its key. Records are not here.
    pub fn put(&mut self, object: Object) {
        let key = object.key();
        self.remove(&key);
        match object {
            Object::Network(it) => {
                self.by_rdid.entry(it.rdid).or_default().insert(it.name.clone());
                self.networks.insert(it.name.clone(), it);
            }
            Object::Subnet(it) => {
                self.of_network.entry(it.network.clone()).or_default().insert(it.vsid);
                self.subnets.insert(it.vsid, it);
            }
            Object::Route(it) => drop(self.routes.insert(key, it)),
            Object::Provider(it) => drop(self.providers.insert(it.address.addr(), it)),
            Object::Gateway(it) => drop(self.gateways.insert(it.network.clone(), it)),
            Object::Record(_) => {}
        }
    }

    /// Takes the object of this key out.
    pub fn remove(&mut self, key: &Key) {
        match key {
            Key::Network(name) => {
                if let Some(network) = self.networks.remove(name) {
                    leave(&mut self.by_rdid, &network.rdid, name);
                }
            }
            Key::Subnet(vsid) => {
                if let Some(subnet) = self.subnets.remove(vsid) {
                    leave(&mut self.of_network, &subnet.network, vsid);
                }
            }
            Key::Route(..) => drop(self.routes.remove(key)),
            Key::Provider(address) => drop(self.providers.remove(address)),
            Key::Gateway(network) => drop(self.gateways.remove(network)),
            Key::Record(_) => {}
        }
    }

    /// All objects, what others need first.
    pub fn all(&self) -> impl Iterator<Item = Object> {
        let networks = self.networks.values().cloned().map(Object::Network);
        let subnets = self.subnets.values().cloned().map(Object::Subnet);
        let routes = self.routes.values().cloned().map(Object::Route);
        let providers = self.providers.values().cloned().map(Object::Provider);
        let gateways = self.gateways.values().cloned().map(Object::Gateway);
        networks.chain(subnets).chain(routes).chain(providers).chain(gateways)
    }

    /// That an object fits to all that are here, except for the one with its key. Uplinks are none of this one's business.
    pub fn fits(&self, object: &Object) -> Result<(), Refusal> {
        match object {
            Object::Network(network) => self.network_fits(network),
            Object::Subnet(subnet) => self.subnet_fits(subnet),
            Object::Route(route) => self.route_fits(route),
            Object::Provider(it) => {
                let more = !self.providers.contains_key(&it.address.addr());
                limit("provider addresses", self.providers.len() + usize::from(more), MAX_PROVIDERS)
            }
            Object::Gateway(gateway) => self.known_network(&gateway.network),
            Object::Record(_) => Ok(()),
        }
        .map_err(Refusal::Nv)
    }

    /// What needs the object of this key, if something does: it must not be removed.
    pub fn needed(&self, key: &Key, records_in: impl Fn(u32) -> usize) -> Result<(), Refusal> {
        let in_use = |by: String, several| Err(Refusal::Nv(NvRefusal::InUse { by, several }));
        let listed = |noun: &str, names: Vec<String>| match names.as_slice() {
            [] => Ok(()),
            [one] => in_use(format!("{noun} {one}"), false),
            many => in_use(format!("{} {noun}s", many.len()), true),
        };
        match key {
            Key::Network(name) => {
                listed("subnet", self.subnets_of(name).map(|it| it.vsid.to_string()).collect())?;
                let routes = self.routes.values().filter(|route| route.network == *name);
                listed("route", routes.map(|route| route.prefix.to_string()).collect())?;
                listed("gateway", self.gateways.get(name).map(|it| it.uplink.clone()).into_iter().collect())
            }
            Key::Subnet(vsid) => match records_in(*vsid) {
                0 => {
                    let subnet = self.subnets.get(vsid);
                    let hops = self.routes.values().filter(|route| {
                        matches!(route.next_hop, NextHop::Address(hop)
                            if subnet.is_some_and(|it| it.network == route.network
                                && it.prefixes.iter().any(|prefix| prefix.contains(&hop))))
                    });
                    listed("route", hops.map(|route| route.prefix.to_string()).collect())
                }
                1 => in_use("a record".into(), false),
                n => in_use(format!("{n} records"), true),
            },
            _ => Ok(()),
        }
    }

    /// That a record fits to these objects and to the other records. `reach` says whether provider addresses must be within
    /// reach of this host, as they must where it is the only one that says what is where.
    pub fn record_fits(&self, record: &Record, known: &dyn Known, reach: bool) -> Result<(), Refusal> {
        self.record_placed(record, reach).map_err(Refusal::Nv)?;
        let key = RecordKey::of(record);
        match known.record(&key) {
            Some(other) if other.mac != record.mac => {
                return Err(Refusal::Nv(NvRefusal::SecondMac { address: record.ca, mac: other.mac }));
            }
            Some(_) => {}
            None => limit("records", known.count() + 1, MAX_RECORDS).map_err(Refusal::Nv)?,
        }
        if let Some(pa) = on_wire(record)
            && let Some(owner) = known.rewritten(pa).filter(|owner| *owner != key)
        {
            return Err(Refusal::Nv(NvRefusal::RewriteTaken { pa, owner: owner.to_string() }));
        }
        Ok(())
    }

    fn record_placed(&self, record: &Record, reach: bool) -> Result<(), NvRefusal> {
        let vsid = record.vsid;
        let subnet = self.subnets.get(&vsid).ok_or(NvRefusal::UnknownSubnet { vsid })?;
        let ca = record.ca;
        if record.kind != Kind::L2Only {
            if !subnet.prefixes.iter().any(|prefix| prefix.contains(&ca)) {
                let prefixes = subnet.prefixes.clone();
                return Err(NvRefusal::Outside { what: "customer address", address: ca, prefixes });
            }
            if routers(subnet).any(|router| router == ca) {
                return Err(NvRefusal::RouterAddress { address: ca, vsid });
            }
            if !check::is_host(ca, &subnet.prefixes) {
                return Err(NvRefusal::NoHost { address: ca });
            }
        }
        if reach {
            for address in Some(record.pa).into_iter().chain(record.rewrite_pa) {
                self.reachable(address)?;
            }
        }
        Ok(())
    }

    fn reachable(&self, address: IpAddr) -> Result<(), NvRefusal> {
        let of_family = |it: &&Provider| it.address.addr().is_ipv4() == address.is_ipv4();
        let reaches = |it: &Provider| it.address.contains(&address) || it.gateway.is_some();
        if self.providers.values().filter(of_family).any(reaches) {
            return Ok(());
        }
        let known = self.providers.values().filter(of_family).map(|it| it.address).collect();
        Err(NvRefusal::Unreachable { address, known })
    }

    fn known_network(&self, name: &str) -> Result<(), NvRefusal> {
        if self.networks.contains_key(name) {
            return Ok(());
        }
        let known = self.networks.keys().take(64).cloned().collect();
        Err(NvRefusal::UnknownNetwork { name: name.to_owned(), known })
    }

    fn network_fits(&self, network: &Network) -> Result<(), NvRefusal> {
        let mut owners = self.by_rdid.get(&network.rdid).into_iter().flatten();
        if let Some(owner) = owners.find(|owner| **owner != network.name) {
            return Err(NvRefusal::RdidTaken { rdid: network.rdid.to_string(), owner: owner.clone() });
        }
        let more = !self.networks.contains_key(&network.name);
        limit("networks", self.networks.len() + usize::from(more), MAX_NETWORKS)
    }

    fn subnet_fits(&self, subnet: &Subnet) -> Result<(), NvRefusal> {
        self.known_network(&subnet.network)?;
        for other in self.subnets_of(&subnet.network).filter(|other| other.vsid != subnet.vsid) {
            for prefix in &subnet.prefixes {
                if let Some(theirs) = other.prefixes.iter().find(|theirs| overlap(prefix, theirs)) {
                    let (prefix, vsid) = (*prefix, other.vsid);
                    return Err(NvRefusal::Overlap { prefix, other: *theirs, vsid });
                }
            }
        }
        let more = !self.subnets.contains_key(&subnet.vsid);
        limit("subnets", self.subnets.len() + usize::from(more), MAX_SUBNETS)
    }

    fn route_fits(&self, route: &Route) -> Result<(), NvRefusal> {
        self.known_network(&route.network)?;
        let prefix = route.prefix;
        for subnet in self.subnets_of(&route.network) {
            if subnet.prefixes.iter().any(|on_link| on_link.contains(&prefix)) {
                return Err(NvRefusal::RouteInSubnet { prefix, vsid: subnet.vsid });
            }
        }
        if let NextHop::Address(hop) = route.next_hop {
            let mut subnets = self.subnets_of(&route.network);
            let Some(subnet) = subnets.find(|it| it.prefixes.iter().any(|on_link| on_link.contains(&hop)))
            else {
                return Err(NvRefusal::NextHopOutside { hop, network: route.network.clone() });
            };
            if routers(subnet).any(|router| router == hop) {
                return Err(NvRefusal::RouteLoop { prefix, hop });
            }
            if !check::is_host(hop, &subnet.prefixes) {
                return Err(NvRefusal::NoHost { address: hop });
            }
        }
        let more = !self.routes.contains_key(&Object::Route(route.clone()).key());
        limit("routes", self.routes.len() + usize::from(more), MAX_ROUTES)
    }

    /// The objects that fit together, and what is wrong with each of the others. Of two that exclude each other the one with the
    /// smaller name stays, so that all hosts that know the same objects use the same ones.
    pub fn usable(&self) -> (Self, Vec<Refused>) {
        let (mut fitting, mut problems) = (Self::default(), Vec::new());
        for object in self.all() {
            match fitting.fits(&object) {
                Ok(()) => fitting.put(object),
                Err(why) => problems.push(why.of(object.key().object())),
            }
        }
        (fitting, problems)
    }
}

/// The records of a document that were found to be good.
#[derive(Debug, Default)]
pub struct Records {
    by_key: HashMap<RecordKey, Record>,
    rewritten: HashMap<IpAddr, RecordKey>,
}

impl Records {
    /// Adds a record that fits.
    pub fn add(&mut self, record: Record) {
        let key = RecordKey::of(&record);
        if let Some(pa) = on_wire(&record) {
            self.rewritten.insert(pa, key);
        }
        self.by_key.insert(key, record);
    }

    /// The record of this key.
    pub fn get(&self, key: &RecordKey) -> Option<&Record> {
        self.by_key.get(key)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.by_key.values()
    }
}

impl Known for Records {
    fn record(&self, key: &RecordKey) -> Option<Record> {
        self.by_key.get(key).copied()
    }

    fn rewritten(&self, pa: IpAddr) -> Option<RecordKey> {
        self.rewritten.get(&pa).copied()
    }

    fn count(&self) -> usize {
        self.by_key.len()
    }
}

/// The address that stands for a record's customer address on the wire, if one does.
pub fn on_wire(record: &Record) -> Option<IpAddr> {
    (record.encap == Encap::Rewrite).then(|| record.rewrite_pa.unwrap_or(record.pa))
}

/// The addresses of a subnet's router: those given, and for families without one the lowest host address.
pub fn routers(subnet: &Subnet) -> impl Iterator<Item = IpAddr> {
    subnet.prefixes.iter().map(|prefix| {
        let given = subnet.gateways.iter().find(|it| it.is_ipv4() == prefix.addr().is_ipv4());
        given.copied().unwrap_or_else(|| lowest(prefix))
    })
}

fn lowest(prefix: &IpNet) -> IpAddr {
    match prefix.network() {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip).wrapping_add(1)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip).wrapping_add(1)).into()),
    }
}

/// Takes `member` out of the group of `key`.
fn leave<K: Ord, M: Ord>(groups: &mut BTreeMap<K, BTreeSet<M>>, key: &K, member: &M) {
    if let Some(group) = groups.get_mut(key) {
        group.remove(member);
        if group.is_empty() {
            groups.remove(key);
        }
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn limit(what: &'static str, count: usize, limit: usize) -> Result<(), NvRefusal> {
    if count > limit { Err(NvRefusal::Limit { what, limit }) } else { Ok(()) }
}
