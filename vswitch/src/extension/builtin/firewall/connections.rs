//! The connections of one port: bounded, and forgotten when they are silent.
//!
//! A connection is *weak* while only one side was heard, and once it is closing. At its share a port's own expired or longest idle weak
//! connection, of a few, makes room; never one that both sides use. All ports together have a bound too; under it a port
//! may still have [`LEAST`], so that no tenant can leave another without any.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::config::Timeouts;
use super::packet::{ACK, Key, Packet, Part};
use crate::frame::protocol;
use crate::frame::tcp::flag;
use crate::hash::Seeded;
use crate::{Direction, Nanos};

/// Connections that a port may have when all ports together have as many as they may.
pub(super) const LEAST: usize = 64;

/// Weak connections that are compared to make room for one, and connections that are looked at to find them.
const WEAK: usize = 8;
const LOOKS: usize = 256;

/// Connections that a sweep looks at, at least.
const SWEPT: usize = 8;

/// Packets with payload, in each direction, whose beginning is compared with what is known to be bad.
pub(super) const INSPECTED: u8 = 4;

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// TCP: the first segment was seen. Others: the first packet.
    Opening,
    /// TCP: it was answered, and that was not acknowledged yet.
    Answered,
    /// TCP: it was met in its middle, and only one side was heard.
    Met,
    /// Both sides were heard.
    Open,
    /// TCP: both sides have no more to say.
    Closing,
}

impl State {
    pub(super) const ALL: [Self; 5] = [Self::Opening, Self::Answered, Self::Met, Self::Open, Self::Closing];
}

/// One connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Connection {
    pub(super) key: Key,
    /// Who opened it: the guest (`Out`) or its peer.
    pub(super) opener: Direction,
    pub(super) state: State,
    /// Whether each side has no more to say, by direction.
    pub(super) ended: [bool; 2],
    /// The last packet.
    pub(super) seen: Nanos,
    /// Packets whose payload was inspected, by direction.
    pub(super) inspected: [u8; 2],
}

impl Connection {
    /// One that this packet opens.
    pub(super) fn opened(now: Nanos, packet: &Packet<'_>) -> Self {
        let state = match packet.part {
            Part::Segment(_) if !packet.is_first() => State::Met,
            _ => State::Opening,
        };
        let (key, opener) = (packet.key, packet.direction);
        Self { key, opener, state, ended: [false; 2], seen: now, inspected: [0; 2] }
    }

    pub(super) fn half_open(&self) -> bool {
        self.key.protocol == protocol::TCP && matches!(self.state, State::Opening | State::Answered)
    }

    fn is_weak(&self) -> bool {
        self.state != State::Open
    }

    fn lasts(&self, timeouts: &Timeouts) -> Nanos {
        match (self.key.protocol, self.state) {
            (protocol::TCP, State::Opening | State::Answered | State::Met) => timeouts.opening,
            (protocol::TCP, State::Open) => timeouts.tcp,
            (protocol::TCP, State::Closing) => timeouts.closing,
            (protocol::UDP, _) => timeouts.udp,
            _ => timeouts.other,
        }
    }

    pub(super) fn is_over(&self, now: Nanos, timeouts: &Timeouts) -> bool {
        now.saturating_sub(self.seen) > self.lasts(timeouts)
    }

    /// Whether a packet belongs to it, and the rules need not be asked. A first segment never does (but for one that is sent again), or
    /// what one side opened would be open for the other's connections too.
    pub(super) fn admits(&self, packet: &Packet<'_>) -> bool {
        let again = packet.direction == self.opener && matches!(self.state, State::Opening | State::Answered);
        !packet.is_first() || again
    }

    /// A packet of it passed. False = that was its end.
    pub(super) fn advance(&mut self, now: Nanos, packet: &Packet<'_>) -> bool {
        // Workers' clocks may differ a little. What has ended is not kept by those who go on sending.
        if self.state != State::Closing {
            self.seen = self.seen.max(now);
        }
        let reverse = packet.direction != self.opener;
        let Part::Segment(flags) = packet.part else {
            if reverse {
                self.state = State::Open;
            }
            return true;
        };
        if flags & flag::RST != 0 {
            return false;
        }
        self.state = match self.state {
            State::Opening if reverse && flags & flag::SYN != 0 && flags & ACK != 0 => State::Answered,
            State::Answered if !reverse && flags & flag::SYN == 0 => State::Open,
            State::Met if reverse => State::Open,
            other => other,
        };
        if flags & flag::FIN != 0 {
            self.ended[packet.direction as usize] = true;
        }
        if self.ended == [true; 2] {
            self.state = State::Closing;
        }
        true
    }
}

/// What all ports have together.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) timeouts: Timeouts,
    /// Connections of one port, and of all.
    pub(super) share: u32,
    pub(super) most: u32,
    /// How many there are.
    pub(super) total: AtomicU32,
}

