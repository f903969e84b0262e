//! The lists of a policy: owned addresses, ACL entries and extended rules. Each entry is judged as one that an operator gives.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use vswitch::port::{acl, rule};
use vswitch::{Direction, Mac, Nanos, Tally};

use super::FormatError;
use super::read::{Cursor, Record};
use super::write::Bytes;
use crate::state::{Counted, MAX_ADDRESSES, MAX_LIST};

const SECOND: Nanos = 1_000_000_000;
/// Longest idle timeout of a stateful rule.
const LONGEST: Nanos = 24 * 3600 * SECOND;
const TCP: u8 = 6;
const UDP: u8 = 17;

const LOCAL: u8 = 0x01;
const REMOTE: u8 = 0x02;
const LOCAL_PORTS: u8 = 0x04;
const REMOTE_PORTS: u8 = 0x08;
const PROTOCOL: u8 = 0x10;
const STATEFUL: u8 = 0x20;
const ISOLATION: u8 = 0x40;

impl Record for IpNet {
    const NAME: &'static str = "an owned address";
    const LIMIT: usize = MAX_ADDRESSES;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        cursor.prefix()
    }
}

impl Bytes for IpNet {
    fn write(&self, out: &mut Vec<u8>) {
        let family = if self.addr().is_ipv4() { 4 } else { 6 };
        out.extend_from_slice(&[family, self.prefix_len()]);
        write_ip(self.addr(), out);
    }
}

/// The bytes of an address, without its family.
pub(super) fn write_ip(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

/// Owned addresses: one at least, since a port without any has no such field.
pub(super) fn read_addresses(cursor: &mut Cursor<'_>) -> Result<Vec<IpNet>, FormatError> {
    let at = cursor.offset();
    let list: Vec<IpNet> = cursor.list()?;
    if list.is_empty() { Err(cursor.bad(at, "empty", "one address or more")) } else { Ok(list) }
}

/// The ACL. An address can be there once among allow and deny, and once among meters.
pub(super) fn read_acl(cursor: &mut Cursor<'_>) -> Result<Vec<Counted<acl::Entry>>, FormatError> {
    let list: Vec<Counted<acl::Entry>> = cursor.list()?;
    let key = |entry: &acl::Entry| {
        let (kind, mac, net) = match entry.address {
            acl::Address::Any => (0, None, None),
            acl::Address::AnyMac => (1, None, None),
            acl::Address::Mac(mac) => (2, Some(mac), None),
            acl::Address::Ip(net) => (3, None, Some(net)),
        };
        let remote = entry.applies == acl::Applies::Remote;
        (entry.direction, remote, entry.action == acl::Action::Meter, kind, mac, net)
    };
    let mut order: Vec<&acl::Entry> = list.iter().map(|counted| &counted.item).collect();
    order.sort_unstable_by_key(|entry| key(entry));
    match order.array_windows().find(|[first, second]| key(first) == key(second)) {
        None => Ok(list),
        Some([first, _]) => Err(FormatError::Twice { field: cursor.name, value: first.to_string() }),
    }
}

/// The rules. A weight can be there once in a direction.
pub(super) fn read_rules(cursor: &mut Cursor<'_>) -> Result<Vec<Counted<rule::Rule>>, FormatError> {
    let list: Vec<Counted<rule::Rule>> = cursor.list()?;
    let mut order: Vec<(Direction, u32)> = list.iter().map(|c| (c.item.direction, c.item.weight)).collect();
    order.sort_unstable();
    match order.array_windows().find(|[first, second]| first == second) {
        None => Ok(list),
        Some([(direction, weight), _]) => {
            Err(FormatError::Twice { field: cursor.name, value: format!("{direction} weight {weight}") })
        }
    }
}

fn read_direction(cursor: &mut Cursor<'_>) -> Result<Direction, FormatError> {
    let at = cursor.offset();
    match cursor.u8()? {
        0 => Ok(Direction::Out),
        1 => Ok(Direction::In),
        other => Err(cursor.bad(at, format_args!("direction {other}"), "0 (out) or 1 (in)")),
    }
}

fn direction(direction: Direction) -> u8 {
    u8::from(direction == Direction::In)
}

fn write_counts<T>(counted: &Counted<T>, out: &mut Vec<u8>) {
    out.extend_from_slice(&counted.packets.to_le_bytes());
    out.extend_from_slice(&counted.bytes.to_le_bytes());
}

impl Record for Counted<acl::Entry> {
    const NAME: &'static str = "an ACL entry";
    const LIMIT: usize = MAX_LIST;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let direction = read_direction(cursor)?;
        let at = cursor.offset();
        let applies = match cursor.u8()? {
            0 => acl::Applies::Local,
            1 => acl::Applies::Remote,
            other => return Err(cursor.bad(at, format_args!("end {other}"), "0 (local) or 1 (remote)")),
        };
        let at = cursor.offset();
        let action = match cursor.u8()? {
            0 => acl::Action::Allow,
            1 => acl::Action::Deny,
            2 => acl::Action::Meter,
            other => {
                let valid = "0 (allow), 1 (deny) or 2 (meter)";
                return Err(cursor.bad(at, format_args!("action {other}"), valid));
            }
        };
        let at = cursor.offset();
        let address = match cursor.u8()? {
            0 => acl::Address::Any,
            1 => acl::Address::AnyMac,
            2 => match cursor.mac()? {
                Mac([0, 0, 0, 0, 0, 0]) => {
                    return Err(cursor.bad(at, "about a MAC address of zeros", "one that is not zero"));
                }
                mac => acl::Address::Mac(mac),
            },
            3 => acl::Address::Ip(cursor.prefix()?),
            other => {
                let valid = "0 (any), 1 (any-mac), 2 (MAC address) or 3 (IP prefix)";
                return Err(cursor.bad(at, format_args!("kind {other}"), valid));
            }
        };
        let item = acl::Entry { direction, applies, address, action, tally: Tally::NONE };
        Ok(Self { item, packets: cursor.u64()?, bytes: cursor.u64()? })
    }
}

