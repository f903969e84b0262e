//! What this host knows of a policy store that hosts share, remembered in its own state: a switch that is started while that store is away
//! begins with it, and its guests go on.
//!
//! It is a cache. It is written every few seconds, not with every change, and what the store says when it answers counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vswitch::event::Event;

use super::object::{Key, Object};
use crate::control::Switch;
use crate::spec::EventSink;

/// Changes that are written at once, with the switch locked.
const TOGETHER: usize = 20_000;
/// How long the last writing may take.
const LAST: Duration = Duration::from_secs(2);

impl Switch {
    /// Begins to remember what is known of the shared store. What there is of it now was remembered before, if `from_memory`.
    pub(super) fn nv_remembers(&mut self, from_memory: bool) {
        let Some(table) = &self.records else { return };
        table.note_changes();
        let records = table.list(None).len() as u64;
        let objects = self.nv_shared_objects();
        if !from_memory {
            return;
        }
        if records > 0 || !objects.is_empty() {
            self.nv.from_memory = true;
            let objects = objects.len() as u64;
            self.events.emit(Event::PolicyRemembered { objects, records });
        }
        self.nv.remembered = (self.nv.version, objects);
    }

    fn nv_shared_objects(&self) -> BTreeMap<Key, Object> {
        let shared = self.nv.objects.all().filter(|object| !object.key().is_local());
        shared.map(|object| (object.key(), object)).collect()
    }

    /// Writes down what changed. To be called every few seconds.
    pub(in crate::control) fn nv_remember(&mut self) {
        self.nv_remember_some();
    }

    /// Writes down everything that changed, before the state is given away.
    pub(in crate::control) fn nv_remember_all(&mut self) {
        let start = Instant::now();
        while self.nv_remember_some() && start.elapsed() < LAST {}
    }

    /// Whether there may be more.
    fn nv_remember_some(&mut self) -> bool {
        let Some(table) = self.records.as_ref().filter(|_| self.nv.shared) else { return false };
        let changed = table.take_changed(TOGETHER);
        let is_more = changed.len() == TOGETHER;
        let mut known: Vec<(Key, Option<Object>)> =
            changed.into_iter().map(|(key, record)| (Key::Record(key), record.map(Object::Record))).collect();
        if self.nv.remembered.0 != self.nv.version {
            let now = self.nv_shared_objects();
            let before = std::mem::replace(&mut self.nv.remembered, (self.nv.version, now));
            let (before, now) = (before.1, &self.nv.remembered.1);
            known.extend(before.into_keys().filter(|key| !now.contains_key(key)).map(|key| (key, None)));
            known.extend(now.iter().map(|(key, object)| (key.clone(), Some(object.clone()))));
        }
        if !known.is_empty()
            && let Err(why) = self.store.remember(&known)
        {
            log::warn!("what is known of the policy store is not remembered: {why}");
        }
        is_more
    }
}
