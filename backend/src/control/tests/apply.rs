//! A switch made equal to a document: what stays, what goes, and that a refusal leaves everything as it was.

use super::*;
use crate::control::types::{AclSpec, Config, ConfigPort, ConfigUplink, RuleSpec};

fn port(dir: &tempfile::TempDir, name: &str) -> ConfigPort {
    ConfigPort { name: name.into(), socket: guest(dir, name).socket, ..ConfigPort::default() }
}

fn deny(remote: &str) -> AclSpec {
    let remote = Some(remote.into());
    AclSpec { action: "deny".into(), direction: "in".into(), local: None, remote }
}

fn rule(weight: u64, remote: &str) -> RuleSpec {
    RuleSpec {
        action: "allow".into(),
        direction: "out".into(),
        weight,
        remote: Some(remote.into()),
        ..RuleSpec::default()
    }
}

fn ports<const N: usize>(ports: [&ConfigPort; N]) -> Config {
    Config { port: ports.into_iter().cloned().collect(), ..Config::default() }
}

/// Applies a document and returns the differences as lines.
fn apply(switch: &mut Switch, config: &Config) -> Vec<String> {
    let applied = switch.apply(config, false).unwrap();
    assert_eq!(switch.apply(config, false).unwrap().changes, [], "applying again changes nothing");
    applied.changes.iter().map(|d| format!("{} {}: {}", d.op, d.object, d.text)).collect()
}

/// Everything an operator can see, with the lists.
fn all(switch: &Switch) -> Value {
    let lists: Vec<_> = switch
        .ports
        .keys()
        .map(|name| {
            (switch.list_acl(name).unwrap(), switch.list_rules(name).unwrap(), switch.meter(name).ok())
        })
        .collect();
    json!([seen(switch), lists, switch.save()])
}

#[test]
fn ports_are_added_changed_and_removed_with_one_snapshot() {
    let (mut switch, fake, dir) = fresh();
    let (mut a, b) = (port(&dir, "a"), port(&dir, "b"));
    let lines = apply(&mut switch, &ports([&a, &b]));
    assert!(lines[0].starts_with("+ port 'a': socket /") && lines[0].contains("mac 00:15:5d"), "{lines:?}");
    let published = Told::Publish(vec![(1, false), (2, false)]);
    assert_eq!(fake.take(), [published, Told::Clear(1), Told::Clear(2), Told::Add(1), Told::Add(2)]);

    a.policy = spoofing(true);
    a.metering = true;
    a.rule = vec![rule(7, "10.0.0.0/8")];
    let c = port(&dir, "c");
    let lines = apply(&mut switch, &ports([&a, &c]));
    assert_eq!(lines[0], "- port 'b': ");
    assert_eq!(lines[1], "~ port 'a': mac-spoofing true, metering true");
    assert_eq!(lines[2], "+ port 'a' acl: meter out remote 0.0.0.0/0");
    assert_eq!(lines[6], "+ port 'a' rule: allow out remote 10.0.0.0/8 weight 7");
    assert_eq!(lines.len(), 8);
    let published = Told::Publish(vec![(1, true), (3, false)]);
    assert_eq!(fake.take(), [Told::Remove(2), published, Told::Clear(3), Told::Add(3)]);
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    let (mut switch, fake, dir) = fresh();
    let before = all(&switch);
    let config = ports([&ConfigPort { metering: true, acl: vec![deny("any")], ..port(&dir, "a") }]);
    let dry = switch.apply(&config, true).unwrap();
    assert_eq!((all(&switch), fake.take()), (before, vec![]));
    let real = switch.apply(&config, false).unwrap();
    assert!(dry.dry_run && !real.dry_run && !dry.changes.is_empty());
    assert_eq!(dry.changes, real.changes);
}

#[test]
fn what_was_saved_is_applied_without_a_change() {
    let (mut switch, fake, dir) = fresh();
    switch.set_switch(&kind(SwitchKind::Internal)).unwrap();
    switch.add_port(&NewPort { mac: Some("02:00:00:00:00:07".into()), ..guest(&dir, "a") }).unwrap();
    switch.add_port(&NewPort { queues: Some(2), mtu: Some(9000), ..guest(&dir, "b") }).unwrap();
    switch.add_port(&tap("c")).unwrap();
    let policy = PolicyChange {
        vlan: Some(Some("trunk:1-10,20/5".into())),
        vm: Some(Some("vm".into())),
        teaming: Some(Some(true)),
        addresses: Some(Some(vec!["10.0.0.1".into(), "fd00::/8".into()])),
        mirror: Some(Some("source".into())),
        storm_limit: Some(Some(9)),
        link: Some(Some(crate::control::types::LinkState::Down)),
        ..PolicyChange::default()
    };
    switch.set_port("b", &PortChange { policy }).unwrap();
    switch.add_acl("b", &[deny("10.0.0.0/8"), deny("any-mac")]).unwrap();
    switch.add_rules("c", &[rule(1, "::/0"), rule(2, "10.0.0.1")], false).unwrap();
    switch.enable_meters(None).unwrap();
    switch.add_acl("c", &[deny("10.9.0.0/16")]).unwrap();
    let saved = switch.save();
    let (before, _) = (all(&switch), fake.take());
    assert_eq!(switch.apply(&saved, false).unwrap().changes, []);
    assert_eq!((all(&switch), fake.take()), (before, vec![]));
    // A fresh switch becomes the same one, but for dynamic addresses and times.
    let mut other = start(Saved::default(), Store::none(), &Fake::default());
    other.apply(&saved, false).unwrap();
    assert_eq!(other.save(), saved);
}

