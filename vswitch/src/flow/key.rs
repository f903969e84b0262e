//! What frames of one flow have in common: everything the pipeline looks at, in two words.

use crate::PortId;
use crate::frame::ethernet::{self, MAX_LEN};

/// Source port, destination, source and VLAN of a frame: 124 of 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub(crate) a: u64,
    pub(crate) b: u64,
}

const LOW_48: u64 = (1 << 48) - 1;

impl Key {
    /// The key of a frame; `None` for one that is to be judged on its own because it is too short or too long.
    ///
    /// Two frames with one key get one verdict: [`ethernet::check`] and this function agree on what a frame is.
    #[inline]
    pub fn new(from: PortId, head: &[u8], len: u32) -> Option<Self> {
        let (ether, rest) = head.split_first_chunk::<{ ethernet::HEADER_LEN }>()?;
        if len > MAX_LEN {
            return None;
        }
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ether;
        let dst = u64::from_le_bytes([d0, d1, d2, d3, d4, d5, s0, s1]) & LOW_48;
        let src_type = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, t0, t1]);
        let vlan = if ethernet::is_tag([t0, t1]) {
            u64::from(u16::from_be_bytes(*rest.first_chunk()?) & 0xfff)
        } else {
            0
        };
        Some(Self { a: dst | u64::from(from.0) << 48, b: src_type & LOW_48 | vlan << 48 })
    }
}
