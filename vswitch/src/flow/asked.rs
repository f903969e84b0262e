//! Frames of a flow whose extensions want to see each of them: the rest of the decision comes from the cache.

use super::{Forwarder, Plan};
use crate::event::Event;
use crate::extension::stack::{Denial, Ruling, Stack};
use crate::extension::{Effects, Head, Sight};
use crate::nv::overlay::Ingress;
use crate::pipeline::{self, Account, Actions, Decision, Verdict};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::{Direction, Nanos, PortId, Tally};

impl Forwarder {
    /// Asks the extensions of `plan` about one frame. `verdict` and `plan` are what the cache said.
    #[inline(never)]
    #[allow(clippy::too_many_arguments)] // a frame, and what it is judged by
    pub(super) fn ask(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        from: PortId,
        ingress: Option<&Ingress>,
        (head, len): (&[u8], u32),
        verdict: Verdict,
        plan: &mut Plan,
    ) -> Verdict {
        let Some(stack) = snap.extensions() else { return verdict };
        let [out, inward] = plan.actions.asks;
        let mut sight = Sight::new(now, Direction::Out, from, head, len);
        sight.vsid = ingress.map(|ingress| ingress.vsid);
        if out != 0 {
            let rulings = stack.ask(out, &sight, &mut self.effects);
            match rulings.ruling {
                Ruling::Pass => {}
                Ruling::Drop(denial) => {
                    let reason = denial.reason;
                    self.deny(stack, now, (from, Direction::Out), rulings.last, denial, plan);
                    self.settle(state);
                    return Verdict::Drop(reason);
                }
                Ruling::Replace(new) => {
                    let below = rulings.last as u32 + 1;
                    let decision =
                        pipeline::decide_below(snap, state, now, from, ingress, (new.bytes(), len), below);
                    return self.anew(state, now, decision, new, plan);
                }
            }
        }
        if let Verdict::Unicast(to) = verdict
            && inward != 0
        {
            (sight.direction, sight.port, sight.from) = (Direction::In, to, Some(from));
            let rulings = stack.ask(inward, &sight, &mut self.effects);
            if let Ruling::Drop(denial) = rulings.ruling {
                let reason = denial.reason;
                self.deny(stack, now, (to, Direction::In), rulings.last, denial, plan);
                self.settle(state);
                return Verdict::Refuse(reason, to);
            }
        }
        self.settle(state);
        verdict
    }

    /// As [`Forwarder::judge`], for a frame that an extension added: only those from place `above` of the stack on are asked about it, and none of those
    /// who made it ([`Effects::descend`]). It says nothing about its flow.
    #[allow(clippy::too_many_arguments)] // a frame, and what it is judged by
    pub fn judge_below(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        from: PortId,
        above: u32,
        head: &[u8],
        len: u32,
        plan: &mut Plan,
    ) -> Verdict {
        let descent = (above, self.effects.makers());
        let mut decision = pipeline::decide_added(snap, state, now, from, (head, len), descent);
        self.absorb(state, now, &mut decision);
        self.planned(&decision, plan);
        if from == PortId::SWITCH && matches!(decision.verdict, Verdict::Drop(_)) {
            // There is no port at which it could be counted.
            self.effects.begin(above.saturating_sub(1) as usize);
            self.effects.refuse(1);
        }
        decision.verdict
    }

    /// Writes what is to be done beside a verdict that stands for itself.
    fn planned(&mut self, decision: &Decision, plan: &mut Plan) {
        self.forget_last();
        *plan = Plan::default();
        if decision.actions != Actions::NONE || decision.overlay.is_some() {
            (plan.actions, plan.overlay, plan.flow) = (decision.actions, decision.overlay, self.single());
        }
    }

    /// What an extension changed was decided anew, for itself.
    fn anew(
        &mut self,
        state: &State,
        now: Nanos,
        mut decision: Decision,
        new: Box<Head>,
        plan: &mut Plan,
    ) -> Verdict {
        let later = decision.replaced.take();
        self.absorb(state, now, &mut decision);
        self.replaced = Some(later.map_or(new, |(_, head)| head));
        self.planned(&decision, plan);
        decision.verdict
    }

    /// The frame ends at an extension, on whose account it goes.
    fn deny(
        &mut self,
        stack: &Stack,
        now: Nanos,
        (port, direction): (PortId, Direction),
        place: usize,
        denial: Denial,
        plan: &mut Plan,
    ) {
        let account = Account { tallies: [Tally::NONE, Tally::NONE, denial.tally], ..Account::default() };
        let mut actions = Actions::NONE;
        if direction == Direction::In {
            actions.out = plan.actions.out;
        }
        *actions.account(direction) = account;
        *plan = Plan { actions, overlay: None, flow: self.single(), repeats: false };
        if let Some(why) = denial.why {
            let extension = stack.name(place).to_owned();
            self.notices
                .add(now, Event::ExtensionDropped { port, extension, direction, reason: why.to_string() });
        }
    }

    /// The number of a plan that no other frame has.
    fn single(&mut self) -> u32 {
        self.next_single += 1;
        self.next_single - 1
    }

    /// Takes over what a decision brought beside the verdict.
    pub(super) fn absorb(&mut self, state: &State, now: Nanos, decision: &mut Decision) {
        if let Some(event) = decision.event.take() {
            self.notices.add(now, event);
        }
        if !decision.effects.is_empty() {
            self.effects.append(std::mem::take(&mut decision.effects));
        }
        if let Some((_, head)) = decision.replaced.take() {
            self.replaced = Some(head);
        }
        self.settle(state);
    }

    /// An extension that takes its answers back is heard at once, by all workers.
    fn settle(&mut self, state: &State) {
        if self.effects.take_refresh() {
            state.take_back();
        }
    }

    /// What an extension put in place of the beginning of the frame that was judged last; the verdict is about that.
    #[inline]
    pub fn take_replaced(&mut self) -> Option<Box<Head>> {
        self.replaced.take()
    }

    /// What extensions want done, to be emptied by the caller.
    #[inline]
    pub fn effects(&mut self) -> &mut Effects {
        &mut self.effects
    }
}
