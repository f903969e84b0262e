//! What the switch remembers from frame to frame, shared by all workers: learned addresses, sessions, counts of the current second.
//!
//! Everything in here is bounded, has a share per port, and may be used from any thread. Policy is not in here; it is the
//! [`Snapshot`](crate::snapshot::Snapshot), and a new snapshot keeps the state.

use crate::fdb::Fdb;
use crate::hash;
use crate::port::address_limit::Addresses;
use crate::port::storm::Storms;

/// The state of one switch.
#[derive(Debug)]
pub struct State {
    /// Learned MAC addresses.
    pub fdb: Fdb,
    /// IP addresses in use behind ports with an address limit.
    pub addresses: Addresses,
    /// Frames counted against storm limits.
    pub storms: Storms,
}

impl State {
    /// An empty state with room for `fdb_size` learned addresses. `seed` must be secret and random: guests choose the keys.
    pub fn new(fdb_size: u32, seed: u64) -> Self {
        Self {
            fdb: Fdb::new(fdb_size, seed),
            addresses: Addresses::new(hash::expand(seed, 4)),
            storms: Storms::new(),
        }
    }
}
