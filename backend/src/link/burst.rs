//! The reusable buffer into which a link receives.
//!
//! One slot per frame, each large enough for a frame that the kernel has joined or not yet segmented (GRO, GSO). The
//! memory is allocated once; pages that only large frames need are not backed until the first of those arrives.
//!
//! Threading: owned by one worker at a time.

use std::collections::VecDeque;

use vswitch::frame::datagrams::{Datagrams, UDP_CHECKSUM};
use vswitch::frame::offload::{F_NEEDS_CSUM, GSO_UDP_L4, NetHeader};

use super::LINK_HEADER;

/// Most frames of one burst: what a sender cut out of 64 KiB for the wire.
pub const BURST: usize = 64;

/// Longest frame, in bytes, that a link moves: 64 KiB of IP and up to two VLAN tags, with room to spare.
pub const MAX_FRAME: usize = 68 * 1024;

/// Bytes of an Ethernet header, the shortest frame there is.
pub(super) const ETHERNET_HEADER: usize = 14;

/// Bytes of a VLAN tag.
pub(super) const VLAN_TAG: usize = 4;

/// Where a frame begins in its slot: behind a TAP's header and room for a tag that the kernel took off.
pub(super) const FRAME_AT: usize = 16;

/// One byte more than a frame may have, so that a frame that does not fit shows itself; and an odd number of cache
/// lines, so that the heads of a burst's frames do not compete for the same sets of the first-level cache.
const SLOT: usize = MAX_FRAME + 5 * 64;

/// Frames that are asked for when few came of late: preparing for more than come costs as much as receiving them.
const FEW: usize = 8;

/// One received frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkFrame {
    /// Its virtio-net header. `num_buffers` is 0; the receiver's ring knows better. `hdr_len` is a hint that may be
    /// too small or too large. An uplink may bring the flag that the checksum was verified (2).
    pub header: [u8; LINK_HEADER],
    /// Where its bytes begin in the burst's buffer; beyond the end of that, in the buffer of datagrams.
    pub offset: u32,
    /// Bytes, from the destination address on, VLAN tags included.
    pub len: u32,
}

/// A burst of received frames and the memory they lie in (5 MiB of addresses).
#[derive(Debug)]
pub struct LinkBurst {
    buffer: Box<[u8]>,
    frames: [LinkFrame; BURST],
    count: usize,
    /// Slots in use; as many as there are frames, and those of messages that were none.
    used: usize,
    /// How many frames are likely to wait.
    expected: usize,
    /// Where datagrams are that came many in one frame, a place for each frame of the burst.
    apart: Box<[u8]>,
    /// What was received and has no room among the frames yet, oldest first.
    waiting: VecDeque<Received>,
}

/// What was received in one slot.
#[derive(Debug)]
struct Received {
    frame: LinkFrame,
    /// It is many datagrams.
    many: Option<Datagrams>,
}

/// Longest datagram that is taken apart from others, in bytes of its frame: more than jumbo frames hold.
const APART: usize = 9728;

impl Default for LinkBurst {
    fn default() -> Self {
        Self::new()
    }
}

impl LinkBurst {
    /// An empty burst.
    pub fn new() -> Self {
        Self {
            buffer: vec![0; BURST * SLOT].into_boxed_slice(),
            frames: [LinkFrame::default(); BURST],
            count: 0,
            used: 0,
            expected: FEW,
            apart: vec![0; BURST * APART].into_boxed_slice(),
            waiting: VecDeque::with_capacity(BURST),
        }
    }

    /// The received frames, oldest first.
    pub fn frames(&self) -> &[LinkFrame] {
        &self.frames[..self.count]
    }

    /// A frame's bytes; empty if `frame` is not one of this burst's.
    pub fn bytes(&self, frame: &LinkFrame) -> &[u8] {
        let (start, len) = (frame.offset as usize, frame.len as usize);
        let bytes = match start.checked_sub(self.buffer.len()) {
            None => self.buffer.get(start..start + len),
            Some(start) => self.apart.get(start..start + len),
        };
        bytes.unwrap_or(&[])
    }

