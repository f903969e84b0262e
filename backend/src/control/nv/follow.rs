//! Following a policy store that hosts share: what others wrote is put in force here.

use std::sync::{Mutex, PoisonError, Weak};

use vswitch::event::Event;

use super::object::{Key, Object, RecordKey};
use super::records::RecordTable;
use crate::control::Switch;
use crate::spec::EventSink;
use crate::store::policy::{Follower, RecordChange};

/// Puts in force what a store says. Records go straight into the data path's table; for other objects it waits for the switch.
pub struct Following {
    switch: Weak<Mutex<Switch>>,
    records: RecordTable,
}

impl Following {
    /// Follows for `switch`, whose records these are.
    pub fn new(switch: Weak<Mutex<Switch>>, records: RecordTable) -> Self {
        Self { switch, records }
    }

    fn with(&self, call: impl FnOnce(&mut Switch)) {
        if let Some(switch) = self.switch.upgrade() {
            // Each change of the model is a single step, so a panic elsewhere leaves it usable.
            call(&mut switch.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Follower for Following {
    fn records(&self, changes: &[RecordChange]) {
        let full = self.records.apply(changes);
        if full > 0 {
            log::warn!("policy store: there is no room for {full} records");
        }
    }

    fn held(&self) -> Vec<RecordKey> {
        self.records.configured(None).iter().map(RecordKey::of).collect()
    }

    fn objects(&self, changes: &[(Key, Option<Object>)]) {
        self.with(|switch| {
            for (key, object) in changes {
                match object {
                    Some(object) => switch.nv.objects.put(object.clone()),
                    None => switch.nv.objects.remove(key),
                }
            }
            switch.nv_followed();
        });
    }

    fn loaded(&self, objects: Vec<Object>, unreadable: &[Key]) {
        self.with(|switch| {
            let stays = |key: &Key| key.is_local() || unreadable.contains(key);
            let gone: Vec<Key> =
                switch.nv.objects.all().map(|object| object.key()).filter(|key| !stays(key)).collect();
            gone.iter().for_each(|key| switch.nv.objects.remove(key));
            objects.into_iter().for_each(|object| switch.nv.objects.put(object));
            switch.nv_followed();
        });
    }
}

impl Switch {
    /// Puts in force what the shared store said, and tells what of it fits to nothing.
    fn nv_followed(&mut self) {
        let problems = self.nv.objects.usable().1;
        let misfits = problems.iter().map(ToString::to_string).collect();
        for problem in &problems {
            if !self.nv.misfits.contains(&problem.to_string()) {
                let (object, reason) = (problem.object.to_string(), problem.why.to_string());
                self.events.emit(Event::PolicyMisfit { object, reason });
            }
        }
        self.nv.misfits = misfits;
        self.nv_follow();
    }
}
