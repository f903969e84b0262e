//! Extensions in the document of a whole switch.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use vswitch::extension::FailMode;
use vswitch::refusal::{Object, Refusal, Refused};

use super::change::listing;
use super::model::{Listed, Listing, keepable};
use crate::control::types::{ConfigExtension, Difference, NewExtension};
use crate::control::{Switch, check};

impl Switch {
    /// What belongs into the document of this switch.
    pub(in crate::control) fn saved_extensions(&self) -> Vec<ConfigExtension> {
        let Listed { enabled, settings } = &self.settings.extensions;
        let of = |listing: &Listing| ConfigExtension {
            name: listing.name.clone(),
            enabled: true,
            config: listing.config.clone(),
            limits: listing.limits.clone(),
            fail: listing.fail,
            settings: settings.get(&listing.name).cloned(),
        };
        let kept = settings.iter().filter(|(name, _)| self.settings.extensions.place(name).is_none());
        let kept = kept.map(|(name, settings)| ConfigExtension {
            name: name.clone(),
            enabled: false,
            settings: Some(settings.clone()),
            ..ConfigExtension::default()
        });
        enabled.iter().map(of).chain(kept).collect()
    }

    /// In a draft: the extensions of a document and no others.
    pub(in crate::control) fn plan_extensions(&mut self, wanted: &[ConfigExtension]) -> Result<(), Refused> {
        let mut listed = Listed::default();
        let mut names = HashSet::new();
        for one in wanted {
            let about = |why: Refusal| why.of(Object::Extension(one.name.clone()));
            check::name(&one.name).map_err(about)?;
            if !names.insert(&one.name) {
                return Err(about(Refusal::ExtensionEnabled));
            }
            if let Some(settings) = &one.settings {
                keepable("settings", settings).map_err(about)?;
                listed.settings.insert(one.name.clone(), settings.clone());
            }
            if !one.enabled {
                continue;
            }
            let new = NewExtension {
                name: one.name.clone(),
                config: one.config.clone(),
                limits: one.limits.clone(),
                fail: one.fail,
                at: None,
            };
            listed.enabled.push(listing(&new).map_err(about)?);
        }
        // One that stays is what it is, also in a switch whose module is gone meanwhile.
        for listing in &mut listed.enabled {
            let there = self.settings.extensions.enabled.iter().find(|there| there.is_same(listing));
            if let Some(there) = there {
                listing.clone_from(there);
            } else {
                // Its reasons are counted on, with whatever configuration.
                let same_name = self.settings.extensions.place(&listing.name);
                let there = same_name.and_then(|place| self.settings.extensions.enabled.get(place));
                listing.tallies = there.map(|there| there.tallies.clone()).unwrap_or_default();
            }
        }
        self.settings.extensions = listed;
        self.rebuild()
    }

    /// In a draft: what extensions are to know of a port.
    pub(in crate::control) fn plan_settings(
        &mut self,
        port: &str,
        wanted: &BTreeMap<String, Value>,
    ) -> Result<(), Refusal> {
        for (name, settings) in wanted {
            check::name(name)?;
            keepable("extension", settings)?;
        }
        if let Some(entry) = self.ports.get_mut(port) {
            entry.config.extensions.clone_from(wanted);
        }
        Ok(())
    }
}

/// What differs between two lists of extensions.
pub(in crate::control) fn differences(old: &Listed, new: &Listed) -> Vec<Difference> {
    let line = |op: &str, name: &str, text: String| Difference {
        op: op.to_owned(),
        object: format!("extension '{name}'"),
        text,
    };
    let mut lines = Vec::new();
    for listing in old.enabled.iter().filter(|listing| new.place(&listing.name).is_none()) {
        lines.push(line("-", &listing.name, String::new()));
    }
    let order = |there: &Listed, other: &Listed| -> Vec<String> {
        let both = there.enabled.iter().filter(|listing| other.place(&listing.name).is_some());
        both.map(|listing| listing.name.clone()).collect()
    };
    let (before, after) = (order(old, new), order(new, old));
    for listing in &new.enabled {
        match old.place(&listing.name).and_then(|place| old.enabled.get(place)) {
            None => lines.push(line("+", &listing.name, described(listing))),
            Some(there) if !there.is_same(listing) => {
                lines.push(line("~", &listing.name, described(listing)));
            }
            Some(_) => {
                let place = |order: &[String]| order.iter().position(|name| *name == listing.name);
                if place(&before) != place(&after) {
                    let position = new.place(&listing.name).unwrap_or_default() + 1;
                    lines.push(line("~", &listing.name, format!("position {position}")));
                }
            }
        }
    }
    let names: std::collections::BTreeSet<_> = old.settings.keys().chain(new.settings.keys()).collect();
    for name in names {
        let (before, after) = (old.settings.get(name), new.settings.get(name));
        if before != after {
            let text = after.map_or_else(|| "no settings".to_owned(), |after| format!("settings {after}"));
            lines.push(line("~", name, text));
        }
    }
    lines
}

fn described(listing: &Listing) -> String {
    let mut parts = Vec::new();
    if listing.fail == FailMode::Closed {
        parts.push("fail closed".to_owned());
    }
    if !listing.config.is_null() {
        parts.push(format!("config {}", listing.config));
    }
    if !listing.limits.is_null() {
        parts.push(format!("limits {}", listing.limits));
    }
    parts.join(", ")
}
