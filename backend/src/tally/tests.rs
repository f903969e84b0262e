//! Counters over restarts, zero points, damage and full disks.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

const A: Tally = Tally(1);
const LAST: Tally = Tally(MAX_TALLIES - 1);

fn open(directory: &Path, workers: usize) -> Tallies {
    Tallies::open(Some(directory), workers).unwrap()
}

fn refused(directory: &Path) -> String {
    Tallies::open(Some(directory), 1).expect_err("refused").to_string()
}

/// What a page of the mapping holds does not depend on the process: closing without a word is what SIGKILL does.
#[test]
fn counts_are_there_after_opening_again_with_any_number_of_workers() {
    let directory = tempfile::tempdir().unwrap();
    let mut expected = (0, 0);
    for workers in [2, 2, 1, 5, 3] {
        let tallies = open(directory.path(), workers);
        assert_eq!((tallies.read(A), tallies.read(LAST)), (expected, expected));
        for tally in [A, LAST] {
            tallies.ensure(tally).unwrap();
            (0..workers).for_each(|w| tallies.worker(w).unwrap().add(tally, 1, 100));
        }
        expected = (expected.0 + workers as u64, expected.1 + 100 * workers as u64);
        assert_eq!((tallies.read(A), tallies.read(LAST)), (expected, expected));
        assert!(tallies.worker(workers).is_none());
    }
    assert_eq!(expected, (13, 1300));
}

#[test]
fn port_counters_survive_and_are_cleared_for_the_next_port_of_the_number() {
    let directory = tempfile::tempdir().unwrap();
    let id = PortId(1024);
    {
        let tallies = open(directory.path(), 2);
        tallies.ensure_port(id).unwrap();
        let worker = tallies.worker(1).unwrap();
        worker.count(id, Cell::OutBytes, 60);
        worker.count(id, Cell::InDrops(DropReason::MalformedDescriptor), 3);
    }
    let tallies = open(directory.path(), 1);
    let counters = tallies.port(id);
    assert_eq!((counters.out_bytes, counters.in_drops), (60, vec![(DropReason::MalformedDescriptor, 3)]));
    tallies.clear_port(id);
    let counters = tallies.port(id);
    assert_eq!((counters.out_bytes, counters.in_drops), (0, vec![]));
    assert!(tallies.ensure_port(PortId(1025)).is_err());
}

#[test]
fn drop_counts_keep_their_reason_when_reasons_are_renumbered() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    let (short, dhcp) = (DropReason::FrameTooShort, DropReason::DhcpGuard);
    {
        let tallies = open(directory.path(), 1);
        tallies.ensure_port(PortId(1)).unwrap();
        let worker = tallies.worker(0).unwrap();
        worker.count(PortId(1), Cell::OutDrops(short), 7);
        worker.count(PortId(1), Cell::OutDrops(dhcp), 8);
        worker.count(PortId(1), Cell::InDrops(dhcp), 9);
        worker.count(PortId(1), Cell::InBytes, 10);
    }
    // As another version wrote it: the first reason is one that we do not know, and dhcp-guard has the number of the second.
    let mut header = layout::Header::new(1);
    header.reasons[short as usize] = "long-gone".into();
    header.reasons.swap(1, dhcp as usize);
    header.reasons[dhcp as usize] = short.name().into();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&header.encode(), 0).unwrap();
    let counters = open(directory.path(), 1).port(PortId(1));
    assert_eq!(counters.out_drops, [(short, 8)]);
    assert_eq!(counters.in_drops, [(short, 9)]);
    assert_eq!(counters.in_bytes, 10);
}

#[test]
fn a_damaged_or_foreign_file_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    drop(open(directory.path(), 1));
    let good = std::fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    let mut newer = good.clone();
    newer[8] = 9;
    for (bytes, reason) in [
        (&b"hello"[..], "it does not begin as a counters file does"),
        (&[], "it does not begin as a counters file does"),
        (&flipped, "the checksum of its header is wrong"),
        (&good[..good.len() - 1], "its length does not match its number of workers"),
        (&newer, "the store has format 9, this version knows format 1"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let line = refused(directory.path());
        assert!(line.contains(reason) && line.contains("counters"), "{line}");
        assert!(std::fs::read(&path).unwrap() == bytes);
    }
}

#[test]
fn a_zero_point_behind_the_counts_of_a_power_cut_is_no_debt() {
    let directory = tempfile::tempdir().unwrap();
    {
        let tallies = open(directory.path(), 1);
        tallies.ensure(A).unwrap();
        tallies.worker(0).unwrap().add(A, 5, 500);
        tallies.clear(A);
        // The worker's page did not reach the disk, the base section's did.
        let lost = tallies.mapping.number(layout::section(1) + tally_offset(A).unwrap()).unwrap();
        lost.store(0, Ordering::Relaxed);
    }
    let tallies = open(directory.path(), 1);
    assert_eq!(tallies.read(A), (0, 0));
    tallies.ensure(A).unwrap();
    tallies.worker(0).unwrap().add(A, 1, 60);
    assert_eq!(tallies.read(A), (1, 60));
}

