//! The forwarding database: which learned address is behind which port.
//!
//! Configured addresses are not in here; the [`Snapshot`] knows them. One table is shared by all workers; its lock is
//! taken on a flow-cache miss and once a second per flow with a learned source, never per frame.
//!
//! Bounds, so that one tenant cannot fill or churn the table for another:
//! - The table holds at most `limit` entries, one port at most its *share*: an eighth of the limit, at least 64.
//! - When the table is full, a port with fewer entries than the largest holder takes one from it (the longest unseen of
//!   a few); so a port is refused only at its share, or when nobody has more than it has.
//! - Each change that voids cached verdicts costs a port one token of a bucket as deep as its share, refilled with
//!   [`CHANGES_PER_SECOND`]: two ports that fight over an address cannot keep every worker's flow cache cold.
//! - An entry that was not seen for [`IDLE`] is removed by [`Fdb::age`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

use crate::snapshot::Snapshot;
use crate::{Mac, Nanos, PortId, Segment, hash};

/// How long an entry lives without being seen, in nanoseconds (five minutes).
pub const IDLE: Nanos = 300 * SECOND;

/// New entries and moves a port may cause per second once its first share is used up.
pub const CHANGES_PER_SECOND: u32 = 64;

/// Smallest share of a port, in entries (unless the whole table is smaller).
pub const MIN_SHARE: u32 = 64;

const SECOND: Nanos = 1_000_000_000;

/// Entries of the largest holder that are compared when one has to go.
const EVICTION_SAMPLE: usize = 8;

/// How an address came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Configured for a port.
    Static,
    /// Seen as a source address.
    Learned,
}

/// One address as shown to an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The address.
    pub mac: Mac,
    /// The network it belongs to; that of a private VLAN is its primary.
    pub network: Segment,
    /// The port it is behind.
    pub port: PortId,
    /// How it is known.
    pub kind: EntryKind,
    /// Time since it was last seen, in milliseconds.
    pub age_ms: u64,
}

/// What came of a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was not known and is now.
    New,
    /// It was behind another port and is now behind this one.
    Moved {
        /// Where it was.
        from: PortId,
    },
    /// It was known to be there.
    Refreshed,
    /// The port has its share of the table, or the table is full; the address was not learned.
    Full,
    /// The port changed the table too often lately; the table was left as it is.
    Held,
    /// It is configured for another port and stays there.
    Pinned {
        /// The port it is configured for.
        owner: PortId,
    },
}

/// What the table did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Addresses learned.
    pub learned: u64,
    /// Addresses that moved to another port or to the uplink.
    pub moved: u64,
    /// Entries removed by age, by a removed or changed port, or for another port's share.
    pub purged: u64,
    /// Times an address was not learned because the table or a share was full.
    pub full: u64,
    /// Times an address was not learned because its port changed the table too often.
    pub held: u64,
}

/// The table. All methods may be called from any thread.
#[derive(Debug)]
pub struct Fdb {
    /// Grows with every change that can change a verdict.
    generation: AtomicU64,
    limit: AtomicU32,
    full: AtomicU64,
    held: AtomicU64,
    table: RwLock<Table>,
}

impl Fdb {
    /// An empty table for at most `limit` addresses. `seed` must be secret and random: guests choose the keys.
    pub fn new(limit: u32, seed: u64) -> Self {
        Self {
            generation: AtomicU64::new(0),
            limit: AtomicU32::new(limit),
            full: AtomicU64::new(0),
            held: AtomicU64::new(0),
            table: RwLock::new(Table {
                slots: HashMap::with_hasher(hash::Seeded(hash::expand(seed, 1))),
                ports: HashMap::with_hasher(hash::Seeded(hash::expand(seed, 2))),
                learned: 0,
                moved: 0,
                purged: 0,
            }),
        }
    }

    /// Notes that `port` sent with this source address. The caller has checked that the port may.
    pub fn learn(&self, now: Nanos, port: PortId, mac: Mac, network: Segment, snap: &Snapshot) -> Learned {
        if let Some(owner) = snap.owner(mac)
            && !snap.stands_in(port, owner)
        {
            // Configured while it was already learned somewhere: the configuration wins.
            return if owner == port { Learned::Refreshed } else { Learned::Pinned { owner } };
        }
        let key = key(mac, network);
        if let Some(slot) = self.read().slots.get(&key)
            && slot.port == port
        {
            slot.seen.fetch_max(now, Ordering::Relaxed);
            return Learned::Refreshed;
        }
        let (limit, share) = (self.limit() as usize, self.share());
        let mut table = self.write();
        let from = match table.slots.get(&key) {
            Some(slot) if slot.port == port => return Learned::Refreshed, // by another worker just now
            Some(slot) => Some(slot.port),
            None => None,
        };
        let holds = table.ports.get(&u64::from(port.0)).map_or(0, |p| p.keys.len());
        let room = holds < share as usize
            && (from.is_some()
                || table.slots.len() < limit
                || table.largest().is_some_and(|(_, n)| n > holds));
        if !room {
            self.full.fetch_add(1, Ordering::Relaxed);
            return Learned::Full;
        }
        if !table.port(port, share, now).take_token(share, now) {
            self.held.fetch_add(1, Ordering::Relaxed);
            return Learned::Held;
        }
        if from.is_some() {
            table.remove(key);
            table.moved += 1;
        } else {
            if table.slots.len() >= limit {
                table.evict_from_largest();
            }
            table.learned += 1;
        }
        table.insert(key, port, now);
        self.changed();
        from.map_or(Learned::New, |from| Learned::Moved { from })
    }

