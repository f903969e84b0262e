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

use super::carry::{Carried, Outcome};
use super::hold::{Held, Page};
use super::keys::{self, Scope};
use super::learned::{self, Published, Told};
use super::read::{self, too_large};
use super::rpc::{
    Client, Header, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, WatchAsk, WatchCancel, WatchCreate,
    WatchProgress, WatchRequest,
};
use super::scope::{Followed, Scopes};
use super::write::{self, Written};
use super::{Command, Commands, End, FAREWELL, words};
use crate::control::nv::object::{Change, Key, Object};
use crate::spec::EventSink;
use crate::store::policy::{Follower, Status, Writing};

/// How often this host says that it is there; that is also how soon it notices that the store is not.
const SIGN: Duration = Duration::from_secs(2);
/// How long others take this host to be there without a sign, in seconds.
const PRESENCE: i64 = 15;
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
    pub(super) events: Arc<dyn EventSink>,
    pub(super) status: Arc<Status>,
    /// What this host says of itself.
    presence: Vec<u8>,
    /// Changes that are to be written as soon as possible.
    pub(super) carried: Carried,
    /// Whether the store is to send in pieces what changed at once. That takes it far longer, with the square of how much it is, so that
    /// it is asked for only when a whole was too large.
    in_pieces: bool,
    /// Which store it was.
    cluster: u64,
    /// The newest revision that it was known to have.
    pub(super) newest: i64,
    pub(super) scopes: Scopes,
    pub(super) held: Held,
    /// What was learned here.
    pub(super) learned: Published,
    /// Objects that changed and are not applied yet.
    pub(super) pending: Vec<(Key, Option<Object>)>,
}

/// What there is while a member is connected.
pub(super) struct Connection<'a> {
    pub(super) client: &'a Client,
    questions: mpsc::UnboundedSender<WatchRequest>,
    pub(super) pages: mpsc::Sender<Page>,
    pub(super) readers: JoinSet<()>,
    pub(super) look_ups: JoinSet<Result<read::Answers, Failure>>,
    writers: JoinSet<Ended>,
    tellers: JoinSet<Result<Told, Failure>>,
    echoes: Vec<Echo>,
    /// When objects were first kept back.
    pub(super) kept_since: Option<Instant>,
    /// Since when an answer is awaited to how far the watches are.
    pub(super) asked: Option<Instant>,
    /// When that may be asked again.
    next_question: Instant,
    /// Whether it is to be asked.
    pub(super) is_due: bool,
    /// The revision of this host's sign that it is there.
    pub(super) sign: i64,
    /// When a watch said something as late as that.
    pub(super) passed: Option<Instant>,
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
    /// With its number.
    Carry(u64, Outcome),
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
            carried: Carried::default(),
            in_pieces: false,
            cluster: 0,
            newest: 0,
            scopes,
            held: Held::new(grace),
            learned: Published::default(),
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
            Command::Carry(changes) => self.carried.say(changes),
            Command::Present(value) => self.presence = value,
            Command::Follow(vsids) => self.follow_records(&vsids),
            Command::Publish(learned, all) => self.learned.news(learned, all),
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
        self.carried.disconnected();
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
        self.learned.again();
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
            tellers: JoinSet::new(),
            echoes: Vec::new(),
            kept_since: None,
            asked: None,
            next_question: Instant::now(),
            is_due: true,
            sign: self.newest,
            passed: None,
        };
        let it = &mut connection;
        let mut known: Vec<Scope> = self
            .scopes
            .all
            .iter()
            .filter(|(_, scope)| scope.revision != 0)
            .map(|(scope, _)| *scope)
            .collect();
        // The one that this host's own sign is in comes last: when that is said, the others have been looked after, too.
        known.sort_by_key(|scope| *scope == Scope::Before);
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
                        self.carry(it);
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
                    it.is_due |= self.scopes.is_behind();
                    while it.readers.try_join_next().is_some() {}
                    self.leave_records(it);
                    if it.tellers.is_empty() {
                        let due = self.learned.next();
                        if !due.is_empty() {
                            it.tellers.spawn(learned::write(client.clone(), *lease, due));
                        }
                    }
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
                        self.learned.again();
                        if self.scopes.all.values().all(|followed| followed.revision == 0) {
                            return Err(Failure::unavailable("it is another one"));
                        }
                    }
                }
                Some(told) = it.tellers.join_next() => {
                    let told = told.map_err(|e| Failure::internal(e.to_string()))??;
                    for (learned, there) in self.learned.told(told) {
                        let (vsid, address, mac) = (learned.vsid, learned.ca, learned.mac);
                        self.events.emit(Event::PolicyLearnedRefused { vsid, address, mac, owner: there.mac });
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
                    Ended::Carry(number, outcome) => {
                        let holds = self.carried.ended(number, outcome);
                        self.follower.records(&holds);
                        if outcome != Outcome::Lost {
                            self.carry(it);
                        }
                    }
                },
            }
        }
    }

    fn command(&mut self, it: &mut Connection<'_>, command: Command) {
        match command {
            Command::Commit(changes, reply) => {
                let progress = self.status.begins(changes.len());
                let writing = write::commit(it.client.clone(), changes, progress);
                it.writers.spawn(async move { Ended::Commit(writing.await, reply) });
            }
            Command::Carry(changes) => {
                self.carried.say(changes);
                self.carry(it);
            }
            Command::Present(value) => self.presence = value,
            Command::Follow(vsids) => {
                self.follow_records(&vsids);
                self.read_records(it);
            }
            Command::Publish(learned, all) => self.learned.news(learned, all),
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

    /// Writes changes of this host itself.
    fn carry(&mut self, it: &mut Connection<'_>) {
        for (number, changes) in self.carried.next() {
            let progress = self.status.begins(changes.len());
            let writing = carry(it.client.clone(), changes, progress);
            it.writers.spawn(async move { Ended::Carry(number, writing.await) });
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
                && (!of_objects || self.pending.is_empty())
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
}

/// Writes changes. What somebody else made of their objects stays.
async fn carry(client: Client, changes: Vec<Change>, progress: Writing) -> Outcome {
    let count = changes.len();
    match write::commit(client, changes, progress).await {
        Ok(written) => Outcome::Written(written.revision),
        Err(NvRefusal::StoreLost { .. } | NvRefusal::Partly { .. }) => Outcome::Lost,
        Err(why) => {
            log::warn!("policy store: {count} changes of this host were not written: {why}");
            Outcome::Refused
        }
    }
}

/// Why a call failed, in words.
fn said(failure: &Failure) -> String {
    match std::error::Error::source(failure) {
        Some(cause) => format!("{}: {}", failure.message(), words(cause)),
        None => failure.message().to_owned(),
    }
}
