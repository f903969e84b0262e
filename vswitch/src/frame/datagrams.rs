//! Many UDP datagrams in one frame, as kernels hand them on (`VIRTIO_NET_HDR_GSO_UDP_L4`): one copy of the headers, and payloads of one length
//! behind each other, the last perhaps shorter.
//!
//! Pure functions over bytes; the frame may be anybody's.

use crate::frame::checksum::{Sum, checksum};
use crate::frame::ethernet::{Ethernet, ethertype};
use crate::frame::headers::{Fragment, Headers};
use crate::frame::{ipv4, ipv6, protocol};

/// Bytes of a UDP header.
pub const UDP_HEADER: usize = 8;
/// Where the checksum stands in it.
pub const UDP_CHECKSUM: usize = 6;
/// Where the length stands in it.
const UDP_LENGTH: usize = 4;

/// Most datagrams that one frame may be.
pub const MAX_DATAGRAMS: usize = 1024;

/// Longest IP packet.
const MAX_PACKET: usize = 65_535;

/// Where the headers of a datagram are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The IP header.
    network: usize,
    /// The UDP header.
    pub udp: usize,
    v6: bool,
}

impl Place {
    /// Where they are in a frame that begins with `head`; `None` if it is no whole datagram.
    pub fn of(head: &[u8]) -> Option<Self> {
        let ether = Ethernet::parse(head)?;
        let network = ether.header_len();
        let v6 = match ether.ethertype() {
            ethertype::IPV4 => false,
            ethertype::IPV6 => true,
            _ => return None,
        };
        let headers = Headers::parse(head, head.len() as u32).ok()?;
        let ip = headers.ip.filter(|ip| ip.protocol == protocol::UDP && ip.fragment == Fragment::Whole)?;
        (head.len() >= ip.upper + UDP_HEADER).then_some(Self { network, udp: ip.upper, v6 })
    }

    /// Where the payload begins.
    pub fn payload(&self) -> usize {
        self.udp + UDP_HEADER
    }

    /// Makes the headers say that `payload` bytes follow, and leaves the UDP checksum open: the sum of the pseudo header stands in its field.
    /// IPv4's identification grows by `number`. `None`, and the headers are of no use, if that is more than a packet holds or `headers` are
    /// not those that this was made of.
    pub fn resize(&self, headers: &mut [u8], payload: usize, number: u16) -> Option<()> {
        let udp_len = payload.checked_add(UDP_HEADER)?;
        let packet = headers.get_mut(self.network..self.payload())?;
        let upper = self.udp - self.network;
        let total = upper + udp_len;
        if total > MAX_PACKET {
            return None;
        }
        let mut sum = Sum::new();
        if self.v6 {
            put(packet, ipv6::field::PAYLOAD_LEN, (total - ipv6::HEADER_LEN) as u16)?;
            sum.add(packet.get(ipv6::field::ADDRESSES..ipv6::HEADER_LEN)?);
        } else {
            let at = ipv4::field::ID;
            let id = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
            put(packet, ipv4::field::TOTAL_LEN, total as u16)?;
            put(packet, at, id.wrapping_add(number))?;
            put(packet, ipv4::field::CHECKSUM, 0)?;
            let own = checksum(packet.get(..upper)?);
            put(packet, ipv4::field::CHECKSUM, own)?;
            sum.add(packet.get(ipv4::field::ADDRESSES..ipv4::MIN_HEADER_LEN)?);
        }
        sum.add_u16(u16::from(protocol::UDP));
        sum.add_u16(udp_len as u16);
        put(packet, upper + UDP_LENGTH, udp_len as u16)?;
        put(packet, upper + UDP_CHECKSUM, sum.sum())
    }
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    bytes.get_mut(at..at + 2)?.copy_from_slice(&value.to_be_bytes());
    Some(())
}

/// A frame of many datagrams on its way to being taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    place: Place,
    /// Payload of each but the last, in bytes.
    size: usize,
    /// Bytes of the frame.
    len: usize,
    /// The next one's number.
    next: usize,
}

impl Datagrams {
    /// Of a whole frame whose datagrams have payloads of `size` bytes; `None` if it is not such a frame,
    /// or one of more than [`MAX_DATAGRAMS`].
    pub fn new(frame: &[u8], size: u16) -> Option<Self> {
        let place = Place::of(frame)?;
        let (size, payload) = (usize::from(size), frame.len().checked_sub(place.payload())?);
        let few = size > 0 && payload.div_ceil(size) <= MAX_DATAGRAMS;
        few.then_some(Self { place, size, len: frame.len(), next: 0 })
    }

    /// Where the UDP header is, in the frame and in each datagram.
    pub fn udp(&self) -> usize {
        self.place.udp
    }

    /// Bytes of the longest frame that comes out of it.
    pub fn longest(&self) -> usize {
        (self.place.payload() + self.size).min(self.len)
    }

    /// Writes the next datagram's frame to the beginning of `out` and says how long it is; its checksum is left open. `None` when all
    /// are out, or `out` is shorter than [`Datagrams::longest`].
    pub fn next(&mut self, frame: &[u8], out: &mut [u8]) -> Option<usize> {
        let headers = self.place.payload();
        let from = headers.checked_add(self.next.checked_mul(self.size)?)?;
        let payload = frame.get(from..(from + self.size).min(self.len))?;
        if payload.is_empty() && self.next > 0 {
            return None;
        }
        let out = out.get_mut(..headers + payload.len())?;
        out[..headers].copy_from_slice(frame.get(..headers)?);
        out[headers..].copy_from_slice(payload);
        self.place.resize(&mut out[..headers], payload.len(), self.next as u16)?;
        self.next += 1;
        Some(out.len())
    }
}
