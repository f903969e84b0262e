//! Lookup records: which guest has a customer address, and where it is.
//!
//! Up to a million, changing all the time, read by every worker for every new flow without a lock ([`super::table`]). A decision that was
//! made with a record holds a [`Handle`] and is good for as long as [`Records::is_current`]; so a change costs the flows of that one
//! record their place in the flow caches and nobody else's. That there is no record is never remembered.
//!
//! - Of one virtual subnet and customer address there is one record; of one virtual subnet and MAC address one of kind `l2-only`.
//! - A record of a gateway is also found by its MAC address, because packets come through it from addresses that are not its own.
//! - When the guest of a record moves from this host to another, the record remembers for [`GRACE`] that it did, and where it was: what
//!   still arrives here follows it, and what was sent after it by its former host is taken there.
//! - The record of a guest that is being moved may name the host where it is about to be. What that one sends as the guest is believed, so
//!   that nothing is lost while the news of the move is on its way; nothing is ever sent there. It is forgotten after [`EXPECTED`]: who never
//!   took it back, because he died, is believed no longer than that, and only of this one guest. Who may name a host there is who may
//!   write records at all.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::errors::LIFETIME;
use super::members::{Member, Members};
use super::model::{Encap, Kind, Record};
use super::overlay::{PaId, Reach};
use super::packed::{key, unkey, view, words};
use super::peers::Peers;
pub use super::table::Handle;
use super::table::{self, Table};
use crate::{Mac, Nanos, hash};

/// Records that fit by default.
pub const DEFAULT_CAPACITY: u32 = 1 << 20;

/// How long after a move frames follow a record's guest, in nanoseconds (30 seconds).
pub const GRACE: Nanos = 30_000_000_000;

/// How long a record says where its guest is about to be, in nanoseconds (an hour).
pub const EXPECTED: Nanos = 3_600_000_000_000;

/// Arrivals of IP rewrite that are remembered until the provider network was told, at most.
pub(super) const ARRIVALS: usize = 1024;

/// By what a record is found within its virtual subnet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Of {
    /// By its customer address.
    Address(IpAddr),
    /// A guest whose address is not known, by its MAC address.
    Station(Mac),
    /// A guest that forwards for others, by its MAC address; found so beside its customer address.
    Gateway(Mac),
}

/// What a record says, as packets need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The guest's MAC address.
    pub mac: Mac,
    /// The host where it is.
    pub pa: PaId,
    /// What stands for it on the wire: the same, or its own address of IP rewrite.
    pub wire: PaId,
    /// The host where it was before.
    pub previous: Option<PaId>,
    /// The host where it is about to be.
    pub next: Option<PaId>,
    /// What the record is for.
    pub kind: Kind,
    /// How its packets are carried.
    pub encap: Encap,
    /// Whether that host is this one.
    pub local: bool,
    /// When it moved; 0 = never.
    pub moved: Nanos,
}

impl View {
    /// Whether it moved so lately that frames may be on their way to where it was.
    pub fn is_fresh(&self, now: Nanos) -> bool {
        self.moved != 0 && now.saturating_sub(self.moved) < GRACE
    }
}

/// What came of a record that was put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// There was none of its key.
    New,
    /// It was there already.
    Same,
    /// It says something else now, but the guest is where it was.
    Changed,
    /// The guest is at another host.
    Moved {
        /// Where it was.
        from: IpAddr,
    },
    /// There is no room for it, or for another provider address; nothing changed.
    Full,
}

/// The table.
#[derive(Debug)]
pub struct Records {
    table: Table,
    /// Provider addresses that records name.
    pub peers: Peers,
    members: RwLock<Members>,
    /// Records of IP rewrite: without any, no packet need be looked up by its provider addresses.
    rewrites: AtomicU32,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    /// How many records name a provider address, by its number.
    names: Vec<u32>,
    /// Records that remember a move, and since when.
    moved: VecDeque<(Handle, Nanos)>,
    /// Records that say where their guest is about to be, and since when.
    expected: VecDeque<(Handle, Nanos)>,
    /// Guests of this host that were expected elsewhere for too long.
    lapsed: Vec<(u32, Of)>,
    /// Addresses of IP rewrite that are at this host from now on, which the provider network is to be told.
    arrived: Vec<IpAddr>,
    /// Records that are one guest's who forwards; by key of the table.
    gateways: HashMap<(u32, u64), u32, hash::Seeded>,
}

