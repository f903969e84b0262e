//! Opening a counters file: everything in it is added up into the base section of a new one, which then takes its place.
//!
//! So the number of workers may change, reasons may be renumbered, and what a power cut left of a zero point (less than nothing) becomes
//! nothing. The old file stays until the new one is complete: a kill at any moment loses and doubles nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use vswitch::trace::DropReason;

use super::layout::{self, BLOCK, BadHeader, Cell, HEADER, Header, REASONS, ROW, SECTION, TALLIES};

/// The numbers of one section that are not zero: block number → numbers.
pub(super) type Sums = BTreeMap<u64, Vec<u64>>;

/// Why a file cannot be read.
#[derive(Debug)]
pub(super) enum Bad {
    Io(io::Error),
    Header(BadHeader),
}

impl From<io::Error> for Bad {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// Adds up all sections of a file.
pub(super) fn read(file: &File) -> Result<Sums, Bad> {
    let length = file.metadata()?.len();
    let mut head = vec![0; HEADER.min(length) as usize];
    file.read_exact_at(&mut head, 0)?;
    let header = Header::decode(&head, length).map_err(Bad::Header)?;
    let mut sums = Sums::new();
    let mut bytes = vec![0; BLOCK as usize];
    let mut at = next_data(file, HEADER, length);
    while at < length {
        file.read_exact_at(&mut bytes, at)?;
        if bytes.iter().any(|b| *b != 0) {
            let block = (at - HEADER) % SECTION / BLOCK;
            let sum = sums.entry(block).or_insert_with(|| vec![0; BLOCK as usize / 8]);
            for (sum, number) in sum.iter_mut().zip(bytes.chunks_exact(8)) {
                // A zero point is what to subtract, so the sum wraps around.
                *sum = sum.wrapping_add(number.try_into().map_or(0, u64::from_le_bytes));
            }
        }
        at = next_data(file, at + BLOCK, length);
    }
    for sum in sums.values_mut().flatten() {
        if sum.cast_signed() < 0 {
            *sum = 0;
        }
    }
    renumber(&mut sums, &header);
    sums.retain(|_, numbers| numbers.iter().any(|n| *n != 0));
    Ok(sums)
}

/// Whether a file is one that this version would have written for so many workers.
pub(super) fn is_laid_out_for(file: &File, workers: usize) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let mut head = vec![0; HEADER.min(length) as usize];
    file.read_exact_at(&mut head, 0)?;
    Ok(Header::decode(&head, length).is_ok_and(|header| header == Header::new(workers)))
}

/// The first block at `from` or behind it that may hold something.
fn next_data(file: &File, from: u64, length: u64) -> u64 {
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(at) => at - at % BLOCK,
        Err(rustix::io::Errno::NXIO) => length,
        // This file system does not tell: look at everything.
        Err(_) => from,
    }
}

/// Moves the drop counts of each row to where this version has them.
fn renumber(sums: &mut Sums, header: &Header) {
    let numbers = header.numbers();
    let unchanged = numbers.iter().flatten().copied().eq(DropReason::ALL.iter().copied().take(numbers.len()));
    if unchanged && numbers.iter().all(Option::is_some) {
        return;
    }
    let out = |index: usize| Cell::OutPackets.index() + 4 + index;
    for numbers_of_block in sums.range_mut(..TALLIES / BLOCK).map(|(_, numbers)| numbers) {
        for row in numbers_of_block.chunks_exact_mut(ROW as usize / 8) {
            let old = row.to_vec();
            row[out(0)..].fill(0);
            for (index, reason) in numbers.iter().enumerate() {
                let Some(reason) = *reason else { continue };
                row[Cell::OutDrops(reason).index()] = old[out(index)];
                row[Cell::InDrops(reason).index()] = old[out(REASONS + index)];
            }
        }
    }
}

/// Makes a file for this many workers whose base section holds `sums`.
pub(super) fn write(file: &File, workers: usize, sums: &Sums) -> io::Result<()> {
    file.set_len(layout::length(workers))?;
    file.write_all_at(&Header::new(workers).encode(), 0)?;
    for (block, numbers) in sums {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        file.write_all_at(&bytes, layout::section(0) + block * BLOCK)?;
    }
    Ok(())
}

/// Puts a finished file in the place of another, for good.
pub(super) fn replace(file: &File, from: &Path, to: &Path) -> io::Result<()> {
    file.sync_all()?;
    std::fs::rename(from, to)?;
    to.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
