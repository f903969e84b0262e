//! Drivers that break the rules: an error that stops the queue, or a frame with a fault that is counted.

use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use vswitch::frame::offload::NetHeader;
use vswitch::trace::DropReason;

use super::driver::{AVAIL, BUFFERS, DESC, Driver, INDIRECT, NEXT, TABLES, USED, WRITE};
use crate::guest::burst::Burst;
use crate::guest::memory::{GuestRam, Memory, Span};
use crate::guest::ring::RingError;
use crate::guest::ring::receive::{Put, Receive};
use crate::guest::ring::{RingPlace, RingShape, SplitRing};

const SHAPE: RingShape = RingShape {
    event_idx: false,
    indirect: true,
    mergeable: true,
    packed: false,
    in_order: false,
    header_len: 12,
};
const MALFORMED: Option<DropReason> = Some(DropReason::MalformedDescriptor);

/// A descriptor: address, length, flags, next.
type Desc = (u64, u32, u16, u16);

fn driver(table: &[Desc], indirect: &[Desc], heads: &[u16]) -> Driver {
    let driver = Driver::new(8, SHAPE, 0);
    for (at, entries) in [(DESC, table), (TABLES, indirect)] {
        for (index, &(addr, len, flags, next)) in entries.iter().enumerate() {
            driver.ram.set_desc(at, index as u16, addr, len, flags, next);
        }
    }
    for (slot, head) in heads.iter().enumerate() {
        driver.ram.set_word(AVAIL + 4 + 2 * slot as u64, *head);
    }
    driver.ram.set_word(AVAIL + 2, heads.len() as u16);
    driver
}

/// The frames that a device takes from such a ring: fault and length of each.
fn taken(
    table: &[Desc],
    indirect: &[Desc],
    heads: &[u16],
) -> Result<Vec<(Option<DropReason>, u32)>, RingError> {
    let mut driver = driver(table, indirect, heads);
    let mut burst = Burst::default();
    driver.ring.take(&mut burst)?;
    let frames = burst.frames[..burst.count].iter().map(|frame| (frame.fault, frame.len)).collect();
    driver.ring.complete(&burst, u64::MAX);
    driver.ring.publish();
    assert_eq!(usize::from(driver.used_index()), burst.count, "a broken chain is given back too");
    driver.ram.check_canaries();
    Ok(frames)
}

fn put(table: &[Desc], indirect: &[Desc], heads: &[u16], len: usize) -> Result<Put, RingError> {
    let mut driver = driver(table, indirect, heads);
    let result = driver.ring.put(&NetHeader::default(), &vec![7; len], &[], len as u32);
    driver.ram.check_canaries();
    result
}

#[test]
fn h06_an_available_index_that_jumps_stops_the_queue() {
    let mut driver = driver(&[], &[], &[0]);
    for index in [9, 1000, 0x8000, 0xffff] {
        driver.ram.set_word(AVAIL + 2, index);
        let jump = Err(RingError::AvailableJump(index, 8));
        assert_eq!(driver.ring.take(&mut Burst::default()), jump);
        for _ in 0..3 {
            let put = driver.ring.put(&NetHeader::default(), &[7; 60], &[], 60);
            assert_eq!(put.map(|_| ()), jump, "again and again, whoever tries");
        }
    }
}

#[test]
fn h06_a_head_outside_the_table_stops_the_queue() {
    for head in [8, 9, 0xffff] {
        assert_eq!(taken(&[(BUFFERS, 100, 0, 0)], &[], &[0, head]), Err(RingError::BadIndex(head, 8)));
        assert_eq!(put(&[], &[], &[head], 60), Err(RingError::BadIndex(head, 8)));
    }
    let second = put(&[(BUFFERS, 64, WRITE, 0)], &[], &[0, 8], 60);
    assert_eq!(second, Err(RingError::BadIndex(8, 8)), "the second of two mergeable buffers");
}

#[test]
fn h06_a_head_that_is_available_twice_is_two_frames() {
    let frames = taken(&[(BUFFERS, 100, 0, 0)], &[], &[0, 0]);
    assert_eq!(frames, Ok(vec![(None, 88), (None, 88)]));
}

