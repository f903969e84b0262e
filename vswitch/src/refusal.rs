//! Why a change was refused: the one list of refusals.
//!
//! A refusal names three things: the object it is about ([`Object`]), what is wrong with the offending value
//! (the text of [`Refusal`]) and what would be valid ([`Refusal::hint`]). The command line prints them as one line, the
//! API as one JSON object. A refused change leaves everything as it was.

use std::fmt;

use crate::Mac;
use crate::port::PortKind;
use crate::snapshot::SwitchKind;

/// What a refusal is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A port, by name.
    Port(String),
    /// An uplink, by name.
    Uplink(String),
    /// The switch and its settings.
    Switch,
    /// A request of the API, before it is known what it is about.
    Request,
    /// Whoever called.
    Caller,
    /// An option of `turnpike serve`, as it is written.
    Option(&'static str),
    /// The API socket, by path.
    Api(String),
    /// The state directory, by path.
    State(String),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(name) => write!(f, "port '{}'", Shown(name)),
            Self::Uplink(name) => write!(f, "uplink '{}'", Shown(name)),
            Self::Switch => f.write_str("switch"),
            Self::Request => f.write_str("request"),
            Self::Caller => f.write_str("caller"),
            Self::Option(option) => f.write_str(option),
            Self::Api(path) => write!(f, "API socket '{}'", Shown(path)),
            Self::State(path) => write!(f, "state '{}'", Shown(path)),
        }
    }
}

/// What kind of answer a refusal is; the API's status follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A value that is never valid (400).
    BadValue,
    /// The caller may not (403).
    Denied,
    /// There is no such object (404).
    NotFound,
    /// Valid in itself, but not together with what exists (409).
    Conflict,
    /// Not possible now; a later attempt may succeed (503).
    Unavailable,
}

impl Class {
    /// The HTTP status of this class.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadValue => 400,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Unavailable => 503,
        }
    }
}

/// A value from outside as it is shown: without control characters and at most 80 characters, so that it cannot
/// break the one line a refusal is.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.0.chars().enumerate() {
            if i == 80 {
                return f.write_str("…");
            }
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

/// At most eight names, for hints.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).map(|n| Shown(n).to_string()).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

fn kind_word(kind: PortKind) -> &'static str {
    match kind {
        PortKind::Guest => "guest port",
        PortKind::Host => "host port",
        PortKind::Uplink => "uplink",
    }
}

fn switch_word(kind: SwitchKind) -> &'static str {
    match kind {
        SwitchKind::External => "external",
        SwitchKind::Internal => "internal",
        SwitchKind::Private => "private",
    }
}

/// Why a change or request was refused, with the offending value. The text says what is wrong; [`Self::hint`] says
/// what would be valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the text beside each case says what its fields are")]
pub enum Refusal {
    #[error("there is no such port")]
    UnknownPort { known: Vec<String> },
    #[error("there is no such uplink")]
    UnknownUplink { known: Vec<String> },
    #[error("this is {} {}", if *.kind == PortKind::Uplink { "an" } else { "a" }, kind_word(*.kind))]
    WrongNoun { kind: PortKind, command: String },
    #[error("the name is not valid")]
    BadName,
    #[error("the name is taken by {} {}", if *.kind == PortKind::Uplink { "an" } else { "a" }, kind_word(*.kind))]
    DuplicateName { kind: PortKind },
    #[error("the switch has {limit} ports already")]
    TooManyPorts { limit: usize },

    #[error("'{}' is not a MAC address", Shown(.text))]
    BadMac { text: String },
    #[error("{mac} is a multicast address and cannot be a port's own")]
    GroupMac { mac: Mac },
    #[error("00:00:00:00:00:00 cannot be a port's address")]
    ZeroMac,
    #[error("{mac} is the address of port '{owner}'")]
    DuplicateMac { mac: Mac, owner: String },
    #[error("all 256 dynamic addresses {pool} of this host are given out")]
    MacPoolExhausted { pool: String },

