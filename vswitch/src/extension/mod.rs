//! Extensions: what others add to the switch, and what it asks of them.
//!
//! An [`Extension`] is one instance at one switch, of one [`Kind`]: a *capture* sees frames, a *filter* may drop or change them, add
//! frames of its own and keep single receivers from getting one, a *forwarding* extension chooses where frames go. Enabled instances
//! stand in a [`Stack`]: captures first, then filters, then the one forwarding extension there may be. What a port sends goes down the stack
//! (ahead of the port's own policy, which is in force whatever an extension says), what a port receives goes up it.
//!
//! A frame that an extension adds is shown to those below it when it leaves its port, and to all when it comes to one, but never to those who made it
//! ([`Added::makers`]). One that it changes goes on to those below, and comes to its receiver like any other.
//!
//! An extension decides about a frame once ([`Scope::Flow`]: the answer is kept in the flow cache with the switch's own), once a second, or each
//! time. It does no I/O: what it wants done is put into [`Effects`], and what it has to know (time, frames, changes of ports) is given to it.
//! So it runs in a test as it does in the switch.
//!
//! # Threading
//! Every worker calls the same instance, at the same time. A stack is a part of the [`Snapshot`](crate::snapshot::Snapshot): a frame meets all
//! of one stack or all of another, never a mix.
//!
//! # Faults
//! An instance that breaks its contract ([`Judgement::Fault`]) is not called again until it is enabled anew; frames then pass it by or end at it
//! ([`FailMode`]), as its configuration says.

pub mod builtin;
pub mod change;
pub mod effects;
pub mod stack;
pub(crate) mod steps;
pub mod stream;
#[cfg(feature = "wasm")]
pub mod wasm;

use std::cell::OnceCell;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use change::{Change, Veto};
pub use effects::{Added, Effects, Injection, Output};
pub use stack::{FailMode, Slot, Stack, StackError};
pub use stream::{Heard, Peer};

use crate::frame::headers::Headers;
use crate::pipeline::Verdict;
use crate::{Direction, HEAD_LEN, Nanos, PortId};

/// What an extension is for, in the order of the stack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It sees frames and changes nothing.
    Capture,
    /// It may drop, change and add frames, and keep receivers from getting one.
    Filter,
    /// It chooses where frames go; at most one is enabled.
    Forwarding,
}

impl Kind {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Filter => "filter",
            Self::Forwarding => "forwarding",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How long an answer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// For every frame with the same addresses, protocol and ports, until policy changes or [`Effects::refresh`].
    Flow,
    /// The same, for about a second.
    Second,
    /// For this frame.
    Frame,
}

/// Why an extension drops a frame: an index into [`Extension::reasons`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reason(pub u8);

/// What an extension says about a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// It goes on.
    Pass,
    /// It ends here; towards a port: that port does not get it. Not for captures.
    Drop(Reason),
    /// It goes on with this beginning in place of its own: filters and forwarding, for frames that a port sends. As many bytes as [`Sight::head`]
    /// has. It is judged again from the first step on as what it is now; extensions down to this one are not asked again. Checksums are the
    /// extension's business ([`crate::frame::checksum`]).
    Replace(Box<Head>),
    /// The instance broke its contract; in words.
    Fault(String),
}

/// The first bytes of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    len: u8,
    bytes: [u8; HEAD_LEN],
}

impl Head {
    /// A copy of at most the first [`HEAD_LEN`] bytes.
    pub fn new(head: &[u8]) -> Self {
        let mut bytes = [0; HEAD_LEN];
        let len = head.len().min(HEAD_LEN);
        bytes[..len].copy_from_slice(&head[..len]);
        Self { len: len as u8, bytes }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }
}

/// A judgement and how long it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What is to happen.
    pub judgement: Judgement,
    /// For how long.
    pub scope: Scope,
}

impl Answer {
    /// Everything of this flow goes on.
    pub const PASS: Self = Self { judgement: Judgement::Pass, scope: Scope::Flow };

    /// This frame goes on; the next one is to be shown again.
    pub const PASS_ONE: Self = Self { judgement: Judgement::Pass, scope: Scope::Frame };

