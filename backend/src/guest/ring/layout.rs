//! A ring of either layout, split or packed; which one is known when it starts.
//!
//! A worker asks once per burst which one it has before it: everything here is called that often, and [`Ring::kind`] gives a delivery the ring
//! itself.

use std::fs::File;
use std::sync::Arc;

use super::RingError;
use super::ground::{RingPlace, RingShape, Window};
use super::packed::PackedRing;
use super::receive::Receive;
use super::split::SplitRing;
use crate::guest::burst::Burst;
use crate::guest::dirty_log::DirtyLog;
use crate::guest::memory::Memory;

/// A ring as it is laid out in guest memory.
pub enum Kind {
    /// Virtio 1.2 §2.7.
    Split(SplitRing),
    /// Virtio 1.2 §2.8.
    Packed(PackedRing),
}

/// The ring of a queue.
pub struct Ring {
    kind: Kind,
    /// Where a packed ring begins: what the front end said, or where the ring was stopped since.
    base: u16,
}

impl Default for Ring {
    fn default() -> Self {
        Self { kind: Kind::Split(SplitRing::default()), base: FRESH }
    }
}

/// Where a packed ring of a new driver begins: at the first descriptor, with a wrap counter of 1.
const FRESH: u16 = 1 << 15;

/// The same for both layouts.
macro_rules! either {
    ($self:expr, $ring:ident => $what:expr) => {
        match $self {
            Kind::Split($ring) => $what,
            Kind::Packed($ring) => $what,
        }
    };
}

impl Ring {
    /// Starts the ring. A split one continues at the used index found in its memory, a packed one where [`Self::set_base`] says or its memory
    /// knows better.
    pub fn start(
        &mut self,
        memory: Arc<Memory>,
        place: RingPlace,
        shape: RingShape,
    ) -> Result<(), RingError> {
        if shape.packed != matches!(self.kind, Kind::Packed(_)) {
            let (call, log) = either!(&mut self.kind, ring => (ring.call.take(), ring.log.take()));
            self.kind = if shape.packed {
                Kind::Packed(PackedRing::default())
            } else {
                Kind::Split(SplitRing::default())
            };
            self.set_call(call);
            self.set_log(log);
        }
        match &mut self.kind {
            Kind::Split(ring) => ring.start(memory, place, shape),
            Kind::Packed(ring) => ring.start(memory, place, shape, self.base),
        }
    }

    /// Stops the ring and forgets its memory; returns how many frames were lost.
    pub fn stop(&mut self) -> u32 {
        let was_live = self.is_live();
        let lost = either!(&mut self.kind, ring => ring.stop());
        self.keep_base(was_live);
        lost
    }

    /// Stops the ring like [`Self::stop`], but loses no frame: those finished behind one that waits are told to [`Self::resume`].
    pub fn suspend(&mut self) -> Option<Window> {
        let was_live = self.is_live();
        let window = either!(&mut self.kind, ring => ring.suspend());
        self.keep_base(was_live);
        window
    }

    /// Goes on where a ring was suspended; to be called when it has just started, and before it is used.
    pub fn resume(&mut self, window: &Window) {
        either!(&mut self.kind, ring => ring.resume(window));
    }

    /// Where the ring continues (`GET_VRING_BASE`): the available index, or the place in a packed ring with its wrap counter in bit 15.
    pub fn base(&self) -> u16 {
        match &self.kind {
            Kind::Split(ring) => ring.base(),
            Kind::Packed(ring) if self.is_live() => ring.base(),
            Kind::Packed(_) => self.base,
        }
    }

    /// Says where a packed ring that does not run is to begin.
    pub fn set_base(&mut self, base: u16) {
        if !self.is_live() {
            self.base = base;
        }
    }

    /// Forgets where a front end that has gone had its ring.
    pub fn forget_base(&mut self) {
        self.base = FRESH;
    }

    /// Whether the ring runs.
    #[inline]
    pub fn is_live(&self) -> bool {
        either!(&self.kind, ring => ring.is_live())
    }

    /// The ring itself, for a delivery.
    #[inline]
    pub fn kind(&mut self) -> &mut Kind {
        &mut self.kind
    }

    /// Replaces the descriptor by which the guest is notified.
    pub fn set_call(&mut self, call: Option<Arc<File>>) {
        either!(&mut self.kind, ring => ring.call = call);
    }

    /// Replaces the log of writes to guest memory. When this returns, the ring marks the one before no more.
    pub(in crate::guest) fn set_log(&mut self, log: Option<Arc<DirtyLog>>) {
        either!(&mut self.kind, ring => ring.set_log(log));
    }

    /// What vanished behind the ring, if something did.
    #[inline]
    pub fn vanished(&self) -> Option<RingError> {
        either!(&self.kind, ring => ring.vanished())
    }

    /// Asks the guest to kick on its next buffer. Returns whether there are buffers already (then no kick may come).
    pub fn arm(&mut self) -> bool {
        either!(&mut self.kind, ring => ring.arm())
    }

    /// Like `arm` for a receive ring that has too few buffers for a waiting frame: true when buffers came since the last look.
    pub fn arm_for_more(&mut self) -> bool {
        either!(&mut self.kind, ring => ring.arm_for_more())
    }

    /// Whether buffers came to a receive ring since it was last looked at (or it stopped, so that waiting is over).
    pub fn has_more(&self) -> bool {
        either!(&self.kind, ring => ring.has_more())
    }

    /// Tells the guest that kicks are not needed.
    #[inline]
    pub fn disarm(&mut self) {
        either!(&mut self.kind, ring => ring.disarm());
    }

    /// Reads the frames of the window that are not finished yet into `burst`.
    #[inline]
    pub fn take(&mut self, burst: &mut Burst) -> Result<(), RingError> {
        either!(&mut self.kind, ring => ring.take(burst))
    }

    /// Gives those frames of the burst back to the guest whose window slot's bit is set in `finished`.
    #[inline]
    pub fn complete(&mut self, burst: &Burst, finished: u64) {
        either!(&mut self.kind, ring => ring.complete(burst, finished));
    }

    /// Makes completed buffers visible and notifies the guest if it wants that.
    #[inline]
    pub fn publish(&mut self) {
        either!(&mut self.kind, ring => ring.publish());
    }

    fn keep_base(&mut self, was_live: bool) {
        if was_live && let Kind::Packed(ring) = &self.kind {
            self.base = ring.base();
        }
    }
}
