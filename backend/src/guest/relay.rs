//! Stands between a front end's socket and the control protocol's library, message by message.
//!
//! It is there for two reasons. *Dialects*: QEMU enables rings before it sets features, which the library refuses, and
//! `SEND_RARP`, `NET_SET_MTU` and `SET/GET_STATUS` are unknown to the library; the relay adds what is missing. *Gatekeeping*: the
//! library trusts some fields and descriptors that a hostile front end may set; the relay refuses them first. An error ends
//! this connection and nothing else.
//!
//! One thread per connection, one message at a time, in order: the answer to a message is passed back before the next message is
//! read. No frame ever passes here.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vswitch::event::Event;
use vswitch::{Mac, announce};

use super::device_state::{Transfer, TransferError, Waited};
use super::dirty_log::{self, DirtyLog, LogError};
use super::journal::Journal;
use super::memory::MAX_REGIONS;
use super::message::{Message, MessageError, request};
use super::ring::{MAX_RING_SIZE, is_eventfd};
use super::{GuestPort, features};

/// Protocol features that the relay serves itself.
const PROTOCOL_LOG_SHMFD: u64 = 1 << 1;
const PROTOCOL_RARP: u64 = 1 << 2;
const PROTOCOL_REPLY_ACK: u64 = 1 << 3;
const PROTOCOL_NET_MTU: u64 = 1 << 4;
const PROTOCOL_STATUS: u64 = 1 << 16;
const PROTOCOL_DEVICE_STATE: u64 = 1 << 19;
const OWN_PROTOCOL_FEATURES: u64 =
    PROTOCOL_DEVICE_STATE | PROTOCOL_LOG_SHMFD | PROTOCOL_RARP | PROTOCOL_NET_MTU | PROTOCOL_STATUS;

/// In the answer to `SET_DEVICE_STATE_FD`: no descriptor comes with it, the front end's is used.
const NO_DESCRIPTOR: u64 = 0x100;
/// Bytes of one region in a memory message: guest address, size, user address, mmap offset.
const REGION: usize = 32;
const PAGE: u64 = 4096;

/// The relay of one connection.
pub(super) struct Relay<'a> {
    port: &'a Arc<GuestPort>,
    front: &'a UnixStream,
    back: &'a UnixStream,
    /// `SET_FEATURES` was seen (or injected) since the last reset.
    features_set: bool,
    /// Replies to NEED_REPLY are negotiated with the library.
    offered: bool,
    reply_ack: bool,
    /// virtio features the front end accepted.
    features: u64,
    /// Protocol features the front end accepted.
    protocol: u64,
    status: u64,
    /// A transfer of device state that the front end has not asked the result of.
    transfer: Option<Transfer>,
    /// What was said, in case another handler must hear it.
    journal: Journal,
}

impl<'a> Relay<'a> {
    /// A relay between the front end and the library's end of a private socket pair.
    pub(super) fn new(port: &'a Arc<GuestPort>, front: &'a UnixStream, back: &'a UnixStream) -> Self {
        Self {
            port,
            front,
            back,
            features_set: false,
            offered: false,
            reply_ack: false,
            features: 0,
            protocol: 0,
            status: 0,
            transfer: None,
            journal: Journal::new(port.queues.len()),
        }
    }

    /// Brings the library to where another one was, with what the front end said to that; nobody hears the answers.
    pub(super) fn replay(&mut self, said: Vec<Message>, stop: BorrowedFd<'_>) -> Result<(), MessageError> {
        let (sink, _unread) = UnixStream::pair()?;
        let mut deaf = Relay::new(self.port, &sink, self.back);
        for message in said {
            deaf.handle(&message, stop)?;
            deaf.journal.record(message);
        }
        // An error of the library shows here at the latest.
        deaf.settle()?;
        let Relay { features_set, offered, reply_ack, features, protocol, status, journal, transfer, .. } =
            deaf;
        *self = Self {
            port: self.port,
            front: self.front,
            back: self.back,
            features_set,
            offered,
            reply_ack,
            features,
            protocol,
            status,
            transfer,
            journal,
        };
        Ok(())
    }

    /// What was said so far and is still in force.
    pub(super) fn into_journal(self) -> Journal {
        self.journal
    }

