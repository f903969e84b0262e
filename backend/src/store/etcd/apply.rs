//! What the store says, applied: what was read, and what the stream of watches tells.

use tokio::time::Instant;
use tonic::Status as Failure;
use vswitch::event::Event;

use super::follow::{Connection, Session};
use super::keys::{self, Meaning, Scope};
use super::read::Pages;
use super::rpc::{ALL_WATCHES, Client, KeyValue, WatchResponse};
use crate::control::nv::object::{Key, Object};
use crate::store::objects;
use crate::store::policy::RecordChange;

/// What was found in keys that were read or changed.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) records: Vec<RecordChange>,
    pub(super) objects: Vec<(Key, Option<Object>)>,
    /// Keys of objects and records whose value is wrong.
    pub(super) unreadable: Vec<Key>,
    pub(super) wrong: usize,
}

/// Wrong values of one reading that are told one by one.
const TOLD: usize = 16;

impl Session {
    /// Reads all objects but records as they are at one revision.
    pub(super) async fn read_objects(&mut self, client: &Client) -> Result<(), Failure> {
        let (mut objects, mut unreadable, mut wrong, mut revision) = (Vec::new(), Vec::new(), 0, 0);
        self.status.forget_hosts();
        for scope in Scope::OBJECTS {
            let (first, end) = scope.range();
            self.status.forget_skipped(&first, &end);
            let mut pages = Pages::new(client.clone(), (first, end), revision);
            while let Some(page) = pages.next().await? {
                let mut batch = Batch { wrong, ..Batch::default() };
                for kv in &page.kvs {
                    self.read(&mut batch, scope, kv, true);
                }
                wrong = batch.wrong;
                self.status.changed(batch.objects.len());
                objects.extend(batch.objects.into_iter().filter_map(|(_, object)| object));
                unreadable.append(&mut batch.unreadable);
            }
            revision = pages.revision();
        }
        self.pending.clear();
        self.follower.loaded(objects, &unreadable);
        for scope in Scope::OBJECTS {
            self.scopes.all.entry(scope).or_default().revision = revision;
        }
        self.newest = self.newest.max(revision);
        self.status.heard(revision);
        tell_more(wrong);
        Ok(())
    }

