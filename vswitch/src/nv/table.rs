//! A bounded hash table of fixed-size entries that any number of threads read without a lock while one writes.
//!
//! An entry is one cache line of atomic words: a key, a value, a version and the link to the next entry of its bucket. The version is
//! odd while the entry says something and changes whenever that changes, so that a [`Handle`] tells for the price of one load whether
//! what was read through it still holds. A reader compares the version before and after reading the words and so never sees a mix of two
//! values (a sequence lock). Entries never move and their memory is never freed, so a reader may stand on one that is removed under it;
//! that it then walked into another chain shows in the count of changes of its region of the table, and it begins again.
//!
//! There are two buckets for each entry, so that memory is for what is there and not for what there could be. They grow one at a time
//! (linear hashing): a writer that puts an entry in divides a chain or two between an old bucket and a new one, and readers of that region
//! look again. No reader ever waits until all of the table is divided.
//!
//! Writers take one lock. Memory is allocated in pieces when first needed.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::hash;

/// Words of a key.
pub(super) type Key = [u64; 3];

/// Words of a value.
pub(super) type Value = [u64; 3];

/// Logarithm of how much is allocated at a time in the beginning, to the base of 2.
const PIECE: u32 = 6;

/// Parts of the table whose removed and divided chains are counted apart, a power of two; and buckets in the beginning. The region of a
/// key follows from those bits of its hash by which its bucket is found however many there are.
const REGIONS: usize = 64;

/// Buckets that a new entry makes, unless there are two for each.
const GROWTH: usize = 2;

/// How often a reader that was disturbed begins again before it waits for the writer.
const TRIES: usize = 64;

/// Entries of one bucket that a reader follows; more of them only follow one another if it strayed.
const LONGEST: usize = 256;

/// Names what one entry said at one time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle {
    slot: u32,
    version: u32,
}

impl Handle {
    /// Names nothing; always current.
    pub const NONE: Self = Self { slot: u32::MAX, version: 0 };

    pub(super) fn index(self) -> u32 {
        self.slot
    }
}

impl Default for Handle {
    fn default() -> Self {
        Self::NONE
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    key: [AtomicU64; 3],
    value: [AtomicU64; 3],
    /// Not covered by the version: when the entry was last of use.
    aux: AtomicU64,
    /// Odd = the words are what they are; even = nothing, or being written.
    version: AtomicU32,
    /// One more than the index of the next entry in the bucket; 0 = none.
    next: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() == 64, "one cache line");

impl Slot {
    /// Version, key and value, if they belong together.
    #[inline]
    fn read(&self) -> Option<(u32, Key, Value)> {
        let version = self.version.load(Ordering::Acquire);
        if version & 1 == 0 {
            return None;
        }
        let load = |words: &[AtomicU64; 3]| {
            [
                words[0].load(Ordering::Relaxed),
                words[1].load(Ordering::Relaxed),
                words[2].load(Ordering::Relaxed),
            ]
        };
        let (key, value) = (load(&self.key), load(&self.value));
        fence(Ordering::Acquire);
        (self.version.load(Ordering::Relaxed) == version).then_some((version, key, value))
    }

    /// The writer only.
    fn begin(&self) -> u32 {
        let version = self.version.load(Ordering::Relaxed);
        let writing = version.wrapping_add(version & 1);
        self.version.store(writing, Ordering::Relaxed);
        fence(Ordering::Release);
        writing
    }

    fn set(words: &[AtomicU64; 3], to: [u64; 3]) {
        for (word, to) in words.iter().zip(to) {
            word.store(to, Ordering::Relaxed);
        }
    }
}

/// What allocates itself in pieces: 2^S of 2^[`PIECE`], then 2^S of twice that, and so on. So what is not used is at most a 2^S-th part,
/// and the list of pieces stays so short that it is always at hand. The last pieces of a large table are megabytes, which an allocator can
/// put into huge pages.
#[derive(Debug)]
struct Pieces<T, const S: u32>(Box<[OnceLock<Box<[T]>>]>);

impl<T: Default, const S: u32> Pieces<T, S> {
    fn new(len: usize) -> Self {
        Self((0..=Self::place(len).0).map(|_| OnceLock::new()).collect())
    }

