//! What entries match on (OXM), and the same of a frame.
//!
//! All fields have a place in ten words, so that matching is masking and comparing. Fields that cannot be in one frame (the ports of UDP and those of
//! TCP, IPv4 addresses and ARP's) share theirs: the prerequisites, which an entry has to name, tell them apart. Bits of the eighth word say what a frame
//! has at all, so that the port 0 of an entry is not that of a fragment without ports.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use super::message::{Fail, Reader, put16, put32, zeros};
use crate::PortId;
use crate::extension::Sight;
use crate::frame::ethernet::{Ethernet, ethertype};
use crate::frame::protocol;

/// Class of the fields of the standard.
const BASIC: u16 = 0x8000;

/// Bit of a VLAN number that says there is a tag.
pub(super) const TAGGED: u64 = 0x1000;

const WORDS: usize = 10;

/// What is in the frame (the lowest bits of the eighth word).
const HAS_IP: u64 = 1;
const HAS_ARP: u64 = 2;
const HAS_UPPER: u64 = 4;

/// Values of all fields, or their masks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Fields([u64; WORDS]);

impl Hash for Fields {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in self.0 {
            state.write_u64(word);
        }
    }
}

/// Where a field is: its first word and how far to the left; its width in bits and in bytes on the wire; whether it may be masked.
struct Field {
    name: &'static str,
    word: usize,
    shift: u32,
    bits: u32,
    bytes: usize,
    masks: bool,
    needs: Needs,
}

/// Prerequisites.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Tag,
    Ip,
    Type(u16),
    Protocol(u16, u8),
}

const fn field(
    name: &'static str,
    (word, shift): (usize, u32),
    bits: u32,
    bytes: usize,
    masks: bool,
    needs: Needs,
) -> Field {
    Field { name, word, shift, bits, bytes, masks, needs }
}

const TCP: Needs = Needs::Protocol(0, protocol::TCP);
const UDP: Needs = Needs::Protocol(0, protocol::UDP);
const ICMP: Needs = Needs::Protocol(ethertype::IPV4, protocol::ICMP);
const ICMP6: Needs = Needs::Protocol(ethertype::IPV6, protocol::ICMPV6);
const V4: Needs = Needs::Type(ethertype::IPV4);
const V6: Needs = Needs::Type(ethertype::IPV6);
const ARP: Needs = Needs::Type(ethertype::ARP);

const SRC: (usize, u32) = (7, 48);
const DST: (usize, u32) = (7, 32);

/// The field of this number, of those that are supported.
fn known(number: u8) -> Option<Field> {
    Some(match number {
        0 => field("in_port", (0, 32), 32, 4, false, Needs::Nothing),
        3 => field("eth_dst", (1, 16), 48, 6, true, Needs::Nothing),
        4 => field("eth_src", (2, 16), 48, 6, true, Needs::Nothing),
        5 => field("eth_type", (0, 16), 16, 2, false, Needs::Nothing),
        6 => field("vlan_vid", (0, 0), 13, 2, true, Needs::Nothing),
        7 => field("vlan_pcp", (1, 8), 3, 1, false, Needs::Tag),
        8 => field("ip_dscp", (1, 0), 6, 1, false, Needs::Ip),
        9 => field("ip_ecn", (2, 0), 2, 1, false, Needs::Ip),
        10 => field("ip_proto", (2, 8), 8, 1, false, Needs::Ip),
        11 => field("ipv4_src", (4, 0), 32, 4, true, V4),
        12 => field("ipv4_dst", (6, 0), 32, 4, true, V4),
        13 => field("tcp_src", SRC, 16, 2, false, TCP),
        14 => field("tcp_dst", DST, 16, 2, false, TCP),
        15 => field("udp_src", SRC, 16, 2, false, UDP),
        16 => field("udp_dst", DST, 16, 2, false, UDP),
        19 => field("icmpv4_type", SRC, 8, 1, false, ICMP),
        20 => field("icmpv4_code", DST, 8, 1, false, ICMP),
        21 => field("arp_op", (7, 16), 16, 2, false, ARP),
        22 => field("arp_spa", (4, 0), 32, 4, true, ARP),
        23 => field("arp_tpa", (6, 0), 32, 4, true, ARP),
        24 => field("arp_sha", (8, 0), 48, 6, true, ARP),
        25 => field("arp_tha", (9, 0), 48, 6, true, ARP),
        26 => field("ipv6_src", (3, 0), 128, 16, true, V6),
        27 => field("ipv6_dst", (5, 0), 128, 16, true, V6),
        29 => field("icmpv6_type", SRC, 8, 1, false, ICMP6),
        30 => field("icmpv6_code", DST, 8, 1, false, ICMP6),
        _ => return None,
    })
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |sum, &byte| sum << 8 | u128::from(byte))
}

