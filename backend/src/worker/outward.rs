//! How a link gets the frames of a burst: they are gathered and handed over together, which is one system call for many.
//!
//! A frame is gathered as it lies, in the worker's copy of its head and its sender's memory; only one that has to be made anew first (because it
//! lies in too many pieces) is sent alone. What a link has no room for stays unfinished, in the order it was in.

use vswitch::Direction;
use vswitch::nv::model::Encap;
use vswitch::trace::DropReason;

use super::LinkPort;
use super::bill::Bill;
use super::deliver::{Blocked, Context, Delivery, Patience, bits};
use crate::guest::burst::Burst;
use crate::link::outbox::CAPACITY;
use crate::link::{LinkError, MAX_PIECES, Piece};

/// What goes in front of a frame.
#[derive(Clone, Copy, Default)]
pub(super) struct Front<'a> {
    pub(super) bytes: &'a [u8],
    /// See [`crate::link::outbox::Outgoing::datagram`].
    pub(super) datagram: bool,
}

/// A delivery to one link.
pub(super) struct Run<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) port: &'a LinkPort,
    burst: &'a Burst,
    bill: Bill,
    /// Packets that went.
    pub(super) packets: u64,
    bytes: u64,
    /// Frames of the burst that are finished.
    pub(super) finished: u64,
    /// The link has no room: what has not gone stays where it is.
    pub(super) full: bool,
    /// Whose frame each one in the outbox is, and what it counts.
    gathered: [(u8, (u64, u64)); CAPACITY],
}

impl Delivery {
    pub(super) fn deliver_to_link(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        port: &LinkPort,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
        let mut run = Run {
            context,
            port,
            burst,
            bill: self.plans.bill(group, Direction::In),
            packets: 0,
            bytes: 0,
            finished: 0,
            full: false,
            gathered: [(0, (0, 0)); CAPACITY],
        };
        self.outbox.clear();
        for index in bits(group) {
            if run.full {
                break;
            }
            match self.plans.overlay(index).tunnel {
                Some(tunnel) if tunnel.encap != Encap::Rewrite => {
                    self.gather_through(&mut run, burst, index, &tunnel);
                }
                _ => {
                    let frame = &burst.frames[index];
                    let header = frame.offload.header(0).emit();
                    let front = Front::default();
                    self.gather(&mut run, burst, index, header, front, frame.offload.wire(frame.len));
                }
            }
        }
        self.hand_over(&mut run);
        // What its pieces point to is the burst's.
        self.outbox.clear();
        let Run { mut bill, packets, bytes, finished, full, .. } = run;
        blocked.link |= full;
        context.counters.received(port.id, packets, bytes);
        bill.pay(context.counters, (packets, bytes));
        finished
    }

    /// Puts one frame of the burst, behind `front`, into the outbox.
    pub(super) fn gather(
        &mut self,
        run: &mut Run<'_>,
        burst: &Burst,
        index: usize,
        header: [u8; crate::link::LINK_HEADER],
        front: Front<'_>,
        cost: (u64, u64),
    ) {
        if self.outbox.is_full() {
            self.hand_over(run);
            if run.full {
                return;
            }
        }
        let rest = burst.rest(index);
        if rest.len() < MAX_PIECES {
            let head = Piece::of(burst.frames[index].head());
            let rest = rest.iter().map(Piece::over);
            self.gathered(run, index, header, front, std::iter::once(head).chain(rest), cost);
            return;
        }
        // The buffer is used again for the next one.
        self.hand_over(run);
        if !run.full {
            burst.linearise(index, &mut self.linear);
            let whole = Piece::of(&self.linear);
            self.gathered(run, index, header, front, std::iter::once(whole), cost);
            self.hand_over(run);
        }
    }

    /// Takes note of a frame that goes into the outbox, where there is room.
    pub(super) fn gathered(
        &mut self,
        run: &mut Run<'_>,
        index: usize,
        header: [u8; crate::link::LINK_HEADER],
        front: Front<'_>,
        pieces: impl Iterator<Item = Piece>,
        cost: (u64, u64),
    ) {
        let place = self.outbox.len();
        if self.outbox.push(header, front.bytes, front.datagram, pieces)
            && let Some(slot) = run.gathered.get_mut(place)
        {
            *slot = (index as u8, cost);
        } else {
            self.drop(run, index, cost.0, DropReason::BadOffload);
        }
    }

    /// A frame is not sent, for this reason.
    pub(super) fn drop(&mut self, run: &mut Run<'_>, index: usize, packets: u64, reason: DropReason) {
        run.context.counters.in_drop(run.port.id, reason, packets);
        run.finished |= 1 << index;
        self.watch.lost(run.context, run.burst, index, run.port.id, reason);
    }

    /// Hands over what is gathered, and empties the outbox.
    pub(super) fn hand_over(&mut self, run: &mut Run<'_>) {
        let Context { counters, patience, .. } = *run.context;
        let mut done = 0;
        while done < self.outbox.len() {
            match run.port.link.send_all(&self.outbox, done) {
                Ok(0) if patience == Patience::Wait => {
                    run.full = true;
                    break;
                }
                Ok(0) => {
                    for place in done..self.outbox.len() {
                        let (index, cost) = run.gathered[place];
                        self.drop(run, index.into(), cost.0, DropReason::ReceiverFull);
                    }
                    break;
                }
                Ok(sent) => {
                    for &(index, cost) in &run.gathered[done..done + sent] {
                        run.packets += cost.0;
                        run.bytes += cost.1;
                        run.bill.add(&self.plans, counters, index.into(), cost);
                        run.finished |= 1 << index;
                    }
                    if self.watch.is_on() {
                        for place in done..done + sent {
                            let index = usize::from(run.gathered[place].0);
                            self.watch.taken(
                                run.context,
                                run.burst,
                                index,
                                run.port.id,
                                self.outbox.get(place),
                            );
                        }
                    }
                    done += sent;
                }
                Err(error) => {
                    let (index, cost) = run.gathered[done];
                    self.drop(run, index.into(), cost.0, reason(run, &error));
                    done += 1;
                }
            }
        }
        self.outbox.clear();
    }
}

/// Why a frame that a link refused is dropped.
fn reason(run: &Run<'_>, error: &LinkError) -> DropReason {
    match error {
        LinkError::TooLong { .. } => DropReason::MtuExceeded,
        LinkError::BadFrame { .. } | LinkError::TooManyPieces { .. } => DropReason::BadOffload,
        LinkError::BadMemory { .. } => DropReason::MalformedDescriptor,
        LinkError::Gone { .. } => {
            run.port.stop(run.context.shared);
            DropReason::ReceiverNotRunning
        }
        _ => DropReason::ReceiverNotRunning,
    }
}
