//! The model against a data path that notes what it is told and refuses on request.

mod apply;
mod coming;
pub(in crate::control) mod extensions;
mod handover;
mod lists;
mod meters;
mod nv;
mod policy;

use std::sync::Mutex;

use serde_json::{Value, json};
use vswitch::explain::Explanation;
use vswitch::fdb::{self, EntryKind};
use vswitch::pipeline::Verdict;
use vswitch::port::Port;

use vswitch::snapshot::SwitchKind;
use vswitch::state::PortMemory;
use vswitch::{Mac, PortId, Tally};

use super::model::{MAX_PORTS, MacKind};
use super::types::{Policy, PolicyChange};
use super::*;
use crate::spec::{PortCounters, PortState, PortStatus, UplinkDriver, WorkerStats};

/// What the data path was told, in order.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// A snapshot with these ports, each with its MAC spoofing.
    Publish(Vec<(u16, bool)>),
    Add(u16),
    /// Counters to zero.
    Clear(u16),
    Remove(u16),
}

#[derive(Default)]
struct Notes {
    told: Vec<Told>,
    epochs: Vec<u64>,
    refuse: Option<&'static str>,
    /// The interfaces behind links are gone.
    gone: bool,
    fdb: Vec<fdb::Entry>,
    /// What ports tell about their MTU; 0 = nothing.
    mtu: u16,
    /// Of port 1, as last published.
    published_mtu: u16,
    link_up: bool,
    /// When that was.
    published: Option<std::time::Instant>,
    /// As last published, by number.
    ports: Vec<Port>,
    /// Names of extensions as last published, and which of them judge.
    stack: Vec<String>,
    judging: Vec<bool>,
    tallies: std::collections::HashMap<u32, (u64, u64)>,
    counters: std::collections::HashMap<u16, PortCounters>,
    memories: std::collections::HashMap<u16, PortMemory>,
    /// How often each port's rings started, and whether they run.
    starts: std::collections::HashMap<u16, u32>,
    running: std::collections::BTreeSet<u16>,
    detached: std::collections::BTreeSet<u16>,
    attachments: u32,
    /// Ports that hold, and that expect a guest.
    holding: std::collections::BTreeSet<u16>,
    expecting: std::collections::BTreeSet<u16>,
    gated: std::collections::BTreeSet<u16>,
    forwarded: Vec<u16>,
    announced: Vec<(u16, usize)>,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Notes>>, Arc<vswitch::state::State>);

impl Default for Fake {
    fn default() -> Self {
        Self(Arc::default(), Arc::new(vswitch::state::State::new(64, 1)))
    }
}

impl Fake {
    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.0.lock().unwrap()
    }

    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.notes().told)
    }
}

fn put(set: &mut std::collections::BTreeSet<u16>, id: PortId, member: bool) {
    if member {
        set.insert(id.0);
    } else {
        set.remove(&id.0);
    }
}

impl DataPath for Fake {
    fn publish(&self, snapshot: Snapshot) {
        let ids = (1..=MAX_PORTS as u16).map(PortId);
        let ports = ids.filter_map(|id| snapshot.port(id)).map(|p| (p.id.0, p.policy.mac_spoofing)).collect();
        let mut notes = self.notes();
        notes.told.push(Told::Publish(ports));
        notes.epochs.push(snapshot.epoch());
        let first = snapshot.port(PortId(1));
        notes.link_up = first.is_some_and(|p| p.policy.link_up);
        notes.published = Some(std::time::Instant::now());
        notes.ports = snapshot.ports().cloned().collect();
        let slots = snapshot.extensions().map(vswitch::extension::Stack::slots).unwrap_or_default();
        notes.stack = slots.iter().map(|slot| slot.name().to_owned()).collect();
        notes.judging = slots.iter().map(|slot| slot.instance().judges(vswitch::Direction::Out)).collect();
        notes.published_mtu = first.map_or(0, |p| p.mtu);
    }

    fn add(&self, port: &PortConfig, _: u64) -> Result<(), DataplaneError> {
        let mut notes = self.notes();
        notes.told.push(Told::Add(port.id.0));
        match notes.refuse {
            Some(reason) => Err(DataplaneError::Socket { path: "/x".into(), reason: reason.into() }),
            None => Ok(()),
        }
    }

    fn remove(&self, id: PortId) {
        self.notes().told.push(Told::Remove(id.0));
    }

