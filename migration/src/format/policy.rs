//! The policy's group, and VLAN modes.

use vswitch::port::Mirror;
use vswitch::port::vlan::{Vlan, VlanSet};

use super::FormatError;
use super::lists;
use super::read::{Cursor, Slot};
use super::runtime;
use super::write::Writer;
use crate::state::{MAX_REQUIRED, PortPolicy, UnknownField};

use super::field::POLICY as GROUP;

const VLAN: u16 = 1;
const VSID: u16 = 2;
const MAC_SPOOFING: u16 = 3;
const VM: u16 = 4;
const TEAMING: u16 = 5;
const DHCP_GUARD: u16 = 6;
const ROUTER_GUARD: u16 = 7;
const ADDRESSES: u16 = 8;
const ADDRESS_LIMIT: u16 = 9;
const STORM_LIMIT: u16 = 10;
const MIRROR: u16 = 11;
const PRIORITY_TAG: u16 = 12;
const LINK_UP: u16 = 13;
const ACL: u16 = 14;
const RULES: u16 = 15;
/// It narrows what the port may do: a reader that does not know it must not take the state.
const REQUIRE_EXTENSION: u16 = 0x8001;

pub(super) fn write(fields: &mut Writer<'_>, policy: &PortPolicy) {
    fields.put(VLAN, |out| write_vlan(&policy.vlan, out));
    if let Some(vsid) = policy.vsid {
        fields.u32(VSID, vsid);
    }
    fields.flag(MAC_SPOOFING, policy.mac_spoofing);
    if let Some(vm) = &policy.vm {
        fields.text(VM, vm);
    }
    fields.flag(TEAMING, policy.teaming);
    fields.flag(DHCP_GUARD, policy.dhcp_guard);
    fields.flag(ROUTER_GUARD, policy.router_guard);
    if let Some(addresses) = &policy.addresses {
        fields.list(ADDRESSES, addresses);
    }
    fields.u32(ADDRESS_LIMIT, policy.address_limit);
    fields.u32(STORM_LIMIT, policy.storm_limit);
    let mirror = match policy.mirror {
        Mirror::None => 0,
        Mirror::Source => 1,
        Mirror::Destination => 2,
    };
    fields.put(MIRROR, |out| out.push(mirror));
    fields.flag(PRIORITY_TAG, policy.priority_tag);
    fields.flag(LINK_UP, policy.link_up);
    fields.list(ACL, &policy.acl);
    fields.list(RULES, &policy.rules);
    if !policy.require_extension.is_empty() {
        fields.put(REQUIRE_EXTENSION, |out| {
            policy.require_extension.iter().for_each(|name| runtime::write_name(name, out));
        });
    }
}

pub(super) fn read(
    cursor: &mut Cursor<'_>,
    unknown: &mut Vec<UnknownField>,
) -> Result<PortPolicy, FormatError> {
    let begin = cursor.offset();
    let mut vlan = Slot::new("policy.vlan");
    let mut vsid = Slot::new("policy.vsid");
    let mut mac_spoofing = Slot::new("policy.mac-spoofing");
    let mut vm = Slot::new("policy.vm");
    let mut teaming = Slot::new("policy.teaming");
    let mut dhcp_guard = Slot::new("policy.dhcp-guard");
    let mut router_guard = Slot::new("policy.router-guard");
    let mut addresses = Slot::new("policy.addresses");
    let mut address_limit = Slot::new("policy.address-limit");
    let mut storm_limit = Slot::new("policy.storm-limit");
    let mut mirror = Slot::new("policy.mirror");
    let mut priority_tag = Slot::new("policy.priority-tag");
    let mut link_up = Slot::new("policy.link-up");
    let mut acl = Slot::new("policy.acl");
    let mut rules = Slot::new("policy.rules");
    let mut require_extension = Slot::new("policy.require-extension");
    cursor.fields(GROUP, unknown, |number, content, _| {
        match number {
            VLAN => vlan.set(content, read_vlan),
            VSID => vsid.set(content, Cursor::vsid),
            MAC_SPOOFING => mac_spoofing.set(content, Cursor::flag),
            VM => vm.set(content, Cursor::name),
            TEAMING => teaming.set(content, Cursor::flag),
            DHCP_GUARD => dhcp_guard.set(content, Cursor::flag),
            ROUTER_GUARD => router_guard.set(content, Cursor::flag),
            ADDRESSES => addresses.set(content, lists::read_addresses),
            ADDRESS_LIMIT => {
                address_limit.set(content, |c| c.within(Cursor::u32, ..=1024, "0 to 1024 addresses"))
            }
            STORM_LIMIT => storm_limit.set(content, Cursor::u32),
            MIRROR => mirror.set(content, read_mirror),
            PRIORITY_TAG => priority_tag.set(content, Cursor::flag),
            LINK_UP => link_up.set(content, Cursor::flag),
            ACL => acl.set(content, lists::read_acl),
            RULES => rules.set(content, lists::read_rules),
            REQUIRE_EXTENSION => require_extension.set(content, read_required),
            _ => return Ok(false),
        }?;
        Ok(true)
    })?;
    let policy = PortPolicy {
        vlan: vlan.required()?,
        vsid: vsid.optional(),
        mac_spoofing: mac_spoofing.required()?,
        vm: vm.optional(),
        teaming: teaming.required()?,
        dhcp_guard: dhcp_guard.required()?,
        router_guard: router_guard.required()?,
        addresses: addresses.optional(),
        address_limit: address_limit.required()?,
        storm_limit: storm_limit.required()?,
        mirror: mirror.required()?,
        priority_tag: priority_tag.required()?,
        link_up: link_up.required()?,
        acl: acl.required()?,
        rules: rules.required()?,
        require_extension: require_extension.optional().unwrap_or_default(),
    };
    match policy.vsid {
        Some(vsid) if policy.vlan != Vlan::None => {
            let value = format_args!("virtual subnet {vsid} with VLAN mode {}", policy.vlan);
            Err(cursor.bad(begin, value, "a virtual subnet or a VLAN mode, not both"))
        }
        _ if policy.teaming && policy.vm.is_none() => {
            Err(cursor.bad(begin, "teaming without a machine", "teaming with the machine's name in vm"))
        }
        _ => Ok(policy),
    }
}

