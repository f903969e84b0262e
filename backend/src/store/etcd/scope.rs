//! One part of the store that is followed, and what is known of it: up to which revision, and which keys are known further than that.
//!
//! A key that was looked up is known as it was at the revision of the answer. What its watch says later of an earlier revision must not undo
//! that, and an answer that is older than what the watch has said is none ([`Followed::answers`], [`Followed::admits`]).
//!
//! A virtual subnet that is too large for the table of records is followed in part: its watch keeps those records right that were looked up,
//! and of these there are at most [`PARTIAL`].
//!
//! No I/O, no clock.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::time::Instant;

use super::keys::Scope;
use crate::control::nv::object::RecordKey;

/// Records that are known of a virtual subnet that is followed in part, at most.
pub(super) const PARTIAL: usize = 4096;

/// How a part is followed.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Up to here everything is applied; 0 = it is to be read.
    pub(super) revision: i64,
    /// The number of its watch; 0 = it has none.
    pub(super) watch: i64,
    /// Whether its records are more than there is room for: only those are followed that were looked up.
    pub(super) partial: bool,
    /// Whether there was no room for one of its records.
    pub(super) lacking: bool,
    /// Until when it is followed although nobody needs it.
    pub(super) leaves: Option<Instant>,
    /// Keys that are known further, or, in part, at all, and as of when.
    ahead: HashMap<RecordKey, i64>,
    /// The same keys in the order in which they came, if it is followed in part.
    order: VecDeque<RecordKey>,
}

impl Followed {
    /// Whether all that it has is known.
    pub(super) fn is_whole(&self) -> bool {
        self.revision != 0 && !self.partial && !self.lacking
    }

    /// It is to be read again.
    pub(super) fn again(&mut self) {
        if self.partial {
            self.anew();
        }
        (self.revision, self.watch, self.lacking) = (0, 0, false);
    }

    /// It is to be read, and nothing that is known of it holds.
    pub(super) fn anew(&mut self) {
        *self = Self { leaves: self.leaves, ..Self::default() };
    }

    /// Whether what a key was at `revision`, as the watch or a reading says, is to be applied. It is, from now on.
    pub(super) fn admits(&mut self, key: &RecordKey, revision: i64) -> bool {
        match self.ahead.get_mut(key) {
            Some(known) if revision <= *known => false,
            Some(known) => {
                *known = revision;
                true
            }
            None => !self.partial,
        }
    }

    /// A key is about to be looked up. The key that is to be forgotten for it.
    pub(super) fn asks(&mut self, key: RecordKey) -> Option<RecordKey> {
        if !self.partial || self.ahead.contains_key(&key) {
            return None;
        }
        self.ahead.insert(key, 0);
        self.order.push_back(key);
        if self.order.len() <= PARTIAL {
            return None;
        }
        let oldest = self.order.pop_front()?;
        self.ahead.remove(&oldest);
        Some(oldest)
    }

    /// Whether the answer of `revision` to a look-up is to be applied. It is, from now on.
    pub(super) fn answers(&mut self, key: RecordKey, revision: i64) -> bool {
        if self.partial {
            // One that was forgotten meanwhile may have changed unseen.
            return self.ahead.contains_key(&key) && self.admits(&key, revision);
        }
        let known = self.ahead.get(&key).copied().unwrap_or(0).max(self.revision);
        if revision <= known || (self.ahead.len() >= PARTIAL && !self.ahead.contains_key(&key)) {
            return false;
        }
        self.ahead.insert(key, revision);
        true
    }

    /// Everything up to `revision` is applied.
    pub(super) fn reached(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
        self.heard_all(self.revision);
    }

    /// The watch has nothing more to say of what was up to `revision`.
    pub(super) fn heard_all(&mut self, revision: i64) {
        if !self.partial && !self.ahead.is_empty() {
            self.ahead.retain(|_, known| *known > revision);
        }
    }

    /// Keys that are known beyond what was read at `revision`: their records stay although the reading did not have them.
    pub(super) fn is_beyond(&self, key: &RecordKey, revision: i64) -> bool {
        self.ahead.get(key).is_some_and(|known| *known > revision)
    }

    /// It is followed in part from `revision` on: nothing of it is known yet.
    pub(super) fn in_part(&mut self, revision: i64) {
        (self.partial, self.revision) = (true, revision);
        self.ahead.clear();
        self.order.clear();
    }
}

/// All that is followed, by part and by watch.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    pub(super) all: BTreeMap<Scope, Followed>,
    by_watch: HashMap<i64, Scope>,
    last: i64,
}

