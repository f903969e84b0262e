//! The packed virtqueue (virtio 1.2 §2.8), device side: where it is, when it runs, who is notified. `transmit` takes frames from it and `receive`
//! puts frames into it, in bursts.
//!
//! Invariants: while `live` is set, the three ring pointers lie inside its memory, aligned as the specification asks, and every place is below
//! `size`. A descriptor is followed only after its flags said that it is available (acquire), from a copy that is read once. What is used is kept
//! in `used` and shown by `show`, the first descriptor last (release): a driver looks at that one, and finds all or nothing.
//!
//! Everything is given back in the order in which it came, whether or not `VIRTIO_F_IN_ORDER` is negotiated: giving back a later frame would
//! overwrite the descriptor of an earlier one that still waits. So where the device reads is where it writes, and one place says how far it is.
//!
//! Nothing in a packed ring tells where the device is, as the used index of a split one does. The offset in the device's own event
//! suppression structure has no meaning to the driver but with the flag `DESC`, and there the place of the next descriptor is what is to be said
//! anyway. So the place is always kept there: it outlives this process, and front ends that do not know better.

mod receive;
mod transmit;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use super::ground::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_SIZE, Desc, Ground, RingPlace, RingShape, Window};
use super::{MAX_RING_SIZE, RingError, signal};
use crate::guest::burst::{BURST, Burst};
use crate::guest::dirty_log::DirtyLog;
use crate::guest::memory::{Memory, Span};
use receive::Staged;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const WRAP: u16 = 1 << 15;

/// `RING_EVENT_FLAGS_*`.
const EVENT_DISABLE: u16 = 1;
const EVENT_DESC: u16 = 2;
const EVENT_FLAGS: u16 = 3;

/// A descriptor's index, and in bit 15 the wrap counter of the lap: as front ends say it (`SET_VRING_BASE`), and event suppression structures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place(u16);

impl Place {
    /// Where every ring begins.
    const START: Self = Self(WRAP);

    #[inline]
    fn index(self) -> u16 {
        self.0 & !WRAP
    }

    #[inline]
    fn laps(self) -> u16 {
        self.0 & WRAP
    }

    /// `count` descriptors on, which is at most `size`.
    #[inline]
    fn plus(self, count: u16, size: u16) -> Self {
        let index = self.index() + count;
        if index < size { Self(self.laps() | index) } else { Self((self.laps() ^ WRAP) | (index - size)) }
    }

    /// The two flags of a descriptor that is available in this lap.
    #[inline]
    fn available(self) -> u16 {
        if self.laps() == 0 { USED } else { AVAIL }
    }

    /// The two flags of a descriptor that was used in this lap.
    #[inline]
    fn used(self) -> u16 {
        if self.laps() == 0 { 0 } else { AVAIL | USED }
    }
}

struct Live {
    ground: Ground,
    desc: *mut u8,
    /// Event suppression of the driver: when it wants to be notified.
    driver: *const u8,
    /// Event suppression of the device.
    device: *mut u8,
    size: u16,
}

// SAFETY: the pointers point into the memory of `ground`, which travels with them.
unsafe impl Send for Live {}

/// A chain of descriptors that was walked.
struct Chain {
    /// Descriptors of the ring that it takes.
    slots: u16,
    id: u16,
    /// The sum of its buffers' lengths, if they are what they must be.
    content: Result<u64, RingError>,
}

impl Live {
    /// Length, id and flags of descriptor `index`, which is below `size`.
    #[inline]
    fn word(&self, index: u16) -> &AtomicU64 {
        // SAFETY: the second half of a descriptor inside the ring, which is 16-aligned; an atomic may be shared with the guest.
        unsafe { AtomicU64::from_ptr(self.desc.add(usize::from(index) * DESC_SIZE as usize + 8).cast()) }
    }

    #[inline]
    fn flags(&self, index: u16) -> u16 {
        (self.word(index).load(Ordering::Acquire) >> 48) as u16
    }

    #[inline]
    fn read(&self, index: u16) -> Desc {
        let word = self.word(index).load(Ordering::Acquire);
        // SAFETY: the first half of the same descriptor; read_unaligned of a plain integer accepts whatever the guest stores meanwhile.
        let addr =
            unsafe { self.desc.add(usize::from(index) * DESC_SIZE as usize).cast::<u64>().read_unaligned() };
        desc(addr, word)
    }

    /// The descriptor at `at`, if it is available there.
    #[inline]
    fn head(&self, at: Place) -> Option<Desc> {
        let desc = self.read(at.index());
        (desc.flags & (AVAIL | USED) == at.available()).then_some(desc)
    }

