//! A worker's part in showing frames to those who watch ([`crate::watch`]).
//!
//! A frame that is left where it is because its receiver has no room comes again and is judged again; so a frame is shown when it is
//! finished, once. What a port got is noted as it is delivered, with the tag or the outer headers it got; what it sent, and the steps that
//! were taken, when the burst ends. Steps are asked for before the frame is judged, so that what it opens or teaches the switch does not look as if
//! it had been there; where only the end tells whether somebody wants to see them (drops, one receiver's frames), they are asked for then.
//!
//! The policy that judged a frame may keep its answer for the next one. So nothing is told by the steps as they are taken; those of the
//! few frames that are shown are taken again, changing nothing ([`vswitch::explain`]). The verdict and what became of the frame are what
//! really happened.
//!
//! While nobody watches, [`Watch::chosen`] is 0, and all that is left is looking at it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vswitch::explain::{Explanation, Told, explain_to};
use vswitch::pipeline::Verdict;
use vswitch::trace::DropReason;
use vswitch::{Direction, HEAD_LEN, Nanos, PortId};

use super::deliver::{Context, Errand, bits};
use super::join::Joining;
use super::{Shared, View};
use crate::guest::burst::{BURST, Burst};
use crate::guest::hold::Held;
use crate::link::outbox::Outgoing;
use crate::watch::{ARRIVALS, Arrival, Fate, Record, Sighting, Spec, Watcher, Way, What, lost};

/// All who watch.
pub(super) type Watchers = Arc<[Arc<Watcher>]>;

/// One watcher at one worker.
struct Tap {
    watcher: Arc<Watcher>,
    /// Frames of the burst that it looks at.
    chosen: u64,
    /// Frames from the burst's first to the next one that it looks at.
    until: u32,
    /// What it is told of the burst: what was sent, then what was got.
    sent: Vec<Record>,
    got: Vec<Record>,
}

/// A frame as it was before it was judged.
#[derive(Default)]
struct Before {
    /// Its first bytes and its length, if it may have come in a tunnel.
    outer: Option<(Box<[u8]>, u32)>,
    /// The steps it was about to take.
    told: Option<Explanation>,
}

/// What a worker has to do with watchers.
pub(super) struct Watch {
    list: Watchers,
    taps: Vec<Tap>,
    /// Frames of the burst that anybody looks at.
    chosen: u64,
    /// Those of them whose fate at the receiver at hand is known.
    noted: u64,
    before: Vec<Before>,
    /// What became of frames (their indices in the burst) at their receivers.
    arrivals: Vec<(usize, Arrival)>,
    /// Wall-clock time of a burst, and which one.
    stamp: (Nanos, Duration),
    /// State of the dice.
    dice: u64,
}

impl Watch {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            list: Arc::default(),
            taps: Vec::new(),
            chosen: 0,
            noted: 0,
            before: Vec::new(),
            arrivals: Vec::new(),
            stamp: (Nanos::MAX, Duration::ZERO),
            // Never 0, and not small either: the first rolls would be.
            dice: (seed ^ 0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// Shows frames to these from now on.
    pub(super) fn follow(&mut self, list: &Watchers) {
        if Arc::ptr_eq(&self.list, list) {
            return;
        }
        self.flush();
        self.list = Arc::clone(list);
        let mut before = std::mem::take(&mut self.taps);
        for watcher in list.iter() {
            let known = before.iter().position(|tap| Arc::ptr_eq(&tap.watcher, watcher));
            let tap = match known {
                Some(place) => before.swap_remove(place),
                None => Tap {
                    watcher: Arc::clone(watcher),
                    chosen: 0,
                    until: self.roll(watcher.spec.sample) - 1,
                    sent: Vec::new(),
                    got: Vec::new(),
                },
            };
            self.taps.push(tap);
        }
        self.chosen = 0;
        if list.is_empty() {
            (self.taps, self.before, self.arrivals) = Default::default();
        } else {
            self.before.resize_with(BURST, Before::default);
        }
    }

    /// Whether anybody looks at frame `index`.
    #[inline]
    pub(super) fn sees(&self, index: usize) -> bool {
        self.chosen >> index & 1 != 0
    }

    /// Whether anybody looks at a frame of the burst.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.chosen != 0
    }

    /// Begins a burst of so many frames.
    #[inline]
    pub(super) fn begin(&mut self, count: usize) {
        if !self.taps.is_empty() {
            self.choose(count);
        }
    }

    #[cold]
    fn choose(&mut self, count: usize) {
        for index in bits(self.chosen) {
            self.before[index] = Before::default();
        }
        (self.chosen, self.noted) = (0, 0);
        self.arrivals.clear();
        let mut taps = std::mem::take(&mut self.taps);
        for tap in &mut taps {
            tap.chosen = 0;
            let mut next = tap.until;
            while (next as usize) < count.min(BURST) {
                tap.chosen |= 1 << next;
                next += self.roll(tap.watcher.spec.sample);
            }
            tap.until = next - count as u32;
            self.chosen |= if tap.watcher.is_open() { tap.chosen } else { 0 };
        }
        self.taps = taps;
    }

