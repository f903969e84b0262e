//! What is to be done with the frames of a burst beside sending them, and what they add to the meters, ACL entries and rules that counted them.
//!
//! Most bursts are of one flow. So what can be known of the whole burst at once is kept as bits, one for each frame, and frames of one
//! flow are counted together.

use vswitch::flow::Plan;
use vswitch::frame::tag::Tagging;
use vswitch::nv::overlay::Overlay;
use vswitch::pipeline::Actions;
use vswitch::{Direction, Tally};

use super::counters::Counters;
use super::deliver::bits;
use crate::guest::burst::{BURST, Burst};

/// The plans of a burst.
pub(super) struct Plans {
    each: Box<[Plan]>,
    /// Whose actions a frame has: its own, or those of an earlier one.
    whose: [u8; BURST],
    /// Frames with anything to do.
    planned: u64,
    /// Frames that go with another tag than they came with, or with other addresses.
    changed: u64,
    /// Frames that monitors get copies of.
    mirrored: u64,
    /// Frames that count against a storm limit.
    storms: u64,
    /// Flows follow one another among the planned frames.
    mixed: bool,
    last: u8,
}

/// What one frame had to do before [`Plans::replace`].
pub(super) struct Replaced {
    plan: Plan,
    whose: u8,
    changed: u64,
    planned: u64,
}

impl Default for Plans {
    fn default() -> Self {
        Self {
            each: vec![Plan::default(); BURST].into_boxed_slice(),
            whose: [0; BURST],
            planned: 0,
            changed: 0,
            mirrored: 0,
            storms: 0,
            mixed: false,
            last: 0,
        }
    }
}

impl Plans {
    /// Nothing to do.
    pub(super) fn clear(&mut self) {
        (self.planned, self.changed, self.mirrored, self.storms) = (0, 0, 0, 0);
        self.mixed = false;
    }

    /// Where the plan of frame `index` is to be written; [`Plans::note`] comes after that.
    #[inline]
    pub(super) fn slot(&mut self, index: usize) -> &mut Plan {
        &mut self.each[index]
    }

    /// Takes note of the plan of frame `index`, the next of the burst.
    #[inline]
    pub(super) fn note(&mut self, index: usize) {
        let plan = &self.each[index];
        if plan.flow == 0 {
            return;
        }
        if !plan.repeats {
            self.mixed |= self.planned != 0 && self.each[usize::from(self.last)].flow != plan.flow;
            self.last = index as u8;
        }
        self.whose[index] = self.last;
        self.mark(index);
    }

    #[inline]
    fn mark(&mut self, index: usize) {
        let Plan { actions, overlay, .. } = &self.each[usize::from(self.whose[index])];
        self.planned |= 1 << index;
        self.changed |= u64::from(actions.tagging != Tagging::Keep || overlay.is_some()) << index;
        self.mirrored |= u64::from(actions.mirror) << index;
        self.storms |= u64::from(actions.storm) << index;
    }

    /// The actions of a frame; meaningful only for planned ones.
    #[inline]
    pub(super) fn actions(&self, index: usize) -> &Actions {
        &self.each[usize::from(self.whose[index])].actions
    }

    /// What network virtualization does with a frame.
    #[inline]
    pub(super) fn overlay(&self, index: usize) -> &Overlay {
        if self.planned >> index & 1 == 0 {
            return &Overlay::NONE;
        }
        self.each[usize::from(self.whose[index])].overlay.as_ref().unwrap_or(&Overlay::NONE)
    }

    /// Those of `frames` that go with another tag than they came with, or with other addresses.
    pub(super) fn changed(&self, frames: u64) -> u64 {
        frames & self.changed
    }

    /// Those of `frames` that monitors get copies of.
    pub(super) fn mirrored(&self, frames: u64) -> u64 {
        frames & self.mirrored
    }

    /// Those of `frames` that count against a storm limit.
    pub(super) fn storms(&self, frames: u64) -> u64 {
        frames & self.storms
    }

