//! A switch made equal to a document, and the document that describes a switch.
//!
//! A port stays what it is, with its counters and connections, as long as its device and address are those of the document; then
//! only policy and lists follow. Otherwise it is removed and added anew. List entries that stay keep their counts.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;
use vswitch::Tally;
use vswitch::port::PortKind;
use vswitch::refusal::{Object, Refusal, Refused};

use super::admit::changed;
use super::list::{Item, List};
use super::lists::judge;
use super::meter::{self, Metering};
use super::model::{Device, MacKind, PortConfig, Settings};
use super::tallies::Tallies;
use super::types::{Applied, Config, ConfigPort, ConfigUplink, Policy, PolicyChange, SwitchChange};
use super::{DEFAULT_MTU, Entry, Switch, acl, change, check, rule};

impl Switch {
    /// Makes the switch equal to `wanted`, or says what that would change. All of it or, when anything is refused, nothing.
    pub fn apply(&mut self, wanted: &Config, dry_run: bool) -> Result<Applied, Refused> {
        let result = self.plan(wanted).and_then(|draft| {
            let changes = self.differences(&draft);
            if !dry_run && !changes.is_empty() {
                let begun = |name: &String| {
                    let metered = |there: &Self| there.ports.get(name).map(|e| e.config.metering.is_some());
                    metered(&draft) != metered(self)
                };
                let zeroed: Vec<_> = draft.ports.keys().filter(|name| begun(name)).cloned().collect();
                self.adopt(draft)?;
                self.clear_meters(&zeroed);
            }
            Ok(Applied { dry_run, changes })
        });
        self.told(result)
    }

    /// The document that describes the switch: applying it changes nothing.
    pub fn save(&self) -> Config {
        let nv = self.nv_saved();
        let (switch, extension) = (settings(&self.settings), self.saved_extensions());
        let mut config = Config { switch, extension, nv, ..Config::default() };
        for port in self.configs() {
            let policy = policy(&port.policy);
            let mac = (port.mac_kind == MacKind::Static).then(|| port.mac.to_string());
            let acl: Vec<_> = match &port.metering {
                Some(Metering { defaults: true, .. }) if meter::is_default(&port.acl) => Vec::new(),
                _ => port.acl.items().map(acl::spec).collect(),
            };
            let mut new = ConfigPort {
                name: port.name.clone(),
                mac,
                policy,
                metering: port.metering.is_some(),
                acl,
                rule: port.rules.items().map(rule::spec).collect(),
                extension: port.extensions.clone(),
                ..ConfigPort::default()
            };
            match &port.device {
                Device::Guest { socket, client, queues, mtu, features } => {
                    new.socket = Some(socket.to_string_lossy().into_owned());
                    new.client = *client;
                    new.queues = Some(u64::from(*queues)).filter(|queues| *queues != 1);
                    new.mtu = Some(u64::from(*mtu)).filter(|mtu| *mtu != u64::from(DEFAULT_MTU));
                    new.features.clone_from(features);
                }
                Device::Host { interface } => new.tap = Some(interface.clone()),
                Device::Uplink { interface, driver } => {
                    let (name, policy) = (new.name, new.policy);
                    config.uplink.push(ConfigUplink {
                        name,
                        device: interface.clone(),
                        driver: (!driver.is_usual()).then(|| driver.name().to_owned()),
                        policy,
                    });
                    continue;
                }
            }
            config.port.push(new);
        }
        config
    }

