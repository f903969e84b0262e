//! An OpenFlow 1.3 switch: a controller says where frames go, over TCP or TLS.
//!
//! ```toml
//! controllers = ["tcp:192.0.2.1:6653"] # one or two; tls: instead of tcp: needs the three files
//! datapath-id = "00:00:52:54:00:12:34:56" # up to 16 hexadecimal digits, unique among the controller's switches
//! fail-mode = "secure"     # without a controller: the flow table stays in force; or "standalone": the switch forwards by itself
//! flow-counts = "exact"    # each frame is counted; or "none": each flow is looked up once, and counters say that they are not known
//! packet-ins = 1000        # frames a second that one port may have shown to controllers
//! ca = "/etc/turnpike/ca.pem"
//! certificate = "/etc/turnpike/switch.pem"
//! key = "/etc/turnpike/switch.key"
//! server-name = "controller.example" # whom the controller's certificate is for, if not for its address
//! ```
//!
//! # What there is
//! One table (number 0) of [`table::MOST_FLOWS`] entries, which match ports, Ethernet, the outermost VLAN, ARP, IPv4, IPv6, TCP, UDP and ICMP;
//! [`group::MOST_GROUPS`] groups (`all`, `indirect`, whose buckets only send); outputs to ports, `ALL` and `FLOOD`, `NORMAL`, `CONTROLLER`, `TABLE`;
//! Ethernet addresses can be set, ahead of all outputs. Statistics of flows, tables, ports and groups; barriers, roles, asynchronous
//! configuration, timeouts, cookies, flow-removed and port-status. What is not there (tags, queues, meters, further tables, other fields to set)
//! is refused with the standard's error. Nothing is buffered: a packet-in has the whole frame, with its checksums complete.
//!
//! A port's number and name are those of the switch's port. All policy of ports stays in force, ahead of the table and behind it: a frame whose
//! source address an entry has set passes only where its port may use that address. Frames are matched as their port sends them (an
//! access port's have no tag). Those of virtual subnets never come here.
//!
//! # Readings where the standard leaves room
//! - A frame that says it is IP and cannot be read as such matches nothing, and ends (`malformed`), as soon as an entry looks beyond Ethernet:
//!   else it would pass below an entry that is meant for it.
//! - What a controller makes itself (`in_port` `CONTROLLER`) is nobody's, and trusted: no policy for sending is asked, but that of who gets it.
//! - In several outputs, each port gets one copy. A frame never goes back to the port it came from.
//! - A port that an entry keeps out of a flood counts it as dropped (`not-chosen`).
//!
//! # What counters count
//! `exact`: each frame that matched, before its port's policy was asked; one that waits for room at its receiver is counted each time it is tried,
//! and of TCP segments that travel as one, one. `none`: all counters of flows, groups and the table are 2⁶⁴−1, which is how the standard says
//! "not known"; idle timeouts then see a flow about once a second. Ports are counted by the switch itself, always.
//!
//! # Bounds
//! Entries, masks, bytes of entries, groups, buckets, actions, what is said to a controller at a time, frames that are shown to controllers (for each
//! port, counted as `packet-ins-limited`). A controller that is silent is asked after ten seconds, and given up after twenty.
//!
//! # Threading
//! What workers look up is behind one lock, which they take for reading: once for a flow with `flow-counts = "none"`, for each frame with `exact`.
//! Frames that an entry changes take a second one. What connections say is behind a third, which workers never take.

mod action;
mod command;
mod config;
mod group;
mod made;
mod message;
mod oxm;
mod ports;
mod session;
mod statistics;
mod table;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::{Value, json};

use super::{ConfigError, lock};
use crate::extension::stream::{Heard, Peer};
use crate::extension::{
    Answer, Change, Counters, Destination, Effects, Extension, Head, Judgement, Kind, Output, Reason, Scope,
    Sight, Veto,
};
use crate::port::MAX_PORTS;
use crate::{Direction, Nanos, PortId};
use action::{Out, Program};
use config::{Config, Mode};
use group::Groups;
use made::{Made, Making, Way};
use message::{NO_BUFFER, kind, put16, put32, put64, zeros};
use oxm::{Fields, Set};
use ports::Port;
use session::{Controller, Sessions, Stage, Work};
use table::Table;

