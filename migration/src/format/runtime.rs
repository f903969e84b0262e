//! Everything but policy: identity, device, metering, counters, learned and used addresses, sessions, extensions.

use std::net::IpAddr;

use vswitch::session::Saved;

use super::lists::{read_weight, write_ip};
use super::read::{Cursor, Record, Shown, Slot, plain};
use super::write::{Bytes, Writer};
use super::{FormatError, field};
use crate::state::{
    Counters, DeviceShape, ExtensionState, Identity, Learned, MAX_EXTENSION, MAX_EXTENSION_DATA,
    MAX_EXTENSIONS, MAX_REASONS, MAX_SESSIONS, Metering, UnknownField, UsedAddress,
};

/// Longest name of an extension, and of a reason for drops.
const NAME: usize = 64;
/// Longest name of a host (RFC 1035, 2.3.4).
const HOST: usize = 255;

const PLAIN: &str = "1 to 64 letters, digits, '.', '_' or '-'";

pub(super) fn write_identity(fields: &mut Writer<'_>, identity: &Identity) {
    fields.text(1, &identity.name);
    fields.put(2, |out| out.extend_from_slice(&identity.mac.0));
}

pub(super) fn read_identity(
    cursor: &mut Cursor<'_>,
    unknown: &mut Vec<UnknownField>,
) -> Result<Identity, FormatError> {
    let mut name = Slot::new("identity.name");
    let mut mac = Slot::new("identity.mac");
    cursor.fields(field::IDENTITY, unknown, |number, content, _| {
        match number {
            1 => name.set(content, Cursor::name),
            2 => mac.set(content, Cursor::station),
            _ => return Ok(false),
        }?;
        Ok(true)
    })?;
    Ok(Identity { name: name.required()?, mac: mac.required()? })
}

/// The host's name. Shown to people, so it must not move their cursors.
pub(super) fn read_host(cursor: &mut Cursor<'_>) -> Result<String, FormatError> {
    let at = cursor.offset();
    let host = cursor.text()?;
    if host.len() <= HOST && !host.chars().any(char::is_control) {
        Ok(host.to_owned())
    } else {
        Err(cursor.bad(at, Shown(host.as_bytes()), "up to 255 bytes without control characters"))
    }
}

pub(super) fn write_device(fields: &mut Writer<'_>, device: &DeviceShape) {
    fields.put(1, |out| out.extend_from_slice(&device.features.to_le_bytes()));
    fields.put(2, |out| out.push(device.queue_pairs));
    fields.put(3, |out| out.extend_from_slice(&device.mtu.to_le_bytes()));
}

pub(super) fn read_device(
    cursor: &mut Cursor<'_>,
    unknown: &mut Vec<UnknownField>,
) -> Result<DeviceShape, FormatError> {
    let mut features = Slot::new("device.features");
    let mut queue_pairs = Slot::new("device.queue-pairs");
    let mut mtu = Slot::new("device.mtu");
    cursor.fields(field::DEVICE, unknown, |number, content, _| {
        match number {
            1 => features.set(content, Cursor::u64),
            2 => queue_pairs.set(content, |c| c.within(Cursor::u8, 1..=8, "1 to 8")),
            3 => mtu.set(content, |c| c.within(Cursor::u16, 68..=9000, "68 to 9000 bytes")),
            _ => return Ok(false),
        }?;
        Ok(true)
    })?;
    Ok(DeviceShape {
        features: features.required()?,
        queue_pairs: queue_pairs.required()?,
        mtu: mtu.required()?,
    })
}

pub(super) fn write_metering(fields: &mut Writer<'_>, metering: &Metering) {
    fields.put(1, |out| out.extend_from_slice(&metering.since_ms.to_le_bytes()));
    fields.flag(2, metering.defaults);
}

