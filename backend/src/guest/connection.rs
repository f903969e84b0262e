//! Waits for front ends and serves them, one at a time, in both socket roles.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::GuestMemoryAtomic;
use vswitch::event::Event;

use super::device::NetDevice;
use super::journal::Journal;
use super::memory::GuestRam;
use super::message::Message;
use super::relay::Relay;
use super::ring::{Queue, Window};
use super::{GuestPort, lock, vring};
use crate::priority;
use crate::spec::DataplaneError;

/// Time between two attempts to connect to a socket on which nobody listens yet.
const RETRY: Duration = Duration::from_millis(100);

enum Role {
    Listen(UnixListener),
    Connect,
}

/// The serving thread of one guest port; dropping it ends the connection and the thread.
pub struct Server {
    port: Arc<GuestPort>,
    stop: OwnedFd,
    parking: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<Held>>>,
}

impl Server {
    /// Begins to listen on (or to connect to) the port's socket.
    pub fn start(port: Arc<GuestPort>) -> Result<Self, DataplaneError> {
        let role = if port.spec.client { Role::Connect } else { Role::Listen(listen(&port.spec.socket)?) };
        Self::run(port, role, None, None)
    }

    /// Goes on where a parked server stopped. `begun` is dropped when the port's rings run again, or cannot.
    pub fn resume(port: Arc<GuestPort>, parked: Parked, begun: Sender<()>) -> Result<Self, DataplaneError> {
        let Parked { listener, talk } = parked;
        let role = match listener {
            Some(listener) => Role::Listen(listener),
            None if port.spec.client => Role::Connect,
            None => Role::Listen(listen(&port.spec.socket)?),
        };
        Self::run(port, role, talk, Some(begun))
    }

    fn run(
        port: Arc<GuestPort>,
        role: Role,
        talk: Option<Talk>,
        begun: Option<Sender<()>>,
    ) -> Result<Self, DataplaneError> {
        let system = |what| move |source| DataplaneError::System { what, source };
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| system("eventfd of a port")(errno.into()))?;
        let stopped = stop.try_clone().map_err(system("eventfd of a port"))?;
        let name: String = format!("vu-{}", port.spec.name).chars().take(15).collect();
        let (served, parking) = (Arc::clone(&port), Arc::new(AtomicBool::new(false)));
        let stop_means_park = Arc::clone(&parking);
        let thread = std::thread::Builder::new()
            .name(name)
            .stack_size(256 * 1024)
            .spawn(move || {
                priority::set(priority::ORDINARY);
                let signals = Signals { stop: stopped.as_fd(), park: &stop_means_park };
                let live = serve(&served, &role, &signals, talk, begun);
                if signals.parks() {
                    return Some(Held { role, live });
                }
                if let Role::Listen(listener) = role {
                    drop(listener);
                    let _ = std::fs::remove_file(&served.spec.socket);
                }
                None
            })
            .map_err(system("thread of a port"))?;
        Ok(Self { port, stop, parking, thread: Some(thread) })
    }

    /// Asks the thread to stop between two messages and to keep everything; [`Self::park`] waits for that.
    pub fn begin_to_park(&self) {
        self.parking.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    /// The server without its thread, after [`Self::begin_to_park`]. The rings still run.
    pub fn park(mut self) -> Parking {
        let held = self.thread.take().and_then(|thread| thread.join().ok().flatten());
        Parking { port: Arc::clone(&self.port), held }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How a serving thread is told to end.
struct Signals<'a> {
    stop: BorrowedFd<'a>,
    park: &'a AtomicBool,
}

impl Signals<'_> {
    fn parks(&self) -> bool {
        self.park.load(Ordering::SeqCst)
    }
}

/// What a thread that parked leaves: its rings run on, but nobody listens to the front end.
struct Held {
    role: Role,
    live: Option<Live>,
}

/// A front end between two of its messages, with the protocol handler that served it.
pub(super) struct Live {
    front: UnixStream,
    back: UnixStream,
    daemon: VhostUserDaemon<NetDevice>,
    journal: Journal,
}

/// A port whose serving thread has ended, with its rings still running.
pub struct Parking {
    port: Arc<GuestPort>,
    held: Option<Held>,
}

