//! A burst: up to 64 frames taken from one ring or link, with the worker-local copy that policy looks at.
//!
//! The virtio-net header and the first `HEAD_LEN` bytes of each frame are copied here once. Everything is decided on this
//! copy and this copy is what receivers get, so a guest that rewrites a frame while it is judged gains nothing. Only what lies
//! beyond is read from the sender's memory again, once, when it is copied to the receiver.

use vswitch::HEAD_LEN;
use vswitch::frame::ethernet::TAG_LEN;
use vswitch::frame::offload::{NetHeader, Offload};
use vswitch::frame::tag::{Change, Tagging};
use vswitch::trace::DropReason;

use super::memory::Span;

/// Frames in a burst, at most; also the width of a sender's window of unfinished frames.
pub const BURST: usize = 64;
/// Bytes of a `virtio_net_hdr_v1`.
pub const NET_HEADER: usize = 12;
/// Source spans of one burst; a burst ends early when they are used up.
const SPANS: usize = 4096 + BURST;

/// One frame of a burst.
pub struct Frame {
    /// Position relative to the sender's first unfinished frame.
    pub slot: u8,
    /// Bytes of the copy in `head`.
    pub head_len: u16,
    /// The descriptor to give back (rings only).
    pub id: u16,
    /// Frame length in bytes, without the virtio-net header.
    pub len: u32,
    /// Spans of the burst that hold what lies beyond the head: first and count.
    pub rest: (u16, u16),
    /// Set when the ring or link itself found the frame unfit.
    pub fault: Option<DropReason>,
    /// The sender's offload request as sent (not yet checked).
    pub header: NetHeader,
    /// The checked request.
    pub offload: Offload,
    /// The frame's first bytes, with room for a tag that a receiver gets it with.
    pub head: [u8; HEAD_LEN + TAG_LEN],
}

/// A frame's beginning before [`Frame::retag`] changed it.
#[derive(Clone, Copy)]
pub struct Untagged {
    head_len: u16,
    len: u32,
    offload: Offload,
    head: [u8; HEAD_LEN],
}

impl Untagged {
    /// The frame's length in bytes then.
    pub fn frame_len(&self) -> u32 {
        self.len
    }
}

impl Frame {
    /// The worker's copy of the frame's first bytes.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_len)]
    }

    /// Gives the frame the tag that one receiver gets it with. `Some` = it changed; [`Frame::restore`] undoes it.
    pub fn retag(&mut self, tagging: Tagging) -> Option<Untagged> {
        let change = tagging.change(self.head());
        let growth = change.growth();
        if change == Change::None {
            return None;
        }
        let before = self.keep();
        self.head_len = change.apply(&before.head[..usize::from(before.head_len)], &mut self.head)? as u16;
        self.len = self.len.saturating_add_signed(growth.into());
        self.offload = self.offload.moved(growth);
        Some(before)
    }

    /// What the frame is now, to be given to [`Frame::restore`] when its head was changed.
    pub fn keep(&self) -> Untagged {
        let mut head = [0; HEAD_LEN];
        let length = usize::from(self.head_len).min(HEAD_LEN);
        head[..length].copy_from_slice(&self.head[..length]);
        Untagged { head_len: length as u16, len: self.len, offload: self.offload, head }
    }

    /// The head, to be changed in place.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        &mut self.head[..usize::from(self.head_len)]
    }

    /// Makes the frame what it was before [`Frame::retag`].
    pub fn restore(&mut self, before: &Untagged) {
        (self.head_len, self.len, self.offload) = (before.head_len, before.len, before.offload);
        self.head[..HEAD_LEN].copy_from_slice(&before.head);
    }
}

/// A reusable burst; nothing is allocated after construction.
pub struct Burst {
    /// The frames; only the first `count` are meaningful.
    pub frames: Box<[Frame]>,
    /// Number of frames.
    pub count: usize,
    /// Where the rests of the frames are.
    pub spans: Vec<Span>,
}

impl Default for Burst {
    fn default() -> Self {
        let frame = || Frame {
            slot: 0,
            head_len: 0,
            id: 0,
            len: 0,
            rest: (0, 0),
            fault: None,
            header: NetHeader::default(),
            offload: Offload::None,
            head: [0; HEAD_LEN + TAG_LEN],
        };
        Self { frames: (0..BURST).map(|_| frame()).collect(), count: 0, spans: Vec::with_capacity(SPANS) }
    }
}

impl Burst {
    /// Empties the burst.
    pub fn clear(&mut self) {
        self.count = 0;
        self.spans.clear();
    }

    /// Spans that can still be added.
    #[inline]
    pub fn span_room(&self) -> usize {
        SPANS - self.spans.len()
    }

