//! What is done with frames: actions and instructions, and what they come to.
//!
//! A frame can be changed once and then sent to any number of ports, or go where the switch itself would send it, and be shown to controllers beside
//! that. What is more than that (changes between two outputs, tags, queues, tables) is refused when it is asked for.

use std::fmt::Write as _;

use super::message::{Fail, Reader, group, port};
use super::oxm::Set;
use crate::PortId;

/// Actions of one list.
const MOST: usize = 64;

/// One place that a frame is sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Out {
    Port(PortId),
    /// All ports but the one it came from.
    All,
    /// Where the switch itself sends it.
    Normal,
    Controller,
    /// Where the table sends it; only for what a controller sends.
    Table,
    Group(u32),
}

/// Actions in the order in which they are carried out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Program {
    pub(super) sets: Vec<Set>,
    pub(super) outs: Vec<Out>,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum For {
    /// An entry of the table.
    Flow,
    /// A bucket: it sends, and changes nothing.
    Bucket,
    /// A packet of the controller.
    Packet,
}

impl Program {
    /// Reads a list of actions.
    pub(super) fn read(actions: &[u8], who: For) -> Result<Self, Fail> {
        let mut program = Self::default();
        program.add(actions, who)?;
        program.check()?;
        Ok(program)
    }

    fn add(&mut self, actions: &[u8], who: For) -> Result<(), Fail> {
        let mut reader = Reader(actions);
        while !reader.0.is_empty() {
            if self.sets.len() + self.outs.len() >= MOST {
                return Err(Fail::TOO_MANY_ACTIONS);
            }
            let kind = reader.u16().ok_or(Fail::ACTION_LEN)?;
            let len = usize::from(reader.u16().ok_or(Fail::ACTION_LEN)?);
            if len % 8 != 0 {
                return Err(Fail::ACTION_LEN);
            }
            let body = len.checked_sub(4).and_then(|len| reader.take(len)).ok_or(Fail::ACTION_LEN)?;
            let mut body = Reader(body);
            match (kind, len) {
                (0, 16) => {
                    let out = output(body.u32().ok_or(Fail::ACTION_LEN)?)?;
                    if out == Out::Table && who != For::Packet {
                        return Err(Fail::OUT_PORT);
                    }
                    self.outs.push(out);
                }
                (22, 8) => {
                    let id = body.u32().filter(|&id| id <= group::MAX).ok_or(Fail::OUT_GROUP)?;
                    if who == For::Bucket {
                        return Err(Fail::CHAINING);
                    }
                    self.outs.push(Out::Group(id));
                }
                (25, _) if who != For::Bucket => {
                    if !self.outs.is_empty() {
                        return Err(Fail::ACTION_ORDER);
                    }
                    self.sets.push(Set::read(&mut body)?);
                }
                (0 | 22, _) => return Err(Fail::ACTION_LEN),
                (0xffff, _) => return Err(Fail::ACTION_EXPERIMENTER),
                _ => return Err(Fail::ACTION_TYPE),
            }
        }
        Ok(())
    }

    /// A frame goes where the switch sends it, or where the entry does, not both; and a table is asked for it alone.
    fn check(&self) -> Result<(), Fail> {
        let alone = self.outs.iter().any(|out| matches!(out, Out::Normal | Out::Table));
        let others = self.outs.iter().filter(|out| **out != Out::Controller).count();
        if alone && others > 1 { Err(Fail::ACTION_ORDER) } else { Ok(()) }
    }

