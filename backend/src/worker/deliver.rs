//! What happens to one burst: judge every frame, group the frames by receiver, copy each once.
//!
//! A unicast frame whose receiver has no room stays unfinished and is left where it is (in the sender's ring, or in the
//! link's burst), so nothing is held and nothing is lost; `Patience` bounds how long. Flooded copies never wait.

use std::sync::Arc;

use vswitch::flow::{Forwarder, Plan};
use vswitch::frame::offload::{Offload, Treatment};
use vswitch::frame::segment::Segmenter;
use vswitch::frame::tag::Tagging;
use vswitch::pipeline::{Actions, Verdict};
use vswitch::port::mtu;
use vswitch::snapshot::FloodSet;
use vswitch::trace::DropReason;
use vswitch::{Direction, Nanos, PortId, Tally};

use super::counters::Counters;
use super::steer::queue_pair;
use super::{LinkPort, Port, Shared, View};
use crate::guest::GuestPort;
use crate::guest::burst::{BURST, Burst, Frame, Untagged};
use crate::guest::memory::Span;
use crate::guest::ring::receive::Put;
use crate::guest::ring::split::SplitRing;
use crate::guest::ring::{Queue, RingError};
use crate::link::{LinkError, MAX_PIECES, Piece, Sent};
use vswitch::event::Event;

/// Longest frame that is handled in software, and room for its segments.
const SCRATCH: usize = 128 * 1024;

/// Whether a frame without room at its receiver may still wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// It is left where it is.
    Wait,
    /// Its time is up: it is dropped.
    Expired,
}

/// Receivers that had no room, so that the worker knows what to wait for.
#[derive(Default)]
pub(super) struct Blocked {
    /// Receive queues of guests.
    pub(super) queues: Vec<(PortId, Arc<Queue>)>,
    /// Some link had no room; it is tried again.
    pub(super) link: bool,
}

impl Blocked {
    pub(super) fn clear(&mut self) {
        self.queues.clear();
        self.link = false;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty() && !self.link
    }
}

/// The worker's own part of the switch: flow cache and scratch memory.
pub(super) struct Delivery {
    pub(super) forwarder: Forwarder,
    /// What is to be done with each frame of the burst.
    plans: Box<[Plan]>,
    /// What frames were that have another tag now.
    before: Box<[Option<Untagged>]>,
    linear: Vec<u8>,
    segment: Box<[u8]>,
}

/// What all functions of one burst need.
#[derive(Clone, Copy)]
struct Context<'a> {
    view: &'a View,
    shared: &'a Shared,
    counters: &'a Counters,
    now: Nanos,
    from: PortId,
    patience: Patience,
}

/// Packets and bytes of frames in a row that have the same plan.
#[derive(Default)]
struct Bill {
    flow: u32,
    tallies: [Tally; 3],
    packets: u64,
    bytes: u64,
}

impl Bill {
    #[inline]
    fn add(&mut self, counters: &Counters, plan: &Plan, direction: Direction, cost: (u64, u64)) {
        if plan.flow != self.flow {
            self.pay(counters);
            self.flow = plan.flow;
            self.tallies = match (plan.flow, direction) {
                (0, _) => [Tally::NONE; 3],
                (_, Direction::Out) => plan.actions.out.tallies,
                (_, Direction::In) => plan.actions.inward.tallies,
            };
        }
        self.packets += cost.0;
        self.bytes += cost.1;
    }

    #[inline]
    fn pay(&mut self, counters: &Counters) {
        if self.packets != 0 {
            for tally in self.tallies {
                if tally != Tally::NONE {
                    counters.tally(tally, self.packets, self.bytes);
                }
            }
        }
        (self.packets, self.bytes) = (0, 0);
    }
}

impl Delivery {
    pub(super) fn new(seed: u64, flows: usize) -> Self {
        Self {
            forwarder: Forwarder::new(seed, flows),
            plans: vec![Plan::default(); BURST].into_boxed_slice(),
            before: vec![None; BURST].into_boxed_slice(),
            linear: Vec::with_capacity(SCRATCH),
            segment: vec![0; SCRATCH].into_boxed_slice(),
        }
    }

