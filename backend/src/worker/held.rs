//! What a worker does for guests on the move: delivers what was held for them, sends it after them, and announces them.
//!
//! The rules of holding are in [`crate::guest::hold`]; here is how frames get in and out.

use vswitch::flow::Plan;
use vswitch::frame::tag::Tagging;
use vswitch::pipeline::{self, Actions, Verdict};
use vswitch::trace::DropReason;
use vswitch::{Direction, Nanos, PortId, announce};

use super::counters::Counters;
use super::deliver::{Blocked, Context, Delivery, Errand, Patience, bits, fill, own_frame};
use super::{Shared, View};
use crate::guest::GuestPort;
use crate::guest::burst::{BURST, Burst, Untagged};
use crate::guest::hold::{GivenUp, Held, Offer, Way};
use crate::guest::memory::Span;

impl Delivery {
    /// Frames for a guest that cannot be put into its rings now, or must not overtake others: they are held or dropped, or by now may be
    /// delivered after all. Returns which are finished, and which may be delivered to which queue pairs.
    pub(super) fn hold(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        port: &GuestPort,
        group: u64,
    ) -> (u64, u64, u64) {
        let (mut finished, mut open, mut live) = (0, 0, 0);
        for index in bits(group) {
            let frame = &burst.frames[index];
            let before = self.before[index].as_ref();
            let len = before.map_or(frame.len, Untagged::frame_len);
            let flooded = match context.errand {
                Errand::Mirror => {
                    // A monitor that does not look now need not see it later.
                    self.drop_all(context, burst, port.spec.id, 1 << index, DropReason::ReceiverNotRunning);
                    finished |= 1 << index;
                    continue;
                }
                Errand::Flood => true,
                Errand::Ordinary | Errand::Held => false,
            };
            let linear = &mut self.linear;
            let make = || {
                let offload = burst.original(index, before, linear);
                let bytes = linear.as_slice().into();
                let ingress = self.customers.ingress(index);
                Held { bytes, from: context.from, offload, flooded, since: context.now, ingress }
            };
            match port.hold(context.now, len as usize, flooded, make) {
                Offer::Held => {
                    self.watch.held(context, burst, index, port.spec.id);
                    finished |= 1 << index;
                }
                Offer::Deliver(pairs) => (open, live) = (open | 1 << index, pairs),
                Offer::Drop(reason) => {
                    self.drop_all(context, burst, port.spec.id, 1 << index, reason);
                    finished |= 1 << index;
                }
            }
        }
        (finished, open, live)
    }

    /// Delivers some of what is held for a guest, or sends it out of the uplink; returns how many frames are gone and whether there is more
    /// to do, which may have to wait for what is named in `blocked`.
    #[allow(clippy::too_many_arguments)] // the parts of a worker that a burst meets
    pub(super) fn release(
        &mut self,
        view: &View,
        shared: &Shared,
        counters: &Counters,
        now: Nanos,
        port: &GuestPort,
        burst: &mut Burst,
        blocked: &mut Blocked,
    ) -> (usize, bool) {
        let id = port.spec.id;
        let mut held = std::mem::take(&mut self.held);
        let taken = port.take_held(BURST, &mut held);
        load(burst, &held);
        self.watch.begin(burst.count);
        self.plans.clear();
        self.customers.clear();
        let context =
            Context { view, shared, counters, now, from: id, patience: Patience::Wait, errand: Errand::Held };
        let virtual_subnet = view.snapshot.nv().is_some()
            && view.snapshot.port(id).is_some_and(|port| port.policy.vsid.is_some());
        let done = match taken.way {
            Way::Stay => 0,
            way if virtual_subnet => self.judge_again(&context, burst, id, &held, way, blocked),
            Way::Rings => self.put_into_rings(&context, burst, id, &held, blocked),
            Way::Uplink => self.send_after(&context, burst, id, &held, blocked),
        };
        self.watch.held_and_lost(&context, burst, &held);
        let (more, lost) = port.give_back(taken, &mut held, done);
        // Nothing may point to frames that are gone.
        burst.clear();
        self.held = held;
        self.given_up(&context, burst, &lost, DropReason::ReceiverNotRunning);
        (done.count_ones() as usize, more)
    }

    /// Counts and shows what was held for the port of `context` and given up.
    pub(super) fn given_up(
        &mut self,
        context: &Context<'_>,
        burst: &mut Burst,
        lost: &GivenUp,
        reason: DropReason,
    ) {
        let id = context.from;
        for held in lost.frames.chunks(BURST) {
            load(burst, held);
            self.watch.begin(burst.count);
            self.drop_all(context, burst, id, u64::MAX >> (u64::BITS as usize - held.len()), reason);
            self.watch.held_and_lost(context, burst, held);
            burst.clear();
        }
        context.counters.in_drop(id, reason, lost.more);
    }

