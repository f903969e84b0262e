//! Size of a state, and how long it takes to write and to read.
//!
//!     cargo test --release -p turnpike-migration --test figures -- --ignored --nocapture

mod common;

use std::hint::black_box;
use std::time::Instant;

use common::large;
use migration::format::{decode, encode};
use migration::seal::{FleetKey, Freshness, open, seal};

/// Median milliseconds of some work.
fn median<T>(mut work: impl FnMut() -> T) -> f64 {
    let mut times: Vec<f64> = (0..51)
        .map(|_| {
            let begin = Instant::now();
            black_box(work());
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn s20_2_ten_thousand_sessions_are_small_and_quick() {
    let state = large(10_000, 1_000);
    let key = FleetKey::from_bytes(&[7; 32]).unwrap();
    let bytes = encode(&state).unwrap();
    let sealed = seal(&bytes, Some(&key));
    let read = || open(&sealed, Some(&key), &state.identity, 0, state.epoch, Freshness::Live);
    assert!(read().is_ok());
    println!("10,000 sessions, 1,000 ACL entries: {} bytes sealed", sealed.len());
    println!("encode {:.3} ms, decode {:.3} ms", median(|| encode(&state)), median(|| decode(&bytes)));
    println!("seal {:.3} ms, open {:.3} ms", median(|| seal(&bytes, Some(&key))), median(read));
    assert!(sealed.len() < 2 << 20);
}
