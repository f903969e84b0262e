//! Following a policy store that hosts share: what others wrote is put in force here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::Serialize;
use vswitch::event::Event;
use vswitch::nv::interest;
use vswitch::nv::model::{Kind, Record};
use vswitch::{Mac, PortId};

use super::object::{Change, Key, Object, RecordKey};
use super::records::{Applied, RecordTable};
use crate::control::Switch;
use crate::control::model::PortConfig;
use crate::control::types::{GatewaySpec, ProviderSpec};
use crate::spec::EventSink;
use crate::store::policy::{Follower, RecordChange, SharedStore};

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
    fn records(&self, changes: &[RecordChange]) -> usize {
        // What was learned here is so whatever the store has lost of it.
        let is_kept = |(key, record): &RecordChange| record.is_none() && self.records.is_learned(key);
        let others: Vec<RecordChange>;
        let changes = if changes.iter().any(is_kept) {
            others = changes.iter().filter(|change| !is_kept(change)).copied().collect();
            &others
        } else {
            changes
        };
        let Applied { full, left } = self.records.apply(changes);
        if full > 0 {
            log::warn!("policy store: there is no room for {full} records");
        }
        if !left.is_empty() {
            self.with(|switch| switch.nv_left(&left));
        }
        full
    }

    fn room(&self) -> usize {
        self.records.room()
    }

    fn held(&self) -> Vec<RecordKey> {
        self.records.others().iter().map(RecordKey::of).collect()
    }

    fn forget(&self, vsids: &BTreeSet<u32>) {
        self.records.forget(vsids);
    }

    fn whole(&self, vsids: &BTreeSet<u32>) {
        self.records.set_whole(vsids);
        self.with(|switch| switch.nv_whole(vsids));
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
            switch.nv.from_memory = false;
            let stays = |key: &Key| key.is_local() || unreadable.contains(key);
            let gone: Vec<Key> =
                switch.nv.objects.all().map(|object| object.key()).filter(|key| !stays(key)).collect();
            for key in &gone {
                switch.nv.objects.remove(key);
            }
            for object in objects {
                switch.nv.objects.put(object);
            }
            switch.nv_followed();
        });
    }
}

/// What other hosts are told of this one.
#[derive(Serialize)]
struct Presence<'a> {
    host: &'a str,
    version: &'a str,
    providers: Vec<ProviderSpec>,
    gateways: Vec<GatewaySpec>,
}

impl Switch {
    /// All objects but a host's own are in a store that hosts share, from now on. `from_memory`: those that are here were remembered of it
    /// when the switch ended.
    pub fn share_policy(&mut self, from_memory: bool) {
        self.nv.shared = true;
        self.nv_remembers(from_memory);
        // What is not known here yet may be there.
        if let Some(table) = &self.records {
            table.set_whole(&BTreeSet::new());
        }
    }

    /// This is that store.
    pub fn set_policy_store(&mut self, store: Arc<dyn SharedStore>) {
        self.policy = Some(store);
        self.nv_present();
        self.nv_interest();
    }

    /// Tells the store of which virtual subnets the records are needed here, if that changed.
    pub(in crate::control) fn nv_interest(&mut self) {
        let Some(store) = &self.policy else { return };
        let mut local: BTreeSet<u32> = self.ports.values().filter_map(|it| it.config.policy.vsid).collect();
        local.extend(&self.nv.expected);
        let based_on = (self.nv.version, local);
        if self.nv.interest.as_ref() == Some(&based_on) {
            return;
        }
        let objects = &self.nv.objects;
        let subnets: Vec<_> = objects.subnets().map(|it| (it.vsid, it.network.as_str())).collect();
        let gateways = objects.gateways().map(|gateway| gateway.network.as_str());
        store.follow(interest::needed(subnets.iter().copied(), &based_on.1, gateways));
        self.nv.interest = Some(based_on);
    }

    /// A port of this virtual subnet is about to be made (`on`), or is no longer: its records are read before its guest can be there, which
    /// is offered an MTU by them. The records, where they are to be waited for.
    pub fn nv_expect(&mut self, vsid: u32, on: bool) -> Option<RecordTable> {
        let store = self.policy.as_ref()?;
        let table = self.records.clone()?;
        let is_worth = store.status().is_up() && self.nv.objects.subnet(vsid).is_some();
        let changed =
            if on { is_worth && self.nv.expected.insert(vsid) } else { self.nv.expected.remove(&vsid) };
        if changed {
            self.nv_interest();
        }
        (on && is_worth && !table.is_whole(vsid)).then_some(table)
    }

