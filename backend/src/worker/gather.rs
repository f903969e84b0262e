//! Waiting a moment for the rest of what a sender had cut for a tunnel.
//!
//! A tunnel's packets come one by one, and a worker that is awake takes each as it comes: then there is nothing to join
//! ([`super::join`]), and a guest that gets its stream packet by packet is busy with little else. So while the newest packet of a link is a
//! segment that says there is more behind it, the worker leaves what has come in the link's burst until the sender pauses, within bounds that
//! no conversation notices. Everything else is judged at once, and so is everything when nothing is in a tunnel.

use vswitch::Nanos;
use vswitch::nv::wire;

use crate::link::LinkBurst;

/// A sender that has not sent anything for so long pauses, in nanoseconds.
const PAUSE: Nanos = 25_000;
/// How long a worker with nothing else to do looks away from a sender that is still sending, in nanoseconds: its CPU may be the sender's.
const NAP: std::ffi::c_long = 30_000;
/// Longest wait of any frame, in nanoseconds.
const LONGEST: Nanos = 250_000;

/// The wait of one link.
#[derive(Default)]
pub(super) struct Gathering {
    /// Since when, if it waits.
    since: Option<Nanos>,
    /// When the newest frame came.
    newest: Nanos,
    /// Frames that had come then.
    count: usize,
}

impl Gathering {
    /// Whether more is to be received before what has come is looked at.
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Decides whether to go on waiting. `tunnels` says whether any end here; `received` has what has come.
    pub(super) fn go_on(&mut self, received: &LinkBurst, now: Nanos, tunnels: bool) -> bool {
        let count = received.frames().len();
        let more = || {
            let last = received.frames().last();
            last.is_some_and(|last| last.header[GSO_TYPE] == 0 && wire::continues(received.bytes(last)))
        };
        if tunnels && !received.is_full() { self.waits(count, now, more) } else { self.end() }
    }

    /// The same by the number of frames that have come, and whether behind the newest of them `more` may come.
    fn waits(&mut self, count: usize, now: Nanos, more: impl FnOnce() -> bool) -> bool {
        if count != self.count {
            (self.count, self.newest) = (count, now);
            if !more() {
                return self.end();
            }
        }
        let since = *self.since.get_or_insert(now);
        if now - self.newest >= PAUSE || now - since >= LONGEST {
            return self.end();
        }
        true
    }

    fn end(&mut self) -> bool {
        *self = Self::default();
        false
    }
}

/// Offset in the virtio-net header: whether the frame stands for many already.
const GSO_TYPE: usize = 1;

/// Leaves the CPU to others for a moment, shorter than a frame's way through a guest.
pub(super) fn nap() {
    // Interrupted by a signal or not: what comes next is looking again.
    let _ = rustix::thread::nanosleep(&rustix::thread::Timespec { tv_sec: 0, tv_nsec: NAP });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_waited_for_until_its_sender_pauses_or_says_that_it_is_all() {
        let mut gathering = Gathering::default();
        assert!(gathering.waits(2, 1_000, || true) && gathering.is_on());
        assert!(gathering.waits(2, 1_000 + PAUSE - 1, || unreachable!("nothing new came")));
        assert!(gathering.waits(3, 1_000 + PAUSE, || true));
        assert!(gathering.waits(3, 1_000 + 2 * PAUSE - 1, || unreachable!("nothing new came")));
        assert!(!gathering.waits(3, 1_000 + 2 * PAUSE, || unreachable!("nothing new came")));
        assert!(!gathering.is_on());
        assert!(gathering.waits(1, 500_000, || true));
        assert!(!gathering.waits(2, 500_001, || false) && !gathering.is_on());
    }

    #[test]
    fn what_is_not_a_stream_is_not_waited_for() {
        let mut gathering = Gathering::default();
        assert!(!gathering.waits(1, 1_000, || false) && !gathering.is_on());
    }

    #[test]
    fn no_frame_waits_longer_than_conversations_notice() {
        let mut gathering = Gathering::default();
        let mut now = 1_000;
        let mut count = 1;
        while gathering.waits(count, now, || true) {
            (now, count) = (now + PAUSE / 2, count + 1);
        }
        assert_eq!(now - 1_000, LONGEST.next_multiple_of(PAUSE / 2));
    }
}
