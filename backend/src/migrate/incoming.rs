//! Ports that come: the listener, and what drives [`Destination`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use migration::check::{Manifest, Problem};
use migration::handoff::{
    Body, Destination, DestinationAction, DestinationInput, DestinationStep, Message, MigrationId,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{interval, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use vswitch::event::Event;

use super::link::{HANDSHAKE, Heard, Link};
use super::outgoing::{PAUSE, hear, stopped};
use super::tls::{Broken, explain};
use super::view::{MigrationView, ProblemView, Side};
use super::wire::Head;
use super::{Command, Inner, MAX_UNDER_WAY, lock};
use crate::control::handover::moves::Standing;
use crate::spec::EventSink;

/// Connections at once, those included that have not yet shown who they are.
const CONNECTIONS: usize = MAX_UNDER_WAY + 64;
/// Time for the first message after the handshake.
const FIRST: Duration = Duration::from_secs(10);
/// Strangers that are told of in one second.
const TOLD: u32 = 4;
/// How often the port is looked at, should no event tell: the wish of a gated front end is no event.
const LOOK: Duration = Duration::from_millis(10);
/// How long a migration that is over is remembered, so that words that come late find it.
const REMEMBERED: Duration = Duration::from_secs(30);
/// How long a commit waits for the switch to have settled what arrived.
const SETTLED: Duration = Duration::from_secs(2);

/// Takes connections until it is aborted.
pub(super) async fn accept(inner: Arc<Inner>, listener: TcpListener, acceptor: TlsAcceptor) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let (mut second, mut told) = (Instant::now(), 0);
    let (refused, mut refusals) = mpsc::channel::<(String, String)>(16);
    let mut paused = inner.paused.clone();
    loop {
        let open = !*paused.borrow_and_update();
        let accepted = tokio::select! {
            accepted = listener.accept(), if open => accepted,
            Ok(()) = paused.changed() => continue,
            Some((peer, reason)) = refusals.recv() => {
                if second.elapsed() >= Duration::from_secs(1) {
                    (second, told) = (Instant::now(), 0);
                }
                told += 1;
                // Anybody can knock; that must not push everything else out of the list of events.
                if told <= TOLD {
                    inner.events.emit(Event::PeerRefused { peer, reason });
                }
                continue;
            }
        };
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors: waiting is all that helps.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (inner, acceptor, refused) = (Arc::clone(&inner), acceptor.clone(), refused.clone());
        tokio::spawn(async move {
            let peer = peer.to_string();
            match greet(stream, &peer, &acceptor).await {
                Ok((link, first)) => welcome(&inner, link, first).await,
                Err(reason) => {
                    let _ = refused.try_send((peer, reason));
                }
            }
            drop(permit);
        });
    }
}

/// Shows and sees certificates, and hears the first message.
async fn greet(stream: TcpStream, peer: &str, acceptor: &TlsAcceptor) -> Result<(Link, Heard), String> {
    const WHO: &str = "the source";
    let late = |_| format!("{WHO} did not show who it is within {} s", HANDSHAKE.as_secs());
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await.map_err(late)?;
    let stream = stream.map_err(|e| explain(WHO, &e).reason)?;
    let mut link = Link::over(stream, peer.to_owned(), WHO);
    let first = timeout(FIRST, link.hear()).await.map_err(|_| format!("{WHO} said nothing"))?;
    first.map(|first| (link, first)).map_err(|broken| broken.reason)
}

/// Hands a connection to the migration it belongs to, or begins one.
async fn welcome(inner: &Arc<Inner>, link: Link, first: Heard) {
    let id = first.0.message.id;
    let (commands, told) = mpsc::channel(8);
    let there = {
        let mut coming = lock(&inner.coming);
        match coming.get(&id).filter(|there| !there.is_closed()) {
            Some(there) => Some(there.clone()),
            None if coming.len() >= MAX_UNDER_WAY => return,
            None => {
                coming.insert(id, commands.clone());
                None
            }
        }
    };
    if let Some(there) = there {
        let _ = there.send(Command::Linked(Box::new((link, first)))).await;
        return;
    }
    if let Some(mut this) = Incoming::begin(inner, link, &first.0, commands).await {
        this.drive(told).await;
    }
    lock(&inner.coming).remove(&id);
}

struct Incoming {
    inner: Arc<Inner>,
    port: String,
    id: MigrationId,
    machine: Destination,
    link: Option<Link>,
    manifest: Option<Box<Manifest>>,
    problems: Vec<Problem>,
    state: Vec<u8>,
    /// What the machine was told of the port last.
    standing: Option<Standing>,
    /// Whether this migration has the port's place in the list.
    listed: bool,
    commands: mpsc::Sender<Command>,
    inputs: VecDeque<DestinationInput>,
    frozen: Option<Instant>,
    over: Option<Instant>,
    bytes: u64,
    rounds: u32,
}

impl Incoming {
    async fn begin(
        inner: &Arc<Inner>,
        link: Link,
        first: &Head,
        commands: mpsc::Sender<Command>,
    ) -> Option<Self> {
        let port = first.port.clone();
        let asked = port.clone();
        let standing = inner.with(move |switch| switch.standing(&asked)).await.ok()?;
        // The switch was not free because a successor took over: the source tries again, and finds that one.
        if *inner.paused.borrow() {
            return None;
        }
        let committed = standing.map(|s| s.epoch).filter(|epoch| *epoch != 0);
        let (machine, actions) = Destination::begin(&first.message, committed, inner.limits, inner.now())?;
        let mut this = Self {
            inner: Arc::clone(inner),
            port,
            id: first.message.id,
            machine,
            link: Some(link),
            manifest: first.manifest.clone(),
            problems: Vec::new(),
            state: Vec::new(),
            standing,
            listed: false,
            commands,
            inputs: VecDeque::new(),
            frozen: None,
            over: None,
            bytes: 0,
            rounds: 1,
        };
        for action in actions {
            this.act(action).await;
        }
        Some(this)
    }

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
            let until = match (self.over, self.machine.deadline()) {
                (Some(over), _) => over + REMEMBERED,
                (None, Some(deadline)) => self.inner.began + Duration::from_millis(deadline),
                (None, None) => Instant::now() + REMEMBERED,
            };
            if self.over.is_some_and(|over| over.elapsed() >= REMEMBERED) {
                return;
            }
            let happened = async {
                sleep_until(looked + PAUSE).await;
                events.changed().await
            };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Cancel) => {
                        let reason = "an operator ended it at the destination".into();
                        self.inputs.push_back(DestinationInput::Cancel(reason));
                    }
                    Some(Command::Linked(linked)) => {
                        let (link, first) = *linked;
                        self.end_link();
                        self.link = Some(link);
                        self.rounds += 1;
                        self.heard(Ok(first));
                    }
                    None => {}
                },
                changed = happened => {
                    if changed.is_ok() {
                        self.look().await;
                    }
                    looked = tokio::time::Instant::now();
                }
                _ = look.tick(), if self.over.is_none() => self.look().await,
                () = sleep_until(until.into()) => self.inputs.push_back(DestinationInput::Tick),
                heard = hear(&mut self.link) => self.heard(heard),
                () = stopped(&mut stopping) => return,
            }
        }
    }

    fn heard(&mut self, heard: Result<Heard, Broken>) {
        match heard {
            Ok((head, state)) => {
                if let Body::State { .. } = head.message.body
                    && self.state.is_empty()
                {
                    self.state = state;
                }
                self.inputs.push_back(DestinationInput::Message(head.message));
            }
            Err(broken) => {
                log::info!("migration {} of port '{}': {}", self.id, self.port, broken.reason);
                self.end_link();
                self.inputs.push_back(DestinationInput::Cut);
            }
        }
    }

    /// Hears of the port what has changed since the last time.
    async fn look(&mut self) {
        if self.over.is_some() {
            return;
        }
        let port = self.port.clone();
        let looked = self.inner.with(move |switch| (switch.standing(&port), switch.awaits(&port))).await;
        let Ok((Some(now), awaits)) = looked else { return };
        let Some(before) = self.standing.replace(now) else { return };
        // Running and no longer awaited: settled, so that its epoch is known should this switch be asked.
        if now.running && !awaits {
            self.inputs.push_back(DestinationInput::RingsStarted);
        } else if before.attached && (!now.attached || now.attachments != before.attachments) {
            self.inputs.push_back(DestinationInput::FrontEndGone);
        }
        if now.knocks {
            self.inputs.push_back(DestinationInput::RingsWanted);
        }
    }

    async fn act(&mut self, action: DestinationAction) {
        let port = self.port.clone();
        match action {
            DestinationAction::Send(message) => self.say(message),
            DestinationAction::Reserve => {
                let input = self.reserve().await;
                self.inputs.push_back(input);
            }
            DestinationAction::PutInForce => {
                self.frozen = Some(Instant::now());
                let bytes = std::mem::take(&mut self.state);
                let length = bytes.len() as u64;
                self.inner.note(&self.port, self.id, |view| view.state_bytes = length);
                let taken = self.inner.with(move |switch| switch.arrive_port(&port, &bytes)).await;
                self.inputs.push_back(
                    match taken.and_then(|taken| taken.map_err(|refused| refused.to_string())) {
                        Ok(()) => DestinationInput::Loaded,
                        Err(reason) => DestinationInput::LoadFailed(reason),
                    },
                );
            }
            DestinationAction::Open | DestinationAction::RunWithout => {
                let _ = self.inner.with(move |switch| switch.open_port(&port)).await;
            }
            DestinationAction::Undo => {
                let reason = match self.machine.step() {
                    DestinationStep::Undoing { end, .. } => end.reason.clone(),
                    _ => String::new(),
                };
                let undone = self.inner.with(move |switch| switch.take_back(&port, &reason)).await;
                self.inputs.push_back(if undone == Ok(false) {
                    DestinationInput::RingsStarted
                } else {
                    DestinationInput::Undone
                });
            }
            DestinationAction::Commit => self.settled().await,
            // The source ends the connection; what it may still ask is answered.
            DestinationAction::Disconnect => self.over = Some(Instant::now()),
        }
    }

    /// Waits until the switch has stored what arrived, which it does by itself when rings run.
    async fn settled(&self) {
        let began = Instant::now();
        while began.elapsed() < SETTLED {
            let port = self.port.clone();
            if self.inner.with(move |switch| switch.awaits(&port)).await != Ok(true) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        log::error!("port '{}': its guest runs, and what arrived is not settled yet", self.port);
    }

    async fn reserve(&mut self) -> DestinationInput {
        let refused = |reason: &str| DestinationInput::Refused(reason.to_owned());
        let Some(manifest) = self.manifest.clone().filter(|m| m.name == self.port) else {
            return refused("the offer says nothing of what the port needs");
        };
        let mut other = self.inner.other(&self.port, self.id);
        if other.is_none() {
            let name = self.port.clone();
            let number = self.inner.with(move |switch| switch.show_port(&name).map(|p| p.id)).await;
            if let Ok(Ok(number)) = number {
                let peer = self.link.as_ref().map(|l| l.peer.clone()).unwrap_or_default();
                let view = MigrationView::new(self.id, &self.port, number, Side::Destination, peer);
                match self.inner.begin(view, self.commands.clone()) {
                    Ok(()) => self.listed = true,
                    Err(why) => other = Some(why.to_string()),
                }
            }
        }
        let reserved = self.inner.with(move |switch| {
            let reserved = switch.reserve(&manifest, other);
            (reserved, switch.standing(&manifest.name))
        });
        let Ok((reserved, standing)) = reserved.await else { return refused("internal error, see its log") };
        self.standing = standing;
        match reserved {
            Ok(warnings) => {
                self.problems = warnings;
                DestinationInput::Reserved
            }
            Err(problems) => {
                let all = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                self.problems = problems;
                DestinationInput::Refused(format!("the destination is not fit: {all}"))
            }
        }
    }

    fn say(&mut self, message: Message) {
        let with_problems = matches!(message.body, Body::Reserved | Body::Refused { .. });
        let problems = if with_problems { self.problems.clone() } else { Vec::new() };
        let head = Head { message, port: self.port.clone(), manifest: None, problems };
        if let Some(link) = &self.link {
            link.say(head, Arc::default());
        }
    }

    fn end_link(&mut self) {
        if let Some(link) = self.link.take() {
            self.bytes += link.bytes();
        }
    }

    fn show(&self) {
        if !self.listed {
            return;
        }
        let bytes = self.bytes + self.link.as_ref().map_or(0, Link::bytes);
        let (step, rounds) = (self.machine.step(), self.rounds);
        let frozen = self.frozen.map(|at| at.elapsed().as_millis() as u64);
        let problems: Vec<ProblemView> = self.problems.iter().map(Into::into).collect();
        self.inner.note(&self.port, self.id, |view| {
            if view.is_over() {
                return;
            }
            step.name().clone_into(&mut view.step);
            (view.bytes, view.rounds, view.problems) = (bytes, rounds, problems);
            if let DestinationStep::Done(end) = step {
                view.end(end);
                view.frozen_ms = frozen;
            }
        });
    }
}
