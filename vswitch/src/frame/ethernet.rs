//! Ethernet II with up to two VLAN tags (802.1Q, 802.1ad).

use crate::Mac;
use crate::trace::DropReason;

/// Bytes of an Ethernet header without tags.
pub const HEADER_LEN: usize = 14;

/// Bytes of one VLAN tag.
pub const TAG_LEN: usize = 4;

/// Tags that are looked behind; a third one is payload.
pub const MAX_TAGS: usize = 2;

/// Longest frame that is accepted, in bytes: the largest IP packet with its Ethernet header and two tags.
pub const MAX_LEN: u32 = 65_535 + (HEADER_LEN + MAX_TAGS * TAG_LEN) as u32;

/// Ethertypes.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// Reverse ARP, used for announcements.
    pub const RARP: u16 = 0x8035;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
}

mod field {
    use std::ops::Range;
    pub(super) const DST: Range<usize> = 0..6;
    pub(super) const SRC: Range<usize> = 6..12;
    pub(super) const TYPE: Range<usize> = 12..14;
}

/// Whether these two bytes at a type's place begin a VLAN tag.
#[inline]
pub const fn is_tag(ethertype: [u8; 2]) -> bool {
    matches!(u16::from_be_bytes(ethertype), ethertype::VLAN | ethertype::QINQ)
}

/// The Ethernet header at the beginning of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'a> {
    head: &'a [u8],
    tags: usize,
}

impl<'a> Ethernet<'a> {
    /// Looks at the beginning of a frame; `None` if the header or one of its (first two) tags is cut off.
    #[inline]
    pub fn parse(head: &'a [u8]) -> Option<Self> {
        let mut tags = 0;
        loop {
            let at = field::TYPE.start + tags * TAG_LEN;
            let ethertype = *head.get(at..)?.first_chunk::<2>()?;
            if tags == MAX_TAGS || !is_tag(ethertype) {
                return Some(Self { head, tags });
            }
            tags += 1;
        }
    }

    /// Destination address.
    pub fn dst(&self) -> Mac {
        self.mac(field::DST)
    }

    /// Source address.
    pub fn src(&self) -> Mac {
        self.mac(field::SRC)
    }

    /// How many of the (at most two) tags there are.
    pub fn tags(&self) -> usize {
        self.tags
    }

    /// Tag control information of a tag, the outermost being number 0.
    pub fn tci(&self, number: usize) -> Option<u16> {
        let at = field::TYPE.end + number * TAG_LEN;
        (number < self.tags).then(|| self.u16_at(at))
    }

    /// VLAN of the outermost tag; 0 for an untagged or priority-tagged frame.
    pub fn vlan_id(&self) -> u16 {
        self.tci(0).unwrap_or(0) & 0xfff
    }

    /// What follows the tags.
    pub fn ethertype(&self) -> u16 {
        self.u16_at(field::TYPE.start + self.tags * TAG_LEN)
    }

    /// Where the payload begins: 14, 18 or 22.
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.tags * TAG_LEN
    }

    fn mac(&self, range: std::ops::Range<usize>) -> Mac {
        let mut mac = [0; 6];
        mac.copy_from_slice(&self.head[range]);
        Mac(mac)
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.head[at], self.head[at + 1]])
    }
}

/// Checks that a frame of `len` bytes is one at all: header with outermost tag complete, not longer than any may be.
pub fn check(head: &[u8], len: u32) -> Result<Outer, DropReason> {
    let (ether, rest) = head.split_first_chunk::<HEADER_LEN>().ok_or(DropReason::FrameTooShort)?;
    if len > MAX_LEN {
        return Err(DropReason::FrameTooLong);
    }
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ether;
    let tag = if is_tag([t0, t1]) {
        let tci = u16::from_be_bytes(*rest.first_chunk().ok_or(DropReason::FrameTooShort)?);
        Some(tci & 0xfff)
    } else {
        None
    };
    let (dst, src) = (Mac([d0, d1, d2, d3, d4, d5]), Mac([s0, s1, s2, s3, s4, s5]));
    Ok(Outer { dst, src, tag })
}

/// Whether another tag follows the first one.
#[inline]
pub fn has_inner_tag(head: &[u8]) -> bool {
    let at = field::TYPE.start;
    let type_at = |at: usize| head.get(at..)?.first_chunk::<2>().copied();
    type_at(at).is_some_and(is_tag) && type_at(at + TAG_LEN).is_some_and(is_tag)
}

/// The part of an Ethernet header that forwarding looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// VLAN of the outermost tag (0 = priority tag); `None` = there is no tag.
    pub tag: Option<u16>,
}