    /// Walks the chain that begins at `at` and has at most `room` descriptors, and pushes its buffers to `spans`. Every buffer must be
    /// device-writable exactly if `write` is set. An error means that nobody knows where the chain ends.
    fn chain(
        &self,
        at: Place,
        room: u16,
        write: bool,
        indirect: bool,
        spans: &mut Vec<Span>,
    ) -> Result<Chain, RingError> {
        let (mut slots, mut content) = (0, Ok(0));
        loop {
            if slots == room {
                return Err(RingError::ChainTooLong(self.size));
            }
            let index = at.plus(slots, self.size).index();
            let desc = self.read(index);
            content =
                content.and_then(|total| Ok(total + self.element(desc, index, write, indirect, spans)?));
            slots += 1;
            if desc.flags & DESC_F_NEXT == 0 {
                return Ok(Chain { slots, id: desc.next, content });
            }
        }
    }

    /// Pushes what one descriptor of the ring stands for: a buffer, or a table of buffers.
    fn element(
        &self,
        desc: Desc,
        index: u16,
        write: bool,
        indirect: bool,
        spans: &mut Vec<Span>,
    ) -> Result<u64, RingError> {
        if desc.flags & DESC_F_INDIRECT == 0 {
            return self.ground.push(desc, index, write, spans, self.size);
        }
        let (table, entries) = self.ground.table(desc, indirect)?;
        let mut total = 0;
        for entry in 0..entries {
            // SAFETY: inside the table, which is guest memory; see `Desc::read`.
            let (addr, word) = unsafe {
                let entry = table.add(usize::from(entry) * DESC_SIZE as usize).cast::<u64>();
                (entry.read_unaligned(), entry.add(1).read_unaligned())
            };
            let inner = self::desc(addr, word);
            if inner.flags & DESC_F_INDIRECT != 0 {
                return Err(RingError::BadAddress(inner.addr, inner.len));
            }
            total += self.ground.push(inner, entry, write, spans, self.size)?;
        }
        Ok(total)
    }

    /// The device's wish for notifications: a place, and flags.
    #[inline]
    fn set_event(&self, at: Place, flags: u16) {
        // SAFETY: the structure was checked when the ring started: 4 bytes, 4-aligned; an atomic may be shared with the guest.
        let event = unsafe { AtomicU32::from_ptr(self.device.cast()) };
        event.store(u32::from(at.0) | u32::from(flags) << 16, Ordering::Relaxed);
        self.ground.wrote(self.device, 4);
    }

    /// The two words of the device's event suppression structure: place and flags.
    #[inline]
    fn event(&self) -> [&AtomicU16; 2] {
        // SAFETY: as in `set_event`.
        [0, 2].map(|at| unsafe { AtomicU16::from_ptr(self.device.add(at).cast()) })
    }

    /// The driver's wish for notifications: a place, and flags.
    #[inline]
    fn wish(&self) -> (Place, u16) {
        // SAFETY: as in `set_event`, for the driver's structure, which is only read.
        let wish = unsafe { AtomicU32::from_ptr(self.driver.cast_mut().cast()) }.load(Ordering::Relaxed);
        (Place(wish as u16), (wish >> 16) as u16 & EVENT_FLAGS)
    }
}

fn desc(addr: u64, word: u64) -> Desc {
    Desc { addr, len: word as u32, next: (word >> 32) as u16, flags: (word >> 48) as u16 }
}

/// A descriptor to be written as used.
#[derive(Clone, Copy)]
struct Used {
    index: u16,
    word: u64,
}

impl Used {
    #[inline]
    fn new(at: Place, id: u16, len: u32) -> Self {
        Self { index: at.index(), word: u64::from(len) | u64::from(id) << 32 | u64::from(at.used()) << 48 }
    }
}

/// A frame of a transmit ring's window.
#[derive(Clone, Copy, Default)]
struct Pending {
    at: Place,
    slots: u16,
    id: u16,
}

