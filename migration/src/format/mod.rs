//! A port's state as bytes: version 1.
//!
//! Written by a switch that lets a port go, read by the one that takes it, which may be older or newer. In between the bytes pass
//! through processes that nobody vouches for, so reading them is a judgement: a state is taken as a whole or refused as a whole, with
//! the reason and the place. `seal` says who wrote it; this module only says whether it is a state.
//!
//! Invariants. One state has one encoding, and what [`decode`] takes [`encode`] writes again byte for byte (but for the minor version).
//! Nothing is allocated by a number in the bytes, only for what has been read; the memory used is a small multiple of the input.
//! What [`decode`] would refuse [`encode`] does not write. No panic on any input. Pure functions; any thread.
//!
//! # Header
//!
//! All numbers are little-endian; addresses are in network order, as they are on the wire.
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 8 | `89 54 50 53 54 0d 0a 1a` (0x89, "TPST", CR, LF, 0x1a) |
//! | 8 | 2 | major version: 1. A reader refuses any other |
//! | 10 | 2 | minor version of the writer: 0. Tells people who wrote it; a reader goes by the fields it finds |
//! | 12 | 4 | length of the whole state, header included; [`MAX_SIZE`] at most |
//! | 16 | 4 | CRC-32 (IEEE 802.3, reflected, as in zlib) of bytes 0 to 15 and 20 to the end |
//! | 20 | | fields |
//!
//! # Fields
//!
//! A field is its number (u16), the length of its content (u32) and its content. Numbers ascend; none is there twice. A *group* is a
//! field whose content is fields again, with numbers of its own. A field must be used up by what it is said to contain.
//!
//! A field with a number that the reader does not know, at top level or in a group, is kept as it is ([`UnknownField`]) and written
//! again in its place, so it survives a stay on an older switch. Its meaning must bear that its surroundings changed meanwhile. A
//! field that must not be overlooked (one that narrows what the port may do) gets a number from 0x8000 up: a reader that does not know
//! it refuses the state. Records of lists never grow: what a later version adds to them goes into a list of its own.
//!
//! Types: `u8` to `u64` are numbers; `i64` is in two's complement; `bool` is a byte, 0 or 1; `mac` is 6 bytes; `text` is UTF-8 without
//! length or end mark; `ip` is a byte, 4 or 6, and 4 or 16 bytes; `prefix` is a byte, 4 or 6, a length in bits (u8), and 4 or 16 bytes,
//! of which those beyond the length are zero; `[x]` is as many records x as fit, without a count. A *name* is a letter or digit
//! and up to 31 more letters, digits, `.`, `_` or `-` (ASCII). A *network* (u32) is 0 (untagged), 1 to 4094 (VLAN) or 4096 to
//! 16777214 (virtual subnet). Lists are bounded as in [`crate::state`].
//!
//! | top-level | | name | type | content |
//! |---|---|---|---|---|
//! | 1 | required | identity | group | which port it is |
//! | 2 | required | epoch | u64 | [`PortState::epoch`], before the year 9999 |
//! | 3 | required | host | text | who saved it: up to 255 bytes, no control characters |
//! | 4 | required | device | group | what front end and guest negotiated |
//! | 5 | required | policy | group | the rules it lives under |
//! | 6 | | metering | group | there if the port is metered |
//! | 7 | required | counters | group | what it sent and received |
//! | 8 | required | learned | \[mac, network, age u64\] | addresses learned behind it; age in milliseconds |
//! | 9 | required | sessions | \[session\] | sessions of stateful rules, see below |
//! | 10 | required | used | \[ip, age u64\] | addresses that count against the limit; age in milliseconds |
//! | 11 | required | storm | u32 | flooded frames in the current second |
//! | 12 | required | extensions | \[extension\] | run-time state of extensions, see below |
//!
//! | identity | | name | type | content |
//! |---|---|---|---|---|
//! | 1 | required | name | text | the port's name, a *name* |
//! | 2 | required | mac | mac | its configured address; neither zero nor a group |
//!
//! | device | | name | type | content |
//! |---|---|---|---|---|
//! | 1 | required | features | u64 | accepted virtio features; 0 = no front end yet |
//! | 2 | required | queue-pairs | u8 | 1 to 8 |
//! | 3 | required | mtu | u16 | 68 to 9000 bytes |
//!
//! | policy | | name | type | content |
//! |---|---|---|---|---|
//! | 1 | required | vlan | vlan | VLAN mode, see below |
//! | 2 | | vsid | u32 | 4096 to 16777214; only with VLAN mode none |
//! | 3 | required | mac-spoofing | bool | |
//! | 4 | | vm | text | the machine's name, a *name* |
//! | 5 | required | teaming | bool | 1 only with a vm |
//! | 6 | required | dhcp-guard | bool | |
//! | 7 | required | router-guard | bool | |
//! | 8 | | addresses | \[prefix\] | owned addresses, one or more; absent = any |
//! | 9 | required | address-limit | u32 | 0 (none) to 1024 |
//! | 10 | required | storm-limit | u32 | frames a second; 0 = none |
//! | 11 | required | mirror | u8 | 0 none, 1 source, 2 destination |
//! | 12 | required | priority-tag | bool | |
//! | 13 | required | link-up | bool | |
//! | 14 | required | acl | \[entry\] | the ACL and what it counted |
//! | 15 | required | rules | \[rule\] | the extended rules and what they counted |
//! | 0x8001 | | require-extension | \[length u8, name\] | extensions without which it has no connectivity, one to 8: names as of *extension*, ascending |
//!
//! | metering | | name | type | content |
//! |---|---|---|---|---|
//! | 1 | required | since | i64 | milliseconds of Unix time, from 0 to before the year 9999 |
//! | 2 | required | defaults | bool | whether metering itself added the default meters |
//!
//! | counters | | name | type | content |
//! |---|---|---|---|---|
//! | 1 | required | totals | 4 x u64 | packets out, bytes out, packets in, bytes in |
//! | 2 | required | out-drops | \[length u8, reason, count u64\] | what it sent that was dropped: reason of 1 to 64 of `a-z0-9-`, each once, count not 0 |
//! | 3 | required | in-drops | same | what was for it and dropped |
//!
//! # Records
//!
//! *vlan*: mode u8; first u16; second u16; then ranges (first u16, last u16) of VLAN ids, ascending, with a gap between any two.
//!
//! | mode | first | second | ranges |
//! |---|---|---|---|
//! | 0 none | 0 | 0 | - |
//! | 1 access | the VLAN | 0 | - |
//! | 2 trunk | native VLAN, 0 = untagged | 0 | allowed VLANs, one range or more |
//! | 3 isolated | primary | secondary | - |
//! | 4 community | primary | secondary | - |
//! | 5 promiscuous | primary | 0 | secondaries, one range or more, without the primary |
//!
//! *entry* of the ACL: direction u8 (0 out, 1 in); end u8 (0 local, 1 remote); action u8 (0 allow, 1 deny, 2 meter); kind u8 (0 any,
//! 1 any-mac, 2 mac, 3 prefix); by kind nothing, nothing, mac (not zero) or prefix; packets u64; bytes u64. Direction, end and
//! address are there once among allow and deny, and once among meters.
//!
//! *rule*: direction u8 (0 out, 1 in); action u8 (0 allow, 1 deny); weight u32 (1 to 2147483647, once in a direction); present u8; then, if
//! the bit is set in present: 0x01 local prefix; 0x02 remote prefix; 0x04 local ports (first u16, last u16); 0x08 remote ports; 0x10
//! protocol u8 (TCP or UDP if there are ports); 0x20 stateful: idle time in nanoseconds u64 (1 s to 24 h; only allow, TCP or UDP);
//! 0x40 isolation: a network that is not 0; 0x80 is never set. Then packets u64, bytes u64.
//!
//! *session*: family u8 (4 or 6); protocol u8 (6 or 17); track u8 (bits of [`vswitch::session::Saved::TRACK_BITS`]: bits 0-1 state
//! (0 open, 1 SYN sent, 2 established, 3 closing), 2 opened inwards, 3 answered, 4 FIN from the opener, 5 FIN from its peer); 0 u8;
//! network u32; rule weight u32 (1 to 2147483647); local port u16; remote port u16; timeout u64 (1,000 to 86,400,000 ms); age u64 and
//! idle u64 in milliseconds; local and remote address, 4 or 16 bytes each. 48 or 72 bytes.
//!
//! *extension*: length u8 and name (1 to 64 letters, digits, `.`, `_`, `-`; each once); version u32; length u32 and configuration for the
//! port (JSON; up to 65536 bytes); length u32 and run-time state, whose meaning is the extension's (up to 262144 bytes).

