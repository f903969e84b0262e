//! vhost-user messages as bytes and descriptors: nothing is checked, everything can be said.
//!
//! ```no_run
//! # use turnpike_tests::message::{self, Channel, Message};
//! let channel = Channel::connect("/tmp/port.sock").unwrap();
//! channel.say(&Message::new(message::SET_OWNER));
//! channel.say(&Message::vring(message::SET_VRING_NUM, 70_000, 3)); // no such ring, no such size
//! assert!(channel.is_closed_soon());
//! ```

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::PATIENCE;
use crate::memory::{Memory, Region};

macro_rules! requests {
    ($($name:ident = $number:literal,)*) => { $(
        #[doc = concat!("Request `VHOST_USER_", stringify!($name), "`.")]
        pub const $name: u32 = $number;
    )* };
}

requests! {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    RESET_OWNER = 4,
    SET_MEM_TABLE = 5,
    SET_LOG_BASE = 6,
    SET_LOG_FD = 7,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
    SEND_RARP = 19,
    NET_SET_MTU = 20,
    GET_CONFIG = 24,
    SET_CONFIG = 25,
    GET_INFLIGHT_FD = 31,
    SET_INFLIGHT_FD = 32,
    RESET_DEVICE = 34,
    GET_MAX_MEM_SLOTS = 36,
    ADD_MEM_REG = 37,
    REM_MEM_REG = 38,
    SET_STATUS = 39,
    GET_STATUS = 40,
    SET_DEVICE_STATE_FD = 42,
    CHECK_DEVICE_STATE = 43,
}

/// Header flags of a request: protocol version 1.
pub const VERSION: u32 = 1;
/// Header flag: this is a reply.
pub const REPLY: u32 = 4;
/// Header flag: the sender wants an acknowledgement.
pub const NEED_REPLY: u32 = 8;
/// In the payload of `SET_VRING_KICK`, `_CALL` and `_ERR`: no descriptor comes with it.
pub const NO_FD: u64 = 0x100;

/// One message, right or wrong.
#[derive(Debug, Default)]
pub struct Message {
    /// Request number.
    pub request: u32,
    /// Header flags.
    pub flags: u32,
    /// Payload.
    pub body: Vec<u8>,
    /// Payload length told in the header, if not the true one.
    pub size: Option<u32>,
    /// Descriptors sent along.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// A request without payload.
    #[must_use]
    pub fn new(request: u32) -> Self {
        Self { request, flags: VERSION, ..Self::default() }
    }

    /// A request with one 64-bit number.
    #[must_use]
    pub fn u64(request: u32, value: u64) -> Self {
        Self::new(request).words64(&[value])
    }

    /// A request about one ring: `SET_VRING_NUM`, `_BASE`, `_ENABLE`, `GET_VRING_BASE`.
    #[must_use]
    pub fn vring(request: u32, index: u32, value: u32) -> Self {
        Self::new(request).words32(&[index, value])
    }

    /// `SET_VRING_ADDR`, with front-end virtual addresses.
    #[must_use]
    pub fn vring_addr(index: u32, desc: u64, used: u64, avail: u64) -> Self {
        Self::new(SET_VRING_ADDR).words32(&[index, 0]).words64(&[desc, used, avail, 0])
    }

    /// `SET_VRING_KICK`, `_CALL` or `_ERR` with a descriptor.
    #[must_use]
    pub fn vring_fd(request: u32, index: u64, fd: impl AsFd) -> Self {
        Self::u64(request, index).fd(fd)
    }

    /// `SET_MEM_TABLE` of numbers `(guest address, size, front-end address, file offset)`, without descriptors.
    #[must_use]
    pub fn mem_table(regions: &[(u64, u64, u64, u64)]) -> Self {
        let count = regions.len() as u32;
        let message = Self::new(SET_MEM_TABLE).words32(&[count, 0]);
        regions.iter().fold(message, |m, &(gpa, size, user, offset)| m.words64(&[gpa, size, user, offset]))
    }

