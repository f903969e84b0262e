//! The per-worker flow cache: what the pipeline decided, remembered for the next frame of the same flow.
//!
//! Each worker owns one [`Forwarder`]; nothing in here is shared. [`Forwarder::begin`] once per burst, then
//! [`Forwarder::judge`] per frame, then [`Forwarder::take_events`]. A cached verdict holds as long as neither policy nor
//! the forwarding database changed; either makes a new *epoch*, and verdicts of an older one count as missing.
//!
//! There are two tables. Where neither port of a flow has policy beyond addresses and VLAN, the small one answers: 32 bytes for all
//! frames between two addresses. Else it says "look deeper" (or is not asked, if it is the sender that has such policy), and the other one
//! tells flows apart down to their ports and knows what is to be counted. A hit there is only good while the sessions it belongs
//! to live, and a frame under a storm limit is counted each time.

mod cache;
mod deep;
mod key;
mod notices;

pub use cache::FlowCache;
use cache::Known;
pub use key::{DeepKey, Key};

use crate::event::Event;
use crate::pipeline::{self, Actions, Decision, Verdict};
use crate::session::Handle;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::trace::DropReason;
use crate::{Nanos, PortId};
use deep::{DeepCache, Remembered};
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

/// What a frame costs and needs beside its verdict.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// What is to be done.
    pub actions: Actions,
    /// Frames with the same non-zero number have the same actions; only within one burst. 0 = there is nothing to do, and
    /// `actions` is not set.
    pub flow: u32,
}

/// One worker's judge of frames.
#[derive(Debug)]
pub struct Forwarder {
    cache: FlowCache,
    deep: DeepCache,
    /// Policy epoch and generation of the forwarding database in one number. Both only grow, so two different states
    /// never have the same sum.
    epoch: u64,
    /// When the burst began.
    tick: u32,
    /// The port the burst came from has policy that looks into packets.
    looks: bool,
    /// Numbers of plans that are not in the table: above all that are.
    next_single: u32,
    /// The flow of the frame before, within the burst: most frames follow one of their own flow. 0 = there is none.
    last: (u32, DeepKey),
    hits: u64,
    misses: u64,
    notices: Notices,
}

/// Seconds, roughly: the unit in which flows are looked at again.
#[inline]
const fn tick(now: Nanos) -> u32 {
    (now >> 30) as u32
}

/// First number of plans that are not in the table.
const SINGLE: u32 = 1 << 25;

impl Forwarder {
    /// A judge that remembers up to `entries` flows by address (32 bytes each) and half as many by all that policy looks at (128
    /// bytes each); rounded up to powers of two. `seed` must be secret and random: guests choose the keys.
    pub fn new(seed: u64, entries: usize) -> Self {
        Self {
            cache: FlowCache::new(seed, entries),
            deep: DeepCache::new(seed, entries / 2),
            epoch: 0,
            tick: 0,
            looks: false,
            next_single: SINGLE,
            last: (0, DeepKey::default()),
            hits: 0,
            misses: 0,
            notices: Notices::default(),
        }
    }

    /// Begins a burst of `from` at `now`: from here on verdicts follow this state of policy and forwarding database.
    #[inline]
    pub fn begin(&mut self, snap: &Snapshot, state: &State, now: Nanos, from: PortId) {
        self.tick = tick(now);
        self.epoch = epoch(snap, state);
        self.looks = snap.port(from).is_some_and(|port| port.policy.looks());
        self.next_single = SINGLE;
        self.last.0 = 0;
    }

    /// Judges one frame that `from` sent: its first bytes `head` (all of it, or at least [`crate::HEAD_LEN`]) and its
    /// whole length in bytes, without virtio-net header and FCS. `snap` and `from` are those given to [`Forwarder::begin`]. What
    /// is to be done beside the verdict is written to `plan`.
    #[inline]
    #[allow(clippy::too_many_arguments)] // a frame, and what it is judged by
    pub fn judge(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        from: PortId,
        head: &[u8],
        len: u32,
        plan: &mut Plan,
    ) -> Verdict {
        if self.looks {
            return self.judge_deeply(snap, state, now, from, head, len, plan);
        }
        let key = Key::new(from, head, len);
        if let Some(key) = key
            && let Some(known) = self.cache.get(key, self.epoch, self.tick)
        {
            let Known::Verdict(verdict) = known else {
                return self.judge_deeply(snap, state, now, from, head, len, plan);
            };
            self.hits += 1;
            plan.flow = 0;
            return verdict;
        }
        self.miss(snap, state, now, from, head, len, (key, None), plan)
    }

