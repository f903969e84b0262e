//! Customer addresses that are learned: those of a guest whose address is not known, which has a record of kind `l2-only`.
//!
//! Learned from what the guest says in ARP and neighbour discovery, and from the packets that it sends, as a record of kind `dynamic` at
//! the place that the guest's own record names. Nothing learned contradicts a record of another kind. An address that another guest has is
//! taken over only if it was learned itself, and that is an event. A port has at most as many as its `address-limit`, or [`DEFAULT_LIMIT`];
//! one that was not used for [`IDLE`] is forgotten.
//!
//! What is learned is in force at once at this host. Others hear of it through the policy store, for which [`Learned::take`] lists changes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::model::{Kind, Record};
use super::records::{Change, Of, Records};
use crate::hash::Seeded;
use crate::{Mac, Nanos, PortId};

/// Addresses that are learned of one port, if it has no limit of its own.
pub const DEFAULT_LIMIT: u32 = 64;

/// How long an address is known without being used, in nanoseconds (five minutes).
pub const IDLE: Nanos = 300_000_000_000;

/// Changes that wait to be taken, at most. Who finds so many must ask for everything.
pub const PENDING: usize = 4096;

/// A change of what is learned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// A record is there now, or says something else.
    Learned(Record),
    /// It is gone.
    Forgotten {
        /// Its virtual subnet.
        vsid: u32,
        /// Its customer address.
        ca: IpAddr,
    },
}

/// What came of an address that a guest used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is known to be the guest's.
    Known,
    /// It is now.
    New,
    /// It was another guest's before.
    Taken {
        /// That one's MAC address.
        from: Mac,
    },
    /// The port has as many as it may.
    TooMany,
}

/// What was learned, by address. One lock; taken when a guest with a record of kind `l2-only` begins a flow, and once a second for each.
#[derive(Debug)]
pub struct Learned {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: HashMap<(u32, IpAddr), Entry, Seeded>,
    /// By port.
    counts: HashMap<u16, u32>,
    news: Vec<News>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    port: PortId,
    mac: Mac,
    seen: Nanos,
}

impl Learned {
    pub(super) fn new(seed: u64) -> Self {
        let entries = HashMap::with_hasher(Seeded(seed));
        Self { inner: Mutex::new(Inner { entries, counts: HashMap::new(), news: Vec::new() }) }
    }

    /// A guest behind `port` used an address. `record` is what there is to be in the table of records.
    pub(super) fn learn(
        &self,
        now: Nanos,
        port: PortId,
        limit: u32,
        record: &Record,
        records: &Records,
    ) -> Outcome {
        let key = (record.vsid, record.ca);
        let limit = if limit == 0 { DEFAULT_LIMIT } else { limit };
        let mut inner = self.lock();
        let known = inner.entries.get_mut(&key);
        if let Some(entry) = known
            && entry.port == port
            && entry.mac == record.mac
        {
            entry.seen = entry.seen.max(now);
            // The store may have said something else meanwhile.
            if records.find(record.vsid, Of::Address(record.ca)).is_some() {
                return Outcome::Known;
            }
        }
        let before = inner.entries.get(&key).copied();
        let another = before.is_none_or(|entry| entry.port != port);
        if another && inner.counts.get(&port.0).copied().unwrap_or(0) >= limit {
            return Outcome::TooMany;
        }
        if records.upsert(now, record, true) == Change::Full {
            return Outcome::TooMany;
        }
        if let Some(entry) = before {
            inner.uncount(entry.port);
        }
        *inner.counts.entry(port.0).or_default() += 1;
        inner.entries.insert(key, Entry { port, mac: record.mac, seen: now });
        inner.tell(News::Learned(*record));
        match before {
            Some(entry) if entry.mac != record.mac => Outcome::Taken { from: entry.mac },
            _ => Outcome::New,
        }
    }

    /// Forgets what was not used for [`IDLE`].
    pub(super) fn age(&self, now: Nanos, records: &Records) {
        self.forget(records, |entry| now.saturating_sub(entry.seen) >= IDLE);
    }

    /// Forgets what was learned from a port.
    pub(super) fn remove_port(&self, port: PortId, records: &Records) {
        self.forget(records, |entry| entry.port == port);
    }

    fn forget(&self, records: &Records, gone: impl Fn(&Entry) -> bool) {
        let mut inner = self.lock();
        let keys: Vec<_> = inner
            .entries
            .iter()
            .filter(|(_, entry)| gone(entry))
            .map(|(&key, &entry)| (key, entry))
            .collect();
        for ((vsid, ca), entry) in keys {
            inner.entries.remove(&(vsid, ca));
            inner.uncount(entry.port);
            // Not if somebody configured it meanwhile, or it is at another host.
            let ours = records
                .find(vsid, Of::Address(ca))
                .is_some_and(|(_, view)| view.kind == Kind::Dynamic && view.local && view.mac == entry.mac);
            if ours {
                records.remove(vsid, Of::Address(ca));
                inner.tell(News::Forgotten { vsid, ca });
            }
        }
    }

    /// What changed since the last call. [`PENDING`] changes mean that there may have been more: then [`Learned::list`] says what is.
    pub fn take(&self) -> Vec<News> {
        std::mem::take(&mut self.lock().news)
    }

    /// Everything that is learned: virtual subnet, customer address, MAC address and the port it is behind.
    pub fn list(&self) -> Vec<(u32, IpAddr, Mac, PortId)> {
        let inner = self.lock();
        let mut list: Vec<_> =
            inner.entries.iter().map(|(&(vsid, ca), entry)| (vsid, ca, entry.mac, entry.port)).collect();
        list.sort_unstable_by_key(|&(vsid, ca, ..)| (vsid, ca));
        list
    }

    /// After a panic between two steps a count may be wrong by one.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn uncount(&mut self, port: PortId) {
        if let Some(count) = self.counts.get_mut(&port.0) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&port.0);
            }
        }
    }

    fn tell(&mut self, news: News) {
        if self.news.len() < PENDING {
            self.news.push(news);
        }
    }
}
