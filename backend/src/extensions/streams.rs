//! Byte streams of extensions ([`vswitch::extension::stream`]): dialled, read and written without waiting for anybody.
//!
//! Everything is done by the thread that serves extensions, between two of its sleeps, which end when a socket has something or when
//! [`Wake::wake`] is called. What a peer is sent waits here, up to [`MOST_WAITING`] bytes; who lets more pile up, or does not take any for
//! [`PATIENCE`], is hung up on.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::pki_types::ServerName;
use vswitch::extension::stream::{MOST_PEERS, Tls};
use vswitch::extension::{Extension, Heard, Peer, Stack};

use crate::migrate::tls::Credentials;

/// Bytes that may wait for one peer to read them.
pub const MOST_WAITING: usize = 16 << 20;

/// How long a peer may take nothing of what waits for him, and how long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pauses between two attempts grow from the one to the other.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Bytes that are read of one peer before the others have their turn.
const CHUNK: usize = 64 * 1024;

/// Wakes the thread that serves extensions.
#[derive(Clone, Debug)]
pub struct Wake(Arc<OwnedFd>);

impl Wake {
    /// One that nobody has called yet.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)))
    }

    /// The thread's sleep ends, or the next one does at once.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    fn heard(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// What happened to a stream.
#[derive(Debug)]
pub(super) enum News {
    Opened,
    Bytes(Vec<u8>),
    Closed(String),
}

impl News {
    pub(super) fn heard(&self) -> Heard<'_> {
        match self {
            Self::Opened => Heard::Opened,
            Self::Bytes(bytes) => Heard::Bytes(bytes),
            Self::Closed(why) => Heard::Closed(why),
        }
    }
}

/// The streams of all enabled extensions.
#[derive(Debug, Default)]
pub(super) struct Streams {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    /// Whose it is.
    name: Arc<str>,
    instance: Arc<dyn Extension>,
    number: usize,
    peer: Peer,
    state: State,
    pause: Duration,
    /// Not yet written: from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// Since when something waits, or when some of it was last taken.
    moved: Instant,
    /// After what waits there is no more.
    ends: bool,
}

#[derive(Debug)]
enum State {
    Resting(Instant),
    Dialling(TcpStream, Instant),
    Shaking(TcpStream, Box<ClientConnection>, Instant),
    Open(TcpStream, Option<Box<ClientConnection>>),
}

/// Whether the files of these peers are there and good.
///
/// # Errors
/// What is wrong with which.
pub fn check(peers: &[Peer]) -> Result<(), String> {
    if peers.len() > MOST_PEERS {
        return Err(format!("it has {} peers; at most {MOST_PEERS} are served", peers.len()));
    }
    peers.iter().try_for_each(|peer| match &peer.tls {
        Some(tls) => secured(peer, tls).map(|_| ()),
        None => Ok(()),
    })
}

/// The client's side of TLS with a peer.
fn secured(peer: &Peer, tls: &Tls) -> Result<ClientConnection, String> {
    let (cert, key, ca) = (tls.certificate.clone(), tls.key.clone(), tls.ca.clone());
    let connector = Credentials { cert, key, ca }.connector();
    let connector = connector.map_err(|bad| format!("{}: {}", bad.path.display(), bad.reason))?;
    let name = match &tls.server_name {
        None => ServerName::from(peer.address.ip()),
        Some(name) => ServerName::try_from(name.clone()).map_err(|_| {
            format!("'{name}' is no name that a certificate can be for; write a host name or an IP address")
        })?,
    };
    ClientConnection::new(Arc::clone(connector.config()), name).map_err(|error| error.to_string())
}

