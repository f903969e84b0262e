//! The side that the port leaves.
//!
//! It has the port until its peer says that rings run there: whatever else happens, the port's state stays in place, and rings that
//! start again here need no permission.

use super::{Body, End, Limits, Message, MigrationId, Millis, Outcome};

/// How far a source is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceStep {
    /// Connecting, or waiting for the reservation.
    Offering,
    /// Reserved there; the guest still runs here.
    Armed,
    /// The rings stand still, the state is being saved.
    Capturing,
    /// The state is on its way.
    Transferring,
    /// The state is in force there; the rings run nowhere.
    Handed,
    /// It has ended so, and the destination is being told.
    Ending(End),
    /// Over.
    Done(End),
}

impl SourceStep {
    /// The word for it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Offering => "offer",
            Self::Armed => "reserved",
            Self::Capturing => "freeze",
            Self::Transferring => "transfer",
            Self::Handed => "commit",
            Self::Ending(_) => "ending",
            Self::Done(_) => "done",
        }
    }
}

/// What a source hears.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceInput {
    /// The connection is there.
    Linked,
    /// It is gone, or an attempt to make it failed.
    Cut,
    /// The destination says something.
    Message(Message),
    /// The port's rings stand still; also when the front end went away.
    RingsStopped,
    /// The port's rings run (again).
    RingsStarted,
    /// The state was saved with this epoch.
    Captured {
        /// Its epoch.
        epoch: u64,
    },
    /// It could not be saved.
    CaptureFailed(String),
    /// An operator ends it, for this reason.
    Cancel(String),
    /// It cannot go on, for this reason: trying again would not help.
    Fatal(String),
    /// Time passed.
    Tick,
}

/// What a source has done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceAction {
    /// Connect to the destination and keep trying; each success or failure is an input.
    Connect,
    /// Say this. The driver adds the manifest to an offer, and the state to a state.
    Send(Message),
    /// From now on hold frames for the port while its rings stand still.
    Hold,
    /// Save the state; the port keeps it.
    Capture,
    /// The port is the destination's: frames held go there, and what was counted here is accounted for there.
    Release,
    /// The guest runs there without its state: frames held go there, everything else stays here.
    Forward,
    /// The port stays here as it was: held frames are delivered when its rings run.
    Keep,
    /// Nothing more will be said.
    Disconnect,
}

/// The machine of the side that the port leaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    id: MigrationId,
    limits: Limits,
    step: SourceStep,
    attempt: u32,
    linked: bool,
    /// Whether the port's rings run here.
    running: bool,
    /// Epoch of the captured state.
    saved: Option<u64>,
    deadline: Millis,
}

impl Source {
    /// Begins a migration; `running` = the port's rings run now.
    pub fn begin(id: MigrationId, limits: Limits, running: bool, now: Millis) -> (Self, Vec<SourceAction>) {
        let step = SourceStep::Offering;
        let deadline = now + limits.offer;
        let source = Self { id, limits, step, attempt: 0, linked: false, running, saved: None, deadline };
        (source, vec![SourceAction::Connect])
    }

    /// Its id.
    pub fn id(&self) -> MigrationId {
        self.id
    }

    /// How far it is.
    pub fn step(&self) -> &SourceStep {
        &self.step
    }

    /// When a [`SourceInput::Tick`] is due; `None` once it is over.
    pub fn deadline(&self) -> Option<Millis> {
        (!matches!(self.step, SourceStep::Done(_))).then_some(self.deadline)
    }

    /// Takes one input.
    pub fn input(&mut self, input: SourceInput, now: Millis) -> Vec<SourceAction> {
        let mut out = Vec::new();
        if matches!(self.step, SourceStep::Done(_)) {
            return out;
        }
        let outcome =
            if matches!(input, SourceInput::Cancel(_)) { Outcome::Cancelled } else { Outcome::Failed };
        match input {
            SourceInput::Linked => self.linked(&mut out),
            SourceInput::Cut => {
                self.linked = false;
                out.push(SourceAction::Connect);
            }
            SourceInput::Message(message) => {
                // An answer to an earlier connection says what was, not what is.
                if message.id == self.id && message.attempt == self.attempt && self.linked {
                    self.message(message.body, now, &mut out);
                }
            }
            SourceInput::RingsStopped => {
                self.running = false;
                if self.step == SourceStep::Armed {
                    self.capture(now, &mut out);
                }
            }
            SourceInput::RingsStarted => self.started(now, &mut out),
            SourceInput::Captured { epoch } => {
                if self.step == SourceStep::Capturing {
                    self.saved = Some(epoch);
                    self.go(SourceStep::Transferring, now + self.limits.transfer);
                    self.say(Body::State { epoch }, &mut out);
                }
            }
            SourceInput::CaptureFailed(reason) => {
                if self.step == SourceStep::Capturing {
                    let reason = format!("the state could not be saved: {reason}");
                    self.end(Outcome::Failed, reason, now, &mut out);
                }
            }
            SourceInput::Cancel(reason) if self.attempt == 0 => {
                self.done(End::new(outcome, reason), &mut out);
            }
            SourceInput::Fatal(reason) if self.attempt == 0 || self.step == SourceStep::Offering => {
                // Nobody has heard of it, or will forget it.
                self.done(End::new(outcome, reason), &mut out);
            }
            SourceInput::Cancel(reason) | SourceInput::Fatal(reason) => {
                if !matches!(self.step, SourceStep::Ending(_)) {
                    self.end(outcome, reason, now, &mut out);
                }
            }
            SourceInput::Tick => self.expired(now, &mut out),
        }
        out
    }

