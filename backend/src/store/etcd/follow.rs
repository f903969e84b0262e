//! Following the store: reading all of it, watching it, and being there.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status as Failure;
use vswitch::event::Event;
use vswitch::refusal::NvRefusal;

use super::keys::{self, Meaning};
use super::rpc::{
    Client, Header, KeyValue, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, WatchAsk,
    WatchCreate, WatchRequest, WatchResponse, end_of,
};
use super::{Command, Commands, End, FAREWELL, words, write};
use crate::control::nv::object::{Change, Key, Object, RecordKey};
use crate::spec::EventSink;
use crate::store::objects;
use crate::store::policy::{Follower, RecordChange, Status};

/// Keys of one page when everything is read.
const PAGE: i64 = 4096;
/// How often this host says that it is there; that is also how soon it notices that the store is not.
const SIGN: Duration = Duration::from_secs(2);
/// How long others take this host to be there without a sign, in seconds.
const PRESENCE: i64 = 15;
/// Wrong values of one reading that are told one by one.
const TOLD: usize = 16;

/// What is kept from one connection to the next.
pub(super) struct Session {
    host: String,
    follower: Arc<dyn Follower>,
    events: Arc<dyn EventSink>,
    status: Arc<Status>,
    /// What this host says of itself.
    presence: Vec<u8>,
    /// Changes that are to be written as soon as possible.
    carried: Vec<Vec<Change>>,
    /// Whether the store is to send in pieces what changed at once. That takes it far longer, with the square of how much it is, so that
    /// it is asked for only when a whole was too large.
    in_pieces: bool,
    /// Which store it was.
    cluster: u64,
    /// Up to here everything is applied; 0 = nothing is.
    revision: i64,
}

/// What was found in keys that were read or changed.
#[derive(Default)]
struct Batch {
    records: Vec<RecordChange>,
    objects: Vec<(Key, Option<Object>)>,
    /// Keys of objects and records whose value is wrong.
    unreadable: Vec<Key>,
    wrong: usize,
}

impl Session {
    pub(super) fn new(
        host: String,
        follower: Arc<dyn Follower>,
        events: Arc<dyn EventSink>,
        status: Arc<Status>,
    ) -> Self {
        Self {
            host,
            follower,
            events,
            status,
            presence: Vec::new(),
            carried: Vec::new(),
            in_pieces: false,
            cluster: 0,
            revision: 0,
        }
    }

    /// What this host says of itself from now on.
    pub(super) fn present(&mut self, value: Vec<u8>) {
        self.presence = value;
    }

    /// Changes to be written as soon as possible.
    pub(super) fn carry(&mut self, changes: Vec<Change>) {
        self.carried.push(changes);
    }

    /// The store does not answer; whether it did before.
    pub(super) fn lost(&self, reason: &str) -> bool {
        let was_up = self.status.lost(reason);
        if was_up {
            self.events.emit(Event::PolicyStoreLost { reason: reason.to_owned() });
        } else {
            log::debug!("policy store: {reason}");
        }
        was_up
    }

    /// Follows one member until it is lost.
    pub(super) async fn follow(
        &mut self,
        member: &str,
        client: Client,
        commands: &mut Commands,
        stopping: &mut watch::Receiver<bool>,
    ) -> End {
        let mut lease = 0;
        let ended = tokio::select! {
            end = self.session(member, &client, commands, &mut lease) => Some(end),
            _ = stopping.wait_for(|stop| *stop) => None,
        };
        let end = match ended {
            None => End::Stop,
            Some(Ok(never)) => match never {},
            Some(Err(failure)) => {
                self.in_pieces |= too_large(&failure);
                End::Lost(said(&failure))
            }
        };
        if lease != 0 && matches!(end, End::Stop) {
            // The others need not wait until it runs out.
            let _ = tokio::time::timeout(FAREWELL, client.revoke(LeaseRevokeRequest { id: lease })).await;
        }
        end
    }

