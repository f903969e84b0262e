//! Why an object of network virtualization was refused.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Class, Refused, Shown, some_of};
use crate::Mac;

/// Why an object of network virtualization, or a document of them, was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the text beside each case says what its fields are")]
pub enum NvRefusal {
    #[error("'{}' is not a UUID", Shown(.text))]
    BadRdid { text: String },
    #[error("routing domain {rdid} is that of network '{}'", Shown(.owner))]
    RdidTaken { rdid: String, owner: String },
    #[error("there is no network '{}'", Shown(.name))]
    UnknownNetwork { name: String, known: Vec<String> },
    #[error("there is no subnet {vsid}")]
    UnknownSubnet { vsid: u32 },
    #[error("there is one already")]
    Exists { remove: String },
    #[error("there is none")]
    Absent { list: String },
    #[error("it has {count} prefixes of {family}")]
    Prefixes { count: usize, family: &'static str },
    #[error("prefix {prefix} has no room for a guest beside the router")]
    TooNarrow { prefix: IpNet },
    #[error("prefix {prefix} overlaps {other} of subnet {vsid} in the same network")]
    Overlap { prefix: IpNet, other: IpNet, vsid: u32 },
    #[error("{what} {address} is not in the subnet")]
    Outside { what: &'static str, address: IpAddr, prefixes: Vec<IpNet> },
    #[error("{address} is not an address a guest can have")]
    NoHost { address: IpAddr },
    #[error("{address} is the address of the router of subnet {vsid}")]
    RouterAddress { address: IpAddr, vsid: u32 },
    #[error("{address} has a record with MAC address {mac} already")]
    SecondMac { address: IpAddr, mac: Mac },
    #[error("provider address {address} cannot be on the wire")]
    BadProviderAddress { address: IpAddr },
    #[error("no provider address of this host reaches {address}")]
    Unreachable { address: IpAddr, known: Vec<IpNet> },
    #[error("rewrite would put {pa} in the place of {ca}")]
    Families { ca: IpAddr, pa: IpAddr },
    #[error("rewrite: {pa} stands for {owner} already")]
    RewriteTaken { pa: IpAddr, owner: String },
    #[error("a rewrite address is given, and it is carried by {encap}")]
    RewriteUnused { encap: &'static str },
    #[error("next hop {hop} is in no subnet of network '{}'", Shown(.network))]
    NextHopOutside { hop: IpAddr, network: String },
    #[error("next hop {hop} is of another family than {prefix}")]
    NextHopFamily { hop: IpAddr, prefix: IpNet },
    #[error("the next hop of {prefix} is the router itself, so that packets would go in a circle")]
    RouteLoop { prefix: IpNet, hop: IpAddr },
    #[error("{prefix} is in subnet {vsid}, where guests are reached without a route")]
    RouteInSubnet { prefix: IpNet, vsid: u32 },
    #[error("router {gateway} is not in {prefix}")]
    GatewayOutside { gateway: IpAddr, prefix: IpNet },
    #[error("{by} {} it", if *.several { "need" } else { "needs" })]
    InUse { by: String, several: bool },
    #[error("there are {limit} {what} already")]
    Limit { what: &'static str, limit: usize },
    #[error("{} problems; the first: {}", .0.len(), .0.first().map_or_else(String::new, |first| format!("{}: {}", first.object, first.why)))]
    Problems(Vec<Refused>),
    #[error("the policy store does not answer: {reason}")]
    StoreLost { reason: String },
    #[error("the policy store refused it: {reason}")]
    StoreRefused { reason: String },
    #[error("it was changed by somebody else at the same time")]
    Raced,
    #[error("{done} of {all} objects are in the policy store, the next could not be written: {reason}")]
    Partly { done: usize, all: usize, reason: String },
}

impl NvRefusal {
    pub(super) const fn entry(&self) -> (&'static str, Class) {
        use Class::{BadValue, Conflict, NotFound, Unavailable};
        match self {
            Self::BadRdid { .. } => ("bad-rdid", BadValue),
            Self::RdidTaken { .. } => ("rdid-taken", Conflict),
            Self::UnknownNetwork { .. } => ("unknown-network", NotFound),
            Self::UnknownSubnet { .. } => ("unknown-subnet", NotFound),
            Self::Exists { .. } => ("exists", Conflict),
            Self::Absent { .. } => ("unknown-object", NotFound),
            Self::Prefixes { .. } => ("bad-prefixes", BadValue),
            Self::TooNarrow { .. } => ("prefix-too-narrow", BadValue),
            Self::Overlap { .. } => ("prefix-overlap", Conflict),
            Self::Outside { .. } => ("outside-subnet", BadValue),
            Self::NoHost { .. } => ("not-a-host-address", BadValue),
            Self::RouterAddress { .. } => ("router-address", BadValue),
            Self::SecondMac { .. } => ("second-mac", Conflict),
            Self::BadProviderAddress { .. } => ("bad-provider-address", BadValue),
            Self::Unreachable { .. } => ("unreachable", Conflict),
            Self::Families { .. } => ("rewrite-families", BadValue),
            Self::RewriteTaken { .. } => ("rewrite-taken", Conflict),
            Self::RewriteUnused { .. } => ("rewrite-unused", BadValue),
            Self::NextHopOutside { .. } => ("next-hop-outside", Conflict),
            Self::NextHopFamily { .. } => ("next-hop-family", BadValue),
            Self::RouteLoop { .. } => ("route-loop", Conflict),
            Self::RouteInSubnet { .. } => ("route-in-subnet", Conflict),
            Self::GatewayOutside { .. } => ("gateway-outside", BadValue),
            Self::InUse { .. } => ("in-use", Conflict),
            Self::Limit { .. } => ("too-many-objects", Conflict),
            Self::Problems(_) => ("problems", Conflict),
            Self::StoreLost { .. } => ("policy-store-lost", Unavailable),
            Self::StoreRefused { .. } => ("policy-store-refused", Unavailable),
            Self::Raced => ("raced", Conflict),
            Self::Partly { .. } => ("partly-written", Unavailable),
        }
    }

    pub(super) fn hint(&self) -> String {
        match self {
            Self::BadRdid { .. } => "8-4-4-4-12 hexadecimal digits".into(),
            Self::RdidTaken { .. } => "a UUID of its own ('uuidgen' makes one)".into(),
            Self::UnknownNetwork { known, .. } if known.is_empty() => {
                "there are no networks yet; add one with 'turnpike nv network add'".into()
            }
            Self::UnknownNetwork { known, .. } => some_of(known),
            Self::UnknownSubnet { vsid } => {
                format!(
                    "one of 'turnpike nv subnet list', or 'turnpike nv subnet add --vsid {vsid} ...' first"
                )
            }
            Self::Exists { remove } => format!("'{remove}' first"),
            Self::Absent { list } => format!("one of those in '{list}'"),
            Self::Prefixes { .. } => "one prefix of IPv4, one of IPv6, or one of each".into(),
            Self::TooNarrow { prefix } => format!("a length up to {}", prefix.max_prefix_len() - 2),
            Self::Overlap { other, .. } => {
                format!("a prefix outside of {other}, or a network of its own, where it may overlap")
            }
            Self::Outside { prefixes, .. } => format!("an address in {}", list(prefixes)),
            Self::NoHost { .. } => {
                "a unicast address that is neither the first nor the last of its subnet".into()
            }
            Self::RouterAddress { .. } => "another address of the subnet".into(),
            Self::SecondMac { mac, .. } => format!("{mac}, or remove that record first"),
            Self::BadProviderAddress { .. } => "a unicast address of a host".into(),
            Self::Unreachable { known, .. } if known.is_empty() => {
                "'turnpike nv provider add' first, with an address of the same family".into()
            }
            Self::Unreachable { known, .. } => {
                format!("an address in {}, or a provider with a --gateway", list(known))
            }
            Self::Families { .. } => "addresses of one family, or nvgre or vxlan as encap".into(),
            Self::RewriteTaken { .. } => {
                "a provider address for each customer address: another one as --rewrite-pa".into()
            }
            Self::RewriteUnused { .. } => "rewrite as encap, or no rewrite address".into(),
            Self::NextHopOutside { .. } => "a customer address of this network, or 'gateway'".into(),
            Self::NextHopFamily { prefix, .. } => {
                format!("an {} address, or 'gateway'", if prefix.addr().is_ipv4() { "IPv4" } else { "IPv6" })
            }
            Self::RouteLoop { .. } => "the address of a guest that forwards, or 'gateway'".into(),
            Self::RouteInSubnet { .. } => "a prefix outside of the network's subnets, or a wider one".into(),
            Self::GatewayOutside { prefix, .. } => format!("a router in {prefix}"),
            Self::InUse { .. } => "remove what needs it first".into(),
            Self::Limit { limit, .. } => format!("up to {limit}"),
            Self::Problems(problems) => problems.first().map_or_else(String::new, |first| first.why.hint()),
            Self::StoreLost { .. } => "try again when it answers ('turnpike nv store' shows it)".into(),
            Self::StoreRefused { .. } => "a store that lets this host write".into(),
            Self::Raced => "look at it again, then try again".into(),
            Self::Partly { .. } => "the same import again: it goes on where it stopped".into(),
        }
    }

    /// What is wrong with each of several objects, if it is several.
    pub fn problems(&self) -> &[Refused] {
        match self {
            Self::Problems(problems) => problems,
            _ => &[],
        }
    }
}

fn list(prefixes: &[IpNet]) -> String {
    let names: Vec<_> = prefixes.iter().map(|prefix| prefix.trunc().to_string()).collect();
    some_of(&names)
}
