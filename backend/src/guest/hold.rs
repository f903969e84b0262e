//! Frames that wait for a guest on the move: its rings do not run, but they will again, here or on another host.
//!
//! A port *holds* while its guest is on its way: when its receive rings stopped although its front end is logging memory writes
//! (which it does for a migration only), when they are paused, while rings are restarted on other memory, and as long as the control
//! plane says so. Rings are *paused* when the front end switched them off without taking them down; that is how cloud-hypervisor begins to
//! move a guest within a host, where it logs nothing. What comes for it then is copied, as it was sent and with nothing counted at the receiver, and judged by the receiver's policy when it
//! is delivered: so the policy in force then applies, and nothing is counted twice or for a guest that never got it.
//!
//! Holding ends in one of three ways: the rings run again, and what was held goes first; the guest is elsewhere, and it goes out of the
//! uplink; or it is given up, and counted as dropped.
//!
//! Bounds: [`MAX_FRAMES`] and [`MAX_BYTES`] a port, of these a quarter for flooded frames; [`MAX_ALL`] bytes over all ports; [`LONGEST`] a frame.
//!
//! Threading: whoever delivers offers frames; the worker of the port's first queue pair takes them out again, because only workers may
//! count. While anything is held, [`GuestPort::receiving`] is 0 even if rings run, so the ordinary path asks nothing more than it did before,
//! and whatever comes meanwhile is held behind the rest. Lock order: a sender's ring, then the hold; never the hold with a receiver's ring.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use vswitch::event::Event;
use vswitch::frame::offload::Offload;
use vswitch::nv::overlay::Ingress;
use vswitch::trace::DropReason;
use vswitch::{Nanos, PortId};

use super::{GuestPort, lock, tsc};

/// Frames held for one port, at most.
pub const MAX_FRAMES: usize = 4096;
/// Bytes held for one port, at most.
pub const MAX_BYTES: usize = 4 << 20;
/// Bytes held for all ports, at most.
pub const MAX_ALL: usize = 64 << 20;
/// Longest time a frame is held, in nanoseconds; also how long a port holds of its own accord.
pub const LONGEST: Nanos = 30_000_000_000;

/// Flooded frames may have one part in so many of a port's room.
const FLOODED_PART: usize = 4;

/// A frame as it was sent.
pub struct Held {
    /// All of it.
    pub bytes: Box<[u8]>,
    /// Who sent it.
    pub from: PortId,
    /// What its sender left to its receiver, checked.
    pub offload: Offload,
    /// Others got it too.
    pub flooded: bool,
    /// When it came.
    pub since: Nanos,
    /// Out of which tunnel it came.
    pub ingress: Option<Ingress>,
}

impl Held {
    /// Packets it is on a wire.
    fn packets(&self) -> u64 {
        self.offload.wire(self.bytes.len() as u32).0
    }
}

/// Bytes held for all ports.
#[derive(Debug, Default)]
pub struct Room(AtomicUsize);

/// What became of a frame that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is held.
    Held,
    /// Nothing is: it may be delivered to these queue pairs, by now.
    Deliver(u64),
    /// It is not, for this reason.
    Drop(DropReason),
}

/// Where held frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nowhere yet.
    Stay,
    /// Into the receive rings.
    Rings,
    /// Out of the uplink.
    Uplink,
}

/// Frames that were given up and are to be counted and shown; they are off the books.
#[derive(Default)]
pub struct GivenUp {
    /// The frames.
    pub frames: Vec<Held>,
    /// Packets beyond those.
    pub more: u64,
}

impl GivenUp {
    /// Adds one. They wait only until their worker looks, so there is room for as many as one port may hold.
    fn add(&mut self, held: Held) {
        if self.frames.len() < MAX_FRAMES {
            self.frames.push(held);
        } else {
            self.more += held.packets();
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.more == 0
    }
}

/// What [`GuestPort::take_held`] found.
pub struct Taken {
    /// Where the frames go.
    pub way: Way,
    /// What was given up.
    pub lost: GivenUp,
    /// How often everything was given up so far.
    discards: u64,
}

/// What the control plane says about a guest that is not running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wish {
    #[default]
    None,
    /// A guest will come.
    Expected,
    /// It is on its way to somewhere else.
    Frozen,
}

/// What became of the receive rings that this front end brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Rings {
    #[default]
    NotYet,
    Ran,
    /// They did, and it has switched them off.
    Paused,
}

