//! Changes of the store: transactions that hold only if what they are based on is still so.

use std::collections::BTreeMap;

use vswitch::nv::model::{Kind, Record};
use vswitch::refusal::NvRefusal;

use super::keys::{self, Scope};
use super::rpc::{
    Client, Compare, DeleteRequest, Operation, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use crate::control::nv::object::{Change, Key, Object};
use crate::store::objects;
use crate::store::policy::Writing;

/// Changes of one transaction at most; etcd takes 128 operations unless it is told otherwise.
pub(super) const TOGETHER: usize = 120;

/// How often a transaction is tried whose keys somebody else touches, too.
const ATTEMPTS: usize = 5;

/// What came of changes.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The revision of the last one.
    pub(super) revision: i64,
    /// That of the last one in each part of the store.
    pub(super) touched: BTreeMap<Scope, i64>,
}

/// Makes the changes, [`TOGETHER`] in a transaction.
///
/// A change that is there already counts as made, so that what was interrupted can be repeated.
pub(super) async fn commit(
    client: Client,
    changes: Vec<Change>,
    mut progress: Writing,
) -> Result<Written, NvRefusal> {
    let (mut written, mut done) = (Written::default(), 0);
    for together in changes.chunks(TOGETHER) {
        match transaction(&client, together).await {
            Ok(touched) => {
                for (scope, revision) in touched {
                    written.revision = written.revision.max(revision);
                    let last = written.touched.entry(scope).or_default();
                    *last = revision.max(*last);
                }
            }
            Err(why) if done == 0 => return Err(why),
            Err(why) => {
                return Err(NvRefusal::Partly { done, all: changes.len(), reason: why.to_string() });
            }
        }
        done += together.len();
        progress.wrote(together.len());
    }
    Ok(written)
}

/// The parts that are touched, each with the revision of the last change there.
async fn transaction(client: &Client, changes: &[Change]) -> Result<Vec<(Scope, i64)>, NvRefusal> {
    let mut wanted = Vec::with_capacity(changes.len());
    for change in changes {
        // Objects of one host are not in the store.
        let Some(key) = keys::of(&change.key) else { continue };
        wanted.push((key.into_bytes(), change));
    }
    // What is new needs no look first.
    let mut revisions = vec![0; wanted.len()];
    let mut look = wanted.iter().any(|(_, change)| change.before.is_some());
    for _ in 0..ATTEMPTS {
        if look {
            let found = read(client, wanted.iter().map(|(key, _)| key.clone())).await?;
            let mut all_done = true;
            for (((key, change), found), revision) in wanted.iter().zip(&found).zip(&mut revisions) {
                let now = match found {
                    Some((_, value)) => objects::object(&change.key, value).map(Some),
                    None => Ok(None),
                };
                // What was learned of an address gives way to what somebody says of it.
                let learned =
                    |object: &Object| matches!(object, Object::Record(it) if it.kind == Kind::Dynamic);
                let now = now.map(|now| now.filter(|object| change.before.is_some() || !learned(object)));
                let is_done = now.as_ref() == Ok(&change.after);
                all_done &= is_done;
                if !is_done
                    && now.as_ref().map(|now| settled(now.as_ref())) != Ok(settled(change.before.as_ref()))
                {
                    log::debug!("policy store: {} is {now:?}", String::from_utf8_lossy(key));
                    return Err(match (&change.before, now) {
                        (None, Ok(Some(Object::Record(there)))) if !matches!(&change.after, Some(Object::Record(new)) if new.mac == there.mac) => {
                            NvRefusal::SecondMac { address: there.ca, mac: there.mac }
                        }
                        (None, Ok(Some(_))) => {
                            let noun = change.key.noun();
                            NvRefusal::Exists { remove: format!("turnpike nv {noun} remove") }
                        }
                        _ => NvRefusal::Raced,
                    });
                }
                *revision = found.as_ref().map_or(0, |(revision, _)| *revision);
            }
            if all_done {
                let scopes = wanted.iter().map(|(_, change)| Scope::of(&change.key));
                return Ok(scopes.zip(revisions).collect());
            }
        }
        let unchanged = wanted
            .iter()
            .zip(&revisions)
            .map(|((key, _), revision)| Compare::unchanged(key.clone(), *revision));
        // This host may not know the records of a subnet that is to go.
        let empty = emptied(changes).map(|vsid| Compare::nothing_below(Scope::Records(vsid).range().0));
        let compare = unchanged.chain(empty);
        let success = wanted.iter().map(|(key, change)| match &change.after {
            Some(object) => {
                let value = objects::value(object);
                Operation::Put(PutRequest { key: key.clone(), value, lease: 0 })
            }
            None => Operation::Delete(DeleteRequest { key: key.clone(), range_end: Vec::new() }),
        });
        let success = success.map(|operation| RequestOp { request: Some(operation) });
        let request = TxnRequest { compare: compare.collect(), success: success.collect() };
        let answer = client.transact(request).await.map_err(|e| refusal(&e))?;
        if answer.succeeded {
            let revision = answer.header.unwrap_or_default().revision;
            return Ok(wanted.iter().map(|(_, change)| (Scope::of(&change.key), revision)).collect());
        }
        look = true;
        for vsid in emptied(changes) {
            let (key, range_end) = Scope::Records(vsid).range();
            let range = RangeRequest { key, range_end, count_only: true, ..RangeRequest::default() };
            match client.range(range).await.map_err(|e| refusal(&e))?.count {
                0 => {}
                1 => return Err(NvRefusal::InUse { by: "a record".into(), several: false }),
                n => return Err(NvRefusal::InUse { by: format!("{n} records"), several: true }),
            }
        }
    }
    Err(NvRefusal::Raced)
}

