//! Where each number is in the counters file, and the header that says so.
//!
//! ```text
//! header    one block: magic, version, geometry, names of the drop reasons, checksum
//! base      one section: what was counted before, and zero points
//! worker 0  one section
//! worker 1  …
//! ```
//! A section is the port table (one row of 128 numbers for each port number, 0 included) followed by the tallies (packets and bytes of
//! each). All numbers are 64-bit little endian. A row is wider than needed, so that a new drop reason moves nothing; reasons are
//! told apart by the names in the header, because their numbers may change from version to version.

use vswitch::trace::DropReason;

/// Blocks are given room, and read at start, in pieces of this many bytes.
pub(super) const BLOCK: u64 = 64 * 1024;
/// Tallies there can be; their numbers are below this, and 0 is nobody's.
pub const MAX_TALLIES: u32 = 1 << 20;
/// Rows of the port table: port numbers below this.
pub(super) const ROWS: usize = crate::worker::MAX_PORTS + 1;
/// Bytes of a row.
pub(super) const ROW: u64 = 1024;
/// Reasons that have room in a row, per direction.
pub(super) const REASONS: usize = 62;
/// Where the tallies begin in a section.
pub(super) const TALLIES: u64 = (ROWS as u64 * ROW).next_multiple_of(BLOCK);
/// Bytes of a tally.
pub(super) const TALLY: u64 = 16;
/// Bytes of a section.
pub(super) const SECTION: u64 = TALLIES + MAX_TALLIES as u64 * TALLY;
/// Bytes of the header.
pub(super) const HEADER: u64 = BLOCK;

const MAGIC: &[u8; 8] = b"TPcount\0";
const VERSION: u32 = 1;
/// Bytes before the names.
const FIXED: usize = 36;

const _: () = assert!(DropReason::COUNT <= REASONS, "a row has no room for this many drop reasons");
const _: () = assert!(4 + 2 * REASONS as u64 * 8 <= ROW - 28 && SECTION.is_multiple_of(BLOCK));

/// The numbers of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    OutPackets,
    OutBytes,
    InPackets,
    InBytes,
    OutDrops(DropReason),
    InDrops(DropReason),
}

impl Cell {
    /// Its place in a row, counted in numbers.
    #[inline]
    pub(super) const fn index(self) -> usize {
        match self {
            Self::OutPackets => 0,
            Self::OutBytes => 1,
            Self::InPackets => 2,
            Self::InBytes => 3,
            Self::OutDrops(reason) => 4 + reason as usize,
            Self::InDrops(reason) => 4 + REASONS + reason as usize,
        }
    }

    /// Its place in a section, in bytes.
    #[inline]
    pub(super) const fn offset(self, row: usize) -> u64 {
        row as u64 * ROW + self.index() as u64 * 8
    }
}

/// Where in the file a section begins: 0 is the base, a worker's is one more than its number.
pub(super) const fn section(number: usize) -> u64 {
    HEADER + number as u64 * SECTION
}

/// Length of a file for this many workers.
pub(super) const fn length(workers: usize) -> u64 {
    section(workers + 1)
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Number of worker sections.
    pub(super) workers: usize,
    /// Names of the drop reasons, in the order of their numbers.
    pub(super) reasons: Vec<String>,
}

/// Why a header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// It is not one, or has changed since it was written.
    Damaged(&'static str),
    /// It is of another version.
    Version(u32),
}

impl Header {
    /// The header of a file that this version writes.
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, reasons: DropReason::ALL.iter().map(|r| r.name().to_owned()).collect() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let names = self.reasons.join("\n");
        let mut bytes = MAGIC.to_vec();
        for number in [
            VERSION,
            self.workers as u32,
            ROWS as u32,
            ROW as u32,
            REASONS as u32,
            MAX_TALLIES,
            names.len() as u32,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(names.as_bytes());
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes.resize(HEADER as usize, 0);
        bytes
    }

    /// Reads the first [`HEADER`] bytes of a file that is `length` bytes long.
    pub(super) fn decode(bytes: &[u8], file_length: u64) -> Result<Self, BadHeader> {
        let damaged = BadHeader::Damaged;
        let number = |at: usize| {
            let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
            field.map(u32::from_le_bytes).ok_or(damaged("it ends within its header"))
        };
        if !bytes.starts_with(MAGIC) {
            return Err(damaged("it does not begin as a counters file does"));
        }
        let version = number(8)?;
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let names_end = FIXED.saturating_add(number(32)? as usize);
        let (Some(covered), Some(sum)) = (bytes.get(..names_end), bytes.get(names_end..names_end + 8)) else {
            return Err(damaged("its header is longer than a header can be"));
        };
        if checksum(covered).to_le_bytes() != sum {
            return Err(damaged("the checksum of its header is wrong"));
        }
        let geometry = [number(16)?, number(20)?, number(24)?, number(28)?];
        if geometry != [ROWS as u32, ROW as u32, REASONS as u32, MAX_TALLIES] {
            return Err(damaged("its tables have other sizes than this version's"));
        }
        let workers = number(12)? as usize;
        if length(workers) != file_length {
            return Err(damaged("its length does not match its number of workers"));
        }
        let names = covered.get(FIXED..).and_then(|names| std::str::from_utf8(names).ok());
        let reasons: Vec<_> =
            names.ok_or(damaged("its names are not text"))?.split('\n').map(str::to_owned).collect();
        if reasons.len() > REASONS {
            return Err(damaged("it has more drop reasons than have room"));
        }
        Ok(Self { workers, reasons })
    }

    /// For each reason of this header, its number in this version; `None` for one that is no more.
    pub(super) fn numbers(&self) -> Vec<Option<DropReason>> {
        let find = |name: &String| DropReason::ALL.iter().find(|r| r.name() == name).copied();
        self.reasons.iter().map(find).collect()
    }
}

/// FNV-1a: against damage, not against forgery; the file is root's.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = Header::new(3);
        assert_eq!(Header::decode(&header.encode(), length(3)), Ok(Header::new(3)));
        assert!(header.numbers().iter().flatten().copied().eq(DropReason::ALL.iter().copied()));
    }

    #[test]
    fn a_changed_byte_of_a_header_is_noticed() {
        let good = Header::new(2).encode();
        let used = FIXED + Header::new(2).reasons.join("\n").len() + 8;
        for at in 0..used {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Header::decode(&bad, length(2)).is_err(), "byte {at}");
        }
        assert!(Header::decode(&good[..20], length(2)).is_err());
        assert!(Header::decode(&good, length(2) - 1).is_err());
    }

    #[test]
    fn cells_of_a_row_do_not_overlap() {
        let mut cells: Vec<_> = [Cell::OutPackets, Cell::OutBytes, Cell::InPackets, Cell::InBytes].into();
        cells.extend(DropReason::ALL.iter().flat_map(|&r| [Cell::OutDrops(r), Cell::InDrops(r)]));
        let mut places: Vec<_> = cells.iter().map(|c| c.index()).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), cells.len());
        assert!(places.iter().all(|p| (*p as u64) < ROW / 8));
    }
}