impl Records {
    /// An empty table for `capacity` records. `seed` must be secret and random: guests choose addresses.
    pub fn new(seed: u64, capacity: u32) -> Self {
        Self {
            table: Table::new(hash::expand(seed, 20), capacity),
            peers: Peers::new(hash::expand(seed, 21)),
            members: RwLock::new(Members::new(hash::expand(seed, 22))),
            rewrites: AtomicU32::new(0),
            writer: Mutex::new(Writer {
                names: Vec::new(),
                moved: VecDeque::new(),
                expected: VecDeque::new(),
                lapsed: Vec::new(),
                arrived: Vec::new(),
                gateways: HashMap::with_hasher(hash::Seeded(hash::expand(seed, 23))),
            }),
        }
    }

    /// What a record says, if there is one. Never waits for a writer.
    #[inline]
    pub fn find(&self, vsid: u32, of: Of) -> Option<(Handle, View)> {
        self.table.find(&key(vsid, of)).map(|(handle, value)| (handle, view(&value)))
    }

    /// What the record of a handle says now, if that is what it said.
    pub(super) fn at(&self, handle: Handle) -> Option<(Handle, View)> {
        let (current, _, value) = self.table.read(handle.index())?;
        (current == handle).then(|| (current, view(&value)))
    }

    /// Whether what was found with the handle still holds.
    #[inline]
    pub fn is_current(&self, handle: Handle) -> bool {
        self.table.is_current(handle)
    }

    /// The record whose customer address alone a provider address stands for (IP rewrite): its virtual subnet and customer address.
    pub fn rewritten(&self, wire: IpAddr) -> Option<(u32, IpAddr, View)> {
        if self.rewrites.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let (_, key, value) = self.table.read(self.peers.stands_for(wire)?)?;
        let view = view(&value);
        let (vsid, Of::Address(ca)) = unkey(&key)? else { return None };
        let stands = view.encap == Encap::Rewrite && self.peers.find(wire) == Some(view.wire);
        stands.then_some((vsid, ca, view))
    }

    /// Puts a record in, or changes the one of its key. `local` = its provider address is one of this host's.
    pub fn upsert(&self, now: Nanos, record: &Record, local: bool) -> Change {
        let mut writer = self.lock();
        let Some(pa) = self.name(&mut writer, record.pa) else { return Change::Full };
        let wire = match record.rewrite_pa.filter(|_| record.encap == Encap::Rewrite) {
            None => Some(self.again(&mut writer, pa)),
            Some(own) => self.name(&mut writer, own),
        };
        let Some(wire) = wire else {
            self.unname(&mut writer, pa);
            return Change::Full;
        };
        let ahead = record.next.filter(|next| *next != record.pa);
        let next = ahead.and_then(|next| self.name(&mut writer, next));
        if ahead.is_some() && next.is_none() {
            self.unname(&mut writer, pa);
            self.unname(&mut writer, wire);
            return Change::Full;
        }
        let (kind, encap, mac) = (record.kind, record.encap, record.mac);
        let mut new = View { mac, pa, wire, previous: None, next, kind, encap, local, moved: 0 };
        let of = of(record);
        let key = key(record.vsid, of);
        let found = self.table.find(&key).map(|(handle, value)| (handle.index(), view(&value)));
        let here = local && found.is_none_or(|(_, old)| !old.local || old.wire != wire);
        if here && encap == Encap::Rewrite && writer.arrived.len() < ARRIVALS {
            writer.arrived.extend(record.rewrite_pa);
        }
        let Some((index, old)) = found else {
            let Some(handle) = self.table.insert(&key, words(&new), now) else {
                self.unname_all(&mut writer, &new);
                return Change::Full;
            };
            self.enter(&mut writer, record.vsid, of, &new, handle.index());
            self.remember(&mut writer, handle.index(), now);
            return Change::New;
        };
        let moved = old.pa != pa;
        (new.previous, new.moved) =
            if moved { (Some(old.pa), now.max(1)) } else { (old.previous, old.moved) };
        if new == old {
            self.unname_all(&mut writer, &View { previous: None, ..new });
            return Change::Same;
        }
        let from = self.peers.address(old.pa);
        self.leave(&mut writer, record.vsid, of, &old, index);
        if moved {
            // Where it was until now keeps its name; where it was before loses it.
            old.previous.into_iter().for_each(|former| self.unname(&mut writer, former));
        } else {
            self.unname(&mut writer, old.pa);
        }
        self.unname(&mut writer, old.wire);
        old.next.into_iter().for_each(|next| self.unname(&mut writer, next));
        self.table.update(index, words(&new));
        self.table.touch(index, now);
        self.enter(&mut writer, record.vsid, of, &new, index);
        self.remember(&mut writer, index, now);
        self.forget_moves(&mut writer, now);
        from.filter(|_| moved).map_or(Change::Changed, |from| Change::Moved { from })
    }

