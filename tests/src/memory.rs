//! Guest memory: one or more memfd regions, mapped here and announced to the switch.
//!
//! Each region has three addresses that differ on purpose: the guest's physical one, the front end's virtual one (which
//! vhost-user uses for ring addresses) and an offset in its file. A backend that confuses them fails at once.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, RwLock};

use rustix::fs::MemfdFlags;
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap};

/// What is added to a guest address to make the front end's virtual address of it.
pub const USER_BASE: u64 = 0x7f12_0000_0000;

/// One region of guest memory.
#[derive(Debug)]
pub struct Region {
    /// Guest physical address of its first byte.
    pub gpa: u64,
    /// Length in bytes.
    pub size: u64,
    /// The front end's virtual address of its first byte.
    pub user: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// The memory file.
    pub file: File,
}

impl Region {
    /// A region of a fresh memory file. The file starts `offset` bytes before it.
    #[must_use]
    pub fn new(gpa: u64, size: u64, offset: u64) -> Self {
        let file = File::from(memfd("guest-memory", offset + size));
        Self { gpa, size, user: USER_BASE + gpa, offset, file }
    }

    /// The region as vhost-user describes it.
    #[must_use]
    pub fn info(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: self.gpa,
            memory_size: self.size,
            userspace_addr: self.user,
            mmap_offset: self.offset,
            mmap_handle: self.file.as_raw_fd(),
        }
    }
}

/// A memory file of `size` bytes, all zero.
#[must_use]
pub fn memfd(name: &str, size: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .expect("memfd_create");
    rustix::fs::ftruncate(&fd, size).expect("ftruncate of a memfd");
    fd
}

/// First guest address and content of each region, as a copier has them.
type Mirror = Vec<(u64, Vec<u8>)>;

/// A guest's memory with a simple allocator. All methods may be called from any thread.
#[derive(Debug)]
pub struct Memory {
    map: RwLock<GuestMemoryMmap<()>>,
    regions: RwLock<Vec<Region>>,
    /// Next free guest address and end of each region, in the order of the regions.
    free: Mutex<Vec<(u64, u64)>>,
    /// A copy of each region, into which the driver's writes go too.
    mirror: Mutex<Option<Mirror>>,
}

impl Memory {
    /// Memory of regions at the given guest addresses and lengths (multiples of 4096).
    #[must_use]
    pub fn new(layout: &[(u64, u64)]) -> Self {
        let memory = Self {
            map: RwLock::new(GuestMemoryMmap::new()),
            regions: RwLock::default(),
            free: Mutex::default(),
            mirror: Mutex::default(),
        };
        for (index, &(gpa, size)) in layout.iter().enumerate() {
            memory.add(Region::new(gpa, size, 0x1000 * index as u64));
        }
        memory
    }

    /// Maps one more region. (Telling the switch is the front end's part.)
    pub fn add(&self, region: Region) {
        let mapping = MmapRegionBuilder::new(usize::try_from(region.size).expect("64-bit machine"))
            .with_file_offset(FileOffset::new(region.file.try_clone().expect("dup"), region.offset))
            .with_mmap_prot(PROT_READ_WRITE)
            .with_mmap_flags(MAP_SHARED | MAP_NORESERVE)
            .build()
            .expect("mmap of a memfd");
        let mapped = GuestRegionMmap::new(mapping, GuestAddress(region.gpa)).expect("no wrap-around");
        let mut map = self.map.write().expect("lock");
        *map = map.insert_region(std::sync::Arc::new(mapped)).expect("regions do not overlap");
        // The first page stays free: a zero address then never is a valid buffer.
        let first = if region.gpa == 0 { 0x1000 } else { region.gpa };
        self.free.lock().expect("lock").push((first, region.gpa + region.size));
        if let Some(mirror) = &mut *self.mirror.lock().expect("lock") {
            mirror.push((region.gpa, vec![0; region.size as usize]));
        }
        self.regions.write().expect("lock").push(region);
    }

    /// Calls `f` with the regions, in the order they were added.
    pub fn with_regions<T>(&self, f: impl FnOnce(&[Region]) -> T) -> T {
        f(&self.regions.read().expect("lock"))
    }

    /// Allocates `size` bytes aligned to `align` in region `region`; returns the guest address.
    pub fn alloc_in(&self, region: usize, size: u64, align: u64) -> u64 {
        let mut free = self.free.lock().expect("lock");
        let (next, end) = &mut free[region];
        let at = next.next_multiple_of(align);
        assert!(
            at + size <= *end,
            "guest memory region {region} is full: {size} bytes wanted, {} left",
            *end - *next
        );
        *next = at + size;
        at
    }

