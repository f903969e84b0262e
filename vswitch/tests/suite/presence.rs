//! Section 20: the address of a port whose guest is not here, and how a guest is announced.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vswitch::announce::{self, MAX_ADDRESSES, MAX_NETWORKS};
use vswitch::event::Event;
use vswitch::explain::explain;
use vswitch::flow::{Forwarder, Plan};
use vswitch::frame::tag::Tagging;
use vswitch::pipeline::{self, Verdict};
use vswitch::port::{Port, PortKind};
use vswitch::snapshot::{Snapshot, SwitchConfig, SwitchKind};
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId, Segment};

use crate::support::{
    SECOND, Switch, bridging, dropped, frame, guest, in_vlan, mac_of, port, slow_sum, stranger, to,
};

const UPLINK: u16 = 9;

fn away(mut port: Port) -> Port {
    port.present = false;
    port
}

fn config() -> SwitchConfig {
    SwitchConfig { kind: SwitchKind::External, ..SwitchConfig::default() }
}

/// Ports 1 (a plain guest), 2 (whose guest is `absent`), 3 (may send from any address), and the uplink.
fn ports(absent: bool) -> Vec<Port> {
    let two = if absent { away(guest(2)) } else { guest(2) };
    vec![guest(1), two, bridging(3), port(UPLINK, PortKind::Uplink)]
}

fn event(switch: &Switch, from: u16, dst: Mac, src: Mac, vlan: Option<u16>) -> (Verdict, Option<Event>) {
    let f = frame(dst, src, vlan);
    let decision =
        pipeline::decide(&switch.snap, &switch.state, switch.now, PortId(from), &f, f.len() as u32);
    (decision.verdict, decision.event)
}

#[test]
fn s20_3_frames_follow_a_guest_that_was_heard_on_the_uplink() {
    let switch = Switch::new(SwitchKind::External, ports(true));
    assert_eq!(switch.own(1, mac_of(2)), to(2), "nothing heard: its own port, which holds or drops");
    let heard = || event(&switch, UPLINK, Mac::BROADCAST, mac_of(2), None);
    let seen = Event::SeenElsewhere { port: PortId(2), mac: mac_of(2), at: PortId(UPLINK) };
    assert_eq!(heard().1, Some(seen));
    assert_eq!(heard().1, None, "once");
    assert_eq!(switch.own(1, mac_of(2)), to(UPLINK));
    assert_eq!(
        switch.send(UPLINK, mac_of(2), stranger(1)),
        dropped(DropReason::SameSegmentReturn),
        "what comes from there does not go back"
    );
    // Who asks gets the same answer.
    let f = frame(mac_of(2), mac_of(1), None);
    let told = explain(&switch.snap, &switch.state, switch.now, PortId(1), &f, f.len() as u32);
    assert_eq!(told.verdict, to(UPLINK));
}

#[test]
fn s20_3_where_absent_guests_are_is_handed_to_a_successor() {
    let switch = Switch::new(SwitchKind::External, ports(true));
    event(&switch, UPLINK, Mac::BROADCAST, mac_of(2), None);
    let mut memory = switch.state.save_port(switch.now, PortId(UPLINK));
    assert_eq!(memory.learned.len(), 1, "{memory:?}");
    // What is not the address of an absent guest is not put in.
    memory.learned.extend([mac_of(1), stranger(1)].map(|mac| (mac, memory.learned[0].1, 0)));
    let after = Switch::new(SwitchKind::External, ports(true));
    after.state.restore_port(after.now, PortId(UPLINK), &memory, &after.snap);
    assert_eq!(after.own(1, mac_of(2)), to(UPLINK));
    assert_eq!(after.state.fdb.entries(after.now).len(), 1);
    let back = Switch::new(SwitchKind::External, ports(false));
    back.state.restore_port(back.now, PortId(UPLINK), &memory, &back.snap);
    assert_eq!(back.own(1, mac_of(2)), to(2), "a guest that is here is here");
}

#[test]
fn s20_3_a_guest_that_is_here_keeps_its_address_against_the_uplink() {
    let switch = Switch::new(SwitchKind::External, ports(false));
    let (verdict, event) = event(&switch, UPLINK, mac_of(1), mac_of(2), None);
    assert_eq!(verdict, dropped(DropReason::MacPinned));
    assert!(matches!(event, Some(Event::MacPinned { .. })), "{event:?}");
    assert_eq!(switch.own(1, mac_of(2)), to(2));
}

#[test]
fn s20_3_no_guest_may_claim_the_address_of_an_absent_one() {
    let switch = Switch::new(SwitchKind::External, ports(true));
    assert_eq!(switch.send(3, mac_of(1), mac_of(2)), dropped(DropReason::MacPinned), "with MAC spoofing on");
    assert_eq!(switch.send(1, mac_of(3), mac_of(2)), dropped(DropReason::SourceNotAllowed), "without");
    assert_eq!(switch.own(1, mac_of(2)), to(2));
    assert_eq!(switch.state.fdb.len(), 0);
}

