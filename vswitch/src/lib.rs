//! The switch that decides.
//!
//! Given the first bytes of a frame, the port it came from and a time, this crate says what is to happen with it.
//! It does no I/O, reads no clock, spawns no thread and has no `unsafe`: any network, any failure and any year of
//! simulated time runs in a unit test.
#![forbid(unsafe_code)]

pub mod announce;
pub mod event;
pub mod explain;
pub mod extension;
pub mod fdb;
pub mod flow;
mod forward;
pub mod frame;
mod hash;
pub mod nv;
pub mod pipeline;
pub mod port;
pub mod refusal;
pub mod session;
pub mod snapshot;
pub mod state;
pub mod trace;
pub mod verdict;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Monotonic time in nanoseconds since an arbitrary start, always given by the caller.
pub type Nanos = u64;

/// Bytes of a frame that policy looks at. A longer frame is judged by its first `HEAD_LEN` bytes only.
pub const HEAD_LEN: usize = 192;

/// A port's number: 1 or more, unique in the switch, and small enough to index a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortId(pub u16);

impl PortId {
    /// Whose a frame is that an extension adds without a port of which it is to be.
    pub const SWITCH: Self = Self(0);

    /// The number as an index into a table with one slot per possible port.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which way a frame goes, seen from the guest behind the port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The guest sends (Hyper-V: Outbound). Its own address is the source.
    Out,
    /// The guest receives (Hyper-V: Inbound). Its own address is the destination.
    In,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Out => Self::In,
            Self::In => Self::Out,
        }
    }

    /// `out` or `in`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where packets and bytes of one ACL entry or rule are counted: a slot in the counters of each worker, given out by the
/// control plane. The switch only says which slot a frame belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tally(pub u32);

impl Tally {
    /// Nothing is counted.
    pub const NONE: Self = Self(0);
}

/// The layer-2 network a frame is in: 0 = untagged, 1 to 4094 = that VLAN, 4096 and more = that virtual subnet (VSID).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Segment(pub u32);

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the address names a group: broadcast or multicast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The address as a number below 2^48, for table keys.
    pub const fn to_u64(self) -> u64 {
        let m = &self.0;
        u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]])
    }

    /// The address that [`Mac::to_u64`] made into a number; higher bits are ignored.
    pub const fn from_u64(value: u64) -> Self {
        let v = value.to_be_bytes();
        Self([v[2], v[3], v[4], v[5], v[6], v[7]])
    }

    /// Whether the address may be the source of a frame and the address of a port: neither a group nor zero.
    pub fn is_valid_source(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }
}

/// Why a text is not an Ethernet address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a MAC address; write six hexadecimal bytes such as 52:54:00:12:34:56")]
pub struct MacParseError(String);

impl FromStr for Mac {
    type Err = MacParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = s.split([':', '-']);
        for byte in &mut bytes {
            *byte = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|c| c.is_ascii_hexdigit()))
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .ok_or_else(|| MacParseError(s.to_owned()))?;
        }
        if parts.next().is_some() { Err(MacParseError(s.to_owned())) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
