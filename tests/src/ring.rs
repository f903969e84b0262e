//! The driver's side of one split virtqueue, as virtio 1.2 section 2.7 describes it, or where those were negotiated of a packed one
//! ([`packed`](crate::packed)).
//!
//! Well-behaved use is [`Ring::offer`] and [`Ring::take`]; everything below (`write_descriptor`, `write_available`,
//! `set_available_index` …) is public too and checks nothing, so that a test can be any driver it likes.
//! A ring does not wait for anything: its owner waits on [`Ring::call`].

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::memory::Memory;
use crate::packed::Packed;

/// Descriptor flag: the chain goes on at `next`.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes this buffer.
pub const WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// One descriptor as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

impl Descriptor {
    /// The descriptor's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

impl Buffer {
    /// A buffer the device reads.
    #[must_use]
    pub fn readable(addr: u64, len: u32) -> Self {
        Self { addr, len, writable: false }
    }

    /// A buffer the device writes.
    #[must_use]
    pub fn writable(addr: u64, len: u32) -> Self {
        Self { addr, len, writable: true }
    }
}

/// The driver's side of one split virtqueue.
#[derive(Debug)]
pub struct Ring {
    /// vhost-user's index of the ring: even ones receive, odd ones send.
    pub index: u32,
    /// Number of entries, a power of two.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// Signalled to the device.
    pub kick: EventFd,
    /// Signalled by the device.
    pub call: EventFd,
    /// Signalled by the device when the ring is broken.
    pub err: EventFd,
    /// Times the device was kicked.
    pub kicks: u64,
    /// Available index: what the driver will offer next.
    pub next_avail: u16,
    /// Used index up to which the driver has taken.
    pub next_used: u16,
    memory: Arc<Memory>,
    event_idx: bool,
    /// Where indirect tables are, one per head.
    tables: u64,
    free: Vec<u16>,
    /// Descriptors (beside the head) that each offered chain holds.
    chains: Vec<Option<Vec<u16>>>,
    /// Available index at the time of the last kick decision.
    kicked_at: u16,
    /// The ring, if it is a packed one; indices above are places then.
    pub packed: Option<Packed>,
}

/// Most descriptors of an indirect table made by [`Ring::offer_indirect`].
pub const MAX_INDIRECT: usize = 64;

impl Ring {
    /// Lays a ring out in region `region` of `memory`. `first` is the index both sides start at.
    #[must_use]
    pub fn new(
        memory: &Arc<Memory>,
        region: usize,
        index: u32,
        size: u16,
        first: u16,
        event_idx: bool,
    ) -> Self {
        let entries = u64::from(size);
        let eventfd = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).expect("eventfd");
        let ring = Self {
            index,
            size,
            desc: memory.alloc_in(region, 16 * entries, 16),
            avail: memory.alloc_in(region, 6 + 2 * entries, 2),
            used: memory.alloc_in(region, 6 + 8 * entries, 4),
            kick: eventfd(),
            call: eventfd(),
            err: eventfd(),
            kicks: 0,
            next_avail: first,
            next_used: first,
            memory: memory.clone(),
            event_idx,
            tables: memory.alloc_in(region, 16 * MAX_INDIRECT as u64 * entries, 16),
            free: (0..size).rev().collect(),
            chains: vec![None; usize::from(size)],
            kicked_at: first,
            packed: None,
        };
        ring.write_indexes(first);
        ring
    }

    /// Makes it a packed ring that begins at the beginning.
    #[must_use]
    pub fn into_packed(mut self, in_order: bool) -> Self {
        let parts = [self.desc, self.avail, self.used];
        let packed = Packed::new(&self.memory, self.size, parts, self.event_idx, in_order);
        (self.next_avail, self.next_used) = (packed.avail.0, packed.used.0);
        self.packed = Some(packed);
        self
    }

    /// Does something with the packed ring, if it is one, and follows where it is.
    fn packed<R>(&mut self, act: impl FnOnce(&mut Packed) -> R) -> Option<R> {
        let packed = self.packed.as_mut()?;
        let result = act(packed);
        (self.next_avail, self.next_used) = (packed.avail.0, packed.used.0);
        Some(result)
    }

