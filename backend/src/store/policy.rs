//! What is common to the places where the policy of network virtualization is kept: who follows it, and how it fares.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vswitch::nv::model::Record;
use vswitch::refusal::NvRefusal;

use crate::control::nv::object::{Change, Key, Object, RecordKey};

/// A record as it is from now on, or none of that key.
pub type RecordChange = (RecordKey, Option<Record>);

/// Who follows a policy store: it is told what the store has, in the order in which that changed. Called from the store's thread.
pub trait Follower: Send + Sync {
    /// Records changed.
    fn records(&self, changes: &[RecordChange]);
    /// The keys of all records that the follower has.
    fn held(&self) -> Vec<RecordKey>;
    /// Other objects changed.
    fn objects(&self, changes: &[(Key, Option<Object>)]);
    /// `objects` is all that the store has beside records, and `unreadable` are keys whose value there is wrong: what the follower has
    /// of these stays.
    fn loaded(&self, objects: Vec<Object>, unreadable: &[Key]);
}

/// A store that hosts share, as those who want to change something use it.
pub trait SharedStore: Send + Sync {
    /// How it fares.
    fn status(&self) -> &Arc<Status>;
    /// Writes changes, of which each has its condition: all of them in one transaction as far as one holds them. Says from which revision on
    /// everybody sees them.
    fn commit(&self, changes: Vec<Change>) -> Answer<Result<i64, NvRefusal>>;
    /// Writes changes sooner or later, also when the store is away now. Never waits.
    fn carry(&self, changes: Vec<Change>);
    /// Tells other hosts this of the host from now on. Never waits.
    fn present(&self, value: Vec<u8>);
}

/// An answer to come.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Keys with wrong values that are named; further ones are only counted.
const NAMED: usize = 1024;

/// How a policy store fares. Read from any thread.
#[derive(Debug)]
pub struct Status {
    up: AtomicBool,
    reloads: AtomicU64,
    losses: AtomicU64,
    applied: AtomicU64,
    revision: watch::Sender<i64>,
    known: AtomicI64,
    words: Mutex<Words>,
}

#[derive(Debug)]
struct Words {
    heard: Instant,
    reason: String,
    endpoint: String,
    skipped: BTreeMap<String, String>,
    beyond: BTreeSet<u64>,
    hosts: BTreeSet<String>,
}

impl Default for Status {
    fn default() -> Self {
        let words = Words {
            heard: Instant::now(),
            reason: "it has not answered yet".into(),
            endpoint: String::new(),
            skipped: BTreeMap::new(),
            beyond: BTreeSet::new(),
            hosts: BTreeSet::new(),
        };
        Self {
            up: AtomicBool::new(false),
            reloads: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            revision: watch::channel(0).0,
            known: AtomicI64::new(0),
            words: Mutex::new(words),
        }
    }
}

impl Status {
    fn words(&self) -> MutexGuard<'_, Words> {
        // Single assignments: a panic elsewhere leaves nothing half changed.
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Why it does not answer.
    pub fn reason(&self) -> String {
        self.words().reason.clone()
    }

    /// Who answers.
    pub fn endpoint(&self) -> String {
        self.words().endpoint.clone()
    }

    /// Up to which revision everything is applied.
    pub fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// The newest revision that the store was heard to have.
    pub fn newest(&self) -> i64 {
        self.known.load(Ordering::Relaxed).max(self.revision())
    }

    /// How long ago it was heard last.
    pub fn silence(&self) -> Duration {
        self.words().heard.elapsed()
    }

    /// How often everything was read again because the store had forgotten what happened in between.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// How often it was lost.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Changes applied.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
    }

    /// Keys whose value is wrong, with the reason; the first thousand of them.
    pub fn skipped(&self) -> BTreeMap<String, String> {
        self.words().skipped.clone()
    }

    /// How many keys have a wrong value.
    pub fn skipped_count(&self) -> usize {
        let words = self.words();
        words.skipped.len() + words.beyond.len()
    }

    /// The hosts that are there.
    pub fn hosts(&self) -> Vec<String> {
        self.words().hosts.iter().cloned().collect()
    }

    /// Waits until everything up to `revision` is applied, or for so long; whether it is.
    pub async fn applied_up_to(&self, revision: i64, patience: Duration) -> bool {
        let mut applied = self.revision.subscribe();
        tokio::time::timeout(patience, applied.wait_for(|applied| *applied >= revision)).await.is_ok()
    }

    // === for the store itself ===

    pub(super) fn found(&self, endpoint: &str) {
        let mut words = self.words();
        endpoint.clone_into(&mut words.endpoint);
        words.reason.clear();
        words.heard = Instant::now();
        self.up.store(true, Ordering::Relaxed);
    }

    /// It does not answer any more; whether it did before.
    pub(super) fn lost(&self, reason: &str) -> bool {
        reason.clone_into(&mut self.words().reason);
        let was_up = self.up.swap(false, Ordering::Relaxed);
        if was_up {
            self.losses.fetch_add(1, Ordering::Relaxed);
        }
        was_up
    }

    pub(super) fn heard(&self, revision: i64) {
        self.words().heard = Instant::now();
        self.known.fetch_max(revision, Ordering::Relaxed);
    }

    pub(super) fn reloaded(&self) {
        self.reloads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn advanced(&self, revision: i64, changes: usize) {
        self.applied.fetch_add(changes as u64, Ordering::Relaxed);
        self.revision.send_if_modified(|old| {
            let more = revision > *old;
            *old = revision.max(*old);
            more
        });
    }

    /// The store begins anew, with a history of its own.
    pub(super) fn rewound(&self) {
        self.known.store(0, Ordering::Relaxed);
        self.revision.send_replace(0);
    }

    /// Notes that the value of `key` is wrong; whether that is news.
    pub(super) fn skip(&self, key: &str, reason: &str) -> bool {
        let mut words = self.words();
        if words.skipped.len() < NAMED || words.skipped.contains_key(key) {
            return words.skipped.insert(key.to_owned(), reason.to_owned()).as_deref() != Some(reason);
        }
        words.beyond.insert(number(key));
        false
    }

    /// Notes that the value of `key` is right, or gone; whether it was wrong.
    pub(super) fn mend(&self, key: &str) -> bool {
        let mut words = self.words();
        if words.skipped.is_empty() {
            return false;
        }
        words.skipped.remove(key).is_some() | words.beyond.remove(&number(key))
    }

    /// Forgets which keys were wrong, because all are read again.
    pub(super) fn forget_skipped(&self) {
        let mut words = self.words();
        words.skipped.clear();
        words.beyond.clear();
    }

    pub(super) fn host(&self, id: &str, is_there: bool) {
        let mut words = self.words();
        if is_there {
            words.hosts.insert(id.to_owned())
        } else {
            words.hosts.remove(id)
        };
    }

    pub(super) fn forget_hosts(&self) {
        self.words().hosts.clear();
    }
}

/// A number for a key that is only counted.
fn number(key: &str) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