impl Parking {
    /// Stops the rings. Nothing is said to the front end, whose later messages wait in its socket, and no event tells of it.
    pub fn stop(self) -> (Arc<GuestPort>, Parked) {
        let port = self.port;
        port.quiet.store(true, Ordering::Relaxed);
        let Some(Held { role, live }) = self.held else { return (port, Parked::default()) };
        let talk = live.map(|Live { front, back, mut daemon, journal }| {
            let suspended = |queue: &Arc<Queue>| Some((queue.index, queue.lock().suspend()?));
            let windows = port.queues.iter().filter_map(suspended).collect();
            released(&port);
            drop(back);
            // It ends because its peer is gone.
            let _ = daemon.wait();
            Talk { front, said: journal.into_messages(), windows }
        });
        let listener = match role {
            Role::Listen(listener) => Some(listener),
            Role::Connect => None,
        };
        (port, Parked { listener, talk })
    }
}

/// A port's sockets, and what was said on them: all that another server needs to go on.
#[derive(Debug, Default)]
pub struct Parked {
    listener: Option<UnixListener>,
    talk: Option<Talk>,
}

/// A conversation with a front end, between two messages.
#[derive(Debug)]
pub(super) struct Talk {
    front: UnixStream,
    said: Vec<Message>,
    /// Frames finished out of order, by ring.
    windows: Vec<(u16, Window)>,
}

impl Talk {
    /// With a front end that has said nothing yet.
    pub(super) fn new(front: UnixStream) -> Self {
        Self { front, said: Vec::new(), windows: Vec::new() }
    }
}

/// One message of a conversation without its descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said {
    request: u32,
    payload: Vec<u8>,
    fds: usize,
}

/// [`Parked`] without its descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub struct ParkedText {
    listens: bool,
    talks: bool,
    said: Vec<Said>,
    windows: Vec<(u16, Window)>,
}

impl Parked {
    /// As text and descriptors, for another process.
    pub fn to_parts(&self) -> (ParkedText, Vec<BorrowedFd<'_>>) {
        let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
        fds.extend(self.listener.as_ref().map(AsFd::as_fd));
        fds.extend(self.talk.as_ref().map(|talk| talk.front.as_fd()));
        let mut said = Vec::new();
        for message in self.talk.iter().flat_map(|talk| &talk.said) {
            let payload = message.payload.clone();
            said.push(Said { request: message.request, payload, fds: message.fds.len() });
            fds.extend(message.fds.iter().map(AsFd::as_fd));
        }
        let windows = self.talk.as_ref().map(|talk| talk.windows.clone()).unwrap_or_default();
        let (listens, talks) = (self.listener.is_some(), self.talk.is_some());
        (ParkedText { listens, talks, said, windows }, fds)
    }

    /// From what [`Self::to_parts`] made; `None` when the descriptors are not those of the text.
    pub fn from_parts(text: ParkedText, fds: impl IntoIterator<Item = OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let listener = if text.listens { Some(UnixListener::from(fds.next()?)) } else { None };
        let front = if text.talks { Some(UnixStream::from(fds.next()?)) } else { None };
        let mut said = Vec::new();
        for Said { request, payload, fds: count } in text.said {
            let mut message = Message::new(request, &payload);
            message.fds = fds.by_ref().take(count).collect();
            if message.fds.len() != count {
                return None;
            }
            said.push(message);
        }
        let talk = front.map(|front| Talk { front, said, windows: text.windows });
        fds.next().is_none().then_some(Self { listener, talk })
    }
}

/// Binds the socket, replacing one that a dead process left behind.
fn listen(path: &Path) -> Result<UnixListener, DataplaneError> {
    let refuse = |reason: String| Err(DataplaneError::Socket { path: path.to_owned(), reason });
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return refuse("exists and is not a socket; name a path that is free".to_owned());
        }
        if UnixStream::connect(path).is_ok() {
            return refuse("another process listens on it; name a path that is free".to_owned());
        }
        if let Err(error) = std::fs::remove_file(path) {
            return refuse(format!("cannot replace the stale socket: {error}"));
        }
    }
    let listener = UnixListener::bind(path).or_else(|error| refuse(format!("cannot listen: {error}")))?;
    if let Err(error) = listener.set_nonblocking(true) {
        return refuse(format!("cannot listen: {error}"));
    }
    Ok(listener)
}

