//! One customer network's ports and sessions.

use std::net::IpAddr;

use super::index::Index;
use super::{RECEIVED, Refused, SENT, Session, Share, idle};
use crate::frame::protocol;
use crate::nv::model::Rdid;
use crate::session::Track;
use crate::{Nanos, hash};

/// Sessions that are compared when one has to go.
const SAMPLE: usize = 64;

/// What has ports of its own. An echo's identifier is its inside port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Tcp,
    Udp,
    Echo,
}

const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Udp, Kind::Echo];

/// An inside end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Inside {
    pub(super) kind: Kind,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// A remote end. The port of an echo's is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct End {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// The inside end that an outside port stands for.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    inside: Inside,
    sessions: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The slot of its mapping, which has at least this session.
    mapping: u32,
    remote: End,
    track: Track,
    seen: Nanos,
}

/// The slot of a mapping is that of its kind and outside port; the slots of sessions are given out as they come.
#[derive(Debug)]
pub(super) struct Table {
    network: Rdid,
    seed: u64,
    first: u16,
    ports: u16,
    mappings: Box<[Option<Mapping>]>,
    /// A bit for each mapping: whether it is in use. Each kind begins with a word of its own.
    used: Box<[u64]>,
    by_inside: Index,
    sessions: Box<[Option<Entry>]>,
    by_remote: Index,
    free: Vec<u32>,
    /// Where the next search for a session that can go begins.
    hand: usize,
}

impl Table {
    pub(super) fn new(network: Rdid, seed: u64, first: u16, share: Share) -> Self {
        let mappings = usize::from(share.ports) * KINDS.len();
        let sessions = share.sessions as usize;
        Self {
            network,
            seed,
            first,
            ports: share.ports,
            mappings: vec![None; mappings].into_boxed_slice(),
            used: vec![0; words(share.ports) * KINDS.len()].into_boxed_slice(),
            by_inside: Index::new(mappings),
            sessions: vec![None; sessions].into_boxed_slice(),
            by_remote: Index::new(sessions),
            free: (0..share.sessions).rev().collect(),
            hand: 0,
        }
    }

    pub(super) fn network(&self) -> Rdid {
        self.network
    }

    /// The outside port of a packet from inside, which belongs to a session from now on.
    pub(super) fn send(
        &mut self,
        now: Nanos,
        inside: Inside,
        remote: End,
        flags: Option<u8>,
    ) -> Result<u16, Refused> {
        if let Some(mapping) = self.mapping_of(inside)
            && let Some(slot) = self.session_of(mapping, remote)
        {
            if self.refresh(now, slot, inside.kind, flags, true) {
                return Ok(self.port(mapping));
            }
            self.remove(slot);
        }
        let track = Track::first(SENT, flags).ok_or(Refused::NoSession)?;
        if self.free.is_empty() {
            self.make_room(now)?;
        }
        // Only now: making room may have taken the mapping with its last session.
        let mapping = match self.mapping_of(inside) {
            Some(mapping) => mapping,
            None => self.map(now, inside)?,
        };
        let slot = self.free.pop().ok_or(Refused::Full)?;
        if let (Some(entry), Some(Some(mapped))) =
            (self.sessions.get_mut(slot as usize), self.mappings.get_mut(mapping as usize))
        {
            *entry = Some(Entry { mapping, remote, track, seen: now });
            mapped.sessions += 1;
            self.by_remote.insert(self.hash_remote(mapping, remote), slot);
        }
        Ok(self.port(mapping))
    }

    /// The inside end that a packet from outside goes to, if it belongs to a session.
    pub(super) fn receive(
        &mut self,
        now: Nanos,
        kind: Kind,
        port: u16,
        remote: End,
        flags: Option<u8>,
    ) -> Option<Inside> {
        let mapping = self.slot(kind, port)?;
        let inside = (*self.mappings.get(mapping as usize)?)?.inside;
        let slot = self.session_of(mapping, remote)?;
        self.refresh(now, slot, kind, flags, false).then_some(inside)
    }

    /// The inside end of a session that is alive, whatever that is worth: nothing changes.
    pub(super) fn inside(&self, now: Nanos, kind: Kind, port: u16, remote: End) -> Option<Inside> {
        let mapping = self.slot(kind, port)?;
        let inside = (*self.mappings.get(mapping as usize)?)?.inside;
        self.is_alive(now, self.session_of(mapping, remote)?).then_some(inside)
    }

