//! Taking frames from a transmit ring: the guest sends.
//!
//! The ring's first 64 unfinished frames are its *window*. Frames of the window may be finished in any order (`done` remembers
//! which), so one that must wait does not hold up those behind it; the window moves on when its first frame is finished.

use vswitch::HEAD_LEN;
use vswitch::frame::offload::{NetHeader, Offload};
use vswitch::trace::DropReason;

use super::RingError;
use super::ground::{Desc, prefetch};
use super::split::SplitRing;
use crate::guest::burst::{BURST, Burst, NET_HEADER};
use crate::guest::memory::Span;

/// Longest chain content accepted: a 64 KiB TSO frame with two VLAN tags, and the virtio-net header.
pub(super) const MAX_CHAIN_BYTES: u64 = 65_535 + 18 + NET_HEADER as u64;

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
                live.prefetch_desc(head);
                self.heads[place] = head;
                self.heads_end = position.wrapping_add(1);
            }
            if self.done >> slot & 1 == 0 {
                heads[count] = (slot as u8, self.heads[place]);
                count += 1;
            }
        }

        let mut whole = [Span::NONE; BURST];
        for (index, &(slot, head)) in heads[..count].iter().enumerate() {
            let room = burst.span_room();
            let frame = &mut burst.frames[index];
            (frame.slot, frame.id, frame.fault, frame.head_len) = (slot, head, None, 0);
            (frame.rest, frame.offload) = ((burst.spans.len() as u16, 0), Offload::None);
            let desc = Desc::read(live.desc, head);
            if desc.flags == 0
                && let Some(ptr) = live.ground.memory.translate(desc.addr, desc.len)
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
        read_heads(burst, &whole, header_len);
        Ok(())
    }

    /// Gives those frames of the burst back to the guest whose window slot's bit is set in `finished`.
    pub fn complete(&mut self, burst: &Burst, finished: u64) {
        let Some(live) = &self.live else { return };
        let first = self.next_used;
        for frame in &burst.frames[..burst.count] {
            if finished >> frame.slot & 1 != 0 {
                self.done |= 1 << frame.slot;
                if !self.shape.in_order {
                    live.write_used(self.next_used, frame.id, 0);
                    self.next_used = self.next_used.wrapping_add(1);
                }
            }
        }
        let leading = self.done.trailing_ones();
        if self.shape.in_order {
            for ahead in 0..leading as u16 {
                let head = self.heads[usize::from(self.next_avail.wrapping_add(ahead)) % BURST];
                live.write_used(self.next_used, head, 0);
                self.next_used = self.next_used.wrapping_add(1);
            }
        }
        live.wrote_used(first, self.next_used.wrapping_sub(first));
        self.next_avail = self.next_avail.wrapping_add(leading as u16);
        self.done = self.done.checked_shr(leading).unwrap_or(0);
    }
}

/// Copies header and head of each frame of `burst` to where they are judged. A frame's content is the buffer in `whole`, or, where that is
/// nothing, the spans of its rest.
#[inline]
pub(super) fn read_heads(burst: &mut Burst, whole: &[Span; BURST], header_len: usize) {
    for (frame, &span) in burst.frames[..burst.count].iter_mut().zip(whole) {
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
        let mut header = [0u8; NET_HEADER];
        if frame.rest.1 == 0 && !span.ptr.is_null() {
            // SAFETY: the span was translated for `len >= header_len + head_len` bytes; the destinations are local arrays of
            // at least those sizes (`header_len` is 10 or 12, `head_len` at most HEAD_LEN).
            unsafe {
                // A copy of constant length is a few moves; one of variable length is a call.
                if header_len == NET_HEADER {
                    header = span.ptr.cast::<[u8; NET_HEADER]>().read_unaligned();
                } else {
                    std::ptr::copy_nonoverlapping(span.ptr, header.as_mut_ptr(), header_len);
                }
                std::ptr::copy_nonoverlapping(span.ptr.add(header_len), frame.head.as_mut_ptr(), head_len);
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
            let skipped = gather(all, &mut header[..header_len]) + gather(all, &mut frame.head[..head_len]);
            debug_assert_eq!(skipped, header_len + head_len);
            let used = all.iter().take_while(|s| s.len == 0).count();
            frame.rest = ((first + used) as u16, (spans - used) as u16);
        }
        frame.header = NetHeader::parse(&header);
    }
}

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