/// Names to the end of the field, one or more: ascending, so that a set has one spelling.
fn read_required(cursor: &mut Cursor<'_>) -> Result<Vec<String>, FormatError> {
    let mut names: Vec<String> = Vec::new();
    while names.is_empty() || cursor.left() != 0 {
        let at = cursor.offset();
        let name = runtime::short_name(cursor)?;
        if names.len() == MAX_REQUIRED || names.last().is_some_and(|last| last.as_str() >= name) {
            return Err(cursor.bad(at, name, "up to 8 names, ascending, each once"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn read_mirror(cursor: &mut Cursor<'_>) -> Result<Mirror, FormatError> {
    let at = cursor.offset();
    match cursor.u8()? {
        0 => Ok(Mirror::None),
        1 => Ok(Mirror::Source),
        2 => Ok(Mirror::Destination),
        other => Err(cursor.bad(at, other, "0 (none), 1 (source) or 2 (destination)")),
    }
}

fn write_vlan(vlan: &Vlan, out: &mut Vec<u8>) {
    let (mode, first, second, set) = match vlan {
        Vlan::None => (0, 0, 0, None),
        Vlan::Access(id) => (1, *id, 0, None),
        Vlan::Trunk { allowed, native } => (2, *native, 0, Some(allowed)),
        Vlan::Isolated { primary, secondary } => (3, *primary, *secondary, None),
        Vlan::Community { primary, secondary } => (4, *primary, *secondary, None),
        Vlan::Promiscuous { primary, secondaries } => (5, *primary, 0, Some(secondaries)),
    };
    out.push(mode);
    let mut put = |id: u16| out.extend_from_slice(&id.to_le_bytes());
    put(first);
    put(second);
    let mut ids = set.into_iter().flat_map(VlanSet::iter).peekable();
    while let Some(first) = ids.next() {
        let mut last = first;
        while let Some(next) = ids.next_if(|&id| id == last + 1) {
            last = next;
        }
        put(first);
        put(last);
    }
}

fn read_vlan(cursor: &mut Cursor<'_>) -> Result<Vlan, FormatError> {
    let at = cursor.offset();
    let (mode, first, second) = (cursor.u8()?, cursor.u16()?, cursor.u16()?);
    let vlan = match (mode, second) {
        (0, 0) if first == 0 => Vlan::None,
        (1, 0) => Vlan::Access(first),
        (2, 0) => Vlan::Trunk { allowed: read_set(cursor)?, native: first },
        (3, secondary) => Vlan::Isolated { primary: first, secondary },
        (4, secondary) => Vlan::Community { primary: first, secondary },
        (5, 0) => Vlan::Promiscuous { primary: first, secondaries: read_set(cursor)? },
        _ => {
            let value = format_args!("mode {mode} with {first} and {second}");
            return Err(cursor.bad(at, value, "modes 0 to 5, and 0 where a mode has no VLAN"));
        }
    };
    // What a policy may say is known in one place: where its text is read.
    match vlan.to_string().parse::<Vlan>() {
        Ok(same) if same == vlan => Ok(vlan),
        Ok(_) => Err(cursor.bad(at, vlan, "a VLAN mode")),
        Err(why) => {
            let value = format_args!("{vlan} ({why})");
            Err(cursor.bad(
                at,
                value,
                "VLANs from 1 to 4094, primary and secondary different, lists not empty",
            ))
        }
    }
}

/// Ranges to the end of the field. Ascending with a gap between any two, so that a set has one spelling and a bounded length.
fn read_set(cursor: &mut Cursor<'_>) -> Result<VlanSet, FormatError> {
    let mut set = VlanSet::empty();
    let mut from = 0;
    while cursor.left() != 0 {
        let at = cursor.offset();
        let (first, last) = (cursor.u16()?, cursor.u16()?);
        if first < from || last < first || !(1..=4094).contains(&last) {
            let valid = "ascending ranges of VLANs 1 to 4094 with a gap between any two";
            return Err(cursor.bad(at, format_args!("{first}-{last}"), valid));
        }
        (first..=last).for_each(|id| set.insert(id));
        from = last + 2;
    }
    Ok(set)
}
