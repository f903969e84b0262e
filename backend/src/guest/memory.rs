//! Guest memory as the data path uses it: a flat table from guest-physical to host addresses.
//!
//! `Memory` keeps the `GuestMemoryMmap` it was made from alive, so every host address it gives out stays mapped as long as
//! the `Memory` does. It never changes: a new memory table is a new `Memory`. Guest memory is shared with code that may
//! change it at any time, so no Rust reference to it is ever formed; it is only read and written through raw pointers.

use std::fs::File;
use std::sync::Arc;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::fault::{self, Guarded};

/// Memory regions of one front end, at most. The control protocol's library would take 509, but the kernel gives a process 65,530
/// mappings for all its ports.
pub const MAX_REGIONS: usize = 64;
/// Regions up to which looking at each is quicker than searching.
const FEW: usize = 8;
const SMALL_PAGE: usize = 4096;
const HUGETLBFS_MAGIC: i64 = 0x958f_4586;

/// Bytes that must be replaced together when a part of `file`'s mapping vanishes: huge pages only go as a whole.
pub(super) fn page_size(file: &File) -> usize {
    match rustix::fs::fstatfs(file) {
        Ok(stat) if stat.f_type == HUGETLBFS_MAGIC => stat.f_bsize as usize,
        _ => SMALL_PAGE,
    }
}

/// The mapped memory type of the control protocol.
pub type GuestRam = GuestMemoryMmap<()>;

/// A run of bytes in the host's address space that belongs to a guest (or to a worker's own buffer).
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First byte.
    pub ptr: *mut u8,
    /// Length in bytes.
    pub len: u32,
}

impl Span {
    /// No bytes.
    pub const NONE: Self = Self { ptr: std::ptr::null_mut(), len: 0 };
}

// SAFETY: a span is an address and a length; whoever dereferences it must hold the memory it points into.
unsafe impl Send for Span {}

#[derive(Clone, Copy)]
struct Region {
    start: u64,
    len: u64,
    host: *mut u8,
}

/// An immutable view of one memory table.
pub struct Memory {
    regions: Vec<Region>,
    /// One per region, in the same order.
    guards: Vec<Arc<Guarded>>,
    // Keeps the mappings alive; the addresses in `regions` point into it.
    _ram: Arc<GuestRam>,
}

// SAFETY: the raw pointers point into mappings owned by `_ram`, which is itself Send + Sync; access through them is by raw
// reads and writes only.
unsafe impl Send for Memory {}
// SAFETY: as above; `Memory` has no interior mutability.
unsafe impl Sync for Memory {}

impl Memory {
    /// Builds the view and registers its mappings with the fault guard; `None` when the guard has no room for them. Mappings that
    /// `previous` has too keep their registration.
    pub fn new(ram: Arc<GuestRam>, previous: Option<&Self>) -> Option<Self> {
        let mut regions = Vec::new();
        let mut guards = Vec::new();
        for region in ram.iter() {
            let (host, len) = (region.as_ptr(), region.len());
            let known = previous.and_then(|p| p.regions.iter().position(|r| r.host == host && r.len == len));
            let guard = if let (Some(previous), Some(index)) = (previous, known) {
                Arc::clone(&previous.guards[index])
            } else {
                let page = region.file_offset().map_or(SMALL_PAGE, |file| page_size(file.file()));
                Arc::new(fault::guard(host as usize, len as usize, page)?)
            };
            regions.push(Region { start: region.start_addr().0, len, host });
            guards.push(guard);
        }
        // `GuestMemoryMmap` keeps its regions sorted by guest address, which `translate_part` relies on.
        Some(Self { regions, guards, _ram: ram })
    }

    /// Whether a part of the memory vanished (its file was truncated) and was replaced by zero pages.
    pub fn vanished(&self) -> bool {
        self.guards.iter().any(|guard| guard.hit())
    }

