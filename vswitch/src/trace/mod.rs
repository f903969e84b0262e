//! Why a frame went nowhere: the one list of drop reasons.

use serde::{Deserialize, Serialize};

/// The one reason a dropped frame has. Shown by this name (kebab-case) in counters, traces and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum DropReason {
    /// The receiver had no room within `rx-wait-us`.
    ReceiverFull,
}
