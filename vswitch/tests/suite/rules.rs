//! The rules of forwarding and addresses, by the section of the semantics they come from: 1 switch types, 2 life
//! cycle, 3 addresses and forwarding.

use vswitch::event::Event;
use vswitch::explain::explain;
use vswitch::frame::offload::{IpVersion, Offload};
use vswitch::pipeline::{self, STEPS, TOWARDS, TUNNEL, Verdict};
use vswitch::port::{PortKind, mtu};
use vswitch::snapshot::{FloodSet, Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId, Segment};

use crate::support::{
    Switch, bridging, dropped, frame, guest, in_vlan, mac_of, port, stranger, to, unplugged,
};

const MULTICAST: Mac = Mac([0x01, 0x00, 0x5e, 0, 0, 1]);

/// Guests 1 and 2, host 3, uplink 9.
fn external() -> Switch {
    let ports = vec![guest(1), guest(2), port(3, PortKind::Host), port(9, PortKind::Uplink)];
    Switch::new(SwitchKind::External, ports)
}

fn external_with(more: Vec<vswitch::port::Port>) -> Switch {
    let mut ports = vec![guest(1), guest(2), port(9, PortKind::Uplink)];
    ports.extend(more);
    Switch::new(SwitchKind::External, ports)
}

/// The event, if any, that a frame causes.
fn event(switch: &Switch, from: u16, dst: Mac, src: Mac) -> Option<Event> {
    let frame = frame(dst, src, None);
    pipeline::decide(&switch.snap, &switch.state, switch.now, PortId(from), &frame, frame.len() as u32).event
}

#[test]
fn s0_the_steps_come_in_this_order() {
    let names = STEPS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
    let policy = "network provider-network acl-out rules-out dhcp-guard router-guard owned-addresses address-limit storm-limit";
    assert_eq!(
        names,
        format!(
            "sender-link valid-source allowed-source reserved-destination extensions-out {policy} learning"
        )
    );
    let names = TOWARDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
    assert_eq!(names, "receiver-link member acl-in rules-in extensions-in");
    let names = TUNNEL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
    assert_eq!(names, "valid-source reserved-destination tunnel-source extensions-out");
}

#[test]
fn s0_the_first_step_that_objects_gives_the_reason() {
    let switch = Switch::new(SwitchKind::Private, vec![unplugged(guest(1)), guest(2)]);
    let reserved = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);
    // Everything is wrong with this one.
    assert_eq!(switch.send(1, reserved, Mac::BROADCAST), dropped(DropReason::LinkDown));
    assert_eq!(switch.send(2, reserved, Mac::BROADCAST), dropped(DropReason::InvalidSource));
    assert_eq!(switch.send(2, reserved, stranger(1)), dropped(DropReason::SourceNotAllowed));
    assert_eq!(switch.send(2, reserved, mac_of(2)), dropped(DropReason::ReservedMulticast));
    assert_eq!(switch.send(7, reserved, Mac::BROADCAST), dropped(DropReason::NoSuchPort));
}

#[test]
fn s0_a_frame_ends_after_its_header_and_its_tag() {
    let switch = external();
    let judge = |head: &[u8], len: u32| pipeline::run(&switch.snap, &switch.state, 0, PortId(1), head, len);
    let plain = frame(mac_of(2), mac_of(1), None);
    assert_eq!(judge(&plain[..13], 13), dropped(DropReason::FrameTooShort));
    assert_eq!(judge(&[], 0), dropped(DropReason::FrameTooShort));
    assert_eq!(judge(&plain[..14], 14), to(2));
    let tagged = frame(mac_of(2), mac_of(1), Some(5));
    assert_eq!(judge(&tagged[..15], 15), dropped(DropReason::FrameTooShort));
    assert_eq!(judge(&tagged[..16], 16), dropped(DropReason::VlanNotAllowed));
    assert_eq!(judge(&plain, 65_557), to(2));
    assert_eq!(judge(&plain, 65_558), dropped(DropReason::FrameTooLong));
}

#[test]
fn s1_external_connects_guests_the_host_and_the_uplink() {
    let switch = external();
    assert_eq!(switch.flooded(FloodSet::Members, 1), [2, 3, 9]);
    assert_eq!(switch.own(1, mac_of(2)), to(2));
    assert_eq!(switch.own(3, mac_of(1)), to(1));
    assert_eq!(switch.own(1, stranger(1)), to(9));
    assert_eq!(switch.send(9, mac_of(3), stranger(1)), to(3));
}

