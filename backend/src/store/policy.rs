//! What is common to the places where the policy of network virtualization is kept: who follows it, and how it fares.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vswitch::nv::model::Record;
use vswitch::nv::wanted::Want;
use vswitch::refusal::NvRefusal;

use crate::control::nv::object::{Change, Key, Object, RecordKey};

/// A record as it is from now on, or none of that key.
pub type RecordChange = (RecordKey, Option<Record>);

/// Who follows a policy store: it is told what the store has, in the order in which that changed. Called from the store's thread.
pub trait Follower: Send + Sync {
    /// Records changed. For how many of them there is no room.
    fn records(&self, changes: &[RecordChange]) -> usize;
    /// How many more records there is room for.
    fn room(&self) -> usize;
    /// The keys of all records that the follower has.
    fn held(&self) -> Vec<RecordKey>;
    /// The records of these virtual subnets are of no use any more.
    fn forget(&self, vsids: &BTreeSet<u32>);
    /// Of these virtual subnets all records are known from now on, of others not.
    fn whole(&self, vsids: &BTreeSet<u32>);
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
    /// Follows the records of these virtual subnets from now on. Those of others are forgotten a while later. Never waits.
    fn follow(&self, vsids: BTreeSet<u32>);
    /// Asks what the records of these guests say now; what comes of it is told to the follower. Never waits; what cannot be asked now is
    /// not asked.
    fn look_up(&self, wanted: Vec<Want>);
    /// Tells other hosts of addresses that were learned here, or were forgotten; with `all` of these and no others. Never waits.
    fn publish(&self, learned: Vec<RecordChange>, all: bool);
    /// Reads the records of these keys, those that there are.
    fn find(&self, keys: Vec<RecordKey>) -> Answer<Result<Vec<Record>, NvRefusal>>;
    /// Reads all records that are valid, whether they are followed or not.
    fn all(&self) -> Answer<Result<Vec<Record>, NvRefusal>>;
    /// Writes changes, of which each has its condition: all of them in one transaction as far as one holds them. Answers when the follower
    /// has been told what it follows of them, or that does not come; with the revision from which on everybody sees them.
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
    revision: AtomicI64,
    known: AtomicI64,
    reading: AtomicU64,
    followed: AtomicU64,
    /// Changes that are written, and that are to be.
    writing: Mutex<(u64, u64)>,
    words: Mutex<Words>,
}

#[derive(Debug)]
struct Words {
    heard: Instant,
    reason: String,
    endpoint: String,
    skipped: BTreeMap<String, String>,
    /// Numbers of keys, each with that of its part.
    beyond: BTreeMap<u64, u64>,
    hosts: BTreeSet<String>,
}

impl Default for Status {
    fn default() -> Self {
        let words = Words {
            heard: Instant::now(),
            reason: "it has not answered yet".into(),
            endpoint: String::new(),
            skipped: BTreeMap::new(),
            beyond: BTreeMap::new(),
            hosts: BTreeSet::new(),
        };
        Self {
            up: AtomicBool::new(false),
            reloads: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            revision: AtomicI64::new(0),
            known: AtomicI64::new(0),
            reading: AtomicU64::new(0),
            followed: AtomicU64::new(0),
            writing: Mutex::default(),
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
        self.revision.load(Ordering::Relaxed)
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

    /// Of changes that are being written, those that are, and all.
    pub fn writing(&self) -> (u64, u64) {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Virtual subnets whose records are followed.
    pub fn followed(&self) -> u64 {
        self.followed.load(Ordering::Relaxed)
    }

    /// Those of them whose records are still being read.
    pub fn reading(&self) -> u64 {
        self.reading.load(Ordering::Relaxed)
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

    /// So many changes are to be written.
    pub(super) fn begins(self: &Arc<Self>, all: usize) -> Writing {
        let all = all as u64;
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).1 += all;
        Writing { status: Arc::clone(self), written: 0, all }
    }

    /// So many changes were applied.
    pub(super) fn changed(&self, changes: usize) {
        self.applied.fetch_add(changes as u64, Ordering::Relaxed);
    }

    /// Everything up to `revision` is applied.
    pub(super) fn advanced(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::Relaxed);
        self.known.fetch_max(revision, Ordering::Relaxed);
    }

    /// So many virtual subnets are followed, and so many of them are still being read.
    pub(super) fn follows(&self, followed: usize, reading: usize) {
        self.followed.store(followed as u64, Ordering::Relaxed);
        self.reading.store(reading as u64, Ordering::Relaxed);
    }

    /// The store begins anew, with a history of its own.
    pub(super) fn rewound(&self) {
        self.known.store(0, Ordering::Relaxed);
        self.revision.store(0, Ordering::Relaxed);
    }

    /// Notes that the value of `key`, which is in the part that begins with the key `first`, is wrong; whether that is news.
    pub(super) fn skip(&self, first: &[u8], key: &str, reason: &str) -> bool {
        let mut words = self.words();
        if words.skipped.len() < NAMED || words.skipped.contains_key(key) {
            return words.skipped.insert(key.to_owned(), reason.to_owned()).as_deref() != Some(reason);
        }
        words.beyond.insert(number(key.as_bytes()), number(first));
        false
    }

    /// Notes that the value of `key` is right, or gone; whether it was wrong.
    pub(super) fn mend(&self, key: &str) -> bool {
        let mut words = self.words();
        if words.skipped.is_empty() {
            return false;
        }
        words.skipped.remove(key).is_some() | words.beyond.remove(&number(key.as_bytes())).is_some()
    }

    /// Forgets which keys were wrong of those from `first` to before `end`, because they are read again or no longer followed.
    pub(super) fn forget_skipped(&self, first: &[u8], end: &[u8]) {
        let mut words = self.words();
        words.skipped.retain(|key, _| !(first..end).contains(&key.as_bytes()));
        words.beyond.retain(|_, of| *of != number(first));
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

/// Changes that are being written, until it is dropped.
pub(super) struct Writing {
    status: Arc<Status>,
    written: u64,
    all: u64,
}

impl Writing {
    /// So many more are written.
    pub(super) fn wrote(&mut self, more: usize) {
        self.written += more as u64;
        self.status.writing.lock().unwrap_or_else(PoisonError::into_inner).0 += more as u64;
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut writing = self.status.writing.lock().unwrap_or_else(PoisonError::into_inner);
        *writing = (writing.0.saturating_sub(self.written), writing.1.saturating_sub(self.all));
    }
}

/// A number for a key that is only counted.
fn number(key: &[u8]) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
