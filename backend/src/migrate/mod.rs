//! Ports that move from switch to switch over TLS: for front ends that cannot carry a device's state in their own stream.
//!
//! [`migration::handoff`] decides; this carries out. Each migration is a task of its own ([`outgoing`], [`incoming`]) that owns its machine,
//! hears of its peer through a [`link`], of its port by asking the switch whenever something happened, and of operators through commands.
//! [`tls`] says who may talk, [`wire`] how.
//!
//! Threading: tasks run on the API's runtime and never block it; the switch is locked on threads that may wait. At most one migration of
//! a port is under way, in either direction, and [`MAX_UNDER_WAY`] of all; the last one of each port is remembered to be shown.

mod incoming;
mod link;
mod outgoing;
pub mod tls;
pub mod view;
pub mod wire;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use migration::handoff::{Limits, MigrationId, Millis};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use vswitch::event::Event;
use vswitch::refusal::{Object, Refusal, Refused};

use self::link::Link;
use self::tls::Credentials;
use self::view::{ListenView, MigrationView, NewListener, NewMigration, Side};
use crate::control::Switch;
use crate::events::EventLog;
use crate::spec::EventSink;

/// Migrations under way at most.
pub const MAX_UNDER_WAY: usize = 256;
/// Ports whose last migration is remembered.
const REMEMBERED: usize = 1024;

/// What a migration's task is told.
enum Command {
    /// An operator ends it.
    Cancel,
    /// The source is back on this connection, with this message.
    Linked(Box<(Link, link::Heard)>),
}

struct Known {
    view: MigrationView,
    began: Instant,
    commands: mpsc::Sender<Command>,
}

struct Listener {
    view: ListenView,
    /// What was asked for, and the socket: what a successor needs to go on.
    asked: NewListener,
    socket: OwnedFd,
    task: JoinHandle<()>,
}

/// What all migrations share.
struct Inner {
    switch: Arc<Mutex<Switch>>,
    events: Arc<EventLog>,
    limits: Limits,
    stopping: watch::Receiver<bool>,
    /// Whether nothing new is to begin, because a successor takes over.
    paused: watch::Receiver<bool>,
    /// The last migration of each port.
    known: Mutex<BTreeMap<String, Known>>,
    /// Tasks of ports that come, by migration.
    coming: Mutex<HashMap<MigrationId, mpsc::Sender<Command>>>,
    listener: Mutex<Option<Listener>>,
    began: Instant,
}

/// The moves of a switch's ports to and from other switches.
#[derive(Clone)]
pub struct Migrations(Arc<Inner>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is a single step, so a panic in between leaves what is guarded as it should be.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// The time that machines are given.
    fn now(&self) -> Millis {
        self.began.elapsed().as_millis() as Millis
    }

    /// Runs `call` with the switch locked, on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Switch) -> T + Send + 'static,
    ) -> Result<T, String> {
        let switch = Arc::clone(&self.switch);
        let run = tokio::task::spawn_blocking(move || call(&mut lock(&switch)));
        run.await.map_err(|e| format!("internal error: {e}"))
    }

    /// Notes that a migration of a port begins, unless another one is under way.
    fn begin(&self, view: MigrationView, commands: mpsc::Sender<Command>) -> Result<(), Refusal> {
        let mut known = lock(&self.known);
        if let Some(other) = known.get(&view.port).filter(|other| !other.view.is_over()) {
            return Err(Refusal::Migrating { id: other.view.id.clone() });
        }
        let under_way = known.values().filter(|k| !k.view.is_over()).count();
        if under_way >= MAX_UNDER_WAY {
            return Err(Refusal::TooManyMigrations { count: under_way });
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, k| !k.view.is_over());
        }
        self.tell(&view);
        known.insert(view.port.clone(), Known { view, began: Instant::now(), commands });
        Ok(())
    }

    /// The id of another migration of this port that is under way.
    fn other(&self, port: &str, id: MigrationId) -> Option<String> {
        let known = lock(&self.known);
        let other = known.get(port).filter(|other| !other.view.is_over())?;
        (other.view.id != id.to_string()).then(|| other.view.id.clone())
    }

    /// Notes how far a migration is.
    fn note(&self, port: &str, id: MigrationId, change: impl FnOnce(&mut MigrationView)) {
        let mut known = lock(&self.known);
        let Some(entry) = known.get_mut(port).filter(|k| k.view.id == id.to_string()) else { return };
        let step = entry.view.step.clone();
        change(&mut entry.view);
        entry.view.duration_ms = entry.began.elapsed().as_millis() as u64;
        if entry.view.step != step {
            self.tell(&entry.view);
        }
    }

    /// Tells operators who follow the events.
    fn tell(&self, view: &MigrationView) {
        // Only ports that are there have migrations; one that has just gone needs no event.
        let Some(port) = view.number else { return };
        self.events.emit(Event::Migration {
            port,
            id: view.id.clone(),
            side: view.side.name().to_owned(),
            peer: view.peer.clone(),
            step: view.outcome.clone().unwrap_or_else(|| view.step.clone()),
            reason: view.reason.clone(),
        });
    }
}

