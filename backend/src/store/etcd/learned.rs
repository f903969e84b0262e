//! Addresses that were learned from guests of this host, as other hosts hear of them: records of kind `dynamic` under this host's lease,
//! so that they go when it dies.
//!
//! What somebody configured is never touched: an address that has such a record is not published, and that is an event. Of two hosts that
//! learned the same address, the one that did so last has it. At most [`TOGETHER`] addresses are written at once, one writing after the
//! other and a tenth of a second apart, however many guests try however many addresses.

use std::collections::BTreeMap;

use tonic::Status as Failure;
use vswitch::nv::model::{Kind, Record};

use super::keys;
use super::read;
use super::rpc::{Client, Compare, DeleteRequest, KeyValue, Operation, PutRequest, RequestOp, TxnRequest};
use crate::control::nv::object::{Key, Object, RecordKey};
use crate::store::objects;
use crate::store::policy::RecordChange;

/// Addresses that are written at once.
const TOGETHER: usize = 60;
/// Addresses of one host that are published at most; each port has a limit of its own below that.
const LIMIT: usize = 65_536;

/// What is to be done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It is to say this; `fresh` = whatever another host said before.
    Say { record: Record, fresh: bool },
    /// It is to be gone, if it says this.
    Withdraw(Record),
}

/// What this host publishes.
#[derive(Debug, Default)]
pub(super) struct Published {
    wanted: BTreeMap<RecordKey, Record>,
    due: BTreeMap<RecordKey, Due>,
}

impl Published {
    /// What was learned and forgotten since; or, if `all`, everything that is learned.
    pub(super) fn news(&mut self, news: Vec<RecordChange>, all: bool) {
        if all {
            let there: BTreeMap<RecordKey, _> = news.iter().copied().collect();
            let gone: Vec<_> = self.wanted.keys().filter(|key| !there.contains_key(key)).copied().collect();
            for key in gone {
                self.forgotten(key);
            }
        }
        for (key, record) in news {
            match record {
                None => self.forgotten(key),
                Some(record) if self.wanted.len() < LIMIT || self.wanted.contains_key(&key) => {
                    if self.wanted.insert(key, record) != Some(record) {
                        self.due.insert(key, Due::Say { record, fresh: true });
                    }
                }
                Some(_) => log::debug!("policy store: {key} is learned, but there are too many to be told"),
            }
        }
    }

    fn forgotten(&mut self, key: RecordKey) {
        if let Some(record) = self.wanted.remove(&key) {
            self.due.insert(key, Due::Withdraw(record));
        }
    }

    /// There is a new lease: everything is said again, where nobody else says something else.
    pub(super) fn again(&mut self) {
        for (key, record) in &self.wanted {
            self.due.entry(*key).or_insert(Due::Say { record: *record, fresh: false });
        }
    }

    /// The store says this of a key.
    pub(super) fn heard(&mut self, key: &RecordKey, record: Option<&Record>) {
        let Some(wanted) = self.wanted.get(key).filter(|_| !self.due.contains_key(key)) else { return };
        match record {
            Some(record) if record != wanted => drop(self.wanted.remove(key)),
            Some(_) => {}
            None => drop(self.due.insert(*key, Due::Say { record: *wanted, fresh: false })),
        }
    }

    /// What is to be written next.
    pub(super) fn next(&mut self) -> Vec<(RecordKey, Due)> {
        let some: Vec<_> = self.due.iter().take(TOGETHER).map(|(key, due)| (*key, *due)).collect();
        for (key, _) in &some {
            self.due.remove(key);
        }
        some
    }

    /// Takes in what came of it. The addresses that somebody configured, with what was learned and what is configured.
    pub(super) fn told(&mut self, told: Told) -> Vec<(Record, Record)> {
        for (key, due) in told.again {
            self.due.entry(key).or_insert(due);
        }
        for record in told.lost.iter().chain(told.refused.iter().map(|(record, _)| record)) {
            let key = RecordKey::of(record);
            if self.wanted.get(&key) == Some(record) {
                self.wanted.remove(&key);
            }
        }
        told.refused
    }
}

/// What came of writing.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Somebody else changed one of them meanwhile.
    again: Vec<(RecordKey, Due)>,
    /// Addresses that are another host's now.
    lost: Vec<Record>,
    /// Addresses that somebody configured, with what he did.
    refused: Vec<(Record, Record)>,
}

