//! Where the pipeline asks extensions.
//!
//! - [`out`]: what a port sends, before its policy; also what comes out of a tunnel.
//! - [`forward`]: where it goes, in place of the switch's own forwarding.
//! - [`inward`]: what a port is to get, after its policy.
//!
//! With no extension enabled there is no stack, and each of them is one comparison, and that on a flow-cache miss only.

use super::stack::{Denial, Ruling, Rulings};
use super::{Destination, Effects, Scope, Sight};
use crate::event::Event;
use crate::port::Port;
use crate::snapshot::FloodSet;
use crate::trace::DropReason;
use crate::verdict::{Account, Frame, Step, Verdict};
use crate::{Direction, PortId, Tally};

impl<'a> Frame<'a> {
    /// The frame as extensions see it.
    fn sight(&self, direction: Direction, port: PortId) -> Sight<'a> {
        let mut sight = Sight::new(self.now, direction, port, self.head, self.len);
        sight.from =
            (direction == Direction::In).then_some(self.port.id).filter(|&from| from != PortId::SWITCH);
        sight.vsid = self.ingress.map(|ingress| ingress.vsid);
        sight.dry = self.dry;
        sight
    }

    /// Takes note of how long answers stand. Those for single frames may be for longer in a second, so the flow is then looked at anew. And
    /// the end of one frame says nothing about the next, of which nobody knows where it would go.
    fn stands(&mut self, direction: Direction, rulings: &Rulings) {
        self.revisit |= rulings.soon || rulings.again != 0;
        self.looked = true;
        let ended = !matches!(rulings.ruling, Ruling::Pass);
        self.single |= ended && rulings.again & 1 << rulings.last != 0;
        self.actions.asks[direction as usize] |= rulings.again;
    }

    /// An extension ends it; the extension's own count of that goes with the frame.
    fn denied(&mut self, direction: Direction, port: PortId, by: &str, denial: Denial) -> DropReason {
        let tallies = [Tally::NONE, Tally::NONE, denial.tally];
        *self.actions.account(direction) = Account { tallies, ..Account::default() };
        if let Some(why) = denial.why {
            self.note(|| format!("{by}: {why}"));
            let extension = by.into();
            self.notice(Event::ExtensionDropped { port, extension, direction, reason: why.to_string() });
        }
        denial.reason
    }
}

/// Asks about what a port sends.
pub(crate) fn out(frame: &mut Frame<'_>) -> Step {
    let Some(stack) = frame.snap.extensions() else { return Step::Continue(()) };
    let below = u8::MAX.checked_shl(frame.above).unwrap_or(0) & !frame.makers;
    let mask = stack.judging(Direction::Out) & below;
    if mask == 0 {
        return Step::Continue(());
    }
    let sight = frame.sight(Direction::Out, frame.port.id);
    let mut effects = std::mem::take(&mut frame.effects);
    let rulings = stack.ask(mask, &sight, &mut effects);
    frame.keep(effects);
    frame.stands(Direction::Out, &rulings);
    match rulings.ruling {
        Ruling::Pass => Step::Continue(()),
        Ruling::Drop(denial) => {
            let (port, by) = (frame.port.id, stack.name(rulings.last));
            Step::Break(Verdict::Drop(frame.denied(Direction::Out, port, by, denial)))
        }
        Ruling::Replace(head) => {
            let by = stack.name(rulings.last);
            frame.note(|| format!("{by}: changed"));
            frame.replaced = Some((rulings.last as u32 + 1, head));
            Step::Break(Verdict::Drop(DropReason::ExtensionFiltered))
        }
    }
}

/// Asks whether a port gets it.
pub(crate) fn inward(frame: &mut Frame<'_>, to: &Port) -> Result<(), DropReason> {
    let Some(stack) = frame.snap.extensions() else { return Ok(()) };
    let mask = stack.judging(Direction::In) & !frame.makers;
    if mask == 0 {
        return Ok(());
    }
    let sight = frame.sight(Direction::In, to.id);
    let mut effects = std::mem::take(&mut frame.effects);
    let rulings = stack.ask(mask, &sight, &mut effects);
    frame.keep(effects);
    frame.stands(Direction::In, &rulings);
    match rulings.ruling {
        Ruling::Drop(denial) => {
            let by = stack.name(rulings.last);
            Err(frame.denied(Direction::In, to.id, by, denial))
        }
        Ruling::Pass | Ruling::Replace(_) => Ok(()),
    }
}

/// Where the forwarding extension sends it; `None` = where the switch itself does.
pub(crate) fn forward(frame: &mut Frame<'_>) -> Option<Verdict> {
    let stack = frame.snap.extensions()?;
    if frame.port.policy.vsid.is_some() && frame.snap.nv().is_some() {
        return None;
    }
    let mut sight = frame.sight(Direction::Out, frame.port.id);
    sight.own = frame.above as usize == stack.slots().len(); // the forwarding extension is always the last
    let mut effects = std::mem::take(&mut frame.effects);
    let answer = stack.forward(&sight, &mut effects);
    frame.keep(effects);
    let (destination, scope) = answer?;
    frame.looked = true;
    frame.single |= scope == Scope::Frame;
    frame.revisit |= scope == Scope::Second;
    match destination {
        Ok(Destination::Port(to)) if to == frame.port.id => {
            Some(Verdict::Drop(DropReason::SameSegmentReturn))
        }
        Ok(Destination::Port(to)) if frame.snap.port(to).is_some() => Some(Verdict::Unicast(to)),
        Ok(Destination::Port(gone)) => {
            let (port, extension) = (frame.port.id, stack.forwarder().to_owned());
            frame.note(|| format!("{extension}: to port {gone}, which is not there"));
            let reason = format!("it sends to port {gone}, which is not there");
            let direction = Direction::Out;
            frame.notice(Event::ExtensionDropped { port, extension, direction, reason });
            Some(Verdict::Drop(DropReason::ReceiverNotRunning))
        }
        Ok(Destination::All) => Some(Verdict::Flood(FloodSet::Members)),
        Ok(Destination::Native | Destination::Drop(_)) => None,
        Err(denial) => {
            let port = frame.port.id;
            let by = stack.forwarder();
            Some(Verdict::Drop(frame.denied(Direction::Out, port, by, denial)))
        }
    }
}

impl Frame<'_> {
    /// Effects of a frame that somebody only asks about are forgotten.
    fn keep(&mut self, effects: Effects) {
        if !self.dry {
            self.effects = effects;
        }
    }
}
