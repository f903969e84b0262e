//! Section 4: VLAN modes, private VLANs, tags; section 5: virtual subnets; section 10: mirroring; section 13: teams in a guest.

use vswitch::frame::tag::{Change, Tagging};
use vswitch::pipeline::{self, Verdict};
use vswitch::port::vlan::{Receives, Vlan, VlanError};
use vswitch::port::{Mirror, Port, PortKind};
use vswitch::snapshot::{FloodSet, SwitchKind};
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId, Segment};

use crate::support::{Switch, bridging, dropped, frame, guest, in_vlan, mac_of, port, stranger, to};

const UPLINK: u16 = 9;

fn switch(modes: &[&str]) -> Switch {
    let ports = modes.iter().zip(1..).map(|(mode, n)| in_vlan(guest(n), mode));
    Switch::new(SwitchKind::External, ports.chain([port(UPLINK, PortKind::Uplink)]).collect())
}

/// The verdict on a frame, and how the one receiver gets it.
fn send(switch: &Switch, from: u16, dst: Mac, src: Mac, vlan: Option<u16>) -> (Verdict, Tagging) {
    let f = frame(dst, src, vlan);
    let decision =
        pipeline::decide(&switch.snap, &switch.state, switch.now, PortId(from), &f, f.len() as u32);
    (decision.verdict, decision.actions.tagging)
}

/// Who gets a broadcast, and how.
fn broadcast(switch: &Switch, from: u16, vlan: Option<u16>) -> Vec<(u16, Tagging)> {
    let f = frame(Mac::BROADCAST, if from == UPLINK { stranger(1) } else { mac_of(from) }, vlan);
    let len = f.len() as u32;
    match pipeline::run(&switch.snap, &switch.state, switch.now, PortId(from), &f, len) {
        Verdict::Flood(set) => {
            let copy =
                |to| pipeline::copy(&switch.snap, &switch.state, switch.now, (PortId(from), to), &f, len);
            let all = switch.snap.flood(set, PortId(from));
            all.filter_map(|to| copy(to).map(|d| (to.0, d.actions.tagging))).collect()
        }
        _ => Vec::new(),
    }
}

const fn tag(vid: u16) -> Tagging {
    Tagging::Write { vid, priority: false }
}

/// The same from a port whose priorities count: the uplink.
const fn kept(vid: u16) -> Tagging {
    Tagging::Write { vid, priority: true }
}

#[test]
fn s4_what_each_mode_sends_in() {
    let cases: [(&str, [Option<u32>; 4]); 8] = [
        // mode: segment of an untagged frame, one with a priority tag, one in VLAN 5, one in VLAN 7
        ("none", [Some(0), Some(0), None, None]),
        ("access:5", [Some(5), Some(5), None, None]),
        ("trunk:4-6", [Some(0), Some(0), Some(5), None]),
        ("trunk:4-6/3", [Some(3), Some(3), Some(5), None]),
        ("trunk:4/7", [Some(7), Some(7), None, Some(7)]),
        ("isolated:2/5", [Some(5), Some(5), None, None]),
        ("community:2/5", [Some(5), Some(5), None, None]),
        ("promiscuous:2/5,7", [Some(2), Some(2), None, None]),
    ];
    for (mode, expected) in cases {
        let vlan: Vlan = mode.parse().expect(mode);
        let got = [None, Some(0), Some(5), Some(7)].map(|tag| vlan.admit(tag).ok().map(|s| s.0));
        assert_eq!(got, expected, "{mode}");
        assert_eq!(vlan.admit(Some(4095)), Err(DropReason::VlanNotAllowed), "{mode}");
    }
}