#[test]
fn s20_3_a_guest_that_is_back_has_its_address_from_the_same_moment() {
    let mut switch = Switch::new(SwitchKind::External, ports(true));
    event(&switch, UPLINK, Mac::BROADCAST, mac_of(2), None);
    let old = std::mem::replace(&mut switch.snap, Snapshot::new(2, config(), ports(false)));
    assert_eq!(switch.own(1, mac_of(2)), to(2), "before anything was purged");
    switch.state.reconcile(switch.now, &old, &switch.snap);
    assert_eq!(switch.state.fdb.len(), 0);
    // A second absence begins anew.
    switch.snap = Snapshot::new(3, config(), ports(true));
    assert_eq!(switch.own(1, mac_of(2)), to(2));
    assert!(matches!(
        event(&switch, UPLINK, Mac::BROADCAST, mac_of(2), None).1,
        Some(Event::SeenElsewhere { .. })
    ));
}

#[test]
fn s20_3_an_absent_guest_is_heard_in_its_own_networks_only() {
    let cases = [
        ("access:5", vec![5], vec![None, Some(6)]),
        ("isolated:10/101", vec![101, 10], vec![None, Some(102)]),
        ("trunk:5-6/7", vec![5, 6, 7], vec![None, Some(8)]),
    ];
    for (mode, own, foreign) in cases {
        let make = || {
            let two = away(in_vlan(guest(2), mode));
            Switch::new(SwitchKind::External, vec![guest(1), two, port(UPLINK, PortKind::Uplink)])
        };
        let switch = make();
        for vlan in foreign {
            let (verdict, event) = event(&switch, UPLINK, stranger(1), mac_of(2), vlan);
            assert_eq!(verdict, dropped(DropReason::MacPinned), "{mode} {vlan:?}");
            assert!(!matches!(event, Some(Event::SeenElsewhere { .. })), "{mode} {vlan:?}");
        }
        for vlan in own {
            let switch = make();
            let (_, event) = event(&switch, UPLINK, Mac::BROADCAST, mac_of(2), Some(vlan));
            assert!(matches!(event, Some(Event::SeenElsewhere { .. })), "{mode} {vlan}");
        }
    }
    let mut virtual_subnet = away(guest(2));
    virtual_subnet.policy.vsid = Some(5000);
    let switch = Switch::new(SwitchKind::External, vec![virtual_subnet, port(UPLINK, PortKind::Uplink)]);
    let (verdict, _) = event(&switch, UPLINK, Mac::BROADCAST, mac_of(2), None);
    assert_eq!(verdict, dropped(DropReason::MacPinned), "the wire does not carry its address");
}

#[test]
fn s20_3_an_isolated_guest_announced_in_its_secondary_is_found_from_the_primary() {
    let router = in_vlan(guest(1), "promiscuous:10/101");
    let two = away(in_vlan(guest(2), "isolated:10/101"));
    let switch = Switch::new(SwitchKind::External, vec![router, two, port(UPLINK, PortKind::Uplink)]);
    event(&switch, UPLINK, Mac::BROADCAST, mac_of(2), Some(101));
    assert_eq!(switch.own(1, mac_of(2)), to(UPLINK));
}

/// Verdicts in flow caches outlive neither the learning nor the return.
#[test]
fn s20_3_flow_caches_follow_at_once() {
    let mut switch = Switch::new(SwitchKind::External, ports(true));
    let mut forwarder = Forwarder::new(3, 64);
    let mut judge = |switch: &Switch, from: u16, dst: Mac, src: Mac| {
        let f = frame(dst, src, None);
        let (snap, state, from) = (&switch.snap, &switch.state, PortId(from));
        forwarder.begin(snap, state, switch.now, from);
        forwarder.judge(snap, state, switch.now, from, &f, f.len() as u32, &mut Plan::default())
    };
    for _ in 0..3 {
        assert_eq!(judge(&switch, 1, mac_of(2), mac_of(1)), to(2));
    }
    judge(&switch, UPLINK, Mac::BROADCAST, mac_of(2));
    for _ in 0..3 {
        assert_eq!(judge(&switch, 1, mac_of(2), mac_of(1)), to(UPLINK));
    }
    // What is heard keeps the entry from ageing although frames hit the cache.
    for _ in 0..400 {
        switch.now += SECOND;
        judge(&switch, UPLINK, mac_of(1), mac_of(2));
        switch.state.age(switch.now);
    }
    assert_eq!(judge(&switch, 1, mac_of(2), mac_of(1)), to(UPLINK));
    switch.snap = Snapshot::new(2, config(), ports(false));
    assert_eq!(judge(&switch, 1, mac_of(2), mac_of(1)), to(2));
}

