//! Extensions are enabled, disabled, moved, loaded and set. Each of these is a change of many ports as one: all of it or nothing.

use serde_json::Value;
use vswitch::event::Event;
use vswitch::extension::Kind;
use vswitch::refusal::{Object, Refusal, Refused};

use super::ask::{self, Agreed, Vetoed};
use super::build::introduce;
use super::model::{Listing, keepable};
use super::steps::{self, Step};
use crate::control::change::object;
use crate::control::model::PortConfig;
use crate::control::types::{ExtensionMove, ExtensionView, NewExtension};
use crate::control::{Switch, check};
use crate::spec::EventSink;

impl Switch {
    /// Enables an extension: a new instance, which hears of everything that exists.
    pub fn enable_extension(&mut self, new: &NewExtension) -> Result<ExtensionView, Refused> {
        let about = Object::Extension(new.name.clone());
        let mut draft = self.draft();
        let listed = draft.list_extension(new).map_err(|why| why.of(about));
        let result = listed.and_then(|()| draft.rebuild()).and_then(|()| {
            if let Some(at) = new.at {
                draft.place(&new.name, at).map_err(|why| why.of(Object::Extension(new.name.clone())))?;
                draft.rebuild()?;
            }
            self.adopt(draft)
        });
        self.told(result)?;
        self.show_extension(&new.name, None)
    }

    /// Disables an extension. Its settings are kept.
    pub fn disable_extension(&mut self, name: &str) -> Result<(), Refused> {
        let mut draft = self.draft();
        let place = draft.settings.extensions.place(name);
        let result = match place {
            None => Err(self.not_enabled(name).of(Object::Extension(name.to_owned()))),
            Some(place) => {
                draft.settings.extensions.enabled.remove(place);
                draft.rebuild().and_then(|()| self.adopt(draft))
            }
        };
        self.told(result)
    }

    /// Gives an extension another place among those of its kind.
    pub fn move_extension(&mut self, name: &str, to: &ExtensionMove) -> Result<ExtensionView, Refused> {
        let about = |why: Refusal| why.of(Object::Extension(name.to_owned()));
        let mut draft = self.draft();
        let placed = match draft.settings.extensions.place(name) {
            None => Err(about(self.not_enabled(name))),
            Some(_) => draft.place(name, to.at).map_err(about),
        };
        let result = placed.and_then(|()| draft.rebuild()).and_then(|()| self.adopt(draft));
        self.told(result)?;
        self.show_extension(name, None)
    }

    /// Gives an extension settings of its own, for one port or for the switch; `None` = none any more. Who is enabled judges them; those of
    /// others are kept until then.
    pub fn set_extension(
        &mut self,
        name: &str,
        port: Option<&str>,
        settings: Option<&Value>,
    ) -> Result<(), Refused> {
        let about = Object::Extension(name.to_owned());
        let result = self.check_settings(name, settings).and_then(|()| match port {
            None => {
                let mut draft = self.draft();
                let all = &mut draft.settings.extensions.settings;
                match settings {
                    Some(settings) => drop(all.insert(name.to_owned(), settings.clone())),
                    None => drop(all.remove(name)),
                }
                Ok(draft)
            }
            Some(port) => {
                self.entry(port)?;
                let mut draft = self.draft();
                if let Some(entry) = draft.ports.get_mut(port) {
                    match settings {
                        Some(settings) => {
                            drop(entry.config.extensions.insert(name.to_owned(), settings.clone()));
                        }
                        None => drop(entry.config.extensions.remove(name)),
                    }
                }
                Ok(draft)
            }
        });
        let result = result.map_err(|why| match (&why, port) {
            (Refusal::UnknownPort { .. }, Some(port)) => why.of(Object::Port(port.to_owned())),
            _ => why.of(about),
        });
        let result = result.and_then(|draft| self.adopt(draft));
        self.told(result)
    }

