//! Guest memory made of bytes: rings, descriptors and tables. The ring must never leave guest memory (pages without access
//! lie around every region), must give back what it finished, and must say the truth about lengths.
//!
//! Input: ring size (1 byte), features (1), number of steps (1), per step: how far the available index moves (1), and
//! which frames finish, or how long the frame is that is put and how many buffers are read ahead (2). The rest is the beginning of guest memory: descriptors, rings, anything.
//! Of a packed ring (a feature) the first byte of a step is how many descriptors are given the flags that make them available.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use backend::guest::burst::{BURST, Burst};
use backend::guest::memory::{GuestRam, Memory, Span};
use backend::guest::ring::receive::{Put, Receive};
use backend::guest::ring::{Kind, Ring, RingError, RingPlace, RingShape, SplitRing};
use libfuzzer_sys::fuzz_target;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestRegionMmap};
use vswitch::HEAD_LEN;
use vswitch::frame::offload::NetHeader;

const PAGE: usize = 4096;
/// Guest address and length: two that follow each other in the guest only, and one apart.
const REGIONS: [(u64, usize); 3] = [(0, 4 * PAGE), (4 * PAGE as u64, PAGE), (0x10_0000, 33 * PAGE)];

struct State {
    memory: Arc<Memory>,
    hosts: Vec<*mut u8>,
    burst: Burst,
    frame: Vec<u8>,
    linear: Vec<u8>,
}