    async fn session(
        &mut self,
        member: &str,
        client: &Client,
        commands: &mut Commands,
        lease: &mut i64,
    ) -> Result<std::convert::Infallible, Failure> {
        *lease = self.appear(client).await?;
        if self.revision == 0 {
            self.read_all(client).await?;
        }
        let (mut questions, mut watched) = self.watch(client).await?;
        let mut sign = tokio::time::interval_at(tokio::time::Instant::now() + SIGN, SIGN);
        sign.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut signs: JoinSet<Result<_, Failure>> = JoinSet::new();
        let mut writers: JoinSet<Option<Vec<Change>>> = JoinSet::new();
        let mut up = false;
        loop {
            tokio::select! {
                response = watched.next() => {
                    let response = response.ok_or_else(|| Failure::unavailable("it ended the watch"))??;
                    if response.compact_revision != 0 {
                        log::info!("policy store: revision {} is compacted away, reading all", self.revision);
                        self.status.reloaded();
                        self.read_all(client).await?;
                        (questions, watched) = self.watch(client).await?;
                        continue;
                    }
                    if response.canceled {
                        return Err(Failure::unavailable(format!("it ended the watch: {}", response.cancel_reason)));
                    }
                    if response.created && !up {
                        up = true;
                        self.status.found(member);
                        self.events.emit(Event::PolicyStoreUp { member: member.to_owned(), revision: self.revision });
                        for changes in self.carried.drain(..) {
                            writers.spawn(carry(client.clone(), changes));
                        }
                    }
                    self.changed(response);
                }
                _ = sign.tick(), if signs.is_empty() => {
                    let (client, lease) = (client.clone(), *lease);
                    signs.spawn(async move { client.keep_alive(lease).await });
                }
                Some(answer) = signs.join_next() => {
                    let answer = answer.map_err(|e| Failure::internal(e.to_string()))??;
                    self.status.heard(answer.header.unwrap_or_default().revision);
                    if answer.ttl <= 0 {
                        // It was away for longer than the lease lasts.
                        *lease = self.appear(client).await?;
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Commit(changes, reply)) => {
                        let writing = write::commit(client.clone(), changes);
                        writers.spawn(async move {
                            // Whoever asked may have gone.
                            let _ = reply.send(writing.await);
                            None
                        });
                    }
                    Some(Command::Carry(changes)) => drop(writers.spawn(carry(client.clone(), changes))),
                    Some(Command::Present(value)) => {
                        self.presence = value;
                        self.say_presence(client, *lease).await?;
                    }
                    None => return Err(Failure::cancelled("the switch is stopping")),
                },
                Some(written) = writers.join_next() => {
                    // Not written yet, because the store is about to be lost: again when it is back.
                    self.carried.extend(written.ok().flatten());
                }
            }
            // The channel of questions must stay open for as long as the watch is wanted.
            let _ = &questions;
        }
    }

    /// Takes a lease and says with it that this host is there.
    ///
    /// That is the first thing heard of a store, too: when it is another one than before, or one that was put back to an earlier state,
    /// nothing that is known of it holds.
    async fn appear(&mut self, client: &Client) -> Result<i64, Failure> {
        let granted = client.grant(LeaseGrantRequest { ttl: PRESENCE, id: 0 }).await?;
        if !granted.error.is_empty() {
            return Err(Failure::unavailable(granted.error));
        }
        let header = self.say_presence(client, granted.id).await?;
        if header.cluster != self.cluster || header.revision < self.revision {
            if self.revision != 0 {
                log::warn!("policy store: it is another one, or put back to revision {}", header.revision);
                self.status.reloaded();
                self.status.rewound();
            }
            (self.cluster, self.revision) = (header.cluster, 0);
        }
        Ok(granted.id)
    }