    /// A frame's bytes, to be changed in place; empty if `frame` is not one of this burst's.
    pub fn bytes_mut(&mut self, frame: &LinkFrame) -> &mut [u8] {
        let (start, len) = (frame.offset as usize, frame.len as usize);
        let bytes = match start.checked_sub(self.buffer.len()) {
            None => self.buffer.get_mut(start..start + len),
            Some(start) => self.apart.get_mut(start..start + len),
        };
        bytes.unwrap_or(&mut [])
    }

    /// Forgets the frames. What waits for room among them takes it with the next call of [`LinkBurst::take_in`].
    pub fn clear(&mut self) {
        self.count = 0;
        if self.waiting.is_empty() {
            self.used = 0;
        }
    }

    /// Whether there is no room for another frame.
    pub fn is_full(&self) -> bool {
        self.used == BURST || self.count == BURST
    }

    /// Adds what waits to the frames, as far as there is room. Says whether nothing waits any more.
    pub(crate) fn take_in(&mut self) -> bool {
        while self.count < BURST {
            let Some(received) = self.waiting.front_mut() else { return true };
            let Some(many) = &mut received.many else {
                self.frames[self.count] = received.frame;
                self.count += 1;
                self.waiting.pop_front();
                continue;
            };
            let from = received.frame.offset as usize;
            let frame = &self.buffer[from..from + received.frame.len as usize];
            let place = self.count * APART;
            if let Some(len) = many.next(frame, &mut self.apart[place..place + APART]) {
                let header = NetHeader {
                    flags: F_NEEDS_CSUM,
                    csum_start: many.udp() as u16,
                    csum_offset: UDP_CHECKSUM as u16,
                    ..NetHeader::default()
                };
                let offset = (self.buffer.len() + place) as u32;
                self.frames[self.count] = LinkFrame { header: header.emit(), offset, len: len as u32 };
                self.count += 1;
            } else {
                self.waiting.pop_front();
            }
        }
        self.waiting.is_empty()
    }

    /// The memory of slot `index`: its first [`FRAME_AT`] bytes lie before the frame, [`MAX_FRAME`] and more behind.
    pub(super) fn slot(&mut self, index: usize) -> &mut [u8] {
        &mut self.buffer[index * SLOT..(index + 1) * SLOT]
    }

    /// The next free slots, with their numbers, for a system call that fills as many as are likely to be needed.
    pub(super) fn free(&mut self) -> (usize, impl Iterator<Item = &mut [u8]>) {
        let count = self.expected.min(BURST - self.used);
        (self.used, self.buffer.chunks_exact_mut(SLOT).skip(self.used).take(count))
    }

    /// The number of the next free slot, if there is one.
    pub(super) fn next_free(&self) -> Option<usize> {
        (self.used < BURST).then_some(self.used)
    }

    /// So many of the `offered` free slots were filled; those with a frame are to be pushed.
    pub(super) fn filled(&mut self, count: usize, offered: usize) {
        self.used += count;
        self.expected = if count == offered { BURST.min(2 * offered.max(1)) } else { FEW.max(count) };
    }

    /// Adds the frame of `len` bytes that begins `start` bytes into slot `index`, at most one per slot. What is many datagrams is taken
    /// apart, because nothing behind a link can do with it as it is; false if it cannot be.
    pub(super) fn push(&mut self, index: usize, start: usize, len: usize, header: [u8; LINK_HEADER]) -> bool {
        let frame = LinkFrame { header, offset: (index * SLOT + start) as u32, len: len as u32 };
        let asked = NetHeader::parse(&header);
        let many = if asked.gso_type == GSO_UDP_L4 {
            let many = Datagrams::new(self.bytes(&frame), asked.gso_size);
            let Some(many) = many.filter(|many| many.longest() <= APART) else { return false };
            Some(many)
        } else {
            None
        };
        self.waiting.push_back(Received { frame, many });
        self.take_in();
        true
    }

    /// Frames in the burst.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}