mod error;
mod lists;
mod policy;
mod read;
mod runtime;
mod write;

pub use error::FormatError;

use crate::state::{PortState, UnknownField};
use read::{Cursor, Slot};
use write::Writer;

/// Bytes of an encoded state at most: with its seal it fits 8 MiB.
pub const MAX_SIZE: usize = 8 * 1024 * 1024 - 4096;

/// The version this module writes; a reader refuses other majors.
pub const VERSION: (u16, u16) = (1, 0);

/// First bytes of every state.
pub const MAGIC: [u8; 8] = *b"\x89TPST\r\n\x1a";

/// Bytes before the first field.
pub const HEADER: usize = 20;

/// Milliseconds of Unix time that no epoch and no beginning of metering reaches: the year 9999.
pub const MAX_TIME_MS: u64 = 253_370_764_800_000;

/// Numbers from here up must be known to the reader.
const CRITICAL: u16 = 0x8000;

/// Numbers of top-level fields.
mod field {
    pub(super) const IDENTITY: u16 = 1;
    pub(super) const EPOCH: u16 = 2;
    pub(super) const HOST: u16 = 3;
    pub(super) const DEVICE: u16 = 4;
    pub(super) const POLICY: u16 = 5;
    pub(super) const METERING: u16 = 6;
    pub(super) const COUNTERS: u16 = 7;
    pub(super) const LEARNED: u16 = 8;
    pub(super) const SESSIONS: u16 = 9;
    pub(super) const USED: u16 = 10;
    pub(super) const STORM: u16 = 11;
    pub(super) const EXTENSIONS: u16 = 12;
}

