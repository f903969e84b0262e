//! Judges objects of network virtualization one at a time: what is said of one in its proper types, or why that is not valid.
//!
//! Whether objects fit together is judged by [`super::objects::Objects`].

use std::net::IpAddr;

use ipnet::IpNet;
use vswitch::nv::model::{
    Encap, Gateway, GatewayMode, Kind, MAX_VSID, MIN_VSID, Network, NextHop, Provider, Record, Route, Subnet,
};
use vswitch::refusal::{NvRefusal, Refusal};

use super::object::{Key, Object, RecordKey};
use crate::control::check;
use crate::control::types::{GatewaySpec, NetworkSpec, ProviderSpec, RecordSpec, RouteSpec, SubnetSpec};

/// What is said of an object of some kind.
pub trait Spec: Sized {
    /// What kind of object it is, as commands name it.
    const NOUN: &'static str;
    /// The object, or what is wrong with it alone.
    fn judge(&self) -> Result<Object, Refusal>;
    /// What identifies it, as far as that can be said of something that is not judged.
    fn name(&self) -> String;
    /// What would be said of an object, if it is one of this kind.
    fn said(object: &Object) -> Option<Self>;
}

impl Spec for NetworkSpec {
    const NOUN: &'static str = "network";

    fn judge(&self) -> Result<Object, Refusal> {
        check::name(&self.name)?;
        let rdid = self.rdid.parse().map_err(|_| NvRefusal::BadRdid { text: self.rdid.clone() });
        Ok(Object::Network(Network { name: self.name.clone(), rdid: rdid.map_err(Refusal::Nv)? }))
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn said(object: &Object) -> Option<Self> {
        if let Object::Network(it) = object { Some(say::network(it)) } else { None }
    }
}

impl Spec for SubnetSpec {
    const NOUN: &'static str = "subnet";

    fn judge(&self) -> Result<Object, Refusal> {
        check::name(&self.network)?;
        let vsid = vsid(self.vsid)?;
        let prefixes = self.prefix.iter().map(|text| check::prefix(text)).collect::<Result<Vec<_>, _>>()?;
        for (family, is_ipv4) in [("IPv4", true), ("IPv6", false)] {
            let count = prefixes.iter().filter(|prefix| prefix.addr().is_ipv4() == is_ipv4).count();
            if count > 1 || prefixes.is_empty() {
                return Err(Refusal::Nv(NvRefusal::Prefixes { count, family }));
            }
        }
        if let Some(prefix) = prefixes.iter().find(|net| net.prefix_len() + 2 > net.max_prefix_len()) {
            return Err(Refusal::Nv(NvRefusal::TooNarrow { prefix: *prefix }));
        }
        let gateways = self.gateway.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
        for gateway in &gateways {
            if !prefixes.iter().any(|prefix| prefix.contains(gateway)) {
                let what = "router";
                return Err(Refusal::Nv(NvRefusal::Outside { what, address: *gateway, prefixes }));
            }
            if !is_host(*gateway, &prefixes) {
                return Err(Refusal::Nv(NvRefusal::NoHost { address: *gateway }));
            }
            let family = |other: &&IpAddr| other.is_ipv4() == gateway.is_ipv4();
            if gateways.iter().filter(family).count() > 1 {
                let (setting, value) = ("gateway".into(), self.gateway.join(","));
                let valid = "at most one address of each family".into();
                return Err(Refusal::BadValue { setting, value, valid });
            }
        }
        Ok(Object::Subnet(Subnet { network: self.network.clone(), vsid, prefixes, gateways }))
    }

    fn name(&self) -> String {
        self.vsid.to_string()
    }

    fn said(object: &Object) -> Option<Self> {
        if let Object::Subnet(it) = object { Some(say::subnet(it)) } else { None }
    }
}

impl Spec for RecordSpec {
    const NOUN: &'static str = "record";

