//! A port's state in its front end's own stream: `SET_DEVICE_STATE_FD` and `CHECK_DEVICE_STATE` of vhost-user.
//!
//! The front end hands over a pipe or a socket, the switch's side writes the state to it or reads it up to its end, and the check
//! afterwards tells how that went. What the bytes mean is for the [`StateKeeper`](crate::spec::StateKeeper); here they are carried.
//!
//! A pipe of a front end holds 64 KiB and its other end is read by the thread that waits for our answers, so each transfer has a thread of
//! its own. That thread never blocks on the descriptor, whatever the front end does to it: pipes are spliced with a pipe of our own
//! and sockets are asked not to wait, both by each call, because the descriptor's own flags are the front end's as much as ours.
//!
//! While a transfer runs, the relay passes nothing on that could start a ring. A transfer ends by itself, at its deadline, or with its
//! connection: [`Transfer::end`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketType, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use super::{GuestPort, lock};

/// Bytes of state, at most; thousands of sessions take less than two million.
const MAX_STATE: usize = 8 << 20;
/// A transfer is over after this long, from its request to its last byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes moved at once: what a pipe holds.
const CHUNK: usize = 64 << 10;
/// What `fstatfs` says of a pipe. A named one may live in a file system that its owner serves, and can make wait.
const PIPEFS_MAGIC: i64 = 0x5049_5045;

/// Which way the state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the switch to the front end.
    Save,
    /// From the front end to the switch.
    Load,
}

/// Why a transfer did not begin, or failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransferError {
    #[error("direction {0} and phase {1} of a device state are not known; 0 or 1, and 0 are")]
    Unknown(u32, u32),
    #[error("device state is only transferred while the rings stand still")]
    Running,
    #[error("a transfer of device state is under way")]
    Busy,
    #[error("device state is only transferred by a pipe or a stream socket")]
    Descriptor,
    #[error("the device state did not come to its end after {} s", PATIENCE.as_secs())]
    Slow,
    #[error("a device state of more than {MAX_STATE} bytes")]
    TooLong,
    #[error("the connection ended in the middle of a transfer")]
    Cancelled,
    #[error("{0}")]
    Refused(String),
    #[error("transfer of device state: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for TransferError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// What the thread and the relay both know.
struct Shared {
    /// Readable when the thread has to give up.
    cancel: OwnedFd,
    /// Readable when the thread is done and `progress` has its result.
    done: OwnedFd,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    cancelled: bool,
    /// The keeper is at work; it cannot be interrupted and may wait for what the port's remover holds.
    keeping: bool,
    result: Option<Result<(), TransferError>>,
}

/// A transfer under way, or done and not asked about yet.
pub(super) struct Transfer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// What [`Transfer::wait`] saw first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Done,
    /// The connection ends, or the port is being removed.
    Over,
}

impl Transfer {
    /// Begins a transfer by `fd`, with the numbers that the front end named; the port's rings must stand still.
    pub(super) fn start(
        port: &Arc<GuestPort>,
        (direction, phase): (u32, u32),
        fd: OwnedFd,
    ) -> Result<Self, TransferError> {
        let way = match (direction, phase) {
            (0, 0) => Direction::Save,
            (1, 0) => Direction::Load,
            _ => return Err(TransferError::Unknown(direction, phase)),
        };
        if port.queues.iter().any(|queue| queue.is_live()) {
            return Err(TransferError::Running);
        }
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let shared = Arc::new(Shared { cancel: event()?, done: event()?, progress: Mutex::default() });
        let end = End::new(fd, way)?;
        let job =
            Job { port: Arc::clone(port), shared: Arc::clone(&shared), deadline: Instant::now() + PATIENCE };
        let name: String = format!("vs-{}", port.spec.name).chars().take(15).collect();
        let thread = std::thread::Builder::new().name(name).spawn(move || job.run(way, end))?;
        Ok(Self { shared, thread })
    }

    /// Whether the thread has done its work.
    pub(super) fn is_done(&self) -> bool {
        lock(&self.shared.progress).result.is_some()
    }

