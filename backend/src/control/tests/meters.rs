//! Metering: who gets default meters, and what becomes of numbers (section 9 of the semantics).

use super::*;
use crate::control::types::{AclSpec, MeterView};

fn acl(action: &str, direction: &str, remote: &str) -> AclSpec {
    let remote = Some(remote.into());
    AclSpec { action: action.into(), direction: direction.into(), local: None, remote }
}

/// Direction, remote address, packets and bytes of each meter.
fn numbers(view: &MeterView) -> Vec<(&str, &str, u64, u64)> {
    let entry = |e: &'_ crate::control::types::MeterEntry| (e.packets, e.bytes);
    view.entries
        .iter()
        .map(|e| (e.direction.as_str(), e.remote.as_deref().unwrap_or("-"), entry(e).0, entry(e).1))
        .collect()
}

fn texts(switch: &Switch, port: &str) -> Vec<String> {
    let list = switch.list_acl(port).unwrap();
    list.iter()
        .map(|e| format!("{} {} {}", e.action, e.direction, e.remote.as_deref().unwrap_or("-")))
        .collect()
}

/// Each tally of a port counts its own number of packets, of 100 bytes each.
fn count(switch: &Switch, fake: &Fake, port: &str) {
    for tally in switch.entry(port).unwrap().config.tallies().filter(|t| *t != Tally::NONE) {
        fake.notes().tallies.insert(tally.0, (tally.0.into(), u64::from(tally.0) * 100));
    }
}

#[test]
fn s9_enabling_adds_four_default_meters_where_there_is_no_acl() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    let views = switch.enable_meters(Some("a")).unwrap();
    let zero = |direction, remote| (direction, remote, 0, 0);
    let expected =
        [zero("out", "0.0.0.0/0"), zero("out", "::/0"), zero("in", "0.0.0.0/0"), zero("in", "::/0")];
    assert_eq!(numbers(&views[0]), expected);
    count(&switch, &fake, "a");
    // Enabling again neither resets nor adds.
    let again = switch.enable_meters(Some("a")).unwrap();
    assert_eq!(again[0].since, views[0].since);
    assert_eq!(numbers(&again[0]).iter().map(|n| n.2).sum::<u64>(), 1 + 2 + 3 + 4);
}

#[test]
fn s9_a_port_with_any_acl_entry_gets_no_default_meters() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    switch.add_acl("a", &[acl("meter", "out", "10.0.0.0/8"), acl("allow", "in", "any")]).unwrap();
    count(&switch, &fake, "a");
    let views = switch.enable_meters(Some("a")).unwrap();
    assert_eq!(numbers(&views[0]), [("out", "10.0.0.0/8", 0, 0)], "and its own begin at zero");
    count(&switch, &fake, "a");
    switch.disable_meters(Some("a")).unwrap();
    assert_eq!(texts(&switch, "a").len(), 2, "what metering did not add stays");
    assert!(fake.notes().tallies.is_empty(), "its numbers are gone");
}

#[test]
fn s9_disabling_removes_the_default_meters_that_are_still_there() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    switch.enable_meters(Some("a")).unwrap();
    switch.remove_acl("a", &acl("meter", "in", "::/0")).unwrap();
    switch.add_acl("a", &[acl("deny", "in", "10.0.0.0/8")]).unwrap();
    count(&switch, &fake, "a");
    assert_eq!(switch.disable_meters(Some("a")).unwrap(), ["a"]);
    assert_eq!(texts(&switch, "a"), ["deny in 10.0.0.0/8"]);
    let line = switch.meter("a").unwrap_err().to_string();
    assert_eq!(line, "port 'a': it is not metered; valid: 'turnpike meter enable a' first");
    assert!(switch.reset_meters(Some("a")).is_err() && switch.disable_meters(Some("a")).is_err());
    // The number of a removed meter begins at zero for whoever gets it next.
    switch.enable_meters(Some("a")).unwrap();
    switch.add_acl("a", &[acl("meter", "in", "10.1.0.0/16")]).unwrap();
    assert_eq!(numbers(&switch.meter("a").unwrap()), [("in", "10.1.0.0/16", 0, 0)]);
}

