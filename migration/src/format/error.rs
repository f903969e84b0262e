//! Why bytes are not a state. Every text has the offending value, its place, and what would be valid.

use super::{HEADER, MAGIC, VERSION};

/// Why bytes are not a port's state, or a state has no bytes. Offsets count from the beginning of the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not even a header.
    #[error("{length} bytes are not a port's state; its header alone has {HEADER}")]
    TooShort {
        /// How many there are.
        length: usize,
    },
    /// More than any state may have.
    #[error("the state has {length} bytes; at most {limit} are taken")]
    TooLarge {
        /// How many there are.
        length: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Something else.
    #[error("this is not a port's state: it begins with {found:02x?} instead of {MAGIC:02x?}")]
    Magic {
        /// The first bytes.
        found: [u8; 8],
    },
    /// A format that this build cannot read.
    #[error("the state has format version {major}; this switch reads version {}", VERSION.0)]
    Version {
        /// The major version.
        major: u16,
    },
    /// Bytes are missing at the end, or there are more.
    #[error("the state says that it has {said} bytes, but {length} are there")]
    Length {
        /// What its header says.
        said: u32,
        /// How many there are.
        length: usize,
    },
    /// Damaged.
    #[error("the state is damaged: its checksum is {said:08x}, that of its content {computed:08x}")]
    Checksum {
        /// What its header says.
        said: u32,
        /// What it should be.
        computed: u32,
    },
    /// Something is longer than what it is in.
    #[error("{field} at offset {offset} needs {need} bytes, but {have} are left")]
    Truncated {
        /// What was read.
        field: &'static str,
        /// Where.
        offset: usize,
        /// Bytes it needs.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// Something is shorter than what it is in.
    #[error("{field} is over at offset {offset}, but {extra} bytes follow in it")]
    Trailing {
        /// What was read.
        field: &'static str,
        /// Where it is over.
        offset: usize,
        /// Bytes that follow.
        extra: usize,
    },
    /// A field is there twice.
    #[error("field {number} of {group} is there again at offset {offset}; each may be there once")]
    Duplicate {
        /// Its group.
        group: &'static str,
        /// Its number.
        number: u16,
        /// Where it is there again.
        offset: usize,
    },
    /// A field stands behind one with a larger number.
    #[error("field {number} of {group} at offset {offset} stands behind field {before}; numbers ascend")]
    Order {
        /// Its group.
        group: &'static str,
        /// Its number.
        number: u16,
        /// The number before it.
        before: u16,
        /// Where it is.
        offset: usize,
    },
    /// A field is not there.
    #[error("{field} is missing; version {} of the format requires it", VERSION.0)]
    Missing {
        /// What should be there.
        field: &'static str,
    },
    /// A field of a newer version that may not be overlooked.
    #[error(
        "field {number} of {group} at offset {offset} is not known here and must not be ignored; \
         take the port to a switch as new as the one it comes from"
    )]
    Critical {
        /// Its group.
        group: &'static str,
        /// Its number.
        number: u16,
        /// Where it is.
        offset: usize,
    },
    /// A value that no port has.
    #[error("{field} at offset {offset} is {value}; valid: {valid}")]
    Value {
        /// What was read.
        field: &'static str,
        /// Where.
        offset: usize,
        /// What it is.
        value: String,
        /// What it may be.
        valid: &'static str,
    },
    /// A list is longer than that of any port.
    #[error("{field} has more than {limit} entries: another begins at offset {offset}")]
    TooMany {
        /// The list.
        field: &'static str,
        /// Entries it may have.
        limit: usize,
        /// Where the first is that is too much.
        offset: usize,
    },
    /// An entry is in a list twice.
    #[error("{field} has {value} twice; each may be there once")]
    Twice {
        /// The list.
        field: &'static str,
        /// What is there twice.
        value: String,
    },
    /// A state that says something which its bytes cannot say, such as a session between an IPv4 and an IPv6 address.
    #[error(
        "the state has no bytes that mean the same; its lists are not in order or its values contradict each other"
    )]
    NotSame,
}
