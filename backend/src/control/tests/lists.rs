//! ACL entries and extended rules: what is listed, what is refused with which number, and what it costs.

use vswitch::Direction;

use super::*;
use crate::control::types::{AclSpec, RuleKey, RuleSpec};

fn acl(action: &str, direction: &str, local: Option<&str>, remote: Option<&str>) -> AclSpec {
    let own = |text: Option<&str>| text.map(str::to_owned);
    AclSpec { action: action.into(), direction: direction.into(), local: own(local), remote: own(remote) }
}

fn deny(remote: &str) -> AclSpec {
    acl("deny", "in", None, Some(remote))
}

fn rule(weight: u64) -> RuleSpec {
    RuleSpec { action: "allow".into(), direction: "in".into(), weight, ..RuleSpec::default() }
}

fn with_port() -> (Switch, Fake, tempfile::TempDir) {
    let (mut switch, fake, dir) = fresh();
    switch.add_port(&guest(&dir, "a")).unwrap();
    fake.take();
    (switch, fake, dir)
}

/// Tally numbers of port `a`, as published.
fn published(fake: &Fake) -> Vec<u32> {
    let notes = fake.notes();
    let policy = &notes.ports[0].policy;
    let entries = policy.acl.entries().iter().map(|e| e.tally.0);
    entries.chain(policy.rules.rules().map(|r| r.tally.0)).collect()
}

#[test]
fn s7_both_is_stored_and_shown_as_two_entries() {
    let (mut switch, fake, _dir) = with_port();
    let both = acl("deny", "both", None, Some("10.0.0.0/8"));
    let added = switch.add_acl("a", std::slice::from_ref(&both)).unwrap();
    assert_eq!(added, switch.list_acl("a").unwrap());
    assert_eq!(added.iter().map(|e| e.direction.as_str()).collect::<Vec<_>>(), ["out", "in"]);
    assert_eq!(fake.notes().ports[0].policy.acl.entries().len(), 2);
    // One of the two is an entry of its own.
    switch.remove_acl("a", &acl("deny", "out", None, Some("10.0.0.0/8"))).unwrap();
    let line = refused(&mut switch, |s| s.remove_acl("a", &both));
    assert!(line.contains("there is no ACL entry 'deny out remote 10.0.0.0/8' (reason 26)"), "{line}");
    switch.remove_acl("a", &deny("10.0.0.0/8")).unwrap();
    assert_eq!(switch.list_acl("a").unwrap(), []);
}

#[test]
fn s7_deny_and_meter_entries_show_what_they_counted_and_allow_entries_do_not() {
    let (mut switch, fake, _dir) = with_port();
    let meter = acl("meter", "out", Some("any"), None);
    switch.add_acl("a", &[deny("any"), acl("allow", "in", None, Some("10.0.0.1")), meter]).unwrap();
    let numbers = published(&fake);
    for (number, counted) in numbers.iter().zip([(3, 300), (4, 400), (5, 500)]) {
        fake.notes().tallies.insert(*number, counted);
    }
    let shown = switch.list_acl("a").unwrap().into_iter().map(|e| (e.action, e.packets, e.bytes));
    let expected = [("meter", Some(3), Some(300)), ("deny", Some(4), Some(400)), ("allow", None, None)];
    assert_eq!(shown.collect::<Vec<_>>(), expected.map(|(action, p, b)| (action.to_owned(), p, b)));
}

