//! States to test with: any state a port can have, one with everything in it, and a large one.

#![allow(dead_code, reason = "each suite uses some of it")]

pub(crate) mod raw;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use migration::state::*;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use vswitch::port::vlan::{Vlan, VlanSet};
use vswitch::port::{Mirror, acl, rule};
use vswitch::session::Saved;
use vswitch::{Direction, Mac, Segment, Tally};

const VSID_MAX: u32 = 16_777_214;
const SECOND: u64 = 1_000_000_000;
const YEAR_9999_MS: i64 = 253_370_764_800_000;

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,31}"
}

fn station() -> impl Strategy<Value = Mac> {
    (1u64..1 << 48).prop_map(|n| Mac::from_u64(n & !(1 << 40) | 2)) // never a group, never zero
}

fn network() -> impl Strategy<Value = Segment> {
    prop_oneof![Just(0), 1..=4094u32, 4096..=VSID_MAX].prop_map(Segment)
}

fn prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<Ipv4Addr>(), 0..=32u8).prop_map(|(ip, len)| IpNet::new(ip.into(), len));
    let v6 = (any::<Ipv6Addr>(), 0..=128u8).prop_map(|(ip, len)| IpNet::new(ip.into(), len));
    prop_oneof![v4, v6].prop_map(|net| net.unwrap().trunc())
}

fn set() -> impl Strategy<Value = VlanSet> {
    let of = |ids: Vec<u16>| {
        let mut set = VlanSet::empty();
        for id in ids {
            set.insert(id);
        }
        set
    };
    prop_oneof![
        vec(1..=4094u16, 1..40).prop_map(of),
        Just(VlanSet::all()),
        (1..=4094u16).prop_map(move |id| of(vec![id]))
    ]
}

fn vlan() -> impl Strategy<Value = Vlan> {
    let pair = (1..=4094u16, 1..=4094u16).prop_filter("different", |(a, b)| a != b);
    prop_oneof![
        Just(Vlan::None),
        (1..=4094u16).prop_map(Vlan::Access),
        (set(), 0..=4094u16).prop_map(|(allowed, native)| Vlan::Trunk { allowed, native }),
        pair.clone().prop_map(|(primary, secondary)| Vlan::Isolated { primary, secondary }),
        pair.prop_map(|(primary, secondary)| Vlan::Community { primary, secondary }),
        (1..=4094u16, set())
            .prop_filter("not its own secondary", |(primary, set)| !set.contains(*primary))
            .prop_map(|(primary, secondaries)| Vlan::Promiscuous { primary, secondaries }),
    ]
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Out), Just(Direction::In)]
}

type AclKey = (Direction, bool, bool, u8, u64, Option<IpNet>);

fn acl() -> impl Strategy<Value = Vec<Counted<acl::Entry>>> {
    let address = prop_oneof![
        Just(acl::Address::Any),
        Just(acl::Address::AnyMac),
        (1u64..1 << 48).prop_map(|n| acl::Address::Mac(Mac::from_u64(n))),
        prefix().prop_map(acl::Address::Ip),
    ];
    let action = prop_oneof![Just(acl::Action::Allow), Just(acl::Action::Deny), Just(acl::Action::Meter)];
    let applies = prop_oneof![Just(acl::Applies::Local), Just(acl::Applies::Remote)];
    let entry = (direction(), applies, address, action, any::<(u64, u64)>()).prop_map(
        |(direction, applies, address, action, (packets, bytes))| {
            let item = acl::Entry { direction, applies, address, action, tally: Tally::NONE };
            Counted { item, packets, bytes }
        },
    );
    vec(entry, 0..12).prop_map(|list| {
        let key = |e: &acl::Entry| -> AclKey {
            let (kind, mac, net) = match e.address {
                acl::Address::Any => (0, 0, None),
                acl::Address::AnyMac => (1, 0, None),
                acl::Address::Mac(mac) => (2, mac.to_u64(), None),
                acl::Address::Ip(net) => (3, 0, Some(net)),
            };
            (e.direction, e.applies == acl::Applies::Local, e.action == acl::Action::Meter, kind, mac, net)
        };
        let mut seen = std::collections::HashSet::new();
        list.into_iter().filter(|counted| seen.insert(key(&counted.item))).collect()
    })
}

