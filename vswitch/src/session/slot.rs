//! The part of a session that workers reach without a lock.
//!
//! Slots never move and are never freed, so a [`Handle`] can always be looked up. A slot's generation is odd while it
//! holds a session and grows by one whenever a session comes or goes, so a handle of an earlier session does not match.
//! The time a session was last seen carries the low bits of its generation: whoever writes it compares both at once,
//! so a worker that was interrupted between its check and its write cannot prolong another session.
//!
//! Everything but the time is written with the table locked; the generation last when a session comes, first when it
//! goes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::track::Track;
use crate::Nanos;

/// Slots that are allocated at a time.
pub(super) const CHUNK: usize = 1024;

/// [`Slot::touch`] writes the time down when it is this much later than the one noted, in milliseconds.
const TICK_MS: u64 = 64;

/// Low bits of the noted time that hold the generation. The other 45 hold any [`Nanos`] in milliseconds.
const TAG_BITS: u32 = 19;
const TAG: u64 = (1 << TAG_BITS) - 1;

/// Names one session for as long as it lives; afterwards it names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Handle {
    slot: u32,
    generation: u32,
}

impl Handle {
    /// Names no session.
    pub const NONE: Self = Self { slot: u32::MAX, generation: 0 };

    /// Whether it names (or named) a session, not the absence of one.
    pub fn is_session(self) -> bool {
        self.slot & Self::ABSENCE == 0
    }

    /// In `slot`: names the absence of sessions rather than one.
    const ABSENCE: u32 = 1 << 31;

    pub(super) fn absence(place: u32, generation: u32) -> Self {
        Self { slot: Self::ABSENCE | place, generation }
    }

    /// Which absence it names, if it does.
    #[inline]
    pub(super) fn absent(self) -> Option<u32> {
        (self.slot & Self::ABSENCE != 0).then_some(self.slot & !Self::ABSENCE)
    }

    pub(super) fn index(self) -> u32 {
        self.slot
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }
}

impl Default for Handle {
    fn default() -> Self {
        Self::NONE
    }
}

const _: () = assert!(size_of::<Handle>() == 8, "it is part of every cached verdict");

/// Time as slots note it.
pub(super) fn millis(now: Nanos) -> u64 {
    now / 1_000_000
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Milliseconds above, the low bits of the generation below.
    seen: AtomicU64,
    /// Milliseconds without a packet after which it is gone.
    timeout: AtomicU64,
    generation: AtomicU32,
    track: AtomicU8,
}

impl Slot {
    /// The hot path: whether the session lives; notes that a packet passed unless that was noted just now.
    #[inline]
    pub(super) fn touch(&self, now: Nanos, handle: Handle) -> bool {
        if self.generation.load(Ordering::Acquire) != handle.generation {
            return false;
        }
        let now = millis(now);
        let word = self.seen.load(Ordering::Relaxed);
        let timeout = self.timeout.load(Ordering::Relaxed);
        let moved = now.saturating_sub(word >> TAG_BITS);
        if (word ^ u64::from(handle.generation)) & TAG != 0 || moved >= timeout {
            return false;
        }
        if moved >= TICK_MS.min(timeout / 8).max(1) {
            // If it fails, another worker has noted a time, or the session went after the check above.
            self.record(word, now);
        }
        true
    }