    /// In which piece something is, and where in it.
    #[inline]
    const fn place(index: usize) -> (usize, usize) {
        let at = index + (1 << (S + PIECE));
        let size = at.ilog2() - S;
        let piece = ((size - PIECE) << S) as usize | (at >> size) & ((1 << S) - 1);
        (piece, at & ((1 << size) - 1))
    }

    #[inline]
    fn get(&self, index: usize) -> Option<&T> {
        let (piece, at) = Self::place(index);
        self.0.get(piece)?.get()?.get(at)
    }

    fn allocate(&self, index: usize) -> Option<&T> {
        let (piece, at) = Self::place(index);
        let fresh = || (0..1_usize << (PIECE as usize + (piece >> S))).map(|_| T::default()).collect();
        self.0.get(piece)?.get_or_init(fresh).get(at)
    }

    fn bytes(&self) -> usize {
        let used: usize =
            self.0.iter().filter_map(|piece| piece.get()).map(|piece| size_of_val(&**piece)).sum();
        used + size_of_val(&*self.0)
    }
}

/// What [`Table::grown`] says of so many buckets, of which there are some.
const fn grown(count: u32) -> u64 {
    let bits = (1 << (u32::BITS - (count - 1).leading_zeros())) - 1;
    (bits as u64) << 32 | count as u64
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    slots: Pieces<Slot, 3>,
    /// One more than the index of the bucket's first entry; 0 = none.
    buckets: Pieces<AtomicU32, 0>,
    /// How many buckets are in use, and in the upper half as many bits as number all of them.
    grown: AtomicU64,
    /// Removals and divisions, odd during one.
    regions: [AtomicU32; REGIONS],
    seeds: [u64; 3],
    capacity: u32,
    free: Mutex<Free>,
    /// For those who read, decide and write; [`Table::exclusive`].
    writers: Mutex<()>,
}

/// Which slots hold nothing.
#[derive(Debug, Default)]
struct Free {
    /// One more than the index of the first one that held something; the others are linked.
    first: u32,
    /// All from here on were never used.
    fresh: u32,
    used: u32,
}

/// Whether two keys are equal, word by word: `==` of arrays goes through memory, where what was just loaded is not found again as quickly.
#[inline]
fn is_same(a: &Key, b: &Key) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) == 0
}

enum Search {
    Found(Handle, Value),
    Absent,
    Disturbed,
}

impl Table {
    /// An empty table for `capacity` entries. `seed` must be secret and random: guests choose keys.
    pub(super) fn new(seed: u64, capacity: u32) -> Self {
        let capacity = capacity.clamp(1, 1 << 28);
        Self {
            slots: Pieces::new(capacity as usize),
            buckets: Pieces::new((capacity as usize * GROWTH).max(REGIONS)),
            grown: AtomicU64::new(grown(REGIONS as u32)),
            regions: std::array::from_fn(|_| AtomicU32::new(0)),
            seeds: std::array::from_fn(|i| hash::expand(seed, i as u64)),
            capacity,
            free: Mutex::default(),
            writers: Mutex::default(),
        }
    }

    #[inline]
    fn hash(&self, key: &Key) -> u64 {
        let [s0, s1, s2] = self.seeds;
        hash::fold(hash::fold(key[0] ^ s0, key[2] ^ s1), key[1] ^ s2)
    }

    #[inline]
    fn region(&self, hash: u64) -> &AtomicU32 {
        &self.regions[hash as usize & (REGIONS - 1)]
    }

