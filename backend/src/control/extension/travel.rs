//! What extensions remember of a port, and their settings for it, move with its guest.
//!
//! What an extension saves is its own business, and so is taking it: when it does not, the guest does not come. What belongs to an extension that
//! is not enabled here is kept with the port and moves on with it.
//!
//! When the switch changes its process the same is handed from instance to instance ([`Remembered`]). There nothing can be refused any more: an
//! instance that does not take it goes on without, and operators are told.

use std::collections::BTreeMap;

use migration::state::{ExtensionState, MAX_EXTENSION_DATA};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vswitch::PortId;
use vswitch::event::Event;
use vswitch::extension::{Change, Slot};
use vswitch::refusal::Refusal;

use super::ask::{self, Agreed};
use super::model::keepable;
use super::now;
use super::steps::{self, Step};
use crate::control::Switch;
use crate::control::model::PortConfig;
use crate::spec::EventSink;

/// Version of what extensions save: that of the contract with them. What is in it is versioned by themselves.
pub(in crate::control) const VERSION: u32 = 1;

/// What an extension of one process remembers of a port, for that of the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    extension: String,
    version: u32,
    /// What it saved, or why that is lost.
    saved: Result<Vec<u8>, String>,
}

/// What extensions remembered of a port before they took what it brought along.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Memories(Vec<(Slot, Option<Vec<u8>>)>);

impl Switch {
    /// What goes with a port: of each extension that has settings for it or remembers something, and of those that are not here.
    pub(in crate::control) fn extension_states(
        &self,
        config: &PortConfig,
    ) -> Result<Vec<ExtensionState>, Refusal> {
        let mut all: BTreeMap<&str, ExtensionState> = BTreeMap::new();
        let fresh = |name: &str| ExtensionState {
            name: name.to_owned(),
            version: VERSION,
            config: Vec::new(),
            data: Vec::new(),
        };
        for orphan in &config.carried.extensions {
            // What its owner has now is newer.
            if !self.extensions.works(&orphan.name) {
                all.insert(&orphan.name, orphan.clone());
            }
        }
        for slot in self.extensions.slots().iter().filter(|slot| slot.fault().is_none()) {
            let Ok(Some(data)) = slot.save(now(), config.id) else { continue };
            if data.len() > MAX_EXTENSION_DATA {
                return Err(Refusal::Extension { name: slot.name().to_owned(), why: too_long(&data) });
            }
            all.entry(slot.name()).or_insert_with(|| fresh(slot.name())).data = data;
        }
        for (name, settings) in &config.extensions {
            let bytes = serde_json::to_vec(settings).unwrap_or_default();
            all.entry(name).or_insert_with(|| fresh(name)).config = bytes;
        }
        Ok(all.into_values().filter(|state| !(state.config.is_empty() && state.data.is_empty())).collect())
    }

    /// What working extensions remember of a port, for the next process; to be asked while no frame moves.
    pub fn remembered(&self, port: PortId) -> Vec<Remembered> {
        let working = self.extensions.slots().iter().filter(|slot| slot.fault().is_none());
        let asked = working.filter_map(|slot| {
            let saved = slot.save(now(), port).transpose()?;
            Some(Remembered { extension: slot.name().to_owned(), version: VERSION, saved })
        });
        asked.collect()
    }

    /// Gives extensions what those of the process before remembered of a port, before its frames move. The port's
    /// configuration as it was if there is more to be carried with it now.
    pub(in crate::control) fn recall(&mut self, port: PortId, all: Vec<Remembered>) -> Option<PortConfig> {
        if all.is_empty() {
            return None;
        }
        let config = self.ports.values().find(|entry| entry.config.id == port)?.config.clone();
        let mut orphans = Vec::new();
        for Remembered { extension, version, saved } in all {
            let slot = self.extensions.stack.slot(&extension).filter(|slot| slot.fault().is_none()).cloned();
            let taken = match (saved, &slot) {
                (Err(why), _) => Err(why),
                (Ok(data), _) if data.len() > MAX_EXTENSION_DATA => Err(too_long(&data)),
                (Ok(data), None) => {
                    let bytes = data.len() as u64;
                    self.events.emit(Event::ExtensionOrphan { port, extension: extension.clone(), bytes });
                    orphans.push(ExtensionState { name: extension, version, config: Vec::new(), data });
                    continue;
                }
                (Ok(_), Some(_)) if version != VERSION => {
                    Err(format!("it is of version {version}; this switch knows {VERSION}"))
                }
                (Ok(data), Some(slot)) => {
                    slot.instance().restore(now(), port, &data).map_err(|why| why.to_string())
                }
            };
            let Err(reason) = taken else { continue };
            if let Some(slot) = slot {
                // Not a half of it either.
                self.extensions_forget(&config, &Memories(vec![(slot, None)]));
            }
            self.events.emit(Event::ExtensionForgot { port, extension, reason });
        }
        if orphans.is_empty() {
            return None;
        }
        let carried = &mut self.ports.get_mut(&config.name)?.config.carried.extensions;
        carried.retain(|old| !orphans.iter().any(|new| new.name == old.name));
        carried.append(&mut orphans);
        Some(config)
    }

