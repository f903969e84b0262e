//! A front end that copies its guest elsewhere while the guest runs, as a VMM's live migration does.
//!
//! [`Log`] is the dirty log that the switch marks. [`Memory::mirror`](crate::memory::Memory::mirror) begins the copy; what the *driver*
//! writes goes into it by itself, so whatever the copy lacks in the end the switch wrote without saying so.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use vhost::vhost_user::Frontend;
use vhost::{VhostBackend, VhostUserDirtyLogRegion};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::features;
use crate::guest::Guest;
use crate::memory::{MAP_SHARED, Memory, PROT_READ_WRITE, memfd};

/// Bytes of memory that one bit of a log stands for.
pub const PAGE: u64 = 4096;

/// A dirty log in a memory file of its own.
#[derive(Debug)]
pub struct Log {
    /// The file.
    pub file: OwnedFd,
    /// Where in the file the log begins.
    pub offset: u64,
    /// Length of the log in bytes.
    pub size: u64,
    map: MmapRegion<()>,
}

impl Log {
    /// A clean log that has a bit for each page below guest address `end`.
    #[must_use]
    pub fn up_to(end: u64) -> Self {
        // Not at the beginning of its file, so that a switch that forgets the offset is found out.
        let (offset, size) = (PAGE, end.div_ceil(PAGE).div_ceil(8).next_multiple_of(8));
        let file = memfd("log", offset + size.next_multiple_of(PAGE));
        let copy = std::fs::File::from(file.try_clone().expect("dup"));
        let map = MmapRegionBuilder::new(size as usize)
            .with_file_offset(FileOffset::new(copy, offset))
            .with_mmap_prot(PROT_READ_WRITE)
            .with_mmap_flags(MAP_SHARED)
            .build()
            .expect("mmap of a memfd");
        Self { file, offset, size, map }
    }

    /// A clean log for all of a memory.
    #[must_use]
    pub fn of(memory: &Memory) -> Self {
        Self::up_to(memory.end())
    }

    fn words(&self) -> impl Iterator<Item = (u64, &AtomicU64)> {
        (0..self.size / 8).map(|index| {
            let word = self.map.get_atomic_ref::<AtomicU64>(8 * index as usize).expect("inside the log");
            (index, word)
        })
    }

    /// The pages that are marked.
    #[must_use]
    pub fn pages(&self) -> Vec<u64> {
        self.words().flat_map(|(index, word)| bits(index, word.load(Ordering::SeqCst))).collect()
    }

    /// The pages that were marked; none is afterwards.
    #[must_use]
    pub fn take(&self) -> Vec<u64> {
        self.words()
            .filter(|(_, word)| word.load(Ordering::SeqCst) != 0)
            .flat_map(|(index, word)| bits(index, word.swap(0, Ordering::SeqCst)))
            .collect()
    }

    /// Hands the log to the switch; the one before is out of use when this returns.
    pub fn share(&self, vhost: &Frontend) -> io::Result<()> {
        let region = VhostUserDirtyLogRegion {
            mmap_size: self.size,
            mmap_offset: self.offset,
            mmap_handle: self.file.as_raw_fd(),
        };
        vhost.set_log_base(0, Some(region)).map_err(|e| io::Error::other(e.to_string()))
    }
}

/// Pages of the set bits of word `index`.
fn bits(index: u64, word: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| 64 * index + bit)
}

/// Switches logging on or off, with the rings as they are.
pub fn set_logging(guest: &mut Guest, on: bool) -> io::Result<()> {
    let features = guest.features | if on { features::LOG_ALL } else { 0 };
    guest.vhost().set_features(features).map_err(|e| io::Error::other(e.to_string()))
}
