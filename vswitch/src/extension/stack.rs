//! The extensions that are enabled at a switch, in order, and what their answers come to.
//!
//! A stack never changes; another order, or one instance more or less, is another stack with the same instances in it. What an instance may not
//! say (a capture that drops, a reason it does not have) is a fault like any other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::{
    Answer, Counters, Destination, Effects, Extension, Head, Heard, Judgement, Kind, Reason, Sample, Scope,
    Sight,
};
use crate::trace::DropReason;
use crate::{Direction, Nanos, PortId, Tally};

/// Extensions that may be enabled at one switch.
pub const MOST_ENABLED: usize = 8;

/// Reasons that one extension may have.
pub const MOST_REASONS: usize = 32;

/// What happens to frames when an extension has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// They pass as if it were not there.
    #[default]
    Open,
    /// They end there (`extension-failed`).
    Closed,
}

/// Why a list of extensions is no stack.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StackError {
    /// There can be one forwarding extension only.
    #[error("'{0}' forwards, and so does '{1}': disable one of them first")]
    TwoForwarding(String, String),
    /// There are too many.
    #[error("'{0}' would be one extension too many: a switch has at most {MOST_ENABLED}")]
    TooMany(String),
    /// It has too many reasons.
    #[error("'{0}' has {1} reasons to drop a frame; at most {MOST_REASONS} are counted")]
    TooManyReasons(String, usize),
}

/// What an extension did so far; shared by all workers.
#[derive(Debug, Default)]
pub struct Activity {
    /// Frames it was asked about.
    pub judged: AtomicU64,
    /// Frames it changed.
    pub replaced: AtomicU64,
    /// Frames it added.
    pub injected: AtomicU64,
    /// Frames and outputs of it that there was no room for.
    pub refused: AtomicU64,
    /// Frames that samples were drawn from.
    pub pool: AtomicU64,
    /// Frames drawn as samples.
    pub sampled: AtomicU64,
}

/// One enabled instance.
#[derive(Clone, Debug)]
pub struct Slot {
    name: Arc<str>,
    instance: Arc<dyn Extension>,
    fail: FailMode,
    reasons: Arc<[(Arc<str>, Tally)]>,
    fault: Arc<OnceLock<String>>,
    told: Arc<AtomicBool>,
    activity: Arc<Activity>,
    /// How much of [`Activity::refused`] was told.
    excess: Arc<AtomicU64>,
}