    /// The bucket of a hash, of those that are in use now.
    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        let grown = self.grown.load(Ordering::Acquire);
        let (count, bits) = (grown as u32, (grown >> 32) as u32);
        let at = hash as u32 & bits;
        (if at < count { at } else { at & bits >> 1 }) as usize
    }

    /// What the table says about a key.
    #[inline]
    pub(super) fn find(&self, key: &Key) -> Option<(Handle, Value)> {
        let hash = self.hash(key);
        let region = self.region(hash);
        for _ in 0..TRIES {
            let before = region.load(Ordering::Acquire);
            match self.search(key, hash) {
                Search::Found(handle, value) => return Some((handle, value)),
                Search::Absent => {
                    fence(Ordering::Acquire);
                    if before & 1 == 0 && region.load(Ordering::Relaxed) == before {
                        return None;
                    }
                }
                Search::Disturbed => {}
            }
            std::hint::spin_loop();
        }
        let _still = self.lock();
        match self.search(key, hash) {
            Search::Found(handle, value) => Some((handle, value)),
            Search::Absent | Search::Disturbed => None,
        }
    }

    #[inline]
    fn search(&self, key: &Key, hash: u64) -> Search {
        let Some(bucket) = self.buckets.get(self.bucket(hash)) else { return Search::Absent };
        let mut at = bucket.load(Ordering::Acquire);
        for _ in 0..LONGEST {
            if at == 0 {
                return Search::Absent;
            }
            let Some(slot) = self.slots.get(at as usize - 1) else { return Search::Disturbed };
            let Some((version, found, value)) = slot.read() else { return Search::Disturbed };
            if is_same(&found, key) {
                return Search::Found(Handle { slot: at - 1, version }, value);
            }
            at = slot.next.load(Ordering::Acquire);
        }
        Search::Disturbed
    }

    /// What an entry says now; `None` = nothing.
    pub(super) fn read(&self, index: u32) -> Option<(Handle, Key, Value)> {
        let slot = self.slots.get(index as usize)?;
        let whole = |(version, key, value)| (Handle { slot: index, version }, key, value);
        for _ in 0..TRIES {
            if let Some(read) = slot.read() {
                return Some(whole(read));
            }
            if slot.version.load(Ordering::Acquire) == 0 {
                return None;
            }
            std::hint::spin_loop();
        }
        let _still = self.lock();
        slot.read().map(whole)
    }

    /// Whether what was read through the handle still holds.
    #[inline]
    pub(super) fn is_current(&self, handle: Handle) -> bool {
        handle == Handle::NONE
            || self
                .slots
                .get(handle.slot as usize)
                .is_some_and(|slot| slot.version.load(Ordering::Acquire) == handle.version)
    }

    /// Notes when an entry was of use, without making a new version of it.
    pub(super) fn touch(&self, index: u32, aux: u64) {
        if let Some(slot) = self.slots.get(index as usize) {
            slot.aux.fetch_max(aux, Ordering::Relaxed);
        }
    }

    /// What [`Table::touch`] noted.
    pub(super) fn touched(&self, index: u32) -> u64 {
        self.slots.get(index as usize).map_or(0, |slot| slot.aux.load(Ordering::Relaxed))
    }

    /// Entries in the table.
    pub(super) fn len(&self) -> usize {
        self.lock().used as usize
    }

    /// Most entries.
    pub(super) fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// One more than the largest index that ever was in use.
    pub(super) fn extent(&self) -> u32 {
        self.lock().fresh
    }

    /// Memory that the table has allocated, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.slots.bytes() + self.buckets.bytes()
    }

    /// Keeps other writers out that ask for this, too.
    pub(super) fn exclusive(&self) -> MutexGuard<'_, ()> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every step of a writer leaves the table such that readers can use it; after a panic between two of them an entry may be lost.
    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an entry in that is not there yet; `None` if the table is full. The caller is the only one to write this key.
    pub(super) fn insert(&self, key: &Key, value: Value, aux: u64) -> Option<Handle> {
        let mut free = self.lock();
        for _ in 0..GROWTH {
            self.divide(free.used.saturating_add(1));
        }
        let hash = self.hash(key);
        let bucket = self.buckets.allocate(self.bucket(hash))?;
        let index = if free.first != 0 {
            free.first - 1
        } else if free.fresh < self.capacity {
            free.fresh
        } else {
            return None;
        };
        let slot = self.slots.allocate(index as usize)?;
        if free.first == 0 {
            free.fresh += 1;
        } else {
            free.first = slot.next.load(Ordering::Relaxed);
        }
        free.used += 1;
        let version = slot.begin().wrapping_add(1);
        Slot::set(&slot.key, *key);
        Slot::set(&slot.value, value);
        slot.aux.store(aux, Ordering::Relaxed);
        slot.next.store(bucket.load(Ordering::Relaxed), Ordering::Release);
        slot.version.store(version, Ordering::Release);
        bucket.store(index + 1, Ordering::Release);
        Some(Handle { slot: index, version })
    }

    /// One bucket more, if there are not [`GROWTH`] for each of that many entries: it takes its part of the chain of the bucket where its keys
    /// were until now. For who has the lock.
    fn divide(&self, entries: u32) {
        let new = self.grown.load(Ordering::Relaxed) as u32;
        if new as usize >= entries as usize * GROWTH {
            return;
        }
        let whole = 1 << new.ilog2();
        let Some(to) = self.buckets.allocate(new as usize) else { return };
        let mut link = self.buckets.get((new - whole) as usize);
        // Of both buckets, because their numbers end in the same bits.
        let region = self.region(u64::from(new));
        region.fetch_add(1, Ordering::AcqRel);
        while let Some(from) = link {
            let at = from.load(Ordering::Relaxed);
            let Some(slot) = (at as usize).checked_sub(1).and_then(|index| self.slots.get(index)) else {
                break;
            };
            let key = [0, 1, 2].map(|word: usize| slot.key[word].load(Ordering::Relaxed));
            if self.hash(&key) as u32 & (2 * whole - 1) == new {
                from.store(slot.next.load(Ordering::Relaxed), Ordering::Release);
                slot.next.store(to.load(Ordering::Relaxed), Ordering::Release);
                to.store(at, Ordering::Release);
            } else {
                link = Some(&slot.next);
            }
        }
        self.grown.store(grown(new + 1), Ordering::Release);
        region.fetch_add(1, Ordering::AcqRel);
    }

    /// Gives an entry another value. The caller is the only one to write this entry.
    pub(super) fn update(&self, index: u32, value: Value) {
        let _alone = self.lock();
        if let Some(slot) = self.slots.get(index as usize)
            && slot.version.load(Ordering::Relaxed) & 1 == 1
        {
            let version = slot.begin().wrapping_add(1);
            Slot::set(&slot.value, value);
            slot.version.store(version, Ordering::Release);
        }
    }

    /// Takes an entry out.
    pub(super) fn remove(&self, key: &Key) -> Option<(u32, Value)> {
        let mut free = self.lock();
        let hash = self.hash(key);
        let mut link = self.buckets.get(self.bucket(hash))?;
        loop {
            let at = link.load(Ordering::Relaxed);
            let slot = self.slots.get((at as usize).checked_sub(1)?)?;
            let (_, found, value) = slot.read()?;
            if found != *key {
                link = &slot.next;
                continue;
            }
            let region = self.region(hash);
            region.fetch_add(1, Ordering::AcqRel);
            link.store(slot.next.load(Ordering::Relaxed), Ordering::Release);
            slot.begin();
            slot.next.store(free.first, Ordering::Release);
            region.fetch_add(1, Ordering::AcqRel);
            free.first = at;
            free.used -= 1;
            return Some((at - 1, value));
        }
    }
}
