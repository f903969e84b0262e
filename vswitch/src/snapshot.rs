//! The compiled policy of the whole switch: immutable, swapped as one piece.

use serde::{Deserialize, Serialize};

use crate::PortId;
use crate::port::Port;

/// What the switch connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchKind {
    /// Guests, the host and the physical network.
    External,
    /// Guests and the host.
    Internal,
    /// Guests only.
    Private,
}

/// Switch-wide settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchConfig {
    /// What the switch connects.
    pub kind: SwitchKind,
    /// Learned addresses the switch holds at most.
    pub fdb_size: u32,
    /// Longest time a unicast frame waits for room at its receiver, in microseconds.
    pub rx_wait_us: u32,
}

impl Default for SwitchConfig {
    fn default() -> Self {
        Self { kind: SwitchKind::Private, fdb_size: 8192, rx_wait_us: 10_000 }
    }
}

/// One compiled state of the switch.
#[derive(Debug)]
pub struct Snapshot {
    epoch: u64,
    config: SwitchConfig,
    ports: Vec<Option<Port>>,
}

impl Snapshot {
    /// Compiles ports and settings. `epoch` must be greater than that of every earlier snapshot.
    pub fn new(epoch: u64, config: SwitchConfig, ports: Vec<Port>) -> Self {
        let mut table = Vec::new();
        for port in ports {
            let index = port.id.index();
            if table.len() <= index {
                table.resize(index + 1, None);
            }
            table[index] = Some(port);
        }
        Self { epoch, config, ports: table }
    }

    /// The policy generation this snapshot stands for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The switch-wide settings.
    pub fn config(&self) -> &SwitchConfig {
        &self.config
    }

    /// A port, if there is one with this number.
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index()).and_then(Option::as_ref)
    }
}
