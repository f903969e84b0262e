//! The split virtqueue (virtio 1.2 §2.7), device side, in bursts.
//!
//! Invariants: while `live` is set, the three ring pointers lie inside `memory` for `size` entries, aligned as the specification
//! asks; every index taken from the guest is checked against `size` and every buffer against `memory` on a local copy of its
//! descriptor, which is read exactly once. Completed buffers become visible to the guest only in `publish`.
//!
//! Frames of a transmit ring may finish out of order, within a window of 64. The guest may then use the finished ones' slots of the
//! available ring again while an earlier frame still waits, so the window's heads are remembered here and never read twice.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use vswitch::HEAD_LEN;
use vswitch::frame::offload::NetHeader;
use vswitch::trace::DropReason;

use super::{MAX_RING_SIZE, RingError, signal};
use crate::guest::burst::{BURST, Burst, NET_HEADER};
use crate::guest::memory::{Memory, Span};

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;
const DESC_F_INDIRECT: u16 = 4;
const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;
const DESC_SIZE: u64 = 16;

/// A descriptor, read once from guest memory.
#[derive(Clone, Copy)]
struct Desc {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// What the front end negotiated for a ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingShape {
    /// `VIRTIO_RING_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_RING_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// `VIRTIO_NET_F_MRG_RXBUF`.
    pub mergeable: bool,
    /// Bytes of the virtio-net header: 12, or 10 for a legacy driver without mergeable buffers.
    pub header_len: u8,
}

/// Where a ring is and where it continues.
#[derive(Clone, Copy, Debug)]
pub struct RingPlace {
    /// Number of descriptors.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
}

struct Live {
    memory: Arc<Memory>,
    desc: *const u8,
    avail: *const u8,
    used: *mut u8,
    size: u16,
}

// SAFETY: the pointers point into `memory`, which travels with them.
unsafe impl Send for Live {}

impl Live {
    #[inline]
    fn avail_word(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: callers pass offsets inside the available ring (checked when the ring started), which is 2-aligned; an atomic may
        // be shared with the guest.
        unsafe { AtomicU16::from_ptr(self.avail.add(offset).cast_mut().cast()) }
    }

    #[inline]
    fn used_word(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as `avail_word`; the used ring is 4-aligned.
        unsafe { AtomicU16::from_ptr(self.used.add(offset).cast()) }
    }

    #[inline]
    fn avail_index(&self) -> u16 {
        self.avail_word(2).load(Ordering::Acquire)
    }

    /// The head at ring position `position`.
    #[inline]
    fn head(&self, position: u16) -> u16 {
        let slot = usize::from(position & (self.size - 1));
        self.avail_word(4 + 2 * slot).load(Ordering::Relaxed)
    }

    /// Reads descriptor `index` of a table at `table` that has more than `index` entries.
    #[inline]
    fn read_desc(table: *const u8, index: u16) -> Desc {
        // SAFETY: the caller checked `index` against the table, whose 16-byte entries are inside guest memory; read_unaligned of
        // plain integers accepts whatever the guest stores meanwhile, and each word is used from this copy only.
        let (addr, word) = unsafe {
            let entry = table.add(usize::from(index) * DESC_SIZE as usize).cast::<u64>();
            (entry.read_unaligned(), entry.add(1).read_unaligned())
        };
        Desc { addr, len: word as u32, flags: (word >> 32) as u16, next: (word >> 48) as u16 }
    }

    /// Writes used element `position`.
    #[inline]
    fn write_used(&self, position: u16, id: u16, len: u32) {
        let slot = usize::from(position & (self.size - 1));
        // SAFETY: the element lies inside the used ring (checked when the ring started).
        unsafe {
            self.used.add(4 + 8 * slot).cast::<u64>().write_unaligned(u64::from(id) | u64::from(len) << 32);
        }
    }