    /// Takes in what the stream of watches says.
    pub(super) async fn heard(
        &mut self,
        it: &mut Connection<'_>,
        response: WatchResponse,
    ) -> Result<(), Failure> {
        let revision = response.header.unwrap_or_default().revision;
        self.status.heard(revision);
        self.newest = self.newest.max(revision);
        if response.canceled && response.watch == ALL_WATCHES {
            return Err(Failure::unavailable(format!("it refused a watch: {}", response.cancel_reason)));
        }
        if response.watch == ALL_WATCHES {
            it.asked = None;
            it.kept_since = None;
            self.apply_objects();
            self.all_heard(revision, it.passed);
            return Ok(());
        }
        let Some((scope, followed)) = self.scopes.of_watch(response.watch) else { return Ok(()) };
        if response.compact_revision != 0 {
            log::info!("policy store: what was after {} is compacted away, reading again", followed.revision);
            followed.again();
            self.scopes.unwatch(response.watch);
            if self.held.reloads() {
                self.status.reloaded();
            }
            if let Scope::Records(vsid) = scope {
                self.held.queue(vsid);
                self.read_records(it);
            } else {
                self.reread_objects(it).await?;
            }
            return Ok(());
        }
        if response.canceled {
            return Err(Failure::unavailable(format!("it ended the watch: {}", response.cancel_reason)));
        }
        it.is_due = true;
        self.changed(scope, response);
        // This host's own sign of being there, which it gave before it asked for the watches.
        let signs = self.scopes.all.get(&Scope::Before).map_or(0, |followed| followed.revision);
        if it.passed.is_none() && signs >= it.sign {
            it.passed = Some(Instant::now());
        }
        if !self.pending.is_empty() {
            it.kept_since.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Reads all objects again, and watches them from there.
    async fn reread_objects(&mut self, it: &mut Connection<'_>) -> Result<(), Failure> {
        for scope in Scope::OBJECTS {
            let watch = self.scopes.all.get(&scope).map_or(0, |followed| followed.watch);
            self.unwatch(it, watch);
        }
        self.read_objects(it.client).await?;
        for scope in Scope::OBJECTS {
            self.watch(it, scope);
        }
        Ok(())
    }

    /// Applies what changed in one part.
    fn changed(&mut self, scope: Scope, response: WatchResponse) {
        let (mut batch, mut last, events) = (Batch::default(), 0, response.events.len());
        let (mut revisions, newest) = (0, response.header.unwrap_or_default().revision);
        for event in response.events {
            let Some(kv) = event.kv else { continue };
            revisions += usize::from(kv.mod_revision > last);
            last = kv.mod_revision.max(last);
            let before = batch.records.len();
            self.read(&mut batch, scope, &kv, event.kind == 0);
            if let Some((key, record)) = batch.records.get(before)
                && let Some(followed) = self.scopes.all.get_mut(&scope)
                && (!followed.admits(key, kv.mod_revision)
                    || self.carried.keeps_back(*key, *record, kv.mod_revision))
            {
                batch.records.truncate(before);
            }
        }
        for (key, record) in &batch.records {
            self.learned.heard(key, record.as_ref());
        }
        let lacks = !batch.records.is_empty() && self.follower.records(&batch.records) > 0;
        self.pending.append(&mut batch.objects);
        // A response in fragments ends with the one that is none; before that, a revision may have come in part. One without events says
        // how far the watch is.
        if events == 0 && !response.created {
            last = newest;
        }
        if let Some(followed) = self.scopes.all.get_mut(&scope) {
            followed.lacking |= lacks;
            if response.created {
                followed.begun(newest);
            } else if response.fragment {
                followed.said_part(revisions);
            } else {
                followed.reached(last);
                followed.said(revisions, newest);
            }
        }
        self.status.changed(events);
    }

    /// The store says that all watches have said everything up to `revision`.
    fn all_heard(&mut self, revision: i64, since: Option<Instant>) {
        for followed in self.scopes.all.values_mut().filter(|it| it.watch != 0) {
            followed.all_said(revision, since);
        }
        if !self.held.is_reading() {
            self.status.advanced(self.scopes.heard());
        }
    }

    pub(super) fn apply_objects(&mut self) {
        if !self.pending.is_empty() {
            self.follower.objects(&std::mem::take(&mut self.pending));
        }
    }

    /// Notes what a key holds, or (`is_there` false) that it is gone.
    pub(super) fn read(&self, batch: &mut Batch, scope: Scope, kv: &KeyValue, is_there: bool) {
        let name = || String::from_utf8_lossy(&kv.key).into_owned();
        let key = match keys::meaning(&kv.key) {
            Some(Meaning::Host(id)) => return self.status.host(&id, is_there),
            Some(Meaning::Object(key)) => key,
            None if is_there => return self.wrong(batch, scope, &name(), "there is no such key".into()),
            None => {
                self.status.mend(&name());
                return;
            }
        };
        let object = if is_there { objects::object(&key, &kv.value).map(Some) } else { Ok(None) };
        match object {
            Ok(object) => {
                if self.status.mend(&name()) {
                    self.events.emit(Event::PolicyMended { key: name() });
                }
                match (key, object) {
                    (Key::Record(key), Some(Object::Record(record))) => {
                        batch.records.push((key, Some(record)));
                    }
                    (Key::Record(key), _) => batch.records.push((key, None)),
                    (key, object) => batch.objects.push((key, object)),
                }
            }
            Err(reason) => {
                self.wrong(batch, scope, &name(), reason);
                batch.unreadable.push(key);
            }
        }
    }

    fn wrong(&self, batch: &mut Batch, scope: Scope, key: &str, reason: String) {
        if self.status.skip(&scope.range().0, key, &reason) {
            batch.wrong += 1;
            if batch.wrong <= TOLD {
                self.events.emit(Event::PolicySkipped { key: key.to_owned(), reason });
            }
        }
    }
}

/// Says how many keys with wrong values were not told one by one.
pub(super) fn tell_more(wrong: usize) {
    if wrong > TOLD {
        log::warn!("policy store: {} more keys have wrong values", wrong - TOLD);
    }
}
