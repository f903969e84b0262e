//! The records that a host holds: those of the virtual subnets it needs, each read at one revision and watched from there, and of what does
//! not fit those that somebody asked for.
//!
//! | a virtual subnet | its records |
//! |---|---|
//! | becomes needed | are read, a few subnets at a time; from the last page on they are watched |
//! | is needed no more | stay for a grace, and are forgotten then |
//! | has more than there is room for | are looked up one by one when the data path misses them, and watched |

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status as Failure;
use vswitch::nv::wanted::Want;

use super::apply::{Batch, tell_more};
use super::follow::{Connection, Session};
use super::keys::Scope;
use super::read::{self, Answers, Pages};
use super::rpc::RangeResponse;
use super::write::TOGETHER;
use crate::control::nv::object::{Key, RecordKey};

/// Virtual subnets that are read at once.
const READERS: usize = 4;
/// Look-ups that are on their way at once; further ones are not made, but may be wanted again.
const LOOK_UPS: usize = 8;

/// Longer than a switch runs.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// What a reader says.
pub(super) struct Page {
    vsid: u32,
    run: u64,
    revision: i64,
    /// `None` = that was all.
    read: Result<Option<RangeResponse>, Failure>,
}

/// One virtual subnet that is being read; its reader ends with it.
#[derive(Debug)]
struct Reading {
    run: u64,
    reader: AbortHandle,
    /// What is known of it and was not in a page yet.
    gone: HashSet<RecordKey>,
    wrong: usize,
    begun: bool,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Which records are held, and which are on their way.
#[derive(Debug)]
pub(super) struct Held {
    grace: Duration,
    queue: VecDeque<u32>,
    reading: HashMap<u32, Reading>,
    last_run: u64,
    /// Which virtual subnets were last said to be known whole.
    whole: Option<BTreeSet<u32>>,
    /// When is to be forgotten what was held before anything was followed.
    strays: Option<Instant>,
    /// Whether it was counted that something is read again since there is this connection.
    counted: bool,
}

impl Held {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            queue: VecDeque::new(),
            reading: HashMap::new(),
            last_run: 0,
            whole: None,
            strays: None,
            counted: false,
        }
    }

    /// Whether something is not read yet.
    pub(super) fn is_reading(&self) -> bool {
        !(self.queue.is_empty() && self.reading.is_empty())
    }

    /// A virtual subnet is to be read.
    pub(super) fn queue(&mut self, vsid: u32) {
        self.reading.remove(&vsid);
        if !self.queue.contains(&vsid) {
            self.queue.push_back(vsid);
        }
    }

    /// Something is to be read again because the store has forgotten what was between; whether that is to be counted.
    pub(super) fn reloads(&mut self) -> bool {
        !std::mem::replace(&mut self.counted, true)
    }

    /// There are no readers any more.
    pub(super) fn disconnected(&mut self) {
        self.queue.clear();
        self.reading.clear();
        self.counted = false;
    }
}

impl Session {
    /// These virtual subnets are needed from now on, and no others.
    pub(super) fn follow_records(&mut self, vsids: &BTreeSet<u32>) {
        for vsid in vsids {
            self.scopes.all.entry(Scope::Records(*vsid)).or_default().leaves = None;
        }
        let until = Instant::now() + self.held.grace;
        for (scope, followed) in &mut self.scopes.all {
            if let Scope::Records(vsid) = scope
                && !vsids.contains(vsid)
            {
                followed.leaves.get_or_insert(until);
            }
        }
    }

