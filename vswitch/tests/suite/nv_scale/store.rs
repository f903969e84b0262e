//! The policy store as a host sees etcd: one totally ordered log of changes, ranges read at one revision, and watches by prefix.
//!
//! What the store says to one host arrives in the order in which it was said (it is one connection), each message after a delay of its own:
//! a base that is the host's (0.2 to 2 ms), and an exponential part (1 ms in the mean, [`TAIL`] at most); one message in a thousand meets a
//! [`STALL`]. A change takes [`COMMIT`] to be committed. Every change is a message of its own to everybody who watches its virtual subnet,
//! which is the most that etcd sends. Bytes are those of the key, of the JSON value and of their protobuf, with gRPC's and HTTP/2's headers
//! of a message, without TCP's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use vswitch::nv::model::{Encap, Record};

use crate::support::Random;

const MILLI: u64 = 1_000_000;
/// From the store's having a request until the change is in its log.
pub(super) const COMMIT: u64 = 2 * MILLI;
const BASE: u64 = 2 * MILLI;
const TAIL: u64 = 20 * MILLI;
const STALL: u64 = 50 * MILLI;
/// No message takes longer.
pub(super) const SLOWEST: u64 = BASE + TAIL + STALL;

/// Keys of one page of a range.
const PAGE: usize = 4096;

/// What a host was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes += bytes;
    }
}

struct Line {
    base: u64,
    /// When the last message arrives.
    last: u64,
}

pub(super) struct Store {
    pub(super) rows: BTreeMap<(u32, IpAddr), Record>,
    /// What was committed after the beginning; a revision is a place in here.
    pub(super) log: Vec<Record>,
    watchers: HashMap<u32, BTreeSet<usize>>,
    lines: Vec<Line>,
    /// By host.
    pub(super) sent: Vec<Traffic>,
    random: Random,
}

impl Store {
    pub(super) fn new(hosts: usize, rows: BTreeMap<(u32, IpAddr), Record>, seed: u64) -> Self {
        let mut random = Random(seed);
        let least = BASE / 10;
        let line = |_| Line { base: least + random.next() % (BASE - least), last: 0 };
        let lines = (0..hosts).map(line).collect();
        let sent = vec![Traffic::default(); hosts];
        Self { rows, log: Vec::new(), watchers: HashMap::new(), lines, sent, random }
    }

    /// How long a message from or to a host takes.
    pub(super) fn delay(&mut self, host: usize) -> u64 {
        let part = (self.random.next() >> 11) as u32;
        let tail = -(f64::from(part | 1) / f64::from(u32::MAX)).ln() * 1e6;
        let stall = if self.random.once_in(1000) { STALL } else { 0 };
        self.lines[host].base + (tail as u64).min(TAIL) + stall
    }

    /// When the store's next message is at a host.
    fn arrival(&mut self, host: usize, now: u64) -> u64 {
        let at = now + self.delay(host);
        let line = &mut self.lines[host];
        line.last = line.last.max(at);
        line.last
    }

    /// Answers a range of each virtual subnet, all at one revision, and watches them from there: what there is, and when the host has it.
    pub(super) fn read(&mut self, host: usize, vsids: &[u32], now: u64) -> (Vec<Record>, u64) {
        let mut all = Vec::new();
        for &vsid in vsids {
            self.watchers.entry(vsid).or_default().insert(host);
            let range = (vsid, IpAddr::from([0; 4]))..(vsid + 1, IpAddr::from([0; 4]));
            let rows: Vec<Record> = self.rows.range(range).map(|(_, record)| *record).collect();
            let bytes: u64 = rows.iter().map(|record| field(key_value(record))).sum();
            let pages = rows.len().div_ceil(PAGE).max(1) as u64;
            self.sent[host].messages += pages;
            self.sent[host].bytes += bytes + pages * (HEADER + FRAMING + 6);
            all.extend(rows);
        }
        (all, self.arrival(host, now))
    }

    pub(super) fn unwatch(&mut self, host: usize, vsid: u32) {
        if let Some(watchers) = self.watchers.get_mut(&vsid) {
            watchers.remove(&host);
        }
    }

    /// Commits a change: its revision, and who hears of it when.
    pub(super) fn commit(&mut self, now: u64, record: &Record) -> (usize, Vec<(usize, u64)>) {
        self.rows.insert((record.vsid, record.ca), *record);
        self.log.push(*record);
        let watchers: Vec<usize> = self.watchers.get(&record.vsid).into_iter().flatten().copied().collect();
        let tell = |host: usize| {
            self.sent[host].add(watched(record));
            (host, self.arrival(host, now))
        };
        let told = watchers.into_iter().map(tell).collect();
        (self.log.len() - 1, told)
    }
}

/// Cluster, member, revision and term.
const HEADER: u64 = 2 + 11 + 11 + 5 + 2;
/// gRPC's prefix of a message and HTTP/2's header of a frame.
const FRAMING: u64 = 5 + 9;

/// Bytes of a field with that many bytes in it.
const fn field(len: u64) -> u64 {
    1 + if len < 128 { 1 } else { 2 } + len
}

/// Bytes of a key and its value, with three revisions.
fn key_value(record: &Record) -> u64 {
    let Record { vsid, ca, mac, pa, encap, next, .. } = record;
    let key = format!("/turnpike/v1/records/{vsid}/{ca}");
    let encap = if *encap == Encap::Vxlan { r#","encap":"vxlan""# } else { "" };
    let next = next.map_or_else(String::new, |next| format!(r#","next_pa":"{next}""#));
    let value = format!(r#"{{"vsid":{vsid},"ca":"{ca}","mac":"{mac}","pa":"{pa}"{encap}{next}}}"#);
    field(key.len() as u64) + field(value.len() as u64) + 2 * 5 + 2
}

/// Bytes of a watch's message with one change.
pub(super) fn watched(record: &Record) -> u64 {
    FRAMING + HEADER + 3 + field(field(key_value(record)))
}