    /// Gives one frame other actions for the time of one delivery.
    pub(super) fn replace(&mut self, index: usize, actions: Actions, overlay: Overlay) -> Replaced {
        let before = Replaced {
            plan: self.each[index],
            whose: self.whose[index],
            changed: self.changed,
            planned: self.planned,
        };
        self.changed &= !(1 << index);
        let overlay = (overlay != Overlay::NONE).then_some(overlay);
        self.each[index] = Plan { actions, overlay, flow: u32::MAX, repeats: false };
        self.whose[index] = index as u8;
        self.planned |= 1 << index;
        self.changed |= u64::from(actions.tagging != Tagging::Keep || overlay.is_some()) << index;
        before
    }

    /// Takes [`Plans::replace`] back.
    pub(super) fn restore(&mut self, index: usize, before: &Replaced) {
        self.each[index] = before.plan;
        self.whose[index] = before.whose;
        (self.changed, self.planned) = (before.changed, before.planned);
    }

    /// Begins the bill of a group of frames at their ports of one direction.
    pub(super) fn bill(&self, group: u64, direction: Direction) -> Bill {
        let planned = group & self.planned;
        let single = planned & planned.wrapping_sub(1) == 0;
        let accounts = match planned {
            0 => Accounts::None,
            _ if planned == group && (single || !self.mixed) => Accounts::One,
            _ => Accounts::Each,
        };
        let mut bill =
            Bill { accounts, direction, whose: u8::MAX, tallies: [Tally::NONE; 3], packets: 0, bytes: 0 };
        if accounts == Accounts::One {
            bill.turn(self, self.whose[group.trailing_zeros() as usize % BURST]);
        }
        bill
    }

    /// Counts `frames` at their ports of one direction; returns packets and bytes.
    pub(super) fn charge(
        &self,
        counters: &Counters,
        burst: &Burst,
        frames: u64,
        direction: Direction,
    ) -> (u64, u64) {
        let mut bill = self.bill(frames, direction);
        let (mut packets, mut bytes) = (0, 0);
        for index in bits(frames) {
            let frame = &burst.frames[index];
            let cost = frame.offload.wire(frame.len);
            bill.add(self, counters, index, cost);
            packets += cost.0;
            bytes += cost.1;
        }
        bill.pay(counters, (packets, bytes));
        (packets, bytes)
    }
}

/// How frames of a group are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accounts {
    /// Not at all.
    None,
    /// All on the same account.
    One,
    /// Each on its own.
    Each,
}

/// Packets and bytes of frames in a row that are counted together.
pub(super) struct Bill {
    accounts: Accounts,
    direction: Direction,
    whose: u8,
    tallies: [Tally; 3],
    packets: u64,
    bytes: u64,
}

impl Bill {
    fn turn(&mut self, plans: &Plans, whose: u8) {
        let actions = &plans.each[usize::from(whose)].actions;
        self.whose = whose;
        self.tallies = match self.direction {
            Direction::Out => actions.out.tallies,
            Direction::In => actions.inward.tallies,
        };
    }

    /// Adds frame `index` of `cost` (packets, bytes).
    #[inline]
    pub(super) fn add(&mut self, plans: &Plans, counters: &Counters, index: usize, cost: (u64, u64)) {
        if self.accounts == Accounts::Each {
            self.add_each(plans, counters, index, cost);
        }
    }

    fn add_each(&mut self, plans: &Plans, counters: &Counters, index: usize, cost: (u64, u64)) {
        if plans.planned >> index & 1 == 0 {
            return;
        }
        if plans.whose[index] != self.whose {
            self.count(counters);
            self.turn(plans, plans.whose[index]);
        }
        self.packets += cost.0;
        self.bytes += cost.1;
    }

    /// Counts what was added; `all` is the sum of all frames that were.
    #[inline]
    pub(super) fn pay(&mut self, counters: &Counters, all: (u64, u64)) {
        match self.accounts {
            Accounts::None => return,
            Accounts::One => (self.packets, self.bytes) = all,
            Accounts::Each => {}
        }
        self.count(counters);
    }

    fn count(&mut self, counters: &Counters) {
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
