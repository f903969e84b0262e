//! Who does what when a port moves from switch to switch: `offer → check → reserve → freeze → transfer → commit | roll back`.
//!
//! Two machines without I/O, [`Source`] and [`Destination`]. Messages, local facts and the time go in, [`SourceAction`]s and
//! [`DestinationAction`]s come out; what is bulky (manifest, problems, the state itself) stays with whoever drives them. A driver
//! gives inputs one at a time and carries actions out in order.
//!
//! # Who decides
//! A switch cannot stop a guest: the VMM does, and the machines follow. *Freeze* is that the source's rings stand still. The state goes
//! over at once; the destination's rings are gated until it is in force. The destination's rings run: *commit*. The source's rings run
//! again: *roll back*, at both. Nobody votes, and no message decides who runs the guest: a VMM runs it in one place at a time, so
//! **the side whose rings run owns the port**. That holds when both sides' word of it is lost:
//!
//! * the destination runs, the source never hears: the source's rings stand still, so it counts and sends nothing. Its copy of the
//!   state is that of the moment of the freeze. It says "not confirmed" after its limit and keeps the port as it was, silent. Asked
//!   again (it reconnects with the same id), the destination answers from the epoch it committed, even after a crash.
//! * the source runs again, the destination never hears: its rings never ran, so what it took was never used and has counted nothing.
//!   After its limit, or when its front end goes, it puts back what was before.
//! * a destination that ran out of patience before the state came runs the guest with the policy configured there and says so: a guest
//!   without network is worse. The state that comes too late is refused, and stays at the source with all that it counted.
//!
//! What was put in force at the destination is either committed (rings ran with it) or taken back, never both: taking back is one step
//! with looking whether rings run ([`DestinationAction::Undo`]).
//!
//! # Loss and repetition
//! A migration has an id, random and never used again. The source counts its connections (`attempt`); an answer to an earlier one, and
//! a request of one, is ignored. Within an attempt every message may come twice: each is answered by what is, nothing is done twice.
//! After a cut the source connects again and offers again, and the destination's answer says how far it is.
//! `tests/handoff_model.rs` tries every interleaving of what can go wrong.

mod destination;
mod source;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use destination::{Destination, DestinationAction, DestinationInput, DestinationStep};
pub use source::{Source, SourceAction, SourceInput, SourceStep};

/// A time in milliseconds since an arbitrary start, given by the driver.
pub type Millis = u64;

/// Which migration: random, given by the caller, never used twice. Written as sixteen hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MigrationId(pub u64);

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadId;

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a migration's id is sixteen hexadecimal digits")
    }
}

impl FromStr for MigrationId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let valid = text.len() == 16 && text.bytes().all(|c| c.is_ascii_hexdigit());
        let number = valid.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(BadId)
    }
}

impl Serialize for MigrationId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MigrationId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What one switch says to the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Which migration.
    pub id: MigrationId,
    /// The source's connection it belongs to, from 1.
    pub attempt: u32,
    /// What.
    pub body: Body,
}

/// The words of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    /// Source: the port wants to come (its manifest is beside), or: I am back. `saved` is the epoch of the state, once there is one.
    Offer {
        /// Epoch of the state that was captured.
        saved: Option<u64>,
    },
    /// Source: the state (beside), saved with this epoch.
    State {
        /// Its epoch.
        epoch: u64,
    },
    /// Source: it does not come, or not any more.
    Cancel {
        /// Why.
        reason: String,
        /// Epoch of the state that was captured.
        saved: Option<u64>,
    },
    /// Source: I know that it runs there.
    Confirmed,
    /// Destination: it may come, and there is room for it.
    Reserved,
    /// Destination: it may not (problems are beside).
    Refused {
        /// Why, in a sentence.
        reason: String,
    },
    /// Destination: its state is in force, and its rings may run.
    Loaded,
    /// Destination: its rings run with its state. It is mine.
    Running,
    /// Destination: its rings may run without its state, because it did not come in time.
    Bare {
        /// Why.
        reason: String,
    },
    /// Destination: I have let go of it; everything is as it was.
    Dropped {
        /// Why.
        reason: String,
    },
}

/// How long each step may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Source: connect, be checked and get a reservation.
    pub offer: Millis,
    /// Both: from the reservation until the guest stops at the source.
    pub freeze: Millis,
    /// Source: save the state.
    pub capture: Millis,
    /// Source: get the state across and in force. Destination: put it in force.
    pub transfer: Millis,
    /// Both: from then until rings run somewhere.
    pub commit: Millis,
    /// Source: be told that the destination let go. Destination: be told that the source knows.
    pub end: Millis,
    /// Destination: from losing the connection until the reservation is given up.
    pub silence: Millis,
    /// Destination: from the front end's wish to run rings until they run without the state.
    pub gate: Millis,
}

impl Default for Limits {
    /// A guest's TCP survives a few seconds of darkness; memory of a large guest takes an hour.
    fn default() -> Self {
        Self {
            offer: 15_000,
            freeze: 3_600_000,
            capture: 10_000,
            transfer: 15_000,
            commit: 600_000,
            end: 5_000,
            silence: 20_000,
            gate: 3_000,
        }
    }
}

/// How a migration ended at one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest runs at the destination with its state.
    Committed,
    /// The source has everything as it was before.
    RolledBack,
    /// An operator ended it; the source has everything as it was before.
    Cancelled,
    /// The destination did not want it; nothing was touched.
    Refused,
    /// It did not work; the source has everything as it was before, and the reason says what else.
    Failed,
}

/// The end of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// How.
    pub outcome: Outcome,
    /// Why, in a sentence; may be empty.
    pub reason: String,
    /// Whether the other side said so too. A side that is not sure has decided by its own rings.
    pub confirmed: bool,
}

impl End {
    pub(crate) fn new(outcome: Outcome, reason: impl Into<String>) -> Self {
        Self { outcome, reason: reason.into(), confirmed: true }
    }
}
