//! How a worker sleeps: one epoll set with the kicks of its queues, its links and its wake-up descriptor.
//!
//! All descriptors are edge-triggered and never read: a guest's eventfd belongs to the guest too, and reading it could block or
//! be made to. An edge comes with every write, so nothing is lost.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use event_manager::{
    EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps,
};

use crate::spec::DataplaneError;

/// Token of the wake-up descriptor.
const WAKE: u32 = u32::MAX;

#[derive(Default)]
struct Collector {
    ready: Vec<u32>,
}

impl MutEventSubscriber for Collector {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        self.ready.push(events.data());
    }

    fn init(&mut self, _: &mut EventOps) {}
}

/// A worker's bed.
pub(super) struct Sleeper {
    manager: EventManager<Collector>,
    subscriber: SubscriberId,
}

impl Sleeper {
    /// A sleeper that `wake` wakes.
    pub(super) fn new(wake: &impl AsRawFd) -> Result<Self, DataplaneError> {
        let system = |error: event_manager::Error| DataplaneError::System {
            what: "epoll of a worker",
            source: io::Error::other(error.to_string()),
        };
        let mut manager = EventManager::new().map_err(system)?;
        let subscriber = manager.add_subscriber(Collector::default());
        let mut sleeper = Self { manager, subscriber };
        sleeper
            .add(wake.as_raw_fd(), WAKE)
            .map_err(|source| DataplaneError::System { what: "epoll of a worker", source })?;
        Ok(sleeper)
    }

    /// Wakes on `fd` from now on, with `token`.
    pub(super) fn add(&mut self, fd: RawFd, token: u32) -> io::Result<()> {
        self.change(|ops| ops.add(events(fd, token)))
    }

    /// Wakes on `fd` no more. The descriptor must still be open.
    pub(super) fn remove(&mut self, fd: RawFd, token: u32) {
        if let Err(error) = self.change(|ops| ops.remove(events(fd, token))) {
            log::debug!("epoll: {error}");
        }
    }

    fn change(
        &mut self,
        change: impl FnOnce(&mut EventOps) -> Result<(), event_manager::Error>,
    ) -> io::Result<()> {
        let mut ops = self.manager.event_ops(self.subscriber).map_err(|e| io::Error::other(e.to_string()))?;
        change(&mut ops).map_err(|e| io::Error::other(e.to_string()))
    }

    /// Sleeps until something happens or `milliseconds` have passed; puts the tokens of what happened into `ready`. Returns whether anything
    /// did.
    pub(super) fn sleep(&mut self, milliseconds: i32, ready: &mut Vec<u32>) -> bool {
        ready.clear();
        // The only errors are signals and exhaustion of kernel memory; either way the worker simply looks around.
        let count = self.manager.run_with_timeout(milliseconds).unwrap_or(0);
        if let Ok(collector) = self.manager.subscriber_mut(self.subscriber) {
            ready.append(&mut collector.ready);
            ready.retain(|&token| token != WAKE);
        }
        count > 0
    }
}

fn events(fd: RawFd, token: u32) -> Events {
    Events::with_data_raw(fd, token, EventSet::IN | EventSet::EDGE_TRIGGERED)
}
