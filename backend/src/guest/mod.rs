//! A guest port: one virtio-net device served over vhost-user.
//!
//! Life cycle: `GuestPort` lives from `port add` to `port remove`. `connection` waits for a front end and serves one at a
//! time: the front end's socket → `relay` (dialects, gatekeeping) → the control protocol's library → `device` and `vring`, which start and stop
//! the rings in `ring`. Workers hold the port and move frames through its queues. When a front end goes, its rings are
//! stopped before its memory is let go, and the port waits for the next one with its counters and policy untouched.
//!
//! Threads: two per attached front end (relay, protocol), one per waiting port. None of them touches a frame.

pub mod burst;
pub mod connection;
mod device;
mod device_state;
mod dirty_log;
mod fault;
pub mod features;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod hold;
pub mod huge;
mod journal;
pub mod memory;
mod message;
mod relay;
pub mod ring;
pub mod tsc;
mod vring;

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vswitch::event::Event;
use vswitch::frame::offload::GuestOffloads;

use crate::spec::{EventSink, GuestSpec, PortState, StateKeeper};
use dirty_log::Logging;
use hold::{Hold, Room, Wish};
use memory::Memory;
use ring::{Queue, RingError};
use vring::PortVring;

/// The worker that serves a queue, as the port sees it.
pub trait Owner: Send + Sync {
    /// Its number.
    fn id(&self) -> usize;
    /// A queue of the worker started, stopped or changed its kick descriptor.
    fn rescan(&self);
    /// Sends a frame into the switch as if the port had sent it; dropped when too many wait.
    fn inject(&self, port: vswitch::PortId, frame: Vec<u8>);
}

/// One guest port.
pub struct GuestPort {
    /// What it was asked to be.
    pub spec: GuestSpec,
    /// Two queues per pair: even = receive, odd = transmit.
    pub queues: Vec<Arc<Queue>>,
    /// The worker of each queue pair.
    pub owners: Vec<Arc<dyn Owner>>,
    features: AtomicU64,
    /// Bit per queue pair that frames may be delivered to: those whose receive ring runs, unless frames are held.
    receiving: AtomicU64,
    hold: Hold,
    /// Rings do not start.
    gated: AtomicBool,
    /// The front end wants rings to run that may not.
    knocked: AtomicBool,
    /// Held by whoever starts and stops rings, so that each does it on what the last one left.
    changing: Mutex<()>,
    mtu: AtomicU16,
    connected: Mutex<bool>,
    /// Whether the front end can have the port's state saved.
    saves: AtomicBool,
    /// Its rings are stopped and started for a take-over that nobody outside is to notice.
    quiet: AtomicBool,
    attachments: AtomicU32,
    starts: AtomicU32,
    memory: Mutex<Option<Arc<Memory>>>,
    vrings: Mutex<Vec<PortVring>>,
    logging: Mutex<Logging>,
    events: Arc<dyn EventSink>,
    keeper: Arc<dyn StateKeeper>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes guard is replaced as a whole, so a panic in a control thread leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GuestPort {
    /// A port that waits for a front end. `owners` has one worker per queue pair.
    pub fn new(
        spec: GuestSpec,
        owners: Vec<Arc<dyn Owner>>,
        events: Arc<dyn EventSink>,
        keeper: Arc<dyn StateKeeper>,
    ) -> Self {
        let queues = (0..2 * u16::from(spec.queue_pairs)).map(|i| Arc::new(Queue::new(i))).collect();
        let mtu = AtomicU16::new(spec.mtu);
        Self {
            spec,
            queues,
            owners,
            features: AtomicU64::new(0),
            receiving: AtomicU64::new(0),
            hold: Hold::new(Arc::default()),
            gated: AtomicBool::new(false),
            knocked: AtomicBool::new(false),
            changing: Mutex::new(()),
            mtu,
            connected: Mutex::new(false),
            saves: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            attachments: AtomicU32::new(0),
            starts: AtomicU32::new(0),
            memory: Mutex::new(None),
            vrings: Mutex::new(Vec::new()),
            logging: Mutex::default(),
            events,
            keeper,
        }
    }

    /// Makes the port share the room for held frames with others.
    #[must_use]
    pub fn with_room(self, room: &Arc<Room>) -> Self {
        Self { hold: Hold::new(Arc::clone(room)), ..self }
    }

    /// virtio features the front end accepted.
    #[inline]
    pub fn features(&self) -> u64 {
        self.features.load(Ordering::Relaxed)
    }

    /// What the guest may ask of the switch when it sends.
    #[inline]
    pub fn sends(&self) -> GuestOffloads {
        features::sends(self.features())
    }

    /// What the guest can receive.
    #[inline]
    pub fn receives(&self) -> GuestOffloads {
        features::receives(self.features())
    }

    /// Bit per queue pair that frames may be delivered to; 0 = see [`GuestPort::hold`].
    #[inline]
    pub fn receiving(&self) -> u64 {
        self.receiving.load(Ordering::Acquire)
    }

    /// MTU in force: the configured one, or a smaller one that the front end asked for.
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Whether a front end is attached.
    pub fn is_attached(&self) -> bool {
        *lock(&self.connected)
    }

    /// How many front ends attached so far.
    pub fn attachments(&self) -> u32 {
        self.attachments.load(Ordering::Acquire)
    }

    /// How often the receive rings began to run.
    pub fn starts(&self) -> u32 {
        self.starts.load(Ordering::Acquire)
    }

    /// A front end attached.
    fn attach(&self) {
        self.attachments.fetch_add(1, Ordering::AcqRel);
        *lock(&self.connected) = true;
        self.emit(Event::FrontEndConnected { port: self.spec.id });
    }

    /// Where the port is in its life.
    pub fn state(&self) -> PortState {
        if self.queues.iter().any(|q| q.is_live()) {
            return PortState::Running;
        }
        match self.wished() {
            Wish::Expected => PortState::Incoming,
            Wish::Frozen => PortState::Frozen,
            Wish::None if *lock(&self.connected) => PortState::Connected,
            Wish::None => PortState::Waiting,
        }
    }

    /// While closed, rings do not start, whatever the front end says; opening starts those that should run.
    pub fn gate(&self, closed: bool) {
        vring::gate(self, closed);
    }

    /// Whether the front end wants rings to run that the gate keeps from running.
    pub fn knocks(&self) -> bool {
        self.knocked.load(Ordering::SeqCst)
    }

    /// Reports something that happened to this port.
    pub fn emit(&self, event: Event) {
        if !self.quiet.load(Ordering::Relaxed) {
            self.events.emit(event);
        }
    }

    /// Called after a queue started or stopped: refreshes what workers look at and tells the owner.
    pub(crate) fn queue_changed(&self, index: usize) {
        self.follow_rings();
        if let Some(owner) = self.owners.get(index / 2) {
            owner.rescan();
        }
    }

    /// Stops one queue because the guest broke the rules; a driver reset starts it again. Call without holding its ring.
    pub fn stop_queue(&self, queue: &Queue, error: &RingError) {
        {
            let mut ring = queue.lock();
            if !ring.is_live() {
                return;
            }
            ring.stop();
            queue.set_live(false);
        }
        self.emit(Event::QueueStopped { port: self.spec.id, queue: queue.index, reason: error.to_string() });
        self.queue_changed(usize::from(queue.index));
    }
}
