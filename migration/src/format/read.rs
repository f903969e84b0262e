//! Reads what a stranger wrote, and knows where it is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use vswitch::{Mac, Segment};

use super::{CRITICAL, FormatError, HEADER, MAX_TIME_MS};
use crate::state::{MAX_UNKNOWN, UnknownField};

/// Largest virtual subnet id; 16777215 is not one.
const VSID_MAX: u32 = 16_777_214;

const NETWORK: &str = "1 to 4094 (VLAN) or 4096 to 16777214 (virtual subnet), or 0 (untagged)";

/// An entry of a list that can be judged by itself.
pub(super) trait Record: Sized {
    /// Name of one, for refusals.
    const NAME: &'static str;
    /// Entries of a list at most.
    const LIMIT: usize;
    /// Reads one.
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError>;
}

/// What is left to read of a field.
pub(super) struct Cursor<'a> {
    /// What it is, for refusals.
    pub(super) name: &'static str,
    rest: &'a [u8],
    /// Offset of `rest` in the state.
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// At the first field of a state whose header has been judged.
    pub(super) fn new(state: &'a [u8]) -> Self {
        Self { name: "the state", rest: state.get(HEADER..).unwrap_or_default(), offset: HEADER }
    }

    /// Where it is, in bytes from the beginning of the state.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Some bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.truncated(length))?;
        (self.rest, self.offset) = (rest, self.offset + length);
        Ok(taken)
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        self.offset += self.rest.len();
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.truncated(N))?;
        (self.rest, self.offset) = (rest, self.offset + N);
        Ok(*taken)
    }

    fn truncated(&self, need: usize) -> FormatError {
        FormatError::Truncated { field: self.name, offset: self.offset, need, have: self.rest.len() }
    }

    pub(super) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn mac(&mut self) -> Result<Mac, FormatError> {
        self.array().map(Mac)
    }

    /// A truth value.
    pub(super) fn flag(&mut self) -> Result<bool, FormatError> {
        let at = self.offset;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.bad(at, other, "0 or 1")),
        }
    }

    /// A number within its bounds.
    pub(super) fn within<T>(
        &mut self,
        read: fn(&mut Self) -> Result<T, FormatError>,
        bounds: impl std::ops::RangeBounds<T>,
        valid: &'static str,
    ) -> Result<T, FormatError>
    where
        T: PartialOrd + fmt::Display,
    {
        let at = self.offset;
        let value = read(self)?;
        if bounds.contains(&value) { Ok(value) } else { Err(self.bad(at, value, valid)) }
    }

    /// A moment, in milliseconds of Unix time.
    pub(super) fn time_ms(&mut self) -> Result<u64, FormatError> {
        self.within(Self::u64, ..MAX_TIME_MS, "milliseconds of Unix time before the year 9999")
    }

    /// The address of a station.
    pub(super) fn station(&mut self) -> Result<Mac, FormatError> {
        let at = self.offset;
        let mac = self.mac()?;
        if mac.is_valid_source() {
            Ok(mac)
        } else {
            Err(self.bad(at, mac, "a unicast MAC address that is not zero"))
        }
    }

    /// The network of a frame.
    pub(super) fn network(&mut self) -> Result<Segment, FormatError> {
        let at = self.offset;
        match self.u32()? {
            id @ (0..=4094 | 4096..=VSID_MAX) => Ok(Segment(id)),
            id => Err(self.bad(at, id, NETWORK)),
        }
    }

    /// A virtual subnet.
    pub(super) fn vsid(&mut self) -> Result<u32, FormatError> {
        self.within(Self::u32, 4096..=VSID_MAX, "4096 to 16777214")
    }

    /// 4 or 6.
    pub(super) fn family(&mut self) -> Result<u8, FormatError> {
        let at = self.offset;
        match self.u8()? {
            family @ (4 | 6) => Ok(family),
            other => Err(self.bad(at, other, "4 (IPv4) or 6 (IPv6)")),
        }
    }

    /// An address of a family.
    pub(super) fn ip(&mut self, family: u8) -> Result<IpAddr, FormatError> {
        if family == 4 {
            self.array().map(|bytes: [u8; 4]| Ipv4Addr::from(bytes).into())
        } else {
            self.array().map(|bytes: [u8; 16]| Ipv6Addr::from(bytes).into())
        }
    }

    /// An IP prefix.
    pub(super) fn prefix(&mut self) -> Result<IpNet, FormatError> {
        let at = self.offset;
        let (family, length) = (self.family()?, self.u8()?);
        let address = self.ip(family)?;
        IpNet::new(address, length).ok().filter(|net| net.addr() == net.network()).ok_or_else(|| {
            let valid = "up to 32 or 128 bits, and zeros beyond them";
            self.bad(at, format_args!("{address}/{length}"), valid)
        })
    }

    /// Text, all that is left.
    pub(super) fn text(&mut self) -> Result<&'a str, FormatError> {
        let at = self.offset;
        let bytes = self.rest();
        std::str::from_utf8(bytes).map_err(|_| self.bad(at, Shown(bytes), "UTF-8"))
    }

    /// The name of a port or a machine, all that is left.
    pub(super) fn name(&mut self) -> Result<String, FormatError> {
        let at = self.offset;
        let bytes = self.rest();
        let first = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        let name = plain(bytes).filter(|name| first && name.len() <= 32);
        let valid = "a letter or digit and up to 31 letters, digits, '.', '_' or '-'";
        name.map(str::to_owned).ok_or_else(|| self.bad(at, Shown(bytes), valid))
    }

    /// A list: records to the end.
    pub(super) fn list<T: Record>(&mut self) -> Result<Vec<T>, FormatError> {
        let mut list = Vec::new();
        while !self.rest.is_empty() {
            if list.len() == T::LIMIT {
                return Err(FormatError::TooMany { field: self.name, limit: T::LIMIT, offset: self.offset });
            }
            let within = std::mem::replace(&mut self.name, T::NAME);
            list.push(T::read(self)?);
            self.name = within;
        }
        Ok(list)
    }

    /// Fields to the end. `known` is told number and content of each and says whether it knew it; if not it is kept.
    pub(super) fn fields(
        &mut self,
        group: u16,
        unknown: &mut Vec<UnknownField>,
        mut known: impl FnMut(u16, Cursor<'a>, &mut Vec<UnknownField>) -> Result<bool, FormatError>,
    ) -> Result<(), FormatError> {
        let mut before = None;
        while !self.rest.is_empty() {
            let offset = self.offset;
            let number = self.u16()?;
            match before {
                Some(before) if number == before => {
                    return Err(FormatError::Duplicate { group: self.name, number, offset });
                }
                Some(before) if number < before => {
                    return Err(FormatError::Order { group: self.name, number, before, offset });
                }
                _ => before = Some(number),
            }
            let length = self.u32()? as usize;
            let at = self.offset;
            let bytes = self.take(length)?;
            if known(number, Cursor { name: self.name, rest: bytes, offset: at }, unknown)? {
                continue;
            }
            if number >= CRITICAL {
                return Err(FormatError::Critical { group: self.name, number, offset });
            }
            if unknown.len() == MAX_UNKNOWN {
                return Err(FormatError::TooMany {
                    field: "what is not known here",
                    limit: MAX_UNKNOWN,
                    offset,
                });
            }
            unknown.push(UnknownField { group, number, bytes: bytes.to_vec() });
        }
        Ok(())
    }

    /// A refusal of what was read at `offset`.
    pub(super) fn bad(&self, offset: usize, value: impl fmt::Display, valid: &'static str) -> FormatError {
        FormatError::Value { field: self.name, offset, value: value.to_string(), valid }
    }
}