    /// Walks the chain that starts at `head` and pushes its buffers to `spans`. Every buffer must be device-writable exactly if
    /// `write` is set. Returns the sum of the lengths.
    fn walk(&self, head: u16, write: bool, indirect: bool, spans: &mut Vec<Span>) -> Result<u64, RingError> {
        let (mut table, mut entries) = (self.desc, self.size);
        let (mut index, mut left, mut total, mut nested) = (head, self.size, 0u64, false);
        loop {
            if index >= entries {
                return Err(RingError::BadIndex(index, entries));
            }
            if left == 0 {
                return Err(RingError::ChainTooLong(self.size));
            }
            left -= 1;
            let desc = Self::read_desc(table, index);
            if desc.flags & DESC_F_INDIRECT != 0 {
                let count = u64::from(desc.len) / DESC_SIZE;
                let fits = indirect
                    && !nested
                    && desc.flags & DESC_F_NEXT == 0
                    && u64::from(desc.len) % DESC_SIZE == 0
                    && (1..=u64::from(MAX_RING_SIZE)).contains(&count);
                let place = if fits { self.memory.translate(desc.addr, desc.len) } else { None };
                table = place.ok_or(RingError::BadAddress(desc.addr, desc.len))?;
                (entries, index, nested, left) = (count as u16, 0, true, count as u16);
                continue;
            }
            if (desc.flags & DESC_F_WRITE != 0) != write {
                return Err(RingError::ReadOnly(index));
            }
            let (mut addr, mut len) = (desc.addr, desc.len);
            while len > 0 {
                let span = self.memory.translate_part(addr, len).ok_or(RingError::BadAddress(addr, len))?;
                if spans.len() == spans.capacity() {
                    return Err(RingError::ChainTooLong(self.size));
                }
                spans.push(span);
                total += u64::from(span.len);
                len -= span.len;
                addr = addr.wrapping_add(u64::from(span.len));
            }
            if desc.flags & DESC_F_NEXT == 0 {
                return Ok(total);
            }
            index = desc.next;
        }
    }
}

/// What became of a frame offered to a receive ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Written; the guest sees it after `publish`.
    Done,
    /// No buffers (or not enough of them) are there now.
    Full,
    /// The guest's buffers cannot hold the frame at all.
    TooSmall,
}

/// A point to return to when only a part of something could be written.
#[derive(Clone, Copy)]
pub struct Mark {
    next_avail: u16,
    next_used: u16,
}

/// One split ring.
pub struct SplitRing {
    live: Option<Live>,
    shape: RingShape,
    next_avail: u16,
    next_used: u16,
    /// Available index as last read.
    avail_seen: u16,
    /// Used index as last published.
    published: u16,
    /// Bit i: the frame at `next_avail + i` of this transmit ring is already finished.
    done: u64,
    /// Heads of this transmit ring's frames from `next_avail` to before `heads_end`, by ring position modulo the window.
    heads: [u16; BURST],
    heads_end: u16,
    /// Available index at which this receive ring let a frame's waiting time run out; until it moves, frames for it are
    /// dropped at once.
    stalled_at: Option<u16>,
    call: Option<Arc<File>>,
    scratch: Vec<Span>,
}

impl Default for SplitRing {
    fn default() -> Self {
        Self {
            live: None,
            shape: RingShape::default(),
            next_avail: 0,
            next_used: 0,
            avail_seen: 0,
            published: 0,
            done: 0,
            heads: [0; BURST],
            heads_end: 0,
            stalled_at: None,
            call: None,
            scratch: Vec::new(),
        }
    }
}

// === control ===

impl SplitRing {
    /// Starts the ring. It continues at the used index found in memory: everything taken before was finished in order, so
    /// this is right for a fresh driver, a reconnecting front end and one that lost the index.
    pub fn start(
        &mut self,
        memory: Arc<Memory>,
        place: RingPlace,
        shape: RingShape,
    ) -> Result<(), RingError> {
        self.live = None;
        let size = place.size;
        if !size.is_power_of_two() || size > MAX_RING_SIZE {
            return Err(RingError::BadSize(size));
        }
        let table = |what, addr: u64, align: u64, len: u32| {
            if addr % align != 0 {
                return Err(RingError::BadRing(what, addr));
            }
            // A region may begin at any guest address, so what is aligned there need not be aligned here.
            let host = memory.translate(addr, len).filter(|host| (*host as u64).is_multiple_of(align));
            host.ok_or(RingError::BadRing(what, addr))
        };
        let entries = u32::from(size);
        let desc = table("descriptor table", place.desc, 16, 16 * entries)?;
        let avail = table("available ring", place.avail, 2, 6 + 2 * entries)?;
        let used = table("used ring", place.used, 4, 6 + 8 * entries)?;
        let live = Live { desc, avail, used, size, memory };
        let index = live.used_word(2).load(Ordering::Acquire);
        self.next_avail = index;
        self.next_used = index;
        self.published = index;
        self.avail_seen = index;
        self.done = 0;
        self.heads_end = index;
        self.stalled_at = None;
        self.shape = shape;
        // Emptied first, because its capacity is the bound on a chain's pieces and must not grow with every start.
        self.scratch.clear();
        self.scratch.reserve(4 * usize::from(MAX_RING_SIZE));
        self.live = Some(live);
        self.disarm();
        Ok(())
    }

