//! Guests that are on their way here, as the store that hosts share is told of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use vswitch::nv::model::Record;
use vswitch::nv::records::{EXPECTED, Of};
use vswitch::nv::wanted::Want;
use vswitch::refusal::NvRefusal;

use super::*;
use crate::control::nv::check::Spec;
use crate::control::nv::follow::Following;
use crate::control::nv::object::{Change, Object, RecordKey};
use crate::control::types::{NetworkSpec, ProviderSpec, RecordSpec, SubnetSpec};
use crate::store::policy::{Answer, Follower, RecordChange, SharedStore, Status};

const VSID: u32 = 5001;
const HERE: [u8; 4] = [192, 168, 1, 20];
const THERE: [u8; 4] = [192, 168, 1, 21];
const MAC: &str = "02:00:00:00:00:01";
const PORT: PortId = PortId(6);

/// A store that notes what it is to write, and writes nothing.
#[derive(Default)]
struct Noted {
    status: Arc<Status>,
    carried: Mutex<Vec<Vec<Change>>>,
}

impl SharedStore for Noted {
    fn status(&self) -> &Arc<Status> {
        &self.status
    }
    fn follow(&self, _: BTreeSet<u32>) {}
    fn look_up(&self, _: Vec<Want>) {}
    fn publish(&self, _: Vec<RecordChange>, _: bool) {}
    fn find(&self, _: Vec<RecordKey>) -> Answer<Result<Vec<Record>, NvRefusal>> {
        Box::pin(std::future::pending())
    }
    fn all(&self) -> Answer<Result<Vec<Record>, NvRefusal>> {
        Box::pin(std::future::pending())
    }
    fn commit(&self, _: Vec<Change>) -> Answer<Result<i64, NvRefusal>> {
        Box::pin(std::future::pending())
    }
    fn carry(&self, changes: Vec<Change>) {
        self.carried.lock().unwrap().push(changes);
    }
    fn present(&self, _: Vec<u8>) {}
}

/// A host with a port for a guest that is at another one, and a network that hosts share.
struct World {
    switch: Arc<Mutex<Switch>>,
    fake: Fake,
    store: Arc<Noted>,
    following: Following,
    _dir: tempfile::TempDir,
}

fn record(ca: &str, mac: &str, pa: [u8; 4]) -> Record {
    let pa = std::net::IpAddr::from(pa).to_string();
    let spec =
        RecordSpec { vsid: VSID.into(), ca: Some(ca.into()), mac: mac.into(), pa, ..RecordSpec::default() };
    match spec.judge() {
        Ok(Object::Record(record)) => record,
        other => panic!("{other:?}"),
    }
}

impl World {
    fn new() -> Self {
        let fake = Fake::default();
        let dir = tempfile::tempdir().unwrap();
        let mut switch =
            start(Saved { ports: vec![stored_uplink()], ..Saved::default() }, Store::none(), &fake);
        switch.set_switch(&SwitchChange { nv: Some(Some(true)), ..SwitchChange::default() }).unwrap();
        fake.notes().detached.insert(PORT.0);
        let policy = PolicyChange { vsid: Some(Some(VSID.into())), ..PolicyChange::default() };
        switch.add_port(&NewPort { mac: Some(MAC.into()), policy, ..guest(&dir, "g") }).unwrap();
        assert_eq!(switch.ports["g"].config.id, PORT);
        let address = "192.168.1.20/24".into();
        let provider = ProviderSpec { address, uplink: "up".into(), vlan: None, gateway: None };
        let provider = Change::create(provider.judge().unwrap());
        switch.nv_commit(&[provider]).unwrap();
        switch.share_policy(false);
        let store = Arc::new(Noted::default());
        switch.set_policy_store(store.clone());
        let table = switch.record_table().unwrap();
        let switch = Arc::new(Mutex::new(switch));
        let following = Following::new(Arc::downgrade(&switch), table);
        let rdid = "11111111-1111-1111-1111-111111111111".into();
        let network = NetworkSpec { name: "blue".into(), rdid }.judge().unwrap();
        let prefix = vec!["10.1.1.0/24".into()];
        let subnet = SubnetSpec { network: "blue".into(), vsid: VSID.into(), prefix, gateway: vec![] };
        following.loaded(vec![network, subnet.judge().unwrap()], &[]);
        let this = Self { switch, fake, store, following, _dir: dir };
        for (ca, mac) in [("10.1.1.2", MAC), ("10.1.1.9", "02:00:00:00:00:09")] {
            this.says(record(ca, mac, THERE));
        }
        this.following.whole(&BTreeSet::from([VSID]));
        this
    }

    /// The store says this of a record.
    fn says(&self, record: Record) {
        self.following.records(&[(RecordKey::of(&record), Some(record))]);
    }

    fn look(&self) {
        let _ = self.switch.lock().unwrap().follow([PORT]);
    }

    fn attach(&self) {
        self.fake.notes().detached.remove(&PORT.0);
        self.fake.notes().attachments += 1;
        self.look();
    }

    fn detach(&self) {
        self.fake.notes().detached.insert(PORT.0);
        self.look();
    }

    /// What is to be written since the last call: where records say that guests are, and are about to be.
    fn said(&self) -> Vec<(String, [u8; 4], Option<[u8; 4]>)> {
        let v4 = |address: std::net::IpAddr| match address {
            std::net::IpAddr::V4(v4) => v4.octets(),
            std::net::IpAddr::V6(_) => [0; 4],
        };
        let carried = std::mem::take(&mut *self.store.carried.lock().unwrap());
        let after = carried.into_iter().flatten().map(|change| match change.after {
            Some(Object::Record(it)) => (it.ca.to_string(), v4(it.pa), it.next.map(v4)),
            other => panic!("{other:?}"),
        });
        after.collect()
    }
}

