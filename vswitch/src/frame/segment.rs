//! Software segmentation of a TSO frame, for receivers that cannot take it whole.
//!
//! Every segment gets a copy of all headers (VLAN tags, IP options and extension headers, TCP options) with lengths,
//! IPv4 identification, sequence number, flags and checksums of its own. The number of segments is bounded by
//! [`MAX_SEGMENTS`](crate::frame::offload::MAX_SEGMENTS), their size by the sender's MSS.

use crate::frame::checksum::{self, Sum};
use crate::frame::ipv6::Ipv6;
use crate::frame::offload::{IpVersion, MIN_MSS, Offload, OffloadError};
use crate::frame::tcp::{self, flag};
use crate::frame::{ipv4, ipv6, protocol};

/// Cuts one frame into segments.
#[derive(Clone, Debug)]
pub struct Segmenter<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    version: IpVersion,
    network: usize,
    transport: usize,
    mss: usize,
    partial: bool,
    /// Sum of the pseudo header without the length.
    pseudo: Sum,
    /// Payload bytes already given out; more than there are once all are.
    done: usize,
    number: u32,
}

impl<'a> Segmenter<'a> {
    /// A segmenter of a whole frame. `offload` is what [`NetHeader::check`](crate::frame::offload::NetHeader::check)
    /// said about it; one that does not fit the frame is refused.
    pub fn new(frame: &'a [u8], offload: &Offload) -> Result<Self, OffloadError> {
        let Offload::Tcp { version, header_len, mss, network_start, csum_start, .. } = *offload else {
            return Err(OffloadError::GsoType { gso_type: 0 });
        };
        let (network, transport) = (usize::from(network_start), usize::from(csum_start));
        let minimum = match version {
            IpVersion::V4 => ipv4::MIN_HEADER_LEN,
            IpVersion::V6 => ipv6::HEADER_LEN,
        };
        let (header, payload) =
            frame.split_at_checked(usize::from(header_len)).ok_or(OffloadError::CutOff)?;
        if transport < network + minimum || header.len() < transport + tcp::MIN_HEADER_LEN {
            return Err(OffloadError::CutOff);
        }
        let packet = offload.largest_packet(frame.len() as u32) as usize - network;
        if mss < MIN_MSS || packet > usize::from(u16::MAX) {
            return Err(OffloadError::Mss { mss, frame_len: frame.len() as u32 });
        }
        let mss = usize::from(mss);
        let pseudo = pseudo_header(header, frame.len(), version, network, transport);
        Ok(Self {
            header,
            payload,
            version,
            network,
            transport,
            mss,
            partial: false,
            pseudo,
            done: 0,
            number: 0,
        })
    }

    /// Leaves the TCP checksum of each segment open (the sum of its pseudo header stands in the field), for receivers
    /// that complete it: see [`Segmenter::segment_offload`].
    #[must_use]
    pub fn leave_checksums_open(mut self) -> Self {
        self.partial = true;
        self
    }

    /// What is left to the receiver of each segment.
    pub fn segment_offload(&self) -> Offload {
        if self.partial {
            Offload::Checksum { start: self.transport as u16, offset: tcp::field::CHECKSUM as u16 }
        } else {
            Offload::None
        }
    }

    /// Bytes that [`Segmenter::next`] needs room for.
    pub fn max_segment(&self) -> usize {
        self.header.len() + self.mss.min(self.payload.len())
    }

    /// How many segments there are altogether.
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.mss).max(1)
    }

    /// Writes the next segment to the beginning of `out` and says how many bytes it has; `None` when there are no more,
    /// or when `out` is shorter than the segment.
    #[allow(clippy::should_implement_trait)] // it writes to the caller's memory
    pub fn next(&mut self, out: &mut [u8]) -> Option<usize> {
        let first = self.number == 0;
        if self.done >= self.payload.len() && !first {
            return None;
        }
        let rest = &self.payload[self.done..];
        let data = &rest[..self.mss.min(rest.len())];
        let last = data.len() == rest.len();
        let len = self.header.len() + data.len();
        let out = out.get_mut(..len)?;
        let (header, payload) = out.split_at_mut(self.header.len());
        header.copy_from_slice(self.header);
        payload.copy_from_slice(data);
        self.network_header(header, len);
        self.transport_header(header, payload, first, last);
        self.done += data.len();
        self.number = self.number.wrapping_add(1);
        Some(len)
    }

    fn network_header(&self, header: &mut [u8], len: usize) {
        let ip = &mut header[self.network..self.transport];
        match self.version {
            IpVersion::V4 => {
                put(ip, ipv4::field::TOTAL_LEN, (len - self.network) as u16);
                let id = get(ip, ipv4::field::ID).wrapping_add(self.number as u16);
                put(ip, ipv4::field::ID, id);
                put(ip, ipv4::field::CHECKSUM, 0);
                put(ip, ipv4::field::CHECKSUM, checksum::checksum(ip));
            }
            IpVersion::V6 => {
                put(ip, ipv6::field::PAYLOAD_LEN, (len - self.network - ipv6::HEADER_LEN) as u16);
            }
        }
    }

    fn transport_header(&self, header: &mut [u8], payload: &[u8], first: bool, last: bool) {
        let tcp = &mut header[self.transport..];
        let sequence = (u32::from(get(tcp, tcp::field::SEQUENCE)) << 16
            | u32::from(get(tcp, tcp::field::SEQUENCE + 2)))
        .wrapping_add(self.done as u32);
        tcp[tcp::field::SEQUENCE..tcp::field::SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        if !first {
            tcp[tcp::field::FLAGS] &= !flag::CWR;
        }
        if !last {
            tcp[tcp::field::FLAGS] &= !(flag::FIN | flag::PSH);
        }
        let mut sum = self.pseudo;
        sum.add_u16((tcp.len() + payload.len()) as u16);
        let field = if self.partial {
            sum.sum()
        } else {
            put(tcp, tcp::field::CHECKSUM, 0);
            sum.add(tcp);
            sum.add(payload);
            sum.checksum()
        };
        put(tcp, tcp::field::CHECKSUM, field);
    }
}

/// The part of the pseudo header's sum that all segments share. Made from the addresses, not from what stands in the
/// checksum field, because senders differ in whether they count the length there; only where a routing header hides the
/// last destination must the sender (who is to count it, virtio 1.2, 5.1.6.2) be believed.
fn pseudo_header(header: &[u8], len: usize, version: IpVersion, network: usize, transport: usize) -> Sum {
    let ip = &header[network..transport];
    let mut sum = Sum::new();
    match version {
        IpVersion::V4 => sum.add(&ip[ipv4::field::ADDRESSES..ipv4::MIN_HEADER_LEN]),
        IpVersion::V6 if Ipv6::parse(&header[network..]).is_some_and(|ip| ip.is_routed()) => {
            sum.add_u16(get(header, transport + tcp::field::CHECKSUM));
            sum.add_u16(!((len - transport) as u16));
            return sum;
        }
        IpVersion::V6 => sum.add(&ip[ipv6::field::ADDRESSES..ipv6::HEADER_LEN]),
    }
    sum.add_u16(u16::from(protocol::TCP));
    sum
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