    fn status(&self, id: PortId) -> Option<PortStatus> {
        let notes = self.notes();
        let state = match notes.gone {
            true => PortState::Stopped,
            false if notes.running.contains(&id.0) => PortState::Running,
            false => PortState::Waiting,
        };
        Some(PortStatus {
            state,
            features: 1,
            workers: vec![0],
            mtu: notes.mtu,
            mode: None,
            attached: !notes.detached.contains(&id.0),
            attachments: notes.attachments,
            starts: notes.starts.get(&id.0).copied().unwrap_or_default(),
            knocks: false,
            missed: None,
        })
    }

    fn counters(&self, id: PortId) -> PortCounters {
        self.notes().counters.get(&id.0).cloned().unwrap_or_default()
    }

    fn clear_counters(&self, id: PortId) {
        self.notes().told.push(Told::Clear(id.0));
    }

    fn set_counters_for_now(&self, id: PortId, counters: &PortCounters) {
        self.notes().counters.insert(id.0, counters.clone());
    }

    fn settle_counters(&self, id: PortId, counters: Option<&PortCounters>) {
        if let Some(counters) = counters {
            self.notes().counters.insert(id.0, counters.clone());
        }
    }

    fn set_tally(&self, tally: Tally, packets: u64, bytes: u64) {
        self.notes().tallies.insert(tally.0, (packets, bytes));
    }

    fn save_port(&self, id: PortId) -> PortMemory {
        self.notes().memories.get(&id.0).cloned().unwrap_or_default()
    }

    fn restore_port(&self, id: PortId, memory: &PortMemory) {
        self.notes().memories.insert(id.0, memory.clone());
    }

    fn forget_port(&self, id: PortId) {
        self.notes().memories.remove(&id.0);
    }

    fn expect(&self, id: PortId, expected: bool) {
        put(&mut self.notes().expecting, id, expected);
    }

    fn hold(&self, id: PortId, held: bool) {
        put(&mut self.notes().holding, id, held);
    }

    fn gate(&self, id: PortId, closed: bool) {
        put(&mut self.notes().gated, id, closed);
    }

    fn forward_held(&self, id: PortId) {
        self.notes().forwarded.push(id.0);
    }

    fn discard_held(&self, id: PortId) {
        self.notes().holding.remove(&id.0);
    }

    fn announce(&self, id: PortId, frames: &[Vec<u8>]) {
        self.notes().announced.push((id.0, frames.len()));
    }

    fn resolve(&self, _: u32, _: std::net::IpAddr) -> vswitch::nv::resolve::Resolution {
        vswitch::nv::resolve::Resolution { steps: Vec::new(), dropped: None }
    }

    fn state(&self) -> Arc<vswitch::state::State> {
        Arc::clone(&self.1)
    }

    fn send_out(&self, uplink: PortId, frames: Vec<Vec<u8>>) {
        self.notes().announced.push((uplink.0, frames.len()));
    }

    fn tally(&self, tally: Tally) -> (u64, u64) {
        self.notes().tallies.get(&tally.0).copied().unwrap_or_default()
    }

    fn clear_tally(&self, tally: Tally) -> (u64, u64) {
        self.notes().tallies.remove(&tally.0).unwrap_or_default()
    }

    fn ensure_tally(&self, _: Tally) -> std::io::Result<()> {
        Ok(())
    }

    fn sessions(&self, _: Option<PortId>) -> Vec<vswitch::session::Shown> {
        Vec::new()
    }

    fn flush_sessions(&self, _: PortId) -> u64 {
        0
    }

    fn explain(&self, _: PortId, _: &[u8], _: u32) -> Explanation {
        let verdict = Verdict::Drop(vswitch::trace::DropReason::NoSuchPort);
        Explanation { steps: Vec::new(), verdict, destinations: Vec::new() }
    }

    fn fdb(&self) -> Vec<fdb::Entry> {
        self.notes().fdb.clone()
    }

    fn workers(&self) -> Vec<WorkerStats> {
        vec![WorkerStats::default()]
    }

    fn shutdown(self: Box<Self>) {}
}

fn start(saved: Saved, store: Store, fake: &Fake) -> Switch {
    start_with(Library::default(), saved, store, fake)
}

fn start_with(library: Library, saved: Saved, store: Store, fake: &Fake) -> Switch {
    let host = Host { id: "test".into(), pool: MacPool([7, 9]), library };
    let fake = fake.clone();
    Switch::start(host, store, saved, Arc::default(), move |first| {
        fake.publish(first);
        Ok(fake)
    })
    .unwrap()
}