const fn ones(bits: u32) -> u128 {
    if bits >= 128 { u128::MAX } else { (1 << bits) - 1 }
}

impl Fields {
    fn put(&mut self, field: &Field, value: u128) {
        if field.bits == 128 {
            self.0[field.word] |= (value >> 64) as u64;
            self.0[field.word + 1] |= value as u64;
        } else {
            self.0[field.word] |= (value as u64) << field.shift;
        }
    }

    fn set(&mut self, number: u8, value: u64) {
        if let Some(field) = known(number) {
            self.put(&field, u128::from(value) & ones(field.bits));
        }
    }

    fn get(&self, number: u8) -> u64 {
        known(number).map_or(0, |field| self.0[field.word] >> field.shift & ones(field.bits) as u64)
    }

    /// Only the bits of a mask.
    pub(super) fn masked(&self, mask: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & mask.0[at]))
    }

    /// Whether every bit of a mask is set in this one.
    pub(super) fn covers(&self, mask: &Self) -> bool {
        self.masked(mask) == *mask
    }

    /// Those bits of a mask that frames need not have in common which have one [`Scope::Flow`](crate::extension::Scope::Flow): priorities, DSCP
    /// and ECN, and what ARP says.
    pub(super) fn volatile(&self) -> Self {
        let mut mask = Self::default();
        for number in [7, 8, 9, 21, 24, 25] {
            mask.set(number, u64::MAX >> 16);
        }
        if self.0[7] & HAS_ARP != 0 {
            mask.set(22, u64::from(u32::MAX));
            mask.set(23, u64::from(u32::MAX));
        }
        let mut found = self.masked(&mask);
        if found != Self::default() {
            found.0[7] |= self.0[7] & (HAS_IP | HAS_ARP);
        }
        found
    }

    /// Whether volatile bits of a mask are about fields that this frame has.
    pub(super) fn concerns(&self, frame: &Self) -> bool {
        let has = self.0[7] & frame.0[7] & (HAS_IP | HAS_ARP) != 0;
        has || self.get(7) != 0 && frame.get(6) & TAGGED != 0
    }

    /// The bits of both.
    pub(super) fn with(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] | other.0[at]))
    }

    /// Whether a mask looks at more than Ethernet.
    pub(super) fn is_deep(&self) -> bool {
        self.0[7] & HAS_IP != 0
    }

    /// What a frame that `from` sends has. False = it says it is an IP packet, but which cannot be read.
    pub(super) fn of(sight: &Sight<'_>, from: PortId) -> (Self, bool) {
        let mut fields = Self::default();
        fields.set(0, u64::from(from.0));
        let Some(ether) = Ethernet::parse(sight.head) else { return (fields, true) };
        fields.set(3, ether.dst().to_u64());
        fields.set(4, ether.src().to_u64());
        fields.set(5, u64::from(ether.ethertype()));
        if let Some(tci) = ether.tci(0) {
            fields.set(6, TAGGED | u64::from(tci & 0xfff));
            fields.set(7, u64::from(tci >> 13));
        }
        let packet = sight.head.get(ether.header_len()..).unwrap_or_default();
        match ether.ethertype() {
            ethertype::IPV4 | ethertype::IPV6 => {
                let Some(ip) = sight.headers().and_then(|headers| headers.ip) else { return (fields, false) };
                fields.ip(packet, &ip);
            }
            ethertype::ARP => fields.arp(packet),
            _ => {}
        }
        (fields, true)
    }

    fn ip(&mut self, packet: &[u8], ip: &crate::frame::headers::Ip) {
        let class = match packet {
            [first, second, ..] if first >> 4 == 6 => first << 4 | second >> 4,
            [_, second, ..] => *second,
            _ => 0,
        };
        self.set(8, u64::from(class >> 2));
        self.set(9, u64::from(class & 3));
        self.set(10, u64::from(ip.protocol));
        self.0[7] |= HAS_IP;
        match (ip.src, ip.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                self.set(11, u64::from(src.to_bits()));
                self.set(12, u64::from(dst.to_bits()));
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                for (number, address) in [(26, src), (27, dst)] {
                    if let Some(field) = known(number) {
                        self.put(&field, address.to_bits());
                    }
                }
            }
            _ => {}
        }
        let upper = ip.ports.or(ip.icmp.map(|(kind, code)| (u16::from(kind), u16::from(code))));
        if let Some((src, dst)) = upper {
            self.0[7] |= HAS_UPPER | u64::from(src) << 48 | u64::from(dst) << 32;
        }
    }

    /// ARP for IPv4 over Ethernet (RFC 826).
    fn arp(&mut self, packet: &[u8]) {
        let mut reader = Reader(packet);
        if reader.take(6) != Some(&[0, 1, 8, 0, 6, 4]) {
            return;
        }
        for (field, len) in [(21, 2), (24, 6), (22, 4), (25, 6), (23, 4)] {
            let Some(bytes) = reader.take(len) else { return };
            self.set(field, number(bytes) as u64);
        }
        self.0[7] |= HAS_ARP;
    }
}

