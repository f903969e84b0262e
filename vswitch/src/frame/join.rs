//! Joining TCP segments that follow one another into one frame that stands for all of them: what [`super::segment`] takes apart.
//!
//! Only what can be taken apart again to the same segments is joined: same headers but for lengths, sequence numbers and checksums,
//! IPv4 identifications that count up (or are one and the same where nothing may be fragmented: they mean nothing there), all payloads
//! as long as the first but for the last, and PSH in the last only. Whether the segments' checksums are right is the caller's business: in a joined frame nobody can tell any more.

use super::checksum::{Sum, checksum};
use super::ethernet::{HEADER_LEN, ethertype};
use super::ipv6;
use super::offload::{IpVersion, MIN_MSS, Offload};
use super::tcp::{self, Tcp, flag};
use super::{ipv4, protocol};

/// A frame to which segments may be joined.
#[derive(Clone, Copy, Debug)]
pub struct Joint {
    version: IpVersion,
    /// Bytes of all headers.
    header_len: usize,
    transport: usize,
    /// Payload of the first segment.
    mss: usize,
    /// Sequence number and IPv4 identification that the next segment must have.
    sequence: u32,
    id: u16,
    /// IPv4 packets that may not be fragmented may all have the same identification.
    same_id: bool,
    first_id: u16,
    /// Bytes of the frame so far.
    len: usize,
    count: usize,
    /// Nothing may come behind a shorter segment or one with PSH.
    ended: bool,
}

/// What all segments of a frame have in common, and where the segment's own part is.
struct Parts {
    version: IpVersion,
    transport: usize,
    header_len: usize,
    payload: usize,
    sequence: u32,
    id: u16,
    push: bool,
}

impl Parts {
    fn of(head: &[u8], len: u32) -> Option<Self> {
        let kind = u16::from_be_bytes(*head.get(12..)?.first_chunk()?);
        let packet = head.get(HEADER_LEN..)?;
        let (version, transport, end, id) = match kind {
            ethertype::IPV4 => {
                let header = packet.first_chunk::<{ ipv4::MIN_HEADER_LEN }>()?;
                let fragment = header[ipv4::field::FRAGMENT] & 0x3f | header[ipv4::field::FRAGMENT + 1];
                if header[0] != 0x45
                    || fragment != 0
                    || header[ipv4::field::PROTOCOL] != protocol::TCP
                    || checksum(header) != 0
                {
                    return None;
                }
                let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
                let end = HEADER_LEN + usize::from(word(ipv4::field::TOTAL_LEN));
                (IpVersion::V4, HEADER_LEN + ipv4::MIN_HEADER_LEN, end, word(ipv4::field::ID))
            }
            ethertype::IPV6 => {
                let header = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
                if header[0] >> 4 != 6 || header[ipv6::field::NEXT] != protocol::TCP {
                    return None;
                }
                let at = ipv6::field::PAYLOAD_LEN;
                let payload = usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
                (IpVersion::V6, HEADER_LEN + ipv6::HEADER_LEN, HEADER_LEN + ipv6::HEADER_LEN + payload, 0)
            }
            _ => return None,
        };
        let tcp = Tcp::parse(head.get(transport..)?)?;
        let header_len = transport + tcp.header_len();
        let payload = end.checked_sub(header_len)?;
        // ACK alone, or with PSH; what was padded is not a segment of a stream at full speed.
        let plain = tcp.flags() & !flag::PSH == ACK;
        (plain && end == len as usize).then_some(Self {
            version,
            transport,
            header_len,
            payload,
            sequence: tcp.sequence(),
            id,
            push: tcp.flags() & flag::PSH != 0,
        })
    }
}

/// Acknowledges something, as every segment but the first does.
const ACK: u8 = 0x10;

/// Longest IP packet.
const MAX_PACKET: usize = 65_535;

impl Joint {
    /// A frame of `len` bytes that begins with `head` and may be the first of several; `None` if it cannot.
    pub fn new(head: &[u8], len: u32) -> Option<Self> {
        let parts = Parts::of(head, len)?;
        if parts.payload < usize::from(MIN_MSS) || parts.push {
            return None;
        }
        let fragment = HEADER_LEN + ipv4::field::FRAGMENT;
        let same_id = parts.version == IpVersion::V4 && head.get(fragment)? & 0x40 != 0;
        Some(Self {
            version: parts.version,
            header_len: parts.header_len,
            transport: parts.transport,
            mss: parts.payload,
            sequence: parts.sequence.wrapping_add(parts.payload as u32),
            id: parts.id.wrapping_add(1),
            same_id,
            first_id: parts.id,
            len: len as usize,
            count: 1,
            ended: false,
        })
    }

    /// Segments joined so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the joined frame so far.
    pub fn len(&self) -> u32 {
        self.len as u32
    }