pub(super) fn read_metering(
    cursor: &mut Cursor<'_>,
    unknown: &mut Vec<UnknownField>,
) -> Result<Metering, FormatError> {
    let mut since = Slot::new("metering.since");
    let mut defaults = Slot::new("metering.defaults");
    cursor.fields(field::METERING, unknown, |number, content, _| {
        match number {
            1 => since.set(content, Cursor::time_ms),
            2 => defaults.set(content, Cursor::flag),
            _ => return Ok(false),
        }?;
        Ok(true)
    })?;
    // Cannot change its sign: moments end in the year 9999.
    Ok(Metering { since_ms: since.required()?.cast_signed(), defaults: defaults.required()? })
}

pub(super) fn write_counters(fields: &mut Writer<'_>, counters: &Counters) {
    fields.put(1, |out| {
        let Counters { out_packets, out_bytes, in_packets, in_bytes, .. } = counters;
        for count in [out_packets, out_bytes, in_packets, in_bytes] {
            out.extend_from_slice(&count.to_le_bytes());
        }
    });
    fields.list(2, &counters.out_drops);
    fields.list(3, &counters.in_drops);
}

pub(super) fn read_counters(
    cursor: &mut Cursor<'_>,
    unknown: &mut Vec<UnknownField>,
) -> Result<Counters, FormatError> {
    let mut totals = Slot::new("counters.totals");
    let mut out_drops = Slot::new("counters.out-drops");
    let mut in_drops = Slot::new("counters.in-drops");
    cursor.fields(field::COUNTERS, unknown, |number, content, _| {
        match number {
            1 => totals.set(content, |c| Ok((c.u64()?, c.u64()?, c.u64()?, c.u64()?))),
            2 => out_drops.set(content, read_drops),
            3 => in_drops.set(content, read_drops),
            _ => return Ok(false),
        }?;
        Ok(true)
    })?;
    let (out_packets, out_bytes, in_packets, in_bytes) = totals.required()?;
    let (out_drops, in_drops) = (out_drops.required()?, in_drops.required()?);
    Ok(Counters { out_packets, out_bytes, in_packets, in_bytes, out_drops, in_drops })
}

fn read_drops(cursor: &mut Cursor<'_>) -> Result<Vec<(String, u64)>, FormatError> {
    let list: Vec<(String, u64)> = cursor.list()?;
    once(cursor.name, list.iter().map(|(reason, _)| reason.as_str()))?;
    Ok(list)
}

/// That every name is there once.
fn once<'n>(field: &'static str, names: impl Iterator<Item = &'n str>) -> Result<(), FormatError> {
    let mut order: Vec<&str> = names.collect();
    order.sort_unstable();
    match order.array_windows().find(|[first, second]| first == second) {
        None => Ok(()),
        Some([first, _]) => Err(FormatError::Twice { field, value: (*first).to_owned() }),
    }
}

/// A name with its length before it.
pub(super) fn short_name<'a>(cursor: &mut Cursor<'a>) -> Result<&'a str, FormatError> {
    let length = cursor.u8()?;
    let at = cursor.offset();
    let bytes = cursor.take(usize::from(length))?;
    let name = plain(bytes).filter(|name| name.len() <= NAME);
    name.ok_or_else(|| cursor.bad(at, Shown(bytes), PLAIN))
}

/// A name that fits, with its length. A longer one is cut, which `encode` finds out.
pub(super) fn write_name(name: &str, out: &mut Vec<u8>) {
    let name = name.as_bytes().get(..=NAME).unwrap_or(name.as_bytes());
    out.push(name.len() as u8);
    out.extend_from_slice(name);
}

impl Record for (String, u64) {
    const NAME: &'static str = "a count of drops";
    const LIMIT: usize = MAX_REASONS;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let at = cursor.offset();
        let reason = short_name(cursor)?;
        let kebab = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !reason.bytes().all(kebab) {
            return Err(cursor.bad(
                at,
                Shown(reason.as_bytes()),
                "a reason of small letters, digits and '-'",
            ));
        }
        Ok((reason.to_owned(), cursor.within(Cursor::u64, 1.., "1 or more")?))
    }
}

impl Bytes for (String, u64) {
    fn write(&self, out: &mut Vec<u8>) {
        write_name(&self.0, out);
        out.extend_from_slice(&self.1.to_le_bytes());
    }
}