    /// `SET_MEM_TABLE` of all regions of a memory.
    #[must_use]
    pub fn memory(memory: &Memory) -> Self {
        memory.with_regions(|regions| {
            let table: Vec<_> = regions.iter().map(|r| (r.gpa, r.size, r.user, r.offset)).collect();
            regions.iter().fold(Self::mem_table(&table), |m, r| m.fd(&r.file))
        })
    }

    /// `ADD_MEM_REG` or `REM_MEM_REG` of numbers, without a descriptor.
    #[must_use]
    pub fn mem_region(request: u32, gpa: u64, size: u64, user: u64, offset: u64) -> Self {
        Self::new(request).words64(&[0, gpa, size, user, offset])
    }

    /// `ADD_MEM_REG` of a region with its descriptor.
    #[must_use]
    pub fn add_region(region: &Region) -> Self {
        Self::mem_region(ADD_MEM_REG, region.gpa, region.size, region.user, region.offset).fd(&region.file)
    }

    /// `SET_LOG_BASE` of numbers, without a descriptor.
    #[must_use]
    pub fn log_base(size: u64, offset: u64) -> Self {
        Self::new(SET_LOG_BASE).words64(&[size, offset])
    }

    /// `GET_CONFIG` or `SET_CONFIG`.
    #[must_use]
    pub fn config(request: u32, offset: u32, size: u32, flags: u32, bytes: &[u8]) -> Self {
        Self::new(request).words32(&[offset, size, flags]).bytes(bytes)
    }

    /// Asks for an acknowledgement.
    #[must_use]
    pub fn need_reply(mut self) -> Self {
        self.flags |= NEED_REPLY;
        self
    }

    /// Replaces the header's flags.
    #[must_use]
    pub fn flags(mut self, flags: u32) -> Self {
        self.flags = flags;
        self
    }

    /// Tells a payload length that need not be true.
    #[must_use]
    pub fn size(mut self, size: u32) -> Self {
        self.size = Some(size);
        self
    }

    /// Appends 32-bit numbers to the payload.
    #[must_use]
    pub fn words32(mut self, words: &[u32]) -> Self {
        self.body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self
    }

    /// Appends 64-bit numbers to the payload.
    #[must_use]
    pub fn words64(mut self, words: &[u64]) -> Self {
        self.body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self
    }

    /// Appends bytes to the payload.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// Sends a copy of this descriptor along.
    #[must_use]
    pub fn fd(mut self, fd: impl AsFd) -> Self {
        self.fds.push(fd.as_fd().try_clone_to_owned().expect("dup"));
        self
    }

    /// The message as it goes over the socket, without its descriptors.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = self.size.unwrap_or(self.body.len() as u32);
        let mut bytes = Self::new(0).words32(&[self.request, self.flags, size]).body;
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The `index`-th 64-bit number of the payload.
    #[must_use]
    pub fn word64(&self, index: usize) -> u64 {
        let bytes = self.body.get(index * 8..index * 8 + 8);
        bytes.map_or_else(
            || panic!("{self:?} has no word {index}"),
            |b| u64::from_le_bytes(b.try_into().unwrap()),
        )
    }
}

/// A vhost-user connection from the front end's side.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

