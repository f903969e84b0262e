//! Many datagrams given to the kernel as one frame (`VIRTIO_NET_HDR_GSO_UDP_L4`), which hardware takes apart, or the kernel where the
//! hardware cannot, or nobody where the receiver is a link like this one: the way through the kernel is what a small packet costs most.
//!
//! Datagrams that follow one another in an outbox go together if their fronts are equal to the last bit, which means: one tunnel, one flow, one
//! length.

use vswitch::frame::datagrams::{Place, UDP_CHECKSUM};
use vswitch::frame::offload::{F_NEEDS_CSUM, GSO_UDP_L4, NetHeader};

use super::SOCKET_HEADER;
use crate::link::outbox::{MAX_FRONT, Outbox};

/// Longest frame that is made, in bytes.
const LONGEST: usize = 65_000;

/// Datagrams that go together.
pub(super) struct Bundle {
    /// How many.
    pub(super) count: usize,
    /// The virtio-net header.
    pub(super) header: [u8; SOCKET_HEADER],
    /// The front of the first one, with lengths for all.
    pub(super) front: [u8; MAX_FRONT],
    /// Bytes of a front that come once; the rest of each front comes with each datagram.
    pub(super) once: usize,
}

impl Bundle {
    /// Those of an outbox from number `first` on, if there are two at least; `room`: pieces that they may have altogether.
    pub(super) fn of(outbox: &Outbox, first: usize, room: usize) -> Option<Self> {
        let frame = outbox.get(first).filter(|frame| frame.datagram)?;
        let (mut count, mut pieces, mut total) = (1, frame.pieces.len() + 1, frame.len);
        while let Some(next) = outbox.get(first + count) {
            let alike = next.datagram && next.len == frame.len && next.front == frame.front;
            pieces += next.pieces.len() + 1;
            total += frame.len;
            if !alike || pieces > room || total > LONGEST {
                break;
            }
            count += 1;
        }
        if count < 2 {
            return None;
        }
        let mut front = [0; MAX_FRONT];
        front.get_mut(..frame.front.len())?.copy_from_slice(frame.front);
        let place = Place::of(frame.front)?;
        let once = place.payload();
        let size = frame.len.checked_sub(once)?;
        place.resize(&mut front, count * size, 0)?;
        let header = NetHeader {
            flags: F_NEEDS_CSUM,
            gso_type: GSO_UDP_L4,
            hdr_len: once as u16,
            gso_size: size as u16,
            csum_start: place.udp as u16,
            csum_offset: UDP_CHECKSUM as u16,
            num_buffers: 0,
        };
        Some(Self { count, header: header.emit_legacy(), front, once })
    }
}
