//! What happens to one burst: every frame is judged, then the frames are grouped by receiver, and each is copied once.
//!
//! Verdicts come from [`vswitch::flow::Forwarder`]; this file carries them out: who gets a frame, with which tag, who gets a copy, and who
//! counts it. How a receiver gets it is in [`super::deliver`].
//!
//! A unicast frame whose receiver has no room stays unfinished and is left where it is (in the sender's ring, or in the
//! link's burst), so nothing is held and nothing is lost; [`Patience`] bounds how long. Flooded copies and those of monitors never wait.

use vswitch::event::Event;
use vswitch::extension::Stack;
use vswitch::flow::{Forwarder, Plan};
use vswitch::nv::overlay::Overlay;
use vswitch::pipeline::{Actions, Verdict};
use vswitch::snapshot::FloodSet;
use vswitch::trace::DropReason;
use vswitch::{Direction, Nanos, PortId};

use super::counters::Counters;
use super::deliver::{Blocked, Context, Delivery, Errand, Patience, bits};
use super::{Port, Shared, View};
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
        self.customers.clear();
        let tunnels = snapshot.nv().is_some() && snapshot.uplink() == Some(from);
        let stack = snapshot.extensions();
        let deciding = stack.is_some_and(Stack::decides);
        let changing = stack.is_some_and(Stack::changes_frames);
        let mut verdicts = [Verdict::Drop(DropReason::NoSuchPort); BURST];
        self.plans.clear();
        self.watch.begin(burst.count);
        for (index, verdict) in verdicts.iter_mut().enumerate().take(burst.count) {
            if self.watch.sees(index) {
                self.watch.before(view, shared, now, from, burst, index, tunnels);
            }
            let opened = if tunnels { self.open(view, shared, now, from, burst, index) } else { None };
            let frame = &mut burst.frames[index];
            let plan = self.plans.slot(index);
            plan.flow = 0;
            *verdict = match (frame.fault, opened) {
                (Some(reason), _) | (None, Some(Err(reason))) => Verdict::Drop(reason),
                (None, opened) => match frame.header.check(frame.head(), frame.len, sends) {
                    Ok(offload) => {
                        frame.offload = offload;
                        if let Some(Ok(ingress)) = &opened
                            && self.customers.joining.take(burst, index, ingress)
                        {
                            continue;
                        }
                        let frame = &burst.frames[index];
                        let (head, len) = (frame.head(), frame.len);
                        match opened {
                            Some(Ok(ingress)) => self
                                .forwarder
                                .judge_inner(snapshot, state, now, from, &ingress, head, len, plan),
                            _ if self.above != 0 => {
                                let above = self.above;
                                self.forwarder.judge_below(snapshot, state, now, from, above, head, len, plan)
                            }
                            _ => self.forwarder.judge(snapshot, state, now, from, head, len, plan),
                        }
                    }
                    Err(_) => Verdict::Drop(DropReason::BadOffload),
                },
            };
            if changing && let Err(reason) = self.replaced(view, from, burst, index) {
                *self.plans.slot(index) = Plan::default();
                *verdict = Verdict::Drop(reason);
            }
            if deciding && self.forwarder.effects().lacks_frame() {
                self.give_frame(burst, index);
            }
            self.plans.note(index);
        }
        self.customers.joining.end(burst);
        let parts = self.customers.joining.joined();
        let context = Context { view, shared, counters, now, from, patience, errand: Errand::Ordinary };
        let mut finished = 0u64;
        let mut unicast = 0u64;
        for (index, verdict) in verdicts[..burst.count].iter().enumerate() {
            let one = 1 << index;
            if parts & one != 0 {
                continue;
            }
            match *verdict {
                Verdict::Unicast(_) => {
                    unicast |= one;
                    continue;
                }
                Verdict::Drop(reason) => {
                    if let Some(ingress) = self.customers.ingress(index) {
                        self.tell(&context, burst, index, &ingress, reason);
                    }
                    let (packets, _) = self.plans.charge(counters, burst, one, Direction::Out);
                    counters.out_drop(from, reason, packets);
                }
                Verdict::Refuse(reason, to) => {
                    let (packets, _) = self.plans.charge(counters, burst, one, Direction::In);
                    counters.in_drop(to, reason, packets);
                    self.watch.lost(&context, burst, index, to, reason);
                    // The policy that refused it is not got around by a copy.
                    self.sent(&context, burst, one, to);
                }
                Verdict::Answer => {
                    self.answer(&context, burst, index);
                    let (packets, bytes) = self.plans.charge(counters, burst, one, Direction::Out);
                    counters.out(from, packets, bytes);
                }
                Verdict::Flood(set) => {
                    self.flood(&context, burst, index, set);
                    let (packets, bytes) = self.plans.charge(counters, burst, one, Direction::Out);
                    counters.out(from, packets, bytes);
                }
            }
            finished |= one;
        }
        while unicast != 0 {
            let first = unicast.trailing_zeros() as usize;
            let Verdict::Unicast(to) = verdicts[first] else { break };
            let mut group =
                bits(unicast).filter(|&i| verdicts[i] == verdicts[first]).fold(0, |mask, i| mask | 1 << i);
            let mut patience = patience;
            let storms = self.plans.storms(group);
            if storms != 0 {
                // What was counted against a limit once must not wait, or it would be counted again.
                group = if storms >> first & 1 != 0 { storms } else { group & !storms };
                patience = if group == storms { Patience::Expired } else { patience };
            }
            let done = self.unicast(&Context { patience, ..context }, burst, to, group, blocked);
            self.sent(&context, burst, done, to);
            finished |= done;
            unicast &= !group;
        }
        finished = self.customers.joining.with_parts(finished);
        if self.watch.is_on() {
            self.watch.end(&context, burst, &self.customers.joining, &verdicts, finished);
        }
        self.deliver_answers(&context);
        if stack.is_some_and(Stack::samples) {
            self.sample(&context, burst, &verdicts, finished & !parts);
        }
        bits(finished).fold(0, |slots, index| slots | 1 << burst.frames[index].slot)
    }

    /// Frames have left their sender: they are counted there, and monitors get their copies.
    fn sent(&mut self, context: &Context<'_>, burst: &mut Burst, done: u64, to: PortId) {
        let (packets, bytes) = self.plans.charge(context.counters, burst, done, Direction::Out);
        context.counters.out(context.from, packets, bytes);
        let mirrored = self.plans.mirrored(done);
        if mirrored != 0 {
            self.mirror(context, burst, mirrored, |id| id == to);
        }
    }

    /// Delivers frames to one port, each with the tag it is to have there; returns which are finished.
    pub(super) fn unicast(
        &mut self,
        context: &Context<'_>,
        burst: &mut Burst,
        to: PortId,
        group: u64,
        blocked: &mut Blocked,
    ) -> u64 {
        let changed = self.plans.changed(group);
        if changed == 0 {
            return self.deliver(context, burst, to, group, blocked);
        }
        let mut refused = 0;
        for index in bits(changed) {
            match self.change(context, burst, index) {
                Ok(before) => self.before[index] = before,
                Err(reason) => {
                    self.drop_all(context, burst, to, 1 << index, reason);
                    refused |= 1 << index;
                }
            }
        }
        let done = self.deliver(context, burst, to, group & !refused, blocked);
        for index in bits(changed) {
            if let Some(before) = self.before[index].take() {
                burst.frames[index].restore(&before);
            }
        }
        done | refused
    }

    /// Delivers one frame to every port that it is meant for and whose policy lets it have it.
    fn flood(&mut self, context: &Context<'_>, burst: &mut Burst, index: usize, set: FloodSet) {
        let Context { view, shared, counters, now, from, .. } = *context;
        let copies = Context { patience: Patience::Expired, errand: Errand::Flood, ..*context };
        let (snapshot, state) = (&view.snapshot, &shared.state);
        let mut mirror = self.plans.mirrored(1 << index) != 0;
        if self.plans.overlay(index).replicate {
            self.replicate(&copies, burst, index);
        }
        for to in snapshot.flood(set, from) {
            let (head, len) = (burst.frames[index].head(), burst.frames[index].len);
            let judged = match self.customers.ingress(index) {
                None => self.forwarder.copy(snapshot, state, now, (from, to), head, len),
                Some(ingress) => {
                    self.forwarder.copy_inner(snapshot, state, now, (from, to), &ingress, head, len)
                }
            };
            let Some((verdict, actions)) = judged else { continue };
            mirror |= snapshot.port(to).is_some_and(vswitch::port::Port::is_mirrored);
            let sender = self.plans.replace(index, actions, Overlay::NONE);
            if let Verdict::Refuse(reason, _) = verdict {
                let (packets, _) = self.plans.charge(counters, burst, 1 << index, Direction::In);
                counters.in_drop(to, reason, packets);
                self.watch.lost(&copies, burst, index, to, reason);
            } else {
                self.unicast(&copies, burst, to, 1 << index, &mut Blocked::default());
            }
            self.plans.restore(index, &sender);
        }
        if mirror {
            // Of the monitors in the frame's network, those of the set had it already, or their policy refused it.
            let learns = |id| snapshot.port(id).is_some_and(vswitch::port::Port::learns);
            let gets_it = |id| set == FloodSet::Members || learns(id);
            self.mirror(&copies, burst, 1 << index, gets_it);
        }
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
        let copies = Context { patience: Patience::Expired, errand: Errand::Mirror, ..*context };
        for &monitor in view.snapshot.monitors() {
            if monitor == from || gets_it(monitor) {
                continue;
            }
            for index in bits(mirrored) {
                let frame = &burst.frames[index];
                let (head, len) = (frame.head(), frame.len);
                let tagging = match self.customers.ingress(index) {
                    None => vswitch::pipeline::mirrored(&view.snapshot, from, monitor, head, len),
                    Some(ingress) => vswitch::pipeline::mirrored_inner(
                        &view.snapshot,
                        ingress.vsid,
                        from,
                        monitor,
                        head,
                        len,
                    ),
                };
                let Some(tagging) = tagging else { continue };
                let actions = Actions { tagging, ..Actions::default() };
                let plan = self.plans.replace(index, actions, Overlay::NONE);
                self.unicast(&copies, burst, monitor, 1 << index, &mut Blocked::default());
                self.plans.restore(index, &plan);
            }
        }
    }
}

/// Reports what the forwarder noticed.
pub(super) fn report(forwarder: &mut Forwarder, shared: &Shared, view: &View) {
    if forwarder.has_events() {
        let events: Vec<Event> = forwarder.take_events().collect();
        for event in events {
            // At once: what comes for the guest from now on goes straight there and should not overtake much of what is held.
            if let Event::SeenElsewhere { port, .. } = event
                && let Some(Port::Guest(port)) = view.port(port)
            {
                port.follow_guest();
            }
            shared.events.emit(event);
        }
    }
}
