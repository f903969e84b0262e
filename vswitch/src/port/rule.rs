//! Extended rules.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::{Direction, Nanos, Segment, Tally};

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The packet passes.
    Allow,
    /// The packet is dropped.
    Deny,
}

/// One rule; a field that is `None` matches everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The direction it is evaluated in.
    pub direction: Direction,
    /// Rules of a direction are asked in descending order of weight; weights are unique in a direction.
    pub weight: u32,
    /// What it does.
    pub action: Action,
    /// The guest's address.
    pub local: Option<IpNet>,
    /// Its peer's address.
    pub remote: Option<IpNet>,
    /// The guest's TCP or UDP ports.
    pub local_ports: Option<RangeInclusive<u16>>,
    /// Its peer's.
    pub remote_ports: Option<RangeInclusive<u16>>,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// Allow only: the reverse direction passes too, until nothing passed for this long.
    pub stateful: Option<Nanos>,
    /// The one VLAN or virtual subnet it is about.
    pub isolation: Option<Segment>,
    /// Where its hits are counted.
    pub tally: Tally,
}

/// What rules look at, seen from the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// The guest's address.
    pub local: IpAddr,
    /// Its peer's address.
    pub remote: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// TCP or UDP ports (local, remote), where they can be seen.
    pub ports: Option<(u16, u16)>,
    /// A fragment other than the first: its ports cannot be seen.
    pub later_fragment: bool,
    /// The network it is in.
    pub segment: Segment,
}

/// A port's compiled rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rules: Vec<Rule>,
}

impl Table {
    /// Compiles rules.
    pub fn new(rules: &[Rule]) -> Self {
        Self { rules: rules.to_vec() }
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}