#[test]
fn s7_refused_entries_have_their_numbers() {
    let (mut switch, _, _dir) = with_port();
    switch.add_acl("a", &[deny("10.0.0.0/8")]).unwrap();
    let forms = "valid: an IPv4 or IPv6 address or prefix such as 10.0.0.0/8 or 2001:db8::/32, a MAC address, any or any-mac";
    let cases = [
        (deny("fred"), format!("'fred' is not an address (reason 14); {forms}")),
        (deny(""), format!("'' is not an address (reason 14); {forms}")),
        (acl("drop", "in", None, Some("any")), "'drop' is not an action (reason 15); valid: allow, deny or meter".into()),
        (acl("deny", "up", None, Some("any")), "'up' is not a direction (reason 16); valid: in, out or both".into()),
        (deny("10.0.0.0/33"), "'10.0.0.0/33' has a wrong prefix length (reason 17); valid: 0 to 32".into()),
        (deny("::/129"), "'::/129' has a wrong prefix length (reason 17); valid: 0 to 128".into()),
        (deny("::/+1"), "'::/+1' has a wrong prefix length (reason 17); valid: 0 to 128".into()),
        (deny("02:00:00:00:00:01/24"), "'02:00:00:00:00:01/24' has a wrong prefix length (reason 17); valid: a MAC address without a length".into()),
        (deny("10.0.0"), "'10.0.0' has 3 parts (reason 18); valid: four, as in 192.0.2.1".into()),
        (deny("02:00:00:00:01"), "'02:00:00:00:01' has 5 parts (reason 18); valid: six (MAC) or eight (IPv6)".into()),
        (deny("10.0.0.256"), "'10.0.0.256' is not an address (reason 19); valid: four numbers from 0 to 255 without leading zeros".into()),
        (deny("1::2::3"), format!("'1::2::3' is not an address (reason 19); {forms}")),
        (deny("00:00:00:00:00:00"), "'00:00:00:00:00:00' is not an address (reason 19); valid: a MAC address that is not zero".into()),
        (deny("10.1.2.3/8"), "'10.1.2.3/8' has bits set beyond its prefix length (reason 19); valid: 10.0.0.0/8, or 10.1.2.3 alone".into()),
        (acl("deny", "in", None, None), "no address is given (reason 20); valid: either a local or a remote address".into()),
        (acl("deny", "in", Some("any"), Some("any")), "both a local and a remote address are given (reason 20); valid: either a local or a remote address".into()),
        (deny("10.0.0.0/8"), "there is an ACL entry 'deny in remote 10.0.0.0/8' already (reason 24); valid: another address, or 'turnpike acl remove' that one first".into()),
        (acl("allow", "in", None, Some("10.0.0.0/8")), "there is an ACL entry 'deny in remote 10.0.0.0/8' already (reason 24); valid: another address, or 'turnpike acl remove' that one first".into()),
    ];
    for (spec, expected) in cases {
        let line = refused(&mut switch, |s| s.add_acl("a", std::slice::from_ref(&spec)));
        assert_eq!(line, format!("port 'a': {expected}"));
    }
    // What the product refuses as 13, and what looks like a duplicate and is none.
    let mac_meter = acl("meter", "in", None, Some("02:00:00:00:00:01"));
    let distinct = [
        mac_meter,
        acl("meter", "in", None, Some("10.0.0.0/8")),
        acl("deny", "in", Some("10.0.0.0/8"), None),
    ];
    switch.add_acl("a", &distinct).unwrap();
}