    /// The port behind which the address was learned.
    pub fn lookup(&self, mac: Mac, network: Segment) -> Option<PortId> {
        self.read().slots.get(&key(mac, network)).map(|slot| slot.port)
    }

    /// Puts addresses in that were learned behind a port on another switch, each with its network and age in milliseconds; says how
    /// many. What is configured for another port, idle for too long or above the port's share is left out.
    pub fn restore(&self, now: Nanos, port: PortId, learned: &[(Mac, Segment, u64)], snap: &Snapshot) -> u64 {
        let (limit, share) = (self.limit() as usize, self.share());
        let mut restored = 0;
        let mut table = self.write();
        table.port(port, share, now);
        for &(mac, network, age_ms) in learned {
            let key = key(mac, network);
            let age = age_ms.saturating_mul(1_000_000);
            let owner = snap.owner(mac);
            let foreign = owner.is_some_and(|owner| !snap.stands_in(port, owner));
            let uplink = Some(port) == snap.uplink() && owner.is_none();
            let holds = table.ports.get(&u64::from(port.0)).map_or(0, |holder| holder.keys.len());
            if foreign || uplink || age >= IDLE || holds >= share as usize {
                continue;
            }
            table.remove(key);
            if table.slots.len() >= limit && !table.evict_from_largest() {
                continue;
            }
            table.insert(key, port, now.saturating_sub(age));
            restored += 1;
        }
        if restored > 0 {
            self.changed();
        }
        restored
    }

    /// Removes one address because it turned up where nothing is learned; says where it was.
    pub fn forget(&self, mac: Mac, network: Segment) -> Option<PortId> {
        let key = key(mac, network);
        if !self.read().slots.contains_key(&key) {
            return None;
        }
        let mut table = self.write();
        let from = table.remove(key)?;
        table.moved += 1;
        self.changed();
        Some(from)
    }

    /// Removes what was not seen for [`IDLE`] and says how many entries that were. To be called every few seconds.
    pub fn age(&self, now: Nanos) -> u64 {
        self.purge(|_, slot| now.saturating_sub(slot.seen.load(Ordering::Relaxed)) >= IDLE)
    }

    /// Removes everything learned behind a port, and the port's own records; says how many entries that were. To be
    /// called when no worker has a snapshot with the port any more.
    pub fn remove_port(&self, id: PortId) -> u64 {
        let mut table = self.write();
        let Some(holder) = table.ports.remove(&u64::from(id.0)) else { return 0 };
        for key in &holder.keys {
            table.slots.remove(key);
        }
        let purged = holder.keys.len() as u64;
        table.purged += purged;
        if purged > 0 {
            self.changed();
        }
        purged
    }

    /// Removes what policy no longer allows: entries of ports that are gone or may have no learned addresses any more,
    /// addresses that are now configured, and those of ports whose guest is here again. To be called after a snapshot was published.
    pub fn reconcile(&self, snap: &Snapshot) -> u64 {
        self.purge(|key, slot| {
            let allowed = snap.port(slot.port).is_some_and(crate::port::Port::learns);
            match snap.owner(Mac::from_u64(key as u64)) {
                Some(owner) => !snap.stands_in(slot.port, owner),
                None => !allowed,
            }
        })
    }

    /// A number that has grown whenever an entry came, moved or went. Read before a lookup, it tells later whether
    /// what was found still holds.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What was learned, in no order. Holds the table for the time of copying.
    pub fn entries(&self, now: Nanos) -> Vec<Entry> {
        self.read()
            .slots
            .iter()
            .map(|(&key, slot)| Entry {
                mac: Mac::from_u64(key as u64),
                network: Segment((key >> 64) as u32),
                port: slot.port,
                kind: EntryKind::Learned,
                age_ms: now.saturating_sub(slot.seen.load(Ordering::Relaxed)) / 1_000_000,
            })
            .collect()
    }

    /// How many addresses are learned.
    pub fn len(&self) -> usize {
        self.read().slots.len()
    }

    /// Whether nothing is learned.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most addresses the table holds.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// The most addresses one port may have in it.
    pub fn share(&self) -> u32 {
        let limit = self.limit();
        (limit / 8).max(MIN_SHARE).min(limit)
    }

