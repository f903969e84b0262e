//! Extensions that come with the switch, each written against [`Extension`] only, as one from elsewhere would be.
//!
//! | name | kind | what it is for |
//! |---|---|---|
//! | [`sflow`] | capture | samples of frames and counters of ports, to a collector |
//! | [`firewall`] | filter | stateful rule sets and a small intrusion detection |
//! | [`openflow`] | forwarding | a controller says where frames go, by OpenFlow 1.3 |
//! | [`vepa`] | forwarding | everything guests send goes to the neighbouring switch, which sends it back |
//!
//! An instance takes its configuration once, as JSON; other values make another instance. Keys that are not known are refused, because a
//! misspelt limit would otherwise be no limit.

pub mod firewall;
pub mod openflow;
pub mod sflow;
pub mod vepa;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Extension, Kind};

/// An extension that can be enabled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Available {
    /// Its name, unique among all.
    pub name: &'static str,
    /// What it is for.
    pub kind: Kind,
    /// One line about it for the operator.
    pub about: &'static str,
}

/// Why a configuration is refused: what is wrong, and what would be valid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{extension}: {problem}")]
pub struct ConfigError {
    extension: &'static str,
    problem: String,
}

impl ConfigError {
    /// What is wrong with a value of a key.
    pub(crate) fn new(extension: &'static str, problem: impl Into<String>) -> Self {
        Self { extension, problem: problem.into() }
    }
}

/// What can be enabled.
pub fn available() -> &'static [Available] {
    const ALL: &[Available] = &[
        Available {
            name: sflow::NAME,
            kind: Kind::Capture,
            about: "sends samples of frames and counters of ports to an sFlow version 5 collector",
        },
        Available {
            name: firewall::NAME,
            kind: Kind::Filter,
            about: "stateful rule sets for ports, and detection of scans, SYN floods and known payloads",
        },
        Available {
            name: openflow::NAME,
            kind: Kind::Forwarding,
            about: "forwards as an OpenFlow 1.3 controller says, over TCP or TLS",
        },
        Available {
            name: vepa::NAME,
            kind: Kind::Forwarding,
            about: "sends all frames of guests to the neighbouring switch, which reflects them (802.1Qbg)",
        },
    ];
    ALL
}

/// A new instance of the extension of this name; `None` = there is none. A configuration of null is one without keys.
///
/// # Errors
/// The configuration is not one of this extension.
pub fn start(name: &str, config: &Value) -> Option<Result<Arc<dyn Extension>, ConfigError>> {
    fn shared<E: Extension + 'static>(
        made: Result<E, ConfigError>,
    ) -> Result<Arc<dyn Extension>, ConfigError> {
        made.map(|instance| Arc::new(instance) as Arc<dyn Extension>)
    }
    match name {
        sflow::NAME => Some(shared(sflow::Sflow::new(config))),
        firewall::NAME => Some(shared(firewall::Firewall::new(config))),
        openflow::NAME => Some(shared(openflow::Openflow::new(config))),
        vepa::NAME => Some(shared(vepa::Vepa::new(config))),
        _ => None,
    }
}

/// The configuration as the extension's own type.
fn read<T: DeserializeOwned>(extension: &'static str, config: &Value) -> Result<T, ConfigError> {
    let empty = Value::Object(serde_json::Map::new());
    let config = if config.is_null() { &empty } else { config };
    T::deserialize(config).map_err(|error| ConfigError::new(extension, error.to_string()))
}

/// A number within bounds, or why not.
fn within<T: PartialOrd + Copy + std::fmt::Display>(
    extension: &'static str,
    key: &str,
    value: T,
    least: T,
    most: T,
) -> Result<T, ConfigError> {
    if (&least..=&most).contains(&&value) {
        return Ok(value);
    }
    Err(ConfigError::new(extension, format!("'{key}' is {value}; it must be {least} to {most}")))
}

/// State behind a lock of which no holder can leave half a change: what a panic elsewhere poisoned is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A seed for tables whose keys guests choose, which nobody can guess. It decides nothing but where an entry is kept.
fn secret() -> u64 {
    RandomState::new().hash_one(0)
}