    /// Waits until the thread has done its work, `stop` is readable, or the front end hangs up.
    pub(super) fn wait(&self, stop: BorrowedFd<'_>, front: BorrowedFd<'_>) -> Waited {
        match poll(
            &[(self.shared.done.as_fd(), libc::POLLIN), (stop, libc::POLLIN), (front, libc::POLLRDHUP)],
            None,
        ) {
            _ if self.is_done() => Waited::Done,
            _ => Waited::Over,
        }
    }

    /// How it went; call when it is done.
    pub(super) fn outcome(self) -> Result<(), TransferError> {
        let _ = self.thread.join();
        lock(&self.shared.progress).result.take().unwrap_or(Err(TransferError::Cancelled))
    }

    /// Gives up what is not done, and waits for the thread. Only if the keeper is at work while the port is being removed (`stop`
    /// is readable) is the thread left to itself: the keeper may wait for the very lock under which the port is removed.
    pub(super) fn end(self, stop: BorrowedFd<'_>) {
        let keeping = {
            let mut progress = lock(&self.shared.progress);
            progress.cancelled = true;
            progress.keeping
        };
        notify(&self.shared.cancel);
        if keeping {
            poll(&[(self.shared.done.as_fd(), libc::POLLIN), (stop, libc::POLLIN)], None);
            if !self.is_done() {
                return;
            }
        }
        let _ = self.thread.join();
    }
}

/// What the thread of a transfer does.
struct Job {
    port: Arc<GuestPort>,
    shared: Arc<Shared>,
    deadline: Instant,
}

impl Job {
    fn run(self, way: Direction, end: End) {
        // Whoever waits is told even if the keeper panics.
        let told = Told(&self.shared);
        let result = match way {
            Direction::Save => self.save(end),
            Direction::Load => self.load(end),
        };
        if let Err(error) = &result {
            log::warn!("port {}: {way:?} of its device state: {error}", self.port.spec.name);
        }
        lock(&self.shared.progress).result = Some(result);
        drop(told);
    }

    fn save(&self, end: End) -> Result<(), TransferError> {
        let state = self.keep(|| self.port.keeper.save(self.port.spec.id))?;
        if state.len() > MAX_STATE {
            return Err(TransferError::TooLong);
        }
        let mut left = &state[..];
        while !left.is_empty() {
            let sent = end.send(left, |flags| self.wait_for(&end, flags))?;
            left = left.get(sent..).unwrap_or_default();
        }
        end.finish();
        Ok(())
    }

    fn load(&self, end: End) -> Result<(), TransferError> {
        let mut state = Vec::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let got = end.receive(&mut chunk, |flags| self.wait_for(&end, flags))?;
            if got == 0 {
                break;
            }
            if state.len() + got > MAX_STATE {
                return Err(TransferError::TooLong);
            }
            state.extend_from_slice(chunk.get(..got).unwrap_or_default());
        }
        // The front end may wait for this before it asks how it went.
        drop(end);
        if state.is_empty() {
            log::info!("port {}: its front end brought no device state", self.port.spec.name);
            return Ok(());
        }
        self.keep(|| self.port.keeper.load(self.port.spec.id, &state))
    }

    /// Runs the keeper, unless the transfer was cancelled.
    fn keep<R>(&self, work: impl FnOnce() -> Result<R, String>) -> Result<R, TransferError> {
        {
            let mut progress = lock(&self.shared.progress);
            if progress.cancelled {
                return Err(TransferError::Cancelled);
            }
            progress.keeping = true;
        }
        let result = work();
        lock(&self.shared.progress).keeping = false;
        result.map_err(TransferError::Refused)
    }

    fn wait_for(&self, end: &End, events: libc::c_short) -> Result<(), TransferError> {
        let ready = poll(
            &[(end.fd.as_fd(), events), (self.shared.cancel.as_fd(), libc::POLLIN)],
            Some(self.deadline),
        );
        match ready {
            0 => Err(TransferError::Slow),
            ready if ready & 2 != 0 => Err(TransferError::Cancelled),
            // Bytes that come one by one would otherwise never run into the deadline.
            _ if Instant::now() >= self.deadline => Err(TransferError::Slow),
            _ => Ok(()),
        }
    }
}

