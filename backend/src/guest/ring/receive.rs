//! Putting frames into a receive ring: the guest gets.
//!
//! Nothing written is visible before `publish`, so `rewind` can take back what turned out not to fit.

use vswitch::frame::offload::NetHeader;

use super::RingError;
use super::ground::{DESC_F_WRITE, Desc, Ground, prefetch, prefetch_write};
use super::split::SplitRing;
use crate::guest::burst::NET_HEADER;
use crate::guest::memory::Span;

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

/// What a delivery does with a receive ring of either layout, while it has the ring's lock.
pub trait Receive {
    /// A point to return to when only a part of something could be written.
    type Mark: Copy;

    /// Whether the ring runs.
    fn is_live(&self) -> bool;
    /// What vanished behind the ring, if something did.
    fn vanished(&self) -> Option<RingError>;
    /// Whether a frame's waiting time ran out on this ring and nothing came since.
    fn is_stalled(&self) -> bool;
    /// Notes that a frame's waiting time ran out.
    fn set_stalled(&mut self);
    /// Remembers where the ring is.
    fn mark(&self) -> Self::Mark;
    /// Takes back everything put since `mark`, which must be newer than the last `publish`.
    fn rewind(&mut self, mark: Self::Mark);
    /// Reads up to `count` buffers ahead and asks the CPU for their memory, so that the puts that follow do not wait for it.
    fn stage(&mut self, count: usize) -> Result<(), RingError>;
    /// Writes one frame: `header` (whose `num_buffers` is 1; it is set here when there are more), the judged `head`, then `rest`,
    /// `len` frame bytes in all.
    fn put(&mut self, header: &NetHeader, head: &[u8], rest: &[Span], len: u32) -> Result<Put, RingError>;
    /// Makes what was put visible and notifies the guest if it wants that.
    fn publish(&mut self);
}

/// Where a split ring was.
#[derive(Clone, Copy)]
pub struct Mark {
    next_avail: u16,
    next_used: u16,
}

impl SplitRing {
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
}

impl Receive for SplitRing {
    type Mark = Mark;

    #[inline]
    fn is_live(&self) -> bool {
        self.live.is_some()
    }

    #[inline]
    fn vanished(&self) -> Option<RingError> {
        self.live.as_ref()?.ground.vanished()
    }

    fn is_stalled(&self) -> bool {
        self.stalled_at == Some(self.avail_seen)
    }

    fn set_stalled(&mut self) {
        self.stalled_at = Some(self.avail_seen);
    }

    fn mark(&self) -> Mark {
        Mark { next_avail: self.next_avail, next_used: self.next_used }
    }

    fn rewind(&mut self, mark: Mark) {
        self.next_avail = mark.next_avail;
        self.next_used = mark.next_used;
    }

    fn stage(&mut self, count: usize) -> Result<(), RingError> {
        let waiting = self.available(count as u16)?;
        let Some(live) = &self.live else { return Ok(()) };
        let header_len = usize::from(self.shape.header_len);
        self.staged.clear();
        self.staged_at = self.next_avail;
        for position in 0..waiting.min(count as u16) {
            let id = live.head(self.next_avail.wrapping_add(position));
            if id >= live.size {
                return Err(RingError::BadIndex(id, live.size));
            }
            live.prefetch_desc(id);
            self.staged.push((id, Span::NONE));
        }
        for (id, span) in &mut self.staged {
            let desc = Desc::read(live.desc, *id);
            if desc.flags == DESC_F_WRITE
                && let Some(ptr) = live.ground.memory.translate(desc.addr, desc.len)
            {
                // The header's line is only looked at if it holds nothing else.
                prefetch(ptr);
                prefetch_write(ptr.wrapping_add(header_len));
                prefetch_write(ptr.wrapping_add(header_len + 64));
                *span = Span { ptr, len: desc.len };
            }
        }
        Ok(())
    }

