//! Whatever the device changes is marked in the dirty log, page by page, after each single thing it does.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vswitch::frame::offload::NetHeader;

use super::driver::{Driver, cut};
use crate::guest::burst::Burst;
use crate::guest::dirty_log::DirtyLog;
use crate::guest::ring::RingShape;
use crate::guest::ring::receive::{Put, Receive};

const PAGE: u64 = 4096;

/// A driver whose ring logs, and the log as the front end has it.
struct Logged {
    driver: Driver,
    log: File,
}

impl Logged {
    /// With 1024 descriptors the used ring has three pages: its index, its elements from 512 on, and the event index.
    fn new(shape: RingShape, first: u16) -> Self {
        let log = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&log, PAGE).unwrap();
        let mut driver = Driver::new(1024, shape, first);
        let mapped = DirtyLog::map(log.as_fd(), 0, PAGE).unwrap();
        mapped.check(&driver.ram.memory).unwrap();
        driver.ring.set_log(Some(Arc::new(mapped)));
        Self { driver, log }
    }

    /// Lets the device do something; every page that changed must be marked. Returns the marked pages.
    fn watch<R>(&mut self, what: &str, act: impl FnOnce(&mut Driver) -> R) -> (R, Vec<u64>) {
        self.log.write_all_at(&[0; PAGE as usize], 0).unwrap();
        let before = self.driver.ram.copy();
        let result = act(&mut self.driver);
        let mut bits = [0; PAGE as usize];
        self.log.read_exact_at(&mut bits, 0).unwrap();
        let marked = |page: u64| bits[page as usize / 8] >> (page % 8) & 1 != 0;
        for ((first, old), (_, new)) in before.iter().zip(self.driver.ram.copy()) {
            let pages = old.chunks(PAGE as usize).zip(new.chunks(PAGE as usize));
            for (page, (old, new)) in (*first..).zip(pages) {
                assert!(old == new || marked(page), "{what} changed page {page:#x} and did not say so");
            }
        }
        (result, (0..8 * PAGE).filter(|&page| marked(page)).collect())
    }
}

fn header() -> NetHeader {
    NetHeader { num_buffers: 1, ..NetHeader::default() }
}

fn shape() -> impl Strategy<Value = RingShape> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(event_idx, indirect, mergeable)| RingShape {
        event_idx,
        indirect,
        mergeable,
        header_len: if mergeable { 12 } else { 10 },
        ..RingShape::default()
    })
}

proptest! {
    // Each step compares all memory.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn s20_every_page_a_receive_ring_changes_is_marked(
        shape in shape(),
        first: u16,
        ops in prop::collection::vec(
            (0u8..8, 100u32..2000, prop::collection::vec(any::<u32>(), 0..4), 14u32..5000),
            1..40,
        ),
    ) {
        let mut logged = Logged::new(shape, first);
        for (kind, room, cuts, len) in ops {
            let frame: Vec<u8> = (0..len).map(|i| (i ^ len) as u8).collect();
            match kind {
                0..=3 => {
                    let indirect = kind == 0;
                    logged.driver.add(&cut(room, &cuts), indirect, true);
                }
                4 | 5 => {
                    let (put, _) =
                        logged.watch("a frame", |d| d.ring.put(&header(), &frame, &[], len).unwrap());
                    prop_assert!(matches!(put, Put::Done | Put::Full | Put::TooSmall));
                    logged.watch("publishing", |d| d.ring.publish());
                    logged.driver.reap();
                }
                6 => {
                    logged.watch("a frame that is taken back", |d| {
                        let mark = d.ring.mark();
                        let _ = d.ring.put(&header(), &frame, &[], len).unwrap();
                        d.ring.rewind(mark);
                    });
                }
                _ => {
                    logged.watch("going to sleep", |d| d.ring.arm());
                    logged.watch("waking up", |d| d.ring.disarm());
                    logged.watch("a restart", |d| {
                        d.ring.stop();
                        d.start();
                    });
                }
            }
        }
    }

    #[test]
    fn s20_every_page_a_transmit_ring_changes_is_marked(
        shape in shape(),
        first: u16,
        ops in prop::collection::vec((0u8..8, any::<u64>()), 1..40),
    ) {
        let mut logged = Logged::new(shape, first);
        let mut burst = Burst::default();
        for (kind, finished) in ops {
            match kind {
                0..=4 => drop(logged.driver.add(&[60 + kind as u32], false, false)),
                5 | 6 => {
                    logged.watch("a burst", |d| {
                        burst.clear();
                        d.ring.take(&mut burst).unwrap();
                        d.ring.complete(&burst, finished);
                        d.ring.publish();
                    });
                    logged.driver.reap();
                }
                _ => {
                    logged.watch("going to sleep", |d| d.ring.arm());
                    logged.watch("a stop", |d| d.ring.stop());
                    logged.driver.reap();
                    logged.watch("a start", Driver::start);
                }
            }
        }
    }
}

#[test]
fn s20_frames_that_a_stop_gives_up_are_marked_as_used() {
    let mut logged = Logged::new(RingShape { header_len: 12, ..RingShape::default() }, 700);
    let mut burst = Burst::default();
    for _ in 0..2 {
        logged.driver.add(&[60], false, false).unwrap();
    }
    logged.driver.ring.take(&mut burst).unwrap();
    logged.driver.ring.complete(&burst, 0b10);
    logged.driver.ring.publish();
    let (lost, pages) = logged.watch("a stop", |d| d.ring.stop());
    assert_eq!((lost, pages), (1, vec![0x15, 0x16]), "the index and the element of the frame that was lost");
}

#[test]
fn s20_a_write_over_the_border_of_pages_marks_both_and_no_other() {
    let mut logged = Logged::new(RingShape { header_len: 12, ..RingShape::default() }, 0);
    // Areas of 2048 bytes from 1000 bytes behind a border on: the second lies across the next.
    for last in [3095 - 2048, 3096 - 2048] {
        logged.driver.add(&[2048], false, true).unwrap();
        let chain = logged.driver.add(&[2048], false, true).unwrap();
        let first = chain.buffers[0].0 / PAGE;
        logged.driver.ring.put(&header(), &[7; 60], &[], 60).unwrap();
        let frame = vec![7; last + 1 - 12];
        let (put, pages) =
            logged.watch("a frame", |d| d.ring.put(&header(), &frame, &[], frame.len() as u32).unwrap());
        assert_eq!(put, Put::Done);
        let border = 1000 + 2048 + last >= 4096;
        let both = if border { vec![0x15, first, first + 1] } else { vec![0x15, first] };
        assert_eq!(pages, both, "{last}");
        logged = Logged::new(RingShape { header_len: 12, ..RingShape::default() }, 0);
    }
}