fn rules() -> impl Strategy<Value = Vec<Counted<rule::Rule>>> {
    let ports = || (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b));
    let ends = (option::of(prefix()), option::of(prefix()), option::of(ports()), option::of(ports()));
    let idle = SECOND..=24 * 3600 * SECOND;
    let isolation = network().prop_map(|network| (network.0 != 0).then_some(network));
    let rest = (option::of(any::<u8>()), option::of(idle), isolation, any::<bool>(), any::<(u64, u64)>());
    let rule = (ends, rest).prop_map(|((local, remote, local_ports, remote_ports), rest)| {
        let (mut protocol, stateful, isolation, allow, (packets, bytes)) = rest;
        if stateful.is_some() || local_ports.is_some() || remote_ports.is_some() {
            protocol = protocol.map(|number| if number % 2 == 0 { 6 } else { 17 });
        }
        let may = allow && protocol.is_some();
        let item = rule::Rule {
            direction: Direction::Out,
            weight: 1,
            action: if allow { rule::Action::Allow } else { rule::Action::Deny },
            local,
            remote,
            local_ports,
            remote_ports,
            protocol,
            stateful: stateful.filter(|_| may),
            isolation,
            tally: Tally::NONE,
        };
        Counted { item, packets, bytes }
    });
    let keyed = btree_map((direction(), 1..=i32::MAX as u32), rule, 0..10);
    keyed.prop_map(|map: BTreeMap<_, _>| {
        let with = |((direction, weight), mut counted): ((Direction, u32), Counted<rule::Rule>)| {
            (counted.item.direction, counted.item.weight) = (direction, weight);
            counted
        };
        map.into_iter().map(with).collect()
    })
}

fn policy() -> impl Strategy<Value = PortPolicy> {
    let network = prop_oneof![
        vlan().prop_map(|vlan| (vlan, None)),
        (4096..=VSID_MAX).prop_map(|vsid| (Vlan::None, Some(vsid))),
    ];
    let mirror = prop_oneof![Just(Mirror::None), Just(Mirror::Source), Just(Mirror::Destination)];
    let lists = (option::of(vec(prefix(), 1..8)), acl(), rules());
    let numbers = (0..=1024u32, any::<u32>(), mirror, any::<[bool; 6]>());
    let required = proptest::collection::btree_set(name(), 0..=8);
    let names = (option::of(name()), required);
    (network, names, lists, numbers).prop_map(|((vlan, vsid), (vm, required), lists, numbers)| {
        let (addresses, acl, rules) = lists;
        let (address_limit, storm_limit, mirror, [spoofing, teaming, dhcp, router, priority, link]) = numbers;
        PortPolicy {
            vlan,
            vsid,
            mac_spoofing: spoofing,
            teaming: teaming && vm.is_some(),
            vm,
            dhcp_guard: dhcp,
            router_guard: router,
            addresses,
            address_limit,
            storm_limit,
            mirror,
            require_extension: required.into_iter().collect(),
            priority_tag: priority,
            link_up: link,
            acl,
            rules,
        }
    })
}

fn session() -> impl Strategy<Value = Saved> {
    let addresses = prop_oneof![
        any::<[Ipv4Addr; 2]>().prop_map(|pair| pair.map(IpAddr::from)),
        any::<[Ipv6Addr; 2]>().prop_map(|pair| pair.map(IpAddr::from)),
    ];
    let rule = (1..=i32::MAX as u32, 1000..=86_400_000u64, 0..=Saved::TRACK_BITS);
    let protocol = prop_oneof![Just(6u8), Just(17)];
    (network(), protocol, addresses, any::<[u16; 2]>(), rule, any::<[u64; 2]>()).prop_map(
        |(segment, protocol, [local, remote], [local_port, remote_port], rule, [age_ms, idle_ms])| {
            let (weight, timeout_ms, track) = rule;
            Saved {
                segment,
                protocol,
                local,
                remote,
                local_port,
                remote_port,
                weight,
                timeout_ms,
                track,
                age_ms,
                idle_ms,
            }
        },
    )
}

fn drops() -> impl Strategy<Value = Vec<(String, u64)>> {
    btree_map("[a-z][a-z0-9-]{0,63}", 1..=u64::MAX, 0..5).prop_map(|map| map.into_iter().collect())
}

