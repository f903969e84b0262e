//! The part of the sessions that is behind the lock: which keys there are, who holds them, and who gives way.
//!
//! Every operation takes bounded time however full the table is: the index is chained and never rehashed, victims are
//! looked for among a few sessions only, and the largest holder is known without asking all.

use super::ranking::Ranking;
use super::slot::{CHUNK, Handle, Slots};
use super::track::{State, Track, asks};
use super::{Counters, Full, Grant, Key};
use crate::{Nanos, PortId};

/// Sessions of each kind that are compared when one has to go.
const SAMPLE: usize = 8;

/// A port that has as many weak sessions gives up one of those before it takes from a neighbour one that is in use.
const PENDING: usize = 16;

/// The end of a chain.
const NIL: u32 = u32::MAX;

/// Most chains of the index; a larger table has longer ones.
const MAX_CHAINS: u32 = 1 << 22;

/// Why a session goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    Closed,
    Expired,
    Evicted,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) grant: Grant,
    pub(super) opened_at: Nanos,
    /// Next in the chain of the index, or in the chain of free slots.
    next: u32,
    chain: u32,
    /// Where the slot stands in its holder's list, and in which of the two.
    position: u32,
    weak: bool,
}

/// One port's part of the table.
#[derive(Debug, Default)]
struct Holder {
    /// Slots of sessions that were answered and are not over.
    strong: Vec<u32>,
    /// The others.
    weak: Vec<u32>,
    /// Where the next search for a victim begins.
    cursor: usize,
}

impl Holder {
    fn list(&mut self, weak: bool) -> &mut Vec<u32> {
        if weak { &mut self.weak } else { &mut self.strong }
    }
}

/// What a new session would mean.
enum Plan {
    /// There is one.
    Known(u32),
    /// There is one that is over or expired.
    Replace(u32, Gone),
    /// There is a free slot.
    Free,
    /// Another one goes.
    Evict(u32, Gone),
    Full,
}

#[derive(Debug)]
pub(super) struct Table {
    limit: u32,
    share: u32,
    /// First slot of each chain; a power of two of them.
    chains: Box<[u32]>,
    /// By slot, in chunks so that growing copies nothing.
    entries: Vec<Vec<Entry>>,
    /// First of the chain of free slots that have an entry.
    free: u32,
    /// Slots that have an entry.
    used: u32,
    len: u32,
    /// By port number; as long as the largest number that ever had a session.
    holders: Vec<Option<Box<Holder>>>,
    /// Sessions per port.
    held: Ranking,
    /// Weak ones of them.
    pending: Ranking,
    pub(super) counters: Counters,
}

impl Table {
    pub(super) fn new(limit: u32, share: u32) -> Self {
        let chains = limit.clamp(1, MAX_CHAINS).next_power_of_two();
        Self {
            limit,
            share,
            chains: vec![NIL; chains as usize].into_boxed_slice(),
            entries: Vec::new(),
            free: NIL,
            used: 0,
            len: 0,
            holders: Vec::new(),
            held: Ranking::default(),
            pending: Ranking::default(),
            counters: Counters::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// The slot with this key, whose hash is given.
    pub(super) fn get(&self, hash: u64, key: &Key) -> Option<(u32, &Entry)> {
        let mut slot = *self.chains.get(self.chain(hash) as usize)?;
        while let Some(entry) = self.entry(slot) {
            if entry.key == *key {
                return Some((slot, entry));
            }
            slot = entry.next;
        }
        None
    }

    /// The entry of a slot. It is about a session only while the slot holds one.
    pub(super) fn entry(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)
    }

    fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.entries.get_mut(slot as usize / CHUNK)?.get_mut(slot as usize % CHUNK)
    }

    /// The slots of a port.
    pub(super) fn held_by(&self, port: PortId) -> impl Iterator<Item = u32> {
        self.holder(port).into_iter().flat_map(|h| h.strong.iter().chain(&h.weak).copied())
    }

    /// Whether [`Table::open`] would succeed.
    pub(super) fn would_open(&self, slots: &Slots, now: Nanos, hash: u64, key: &Key) -> bool {
        !matches!(self.plan(slots, now, hash, key, None), Plan::Full)
    }