    /// Reads the instructions of an entry.
    pub(super) fn of_instructions(instructions: &[u8]) -> Result<Self, Fail> {
        let mut reader = Reader(instructions);
        let (mut applied, mut written, mut seen) = (None, None, 0_u8);
        while !reader.0.is_empty() {
            let kind = reader.u16().ok_or(Fail::INSTRUCTION_LEN)?;
            let len = usize::from(reader.u16().ok_or(Fail::INSTRUCTION_LEN)?);
            let body = len.checked_sub(4).and_then(|len| reader.take(len)).ok_or(Fail::INSTRUCTION_LEN)?;
            if len % 8 != 0 {
                return Err(Fail::INSTRUCTION_LEN);
            }
            match kind {
                1 => return Err(Fail::GOTO_TABLE),
                2 => return Err(Fail::METADATA),
                3..=5 => {
                    if seen >> kind & 1 != 0 {
                        return Err(Fail::DUPLICATE_INSTRUCTION);
                    }
                    seen |= 1 << kind;
                    let actions = body.get(4..).ok_or(Fail::INSTRUCTION_LEN)?;
                    match kind {
                        3 => written = Some(actions),
                        4 => applied = Some(actions),
                        // The action set of the only table there is is empty before this one.
                        _ if actions.is_empty() => {}
                        _ => return Err(Fail::INSTRUCTION_LEN),
                    }
                }
                6 | 0xffff => return Err(Fail::UNSUPPORTED_INSTRUCTION),
                _ => return Err(Fail::UNKNOWN_INSTRUCTION),
            }
        }
        let mut program = Self::default();
        program.add(applied.unwrap_or_default(), For::Flow)?;
        if let Some(actions) = written {
            let set = Self::read_set(actions)?;
            if !set.sets.is_empty() && !program.outs.is_empty() {
                return Err(Fail::ACTION_ORDER);
            }
            program.sets.extend(set.sets);
            program.outs.extend(set.outs);
        }
        program.check()?;
        Ok(program)
    }

    /// An action set: changes first, then the group, or else the one output.
    fn read_set(actions: &[u8]) -> Result<Self, Fail> {
        let mut all = Self::default();
        let (mut to_group, mut to_port) = (None, None);
        let mut rest = Reader(actions);
        while !rest.0.is_empty() {
            let len = rest.0.get(2..4).and_then(|len| len.first_chunk()).map(|len| u16::from_be_bytes(*len));
            let one = len.filter(|&len| len > 0).and_then(|len| rest.take(usize::from(len)));
            let one = Self::read(one.ok_or(Fail::ACTION_LEN)?, For::Flow)?;
            all.sets.extend(one.sets);
            match one.outs.first() {
                Some(&group @ Out::Group(_)) => to_group = Some(group),
                Some(&port) => to_port = Some(port),
                None => {}
            }
            if all.sets.len() > MOST {
                return Err(Fail::TOO_MANY_ACTIONS);
            }
        }
        all.outs.extend(to_group.or(to_port));
        Ok(all)
    }

    /// Groups it sends to.
    pub(super) fn groups(&self) -> impl Iterator<Item = u32> {
        self.outs.iter().filter_map(|out| if let Out::Group(id) = out { Some(*id) } else { None })
    }

    /// Whether it sends to this port or group, as filters of requests name them.
    pub(super) fn sends_to(&self, out_port: u32, out_group: u32) -> bool {
        let to_port = |out: &Out| match *out {
            Out::Port(id) => u32::from(id.0) == out_port,
            Out::All => matches!(out_port, port::ALL | port::FLOOD),
            Out::Normal => out_port == port::NORMAL,
            Out::Controller => out_port == port::CONTROLLER,
            Out::Table | Out::Group(_) => false,
        };
        (out_port == port::ANY || self.outs.iter().any(to_port))
            && (out_group == group::ANY || self.groups().any(|id| id == out_group))
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for set in &self.sets {
            let (field, mac) = match *set {
                Set::To(mac) => ("eth_dst", mac),
                Set::From(mac) => ("eth_src", mac),
            };
            let _ = write!(text, "set {field}={},", crate::Mac(mac));
        }
        for out in &self.outs {
            let _ = match out {
                Out::Port(id) => write!(text, "output:{id},"),
                Out::All => write!(text, "output:all,"),
                Out::Normal => write!(text, "output:normal,"),
                Out::Controller => write!(text, "output:controller,"),
                Out::Table => write!(text, "output:table,"),
                Out::Group(id) => write!(text, "group:{id},"),
            };
        }
        if text.pop().is_none() {
            text.push_str("drop");
        }
        text
    }
}

fn output(number: u32) -> Result<Out, Fail> {
    Ok(match number {
        port::ALL | port::FLOOD => Out::All,
        port::NORMAL => Out::Normal,
        port::CONTROLLER => Out::Controller,
        port::TABLE => Out::Table,
        // A port that is not there yet may come.
        1..=0xffff => Out::Port(PortId(number as u16)),
        _ => return Err(Fail::OUT_PORT),
    })
}
