//! What is decided about a frame, and the frame as the steps of the pipeline see it.

use std::cell::OnceCell;
use std::ops::ControlFlow;

use crate::event::Event;
use crate::frame::headers::Headers;
use crate::port::Port;
use crate::snapshot::{FloodSet, Snapshot};
use crate::state::State;
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

/// The frame goes nowhere.
pub(crate) const fn stop(reason: DropReason) -> Step {
    ControlFlow::Break(Verdict::Drop(reason))
}

/// One rule.
pub type Rule = fn(&mut Frame<'_>) -> Step;

/// A frame on its way through the steps.
#[derive(Debug)]
pub struct Frame<'a> {
    pub(crate) snap: &'a Snapshot,
    pub(crate) state: &'a State,
    pub(crate) now: Nanos,
    /// The port it came from.
    pub(crate) port: &'a Port,
    /// Its first bytes: all of it, or at least [`crate::HEAD_LEN`].
    pub(crate) head: &'a [u8],
    /// Its whole length in bytes.
    pub(crate) len: u32,
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
    /// VLAN it belongs to; 0 = untagged.
    pub(crate) vlan: u16,
    pub(crate) revisit: bool,
    /// Nothing is to be remembered of it: somebody only asks what would happen.
    pub(crate) dry: bool,
    headers: OnceCell<Result<Headers, DropReason>>,
    event: Option<Event>,
}

impl<'a> Frame<'a> {
    /// The headers beyond Ethernet, parsed when first asked for; an error is the reason to drop the frame if policy has
    /// to look at them.
    pub(crate) fn headers(&self) -> Result<&Headers, DropReason> {
        let parse = || Headers::parse(self.head, self.len);
        self.headers.get_or_init(parse).as_ref().map_err(|&reason| reason)
    }

    /// As [`Frame::headers`], for rules that a packet must not get around: one that is hidden in layers that are not looked
    /// into is refused too.
    pub(crate) fn visible(&mut self) -> Result<Headers, DropReason> {
        let headers = *self.headers()?;
        if headers.hidden(self.head) { Err(DropReason::MalformedPacket) } else { Ok(headers) }
    }

    /// A frame at the beginning of its way; `outer` is its destination, source and VLAN.
    pub(crate) fn new(
        snap: &'a Snapshot,
        state: &'a State,
        now: Nanos,
        port: &'a Port,
        (head, len): (&'a [u8], u32),
        outer: (Mac, Mac, u16),
    ) -> Self {
        let (dst, src, vlan) = outer;
        let headers = OnceCell::new();
        Self {
            snap,
            state,
            now,
            port,
            head,
            len,
            dst,
            src,
            vlan,
            revisit: false,
            dry: false,
            headers,
            event: None,
        }
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