/// An object but for where a guest is about to be: a change that is based on a record is not undone by somebody's having said that.
fn settled(object: Option<&Object>) -> Option<Object> {
    match object {
        Some(Object::Record(record)) => Some(Object::Record(Record { next: None, ..*record })),
        object => object.cloned(),
    }
}

/// The virtual subnets that go with these changes although none of their records does.
fn emptied(changes: &[Change]) -> impl Iterator<Item = u32> {
    let has_records =
        |vsid| changes.iter().any(|it| matches!(&it.key, Key::Record(key) if key.vsid() == vsid));
    changes.iter().filter(|it| it.after.is_none()).filter_map(move |change| match change.key {
        Key::Subnet(vsid) if !has_records(vsid) => Some(vsid),
        _ => None,
    })
}

type Found = Vec<Option<(i64, Vec<u8>)>>;

/// What the keys hold now, all at one revision.
async fn read(client: &Client, keys: impl Iterator<Item = Vec<u8>>) -> Result<Found, NvRefusal> {
    let range = |key| {
        let range = RangeRequest { key, ..RangeRequest::default() };
        RequestOp { request: Some(Operation::Range(range)) }
    };
    let request = TxnRequest { compare: Vec::new(), success: keys.map(range).collect() };
    let answer = client.transact(request).await.map_err(|e| refusal(&e))?;
    let first = |range: super::rpc::RangeResponse| range.kvs.into_iter().next();
    let found = answer
        .responses
        .into_iter()
        .map(|response| response.range.and_then(first).map(|kv| (kv.mod_revision, kv.value)));
    Ok(found.collect())
}

/// What a failed call is to whoever wanted a change.
pub(super) fn refusal(status: &tonic::Status) -> NvRefusal {
    let reason = status.message().to_owned();
    match status.code() {
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied | tonic::Code::InvalidArgument => {
            NvRefusal::StoreRefused { reason }
        }
        tonic::Code::ResourceExhausted => NvRefusal::StoreRefused { reason },
        _ => NvRefusal::StoreLost { reason },
    }
}
