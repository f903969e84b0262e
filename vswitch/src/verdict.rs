//! What is decided about a frame, and the frame as the steps of the pipeline see it.

use std::cell::OnceCell;
use std::ops::ControlFlow;

use crate::event::Event;
use crate::extension::{Effects, Head};
use crate::frame::ethernet::Outer;
use crate::frame::headers::Headers;
use crate::frame::tag::Tagging;
use crate::nv;
use crate::nv::overlay::{Ingress, Overlay};
use crate::port::Port;
use crate::session::{self, Handle};
use crate::snapshot::{FloodSet, Snapshot};
use crate::state::State;
use crate::trace::DropReason;
use crate::{Direction, Mac, Nanos, PortId, Segment, Tally};

/// What is to happen with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes nowhere; counted at the port it came from.
    Drop(DropReason),
    /// It would go to one port, whose own policy keeps it out; counted there.
    Refuse(DropReason, PortId),
    /// It goes to one port.
    Unicast(PortId),
    /// It goes to every port of [`Snapshot::flood`] that [`crate::pipeline::copy`] lets have it.
    Flood(FloodSet),
    /// It goes nowhere, but the switch itself answers it, to the port it came from: [`crate::nv::answer()`].
    Answer,
}

/// On whose account a frame goes at one of its two ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Account {
    /// What counts it: IP meter, MAC meter, and the ACL entry or rule that judged it.
    pub tallies: [Tally; 3],
    /// The session it belongs to.
    pub session: Handle,
}

/// What is done with a frame beside its verdict. The default is nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Actions {
    /// At the port that sent it; counted once the frame is on its way, or dropped for good.
    pub out: Account,
    /// At the port it goes to; counted when that port got it, or refused it. Unused in a flood.
    pub inward: Account,
    /// How the receiver gets it.
    pub tagging: Tagging,
    /// Monitors get a copy.
    pub mirror: bool,
    /// It counts against the sender's storm limit.
    pub storm: bool,
    /// Which extensions see each frame of the flow, as it leaves its sender and as it comes to its receiver: bits by their place in the stack.
    pub asks: [u8; 2],
}

impl Actions {
    /// Nothing is done.
    pub const NONE: Self = {
        let nobody = Account { tallies: [Tally::NONE; 3], session: Handle::NONE };
        Self {
            out: nobody,
            inward: nobody,
            tagging: Tagging::Keep,
            mirror: false,
            storm: false,
            asks: [0; 2],
        }
    };

    /// The account in a direction.
    pub(crate) fn account(&mut self, direction: Direction) -> &mut Account {
        match direction {
            Direction::Out => &mut self.out,
            Direction::In => &mut self.inward,
        }
    }
}

/// A verdict and what else came out of the decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What is to happen with the frame.
    pub verdict: Verdict,
    /// What is done beside that.
    pub actions: Actions,
    /// What network virtualization does with the frame.
    pub overlay: Option<Overlay>,
    /// The lookup records that the decision goes back to.
    pub records: [nv::records::Handle; 2],
    /// What an operator may want to know.
    pub event: Option<Event>,
    /// Whether the pipeline must see a frame of this flow again after a second: its source was learned and must not age,
    /// or it caused an event that is to be reported as long as it lasts.
    pub revisit: bool,
    /// Whether the decision stands for this frame only.
    pub single: bool,
    /// Whether it depends on more than addresses and VLAN, or needs more done than forwarding.
    pub deep: bool,
    /// What extensions want beside it.
    pub effects: Effects,
    /// An extension put this in place of the frame's beginning; the decision is about what the frame is now. With the place of the stack from
    /// which on extensions were asked about it.
    pub replaced: Option<(u32, Box<Head>)>,
}

impl Decision {
    /// The frame goes nowhere, and that is all there is to say.
    pub(crate) fn drop(reason: DropReason) -> Self {
        Self {
            verdict: Verdict::Drop(reason),
            actions: Actions::default(),
            overlay: None,
            records: Default::default(),
            event: None,
            revisit: false,
            single: false,
            deep: false,
            effects: Effects::default(),
            replaced: None,
        }
    }
}