#[test]
fn s4_what_each_mode_receives() {
    use Receives::{No, Tagged, Untagged};
    let cases: [(&str, [Receives; 4]); 8] = [
        // mode: the untagged network, VLAN 2, VLAN 5, VLAN 7
        ("none", [Untagged, No, No, No]),
        ("access:5", [No, No, Untagged, No]),
        ("trunk:4-6", [Untagged, No, Tagged(5), No]),
        ("trunk:4-6/2", [No, Untagged, Tagged(5), No]),
        ("trunk:5/5", [No, No, Untagged, No]),
        ("isolated:2/5", [No, Untagged, No, No]),
        ("community:2/5", [No, Untagged, Untagged, No]),
        ("promiscuous:2/5,7", [No, Untagged, Untagged, Untagged]),
    ];
    for (mode, expected) in cases {
        let vlan: Vlan = mode.parse().expect(mode);
        assert_eq!([0, 2, 5, 7].map(|id| vlan.receives(Segment(id))), expected, "{mode}");
        assert_eq!(vlan.receives(Segment(70_000)), No, "{mode}");
        assert_eq!(vlan.to_string(), mode);
    }
}

#[test]
fn s4_bad_modes_are_refused_with_their_reason() {
    for (text, reason) in [
        ("access:0", 36),
        ("access:4095", 36),
        ("trunk:1-4095", 38),
        ("trunk:9-3", 38),
        ("trunk:1/4095", 39),
        ("isolated:0/4", 40),
        ("isolated:2/4095", 41),
        ("community:2/4-5", 42),
        ("isolated:2/4,5", 42),
        ("isolated:2/2", 43),
        ("promiscuous:2/2-5", 43),
        ("promiscuous:2", 44),
        ("promiscuous:2/", 44),
        ("native:3", 45),
        ("access", 46),
        ("isolated:2", 46),
        ("none:3", 33),
        ("access:3/4", 33),
        ("access:x", 36),
        ("access:-1", 36),
        ("access:99999999999", 36),
    ] {
        let error = text.parse::<Vlan>().expect_err(text);
        assert_eq!(error.reason(), reason, "{text}: {error}");
    }
    assert_eq!("isolated:2/2".parse::<Vlan>(), Err(VlanError::Same(2)));
}

#[test]
fn s4_ports_of_one_vlan_reach_each_other_and_nobody_else() {
    let switch = switch(&["access:5", "access:5", "access:6", "none", "trunk:5-6"]);
    assert_eq!(send(&switch, 1, mac_of(2), mac_of(1), None), (to(2), Tagging::Keep));
    assert_eq!(send(&switch, 1, mac_of(5), mac_of(1), None), (to(5), tag(5)));
    assert_eq!(send(&switch, 5, mac_of(1), mac_of(5), Some(5)), (to(1), Tagging::Strip));
    assert_eq!(send(&switch, 5, mac_of(1), mac_of(5), Some(6)), (to(UPLINK), tag(6)), "unknown in VLAN 6");
    assert_eq!(send(&switch, 1, mac_of(3), mac_of(1), None), (to(UPLINK), tag(5)), "unknown in VLAN 5");
    assert_eq!(send(&switch, 4, mac_of(1), mac_of(4), None), (to(UPLINK), Tagging::Keep));
    assert_eq!(broadcast(&switch, 1, None), [(2, Tagging::Keep), (5, tag(5)), (UPLINK, tag(5))]);
    assert_eq!(broadcast(&switch, 5, Some(6)), [(3, Tagging::Strip), (UPLINK, tag(6))]);
    assert_eq!(broadcast(&switch, UPLINK, Some(5)), [(1, Tagging::Strip), (2, Tagging::Strip), (5, kept(5))]);
    assert_eq!(broadcast(&switch, UPLINK, None), [(4, Tagging::Keep), (5, Tagging::Keep)]);
    assert_eq!(broadcast(&switch, UPLINK, Some(9)), []);
}

#[test]
fn s4_without_an_uplink_a_port_of_another_vlan_is_out_of_reach() {
    let ports = vec![in_vlan(guest(1), "access:5"), in_vlan(guest(2), "access:6")];
    let switch = Switch::new(SwitchKind::Private, ports);
    assert_eq!(switch.own(1, mac_of(2)), dropped(DropReason::VlanFiltered));
    assert_eq!(switch.own(1, stranger(1)), dropped(DropReason::UnknownUnicast));
}