#[test]
fn s8_refused_rules_have_their_numbers() {
    let (mut switch, _, _dir) = with_port();
    switch.add_rules("a", &[rule(7)], false).unwrap();
    let text = |text: &str| Some(text.to_owned());
    let stateful = RuleSpec { stateful: true, protocol: text("tcp"), ..rule(1) };
    let cases = [
        (
            RuleSpec { action: "meter".into(), ..rule(1) },
            "'meter' is not an action (reason 15); valid: allow or deny",
        ),
        (
            RuleSpec { direction: "both".into(), ..rule(1) },
            "'both' is not a direction (reason 16); valid: in or out (one rule for each)",
        ),
        (rule(0), "weight 0 is out of range; valid: 1 to 2147483647"),
        (rule(1 << 31), "weight 2147483648 is out of range; valid: 1 to 2147483647"),
        (
            rule(7),
            "there is a rule 'in weight 7' already (reason 24); valid: another weight, or 'turnpike rule add --replace' to change that one",
        ),
        (
            RuleSpec { local: text("10.1.0.0/8"), ..rule(1) },
            "'10.1.0.0/8' has bits set beyond its prefix length (reason 19); valid: 10.0.0.0/8, or 10.1.0.0 alone",
        ),
        (
            RuleSpec { remote: text("any-mac"), ..rule(1) },
            "'any-mac' is not an address (reason 14); valid: an IPv4 or IPv6 address or prefix such as 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32",
        ),
        (
            RuleSpec { idle_timeout: text("30s"), ..rule(1) },
            "an idle timeout is given, and the rule is not stateful (reason 77); valid: --stateful as well, or no idle timeout",
        ),
        (
            RuleSpec { protocol: text("256"), ..rule(1) },
            "'256' is not a protocol (reason 78); valid: tcp, udp, icmp, icmpv6 or a number from 0 to 255",
        ),
        (
            RuleSpec { protocol: text("TCP"), ..rule(1) },
            "'TCP' is not a protocol (reason 78); valid: tcp, udp, icmp, icmpv6 or a number from 0 to 255",
        ),
        (
            RuleSpec { local_port: text("65536"), ..rule(1) },
            "'65536' is not a port or a range of ports (reason 79); valid: 0 to 65535, or two of them such as 8000-8100",
        ),
        (
            RuleSpec { remote_port: text("9-8"), ..rule(1) },
            "'9-8' is not a port or a range of ports (reason 79); valid: 0 to 65535, or two of them such as 8000-8100",
        ),
        (
            RuleSpec { remote_port: text("9"), protocol: text("icmp"), ..rule(1) },
            "ports are given, and protocol icmp has none (reason 79); valid: protocol tcp or udp",
        ),
        (
            RuleSpec { stateful: true, ..rule(1) },
            "a stateful rule is about every protocol (reason 80); valid: protocol tcp or udp",
        ),
        (
            RuleSpec { protocol: text("47"), ..stateful.clone() },
            "a stateful rule is about 47 (reason 80); valid: protocol tcp or udp",
        ),
        (
            RuleSpec { action: "deny".into(), ..stateful.clone() },
            "a stateful rule denies; valid: action allow, or a rule that is not stateful",
        ),
        (
            RuleSpec { idle_timeout: text("999ms"), ..stateful.clone() },
            "'999ms' is not a value of idle-timeout; valid: 1s to 24h",
        ),
        (
            RuleSpec { idle_timeout: text("1441m"), ..stateful.clone() },
            "'1441m' is not a value of idle-timeout; valid: 1s to 24h",
        ),
        (
            RuleSpec { isolation_id: Some(4095), ..rule(1) },
            "'4095' is not a value of isolation-id; valid: 1 to 4094 (VLAN) or 4096 to 16777214 (virtual subnet)",
        ),
    ];
    for (spec, expected) in cases {
        let line = refused(&mut switch, |s| s.add_rules("a", std::slice::from_ref(&spec), false));
        assert_eq!(line, format!("port 'a': {expected}"));
    }
    let line = refused(&mut switch, |s| s.remove_rule("a", &RuleKey { direction: "out".into(), weight: 7 }));
    assert_eq!(
        line,
        "port 'a': there is no rule 'out weight 7' (reason 26); valid: one of those in 'turnpike rule list a', with the \
         same arguments"
    );
}

#[test]
fn s8_a_rule_is_shown_as_it_was_given_and_in_the_order_of_asking() {
    let (mut switch, _, _dir) = with_port();
    let text = |text: &str| Some(text.to_owned());
    let full = RuleSpec {
        local: text("10.0.0.1"),
        remote: text("2001:db8::/32"),
        local_port: text("80"),
        remote_port: text("1024-65535"),
        protocol: text("tcp"),
        stateful: true,
        idle_timeout: text("90m"),
        isolation_id: Some(5000),
        ..rule(5)
    };
    let out = RuleSpec { direction: "out".into(), ..rule(1) };
    switch.add_rules("a", &[rule(3), full.clone(), rule(8), out], false).unwrap();
    let shown = switch.list_rules("a").unwrap();
    let order: Vec<_> = shown.iter().map(|r| (r.direction.as_str(), r.weight)).collect();
    assert_eq!(order, [("out", 1), ("in", 8), ("in", 5), ("in", 3)]);
    let mut shown = serde_json::to_value(&shown[2]).unwrap();
    for counted in ["packets", "bytes"] {
        assert_eq!(shown.as_object_mut().unwrap().remove(counted), Some(json!(0)));
    }
    assert_eq!(serde_json::from_value::<RuleSpec>(shown).unwrap(), full);
    // What the contract leaves out is the default.
    let idle = RuleSpec { stateful: true, protocol: text("udp"), ..rule(9) };
    let added = switch.add_rules("a", &[idle], false).unwrap();
    assert_eq!(added[0].idle_timeout.as_deref(), Some("30s"));
}