#[test]
fn h07_h08_h09_h10_a_broken_chain_is_one_frame_with_a_fault() {
    let (b, t) = (BUFFERS, TABLES);
    let good = (b, 100, 0, 0);
    let whole = |desc: Desc| vec![desc];
    let cases = [
        ("loop of two", vec![(b, 10, NEXT, 1), (b, 10, NEXT, 0)], vec![], MALFORMED),
        ("loop of one, empty", whole((b, 0, NEXT, 0)), vec![], MALFORMED),
        ("next outside the table", whole((b, 10, NEXT, 8)), vec![], MALFORMED),
        ("unmapped", whole((0x9000_0000, 100, 0, 0)), vec![], MALFORMED),
        ("end beyond memory", whole((0x30_7fff, 2, 0, 0)), vec![], MALFORMED),
        ("address plus length wraps", whole((u64::MAX - 10, 100, 0, 0)), vec![], MALFORMED),
        ("four gigabytes", whole((b, u32::MAX, 0, 0)), vec![], MALFORMED),
        ("writable", whole((b, 100, WRITE, 0)), vec![], MALFORMED),
        ("writable after readable", vec![(b, 100, NEXT, 1), (b, 9, WRITE, 0)], vec![], MALFORMED),
        ("table of half an entry", whole((t, 24, INDIRECT, 0)), whole(good), MALFORMED),
        ("empty table", whole((t, 0, INDIRECT, 0)), whole(good), MALFORMED),
        ("table of 64 Ki entries", whole((t, 1 << 20, INDIRECT, 0)), whole(good), MALFORMED),
        ("unmapped table", whole((0x9000_0000, 16, INDIRECT, 0)), vec![], MALFORMED),
        ("table over two regions", whole((0x10_0ff8, 16, INDIRECT, 0)), vec![], MALFORMED),
        ("table with next", whole((t, 16, INDIRECT | NEXT, 1)), whole(good), MALFORMED),
        ("table in a table", whole((t, 16, INDIRECT, 0)), whole((t, 16, INDIRECT, 0)), MALFORMED),
        ("loop in a table", whole((t, 16, INDIRECT, 0)), whole((b, 1, NEXT, 0)), MALFORMED),
        ("next outside a table", whole((t, 16, INDIRECT, 0)), whole((b, 1, NEXT, 1)), MALFORMED),
        ("no buffer", whole((b, 0, 0, 0)), vec![], Some(DropReason::BadHeader)),
        ("empty with a bad address", whole((1, 0, 0, 0)), vec![], Some(DropReason::BadHeader)),
        ("half a header", whole((b, 11, 0, 0)), vec![], Some(DropReason::BadHeader)),
        ("too long", vec![(0x10_8000, 65_560, NEXT, 1), good], vec![], Some(DropReason::FrameTooLong)),
    ];
    for (name, table, indirect, fault) in cases {
        // The good chain after it is not harmed.
        let mut table = table;
        table.resize(7, (b, 0, 0, 0));
        table.push(good);
        let frames = taken(&table, &indirect, &[0, 7]);
        assert_eq!(frames, Ok(vec![(fault, 0), (None, 88)]), "{name}");
    }
}

#[test]
fn h10_a_header_over_many_buffers_and_a_header_alone_are_frames() {
    let (b, piece) = (BUFFERS, |i: u16, len| (BUFFERS + 4 * u64::from(i), len, NEXT, i + 1));
    let scattered = [piece(0, 1), piece(1, 1), piece(2, 4), piece(3, 0), (b + 32, 66, 0, 0)];
    assert_eq!(taken(&scattered, &[], &[0]), Ok(vec![(None, 60)]));
    assert_eq!(taken(&[(b, 12, 0, 0)], &[], &[0]), Ok(vec![(None, 0)]));
}