/// The white paper's figure: primary 2, secondaries 4 and 5, the uplink a trunk.
#[test]
fn s4_s1_the_figure_with_primary_2_and_secondaries_4_and_5() {
    // 1 and 2 isolated in 4, 3 and 4 a community in 5, 5 promiscuous.
    let switch =
        switch(&["isolated:2/4", "isolated:2/4", "community:2/5", "community:2/5", "promiscuous:2/4,5"]);
    let reaches = |from: u16, dst: u16| match send(&switch, from, mac_of(dst), mac_of(from), None) {
        (Verdict::Unicast(PortId(to)), how) => to == dst && how == Tagging::Keep,
        (verdict, _) => {
            assert_eq!(verdict, dropped(DropReason::PrivateVlan), "{from} to {dst}");
            false
        }
    };
    for from in 1..=5 {
        for dst in (1..=5).filter(|&dst| dst != from) {
            let expected = from == 5 || dst == 5 || (from >= 3 && dst >= 3);
            assert_eq!(reaches(from, dst), expected, "{from} to {dst}");
        }
    }
    // Broadcast: the same, and the uplink, with the VLAN that the sender is in.
    assert_eq!(broadcast(&switch, 1, None), [(5, Tagging::Keep), (UPLINK, tag(4))]);
    assert_eq!(broadcast(&switch, 3, None), [(4, Tagging::Keep), (5, Tagging::Keep), (UPLINK, tag(5))]);
    let everybody = [1, 2, 3, 4].map(|n| (n, Tagging::Keep));
    assert_eq!(broadcast(&switch, 5, None), [&everybody[..], &[(UPLINK, tag(2))]].concat());
    // From the wire: frames of a far promiscuous port come in 2, of an isolated one in 4, of the community in 5.
    let stripped = |ports: &[u16]| ports.iter().map(|&n| (n, Tagging::Strip)).collect::<Vec<_>>();
    assert_eq!(broadcast(&switch, UPLINK, Some(2)), stripped(&[1, 2, 3, 4, 5]));
    assert_eq!(broadcast(&switch, UPLINK, Some(4)), stripped(&[5]));
    assert_eq!(broadcast(&switch, UPLINK, Some(5)), stripped(&[3, 4, 5]));
    assert_eq!(send(&switch, UPLINK, mac_of(1), stranger(1), Some(2)), (to(1), Tagging::Strip));
    assert_eq!(send(&switch, UPLINK, mac_of(1), stranger(1), Some(4)).0, dropped(DropReason::PrivateVlan));
}

#[test]
fn s4_addresses_are_learned_once_for_a_private_vlan() {
    let ports = vec![
        in_vlan(bridging(1), "isolated:2/4"),
        in_vlan(guest(2), "promiscuous:2/4"),
        port(UPLINK, PortKind::Uplink),
    ];
    let switch = Switch::new(SwitchKind::External, ports);
    assert_eq!(send(&switch, 1, mac_of(2), stranger(7), None).0, to(2), "sent in VLAN 4");
    assert_eq!(send(&switch, 2, stranger(7), mac_of(2), None).0, to(1), "answered in VLAN 2");
}

#[test]
fn s4_behind_a_priority_tag_there_is_no_other_tag() {
    let switch = switch(&["none", "none", "trunk:7"]);
    let double = |from: u16, outer: u16| {
        let mut f = frame(mac_of(2), mac_of(from), Some(outer));
        f.splice(16..16, [0x81, 0, 0, 7]);
        pipeline::run(&switch.snap, &switch.state, 0, PortId(from), &f, f.len() as u32)
    };
    assert_eq!(
        (double(1, 0), double(3, 0)),
        (dropped(DropReason::TagInHeader), dropped(DropReason::TagInHeader))
    );
    assert_eq!(double(1, 7), dropped(DropReason::VlanNotAllowed));
    assert_eq!(double(3, 7), to(UPLINK), "in a trunk the second tag is payload");
    assert_eq!(send(&switch, 1, mac_of(2), mac_of(1), Some(0)), (to(2), Tagging::Strip));
}