    /// The extensions that are here, with the versions of states that they read.
    pub(in crate::control) fn offered_extensions(&self) -> BTreeMap<String, (u32, u32)> {
        let working = self.extensions.slots().iter().filter(|slot| slot.fault().is_none());
        working.map(|slot| (slot.name().to_owned(), (VERSION, VERSION))).collect()
    }

    /// What a port that has arrived has for extensions: settings if whoever brought them may say so, and the rest to be carried on.
    pub(in crate::control) fn take_extension_states(
        &self,
        new: &mut PortConfig,
        states: &[ExtensionState],
        trusted: bool,
    ) -> Result<(), Refusal> {
        if trusted {
            new.extensions.clear();
        }
        new.carried.extensions.clear();
        for state in states {
            if trusted && !state.config.is_empty() {
                let bad = |reason: String| Refusal::StateRefused {
                    reason: format!("settings of extension '{}': {reason}", state.name),
                };
                let settings: Value =
                    serde_json::from_slice(&state.config).map_err(|e| bad(e.to_string()))?;
                keepable("settings", &settings).map_err(|e| bad(e.to_string()))?;
                new.extensions.insert(state.name.clone(), settings);
            }
            if !self.extensions.works(&state.name) && !state.data.is_empty() {
                let orphan = ExtensionState { config: Vec::new(), ..state.clone() };
                new.carried.extensions.push(orphan);
            }
        }
        Ok(())
    }

    /// Asks extensions about the configuration that arrived, and gives each what it remembers of the port. All of it or nothing.
    pub(in crate::control) fn extensions_arrive(
        &self,
        before: &PortConfig,
        new: &PortConfig,
        states: &[ExtensionState],
    ) -> Result<(Agreed, Memories), Refusal> {
        let agreed = self.ask(|| steps::changed(before, new))?;
        let mut memories = Memories::default();
        for state in states.iter().filter(|state| !state.data.is_empty()) {
            let slot = self.extensions.stack.slot(&state.name).filter(|slot| slot.fault().is_none());
            let Some(slot) = slot else { continue };
            memories.0.push((slot.clone(), slot.save(now(), new.id).unwrap_or_default()));
            if let Err(why) = slot.instance().restore(now(), new.id, &state.data) {
                let why = Refusal::Extension { name: state.name.clone(), why: why.to_string() };
                self.extensions_forget(before, &memories);
                agreed.undo();
                return Err(why);
            }
        }
        Ok((agreed, memories))
    }

    /// Makes extensions remember of a port what they did before something arrived.
    pub(in crate::control) fn extensions_forget(&self, before: &PortConfig, memories: &Memories) {
        let (port, mac) = (before.id, before.mac);
        let mtu = self.ports.get(&before.name).map_or(0, |entry| entry.mtu);
        for (slot, memory) in &memories.0 {
            // What was taken in goes with the card.
            let anew = [Change::NicDelete { port }, Change::NicCreate { port, mac, mtu }].map(Step::from);
            ask::inform(std::slice::from_ref(slot), &anew);
            let settings = before.extensions.get(slot.name());
            if let Some(settings) = settings
                && let Err(why) = slot.instance().set(Some(port), Some(settings))
            {
                slot.fail(format!("it refused settings that it had: {why}"));
            }
            if let Some(memory) = memory
                && let Err(why) = slot.instance().restore(now(), port, memory)
            {
                slot.fail(format!("it refused what it had saved: {why}"));
            }
        }
    }

    /// Tells extensions of the opposite of what they agreed to when a state arrived.
    pub(in crate::control) fn extensions_undo(
        &self,
        provisional: &PortConfig,
        before: &PortConfig,
        memories: &Memories,
    ) {
        ask::inform(self.extensions.slots(), &steps::changed(provisional, before));
        self.extensions_forget(before, memories);
    }

    /// Tells operators of what nobody here knows what to do with.
    pub(in crate::control) fn tell_orphans(&self, port: PortId, config: &PortConfig) {
        for orphan in &config.carried.extensions {
            let (extension, bytes) = (orphan.name.clone(), orphan.data.len() as u64);
            self.events.emit(Event::ExtensionOrphan { port, extension, bytes });
        }
    }
}

fn too_long(data: &[u8]) -> String {
    format!("it saved {} bytes, and {MAX_EXTENSION_DATA} are allowed", data.len())
}
