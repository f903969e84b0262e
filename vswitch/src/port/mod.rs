//! A port and its policy, one file per rule.

pub mod learning;
pub mod link;
pub mod mtu;
pub mod reserved;
pub mod source;

use serde::{Deserialize, Serialize};

use crate::{Mac, PortId};

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

/// The settings of one port that decide what happens to its frames. The default is that of a new port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether the port may send with source addresses other than its own (MAC spoofing; default off).
    pub mac_spoofing: bool,
    /// Administrative link state (default up); a port whose link is down neither sends nor receives.
    pub link_up: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { mac_spoofing: false, link_up: true }
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
    /// Its policy.
    pub policy: Policy,
}

impl Port {
    /// Whether the switch learns source addresses behind this port and sends it unknown unicast.
    ///
    /// Never the uplink: what is not known otherwise is behind it anyway.
    pub fn learns(&self) -> bool {
        self.policy.mac_spoofing && self.kind != PortKind::Uplink
    }
}
