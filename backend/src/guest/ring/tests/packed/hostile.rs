//! Drivers that break the rules of packed rings: an error that stops the queue, or a frame with a fault that is counted.

use proptest::prelude::*;
use vswitch::frame::offload::NetHeader;
use vswitch::trace::DropReason;

use super::super::driver::{AVAIL, BUFFERS, DESC, INDIRECT, NEXT, TABLES, USED, WRITE};
use super::driver::{AVAILABLE, DONE, Driver};
use crate::guest::burst::{BURST, Burst};
use crate::guest::ring::receive::{Put, Receive};
use crate::guest::ring::{RingError, RingShape};

const SHAPE: RingShape = RingShape {
    event_idx: false,
    indirect: true,
    mergeable: true,
    packed: true,
    in_order: false,
    header_len: 12,
};
const MALFORMED: Option<DropReason> = Some(DropReason::MalformedDescriptor);

/// A descriptor: address, length, flags beside those for availability.
type Desc = (u64, u32, u16);

fn driver(ring: &[Desc], table: &[Desc]) -> Driver {
    let driver = Driver::new(8, SHAPE, 0);
    for (at, entries, flag) in [(DESC, ring, AVAILABLE), (TABLES, table, 0)] {
        for (index, &(addr, len, flags)) in entries.iter().enumerate() {
            driver.ram.set_desc(at, index as u16, addr, len, index as u16, flags | flag);
        }
    }
    driver
}

/// The frames that a device takes from such a ring: fault and length of each.
fn taken(ring: &[Desc], table: &[Desc]) -> Result<Vec<(Option<DropReason>, u32)>, RingError> {
    let mut driver = driver(ring, table);
    let mut burst = Burst::default();
    driver.ring.take(&mut burst)?;
    let frames = burst.frames[..burst.count].iter().map(|frame| (frame.fault, frame.len)).collect();
    driver.ring.complete(&burst, u64::MAX);
    driver.ring.show();
    assert_eq!(driver.ring.base(), (ring.len() as u16 % 8) | u16::from(ring.len() < 8) << 15, "all passed");
    driver.ram.check_canaries();
    Ok(frames)
}

fn put(ring: &[Desc], table: &[Desc], len: usize) -> Result<Put, RingError> {
    let mut driver = driver(ring, table);
    let result = driver.ring.put(&NetHeader::default(), &vec![7; len], &[], len as u32);
    driver.ring.show();
    if result != Ok(Put::Done) {
        assert_eq!(driver.ring.base(), 0x8000, "nothing is used by a frame that was not written");
    }
    driver.ram.check_canaries();
    result
}

#[test]
fn h07_h08_h09_h10_a_broken_chain_is_one_frame_with_a_fault() {
    let (b, t) = (BUFFERS, TABLES);
    let good = (b, 100, 0);
    let whole = |desc: Desc| vec![desc];
    let cases = [
        ("unmapped", whole((0x9000_0000, 100, 0)), vec![], MALFORMED),
        ("end beyond memory", whole((0x30_7fff, 2, 0)), vec![], MALFORMED),
        ("address plus length wraps", whole((u64::MAX - 10, 100, 0)), vec![], MALFORMED),
        ("four gigabytes", whole((b, u32::MAX, 0)), vec![], MALFORMED),
        ("writable", whole((b, 100, WRITE)), vec![], MALFORMED),
        ("writable after readable", vec![(b, 100, NEXT), (b, 9, WRITE)], vec![], MALFORMED),
        ("bad in the middle", vec![(b, 100, NEXT), (1, 9, NEXT), (b, 9, 0)], vec![], MALFORMED),
        ("table of half an entry", whole((t, 24, INDIRECT)), whole(good), MALFORMED),
        ("empty table", whole((t, 0, INDIRECT)), whole(good), MALFORMED),
        ("table of 64 Ki entries", whole((t, 1 << 20, INDIRECT)), whole(good), MALFORMED),
        ("unmapped table", whole((0x9000_0000, 16, INDIRECT)), vec![], MALFORMED),
        ("table over two regions", whole((0x10_0ff8, 16, INDIRECT)), vec![], MALFORMED),
        ("table with next", vec![(t, 16, INDIRECT | NEXT), good], whole(good), MALFORMED),
        ("table in a table", whole((t, 16, INDIRECT)), whole((t, 16, INDIRECT)), MALFORMED),
        ("no buffer", whole((b, 0, 0)), vec![], Some(DropReason::BadHeader)),
        ("empty with a bad address", whole((1, 0, 0)), vec![], Some(DropReason::BadHeader)),
        ("half a header", whole((b, 11, 0)), vec![], Some(DropReason::BadHeader)),
        ("too long", vec![(0x10_8000, 65_560, NEXT), good], vec![], Some(DropReason::FrameTooLong)),
    ];
    for (name, mut ring, table, fault) in cases {
        // The good frame after it is not harmed.
        ring.push(good);
        assert_eq!(taken(&ring, &table), Ok(vec![(fault, 0), (None, 88)]), "{name}");
    }
}

