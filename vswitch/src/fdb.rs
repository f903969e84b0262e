//! The forwarding database: which learned address is behind which port.

use serde::{Deserialize, Serialize};

use crate::{Mac, PortId};

/// How an address came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Configured for a port.
    Static,
    /// Seen as a source address.
    Learned,
}

/// One address as shown to an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The address.
    pub mac: Mac,
    /// VLAN it belongs to; 0 = untagged.
    pub vlan: u16,
    /// The port it is behind.
    pub port: PortId,
    /// How it is known.
    pub kind: EntryKind,
    /// Time since it was last seen, in milliseconds.
    pub age_ms: u64,
}
