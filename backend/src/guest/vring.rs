//! The control protocol's view of a queue.
//!
//! `PortVring` wraps the library's ring state and turns every change (addresses, kick, call, enable, ready, memory) into "this
//! ring runs" or "it does not" on the port's `Queue`. The library makes its rings itself, one after another on the thread that makes the daemon; a
//! thread-local tells them which port they belong to.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, MutexGuard};

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_bindings::{virtio_config, virtio_net, virtio_ring};
use virtio_queue::{Error as QueueError, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend};

use super::memory::{GuestRam, MAX_REGIONS, Memory};
use super::ring::{Queue, RingError, RingPlace, RingShape, set_nonblocking, signal};
use super::{GuestPort, dirty_log, lock};

/// Memory handle of the control protocol.
pub(super) type Ram = GuestMemoryAtomic<GuestRam>;

thread_local! {
    static BINDING: RefCell<Option<(Arc<GuestPort>, usize)>> = const { RefCell::new(None) };
}

/// Runs `make`, which creates the port's rings in index order, and returns its result; the rings are kept with the port.
pub(super) fn bind<R>(port: &Arc<GuestPort>, make: impl FnOnce() -> R) -> R {
    BINDING.set(Some((Arc::clone(port), 0)));
    let result = make();
    BINDING.set(None);
    result
}

/// One ring of a connected front end.
#[derive(Clone)]
pub(super) struct PortVring {
    inner: VringMutex<Ram>,
    port: Arc<GuestPort>,
    queue: Arc<Queue>,
    /// What the front end said; the library only takes powers of two, which packed rings need not be.
    size: Arc<AtomicU16>,
}

impl PortVring {
    /// Brings the queue into the state that the control protocol's settings ask for.
    fn sync(&self) {
        let _one_at_a_time = lock(&self.port.changing);
        self.sync_now();
    }

    /// The same for who has [`GuestPort::changing`].
    fn sync_now(&self) {
        let gated = self.port.gated.load(Ordering::SeqCst);
        let (wanted, place) = {
            let state = self.inner.get_ref();
            let queue = state.get_queue();
            let place = RingPlace {
                size: self.size.load(Ordering::Relaxed),
                desc: queue.desc_table(),
                avail: queue.avail_ring(),
                used: queue.used_ring(),
            };
            (queue.ready() && state.is_enabled(), place)
        };
        let memory = lock(&self.port.memory).clone();
        if gated && wanted && memory.is_some() {
            self.port.knocked.store(true, Ordering::SeqCst);
        }
        let mut ring = self.queue.lock();
        let result = match memory {
            Some(memory) if wanted && !ring.is_live() && !gated => {
                ring.start(memory, place, shape(self.port.features()))
            }
            _ if !wanted && ring.is_live() => {
                ring.stop();
                Ok(())
            }
            _ => return,
        };
        self.queue.set_live(ring.is_live());
        drop(ring);
        if let Err(error) = result {
            self.report(&error);
        }
        self.port.queue_changed(usize::from(self.queue.index));
    }

    fn report(&self, error: &RingError) {
        self.port.emit(vswitch::event::Event::QueueStopped {
            port: self.port.spec.id,
            queue: self.queue.index,
            reason: error.to_string(),
        });
    }

    fn stop(&self) {
        let mut ring = self.queue.lock();
        let was_live = ring.is_live();
        ring.stop();
        self.queue.set_live(false);
        drop(ring);
        if was_live {
            self.port.queue_changed(usize::from(self.queue.index));
        }
    }
}

/// Restarts every ring of the port on new memory (or a new feature set); rings that must not run stay stopped.
pub(super) fn restart_all(port: &GuestPort, change: impl FnOnce()) {
    let _one_at_a_time = lock(&port.changing);
    let vrings = lock(&port.vrings).clone();
    port.while_restarting(|| {
        for vring in &vrings {
            vring.stop();
        }
        change();
        for vring in &vrings {
            vring.sync_now();
        }
    });
}

/// See [`GuestPort::gate`].
pub(super) fn gate(port: &GuestPort, closed: bool) {
    let _one_at_a_time = lock(&port.changing);
    port.gated.store(closed, Ordering::SeqCst);
    port.knocked.store(false, Ordering::SeqCst);
    if !closed {
        let vrings = lock(&port.vrings).clone();
        vrings.iter().for_each(PortVring::sync_now);
    }
}

/// Stops every ring and forgets the front end's memory and descriptors. After it returns no worker uses either.
pub(super) fn release(port: &GuestPort) {
    let _one_at_a_time = lock(&port.changing);
    let vrings = std::mem::take(&mut *lock(&port.vrings));
    port.knocked.store(false, Ordering::SeqCst);
    for vring in &vrings {
        vring.stop();
        vring.queue.set_kick(None);
        let mut ring = vring.queue.lock();
        ring.set_call(None);
        ring.forget_base();
        drop(ring);
        // The owner may have looked between the two: without this it would wait on the old kick until something else happens.
        port.queue_changed(usize::from(vring.queue.index));
    }
    dirty_log::release(port);
    *lock(&port.memory) = None;
}