    /// Puts held frames into the rings, as far as the receiver's policy lets it have them now.
    fn put_into_rings(
        &mut self,
        context: &Context<'_>,
        burst: &mut Burst,
        to: PortId,
        held: &[Held],
        blocked: &mut Blocked,
    ) -> u64 {
        let Context { view, shared, counters, now, .. } = *context;
        let (snapshot, state) = (&view.snapshot, &shared.state);
        let (mut done, mut wanted) = (0, 0);
        for (index, frame) in held.iter().enumerate() {
            let (head, len) = (burst.frames[index].head(), frame.bytes.len() as u32);
            let judged = self.forwarder.copy(snapshot, state, now, (frame.from, to), head, len);
            let Some((verdict, actions)) = judged else {
                // The sender is gone, or one of the two is in another network now.
                let known = snapshot.port(frame.from).is_some();
                let reason = if known { DropReason::VlanFiltered } else { DropReason::NoSuchPort };
                self.drop_all(context, burst, to, 1 << index, reason);
                done |= 1 << index;
                continue;
            };
            self.plan(index, actions);
            if let Verdict::Refuse(reason, _) = verdict {
                let (packets, _) = self.plans.charge(counters, burst, 1 << index, Direction::In);
                counters.in_drop(to, reason, packets);
                self.watch.lost(context, burst, index, to, reason);
                done |= 1 << index;
            } else {
                wanted |= 1 << index;
            }
        }
        done | self.unicast(context, burst, to, wanted, blocked)
    }

    /// Held frames of a virtual subnet are judged as if they came now: where their receiver is, and what it is sent, is in its record.
    fn judge_again(
        &mut self,
        context: &Context<'_>,
        burst: &mut Burst,
        to: PortId,
        held: &[Held],
        way: Way,
        blocked: &mut Blocked,
    ) -> u64 {
        let Context { view, shared, now, .. } = *context;
        let (snapshot, state) = (&view.snapshot, &shared.state);
        let (mut done, mut here, mut elsewhere) = (0, 0, 0);
        for (index, frame) in held.iter().enumerate() {
            let (head, len) = (burst.frames[index].head(), frame.bytes.len() as u32);
            let ports = (frame.from, to);
            let plan = self.plans.slot(index);
            plan.flow = 0;
            let verdict = if frame.flooded {
                let copied = match &frame.ingress {
                    None => self.forwarder.copy(snapshot, state, now, ports, head, len),
                    Some(ingress) => {
                        self.forwarder.copy_inner(snapshot, state, now, ports, ingress, head, len)
                    }
                };
                copied.map_or(Verdict::Drop(DropReason::VsidMismatch), |(verdict, actions)| {
                    *plan = Plan { actions, overlay: None, flow: index as u32 + 1, repeats: false };
                    verdict
                })
            } else {
                self.forwarder.begin(snapshot, state, now, frame.from);
                match &frame.ingress {
                    None => self.forwarder.judge(snapshot, state, now, frame.from, head, len, plan),
                    Some(ingress) => {
                        self.forwarder.judge_inner(snapshot, state, now, frame.from, ingress, head, len, plan)
                    }
                }
            };
            let verdict = match self.replaced(context.view, frame.from, burst, index) {
                Ok(()) => verdict,
                Err(reason) => Verdict::Drop(reason),
            };
            self.plans.note(index);
            match verdict {
                Verdict::Unicast(id) if id == to && way == Way::Rings => here |= 1 << index,
                // What was flooded has been at the other hosts.
                Verdict::Unicast(id) if Some(id) == snapshot.uplink() && !frame.flooded => {
                    elsewhere |= 1 << index;
                }
                Verdict::Drop(reason) | Verdict::Refuse(reason, _) => {
                    self.drop_all(context, burst, to, 1 << index, reason);
                    done |= 1 << index;
                }
                _ => {
                    self.drop_all(context, burst, to, 1 << index, DropReason::ReceiverNotRunning);
                    done |= 1 << index;
                }
            }
        }
        if here != 0 {
            done |= self.unicast(context, burst, to, here, blocked);
        }
        match snapshot.uplink() {
            Some(uplink) if elsewhere != 0 => done | self.unicast(context, burst, uplink, elsewhere, blocked),
            _ => done,
        }
    }

