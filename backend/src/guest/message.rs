//! vhost-user messages as bytes and descriptors, with the limits a stranger's message must keep.
//!
//! Reading is strict: a message that is too long, carries descriptors it must not carry or arrives too slowly is an error, and
//! its descriptors are closed with it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::dirty_log::LogError;

/// Bytes of a message header: request, flags, payload size (all little endian on the machines this runs on).
pub(super) const HEADER: usize = 12;
/// Longest payload accepted; the longest real one is a memory table.
pub(super) const MAX_PAYLOAD: usize = 4096;
/// Descriptors accepted with one message; the most a memory table has.
const MAX_FDS: usize = 32;
/// A message that began must be complete after this long.
const PATIENCE: Duration = Duration::from_secs(5);

const FLAG_VERSION: u32 = 1;
const FLAG_VERSION_MASK: u32 = 3;
const FLAG_REPLY: u32 = 4;
const FLAG_NEED_REPLY: u32 = 8;

/// Request numbers of the vhost-user specification that are treated specially here.
pub(super) mod request {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const RESET_OWNER: u32 = 4;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_LOG_BASE: u32 = 6;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const SEND_RARP: u32 = 19;
    pub(crate) const NET_SET_MTU: u32 = 20;
    pub(crate) const GET_CONFIG: u32 = 24;
    pub(crate) const RESET_DEVICE: u32 = 34;
    pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(crate) const ADD_MEM_REG: u32 = 37;
    pub(crate) const REM_MEM_REG: u32 = 38;
    pub(crate) const SET_STATUS: u32 = 39;
    pub(crate) const GET_STATUS: u32 = 40;
    pub(crate) const SET_DEVICE_STATE_FD: u32 = 42;
    pub(crate) const CHECK_DEVICE_STATE: u32 = 43;
}

/// What is wrong with a message, or with the connection it came by.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("request {request}: payload of {size} bytes is longer than {MAX_PAYLOAD}")]
    TooLong { request: u32, size: u32 },
    #[error("request {request}: flags {flags:#x} are not those of a version 1 request")]
    BadFlags { request: u32, flags: u32 },
    #[error("request {request}: {got} descriptors, expected {want}")]
    Descriptors { request: u32, got: usize, want: &'static str },
    #[error("request {request}: {size} bytes of payload, expected {want}")]
    Size { request: u32, size: usize, want: usize },
    #[error("request {request}: {what} {value:#x} is not acceptable: {valid}")]
    Value { request: u32, what: &'static str, value: u64, valid: &'static str },
    #[error("request {request}: {error}")]
    Log { request: u32, error: LogError },
    #[error("a message was not complete after {} s", PATIENCE.as_secs())]
    Slow,
    #[error("no answer from the protocol handler")]
    NoAnswer,
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) request: u32,
    pub(super) flags: u32,
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Message {
    /// A request without descriptors that asks for no reply.
    pub(super) fn new(request: u32, payload: &[u8]) -> Self {
        Self { request, flags: FLAG_VERSION, payload: payload.to_vec(), fds: Vec::new() }
    }

    /// The answer to `self` that carries one 64-bit value.
    pub(super) fn reply(&self, value: u64) -> Self {
        Self {
            request: self.request,
            flags: FLAG_VERSION | FLAG_REPLY,
            payload: value.to_ne_bytes().to_vec(),
            fds: Vec::new(),
        }
    }

    /// The answer to `self` that repeats its payload.
    pub(super) fn echo(&self) -> Self {
        Self {
            request: self.request,
            flags: FLAG_VERSION | FLAG_REPLY,
            payload: self.payload.clone(),
            fds: Vec::new(),
        }
    }

    /// Whether the sender asks for an acknowledgement.
    pub(super) fn needs_reply(&self) -> bool {
        self.flags & FLAG_NEED_REPLY != 0
    }

    /// The 32-bit word at `offset` of the payload.
    pub(super) fn u32_at(&self, offset: usize) -> Result<u32, MessageError> {
        self.array(offset).map(u32::from_ne_bytes)
    }

    /// The 64-bit word at `offset` of the payload.
    pub(super) fn u64_at(&self, offset: usize) -> Result<u64, MessageError> {
        self.array(offset).map(u64::from_ne_bytes)
    }

    fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N], MessageError> {
        let bytes = self.payload.get(offset..offset + N).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or(MessageError::Size { request: self.request, size: self.payload.len(), want: offset + N })
    }

    /// Reads one message; blocks until one begins (call when the socket is readable) and then waits at most `PATIENCE`.
    pub(super) fn read(socket: &UnixStream) -> Result<Self, MessageError> {
        let deadline = Instant::now() + PATIENCE;
        let mut fds = Vec::new();
        let mut header = [0u8; HEADER];
        read_exact(socket, &mut header, &mut fds, deadline)?;
        let word = |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let (request, flags, size) = (word(0), word(4), word(8));
        if size as usize > MAX_PAYLOAD {
            return Err(MessageError::TooLong { request, size });
        }
        if flags & FLAG_VERSION_MASK != FLAG_VERSION {
            return Err(MessageError::BadFlags { request, flags });
        }
        let mut payload = vec![0; size as usize];
        read_exact(socket, &mut payload, &mut fds, deadline)?;
        Ok(Self { request, flags, payload, fds })
    }

    /// Checks that this is a request and not a reply.
    pub(super) fn expect_request(&self) -> Result<(), MessageError> {
        if self.flags & FLAG_REPLY != 0 {
            return Err(MessageError::BadFlags { request: self.request, flags: self.flags });
        }
        Ok(())
    }

    /// Writes the message with its descriptors.
    pub(super) fn write(&self, socket: &UnixStream) -> Result<(), MessageError> {
        let mut bytes = Vec::with_capacity(HEADER + self.payload.len());
        for word in [self.request, self.flags, self.payload.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        let deadline = Instant::now() + PATIENCE;
        let mut sent = send(socket, &bytes, &self.fds, deadline)?;
        while sent < bytes.len() {
            sent += send(socket, &bytes[sent..], &[], deadline)?;
        }
        Ok(())
    }
}