    /// The switch as it would be.
    fn plan(&self, wanted: &Config) -> Result<Self, Refused> {
        let switch = |why: Refusal| why.of(Object::Switch);
        if self.data.is_none() {
            return Err(switch(Refusal::Stopping));
        }
        unique(wanted)?;
        let mut draft = self.draft();
        let extensions = std::mem::take(&mut draft.settings.extensions);
        draft.settings = Settings::default().changed(&wanted.switch).map_err(switch)?;
        draft.settings.extensions = extensions;
        draft.plan_extensions(&wanted.extension)?;
        let stays_uplink = |new: &&ConfigUplink| {
            self.ports.get(&new.name).is_some_and(|entry| same_uplink(&entry.config, new))
        };
        let stays =
            |new: &&ConfigPort| self.ports.get(&new.name).is_some_and(|entry| same_port(&entry.config, new));
        let kept: HashSet<_> =
            wanted.uplink.iter().filter(stays_uplink).map(|new| new.name.clone()).collect();
        let kept: HashSet<_> =
            wanted.port.iter().filter(stays).map(|new| new.name.clone()).chain(kept).collect();
        draft.ports.retain(|name, _| kept.contains(name));
        draft.check_kind(draft.settings.kind).map_err(switch)?;
        let leaving: HashSet<_> = self
            .ports
            .iter()
            .filter(|(name, _)| !kept.contains(*name))
            .filter_map(|(_, e)| e.place.clone())
            .collect();

        for new in &wanted.uplink {
            draft.plan_uplink(new).map_err(|why| why.of(Object::Uplink(new.name.clone())))?;
        }
        // Addresses that are given are taken before any is drawn.
        let (given, drawn): (Vec<_>, Vec<_>) = wanted.port.iter().partition(|new| new.mac.is_some());
        for new in given.into_iter().chain(drawn) {
            draft.plan_port(new, &leaving)?;
        }
        for config in draft.configs() {
            draft
                .check_private_vlans(&config.name, &config.policy.vlan)
                .map_err(|why| why.of(change::object(config)))?;
        }
        draft.nv_plan(&wanted.nv)?;
        Ok(draft)
    }

    fn plan_uplink(&mut self, new: &ConfigUplink) -> Result<(), Refusal> {
        let config = match self.ports.get(&new.name) {
            Some(entry) => entry.config.clone(),
            None => self.check_uplink(&new.uplink())?,
        };
        let policy = changed(&Policy::default(), &new.policy, PortKind::Uplink)?;
        self.put(PortConfig { policy, ..config });
        Ok(())
    }

    fn plan_port(&mut self, new: &ConfigPort, leaving: &HashSet<std::path::PathBuf>) -> Result<(), Refused> {
        let port = |why: Refusal| why.of(Object::Port(new.name.clone()));
        let mut config = match self.ports.get(&new.name) {
            Some(entry) => {
                let policy = changed(&Policy::default(), &new.policy, entry.config.device.kind());
                let mac_kind = if new.mac.is_some() { MacKind::Static } else { MacKind::Dynamic };
                PortConfig { policy: policy.map_err(port)?, mac_kind, ..entry.config.clone() }
            }
            None => self.check_new_port(&new.port(), leaving).map_err(port)?,
        };
        let rules = judge(&new.name, "rule", &new.rule, rule::rule)?;
        config.rules = merged(&config.rules, rules, &mut self.tallies).map_err(port)?;
        let mut entries: Vec<_> =
            judge(&new.name, "ACL entry", &new.acl, acl::entries)?.into_iter().flatten().collect();
        match (&config.metering, new.metering) {
            (Some(Metering { defaults: true, .. }), true) if entries.is_empty() => {
                entries = meter::default_meters();
            }
            (_, false) => config.metering = None,
            _ => {}
        }
        config.acl = merged(&config.acl, entries, &mut self.tallies).map_err(port)?;
        if new.metering && config.metering.is_none() {
            meter::enable(&mut config, &mut self.tallies).map_err(port)?;
        }
        self.put(config);
        self.plan_settings(&new.name, &new.extension).map_err(port)
    }

    /// Puts a planned port in its place.
    fn put(&mut self, config: PortConfig) {
        if let Some(entry) = self.ports.get_mut(&config.name) {
            entry.config = config;
        } else {
            self.last_id = config.id.0;
            self.ports.insert(config.name.clone(), Entry::new(config));
        }
    }
}