/// The bytes of a state. Refused if it is too large, or has anything in it that [`decode`] would refuse.
///
/// What newer versions said about metering goes when the port is not metered any more.
pub fn encode(state: &PortState) -> Result<Vec<u8>, FormatError> {
    let homeless = |unknown: &UnknownField| unknown.group == field::METERING && state.metering.is_none();
    if state.unknown.iter().any(homeless) {
        let unknown = state.unknown.iter().filter(|unknown| !homeless(unknown)).cloned().collect();
        return encode(&PortState { unknown, ..state.clone() });
    }
    let mut bytes = Vec::with_capacity(1024 + 80 * (state.sessions.len() + state.policy.acl.len()));
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.0.to_le_bytes());
    bytes.extend_from_slice(&VERSION.1.to_le_bytes());
    bytes.extend_from_slice(&[0; 8]);
    let mut fields = Writer::new(&mut bytes, &state.unknown, 0);
    fields.group(field::IDENTITY, |group| runtime::write_identity(group, &state.identity));
    fields.put(field::EPOCH, |out| out.extend_from_slice(&state.epoch.to_le_bytes()));
    fields.put(field::HOST, |out| out.extend_from_slice(state.host.as_bytes()));
    fields.group(field::DEVICE, |group| runtime::write_device(group, &state.device));
    fields.group(field::POLICY, |group| policy::write(group, &state.policy));
    if let Some(metering) = &state.metering {
        fields.group(field::METERING, |group| runtime::write_metering(group, metering));
    }
    fields.group(field::COUNTERS, |group| runtime::write_counters(group, &state.counters));
    fields.list(field::LEARNED, &state.learned);
    fields.list(field::SESSIONS, &state.sessions);
    fields.list(field::USED, &state.used);
    fields.put(field::STORM, |out| out.extend_from_slice(&state.storm.used.to_le_bytes()));
    fields.list(field::EXTENSIONS, &state.extensions);
    fields.finish();
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= MAX_SIZE);
    let Some(length) = length else {
        return Err(FormatError::TooLarge { length: bytes.len(), limit: MAX_SIZE });
    };
    // The header is there: it was written above.
    if let Some(place) = bytes.get_mut(12..16) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    let checksum = checksum(&bytes);
    if let Some(place) = bytes.get_mut(16..HEADER) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
    // A port that cannot be taken by anybody had better not leave: whatever is wrong is told now, while it still runs here.
    if decode(&bytes)? == *state { Ok(bytes) } else { Err(FormatError::NotSame) }
}

