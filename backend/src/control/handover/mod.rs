//! Ports on the move: what a port is leaves with its guest and arrives with it.
//!
//! A guest *departs* when its rings stand still and its state is saved ([`leave`]), and has *arrived* when a state was put into force
//! for a port whose rings do not run yet ([`arrive`]). Neither is final: a departure ends when the rings run here again, an arrival is
//! settled when they run here and undone when the front end that brought it goes before. So a move that is given up, at whatever
//! step, leaves both switches as they were. [`follow`] looks at what became of them; [`lifecycle`] calls it when something happened.
//! [`kept`] has what arrived again when the process was killed in between. [`state`] translates between a port's configuration and its portable state.
//!
//! Who may say what a port is: a state whose seal verifies, or that came from another switch over an authenticated channel, replaces
//! the port's policy. Otherwise the state went through a process that a tenant may control; then only what the port did is taken
//! from it, and its configured policy stays.

mod arrive;
mod files;
mod follow;
mod kept;
mod leave;
pub mod lifecycle;
pub mod moves;
mod needs;
mod state;

use std::time::Instant;

use vswitch::Tally;
use vswitch::refusal::Refusal;
use vswitch::state::PortMemory;

use super::extension::Memories;
use super::model::PortConfig;
use crate::spec::PortCounters;

pub use self::arrive::Trust;
pub use self::files::{new_key, read_key};
pub(super) use self::kept::Kept;

/// A state was put into force for a port, and its rings have not run since.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// What the port was before.
    before: PortConfig,
    counters: PortCounters,
    tallies: Vec<(Tally, (u64, u64))>,
    memory: PortMemory,
    /// What extensions remembered of it.
    memories: Memories,
    /// How often the port's rings had started, and front ends attached.
    starts: u32,
    attachments: u32,
    /// Whether it belongs to the front end that brought it, and ends with it.
    bound: bool,
    /// The host it came from.
    host: String,
    /// It is here again after the process was killed, and until then its front end may come back.
    awaited: Option<Instant>,
    /// As [`Self::awaited`], or has been: another state may take its place.
    restored: bool,
}

/// A port's state was saved, and its rings have not run since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Departure {
    epoch: u64,
    /// Whether the store knows the epoch.
    stored: bool,
    starts: u32,
    /// Whether the guest was heard behind the uplink.
    elsewhere: bool,
}

impl Departure {
    /// Whether the guest was heard elsewhere. What is kept of it then only sends latecomers after it.
    pub(super) fn is_over(&self) -> bool {
        self.elsewhere
    }
}

/// How the network is told where a guest is that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The port whose guest has arrived.
    pub port: vswitch::PortId,
    /// The frames that tell the network.
    pub frames: Vec<Vec<u8>>,
}

/// Milliseconds of Unix time.
fn unix_ms() -> u64 {
    jiff::Timestamp::now().as_millisecond().max(0) as u64
}

fn refused(error: &dyn std::error::Error) -> Refusal {
    Refusal::StateRefused { reason: error.to_string() }
}