impl State {
    fn new() -> Self {
        let mut hosts = Vec::new();
        let mut regions = Vec::new();
        for (guest, len) in REGIONS {
            let (rw, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping without access, in the middle of which `len` bytes are made accessible; it stays for the
            // life of the process.
            let (host, region) = unsafe {
                let all = libc::mmap(std::ptr::null_mut(), len + 2 * PAGE, libc::PROT_NONE, flags, -1, 0);
                assert_ne!(all, libc::MAP_FAILED);
                let host = all.cast::<u8>().add(PAGE);
                assert_eq!(libc::mprotect(host.cast(), len, rw), 0);
                let builder = MmapRegionBuilder::new(len).with_mmap_prot(rw).with_mmap_flags(flags);
                (host, builder.with_raw_mmap_pointer(host).build().expect("a page-aligned region"))
            };
            hosts.push(host);
            regions.push(GuestRegionMmap::new(region, GuestAddress(guest)).expect("no overflow"));
        }
        let ram = GuestRam::from_regions(regions).expect("no overlap");
        let memory = Arc::new(Memory::new(Arc::new(ram), None).expect("room for the guards"));
        let linear = Vec::with_capacity(70_000);
        Self { memory, hosts, burst: Burst::default(), frame: vec![0x77; 70_000], linear }
    }

    fn contains(&self, span: &Span) -> bool {
        let (first, len) = (span.ptr as usize, span.len as usize);
        let inside = |(host, (_, size)): (&*mut u8, (u64, usize))| {
            first >= *host as usize && first + len <= *host as usize + size
        };
        self.hosts.iter().zip(REGIONS).any(inside)
    }

    fn run(&mut self, input: &[u8]) -> Option<()> {
        let (&[size, features, steps], rest) = input.split_first_chunk::<3>()?;
        let (steps, image) = rest.split_at_checked(3 * usize::from(steps % 16))?;
        for (host, (_, len)) in self.hosts.iter().zip(REGIONS) {
            // SAFETY: the region is ours and nobody else uses it now.
            unsafe { host.write_bytes(0, len) };
        }
        let image = &image[..image.len().min(REGIONS[0].1)];
        // SAFETY: no longer than the first region.
        unsafe { self.hosts[0].copy_from_nonoverlapping(image.as_ptr(), image.len()) };

        let bit = |n: u8| features >> n & 1 != 0;
        let header_len = if bit(2) || bit(3) { 12 } else { 10 };
        let (event_idx, indirect, mergeable) = (bit(0), bit(1), bit(2));
        let shape = RingShape { event_idx, indirect, mergeable, header_len, ..RingShape::default() };
        if bit(6) {
            let shape = RingShape { packed: true, in_order: bit(5), ..shape };
            self.run_packed(u16::from(size % 128) + 1, shape, bit(4), steps);
            return Some(());
        }
        let size = 1 << (size % 8);
        // As compact as can be, so that little input says much.
        let avail = 16 * u64::from(size);
        let used = (avail + 6 + 2 * u64::from(size)).next_multiple_of(4);
        let place = RingPlace { size, desc: 0, avail, used };
        // SAFETY: inside the first region: at most 128 descriptors of 16 bytes, 262 and 1030 bytes.
        let (avail_index, used_index) = unsafe {
            let at = |offset: u64| self.hosts[0].add(offset as usize).cast::<u16>();
            (at(avail + 2), at(used + 2))
        };
        // SAFETY: as above; the addresses are even.
        let read = || unsafe { used_index.read() };
        let mut ring = SplitRing::default();
        let start = |ring: &mut SplitRing, memory: &Arc<Memory>| {
            ring.start(Arc::clone(memory), place, shape).expect("a proper place");
            assert_eq!(ring.base(), read());
            ring.base()
        };
        let mut next = start(&mut ring, &self.memory);
        for step in steps.chunks_exact(3) {
            next =
                next.wrapping_add(u16::from(step[0] % 40)).wrapping_add(u16::from(step[0] == 255) * 0x4000);
            // SAFETY: as above.
            unsafe { avail_index.write(next) };
            let before = read();
            let used = if bit(4) {
                self.put(&mut ring, usize::from(step[1]) * 270, usize::from(step[2] % 65)).map(|put| {
                    ring.publish();
                    assert_eq!(put == Put::Done, read() != before, "all of a frame or none");
                })
            } else {
                self.take(&mut ring, u64::from_ne_bytes([step[1]; 8]).rotate_left(step[2].into())).map(
                    |given| {
                        assert_eq!(read(), before, "nothing shows before it is published");
                        ring.publish();
                        assert_eq!(read(), before.wrapping_add(given), "each frame comes back once");
                    },
                )
            };
            if used.is_ok() {
                ring.arm();
                ring.disarm();
            } else {
                ring.stop();
                next = start(&mut ring, &self.memory);
            }
        }
        ring.stop();
        assert_eq!(ring.base(), read(), "it continues where it stopped");
        Some(())
    }

    /// A packed ring of any size, whose driver makes descriptors available as they are.
    fn run_packed(&mut self, size: u16, shape: RingShape, receives: bool, steps: &[u8]) {
        let driver = 16 * u64::from(size);
        let place = RingPlace { size, desc: 0, avail: driver, used: driver + 4 };
        let host = self.hosts[0];
        // SAFETY: inside the first region: at most 128 descriptors of 16 bytes and two words behind them; all even.
        let word = |at: u64| unsafe { host.add(at as usize).cast::<u16>() };
        let mut ring = Ring::default();
        let (mut told, mut next) = (0x8000u16, 0u32);
        for step in steps.chunks_exact(3) {
            if !ring.is_live() {
                ring.set_base(told);
                ring.start(Arc::clone(&self.memory), place, shape).expect("a proper place");
                let base = ring.base();
                assert!(base & 0x7fff < size);
                next = u32::from(base & 0x7fff) + if base >> 15 == 0 { u32::from(size) } else { 0 };
            }
            for _ in 0..step[0] % 40 {
                let index = next % u32::from(size);
                let lap = if next / u32::from(size) % 2 == 0 { 1 << 7 } else { 1 << 15 };
                let flags = word(16 * u64::from(index) + 14);
                // SAFETY: as above.
                unsafe { flags.write(flags.read() & 0x7f7f | lap) };
                next += 1;
            }
            let used = if receives {
                let Kind::Packed(packed) = ring.kind() else { unreachable!("it was started as one") };
                self.put(packed, usize::from(step[1]) * 270, usize::from(step[2] % 65)).map(|_| ())
            } else {
                self.burst.clear();
                ring.take(&mut self.burst).map(|()| {
                    self.check_burst();
                    assert!(self.burst.count <= usize::from(size));
                    ring.complete(&self.burst, u64::from_ne_bytes([step[1]; 8]).rotate_left(step[2].into()));
                })
            };
            ring.publish();
            // SAFETY: as above. (A receive buffer may lie anywhere, there too.)
            let kept = unsafe { word(driver + 4).read() };
            assert!(receives || ring.base() == kept, "the place is kept");
            if used.is_ok() {
                ring.arm();
                ring.disarm();
            } else {
                ring.stop();
                told = u16::from_ne_bytes([step[1], step[2]]) & 0x8000 | u16::from(step[1]) % size;
            }
        }
        ring.stop();
    }

    /// Puts a frame, after reading so many buffers ahead.
    fn put<R: Receive>(&self, ring: &mut R, len: usize, ahead: usize) -> Result<Put, RingError> {
        if ahead > 0 {
            ring.stage(ahead)?;
        }
        let (head, rest) = self.frame[..len].split_at(len.min(HEAD_LEN));
        let rest = Span { ptr: rest.as_ptr().cast_mut(), len: rest.len() as u32 };
        ring.put(&NetHeader::default(), head, &[rest], len as u32)
    }

    /// Takes a burst and finishes some of it; returns how many.
    fn take(&mut self, ring: &mut SplitRing, finished: u64) -> Result<u16, RingError> {
        self.burst.clear();
        ring.take(&mut self.burst)?;
        self.check_burst();
        ring.complete(&self.burst, finished);
        let slots = self.burst.frames[..self.burst.count].iter().map(|f| 1_u64 << f.slot);
        Ok(slots.filter(|slot| finished & slot != 0).count() as u16)
    }

    fn check_burst(&mut self) {
        assert!(self.burst.count <= BURST);
        let mut slots = 0_u64;
        for index in 0..self.burst.count {
            let frame = &self.burst.frames[index];
            assert_eq!(slots >> frame.slot, 0, "in order, each once");
            slots |= 1 << frame.slot;
            let rest = self.burst.rest(index);
            assert!(rest.iter().all(|span| self.contains(span)));
            if frame.fault.is_none() {
                let len: u64 = rest.iter().map(|span| u64::from(span.len)).sum();
                assert_eq!(frame.head().len() as u64 + len, u64::from(frame.len));
                assert_eq!(frame.head().len(), HEAD_LEN.min(frame.len as usize));
                self.burst.linearise(index, &mut self.linear);
                assert_eq!(self.linear.len(), (frame.len as usize).min(self.linear.capacity()));
            }
        }
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::new());
}

fuzz_target!(|input: &[u8]| {
    STATE.with_borrow_mut(|state| state.run(input));
});