#[test]
fn h07_a_chain_that_never_ends_stops_the_queue() {
    let endless = [(BUFFERS, 1, NEXT); 8];
    assert_eq!(taken(&endless, &[]), Err(RingError::ChainTooLong(8)));
    let endless = [(BUFFERS, 1, NEXT | WRITE); 8];
    assert_eq!(put(&endless, &[], 60), Err(RingError::ChainTooLong(8)));
    // Behind a frame that waits there is one descriptor less.
    let mut after = [(BUFFERS, 1, NEXT); 8];
    after[0] = (BUFFERS, 100, 0);
    assert_eq!(taken(&after, &[]), Err(RingError::ChainTooLong(8)));
}

#[test]
fn h09_h13_a_receive_chain_that_cannot_be_written_stops_the_queue() {
    let (b, t) = (BUFFERS, TABLES);
    let bad = |addr, len| RingError::BadAddress(addr, len);
    assert_eq!(put(&[(b, 2000, 0)], &[], 60), Err(RingError::ReadOnly(0)));
    assert_eq!(put(&[(b, 9, WRITE | NEXT), (b, 200, 0)], &[], 60), Err(RingError::ReadOnly(1)));
    assert_eq!(put(&[(0x9000_0000, 2000, WRITE)], &[], 60), Err(bad(0x9000_0000, 2000)));
    assert_eq!(put(&[(0x30_7f00, 2000, WRITE)], &[], 60), Err(bad(0x30_8000, 2000 - 256)));
    assert_eq!(put(&[(t, 16, INDIRECT)], &[(b, 200, 0)], 60), Err(RingError::ReadOnly(0)));
    assert_eq!(put(&[(b, 16, WRITE), (b, 16, 0)], &[], 60), Err(RingError::ReadOnly(1)), "the second of two");
}

#[test]
fn h13_buffers_that_never_hold_the_frame_are_too_small_not_full() {
    let small: Vec<Desc> = (0..8).map(|i| (BUFFERS + 64 * i, 16, WRITE)).collect();
    assert_eq!(put(&small, &[], 116), Ok(Put::Done));
    assert_eq!(put(&small, &[], 117), Ok(Put::TooSmall));
    assert_eq!(put(&small[..7], &[], 116), Ok(Put::Full));
    assert_eq!(put(&[(BUFFERS, 0, WRITE)], &[], 60), Ok(Put::TooSmall));
}

#[test]
fn h12_ids_are_the_drivers_own_and_come_back_as_they_are() {
    let mut driver = driver(&[], &[]);
    for (index, id) in [0xffff, 3, 3, 8].into_iter().enumerate() {
        driver.ram.set_desc(DESC, index as u16, BUFFERS, 100, id, AVAILABLE);
    }
    let mut burst = Burst::default();
    driver.ring.take(&mut burst).unwrap();
    assert_eq!(burst.count, 4);
    driver.ring.complete(&burst, u64::MAX);
    driver.ring.show();
    let ids: Vec<u16> = (0..4).map(|i| driver.ram.word(DESC + 16 * i + 12)).collect();
    assert_eq!(ids, [0xffff, 3, 3, 8]);
}

#[test]
fn h12_flags_of_a_later_lap_make_no_frame_and_no_more_of_them_than_the_ring_has() {
    let mut driver = driver(&[(BUFFERS, 100, 0); 8], &[]);
    let mut burst = Burst::default();
    driver.ring.take(&mut burst).unwrap();
    // The descriptors of frames that wait are made available again, as if a lap later.
    (0..8).for_each(|index| driver.set_flags(index, DONE));
    burst.clear();
    driver.ring.take(&mut burst).unwrap();
    assert_eq!(burst.count, 8, "as many as there are descriptors");
    let mut receive = self::driver(&[(BUFFERS, 100, WRITE); 8], &[]);
    for lap in 0..3u16 {
        for index in 0..8 {
            let put = receive.ring.put(&NetHeader::default(), &[7; 60], &[], 60).unwrap();
            let expected = if lap == 0 { Put::Done } else { Put::Full };
            assert_eq!(put, expected, "lap {lap}, {index}: not before what was used is shown");
        }
        (0..8)
            .for_each(|index| receive.set_flags(index, WRITE | if lap % 2 == 0 { DONE } else { AVAILABLE }));
    }
}