/// There is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Full;

/// The connections of one port.
#[derive(Debug)]
pub(super) struct Table {
    places: HashMap<Key, u32, Seeded>,
    all: Vec<Connection>,
    /// How many there are between two hosts, for packets that show no ports.
    pairs: HashMap<Key, u32, Seeded>,
    /// Where the next look for what is over begins.
    cursor: usize,
}

impl Table {
    pub(super) fn new(seed: u64) -> Self {
        let (places, pairs) = (HashMap::with_hasher(Seeded(seed)), HashMap::with_hasher(Seeded(!seed)));
        Self { places, all: Vec::new(), pairs, cursor: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.all.iter()
    }

    /// The connection of this key, unless it was silent for too long.
    pub(super) fn find(&self, key: &Key, now: Nanos, room: &Room) -> Option<&Connection> {
        let place = *self.places.get(key)?;
        self.all.get(place as usize).filter(|connection| !connection.is_over(now, &room.timeouts))
    }

    pub(super) fn find_mut(&mut self, key: &Key) -> Option<&mut Connection> {
        let place = *self.places.get(key)?;
        self.all.get_mut(place as usize)
    }

    /// Whether there is any connection between the two hosts in this protocol.
    pub(super) fn joins(&self, pair: &Key) -> bool {
        self.pairs.contains_key(pair)
    }

    /// Takes one in; what there was under the same key goes, and `each` hears of it and of what had to make room.
    pub(super) fn insert(
        &mut self,
        now: Nanos,
        connection: Connection,
        room: &Room,
        mut each: impl FnMut(&Connection),
    ) -> Result<(), Full> {
        if let Some(gone) = self.remove(&connection.key, room) {
            each(&gone);
        }
        let crowded = self.all.len() >= LEAST && room.total.load(Ordering::Relaxed) >= room.most;
        if self.all.len() >= room.share as usize || crowded {
            let victim = self.victim(now, room).ok_or(Full)?;
            if let Some(gone) = self.remove(&victim, room) {
                each(&gone);
            }
        }
        let place = self.all.len() as u32;
        self.places.insert(connection.key, place);
        *self.pairs.entry(connection.key.pair()).or_default() += 1;
        self.all.push(connection);
        room.total.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &Key, room: &Room) -> Option<Connection> {
        let place = self.places.remove(key)? as usize;
        if place >= self.all.len() {
            return None;
        }
        let gone = self.all.swap_remove(place);
        if let Some(moved) = self.all.get(place) {
            self.places.insert(moved.key, place as u32);
        }
        let pair = key.pair();
        if let Some(count) = self.pairs.get_mut(&pair) {
            *count -= 1;
            if *count == 0 {
                self.pairs.remove(&pair);
            }
        }
        room.total.fetch_sub(1, Ordering::Relaxed);
        Some(gone)
    }

    /// Which of a few can go.
    fn victim(&mut self, now: Nanos, room: &Room) -> Option<Key> {
        let (mut best, mut weak): (Option<&Connection>, usize) = (None, 0);
        for _ in 0..LOOKS.min(self.all.len()) {
            self.cursor = (self.cursor + 1) % self.all.len();
            let one = self.all.get(self.cursor)?;
            if one.is_over(now, &room.timeouts) {
                return Some(one.key);
            }
            if !one.is_weak() {
                continue;
            }
            weak += 1;
            if best.is_none_or(|best| one.seen < best.seen) {
                best = Some(one);
            }
            if weak == WEAK {
                break;
            }
        }
        best.map(|one| one.key)
    }

    /// Looks at some of them, and removes those that were silent for too long; `each` hears of them.
    pub(super) fn sweep(&mut self, now: Nanos, room: &Room, mut each: impl FnMut(&Connection)) {
        let looks = (self.all.len() / 32).max(SWEPT);
        for _ in 0..looks {
            if self.cursor >= self.all.len() {
                self.cursor = 0;
            }
            let Some(one) = self.all.get(self.cursor) else { return };
            if !one.is_over(now, &room.timeouts) {
                self.cursor += 1;
                continue;
            }
            // The last one takes its place, and is looked at next.
            let key = one.key;
            if let Some(gone) = self.remove(&key, room) {
                each(&gone);
            }
        }
    }

    /// Removes those that are not to stay; `each` hears of them.
    pub(super) fn retain(
        &mut self,
        room: &Room,
        stays: impl Fn(&Connection) -> bool,
        mut each: impl FnMut(&Connection),
    ) {
        let going: Vec<Key> = self.all.iter().filter(|one| !stays(one)).map(|one| one.key).collect();
        for key in going {
            if let Some(gone) = self.remove(&key, room) {
                each(&gone);
            }
        }
    }
}
