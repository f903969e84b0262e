//! A fixed two-way set-associative table of verdicts. One set is one cache line; nothing is allocated after construction.

use crate::flow::Key;
use crate::hash;
use crate::verdict::Verdict;

/// What is remembered of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// Every frame with its key has this verdict, and nothing else is to be done with it.
    Verdict(Verdict),
    /// What the key holds does not decide.
    LookDeeper,
}

/// One remembered flow: 32 bytes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    /// 0 = empty.
    epoch: u64,
    known: Known,
    /// From this tick on the pipeline must see the flow again; `u32::MAX` = never.
    revisit: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Set([Entry; 2]);

/// The table of one worker.
#[derive(Debug)]
pub struct FlowCache {
    sets: Box<[Set]>,
    shift: u32,
    seeds: [u64; 2],
}

impl FlowCache {
    /// A table for `entries` flows, rounded up to a power of two, at least 4 and at most 2^24.
    pub fn new(seed: u64, entries: usize) -> Self {
        let sets = entries.clamp(4, 1 << 24).div_ceil(2).next_power_of_two();
        let empty = Entry { key: Key { a: 0, b: 0 }, epoch: 0, known: Known::LookDeeper, revisit: u32::MAX };
        Self {
            sets: vec![Set([empty; 2]); sets].into_boxed_slice(),
            shift: u64::BITS - sets.trailing_zeros(),
            seeds: [hash::expand(seed, 0), hash::expand(seed, 1)],
        }
    }

    /// How many flows fit.
    pub fn capacity(&self) -> usize {
        self.sets.len() * 2
    }

    #[inline]
    fn index(&self, key: Key) -> usize {
        (hash::fold(key.a ^ self.seeds[0], key.b ^ self.seeds[1]) >> self.shift) as usize
    }

    /// What is remembered of a flow in this epoch, unless it is due to be looked at again at `tick`: its verdict, or that
    /// it must be looked at more deeply.
    #[inline]
    pub(crate) fn get(&self, key: Key, epoch: u64, tick: u32) -> Option<Known> {
        let Set([first, second]) = self.sets.get(self.index(key))?;
        let hit = |e: &Entry| e.key == key && e.epoch == epoch && tick < e.revisit;
        if hit(first) {
            return Some(first.known);
        }
        hit(second).then_some(second.known)
    }

    /// Remembers a verdict; of the set's two, an outdated one or else the older one makes room.
    pub(crate) fn put(&mut self, key: Key, epoch: u64, known: Known, revisit: u32) {
        let index = self.index(key);
        if let Some(Set(ways)) = self.sets.get_mut(index) {
            let entry = Entry { key, epoch, known, revisit };
            if ways[1].key == key {
                ways[1] = entry;
            } else {
                if ways[0].key != key && ways[0].epoch == epoch {
                    ways[1] = ways[0];
                }
                ways[0] = entry;
            }
        }
    }
}
