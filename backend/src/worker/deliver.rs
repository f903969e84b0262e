//! How a receiver gets the frames of a burst: its ring or link is taken once for all of them, and each frame is copied once, from the
//! sender's memory to the receiver's. What the receiver cannot take as it is (an open checksum, a TSO frame) is completed or segmented
//! in software. Which frames those are is decided in [`super::forward`].

use std::sync::Arc;

use vswitch::flow::Forwarder;
use vswitch::frame::offload::{Offload, Treatment};
use vswitch::frame::segment::Segmenter;
use vswitch::port::mtu;
use vswitch::trace::DropReason;
use vswitch::{Direction, Nanos, PortId};

use super::bill::{Bill, Plans};
use super::counters::Counters;
use super::overlay::Customers;
use super::steer::queue_pair;
use super::watch::Watch;
use super::{Port, Shared, View};
use crate::guest::GuestPort;
use crate::guest::burst::{BURST, Burst, Frame, Untagged};
use crate::guest::hold::Held;
use crate::guest::memory::Span;
use crate::guest::ring::receive::{Put, Receive};
use crate::guest::ring::{Kind, Queue, RingError};
use crate::link::outbox::Outbox;

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

/// On what errand a burst is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    /// To its one receiver.
    Ordinary,
    /// To one of many.
    Flood,
    /// To a monitor.
    Mirror,
    /// To its receiver, which was not there when it came.
    Held,
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

/// What became of frames for one receive ring.
struct Filled {
    finished: u64,
    /// Those that found it standing still.
    late: u64,
    /// Frames that it got, counted as on a wire.
    packets: u64,
    bytes: u64,
    bill: Bill,
    /// Why the queue is to be stopped.
    broken: Option<RingError>,
}

/// The worker's own part of the switch: flow cache and scratch memory.
pub(super) struct Delivery {
    pub(super) forwarder: Forwarder,
    /// What is to be done with the frames of the burst.
    pub(super) plans: Plans,
    /// What frames were that have another tag now.
    pub(super) before: Box<[Option<Untagged>]>,
    pub(super) linear: Vec<u8>,
    pub(super) segment: Box<[u8]>,
    /// Held frames under way.
    pub(super) held: Vec<Held>,
    /// Frames that are gathered for a link.
    pub(super) outbox: Outbox,
    /// What concerns customers' networks.
    pub(super) customers: Customers,
    /// Who watches.
    pub(super) watch: Watch,
    /// From which place of the stack on extensions are asked about the burst; not 0 = one of those above added it.
    pub(super) above: u32,
}

/// What all functions of one burst need.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) view: &'a View,
    pub(super) shared: &'a Shared,
    pub(super) counters: &'a Counters,
    pub(super) now: Nanos,
    pub(super) from: PortId,
    pub(super) patience: Patience,
    pub(super) errand: Errand,
}

impl Delivery {
    pub(super) fn new(seed: u64, flows: usize) -> Self {
        Self {
            forwarder: Forwarder::new(seed, flows),
            plans: Plans::default(),
            before: vec![None; BURST].into_boxed_slice(),
            linear: Vec::with_capacity(SCRATCH),
            segment: vec![0; SCRATCH].into_boxed_slice(),
            held: Vec::new(),
            outbox: Outbox::default(),
            customers: Customers::default(),
            watch: Watch::new(seed),
            above: 0,
        }
    }

    /// Delivers the frames of `group` (bits are indices in the burst) to one port; returns which are finished.
    pub(super) fn deliver(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        to: PortId,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
        self.watch.begin_delivery();
        let done = match context.view.port(to) {
            Some(Port::Guest(port)) => self.deliver_to_guest(context, burst, port, group, blocked),
            Some(Port::Link(port)) => self.deliver_to_link(context, burst, port, group, blocked),
            None => {
                self.drop_all(context, burst, to, group, DropReason::ReceiverNotRunning);
                group
            }
        };
        self.watch.delivered(context, burst, to, done);
        done
    }

    fn deliver_to_guest(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        port: &GuestPort,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
        match port.receiving() {
            0 => self.deliver_behind_held(context, burst, port, group, blocked),
            running => self.deliver_to_rings(context, burst, port, running, group, blocked),
        }
    }

    /// No ring runs, or what is held goes first.
    #[cold]
    fn deliver_behind_held(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        port: &GuestPort,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
        let (finished, open, running) = match context.errand {
            Errand::Held => (0, group, port.live()),
            _ => self.hold(context, burst, port, group),
        };
        if open == 0 || running == 0 {
            return finished;
        }
        finished | self.deliver_to_rings(context, burst, port, running, open, blocked)
    }

    /// Delivers to the queue pairs whose bits are set in `running`, which is not 0.
    fn deliver_to_rings(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        port: &GuestPort,
        running: u64,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
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
        let (finished, again) = self.deliver_now(context, burst, port, pair, group, blocked);
        if again == 0 {
            return finished;
        }
        // Its ring was restarted on other memory just now. Twice within one delivery is nothing that has to be waited for.
        let (then, late) = self.deliver_now(context, burst, port, pair, again, blocked);
        self.drop_all(context, burst, port.spec.id, late, DropReason::ReceiverNotRunning);
        finished | then | late
    }

