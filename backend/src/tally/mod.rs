//! Counters that survive: packets and bytes of ports and of tallies (ACL entries and rules), in a file that is mapped and shared.
//!
//! The kernel owns the pages of the mapping, so a killed process loses none of what it counted; a power cut loses what the kernel had
//! not yet written (at most some tens of seconds). Without a state directory the file has no name and ends with the process.
//!
//! Threading: each worker has a section of its own that only it writes, with plain loads and stores. The base section is written by the
//! control plane alone, under a lock. A value is the sum of its number over all sections.
//!
//! **Zero.** Nothing is ever written into a worker's section by another thread. Setting a tally to zero reads its sum and takes that much
//! away in the base section, so nothing counted meanwhile is lost: what was read before plus what is counted after is exactly
//! what passed. Packets and bytes are two numbers; a frame that is counted at this very moment may have its packet before the
//! zero point and its bytes after it.
//!
//! **Room.** The file is sparse. A number's blocks get their room when the number is given out ([`Tallies::ensure`]), so that a full
//! disk is a refusal then and not the end of a worker later.

mod fold;
mod kept;
mod layout;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, MemfdFlags};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};
use vswitch::refusal::{Object, Refusal, Refused};
use vswitch::trace::DropReason;
use vswitch::{PortId, Tally};

use self::fold::{Bad, Sums};
use self::layout::{BLOCK, BadHeader, ROWS, SECTION, TALLIES, TALLY};
use crate::spec::PortCounters;

pub(crate) use self::layout::Cell;
pub use self::layout::MAX_TALLIES;

/// Name of the file in the state directory.
pub const FILE: &str = "counters";

/// The mapped file.
#[derive(Debug)]
struct Mapping {
    region: MmapRegion,
    file: Arc<File>,
}

impl Mapping {
    /// The number at `offset` of the file; `None` beyond its end.
    #[inline]
    fn number(&self, offset: u64) -> Option<&AtomicU64> {
        self.region.get_atomic_ref(offset as usize).ok()
    }
}

/// All counters of a switch.
#[derive(Debug)]
pub struct Tallies {
    mapping: Arc<Mapping>,
    /// Where the file is, if it has a name.
    directory: Option<PathBuf>,
    workers: usize,
    /// Which blocks of a section have room; also what makes the writers of the base section take turns.
    roomy: Mutex<Vec<bool>>,
}

impl Tallies {
    /// Opens the counters in `directory`, which must exist and be locked by this process (the store does), or starts with none.
    pub fn open(directory: Option<&Path>, workers: usize) -> Result<Self, Refused> {
        let path = directory.map(|d| d.join(FILE));
        let file = path
            .as_ref()
            .map_or_else(|| anonymous(workers).map_err(Bad::Io), |path| rewritten(path, workers));
        let opened = |file| Self::map(file, directory, workers).and_then(Self::put_back).map_err(Bad::Io);
        file.and_then(opened).map_err(|bad| {
            let reason = |e: io::Error| match e.kind() {
                io::ErrorKind::UnexpectedEof => "it ends within its header".to_owned(),
                _ => e.to_string(),
            };
            let why = match bad {
                Bad::Io(e) => Refusal::StateUnusable { reason: format!("the counters: {}", reason(e)) },
                Bad::Header(BadHeader::Damaged(what)) => Refusal::CountersDamaged { reason: what.to_owned() },
                Bad::Header(BadHeader::Version(found)) => Refusal::StateVersion { found, known: 1 },
            };
            why.of(path.map_or(Object::Switch, |p| Object::State(p.to_string_lossy().into_owned())))
        })
    }

    /// Puts back what a process that was killed had kept.
    fn put_back(self) -> io::Result<Self> {
        for (id, counters) in self.directory.as_deref().map(kept::all).transpose()?.unwrap_or_default() {
            self.ensure_port(id)?;
            self.set_port(id, &counters);
            self.forget_kept(id);
        }
        Ok(self)
    }

