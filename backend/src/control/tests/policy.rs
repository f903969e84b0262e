//! Options of a port's policy: what they do to the data path, and what is refused with which number.

use vswitch::port::Mirror;

use super::*;

fn change(json: &Value) -> PortChange {
    serde_json::from_value(json!({"policy": json})).unwrap()
}

fn set(switch: &mut Switch, port: &str, json: &Value) {
    switch.set_port(port, &change(json)).unwrap();
}

/// A switch with the guest ports a, b and c, the host port h and the uplink up.
fn populated() -> (Switch, Fake, tempfile::TempDir) {
    let saved = Saved { ports: vec![stored_uplink()], ..Saved::default() };
    let (fake, dir) = (Fake::default(), tempfile::tempdir().unwrap());
    let mut switch = start(saved, Store::none(), &fake);
    for name in ["a", "b", "c"] {
        switch.add_port(&guest(&dir, name)).unwrap();
    }
    switch.add_port(&tap("h")).unwrap();
    (switch, fake, dir)
}

/// Every option of a guest port with a value that is not its default.
fn everything() -> Value {
    json!({
        "vlan": "trunk:1-100,200/7", "mac_spoofing": true, "vm": "m", "teaming": true, "dhcp_guard": true,
        "router_guard": true, "addresses": ["10.0.0.1", "2001:db8::/64"], "address_limit": 5, "storm_limit": 1000,
        "mirror": "source", "require_extension": ["fw"], "priority_tag": true, "link": "down",
    })
}

#[test]
fn every_option_reaches_the_data_path_and_is_shown_as_it_was_given() {
    let (mut switch, fake, _dir) = populated();
    set(&mut switch, "a", &everything());
    let published = fake.notes().ports.iter().find(|p| p.id.0 == 6).cloned().unwrap();
    let policy = published.policy;
    assert_eq!(policy.vlan.to_string(), "trunk:1-100,200/7");
    assert!(policy.mac_spoofing && policy.teaming && policy.dhcp_guard && policy.router_guard);
    assert!(policy.priority_tag && !policy.link_up && published.vm.is_some());
    assert_eq!((policy.address_limit, policy.storm_limit, policy.mirror), (5, 1000, Mirror::Source));
    let owned: Vec<_> = policy.addresses.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(owned, ["10.0.0.1/32", "2001:db8::/64"]);

    let mut shown = serde_json::to_value(switch.show_port("a").unwrap().policy).unwrap();
    assert_eq!(shown.as_object_mut().unwrap().remove("vsid"), Some(Value::Null));
    assert_eq!(shown, everything());

    set(&mut switch, "b", &json!({"vsid": 5000}));
    assert_eq!(fake.notes().ports.iter().find(|p| p.id.0 == 7).unwrap().policy.vsid, Some(5000));
}

#[test]
fn null_restores_the_default_of_every_option() {
    let (mut switch, fake, _dir) = populated();
    let before = fake.notes().ports.clone();
    set(&mut switch, "a", &everything());
    assert_ne!(fake.notes().ports, before);
    let keys = everything();
    let nulls: serde_json::Map<_, _> =
        keys.as_object().unwrap().keys().map(|key| (key.clone(), Value::Null)).collect();
    set(&mut switch, "a", &Value::Object(nulls));
    assert_eq!(fake.notes().ports, before);
    assert_eq!(switch.show_port("a").unwrap().policy, Policy::default());
}

#[test]
fn what_a_new_port_is_given_is_judged_the_same_way() {
    let (mut switch, fake, dir) = populated();
    let policy = change(&json!({"vlan": "access:7", "addresses": ["any"]})).policy;
    switch.add_port(&NewPort { policy, ..guest(&dir, "new") }).unwrap();
    assert_eq!(fake.notes().ports.last().unwrap().policy.vlan.to_string(), "access:7");
    let policy = change(&json!({"teaming": true})).policy;
    let line = refused(&mut switch, |s| s.add_port(&NewPort { policy, ..guest(&dir, "two") }));
    assert!(line.starts_with("port 'two': teaming is on, and which virtual machine"), "{line}");
}

