//! What the switch is made of, judged and complete: what the store keeps and the data path is built from.
//!
//! Unknown fields are errors when a stored object is read: one written by a newer version may carry protection this
//! version does not know, and dropping that silently would open the port.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use migration::state::{ExtensionState, UnknownField};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vswitch::port::PortKind;
use vswitch::refusal::Refusal;
use vswitch::snapshot::{SwitchConfig, SwitchKind};
use vswitch::{Mac, PortId, Tally};

use super::acl::Acl;
use super::extension::model::Listed;
use super::list::Item;
use super::meter::Metering;
use super::rule::Rules;
use super::types::{LinkState, Policy, SwitchChange};
use super::{admit, check};
use crate::guest::features;
use crate::spec::UplinkDriver;

/// Ports a switch has at most, uplink included; port numbers are 1 to this.
pub const MAX_PORTS: usize = 1024;

/// Switch-wide settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What the switch connects.
    pub kind: SwitchKind,
    /// Learned addresses the switch holds at most.
    pub fdb_size: u32,
    /// Longest time a unicast frame waits for room at its receiver, in microseconds.
    pub rx_wait_us: u32,
    /// Whether ports with a virtual subnet are in customer networks; without it they are only kept apart.
    #[serde(default)]
    pub nv: bool,
    /// Extensions.
    #[serde(default, skip_serializing_if = "Listed::is_empty")]
    pub extensions: Listed,
}

impl Default for Settings {
    /// A new switch is external, the one kind that takes every kind of port.
    fn default() -> Self {
        let SwitchConfig { fdb_size, rx_wait_us, .. } = SwitchConfig::default();
        Self { kind: SwitchKind::External, fdb_size, rx_wait_us, nv: false, extensions: Listed::default() }
    }
}

impl Settings {
    /// These settings after a change, judged alone: whether ports fit the kind is another question.
    pub fn changed(&self, change: &SwitchChange) -> Result<Self, Refusal> {
        let default = Self::default();
        let mut new = self.clone();
        if let Some(kind) = change.kind {
            new.kind = kind.unwrap_or(default.kind);
        }
        if let Some(size) = change.fdb_size {
            let size = size.unwrap_or(default.fdb_size.into());
            new.fdb_size = check::range("fdb-size", size, 64, 1 << 20, "addresses")? as u32;
        }
        if let Some(wait) = change.rx_wait_us {
            let wait = wait.unwrap_or(default.rx_wait_us.into());
            new.rx_wait_us = check::range("rx-wait-us", wait, 0, 1_000_000, "microseconds")? as u32;
        }
        if let Some(nv) = change.nv {
            new.nv = nv.unwrap_or(default.nv);
        }
        Ok(new)
    }

    /// The settings as the data path follows them.
    pub fn compiled(&self) -> SwitchConfig {
        SwitchConfig { kind: self.kind, fdb_size: self.fdb_size, rx_wait_us: self.rx_wait_us }
    }
}

/// What is behind a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Device {
    /// A vhost-user front end.
    Guest {
        /// The socket, absolute.
        socket: PathBuf,
        /// Connect instead of listening.
        client: bool,
        /// Queue pairs, 1 to 8.
        queues: u8,
        /// MTU offered to the guest, 68 to 9000 bytes.
        mtu: u16,
        /// Names of the features offered; `None` = all this version has.
        features: Option<Vec<String>>,
    },
    /// A TAP of the host.
    Host {
        /// The interface.
        interface: String,
    },
    /// The physical network.
    Uplink {
        /// The interface.
        interface: String,
        /// How it is driven.
        #[serde(default, skip_serializing_if = "UplinkDriver::is_usual")]
        driver: UplinkDriver,
    },
}

impl Device {
    /// What kind of port it makes.
    pub fn kind(&self) -> PortKind {
        match self {
            Self::Guest { .. } => PortKind::Guest,
            Self::Host { .. } => PortKind::Host,
            Self::Uplink { .. } => PortKind::Uplink,
        }
    }

    /// The network interface behind it.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Guest { .. } => None,
            Self::Host { interface } | Self::Uplink { interface, .. } => Some(interface),
        }
    }

    /// How the interface is driven, of an uplink.
    pub fn driver(&self) -> Option<UplinkDriver> {
        match self {
            Self::Uplink { driver, .. } => Some(*driver),
            _ => None,
        }
    }

    /// The feature bits it may offer; an error names a feature this version does not know.
    pub fn feature_bits(&self) -> Result<u64, String> {
        match self {
            Self::Guest { features: Some(names), .. } => features::parse_list(&names.join(",")),
            Self::Guest { features: None, .. } => Ok(features::DEFAULT),
            _ => Ok(0),
        }
    }
}

/// Where a port's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacKind {
    /// It was given.
    Static,
    /// It was drawn from the host's pool and stays with the port.
    Dynamic,
    /// It is the interface's own.
    Interface,
}

impl MacKind {
    /// The word shown for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
            Self::Interface => "interface",
        }
    }
}