fn expected() -> Vec<(String, [u8; 4], Option<[u8; 4]>)> {
    vec![("10.1.1.2".into(), THERE, Some(HERE))]
}

fn taken_back() -> Vec<(String, [u8; 4], Option<[u8; 4]>)> {
    vec![("10.1.1.2".into(), THERE, None)]
}

#[test]
fn s20_5_a_front_end_that_waits_for_its_guest_says_so_and_takes_it_back_when_it_goes() {
    let world = World::new();
    world.look();
    assert_eq!(world.said(), [], "nobody is there");
    world.attach();
    assert_eq!(world.said(), expected());
    world.look();
    assert_eq!(world.said(), [], "once");
    world.detach();
    assert_eq!(world.said(), taken_back());
    world.attach();
    assert_eq!(world.said(), expected());
    world.switch.lock().unwrap().remove_port("g").unwrap();
    assert_eq!(world.said(), taken_back());
}

#[test]
fn s20_5_the_front_end_that_a_guest_has_left_does_not_expect_it_back() {
    let world = World::new();
    world.says(record("10.1.1.2", MAC, HERE));
    world.attach();
    *world.fake.notes().starts.entry(PORT.0).or_default() += 1;
    world.fake.notes().running.insert(PORT.0);
    world.look();
    // QEMU stays, with the guest stopped, until somebody ends it.
    world.fake.notes().running.clear();
    world.look();
    world.says(record("10.1.1.2", MAC, THERE));
    world.look();
    assert_eq!(world.said(), []);
    world.detach();
    // One that is there before it is known that the guest has left.
    world.says(record("10.1.1.2", MAC, HERE));
    world.attach();
    assert_eq!(world.said(), []);
    world.says(record("10.1.1.2", MAC, THERE));
    assert_eq!(world.said(), expected());
}

#[test]
fn s20_5_a_port_that_another_switch_has_reserved_expects_its_guest_until_it_is_given_back() {
    let world = World::new();
    let mut switch = world.switch.lock().unwrap();
    switch.nv_reserved(PORT, true);
    drop(switch);
    assert_eq!(world.said(), expected());
    assert!(world.switch.lock().unwrap().take_back("g", "given up"));
    assert_eq!(world.said(), taken_back());
}

#[test]
fn s20_5_a_guest_that_arrives_is_here_in_one_change_and_not_first_taken_back() {
    let world = World::new();
    let (mut from, there, _dir) = fresh();
    let policy = PolicyChange { vsid: Some(Some(VSID.into())), ..PolicyChange::default() };
    let dir = tempfile::tempdir().unwrap();
    from.add_port(&NewPort { mac: Some(MAC.into()), policy, ..guest(&dir, "g") }).unwrap();
    there.notes().running.clear();
    let state = from.depart(PortId(1)).unwrap();
    world.attach();
    assert_eq!(world.said(), expected());
    world.switch.lock().unwrap().arrive(PORT, &state, crate::control::handover::Trust::Seal).unwrap();
    *world.fake.notes().starts.entry(PORT.0).or_default() += 1;
    world.fake.notes().running.insert(PORT.0);
    // Another port is looked at first.
    let _ = world.switch.lock().unwrap().follow([PortId(1)]);
    assert_eq!(world.said(), []);
    world.look();
    assert_eq!(world.said(), [("10.1.1.2".into(), HERE, None)]);
}

#[test]
fn s20_5_a_host_that_was_started_again_takes_back_what_it_expected() {
    let world = World::new();
    world.says(Record { next: Some(HERE.into()), ..record("10.1.1.2", MAC, THERE) });
    world.says(Record { next: Some([192, 168, 1, 22].into()), ..record("10.1.1.9", MAC, THERE) });
    world.following.whole(&BTreeSet::from([VSID]));
    assert_eq!(world.said(), taken_back(), "and not what another host expects");
}

#[test]
fn s20_5_a_guest_that_is_on_its_way_before_its_record_is_known_is_expected_when_it_is() {
    let world = World::new();
    let new = record("10.1.1.3", MAC, THERE);
    world.following.whole(&BTreeSet::new());
    world.attach();
    assert_eq!(world.said(), expected());
    world.says(new);
    world.following.whole(&BTreeSet::from([VSID]));
    assert_eq!(world.said(), [("10.1.1.3".into(), THERE, Some(HERE))]);
}

#[test]
fn s20_5_what_a_dead_host_expected_is_taken_out_of_the_store_by_the_guests_own() {
    let world = World::new();
    world.says(Record { next: Some(THERE.into()), ..record("10.1.1.2", MAC, HERE) });
    let records = &world.fake.1.nv.records;
    let said = crate::guest::tsc::nanos(crate::guest::tsc::cycles());
    records.age(said + 60_000_000_000);
    world.switch.lock().unwrap().look_up_records();
    assert_eq!(world.said(), []);
    records.age(said + EXPECTED + 61_000_000_000);
    world.switch.lock().unwrap().look_up_records();
    assert_eq!(world.said(), [("10.1.1.2".into(), HERE, None)]);
    assert!(records.find(VSID, Of::Address([10, 1, 1, 2].into())).unwrap().1.local);
}