impl Record for Learned {
    const NAME: &'static str = "a learned address";
    const LIMIT: usize = MAX_SESSIONS;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        Ok(Self { mac: cursor.station()?, network: cursor.network()?, age_ms: cursor.u64()? })
    }
}

impl Bytes for Learned {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.mac.0);
        out.extend_from_slice(&self.network.0.to_le_bytes());
        out.extend_from_slice(&self.age_ms.to_le_bytes());
    }
}

impl Record for UsedAddress {
    const NAME: &'static str = "a used address";
    const LIMIT: usize = MAX_SESSIONS;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let family = cursor.family()?;
        Ok(Self { address: cursor.ip(family)?, age_ms: cursor.u64()? })
    }
}

impl Bytes for UsedAddress {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(family(self.address));
        write_ip(self.address, out);
        out.extend_from_slice(&self.age_ms.to_le_bytes());
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

impl Record for Saved {
    const NAME: &'static str = "a session";
    const LIMIT: usize = MAX_SESSIONS;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let at = cursor.offset();
        let family = cursor.family()?;
        let (protocol, track, zero) = (cursor.u8()?, cursor.u8()?, cursor.u8()?);
        if !matches!(protocol, 6 | 17) {
            return Err(cursor.bad(at, format_args!("of protocol {protocol}"), "6 (TCP) or 17 (UDP)"));
        }
        if track & !Self::TRACK_BITS != 0 || zero != 0 {
            let value = format_args!("with track {track:#04x} and {zero:#04x} after it");
            return Err(cursor.bad(at, value, "a track of 0x00 to 0x3f and 0x00"));
        }
        Ok(Self {
            segment: cursor.network()?,
            weight: read_weight(cursor)?,
            protocol,
            track,
            local_port: cursor.u16()?,
            remote_port: cursor.u16()?,
            timeout_ms: cursor.within(Cursor::u64, 1000..=86_400_000, "a timeout of 1000 to 86400000 ms")?,
            age_ms: cursor.u64()?,
            idle_ms: cursor.u64()?,
            local: cursor.ip(family)?,
            remote: cursor.ip(family)?,
        })
    }
}

impl Bytes for Saved {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[family(self.local), self.protocol, self.track, 0]);
        out.extend_from_slice(&self.segment.0.to_le_bytes());
        out.extend_from_slice(&self.weight.to_le_bytes());
        out.extend_from_slice(&self.local_port.to_le_bytes());
        out.extend_from_slice(&self.remote_port.to_le_bytes());
        out.extend_from_slice(&self.timeout_ms.to_le_bytes());
        out.extend_from_slice(&self.age_ms.to_le_bytes());
        out.extend_from_slice(&self.idle_ms.to_le_bytes());
        write_ip(self.local, out);
        write_ip(self.remote, out);
    }
}

impl Record for ExtensionState {
    const NAME: &'static str = "the state of an extension";
    const LIMIT: usize = MAX_EXTENSIONS;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let name = short_name(cursor)?.to_owned();
        let version = cursor.u32()?;
        let mut blob = |most: usize, valid| {
            let length = cursor.within(Cursor::u32, ..=most as u32, valid)?;
            cursor.take(length as usize).map(<[u8]>::to_vec)
        };
        let config = blob(MAX_EXTENSION, "a length of up to 65536 bytes")?;
        let data = blob(MAX_EXTENSION_DATA, "a length of up to 262144 bytes")?;
        Ok(Self { name, version, config, data })
    }
}

impl Bytes for ExtensionState {
    fn write(&self, out: &mut Vec<u8>) {
        write_name(&self.name, out);
        out.extend_from_slice(&self.version.to_le_bytes());
        for blob in [&self.config, &self.data] {
            // One whose length does not fit is refused for its size.
            out.extend_from_slice(&u32::try_from(blob.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(blob);
        }
    }
}

/// What extensions remember, each once.
pub(super) fn read_extensions(cursor: &mut Cursor<'_>) -> Result<Vec<ExtensionState>, FormatError> {
    let list: Vec<ExtensionState> = cursor.list()?;
    once(cursor.name, list.iter().map(|extension| extension.name.as_str()))?;
    Ok(list)
}
