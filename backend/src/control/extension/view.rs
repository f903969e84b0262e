//! Extensions as they are shown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use vswitch::extension::Slot;
use vswitch::refusal::{Object, Refusal, Refused};

use crate::control::Switch;
use crate::control::types::{AvailableExtension, ExtensionCounters, ExtensionView};

impl Switch {
    /// What can be enabled, by name.
    pub fn available_extensions(&self) -> Vec<AvailableExtension> {
        let all = self.extensions.library.available().into_iter();
        let view = |one: super::library::Available| AvailableExtension {
            enabled: self.settings.extensions.place(&one.name).is_some(),
            kind: one.kind.as_ref().ok().map(ToString::to_string),
            problem: one.kind.err(),
            origin: if one.built_in { "built-in" } else { "module" }.to_owned(),
            name: one.name,
            about: one.about,
        };
        all.map(view).collect()
    }

    /// Those that are enabled, in the order of the stack.
    pub fn list_extensions(&self) -> Vec<ExtensionView> {
        let names = self.settings.extensions.enabled.iter().map(|listing| &listing.name);
        names.map(|name| self.extension_view(name)).collect()
    }

    /// One that is enabled or can be, with what it says of itself or of one port.
    pub fn show_extension(&self, name: &str, port: Option<&str>) -> Result<ExtensionView, Refused> {
        let mut view = self.extension_view(name);
        if view.position.is_none() && view.settings.is_none() && view.ports.is_empty() {
            let known = self.extensions.library.check(name);
            known.map_err(|why| why.of(Object::Extension(name.to_owned())))?;
        }
        let Some(port) = port else { return Ok(view) };
        let entry = self.entry(port).map_err(|why| why.of(Object::Port(port.to_owned())))?;
        let slot = self.extensions.stack.slot(name).filter(|slot| slot.fault().is_none());
        let Some(slot) = slot else {
            return Err(Refusal::ExtensionDisabled.of(Object::Extension(name.to_owned())));
        };
        view.status = slot.instance().status(Some(entry.config.id));
        view.ports.retain(|of, _| of == port);
        Ok(view)
    }

    fn extension_view(&self, name: &str) -> ExtensionView {
        let listed = &self.settings.extensions;
        let place = listed.place(name);
        let listing = place.and_then(|place| listed.enabled.get(place));
        let slot = self.extensions.stack.slot(name);
        let fault = slot.and_then(Slot::fault).map(str::to_owned);
        let of = |config: &crate::control::model::PortConfig| {
            Some((config.name.clone(), config.extensions.get(name)?.clone()))
        };
        ExtensionView {
            name: name.to_owned(),
            kind: listing.map(|listing| listing.kind.to_string()),
            position: place.map(|place| place + 1),
            state: match (&slot, &fault) {
                (None, _) => "disabled",
                (Some(_), None) => "running",
                (Some(_), Some(_)) => "failed",
            }
            .to_owned(),
            fail: listing.map(|listing| listing.fail),
            config: listing.map_or(Value::Null, |listing| listing.config.clone()),
            limits: listing.map_or(Value::Null, |listing| listing.limits.clone()),
            settings: listed.settings.get(name).cloned(),
            ports: self.configs().filter_map(of).collect(),
            status: match (slot, &fault) {
                (Some(slot), None) => slot.instance().status(None),
                _ => Value::Null,
            },
            counters: slot.map(|slot| self.extension_counters(name, slot)).unwrap_or_default(),
            fault,
        }
    }

    fn extension_counters(&self, name: &str, slot: &Slot) -> ExtensionCounters {
        let activity = slot.activity();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // Not those of the instance: one that could not be started has none, and what was counted before stays.
        let listing = self.settings.extensions.enabled.iter().find(|listing| listing.name == name);
        let dropped: BTreeMap<String, u64> = listing
            .iter()
            .flat_map(|listing| &listing.tallies)
            .map(|(reason, tally)| {
                (reason.clone(), self.data.as_ref().map_or(0, |data| data.tally(*tally).0))
            })
            .collect();
        ExtensionCounters {
            judged: read(&activity.judged),
            replaced: read(&activity.replaced),
            injected: read(&activity.injected),
            refused: read(&activity.refused),
            pool: read(&activity.pool),
            sampled: read(&activity.sampled),
            dropped,
        }
    }
}