#[test]
fn numbers_may_stand_for_their_texts_in_json() {
    let given = json!({"action": "allow", "direction": "in", "weight": 1, "local_port": 80, "protocol": 6, "remote_port": null});
    let spec: RuleSpec = serde_json::from_value(given).unwrap();
    assert_eq!(
        (spec.local_port.as_deref(), spec.protocol.as_deref(), spec.remote_port.as_deref()),
        (Some("80"), Some("6"), None)
    );
    let (mut switch, _, _dir) = with_port();
    assert_eq!(switch.add_rules("a", &[spec], false).unwrap()[0].protocol.as_deref(), Some("tcp"));
}

#[test]
fn a_list_is_added_whole_or_not_at_all() {
    let (mut switch, fake, _dir) = with_port();
    let line = refused(&mut switch, |s| s.add_acl("a", &[deny("10.0.0.0/8"), deny("fred"), deny("::/0")]));
    assert!(line.starts_with("port 'a', ACL entry 2: 'fred' is not an address (reason 14)"), "{line}");
    let line = refused(&mut switch, |s| s.add_rules("a", &[rule(1), rule(2), rule(1)], true));
    assert!(line.starts_with("port 'a': there is a rule 'in weight 1' already (reason 24)"), "{line}");
    assert_eq!(fake.take(), [], "nothing was published");
    // Numbers that were given for nothing are given again.
    switch.add_rules("a", &[rule(1), rule(2)], false).unwrap();
    assert_eq!(published(&fake), [2, 1], "the heavier rule first");
}

#[test]
fn s7_s8_a_list_has_a_bound() {
    let (mut switch, _, _dir) = with_port();
    let entries: Vec<_> = (0..4096_u32).map(|i| deny(&std::net::Ipv4Addr::from(i).to_string())).collect();
    switch.add_acl("a", &entries).unwrap();
    let line = refused(&mut switch, |s| s.add_acl("a", &[deny("any")]));
    assert_eq!(line, "port 'a': the port would have 4097 ACL entries (reason 22); valid: up to 4096");
    let rules: Vec<_> = (1..=10_000).map(rule).collect();
    switch.add_rules("a", &rules, false).unwrap();
    let line = refused(&mut switch, |s| s.add_rules("a", &[rule(10_001)], false));
    assert_eq!(line, "port 'a': the port would have 10001 rules (reason 22); valid: up to 10000");
    switch.add_rules("a", &[rule(10_000)], true).unwrap();
    let port = switch.show_port("a").unwrap();
    assert_eq!((port.acl_entries, port.rules), (4096, 10_000));
}

#[test]
fn lists_cannot_be_set_on_an_uplink() {
    let saved = Saved { ports: vec![stored_uplink()], ..Saved::default() };
    let mut switch = start(saved, Store::none(), &Fake::default());
    let valid = "valid: only guest ports and host ports have it";
    assert_eq!(
        refused(&mut switch, |s| s.add_acl("up", &[deny("any")])),
        format!("port 'up': acl cannot be set on an uplink; {valid}")
    );
    assert_eq!(
        refused(&mut switch, |s| s.add_rules("up", &[rule(1)], false)),
        format!("port 'up': rules cannot be set on an uplink; {valid}")
    );
    let line = refused(&mut switch, |s| s.add_acl("nobody", &[deny("any")]));
    assert!(line.starts_with("port 'nobody': there is no such port"), "{line}");
}

