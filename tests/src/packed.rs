//! The driver's side of one packed virtqueue, as virtio 1.2 section 2.8 describes it: what [`Ring`](crate::ring::Ring) does where packed rings were
//! negotiated.
//!
//! The three parts lie where a split ring has its own: descriptors in the place of the table, the driver's event suppression in that of the available
//! ring, the device's in that of the used ring.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::memory::Memory;
use crate::ring::{Buffer, Descriptor, INDIRECT, NEXT, WRITE};

/// Descriptor flags that say whose it is.
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// In a place: the wrap counter.
const WRAP: u16 = 1 << 15;
const DISABLE: u16 = 1;
const EXACT: u16 = 2;

/// One side's place in the ring: index, and the wrap counter in bit 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u16);

impl Place {
    fn index(self) -> u16 {
        self.0 & !WRAP
    }

    fn plus(self, count: u16, size: u16) -> Self {
        let index = self.index() + count;
        let lap = self.0 & WRAP;
        if index < size { Self(lap | index) } else { Self((lap ^ WRAP) | (index - size)) }
    }
}

/// A packed virtqueue.
#[derive(Debug)]
pub struct Packed {
    size: u16,
    desc: u64,
    driver: u64,
    device: u64,
    memory: Arc<Memory>,
    event_idx: bool,
    in_order: bool,
    /// What is made available next.
    pub avail: Place,
    /// What is looked at next for being used.
    pub used: Place,
    free: u16,
    ids: Vec<u16>,
    /// Descriptors of each chain that is on its way, by id.
    chains: HashMap<u16, u16>,
    /// Their ids, in the order in which they were offered.
    order: VecDeque<u16>,
    /// Id and length of the used descriptor that stands for a batch of which not all is taken.
    batch: Option<(u16, u32)>,
    /// Descriptors made available since the last decision on a kick.
    fresh: u16,
}

impl Packed {
    /// A ring of zeroes with its parts at these addresses.
    #[must_use]
    pub fn new(
        memory: &Arc<Memory>,
        size: u16,
        [desc, driver, device]: [u64; 3],
        event_idx: bool,
        in_order: bool,
    ) -> Self {
        let mut ring = Self {
            size,
            desc,
            driver,
            device,
            memory: memory.clone(),
            event_idx,
            in_order,
            avail: Place(WRAP),
            used: Place(WRAP),
            free: size,
            ids: Vec::new(),
            chains: HashMap::new(),
            order: VecDeque::new(),
            batch: None,
            fresh: 0,
        };
        ring.reset();
        ring
    }

    /// Begins anew, as a driver does after a device reset.
    pub fn reset(&mut self) {
        self.memory.write(self.desc, &vec![0; 16 * usize::from(self.size)]);
        self.memory.write(self.driver, &[0; 4]);
        self.memory.write(self.device, &[0; 4]);
        (self.avail, self.used, self.free, self.fresh) = (Place(WRAP), Place(WRAP), self.size, 0);
        self.ids = (0..self.size).rev().collect();
        self.chains.clear();
        self.order.clear();
        self.batch = None;
    }

