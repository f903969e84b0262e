//! Groups: places that several entries send to (`all` and `indirect`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::action::{For, Out, Program};
use super::message::{Fail, Reader, group, put16, put32, put64, zeros};
use crate::Nanos;

/// Groups of a switch.
pub(super) const MOST_GROUPS: usize = 1024;

/// Buckets of one group.
const MOST_BUCKETS: usize = 256;

/// Every bucket gets a copy.
const ALL: u8 = 0;
/// There is one bucket.
const INDIRECT: u8 = 2;

/// How many packets, and bytes of them.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) packets: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Count {
    pub(super) fn add(&self, len: u32) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::from(len), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    pub(super) fn of((packets, bytes): (u64, u64)) -> Self {
        Self { packets: AtomicU64::new(packets), bytes: AtomicU64::new(bytes) }
    }
}

#[derive(Debug)]
pub(super) struct Group {
    kind: u8,
    since: Nanos,
    buckets: Vec<Program>,
    /// As the controller wrote them.
    wire: Vec<u8>,
    pub(super) count: Count,
}

impl Group {
    /// All that its buckets send to.
    pub(super) fn outs(&self) -> impl Iterator<Item = Out> {
        self.buckets.iter().flat_map(|bucket| bucket.outs.iter().copied())
    }
}

/// The groups by number.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<u32, Group>);

impl Groups {
    pub(super) fn get(&self, id: u32) -> Option<&Group> {
        self.0.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Carries out a group-mod behind its header; returns the groups that went.
    pub(super) fn change(&mut self, now: Nanos, body: &[u8]) -> Result<Vec<u32>, Fail> {
        let mut reader = Reader(body);
        let head = (|| Some((reader.u16()?, reader.u8()?, reader.u8()?, reader.u32()?)))();
        let (command, kind, _, id) = head.ok_or(Fail::BAD_LEN)?;
        match command {
            0 | 1 => {
                if id > group::MAX {
                    return Err(Fail::INVALID_GROUP);
                }
                match (command, self.0.contains_key(&id)) {
                    (0, true) => return Err(Fail::GROUP_EXISTS),
                    (1, false) => return Err(Fail::UNKNOWN_GROUP),
                    (0, false) if self.0.len() >= MOST_GROUPS => return Err(Fail::OUT_OF_GROUPS),
                    _ => {}
                }
                let buckets = buckets(kind, reader.0)?;
                // Modifying clears what was counted (6.7 of the standard).
                let new =
                    Group { kind, since: now, buckets, wire: reader.0.to_vec(), count: Count::default() };
                self.0.insert(id, new);
                Ok(Vec::new())
            }
            2 if id == group::ALL => Ok(std::mem::take(&mut self.0).into_keys().collect()),
            2 => Ok(self.0.remove(&id).map(|_| id).into_iter().collect()),
            _ => Err(Fail::GROUP_COMMAND),
        }
    }

    /// The entries of a group-stats reply, each for itself.
    pub(super) fn stats(
        &self,
        now: Nanos,
        id: u32,
        counted: bool,
        references: impl Fn(u32) -> u32,
    ) -> Vec<Vec<u8>> {
        let known = |(packets, bytes)| if counted { (packets, bytes) } else { (u64::MAX, u64::MAX) };
        let wanted = self.0.iter().filter(|(of, _)| id == group::ALL || id == **of);
        wanted
            .map(|(&id, group)| {
                let mut out = Vec::new();
                put16(&mut out, (40 + 16 * group.buckets.len()) as u16);
                zeros(&mut out, 2);
                put32(&mut out, id);
                put32(&mut out, references(id));
                zeros(&mut out, 4);
                let (packets, bytes) = known(group.count.get());
                put64(&mut out, packets);
                put64(&mut out, bytes);
                let age = now.saturating_sub(group.since);
                put32(&mut out, (age / 1_000_000_000) as u32);
                put32(&mut out, (age % 1_000_000_000) as u32);
                // Every packet of the group goes to each of its buckets.
                for _ in &group.buckets {
                    put64(&mut out, packets);
                    put64(&mut out, bytes);
                }
                out
            })
            .collect()
    }

    /// The entries of a group-description reply.
    pub(super) fn descriptions(&self) -> Vec<Vec<u8>> {
        let one = |(&id, group): (&u32, &Group)| {
            let mut out = Vec::new();
            put16(&mut out, (8 + group.wire.len()) as u16);
            out.extend_from_slice(&[group.kind, 0]);
            put32(&mut out, id);
            out.extend_from_slice(&group.wire);
            out
        };
        self.0.iter().map(one).collect()
    }
}

/// The body of a group-features reply.
pub(super) fn features(out: &mut Vec<u8>) {
    put32(out, 1 << ALL | 1 << INDIRECT);
    put32(out, 0);
    for kind in 0..4 {
        put32(out, if kind == ALL || kind == INDIRECT { MOST_GROUPS as u32 } else { 0 });
    }
    for kind in 0..4 {
        put32(out, u32::from(kind == ALL || kind == INDIRECT)); // output
    }
}

fn buckets(kind: u8, wire: &[u8]) -> Result<Vec<Program>, Fail> {
    if kind != ALL && kind != INDIRECT {
        return Err(Fail::GROUP_TYPE);
    }
    let (mut buckets, mut reader) = (Vec::new(), Reader(wire));
    while !reader.0.is_empty() {
        let len = usize::from(reader.u16().ok_or(Fail::BAD_BUCKET)?);
        let body = len.checked_sub(2).and_then(|len| reader.take(len)).ok_or(Fail::BAD_BUCKET)?;
        let bucket = Program::read(body.get(14..).ok_or(Fail::BAD_BUCKET)?, For::Bucket)?;
        if bucket.outs.contains(&Out::Normal) {
            return Err(Fail::OUT_PORT);
        }
        buckets.push(bucket);
        if buckets.len() > MOST_BUCKETS || kind == INDIRECT && buckets.len() > 1 {
            return Err(if kind == INDIRECT { Fail::INVALID_GROUP } else { Fail::OUT_OF_BUCKETS });
        }
    }
    if kind == INDIRECT && buckets.is_empty() { Err(Fail::INVALID_GROUP) } else { Ok(buckets) }
}