    async fn say_presence(&self, client: &Client, lease: i64) -> Result<Header, Failure> {
        let (key, value) = (keys::host(&self.host).into_bytes(), self.presence.clone());
        let answer = client.put(PutRequest { key, value, lease }).await?;
        let header = answer.header.unwrap_or_default();
        self.status.heard(header.revision);
        Ok(header)
    }

    /// Reads everything as it is at one revision, and applies what differs from what is known.
    async fn read_all(&mut self, client: &Client) -> Result<(), Failure> {
        let prefix = keys::PREFIX.as_bytes();
        let (mut from, end) = (prefix.to_vec(), end_of(prefix));
        let (mut revision, mut limit) = (0, PAGE);
        let (mut objects, mut unreadable, mut wrong) = (Vec::new(), Vec::new(), 0);
        let mut gone: HashSet<RecordKey> = self.follower.held().into_iter().collect();
        self.status.forget_skipped();
        self.status.forget_hosts();
        loop {
            let request = RangeRequest { key: from.clone(), range_end: end.clone(), limit, revision };
            let page = match client.range(request).await {
                // Values may be of any length: fewer of them then.
                Err(e) if too_large(&e) && limit > 1 => {
                    limit /= 8;
                    continue;
                }
                page => page?,
            };
            if revision == 0 {
                revision = page.header.unwrap_or_default().revision;
            }
            self.status.heard(revision);
            if let Some(last) = page.kvs.last() {
                from.clone_from(&last.key);
                from.push(0);
            }
            let mut batch = Batch { wrong, ..Batch::default() };
            for kv in &page.kvs {
                self.read(&mut batch, kv, true);
            }
            for (key, _) in &batch.records {
                gone.remove(key);
            }
            for key in &batch.unreadable {
                if let Key::Record(key) = key {
                    gone.remove(key);
                }
            }
            self.follower.records(&batch.records);
            self.status.advanced(0, batch.records.len() + batch.objects.len());
            objects.extend(batch.objects.into_iter().filter_map(|(_, object)| object));
            unreadable.append(&mut batch.unreadable);
            wrong = batch.wrong;
            if !page.more {
                break;
            }
        }
        let gone: Vec<RecordChange> = gone.into_iter().map(|key| (key, None)).collect();
        self.follower.records(&gone);
        self.follower.loaded(objects, &unreadable);
        self.status.advanced(revision, gone.len());
        self.revision = revision;
        if wrong > TOLD {
            log::warn!("policy store: {} more keys have wrong values", wrong - TOLD);
        }
        Ok(())
    }

    /// Begins to watch after what is applied.
    async fn watch(
        &self,
        client: &Client,
    ) -> Result<(mpsc::UnboundedSender<WatchRequest>, tonic::Streaming<WatchResponse>), Failure> {
        let prefix = keys::PREFIX.as_bytes();
        let create = WatchCreate {
            key: prefix.to_vec(),
            range_end: end_of(prefix),
            start_revision: self.revision + 1,
            fragment: self.in_pieces,
        };
        let (questions, receiver) = mpsc::unbounded_channel();
        // It cannot be closed: the receiver is here.
        let _ = questions.send(WatchRequest { ask: Some(WatchAsk::Create(create)) });
        Ok((questions, client.watch(UnboundedReceiverStream::new(receiver)).await?))
    }

    /// Applies what changed.
    fn changed(&mut self, response: WatchResponse) {
        self.status.heard(response.header.unwrap_or_default().revision);
        let (mut batch, mut last, events) = (Batch::default(), 0, response.events.len());
        for event in response.events {
            let Some(kv) = event.kv else { continue };
            last = kv.mod_revision.max(last);
            self.read(&mut batch, &kv, event.kind == 0);
        }
        if !batch.records.is_empty() {
            self.follower.records(&batch.records);
        }
        if !batch.objects.is_empty() {
            self.follower.objects(&batch.objects);
        }
        // A response in fragments ends with the one that is none; before that, a revision may have come in part.
        if last > self.revision && !response.fragment {
            self.revision = last;
        }
        self.status.advanced(if response.fragment { 0 } else { last }, events);
    }

