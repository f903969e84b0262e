//! The flow table: who matches a frame, and what becomes of entries.
//!
//! Entries with one mask are in one hash table (tuple space search): looking up costs a probe for each mask there is, however many entries
//! there are, and no more once a match has a priority that no further mask has. Entries, masks and bytes are bounded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::action::Program;
use super::group::Count;
use super::message::{Fail, put16, put32, put64, zeros};
use super::oxm::{Fields, Match};
use crate::Nanos;
use crate::extension::builtin::secret;
use crate::hash::Seeded;

/// Entries of a table.
pub(super) const MOST_FLOWS: usize = 16_384;

/// Different masks of them.
const MOST_MASKS: usize = 128;

/// Bytes of matches and instructions of all entries.
const MOST_BYTES: usize = 8 << 20;

const SECOND: Nanos = 1_000_000_000;

/// Its end is told.
pub(super) const SEND_REMOVED: u16 = 1;
pub(super) const CHECK_OVERLAP: u16 = 2;
pub(super) const RESET_COUNTS: u16 = 4;

/// An entry.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) priority: u16,
    pub(super) cookie: u64,
    /// Seconds; 0 = for ever.
    pub(super) idle: u16,
    pub(super) hard: u16,
    pub(super) flags: u16,
    pub(super) matching: Match,
    /// As the controller wrote them.
    pub(super) instructions: Vec<u8>,
    pub(super) program: Program,
    pub(super) since: Nanos,
    /// When it was last matched.
    pub(super) used: AtomicU64,
    pub(super) count: Count,
}

impl Flow {
    fn bytes(&self) -> usize {
        self.matching.wire.len() + self.instructions.len()
    }

    fn is_timed(&self) -> bool {
        self.idle != 0 || self.hard != 0
    }

    /// A frame matched.
    pub(super) fn touch(&self, now: Nanos) {
        self.used.store(now, Ordering::Relaxed);
    }

    /// Whether it is an entry for what no other matches.
    pub(super) fn is_table_miss(&self) -> bool {
        self.priority == 0 && self.matching.wire.is_empty()
    }

    fn over(&self, now: Nanos) -> Option<End> {
        let gone = |since: Nanos, seconds: u16| {
            seconds != 0 && now.saturating_sub(since) >= Nanos::from(seconds) * SECOND
        };
        if gone(self.since, self.hard) {
            return Some(End::Hard);
        }
        gone(self.used.load(Ordering::Relaxed), self.idle).then_some(End::Idle)
    }

    /// An entry of a flow-stats reply. What is not counted has the value that says so.
    pub(super) fn stats(&self, now: Nanos, counted: bool) -> Vec<u8> {
        let mut out = vec![0; 4];
        let age = now.saturating_sub(self.since);
        put32(&mut out, (age / SECOND) as u32);
        put32(&mut out, (age % SECOND) as u32);
        for number in [self.priority, self.idle, self.hard, self.flags] {
            put16(&mut out, number);
        }
        zeros(&mut out, 4);
        put64(&mut out, self.cookie);
        let (packets, bytes) = if counted { self.count.get() } else { (u64::MAX, u64::MAX) };
        put64(&mut out, packets);
        put64(&mut out, bytes);
        self.matching.write(&mut out);
        out.extend_from_slice(&self.instructions);
        let len = out.len() as u16;
        super::message::set16(&mut out, 0, len);
        out
    }

    /// The body of a flow-removed message.
    pub(super) fn removed(&self, out: &mut Vec<u8>, now: Nanos, end: End, counted: bool) {
        put64(out, self.cookie);
        put16(out, self.priority);
        out.extend_from_slice(&[end as u8, 0]);
        let age = now.saturating_sub(self.since);
        put32(out, (age / SECOND) as u32);
        put32(out, (age % SECOND) as u32);
        put16(out, self.idle);
        put16(out, self.hard);
        let (packets, bytes) = if counted { self.count.get() } else { (u64::MAX, u64::MAX) };
        put64(out, packets);
        put64(out, bytes);
        self.matching.write(out);
    }
}

/// Why an entry went (`OFPRR_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Idle = 0,
    Hard = 1,
    Delete = 2,
    Group = 3,
}

/// Which entries a request is about.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) matching: Match,
    /// With exactly this match and this priority; else with any within the match.
    pub(super) strict: Option<u16>,
    pub(super) cookie: u64,
    pub(super) cookie_mask: u64,
    pub(super) out_port: u32,
    pub(super) out_group: u32,
}

