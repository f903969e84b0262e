//! The thread that follows ports on the move, and the entrance for front ends that carry state.
//!
//! Whoever reports an event only notes which port it is about, in a set that has one place for each port; the thread then asks the
//! switch what became of those ports. So a hostile front end that starts and stops its rings a thousand times a second costs one look, and
//! nobody who reports waits for the switch.
//!
//! The thread also repeats announcements: the first ones may be lost while the network settles.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vswitch::PortId;
use vswitch::event::Event;

use super::{Announcement, Trust};
use crate::control::Switch;
use crate::events::EventLog;
use crate::spec::{EventSink, StateKeeper};

/// When an arrived guest is announced, after its rings started.
const ANNOUNCED: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(250),
    Duration::from_millis(550),
];
/// How long a front end's transfer waits for the switch. Somebody who holds it may in turn wait for this very front end to go.
const PATIENCE: Duration = Duration::from_secs(2);
/// Shortest time between two looks, so that a thousand ports that start at once are one change.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Noted {
    changed: BTreeSet<PortId>,
    elsewhere: BTreeSet<PortId>,
    /// An extension failed.
    failed: bool,
    stopping: bool,
}

/// What is between those who report and the thread that follows.
pub struct Lifecycle {
    log: Arc<EventLog>,
    switch: OnceLock<Weak<Mutex<Switch>>>,
    noted: Mutex<Noted>,
    wake: Condvar,
}

/// The running thread; ends when it is dropped.
pub struct Follower {
    lifecycle: Arc<Lifecycle>,
    thread: Option<JoinHandle<()>>,
}

impl Lifecycle {
    /// Reports go on to `log`.
    pub fn new(log: Arc<EventLog>) -> Arc<Self> {
        Arc::new(Self { log, switch: OnceLock::new(), noted: Mutex::default(), wake: Condvar::new() })
    }

    /// Begins to follow the ports of `switch`.
    pub fn start(self: &Arc<Self>, switch: &Arc<Mutex<Switch>>) -> std::io::Result<Follower> {
        let _ = self.switch.set(Arc::downgrade(switch));
        let lifecycle = Arc::clone(self);
        let thread = std::thread::Builder::new().name("lifecycle".into()).spawn(move || lifecycle.run())?;
        Ok(Follower { lifecycle: Arc::clone(self), thread: Some(thread) })
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        // Each change of it is a single step.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: &Event) {
        match *event {
            Event::PortRunning { port }
            | Event::PortStopped { port }
            | Event::FrontEndConnected { port }
            | Event::FrontEndDisconnected { port, .. }
            // The epoch is stored when the guest no longer waits for it.
            | Event::StateSaved { port, .. } => self.lock().changed.insert(port),
            Event::SeenElsewhere { port, .. } => self.lock().elsewhere.insert(port),
            Event::ExtensionFailed { .. } => {
                let mut noted = self.lock();
                !std::mem::replace(&mut noted.failed, true)
            }
            _ => return,
        };
        self.wake.notify_one();
    }

    fn run(&self) {
        let mut due: Vec<(Instant, Announcement)> = Vec::new();
        loop {
            let next = due.iter().map(|(at, _)| *at).min();
            let noted = {
                let idle = |n: &mut Noted| {
                    n.changed.is_empty() && n.elsewhere.is_empty() && !n.failed && !n.stopping
                };
                let wait =
                    next.map_or(Duration::from_hours(1), |at| at.saturating_duration_since(Instant::now()));
                let (mut noted, _) = self
                    .wake
                    .wait_timeout_while(self.lock(), wait, idle)
                    .unwrap_or_else(PoisonError::into_inner);
                if noted.stopping {
                    return;
                }
                std::mem::take(&mut *noted)
            };
            let Some(switch) = self.switch.get().and_then(Weak::upgrade) else { return };
            let now = Instant::now();
            {
                let mut switch = switch.lock().unwrap_or_else(PoisonError::into_inner);
                for announcement in switch.follow(noted.changed) {
                    due.extend(ANNOUNCED.map(|after| (now + after, announcement.clone())));
                }
                noted.elsewhere.into_iter().for_each(|port| switch.heard_elsewhere(port));
                due.iter()
                    .filter(|(at, _)| *at <= now)
                    .for_each(|(_, announcement)| switch.announce(announcement));
            }
            due.retain(|(at, _)| *at > now);
            drop(switch);
            std::thread::sleep(PAUSE);
        }
    }

    /// Runs `call` with the switch locked.
    fn with<T>(&self, call: impl FnOnce(&mut Switch) -> Result<T, String>) -> Result<T, String> {
        let switch = self.switch.get().and_then(Weak::upgrade).ok_or("the switch is not ready")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match switch.try_lock() {
                Ok(mut switch) => return call(&mut switch),
                Err(TryLockError::Poisoned(poisoned)) => return call(&mut poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    return Err(format!("the switch was busy for {} s", PATIENCE.as_secs()));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }
}

impl EventSink for Lifecycle {
    fn emit(&self, event: Event) {
        self.note(&event);
        self.log.emit(event);
    }
}

impl StateKeeper for Lifecycle {
    fn save(&self, port: PortId) -> Result<Vec<u8>, String> {
        self.with(|switch| switch.depart(port).map_err(|refused| refused.to_string()))
    }

    fn load(&self, port: PortId, sealed: &[u8]) -> Result<(), String> {
        self.with(|switch| switch.arrive(port, sealed, Trust::Seal).map_err(|refused| refused.to_string()))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.lifecycle.lock().stopping = true;
        self.lifecycle.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
