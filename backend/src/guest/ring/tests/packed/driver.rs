//! The driver's side of a packed ring (virtio 1.2 §2.8), written from the specification.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::super::driver::{AREA, AVAIL, BUFFERS, DESC, INDIRECT, NEXT, Ram, TABLES, USED, WRITE};
use crate::guest::ring::{PackedRing, RingPlace, RingShape};

pub(super) const AVAILABLE: u16 = 1 << 7;
pub(super) const DONE: u16 = 1 << 15;
const DISABLE: u16 = 1;
const EXACT: u16 = 2;

/// A chain that the driver made available.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) id: u16,
    pub(super) slots: u16,
    /// Guest address and length of each buffer.
    pub(super) buffers: Vec<(u64, u32)>,
}

impl Chain {
    pub(super) fn capacity(&self) -> usize {
        self.buffers.iter().map(|(_, len)| *len as usize).sum()
    }
}

/// Where one side is: descriptors since the very beginning. The lap's wrap counter is 1 in even laps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(pub(super) u64);

impl At {
    fn index(self, size: u16) -> u16 {
        (self.0 % u64::from(size)) as u16
    }

    fn wrap(self, size: u16) -> bool {
        (self.0 / u64::from(size)).is_multiple_of(2)
    }

    /// As a front end and event suppression structures say it.
    pub(super) fn told(self, size: u16) -> u16 {
        self.index(size) | u16::from(self.wrap(size)) << 15
    }
}

/// A driver with the ring it talks to.
pub(super) struct Driver {
    pub(super) ram: Ram,
    pub(super) ring: PackedRing,
    pub(super) size: u16,
    pub(super) shape: RingShape,
    pub(super) avail: At,
    /// Up to where the driver has looked for used descriptors.
    pub(super) seen: At,
    ids: Vec<u16>,
    /// Chains the device has not given back, in the order in which they were made available.
    pub(super) outstanding: Vec<Chain>,
    by_id: HashMap<u16, u16>,
    call: Arc<File>,
    /// Which descriptor's use is wished to be told, or none, or always.
    wish: Wish,
}

#[derive(Clone, Copy)]
enum Wish {
    Always,
    Never,
    At(At),
}

