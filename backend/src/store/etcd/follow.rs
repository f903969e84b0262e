//! Following the store: being there, reading what is wanted of it, and watching that.
//!
//! Objects of which there are few are followed all; of records those of the virtual subnets that this host needs ([`super::hold`]), each by a
//! watch of its own. All watches are one stream. A watch resumes after what was applied of it; when that is compacted away, its part is read
//! again, and no other.
//!
//! Other objects are followed by two watches, and what changes together is applied together: they are kept back for [`TOGETHER`] at most, or
//! until the store says that both watches are as far.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status as Failure;
use vswitch::event::Event;
use vswitch::refusal::NvRefusal;

use super::hold::{Held, Page};
use super::keys::{self, Meaning, Scope};
use super::read::{self, Pages, too_large};
use super::rpc::{
    ALL_WATCHES, Client, Header, KeyValue, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, WatchAsk,
    WatchCancel, WatchCreate, WatchProgress, WatchRequest, WatchResponse,
};
use super::scope::{Followed, Scopes};
use super::write::{self, Written};
use super::{Command, Commands, End, FAREWELL, words};
use crate::control::nv::object::{Change, Key, Object};
use crate::spec::EventSink;
use crate::store::objects;
use crate::store::policy::{Follower, RecordChange, Status};

/// How often this host says that it is there; that is also how soon it notices that the store is not.
const SIGN: Duration = Duration::from_secs(2);
/// How long others take this host to be there without a sign, in seconds.
const PRESENCE: i64 = 15;
/// Wrong values of one reading that are told one by one.
pub(super) const TOLD: usize = 16;
/// How long objects that changed wait for those that changed with them.
const TOGETHER: Duration = Duration::from_millis(20);
/// How often is looked after what has its time.
const TICK: Duration = Duration::from_millis(100);
/// Shortest time between two questions how far the watches are.
const QUESTION: Duration = Duration::from_millis(10);
/// How long who wrote a change waits until it is in force here.
const ECHO: Duration = Duration::from_secs(5);

/// What is kept from one connection to the next.
pub(super) struct Session {
    host: String,
    pub(super) follower: Arc<dyn Follower>,
    events: Arc<dyn EventSink>,
    pub(super) status: Arc<Status>,
    /// What this host says of itself.
    presence: Vec<u8>,
    /// Changes that are to be written as soon as possible.
    carried: Vec<Vec<Change>>,
    /// Whether the store is to send in pieces what changed at once. That takes it far longer, with the square of how much it is, so that
    /// it is asked for only when a whole was too large.
    in_pieces: bool,
    /// Which store it was.
    cluster: u64,
    /// The newest revision that it was known to have.
    newest: i64,
    pub(super) scopes: Scopes,
    pub(super) held: Held,
    /// Objects that changed and are not applied yet.
    pending: Vec<(Key, Option<Object>)>,
}

/// What there is while a member is connected.
pub(super) struct Connection<'a> {
    pub(super) client: &'a Client,
    questions: mpsc::UnboundedSender<WatchRequest>,
    pub(super) pages: mpsc::Sender<Page>,
    pub(super) readers: JoinSet<()>,
    pub(super) look_ups: JoinSet<Result<read::Answers, Failure>>,
    writers: JoinSet<Ended>,
    echoes: Vec<Echo>,
    /// When objects were first kept back.
    kept_since: Option<Instant>,
    /// Since when an answer is awaited to how far the watches are.
    asked: Option<Instant>,
    /// When that may be asked again.
    next_question: Instant,
    /// Whether it is to be asked.
    is_due: bool,
}

impl Connection<'_> {
    pub(super) fn ask(&self, ask: WatchAsk) {
        // Its other end is in the stream, whose own end is noticed there.
        let _ = self.questions.send(WatchRequest { ask: Some(ask) });
    }
}

/// A writer's end.
enum Ended {
    Commit(Result<Written, NvRefusal>, oneshot::Sender<Result<i64, NvRefusal>>),
    /// With what was not written.
    Carry(Option<Vec<Change>>),
}

