//! The split virtqueue (virtio 1.2 §2.7), device side: where it is, when it runs, who is notified. `transmit` takes frames
//! from it and `receive` puts frames into it, in bursts.
//!
//! Invariants: while `live` is set, the three ring pointers lie inside `memory` for `size` entries, aligned as the specification
//! asks; every index taken from the guest is checked against `size` and every buffer against `memory` on a local copy of its
//! descriptor, which is read exactly once. Completed buffers become visible to the guest only in `show`.
//!
//! Frames of a transmit ring may finish out of order, within a window of 64. The guest may then use the finished ones' slots of
//! the available ring again while an earlier frame still waits, so the window's heads are remembered here and never read twice. With
//! `VIRTIO_F_IN_ORDER` (§2.7.9) they are given back in order all the same: what finished early waits for those before it.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use super::ground::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_SIZE, Desc, Ground, RingPlace, RingShape, Window, prefetch,
};
use super::{MAX_RING_SIZE, RingError, signal};
use crate::guest::burst::BURST;
use crate::guest::dirty_log::DirtyLog;
use crate::guest::memory::{Memory, Span};

const AVAIL_F_NO_INTERRUPT: u16 = 1;
const USED_F_NO_NOTIFY: u16 = 1;

pub(super) struct Live {
    pub(super) ground: Ground,
    pub(super) desc: *const u8,
    avail: *const u8,
    used: *mut u8,
    pub(super) size: u16,
}

// SAFETY: the pointers point into the memory of `ground`, which travels with them.
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
    pub(super) fn avail_index(&self) -> u16 {
        self.avail_word(2).load(Ordering::Acquire)
    }

    /// The head at ring position `position`.
    #[inline]
    pub(super) fn head(&self, position: u16) -> u16 {
        let slot = usize::from(position & (self.size - 1));
        self.avail_word(4 + 2 * slot).load(Ordering::Relaxed)
    }

    /// Writes used element `position`; `wrote_used` must follow.
    #[inline]
    pub(super) fn write_used(&self, position: u16, id: u16, len: u32) {
        let slot = usize::from(position & (self.size - 1));
        // SAFETY: the element lies inside the used ring (checked when the ring started).
        unsafe {
            let place = self.used.add(4 + 8 * slot).cast::<u64>();
            let element = u64::from(id) | u64::from(len) << 32;
            // A driver that posts its buffers in the same order each time round finds the same element there again: then its line stays in
            // both caches.
            if place.read_unaligned() != element {
                place.write_unaligned(element);
            }
        }
    }

    /// As [`Ground::wrote`], for `count` used elements from ring position `first`.
    #[inline]
    pub(super) fn wrote_used(&self, first: u16, count: u16) {
        if self.ground.log.is_some() {
            self.ground.mark((0..count).map(|index| self.used_element(first.wrapping_add(index))));
        }
    }

    /// As [`Ground::wrote`], for one plain buffer and the used element at `position`.
    #[inline]
    pub(super) fn wrote_frame(&self, ptr: *const u8, len: usize, position: u16) {
        if self.ground.log.is_some() {
            self.ground.mark([(ptr, len), self.used_element(position)]);
        }
    }

    /// Where used element `position` is, and its length.
    fn used_element(&self, position: u16) -> (*const u8, usize) {
        let slot = usize::from(position & (self.size - 1));
        (self.used.wrapping_add(4 + 8 * slot), 8)
    }

    /// Stores a word of the used ring that is no element.
    #[inline]
    fn store_used_word(&self, offset: usize, value: u16, order: Ordering) {
        self.used_word(offset).store(value, order);
        self.ground.wrote(self.used.wrapping_add(offset), 2);
    }

    /// Asks for descriptor `index`, which is below `size`. A pass that only asks keeps many transfers between cores under way, where a
    /// pass that reads would wait for each few.
    #[inline]
    pub(super) fn prefetch_desc(&self, index: u16) {
        prefetch(self.desc.wrapping_add(usize::from(index) * DESC_SIZE as usize));
    }

    /// Walks the chain that starts at `head` and pushes its buffers to `spans`. Every buffer must be device-writable exactly if
    /// `write` is set. Returns the sum of the lengths.
    pub(super) fn walk(
        &self,
        head: u16,
        write: bool,
        indirect: bool,
        spans: &mut Vec<Span>,
    ) -> Result<u64, RingError> {
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
            let desc = Desc::read(table, index);
            if desc.flags & DESC_F_INDIRECT != 0 {
                (table, entries) = self.ground.table(desc, indirect && !nested)?;
                (index, nested, left) = (0, true, entries);
                continue;
            }
            total += self.ground.push(desc, index, write, spans, self.size)?;
            if desc.flags & DESC_F_NEXT == 0 {
                return Ok(total);
            }
            index = desc.next;
        }
    }
}

