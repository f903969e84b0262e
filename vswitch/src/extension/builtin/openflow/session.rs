//! What a connection says, and what it is answered.
//!
//! Messages are carried out in the order in which they come, each before the next is looked at, so a barrier has nothing to wait for. A connection
//! that does not begin with `OFPT_HELLO`, or names a length that no message has, is hung up on; any other mistake is answered with `OFPT_ERROR`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::action::{For, Out, Program};
use super::group::{self, Count};
use super::message::{
    self, Fail, HEADER, Header, NO_BUFFER, Reader, VERSION, kind, port, put16, put32, put64, zeros,
};
use super::oxm::Match;
use super::ports::Ports;
use super::table::{End, Filter, Flow, SEND_REMOVED};
use super::{Openflow, lock};
use crate::extension::{Counters, Effects, Injection, Output, Sight};
use crate::port::PortKind;
use crate::{Direction, Nanos, PortId};

use super::made::{Made, Way};

/// Bytes that may be said to one controller at a time.
const MOST_OUT: usize = 8 << 20;

/// Bytes of entries in one message of a reply.
const PART: usize = 60_000;

/// A controller that is silent for so long is asked whether it is there, and after as long again it is not.
pub(super) const SILENCE: Nanos = 10_000_000_000;

/// What a controller may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Equal = 1,
    Master = 2,
    Slave = 3,
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// There is none.
    Down,
    /// The other side has not said yet what it speaks.
    Hello,
    /// It speaks OpenFlow 1.3.
    Up,
    /// What it says is not heard any more.
    Over,
}

/// Which of packets (0), ports (1) and removed entries (2) a controller is told of, by reason, as a master (or equal) and as a slave.
type Interests = [[u32; 2]; 3];

const INTERESTS: Interests = [[0b11, 0], [0b111, 0b111], [0b1111, 0]];

/// One controller.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) stage: Stage,
    pub(super) role: Role,
    interests: Interests,
    /// What was heard and not yet understood.
    input: Vec<u8>,
    /// What is to be said.
    pub(super) out: Vec<u8>,
    heard: Nanos,
    asked: bool,
    miss_send_len: u16,
    /// Why there is no connection, for the operator.
    pub(super) why: String,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            stage: Stage::Down,
            role: Role::Equal,
            interests: INTERESTS,
            input: Vec::new(),
            out: Vec::new(),
            heard: 0,
            asked: false,
            miss_send_len: 128,
            why: String::new(),
        }
    }
}

impl Controller {
    pub(super) fn wants(&self, what: usize, reason: u8) -> bool {
        let column = usize::from(self.role == Role::Slave);
        let mask = self.interests.get(what).map_or(0, |row| row[column]);
        self.stage == Stage::Up && mask >> reason & 1 != 0
    }
}

/// All of them, and what they are told about.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) all: Vec<Controller>,
    pub(super) ports: Ports,
    /// The newest claim to be master.
    generation: Option<u64>,
}

/// What a message may use while it is carried out.
pub(super) struct Work<'a> {
    pub(super) now: Nanos,
    pub(super) counters: &'a dyn Counters,
    pub(super) effects: &'a mut Effects,
}

impl Sessions {
    pub(super) fn new(controllers: usize) -> Self {
        let all = (0..controllers).map(|_| Controller::default()).collect();
        Self { all, ports: Ports::new(), generation: None }
    }

    /// Tells all who want to know.
    pub(super) fn tell(&mut self, what: usize, reason: u8, kind: u8, body: &[u8]) {
        for one in self.all.iter_mut().filter(|one| one.wants(what, reason)) {
            message::write(&mut one.out, kind, 0, |out| out.extend_from_slice(body));
        }
    }

    /// A new connection: both sides begin with what they speak.
    pub(super) fn opened(&mut self, now: Nanos, peer: usize) {
        let Some(one) = self.all.get_mut(peer) else { return };
        *one = Controller { stage: Stage::Hello, heard: now, ..Controller::default() };
        message::write(&mut one.out, kind::HELLO, 1, |out| {
            put16(out, 1); // OFPHET_VERSIONBITMAP
            put16(out, 8);
            put32(out, 1 << VERSION);
        });
    }