/// A port's held frames.
pub(super) struct Hold {
    state: Mutex<State>,
    room: Arc<Room>,
    /// The worker has something to do.
    errand: AtomicBool,
}

#[allow(clippy::struct_excessive_bools)] // facts about the rings, each for itself
#[derive(Default)]
struct State {
    frames: VecDeque<Held>,
    /// Of all frames, those that the worker has taken included.
    count: usize,
    bytes: usize,
    flooded: usize,
    flooded_bytes: usize,
    wish: Wish,
    /// Since when frames are held.
    holding: Option<Nanos>,
    forward: bool,
    /// Rings are being restarted.
    restarting: bool,
    rings: Rings,
    /// Bit per queue pair whose receive ring ran when that was last told.
    running: u64,
    /// What was given up and the worker has yet to count.
    lost: GivenUp,
    /// Grows when all frames are given up.
    discards: u64,
}

impl State {
    fn enter(&mut self, len: usize, flooded: bool) {
        self.count += 1;
        self.bytes += len;
        if flooded {
            self.flooded += 1;
            self.flooded_bytes += len;
        }
    }

    fn leave(&mut self, held: &Held) {
        self.count -= 1;
        self.bytes -= held.bytes.len();
        if held.flooded {
            self.flooded -= 1;
            self.flooded_bytes -= held.bytes.len();
        }
    }

    fn has_room(&self, len: usize, flooded: bool) -> bool {
        let (count, bytes, part) = if flooded {
            (self.flooded, self.flooded_bytes, FLOODED_PART)
        } else {
            (self.count, self.bytes, 1)
        };
        self.count < MAX_FRAMES
            && self.bytes + len <= MAX_BYTES
            && count < MAX_FRAMES / part
            && bytes + len <= MAX_BYTES / part
    }
}

