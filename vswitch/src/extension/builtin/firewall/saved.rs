//! What the firewall remembers of a port, as bytes that travel with the guest.
//!
//! Version 1, numbers big-endian: `1`, number of connections (2 bytes), connections, number of blocks (2 bytes), blocks.
//!
//! | connection | bytes |
//! |---|---|
//! | bits: 0 IPv6, 1 opened by the peer, 2 to 4 state, 5 the guest has no more to say, 6 its peer | 1 |
//! | protocol | 1 |
//! | local and remote address | 4 or 16 each |
//! | local and remote port | 2 each |
//! | milliseconds since the last packet | 4 |
//!
//! A block: reason (1), then 0 for the guest itself or 4 or 6 and the peer's address, then the milliseconds left (4).
//!
//! Whatever the bytes are, they are read completely and checked before anything is taken over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::connections::{Connection, State};
use super::packet::Key;
use super::watch::{MOST, Source, Why};
use crate::{Direction, Nanos};

const VERSION: u8 = 1;
/// Connections of any port: [`crate::extension::MOST_SAVED`] would hold no more.
const MOST_CONNECTIONS: usize = 5000;
const MILLISECOND: Nanos = 1_000_000;
/// A block may not last longer than one that can be configured.
const LONGEST_BLOCK: Nanos = 7 * 86_400 * 1_000_000_000;

/// A block: who, why, until when.
pub(super) type Block = (Source, Why, Nanos);

fn milliseconds(nanos: Nanos) -> [u8; 4] {
    u32::try_from(nanos / MILLISECOND).unwrap_or(u32::MAX).to_be_bytes()
}

fn put_address(to: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => to.extend(v4.octets()),
        IpAddr::V6(v6) => to.extend(v6.octets()),
    }
}

pub(super) fn write<'a>(
    now: Nanos,
    connections: impl Iterator<Item = &'a Connection>,
    blocks: impl Iterator<Item = Block>,
) -> Vec<u8> {
    let mut bytes = vec![VERSION, 0, 0];
    let mut count = 0_u16;
    for one in connections.take(MOST_CONNECTIONS) {
        let Connection { key, opener, state, ended, seen, .. } = one;
        let number = State::ALL.iter().position(|each| each == state).unwrap_or_default() as u8;
        let [guest, peer] = ended.map(u8::from);
        bytes.push(
            u8::from(key.local.is_ipv6())
                | u8::from(*opener == Direction::In) << 1
                | number << 2
                | guest << 5
                | peer << 6,
        );
        bytes.push(key.protocol);
        put_address(&mut bytes, key.local);
        put_address(&mut bytes, key.remote);
        bytes.extend(key.ports.0.to_be_bytes());
        bytes.extend(key.ports.1.to_be_bytes());
        bytes.extend(milliseconds(now.saturating_sub(*seen)));
        count += 1;
    }
    bytes[1..3].copy_from_slice(&count.to_be_bytes());
    let (at, mut count) = (bytes.len(), 0_u16);
    bytes.extend([0, 0]);
    for (source, why, until) in blocks.take(MOST) {
        bytes.push(Why::ALL.iter().position(|each| *each == why).unwrap_or_default() as u8);
        match source {
            Source::Guest => bytes.push(0),
            Source::Peer(address) => {
                bytes.push(if address.is_ipv4() { 4 } else { 6 });
                put_address(&mut bytes, address);
            }
        }
        bytes.extend(milliseconds(until.saturating_sub(now)));
        count += 1;
    }
    bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
    bytes
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or("it ends too early")?;
        self.0 = rest;
        Ok(*first)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn short(&mut self) -> Result<u16, String> {
        self.take().map(u16::from_be_bytes)
    }

    fn time(&mut self) -> Result<Nanos, String> {
        self.take().map(|bytes| Nanos::from(u32::from_be_bytes(bytes)) * MILLISECOND)
    }

    fn address(&mut self, v6: bool) -> Result<IpAddr, String> {
        if v6 {
            self.take::<16>().map(|bytes| Ipv6Addr::from(bytes).into())
        } else {
            self.take::<4>().map(|bytes| Ipv4Addr::from(bytes).into())
        }
    }

    fn connection(&mut self, now: Nanos) -> Result<Connection, String> {
        let bits = self.byte()?;
        let number = usize::from(bits >> 2 & 7);
        let state = *State::ALL.get(number).ok_or_else(|| format!("there is no state {number}"))?;
        if bits & 0x80 != 0 {
            return Err(format!("a connection begins with {bits:#x}"));
        }
        let (v6, protocol) = (bits & 1 != 0, self.byte()?);
        let (local, remote) = (self.address(v6)?, self.address(v6)?);
        let ports = (self.short()?, self.short()?);
        let opener = if bits & 2 == 0 { Direction::Out } else { Direction::In };
        let seen = now.saturating_sub(self.time()?);
        let key = Key { protocol, local, remote, ports };
        let ended = [bits & 0x20 != 0, bits & 0x40 != 0];
        Ok(Connection { key, opener, state, ended, seen, inspected: [0; 2] })
    }

    fn block(&mut self, now: Nanos) -> Result<Block, String> {
        let number = self.byte()?;
        let why = *Why::ALL.get(usize::from(number)).ok_or_else(|| format!("there is no reason {number}"))?;
        let source = match self.byte()? {
            0 => Source::Guest,
            4 => Source::Peer(self.address(false)?),
            6 => Source::Peer(self.address(true)?),
            other => return Err(format!("{other} is no version of IP")),
        };
        Ok((source, why, now.saturating_add(self.time()?.min(LONGEST_BLOCK))))
    }
}

/// The connections and blocks of a port, with times of this switch.
pub(super) fn read(now: Nanos, bytes: &[u8]) -> Result<(Vec<Connection>, Vec<Block>), String> {
    let mut reader = Reader(bytes);
    let version = reader.byte()?;
    if version != VERSION {
        return Err(format!("its version is {version}; this switch knows {VERSION}"));
    }
    let count = usize::from(reader.short()?);
    if count > MOST_CONNECTIONS {
        return Err(format!("{count} connections; at most {MOST_CONNECTIONS}"));
    }
    let connections = (0..count).map(|_| reader.connection(now)).collect::<Result<_, _>>()?;
    let count = usize::from(reader.short()?);
    if count > MOST {
        return Err(format!("{count} blocks; at most {MOST}"));
    }
    let blocks = (0..count).map(|_| reader.block(now)).collect::<Result<_, _>>()?;
    if !reader.0.is_empty() {
        return Err(format!("{} bytes are left over", reader.0.len()));
    }
    Ok((connections, blocks))
}
