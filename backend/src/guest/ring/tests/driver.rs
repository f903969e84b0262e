//! The driver's side of a split ring, and the guest memory it lives in.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestRegionMmap};

use crate::guest::memory::{GuestRam, Memory, Span};
use crate::guest::ring::{RingPlace, RingShape, SplitRing};

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// What lies around and between the regions, and must never change or be seen.
const CANARY: u8 = 0xa5;
/// What lies in buffers that the device has not written.
pub(super) const POISON: u8 = 0xee;
const PAGE: usize = 4096;

/// Descriptor table, available ring and used ring of every test.
pub(super) const DESC: u64 = 0x1_0000;
pub(super) const AVAIL: u64 = 0x1_4000;
pub(super) const USED: u64 = 0x1_5000;
/// Indirect tables: one of 16 entries per descriptor.
pub(super) const TABLES: u64 = 0x1_8000;
const TABLE_ENTRIES: u64 = 16;
/// Where buffers begin: every descriptor has an area of its own, and some areas lie across two regions.
pub(super) const BUFFERS: u64 = 0x10_0000 + 1000;
pub(super) const AREA: u32 = 2048;

/// Guest address and length of each region. Those of the buffers follow each other in the guest, but not here.
const REGIONS: [(u64, usize); 4] =
    [(0x1_0000, 0x4_8000), (0x10_0000, 0x1000), (0x10_1000, 0x7000), (0x10_8000, 0x20_0000)];

/// Guest memory whose regions have a canary page before and after them.
pub(super) struct Ram {
    all: *mut u8,
    len: usize,
    /// Host address of each region.
    hosts: Vec<*mut u8>,
    pub(super) memory: Arc<Memory>,
}

impl Ram {
    pub(super) fn new() -> Self {
        let len = REGIONS.iter().map(|(_, len)| len + PAGE).sum::<usize>() + PAGE;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address the kernel chooses.
        let all = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) }.cast::<u8>();
        assert_ne!(all.cast(), libc::MAP_FAILED);
        let (mut at, mut hosts, mut regions) = (0, Vec::new(), Vec::new());
        for (guest, size) in REGIONS {
            // SAFETY: `at` and the region after it lie inside the mapping, which is kept as long as the region is used.
            let (host, mapping) = unsafe {
                all.add(at).write_bytes(CANARY, PAGE);
                let host = all.add(at + PAGE);
                let builder = MmapRegionBuilder::new(size).with_mmap_prot(prot).with_mmap_flags(flags);
                (host, builder.with_raw_mmap_pointer(host).build())
            };
            hosts.push(host);
            regions.push(GuestRegionMmap::new(mapping.unwrap(), GuestAddress(guest)).unwrap());
            at += PAGE + size;
        }
        // SAFETY: the last page of the mapping.
        unsafe { all.add(at).write_bytes(CANARY, PAGE) };
        let ram = GuestRam::from_regions(regions).unwrap();
        let memory = Arc::new(Memory::new(Arc::new(ram), None).expect("room for the guards"));
        Self { all, len, hosts, memory }
    }

    fn host(&self, addr: u64) -> *mut u8 {
        let region = REGIONS.iter().position(|&(start, len)| (start..start + len as u64).contains(&addr));
        let region = region.unwrap_or_else(|| panic!("{addr:#x} is no address of the driver's"));
        // SAFETY: inside the region by the line above.
        unsafe { self.hosts[region].add((addr - REGIONS[region].0) as usize) }
    }

    pub(super) fn write(&self, addr: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: `host` gives an address inside a region.
            unsafe { self.host(addr + i as u64).write(*byte) };
        }
    }

    pub(super) fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        // SAFETY: `host` gives an address inside a region.
        (0..len).map(|i| unsafe { self.host(addr + i as u64).read() }).collect()
    }

    /// All memory: first page and content of each region.
    pub(super) fn copy(&self) -> Vec<(u64, Vec<u8>)> {
        let regions = self.hosts.iter().zip(REGIONS);
        // SAFETY: the regions of the mapping; nobody writes them meanwhile.
        let copy = |host: *mut u8, len| unsafe { std::slice::from_raw_parts(host, len) }.to_vec();
        regions.map(|(&host, (start, len))| (start / PAGE as u64, copy(host, len))).collect()
    }

    pub(super) fn word(&self, addr: u64) -> u16 {
        u16::from_le_bytes(self.read(addr, 2).try_into().unwrap())
    }

    pub(super) fn set_word(&self, addr: u64, value: u16) {
        self.write(addr, &value.to_le_bytes());
    }

    pub(super) fn set_desc(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = table + 16 * u64::from(index);
        self.write(at, &addr.to_le_bytes());
        self.write(at + 8, &len.to_le_bytes());
        self.write(at + 12, &flags.to_le_bytes());
        self.write(at + 14, &next.to_le_bytes());
    }

    /// Whether the span lies inside one region.
    pub(super) fn contains(&self, span: &Span) -> bool {
        let first = span.ptr as usize;
        self.hosts.iter().zip(REGIONS).any(|(&host, (_, len))| {
            let host = host as usize;
            first >= host && first + span.len as usize <= host + len
        })
    }

    /// Fails if anything outside the regions was written.
    pub(super) fn check_canaries(&self) {
        let mut at = 0;
        for (_, size) in REGIONS.iter().copied().chain([(0, 0)]) {
            // SAFETY: a canary page of the mapping, which nobody should write.
            let page = unsafe { std::slice::from_raw_parts(self.all.add(at), PAGE) };
            assert!(page.iter().all(|byte| *byte == CANARY), "written outside guest memory");
            at += PAGE + size;
        }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; `memory` outlives it only by its last fields, which do not touch it.
        unsafe { libc::munmap(self.all.cast(), self.len) };
    }
}

