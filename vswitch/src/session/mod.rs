//! Sessions: what stateful rules remember.
//!
//! The first packet that a stateful rule allows opens a session for its port and addresses; then both directions pass
//! until nothing passed in either for the rule's idle timeout. Sessions are not policy: they outlive snapshots and are
//! shared by all workers.
//!
//! **Threads.** All methods may be called from any thread. A worker that has a [`Handle`] calls [`Sessions::touch`],
//! which takes no lock. The rest happens on a flow-cache miss or for a SYN, FIN or RST, and takes one lock for tens of
//! nanoseconds; work on many sessions takes it for `BATCH` of them at a time.
//!
//! **Time.** Timeouts count in milliseconds, rounded up, from the packet noted last. `touch` notes a packet only when
//! the one before is 64 ms (or an eighth of the timeout, if that is less) older, so a session can go this much early,
//! and up to a millisecond for rounding, never late. A clock that runs backwards between workers ages nothing.
//!
//! **Bounds**, so that one tenant cannot use up the table for another, nor a stranger a tenant's own:
//! - The table holds at most `limit` sessions, one port at most its *share*: an eighth of the limit, at least 64.
//! - A session is *weak* while only one side was heard (half-open TCP, TCP picked up in the middle, unanswered UDP) and
//!   once it is closing. At its share a port's own expired or longest idle weak session, of a few, makes room; never
//!   one that both sides use. If there is none, the packet is refused.
//! - When the table is full, a port with fewer sessions than the largest holder takes one from it, first of the same
//!   kinds, then the longest idle of a few; but not one in use while it has 16 weak ones of its own to give.
//!   If nobody has more, a weak one of the port with the most of those goes, if they are more than 16.
//!
//! A session takes about 130 bytes, allocated with the first of each thousand.

mod moves;
mod ranking;
mod slot;
mod table;
mod track;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

pub use moves::Saved;
pub use slot::Handle;
pub use track::{CLOSING, State};

use crate::{Direction, Nanos, PortId, Segment, Tally, hash};
use slot::{Slot, Slots};
use table::{Gone, Table};
pub(crate) use track::Track;

/// Smallest share of a port, in sessions (unless the whole table is smaller).
pub const MIN_SHARE: u32 = 64;

/// A bound that suits a switch of a hundred guests.
pub const DEFAULT_LIMIT: u32 = 131_072;

/// Most sessions any table may hold.
const MAX_LIMIT: u32 = 1 << 28;

/// Sessions handled at a time while the lock is held.
const BATCH: usize = 256;

/// What a session is about, seen from the port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Key {
    /// The port with the rule.
    pub port: PortId,
    /// The network the packets are in.
    pub segment: Segment,
    /// IP protocol.
    pub protocol: u8,
    /// The guest's address.
    pub local: IpAddr,
    /// Its peer's address.
    pub remote: IpAddr,
    /// The guest's TCP or UDP port.
    pub local_port: u16,
    /// Its peer's.
    pub remote_port: u16,
}

impl Key {
    fn hash(&self, seed: u64) -> u64 {
        let ports = u64::from(self.local_port) << 16 | u64::from(self.remote_port);
        let first = u64::from(self.port.0) << 40 | u64::from(self.protocol) << 32 | ports;
        let mut sum = hash::mix(seed, first);
        sum = match (self.local, self.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                hash::mix(sum, u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()))
            }
            (local, remote) => [local, remote]
                .into_iter()
                .map(wide)
                .fold(sum, |sum, address| hash::mix(hash::mix(sum, (address >> 64) as u64), address as u64)),
        };
        if self.segment == Segment::default() { sum } else { hash::mix(sum, u64::from(self.segment.0)) }
    }
}

fn wide(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// What the rule said that opened a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// The rule's direction, in which the first packet went.
    pub opened: Direction,
    /// The rule's weight.
    pub weight: u32,
    /// Time without a packet in either direction after which the session is gone.
    pub idle: Nanos,
    /// Where the rule's hits are counted.
    pub tally: Tally,
}