    #[error("socket path '{}' is not absolute", Shown(.path))]
    SocketNotAbsolute { path: String },
    #[error("socket path '{}' has {length} bytes", Shown(.path))]
    SocketTooLong { path: String, length: usize },
    #[error("socket path '{}': directory '{}' does not exist", Shown(.path), Shown(.directory))]
    SocketDirectoryMissing { path: String, directory: String },
    #[error("socket path '{}' is used by {by}", Shown(.path))]
    SocketInUse { path: String, by: String },
    #[error("socket path '{}' is {what}", Shown(.path))]
    SocketNotSocket { path: String, what: &'static str },
    #[error("socket '{}': {reason}", Shown(.path))]
    SocketUnusable { path: String, reason: String },

    #[error("'{}' is not an interface name", Shown(.interface))]
    BadInterfaceName { interface: String },
    #[error("there is no interface '{}'", Shown(.interface))]
    UnknownInterface { interface: String, known: Vec<String> },
    #[error("interface '{}' is used by {by}", Shown(.interface))]
    InterfaceInUse { interface: String, by: String },
    #[error("interface '{}': {reason}", Shown(.interface))]
    InterfaceUnusable { interface: String, reason: String },

    #[error("{setting} {value} is out of range")]
    OutOfRange { setting: &'static str, value: u64, min: u64, max: u64, unit: &'static str },
    #[error("'{}' is not a value of {setting}", Shown(.value))]
    BadValue { setting: String, value: String, valid: String },
    #[error("features: {reason}")]
    BadFeatures { reason: String, known: Vec<String> },
    #[error("'{}' is not known here", Shown(.key))]
    UnknownKey { key: String, known: Vec<String> },
    #[error("{what} is missing")]
    Missing { what: String, valid: String },
    #[error("{setting} cannot be set on {} {}", if *.kind == PortKind::Uplink { "an" } else { "a" }, kind_word(*.kind))]
    NotApplicable { setting: &'static str, kind: PortKind, valid: &'static str },

    #[error("{} {} switch has no {}", if *.kind == SwitchKind::Private { "a" } else { "an" }, switch_word(*.kind), kind_word(*.what))]
    KindForbids { kind: SwitchKind, what: PortKind, valid: &'static str },
    #[error("cannot be {} with {}", switch_word(*.kind), some_of(.ports))]
    KindContradicts { kind: SwitchKind, ports: Vec<String> },
    #[error("an external switch has exactly one uplink and '{existing}' is it")]
    SecondUplink { existing: String },

    #[error("permission denied for uid {uid}")]
    PermissionDenied { uid: u32, group: Option<String> },
    #[error("{reason}")]
    Malformed { reason: String },
    #[error("there is no {} {}", Shown(.method), Shown(.path))]
    UnknownRoute { method: String, path: String },
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the request did not arrive within {seconds} s")]
    TooSlow { seconds: u64 },

    #[error("{address} cannot be listened on: {reason}")]
    CannotListen { address: String, reason: String },
    #[error("another switch answers there")]
    ApiInUse,
    #[error("{reason}")]
    ApiUnusable { reason: String },
    #[error("another switch uses it")]
    StateInUse,
    #[error("the store is damaged: {reason}")]
    StateCorrupt { reason: String },
    #[error("the store has format {found}, this version knows format {known}")]
    StateVersion { found: u32, known: u32 },
    #[error("the counters are damaged: {reason}")]
    CountersDamaged { reason: String },
    #[error("{reason}")]
    StateUnusable { reason: String },
    #[error("the change could not be stored: {reason}")]
    StoreFailed { reason: String },
    #[error("{what}: {reason}")]
    System { what: String, reason: String },
    #[error("the switch is stopping")]
    Stopping,
}

impl Refusal {
    /// Says what the refusal is about.
    pub fn of(self, object: Object) -> Refused {
        Refused { object, why: self }
    }

    /// The stable name of this refusal (kebab-case).
    pub const fn code(&self) -> &'static str {
        self.entry().0
    }

    /// What kind of answer it is.
    pub const fn class(&self) -> Class {
        self.entry().1
    }

    const fn entry(&self) -> (&'static str, Class) {
        use Class::{BadValue, Conflict, Denied, NotFound, Unavailable};
        match self {
            Self::UnknownPort { .. } => ("unknown-port", NotFound),
            Self::UnknownUplink { .. } => ("unknown-uplink", NotFound),
            Self::WrongNoun { .. } => ("wrong-noun", Conflict),
            Self::BadName => ("bad-name", BadValue),
            Self::DuplicateName { .. } => ("duplicate-name", Conflict),
            Self::TooManyPorts { .. } => ("too-many-ports", Conflict),
            Self::BadMac { .. } => ("bad-mac", BadValue),
            Self::GroupMac { .. } => ("multicast-mac", BadValue),
            Self::ZeroMac => ("zero-mac", BadValue),
            Self::DuplicateMac { .. } => ("duplicate-mac", Conflict),
            Self::MacPoolExhausted { .. } => ("mac-pool-exhausted", Conflict),
            Self::SocketNotAbsolute { .. } => ("socket-not-absolute", BadValue),
            Self::SocketTooLong { .. } => ("socket-too-long", BadValue),
            Self::SocketDirectoryMissing { .. } => ("socket-directory-missing", BadValue),
            Self::SocketInUse { .. } => ("socket-in-use", Conflict),
            Self::SocketNotSocket { .. } => ("socket-not-socket", Conflict),
            Self::SocketUnusable { .. } => ("socket-unusable", Unavailable),
            Self::BadInterfaceName { .. } => ("bad-interface-name", BadValue),
            Self::UnknownInterface { .. } => ("unknown-interface", NotFound),
            Self::InterfaceInUse { .. } => ("interface-in-use", Conflict),
            Self::InterfaceUnusable { .. } => ("interface-unusable", Unavailable),
            Self::OutOfRange { .. } => ("out-of-range", BadValue),
            Self::BadValue { .. } => ("bad-value", BadValue),
            Self::BadFeatures { .. } => ("bad-features", BadValue),
            Self::UnknownKey { .. } => ("unknown-key", BadValue),
            Self::Missing { .. } => ("missing", BadValue),
            Self::NotApplicable { .. } => ("not-applicable", BadValue),
            Self::KindForbids { .. } => ("kind-forbids", Conflict),
            Self::KindContradicts { .. } => ("kind-contradicts", Conflict),
            Self::SecondUplink { .. } => ("second-uplink", Conflict),
            Self::PermissionDenied { .. } => ("permission-denied", Denied),
            Self::Malformed { .. } => ("malformed", BadValue),
            Self::UnknownRoute { .. } => ("unknown-route", NotFound),
            Self::TooLarge { .. } => ("too-large", BadValue),
            Self::TooSlow { .. } => ("too-slow", BadValue),
            Self::CannotListen { .. } => ("cannot-listen", Unavailable),
            Self::ApiInUse => ("api-in-use", Conflict),
            Self::ApiUnusable { .. } => ("api-unusable", Unavailable),
            Self::StateInUse => ("state-in-use", Conflict),
            Self::StateCorrupt { .. } => ("state-corrupt", Unavailable),
            Self::StateVersion { .. } => ("state-version", Conflict),
            Self::CountersDamaged { .. } => ("counters-damaged", Unavailable),
            Self::StateUnusable { .. } => ("state-unusable", Unavailable),
            Self::StoreFailed { .. } => ("store-failed", Unavailable),
            Self::System { .. } => ("system", Unavailable),
            Self::Stopping => ("stopping", Unavailable),
        }
    }

    /// What would be valid.
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownPort { known } if known.is_empty() => {
                "there are no ports yet; add one with 'turnpike port add'".into()
            }
            Self::UnknownPort { known } => format!("{} (see 'turnpike port list')", some_of(known)),
            Self::UnknownUplink { known } if known.is_empty() => {
                "there is no uplink yet; add one with 'turnpike uplink add'".into()
            }
            Self::WrongNoun { command, .. } => format!("'{command}'"),
            Self::BadName => {
                "1 to 32 characters of A-Z a-z 0-9 . _ -, the first one a letter or a digit".into()
            }
            Self::DuplicateName { .. } => "a name not in 'turnpike port list'".into(),
            Self::TooManyPorts { limit } => format!("up to {limit}; remove a port first"),
            Self::BadMac { .. } => "six hexadecimal bytes such as 52:54:00:12:34:56".into(),
            Self::GroupMac { .. } | Self::ZeroMac => {
                "a non-zero unicast address (the first byte is even) such as 52:54:00:12:34:56".into()
            }
            Self::DuplicateMac { .. } => "an address no other port has, or none to get a dynamic one".into(),
            Self::MacPoolExhausted { .. } => {
                "an explicit --mac, or remove a port that has a dynamic one".into()
            }
            Self::SocketNotAbsolute { .. } => "an absolute path such as /run/turnpike/web.sock".into(),
            Self::SocketTooLong { .. } => "at most 107 bytes".into(),
            Self::SocketDirectoryMissing { .. } => "a path in an existing directory".into(),
            Self::SocketInUse { .. } => "a path nobody listens on".into(),
            Self::SocketNotSocket { .. } => "a path that does not exist yet, or an abandoned socket".into(),
            Self::SocketUnusable { .. } => "a path at which the switch may create a socket".into(),
            Self::BadInterfaceName { .. } => "1 to 15 characters without '/', ':' and white space".into(),
            Self::UnknownInterface { known, .. } if known.is_empty() => "none on this host".into(),
            Self::UnknownUplink { known }
            | Self::UnknownInterface { known, .. }
            | Self::UnknownKey { known, .. } => some_of(known),
            Self::BadFeatures { known, .. } => format!("a list of {}", known.join(",")),
            Self::InterfaceInUse { .. } => "an interface that is free".into(),
            Self::InterfaceUnusable { .. } => {
                "another Ethernet interface, or this one when that is mended".into()
            }
            Self::OutOfRange { min, max, unit: "", .. } => format!("{min} to {max}"),
            Self::OutOfRange { min, max, unit, .. } => format!("{min} to {max} {unit}"),
            Self::BadValue { valid, .. } | Self::Missing { valid, .. } => valid.clone(),
            Self::NotApplicable { valid, .. } | Self::KindForbids { valid, .. } => (*valid).to_owned(),
            Self::KindContradicts { kind: SwitchKind::Private, .. } => {
                "remove these first (a private switch connects guests only)".into()
            }
            Self::KindContradicts { .. } => {
                "remove these first (an internal switch connects guests and the host only)".into()
            }
            Self::SecondUplink { existing } => format!("'turnpike uplink remove {existing}' first"),
            Self::PermissionDenied { group: None, .. } => {
                "root or the switch's own user (a group can be allowed with 'serve --api-group')".into()
            }
            Self::PermissionDenied { group: Some(group), .. } => {
                format!("root, the switch's own user or a member of group '{group}'")
            }
            Self::Malformed { .. } => "a JSON object as described by GET /v1/openapi.json".into(),
            Self::UnknownRoute { .. } => "the routes listed by GET /v1/openapi.json".into(),
            Self::TooLarge { limit } => format!("up to {limit} bytes"),
            Self::TooSlow { seconds } => format!("a whole request within {seconds} s"),
            Self::CannotListen { .. } => {
                "a free port of an address of this host, such as 127.0.0.1:9101".into()
            }
            Self::ApiInUse => "stop it first, or give another path with --api".into(),
            Self::ApiUnusable { .. } => "a path at which the switch may create a socket (--api)".into(),
            Self::StateInUse => "stop it first, or give another directory with --state-dir".into(),
            Self::StateCorrupt { .. } => {
                "a store written by turnpike; move this file away to start with no ports".into()
            }
            Self::StateVersion { .. } => "the version of turnpike that wrote it, or a newer one".into(),
            Self::CountersDamaged { .. } => {
                "counters written by turnpike; move this file away to start with all at zero".into()
            }
            Self::StateUnusable { .. } => {
                "a directory the switch may write to (--state-dir), or --state-dir none".into()
            }
            Self::StoreFailed { .. } => "room and write permission in the state directory".into(),
            Self::System { .. } => "try again when the system has the resource".into(),
            Self::Stopping => "try again when it runs again".into(),
        }
    }
}

/// A refusal together with what it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {why}; valid: {}", .why.hint())]
pub struct Refused {
    /// What the refusal is about.
    pub object: Object,
    /// What is wrong and what would be valid.
    pub why: Refusal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_with_what_why_and_what_would_be_valid() {
        let why = Refusal::OutOfRange { setting: "queues", value: 9, min: 1, max: 8, unit: "" };
        assert_eq!((why.code(), why.class().status()), ("out-of-range", 400));
        assert_eq!(
            why.of(Object::Port("web".into())).to_string(),
            "port 'web': queues 9 is out of range; valid: 1 to 8"
        );
    }

    #[test]
    fn a_hostile_value_cannot_break_the_line() {
        let line = Refusal::BadMac { text: "a\nb\u{1b}[2J".repeat(100) }
            .of(Object::Port("x\r\ny".into()))
            .to_string();
        assert!(!line.contains(char::is_control), "{line}");
        assert!(line.len() < 400, "{line}");
    }
}