/// Somebody who waits until what was written is in force here. Is answered when it is dropped: it is written in any case.
struct Echo {
    needs: BTreeMap<Scope, i64>,
    revision: i64,
    until: Instant,
    reply: Option<oneshot::Sender<Result<i64, NvRefusal>>>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have gone.
            let _ = reply.send(Ok(self.revision));
        }
    }
}

/// What was found in keys that were read or changed.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) records: Vec<RecordChange>,
    pub(super) objects: Vec<(Key, Option<Object>)>,
    /// Keys of objects and records whose value is wrong.
    pub(super) unreadable: Vec<Key>,
    pub(super) wrong: usize,
}

impl Session {
    pub(super) fn new(
        host: String,
        follower: Arc<dyn Follower>,
        events: Arc<dyn EventSink>,
        status: Arc<Status>,
        grace: Duration,
    ) -> Self {
        let mut scopes = Scopes::default();
        scopes.all.extend(Scope::OBJECTS.map(|scope| (scope, Followed::default())));
        Self {
            host,
            follower,
            events,
            status,
            presence: Vec::new(),
            carried: Vec::new(),
            in_pieces: false,
            cluster: 0,
            newest: 0,
            scopes,
            held: Held::new(grace),
            pending: Vec::new(),
        }
    }

    /// What is asked while the store is away.
    pub(super) fn meanwhile(&mut self, command: Command, reason: &str) {
        let lost = || NvRefusal::StoreLost { reason: reason.to_owned() };
        // Whoever asked may have gone.
        match command {
            Command::Commit(_, reply) => drop(reply.send(Err(lost()))),
            Command::Find(_, reply) | Command::All(reply) => drop(reply.send(Err(lost()))),
            Command::Carry(changes) => self.carried.push(changes),
            Command::Present(value) => self.presence = value,
            Command::Follow(vsids) => self.follow_records(&vsids),
            Command::LookUp(_) => {}
        }
    }

    /// The store does not answer; whether it did before.
    pub(super) fn lost(&mut self, reason: &str) -> bool {
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
        self.scopes.unwatch_all();
        self.held.disconnected();
        self.apply_objects();
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
        if Scope::OBJECTS.iter().any(|scope| self.scopes.all.get(scope).is_none_or(|it| it.revision == 0)) {
            self.read_objects(client).await?;
        }
        let (questions, receiver) = mpsc::unbounded_channel();
        let (pages, mut read) = mpsc::channel(4);
        let mut connection = Connection {
            client,
            questions,
            pages,
            readers: JoinSet::new(),
            look_ups: JoinSet::new(),
            writers: JoinSet::new(),
            echoes: Vec::new(),
            kept_since: None,
            asked: None,
            next_question: Instant::now(),
            is_due: true,
        };
        let it = &mut connection;
        let known: Vec<Scope> = self
            .scopes
            .all
            .iter()
            .filter(|(_, scope)| scope.revision != 0)
            .map(|(scope, _)| *scope)
            .collect();
        for scope in known {
            self.watch(it, scope);
        }
        let mut watched = client.watch(UnboundedReceiverStream::new(receiver)).await?;
        self.read_records(it);
        let mut sign = tokio::time::interval_at(Instant::now() + SIGN, SIGN);
        sign.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut signs: JoinSet<Result<_, Failure>> = JoinSet::new();
        let mut up = false;
        loop {
            let together = it.kept_since.map_or_else(Instant::now, |since| since + TOGETHER);
            tokio::select! {
                response = watched.next() => {
                    let response = response.ok_or_else(|| Failure::unavailable("it ended the watch"))??;
                    if response.created && !up {
                        up = true;
                        self.status.found(member);
                        let revision = self.status.revision();
                        self.events.emit(Event::PolicyStoreUp { member: member.to_owned(), revision });
                        for changes in self.carried.drain(..) {
                            it.writers.spawn(carry(client.clone(), changes));
                        }
                    }
                    self.heard(it, response).await?;
                    self.echo(it);
                }
                Some(page) = read.recv() => {
                    self.page(it, page)?;
                    self.echo(it);
                }
                Some(answers) = it.look_ups.join_next() => {
                    let answers = answers.map_err(|e| Failure::internal(e.to_string()))??;
                    self.answered(answers);
                }
                () = tokio::time::sleep_until(together), if it.kept_since.is_some() => {
                    it.kept_since = None;
                    self.apply_objects();
                    self.echo(it);
                }
                () = tokio::time::sleep_until(it.next_question), if it.is_due && it.asked.is_none() => {
                    (it.is_due, it.asked) = (false, Some(Instant::now()));
                    it.next_question = Instant::now() + QUESTION;
                    it.ask(WatchAsk::Progress(WatchProgress {}));
                }
                _ = tick.tick() => {
                    // It says nothing while a watch has more to say.
                    if it.asked.is_some_and(|since| since.elapsed() > TICK) {
                        (it.is_due, it.asked) = (true, None);
                    }
                    while it.readers.try_join_next().is_some() {}
                    self.leave_records(it);
                    self.tell_whole();
                    self.echo(it);
                }
                _ = sign.tick(), if signs.is_empty() => {
                    let (client, lease) = (client.clone(), *lease);
                    signs.spawn(async move { client.keep_alive(lease).await });
                }
                Some(answer) = signs.join_next() => {
                    let answer = answer.map_err(|e| Failure::internal(e.to_string()))??;
                    self.status.heard(answer.header.unwrap_or_default().revision);
                    it.is_due = true;
                    if answer.ttl <= 0 {
                        // It was away for longer than the lease lasts.
                        *lease = self.appear(client).await?;
                        if self.scopes.all.values().all(|followed| followed.revision == 0) {
                            return Err(Failure::unavailable("it is another one"));
                        }
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Present(value)) => {
                        self.presence = value;
                        self.say_presence(client, *lease).await?;
                    }
                    Some(command) => self.command(it, command),
                    None => return Err(Failure::cancelled("the switch is stopping")),
                },
                Some(ended) = it.writers.join_next() => match ended.map_err(|e| Failure::internal(e.to_string()))? {
                    Ended::Commit(Ok(Written { revision, touched }), reply) => {
                        let (until, reply) = (Instant::now() + ECHO, Some(reply));
                        it.echoes.push(Echo { needs: touched, revision, until, reply });
                        self.echo(it);
                    }
                    // Whoever asked may have gone.
                    Ended::Commit(Err(why), reply) => drop(reply.send(Err(why))),
                    // Not written yet, because the store is about to be lost: again when it is back.
                    Ended::Carry(left) => self.carried.extend(left),
                },
            }
        }
    }