impl Filter {
    fn wants(&self, flow: &Flow) -> bool {
        let matches = match self.strict {
            Some(priority) => flow.priority == priority && flow.matching.is_same(&self.matching),
            None => flow.matching.is_within(&self.matching),
        };
        matches
            && (flow.cookie ^ self.cookie) & self.cookie_mask == 0
            && flow.program.sends_to(self.out_port, self.out_group)
    }
}

/// Entries with one mask.
#[derive(Debug)]
struct Tuple {
    mask: Fields,
    /// The highest priority among them.
    top: u16,
    /// By masked values; of one key the highest priority first.
    flows: HashMap<Fields, Vec<Arc<Flow>>, Seeded>,
}

/// The only table there is, number 0.
#[derive(Debug)]
pub(super) struct Table {
    /// In the order of their highest priorities.
    tuples: Vec<Tuple>,
    len: usize,
    bytes: usize,
    /// Entries that may end by themselves.
    timed: usize,
    /// What entries look at that frames of one flow need not have in common.
    volatile: Fields,
    seed: u64,
    /// Frames that were looked for, and those of them that an entry matched.
    pub(super) looked: AtomicU64,
    pub(super) matched: AtomicU64,
}

impl Default for Table {
    fn default() -> Self {
        let (looked, matched) = (AtomicU64::new(0), AtomicU64::new(0));
        let (tuples, volatile) = (Vec::new(), Fields::default());
        Self { tuples, len: 0, bytes: 0, timed: 0, volatile, seed: secret(), looked, matched }
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether an entry looks at more than Ethernet.
    pub(super) fn is_deep(&self) -> bool {
        self.tuples.iter().any(|tuple| tuple.mask.is_deep())
    }

    /// Whether the entry of this frame may be another than that of the next frame of its flow.
    pub(super) fn is_volatile(&self, frame: &Fields) -> bool {
        self.volatile.concerns(frame)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Flow>> {
        self.tuples.iter().flat_map(|tuple| tuple.flows.values().flatten())
    }

    /// The entry of the highest priority that matches.
    pub(super) fn find(&self, frame: &Fields) -> Option<&Arc<Flow>> {
        let mut best: Option<&Arc<Flow>> = None;
        for tuple in &self.tuples {
            if best.is_some_and(|best| best.priority >= tuple.top) {
                break;
            }
            let found = tuple.flows.get(&frame.masked(&tuple.mask)).and_then(|same| same.first());
            if let Some(found) = found
                && best.is_none_or(|best| found.priority > best.priority)
            {
                best = Some(found);
            }
        }
        best
    }

    /// Adds an entry, in the place of one with the same match and priority.
    pub(super) fn add(&mut self, mut new: Flow) -> Result<(), Fail> {
        if new.flags & CHECK_OVERLAP != 0 {
            let meets =
                |old: &Arc<Flow>| old.priority == new.priority && old.matching.overlaps(&new.matching);
            if self.iter().any(meets) {
                return Err(Fail::OVERLAP);
            }
        }
        let place = self.tuples.iter().position(|tuple| tuple.mask == new.matching.mask);
        let same = |old: &Arc<Flow>| old.priority == new.priority;
        let old = place
            .and_then(|place| {
                self.tuples.get(place)?.flows.get(&new.matching.key)?.iter().find(|old| same(old))
            })
            .cloned();
        let before = old.as_ref().map_or(0, |old| old.bytes());
        if old.is_none() && self.len >= MOST_FLOWS || self.bytes - before + new.bytes() > MOST_BYTES {
            return Err(Fail::TABLE_FULL);
        }
        if place.is_none() && self.tuples.len() >= MOST_MASKS {
            return Err(Fail::TABLE_FULL);
        }
        match &old {
            Some(old) => {
                if new.flags & RESET_COUNTS == 0 {
                    new.count = Count::of(old.count.get());
                }
                self.swap(old, Arc::new(new));
            }
            None => self.insert(Arc::new(new)),
        }
        Ok(())
    }

    /// Puts an entry in the place of one with the same match and priority.
    fn swap(&mut self, old: &Arc<Flow>, new: Arc<Flow>) {
        let tuple = self.tuples.iter_mut().find(|tuple| tuple.mask == old.matching.mask);
        let same = tuple.and_then(|tuple| tuple.flows.get_mut(&old.matching.key));
        if let Some(place) = same.and_then(|same| same.iter_mut().find(|other| Arc::ptr_eq(other, old))) {
            self.bytes = self.bytes - old.bytes() + new.bytes();
            self.timed = self.timed - usize::from(old.is_timed()) + usize::from(new.is_timed());
            *place = new;
        }
    }

    fn insert(&mut self, new: Arc<Flow>) {
        self.len += 1;
        self.bytes += new.bytes();
        self.timed += usize::from(new.is_timed());
        let mask = new.matching.mask;
        self.volatile = self.volatile.with(&mask.volatile());
        let place = self.tuples.iter().position(|tuple| tuple.mask == mask);
        let mut tuple = match place {
            Some(place) => self.tuples.remove(place),
            None => Tuple { mask, top: 0, flows: HashMap::with_hasher(Seeded(self.seed)) },
        };
        tuple.top = tuple.top.max(new.priority);
        let same = tuple.flows.entry(new.matching.key).or_default();
        let at = same.partition_point(|old| old.priority > new.priority);
        same.insert(at, new);
        let at = self.tuples.partition_point(|other| other.top >= tuple.top);
        self.tuples.insert(at, tuple);
    }

    /// Removes entries, all at once: what is left of a tuple is looked at once.
    fn remove(&mut self, gone: &[Arc<Flow>]) {
        let named: HashSet<*const Flow> = gone.iter().map(Arc::as_ptr).collect();
        if named.is_empty() {
            return;
        }
        let (mut len, mut bytes, mut timed) = (0, 0, 0);
        let mut volatile = Fields::default();
        self.tuples.retain_mut(|tuple| {
            tuple.top = 0;
            tuple.flows.retain(|_, same| {
                same.retain(|flow| !named.contains(&Arc::as_ptr(flow)));
                for flow in &*same {
                    (len, bytes, timed) =
                        (len + 1, bytes + flow.bytes(), timed + usize::from(flow.is_timed()));
                    tuple.top = tuple.top.max(flow.priority);
                }
                !same.is_empty()
            });
            if !tuple.flows.is_empty() {
                volatile = volatile.with(&tuple.mask.volatile());
            }
            !tuple.flows.is_empty()
        });
        self.tuples.sort_by_key(|tuple| std::cmp::Reverse(tuple.top));
        (self.len, self.bytes, self.timed, self.volatile) = (len, bytes, timed, volatile);
    }

    /// The entries that a request is about, the highest priority first.
    pub(super) fn select(&self, filter: &Filter) -> Vec<Arc<Flow>> {
        let mut all: Vec<_> = self.iter().filter(|flow| filter.wants(flow)).cloned().collect();
        all.sort_by_key(|flow| std::cmp::Reverse(flow.priority));
        all
    }

    /// Gives entries other instructions.
    pub(super) fn modify(
        &mut self,
        filter: &Filter,
        flags: u16,
        instructions: &[u8],
        program: &Program,
    ) -> Result<(), Fail> {
        let all = self.select(filter);
        let more = all.len() * instructions.len();
        let less: usize = all.iter().map(|flow| flow.instructions.len()).sum();
        if self.bytes - less + more > MOST_BYTES {
            return Err(Fail::TABLE_FULL);
        }
        for old in all {
            let counted = if flags & RESET_COUNTS == 0 { old.count.get() } else { (0, 0) };
            let new = Flow {
                matching: old.matching.clone(),
                instructions: instructions.to_vec(),
                program: program.clone(),
                used: AtomicU64::new(old.used.load(Ordering::Relaxed)),
                count: Count::of(counted),
                ..*old
            };
            self.swap(&old, Arc::new(new));
        }
        Ok(())
    }

    /// Removes entries; returns them.
    pub(super) fn delete(&mut self, filter: &Filter) -> Vec<Arc<Flow>> {
        let all = self.select(filter);
        self.remove(&all);
        all
    }

    /// Removes the entries that send to a group.
    pub(super) fn without_group(&mut self, id: u32) -> Vec<Arc<Flow>> {
        let all: Vec<_> =
            self.iter().filter(|flow| flow.program.groups().any(|of| of == id)).cloned().collect();
        self.remove(&all);
        all
    }

    /// The entries whose time is over.
    pub(super) fn over(&self, now: Nanos) -> Vec<(Arc<Flow>, End)> {
        if self.timed == 0 {
            return Vec::new();
        }
        self.iter().filter_map(|flow| flow.over(now).map(|end| (Arc::clone(flow), end))).collect()
    }

    /// Removes entries whose time is over.
    pub(super) fn expire(&mut self, all: &[(Arc<Flow>, End)]) {
        let all: Vec<_> = all.iter().map(|(flow, _)| Arc::clone(flow)).collect();
        self.remove(&all);
    }
}
