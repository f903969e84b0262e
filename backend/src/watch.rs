//! Frames that somebody wants to see: what `turnpike trace` and `turnpike capture` have in common.
//!
//! A watcher says what it wants ([`Spec`]); workers give it records of the frames that they are finished with
//! (`worker::watch`), and whoever asked takes them out of [`Watching`]. While nobody watches there is nothing of this in the data path.
//!
//! Bounded: at most [`MAX_WATCHERS`], and of each at most [`BUDGET`] bytes that were not taken out yet. What does not fit is counted
//! and not shown; no frame ever waits for a reader, and a reader that does not read costs the workers one look at that budget a frame.
//!
//! Threading: records go through an unbounded channel, which the budget bounds; workers never block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use vswitch::explain::Told;
use vswitch::pipeline::Verdict;
use vswitch::trace::DropReason;
use vswitch::trace::filter::Filter;
use vswitch::{Direction, PortId};

/// Most watchers at a time.
pub const MAX_WATCHERS: usize = 16;

/// Most bytes of records that wait for one reader. A record that begins within it may end beyond, one for each worker.
const BUDGET: usize = 4 << 20;

/// Bytes that a record takes beside what varies, roughly.
const RECORD: usize = 256;

/// What a watcher wants.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Only frames of this port. For a trace also those that come to it.
    pub port: Option<PortId>,
    /// Only frames that were dropped.
    pub drops: bool,
    /// Only frames of which this is true.
    pub filter: Filter,
    /// One frame in so many is looked at, chosen at random; 1 = every frame.
    pub sample: u32,
    /// What is told of them.
    pub what: What,
}

/// What is told of a frame.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// The steps that were taken: once for each frame.
    Steps,
    /// Its bytes, at every port it passes.
    Bytes {
        /// What ports send.
        out: bool,
        /// What ports get.
        inward: bool,
        /// The first so many bytes of it.
        snaplen: u32,
    },
}

impl What {
    /// How many of a frame's first bytes are looked at.
    pub(crate) fn snaplen(self) -> u32 {
        match self {
            Self::Steps => vswitch::HEAD_LEN as u32,
            Self::Bytes { snaplen, .. } => snaplen,
        }
    }
}

/// What became of a frame at one receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It got it.
    Delivered,
    /// It is kept for a guest on the move.
    Held,
    /// It did not get it.
    Lost(DropReason),
}

/// One receiver of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The port.
    pub port: PortId,
    /// What became of it there.
    pub fate: Fate,
    /// It was a monitor's copy.
    pub copy: bool,
}

/// What is told of a frame's way.
#[derive(Clone, Debug)]
pub struct Way {
    /// When it was judged, since 1970-01-01 00:00 UTC.
    pub time: Duration,
    /// The port that is watched, or else the one that sent it.
    pub port: PortId,
    /// Whether that port sent it or was to get it.
    pub direction: Direction,
    /// The port that sent it.
    pub from: PortId,
    /// Its first bytes as they were sent.
    pub head: Box<[u8]>,
    /// Its whole length in bytes.
    pub len: u32,
    /// The steps that did something.
    pub steps: Vec<Told>,
    /// The verdict.
    pub verdict: Verdict,
    /// Who was to get it, the first [`ARRIVALS`] of them.
    pub arrivals: Vec<Arrival>,
    /// How many more there were.
    pub more: usize,
}

impl Way {
    /// Why the frame ended at the port that sent it, or (named) at its only receiver or the one that is watched.
    pub fn lost(&self) -> Option<(DropReason, Option<PortId>)> {
        lost(self.verdict, self.arrivals.iter().copied()).or_else(|| {
            let there = self.arrivals.iter().find(|arrival| arrival.port == self.port)?;
            match there.fate {
                Fate::Lost(reason) if self.direction == Direction::In => Some((reason, Some(self.port))),
                _ => None,
            }
        })
    }
}

/// Why a frame with this verdict went nowhere, and the receiver, if it was to have only one and was lost there.
pub(crate) fn lost(
    verdict: Verdict,
    mut arrivals: impl Iterator<Item = Arrival>,
) -> Option<(DropReason, Option<PortId>)> {
    match verdict {
        Verdict::Drop(reason) => Some((reason, None)),
        Verdict::Refuse(reason, to) => Some((reason, Some(to))),
        Verdict::Unicast(to) => {
            arrivals.find(|arrival| arrival.port == to).and_then(|arrival| match arrival.fate {
                Fate::Lost(reason) => Some((reason, Some(to))),
                _ => None,
            })
        }
        Verdict::Flood(_) | Verdict::Answer => None,
    }
}

/// Receivers that are told of one frame.
pub const ARRIVALS: usize = 64;

/// A frame as it was at a port.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// When its burst was taken, since 1970-01-01 00:00 UTC.
    pub time: Duration,
    /// The port.
    pub port: PortId,
    /// Whether it sent or got it.
    pub direction: Direction,
    /// Its first bytes.
    pub bytes: Box<[u8]>,
    /// Its whole length in bytes.
    pub len: u32,
    /// Why it was dropped there, or (of a frame that was sent) at its only receiver, which is named then.
    pub lost: Option<(DropReason, Option<PortId>)>,
}

/// What a reader gets.
#[derive(Clone, Debug)]
pub enum Record {
    /// Of a trace.
    Way(Box<Way>),
    /// Of a capture.
    Sighting(Sighting),
}

impl Record {
    fn cost(&self) -> usize {
        RECORD
            + match self {
                Self::Way(way) => {
                    let notes = way.steps.iter().flat_map(|told| &told.notes);
                    size_of::<Way>()
                        + way.head.len()
                        + way.steps.len() * size_of::<Told>()
                        + notes.map(|note| note.len() + size_of::<String>()).sum::<usize>()
                        + way.arrivals.len() * size_of::<Arrival>()
                }
                Self::Sighting(sighting) => sighting.bytes.len(),
            }
    }
}

