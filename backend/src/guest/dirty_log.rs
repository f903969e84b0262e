//! The dirty log of a migration: which pages of guest memory the switch wrote.
//!
//! A front end that copies a running guest shares a bitmap with the switch, one bit for each 4 KiB page of guest-physical memory, counted
//! from address 0. Whatever the switch writes is *written first and marked then*: the front end clears a bit before it copies the page,
//! so a bit that is set too early would let it copy the old content and never look again. For the same reason a bit is only looked at (to
//! leave alone one that is set already) behind a full fence: without it the CPU could look before its own data is visible to others.
//!
//! The relay maps the log itself. The control protocol's library has an interface for this too, but it never writes to guest memory,
//! so its bitmaps would log nothing, and it forgets the log whenever a region of memory is added.
//!
//! Threads: rings hold the log (`SplitRing::set_log`, by `Live::wrote`) and mark under their own locks. [`apply`] takes each ring's lock,
//! so when it returns nobody marks a log that was in force before.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering, fence};

use super::fault::{self, Guarded};
use super::memory::{Memory, page_size};
use super::{GuestPort, features, lock};

/// Bytes of guest memory that one bit stands for.
const PAGE_BITS: u32 = 12;
/// Longest log accepted: 64 TiB of guest memory, as much as a region may have.
const MAX_SIZE: u64 = 1 << (46 - PAGE_BITS - 3);

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("the log's offset {offset:#x} and size {size:#x} are not inside its file of {file:#x} bytes")]
    Outside { offset: u64, size: u64, file: u64 },
    #[error("a log of {0:#x} bytes is not acceptable: 1 byte to 2 GiB")]
    Size(u64),
    #[error("the log's offset {0:#x} is not a multiple of the page size")]
    Offset(u64),
    #[error("the log's descriptor is no memory file")]
    NoFile,
    #[error("a log of {have} bytes does not reach the end of guest memory; {need} bytes would")]
    TooSmall { have: u64, need: u64 },
    #[error("too many mappings are in use for a log")]
    NoRoom,
    #[error("the log cannot be mapped: {0}")]
    Io(#[from] io::Error),
}

/// A mapped log.
pub(super) struct DirtyLog {
    // Before the mapping: what the kernel puts in its place later is not ours to guard.
    guard: Guarded,
    /// Bytes that the front end said are the log.
    len: usize,
    mapping: Mapping,
}

// SAFETY: the mapping belongs to this value alone and is only touched through atomics.
unsafe impl Send for DirtyLog {}
// SAFETY: as above.
unsafe impl Sync for DirtyLog {}

impl DirtyLog {
    /// Maps `size` bytes at `offset` of a front end's file.
    pub(super) fn map(fd: BorrowedFd<'_>, offset: u64, size: u64) -> Result<Self, LogError> {
        let file = File::from(fd.try_clone_to_owned()?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(LogError::NoFile);
        }
        if !(1..=MAX_SIZE).contains(&size) {
            return Err(LogError::Size(size));
        }
        let page = page_size(&file);
        if !offset.is_multiple_of(page as u64) {
            return Err(LogError::Offset(offset));
        }
        if offset.checked_add(size).is_none_or(|end| end > metadata.len()) {
            return Err(LogError::Outside { offset, size, file: metadata.len() });
        }
        // Whole pages, because a mapping of huge pages can be undone in no other measure.
        let mapped = (size as usize).next_multiple_of(page);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_fd().as_raw_fd(),
                offset.cast_signed(),
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let mapping = Mapping { start: start.cast(), len: mapped };
        let guard = fault::guard(start as usize, mapped, page).ok_or(LogError::NoRoom)?;
        Ok(Self { guard, len: size as usize, mapping })
    }

    /// Whether every page of `memory` has a bit.
    pub(super) fn check(&self, memory: &Memory) -> Result<(), LogError> {
        let (have, need) = (self.len as u64, (memory.end().div_ceil(1 << PAGE_BITS)).div_ceil(8));
        if have < need { Err(LogError::TooSmall { have, need }) } else { Ok(()) }
    }

    /// Whether the log's file was truncated, so that marks get lost.
    pub(super) fn vanished(&self) -> bool {
        self.guard.hit()
    }

    /// Marks the pages of `len` bytes (at least one) at guest address `start`. They must have been written already, and a [`fence`] of
    /// `SeqCst` must lie between; see the head of this file.
    fn mark_behind_fence(&self, start: u64, len: u64) {
        let pages = start >> PAGE_BITS..=start.saturating_add(len.saturating_sub(1)) >> PAGE_BITS;
        for page in pages {
            let (byte, bit) = ((page >> 3) as usize, 1u8 << (page & 7));
            if byte >= self.len {
                return;
            }
            // SAFETY: `byte` lies in the mapping, which lives as long as `self`; an atomic may be shared with the front end.
            let word = unsafe { AtomicU8::from_ptr(self.mapping.start.add(byte)) };
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::SeqCst);
            }
        }
    }

    /// Marks what was written at these host addresses of `memory`.
    pub(super) fn mark(&self, memory: &Memory, written: impl IntoIterator<Item = (*const u8, usize)>) {
        fence(Ordering::SeqCst);
        for (ptr, len) in written {
            if len > 0
                && let Some(start) = memory.guest_address(ptr)
            {
                self.mark_behind_fence(start, len as u64);
            }
        }
    }
}

/// Mapped memory, unmapped when dropped.
struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `DirtyLog::map`; what it was made for is gone with its owner.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// The log a front end shared, and what follows from it. Lives in the port; empty without a front end.
#[derive(Default)]
pub(super) struct Logging {
    log: Option<Arc<DirtyLog>>,
}

/// Takes a new log into force. When this returns, nobody marks the one before.
pub(super) fn replace(port: &GuestPort, log: DirtyLog) -> Result<(), LogError> {
    let mut logging = lock(&port.logging);
    if let Some(memory) = &*lock(&port.memory) {
        log.check(memory)?;
    }
    logging.log = Some(Arc::new(log));
    hand_out(port, &logging, port.features());
    Ok(())
}

/// Follows a change of `LOG_ALL`: rings go on, with or without the log.
pub(super) fn apply(port: &GuestPort, features: u64) {
    hand_out(port, &lock(&port.logging), features);
}

/// Forgets the log.
pub(super) fn release(port: &GuestPort) {
    let mut logging = lock(&port.logging);
    logging.log = None;
    hand_out(port, &logging, 0);
}

/// Whether the port's memory can be logged, if features that are about to come ask for it.
pub(super) fn check_memory(port: &GuestPort, features: u64) -> Result<(), LogError> {
    let memory = lock(&port.memory).clone();
    memory.map_or(Ok(()), |memory| check(port, features, &memory))
}

/// Whether new memory can be logged, if it must be: the log of a migration that is over need not fit.
pub(super) fn check(port: &GuestPort, features: u64, memory: &Memory) -> Result<(), LogError> {
    match &lock(&port.logging).log {
        Some(log) if features & features::LOG_ALL != 0 => log.check(memory),
        _ => Ok(()),
    }
}

fn hand_out(port: &GuestPort, logging: &Logging, features: u64) {
    let log = logging.log.as_ref().filter(|_| features & features::LOG_ALL != 0);
    for queue in &port.queues {
        queue.lock().set_log(log.cloned());
    }
}
