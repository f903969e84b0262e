//! What extensions remember of a port, and their settings for it, move with its guest.
//!
//! What an extension saves is its own business, and so is taking it: when it does not, the guest does not come. What belongs to an extension that
//! is not enabled here is kept with the port and moves on with it.

use std::collections::BTreeMap;

use migration::state::{ExtensionState, MAX_EXTENSION_DATA};
use serde_json::Value;
use vswitch::PortId;
use vswitch::event::Event;
use vswitch::extension::Slot;
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
            let Some(data) = slot.instance().save(now(), config.id) else { continue };
            if data.len() > MAX_EXTENSION_DATA {
                let why = format!("it saved {} bytes, and {MAX_EXTENSION_DATA} are allowed", data.len());
                return Err(Refusal::Extension { name: slot.name().to_owned(), why });
            }
            all.entry(slot.name()).or_insert_with(|| fresh(slot.name())).data = data;
        }
        for (name, settings) in &config.extensions {
            let bytes = serde_json::to_vec(settings).unwrap_or_default();
            all.entry(name).or_insert_with(|| fresh(name)).config = bytes;
        }
        Ok(all.into_values().filter(|state| !(state.config.is_empty() && state.data.is_empty())).collect())
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
            memories.0.push((slot.clone(), slot.instance().save(now(), new.id)));
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
            let anew = [Step::NicDelete { port }, Step::NicCreate { port, mac, mtu }];
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
