//! Changes of many ports as one: prepared on a draft of the switch, then adopted as a whole or not at all.
//!
//! A draft has the switch's ports and settings and nothing behind them, so that preparing it changes nothing. Adopting it lets go of
//! the ports that are gone, publishes one snapshot, serves the new ports, and ends with one transaction of the store. What fails
//! on the way is undone; guests of ports that had to be let go of then lose their connection and make it again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::mem;

use serde::Serialize;
use serde_json::Value;
use vswitch::Tally;
use vswitch::event::Event;
use vswitch::refusal::{Object, Refusal, Refused};

use super::compile::{serve, system};
use super::extension::document;
use super::list::{self, Item, List};
use super::model::{Device, MacKind, PortConfig, Settings};
use super::nv::document as nv_document;
use super::nv::object::Change;
use super::types::Difference;
use super::{Switch, acl, admit, rule, view};
use crate::spec::EventSink;
use crate::store::Store;

impl Switch {
    /// A copy to prepare a change on. It has no data path and no store.
    pub(super) fn draft(&self) -> Self {
        Self {
            host: self.host.clone(),
            settings: self.settings.clone(),
            ports: self.ports.clone(),
            last_id: self.last_id,
            epoch: self.epoch,
            tallies: self.tallies.clone(),
            data: None,
            store: Store::none(),
            events: self.events.clone(),
            nv: self.nv.clone(),
            extensions: self.extensions.clone(),
            policy: None,
            records: self.records.clone(),
            fleet_key: None,
            kept: super::handover::Kept::default(),
        }
    }

    /// Becomes what a draft of it has become. A port is the same one if name and number are.
    pub(super) fn adopt(&mut self, draft: Self) -> Result<(), Refused> {
        let switch = |why: Refusal| why.of(Object::Switch);
        self.make_room(draft.all_tallies()).map_err(switch)?;
        let data = self.data.as_ref().ok_or(Refusal::Stopping).map_err(switch)?;
        let is_in = |there: &Self, config: &PortConfig| {
            there.ports.get(&config.name).is_some_and(|entry| entry.config.id == config.id)
        };
        let provisional = self.ports.values().filter(|entry| entry.arrival.is_some());
        if let Some(entry) = provisional
            .into_iter()
            .find(|e| draft.ports.get(&e.config.name).is_some_and(|planned| planned.config != e.config))
        {
            return Err(Refusal::StateArrived.of(object(&entry.config)));
        }
        let gone: Vec<_> = self.configs().filter(|config| !is_in(&draft, config)).cloned().collect();
        let fresh: Vec<_> = draft.configs().filter(|config| !is_in(self, config)).cloned().collect();

        let agreed = self.ask_draft(&draft, &gone, &fresh)?;
        for config in &gone {
            self.kept.forget(config.id);
        }
        data.remove_all(&gone.iter().map(|config| config.id).collect::<Vec<_>>());
        for config in &fresh {
            self.events.name_port(config.id, &config.name);
        }
        let mut draft = draft;
        let planned = mem::take(&mut draft.nv.planned);
        let old = self.exchange(draft);
        self.publish();
        if let Err(refused) = self.serve_and_store(&fresh, &old, &planned) {
            self.exchange(old);
            agreed.undo();
            self.publish();
            self.serve_again(&gone);
            for config in &fresh {
                self.events.forget_port(config.id);
            }
            for config in &gone {
                self.events.name_port(config.id, &config.name);
            }
            return Err(refused);
        }
        if !planned.is_empty() {
            self.nv_apply(&planned);
        }
        agreed.done();
        self.conclude(&old, &gone, &fresh);
        self.tell(&old, &gone, &fresh);
        let used: HashSet<_> = self.all_tallies().collect();
        let unused: Vec<_> = old.all_tallies().filter(|tally| !used.contains(tally)).collect();
        self.release(unused.into_iter());
        self.follow_devices();
        self.follow_cards();
        Ok(())
    }