/// There is no room for a session of this port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the port has as many sessions as it may have")]
pub struct Full;

/// A session that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Names it.
    pub handle: Handle,
    /// What its rule said.
    pub grant: Grant,
    /// How far its connection is.
    pub state: State,
    track: Track,
}

impl Found {
    /// Whether a packet in this direction belongs to the session. `tcp_flags` is byte 13 of a TCP header, `None` for
    /// anything else. If not, the rules decide as if there were no session.
    pub fn admits(&self, direction: Direction, tcp_flags: Option<u8>) -> bool {
        self.track.admits(direction, tcp_flags)
    }

    /// Whether packets in this direction that neither open nor close a connection change nothing about the session but when
    /// it was last seen: then [`Sessions::touch`] is all that has to be done for each.
    pub fn is_steady(&self, direction: Direction, is_tcp: bool) -> bool {
        self.track.next(direction, is_tcp.then_some(track::ACK)) == self.track
    }
}

/// One session as shown to an operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// What it is about.
    pub key: Key,
    /// What its rule said.
    pub grant: Grant,
    /// How far its connection is.
    pub state: State,
    /// Milliseconds since it was opened.
    pub age_ms: u64,
    /// Milliseconds since a packet passed.
    pub idle_ms: u64,
    /// Milliseconds until it is gone, if no packet passes.
    pub expires_ms: u64,
}

/// What the table did since it was made: `opened - closed - expired - evicted` are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Sessions opened.
    pub opened: u64,
    /// Sessions that an operator, a change of rules, a removed port or a new connection of the same key ended.
    pub closed: u64,
    /// Sessions removed because nothing passed for their timeout.
    pub expired: u64,
    /// Sessions that made room for others.
    pub evicted: u64,
    /// Times a session was not opened because there was no room for it.
    pub refused: u64,
}

/// The table.
#[derive(Debug)]
pub struct Sessions {
    limit: u32,
    seed: u64,
    slots: Slots,
    table: RwLock<Table>,
    /// How often a session was opened or came to admit more, by the low bits of the keys' hashes; see
    /// [`Sessions::absence`].
    opened: Box<[AtomicU32]>,
}

/// Counters of opened sessions. Two keys with one counter cost a look at the rules more, nothing else.
const OPENED: usize = 4096;

