//! Who tries what: scans, half-open connections and blocks, of a bounded number of sources at each port.
//!
//! What the guest sends has one source, the guest itself, because it may choose its addresses; what it receives has as many as there are
//! peers. A source that is blocked opens nothing; connections that it has stay, so that whoever forges a peer's address cannot cut
//! off that peer.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use super::config::{Flood, Scan};
use super::packet::{Key, Packet};
use crate::hash::Seeded;
use crate::{Direction, Nanos};

/// Places for sources: those of one set are taken by the ones that were heard last.
const SETS: usize = 64;
const WAYS: usize = 4;

/// Sources that are remembered at a port.
pub(super) const MOST: usize = SETS * WAYS;

/// Why a source is blocked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    Scan,
    Flood,
    Payload,
}

impl Why {
    pub(super) const ALL: [Self; 3] = [Self::Scan, Self::Flood, Self::Payload];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Scan => "port-scan",
            Self::Flood => "syn-flood",
            Self::Payload => "known-payload",
        }
    }
}

/// Who opens something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    Guest,
    Peer(IpAddr),
}

impl Source {
    pub(super) fn of(direction: Direction, key: &Key) -> Self {
        match direction {
            Direction::Out => Self::Guest,
            Direction::In => Self::Peer(key.remote),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Guest => f.write_str("the guest"),
            Self::Peer(address) => address.fmt(f),
        }
    }
}

/// What is known of a source.
#[derive(Clone, Debug)]
struct Record {
    source: Source,
    heard: Nanos,
    half_open: u32,
    /// When the window of a scan began, and what was tried in it.
    since: Nanos,
    ports: Vec<u16>,
    hosts: Vec<IpAddr>,
    blocked: Option<(Why, Nanos)>,
}

/// The sources of one port.
#[derive(Debug)]
pub(super) struct Sources {
    seed: Seeded,
    /// Empty until the first.
    places: Vec<Option<Record>>,
}

impl Sources {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed: Seeded(seed), places: Vec::new() }
    }

    fn set(&self, source: Source) -> usize {
        let mut hasher = self.seed.build_hasher();
        hasher.write_u128(match source {
            Source::Guest => u128::MAX,
            Source::Peer(IpAddr::V4(v4)) => u128::from(v4.to_bits()),
            Source::Peer(IpAddr::V6(v6)) => v6.to_bits(),
        });
        hasher.finish() as usize % SETS * WAYS
    }

    fn find(&self, source: Source) -> Option<&Record> {
        let at = self.set(source);
        let set = self.places.get(at..at + WAYS)?;
        set.iter().flatten().find(|record| record.source == source)
    }

    fn find_mut(&mut self, source: Source) -> Option<&mut Record> {
        let at = self.set(source);
        let set = self.places.get_mut(at..at + WAYS)?;
        set.iter_mut().flatten().find(|record| record.source == source)
    }

    /// The record of a source; if it has none it gets that of the one of its set that was heard longest ago, of those that are not blocked if
    /// there are any.
    fn record(&mut self, source: Source, now: Nanos) -> Option<&mut Record> {
        self.places.resize(MOST, None);
        let at = self.set(source);
        let set = self.places.get_mut(at..at + WAYS)?;
        let age = |place: &Option<Record>| match place {
            Some(record) if record.source == source => (0, 0),
            None => (1, 0),
            Some(record) if record.blocked.is_none_or(|(_, until)| until <= now) => (2, record.heard),
            Some(record) => (3, record.heard),
        };
        let place = set.iter_mut().min_by_key(|place| age(place))?;
        if !matches!(place, Some(record) if record.source == source) {
            let (ports, hosts) = (Vec::new(), Vec::new());
            *place =
                Some(Record { source, heard: now, half_open: 0, since: now, ports, hosts, blocked: None });
        }
        let record = place.as_mut()?;
        record.heard = record.heard.max(now);
        Some(record)
    }

    /// Why a source opens nothing now.
    pub(super) fn blocked(&self, source: Source, now: Nanos) -> Option<Why> {
        self.find(source)?.blocked.filter(|&(_, until)| until > now).map(|(why, _)| why)
    }

    /// A source is to open nothing until then.
    pub(super) fn block(&mut self, source: Source, why: Why, now: Nanos, until: Nanos) {
        if until <= now {
            return;
        }
        if let Some(record) = self.record(source, now) {
            record.blocked = Some((why, until));
        }
    }

    /// A packet that belongs to nothing; true = its source tried too many ports or hosts.
    pub(super) fn tries(&mut self, packet: &Packet<'_>, now: Nanos, scan: &Scan) -> bool {
        let source = Source::of(packet.direction, &packet.key);
        let (host, port) = match packet.direction {
            Direction::Out => (packet.key.remote, packet.key.ports.1),
            Direction::In => (packet.key.local, packet.key.ports.0),
        };
        let Some(record) = self.record(source, now) else { return false };
        if now.saturating_sub(record.since) > scan.window {
            (record.since, record.ports, record.hosts) = (now, Vec::new(), Vec::new());
        }
        let shows = matches!(packet.key.protocol, crate::frame::protocol::TCP | crate::frame::protocol::UDP);
        if shows && !record.ports.contains(&port) {
            record.ports.push(port);
        }
        if !record.hosts.contains(&host) {
            record.hosts.push(host);
        }
        let found = record.ports.len() > scan.ports || record.hosts.len() > scan.hosts;
        if found {
            (record.ports, record.hosts) = (Vec::new(), Vec::new());
        }
        found
    }

    /// A source is to have one connection more half open; true = that would be too many.
    pub(super) fn half_opens(&self, source: Source, flood: &Flood) -> bool {
        self.find(source).is_some_and(|record| record.half_open >= flood.half_open)
    }

    /// A connection of a source is half open from now on.
    pub(super) fn opened(&mut self, source: Source, now: Nanos) {
        if let Some(record) = self.record(source, now) {
            record.half_open = record.half_open.saturating_add(1);
        }
    }

    /// A connection of a source is no longer half open.
    pub(super) fn settled(&mut self, source: Source) {
        if let Some(record) = self.find_mut(source) {
            record.half_open = record.half_open.saturating_sub(1);
        }
    }

    /// Those that are blocked, why, and until when.
    pub(super) fn all_blocked(&self, now: Nanos) -> impl Iterator<Item = (Source, Why, Nanos)> {
        let of = move |record: &Record| {
            let (why, until) = record.blocked.filter(|&(_, until)| until > now)?;
            Some((record.source, why, until))
        };
        self.places.iter().flatten().filter_map(of)
    }

    pub(super) fn clear(&mut self) {
        self.places = Vec::new();
    }
}
