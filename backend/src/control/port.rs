//! One port, or the switch's settings, changed: asked about, published, served and stored, or as it was; and devices that change by themselves.

use vswitch::event::Event;
use vswitch::refusal::Refusal;

use super::admit::{changed, differences};
use super::change::settings_differences;
use super::compile::{serve, system};
use super::extension::steps;
use super::model::{MacKind, PortConfig};
use super::types::{PortChange, SwitchChange};
use super::{Entry, Switch, host};
use crate::spec::EventSink;

impl Switch {
    /// Applies a checked port: policy first, then its rings, then the store.
    pub(super) fn add(&mut self, config: PortConfig) -> Result<(), Refusal> {
        if self.data.is_none() {
            return Err(Refusal::Stopping);
        }
        let (id, name) = (config.id, config.name.clone());
        let entry = Entry::new(config);
        let agreed = self.ask(|| steps::created(&entry.config, entry.mtu))?;
        self.events.name_port(id, &name);
        self.ports.insert(name.clone(), entry);
        self.publish();
        if let Err(why) = self.serve_and_keep(&name) {
            self.ports.remove(&name);
            agreed.undo();
            self.publish();
            self.events.forget_port(id);
            return Err(why);
        }
        agreed.done();
        self.last_id = id.0;
        self.events.emit(Event::PortAdded { port: id, name });
        self.follow_devices();
        self.follow_cards();
        self.nv_interest();
        Ok(())
    }

    fn serve_and_keep(&self, name: &str) -> Result<(), Refusal> {
        let data = self.data.as_ref().ok_or(Refusal::Stopping)?;
        let config = &self.entry(name)?.config;
        data.clear_counters(config.id);
        serve(&**data, &self.nv_offered().of(config)).map_err(|e| system(&e))?;
        self.store.put(None, &[(None, Some(config))]).inspect_err(|_| data.remove(config.id))
    }

    /// Takes a port away: forgotten by the store, let go by the data path, then unpublished.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), Refusal> {
        let data = self.data.as_ref().ok_or(Refusal::Stopping)?;
        let entry = self.entry(name)?;
        let (config, connected) = (entry.config.clone(), entry.connected.is_some());
        let id = config.id;
        self.store.put(None, &[(Some(&config), None)])?;
        self.kept.forget(id);
        data.remove(id);
        self.ports.remove(name);
        self.publish();
        self.nv_coming();
        self.port_gone(&config, connected);
        self.release(config.tallies());
        self.events.emit(Event::PortRemoved { port: id, name: name.to_owned() });
        self.events.forget_port(id);
        Ok(())
    }

    pub(super) fn change_port(&mut self, name: &str, change: &PortChange) -> Result<(), Refusal> {
        if self.data.is_none() {
            return Err(Refusal::Stopping);
        }
        let old = self.entry(name)?.config.clone();
        let policy = changed(&old.policy, &change.policy, old.device.kind())?;
        self.check_private_vlans(name, &policy.vlan)?;
        let changes = differences(&old.policy, &policy);
        if changes.is_empty() {
            return Ok(());
        }
        let port = old.id;
        self.replace(&PortConfig { policy, ..old })?;
        self.events.emit(Event::PortChanged { port, changes });
        Ok(())
    }

    /// Puts a checked configuration in the place of the one with its name, which is returned.
    ///
    /// It is published before it is stored, so that a change is in force as soon as workers can follow, whatever the
    /// disk takes; the command returns after both. If it cannot be stored, the old one is published again.
    pub(super) fn replace(&mut self, new: &PortConfig) -> Result<PortConfig, Refusal> {
        let entry = self.entry(&new.name)?;
        // It is provisional: it may have to become again what it was before the state arrived.
        if entry.arrival.is_some() {
            return Err(Refusal::StateArrived);
        }
        let old = entry.config.clone();
        let agreed = self.ask(|| steps::changed(&old, new))?;
        self.put_entry(new.clone());
        self.publish();
        if let Err(why) = self.store.put(None, &[(Some(&old), Some(new))]) {
            self.put_entry(old);
            agreed.undo();
            self.publish();
            return Err(why);
        }
        agreed.done();
        self.nv_coming();
        Ok(old)
    }

    /// Gives the port of this name this configuration.
    pub(super) fn put_entry(&mut self, config: PortConfig) {
        if let Some(entry) = self.ports.get_mut(&config.name) {
            entry.config = config;
        }
    }

    pub(super) fn change_switch(&mut self, change: &SwitchChange) -> Result<(), Refusal> {
        if self.data.is_none() {
            return Err(Refusal::Stopping);
        }
        let new = self.settings.changed(change)?;
        self.check_kind(new.kind)?;
        let changes = settings_differences(&self.settings, &new);
        if changes.is_empty() {
            return Ok(());
        }
        let agreed = self.ask(|| steps::switch(&self.settings, &new))?;
        if let Err(why) = self.store.put(Some(&new), &[]) {
            agreed.undo();
            return Err(why);
        }
        agreed.done();
        self.settings = new;
        self.publish();
        self.events.emit(Event::SwitchChanged { changes });
        Ok(())
    }

    /// Takes over MTUs, which interfaces change and front ends lower, and the addresses of uplinks.
    pub(super) fn follow_devices(&mut self) {
        let cards: Vec<_> = self.ports.values().map(|e| (e.config.id, e.config.mac, e.mtu)).collect();
        self.follow_uplinks();
        let Some(data) = &self.data else { return };
        for entry in self.ports.values_mut() {
            if let Some(status) = data.status(entry.config.id).filter(|status| status.mtu != 0) {
                entry.mtu = status.mtu;
            }
        }
        let now = self.ports.values().map(|e| (e.config.id, e.config.mac, e.mtu));
        let changed: Vec<_> = now.zip(cards).filter(|(now, was)| now != was).map(|(now, _)| now).collect();
        if !changed.is_empty() {
            self.card_changed(&changed);
            self.publish();
        }
    }

    /// Takes over the addresses of uplinks.
    pub(super) fn follow_uplinks(&mut self) {
        let mut uplinks =
            self.ports.values_mut().filter(|e| e.config.mac_kind == MacKind::Interface).peekable();
        if uplinks.peek().is_none() {
            return;
        }
        let interfaces = host::interfaces();
        for Entry { config, .. } in uplinks {
            let found = interfaces.iter().find(|i| Some(i.name.as_str()) == config.device.interface());
            if let Some(mac) = found.and_then(|i| i.mac).filter(|mac| *mac != config.mac) {
                config.mac = mac;
            }
        }
    }
}