#[test]
fn h12_a_chain_that_grows_while_its_frame_waits_keeps_its_descriptors() {
    let mut driver = driver(&[(BUFFERS, 100, 0), (BUFFERS, 100, 0)], &[]);
    let mut burst = Burst::default();
    driver.ring.take(&mut burst).unwrap();
    driver.ram.set_desc(DESC, 0, BUFFERS, 100, 5, NEXT | AVAILABLE);
    burst.clear();
    driver.ring.take(&mut burst).unwrap();
    assert_eq!((burst.count, burst.frames[0].fault, burst.frames[1].fault), (2, MALFORMED, None));
    driver.ring.complete(&burst, u64::MAX);
    driver.ring.show();
    assert_eq!(driver.ring.base(), 0x8002);
}

/// Words that lead somewhere interesting, or anywhere.
fn words() -> impl Strategy<Value = Vec<(u16, u64)>> {
    let address = prop_oneof![
        Just(BUFFERS),
        Just(TABLES),
        Just(DESC),
        Just(USED),
        (0u64..0x4000).prop_map(|at| 0x10_0000 + at),
        (0u64..64).prop_map(|before| 0x30_8000 - before),
        any::<u64>(),
    ];
    let lap = prop_oneof![4 => Just(AVAILABLE), 4 => Just(DONE), 1 => any::<u16>()];
    let rest = (prop_oneof![0u32..200, Just(u32::MAX), any::<u32>()], any::<u16>(), 0u16..8, lap).prop_map(
        |(len, id, flags, lap)| u64::from(len) | u64::from(id) << 32 | u64::from(flags | lap) << 48,
    );
    prop::collection::vec((any::<u16>(), prop_oneof![address, rest]), 0..100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_guest_memory_makes_the_ring_leave_it(
        size in proptest::sample::select(vec![1u16, 5, 16]),
        tables in words(),
        moves in prop::collection::vec((words(), any::<u64>(), any::<u32>()), 1..20),
        (event_idx, indirect, mergeable, in_order) in any::<(bool, bool, bool, bool)>(),
    ) {
        let shape = RingShape { event_idx, indirect, mergeable, in_order, ..SHAPE };
        let mut driver = Driver::new(size, shape, 0);
        for (place, word) in &tables {
            driver.ram.write(TABLES + 8 * u64::from(place % 64), &word.to_le_bytes());
        }
        let mut burst = Burst::default();
        for (ring, finished, wish) in moves {
            for (place, word) in ring {
                // Addresses at even places, the rest at odd ones, more often than not.
                let place = if word >> 48 == 0 { place & !1 } else { place | 1 };
                driver.ram.write(DESC + 8 * u64::from(place % (2 * size)), &word.to_le_bytes());
            }
            driver.ram.write(AVAIL, &wish.to_le_bytes());
            burst.clear();
            let taken = driver.ring.take(&mut burst);
            if taken.is_ok() {
                prop_assert!(burst.count <= BURST.min(size.into()));
                for index in 0..burst.count {
                    let frame = &burst.frames[index];
                    let rest: usize = burst.rest(index).iter().map(|span| span.len as usize).sum();
                    prop_assert!(burst.rest(index).iter().all(|span| driver.ram.contains(span)));
                    if frame.fault.is_none() {
                        prop_assert_eq!(frame.head().len() + rest, frame.len as usize);
                    }
                }
                driver.ring.complete(&burst, finished);
                driver.ring.show();
            }
            driver.ring.arm();
            if taken.is_err() {
                driver.ring.stop();
                driver.start((wish as u16 & 0x8000) | ((wish as u16 & 0x7fff) % size));
            }
        }
        driver.ram.check_canaries();
    }

    #[test]
    fn no_guest_memory_makes_a_receive_ring_leave_it(
        size in proptest::sample::select(vec![1u16, 5, 16]),
        tables in words(),
        moves in prop::collection::vec((words(), 0usize..70, 1usize..3000, any::<bool>()), 1..20),
        (event_idx, indirect, mergeable) in any::<(bool, bool, bool)>(),
    ) {
        let shape = RingShape { event_idx, indirect, mergeable, ..SHAPE };
        let mut driver = Driver::new(size, shape, 0);
        for (place, word) in &tables {
            driver.ram.write(TABLES + 8 * u64::from(place % 64), &word.to_le_bytes());
        }
        let frame = vec![9; 3000];
        for (ring, ahead, len, show) in moves {
            for (place, word) in ring {
                driver.ram.write(DESC + 8 * u64::from(place % (2 * size)), &word.to_le_bytes());
            }
            let staged = driver.ring.stage(ahead);
            let put = driver.ring.put(&NetHeader::default(), &frame[..len], &[], len as u32);
            if show {
                driver.ring.show();
                driver.ring.arm_for_more();
            }
            if staged.is_err() || put.is_err() {
                driver.ring.stop();
                driver.start(0x8000);
            }
        }
        driver.ram.check_canaries();
    }
}
