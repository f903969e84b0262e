//! The table for flows that policy looks into: a fixed two-way set-associative table. A flow's key is one cache line and what is
//! remembered of it another; nothing is allocated after construction.

use crate::flow::key::{DeepKey, WORDS};
use crate::hash;
use crate::trace::DropReason;
use crate::verdict::{Actions, Verdict};

/// One flow's key.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Slot {
    key: [u64; WORDS],
    /// 0 = empty.
    epoch: u64,
}

/// What was decided about a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(align(64))]
pub(crate) struct Remembered {
    pub(crate) verdict: Verdict,
    pub(crate) actions: Actions,
    /// From this tick on the pipeline must see the flow again; `u32::MAX` = never.
    pub(crate) revisit: u32,
}

/// The table of one worker.
#[derive(Debug)]
pub(crate) struct DeepCache {
    slots: Box<[Slot]>,
    remembered: Box<[Remembered]>,
    shift: u32,
    seeds: [u64; WORDS],
}

impl DeepCache {
    /// A table for `entries` flows (128 bytes each), rounded up to a power of two, at least 4 and at most 2^24.
    pub(crate) fn new(seed: u64, entries: usize) -> Self {
        let slots = entries.clamp(4, 1 << 24).next_power_of_two();
        let nothing = Remembered {
            verdict: Verdict::Drop(DropReason::NoSuchPort),
            actions: Actions::default(),
            revisit: u32::MAX,
        };
        Self {
            slots: vec![Slot { key: [0; WORDS], epoch: 0 }; slots].into_boxed_slice(),
            remembered: vec![nothing; slots].into_boxed_slice(),
            shift: u64::BITS - (slots / 2).trailing_zeros(),
            seeds: std::array::from_fn(|i| hash::expand(seed, 8 + i as u64)),
        }
    }

    /// The first of the two slots a flow may be in.
    #[inline]
    fn index(&self, key: &DeepKey) -> usize {
        let word = |i: usize| key.0[i] ^ self.seeds[i];
        let pair = |i: usize| hash::fold(word(i), word(i + 1));
        let hash = hash::fold(pair(0) ^ pair(2) ^ pair(4), word(6));
        (hash >> self.shift) as usize * 2
    }

    /// Where a flow's decision of this epoch is, unless it is due to be looked at again at `tick`.
    #[inline]
    pub(crate) fn find(&self, key: &DeepKey, epoch: u64, tick: u32) -> Option<usize> {
        let first = self.index(key);
        let hit = |at: usize| {
            self.slots.get(at).is_some_and(|slot| slot.epoch == epoch && slot.key == key.0)
                && self.remembered.get(at).is_some_and(|r| tick < r.revisit)
        };
        if hit(first) {
            return Some(first);
        }
        hit(first + 1).then_some(first + 1)
    }

    /// What is remembered at a place that [`DeepCache::find`] gave.
    #[inline]
    pub(crate) fn at(&self, place: usize) -> Option<&Remembered> {
        self.remembered.get(place)
    }

    /// Remembers a decision; of the set's two, an outdated one or else the older one makes room.
    pub(crate) fn put(&mut self, key: &DeepKey, epoch: u64, decision: Remembered) {
        let first = self.index(key);
        let (Some([a, b]), Some([x, y])) =
            (self.slots.get_mut(first..first + 2), self.remembered.get_mut(first..first + 2))
        else {
            return;
        };
        let slot = Slot { key: key.0, epoch };
        if b.key == key.0 {
            (*b, *y) = (slot, decision);
            return;
        }
        if a.key != key.0 && a.epoch == epoch {
            (*b, *y) = (*a, *x);
        }
        (*a, *x) = (slot, decision);
    }
}
