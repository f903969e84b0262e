//! Putting frames into a packed receive ring: the guest gets.
//!
//! Nothing written is visible before `publish`, so `rewind` can take back what turned out not to fit.

use vswitch::frame::offload::NetHeader;

use super::super::ground::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, prefetch, prefetch_write};
use super::super::receive::{Put, Receive, write_scattered, write_whole};
use super::{PackedRing, Place, RingError, Used};
use crate::guest::memory::Span;

/// A receive buffer that was read ahead.
#[derive(Clone, Copy)]
pub(super) struct Staged {
    at: Place,
    id: u16,
    /// Where it is, if it is a plain buffer.
    span: Span,
}

/// Where a packed ring was.
#[derive(Clone, Copy)]
pub struct Mark {
    next: Place,
    gone: u16,
    used: usize,
}

impl Receive for PackedRing {
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
        self.stalled_at == Some(self.seen)
    }

    fn set_stalled(&mut self) {
        self.stalled_at = Some(self.seen);
    }

    fn mark(&self) -> Mark {
        Mark { next: self.next, gone: self.gone, used: self.used.len() }
    }

    fn rewind(&mut self, mark: Mark) {
        (self.next, self.gone) = (mark.next, mark.gone);
        self.used.truncate(mark.used);
        self.staged.clear();
        self.filled = 0;
    }

    fn stage(&mut self, count: usize) -> Result<(), RingError> {
        self.staged.clear();
        self.filled = 0;
        let Some(live) = &self.live else { return Ok(()) };
        let header_len = usize::from(self.shape.header_len);
        let mut at = self.next;
        // What is used and not shown is not the guest's yet, whatever its flags say.
        let there = count.min(usize::from(live.size.saturating_sub(self.gone)));
        for _ in 0..there {
            let Some(desc) = live.head(at) else { break };
            let mut staged = Staged { at, id: desc.next, span: Span::NONE };
            if desc.flags & (DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT) == DESC_F_WRITE
                && let Some(ptr) = live.ground.memory.translate(desc.addr, desc.len)
            {
                // The header's line is only looked at if it holds nothing else.
                prefetch(ptr);
                prefetch_write(ptr.wrapping_add(header_len));
                prefetch_write(ptr.wrapping_add(header_len + 64));
                staged.span = Span { ptr, len: desc.len };
            }
            self.staged.push(staged);
            if staged.span.ptr.is_null() {
                // Where the next one is shows when this one is walked.
                break;
            }
            at = at.plus(1, live.size);
        }
        self.seen = at;
        Ok(())
    }

    #[inline]
    fn put(&mut self, header: &NetHeader, head: &[u8], rest: &[Span], len: u32) -> Result<Put, RingError> {
        if self.filled >= self.staged.len() {
            self.stage(1)?;
        }
        let (Some(&Staged { at, id, span }), Some(live)) = (self.staged.get(self.filled), &self.live) else {
            return Ok(Put::Full);
        };
        let header_len = usize::from(self.shape.header_len);
        let total = header_len + len as usize;
        if (span.len as usize) < total {
            return self.put_scattered(header, head, rest, total);
        }
        // SAFETY: the buffer was translated for `span.len >= total` bytes and its memory is kept by `live`.
        unsafe { write_whole(span.ptr, header_len, header, head, rest) };
        live.ground.wrote(span.ptr, total);
        self.used.push(Used::new(at, id, total as u32));
        self.next = at.plus(1, live.size);
        self.gone += 1;
        self.filled += 1;
        Ok(Put::Done)
    }

    #[inline]
    fn publish(&mut self) {
        self.show();
    }
}

impl PackedRing {
    /// The general case: a chain, or several chains with mergeable buffers.
    fn put_scattered(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        rest: &[Span],
        total: usize,
    ) -> Result<Put, RingError> {
        let mark = self.mark();
        let put = self.gather(mark, total);
        let Ok((Put::Done, buffers)) = put else {
            self.rewind(mark);
            return put.map(|(put, _)| put);
        };
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
        // What was read ahead lies before this now.
        self.staged.clear();
        self.filled = 0;
        self.seen = self.next;
        Ok(Put::Done)
    }

    /// Takes buffers into `scratch` until they have room for `total` bytes; says how many. What is taken and does not do is for the caller to
    /// take back.
    fn gather(&mut self, mark: Mark, total: usize) -> Result<(Put, u16), RingError> {
        let Some(live) = &self.live else { return Ok((Put::Full, 0)) };
        self.scratch.clear();
        let (mut room, mut buffers) = (0usize, 0u16);
        while room < total {
            let left = live.size.saturating_sub(self.gone);
            if left == 0 || live.head(self.next).is_none() {
                self.seen = self.next;
                // A frame that does not fit the whole ring never will.
                return Ok((if left == 0 && mark.gone == 0 { Put::TooSmall } else { Put::Full }, 0));
            }
            let at = self.next;
            let chain = live.chain(at, left, true, self.shape.indirect, &mut self.scratch)?;
            let got = chain.content?.min(u64::from(u32::MAX)) as usize;
            self.used.push(Used::new(at, chain.id, got.min(total - room) as u32));
            self.next = at.plus(chain.slots, live.size);
            self.gone += chain.slots;
            buffers += 1;
            room += got;
            if got == 0 || (room < total && !self.shape.mergeable) {
                return Ok((Put::TooSmall, 0));
            }
        }
        Ok((Put::Done, buffers))
    }
}
