//! Extensions are asked: all of them about every message, in the order of the stack, until one refuses.

use vswitch::extension::{Kind, Slot, Veto};
use vswitch::refusal::Refusal;

use super::now;
use super::steps::Step;

/// What extensions agreed to. It is as good as done for them, until they hear of the opposite.
#[derive(Debug, Default)]
#[must_use]
pub(in crate::control) struct Agreed {
    slots: Vec<Slot>,
    steps: Vec<Step>,
}

/// Which message was refused, and why.
#[derive(Debug)]
pub(in crate::control) struct Vetoed {
    pub(in crate::control) step: Box<Step>,
    pub(in crate::control) why: Refusal,
}

impl From<Vetoed> for Refusal {
    fn from(vetoed: Vetoed) -> Self {
        vetoed.why
    }
}

impl Agreed {
    /// Nothing comes of it: everybody hears of the opposite, last things first.
    pub(in crate::control) fn undo(self) {
        take_back(&self.slots, &self.steps);
    }

    /// It is done.
    pub(in crate::control) fn done(self) {
        drop(self);
    }
}

/// Asks these instances; with the first refusal, those that agreed before hear of the opposite.
pub(super) fn ask(slots: &[Slot], steps: Vec<Step>) -> Result<Agreed, Vetoed> {
    for (number, step) in steps.iter().enumerate() {
        for (place, slot) in slots.iter().enumerate() {
            let Err(why) = tell(slot, step) else { continue };
            let why = Refusal::Extension { name: slot.name().to_owned(), why: why.to_string() };
            take_back(&slots[..place], &steps[number..=number]);
            take_back(slots, &steps[..number]);
            return Err(Vetoed { step: Box::new(step.clone()), why });
        }
    }
    Ok(Agreed { slots: slots.to_vec(), steps })
}

/// Tells these instances what has happened.
pub(super) fn inform(slots: &[Slot], steps: &[Step]) {
    for step in steps {
        for slot in slots {
            // What has happened cannot be refused.
            let _ = tell(slot, step);
        }
    }
}

fn take_back(slots: &[Slot], steps: &[Step]) {
    for step in steps.iter().rev() {
        inform(slots, &step.opposite());
    }
}

/// Tells one of them. Only a refusal that it is entitled to is one.
fn tell(slot: &Slot, step: &Step) -> Result<(), Veto> {
    if slot.fault().is_some() {
        return Ok(());
    }
    match (step.change(), step) {
        (Some(change), _) => match slot.instance().change(now(), &change) {
            Err(why) if change.may_be_refused() && slot.instance().kind() == Kind::Capture => {
                slot.fail(format!("a capture refused a change: {why}"));
                Ok(())
            }
            Err(why) if change.may_be_refused() => Err(why),
            _ => Ok(()),
        },
        (None, Step::Set { extension, port, after, .. }) if extension == slot.name() => {
            slot.instance().set(*port, after.as_ref())
        }
        (None, _) => Ok(()),
    }
}
