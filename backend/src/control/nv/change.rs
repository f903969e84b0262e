//! Changes of network virtualization: judged against everything that is there, then made as a whole or not at all.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

use vswitch::event::Event;
use vswitch::nv::model::{Kind, Record};
use vswitch::port::PortKind;
use vswitch::refusal::{NvRefusal, Object as About, Refusal, Refused};

use super::check::{self, Spec};
use super::object::{Change, Key, Object, RecordKey};
use super::objects::{Known, Objects, on_wire};
use super::records::RecordTable;
use crate::control::Switch;
use crate::control::types::RecordChange;
use crate::spec::EventSink;

/// Changes that an event names one by one.
const NAMED: usize = 8;

/// Records as they would be after changes.
struct Draft<'a> {
    table: Option<&'a RecordTable>,
    read: Option<&'a HashMap<RecordKey, Record>>,
    changed: HashMap<RecordKey, Option<Record>>,
    rewritten: HashMap<IpAddr, RecordKey>,
}

impl Known for Draft<'_> {
    fn record(&self, key: &RecordKey) -> Option<Record> {
        match self.changed.get(key) {
            Some(record) => *record,
            None => self.table?.record(key).or_else(|| self.read?.get(key).copied()),
        }
    }

    fn rewritten(&self, pa: IpAddr) -> Option<RecordKey> {
        if let Some(key) = self.rewritten.get(&pa) {
            return Some(*key);
        }
        let key = self.table?.rewritten(pa)?;
        // It may be free in the same change.
        self.record(&key).is_some_and(|record| on_wire(&record) == Some(pa)).then_some(key)
    }

    fn count(&self) -> usize {
        let there = |key: &&RecordKey| self.table.is_some_and(|table| table.record(key).is_some());
        let more = self.changed.iter().filter(|(key, record)| record.is_some() && !there(key)).count();
        self.table.map_or(0, Known::count) + more
    }
}

impl Switch {
    /// The records, if there is a data path.
    pub(in crate::control) fn records(&self) -> Option<&RecordTable> {
        self.records.as_ref()
    }

    /// The object of a key, as far as this host knows it.
    pub(super) fn nv_object(&self, key: &Key) -> Option<Object> {
        match key {
            Key::Record(key) => {
                let read = || self.nv.read.as_ref()?.get(key).copied();
                self.records()?.record(key).or_else(read).map(Object::Record)
            }
            key => self.nv.objects.get(key),
        }
    }

    /// Whether a change can be planned only with what the shared store has: of this record, or of all of them.
    pub fn nv_lacks(&self, key: Option<&RecordKey>) -> bool {
        self.nv.shared && key.is_none_or(|key| self.records().is_none_or(|table| table.record(key).is_none()))
    }

    /// Plans with these records, which the shared store has.
    pub fn nv_knowing<T>(&mut self, read: Option<Vec<Record>>, plan: impl FnOnce(&mut Self) -> T) -> T {
        let said = |record: &Record| record.kind != Kind::Dynamic;
        let by_key = |record| (RecordKey::of(&record), record);
        self.nv.read = read.map(|read| read.into_iter().filter(said).map(by_key).collect());
        let planned = plan(self);
        self.nv.read = None;
        planned
    }

    /// All records that somebody configured, as far as they are known.
    pub(super) fn nv_configured(&self) -> Vec<Record> {
        let Some(read) = &self.nv.read else {
            return self.records().map(|table| table.configured(None)).unwrap_or_default();
        };
        let mut list: Vec<Record> = read.values().copied().collect();
        list.sort_unstable_by_key(RecordKey::of);
        list
    }

    /// The changes that make new objects of what is said, all of them fitting.
    pub fn nv_create<S: Spec>(&self, specs: &[S]) -> Result<Vec<Change>, Refused> {
        let mut changes = Vec::with_capacity(specs.len());
        for spec in specs {
            let about = || About::Nv { noun: S::NOUN, key: spec.name() };
            let object = spec.judge().map_err(|why| why.of(about()))?;
            let key = object.key();
            if let Some(there) = self.nv_object(&key) {
                let why = match (there, &object) {
                    (Object::Record(there), Object::Record(new)) if there.mac != new.mac => {
                        NvRefusal::SecondMac { address: there.ca, mac: there.mac }
                    }
                    _ => NvRefusal::Exists { remove: removal(&key) },
                };
                return self.told(Err(Refusal::Nv(why).of(about())));
            }
            changes.push(Change::create(object));
        }
        self.told(self.nv_judge(&changes).map(|()| changes))
    }