#[test]
fn s4_the_priority_of_a_guest_is_reset_unless_it_may_set_one() {
    let with_priority = |vid: u16| {
        let mut f = frame(mac_of(2), mac_of(1), Some(vid));
        f[14] |= 0xa0;
        f
    };
    let change = |tagging: Tagging, f: &[u8]| tagging.change(f);
    let five = with_priority(5);
    assert_eq!(change(tag(5), &five), Change::Replace([0, 5]));
    assert_eq!(change(kept(5), &five), Change::None);
    assert_eq!(change(tag(6), &five), Change::Replace([0, 6]));
    assert_eq!(change(Tagging::Strip, &five), Change::Remove);
    assert_eq!(change(kept(0), &with_priority(0)), Change::None);
    assert_eq!(change(tag(0), &with_priority(0)), Change::Remove);
    let plain = frame(mac_of(2), mac_of(1), None);
    assert_eq!(change(tag(5), &plain), Change::Insert([0x81, 0, 0, 5]));
    assert_eq!((change(kept(0), &plain), change(Tagging::Strip, &plain)), (Change::None, Change::None));
    // Who may: the port's policy says so, and the uplink.
    let mut ports = vec![in_vlan(guest(1), "access:5"), port(UPLINK, PortKind::Uplink)];
    let at = |ports: &[Port]| {
        let switch = Switch::new(SwitchKind::External, ports.to_vec());
        send(&switch, 1, stranger(1), mac_of(1), Some(0)).1
    };
    assert_eq!(at(&ports), tag(5));
    ports[0].policy.priority_tag = true;
    assert_eq!(at(&ports), kept(5));
}

#[test]
fn s4_a_changed_tag_changes_nothing_else_of_a_frame() {
    for (change, growth) in [
        (Change::None, 0),
        (Change::Remove, -4),
        (Change::Insert([0x81, 0, 0, 5]), 4),
        (Change::Replace([0x20, 6]), 0),
    ] {
        let f = frame(mac_of(2), mac_of(1), Some(7));
        let mut out = [0xee; 80];
        let len = change.apply(&f, &mut out).expect("room");
        assert_eq!((len, change.growth()), (f.len().saturating_add_signed(growth.into()), growth));
        let tag: &[u8] = match &change {
            Change::None => &[0x81, 0, 0, 7],
            Change::Remove => &[],
            Change::Insert(_) => &[0x81, 0, 0, 5, 0x81, 0, 0, 7],
            Change::Replace(_) => &[0x81, 0, 0x20, 6],
        };
        assert_eq!(out[..len], [&f[..12], tag, &f[16..]].concat());
        assert_eq!(change.apply(&f, &mut out[..len - 1]), None, "too small");
    }
}

#[test]
fn s5_a_virtual_subnet_is_a_network_of_its_own() {
    let in_subnet = |n, vsid| {
        let mut port = guest(n);
        port.policy.vsid = Some(vsid);
        port
    };
    let ports = vec![
        in_subnet(1, 5001),
        in_subnet(2, 5001),
        in_subnet(3, 5002),
        guest(4),
        port(UPLINK, PortKind::Uplink),
    ];
    let switch = Switch::new(SwitchKind::External, ports);
    assert_eq!(switch.own(1, mac_of(2)), to(2));
    for dst in [3, 4] {
        assert_eq!(switch.own(1, mac_of(dst)), dropped(DropReason::VsidMismatch));
    }
    assert_eq!(switch.own(4, mac_of(1)), dropped(DropReason::VsidMismatch));
    assert_eq!(switch.own(1, stranger(1)), dropped(DropReason::UnknownUnicast), "never the physical network");
    assert_eq!(send(&switch, 1, mac_of(2), mac_of(1), Some(3)).0, dropped(DropReason::VlanNotAllowed));
    assert_eq!(broadcast(&switch, 1, None), [(2, Tagging::Keep)]);
    assert_eq!(broadcast(&switch, 4, None), [(UPLINK, Tagging::Keep)]);
}

