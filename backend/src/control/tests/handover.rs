//! Ports on the move: what leaves, what arrives, and that a move which is given up leaves no trace (section 20 of the semantics).

use migration::seal::FleetKey;
use migration::state::{ExtensionState, UnknownField};
use vswitch::Segment;
use vswitch::session::Saved as SavedSession;

use super::*;
use crate::control::handover::Trust;
use crate::control::types::{AclSpec, RuleSpec};

const ONE: PortId = PortId(1);
const MAC: &str = "52:54:00:00:00:01";

fn with_policy(switch: &mut Switch) {
    let policy = PolicyChange {
        vlan: Some(Some("access:7".into())),
        dhcp_guard: Some(Some(true)),
        vm: Some(Some("web".into())),
        addresses: Some(Some(vec!["10.0.0.1".into(), "2001:db8::1".into(), "10.1.0.0/16".into()])),
        ..PolicyChange::default()
    };
    switch.set_port("a", &PortChange { policy }).unwrap();
    let acl = |action: &str, direction: &str| AclSpec {
        action: action.into(),
        direction: direction.into(),
        local: None,
        remote: Some("10.9.0.0/16".into()),
    };
    switch.add_acl("a", &[acl("deny", "in"), acl("meter", "out")]).unwrap();
    let rule: RuleSpec = serde_json::from_value(json!({
        "action": "allow", "direction": "out", "weight": 10, "stateful": true, "protocol": "udp",
    }))
    .unwrap();
    switch.add_rules("a", &[rule], false).unwrap();
    switch.enable_meters(Some("a")).unwrap();
}

fn session() -> SavedSession {
    SavedSession {
        segment: Segment(7),
        protocol: 17,
        local: "10.0.0.1".parse().unwrap(),
        remote: "10.0.0.2".parse().unwrap(),
        local_port: 1,
        remote_port: 2,
        weight: 10,
        timeout_ms: 30_000,
        track: 8,
        age_ms: 5,
        idle_ms: 3,
    }
}

fn counters(packets: u64) -> PortCounters {
    let drops = vec![(vswitch::trace::DropReason::ALL[3], packets)];
    PortCounters { in_packets: packets, in_bytes: packets * 100, in_drops: drops, ..PortCounters::default() }
}

/// A switch with a port of that name and address.
fn host() -> (Switch, Fake, tempfile::TempDir) {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&NewPort { mac: Some(MAC.into()), ..guest(&dir, "a") }).unwrap();
    (switch, fake, dir)
}

/// A switch whose port has policy, counts and memory.
fn source() -> (Switch, Fake, tempfile::TempDir) {
    let (mut switch, fake, dir) = host();
    with_policy(&mut switch);
    for tally in switch.entry("a").unwrap().config.tallies().filter(|t| *t != Tally::NONE) {
        fake.notes().tallies.insert(tally.0, (u64::from(tally.0) + 4, 1000 * u64::from(tally.0)));
    }
    fake.notes().counters.insert(1, counters(42));
    let memory = PortMemory {
        learned: vec![(Mac([2, 0, 0, 0, 0, 9]), Segment(7), 12)],
        sessions: vec![session()],
        used: vec![("10.0.0.77".parse().unwrap(), 9)],
        storm: 3,
        ..PortMemory::default()
    };
    fake.notes().memories.insert(1, memory);
    (switch, fake, dir)
}

fn keyed(switch: &mut Switch, byte: u8) {
    switch.set_fleet_key(FleetKey::from_bytes(&[byte; 32]).unwrap());
}

fn run(switch: &mut Switch, fake: &Fake, port: u16) {
    *fake.notes().starts.entry(port).or_default() += 1;
    fake.notes().running.insert(port);
    switch.follow([PortId(port)]);
}

fn kinds(switch: &Switch) -> Vec<String> {
    switch.events.since(0).iter().map(|e| e.body["kind"].as_str().unwrap().to_owned()).collect()
}

/// Policy, lists with counts, meters and counters of the port, as an operator sees them.
fn port(switch: &Switch) -> Value {
    let view = switch.show_port("a").unwrap();
    let meter = switch.meter("a").map(|m| json!([m.since, m.entries])).unwrap_or_default();
    json!([view.policy, view.counters, switch.list_acl("a").unwrap(), switch.list_rules("a").unwrap(), meter])
}