    /// Takes a record out; says whether there was one.
    pub fn remove(&self, vsid: u32, of: Of) -> bool {
        if matches!(of, Of::Gateway(_)) {
            return false; // it goes with its customer address
        }
        let mut writer = self.lock();
        let Some((index, value)) = self.table.remove(&key(vsid, of)) else { return false };
        let old = view(&value);
        self.leave(&mut writer, vsid, of, &old, index);
        self.unname_all(&mut writer, &old);
        true
    }

    /// A router says that packets of `mtu` bytes, IP header included, get to a provider address: no longer ones do, for a while. Nothing is
    /// done if it says more than is known, or if a writer is busy: the next packet that is too long makes it say so again.
    pub(super) fn narrow(&self, id: PaId, mtu: u16, now: Nanos) {
        let Ok(_alone) = self.writer.try_lock() else { return };
        if self.peers.path(id).is_some_and(|(_, known, until)| now >= until || mtu <= known) {
            self.peers.set_path(id, mtu, now.saturating_add(LIFETIME));
        }
    }

    /// The addresses of IP rewrite that came to this host since the last call, as far as they were noted: [`ARRIVALS`] of them.
    pub(super) fn take_arrived(&self) -> Vec<IpAddr> {
        std::mem::take(&mut self.lock().arrived)
    }

    /// Forgets moves that are longer ago than [`GRACE`], and where guests were about to be for longer than [`EXPECTED`]. To be called every
    /// few seconds.
    pub fn age(&self, now: Nanos) {
        let mut writer = self.lock();
        self.forget_moves(&mut writer, now);
        self.forget_expected(&mut writer, now);
    }

    /// The records that say where their guest is about to be, in no order.
    pub fn expected(&self) -> Vec<Record> {
        let writer = self.lock();
        let one = |&(handle, _): &(Handle, Nanos)| {
            let (current, key, value) = self.table.read(handle.index())?;
            self.record(&key, &value).filter(|record| current == handle && record.next.is_some())
        };
        writer.expected.iter().filter_map(one).collect()
    }

    /// Records of guests of this host that said for too long that these were about to be elsewhere, since the last call, as they are now; the
    /// first [`ARRIVALS`] of them.
    pub fn take_lapsed(&self) -> Vec<Record> {
        let lapsed = std::mem::take(&mut self.lock().lapsed);
        lapsed.into_iter().filter_map(|(vsid, of)| self.get(vsid, of)).collect()
    }

    /// When a record was put in, changed or last of use.
    pub fn seen(&self, handle: Handle) -> Nanos {
        self.table.touched(handle.index())
    }