#[test]
fn s1_internal_has_no_uplink() {
    let ports = vec![guest(1), port(3, PortKind::Host), port(9, PortKind::Uplink)];
    let switch = Switch::new(SwitchKind::Internal, ports);
    assert_eq!(switch.snap.uplink(), None);
    assert_eq!(switch.flooded(FloodSet::Members, 1), [3]);
    assert_eq!(switch.own(1, mac_of(3)), to(3));
    assert_eq!(switch.own(1, mac_of(9)), dropped(DropReason::UnknownUnicast));
    assert_eq!(switch.send(9, mac_of(1), stranger(1)), dropped(DropReason::NoSuchPort));
}

#[test]
fn s1_private_has_neither_uplink_nor_host() {
    let ports = vec![guest(1), guest(2), port(3, PortKind::Host), port(9, PortKind::Uplink)];
    let switch = Switch::new(SwitchKind::Private, ports);
    assert_eq!(switch.flooded(FloodSet::Members, 1), [2]);
    assert_eq!(switch.own(1, mac_of(3)), dropped(DropReason::UnknownUnicast));
    assert_eq!(switch.own(3, mac_of(1)), dropped(DropReason::NoSuchPort));
}

#[test]
fn s1_a_second_uplink_takes_no_part() {
    let switch = external_with(vec![port(8, PortKind::Uplink)]);
    assert_eq!(switch.snap.uplink(), Some(PortId(8)));
    assert_eq!(switch.flooded(FloodSet::Members, 1), [2, 8]);
    assert_eq!(switch.send(9, mac_of(1), stranger(1)), dropped(DropReason::NoSuchPort));
}

#[test]
fn s3_4_a_frame_to_its_own_source_goes_nowhere() {
    let switch = external_with(vec![bridging(5)]);
    for (from, mac) in [(1, mac_of(1)), (5, stranger(1)), (9, stranger(2))] {
        let f = frame(mac, mac, None);
        let told = explain(&switch.snap, &switch.state, switch.now, PortId(from), &f, 64).verdict;
        assert_eq!((told, switch.send(from, mac, mac)), (dropped(DropReason::SameSegmentReturn), told));
    }
}

#[test]
fn s2_a_port_whose_link_is_down_neither_sends_nor_receives() {
    let switch = external_with(vec![unplugged(guest(4))]);
    assert_eq!(switch.own(4, mac_of(1)), dropped(DropReason::LinkDown));
    assert_eq!(switch.own(1, mac_of(4)), Verdict::Refuse(DropReason::ReceiverLinkDown, PortId(4)));
    assert_eq!(switch.flooded(FloodSet::Members, 1), [2, 9]);
}

#[test]
fn s2_an_unplugged_uplink_is_no_way_out() {
    let switch = Switch::new(SwitchKind::External, vec![guest(1), unplugged(port(9, PortKind::Uplink))]);
    assert_eq!(switch.own(1, stranger(1)), Verdict::Refuse(DropReason::ReceiverLinkDown, PortId(9)));
    assert_eq!(switch.flooded(FloodSet::Members, 1), [0_u16; 0]);
}

#[test]
fn s3_1_addresses_are_known_from_configuration() {
    let ports = (1..=500).map(guest).collect();
    let snap = Snapshot::new(1, SwitchConfig::default(), ports);
    for n in 1..=500 {
        assert_eq!(snap.owner(mac_of(n)), Some(PortId(n)));
        assert_eq!(snap.owner(stranger(n)), None);
    }
    assert_eq!(snap.owner(Mac([0; 6])), None);
    assert_eq!(Snapshot::new(1, SwitchConfig::default(), vec![]).owner(mac_of(1)), None);
}

#[test]
fn s3_3_without_spoofing_the_source_is_the_ports_own() {
    let switch = external();
    assert_eq!(switch.own(1, mac_of(2)), to(2));
    assert_eq!(switch.send(1, mac_of(2), stranger(1)), dropped(DropReason::SourceNotAllowed));
    assert_eq!(switch.send(1, mac_of(2), mac_of(3)), dropped(DropReason::SourceNotAllowed));
    assert_eq!(switch.send(3, mac_of(2), stranger(1)), dropped(DropReason::SourceNotAllowed));
    let spoofed = Event::MacSpoofed { mac: stranger(1), port: PortId(1) };
    assert_eq!(event(&switch, 1, mac_of(2), stranger(1)), Some(spoofed));
    assert!(switch.state.fdb.is_empty());
}