    /// Notes what a key holds, or (`is_there` false) that it is gone.
    fn read(&self, batch: &mut Batch, kv: &KeyValue, is_there: bool) {
        let name = || String::from_utf8_lossy(&kv.key).into_owned();
        let key = match keys::meaning(&kv.key) {
            Some(Meaning::Host(id)) => return self.status.host(&id, is_there),
            Some(Meaning::Object(key)) => key,
            None if is_there => return self.wrong(batch, &name(), "there is no such key".into()),
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
                self.wrong(batch, &name(), reason);
                batch.unreadable.push(key);
            }
        }
    }

    fn wrong(&self, batch: &mut Batch, key: &str, reason: String) {
        if self.status.skip(key, &reason) {
            batch.wrong += 1;
            if batch.wrong <= TOLD {
                self.events.emit(Event::PolicySkipped { key: key.to_owned(), reason });
            }
        }
    }
}

/// Writes changes; gives them back if the store was lost meanwhile. What somebody else made of their objects stays.
async fn carry(client: Client, changes: Vec<Change>) -> Option<Vec<Change>> {
    match write::commit(client, changes.clone()).await {
        Ok(_) => None,
        Err(NvRefusal::StoreLost { .. } | NvRefusal::Partly { .. }) => Some(changes),
        Err(why) => {
            log::warn!("policy store: {} changes of this host were not written: {why}", changes.len());
            None
        }
    }
}

fn too_large(failure: &Failure) -> bool {
    matches!(failure.code(), tonic::Code::OutOfRange | tonic::Code::ResourceExhausted)
}

/// Why a call failed, in words.
fn said(failure: &Failure) -> String {
    match std::error::Error::source(failure) {
        Some(cause) => format!("{}: {}", failure.message(), words(cause)),
        None => failure.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;

    /// Counts records.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Follower for Counter {
        fn records(&self, changes: &[RecordChange]) {
            self.0.fetch_add(changes.len(), Ordering::Relaxed);
        }

        fn held(&self) -> Vec<RecordKey> {
            Vec::new()
        }

        fn objects(&self, _: &[(Key, Option<Object>)]) {}

        fn loaded(&self, _: Vec<Object>, _: &[Key]) {}
    }

    /// `cargo test -p turnpike --lib -- --ignored --nocapture figures_of_watched`
    #[test]
    #[ignore = "prints times"]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_wrap, reason = "small numbers")]
    fn figures_of_watched_changes() {
        const CHANGES: usize = 100_000;
        let event = |n: usize| {
            let ca = format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255);
            let value =
                format!(r#"{{"vsid":5001,"ca":"{ca}","mac":"02:00:00:00:00:01","pa":"192.168.1.1"}}"#);
            let key = format!("{}records/5001/{ca}", keys::PREFIX).into_bytes();
            let kv = KeyValue { key, mod_revision: n as i64, value: value.into_bytes() };
            crate::store::etcd::rpc::WatchEvent { kind: 0, kv: Some(kv) }
        };
        let events: Vec<_> = (1..=CHANGES).map(event).collect();
        let counter = Arc::new(Counter::default());
        let log = Arc::new(crate::events::EventLog::default());
        let mut session = Session::new("a".into(), counter.clone(), log, Arc::default());
        let responses: Vec<_> = events
            .chunks(1000)
            .map(|some| WatchResponse { events: some.to_vec(), ..WatchResponse::default() })
            .collect();
        let start = Instant::now();
        for response in responses {
            session.changed(response);
        }
        let took = start.elapsed();
        assert_eq!(counter.0.load(Ordering::Relaxed), CHANGES);
        println!("{:.0} changes of a watch a second", CHANGES as f64 / took.as_secs_f64());
    }
}