    pub(super) fn closed(&mut self, peer: usize, why: &str) {
        if let Some(one) = self.all.get_mut(peer) {
            *one = Controller { why: why.to_owned(), ..Controller::default() };
        }
    }

    /// Asks those who are silent, and gives up those who stay so.
    pub(super) fn probe(&mut self, now: Nanos) {
        for one in &mut self.all {
            let silent = now.saturating_sub(one.heard);
            if !matches!(one.stage, Stage::Hello | Stage::Up) || silent < SILENCE {
                continue;
            }
            if silent >= 2 * SILENCE || one.stage == Stage::Hello {
                one.stage = Stage::Over;
            } else if !one.asked {
                one.asked = true;
                message::write(&mut one.out, kind::ECHO_REQUEST, 0, |_| ());
            }
        }
    }

    /// Says what is to be said, and hangs up on those with whom there is nothing more to say.
    pub(super) fn flush(&mut self, effects: &mut Effects) {
        for (one, peer) in self.all.iter_mut().zip(0_u8..) {
            if one.out.len() > MOST_OUT {
                one.out.clear();
                one.stage = Stage::Over;
            }
            let bytes = std::mem::take(&mut one.out);
            if !bytes.is_empty() && one.stage != Stage::Down {
                effects.output(Output::Stream { peer, bytes, frame: 0 });
            }
            if one.stage == Stage::Over {
                one.stage = Stage::Down;
                effects.output(Output::HangUp { peer });
            }
        }
    }
}

/// Cuts a list of entries into messages.
fn multipart(out: &mut Vec<u8>, xid: u32, of: u16, entries: &[Vec<u8>]) {
    let mut rest = entries;
    loop {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|entry| {
            bytes += entry.len();
            bytes <= PART || bytes == entry.len()
        });
        let (part, later) = rest.split_at(fits.count());
        rest = later;
        message::write(out, kind::MULTIPART_REPLY, xid, |out| {
            put16(out, of);
            put16(out, u16::from(!rest.is_empty()));
            zeros(out, 4);
            part.iter().for_each(|entry| out.extend_from_slice(entry));
        });
        if rest.is_empty() {
            return;
        }
    }
}

impl Openflow {
    /// Understands what was heard of a peer so far. It stops early when no more frames can be added; the rest is understood when it is called again.
    pub(super) fn listen(&self, sessions: &mut Sessions, peer: usize, bytes: &[u8], work: &mut Work<'_>) {
        let Some(one) = sessions.all.get_mut(peer) else { return };
        if !matches!(one.stage, Stage::Hello | Stage::Up) {
            return;
        }
        if !bytes.is_empty() {
            (one.heard, one.asked) = (work.now, false);
        }
        let mut input = std::mem::take(&mut one.input);
        input.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(rest) = input.get(at..)
            && let Some(header) = Header::read(rest)
        {
            if header.len < HEADER {
                if let Some(one) = sessions.all.get_mut(peer) {
                    message::error(&mut one.out, header.xid, Fail::BAD_LEN, rest);
                    one.stage = Stage::Over;
                }
                return;
            }
            let Some(message) = rest.get(..header.len) else { break };
            if !work.effects.has_room() {
                break;
            }
            at += header.len;
            if let Err(fail) = self.carry_out(sessions, peer, header, message, work)
                && let Some(one) = sessions.all.get_mut(peer)
            {
                message::error(&mut one.out, header.xid, fail, message);
            }
            let on = |one: &super::Controller| {
                matches!(one.stage, Stage::Hello | Stage::Up) && one.out.len() <= MOST_OUT
            };
            if !sessions.all.get(peer).is_some_and(on) {
                return;
            }
        }
        input.drain(..at);
        if let Some(one) = sessions.all.get_mut(peer) {
            one.input = input;
        }
    }