/// One packed ring.
pub struct PackedRing {
    live: Option<Live>,
    shape: RingShape,
    /// What is to be used next. Of a transmit ring: the first frame that is not finished.
    next: Place,
    /// `next` as last shown.
    shown: Place,
    /// Descriptors from `shown` to `next`.
    gone: u16,
    /// Where the last look for available descriptors ended.
    seen: Place,
    /// What is used and not shown.
    used: Vec<Used>,
    /// The frames of this transmit ring from `next` to `seen`: `known` of them, from `first` on in a circle.
    window: Box<[Pending; BURST]>,
    first: usize,
    known: usize,
    /// Descriptors that these take.
    waiting: u16,
    /// Bit i: the frame i of the window is already finished.
    done: u64,
    /// Where `seen` was when this receive ring let a frame's waiting time run out; until it moves, frames for it are dropped at once.
    stalled_at: Option<Place>,
    pub(super) call: Option<Arc<File>>,
    scratch: Vec<Span>,
    /// Receive buffers read ahead, and how many of them are filled.
    staged: Vec<Staged>,
    filled: usize,
    /// The log in force, for rings that start meanwhile too.
    pub(super) log: Option<Arc<DirtyLog>>,
}

impl Default for PackedRing {
    fn default() -> Self {
        Self {
            live: None,
            shape: RingShape::default(),
            next: Place::START,
            shown: Place::START,
            gone: 0,
            seen: Place::START,
            used: Vec::new(),
            window: Box::new([Pending::default(); BURST]),
            first: 0,
            known: 0,
            waiting: 0,
            done: 0,
            stalled_at: None,
            call: None,
            scratch: Vec::new(),
            staged: Vec::new(),
            filled: 0,
            log: None,
        }
    }
}

// === control ===

impl PackedRing {
    /// Starts the ring. The front end says where it continues (`base`), unless the ring's memory says that it is further.
    pub fn start(
        &mut self,
        memory: Arc<Memory>,
        place: RingPlace,
        shape: RingShape,
        base: u16,
    ) -> Result<(), RingError> {
        self.live = None;
        let size = place.size;
        if !(1..=MAX_RING_SIZE).contains(&size) {
            return Err(RingError::BadSize(size));
        }
        if Place(base).index() >= size {
            return Err(RingError::BadBase(base, size));
        }
        let desc = RingPlace::part(&memory, "descriptor ring", place.desc, 16, 16 * u32::from(size))?;
        let driver = RingPlace::part(&memory, "driver event suppression", place.avail, 4, 4)?;
        let device = RingPlace::part(&memory, "device event suppression", place.used, 4, 4)?;
        let live = Live { ground: Ground { memory, log: self.log.clone() }, desc, driver, device, size };
        let at = recover(&live, Place(base));
        (self.next, self.shown, self.seen, self.gone) = (at, at, at, 0);
        (self.first, self.known, self.waiting, self.done) = (0, 0, 0, 0);
        self.stalled_at = None;
        self.shape = shape;
        self.used.clear();
        self.used.reserve(usize::from(MAX_RING_SIZE));
        self.staged.clear();
        self.filled = 0;
        // Emptied first, because its capacity is the bound on a chain's pieces and must not grow with every start.
        self.scratch.clear();
        self.scratch.reserve(4 * usize::from(MAX_RING_SIZE));
        live.set_event(at, EVENT_DISABLE);
        self.live = Some(live);
        Ok(())
    }

    /// Stops the ring and forgets its memory. Unfinished frames inside the window of a transmit ring, before finished ones, are given back (as
    /// lost); returns how many were lost.
    pub fn stop(&mut self) -> u32 {
        let passed = (u64::BITS - self.done.leading_zeros()).min(self.known as u32);
        let lost = passed - self.done.count_ones().min(passed);
        self.give_back(passed as usize);
        self.show();
        self.live = None;
        lost
    }

    /// Stops the ring like [`Self::stop`], but loses no frame: those finished behind one that waits are told to [`Self::resume`].
    pub fn suspend(&mut self) -> Option<Window> {
        self.live.as_ref()?;
        let window = Window { base: self.next.0, done: std::mem::take(&mut self.done), heads: Vec::new() };
        self.stop();
        (window.done != 0).then_some(window)
    }

    /// Goes on where a ring was suspended; to be called when it has just started, and before it is used. What does not fit the ring is
    /// left alone.
    pub fn resume(&mut self, window: &Window) {
        if self.live.is_some()
            && window.heads.is_empty()
            && Place(window.base) == self.next
            && self.known == 0
        {
            self.done = window.done;
            // What was finished must be known to be passed over. What is wrong with the ring shows again when it is used.
            let _ = self.take(&mut Burst::default());
        }
    }

    /// Where the ring continues (`GET_VRING_BASE`): an index, and the wrap counter in bit 15.
    pub fn base(&self) -> u16 {
        self.next.0
    }

