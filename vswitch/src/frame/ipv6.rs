//! IPv6 header and its extension headers (RFC 8200).

use crate::frame::protocol;

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;

/// Extension headers that are walked. A longer chain is refused: nobody sends one in good faith.
pub const MAX_EXTENSIONS: usize = 8;

/// Byte offsets of the fields that are rewritten.
pub mod field {
    /// Payload length, two bytes.
    pub const PAYLOAD_LEN: usize = 4;
    /// Next header, one byte.
    pub const NEXT: usize = 6;
    /// Source and destination address, sixteen bytes each.
    pub const ADDRESSES: usize = 8;
}

/// An IPv6 header with what its extension headers lead to.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a> {
    header: &'a [u8],
    protocol: u8,
    upper: usize,
    fragment: Option<(u16, bool)>,
    split_chain: bool,
    routed: bool,
}

impl<'a> Ipv6<'a> {
    /// Looks at the beginning of a packet; `None` if it is not IPv6, if one of its headers is cut off, if there are
    /// more than [`MAX_EXTENSIONS`], or if there is more than one fragment header.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let header = packet.get(..HEADER_LEN)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let mut this = Self {
            header,
            protocol: header[field::NEXT],
            upper: HEADER_LEN,
            fragment: None,
            split_chain: false,
            routed: false,
        };
        for _ in 0..=MAX_EXTENSIONS {
            let unit = match this.protocol {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => 8,
                protocol::AUTHENTICATION => 4,
                protocol::FRAGMENT => 0,
                _ => return Some(this),
            };
            if this.fragment.is_some() {
                if this.protocol == protocol::FRAGMENT {
                    return None;
                }
                this.split_chain = true;
            }
            if this.is_later_fragment() {
                return Some(this); // what follows is from the middle of the packet, not a header
            }
            // Third and fourth byte: fragment offset, or routing type and segments left.
            let [next, length, high, low] = *packet.get(this.upper..)?.first_chunk()?;
            let length = match this.protocol {
                // RFC 4302: in units of four bytes, less two.
                protocol::AUTHENTICATION => (usize::from(length) + 2) * unit,
                protocol::FRAGMENT => {
                    this.fragment = Some((u16::from_be_bytes([high, low & 0xf8]), low & 1 != 0));
                    8
                }
                _ => (usize::from(length) + 1) * unit,
            };
            this.routed |= this.protocol == protocol::ROUTING && low != 0;
            this.protocol = next;
            this.upper += length;
            if packet.len() < this.upper {
                return None;
            }
        }
        None
    }

    /// Bytes of the payload, extension headers included, as the header claims.
    pub fn payload_len(&self) -> u16 {
        u16::from_be_bytes([self.header[field::PAYLOAD_LEN], self.header[field::PAYLOAD_LEN + 1]])
    }

    /// Protocol after the extension headers.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Where that protocol's header begins: 40 or more bytes after the packet's beginning.
    pub fn upper_offset(&self) -> usize {
        self.upper
    }

    /// Whether there is a fragment header, even one that says there is only one fragment.
    pub fn is_fragment(&self) -> bool {
        self.fragment.is_some()
    }

    /// Where in its packet this fragment begins (bytes), and whether more follow; (0, false) for a whole packet.
    pub fn fragment(&self) -> (u16, bool) {
        self.fragment.unwrap_or_default()
    }

    /// Whether extension headers come after the fragment header, so that they are cut up with the payload. In a later
    /// fragment [`Ipv6::protocol`] is then that of the first such header, and what comes after it cannot be known.
    pub fn is_chain_split(&self) -> bool {
        self.split_chain
    }

    fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|(offset, _)| offset != 0)
    }

    /// Whether a routing header still has segments left, so that the destination address is not the last one. Checksums
    /// cover the last one (RFC 8200, 8.1).
    pub fn is_routed(&self) -> bool {
        self.routed
    }

    /// Source and destination address, one after the other.
    pub fn addresses(&self) -> &'a [u8] {
        &self.header[field::ADDRESSES..HEADER_LEN]
    }
}
