//! What network virtualization looks like on the wire: bytes of tunnels, and changes of customers' packets.
//!
//! | what | where |
//! |---|---|
//! | outer headers, prebuilt for each tunnel | [`outer`] |
//! | what came out of a tunnel | [`open`](mod@open) |
//! | what somebody quotes of one's packet | [`carried`](mod@carried) |
//! | congestion marks between the two headers (RFC 6040) | [`ecn`] |
//! | addresses, TTL and checksums of a customer's packet | [`rewrite`] |
//! | what is equal for all packets of one flow | [`flow`] |
//!
//! Pure functions over bytes: no state, no clock, no allocation. Everything here may be given any bytes by anybody and never panics.
//! A frame's `head` is its beginning, all of it or at least the first [`HEAD_LEN`](crate::HEAD_LEN) bytes of it.
//!
//! A tunnel is opened once. What is in it may be a tunnel again, a tenant's own, with any numbers: it is a packet of that tenant's like
//! any other and nothing here looks into it.

pub mod carried;
mod delta;
pub mod ecn;
pub mod flow;
pub mod open;
pub mod outer;
pub mod rewrite;

pub use carried::{Carried, carried};
pub use flow::{entropy, tos};
pub use open::{Malformed, Tunnelled, continues, open};
pub use outer::{OUTER_MAX, Outer, Template, overhead};

use crate::frame::ethernet::HEADER_LEN;

/// Bytes of an Ethernet header without a tag, which is all that the MTU does not count.
pub const ETHERNET: u32 = HEADER_LEN as u32;

/// GRE's and VXLAN's header, and UDP's.
const TUNNEL_HEADER: usize = 8;

/// UDP destination port of VXLAN (RFC 7348, section 5).
pub const VXLAN_PORT: u16 = 4789;

/// IP protocol of GRE.
const GRE: u8 = 47;

/// GRE's first two bytes as NVGRE has them: a key and nothing else, version 0 (RFC 7637, section 3.2).
const GRE_KEY: u16 = 0x2000;

/// GRE's protocol type for Ethernet frames (RFC 7637, section 3.2).
const BRIDGED_ETHERNET: u16 = 0x6558;

/// VXLAN's flag that says there is a VNI (RFC 7348, section 5).
const VXLAN_VNI: u8 = 0x08;

/// The traffic class from the first two bytes of an IPv6 header.
const fn traffic_class(first: u8, second: u8) -> u8 {
    first << 4 | second >> 4
}