/// Its name.
pub const NAME: &str = "openflow";

const REASONS: [&str; 4] = ["no-match", "no-output", "not-chosen", "malformed"];
const NO_MATCH: Reason = Reason(0);
const NO_OUTPUT: Reason = Reason(1);
const NOT_CHOSEN: Reason = Reason(2);
const MALFORMED: Reason = Reason(3);

/// Entries that the operator is shown.
const SHOWN: usize = 64;

/// Packet-ins of one port that may come at once.
const AT_ONCE: u64 = 32;

/// Bytes of a packet-in ahead of the frame.
const PACKET_IN: usize = 42;

/// What a controller has said about frames.
#[derive(Debug, Default)]
struct Rules {
    table: Table,
    groups: Groups,
}

/// What was done, for the operator.
#[derive(Debug, Default)]
struct Counts {
    packet_ins: AtomicU64,
    limited: AtomicU64,
    packet_outs: AtomicU64,
    lost: AtomicU64,
}

/// One instance.
#[derive(Debug)]
pub struct Openflow {
    config: Config,
    rules: RwLock<Rules>,
    sessions: Mutex<Sessions>,
    making: Mutex<Making>,
    /// There may be something in `making`.
    makes: AtomicBool,
    /// A controller is connected.
    connected: AtomicBool,
    /// Which controllers see frames that no entry matched, and those that an entry shows them: bits.
    watchers: [AtomicU8; 2],
    /// By port: when the next packet-in would be due if they came evenly.
    due: Vec<AtomicU64>,
    counts: Counts,
}

/// What an entry says of a frame.
struct Decided {
    way: Way,
    /// Controllers are to see it: why, and the entry's cookie.
    tell: Option<(u8, u64)>,
    sets: Vec<Set>,
    /// Why it goes nowhere.
    reason: Reason,
    scope: Scope,
}

impl Rules {
    /// Where actions send a frame from a port; whether controllers see it. Groups count it if its length is given.
    fn way(&self, program: &Program, from: PortId, counts: Option<u32>) -> (Way, bool) {
        let (mut ports, mut all, mut normal, mut tell) = (Vec::new(), false, false, false);
        let mut add = |out: Out| match out {
            Out::Port(id) if id != from && !ports.contains(&id) => ports.push(id),
            Out::Port(_) | Out::Table | Out::Group(_) => {}
            Out::All => all = true,
            Out::Normal => normal = true,
            Out::Controller => tell = true,
        };
        for out in &program.outs {
            match *out {
                Out::Group(id) => {
                    if let Some(group) = self.groups.get(id) {
                        if let Some(len) = counts {
                            group.count.add(len);
                        }
                        group.outs().for_each(&mut add);
                    }
                }
                out => add(out),
            }
        }
        let way = match (normal, all, ports.as_slice()) {
            (true, ..) => Way::Normal,
            (_, true, _) => Way::All,
            (_, _, []) => Way::Nowhere,
            (_, _, [one]) => Way::Port(*one),
            _ => Way::Some(ports),
        };
        (way, tell)
    }
}