fn counters() -> impl Strategy<Value = Counters> {
    (any::<[u64; 4]>(), drops(), drops()).prop_map(|([op, ob, ip, ib], out_drops, in_drops)| Counters {
        out_packets: op,
        out_bytes: ob,
        in_packets: ip,
        in_bytes: ib,
        out_drops,
        in_drops,
    })
}

fn extensions() -> impl Strategy<Value = Vec<ExtensionState>> {
    let bytes = || vec(any::<u8>(), 0..50);
    btree_map("[A-Za-z0-9._-]{1,64}", (any::<u32>(), bytes(), bytes()), 0..4).prop_map(|map| {
        let state = |(name, (version, config, data))| ExtensionState { name, version, config, data };
        map.into_iter().map(state).collect()
    })
}

fn unknown() -> impl Strategy<Value = Vec<UnknownField>> {
    // Group 6 (metering) is not always there, so nothing of it is made up.
    let group = prop_oneof![Just(0u16), Just(1), Just(4), Just(5), Just(7)];
    btree_map((group, 100..0x8000u16), vec(any::<u8>(), 0..30), 0..6).prop_map(|map| {
        map.into_iter().map(|((group, number), bytes)| UnknownField { group, number, bytes }).collect()
    })
}

/// Any state that a port can have.
pub(crate) fn any_state() -> impl Strategy<Value = PortState> {
    let identity = (name(), station()).prop_map(|(name, mac)| Identity { name, mac });
    let device = (any::<u64>(), 1..=8u8, 68..=9000u16).prop_map(|(features, queue_pairs, mtu)| DeviceShape {
        features,
        queue_pairs,
        mtu,
    });
    let metering =
        (0..YEAR_9999_MS, any::<bool>()).prop_map(|(since_ms, defaults)| Metering { since_ms, defaults });
    let learned = (station(), network(), any::<u64>()).prop_map(|(mac, network, age_ms)| Learned {
        mac,
        network,
        age_ms,
    });
    let used = (any::<IpAddr>(), any::<u64>()).prop_map(|(address, age_ms)| UsedAddress { address, age_ms });
    let head = (
        identity,
        0..YEAR_9999_MS.cast_unsigned(),
        "[^\\p{Cc}]{0,40}",
        device,
        policy(),
        option::of(metering),
    );
    let lists = (counters(), vec(learned, 0..8), vec(session(), 0..20), vec(used, 0..8), any::<u32>());
    (head, lists, extensions(), unknown()).prop_map(|(head, lists, extensions, unknown)| {
        let (identity, epoch, host, device, policy, metering) = head;
        let (counters, learned, sessions, used, storm) = lists;
        PortState {
            identity,
            epoch,
            host,
            device,
            policy,
            metering,
            counters,
            learned,
            sessions,
            used,
            storm: Storm { used: storm },
            extensions,
            unknown,
        }
    })
}

/// The state of a port about which there is nothing to say.
pub(crate) fn plain() -> PortState {
    PortState {
        identity: Identity { name: "web".into(), mac: Mac([0x52, 0x54, 0, 0, 0, 1]) },
        epoch: 1_790_000_000_000,
        host: "host-a".into(),
        device: DeviceShape { features: 0, queue_pairs: 1, mtu: 1500 },
        policy: PortPolicy { link_up: true, ..PortPolicy::default() },
        metering: None,
        counters: Counters::default(),
        learned: Vec::new(),
        sessions: Vec::new(),
        used: Vec::new(),
        storm: Storm::default(),
        extensions: Vec::new(),
        unknown: Vec::new(),
    }
}