    /// Opens a session, or lets the packet pass the one there is. The caller's rules have allowed the packet.
    pub(super) fn open(
        &mut self,
        slots: &Slots,
        now: Nanos,
        (hash, key): (u64, Key),
        grant: Grant,
        flags: Option<u8>,
    ) -> Result<Handle, Full> {
        let plan = self.plan(slots, now, hash, &key, flags);
        if let Plan::Known(slot) = plan {
            return Ok(self.pass_known(slots, now, slot, grant, flags));
        }
        let Some(track) = Track::first(grant.opened, flags) else { return Ok(Handle::NONE) };
        match plan {
            Plan::Known(_) | Plan::Free => {}
            Plan::Replace(slot, why) => self.remove(slots, slot, why),
            Plan::Evict(slot, why) => {
                if let Some(holder) = self.entry(slot).map(|e| e.key.port).and_then(|p| self.holder_mut(p)) {
                    holder.cursor = holder.cursor.wrapping_add(SAMPLE);
                }
                self.remove(slots, slot, why);
            }
            Plan::Full => {
                self.counters.refused += 1;
                return Err(Full);
            }
        }
        let handle = self.insert(slots, now, (hash, key), grant, track);
        handle.ok_or(Full)
    }

    /// Puts in a session that came with its port, opened and last seen at these times. False if there is one already, or no room.
    pub(super) fn restore(
        &mut self,
        slots: &Slots,
        now: Nanos,
        (hash, key): (u64, Key),
        grant: Grant,
        track: Track,
        (opened_at, seen): (Nanos, Nanos),
    ) -> bool {
        match self.plan(slots, now, hash, &key, None) {
            Plan::Free => {}
            Plan::Replace(slot, why) | Plan::Evict(slot, why) => self.remove(slots, slot, why),
            Plan::Known(_) => return false,
            Plan::Full => {
                self.counters.refused += 1;
                return false;
            }
        }
        let Some(handle) = self.insert(slots, seen, (hash, key), grant, track) else { return false };
        if let Some(entry) = self.entry_mut(handle.index()) {
            entry.opened_at = opened_at;
        }
        true
    }

    /// A packet passes the live session of a slot; the handle it has afterwards.
    fn pass_known(
        &mut self,
        slots: &Slots,
        now: Nanos,
        slot: u32,
        grant: Grant,
        flags: Option<u8>,
    ) -> Handle {
        let Some(at) = slots.get(slot) else { return Handle::NONE };
        let Some(handle) = at.handle(slot) else { return Handle::NONE };
        let track = at.track();
        let next = if track.state == State::SynSent && grant.opened != track.opened && asks(flags) {
            track.answered() // Both sides asked at once and both may (RFC 9293, 3.5).
        } else {
            track.next(grant.opened, flags)
        };
        at.note(now, handle);
        self.set_track(slots, slot, next);
        handle
    }

    /// Notes what an admitted packet says about the connection; the session's key. `None` if the session is gone or does
    /// not admit the packet.
    pub(super) fn advance(
        &mut self,
        slots: &Slots,
        now: Nanos,
        handle: Handle,
        direction: crate::Direction,
        flags: Option<u8>,
    ) -> Option<Key> {
        let slot = handle.index();
        let at = slots.get(slot).filter(|at| at.holds(handle) && !at.is_expired(now))?;
        let key = self.entry(slot)?.key;
        let track = at.track();
        if !track.admits(direction, flags) {
            return None;
        }
        let next = track.next(direction, flags);
        if track.state == State::Closing && next.state != State::Closing {
            self.restart(slots, now, slot, next);
            return Some(key);
        }
        // Noted first: what follows may shorten the timeout, and that counts from this packet on.
        at.note(now, handle);
        self.set_track(slots, slot, next);
        Some(key)
    }

    /// Puts a new connection in place of one that is over. It gets a new generation: verdicts of the old one would
    /// let through what a half-open connection does not.
    fn restart(&mut self, slots: &Slots, now: Nanos, slot: u32, track: Track) {
        let (Some(at), Some(entry)) = (slots.get(slot), self.entry_mut(slot)) else { return };
        let idle = entry.grant.idle;
        entry.opened_at = now;
        at.vacate();
        at.fill(slot, now, track, idle);
        self.reclass(slot, track.is_weak());
        self.counters.closed += 1;
        self.counters.opened += 1;
    }