    fn write_indexes(&self, first: u16) {
        self.memory.store_u16(self.avail, 0);
        self.memory.store_u16(self.avail + 2, first);
        self.memory.store_u16(self.used, 0);
        self.memory.store_u16(self.used + 2, first);
        self.memory.store_u16(self.used_event_address(), first);
        self.memory.store_u16(self.avail_event_address(), first);
    }

    /// Forgets everything offered and starts over at `first`, as a driver does after a device reset.
    pub fn reset(&mut self, first: u16) {
        if self.packed(Packed::reset).is_some() {
            return;
        }
        self.next_avail = first;
        self.next_used = first;
        self.kicked_at = first;
        self.free = (0..self.size).rev().collect();
        self.chains = vec![None; usize::from(self.size)];
        self.write_indexes(first);
    }

    /// Descriptors that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        if let Some(packed) = &self.packed {
            return packed.free();
        }
        self.free.len()
    }

    /// Chains offered and not yet taken back.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        if let Some(packed) = &self.packed {
            return packed.in_flight();
        }
        self.next_avail.wrapping_sub(self.next_used)
    }

    /// Offers a chain of buffers and returns its head, or `None` if too few descriptors are free. Does not kick.
    pub fn offer(&mut self, buffers: &[Buffer]) -> Option<u16> {
        if let Some(id) = self.packed(|ring| ring.offer(buffers)) {
            return id;
        }
        if self.free.len() < buffers.len() || buffers.is_empty() {
            return None;
        }
        let ids: Vec<u16> = buffers.iter().filter_map(|_| self.free.pop()).collect();
        for (position, (&id, buffer)) in ids.iter().zip(buffers).enumerate() {
            let next = ids.get(position + 1);
            let mut flags = if buffer.writable { WRITE } else { 0 };
            flags |= if next.is_some() { NEXT } else { 0 };
            let next = next.copied().unwrap_or(0);
            self.write_descriptor(id, Descriptor { addr: buffer.addr, len: buffer.len, flags, next });
        }
        Some(self.publish(ids))
    }

    /// Offers the buffers through an indirect table: one descriptor of the ring whatever their number.
    pub fn offer_indirect(&mut self, buffers: &[Buffer]) -> Option<u16> {
        assert!(buffers.len() <= MAX_INDIRECT, "{} buffers, at most {MAX_INDIRECT}", buffers.len());
        let tables = self.tables;
        if let Some(id) = self.packed(|ring| ring.offer_indirect(buffers, tables)) {
            return id;
        }
        let head = self.free.pop()?;
        let table = self.tables + u64::from(head) * 16 * MAX_INDIRECT as u64;
        for (position, buffer) in buffers.iter().enumerate() {
            let last = position + 1 == buffers.len();
            let flags = if buffer.writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let next = if last { 0 } else { position as u16 + 1 };
            let entry = Descriptor { addr: buffer.addr, len: buffer.len, flags, next };
            self.memory.write(table + 16 * position as u64, &entry.to_bytes());
        }
        let len = 16 * buffers.len() as u32;
        self.write_descriptor(head, Descriptor { addr: table, len, flags: INDIRECT, next: 0 });
        Some(self.publish(vec![head]))
    }

    fn publish(&mut self, ids: Vec<u16>) -> u16 {
        let head = ids[0];
        self.chains[usize::from(head)] = Some(ids);
        self.offer_head(head);
        head
    }

    /// Writes a head into the next available entry and moves the index, whatever the head is. Does not kick.
    pub fn offer_head(&mut self, head: u16) {
        self.write_available(self.next_avail, head);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.set_available_index(self.next_avail);
    }

    /// Takes back the next used chain: its head and the number of bytes written to it.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        if let Some(taken) = self.packed(Packed::take) {
            return taken;
        }
        if self.used_index() == self.next_used {
            return None;
        }
        let slot = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        let entry = self.memory.read(slot, 8);
        let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        let (id, len) = (word(0), word(4));
        let chain = self.chains.get_mut(id as usize).and_then(Option::take);
        let chain =
            chain.unwrap_or_else(|| panic!("ring {}: chain {id} is used, but is not offered", self.index));
        self.free.extend(chain.into_iter().rev());
        self.next_used = self.next_used.wrapping_add(1);
        Some((id as u16, len))
    }

    /// Offers everything that the device is done with once more as it is; says how much that was. All entries of the available ring must have
    /// been offered before, each a chain that stays as it is: then only indices move, and millions of frames a second cost the driver little.
    pub fn again(&mut self) -> u16 {
        let used = self.used_index();
        let done = used.wrapping_sub(self.next_used);
        if done > 0 {
            self.next_used = used;
            self.next_avail = self.next_avail.wrapping_add(done);
            self.set_available_index(self.next_avail);
            self.notify();
        }
        done
    }

    /// Kicks the device if it wants to know (it did not suppress notifications); says whether it was kicked.
    pub fn notify(&mut self) -> bool {
        if let Some(wanted) = self.packed(Packed::wants_kick) {
            if wanted {
                self.kick_anyway();
            }
            return wanted;
        }
        fence(Ordering::SeqCst); // the available index must be out before the device's wish is read
        let wanted = if self.event_idx {
            let event = self.memory.load_u16(self.avail_event_address());
            // vring_need_event() of the virtio specification.
            self.next_avail.wrapping_sub(event).wrapping_sub(1) < self.next_avail.wrapping_sub(self.kicked_at)
        } else {
            self.memory.load_u16(self.used) & USED_NO_NOTIFY == 0
        };
        self.kicked_at = self.next_avail;
        if wanted {
            self.kick_anyway();
        }
        wanted
    }

    /// Kicks the device whether it wants to know or not.
    pub fn kick_anyway(&mut self) {
        self.kicks += 1;
        self.kick.write(1).expect("kick");
    }

    /// Asks not to be called; the device may ignore that without `EVENT_IDX`, but the switch does not.
    pub fn suppress_calls(&mut self) {
        if let Some(packed) = &self.packed {
            return packed.suppress_calls();
        }
        if self.event_idx {
            // An index half the number space away is reached last.
            self.memory
                .store_u16(self.used_event_address(), self.next_used.wrapping_sub(1).wrapping_add(0x8000));
        } else {
            self.memory.store_u16(self.avail, AVAIL_NO_INTERRUPT);
        }
    }

    /// Asks to be called for the next used chain. Returns true if one is there already: then do not sleep.
    #[must_use]
    pub fn want_calls(&mut self) -> bool {
        if let Some(packed) = &self.packed {
            return packed.want_calls();
        }
        if self.event_idx {
            self.memory.store_u16(self.used_event_address(), self.next_used);
        } else {
            self.memory.store_u16(self.avail, 0);
        }
        fence(Ordering::SeqCst); // the wish must be out before the used index is read
        self.used_index() != self.next_used
    }

    /// With `EVENT_IDX`: asks to be called when the used index passes `index`.
    pub fn want_call_at(&self, index: u16) {
        assert!(self.event_idx, "only EVENT_IDX can say when");
        self.memory.store_u16(self.used_event_address(), index);
    }

    /// Calls received since this was last asked.
    pub fn calls(&self) -> u64 {
        self.call.read().unwrap_or(0)
    }

    /// The device's used index. In a packed ring nothing tells it; something else than `next_used` if there is a chain to take.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        if let Some(packed) = &self.packed {
            return packed.used.0 ^ u16::from(packed.is_used());
        }
        self.memory.load_u16(self.used + 2)
    }

    /// The device's wish for notifications: `used.flags`, or `avail_event` with `EVENT_IDX`.
    #[must_use]
    pub fn device_wish(&self) -> u16 {
        self.memory.load_u16(if self.event_idx { self.avail_event_address() } else { self.used })
    }

    /// Writes descriptor `index` of the table.
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        self.memory.write(self.desc + 16 * u64::from(index), &descriptor.to_bytes());
    }

    /// Writes the available entry that belongs to ring index `at`.
    pub fn write_available(&self, at: u16, head: u16) {
        self.memory.store_u16(self.avail + 4 + 2 * u64::from(at % self.size), head);
    }

    /// Writes the available index, so that the device sees the entries before it.
    pub fn set_available_index(&self, index: u16) {
        self.memory.store_u16(self.avail + 2, index);
    }

    fn used_event_address(&self) -> u64 {
        self.avail + 4 + 2 * u64::from(self.size)
    }

    fn avail_event_address(&self) -> u64 {
        self.used + 4 + 8 * u64::from(self.size)
    }
}
