//! All hosts, the store and the physical network in virtual time: what happens is in one queue, ordered by when it happens.
//!
//! A guest's move, step by step, is what the control plane does: a port is made ready at the new host, which reads and watches the records
//! of the guest's customer network unless it has them, and says in the guest's record that it is about to be there; its memory is copied
//! ([`COPY`]), the guest stands still ([`PAUSE`]), runs at the new host, and that one changes the guest's record: at once in its own table,
//! then in the store. What comes for a port whose guest does not run is held and, when the
//! guest's record says that it is elsewhere (or it runs), judged again. A packet takes [`FLIGHT`] from host to host.

use std::collections::BTreeMap;

use vswitch::PortId;
use vswitch::nv::model::Record;
use vswitch::nv::overlay::Ingress;
use vswitch::nv::records::{Change, GRACE, Of, of};
use vswitch::trace::DropReason;

use super::host::{Goes, Held, Host, UPLINK, uplink_mac};
use super::plan::{Plan, Size, host_of, pa};
use super::store::{COMMIT, SLOWEST, Store, Traffic, watched};
use crate::nv::udp;
use crate::support::{Random, SECOND};

const MILLI: u64 = 1_000_000;
/// For how long a guest stands still, at least; up to twice that.
const PAUSE: u64 = 2 * MILLI;
/// Until a guest's memory is at another host while it runs: longer than a change of the store needs to be known everywhere, which is
/// 0.15 s, as that of every machine of some size takes.
const COPY: u64 = 2 * SLOWEST + COMMIT;
/// Until a packet is at another host, at most; at least a quarter of that.
const FLIGHT: u64 = MILLI / 10;
/// How long the old host keeps the port of a guest that has left, from when it hears of that.
const KEPT: u64 = SECOND;

/// Why a frame was sent, which says what may become of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// To a guest on the move: it must arrive.
    ToMoved,
    /// By a guest that has just moved: it must arrive, whoever has heard of that.
    ByMoved,
    /// While nobody moves: it must arrive where the plan says, or nowhere.
    Sample,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) sent: Sent,
    pub(super) from: usize,
    /// Who is to get it.
    pub(super) to: Option<usize>,
    pub(super) got: u32,
    pub(super) dropped: Option<DropReason>,
    pub(super) held: bool,
    /// Packets it was on the physical network.
    pub(super) packets: u32,
}

#[derive(Debug)]
enum Event {
    /// A guest is to move.
    Begin {
        guest: usize,
        to: usize,
    },
    /// What a host read of the store is there.
    Page {
        host: usize,
        rows: Vec<Record>,
    },
    Pause {
        moving: usize,
    },
    Run {
        moving: usize,
    },
    /// The store has what the guest's new host says of it: that it is about to be there, or is.
    Commit {
        moving: usize,
        is_there: bool,
    },
    Heard {
        host: usize,
        revision: usize,
    },
    /// A host's port of a guest that has left goes.
    Remove {
        host: usize,
        port: u16,
    },
    /// Records that a host may not need any more.
    Forget {
        host: usize,
    },
    Send {
        from: usize,
        to: usize,
        sent: Sent,
    },
    Wire {
        host: usize,
        frame: Vec<u8>,
    },
}

/// A guest's move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) guest: usize,
    pub(super) from: usize,
    old_port: u16,
    pub(super) to: usize,
    new_port: u16,
    pub(super) ran: u64,
    pub(super) committed: u64,
    /// When the last host's table said where the guest is.
    pub(super) known: u64,
    /// Hosts that were to hear of it, and that did.
    pub(super) told: usize,
    pub(super) heard: usize,
    pub(super) traffic: Traffic,
}

pub(super) struct Cloud {
    pub(super) plan: Plan,
    pub(super) hosts: Vec<Host>,
    pub(super) store: Store,
    pub(super) frames: Vec<Frame>,
    pub(super) moves: Vec<Move>,
    /// By revision: the move it is of, and whether the guest is there.
    committed: Vec<(usize, bool)>,
    queue: BTreeMap<(u64, u64), Event>,
    serial: u64,
    pub(super) now: u64,
    pub(super) random: Random,
    /// Guests that move at some time; others are asked to send to them.
    restless: Vec<bool>,
    /// Allocated, in bytes: switches with their policy, and records.
    pub(super) bare_bytes: u64,
    pub(super) record_bytes: u64,
}