    /// Changes the bound. If the table now holds too many, the largest holders lose entries; a port above its new
    /// share keeps them until they age.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
        let mut table = self.write();
        let mut changed = false;
        while table.slots.len() > limit as usize && table.evict_from_largest() {
            changed = true;
        }
        if changed {
            self.changed();
        }
    }

    /// What the table did so far.
    pub fn counters(&self) -> Counters {
        let table = self.read();
        Counters {
            learned: table.learned,
            moved: table.moved,
            purged: table.purged,
            full: self.full.load(Ordering::Relaxed),
            held: self.held.load(Ordering::Relaxed),
        }
    }

    fn purge(&self, mut gone: impl FnMut(u128, &Slot) -> bool) -> u64 {
        let keys: Vec<u128> =
            self.read().slots.iter().filter(|&(&key, slot)| gone(key, slot)).map(|(&key, _)| key).collect();
        if keys.is_empty() {
            return 0;
        }
        let mut table = self.write();
        let mut purged = 0;
        for key in keys {
            // Asked again: it may have been seen since.
            if table.slots.get(&key).is_some_and(|slot| gone(key, slot)) {
                table.remove(key);
                purged += 1;
            }
        }
        table.purged += purged;
        if purged > 0 {
            self.changed();
        }
        purged
    }

    /// Called with the table locked for writing, so that the number has grown before anyone can see the change.
    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    // A poisoned lock means that a panic hit another thread between two of its steps. The table is still memory-safe and
    // bounded; at worst an entry is missing, and entries may always be missing.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Network above, address below.
fn key(mac: Mac, network: Segment) -> u128 {
    u128::from(network.0) << 64 | u128::from(mac.to_u64())
}

#[derive(Debug)]
struct Table {
    slots: HashMap<u128, Slot, hash::Seeded>,
    /// By port number. At most one per port that ever learned and was not removed.
    ports: HashMap<u64, Holder, hash::Seeded>,
    learned: u64,
    moved: u64,
    purged: u64,
}

#[derive(Debug)]
struct Slot {
    port: PortId,
    /// Where the key stands in its holder's list.
    position: usize,
    /// When it was last seen; refreshed under the read lock.
    seen: AtomicU64,
}

/// One port's part of the table.
#[derive(Debug)]
struct Holder {
    /// The keys of its entries.
    keys: Vec<u128>,
    /// Changes it may still cause, and when it last got some.
    tokens: u32,
    refilled: Nanos,
    /// Where the next search for a victim begins.
    cursor: usize,
}

impl Holder {
    fn take_token(&mut self, share: u32, now: Nanos) -> bool {
        const PER_TOKEN: Nanos = SECOND / CHANGES_PER_SECOND as Nanos;
        let due = now.saturating_sub(self.refilled) / PER_TOKEN;
        if due > 0 {
            self.tokens = u32::try_from(due).unwrap_or(u32::MAX).saturating_add(self.tokens).min(share);
            self.refilled += due * PER_TOKEN;
        }
        match self.tokens.checked_sub(1) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }
}

impl Table {
    fn port(&mut self, id: PortId, share: u32, now: Nanos) -> &mut Holder {
        let fresh = || Holder { keys: Vec::new(), tokens: share, refilled: now, cursor: 0 };
        self.ports.entry(u64::from(id.0)).or_insert_with(fresh)
    }

    /// The holder with the most entries, if anyone has one.
    fn largest(&self) -> Option<(u64, usize)> {
        let sizes = self.ports.iter().map(|(&id, holder)| (id, holder.keys.len()));
        sizes.max_by_key(|&(id, n)| (n, id)).filter(|&(_, n)| n > 0)
    }

    fn insert(&mut self, key: u128, port: PortId, now: Nanos) {
        if let Some(holder) = self.ports.get_mut(&u64::from(port.0)) {
            let slot = Slot { port, position: holder.keys.len(), seen: AtomicU64::new(now) };
            holder.keys.push(key);
            self.slots.insert(key, slot);
        }
    }

    fn remove(&mut self, key: u128) -> Option<PortId> {
        let slot = self.slots.remove(&key)?;
        if let Some(holder) = self.ports.get_mut(&u64::from(slot.port.0)) {
            holder.keys.swap_remove(slot.position);
            if let Some(moved) = holder.keys.get(slot.position).and_then(|k| self.slots.get_mut(k)) {
                moved.position = slot.position;
            }
        }
        Some(slot.port)
    }

    /// Takes from the largest holder the longest unseen of the next few of its entries.
    fn evict_from_largest(&mut self) -> bool {
        let Some((id, count)) = self.largest() else { return false };
        let Some(holder) = self.ports.get_mut(&id) else { return false };
        let sample = (0..EVICTION_SAMPLE.min(count)).map(|i| holder.keys[(holder.cursor + i) % count]);
        let victim = sample.min_by_key(|k| self.slots.get(k).map_or(0, |s| s.seen.load(Ordering::Relaxed)));
        holder.cursor = (holder.cursor + EVICTION_SAMPLE) % count;
        if let Some(victim) = victim {
            self.remove(victim);
            self.purged += 1;
        }
        victim.is_some()
    }
}
