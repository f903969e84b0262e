//! What a burst adds to the meters, ACL entries and rules that counted its frames.

use vswitch::flow::Plan;
use vswitch::{Direction, Tally};

use super::counters::Counters;

/// Packets and bytes of frames in a row that have the same plan.
#[derive(Default)]
pub(super) struct Bill {
    flow: u32,
    tallies: [Tally; 3],
    packets: u64,
    bytes: u64,
}

impl Bill {
    /// Adds a frame of `cost` (packets, bytes) on the account of one of its ports.
    pub(super) fn add(&mut self, counters: &Counters, plan: &Plan, direction: Direction, cost: (u64, u64)) {
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

    /// Counts what was added.
    #[inline]
    pub(super) fn pay(&mut self, counters: &Counters) {
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
