//! Port ACLs: which addresses a port may talk to, and on whose account its bytes go.
//!
//! Entries have no order; among those of one direction the longest prefix decides:
//!
//! * The entries about the local and those about the remote address are asked separately, and the longer
//!   prefix of the two answers holds. Where both are equally long, a denial holds, so that a permission for
//!   one end never opens what is closed for the other.
//! * Entries about MAC addresses are asked independently of those about IP addresses, and both must let a
//!   frame pass. One MAC address is longer than every MAC address.
//! * A frame that no entry is about passes.
//! * Meters are a class of their own with the same precedence, and decide nothing: a frame is counted on one
//!   IP meter and on one MAC meter at most. Where the local and the remote address have equally long meters,
//!   the remote one counts: who the peer is says more about the price of a byte than which of its own
//!   addresses the guest used.
//!
//! A [`Table`] answers by binary search whatever the entries are (`intervals.rs`); it is immutable and may be
//! used from any thread.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::intervals::{Intervals, Number};
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

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Meter => "meter",
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::AnyMac => f.write_str("any-mac"),
            Self::Mac(mac) => mac.fmt(f),
            Self::Ip(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Ip(net) => net.fmt(f),
        }
    }
}

impl fmt::Display for Entry {
    /// As an operator writes it: `deny out remote 10.0.0.0/8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let applies = match self.applies {
            Applies::Local => "local",
            Applies::Remote => "remote",
        };
        write!(f, "{} {} {applies} {}", self.action, self.direction, self.address)
    }
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
    /// The entry that denies it; the one about MAC addresses if there are two.
    pub denied_by: Option<&'a Entry>,
    /// The IP meter it is counted on.
    pub ip_meter: Tally,
    /// The MAC meter it is counted on.
    pub mac_meter: Tally,
}

/// A port's compiled ACL.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    out: Ends,
    inward: Ends,
    looks_at_ip: bool,
    judges_ip: bool,
    looks_at_mac: bool,
}

/// Everything else follows from the entries.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for Table {}

impl Table {
    /// Compiles entries. Of several for the same prefix, end, direction and class a denial holds, otherwise
    /// the first listed; [`Address::Any`] is the same prefix as `0.0.0.0/0` and `::/0`.
    pub fn new(entries: &[Entry]) -> Self {
        let ends = |direction| {
            let end = |applies| {
                let of = |entry: &Entry| entry.direction == direction && entry.applies == applies;
                End::new(entries, |entry| of(entry))
            };
            Ends { local: end(Applies::Local), remote: end(Applies::Remote) }
        };
        let is_mac = |entry: &Entry| matches!(entry.address, Address::Mac(_) | Address::AnyMac);
        Self {
            out: ends(Direction::Out),
            inward: ends(Direction::In),
            looks_at_ip: entries.iter().any(|entry| !is_mac(entry)),
            judges_ip: entries.iter().any(|entry| !is_mac(entry) && entry.action != Action::Meter),
            looks_at_mac: entries.iter().any(is_mac),
            entries: entries.to_vec(),
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries as they were given.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether any entry allows or denies IP addresses, so that a packet must not hide its own.
    pub fn judges_ip(&self) -> bool {
        self.judges_ip
    }

    /// What the entries of a direction say about a frame.
    #[inline]
    pub fn look(&self, direction: Direction, packet: &Packet) -> Answer<'_> {
        let Ends { local, remote } = self.ends(direction);
        let mut answer = Answer::default();
        let mut denied = None;
        if self.looks_at_mac {
            let local = local.mac.find(packet.local_mac.to_u64());
            let remote = remote.mac.find(packet.remote_mac.to_u64());
            denied = Leaf::denied_by(local, remote);
            answer.mac_meter = Leaf::meter(local, remote);
        }
        if self.looks_at_ip
            && let Some((local_ip, remote_ip)) = packet.ip
        {
            let (local, remote) = (local.find(local_ip), remote.find(remote_ip));
            denied = denied.or(Leaf::denied_by(local, remote));
            answer.ip_meter = Leaf::meter(local, remote);
        }
        answer.denied_by = denied.and_then(|index| self.entries.get(index as usize));
        answer
    }

    /// The entry by which a port may not use an address as its own, whoever the peer is; what ARP and
    /// neighbour discovery claim is judged by this.
    pub fn denies_local(&self, direction: Direction, ip: IpAddr) -> Option<&Entry> {
        let index = Leaf::denied_by(self.ends(direction).local.find(ip), Leaf::default())?;
        self.entries.get(index as usize)
    }

    fn ends(&self, direction: Direction) -> &Ends {
        match direction {
            Direction::Out => &self.out,
            Direction::In => &self.inward,
        }
    }
}

/// The entries of one direction.
#[derive(Clone, Debug, Default)]
struct Ends {
    local: End,
    remote: End,
}

/// The entries of one direction that are about one end.
#[derive(Clone, Debug, Default)]
struct End {
    ipv4: Map<u32>,
    ipv6: Map<u128>,
    mac: Map<u64>,
}

/// One entry on its way into a map: the prefix, and what it says.
struct Line<N> {
    first: N,
    length: u8,
    index: u32,
    action: Action,
    tally: Tally,
}

impl End {
    fn new(entries: &[Entry], belongs: impl Fn(&Entry) -> bool) -> Self {
        let (mut ipv4, mut ipv6, mut mac) = (Vec::new(), Vec::new(), Vec::new());
        for (index, entry) in (0..).zip(entries).filter(|(_, entry)| belongs(entry)) {
            let (action, tally) = (entry.action, entry.tally);
            match entry.address {
                Address::Any => {
                    ipv4.push(Line { first: 0, length: 0, index, action, tally });
                    ipv6.push(Line { first: 0, length: 0, index, action, tally });
                }
                Address::Ip(IpNet::V4(net)) => {
                    let (first, length) = (net.network().into(), net.prefix_len());
                    ipv4.push(Line { first, length, index, action, tally });
                }
                Address::Ip(IpNet::V6(net)) => {
                    let (first, length) = (net.network().into(), net.prefix_len());
                    ipv6.push(Line { first, length, index, action, tally });
                }
                Address::AnyMac => mac.push(Line { first: 0, length: 0, index, action, tally }),
                // The numbers of MAC addresses are 64 bits long, the first 16 of which are 0.
                Address::Mac(address) => {
                    mac.push(Line { first: address.to_u64(), length: 64, index, action, tally });
                }
            }
        }
        Self { ipv4: Map::new(ipv4), ipv6: Map::new(ipv6), mac: Map::new(mac) }
    }

