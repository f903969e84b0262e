//! What a connection says, and what it is answered.
//!
//! Messages are carried out in the order in which they come, each before the next is looked at, so a barrier has nothing to wait for. A connection
//! that does not begin with `OFPT_HELLO`, or names a length that no message has, is hung up on; any other mistake is answered with `OFPT_ERROR`.

use super::Openflow;
use super::message::{self, Fail, HEADER, Header, Reader, VERSION, kind, port, put16, put32, put64, zeros};
use super::ports::Ports;
use super::table::End;
use crate::extension::{Counters, Effects, Output};
use crate::{Nanos, PortId};

/// Bytes that may be said to one controller at a time.
const MOST_OUT: usize = 8 << 20;

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
                    for &mask in interests.as_flattened() {
                        put32(out, mask);
                    }
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
        if sessions.generation.is_some_and(|newest| generation.wrapping_sub(newest).cast_signed() < 0) {
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