    /// Sends the burst that came from `from` on its way; returns the window slots of the frames that are finished. What
    /// must wait is named in `blocked`.
    #[allow(clippy::too_many_arguments)] // the parts of a worker that a burst meets
    pub(super) fn forward(
        &mut self,
        view: &View,
        shared: &Shared,
        counters: &Counters,
        now: Nanos,
        from: PortId,
        burst: &mut Burst,
        patience: Patience,
        blocked: &mut Blocked,
    ) -> u64 {
        let sends = view.sends(from);
        let (snapshot, state) = (&view.snapshot, &shared.state);
        self.forwarder.begin(snapshot, state, now, from);
        let mut verdicts = [Verdict::Drop(DropReason::NoSuchPort); BURST];
        for ((frame, verdict), plan) in
            burst.frames[..burst.count].iter_mut().zip(&mut verdicts).zip(&mut self.plans)
        {
            plan.flow = 0;
            *verdict = match frame.fault {
                Some(reason) => Verdict::Drop(reason),
                None => match frame.header.check(frame.head(), frame.len, sends) {
                    Ok(offload) => {
                        frame.offload = offload;
                        self.forwarder.judge(snapshot, state, now, from, frame.head(), frame.len, plan)
                    }
                    Err(_) => Verdict::Drop(DropReason::BadOffload),
                },
            };
        }
        let context = Context { view, shared, counters, now, from, patience };
        let mut finished = 0u64;
        let mut unicast = 0u64;
        for (index, verdict) in verdicts[..burst.count].iter().enumerate() {
            let one = 1 << index;
            match *verdict {
                Verdict::Unicast(_) => {
                    unicast |= one;
                    continue;
                }
                Verdict::Drop(reason) => {
                    counters.out_drop(from, reason, 1);
                    self.charge(&context, burst, one, Direction::Out);
                }
                Verdict::Refuse(reason, to) => {
                    counters.in_drop(to, reason, burst.frames[index].offload.wire(burst.frames[index].len).0);
                    self.charge(&context, burst, one, Direction::In);
                    self.sent(&context, burst, one, None);
                }
                Verdict::Flood(set) => {
                    self.flood(&context, burst, index, set);
                    count_out(&context, burst, one);
                    self.charge(&context, burst, one, Direction::Out);
                }
            }
            finished |= one;
        }
        while unicast != 0 {
            let first = unicast.trailing_zeros() as usize;
            let Verdict::Unicast(to) = verdicts[first] else { break };
            let storm = |i: usize| self.plans[i].flow != 0 && self.plans[i].actions.storm;
            let like_first = |&i: &usize| verdicts[i] == verdicts[first] && storm(i) == storm(first);
            let group = bits(unicast).filter(like_first).fold(0, |mask, i| mask | 1 << i);
            // What was counted against a limit once must not wait, or it would be counted again.
            let patience = if storm(first) { Patience::Expired } else { patience };
            let done = self.unicast(&Context { patience, ..context }, burst, to, group, blocked);
            self.sent(&context, burst, done, Some(to));
            finished |= done;
            unicast &= !group;
        }
        bits(finished).fold(0, |slots, index| slots | 1 << burst.frames[index].slot)
    }

    /// Frames have left their sender: they are counted there, and monitors get their copies.
    fn sent(&mut self, context: &Context<'_>, burst: &mut Burst, done: u64, to: Option<PortId>) {
        count_out(context, burst, done);
        let planned = bits(done).filter(|&i| self.plans[i].flow != 0).fold(0, |mask, i| mask | 1 << i);
        if planned == 0 {
            return;
        }
        self.charge(context, burst, planned, Direction::Out);
        let mirrored =
            bits(planned).filter(|&i| self.plans[i].actions.mirror).fold(0, |mask, i| mask | 1 << i);
        if mirrored != 0 {
            let gets_it = |id| Some(id) == to;
            self.mirror(context, burst, mirrored, gets_it);
        }
    }

    /// Delivers frames to one port, each with the tag it is to have there; returns which are finished.
    fn unicast(
        &mut self,
        context: &Context<'_>,
        burst: &mut Burst,
        to: PortId,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
        let retags = |i: &usize| self.plans[*i].flow != 0 && self.plans[*i].actions.tagging != Tagging::Keep;
        let retagged = bits(group).filter(retags).fold(0, |mask, i| mask | 1 << i);
        if retagged == 0 {
            return self.deliver(context, burst, to, group, blocked);
        }
        for index in bits(retagged) {
            self.before[index] = burst.frames[index].retag(self.plans[index].actions.tagging);
        }
        let done = self.deliver(context, burst, to, group, blocked);
        for index in bits(retagged) {
            if let Some(before) = self.before[index].take() {
                burst.frames[index].restore(&before);
            }
        }
        done
    }

