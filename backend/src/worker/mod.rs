//! Workers: the threads that move frames.
//!
//! A worker owns queues, not ports: it alone takes frames from the transmit rings and links it was given, and delivers them to any
//! receiver, taking a receive ring's lock once per burst. What all workers share is read once per round: the `View` (policy snapshot and
//! running ports), swapped as one piece. A change is in force when every worker has passed it: `Shared::publish` waits for
//! that, and a port that is no longer in the view is used by nobody after it.

mod bill;
mod counters;
mod deliver;
mod extended;
mod forward;
mod gather;
mod held;
mod join;
mod outward;
mod overlay;
mod poll;
mod rest;
mod sleep;
mod source;
mod steer;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use vmm_sys_util::eventfd::EventFd;
use vswitch::event::Event;
use vswitch::frame::offload::GuestOffloads;
use vswitch::snapshot::Snapshot;
use vswitch::state::State;
use vswitch::{Nanos, PortId};

use crate::guest::{GuestPort, Owner, tsc};
use crate::link::Link;
use crate::priority;
use crate::spec::{DataplaneError, EventSink, PollMode, WorkerOptions, WorkerStats};
use crate::tally::{Tallies, WorkerTallies};
use crate::watch::{MAX_WATCHERS, Watcher};
use watch::Watchers;

pub use counters::{Counters, MAX_PORTS};
pub use extended::{Outputs, settle};

/// Frames of the switch's own making that may wait for one worker.
const INBOX: usize = 64;
/// Flows each worker remembers.
const FLOWS: usize = 64 * 1024;

/// A TAP or uplink that runs.
pub struct LinkPort {
    /// Its number.
    pub id: PortId,
    /// The device.
    pub link: Box<dyn Link>,
    /// Its MTU when it was opened.
    pub mtu: u16,
    /// The worker that receives from it.
    pub owner: usize,
    running: AtomicBool,
}

impl LinkPort {
    /// A link that is served from now on.
    pub fn new(id: PortId, link: Box<dyn Link>, mtu: u16, owner: usize) -> Self {
        Self { id, link, mtu, owner, running: AtomicBool::new(true) }
    }

    /// Whether it still works.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Stops it for good, once: its interface is gone.
    fn stop(&self, shared: &Shared) {
        if self.running.swap(false, Ordering::Relaxed) {
            shared.events.emit(Event::PortStopped { port: self.id });
        }
    }
}

/// A port as the data path runs it.
#[derive(Clone)]
pub enum Port {
    /// A guest's rings.
    Guest(Arc<GuestPort>),
    /// A TAP or uplink.
    Link(Arc<LinkPort>),
}

/// What the workers follow: one immutable state of policy and ports.
pub struct View {
    version: u64,
    /// The compiled policy.
    pub snapshot: Arc<Snapshot>,
    ports: Vec<Option<Port>>,
    /// Who watches.
    watchers: Watchers,
}

impl View {
    /// The running port with this number.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index()).and_then(Option::as_ref)
    }

    /// All running ports.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().flatten()
    }

    /// What a port may ask of us when it sends.
    fn sends(&self, id: PortId) -> GuestOffloads {
        match self.port(id) {
            Some(Port::Guest(port)) => port.sends(),
            Some(Port::Link(_)) => GuestOffloads::ALL,
            None => GuestOffloads::default(),
        }
    }
}

/// What all workers share.
pub struct Shared {
    view: ArcSwap<View>,
    /// What the switch remembers from frame to frame.
    pub state: Arc<State>,
    /// Where events go.
    pub events: Arc<dyn EventSink>,
    /// What extensions want sent or said.
    pub outputs: Outputs,
    poll: PollMode,
    handles: OnceLock<Vec<Arc<Handle>>>,
    publishing: Mutex<()>,
}