    #[allow(clippy::too_many_arguments)] // the arguments of `judge`, passed on
    fn judge_deeply(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        from: PortId,
        head: &[u8],
        len: u32,
        plan: &mut Plan,
    ) -> Verdict {
        let key = DeepKey::new(from, head, len);
        if let Some(key) = &key {
            let follows = self.last.0 != 0 && self.last.1 == *key;
            let place = if follows {
                Some(self.last.0 as usize - 1)
            } else {
                self.deep.find(key, self.epoch, self.tick).filter(|&place| self.is_live(place, state, now))
            };
            if let Some(place) = place
                && let Some(known) = self.deep.at(place)
            {
                self.hits += 1;
                self.last = (place as u32 + 1, *key);
                plan.flow = place as u32 + 1;
                plan.actions = known.actions;
                if known.actions.storm && !pipeline::storm_admits(snap, state, now, from) {
                    *plan = Plan::default();
                    return Verdict::Drop(DropReason::StormLimit);
                }
                return known.verdict;
            }
        }
        self.miss(snap, state, now, from, head, len, (None, key), plan)
    }

    /// Whether the sessions that a decision goes back to, or their absence, last.
    #[inline]
    fn is_live(&self, place: usize, state: &State, now: Nanos) -> bool {
        let live = |session| session == Handle::NONE || state.sessions.touch(now, session);
        self.deep
            .at(place)
            .is_some_and(|known| live(known.actions.out.session) && live(known.actions.inward.session))
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
        (key, deep): (Option<Key>, Option<DeepKey>),
        plan: &mut Plan,
    ) -> Verdict {
        self.misses += 1;
        self.last.0 = 0;
        let before = epoch(snap, state);
        let mut decision = pipeline::decide(snap, state, now, from, head, len);
        if let Some(event) = decision.event.take() {
            self.notices.add(now, event);
        }
        let deep = if decision.deep { deep.or_else(|| DeepKey::new(from, head, len)) } else { deep };
        self.remember(key, deep.as_ref(), before, epoch(snap, state), &decision);
        *plan = Plan::default();
        if decision.deep && decision.actions != Actions::default() {
            plan.actions = decision.actions;
            plan.flow = self.next_single;
            self.next_single += 1;
        }
        decision.verdict
    }

    /// Keeps a decision that was worked out between epochs `before` and `after`. If they differ, the table changed meanwhile
    /// (by this very frame, or by another worker), and what was looked up may be what was before the change: then the
    /// next frame is to ask again.
    fn remember(
        &mut self,
        key: Option<Key>,
        deep: Option<&DeepKey>,
        before: u64,
        after: u64,
        decision: &Decision,
    ) {
        self.epoch = after;
        if before != after {
            return;
        }
        let &Decision { verdict, actions, single, .. } = decision;
        let revisit = if decision.revisit { self.tick.saturating_add(1) } else { u32::MAX };
        if let Some(key) = key {
            let (known, revisit) = if decision.deep {
                (Known::LookDeeper, u32::MAX)
            } else {
                (Known::Verdict(verdict), revisit)
            };
            // A frame that stands for itself says nothing about the next one, not even that it has to be looked at deeply.
            if !single || decision.deep {
                self.cache.put(key, after, known, revisit);
            }
        }
        if let Some(deep) = deep
            && !single
        {
            self.deep.put(deep, after, Remembered { verdict, actions, revisit });
        }
    }

    /// One receiver's part of a flooded frame; see [`pipeline::copy`].
    pub fn copy(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        ports: (PortId, PortId),
        head: &[u8],
        len: u32,
    ) -> Option<(Verdict, Actions)> {
        let decision = pipeline::copy(snap, state, now, ports, head, len)?;
        if let Some(event) = decision.event {
            self.notices.add(now, event);
        }
        Some((decision.verdict, decision.actions))
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
        let decision = Decision { verdict, ..Decision::drop(DropReason::NoSuchPort) };
        forwarder.remember(Some(key), None, 5, 6, &decision);
        assert_eq!((forwarder.cache.get(key, 5, 0), forwarder.cache.get(key, 6, 0)), (None, None));
        assert_eq!(forwarder.epoch, 6, "the rest of the burst follows the new state");
        forwarder.remember(Some(key), None, 6, 6, &decision);
        assert_eq!(forwarder.cache.get(key, 6, 0), Some(Known::Verdict(verdict)));
    }
}
