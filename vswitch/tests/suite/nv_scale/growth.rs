//! A table of lookup records that grows while others read it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vswitch::Mac;
use vswitch::nv::model::{Encap, Kind, Record};
use vswitch::nv::records::{Change, Of, Records};

fn record(n: u32) -> Record {
    let [_, a, b, c] = n.to_be_bytes();
    let mac = Mac([2, 0, 0, a, b, c]);
    let (ca, pa) = ([10, a, b, c].into(), [192, 168, 0, c].into());
    Record {
        vsid: 4096 + n % 7,
        ca,
        mac,
        pa,
        kind: Kind::Static,
        encap: Encap::Nvgre,
        rewrite_pa: None,
        next: None,
    }
}

fn fill(records: &Records, which: std::ops::Range<u32>) {
    for n in which {
        assert_eq!(records.upsert(1, &record(n), false), Change::New);
    }
}

#[test]
fn s14_2_readers_miss_no_record_while_the_table_grows() {
    const KNOWN: u32 = 64;
    let looked = AtomicU64::new(0);
    for seed in 0..40 {
        let records = Records::new(seed, 1 << 20);
        fill(&records, 0..KNOWN);
        let (stop, ready) = (AtomicBool::new(false), AtomicBool::new(false));
        let read = || {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                for n in 0..KNOWN {
                    let known = record(n);
                    let found = records.find(known.vsid, Of::Address(known.ca));
                    assert_eq!(found.map(|(_, view)| view.mac), Some(known.mac));
                }
                ready.store(true, Ordering::Relaxed);
                count += u64::from(KNOWN);
            }
            looked.fetch_add(count, Ordering::Relaxed);
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(read);
            while !ready.load(Ordering::Relaxed) && !reader.is_finished() {
                std::thread::yield_now();
            }
            // From here on the chains of all that is known are divided again and again.
            fill(&records, KNOWN..10_000);
            stop.store(true, Ordering::Relaxed);
        });
    }
    assert!(looked.into_inner() > 10_000);
}

#[test]
fn s14_2_a_table_with_room_for_a_million_takes_memory_for_what_is_in_it() {
    for (count, most) in [(0, 20_000), (100, 40_000), (4000, 120 * 4000), (100_000, 110 * 100_000)] {
        let mut records = None;
        let used = allocation_counter::measure(|| {
            let table = Records::new(1, 1 << 20);
            fill(&table, 0..count);
            records = Some(table);
        });
        let told = records.map_or(0, |records| records.bytes());
        assert!(used.bytes_current < most, "{} bytes for {count} records", used.bytes_current);
        let told = i64::try_from(told).expect("a number of bytes");
        assert!((told - used.bytes_current).abs() < used.bytes_current / 20 + 4096, "{told} is what it says");
    }
}
