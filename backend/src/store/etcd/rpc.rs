//! What is said to etcd: the messages of its API (v3) that are used here, and one function for each call.
//!
//! The messages are declared by hand, with the fields that are used and the numbers of etcd's `rpc.proto` and `kv.proto`. Protobuf skips
//! fields that a reader does not know, so that this is compatible with every 3.x, and building needs no protocol compiler.

use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// Bytes of one message at most. A value of etcd has at most 1.5 MB unless it is told otherwise.
const MESSAGE: usize = 64 << 20;

/// Longest wait for the answer of a call that is one question and one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Where the store is in its history; every answer says it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Header {
    /// Which store it is.
    #[prost(uint64, tag = "1")]
    pub(super) cluster: u64,
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

/// A key with its value.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
    /// With which lease it goes; 0 = it stays.
    #[prost(int64, tag = "6")]
    pub(super) lease: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) limit: i64,
    #[prost(int64, tag = "4")]
    pub(super) revision: i64,
    /// Only to say how many there are.
    #[prost(bool, tag = "9")]
    pub(super) count_only: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    pub(super) more: bool,
    /// Keys of the range, those of later pages included.
    #[prost(int64, tag = "4")]
    pub(super) count: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) lease: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct PutResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct DeleteRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RequestOp {
    #[prost(oneof = "Operation", tags = "1, 2, 3")]
    pub(super) request: Option<Operation>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(super) enum Operation {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRequest),
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ResponseOp {
    #[prost(message, optional, tag = "1")]
    pub(super) range: Option<RangeResponse>,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Relation {
    Equal = 0,
    Greater = 1,
    Less = 2,
    NotEqual = 3,
}

/// What of a key is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Target {
    Version = 0,
    Create = 1,
    Mod = 2,
    Value = 3,
}

/// A condition of a transaction. A key that does not exist has revision 0.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Compare {
    #[prost(enumeration = "Relation", tag = "1")]
    pub(super) result: i32,
    #[prost(enumeration = "Target", tag = "2")]
    pub(super) target: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key: Vec<u8>,
    #[prost(oneof = "Compared", tags = "6")]
    pub(super) with: Option<Compared>,
    /// End of the range that is compared, if it is one.
    #[prost(bytes = "vec", tag = "64")]
    pub(super) range_end: Vec<u8>,
}

/// What is compared with. As a choice of one, so that revision 0 is on the wire, too.
#[derive(Clone, Copy, PartialEq, Eq, prost::Oneof)]
pub(super) enum Compared {
    #[prost(int64, tag = "6")]
    ModRevision(i64),
}

impl Compare {
    /// That `key` was written last at `revision`; 0 = that it does not exist.
    pub(super) fn unchanged(key: Vec<u8>, revision: i64) -> Self {
        Self {
            result: Relation::Equal.into(),
            target: Target::Mod.into(),
            key,
            with: Some(Compared::ModRevision(revision)),
            range_end: Vec::new(),
        }
    }

    /// That no key begins with `prefix`.
    pub(super) fn nothing_below(prefix: Vec<u8>) -> Self {
        Self { range_end: end_of(&prefix), ..Self::unchanged(prefix, 0) }
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub(super) responses: Vec<ResponseOp>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WatchRequest {
    #[prost(oneof = "WatchAsk", tags = "1, 2, 3")]
    pub(super) ask: Option<WatchAsk>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(super) enum WatchAsk {
    #[prost(message, tag = "1")]
    Create(WatchCreate),
    #[prost(message, tag = "2")]
    Cancel(WatchCancel),
    #[prost(message, tag = "3")]
    Progress(WatchProgress),
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct WatchCancel {
    #[prost(int64, tag = "1")]
    pub(super) watch: i64,
}

/// Asks up to where all watches of the stream have said everything.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct WatchProgress {}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WatchCreate {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) start_revision: i64,
    /// Whether it says now and then how far it is although nothing happened.
    #[prost(bool, tag = "4")]
    pub(super) progress: bool,
    /// Its number in the stream.
    #[prost(int64, tag = "7")]
    pub(super) watch: i64,
    #[prost(bool, tag = "8")]
    pub(super) fragment: bool,
}

/// What happened to a key.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WatchEvent {
    /// 0 = written, 1 = deleted.
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) kv: Option<KeyValue>,
}

/// The number of no watch in particular.
pub(super) const ALL_WATCHES: i64 = -1;

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WatchResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    /// Of which watch; [`ALL_WATCHES`] of all.
    #[prost(int64, tag = "2")]
    pub(super) watch: i64,
    #[prost(bool, tag = "3")]
    pub(super) created: bool,
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
    #[prost(int64, tag = "5")]
    pub(super) compact_revision: i64,
    #[prost(string, tag = "6")]
    pub(super) cancel_reason: String,
    #[prost(bool, tag = "7")]
    pub(super) fragment: bool,
    #[prost(message, repeated, tag = "11")]
    pub(super) events: Vec<WatchEvent>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct LeaseGrantRequest {
    #[prost(int64, tag = "1")]
    pub(super) ttl: i64,
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct LeaseGrantResponse {
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    #[prost(string, tag = "4")]
    pub(super) error: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct LeaseKeepAliveRequest {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct LeaseKeepAliveResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    /// Seconds; 0 = there is no such lease any more.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct LeaseRevokeRequest {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct LeaseRevokeResponse {}

/// A connection to one member of the store. Cheap to clone: clones share the connection.
#[derive(Clone)]
pub(super) struct Client(Channel);

impl Client {
    pub(super) fn new(channel: Channel) -> Self {
        Self(channel)
    }

    /// One question, one answer, in bounded time.
    async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let call = async {
            let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(MESSAGE);
            grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(Request::new(question), PathAndQuery::from_static(path), codec).await
        };
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.ask("/etcdserverpb.KV/Range", request).await
    }

    pub(super) async fn put(&self, request: PutRequest) -> Result<PutResponse, Status> {
        self.ask("/etcdserverpb.KV/Put", request).await
    }

    pub(super) async fn transact(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.ask("/etcdserverpb.KV/Txn", request).await
    }

    pub(super) async fn grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Status> {
        self.ask("/etcdserverpb.Lease/LeaseGrant", request).await
    }

    pub(super) async fn revoke(&self, request: LeaseRevokeRequest) -> Result<LeaseRevokeResponse, Status> {
        self.ask("/etcdserverpb.Lease/LeaseRevoke", request).await
    }

    /// Keeps a lease alive once. etcd has a stream for this; a stream of one question serves as a call.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        self.ask("/etcdserverpb.Lease/LeaseKeepAlive", LeaseKeepAliveRequest { id }).await
    }

    /// Begins to watch; more may be asked through the channel behind `questions` for as long as it is open.
    pub(super) async fn watch(
        &self,
        questions: tokio_stream::wrappers::UnboundedReceiverStream<WatchRequest>,
    ) -> Result<Streaming<WatchResponse>, Status> {
        let call = async {
            let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(MESSAGE);
            grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            grpc.streaming(Request::new(questions), path, codec).await
        };
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer to a watch")),
        }
    }
}

/// The key after all that begin with `prefix`.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Everything.
    vec![0]
}
