//! Prints how many nanoseconds one cache line needs from one CPU to another, one way.
//!
//! Two threads pass a counter to and fro. On a virtual machine the answer changes with the host's placement of the CPUs, and with it every
//! figure of a switch whose generator runs on the other CPU; `compare.sh` notes it beside each round. Median of 21 short windows.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const WINDOWS: usize = 21;
const ROUNDS: u32 = 20_000;
const STOP: u64 = u64::MAX;

fn main() {
    let ball = AtomicU64::new(0);
    let mut windows = [0.0_f64; WINDOWS];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Answers every odd number with the next even one.
            loop {
                match ball.load(Ordering::Acquire) {
                    STOP => return,
                    n if n % 2 == 1 => ball.store(n + 1, Ordering::Release),
                    _ => spin_loop(),
                }
            }
        });
        let mut next = 0;
        for window in &mut windows {
            let began = Instant::now();
            for _ in 0..ROUNDS {
                ball.store(next + 1, Ordering::Release);
                next += 2;
                while ball.load(Ordering::Acquire) != next {
                    spin_loop();
                }
            }
            *window = began.elapsed().as_secs_f64() * 1e9 / f64::from(2 * ROUNDS);
        }
        ball.store(STOP, Ordering::Release);
    });
    windows.sort_by(f64::total_cmp);
    println!("{:.0}", windows[WINDOWS / 2]);
}
