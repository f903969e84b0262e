//! TCP header (RFC 9293).

/// Bytes of a header without options.
pub const MIN_HEADER_LEN: usize = 20;

/// Byte offsets of the fields that are rewritten.
pub mod field {
    /// Sequence number, four bytes.
    pub const SEQUENCE: usize = 4;
    /// Data offset, high four bits.
    pub const DATA_OFFSET: usize = 12;
    /// Flags, one byte.
    pub const FLAGS: usize = 13;
    /// Checksum, two bytes.
    pub const CHECKSUM: usize = 16;
}

/// Flags of byte [`field::FLAGS`].
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets a connection.
    pub const RST: u8 = 0x04;
    /// Hand the data to the application now.
    pub const PSH: u8 = 0x08;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// A TCP header, complete with its options.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    header: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Looks at the beginning of a segment; `None` if the header is cut off or claims to be shorter than a header is.
    pub fn parse(segment: &'a [u8]) -> Option<Self> {
        let &offset = segment.get(field::DATA_OFFSET)?;
        let len = usize::from(offset >> 4) * 4;
        if len < MIN_HEADER_LEN {
            return None;
        }
        Some(Self { header: segment.get(..len)? })
    }

    /// Bytes of the header with its options: 20 to 60.
    pub fn header_len(&self) -> usize {
        self.header.len()
    }

    /// Sequence number.
    pub fn sequence(&self) -> u32 {
        let h = &self.header[field::SEQUENCE..];
        u32::from_be_bytes([h[0], h[1], h[2], h[3]])
    }

    /// Flags, see [`flag`].
    pub fn flags(&self) -> u8 {
        self.header[field::FLAGS]
    }
}