    /// Loads a module, so that it can be enabled under this name.
    pub fn load_extension(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), Refused> {
        let length = bytes.len() as u64;
        let result = if self.data.is_none() {
            Err(Refusal::Stopping)
        } else if self.settings.extensions.place(name).is_some() {
            Err(Refusal::ExtensionInUse)
        } else {
            self.extensions.library.load(name, bytes)
        };
        self.noted(result, || Object::Extension(name.to_owned()))?;
        self.events.emit(Event::ExtensionLoaded { extension: name.to_owned(), bytes: length });
        Ok(())
    }

    /// Forgets a module.
    pub fn unload_extension(&mut self, name: &str) -> Result<(), Refused> {
        let result = if self.data.is_none() {
            Err(Refusal::Stopping)
        } else if self.settings.extensions.place(name).is_some() {
            Err(Refusal::ExtensionInUse)
        } else {
            self.extensions.library.unload(name)
        };
        self.noted(result, || Object::Extension(name.to_owned()))?;
        self.events.emit(Event::ExtensionUnloaded { extension: name.to_owned() });
        Ok(())
    }

    // === what changes are made of ===

    /// In a draft: makes the instances of what is listed.
    pub(in crate::control) fn rebuild(&mut self) -> Result<(), Refused> {
        self.extensions = self.extensions.build(&mut self.settings.extensions, &mut self.tallies)?;
        Ok(())
    }

    /// In a draft: lists one more, which is to be the first of its kind.
    fn list_extension(&mut self, new: &NewExtension) -> Result<(), Refusal> {
        if self.settings.extensions.place(&new.name).is_some() {
            return Err(Refusal::ExtensionEnabled);
        }
        let listing = listing(new)?;
        self.extensions.library.check(&new.name)?;
        // It gets its kind when it is made; with the others of that kind behind it in the list it is the first of them.
        self.settings.extensions.enabled.insert(0, listing);
        Ok(())
    }

    /// In a draft: puts one to a place, from 1, which must be one that its kind has.
    fn place(&mut self, name: &str, at: u64) -> Result<(), Refusal> {
        let enabled = &mut self.settings.extensions.enabled;
        let Some(from) = enabled.iter().position(|listing| listing.name == name) else { return Ok(()) };
        let kind = enabled[from].kind;
        let of_kind = |listing: &Listing| listing.kind == kind;
        let first = enabled.iter().position(of_kind).unwrap_or(from);
        let last = enabled.iter().rposition(of_kind).unwrap_or(from);
        let to = usize::try_from(at).ok().and_then(|at| at.checked_sub(1));
        let Some(to) = to.filter(|to| (first..=last).contains(to)) else {
            let (first, last) = (first + 1, last + 1);
            return Err(Refusal::ExtensionPosition { position: at, kind, first, last });
        };
        let listing = enabled.remove(from);
        enabled.insert(to, listing);
        Ok(())
    }

    fn not_enabled(&self, name: &str) -> Refusal {
        self.extensions.library.check(name).err().unwrap_or(Refusal::ExtensionDisabled)
    }

    /// That settings can be kept. Those of an extension that nobody knows are: it may come later.
    fn check_settings(&self, name: &str, settings: Option<&Value>) -> Result<(), Refusal> {
        if self.data.is_none() {
            return Err(Refusal::Stopping);
        }
        check::name(name)?;
        settings.map_or(Ok(()), |settings| keepable("settings", settings))
    }

    // === asking ===

    /// Asks all extensions about a change.
    pub(in crate::control) fn ask(&self, steps: impl FnOnce() -> Vec<Step>) -> Result<Agreed, Refusal> {
        if self.extensions.slots().is_empty() {
            return Ok(Agreed::default());
        }
        Ok(ask::ask(self.extensions.slots(), steps())?)
    }

