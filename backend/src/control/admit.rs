//! The first phase of a change: everything about it is judged against what exists. Changes nothing.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;
use vswitch::extension::stack::MOST_ENABLED;
use vswitch::port::vlan::Vlan;
use vswitch::port::{Mirror, PortKind};
use vswitch::refusal::Refusal;
use vswitch::snapshot::SwitchKind;
use vswitch::{Mac, PortId};

use super::model::{Carried, Device, MAX_PORTS, MacKind, PortConfig};
use super::types::{NewPort, NewUplink, Policy, PolicyChange};
use super::{DEFAULT_MTU, Switch, check, host, view};
use crate::guest::features;

/// Addresses and prefixes a port owns at most.
const ADDRESSES: usize = 1024;

impl Switch {
    /// That `name` exists and is (not) an uplink.
    pub(super) fn check_noun(&self, name: &str, uplink: bool) -> Result<(), Refusal> {
        let unknown = || {
            if uplink {
                Refusal::UnknownUplink { known: self.names(true) }
            } else {
                Refusal::UnknownPort { known: self.names(false) }
            }
        };
        let kind = self.ports.get(name).ok_or_else(unknown)?.config.device.kind();
        if (kind == PortKind::Uplink) == uplink {
            return Ok(());
        }
        let noun = if uplink { "port" } else { "uplink" };
        Err(Refusal::WrongNoun { kind, command: format!("turnpike {noun} remove {name}") })
    }