impl Bytes for Counted<acl::Entry> {
    fn write(&self, out: &mut Vec<u8>) {
        let entry = &self.item;
        let action = match entry.action {
            acl::Action::Allow => 0,
            acl::Action::Deny => 1,
            acl::Action::Meter => 2,
        };
        let kind = match entry.address {
            acl::Address::Any => 0,
            acl::Address::AnyMac => 1,
            acl::Address::Mac(_) => 2,
            acl::Address::Ip(_) => 3,
        };
        let remote = u8::from(entry.applies == acl::Applies::Remote);
        out.extend_from_slice(&[direction(entry.direction), remote, action, kind]);
        match entry.address {
            acl::Address::Any | acl::Address::AnyMac => {}
            acl::Address::Mac(mac) => out.extend_from_slice(&mac.0),
            acl::Address::Ip(net) => net.write(out),
        }
        write_counts(self, out);
    }
}

impl Record for Counted<rule::Rule> {
    const NAME: &'static str = "a rule";
    const LIMIT: usize = MAX_LIST;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let begin = cursor.offset();
        let direction = read_direction(cursor)?;
        let at = cursor.offset();
        let action = match cursor.u8()? {
            0 => rule::Action::Allow,
            1 => rule::Action::Deny,
            other => return Err(cursor.bad(at, format_args!("action {other}"), "0 (allow) or 1 (deny)")),
        };
        let weight = read_weight(cursor)?;
        let at = cursor.offset();
        let present = cursor.u8()?;
        if present & 0x80 != 0 {
            return Err(cursor.bad(at, format_args!("present {present:#04x}"), "bits 0x01 to 0x40"));
        }
        let item = rule::Rule {
            direction,
            weight,
            action,
            local: if present & LOCAL != 0 { Some(cursor.prefix()?) } else { None },
            remote: if present & REMOTE != 0 { Some(cursor.prefix()?) } else { None },
            local_ports: if present & LOCAL_PORTS != 0 { Some(read_ports(cursor)?) } else { None },
            remote_ports: if present & REMOTE_PORTS != 0 { Some(read_ports(cursor)?) } else { None },
            protocol: if present & PROTOCOL != 0 { Some(cursor.u8()?) } else { None },
            stateful: if present & STATEFUL != 0 {
                Some(cursor.within(Cursor::u64, SECOND..=LONGEST, "an idle timeout of 1 s to 24 h, in ns")?)
            } else {
                None
            },
            isolation: if present & ISOLATION != 0 {
                let at = cursor.offset();
                let network = cursor.network()?;
                if network.0 == 0 {
                    return Err(cursor.bad(at, "about network 0", "no isolation for every network"));
                }
                Some(network)
            } else {
                None
            },
            tally: Tally::NONE,
        };
        let transport = matches!(item.protocol, Some(TCP | UDP));
        let ports = item.local_ports.is_some() || item.remote_ports.is_some();
        if let Some(protocol) = item.protocol.filter(|_| ports && !transport) {
            let value = format_args!("about ports of protocol {protocol}");
            return Err(cursor.bad(begin, value, "ports of TCP (6) or UDP (17), or of any protocol"));
        }
        if item.stateful.is_some() && (item.action == rule::Action::Deny || !transport) {
            let valid = "stateful only with allow and TCP (6) or UDP (17)";
            return Err(cursor.bad(begin, format_args!("stateful, weight {weight}"), valid));
        }
        Ok(Self { item, packets: cursor.u64()?, bytes: cursor.u64()? })
    }
}