/// Leaves a result and makes `done` readable when dropped.
struct Told<'a>(&'a Shared);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        lock(&self.0.progress)
            .result
            .get_or_insert(Err(TransferError::Refused("the switch failed".to_owned())));
        notify(&self.0.done);
    }
}

/// The switch's end of a pipe or socket, and for a pipe the two ends of one of our own.
struct End {
    fd: OwnedFd,
    own: Option<(OwnedFd, OwnedFd)>,
}

impl End {
    fn new(fd: OwnedFd, way: Direction) -> Result<Self, TransferError> {
        let own = match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::Fifo if rustix::fs::fstatfs(&fd)?.f_type == PIPEFS_MAGIC => {
                let mode = rustix::fs::fcntl_getfl(&fd)? & rustix::fs::OFlags::ACCMODE;
                let wrong = match way {
                    Direction::Save => rustix::fs::OFlags::RDONLY,
                    Direction::Load => rustix::fs::OFlags::WRONLY,
                };
                if mode == wrong {
                    return Err(TransferError::Descriptor);
                }
                Some(pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?)
            }
            FileType::Socket
                if sockopt::socket_type(&fd)? == SocketType::STREAM
                    && sockopt::socket_domain(&fd)? == AddressFamily::UNIX =>
            {
                None
            }
            _ => return Err(TransferError::Descriptor),
        };
        Ok(Self { fd, own })
    }

    /// Sends some bytes, calling `wait` until that is possible.
    fn send(
        &self,
        bytes: &[u8],
        wait: impl Fn(libc::c_short) -> Result<(), TransferError>,
    ) -> Result<usize, TransferError> {
        let Some((out, into)) = &self.own else {
            return until_ready(libc::POLLOUT, wait, || {
                rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            });
        };
        let filled = rustix::io::write(into, bytes.get(..CHUNK).unwrap_or(bytes))?;
        let mut left = filled;
        while left > 0 {
            left -= until_ready(libc::POLLOUT, &wait, || {
                splice(out, None, &self.fd, None, left, SpliceFlags::NONBLOCK)
            })?;
        }
        Ok(filled)
    }

    /// Receives some bytes, calling `wait` until there are any; 0 = the end.
    fn receive(
        &self,
        buffer: &mut [u8],
        wait: impl Fn(libc::c_short) -> Result<(), TransferError>,
    ) -> Result<usize, TransferError> {
        let Some((out, into)) = &self.own else {
            return until_ready(libc::POLLIN, wait, || {
                rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT).map(|(got, _)| got)
            });
        };
        let moved = until_ready(libc::POLLIN, wait, || {
            splice(&self.fd, None, into, None, buffer.len(), SpliceFlags::NONBLOCK)
        })?;
        if moved == 0 { Ok(0) } else { Ok(rustix::io::read(out, buffer)?) }
    }

    /// Tells the front end that this was all, even if it kept a copy of our end.
    fn finish(self) {
        if self.own.is_none() {
            let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
        }
    }
}

/// Repeats what says that it would have to wait.
fn until_ready(
    events: libc::c_short,
    wait: impl Fn(libc::c_short) -> Result<(), TransferError>,
    mut attempt: impl FnMut() -> Result<usize, Errno>,
) -> Result<usize, TransferError> {
    loop {
        wait(events)?;
        match attempt() {
            Ok(count) => return Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits for one of the descriptors (each with its events), at most until `deadline`; a bit for each that has something.
fn poll(what: &[(BorrowedFd<'_>, libc::c_short)], deadline: Option<Instant>) -> u32 {
    let entry = |&(fd, events): &(BorrowedFd<'_>, libc::c_short)| libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    let mut polls: Vec<_> = what.iter().map(entry).collect();
    loop {
        let left = deadline.map_or(-1, |deadline| {
            // Rounded up: otherwise the last millisecond would be spent in a loop.
            deadline.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000) as libc::c_int
        });
        // SAFETY: as many valid pollfds as their vector has.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, left) };
        if ready >= 0 {
            return polls
                .iter()
                .enumerate()
                .fold(0, |bits, (i, poll)| bits | u32::from(poll.revents != 0) << i);
        }
    }
}

fn notify(event: &OwnedFd) {
    // A full counter says the same.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}
