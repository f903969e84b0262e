//! IPv4 header (RFC 791).

/// Bytes of a header without options.
pub const MIN_HEADER_LEN: usize = 20;

/// Byte offsets of the fields that are rewritten.
pub mod field {
    /// Total length, two bytes.
    pub const TOTAL_LEN: usize = 2;
    /// Identification, two bytes.
    pub const ID: usize = 4;
    /// Flags and fragment offset, two bytes.
    pub const FRAGMENT: usize = 6;
    /// Protocol, one byte.
    pub const PROTOCOL: usize = 9;
    /// Header checksum, two bytes.
    pub const CHECKSUM: usize = 10;
    /// Source and destination address, four bytes each.
    pub const ADDRESSES: usize = 12;
}

/// More fragments, and the fragment offset: not zero in any fragment.
const FRAGMENT_MASK: u16 = OFFSET_MASK | MORE;

/// Fragment offset, in units of eight bytes.
const OFFSET_MASK: u16 = 0x1fff;

/// More fragments follow.
const MORE: u16 = 0x2000;

/// An IPv4 header, complete with its options.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    header: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Looks at the beginning of a packet; `None` if it is not IPv4 or the header is cut off.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let &first = packet.first()?;
        let len = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || len < MIN_HEADER_LEN {
            return None;
        }
        Some(Self { header: packet.get(..len)? })
    }

    /// Bytes of the header with its options: 20 to 60.
    pub fn header_len(&self) -> usize {
        self.header.len()
    }

    /// Bytes of the packet as the header claims.
    pub fn total_len(&self) -> u16 {
        self.u16_at(field::TOTAL_LEN)
    }

    /// Identification.
    pub fn id(&self) -> u16 {
        self.u16_at(field::ID)
    }

    /// Protocol of the payload.
    pub fn protocol(&self) -> u8 {
        self.header[field::PROTOCOL]
    }

    /// Whether this is a fragment, the first included.
    pub fn is_fragment(&self) -> bool {
        self.u16_at(field::FRAGMENT) & FRAGMENT_MASK != 0
    }

    /// Where in its packet this fragment begins (bytes), and whether more follow; (0, false) for a whole packet.
    pub fn fragment(&self) -> (u16, bool) {
        let field = self.u16_at(field::FRAGMENT);
        ((field & OFFSET_MASK) << 3, field & MORE != 0)
    }

    /// Source and destination address, one after the other.
    pub fn addresses(&self) -> &'a [u8] {
        &self.header[field::ADDRESSES..MIN_HEADER_LEN]
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.header[at], self.header[at + 1]])
    }
}