    /// The records of one virtual subnet, or all, ascending by virtual subnet and address. Walks the whole table.
    pub fn list(&self, vsid: Option<u32>) -> Vec<Record> {
        let one = |index| {
            let (_, key, value) = self.table.read(index)?;
            self.record(&key, &value).filter(|record| vsid.is_none_or(|vsid| vsid == record.vsid))
        };
        let mut list: Vec<Record> = (0..self.table.extent()).filter_map(one).collect();
        list.sort_unstable_by_key(|record| (record.vsid, record.ca, record.mac.to_u64()));
        list
    }

    /// One record as it was put in.
    pub fn get(&self, vsid: u32, of: Of) -> Option<Record> {
        let key = key(vsid, of);
        self.table.find(&key).and_then(|(_, value)| self.record(&key, &value))
    }

    fn record(&self, key: &table::Key, value: &table::Value) -> Option<Record> {
        let (vsid, of) = unkey(key)?;
        let view = view(value);
        let ca = match of {
            Of::Address(ca) => ca,
            Of::Station(_) => Ipv4Addr::UNSPECIFIED.into(),
            Of::Gateway(_) => return None,
        };
        let rewrite_pa = if view.wire == view.pa { None } else { self.peers.address(view.wire) };
        let pa = self.peers.address(view.pa)?;
        let next = view.next.and_then(|next| self.peers.address(next));
        Some(Record { vsid, ca, mac: view.mac, pa, kind: view.kind, encap: view.encap, rewrite_pa, next })
    }

    /// Entries in the table: records, and one more for each guest that forwards.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that fit.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Memory that is allocated for records, hosts and provider addresses, in bytes.
    pub fn bytes(&self) -> usize {
        let writer = self.lock();
        let queued = writer.moved.capacity() + writer.expected.capacity();
        let rest = writer.names.capacity() * 4 + queued * size_of::<(Handle, Nanos)>();
        let gateways = writer.gateways.capacity() * 8 / 7 * (size_of::<((u32, u64), u32)>() + 1);
        drop(writer);
        self.table.bytes() + self.peers.bytes() + self.members().bytes() + rest + gateways
    }

    /// Whether the virtual subnet has guests whose address is not known.
    pub fn has_unknown(&self, vsid: u32) -> bool {
        self.members().any_unknown(vsid)
    }

    /// The hosts that have guests of a virtual subnet, this one included, and how frames get there.
    pub fn hosts(&self, vsid: u32, reach: Reach) -> Vec<(PaId, Encap)> {
        self.members().list(vsid, reach).collect()
    }