    /// Asks about everything that becomes of this switch when it becomes what `draft` is. Extensions that stay are asked about what
    /// changes, new ones hear of all that there will be.
    pub(in crate::control) fn ask_draft(
        &self,
        draft: &Self,
        gone: &[PortConfig],
        fresh: &[PortConfig],
    ) -> Result<Agreed, Refused> {
        let refuse = |Vetoed { step, why }: Vetoed| {
            let mut all = draft.configs().chain(gone);
            let port = step.port().and_then(|id| all.find(|config| config.id == id));
            why.of(match (port, *step) {
                (Some(config), _) => object(config),
                (None, Step::Set { extension, .. }) => Object::Extension(extension),
                _ => Object::Switch,
            })
        };
        let stay = draft.extensions.shared_with(&self.extensions);
        let mut agreed = Agreed::default();
        if !stay.is_empty() {
            let mut all = Vec::new();
            // A number that is given anew must have been free.
            for config in gone.iter().filter(|config| fresh.iter().any(|new| new.id == config.id)) {
                all.extend(steps::gone(config, self.is_connected(&config.name)));
            }
            all.extend(steps::switch(&self.settings, &draft.settings));
            for config in draft.configs() {
                match self.ports.get(&config.name).map(|entry| &entry.config) {
                    Some(old) if old.id == config.id => all.extend(steps::changed(old, config)),
                    _ => {
                        let mtu = draft.ports.get(&config.name).map_or(0, |entry| entry.mtu);
                        all.extend(steps::created(config, mtu));
                        all.extend(steps::own(config));
                    }
                }
            }
            agreed = ask::ask(&stay, all).map_err(refuse)?;
        }
        let new = draft.extensions.not_in(&self.extensions);
        if let Err(vetoed) = introduce(&new, &draft.settings, &draft.ports) {
            agreed.undo();
            return Err(refuse(vetoed));
        }
        Ok(agreed)
    }

    /// Tells extensions and operators of what became of ports and of extensions themselves.
    pub(in crate::control) fn conclude(&self, old: &Self, gone: &[PortConfig], fresh: &[PortConfig]) {
        let stay = self.extensions.shared_with(&old.extensions);
        for config in gone.iter().filter(|config| !fresh.iter().any(|new| new.id == config.id)) {
            ask::inform(&stay, &steps::gone(config, old.is_connected(&config.name)));
        }
        let (before, after) = (&old.settings.extensions, &self.settings.extensions);
        let name = |listing: &Listing| listing.name.clone();
        for listing in before.enabled.iter().filter(|listing| after.place(&listing.name).is_none()) {
            self.events.emit(Event::ExtensionDisabled { extension: name(listing) });
        }
        let new: Vec<_> = self.extensions.not_in(&old.extensions);
        let is_new = |listing: &Listing| new.iter().any(|slot| slot.name() == listing.name);
        for (place, listing) in (1..).zip(&after.enabled) {
            if is_new(listing) {
                self.events.emit(Event::ExtensionEnabled { extension: name(listing), position: place });
            }
        }
        let order = |there: &super::model::Listed, other: &super::model::Listed| -> Vec<String> {
            let both = |listing: &&Listing| other.place(&listing.name).is_some();
            there.enabled.iter().filter(both).map(name).collect()
        };
        if order(before, after) != order(after, before) {
            for (place, listing) in (1..).zip(&after.enabled) {
                let was = before.place(&listing.name).map(|place| place as u64 + 1);
                if was.is_some_and(|was| was != place) {
                    self.events.emit(Event::ExtensionMoved { extension: name(listing), position: place });
                }
            }
        }
        for step in steps::switch(&old.settings, &self.settings) {
            if let Step::Set { extension, port, .. } = step {
                self.events.emit(Event::ExtensionSet { extension, port });
            }
        }
        let forwards = |there: &super::model::Listed| {
            there.enabled.iter().any(|listing| listing.kind == Kind::Forwarding)
        };
        if forwards(before) != forwards(after) {
            self.events.emit(Event::NativeForwarding { on: forwards(before) });
        }
    }

    fn is_connected(&self, name: &str) -> bool {
        self.ports.get(name).is_some_and(|entry| entry.connected.is_some())
    }
}

/// What is stored of a new one. Its kind is known when there is an instance.
pub(super) fn listing(new: &NewExtension) -> Result<Listing, Refusal> {
    keepable("config", &new.config)?;
    keepable("limits", &new.limits)?;
    Ok(Listing {
        name: new.name.clone(),
        kind: Kind::Capture,
        config: new.config.clone(),
        limits: new.limits.clone(),
        fail: new.fail,
        tallies: std::collections::BTreeMap::new(),
    })
}
