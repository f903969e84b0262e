//! What happens to one burst: every frame is judged, then the frames are grouped by receiver, and each is copied once.
//!
//! Verdicts come from [`vswitch::flow::Forwarder`]; this file carries them out: who gets a frame, with which tag, who gets a copy, and who
//! counts it. How a receiver gets it is in [`super::deliver`].
//!
//! A unicast frame whose receiver has no room stays unfinished and is left where it is (in the sender's ring, or in the
//! link's burst), so nothing is held and nothing is lost; [`Patience`] bounds how long. Flooded copies and those of monitors never wait.

use vswitch::event::Event;
use vswitch::flow::{Forwarder, Plan};
use vswitch::frame::tag::Tagging;
use vswitch::pipeline::{Actions, Verdict};
use vswitch::snapshot::FloodSet;
use vswitch::trace::DropReason;
use vswitch::{Direction, Nanos, PortId};

use super::bill::Bill;
use super::counters::Counters;
use super::deliver::{Blocked, Context, Delivery, Patience, bits};
use super::{Shared, View};
use crate::guest::burst::{BURST, Burst};

impl Delivery {
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

/// Reports what the forwarder noticed.
pub(super) fn report(forwarder: &mut Forwarder, shared: &Shared) {
    if forwarder.has_events() {
        let events: Vec<Event> = forwarder.take_events().collect();
        for event in events {
            shared.events.emit(event);
        }
    }
}
