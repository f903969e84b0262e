//! Hostile case H30: what somebody on the physical network, or a guest, may try.

use vswitch::nv::answer::{arp_request, neighbour_solicitation};
use vswitch::nv::model::Encap;
use vswitch::nv::neighbours::Hop;
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId, nv};

use super::frames::{arp, ip, udp};
use super::world::{Happened, UPLINK, World, pa, pa6, receivers, record};
use crate::support::{guest, mac_of};

const A: u32 = 5001;
const B: u32 = 5002;
const OTHER: u32 = 6001;

fn world() -> World {
    let mut world = World::new(3);
    world.network("blue");
    world.network("red");
    world.subnet("blue", A, &["10.1.1.0/24"]);
    world.subnet("blue", B, &["10.1.2.0/24"]);
    world.subnet("red", OTHER, &["10.1.1.0/24"]);
    world.guest(0, 1, A, mac_of(1));
    world.guest(1, 2, A, mac_of(2));
    world.guest(1, 5, OTHER, mac_of(5));
    world.guest(2, 3, B, mac_of(3));
    world.publish();
    world.record(&record(A, "10.1.1.11", mac_of(1), pa(0)));
    world.record(&record(A, "10.1.1.12", mac_of(2), pa(1)));
    world.record(&record(B, "10.1.2.13", mac_of(3), pa(2)));
    world.record(&record(OTHER, "10.1.1.12", mac_of(5), pa(1)));
    world
}

/// A good frame from guest 1 to guest 2, as it is on the wire, addressed to host 1.
fn good(world: &mut World) -> Vec<u8> {
    let frame = udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"x");
    world.wire.clear();
    assert_eq!(receivers(&world.send(0, 1, &frame)), [(1, 2)]);
    let mut sent = world.wire[0].clone();
    sent[..6].copy_from_slice(&[0x02, 0xee, 0, 0, 0, 1]);
    assert_eq!(receivers(&world.arrive(1, &sent)), [(1, 2)]);
    sent
}

/// Where things are in it: outer Ethernet with tag, IPv4, GRE, inner Ethernet, inner IPv4.
const OUTER_IP: usize = 18;
const GRE: usize = OUTER_IP + 20;
const INNER: usize = GRE + 8;

fn fix_outer(frame: &mut [u8]) {
    frame[OUTER_IP + 10..OUTER_IP + 12].fill(0);
    let sum = !crate::support::slow_sum(&[&frame[OUTER_IP..GRE]]);
    frame[OUTER_IP + 10..OUTER_IP + 12].copy_from_slice(&sum.to_be_bytes());
}

fn changed(frame: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = frame.to_vec();
    change(&mut frame);
    fix_outer(&mut frame);
    frame
}

fn key(vsid: u32) -> [u8; 3] {
    let [_, a, b, c] = vsid.to_be_bytes();
    [a, b, c]
}

#[test]
fn h30_a_tunnels_packet_is_believed_only_as_far_as_records_confirm_it() {
    let mut world = world();
    let good = good(&mut world);
    let mut ends = |change: &dyn Fn(&mut Vec<u8>)| world.arrive(1, &changed(&good, change));
    let dropped = |reason| vec![Happened::Dropped(1, reason)];
    let source =
        |n: u8| move |f: &mut Vec<u8>| f[OUTER_IP + 12..OUTER_IP + 16].copy_from_slice(&[192, 168, n, 10]);
    // Another host of ours, one that no record knows, this host itself.
    for n in [2, 77, 1] {
        assert_eq!(ends(&source(n)), dropped(DropReason::NvSourceSpoofed), "from host {n}");
    }
    let vsid = |vsid: u32| move |f: &mut Vec<u8>| f[GRE + 4..GRE + 7].copy_from_slice(&key(vsid));
    assert_eq!(ends(&vsid(OTHER)), dropped(DropReason::NvSourceUnknown), "another tenant's subnet");
    assert_eq!(ends(&vsid(B)), dropped(DropReason::NvSourceSpoofed), "routed, but not from the router");
    assert_eq!(ends(&vsid(7000)), dropped(DropReason::NvNotHere), "a subnet that nobody has");
    for bad in [0, 4095, 0xff_ffff] {
        assert_eq!(ends(&vsid(bad)), dropped(DropReason::NvMalformed), "VSID {bad}");
    }
    let inner_src = |mac: Mac| move |f: &mut Vec<u8>| f[INNER + 6..INNER + 12].copy_from_slice(&mac.0);
    assert_eq!(ends(&inner_src(mac_of(9))), dropped(DropReason::NvSourceSpoofed));
    assert_eq!(ends(&inner_src(Mac::BROADCAST)), dropped(DropReason::InvalidSource));
    let inner_dst = |mac: Mac| move |f: &mut Vec<u8>| f[INNER..INNER + 6].copy_from_slice(&mac.0);
    assert_eq!(
        ends(&inner_dst(mac_of(5))),
        dropped(DropReason::NvDestinationUnknown),
        "a guest of another tenant"
    );
    assert_eq!(ends(&inner_dst(Mac::BROADCAST)), dropped(DropReason::NvDestinationUnknown), "one for all");
    let ca = |last: u8| move |f: &mut Vec<u8>| f[INNER + 26..INNER + 30].copy_from_slice(&[10, 1, 1, last]);
    assert_eq!(ends(&ca(99)), dropped(DropReason::NvSourceUnknown), "a customer address of nobody");
    assert_eq!(ends(&ca(12)), dropped(DropReason::NvSourceSpoofed), "the receiver's own");
}

