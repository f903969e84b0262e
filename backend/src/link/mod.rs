//! Everything that is not a guest: a TAP of the host, and an uplink over `AF_PACKET` or `AF_XDP`.
//!
//! A [`Link`] moves Ethernet frames with a virtio-net header in front, so that checksums and TCP segmentation pass
//! between a guest and the kernel untouched. It decides nothing: which frame goes where is the switch's business.
//!
//! Invariants: `receive` and `send` never block and never allocate; what the kernel hands over is bounded by the
//! slots of a [`LinkBurst`]; a fault in the memory that a [`Piece`] names is an error of that one frame.
//!
//! Threading: every method may be called from any thread; no lock that another thread may hold for long is taken by `receive` or `send`.

#![allow(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "system calls mix signed and unsigned small constants"
)]

mod burst;
mod device;
mod error;
mod interface;
pub mod outbox;
pub mod packet;
pub mod tap;
pub mod xdp;

use std::os::fd::{BorrowedFd, RawFd};

use serde::{Deserialize, Serialize};
use vswitch::Mac;

use crate::guest::memory::Span;

pub use crate::spec::ReceiveDrops;
pub use burst::{BURST, LinkBurst, LinkFrame, MAX_FRAME};
pub use error::LinkError;
pub use interface::{interface_exists, interface_name};
use outbox::Outbox;
pub use packet::Packet;
pub use tap::Tap;
pub use xdp::Xdp;

/// Bytes of the virtio-net header (`virtio_net_hdr_v1`, little endian) in front of every frame at this interface.
pub const LINK_HEADER: usize = 12;

/// Most pieces that [`Link::send`] takes behind the head. A longer chain is refused as
/// [`LinkError::TooManyPieces`]; a Linux guest uses at most 18.
pub const MAX_PIECES: usize = 64;

// The kernel writes virtio-net headers of TAP and AF_PACKET in the host's byte order, everything else here reads them
// as little endian.
#[cfg(target_endian = "big")]
compile_error!("links assume a little-endian host");

/// A borrowed piece of a frame, in guest memory or in a worker's memory.
///
/// Raw, because guest memory is never a Rust slice: the guest may write to it at any time. The kernel reads through it, to which an address that
/// is not mapped is an error, or a link or a watcher ([`outbox::Outgoing::copy`]) does, to which it must be mapped; a guest's memory that vanishes
/// is caught where that is mapped.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Piece(pub libc::iovec);

// SAFETY: a piece is an address and a length; whoever reads through it relies on what `new` asks for.
unsafe impl Send for Piece {}
// SAFETY: as above; a shared piece cannot be changed.
unsafe impl Sync for Piece {}

impl Piece {
    /// The `len` bytes at `ptr`.
    ///
    /// # Safety
    /// They stay mapped until [`Link::send`] has returned; if only [`Tap`] and [`Packet`] get the piece, any address will do.
    pub const unsafe fn new(ptr: *const u8, len: usize) -> Self {
        Self(libc::iovec { iov_base: ptr.cast_mut().cast(), iov_len: len })
    }

    /// The bytes of a slice; the caller keeps them alive until [`Link::send`] has returned.
    pub const fn of(bytes: &[u8]) -> Self {
        // SAFETY: a slice is mapped, and the caller keeps it.
        unsafe { Self::new(bytes.as_ptr(), bytes.len()) }
    }

    /// What a span names; the caller keeps its memory, as spans are only made of memory that is kept for the burst they are in.
    pub const fn over(span: &Span) -> Self {
        // SAFETY: a worker keeps what the spans of its burst name until the burst is delivered.
        unsafe { Self::new(span.ptr, span.len as usize) }
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "an empty piece is as good as any other")]
    pub const fn len(&self) -> usize {
        self.0.iov_len
    }
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:p}+{}", self.0.iov_base, self.0.iov_len)
    }
}

/// What became of a frame that was given to [`Link::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// The kernel has a copy.
    Done,
    /// No room now; the frame may be tried again. The descriptor becomes writable when the socket's own buffer was
    /// full, but may be writable all the time when it was the interface's queue.
    Full,
}

/// What the link takes when frames are sent to it; the kernel completes in software what the hardware cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent virtio feature bits")]
pub struct LinkOffloads {
    /// Frames whose checksum is to be completed (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    pub csum: bool,
    /// TCP over IPv4 to be segmented.
    pub tso4: bool,
    /// TCP over IPv6 to be segmented.
    pub tso6: bool,
    /// Segmented TCP with the congestion window reduced bit.
    pub ecn: bool,
}

impl LinkOffloads {
    /// All of them.
    pub const ALL: Self = Self { csum: true, tso4: true, tso6: true, ecn: true };
}