#[test]
fn an_entry_keeps_its_number_until_it_is_removed_and_a_new_one_begins_at_zero() {
    let (mut switch, fake, dir) = with_port();
    switch.add_acl("a", &[deny("10.0.0.1"), deny("10.0.0.2")]).unwrap();
    switch.add_rules("a", &[rule(1)], false).unwrap();
    assert_eq!(published(&fake), [1, 2, 3]);
    fake.notes().tallies.extend([(1, (7, 7)), (2, (8, 8)), (3, (9, 9))]);
    switch.remove_acl("a", &deny("10.0.0.1")).unwrap();
    let replaced = switch.add_rules("a", &[RuleSpec { action: "deny".into(), ..rule(1) }], true).unwrap();
    assert_eq!((replaced[0].packets, replaced[0].bytes), (0, 0));
    assert_eq!(published(&fake), [2, 1]);
    assert_eq!(switch.list_acl("a").unwrap()[0].packets, Some(8), "others go on counting");
    assert_eq!(fake.notes().tallies.keys().copied().collect::<Vec<_>>(), [2]);
    // A port takes its numbers with it.
    switch.remove_port("a").unwrap();
    assert!(fake.notes().tallies.is_empty());
    switch.add_port(&guest(&dir, "b")).unwrap();
    switch.add_rules("b", &[rule(1)], false).unwrap();
    assert_eq!(published(&fake), [1]);
}