    /// Everything of this flow ends here.
    pub const fn drop(reason: Reason) -> Self {
        Self { judgement: Judgement::Drop(reason), scope: Scope::Flow }
    }
}

/// Where a forwarding extension sends a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Where the switch itself would.
    Native,
    /// To one port, whose policy is asked as ever.
    Port(PortId),
    /// To every port but its own; the extension is asked about each ([`Extension::judge`] with [`Direction::In`]) and may keep it out.
    All,
    /// Nowhere.
    Drop(Reason),
}

/// One frame as an extension sees it.
#[derive(Debug)]
pub struct Sight<'a> {
    /// When.
    pub now: Nanos,
    /// `Out`: `port` sends it; `In`: `port` is to get it.
    pub direction: Direction,
    /// Whose frame it is; [`PortId::SWITCH`] = one that an extension added without a port.
    pub port: PortId,
    /// `In`: who sent it; `None` = an extension without a port.
    pub from: Option<PortId>,
    /// The virtual subnet it is in.
    pub vsid: Option<u32>,
    /// Its first bytes: all of it, or at least [`HEAD_LEN`].
    pub head: &'a [u8],
    /// Its whole length in bytes, without FCS; that of a TSO frame before it is cut.
    pub len: u32,
    /// Somebody only asks what would happen: nothing is to be remembered of it.
    pub dry: bool,
    /// [`Extension::forward`]: the extension itself made the frame what it is, by adding it or by [`Judgement::Replace`].
    pub own: bool,
    headers: OnceCell<Option<Headers>>,
}

impl<'a> Sight<'a> {
    /// A frame that `port` sends, or is to get.
    pub fn new(now: Nanos, direction: Direction, port: PortId, head: &'a [u8], len: u32) -> Self {
        Self {
            now,
            direction,
            port,
            from: None,
            vsid: None,
            head,
            len,
            dry: false,
            own: false,
            headers: OnceCell::new(),
        }
    }

    /// Its headers, if they can be read: [`Headers::parse`].
    pub fn headers(&self) -> Option<&Headers> {
        self.headers.get_or_init(|| Headers::parse(self.head, self.len).ok()).as_ref()
    }
}

/// A frame that was drawn as a sample, with what became of it.
#[derive(Debug)]
pub struct Sample<'a> {
    /// When.
    pub now: Nanos,
    /// Who sent it.
    pub from: PortId,
    /// The virtual subnet of a frame that came out of a tunnel.
    pub vsid: Option<u32>,
    /// Its first bytes: all of it, or at least [`HEAD_LEN`].
    pub head: &'a [u8],
    /// Its whole length in bytes, without FCS.
    pub len: u32,
    /// What was decided.
    pub verdict: Verdict,
    /// How many frames it and all samples before it were drawn from; set by the switch.
    pub pool: u64,
}

/// An instance of an extension at one switch. Every method but [`Extension::kind`] has a default that does nothing.
///
/// [`Extension::change`] hears of the switch, its ports and their cards; an instance that is enabled late hears at once of all that
/// exists. What may be refused is said in [`Change`].
#[allow(unused_variables)] // names are part of the documentation
pub trait Extension: Send + Sync + std::fmt::Debug {
    /// What it is for. Never changes.
    fn kind(&self) -> Kind;

    /// Why it drops frames, in kebab-case; at most 32. Never changes.
    fn reasons(&self) -> &[&str] {
        &[]
    }

    /// Whether [`Extension::judge`] is to be called at all for a direction. Never changes.
    fn judges(&self, direction: Direction) -> bool {
        false
    }

    /// Says what is to happen with a frame. One that its receiver has no room for yet is asked about again when it is tried again.
    fn judge(&self, sight: &Sight<'_>, effects: &mut Effects) -> Answer {
        Answer::PASS
    }

    /// Where a frame goes that passed all policy of its sender; forwarding extensions only. Frames of virtual subnets are not asked about: their
    /// way is network virtualization's.
    ///
    /// # Errors
    /// As [`Extension::tick`].
    fn forward(&self, sight: &Sight<'_>, effects: &mut Effects) -> Result<(Destination, Scope), String> {
        Ok((Destination::Native, Scope::Flow))
    }