/// A field that may or must be there, with its name.
pub(super) struct Slot<T> {
    name: &'static str,
    value: Option<T>,
}

impl<T> Slot<T> {
    /// Not read yet.
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, value: None }
    }

    /// Reads it. It must use up the field.
    pub(super) fn set<'a>(
        &mut self,
        mut content: Cursor<'a>,
        read: impl FnOnce(&mut Cursor<'a>) -> Result<T, FormatError>,
    ) -> Result<(), FormatError> {
        content.name = self.name;
        self.value = Some(read(&mut content)?);
        match content.left() {
            0 => Ok(()),
            extra => Err(FormatError::Trailing { field: self.name, offset: content.offset, extra }),
        }
    }

    /// What was read; refused if it was not there.
    pub(super) fn required(self) -> Result<T, FormatError> {
        self.value.ok_or(FormatError::Missing { field: self.name })
    }

    /// What was read, if it was there.
    pub(super) fn optional(self) -> Option<T> {
        self.value
    }
}

/// Bytes that are letters, digits, `.`, `_` or `-`, one at least.
pub(super) fn plain(bytes: &[u8]) -> Option<&str> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let plain = !bytes.is_empty() && bytes.iter().all(allowed);
    std::str::from_utf8(bytes).ok().filter(|_| plain)
}

/// Bytes in a refusal: the first of them, so that nobody fills a log with them, and nothing that moves a terminal's cursor.
pub(super) struct Shown<'a>(pub(super) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 40;
        let more = if self.0.len() > SHOWN { "…" } else { "" };
        write!(f, "'{}{more}' ({} bytes)", self.0.get(..SHOWN).unwrap_or(self.0).escape_ascii(), self.0.len())
    }
}
