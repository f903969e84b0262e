//! OpenFlow 1.3 on the wire (wire protocol 0x04): headers, errors, and reading and writing of numbers.
//!
//! Everything is big-endian. What is read comes from a controller and may be anything: readers give `None` at the end instead of panicking, and a
//! message that says less than it must is [`Fail`] `OFPBRC_BAD_LEN`.

/// The version spoken.
pub(super) const VERSION: u8 = 4;

/// Bytes of a message's header.
pub(super) const HEADER: usize = 8;

/// "No packet is kept": the whole packet is in the message.
pub(super) const NO_BUFFER: u32 = u32::MAX;

/// Message types (`OFPT_*`).
pub(super) mod kind {
    pub(crate) const HELLO: u8 = 0;
    pub(crate) const ERROR: u8 = 1;
    pub(crate) const ECHO_REQUEST: u8 = 2;
    pub(crate) const ECHO_REPLY: u8 = 3;
    pub(crate) const EXPERIMENTER: u8 = 4;
    pub(crate) const FEATURES_REQUEST: u8 = 5;
    pub(crate) const FEATURES_REPLY: u8 = 6;
    pub(crate) const GET_CONFIG_REQUEST: u8 = 7;
    pub(crate) const GET_CONFIG_REPLY: u8 = 8;
    pub(crate) const SET_CONFIG: u8 = 9;
    pub(crate) const PACKET_IN: u8 = 10;
    pub(crate) const FLOW_REMOVED: u8 = 11;
    pub(crate) const PORT_STATUS: u8 = 12;
    pub(crate) const PACKET_OUT: u8 = 13;
    pub(crate) const FLOW_MOD: u8 = 14;
    pub(crate) const GROUP_MOD: u8 = 15;
    pub(crate) const PORT_MOD: u8 = 16;
    pub(crate) const TABLE_MOD: u8 = 17;
    pub(crate) const MULTIPART_REQUEST: u8 = 18;
    pub(crate) const MULTIPART_REPLY: u8 = 19;
    pub(crate) const BARRIER_REQUEST: u8 = 20;
    pub(crate) const BARRIER_REPLY: u8 = 21;
    pub(crate) const QUEUE_CONFIG_REQUEST: u8 = 22;
    pub(crate) const QUEUE_CONFIG_REPLY: u8 = 23;
    pub(crate) const ROLE_REQUEST: u8 = 24;
    pub(crate) const ROLE_REPLY: u8 = 25;
    pub(crate) const GET_ASYNC_REQUEST: u8 = 26;
    pub(crate) const GET_ASYNC_REPLY: u8 = 27;
    pub(crate) const SET_ASYNC: u8 = 28;
    pub(crate) const METER_MOD: u8 = 29;
}

/// Reserved port numbers (`OFPP_*`).
pub(super) mod port {
    pub(crate) const TABLE: u32 = 0xffff_fff9;
    pub(crate) const NORMAL: u32 = 0xffff_fffa;
    pub(crate) const FLOOD: u32 = 0xffff_fffb;
    pub(crate) const ALL: u32 = 0xffff_fffc;
    pub(crate) const CONTROLLER: u32 = 0xffff_fffd;
    pub(crate) const ANY: u32 = 0xffff_ffff;
}

/// All groups, and no particular one.
pub(super) mod group {
    pub(crate) const MAX: u32 = 0xffff_ff00;
    pub(crate) const ALL: u32 = 0xffff_fffc;
    pub(crate) const ANY: u32 = 0xffff_ffff;
}

/// Why a request is refused: type and code of an `OFPT_ERROR`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fail(pub(super) u16, pub(super) u16);

