//! The policy store of many hosts: etcd, followed by a thread of its own.
//!
//! Networks, subnets, routes and hosts are followed all, of records those of the virtual subnets that this host needs; what else it turns out
//! to need is looked up. Each part is read once, in pages of one revision, and watched from there. What was missed while the store was away
//! is asked for from the last revision that was applied; when the store has compacted that away, the part is read again and only the
//! differences are applied. While the store is away or slow, what is known stays in force; nobody but those who want to change something
//! waits for it.
//!
//! A value that is wrong changes nothing: what its key said before stays in force, until the value is right or gone.
//!
//! Threading: one thread with a runtime of its own does all the talking, and tells a [`Follower`] what changed. A [`Handle`] may be used
//! from anywhere.

mod apply;
mod carry;
mod follow;
mod hold;
mod keys;
mod learned;
mod read;
mod rpc;
mod scope;
mod write;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use vswitch::nv::model::Record;
use vswitch::nv::wanted::Want;
use vswitch::refusal::{NvRefusal, Object, Refusal, Refused};

use self::follow::Session;
use self::rpc::Client;
use super::policy::{Answer, Follower, RecordChange, SharedStore, Status};
use crate::control::nv::object::{Change, RecordKey};
use crate::spec::EventSink;

/// Longest pause between two attempts to find the store.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Shortest pause.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// Time to say good-bye.
const FAREWELL: Duration = Duration::from_secs(1);

/// Changes that wait for the store at most.
const WAITING: usize = 256;

/// How long records are kept that nobody needs any more: a guest that is moved to and fro, or a port that is made anew, finds them.
pub const GRACE: Duration = Duration::from_secs(30);

/// Where the store is and who asks.
#[derive(Clone, Debug)]
pub struct Options {
    /// `HOST:PORT` of its members.
    pub members: Vec<String>,
    /// How it is known that it is the store, and how this host is known to it; `None` = unencrypted.
    pub tls: Option<Tls>,
    /// Name of this host.
    pub host: String,
    /// How long records are kept that nobody needs any more.
    pub grace: Duration,
}

/// Files of certificates in PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Certificates of those who vouch for the store.
    pub ca: PathBuf,
    /// This host's certificate and key.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// What is asked of the thread.
enum Command {
    /// Write these changes.
    Commit(Vec<Change>, oneshot::Sender<Result<i64, NvRefusal>>),
    /// Write these changes when that is possible.
    Carry(Vec<Change>),
    /// Say this of this host.
    Present(Vec<u8>),
    /// Follow the records of these virtual subnets and no others.
    Follow(BTreeSet<u32>),
    /// Look these records up.
    LookUp(Vec<Want>),
    /// Tell other hosts of these addresses that were learned; all there are, or what changed.
    Publish(Vec<RecordChange>, bool),
    /// Read the records of these keys.
    Find(Vec<RecordKey>, oneshot::Sender<Result<Vec<Record>, NvRefusal>>),
    /// Read all records.
    All(oneshot::Sender<Result<Vec<Record>, NvRefusal>>),
}

/// What is asked, in the order in which it is answered.
struct Commands {
    urgent: mpsc::UnboundedReceiver<Command>,
    waiting: mpsc::Receiver<Command>,
}

impl Commands {
    /// The next one; `None` when nobody is left who could ask.
    async fn recv(&mut self) -> Option<Command> {
        tokio::select! {
            biased;
            command = self.urgent.recv() => command,
            command = self.waiting.recv() => command,
        }
    }
}

/// The store as others use it.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    /// What this host itself has to say, of which there is little.
    urgent: mpsc::UnboundedSender<Command>,
    status: Arc<Status>,
}

impl SharedStore for Handle {
    fn status(&self) -> &Arc<Status> {
        &self.status
    }

    fn follow(&self, vsids: BTreeSet<u32>) {
        self.say(Command::Follow(vsids));
    }

    fn look_up(&self, wanted: Vec<Want>) {
        // Too much of it is as good as none: it is wanted again if it is still needed.
        if !wanted.is_empty() && self.status.is_up() {
            let _ = self.commands.try_send(Command::LookUp(wanted));
        }
    }

    fn publish(&self, learned: Vec<RecordChange>, all: bool) {
        if all || !learned.is_empty() {
            self.say(Command::Publish(learned, all));
        }
    }

    fn find(&self, keys: Vec<RecordKey>) -> Answer<Result<Vec<Record>, NvRefusal>> {
        self.ask(|reply| Command::Find(keys, reply))
    }

    fn all(&self) -> Answer<Result<Vec<Record>, NvRefusal>> {
        self.ask(Command::All)
    }

    fn commit(&self, changes: Vec<Change>) -> Answer<Result<i64, NvRefusal>> {
        self.ask(|reply| Command::Commit(changes, reply))
    }

    fn carry(&self, changes: Vec<Change>) {
        self.say(Command::Carry(changes));
    }

    fn present(&self, value: Vec<u8>) {
        self.say(Command::Present(value));
    }
}

impl Handle {
    /// Says what needs no answer. Never waits.
    fn say(&self, command: Command) {
        if self.urgent.send(command).is_err() {
            log::debug!("policy store: the switch is stopping");
        }
    }