    fn judge(&self) -> Result<Object, Refusal> {
        let vsid = vsid(self.vsid)?;
        let mac = check::mac(&self.mac)?;
        let kind = match self.kind.as_deref() {
            None | Some("static") => Kind::Static,
            Some("l2-only") => Kind::L2Only,
            Some("gateway") => Kind::Gateway,
            Some(other) => return Err(bad("kind", other, "static, l2-only or gateway")),
        };
        let encap = encap(self.encap.as_deref())?.unwrap_or_default();
        let pa = provider_address(&self.pa)?;
        let ca = match (&self.ca, kind) {
            (None, Kind::L2Only) => unspecified(pa),
            (None, _) => {
                let (what, valid) = ("ca".to_owned(), "a customer address, or kind l2-only".to_owned());
                return Err(Refusal::Missing { what, valid });
            }
            (Some(text), Kind::L2Only) => {
                let ca = address(text)?;
                if !ca.is_unspecified() {
                    return Err(bad(
                        "ca",
                        text,
                        "none: kind l2-only is for a guest whose address is not known",
                    ));
                }
                unspecified(pa)
            }
            (Some(text), _) => {
                let ca = address(text)?;
                if !is_unicast(ca) {
                    return Err(Refusal::Nv(NvRefusal::NoHost { address: ca }));
                }
                ca
            }
        };
        let rewrite_pa = self.rewrite_pa.as_deref().map(provider_address).transpose()?;
        let next = self.next_pa.as_deref().map(provider_address).transpose()?.filter(|next| *next != pa);
        let record = Record { vsid, ca, mac, pa, kind, encap, rewrite_pa, next };
        rewrite(&record)?;
        Ok(Object::Record(record))
    }

    fn name(&self) -> String {
        match &self.ca {
            Some(ca) if self.kind.as_deref() != Some("l2-only") => format!("{}/{ca}", self.vsid),
            _ => format!("{}/l2-only/{}", self.vsid, self.mac),
        }
    }

    fn said(object: &Object) -> Option<Self> {
        if let Object::Record(it) = object { Some(say::record(it)) } else { None }
    }
}

impl Spec for RouteSpec {
    const NOUN: &'static str = "route";

    fn judge(&self) -> Result<Object, Refusal> {
        check::name(&self.network)?;
        let prefix = check::prefix(&self.prefix)?;
        let next_hop: NextHop = self
            .next_hop
            .parse()
            .map_err(|_| bad("next-hop", &self.next_hop, "a customer address, or 'gateway'"))?;
        if let NextHop::Address(hop) = next_hop {
            if hop.is_ipv4() != prefix.addr().is_ipv4() {
                return Err(Refusal::Nv(NvRefusal::NextHopFamily { hop, prefix }));
            }
            if !is_unicast(hop) {
                return Err(Refusal::Nv(NvRefusal::NoHost { address: hop }));
            }
        }
        let metric = check::range("metric", self.metric, 0, u32::MAX.into(), "")? as u32;
        Ok(Object::Route(Route { network: self.network.clone(), prefix, next_hop, metric }))
    }

    fn name(&self) -> String {
        format!("{}/{}/{}", self.network, self.prefix, self.next_hop)
    }

    fn said(object: &Object) -> Option<Self> {
        if let Object::Route(it) = object { Some(say::route(it)) } else { None }
    }
}

impl Spec for ProviderSpec {
    const NOUN: &'static str = "provider";

    fn judge(&self) -> Result<Object, Refusal> {
        let address = host_in_prefix("address", &self.address)?;
        provider(address.addr())?;
        check::name(&self.uplink)?;
        let vlan = vlan(self.vlan)?;
        let gateway = self.gateway.as_deref().map(provider_address).transpose()?;
        if let Some(gateway) = gateway.filter(|it| !address.contains(it) || *it == address.addr()) {
            return Err(Refusal::Nv(NvRefusal::GatewayOutside { gateway, prefix: address.trunc() }));
        }
        Ok(Object::Provider(Provider { address, uplink: self.uplink.clone(), vlan, gateway }))
    }

    fn name(&self) -> String {
        self.address.split('/').next().unwrap_or_default().to_owned()
    }

    fn said(object: &Object) -> Option<Self> {
        if let Object::Provider(it) = object { Some(say::provider(it)) } else { None }
    }
}

impl Spec for GatewaySpec {
    const NOUN: &'static str = "gateway";

    fn judge(&self) -> Result<Object, Refusal> {
        check::name(&self.network)?;
        check::name(&self.uplink)?;
        let mode = match self.mode.as_str() {
            "forward" => GatewayMode::Forward,
            "nat" => GatewayMode::Nat,
            other => return Err(bad("mode", other, "forward or nat")),
        };
        let vlan = vlan(self.vlan)?;
        let address = self.address.as_deref().map(|text| host_in_prefix("address", text)).transpose()?;
        if let Some(address) = address {
            provider(address.addr())?;
        } else if mode == GatewayMode::Nat {
            let valid = "the shared address with the length of its prefix, such as 203.0.113.5/24".into();
            return Err(Refusal::Missing { what: "address".into(), valid });
        }
        let (network, uplink) = (self.network.clone(), self.uplink.clone());
        Ok(Object::Gateway(Gateway { network, uplink, mode, vlan, address }))
    }