    /// The outside port of a session that is alive; nothing changes.
    pub(super) fn outside(&self, now: Nanos, inside: Inside, remote: End) -> Option<u16> {
        let mapping = self.mapping_of(inside)?;
        self.is_alive(now, self.session_of(mapping, remote)?).then(|| self.port(mapping))
    }

    /// Forgets those of the next `count` sessions that have expired. Returns how many.
    pub(super) fn collect(&mut self, now: Nanos, count: usize) -> usize {
        let mut gone = 0;
        for _ in 0..count.min(self.sessions.len()) {
            let slot = self.step();
            if self.sessions.get(slot as usize).is_some_and(Option::is_some) && !self.is_alive(now, slot) {
                self.remove(slot);
                gone += 1;
            }
        }
        gone
    }

    pub(super) fn list(&self, now: Nanos) -> Vec<Session> {
        let one = |slot: u32| {
            let entry = self.entry(slot)?;
            let inside = self.mappings.get(entry.mapping as usize)?.as_ref()?.inside;
            Some(Session {
                protocol: match (inside.kind, inside.address) {
                    (Kind::Tcp, _) => protocol::TCP,
                    (Kind::Udp, _) => protocol::UDP,
                    (Kind::Echo, IpAddr::V4(_)) => protocol::ICMP,
                    (Kind::Echo, IpAddr::V6(_)) => protocol::ICMPV6,
                },
                inside: (inside.address, inside.port),
                outside: self.port(entry.mapping),
                remote: (entry.remote.address, entry.remote.port),
                state: entry.track.state,
                idle: now.saturating_sub(entry.seen),
            })
        };
        let alive = (0..self.sessions.len() as u32).filter(|&slot| self.is_alive(now, slot));
        alive.filter_map(one).collect()
    }

    // === sessions ===

    fn entry(&self, slot: u32) -> Option<&Entry> {
        self.sessions.get(slot as usize)?.as_ref()
    }

    fn session_of(&self, mapping: u32, remote: End) -> Option<u32> {
        let is = |slot| self.entry(slot).is_some_and(|e| e.mapping == mapping && e.remote == remote);
        self.by_remote.find(self.hash_remote(mapping, remote), is)
    }

    fn is_alive(&self, now: Nanos, slot: u32) -> bool {
        let Some(entry) = self.entry(slot) else { return false };
        let kind = KINDS.get(entry.mapping as usize / usize::from(self.ports)).copied().unwrap_or(Kind::Echo);
        now.saturating_sub(entry.seen) <= idle(kind, entry.track.state)
    }

    /// A packet of a session came. `false` if the session has expired or does not admit it.
    fn refresh(&mut self, now: Nanos, slot: u32, kind: Kind, flags: Option<u8>, sent: bool) -> bool {
        let direction = if sent { SENT } else { RECEIVED };
        let Some(Some(entry)) = self.sessions.get_mut(slot as usize) else { return false };
        if now.saturating_sub(entry.seen) > idle(kind, entry.track.state)
            || !entry.track.admits(direction, flags)
        {
            return false;
        }
        entry.track = entry.track.next(direction, flags);
        entry.seen = entry.seen.max(now);
        true
    }

    /// Frees a slot: of expired sessions, or else of the one that was quiet longest of those that nobody answered or that are over. What
    /// is in use stays.
    fn make_room(&mut self, now: Nanos) -> Result<(), Refused> {
        let begin = self.hand;
        if self.collect(now, SAMPLE) > 0 {
            return Ok(());
        }
        let len = self.sessions.len();
        let sample = (0..SAMPLE.min(len)).map(|n| ((begin + n) % len) as u32);
        let weak = sample.filter(|&slot| self.entry(slot).is_some_and(|entry| entry.track.is_weak()));
        let victim = weak.min_by_key(|&slot| self.entry(slot).map_or(0, |entry| entry.seen));
        self.remove(victim.ok_or(Refused::Full)?);
        Ok(())
    }

