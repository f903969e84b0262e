//! The rules of a port: those of its sets in their order, of which the first that matches decides, and what happens if none does.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::Deserialize;

use super::packet::Key;
use crate::Direction;
use crate::frame::protocol;

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    /// The packet passes, and what belongs to its connection does.
    Allow,
    /// It ends here.
    Deny,
}

/// One rule. An empty list is any.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) action: Action,
    pub(super) direction: Direction,
    pub(super) protocol: Option<u8>,
    pub(super) local: Vec<IpNet>,
    pub(super) remote: Vec<IpNet>,
    pub(super) local_ports: Vec<RangeInclusive<u16>>,
    pub(super) remote_ports: Vec<RangeInclusive<u16>>,
}

/// All that a port is judged by.
#[derive(Debug)]
pub(super) struct Rules {
    sets: Vec<String>,
    list: Vec<Rule>,
    defaults: [Action; 2],
}

impl Rule {
    /// `ports` = the packet shows its ports. One that does not matches what denies whatever ports it names, and nothing that allows some
    /// only: half a packet gets no further than the whole would.
    fn matches(&self, direction: Direction, key: &Key, ports: bool) -> bool {
        let within = |list: &[IpNet], address: &IpAddr| {
            list.is_empty() || list.iter().any(|prefix| prefix.contains(address))
        };
        let among = |list: &[RangeInclusive<u16>], port: u16| {
            list.is_empty()
                || if ports {
                    list.iter().any(|range| range.contains(&port))
                } else {
                    self.action == Action::Deny
                }
        };
        self.direction == direction
            && self.protocol.is_none_or(|protocol| protocol == key.protocol)
            && within(&self.local, &key.local)
            && within(&self.remote, &key.remote)
            && among(&self.local_ports, key.ports.0)
            && among(&self.remote_ports, key.ports.1)
    }
}

impl Rules {
    pub(super) fn new(sets: Vec<String>, list: Vec<Rule>, defaults: [Action; 2]) -> Self {
        Self { sets, list, defaults }
    }

    /// The names of the sets.
    pub(super) fn sets(&self) -> &[String] {
        &self.sets
    }

    /// What the rules say about a packet that belongs to no connection.
    pub(super) fn decide(&self, direction: Direction, key: &Key, ports: bool) -> Action {
        let shows = ports || !matches!(key.protocol, protocol::TCP | protocol::UDP);
        let decisive = self.list.iter().find(|rule| rule.matches(direction, key, shows));
        decisive.map_or(self.defaults[direction as usize], |rule| rule.action)
    }
}