impl Migrations {
    /// The migrations of `switch`, of which there are none yet. While `paused` is true, other switches wait in the kernel's queue.
    pub fn new(
        switch: Arc<Mutex<Switch>>,
        events: Arc<EventLog>,
        stopping: watch::Receiver<bool>,
        paused: watch::Receiver<bool>,
    ) -> Self {
        Self(Arc::new(Inner {
            switch,
            events,
            limits: Limits::default(),
            stopping,
            paused,
            known: Mutex::default(),
            coming: Mutex::default(),
            listener: Mutex::default(),
            began: Instant::now(),
        }))
    }

    /// Begins to send a port to another switch.
    pub async fn send(&self, new: NewMigration) -> Result<MigrationView, Refused> {
        let object = || Object::Port(new.port.clone());
        let address: SocketAddr = parse("to", &new.to).map_err(|why| why.of(object()))?;
        let connector = read_files(&new.credentials, Credentials::connector).await?;
        let name = new.server_name.clone().unwrap_or_else(|| address.ip().to_string());
        let server = name.clone().try_into().map_err(|_| {
            let valid = "a host name or an IP address as in the destination's certificate".into();
            Refusal::BadValue { setting: "server-name".into(), value: name, valid }.of(object())
        })?;
        let port = new.port.clone();
        let ready = self.0.with(move |switch| {
            switch.can_leave(&port)?;
            Ok::<_, Refused>((switch.standing(&port), switch.show_port(&port).map(|p| p.id)?))
        });
        let system = |reason| Refusal::System { what: "migration".into(), reason }.of(object());
        let (standing, number) = ready.await.map_err(system)??;
        let standing = standing.ok_or_else(|| Refusal::Stopping.of(object()))?;
        let id = random_id().map_err(|e| system(e.to_string()))?;
        let (commands, told) = mpsc::channel(8);
        let view = MigrationView::new(id, &new.port, number, Side::Source, address.to_string());
        self.0.begin(view.clone(), commands).map_err(|why| why.of(object()))?;
        let target = outgoing::Target { address, server, connector };
        tokio::spawn(outgoing::run(Arc::clone(&self.0), new.port, id, standing, target, told));
        Ok(view)
    }

    /// Begins to take ports from other switches.
    pub async fn listen(&self, new: NewListener) -> Result<ListenView, Refused> {
        let object = || Object::Switch;
        let address: SocketAddr = parse("address", &new.address).map_err(|why| why.of(object()))?;
        let acceptor = read_files(&new.credentials, Credentials::acceptor).await?;
        if let Some(there) = &*lock(&self.0.listener) {
            return Err(Refusal::ListensAlready { address: there.view.address.clone() }.of(object()));
        }
        let cannot = |e: std::io::Error| {
            Refusal::CannotListen { address: address.to_string(), reason: e.to_string() }.of(object())
        };
        let socket = TcpListener::bind(address).await.map_err(cannot)?;
        self.take_ports(new, socket, acceptor, cannot)
    }

    fn take_ports(
        &self,
        asked: NewListener,
        socket: TcpListener,
        acceptor: TlsAcceptor,
        cannot: impl Fn(std::io::Error) -> Refused,
    ) -> Result<ListenView, Refused> {
        let view = ListenView { address: socket.local_addr().map_err(&cannot)?.to_string() };
        let copy = socket.as_fd().try_clone_to_owned().map_err(&cannot)?;
        let mut listener = lock(&self.0.listener);
        if let Some(there) = &*listener {
            return Err(Refusal::ListensAlready { address: there.view.address.clone() }.of(Object::Switch));
        }
        let task = tokio::spawn(incoming::accept(Arc::clone(&self.0), socket, acceptor));
        *listener = Some(Listener { view: view.clone(), asked, socket: copy, task });
        Ok(view)
    }

