//! Seeded hashing of addresses and flow keys.
//!
//! Keys are chosen by guests, so every table takes a secret seed: without it nobody can aim keys at one bucket.

use std::hash::{BuildHasher, Hasher};

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd6e8_feb8_6659_fd93;

/// Both halves of the 128-bit product folded into one: every input bit reaches every output bit.
#[inline]
pub(crate) const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Spreads one seed into as many independent ones as a table needs (`SplitMix64`).
pub(crate) const fn expand(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(K0.wrapping_mul(index + 1));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Hash of one 64-bit value under a seed.
#[inline]
pub(crate) const fn mix(seed: u64, value: u64) -> u64 {
    fold(fold(value ^ seed, K0) ^ seed.rotate_left(32), K1)
}

/// Hasher of integer keys for the standard maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeded(pub(crate) u64);

impl BuildHasher for Seeded {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(self.0)
    }
}

/// State of [`Seeded`].
#[derive(Debug)]
pub(crate) struct SeededHasher(u64);

impl Hasher for SeededHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = mix(self.0, u64::from(byte));
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = mix(mix(self.0, value as u64), (value >> 64) as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0, value);
    }
}