    fn members(&self) -> RwLockReadGuard<'_, Members> {
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn members_mut(&self) -> RwLockWriteGuard<'_, Members> {
        self.members.write().unwrap_or_else(PoisonError::into_inner)
    }

    // After a panic between two steps of a writer a count may be wrong; readers check what they find against the records themselves.
    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more record names a provider address.
    fn name(&self, writer: &mut Writer, address: IpAddr) -> Option<PaId> {
        self.peers.intern(address).map(|id| self.again(writer, id))
    }

    #[allow(clippy::unused_self)] // beside its brothers
    fn again(&self, writer: &mut Writer, id: PaId) -> PaId {
        let index = id.0 as usize;
        if writer.names.len() <= index {
            writer.names.resize(index + 1, 0);
        }
        writer.names[index] += 1;
        id
    }

    /// One record less names it.
    fn unname(&self, writer: &mut Writer, id: PaId) {
        if let Some(count) = writer.names.get_mut(id.0 as usize) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.peers.remove(id);
            }
        }
    }

    fn unname_all(&self, writer: &mut Writer, view: &View) {
        for pa in [Some(view.pa), Some(view.wire), view.previous, view.next].into_iter().flatten() {
            self.unname(writer, pa);
        }
    }

    /// Notes what is to be forgotten of a record that was just written.
    fn remember(&self, writer: &mut Writer, index: u32, now: Nanos) {
        let Some((handle, _, value)) = self.table.read(index) else { return };
        let View { moved, next, .. } = view(&value);
        if moved != 0 {
            writer.moved.push_back((handle, moved));
        }
        if next.is_some() {
            writer.expected.push_back((handle, now));
        }
    }

    /// What hangs on a record beside its entry.
    fn enter(&self, writer: &mut Writer, vsid: u32, of: Of, view: &View, index: u32) {
        self.members_mut().add(member(vsid, view));
        if view.encap == Encap::Rewrite {
            self.peers.set_record(view.wire, Some(index), index);
            self.rewrites.fetch_add(1, Ordering::Relaxed);
        }
        if view.kind == Kind::Gateway && matches!(of, Of::Address(_)) {
            let alias = key(vsid, Of::Gateway(view.mac));
            *writer.gateways.entry((vsid, view.mac.to_u64())).or_default() += 1;
            // It has no part in moves, which the record itself has.
            let words = words(&View { previous: None, moved: 0, ..*view });
            match self.table.find(&alias) {
                Some((handle, old)) if old != words => self.table.update(handle.index(), words),
                Some(_) => {}
                // Without room for it, what the guest forwards has no source record and is dropped.
                None => drop(self.table.insert(&alias, words, 0)),
            }
        }
    }

    fn leave(&self, writer: &mut Writer, vsid: u32, of: Of, view: &View, index: u32) {
        self.members_mut().remove(member(vsid, view));
        if view.encap == Encap::Rewrite {
            self.peers.set_record(view.wire, None, index);
            self.rewrites.fetch_sub(1, Ordering::Relaxed);
        }
        if view.kind == Kind::Gateway && matches!(of, Of::Address(_)) {
            let which = (vsid, view.mac.to_u64());
            let left = writer.gateways.get_mut(&which).map_or(0, |count| {
                *count = count.saturating_sub(1);
                *count
            });
            if left == 0 {
                writer.gateways.remove(&which);
                self.table.remove(&key(vsid, Of::Gateway(view.mac)));
            }
        }
    }

    /// Records whose grace is over name their former host no more.
    fn forget_moves(&self, writer: &mut Writer, now: Nanos) {
        while let Some(&(handle, since)) = writer.moved.front()
            && (now.saturating_sub(since) >= GRACE || writer.moved.len() > self.table.capacity())
        {
            writer.moved.pop_front();
            let Some((current, _, value)) = self.table.read(handle.index()) else { continue };
            if current != handle {
                continue; // it changed since, and is in the list again if it moved
            }
            let old = view(&value);
            self.table.update(handle.index(), words(&View { previous: None, moved: 0, ..old }));
            if let Some(former) = old.previous {
                self.unname(writer, former);
            }
            self.remember(writer, handle.index(), now);
        }
    }

    /// Records that have said for long enough where their guest is about to be say so no more.
    fn forget_expected(&self, writer: &mut Writer, now: Nanos) {
        while let Some(&(handle, since)) = writer.expected.front()
            && (now.saturating_sub(since) >= EXPECTED || writer.expected.len() > self.table.capacity())
        {
            writer.expected.pop_front();
            let Some((current, key, value)) = self.table.read(handle.index()) else { continue };
            let (Some((vsid, of)), old) = (unkey(&key), view(&value)) else { continue };
            let Some(next) = old.next.filter(|_| current == handle) else { continue };
            let new = View { next: None, ..old };
            self.leave(writer, vsid, of, &old, handle.index());
            self.table.update(handle.index(), words(&new));
            self.enter(writer, vsid, of, &new, handle.index());
            self.unname(writer, next);
            self.remember(writer, handle.index(), now);
            if old.local && writer.lapsed.len() < ARRIVALS {
                writer.lapsed.push((vsid, of));
            }
        }
    }
}

/// By what a record is found.
pub fn of(record: &Record) -> Of {
    if record.kind == Kind::L2Only { Of::Station(record.mac) } else { Of::Address(record.ca) }
}

fn member(vsid: u32, view: &View) -> Member {
    Member { vsid, pa: view.pa, encap: view.encap, unknown: view.kind == Kind::L2Only }
}