    /// Delivers to one queue pair. Returns what is finished, and what found the ring standing still although it runs again by now.
    fn deliver_now(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        port: &GuestPort,
        pair: usize,
        group: u64,
        blocked: &mut Blocked,
    ) -> (u64, u64) {
        let id = port.spec.id;
        let queue = &port.queues[2 * pair];
        let filled = match queue.lock().kind() {
            Kind::Split(ring) => self.fill(context, burst, port, queue, ring, group, blocked),
            Kind::Packed(ring) => self.fill(context, burst, port, queue, ring, group, blocked),
        };
        let Filled { mut finished, late, packets, bytes, mut bill, broken } = filled;
        context.counters.received(id, packets, bytes);
        bill.pay(context.counters, (packets, bytes));
        if let Some(error) = broken {
            port.stop_queue(queue, &error);
            self.drop_all(context, burst, id, group & !finished, DropReason::ReceiverNotRunning);
            return (group, 0);
        }
        if late != 0 && context.errand != Errand::Held {
            // It stopped this instant, and may have started again since. If only another queue runs, the guest has closed this one.
            let (held, left, live) = self.hold(context, burst, port, late);
            if live >> pair & 1 != 0 {
                return (finished | held, left);
            }
            self.drop_all(context, burst, id, left, DropReason::ReceiverNotRunning);
            finished |= held | left;
        }
        (finished, 0)
    }

    /// Puts the frames of `group` into a receive ring and shows them to the guest.
    #[allow(clippy::too_many_arguments)] // the parts of a worker that a burst meets
    #[inline]
    fn fill<R: Receive>(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        port: &GuestPort,
        queue: &Arc<Queue>,
        ring: &mut R,
        group: u64,
        blocked: &mut Blocked,
    ) -> Filled {
        let id = port.spec.id;
        let receives = port.receives();
        let limit = port.mtu();
        let (mut finished, mut late) = (0, 0);
        let (mut packets, mut bytes) = (0, 0);
        let mut bill = self.plans.bill(group, Direction::In);
        let mut broken = ring.stage(group.count_ones() as usize).err();
        for index in bits(group) {
            if broken.is_some() {
                break;
            }
            let frame = &burst.frames[index];
            let cost = frame.offload.wire(frame.len);
            if let Err(reason) = mtu::check(limit, frame.head(), frame.len, &frame.offload) {
                context.counters.in_drop(id, reason, cost.0);
                self.watch.lost(context, burst, index, id, reason);
                finished |= 1 << index;
                continue;
            }
            if !ring.is_live() {
                late |= 1 << index;
                continue;
            }
            let rest = burst.rest(index);
            let put = match frame.offload.treatment(receives) {
                Treatment::Pass => ring.put(&frame.offload.header(1), frame.head(), rest, frame.len),
                treatment => self.put_prepared(ring, burst, index, treatment),
            };
            match put {
                Ok(Put::Done) => {
                    packets += cost.0;
                    bytes += cost.1;
                    bill.add(&self.plans, context.counters, index, cost);
                }
                Ok(Put::TooSmall) => {
                    let reason = DropReason::ReceiverBuffersTooSmall;
                    context.counters.in_drop(id, reason, cost.0);
                    self.watch.lost(context, burst, index, id, reason);
                }
                // What was held has its own bound in time.
                Ok(Put::Full)
                    if context.errand == Errand::Held
                        || context.patience == Patience::Wait && !ring.is_stalled() =>
                {
                    blocked.queues.push((id, Arc::clone(queue)));
                    break;
                }
                Ok(Put::Full) => {
                    ring.set_stalled();
                    context.counters.in_drop(id, DropReason::ReceiverFull, cost.0);
                    self.watch.lost(context, burst, index, id, DropReason::ReceiverFull);
                }
                Err(error) => {
                    broken = Some(error);
                    continue;
                }
            }
            finished |= 1 << index;
        }
        if let Some(error) = ring.vanished() {
            broken = Some(error);
        }
        ring.publish();
        Filled { finished, late, packets, bytes, bill, broken }
    }

    /// Port `to` does not get frames that were meant for it.
    pub(super) fn drop_all(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        to: PortId,
        group: u64,
        reason: DropReason,
    ) {
        for index in bits(group) {
            let frame = &burst.frames[index];
            context.counters.in_drop(to, reason, frame.offload.wire(frame.len).0);
            self.watch.lost(context, burst, index, to, reason);
        }
    }

    /// Completes or segments a frame in software and puts the result; all of its segments or none.
    fn put_prepared<R: Receive>(
        &mut self,
        ring: &mut R,
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
}

/// The positions of the bits that are set, lowest first.
#[inline]
pub(super) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let index = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            index
        })
    })
}

/// Completes the checksum that the sender left to us.
pub(super) fn complete(frame: &mut [u8], offload: &Offload) {
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