    /// The guest address behind the highest byte.
    pub(super) fn end(&self) -> u64 {
        self.regions.iter().map(|region| region.start.saturating_add(region.len)).max().unwrap_or(0)
    }

    /// The guest address of a byte that was translated before; only for what needs it seldom, such as logging.
    pub(super) fn guest_address(&self, ptr: *const u8) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = (ptr as u64).wrapping_sub(region.host as u64);
            (offset < region.len).then(|| region.start.wrapping_add(offset))
        })
    }

    /// Translates `len` bytes at guest address `addr` that lie within one region.
    #[inline]
    pub fn translate(&self, addr: u64, len: u32) -> Option<*mut u8> {
        self.translate_part(addr, len).filter(|span| span.len == len).map(|span| span.ptr)
    }

    /// Translates the longest run that starts at `addr` and is at most `len` bytes long; for buffers across regions.
    #[inline]
    pub fn translate_part(&self, addr: u64, len: u32) -> Option<Span> {
        // Real guests have a handful of regions; one with hundreds must not cost its neighbours a long search.
        let candidates = if self.regions.len() <= FEW {
            &self.regions[..]
        } else {
            let end = self.regions.partition_point(|region| region.start <= addr);
            &self.regions[end.saturating_sub(1)..end]
        };
        for region in candidates {
            let offset = addr.wrapping_sub(region.start);
            if offset < region.len {
                let len = u64::from(len).min(region.len - offset) as u32;
                // SAFETY: `offset + len <= region.len`, so the result stays inside the mapping of this region.
                return Some(Span { ptr: unsafe { region.host.add(offset as usize) }, len });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;

    const LOW: u64 = 0x1000;
    const HIGH: u64 = u64::MAX - 0x1fff;

    /// Two regions that follow each other in the guest, and one at the end of the address space.
    fn memory() -> Memory {
        let ranges = [(LOW, 0x1000), (LOW + 0x1000, 0x800), (HIGH, 0x1000)];
        let ranges = ranges.map(|(start, len)| (GuestAddress(start), len));
        Memory::new(Arc::new(GuestRam::from_ranges(&ranges).unwrap()), None).unwrap()
    }

    #[test]
    fn an_address_is_translated_only_with_all_its_bytes_in_one_region() {
        let memory = memory();
        let cases = [
            (LOW, 0x1000, true),
            (LOW, 0x1001, false),
            (LOW + 0xfff, 1, true),
            (LOW + 0xfff, 2, false),
            (LOW - 1, 1, false),
            (LOW - 1, 2, false),
            (LOW + 0x17ff, 1, true),
            (LOW + 0x1800, 0, false),
            (LOW, u32::MAX, false),
            (0, 0, false),
            (HIGH, 0x1000, true),
            (HIGH + 0xfff, 2, false),
            (u64::MAX, 1, false),
            (u64::MAX, u32::MAX, false),
        ];
        for (addr, len, valid) in cases {
            assert_eq!(memory.translate(addr, len).is_some(), valid, "{addr:#x} {len:#x}");
        }
        let first = memory.translate(LOW, 1).unwrap();
        assert_eq!(memory.translate(LOW + 0xabc, 1).unwrap() as usize - first as usize, 0xabc);
    }

    #[test]
    fn a_buffer_over_two_regions_is_translated_in_parts() {
        let memory = memory();
        let len = |addr, len| memory.translate_part(addr, len).map(|span| span.len);
        assert_eq!(len(LOW + 0xf00, 0x300), Some(0x100));
        assert_eq!(len(LOW + 0x1000, 0x200), Some(0x200));
        assert_eq!(len(LOW + 0x1000, u32::MAX), Some(0x800));
        assert_eq!(len(LOW + 0x1800, 1), None);
        assert_eq!(len(HIGH + 0xfff, u32::MAX), Some(1));
        assert_eq!(len(u64::MAX, 1), None);
    }

    #[test]
    fn memory_that_is_there_has_not_vanished() {
        assert!(!memory().vanished());
    }
}
