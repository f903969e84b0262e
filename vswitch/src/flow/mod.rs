//! The per-worker flow cache: what the pipeline decided, remembered for the next frame of the same flow.
//!
//! Each worker owns one [`Forwarder`]; nothing in here is shared. [`Forwarder::begin`] once per burst, then
//! [`Forwarder::judge`] per frame, then [`Forwarder::take_events`]. A cached verdict holds as long as neither policy nor
//! the forwarding database changed; either makes a new *epoch*, and verdicts of an older one count as missing.

mod cache;
mod key;
mod notices;

pub use cache::FlowCache;
pub use key::Key;

use crate::event::Event;
use crate::pipeline::{self, Verdict};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::{Nanos, PortId};
use notices::Notices;

/// How often the cache knew the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Frames judged from the cache.
    pub hits: u64,
    /// Frames judged by the pipeline.
    pub misses: u64,
    /// Events that were not reported, because the same kind was reported for the same port within the last second or
    /// because nobody took them.
    pub suppressed_events: u64,
}

/// One worker's judge of frames.
#[derive(Debug)]
pub struct Forwarder {
    cache: FlowCache,
    /// Policy epoch and generation of the forwarding database in one number. Both only grow, so two different states
    /// never have the same sum.
    epoch: u64,
    /// When the burst began.
    tick: u32,
    hits: u64,
    misses: u64,
    notices: Notices,
}

/// Seconds, roughly: the unit in which flows are looked at again.
#[inline]
const fn tick(now: Nanos) -> u32 {
    (now >> 30) as u32
}

impl Forwarder {
    /// A judge that remembers up to `entries` flows (32 bytes each; rounded up to a power of two). `seed` must be secret
    /// and random: guests choose the keys.
    pub fn new(seed: u64, entries: usize) -> Self {
        Self {
            cache: FlowCache::new(seed, entries),
            epoch: 0,
            tick: 0,
            hits: 0,
            misses: 0,
            notices: Notices::default(),
        }
    }

    /// Begins a burst at `now`: from here on verdicts follow this state of policy and forwarding database.
    #[inline]
    pub fn begin(&mut self, snap: &Snapshot, state: &State, now: Nanos) {
        self.tick = tick(now);
        self.epoch = epoch(snap, state);
    }

    /// Judges one frame that `from` sent: its first bytes `head` (all of it, or at least [`crate::HEAD_LEN`]) and its
    /// whole length in bytes, without virtio-net header and FCS. `snap` is the one given to [`Forwarder::begin`].
    #[inline]
    pub fn judge(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        from: PortId,
        head: &[u8],
        len: u32,
    ) -> Verdict {
        match Key::new(from, head, len) {
            Some(key) => {
                if let Some(verdict) = self.cache.get(key, self.epoch, self.tick) {
                    self.hits += 1;
                    return verdict;
                }
                self.miss(snap, state, now, from, head, len, Some(key))
            }
            None => self.miss(snap, state, now, from, head, len, None),
        }
    }

    #[cold]
    #[inline(never)]
    #[allow(clippy::too_many_arguments)] // the arguments of `judge`, passed on
    fn miss(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        from: PortId,
        head: &[u8],
        len: u32,
        key: Option<Key>,
    ) -> Verdict {
        self.misses += 1;
        let before = epoch(snap, state);
        let decision = pipeline::decide(snap, state, now, from, head, len);
        if let Some(event) = decision.event {
            self.notices.add(now, event);
        }
        if let Some(key) = key {
            self.remember(key, before, epoch(snap, state), decision.verdict, decision.revisit);
        }
        decision.verdict
    }

    /// Keeps a verdict that was worked out between epochs `before` and `after`. If they differ, the table changed meanwhile
    /// (by this very frame, or by another worker), and what was looked up may be what was before the change: then the
    /// next frame is to ask again.
    fn remember(&mut self, key: Key, before: u64, after: u64, verdict: Verdict, revisit: bool) {
        self.epoch = after;
        if before == after {
            let revisit = if revisit { self.tick.saturating_add(1) } else { u32::MAX };
            self.cache.put(key, after, verdict, revisit);
        }
    }

    /// What operators may want to know since the last call: at most 64 events, and of one kind for one port at most one
    /// per second.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> {
        self.notices.take()
    }

    /// Whether [`Forwarder::take_events`] has something.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.notices.is_empty()
    }

    /// How often the cache knew the answer, since the beginning.
    pub fn counters(&self) -> CacheCounters {
        CacheCounters { hits: self.hits, misses: self.misses, suppressed_events: self.notices.suppressed() }
    }
}

/// One more than the sum, because empty cache slots have epoch 0.
#[inline]
fn epoch(snap: &Snapshot, state: &State) -> u64 {
    snap.epoch().wrapping_add(state.fdb.generation()).wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_worked_out_while_the_table_changed_is_not_kept() {
        let mut forwarder = Forwarder::new(1, 64);
        let head = [2; 64];
        let key = Key::new(PortId(1), &head, 64).expect("a whole frame");
        let verdict = Verdict::Unicast(PortId(2));
        forwarder.remember(key, 5, 6, verdict, false);
        assert_eq!((forwarder.cache.get(key, 5, 0), forwarder.cache.get(key, 6, 0)), (None, None));
        assert_eq!(forwarder.epoch, 6, "the rest of the burst follows the new state");
        forwarder.remember(key, 6, 6, verdict, false);
        assert_eq!(forwarder.cache.get(key, 6, 0), Some(verdict));
    }
}
