//! Metering, as it is shown.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a port's meters counted since metering was enabled or reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeterView {
    /// The port; `null` for the sum over ports.
    pub port: Option<String>,
    /// Since when it counts (UTC, RFC 3339); of a sum: the earliest.
    pub since: String,
    /// Seconds since then; of a sum: the longest.
    pub duration_s: u64,
    /// The meters.
    pub entries: Vec<MeterEntry>,
}

/// One meter. A packet counts in the one whose prefix is the longest that matches, once per direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeterEntry {
    /// `in` or `out`; out = the guest sends.
    pub direction: String,
    /// The guest's own address, if the meter is about that.
    pub local: Option<String>,
    /// Its peer's address, if the meter is about that.
    pub remote: Option<String>,
    /// Packets.
    pub packets: u64,
    /// Bytes of those packets, whole frames without FCS.
    pub bytes: u64,
}
