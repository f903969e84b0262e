//! Why a change was refused: the one list of refusals.
//!
//! A refusal names three things: the object it is about ([`Object`]), what is wrong with the offending value
//! (the text of [`Refusal`]) and what would be valid ([`Refusal::hint`]). The command line prints them as one line, the
//! API as one JSON object. A refused change leaves everything as it was.

mod hint;
mod kind;
mod nv;

use std::fmt;

pub use self::kind::Refusal;
pub use self::nv::NvRefusal;

use crate::port::PortKind;
use crate::snapshot::SwitchKind;

/// What a refusal is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A port, by name.
    Port(String),
    /// An uplink, by name.
    Uplink(String),
    /// One of several list entries of a port that were given together, counted from 1.
    Element {
        /// The port, by name.
        port: Box<str>,
        /// What the list consists of.
        what: &'static str,
        /// Which one of those given.
        position: u32,
    },
    /// An extension, by name.
    Extension(String),
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
    /// A configuration file.
    File {
        /// Its path.
        path: String,
        /// The line, counted from 1.
        line: Option<u32>,
    },
    /// The state directory, by path.
    State(String),
    /// An object of network virtualization.
    Nv {
        /// What kind of object it is.
        noun: &'static str,
        /// Its name among those of its kind.
        key: String,
    },
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(name) => write!(f, "port '{}'", Shown(name)),
            Self::Uplink(name) => write!(f, "uplink '{}'", Shown(name)),
            Self::Element { port, what, position } => write!(f, "port '{}', {what} {position}", Shown(port)),
            Self::Extension(name) => write!(f, "extension '{}'", Shown(name)),
            Self::Switch => f.write_str("switch"),
            Self::Request => f.write_str("request"),
            Self::Caller => f.write_str("caller"),
            Self::Option(option) => f.write_str(option),
            Self::Api(path) => write!(f, "API socket '{}'", Shown(path)),
            Self::File { path, line: None } => write!(f, "file '{}'", Shown(path)),
            Self::File { path, line: Some(line) } => write!(f, "file '{}', line {line}", Shown(path)),
            Self::State(path) => write!(f, "state '{}'", Shown(path)),
            Self::Nv { noun, key } if key.is_empty() => f.write_str(noun),
            Self::Nv { noun, key } => write!(f, "{noun} '{}'", Shown(key)),
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

/// The one line that a refusal is for people.
pub fn line(object: &str, message: &str, reason: Option<u16>, hint: &str) -> String {
    match reason {
        Some(number) => format!("{object}: {message} (reason {number}); valid: {hint}"),
        None => format!("{object}: {message}; valid: {hint}"),
    }
}

/// A refusal together with what it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", line(&.object.to_string(), &.why.to_string(), .why.reason(), &.why.hint()))]
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