    fn set_track(&mut self, slots: &Slots, slot: u32, track: Track) {
        let (Some(at), Some(entry)) = (slots.get(slot), self.entry(slot)) else { return };
        at.set(track, entry.grant.idle);
        self.reclass(slot, track.is_weak());
    }

    /// Takes over what a rule says now. Which side opened the session is history and stays.
    pub(super) fn regrant(&mut self, slots: &Slots, handle: Handle, grant: Grant) -> bool {
        let Some(at) = slots.get(handle.index()).filter(|at| at.holds(handle)) else { return false };
        let Some(entry) = self.entry_mut(handle.index()) else { return false };
        entry.grant = Grant { opened: entry.grant.opened, ..grant };
        at.set(at.track(), grant.idle);
        true
    }

    /// Removes the session of a slot that holds one.
    pub(super) fn remove(&mut self, slots: &Slots, slot: u32, why: Gone) {
        let (Some(at), Some(entry)) = (slots.get(slot), self.entry(slot)) else { return };
        at.vacate();
        let (port, chain, next) = (entry.key.port, entry.chain, entry.next);
        self.unlink(slot, chain, next);
        self.leave(slot, port);
        let free = std::mem::replace(&mut self.free, slot);
        if let Some(entry) = self.entry_mut(slot) {
            entry.next = free;
        }
        self.len -= 1;
        match why {
            Gone::Closed => self.counters.closed += 1,
            Gone::Expired => self.counters.expired += 1,
            Gone::Evicted => self.counters.evicted += 1,
        }
    }

    /// Forgets a port that holds nothing.
    pub(super) fn forget(&mut self, port: PortId) {
        if self.held.count(port) == 0
            && let Some(holder) = self.holders.get_mut(port.index())
        {
            *holder = None;
        }
    }

    fn plan(&self, slots: &Slots, now: Nanos, hash: u64, key: &Key, flags: Option<u8>) -> Plan {
        if let Some((slot, _)) = self.get(hash, key)
            && let Some(at) = slots.get(slot)
        {
            return if at.is_expired(now) {
                Plan::Replace(slot, Gone::Expired)
            } else if at.track().state == State::Closing && asks(flags) {
                Plan::Replace(slot, Gone::Closed)
            } else {
                Plan::Known(slot)
            };
        }
        let (held, pending) = (self.held.count(key.port), self.pending.count(key.port));
        let under_share = held < self.share as usize;
        if under_share && self.len < self.limit {
            return Plan::Free;
        }
        let largest = self.held.top().filter(|&(_, most)| under_share && most > held);
        let busiest = self.pending.top().filter(|&(_, most)| under_share && most > pending.max(PENDING));
        let may_take = pending < PENDING;
        let victim = largest
            .and_then(|(port, _)| self.victim(slots, now, port, may_take))
            .or_else(|| self.victim(slots, now, key.port, false))
            .or_else(|| busiest.and_then(|(port, _)| self.victim(slots, now, port, false)));
        victim.map_or(Plan::Full, |(slot, why)| Plan::Evict(slot, why))
    }

    /// Which of a port's sessions gives way: an expired one, else the longest idle of a few weak ones, else, if `strong`
    /// ones may go too, of a few of those.
    fn victim(&self, slots: &Slots, now: Nanos, port: PortId, strong: bool) -> Option<(u32, Gone)> {
        let holder = self.holder(port)?;
        let sample = |list: &[u32]| {
            let (begin, list_len) = (holder.cursor, list.len());
            let mut longest = None;
            for i in 0..SAMPLE.min(list_len) {
                let Some(&slot) = list.get(begin.wrapping_add(i) % list_len) else { continue };
                let Some(at) = slots.get(slot) else { continue };
                let idle = at.idle_ms(now);
                if idle >= at.timeout_ms() {
                    return (Some(slot), None);
                }
                if longest.is_none_or(|(_, most)| idle > most) {
                    longest = Some((slot, idle));
                }
            }
            (None, longest)
        };
        let (weak, longest_weak) = sample(&holder.weak);
        let (expired, longest_strong) = if weak.is_some() { (weak, None) } else { sample(&holder.strong) };
        if let Some(slot) = expired {
            return Some((slot, Gone::Expired));
        }
        let longest = longest_weak.or(longest_strong.filter(|_| strong));
        longest.map(|(slot, _)| (slot, Gone::Evicted))
    }

