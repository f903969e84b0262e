//! One worker's loop: poll what is active, sleep when nothing is.
//!
//! A source (the transmit ring of a queue pair, or a link) is *active* while it has work and for `--poll-us` after; then its
//! notifications are switched on and it is left alone until its descriptor fires. The cost of a round is that of the active
//! sources, however many ports wait.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vswitch::{Nanos, PortId};

use super::deliver::{Blocked, Delivery, Patience, own_frame};
use super::forward::report;
use super::gather::{self, Gathering};
use super::sleep::Sleeper;
use super::source::{Kind, Source, has_more, load, receive, still_there, token};
use super::{FLOWS, Handle, Own, Port, Shared, View, now};
use crate::guest::burst::Burst;
use crate::guest::ring::{Queue, RingError};
use crate::guest::tsc;
use crate::spec::{DataplaneError, PollMode};

/// Time between two looks at what has no descriptor: ageing, links that went down.
const HOUSEKEEPING: Nanos = 1_000_000_000;
/// A busy worker looks at the descriptors of its resting sources this often, so that they are not forgotten.
const GLANCE: Nanos = 20_000;
/// Empty rounds in a row after which a worker lets others have its CPU, if any want it: on a CPU of its own that costs it next to nothing, and
/// on a shared one it would else look at empty rings for as long as what fills them is kept from running.
const EMPTY: u32 = 32;