    /// Asks, unless the store is away.
    fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, NvRefusal>>) -> Command,
    ) -> Answer<Result<T, NvRefusal>> {
        let Self { commands, status, .. } = self.clone();
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        Box::pin(async move {
            let lost = || NvRefusal::StoreLost { reason: status.reason() };
            if !status.is_up() {
                return Err(lost());
            }
            let gone = |_| NvRefusal::StoreLost { reason: "the switch is stopping".into() };
            commands.send(command).await.map_err(gone)?;
            // Lost before it answered.
            answer.await.map_err(|_| lost())?
        })
    }
}

/// The thread that talks to the store; ends it when dropped.
pub struct Store {
    handle: Handle,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Store {
    /// Begins to follow the store that `options` describes. It need not be there.
    pub fn start(
        options: &Options,
        follower: Arc<dyn Follower>,
        events: Arc<dyn EventSink>,
    ) -> Result<Self, Refused> {
        let members = endpoints(options)?;
        let status = Arc::new(Status::default());
        let (commands, waiting) = mpsc::channel(WAITING);
        let (urgent, receiver) = mpsc::unbounded_channel();
        let commands_of = Commands { urgent: receiver, waiting };
        let (stop, stopping) = watch::channel(false);
        let session = Session::new(options.host.clone(), follower, events, status.clone(), options.grace);
        let failed = |reason: String| {
            Refusal::System { what: "policy store".into(), reason }.of(Object::Option("--policy-store"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| failed(e.to_string()))?;
        let thread = std::thread::Builder::new().name("policy-store".into()).spawn(move || {
            runtime.block_on(run(members, session, commands_of, stopping));
        });
        let thread = thread.map_err(|e| failed(e.to_string()))?;
        Ok(Self { handle: Handle { commands, urgent, status }, stop, thread: Some(thread) })
    }

    /// The store as others use it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // It has said in the log what it died of.
            let _ = thread.join();
        }
    }
}

/// The members of the store, ready to be connected to.
fn endpoints(options: &Options) -> Result<Vec<(String, Endpoint)>, Refused> {
    let refuse = |why: Refusal| why.of(Object::Option("--policy-store"));
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let tls = options.tls.as_ref().map(configuration).transpose()?;
    let one = |member: &String| {
        let wrong = |e: tonic::transport::Error| {
            let valid = "etcd://HOST:PORT[,HOST:PORT...]".into();
            log::debug!("{member}: {e}");
            refuse(Refusal::BadValue { setting: "policy-store".into(), value: member.clone(), valid })
        };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{member}")).map_err(wrong)?;
        let mut endpoint = endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5));
        if let Some(tls) = &tls {
            endpoint = endpoint.tls_config(tls.clone()).map_err(|e| {
                let path = options.tls.as_ref().map_or_else(String::new, |tls| tls.ca.display().to_string());
                refuse(Refusal::BadCredentials { path, reason: words(&e) })
            })?;
        }
        Ok((member.clone(), endpoint))
    };
    options.members.iter().map(one).collect()
}

fn configuration(tls: &Tls) -> Result<ClientTlsConfig, Refused> {
    let read = |option, path: &PathBuf| {
        std::fs::read(path).map_err(|e| {
            let (path, reason) = (path.display().to_string(), e.to_string());
            Refusal::BadCredentials { path, reason }.of(Object::Option(option))
        })
    };
    let mut config =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--policy-store-ca", &tls.ca)?));
    if let Some((certificate, key)) = &tls.own {
        let certificate = read("--policy-store-cert", certificate)?;
        config = config.identity(Identity::from_pem(certificate, read("--policy-store-key", key)?));
    }
    Ok(config)
}

/// An error with what caused it: the outermost alone says only "transport error".
fn words(error: &dyn std::error::Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// Why a session with a member ended.
enum End {
    /// The member was lost.
    Lost(String),
    /// The switch stops.
    Stop,
}

/// Follows the store until told to stop: one member at a time, the next one when it is lost.
async fn run(
    members: Vec<(String, Endpoint)>,
    mut session: Session,
    mut commands: Commands,
    mut stopping: watch::Receiver<bool>,
) {
    let mut pause = SHORTEST_PAUSE;
    for (name, endpoint) in members.iter().cycle() {
        let connected = tokio::select! {
            connected = endpoint.connect() => connected,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        let end = match connected {
            Ok(channel) => session.follow(name, Client::new(channel), &mut commands, &mut stopping).await,
            Err(e) => End::Lost(words(&e)),
        };
        let End::Lost(reason) = end else { return };
        if session.lost(&reason) {
            pause = SHORTEST_PAUSE;
        }
        // Not all hosts of a fleet at the same moment.
        let jitter = pause.mul_f64(f64::from(rand_byte()) / 255.0);
        let again = tokio::time::Instant::now() + pause / 2 + jitter;
        pause = (pause * 2).min(LONGEST_PAUSE);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(again) => break,
                _ = stopping.wait_for(|stop| *stop) => return,
                command = commands.recv() => match command {
                    Some(command) => session.meanwhile(command, &reason),
                    None => return,
                },
            }
        }
    }
}

/// Chance enough to spread attempts.
fn rand_byte() -> u8 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() as u8
}