impl Scopes {
    /// A number for the watch of a part.
    pub(super) fn watch(&mut self, scope: Scope) -> i64 {
        self.last += 1;
        self.by_watch.insert(self.last, scope);
        if let Some(followed) = self.all.get_mut(&scope) {
            followed.watch = self.last;
        }
        self.last
    }

    /// The part that a watch follows; `None` if it is not wanted any more.
    pub(super) fn of_watch(&mut self, watch: i64) -> Option<(Scope, &mut Followed)> {
        let scope = *self.by_watch.get(&watch)?;
        self.all.get_mut(&scope).map(|followed| (scope, followed))
    }

    /// A watch is no more.
    pub(super) fn unwatch(&mut self, watch: i64) {
        if let Some((_, followed)) = self.of_watch(watch) {
            followed.watch = 0;
        }
        self.by_watch.remove(&watch);
    }

    /// There is no watch any more.
    pub(super) fn unwatch_all(&mut self) {
        self.by_watch.clear();
        self.all.values_mut().for_each(|followed| followed.watch = 0);
    }

    /// The virtual subnets whose records are followed.
    pub(super) fn records(&self) -> impl Iterator<Item = (u32, &Followed)> {
        self.all.iter().filter_map(|(scope, followed)| match scope {
            Scope::Records(vsid) => Some((*vsid, followed)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> RecordKey {
        RecordKey::Address(5001, [10, 1, 0, n].into())
    }

    fn at(revision: i64) -> Followed {
        Followed { revision, ..Followed::default() }
    }

    #[test]
    fn s14_9_an_answer_newer_than_the_watch_is_not_undone_by_what_the_watch_says_later() {
        let mut it = at(10);
        assert!(it.answers(key(1), 15));
        assert!(!it.admits(&key(1), 12), "older than the answer");
        assert!(!it.admits(&key(1), 15), "the answer itself");
        assert!(it.admits(&key(2), 12), "nobody asked for this one");
        assert!(it.admits(&key(1), 16), "newer");
        assert!(!it.admits(&key(1), 16));
        it.reached(16);
        assert!(it.admits(&key(1), 17) && it.ahead.is_empty(), "what the watch has passed need not be kept");
    }

    #[test]
    fn s14_9_an_answer_older_than_what_is_applied_is_none() {
        let mut it = at(10);
        assert!(!it.answers(key(1), 10) && !it.answers(key(1), 9));
        assert!(it.answers(key(1), 12) && !it.answers(key(1), 11));
        // While it is read nothing is applied up to anywhere.
        let mut read = at(0);
        assert!(read.answers(key(1), 7));
        assert!(!read.admits(&key(1), 6) && read.is_beyond(&key(1), 6) && !read.is_beyond(&key(1), 7));
    }

    #[test]
    fn s14_9_of_a_subnet_that_is_too_large_only_what_was_asked_for_is_followed() {
        let mut it = at(0);
        it.in_part(10);
        assert!(!it.admits(&key(1), 11), "nobody asked");
        assert!(!it.answers(key(1), 11), "nobody asked for this either");
        assert_eq!(it.asks(key(1)), None);
        assert!(it.admits(&key(1), 12), "changed before the answer");
        assert!(!it.answers(key(1), 11), "which then is old");
        assert!(it.answers(key(1), 13) && it.admits(&key(1), 14));
        it.reached(20);
        assert!(it.admits(&key(1), 21), "it stays followed");
        let many = |n: u32| RecordKey::Address(5001, std::net::Ipv4Addr::from(0x0a02_0000 + n).into());
        let forgotten: Vec<_> = (0..=PARTIAL as u32).filter_map(|n| it.asks(many(n))).collect();
        assert_eq!(forgotten, [key(1), many(0)]);
        assert!(!it.admits(&key(1), 30));
        assert!(!it.is_whole());
    }

    #[test]
    fn s14_9_what_an_old_watch_says_is_of_nothing() {
        let mut scopes = Scopes::default();
        scopes.all.insert(Scope::Records(5001), at(7));
        let first = scopes.watch(Scope::Records(5001));
        let second = scopes.watch(Scope::Records(5001));
        scopes.unwatch(first);
        assert!(scopes.of_watch(first).is_none());
        assert!(scopes.of_watch(second).is_some_and(|(scope, _)| scope == Scope::Records(5001)));
        scopes.all.remove(&Scope::Records(5001));
        assert!(scopes.of_watch(second).is_none());
    }
}
