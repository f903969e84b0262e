//! Lookup records as the control plane changes and shows them: the data path's own table, of which there is no copy.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use vswitch::Mac;
use vswitch::nv::learning::{News, PENDING};
use vswitch::nv::model::{Kind, Record};
use vswitch::nv::records::{Change, Of};
use vswitch::nv::wanted::Want;
use vswitch::state::State;

use super::object::RecordKey;
use super::objects::Known;
use crate::guest::tsc;
use crate::store::policy::RecordChange;

/// The records of a switch. Clones are the same ones; may be used from any thread.
#[derive(Clone, Debug)]
pub struct RecordTable {
    state: Arc<State>,
    /// This host's provider addresses. Locked while records are written, so that each is marked by those of now.
    own: Arc<Mutex<HashSet<IpAddr>>>,
    /// The virtual subnets of which all records are known, where not all are.
    whole: Arc<Mutex<BTreeSet<u32>>>,
    /// Records that changed since they were last remembered, where they are.
    changed: Arc<Mutex<Option<HashSet<RecordKey>>>>,
}

/// What came of changes.
#[derive(Debug, Default)]
pub struct Applied {
    /// Records for which there was no room.
    pub full: usize,
    /// Guests that are no longer at this host, by virtual subnet and MAC address.
    pub left: Vec<(u32, Mac)>,
}

fn of(key: &RecordKey) -> (u32, Of) {
    match *key {
        RecordKey::Address(vsid, ca) => (vsid, Of::Address(ca)),
        RecordKey::L2Only(vsid, mac) => (vsid, Of::Station(mac)),
    }
}

fn now() -> u64 {
    tsc::nanos(tsc::cycles())
}

impl RecordTable {
    /// The records in a data path's state.
    pub fn new(state: Arc<State>) -> Self {
        Self { state, own: Arc::default(), whole: Arc::default(), changed: Arc::default() }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Puts records in and takes them out.
    pub fn apply(&self, changes: &[RecordChange]) -> Applied {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut note = |key: &RecordKey| changed.as_mut().map(|changed| changed.insert(*key));
        let (records, mut applied) = (&self.state.nv.records, Applied::default());
        for (key, record) in changes {
            if let Some(record) = record {
                let here = own.contains(&record.pa);
                let change = records.upsert(now(), record, here);
                if !matches!(change, Change::Same | Change::Full) {
                    note(key);
                }
                match change {
                    Change::Full => applied.full += 1,
                    Change::Moved { from } if !here && own.contains(&from) => {
                        applied.left.push((record.vsid, record.mac));
                    }
                    _ => {}
                }
            } else {
                let (vsid, of) = of(key);
                if records.remove(vsid, of) {
                    note(key);
                }
            }
        }
        applied
    }

    /// These are this host's provider addresses from now on.
    pub fn set_own(&self, addresses: HashSet<IpAddr>) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if *own == addresses {
            return;
        }
        let changed: HashSet<IpAddr> = own.symmetric_difference(&addresses).copied().collect();
        *own = addresses;
        let records = &self.state.nv.records;
        for record in records.list(None).into_iter().filter(|record| changed.contains(&record.pa)) {
            records.upsert(now(), &record, own.contains(&record.pa));
        }
    }

    /// Notes which records change, for [`Self::take_changed`].
    pub(super) fn note_changes(&self) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
    }

    /// Records that changed and are not remembered yet, so many at most, as they are now.
    pub(super) fn take_changed(&self, most: usize) -> Vec<RecordChange> {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(changed) = changed.as_mut() else { return Vec::new() };
        let some: Vec<RecordKey> = changed.iter().take(most).copied().collect();
        for key in &some {
            changed.remove(key);
        }
        some.into_iter().map(|key| (key, self.record(&key))).collect()
    }

    /// Records that say where their guest is about to be.
    pub(super) fn expected(&self) -> Vec<Record> {
        self.state.nv.records.expected()
    }

    /// Records of guests of this host that said so for too long, as they are now.
    pub(super) fn lapsed(&self) -> Vec<Record> {
        self.state.nv.records.take_lapsed()
    }

    /// How many more there is room for; a part is left to those that are looked up.
    pub fn room(&self) -> usize {
        let records = &self.state.nv.records;
        (records.capacity() - records.capacity() / 16).saturating_sub(records.len())
    }

    /// Takes those of virtual subnets out, but for what was learned here.
    pub fn forget(&self, vsids: &BTreeSet<u32>) {
        let gone = self.others().into_iter().filter(|record| vsids.contains(&record.vsid));
        self.apply(&gone.map(|record| (RecordKey::of(&record), None)).collect::<Vec<_>>());
    }

    /// All but what was learned here.
    pub(super) fn others(&self) -> Vec<Record> {
        let mut list = self.list(None);
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|record| record.kind != Kind::Dynamic || !own.contains(&record.pa));
        list
    }

    /// Whether a record was learned here.
    pub(super) fn is_learned(&self, key: &RecordKey) -> bool {
        let (vsid, of) = of(key);
        let found = self.state.nv.records.find(vsid, of);
        found.is_some_and(|(_, view)| view.kind == Kind::Dynamic && view.local)
    }

    /// What was learned here and forgotten since this was asked last; or everything that is learned, and that it is.
    pub(super) fn learned(&self) -> (Vec<RecordChange>, bool) {
        let nv = &self.state.nv;
        let news = nv.learned.take();
        if news.len() >= PENDING {
            let keys = nv.learned.list().into_iter().map(|(vsid, ca, ..)| (vsid, ca));
            let record =
                |(vsid, ca)| Some((RecordKey::Address(vsid, ca), nv.records.get(vsid, Of::Address(ca))?));
            return (keys.filter_map(record).map(|(key, record)| (key, Some(record))).collect(), true);
        }
        let change = |news| match news {
            News::Learned(record) => (RecordKey::of(&record), Some(record)),
            News::Forgotten { vsid, ca } => (RecordKey::Address(vsid, ca), None),
        };
        (news.into_iter().map(change).collect(), false)
    }

    /// Of these virtual subnets all records are known from now on; one of another that is missing is wanted.
    pub fn set_whole(&self, vsids: &BTreeSet<u32>) {
        self.state.nv.wanted.set_whole(Some(vsids.iter().copied()));
        vsids.clone_into(&mut self.whole.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether all records of a virtual subnet are known.
    pub fn is_whole(&self, vsid: u32) -> bool {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).contains(&vsid)
    }

    /// What the data path misses, or doubts.
    pub fn wanted(&self) -> Vec<Want> {
        self.state.nv.wanted.take(now())
    }

    /// Those that somebody configured, by virtual subnet and address; of one virtual subnet or of all.
    pub fn configured(&self, vsid: Option<u32>) -> Vec<Record> {
        let mut list = self.list(vsid);
        list.retain(|record| record.kind != Kind::Dynamic);
        list
    }

    /// All, the learned ones too.
    pub fn list(&self, vsid: Option<u32>) -> Vec<Record> {
        self.state.nv.records.list(vsid)
    }
}

impl Known for RecordTable {
    fn record(&self, key: &RecordKey) -> Option<Record> {
        let (vsid, of) = of(key);
        self.state.nv.records.get(vsid, of).filter(|record| record.kind != Kind::Dynamic)
    }

    fn rewritten(&self, pa: IpAddr) -> Option<RecordKey> {
        self.state.nv.records.rewritten(pa).map(|(vsid, ca, _)| RecordKey::Address(vsid, ca))
    }

    fn count(&self) -> usize {
        self.state.nv.records.len()
    }
}