impl Shared {
    /// Shared state that begins with `snapshot` and no ports.
    pub fn new(snapshot: Snapshot, poll: PollMode, seed: u64, events: Arc<dyn EventSink>) -> Self {
        let state = Arc::new(State::new(snapshot.config().fdb_size, seed));
        let (snapshot, ports, watchers) = (Arc::new(snapshot), Vec::new(), Watchers::default());
        let view = ArcSwap::from_pointee(View { version: 1, snapshot, ports, watchers });
        let (outputs, handles, publishing) = (Outputs::default(), OnceLock::new(), Mutex::new(()));
        Self { view, state, events, outputs, poll, handles, publishing }
    }

    /// The state in force.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The workers.
    pub fn handles(&self) -> &[Arc<Handle>] {
        self.handles.get().map_or(&[], Vec::as_slice)
    }

    /// Replaces the policy, the ports, or both; returns when every worker has passed the change.
    pub fn publish(&self, snapshot: Option<Snapshot>, change: impl FnOnce(&mut Vec<Option<Port>>)) {
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.view.load_full();
        let mut ports = old.ports.clone();
        change(&mut ports);
        let snapshot = snapshot.map_or_else(|| Arc::clone(&old.snapshot), Arc::new);
        let before = Arc::clone(&old.snapshot);
        let watchers = Arc::clone(&old.watchers);
        let version = old.version + 1;
        drop(old);
        self.follow(View { version, snapshot, ports, watchers });
        self.state.reconcile(now(), &before, &self.view.load().snapshot);
    }

    /// Shows frames to a watcher from now on; `None` if too many watch already.
    pub fn watch(&self, watcher: &Arc<Watcher>) -> Option<()> {
        self.change_watchers(|watchers| {
            (watchers.len() < MAX_WATCHERS).then(|| watchers.push(Arc::clone(watcher)))
        })
    }

    /// Ends watches: when it returns, no worker shows anything to these any more.
    pub fn unwatch(&self, ended: impl Fn(&Arc<Watcher>) -> bool) {
        let gone = self.change_watchers(|watchers| {
            let gone: Vec<_> = watchers.extract_if(.., |watcher| ended(watcher)).collect();
            (!gone.is_empty()).then_some(gone)
        });
        // Not before: what workers had seen until then is still read.
        for watcher in gone.into_iter().flatten() {
            watcher.close();
        }
    }

    /// Makes all workers follow a changed list of watchers, if it was changed.
    fn change_watchers<T>(&self, change: impl FnOnce(&mut Vec<Arc<Watcher>>) -> Option<T>) -> Option<T> {
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.view.load_full();
        let mut watchers = old.watchers.to_vec();
        let result = change(&mut watchers)?;
        let (version, snapshot, ports) = (old.version + 1, Arc::clone(&old.snapshot), old.ports.clone());
        drop(old);
        self.follow(View { version, snapshot, ports, watchers: watchers.into() });
        Some(result)
    }

    /// Makes all workers follow a view; returns when every one does.
    fn follow(&self, view: View) {
        let version = view.version;
        self.view.store(Arc::new(view));
        for handle in self.handles() {
            handle.attend();
        }
        for handle in self.handles() {
            while handle.seen.load(Ordering::Acquire) < version && !handle.ended.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }
}

/// Frames of the switch's own making, in the name of a port.
enum Own {
    /// As if the port had sent it.
    Sent(Vec<u8>),
    /// As if the port had sent it, added by the first of these extensions because of frames that the others added.
    Added(Box<[Arc<str>]>, Vec<u8>),
    /// Straight to the uplink, in every network that the port can send in.
    Announced(Vec<Vec<u8>>),
    /// Straight out of the port, as they are.
    Out(Vec<Vec<u8>>),
}

/// A worker as others see it.
pub struct Handle {
    id: usize,
    cpu: Option<usize>,
    wake: EventFd,
    /// The worker is asleep or about to be.
    sleeping: AtomicBool,
    /// Something of what follows changed.
    attention: AtomicBool,
    /// Buffers came to a receive ring that this worker has frames for.
    unblocked: AtomicBool,
    stop: AtomicBool,
    ended: AtomicBool,
    /// Version of the view that the worker follows.
    seen: AtomicU64,
    queues: AtomicU64,
    inbox: Mutex<VecDeque<(PortId, Own)>>,
    /// What the worker counts.
    pub counters: Counters,
}

impl Handle {
    fn new(id: usize, cpu: Option<usize>, tallies: WorkerTallies) -> Result<Self, DataplaneError> {
        let wake = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
            .map_err(|source| DataplaneError::System { what: "eventfd of a worker", source })?;
        Ok(Self {
            id,
            cpu,
            wake,
            sleeping: AtomicBool::new(false),
            attention: AtomicBool::new(false),
            unblocked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            queues: AtomicU64::new(0),
            inbox: Mutex::new(VecDeque::new()),
            counters: Counters::new(tallies),
        })
    }