/// Waits until one of `events` holds for `socket` or the deadline passes.
fn wait(socket: &UnixStream, events: libc::c_short, deadline: Instant) -> Result<(), MessageError> {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis() as libc::c_int;
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
    // SAFETY: one valid pollfd.
    match unsafe { libc::poll(&raw mut poll, 1, left) } {
        0 => Err(MessageError::Slow),
        _ => Ok(()),
    }
}

fn read_exact(
    socket: &UnixStream,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    deadline: Instant,
) -> Result<(), MessageError> {
    let mut filled = 0;
    while filled < buffer.len() {
        wait(socket, libc::POLLIN, deadline)?;
        match receive(socket, &mut buffer[filled..], fds)? {
            0 => return Err(MessageError::Closed),
            count => filled += count,
        }
    }
    Ok(())
}

/// Space for the descriptors of one message, aligned for `cmsghdr`.
type ControlBuffer = [u64; 32];

fn receive(socket: &UnixStream, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, MessageError> {
    let mut control = MaybeUninit::<ControlBuffer>::zeroed();
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid msghdr; the pointers set below outlive the call and describe owned buffers. CMSG_* only walk what
    // the kernel wrote inside `control`, and every descriptor in it was just made for us, so each is owned exactly once.
    let (count, truncated) = unsafe {
        let mut msg: libc::msghdr = std::mem::zeroed();
        msg.msg_iov = &raw mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = size_of::<ControlBuffer>();
        let count =
            libc::recvmsg(socket.as_raw_fd(), &raw mut msg, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT);
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Err(MessageError::Slow),
                _ => Err(error.into()),
            };
        }
        let mut header = libc::CMSG_FIRSTHDR(&raw const msg);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<libc::c_int>();
                for index in 0..bytes / size_of::<libc::c_int>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const msg, header);
        }
        (count as usize, msg.msg_flags & libc::MSG_CTRUNC != 0)
    };
    if truncated || fds.len() > MAX_FDS {
        return Err(MessageError::Descriptors { request: 0, got: fds.len(), want: "at most 32" });
    }
    Ok(count)
}

pub(super) fn send(
    socket: &UnixStream,
    bytes: &[u8],
    fds: &[OwnedFd],
    deadline: Instant,
) -> Result<usize, MessageError> {
    let mut control = MaybeUninit::<ControlBuffer>::zeroed();
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let fd_bytes = size_of_val(fds);
    loop {
        // SAFETY: as in `receive`; `control` has room for MAX_FDS descriptors (32 × 4 bytes and a header of 16 in 256 bytes), and
        // `fds` holds no more because `receive` let no more in.
        let sent = unsafe {
            let mut msg: libc::msghdr = std::mem::zeroed();
            msg.msg_iov = &raw mut iov;
            msg.msg_iovlen = 1;
            if !fds.is_empty() {
                msg.msg_control = control.as_mut_ptr().cast();
                msg.msg_controllen = libc::CMSG_SPACE(fd_bytes as u32) as usize;
                let header = libc::CMSG_FIRSTHDR(&raw const msg);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(fd_bytes as u32) as usize;
                let data = libc::CMSG_DATA(header).cast::<libc::c_int>();
                for (index, fd) in fds.iter().enumerate() {
                    data.add(index).write_unaligned(fd.as_raw_fd());
                }
            }
            libc::sendmsg(socket.as_raw_fd(), &raw const msg, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        };
        if sent >= 0 {
            return Ok(sent as usize);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock => wait(socket, libc::POLLOUT, deadline)?,
            io::ErrorKind::Interrupted => {}
            _ => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_message_passes_with_its_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut message = Message::new(request::SET_VRING_KICK, &7u64.to_ne_bytes());
        message.fds.push(File::open("/dev/null").unwrap().into());
        message.write(&a).unwrap();
        let got = Message::read(&b).unwrap();
        assert_eq!((got.request, got.u64_at(0).unwrap(), got.fds.len()), (request::SET_VRING_KICK, 7, 1));
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_with_its_size() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut message = Message::new(9, &[0; 8]);
        message.payload = vec![0; MAX_PAYLOAD + 1];
        message.write(&a).unwrap();
        let error = Message::read(&b).unwrap_err().to_string();
        assert_eq!(error, "request 9: payload of 4097 bytes is longer than 4096");
    }
}