    /// 1 to twice `mean`, `mean` on average.
    fn roll(&mut self, mean: u32) -> u32 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        // The high bits, so that the remainder is fair enough.
        1 + ((self.dice >> 33) % (u64::from(mean.max(1)) * 2 - 1)) as u32
    }

    fn stamp(&mut self, now: Nanos) -> Duration {
        if self.stamp.0 != now {
            self.stamp = (now, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        }
        self.stamp.1
    }

    // === before a frame is judged ===

    /// Keeps of frame `index`, at which somebody looks, what judging it may change. `tunnels`: it may be opened.
    #[cold]
    #[allow(clippy::too_many_arguments)] // a frame, and what it is judged by
    pub(super) fn before(
        &mut self,
        view: &View,
        shared: &Shared,
        now: Nanos,
        from: PortId,
        burst: &Burst,
        index: usize,
        tunnels: bool,
    ) {
        let frame = &burst.frames[index];
        let (head, len) = (frame.head(), frame.len);
        let one = 1 << index;
        let taps = || self.taps.iter().filter(|tap| tap.chosen & one != 0).map(|tap| &tap.watcher);
        let asks = |watcher: &&Arc<Watcher>| {
            let Spec { drops, filter, .. } = &watcher.spec;
            matches!(watcher.spec.what, What::Steps)
                && !drops
                && is_of(&watcher.spec, from)
                && filter.matches(head, len)
                && watcher.is_free()
        };
        let told = (frame.fault.is_none() && taps().any(|watcher| asks(&watcher)))
            .then(|| explain_to(&view.snapshot, &shared.state, now, from, (head, len), |_| false));
        let outer = tunnels.then(|| {
            let most = taps().map(|watcher| watcher.spec.what.snaplen()).max();
            (bytes(burst, index, most.unwrap_or(0)), len)
        });
        self.before[index] = Before { outer, told };
    }

    // === what becomes of it ===

    /// Frames are about to be delivered to one receiver.
    #[inline]
    pub(super) fn begin_delivery(&mut self) {
        self.noted = 0;
    }

    /// Port `to` did not get a frame.
    #[inline]
    pub(super) fn lost(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        index: usize,
        to: PortId,
        reason: DropReason,
    ) {
        if self.sees(index) {
            self.note(context, burst, index, to, Fate::Lost(reason), None);
        }
    }

    /// A frame is kept for port `to`.
    #[inline]
    pub(super) fn held(&mut self, context: &Context<'_>, burst: &Burst, index: usize, to: PortId) {
        if self.sees(index) {
            self.note(context, burst, index, to, Fate::Held, None);
        }
    }

    /// A link has taken a frame, or a part of one.
    #[inline]
    pub(super) fn taken(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        index: usize,
        to: PortId,
        frame: Option<Outgoing<'_>>,
    ) {
        if self.sees(index) {
            self.note(context, burst, index, to, Fate::Delivered, frame);
        }
    }

    /// Frames are finished, as far as port `to` is concerned: it got those of which nothing else was said.
    #[inline]
    pub(super) fn delivered(&mut self, context: &Context<'_>, burst: &Burst, to: PortId, done: u64) {
        let got = done & self.chosen & !self.noted;
        for index in bits(got) {
            self.note(context, burst, index, to, Fate::Delivered, None);
        }
    }

    /// Notes what became of a frame, and shows it as that port got it: the way it went out of a link, or as it lies in the burst.
    #[cold]
    fn note(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        index: usize,
        to: PortId,
        fate: Fate,
        outgoing: Option<Outgoing<'_>>,
    ) {
        let one = 1 << index;
        // Of what goes out in parts each part is taken.
        if fate != Fate::Delivered || self.noted & one == 0 {
            let arrival = Arrival { port: to, fate, copy: context.errand == Errand::Mirror };
            self.arrivals.push((index, arrival));
            self.noted |= one;
        }
        let time = self.stamp(context.now);
        for tap in &mut self.taps {
            let spec = &tap.watcher.spec;
            let What::Bytes { inward: true, snaplen, .. } = spec.what else { continue };
            let wanted = match fate {
                Fate::Delivered => !spec.drops,
                Fate::Lost(_) => spec.drops,
                Fate::Held => false,
            };
            if tap.chosen & one == 0 || !wanted || !is_of(spec, to) {
                continue;
            }
            let (inner, filter) = (&burst.frames[index], &spec.filter);
            let (bytes, len) = match &outgoing {
                Some(frame) => (frame.copy(snaplen.max(HEAD_LEN as u32) as usize), frame.len as u32),
                None => (bytes(burst, index, snaplen), inner.len),
            };
            let wanted = filter.matches(&bytes, len) || filter.matches(inner.head(), inner.len);
            if !wanted || !tap.watcher.has_room() {
                continue;
            }
            let lost = if let Fate::Lost(reason) = fate { Some((reason, None)) } else { None };
            let bytes = cut(bytes, snaplen);
            let sighting = Sighting { time, port: to, direction: Direction::In, bytes, len, lost };
            push(&tap.watcher, &mut tap.got, Record::Sighting(sighting));
        }
    }

    // === when the burst ends ===

    /// Shows those of the frames that are finished, and were to be seen, as they were sent.
    #[cold]
    pub(super) fn end(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        joining: &Joining,
        verdicts: &[Verdict],
        finished: u64,
    ) {
        let time = self.stamp(context.now);
        let mut taps = std::mem::take(&mut self.taps);
        for tap in &mut taps {
            for index in bits(tap.chosen & finished) {
                let spec = &tap.watcher.spec;
                // The parts of a frame that goes on as one share its fate.
                let whole = joining.whole(index);
                let verdict = verdicts[whole.unwrap_or(index)];
                match spec.what {
                    What::Steps if whole.is_none() => {
                        if let Some(way) = self.way(context, burst, index, verdict, &tap.watcher, time) {
                            push(&tap.watcher, &mut tap.sent, Record::Way(Box::new(way)));
                        }
                    }
                    What::Bytes { out: true, snaplen, .. } if is_of(spec, context.from) => {
                        let fate = lost(verdict, self.arrivals_of(whole.unwrap_or(index)));
                        let dropped = matches!(verdict, Verdict::Drop(_));
                        if spec.drops && !dropped
                            || !self.matches(spec, burst, index)
                            || !tap.watcher.has_room()
                        {
                            continue;
                        }
                        let (bytes, len) = match &self.before[index].outer {
                            Some((bytes, len)) => (bytes.clone(), *len),
                            None => (bytes(burst, index, snaplen), burst.frames[index].len),
                        };
                        let (port, direction) = (context.from, Direction::Out);
                        let bytes = cut(bytes, snaplen);
                        let sighting = Sighting { time, port, direction, bytes, len, lost: fate };
                        push(&tap.watcher, &mut tap.sent, Record::Sighting(sighting));
                    }
                    _ => {}
                }
            }
            if bits(tap.chosen & !finished).next().is_some() {
                // They come again, and others with them.
                tap.until = self.roll(tap.watcher.spec.sample) - 1;
            }
        }
        self.taps = taps;
    }

    /// Shows which of these frames, which had been held for the port of `context`, did not get there after all. When they were sent their way was
    /// shown as far as the hold; this is the rest of it.
    pub(super) fn held_and_lost(&mut self, context: &Context<'_>, burst: &Burst, held: &[Held]) {
        if !self.is_on() {
            return;
        }
        let (time, port) = (self.stamp(context.now), context.from);
        let mut taps = std::mem::take(&mut self.taps);
        for tap in &mut taps {
            let spec = &tap.watcher.spec;
            for &(index, arrival) in &self.arrivals {
                let (Some(frame), Fate::Lost(reason)) = (held.get(index), arrival.fate) else { continue };
                let wanted = matches!(spec.what, What::Steps)
                    && tap.chosen >> index & 1 != 0
                    && (is_of(spec, port) || is_of(spec, frame.from))
                    && self.matches(spec, burst, index);
                if !wanted || !tap.watcher.has_room() {
                    continue;
                }
                let waited = Duration::from_nanos(context.now.saturating_sub(frame.since));
                let notes = vec![format!("it was held for {:.1} s", waited.as_secs_f64())];
                let (head, len) = (burst.frames[index].head().into(), frame.bytes.len() as u32);
                let way = Way {
                    time,
                    port,
                    direction: Direction::In,
                    from: frame.from,
                    head,
                    len,
                    steps: vec![Told { step: "held", notes, dropped: Some(reason) }],
                    verdict: Verdict::Refuse(reason, port),
                    arrivals: vec![arrival],
                    more: 0,
                };
                push(&tap.watcher, &mut tap.sent, Record::Way(Box::new(way)));
            }
        }
        self.taps = taps;
    }

    /// A frame's way, if this watcher wants to see it and has room.
    fn way(
        &self,
        context: &Context<'_>,
        burst: &Burst,
        index: usize,
        verdict: Verdict,
        watcher: &Watcher,
        time: Duration,
    ) -> Option<Way> {
        let Context { view, shared, now, from, .. } = *context;
        let spec = &watcher.spec;
        let arrivals = || self.arrivals_of(index);
        let (port, direction) = match spec.port {
            Some(port) if port != from => {
                arrivals().find(|arrival| arrival.port == port).map(|_| (port, Direction::In))?
            }
            _ => (from, Direction::Out),
        };
        let is_lost = |arrival: Arrival| matches!(arrival.fate, Fate::Lost(_)) && !arrival.copy;
        let dropped = matches!(verdict, Verdict::Drop(_) | Verdict::Refuse(..))
            || arrivals()
                .any(|arrival| is_lost(arrival) && (direction == Direction::Out || arrival.port == port));
        if spec.drops && !dropped || !self.matches(spec, burst, index) || !watcher.has_room() {
            return None;
        }
        let before = &self.before[index];
        let frame = &burst.frames[index];
        let (head, len) = match &before.outer {
            Some((bytes, len)) => (&bytes[..bytes.len().min(HEAD_LEN)], *len),
            None => (frame.head(), frame.len),
        };
        let told = |id| id == port;
        let explanation = match &before.told {
            _ if frame.fault.is_some() => None,
            Some(explanation) if direction == Direction::Out => Some(explanation.clone()),
            _ => Some(explain_to(&view.snapshot, &shared.state, now, from, (head, len), told)),
        };
        Some(Way {
            time,
            port,
            direction,
            from,
            head: head.into(),
            len,
            steps: steps(explanation, verdict, port),
            verdict,
            arrivals: arrivals().take(ARRIVALS).collect(),
            more: arrivals().count().saturating_sub(ARRIVALS),
        })
    }

    fn arrivals_of(&self, index: usize) -> impl Iterator<Item = Arrival> {
        self.arrivals.iter().filter(move |(of, _)| *of == index).map(|(_, arrival)| *arrival)
    }

    /// Whether a filter is true of a frame as it came, or of what was in its tunnel.
    fn matches(&self, spec: &Spec, burst: &Burst, index: usize) -> bool {
        let frame = &burst.frames[index];
        let outer = self.before[index].outer.as_ref();
        spec.filter.matches(frame.head(), frame.len)
            || outer.is_some_and(|(bytes, len)| spec.filter.matches(bytes, *len))
    }

    /// Gives everybody what there is for them.
    #[inline]
    pub(super) fn flush(&mut self) {
        for tap in &mut self.taps {
            if !tap.sent.is_empty() || !tap.got.is_empty() {
                let mut records = std::mem::take(&mut tap.sent);
                records.append(&mut tap.got);
                tap.watcher.give(records);
            }
        }
    }
}