/// One split ring.
#[derive(Default)]
pub struct SplitRing {
    pub(super) live: Option<Live>,
    pub(super) shape: RingShape,
    pub(super) next_avail: u16,
    pub(super) next_used: u16,
    /// Available index as last read.
    pub(super) avail_seen: u16,
    /// Used index as last published.
    published: u16,
    /// Bit i: the frame at `next_avail + i` of this transmit ring is already finished.
    pub(super) done: u64,
    /// Heads of this transmit ring's frames from `next_avail` to before `heads_end`, by ring position modulo the window.
    pub(super) heads: Vec<u16>,
    pub(super) heads_end: u16,
    /// Available index at which this receive ring let a frame's waiting time run out; until it moves, frames for it are
    /// dropped at once.
    pub(super) stalled_at: Option<u16>,
    pub(super) call: Option<Arc<File>>,
    pub(super) scratch: Vec<Span>,
    /// Receive buffers read ahead (first at ring position `staged_at`): head and, for a plain buffer, where it is.
    pub(super) staged: Vec<(u16, Span)>,
    pub(super) staged_at: u16,
    /// The log in force, for rings that start meanwhile too.
    pub(super) log: Option<Arc<DirtyLog>>,
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
        let entries = u32::from(size);
        let desc = RingPlace::part(&memory, "descriptor table", place.desc, 16, 16 * entries)?;
        let avail = RingPlace::part(&memory, "available ring", place.avail, 2, 6 + 2 * entries)?;
        let used = RingPlace::part(&memory, "used ring", place.used, 4, 6 + 8 * entries)?;
        let live = Live { ground: Ground { memory, log: self.log.clone() }, desc, avail, used, size };
        let index = live.used_word(2).load(Ordering::Acquire);
        self.next_avail = index;
        self.next_used = index;
        self.published = index;
        self.avail_seen = index;
        self.done = 0;
        self.heads.clear();
        self.heads.resize(BURST, 0);
        self.heads_end = index;
        self.stalled_at = None;
        self.shape = shape;
        self.staged.clear();
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
                let unfinished = self.done & 1 == 0;
                if unfinished || self.shape.in_order {
                    let head = self.heads[usize::from(self.next_avail) % BURST];
                    live.write_used(self.next_used, head, 0);
                    live.wrote_used(self.next_used, 1);
                    self.next_used = self.next_used.wrapping_add(1);
                }
                lost += u32::from(unfinished);
                self.done >>= 1;
                self.next_avail = self.next_avail.wrapping_add(1);
            }
        }
        self.show();
        self.live = None;
        lost
    }

    /// Stops the ring like [`Self::stop`], but loses no frame: those finished behind one that waits are told to [`Self::resume`].
    pub fn suspend(&mut self) -> Option<Window> {
        self.live.as_ref()?;
        // The guest may have written over these heads in its ring: the finished ones are its own again.
        let known = self.heads_end.wrapping_sub(self.next_avail).min(BURST as u16);
        let positions = (0..known).map(|slot| self.next_avail.wrapping_add(slot));
        let heads = positions.filter_map(|at| self.heads.get(usize::from(at) % BURST).copied()).collect();
        let window = Window { base: self.next_avail, done: std::mem::take(&mut self.done), heads };
        self.stop();
        (window.done != 0).then_some(window)
    }

    /// Goes on where a ring was suspended; to be called when it has just started, and before it is used. What does not fit the ring is
    /// left alone.
    pub fn resume(&mut self, window: &Window) {
        let Some(live) = &self.live else { return };
        let given_back = if self.shape.in_order { 0 } else { window.done.count_ones() as u16 };
        let finished = window.base.wrapping_add(given_back);
        let fits = window.heads.len() <= BURST
            && window.done.checked_shr(window.heads.len() as u32).unwrap_or(0) == 0
            && window.heads.iter().all(|head| *head < live.size)
            && finished == self.next_used
            && self.next_avail == self.next_used;
        if !fits {
            return;
        }
        self.next_avail = window.base;
        self.done = window.done;
        self.heads_end = window.base;
        for head in &window.heads {
            self.heads[usize::from(self.heads_end) % BURST] = *head;
            self.heads_end = self.heads_end.wrapping_add(1);
        }
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

    /// Replaces the log of writes to guest memory. When this returns, the ring marks the one before no more.
    pub(in crate::guest) fn set_log(&mut self, log: Option<Arc<DirtyLog>>) {
        if let Some(live) = &mut self.live {
            live.ground.log.clone_from(&log);
        }
        self.log = log;
    }

    /// Asks the guest to kick on its next buffer. Returns whether there are buffers already (then no kick may come).
    pub fn arm(&mut self) -> bool {
        let Some(live) = &self.live else { return false };
        let seen = live.avail_index();
        if self.shape.event_idx {
            live.store_used_word(4 + 8 * usize::from(live.size), seen, Ordering::Relaxed);
        } else {
            live.store_used_word(0, 0, Ordering::Relaxed);
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
                live.store_used_word(0, flags, Ordering::Relaxed);
            }
        }
    }

    /// Makes completed buffers visible and notifies the guest if it wants that: one store and at most one notification.
    #[inline]
    pub(super) fn show(&mut self) {
        let Some(live) = &self.live else { return };
        let (old, new) = (self.published, self.next_used);
        if old == new {
            return;
        }
        live.store_used_word(2, new, Ordering::Release);
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