/// The weight of a rule.
pub(super) fn read_weight(cursor: &mut Cursor<'_>) -> Result<u32, FormatError> {
    cursor.within(Cursor::u32, 1..=i32::MAX as u32, "a weight of 1 to 2147483647")
}

fn read_ports(cursor: &mut Cursor<'_>) -> Result<RangeInclusive<u16>, FormatError> {
    let at = cursor.offset();
    let (first, last) = (cursor.u16()?, cursor.u16()?);
    if first <= last {
        Ok(first..=last)
    } else {
        Err(cursor.bad(
            at,
            format_args!("about ports {first}-{last}"),
            "a range that ends where it begins or later",
        ))
    }
}

impl Bytes for Counted<rule::Rule> {
    fn write(&self, out: &mut Vec<u8>) {
        let rule = &self.item;
        let bit = |given: bool, bit| if given { bit } else { 0 };
        let present = bit(rule.local.is_some(), LOCAL)
            | bit(rule.remote.is_some(), REMOTE)
            | bit(rule.local_ports.is_some(), LOCAL_PORTS)
            | bit(rule.remote_ports.is_some(), REMOTE_PORTS)
            | bit(rule.protocol.is_some(), PROTOCOL)
            | bit(rule.stateful.is_some(), STATEFUL)
            | bit(rule.isolation.is_some(), ISOLATION);
        out.extend_from_slice(&[direction(rule.direction), u8::from(rule.action == rule::Action::Deny)]);
        out.extend_from_slice(&rule.weight.to_le_bytes());
        out.push(present);
        for net in [&rule.local, &rule.remote].into_iter().flatten() {
            net.write(out);
        }
        for ports in [&rule.local_ports, &rule.remote_ports].into_iter().flatten() {
            out.extend_from_slice(&ports.start().to_le_bytes());
            out.extend_from_slice(&ports.end().to_le_bytes());
        }
        out.extend(rule.protocol);
        if let Some(idle) = rule.stateful {
            out.extend_from_slice(&idle.to_le_bytes());
        }
        if let Some(network) = rule.isolation {
            out.extend_from_slice(&network.0.to_le_bytes());
        }
        write_counts(self, out);
    }
}
