//! Whose word a port's state is.
//!
//! Between two switches a state passes through the VMM, which may be in the hands of the tenant whose port it describes. Switches of one
//! operator share a [`FleetKey`]; with it a state is sealed by an authentication code (HMAC-SHA256, RFC 2104) over everything in
//! the envelope: the port's identity, its growing epoch and all the rest. [`open`] verifies the code before it reads anything inside,
//! then refuses what belongs to another port, what is not newer than what this switch knows of the port, and what was not saved just
//! now: a switch that has never seen the port would otherwise take an old and smaller bill.
//!
//! Without a key nobody can be believed, and the result says so: `authenticated` is false.
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 8 | `89 54 50 53 4c 0d 0a 1a` (0x89, "TPSL", CR, LF, 0x1a) |
//! | 8 | 2 | version of the envelope: 1 |
//! | 10 | 1 | kind: 0 no code, 1 HMAC-SHA256 |
//! | 11 | 1 | 0 |
//! | 12 | 4 | length n of the state |
//! | 16 | n | the state ([`crate::format`]) |
//! | 16 + n | 0 or 32 | the code over bytes 0 to 15 + n |
//!
//! Numbers are little-endian. Pure functions; any thread. The time of day is given by the caller.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;

use crate::format::{self, FormatError};
use crate::state::{Identity, PortState};

/// Bytes of a sealed state at most.
pub const MAX_SIZE: usize = format::MAX_SIZE + HEADER + CODE;

/// How far the clocks of two hosts may be apart, and how long a state may be under way, in milliseconds: ten minutes.
pub const WINDOW_MS: u64 = 600_000;

const MAGIC: [u8; 8] = *b"\x89TPSL\r\n\x1a";
const VERSION: u16 = 1;
const HEADER: usize = 16;
const CODE: usize = 32;
const PLAIN: u8 = 0;
const SEALED: u8 = 1;

/// The secret that switches of one operator share.
#[derive(Clone)]
pub struct FleetKey([u8; FleetKey::LENGTH]);

impl FleetKey {
    /// Bytes of a key.
    pub const LENGTH: usize = 32;

    /// The key of a file's content.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        bytes.try_into().map(Self).map_err(|_| SealError::KeyLength { length: bytes.len() })
    }

    /// By which two keys are told apart without saying them: the first eight hexadecimal digits of the key's SHA-256.
    pub fn id(&self) -> String {
        let digest = <Sha256 as sha2::Digest>::digest(self.0);
        let first = digest.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        format!("{first:08x}")
    }

    fn code(&self, content: &[u8]) -> Hmac<Sha256> {
        // HMAC takes keys of any length; one of 32 bytes is padded with zeros to a block (RFC 2104, 2).
        let mut block = [0; 64];
        block[..Self::LENGTH].copy_from_slice(&self.0);
        let mut code = <Hmac<Sha256> as KeyInit>::new(&block.into());
        code.update(content);
        code
    }
}

/// Shows nothing of the key.
impl fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetKey(..)")
    }
}

/// Which ages of a state are taken, beside that it must be newer than what is known of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Of a move that is under way: saved within [`WINDOW_MS`].
    Live,
    /// Of a file that an operator brings: any age.
    Offline,
}

/// A state that was taken out of its envelope.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// The state.
    pub state: PortState,
    /// Whether a switch with the fleet's key wrote it. If not, only its form was judged.
    pub authenticated: bool,
}

/// Why a sealed state is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A key of another length.
    #[error("the fleet key has {length} bytes; it must have {}", FleetKey::LENGTH)]
    KeyLength {
        /// Its length.
        length: usize,
    },
    /// Not an envelope.
    #[error("this is not a sealed state of a port: {0}")]
    Envelope(String),
    /// There is a key here, and no code there.
    #[error(
        "the state of the port is not authenticated; this switch has a fleet key and takes only states that \
         a switch with the same --fleet-key has saved"
    )]
    NotSealed,
    /// The code is not that of the content.
    #[error(
        "the state of the port does not verify with the fleet key of this switch: it was changed on its way, or the switch \
         that saved it has another --fleet-key"
    )]
    Forged,
    /// Another port's.
    #[error(
        "the state is that of port '{}' with address {}; this is port '{}' with address {}",
        .found.name, .found.mac, .expected.name, .expected.mac
    )]
    OtherPort {
        /// Whose it is.
        found: Box<Identity>,
        /// Whose it should be.
        expected: Box<Identity>,
    },
    /// Not newer than what is known.
    #[error(
        "the state of the port has epoch {epoch}, but epoch {known} is known already; only a newer one is taken"
    )]
    Replayed {
        /// Its epoch.
        epoch: u64,
        /// The last one known.
        known: u64,
    },
    /// Saved too long ago.
    #[error(
        "the state of the port was saved {} s ago (epoch {epoch}); during a move at most {} s are taken, an older one only \
         by 'turnpike migrate import'", .age_ms / 1000, WINDOW_MS / 1000
    )]
    Stale {
        /// Its epoch.
        epoch: u64,
        /// Its age in milliseconds.
        age_ms: u64,
    },
    /// Saved in the future.
    #[error(
        "the state of the port was saved {} s in the future (epoch {epoch}); at most {} s are taken: set the clocks of both hosts",
        .ahead_ms / 1000, WINDOW_MS / 1000
    )]
    Future {
        /// Its epoch.
        epoch: u64,
        /// How far ahead it is, in milliseconds.
        ahead_ms: u64,
    },
    /// The content is not a state.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// The epoch of a state that is saved now, after `known` was saved or taken last: milliseconds of Unix time, or one more than the last if
