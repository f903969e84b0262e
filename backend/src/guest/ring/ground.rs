//! What rings of both layouts stand on: guest memory, the log of writes to it, descriptors and the buffers they name.
//!
//! Invariants: a descriptor is read into a copy of our own once each time it is looked at, and whatever is done follows that copy; every buffer
//! is checked against `memory`, which lives as long as the ring that runs on it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{MAX_RING_SIZE, RingError};
use crate::guest::dirty_log::DirtyLog;
use crate::guest::memory::{Memory, Span};

pub(super) const DESC_F_NEXT: u16 = 1;
pub(super) const DESC_F_WRITE: u16 = 2;
pub(super) const DESC_F_INDIRECT: u16 = 4;
pub(super) const DESC_SIZE: u64 = 16;

/// What the front end negotiated for a ring.
#[allow(clippy::struct_excessive_bools)] // features, each for itself
#[derive(Clone, Copy, Debug, Default)]
pub struct RingShape {
    /// `VIRTIO_RING_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_RING_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// `VIRTIO_NET_F_MRG_RXBUF`.
    pub mergeable: bool,
    /// `VIRTIO_F_RING_PACKED`.
    pub packed: bool,
    /// `VIRTIO_F_IN_ORDER`.
    pub in_order: bool,
    /// Bytes of the virtio-net header: 12, or 10 for a legacy driver without mergeable buffers.
    pub header_len: u8,
}

/// Where a ring is.
#[derive(Clone, Copy, Debug)]
pub struct RingPlace {
    /// Number of descriptors.
    pub size: u16,
    /// Guest address of the descriptor table, or of a packed ring's descriptors.
    pub desc: u64,
    /// Guest address of the available ring, or of a packed ring's driver event suppression.
    pub avail: u64,
    /// Guest address of the used ring, or of a packed ring's device event suppression.
    pub used: u64,
}

impl RingPlace {
    /// Host address of a part of the ring.
    pub(super) fn part(
        memory: &Memory,
        what: &'static str,
        addr: u64,
        align: u64,
        len: u32,
    ) -> Result<*mut u8, RingError> {
        if !addr.is_multiple_of(align) {
            return Err(RingError::BadRing(what, addr));
        }
        // A region may begin at any guest address, so what is aligned there need not be aligned here.
        let host = memory.translate(addr, len).filter(|host| (*host as u64).is_multiple_of(align));
        host.ok_or(RingError::BadRing(what, addr))
    }
}

/// The frames of a suspended transmit ring that are finished while one before them is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Ring position of the first frame that is not finished.
    pub(super) base: u16,
    /// Bit i: the frame at `base + i` is finished.
    pub(super) done: u64,
    /// Heads of the frames from `base` on; none where what is finished is only given back in order, and so still lies in the ring.
    pub(super) heads: Vec<u16>,
}

/// A descriptor, read once from guest memory.
#[derive(Clone, Copy)]
pub(super) struct Desc {
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    /// The next descriptor of a split ring's chain; the buffer id in a packed ring.
    pub(super) next: u16,
}

impl Desc {
    /// Reads descriptor `index` of a table at `table` that has more than `index` entries.
    #[inline]
    pub(super) fn read(table: *const u8, index: u16) -> Self {
        // SAFETY: the caller checked `index` against the table, whose 16-byte entries are inside guest memory; read_unaligned of
        // plain integers accepts whatever the guest stores meanwhile, and each word is used from this copy only.
        let (addr, word) = unsafe {
            let entry = table.add(usize::from(index) * DESC_SIZE as usize).cast::<u64>();
            (entry.read_unaligned(), entry.add(1).read_unaligned())
        };
        Self { addr, len: word as u32, flags: (word >> 32) as u16, next: (word >> 48) as u16 }
    }
}

/// The memory of a ring that runs.
pub(super) struct Ground {
    pub(super) memory: Arc<Memory>,
    /// Where writes are logged while the guest is being copied elsewhere.
    pub(super) log: Option<Arc<DirtyLog>>,
}

impl Ground {
    /// What vanished behind the ring, if something did.
    #[inline]
    pub(super) fn vanished(&self) -> Option<RingError> {
        if self.memory.vanished() {
            Some(RingError::MemoryVanished)
        } else {
            self.log.as_ref().filter(|log| log.vanished()).map(|_| RingError::LogVanished)
        }
    }

    /// To be called after each write to guest memory: logs it if that is wanted.
    #[inline]
    pub(super) fn wrote(&self, ptr: *const u8, len: usize) {
        if self.log.is_some() {
            self.mark([(ptr, len)]);
        }
    }

    /// As [`Self::wrote`], for the first `total` bytes of `spans`.
    pub(super) fn wrote_spans(&self, spans: &[Span], total: usize) {
        if self.log.is_some() {
            let mut left = total;
            self.mark(spans.iter().map(|span| {
                let len = left.min(span.len as usize);
                left -= len;
                (span.ptr.cast_const(), len)
            }));
        }
    }

    #[cold]
    pub(super) fn mark(&self, written: impl IntoIterator<Item = (*const u8, usize)>) {
        if let Some(log) = &self.log {
            log.mark(&self.memory, written);
        }
    }

    /// Pushes the pieces of a descriptor's buffer to `spans`, as many as its capacity lets; returns the buffer's length. `index` is the
    /// descriptor's and `size` the ring's, for the error. The buffer must be device-writable exactly if `write` is set.
    pub(super) fn push(
        &self,
        desc: Desc,
        index: u16,
        write: bool,
        spans: &mut Vec<Span>,
        size: u16,
    ) -> Result<u64, RingError> {
        if (desc.flags & DESC_F_WRITE != 0) != write {
            return Err(RingError::ReadOnly(index));
        }
        let (mut addr, mut len) = (desc.addr, desc.len);
        while len > 0 {
            let span = self.memory.translate_part(addr, len).ok_or(RingError::BadAddress(addr, len))?;
            if spans.len() == spans.capacity() {
                return Err(RingError::ChainTooLong(size));
            }
            spans.push(span);
            len -= span.len;
            addr = addr.wrapping_add(u64::from(span.len));
        }
        Ok(u64::from(desc.len))
    }

    /// Where the table of an indirect descriptor is, and how many entries it has; `allowed` says whether there may be one here.
    pub(super) fn table(&self, desc: Desc, allowed: bool) -> Result<(*const u8, u16), RingError> {
        let count = u64::from(desc.len) / DESC_SIZE;
        let fits = allowed
            && desc.flags & DESC_F_NEXT == 0
            && u64::from(desc.len).is_multiple_of(DESC_SIZE)
            && (1..=u64::from(MAX_RING_SIZE)).contains(&count);
        let place = if fits { self.memory.translate(desc.addr, desc.len) } else { None };
        let table = place.ok_or(RingError::BadAddress(desc.addr, desc.len))?;
        Ok((table.cast_const(), count as u16))
    }
}

/// Asks the CPU to fetch the line at `ptr` for reading.
#[inline]
pub(super) fn prefetch(ptr: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it never faults.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(ptr.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}

/// Asks the CPU to fetch the line at `ptr` for writing: one transfer between cores instead of two.
#[inline]
pub(super) fn prefetch_write(ptr: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it never faults, and x86-64 CPUs without this one ignore it.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) ptr, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}
