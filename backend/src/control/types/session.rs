//! Sessions of stateful rules, as they are shown.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A session that a stateful rule opened: both directions of it pass until nothing did for the idle timeout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// The port with the rule.
    pub port: String,
    /// `tcp`, `udp` or a number.
    pub protocol: String,
    /// The guest's own address.
    pub local: String,
    /// Its TCP or UDP port.
    pub local_port: u16,
    /// Its peer's address.
    pub remote: String,
    /// The peer's TCP or UDP port.
    pub remote_port: u16,
    /// The VLAN (1 to 4094) or virtual subnet (4096 and more) it is in; `null` = untagged.
    pub isolation_id: Option<u32>,
    /// Direction of its first packet: `in` or `out`; out = the guest sends.
    pub direction: String,
    /// Weight of the rule in that direction that opened it.
    pub weight: u32,
    /// `open` (not TCP), `syn-sent`, `established` or `closing`.
    pub state: String,
    /// Milliseconds since it was opened.
    pub age_ms: u64,
    /// Milliseconds since a packet passed.
    pub idle_ms: u64,
    /// Milliseconds until it is gone, if no packet passes.
    pub expires_ms: u64,
}

/// What became of a port's sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flushed {
    /// Sessions that were ended.
    pub flushed: u64,
}