#[test]
fn s20_2_a_sealed_state_makes_the_port_what_it_was_policy_meters_counters_and_memory() {
    let (mut from, there, _dir) = source();
    let (mut to, here, _dir2) = host();
    keyed(&mut from, 1);
    keyed(&mut to, 1);
    let state = from.depart(ONE).unwrap();
    assert!(there.notes().holding.contains(&1), "what comes meanwhile is held");
    to.arrive(ONE, &state, Trust::Seal).unwrap();
    assert!(here.notes().expecting.contains(&1));
    assert_eq!(port(&to), port(&from));
    assert_eq!(here.notes().memories[&1], there.notes().memories[&1]);
    assert!(here.notes().ports[0].present && !there.notes().ports[0].present);
    run(&mut to, &here, 1);
    assert_eq!(port(&to), port(&from));
    assert!(!here.notes().expecting.contains(&1));
    assert_eq!(kinds(&to)[1..], ["state-loaded", "guest-arrived"]);
    // And on: what arrived leaves again, later than before.
    here.notes().running.clear();
    let again = to.depart(ONE).unwrap();
    let first = from.entry("a").unwrap().config.epoch;
    assert!(to.entry("a").unwrap().config.epoch > first);
    from.arrive(ONE, &again, Trust::Seal).unwrap();
    run(&mut from, &there, 1);
    assert_eq!(port(&from), port(&to));
}

#[test]
fn s20_2_without_a_key_counts_are_taken_and_the_configured_policy_stays() {
    let (mut from, _there, _dir) = source();
    let (mut to, here, _dir2) = host();
    let acl = AclSpec {
        action: "deny".into(),
        direction: "in".into(),
        local: None,
        remote: Some("10.9.0.0/16".into()),
    };
    to.add_acl("a", &[acl]).unwrap();
    let state = from.depart(ONE).unwrap();
    to.arrive(ONE, &state, Trust::Seal).unwrap();
    let view = to.show_port("a").unwrap();
    assert_eq!(serde_json::to_value(view.policy).unwrap()["vlan"], "none");
    assert_eq!((view.acl_entries, view.rules, view.counters.in_packets), (1, 0, 42));
    let listed = from.list_acl("a").unwrap();
    let denied = listed.iter().find(|entry| entry.action == "deny").unwrap();
    assert_eq!(to.list_acl("a").unwrap()[0].packets, denied.packets, "the entry that both have counts on");
    assert_eq!(
        here.notes().memories[&1].sessions.len(),
        1,
        "the data path leaves out what its rules do not grant"
    );
    let event = to.events.since(0).last().unwrap().clone();
    assert_eq!(event.body["authenticated"], false);
}

#[test]
fn s20_1_an_arrival_whose_front_end_goes_before_the_rings_ran_leaves_no_trace() {
    let (mut from, _there, _dir) = source();
    let (mut to, here, _dir2) = host();
    keyed(&mut from, 1);
    keyed(&mut to, 1);
    to.enable_meters(Some("a")).unwrap();
    here.notes().counters.insert(1, counters(7));
    here.notes().tallies.insert(1, (5, 500));
    here.notes().memories.insert(1, PortMemory { storm: 9, ..PortMemory::default() });
    let before = (seen(&to), port(&to), to.entry("a").unwrap().config.clone());
    to.arrive(ONE, &from.depart(ONE).unwrap(), Trust::Seal).unwrap();
    assert_ne!(seen(&to), before.0);
    here.notes().detached.insert(1);
    to.follow([ONE]);
    here.notes().detached.clear();
    assert_eq!((seen(&to), port(&to)), (before.0, before.1));
    assert_eq!(to.entry("a").unwrap().config, before.2);
    assert_eq!(here.notes().memories[&1].storm, 9);
    assert!(here.notes().expecting.is_empty() && !here.notes().ports[0].present);
    assert_eq!(kinds(&to).last().unwrap(), "arrival-undone");
    // The same state may come again: the move is tried once more.
    let state = from.depart(ONE).unwrap();
    to.arrive(ONE, &state, Trust::Seal).unwrap();
    run(&mut to, &here, 1);
    assert_eq!(port(&to), port(&from));
    assert_eq!(
        to.tallies.clone().give(&mut [vswitch::port::acl::Entry {
            direction: vswitch::Direction::In,
            applies: vswitch::port::acl::Applies::Local,
            address: vswitch::port::acl::Address::Any,
            action: vswitch::port::acl::Action::Deny,
            tally: Tally::NONE,
        }]),
        Ok(())
    );
}