    /// Sends held frames out of the uplink, where their receiver is now, with the tags of their networks. What was flooded has been there.
    fn send_after(
        &mut self,
        context: &Context<'_>,
        burst: &mut Burst,
        id: PortId,
        held: &[Held],
        blocked: &mut Blocked,
    ) -> u64 {
        let snapshot = &context.view.snapshot;
        let from_uplink = snapshot.uplink().and_then(|id| snapshot.port(id)).map(|port| (port.id, port.mac));
        let (mut done, mut wanted) = (0, 0);
        for (index, frame) in held.iter().enumerate() {
            let way = snapshot.uplink().filter(|_| !frame.flooded).and_then(|uplink| {
                let head = burst.frames[index].head();
                pipeline::mirrored(snapshot, frame.from, uplink, head, frame.bytes.len() as u32)
            });
            if let Some(tagging) = way {
                // A frame that came from the physical network must not go back with its sender's address: switches there would
                // look for the sender here, and the host on which both now are does not take its own port's address from outside.
                if let Some((_, mac)) = from_uplink.filter(|(uplink, _)| *uplink == frame.from)
                    && let Some(source) = burst.frames[index].head.get_mut(6..12)
                {
                    source.copy_from_slice(&mac.0);
                }
                self.plan(index, Actions { tagging, ..Actions::default() });
                wanted |= 1 << index;
            } else {
                self.drop_all(context, burst, id, 1 << index, DropReason::ReceiverNotRunning);
                done |= 1 << index;
            }
        }
        match snapshot.uplink() {
            Some(uplink) if wanted != 0 => done | self.unicast(context, burst, uplink, wanted, blocked),
            _ => done,
        }
    }

    fn plan(&mut self, index: usize, actions: Actions) {
        *self.plans.slot(index) = Plan { actions, overlay: None, flow: index as u32 + 1, repeats: false };
        self.plans.note(index);
    }

    /// Sends frames of the switch's own making straight out of a link.
    #[allow(clippy::too_many_arguments)] // the parts of a worker that a burst meets
    pub(super) fn send_out(
        &mut self,
        view: &View,
        shared: &Shared,
        counters: &Counters,
        now: Nanos,
        link: PortId,
        burst: &mut Burst,
        frames: &[Vec<u8>],
    ) {
        let (patience, errand) = (Patience::Expired, Errand::Ordinary);
        let context = Context { view, shared, counters, now, from: link, patience, errand };
        for frame in frames {
            own_frame(burst, frame);
            self.watch.begin(1);
            self.plans.clear();
            self.deliver(&context, burst, link, 1, &mut Blocked::default());
        }
        burst.clear();
    }

    /// Sends frames of the switch's own making out of the uplink as if from a port, in every network that the port can send in.
    #[allow(clippy::too_many_arguments)] // the parts of a worker that a burst meets
    pub(super) fn announce(
        &mut self,
        view: &View,
        shared: &Shared,
        counters: &Counters,
        now: Nanos,
        from: PortId,
        burst: &mut Burst,
        frames: &[Vec<u8>],
    ) {
        let snapshot = &view.snapshot;
        let uplink = snapshot.uplink().and_then(|id| snapshot.port(id));
        let (Some(port), Some(uplink)) = (snapshot.port(from), uplink) else { return };
        if !uplink.policy.link_up {
            return;
        }
        let patience = Patience::Expired;
        let context = Context { view, shared, counters, now, from, patience, errand: Errand::Ordinary };
        for network in announce::networks(snapshot, port) {
            let Some(tagging) = announce::tagging(uplink, network) else { continue };
            for frame in frames {
                own_frame(burst, frame);
                self.watch.begin(1);
                self.plans.clear();
                if tagging != Tagging::Keep {
                    self.plan(0, Actions { tagging, ..Actions::default() });
                }
                self.unicast(&context, burst, uplink.id, 1, &mut Blocked::default());
            }
        }
        burst.clear();
    }
}

/// Makes a burst of held frames.
fn load(burst: &mut Burst, held: &[Held]) {
    burst.clear();
    for (index, one) in held.iter().enumerate().take(BURST) {
        let spans = burst.spans.len() as u16;
        let frame = &mut burst.frames[index];
        fill(frame, &one.bytes, index as u8);
        frame.offload = one.offload;
        if let Some(rest) = one.bytes.get(usize::from(frame.head_len)..).filter(|rest| !rest.is_empty()) {
            frame.rest = (spans, 1);
            burst.spans.push(Span { ptr: rest.as_ptr().cast_mut(), len: rest.len() as u32 });
        }
        burst.count += 1;
    }
}