/// What moves with a port and means nothing here: it is stored and moves on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// State of extensions that are not loaded.
    pub extensions: Vec<ExtensionState>,
    /// Fields of newer versions.
    pub unknown: Vec<UnknownField>,
}

impl Carried {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A port's complete configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// Its number, 1 to [`MAX_PORTS`].
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: Mac,
    /// Where the address comes from.
    pub mac_kind: MacKind,
    /// What is behind it.
    pub device: Device,
    /// Its policy.
    pub policy: Policy,
    /// That it is metered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metering: Option<Metering>,
    /// Epoch of the newest state known of it, in milliseconds of Unix time; 0 = it never moved.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u64,
    /// What it brought along that this version only carries on.
    #[serde(default, skip_serializing_if = "Carried::is_empty")]
    pub carried: Carried,
    /// Settings for it that are extensions' own, by extension, whether that is enabled or not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, Value>,
    /// Its ACL; the store has a row for each entry.
    #[serde(skip)]
    pub acl: Arc<Acl>,
    /// Its extended rules; the store has a row for each.
    #[serde(skip)]
    pub rules: Arc<Rules>,
}

impl PortConfig {
    /// The policy as the data path follows it. Cheap whatever the length of the lists: their tables are shared.
    pub fn compiled(&self) -> vswitch::port::Policy {
        let p = &self.policy;
        vswitch::port::Policy {
            vlan: p.vlan.clone(),
            vsid: p.vsid,
            mac_spoofing: p.mac_spoofing,
            teaming: p.teaming,
            dhcp_guard: p.dhcp_guard,
            router_guard: p.router_guard,
            addresses: p.addresses.clone(),
            address_limit: p.address_limit,
            storm_limit: p.storm_limit,
            mirror: p.mirror,
            priority_tag: p.priority_tag,
            link_up: p.link == LinkState::Up,
            acl: self.acl.table().clone(),
            rules: self.rules.table().clone(),
        }
    }

    /// Where its ACL entries and rules are counted.
    pub fn tallies(&self) -> impl Iterator<Item = Tally> {
        self.acl.items().map(Item::tally).chain(self.rules.items().map(Item::tally))
    }

    /// That a stored port keeps the rules new ones are checked for; says which one it breaks.
    pub fn judge(&self) -> Result<(), String> {
        let broken = |what: String| Err(format!("port '{}': {what}", self.name));
        if !(1..=MAX_PORTS).contains(&self.id.index()) {
            return broken(format!("number {} is out of range", self.id));
        }
        if check::name(&self.name).is_err() {
            return broken("the name is not valid".into());
        }
        if let Device::Guest { queues, mtu, .. } = &self.device
            && !((1..=8).contains(queues) && (68..=9000).contains(mtu))
        {
            return broken(format!("queues {queues} or mtu {mtu} is out of range"));
        }
        admit::together(&self.policy, self.device.kind()).or_else(|why| broken(why.to_string()))?;
        self.device.feature_bits().map(|_| ()).or_else(broken)
    }
}

/// Where a host's dynamic MAC addresses come from: 00:15:5d, two bytes of the host, then 00 to ff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacPool(pub [u8; 2]);

impl MacPool {
    /// The pool of the host named `host_id`, or else of the one with this first IPv4 address.
    ///
    /// A given name wins because hosts behind NAT often share their address, and two hosts of one network with the same
    /// pool give out the same addresses.
    pub fn of(host_id: Option<&str>, first_ipv4: Option<std::net::Ipv4Addr>, host_name: &str) -> Self {
        match (host_id, first_ipv4) {
            (None, Some(ip)) => Self([ip.octets()[2], ip.octets()[3]]),
            (Some(name), _) => Self(folded(name)),
            (None, None) => Self(folded(host_name)),
        }
    }

    /// The first address nobody has.
    pub fn draw(self, taken: impl Fn(Mac) -> bool) -> Option<Mac> {
        let [x, y] = self.0;
        (0..=255).map(|last| Mac([0x00, 0x15, 0x5d, x, y, last])).find(|mac| !taken(*mac))
    }
}

impl std::fmt::Display for MacPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [x, y] = self.0;
        write!(f, "00:15:5d:{x:02x}:{y:02x}:00-ff")
    }
}

/// FNV-1a of a name, folded to two bytes: the same on every build and host.
fn folded(name: &str) -> [u8; 2] {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    ((hash >> 16 ^ hash) as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_addresses_are_00155d_plus_the_last_two_octets_of_the_first_ipv4_address() {
        let pool = MacPool::of(None, Some([192, 0, 2, 77].into()), "host");
        assert_eq!(pool.draw(|_| false), Some(Mac([0, 0x15, 0x5d, 2, 77, 0])));
        assert_eq!(pool.draw(|m| m.0[5] < 9), Some(Mac([0, 0x15, 0x5d, 2, 77, 9])));
        assert_eq!(pool.draw(|_| true), None);
        assert_ne!(MacPool::of(Some("a"), Some([192, 0, 2, 77].into()), "host"), pool);
    }
}
