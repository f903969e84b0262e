//! A port's policy without its lists: what is asked for ([`PolicyChange`]) and what is in force ([`Policy`]).
//!
//! The names of the fields are those of the command line's options with `_` for `-`. A field that a stored port does not
//! have is at its default, so ports of older versions stay as they were.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use vswitch::port::Mirror;
use vswitch::port::vlan::Vlan;

use super::{Change, change};
use crate::control::check;

/// Administrative state of a port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// The port sends and receives.
    Up,
    /// The port neither sends nor receives.
    Down,
}

/// Changes of a port's policy; `null` restores the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyChange {
    /// VLAN mode: `none`, `access:ID`, `trunk:LIST[/NATIVE]`, `isolated:PRI/SEC`, `community:PRI/SEC` or
    /// `promiscuous:PRI/SEC[,SEC…]`.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub vlan: Change<String>,
    /// Virtual subnet, 4096 to 16777214; excludes a VLAN mode.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub vsid: Change<u64>,
    /// Guest port: whether it may send with source addresses other than its own.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub mac_spoofing: Change<bool>,
    /// Guest port: name of the virtual machine it belongs to; same rules as for a port's name.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub vm: Change<String>,
    /// Guest port: whether it may use the address of another port of the same virtual machine that has this on as well;
    /// needs `vm`.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub teaming: Change<bool>,
    /// Drop what a DHCP server would send.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub dhcp_guard: Change<bool>,
    /// Drop router advertisements and redirects that the port sends.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub router_guard: Change<bool>,
    /// IP addresses or prefixes the port owns, at most 1024: what it sends from others, and what it claims in ARP and
    /// neighbour discovery beside them, is dropped. `null` or `["any"]` = any.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub addresses: Change<Vec<String>>,
    /// IP addresses the port may use at most beside those it owns, 0 to 1024; 0 = no limit.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub address_limit: Change<u64>,
    /// Broadcast, multicast and unknown unicast frames the port may send in a second; 0 = no limit.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub storm_limit: Change<u64>,
    /// Mirroring: `none`, `source` or `destination`.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub mirror: Change<String>,
    /// Extensions that the port requires, at most 8: while one of them is not enabled, or has failed, the port has no connectivity.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub require_extension: Change<Vec<String>>,
    /// Keep the 802.1p priority that the port sends; it is reset to 0 otherwise.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub priority_tag: Change<bool>,
    /// Administrative link state.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<LinkState>)]
    pub link: Change<LinkState>,
}

/// A port's policy; its ACL and rules are lists of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Policy {
    /// VLAN mode.
    #[serde(default, with = "text")]
    #[schema(value_type = String)]
    pub vlan: Vlan,
    /// Virtual subnet.
    #[serde(default)]
    pub vsid: Option<u32>,
    /// Whether the port may send with source addresses other than its own.
    pub mac_spoofing: bool,
    /// Name of the virtual machine it belongs to.
    #[serde(default)]
    pub vm: Option<String>,
    /// Whether it may use the address of another teaming port of the same virtual machine.
    #[serde(default)]
    pub teaming: bool,
    /// Whether what a DHCP server would send is dropped.
    #[serde(default)]
    pub dhcp_guard: bool,
    /// Whether router advertisements and redirects that it sends are dropped.
    #[serde(default)]
    pub router_guard: bool,
    /// IP addresses and prefixes it owns; `null` = any.
    #[serde(default, with = "prefixes")]
    #[schema(value_type = Option<Vec<String>>)]
    pub addresses: Option<Arc<[IpNet]>>,
    /// IP addresses it may use at most beside those it owns; 0 = no limit.
    #[serde(default)]
    pub address_limit: u32,
    /// Broadcast, multicast and unknown unicast frames it may send in a second; 0 = no limit.
    #[serde(default)]
    pub storm_limit: u32,
    /// Mirroring: `none`, `source` or `destination`.
    #[serde(default)]
    #[schema(value_type = String)]
    pub mirror: Mirror,
    /// Extensions without which it has no connectivity.
    #[serde(default)]
    pub require_extension: Vec<String>,
    /// Whether the 802.1p priority that it sends is kept.
    #[serde(default)]
    pub priority_tag: bool,
    /// Administrative link state.
    pub link: LinkState,
}

impl Default for Policy {
    /// What the data path follows when nothing is said.
    fn default() -> Self {
        let p = vswitch::port::Policy::default();
        Self {
            vlan: p.vlan,
            vsid: p.vsid,
            mac_spoofing: p.mac_spoofing,
            vm: None,
            teaming: p.teaming,
            dhcp_guard: p.dhcp_guard,
            router_guard: p.router_guard,
            addresses: p.addresses,
            address_limit: p.address_limit,
            storm_limit: p.storm_limit,
            mirror: p.mirror,
            require_extension: Vec::new(),
            priority_tag: p.priority_tag,
            link: if p.link_up { LinkState::Up } else { LinkState::Down },
        }
    }
}

/// A value as its text.
mod text {
    use super::{Deserialize, Deserializer, Display, FromStr, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(d: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Prefixes as texts, single addresses without a length.
mod prefixes {
    use super::{Arc, Deserialize, Deserializer, IpNet, Serialize, Serializer, check};

    type Prefixes = Option<Arc<[IpNet]>>;

    pub(super) fn serialize<S: Serializer>(value: &Prefixes, s: S) -> Result<S::Ok, S::Error> {
        let texts = value.as_ref().map(|list| list.iter().map(check::prefix_text).collect::<Vec<_>>());
        texts.serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Prefixes, D::Error> {
        let texts: Option<Vec<String>> = Option::deserialize(d)?;
        let list = texts.map(|list| list.iter().map(|text| check::prefix(text)).collect());
        list.transpose().map_err(serde::de::Error::custom)
    }
}