#[test]
fn list_entries_that_stay_keep_their_counts_and_new_ones_begin_at_zero() {
    let (mut switch, fake, dir) = fresh();
    let a = ConfigPort { acl: vec![deny("10.0.0.0/8"), deny("10.1.0.0/16")], ..port(&dir, "a") };
    apply(&mut switch, &ports([&a]));
    for tally in switch.entry("a").unwrap().config.tallies() {
        fake.notes().tallies.insert(tally.0, (1, 60));
    }
    let a = ConfigPort { acl: vec![deny("10.2.0.0/16"), deny("10.1.0.0/16")], ..a };
    let lines = apply(&mut switch, &ports([&a]));
    assert_eq!(
        lines,
        ["- port 'a' acl: deny in remote 10.0.0.0/8", "+ port 'a' acl: deny in remote 10.2.0.0/16"]
    );
    let counts: Vec<_> = switch.list_acl("a").unwrap().into_iter().map(|e| (e.remote, e.bytes)).collect();
    assert_eq!(counts, [(Some("10.1.0.0/16".into()), Some(60)), (Some("10.2.0.0/16".into()), Some(0))]);
}

#[test]
fn a_port_whose_device_or_address_differs_is_made_anew() {
    let (mut switch, fake, dir) = fresh();
    let a = port(&dir, "a");
    apply(&mut switch, &ports([&a]));
    for (changed, same) in [
        (ConfigPort { queues: Some(2), ..a.clone() }, false),
        (ConfigPort { queues: Some(2), mac: Some("02:00:00:00:00:09".into()), ..a.clone() }, false),
        (ConfigPort { queues: Some(2), mac: Some("02-00-00-00-00-09".into()), ..a.clone() }, true),
        (ConfigPort { name: "a".into(), tap: Some("tp0".into()), ..ConfigPort::default() }, false),
    ] {
        fake.take();
        let lines = apply(&mut switch, &ports([&changed]));
        let told = fake.take();
        assert_eq!(lines.is_empty(), same, "{lines:?}");
        if !same {
            assert!(lines[0] == "- port 'a': " && lines[1].starts_with("+ port 'a': "), "{lines:?}");
            assert!(matches!(told[..], [Told::Remove(_), Told::Publish(_), Told::Clear(_), Told::Add(_)]));
        }
    }
    // The socket of a port that goes may be used by another one of the same change, although somebody listens there.
    apply(&mut switch, &ports([&a]));
    let _listener = std::os::unix::net::UnixListener::bind(a.socket.as_ref().unwrap()).unwrap();
    apply(&mut switch, &ports([&ConfigPort { name: "b".into(), ..a.clone() }]));
    let other = port(&dir, "c");
    let _other = std::os::unix::net::UnixListener::bind(other.socket.as_ref().unwrap()).unwrap();
    let line = refused(&mut switch, |s| s.apply(&ports([&other]), false));
    assert!(line.contains("is used by another program"), "{line}");
}

#[test]
fn a_dynamic_address_stays_and_a_given_one_is_never_drawn() {
    let (mut switch, _, dir) = fresh();
    let a = port(&dir, "a");
    apply(&mut switch, &ports([&a]));
    let mac = switch.show_port("a").unwrap().mac;
    // The next address of the pool is given to `c`, so `b` gets the one after it.
    let next = format!("{}01", mac.strip_suffix("00").unwrap());
    let c = ConfigPort { mac: Some(next), ..port(&dir, "c") };
    apply(&mut switch, &ports([&a, &port(&dir, "b"), &c]));
    assert_eq!(switch.show_port("a").unwrap().mac, mac);
    assert!(switch.show_port("b").unwrap().mac.ends_with("02"));
    // An address that is written down stays the same one.
    let lines = apply(&mut switch, &ports([&ConfigPort { mac: Some(mac.clone()), ..a }]));
    assert!(lines.contains(&format!("~ port 'a': mac {mac} (static)")), "{lines:?}");
}

