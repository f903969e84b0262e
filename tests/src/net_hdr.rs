//! `struct virtio_net_hdr_v1`: the twelve bytes before every frame in a ring.

/// Length of the header in bytes (modern virtio, no hash report).
pub const LEN: usize = 12;

/// `flags`: the checksum from `csum_start` on is partial and to be completed at `csum_offset`.
pub const NEEDS_CSUM: u8 = 1;
/// `flags`: the checksum has been validated.
pub const DATA_VALID: u8 = 2;
/// `gso_type`: not a large frame.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: UDP fragmentation.
pub const GSO_UDP: u8 = 3;
/// `gso_type`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP segmentation.
pub const GSO_UDP_L4: u8 = 5;
/// `gso_type` bit: the TCP flags carry ECN.
pub const GSO_ECN: u8 = 0x80;

/// The header before a frame. The default is that of a plain frame with complete checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHdr {
    /// `NEEDS_CSUM`, `DATA_VALID`.
    pub flags: u8,
    /// `GSO_*`.
    pub gso_type: u8,
    /// Length of all headers of a large frame, in bytes; a hint.
    pub hdr_len: u16,
    /// Payload of each segment, in bytes.
    pub gso_size: u16,
    /// Where checksumming starts, in bytes from the start of the frame.
    pub csum_start: u16,
    /// Where the checksum goes, in bytes from `csum_start`.
    pub csum_offset: u16,
    /// Number of receive buffers the frame lies in; zero when sending.
    pub num_buffers: u16,
}

impl NetHdr {
    /// The header as it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        for (place, value) in bytes[2..].chunks_exact_mut(2).zip([
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.num_buffers,
        ]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads a header from the first [`LEN`] bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }

    /// Whether the frame's checksum is still to be completed.
    #[must_use]
    pub fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }
}