#[test]
fn s3_3_with_spoofing_any_station_address_is_a_source() {
    let switch = external_with(vec![bridging(5)]);
    assert_eq!(switch.send(5, mac_of(1), stranger(1)), to(1));
    assert_eq!(switch.own(5, mac_of(1)), to(1));
}

#[test]
fn s3_3_group_and_zero_sources_are_always_invalid() {
    let switch = external_with(vec![bridging(5)]);
    for from in [1, 5, 9] {
        for src in [Mac([0; 6]), Mac::BROADCAST, MULTICAST, Mac([0x03, 0, 0, 0, 0, 1])] {
            assert_eq!(switch.send(from, mac_of(2), src), dropped(DropReason::InvalidSource));
        }
    }
}

#[test]
fn s3_3_frames_for_addresses_learned_behind_a_spoofing_port_are_delivered_to_it() {
    let switch = external_with(vec![bridging(5)]);
    assert_eq!(switch.own(1, stranger(1)), to(9), "not learned yet");
    switch.send(5, mac_of(1), stranger(1));
    assert_eq!(switch.own(1, stranger(1)), to(5));
    assert_eq!(switch.send(9, stranger(1), stranger(2)), to(5));
}

#[test]
fn s3_4_known_unicast_goes_to_that_port_only() {
    let switch = external();
    assert_eq!(switch.own(1, mac_of(2)), to(2));
    assert_eq!(switch.send(9, mac_of(2), stranger(1)), to(2));
}

#[test]
fn s3_4_unknown_unicast_from_a_guest_goes_to_the_uplink_only() {
    let switch = external_with(vec![bridging(5), port(3, PortKind::Host)]);
    assert_eq!(switch.own(1, stranger(1)), to(9));
    assert_eq!(switch.own(3, stranger(1)), to(9));
    assert_eq!(switch.send(5, stranger(1), stranger(2)), to(9));
}

#[test]
fn s3_4_unknown_unicast_without_an_uplink_is_dropped() {
    let switch = Switch::new(SwitchKind::External, vec![guest(1), bridging(5)]);
    assert_eq!(switch.own(1, stranger(1)), dropped(DropReason::UnknownUnicast));
}

#[test]
fn s3_4_unknown_unicast_on_internal_and_private_goes_to_learning_ports_only() {
    for kind in [SwitchKind::Internal, SwitchKind::Private] {
        let switch = Switch::new(kind, vec![guest(1), guest(2), bridging(5), bridging(6)]);
        assert_eq!(switch.own(1, stranger(1)), Verdict::Flood(FloodSet::Learning));
        assert_eq!(switch.flooded(FloodSet::Learning, 1), [5, 6]);
        assert_eq!(switch.flooded(FloodSet::Learning, 5), [6], "never back to the source");
    }
}

#[test]
fn s3_4_unknown_unicast_without_a_learning_port_is_dropped() {
    for kind in [SwitchKind::Internal, SwitchKind::Private] {
        let switch = Switch::new(kind, vec![guest(1), guest(2)]);
        assert_eq!(switch.own(1, stranger(1)), dropped(DropReason::UnknownUnicast));
        let alone = Switch::new(kind, vec![guest(1), bridging(5), unplugged(bridging(6))]);
        assert_eq!(alone.own(5, stranger(1)), dropped(DropReason::UnknownUnicast));
    }
}

#[test]
fn s3_4_unknown_unicast_from_the_uplink_goes_to_learning_ports_only() {
    assert_eq!(external().send(9, stranger(1), stranger(2)), dropped(DropReason::UnknownUnicast));
    let switch = external_with(vec![bridging(5)]);
    assert_eq!(switch.send(9, stranger(1), stranger(2)), Verdict::Flood(FloodSet::Learning));
    assert_eq!(switch.flooded(FloodSet::Learning, 9), [5]);
}

#[test]
fn s3_4_broadcast_and_multicast_reach_all_others_and_the_uplink() {
    let switch = external();
    for dst in [Mac::BROADCAST, MULTICAST] {
        for from in [1, 2, 3] {
            assert_eq!(switch.own(from, dst), Verdict::Flood(FloodSet::Members));
        }
    }
    assert_eq!(switch.flooded(FloodSet::Members, 2), [1, 3, 9]);
}