#[test]
fn a_number_that_gets_no_room_is_refused_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let Tallies { mapping, workers, .. } = open(directory.path(), 1);
    // Room cannot be had through a descriptor that may only read.
    let file = Arc::new(File::open(directory.path().join(FILE)).unwrap());
    let region = Arc::into_inner(mapping).unwrap().region;
    let roomy = Mutex::new(vec![false; (SECTION / BLOCK) as usize]);
    let tallies = Tallies { mapping: Arc::new(Mapping { region, file }), directory: None, workers, roomy };
    assert!(tallies.ensure(A).is_err() && tallies.ensure(A).is_err());
    assert!(tallies.ensure_port(PortId(1)).is_err());
    assert_eq!(tallies.ensure(Tally(MAX_TALLIES)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn nobodys_numbers_count_nothing() {
    let tallies = Tallies::open(None, 1).unwrap();
    let worker = tallies.worker(0).unwrap();
    for tally in [Tally::NONE, Tally(MAX_TALLIES), Tally(u32::MAX)] {
        worker.add(tally, 1, 1);
        assert_eq!((tallies.read(tally), tallies.clear(tally)), ((0, 0), (0, 0)));
    }
}

#[test]
fn clearing_while_a_worker_counts_loses_and_doubles_nothing() {
    let tallies = Tallies::open(None, 1).unwrap();
    tallies.ensure(A).unwrap();
    let (worker, stop) = (tallies.worker(0).unwrap(), AtomicBool::new(false));
    let (counted, taken) = std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let mut packets = 0;
            while !stop.load(Ordering::Relaxed) {
                worker.add(A, 1, 60);
                packets += 1;
            }
            packets
        });
        let mut taken = (0, 0);
        for _ in 0..20_000 {
            let (packets, bytes) = tallies.clear(A);
            taken = (taken.0 + packets, taken.1 + bytes);
        }
        stop.store(true, Ordering::Relaxed);
        (counting.join().unwrap(), taken)
    });
    let (packets, bytes) = tallies.read(A);
    assert_eq!((taken.0 + packets, taken.1 + bytes), (counted, counted * 60));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_history_of_counts_zeroes_and_restarts_adds_up(
        steps in prop::collection::vec((0..6u8, 0..3usize, 0..4usize, 1..1000u64), 1..60)
    ) {
        const NUMBERS: [Tally; 4] = [Tally(1), Tally(2), Tally(70_000), LAST];
        let directory = tempfile::tempdir().unwrap();
        let mut model = [(0u64, 0u64); 4];
        let mut tallies = open(directory.path(), 3);
        for (step, worker, number, amount) in steps {
            match step {
                0 => tallies = {
                    drop(tallies);
                    open(directory.path(), 3 + worker)
                },
                1 => prop_assert_eq!(tallies.clear(NUMBERS[number]), std::mem::take(&mut model[number])),
                _ => {
                    tallies.ensure(NUMBERS[number]).unwrap();
                    tallies.worker(worker).unwrap().add(NUMBERS[number], amount, amount * 60);
                    model[number].0 += amount;
                    model[number].1 += amount * 60;
                }
            }
            for (tally, expected) in NUMBERS.iter().zip(model) {
                prop_assert_eq!(tallies.read(*tally), expected);
            }
        }
    }
}

/// Not a test of speed: it prints what a count costs (`--nocapture`), and fails only when the sum is wrong.
#[test]
fn a_million_counts_add_up() {
    let tallies = Tallies::open(None, 1).unwrap();
    for n in 0..1024 {
        tallies.ensure(Tally(n)).unwrap();
    }
    let worker = tallies.worker(0).unwrap();
    let start = Instant::now();
    for n in 0..1_000_000u32 {
        black_box(&worker).add(Tally(1 + (n & 255)), 1, 1500);
    }
    println!("{:.2} ns a count", start.elapsed().as_secs_f64() * 1e3);
    assert_eq!((1..=256).map(|n| tallies.read(Tally(n)).0).sum::<u64>(), 1_000_000);
}

#[test]
fn counts_of_another_switch_are_set_and_counted_on_from_there() {
    let tallies = Tallies::open(None, 2).unwrap();
    tallies.ensure(A).unwrap();
    let worker = tallies.worker(1).unwrap();
    worker.add(A, 5, 50);
    tallies.set(A, 1000, 70_000);
    assert_eq!(tallies.read(A), (1000, 70_000));
    worker.add(A, 1, 60);
    assert_eq!(tallies.read(A), (1001, 70_060));

    let (id, reason) = (PortId(3), DropReason::ALL[2]);
    tallies.ensure_port(id).unwrap();
    worker.count(id, Cell::InPackets, 9);
    let counters = PortCounters {
        out_packets: 1,
        out_bytes: 2,
        in_packets: 3,
        in_bytes: 4,
        out_drops: vec![(reason, 5)],
        in_drops: vec![(reason, 6)],
    };
    tallies.set_port(id, &counters);
    worker.count(id, Cell::InPackets, 1);
    let now = tallies.port(id);
    assert_eq!((now.out_packets, now.out_bytes, now.in_packets, now.in_bytes), (1, 2, 4, 4));
    assert_eq!((now.out_drops, now.in_drops), (counters.out_drops, counters.in_drops));
    tallies.clear_port(id);
    assert_eq!(tallies.port(id).in_packets, 0);
}