#[test]
fn appendix_b_refused_policies_have_their_numbers_and_leave_the_old_one_in_force() {
    let (mut switch, _, _dir) = populated();
    set(&mut switch, "b", &json!({"vsid": 5000}));
    set(&mut switch, "c", &json!({"vlan": "access:7"}));
    let modes = "valid: none, access:ID, trunk:LIST[/NATIVE], isolated:PRI/SEC, community:PRI/SEC or \
                 promiscuous:PRI/SEC[,SEC...] with ids 1 to 4094";
    let many: Vec<_> = (0..1025).map(|i| format!("10.0.{}.{}", i / 256, i % 256)).collect();
    let cases = [
        ("h", json!({"mac_spoofing": true}), "mac-spoofing cannot be set on a host port (reason 5); valid: only guest ports have it".to_owned()),
        ("h", json!({"teaming": true}), "teaming cannot be set on a host port; valid: only guest ports have it".into()),
        ("h", json!({"vm": "m"}), "vm cannot be set on a host port; valid: only guest ports have it".into()),
        ("a", json!({"mirror": "all"}), "'all' is not a mirror mode (reason 8); valid: none, source or destination".into()),
        ("up", json!({"mirror": "destination"}), "an uplink cannot be a mirror destination (reason 9); valid: none or source; a guest port or host port as destination".into()),
        ("a", json!({"addresses": ["fred"]}), "'fred' is not an address (reason 14); valid: an IPv4 or IPv6 address or prefix such as 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32".into()),
        ("a", json!({"addresses": ["10.0.0.1/24"]}), "'10.0.0.1/24' has bits set beyond its prefix length (reason 19); valid: 10.0.0.0/24, or 10.0.0.1 alone".into()),
        ("a", json!({"addresses": []}), "an address is missing; valid: one address or more, or any".into()),
        ("a", json!({"addresses": many}), "the port would have 1025 owned addresses (reason 22); valid: up to 1024".into()),
        ("a", json!({"vsid": 4095}), "vsid 4095 is out of range (reason 27); valid: 4096 to 16777214".into()),
        ("a", json!({"vsid": 16_777_215}), "vsid 16777215 is out of range (reason 27); valid: 4096 to 16777214".into()),
        ("c", json!({"vsid": 4096}), "vsid 4096 and vlan access:7 exclude each other (reason 31); valid: one of them; set the other to none".into()),
        ("b", json!({"vlan": "access:7"}), "vsid 5000 and vlan access:7 exclude each other (reason 31); valid: one of them; set the other to none".into()),
        ("up", json!({"vlan": "access:7"}), "vlan cannot be set on an uplink (reason 32); valid: set it on ports; an uplink carries every VLAN".into()),
        ("up", json!({"dhcp_guard": true}), "dhcp-guard cannot be set on an uplink; valid: only guest ports and host ports have it".into()),
        ("a", json!({"vlan": "access:7/8"}), format!("vlan: '/8' is more than this mode takes (reason 33); {modes}")),
        ("a", json!({"vlan": "access:0"}), format!("vlan: access VLAN '0' is out of range (reason 36); {modes}")),
        ("a", json!({"vlan": "access:4095"}), format!("vlan: access VLAN '4095' is out of range (reason 36); {modes}")),
        ("a", json!({"vlan": "trunk:1-4095"}), format!("vlan: trunk VLAN '4095' is out of range (reason 38); {modes}")),
        ("a", json!({"vlan": "trunk:1/x"}), format!("vlan: native VLAN 'x' is out of range (reason 39); {modes}")),
        ("a", json!({"vlan": "isolated:0/2"}), format!("vlan: primary VLAN '0' is out of range (reason 40); {modes}")),
        ("a", json!({"vlan": "isolated:2/0"}), format!("vlan: secondary VLAN '0' is out of range (reason 41); {modes}")),
        ("a", json!({"vlan": "community:2/3,4"}), format!("vlan: '3,4' is a list; an isolated or community port has one secondary VLAN (reason 42); {modes}")),
        ("a", json!({"vlan": "community:2/2"}), format!("vlan: primary and secondary VLAN are both 2 (reason 43); {modes}")),
        ("a", json!({"vlan": "promiscuous:2"}), format!("vlan: secondary VLANs is missing (reason 44); {modes}")),
        ("a", json!({"vlan": "both:2"}), format!("vlan: 'both' is not a VLAN mode (reason 45); {modes}")),
        ("a", json!({"vlan": "access"}), format!("vlan: the VLAN is missing (reason 46); {modes}")),
        ("a", json!({"teaming": true}), "teaming is on, and which virtual machine the port belongs to is not said; valid: --vm NAME as well, the same for all ports of the virtual machine; teaming shares addresses among these".into()),
        ("a", json!({"vm": "a b"}), "'a b' is not a name of a virtual machine; valid: 1 to 32 characters of A-Z a-z 0-9 . _ -, the first one a letter or a digit".into()),
        ("a", json!({"address_limit": 1025}), "address-limit 1025 is out of range; valid: 0 to 1024 addresses".into()),
        ("a", json!({"storm_limit": 4_294_967_296_u64}), "storm-limit 4294967296 is out of range; valid: 0 to 4294967295 frames per second".into()),
    ];
    for (port, json, expected) in cases {
        let line = refused(&mut switch, |s| s.set_port(port, &change(&json)));
        assert_eq!(line, format!("port '{port}': {expected}"));
    }
}

