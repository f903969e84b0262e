//! When a worker rests: which sources are left alone until their descriptor fires, how long it sleeps, and what it sees to once a second.

use std::sync::atomic::Ordering;

use vswitch::Nanos;

use super::deliver::{Blocked, Context, Errand, Patience};
use super::now;
use super::poll::Worker;
use super::source::{Kind, Source};
use crate::spec::PollMode;

impl Worker {
    /// Whether a link's sender is waited for.
    pub(super) fn is_gathering(&self) -> bool {
        let gathers =
            |source: &Source| matches!(&source.kind, Kind::Link { gathering, .. } if gathering.is_on());
        self.active.iter().any(|&slot| self.sources[slot].as_deref().is_some_and(gathers))
    }

    /// Puts sources to rest that had nothing to do for long enough.
    pub(super) fn settle(&mut self, now: Nanos) {
        let poll = match self.shared.poll {
            PollMode::Micros(micros) => u64::from(micros) * 1000,
            PollMode::Busy => return,
        };
        let me = 1u64 << (self.handle.id % 64);
        let sources = &mut self.sources;
        self.active.retain(|&slot| {
            let Some(source) = sources[slot].as_mut() else { return false };
            if now.saturating_sub(source.last_work) < poll {
                return true;
            }
            // A link has nothing to wait for; it is polled until the frame's time is up.
            let comes = |blocked: &Blocked| {
                blocked.link
                    || blocked.queues.iter().any(|(_, queue)| {
                        queue.waiters.fetch_or(me, Ordering::SeqCst);
                        queue.lock().arm_for_more()
                    })
            };
            if source.releasing && (source.held.is_empty() || comes(&source.held)) {
                return true;
            }
            source.active = if source.blocked_since.is_some() {
                comes(&source.blocked)
            } else {
                match &source.kind {
                    Kind::Guest { .. } => source.tx().is_some_and(|queue| queue.lock().arm()),
                    Kind::Link { pending, .. } => *pending != 0,
                }
            };
            source.active
        });
    }

    /// Sleeps until a descriptor fires, a waiting frame's time is up, or there is housekeeping to do.
    pub(super) fn sleep(&mut self) {
        self.handle.sleeping.store(true, Ordering::SeqCst);
        if self.handle.attention.load(Ordering::SeqCst) || self.handle.stop.load(Ordering::SeqCst) {
            self.handle.sleeping.store(false, Ordering::SeqCst);
            return;
        }
        let wait = u64::from(self.view.snapshot.config().rx_wait_us) * 1000;
        let deadline = self
            .sources
            .iter()
            .flatten()
            .filter_map(|s| s.blocked_since.map(|since| since + wait))
            .fold(self.next_housekeeping, Nanos::min);
        let left = deadline.saturating_sub(now()).div_ceil(1_000_000).min(1000) as i32;
        self.handle.counters.sleeps.add(1);
        if self.doze(left) {
            self.handle.counters.wakeups.add(1);
        }
        self.handle.sleeping.store(false, Ordering::SeqCst);
        let late: Vec<usize> = {
            let now = now();
            let due = |s: &Source| s.blocked_since.is_some_and(|since| since + wait <= now);
            (0..self.sources.len()).filter(|&i| self.sources[i].as_ref().is_some_and(|s| due(s))).collect()
        };
        for slot in late {
            self.activate(slot);
        }
    }

    /// Waits for descriptors for so many milliseconds (0: only looks) and wakes their sources; returns whether any fired.
    pub(super) fn doze(&mut self, milliseconds: i32) -> bool {
        let mut ready = std::mem::take(&mut self.ready);
        let woken = self.sleeper.sleep(milliseconds, &mut ready);
        for &token in &ready {
            self.wake_source(token);
        }
        self.ready = ready;
        woken
    }

    fn wake_source(&mut self, token: u32) {
        let (slot, which) = ((token / 2) as usize, token % 2);
        let Some(source) = self.sources.get(slot).and_then(Option::as_ref) else { return };
        if let Kind::Guest { port, pair, .. } = &source.kind
            && which == 0
        {
            // Buffers came: tell every worker that holds frames for this ring.
            let queue = &port.queues[2 * pair];
            queue.lock().disarm();
            let waiters = queue.waiters.swap(0, Ordering::SeqCst);
            for handle in self.shared.handles() {
                if waiters >> (handle.id % 64) & 1 != 0 {
                    if handle.id == self.handle.id {
                        handle.unblocked.store(true, Ordering::SeqCst);
                        handle.attention.store(true, Ordering::SeqCst);
                    } else {
                        handle.unblock();
                    }
                }
            }
        } else {
            if let Kind::Link { port, .. } = &source.kind {
                port.link.woken();
            }
            self.activate(slot);
        }
    }

    pub(super) fn keep_house(&mut self, now: Nanos) {
        if self.handle.id == 0 {
            self.shared.state.age(now);
        }
        for slot in 0..self.sources.len() {
            let Some(source) = self.sources[slot].as_mut() else { continue };
            if let Some(port) = source.keeper()
                && let Some((lost, reason)) = port.expire_held(now)
                && !lost.is_empty()
            {
                let (view, shared, counters) = (&*self.view, &*self.shared, &self.handle.counters);
                let (from, patience, errand) = (port.spec.id, Patience::Expired, Errand::Held);
                let context = Context { view, shared, counters, now, from, patience, errand };
                self.delivery.given_up(&context, &mut self.burst, &lost, reason);
            }
            let Kind::Link { port, was_up, .. } = &mut source.kind else { continue };
            let up = port.link.is_up();
            if !up && port.link.is_gone() {
                port.stop(&self.shared);
            }
            if up && !*was_up {
                *was_up = true;
                self.activate(slot);
            } else {
                *was_up = up;
            }
        }
    }
}
