//! Taking frames from a packed transmit ring: the guest sends.
//!
//! The window is that of a split ring: the first 64 unfinished frames may be finished in any order. They are given back in order, though, so a
//! frame that waits keeps its descriptors, and those of the frames behind it, until it is finished.

use vswitch::frame::offload::Offload;
use vswitch::trace::DropReason;

use super::super::ground::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, prefetch};
use super::super::transmit::{MAX_CHAIN_BYTES, read_heads};
use super::{PackedRing, Pending, RingError, Used};
use crate::guest::burst::{BURST, Burst};
use crate::guest::memory::Span;

impl PackedRing {
    /// Reads the frames of the window that are not finished yet into `burst`.
    pub fn take(&mut self, burst: &mut Burst) -> Result<(), RingError> {
        let Some(live) = &self.live else { return Ok(()) };
        let mut whole = [Span::NONE; BURST];
        let mut count = 0;
        for slot in 0..BURST {
            let finished = self.done >> slot & 1 != 0;
            let known = slot < self.known;
            if known && finished {
                continue;
            }
            let mut pending = self.window[(self.first + slot) % BURST];
            let desc = if known {
                live.read(pending.at.index())
            } else {
                if self.waiting >= live.size {
                    break;
                }
                let Some(desc) = live.head(self.seen) else { break };
                pending = Pending { at: self.seen, slots: 1, id: desc.next };
                desc
            };
            let room = burst.span_room();
            let frame = &mut burst.frames[count];
            (frame.slot, frame.fault, frame.head_len) = (slot as u8, None, 0);
            (frame.rest, frame.offload) = ((burst.spans.len() as u16, 0), Offload::None);
            whole[count] = Span::NONE;
            if desc.flags & (DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT) == 0
                && let Some(ptr) = live.ground.memory.translate(desc.addr, desc.len)
            {
                prefetch(ptr);
                prefetch(ptr.wrapping_add(64));
                whole[count] = Span { ptr, len: desc.len };
                frame.len = desc.len;
            } else {
                self.scratch.clear();
                let limit = if known { pending.slots } else { live.size - self.waiting };
                let chain = live.chain(pending.at, limit, false, self.shape.indirect, &mut self.scratch);
                let content = match chain {
                    Ok(chain) if known => chain.content,
                    Ok(chain) => {
                        (pending.slots, pending.id) = (chain.slots, chain.id);
                        chain.content
                    }
                    // It was shorter when it was taken for the first time.
                    Err(error) if known => Err(error),
                    Err(error) => return Err(error),
                };
                match content {
                    Ok(total) if total <= MAX_CHAIN_BYTES => {
                        if room < self.scratch.len() + BURST {
                            // The rest of the window comes with the next burst. (Every frame may still need one span for its rest.)
                            break;
                        }
                        frame.len = total as u32;
                        if !finished {
                            frame.rest.1 = self.scratch.len() as u16;
                            burst.spans.extend_from_slice(&self.scratch);
                        }
                    }
                    Ok(_) => (frame.len, frame.fault) = (0, Some(DropReason::FrameTooLong)),
                    Err(_) => (frame.len, frame.fault) = (0, Some(DropReason::MalformedDescriptor)),
                }
            }
            if !known {
                self.window[(self.first + slot) % BURST] = pending;
                self.known += 1;
                self.waiting += pending.slots;
                self.seen = self.seen.plus(pending.slots, live.size);
            }
            frame.id = pending.id;
            // One that was finished before the ring was handed over is only counted.
            count += usize::from(!finished);
        }
        burst.count = count;
        read_heads(burst, &whole, usize::from(self.shape.header_len));
        Ok(())
    }

    /// Finishes those frames of the burst whose window slot's bit is set in `finished`.
    pub fn complete(&mut self, burst: &Burst, finished: u64) {
        for frame in &burst.frames[..burst.count] {
            self.done |= finished & 1 << frame.slot;
        }
        let leading = self.done.trailing_ones() as usize;
        self.give_back(leading.min(self.known));
    }

    /// Gives the first `count` frames of the window back to the guest.
    pub(super) fn give_back(&mut self, count: usize) {
        let Some(live) = &self.live else { return };
        let mut begin = self.next;
        for ahead in 0..count {
            let frame = self.window[(self.first + ahead) % BURST];
            // One descriptor does for all of a batch that is used in order (virtio 1.2 §2.8.8): where it begins, with the last one's id.
            if !self.shape.in_order {
                begin = frame.at;
            }
            if !self.shape.in_order || ahead + 1 == count {
                self.used.push(Used::new(begin, frame.id, 0));
            }
            self.next = frame.at.plus(frame.slots, live.size);
            self.gone += frame.slots;
            self.waiting -= frame.slots;
        }
        self.first = (self.first + count) % BURST;
        self.known -= count;
        self.done = self.done.checked_shr(count as u32).unwrap_or(0);
    }
}
