//! Waits for front ends and serves them, one at a time, in both socket roles.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::GuestMemoryAtomic;
use vswitch::event::Event;

use super::device::NetDevice;
use super::memory::GuestRam;
use super::relay::Relay;
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
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins to listen on (or to connect to) the port's socket.
    pub fn start(port: Arc<GuestPort>) -> Result<Self, DataplaneError> {
        let role = if port.spec.client { Role::Connect } else { Role::Listen(listen(&port.spec.socket)?) };
        let system = |what| move |source| DataplaneError::System { what, source };
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| system("eventfd of a port")(errno.into()))?;
        let stopped = stop.try_clone().map_err(system("eventfd of a port"))?;
        let name: String = format!("vu-{}", port.spec.name).chars().take(15).collect();
        let thread = std::thread::Builder::new()
            .name(name)
            .stack_size(256 * 1024)
            .spawn(move || {
                priority::set(priority::ORDINARY);
                serve(&port, &role, stopped.as_fd());
                if let Role::Listen(listener) = role {
                    drop(listener);
                    let _ = std::fs::remove_file(&port.spec.socket);
                }
            })
            .map_err(system("thread of a port"))?;
        Ok(Self { stop, thread: Some(thread) })
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

fn serve(port: &Arc<GuestPort>, role: &Role, stop: BorrowedFd<'_>) {
    loop {
        let front = match role {
            Role::Listen(listener) => {
                if wait(Some(listener.as_fd()), stop, -1) {
                    return;
                }
                listener.accept().map(|(stream, _)| stream)
            }
            Role::Connect => UnixStream::connect(&port.spec.socket),
        };
        match front {
            Ok(front) => {
                let id = port.spec.id;
                port.attach();
                let reason = attend(port, &front, stop);
                vring::release(port);
                port.features.store(0, std::sync::atomic::Ordering::Relaxed);
                port.mtu.store(port.spec.mtu, std::sync::atomic::Ordering::Relaxed);
                *lock(&port.connected) = false;
                port.front_end_gone();
                port.emit(Event::FrontEndDisconnected { port: id, reason });
            }
            // Nobody there yet, or gone between the wake-up and the accept.
            Err(_) => {
                if wait(None, stop, RETRY.as_millis() as libc::c_int) {
                    return;
                }
            }
        }
        if wait(None, stop, 0) {
            return;
        }
    }
}

/// Waits for `fd` or the stop signal; true means stop.
fn wait(fd: Option<BorrowedFd<'_>>, stop: BorrowedFd<'_>, timeout_ms: libc::c_int) -> bool {
    let poll = |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut polls = [poll(stop), poll(fd.unwrap_or(stop))];
    // SAFETY: two valid pollfds.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) };
    ready > 0 && polls[0].revents != 0
}

/// Serves one front end until it goes; says why it ended.
pub(super) fn attend(port: &Arc<GuestPort>, front: &UnixStream, stop: BorrowedFd<'_>) -> String {
    let memory = GuestMemoryAtomic::new(GuestRam::new());
    let device = NetDevice { port: Arc::clone(port) };
    let name: String = format!("vp-{}", port.spec.name).chars().take(15).collect();
    let daemon = vring::bind(port, || VhostUserDaemon::new(name, device, memory));
    let mut daemon = match daemon {
        Ok(daemon) => daemon,
        Err(error) => return format!("protocol handler: {error}"),
    };
    let back = match private_socket(|listener| {
        daemon.start(listener).map_err(|e| io::Error::other(e.to_string()))
    }) {
        Ok(back) => back,
        Err(error) => return format!("private socket: {error}"),
    };
    let outcome = Relay::new(port, front, &back).run(stop);
    // Closing our end ends the library's thread; only then are the rings free of it.
    drop(back);
    let library = daemon.wait();
    match (outcome, library) {
        (Ok(()), _) => "the port is being removed".to_owned(),
        (Err(super::message::MessageError::NoAnswer), Err(error)) => error.to_string(),
        (Err(error), _) => error.to_string(),
    }
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