impl Sessions {
    /// An empty table for at most `limit` sessions. `seed` must be secret and random: guests choose the keys.
    pub fn new(limit: u32, seed: u64) -> Self {
        let limit = limit.min(MAX_LIMIT);
        Self {
            limit,
            seed: hash::expand(seed, 3), // 1 and 2 are the forwarding database's, which may have the same seed
            slots: Slots::new(limit),
            table: RwLock::new(Table::new(limit, share(limit))),
            opened: (0..OPENED).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// A handle for there being no session with this key that admits a packet: it lives until one may have been opened or
    /// may admit more. To be taken before [`Sessions::find`]. So a verdict that was given because there was no session can
    /// be remembered too.
    pub fn absence(&self, key: &Key) -> Handle {
        let place = key.hash(self.seed) as usize % OPENED;
        let count = self.opened.get(place).map_or(0, |count| count.load(Ordering::Acquire));
        Handle::absence(place as u32, count)
    }

    /// The session with this key, unless it has expired. Changes nothing.
    pub fn find(&self, now: Nanos, key: &Key) -> Option<Found> {
        let hash = key.hash(self.seed);
        let table = self.read();
        let (slot, entry) = table.get(hash, key)?;
        let at = self.slots.get(slot).filter(|at| !at.is_expired(now))?;
        let track = at.track();
        Some(Found { handle: at.handle(slot)?, grant: entry.grant, state: track.state, track })
    }

    /// Notes that a packet passed, and what its TCP flags say. False if the session is gone or does not admit the packet;
    /// it must then be judged anew.
    ///
    /// A SYN of the opening side on a closing session begins another one under the same grant: the answer is true, and
    /// the handle names nothing afterwards.
    pub fn pass(&self, now: Nanos, handle: Handle, direction: Direction, tcp_flags: Option<u8>) -> bool {
        let Some(at) = self.slots.get(handle.index()).filter(|at| at.holds(handle)) else { return false };
        let track = at.track();
        if track.admits(direction, tcp_flags) && track.next(direction, tcp_flags) == track {
            return at.note(now, handle);
        }
        let passed = self.write().advance(&self.slots, now, handle, direction, tcp_flags);
        // It may now admit what it did not: an answered connection more than a half-open one.
        passed.inspect(|key| self.present(key.hash(self.seed))).is_some()
    }

    /// Whether the session lives; notes that a packet passed. For packets that need no further look: without SYN, FIN and
    /// RST, in a direction in which [`Sessions::pass`] has already seen one, with the session [`State::Established`] (or,
    /// in the opening direction, [`State::Open`]) at that time. Takes no lock.
    #[inline]
    pub fn touch(&self, now: Nanos, handle: Handle) -> bool {
        if let Some(place) = handle.absent() {
            let count = self.opened.get(place as usize).map(|count| count.load(Ordering::Acquire));
            return count == Some(handle.generation());
        }
        self.slots.get(handle.index()).is_some_and(|at| at.touch(now, handle))
    }

    /// Opens a session for a packet that a stateful rule has allowed. If another worker has just opened it, or the rules
    /// allow what the session there did not admit, the packet passes that one and its grant stays.
    ///
    /// A RST opens nothing: it may pass, and the handle is [`Handle::NONE`].
    pub fn open(&self, now: Nanos, key: Key, grant: Grant, tcp_flags: Option<u8>) -> Result<Handle, Full> {
        let hash = key.hash(self.seed);
        let opened = self.write().open(&self.slots, now, (hash, key), grant, tcp_flags);
        if opened.is_ok() {
            self.present(hash);
        }
        opened
    }

    /// Ends the absence of a key.
    fn present(&self, hash: u64) {
        if let Some(count) = self.opened.get(hash as usize % OPENED) {
            count.fetch_add(1, Ordering::Release);
        }
    }

    /// Whether [`Sessions::open`] would succeed for any packet that is not a RST (which always may pass). Changes nothing.
    pub fn would_open(&self, now: Nanos, key: &Key) -> bool {
        self.read().would_open(&self.slots, now, key.hash(self.seed), key)
    }

    /// Ends a session, if it is still there.
    pub fn close(&self, handle: Handle) {
        self.retire(&[handle], Gone::Closed, |_| true);
    }

    /// Gives a live session what a rule says now; the direction that opened it stays. False if it is gone.
    pub fn regrant(&self, handle: Handle, grant: Grant) -> bool {
        self.write().regrant(&self.slots, handle, grant)
    }

    /// Ends all sessions of a port and says how many that were. Those opened meanwhile stay.
    pub fn flush(&self, port: PortId) -> u64 {
        let handles = self.handles_of(port);
        self.retire(&handles, Gone::Closed, |_| true)
    }

    /// Ends all sessions of a port, forgets its records and says how many sessions that were. To be called when no worker
    /// has a snapshot with the port any more.
    pub fn remove_port(&self, port: PortId) -> u64 {
        let gone = self.flush(port);
        self.write().forget(port);
        gone
    }

    /// Removes what has expired and says how many sessions that were. To be called every few seconds. Nothing depends on
    /// it but the room that expired sessions take.
    pub fn age(&self, now: Nanos) -> u64 {
        let expired = self.slots.iter().filter(|(_, at)| at.is_expired(now));
        let handles: Vec<Handle> = expired.filter_map(|(slot, at)| at.handle(slot)).collect();
        self.retire(&handles, Gone::Expired, |at| at.is_expired(now))
    }

    /// Asks for every session, of one port or of all, what the rules now say: another grant, or `None` to end it. Says
    /// how many were ended. To be called when every worker has the snapshot with these rules: before, one could open a
    /// session by the old ones behind the back of this walk. `judge` is called without the lock.
    pub fn reconcile(
        &self,
        now: Nanos,
        port: Option<PortId>,
        mut judge: impl FnMut(&Key, &Grant) -> Option<Grant>,
    ) -> u64 {
        let handles = self.handles(port);
        let mut ended = 0;
        for batch in handles.chunks(BATCH) {
            let mut gone = Vec::new();
            let mut changed = Vec::new();
            for (handle, key, grant, _) in self.look(now, batch) {
                match judge(&key, &grant) {
                    None => gone.push(handle),
                    Some(new) if new != grant => changed.push((handle, new)),
                    Some(_) => {}
                }
            }
            if !changed.is_empty() {
                let mut table = self.write();
                for (handle, grant) in changed {
                    table.regrant(&self.slots, handle, grant);
                }
            }
            ended += self.retire(&gone, Gone::Closed, |_| true);
        }
        ended
    }

    /// The live sessions, of one port or of all, in no order. Sessions that come or go meanwhile may be missing.
    pub fn list(&self, now: Nanos, port: Option<PortId>) -> Vec<Shown> {
        let handles = self.handles(port);
        let shown = handles.chunks(BATCH).flat_map(|batch| self.look(now, batch));
        shown.map(|(_, _, _, shown)| shown).collect()
    }

    /// How many sessions there are, with those that have expired and were not removed yet.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most sessions the table holds.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The most sessions one port may have in it.
    pub fn share(&self) -> u32 {
        share(self.limit)
    }

    /// What the table did so far.
    pub fn counters(&self) -> Counters {
        self.read().counters
    }

    fn handles(&self, port: Option<PortId>) -> Vec<Handle> {
        match port {
            Some(port) => self.handles_of(port),
            None => self.slots.iter().filter_map(|(slot, at)| at.handle(slot)).collect(),
        }
    }

    fn handles_of(&self, port: PortId) -> Vec<Handle> {
        let table = self.read();
        table.held_by(port).filter_map(|slot| self.slots.get(slot)?.handle(slot)).collect()
    }

    /// Removes those of the sessions that are still there and still to go.
    fn retire(&self, handles: &[Handle], why: Gone, still: impl Fn(&Slot) -> bool) -> u64 {
        let mut gone = 0;
        for batch in handles.chunks(BATCH) {
            let mut table = self.write();
            for &handle in batch {
                if self.slots.get(handle.index()).is_some_and(|at| at.holds(handle) && still(at)) {
                    table.remove(&self.slots, handle.index(), why);
                    gone += 1;
                }
            }
        }
        gone
    }

    /// Copies the live ones of a few sessions.
    fn look(&self, now: Nanos, handles: &[Handle]) -> Vec<(Handle, Key, Grant, Shown)> {
        let table = self.read();
        let live = |handle: Handle| {
            let at = self.slots.get(handle.index()).filter(|at| at.holds(handle) && !at.is_expired(now))?;
            let entry = table.entry(handle.index())?;
            let idle_ms = at.idle_ms(now);
            let shown = Shown {
                key: entry.key,
                grant: entry.grant,
                state: at.track().state,
                age_ms: now.saturating_sub(entry.opened_at) / 1_000_000,
                idle_ms,
                expires_ms: at.timeout_ms().saturating_sub(idle_ms),
            };
            Some((handle, entry.key, entry.grant, shown))
        };
        handles.iter().filter_map(|&handle| live(handle)).collect()
    }

    // A poisoned lock means that a panic hit another thread between two of its steps. The table is still memory-safe and
    // bounded; at worst a session is missing, and sessions may always be missing.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn share(limit: u32) -> u32 {
    (limit / 8).max(MIN_SHARE).min(limit)
}
