//! The ring of memory into which the kernel puts what an uplink receives (`PACKET_RX_RING`, TPACKET_V2).
//!
//! Looking whether a frame has come is reading one word, and taking it a copy: no system call. A frame that is longer than its place (one
//! that stands for many) waits in the socket as well, and only its place in the order is in the ring.
//!
//! Invariants: a place is the kernel's or ours, as its status word says; of a place that is ours nothing is read after it was given back. The
//! kernel keeps its position to itself, so a process that takes the socket over must be told ours.
//!
//! Threading: one thread at a time takes frames; another that tries meanwhile finds none.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::{SOCKET_HEADER, set_option};

/// Bytes of the whole ring: some thousand frames, a few milliseconds at 10 Gbit/s.
const RING: usize = 8 << 20;
/// Bytes of what the kernel allocates in one piece.
const BLOCK: usize = 64 << 10;
/// Bytes of a place for frames of the usual MTU, and how much of each place is not for the frame's bytes.
const PLACE: usize = 2048;
const OVERHEAD: usize = 128;

/// What the ring is like, for a process that takes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingText {
    /// Bytes of a place.
    pub place: u32,
    /// The next place to look at.
    pub position: u32,
}

/// The ring.
#[derive(Debug)]
pub(super) struct Ring {
    base: NonNull<u8>,
    place: usize,
    position: Mutex<usize>,
}

// SAFETY: the memory is shared with the kernel only, and `position` says who of us may look at it.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

/// A frame in its place.
pub(super) struct Place<'a> {
    /// Its virtio-net header.
    pub(super) header: [u8; SOCKET_HEADER],
    /// Its bytes, as many as there are in the ring.
    pub(super) bytes: &'a [u8],
    /// How long it is.
    pub(super) len: usize,
    /// All of it waits in the socket.
    pub(super) in_socket: bool,
    /// The VLAN tag that the kernel took off.
    pub(super) tag: Option<[u16; 2]>,
}

impl Ring {
    /// Gives a socket that is not bound yet a ring with places for frames of an interface with this MTU.
    pub(super) fn new(socket: &OwnedFd, mtu: u32) -> io::Result<Self> {
        set_option(
            socket,
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V2 as libc::c_int),
        )?;
        // Any number but 0: what does not fit waits in the socket.
        set_option(socket, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, &1_i32)?;
        let place = (mtu as usize + OVERHEAD).next_power_of_two().clamp(PLACE, BLOCK);
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as libc::c_uint,
            tp_block_nr: (RING / BLOCK) as libc::c_uint,
            tp_frame_size: place as libc::c_uint,
            tp_frame_nr: (RING / place) as libc::c_uint,
        };
        set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        Self::map(socket, RingText { place: place as u32, position: 0 })
    }

    /// Maps the ring of a socket that has one.
    pub(super) fn map(socket: &OwnedFd, text: RingText) -> io::Result<Self> {
        let place = text.place as usize;
        if !place.is_power_of_two()
            || !(PLACE..=BLOCK).contains(&place)
            || text.position as usize >= RING / place
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: a new mapping wherever there is room; the kernel refuses unless the socket's ring has exactly this size.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                RING,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { base, place, position: Mutex::new(text.position as usize) })
    }

    /// For a process that takes the ring over. Nothing may be taken any more.
    pub(super) fn to_text(&self) -> RingText {
        let position = *self.position.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        RingText { place: self.place as u32, position: position as u32 }
    }

    /// Gives the frames that have come to `take`, oldest first, for as long as it says that there is room for another.
    pub(super) fn each(&self, mut take: impl FnMut(Place<'_>) -> bool) {
        let Ok(mut position) = self.position.try_lock() else { return };
        let mut more = true;
        while more {
            // SAFETY: `position` is below the number of places, so the place lies in the mapping; places are aligned to their size.
            let start = unsafe { self.base.add(*position * self.place) };
            // SAFETY: the place begins with the status word, which both sides only access atomically.
            let status = unsafe { AtomicU32::from_ptr(start.cast().as_ptr()) };
            let word = status.load(Ordering::Acquire);
            if word & libc::TP_STATUS_USER == 0 {
                return;
            }
            // SAFETY: the place is ours until the status is given back below, and as long as the slice says; the kernel does not write to it.
            let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), self.place) };
            more = take(read(word, bytes));
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            *position = (*position + 1) % (RING / self.place);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made, of this length, and nobody has a reference into it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), RING) };
    }
}

/// What a place says. Reads beyond it are empty: the kernel is believed, but not with memory.
fn read(status: u32, place: &[u8]) -> Place<'_> {
    let word = |at: usize| {
        let bytes = place.get(at..at + 4).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    };
    let half = |at: usize| {
        let bytes = place.get(at..at + 2).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u16::from_ne_bytes(*bytes))
    };
    let at = usize::from(half(offset_of!(libc::tpacket2_hdr, tp_mac)));
    let inside = word(offset_of!(libc::tpacket2_hdr, tp_snaplen)) as usize;
    let header = at.checked_sub(SOCKET_HEADER).and_then(|start| place.get(start..at)?.first_chunk());
    let known = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let protocol =
        if known { half(offset_of!(libc::tpacket2_hdr, tp_vlan_tpid)) } else { libc::ETH_P_8021Q as u16 };
    let tag = [protocol, half(offset_of!(libc::tpacket2_hdr, tp_vlan_tci))];
    const { assert!(size_of::<libc::tpacket2_hdr>() == 32) };
    Place {
        header: header.copied().unwrap_or_default(),
        bytes: place.get(at..at + inside).unwrap_or(&[]),
        len: word(offset_of!(libc::tpacket2_hdr, tp_len)) as usize,
        in_socket: status & libc::TP_STATUS_COPY != 0,
        tag: (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(tag),
    }
}