    /// What a successor needs to take ports where this switch does; `None` where it takes none.
    pub fn hand_over(&self) -> std::io::Result<Option<(NewListener, OwnedFd)>> {
        let listener = lock(&self.0.listener);
        listener.as_ref().map(|l| Ok((l.asked.clone(), l.socket.try_clone()?))).transpose()
    }

    /// Goes on to take ports where another process did.
    pub async fn resume(&self, asked: NewListener, socket: OwnedFd) -> Result<ListenView, Refused> {
        let address = asked.address.clone();
        let cannot = |e: std::io::Error| {
            Refusal::CannotListen { address: address.clone(), reason: e.to_string() }.of(Object::Switch)
        };
        let acceptor = read_files(&asked.credentials, Credentials::acceptor).await?;
        let socket = TcpListener::from_std(socket.into()).map_err(cannot)?;
        self.take_ports(asked, socket, acceptor, cannot)
    }

    /// A port that is part of a migration under way.
    pub fn moving(&self) -> Option<String> {
        let known = lock(&self.0.known);
        known.values().find(|k| !k.view.is_over()).map(|k| k.view.port.clone())
    }

    /// Takes no more ports from other switches; those under way go on as long as their connections do.
    pub fn stop_listening(&self) -> Result<(), Refused> {
        let listener = lock(&self.0.listener).take().ok_or_else(|| Refusal::ListensNot.of(Object::Switch))?;
        listener.task.abort();
        Ok(())
    }

    /// Where ports are taken.
    pub fn listening(&self) -> Result<ListenView, Refused> {
        let listener = lock(&self.0.listener);
        listener.as_ref().map(|l| l.view.clone()).ok_or_else(|| Refusal::ListensNot.of(Object::Switch))
    }

    /// The last migration of each port.
    pub fn list(&self) -> Vec<MigrationView> {
        lock(&self.0.known).values().map(Known::shown).collect()
    }

    /// The last migration of a port.
    pub fn show(&self, port: &str) -> Result<MigrationView, Refused> {
        let known = lock(&self.0.known);
        known
            .get(port)
            .map(Known::shown)
            .ok_or_else(|| Refusal::NoMigration.of(Object::Port(port.to_owned())))
    }

    /// Ends the migration of a port that is under way. It has ended when its step says so.
    pub async fn cancel(&self, port: &str) -> Result<MigrationView, Refused> {
        let view = self.show(port)?;
        let commands = lock(&self.0.known).get(port).map(|k| k.commands.clone());
        if !view.is_over()
            && let Some(commands) = commands
        {
            // A task that has just ended needs no command.
            let _ = commands.send(Command::Cancel).await;
        }
        self.show(port)
    }

    /// Which migration of this port is under way.
    pub fn under_way(&self, port: &str) -> Option<String> {
        lock(&self.0.known).get(port).filter(|k| !k.view.is_over()).map(|k| k.view.id.clone())
    }
}

impl Known {
    fn shown(&self) -> MigrationView {
        let mut view = self.view.clone();
        if !view.is_over() {
            view.duration_ms = self.began.elapsed().as_millis() as u64;
        }
        view
    }
}

fn parse(setting: &str, text: &str) -> Result<SocketAddr, Refusal> {
    let valid = "an IP address and a port, such as 192.0.2.1:7400 or [2001:db8::1]:7400".into();
    text.parse().map_err(|_| Refusal::BadValue { setting: setting.into(), value: text.to_owned(), valid })
}

async fn read_files<T: Send + 'static>(
    credentials: &Credentials,
    read: impl FnOnce(&Credentials) -> Result<T, tls::BadFile> + Send + 'static,
) -> Result<T, Refused> {
    let credentials = credentials.clone();
    let refuse = |why: Refusal| why.of(Object::Request);
    let done = tokio::task::spawn_blocking(move || read(&credentials)).await;
    let done =
        done.map_err(|e| refuse(Refusal::System { what: "certificates".into(), reason: e.to_string() }))?;
    done.map_err(|tls::BadFile { path, reason }| {
        refuse(Refusal::BadCredentials { path: path.to_string_lossy().into_owned(), reason })
    })
}

fn random_id() -> std::io::Result<MigrationId> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(MigrationId(u64::from_le_bytes(bytes)))
}
