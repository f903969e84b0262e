//! What changes the switch: entries (flow-mod) and frames of the controller's own (packet-out).

use std::sync::atomic::{AtomicU64, Ordering};

use super::action::{For, Out, Program};
use super::group::Count;
use super::made::{Made, Way};
use super::message::{Fail, NO_BUFFER, Reader, kind, port};
use super::oxm::Match;
use super::session::{Sessions, Work};
use super::table::{End, Filter, Flow, SEND_REMOVED};
use super::{Openflow, lock};
use crate::extension::{Effects, Injection, Sight};
use crate::{Direction, Nanos, PortId};

impl Openflow {
    pub(super) fn flow_mod(
        &self,
        sessions: &mut Sessions,
        body: &[u8],
        work: &mut Work<'_>,
    ) -> Result<(), Fail> {
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

    pub(super) fn packet_out(
        &self,
        sessions: &mut Sessions,
        body: &[u8],
        work: &mut Work<'_>,
    ) -> Result<(), Fail> {
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
        let from = match in_port {
            port::CONTROLLER => Some(PortId::SWITCH),
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
            let (from, frame) = ((from != PortId::SWITCH).then_some(from), frame.clone());
            if !work.effects.inject(Injection { from, frame }) {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
