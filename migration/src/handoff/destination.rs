//! The side that the port comes to.
//!
//! It may forget everything (a crash) but the epoch of a state that it committed. Until rings run here, nothing it has done counts.

use super::{Body, End, Limits, Message, MigrationId, Millis, Outcome};

/// How far a destination is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationStep {
    /// It is being checked and reserved.
    Reserving {
        /// It was called off meanwhile, for this reason.
        cancelled: Option<String>,
    },
    /// Waiting for the state; the port's rings are gated.
    Reserved,
    /// The state is being put in force.
    Loading {
        /// It was called off meanwhile, for this reason.
        cancelled: Option<String>,
    },
    /// The state is in force; waiting for rings to run.
    InForce,
    /// What was before is being put back.
    Undoing {
        /// How it ends then.
        end: End,
        /// Whether a state is in force, so that rings that were quicker commit it.
        loaded: bool,
    },
    /// The rings run: committed. Waiting for the source to know.
    Running,
    /// Over.
    Done(End),
}

impl DestinationStep {
    /// The word for it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Reserving { .. } => "check",
            Self::Reserved => "reserved",
            Self::Loading { .. } => "transfer",
            Self::InForce | Self::Running => "commit",
            Self::Undoing { .. } => "ending",
            Self::Done(_) => "done",
        }
    }
}

/// What a destination hears.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationInput {
    /// The source says something.
    Message(Message),
    /// The connection is gone.
    Cut,
    /// The port fits, is gated and holds frames.
    Reserved,
    /// It does not fit, or there is no room.
    Refused(String),
    /// The state is in force.
    Loaded,
    /// The state was refused, as a whole.
    LoadFailed(String),
    /// What was before is in force again, and no rings run.
    Undone,
    /// The front end wants rings to run that are gated.
    RingsWanted,
    /// Rings run.
    RingsStarted,
    /// The front end has gone.
    FrontEndGone,
    /// An operator ends it, for this reason.
    Cancel(String),
    /// Time passed.
    Tick,
}

/// What a destination has done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationAction {
    /// Say this. The driver adds the problems to a refusal.
    Send(Message),
    /// Check the port against what is here, gate it and hold frames for it, or refuse.
    Reserve,
    /// Put the state in force, as a whole or not at all.
    PutInForce,
    /// Open the gate: rings may run.
    Open,
    /// In one step: if rings run with a state that was put in force, answer [`DestinationInput::RingsStarted`]; otherwise put back what
    /// was before the reservation, open the gate and answer [`DestinationInput::Undone`].
    Undo,
    /// Rings run: store what came, its epoch first of all, and announce the guest.
    Commit,
    /// Give up waiting: no reservation, gate open, the port's own policy. Rings run in a moment.
    RunWithout,
    /// Nothing more will be said.
    Disconnect,
}

/// The machine of the side that the port comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    id: MigrationId,
    limits: Limits,
    step: DestinationStep,
    attempt: u32,
    linked: bool,
    deadline: Millis,
    /// When rings that the front end wants run without the state.
    gate: Option<Millis>,
}

impl Destination {
    /// Begins with the first words of a source of this migration; `committed` is the epoch of the last state of the port that rings ran
    /// with here, which outlives a crash. `None` if these are no first words.
    ///
    /// What is over before it began is remembered as well: an offer that comes late must not bring it back.
    pub fn begin(
        message: &Message,
        committed: Option<u64>,
        limits: Limits,
        now: Millis,
    ) -> Option<(Self, Vec<DestinationAction>)> {
        let Message { id, attempt, ref body } = *message;
        let (saved, called_off) = match body {
            Body::Offer { saved } => (*saved, None),
            Body::Cancel { reason, saved } => (*saved, Some(reason)),
            _ => return None,
        };
        let known = saved.is_some() && saved == committed;
        let step = match called_off {
            _ if known => DestinationStep::Done(End::new(Outcome::Committed, "")),
            Some(reason) => DestinationStep::Done(End::new(Outcome::RolledBack, reason.clone())),
            None => DestinationStep::Reserving { cancelled: None },
        };
        let deadline = now + limits.offer;
        let new = Self { id, limits, step, attempt, linked: true, deadline, gate: None };
        let mut out = Vec::new();
        match &new.step {
            DestinationStep::Done(end) => new.say(Self::ended(end), &mut out),
            _ => out.push(DestinationAction::Reserve),
        }
        Some((new, out))
    }

