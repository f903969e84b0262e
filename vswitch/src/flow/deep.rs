//! The table for flows that policy looks into: a fixed two-way set-associative table. A flow's key is one cache line and what is
//! remembered of it another; nothing is allocated after construction.

use crate::flow::key::WORDS;
use crate::hash;
use crate::nv::overlay::Overlay;
use crate::nv::records::Handle;
use crate::trace::DropReason;
use crate::verdict::{Actions, Verdict};

/// One flow's key.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Slot<const W: usize> {
    key: [u64; W],
    /// 0 = empty.
    epoch: u64,
}

const _: () = assert!(size_of::<Slot<WORDS>>() == 64, "one cache line");

/// What is remembered of a flow.
pub(crate) trait Entry: Copy {
    /// What an empty slot holds.
    const NOTHING: Self;

    /// From this tick on the pipeline must see the flow again; `u32::MAX` = never.
    fn revisit(&self) -> u32;
}

/// What was decided about a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(align(64))]
pub(crate) struct Remembered {
    pub(crate) verdict: Verdict,
    pub(crate) actions: Actions,
    /// There are no actions.
    pub(crate) plain: bool,
    /// From this tick on the pipeline must see the flow again; `u32::MAX` = never.
    pub(crate) revisit: u32,
}

impl Entry for Remembered {
    const NOTHING: Self = Self {
        verdict: Verdict::Drop(DropReason::NoSuchPort),
        actions: Actions::NONE,
        plain: true,
        revisit: u32::MAX,
    };

    #[inline]
    fn revisit(&self) -> u32 {
        self.revisit
    }
}

/// What was decided about a flow of a virtual subnet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(align(64))]
pub(crate) struct Carried {
    pub(crate) verdict: Verdict,
    pub(crate) actions: Actions,
    pub(crate) overlay: Option<Overlay>,
    /// Good while these lookup records are what they were.
    pub(crate) records: [Handle; 2],
    pub(crate) revisit: u32,
}

const _: () = assert!(size_of::<Remembered>() == 64, "one cache line");
const _: () = assert!(size_of::<Carried>() == 128, "two cache lines");

impl Entry for Carried {
    const NOTHING: Self = Self {
        verdict: Verdict::Drop(DropReason::NoSuchPort),
        actions: Actions::NONE,
        overlay: None,
        records: [Handle::NONE; 2],
        revisit: u32::MAX,
    };

    #[inline]
    fn revisit(&self) -> u32 {
        self.revisit
    }
}

/// Whether two keys are equal; unlike `==` it calls no function.
#[inline]
fn is_same<const W: usize>(a: &[u64; W], b: &[u64; W]) -> bool {
    a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// The table of one worker.
#[derive(Debug)]
pub(crate) struct DeepCache<const W: usize, R> {
    slots: Box<[Slot<W>]>,
    remembered: Box<[R]>,
    shift: u32,
    seeds: [u64; W],
}

impl<const W: usize, R: Entry> DeepCache<W, R> {
    /// A table for `entries` flows (128 bytes each; 256 with lookup records), rounded up to a power of two, at least 4 and at most 2^24.
    pub(crate) fn new(seed: u64, entries: usize) -> Self {
        let slots = entries.clamp(4, 1 << 24).next_power_of_two();
        Self {
            slots: vec![Slot { key: [0; W], epoch: 0 }; slots].into_boxed_slice(),
            remembered: vec![R::NOTHING; slots].into_boxed_slice(),
            shift: u64::BITS - (slots / 2).trailing_zeros(),
            seeds: std::array::from_fn(|i| hash::expand(seed, 8 + i as u64)),
        }
    }

    /// The first of the two slots a flow may be in.
    #[inline]
    fn index(&self, key: &[u64; W]) -> usize {
        const { assert!(W == WORDS || W == WORDS + 1) };
        let word = |i: usize| key[i] ^ self.seeds[i];
        let pair = |i: usize| hash::fold(word(i), word(i + 1));
        let mut hash = hash::fold(pair(0) ^ pair(2) ^ pair(4), word(6));
        if W > WORDS {
            hash = hash::fold(hash ^ self.seeds[0], word(W - 1));
        }
        (hash >> self.shift) as usize * 2
    }

    /// Where a flow's decision of this epoch is, unless it is due to be looked at again at `tick`.
    #[inline]
    pub(crate) fn find(&self, key: &[u64; W], epoch: u64, tick: u32) -> Option<usize> {
        let first = self.index(key);
        let hit = |at: usize| {
            self.slots.get(at).is_some_and(|slot| slot.epoch == epoch && is_same(&slot.key, key))
                && self.remembered.get(at).is_some_and(|r| tick < r.revisit())
        };
        if hit(first) {
            return Some(first);
        }
        hit(first + 1).then_some(first + 1)
    }

    /// What is remembered at a place that [`DeepCache::find`] gave.
    #[inline]
    pub(crate) fn at(&self, place: usize) -> Option<&R> {
        self.remembered.get(place)
    }

    /// Remembers a decision; of the set's two, an outdated one or else the older one makes room.
    pub(crate) fn put(&mut self, key: &[u64; W], epoch: u64, decision: R) {
        let first = self.index(key);
        let (Some([a, b]), Some([x, y])) =
            (self.slots.get_mut(first..first + 2), self.remembered.get_mut(first..first + 2))
        else {
            return;
        };
        let slot = Slot { key: *key, epoch };
        if b.key == *key {
            (*b, *y) = (slot, decision);
            return;
        }
        if a.key != *key && a.epoch == epoch {
            (*b, *y) = (*a, *x);
        }
        (*a, *x) = (slot, decision);
    }
}