    /// Delivers one frame to every port that it is meant for and whose policy lets it have it.
    fn flood(&mut self, context: &Context<'_>, burst: &mut Burst, index: usize, set: FloodSet) {
        let Context { view, shared, counters, now, from, .. } = *context;
        let copies = Context { patience: Patience::Expired, ..*context };
        let (snapshot, state) = (&view.snapshot, &shared.state);
        let sender = self.plans[index];
        let monitors = snapshot.monitors();
        let mut mirror = sender.flow != 0 && sender.actions.mirror;
        // Which monitors get the frame anyway, by their place in the list.
        let mut reached = 0u64;
        for to in snapshot.flood(set, from) {
            let frame = &burst.frames[index];
            let Some((verdict, actions)) =
                self.forwarder.copy(snapshot, state, now, (from, to), frame.head(), frame.len)
            else {
                continue;
            };
            if let Some(place) = monitors.iter().position(|&id| id == to) {
                reached |= 1u64.checked_shl(place as u32).unwrap_or(0);
            }
            mirror |= snapshot.port(to).is_some_and(vswitch::port::Port::is_mirrored);
            self.plans[index] = Plan { actions, flow: u32::MAX };
            if let Verdict::Refuse(reason, _) = verdict {
                counters.in_drop(to, reason, frame.offload.wire(frame.len).0);
                self.charge(&copies, burst, 1 << index, Direction::In);
            } else {
                self.unicast(&copies, burst, to, 1 << index, &mut Blocked::default());
            }
        }
        if mirror {
            let gets_it = |id| {
                let place = monitors.iter().position(|&monitor| monitor == id);
                place.is_some_and(|place| reached.checked_shr(place as u32).unwrap_or(0) & 1 != 0)
            };
            self.mirror(&copies, burst, 1 << index, gets_it);
        }
        self.plans[index] = sender;
    }

    /// Copies frames to every monitor that does not get them anyway. A monitor without room loses its copies.
    fn mirror(
        &mut self,
        context: &Context<'_>,
        burst: &mut Burst,
        mirrored: u64,
        gets_it: impl Fn(PortId) -> bool,
    ) {
        let Context { view, from, .. } = *context;
        let copies = Context { patience: Patience::Expired, ..*context };
        for &monitor in view.snapshot.monitors() {
            if monitor == from || gets_it(monitor) {
                continue;
            }
            for index in bits(mirrored) {
                let frame = &burst.frames[index];
                let tagging =
                    vswitch::pipeline::mirrored(&view.snapshot, from, monitor, frame.head(), frame.len);
                let Some(tagging) = tagging else { continue };
                let plan = self.plans[index];
                let actions = Actions { tagging, ..Actions::default() };
                self.plans[index] = Plan { actions, flow: u32::MAX };
                self.unicast(&copies, burst, monitor, 1 << index, &mut Blocked::default());
                self.plans[index] = plan;
            }
        }
    }

    /// Adds frames to what counts them at one of their ports. Frames of one flow that follow one another are added at once.
    fn charge(&self, context: &Context<'_>, burst: &Burst, frames: u64, direction: Direction) {
        let mut bill = Bill::default();
        for index in bits(frames) {
            let frame = &burst.frames[index];
            bill.add(context.counters, &self.plans[index], direction, frame.offload.wire(frame.len));
        }
        bill.pay(context.counters);
    }

    /// Delivers the frames of `group` (bits are indices in the burst) to one port; returns which are finished.
    fn deliver(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        to: PortId,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
        match context.view.port(to) {
            Some(Port::Guest(port)) => self.deliver_to_guest(context, burst, port, group, blocked),
            Some(Port::Link(port)) => self.deliver_to_link(context, burst, port, group, blocked),
            None => {
                drop_all(context, burst, to, group, DropReason::ReceiverNotRunning);
                group
            }
        }
    }