    /// The change that takes an object away.
    pub fn nv_remove(&self, key: &Key) -> Result<Vec<Change>, Refused> {
        let there = self.nv_object(key).ok_or_else(|| check::absent(key).of(key.object()));
        let changes = there.map(|object| vec![Change::remove(object)]);
        self.told(changes.and_then(|changes| self.nv_judge(&changes).map(|()| changes)))
    }

    /// The change that makes a record say something else.
    pub fn nv_set_record(&self, change: &RecordChange) -> Result<Vec<Change>, Refused> {
        let alone = |why: Refusal| {
            let key =
                format!("{}/{}", change.vsid, change.ca.as_deref().or(change.mac.as_deref()).unwrap_or(""));
            why.of(About::Nv { noun: "record", key })
        };
        let key =
            check::record_key(change.vsid, change.ca.as_deref(), change.mac.as_deref()).map_err(alone)?;
        let named = Key::Record(key);
        let judged = || {
            let Some(Object::Record(before)) = self.nv_object(&named) else {
                return Err(check::absent(&named));
            };
            let mut after = before;
            if let Some(pa) = &change.pa {
                (after.pa, after.next) = (check::provider_address(pa)?, None);
            }
            if let Some(encap) = check::encap(change.encap.as_deref())? {
                after.encap = encap;
                if encap != vswitch::nv::model::Encap::Rewrite {
                    after.rewrite_pa = None;
                }
            }
            if let Some(pa) = &change.rewrite_pa {
                after.rewrite_pa = Some(check::provider_address(pa)?);
            }
            check::rewrite(&after)?;
            Ok(vec![Change::replace(Object::Record(before), Object::Record(after))])
        };
        let changes = judged().map_err(|why| why.of(named.object()));
        self.told(changes.and_then(|changes| self.nv_judge(&changes).map(|()| changes)))
    }