/// What an entry matches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Match {
    /// Values, with nothing outside the mask.
    pub(super) key: Fields,
    pub(super) mask: Fields,
    /// As the controller wrote it: the fields without their frame.
    pub(super) wire: Vec<u8>,
}

impl Match {
    /// Reads an `ofp_match` with its padding.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Fail> {
        let (kind, len) = (reader.u16().ok_or(Fail::BAD_LEN)?, reader.u16().ok_or(Fail::BAD_LEN)?);
        if kind != 1 {
            return Err(Fail::MATCH_TYPE);
        }
        let len = usize::from(len).checked_sub(4).ok_or(Fail::MATCH_LEN)?;
        let wire = reader.take(len).ok_or(Fail::MATCH_LEN)?;
        reader.take((len + 4).next_multiple_of(8) - len - 4).ok_or(Fail::MATCH_LEN)?;
        let mut all = Self { wire: wire.to_vec(), ..Self::default() };
        let mut fields = Reader(wire);
        let (mut seen, mut needs) = (0_u64, Vec::new());
        while !fields.0.is_empty() {
            let one = Oxm::read(&mut fields, Fail::MATCH_LEN, Fail::MATCH_FIELD)?;
            if seen >> one.number & 1 != 0 {
                return Err(Fail::MATCH_DUPLICATE);
            }
            seen |= 1 << one.number;
            let mask = match one.mask {
                Some(_) if !one.field.masks => return Err(Fail::MATCH_MASK),
                Some(mask) if one.value & !mask != 0 => return Err(Fail::MATCH_WILDCARDS),
                Some(mask) => mask & ones(one.field.bits),
                None => ones(one.field.bits),
            };
            if one.value & !ones(one.field.bits) != 0 {
                return Err(Fail::MATCH_VALUE);
            }
            all.key.put(&one.field, one.value);
            all.mask.put(&one.field, mask);
            needs.push(one.field.needs);
        }
        for need in needs {
            all.need(need)?;
        }
        Ok(all)
    }

    /// Whether a prerequisite is there; what frames must have for it becomes a part of the match.
    fn need(&mut self, need: Needs) -> Result<(), Fail> {
        let kind = if self.mask.get(5) == 0xffff { self.key.get(5) as u16 } else { 0 };
        let protocol = if self.mask.get(10) == 0xff { self.key.get(10) as u8 } else { 0 };
        let is_ip = matches!(kind, ethertype::IPV4 | ethertype::IPV6);
        let (met, has) = match need {
            Needs::Nothing => (true, 0),
            Needs::Tag => (self.key.get(6) & TAGGED != 0, 0),
            Needs::Ip => (is_ip, HAS_IP),
            Needs::Type(ethertype::ARP) => (kind == ethertype::ARP, HAS_ARP),
            Needs::Type(wanted) => (kind == wanted, HAS_IP),
            Needs::Protocol(of, wanted) => {
                (is_ip && (of == 0 || of == kind) && protocol == wanted, HAS_IP | HAS_UPPER)
            }
        };
        self.key.0[7] |= has;
        self.mask.0[7] |= has;
        if met { Ok(()) } else { Err(Fail::MATCH_PREREQUISITE) }
    }

    /// Whether this is about the very same frames.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.key, self.mask) == (other.key, other.mask)
    }

    /// Whether all frames of this one are also those of a (wider) other.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.mask.covers(&other.mask) && self.key.masked(&other.mask) == other.key
    }

    /// Whether one frame could be matched by both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.key.masked(&other.mask).masked(&self.mask) == other.key.masked(&self.mask).masked(&other.mask)
    }

    /// Writes it with its frame and padding.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let len = self.wire.len() + 4;
        put16(out, 1);
        put16(out, len as u16);
        out.extend_from_slice(&self.wire);
        zeros(out, len.next_multiple_of(8) - len);
    }

    /// For people: `eth_type=0x800,ipv4_dst=0xa000001/0xffffff00`.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut fields = Reader(&self.wire);
        while let Ok(one) = Oxm::read(&mut fields, Fail::MATCH_LEN, Fail::MATCH_FIELD) {
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{}={:#x}", one.field.name, one.value);
            if let Some(mask) = one.mask {
                let _ = write!(text, "/{mask:#x}");
            }
        }
        text
    }
}

