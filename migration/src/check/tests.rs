use super::*;

fn manifest() -> Manifest {
    Manifest {
        name: "web".into(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        host: "here".into(),
        handoff: HANDOFF_VERSION,
        format: 1,
        state_bytes: 1000,
        epoch: 1_000_000,
        key: None,
        kind: SwitchKind::External,
        uplink_mtu: Some(1500),
        device: Device { features: 1 | 1 << 15 | 1 << 22 | 1 << 32, queue_pairs: 2, mtu: 1500 },
        policy: Policy {
            vlan: "access:10".into(),
            addresses: Some(vec!["10.0.0.1/32".parse().unwrap()]),
            vm: Some("vm".into()),
            settings: [("dhcp-guard".into(), "on".into())].into(),
            acl: List { count: 3, counted: 2, digest: digest(["a".into()].into_iter()) },
            ..Policy::default()
        },
        siblings: Vec::new(),
        metered: true,
        sessions: 10,
        learned: 3,
        used_addresses: 2,
        extensions: BTreeMap::new(),
        required_extensions: Vec::new(),
    }
}

fn offer() -> Offer {
    let m = manifest();
    Offer {
        host: "there".into(),
        handoff: HANDOFF_VERSION,
        formats: (1, 1),
        max_state: 8 << 20,
        now_ms: 1_000_500,
        channel: false,
        key: None,
        kind: SwitchKind::External,
        uplink: Some(OfferedUplink { name: "lan".into(), mtu: 1500, up: true }),
        port: Some(OfferedPort {
            kind: PortKind::Guest,
            mac: m.mac,
            queue_pairs: 2,
            mtu: 1500,
            features: m.device.features | 1 << 0,
            running: false,
            fault: None,
            migration: None,
            epoch: 0,
            policy: m.policy,
            metered: true,
        }),
        mac_owner: None,
        free_ports: 10,
        private_vlans: None,
        guests: vec!["web".into()],
        monitors: Vec::new(),
        max_list: (4096, 10_000),
        free_counters: 100,
        free_sessions: 65_536,
        free_addresses: 8192,
        extensions: BTreeMap::new(),
    }
}

/// Makes a pair that fits with no key into one that fits with the same key.
fn keyed(m: &mut Manifest, o: &mut Offer) {
    m.key = Some("01234567".into());
    o.key.clone_from(&m.key);
}

fn port(o: &mut Offer) -> &mut OfferedPort {
    o.port.as_mut().unwrap()
}

type Change = fn(&mut Manifest, &mut Offer);

/// For each kind the one change that makes exactly this problem.
const CHANGES: &[(Kind, Change)] = &[
    (Kind::HandoffVersion, |_, o| o.handoff += 1),
    (Kind::FormatVersion, |m, _| m.format = 2),
    (Kind::StateTooLarge, |m, _| m.state_bytes = 9 << 20),
    (Kind::KeyMissing, |m, _| m.key = Some("01234567".into())),
    (Kind::NotSealed, |_, o| o.key = Some("01234567".into())),
    (Kind::KeyDiffers, |m, o| {
        keyed(m, o);
        o.key = Some("76543210".into());
    }),
    (Kind::ClockDiffers, |m, o| {
        keyed(m, o);
        o.now_ms = m.epoch + 600_001;
    }),
    (Kind::EpochStale, |m, o| {
        keyed(m, o);
        port(o).epoch = m.epoch;
    }),
    (Kind::SameHost, |m, o| o.host.clone_from(&m.host)),
    (Kind::PortMissing, |_, o| o.port = None),
    (Kind::NoRoom, |_, o| {
        o.port = None;
        o.free_ports = 0;
    }),
    (Kind::PortKind, |_, o| port(o).kind = PortKind::Host),
    (Kind::PortRunning, |_, o| port(o).running = true),
    (Kind::PortMigrating, |_, o| port(o).migration = Some("7".into())),
    (Kind::PortFailed, |_, o| port(o).fault = Some("no socket".into())),
    (Kind::MacDiffers, |_, o| port(o).mac = Mac([2, 0, 0, 0, 0, 2])),
    (Kind::DuplicateMac, |_, o| o.mac_owner = Some("db".into())),
    (Kind::Queues, |_, o| port(o).queue_pairs = 1),
    (Kind::Mtu, |_, o| port(o).mtu = 1400),
    (Kind::Offload, |_, o| port(o).features &= !1),
    (Kind::RingFormat, |m, _| m.device.features |= 1 << RING_PACKED),
    (Kind::RingFeature, |m, _| m.device.features |= 1 << 29),
    (Kind::Feature, |m, _| m.device.features |= 1 << 60),
    (Kind::SwitchKind, |_, o| (o.kind, o.uplink) = (SwitchKind::Private, None)),
    (Kind::UplinkMissing, |_, o| o.uplink = None),
    (Kind::UplinkDown, |_, o| o.uplink.as_mut().unwrap().up = false),
    (Kind::UplinkMtu, |_, o| o.uplink.as_mut().unwrap().mtu = 1499),
    (Kind::VlanUnknown, |m, _| m.policy.vlan = "tunnel:9".into()),
    (Kind::PrivateVlans, |_, o| o.private_vlans = Some("VLAN 20 isolated on port 'db'".into())),
    (Kind::VlanDiffers, |_, o| port(o).policy.vlan = "access:11".into()),
    (Kind::VsidDiffers, |_, o| port(o).policy.vsid = Some(5000)),
    (Kind::AddressesDiffer, |m, _| m.policy.addresses = None),
    (Kind::AddressLimit, |m, o| {
        port(o).policy.address_limit = 1;
        m.policy.address_limit = 2;
    }),
    (Kind::VmDiffers, |_, o| port(o).policy.vm = None),
    (Kind::LinkDown, |_, o| port(o).policy.link_down = true),
    (Kind::AclDiffers, |_, o| port(o).policy.acl.digest = digest(["b".into()].into_iter())),
    (Kind::RulesDiffer, |_, o| port(o).policy.rules.count = 1),
    (Kind::MirrorDiffers, |_, o| port(o).policy.mirror = Mirror::Source),
    (Kind::SettingDiffers, |_, o| {
        port(o).policy.settings.insert("dhcp-guard".into(), "off".into());
    }),
    (Kind::MetersOff, |_, o| port(o).metered = false),
    (Kind::TeamPartner, |m, _| {
        m.policy.teaming = true;
        m.siblings = vec!["web2".into()];
    }),
    (Kind::Sibling, |m, _| m.siblings = vec!["web2".into()]),
    (Kind::MonitorMissing, |m, o| {
        m.policy.mirror = Mirror::Source;
        port(o).policy.mirror = Mirror::Source;
    }),
    (Kind::AclTooLong, |_, o| o.max_list.0 = 2),
    (Kind::RulesTooLong, |m, o| {
        m.policy.rules.count = 20_000;
        port(o).policy.rules.count = 20_000;
    }),
    (Kind::Counters, |m, o| {
        keyed(m, o);
        o.free_counters = 1;
    }),
    (Kind::Sessions, |m, _| m.sessions = 65_537),
    (Kind::Addresses, |_, o| o.free_addresses = 2),
    (Kind::ExtensionRequired, |m, _| m.required_extensions.push("firewall".into())),
    (Kind::ExtensionMissing, |m, _| {
        m.extensions.insert("sflow".into(), 1);
    }),
    (Kind::ExtensionVersion, |m, o| {
        m.extensions.insert("sflow".into(), 3);
        o.extensions.insert("sflow".into(), (1, 2));
    }),
];

fn codes(m: &Manifest, o: &Offer) -> Vec<String> {
    check(m, o).into_iter().map(|p| p.code).collect()
}

#[test]
fn s20_4_a_destination_that_has_everything_has_no_problem() {
    let (mut m, mut o) = (manifest(), offer());
    assert_eq!(check(&m, &o), []);
    keyed(&mut m, &mut o);
    assert_eq!(check(&m, &o), []);
}

#[test]
fn s20_4_each_kind_is_found_alone_and_says_what_would_solve_it() {
    for (kind, change) in CHANGES {
        let (mut m, mut o) = (manifest(), offer());
        change(&mut m, &mut o);
        let found = check(&m, &o);
        assert_eq!(codes(&m, &o), [kind.code()], "{kind:?}");
        let Problem { severity, object, need, have, fix, .. } = &found[0];
        assert_eq!(*severity, kind.severity());
        assert!([object, need, have, fix].iter().all(|text| !text.is_empty()), "{found:?}");
        assert_ne!(need, have, "{kind:?}");
        assert_eq!(passes(&found), kind.severity() == Severity::Warning, "{kind:?}");
    }
}

#[test]
fn s20_4_no_kind_is_without_a_test_and_no_name_is_given_twice() {
    for kind in Kind::ALL {
        let tested = CHANGES.iter().filter(|(tested, _)| tested == kind).count();
        assert_eq!(tested, 1, "{kind:?}");
        let named = Kind::ALL.iter().filter(|other| other.code() == kind.code()).count();
        assert_eq!(named, 1, "{}", kind.code());
    }
    assert!(Kind::ALL.len() >= 25, "{}", Kind::ALL.len());
}

#[test]
fn s20_4_every_problem_is_found_at_once() {
    let (mut m, mut o) = (manifest(), offer());
    // Kinds that do not exclude each other, of every group.
    let together = [
        Kind::HandoffVersion,
        Kind::SameHost,
        Kind::DuplicateMac,
        Kind::PortRunning,
        Kind::Queues,
        Kind::Mtu,
        Kind::Offload,
        Kind::RingFormat,
        Kind::UplinkDown,
        Kind::UplinkMtu,
        Kind::VlanDiffers,
        Kind::AclDiffers,
        Kind::MetersOff,
        Kind::PrivateVlans,
        Kind::Sibling,
        Kind::Sessions,
        Kind::ExtensionMissing,
    ];
    for (kind, change) in CHANGES {
        if together.contains(kind) {
            change(&mut m, &mut o);
        }
    }
    let wanted: Vec<_> = together.iter().map(|kind| kind.code()).collect();
    assert_eq!(codes(&m, &o), wanted);
}

#[test]
fn s20_4_a_policy_that_goes_with_the_port_is_not_compared_with_what_it_replaces() {
    let differ = [
        Kind::VlanDiffers,
        Kind::VsidDiffers,
        Kind::AddressesDiffer,
        Kind::VmDiffers,
        Kind::LinkDown,
        Kind::AclDiffers,
        Kind::RulesDiffer,
        Kind::MirrorDiffers,
        Kind::SettingDiffers,
        Kind::MetersOff,
    ];
    for (kind, change) in CHANGES.iter().filter(|(kind, _)| differ.contains(kind)) {
        let (mut m, mut o) = (manifest(), offer());
        change(&mut m, &mut o);
        o.channel = true;
        assert_eq!(check(&m, &o), [], "{kind:?}");
        o.channel = false;
        keyed(&mut m, &mut o);
        assert_eq!(check(&m, &o), [], "{kind:?}");
    }
}

#[test]
fn s20_4_keys_and_clocks_do_not_matter_where_the_channel_says_who_speaks() {
    let seal = [Kind::KeyMissing, Kind::NotSealed, Kind::KeyDiffers, Kind::ClockDiffers];
    for (kind, change) in CHANGES.iter().filter(|(kind, _)| seal.contains(kind)) {
        let (mut m, mut o) = (manifest(), offer());
        change(&mut m, &mut o);
        o.channel = true;
        assert_eq!(check(&m, &o), [], "{kind:?}");
    }
    let (m, mut o) = (manifest(), offer());
    o.channel = true;
    port(&mut o).epoch = m.epoch;
    assert_eq!(codes(&m, &o), [Kind::EpochStale.code()], "a replay is one all the same");
}

#[test]
fn s20_4_more_than_what_is_needed_is_no_problem() {
    let (m, mut o) = (manifest(), offer());
    o.formats = (1, 9);
    port(&mut o).queue_pairs = 8;
    port(&mut o).mtu = 9000;
    port(&mut o).features = u64::MAX;
    port(&mut o).policy.addresses = Some(vec!["10.0.0.0/8".parse().unwrap()]);
    o.uplink.as_mut().unwrap().mtu = 9000;
    assert_eq!(check(&m, &o), []);
}

#[test]
fn s20_4_logging_of_a_migration_is_not_a_feature_of_the_device() {
    let (mut m, o) = (manifest(), offer());
    m.device.features |= 1 << 26 | 1 << 30;
    assert_eq!(check(&m, &o), []);
}

#[test]
fn s20_4_a_small_uplink_at_the_source_asks_for_no_larger_one() {
    let (mut m, mut o) = (manifest(), offer());
    m.uplink_mtu = Some(1400);
    o.uplink.as_mut().unwrap().mtu = 1400;
    assert_eq!(check(&m, &o), []);
    m.uplink_mtu = None;
    o.uplink = None;
    assert_eq!(check(&m, &o), [], "no uplink before, none needed");
}

#[test]
fn a_manifest_of_the_next_version_is_read() {
    let mut json = serde_json::to_value(manifest()).unwrap();
    json["colour"] = "blue".into();
    json["policy"]["colour"] = "blue".into();
    assert_eq!(serde_json::from_value::<Manifest>(json).unwrap(), manifest());
    let json = serde_json::to_string(&offer()).unwrap();
    assert_eq!(serde_json::from_str::<Offer>(&json).unwrap(), offer());
}
