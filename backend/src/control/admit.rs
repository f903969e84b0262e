//! The first phase of a change: everything about it is judged against what exists. Changes nothing.

use std::path::{Path, PathBuf};

use vswitch::port::PortKind;
use vswitch::refusal::Refusal;
use vswitch::snapshot::SwitchKind;
use vswitch::{Mac, PortId};

use super::model::{Device, MAX_PORTS, MacKind, PortConfig};
use super::types::{LinkState, NewPort, NewUplink, Policy, PolicyChange};
use super::{DEFAULT_MTU, Entry, Switch, check, host, view};
use crate::guest::features;

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

    pub(super) fn check_socket(&self, path: &str, client: bool) -> Result<PathBuf, Refusal> {
        // Which port has a path is said before who listens there, because that is this process itself.
        let wanted = check::same_place(Path::new(path));
        for Entry { config, .. } in self.ports.values() {
            if matches!(&config.device, Device::Guest { socket, .. } if check::same_place(socket) == wanted) {
                let by = format!("port '{}'", config.name);
                return Err(Refusal::SocketInUse { path: path.to_owned(), by });
            }
        }
        check::socket(path, client)
    }

    pub(super) fn check_port(&self, new: &NewPort) -> Result<PortConfig, Refusal> {
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
                let socket = self.check_socket(socket, new.client)?;
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
        let (policy, _) = changed(&Policy::default(), &new.policy, device.kind())?;
        let id = self.free_id()?;
        Ok(PortConfig { id, name: new.name.clone(), mac, mac_kind, device, policy })
    }

    pub(super) fn check_uplink(&self, new: &NewUplink) -> Result<PortConfig, Refusal> {
        self.check_room(&new.name, PortKind::Uplink)?;
        if let Some(existing) = self.names(true).pop() {
            return Err(Refusal::SecondUplink { existing });
        }
        if let Some(driver) = new.driver.as_deref().filter(|d| *d != "packet") {
            let valid = "packet".into();
            return Err(Refusal::BadValue { setting: "driver".into(), value: driver.to_owned(), valid });
        }
        check::interface_name(&new.device)?;
        self.check_interface_free(&new.device)?;
        let mac = check::ethernet(&new.device, &host::interfaces())?;
        let device = Device::Uplink { interface: new.device.clone() };
        let id = self.free_id()?;
        let mac_kind = MacKind::Interface;
        Ok(PortConfig { id, name: new.name.clone(), mac, mac_kind, device, policy: Policy::default() })
    }

    /// The next free number after the last one given, so that a number is not used again at once.
    pub(super) fn free_id(&self) -> Result<PortId, Refusal> {
        let taken: std::collections::HashSet<u16> = self.ports.values().map(|e| e.config.id.0).collect();
        let limit = MAX_PORTS as u16;
        (0..limit)
            .map(|step| (self.last_id % limit + step) % limit + 1)
            .find(|id| !taken.contains(id))
            .map(PortId)
            .ok_or(Refusal::TooManyPorts { limit: MAX_PORTS })
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

/// The policy after a change, and what differs as `name=value`.
pub(super) fn changed(
    old: &Policy,
    change: &PolicyChange,
    kind: PortKind,
) -> Result<(Policy, Vec<String>), Refusal> {
    let default = Policy::default();
    let mut new = old.clone();
    let mut changes = Vec::new();
    if let Some(spoofing) = change.mac_spoofing {
        if kind != PortKind::Guest {
            let valid = "only guest ports have it";
            return Err(Refusal::NotApplicable { setting: "mac-spoofing", kind, valid });
        }
        new.mac_spoofing = spoofing.unwrap_or(default.mac_spoofing);
        if new.mac_spoofing != old.mac_spoofing {
            changes.push(format!("mac_spoofing={}", new.mac_spoofing));
        }
    }
    if let Some(link) = change.link {
        new.link = link.unwrap_or(default.link);
        if new.link != old.link {
            changes.push(format!("link={}", if new.link == LinkState::Up { "up" } else { "down" }));
        }
    }
    Ok((new, changes))
}

fn bad_features(reason: String) -> Refusal {
    let known = features::names(features::DEFAULT).into_iter().map(str::to_owned).collect();
    Refusal::BadFeatures { reason, known }
}