fn fresh() -> (Switch, Fake, tempfile::TempDir) {
    let fake = Fake::default();
    let switch = start(Saved::default(), Store::none(), &fake);
    fake.take();
    (switch, fake, tempfile::tempdir().unwrap())
}

fn guest(directory: &tempfile::TempDir, name: &str) -> NewPort {
    let socket = directory.path().join(format!("{name}.sock")).to_str().unwrap().to_owned();
    NewPort { name: name.into(), socket: Some(socket), ..NewPort::default() }
}

fn tap(name: &str) -> NewPort {
    NewPort { name: name.into(), tap: Some(format!("tp-{name}")), ..NewPort::default() }
}

fn spoofing(on: bool) -> PolicyChange {
    PolicyChange { mac_spoofing: Some(Some(on)), ..PolicyChange::default() }
}

fn kind(kind: SwitchKind) -> SwitchChange {
    SwitchChange { kind: Some(Some(kind)), ..SwitchChange::default() }
}

/// Everything an operator can see.
fn seen(switch: &Switch) -> Value {
    let lists =
        |p: &types::PortView| json!([switch.list_acl(&p.name).unwrap(), switch.list_rules(&p.name).unwrap()]);
    let ports = switch.list();
    let lists: Vec<_> = ports.iter().map(lists).collect();
    json!([switch.show(), ports, switch.fdb(None).unwrap(), lists])
}

/// Does what must be refused, and checks that nothing changed; returns the line.
fn refused<T: std::fmt::Debug>(
    switch: &mut Switch,
    change: impl FnOnce(&mut Switch) -> Result<T, Refused>,
) -> String {
    let (before, newest) = (seen(switch), switch.events.since(0).len());
    let line = change(switch).expect_err("refused").to_string();
    assert_eq!(seen(switch), before, "{line}");
    let events = switch.events.since(newest as u64);
    assert_eq!(events.iter().map(|e| &e.body["kind"]).collect::<Vec<_>>(), ["refused"], "{line}");
    line
}

#[test]
fn a_ports_policy_is_published_before_its_rings_run() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&NewPort { policy: spoofing(true), ..guest(&dir, "a") }).unwrap();
    assert_eq!(fake.take(), [Told::Publish(vec![(1, true)]), Told::Clear(1), Told::Add(1)]);
}

#[test]
fn a_port_is_let_go_before_it_is_unpublished() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    fake.take();
    switch.remove_port("a").unwrap();
    assert_eq!(fake.take(), [Told::Remove(1), Told::Publish(vec![])]);
}

#[test]
fn epochs_only_grow() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    switch.set_port("a", &PortChange { policy: spoofing(true) }).unwrap();
    switch.remove_port("a").unwrap();
    let epochs = fake.notes().epochs.clone();
    assert!(epochs.len() >= 4 && epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
}

#[test]
fn a_port_the_data_path_refuses_leaves_everything_as_it_was() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    fake.notes().refuse = Some("address already in use");
    fake.take();
    let line = refused(&mut switch, |s| s.add_port(&guest(&dir, "b")));
    assert_eq!(
        line,
        "port 'b': socket '/x': address already in use; valid: a path at which the switch may create a socket"
    );
    let one = || Told::Publish(vec![(1, false)]);
    assert_eq!(
        fake.take(),
        [Told::Publish(vec![(1, false), (2, false)]), Told::Clear(2), Told::Add(2), one()]
    );
    fake.notes().refuse = None;
    switch.add_port(&guest(&dir, "b")).unwrap();
}

#[test]
fn a_change_that_cannot_be_stored_is_undone() {
    let fake = Fake::default();
    let dir = tempfile::tempdir().unwrap();
    let mut switch = start(Saved::default(), Store::failing(), &fake);
    fake.take();
    let line = refused(&mut switch, |s| s.add_port(&guest(&dir, "a")));
    assert_eq!(
        line,
        "port 'a': the change could not be stored: no space left on device; valid: room and write permission in the \
         state directory"
    );
    let publish = Told::Publish(vec![(1, false)]);
    assert_eq!(fake.take(), [publish, Told::Clear(1), Told::Add(1), Told::Remove(1), Told::Publish(vec![])]);
    refused(&mut switch, |s| s.set_switch(&kind(SwitchKind::Private)));
    assert_eq!(fake.take(), []);
}