    fn name(&self) -> String {
        self.network.clone()
    }

    fn said(object: &Object) -> Option<Self> {
        if let Object::Gateway(it) = object { Some(say::gateway(it)) } else { None }
    }
}

/// What would be said of an object.
pub mod say {
    use super::{
        Encap, Gateway, GatewayMode, GatewaySpec, Kind, Network, NetworkSpec, Provider, ProviderSpec, Record,
        RecordSpec, Route, RouteSpec, Subnet, SubnetSpec,
    };

    /// A network.
    pub fn network(it: &Network) -> NetworkSpec {
        NetworkSpec { name: it.name.clone(), rdid: it.rdid.to_string() }
    }

    /// A subnet.
    pub fn subnet(it: &Subnet) -> SubnetSpec {
        SubnetSpec {
            network: it.network.clone(),
            vsid: it.vsid.into(),
            prefix: it.prefixes.iter().map(ToString::to_string).collect(),
            gateway: it.gateways.iter().map(ToString::to_string).collect(),
        }
    }

    /// A record.
    pub fn record(it: &Record) -> RecordSpec {
        RecordSpec {
            vsid: it.vsid.into(),
            ca: (it.kind != Kind::L2Only).then(|| it.ca.to_string()),
            mac: it.mac.to_string(),
            pa: it.pa.to_string(),
            kind: kind(it.kind).map(str::to_owned),
            encap: (it.encap != Encap::default()).then(|| encap(it.encap).to_owned()),
            rewrite_pa: it.rewrite_pa.map(|pa| pa.to_string()),
            next_pa: it.next.map(|pa| pa.to_string()),
        }
    }

    /// A route.
    pub fn route(it: &Route) -> RouteSpec {
        RouteSpec {
            network: it.network.clone(),
            prefix: it.prefix.to_string(),
            next_hop: it.next_hop.to_string(),
            metric: it.metric.into(),
        }
    }

    /// A provider address.
    pub fn provider(it: &Provider) -> ProviderSpec {
        ProviderSpec {
            address: it.address.to_string(),
            uplink: it.uplink.clone(),
            vlan: it.vlan.map(u64::from),
            gateway: it.gateway.map(|gateway| gateway.to_string()),
        }
    }

    /// A gateway.
    pub fn gateway(it: &Gateway) -> GatewaySpec {
        GatewaySpec {
            network: it.network.clone(),
            uplink: it.uplink.clone(),
            mode: match it.mode {
                GatewayMode::Forward => "forward".into(),
                GatewayMode::Nat => "nat".into(),
            },
            vlan: it.vlan.map(u64::from),
            address: it.address.as_ref().map(ToString::to_string),
        }
    }

    /// The word for an encapsulation.
    pub const fn encap(encap: Encap) -> &'static str {
        match encap {
            Encap::Nvgre => "nvgre",
            Encap::Vxlan => "vxlan",
            Encap::Rewrite => "rewrite",
        }
    }

    /// The word for a kind of record; none for the usual one.
    pub const fn kind(kind: Kind) -> Option<&'static str> {
        match kind {
            Kind::Static => None,
            Kind::Dynamic => Some("dynamic"),
            Kind::L2Only => Some("l2-only"),
            Kind::Gateway => Some("gateway"),
        }
    }
}

/// A virtual subnet's identifier.
pub fn vsid(number: u64) -> Result<u32, Refusal> {
    Ok(check::range("vsid", number, MIN_VSID.into(), MAX_VSID.into(), "")? as u32)
}

/// A word for how packets are carried.
pub fn encap(text: Option<&str>) -> Result<Option<Encap>, Refusal> {
    Ok(Some(match text {
        None => return Ok(None),
        Some("nvgre") => Encap::Nvgre,
        Some("vxlan") => Encap::Vxlan,
        Some("rewrite") => Encap::Rewrite,
        Some(other) => return Err(bad("encap", other, "nvgre, vxlan or rewrite")),
    }))
}