#[test]
fn s3_4_a_frame_from_the_uplink_never_goes_back_out() {
    let switch = external();
    assert_eq!(switch.send(9, Mac::BROADCAST, stranger(1)), Verdict::Flood(FloodSet::Members));
    assert_eq!(switch.flooded(FloodSet::Members, 9), [1, 2, 3]);
    assert_eq!(switch.send(9, mac_of(9), stranger(1)), dropped(DropReason::SameSegmentReturn));
}

#[test]
fn s3_4_a_frame_to_where_it_came_from_is_dropped() {
    let switch = external_with(vec![bridging(5)]);
    assert_eq!(switch.own(1, mac_of(1)), dropped(DropReason::SameSegmentReturn));
    switch.send(5, mac_of(1), stranger(1));
    assert_eq!(switch.send(5, stranger(1), stranger(2)), dropped(DropReason::SameSegmentReturn));
}

#[test]
fn s3_4_link_local_protocol_addresses_are_not_forwarded() {
    let switch = external();
    for last in 0..=0x0f {
        let dst = Mac([0x01, 0x80, 0xc2, 0, 0, last]);
        assert_eq!(switch.own(1, dst), dropped(DropReason::ReservedMulticast));
        assert_eq!(switch.send(9, dst, stranger(1)), dropped(DropReason::ReservedMulticast));
    }
    for dst in [Mac([0x01, 0x80, 0xc2, 0, 0, 0x10]), Mac([0x01, 0x80, 0xc2, 0, 1, 0])] {
        assert_eq!(switch.own(1, dst), Verdict::Flood(FloodSet::Members));
    }
}

#[test]
fn s3_4_the_null_address_is_nobodys() {
    assert_eq!(external().own(1, Mac([0; 6])), dropped(DropReason::NullDestination));
}

#[test]
fn s3_4_only_sources_that_may_vary_are_learned() {
    let switch = external_with(vec![bridging(5), port(3, PortKind::Host)]);
    switch.own(1, mac_of(2));
    switch.own(3, mac_of(2));
    switch.own(5, mac_of(2));
    switch.send(9, mac_of(2), stranger(1));
    assert!(switch.state.fdb.is_empty());
    switch.send(5, mac_of(2), stranger(1));
    assert_eq!(switch.state.fdb.lookup(stranger(1), Segment(0)), Some(PortId(5)));
}

#[test]
fn s3_4_learning_is_per_address_and_vlan() {
    let trunk = |port| in_vlan(port, "trunk:10,20,30");
    let ports = vec![trunk(bridging(5)), trunk(bridging(6)), trunk(guest(1)), port(9, PortKind::Uplink)];
    let switch = Switch::new(SwitchKind::External, ports);
    for (from, vlan) in [(5, 10), (6, 20)] {
        let f = frame(mac_of(1), stranger(1), Some(vlan));
        assert_eq!(pipeline::run(&switch.snap, &switch.state, 0, PortId(from), &f, 64), to(1));
    }
    for (receiver, vlan) in [(5, 10), (6, 20), (9, 30)] {
        let f = frame(stranger(1), mac_of(1), Some(vlan));
        assert_eq!(pipeline::run(&switch.snap, &switch.state, 0, PortId(1), &f, 64), to(receiver));
    }
}

#[test]
fn s3_4_a_mac_move_is_reported_with_both_ports() {
    let switch = external_with(vec![bridging(5), bridging(6)]);
    assert_eq!(event(&switch, 5, mac_of(1), stranger(1)), None);
    let moved = Event::MacMoved { mac: stranger(1), from: PortId(5), to: PortId(6) };
    assert_eq!(event(&switch, 6, mac_of(1), stranger(1)), Some(moved));
    assert_eq!(switch.own(1, stranger(1)), to(6));
}

#[test]
fn s3_4_an_address_that_turns_up_on_the_uplink_is_learned_elsewhere_no_more() {
    let switch = external_with(vec![bridging(5)]);
    switch.send(5, mac_of(1), stranger(1));
    let moved = Event::MacMoved { mac: stranger(1), from: PortId(5), to: PortId(9) };
    assert_eq!(event(&switch, 9, mac_of(1), stranger(1)), Some(moved));
    assert!(switch.state.fdb.is_empty());
    assert_eq!(switch.own(1, stranger(1)), to(9));
    assert_eq!(event(&switch, 9, mac_of(1), stranger(1)), None, "reported once");
}