    /// Replaces what was read by a later time, unless anything happened since.
    fn record(&self, word: u64, now: u64) -> bool {
        let later = now << TAG_BITS | word & TAG;
        self.seen.compare_exchange(word, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Notes that a packet passed, to the millisecond; says whether the session was alive.
    pub(super) fn note(&self, now: Nanos, handle: Handle) -> bool {
        let now = millis(now);
        loop {
            let word = self.seen.load(Ordering::Relaxed);
            let moved = now.saturating_sub(word >> TAG_BITS);
            let gone = (word ^ u64::from(handle.generation)) & TAG != 0
                || moved >= self.timeout.load(Ordering::Relaxed)
                || !self.holds(handle);
            if gone {
                return false;
            }
            // Time only grows, so whoever was faster leaves less to do.
            if moved == 0 || self.record(word, now) {
                return true;
            }
        }
    }

    /// Whether the handle's session is still the one in here, expired or not.
    pub(super) fn holds(&self, handle: Handle) -> bool {
        self.generation.load(Ordering::Acquire) == handle.generation
    }

    /// Handle of the session in here, if there is one.
    pub(super) fn handle(&self, index: u32) -> Option<Handle> {
        let generation = self.generation.load(Ordering::Acquire);
        (generation % 2 == 1).then_some(Handle { slot: index, generation })
    }

    pub(super) fn track(&self) -> Track {
        Track::from_bits(self.track.load(Ordering::Relaxed))
    }

    /// Milliseconds since a packet passed.
    pub(super) fn idle_ms(&self, now: Nanos) -> u64 {
        millis(now).saturating_sub(self.seen.load(Ordering::Relaxed) >> TAG_BITS)
    }

    pub(super) fn timeout_ms(&self) -> u64 {
        self.timeout.load(Ordering::Relaxed)
    }

    pub(super) fn is_expired(&self, now: Nanos) -> bool {
        self.idle_ms(now) >= self.timeout_ms()
    }

    /// Table locked for writing: what is remembered of the connection, and what its rule says.
    pub(super) fn set(&self, track: Track, idle: Nanos) {
        // Rounded up, so that a timeout is never shorter than asked for; never zero, so that it is a session at all.
        let timeout = track.timeout(idle).div_ceil(1_000_000).max(1);
        self.track.store(track.to_bits(), Ordering::Relaxed);
        self.timeout.store(timeout, Ordering::Relaxed);
    }

    /// Table locked for writing: a session comes.
    pub(super) fn fill(&self, index: u32, now: Nanos, track: Track, idle: Nanos) -> Handle {
        let generation = self.generation.load(Ordering::Relaxed) | 1;
        self.set(track, idle);
        self.seen.store(millis(now) << TAG_BITS | u64::from(generation) & TAG, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Release);
        Handle { slot: index, generation }
    }

    /// Table locked for writing: the session goes.
    pub(super) fn vacate(&self) {
        let generation = self.generation.load(Ordering::Relaxed) | 1;
        self.generation.store(generation.wrapping_add(1), Ordering::Release);
    }
}

/// All slots, in chunks that are allocated when first needed.
#[derive(Debug)]
pub(super) struct Slots {
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
}

impl Slots {
    pub(super) fn new(limit: u32) -> Self {
        Self { chunks: (0..limit.div_ceil(CHUNK as u32)).map(|_| OnceLock::new()).collect() }
    }

    /// The slot, if its chunk was allocated.
    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&Slot> {
        let chunk = self.chunks.get(index as usize / CHUNK)?.get()?;
        chunk.get(index as usize % CHUNK)
    }

    /// The slot; `None` if the index is beyond the limit.
    pub(super) fn allocate(&self, index: u32) -> Option<&Slot> {
        let fresh = || (0..CHUNK).map(|_| Slot::default()).collect();
        let chunk = self.chunks.get(index as usize / CHUNK)?.get_or_init(fresh);
        chunk.get(index as usize % CHUNK)
    }

    /// Every slot that was ever needed, and up to a chunk more.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Slot)> {
        let chunks = self.chunks.iter().map_while(OnceLock::get);
        chunks.flat_map(|chunk| chunk.iter()).zip(0..).map(|(slot, index)| (index, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Direction;

    #[test]
    fn s8_a_worker_interrupted_between_check_and_write_does_not_prolong_the_next_session() {
        let track = Track::first(Direction::Out, None).expect("anything but RST");
        let slot = Slot::default();
        let old = slot.fill(7, 0, track, 10_000_000_000);
        let word = slot.seen.load(Ordering::Relaxed);
        slot.vacate();
        assert!(slot.handle(7).is_none());
        let new = slot.fill(7, 0, track, 10_000_000_000);
        assert_ne!(old, new);
        assert!(!slot.record(word, 9_000), "the same time, but not the same session");
        assert_eq!(slot.idle_ms(9_000_000_000), 9_000);
        assert!(slot.record(slot.seen.load(Ordering::Relaxed), 9_000));
    }
}
