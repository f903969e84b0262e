//! A port that leaves: drives [`Source`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use migration::handoff::{Body, Message, MigrationId, Source, SourceAction, SourceInput, SourceStep};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::link::{Heard, Link};
use super::tls::Broken;
use super::wire::Head;
use super::{Command, Inner};
use crate::control::handover::moves::Standing;

/// How often the port is looked at, should no event tell.
const LOOK: Duration = Duration::from_millis(100);
/// Shortest time between two looks.
pub(super) const PAUSE: Duration = Duration::from_millis(1);
/// Time between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(300);
/// How long frames are held at most for a guest that is nowhere.
const HELD: Duration = Duration::from_secs(30);

/// The switch that the port goes to.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) server: ServerName<'static>,
    pub(super) connector: TlsConnector,
}

struct Outgoing {
    inner: Arc<Inner>,
    port: String,
    id: MigrationId,
    machine: Source,
    target: Arc<Target>,
    link: Option<Link>,
    connecting: Option<JoinHandle<Result<Link, Broken>>>,
    /// Why the last connection was not made or ended.
    trouble: watch::Sender<String>,
    /// What the machine was told of the port last.
    standing: Standing,
    state: Arc<Vec<u8>>,
    inputs: VecDeque<SourceInput>,
    frozen: Option<Instant>,
    /// Bytes of connections that have ended.
    bytes: u64,
    rounds: u32,
}

/// Runs a migration to its end.
pub(super) async fn run(
    inner: Arc<Inner>,
    port: String,
    id: MigrationId,
    standing: Standing,
    target: Target,
    commands: mpsc::Receiver<Command>,
) {
    let (machine, actions) = Source::begin(id, inner.limits, standing.running, inner.now());
    let mut this = Outgoing {
        inner,
        port,
        id,
        machine,
        target: Arc::new(target),
        link: None,
        connecting: None,
        trouble: watch::channel(String::new()).0,
        standing,
        state: Arc::default(),
        inputs: VecDeque::new(),
        frozen: None,
        bytes: 0,
        rounds: 0,
    };
    for action in actions {
        this.act(action).await;
    }
    this.drive(commands).await;
}

impl Outgoing {
    async fn drive(&mut self, mut commands: mpsc::Receiver<Command>) {
        let mut events = self.inner.events.follow();
        let mut look = interval(LOOK);
        let mut stopping = self.inner.stopping.clone();
        let mut looked = tokio::time::Instant::now();
        loop {
            while let Some(input) = self.inputs.pop_front() {
                for action in self.machine.input(input, self.inner.now()) {
                    self.act(action).await;
                }
            }
            self.show();
            let Some(deadline) = self.machine.deadline() else { return };
            let due = self.inner.began + Duration::from_millis(deadline);
            let happened = async {
                sleep_until(looked + PAUSE).await;
                events.changed().await
            };
            tokio::select! {
                command = commands.recv() => if let Some(Command::Cancel) = command {
                    self.inputs.push_back(SourceInput::Cancel("an operator ended it at the source".into()));
                },
                changed = happened => {
                    if changed.is_ok() {
                        self.look().await;
                    }
                    looked = tokio::time::Instant::now();
                }
                _ = look.tick() => self.look().await,
                () = sleep_until(due.into()) => self.inputs.push_back(SourceInput::Tick),
                heard = hear(&mut self.link) => self.heard(heard),
                made = made(&mut self.connecting) => self.made(made),
                () = stopped(&mut stopping) => {
                    self.inputs.push_back(SourceInput::Cancel("the source's switch stops".into()));
                    // What is to be said is written by the time the runtime ends, or not at all.
                    if let Some(input) = self.inputs.pop_front() {
                        for action in self.machine.input(input, self.inner.now()) {
                            self.act(action).await;
                        }
                    }
                    return;
                }
            }
        }
    }

    fn heard(&mut self, heard: Result<Heard, Broken>) {
        match heard {
            Ok((head, _)) => {
                if !head.problems.is_empty() {
                    let problems: Vec<_> = head.problems.iter().map(Into::into).collect();
                    self.inner.note(&self.port, self.id, |view| view.problems = problems);
                }
                self.inputs.push_back(SourceInput::Message(head.message));
            }
            Err(broken) => {
                self.end_link();
                self.inputs.push_back(SourceInput::Cut);
                self.failed(broken);
            }
        }
    }

    fn made(&mut self, made: Result<Link, Broken>) {
        self.connecting = None;
        match made {
            Ok(link) => {
                self.rounds += 1;
                self.link = Some(link);
                self.inputs.push_back(SourceInput::Linked);
            }
            Err(broken) => {
                self.inputs.push_back(SourceInput::Cut);
                self.failed(broken);
            }
        }
    }

    fn failed(&mut self, broken: Broken) {
        log::warn!("migration {} of port '{}': {}", self.id, self.port, broken.reason);
        self.trouble.send_replace(broken.reason.clone());
        if broken.lasting {
            self.inputs.push_back(SourceInput::Fatal(broken.reason));
        }
    }