/// What a step says: go on, or this is the verdict.
pub type Step = ControlFlow<Verdict>;

/// The frame goes nowhere.
pub(crate) const fn stop(reason: DropReason) -> Step {
    ControlFlow::Break(Verdict::Drop(reason))
}

/// One rule about a frame and the port it came from.
pub type Rule = fn(&mut Frame<'_>) -> Step;

/// One rule about a frame and the port it goes to; an error is why that port does not get it.
pub type Towards = fn(&mut Frame<'_>, &Port) -> Result<(), DropReason>;

/// A frame on its way through the steps.
#[allow(clippy::struct_excessive_bools)] // what steps found out, each for itself
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
    /// VLAN of its outermost tag (0 = priority tag); `None` = it has no tag.
    pub(crate) tag: Option<u16>,
    /// The network it is in, once it is admitted.
    pub(crate) segment: Segment,
    pub(crate) actions: Actions,
    pub(crate) revisit: bool,
    pub(crate) single: bool,
    /// Nothing is to be remembered of it: somebody only asks what would happen.
    pub(crate) dry: bool,
    /// A policy was asked that looks beyond the Ethernet header.
    pub(crate) looked: bool,
    /// Sessions that the frame opens if it is not dropped.
    pub(crate) opens: [Option<(session::Key, session::Grant, Option<u8>)>; 2],
    /// Out of which tunnel it came.
    pub(crate) ingress: Option<Ingress>,
    /// What network virtualization does with it.
    pub(crate) overlay: Option<Overlay>,
    /// The lookup records of its source and its destination, as far as they were asked.
    pub(crate) records: [nv::records::Handle; 2],
    /// What the switch itself says to it.
    pub(crate) answer: Option<nv::Answer>,
    /// From which place of the stack on extensions are asked about it: those above changed or added it.
    pub(crate) above: u32,
    /// Which extensions made it, as bits: they are not asked about it.
    pub(crate) makers: u8,
    /// What extensions want beside their answers.
    pub(crate) effects: Effects,
    /// What an extension put in place of its beginning, and from where in the stack on that is to be judged.
    pub(crate) replaced: Option<(u32, Box<Head>)>,
    headers: OnceCell<Result<Headers, DropReason>>,
    event: Option<Event>,
    notes: Vec<String>,
}

impl<'a> Frame<'a> {
    /// A frame at the beginning of its way.
    pub(crate) fn new(
        snap: &'a Snapshot,
        state: &'a State,
        now: Nanos,
        port: &'a Port,
        (head, len): (&'a [u8], u32),
        outer: Outer,
    ) -> Self {
        let Outer { dst, src, tag } = outer;
        Self {
            snap,
            state,
            now,
            port,
            head,
            len,
            dst,
            src,
            tag,
            segment: Segment(0),
            actions: Actions::default(),
            revisit: false,
            single: false,
            dry: false,
            looked: false,
            opens: [None, None],
            ingress: None,
            overlay: None,
            records: Default::default(),
            answer: None,
            above: 0,
            makers: 0,
            effects: Effects::default(),
            replaced: None,
            headers: OnceCell::new(),
            event: None,
            notes: Vec::new(),
        }
    }

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

    /// Notes what an operator may want to know. No frame has more than one such thing to report.
    pub(crate) fn notice(&mut self, event: Event) {
        self.event = Some(event);
        self.revisit = true;
    }

    /// Explains what a step did, where somebody asked what would happen.
    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.dry {
            self.notes.push(text());
        }
    }

    /// What was explained since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The end of its way.
    pub(crate) fn end(self, verdict: Verdict) -> Decision {
        let deep = self.looked || self.actions != Actions::default();
        let Self { actions, overlay, records, event, revisit, single, effects, replaced, .. } = self;
        Decision { verdict, actions, overlay, records, event, revisit, single, deep, effects, replaced }
    }
}