    /// Where anything is counted.
    pub(super) fn all_tallies(&self) -> impl Iterator<Item = Tally> + '_ {
        self.configs().flat_map(PortConfig::tallies).chain(self.settings.extensions.tallies())
    }

    pub(super) fn configs(&self) -> impl Iterator<Item = &PortConfig> {
        self.ports.values().map(|entry| &entry.config)
    }

    /// Takes over what another switch has of policy, and gives it its own.
    fn exchange(&mut self, mut other: Self) -> Self {
        mem::swap(&mut self.settings, &mut other.settings);
        mem::swap(&mut self.ports, &mut other.ports);
        mem::swap(&mut self.tallies, &mut other.tallies);
        mem::swap(&mut self.last_id, &mut other.last_id);
        mem::swap(&mut self.extensions, &mut other.extensions);
        mem::swap(&mut self.nv.objects, &mut other.nv.objects);
        self.nv.touch();
        other
    }

    /// Serves new ports and stores everything; whatever fails, none of them is served afterwards.
    fn serve_and_store(&self, fresh: &[PortConfig], old: &Self, nv: &[Change]) -> Result<(), Refused> {
        let Some(data) = &self.data else { return Ok(()) };
        for config in fresh {
            data.clear_counters(config.id);
        }
        let offer = self.nv_offered();
        let offered: Vec<_> = fresh.iter().map(|config| offer.of(config)).collect();
        let ports: Vec<_> = offered.iter().map(|c| (&**c, c.device.feature_bits().unwrap_or(0))).collect();
        data.add_all(&ports)
            .map_err(|(place, e)| system(&e).of(fresh.get(place).map_or(Object::Switch, object)))?;
        let store = || {
            let mut pairs: Vec<_> =
                self.configs().map(|new| (old.ports.get(&new.name).map(|e| &e.config), Some(new))).collect();
            pairs.retain(|(old, new)| old != new);
            let gone = old.configs().filter(|config| !self.ports.contains_key(&config.name));
            pairs.extend(gone.map(|config| (Some(config), None)));
            let settings = (self.settings != old.settings).then_some(&self.settings);
            if settings.is_none() && pairs.is_empty() && nv.is_empty() {
                return Ok(());
            }
            self.store.put_all(settings, &pairs, nv).map_err(|why| why.of(Object::Switch))
        };
        store().inspect_err(|_| data.remove_all(&fresh.iter().map(|config| config.id).collect::<Vec<_>>()))
    }

    /// Serves ports that were let go of in vain. One that cannot be served now is tried again later.
    fn serve_again(&mut self, ports: &[PortConfig]) {
        let offer = self.nv_offered();
        let Some(data) = &self.data else { return };
        for config in ports {
            let fault = serve(&**data, &offer.of(config)).err().map(|e| e.to_string());
            if let Some(reason) = &fault {
                self.events.emit(Event::PortFailed { port: config.id, reason: reason.clone() });
            }
            if let Some(entry) = self.ports.get_mut(&config.name) {
                entry.fault = fault;
            }
        }
    }

    /// Tells operators who follow the events what became of the ports that `old` has.
    fn tell(&self, old: &Self, gone: &[PortConfig], fresh: &[PortConfig]) {
        for PortConfig { id, name, .. } in gone {
            self.events.emit(Event::PortRemoved { port: *id, name: name.clone() });
            // The number may have been given anew in the same change.
            if !fresh.iter().any(|config| config.id == *id) {
                self.events.forget_port(*id);
            }
        }
        for PortConfig { id, name, .. } in fresh {
            self.events.emit(Event::PortAdded { port: *id, name: name.clone() });
        }
        for new in self.configs() {
            let before = old.ports.get(&new.name).map(|entry| &entry.config);
            if let Some(before) = before.filter(|before| before.id == new.id && *before != new) {
                let lines = port_differences(before, new);
                let changes = if lines.len() > NAMED {
                    vec![format!("{} changes", lines.len())]
                } else {
                    lines.into_iter().map(|line| format!("{}{}", line.op, line.text)).collect()
                };
                self.events.emit(Event::PortChanged { port: new.id, changes });
            }
        }
        let changes = settings_differences(&old.settings, &self.settings);
        if !changes.is_empty() {
            self.events.emit(Event::SwitchChanged { changes });
        }
    }

    /// What adopting `draft` would change, in the order in which it is shown.
    pub(super) fn differences(&self, draft: &Self) -> Vec<Difference> {
        let mut lines = Vec::new();
        let settings = settings_differences(&self.settings, &draft.settings);
        if !settings.is_empty() {
            lines.push(line("~", "switch", options(&settings)));
        }
        lines.extend(document::differences(&self.settings.extensions, &draft.settings.extensions));
        for old in self.configs() {
            if draft.ports.get(&old.name).is_none_or(|entry| entry.config.id != old.id) {
                lines.push(line("-", &object(old).to_string(), String::new()));
            }
        }
        for new in draft.configs() {
            match self.ports.get(&new.name).map(|entry| &entry.config) {
                Some(old) if old.id == new.id => {
                    if old != new {
                        lines.extend(port_differences(old, new));
                    }
                }
                _ => lines.push(line("+", &object(new).to_string(), described(new))),
            }
        }
        lines.extend(nv_document::lines(&draft.nv.planned));
        lines
    }
}

/// List entries that an event names one by one.
const NAMED: usize = 8;

/// A port or uplink, for a refusal.
pub(super) fn object(config: &PortConfig) -> Object {
    match config.device {
        Device::Uplink { .. } => Object::Uplink(config.name.clone()),
        _ => Object::Port(config.name.clone()),
    }
}

fn line(op: &str, object: &str, text: String) -> Difference {
    Difference { op: op.to_owned(), object: object.to_owned(), text }
}

