//! Messages with descriptors on a UNIX socket: length, number of descriptors, JSON, and the descriptors a few at a time.
//!
//! The peer is a switch of this or another version, run by root or by the switch's own user: limits are there against faults, not
//! against malice.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::Step;

/// Longest message: a port with 10,000 rules and 65,536 sessions is under 32 MiB.
const MAX_LENGTH: usize = 64 << 20;
/// Most descriptors with one message: a port of 16 rings and 64 regions has under 150.
const MAX_FDS: usize = 1024;
/// Descriptors that travel together; the kernel takes up to 253.
const TOGETHER: usize = 64;

/// One end of a take-over.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

/// Why a message could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    #[error("the other process ended or let go")]
    Closed,
    #[error("the other process did not answer within {} ms", .0.as_millis())]
    Slow(Duration),
    #[error("the other process said something that this version does not understand: {0}")]
    Unknown(String),
    #[error("the other process gave up: {0}")]
    Failed(String),
    #[error("the connection: {0}")]
    Io(io::Error),
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self(stream))
    }

    /// Sends a message; waits at most `limit` for room.
    pub(super) fn send(
        &self,
        step: &Step,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), ChannelError> {
        let failed = |e| ChannelError::of(e, limit);
        let json = serde_json::to_vec(step).map_err(|e| ChannelError::Unknown(e.to_string()))?;
        self.0.set_write_timeout(Some(limit)).map_err(failed)?;
        let mut head = [0; 8];
        head[..4].copy_from_slice(&(json.len() as u32).to_le_bytes());
        head[4..].copy_from_slice(&(fds.len() as u32).to_le_bytes());
        (&self.0).write_all(&head).and_then(|()| (&self.0).write_all(&json)).map_err(failed)?;
        for some in fds.chunks(TOGETHER) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(some)) {
                return Err(failed(io::Error::other("no room for descriptors")));
            }
            sendmsg(&self.0, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)
                .map_err(|e| failed(e.into()))?;
        }
        Ok(())
    }

    /// Receives a message; waits at most `limit` for each piece of it, or for ever.
    pub(super) fn receive(&self, limit: Option<Duration>) -> Result<(Step, Vec<OwnedFd>), ChannelError> {
        let failed = |e| ChannelError::of(e, limit.unwrap_or_default());
        self.0.set_read_timeout(limit).map_err(failed)?;
        let mut head = [0; 8];
        (&self.0).read_exact(&mut head).map_err(failed)?;
        let both = u64::from_le_bytes(head);
        let (length, count) = (both as u32, (both >> 32) as u32);
        if length as usize > MAX_LENGTH || count as usize > MAX_FDS {
            return Err(ChannelError::Unknown(format!("{length} bytes and {count} descriptors")));
        }
        let mut json = vec![0; length as usize];
        (&self.0).read_exact(&mut json).map_err(failed)?;
        let mut fds = Vec::new();
        while fds.len() < count as usize {
            let before = fds.len();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let mut into = [IoSliceMut::new(&mut byte)];
            let got = recvmsg(&self.0, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)
                .map_err(|e| failed(e.into()))?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(some) = message {
                    fds.extend(some);
                }
            }
            if got.bytes == 0 {
                return Err(ChannelError::Closed);
            }
            if fds.len() == before {
                // The kernel leaves out what this process may not have open.
                return Err(failed(io::Error::other("descriptors are missing; see the limit of open files")));
            }
        }
        match serde_json::from_slice(&json) {
            Ok(Step::Failed { reason }) => Err(ChannelError::Failed(reason)),
            Ok(step) => Ok((step, fds)),
            Err(e) => Err(ChannelError::Unknown(e.to_string())),
        }
    }
}

impl ChannelError {
    fn of(e: io::Error, limit: Duration) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
        match e.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => Self::Closed,
            TimedOut | WouldBlock => Self::Slow(limit),
            _ => Self::Io(e),
        }
    }

    /// The answer to a message that is not the one that must come here.
    pub(super) fn unexpected(step: &Step) -> Self {
        let text = format!("{step:?}");
        Self::Unknown(text.chars().take(60).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().unwrap();
        (Channel::new(a).unwrap(), Channel::new(b).unwrap())
    }

    #[test]
    fn messages_arrive_in_order_each_with_its_descriptors() {
        let (a, b) = pair();
        let files: Vec<File> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        a.send(&Step::Frozen { devices: 7, listening: None }, &fds, SOON).unwrap();
        a.send(&Step::Go, &[], SOON).unwrap();
        a.send(&Step::Ready, &fds[..1], SOON).unwrap();
        let (step, got) = b.receive(Some(SOON)).unwrap();
        assert!(matches!(step, Step::Frozen { devices: 7, .. }));
        assert_eq!(got.len(), 200);
        assert!(matches!(b.receive(Some(SOON)).unwrap(), (Step::Go, fds) if fds.is_empty()));
        assert!(matches!(b.receive(Some(SOON)).unwrap(), (Step::Ready, fds) if fds.len() == 1));
    }

    #[test]
    fn an_end_a_silence_and_a_failure_are_told_apart() {
        let (a, b) = pair();
        let silent = b.receive(Some(Duration::from_millis(10))).unwrap_err();
        assert_eq!(silent.to_string(), "the other process did not answer within 10 ms");
        a.send(&Step::Failed { reason: "no room".into() }, &[], SOON).unwrap();
        assert_eq!(b.receive(None).unwrap_err().to_string(), "the other process gave up: no room");
        drop(a);
        assert_eq!(b.receive(None).unwrap_err().to_string(), "the other process ended or let go");
        let gone = b.send(&Step::Go, &[], SOON).unwrap_err();
        assert_eq!(gone.to_string(), "the other process ended or let go");
    }
}
