//! What happens by itself: cards that are plugged and unplugged, MTUs and addresses that change, extensions that fail, and what that means to
//! ports that require one.

use vswitch::event::Event;
use vswitch::extension::Change;
use vswitch::{Mac, PortId};

use super::ask::inform;
use super::steps::Step;
use crate::control::Switch;
use crate::control::model::PortConfig;
use crate::spec::{EventSink, PortState as Life};

impl Switch {
    /// Tells extensions whose frames may flow. Rings that stopped and started again since the last look are a card that went and came.
    pub(in crate::control) fn follow_cards(&mut self) {
        let Some(data) = &self.data else { return };
        let mut steps: Vec<Step> = Vec::new();
        for entry in self.ports.values_mut() {
            let port = entry.config.id;
            let status = data.status(port).filter(|status| status.state == Life::Running);
            let now = status.map(|status| status.starts);
            if now != entry.connected {
                if entry.connected.is_some() {
                    steps.push(Change::NicDisconnect { port }.into());
                }
                if now.is_some() {
                    steps.push(Change::NicConnect { port }.into());
                }
                entry.connected = now;
            }
        }
        inform(self.extensions.slots(), &steps);
    }

    /// Tells extensions of a card whose address or MTU is another.
    pub(in crate::control) fn card_changed(&self, changed: &[(PortId, Mac, u16)]) {
        let steps: Vec<Step> =
            changed.iter().map(|&(port, mac, mtu)| Change::NicUpdated { port, mac, mtu }.into()).collect();
        inform(self.extensions.slots(), &steps);
    }

    /// Tells extensions that a port is gone; its card had frames flowing or not.
    pub(in crate::control) fn port_gone(&self, config: &PortConfig, connected: bool) {
        inform(self.extensions.slots(), &super::steps::gone(config, connected));
    }

    /// Publishes anew when extensions failed that ports require.
    pub(in crate::control) fn follow_faults(&mut self) {
        let stale = |entry: &crate::control::Entry| entry.unmet != self.is_unmet(&entry.config);
        if self.ports.values().any(stale) {
            self.publish();
        }
    }

    /// Whether a port requires an extension that is not there, or has failed.
    fn is_unmet(&self, config: &PortConfig) -> bool {
        config.policy.require_extension.iter().any(|name| !self.extensions.works(name))
    }

    /// Notes which ports have what they require, before that is published.
    pub(in crate::control) fn note_unmet(&mut self) {
        let extensions = &self.extensions;
        for entry in self.ports.values_mut() {
            let (port, required) = (entry.config.id, &entry.config.policy.require_extension);
            let missing = required.iter().find(|name| !extensions.works(name));
            match missing {
                Some(name) if !entry.unmet => {
                    self.events.emit(Event::ExtensionMissing { port, extension: name.clone() });
                }
                None if entry.unmet => self.events.emit(Event::ExtensionsMet { port }),
                _ => {}
            }
            entry.unmet = missing.is_some();
        }
    }
}