    /// Stops the ring and forgets its memory. Unfinished frames inside the window of a transmit ring are finished (as lost), so that
    /// the used index tells where to continue, and the guest is told if it waits for that; returns how many were lost.
    pub fn stop(&mut self) -> u32 {
        let mut lost = 0;
        if let Some(live) = &self.live {
            while self.done != 0 {
                if self.done & 1 == 0 {
                    let head = self.heads[usize::from(self.next_avail) % BURST];
                    live.write_used(self.next_used, head, 0);
                    self.next_used = self.next_used.wrapping_add(1);
                    lost += 1;
                }
                self.done >>= 1;
                self.next_avail = self.next_avail.wrapping_add(1);
            }
        }
        self.publish();
        self.live = None;
        lost
    }

    /// Whether the ring runs.
    #[inline]
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Where the ring continues (`GET_VRING_BASE`).
    pub fn base(&self) -> u16 {
        self.next_avail
    }

    /// Bytes of the virtio-net header on this ring.
    pub fn header_len(&self) -> usize {
        usize::from(self.shape.header_len)
    }

    /// Replaces the descriptor by which the guest is notified.
    pub fn set_call(&mut self, call: Option<Arc<File>>) {
        self.call = call;
    }

    /// Whether the memory behind the ring vanished.
    #[inline]
    pub fn vanished(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.memory.vanished())
    }

    /// Asks the guest to kick on its next buffer. Returns whether there are buffers already (then no kick may come).
    pub fn arm(&mut self) -> bool {
        let Some(live) = &self.live else { return false };
        let seen = live.avail_index();
        if self.shape.event_idx {
            live.used_word(4 + 8 * usize::from(live.size)).store(seen, Ordering::Relaxed);
        } else {
            live.used_word(0).store(0, Ordering::Relaxed);
        }
        // The guest must see the request before we look again (virtio 1.2 §2.7.10).
        fence(Ordering::SeqCst);
        let now = live.avail_index();
        now != seen || now != self.next_avail
    }

    /// Like `arm` for a receive ring that has too few buffers for a waiting frame: true when buffers came since the last look.
    pub fn arm_for_more(&mut self) -> bool {
        let seen = self.avail_seen;
        self.arm();
        self.live.as_ref().is_some_and(|live| live.avail_index() != seen)
    }

    /// Whether buffers came to a receive ring since it was last looked at (or it stopped, so that waiting is over).
    pub fn has_more(&self) -> bool {
        self.live.as_ref().is_none_or(|live| live.avail_index() != self.avail_seen)
    }

    /// Tells the guest that kicks are not needed. With `EVENT_IDX` a stale event index does that by itself.
    #[inline]
    pub fn disarm(&mut self) {
        if let Some(live) = &self.live {
            let flags = if self.shape.event_idx { 0 } else { USED_F_NO_NOTIFY };
            if live.used_word(0).load(Ordering::Relaxed) != flags {
                live.used_word(0).store(flags, Ordering::Relaxed);
            }
        }
    }

    /// Makes completed buffers visible and notifies the guest if it wants that: one store and at most one notification.
    #[inline]
    pub fn publish(&mut self) {
        let Some(live) = &self.live else { return };
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return;
        }
        live.used_word(2).store(new, Ordering::Release);
        self.published = new;
        // The index must be visible before we read whether to notify (virtio 1.2 §2.7.7).
        fence(Ordering::SeqCst);
        let wanted = if self.shape.event_idx {
            let event = live.avail_word(4 + 2 * usize::from(live.size)).load(Ordering::Relaxed);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            live.avail_word(0).load(Ordering::Relaxed) & AVAIL_F_NO_INTERRUPT == 0
        };
        if wanted && let Some(call) = &self.call {
            signal(call);
        }
    }
}