#[test]
fn h09_h13_a_receive_chain_that_cannot_be_written_stops_the_queue() {
    let (b, t) = (BUFFERS, TABLES);
    let bad = |addr, len| RingError::BadAddress(addr, len);
    assert_eq!(put(&[(b, 2000, 0, 0)], &[], &[0], 60), Err(RingError::ReadOnly(0)));
    assert_eq!(put(&[(b, 9, WRITE | NEXT, 1), (b, 200, 0, 0)], &[], &[0], 60), Err(RingError::ReadOnly(1)));
    assert_eq!(put(&[(0x9000_0000, 2000, WRITE, 0)], &[], &[0], 60), Err(bad(0x9000_0000, 2000)));
    // A buffer that begins inside memory and ends outside: whether or not the frame would fit before the end.
    assert_eq!(put(&[(0x30_7f00, 2000, WRITE, 0)], &[], &[0], 60), Err(bad(0x30_8000, 2000 - 256)));
    assert_eq!(put(&[(t, 16, INDIRECT, 0)], &[(b, 200, 0, 0)], &[0], 60), Err(RingError::ReadOnly(0)));
    let looped = [(b, 1, WRITE | NEXT, 1), (b, 1, WRITE | NEXT, 0)];
    assert_eq!(put(&looped, &[], &[0], 60), Err(RingError::ChainTooLong(8)));
}

#[test]
fn h13_buffers_that_never_hold_the_frame_are_too_small_not_full() {
    let small: Vec<Desc> = (0..8).map(|i| (BUFFERS + 64 * i, 16, WRITE, 0)).collect();
    let heads: Vec<u16> = (0..8).collect();
    assert_eq!(put(&small, &[], &heads, 116), Ok(Put::Done));
    assert_eq!(put(&small, &[], &heads, 117), Ok(Put::TooSmall));
    assert_eq!(put(&small, &[], &heads[..7], 116), Ok(Put::Full));
    assert_eq!(put(&[(BUFFERS, 0, WRITE, 0)], &[], &[0], 60), Ok(Put::TooSmall));
}

#[test]
fn h01_h03_a_ring_that_is_not_wholly_in_aligned_memory_does_not_start() {
    let memory = Driver::new(8, SHAPE, 0).ram;
    let good = RingPlace { size: 8, desc: DESC, avail: AVAIL, used: USED };
    let start = |place| SplitRing::default().start(Arc::clone(&memory.memory), place, SHAPE);
    assert_eq!(start(good), Ok(()));
    for size in [0, 3, 7, 1000, 2048, 65_535] {
        assert_eq!(start(RingPlace { size, ..good }), Err(RingError::BadSize(size)));
    }
    // Misaligned, unmapped, at the end of the address space, over the end of a region and of memory.
    for desc in [DESC + 8, 0x9000_0000, u64::MAX - 15, 0x10_0f90, 0x30_7fe0] {
        let error = start(RingPlace { desc, ..good });
        assert_eq!(error, Err(RingError::BadRing("descriptor table", desc)));
    }
    for avail in [AVAIL + 1, 0, u64::MAX - 1, 0x10_0ffe] {
        assert_eq!(start(RingPlace { avail, ..good }), Err(RingError::BadRing("available ring", avail)));
    }
    for used in [USED + 2, 0, u64::MAX - 3, 0x10_0ffc] {
        assert_eq!(start(RingPlace { used, ..good }), Err(RingError::BadRing("used ring", used)));
    }
}

#[test]
fn h03_a_ring_aligned_for_the_guest_but_not_for_us_does_not_start() {
    // The front end chooses where a region begins, so even addresses can be odd ones here.
    let ram = GuestRam::from_ranges(&[(GuestAddress(0x1_0001), 0x1_0000)]).unwrap();
    let memory = Arc::new(Memory::new(Arc::new(ram), None).unwrap());
    let place = RingPlace { size: 8, desc: 0x1_1000, avail: 0x1_2000, used: 0x1_3000 };
    let started = SplitRing::default().start(memory, place, SHAPE);
    assert!(matches!(started, Err(RingError::BadRing(_, _))), "{started:?}");
}

