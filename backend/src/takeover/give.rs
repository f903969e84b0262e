//! The end that hands over.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vswitch::refusal::{Object, Refusal, Refused};

use super::wire::{Channel, ChannelError};
use super::{Step, VERSION};
use crate::control::Switch;
use crate::control::takeover::PortOffer;
use crate::control::types::NvDocument;
use crate::dataplane::takeover::Frozen;
use crate::migrate::Migrations;

/// Time for the successor to open its store and compile the policy, while everything runs.
const PREPARE: Duration = Duration::from_mins(1);
/// Time for each step while nothing runs.
const HURRY: Duration = Duration::from_secs(2);
/// Time for a successor that failed to end, so that its files are free.
const FAREWELL: Duration = Duration::from_secs(5);

/// What became of a take-over, as the process that offered it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody has asked, or it failed.
    Running,
    /// Another process is the switch.
    TakenOver,
}

/// What can be asked to hand over: one per process.
#[derive(Debug)]
pub struct Giver {
    busy: AtomicBool,
    own_uid: u32,
    directory: Option<PathBuf>,
    listeners: Mutex<Vec<OwnedFd>>,
    /// Whether API and metrics leave new connections in the kernel's queue.
    paused: watch::Sender<bool>,
    outcome: watch::Sender<Outcome>,
}

/// The right to hand over, of one request at a time.
#[derive(Debug)]
pub struct Turn(Arc<Giver>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::SeqCst);
    }
}

impl Giver {
    /// A giver for the switch whose store is in `directory`; `listeners` are that of the API and, if there is one, that of the metrics.
    pub fn new(own_uid: u32, directory: Option<PathBuf>, listeners: Vec<OwnedFd>) -> Self {
        Self {
            busy: AtomicBool::new(false),
            own_uid,
            directory,
            listeners: Mutex::new(listeners),
            paused: watch::Sender::new(false),
            outcome: watch::Sender::new(Outcome::Running),
        }
    }

    /// Becomes `true` while no connection is to be accepted.
    pub fn paused(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Becomes [`Outcome::TakenOver`] when this process has nothing left to do.
    pub fn outcome(&self) -> watch::Receiver<Outcome> {
        self.outcome.subscribe()
    }

    /// Judges a request of the user with number `uid` for version `version` of the protocol.
    pub fn admit(self: &Arc<Self>, uid: Option<u32>, version: u32) -> Result<Turn, Refused> {
        match uid {
            Some(uid) if uid == 0 || uid == self.own_uid => {}
            uid => {
                let uid = uid.unwrap_or(u32::MAX);
                return Err(Refusal::TakeOverDenied { uid }.of(Object::Caller));
            }
        }
        if version != VERSION {
            return Err(Refusal::TakeOverVersion { asked: version, known: VERSION }.of(Object::Switch));
        }
        if self.busy.swap(true, Ordering::SeqCst) {
            return Err(Refusal::TakeOverRunning.of(Object::Switch));
        }
        Ok(Turn(Arc::clone(self)))
    }
}

impl Turn {
    /// Hands the switch over on `stream`, or leaves everything as it was.
    pub fn give(self, stream: UnixStream, switch: &Mutex<Switch>, migrations: &Migrations) {
        let channel = match Channel::new(stream) {
            Ok(channel) => channel,
            Err(e) => return log::error!("a take-over failed: {e}"),
        };
        let mut switch = switch.lock().unwrap_or_else(PoisonError::into_inner);
        log::info!("a successor takes over");
        let offer = match offer(&switch, migrations) {
            Ok(offer) => offer,
            Err(reason) => {
                log::error!("the take-over failed, everything goes on here: {reason}");
                let _ = channel.send(&Step::Failed { reason }, &[], HURRY);
                drop(self);
                return;
            }
        };
        switch.release_store();
        match self.talk(&channel, &switch, migrations, offer) {
            Ok(stood) => {
                log::info!("the successor runs; frames waited {:.1} ms", stood.as_secs_f64() * 1e3);
                switch.stop();
                self.0.outcome.send_replace(Outcome::TakenOver);
            }
            Err(e) => {
                log::error!("the take-over failed, everything goes on here: {e}");
                let _ = channel.send(&Step::Failed { reason: e.to_string() }, &[], HURRY);
                // Its end is what frees its files.
                while channel.receive(Some(FAREWELL)).is_ok() {}
                drop(channel);
                switch.reclaim_store(self.0.directory.as_deref());
                self.0.paused.send_replace(false);
            }
        }
        // Before the switch is free: whoever has seen it answer may ask again.
        drop(self);
        drop(switch);
    }