/// Writes what is due.
pub(super) async fn write(client: Client, lease: i64, due: Vec<(RecordKey, Due)>) -> Result<Told, Failure> {
    let (_, found) = read::look_up(client.clone(), due.iter().map(|(key, _)| *key).collect()).await?;
    let (mut told, mut compare, mut success) = (Told::default(), Vec::new(), Vec::new());
    for ((key, due), (_, found)) in due.iter().zip(found) {
        let name = keys::of(&Key::Record(*key)).unwrap_or_default().into_bytes();
        let revision = found.as_ref().map_or(0, |kv| kv.mod_revision);
        let operation = match (due, found.as_ref().map(|kv| (kv, record(key, kv)))) {
            (Due::Say { record, .. }, None) => put(&name, record, lease),
            (Due::Say { record, fresh }, Some((kv, Some(there)))) if there.kind == Kind::Dynamic => {
                if there == *record && kv.lease == lease {
                    continue;
                }
                if there != *record && !fresh {
                    told.lost.push(*record);
                    continue;
                }
                put(&name, record, lease)
            }
            (Due::Say { record, .. }, Some((_, Some(there)))) => {
                told.refused.push((*record, there));
                continue;
            }
            // What it says cannot be read: it is not this host's to mend.
            (Due::Say { record, .. }, Some((_, None))) => {
                told.lost.push(*record);
                continue;
            }
            (Due::Withdraw(record), Some((_, Some(there)))) if there == *record => {
                Operation::Delete(DeleteRequest { key: name.clone(), range_end: Vec::new() })
            }
            (Due::Withdraw(_), _) => continue,
        };
        compare.push(Compare::unchanged(name, revision));
        success.push(RequestOp { request: Some(operation) });
    }
    if !success.is_empty() && !client.transact(TxnRequest { compare, success }).await?.succeeded {
        told.again = due;
    }
    Ok(told)
}

fn put(name: &[u8], record: &Record, lease: i64) -> Operation {
    let value = objects::value(&Object::Record(*record));
    Operation::Put(PutRequest { key: name.to_vec(), value, lease })
}

fn record(key: &RecordKey, kv: &KeyValue) -> Option<Record> {
    match objects::object(&Key::Record(*key), &kv.value) {
        Ok(Object::Record(record)) => Some(record),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use vswitch::Mac;
    use vswitch::nv::model::Encap;

    use super::*;

    fn record(n: u8, pa: u8) -> Record {
        let (ca, pa) = ([10, 1, 0, n].into(), [192, 168, 1, pa].into());
        let mac = Mac::from_u64(0x0200_0000_0000 + u64::from(n));
        Record {
            vsid: 5001,
            ca,
            mac,
            pa,
            kind: Kind::Dynamic,
            encap: Encap::Nvgre,
            rewrite_pa: None,
            next: None,
        }
    }

    fn learned(n: u8) -> RecordChange {
        (RecordKey::of(&record(n, 1)), Some(record(n, 1)))
    }

    #[test]
    fn s14_9_what_is_learned_is_said_once_and_again_with_a_new_lease() {
        let mut it = Published::default();
        it.news(vec![learned(1), learned(2), learned(1)], false);
        assert_eq!(it.next().len(), 2);
        it.news(vec![learned(1)], false);
        assert_eq!(it.next(), [], "nothing is new");
        it.again();
        let again = |n| (learned(n).0, Due::Say { record: record(n, 1), fresh: false });
        assert_eq!(it.next(), [again(1), again(2)]);
        it.news(vec![(learned(1).0, None)], false);
        assert_eq!(it.next(), [(learned(1).0, Due::Withdraw(record(1, 1)))]);
        it.news(vec![learned(3)], true);
        let due = [
            (learned(2).0, Due::Withdraw(record(2, 1))),
            (learned(3).0, Due::Say { record: record(3, 1), fresh: true }),
        ];
        assert_eq!(it.next(), due, "all that is learned is all that is said");
    }

    #[test]
    fn s14_9_an_address_that_another_host_learned_later_is_not_taken_back() {
        let mut it = Published::default();
        it.news(vec![learned(1), learned(2)], false);
        it.heard(&learned(1).0, Some(&record(1, 9)));
        assert_eq!(it.next().len(), 2, "what is said later here is not known there yet");
        it.heard(&learned(1).0, Some(&record(1, 9)));
        it.heard(&learned(2).0, None);
        it.again();
        assert_eq!(it.next(), [(learned(2).0, Due::Say { record: record(2, 1), fresh: false })]);
        let refused = it.told(Told { refused: vec![(record(2, 1), record(2, 7))], ..Told::default() });
        assert_eq!(refused.len(), 1);
        it.again();
        assert_eq!(it.next(), [], "a configured one is left alone from then on");
    }
}
