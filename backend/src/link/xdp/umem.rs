//! The memory in which an uplink over `AF_XDP` and the kernel exchange frames, in chunks of one size: some to receive into, the others to send
//! from.
//!
//! It is a file in memory, so that another process can go on with it.
//!
//! Invariants: a chunk is the kernel's from the moment it is put into a ring until it comes back in the other; what the kernel says about it is
//! compared with the bounds of the memory before a byte is touched.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};

use super::ring::Mapping;
use crate::link::Piece;

/// Chunks for frames that are received: a few milliseconds' worth.
pub(super) const RECEIVE: u32 = 4096;
/// Chunks for frames that are sent: as many as one frame to be segmented may become.
pub(super) const SEND: u32 = 2048;
const ALL: usize = (RECEIVE + SEND) as usize;

/// The memory.
#[derive(Debug)]
pub(super) struct Umem {
    pub(super) file: OwnedFd,
    memory: Mapping,
    /// Bytes of a chunk.
    pub(super) chunk: usize,
}

impl Umem {
    /// New memory with chunks of so many bytes, a power of two.
    pub(super) fn new(chunk: usize) -> io::Result<Self> {
        let file = memfd_create("turnpike-uplink", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, (ALL * chunk) as u64)?;
        // Memory that nobody can take away is never a SIGBUS.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(file, chunk)
    }

    /// The memory that another process made.
    pub(super) fn map(file: OwnedFd, chunk: usize) -> io::Result<Self> {
        let sized = fstat(&file)?.st_size;
        if !matches!(chunk, 2048 | 4096) || usize::try_from(sized) != Ok(ALL * chunk) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let memory = Mapping::new(&file, ALL * chunk, 0)?;
        Ok(Self { file, memory, chunk })
    }

    /// What the kernel is told about it.
    pub(super) fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.memory.base.as_ptr() as u64,
            len: self.memory.len as u64,
            chunk_size: self.chunk as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    /// Where a chunk begins, as rings say it.
    pub(super) fn address(&self, number: u32) -> u64 {
        u64::from(number) * self.chunk as u64
    }

    /// The number of the chunk that an address from a ring is in, if there is such a chunk.
    pub(super) fn number(&self, address: u64) -> Option<u32> {
        let number = u32::try_from(address / self.chunk as u64).ok()?;
        (number < RECEIVE + SEND).then_some(number)
    }

    /// The bytes of a frame that the kernel has put into a chunk for received frames.
    ///
    /// # Safety
    /// The descriptor came out of the ring of received frames, and the chunk is not given back as long as the result is used.
    pub(super) unsafe fn received(&self, frame: &libc::xdp_desc) -> Option<&[u8]> {
        let number = self.number(frame.addr).filter(|number| *number < RECEIVE)?;
        let end = frame.addr.checked_add(frame.len.into())?;
        if end > self.address(number + 1) {
            return None;
        }
        // SAFETY: the bytes lie in one chunk, and so in the mapping, as was just checked; the kernel does not write to a chunk that it has given
        // us.
        Some(unsafe {
            std::slice::from_raw_parts(self.memory.base.as_ptr().add(frame.addr as usize), frame.len as usize)
        })
    }

    /// The bytes of a chunk to send from.
    ///
    /// # Safety
    /// The chunk is not in any ring, and nobody else has a reference to it.
    #[expect(clippy::mut_from_ref, reason = "chunks are different memory; see Safety")]
    pub(super) unsafe fn chunk_mut(&self, number: u32) -> Option<&mut [u8]> {
        if !(RECEIVE..RECEIVE + SEND).contains(&number) {
            return None;
        }
        // SAFETY: the chunk lies in the mapping, as was just checked, and is the caller's alone.
        Some(unsafe {
            let start = self.memory.base.as_ptr().add(self.address(number) as usize);
            std::slice::from_raw_parts_mut(start, self.chunk)
        })
    }
}

/// Copies a frame together; returns its length, `None` if it is longer than `out`.
pub(super) fn gather(front: &[u8], pieces: &[Piece], out: &mut [u8]) -> Option<usize> {
    out.get_mut(..front.len())?.copy_from_slice(front);
    let mut at = front.len();
    for piece in pieces {
        let to = out.get_mut(at..)?.get_mut(..piece.len())?;
        // SAFETY: a piece is memory that whoever sends keeps mapped (see [`Piece`]), as long as it says; `to` is as long, and memory of our
        // own, which no piece names.
        unsafe { std::ptr::copy_nonoverlapping(piece.0.iov_base.cast(), to.as_mut_ptr(), to.len()) };
        at += to.len();
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_in_one_chunk_for_received_frames_is_read() {
        let umem = Umem::new(2048).unwrap();
        let end = u64::from(RECEIVE) * 2048;
        let there = |addr, len| {
            // SAFETY: no kernel has this memory.
            unsafe { umem.received(&libc::xdp_desc { addr, len, options: 0 }) }.map(<[u8]>::len)
        };
        assert_eq!((there(0, 2048), there(256, 1792)), (Some(2048), Some(1792)));
        assert_eq!((there(1, 2048), there(256, 1793)), (None, None));
        assert_eq!((there(end - 1, 1), there(end - 1, 2), there(end, 0)), (Some(1), None, None));
        assert_eq!((there(u64::MAX, 1), there(u64::MAX - 10, u32::MAX)), (None, None));
        assert_eq!(umem.number(end), Some(RECEIVE));
        assert_eq!(umem.number(u64::from(RECEIVE + SEND) * 2048), None);
    }

    #[test]
    fn only_chunks_to_send_from_are_written() {
        let umem = Umem::new(4096).unwrap();
        // SAFETY: no kernel has this memory, and no two references are alive.
        let there = |number| unsafe { umem.chunk_mut(number) }.is_some_and(|chunk| chunk.len() == 4096);
        assert!(there(RECEIVE) && there(RECEIVE + SEND - 1));
        assert!(!there(RECEIVE - 1) && !there(RECEIVE + SEND) && !there(u32::MAX));
    }

    #[test]
    fn memory_of_another_size_is_refused() {
        let umem = Umem::new(2048).unwrap();
        let file = || umem.file.try_clone().unwrap();
        assert!(Umem::map(file(), 2048).is_ok());
        assert!(Umem::map(file(), 4096).is_err() && Umem::map(file(), 0).is_err());
        ftruncate(&umem.file, 0).unwrap_err();
    }

    #[test]
    fn a_frame_is_gathered_as_far_as_there_is_room() {
        let (a, b) = ([1_u8; 3], [2_u8; 4]);
        let mut out = [0; 9];
        assert_eq!(gather(&[7, 7], &[Piece::of(&a), Piece::of(&[]), Piece::of(&b)], &mut out), Some(9));
        assert_eq!(out, [7, 7, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(gather(&[7; 3], &[Piece::of(&a), Piece::of(&b)], &mut out), None);
        assert_eq!(gather(&[7; 10], &[], &mut out), None);
        assert_eq!(gather(&[], &[], &mut out), Some(0));
    }
}