    /// Of these virtual subnets all records are known: guests that arrived before theirs were are said to be here now.
    fn nv_whole(&mut self, vsids: &BTreeSet<u32>) {
        let early = self.nv.early.iter();
        let known: Vec<PortId> =
            early.filter(|(_, vsid)| vsids.contains(vsid)).map(|(port, _)| *port).collect();
        for port in known {
            self.nv.early.remove(&port);
            let entry = self.ports.values().find(|entry| entry.config.id == port && entry.present);
            if let Some(config) = entry.map(|entry| entry.config.clone()) {
                self.nv_arrived(&config);
            }
        }
        self.nv_expects_known(vsids);
    }

    /// Asks the store for what the data path missed, and tells it what that learned. To be called a few times a second.
    pub fn look_up_records(&self) {
        if let (Some(store), Some(table)) = (&self.policy, &self.records) {
            store.look_up(table.wanted());
            let (learned, all) = table.learned();
            store.publish(learned, all);
        }
        self.nv_lapsed();
    }

    /// The store that hosts share, if they do.
    pub fn policy_store(&self) -> Option<Arc<dyn SharedStore>> {
        self.policy.clone()
    }

    /// The records, for who follows a store.
    pub fn record_table(&self) -> Option<RecordTable> {
        self.records.clone()
    }

    /// Tells other hosts of this one.
    pub(super) fn nv_present(&self) {
        let Some(store) = &self.policy else { return };
        let presence = Presence {
            host: &self.host.id,
            version: env!("CARGO_PKG_VERSION"),
            providers: self.nv_providers(),
            gateways: self.nv_gateways(),
        };
        // Text and numbers under names cannot fail to be written.
        store.present(serde_json::to_vec(&presence).unwrap_or_default());
    }

    /// Guests are at other hosts now, by their records. Of a port that its guest was leaving, what waited for it is sent after it: nobody else
    /// would say where that is, because no frame of a virtual subnet is heard on the physical network.
    pub(in crate::control) fn nv_left(&mut self, guests: &[(u32, Mac)]) {
        for &(vsid, mac) in guests {
            let has = |config: &PortConfig| config.policy.vsid == Some(vsid) && config.mac == mac;
            let port = self.ports.values().find(|entry| has(&entry.config)).map(|entry| entry.config.id);
            if let Some(port) = port {
                self.heard_elsewhere(port);
            }
        }
        // One may be on its way back already.
        self.nv_expects_back(guests);
    }

    /// The guest of a port has arrived: its records say from now on that it is here. One transaction, whatever store they are in; a store that
    /// is away is told when it is back, and until then this host at least knows.
    pub(in crate::control) fn nv_arrived(&mut self, port: &PortConfig) {
        let (Some(vsid), true) = (port.policy.vsid, self.settings.nv) else { return };
        let Some(table) = self.records.clone() else { return };
        if self.policy.is_some() && !table.is_whole(vsid) {
            self.nv.early.insert(port.id, vsid);
        }
        let moved = |record: &Record| Some(Record { pa: self.nv_here(record)?, next: None, ..*record });
        let (learned, said): (Vec<_>, Vec<_>) = table
            .list(Some(vsid))
            .into_iter()
            .filter(|record| record.mac == port.mac)
            .partition(|record| record.kind == Kind::Dynamic);
        // What its former host learned of it, this one knows.
        let learned = learned.iter().filter_map(moved).map(|record| (RecordKey::of(&record), Some(record)));
        let learned: Vec<RecordChange> = learned.collect();
        table.apply(&learned);
        if let Some(store) = &self.policy {
            store.publish(learned, false);
        }
        let records = said.into_iter();
        let changes: Vec<Change> = records
            .filter_map(|before| {
                let after = moved(&before)?;
                Some(Change::replace(Object::Record(before), Object::Record(after)))
            })
            .collect();
        let Some(Object::Record(record)) = changes.first().and_then(|change| change.after.as_ref()) else {
            return;
        };
        let (pa, count) = (record.pa, changes.len());
        match self.policy.as_ref().filter(|_| self.nv.shared) {
            Some(store) => {
                store.carry(changes.clone());
                self.nv_apply(&changes);
            }
            None => {
                if let Err(refused) = self.nv_commit(&changes) {
                    // The guest is here whatever the disk says.
                    log::error!("records of port '{}': {refused}", port.name);
                    self.nv_apply(&changes);
                }
            }
        }
        self.events.emit(Event::NvGuestMoved { port: port.id, vsid, records: count as u64, pa });
    }

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
