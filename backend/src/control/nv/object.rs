//! One object of network virtualization, whichever it is, and its name among all of them.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use vswitch::Mac;
use vswitch::nv::model::{Gateway, Kind, Network, NextHop, Provider, Record, Route, Subnet};
use vswitch::refusal;

/// What identifies an object. The order is that in which objects are made: what others need comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A customer network, by name.
    Network(String),
    /// A virtual subnet.
    Subnet(u32),
    /// A customer route: network, prefix and next hop, as there may be several ways.
    Route(String, IpNet, Hop),
    /// A provider address of this host.
    Provider(IpAddr),
    /// A customer network's gateway at this host.
    Gateway(String),
    /// A lookup record.
    Record(RecordKey),
}

/// What identifies a lookup record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// The record of a customer address.
    Address(u32, IpAddr),
    /// The record of a guest whose address is not known.
    L2Only(u32, Mac),
}

/// A next hop with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop(pub NextHop);

impl Hop {
    fn rank(self) -> Option<IpAddr> {
        match self.0 {
            NextHop::Address(address) => Some(address),
            NextHop::Gateway => None,
        }
    }
}

impl Ord for Hop {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Hop {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl RecordKey {
    /// The key of a record.
    pub fn of(record: &Record) -> Self {
        match record.kind {
            Kind::L2Only => Self::L2Only(record.vsid, record.mac),
            _ => Self::Address(record.vsid, record.ca),
        }
    }

    /// Its virtual subnet.
    pub const fn vsid(&self) -> u32 {
        match self {
            Self::Address(vsid, _) | Self::L2Only(vsid, _) => *vsid,
        }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(vsid, ca) => write!(f, "{vsid}/{ca}"),
            Self::L2Only(vsid, mac) => write!(f, "{vsid}/l2-only/{mac}"),
        }
    }
}

impl Key {
    /// What kind of object it is, as commands name it.
    pub const fn noun(&self) -> &'static str {
        match self {
            Self::Network(_) => "network",
            Self::Subnet(_) => "subnet",
            Self::Route(..) => "route",
            Self::Provider(_) => "provider",
            Self::Gateway(_) => "gateway",
            Self::Record(_) => "record",
        }
    }

    /// Whether it is one host's own; all others are the same at every host.
    pub const fn is_local(&self) -> bool {
        matches!(self, Self::Provider(_) | Self::Gateway(_))
    }

    /// The object for a refusal.
    pub fn object(&self) -> refusal::Object {
        refusal::Object::Nv { noun: self.noun(), key: self.to_string() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(name) | Self::Gateway(name) => f.write_str(name),
            Self::Subnet(vsid) => vsid.fmt(f),
            Self::Route(network, prefix, hop) => write!(f, "{network}/{prefix}/{}", hop.0),
            Self::Provider(address) => address.fmt(f),
            Self::Record(key) => key.fmt(f),
        }
    }
}

/// An object, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A customer network.
    Network(Network),
    /// A virtual subnet.
    Subnet(Subnet),
    /// A customer route.
    Route(Route),
    /// A provider address of this host.
    Provider(Provider),
    /// A gateway at this host.
    Gateway(Gateway),
    /// A lookup record.
    Record(Record),
}

impl Object {
    /// What identifies it.
    pub fn key(&self) -> Key {
        match self {
            Self::Network(network) => Key::Network(network.name.clone()),
            Self::Subnet(subnet) => Key::Subnet(subnet.vsid),
            Self::Route(route) => Key::Route(route.network.clone(), route.prefix, Hop(route.next_hop)),
            Self::Provider(provider) => Key::Provider(provider.address.addr()),
            Self::Gateway(gateway) => Key::Gateway(gateway.network.clone()),
            Self::Record(record) => Key::Record(RecordKey::of(record)),
        }
    }
}

/// One change: `before` in force now, `after` from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is about.
    pub key: Key,
    /// The object as it must be now; `None` = there must be none.
    pub before: Option<Object>,
    /// The object as it will be; `None` = there will be none.
    pub after: Option<Object>,
}

impl Change {
    /// A new object.
    pub fn create(object: Object) -> Self {
        Self { key: object.key(), before: None, after: Some(object) }
    }

    /// An object that goes.
    pub fn remove(object: Object) -> Self {
        Self { key: object.key(), before: Some(object), after: None }
    }

    /// An object in the place of another with its key.
    pub fn replace(before: Object, after: Object) -> Self {
        Self { key: after.key(), before: Some(before), after: Some(after) }
    }
}