    fn deliver_to_guest(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        port: &GuestPort,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
        let running = port.receiving();
        if running == 0 {
            drop_all(context, burst, port.spec.id, group, DropReason::ReceiverNotRunning);
            return group;
        }
        if running.is_power_of_two() {
            return self.deliver_to_queue(
                context,
                burst,
                port,
                running.trailing_zeros() as usize,
                group,
                blocked,
            );
        }
        let (mut left, mut finished) = (group, 0);
        while left != 0 {
            let pair_of = |i: usize| queue_pair(running, burst.frames[i].head());
            let pair = pair_of(left.trailing_zeros() as usize);
            let part = bits(left).filter(|&i| pair_of(i) == pair).fold(0, |mask, i| mask | 1 << i);
            finished |= self.deliver_to_queue(context, burst, port, pair, part, blocked);
            left &= !part;
        }
        finished
    }

    fn deliver_to_queue(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        port: &GuestPort,
        pair: usize,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
        let id = port.spec.id;
        let queue = &port.queues[2 * pair];
        let receives = port.receives();
        let limit = port.mtu();
        let mut finished = 0;
        let (mut packets, mut bytes) = (0, 0);
        let mut bill = Bill::default();
        let mut broken = None;
        {
            let mut ring = queue.lock();
            if let Err(error) = ring.stage(group.count_ones() as usize) {
                broken = Some(error);
            }
            for index in bits(group) {
                if broken.is_some() {
                    break;
                }
                let frame = &burst.frames[index];
                let cost = frame.offload.wire(frame.len);
                if let Err(reason) = mtu::check(limit, frame.head(), frame.len, &frame.offload) {
                    context.counters.in_drop(id, reason, cost.0);
                    finished |= 1 << index;
                    continue;
                }
                if !ring.is_live() {
                    context.counters.in_drop(id, DropReason::ReceiverNotRunning, cost.0);
                    finished |= 1 << index;
                    continue;
                }
                let rest = burst.rest(index);
                let put = match frame.offload.treatment(receives) {
                    Treatment::Pass => ring.put(&frame.offload.header(1), frame.head(), rest, frame.len),
                    treatment => self.put_prepared(&mut ring, burst, index, treatment),
                };
                match put {
                    Ok(Put::Done) => {
                        packets += cost.0;
                        bytes += cost.1;
                        bill.add(context.counters, &self.plans[index], Direction::In, cost);
                    }
                    Ok(Put::TooSmall) => {
                        context.counters.in_drop(id, DropReason::ReceiverBuffersTooSmall, cost.0);
                    }
                    Ok(Put::Full) if context.patience == Patience::Wait && !ring.is_stalled() => {
                        blocked.queues.push((id, Arc::clone(queue)));
                        break;
                    }
                    Ok(Put::Full) => {
                        ring.set_stalled();
                        context.counters.in_drop(id, DropReason::ReceiverFull, cost.0);
                    }
                    Err(error) => {
                        broken = Some(error);
                        continue;
                    }
                }
                finished |= 1 << index;
            }
            if ring.vanished() {
                broken = Some(RingError::MemoryVanished);
            }
            ring.publish();
        }
        context.counters.received(id, packets, bytes);
        bill.pay(context.counters);
        if let Some(error) = broken {
            port.stop_queue(queue, &error);
            drop_all(context, burst, id, group & !finished, DropReason::ReceiverNotRunning);
            return group;
        }
        finished
    }

    /// Completes or segments a frame in software and puts the result; all of its segments or none.
    fn put_prepared(
        &mut self,
        ring: &mut SplitRing,
        burst: &Burst,
        index: usize,
        treatment: Treatment,
    ) -> Result<Put, RingError> {
        let offload = burst.frames[index].offload;
        burst.linearise(index, &mut self.linear);
        match treatment {
            Treatment::Pass | Treatment::Complete => {
                complete(&mut self.linear, &offload);
                ring.put(&Offload::None.header(1), &self.linear, &[], self.linear.len() as u32)
            }
            Treatment::Segment { partial } => {
                let Ok(mut segments) = Segmenter::new(&self.linear, &offload) else {
                    return Ok(Put::TooSmall);
                };
                if partial {
                    segments = segments.leave_checksums_open();
                }
                let header = segments.segment_offload().header(1);
                let mark = ring.mark();
                while let Some(len) = segments.next(&mut self.segment) {
                    let put = ring.put(&header, &self.segment[..len], &[], len as u32)?;
                    if put != Put::Done {
                        ring.rewind(mark);
                        return Ok(put);
                    }
                }
                Ok(Put::Done)
            }
        }
    }