impl Cloud {
    /// Everybody is where the plan says, and every host has read the records it needs.
    pub(super) fn new(size: Size, seed: u64) -> Self {
        let mut random = Random(seed);
        let plan = Plan::new(size, &mut random);
        let rows = (0..plan.guests.len()).map(|guest| plan.record(guest, plan.guests[guest].at));
        let rows = rows.map(|record| ((record.vsid, record.ca), record)).collect();
        let store = Store::new(size.hosts, rows, random.next());
        let now = 1000 * SECOND;
        let mut hosts = Vec::new();
        let bare = allocation_counter::measure(|| {
            hosts.extend((0..size.hosts).map(|n| Host::new(n, &plan, now)));
        });
        let restless = vec![false; plan.guests.len()];
        let mut this = Self {
            plan,
            hosts,
            store,
            frames: Vec::new(),
            moves: Vec::new(),
            committed: Vec::new(),
            queue: BTreeMap::new(),
            serial: 0,
            now,
            random,
            restless,
            bare_bytes: bare.bytes_current as u64,
            record_bytes: 0,
        };
        for guest in 0..this.plan.guests.len() {
            let at = this.plan.guests[guest].at;
            this.plan.guests[guest].port = this.hosts[at].add(guest);
        }
        for host in 0..size.hosts {
            this.hosts[host].publish(&this.plan);
            let (rows, _) = this.follow(host);
            let (now, to) = (this.now, &this.hosts[host]);
            let used = allocation_counter::measure(|| {
                for record in &rows {
                    assert_eq!(to.state.nv.records.upsert(now, record, record.pa == pa(host)), Change::New);
                }
            });
            this.record_bytes += used.bytes_current as u64;
        }
        this
    }

    fn at(&mut self, when: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((when, self.serial), event);
    }

    /// Moves that many guests of tenants with more than one, at that rate; the guests and, until when it takes, the time.
    pub(super) fn move_some(&mut self, count: usize, a_second: u64) {
        for n in 0..count {
            let guest = loop {
                let guest = self.random.below(self.plan.guests.len());
                if !self.restless[guest] && self.plan.tenants[self.plan.guests[guest].tenant].guests.len() > 1
                {
                    break guest;
                }
            };
            self.restless[guest] = true;
            let at = self.plan.guests[guest].at;
            let to = (at + 1 + self.random.below(self.hosts.len() - 1)) % self.hosts.len();
            self.at(self.now + n as u64 * SECOND / a_second, Event::Begin { guest, to });
        }
        self.run(self.now + count as u64 * SECOND / a_second + SECOND);
    }

    /// Random guests of every tenant send to addresses that are the same everywhere.
    pub(super) fn sample(&mut self, each: usize) {
        for tenant in 0..self.plan.tenants.len() {
            for _ in 0..each {
                let guests = self.plan.tenants[tenant].guests.clone();
                let from = guests.start + self.random.below(guests.len());
                let any = self.random.below(self.plan.guests.len());
                // Half of them to somebody's address anywhere, which may or may not be one in the sender's network, too.
                let any =
                    if self.random.once_in(2) { any } else { guests.start + self.random.below(guests.len()) };
                self.at(self.now, Event::Send { from, to: any, sent: Sent::Sample });
            }
        }
        self.run(self.now + SECOND);
    }

    /// Everything that happens until then.
    pub(super) fn run(&mut self, until: u64) {
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= until
        {
            self.now = entry.key().0;
            let event = entry.remove();
            self.happens(event);
        }
        self.now = until;
    }

