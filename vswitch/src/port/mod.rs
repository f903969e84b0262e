//! A port and its policy, one file per rule.

pub mod access;
pub mod acl;
pub mod address_limit;
pub mod addresses;
pub mod admission;
pub mod dhcp_guard;
pub mod extended;
mod intervals;
pub mod learning;
pub mod link;
pub mod mirror;
pub mod mtu;
pub mod reserved;
pub mod router_guard;
pub mod rule;
pub mod source;
pub mod storm;
pub mod vlan;

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Mac, PortId};

/// Ports a switch has at most; their numbers are 1 to this.
pub const MAX_PORTS: usize = 1024;

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// A virtual machine's network card.
    Guest,
    /// A TAP of the host.
    Host,
    /// The physical network.
    Uplink,
}

/// Whether frames of a port are copied to monitors, or the port is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mirror {
    /// Neither.
    #[default]
    None,
    /// Every frame it sends or receives is copied to every destination.
    Source,
    /// It gets the copies.
    Destination,
}

/// The settings of one port that decide what happens to its frames. The default is that of a new port: nothing is guarded
/// but its source MAC address.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own that an operator knows by name
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// VLAN mode.
    pub vlan: vlan::Vlan,
    /// Virtual subnet, 4096 to 16777214; excludes a VLAN mode.
    pub vsid: Option<u32>,
    /// Whether the port may send with source addresses other than its own (MAC spoofing; default off).
    pub mac_spoofing: bool,
    /// Whether it may use the address of another port of the same virtual machine that has this on too (guest teaming).
    pub teaming: bool,
    /// Drop what a DHCP server would send.
    pub dhcp_guard: bool,
    /// Drop router advertisements and redirects.
    pub router_guard: bool,
    /// The IP addresses it owns; `None` = any.
    pub addresses: Option<Arc<[IpNet]>>,
    /// Most IP addresses it may use beside those it owns; 0 = no limit.
    pub address_limit: u32,
    /// Most broadcast, multicast and unknown unicast frames it may send in a second; 0 = no limit.
    pub storm_limit: u32,
    /// Mirroring.
    pub mirror: Mirror,
    /// Keep the 802.1p priority that the port sends; it is reset to 0 otherwise.
    pub priority_tag: bool,
    /// Administrative link state (default up); a port whose link is down neither sends nor receives.
    pub link_up: bool,
    /// Port ACL.
    pub acl: Arc<acl::Table>,
    /// Extended rules.
    pub rules: Arc<rule::Table>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            vlan: vlan::Vlan::None,
            vsid: None,
            mac_spoofing: false,
            teaming: false,
            dhcp_guard: false,
            router_guard: false,
            addresses: None,
            address_limit: 0,
            storm_limit: 0,
            mirror: Mirror::None,
            priority_tag: false,
            link_up: true,
            acl: Arc::default(),
            rules: Arc::default(),
        }
    }
}

/// One port as the switch knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// What is behind it.
    pub kind: PortKind,
    /// Its configured (pinned) address. For the uplink: the interface's own address.
    pub mac: Mac,
    /// Largest L3 packet it takes, in bytes.
    pub mtu: u16,
    /// The virtual machine it belongs to; ports of one machine have the same number. `None` = not known.
    pub vm: Option<u64>,
    /// Whether anything is behind the port now. A guest port whose guest is not here (not yet, no longer, or on another host) keeps its
    /// address against all other ports, but not against the physical network: see [`crate::snapshot::Snapshot::stands_in`].
    pub present: bool,
    /// It requires an extension that is not there: it neither sends nor receives.
    pub unmet: bool,
    /// Its policy.
    pub policy: Policy,
}

impl Policy {
    /// Whether it looks beyond addresses and VLAN of what the port sends, or counts it.
    pub fn looks(&self) -> bool {
        self.dhcp_guard
            || self.router_guard
            || self.addresses.is_some()
            || self.address_limit != 0
            || !self.acl.is_empty()
            || !self.rules.is_empty()
    }
}

impl Port {
    /// A port with default policy, an MTU of 1500 and something behind it.
    pub fn new(id: PortId, kind: PortKind, mac: Mac) -> Self {
        let policy = Policy::default();
        Self { id, kind, mac, mtu: 1500, vm: None, present: true, unmet: false, policy }
    }

    /// Whether the switch learns source addresses behind this port and sends it unknown unicast.
    ///
    /// Never the uplink: what is not known otherwise is behind it anyway.
    pub fn learns(&self) -> bool {
        self.policy.mac_spoofing && self.kind != PortKind::Uplink
    }
}