    #[inline]
    fn put(&mut self, header: &NetHeader, head: &[u8], rest: &[Span], len: u32) -> Result<Put, RingError> {
        let mut ahead = usize::from(self.next_avail.wrapping_sub(self.staged_at));
        if ahead >= self.staged.len() {
            self.stage(1)?;
            ahead = 0;
        }
        let (Some(&(id, span)), Some(live)) = (self.staged.get(ahead), &self.live) else {
            return Ok(Put::Full);
        };
        let header_len = usize::from(self.shape.header_len);
        let total = header_len + len as usize;
        if (span.len as usize) < total {
            return self.put_scattered(header, head, rest, total);
        }
        // SAFETY: the buffer was translated for `span.len >= total` bytes and its memory is kept by `live`.
        unsafe { write_whole(span.ptr, header_len, header, head, rest) };
        live.write_used(self.next_used, id, total as u32);
        live.wrote_frame(span.ptr, total, self.next_used);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Put::Done)
    }

    #[inline]
    fn publish(&mut self) {
        self.show();
    }
}

impl SplitRing {
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
            live.wrote_used(mark.next_used.wrapping_add(buffers), 1);
            buffers += 1;
            room += got;
            if got == 0 || (room < total && !self.shape.mergeable) {
                self.rewind(mark);
                return Ok(Put::TooSmall);
            }
        }
        if let Some(live) = &self.live {
            let header = NetHeader { num_buffers: buffers, ..*header };
            write_scattered(
                &live.ground,
                &self.scratch,
                usize::from(self.shape.header_len),
                &header,
                head,
                rest,
            );
        }
        self.next_avail = mark.next_avail.wrapping_add(buffers);
        self.next_used = mark.next_used.wrapping_add(buffers);
        Ok(Put::Done)
    }
}

/// Writes header and frame to `to`.
///
/// # Safety
///
/// `to` must have room for `header_len` bytes (10 or 12), `head` and `rest` in guest memory that lives on; `head` and `rest` must lie in other
/// memory (the worker's, and another port's mapping).
#[inline]
pub(super) unsafe fn write_whole(
    to: *mut u8,
    header_len: usize,
    header: &NetHeader,
    head: &[u8],
    rest: &[Span],
) {
    let bytes = header.emit();
    // SAFETY: what the caller promises.
    unsafe {
        // A copy of constant length is a few moves; one of variable length is a call. Mostly the buffer holds this very header
        // from its last use: then its line stays in both caches instead of travelling between them.
        if header_len == NET_HEADER {
            let place = to.cast::<[u8; NET_HEADER]>();
            if place.read_unaligned() != bytes {
                place.write_unaligned(bytes);
            }
        } else {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, header_len);
        }
        let mut at = to.add(header_len);
        std::ptr::copy_nonoverlapping(head.as_ptr(), at, head.len());
        at = at.add(head.len());
        for part in rest {
            std::ptr::copy_nonoverlapping(part.ptr, at, part.len as usize);
            at = at.add(part.len as usize);
        }
    }
}

/// Writes header and frame over `spans`, which are of `ground` and have room for them.
pub(super) fn write_scattered(
    ground: &Ground,
    spans: &[Span],
    header_len: usize,
    header: &NetHeader,
    head: &[u8],
    rest: &[Span],
) {
    let bytes = header.emit();
    let mut sink = Sink { spans, at: 0, offset: 0 };
    sink.write(bytes.as_ptr(), header_len);
    sink.write(head.as_ptr(), head.len());
    let mut total = header_len + head.len();
    for span in rest {
        sink.write(span.ptr, span.len as usize);
        total += span.len as usize;
    }
    ground.wrote_spans(spans, total);
}

/// Writes a byte sequence over a list of spans.
struct Sink<'a> {
    spans: &'a [Span],
    at: usize,
    /// Bytes of span `at` that are written.
    offset: usize,
}

impl Sink<'_> {
    fn write(&mut self, mut from: *const u8, mut len: usize) {
        while len > 0 {
            let Some(span) = self.spans.get(self.at) else { return };
            let room = span.len as usize - self.offset;
            let take = len.min(room);
            // SAFETY: `take` bytes from `offset` are within the destination span (translated guest memory) and within the `len` bytes at `from`.
            unsafe {
                std::ptr::copy_nonoverlapping(from, span.ptr.add(self.offset), take);
                from = from.add(take);
            }
            len -= take;
            self.offset += take;
            if take == room {
                self.at += 1;
                self.offset = 0;
            }
        }
    }
}