    /// Whether there is nothing in it: never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of headers, in every segment of it.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Joins the segment of `len` bytes that begins with `head` to the frame that began with `first`; false, and nothing changes, if it
    /// does not continue it. Its payload is what comes behind [`Joint::header_len`] bytes.
    pub fn join(&mut self, first: &mut [u8], head: &[u8], len: u32) -> bool {
        let Some(next) = Parts::of(head, len) else { return false };
        let counts = next.id == self.id
            || (self.same_id && self.count == 1 && next.id == self.first_id)
            || self.version == IpVersion::V6;
        let fits = !self.ended
            && next.header_len == self.header_len
            && next.sequence == self.sequence
            && counts
            && (1..=self.mss).contains(&next.payload)
            && self.len - HEADER_LEN + next.payload <= MAX_PACKET
            && self.alike(first, head);
        if !fits {
            return false;
        }
        if next.id == self.first_id && self.count == 1 && self.version == IpVersion::V4 && next.id != self.id
        {
            // From here on all must have this one.
            self.id = self.first_id;
        } else if self.id != self.first_id {
            self.id = self.id.wrapping_add(1);
        }
        self.sequence = self.sequence.wrapping_add(next.payload as u32);
        self.len += next.payload;
        self.count += 1;
        self.ended = next.payload < self.mss || next.push;
        if next.push
            && let Some(flags) = first.get_mut(self.transport + tcp::field::FLAGS)
        {
            *flags |= flag::PSH;
        }
        true
    }

    /// Whether two segments' headers are the same but for what belongs to each.
    fn alike(&self, first: &[u8], head: &[u8]) -> bool {
        let (Some(a), Some(b)) = (first.get(..self.header_len), head.get(..self.header_len)) else {
            return false;
        };
        let ip = HEADER_LEN;
        let own: [std::ops::Range<usize>; 3] = match self.version {
            IpVersion::V4 => [
                ip + ipv4::field::TOTAL_LEN..ip + ipv4::field::ID + 2,
                ip + ipv4::field::CHECKSUM..ip + ipv4::field::CHECKSUM + 2,
                self.transport + tcp::field::CHECKSUM..self.transport + tcp::field::CHECKSUM + 2,
            ],
            IpVersion::V6 => [
                ip + ipv6::field::PAYLOAD_LEN..ip + ipv6::field::PAYLOAD_LEN + 2,
                0..0,
                self.transport + tcp::field::CHECKSUM..self.transport + tcp::field::CHECKSUM + 2,
            ],
        };
        let sequence = self.transport + tcp::field::SEQUENCE..self.transport + tcp::field::SEQUENCE + 4;
        let flags = self.transport + tcp::field::FLAGS;
        (0..self.header_len).all(|at| {
            a[at] == b[at]
                || at == flags
                || sequence.contains(&at)
                || own.iter().any(|range| range.contains(&at))
        })
    }

    /// Makes the headers of the joined frame, which begins with `first`, say what it is, and returns what is left to its receiver.
    pub fn finish(&self, first: &mut [u8]) -> Offload {
        let (network, transport) = (HEADER_LEN, self.transport);
        let Some(header) = first.get_mut(..self.header_len) else { return Offload::None };
        let mut sum = Sum::new();
        match self.version {
            IpVersion::V4 => {
                let ip = &mut header[network..transport];
                put(ip, ipv4::field::TOTAL_LEN, (self.len - network) as u16);
                put(ip, ipv4::field::CHECKSUM, 0);
                put(ip, ipv4::field::CHECKSUM, checksum(ip));
                sum.add(&ip[ipv4::field::ADDRESSES..ipv4::MIN_HEADER_LEN]);
            }
            IpVersion::V6 => {
                let ip = &mut header[network..transport];
                put(ip, ipv6::field::PAYLOAD_LEN, (self.len - transport) as u16);
                sum.add(&ip[ipv6::field::ADDRESSES..ipv6::HEADER_LEN]);
            }
        }
        sum.add_u16(u16::from(protocol::TCP));
        sum.add_u16((self.len - transport) as u16);
        put(&mut header[transport..], tcp::field::CHECKSUM, sum.sum());
        Offload::Tcp {
            version: self.version,
            ecn: false,
            header_len: self.header_len as u16,
            mss: self.mss as u16,
            network_start: network as u16,
            csum_start: transport as u16,
        }
    }
}

/// Whether the TCP checksum of a whole segment is right. False for anything that [`Joint::new`] would not look at.
pub fn checksum_holds(frame: &[u8]) -> bool {
    let Some(parts) = Parts::of(frame, frame.len() as u32) else { return false };
    let mut sum = Sum::new();
    let addresses = match parts.version {
        IpVersion::V4 => HEADER_LEN + ipv4::field::ADDRESSES..parts.transport,
        IpVersion::V6 => HEADER_LEN + ipv6::field::ADDRESSES..parts.transport,
    };
    let (Some(addresses), Some(segment)) = (frame.get(addresses), frame.get(parts.transport..)) else {
        return false;
    };
    sum.add(addresses);
    sum.add_u16(u16::from(protocol::TCP));
    sum.add_u16(segment.len() as u16);
    sum.add(segment);
    sum.checksum() == 0
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