    /// Forgets a session, and its mapping with the last one.
    fn remove(&mut self, slot: u32) {
        let Some(entry) = self.sessions.get_mut(slot as usize).and_then(Option::take) else { return };
        self.by_remote.remove(self.hash_remote(entry.mapping, entry.remote), slot);
        self.free.push(slot);
        let Some(place) = self.mappings.get_mut(entry.mapping as usize) else { return };
        let Some(mapping) = place else { return };
        mapping.sessions = mapping.sessions.saturating_sub(1);
        if mapping.sessions == 0 {
            let inside = mapping.inside;
            *place = None;
            self.by_inside.remove(self.hash_inside(inside), entry.mapping);
            let (word, bit) = self.bit(entry.mapping);
            if let Some(word) = self.used.get_mut(word) {
                *word &= !bit;
            }
        }
    }

    fn step(&mut self) -> u32 {
        let slot = self.hand;
        self.hand = (slot + 1) % self.sessions.len();
        slot as u32
    }

    fn hash_remote(&self, mapping: u32, remote: End) -> u64 {
        hash_end(self.seed ^ u64::from(mapping), remote.address, remote.port)
    }

    // === mappings ===

    fn mapping_of(&self, inside: Inside) -> Option<u32> {
        let is = |slot: u32| {
            self.mappings.get(slot as usize).and_then(Option::as_ref).is_some_and(|m| m.inside == inside)
        };
        self.by_inside.find(self.hash_inside(inside), is)
    }

    /// Gives an inside end a port that no other of its kind has. Which one it tries first cannot be foretold from outside (RFC 6056).
    fn map(&mut self, now: Nanos, inside: Inside) -> Result<u32, Refused> {
        let hash = self.hash_inside(inside);
        let mut port = self.free_port(inside.kind, hash);
        if port.is_none() && self.collect(now, SAMPLE) > 0 {
            port = self.free_port(inside.kind, hash);
        }
        let mapping = inside.kind as u32 * u32::from(self.ports) + port.ok_or(Refused::NoPort)?;
        let (word, bit) = self.bit(mapping);
        if let (Some(place), Some(word)) = (self.mappings.get_mut(mapping as usize), self.used.get_mut(word))
        {
            *place = Some(Mapping { inside, sessions: 0 });
            *word |= bit;
            self.by_inside.insert(hash, mapping);
        }
        Ok(mapping)
    }

    /// The first free port of a kind, from somewhere in its range on and round it; counted from the first of the range.
    fn free_port(&self, kind: Kind, hash: u64) -> Option<u32> {
        let count = words(self.ports);
        let words_of = self.used.get(kind as usize * count..)?.get(..count)?;
        let start = (hash >> 32) as usize % count;
        // A word's bits from a certain one on, so that neighbours in one word are no neighbours in time.
        let turn = (hash >> 26) as u32 & 63;
        (0..count).map(|n| (start + n) % count).find_map(|at| {
            let valid = u32::from(self.ports) - at as u32 * 64;
            let mask = if valid >= 64 { u64::MAX } else { (1 << valid) - 1 };
            let open = !words_of.get(at)? & mask;
            let bit = (open.rotate_right(turn).trailing_zeros() + turn) & 63;
            (open != 0).then_some(at as u32 * 64 + bit)
        })
    }

    fn bit(&self, mapping: u32) -> (usize, u64) {
        let (kind, port) = (mapping / u32::from(self.ports), mapping % u32::from(self.ports));
        (kind as usize * words(self.ports) + port as usize / 64, 1 << (port % 64))
    }

    /// The outside port of a mapping.
    fn port(&self, mapping: u32) -> u16 {
        self.first + (mapping % u32::from(self.ports)) as u16
    }

    /// The slot of a mapping by its outside port.
    fn slot(&self, kind: Kind, port: u16) -> Option<u32> {
        let port = port.checked_sub(self.first).filter(|&port| port < self.ports)?;
        Some(kind as u32 * u32::from(self.ports) + u32::from(port))
    }

    fn hash_inside(&self, inside: Inside) -> u64 {
        hash_end(self.seed ^ (inside.kind as u64) << 32, inside.address, inside.port)
    }
}

/// Words of the bits of one kind.
const fn words(ports: u16) -> usize {
    (ports as usize).div_ceil(64)
}

fn hash_end(seed: u64, address: IpAddr, port: u16) -> u64 {
    let seed = hash::mix(seed, u64::from(port));
    match address {
        IpAddr::V4(address) => hash::mix(seed, u64::from(address.to_bits())),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            hash::mix(hash::mix(seed, (bits >> 64) as u64), bits as u64)
        }
    }
}