/// Serves front ends until told to stop. Told to park, it returns the front end it was serving.
fn serve(
    port: &Arc<GuestPort>,
    role: &Role,
    signals: &Signals<'_>,
    mut talk: Option<Talk>,
    mut begun: Option<Sender<()>>,
) -> Option<Live> {
    loop {
        let front = match (talk.take(), role) {
            (Some(talk), _) => Ok(talk),
            (None, Role::Listen(listener)) => {
                port.quiet.store(false, Ordering::Relaxed);
                drop(begun.take());
                if wait(Some(listener.as_fd()), signals.stop, -1) {
                    return None;
                }
                listener.accept().map(|(front, _)| Talk::new(front))
            }
            (None, Role::Connect) => {
                port.quiet.store(false, Ordering::Relaxed);
                drop(begun.take());
                UnixStream::connect(&port.spec.socket).map(Talk::new)
            }
        };
        match front {
            Ok(talk) => {
                let id = port.spec.id;
                port.attach();
                let reason = match attend(port, talk, signals.stop, signals.park, begun.take()) {
                    Ended::Gone(reason) => reason,
                    Ended::Parked(live) => return Some(*live),
                };
                released(port);
                port.front_end_gone();
                port.emit(Event::FrontEndDisconnected { port: id, reason });
            }
            // Nobody there yet, or gone between the wake-up and the accept.
            Err(_) => {
                if wait(None, signals.stop, RETRY.as_millis() as libc::c_int) {
                    return None;
                }
            }
        }
        if wait(None, signals.stop, 0) {
            return None;
        }
    }
}

/// Makes the port one without a front end.
fn released(port: &Arc<GuestPort>) {
    vring::release(port);
    port.features.store(0, Ordering::Relaxed);
    port.saves.store(false, Ordering::Relaxed);
    port.mtu.store(port.spec.mtu, Ordering::Relaxed);
    *lock(&port.connected) = false;
}

/// Waits for `fd` or the stop signal; true means stop.
fn wait(fd: Option<BorrowedFd<'_>>, stop: BorrowedFd<'_>, timeout_ms: libc::c_int) -> bool {
    let poll = |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut polls = [poll(stop), poll(fd.unwrap_or(stop))];
    // SAFETY: two valid pollfds.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) };
    ready > 0 && polls[0].revents != 0
}

/// How serving a front end ended.
pub(super) enum Ended {
    /// It went, or was sent away: why.
    Gone(String),
    /// It is still there.
    Parked(Box<Live>),
}

/// Serves one front end, which may have said something to another handler already, until it goes or `stop` becomes readable.
pub(super) fn attend(
    port: &Arc<GuestPort>,
    talk: Talk,
    stop: BorrowedFd<'_>,
    park: &AtomicBool,
    begun: Option<Sender<()>>,
) -> Ended {
    let Talk { front, said, windows } = talk;
    let memory = GuestMemoryAtomic::new(GuestRam::new());
    let device = NetDevice { port: Arc::clone(port) };
    let name: String = format!("vp-{}", port.spec.name).chars().take(15).collect();
    let daemon = vring::bind(port, || VhostUserDaemon::new(name, device, memory));
    let mut daemon = match daemon {
        Ok(daemon) => daemon,
        Err(error) => return Ended::Gone(format!("protocol handler: {error}")),
    };
    let back = match private_socket(|listener| {
        daemon.start(listener).map_err(|e| io::Error::other(e.to_string()))
    }) {
        Ok(back) => back,
        Err(error) => return Ended::Gone(format!("private socket: {error}")),
    };
    let mut relay = Relay::new(port, &front, &back);
    let replayed = if said.is_empty() { Ok(()) } else { relay.replay(said, stop) };
    for (index, window) in &windows {
        if let Some(queue) = port.queues.get(usize::from(*index)) {
            queue.lock().resume(window);
        }
    }
    port.quiet.store(false, Ordering::Relaxed);
    drop(begun);
    let outcome = replayed.and_then(|()| relay.run(stop));
    if outcome.is_ok() && park.load(Ordering::SeqCst) {
        let journal = relay.into_journal();
        return Ended::Parked(Box::new(Live { front, back, daemon, journal }));
    }
    // Closing our end ends the library's thread; only then are the rings free of it.
    drop(relay);
    drop(back);
    let library = daemon.wait();
    Ended::Gone(match (outcome, library) {
        (Ok(()), _) => "the port is being removed".to_owned(),
        (Err(super::message::MessageError::NoAnswer), Err(error)) => error.to_string(),
        (Err(error), _) => error.to_string(),
    })
}

/// Connects to a listener that only this process can reach, and hands the listener's end to `accept`.
fn private_socket(accept: impl FnOnce(&mut Listener) -> io::Result<()>) -> io::Result<UnixStream> {
    // A directory of mode 0700: nobody else can connect in between.
    let directory = tempfile::Builder::new().prefix("turnpike-").tempdir()?;
    let path = directory.path().join("s");
    let mut listener = Listener::from(UnixListener::bind(&path)?);
    let stream = UnixStream::connect(&path)?;
    accept(&mut listener)?;
    Ok(stream)
}