impl Openflow {
    /// An instance with this configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(config: &Value) -> Result<Self, ConfigError> {
        let config = Config::new(config)?;
        let sessions = Mutex::new(Sessions::new(config.peers.len()));
        Ok(Self {
            config,
            rules: RwLock::default(),
            sessions,
            making: Mutex::default(),
            makes: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            watchers: Default::default(),
            due: (0..=MAX_PORTS).map(|_| AtomicU64::new(0)).collect(),
            counts: Counts::default(),
        })
    }

    fn rules(&self) -> RwLockReadGuard<'_, Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_rules(&self) -> RwLockWriteGuard<'_, Rules> {
        self.rules.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the switch forwards by itself.
    fn is_off(&self) -> bool {
        self.config.mode == Mode::Standalone && !self.connected.load(Ordering::Acquire)
    }

    /// What the table says of a frame that `sight.from`, or else `sight.port`, sends; counts it if it is to.
    fn decide(&self, sight: &Sight<'_>, count: bool) -> Decided {
        let from = sight.from.unwrap_or(sight.port);
        let (fields, readable) = Fields::of(sight, from);
        let rules = self.rules();
        let count = count && self.config.counted && !sight.dry;
        let nothing =
            |reason, scope| Decided { way: Way::Nowhere, tell: None, sets: Vec::new(), reason, scope };
        if count {
            rules.table.looked.fetch_add(1, Ordering::Relaxed);
        }
        if !readable && rules.table.is_deep() {
            return nothing(MALFORMED, Scope::Frame);
        }
        let volatile = if rules.table.is_volatile(&fields) { Scope::Frame } else { Scope::Flow };
        let Some(flow) = rules.table.find(&fields) else { return nothing(NO_MATCH, volatile) };
        if !sight.dry {
            flow.touch(sight.now);
        }
        if count {
            rules.table.matched.fetch_add(1, Ordering::Relaxed);
            flow.count.add(sight.len);
        }
        let (way, tell) = rules.way(&flow.program, from, Some(sight.len).filter(|_| count));
        let tell = tell.then(|| (u8::from(!flow.is_table_miss()), flow.cookie));
        let scope = match volatile {
            _ if tell.is_some() => Scope::Frame,
            Scope::Flow if flow.idle != 0 && !self.config.counted => Scope::Second,
            other => other,
        };
        Decided { way, tell, sets: flow.program.sets.clone(), reason: NO_OUTPUT, scope }
    }

    /// Makes packet-ins for those who want them, as far as the port may have any.
    fn show(
        &self,
        from: PortId,
        reason: u8,
        cookie: u64,
        len: u32,
        now: Nanos,
        send: &mut dyn FnMut(usize, Vec<u8>, u32),
    ) {
        let watchers = self.watchers.get(usize::from(reason)).map_or(0, |bits| bits.load(Ordering::Acquire));
        if watchers == 0 {
            return;
        }
        if !self.may_show(from, now) {
            self.counts.limited.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.counts.packet_ins.fetch_add(1, Ordering::Relaxed);
        let shown = len.min((usize::from(u16::MAX) - PACKET_IN) as u32);
        let mut bytes = vec![message::VERSION, kind::PACKET_IN];
        put16(&mut bytes, (PACKET_IN + shown as usize) as u16);
        put32(&mut bytes, 0);
        put32(&mut bytes, NO_BUFFER);
        put16(&mut bytes, u16::try_from(len).unwrap_or(u16::MAX));
        bytes.extend_from_slice(&[reason, 0]);
        put64(&mut bytes, cookie);
        oxm::in_port(&mut bytes, u32::from(from.0));
        zeros(&mut bytes, 2);
        for peer in (0..config::MOST_CONTROLLERS).filter(|peer| watchers >> peer & 1 != 0) {
            send(peer, bytes.clone(), shown);
        }
    }

    /// One packet-in of a port more, unless it has had its share.
    fn may_show(&self, from: PortId, now: Nanos) -> bool {
        let Some(due) = self.due.get(from.index()) else { return false };
        let step = 1_000_000_000 / u64::from(self.config.packet_ins);
        let next = |due: u64| {
            let due = due.max(now);
            (due - now <= step * (AT_ONCE - 1)).then_some(due + step)
        };
        due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// After something about connections: who sees frames, and whether the table is in force.
    fn attend(&self, sessions: &Sessions, effects: &mut Effects) {
        for (reason, bits) in (0..).zip(&self.watchers) {
            let wanting = sessions.all.iter().enumerate().filter(|(_, one)| one.wants(0, reason));
            let mask = wanting.fold(0, |mask, (peer, _)| mask | 1_u8.checked_shl(peer as u32).unwrap_or(0));
            bits.store(mask, Ordering::Release);
        }
        let connected = sessions.all.iter().any(|one| one.stage == Stage::Up);
        if self.connected.swap(connected, Ordering::AcqRel) != connected
            && self.config.mode == Mode::Standalone
        {
            effects.refresh();
        }
    }
}

impl Extension for Openflow {
    fn kind(&self) -> Kind {
        Kind::Forwarding
    }

    fn reasons(&self) -> &[&str] {
        &REASONS
    }

    fn judges(&self, _: Direction) -> bool {
        true
    }

    fn judge(&self, sight: &Sight<'_>, _: &mut Effects) -> Answer {
        if sight.vsid.is_some() || self.is_off() {
            return Answer::PASS;
        }
        if sight.direction == Direction::In {
            let Some(from) = sight.from else { return Answer::PASS };
            if self.makes.load(Ordering::Acquire) && lock(&self.making).reaches(from, sight) {
                return Answer::PASS_ONE;
            }
            return match self.decide(sight, false).way {
                Way::Some(ports) if !ports.contains(&sight.port) => Answer::drop(NOT_CHOSEN),
                _ => Answer::PASS,
            };
        }
        let decided = self.decide(sight, true);
        if !decided.sets.is_empty() {
            let mut head = Head::new(sight.head);
            decided.sets.iter().for_each(|set| set.apply(head.bytes_mut()));
            if !sight.head.starts_with(head.bytes()) {
                let made = Made { way: decided.way, tell: decided.tell };
                lock(&self.making).add(sight.now, sight.port, head.bytes(), sight.len, made, sight.dry);
                self.makes.store(true, Ordering::Release);
                return Answer { judgement: Judgement::Replace(Box::new(head)), scope: Scope::Frame };
            }
        }
        match decided.scope {
            Scope::Flow if !self.config.counted => Answer::PASS,
            Scope::Second if !self.config.counted => {
                Answer { judgement: Judgement::Pass, scope: Scope::Second }
            }
            _ => Answer::PASS_ONE,
        }
    }

    fn forward(&self, sight: &Sight<'_>, effects: &mut Effects) -> Result<(Destination, Scope), String> {
        if self.is_off() {
            return Ok((Destination::Native, Scope::Flow));
        }
        let own = if sight.own { lock(&self.making).take(sight) } else { None };
        let decided = match own {
            Some(Made { way, tell }) => {
                Decided { way, tell, sets: Vec::new(), reason: NO_OUTPUT, scope: Scope::Frame }
            }
            None => self.decide(sight, false),
        };
        if let Some((reason, cookie)) = decided.tell
            && !sight.dry
        {
            self.show(sight.port, reason, cookie, sight.len, sight.now, &mut |peer, bytes, frame| {
                effects.output(Output::Stream { peer: peer as u8, bytes, frame });
            });
        }
        let destination = match decided.way {
            Way::Nowhere => Destination::Drop(decided.reason),
            Way::Normal => Destination::Native,
            Way::Port(id) => Destination::Port(id),
            Way::All | Way::Some(_) => Destination::All,
        };
        Ok((destination, decided.scope))
    }

    fn tick(&self, now: Nanos, _: &dyn Counters, effects: &mut Effects) -> Result<(), String> {
        let over = self.rules().table.over(now);
        let mut sessions = lock(&self.sessions);
        if !over.is_empty() {
            self.write_rules().table.expire(&over);
            effects.refresh();
            for (flow, end) in &over {
                self.removed(&mut sessions, flow, *end, now);
            }
        }
        if self.makes.load(Ordering::Acquire) {
            let mut making = lock(&self.making);
            if making.forget(now) {
                self.makes.store(false, Ordering::Release);
            }
        }
        sessions.probe(now);
        sessions.flush(effects);
        self.attend(&sessions, effects);
        Ok(())
    }

    fn peers(&self) -> Vec<Peer> {
        self.config.peers.clone()
    }

    fn heard(
        &self,
        now: Nanos,
        peer: usize,
        what: Heard<'_>,
        counters: &dyn Counters,
        effects: &mut Effects,
    ) -> Result<(), String> {
        let mut sessions = lock(&self.sessions);
        match what {
            Heard::Opened => sessions.opened(now, peer),
            Heard::Closed(why) => sessions.closed(peer, why),
            Heard::Bytes(bytes) => {
                self.listen(&mut sessions, peer, bytes, &mut Work { now, counters, effects });
            }
        }
        sessions.flush(effects);
        self.attend(&sessions, effects);
        Ok(())
    }

    fn change(&self, now: Nanos, change: &Change<'_>) -> Result<(), Veto> {
        let mut sessions = lock(&self.sessions);
        let Some(id) = change.port() else { return Ok(()) };
        let reason = match *change {
            Change::PortCreate { name, .. } => {
                let port = Port { name: name.to_owned(), mac: None, up: false, since: now };
                sessions.ports.insert(id, port);
                ports::ADDED
            }
            Change::PortDelete { .. } => ports::DELETED,
            Change::NicCreate { mac, .. } | Change::NicUpdated { mac, .. } => {
                if let Some(port) = sessions.ports.get_mut(&id) {
                    port.mac = Some(mac);
                }
                ports::MODIFIED
            }
            Change::NicConnect { .. } | Change::NicDisconnect { .. } => {
                let up = matches!(change, Change::NicConnect { .. });
                if let Some(port) = sessions.ports.get_mut(&id) {
                    port.up = up;
                }
                ports::MODIFIED
            }
            _ => return Ok(()),
        };
        let Some(described) = sessions.ports.get(&id).map(|port| port.describe(id)) else { return Ok(()) };
        if reason == ports::DELETED {
            sessions.ports.remove(&id);
        }
        let mut body = vec![reason];
        zeros(&mut body, 7);
        body.extend_from_slice(&described);
        sessions.tell(1, reason, kind::PORT_STATUS, &body);
        Ok(())
    }

    fn status(&self, port: Option<PortId>) -> Value {
        if port.is_some() {
            return Value::Null;
        }
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let controllers: Vec<_> = {
            let sessions = lock(&self.sessions);
            let one = |(peer, one): (&Peer, &Controller)| {
                let state = match one.stage {
                    Stage::Up => "connected",
                    Stage::Hello => "greeting",
                    Stage::Down | Stage::Over => "not connected",
                };
                let mut shown = json!({ "address": peer.address.to_string(), "state": state });
                if one.stage == Stage::Up {
                    shown["role"] = format!("{:?}", one.role).to_lowercase().into();
                } else if !one.why.is_empty() {
                    shown["reason"] = one.why.clone().into();
                }
                shown
            };
            self.config.peers.iter().zip(&sessions.all).map(one).collect()
        };
        let rules = self.rules();
        let mut flows: Vec<_> = rules.table.iter().collect();
        flows.sort_by_key(|flow| std::cmp::Reverse(flow.priority));
        let flows = flows.into_iter().take(SHOWN).map(|flow| {
            let (packets, bytes) = flow.count.get();
            let mut shown = json!({
                "priority": flow.priority,
                "match": flow.matching.text(),
                "actions": flow.program.text(),
                "cookie": format!("{:#x}", flow.cookie),
            });
            if self.config.counted {
                shown["packets"] = packets.into();
                shown["bytes"] = bytes.into();
            }
            shown
        });
        json!({
            "controllers": controllers,
            "flow-count": rules.table.len(),
            "flows": flows.collect::<Vec<_>>(),
            "groups": rules.groups.len(),
            "packet-ins": count(&self.counts.packet_ins),
            "packet-ins-limited": count(&self.counts.limited),
            "packet-outs": count(&self.counts.packet_outs),
            "packet-outs-lost": count(&self.counts.lost),
        })
    }
}
