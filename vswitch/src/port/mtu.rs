//! The receiver's MTU. Checked when a frame is delivered, because it depends on the frame's length and offload.

use crate::frame::ethernet::{self, Ethernet};
use crate::frame::offload::Offload;
use crate::trace::DropReason;

/// Longest frame that a port with this MTU can be sent, in bytes: MTU, Ethernet header and two VLAN tags.
#[inline]
pub const fn longest_frame(mtu: u16) -> u32 {
    mtu as u32 + (ethernet::HEADER_LEN + ethernet::MAX_TAGS * ethernet::TAG_LEN) as u32
}

/// Whether a frame of `len` bytes that begins with `head` is one, or stands for TCP segments, that fit the receiver's `mtu`.
/// VLAN tags do not count.
#[inline]
pub fn check(mtu: u16, head: &[u8], len: u32, offload: &Offload) -> Result<(), DropReason> {
    let packet = offload.largest_packet(len);
    let limit = u32::from(mtu) + ethernet::HEADER_LEN as u32;
    if packet <= limit {
        return Ok(());
    }
    let tags = Ethernet::parse(head).map_or(0, |ether| ether.tags() * ethernet::TAG_LEN) as u32;
    if packet <= limit + tags { Ok(()) } else { Err(DropReason::MtuExceeded) }
}