    fn command(&mut self, it: &mut Connection<'_>, command: Command) {
        match command {
            Command::Commit(changes, reply) => {
                let writing = write::commit(it.client.clone(), changes);
                it.writers.spawn(async move { Ended::Commit(writing.await, reply) });
            }
            Command::Carry(changes) => drop(it.writers.spawn(carry(it.client.clone(), changes))),
            Command::Present(value) => self.presence = value,
            Command::Follow(vsids) => {
                self.follow_records(&vsids);
                self.read_records(it);
            }
            Command::LookUp(wanted) => self.look_up(it, wanted),
            // Readers who end with the connection leave whoever asked without an answer, which is one.
            Command::Find(keys, reply) => {
                let finding = read::find(it.client.clone(), keys);
                it.readers.spawn(async move { drop(reply.send(finding.await)) });
            }
            Command::All(reply) => {
                let reading = read::all(it.client.clone());
                it.readers.spawn(async move { drop(reply.send(reading.await)) });
            }
        }
    }

    /// Answers those whose changes are in force here.
    fn echo(&mut self, it: &mut Connection<'_>) {
        if it.echoes.is_empty() {
            return;
        }
        let is_applied = |(scope, revision): (&Scope, &i64)| {
            let of_objects = Scope::OBJECTS.contains(scope);
            let followed = self.scopes.all.get(scope);
            followed.is_none_or(|followed| followed.revision >= *revision)
                && !(of_objects && !self.pending.is_empty())
        };
        let now = Instant::now();
        it.echoes.retain(|echo| {
            let is_late = now >= echo.until;
            if is_late {
                log::warn!("policy store: revision {} is written, but not heard of yet", echo.revision);
            }
            !is_late && !echo.needs.iter().all(is_applied)
        });
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
        if header.cluster != self.cluster || header.revision < self.newest {
            if self.newest != 0 {
                log::warn!("policy store: it is another one, or put back to revision {}", header.revision);
                self.status.reloaded();
                self.status.rewound();
            }
            self.cluster = header.cluster;
            self.scopes.all.values_mut().for_each(Followed::anew);
        }
        self.newest = header.revision;
        Ok(granted.id)
    }