#[test]
fn s3_4_a_pinned_address_is_not_learned_behind_another_port() {
    let switch = external_with(vec![bridging(5)]);
    assert_eq!(switch.send(5, mac_of(1), mac_of(2)), dropped(DropReason::MacPinned));
    let pinned = Event::MacPinned { mac: mac_of(2), port: PortId(5), owner: PortId(2) };
    assert_eq!(event(&switch, 5, mac_of(1), mac_of(2)), Some(pinned));
    assert!(switch.state.fdb.is_empty());
}

#[test]
fn s3_4_a_pinned_address_is_no_source_on_the_uplink() {
    let switch = external();
    assert_eq!(switch.send(9, mac_of(1), mac_of(2)), dropped(DropReason::MacPinned));
    let pinned = Event::MacPinned { mac: mac_of(2), port: PortId(9), owner: PortId(2) };
    assert_eq!(event(&switch, 9, mac_of(1), mac_of(2)), Some(pinned));
}

#[test]
fn s3_4_configuring_a_learned_address_pins_it() {
    let before = external_with(vec![bridging(5)]);
    before.send(5, mac_of(1), mac_of(7));
    let ports = vec![guest(1), bridging(5), guest(7)];
    let after = Switch { snap: Switch::new(SwitchKind::External, ports).snap, ..before };
    assert_eq!(after.own(1, mac_of(7)), to(7));
    assert_eq!(after.send(5, mac_of(1), mac_of(7)), dropped(DropReason::MacPinned));
    assert_eq!(after.state.fdb.reconcile(&after.snap), 1);
}

#[test]
fn s3_4_what_a_port_learned_does_not_outlive_its_right_to_learn() {
    let before = external_with(vec![bridging(5)]);
    before.send(5, mac_of(1), stranger(1));
    for ports in
        [vec![guest(1), guest(5), port(9, PortKind::Uplink)], vec![guest(1), port(9, PortKind::Uplink)]]
    {
        let snap = Switch::new(SwitchKind::External, ports).snap;
        let f = frame(stranger(1), mac_of(1), None);
        assert_eq!(pipeline::run(&snap, &before.state, 0, PortId(1), &f, 64), to(9));
    }
}

#[test]
fn s3_4_a_full_table_costs_learning_not_frames() {
    let ports = vec![guest(1), bridging(5), port(9, PortKind::Uplink)];
    let switch = Switch { state: State::new(64, 1), ..Switch::new(SwitchKind::External, ports) };
    for n in 0..64 {
        assert_eq!(event(&switch, 5, mac_of(1), stranger(n)), None);
    }
    let full = Event::FdbFull { port: PortId(5), limit: 64 };
    assert_eq!(event(&switch, 5, mac_of(1), stranger(64)), Some(full));
    assert_eq!(switch.send(5, mac_of(1), stranger(64)), to(1));
    assert_eq!(switch.own(1, stranger(64)), to(9), "it was not learned");
}

#[test]
fn mtu_counts_neither_the_ethernet_header_nor_tags() {
    let receiver = guest(1);
    let plain = frame(mac_of(1), mac_of(2), None);
    let tagged = frame(mac_of(1), mac_of(2), Some(5));
    let check = |head: &[u8], len, offload| mtu::check(receiver.mtu, head, len, &offload);
    assert_eq!(check(&plain, 1514, Offload::None), Ok(()));
    assert_eq!(check(&plain, 1515, Offload::None), Err(DropReason::MtuExceeded));
    assert_eq!(check(&tagged, 1518, Offload::None), Ok(()));
    assert_eq!(check(&tagged, 1519, Offload::None), Err(DropReason::MtuExceeded));
    let tso = |mss| Offload::Tcp {
        version: IpVersion::V4,
        ecn: false,
        header_len: 66,
        mss,
        network_start: 14,
        csum_start: 34,
    };
    assert_eq!(check(&plain, 60_000, tso(1448)), Ok(()));
    assert_eq!(check(&plain, 60_000, tso(1449)), Err(DropReason::MtuExceeded));
    assert_eq!(check(&plain, 1400, tso(9000)), Ok(()), "a single short segment");
}