    /// Passes messages until one side closes, something is refused, or `stop` becomes readable.
    pub(super) fn run(&mut self, stop: BorrowedFd<'_>) -> Result<(), MessageError> {
        let outcome = self.pass(stop);
        if let Some(transfer) = self.transfer.take() {
            transfer.end(stop);
        }
        outcome
    }

    fn pass(&mut self, stop: BorrowedFd<'_>) -> Result<(), MessageError> {
        loop {
            let mut polls = [self.front.as_fd(), self.back.as_fd(), stop].map(|fd| libc::pollfd {
                fd: fd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            });
            // SAFETY: three valid pollfds.
            if unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) } < 0 {
                continue;
            }
            if polls[2].revents != 0 {
                return Ok(());
            }
            if polls[1].revents != 0 {
                // The library speaks only when asked, so this is its end.
                return Err(MessageError::NoAnswer);
            }
            if polls[0].revents != 0 {
                let message = Message::read(self.front)?;
                self.handle(&message, stop)?;
                self.journal.record(message);
            }
        }
    }

    fn handle(&mut self, message: &Message, stop: BorrowedFd<'_>) -> Result<(), MessageError> {
        message.expect_request()?;
        Self::check(message, self.is_packed())?;
        if !harmless(message.request) {
            self.wait_for_transfer(stop)?;
        }
        match message.request {
            request::SEND_RARP => {
                let mac = message.u64_at(0)?.to_ne_bytes();
                let mac = Mac([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]);
                self.port.emit(Event::Announced { port: self.port.spec.id, mac });
                self.port.owners[0].inject(self.port.spec.id, announce::rarp(mac));
                self.acknowledge(message, true)
            }
            request::NET_SET_MTU => {
                let mtu = message.u64_at(0)?;
                let fits = (68..=u64::from(self.port.spec.mtu)).contains(&mtu);
                if fits {
                    self.port.mtu.store(mtu as u16, Ordering::Relaxed);
                }
                self.acknowledge(message, fits)
            }
            request::SET_STATUS => {
                self.status = message.u64_at(0)? & 0xff;
                self.acknowledge(message, true)
            }
            request::GET_STATUS => message.reply(self.status).write(self.front),
            request::GET_FEATURES => {
                self.offered = true;
                self.forward(message)
            }
            request::GET_PROTOCOL_FEATURES => {
                message.write(self.back)?;
                let answer = self.answer()?;
                let value = answer.u64_at(0)? | OWN_PROTOCOL_FEATURES;
                message.reply(value).write(self.front)
            }
            request::SET_PROTOCOL_FEATURES => {
                let value = message.u64_at(0)?;
                if value & !(OWN_PROTOCOL_FEATURES | features::protocol().bits()) != 0 {
                    let (request, what, valid) =
                        (message.request, "protocol features", "only what was offered");
                    return Err(MessageError::Value { request, what, value, valid });
                }
                let mut passed =
                    Message::new(message.request, &(value & !OWN_PROTOCOL_FEATURES).to_ne_bytes());
                // The library negotiates acknowledgements only with a front end that asked first; some set without asking.
                Message::new(request::GET_FEATURES, &[]).write(self.back)?;
                self.answer()?;
                Message::new(request::GET_PROTOCOL_FEATURES, &[]).write(self.back)?;
                self.answer()?;
                passed.flags = message.flags;
                self.offered = true;
                self.reply_ack = value & PROTOCOL_REPLY_ACK != 0;
                self.protocol = value;
                self.port.saves.store(value & PROTOCOL_DEVICE_STATE != 0, Ordering::Relaxed);
                self.forward(&passed)
            }
            request::GET_MAX_MEM_SLOTS => {
                message.write(self.back)?;
                self.answer()?;
                message.reply(MAX_REGIONS as u64).write(self.front)
            }
            request::SET_DEVICE_STATE_FD => {
                self.negotiated(message, PROTOCOL_DEVICE_STATE)?;
                self.settle()?;
                let value = match self.begin_transfer(message) {
                    Ok(transfer) => {
                        self.transfer = Some(transfer);
                        NO_DESCRIPTOR
                    }
                    Err(error) => {
                        log::warn!("port {}: {error}", self.port.spec.name);
                        NO_DESCRIPTOR | 1
                    }
                };
                message.reply(value).write(self.front)
            }
            request::CHECK_DEVICE_STATE => {
                self.negotiated(message, PROTOCOL_DEVICE_STATE)?;
                self.wait_for_transfer(stop)?;
                let good = self.transfer.take().is_some_and(|transfer| transfer.outcome().is_ok());
                message.reply(u64::from(!good)).write(self.front)
            }
            request::SET_LOG_BASE => {
                self.negotiated(message, PROTOCOL_LOG_SHMFD)?;
                // The answer to this tells the front end that whatever it asked for before holds too, such as rings that stand.
                self.settle()?;
                let failed = |error| MessageError::Log { request: message.request, error };
                let [fd] = &message.fds[..] else { return Err(failed(LogError::NoFile)) };
                let (size, offset) = (message.u64_at(0)?, message.u64_at(8)?);
                let log = DirtyLog::map(fd.as_fd(), offset, size).map_err(failed)?;
                dirty_log::replace(self.port, log).map_err(failed)?;
                message.echo().write(self.front)
            }
            request::SET_FEATURES => {
                let value = message.u64_at(0)?;
                if value & features::LOG_ALL != 0 {
                    self.settle()?;
                    dirty_log::check_memory(self.port, value)
                        .map_err(|error| MessageError::Log { request: message.request, error })?;
                }
                self.features_set = true;
                self.features = value;
                self.forward(message)
            }
            request::GET_VRING_BASE if self.is_packed() => {
                message.write(self.back)?;
                let answer = self.answer()?;
                // The library knows of 16 bits: where the device reads. The upper half is where it writes, which is the same place.
                let (ring, place) = (answer.u32_at(0)?, answer.u32_at(4)? & 0xffff);
                message.reply(u64::from(ring) | u64::from(place | place << 16) << 32).write(self.front)
            }
            request::RESET_OWNER | request::RESET_DEVICE => {
                self.features_set = false;
                self.forward(message)
            }
            request::SET_VRING_ENABLE => {
                if !self.features_set {
                    let bits = features::PROTOCOL_FEATURES.to_ne_bytes();
                    Message::new(request::SET_FEATURES, &bits).write(self.back)?;
                    self.features_set = true;
                }
                self.forward(message)
            }
            _ => self.forward(message),
        }
    }

    /// Passes a message on and its answer, if there is one, back.
    fn forward(&mut self, message: &Message) -> Result<(), MessageError> {
        message.write(self.back)?;
        let always = matches!(
            message.request,
            request::GET_FEATURES
                | request::GET_PROTOCOL_FEATURES
                | request::GET_QUEUE_NUM
                | request::GET_VRING_BASE
                | request::GET_CONFIG
        );
        if always || (self.offered && self.reply_ack && message.needs_reply()) {
            self.answer()?.write(self.front)?;
        }
        Ok(())
    }

    fn is_packed(&self) -> bool {
        self.features & features::RING_PACKED != 0
    }

    /// Refuses a request whose protocol feature was not negotiated.
    fn negotiated(&self, message: &Message, feature: u64) -> Result<(), MessageError> {
        if self.protocol & feature != 0 {
            return Ok(());
        }
        let (what, value) = ("request; protocol features", self.protocol);
        let valid = "only what was negotiated";
        Err(MessageError::Value { request: message.request, what, value, valid })
    }

    fn begin_transfer(&self, message: &Message) -> Result<Transfer, TransferError> {
        if self.transfer.as_ref().is_some_and(|transfer| !transfer.is_done()) {
            return Err(TransferError::Busy);
        }
        let [fd] = &message.fds[..] else { return Err(TransferError::Descriptor) };
        let word = |at| message.u32_at(at).unwrap_or(u32::MAX);
        Transfer::start(self.port, (word(0), word(4)), fd.try_clone()?)
    }

    /// Waits until no transfer is under way; an error if the connection ends before.
    fn wait_for_transfer(&self, stop: BorrowedFd<'_>) -> Result<(), MessageError> {
        match &self.transfer {
            Some(transfer) if transfer.wait(stop, self.front.as_fd()) == Waited::Over => {
                Err(MessageError::Closed)
            }
            _ => Ok(()),
        }
    }

    /// Waits until the library has done all it was told.
    fn settle(&self) -> Result<(), MessageError> {
        Message::new(request::GET_FEATURES, &[]).write(self.back)?;
        self.answer().map(drop)
    }

    fn answer(&self) -> Result<Message, MessageError> {
        Message::read(self.back).map_err(|error| match error {
            MessageError::Closed | MessageError::Slow => MessageError::NoAnswer,
            other => other,
        })
    }

    /// Answers a message that the library never sees.
    fn acknowledge(&self, message: &Message, good: bool) -> Result<(), MessageError> {
        if self.reply_ack && message.needs_reply() {
            message.reply(u64::from(!good)).write(self.front)?;
        }
        Ok(())
    }

    // === what a front end may not send ===

    fn check(message: &Message, packed: bool) -> Result<(), MessageError> {
        let request = message.request;
        let fds = message.fds.len();
        let wrong = |want| Err(MessageError::Descriptors { request, got: fds, want });
        match request {
            request::SET_MEM_TABLE => {
                let regions = message.u32_at(0)? as usize;
                if fds != regions || !(1..=32).contains(&regions) {
                    return wrong("one per memory region, 1 to 32");
                }
                for (index, fd) in message.fds.iter().enumerate() {
                    check_region(message, 8 + REGION * index, fd.as_fd())?;
                }
            }
            request::ADD_MEM_REG => {
                let [fd] = &message.fds[..] else { return wrong("1") };
                check_region(message, 8, fd.as_fd())?;
            }
            request::SET_LOG_BASE | request::SET_DEVICE_STATE_FD if fds != 1 => return wrong("1"),
            // The specification lets a front end send the descriptor along; it is of no use.
            request::REM_MEM_REG if fds > 1 => return wrong("0 or 1"),
            request::SET_LOG_BASE | request::SET_DEVICE_STATE_FD | request::REM_MEM_REG => {}
            request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
                let without = message.u64_at(0)? & 0x100 != 0;
                if fds != usize::from(!without) {
                    return wrong("1, or 0 with the no-descriptor flag");
                }
                if let [fd] = &message.fds[..] {
                    let file = File::from(fd.try_clone()?);
                    if !is_eventfd(&file) {
                        let value = message.u64_at(0)?;
                        return Err(MessageError::Value {
                            request,
                            what: "descriptor of ring",
                            value,
                            valid: "an eventfd",
                        });
                    }
                }
            }
            _ if fds != 0 => return wrong("0"),
            request::SET_VRING_NUM => {
                let size = message.u32_at(4)?;
                let fits = if packed { size != 0 } else { size.is_power_of_two() };
                if !fits || size > u32::from(MAX_RING_SIZE) {
                    let valid = if packed { "1 to 1024" } else { "a power of two up to 1024" };
                    return Err(MessageError::Value {
                        request,
                        what: "ring size",
                        value: u64::from(size),
                        valid,
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether a request can start no ring, and so need not wait for the end of a transfer of device state.
fn harmless(request: u32) -> bool {
    matches!(
        request,
        request::GET_FEATURES
            | request::GET_PROTOCOL_FEATURES
            | request::GET_QUEUE_NUM
            | request::GET_VRING_BASE
            | request::GET_CONFIG
            | request::GET_MAX_MEM_SLOTS
            | request::GET_STATUS
            | request::SET_LOG_BASE
            | request::SET_DEVICE_STATE_FD
            | request::CHECK_DEVICE_STATE
    )
}

/// Refuses a region that wraps, is empty, or is not backed by a file of memory that is long enough.
fn check_region(message: &Message, at: usize, fd: BorrowedFd<'_>) -> Result<(), MessageError> {
    let request = message.request;
    let refuse = |what, value, valid| Err(MessageError::Value { request, what, value, valid });
    let (guest, size) = (message.u64_at(at)?, message.u64_at(at + 8)?);
    let (user, offset) = (message.u64_at(at + 16)?, message.u64_at(at + 24)?);
    if size == 0 || size > 1 << 46 {
        return refuse("region size", size, "1 byte to 64 TiB");
    }
    for (what, start) in
        [("region guest address", guest), ("region user address", user), ("region offset", offset)]
    {
        if start.checked_add(size).is_none() {
            return refuse(what, start, "address plus size within 64 bits");
        }
    }
    if !offset.is_multiple_of(PAGE) {
        return refuse("region offset", offset, "a multiple of the page size");
    }
    let metadata = File::from(fd.try_clone_to_owned()?).metadata()?;
    let kind = metadata.file_type();
    if !metadata.is_file() || kind.is_char_device() {
        return refuse(
            "region descriptor type",
            u64::from(std::os::unix::fs::MetadataExt::mode(&metadata)),
            "a memory file",
        );
    }
    if metadata.len() < offset + size {
        return refuse("region end", offset + size, "inside its file");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod transfer;
