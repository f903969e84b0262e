//! The rings of a guest port.
//!
//! Life cycle: `Queue` exists as long as its port; the control protocol starts its ring (memory, addresses, kick and enable are
//! there) and stops it. Workers move frames only while holding the ring's lock, once per burst, so when a stop returns no worker
//! uses the ring's memory any more.
//!
//! A ring is split or packed ([`layout`]); `split` and `packed` with what each does for senders and receivers, on the common `ground`.
//!
//! Lock order: a sender's ring, then a receiver's ring. Nobody takes two receiver rings, or a sender's ring while holding a receiver's.

mod ground;
mod layout;
mod packed;
pub mod receive;
mod split;
#[cfg(test)]
mod tests;
mod transmit;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use ground::{RingPlace, RingShape, Window};
pub use layout::{Kind, Ring};
pub use packed::PackedRing;
pub use split::SplitRing;

/// Largest ring a front end may ask for.
pub const MAX_RING_SIZE: u16 = 1024;

/// Which rule of virtio a guest broke so badly that its queue is stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// More buffers announced than the ring has.
    #[error("available index jumped by {0} in a ring of {1}")]
    AvailableJump(u16, u16),
    /// A descriptor index outside the table.
    #[error("descriptor index {0} in a ring of {1}")]
    BadIndex(u16, u16),
    /// A chain that is longer than the ring.
    #[error("descriptor chain longer than the ring of {0}")]
    ChainTooLong(u16),
    /// A buffer outside guest memory.
    #[error("descriptor address {0:#x} length {1} is outside guest memory")]
    BadAddress(u64, u32),
    /// A read-only buffer where the device must write.
    #[error("descriptor {0} of the receive queue is read-only")]
    ReadOnly(u16),
    /// Ring addresses that are unmapped, misaligned or cross a region.
    #[error("{0} at {1:#x} is not usable guest memory")]
    BadRing(&'static str, u64),
    /// A ring size that is not a power of two, or for packed rings none from 1 to the largest.
    #[error(
        "ring size {0} is not a power of two up to {MAX_RING_SIZE}, nor anything up to that for a packed ring"
    )]
    BadSize(u16),
    /// A packed ring that is to continue outside of itself.
    #[error("base {0:#x} in a packed ring of {1}")]
    BadBase(u16, u16),
    /// A notification descriptor that is no eventfd.
    #[error("{0} descriptor is not an eventfd")]
    NotEventFd(&'static str),
    /// The memory's file was truncated under us.
    #[error("guest memory vanished")]
    MemoryVanished,
    /// The file of the dirty log was truncated under us.
    #[error("the log of written pages vanished")]
    LogVanished,
}

/// One queue of a guest port: even index = receive (the guest's in), odd = transmit (out).
pub struct Queue {
    /// vhost-user ring index.
    pub index: u16,
    ring: Mutex<Ring>,
    live: AtomicBool,
    /// Bit per worker that holds frames for this receive queue and wants to know when buffers come.
    pub waiters: AtomicU64,
    kick: Mutex<Option<Arc<File>>>,
    kick_generation: AtomicU32,
}

impl Queue {
    /// A stopped queue.
    pub fn new(index: u16) -> Self {
        Self {
            index,
            ring: Mutex::new(Ring::default()),
            live: AtomicBool::new(false),
            waiters: AtomicU64::new(0),
            kick: Mutex::new(None),
            kick_generation: AtomicU32::new(0),
        }
    }

    /// Takes the ring for one burst.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, Ring> {
        // A panic while the lock was held cannot leave guest memory worse than a guest can: go on.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the ring runs; a hint that is checked again under the lock.
    #[inline]
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Publishes whether the ring runs; call with the ring's lock held.
    pub fn set_live(&self, live: bool) {
        self.live.store(live, Ordering::Release);
    }

    /// Replaces the descriptor by which the guest tells of new buffers.
    pub fn set_kick(&self, kick: Option<Arc<File>>) {
        *self.kick.lock().unwrap_or_else(PoisonError::into_inner) = kick;
        self.kick_generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The kick descriptor and the generation it belongs to.
    pub fn kick(&self) -> (u32, Option<Arc<File>>) {
        let kick = self.kick.lock().unwrap_or_else(PoisonError::into_inner);
        (self.kick_generation.load(Ordering::Acquire), kick.clone())
    }

    /// Which kick descriptor is in force.
    #[inline]
    pub fn kick_generation(&self) -> u32 {
        self.kick_generation.load(Ordering::Acquire)
    }
}

/// Whether `file` is an eventfd: the only thing a worker may wait on or write to on a guest's behalf. Anything else could block
/// it (a full pipe) or cost it unbounded time.
pub fn is_eventfd(file: &File) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]")
}

/// Makes writes to `file` fail instead of block, whatever its owner does with the counter.
pub fn set_nonblocking(file: &File) {
    // SAFETY: fcntl on a descriptor that `file` keeps open.
    unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        if flags >= 0 {
            libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK);
        }
    }
}

/// Signals an eventfd. A full counter already means "signalled", so errors carry no news.
#[inline]
pub fn signal(mut event: &File) {
    let _ = event.write(&1u64.to_ne_bytes());
}