    /// Counters that go on where those in `old`, which another process still counts in, will have stopped.
    ///
    /// If it is the very file that would be opened here and laid out for as many workers, both processes map it, and there is nothing
    /// to do later. Otherwise there is a new file, to which [`Pending::absorb`] adds the old counts when they stand still.
    pub fn succeed(directory: Option<&Path>, workers: usize, old: File) -> io::Result<(Self, Pending)> {
        let path = directory.map(|d| d.join(FILE));
        if same_place(&old, path.as_deref())? && fold::is_laid_out_for(&old, workers)? {
            // Room is made while the other process counts, which is only safe where the kernel does it.
            if rustix::fs::fallocate(&old, FallocateFlags::empty(), 0, BLOCK).is_ok() {
                return Ok((Self::map(old, directory, workers)?, Pending { old: None, rename: None }));
            }
        }
        let (file, rename) = match path {
            None => (anonymous(workers)?, None),
            Some(path) => {
                let new = path.with_extension("new");
                let file =
                    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
                fold::write(&file, workers, &Sums::new())?;
                (file, Some((new, path)))
            }
        };
        Ok((Self::map(file, directory, workers)?, Pending { old: Some(old), rename }))
    }

    /// The file, for another process.
    pub fn file(&self) -> &File {
        &self.mapping.file
    }

    fn map(file: File, directory: Option<&Path>, workers: usize) -> io::Result<Self> {
        let file = Arc::new(file);
        let length = layout::length(workers) as usize;
        let region = MmapRegion::from_file(FileOffset::from_arc(Arc::clone(&file), 0), length)
            .map_err(|e| io::Error::other(e.to_string()))?;
        let mapping = Arc::new(Mapping { region, file });
        let roomy = Mutex::new(vec![false; (SECTION / BLOCK) as usize]);
        let tallies = Self { mapping, directory: directory.map(Path::to_owned), workers, roomy };
        // Row 0 and tally 0 are nobody's; what should not happen is counted there.
        tallies.ensure(Tally::NONE)?;
        tallies.ensure_port(PortId(0))?;
        Ok(tallies)
    }

    /// Number of worker sections.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// What worker `number` writes. There must be one writer for each.
    pub fn worker(&self, number: usize) -> Option<WorkerTallies> {
        (number < self.workers)
            .then(|| WorkerTallies { mapping: Arc::clone(&self.mapping), start: layout::section(number + 1) })
    }

    /// Makes room for a tally; must succeed before a worker may count there.
    pub fn ensure(&self, tally: Tally) -> io::Result<()> {
        self.ensure_block((TALLIES + u64::from(tally.0) * TALLY) / BLOCK)
    }

    /// Makes room for a port's counters; must succeed before a worker may count there.
    pub fn ensure_port(&self, id: PortId) -> io::Result<()> {
        if id.index() >= ROWS {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        self.ensure_block(Cell::OutPackets.offset(id.index()) / BLOCK)
    }

    fn ensure_block(&self, block: u64) -> io::Result<()> {
        let mut roomy = self.lock();
        match roomy.get(block as usize) {
            None => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
            Some(true) => return Ok(()),
            Some(false) => {}
        }
        for section in 0..=self.workers {
            let at = layout::section(section) + block * BLOCK;
            match rustix::fs::fallocate(&*self.mapping.file, FallocateFlags::empty(), at, BLOCK) {
                Ok(()) => {}
                // Written over with itself it has its room as well. Nobody counts in this block yet.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                    let mut bytes = vec![0; BLOCK as usize];
                    self.mapping.file.read_exact_at(&mut bytes, at)?;
                    self.mapping.file.write_all_at(&bytes, at)?;
                }
                Err(e) => return Err(e.into()),
            }
        }
        roomy[block as usize] = true;
        Ok(())
    }

    /// Packets and bytes of a tally.
    pub fn read(&self, tally: Tally) -> (u64, u64) {
        let at = tally_offset(tally);
        at.map_or((0, 0), |at| (self.sum(at), self.sum(at + 8)))
    }

    /// Sets a tally to zero and says what it was.
    pub fn clear(&self, tally: Tally) -> (u64, u64) {
        let _turn = self.lock();
        let at = tally_offset(tally);
        at.map_or((0, 0), |at| (self.zero(at), self.zero(at + 8)))
    }

