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
//!
//! Flows of virtual subnets have a third table, whether they come from a port or out of a tunnel. A hit there is only good while the lookup
//! records it goes back to are what they were, so a change of one record costs only its own flows their place.

mod asked;
mod cache;
mod copies;
mod deep;
mod key;
mod memo;
mod notices;
mod samples;

pub use cache::FlowCache;
use cache::Known;
pub use key::{DeepKey, Key};

use std::sync::atomic::Ordering;

use crate::event::Event;
use crate::extension::{Effects, Head, Stack};
use crate::frame::ethernet::MAX_LEN;
use crate::nv::model::Encap;
use crate::nv::overlay::{Ingress, Overlay};
use crate::pipeline::{self, Actions, Decision, Verdict};
use crate::session::Handle;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::trace::DropReason;
use crate::{Nanos, PortId, hash, nv};
use deep::{Carried, DeepCache, Remembered};
use key::WORDS;
use memo::Memo;
use notices::Notices;
use samples::Samples;

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
    /// What network virtualization does with the frame.
    pub overlay: Option<Overlay>,
    /// Frames with the same non-zero number have the same actions; only within one burst. 0 = there is nothing to do, and
    /// neither `actions` nor `overlay` is set.
    pub flow: u32,
    /// They are not set: they are those of the last frame of the burst for which they were.
    pub repeats: bool,
}

/// One worker's judge of frames.
#[derive(Debug)]
pub struct Forwarder {
    cache: FlowCache,
    deep: DeepCache<WORDS, Remembered>,
    carried: DeepCache<CARRIED_WORDS, Carried>,
    /// Policy epoch, generation of the forwarding database, and how often extensions took answers back, in one number. They only grow, so
    /// two different states never have the same sum.
    epoch: u64,
    /// When the burst began.
    tick: u32,
    /// The port the burst came from has policy that looks into packets, or is in a virtual subnet.
    looks: bool,
    /// It is in a virtual subnet, and network virtualization is on.
    customer: bool,
    /// Numbers of plans that are not in the table: above all that are.
    next_single: u32,
    /// The frame before, within the burst.
    last: Memo,
    /// The same for one of a virtual subnet, with the last word of its key. At most one of the two is set: they are the last frame that
    /// had a plan.
    last_customer: (Memo, u64),
    hits: u64,
    misses: u64,
    notices: Notices,
    /// What extensions want done.
    effects: Effects,
    /// What an extension put in place of the beginning of the last frame.
    replaced: Option<Box<Head>>,
    samples: Samples,
}

/// Seconds, roughly: the unit in which flows are looked at again.
#[inline]
const fn tick(now: Nanos) -> u32 {
    (now >> 30) as u32
}

/// First number of plans in the table of virtual subnets.
const CARRIED: u32 = 1 << 25;

/// First number of plans that are not in a table.
const SINGLE: u32 = 1 << 26;

/// Words of the key of a flow of a virtual subnet: [`DeepKey`], and out of which tunnel it came.
const CARRIED_WORDS: usize = WORDS + 1;

impl Forwarder {
    /// A judge that remembers up to `entries` flows by address (32 bytes each), half as many by all that policy looks at (128
    /// bytes each), and a quarter as many of virtual subnets (256 bytes each); rounded up to powers of two. `seed` must be secret and random: guests choose the keys.
    pub fn new(seed: u64, entries: usize) -> Self {
        Self {
            cache: FlowCache::new(seed, entries),
            deep: DeepCache::new(seed, entries / 2),
            carried: DeepCache::new(hash::expand(seed, 1), entries / 4),
            epoch: 0,
            tick: 0,
            looks: false,
            customer: false,
            next_single: SINGLE,
            last: Memo::nothing(Verdict::Drop(DropReason::NoSuchPort)),
            last_customer: (Memo::nothing(Verdict::Drop(DropReason::NoSuchPort)), 0),
            hits: 0,
            misses: 0,
            notices: Notices::default(),
            effects: Effects::default(),
            replaced: None,
            samples: Samples::new(hash::expand(seed, 2)),
        }
    }