    /// Hears of the port what has changed since the last time.
    async fn look(&mut self) {
        let port = self.port.clone();
        let Ok(Some(now)) = self.inner.with(move |switch| switch.standing(&port)).await else {
            let reason = "the port is not there any more".to_owned();
            return self.inputs.push_back(SourceInput::Fatal(reason));
        };
        let before = std::mem::replace(&mut self.standing, now);
        if before.running && (!now.running || now.starts != before.starts) {
            self.frozen = Some(Instant::now());
            self.inputs.push_back(SourceInput::RingsStopped);
        }
        if now.running && (!before.running || now.starts != before.starts) {
            self.inputs.push_back(SourceInput::RingsStarted);
        }
    }

    async fn act(&mut self, action: SourceAction) {
        let port = self.port.clone();
        match action {
            SourceAction::Connect => {
                if self.link.is_none() && self.connecting.is_none() {
                    self.connecting = Some(tokio::spawn(connect(
                        Arc::clone(&self.target),
                        self.rounds > 0,
                        self.trouble.clone(),
                    )));
                }
            }
            SourceAction::Send(message) => self.say(message).await,
            SourceAction::Hold => {
                let _ = self.inner.with(move |switch| switch.hold_port(&port)).await;
            }
            SourceAction::Capture => {
                self.frozen.get_or_insert_with(Instant::now);
                let saved = self.inner.with(move |switch| switch.depart_port(&port)).await;
                self.inputs.push_back(
                    match saved.and_then(|saved| saved.map_err(|refused| refused.to_string())) {
                        Ok((bytes, epoch)) => {
                            let length = bytes.len() as u64;
                            self.inner.note(&self.port, self.id, |view| view.state_bytes = length);
                            self.state = Arc::new(bytes);
                            SourceInput::Captured { epoch }
                        }
                        Err(reason) => SourceInput::CaptureFailed(reason),
                    },
                );
            }
            SourceAction::Release | SourceAction::Forward => {
                let _ = self.inner.with(move |switch| switch.release_port(&port)).await;
            }
            SourceAction::Keep => {
                let held = self.inner.with(move |switch| switch.keep_port(&port)).await;
                if held == Ok(true) {
                    self.give_up_later();
                }
            }
            SourceAction::Disconnect => {
                if let Some(task) = self.connecting.take() {
                    task.abort();
                }
                self.end_link();
            }
        }
    }

    async fn say(&mut self, message: Message) {
        let mut head = Head { message, port: self.port.clone(), manifest: None, problems: Vec::new() };
        let mut state = Arc::default();
        match head.message.body {
            Body::Offer { .. } => {
                let port = self.port.clone();
                let manifest = self.inner.with(move |switch| switch.manifest(&port)).await;
                match manifest.and_then(|manifest| manifest.map_err(|refused| refused.to_string())) {
                    Ok(manifest) => head.manifest = Some(Box::new(manifest)),
                    Err(reason) => return self.inputs.push_back(SourceInput::Fatal(reason)),
                }
            }
            Body::State { .. } => state = Arc::clone(&self.state),
            _ => {}
        }
        if let Some(link) = &self.link {
            link.say(head, state);
        }
    }

    fn end_link(&mut self) {
        if let Some(link) = self.link.take() {
            self.bytes += link.bytes();
        }
    }

    /// Held frames have no end of their own for a guest that is nowhere and whose state was not saved.
    fn give_up_later(&self) {
        let (inner, port, id) = (Arc::clone(&self.inner), self.port.clone(), self.id);
        tokio::spawn(async move {
            tokio::time::sleep(HELD).await;
            if inner.other(&port, id).is_none() {
                let _ = inner.with(move |switch| switch.give_up_holding(&port)).await;
            }
        });
    }

    fn show(&self) {
        let bytes = self.bytes + self.link.as_ref().map_or(0, Link::bytes);
        let (step, rounds) = (self.machine.step(), self.rounds);
        let frozen = self.frozen.map(|at| at.elapsed().as_millis() as u64);
        let trouble = self.trouble.borrow().clone();
        self.inner.note(&self.port, self.id, |view| {
            step.name().clone_into(&mut view.step);
            (view.bytes, view.rounds) = (bytes, rounds);
            if let SourceStep::Done(end) = step {
                view.end(end);
                // Whoever was not reached has a reason of its own.
                if rounds == 0 && !trouble.is_empty() && !view.reason.contains(&trouble) {
                    view.reason = format!("{}: {trouble}", view.reason);
                }
                view.frozen_ms = frozen;
            }
        });
    }
}

/// The next word on a connection, if there is one.
pub(super) async fn hear(link: &mut Option<Link>) -> Result<Heard, Broken> {
    match link {
        Some(link) => link.hear().await,
        None => std::future::pending().await,
    }
}

/// Returns when the switch stops.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn made(connecting: &mut Option<JoinHandle<Result<Link, Broken>>>) -> Result<Link, Broken> {
    match connecting {
        Some(task) => task.await.unwrap_or_else(|e| Err(Broken { reason: e.to_string(), lasting: false })),
        None => std::future::pending().await,
    }
}

/// Tries until there is a connection, or it is known that there cannot be one.
async fn connect(target: Arc<Target>, again: bool, trouble: watch::Sender<String>) -> Result<Link, Broken> {
    if again {
        tokio::time::sleep(AGAIN).await;
    }
    loop {
        match Link::connect(target.address, target.server.clone(), &target.connector).await {
            Err(Broken { reason, lasting: false }) => {
                trouble.send_replace(reason);
                tokio::time::sleep(AGAIN).await;
            }
            made => return made,
        }
    }
}