#[test]
fn lists_come_back_after_a_restart_with_their_numbers() {
    let (state, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let before = {
        let (store, saved) = Store::open(state.path()).unwrap();
        let fake = Fake::default();
        let mut switch = start(saved, store, &fake);
        for name in ["gone", "a"] {
            switch.add_port(&guest(&dir, name)).unwrap();
            switch
                .add_acl(name, &[deny("any"), acl("allow", "out", Some("02:00:00:00:00:01"), None)])
                .unwrap();
            switch.add_rules(name, &[rule(1), rule(2), rule(3)], false).unwrap();
        }
        switch.remove_rule("a", &RuleKey { direction: "in".into(), weight: 2 }).unwrap();
        switch.add_rules("a", &[RuleSpec { action: "deny".into(), ..rule(3) }], true).unwrap();
        switch.remove_port("gone").unwrap();
        (seen(&switch), published(&fake))
    };
    let (store, saved) = Store::open(state.path()).unwrap();
    let fake = Fake::default();
    let mut switch = start(saved, store, &fake);
    assert_eq!((seen(&switch), published(&fake)), before);
    // Numbers in use are not given again.
    switch.add_rules("a", &[rule(100), rule(101)], false).unwrap();
    let mut numbers: Vec<_> = published(&fake).into_iter().filter(|number| *number != 0).collect();
    numbers.sort_unstable();
    assert!(numbers.is_sorted_by(|a, b| a < b) && numbers.len() == 5, "{numbers:?}");
}

#[test]
fn a_store_that_gives_a_number_twice_is_refused() {
    let (mut switch, _, _dir) = with_port();
    switch.add_acl("a", &[deny("10.0.0.1")]).unwrap();
    let one = switch.entry("a").unwrap().config.clone();
    let two = PortConfig { id: PortId(2), name: "b".into(), ..one.clone() };
    let saved = Saved { ports: vec![one, two], ..Saved::default() };
    let host = Host { id: "test".into(), pool: MacPool([7, 9]), library: Library::default() };
    let started = Switch::start(host, Store::none(), saved, Arc::default(), |_| Ok(Fake::default()));
    let line = started.err().expect("refused").to_string();
    assert!(line.starts_with("switch: the store is damaged: port 'b': counter 1 is given twice"), "{line}");
}

#[test]
fn a_change_is_in_force_before_it_is_stored_and_taken_back_if_that_fails() {
    let (state, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, saved) = Store::open(state.path()).unwrap();
    let fake = Fake::default();
    let mut switch = start(saved, store, &fake);
    switch.add_port(&guest(&dir, "a")).unwrap();
    switch.add_acl("a", &[deny("10.0.0.1")]).unwrap();
    switch.store = Store::failing();
    let before = fake.notes().ports.clone();
    fake.take();
    let line = refused(&mut switch, |s| s.add_acl("a", &[deny("10.0.0.2")]));
    assert!(line.contains("could not be stored: no space left on device"), "{line}");
    assert_eq!(fake.take().len(), 2, "published, and the old one published again");
    assert_eq!(fake.notes().ports, before);
    refused(&mut switch, |s| s.set_port("a", &PortChange { policy: spoofing(true) }));
    assert_eq!(fake.notes().ports, before);
    // Also over the failure: the number that was given is free again.
    switch.store = Store::none();
    switch.add_acl("a", &[deny("10.0.0.2")]).unwrap();
    assert_eq!(published(&fake), [1, 2]);
}

#[test]
fn an_event_names_a_few_changed_entries_and_counts_many() {
    let (mut switch, _, _dir) = with_port();
    let before = switch.events.since(0).len() as u64;
    switch.add_acl("a", &[acl("deny", "both", None, Some("10.0.0.0/8"))]).unwrap();
    switch.remove_acl("a", &deny("10.0.0.0/8")).unwrap();
    switch.add_rules("a", &(1..=9).map(rule).collect::<Vec<_>>(), false).unwrap();
    switch.add_rules("a", &[RuleSpec { action: "deny".into(), ..rule(9) }], true).unwrap();
    let texts: Vec<_> = switch.events.since(before).iter().map(|e| e.body["changes"].to_string()).collect();
    assert_eq!(
        texts,
        [
            r#"["acl+=deny out remote 10.0.0.0/8","acl+=deny in remote 10.0.0.0/8"]"#,
            r#"["acl-=deny in remote 10.0.0.0/8"]"#,
            r#"["rule: 0 removed, 9 added"]"#,
            r#"["rule-=in weight 9","rule+=in weight 9"]"#,
        ]
    );
}

#[test]
fn a_table_that_was_edited_is_the_one_that_would_be_compiled() {
    let (mut switch, fake, _dir) = with_port();
    let rules: Vec<_> = (1..=500).map(|i| RuleSpec { local_port: Some(i.to_string()), ..rule(i) }).collect();
    switch.add_rules("a", &rules, false).unwrap();
    for weight in [1, 250, 500] {
        switch.add_rules("a", &[RuleSpec { action: "deny".into(), ..rule(weight) }], true).unwrap();
    }
    switch.add_rules("a", &[rule(1000)], false).unwrap();
    switch.remove_rule("a", &RuleKey { direction: "in".into(), weight: 77 }).unwrap();
    let config = switch.entry("a").unwrap().config.clone();
    let compiled = vswitch::port::rule::Table::new(&config.rules.items().cloned().collect::<Vec<_>>());
    let published = fake.notes().ports[0].policy.rules.clone();
    assert_eq!(*published, compiled);
    assert_eq!(published.get(Direction::In, 77), None);
    assert_eq!(published.len(), 500);
}

/// `cargo test --release -p turnpike --lib -- --ignored --nocapture what_a_change_costs`
#[test]
#[ignore = "prints times"]
fn what_a_change_costs() {
    let (state, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, saved) = Store::open(state.path()).unwrap();
    let fake = Fake::default();
    let mut switch = start(saved, store, &fake);
    for i in 0..1000_u32 {
        let mac = Mac([2, 0, 0, 0, (i >> 8) as u8, i as u8]).to_string();
        switch.add_port(&NewPort { mac: Some(mac), ..guest(&dir, &format!("p{i}")) }).unwrap();
    }
    let rules: Vec<_> = (1..=10_000_u64)
        .map(|i| RuleSpec { local: Some(format!("10.{}.{}.0/24", i / 256, i % 256)), ..rule(i) })
        .collect();
    let time = |what: &str, work: &mut dyn FnMut()| {
        let start = std::time::Instant::now();
        work();
        println!(
            "{what}: {:?}, published after {:?}",
            start.elapsed(),
            fake.notes().published.unwrap() - start
        );
    };
    time("10,000 rules at once", &mut || drop(switch.add_rules("p7", &rules, false).unwrap()));
    for _ in 0..5 {
        let other = RuleSpec { action: "deny".into(), ..rule(5000) };
        time("one of them replaced", &mut || {
            drop(switch.add_rules("p7", std::slice::from_ref(&other), true).unwrap());
        });
    }
    time("a setting of another port", &mut || {
        switch.set_port("p8", &PortChange { policy: spoofing(true) }).unwrap();
    });
}