    fn linked(&mut self, out: &mut Vec<SourceAction>) {
        self.linked = true;
        self.attempt += 1;
        let saved = self.saved;
        if let SourceStep::Ending(end) = &self.step {
            let reason = end.reason.clone();
            self.say(Body::Cancel { reason, saved }, out);
        } else {
            self.say(Body::Offer { saved }, out);
        }
    }

    fn message(&mut self, body: Body, now: Millis, out: &mut Vec<SourceAction>) {
        match body {
            Body::Reserved => match self.step {
                SourceStep::Offering => {
                    self.go(SourceStep::Armed, now + self.limits.freeze);
                    out.push(SourceAction::Hold);
                    if !self.running {
                        self.capture(now, out);
                    }
                }
                // It has forgotten, or never got it.
                SourceStep::Transferring | SourceStep::Handed => {
                    if let Some(epoch) = self.saved {
                        self.say(Body::State { epoch }, out);
                    }
                }
                _ => {}
            },
            Body::Refused { reason } => match &self.step {
                SourceStep::Offering => self.done(End::new(Outcome::Refused, reason), out),
                SourceStep::Ending(end) => self.done(end.clone(), out),
                _ => self.done(End::new(Outcome::Failed, reason), out),
            },
            Body::Loaded if self.step == SourceStep::Transferring => {
                self.go(SourceStep::Handed, now + self.limits.commit);
            }
            // Rings that run here say more than any word from there.
            Body::Running if !self.running && self.saved.is_some() => {
                self.say(Body::Confirmed, out);
                self.step = SourceStep::Done(End::new(Outcome::Committed, ""));
                out.extend([SourceAction::Release, SourceAction::Disconnect]);
            }
            Body::Bare { reason } if !self.running => {
                let reason = format!("the guest runs there without its state: {reason}");
                self.step = SourceStep::Done(End::new(Outcome::Failed, reason));
                out.extend([SourceAction::Forward, SourceAction::Disconnect]);
            }
            Body::Dropped { reason } => match &self.step {
                SourceStep::Ending(end) => self.done(end.clone(), out),
                SourceStep::Offering | SourceStep::Armed => self.done(End::new(Outcome::Failed, reason), out),
                _ => self.done(End::new(Outcome::RolledBack, reason), out),
            },
            // The source's own words, and what cannot be true.
            _ => {}
        }
    }

    fn started(&mut self, now: Millis, out: &mut Vec<SourceAction>) {
        self.running = true;
        match self.step {
            SourceStep::Capturing | SourceStep::Transferring | SourceStep::Handed => {
                self.end(Outcome::RolledBack, "the guest runs at the source again", now, out);
            }
            _ => {}
        }
    }

    fn capture(&mut self, now: Millis, out: &mut Vec<SourceAction>) {
        self.go(SourceStep::Capturing, now + self.limits.capture);
        out.push(SourceAction::Capture);
    }

    fn expired(&mut self, now: Millis, out: &mut Vec<SourceAction>) {
        if now < self.deadline {
            return;
        }
        let reason = match &self.step {
            SourceStep::Offering => "the destination did not answer in time",
            SourceStep::Armed => "the guest did not stop in time",
            SourceStep::Capturing => "saving the state took too long",
            SourceStep::Transferring => "the state did not arrive in time",
            SourceStep::Handed => "the guest did not run at the destination in time",
            SourceStep::Ending(end) => {
                return self.done(End { confirmed: false, ..end.clone() }, out);
            }
            SourceStep::Done(_) => return,
        };
        self.end(Outcome::Failed, reason, now, out);
    }

    /// Ends it here and tells the destination.
    fn end(&mut self, outcome: Outcome, reason: impl Into<String>, now: Millis, out: &mut Vec<SourceAction>) {
        let reason = reason.into();
        self.go(SourceStep::Ending(End::new(outcome, reason.clone())), now + self.limits.end);
        self.say(Body::Cancel { reason, saved: self.saved }, out);
    }

    /// Over, and the port stays.
    fn done(&mut self, end: End, out: &mut Vec<SourceAction>) {
        self.step = SourceStep::Done(end);
        out.extend([SourceAction::Keep, SourceAction::Disconnect]);
    }

    fn go(&mut self, step: SourceStep, deadline: Millis) {
        self.step = step;
        self.deadline = deadline;
    }

    fn say(&self, body: Body, out: &mut Vec<SourceAction>) {
        if self.linked {
            out.push(SourceAction::Send(Message { id: self.id, attempt: self.attempt, body }));
        }
    }
}