impl Hold {
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self { state: Mutex::default(), room, errand: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes frames off the books; `state` no longer has them.
    fn leave(&self, state: &mut State, held: &Held) {
        state.leave(held);
        self.room.0.fetch_sub(held.bytes.len(), Ordering::Relaxed);
    }

    /// Gives up everything that is not with the worker just now; what it has, it will hear of.
    fn give_up(&self, state: &mut State) {
        state.discards += 1;
        for held in std::mem::take(&mut state.frames) {
            self.leave(state, &held);
            state.lost.add(held);
        }
        (state.holding, state.forward) = (None, false);
        if !state.lost.is_empty() {
            self.errand.store(true, Ordering::Release);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let bytes = self.lock().bytes;
        self.room.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl GuestPort {
    /// Bit per queue pair whose receive ring runs, whether frames may go there yet or not.
    pub fn live(&self) -> u64 {
        (0..self.owners.len()).filter(|p| self.queues[2 * p].is_live()).fold(0, |mask, p| mask | 1 << p)
    }

    /// Whether what comes for the port while no receive ring runs is to be held.
    fn holds(&self, state: &State) -> bool {
        let on_its_way = match state.rings {
            Rings::NotYet => false,
            Rings::Ran => self.features() & super::features::LOG_ALL != 0,
            Rings::Paused => true,
        };
        state.wish != Wish::None || state.restarting || (on_its_way && *lock(&self.connected))
    }

    /// The front end is about to switch off a receive ring that runs.
    pub(super) fn pause(&self) {
        self.hold.lock().rings = Rings::Paused;
    }

    /// Rings are taken down: to save the port's state if all were switched off before, otherwise because the guest resets its card.
    pub(super) fn taken_down(&self) {
        if self.saves.load(Ordering::Relaxed) && self.queues.iter().all(|queue| !queue.is_live()) {
            return;
        }
        self.reset_rings();
    }

    /// The guest does not go on with the rings that were paused.
    pub(super) fn reset_rings(&self) {
        let mut state = self.hold.lock();
        if state.rings == Rings::Paused {
            state.rings = Rings::Ran;
            if self.live() == 0 && !self.holds(&state) {
                self.hold.give_up(&mut state);
            }
            drop(state);
            self.call_owner();
        }
    }

    /// Offers a frame of `len` bytes for which there is no receive ring, or that must not overtake what is held. `make` copies it.
    pub fn hold(&self, now: Nanos, len: usize, flooded: bool, make: impl FnOnce() -> Held) -> Offer {
        let mut state = self.hold.lock();
        let live = self.live();
        if live != 0 && state.count == 0 {
            return Offer::Deliver(live);
        }
        if live == 0 {
            // The ring may have stopped this instant, before anybody could tell.
            self.receiving.store(0, Ordering::Release);
            if state.holding.is_none() {
                if !self.holds(&state) {
                    return Offer::Drop(DropReason::ReceiverNotRunning);
                }
                state.holding = Some(now);
            }
        }
        if !state.has_room(len, flooded) {
            return Offer::Drop(DropReason::ReceiverFull);
        }
        if self.hold.room.0.fetch_add(len, Ordering::Relaxed) + len > MAX_ALL {
            self.hold.room.0.fetch_sub(len, Ordering::Relaxed);
            return Offer::Drop(DropReason::ReceiverFull);
        }
        let held = make();
        debug_assert_eq!(held.bytes.len(), len, "what was announced");
        state.enter(len, flooded);
        state.frames.push_back(held);
        let forward = state.forward;
        drop(state);
        if forward {
            self.call_owner();
        }
        Offer::Held
    }

    /// Called after a receive ring started or stopped: who may deliver now, and is anything to be told?
    pub(super) fn follow_rings(&self) {
        let mut state = self.hold.lock();
        let live = self.live();
        if live == 0 {
            self.receiving.store(0, Ordering::Release);
            if state.holding.is_none() && self.holds(&state) {
                state.holding = Some(now());
            }
        }
        if state.restarting {
            // It is but a moment, of which nobody needs to know; deliveries wait for its end.
            self.receiving.store(0, Ordering::Release);
            return;
        }
        let was = std::mem::replace(&mut state.running, live);
        if live != 0 {
            if was == 0 {
                state.wish = Wish::None;
            }
            state.rings = Rings::Ran;
            state.forward = false;
            self.open(&mut state, live);
        }
        let waiting = state.count != 0;
        drop(state);
        if waiting && live != 0 {
            self.call_owner();
        }
        if was == 0 && live != 0 {
            self.starts.fetch_add(1, Ordering::AcqRel);
            self.emit(Event::PortRunning { port: self.spec.id });
        } else if was != 0 && live == 0 {
            self.emit(Event::PortStopped { port: self.spec.id });
        }
    }

    /// Lets frames go straight into the rings if none is held.
    fn open(&self, state: &mut State, live: u64) {
        if state.count == 0 {
            state.holding = None;
            self.receiving.store(live, Ordering::Release);
        } else {
            self.receiving.store(0, Ordering::Release);
        }
    }

    /// Runs `change`, which stops the rings and starts them again; what comes meanwhile waits.
    pub(super) fn while_restarting(&self, change: impl FnOnce()) {
        let mut state = self.hold.lock();
        state.restarting = true;
        let held_before = state.holding.is_some();
        drop(state);
        change();
        let mut state = self.hold.lock();
        state.restarting = false;
        if !held_before && self.live() == 0 && !self.holds(&state) {
            // Held for this restart only, after which there is no ring.
            self.hold.give_up(&mut state);
        }
        drop(state);
        self.follow_rings();
        self.call_owner();
    }

    /// The front end is gone, and its rings with it.
    pub(super) fn front_end_gone(&self) {
        let mut state = self.hold.lock();
        state.rings = Rings::NotYet;
        if state.wish == Wish::None {
            self.hold.give_up(&mut state);
        }
        drop(state);
        self.call_owner();
    }

    /// Says that the guest is expected, or frozen on its way to elsewhere, or (`on` = false) no longer so.
    fn wish(&self, wish: Wish, on: bool) {
        let mut state = self.hold.lock();
        if on {
            state.wish = wish;
            state.forward = false;
        } else if state.wish == wish {
            state.wish = Wish::None;
            if self.live() == 0 && !self.holds(&state) {
                self.hold.give_up(&mut state);
            }
        }
        drop(state);
        self.call_owner();
    }

    /// Holds what comes for the port from the moment its rings stand still, until they run again or this is taken back.
    pub fn freeze(&self, on: bool) {
        self.wish(Wish::Frozen, on);
    }

    /// Holds what comes for a guest that has yet to arrive, until its rings run or this is taken back.
    pub fn expect(&self, on: bool) {
        self.wish(Wish::Expected, on);
    }

    /// What is expected of a guest that is not here. Nothing of one that has left: what still comes for it is sent after it.
    pub(super) fn wished(&self) -> Wish {
        let state = self.hold.lock();
        if state.forward { Wish::None } else { state.wish }
    }

    /// Sends what is held, and what is yet to come, out of the uplink, until rings run or the hold ends.
    pub fn forward_held(&self) {
        let mut state = self.hold.lock();
        // The guest is here after all: what is held goes into its rings.
        state.forward = self.live() == 0;
        drop(state);
        self.call_owner();
    }

    /// The guest was heard behind the uplink. If its state was saved here, it has left.
    pub fn follow_guest(&self) {
        if self.wished() == Wish::Frozen {
            self.forward_held();
        }
    }

    /// Gives up what is held.
    pub fn discard_held(&self) {
        let mut state = self.hold.lock();
        self.hold.give_up(&mut state);
        // What the worker had just now may have been the last.
        let live = self.live();
        if live != 0 {
            self.open(&mut state, live);
        }
        drop(state);
        self.call_owner();
    }

    /// Frames and bytes held now.
    pub fn held(&self) -> (usize, usize) {
        let state = self.hold.lock();
        (state.count, state.bytes)
    }

    fn call_owner(&self) {
        self.hold.errand.store(true, Ordering::Release);
        if let Some(owner) = self.owners.first() {
            owner.rescan();
        }
    }

    // === the worker of the first queue pair ===

    /// Whether there is something to do for the worker; asked once per call.
    pub fn take_errand(&self) -> bool {
        self.hold.errand.swap(false, Ordering::AcqRel)
    }

    /// Takes up to `max` frames (64 at most) out to be delivered. To be followed by [`GuestPort::give_back`].
    pub fn take_held(&self, max: usize, out: &mut Vec<Held>) -> Taken {
        let mut state = self.hold.lock();
        let (lost, discards) = (std::mem::take(&mut state.lost), state.discards);
        let way = match () {
            () if state.restarting => Way::Stay,
            () if self.live() != 0 => Way::Rings,
            () if state.forward => Way::Uplink,
            () => Way::Stay,
        };
        if way != Way::Stay {
            let count = max.min(state.frames.len());
            out.extend(state.frames.drain(..count));
        }
        Taken { way, lost, discards }
    }

    /// Takes back what could not be delivered of `frames` (the bits of `done` say what could), which are none after that. Returns whether
    /// there is more to do, and what was given up in the meantime or before.
    pub fn give_back(&self, taken: Taken, frames: &mut Vec<Held>, done: u64) -> (bool, GivenUp) {
        let mut state = self.hold.lock();
        let mut lost = taken.lost;
        for (index, held) in frames.drain(..).enumerate().rev() {
            if done >> index & 1 != 0 {
                self.hold.leave(&mut state, &held);
            } else if state.discards != taken.discards {
                self.hold.leave(&mut state, &held);
                lost.add(held);
            } else {
                state.frames.push_front(held);
            }
        }
        let live = self.live();
        if live != 0 && !state.restarting {
            self.open(&mut state, live);
        }
        (state.count != 0 && (live != 0 || state.forward) && !state.restarting, lost)
    }

    /// Gives up what has waited for too long; returns what, and why it is lost. To be called every second.
    pub fn expire_held(&self, now: Nanos) -> Option<(GivenUp, DropReason)> {
        let mut state = self.hold.lock();
        let live = self.live();
        let begun = state.holding?;
        if live == 0 && state.wish == Wish::None && now.saturating_sub(begun) >= LONGEST {
            // No migration takes that long between its two ends; whatever this is, it begins anew with the next start of the rings.
            state.rings = Rings::NotYet;
            self.hold.give_up(&mut state);
        }
        let mut lost = std::mem::take(&mut state.lost);
        while state.frames.front().is_some_and(|held| now.saturating_sub(held.since) >= LONGEST) {
            let Some(held) = state.frames.pop_front() else { break };
            self.hold.leave(&mut state, &held);
            lost.add(held);
        }
        if live != 0 {
            self.open(&mut state, live);
        }
        let reason = if live != 0 { DropReason::ReceiverFull } else { DropReason::ReceiverNotRunning };
        Some((lost, reason))
    }
}

fn now() -> Nanos {
    tsc::nanos(tsc::cycles())
}
