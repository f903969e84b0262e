//! What a controller asks about: multipart requests.

use std::sync::atomic::{AtomicU64, Ordering};

use super::message::{self, Fail, Reader, kind, port, put16, put32, put64, zeros};
use super::oxm::Match;
use super::session::{Sessions, Work};
use super::table::Filter;
use super::{Openflow, group};

/// Bytes of entries in one message of a reply.
const PART: usize = 60_000;

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
            for entry in part {
                out.extend_from_slice(entry);
            }
        });
        if rest.is_empty() {
            return;
        }
    }
}

impl Openflow {
    pub(super) fn multipart(
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