    /// Takes the first `strip` bytes off frame `index` and leaves `len` bytes of what remains, for a frame that came in a tunnel. The head is filled
    /// up again from what lies beyond it. False, and the frame is not to be used, if it is shorter than that.
    pub fn unwrap(&mut self, index: usize, strip: usize, len: u32) -> bool {
        let Self { frames, spans, .. } = self;
        let frame = &mut frames[index];
        let head_len = usize::from(frame.head_len);
        if strip > head_len || u64::from(len) + strip as u64 > u64::from(frame.len) {
            return false;
        }
        frame.head.copy_within(strip..head_len, 0);
        let mut filled = head_len - strip;
        let wanted = HEAD_LEN.min(len as usize);
        let (mut first, mut count) = frame.rest;
        while filled < wanted && count > 0 {
            let Some(span) = spans.get_mut(usize::from(first)) else { return false };
            let take = (wanted - filled).min(span.len as usize);
            // SAFETY: `take` bytes are within the span, which the worker keeps mapped during the burst, and `filled + take` is within `HEAD_LEN`;
            // the worker's own copy does not overlap what a span names.
            unsafe {
                std::ptr::copy_nonoverlapping(span.ptr, frame.head.as_mut_ptr().add(filled), take);
                // SAFETY: still within the span or one past its end.
                span.ptr = span.ptr.add(take);
            }
            span.len -= take as u32;
            filled += take;
            if span.len == 0 {
                (first, count) = (first + 1, count - 1);
            }
        }
        if filled < wanted {
            return false;
        }
        // Padding behind the inner frame.
        let mut beyond = len as usize - wanted;
        let mut kept = 0;
        for span in spans.iter_mut().skip(usize::from(first)).take(usize::from(count)) {
            if beyond == 0 {
                break;
            }
            span.len = span.len.min(u32::try_from(beyond).unwrap_or(u32::MAX));
            beyond -= span.len as usize;
            kept += 1;
        }
        (frame.head_len, frame.len, frame.rest) = (wanted as u16, len, (first, kept));
        beyond == 0
    }

    /// Copies the whole frame `index` to `out`, replacing its content; `out` is not made larger than its capacity.
    pub fn linearise(&self, index: usize, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(self.frames[index].head());
        for span in self.rest(index) {
            let room = out.capacity() - out.len();
            let take = room.min(span.len as usize);
            // SAFETY: `take` bytes are within the span (memory the worker keeps mapped during the burst) and within the spare capacity
            // of `out`, which other memory cannot overlap.
            unsafe {
                std::ptr::copy_nonoverlapping(span.ptr, out.as_mut_ptr().add(out.len()), take);
                out.set_len(out.len() + take);
            }
        }
    }

    /// Copies the whole frame `index` to `out` as it was `before` [`Frame::retag`] changed it, if that did; returns what was left to the
    /// receiver then.
    pub fn original(&self, index: usize, before: Option<&Untagged>, out: &mut Vec<u8>) -> Offload {
        self.linearise(index, out);
        let frame = &self.frames[index];
        let Some(before) = before else { return frame.offload };
        let head = before.head.iter().take(usize::from(before.head_len)).copied();
        out.splice(..usize::from(frame.head_len), head);
        before.offload
    }

    /// The spans beyond the head of frame `index`.
    #[inline]
    pub fn rest(&self, index: usize) -> &[Span] {
        let (first, count) = self.frames[index].rest;
        &self.spans[usize::from(first)..usize::from(first) + usize::from(count)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A burst of one frame whose rest lies in pieces cut at these places.
    fn burst_of(bytes: &[u8], cuts: &[usize]) -> Burst {
        let mut burst = Burst::default();
        let head = bytes.len().min(HEAD_LEN);
        burst.frames[0].head[..head].copy_from_slice(&bytes[..head]);
        burst.frames[0].head_len = head as u16;
        burst.frames[0].len = bytes.len() as u32;
        let mut cuts: Vec<_> = cuts.iter().map(|cut| head + cut % (bytes.len() - head + 1)).collect();
        cuts.extend([head, bytes.len()]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            let part = &bytes[pair[0]..pair[1]];
            burst.spans.push(Span { ptr: part.as_ptr().cast_mut(), len: part.len() as u32 });
        }
        burst.frames[0].rest = (0, burst.spans.len() as u16);
        burst.count = 1;
        burst
    }

    proptest! {
        #[test]
        fn what_was_in_a_tunnel_is_what_is_left(
            bytes in prop::collection::vec(any::<u8>(), 0..900),
            cuts in prop::collection::vec(any::<usize>(), 0..6),
            strip in 0usize..220,
            len in 0u32..900,
        ) {
            let mut burst = burst_of(&bytes, &cuts);
            let there = burst.unwrap(0, strip, len);
            prop_assert_eq!(there, strip <= bytes.len().min(HEAD_LEN) && strip + len as usize <= bytes.len());
            if there {
                let mut out = Vec::with_capacity(1000);
                burst.linearise(0, &mut out);
                prop_assert_eq!(&out[..], &bytes[strip..strip + len as usize]);
                prop_assert_eq!(burst.frames[0].head().len(), HEAD_LEN.min(len as usize));
                prop_assert_eq!(burst.frames[0].len, len);
            }
        }
    }
}
