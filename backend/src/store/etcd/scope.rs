//! One part of the store that is followed, and what is known of it: up to which revision, and which keys are known further than that.
//!
//! A key that was looked up is known as it was at the revision of the answer. What its watch says later of an earlier revision must not undo
//! that, and an answer that is older than what the watch has said is none ([`Followed::answers`], [`Followed::admits`]).
//!
//! How far a watch is, is another matter than how far the store is: one that was resumed may have much to say yet, and the store's word that
//! all watches are as far as it is itself cannot be relied on meanwhile (etcd before 3.4.25 and 3.5.8 says so at once). So a watch that was
//! begun behind the store counts as *behind* until it has said something and that was all there was, or has said nothing for [`QUIET`] since
//! the store has said what is later than the watch's beginning to another watch of the same stream that was begun after it.
//!
//! A virtual subnet that is too large for the table of records is followed in part: its watch keeps those records right that were looked up,
//! and of these there are at most [`PARTIAL`].
//!
//! No I/O, no clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::keys::Scope;
use crate::control::nv::object::RecordKey;

/// Records that are known of a virtual subnet that is followed in part, at most.
pub(super) const PARTIAL: usize = 4096;

/// How long a watch says nothing that has nothing to say.
const QUIET: Duration = Duration::from_millis(300);

/// Revisions of one message from which on there may be more; etcd sends no more than so many together.
const MANY: usize = 1000;

/// How a part is followed.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Up to here everything is applied; 0 = it is to be read.
    pub(super) revision: i64,
    /// Up to here its watch has said everything.
    heard: i64,
    /// The number of its watch; 0 = it has none.
    pub(super) watch: i64,
    /// Revisions of a message that has come in part.
    part: usize,
    /// Since when its watch, which was begun behind the store, has said nothing.
    behind: Option<Instant>,
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
        (self.revision, self.heard, self.watch, self.lacking) = (0, 0, 0, false);
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

    /// Its watch has been begun when the store was as far as `revision`.
    pub(super) fn begun(&mut self, revision: i64) {
        self.part = 0;
        self.behind = (self.revision < revision).then(Instant::now);
        if self.behind.is_none() {
            self.heard_all(revision);
        }
    }

    /// Its watch has said a part of a message, of so many revisions.
    pub(super) fn said_part(&mut self, revisions: usize) {
        self.part += revisions;
    }

    /// Its watch has said what there was, of so many revisions, when the store was as far as `revision`.
    pub(super) fn said(&mut self, revisions: usize, revision: i64) {
        if std::mem::take(&mut self.part) + revisions < MANY {
            self.behind = None;
            self.heard_all(revision);
        } else {
            self.behind = Some(Instant::now());
        }
    }

    /// The store says that all watches are as far as `revision`. `since`: when it said the first that is later than their beginnings.
    pub(super) fn all_said(&mut self, revision: i64, since: Option<Instant>) {
        let is_quiet = |it: Instant| since.is_some_and(|since| since.max(it).elapsed() >= QUIET);
        if self.behind.is_none_or(is_quiet) {
            self.behind = None;
            self.heard_all(revision);
        }
    }

    /// Whether its watch may have more to say of what was before it was begun.
    pub(super) fn is_behind(&self) -> bool {
        self.watch != 0 && self.behind.is_some()
    }

    /// Up to where everything is known.
    pub(super) fn heard(&self) -> i64 {
        self.heard.max(self.revision)
    }

    /// The watch has nothing more to say of what was up to `revision`.
    fn heard_all(&mut self, revision: i64) {
        self.heard = self.heard.max(revision);
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

    /// Up to where everything of all parts is known; 0 = one of them is not read yet.
    pub(super) fn heard(&self) -> i64 {
        let heard = |it: &Followed| if it.revision == 0 { 0 } else { it.heard() };
        self.all.values().map(heard).min().unwrap_or(0)
    }

    /// Whether a watch may have more to say of what was before it was begun.
    pub(super) fn is_behind(&self) -> bool {
        self.all.values().any(Followed::is_behind)
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
    fn s14_9_a_watch_that_was_begun_behind_the_store_is_as_far_as_it_has_said() {
        let mut scopes = Scopes::default();
        scopes.all.insert(Scope::Before, at(20));
        scopes.all.insert(Scope::Records(5001), at(10));
        for scope in [Scope::Records(5001), Scope::Before] {
            scopes.watch(scope);
            scopes.all.get_mut(&scope).expect("followed").begun(20);
        }
        assert!(scopes.is_behind());
        let it = |scopes: &mut Scopes, all: Option<i64>, said: Option<(usize, i64)>| {
            let passed = Some(Instant::now());
            for followed in scopes.all.values_mut() {
                if let Some(revision) = all {
                    followed.all_said(revision, passed);
                }
            }
            let records = scopes.all.get_mut(&Scope::Records(5001)).expect("followed");
            if let Some((revisions, revision)) = said {
                records.said(revisions, revision);
            }
            (scopes.heard(), scopes.is_behind())
        };
        assert_eq!(it(&mut scopes, Some(2000), None), (10, true), "the store's word alone");
        assert_eq!(it(&mut scopes, None, Some((MANY, 2000))), (10, true), "there may be more");
        scopes.all.get_mut(&Scope::Records(5001)).expect("followed").reached(1010);
        assert_eq!(it(&mut scopes, Some(2001), None), (1010, true));
        assert_eq!(it(&mut scopes, None, Some((7, 2001))), (2001, false));
        assert_eq!(it(&mut scopes, Some(2002), None), (2002, false));
        scopes.all.insert(Scope::Records(5002), at(0));
        assert_eq!(scopes.heard(), 0, "one that is not read yet");
    }

    #[test]
    fn s14_9_a_watch_that_has_nothing_to_say_is_as_far_as_the_store_says_after_a_while() {
        let mut it = at(10);
        it.begun(20);
        std::thread::sleep(QUIET);
        it.all_said(30, None);
        assert!(it.heard() == 10, "no other watch has said anything as late as its beginning");
        let passed = Instant::now();
        it.all_said(30, Some(passed));
        assert!(it.heard() == 10, "one has just now");
        std::thread::sleep(QUIET);
        it.all_said(30, Some(passed));
        assert!(it.heard() == 30);
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