    /// That one more port of this name and kind may exist.
    pub(super) fn check_room(&self, name: &str, kind: PortKind) -> Result<(), Refusal> {
        check::name(name)?;
        if let Some(taken) = self.ports.get(name) {
            return Err(Refusal::DuplicateName { kind: taken.config.device.kind() });
        }
        if self.ports.len() >= MAX_PORTS {
            return Err(Refusal::TooManyPorts { limit: MAX_PORTS });
        }
        match (self.settings.kind, kind) {
            (SwitchKind::Private, PortKind::Host) => Err(Refusal::KindForbids {
                kind: SwitchKind::Private,
                what: kind,
                valid: "'turnpike switch set --kind internal' (or external) first",
            }),
            (SwitchKind::Private | SwitchKind::Internal, PortKind::Uplink) => Err(Refusal::KindForbids {
                kind: self.settings.kind,
                what: kind,
                valid: "'turnpike switch set --kind external' first",
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn check_mac(&self, text: Option<&str>) -> Result<(Mac, MacKind), Refusal> {
        let owner = |mac| self.ports.values().find(|e| e.config.mac == mac);
        let Some(text) = text else {
            let mac = self.host.pool.draw(|mac| owner(mac).is_some());
            let pool = self.host.pool.to_string();
            return mac.map(|mac| (mac, MacKind::Dynamic)).ok_or(Refusal::MacPoolExhausted { pool });
        };
        let mac = check::mac(text)?;
        match owner(mac) {
            Some(entry) => Err(Refusal::DuplicateMac { mac, owner: entry.config.name.clone() }),
            None => Ok((mac, MacKind::Static)),
        }
    }

    pub(super) fn check_interface_free(&self, interface: &str) -> Result<(), Refusal> {
        match self.ports.values().find(|e| e.config.device.interface() == Some(interface)) {
            Some(entry) => Err(Refusal::InterfaceInUse {
                interface: interface.to_owned(),
                by: format!("port '{}'", entry.config.name),
            }),
            None => Ok(()),
        }
    }

    /// Judges a socket's path; in `leaving` are the places whose ports go in the same change.
    fn check_socket(&self, path: &str, client: bool, leaving: &HashSet<PathBuf>) -> Result<PathBuf, Refusal> {
        // Which port has a path is said before who listens there, because that is this process itself.
        let wanted = check::same_place(Path::new(path));
        if let Some(entry) = self.ports.values().find(|e| e.place.as_ref() == Some(&wanted)) {
            let by = format!("port '{}'", entry.config.name);
            return Err(Refusal::SocketInUse { path: path.to_owned(), by });
        }
        check::socket(path, client).or_else(|why| match why {
            Refusal::SocketInUse { .. } if leaving.contains(&wanted) => Ok(PathBuf::from(path)),
            why => Err(why),
        })
    }

    pub(super) fn check_port(&self, new: &NewPort) -> Result<PortConfig, Refusal> {
        self.check_new_port(new, &HashSet::new())
    }

    /// Judges a new port; in `leaving` are the sockets of ports that go in the same change.
    pub(super) fn check_new_port(
        &self,
        new: &NewPort,
        leaving: &HashSet<PathBuf>,
    ) -> Result<PortConfig, Refusal> {
        let guest_only = |given: bool, setting| {
            let valid = "only guest ports (--socket) have it";
            if given { Err(Refusal::NotApplicable { setting, kind: PortKind::Host, valid }) } else { Ok(()) }
        };
        let device = match (&new.socket, &new.tap) {
            (Some(socket), None) => {
                self.check_room(&new.name, PortKind::Guest)?;
                let queues = check::range("queues", new.queues.unwrap_or(1), 1, 8, "")? as u8;
                let mtu =
                    check::range("mtu", new.mtu.unwrap_or(DEFAULT_MTU.into()), 68, 9000, "bytes")? as u16;
                let socket = self.check_socket(socket, new.client, leaving)?;
                let device =
                    Device::Guest { socket, client: new.client, queues, mtu, features: new.features.clone() };
                device.feature_bits().map_err(bad_features)?;
                device
            }
            (None, Some(interface)) => {
                self.check_room(&new.name, PortKind::Host)?;
                guest_only(new.client, "client")?;
                guest_only(new.queues.is_some(), "queues")?;
                guest_only(new.mtu.is_some(), "mtu")?;
                guest_only(new.features.is_some(), "features")?;
                check::interface_name(interface)?;
                self.check_interface_free(interface)?;
                Device::Host { interface: interface.clone() }
            }
            (given, _) => {
                check::name(&new.name)?;
                let valid = "--socket PATH (guest port) or --tap IFNAME (host port)".into();
                return Err(if given.is_some() {
                    Refusal::BadValue { setting: "port".into(), value: "socket and tap".into(), valid }
                } else {
                    Refusal::Missing { what: "socket or tap".into(), valid }
                });
            }
        };
        let (mac, mac_kind) = self.check_mac(new.mac.as_deref())?;
        let policy = changed(&Policy::default(), &new.policy, device.kind())?;
        self.check_private_vlans(&new.name, &policy.vlan)?;
        let id = self.free_id()?;
        Ok(PortConfig {
            id,
            name: new.name.clone(),
            mac,
            mac_kind,
            device,
            policy,
            metering: None,
            epoch: 0,
            carried: Carried::default(),
            extensions: BTreeMap::new(),
            acl: Arc::default(),
            rules: Arc::default(),
        })
    }

    pub(super) fn check_uplink(&self, new: &NewUplink) -> Result<PortConfig, Refusal> {
        self.check_room(&new.name, PortKind::Uplink)?;
        if let Some(existing) = self.names(true).pop() {
            return Err(Refusal::SecondUplink { existing });
        }
        let driver = check::driver(new.driver.as_deref())?;
        check::interface_name(&new.device)?;
        self.check_interface_free(&new.device)?;
        let mac = check::ethernet(&new.device, &host::interfaces())?;
        let device = Device::Uplink { interface: new.device.clone(), driver };
        let id = self.free_id()?;
        let mac_kind = MacKind::Interface;
        Ok(PortConfig {
            id,
            name: new.name.clone(),
            mac,
            mac_kind,
            device,
            policy: Policy::default(),
            metering: None,
            epoch: 0,
            carried: Carried::default(),
            extensions: BTreeMap::new(),
            acl: Arc::default(),
            rules: Arc::default(),
        })
    }

    /// The next free number after the last one given, so that a number is not used again at once.
    pub(super) fn free_id(&self) -> Result<PortId, Refusal> {
        let taken: HashSet<u16> = self.ports.values().map(|e| e.config.id.0).collect();
        let limit = MAX_PORTS as u16;
        (0..limit)
            .map(|step| (self.last_id % limit + step) % limit + 1)
            .find(|id| !taken.contains(id))
            .map(PortId)
            .ok_or(Refusal::TooManyPorts { limit: MAX_PORTS })
    }

    /// That a VLAN mode uses private VLANs as all other ports but `name` do: a secondary VLAN has one primary VLAN and one
    /// kind, and a primary VLAN is nobody's secondary. Otherwise ports would reach others that they must not reach.
    pub(super) fn check_private_vlans(&self, name: &str, vlan: &Vlan) -> Result<(), Refusal> {
        let others = self.ports.values().filter(|e| e.config.name != name);
        consistent(vlan, others.map(|e| (e.config.name.as_str(), &e.config.policy.vlan)))
    }

    /// That the ports there are fit a switch of this kind.
    pub(super) fn check_kind(&self, kind: SwitchKind) -> Result<(), Refusal> {
        let contradicts = |port: PortKind| match kind {
            SwitchKind::External => false,
            SwitchKind::Internal => port == PortKind::Uplink,
            SwitchKind::Private => port != PortKind::Guest,
        };
        let found = self.ports.values().filter(|e| contradicts(e.config.device.kind()));
        let ports: Vec<_> =
            found.map(|e| format!("{} '{}'", view::port_noun(&e.config.device), e.config.name)).collect();
        if ports.is_empty() { Ok(()) } else { Err(Refusal::KindContradicts { kind, ports }) }
    }
}

/// The policy of a port of this kind after a change, judged alone; [`Switch::check_private_vlans`] judges it together with
/// other ports.
pub(super) fn changed(old: &Policy, change: &PolicyChange, kind: PortKind) -> Result<Policy, Refusal> {
    applicable(change, kind)?;
    let default = Policy::default();
    let mut new = old.clone();
    if let Some(vlan) = &change.vlan {
        new.vlan = vlan.as_deref().map_or(Ok(default.vlan), |text| text.parse().map_err(Refusal::BadVlan))?;
    }
    if let Some(vsid) = change.vsid {
        let vsid = vsid.map(|id| check::range("vsid", id, 4096, check::VSID_MAX, "")).transpose()?;
        new.vsid = vsid.map(|id| id as u32);
    }
    if let Some(vm) = &change.vm {
        if let Some(name) = vm {
            check::name(name).map_err(|_| Refusal::BadVmName { value: name.clone() })?;
        }
        new.vm.clone_from(vm);
    }
    if let Some(addresses) = &change.addresses {
        new.addresses = addresses.as_deref().map_or(Ok(None), owned_addresses)?;
    }
    if let Some(limit) = change.address_limit {
        let limit = limit.unwrap_or(default.address_limit.into());
        new.address_limit = check::range("address-limit", limit, 0, 1024, "addresses")? as u32;
    }
    if let Some(limit) = change.storm_limit {
        let limit = limit.unwrap_or(default.storm_limit.into());
        new.storm_limit = check::range("storm-limit", limit, 0, u32::MAX.into(), "frames per second")? as u32;
    }
    if let Some(names) = &change.require_extension {
        new.require_extension = required(names.as_deref().unwrap_or_default())?;
    }
    if let Some(mirror) = &change.mirror {
        new.mirror = mirror.as_deref().map_or(Ok(default.mirror), mirror_mode)?;
    }
    let set = |to: &mut bool, change: Option<Option<bool>>, default| {
        *to = change.map_or(*to, |c| c.unwrap_or(default));
    };
    set(&mut new.mac_spoofing, change.mac_spoofing, default.mac_spoofing);
    set(&mut new.teaming, change.teaming, default.teaming);
    set(&mut new.dhcp_guard, change.dhcp_guard, default.dhcp_guard);
    set(&mut new.router_guard, change.router_guard, default.router_guard);
    set(&mut new.priority_tag, change.priority_tag, default.priority_tag);
    new.link = change.link.map_or(new.link, |link| link.unwrap_or(default.link));
    together(&new, kind)?;
    Ok(new)
}

/// That a port of this kind has the settings that a change is about.
fn applicable(change: &PolicyChange, kind: PortKind) -> Result<(), Refusal> {
    let guest_only = [
        ("mac-spoofing", change.mac_spoofing.is_some()),
        ("vm", change.vm.is_some()),
        ("teaming", change.teaming.is_some()),
    ];
    let not_uplink = [
        ("vlan", change.vlan.is_some()),
        ("vsid", change.vsid.is_some()),
        ("dhcp-guard", change.dhcp_guard.is_some()),
        ("router-guard", change.router_guard.is_some()),
        ("addresses", change.addresses.is_some()),
        ("address-limit", change.address_limit.is_some()),
        ("storm-limit", change.storm_limit.is_some()),
        ("require-extension", change.require_extension.is_some()),
        ("priority-tag", change.priority_tag.is_some()),
    ];
    let given = |list: &[(&'static str, bool)]| list.iter().find(|(_, given)| *given).map(|(name, _)| *name);
    let refuse = |setting, valid| Err(Refusal::NotApplicable { setting, kind, valid });
    match (kind, given(&guest_only), given(&not_uplink)) {
        (PortKind::Host | PortKind::Uplink, Some(setting), _) => refuse(setting, "only guest ports have it"),
        (PortKind::Uplink, _, Some("vlan")) => {
            refuse("vlan", "set it on ports; an uplink carries every VLAN")
        }
        (PortKind::Uplink, _, Some(setting)) => refuse(setting, "only guest ports and host ports have it"),
        _ => Ok(()),
    }
}

/// That the settings of a policy do not exclude each other.
pub(super) fn together(policy: &Policy, kind: PortKind) -> Result<(), Refusal> {
    if let Some(vsid) = policy.vsid
        && policy.vlan != Vlan::None
    {
        return Err(Refusal::VsidWithVlan { vsid, vlan: policy.vlan.to_string() });
    }
    if policy.teaming && policy.vm.is_none() {
        return Err(Refusal::TeamingWithoutVm);
    }
    if kind == PortKind::Uplink && policy.mirror == Mirror::Destination {
        return Err(Refusal::MirrorUplink);
    }
    Ok(())
}

/// The settings in which two policies differ, as `name=value`.
pub(super) fn differences(old: &Policy, new: &Policy) -> Vec<String> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return Vec::new();
    };
    let shown = |value: &Value| match value {
        Value::Null => "default".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            items.iter().map(|i| i.as_str().unwrap_or_default()).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    let changed = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
    changed.map(|(key, value)| format!("{key}={}", shown(value))).collect()
}

fn owned_addresses(texts: &[String]) -> Result<Option<Arc<[IpNet]>>, Refusal> {
    if texts == ["any"] {
        return Ok(None);
    }
    if texts.is_empty() {
        let what = "an address".into();
        return Err(Refusal::Missing { what, valid: "one address or more, or any".into() });
    }
    if texts.len() > ADDRESSES {
        let what = "owned addresses";
        return Err(Refusal::TooManyEntries { what, count: texts.len(), limit: ADDRESSES });
    }
    let mut list = texts.iter().map(|text| check::prefix(text)).collect::<Result<Vec<_>, _>>()?;
    list.sort_unstable();
    list.dedup();
    Ok(Some(list.into()))
}

/// Names of extensions, each once; whether they are there is another question.
fn required(names: &[String]) -> Result<Vec<String>, Refusal> {
    if names.len() > MOST_ENABLED {
        let what = "required extensions";
        return Err(Refusal::TooManyEntries { what, count: names.len(), limit: MOST_ENABLED });
    }
    names.iter().try_for_each(|name| check::name(name))?;
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn mirror_mode(text: &str) -> Result<Mirror, Refusal> {
    match text {
        "none" => Ok(Mirror::None),
        "source" => Ok(Mirror::Source),
        "destination" => Ok(Mirror::Destination),
        other => Err(Refusal::BadMirror { value: other.into() }),
    }
}

/// In what role a policy uses secondary VLANs: each of them with its primary VLAN and, where the mode says it, its kind.
fn secondaries(vlan: &Vlan) -> Vec<(u16, u16, Option<&'static str>)> {
    let kind = match vlan {
        Vlan::Isolated { .. } => Some("isolated"),
        Vlan::Community { .. } => Some("a community"),
        _ => None,
    };
    let private = vlan.private().into_iter();
    private.flat_map(|(primary, list)| list.into_iter().map(move |id| (id, primary, kind))).collect()
}

/// That private VLANs are used consistently by `vlan` and each of `others`.
fn consistent<'a>(vlan: &Vlan, others: impl Iterator<Item = (&'a str, &'a Vlan)>) -> Result<(), Refusal> {
    let Some((primary, _)) = vlan.private() else { return Ok(()) };
    let mine = secondaries(vlan);
    for (port, other) in others {
        let Some((their_primary, _)) = other.private() else { continue };
        let conflict = |secondary, here: String, there: String| {
            let (here, there) = (here.into(), there.into());
            Err(Refusal::PrivateVlanConflict { secondary, here, there, port: port.to_owned() })
        };
        for (id, its_primary, its_kind) in secondaries(other) {
            if id == primary {
                return conflict(id, "a primary VLAN".into(), format!("a secondary VLAN of {its_primary}"));
            }
            let Some((_, _, kind)) = mine.iter().find(|(own, ..)| *own == id) else { continue };
            if its_primary != primary {
                return conflict(
                    id,
                    format!("a secondary VLAN of {primary}"),
                    format!("one of {its_primary}"),
                );
            }
            if let (Some(here), Some(there)) = (kind, its_kind)
                && *here != there
            {
                return conflict(id, (*here).into(), there.into());
            }
        }
        if mine.iter().any(|(id, ..)| *id == their_primary) {
            let here = format!("a secondary VLAN of {primary}");
            return conflict(their_primary, here, "a primary VLAN".into());
        }
    }
    Ok(())
}

fn bad_features(reason: String) -> Refusal {
    let known = features::names(features::DEFAULT).into_iter().map(str::to_owned).collect();
    Refusal::BadFeatures { reason, known }
}