#[test]
fn h30_malformed_tunnels_to_this_host_are_dropped_and_others_are_ordinary_frames() {
    let mut world = world();
    let good = good(&mut world);
    let malformed = [Happened::Dropped(1, DropReason::NvMalformed)];
    let flags: [u8; 3] = [0xa0, 0x30, 0x60]; // checksum, sequence number, routing
    for flag in flags {
        assert_eq!(world.arrive(1, &changed(&good, |f| f[GRE] = flag)), malformed);
    }
    assert_eq!(world.arrive(1, &changed(&good, |f| f[GRE + 1] = 1)), malformed, "version 1");
    let tagged = changed(&good, |f| f[INNER + 12..INNER + 14].copy_from_slice(&[0x81, 0]));
    assert_eq!(world.arrive(1, &tagged), malformed, "an inner tag");
    let fragment = changed(&good, |f| f[OUTER_IP + 6] = 0x20);
    assert_eq!(world.arrive(1, &fragment), malformed);
    let cut = &good[..INNER + 10];
    assert_eq!(world.arrive(1, cut), malformed);
    // FlowID and reserved bits are to be ignored.
    let odd = changed(&good, |f| (f[GRE + 7], f[GRE]) = (0xaa, 0x22));
    assert_eq!(receivers(&world.arrive(1, &odd)), [(1, 2)]);
    // Not for this host: it is an ordinary frame, to the uplink's own MAC address.
    let elsewhere = changed(&good, |f| f[OUTER_IP + 19] = 77);
    assert_eq!(world.arrive(1, &elsewhere), [Happened::Dropped(1, DropReason::SameSegmentReturn)]);
    let other_vlan = changed(&good, |f| f[15] = 8);
    assert!(receivers(&world.arrive(1, &other_vlan)).is_empty());
    let other_mac = changed(&good, |f| f[5] = 0x55);
    assert!(receivers(&world.arrive(1, &other_mac)).is_empty());
}

#[test]
fn h30_a_tunnel_in_a_tunnel_is_opened_once() {
    let mut world = world();
    let inner = good(&mut world);
    // A guest sends its own tunnel's packet to an address of this host: it is the tenant's packet, to nobody.
    let mut nested = vec![0; 0];
    nested.extend(mac_of(2).0);
    nested.extend(mac_of(1).0);
    nested.extend([8, 0]);
    nested.extend(&inner[OUTER_IP..]);
    assert_eq!(world.send(0, 1, &nested), [Happened::Dropped(0, DropReason::NvSourceUnknown)]);
    let from = |f: &mut [u8]| {
        f[26..30].copy_from_slice(&[10, 1, 1, 11]);
        f[30..34].copy_from_slice(&[10, 1, 1, 12]);
        f[24..26].fill(0);
        let sum = !crate::support::slow_sum(&[&f[14..34]]);
        f[24..26].copy_from_slice(&sum.to_be_bytes());
    };
    from(&mut nested);
    let happened = world.send(0, 1, &nested);
    let [Happened::Got(1, 2, got)] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!(got[14..], nested[14..], "the guest gets its peer's tunnel unopened");
}

#[test]
fn h30_congestion_marks_arrive_or_the_packet_does_not() {
    let mut world = world();
    let good = good(&mut world);
    let ce = changed(&good, |f| f[OUTER_IP + 1] |= 3);
    assert_eq!(world.arrive(1, &ce), [Happened::Dropped(1, DropReason::NvCongestion)]);
    let ect = changed(&ce, |f| {
        f[INNER + 15] = 2;
        f[INNER + 24..INNER + 26].fill(0);
        let sum = !crate::support::slow_sum(&[&f[INNER + 14..INNER + 34]]);
        f[INNER + 24..INNER + 26].copy_from_slice(&sum.to_be_bytes());
    });
    let happened = world.arrive(1, &ect);
    let [Happened::Got(1, 2, got)] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!(got[15] & 3, 3);
}

#[test]
fn h30_rewritten_packets_are_only_between_addresses_of_one_network() {
    let mut world = world();
    let rewrite = |vsid, ca: &str, n: u16, host: usize, wire: u8| vswitch::nv::model::Record {
        encap: Encap::Rewrite,
        rewrite_pa: Some([192, 168, 99, wire].into()),
        ..record(vsid, ca, mac_of(n), pa(host))
    };
    world.record(&rewrite(A, "10.1.1.11", 1, 0, 1));
    world.record(&rewrite(A, "10.1.1.12", 2, 1, 2));
    world.record(&rewrite(OTHER, "10.1.1.12", 5, 1, 5));
    let mut sent = {
        let frame = udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"x");
        assert_eq!(receivers(&world.send(0, 1, &frame)), [(1, 2)]);
        world.wire[0].clone()
    };
    sent[..6].copy_from_slice(&[0x02, 0xee, 0, 0, 0, 1]);
    // From Blue's guest to Red's: no subnet of Red's has the source.
    sent[OUTER_IP + 19] = 5;
    assert_eq!(world.arrive(1, &sent), [Happened::Dropped(1, DropReason::NvSourceUnknown)]);
    sent[OUTER_IP + 19] = 2;
    sent[OUTER_IP + 15] = 77;
    assert_eq!(world.arrive(1, &sent), [Happened::Dropped(1, DropReason::NvSourceSpoofed)]);
}