    async fn say_presence(&self, client: &Client, lease: i64) -> Result<Header, Failure> {
        let (key, value) = (keys::host(&self.host).into_bytes(), self.presence.clone());
        let answer = client.put(PutRequest { key, value, lease }).await?;
        let header = answer.header.unwrap_or_default();
        self.status.heard(header.revision);
        Ok(header)
    }

    /// Reads all objects but records as they are at one revision.
    async fn read_objects(&mut self, client: &Client) -> Result<(), Failure> {
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

    /// Watches a part after what is applied of it.
    pub(super) fn watch(&mut self, it: &mut Connection<'_>, scope: Scope) {
        let watch = self.scopes.watch(scope);
        let (key, range_end) = scope.range();
        let start_revision = self.scopes.all.get(&scope).map_or(0, |followed| followed.revision) + 1;
        let fragment = self.in_pieces;
        let create = WatchCreate { key, range_end, start_revision, progress: true, watch, fragment };
        it.ask(WatchAsk::Create(create));
        it.is_due = true;
    }

    /// Ends the watch of a part.
    pub(super) fn unwatch(&mut self, it: &Connection<'_>, watch: i64) {
        if watch != 0 {
            self.scopes.unwatch(watch);
            it.ask(WatchAsk::Cancel(WatchCancel { watch }));
        }
    }

    /// Takes in what the stream of watches says.
    async fn heard(&mut self, it: &mut Connection<'_>, response: WatchResponse) -> Result<(), Failure> {
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
            self.all_heard(revision);
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
        Scope::OBJECTS.iter().for_each(|scope| self.watch(it, *scope));
        Ok(())
    }

    /// Applies what changed in one part.
    fn changed(&mut self, scope: Scope, response: WatchResponse) {
        let (mut batch, mut last, events) = (Batch::default(), 0, response.events.len());
        for event in response.events {
            let Some(kv) = event.kv else { continue };
            last = kv.mod_revision.max(last);
            let before = batch.records.len();
            self.read(&mut batch, scope, &kv, event.kind == 0);
            if let Some((key, _)) = batch.records.get(before)
                && let Some(followed) = self.scopes.all.get_mut(&scope)
                && !followed.admits(key, kv.mod_revision)
            {
                batch.records.truncate(before);
            }
        }
        let lacks = !batch.records.is_empty() && self.follower.records(&batch.records) > 0;
        self.pending.append(&mut batch.objects);
        // A response in fragments ends with the one that is none; before that, a revision may have come in part. One without events says
        // how far the watch is.
        if events == 0 && !response.created {
            last = response.header.unwrap_or_default().revision;
        }
        if let Some(followed) = self.scopes.all.get_mut(&scope) {
            followed.lacking |= lacks;
            if !response.fragment {
                followed.reached(last);
            }
        }
        self.status.changed(events);
    }

    /// All watches have said everything up to `revision`.
    fn all_heard(&mut self, revision: i64) {
        for followed in self.scopes.all.values_mut().filter(|it| it.watch != 0) {
            followed.heard_all(revision);
        }
        if !self.held.is_reading() {
            self.status.advanced(revision);
        }
    }

    fn apply_objects(&mut self) {
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

/// Writes changes; gives them back if the store was lost meanwhile. What somebody else made of their objects stays.
async fn carry(client: Client, changes: Vec<Change>) -> Ended {
    let left = match write::commit(client, changes.clone()).await {
        Ok(_) => None,
        Err(NvRefusal::StoreLost { .. } | NvRefusal::Partly { .. }) => Some(changes),
        Err(why) => {
            log::warn!("policy store: {} changes of this host were not written: {why}", changes.len());
            None
        }
    };
    Ended::Carry(left)
}

/// Why a call failed, in words.
fn said(failure: &Failure) -> String {
    match std::error::Error::source(failure) {
        Some(cause) => format!("{}: {}", failure.message(), words(cause)),
        None => failure.message().to_owned(),
    }
}