/// `name=value` as a file would have it.
fn options(changes: &[String]) -> String {
    let option = |change: &String| match change.split_once('=') {
        Some((name, value)) => format!("{} {value}", name.replace('_', "-")),
        None => change.clone(),
    };
    changes.iter().map(option).collect::<Vec<_>>().join(", ")
}

pub(super) fn settings_differences(old: &Settings, new: &Settings) -> Vec<String> {
    let mut changes = Vec::new();
    if old.kind != new.kind {
        changes.push(format!("kind={}", view::switch_kind(new.kind)));
    }
    if old.fdb_size != new.fdb_size {
        changes.push(format!("fdb_size={}", new.fdb_size));
    }
    if old.rx_wait_us != new.rx_wait_us {
        changes.push(format!("rx_wait_us={}", new.rx_wait_us));
    }
    if old.nv != new.nv {
        changes.push(format!("nv={}", if new.nv { "on" } else { "off" }));
    }
    changes
}

/// A new port in one line.
fn described(config: &PortConfig) -> String {
    let mut parts = match &config.device {
        Device::Guest { socket, .. } => vec![format!("socket {}", socket.to_string_lossy())],
        Device::Host { interface } => vec![format!("tap {interface}")],
        Device::Uplink { interface, driver } => {
            let mut parts = vec![format!("device {interface}")];
            parts.extend((!driver.is_usual()).then(|| format!("driver {}", driver.name())));
            parts
        }
    };
    if config.mac_kind != MacKind::Interface {
        parts.push(format!("mac {}", config.mac));
    }
    let policy = admit::differences(&super::types::Policy::default(), &config.policy);
    parts.extend(Some(options(&policy)).filter(|text| !text.is_empty()));
    if config.metering.is_some() {
        parts.push("metering".into());
    }
    let own = own_differences(&BTreeMap::new(), &config.extensions);
    parts.extend(Some(options(&own)).filter(|text| !text.is_empty()));
    for (count, noun) in [(config.acl.len(), "ACL"), (config.rules.len(), "rule")] {
        match (count, noun) {
            (0, _) => {}
            (n, "ACL") => parts.push(format!("{n} ACL {}", if n == 1 { "entry" } else { "entries" })),
            (1, _) => parts.push("1 rule".into()),
            (n, _) => parts.push(format!("{n} rules")),
        }
    }
    parts.join(", ")
}

/// What differs between two states of one port.
fn port_differences(old: &PortConfig, new: &PortConfig) -> Vec<Difference> {
    let name = object(new).to_string();
    let mut settings = admit::differences(&old.policy, &new.policy);
    if old.mac_kind != new.mac_kind {
        settings.push(format!("mac={} ({})", new.mac, new.mac_kind.word()));
    }
    if old.metering.is_some() != new.metering.is_some() {
        settings.push(format!("metering={}", new.metering.is_some()));
    } else if old.metering != new.metering {
        settings.push("metering=reset".into());
    }
    settings.extend(own_differences(&old.extensions, &new.extensions));
    let mut lines = Vec::new();
    if !settings.is_empty() {
        lines.push(line("~", &name, options(&settings)));
    }
    lines.extend(list_differences(&format!("{name} acl"), [&old.acl, &new.acl], acl::spec));
    lines.extend(list_differences(&format!("{name} rule"), [&old.rules, &new.rules], rule::spec));
    lines
}

/// The settings in which a port differs that are extensions' own.
fn own_differences(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Vec<String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let shown = |name: &String| match new.get(name) {
        Some(settings) => format!("extension.{name}={settings}"),
        None => format!("extension.{name}=none"),
    };
    names.into_iter().filter(|name| old.get(*name) != new.get(*name)).map(shown).collect()
}

fn list_differences<I: Item, S: Serialize>(
    object: &str,
    [old, new]: [&List<I>; 2],
    spec: impl Fn(&I) -> S,
) -> Vec<Difference> {
    let (gone, added) = list::differences(old, new);
    let gone = gone.into_iter().map(|item| line("-", object, words(&spec(item))));
    gone.chain(added.into_iter().map(|item| line("+", object, words(&spec(item))))).collect()
}

/// A list entry as a command would have it: `deny in remote 10.0.0.0/8`.
fn words(spec: &impl Serialize) -> String {
    let Ok(Value::Object(keys)) = serde_json::to_value(spec) else { return String::new() };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let first = ["action", "direction"];
    let head = first.iter().filter_map(|key| keys.get(*key)).map(text);
    let others = keys.iter().filter(|(key, _)| !first.contains(&key.as_str()));
    let others = others.map(|(key, value)| {
        let key = key.replace('_', "-");
        if *value == Value::Bool(true) { key } else { format!("{key} {}", text(value)) }
    });
    head.chain(others).collect::<Vec<_>>().join(" ")
}