/// One watcher as the workers see it.
#[derive(Debug)]
pub struct Watcher {
    /// What it wants.
    pub spec: Spec,
    /// Nobody reads any more.
    closed: AtomicBool,
    /// Bytes of records that were not taken out yet.
    waiting: AtomicUsize,
    /// Frames that were to be shown and were not.
    missed: AtomicU64,
    sender: mpsc::UnboundedSender<Vec<Record>>,
}

impl Watcher {
    /// A watcher, and where its records come out.
    pub fn new(spec: Spec) -> (Arc<Self>, Records) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (closed, waiting, missed) = Default::default();
        let watcher = Arc::new(Self { spec, closed, waiting, missed, sender });
        let records = Records { watcher: Arc::clone(&watcher), receiver, taken: 0 };
        (watcher, records)
    }

    /// Whether somebody may still read.
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// Nobody is to be told anything any more: the reader sees the end once it has what there is.
    pub fn close(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            // Wakes the reader.
            let _ = self.sender.send(Vec::new());
        }
    }

    /// Whether there is room for another record.
    pub fn is_free(&self) -> bool {
        self.is_open() && self.waiting.load(Ordering::Relaxed) < BUDGET
    }

    /// Whether there is room for a record that is to be given now. If there is not, it is counted as missed.
    pub fn has_room(&self) -> bool {
        let room = self.is_free();
        if !room {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    /// Takes the room of a record that [`Watcher::give`] will be given.
    pub fn reserve(&self, record: &Record) {
        self.waiting.fetch_add(record.cost(), Ordering::Relaxed);
    }

    /// Hands over records whose room was reserved.
    pub fn give(&self, records: Vec<Record>) {
        // An error is a reader that went away.
        let _ = self.sender.send(records);
    }
}

/// What one watcher was told.
#[derive(Debug)]
pub struct Records {
    watcher: Arc<Watcher>,
    receiver: mpsc::UnboundedReceiver<Vec<Record>>,
    /// Bytes of what was taken out last.
    taken: usize,
}

impl Records {
    /// All records that there are, or the next ones, and how many frames could not be shown since the last ones; their room is free again at the next call. `None` =
    /// the watch has ended.
    pub async fn next(&mut self) -> Option<(Vec<Record>, u64)> {
        self.watcher.waiting.fetch_sub(std::mem::take(&mut self.taken), Ordering::Relaxed);
        loop {
            if !self.watcher.is_open() && self.receiver.is_empty() {
                return None;
            }
            let mut records = self.receiver.recv().await?;
            while let Ok(more) = self.receiver.try_recv() {
                records.extend(more);
            }
            if records.is_empty() {
                continue;
            }
            self.taken = records.iter().map(Record::cost).sum();
            return Some((records, self.watcher.missed.swap(0, Ordering::Relaxed)));
        }
    }
}

/// What ends a watch.
type End = Box<dyn FnOnce(&Arc<Watcher>) + Send>;

/// A watch that somebody reads. Dropping it ends it, which waits for the workers: to be done where that may block.
pub struct Watching {
    /// What was seen.
    pub records: Records,
    end: Option<End>,
}

impl Watching {
    /// A watch that `end` ends.
    pub fn new(records: Records, end: impl FnOnce(&Arc<Watcher>) + Send + 'static) -> Self {
        Self { records, end: Some(Box::new(end)) }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.records.watcher.close();
        if let Some(end) = self.end.take() {
            end(&self.records.watcher);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let what = What::Bytes { out: true, inward: true, snaplen: 65_535 };
        Spec { port: None, drops: false, filter: Filter::default(), sample: 1, what }
    }

    fn copy(len: usize) -> Record {
        let (time, port, direction) = (Duration::ZERO, PortId(1), Direction::Out);
        Record::Sighting(Sighting {
            time,
            port,
            direction,
            bytes: vec![0; len].into(),
            len: len as u32,
            lost: None,
        })
    }

    fn offer(watcher: &Watcher, len: usize) -> bool {
        let room = watcher.has_room();
        if room {
            let record = copy(len);
            watcher.reserve(&record);
            watcher.give(vec![record]);
        }
        room
    }

    #[tokio::test]
    async fn s19_what_does_not_fit_is_counted_and_said_and_there_is_room_again_once_it_was_read() {
        let (watcher, mut records) = Watcher::new(spec());
        let mut given = 0;
        while offer(&watcher, 60_000) {
            given += 1;
        }
        assert_eq!(given, BUDGET.div_ceil(60_000 + RECORD), "as many as fit, and no more");
        assert!(!offer(&watcher, 1) && !offer(&watcher, 1));
        let (first, missed) = records.next().await.expect("records");
        assert_eq!((first.len(), missed), (given, 3), "all that there is at once");
        assert!(!offer(&watcher, 1), "what is being written still takes its room");
        tokio::time::timeout(Duration::from_millis(1), records.next())
            .await
            .expect_err("there are no others");
        assert!(offer(&watcher, 1));
        let (next, missed) = records.next().await.expect("records");
        assert_eq!((next.len(), missed), (1, 1));
    }

    #[tokio::test]
    async fn s19_a_watch_ends_with_what_was_seen_before() {
        let (watcher, mut records) = Watcher::new(spec());
        assert!(offer(&watcher, 5));
        watcher.close();
        watcher.close();
        assert!(!offer(&watcher, 5));
        assert_eq!(records.next().await.map(|(list, _)| list.len()), Some(1));
        assert!(records.next().await.is_none());
    }
}