/// One field with its value.
struct Oxm {
    number: u8,
    field: Field,
    value: u128,
    mask: Option<u128>,
}

impl Oxm {
    fn read(reader: &mut Reader<'_>, short: Fail, strange: Fail) -> Result<Self, Fail> {
        let (class, number_, len) =
            (reader.u16().ok_or(short)?, reader.u8().ok_or(short)?, reader.u8().ok_or(short)?);
        let value = reader.take(usize::from(len)).ok_or(short)?;
        let (id, has_mask) = (number_ >> 1, number_ & 1 != 0);
        let field = known(id).filter(|_| class == BASIC).ok_or(strange)?;
        let parts = if has_mask { 2 } else { 1 };
        if value.len() != field.bytes * parts {
            return Err(short);
        }
        let (value, mask) = value.split_at(field.bytes);
        Ok(Self { number: id, field, value: number(value), mask: has_mask.then(|| number(mask)) })
    }
}

/// A change of a frame (`OFPAT_SET_FIELD`). Of all fields, those two that no checksum covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Set {
    /// The destination address.
    To([u8; 6]),
    /// The source address.
    From([u8; 6]),
}

impl Set {
    /// Reads the field of an action, padding included.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Fail> {
        let one = Oxm::read(reader, Fail::SET_LEN, Fail::SET_TYPE)?;
        if one.mask.is_some() {
            return Err(Fail::SET_TYPE);
        }
        let [_, _, mac @ ..] = (one.value as u64).to_be_bytes();
        match one.number {
            3 => Ok(Self::To(mac)),
            4 if mac[0] & 1 != 0 => Err(Fail::SET_ARGUMENT),
            4 => Ok(Self::From(mac)),
            _ => Err(Fail::SET_TYPE),
        }
    }

    /// Changes a frame.
    pub(super) fn apply(self, frame: &mut [u8]) {
        let (range, mac) = match self {
            Self::To(mac) => (0..6, mac),
            Self::From(mac) => (6..12, mac),
        };
        if let Some(place) = frame.get_mut(range) {
            place.copy_from_slice(&mac);
        }
    }
}

/// The match of a packet-in: the port it came in by.
pub(super) fn in_port(out: &mut Vec<u8>, port: u32) {
    put16(out, 1);
    put16(out, 12);
    put16(out, BASIC);
    out.extend_from_slice(&[0, 4]);
    put32(out, port);
    zeros(out, 4);
}