    /// Begins to read what is not read yet.
    pub(super) fn read_records(&mut self, it: &mut Connection<'_>) {
        let missing: Vec<u32> = self
            .scopes
            .records()
            .filter(|(_, followed)| followed.revision == 0)
            .map(|(vsid, _)| vsid)
            .collect();
        let queued: HashSet<u32> = self.held.queue.iter().copied().collect();
        for vsid in missing {
            if !queued.contains(&vsid) && !self.held.reading.contains_key(&vsid) {
                self.held.queue.push_back(vsid);
            }
        }
        let room = READERS.saturating_sub(self.held.reading.len()).min(self.held.queue.len());
        if room > 0 {
            let next: Vec<u32> = self.held.queue.drain(..room).collect();
            // One walk through the table for all of them.
            let mut known: HashMap<u32, HashSet<RecordKey>> = HashMap::new();
            for key in self.follower.held().into_iter().filter(|key| next.contains(&key.vsid())) {
                known.entry(key.vsid()).or_default().insert(key);
            }
            for vsid in next {
                let gone = known.remove(&vsid).unwrap_or_default();
                self.begin(it, vsid, gone);
            }
        }
        self.count();
    }

    fn begin(&mut self, it: &mut Connection<'_>, vsid: u32, gone: HashSet<RecordKey>) {
        self.held.last_run += 1;
        let run = self.held.last_run;
        let (first, end) = Scope::Records(vsid).range();
        self.status.forget_skipped(&first, &end);
        let mut pages = Pages::new(it.client.clone(), (first, end), 0);
        let to = it.pages.clone();
        let reader = it.readers.spawn(async move {
            loop {
                let read = pages.next().await;
                let ended = !matches!(read, Ok(Some(_)));
                let page = Page { vsid, run, revision: pages.revision(), read };
                // Nobody hears it: the connection is gone.
                if to.send(page).await.is_err() || ended {
                    return;
                }
            }
        });
        self.held.reading.insert(vsid, Reading { run, reader, gone, wrong: 0, begun: false });
    }

    /// Applies a page of a virtual subnet's records.
    pub(super) fn page(&mut self, it: &mut Connection<'_>, page: Page) -> Result<(), Failure> {
        let Page { vsid, run, revision, read } = page;
        let page = read?;
        let scope = Scope::Records(vsid);
        // It may not be wanted any more, or in another way.
        let Some(mut reading) = self.held.reading.remove(&vsid) else { return Ok(()) };
        if reading.run != run {
            self.held.reading.insert(vsid, reading);
            return Ok(());
        }
        self.status.heard(revision);
        let Some(page) = page else {
            self.all_read(it, vsid, reading, revision);
            return Ok(());
        };
        let Some(followed) = self.scopes.all.get_mut(&scope) else { return Ok(()) };
        let more = usize::try_from(page.count).unwrap_or(usize::MAX).saturating_sub(reading.gone.len());
        if !std::mem::replace(&mut reading.begun, true) && more > self.follower.room() {
            log::warn!("policy store: there is no room for all {} records of subnet {vsid}", page.count);
            followed.in_part(revision);
            let gone: Vec<_> = reading.gone.drain().map(|key| (key, None)).collect();
            self.follower.records(&gone);
            drop(reading);
            self.watch(it, scope);
            self.read_records(it);
            return Ok(());
        }
        let mut batch = Batch { wrong: reading.wrong, ..Batch::default() };
        for kv in &page.kvs {
            self.read(&mut batch, scope, kv, true);
        }
        reading.wrong = batch.wrong;
        for (key, _) in &batch.records {
            reading.gone.remove(key);
        }
        for key in &batch.unreadable {
            if let Key::Record(key) = key {
                reading.gone.remove(key);
            }
        }
        if let Some(followed) = self.scopes.all.get_mut(&scope) {
            let carried = &mut self.carried;
            batch.records.retain(|(key, record)| {
                followed.admits(key, revision) && !carried.keeps_back(*key, *record, revision)
            });
            followed.lacking |= self.follower.records(&batch.records) > 0;
        }
        self.status.changed(batch.records.len());
        self.held.reading.insert(vsid, reading);
        Ok(())
    }