impl Channel {
    /// Connects to a socket the switch listens on.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { stream: UnixStream::connect(path)? })
    }

    /// Waits for the switch to connect to us; at most [`PATIENCE`].
    pub fn accept(listener: &UnixListener) -> io::Result<Self> {
        if !readable(listener, PATIENCE) {
            return Err(io::Error::new(ErrorKind::TimedOut, "nobody connected"));
        }
        Ok(Self { stream: listener.accept()?.0 })
    }

    /// A second handle of the same connection.
    #[must_use]
    pub fn clone_stream(&self) -> UnixStream {
        self.stream.try_clone().expect("dup")
    }

    /// Closes the connection for all handles of it.
    pub fn hang_up(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Sends a message; an error means that the peer has gone.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        let fds: Vec<_> = message.fds.iter().map(AsFd::as_fd).collect();
        self.send_bytes(&message.to_bytes(), &fds)
    }

    /// Sends a message, whether or not the peer is still there: for attacks that go on after the door was shut.
    pub fn say(&self, message: &Message) {
        let _ = self.send(message);
    }

    /// Sends bytes, the descriptors with the first of them.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            if !self.poll(PollFlags::OUT, PATIENCE) {
                return Err(io::Error::new(ErrorKind::TimedOut, "the peer does not read"));
            }
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if sent == 0 && !fds.is_empty() {
                assert!(
                    control.push(SendAncillaryMessage::ScmRights(fds)),
                    "the kernel takes at most 253 descriptors"
                );
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::sendmsg(&self.stream, &[IoSlice::new(&bytes[sent..])], &mut control, flags) {
                Ok(n) => sent += n,
                Err(rustix::io::Errno::AGAIN) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Receives the next message; `TimedOut` if none comes, `UnexpectedEof` if the peer closed.
    pub fn receive(&self, timeout: Duration) -> io::Result<Message> {
        let deadline = Instant::now() + timeout;
        let mut fds = Vec::new();
        let header = self.receive_bytes(12, deadline, &mut fds)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let size = word(8) as usize;
        if size > 0x10000 {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("a reply of {size} bytes")));
        }
        let body = self.receive_bytes(size, deadline, &mut fds)?;
        Ok(Message { request: word(0), flags: word(4), body, size: None, fds })
    }

    /// Sends a request and returns its reply.
    pub fn ask(&self, message: &Message) -> io::Result<Message> {
        self.send(message)?;
        let reply = self.receive(PATIENCE)?;
        if reply.request == message.request && reply.flags & REPLY != 0 {
            return Ok(reply);
        }
        Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("{reply:?} is no reply to request {}", message.request),
        ))
    }

    /// Sends a request which is answered with one number.
    pub fn ask_u64(&self, request: u32) -> io::Result<u64> {
        Ok(self.ask(&Message::new(request))?.word64(0))
    }

    /// Sends a request with `NEED_REPLY`; `Ok` if it was acknowledged with zero.
    pub fn confirm(&self, message: Message) -> io::Result<()> {
        match self.ask(&message.need_reply())?.word64(0) {
            0 => Ok(()),
            code => Err(io::Error::other(format!("refused with {code:#x}"))),
        }
    }

    /// Whether the peer closes the connection within [`PATIENCE`]; replies that are still in the way are thrown away.
    #[must_use]
    pub fn is_closed_soon(&self) -> bool {
        self.is_closed_within(PATIENCE)
    }

    /// Whether the peer closes the connection within `timeout`.
    #[must_use]
    pub fn is_closed_within(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            match self.receive_bytes(1, deadline, &mut Vec::new()) {
                Ok(_) => {}
                Err(e) => return e.kind() != ErrorKind::TimedOut,
            }
        }
    }

    fn poll(&self, flags: PollFlags, timeout: Duration) -> bool {
        poll_one(&self.stream, flags, timeout)
    }

    fn receive_bytes(&self, len: usize, deadline: Instant, fds: &mut Vec<OwnedFd>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut have = 0;
        while have < len {
            if !self.poll(PollFlags::IN, deadline.saturating_duration_since(Instant::now())) {
                return Err(io::Error::new(ErrorKind::TimedOut, "no answer"));
            }
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes[have..])];
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received = match rustix::net::recvmsg(&self.stream, &mut parts, &mut control, flags) {
                Ok(received) => received.bytes,
                Err(rustix::io::Errno::AGAIN) => continue,
                Err(e) => return Err(e.into()),
            };
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(list) = part {
                    fds.extend(list);
                }
            }
            if received == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by the peer"));
            }
            have += received;
        }
        Ok(bytes)
    }
}

/// A new event descriptor, for messages.
#[must_use]
pub fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd")
}

/// Whether the descriptor becomes readable within `timeout`.
pub(crate) fn readable(fd: &impl AsFd, timeout: Duration) -> bool {
    poll_one(fd, PollFlags::IN, timeout)
}

fn poll_one(fd: &impl AsFd, flags: PollFlags, timeout: Duration) -> bool {
    let limit = Timespec::try_from(timeout).expect("a sane timeout");
    let mut list = [PollFd::new(fd, flags)];
    rustix::event::poll(&mut list, Some(&limit)).is_ok_and(|n| n > 0)
}