    fn carry_out(
        &self,
        sessions: &mut Sessions,
        peer: usize,
        header: Header,
        message: &[u8],
        work: &mut Work<'_>,
    ) -> Result<(), Fail> {
        let body = message.get(HEADER..).unwrap_or_default();
        let one = sessions.all.get_mut(peer).ok_or(Fail::BAD_TYPE)?;
        if one.stage == Stage::Hello {
            one.stage = if header.kind == kind::HELLO && speaks(header.version, body) {
                Stage::Up
            } else {
                message::error(
                    &mut one.out,
                    header.xid,
                    Fail::INCOMPATIBLE,
                    b"OpenFlow 1.3 (0x04) is spoken here",
                );
                Stage::Over
            };
            return Ok(());
        }
        if header.version != VERSION {
            return Err(Fail::BAD_VERSION);
        }
        let xid = header.xid;
        let is_slave = one.role == Role::Slave;
        let empty = || if body.is_empty() { Ok(()) } else { Err(Fail::BAD_LEN) };
        let commands = matches!(
            header.kind,
            kind::PACKET_OUT
                | kind::FLOW_MOD
                | kind::GROUP_MOD
                | kind::PORT_MOD
                | kind::TABLE_MOD
                | kind::METER_MOD
        );
        if is_slave && commands {
            return Err(Fail::IS_SLAVE);
        }
        match header.kind {
            kind::HELLO | kind::ERROR | kind::ECHO_REPLY => {}
            kind::ECHO_REQUEST => {
                message::write(&mut one.out, kind::ECHO_REPLY, xid, |out| out.extend_from_slice(body));
            }
            kind::FEATURES_REQUEST => {
                empty()?;
                message::write(&mut one.out, kind::FEATURES_REPLY, xid, |out| {
                    put64(out, self.config.datapath);
                    put32(out, 0); // no packet is kept
                    out.extend_from_slice(&[1, 0, 0, 0]);
                    put32(out, 0b1111); // statistics of flows, tables, ports, groups
                    put32(out, 0);
                });
            }
            kind::GET_CONFIG_REQUEST => {
                empty()?;
                let len = one.miss_send_len;
                message::write(&mut one.out, kind::GET_CONFIG_REPLY, xid, |out| {
                    put16(out, 0);
                    put16(out, len);
                });
            }
            kind::SET_CONFIG => {
                let mut reader = Reader(body);
                let flags = reader.u16().ok_or(Fail::BAD_LEN)?;
                let len = reader.u16().ok_or(Fail::BAD_LEN)?;
                if flags != 0 {
                    return Err(Fail::CONFIG_FLAGS);
                }
                one.miss_send_len = len;
            }
            kind::BARRIER_REQUEST => message::write(&mut one.out, kind::BARRIER_REPLY, xid, |_| ()),
            kind::ROLE_REQUEST => return role(sessions, peer, xid, body),
            kind::GET_ASYNC_REQUEST => {
                let interests = one.interests;
                message::write(&mut one.out, kind::GET_ASYNC_REPLY, xid, |out| {
                    interests.as_flattened().iter().for_each(|&mask| put32(out, mask));
                });
            }
            kind::SET_ASYNC => {
                let mut reader = Reader(body);
                let mut interests = INTERESTS;
                for mask in interests.as_flattened_mut() {
                    *mask = reader.u32().ok_or(Fail::BAD_LEN)?;
                }
                one.interests = interests;
            }
            kind::PACKET_OUT => return self.packet_out(sessions, body, work),
            kind::FLOW_MOD => return self.flow_mod(sessions, body, work),
            kind::GROUP_MOD => {
                let gone = {
                    let mut rules = self.write_rules();
                    let ids = rules.groups.change(work.now, body)?;
                    ids.into_iter().flat_map(|id| rules.table.without_group(id)).collect::<Vec<_>>()
                };
                work.effects.refresh();
                for flow in gone {
                    self.removed(sessions, &flow, End::Group, work.now);
                }
            }
            kind::MULTIPART_REQUEST => return self.multipart(sessions, peer, xid, body, work),
            kind::QUEUE_CONFIG_REQUEST => {
                let wanted = Reader(body).u32().ok_or(Fail::BAD_LEN)?;
                let known =
                    |id: u32| u16::try_from(id).is_ok_and(|id| sessions.ports.contains_key(&PortId(id)));
                if wanted != port::ANY && !known(wanted) {
                    return Err(Fail::QUEUE_PORT);
                }
                message::write(&mut one.out, kind::QUEUE_CONFIG_REPLY, xid, |out| {
                    put32(out, wanted);
                    zeros(out, 4);
                });
            }
            // What a port is is the operator's to say, and the one table is as it is.
            kind::PORT_MOD => return Err(Fail::PORT_MOD),
            kind::TABLE_MOD => return Err(Fail::TABLE_MOD),
            kind::EXPERIMENTER => return Err(Fail::BAD_EXPERIMENTER),
            _ => return Err(Fail::BAD_TYPE),
        }
        Ok(())
    }

