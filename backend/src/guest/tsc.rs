//! The worker's clock: the CPU's time-stamp counter, calibrated once against the system's monotonic clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

struct Calibration {
    base: u64,
    /// Nanoseconds per 2^32 cycles.
    scale: u64,
}

/// The time-stamp counter now, in cycles.
#[inline]
pub fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `rdtsc` exists on every x86-64 CPU and has no memory effects.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

fn calibration() -> &'static Calibration {
    static CALIBRATION: OnceLock<Calibration> = OnceLock::new();
    CALIBRATION.get_or_init(|| {
        let (base, started) = (cycles(), Instant::now());
        std::thread::sleep(Duration::from_millis(20));
        let (ticks, elapsed) = (cycles() - base, started.elapsed().as_nanos());
        Calibration { base, scale: ((elapsed << 32) / u128::from(ticks.max(1))) as u64 }
    })
}

/// Where the clock begins: late enough that what another process last saw hours ago has a time on it.
const EPOCH: u64 = 30 * 24 * 3600 * 1_000_000_000;

/// Converts a reading of `cycles` into nanoseconds, thirty days of them when the process began to measure.
#[inline]
pub fn nanos(cycles: u64) -> u64 {
    let calibration = calibration();
    EPOCH + ((u128::from(cycles.wrapping_sub(calibration.base)) * u128::from(calibration.scale)) >> 32) as u64
}