/// The state that bytes are. Refused as a whole, with what is wrong and where.
pub fn decode(bytes: &[u8]) -> Result<PortState, FormatError> {
    header(bytes)?;
    let mut unknown = Vec::new();
    let mut identity = Slot::new("identity");
    let mut epoch = Slot::new("epoch");
    let mut host = Slot::new("host");
    let mut device = Slot::new("device");
    let mut policy = Slot::new("policy");
    let mut metering = Slot::new("metering");
    let mut counters = Slot::new("counters");
    let mut learned = Slot::new("learned");
    let mut sessions = Slot::new("sessions");
    let mut used = Slot::new("used");
    let mut storm = Slot::new("storm");
    let mut extensions = Slot::new("extensions");
    Cursor::new(bytes).fields(0, &mut unknown, |number, content, unknown| {
        match number {
            field::IDENTITY => identity.set(content, |c| runtime::read_identity(c, unknown)),
            field::EPOCH => epoch.set(content, Cursor::time_ms),
            field::HOST => host.set(content, runtime::read_host),
            field::DEVICE => device.set(content, |c| runtime::read_device(c, unknown)),
            field::POLICY => policy.set(content, |c| policy::read(c, unknown)),
            field::METERING => metering.set(content, |c| runtime::read_metering(c, unknown)),
            field::COUNTERS => counters.set(content, |c| runtime::read_counters(c, unknown)),
            field::LEARNED => learned.set(content, Cursor::list),
            field::SESSIONS => sessions.set(content, Cursor::list),
            field::USED => used.set(content, Cursor::list),
            field::STORM => storm.set(content, Cursor::u32),
            field::EXTENSIONS => extensions.set(content, runtime::read_extensions),
            _ => return Ok(false),
        }?;
        Ok(true)
    })?;
    unknown.sort_unstable_by_key(|field: &UnknownField| (field.group, field.number));
    Ok(PortState {
        identity: identity.required()?,
        epoch: epoch.required()?,
        host: host.required()?,
        device: device.required()?,
        policy: policy.required()?,
        metering: metering.optional(),
        counters: counters.required()?,
        learned: learned.required()?,
        sessions: sessions.required()?,
        used: used.required()?,
        storm: crate::state::Storm { used: storm.required()? },
        extensions: extensions.required()?,
        unknown,
    })
}

/// Judges the header: magic, version, length and checksum, in this order.
fn header(bytes: &[u8]) -> Result<(), FormatError> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Err(FormatError::TooShort { length: bytes.len() });
    };
    let [magic @ .., m0, m1, _, _, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    if magic != MAGIC {
        return Err(FormatError::Magic { found: magic });
    }
    let major = u16::from_le_bytes([m0, m1]);
    if major != VERSION.0 {
        return Err(FormatError::Version { major });
    }
    if bytes.len() > MAX_SIZE {
        return Err(FormatError::TooLarge { length: bytes.len(), limit: MAX_SIZE });
    }
    let said = u32::from_le_bytes([l0, l1, l2, l3]);
    if said as usize != bytes.len() {
        return Err(FormatError::Length { said, length: bytes.len() });
    }
    let (said, computed) = (u32::from_le_bytes([c0, c1, c2, c3]), checksum(bytes));
    if said == computed { Ok(()) } else { Err(FormatError::Checksum { said, computed }) }
}

/// The checksum of a state, the place of the checksum itself left out.
fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(bytes.get(..16).unwrap_or(bytes));
    sum.update(bytes.get(HEADER..).unwrap_or_default());
    sum.finalize()
}