/// What a link knows beside its descriptor, for a process that takes it over. Frames that arrive meanwhile wait in the descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkText {
    /// The interface's name when it was opened.
    pub interface: String,
    /// The interface's own address, as far as the link needs it.
    pub mac: Option<Mac>,
    /// MTU in bytes when it was last seen.
    pub mtu: u32,
    /// Addresses the interface's filter was given.
    pub unicast: Vec<Mac>,
    /// Whether the link made the interface promiscuous.
    pub promiscuous: bool,
    /// The ring of an uplink's received frames, if it has one.
    #[serde(default)]
    pub ring: Option<packet::ring::RingText>,
    /// Rings and memory of an uplink over `AF_XDP`.
    #[serde(default)]
    pub xdp: Option<xdp::XdpText>,
}

/// One link. See the module's text for threading.
pub trait Link: Send + Sync {
    /// The interface's name when it was opened.
    fn name(&self) -> &str;

    /// The descriptor that becomes readable when frames wait, and reports an error when the interface is gone or
    /// goes down; `receive` collects that error. Use it level-triggered.
    fn raw_fd(&self) -> RawFd;

    /// The descriptor fired: if no frame has come, something else has happened.
    fn woken(&self) {}

    /// Replaces the burst's content by waiting frames and returns how many there are; 0 when nothing waits.
    ///
    /// Fails with [`LinkError::Gone`] when the interface no longer exists. An interface that is merely down has no
    /// frames.
    fn receive(&self, burst: &mut LinkBurst) -> Result<usize, LinkError> {
        burst.clear();
        self.receive_more(burst)
    }

    /// Adds waiting frames behind those that the burst has, as far as there is room, and returns how many it has then.
    ///
    /// Fails as [`Link::receive`] does; the burst keeps its frames.
    fn receive_more(&self, burst: &mut LinkBurst) -> Result<usize, LinkError>;

    /// Sends one frame: its virtio-net header, its first bytes, and pieces of the rest (at most [`MAX_PIECES`]).
    ///
    /// An error concerns this frame only, except [`LinkError::Gone`].
    fn send(&self, header: &[u8; LINK_HEADER], head: &[u8], rest: &[Piece]) -> Result<Sent, LinkError>;

    /// Sends the frames of an outbox from number `first` on, with as few system calls as it can; returns how many went, 0 if there is no room.
    ///
    /// An error concerns frame `first` only, except [`LinkError::Gone`].
    fn send_all(&self, outbox: &Outbox, first: usize) -> Result<usize, LinkError> {
        let mut sent = 0;
        while let Some(frame) = outbox.get(first + sent) {
            match self.send(frame.header, frame.front, frame.pieces) {
                Ok(Sent::Done) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Ok(Sent::Full) | Err(_) => break,
            }
        }
        Ok(sent)
    }

    /// What the link takes when frames are sent to it.
    fn offloads(&self) -> LinkOffloads;

    /// Makes the link receive frames for these addresses beside its own, and all frames if `promiscuous`. Group
    /// addresses are always received.
    fn set_addresses(&self, unicast: &[Mac], promiscuous: bool) -> Result<(), LinkError>;

    /// Whether the interface is administratively up and has a carrier. A few system calls: for asking once a second.
    fn is_up(&self) -> bool;

    /// Whether the interface no longer exists, so that every further call fails with [`LinkError::Gone`]. To be asked
    /// when `is_up` says no: the descriptor of an uplink that was down already does not tell. One system call.
    fn is_gone(&self) -> bool;

    /// What was lost before the switch saw it. One system call.
    fn receive_drops(&self) -> ReceiveDrops;

    /// What another process needs to go on with this link: the type's `adopt` takes it. Nothing may be moved any more.
    fn to_parts(&self) -> (LinkText, Vec<BorrowedFd<'_>>);

    /// How the kernel serves the link, where there are several ways; for people.
    fn mode(&self) -> Option<String> {
        None
    }
}

/// Header, head and rest as the kernel wants them; on the stack, without allocation.
struct Gather {
    vectors: [libc::iovec; MAX_PIECES + 2],
    count: usize,
    /// Bytes of the frame, without the header.
    frame_len: usize,
}

impl Gather {
    fn new(
        interface: &std::sync::Arc<str>,
        header: &[u8],
        head: &[u8],
        rest: &[Piece],
    ) -> Result<Self, LinkError> {
        if rest.len() > MAX_PIECES {
            return Err(LinkError::TooManyPieces { interface: interface.clone(), count: rest.len() });
        }
        let frame_len = rest.iter().fold(head.len(), |sum, piece| sum.saturating_add(piece.len()));
        if frame_len > MAX_FRAME {
            let interface = interface.clone();
            return Err(LinkError::TooLong { interface, length: frame_len, limit: MAX_FRAME });
        }
        if frame_len < burst::ETHERNET_HEADER {
            return Err(LinkError::BadFrame { interface: interface.clone() });
        }
        let mut vectors = [Piece::of(&[]).0; MAX_PIECES + 2];
        vectors[0] = Piece::of(header).0;
        vectors[1] = Piece::of(head).0;
        for (vector, piece) in vectors[2..].iter_mut().zip(rest) {
            *vector = piece.0;
        }
        Ok(Self { vectors, count: 2 + rest.len(), frame_len })
    }
}