#[test]
fn s20_1_a_guest_that_runs_on_at_the_source_has_not_left() {
    let (mut from, there, _dir) = source();
    let before = port(&from);
    run(&mut from, &there, 1);
    there.notes().running.clear();
    from.follow([ONE]);
    from.depart(ONE).unwrap();
    assert!(there.notes().holding.contains(&1));
    run(&mut from, &there, 1);
    assert!(there.notes().holding.is_empty() && there.notes().ports[0].present);
    assert_eq!(port(&from), before);
    assert_eq!(kinds(&from).last().unwrap(), "guest-stayed");
    from.heard_elsewhere(ONE);
    assert!(there.notes().forwarded.is_empty(), "it is here");
}

#[test]
fn s20_1_what_was_held_follows_a_guest_that_is_heard_elsewhere_once() {
    let (mut from, there, _dir) = source();
    from.heard_elsewhere(ONE);
    assert!(there.notes().forwarded.is_empty(), "it has not left");
    from.depart(ONE).unwrap();
    from.heard_elsewhere(ONE);
    from.heard_elsewhere(ONE);
    assert_eq!(there.notes().forwarded, [1]);
    assert_eq!(kinds(&from).last().unwrap(), "guest-left");
}

#[test]
fn s20_3_an_arrived_guest_is_announced_with_each_address_it_owns() {
    let (mut from, _there, _dir) = source();
    let (mut to, here, _dir2) = host();
    to.arrive(ONE, &from.depart(ONE).unwrap(), Trust::Channel).unwrap();
    assert!(to.follow([ONE]).is_empty(), "not before its rings run");
    *here.notes().starts.entry(1).or_default() += 1;
    here.notes().running.insert(1);
    let announcements = to.follow([ONE]);
    assert_eq!(announcements.len(), 1);
    assert_eq!(
        announcements[0].frames.len(),
        3,
        "RARP, one IPv4 and one IPv6 address; a prefix is no address"
    );
    to.announce(&announcements[0]);
    assert_eq!(here.notes().announced, [(1, 3)]);
    assert!(to.follow([ONE]).is_empty(), "once");
}

#[test]
fn h27_states_that_are_forged_foreign_or_replayed_are_refused_and_change_nothing() {
    let (mut from, _there, _dir) = source();
    let (mut to, here, _dir2) = host();
    keyed(&mut from, 1);
    keyed(&mut to, 2);
    let state = from.depart(ONE).unwrap();
    let unchanged = |to: &mut Switch, state: &[u8]| {
        let before = (seen(to), to.entry("a").unwrap().config.clone());
        let line = to.arrive(ONE, state, Trust::Seal).unwrap_err().to_string();
        assert_eq!((seen(to), to.entry("a").unwrap().config.clone()), before, "{line}");
        line
    };
    let line = unchanged(&mut to, &state);
    assert!(
        line.starts_with("port 'a': the state of the port does not verify with the fleet key of this switch"),
        "{line}"
    );
    keyed(&mut to, 1);
    let mut forged = state.clone();
    forged[state.len() / 2] ^= 1;
    unchanged(&mut to, &forged);
    unchanged(&mut to, &state[..state.len() - 1]);
    unchanged(&mut to, &[]);
    to.arrive(ONE, &state, Trust::Seal).unwrap();
    let line = to.arrive(ONE, &state, Trust::Seal).unwrap_err().to_string();
    assert_eq!(
        line,
        "port 'a': a state has arrived for it already, and its guest is awaited; valid: to let the guest that is \
         awaited start, or to detach its front end"
    );
    run(&mut to, &here, 1);
    assert!(to.arrive(ONE, &state, Trust::Seal).unwrap_err().to_string().contains("its rings run"));
    here.notes().running.clear();
    unchanged(&mut to, &state);
    assert!(kinds(&to).iter().filter(|kind| *kind == "state-refused").count() >= 5);
    // Another port's state.
    let (mut other, _fake, dir) = fresh();
    keyed(&mut other, 1);
    other.add_port(&NewPort { mac: Some("52:54:00:00:00:02".into()), ..guest(&dir, "a") }).unwrap();
    assert!(other.arrive(ONE, &state, Trust::Seal).is_err());
}

