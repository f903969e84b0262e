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

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::errors::LIFETIME;
use super::members::{Member, Members};
use super::model::{Encap, Kind, Record};
use super::overlay::{PaId, Reach};
use super::peers::Peers;
pub use super::table::Handle;
use super::table::{self, Table};
use crate::{Mac, Nanos, hash};

/// Records that fit by default.
pub const DEFAULT_CAPACITY: u32 = 1 << 20;

/// How long after a move frames follow a record's guest, in nanoseconds (30 seconds).
pub const GRACE: Nanos = 30_000_000_000;

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
    /// Addresses of IP rewrite that are at this host from now on, which the provider network is to be told.
    arrived: Vec<IpAddr>,
    /// Records that are one guest's who forwards; by key of the table.
    gateways: HashMap<(u32, u64), u32, hash::Seeded>,
}

const NO_PA: u64 = 0x1f_ffff;
const PA_BITS: u32 = 21;
const MAC_BITS: u64 = (1 << 48) - 1;

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
        let (kind, encap, mac) = (record.kind, record.encap, record.mac);
        let mut new = View { mac, pa, wire, previous: None, kind, encap, local, moved: 0 };
        let of = of(record);
        let key = key(record.vsid, of);
        let found = self.table.find(&key).map(|(handle, value)| (handle.index(), view(&value)));
        let here = local && found.is_none_or(|(_, old)| !old.local || old.wire != wire);
        if here && encap == Encap::Rewrite && writer.arrived.len() < ARRIVALS {
            writer.arrived.extend(record.rewrite_pa);
        }
        let Some((index, old)) = found else {
            let Some(handle) = self.table.insert(&key, words(&new), now) else {
                self.unname(&mut writer, pa);
                self.unname(&mut writer, wire);
                return Change::Full;
            };
            self.enter(&mut writer, record.vsid, of, &new, handle.index());
            return Change::New;
        };
        let moved = old.pa != pa;
        (new.previous, new.moved) =
            if moved { (Some(old.pa), now.max(1)) } else { (old.previous, old.moved) };
        if new == old {
            self.unname(&mut writer, pa);
            self.unname(&mut writer, wire);
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
        self.table.update(index, words(&new));
        self.table.touch(index, now);
        self.enter(&mut writer, record.vsid, of, &new, index);
        if new.moved != 0
            && let Some((handle, _)) = self.table.find(&key)
        {
            writer.moved.push_back((handle, new.moved));
        }
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
        for pa in [Some(old.pa), Some(old.wire), old.previous].into_iter().flatten() {
            self.unname(&mut writer, pa);
        }
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

    /// Forgets moves that are longer ago than [`GRACE`]. To be called every few seconds.
    pub fn age(&self, now: Nanos) {
        self.forget_moves(&mut self.lock(), now);
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
        Some(Record { vsid, ca, mac: view.mac, pa, kind: view.kind, encap: view.encap, rewrite_pa })
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
        let rest = writer.names.capacity() * 4 + writer.moved.capacity() * size_of::<(Handle, Nanos)>();
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

fn key(vsid: u32, of: Of) -> table::Key {
    let (low, high, family) = match of {
        Of::Address(IpAddr::V4(v4)) => (u64::from(u32::from(v4)), 0, 0),
        Of::Address(IpAddr::V6(v6)) => {
            let bits = u128::from(v6);
            (bits as u64, (bits >> 64) as u64, 1)
        }
        Of::Station(mac) => (mac.to_u64(), 0, 2),
        Of::Gateway(mac) => (mac.to_u64(), 0, 3),
    };
    [low, high, u64::from(vsid) << 2 | family]
}

fn unkey(key: &table::Key) -> Option<(u32, Of)> {
    let of = match key[2] & 3 {
        0 => Of::Address(Ipv4Addr::from(u32::try_from(key[0]).ok()?).into()),
        1 => Of::Address(Ipv6Addr::from(u128::from(key[1]) << 64 | u128::from(key[0])).into()),
        2 => Of::Station(Mac::from_u64(key[0])),
        _ => Of::Gateway(Mac::from_u64(key[0])),
    };
    Some((u32::try_from(key[2] >> 2).ok()?, of))
}

/// Address, kind, encapsulation and place in the first word; the numbers of provider addresses in the second; the move in the third.
fn words(view: &View) -> table::Value {
    let kind = match view.kind {
        Kind::Static => 0,
        Kind::Dynamic => 1,
        Kind::L2Only => 2,
        Kind::Gateway => 3,
    };
    let encap = match view.encap {
        Encap::Nvgre => 0,
        Encap::Vxlan => 1,
        Encap::Rewrite => 2,
    };
    let previous = view.previous.map_or(NO_PA, |id| u64::from(id.0));
    [
        view.mac.to_u64() | kind << 48 | encap << 50 | u64::from(view.local) << 52,
        u64::from(view.pa.0) | u64::from(view.wire.0) << PA_BITS | previous << (2 * PA_BITS),
        view.moved,
    ]
}

fn view(words: &table::Value) -> View {
    let pa = |number: u32| words[1] >> (number * PA_BITS) & NO_PA;
    View {
        mac: Mac::from_u64(words[0] & MAC_BITS),
        pa: PaId(pa(0) as u32),
        wire: PaId(pa(1) as u32),
        previous: (pa(2) != NO_PA).then(|| PaId(pa(2) as u32)),
        kind: match words[0] >> 48 & 3 {
            0 => Kind::Static,
            1 => Kind::Dynamic,
            2 => Kind::L2Only,
            _ => Kind::Gateway,
        },
        encap: match words[0] >> 50 & 3 {
            0 => Encap::Nvgre,
            1 => Encap::Vxlan,
            _ => Encap::Rewrite,
        },
        local: words[0] >> 52 & 1 != 0,
        moved: words[2],
    }
}
