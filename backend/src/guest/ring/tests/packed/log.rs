//! Whatever the device changes of a packed ring and its buffers is marked in the dirty log, page by page.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vswitch::frame::offload::NetHeader;

use super::super::driver::cut;
use super::driver::{At, Driver};
use crate::guest::burst::Burst;
use crate::guest::dirty_log::DirtyLog;
use crate::guest::ring::RingShape;
use crate::guest::ring::receive::Receive;

const PAGE: usize = 4096;

/// Lets the device do something; every page that changed must be marked.
fn watch(driver: &mut Driver, log: &File, what: &str, act: impl FnOnce(&mut Driver)) {
    log.write_all_at(&[0; PAGE], 0).unwrap();
    let before = driver.ram.copy();
    act(driver);
    let mut bits = [0; PAGE];
    log.read_exact_at(&mut bits, 0).unwrap();
    for ((first, old), (_, new)) in before.iter().zip(driver.ram.copy()) {
        for (page, (old, new)) in (*first..).zip(old.chunks(PAGE).zip(new.chunks(PAGE))) {
            let marked = bits[page as usize / 8] >> (page % 8) & 1 != 0;
            assert!(old == new || marked, "{what} changed page {page:#x} and did not say so");
        }
    }
}

proptest! {
    // Each step compares all memory.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn s20_every_page_a_packed_ring_changes_is_marked(
        (event_idx, indirect, in_order, receives) in any::<(bool, bool, bool, bool)>(),
        first in 0u64..3000,
        ops in prop::collection::vec(
            (0u8..8, 100u32..2000, prop::collection::vec(any::<u32>(), 0..4), any::<u64>()),
            1..40,
        ),
    ) {
        let shape =
            RingShape { event_idx, indirect, in_order, mergeable: true, packed: true, header_len: 12 };
        let log = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&log, PAGE as u64).unwrap();
        // 1024 descriptors are four pages.
        let mut driver = Driver::new(1024, shape, first);
        let mapped = DirtyLog::map(log.as_fd(), 0, PAGE as u64).unwrap();
        driver.ring.set_log(Some(Arc::new(mapped)));
        let mut burst = Burst::default();
        for (kind, len, cuts, finished) in ops {
            match kind {
                0..=4 => drop(driver.add(&cut(len, &cuts), kind == 0, receives)),
                5 | 6 if receives => {
                    let frame = vec![kind; len as usize];
                    let header = NetHeader { num_buffers: 1, ..NetHeader::default() };
                    watch(&mut driver, &log, "a frame", |d| {
                        d.ring.put(&header, &frame, &[], len).unwrap();
                    });
                    watch(&mut driver, &log, "publishing", |d| d.ring.publish());
                    driver.reap();
                }
                5 | 6 => {
                    watch(&mut driver, &log, "a burst", |d| {
                        burst.clear();
                        d.ring.take(&mut burst).unwrap();
                        d.ring.complete(&burst, finished);
                        d.ring.show();
                    });
                    driver.reap();
                }
                _ => {
                    watch(&mut driver, &log, "going to sleep", |d| {
                        d.ring.arm();
                    });
                    watch(&mut driver, &log, "waking up", |d| d.ring.disarm());
                    watch(&mut driver, &log, "a stop", |d| {
                        d.ring.stop();
                    });
                    driver.reap();
                    // The place may have been anything before.
                    driver.ram.set_word(super::super::driver::USED, 0x7fff);
                    let base = At(driver.seen.0).told(1024);
                    watch(&mut driver, &log, "a start", |d| d.start(base));
                }
            }
        }
    }
}