    fn all_read(&mut self, it: &mut Connection<'_>, vsid: u32, mut reading: Reading, revision: i64) {
        let scope = Scope::Records(vsid);
        if let Some(followed) = self.scopes.all.get_mut(&scope) {
            let stays = |key: &RecordKey| followed.is_beyond(key, revision);
            let gone = reading.gone.drain().filter(|key| !stays(key));
            let carried = &mut self.carried;
            let gone = gone.filter(|key| !carried.keeps_back(*key, None, revision));
            let gone: Vec<_> = gone.map(|key| (key, None)).collect();
            self.follower.records(&gone);
            self.status.changed(gone.len());
            followed.reached(revision);
            self.watch(it, scope);
        }
        tell_more(reading.wrong);
        self.read_records(it);
        if !self.held.is_reading() {
            self.tell_whole();
        }
    }

    /// Forgets what nobody has needed for as long as the grace.
    pub(super) fn leave_records(&mut self, it: &mut Connection<'_>) {
        let now = Instant::now();
        if now >= *self.held.strays.get_or_insert(now + self.held.grace) {
            // Once: from then on nothing is held that is not followed.
            self.held.strays = Some(now + FOREVER);
            let held = self.follower.held().into_iter().map(|key| key.vsid());
            let strays = held.filter(|vsid| !self.scopes.all.contains_key(&Scope::Records(*vsid))).collect();
            self.follower.forget(&strays);
        }
        let over: Vec<(u32, i64)> = self
            .scopes
            .records()
            .filter(|(_, followed)| followed.leaves.is_some_and(|until| until <= now))
            .map(|(vsid, followed)| (vsid, followed.watch))
            .collect();
        if over.is_empty() {
            return;
        }
        let mut vsids = BTreeSet::new();
        for (vsid, watch) in over {
            let scope = Scope::Records(vsid);
            self.unwatch(it, watch);
            self.scopes.all.remove(&scope);
            self.held.reading.remove(&vsid);
            self.held.queue.retain(|queued| *queued != vsid);
            let (first, end) = scope.range();
            self.status.forget_skipped(&first, &end);
            vsids.insert(vsid);
        }
        // First nobody takes what is missing for what does not exist.
        self.tell_whole();
        self.follower.forget(&vsids);
        self.read_records(it);
    }

    /// Says which virtual subnets are known whole, if that changed.
    pub(super) fn tell_whole(&mut self) {
        let whole = self.scopes.records().filter(|(_, it)| it.is_whole()).map(|(vsid, _)| vsid).collect();
        if self.held.whole.as_ref() != Some(&whole) {
            self.follower.whole(&whole);
            self.held.whole = Some(whole);
        }
    }

    fn count(&self) {
        let reading = self.held.queue.len() + self.held.reading.len();
        self.status.follows(self.scopes.records().count(), reading);
    }

    /// Asks for single records.
    pub(super) fn look_up(&mut self, it: &mut Connection<'_>, wanted: Vec<Want>) {
        let mut keys = Vec::with_capacity(wanted.len());
        let mut forgotten = Vec::new();
        for key in wanted.into_iter().filter_map(read::key_of) {
            // Others are of no use here.
            if let Some(followed) = self.scopes.all.get_mut(&Scope::Records(key.vsid())) {
                forgotten.extend(followed.asks(key).map(|key| (key, None)));
                keys.push(key);
            }
        }
        if !forgotten.is_empty() {
            self.follower.records(&forgotten);
        }
        for together in keys.chunks(TOGETHER) {
            if it.look_ups.len() < LOOK_UPS {
                it.look_ups.spawn(read::look_up(it.client.clone(), together.to_vec()));
            }
        }
    }

    /// Applies what was found, where it is news.
    pub(super) fn answered(&mut self, (revision, found): Answers) {
        self.status.heard(revision);
        let mut batch = Batch::default();
        for (key, kv) in found {
            let scope = Scope::Records(key.vsid());
            let Some(followed) = self.scopes.all.get_mut(&scope) else { continue };
            if !followed.answers(key, revision) {
                continue;
            }
            match kv {
                Some(kv) => self.read(&mut batch, scope, &kv, true),
                None => batch.records.push((key, None)),
            }
        }
        batch.records.retain(|(key, record)| !self.carried.keeps_back(*key, *record, revision));
        if !batch.records.is_empty() {
            self.follower.records(&batch.records);
            self.status.changed(batch.records.len());
        }
    }
}
