//! Packed rings: random traffic both ways against a model, where a ring continues, and drivers that break the rules.

mod driver;
mod hostile;
mod log;
mod place;
mod receive;
mod transmit;

use proptest::prelude::*;

/// Ring sizes worth trying; a packed ring's need not be powers of two.
fn sizes() -> impl Strategy<Value = u16> {
    proptest::sample::select(vec![1, 2, 3, 4, 7, 16, 64, 100, 256, 1000, 1024])
}

/// Where a ring begins, in quarters of a lap.
fn firsts() -> impl Strategy<Value = u64> {
    0u64..12
}