impl Slot {
    /// An instance under its name. `tallies` count the frames that it drops, one for each of its reasons in their order; missing ones are
    /// not counted.
    pub fn new(name: &str, instance: Arc<dyn Extension>, fail: FailMode, tallies: &[Tally]) -> Self {
        let tallies = tallies.iter().copied().chain(std::iter::repeat(Tally::NONE));
        let reasons = instance.reasons().iter().map(|&reason| reason.into()).zip(tallies).collect();
        Self {
            name: name.into(),
            instance,
            fail,
            reasons,
            fault: Arc::default(),
            told: Arc::default(),
            activity: Arc::default(),
            excess: Arc::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name, to be kept.
    pub fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// The instance.
    pub fn instance(&self) -> &Arc<dyn Extension> {
        &self.instance
    }

    /// What happens when it fails.
    pub fn fail_mode(&self) -> FailMode {
        self.fail
    }

    /// Its reasons to drop a frame and what counts the frames.
    pub fn reasons(&self) -> &[(Arc<str>, Tally)] {
        &self.reasons
    }

    /// Why it is not called any more.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// The same, but only to the first who asks.
    pub fn news(&self) -> Option<&str> {
        let fault = self.fault()?;
        (!self.told.swap(true, Ordering::AcqRel)).then_some(fault)
    }

    /// How many of the things that it wanted there was no room for since the last time that this was asked; `None` = for all there was.
    pub fn excess(&self) -> Option<u64> {
        let refused = self.activity.refused.load(Ordering::Relaxed);
        let told = self.excess.swap(refused, Ordering::Relaxed);
        refused.checked_sub(told).filter(|&more| more != 0)
    }

    /// Gives it time: [`Extension::tick`].
    ///
    /// # Errors
    /// It has failed, now or before.
    pub fn tick(&self, now: Nanos, counters: &dyn Counters, effects: &mut Effects) -> Result<(), String> {
        match self.fault() {
            Some(why) => Err(why.to_owned()),
            None => self.instance.tick(now, counters, effects).inspect_err(|why| self.fail(why.clone())),
        }
    }

    /// What it remembers of a port: [`Extension::save`].
    ///
    /// # Errors
    /// It has failed, now or before.
    pub fn save(&self, now: Nanos, port: PortId) -> Result<Option<Vec<u8>>, String> {
        if let Some(why) = self.fault() {
            return Err(why.to_owned());
        }
        let saved = self.instance.save(now, port);
        self.instance.fault().map_or(Ok(saved), |why| {
            self.fail(why.clone());
            Err(why)
        })
    }

    /// Tells it of a peer: [`Extension::heard`].
    ///
    /// # Errors
    /// It has failed, now or before.
    pub fn heard(
        &self,
        now: Nanos,
        peer: usize,
        what: Heard<'_>,
        counters: &dyn Counters,
        effects: &mut Effects,
    ) -> Result<(), String> {
        if let Some(why) = self.fault() {
            return Err(why.to_owned());
        }
        let told = self.instance.heard(now, peer, what, counters, effects);
        told.inspect_err(|why| self.fail(why.clone()))
    }

    /// What it did so far.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// It is not called any more. The first reason stays.
    pub fn fail(&self, why: impl Into<String>) {
        let _ = self.fault.set(why.into());
    }

    fn judge(&self, sight: &Sight<'_>, effects: &mut Effects) -> (Ruling, Scope) {
        if self.fault.get().is_some() {
            return self.failed();
        }
        if !sight.dry {
            self.activity.judged.fetch_add(1, Ordering::Relaxed);
        }
        let Answer { judgement, scope } = self.instance.judge(sight, effects);
        let ruling = match judgement {
            Judgement::Pass => Ok(Ruling::Pass),
            Judgement::Drop(_) if self.instance.kind() == Kind::Capture => {
                Err("a capture dropped a frame".into())
            }
            Judgement::Drop(reason) => self.dropped(reason),
            Judgement::Replace(_) if self.instance.kind() == Kind::Capture => {
                Err("a capture changed a frame".into())
            }
            Judgement::Replace(_) if sight.direction == Direction::In => {
                Err("it changed a frame on its way to a port".into())
            }
            Judgement::Replace(head) if head.bytes().len() != sight.head.len().min(crate::HEAD_LEN) => {
                Err(format!("it put {} bytes in place of {}", head.bytes().len(), sight.head.len()))
            }
            Judgement::Replace(head) => Ok(Ruling::Replace(head)),
            Judgement::Fault(why) => Err(why),
        };
        match ruling {
            Ok(ruling) => (ruling, scope),
            Err(why) => {
                self.fail(why);
                self.failed()
            }
        }
    }

    fn dropped(&self, reason: Reason) -> Result<Ruling, String> {
        match self.reasons.get(usize::from(reason.0)) {
            Some((why, tally)) => {
                let denial = Denial {
                    reason: DropReason::ExtensionFiltered,
                    tally: *tally,
                    why: Some(Arc::clone(why)),
                };
                Ok(Ruling::Drop(denial))
            }
            None => Err(format!("it dropped a frame for reason {}, of {}", reason.0, self.reasons.len())),
        }
    }

    /// What has failed is asked about each frame, so that no flow keeps an answer of this time.
    fn failed(&self) -> (Ruling, Scope) {
        let ruling = match self.fail {
            FailMode::Open => Ruling::Pass,
            FailMode::Closed => {
                Ruling::Drop(Denial { reason: DropReason::ExtensionFailed, tally: Tally::NONE, why: None })
            }
        };
        (ruling, Scope::Frame)
    }
}

/// A frame ends at an extension.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Denial {
    pub(crate) reason: DropReason,
    pub(crate) tally: Tally,
    /// The extension's own word for it.
    pub(crate) why: Option<Arc<str>>,
}

/// What an answer comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ruling {
    Pass,
    Drop(Denial),
    Replace(Box<Head>),
}

/// What several of them said in a row: who said the last word, what it is, which of them want to see the next frame of the flow
/// too, and whether they do within a second.
#[derive(Debug)]
pub(crate) struct Rulings {
    pub(crate) last: usize,
    pub(crate) ruling: Ruling,
    pub(crate) again: u8,
    pub(crate) soon: bool,
}

/// The enabled extensions of one switch.
#[derive(Debug, Default)]
pub struct Stack {
    slots: Vec<Slot>,
    /// Which of them judge what ports send, and what they get, as bits.
    judging: [u8; 2],
    forwarding: Option<usize>,
    sampling: Vec<(usize, u32)>,
}

impl Stack {
    /// Puts extensions in the order of their kinds; those of one kind stay in the order in which they are given.
    ///
    /// # Errors
    /// Two of them forward, or there are too many.
    pub fn new(mut slots: Vec<Slot>) -> Result<Self, StackError> {
        slots.sort_by_key(|slot| slot.instance.kind());
        if let Some(extra) = slots.get(MOST_ENABLED) {
            return Err(StackError::TooMany(extra.name.to_string()));
        }
        if let Some(slot) = slots.iter().find(|slot| slot.reasons.len() > MOST_REASONS) {
            return Err(StackError::TooManyReasons(slot.name.to_string(), slot.reasons.len()));
        }
        let mut forwarding = slots.iter().filter(|slot| slot.instance.kind() == Kind::Forwarding);
        if let (Some(first), Some(second)) = (forwarding.next(), forwarding.next()) {
            return Err(StackError::TwoForwarding(second.name.to_string(), first.name.to_string()));
        }
        let mask = |direction| {
            let judge = |slot: &Slot| u8::from(slot.instance.judges(direction));
            slots.iter().enumerate().fold(0, |mask, (index, slot)| mask | judge(slot) << index)
        };
        let judging = [mask(Direction::Out), mask(Direction::In)];
        let sampling = slots.iter().enumerate().map(|(index, slot)| (index, slot.instance.sampling()));
        Ok(Self {
            judging,
            forwarding: slots.iter().position(|slot| slot.instance.kind() == Kind::Forwarding),
            sampling: sampling.filter(|&(_, rate)| rate != 0).collect(),
            slots,
        })
    }

