//! Congestion marks where a packet enters and leaves a tunnel (RFC 6040).
//!
//! Going in, the outer header gets the inner one's mark (normal mode, section 4.1): [`Template::emit`](super::Template::emit). Coming out, the
//! inner header gets what both together say (section 4.2): [`arrive`].

use crate::frame::checksum;
use crate::frame::ethernet::{Ethernet, ethertype};
use crate::frame::ipv4;

/// Values of the two bits.
pub mod mark {
    /// The sender does not understand marks.
    pub const NOT_ECT: u8 = 0;
    /// It does.
    pub const ECT_1: u8 = 1;
    /// It does.
    pub const ECT_0: u8 = 2;
    /// Congestion was experienced.
    pub const CE: u8 = 3;
}

/// The bits in the byte of [`super::tos`].
const MASK: u8 = 3;

/// Congestion that cannot be told to the packet's receiver in any way but by dropping it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("marked as congested in the tunnel, but its sender does not understand marks")]
pub struct Congestion;

/// The inner mark of a packet that leaves a tunnel (RFC 6040, figure 4). Only the two low bits of each argument count.
#[inline]
pub const fn decapsulate(outer: u8, inner: u8) -> Result<u8, Congestion> {
    match (inner & MASK, outer & MASK) {
        (mark::NOT_ECT, mark::CE) => Err(Congestion),
        (mark::NOT_ECT, _) => Ok(mark::NOT_ECT),
        (_, mark::CE) | (mark::CE, _) => Ok(mark::CE),
        (mark::ECT_0, mark::ECT_1) => Ok(mark::ECT_1),
        (inner, _) => Ok(inner),
    }
}

/// Gives a packet that leaves a tunnel the mark that it needs. `head` is the inner frame's beginning. What is not IP understands no marks.
#[inline]
pub fn arrive(head: &mut [u8], outer: u8) -> Result<(), Congestion> {
    let inner = super::tos(head) & MASK;
    let new = decapsulate(outer, inner)?;
    if new != inner {
        set(head, new);
    }
    Ok(())
}

/// Writes a mark into the IP header of a frame, and what it changes of the header's checksum. Nothing happens to a frame without one.
pub fn set(head: &mut [u8], ecn: u8) {
    let Some((at, kind)) = Ethernet::parse(head).map(|e| (e.header_len(), e.ethertype())) else { return };
    let Some(packet) = head.get_mut(at..) else { return };
    let ecn = ecn & MASK;
    match (kind, packet) {
        (ethertype::IPV4, [first, tos, rest @ ..]) => {
            // The first two bytes of the header are consumed.
            let Some([high, low]) = rest.get_mut(ipv4::field::CHECKSUM - 2..ipv4::field::CHECKSUM) else {
                return;
            };
            let new = *tos & !MASK | ecn;
            let (before, after) = (u16::from_be_bytes([*first, *tos]), u16::from_be_bytes([*first, new]));
            [*high, *low] = checksum::update(u16::from_be_bytes([*high, *low]), before, after).to_be_bytes();
            *tos = new;
        }
        (ethertype::IPV6, [_, second, ..]) => *second = *second & 0xcf | ecn << 4,
        _ => {}
    }
}
