//! Port ACLs: which addresses a port may talk to, and on whose account its bytes go.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Direction, Mac, Tally};

/// What an entry does with a frame that it matches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The frame passes.
    Allow,
    /// The frame is dropped, and counted as an attempt.
    Deny,
    /// The frame is counted; whether it passes is for others to say.
    Meter,
}

/// Which of the two addresses of a frame an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Applies {
    /// The guest's own address: source of what it sends, destination of what it receives.
    Local,
    /// Its peer's address.
    Remote,
}

/// What an entry matches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// Every IPv4 and IPv6 address: prefix length 0 in both families.
    Any,
    /// Every MAC address.
    AnyMac,
    /// One MAC address.
    Mac(Mac),
    /// One IP address or prefix (host bits are zero).
    Ip(IpNet),
}

/// One entry of a port's ACL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The direction it is evaluated in.
    pub direction: Direction,
    /// Which address it is about.
    pub applies: Applies,
    /// What it matches.
    pub address: Address,
    /// What it does.
    pub action: Action,
    /// Where its hits are counted (deny and meter).
    pub tally: Tally,
}

/// The addresses of a frame, seen from the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The guest's MAC address in this frame.
    pub local_mac: Mac,
    /// Its peer's.
    pub remote_mac: Mac,
    /// IP addresses (local, remote), if it is an IP packet.
    pub ip: Option<(IpAddr, IpAddr)>,
}

/// What the ACL says about a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answer<'a> {
    /// The entry that denies it.
    pub denied_by: Option<&'a Entry>,
    /// The IP meter it is counted on.
    pub ip_meter: Tally,
    /// The MAC meter it is counted on.
    pub mac_meter: Tally,
}

/// A port's compiled ACL.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
}

impl Table {
    /// Compiles entries.
    pub fn new(entries: &[Entry]) -> Self {
        Self { entries: entries.to_vec() }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