impl Driver {
    /// A driver that has sent and got `first` descriptors already, on a ring that runs.
    pub(super) fn new(size: u16, shape: RingShape, first: u64) -> Self {
        let call: File = File::from(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let mut this = Self {
            ram: Ram::new(),
            ring: PackedRing::default(),
            size,
            shape,
            avail: At(first),
            seen: At(first),
            ids: (0..size).rev().collect(),
            outstanding: Vec::new(),
            by_id: HashMap::new(),
            call: Arc::new(call),
            wish: Wish::Always,
        };
        // The flags of descriptors that were used once in each lap before.
        for at in first.saturating_sub(size.into())..first {
            let at = At(at);
            this.set_flags(at.index(size), if at.wrap(size) { AVAILABLE | DONE } else { 0 });
        }
        this.ring.call = Some(Arc::clone(&this.call));
        this.start(this.seen.told(size));
        this
    }

    /// Starts the ring where the front end says.
    pub(super) fn start(&mut self, base: u16) {
        let place = RingPlace { size: self.size, desc: DESC, avail: AVAIL, used: USED };
        self.ring.start(Arc::clone(&self.ram.memory), place, self.shape, base).unwrap();
        assert_eq!(self.ram.word(USED), self.ring.base(), "the place is kept");
    }

    pub(super) fn set_flags(&self, index: u16, flags: u16) {
        self.ram.set_word(DESC + 16 * u64::from(index) + 14, flags);
    }

    /// Whether the ring's memory need not say that the device is at `place`: nothing may look used after a chain over its end, and a place of 0
    /// is also what devices leave there that keep none.
    pub(super) fn is_mute(&self, place: u16) -> bool {
        place == 0 || (0..u64::from(self.size)).all(|index| self.ram.word(DESC + 16 * index + 14) & DONE == 0)
    }

    /// The flags that a descriptor gets which is made available at `at`.
    fn fresh(&self, at: At) -> u16 {
        if at.wrap(self.size) { AVAILABLE } else { DONE }
    }

    /// Descriptors that the driver may still write.
    fn room(&self) -> u16 {
        self.size - self.outstanding.iter().map(|chain| chain.slots).sum::<u16>()
    }

    /// Makes a chain of buffers with these lengths available, if there is room for it.
    pub(super) fn add(&mut self, lens: &[u32], indirect: bool, write: bool) -> Option<Chain> {
        let indirect = indirect && self.shape.indirect && lens.len() <= 16;
        let slots = if indirect { 1 } else { lens.len() as u16 };
        if self.room() < slots {
            return None;
        }
        // In order, ids are what the driver likes; otherwise the last that came back, as drivers do.
        let id = self.ids.pop().expect("as many ids as descriptors");
        let mut at = BUFFERS + u64::from(id) * u64::from(AREA);
        let mut buffers = Vec::new();
        for len in lens {
            buffers.push((at, *len));
            at += u64::from(*len);
        }
        assert!(lens.iter().sum::<u32>() <= AREA, "the area of one id");
        let direction = if write { WRITE } else { 0 };
        let table = TABLES + 256 * u64::from(id);
        let entries: Vec<(u64, u32, u16)> = if indirect {
            for (i, &(addr, len)) in buffers.iter().enumerate() {
                // Nothing but the direction means anything in a table, so the id is rubbish there.
                self.ram.set_desc(table, i as u16, addr, len, 0xdead, direction);
            }
            vec![(table, 16 * buffers.len() as u32, INDIRECT)]
        } else {
            let last = buffers.len() - 1;
            let more = |i: usize| if i < last { NEXT } else { 0 };
            buffers.iter().enumerate().map(|(i, &(addr, len))| (addr, len, direction | more(i))).collect()
        };
        // The first descriptor's flags last.
        for (i, &(addr, len, flags)) in entries.iter().enumerate().rev() {
            let at = At(self.avail.0 + i as u64);
            // Only the last one's id counts.
            let id = if i + 1 == entries.len() { id } else { 0xbeef };
            self.ram.set_desc(DESC, at.index(self.size), addr, len, id, flags | self.fresh(at));
        }
        self.avail.0 += u64::from(slots);
        let chain = Chain { id, slots, buffers };
        assert!(self.by_id.insert(id, slots).is_none());
        self.outstanding.push(chain.clone());
        Some(chain)
    }

    /// Looks for used descriptors: id and length of each chain since the last look. Every one must be outstanding.
    pub(super) fn reap(&mut self) -> Vec<(u16, u32)> {
        let mut reaped = Vec::new();
        loop {
            let desc = self.ram.read(DESC + 16 * u64::from(self.seen.index(self.size)), 16);
            let half = |at: usize| u16::from_le_bytes([desc[at], desc[at + 1]]);
            let done = if self.seen.wrap(self.size) { AVAILABLE | DONE } else { 0 };
            if half(14) & (AVAILABLE | DONE) != done || self.outstanding.is_empty() {
                return reaped;
            }
            let (id, len) = (half(12), u32::from_le_bytes(desc[8..12].try_into().unwrap()));
            let position = self.outstanding.iter().position(|chain| chain.id == id).expect("given back once");
            assert!(self.shape.in_order || position == 0, "always in order");
            for (back, chain) in self.outstanding.drain(..=position).enumerate() {
                assert!(self.by_id.remove(&chain.id).is_some());
                self.ids.push(chain.id);
                self.seen.0 += u64::from(chain.slots);
                // One descriptor for a batch says how much was written to the last of it alone.
                reaped.push((chain.id, if back == position { len } else { 0 }));
            }
        }
    }

    /// Says when the driver wants to be notified.
    pub(super) fn wish(&mut self, distance: u16) {
        self.wish = match distance % 4 {
            0 => Wish::Never,
            1 => Wish::Always,
            _ if self.shape.event_idx => {
                // Less than a lap away either way; what is further cannot be told from what is nearer.
                let (ahead, behind) = (distance / 4 % self.size.min(8), 2.min(self.size - 1));
                Wish::At(At((self.seen.0 + u64::from(ahead)).saturating_sub(behind.into())))
            }
            _ => Wish::Always,
        };
        let (at, flags) = match self.wish {
            Wish::Always => (0xffff, 0),
            Wish::Never => (0xffff, DISABLE),
            Wish::At(at) => (at.told(self.size), EXACT),
        };
        self.ram.set_word(AVAIL, at);
        self.ram.set_word(AVAIL + 2, flags);
    }

    /// Whether a device that has used what lies between these must notify (virtio 1.2 §2.8.10.1).
    pub(super) fn must_notify(&self, old: At, new: At) -> bool {
        match self.wish {
            Wish::Always => old != new,
            Wish::Never => false,
            Wish::At(at) => (old.0..new.0).contains(&at.0),
        }
    }

    /// Notifications since the last call.
    pub(super) fn notified(&self) -> u64 {
        let mut counter = [0; 8];
        // It fails when there was none.
        (&*self.call).read_exact(&mut counter).map_or(0, |()| u64::from_ne_bytes(counter))
    }

    /// Asks for a kick and compares with what the driver must then see; `base` is where the device is.
    pub(super) fn check_arm(&mut self, base: At) {
        let waiting = self.ring.arm();
        assert_eq!(waiting, self.avail != base, "buffers that are there need no kick");
        let (at, flags) = (self.ram.word(USED), self.ram.word(USED + 2));
        assert_eq!(at, base.told(self.size), "the place is always kept");
        // If the very next descriptor is not known to be there, its kick must come.
        assert!(flags == 0 || (flags == EXACT && self.shape.event_idx), "{flags}");
        self.ring.disarm();
        assert_eq!(self.ram.word(USED + 2), DISABLE, "no kicks while polling");
    }
}
