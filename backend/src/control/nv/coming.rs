//! Guests that are on their way here: while they are, their records in the store that hosts share say so, and every host believes what they
//! send from their first moment here on (see [`vswitch::nv::records`]).
//!
//! A guest is on its way when a front end has attached to the port that has its MAC address and virtual subnet and its rings have not run
//! since, when another switch has had the port reserved for it, or when its state has arrived. It is said as early as that, because the
//! others need a moment to hear of it and the guest runs when its VMM likes. It is taken back when that is no longer so: the front
//! end is gone, the move was given up, the port is removed. When the guest runs here its records are replaced.
//!
//! A host that dies while it expects a guest takes it back when it is started again and knows the records; if it never is, the host where
//! the guest is does so after [`vswitch::nv::records::EXPECTED`]. Until then the dead host's address speaks for this one guest: which port may
//! expect which guest is said by who makes ports, and who may write records is said by the store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use vswitch::nv::model::{Kind, Record};
use vswitch::{Mac, PortId};

use super::object::{Change, Object, RecordKey};
use crate::control::Switch;
use crate::spec::{PortState as Life, PortStatus};
use crate::store::policy::RecordChange;

/// Who is on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Coming {
    /// Front ends, by port: the last one that attached, and how often rings had started then; `None` = they have run since.
    attached: BTreeMap<PortId, (u32, Option<u32>)>,
    /// Ports that other switches have reserved.
    reserved: BTreeSet<PortId>,
    /// What is said: virtual subnet and MAC address.
    said: BTreeMap<PortId, (u32, Mac)>,
    /// Those of whom it was said before all records of their virtual subnet were known.
    early: BTreeSet<(u32, Mac)>,
}

impl Coming {
    /// Whether the front end of a port waits for its guest.
    fn waits(&mut self, id: PortId, status: &PortStatus) -> bool {
        if status.state == Life::Running {
            self.attached.insert(id, (status.attachments, None));
            return false;
        }
        let new = (status.attachments, Some(status.starts));
        let known = self.attached.entry(id).or_insert(new);
        if known.0 != status.attachments {
            *known = new;
        }
        status.attached && *known == new
    }
}

impl Switch {
    /// Another switch has had a port reserved for a guest, or (`on` false) has it no more.
    pub(in crate::control) fn nv_reserved(&mut self, id: PortId, on: bool) {
        if on {
            self.nv.coming.reserved.insert(id);
        } else {
            self.nv.coming.reserved.remove(&id);
        }
        self.nv_coming();
    }

    /// Looks who is on its way here, and says it where that changed.
    pub(in crate::control) fn nv_coming(&mut self) {
        let Some(data) = self.data.as_ref().filter(|_| self.nv.shared && self.policy.is_some()) else {
            return;
        };
        let mut coming = BTreeMap::new();
        for entry in self.ports.values() {
            let (id, mac) = (entry.config.id, entry.config.mac);
            let Some(vsid) = entry.config.policy.vsid else { continue };
            let Some(status) = data.status(id) else { continue };
            let waits = self.nv.coming.waits(id, &status);
            let reserved = status.state != Life::Running && self.nv.coming.reserved.contains(&id);
            // One whose state has arrived may run already: then it is about to be said that it is here.
            if self.settings.nv && (waits || reserved || entry.arrival.is_some()) {
                coming.insert(id, (vsid, mac));
            }
        }
        let is_there = |id: &PortId| self.ports.values().any(|entry| entry.config.id == *id);
        self.nv.coming.attached.retain(|id, _| is_there(id));
        self.nv.coming.reserved.retain(is_there);
        let before = std::mem::replace(&mut self.nv.coming.said, coming.clone());
        if coming == before {
            return;
        }
        self.nv_take_back();
        for (_, guest) in coming.iter().filter(|(id, guest)| before.get(*id) != Some(*guest)) {
            self.nv_expects(*guest);
        }
    }