/// A chain that the driver made available.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) head: u16,
    /// Every descriptor of the table that it occupies.
    descs: Vec<u16>,
    /// Guest address and length of each buffer.
    pub(super) buffers: Vec<(u64, u32)>,
}

impl Chain {
    pub(super) fn capacity(&self) -> usize {
        self.buffers.iter().map(|(_, len)| *len as usize).sum()
    }
}

/// A driver with the ring it talks to.
pub(super) struct Driver {
    pub(super) ram: Ram,
    pub(super) ring: SplitRing,
    pub(super) size: u16,
    pub(super) shape: RingShape,
    pub(super) avail: u16,
    /// Used index up to which the driver has looked.
    pub(super) seen: u16,
    free: Vec<u16>,
    /// Chains the device has not given back, by head.
    pub(super) outstanding: HashMap<u16, Chain>,
    call: Arc<File>,
    /// `used_event`, or the flags if event indices are not negotiated.
    wish: u16,
}

impl Driver {
    /// A driver whose indices begin at `first`, on a ring that runs.
    pub(super) fn new(size: u16, shape: RingShape, first: u16) -> Self {
        let call: File = File::from(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let mut this = Self {
            ram: Ram::new(),
            ring: SplitRing::default(),
            size,
            shape,
            avail: first,
            seen: first,
            free: (0..size).rev().collect(),
            outstanding: HashMap::new(),
            call: Arc::new(call),
            wish: 0,
        };
        this.ram.set_word(AVAIL + 2, first);
        this.ram.set_word(USED + 2, first);
        this.ring.set_call(Some(Arc::clone(&this.call)));
        this.start();
        this
    }

    pub(super) fn start(&mut self) {
        let place = RingPlace { size: self.size, desc: DESC, avail: AVAIL, used: USED };
        self.ring.start(Arc::clone(&self.ram.memory), place, self.shape).unwrap();
        assert_eq!(self.ring.base(), self.used_index());
    }

    pub(super) fn used_index(&self) -> u16 {
        self.ram.word(USED + 2)
    }

    /// Makes a chain of buffers with these lengths available, if there are descriptors for it.
    pub(super) fn add(&mut self, lens: &[u32], indirect: bool, write: bool) -> Option<Chain> {
        let indirect = indirect && self.shape.indirect && lens.len() <= TABLE_ENTRIES as usize;
        let needed = if indirect { 1 } else { lens.len() };
        if self.free.len() < needed {
            return None;
        }
        let descs = self.free.split_off(self.free.len() - needed);
        let head = descs[0];
        let mut at = BUFFERS + u64::from(head) * u64::from(AREA);
        let mut buffers = Vec::new();
        for len in lens {
            buffers.push((at, *len));
            at += u64::from(*len);
        }
        assert!(lens.iter().sum::<u32>() <= AREA, "the area of one head");
        let table = if indirect { TABLES + 16 * TABLE_ENTRIES * u64::from(head) } else { DESC };
        for (i, &(addr, len)) in buffers.iter().enumerate() {
            let more = i + 1 < buffers.len();
            let flags = if more { NEXT } else { 0 } | if write { WRITE } else { 0 };
            let entry = |i: usize| if indirect { i as u16 } else { descs[i] };
            let next = if more { entry(i + 1) } else { 0xffff };
            self.ram.set_desc(table, entry(i), addr, len, flags, next);
        }
        if indirect {
            self.ram.set_desc(DESC, head, table, 16 * buffers.len() as u32, INDIRECT, 0xffff);
        }
        let chain = Chain { head, descs, buffers };
        let slot = u64::from(self.avail & (self.size - 1));
        self.ram.set_word(AVAIL + 4 + 2 * slot, head);
        self.avail = self.avail.wrapping_add(1);
        self.ram.set_word(AVAIL + 2, self.avail);
        assert!(self.outstanding.insert(head, chain.clone()).is_none());
        Some(chain)
    }

    /// Looks at the used ring: head and length of each element since the last look. Every one must be outstanding.
    pub(super) fn reap(&mut self) -> Vec<(u16, u32)> {
        let mut reaped = Vec::new();
        while self.seen != self.used_index() {
            let slot = u64::from(self.seen & (self.size - 1));
            let element = self.ram.read(USED + 4 + 8 * slot, 8);
            let id = u32::from_le_bytes(element[..4].try_into().unwrap());
            let len = u32::from_le_bytes(element[4..].try_into().unwrap());
            let head = u16::try_from(id).expect("a head");
            let chain = self.outstanding.remove(&head).expect("given back exactly once");
            self.free.extend(&chain.descs);
            reaped.push((head, len));
            self.seen = self.seen.wrapping_add(1);
        }
        reaped
    }

    /// Says when the driver wants to be notified: after the element at `used_event`, or always or never.
    pub(super) fn wish(&mut self, distance: u16) {
        if self.shape.event_idx {
            self.wish = self.used_index().wrapping_add(distance % 8).wrapping_sub(2);
            self.ram.set_word(AVAIL + 4 + 2 * u64::from(self.size), self.wish);
        } else {
            self.wish = distance & 1;
            self.ram.set_word(AVAIL, self.wish);
        }
    }

    /// Whether a device that moved the used index from `old` to `new` must notify, as the specification says it
    /// (virtio 1.2, 2.7.7.2 and `vring_need_event`).
    pub(super) fn must_notify(&self, old: u16, new: u16) -> bool {
        let moved = new.wrapping_sub(old);
        if self.shape.event_idx {
            // One of the indices old, old + 1, …, new - 1 is the event.
            (0..moved).any(|i| old.wrapping_add(i) == self.wish)
        } else {
            moved != 0 && self.wish & 1 == 0
        }
    }

    /// Notifications since the last call.
    pub(super) fn notified(&self) -> u64 {
        let mut counter = [0; 8];
        // It fails when there was none.
        (&*self.call).read_exact(&mut counter).map_or(0, |()| u64::from_ne_bytes(counter))
    }

    /// Asks for a kick and compares with what the driver must then see.
    pub(super) fn check_arm(&mut self, base: u16) {
        let waiting = self.ring.arm();
        assert_eq!(waiting, self.avail != base, "buffers that are there need no kick");
        if self.shape.event_idx {
            let event = self.ram.word(USED + 4 + 8 * u64::from(self.size));
            assert_eq!(event, self.avail, "the very next buffer is announced");
        } else {
            assert_eq!(self.ram.word(USED), 0);
        }
        self.ring.disarm();
        assert_eq!(self.ram.word(USED), u16::from(!self.shape.event_idx), "no kicks while polling");
    }
}

/// Ring sizes worth trying.
pub(super) fn sizes() -> impl proptest::strategy::Strategy<Value = u16> {
    proptest::sample::select(vec![1, 2, 4, 8, 16, 64, 128, 256, 1024])
}

/// First indices: at the beginning, before the wrap, and half-way.
pub(super) fn firsts() -> impl proptest::strategy::Strategy<Value = u16> {
    proptest::sample::select(vec![0, 1, 0x7ff0, 0xffc0, 0xfff0, 0xffff])
}

/// Cuts `total` bytes into buffers at the given places; some may be empty.
pub(super) fn cut(total: u32, places: &[u32]) -> Vec<u32> {
    let mut places: Vec<u32> = places.iter().map(|place| place % (total + 1)).collect();
    places.sort_unstable();
    places.push(total);
    let mut from = 0;
    places.into_iter().map(|to| to - std::mem::replace(&mut from, to)).collect()
}
