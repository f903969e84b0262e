//! Byte streams of extensions: to whom an instance wants one, and what it hears of it.
//!
//! An instance names its peers once ([`Extension::peers`](super::Extension::peers)). Whoever runs the switch dials them, keeps at it (with pauses
//! that grow from one to fifteen seconds) and tells the instance what comes ([`Extension::heard`](super::Extension::heard)); what it says is
//! [`Output::Stream`](super::Output::Stream). Of one peer it hears [`Heard::Opened`], any number of [`Heard::Bytes`], [`Heard::Closed`], in this
//! order and one at a time, and [`Heard::Closed`] alone after an attempt that failed; the cuts between bytes mean nothing.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Peers that one instance may have.
pub const MOST_PEERS: usize = 4;

/// Somebody to whom an instance wants a byte stream: TCP, which is dialled from here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    /// With TLS 1.3 around it; `None` = as it is.
    pub tls: Option<Tls>,
}

/// By what the two ends of a stream know each other. The files are PEM; they are read when the instance is enabled (what is wrong
/// with them is said then) and again for each connection, so that a renewed certificate is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// Certificates of the authorities that sign for peers.
    pub ca: PathBuf,
    /// The certificate to show, with those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The name that the peer's certificate must be for; `None` = its address.
    pub server_name: Option<String>,
}

/// What an instance hears of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard<'a> {
    /// There is a stream now; nothing that was said or heard before is a part of it.
    Opened,
    /// The peer said this.
    Bytes(&'a [u8]),
    /// The stream ended, or could not be had, in words for the operator; it is dialled again.
    Closed(&'a str),
}