/// That no name is there twice.
fn unique(wanted: &Config) -> Result<(), Refused> {
    let mut names = HashSet::new();
    for new in &wanted.uplink {
        if !names.insert(new.name.as_str()) {
            return Err(
                Refusal::DuplicateName { kind: PortKind::Uplink }.of(Object::Uplink(new.name.clone()))
            );
        }
    }
    for new in &wanted.port {
        if !names.insert(new.name.as_str()) {
            let uplink = wanted.uplink.iter().any(|uplink| uplink.name == new.name);
            let kind = match &new.tap {
                _ if uplink => PortKind::Uplink,
                Some(_) => PortKind::Host,
                None => PortKind::Guest,
            };
            return Err(Refusal::DuplicateName { kind }.of(Object::Port(new.name.clone())));
        }
    }
    Ok(())
}

fn same_uplink(config: &PortConfig, new: &ConfigUplink) -> bool {
    let wanted = check::driver(new.driver.as_deref());
    matches!(&config.device, Device::Uplink { interface, driver }
        if *interface == new.device && wanted.is_ok_and(|wanted| wanted == *driver))
}

/// Whether a port has the device and address that a document wants.
fn same_port(config: &PortConfig, new: &ConfigPort) -> bool {
    let mac = match &new.mac {
        Some(text) => check::mac(text).is_ok_and(|mac| mac == config.mac),
        None => config.mac_kind == MacKind::Dynamic,
    };
    mac && match &config.device {
        Device::Guest { socket, client, queues, mtu, features } => {
            new.tap.is_none()
                && new.socket.as_deref().is_some_and(|wanted| **socket == *wanted)
                && *client == new.client
                && u64::from(*queues) == new.queues.unwrap_or(1)
                && u64::from(*mtu) == new.mtu.unwrap_or(DEFAULT_MTU.into())
                && *features == new.features
        }
        Device::Host { interface } => {
            new.socket.is_none()
                && !new.client
                && new.queues.is_none()
                && new.mtu.is_none()
                && new.features.is_none()
                && new.tap.as_ref() == Some(interface)
        }
        Device::Uplink { .. } => false,
    }
}

/// The list of `wanted` items: those that `old` has keep their tallies, the others get one; the old list itself if it is that.
fn merged<I: Item>(
    old: &Arc<List<I>>,
    wanted: Vec<I>,
    tallies: &mut Tallies,
) -> Result<Arc<List<I>>, Refusal> {
    let (mut kept, mut new) = (Vec::new(), Vec::new());
    for mut item in wanted {
        match old.get(&item.key()).filter(|there| same(*there, &item)) {
            Some(there) => {
                item.count_on(there.tally());
                kept.push(item);
            }
            None => new.push(item),
        }
    }
    tallies.give(&mut new)?;
    kept.append(&mut new);
    let list = List::new(kept)?;
    Ok(if list == **old { Arc::clone(old) } else { Arc::new(list) })
}

/// Whether two items differ at most in where they are counted.
fn same<I: Item>(there: &I, wanted: &I) -> bool {
    let mut there = there.clone();
    there.count_on(Tally::NONE);
    there == *wanted
}

/// What makes default settings into these.
fn settings(settings: &Settings) -> SwitchChange {
    let default = Settings::default();
    SwitchChange {
        kind: (settings.kind != default.kind).then_some(Some(settings.kind)),
        fdb_size: (settings.fdb_size != default.fdb_size).then_some(Some(settings.fdb_size.into())),
        nv: (settings.nv != default.nv).then_some(Some(settings.nv)),
        rx_wait_us: (settings.rx_wait_us != default.rx_wait_us).then_some(Some(settings.rx_wait_us.into())),
    }
}

/// What makes a default policy into this one. Both are written alike, so a key that is added needs no word here.
fn policy(policy: &Policy) -> PolicyChange {
    let (Ok(Value::Object(mut keys)), Ok(default)) =
        (serde_json::to_value(policy), serde_json::to_value(Policy::default()))
    else {
        return PolicyChange::default();
    };
    keys.retain(|key, value| default.get(key) != Some(value));
    serde_json::from_value(Value::Object(keys)).unwrap_or_default()
}