    /// These guests have left: of those that are on their way back it is to be said again.
    pub(super) fn nv_expects_back(&mut self, guests: &[(u32, Mac)]) {
        let is_coming = |guest: &&(u32, Mac)| self.nv.coming.said.values().any(|it| it == *guest);
        let back: Vec<(u32, Mac)> = guests.iter().filter(is_coming).copied().collect();
        for guest in back {
            self.nv_expects(guest);
        }
    }

    /// Of these virtual subnets all records are known.
    pub(super) fn nv_expects_known(&mut self, vsids: &BTreeSet<u32>) {
        let (known, early) =
            std::mem::take(&mut self.nv.coming.early).into_iter().partition(|(vsid, _)| vsids.contains(vsid));
        self.nv.coming.early = early;
        let known: BTreeSet<(u32, Mac)> = known;
        for guest in known {
            if self.nv.coming.said.values().any(|it| *it == guest) {
                self.nv_expects(guest);
            }
        }
        self.nv_take_back();
    }

    /// Says in a guest's records that it is about to be here.
    fn nv_expects(&mut self, (vsid, mac): (u32, Mac)) {
        let Some(table) = &self.records else { return };
        if !table.is_whole(vsid) {
            self.nv.coming.early.insert((vsid, mac));
        }
        let records = table.list(Some(vsid)).into_iter();
        // An address that was learned is where the guest's own record is.
        let records = records.filter(|record| record.mac == mac && record.kind != Kind::Dynamic);
        let expected = records.filter_map(|record| Some((record, self.nv_here(&record)?)));
        self.nv_expect_at(expected.map(|(record, pa)| (record, Some(pa))));
    }

    /// Takes back that guests are about to be here which are not on their way any more.
    fn nv_take_back(&self) {
        let Some(table) = &self.records else { return };
        let own = self.nv.own();
        let is_here = |record: &Record| record.next.is_some_and(|next| own.contains(&next));
        let is_said =
            |record: &Record| self.nv.coming.said.values().any(|it| *it == (record.vsid, record.mac));
        let over = table.expected().into_iter().filter(|record| is_here(record) && !is_said(record));
        self.nv_expect_at(over.map(|record| (record, None)));
    }

    /// Takes out of the store what the host that had said it never took back.
    pub(super) fn nv_lapsed(&self) {
        if let Some(store) = self.policy.as_ref().filter(|_| self.nv.shared) {
            // What is in force here has it no more.
            let change = |record: Record| Change::replace(Object::Record(record), Object::Record(record));
            let lapsed = self.records.iter().flat_map(super::records::RecordTable::lapsed);
            lapsed.for_each(|record| store.carry(vec![change(record)]));
        }
    }

    fn nv_expect_at(&self, expected: impl Iterator<Item = (Record, Option<IpAddr>)>) {
        let (Some(store), Some(table)) = (&self.policy, &self.records) else { return };
        let changed = expected.filter(|(record, next)| record.next != *next);
        let changed: Vec<(Record, Record)> =
            changed.map(|(record, next)| (record, Record { next, ..record })).collect();
        if changed.is_empty() {
            return;
        }
        let now = changed.iter().map(|(_, record)| (RecordKey::of(record), Some(*record)));
        table.apply(&now.collect::<Vec<RecordChange>>());
        for (_, Record { vsid, mac, ca, next, .. }) in &changed {
            log::debug!("{mac} with {ca} in virtual subnet {vsid} is expected at {next:?}");
        }
        let change = |(before, after)| Change::replace(Object::Record(before), Object::Record(after));
        store.carry(changed.into_iter().map(change).collect());
    }

    /// The provider address of this host that a guest has when it is here; `None` if its record says so already, or there is none.
    pub(super) fn nv_here(&self, record: &Record) -> Option<IpAddr> {
        let own: Vec<IpAddr> = self.nv.objects.providers().map(|it| it.address.addr()).collect();
        let like = own.iter().find(|address| address.is_ipv4() == record.pa.is_ipv4());
        let pa = *like.or(own.first())?;
        (!own.contains(&record.pa)).then_some(pa)
    }
}