    /// Makes a tally what another switch counted; it has its room already.
    pub fn set(&self, tally: Tally, packets: u64, bytes: u64) {
        let _turn = self.lock();
        if let Some(at) = tally_offset(tally).filter(|_| tally != Tally::NONE) {
            self.put(at, packets);
            self.put(at + 8, bytes);
        }
    }

    /// Makes a port's counters what another switch counted; they have their room already.
    pub fn set_port(&self, id: PortId, counters: &PortCounters) {
        self.zero_port(id);
        let _turn = self.lock();
        if id.index() >= ROWS {
            return;
        }
        let put = |cell: Cell, value| {
            self.put(cell.offset(id.index()), value);
        };
        put(Cell::OutPackets, counters.out_packets);
        put(Cell::OutBytes, counters.out_bytes);
        put(Cell::InPackets, counters.in_packets);
        put(Cell::InBytes, counters.in_bytes);
        counters.out_drops.iter().for_each(|&(reason, count)| {
            put(Cell::OutDrops(reason), count);
        });
        counters.in_drops.iter().for_each(|&(reason, count)| {
            put(Cell::InDrops(reason), count);
        });
    }

    /// The same for as long as this process lives: the next one finds what was there before, unless [`Self::forget_kept`] is called.
    pub fn set_port_for_now(&self, id: PortId, counters: &PortCounters) {
        let kept = self.directory.as_deref().map(|directory| kept::keep(directory, id, &self.port(id)));
        if let Some(Err(e)) = kept {
            // What is wrong then, after a crash, is the count of a guest that did not come; no reason to keep it from coming.
            log::warn!("what port {} has counted cannot be kept: {e}", id.index());
        }
        self.set_port(id, counters);
    }

    /// What a port counts now is what it has counted.
    pub fn forget_kept(&self, id: PortId) {
        if let Some(directory) = &self.directory {
            kept::forget(directory, id);
        }
    }

    /// A port's counters.
    pub fn port(&self, id: PortId) -> PortCounters {
        let sum = |cell: Cell| if id.index() < ROWS { self.sum(cell.offset(id.index())) } else { 0 };
        let drops = |cell: fn(DropReason) -> Cell| {
            let all = DropReason::ALL.iter().map(|&reason| (reason, sum(cell(reason))));
            all.filter(|(_, count)| *count != 0).collect()
        };
        PortCounters {
            out_packets: sum(Cell::OutPackets),
            out_bytes: sum(Cell::OutBytes),
            in_packets: sum(Cell::InPackets),
            in_bytes: sum(Cell::InBytes),
            out_drops: drops(Cell::OutDrops),
            in_drops: drops(Cell::InDrops),
        }
    }

    /// Sets a port's counters to zero, before its number is used again.
    pub fn clear_port(&self, id: PortId) {
        self.forget_kept(id);
        self.zero_port(id);
    }

    fn zero_port(&self, id: PortId) {
        let _turn = self.lock();
        if id.index() < ROWS {
            let start = Cell::OutPackets.offset(id.index());
            (0..layout::ROW).step_by(8).for_each(|at| {
                self.zero(start + at);
            });
        }
    }

    /// The number at `offset` of each section, added up. Nothing is less than zero but by a power cut, which [`fold`] mends.
    fn sum(&self, offset: u64) -> u64 {
        (0..=self.workers).map(|section| self.get(section, offset)).fold(0, u64::wrapping_add)
    }

    /// Makes the sum at `offset` zero by what the base section says; the caller holds the lock. What is zero is not written: its block
    /// may have no room.
    fn zero(&self, offset: u64) -> u64 {
        self.put(offset, 0)
    }

    /// Makes the sum at `offset` this by what the base section says, and says what it was; as [`Self::zero`].
    fn put(&self, offset: u64, value: u64) -> u64 {
        let counted = (1..=self.workers).map(|section| self.get(section, offset)).fold(0, u64::wrapping_add);
        let base = self.get(0, offset);
        let point = value.wrapping_sub(counted);
        if base != point
            && let Some(number) = self.mapping.number(layout::section(0) + offset)
        {
            number.store(point.to_le(), Ordering::Relaxed);
        }
        base.wrapping_add(counted)
    }