#[test]
fn s10_a_source_is_mirrored_whichever_way_unless_the_frame_is_dropped() {
    let with = |n, mirror| {
        let mut port = guest(n);
        port.policy.mirror = mirror;
        port
    };
    let ports = vec![with(1, Mirror::Source), guest(2), with(3, Mirror::Destination), guest(4)];
    let switch = Switch::new(SwitchKind::Private, ports);
    let mirrored = |from: u16, dst: Mac| {
        let f = frame(dst, mac_of(from), None);
        pipeline::decide(&switch.snap, &switch.state, 0, PortId(from), &f, 64).actions.mirror
    };
    assert!(mirrored(1, mac_of(2)) && mirrored(2, mac_of(1)) && mirrored(1, Mac::BROADCAST));
    assert!(!mirrored(2, mac_of(4)), "neither end is a source");
    assert!(!mirrored(1, stranger(1)), "it was dropped");
    assert_eq!(switch.snap.monitors(), [PortId(3)]);
    let none = Switch::new(SwitchKind::Private, vec![with(1, Mirror::Source), guest(2)]);
    let f = frame(mac_of(2), mac_of(1), None);
    assert!(!pipeline::decide(&none.snap, &none.state, 0, PortId(1), &f, 64).actions.mirror);
}

#[test]
fn s10_a_monitor_gets_copies_of_its_own_network_only() {
    let monitor = |mode: &str| {
        let mut port = in_vlan(guest(2), mode);
        port.policy.mirror = Mirror::Destination;
        port
    };
    let how = |mode: &str| {
        let ports = vec![in_vlan(guest(1), "access:5"), monitor(mode)];
        let switch = Switch::new(SwitchKind::Private, ports);
        let f = frame(stranger(1), mac_of(1), None);
        pipeline::mirrored(&switch.snap, PortId(1), PortId(2), &f, 64)
    };
    assert_eq!(how("access:5"), Some(Tagging::Keep));
    assert_eq!(how("trunk:1-10"), Some(tag(5)));
    assert_eq!((how("access:6"), how("none")), (None, None));
}

#[test]
fn s13_a_teamed_port_takes_over_its_partners_address_and_nobody_elses() {
    let member = |n: u16, vm| {
        let mut port = guest(n);
        port.policy.teaming = true;
        port.vm = vm;
        port
    };
    let ports = vec![member(1, Some(7)), member(2, Some(7)), member(3, Some(8)), member(4, None), guest(5)];
    let mut alone = guest(6);
    alone.vm = Some(7); // the same machine, but without teaming
    let switch = Switch::new(SwitchKind::Private, ports.into_iter().chain([alone]).collect());
    assert_eq!(switch.own(5, mac_of(1)), to(1));
    assert_eq!(switch.send(2, mac_of(5), mac_of(1)), to(5), "port 2 takes over");
    assert_eq!(switch.own(5, mac_of(1)), to(2), "and gets what is sent to it");
    assert_eq!(switch.own(1, mac_of(5)), to(5), "the first one is back");
    assert_eq!(switch.own(5, mac_of(1)), to(1));
    for other in [3, 4, 6] {
        assert_eq!(
            switch.send(other, mac_of(5), mac_of(1)),
            dropped(DropReason::SourceNotAllowed),
            "{other}"
        );
    }
    assert_eq!(switch.send(2, mac_of(5), mac_of(5)), dropped(DropReason::SourceNotAllowed));
    assert_eq!(switch.flooded(FloodSet::Members, 5), [1, 2, 3, 4, 6]);
}
