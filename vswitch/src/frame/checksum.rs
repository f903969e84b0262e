//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are kept in the byte order of the machine, 32 bits at a time in 64-bit lanes (the ones' complement sum does not
//! care, RFC 1071 section 2), and turned around once at the end.

/// A ones' complement sum in progress over one or more slices, which may have odd lengths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Sum of native-endian words; below 2^33 before each addition.
    words: u64,
    /// Whether an odd number of bytes was added so far.
    odd: bool,
}

impl Sum {
    /// A sum of nothing.
    pub const fn new() -> Self {
        Self { words: 0, odd: false }
    }

    /// Adds bytes that follow those added before.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        let mut sum = fold16(raw_sum(bytes));
        if self.odd {
            sum = sum.swap_bytes();
        }
        self.words = fold32(self.words + u64::from(sum));
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds one 16-bit field that is at an even place.
    #[inline]
    pub fn add_u16(&mut self, value: u16) {
        self.words = fold32(self.words + u64::from(value.to_be()));
    }

    /// The sum itself, as the value of a field in network byte order.
    #[inline]
    pub fn sum(self) -> u16 {
        u16::from_be(fold16(self.words))
    }

    /// Its complement: what goes into a checksum field, as the value of a field in network byte order.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.sum()
    }
}

/// The checksum of one slice: what goes into the field if the field is zero, and zero if the field is right.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = Sum::new();
    sum.add(bytes);
    sum.checksum()
}

/// A checksum after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = !checksum as u32 + !old as u32 + new as u32;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Fills in the checksum that a sender left to us: sums `frame` from `start` to its end and writes the result at
/// `start + offset`, where the sum of the pseudo header stands. Zero is written as ffff, which means the same to TCP
/// and which UDP demands. Returns `false`, with nothing written, if the field is not inside the frame.
pub fn complete_checksum(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let start = usize::from(start);
    let Some(covered) = frame.get_mut(start..) else { return false };
    let at = usize::from(offset);
    if covered.len() < at + 2 {
        return false;
    }
    let result = match checksum(covered) {
        0 => 0xffff,
        other => other,
    };
    covered[at..at + 2].copy_from_slice(&result.to_be_bytes());
    true
}

/// Sum of native 32-bit words in four lanes, so that it becomes vector code.
#[inline]
fn raw_sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0_u64; 4];
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut tail = [0; 16];
    tail[..rest.len()].copy_from_slice(rest);
    for (lane, word) in lanes.iter_mut().zip(tail.as_chunks::<4>().0) {
        *lane += u64::from(u32::from_ne_bytes(*word));
    }
    // A slice of 2^32 words would be needed for a lane to overflow.
    lanes.into_iter().map(fold32).sum()
}

#[inline]
const fn fold32(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

#[inline]
const fn fold16(sum: u64) -> u16 {
    let sum = fold32(fold32(sum));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