    fn get(&self, section: usize, offset: u64) -> u64 {
        let number = self.mapping.number(layout::section(section) + offset);
        number.map_or(0, |n| u64::from_le(n.load(Ordering::Relaxed)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<bool>> {
        self.roomy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is still to be done for counters that succeed others.
#[derive(Debug)]
pub struct Pending {
    old: Option<File>,
    rename: Option<(PathBuf, PathBuf)>,
}

impl Pending {
    /// Adds what the old file counted. To be called when nobody counts in either.
    pub fn absorb(&mut self, tallies: &Tallies) -> io::Result<()> {
        let Some(old) = self.old.take() else { return Ok(()) };
        let sums = fold::read(&old).map_err(|bad| match bad {
            Bad::Io(e) => e,
            Bad::Header(bad) => io::Error::other(format!("{bad:?}")),
        })?;
        for (block, numbers) in sums {
            tallies.ensure_block(block)?;
            let _turn = tallies.lock();
            let start = layout::section(0) + block * BLOCK;
            for (at, number) in (start..).step_by(8).zip(numbers) {
                if let Some(cell) = tallies.mapping.number(at) {
                    cell.store(number.to_le(), Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Puts the new file in the place of the old one, for good. To be called when the other process counts no more.
    pub fn settle(self, tallies: &Tallies) -> io::Result<()> {
        self.rename.map_or(Ok(()), |(from, to)| fold::replace(&tallies.mapping.file, &from, &to))
    }
}

/// Whether `file` is what is at `path`, or for no path a file that has no name either.
fn same_place(file: &File, path: Option<&Path>) -> io::Result<bool> {
    let this = file.metadata()?;
    Ok(match path {
        None => this.nlink() == 0,
        Some(path) => std::fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (this.dev(), this.ino())),
    })
}

/// Where a tally is in a section.
#[inline]
fn tally_offset(tally: Tally) -> Option<u64> {
    (tally.0 < MAX_TALLIES).then(|| TALLIES + u64::from(tally.0) * TALLY)
}

/// One worker's section; nobody else writes it.
#[derive(Debug)]
pub struct WorkerTallies {
    mapping: Arc<Mapping>,
    start: u64,
}

impl WorkerTallies {
    /// Counts `packets` of `bytes` in all. A number that was not given out is nobody's and costs nothing.
    #[inline]
    pub fn add(&self, tally: Tally, packets: u64, bytes: u64) {
        let Some(at) = tally_offset(tally).filter(|_| tally != Tally::NONE) else { return };
        self.bump(at, packets);
        self.bump(at + 8, bytes);
    }

    /// Counts in one cell of a port. Numbers above the table cannot be added; row 0 is nobody's.
    #[inline]
    pub(crate) fn count(&self, id: PortId, cell: Cell, amount: u64) {
        let row = if id.index() < ROWS { id.index() } else { 0 };
        self.bump(cell.offset(row), amount);
    }

    /// Adds without a locked operation: there is one writer.
    #[inline]
    fn bump(&self, offset: u64, amount: u64) {
        if let Some(number) = self.mapping.number(self.start + offset) {
            let value = u64::from_le(number.load(Ordering::Relaxed)).wrapping_add(amount);
            number.store(value.to_le(), Ordering::Relaxed);
        }
    }
}

/// A file without a name, with everything at zero.
fn anonymous(workers: usize) -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create("turnpike-counters", MemfdFlags::CLOEXEC)?);
    fold::write(&file, workers, &Sums::new())?;
    Ok(file)
}

/// The file at `path` with its counts, laid out for this many workers.
fn rewritten(path: &Path, workers: usize) -> Result<File, Bad> {
    let sums = match File::open(path) {
        Ok(file) => fold::read(&file)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Sums::new(),
        Err(e) => return Err(e.into()),
    };
    let new = path.with_extension("new");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
    let written = fold::write(&file, workers, &sums).and_then(|()| fold::replace(&file, &new, path));
    written.inspect_err(|_| {
        // A disk that is full needs the room.
        let _ = std::fs::remove_file(&new);
    })?;
    Ok(file)
}

#[cfg(test)]
mod tests;
