//! Putting frames into the ring, ready for the wire.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use vswitch::frame::checksum::complete_checksum;
use vswitch::frame::ethernet::ethertype;
use vswitch::frame::offload::{F_NEEDS_CSUM, GSO_NONE, GuestOffloads, NetHeader};
use vswitch::frame::segment::Segmenter;

use super::ring::{Consumer, Producer};
use super::umem::{SEND, gather};
use super::{Xdp, socket};
use crate::link::burst::{ETHERNET_HEADER, MAX_FRAME, VLAN_TAG};
use crate::link::outbox::Outbox;
use crate::link::{LINK_HEADER, LinkError, MAX_PIECES, Piece, Sent};

/// How often the kernel is asked at a time to send what it could not: an interface's queue that was full has room soon.
const ATTEMPTS: usize = 64;

/// The sending half.
#[derive(Debug)]
pub(super) struct Sender {
    /// Frames that are to be sent.
    ring: Producer<libc::xdp_desc>,
    /// Chunks whose frames are sent.
    done: Consumer<u64>,
    /// Chunks from which nothing is being sent; the last one was used last, so it is likely to be in a cache.
    pub(super) free: Vec<u32>,
    /// A frame that is being segmented.
    linear: Vec<u8>,
}

impl Sender {
    pub(super) fn new(ring: Producer<libc::xdp_desc>, done: Consumer<u64>, free: Vec<u32>) -> Self {
        Self { ring, done, free, linear: vec![0; MAX_FRAME] }
    }

    /// Puts the first `len` bytes of a chunk into the ring.
    fn put(&mut self, addr: u64, len: usize) {
        // Room there is: there are as many places as chunks.
        self.ring.put(libc::xdp_desc { addr, len: len as u32, options: 0 });
    }
}

impl Xdp {
    /// See [`crate::link::Link::send`].
    pub(super) fn send_one(
        &self,
        header: &[u8; LINK_HEADER],
        head: &[u8],
        rest: &[Piece],
    ) -> Result<Sent, LinkError> {
        self.check_up()?;
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        self.reclaim(&mut sender);
        if !self.place(&mut sender, header, head, rest)? {
            self.kick(&mut sender)?;
            return Ok(Sent::Full);
        }
        self.kick(&mut sender)?;
        Ok(Sent::Done)
    }

    /// See [`crate::link::Link::send_all`].
    pub(super) fn send_many(&self, outbox: &Outbox, first: usize) -> Result<usize, LinkError> {
        self.check_up()?;
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        self.reclaim(&mut sender);
        let mut sent = 0;
        while let Some(frame) = outbox.get(first + sent) {
            match self.place(&mut sender, frame.header, frame.front, frame.pieces) {
                Ok(true) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Ok(false) | Err(_) => break,
            }
        }
        self.kick(&mut sender)?;
        Ok(sent)
    }

    /// Sends what could not be sent before.
    pub(super) fn send_rest(&self) {
        if self.down.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(mut sender) = self.sender.try_lock() {
            // An interface that is gone is noticed by others.
            let _ = self.kick(&mut sender);
        }
    }

    /// Takes note of whether the interface is administratively down, as its flags say.
    pub(super) fn look_whether_down(&self, flags: libc::c_int) {
        self.down.store(flags & libc::IFF_UP == 0, Ordering::Relaxed);
    }

    /// Fails while the interface is down: what were put into the ring then would wait there for it to come up.
    fn check_up(&self) -> Result<(), LinkError> {
        if !self.down.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.device.flags() {
            Some(flags) => self.look_whether_down(flags),
            None if self.device.is_gone() => return Err(self.device.gone()),
            None => {}
        }
        if self.down.load(Ordering::Relaxed) {
            return Err(LinkError::Down { interface: self.device.name.clone() });
        }
        Ok(())
    }

    /// Takes back the chunks whose frames are sent.
    fn reclaim(&self, sender: &mut Sender) {
        let mut any = false;
        while let Some(address) = sender.done.take() {
            any = true;
            // Never more than there are, whatever the kernel says.
            if let Some(number) = self.umem.number(address).filter(|_| sender.free.len() < SEND as usize) {
                sender.free.push(number);
            }
        }
        if any {
            sender.done.release();
        }
    }

    /// Puts one frame into the ring, or the segments it stands for, all of them or none; false if there is no room.
    fn place(
        &self,
        sender: &mut Sender,
        header: &[u8; LINK_HEADER],
        front: &[u8],
        pieces: &[Piece],
    ) -> Result<bool, LinkError> {
        if pieces.len() > MAX_PIECES {
            let interface = self.device.name.clone();
            return Err(LinkError::TooManyPieces { interface, count: pieces.len() });
        }
        let length = pieces.iter().fold(front.len(), |sum, piece| sum.saturating_add(piece.len()));
        if length > MAX_FRAME {
            let interface = self.device.name.clone();
            return Err(LinkError::TooLong { interface, length, limit: MAX_FRAME });
        }
        let header = NetHeader::parse(header);
        if header.gso_type != GSO_NONE {
            return self.place_segments(sender, &header, front, pieces);
        }
        let Some(number) = sender.free.pop() else { return Ok(false) };
        let placed = self.fill(number, &header, front, pieces, length);
        match placed {
            Ok(len) => sender.put(self.umem.address(number), len),
            Err(_) => sender.free.push(number),
        }
        placed.map(|_| true)
    }