// === transmit: the guest sends ===

impl SplitRing {
    /// Reads the frames of the window that are not finished yet into `burst`. Each descriptor is read once.
    pub fn take(&mut self, burst: &mut Burst) -> Result<(), RingError> {
        let Some(live) = &self.live else { return Ok(()) };
        let avail = live.avail_index();
        let waiting = avail.wrapping_sub(self.next_avail);
        if waiting == 0 {
            return Ok(());
        }
        // Finished frames of the window are the guest's again, so what it may announce counts from the used index.
        let outstanding = avail.wrapping_sub(self.next_used);
        if outstanding > live.size {
            return Err(RingError::AvailableJump(outstanding, live.size));
        }
        self.avail_seen = avail;
        let window = usize::from(waiting).min(BURST);
        let header_len = usize::from(self.shape.header_len);

        let mut heads = [(0u8, 0u16); BURST];
        let mut count = 0;
        for slot in 0..window {
            let position = self.next_avail.wrapping_add(slot as u16);
            let place = usize::from(position) % BURST;
            if position == self.heads_end {
                let head = live.head(position);
                if head >= live.size {
                    return Err(RingError::BadIndex(head, live.size));
                }
                self.heads[place] = head;
                self.heads_end = position.wrapping_add(1);
            }
            if self.done >> slot & 1 == 0 {
                heads[count] = (slot as u8, self.heads[place]);
                count += 1;
            }
        }

        let mut whole = [Span { ptr: std::ptr::null_mut(), len: 0 }; BURST];
        for (index, &(slot, head)) in heads[..count].iter().enumerate() {
            let room = burst.span_room();
            let frame = &mut burst.frames[index];
            (frame.slot, frame.id, frame.fault, frame.rest) =
                (slot, head, None, (burst.spans.len() as u16, 0));
            let desc = Live::read_desc(live.desc, head);
            if desc.flags == 0
                && let Some(ptr) = live.memory.translate(desc.addr, desc.len)
            {
                prefetch(ptr);
                prefetch(ptr.wrapping_add(64));
                whole[index] = Span { ptr, len: desc.len };
                frame.len = desc.len;
                continue;
            }
            self.scratch.clear();
            match live.walk(head, false, self.shape.indirect, &mut self.scratch) {
                Ok(total) if total <= MAX_CHAIN_BYTES => {
                    if room < self.scratch.len() + BURST {
                        // The rest of the window comes with the next burst. (Every frame may still need one span for its rest.)
                        count = index;
                        break;
                    }
                    frame.len = total as u32;
                    frame.rest.1 = self.scratch.len() as u16;
                    burst.spans.extend_from_slice(&self.scratch);
                }
                Ok(_) => (frame.len, frame.fault) = (0, Some(DropReason::FrameTooLong)),
                Err(_) => (frame.len, frame.fault) = (0, Some(DropReason::MalformedDescriptor)),
            }
        }

        burst.count = count;
        for index in 0..count {
            let frame = &mut burst.frames[index];
            if frame.fault.is_some() {
                continue;
            }
            if (frame.len as usize) < header_len {
                frame.fault = Some(DropReason::BadHeader);
                frame.len = 0;
                continue;
            }
            frame.len -= header_len as u32;
            let head_len = (frame.len as usize).min(HEAD_LEN);
            frame.head_len = head_len as u16;
            let span = whole[index];
            let mut header = [0u8; NET_HEADER];
            if frame.rest.1 == 0 && !span.ptr.is_null() {
                // SAFETY: the span was translated for `len >= header_len + head_len` bytes; the destinations are local arrays of
                // at least those sizes (`header_len` is 10 or 12, `head_len` at most HEAD_LEN).
                unsafe {
                    std::ptr::copy_nonoverlapping(span.ptr, header.as_mut_ptr(), header_len);
                    std::ptr::copy_nonoverlapping(
                        span.ptr.add(header_len),
                        frame.head.as_mut_ptr(),
                        head_len,
                    );
                }
                if frame.len as usize > HEAD_LEN {
                    let taken = header_len + head_len;
                    // SAFETY: `taken` is less than the span's length here.
                    let ptr = unsafe { span.ptr.add(taken) };
                    frame.rest = (burst.spans.len() as u16, 1);
                    burst.spans.push(Span { ptr, len: span.len - taken as u32 });
                }
            } else {
                let (first, spans) = (usize::from(frame.rest.0), usize::from(frame.rest.1));
                let all = &mut burst.spans[first..first + spans];
                let skipped =
                    gather(all, &mut header[..header_len]) + gather(all, &mut frame.head[..head_len]);
                debug_assert_eq!(skipped, header_len + head_len);
                let used = all.iter().take_while(|s| s.len == 0).count();
                frame.rest = ((first + used) as u16, (spans - used) as u16);
            }
            frame.header = NetHeader::parse(&header);
        }
        Ok(())
    }