#[test]
fn h27_saving_or_loading_while_the_rings_run_is_refused() {
    let (mut from, there, _dir) = source();
    let state = from.depart(ONE).unwrap();
    run(&mut from, &there, 1);
    let line = refused(&mut from, |s| s.depart(ONE));
    assert_eq!(line, "port 'a': its rings run; valid: a port whose guest is stopped or not attached");
    assert!(from.arrive(ONE, &state, Trust::Seal).is_err());
    assert!(there.notes().holding.is_empty());
}

#[test]
fn s20_4_a_guest_that_would_lose_a_part_of_its_device_is_refused() {
    let (mut from, _dir, dir) = fresh();
    let big = NewPort { mac: Some(MAC.into()), queues: Some(4), mtu: Some(9000), ..guest(&dir, "a") };
    from.add_port(&big).unwrap();
    let state = from.depart(ONE).unwrap();
    let (mut to, _here, _dir2) = host();
    let line = to.arrive(ONE, &state, Trust::Seal).unwrap_err().to_string();
    assert_eq!(
        line,
        "port 'a': the guest has 4 queue pairs and this port offers 1; valid: a port with --queues 4"
    );
}

#[test]
fn a_port_whose_guest_is_awaited_is_not_changed() {
    let (mut from, _there, _dir) = source();
    let (mut to, here, _dir2) = host();
    to.arrive(ONE, &from.depart(ONE).unwrap(), Trust::Channel).unwrap();
    let line = refused(&mut to, |s| s.set_port("a", &PortChange { policy: spoofing(true) }));
    assert!(line.contains("a state has arrived for it already"), "{line}");
    refused(&mut to, |s| s.enable_meters(Some("a")).and_then(|_| s.disable_meters(Some("a"))));
    run(&mut to, &here, 1);
    to.set_port("a", &PortChange { policy: spoofing(true) }).unwrap();
}

#[test]
fn s15_4_what_this_version_does_not_know_travels_on_with_the_port() {
    let (mut from, _there, _dir) = source();
    let carried = crate::control::model::Carried {
        extensions: vec![ExtensionState {
            name: "fw".into(),
            version: 3,
            config: Vec::new(),
            data: vec![2; 99],
        }],
        unknown: vec![UnknownField { group: 0, number: 900, bytes: vec![5, 6] }],
    };
    from.ports.get_mut("a").unwrap().config.carried = carried.clone();
    let (mut to, here, _dir2) = host();
    to.arrive(ONE, &from.depart(ONE).unwrap(), Trust::Seal).unwrap();
    run(&mut to, &here, 1);
    assert_eq!(to.entry("a").unwrap().config.carried, carried);
}

#[test]
fn an_exported_state_makes_the_port_anew_on_a_switch_that_keeps_it() {
    let (mut from, there, _dir) = source();
    run(&mut from, &there, 1);
    let file = from.export_port("a").unwrap();
    assert!(there.notes().holding.is_empty(), "a backup moves nothing");
    let state = tempfile::tempdir().unwrap();
    let here = Fake::default();
    let dir = tempfile::tempdir().unwrap();
    let (store, saved) = Store::open(state.path()).unwrap();
    let mut to = start(saved, store, &here);
    assert!(to.import_port(&file).unwrap_err().to_string().contains("there is no such port"));
    to.add_port(&NewPort { mac: Some(MAC.into()), ..guest(&dir, "a") }).unwrap();
    assert_eq!(to.import_port(&file).unwrap(), "a");
    assert_eq!(port(&to), port(&from));
    let config = to.entry("a").unwrap().config.clone();
    drop(to);
    let (_, saved) = Store::open(state.path()).unwrap();
    assert_eq!(saved.ports, [config]);
}

#[test]
fn a_key_is_32_bytes_that_only_their_owner_reads() {
    use crate::control::handover::{new_key, read_key};
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let line = |path: &std::path::Path| read_key(path).err().unwrap().to_string();
    assert!(line(&path).contains("it cannot be read"));
    new_key(&path).unwrap();
    read_key(&path).unwrap();
    assert!(
        new_key(&path).unwrap_err().to_string().contains("it cannot be made"),
        "an old key is not overwritten"
    );
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(line(&path).contains("its mode 640 lets others than its owner use it"), "{}", line(&path));
    for (length, text) in
        [(0, "the fleet key has 0 bytes; it must have 32"), (31, "has 31 bytes"), (33, "has 33 bytes")]
    {
        std::fs::write(&path, vec![7; length]).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(line(&path).contains(text), "{}", line(&path));
    }
}