#[test]
fn s13_a_teaming_port_cannot_lose_its_machine() {
    let (mut switch, _, _dir) = populated();
    set(&mut switch, "a", &json!({"vm": "m", "teaming": true}));
    let line = refused(&mut switch, |s| s.set_port("a", &change(&json!({"vm": null}))));
    assert!(line.contains("teaming is on"), "{line}");
    set(&mut switch, "a", &json!({"vm": null, "teaming": false}));
}

#[test]
fn s13_ports_of_one_machine_have_one_number() {
    let (mut switch, fake, _dir) = populated();
    for (port, vm) in [("a", "m1"), ("b", "m2"), ("c", "m1")] {
        set(&mut switch, port, &json!({"vm": vm}));
    }
    let vms: Vec<_> = fake.notes().ports.iter().map(|p| p.vm).collect();
    let [up, a, b, c, h] = vms[..] else { panic!("{vms:?}") };
    assert!(a.is_some() && a == c && b.is_some() && a != b);
    assert_eq!((up, h), (None, None));
}

#[test]
fn s4_private_vlans_must_be_used_consistently_by_all_ports() {
    let (mut switch, _, _dir) = populated();
    set(&mut switch, "a", &json!({"vlan": "isolated:2/4"}));
    set(&mut switch, "b", &json!({"vlan": "community:2/5"}));
    let valid = "valid: a secondary VLAN belongs to one primary VLAN and is either isolated or a community";
    for (vlan, expected) in [
        ("community:2/4", "VLAN 4 would be a community here and is isolated on port 'a'"),
        ("isolated:2/5", "VLAN 5 would be isolated here and is a community on port 'b'"),
        ("isolated:3/4", "VLAN 4 would be a secondary VLAN of 3 here and is one of 2 on port 'a'"),
        ("promiscuous:3/4-9", "VLAN 4 would be a secondary VLAN of 3 here and is one of 2 on port 'a'"),
        ("promiscuous:4/9", "VLAN 4 would be a primary VLAN here and is a secondary VLAN of 2 on port 'a'"),
        ("isolated:9/2", "VLAN 2 would be a secondary VLAN of 9 here and is a primary VLAN on port 'a'"),
    ] {
        let line = refused(&mut switch, |s| s.set_port("c", &change(&json!({"vlan": vlan}))));
        assert_eq!(line, format!("port 'c': {expected}; {valid}"));
    }
    for fits in
        ["isolated:2/4", "isolated:2/6", "community:2/5", "promiscuous:2/4,5", "access:4", "trunk:1-9"]
    {
        set(&mut switch, "c", &json!({"vlan": fits}));
    }
    // Its own mode of before is no obstacle.
    set(&mut switch, "c", &json!({"vlan": "community:8/9"}));
    set(&mut switch, "c", &json!({"vlan": "isolated:9/8"}));
}

#[test]
fn an_event_says_what_changed() {
    let (mut switch, _, _dir) = populated();
    let before = switch.events.since(0).len() as u64;
    set(&mut switch, "a", &json!({"vlan": "access:7", "addresses": ["10.0.0.1", "::1"]}));
    set(&mut switch, "a", &json!({"vlan": "access:7"}));
    set(&mut switch, "a", &json!({"addresses": null}));
    let texts: Vec<_> = switch.events.since(before).iter().map(|e| e.text()).collect();
    assert_eq!(
        texts,
        [
            "port-changed port=a changes=addresses=10.0.0.1,::1,vlan=access:7",
            "port-changed port=a changes=addresses=default"
        ]
    );
}