#[test]
fn s9_reset_sets_numbers_and_duration_to_zero_and_goes_on() {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    switch.enable_meters(Some("a")).unwrap();
    let entry = switch.ports.get_mut("a").unwrap();
    entry.config.metering.as_mut().unwrap().since_ms -= 90_000;
    let before = switch.meter("a").unwrap();
    assert!((90..100).contains(&before.duration_s));
    count(&switch, &fake, "a");
    let after = switch.reset_meters(None).unwrap();
    assert!(after[0].since > before.since && after[0].duration_s < 10);
    assert_eq!(numbers(&after[0]).iter().map(|n| n.2 + n.3).sum::<u64>(), 0);
    count(&switch, &fake, "a");
    assert_eq!(numbers(&switch.meter("a").unwrap()).iter().map(|n| n.3).sum::<u64>(), 1000);
}

#[test]
fn s9_the_total_adds_equal_meters_over_ports() {
    let (mut switch, fake, dir) = fresh();
    for name in ["a", "b", "c"] {
        switch.add_port(&guest(&dir, name)).unwrap();
    }
    switch.add_acl("c", &[acl("meter", "in", "10.0.0.0/8")]).unwrap();
    assert_eq!(switch.enable_meters(None).unwrap().len(), 3);
    switch.disable_meters(Some("b")).unwrap();
    for tally in switch.entry("a").unwrap().config.tallies() {
        fake.notes().tallies.insert(tally.0, (1, u64::MAX));
    }
    switch.enable_meters(Some("b")).unwrap();
    for port in ["b", "c"] {
        for tally in switch.entry(port).unwrap().config.tallies() {
            fake.notes().tallies.insert(tally.0, (2, 70));
        }
    }
    let total = switch.meter_total();
    assert_eq!(total.port, None);
    assert_eq!(
        numbers(&total),
        [
            ("in", "0.0.0.0/0", 3, u64::MAX),
            ("in", "10.0.0.0/8", 2, 70),
            ("in", "::/0", 3, u64::MAX),
            ("out", "0.0.0.0/0", 3, u64::MAX),
            ("out", "::/0", 3, u64::MAX),
        ]
    );
    assert_eq!(switch.disable_meters(None).unwrap(), ["a", "b", "c"]);
    assert!(switch.meters().is_empty());
}

#[test]
fn s9_an_uplink_is_not_metered() {
    let saved = Saved { ports: vec![stored_uplink()], ..Saved::default() };
    let mut switch = start(saved, Store::none(), &Fake::default());
    let name = stored_uplink().name;
    let line = switch.enable_meters(Some(&name)).unwrap_err().to_string();
    assert!(line.contains("metering cannot be set on an uplink"), "{line}");
    assert!(switch.enable_meters(None).unwrap().is_empty());
}

#[test]
fn s9_metering_survives_a_restart_and_a_failing_disk_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, saved) = Store::open(directory.path()).unwrap();
    let mut switch = start(saved, store, &Fake::default());
    switch.add_port(&guest(&directory, "a")).unwrap();
    switch.enable_meters(Some("a")).unwrap();
    let config = switch.entry("a").unwrap().config.clone();
    drop(switch);
    let (store, saved) = Store::open(directory.path()).unwrap();
    let fake = Fake::default();
    let mut switch = start(saved, store, &fake);
    assert_eq!(switch.entry("a").unwrap().config, config);
    count(&switch, &fake, "a");
    switch.store = Store::failing();
    let before = switch.meter("a").unwrap();
    assert!(switch.reset_meters(Some("a")).is_err() && switch.disable_meters(None).is_err());
    assert_eq!(switch.meter("a").unwrap().entries, before.entries);
    assert_eq!(switch.entry("a").unwrap().config, config);
}
