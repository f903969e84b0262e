//! Storm limit: a port may send so many broadcast, multicast and unknown unicast frames in a second.
//!
//! The seconds are those of the caller's clock, not of the port: what was not used is lost with its second, and a new one starts
//! fresh. All queues of a port count together, whichever workers serve them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::port::MAX_PORTS;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, stop};
use crate::{Nanos, PortId};

const SECOND: Nanos = 1_000_000_000;

/// Low bits of a window that count frames; the others are the second, and hold any that [`Nanos`] can tell.
const COUNT_BITS: u32 = 29;

/// Largest limit, in frames per second; a larger one works like this one.
pub const MAX_LIMIT: u32 = (1 << COUNT_BITS) - 1;

/// Drops broadcast and multicast beyond the limit. Unknown unicast is known as such only when it is forwarded.
pub(crate) fn limit(frame: &mut Frame<'_>) -> Step {
    if frame.dst.is_group() && !take(frame) { stop(DropReason::StormLimit) } else { Step::Continue(()) }
}

/// Whether the limit of the frame's port has room for it; it is counted then.
pub(crate) fn take(frame: &mut Frame<'_>) -> bool {
    let limit = frame.port.policy.storm_limit;
    if limit == 0 {
        return true;
    }
    frame.actions.storm = true; // so that the next frame of its flow is counted too
    let ask = if frame.dry { Storms::would_take } else { Storms::take };
    let room = ask(&frame.state.storms, frame.now, frame.port.id, limit);
    frame.single |= !room; // there is room again in the next second
    room
}

/// What every port has sent in the current second. Lock-free; a port's count has a cache line of its own.
#[derive(Debug)]
pub struct Storms {
    /// By port number.
    windows: Box<[Window]>,
}

/// Second and frames counted in it, see [`COUNT_BITS`].
#[derive(Debug, Default)]
#[repr(align(64))]
struct Window(AtomicU64);

impl Storms {
    /// Nothing sent yet.
    pub fn new() -> Self {
        Self { windows: (0..=MAX_PORTS).map(|_| Window::default()).collect() }
    }

    /// Counts a frame of `port` at `now` if fewer than `limit` (frames per second; 0 = no limit) were counted in this second.
    /// Exact over threads: in one second never more than `limit` calls say yes.
    pub fn take(&self, now: Nanos, port: PortId, limit: u32) -> bool {
        if limit == 0 {
            return true;
        }
        let Some(Window(window)) = self.windows.get(port.index()) else { return false };
        // Counts are all there is in a window; nothing else is published with it.
        window.try_update(Ordering::Relaxed, Ordering::Relaxed, |packed| counted(packed, now, limit)).is_ok()
    }

    /// What [`Storms::take`] would say. Changes nothing.
    pub fn would_take(&self, now: Nanos, port: PortId, limit: u32) -> bool {
        let window = self.windows.get(port.index());
        limit == 0 || window.is_some_and(|Window(w)| counted(w.load(Ordering::Relaxed), now, limit).is_some())
    }

    /// Frames of `port` counted in the second of `now`.
    pub fn used(&self, now: Nanos, port: PortId) -> u32 {
        let window = self.windows.get(port.index()).map_or(0, |Window(w)| w.load(Ordering::Relaxed));
        if window >> COUNT_BITS >= now / SECOND { window as u32 & MAX_LIMIT } else { 0 }
    }

    /// Counts so many frames as sent in the second of `now`: the port sent them on another switch.
    pub fn restore(&self, now: Nanos, port: PortId, used: u32) {
        if let Some(Window(window)) = self.windows.get(port.index()) {
            window.store(((now / SECOND) << COUNT_BITS) | u64::from(used.min(MAX_LIMIT)), Ordering::Relaxed);
        }
    }

    /// Forgets what a port sent.
    pub fn remove_port(&self, port: PortId) {
        if let Some(Window(window)) = self.windows.get(port.index()) {
            window.store(0, Ordering::Relaxed);
        }
    }
}

impl Default for Storms {
    fn default() -> Self {
        Self::new()
    }
}

/// A window with one more frame; `None` if it is full.
fn counted(window: u64, now: Nanos, limit: u32) -> Option<u64> {
    let (second, count) = (window >> COUNT_BITS, window as u32 & MAX_LIMIT);
    let current = now / SECOND;
    // A worker whose clock reading is older than another's counts in the newer second, else it would start it again.
    let (second, count) = if second >= current { (second, count) } else { (current, 0) };
    (count < limit.min(MAX_LIMIT)).then(|| second << COUNT_BITS | u64::from(count + 1))
}