/// Whether a watcher wants to see what passes this port.
fn is_of(spec: &Spec, port: PortId) -> bool {
    spec.port.is_none_or(|wanted| wanted == port)
}

fn push(watcher: &Watcher, list: &mut Vec<Record>, record: Record) {
    watcher.reserve(&record);
    list.push(record);
}

/// A copy of the beginning of frame `index`: `snaplen` bytes, or at least what filters look at.
fn bytes(burst: &Burst, index: usize, snaplen: u32) -> Box<[u8]> {
    let frame = &burst.frames[index];
    if frame.fault.is_some() {
        return Box::default();
    }
    let wanted = (snaplen as usize).max(HEAD_LEN).min(frame.len as usize);
    let mut copy = Vec::with_capacity(wanted.max(frame.head().len()));
    burst.linearise(index, &mut copy);
    copy.truncate(wanted);
    copy.into()
}

fn cut(bytes: Box<[u8]>, snaplen: u32) -> Box<[u8]> {
    if bytes.len() <= snaplen as usize { bytes } else { bytes[..snaplen as usize].into() }
}

/// The steps that did something, and why the frame ended if none of them says so.
fn steps(explanation: Option<Explanation>, verdict: Verdict, port: PortId) -> Vec<Told> {
    let mut steps = Vec::new();
    if let Some(Explanation { steps: own, destinations, .. }) = explanation {
        let at_port = destinations.into_iter().filter(|to| to.port == port).flat_map(|to| to.steps);
        steps.extend(
            own.into_iter().chain(at_port).filter(|told| told.dropped.is_some() || !told.notes.is_empty()),
        );
    }
    if let Verdict::Drop(reason) | Verdict::Refuse(reason, _) = verdict {
        // What is wrong with a chain or an offload is no step's business, and another worker may have used up a limit meanwhile.
        if steps.last().and_then(|told| told.dropped) != Some(reason) {
            let virtio = matches!(
                reason,
                DropReason::BadOffload | DropReason::BadHeader | DropReason::MalformedDescriptor
            );
            let step = if virtio { "virtio" } else { "verdict" };
            if virtio {
                steps.clear();
            }
            steps.push(Told { step, notes: Vec::new(), dropped: Some(reason) });
        }
    }
    steps
}