    /// The whole conversation; says how long nothing moved.
    fn talk(
        &self,
        channel: &Channel,
        switch: &Switch,
        migrations: &Migrations,
        offer: Offer,
    ) -> Result<Duration, ChannelError> {
        channel.send(&offer.first, &[offer.counters.as_fd()], PREPARE)?;
        for port in offer.ports {
            channel.send(&Step::Port(Box::new(port)), &[], PREPARE)?;
        }
        for document in offer.nv {
            channel.send(&Step::Nv(Box::new(document)), &[], PREPARE)?;
        }
        expect(channel, Some(PREPARE), |step| matches!(step, Step::Prepared))?;

        self.0.paused.send_replace(true);
        let began = Instant::now();
        let Some(frozen) = switch.freeze() else { return Err(ChannelError::Closed) };
        match self.hand_over(channel, switch, migrations, &frozen) {
            Ok(()) => Ok(began.elapsed()),
            Err(e) => {
                switch.thaw(frozen);
                log::warn!("nothing moved for {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
                Err(e)
            }
        }
    }

    /// What happens while nothing moves.
    fn hand_over(
        &self,
        channel: &Channel,
        switch: &Switch,
        migrations: &Migrations,
        frozen: &Frozen,
    ) -> Result<(), ChannelError> {
        let all = frozen.devices();
        let devices = all.len();
        for (id, device, fds) in all {
            let (memory, extensions) = (Box::new(switch.memory(id)), switch.remembered(id));
            channel.send(&Step::Device { id, device, memory, extensions }, &fds, HURRY)?;
        }
        let listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let (listening, taking) = migrations.hand_over().map_err(ChannelError::Io)?.unzip();
        let fds: Vec<_> = listeners.iter().chain(&taking).map(AsFd::as_fd).collect();
        channel.send(&Step::Frozen { devices, listening }, &fds, HURRY)?;
        expect(channel, Some(HURRY), |step| matches!(step, Step::Ready))?;
        // From here on the successor decides. What ends this wait is its word or its end.
        channel.send(&Step::Go, &[], HURRY)?;
        expect(channel, None, |step| matches!(step, Step::Running))
    }
}

/// What a successor is told first.
struct Offer {
    first: Step,
    counters: OwnedFd,
    ports: Vec<PortOffer>,
    nv: Vec<NvDocument>,
}

fn offer(switch: &Switch, migrations: &Migrations) -> Result<Offer, String> {
    // One that begins from here on waits for the switch, and finds it stopped or everything as it was.
    if let Some(port) = migrations.moving() {
        return Err(Refusal::TakeOverMoving { port }.to_string());
    }
    let (settings, ports, last_id) = switch.take_stock().map_err(|why| why.to_string())?;
    let counters = switch.counters_file().ok_or("the switch is stopping")?.map_err(|e| e.to_string())?;
    let program = env!("CARGO_PKG_VERSION").to_owned();
    let nv = switch.nv_offer();
    let first = Step::Offer { program, settings, last_id, ports: ports.len(), nv: nv.len() };
    Ok(Offer { first, counters, ports, nv })
}

fn expect(
    channel: &Channel,
    limit: Option<Duration>,
    is_it: impl Fn(&Step) -> bool,
) -> Result<(), ChannelError> {
    let (step, _) = channel.receive(limit)?;
    if is_it(&step) { Ok(()) } else { Err(ChannelError::unexpected(&step)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_own_user_may_ask_one_at_a_time_and_in_the_same_version() {
        let giver = Arc::new(Giver::new(500, None, Vec::new()));
        let line = |uid, version| giver.admit(uid, version).expect_err("refused").to_string();
        assert_eq!(
            line(Some(65534), VERSION),
            "caller: uid 65534 may not take the switch over; valid: root or the switch's own user"
        );
        assert!(giver.admit(None, VERSION).is_err());
        let text = "switch: the successor speaks take-over version 9, this switch version 1; valid: a program that \
                    speaks version 1; or stop this switch and start the other";
        assert_eq!(line(Some(0), 9), text);
        let turn = giver.admit(Some(500), VERSION).unwrap();
        assert_eq!(
            line(Some(0), VERSION),
            "switch: another take-over is under way; valid: try again when it has ended"
        );
        drop(turn);
        assert!(giver.admit(Some(0), VERSION).is_ok());
    }
}