    /// That everything fits after changes.
    pub(super) fn nv_judge(&self, changes: &[Change]) -> Result<(), Refused> {
        if self.data.is_none() {
            return Err(Refusal::Stopping.of(About::Switch));
        }
        let others = changes.iter().any(|change| !matches!(change.key, Key::Record(_)));
        let mut objects = Cow::Borrowed(&self.nv.objects);
        let table = self.records();
        let read = self.nv.read.as_ref();
        let mut draft = Draft { table, read, changed: HashMap::new(), rewritten: HashMap::new() };
        for change in changes {
            match (&change.key, &change.after) {
                (Key::Record(key), Some(Object::Record(record))) => {
                    if let Some(other) = draft.changed.insert(*key, Some(*record)).flatten() {
                        let why = if other.mac == record.mac {
                            NvRefusal::Exists { remove: removal(&change.key) }
                        } else {
                            NvRefusal::SecondMac { address: other.ca, mac: other.mac }
                        };
                        return Err(Refusal::Nv(why).of(change.key.object()));
                    }
                }
                (Key::Record(key), _) => drop(draft.changed.insert(*key, None)),
                (key, None) => objects.to_mut().remove(key),
                (_, Some(_)) => {}
            }
        }
        for change in changes {
            let about = |why: Refusal| why.of(change.key.object());
            match &change.after {
                Some(Object::Record(record)) => {
                    objects.record_fits(record, &draft, !self.nv.shared).map_err(about)?;
                    if let Some(pa) = on_wire(record) {
                        draft.rewritten.insert(pa, RecordKey::of(record));
                    }
                }
                Some(object) => {
                    self.nv_fits(&objects, object).map_err(about)?;
                    objects.to_mut().put(object.clone());
                }
                None => {
                    let in_subnet = |vsid| self.records().map_or(0, |it| it.configured(Some(vsid)).len());
                    objects.needed(&change.key, in_subnet).map_err(about)?;
                }
            }
        }
        if !others {
            return Ok(());
        }
        // What was there may not fit to what is new.
        let known = self.nv.objects.usable().1;
        match objects.usable().1.into_iter().find(|problem| !known.contains(problem)) {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    /// That an object fits to others and to the uplinks.
    pub(super) fn nv_fits(&self, objects: &Objects, object: &Object) -> Result<(), Refusal> {
        let uplink = match object {
            Object::Provider(provider) => Some(&provider.uplink),
            Object::Gateway(gateway) => Some(&gateway.uplink),
            _ => None,
        };
        if let Some(uplink) = uplink
            && !self.ports.get(uplink).is_some_and(|it| it.config.device.kind() == PortKind::Uplink)
        {
            return Err(Refusal::UnknownUplink { known: self.names(true) });
        }
        objects.fits(object)
    }

    /// That no object is at an uplink.
    pub(in crate::control) fn nv_spares(&self, uplink: &str) -> Result<(), Refusal> {
        let providers = self.nv.objects.providers().filter(|it| it.uplink == uplink);
        let gateways = self.nv.objects.gateways().filter(|it| it.uplink == uplink);
        let providers = providers.map(|it| format!("provider {}", it.address.addr()));
        let mut users = providers.chain(gateways.map(|it| format!("gateway {}", it.network)));
        match users.next() {
            Some(by) => Err(Refusal::Nv(NvRefusal::InUse { by, several: false })),
            None => Ok(()),
        }
    }

    /// Whether changes have to be written into the store that hosts share, and which of them.
    pub fn nv_shared(&self, changes: &[Change]) -> bool {
        self.nv.shared && changes.iter().any(|change| !change.key.is_local())
    }

    /// Makes judged changes: stored, then in force.
    pub fn nv_commit(&mut self, changes: &[Change]) -> Result<(), Refused> {
        if changes.is_empty() {
            return Ok(());
        }
        let result = self.store.put_all(None, &[], changes).map_err(|why| why.of(About::Switch));
        self.told(result)?;
        self.nv_apply(changes);
        Ok(())
    }

    /// Puts changes in force that are stored.
    pub(in crate::control) fn nv_apply(&mut self, changes: &[Change]) {
        let (mut records, mut others) = (Vec::new(), false);
        for change in changes {
            match (&change.key, &change.after) {
                (Key::Record(key), Some(Object::Record(record))) => records.push((*key, Some(*record))),
                (Key::Record(key), _) => records.push((*key, None)),
                (_, Some(object)) => {
                    self.nv.objects.put(object.clone());
                    others = true;
                }
                (key, None) => {
                    self.nv.objects.remove(key);
                    others = true;
                }
            }
        }
        if others {
            self.nv_follow();
        }
        if changes.iter().any(|change| change.key.is_local()) {
            self.nv_present();
        }
        if let Some(table) = &self.records {
            let left = table.apply(&records).left;
            self.nv_left(&left);
        }
        self.events.emit(Event::NvChanged { changes: named(changes) });
    }

    /// Puts changed objects in force.
    pub(in crate::control) fn nv_follow(&mut self) {
        self.nv.touch();
        if let Some(table) = &self.records {
            table.set_own(self.nv.own());
        }
        self.publish();
    }
}

/// The command that removes an object.
fn removal(key: &Key) -> String {
    match key {
        Key::Network(name) => format!("turnpike nv network remove {name}"),
        Key::Subnet(vsid) => format!("turnpike nv subnet remove {vsid}"),
        Key::Provider(address) => format!("turnpike nv provider remove {address}"),
        Key::Gateway(network) => format!("turnpike nv gateway remove --network {network}"),
        Key::Route(network, prefix, hop) => {
            format!("turnpike nv route remove --network {network} --prefix {prefix} --next-hop {}", hop.0)
        }
        Key::Record(RecordKey::Address(vsid, ca)) => {
            format!("turnpike nv record remove --vsid {vsid} --ca {ca}")
        }
        Key::Record(RecordKey::L2Only(vsid, mac)) => {
            format!("turnpike nv record remove --vsid {vsid} --mac {mac}")
        }
    }
}

/// Changes for people; of many only how many.
pub(super) fn named(changes: &[Change]) -> Vec<String> {
    if changes.len() > NAMED {
        return vec![format!("{} objects", changes.len())];
    }
    changes.iter().map(|it| format!("{}{} {}", sign(it), it.key.noun(), it.key)).collect()
}

/// How a change is marked in a list of differences.
pub(in crate::control) const fn sign(change: &Change) -> &'static str {
    match (&change.before, &change.after) {
        (None, _) => "+",
        (_, None) => "-",
        _ => "~",
    }
}