    /// Whether frames that the physical network sends back to where they came from are accepted (reflective relay, IEEE 802.1Qbg);
    /// forwarding extensions only. Never changes.
    fn reflective(&self) -> bool {
        false
    }

    /// One frame in how many is to be shown to [`Extension::sample`]; 0 = none. Never changes.
    fn sampling(&self) -> u32 {
        0
    }

    /// A frame that was drawn, at random and independently of what is in it, from all that ports sent.
    ///
    /// # Errors
    /// As [`Extension::tick`].
    fn sample(&self, sample: &Sample<'_>, effects: &mut Effects) -> Result<(), String> {
        Ok(())
    }

    /// Time passes: called about ten times a second. `counters` is what each port sent and received so far.
    ///
    /// # Errors
    /// The instance broke its contract, in words; as [`Judgement::Fault`].
    fn tick(&self, now: Nanos, counters: &dyn Counters, effects: &mut Effects) -> Result<(), String> {
        Ok(())
    }

    /// To whom it wants to have byte streams; at most [`stream::MOST_PEERS`]. Never changes.
    fn peers(&self) -> Vec<Peer> {
        Vec::new()
    }

    /// Something happened to the stream to the peer of this number in [`Extension::peers`]. One that adds as many frames as it may is called again,
    /// with no bytes, when they are on their way, so that it can leave the rest for then.
    ///
    /// # Errors
    /// As [`Extension::tick`].
    fn heard(
        &self,
        now: Nanos,
        peer: usize,
        what: Heard<'_>,
        counters: &dyn Counters,
        effects: &mut Effects,
    ) -> Result<(), String> {
        Ok(())
    }

    /// Something is about to change ([`Change::may_be_refused`]), or has changed.
    ///
    /// # Errors
    /// Why it must not, for the operator to read. Of what may not be refused the answer is ignored.
    fn change(&self, now: Nanos, change: &Change<'_>) -> Result<(), Veto> {
        Ok(())
    }

    /// Takes settings of its own for one port, or for the switch; `None` = there are none any more. They are kept by the switch and given again
    /// when the extension is enabled.
    ///
    /// # Errors
    /// What is wrong with them; then the earlier ones stay.
    fn set(&self, port: Option<PortId>, settings: Option<&Value>) -> Result<(), Veto> {
        match settings {
            None => Ok(()),
            Some(_) => Err(Veto::new("it has no settings")),
        }
    }

    /// What the operator may want to see, about one port or the whole instance.
    fn status(&self, port: Option<PortId>) -> Value {
        Value::Null
    }

    /// What it remembers of a port, to travel with the guest or into the next process; at most [`MOST_SAVED`] bytes. `None` = nothing has to.
    fn save(&self, now: Nanos, port: PortId) -> Option<Vec<u8>> {
        None
    }

    /// That it broke its contract in a call whose answer cannot say so, in words.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Takes what another instance saved of a port: at another switch, or in the process before.
    ///
    /// # Errors
    /// What is wrong with it; then the guest does not come here, or the port goes on without.
    fn restore(&self, now: Nanos, port: PortId, saved: &[u8]) -> Result<(), Veto> {
        Ok(())
    }
}

/// Bytes of state that an extension may have for one port on the move.
pub const MOST_SAVED: usize = 256 * 1024;

/// What ports have sent and received, for [`Extension::tick`].
pub trait Counters {
    /// Of one port; `None` = there is none.
    fn of(&self, port: PortId) -> Option<PortCounters>;
}

/// Counts of one port since it was made. Directions are the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortCounters {
    /// Frames that it sent.
    pub out_packets: u64,
    /// Bytes of them, without FCS.
    pub out_bytes: u64,
    /// Frames of it that were dropped.
    pub out_drops: u64,
    /// Frames that it got.
    pub in_packets: u64,
    /// Bytes of them, without FCS.
    pub in_bytes: u64,
    /// Frames that it did not get.
    pub in_drops: u64,
}