    /// Gives those frames of the burst back to the guest whose window slot's bit is set in `finished`.
    pub fn complete(&mut self, burst: &Burst, finished: u64) {
        let Some(live) = &self.live else { return };
        for frame in &burst.frames[..burst.count] {
            if finished >> frame.slot & 1 != 0 {
                live.write_used(self.next_used, frame.id, 0);
                self.next_used = self.next_used.wrapping_add(1);
                self.done |= 1 << frame.slot;
            }
        }
        let leading = self.done.trailing_ones();
        self.next_avail = self.next_avail.wrapping_add(leading as u16);
        self.done = self.done.checked_shr(leading).unwrap_or(0);
    }
}

/// Longest chain content accepted: a 64 KiB TSO frame with its headers.
const MAX_CHAIN_BYTES: u64 = 65_535 + 18 + 12;

/// Moves bytes from the front of `spans` into `out`, shortening the spans; returns the number of bytes.
fn gather(spans: &mut [Span], out: &mut [u8]) -> usize {
    let mut filled = 0;
    for span in spans {
        let take = (span.len as usize).min(out.len() - filled);
        if take > 0 {
            // SAFETY: `take` is within both the span and `out`.
            unsafe {
                std::ptr::copy_nonoverlapping(span.ptr, out.as_mut_ptr().add(filled), take);
                span.ptr = span.ptr.add(take);
            }
            span.len -= take as u32;
            filled += take;
        }
        if filled == out.len() {
            break;
        }
    }
    filled
}