    /// The instances, from the top (nearest to the guests) down.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The instance of this name.
    pub fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| &*slot.name == name)
    }

    /// The name of the one at a place of the stack.
    pub fn name(&self, place: usize) -> &str {
        self.slots.get(place).map_or("", Slot::name)
    }

    /// The name of the one that forwards.
    pub(crate) fn forwarder(&self) -> &str {
        self.forwarding.map_or("", |place| self.name(place))
    }

    /// Whether frames that come back from the physical network are accepted.
    pub fn reflective(&self) -> bool {
        self.forwarding
            .and_then(|at| self.slots.get(at))
            .is_some_and(|slot| slot.fault.get().is_none() && slot.instance.reflective())
    }

    /// Whether any of them has a say in what becomes of frames; one that only draws samples has none.
    pub fn decides(&self) -> bool {
        self.judging != [0; 2] || self.forwarding.is_some()
    }

    /// Whether any of them may put another beginning in place of a frame's.
    pub fn changes_frames(&self) -> bool {
        self.judging[Direction::Out as usize] != 0
    }

    /// Whether any of them draws samples.
    pub fn samples(&self) -> bool {
        !self.sampling.is_empty()
    }

    /// Who judges in a direction, as bits.
    pub(crate) fn judging(&self, direction: Direction) -> u8 {
        self.judging[direction as usize]
    }

    /// Who samples, and one frame in how many.
    pub(crate) fn sampling(&self) -> &[(usize, u32)] {
        &self.sampling
    }

    /// Asks those of `mask` about a frame: down the stack what a port sends, up what it is to get. Ends with the first that does not let it
    /// pass as it is.
    pub(crate) fn ask(&self, mask: u8, sight: &Sight<'_>, effects: &mut Effects) -> Rulings {
        let mut all = Rulings { last: 0, ruling: Ruling::Pass, again: 0, soon: false };
        let mut left = mask;
        while left != 0 {
            let index = match sight.direction {
                Direction::Out => left.trailing_zeros(),
                Direction::In => u8::BITS - 1 - left.leading_zeros(),
            } as usize;
            left &= !(1 << index);
            let Some(slot) = self.slots.get(index) else { continue };
            effects.begin(index);
            let (ruling, scope) = slot.judge(sight, effects);
            all.last = index;
            all.again |= u8::from(scope == Scope::Frame) << index;
            all.soon |= scope == Scope::Second;
            if !matches!(ruling, Ruling::Pass) {
                if matches!(ruling, Ruling::Replace(_)) && !sight.dry {
                    slot.activity.replaced.fetch_add(1, Ordering::Relaxed);
                }
                all.ruling = ruling;
                break;
            }
        }
        all
    }

    /// Where the forwarding extension sends a frame; `None` = there is none, or it leaves it to the switch.
    pub(crate) fn forward(
        &self,
        sight: &Sight<'_>,
        effects: &mut Effects,
    ) -> Option<(Result<Destination, Denial>, Scope)> {
        let index = self.forwarding?;
        let slot = self.slots.get(index)?;
        effects.begin(index);
        let failed = |slot: &Slot| match slot.failed() {
            (Ruling::Drop(denial), scope) => Some((Err(denial), scope)),
            (_, scope) => Some((Ok(Destination::Native), scope)),
        };
        if slot.fault.get().is_some() {
            return failed(slot);
        }
        let (destination, scope) = match slot.instance.forward(sight, effects) {
            Ok(answer) => answer,
            Err(why) => {
                slot.fail(why);
                return failed(slot);
            }
        };
        let Destination::Drop(reason) = destination else { return Some((Ok(destination), scope)) };
        match slot.dropped(reason) {
            Ok(Ruling::Drop(denial)) => Some((Err(denial), scope)),
            Ok(_) => None,
            Err(why) => {
                slot.fail(why);
                failed(slot)
            }
        }
    }

    /// So many frames more could have been drawn; returns how many by now.
    pub(crate) fn drawn_from(&self, index: usize, count: u64) -> u64 {
        let add = |slot: &Slot| slot.activity.pool.fetch_add(count, Ordering::Relaxed) + count;
        self.slots.get(index).map_or(count, add)
    }

    /// Shows a frame that was drawn to the extension that had it drawn.
    pub(crate) fn sample(&self, index: usize, sample: &Sample<'_>, effects: &mut Effects) {
        if let Some(slot) = self.slots.get(index)
            && slot.fault.get().is_none()
        {
            slot.activity.sampled.fetch_add(1, Ordering::Relaxed);
            effects.begin(index);
            if let Err(why) = slot.instance.sample(sample, effects) {
                slot.fail(why);
            }
        }
    }
}