    /// Begins a burst of `from` at `now`: from here on verdicts follow this state of policy and forwarding database.
    #[inline]
    pub fn begin(&mut self, snap: &Snapshot, state: &State, now: Nanos, from: PortId) {
        self.tick = tick(now);
        self.epoch = epoch(snap, state);
        let port = snap.port(from);
        self.customer = snap.nv().is_some() && port.is_some_and(|port| port.policy.vsid.is_some());
        let extended = snap.extensions().is_some_and(Stack::decides);
        self.looks = self.customer || extended || port.is_some_and(|port| port.policy.looks());
        self.next_single = SINGLE;
        self.forget_last();
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
            if self.customer {
                return self.judge_customer(snap, state, now, from, None, head, len, plan);
            }
            return match self.repeated(head, len, plan) {
                Some(verdict) => verdict,
                None => self.judge_deeply(snap, state, now, from, head, len, plan),
            };
        }
        let key = Key::new(from, head, len);
        if let Some(key) = key
            && let Some(known) = self.cache.get(key, self.epoch, self.tick)
        {
            let Known::Verdict(verdict) = known else {
                return match self.repeated(head, len, plan) {
                    Some(verdict) => verdict,
                    None => self.judge_deeply(snap, state, now, from, head, len, plan),
                };
            };
            self.hits += 1;
            (plan.flow, plan.repeats) = (0, false);
            return verdict;
        }
        self.miss(snap, state, now, from, head, len, (key, None), plan)
    }

    /// As [`Forwarder::judge`], for a customer's frame that came out of a tunnel at `from`, an uplink.
    #[inline]
    #[allow(clippy::too_many_arguments)] // a frame, and what it is judged by
    pub fn judge_inner(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        from: PortId,
        ingress: &Ingress,
        head: &[u8],
        len: u32,
        plan: &mut Plan,
    ) -> Verdict {
        self.judge_customer(snap, state, now, from, Some(ingress), head, len, plan)
    }

    /// A frame of a virtual subnet.
    #[allow(clippy::too_many_arguments)] // the arguments of `judge`, passed on
    fn judge_customer(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        from: PortId,
        ingress: Option<&Ingress>,
        head: &[u8],
        len: u32,
        plan: &mut Plan,
    ) -> Verdict {
        // What is about to expire is judged for itself, because a router's answer to it says nothing about its flow.
        let expires = nv::walk::ttl_of(head).is_some_and(|ttl| ttl <= 1);
        let word = if expires { None } else { last_word(state, ingress) };
        let Some(word) = word else {
            return self.miss_customer(snap, state, now, from, ingress, head, len, None, plan);
        };
        let (last, last_word) = &self.last_customer;
        if len <= MAX_LEN && *last_word == word && last.is_same(head) {
            self.hits += 1;
            (plan.flow, plan.repeats) = (last.flow, true);
            return last.verdict;
        }
        self.forget_last();
        let key =
            DeepKey::new(from, head, len).map(|DeepKey([a, b, c, d, e, f, g])| [a, b, c, d, e, f, g, word]);
        if let Some(key) = &key
            && let Some(place) = self.carried.find(key, self.epoch, self.tick)
            && let Some(&Carried { verdict, actions, overlay, records, .. }) = self.carried.at(place)
            && records.iter().all(|&record| state.nv.records.is_current(record))
            && [actions.out.session, actions.inward.session]
                .iter()
                .all(|&session| session == Handle::NONE || state.sessions.touch(now, session))
        {
            self.hits += 1;
            *plan = Plan { actions, overlay, flow: CARRIED + place as u32, repeats: false };
            if actions.storm && !pipeline::storm_admits(snap, state, now, from) {
                *plan = Plan::default();
                return Verdict::Drop(DropReason::StormLimit);
            }
            if actions.asks != [0; 2] {
                return self.ask(snap, state, now, from, ingress, (head, len), verdict, plan);
            }
            if !actions.storm {
                self.last_customer.0.set(head, plan.flow, verdict);
                self.last_customer.1 = word;
            }
            return verdict;
        }
        self.miss_customer(snap, state, now, from, ingress, head, len, key, plan)
    }

    #[cold]
    #[inline(never)]
    #[allow(clippy::too_many_arguments)] // the arguments of `judge`, passed on
    fn miss_customer(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        from: PortId,
        ingress: Option<&Ingress>,
        head: &[u8],
        len: u32,
        key: Option<[u64; CARRIED_WORDS]>,
        plan: &mut Plan,
    ) -> Verdict {
        self.misses += 1;
        self.forget_last();
        let before = epoch(snap, state);
        let mut decision = match ingress {
            None => pipeline::decide(snap, state, now, from, head, len),
            Some(ingress) => pipeline::decide_inner(snap, state, now, from, ingress, head, len),
        };
        self.absorb(state, now, &mut decision);
        self.epoch = epoch(snap, state);
        let Decision { verdict, actions, overlay, records, single, revisit, .. } = decision;
        // As with the forwarding database: what changed while it was asked is asked again. Of records their versions tell.
        if let Some(key) = key
            && before == self.epoch
            && !single
        {
            let revisit = if revisit { self.tick.saturating_add(1) } else { u32::MAX };
            self.carried.put(&key, before, Carried { verdict, actions, overlay, records, revisit });
        }
        *plan = Plan::default();
        if actions != Actions::NONE || overlay.is_some() {
            (plan.actions, plan.overlay, plan.flow) = (actions, overlay, self.next_single);
            self.next_single += 1;
        }
        verdict
    }

    /// The verdict of the frame before, if this one is of its flow.
    #[inline]
    fn repeated(&mut self, head: &[u8], len: u32, plan: &mut Plan) -> Option<Verdict> {
        if len > MAX_LEN || !self.last.is_same(head) {
            return None;
        }
        self.hits += 1;
        (plan.flow, plan.repeats) = (self.last.flow, true);
        Some(self.last.verdict)
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
        self.last_customer.0.known = false;
        let key = DeepKey::new(from, head, len);
        if let Some(DeepKey(key)) = &key
            && let Some(place) = self.deep.find(key, self.epoch, self.tick)
            && self.is_live(place, state, now)
            && let Some(&Remembered { verdict, actions, plain, .. }) = self.deep.at(place)
        {
            self.hits += 1;
            if plain {
                (plan.flow, plan.repeats) = (0, false);
                self.last.set(head, 0, verdict);
                return verdict;
            }
            (plan.actions, plan.overlay, plan.flow, plan.repeats) = (actions, None, place as u32 + 1, false);
            if actions.storm || actions.asks != [0; 2] {
                // Each frame of it is counted or asked about, so none may be taken for the one before.
                self.last.known = false;
                if actions.storm && !pipeline::storm_admits(snap, state, now, from) {
                    *plan = Plan::default();
                    return Verdict::Drop(DropReason::StormLimit);
                }
                if actions.asks != [0; 2] {
                    return self.ask(snap, state, now, from, None, (head, len), verdict, plan);
                }
            } else {
                self.last.set(head, plan.flow, verdict);
            }
            return verdict;
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
        self.forget_last();
        let before = epoch(snap, state);
        let mut decision = pipeline::decide(snap, state, now, from, head, len);
        self.absorb(state, now, &mut decision);
        let deep = if decision.deep { deep.or_else(|| DeepKey::new(from, head, len)) } else { deep };
        self.remember(key, deep.as_ref(), before, epoch(snap, state), &decision);
        *plan = Plan::default();
        if decision.deep && decision.actions != Actions::default() {
            (plan.actions, plan.flow) = (decision.actions, self.next_single);
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
            let plain = actions == Actions::NONE;
            self.deep.put(&deep.0, after, Remembered { verdict, actions, plain, revisit });
        }
    }

    /// The next frame is looked up, whatever it is.
    #[inline]
    fn forget_last(&mut self) {
        (self.last.known, self.last_customer.0.known) = (false, false);
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

/// Out of which tunnel a frame came, as a part of its flow's key; `None` = out of one that no record knows.
#[inline]
fn last_word(state: &State, ingress: Option<&Ingress>) -> Option<u64> {
    let Some(ingress) = ingress else { return Some(0) };
    if ingress.gateway {
        return Some(1 << 63 | u64::from(ingress.vsid));
    }
    let peer = state.nv.records.peers.find(ingress.src)?;
    let encap = match ingress.encap {
        Encap::Nvgre => 1,
        Encap::Vxlan => 2,
        Encap::Rewrite => 3,
    };
    Some(u64::from(peer.0) << 32 | encap << 24 | u64::from(ingress.vsid))
}

/// One more than the sum, because empty cache slots have epoch 0.
#[inline]
fn epoch(snap: &Snapshot, state: &State) -> u64 {
    let taken_back = state.taken_back.load(Ordering::Acquire);
    snap.epoch().wrapping_add(state.fdb.generation()).wrapping_add(taken_back).wrapping_add(1)
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