#[test]
fn ports_come_back_after_a_restart_with_number_address_and_policy() {
    let (state, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let before = {
        let (store, saved) = Store::open(state.path()).unwrap();
        let mut switch = start(saved, store, &Fake::default());
        switch.add_port(&guest(&dir, "gone")).unwrap();
        switch.add_port(&NewPort { policy: spoofing(true), ..guest(&dir, "a") }).unwrap();
        switch.add_port(&tap("h")).unwrap();
        switch.remove_port("gone").unwrap();
        switch.set_switch(&kind(SwitchKind::Internal)).unwrap();
        seen(&switch)
    };
    let (store, saved) = Store::open(state.path()).unwrap();
    let fake = Fake::default();
    let switch = start(saved, store, &fake);
    assert_eq!(seen(&switch), before);
    assert_eq!(fake.take(), [Told::Publish(vec![(2, true), (3, false)]), Told::Add(2), Told::Add(3)]);
}

#[test]
fn a_stored_port_that_cannot_be_served_is_kept_stopped_and_tried_again() {
    let (state, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    {
        let (store, saved) = Store::open(state.path()).unwrap();
        start(saved, store, &Fake::default()).add_port(&guest(&dir, "a")).unwrap();
    }
    let (store, saved) = Store::open(state.path()).unwrap();
    let fake = Fake::default();
    fake.notes().refuse = Some("address already in use");
    let mut switch = start(saved, store, &fake);
    let port = switch.show_port("a").unwrap();
    assert_eq!(
        (port.state.as_str(), port.fault.as_deref()),
        ("stopped", Some("socket '/x': address already in use"))
    );
    assert_eq!(switch.events.since(0)[0].body["kind"], "port-failed");
    fake.notes().refuse = None;
    switch.tick();
    let port = switch.show_port("a").unwrap();
    assert_eq!((port.state.as_str(), port.fault), ("waiting", None));
    fake.take();
    switch.tick();
    assert_eq!(fake.take(), [], "a served port is not served again");
}

#[test]
fn a_link_whose_interface_went_away_is_opened_again_when_it_is_back() {
    let (mut switch, fake, _) = fresh();
    switch.add_port(&tap("h")).unwrap();
    fake.take();
    fake.notes().gone = true;
    fake.notes().refuse = Some("does not exist");
    switch.tick();
    assert_eq!(fake.take(), [Told::Remove(1), Told::Add(1)]);
    assert!(switch.show_port("h").unwrap().fault.is_some());
    fake.notes().gone = false;
    fake.notes().refuse = None;
    switch.tick();
    assert_eq!(fake.take(), [Told::Add(1)]);
    assert_eq!(switch.show_port("h").unwrap().fault, None);
    let failures = switch.events.since(0).iter().filter(|e| e.body["kind"] == "port-failed").count();
    assert_eq!(failures, 1);
}

fn stored_uplink() -> PortConfig {
    PortConfig {
        id: PortId(5),
        name: "up".into(),
        mac: Mac([2, 0, 0, 0, 0, 5]),
        mac_kind: MacKind::Interface,
        device: Device::Uplink { interface: "eth8".into(), driver: UplinkDriver::Packet },
        policy: Policy::default(),
        metering: None,
        epoch: 0,
        carried: model::Carried::default(),
        extensions: BTreeMap::new(),
        acl: Arc::default(),
        rules: Arc::default(),
    }
}

#[test]
fn dynamic_addresses_come_from_a_pool_of_256_that_can_run_out() {
    let (mut switch, _, dir) = fresh();
    for i in 0..256 {
        switch.add_port(&guest(&dir, &format!("g{i}"))).unwrap();
    }
    assert_eq!(switch.show_port("g255").unwrap().mac, "00:15:5d:07:09:ff");
    assert_eq!(
        refused(&mut switch, |s| s.add_port(&guest(&dir, "more"))),
        "port 'more': all 256 dynamic addresses 00:15:5d:07:09:00-ff of this host are given out; valid: an explicit \
         --mac, or remove a port that has a dynamic one"
    );
    let explicit = NewPort { mac: Some("52:54:00:00:00:01".into()), ..guest(&dir, "more") };
    switch.add_port(&explicit).unwrap();
    switch.remove_port("g7").unwrap();
    switch.add_port(&tap("host")).unwrap();
    assert_eq!(switch.show_port("host").unwrap().mac, "00:15:5d:07:09:07");
}

#[test]
fn a_switch_has_at_most_1024_ports() {
    let (mut switch, _, dir) = fresh();
    for i in 0..MAX_PORTS {
        let mac = Mac([2, 0, 0, 0, (i >> 8) as u8, i as u8]).to_string();
        switch.add_port(&NewPort { mac: Some(mac), ..guest(&dir, &format!("g{i}")) }).unwrap();
    }
    assert_eq!(
        refused(&mut switch, |s| s.add_port(&guest(&dir, "more"))),
        "port 'more': the switch has 1024 ports already; valid: up to 1024; remove a port first"
    );
    switch.remove_port("g500").unwrap();
    switch.add_port(&guest(&dir, "more")).unwrap();
    assert_eq!(switch.show_port("more").unwrap().id, 501, "the one free number");
}

#[test]
fn a_number_is_not_given_again_at_once() {
    let (mut switch, _, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    switch.remove_port("a").unwrap();
    switch.add_port(&guest(&dir, "a")).unwrap();
    assert_eq!(switch.show_port("a").unwrap().id, 2);
}

#[test]
fn mac_spoofing_cannot_be_set_on_host_ports_and_uplinks() {
    let (mut switch, _, _) = fresh();
    switch.add_port(&tap("h")).unwrap();
    assert_eq!(
        refused(&mut switch, |s| s.set_port("h", &PortChange { policy: spoofing(true) })),
        "port 'h': mac-spoofing cannot be set on a host port (reason 5); valid: only guest ports have it"
    );
}

#[test]
fn null_restores_the_default_of_a_policy() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    let change = |json: &str| serde_json::from_str::<PortChange>(json).unwrap();
    switch.set_port("a", &change(r#"{"policy": {"link": "down", "mac_spoofing": true}}"#)).unwrap();
    assert!(!fake.notes().link_up);
    switch.set_port("a", &change(r#"{"policy": {"link": null}}"#)).unwrap();
    assert!(fake.notes().link_up);
    assert!(switch.show_port("a").unwrap().policy.mac_spoofing, "a key that is not given stays");
    let changes: Vec<_> = switch.events.since(1).iter().map(|e| e.text()).collect();
    assert_eq!(
        changes,
        ["port-changed port=a changes=link=down,mac_spoofing=true", "port-changed port=a changes=link=up"]
    );
}

#[test]
fn the_same_socket_by_another_path_is_still_in_use() {
    let (mut switch, _, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    let name = dir.path().file_name().unwrap().to_str().unwrap();
    let detour = format!("{}/../{name}/a.sock", dir.path().to_str().unwrap());
    for client in [false, true] {
        let same = NewPort { socket: Some(detour.clone()), client, ..guest(&dir, "b") };
        let line = refused(&mut switch, |s| s.add_port(&same));
        assert_eq!(
            line,
            format!("port 'b': socket path '{detour}' is used by port 'a'; valid: a path nobody listens on")
        );
    }
}

#[test]
fn an_mtu_that_was_lowered_at_the_port_is_followed() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&NewPort { mtu: Some(9000), ..guest(&dir, "a") }).unwrap();
    assert_eq!(fake.notes().published_mtu, 9000);
    fake.notes().mtu = 1400;
    switch.tick();
    assert_eq!(fake.notes().published_mtu, 1400);
    assert_eq!(switch.show_port("a").unwrap().mtu, 1400);
    fake.take();
    switch.tick();
    assert_eq!(fake.take(), [], "nothing new, nothing published");
}

#[test]
fn learned_addresses_are_shown_beside_configured_ones() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    switch.add_port(&guest(&dir, "b")).unwrap();
    let entry = |mac, port| fdb::Entry {
        mac,
        network: vswitch::Segment(0),
        port: PortId(port),
        kind: EntryKind::Learned,
        age_ms: 12,
    };
    fake.notes().fdb = vec![entry(Mac([2, 0, 0, 0, 0, 9]), 2), entry(Mac([2, 0, 0, 0, 0, 8]), 77)];
    let shown: Vec<_> = switch.fdb(None).unwrap().into_iter().map(|e| (e.port, e.kind, e.age_ms)).collect();
    let row = |port: &str, kind: &str, age| (port.to_owned(), kind.to_owned(), age);
    assert_eq!(shown, [row("a", "static", 0), row("b", "static", 0), row("b", "learned", 12)]);
    assert_eq!(switch.fdb(Some("b")).unwrap().len(), 2);
    assert!(switch.fdb(Some("c")).is_err());
}

#[test]
fn a_switch_that_is_stopping_refuses_changes() {
    let (mut switch, _, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    switch.stop();
    for result in [
        switch.add_port(&guest(&dir, "b")),
        switch.remove_port("a"),
        switch.set_switch(&kind(SwitchKind::Private)),
        switch.set_port("a", &PortChange { policy: spoofing(true) }),
    ] {
        assert_eq!(result.unwrap_err().why, Refusal::Stopping);
    }
}
