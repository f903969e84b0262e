//! What frames of one flow have in common: everything the pipeline looks at.
//!
//! Most ports ask only for addresses and VLAN: [`Key`], two words. Where a port's policy looks further, or something is to be counted,
//! frames are told apart by [`DeepKey`], down to the ports of TCP and UDP. Both are exact: two frames with one key get one verdict. A frame
//! whose verdict may depend on more than the key holds has none and is judged on its own.

use std::net::IpAddr;

use crate::PortId;
use crate::frame::ethernet::{self, MAX_LEN, TAG_LEN, ethertype};
use crate::frame::headers::{Fragment, Headers};
use crate::frame::{ipv4, ipv6, protocol, singular, tcp};

/// Source port, destination, source and tags of a frame: 126 of 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub(crate) a: u64,
    pub(crate) b: u64,
}

const LOW_48: u64 = (1 << 48) - 1;
/// There is a tag; its VLAN may be 0.
const TAGGED: u64 = 1 << 60;
/// There is another one behind it.
const INNER: u64 = 1 << 61;

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
        let tag = if ethernet::is_tag([t0, t1]) {
            let id = u64::from(u16::from_be_bytes(*rest.first_chunk()?) & 0xfff);
            let inner = if ethernet::has_inner_tag(head) { INNER } else { 0 };
            TAGGED | inner | id << 48
        } else {
            0
        };
        Some(Self { a: dst | u64::from(from.0) << 48, b: src_type & LOW_48 | tag })
    }
}

/// All that policy looks at: [`Key`], IP addresses, protocol, ports (or ICMP type and code), and what part of a packet it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeepKey(pub(crate) [u64; WORDS]);

/// Words of a [`DeepKey`].
pub(crate) const WORDS: usize = 7;

impl DeepKey {
    /// The key of a frame; `None` for one that is to be judged on its own.
    #[inline]
    pub fn new(from: PortId, head: &[u8], len: u32) -> Option<Self> {
        let Key { a, b } = Key::new(from, head, len)?;
        if let Some(words) = quick(head, len) {
            let [w2, w3, w4, w5, w6] = words;
            return Some(Self([a, b, w2, w3, w4, w5, w6]));
        }
        let [w2, w3, w4, w5, w6] = slow(head, len)?;
        Some(Self([a, b, w2, w3, w4, w5, w6]))
    }
}

/// The last word: what the addresses are of, and what is above them.
const fn last_word(ethertype: u16, shape: u8, protocol: u8, ports: u32) -> u64 {
    (ethertype as u64) << 48 | (shape as u64) << 40 | (protocol as u64) << 32 | ports as u64
}

/// The words after the first two for the frames there are most of: whole TCP and UDP packets in IPv4 without options or IPv6 without
/// extension headers, with at most one tag, that neither open nor close a connection and are not DHCP.
#[inline]
fn quick(head: &[u8], len: u32) -> Option<[u64; 5]> {
    let type_at = |at: usize| head.get(at..)?.first_chunk::<2>().map(|t| u16::from_be_bytes(*t));
    let mut at = ethernet::HEADER_LEN;
    let mut kind = type_at(at - 2)?;
    if kind == ethertype::VLAN {
        at += TAG_LEN;
        kind = type_at(at - 2)?;
    }
    let packet = head.get(at..)?;
    let (addresses, protocol, upper) = match kind {
        ethertype::IPV4 => {
            let header = packet.first_chunk::<{ ipv4::MIN_HEADER_LEN }>()?;
            let whole = header[ipv4::field::FRAGMENT] & 0x3f | header[ipv4::field::FRAGMENT + 1] == 0;
            if header[0] != 0x45 || !whole {
                return None;
            }
            let pair = u64::from_le_bytes(*header[ipv4::field::ADDRESSES..].first_chunk()?);
            ([pair, 0, 0, 0], header[ipv4::field::PROTOCOL], ipv4::MIN_HEADER_LEN)
        }
        ethertype::IPV6 => {
            let header = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
            if header[0] >> 4 != 6 {
                return None;
            }
            let word = |i: usize| {
                header[ipv6::field::ADDRESSES + 8 * i..].first_chunk().map_or(0, |w| u64::from_le_bytes(*w))
            };
            ([word(0), word(1), word(2), word(3)], header[ipv6::field::NEXT], ipv6::HEADER_LEN)
        }
        _ => return None,
    };
    let segment = packet.get(upper..)?;
    match protocol {
        protocol::TCP => {
            let header = segment.first_chunk::<{ tcp::MIN_HEADER_LEN }>()?;
            let opens_or_closes = tcp::flag::FIN | tcp::flag::SYN | tcp::flag::RST;
            if header[tcp::field::FLAGS] & opens_or_closes != 0 {
                return None;
            }
        }
        protocol::UDP => {
            segment.first_chunk::<8>()?;
        }
        _ => return None,
    }
    let ports = u32::from_be_bytes(*segment.first_chunk()?);
    if protocol == protocol::UDP && singular::udp((ports >> 16) as u16, ports as u16) {
        return None;
    }
    if len < (at + upper + 8) as u32 {
        return None;
    }
    let [w2, w3, w4, w5] = addresses;
    Some([w2, w3, w4, w5, last_word(kind, 0, protocol, ports)])
}

/// The same for every other frame that can have a key.
fn slow(head: &[u8], len: u32) -> Option<[u64; 5]> {
    let headers = Headers::parse(head, len).ok()?;
    if singular::frame(&headers) {
        return None;
    }
    // The inner tag is what is left of the header when there are two.
    let inner = (headers.payload > ethernet::HEADER_LEN + TAG_LEN) as u8;
    let Some(ip) = headers.ip else {
        return Some([0, 0, 0, 0, last_word(headers.ethertype, 0x80 | inner, 0, 0)]);
    };
    let addresses = match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let [s, d] = [src, dst].map(|a| u64::from(u32::from_le_bytes(a.octets())));
            [s | d << 32, 0, 0, 0]
        }
        (src, dst) => {
            let [[s0, s1], [d0, d1]] = [src, dst].map(|a| match a {
                IpAddr::V6(a) => {
                    let word = u128::from_le_bytes(a.octets());
                    [word as u64, (word >> 64) as u64]
                }
                IpAddr::V4(a) => [u64::from(u32::from_le_bytes(a.octets())), 0],
            });
            [s0, s1, d0, d1]
        }
    };
    let part = match ip.fragment {
        Fragment::Whole => 0,
        Fragment::First => 1,
        Fragment::Later => 2,
    };
    let ports = match (ip.ports, ip.icmp) {
        (Some((src, dst)), _) => u32::from(src) << 16 | u32::from(dst),
        (None, Some((kind, code))) => u32::from(kind) << 8 | u32::from(code),
        (None, None) => 0,
    };
    let [w2, w3, w4, w5] = addresses;
    Some([w2, w3, w4, w5, last_word(headers.ethertype, part << 1 | inner, ip.protocol, ports)])
}