    fn deliver_to_link(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        port: &LinkPort,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
        let id = port.id;
        let mut finished = 0;
        let (mut packets, mut bytes) = (0, 0);
        let mut bill = Bill::default();
        for index in bits(group) {
            let frame = &burst.frames[index];
            let cost = frame.offload.wire(frame.len);
            let reason = match self.send(burst, index, port) {
                Ok(Sent::Done) => {
                    packets += cost.0;
                    bytes += cost.1;
                    bill.add(context.counters, &self.plans[index], Direction::In, cost);
                    finished |= 1 << index;
                    continue;
                }
                Ok(Sent::Full) if context.patience == Patience::Wait => {
                    blocked.link = true;
                    break;
                }
                Ok(Sent::Full) => DropReason::ReceiverFull,
                Err(LinkError::TooLong { .. }) => DropReason::MtuExceeded,
                Err(LinkError::BadFrame { .. } | LinkError::TooManyPieces { .. }) => DropReason::BadOffload,
                Err(LinkError::BadMemory { .. }) => DropReason::MalformedDescriptor,
                Err(LinkError::Gone { .. }) => {
                    port.stop(context.shared);
                    DropReason::ReceiverNotRunning
                }
                Err(_) => DropReason::ReceiverNotRunning,
            };
            context.counters.in_drop(id, reason, cost.0);
            finished |= 1 << index;
        }
        context.counters.received(id, packets, bytes);
        bill.pay(context.counters);
        finished
    }

    fn send(&mut self, burst: &Burst, index: usize, port: &LinkPort) -> Result<Sent, LinkError> {
        let frame = &burst.frames[index];
        let header = frame.offload.header(0).emit();
        let rest = burst.rest(index);
        if rest.len() > MAX_PIECES {
            burst.linearise(index, &mut self.linear);
            return port.link.send(&header, &self.linear, &[]);
        }
        let mut pieces = [Piece::of(&[]); MAX_PIECES];
        for (piece, span) in pieces.iter_mut().zip(rest) {
            *piece = Piece::new(span.ptr, span.len as usize);
        }
        port.link.send(&header, frame.head(), &pieces[..rest.len()])
    }
}

/// The positions of the bits that are set, lowest first.
#[inline]
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let index = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            index
        })
    })
}

fn count_out(context: &Context<'_>, burst: &Burst, done: u64) {
    let (mut packets, mut bytes) = (0, 0);
    for index in bits(done) {
        let frame = &burst.frames[index];
        let cost = frame.offload.wire(frame.len);
        packets += cost.0;
        bytes += cost.1;
    }
    context.counters.out(context.from, packets, bytes);
}

fn drop_all(context: &Context<'_>, burst: &Burst, to: PortId, group: u64, reason: DropReason) {
    for index in bits(group) {
        let frame = &burst.frames[index];
        context.counters.in_drop(to, reason, frame.offload.wire(frame.len).0);
    }
}

/// Completes the checksum that the sender left to us.
fn complete(frame: &mut [u8], offload: &Offload) {
    if let Offload::Checksum { start, offset } = *offload {
        vswitch::frame::checksum::complete_checksum(frame, start, offset);
    }
}

/// Fills `burst` with a frame of the switch's own making.
pub(super) fn own_frame(burst: &mut Burst, bytes: &[u8]) {
    burst.clear();
    let frame = &mut burst.frames[0];
    fill(frame, bytes, 0);
    if bytes.len() > usize::from(frame.head_len) {
        let rest = &bytes[usize::from(frame.head_len)..];
        frame.rest = (0, 1);
        burst.spans.push(Span { ptr: rest.as_ptr().cast_mut(), len: rest.len() as u32 });
    }
    burst.count = 1;
}

/// Copies the head of a frame that lies in memory of our own.
pub(super) fn fill(frame: &mut Frame, bytes: &[u8], slot: u8) {
    let head_len = bytes.len().min(vswitch::HEAD_LEN);
    frame.head[..head_len].copy_from_slice(&bytes[..head_len]);
    frame.slot = slot;
    frame.head_len = head_len as u16;
    frame.len = bytes.len() as u32;
    frame.rest = (0, 0);
    frame.fault = None;
    frame.header = vswitch::frame::offload::NetHeader::default();
    frame.offload = Offload::None;
}

/// Reports what the forwarder noticed.
pub(super) fn report(forwarder: &mut Forwarder, shared: &Shared) {
    if forwarder.has_events() {
        let events: Vec<Event> = forwarder.take_events().collect();
        for event in events {
            shared.events.emit(event);
        }
    }
}