#[test]
fn h07_a_chain_of_more_pieces_than_a_burst_holds_is_refused_after_a_restart_too() {
    // Sixteen regions of one byte: a buffer over all of them is sixteen pieces.
    let tiny = (0..16).map(|i| (GuestAddress(BUFFERS + i), 1));
    let ranges: Vec<_> = tiny.chain([(GuestAddress(DESC), 0x1_0000)]).collect();
    let mut sorted = ranges;
    sorted.sort();
    let ram = GuestRam::from_ranges(&sorted).unwrap();
    for index in 0..300u64 {
        let flags = if index < 299 { NEXT } else { 0 };
        let word = 16 | u64::from(flags) << 32 | (index + 1) << 48;
        ram.write_obj(BUFFERS, GuestAddress(DESC + 16 * index)).unwrap();
        ram.write_obj(word, GuestAddress(DESC + 16 * index + 8)).unwrap();
    }
    let memory = Arc::new(Memory::new(Arc::new(ram.clone()), None).unwrap());
    let place = RingPlace { size: 1024, desc: DESC, avail: AVAIL, used: USED };
    let mut ring = SplitRing::default();
    let mut burst = Burst::default();
    for round in 1..5u16 {
        ring.start(Arc::clone(&memory), place, SHAPE).unwrap();
        ram.write_obj(round, GuestAddress(AVAIL + 2)).unwrap();
        burst.clear();
        ring.take(&mut burst).unwrap();
        assert_eq!((burst.count, burst.frames[0].fault), (1, MALFORMED), "round {round}");
        ring.complete(&burst, 1);
        ring.stop();
    }
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
    let rest =
        (prop_oneof![0u32..200, Just(u32::MAX), any::<u32>()], 0u16..8, prop_oneof![0u16..20, any::<u16>()])
            .prop_map(|(len, flags, next)| u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48);
    prop::collection::vec((any::<u16>(), prop_oneof![address, rest]), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_guest_memory_makes_the_ring_leave_it(
        rings in words(),
        tables in words(),
        heads in prop::collection::vec(prop_oneof![9 => 0u16..16, 1 => any::<u16>()], 0..40),
        moves in prop::collection::vec((0u16..20, any::<u64>(), 1usize..3000), 1..20),
        (event_idx, indirect, mergeable) in any::<(bool, bool, bool)>(),
    ) {
        let mut driver = Driver::new(16, RingShape { event_idx, indirect, mergeable, header_len: 12, ..SHAPE }, 0);
        for (at, table, places) in [(DESC, &rings, 32), (TABLES, &tables, 64)] {
            for (place, word) in table {
                driver.ram.write(at + 8 * u64::from(place % places), &word.to_le_bytes());
            }
        }
        let mut burst = Burst::default();
        let frame = vec![9; 3000];
        let mut avail = 0u16;
        for (step, finished, len) in moves {
            for (slot, head) in heads.iter().enumerate() {
                driver.ram.set_word(AVAIL + 4 + 2 * (slot as u64 % 16), *head);
            }
            avail = avail.wrapping_add(step);
            driver.ram.set_word(AVAIL + 2, avail);
            burst.clear();
            let taken = driver.ring.take(&mut burst);
            if taken.is_ok() {
                for index in 0..burst.count {
                    let frame = &burst.frames[index];
                    let rest: usize = burst.rest(index).iter().map(|span| span.len as usize).sum();
                    prop_assert!(burst.rest(index).iter().all(|span| driver.ram.contains(span)));
                    if frame.fault.is_none() {
                        prop_assert_eq!(frame.head().len() + rest, frame.len as usize);
                    }
                }
                driver.ring.complete(&burst, finished);
                driver.ring.publish();
            }
            let rest = Span { ptr: frame[len / 2..].as_ptr().cast_mut(), len: (len - len / 2) as u32 };
            let put = driver.ring.put(&NetHeader::default(), &frame[..len / 2], &[rest], len as u32);
            driver.ring.publish();
            driver.ring.arm();
            if taken.is_err() || put.is_err() {
                driver.ring.stop();
                driver.start();
                avail = driver.used_index();
            }
        }
        driver.ram.check_canaries();
    }
}