#[test]
fn h30_nobody_on_the_provider_network_uses_its_addresses() {
    let mut world = world();
    let mut neighbour = guest(20);
    neighbour.policy.vlan = "access:7".parse().expect("a mode");
    world.hosts[0].ports.push(neighbour);
    let mut apart = guest(21);
    apart.policy.vlan = "access:8".parse().expect("a mode");
    world.hosts[0].ports.push(apart);
    world.publish();
    let to = (Mac([0x02, 0xee, 0, 0, 0, 1]), pa(1));
    let spoofed = [Happened::Dropped(0, DropReason::ProviderSpoofed)];
    for address in [pa(0), pa(2)] {
        assert_eq!(world.send(0, 20, &udp(to, (mac_of(20), address), (1, 4789), b"x")), spoofed);
        assert_eq!(
            world.send(0, 20, &arp(Mac::BROADCAST, 1, (mac_of(20), address), (Mac([0; 6]), pa(1)))),
            spoofed
        );
        // In another network it may have them.
        let elsewhere = world.send(0, 21, &udp(to, (mac_of(21), address), (1, 2), b"x"));
        assert_ne!(elsewhere, spoofed);
    }
    let own = udp(to, (mac_of(20), ip("192.168.0.99")), (1, 2), b"x");
    for _ in 0..2 {
        assert_eq!(receivers(&world.send(0, 20, &own)), [(0, UPLINK.0)]);
    }
}

#[test]
fn s14_4_who_asks_for_a_provider_address_is_answered() {
    let mut world = world();
    let mut ask = Vec::new();
    let (mac, gateway) = (Mac([2, 0, 0, 0, 0, 0x77]), ip("192.168.0.1"));
    let (std::net::IpAddr::V4(from), std::net::IpAddr::V4(own)) = (gateway, pa(0)) else { panic!() };
    arp_request(mac, from, own, Some(7), &mut ask);
    let happened = world.arrive(0, &ask);
    let [Happened::Answered(0, 1000, answer)] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!(answer[..18], [&mac.0[..], &[0x02, 0xee, 0, 0, 0, 0, 0x81, 0, 0, 7, 8, 6]].concat());
    let hop = Hop { port: UPLINK, vlan: Some(7), address: gateway };
    assert_eq!(world.hosts[0].state.nv.neighbours.get(&hop), Some(mac), "and the router is at its new place");
    arp_request(mac, from, "192.168.0.11".parse().expect("an address"), Some(7), &mut ask);
    assert!(!matches!(world.arrive(0, &ask)[..], [Happened::Answered(..)]));
    arp_request(mac, from, own, None, &mut ask);
    assert!(!matches!(world.arrive(0, &ask)[..], [Happened::Answered(..)]), "it is in VLAN 7");
    let (std::net::IpAddr::V6(from), std::net::IpAddr::V6(own)) = (ip("2001:db8:ffff:0::1"), pa6(0)) else {
        panic!()
    };
    neighbour_solicitation(mac, from, own, Some(7), &mut ask);
    assert!(matches!(world.arrive(0, &ask)[..], [Happened::Answered(0, 1000, _)]));
}

#[test]
fn s14_4_next_hops_are_asked_for_in_the_provider_network() {
    let mut world = world();
    world.hosts[0].state = vswitch::state::State::new(64, 3);
    let host = &world.hosts[0];
    let due = nv::due(&host.snap, &host.state, world.now);
    assert_eq!(due.len(), 2, "both routers, before anybody needs them");
    assert!(due.iter().all(|(port, frame)| *port == PortId(1000) && frame[12..16] == [0x81, 0, 0, 7]));
    let v4 = due.iter().find(|(_, frame)| frame[16..18] == [8, 6]).expect("one by ARP");
    assert_eq!(v4.1[32..36], [192, 168, 0, 10]);
    assert_eq!(v4.1[42..46], [192, 168, 0, 1]);
}

#[test]
fn s14_4_a_provider_address_that_another_claims_is_reported() {
    let mut world = world();
    let claim = {
        let mut frame = arp(Mac::BROADCAST, 1, (mac_of(66), pa(0)), (Mac([0; 6]), pa(0)));
        frame.splice(12..12, [0x81, 0, 0, 7]);
        frame
    };
    world.arrive(0, &claim);
    let told = |e: &vswitch::event::Event| matches!(e, vswitch::event::Event::ProviderDuplicate { mac, .. } if *mac == mac_of(66));
    assert!(world.hosts[0].events.iter().any(told), "{:?}", world.hosts[0].events);
}