    /// Writes a frame of `length` bytes to a free chunk, with its checksum complete; returns its length.
    fn fill(
        &self,
        number: u32,
        header: &NetHeader,
        front: &[u8],
        pieces: &[Piece],
        length: usize,
    ) -> Result<usize, LinkError> {
        // SAFETY: the chunk was free, and whoever calls has taken it.
        let Some(chunk) = (unsafe { self.umem.chunk_mut(number) }) else { return Err(self.bad_frame()) };
        let Some(len) = gather(front, pieces, chunk) else { return Err(self.too_long(length, front)) };
        let frame = &mut chunk[..len];
        if len < ETHERNET_HEADER {
            return Err(self.bad_frame());
        }
        if len > self.limit(frame) {
            return Err(self.too_long(len, frame));
        }
        if header.flags & F_NEEDS_CSUM != 0
            && !complete_checksum(frame, header.csum_start, header.csum_offset)
        {
            return Err(self.bad_frame());
        }
        Ok(len)
    }

    fn place_segments(
        &self,
        sender: &mut Sender,
        header: &NetHeader,
        front: &[u8],
        pieces: &[Piece],
    ) -> Result<bool, LinkError> {
        let mut linear = std::mem::take(&mut sender.linear);
        let result = match gather(front, pieces, &mut linear).and_then(|len| linear.get(..len)) {
            Some(frame) => self.place_segments_of(sender, header, frame),
            None => Err(self.bad_frame()),
        };
        sender.linear = linear;
        result
    }

    fn place_segments_of(
        &self,
        sender: &mut Sender,
        header: &NetHeader,
        frame: &[u8],
    ) -> Result<bool, LinkError> {
        let offload = header.check(frame, frame.len() as u32, GuestOffloads::ALL);
        let segments = offload.and_then(|offload| Segmenter::new(frame, &offload));
        let mut segments = segments.map_err(|_| self.bad_frame())?;
        if segments.max_segment() > self.limit(frame) {
            return Err(self.too_long(segments.max_segment(), frame));
        }
        if segments.count() > SEND as usize {
            return Err(self.bad_frame());
        }
        if segments.count() > sender.free.len() {
            return Ok(false);
        }
        while let Some(number) = sender.free.pop() {
            // SAFETY: the chunk was free, and is not any more.
            let chunk = unsafe { self.umem.chunk_mut(number) };
            let Some(len) = chunk.and_then(|chunk| segments.next(chunk)) else {
                sender.free.push(number);
                break;
            };
            sender.put(self.umem.address(number), len);
        }
        Ok(true)
    }

    /// Lets the kernel send what is in the ring: one system call, unless the interface has no room. Fails if it is gone.
    fn kick(&self, sender: &mut Sender) -> Result<(), LinkError> {
        sender.ring.publish();
        let mut stuck = false;
        for _ in 0..ATTEMPTS {
            stuck = sender.ring.waiting() != 0;
            if !stuck || !sender.ring.wants_wake_up() {
                stuck = false;
                break;
            }
            match socket::kick_send(&self.socket).map_err(|error| error.raw_os_error()) {
                Ok(()) => {
                    stuck = false;
                    break;
                }
                Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::EINTR)) => {}
                Err(_) => {
                    // What is in the ring waits there until the interface is up again.
                    self.down.store(true, Ordering::Relaxed);
                    stuck = false;
                    if self.device.is_gone() {
                        return Err(self.device.gone());
                    }
                    break;
                }
            }
        }
        if stuck != self.stuck.load(Ordering::Relaxed) {
            self.stuck.store(stuck, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Longest frame that the interface takes, in bytes: a VLAN tag does not count.
    fn limit(&self, frame: &[u8]) -> usize {
        let tag = frame.get(12..14).is_some_and(|kind| kind == ethertype::VLAN.to_be_bytes());
        let limit = self.mtu() as usize + ETHERNET_HEADER + if tag { VLAN_TAG } else { 0 };
        // The MTU may have become larger since.
        limit.min(self.umem.chunk)
    }

    fn too_long(&self, length: usize, frame: &[u8]) -> LinkError {
        LinkError::TooLong { interface: self.device.name.clone(), length, limit: self.limit(frame) }
    }

    fn bad_frame(&self) -> LinkError {
        LinkError::BadFrame { interface: self.device.name.clone() }
    }
}