/// that is later.
pub fn next_epoch(known: u64, now_unix_ms: u64) -> u64 {
    now_unix_ms.max(known.saturating_add(1))
}

/// Puts an encoded state into its envelope, with a code if there is a key.
pub fn seal(state: &[u8], key: Option<&FleetKey>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + state.len() + CODE);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[if key.is_some() { SEALED } else { PLAIN }, 0]);
    // A longer one is no state, so nobody opens it either.
    bytes.extend_from_slice(&u32::try_from(state.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(state);
    if let Some(key) = key {
        let code = key.code(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&code);
    }
    bytes
}

/// Takes a state out of its envelope and judges it. `known_epoch` is the last epoch of this port that this switch saved or took, 0 if none.
///
/// With a key everything must be right. Without one the code, if there is one, cannot be checked, and nor do epoch and age mean anything;
/// the state must have the right form and be that of the expected port.
pub fn open(
    bytes: &[u8],
    key: Option<&FleetKey>,
    expected: &Identity,
    known_epoch: u64,
    now_unix_ms: u64,
    freshness: Freshness,
) -> Result<Opened, SealError> {
    let parts = parts(bytes)?;
    if let Some(key) = key {
        let code = parts.code.ok_or(SealError::NotSealed)?;
        key.code(parts.content).verify_slice(code).map_err(|_| SealError::Forged)?;
    }
    let state = format::decode(parts.state)?;
    if state.identity != *expected {
        let (found, expected) = (Box::new(state.identity), Box::new(expected.clone()));
        return Err(SealError::OtherPort { found, expected });
    }
    if key.is_some() {
        judge_epoch(state.epoch, known_epoch, now_unix_ms, freshness)?;
    }
    Ok(Opened { state, authenticated: key.is_some() })
}

/// Whose state it is, if it is one at all. Whether that is true is for [`open`] to say.
pub fn peek(bytes: &[u8]) -> Result<Identity, SealError> {
    Ok(format::decode(parts(bytes)?.state)?.identity)
}

fn judge_epoch(epoch: u64, known: u64, now: u64, freshness: Freshness) -> Result<(), SealError> {
    let (age_ms, ahead_ms) = (now.saturating_sub(epoch), epoch.saturating_sub(now));
    if epoch <= known {
        Err(SealError::Replayed { epoch, known })
    } else if ahead_ms > WINDOW_MS {
        Err(SealError::Future { epoch, ahead_ms })
    } else if age_ms > WINDOW_MS && freshness == Freshness::Live {
        Err(SealError::Stale { epoch, age_ms })
    } else {
        Ok(())
    }
}

/// An envelope, taken apart.
struct Parts<'a> {
    /// What is authenticated: the header and the state.
    content: &'a [u8],
    state: &'a [u8],
    code: Option<&'a [u8]>,
}

fn parts(bytes: &[u8]) -> Result<Parts<'_>, SealError> {
    let refused = |why: String| Err(SealError::Envelope(why));
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return refused(format!("it has {} bytes; the envelope alone has {HEADER}", bytes.len()));
    };
    let [magic @ .., v0, v1, kind, zero, l0, l1, l2, l3] = *header;
    if magic != MAGIC {
        return refused(format!("it begins with {magic:02x?} instead of {MAGIC:02x?}"));
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return refused(format!("its envelope has version {version}; this switch opens version {VERSION}"));
    }
    let code = match (kind, zero) {
        (PLAIN, 0) => 0,
        (SEALED, 0) => CODE,
        _ => {
            return refused(format!(
                "its code is of kind {kind}.{zero}; 0.0 (none) and 1.0 (HMAC-SHA256) are known"
            ));
        }
    };
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let need = HEADER.saturating_add(length).saturating_add(code);
    let split = bytes.split_at_checked(HEADER.saturating_add(length));
    let Some((content, code_bytes)) = split.filter(|_| need == bytes.len()) else {
        return refused(format!("it says that it has {need} bytes, but {} are there", bytes.len()));
    };
    let state = content.get(HEADER..).unwrap_or_default();
    Ok(Parts { content, state, code: (code != 0).then_some(code_bytes) })
}