    fn flow_mod(&self, sessions: &mut Sessions, body: &[u8], work: &mut Work<'_>) -> Result<(), Fail> {
        let mut reader = Reader(body);
        let head = (|| {
            let (cookie, cookie_mask, table) = (reader.u64()?, reader.u64()?, reader.u8()?);
            let (command, idle, hard, priority) = (reader.u8()?, reader.u16()?, reader.u16()?, reader.u16()?);
            let (buffer, out_port, out_group) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let flags = reader.u16()?;
            reader.take(2)?;
            Some((
                cookie,
                cookie_mask,
                table,
                command,
                idle,
                hard,
                priority,
                buffer,
                out_port,
                out_group,
                flags,
            ))
        })();
        let (cookie, cookie_mask, table, command, idle, hard, priority, buffer, out_port, out_group, flags) =
            head.ok_or(Fail::BAD_LEN)?;
        let deletes = matches!(command, 3 | 4);
        if table != 0 && !(deletes && table == 0xff) {
            return Err(Fail::FLOW_TABLE);
        }
        if flags & !0x1f != 0 {
            return Err(Fail::FLOW_FLAGS);
        }
        let matching = Match::read(&mut reader)?;
        let instructions = reader.0;
        let any = u32::MAX;
        let mut filter =
            Filter { matching, strict: None, cookie, cookie_mask, out_port: any, out_group: any };
        let mut gone = Vec::new();
        match command {
            0..=2 => {
                let program = Program::of_instructions(instructions)?;
                if buffer != NO_BUFFER {
                    return Err(Fail::BUFFER_UNKNOWN);
                }
                let mut rules = self.write_rules();
                if program.groups().any(|id| rules.groups.get(id).is_none()) {
                    return Err(Fail::OUT_GROUP);
                }
                if program.groups().next().is_some() && program.outs.contains(&Out::Normal) {
                    return Err(Fail::ACTION_ORDER);
                }
                if command == 0 {
                    rules.table.add(Flow {
                        priority,
                        cookie,
                        idle,
                        hard,
                        flags,
                        matching: filter.matching,
                        instructions: instructions.to_vec(),
                        program,
                        since: work.now,
                        used: AtomicU64::new(work.now),
                        count: Count::default(),
                    })?;
                } else {
                    filter.strict = (command == 2).then_some(priority);
                    rules.table.modify(&filter, flags, instructions, &program)?;
                }
            }
            3 | 4 => {
                filter.strict = (command == 4).then_some(priority);
                (filter.out_port, filter.out_group) = (out_port, out_group);
                gone = self.write_rules().table.delete(&filter);
            }
            _ => return Err(Fail::FLOW_COMMAND),
        }
        work.effects.refresh();
        for flow in gone {
            self.removed(sessions, &flow, End::Delete, work.now);
        }
        Ok(())
    }

    /// Tells of the end of an entry, if it says that somebody wants to hear of it.
    pub(super) fn removed(&self, sessions: &mut Sessions, flow: &Flow, end: End, now: Nanos) {
        if flow.flags & SEND_REMOVED != 0 {
            let mut body = Vec::new();
            flow.removed(&mut body, now, end, self.config.counted);
            sessions.tell(2, end as u8, kind::FLOW_REMOVED, &body);
        }
    }

