//! Prints what looking up a lookup record costs among a million of them, and what they take and their changes cost.
//!
//! Records of 10,000 virtual subnets with a hundred guests each, on a thousand hosts. *Hot* are look-ups of 64 records again and again, *warm*
//! ones of 4,096 in random order; *cold* ones are of any record, each once until all had their turn; *changed* is a record that names another host.
//! One JSON object on standard output; nanoseconds are medians of many batches that are shorter than a time slice, so that other processes
//! do not count.

use std::hint::black_box;
use std::time::Instant;

use backend::guest::huge::HugePages;
use vswitch::Mac;
use vswitch::nv::model::{Encap, Kind, Record};
use vswitch::nv::records::{Change, Of, Records};

const RECORDS: u32 = 1 << 20;
const WARM: usize = 4096;
const BATCHES: usize = 501;

/// As the switch has it.
#[global_allocator]
static MEMORY: HugePages = HugePages;

fn main() {
    let records = Records::new(1, RECORDS);
    for n in 0..RECORDS {
        assert_eq!(records.upsert(1, &record(n, 0), false), Change::New);
    }
    // Each once, in an order without pattern: an odd multiplier makes every number of a power of two.
    let all: Vec<(u32, Of)> = (0..RECORDS).map(|n| key(n.wrapping_mul(0x9e37_79b1) % RECORDS)).collect();
    let few: Vec<(u32, Of)> = all.iter().copied().cycle().step_by(16).take(64).collect();
    let hot: Vec<(u32, Of)> = few.iter().copied().cycle().take(WARM).collect();
    let warm: Vec<(u32, Of)> = all.iter().copied().take(WARM).collect();
    let again = |wanted: &[(u32, Of)]| median((0..BATCHES).map(|_| timed(&records, wanted)).collect());
    let (hot, warm) = (again(&hot), again(&warm));
    let cold = median(all.chunks(WARM).map(|batch| timed(&records, batch)).collect());
    let changed = median((1..RECORDS / 256).step_by(16).map(|batch| change(&records, batch)).collect());
    println!(
        "{{\"hot_ns\": {hot:.1}, \"warm_ns\": {warm:.1}, \"cold_ns\": {cold:.1}, \"changed_ns\": {changed:.1}, \"bytes_a_record\": {}}}",
        records.bytes() / RECORDS as usize
    );
}

/// A record whose guest is at another host in each round.
fn record(n: u32, round: u32) -> Record {
    let [_, a, b, c] = n.to_be_bytes();
    let host = (n + round) % 1000;
    Record {
        vsid: 4096 + n / 100,
        ca: [10, a, b, c].into(),
        mac: Mac([2, 0, 0, a, b, c]),
        pa: [192, 168, (host >> 8) as u8, host as u8].into(),
        kind: Kind::Static,
        encap: Encap::Nvgre,
        rewrite_pa: None,
        next: None,
    }
}

fn key(n: u32) -> (u32, Of) {
    let Record { vsid, ca, .. } = record(n, 0);
    (vsid, Of::Address(ca))
}

/// Looks all of these up; nanoseconds each.
fn timed(records: &Records, wanted: &[(u32, Of)]) -> f64 {
    let began = Instant::now();
    for &(vsid, of) in wanted {
        assert!(black_box(records.find(vsid, of)).is_some(), "it is there");
    }
    nanos(began, wanted.len())
}

/// Changes 256 records, far apart; nanoseconds each.
fn change(records: &Records, batch: u32) -> f64 {
    let changes: Vec<Record> = (0..256).map(|n| record((n << 12 | batch) % RECORDS, 1)).collect();
    let began = Instant::now();
    for change in &changes {
        assert!(matches!(records.upsert(2, change, false), Change::Moved { .. }));
    }
    nanos(began, changes.len())
}

fn nanos(since: Instant, count: usize) -> f64 {
    since.elapsed().as_secs_f64() * 1e9 / f64::from(count as u32)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