    /// Its id.
    pub fn id(&self) -> MigrationId {
        self.id
    }

    /// The source's connection it is on.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How far it is.
    pub fn step(&self) -> &DestinationStep {
        &self.step
    }

    /// When a [`DestinationInput::Tick`] is due; `None` = never.
    pub fn deadline(&self) -> Option<Millis> {
        match self.step {
            // These end by themselves: the driver answers.
            DestinationStep::Reserving { .. }
            | DestinationStep::Loading { .. }
            | DestinationStep::Undoing { .. }
            | DestinationStep::Done(_) => None,
            DestinationStep::Reserved => {
                Some(self.gate.map_or(self.deadline, |gate| gate.min(self.deadline)))
            }
            _ => Some(self.deadline),
        }
    }

    /// Takes one input.
    pub fn input(&mut self, input: DestinationInput, now: Millis) -> Vec<DestinationAction> {
        let mut out = Vec::new();
        match input {
            DestinationInput::Message(message) => {
                if message.id == self.id && message.attempt >= self.attempt {
                    if message.attempt > self.attempt {
                        self.attempt = message.attempt;
                        self.relinked(now);
                    }
                    self.message(&message.body, &mut out);
                }
            }
            DestinationInput::Cut => {
                self.linked = false;
                if self.step == DestinationStep::Reserved {
                    self.deadline = self.deadline.min(now + self.limits.silence);
                }
            }
            DestinationInput::Reserved => self.reserved(now, &mut out),
            DestinationInput::Refused(reason) => {
                if matches!(self.step, DestinationStep::Reserving { .. }) {
                    self.step = DestinationStep::Done(End::new(Outcome::Refused, reason.clone()));
                    self.say(Body::Refused { reason }, &mut out);
                    out.push(DestinationAction::Disconnect);
                }
            }
            DestinationInput::Loaded => self.loaded(now, &mut out),
            DestinationInput::LoadFailed(reason) => {
                if matches!(self.step, DestinationStep::Loading { .. }) {
                    let reason = format!("the state was refused: {reason}");
                    self.undo(End::new(Outcome::Failed, reason), &mut out);
                }
            }
            DestinationInput::Undone => {
                if let DestinationStep::Undoing { end, .. } = &self.step {
                    let end = end.clone();
                    self.say(Body::Dropped { reason: end.reason.clone() }, &mut out);
                    self.step = DestinationStep::Done(end);
                    out.push(DestinationAction::Disconnect);
                }
            }
            DestinationInput::RingsWanted => {
                // Only of use while the state is not there; the gate of one that is opens at once.
                if matches!(self.step, DestinationStep::Reserving { .. } | DestinationStep::Reserved) {
                    self.gate.get_or_insert(now + self.limits.gate);
                }
            }
            DestinationInput::RingsStarted => self.started(now, &mut out),
            DestinationInput::FrontEndGone => {
                self.gate = None;
                if self.step == DestinationStep::InForce {
                    let reason = "the front end at the destination has gone before the guest ran there";
                    self.undo(End::new(Outcome::RolledBack, reason), &mut out);
                }
            }
            DestinationInput::Cancel(reason) => self.call_off(Outcome::Cancelled, &reason, &mut out),
            DestinationInput::Tick => self.expired(now, &mut out),
        }
        out
    }

    fn relinked(&mut self, now: Millis) {
        self.linked = true;
        if self.step == DestinationStep::Reserved {
            self.deadline = now + self.limits.freeze;
        }
    }

    fn message(&mut self, body: &Body, out: &mut Vec<DestinationAction>) {
        match body {
            Body::Offer { .. } => {
                let answer = match &self.step {
                    DestinationStep::Reserved => Body::Reserved,
                    DestinationStep::InForce => Body::Loaded,
                    DestinationStep::Running => Body::Running,
                    DestinationStep::Done(end) => Self::ended(end),
                    // The answer comes when it is done.
                    _ => return,
                };
                self.say(answer, out);
            }
            Body::State { .. } => match &self.step {
                DestinationStep::Reserved => {
                    self.step = DestinationStep::Loading { cancelled: None };
                    out.push(DestinationAction::PutInForce);
                }
                DestinationStep::InForce => self.say(Body::Loaded, out),
                DestinationStep::Running => self.say(Body::Running, out),
                DestinationStep::Done(end) => self.say(Self::ended(end), out),
                _ => {}
            },
            Body::Cancel { reason, .. } => match &self.step {
                DestinationStep::Running => self.say(Body::Running, out),
                DestinationStep::Done(end) => self.say(Self::ended(end), out),
                _ => self.call_off(Outcome::RolledBack, reason, out),
            },
            Body::Confirmed if self.step == DestinationStep::Running => {
                self.step = DestinationStep::Done(End::new(Outcome::Committed, ""));
                out.push(DestinationAction::Disconnect);
            }
            // A destination's own words.
            _ => {}
        }
    }

