//! Incremental update of checksums after many words changed at once (RFC 1624, equation 3).

/// What changes of words do to every checksum over them: the ones' complement sum of all differences.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delta(u64);

impl Delta {
    /// One 16-bit word changed.
    #[inline]
    pub(super) fn word(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// Bytes changed that begin at an even place; both slices have the same, even length.
    #[inline]
    pub(super) fn bytes(&mut self, old: &[u8], new: &[u8]) {
        for (old, new) in old.as_chunks::<2>().0.iter().zip(new.as_chunks::<2>().0) {
            self.word(u16::from_be_bytes(*old), u16::from_be_bytes(*new));
        }
    }

    /// These changes and others together.
    #[inline]
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// A checksum after the changes.
    #[inline]
    pub(super) fn checksum(self, before: u16) -> u16 {
        !self.sum(!before)
    }

    /// A sum that is not complemented after the changes: what stands in a field whose checksum was left open.
    #[inline]
    pub(super) fn sum(self, before: u16) -> u16 {
        let mut sum = self.0 + u64::from(before);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}
