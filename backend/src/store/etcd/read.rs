//! Reading ranges of keys in pages of one revision, and single keys at once.

use tonic::Status as Failure;
use vswitch::nv::model::Record;
use vswitch::nv::records::Of;
use vswitch::nv::wanted::Want;
use vswitch::refusal::NvRefusal;

use super::keys::{self, Meaning};
use super::rpc::{Client, KeyValue, Operation, RangeRequest, RangeResponse, RequestOp, TxnRequest};
use super::write::{self, TOGETHER};
use crate::control::nv::object::{Key, Object, RecordKey};
use crate::store::objects;

/// Keys of one page.
const PAGE: i64 = 4096;

/// A range of keys, read in pages.
pub(super) struct Pages {
    client: Client,
    from: Vec<u8>,
    end: Vec<u8>,
    limit: i64,
    revision: i64,
    ended: bool,
}

impl Pages {
    /// The keys of a range as they are at `revision`; 0 = now.
    pub(super) fn new(client: Client, (from, end): (Vec<u8>, Vec<u8>), revision: i64) -> Self {
        Self { client, from, end, limit: PAGE, revision, ended: false }
    }

    /// As of when the keys are read; 0 = nothing was read yet.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// The next page; `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<RangeResponse>, Failure> {
        if self.ended {
            return Ok(None);
        }
        let page = loop {
            let request = RangeRequest {
                key: self.from.clone(),
                range_end: self.end.clone(),
                limit: self.limit,
                revision: self.revision,
                count_only: false,
            };
            match self.client.range(request).await {
                // Values may be of any length: fewer of them then.
                Err(e) if too_large(&e) && self.limit > 1 => self.limit /= 8,
                page => break page?,
            }
        };
        if self.revision == 0 {
            self.revision = page.header.unwrap_or_default().revision;
        }
        match page.kvs.last() {
            Some(last) if page.more => {
                self.from.clone_from(&last.key);
                self.from.push(0);
            }
            _ => self.ended = true,
        }
        Ok(Some(page))
    }
}

/// Whether a message was too large for one of the two.
pub(super) fn too_large(failure: &Failure) -> bool {
    matches!(failure.code(), tonic::Code::OutOfRange | tonic::Code::ResourceExhausted)
}

/// All valid records.
pub(super) async fn all(client: Client) -> Result<Vec<Record>, NvRefusal> {
    let mut pages = Pages::new(client, keys::all_records(), 0);
    let mut records = Vec::new();
    while let Some(page) = pages.next().await.map_err(|e| write::refusal(&e))? {
        records.extend(page.kvs.iter().filter_map(record));
    }
    Ok(records)
}

fn record(kv: &KeyValue) -> Option<Record> {
    let Some(Meaning::Object(key)) = keys::meaning(&kv.key) else { return None };
    match objects::object(&key, &kv.value) {
        Ok(Object::Record(record)) => Some(record),
        _ => None,
    }
}

/// What keys hold, all at one revision, which is said too.
pub(super) type Answers = (i64, Vec<(RecordKey, Option<KeyValue>)>);

/// Looks keys up, at most [`TOGETHER`].
pub(super) async fn look_up(client: Client, keys: Vec<RecordKey>) -> Result<Answers, Failure> {
    let range = |key: &RecordKey| {
        let range = RangeRequest { key: named(*key), ..RangeRequest::default() };
        RequestOp { request: Some(Operation::Range(range)) }
    };
    let request = TxnRequest { compare: Vec::new(), success: keys.iter().map(range).collect() };
    let answer = client.transact(request).await?;
    let found =
        answer.responses.into_iter().map(|it| it.range.and_then(|range| range.kvs.into_iter().next()));
    Ok((answer.header.unwrap_or_default().revision, keys.into_iter().zip(found).collect()))
}

fn named(key: RecordKey) -> Vec<u8> {
    keys::of(&Key::Record(key)).unwrap_or_default().into_bytes()
}

/// The valid records of these keys.
pub(super) async fn find(client: Client, wanted: Vec<RecordKey>) -> Result<Vec<Record>, NvRefusal> {
    let mut records = Vec::new();
    for together in wanted.chunks(TOGETHER) {
        let (_, found) = look_up(client.clone(), together.to_vec()).await.map_err(|e| write::refusal(&e))?;
        records.extend(found.iter().filter_map(|(_, kv)| record(kv.as_ref()?)));
    }
    Ok(records)
}

/// The key by which a record is found; a gateway's is only found by its customer address.
pub(super) fn key_of((vsid, of): Want) -> Option<RecordKey> {
    match of {
        Of::Address(ca) => Some(RecordKey::Address(vsid, ca)),
        Of::Station(mac) => Some(RecordKey::L2Only(vsid, mac)),
        Of::Gateway(_) => None,
    }
}