    fn insert(
        &mut self,
        slots: &Slots,
        now: Nanos,
        (hash, key): (u64, Key),
        grant: Grant,
        track: Track,
    ) -> Option<Handle> {
        let slot = if self.free == NIL { self.used } else { self.free };
        let at = slots.allocate(slot)?;
        let chain = self.chain(hash);
        let next = std::mem::replace(self.chains.get_mut(chain as usize)?, slot);
        let weak = track.is_weak();
        let entry = Entry { key, grant, opened_at: now, next, chain, position: 0, weak };
        if slot == self.used {
            if slot as usize / CHUNK == self.entries.len() {
                self.entries.push(Vec::with_capacity(CHUNK));
            }
            self.entries.last_mut()?.push(entry);
            self.used += 1;
        } else {
            let old = self.entry_mut(slot)?;
            let free = old.next;
            *old = entry;
            self.free = free;
        }
        self.join(slot, key.port, weak);
        self.len += 1;
        self.counters.opened += 1;
        Some(at.fill(slot, now, track, grant.idle))
    }

    fn chain(&self, hash: u64) -> u32 {
        hash as u32 & (self.chains.len() as u32 - 1)
    }

    /// Takes a slot out of its chain of the index.
    fn unlink(&mut self, slot: u32, chain: u32, next: u32) {
        let Some(first) = self.chains.get_mut(chain as usize) else { return };
        if *first == slot {
            *first = next;
            return;
        }
        let mut before = *first;
        while let Some(entry) = self.entry_mut(before) {
            if entry.next == slot {
                entry.next = next;
                return;
            }
            before = entry.next;
        }
    }

    fn holder(&self, port: PortId) -> Option<&Holder> {
        self.holders.get(port.index())?.as_deref()
    }

    fn holder_mut(&mut self, port: PortId) -> Option<&mut Holder> {
        self.holders.get_mut(port.index())?.as_deref_mut()
    }

    /// Adds a slot to its port's list.
    fn join(&mut self, slot: u32, port: PortId, weak: bool) {
        if self.holders.len() <= port.index() {
            self.holders.resize_with(port.index() + 1, || None);
        }
        let Some(place) = self.holders.get_mut(port.index()) else { return };
        place.get_or_insert_default();
        self.held.increase(port);
        self.enlist(slot, port, weak);
    }

    /// Takes a slot off its port's list.
    fn leave(&mut self, slot: u32, port: PortId) {
        self.strike(slot, port);
        self.held.decrease(port);
    }

    /// Moves a slot to the other list of its port if it does not belong to the one it is on.
    fn reclass(&mut self, slot: u32, weak: bool) {
        let Some(entry) = self.entry(slot).filter(|e| e.weak != weak) else { return };
        let port = entry.key.port;
        self.strike(slot, port);
        self.enlist(slot, port, weak);
    }

    fn enlist(&mut self, slot: u32, port: PortId, weak: bool) {
        let Some(holder) = self.holder_mut(port) else { return };
        let list = holder.list(weak);
        let position = list.len() as u32;
        list.push(slot);
        if weak {
            self.pending.increase(port);
        }
        if let Some(entry) = self.entry_mut(slot) {
            (entry.position, entry.weak) = (position, weak);
        }
    }

    fn strike(&mut self, slot: u32, port: PortId) {
        let Some((position, weak)) = self.entry(slot).map(|e| (e.position as usize, e.weak)) else { return };
        let Some(list) = self.holder_mut(port).map(|h| h.list(weak)) else { return };
        if position >= list.len() {
            return;
        }
        list.swap_remove(position);
        if let Some(moved) = list.get(position).copied().and_then(|s| self.entry_mut(s)) {
            moved.position = position as u32;
        }
        if weak {
            self.pending.decrease(port);
        }
    }
}