    /// Bytes of the virtio-net header on this ring.
    pub fn header_len(&self) -> usize {
        usize::from(self.shape.header_len)
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
        // A wish for one descriptor alone would have to name another place than the one that is kept there.
        let alone = self.shape.event_idx && self.seen == self.next;
        live.set_event(self.next, if alone { EVENT_DESC } else { 0 });
        // The guest must see the request before we look again (virtio 1.2 §2.8.10).
        fence(Ordering::SeqCst);
        self.known != 0 || live.head(self.next).is_some()
    }

    /// Like `arm` for a receive ring that has too few buffers for a waiting frame: true when buffers came since the last look.
    pub fn arm_for_more(&mut self) -> bool {
        self.arm();
        self.live.as_ref().is_some_and(|live| live.head(self.seen).is_some())
    }

    /// Whether buffers came to a receive ring since it was last looked at (or it stopped, so that waiting is over).
    pub fn has_more(&self) -> bool {
        self.live.as_ref().is_none_or(|live| live.head(self.seen).is_some())
    }

    /// Tells the guest that kicks are not needed.
    #[inline]
    pub fn disarm(&mut self) {
        if let Some(live) = &self.live
            && live.event()[1].load(Ordering::Relaxed) != EVENT_DISABLE
        {
            live.set_event(self.next, EVENT_DISABLE);
        }
    }

    /// Makes used buffers visible and notifies the guest if it wants that: all of them at once, and at most one notification.
    #[inline]
    pub(super) fn show(&mut self) {
        let Some(live) = &self.live else { return };
        let Some((first, others)) = self.used.split_first() else { return };
        for used in others.iter().rev() {
            live.word(used.index).store(used.word, Ordering::Relaxed);
        }
        live.word(first.index).store(first.word, Ordering::Release);
        live.event()[0].store(self.next.0, Ordering::Relaxed);
        if live.ground.log.is_some() {
            let place = |used: &Used| live.word(used.index).as_ptr().cast::<u8>().cast_const();
            live.ground
                .mark(self.used.iter().map(|used| (place(used), 8)).chain([(live.device.cast_const(), 2)]));
        }
        let (old, new, size) = (self.shown, self.next, live.size);
        self.used.clear();
        (self.shown, self.gone) = (new, 0);
        // The descriptors must be visible before we read whether to notify (virtio 1.2 §2.8.10).
        fence(Ordering::SeqCst);
        let wanted = match live.wish() {
            (_, EVENT_DISABLE) => false,
            (at, EVENT_DESC) if self.shape.event_idx => passed(old, new, at, size),
            _ => true,
        };
        if wanted && let Some(call) = &self.call {
            signal(call);
        }
    }
}

/// Whether a device that went from `old` to `new`, at most one lap, has used the descriptor at `event`.
fn passed(old: Place, new: Place, event: Place, size: u16) -> bool {
    // All counted from the beginning of the lap that `new` is in.
    let begin = |index: u16| if new.index() <= old.index() { index.wrapping_sub(size) } else { index };
    let old = begin(old.index());
    let event = if event.laps() == new.laps() { event.index() } else { event.index().wrapping_sub(size) };
    let new = new.index();
    // vring_need_event() of the specification.
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Where the device is in a ring that a front end says is at `base`.
///
/// A front end that was not told, because the switch was killed, says what it heard last. What the device kept in the ring's memory is newer
/// then, and if it died between showing descriptors and saying so, these say it. Only chains of several descriptors can be mistaken there: for
/// one, and one over the end of the ring for a new driver's, whose rings must begin at the beginning whatever they are made of.
fn recover(live: &Live, base: Place) -> Place {
    if base == Place::START && (0..live.size).all(|index| live.flags(index) & USED == 0) {
        // Nothing was ever used: the driver has just made the ring.
        return base;
    }
    let kept = Place(live.event()[0].load(Ordering::Relaxed));
    // Zero is also what a device leaves there that keeps no place. As a place it is the end of a lap with a wrap counter of 1, all of it used, and a
    // front end that says a ring in use were at its beginning is hardly right unless something is available there.
    let lap = |index| live.flags(index) & (AVAIL | USED);
    let is_place = kept.0 != 0
        || lap(live.size - 1) == Place::START.used()
        || base == Place::START && lap(0) != Place::START.available();
    let mut at = if is_place && kept.index() < live.size { kept } else { base };
    for _ in 0..live.size {
        if live.flags(at.index()) & (AVAIL | USED) != at.used() {
            break;
        }
        at = at.plus(1, live.size);
    }
    at
}
