//! What is decided about a frame, and the frame as the steps of the pipeline see it.

use std::ops::ControlFlow;

use crate::event::Event;
use crate::fdb::Fdb;
use crate::port::Port;
use crate::snapshot::{FloodSet, Snapshot};
use crate::trace::DropReason;
use crate::{Mac, Nanos, PortId};

/// What is to happen with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes nowhere.
    Drop(DropReason),
    /// It goes to one port.
    Unicast(PortId),
    /// It goes to every port of [`Snapshot::flood`].
    Flood(FloodSet),
}

/// A verdict and what else came out of the decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What is to happen with the frame.
    pub verdict: Verdict,
    /// What an operator may want to know.
    pub event: Option<Event>,
    /// Whether the pipeline must see a frame of this flow again after a second: its source was learned and must not age,
    /// or it caused an event that is to be reported as long as it lasts.
    pub revisit: bool,
}

impl Decision {
    /// The frame goes nowhere, and that is all there is to say.
    pub(crate) fn drop(reason: DropReason) -> Self {
        Self { verdict: Verdict::Drop(reason), event: None, revisit: false }
    }
}

/// What a step says: go on, or this is the verdict.
pub type Step = ControlFlow<Verdict>;

/// One rule.
pub type Rule = fn(&mut Frame<'_>) -> Step;

/// A frame on its way through the steps.
#[derive(Debug)]
pub struct Frame<'a> {
    pub(crate) snap: &'a Snapshot,
    pub(crate) fdb: &'a Fdb,
    pub(crate) now: Nanos,
    /// The port it came from.
    pub(crate) port: &'a Port,
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
    /// VLAN it belongs to; 0 = untagged.
    pub(crate) vlan: u16,
    pub(crate) revisit: bool,
    event: Option<Event>,
}

impl<'a> Frame<'a> {
    /// A frame at the beginning of its way; `outer` is its destination, source and VLAN.
    pub(crate) fn new(
        snap: &'a Snapshot,
        fdb: &'a Fdb,
        now: Nanos,
        port: &'a Port,
        outer: (Mac, Mac, u16),
    ) -> Self {
        let (dst, src, vlan) = outer;
        Self { snap, fdb, now, port, dst, src, vlan, revisit: false, event: None }
    }

    /// Notes what an operator may want to know. No frame has more than one such thing to report.
    pub(crate) fn notice(&mut self, event: Event) {
        self.event = Some(event);
        self.revisit = true;
    }

    /// The end of its way.
    pub(crate) fn end(self, verdict: Verdict) -> Decision {
        Decision { verdict, event: self.event, revisit: self.revisit }
    }
}