    fn packet_out(&self, sessions: &mut Sessions, body: &[u8], work: &mut Work<'_>) -> Result<(), Fail> {
        let mut reader = Reader(body);
        let head = (|| {
            let (buffer, in_port, len) = (reader.u32()?, reader.u32()?, usize::from(reader.u16()?));
            reader.take(6)?;
            Some((buffer, in_port, reader.take(len)?))
        })();
        let (buffer, in_port, actions) = head.ok_or(Fail::BAD_LEN)?;
        if buffer != NO_BUFFER {
            return Err(Fail::BUFFER_UNKNOWN);
        }
        let program = Program::read(actions, For::Packet)?;
        let mut frame = reader.0.to_vec();
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        if crate::frame::ethernet::check(&frame, len).is_err() {
            return Err(Fail::BAD_PACKET);
        }
        // What the controller itself made comes from the physical network, as far as policy is concerned.
        let uplink =
            || sessions.ports.iter().find(|(_, port)| port.kind == PortKind::Uplink).map(|(&id, _)| id);
        let from = match in_port {
            port::CONTROLLER => uplink(),
            id => u16::try_from(id).ok().map(PortId).filter(|id| sessions.ports.contains_key(id)),
        };
        let from = from.ok_or(Fail::BAD_PORT)?;
        program.sets.iter().for_each(|set| set.apply(&mut frame));
        let (mut way, mut tell) = {
            let rules = self.rules();
            if program.groups().any(|id| rules.groups.get(id).is_none()) {
                return Err(Fail::OUT_GROUP);
            }
            rules.way(&program, from, Some(len).filter(|_| self.config.counted))
        };
        if program.outs.contains(&Out::Table) {
            let sight = Sight::new(work.now, Direction::Out, from, &frame, len);
            let decided = self.decide(&sight, true);
            (way, tell) = (decided.way, decided.tell.is_some());
            decided.sets.iter().for_each(|set| set.apply(&mut frame));
        }
        if tell {
            self.show(from, 1, u64::MAX, len, work.now, &mut |peer, mut bytes, shown| {
                bytes.extend_from_slice(frame.get(..shown as usize).unwrap_or(&frame));
                if let Some(one) = sessions.all.get_mut(peer) {
                    one.out.extend_from_slice(&bytes);
                }
            });
        }
        let ways: Vec<_> = match way {
            Way::Nowhere => return Ok(()),
            Way::Some(ports) => ports.into_iter().map(Way::Port).collect(),
            one => vec![one],
        };
        if ways.len() > Effects::MOST_INJECTED {
            return Err(Fail::TOO_MANY_ACTIONS);
        }
        for way in ways {
            let made = Made { way, tell: None };
            lock(&self.making).add(work.now, from, &frame, len, made, false);
            self.makes.store(true, Ordering::Release);
            self.counts.packet_outs.fetch_add(1, Ordering::Relaxed);
            if !work.effects.inject(Injection { from, frame: frame.clone() }) {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn multipart(
        &self,
        sessions: &mut Sessions,
        peer: usize,
        xid: u32,
        body: &[u8],
        work: &mut Work<'_>,
    ) -> Result<(), Fail> {
        let mut reader = Reader(body);
        let of = reader.u16().ok_or(Fail::BAD_LEN)?;
        let flags = reader.u16().ok_or(Fail::BAD_LEN)?;
        reader.take(4).ok_or(Fail::BAD_LEN)?;
        if flags & 1 != 0 {
            return Err(Fail::MULTIPART_OVERFLOW);
        }
        let counted = self.config.counted;
        let mut single = Vec::new();
        let entries = match of {
            0 => {
                for (text, width) in [
                    ("Turnpike", 256),
                    ("vhost-user", 256),
                    (env!("CARGO_PKG_VERSION"), 256),
                    ("", 32),
                    ("turnpike", 256),
                ] {
                    message::put_text(&mut single, text, width);
                }
                vec![single]
            }
            1 | 2 => {
                let filter = wanted(&mut reader)?;
                let flows = match filter {
                    Some(filter) => self.rules().table.select(&filter),
                    None => Vec::new(),
                };
                if of == 1 {
                    flows.iter().map(|flow| flow.stats(work.now, counted)).collect()
                } else {
                    let sum = flows.iter().map(|flow| flow.count.get());
                    let (packets, bytes) =
                        sum.fold((0_u64, 0_u64), |(p, b), (q, c)| (p.wrapping_add(q), b.wrapping_add(c)));
                    put64(&mut single, if counted { packets } else { u64::MAX });
                    put64(&mut single, if counted { bytes } else { u64::MAX });
                    put32(&mut single, flows.len() as u32);
                    zeros(&mut single, 4);
                    vec![single]
                }
            }
            3 => {
                let rules = self.rules();
                let known =
                    |count: &AtomicU64| if counted { count.load(Ordering::Relaxed) } else { u64::MAX };
                zeros(&mut single, 4);
                put32(&mut single, rules.table.len() as u32);
                put64(&mut single, known(&rules.table.looked));
                put64(&mut single, known(&rules.table.matched));
                vec![single]
            }
            4 => {
                let wanted = reader.u32().ok_or(Fail::BAD_LEN)?;
                let stats =
                    sessions.ports.iter().filter(|(id, _)| wanted == port::ANY || u32::from(id.0) == wanted);
                let stats: Vec<_> = stats
                    .map(|(&id, port)| port.stats(id, work.now, &work.counters.of(id).unwrap_or_default()))
                    .collect();
                if stats.is_empty() && wanted != port::ANY {
                    return Err(Fail::BAD_PORT);
                }
                stats
            }
            5 => Vec::new(), // there are no queues
            6 => {
                let wanted = reader.u32().ok_or(Fail::BAD_LEN)?;
                let rules = self.rules();
                let references = |id| {
                    rules.table.iter().filter(|flow| flow.program.groups().any(|of| of == id)).count() as u32
                };
                rules.groups.stats(work.now, wanted, counted, references)
            }
            7 => self.rules().groups.descriptions(),
            8 => {
                group::features(&mut single);
                vec![single]
            }
            13 => sessions.ports.iter().map(|(&id, port)| port.describe(id)).collect(),
            _ => return Err(Fail::BAD_MULTIPART),
        };
        if let Some(one) = sessions.all.get_mut(peer) {
            multipart(&mut one.out, xid, of, &entries);
        }
        Ok(())
    }
}

/// Which entries a statistics request is about; `None` = it is about another table.
fn wanted(reader: &mut Reader<'_>) -> Result<Option<Filter>, Fail> {
    let head = (|| {
        let table = reader.u8()?;
        reader.take(3)?;
        let (out_port, out_group) = (reader.u32()?, reader.u32()?);
        reader.take(4)?;
        Some((table, out_port, out_group, reader.u64()?, reader.u64()?))
    })();
    let (table, out_port, out_group, cookie, cookie_mask) = head.ok_or(Fail::BAD_LEN)?;
    let matching = Match::read(reader)?;
    let filter = Filter { matching, strict: None, cookie, cookie_mask, out_port, out_group };
    Ok(matches!(table, 0 | 0xff).then_some(filter))
}

/// Whether somebody who begins like this speaks our version.
fn speaks(version: u8, elements: &[u8]) -> bool {
    let mut reader = Reader(elements);
    while let (Some(kind), Some(len)) = (reader.u16(), reader.u16()) {
        let len = usize::from(len);
        let Some(body) = len.checked_sub(4).and_then(|len| reader.take(len)) else { break };
        if kind == 1 {
            return Reader(body).u32().is_some_and(|bits| bits >> VERSION & 1 != 0);
        }
        let _ = reader.take(len.next_multiple_of(8) - len);
    }
    version >= VERSION
}

fn role(sessions: &mut Sessions, peer: usize, xid: u32, body: &[u8]) -> Result<(), Fail> {
    let mut reader = Reader(body);
    let wanted = reader.u32().ok_or(Fail::BAD_LEN)?;
    reader.take(4).ok_or(Fail::BAD_LEN)?;
    let generation = reader.u64().ok_or(Fail::BAD_LEN)?;
    let new = match wanted {
        0 => None,
        1 => Some(Role::Equal),
        2 => Some(Role::Master),
        3 => Some(Role::Slave),
        _ => return Err(Fail::BAD_ROLE),
    };
    if matches!(new, Some(Role::Master | Role::Slave)) {
        // Older than what was claimed before: the distance is signed (6.3.7 of the standard).
        if sessions.generation.is_some_and(|newest| (generation.wrapping_sub(newest) as i64) < 0) {
            return Err(Fail::STALE);
        }
        sessions.generation = Some(generation);
    }
    if new == Some(Role::Master) {
        for other in sessions.all.iter_mut().filter(|other| other.role == Role::Master) {
            other.role = Role::Slave;
        }
    }
    let known = sessions.generation.unwrap_or(u64::MAX);
    let one = sessions.all.get_mut(peer).ok_or(Fail::BAD_ROLE)?;
    one.role = new.unwrap_or(one.role);
    let role = one.role;
    message::write(&mut one.out, kind::ROLE_REPLY, xid, |out| {
        put32(out, role as u32);
        zeros(out, 4);
        put64(out, known);
    });
    Ok(())
}