    /// What is said of a migration that is over.
    fn ended(end: &End) -> Body {
        let reason = end.reason.clone();
        match end.outcome {
            Outcome::Committed => Body::Running,
            Outcome::Refused => Body::Refused { reason },
            _ => Body::Dropped { reason },
        }
    }

    fn call_off(&mut self, outcome: Outcome, reason: &str, out: &mut Vec<DestinationAction>) {
        match &mut self.step {
            DestinationStep::Reserving { cancelled } | DestinationStep::Loading { cancelled } => {
                cancelled.get_or_insert_with(|| reason.to_owned());
            }
            DestinationStep::Reserved | DestinationStep::InForce => self.undo(End::new(outcome, reason), out),
            DestinationStep::Undoing { .. } | DestinationStep::Running | DestinationStep::Done(_) => {}
        }
    }

    fn reserved(&mut self, now: Millis, out: &mut Vec<DestinationAction>) {
        let DestinationStep::Reserving { cancelled } = &self.step else { return };
        if let Some(reason) = cancelled.clone() {
            return self.undo(End::new(Outcome::RolledBack, reason), out);
        }
        let limit = if self.linked { self.limits.freeze } else { self.limits.silence };
        self.go(DestinationStep::Reserved, now + limit);
        self.say(Body::Reserved, out);
    }

    fn loaded(&mut self, now: Millis, out: &mut Vec<DestinationAction>) {
        let DestinationStep::Loading { cancelled } = &self.step else { return };
        if let Some(reason) = cancelled.clone() {
            self.step = DestinationStep::InForce;
            return self.undo(End::new(Outcome::RolledBack, reason), out);
        }
        self.gate = None;
        self.go(DestinationStep::InForce, now + self.limits.commit);
        out.push(DestinationAction::Open);
        self.say(Body::Loaded, out);
    }

    fn started(&mut self, now: Millis, out: &mut Vec<DestinationAction>) {
        // While undoing: the rings were quicker, and what came is in use.
        if matches!(self.step, DestinationStep::InForce | DestinationStep::Undoing { loaded: true, .. }) {
            self.go(DestinationStep::Running, now + self.limits.end);
            out.push(DestinationAction::Commit);
            self.say(Body::Running, out);
        }
    }

    fn expired(&mut self, now: Millis, out: &mut Vec<DestinationAction>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match &self.step {
            DestinationStep::Reserved if self.gate.is_some_and(|gate| now >= gate) => {
                let reason = format!("its state had not come {} ms after its rings", self.limits.gate);
                self.step = DestinationStep::Done(End::new(Outcome::Failed, reason.clone()));
                out.push(DestinationAction::RunWithout);
                self.say(Body::Bare { reason }, out);
                out.push(DestinationAction::Disconnect);
            }
            DestinationStep::Reserved => {
                let reason =
                    if self.linked { "the guest did not stop in time" } else { "the source went silent" };
                self.undo(End::new(Outcome::Failed, reason), out);
            }
            DestinationStep::InForce => {
                let reason = "the guest did not run at the destination in time";
                self.undo(End::new(Outcome::RolledBack, reason), out);
            }
            DestinationStep::Running => {
                let end = End::new(Outcome::Committed, "the source has not confirmed it");
                self.step = DestinationStep::Done(End { confirmed: false, ..end });
                out.push(DestinationAction::Disconnect);
            }
            _ => {}
        }
    }

    fn undo(&mut self, end: End, out: &mut Vec<DestinationAction>) {
        let loaded = matches!(self.step, DestinationStep::InForce);
        self.step = DestinationStep::Undoing { end, loaded };
        out.push(DestinationAction::Undo);
    }

    fn go(&mut self, step: DestinationStep, deadline: Millis) {
        self.step = step;
        self.deadline = deadline;
    }

    fn say(&self, body: Body, out: &mut Vec<DestinationAction>) {
        if self.linked {
            out.push(DestinationAction::Send(Message { id: self.id, attempt: self.attempt, body }));
        }
    }
}