    fn happens(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Begin { guest, to } => self.begin(guest, to),
            Event::Page { host, rows } => {
                for record in rows {
                    self.hosts[host].state.nv.records.upsert(now, &record, record.pa == pa(host));
                }
            }
            Event::Pause { moving } => self.pause(moving),
            Event::Run { moving } => self.runs(moving),
            Event::Commit { moving, is_there } => self.commit(moving, is_there),
            Event::Heard { host, revision } => self.hears(host, revision),
            Event::Remove { host, port } => {
                self.hosts[host].ports.remove(&port);
                let left = self.hosts[host].held.remove(&port);
                assert!(left.is_none_or(|held| held.is_empty()), "nothing waits for who left");
                self.hosts[host].publish(&self.plan);
                self.at(now + GRACE, Event::Forget { host });
            }
            Event::Forget { host } => self.forget(host),
            Event::Send { from, to, sent } => self.send(from, to, sent),
            Event::Wire { host, frame } => {
                let id = id(&frame);
                match self.hosts[host].open(now, &frame) {
                    Ok((inner, ingress)) => self.judge(host, UPLINK, inner, Some(ingress)),
                    Err(reason) => self.frames[id].dropped = Some(reason),
                }
            }
        }
    }

    // --- records

    /// Reads and watches what a host needs and does not have: the rows, and when it has them.
    fn follow(&mut self, host: usize) -> (Vec<Record>, u64) {
        let needed = self.hosts[host].needed(&self.plan);
        let new: Vec<u32> = needed.difference(&self.hosts[host].watched).copied().collect();
        self.hosts[host].watched.extend(&new);
        if new.is_empty() {
            return (Vec::new(), self.now);
        }
        let asked = self.now + self.store.delay(host);
        self.store.read(host, &new, asked)
    }

    fn forget(&mut self, host: usize) {
        let needed = self.hosts[host].needed(&self.plan);
        let gone: Vec<u32> = self.hosts[host].watched.difference(&needed).copied().collect();
        for vsid in gone {
            self.store.unwatch(host, vsid);
            self.hosts[host].watched.remove(&vsid);
            let records = &self.hosts[host].state.nv.records;
            for record in records.list(Some(vsid)) {
                records.remove(vsid, of(&record));
            }
        }
    }

    fn hears(&mut self, host: usize, revision: usize) {
        let (record, now) = (self.store.log[revision], self.now);
        self.hosts[host].heard.add(watched(&record));
        let (moving, is_there) = self.committed[revision];
        let change = self.hosts[host].state.nv.records.upsert(now, &record, record.pa == pa(host));
        if !is_there {
            assert!(matches!(change, Change::Changed | Change::Same), "{change:?} at host {host}");
            return;
        }
        self.moves[moving].heard += 1;
        let Move { guest, from, old_port, to, .. } = self.moves[moving];
        match change {
            Change::Moved { from: before } => {
                assert_eq!(before, pa(from));
                self.moves[moving].known = now;
                if host == from {
                    self.release(host, old_port);
                    self.at(now + KEPT, Event::Remove { host, port: old_port });
                }
            }
            Change::Same => assert_eq!(host, to, "only the new host knew that guest {guest} has moved"),
            other => panic!("{other:?} at host {host}"),
        }
    }

    // --- a move

    fn begin(&mut self, guest: usize, to: usize) {
        let (from, old_port) = (self.plan.guests[guest].at, self.plan.guests[guest].port);
        let new_port = self.hosts[to].add(guest);
        self.hosts[to].publish(&self.plan);
        let (rows, ready) = self.follow(to);
        if !rows.is_empty() {
            self.at(ready, Event::Page { host: to, rows });
        }
        let (ran, committed, known, told, heard) = (0, 0, 0, 0, 0);
        let traffic = Traffic::default();
        self.moves.push(Move {
            guest,
            from,
            old_port,
            to,
            new_port,
            ran,
            committed,
            known,
            told,
            heard,
            traffic,
        });
        let (moving, asked) = (self.moves.len() - 1, ready + 1 + self.store.delay(to));
        self.at(asked + COMMIT, Event::Commit { moving, is_there: false });
        self.at(ready + 1 + COPY, Event::Pause { moving });
    }

    fn pause(&mut self, moving: usize) {
        let guest = self.moves[moving].guest;
        self.plan.guests[guest].runs = false;
        let when = self.now + PAUSE + self.random.next() % PAUSE;
        self.at(when, Event::Run { moving });
        for peer in self.peers(guest) {
            for _ in 0..6 {
                let when = self.now + self.random.next() % (30 * MILLI);
                self.at(when, Event::Send { from: peer, to: guest, sent: Sent::ToMoved });
            }
            let later = when + 1 + self.random.next() % (10 * MILLI);
            self.at(later, Event::Send { from: guest, to: peer, sent: Sent::ByMoved });
        }
    }

    /// Guests of a guest's customer network that stay where they are: at the two hosts of its move, if there are any, and elsewhere.
    fn peers(&mut self, guest: usize) -> Vec<usize> {
        let guests = self.plan.tenants[self.plan.guests[guest].tenant].guests.clone();
        let first = self.random.below(guests.len());
        let turned = guests.clone().skip(first).chain(guests.take(first));
        let mut peers: Vec<usize> = turned.filter(|&it| it != guest && !self.restless[it]).collect();
        let moving = self.moves.iter().rev().find(|it| it.guest == guest).copied();
        let near = |it: &usize| moving.is_some_and(|m| [m.from, m.to].contains(&self.plan.guests[*it].at));
        peers.sort_by_key(|it| !near(it));
        peers.truncate(5);
        peers
    }

    fn runs(&mut self, moving: usize) {
        let Move { guest, to, new_port, .. } = self.moves[moving];
        let (record, now) = (self.plan.record(guest, to), self.now);
        let state = &mut self.plan.guests[guest];
        (state.at, state.port, state.runs) = (to, new_port, true);
        let change = self.hosts[to].state.nv.records.upsert(now, &record, true);
        assert!(matches!(change, Change::Moved { .. }), "{change:?}");
        self.moves[moving].ran = now;
        self.release(to, new_port);
        let asked = now + self.store.delay(to);
        self.at(asked + COMMIT, Event::Commit { moving, is_there: true });
    }

    fn commit(&mut self, moving: usize, is_there: bool) {
        let Move { guest, from, to, .. } = self.moves[moving];
        let record = if is_there {
            self.plan.record(guest, to)
        } else {
            Record { next: Some(pa(to)), ..self.plan.record(guest, from) }
        };
        let (revision, told) = self.store.commit(self.now, &record);
        self.committed.push((moving, is_there));
        let it = &mut self.moves[moving];
        if is_there {
            (it.committed, it.known, it.told) = (self.now, self.now, told.len());
        }
        for _ in &told {
            it.traffic.add(watched(&record));
        }
        for (host, when) in told {
            self.at(when, Event::Heard { host, revision });
        }
    }

    // --- frames

    fn send(&mut self, from: usize, to: usize, sent: Sent) {
        let (sender, ca) = (self.plan.guests[from], self.plan.guests[to].ca);
        if !sender.runs {
            return;
        }
        let owner = self.plan.owner(sender.tenant, ca).filter(|&owner| owner != from);
        let id = self.frames.len() as u64;
        self.frames.push(Frame { sent, from, to: owner, got: 0, dropped: None, held: false, packets: 0 });
        let dst = self.plan.guests[owner.unwrap_or(to)].mac;
        let ports = (self.random.next() as u16 | 1, 9);
        let frame = udp((dst, ca), (sender.mac, sender.ca), ports, &id.to_be_bytes());
        self.judge(sender.at, PortId(sender.port), frame, None);
    }

    fn judge(&mut self, host: usize, from: PortId, frame: Vec<u8>, ingress: Option<Ingress>) {
        let id = id(&frame);
        match self.hosts[host].judge(self.now, from, frame.clone(), ingress.as_ref()) {
            Goes::Nowhere(reason) => self.frames[id].dropped = Some(reason),
            Goes::Wire(mut frame) => {
                let outer = frame[30..].first_chunk().expect("an IPv4 header");
                let to = host_of(*outer);
                assert!(to != host && to < self.hosts.len(), "to {outer:?}");
                self.frames[id].packets += 1;
                frame[..6].copy_from_slice(&uplink_mac(to).0);
                let flight = FLIGHT / 4 + self.random.next() % (FLIGHT - FLIGHT / 4);
                self.at(self.now + flight, Event::Wire { host: to, frame });
            }
            Goes::Port(port, bytes) => {
                let guest = self.hosts[host].ports[&port];
                let receiver = self.plan.guests[guest];
                self.isolated(id, guest, &bytes);
                if receiver.runs && (receiver.at, receiver.port) == (host, port) {
                    self.frames[id].got += 1;
                } else {
                    self.frames[id].held = true;
                    self.hosts[host].held.entry(port).or_default().push(Held { from, frame, ingress });
                }
            }
        }
    }

    /// Nobody gets what is of another customer network, or for another address.
    fn isolated(&self, id: usize, guest: usize, bytes: &[u8]) {
        let (frame, receiver) = (self.frames[id], self.plan.guests[guest]);
        let sender = self.plan.guests[frame.from];
        assert_eq!(receiver.tenant, sender.tenant, "{frame:?} reached {receiver:?}");
        assert_eq!(frame.to, Some(guest), "{frame:?} reached {receiver:?}");
        assert_eq!(bytes[..6], receiver.mac.0);
    }

    /// What was held for a port is judged again.
    fn release(&mut self, host: usize, port: u16) {
        for Held { from, frame, ingress } in self.hosts[host].held.remove(&port).unwrap_or_default() {
            self.judge(host, from, frame, ingress);
        }
    }

    /// Every host has exactly the records it needs, and they say where everybody is.
    pub(super) fn settled(&self) {
        for (number, host) in self.hosts.iter().enumerate() {
            // Without `interest`: whoever has a guest here.
            let mut here: Vec<usize> =
                host.ports.values().map(|&guest| self.plan.guests[guest].tenant).collect();
            here.sort_unstable();
            here.dedup();
            let records = &host.state.nv.records;
            let mut count = 0;
            for guest in here.iter().flat_map(|&tenant| self.plan.tenants[tenant].guests.clone()) {
                let it = &self.plan.guests[guest];
                let found = records.get(it.vsid, Of::Address(it.ca));
                assert_eq!(found, Some(self.plan.record(guest, it.at)), "at host {number}");
                count += 1;
            }
            assert_eq!(records.len(), count, "host {number} has records that it does not need");
        }
    }
}

/// The number of a frame, which is its last eight bytes.
fn id(frame: &[u8]) -> usize {
    u64::from_be_bytes(*frame.last_chunk().expect("a frame")) as usize
}
