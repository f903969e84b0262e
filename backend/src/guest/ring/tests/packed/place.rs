//! Where a packed ring continues, whoever says it.

use std::sync::Arc;

use super::super::driver::{AVAIL, DESC, USED};
use super::driver::{At, Driver};
use crate::guest::burst::Burst;
use crate::guest::ring::{Kind, PackedRing, Ring, RingError, RingPlace, RingShape};

const SHAPE: RingShape = RingShape {
    event_idx: false,
    indirect: true,
    mergeable: true,
    packed: true,
    in_order: false,
    header_len: 12,
};

fn serve(driver: &mut Driver, frames: usize) {
    for _ in 0..frames {
        driver.add(&[100], false, false).unwrap();
        let mut burst = Burst::default();
        driver.ring.take(&mut burst).unwrap();
        driver.ring.complete(&burst, u64::MAX);
        driver.ring.show();
        assert_eq!(driver.reap().len(), 1);
    }
}

#[test]
fn h04_a_base_outside_the_ring_does_not_start_it() {
    let memory = Driver::new(8, SHAPE, 0).ram;
    let place = RingPlace { size: 8, desc: DESC, avail: AVAIL, used: USED };
    for base in [8, 9, 0x8008, 0xffff] {
        let started = PackedRing::default().start(Arc::clone(&memory.memory), place, SHAPE, base);
        assert_eq!(started, Err(RingError::BadBase(base, 8)));
    }
}

#[test]
fn h01_h03_a_packed_ring_that_is_not_wholly_in_aligned_memory_does_not_start() {
    let memory = Driver::new(8, SHAPE, 0).ram;
    let good = RingPlace { size: 8, desc: DESC, avail: AVAIL, used: USED };
    let start = |place| PackedRing::default().start(Arc::clone(&memory.memory), place, SHAPE, 0x8000);
    for size in [1, 3, 7, 1000, 1024] {
        assert_eq!(start(RingPlace { size, ..good }), Ok(()));
    }
    for size in [0, 1025, 32_768, 65_535] {
        assert_eq!(start(RingPlace { size, ..good }), Err(RingError::BadSize(size)));
    }
    for desc in [DESC + 8, 0x9000_0000, u64::MAX - 15, 0x10_0f90, 0x30_7fe0] {
        let error = start(RingPlace { desc, ..good });
        assert_eq!(error, Err(RingError::BadRing("descriptor ring", desc)));
    }
    for avail in [AVAIL + 2, 0, u64::MAX - 3, 0x10_0ffe] {
        let error = start(RingPlace { avail, ..good });
        assert_eq!(error, Err(RingError::BadRing("driver event suppression", avail)));
    }
    for used in [USED + 2, 0, u64::MAX - 3, 0x30_8000] {
        let error = start(RingPlace { used, ..good });
        assert_eq!(error, Err(RingError::BadRing("device event suppression", used)));
    }
}

#[test]
fn a_ring_whose_switch_was_killed_goes_on_in_any_lap() {
    for frames in 0..40 {
        let mut driver = Driver::new(8, SHAPE, 0);
        serve(&mut driver, frames);
        // Nobody stopped it, and the front end knows only where it began.
        driver.ring = PackedRing::default();
        driver.start(At(0).told(8));
        assert_eq!(driver.ring.base(), At(frames as u64).told(8), "after {frames}");
        serve(&mut driver, 20);
    }
}

#[test]
fn a_switch_killed_between_showing_descriptors_and_saying_so_goes_on_behind_them() {
    for frames in 1..40 {
        let mut driver = Driver::new(8, SHAPE, 0);
        serve(&mut driver, frames);
        driver.ring = PackedRing::default();
        let before = At(frames as u64 - frames.min(5) as u64).told(8);
        driver.ram.set_word(USED, before);
        driver.start(At(0).told(8));
        assert_eq!(driver.ring.base(), At(frames as u64).told(8), "after {frames}");
    }
}

#[test]
fn a_new_driver_begins_at_the_beginning_whatever_lies_in_the_event_structure() {
    let mut driver = Driver::new(8, SHAPE, 0);
    driver.ram.set_word(USED, 5);
    driver.start(At(0).told(8));
    assert_eq!(driver.ring.base(), 0x8000);
    serve(&mut driver, 20);
}

#[test]
fn a_queue_changes_its_layout_and_keeps_where_the_packed_ring_was() {
    let driver = Driver::new(8, SHAPE, 0);
    let place = RingPlace { size: 8, desc: DESC, avail: AVAIL, used: USED };
    let mut ring = Ring::default();
    assert_eq!(ring.base(), 0);
    ring.set_base(0x8003);
    driver.set_flags(0, 1 << 7 | 1 << 15);
    driver.ram.set_word(USED, 0);
    ring.start(Arc::clone(&driver.ram.memory), place, SHAPE).unwrap();
    assert!(matches!(ring.kind(), Kind::Packed(_)));
    ring.set_base(0);
    assert_eq!(ring.base(), 0x8003, "a ring that runs is where it is");
    ring.stop();
    assert_eq!(ring.base(), 0x8003);
    ring.start(Arc::clone(&driver.ram.memory), place, RingShape { packed: false, ..SHAPE }).unwrap();
    assert!(matches!(ring.kind(), Kind::Split(_)));
}

#[test]
fn a_lap_that_ends_with_a_chain_is_over() {
    let mut driver = Driver::new(3, SHAPE, 7);
    driver.add(&[100, 100], false, false).unwrap();
    let mut burst = Burst::default();
    driver.ring.take(&mut burst).unwrap();
    driver.ring.complete(&burst, u64::MAX);
    driver.ring.show();
    assert_eq!(driver.ring.base(), At(9).told(3));
    driver.start(At(0).told(3));
    assert_eq!(driver.ring.base(), At(9).told(3));
}