    /// Allocates `size` bytes aligned to 64 in the last region.
    pub fn alloc(&self, size: u64) -> u64 {
        let last = self.free.lock().expect("lock").len() - 1;
        self.alloc_in(last, size, 64)
    }

    /// The front end's virtual address of a guest address.
    pub fn user(&self, gpa: u64) -> u64 {
        self.with_regions(|regions| {
            regions
                .iter()
                .find(|r| (r.gpa..r.gpa + r.size).contains(&gpa))
                .map_or_else(|| panic!("guest address {gpa:#x} is in no region"), |r| gpa - r.gpa + r.user)
        })
    }

    /// Writes bytes.
    pub fn write(&self, gpa: u64, bytes: &[u8]) {
        let mut mirror = self.mirror.lock().expect("lock");
        self.map.read().expect("lock").write_slice(bytes, GuestAddress(gpa)).expect("write to guest memory");
        if let Some(mirror) = &mut *mirror {
            reflect(mirror, gpa, bytes);
        }
    }

    /// Reads bytes.
    pub fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.map
            .read()
            .expect("lock")
            .read_slice(&mut bytes, GuestAddress(gpa))
            .expect("read of guest memory");
        bytes
    }

    /// Writes a little-endian word with release ordering.
    pub fn store_u16(&self, gpa: u64, value: u16) {
        let mut mirror = self.mirror.lock().expect("lock");
        let map = self.map.read().expect("lock");
        map.store(value.to_le(), GuestAddress(gpa), Ordering::Release).expect("store to guest memory");
        if let Some(mirror) = &mut *mirror {
            reflect(mirror, gpa, &value.to_le_bytes());
        }
    }

    /// Reads a little-endian word with acquire ordering.
    pub fn load_u16(&self, gpa: u64) -> u16 {
        let map = self.map.read().expect("lock");
        u16::from_le(map.load(GuestAddress(gpa), Ordering::Acquire).expect("load from guest memory"))
    }

    /// The guest address behind the highest byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.with_regions(|regions| regions.iter().map(|r| r.gpa + r.size).max().unwrap_or(0))
    }

    /// Begins a copy of all memory. What is written by these methods from now on goes into it too, what the switch writes does not.
    pub fn mirror(&self) {
        let mut mirror = self.mirror.lock().expect("lock");
        let regions =
            self.with_regions(|list| list.iter().map(|r| (r.gpa, r.size as usize)).collect::<Vec<_>>());
        *mirror = Some(regions.into_iter().map(|(gpa, size)| (gpa, self.read(gpa, size))).collect());
    }

    /// Copies these pages of 4 KiB anew. Pages of no region are the copier's business as little as a VMM's.
    pub fn copy_pages(&self, pages: &[u64]) {
        for page in pages {
            // One lock per page: a driver that writes meanwhile waits no longer than for that.
            let mut mirror = self.mirror.lock().expect("lock");
            let mirror = mirror.as_mut().expect("a copy was begun");
            let at = page * 4096;
            if self.contains(at) {
                reflect(mirror, at, &self.read(at, 4096));
            }
        }
    }

    /// The pages in which the copy is not what memory is.
    #[must_use]
    pub fn differences(&self) -> Vec<u64> {
        let mirror = self.mirror.lock().expect("lock");
        let regions = mirror.as_ref().expect("a copy was begun").iter();
        let unlike = |&(gpa, ref copy): &(u64, Vec<u8>)| {
            let now = self.read(gpa, copy.len());
            let pages = copy.chunks(4096).zip(now.chunks(4096)).enumerate();
            pages.filter(|(_, (a, b))| a != b).map(|(i, _)| gpa / 4096 + i as u64).collect::<Vec<_>>()
        };
        regions.flat_map(unlike).collect()
    }

    /// Whether the address is mapped.
    pub fn contains(&self, gpa: u64) -> bool {
        self.map.read().expect("lock").address_in_range(GuestAddress(gpa))
    }
}

/// Writes bytes into the copy of the region they belong to.
fn reflect(mirror: &mut [(u64, Vec<u8>)], gpa: u64, bytes: &[u8]) {
    let region = mirror.iter_mut().find(|(start, copy)| (*start..*start + copy.len() as u64).contains(&gpa));
    let (start, copy) = region.expect("an address of a region");
    let at = (gpa - *start) as usize;
    copy[at..at + bytes.len()].copy_from_slice(bytes);
}

// From <sys/mman.h>; the crates used here take them as plain numbers.
pub(crate) const MAP_SHARED: i32 = 1;
const MAP_NORESERVE: i32 = 0x4000;

pub(crate) const PROT_READ_WRITE: i32 = 1 | 2;