// === announcement ===

const MAC: Mac = Mac([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);

#[test]
fn s20_3_the_announcement_byte_by_byte() {
    let v4 = Ipv4Addr::new(192, 0, 2, 7);
    let v6: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let frames = announce::frames(MAC, [IpAddr::V4(v4), IpAddr::V6(v6)].into_iter());
    let [rarp, arp, na] = &frames[..] else { panic!("{} frames", frames.len()) };
    let padded = |mut bytes: Vec<u8>| {
        bytes.resize(60, 0);
        bytes
    };
    let m = MAC.0;
    let all = [0xff; 6];
    let begin = |op: u8| [0, 1, 8, 0, 6, 4, 0, op];
    assert_eq!(
        *rarp,
        padded([&all[..], &m, &[0x80, 0x35], &begin(3), &m, &[0; 4], &m, &[0; 4]].concat()),
        "RARP: what is my address?"
    );
    assert_eq!(
        *arp,
        padded([&all[..], &m, &[8, 6], &begin(1), &m, &[192, 0, 2, 7], &[0; 6], &[192, 0, 2, 7]].concat()),
        "RFC 5227: sender and target address are its own, target hardware address zero"
    );
    let nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let mut icmp = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &v6.octets(), &[2, 1], &m].concat();
    let sum = !slow_sum(&[&v6.octets(), &nodes.octets(), &[0, 0, 0, 32, 0, 0, 0, 58], &icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &v6.octets(), &nodes.octets()].concat();
    let ethernet = [&[0x33, 0x33, 0, 0, 0, 1][..], &m, &[0x86, 0xdd]].concat();
    assert_eq!(*na, [ethernet, header, icmp].concat(), "RFC 4861: override, not solicited, not a router");
}

#[test]
fn s20_3_addresses_that_nobody_has_are_not_announced_and_there_are_at_most_64() {
    let odd = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "::", "::1", "ff02::1", "fe80::1"];
    let odd = odd.into_iter().map(|text| text.parse::<IpAddr>().unwrap());
    assert_eq!(announce::frames(MAC, odd.clone()), [announce::rarp(MAC)]);
    let many = (0..1000u32).map(|n| IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + n)));
    assert_eq!(announce::frames(MAC, odd.chain(many)).len(), 1 + MAX_ADDRESSES);
}

#[test]
fn s20_3_the_announcement_is_tagged_as_the_ports_mode_says() {
    let tag = |vid| Some(Tagging::Write { vid, priority: false });
    let mut subnet = guest(1);
    subnet.policy.vsid = Some(5000);
    let cases = [
        (guest(1), vec![Some(Tagging::Keep)]),
        (in_vlan(guest(1), "access:5"), vec![tag(5)]),
        (in_vlan(guest(1), "isolated:10/101"), vec![tag(101)]),
        (in_vlan(guest(1), "community:10/102"), vec![tag(102)]),
        (in_vlan(guest(1), "promiscuous:10/101,102"), vec![tag(10)]),
        (in_vlan(guest(1), "trunk:5-6"), vec![Some(Tagging::Keep), tag(5), tag(6)]),
        (in_vlan(guest(1), "trunk:5-6/6"), vec![tag(6), tag(5)]),
        (subnet, vec![]),
    ];
    for (one, want) in cases {
        let mode = one.policy.vlan.clone();
        let snap = Snapshot::new(1, config(), vec![one, port(UPLINK, PortKind::Uplink)]);
        let uplink = snap.port(PortId(UPLINK)).unwrap();
        let networks = announce::networks(&snap, snap.port(PortId(1)).unwrap());
        let tags: Vec<_> = networks.into_iter().map(|network| announce::tagging(uplink, network)).collect();
        assert_eq!(tags, want, "{mode:?}");
    }
}

#[test]
fn s20_3_a_trunk_of_everything_is_announced_where_others_are() {
    let all = in_vlan(guest(1), "trunk:1-4094/100");
    let others = [in_vlan(guest(2), "access:3000"), in_vlan(guest(3), "isolated:2000/2001")];
    let snap = Snapshot::new(1, config(), [all].into_iter().chain(others).collect());
    let networks = announce::networks(&snap, snap.port(PortId(1)).unwrap());
    assert_eq!(networks.len(), MAX_NETWORKS);
    let mut first = networks[1..4].to_vec();
    first.sort_unstable();
    assert_eq!((networks[0], first), (Segment(100), [2000, 2001, 3000].map(Segment).to_vec()));
    let mut unique = networks.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), networks.len());
}