/// A connection that is about to come about.
fn dial(peer: &Peer) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(peer.address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // A peer that is cut off is noticed even if nobody has anything to say.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(30)))?;
    match socket.connect(&SockAddr::from(peer.address)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

impl Streams {
    /// Has streams to the peers of the instances that stand in this stack and have not failed, and to nobody else.
    pub(super) fn follow(&mut self, stack: &Stack) {
        let live = |line: &Line| {
            stack
                .slots()
                .iter()
                .any(|slot| slot.fault().is_none() && Arc::ptr_eq(slot.instance(), &line.instance))
        };
        self.lines.retain(live);
        for slot in stack.slots().iter().filter(|slot| slot.fault().is_none()) {
            if self.lines.iter().any(|line| Arc::ptr_eq(&line.instance, slot.instance())) {
                continue;
            }
            for (number, peer) in slot.instance().peers().into_iter().take(MOST_PEERS).enumerate() {
                self.lines.push(Line {
                    name: slot.shared_name(),
                    instance: Arc::clone(slot.instance()),
                    number,
                    peer,
                    state: State::Resting(Instant::now()),
                    pause: PAUSES.0,
                    out: Vec::new(),
                    sent: 0,
                    moved: Instant::now(),
                    ends: false,
                });
            }
        }
    }

    /// Nobody has a stream any more.
    pub(super) fn clear(&mut self) {
        self.lines.clear();
    }

    /// How many there are, open or not.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Does what can be done for one stream without waiting: its owner, the peer's number there, and what he has to hear.
    pub(super) fn serve(&mut self, index: usize) -> Option<(Arc<dyn Extension>, usize, Vec<News>)> {
        let line = self.lines.get_mut(index)?;
        let mut news = Vec::new();
        line.serve(&mut news);
        (!news.is_empty()).then(|| (Arc::clone(&line.instance), line.number, news))
    }

    /// Sends bytes to a peer of the extension of this name, and ends the stream after that if `ends`. False = he is not connected, or too much
    /// waits for him.
    pub(super) fn say(&mut self, name: &str, number: usize, bytes: &[u8], ends: bool) -> bool {
        let line = self.lines.iter_mut().find(|line| &*line.name == name && line.number == number);
        let Some(line) = line.filter(|line| matches!(line.state, State::Open(..)) && !line.ends) else {
            return false;
        };
        line.ends = ends;
        if line.out.len() - line.sent + bytes.len() > MOST_WAITING {
            line.ends = true;
            return false;
        }
        if line.sent == line.out.len() {
            line.moved = Instant::now();
        }
        line.out.extend_from_slice(bytes);
        true
    }

    /// Sleeps until a socket has something, somebody wakes, or this time has passed; `None` = however long it takes.
    pub(super) fn sleep(&self, wake: &Wake, at_most: Option<Duration>) {
        let now = Instant::now();
        let due = self.lines.iter().filter_map(Line::due).min();
        let due = due.map(|due| due.saturating_duration_since(now));
        let timeout = match (at_most, due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut all = vec![PollFd::new(&wake.0, PollFlags::IN)];
        all.extend(
            self.lines.iter().filter_map(Line::wants).map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)),
        );
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // An error is a signal, or memory that the kernel has not; either way all is looked at.
        let _ = poll(&mut all, timeout.as_ref());
        wake.heard();
    }
}

impl Line {
    /// When something is to be done without anybody's doing.
    fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Resting(until) => Some(*until),
            State::Dialling(_, since) | State::Shaking(_, _, since) => Some(*since + PATIENCE),
            State::Open(..) if self.sent < self.out.len() => Some(self.moved + PATIENCE),
            State::Open(..) => None,
        }
    }

    fn wants(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let secured = |tls: &ClientConnection| {
            let write = if tls.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
            PollFlags::IN | write
        };
        Some(match &self.state {
            State::Resting(_) => return None,
            State::Dialling(stream, _) => (stream.as_fd(), PollFlags::OUT),
            State::Shaking(stream, tls, _) => (stream.as_fd(), secured(tls)),
            State::Open(stream, tls) => {
                let more = if self.sent < self.out.len() { PollFlags::OUT } else { PollFlags::empty() };
                (stream.as_fd(), tls.as_ref().map_or(PollFlags::IN, |tls| secured(tls)) | more)
            }
        })
    }

    fn serve(&mut self, news: &mut Vec<News>) {
        let state = std::mem::replace(&mut self.state, State::Resting(Instant::now()));
        match self.step(state, news) {
            Ok(state) => self.state = state,
            Err(why) => {
                log::debug!("extension '{}', peer {}: {why}", self.name, self.peer.address);
                self.state = State::Resting(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(PAUSES.1);
                (self.out, self.sent, self.ends) = (Vec::new(), 0, false);
                news.push(News::Closed(why));
            }
        }
    }

    /// As far as it goes without waiting. An error ends the stream, or the attempt.
    fn step(&mut self, state: State, news: &mut Vec<News>) -> Result<State, String> {
        let late = |since: Instant| since.elapsed() >= PATIENCE;
        Ok(match state {
            State::Resting(until) if until > Instant::now() => State::Resting(until),
            State::Resting(_) => State::Dialling(dial(&self.peer).map_err(said)?, Instant::now()),
            State::Dialling(stream, since) => {
                if let Some(error) = stream.take_error().map_err(said)? {
                    return Err(error.to_string());
                }
                match (stream.peer_addr(), &self.peer.tls) {
                    (Err(_), _) if late(since) => return Err("it does not answer".into()),
                    (Err(_), _) => State::Dialling(stream, since),
                    (Ok(_), None) => self.opened(stream, None, news),
                    (Ok(_), Some(tls)) => {
                        let tls = Box::new(secured(&self.peer, tls)?);
                        return self.step(State::Shaking(stream, tls, Instant::now()), news);
                    }
                }
            }
            State::Shaking(mut stream, mut tls, since) => {
                exchange(&mut stream, &mut tls)?;
                if !tls.is_handshaking() {
                    let open = self.opened(stream, Some(tls), news);
                    return self.step(open, news);
                }
                if late(since) {
                    return Err("its TLS does not answer".into());
                }
                State::Shaking(stream, tls, since)
            }
            State::Open(mut stream, mut tls) => {
                self.write(&mut stream, tls.as_deref_mut())?;
                let mut bytes = vec![0; CHUNK];
                let read = match &mut tls {
                    None => stream.read(&mut bytes),
                    Some(tls) => {
                        exchange(&mut stream, tls)?;
                        tls.reader().read(&mut bytes)
                    }
                };
                match read {
                    Ok(0) => return Err("it has hung up".into()),
                    Ok(count) => {
                        // Somebody is there who speaks: the next pause is a short one.
                        self.pause = PAUSES.0;
                        bytes.truncate(count);
                        news.push(News::Bytes(bytes));
                    }
                    Err(error) if waits(&error) => {}
                    Err(error) => return Err(error.to_string()),
                }
                State::Open(stream, tls)
            }
        })
    }

    fn opened(
        &mut self,
        stream: TcpStream,
        tls: Option<Box<ClientConnection>>,
        news: &mut Vec<News>,
    ) -> State {
        (self.out, self.sent, self.ends) = (Vec::new(), 0, false);
        news.push(News::Opened);
        State::Open(stream, tls)
    }

    fn write(
        &mut self,
        stream: &mut TcpStream,
        mut tls: Option<&mut ClientConnection>,
    ) -> Result<(), String> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let wrote = match &mut tls {
                None => stream.write(rest),
                Some(tls) => {
                    let taken = tls.writer().write(rest);
                    exchange(stream, tls)?;
                    taken
                }
            };
            match wrote {
                Ok(0) => break,
                Ok(count) => {
                    self.sent += count;
                    self.moved = Instant::now();
                }
                Err(error) if waits(&error) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        let waits = self.out.len() - self.sent;
        if waits == 0 {
            self.out.clear();
            self.sent = 0;
            if self.ends {
                return Err("hung up".into());
            }
        } else if self.moved.elapsed() >= PATIENCE || self.ends && waits > MOST_WAITING / 2 {
            return Err("it does not read what it is sent".into());
        } else if self.sent > CHUNK {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}

/// Moves what TLS has to say, and what it is to hear, as far as the socket goes.
fn exchange(stream: &mut TcpStream, tls: &mut ClientConnection) -> Result<(), String> {
    while tls.wants_write() {
        match tls.write_tls(stream) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if waits(&error) => break,
            Err(error) => return Err(error.to_string()),
        }
    }
    // One read at a time, so that what one says while others wait is bounded.
    if tls.wants_read() {
        match tls.read_tls(stream) {
            Ok(0) if tls.is_handshaking() => return Err("it has hung up".into()),
            Ok(_) => {
                let done = tls.process_new_packets();
                if let Err(error) = done {
                    let _ = tls.write_tls(stream); // the alert that says why
                    return Err(crate::migrate::tls::explain("the peer", &io::Error::other(error)).reason);
                }
            }
            Err(error) if waits(&error) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn said(error: io::Error) -> String {
    error.to_string()
}
