//! Guests whose lookup record somebody ought to ask the policy store for: the data path came to need it, or was told that what it has is old.
//!
//! Nothing waits for the answer. What is asked for is bounded, by virtual subnet and altogether, and asked for again only after [`AGAIN`]: a
//! guest that tries every address costs its own virtual subnet's share and no more. In virtual subnets that are known whole, a record that is
//! missing does not exist, and nobody is asked.
//!
//! Threading: any thread; the data path never waits for the lock, it does without.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::records::Of;
use crate::Nanos;
use crate::hash::Seeded;

/// What is remembered to have been asked for, at most.
pub const LIMIT: usize = 4096;

/// Of that for one virtual subnet.
pub const SHARE: usize = 64;

/// How long until the same is asked for again, in nanoseconds.
pub const AGAIN: Nanos = 1_000_000_000;

/// A guest's record: its virtual subnet, and what it is found by.
pub type Want = (u32, Of);

/// What is to be asked for.
#[derive(Debug)]
pub struct Wanted(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// Virtual subnets whose records are all known; `None` = all virtual subnets are.
    whole: Option<HashSet<u32, Seeded>>,
    asked: HashMap<Want, Nanos, Seeded>,
    shares: HashMap<u32, usize, Seeded>,
    waiting: Vec<Want>,
}

impl Inner {
    fn forget(&mut self, now: Nanos) {
        let shares = &mut self.shares;
        self.asked.retain(|(vsid, _), &mut at| {
            let stays = now.saturating_sub(at) < AGAIN;
            if !stays && let Some(share) = shares.get_mut(vsid) {
                *share -= 1;
            }
            stays
        });
        self.shares.retain(|_, &mut share| share > 0);
    }

    fn want(&mut self, want: Want, now: Nanos) {
        if self.asked.contains_key(&want) || self.asked.len() >= LIMIT {
            return;
        }
        let share = self.shares.entry(want.0).or_default();
        if *share < SHARE {
            *share += 1;
            self.asked.insert(want, now);
            self.waiting.push(want);
        }
    }
}

impl Wanted {
    pub(super) fn new(seed: u64) -> Self {
        let hasher = Seeded(seed);
        Self(Mutex::new(Inner {
            whole: None,
            asked: HashMap::with_capacity_and_hasher(LIMIT, hasher),
            shares: HashMap::with_capacity_and_hasher(LIMIT, hasher),
            waiting: Vec::with_capacity(LIMIT),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves at worst a share too high, until that is forgotten.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says of which virtual subnets all records are known; `None` = of all there are.
    pub fn set_whole(&self, whole: Option<impl IntoIterator<Item = u32>>) {
        let mut inner = self.inner();
        let hasher = *inner.asked.hasher();
        inner.whole = whole.map(|whole| {
            let mut set = HashSet::with_hasher(hasher);
            set.extend(whole);
            set
        });
    }

    /// The data path found no record.
    pub fn missed(&self, want: Want, now: Nanos) {
        if let Some(mut inner) = self.at_once()
            && inner.whole.as_ref().is_some_and(|whole| !whole.contains(&want.0))
        {
            inner.want(want, now);
        }
    }

    /// Somebody said that a record is not what it was.
    pub fn doubted(&self, want: Want, now: Nanos) {
        if let Some(mut inner) = self.at_once() {
            inner.want(want, now);
        }
    }

    fn at_once(&self) -> Option<MutexGuard<'_, Inner>> {
        match self.0.try_lock() {
            Ok(inner) => Some(inner),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// What is to be asked for now, each once. To be called a few times a second.
    pub fn take(&self, now: Nanos) -> Vec<Want> {
        let mut inner = self.inner();
        let taken = inner.waiting.split_off(0);
        inner.forget(now);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = 5_000_000_000;

    fn wanted() -> Wanted {
        Wanted::new(7)
    }

    fn address(n: u32) -> Of {
        Of::Address(std::net::Ipv4Addr::from(0x0a00_0000 + n).into())
    }

    #[test]
    fn s14_9_what_is_missing_is_asked_for_once_a_second() {
        let wanted = wanted();
        wanted.set_whole(Some([]));
        for _ in 0..3 {
            wanted.missed((5001, address(1)), NOW);
        }
        assert_eq!(wanted.take(NOW), [(5001, address(1))]);
        wanted.missed((5001, address(1)), NOW + 1);
        assert_eq!(wanted.take(NOW + AGAIN), []);
        wanted.missed((5001, address(1)), NOW + AGAIN);
        assert_eq!(wanted.take(NOW + AGAIN), [(5001, address(1))]);
    }

    #[test]
    fn s14_9_where_all_records_are_known_only_doubt_asks() {
        let wanted = wanted();
        wanted.missed((5001, address(1)), NOW);
        wanted.set_whole(Some([5001]));
        wanted.missed((5001, address(1)), NOW);
        assert_eq!(wanted.take(NOW), []);
        wanted.missed((5002, address(1)), NOW);
        wanted.doubted((5001, address(1)), NOW);
        assert_eq!(wanted.take(NOW), [(5002, address(1)), (5001, address(1))]);
    }

    #[test]
    fn h30_a_guest_that_tries_every_address_costs_its_own_share() {
        let wanted = wanted();
        wanted.set_whole(Some([]));
        for n in 0..100_000 {
            wanted.missed((5001, address(n)), NOW);
        }
        wanted.missed((5002, address(1)), NOW);
        let asked = wanted.take(NOW);
        assert_eq!(asked.len(), SHARE + 1);
        assert_eq!(asked.last(), Some(&(5002, address(1))));
        // Over time, too: what was asked for counts until it may be asked for again.
        wanted.missed((5001, address(200_000)), NOW + 1);
        assert_eq!(wanted.take(NOW + 1), []);
        for vsid in 0..100_000 {
            wanted.missed((vsid, address(1)), NOW + 2 * AGAIN);
        }
        assert!(wanted.take(NOW + 2 * AGAIN).len() <= LIMIT);
    }
}