#[inline]
fn prefetch(ptr: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it never faults.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(ptr.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}

// === receive: the guest gets ===

impl SplitRing {
    /// Remembers where the ring is.
    pub fn mark(&self) -> Mark {
        Mark { next_avail: self.next_avail, next_used: self.next_used }
    }

    /// Takes back everything put since `mark`, which must be newer than the last `publish`.
    pub fn rewind(&mut self, mark: Mark) {
        self.next_avail = mark.next_avail;
        self.next_used = mark.next_used;
    }

    /// Available index as last read; it moves when the guest adds buffers.
    pub fn avail_seen(&self) -> u16 {
        self.avail_seen
    }

    /// Whether a frame's waiting time ran out on this ring and nothing came since.
    pub fn is_stalled(&self) -> bool {
        self.stalled_at == Some(self.avail_seen)
    }

    /// Notes that a frame's waiting time ran out.
    pub fn set_stalled(&mut self) {
        self.stalled_at = Some(self.avail_seen);
    }

    /// Buffers that wait, reading the guest's index only when `wanted` are not known to be there.
    #[inline]
    fn available(&mut self, wanted: u16) -> Result<u16, RingError> {
        let Some(live) = &self.live else { return Ok(0) };
        let known = self.avail_seen.wrapping_sub(self.next_avail);
        if known >= wanted {
            return Ok(known);
        }
        let avail = live.avail_index();
        let waiting = avail.wrapping_sub(self.next_avail);
        if waiting > live.size {
            // Not kept: who comes next must not take it for buffers that are known to be there.
            return Err(RingError::AvailableJump(waiting, live.size));
        }
        self.avail_seen = avail;
        Ok(waiting)
    }

    /// Writes one frame: `header` (whose `num_buffers` is 1; it is set here when there are more), the judged `head`, then `rest`, `len` frame bytes in all.
    #[inline]
    pub fn put(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        rest: &[Span],
        len: u32,
    ) -> Result<Put, RingError> {
        if self.available(1)? == 0 {
            return Ok(Put::Full);
        }
        let Some(live) = &self.live else { return Ok(Put::Full) };
        let header_len = usize::from(self.shape.header_len);
        let total = header_len + len as usize;
        let id = live.head(self.next_avail);
        if id >= live.size {
            return Err(RingError::BadIndex(id, live.size));
        }
        let desc = Live::read_desc(live.desc, id);
        if desc.flags == DESC_F_WRITE
            && desc.len as usize >= total
            && let Some(ptr) = live.memory.translate(desc.addr, desc.len)
        {
            let bytes = header.emit();
            // SAFETY: the buffer was translated for `desc.len >= header_len + len` bytes; `head` and `rest` together are `len`
            // bytes long and lie in other memory (the worker's, and another port's mapping).
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), ptr, header_len);
                let mut at = ptr.add(header_len);
                std::ptr::copy_nonoverlapping(head.as_ptr(), at, head.len());
                at = at.add(head.len());
                for span in rest {
                    std::ptr::copy_nonoverlapping(span.ptr, at, span.len as usize);
                    at = at.add(span.len as usize);
                }
            }
            live.write_used(self.next_used, id, total as u32);
            self.next_avail = self.next_avail.wrapping_add(1);
            self.next_used = self.next_used.wrapping_add(1);
            return Ok(Put::Done);
        }
        self.put_scattered(header, head, rest, total)
    }

    /// The general case: a chain, or several chains with mergeable buffers.
    fn put_scattered(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        rest: &[Span],
        total: usize,
    ) -> Result<Put, RingError> {
        let mark = self.mark();
        self.scratch.clear();
        let (mut room, mut buffers) = (0usize, 0u16);
        while room < total {
            if self.available(buffers + 1)? <= buffers {
                self.rewind(mark);
                let size = self.live.as_ref().map_or(0, |live| live.size);
                // A frame that does not fit the whole ring never will.
                return Ok(if buffers >= size { Put::TooSmall } else { Put::Full });
            }
            let Some(live) = &self.live else { return Ok(Put::Full) };
            let id = live.head(mark.next_avail.wrapping_add(buffers));
            if id >= live.size {
                return Err(RingError::BadIndex(id, live.size));
            }
            let got = live.walk(id, true, self.shape.indirect, &mut self.scratch)?.min(u64::from(u32::MAX))
                as usize;
            live.write_used(mark.next_used.wrapping_add(buffers), id, got.min(total - room) as u32);
            buffers += 1;
            room += got;
            if got == 0 || (room < total && !self.shape.mergeable) {
                self.rewind(mark);
                return Ok(Put::TooSmall);
            }
        }
        let bytes = NetHeader { num_buffers: buffers, ..*header }.emit();
        let mut sink = Sink { spans: &mut self.scratch, at: 0 };
        sink.write(bytes.as_ptr(), usize::from(self.shape.header_len));
        sink.write(head.as_ptr(), head.len());
        for span in rest {
            sink.write(span.ptr, span.len as usize);
        }
        self.next_avail = mark.next_avail.wrapping_add(buffers);
        self.next_used = mark.next_used.wrapping_add(buffers);
        Ok(Put::Done)
    }
}

/// Writes a byte sequence over a list of spans.
struct Sink<'a> {
    spans: &'a mut [Span],
    at: usize,
}

impl Sink<'_> {
    fn write(&mut self, mut from: *const u8, mut len: usize) {
        while len > 0 {
            let Some(span) = self.spans.get_mut(self.at) else { return };
            let take = len.min(span.len as usize);
            // SAFETY: `take` is within the destination span (translated guest memory) and within the `len` bytes at `from`.
            unsafe {
                std::ptr::copy_nonoverlapping(from, span.ptr, take);
                span.ptr = span.ptr.add(take);
                from = from.add(take);
            }
            span.len -= take as u32;
            len -= take;
            if span.len == 0 {
                self.at += 1;
            }
        }
    }
}