#[test]
fn a_refused_element_leaves_the_whole_switch_as_it_was() {
    let (mut switch, fake, dir) = fresh();
    let a = ConfigPort { acl: vec![deny("10.0.0.0/8")], metering: true, ..port(&dir, "a") };
    apply(&mut switch, &ports([&a]));
    fake.take();
    let before = all(&switch);
    let b = || port(&dir, "b");
    let vlan = |text: &str| PolicyChange { vlan: Some(Some(text.into())), ..PolicyChange::default() };
    let cases: Vec<(Config, &str)> = vec![
        (ports([&b(), &b()]), "port 'b': the name is taken by a guest port"),
        (ports([&a, &ConfigPort { socket: a.socket.clone(), ..b() }]), "is used by port 'a'"),
        (ports([&ConfigPort { policy: vlan("access:9999"), ..a.clone() }, &b()]), "port 'a': vlan"),
        (
            ports([
                &ConfigPort { policy: vlan("isolated:10/20"), ..a.clone() },
                &ConfigPort { policy: vlan("community:10/20"), ..b() },
            ]),
            "VLAN 20 would be",
        ),
        (
            ports([&ConfigPort { acl: vec![deny("any"), deny("10.0.0.1/8")], ..b() }]),
            "port 'b', ACL entry 2: ",
        ),
        (ports([&ConfigPort { acl: vec![deny("any"), deny("any")], ..b() }]), "port 'b': "),
        (ports([&ConfigPort { rule: vec![rule(0, "any")], ..b() }]), "port 'b': weight 0"),
        (ports([&ConfigPort { mac: Some("02:00:00:00:00:00:00".into()), ..a.clone() }]), "is not a MAC"),
        (
            Config {
                switch: kind(SwitchKind::Private),
                ..ports([&ConfigPort { socket: None, tap: Some("t".into()), ..b() }])
            },
            "a private switch has no host port",
        ),
        (
            Config {
                uplink: vec![ConfigUplink {
                    name: "a".into(),
                    device: "lo".into(),
                    ..ConfigUplink::default()
                }],
                ..ports([&a])
            },
            "port 'a': the name is taken by an uplink",
        ),
    ];
    for (config, text) in cases {
        for dry_run in [true, false] {
            let line = refused(&mut switch, |s| s.apply(&config, dry_run));
            assert!(line.contains(text), "{line}");
            assert_eq!((all(&switch), fake.take()), (before.clone(), vec![]), "{line}");
        }
    }
}

#[test]
fn what_fails_on_the_way_is_undone() {
    let (mut switch, fake, dir) = fresh();
    let (a, b) = (port(&dir, "a"), port(&dir, "b"));
    apply(&mut switch, &ports([&a, &b]));
    fake.take();
    let before = all(&switch);
    let config =
        ports([&ConfigPort { policy: spoofing(true), acl: vec![deny("any")], ..a }, &port(&dir, "c")]);
    let old = || Told::Publish(vec![(1, false), (2, false)]);
    let new = || Told::Publish(vec![(1, true), (3, false)]);

    switch.store = Store::failing();
    let line = refused(&mut switch, |s| s.apply(&config, false));
    assert!(line.contains("could not be stored"), "{line}");
    let told = fake.take();
    assert_eq!(
        told,
        [Told::Remove(2), new(), Told::Clear(3), Told::Add(3), Told::Remove(3), old(), Told::Add(2)]
    );
    assert_eq!(all(&switch), before);

    switch.store = Store::none();
    fake.notes().refuse = Some("no descriptors");
    assert!(switch.apply(&config, false).unwrap_err().to_string().contains("port 'c': socket"));
    fake.notes().refuse = None;
    assert_eq!(fake.take()[3..], [Told::Add(3), old(), Told::Add(2)]);
    // The port that had to be let go of could not be served again; that is tried until it works.
    switch.tick();
    assert_eq!(all(&switch), before);
    let lines = apply(&mut switch, &config);
    assert_eq!(lines.len(), 4, "{lines:?}");
}

#[test]
fn an_applied_document_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let a = ConfigPort { metering: true, rule: vec![rule(5, "any")], ..port(&directory, "a") };
    let config = Config { switch: kind(SwitchKind::Private), ..ports([&a, &port(&directory, "b")]) };
    let (store, saved) = Store::open(directory.path()).unwrap();
    let mut switch = start(saved, store, &Fake::default());
    apply(&mut switch, &ports([&port(&directory, "b"), &port(&directory, "gone")]));
    apply(&mut switch, &config);
    let configs: Vec<_> = switch.configs().cloned().collect();
    drop(switch);
    let (store, saved) = Store::open(directory.path()).unwrap();
    let mut switch = start(saved, store, &Fake::default());
    assert!(switch.configs().eq(&configs));
    assert_eq!(switch.apply(&config, false).unwrap().changes, []);
}