/// One worker.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) handle: Arc<Handle>,
    pub(super) view: Arc<View>,
    pub(super) sources: Vec<Option<Box<Source>>>,
    pub(super) by_key: HashMap<(PortId, usize), usize>,
    pub(super) active: Vec<usize>,
    pub(super) delivery: Delivery,
    pub(super) burst: Burst,
    pub(super) sleeper: Sleeper,
    pub(super) ready: Vec<u32>,
    pub(super) next_housekeeping: Nanos,
    pub(super) next_glance: Nanos,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, handle: Arc<Handle>) -> Result<Self, DataplaneError> {
        let sleeper = Sleeper::new(&handle.wake)?;
        let view = shared.view();
        Ok(Self {
            delivery: Delivery::new(super::seed(), FLOWS),
            shared,
            handle,
            view,
            sources: Vec::new(),
            by_key: HashMap::new(),
            active: Vec::new(),
            burst: Burst::default(),
            sleeper,
            ready: Vec::new(),
            next_housekeeping: 0,
            next_glance: 0,
        })
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        self.handle.attention.store(true, Ordering::SeqCst);
        // Naps are shorter than the 50 µs by which the kernel is late otherwise; if it stays late, they are longer.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1000));
        let mut start = tsc::cycles();
        let mut empty = 0;
        while !self.handle.stop.load(Ordering::Relaxed) {
            if self.handle.attention.load(Ordering::Relaxed) {
                self.handle.attention.store(false, Ordering::SeqCst);
                self.refresh();
            }
            let now = tsc::nanos(start);
            let moved = self.round(now);
            self.delivery.watch.flush();
            if now >= self.next_housekeeping {
                self.next_housekeeping = now + HOUSEKEEPING;
                self.keep_house(now);
            }
            let end = tsc::cycles();
            let counters = &self.handle.counters;
            if moved > 0 {
                counters.frames.add(moved as u64);
                counters.bursts.add(1);
                counters.busy_cycles.add(end - start);
                empty = 0;
                report(&mut self.delivery.forwarder, &self.shared, &self.view);
            } else {
                counters.idle_cycles.add(end - start);
                empty += 1;
                if empty == EMPTY {
                    empty = 0;
                    rustix::thread::sched_yield();
                }
            }
            start = end;
            if now >= self.next_glance && self.active.len() < self.by_key.len() {
                self.next_glance = now + GLANCE;
                self.doze(0);
            }
            if moved == 0 && self.shared.poll != PollMode::Busy {
                if self.is_gathering() {
                    gather::nap();
                }
                self.settle(now);
                if self.active.is_empty() {
                    self.sleep();
                    start = tsc::cycles();
                }
            }
        }
    }

    // === a round ===

    fn round(&mut self, now: Nanos) -> usize {
        let mut moved = 0;
        for position in 0..self.active.len() {
            let slot = self.active[position];
            let Some(mut source) = self.sources[slot].take() else { continue };
            let mut count = if source.releasing { self.release(&mut source, now) } else { 0 };
            count += self.poll(&mut source, now);
            if count > 0 {
                source.last_work = now;
                moved += count;
            }
            self.sources[slot] = Some(source);
        }
        if self.view.snapshot.extensions().is_some() {
            self.delivery.settle_effects(&self.view, &self.shared, &self.handle);
        }
        moved
    }

    /// Moves what is held for a port; returns the number of frames that are gone.
    #[cold]
    fn release(&mut self, source: &mut Source, now: Nanos) -> usize {
        if !source.held.is_empty() && !has_more(&source.held) {
            return 0;
        }
        source.held.clear();
        let Some(port) = source.keeper().cloned() else { return 0 };
        let (moved, more) = self.delivery.release(
            &self.view,
            &self.shared,
            &self.handle.counters,
            now,
            &port,
            &mut self.burst,
            &mut source.held,
        );
        source.releasing = more;
        moved
    }

    /// Moves what one source has; returns the number of frames that are finished.
    fn poll(&mut self, source: &mut Source, now: Nanos) -> usize {
        let patience = match source.blocked_since {
            Some(since) if now - since >= u64::from(self.view.snapshot.config().rx_wait_us) * 1000 => {
                Patience::Expired
            }
            Some(_) if !has_more(&source.blocked) => return 0,
            _ => Patience::Wait,
        };
        source.blocked.clear();
        let (moved, broken) = match &mut source.kind {
            Kind::Guest { port, pair, .. } => {
                let queue = &port.queues[2 * *pair + 1];
                let result = Self::poll_ring(
                    &mut self.delivery,
                    &self.view,
                    &self.shared,
                    &self.handle,
                    &mut self.burst,
                    now,
                    source.id,
                    queue,
                    patience,
                    &mut source.blocked,
                );
                match result {
                    Ok(moved) => (moved, None),
                    Err(error) => (0, Some((Arc::clone(port), Arc::clone(queue), error))),
                }
            }
            Kind::Link { port, received, pending, gathering, .. } => {
                if *pending == 0 || gathering.is_on() {
                    if *pending == 0 {
                        received.clear();
                    }
                    *pending |= receive(port, received, &self.shared);
                    let tunnels = self.view.snapshot.nv().is_some();
                    if *pending != 0 && gathering.go_on(received, now, tunnels) {
                        return 0;
                    }
                }
                load(&mut self.burst, received, *pending);
                let finished = if self.burst.count == 0 {
                    0
                } else {
                    self.delivery.forward(
                        &self.view,
                        &self.shared,
                        &self.handle.counters,
                        now,
                        source.id,
                        &mut self.burst,
                        patience,
                        &mut source.blocked,
                    )
                };
                *pending &= !finished;
                (finished.count_ones() as usize, None)
            }
        };
        if let Some((port, queue, error)) = broken {
            port.stop_queue(&queue, &error);
        }
        source.blocked_since = match (source.blocked.is_empty(), source.blocked_since) {
            (true, _) => None,
            // Whatever moved, the wait of those that are still there began anew: the receiver lives.
            (false, Some(since)) if moved == 0 => Some(since),
            (false, _) => Some(now),
        };
        moved
    }

    #[allow(clippy::too_many_arguments)] // the parts of a worker that a burst meets
    fn poll_ring(
        delivery: &mut Delivery,
        view: &View,
        shared: &Shared,
        handle: &Handle,
        burst: &mut Burst,
        now: Nanos,
        from: PortId,
        queue: &Queue,
        patience: Patience,
        blocked: &mut Blocked,
    ) -> Result<usize, RingError> {
        let mut ring = queue.lock();
        burst.clear();
        ring.take(burst)?;
        if burst.count == 0 {
            return Ok(0);
        }
        if let Some(error) = ring.vanished() {
            return Err(error);
        }
        let finished = delivery.forward(view, shared, &handle.counters, now, from, burst, patience, blocked);
        ring.complete(burst, finished);
        ring.publish();
        Ok(finished.count_ones() as usize)
    }

    // === changes ===

    /// Follows a new view, and queues that started, stopped or got another kick.
    fn refresh(&mut self) {
        let view = self.shared.view();
        self.empty_links(&view);
        self.delivery.watch.follow(&view.watchers);
        self.view = view;
        let mut wanted = HashMap::new();
        for port in self.view.ports() {
            match port {
                Port::Guest(guest) => {
                    for (pair, owner) in guest.owners.iter().enumerate() {
                        if owner.id() == self.handle.id {
                            wanted.insert((guest.spec.id, pair), port.clone());
                        }
                    }
                }
                Port::Link(link) if link.owner == self.handle.id => {
                    wanted.insert((link.id, 0), port.clone());
                }
                Port::Link(_) => {}
            }
        }
        let gone: Vec<_> =
            self.by_key.iter().filter(|(key, _)| !wanted.contains_key(*key)).map(|(k, s)| (*k, *s)).collect();
        for (key, slot) in gone {
            self.by_key.remove(&key);
            self.drop_source(slot);
        }
        for ((id, pair), port) in wanted {
            if !self.by_key.contains_key(&(id, pair)) {
                self.add_source(id, pair, port);
            }
        }
        self.handle.queues.store(self.by_key.len() as u64, Ordering::Relaxed);
        for slot in 0..self.sources.len() {
            if let Some(source) = self.sources[slot].as_mut()
                && source.keeper().is_some_and(|port| port.take_errand())
            {
                source.releasing = true;
                source.held.clear();
            }
            self.watch_kicks(slot);
        }
        if self.handle.unblocked.swap(false, Ordering::SeqCst) {
            self.activate_blocked();
        }
        let frames =
            std::mem::take(&mut *self.handle.inbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for (port, own) in frames {
            let (view, shared, counters) = (&self.view, &self.shared, &self.handle.counters);
            let (burst, now) = (&mut self.burst, now());
            match own {
                Own::Sent(bytes) => {
                    own_frame(burst, &bytes);
                    let (patience, mut blocked) = (Patience::Expired, Blocked::default());
                    self.delivery.forward(view, shared, counters, now, port, burst, patience, &mut blocked);
                }
                Own::Added(by, bytes) => {
                    let handle = &self.handle;
                    self.delivery.send_added(view, shared, handle, now, port, burst, &by, &bytes);
                }
                Own::Announced(frames) => {
                    self.delivery.announce(view, shared, counters, now, port, burst, &frames);
                }
                Own::Out(frames) => {
                    self.delivery.send_out(view, shared, counters, now, port, burst, &frames);
                }
            }
        }
        self.handle.seen.store(self.view.version, Ordering::Release);
    }

    fn add_source(&mut self, id: PortId, pair: usize, port: Port) {
        let kind = match port {
            Port::Guest(port) => Kind::Guest { port, pair, kicks: Default::default() },
            Port::Link(port) => {
                let (received, gathering) = (Box::default(), Gathering::default());
                Kind::Link { port, received, pending: 0, gathering, was_up: true }
            }
        };
        let slot = self.sources.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sources.push(None);
            self.sources.len() - 1
        });
        if let Kind::Link { port, .. } = &kind
            && let Err(error) = self.sleeper.add(port.link.raw_fd(), token(slot, 0))
        {
            log::warn!("port {id}: cannot wait for frames: {error}");
        }
        self.sources[slot] = Some(Box::new(Source {
            id,
            kind,
            active: false,
            last_work: 0,
            blocked_since: None,
            blocked: Blocked::default(),
            releasing: false,
            held: Blocked::default(),
        }));
        self.by_key.insert((id, pair), slot);
        self.activate(slot);
    }

    /// Sends on what links that are not ours any more had given us: whoever has them now has their sockets, but not what was taken out of them.
    fn empty_links(&mut self, view: &View) {
        let now = now();
        for source in self.sources.iter_mut().flatten() {
            let Kind::Link { port, received, pending, gathering, .. } = &mut source.kind else { continue };
            let stays =
                matches!(view.port(source.id), Some(Port::Link(link)) if link.owner == self.handle.id);
            if stays || !port.is_running() {
                continue;
            }
            *gathering = Gathering::default();
            loop {
                if *pending == 0 {
                    *pending = still_there(received);
                }
                if *pending == 0 {
                    break;
                }
                load(&mut self.burst, received, *pending);
                let (view, shared, counters) = (&self.view, &self.shared, &self.handle.counters);
                let (burst, patience, mut blocked) = (&mut self.burst, Patience::Expired, Blocked::default());
                self.delivery.forward(view, shared, counters, now, source.id, burst, patience, &mut blocked);
                *pending = 0;
            }
        }
    }

    fn drop_source(&mut self, slot: usize) {
        let Some(source) = self.sources[slot].take() else { return };
        self.active.retain(|&s| s != slot);
        match &source.kind {
            Kind::Guest { kicks, .. } => {
                for (which, watch) in kicks.iter().enumerate() {
                    if let Some(file) = &watch.file {
                        self.sleeper.remove(file.as_raw_fd(), token(slot, which));
                    }
                }
            }
            Kind::Link { port, .. } => self.sleeper.remove(port.link.raw_fd(), token(slot, 0)),
        }
    }

    /// Registers the kicks in force of one source and looks at its rings again if they changed.
    fn watch_kicks(&mut self, slot: usize) {
        let Some(source) = self.sources[slot].as_mut() else { return };
        let Kind::Guest { port, pair, kicks } = &mut source.kind else { return };
        for (which, watch) in kicks.iter_mut().enumerate() {
            let queue = &port.queues[2 * *pair + which];
            if queue.kick_generation() == watch.generation {
                continue;
            }
            if let Some(file) = watch.file.take() {
                self.sleeper.remove(file.as_raw_fd(), token(slot, which));
            }
            let (generation, file) = queue.kick();
            watch.generation = generation;
            if let Some(file) = file {
                match self.sleeper.add(file.as_raw_fd(), token(slot, which)) {
                    Ok(()) => watch.file = Some(file),
                    Err(error) => log::warn!("port {}: cannot wait for a kick: {error}", source.id),
                }
            }
        }
        self.activate(slot);
    }

    pub(super) fn activate(&mut self, slot: usize) {
        if let Some(source) = self.sources.get_mut(slot).and_then(Option::as_mut) {
            source.last_work = now();
            if !source.active {
                source.active = true;
                self.active.push(slot);
                if let Some(queue) = source.tx() {
                    queue.lock().disarm();
                }
            }
        }
    }

    fn activate_blocked(&mut self) {
        for slot in 0..self.sources.len() {
            if self.sources[slot]
                .as_ref()
                .is_some_and(|s| !s.active && (s.blocked_since.is_some() || s.releasing))
            {
                self.activate(slot);
            }
        }
    }
}