/// That the addresses of a record can be replaced by each other, if they are to be.
pub fn rewrite(record: &Record) -> Result<(), Refusal> {
    let Record { ca, encap, rewrite_pa, kind, .. } = *record;
    if encap != Encap::Rewrite {
        return match rewrite_pa {
            Some(_) => Err(Refusal::Nv(NvRefusal::RewriteUnused { encap: say::encap(encap) })),
            None => Ok(()),
        };
    }
    if kind == Kind::L2Only {
        return Err(bad(
            "encap",
            "rewrite",
            "nvgre or vxlan: without a customer address there is none to replace",
        ));
    }
    let on_wire = rewrite_pa.unwrap_or(record.pa);
    if on_wire.is_ipv4() != ca.is_ipv4() {
        return Err(Refusal::Nv(NvRefusal::Families { ca, pa: on_wire }));
    }
    Ok(())
}

/// What of a record is asked for: its customer address, or for `l2-only` its MAC address.
pub fn record_key(vsid_number: u64, ca: Option<&str>, mac: Option<&str>) -> Result<RecordKey, Refusal> {
    let vsid = vsid(vsid_number)?;
    match (ca, mac) {
        (Some(ca), _) => Ok(RecordKey::Address(vsid, address(ca)?)),
        (None, Some(mac)) => Ok(RecordKey::L2Only(vsid, check::mac(mac)?)),
        (None, None) => {
            let valid = "a customer address, or the MAC address of an l2-only record".into();
            Err(Refusal::Missing { what: "ca".into(), valid })
        }
    }
}

/// The key of an object that is not there any more when this is asked.
pub fn absent(key: &Key) -> Refusal {
    Refusal::Nv(NvRefusal::Absent { list: format!("turnpike nv {} list", key.noun()) })
}

/// An IP address.
pub fn address(text: &str) -> Result<IpAddr, Refusal> {
    text.parse().map_err(|_| {
        let valid = "an IPv4 or IPv6 address such as 10.0.0.5 or fd00::5";
        Refusal::BadAddress { value: text.to_owned(), valid }
    })
}

/// An IP address that a host on the wire can have.
pub fn provider_address(text: &str) -> Result<IpAddr, Refusal> {
    let address = address(text)?;
    provider(address)?;
    Ok(address)
}

fn provider(address: IpAddr) -> Result<(), Refusal> {
    if is_unicast(address) { Ok(()) } else { Err(Refusal::Nv(NvRefusal::BadProviderAddress { address })) }
}

/// An address with the length of its prefix; it is neither the first nor the last of that, unless there are only two.
fn host_in_prefix(setting: &str, text: &str) -> Result<IpNet, Refusal> {
    let net: IpNet = text
        .parse()
        .map_err(|_| bad(setting, text, "an address with the length of its prefix, such as 192.0.2.5/24"))?;
    if is_host(net.addr(), &[net]) {
        Ok(net)
    } else {
        Err(Refusal::Nv(NvRefusal::NoHost { address: net.addr() }))
    }
}

/// Whether one machine can have the address.
pub fn is_unicast(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    !special && !matches!(address, IpAddr::V4(ip) if ip.is_broadcast() || ip.octets()[0] == 0)
}

/// Whether one machine of the prefix that an address is in can have it.
pub fn is_host(address: IpAddr, prefixes: &[IpNet]) -> bool {
    let within = prefixes.iter().filter(|prefix| prefix.contains(&address));
    is_unicast(address)
        && within.into_iter().all(|prefix| match prefix {
            // A link of two has neither (RFC 3021); IPv6 has no broadcast, and the first address is every router's.
            IpNet::V4(net) if net.prefix_len() < 31 => {
                address != IpAddr::V4(net.network()) && address != IpAddr::V4(net.broadcast())
            }
            IpNet::V6(net) if net.prefix_len() < 127 => address != IpAddr::V6(net.network()),
            _ => true,
        })
}

fn vlan(number: Option<u64>) -> Result<Option<u16>, Refusal> {
    number.map(|id| check::range("vlan", id, 1, 4094, "").map(|id| id as u16)).transpose()
}

fn unspecified(of_family: IpAddr) -> IpAddr {
    // The family of what is not known says nothing; that of the provider address at least is one this record has.
    if of_family.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) }
}

fn bad(setting: &str, value: &str, valid: &str) -> Refusal {
    Refusal::BadValue { setting: setting.into(), value: value.into(), valid: valid.into() }
}