/// What requests are refused with (`OFPET_*` and its codes).
impl Fail {
    pub(super) const INCOMPATIBLE: Self = Self(0, 0);
    pub(super) const BAD_VERSION: Self = Self(1, 0);
    pub(super) const BAD_TYPE: Self = Self(1, 1);
    pub(super) const BAD_MULTIPART: Self = Self(1, 2);
    pub(super) const BAD_EXPERIMENTER: Self = Self(1, 3);
    pub(super) const BAD_LEN: Self = Self(1, 6);
    pub(super) const BUFFER_UNKNOWN: Self = Self(1, 8);
    pub(super) const IS_SLAVE: Self = Self(1, 10);
    pub(super) const BAD_PORT: Self = Self(1, 11);
    pub(super) const BAD_PACKET: Self = Self(1, 12);
    pub(super) const MULTIPART_OVERFLOW: Self = Self(1, 13);
    pub(super) const ACTION_TYPE: Self = Self(2, 0);
    pub(super) const ACTION_LEN: Self = Self(2, 1);
    pub(super) const ACTION_EXPERIMENTER: Self = Self(2, 2);
    pub(super) const OUT_PORT: Self = Self(2, 4);
    pub(super) const TOO_MANY_ACTIONS: Self = Self(2, 7);
    pub(super) const OUT_GROUP: Self = Self(2, 9);
    pub(super) const ACTION_ORDER: Self = Self(2, 11);
    pub(super) const SET_TYPE: Self = Self(2, 13);
    pub(super) const SET_LEN: Self = Self(2, 14);
    pub(super) const SET_ARGUMENT: Self = Self(2, 15);
    pub(super) const UNKNOWN_INSTRUCTION: Self = Self(3, 0);
    pub(super) const UNSUPPORTED_INSTRUCTION: Self = Self(3, 1);
    pub(super) const GOTO_TABLE: Self = Self(3, 2);
    pub(super) const METADATA: Self = Self(3, 3);
    pub(super) const INSTRUCTION_LEN: Self = Self(3, 7);
    pub(super) const DUPLICATE_INSTRUCTION: Self = Self(3, 9);
    pub(super) const MATCH_TYPE: Self = Self(4, 0);
    pub(super) const MATCH_LEN: Self = Self(4, 1);
    pub(super) const MATCH_WILDCARDS: Self = Self(4, 5);
    pub(super) const MATCH_FIELD: Self = Self(4, 6);
    pub(super) const MATCH_VALUE: Self = Self(4, 7);
    pub(super) const MATCH_MASK: Self = Self(4, 8);
    pub(super) const MATCH_PREREQUISITE: Self = Self(4, 9);
    pub(super) const MATCH_DUPLICATE: Self = Self(4, 10);
    pub(super) const TABLE_FULL: Self = Self(5, 1);
    pub(super) const FLOW_TABLE: Self = Self(5, 2);
    pub(super) const OVERLAP: Self = Self(5, 3);
    pub(super) const FLOW_COMMAND: Self = Self(5, 6);
    pub(super) const FLOW_FLAGS: Self = Self(5, 7);
    pub(super) const GROUP_EXISTS: Self = Self(6, 0);
    pub(super) const INVALID_GROUP: Self = Self(6, 1);
    pub(super) const OUT_OF_GROUPS: Self = Self(6, 3);
    pub(super) const OUT_OF_BUCKETS: Self = Self(6, 4);
    pub(super) const CHAINING: Self = Self(6, 5);
    pub(super) const UNKNOWN_GROUP: Self = Self(6, 8);
    pub(super) const GROUP_TYPE: Self = Self(6, 10);
    pub(super) const GROUP_COMMAND: Self = Self(6, 11);
    pub(super) const BAD_BUCKET: Self = Self(6, 12);
    pub(super) const PORT_MOD: Self = Self(7, 2);
    pub(super) const TABLE_MOD: Self = Self(8, 1);
    pub(super) const QUEUE_PORT: Self = Self(9, 0);
    pub(super) const CONFIG_FLAGS: Self = Self(10, 0);
    pub(super) const STALE: Self = Self(11, 0);
    pub(super) const BAD_ROLE: Self = Self(11, 2);
}

/// Reads what is left of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

/// A header: type, length of the whole message, transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) version: u8,
    pub(super) kind: u8,
    pub(super) len: usize,
    pub(super) xid: u32,
}

impl Header {
    /// At the beginning of what was heard; `None` = it is not all there.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (version, kind) = (reader.u8()?, reader.u8()?);
        let (len, xid) = (usize::from(reader.u16()?), reader.u32()?);
        Some(Self { version, kind, len, xid })
    }
}

/// Adds a message to `out`; `body` writes what follows the header. One that grows beyond what a length can say is not added.
pub(super) fn write(out: &mut Vec<u8>, kind: u8, xid: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[VERSION, kind, 0, 0]);
    put32(out, xid);
    body(out);
    match u16::try_from(out.len() - at) {
        Ok(len) => set16(out, at + 2, len),
        Err(_) => out.truncate(at),
    }
}

/// Adds an error about a request, of which it quotes the beginning.
pub(super) fn error(out: &mut Vec<u8>, xid: u32, fail: Fail, request: &[u8]) {
    write(out, kind::ERROR, xid, |out| {
        put16(out, fail.0);
        put16(out, fail.1);
        out.extend_from_slice(request.get(..64).unwrap_or(request));
    });
}

pub(super) fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Overwrites a number that was left for later; beyond the end nothing happens.
pub(super) fn set16(out: &mut [u8], at: usize, value: u16) {
    if let Some(place) = out.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn zeros(out: &mut Vec<u8>, count: usize) {
    out.resize(out.len() + count, 0);
}

/// A text in a field of fixed width, cut so that a zero follows it.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str, width: usize) {
    let end = (0..width).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0).min(text.len());
    out.extend_from_slice(text.as_bytes().get(..end).unwrap_or_default());
    zeros(out, width - end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of13_a_message_has_its_length_in_its_header() {
        let mut out = vec![7];
        write(&mut out, kind::BARRIER_REPLY, 0x0102_0304, |out| put16(out, 5));
        assert_eq!(out, [7, 4, 21, 0, 10, 1, 2, 3, 4, 0, 5]);
        write(&mut out, kind::HELLO, 1, |out| zeros(out, 70_000));
        assert_eq!(out.len(), 11, "what no length can say is not said");
    }

    #[test]
    fn of13_an_error_quotes_64_bytes_of_the_request() {
        let mut out = Vec::new();
        error(&mut out, 9, Fail::BAD_TYPE, &[0xaa; 100]);
        assert_eq!(out.len(), HEADER + 4 + 64);
        assert_eq!(out[HEADER..HEADER + 4], [0, 1, 0, 1]);
    }

    #[test]
    fn of13_a_name_is_cut_between_characters_and_ends_with_a_zero() {
        let mut out = Vec::new();
        put_text(&mut out, "abcdefghijklmn\u{e9}z", 16);
        assert_eq!(out, b"abcdefghijklmn\0\0");
        out.clear();
        put_text(&mut out, "web", 16);
        assert_eq!(out, b"web\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }
}