/// Replaces the port's memory by what the front end shared.
pub(super) fn set_memory(port: &GuestPort, ram: &Ram) -> io::Result<()> {
    let regions = ram.memory().num_regions();
    if regions > MAX_REGIONS {
        return Err(io::Error::other(format!("{regions} memory regions, at most {MAX_REGIONS}")));
    }
    let previous = lock(&port.memory).clone();
    let memory = Memory::new(ram.memory().into_inner(), previous.as_deref())
        .ok_or_else(|| io::Error::other("too many memory regions in use"))?;
    dirty_log::check(port, port.features(), &memory).map_err(io::Error::other)?;
    restart_all(port, || *lock(&port.memory) = Some(Arc::new(memory)));
    Ok(())
}

fn shape(features: u64) -> RingShape {
    let has = |bit: u32| features & 1 << bit != 0;
    let mergeable = has(virtio_net::VIRTIO_NET_F_MRG_RXBUF);
    // virtio 1.2 §5.1.6.1: only a legacy driver without mergeable buffers has the short header.
    let header_len = if mergeable || has(virtio_config::VIRTIO_F_VERSION_1) { 12 } else { 10 };
    RingShape {
        event_idx: has(virtio_ring::VIRTIO_RING_F_EVENT_IDX),
        indirect: has(virtio_ring::VIRTIO_RING_F_INDIRECT_DESC),
        mergeable,
        packed: has(virtio_config::VIRTIO_F_RING_PACKED),
        in_order: has(virtio_config::VIRTIO_F_IN_ORDER),
        header_len,
    }
}

impl<'a> VringStateGuard<'a, Ram> for PortVring {
    type G = MutexGuard<'a, VringState<Ram>>;
}

impl<'a> VringStateMutGuard<'a, Ram> for PortVring {
    type G = MutexGuard<'a, VringState<Ram>>;
}

impl VringT<Ram> for PortVring {
    fn new(mem: Ram, max_queue_size: u16) -> Result<Self, QueueError> {
        let inner = VringMutex::new(mem, max_queue_size)?;
        let (port, queue) = BINDING
            .with_borrow_mut(|binding| {
                let (port, next) = binding.as_mut()?;
                let queue = Arc::clone(port.queues.get(*next)?);
                *next += 1;
                Some((Arc::clone(port), queue))
            })
            .ok_or(QueueError::QueueNotReady)?;
        let vring = Self { inner, port, queue, size: Arc::new(AtomicU16::new(max_queue_size)) };
        lock(&vring.port.vrings).push(vring.clone());
        Ok(vring)
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<Ram>> {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<Ram>> {
        self.inner.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.inner.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.inner.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.inner.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.inner.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.inner.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        if !enabled && self.queue.index.is_multiple_of(2) && self.queue.is_live() {
            self.port.pause();
        }
        self.inner.set_enabled(enabled);
        self.sync();
    }

    fn set_queue_info(&self, desc_table: u64, avail_ring: u64, used_ring: u64) -> Result<(), QueueError> {
        let before = ring_addresses(&self.inner);
        self.inner.set_queue_info(desc_table, avail_ring, used_ring)?;
        // Front ends repeat the addresses of a running ring to switch logging; only a real move restarts it.
        if before != ring_addresses(&self.inner) {
            let _one_at_a_time = lock(&self.port.changing);
            self.port.while_restarting(|| {
                self.stop();
                self.sync_now();
            });
        }
        Ok(())
    }

    fn queue_next_avail(&self) -> u16 {
        self.queue.lock().base()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.queue.lock().set_base(base);
        self.inner.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.inner.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.inner.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.size.store(num, Ordering::Relaxed);
        self.inner.set_queue_size(num);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.inner.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.inner.set_queue_ready(ready);
        self.sync();
        if !ready {
            self.port.taken_down();
        }
    }

    fn set_kick(&self, file: Option<File>) {
        let kick = file.as_ref().and_then(|f| f.try_clone().ok()).map(Arc::new);
        self.queue.set_kick(kick);
        self.inner.set_kick(file);
        self.port.queue_changed(usize::from(self.queue.index));
    }

    fn read_kick(&self) -> io::Result<bool> {
        self.inner.read_kick()
    }

    fn set_call(&self, file: Option<File>) {
        let call = file.as_ref().and_then(|f| f.try_clone().ok()).map(Arc::new);
        if let Some(call) = &call {
            set_nonblocking(call);
        }
        let mut ring = self.queue.lock();
        // The ring may have run, and owed a notification, without this descriptor: with EVENT_IDX none would ever come again. One too
        // many does no harm.
        if let Some(call) = call.as_deref().filter(|_| ring.is_live()) {
            signal(call);
        }
        ring.set_call(call);
        drop(ring);
        self.inner.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        self.inner.set_err(file);
    }
}

fn ring_addresses(inner: &VringMutex<Ram>) -> (u64, u64, u64) {
    let state = inner.get_ref();
    let queue = state.get_queue();
    (queue.desc_table(), queue.avail_ring(), queue.used_ring())
}