    #[inline]
    fn find(&self, ip: IpAddr) -> Leaf {
        match ip {
            IpAddr::V4(ip) => self.ipv4.find(ip.into()),
            IpAddr::V6(ip) => self.ipv6.find(ip.into()),
        }
    }
}

/// What the entries about one end say of an address: the longest of each class. A rank is a prefix length
/// plus one, or 0 for no entry.
#[derive(Clone, Copy, Debug, Default)]
struct Leaf {
    /// The entry that allows or denies.
    entry: u32,
    rank: u8,
    denies: bool,
    meter_rank: u8,
    meter: Tally,
}

impl Leaf {
    /// The entry by which two ends of a frame are denied together.
    #[inline]
    fn denied_by(local: Self, remote: Self) -> Option<u32> {
        let local_decides = local.rank > remote.rank || (local.rank == remote.rank && local.denies);
        let decides = if local_decides { local } else { remote };
        decides.denies.then_some(decides.entry)
    }

    /// The meter of two ends of a frame.
    #[inline]
    fn meter(local: Self, remote: Self) -> Tally {
        if local.meter_rank > remote.meter_rank { local.meter } else { remote.meter }
    }

    /// Takes in an entry that is at least as long as those before it.
    fn take<N>(&mut self, line: &Line<N>) {
        let rank = line.length + 1;
        if line.action == Action::Meter {
            (self.meter_rank, self.meter) = (rank, line.tally);
        } else {
            (self.rank, self.entry, self.denies) = (rank, line.index, line.action == Action::Deny);
        }
    }
}

/// Longest prefix by address.
#[derive(Clone, Debug)]
struct Map<N> {
    intervals: Intervals<N>,
    leaves: Vec<Leaf>,
}

impl<N> Default for Map<N> {
    fn default() -> Self {
        Self { intervals: Intervals::default(), leaves: Vec::new() }
    }
}

impl<N: Number> Map<N> {
    fn new(mut lines: Vec<Line<N>>) -> Self {
        // Shorter prefixes first, since a longer one is written over them; of those for one prefix and class
        // only the first is used.
        lines.sort_unstable_by_key(|line| {
            (line.length, line.first, line.action == Action::Meter, line.action == Action::Allow, line.index)
        });
        lines.dedup_by_key(|line| (line.length, line.first, line.action == Action::Meter));
        let prefixes: Vec<(N, u8)> = lines.iter().map(|line| (line.first, line.length)).collect();
        let (intervals, spans) = Intervals::new(&prefixes);
        let mut leaves = vec![Leaf::default(); intervals.count()];
        for (line, (first, last)) in lines.iter().zip(spans) {
            let covered = leaves.get_mut(first as usize..=last as usize).unwrap_or_default();
            for leaf in covered {
                leaf.take(line);
            }
        }
        Self { intervals, leaves }
    }

    #[inline]
    fn find(&self, number: N) -> Leaf {
        self.leaves.get(self.intervals.find(number)).copied().unwrap_or_default()
    }
}