    /// Makes the worker look at what changed, waking it if it sleeps.
    fn attend(&self) {
        self.attention.store(true, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) {
            let _ = self.wake.write(1);
        }
    }

    /// Sends frames out of the uplink in the name of a port, untagged as given, each in every network that the port can send in; exempt
    /// from policy and limits. Dropped when too many wait.
    pub fn announce(&self, port: PortId, frames: Vec<Vec<u8>>) {
        self.order(port, Own::Announced(frames));
    }

    /// Sends frames straight out of a link; exempt from policy and limits. Dropped when too many wait.
    pub fn send_out(&self, link: PortId, frames: Vec<Vec<u8>>) {
        self.order(link, Own::Out(frames));
    }

    /// False = too many wait.
    fn order(&self, port: PortId, own: Own) -> bool {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = inbox.len() < INBOX;
        if fits {
            inbox.push_back((port, own));
            drop(inbox);
            self.attend();
        }
        fits
    }

    fn unblock(&self) {
        self.unblocked.store(true, Ordering::SeqCst);
        self.attend();
    }

    /// The worker's load.
    pub fn stats(&self) -> WorkerStats {
        let mut stats = WorkerStats {
            id: self.id,
            cpu: self.cpu,
            queues: self.queues.load(Ordering::Relaxed) as usize,
            ..WorkerStats::default()
        };
        self.counters.load(&mut stats);
        stats
    }
}

impl Owner for Handle {
    fn id(&self) -> usize {
        self.id
    }

    fn rescan(&self) {
        self.attend();
    }

    fn inject(&self, port: PortId, frame: Vec<u8>) {
        self.order(port, Own::Sent(frame));
    }
}

/// The running workers.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Workers {
    /// Starts the threads, one for each section of the counters.
    pub fn start(
        shared: Arc<Shared>,
        options: &WorkerOptions,
        tallies: &Tallies,
    ) -> Result<Self, DataplaneError> {
        let system = |what| move |source| DataplaneError::System { what, source };
        let cpu =
            |id: usize| options.cpus.as_ref().and_then(|cpus| cpus.get(id % cpus.len().max(1)).copied());
        let handles: Vec<_> = (0..)
            .map_while(|id| Some((id, tallies.worker(id)?)))
            .map(|(id, tallies)| Handle::new(id, cpu(id), tallies).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let mut workers = Self { threads: Vec::new(), shared };
        let ready = workers.shared.handles.set(handles.clone());
        debug_assert!(ready.is_ok(), "workers are started once");
        for handle in handles {
            let worker = poll::Worker::new(Arc::clone(&workers.shared), Arc::clone(&handle))?;
            let shared = Arc::clone(&workers.shared);
            let name = format!("worker-{}", handle.id);
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                if let Some(cpu) = handle.cpu {
                    priority::run_on(&[cpu]);
                }
                let never_sleeps = shared.poll == PollMode::Busy;
                priority::set(if never_sleeps { priority::ORDINARY } else { priority::WORKER });
                worker.run();
                handle.ended.store(true, Ordering::Release);
            });
            workers.threads.push(thread.map_err(system("thread of a worker"))?);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for handle in self.shared.handles() {
            handle.stop.store(true, Ordering::SeqCst);
            handle.attend();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Time since the process began to measure.
fn now() -> Nanos {
    tsc::nanos(tsc::cycles())
}

/// A number nobody can guess, for hashing what guests choose.
pub fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8)
}