/// A state in which everything has a value, and every kind of record is there.
pub(crate) fn full() -> PortState {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let entry = |direction, applies, address, action, packets| Counted {
        item: acl::Entry { direction, applies, address, action, tally: Tally::NONE },
        packets,
        bytes: packets * 1000,
    };
    let (local, remote) = (acl::Applies::Local, acl::Applies::Remote);
    let session = |local: &str, remote: &str, protocol, track| Saved {
        segment: Segment(42),
        protocol,
        local: ip(local),
        remote: ip(remote),
        local_port: 80,
        remote_port: 40_000,
        weight: 100,
        timeout_ms: 30_000,
        track,
        age_ms: 123_456,
        idle_ms: 78,
    };
    let rule = rule::Rule {
        direction: Direction::In,
        weight: 100,
        action: rule::Action::Allow,
        local: Some(net("10.0.0.0/24")),
        remote: Some(net("2001:db8::/32")),
        local_ports: Some(80..=80),
        remote_ports: Some(1024..=65535),
        protocol: Some(6),
        stateful: Some(30 * SECOND),
        isolation: Some(Segment(42)),
        tally: Tally::NONE,
    };
    let deny = rule::Rule {
        direction: Direction::Out,
        weight: 1,
        action: rule::Action::Deny,
        local: None,
        remote: None,
        local_ports: None,
        remote_ports: None,
        protocol: None,
        stateful: None,
        isolation: None,
        tally: Tally::NONE,
    };
    let extension = |name: &str, data: &[u8]| ExtensionState {
        name: name.into(),
        version: 3,
        config: b"limit=5".to_vec(),
        data: data.to_vec(),
    };
    let stranger = Mac([0x02, 0xaa, 0, 0, 0, 7]);
    PortState {
        device: DeviceShape { features: 0x1_3003_3ba3, queue_pairs: 4, mtu: 9000 },
        policy: PortPolicy {
            vlan: "trunk:10-20,42,100-4094/7".parse().unwrap(),
            vsid: None,
            mac_spoofing: true,
            vm: Some("web-vm".into()),
            teaming: true,
            dhcp_guard: true,
            router_guard: true,
            addresses: Some(vec![net("10.0.0.1/32"), net("fd00::/64")]),
            address_limit: 16,
            storm_limit: 1000,
            mirror: Mirror::Source,
            require_extension: Vec::new(),
            priority_tag: true,
            link_up: true,
            acl: vec![
                entry(Direction::Out, remote, acl::Address::Any, acl::Action::Meter, 5),
                entry(Direction::In, remote, acl::Address::AnyMac, acl::Action::Allow, 0),
                entry(Direction::Out, local, acl::Address::Mac(stranger), acl::Action::Deny, 9),
                entry(Direction::Out, remote, acl::Address::Ip(net("10.0.0.0/8")), acl::Action::Deny, 3),
                entry(Direction::In, remote, acl::Address::Ip(net("2001:db8::/32")), acl::Action::Meter, 4),
            ],
            rules: vec![
                Counted { item: rule, packets: 1000, bytes: 1_500_000 },
                Counted { item: deny, packets: 2, bytes: 120 },
            ],
        },
        metering: Some(Metering { since_ms: 1_780_000_000_000, defaults: true }),
        counters: Counters {
            out_packets: 1,
            out_bytes: 60,
            in_packets: u64::MAX,
            in_bytes: 1 << 50,
            out_drops: vec![("source-not-allowed".into(), 3), ("acl-deny".into(), 9)],
            in_drops: vec![("storm-limit".into(), 1)],
        },
        learned: vec![Learned { mac: stranger, network: Segment(42), age_ms: 1000 }],
        sessions: vec![
            session("10.0.0.1", "192.0.2.9", 6, 0x0a),
            session("fd00::1", "2001:db8::9", 17, 0x0c),
            session("::ffff:10.0.0.1", "::ffff:192.0.2.9", 6, 0x3f),
        ],
        used: vec![
            UsedAddress { address: ip("10.0.0.9"), age_ms: 5 },
            UsedAddress { address: ip("fe80::9"), age_ms: 299_999 },
        ],
        storm: Storm { used: 17 },
        extensions: vec![extension("example.counter", &[1, 2, 3, 255]), extension("b", b"")],
        ..plain()
    }
}

/// A port with so many sessions and ACL entries.
pub(crate) fn large(sessions: u32, entries: u32) -> PortState {
    let mut state = full();
    let session = state.sessions[0];
    state.sessions = (0..sessions)
        .map(|n| Saved { remote: Ipv4Addr::from_bits(0x0b00_0000 + n).into(), age_ms: n.into(), ..session })
        .collect();
    state.policy.acl = (0..entries)
        .map(|n| {
            let net = IpNet::new(Ipv4Addr::from_bits(0x0c00_0000 + n * 256).into(), 24).unwrap();
            let item = acl::Entry {
                direction: Direction::Out,
                applies: acl::Applies::Remote,
                address: acl::Address::Ip(net),
                action: acl::Action::Meter,
                tally: Tally::NONE,
            };
            Counted { item, packets: n.into(), bytes: u64::from(n) * 1500 }
        })
        .collect();
    state
}