    /// Descriptors that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        usize::from(self.free)
    }

    /// Chains offered and not yet taken back.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.chains.len() as u16
    }

    /// Offers a chain of buffers and returns its id, or `None` if too few descriptors are free.
    pub fn offer(&mut self, buffers: &[Buffer]) -> Option<u16> {
        let flags = |i: usize, buffer: &Buffer| {
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            more | if buffer.writable { WRITE } else { 0 }
        };
        let entries: Vec<_> = buffers.iter().enumerate().map(|(i, b)| (b.addr, b.len, flags(i, b))).collect();
        self.put(&entries)
    }

    /// Offers the buffers through a table at `tables` plus 1024 bytes for each id.
    pub fn offer_indirect(&mut self, buffers: &[Buffer], tables: u64) -> Option<u16> {
        let table = tables + 1024 * u64::from(*self.ids.last()?);
        for (i, buffer) in buffers.iter().enumerate() {
            let flags = if buffer.writable { WRITE } else { 0 };
            // Words of a packed descriptor: the id before the flags.
            let entry = Descriptor { addr: buffer.addr, len: buffer.len, flags: 0, next: flags };
            self.memory.write(table + 16 * i as u64, &entry.to_bytes());
        }
        self.put(&[(table, 16 * buffers.len() as u32, INDIRECT)])
    }

    fn put(&mut self, entries: &[(u64, u32, u16)]) -> Option<u16> {
        let slots = entries.len() as u16;
        if self.free < slots || slots == 0 {
            return None;
        }
        let id = self.ids.pop()?;
        // The first descriptor's flags last.
        for (i, &(addr, len, flags)) in entries.iter().enumerate().rev() {
            self.write(self.avail.plus(i as u16, self.size), addr, len, id, flags);
        }
        self.avail = self.avail.plus(slots, self.size);
        self.free -= slots;
        self.fresh += slots;
        self.chains.insert(id, slots);
        self.order.push_back(id);
        Some(id)
    }

    /// Writes a descriptor and makes it available at `at`, whatever it says.
    pub fn write(&self, at: Place, addr: u64, len: u32, id: u16, flags: u16) {
        let whose = if at.0 & WRAP == 0 { USED } else { AVAILABLE };
        let place = self.desc + 16 * u64::from(at.index());
        let entry = Descriptor { addr, len, flags: id, next: 0 };
        self.memory.write(place, &entry.to_bytes()[..14]);
        fence(Ordering::Release);
        self.memory.store_u16(place + 14, flags | whose);
    }

    /// Whether the next chain is used.
    #[must_use]
    pub fn is_used(&self) -> bool {
        let flags = self.memory.load_u16(self.desc + 16 * u64::from(self.used.index()) + 14);
        let want = if self.used.0 & WRAP == 0 { 0 } else { AVAILABLE | USED };
        self.batch.is_some() || !self.chains.is_empty() && flags & (AVAILABLE | USED) == want
    }

    /// Takes back the next used chain: its id and the number of bytes written to it.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        if !self.is_used() {
            return None;
        }
        let (last, len) = self.batch.take().unwrap_or_else(|| {
            fence(Ordering::Acquire);
            let entry = self.memory.read(self.desc + 16 * u64::from(self.used.index()), 16);
            let len = u32::from_le_bytes(entry[8..12].try_into().unwrap());
            (u16::from_le_bytes(entry[12..14].try_into().unwrap()), len)
        });
        let position = self.order.iter().position(|id| *id == last);
        let position = position.unwrap_or_else(|| panic!("chain {last} is used, but is not offered"));
        // In order, one used descriptor may stand for all up to its chain (§2.8.8); of the others nothing was written.
        let (id, len) = if self.in_order && position > 0 {
            self.batch = Some((last, len));
            (self.order.pop_front().expect("there is one"), 0)
        } else {
            self.order.remove(position);
            (last, len)
        };
        let slots = self.chains.remove(&id).expect("known with its id");
        self.used = self.used.plus(slots, self.size);
        self.free += slots;
        self.ids.push(id);
        Some((id, len))
    }

    /// Whether the device wants to be kicked for what was offered since this was last asked.
    pub fn wants_kick(&mut self) -> bool {
        fence(Ordering::SeqCst); // the descriptors must be out before the device's wish is read
        let fresh = std::mem::take(&mut self.fresh);
        let (at, flags) =
            (Place(self.memory.load_u16(self.device)), self.memory.load_u16(self.device + 2) & 3);
        match flags {
            DISABLE => false,
            EXACT if self.event_idx => {
                // Is it one of those?
                (1..=fresh).any(|n| {
                    let a_lap_later = self.avail.plus(self.size - n, self.size);
                    Place(a_lap_later.0 ^ WRAP) == at
                })
            }
            _ => fresh != 0,
        }
    }

    /// Asks not to be called.
    pub fn suppress_calls(&self) {
        self.memory.store_u16(self.driver + 2, DISABLE);
    }

    /// Asks to be called for the next used chain. Returns true if one is there already.
    pub fn want_calls(&self) -> bool {
        if self.event_idx {
            self.memory.store_u16(self.driver, self.used.0);
            fence(Ordering::Release);
            self.memory.store_u16(self.driver + 2, EXACT);
        } else {
            self.memory.store_u16(self.driver + 2, 0);
        }
        fence(Ordering::SeqCst); // the wish must be out before the descriptor is read
        self.is_used()
    }
}
