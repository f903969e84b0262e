//! Guests that move to another host, guests that forward, and guests whose address is learned.

use vswitch::event::Event;
use vswitch::nv::learning::{self, News};
use vswitch::nv::model::{Encap, Kind, Record};
use vswitch::nv::policy::ROUTER_MAC;
use vswitch::nv::records::{GRACE, Of};
use vswitch::nv::{self, wire};
use vswitch::trace::DropReason;

use super::frames::{echo, ip, packet, udp, who_has};
use super::world::{Happened, World, pa, receivers, record};
use crate::support::{SECOND, mac_of};

const A: u32 = 5001;
const B: u32 = 5002;

/// Three hosts; guest 1 at host 0, guest 2 at host 1 with a port prepared for it at host 2.
fn world(encap: Encap) -> World {
    let mut world = World::new(3);
    world.network("blue");
    world.subnet("blue", A, &["10.1.1.0/24"]);
    world.subnet("blue", B, &["10.1.2.0/24"]);
    world.guest(0, 1, A, mac_of(1));
    world.guest(1, 2, A, mac_of(2));
    world.guest(2, 2, A, mac_of(2));
    world.publish();
    world.record(&first(encap));
    world.record(&second(encap, 1));
    world
}

fn first(encap: Encap) -> Record {
    let rewrite_pa = (encap == Encap::Rewrite).then(|| ip("192.168.99.1"));
    Record { encap, rewrite_pa, ..record(A, "10.1.1.11", mac_of(1), pa(0)) }
}

fn second(encap: Encap, host: usize) -> Record {
    let rewrite_pa = (encap == Encap::Rewrite).then(|| ip("192.168.99.2"));
    Record { encap, rewrite_pa, ..record(A, "10.1.1.12", mac_of(2), pa(host)) }
}

fn there() -> Vec<u8> {
    udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"there")
}

fn back() -> Vec<u8> {
    udp((mac_of(1), ip("10.1.1.11")), (mac_of(2), ip("10.1.1.12")), (2, 1), b"back")
}

#[test]
fn s20_5_a_move_is_one_change_of_the_record_and_flows_follow_it_at_once() {
    for encap in [Encap::Nvgre, Encap::Vxlan, Encap::Rewrite] {
        let mut world = world(encap);
        for _ in 0..3 {
            assert_eq!(receivers(&world.send(0, 1, &there())), [(1, 2)]);
            assert_eq!(receivers(&world.send(1, 2, &back())), [(0, 1)]);
        }
        world.record(&second(encap, 2));
        assert_eq!(receivers(&world.send(0, 1, &there())), [(2, 2)], "{encap:?}");
        assert_eq!(receivers(&world.send(2, 2, &back())), [(0, 1)], "{encap:?}");
    }
}

#[test]
fn s20_5_what_still_arrives_at_the_former_host_follows_the_guest_for_a_while() {
    for encap in [Encap::Nvgre, Encap::Vxlan] {
        let mut world = world(encap);
        world.send(0, 1, &there());
        // The sender has not heard of it yet.
        world.record_at(1, &second(encap, 2));
        world.record_at(2, &second(encap, 2));
        for _ in 0..2 {
            assert_eq!(world.send(0, 1, &there()), [Happened::Got(2, 2, there())], "{encap:?}");
        }
        world.now += GRACE;
        assert_eq!(world.send(0, 1, &there()), [Happened::Dropped(1, DropReason::NvNotHere)]);
    }
}

/// Guest 1 sends to guest 2, and the physical network takes the packet to `host`, as one does that has not heard of a move.
fn astray(world: &mut World, host: usize, frame: &[u8]) -> Vec<Happened> {
    world.wire.clear();
    world.send(0, 1, frame);
    let mut sent = world.wire[0].clone();
    sent[..6].copy_from_slice(&[0x02, 0xee, 0, 0, 0, host as u8]);
    world.arrive(host, &sent)
}

#[test]
fn s20_5_a_rewritten_packet_that_arrives_at_the_former_host_follows_the_guest_for_a_while() {
    let mut world = world(Encap::Rewrite);
    let moved = second(Encap::Rewrite, 2);
    let mut onward = there();
    wire::rewrite::hop(&mut onward).expect("a hop is left");
    // Whether the sender has heard of the move or not: the packet on the wire is the same.
    for heard in [false, true] {
        world.record_at(1, &moved);
        world.record_at(2, &moved);
        if heard {
            world.record_at(0, &moved);
        }
        for _ in 0..2 {
            assert_eq!(astray(&mut world, 1, &there()), [Happened::Got(2, 2, onward.clone())], "{heard}");
            assert_eq!(astray(&mut world, 2, &there()), [Happened::Got(2, 2, there())], "{heard}");
        }
    }
    assert!(world.told.is_empty());
}

#[test]
fn s20_5_a_rewritten_packet_for_a_guest_that_left_long_ago_ends_here_and_the_sender_is_told() {
    for forgotten in [false, true] {
        let mut world = world(Encap::Rewrite);
        world.record_at(1, &second(Encap::Rewrite, 2));
        world.now += GRACE;
        if forgotten {
            world.hosts[1].state.age(world.now);
        }
        let gone = [Happened::Dropped(1, DropReason::NvNotHere)];
        let (to, from) = ((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")));
        let error = packet(to, from, 1, 64, &[3, 1, 0xfc, 0xfe, 0, 0, 0, 0]);
        assert_eq!(astray(&mut world, 1, &error), gone);
        assert!(world.told.is_empty(), "an error is answered with none");
        assert_eq!(astray(&mut world, 1, &there()), gone);
        let [said] = &world.told[..] else { panic!("{:?}", world.told) };
        let mut said = said.clone();
        let sent = &world.wire[0][18..];
        assert_eq!(said[18 + 28..][..sent.len()], *sent, "it quotes the packet as it was on the wire");
        said[..6].copy_from_slice(&[0x02, 0xee, 0, 0, 0, 0]);
        world.arrive(0, &said);
        assert_eq!(world.hosts[0].state.nv.wanted.take(world.now), [(A, Of::Address(ip("10.1.1.12")))]);
    }
}

#[test]
fn s20_5_the_provider_network_is_told_where_an_address_of_ip_rewrite_has_come() {
    let mut world = world(Encap::Rewrite);
    let said = |world: &World, n: usize| -> Vec<Vec<u8>> {
        let frames = nv::due(&world.hosts[n].snap, &world.hosts[n].state, world.now).into_iter();
        // ARP in VLAN 7 in which somebody asks for his own address.
        let own = |frame: &Vec<u8>| frame[12..18] == [0x81, 0, 0, 7, 8, 6] && frame[32..36] == frame[42..46];
        frames.map(|(_, frame)| frame).filter(own).collect()
    };
    let here = |host: usize| {
        let rewrite_pa = Some(ip(&format!("192.168.{host}.77")));
        Record { rewrite_pa, ..second(Encap::Rewrite, host) }
    };
    (0..3).for_each(|n| drop(said(&world, n)));
    world.record(&here(2));
    assert!(said(&world, 0).is_empty() && said(&world, 1).is_empty(), "it is at neither");
    let [frame] = &said(&world, 2)[..] else { panic!("one announcement") };
    assert_eq!(frame[..12], [&[0xff; 6][..], &[0x02, 0xee, 0, 0, 0, 2]].concat());
    assert_eq!(frame[32..36], [192, 168, 2, 77]);
    world.record(&here(2));
    assert!(said(&world, 2).is_empty(), "once");
}

#[test]
fn s20_5_what_was_sent_before_the_move_arrives_after_it() {
    let mut world = world(Encap::Nvgre);
    // The receiver of its packets hears of the move before the last of them.
    world.record_at(0, &second(Encap::Nvgre, 2));
    assert_eq!(receivers(&world.send(1, 2, &back())), [(0, 1)]);
    world.now += GRACE;
    assert_eq!(world.send(1, 2, &back()), [Happened::Dropped(0, DropReason::NvSourceSpoofed)]);
}

#[test]
fn s20_5_hosts_that_each_believe_the_guest_to_be_at_the_other_do_not_play_ball() {
    for encap in [Encap::Nvgre, Encap::Vxlan, Encap::Rewrite] {
        let mut world = world(encap);
        world.record_at(2, &second(encap, 2));
        world.record_at(1, &second(encap, 2));
        world.record_at(2, &second(encap, 1));
        world.wire.clear();
        let happened = world.send(0, 1, &there());
        assert!(receivers(&happened).is_empty(), "{happened:?}");
        assert!(world.wire.len() <= 64, "{encap:?}: {} frames", world.wire.len());
        assert!(encap == Encap::Rewrite || world.wire.len() == 2, "{encap:?}: {} frames", world.wire.len());
    }
}

#[test]
fn s20_5_a_former_host_is_forgotten_after_the_grace() {
    let mut world = world(Encap::Nvgre);
    let known = |world: &World| world.hosts[0].state.nv.records.peers.find(pa(1)).is_some();
    world.record(&second(Encap::Nvgre, 2));
    assert!(known(&world), "what it sent before may still come");
    world.now += GRACE + SECOND;
    world.hosts[0].state.age(world.now);
    assert!(!known(&world));
    assert_eq!(receivers(&world.send(0, 1, &there())), [(2, 2)]);
}

/// Guest 9 at host 2 is Blue's router to 0.0.0.0/0, in a subnet of its own.
fn with_gateway(kind: Kind) -> World {
    let mut world = world(Encap::Nvgre);
    world.guest(2, 9, B, mac_of(9));
    world.route("blue", "0.0.0.0/0", "10.1.2.9");
    world.publish();
    world.record(&Record { kind, ..record(B, "10.1.2.9", mac_of(9), pa(2)) });
    world
}

#[test]
fn s14_3_what_is_outside_goes_to_the_next_hop_of_its_route() {
    let mut world = with_gateway(Kind::Gateway);
    let out = echo((ROUTER_MAC, ip("8.8.8.8")), (mac_of(1), ip("10.1.1.11")), 64);
    let wanted = echo((mac_of(9), ip("8.8.8.8")), (ROUTER_MAC, ip("10.1.1.11")), 63);
    for _ in 0..2 {
        assert_eq!(world.send(0, 1, &out), [Happened::Got(2, 9, wanted.clone())]);
    }
    let answer = echo((ROUTER_MAC, ip("10.1.1.11")), (mac_of(9), ip("8.8.8.8")), 50);
    let wanted = echo((mac_of(1), ip("10.1.1.11")), (ROUTER_MAC, ip("8.8.8.8")), 49);
    for _ in 0..2 {
        assert_eq!(world.send(2, 9, &answer), [Happened::Got(0, 1, wanted.clone())]);
    }
}

#[test]
fn s14_2_only_a_gateways_record_lets_a_guest_send_from_outside() {
    let answer = echo((ROUTER_MAC, ip("10.1.1.11")), (mac_of(9), ip("8.8.8.8")), 50);
    let mut world = with_gateway(Kind::Static);
    assert_eq!(world.send(2, 9, &answer), [Happened::Dropped(2, DropReason::NvSourceUnknown)]);
    // Nor may a gateway speak for guests of the network.
    let mut world = with_gateway(Kind::Gateway);
    let inside = echo((ROUTER_MAC, ip("10.1.1.11")), (mac_of(9), ip("10.1.1.12")), 50);
    assert_eq!(world.send(2, 9, &inside), [Happened::Dropped(2, DropReason::NvSourceUnknown)]);
    // When its record goes, so does that right.
    world.hosts[2].state.nv.records.remove(B, Of::Address(ip("10.1.2.9")));
    assert_eq!(world.send(2, 9, &answer), [Happened::Dropped(2, DropReason::NvSourceUnknown)]);
}

/// Guests 6 and 7 at host 0, whose addresses are not known.
fn with_unknown() -> World {
    let mut world = world(Encap::Nvgre);
    for n in [6, 7] {
        world.guest(0, n, A, mac_of(n));
        world.record(&Record { kind: Kind::L2Only, ..record(A, "0.0.0.0", mac_of(n), pa(0)) });
    }
    world.publish();
    world
}

#[test]
fn s14_9_an_address_is_learned_from_its_guest_and_forgotten_when_idle() {
    let mut world = with_unknown();
    world.send(0, 6, &who_has(ip("10.1.1.60"), (mac_of(6), ip("10.1.1.60"))));
    let learned = world.hosts[0].state.nv.records.get(A, Of::Address(ip("10.1.1.60"))).expect("learned");
    assert_eq!((learned.kind, learned.mac, learned.pa), (Kind::Dynamic, mac_of(6), pa(0)));
    assert_eq!(world.hosts[0].events.len(), 1, "{:?}", world.hosts[0].events);
    world.now += learning::IDLE - SECOND;
    // Using it keeps it, from the flow cache, too.
    let talks = udp((mac_of(1), ip("10.1.1.11")), (mac_of(6), ip("10.1.1.60")), (1, 2), b"x");
    for _ in 0..3 {
        assert_eq!(receivers(&world.send(0, 6, &talks)), [(0, 1)]);
        world.now += 2 * SECOND;
    }
    world.hosts[0].state.age(world.now);
    assert!(world.hosts[0].state.nv.records.find(A, Of::Address(ip("10.1.1.60"))).is_some());
    world.now += learning::IDLE;
    world.hosts[0].state.age(world.now);
    assert!(world.hosts[0].state.nv.records.find(A, Of::Address(ip("10.1.1.60"))).is_none());
    let news = world.hosts[0].state.nv.learned.take();
    assert_eq!(news, [News::Learned(learned), News::Forgotten { vsid: A, ca: ip("10.1.1.60") }]);
}

#[test]
fn s14_7_what_was_learned_may_be_taken_over_but_what_was_configured_not() {
    let mut world = with_unknown();
    world.send(0, 6, &who_has(ip("10.1.1.60"), (mac_of(6), ip("10.1.1.60"))));
    world.now += 2 * SECOND;
    world.send(0, 7, &who_has(ip("10.1.1.60"), (mac_of(7), ip("10.1.1.60"))));
    let has = |world: &World, ca: &str| {
        world.hosts[0].state.nv.records.find(A, Of::Address(ip(ca))).map(|(_, view)| view.mac)
    };
    assert_eq!(has(&world, "10.1.1.60"), Some(mac_of(7)));
    let taken =
        |e: &Event| matches!(e, Event::NvTaken { port, from, .. } if port.0 == 7 && *from == mac_of(6));
    assert!(world.hosts[0].events.iter().any(taken), "{:?}", world.hosts[0].events);
    let theirs = who_has(ip("10.1.1.12"), (mac_of(7), ip("10.1.1.12")));
    assert_eq!(world.send(0, 7, &theirs), [Happened::Dropped(0, DropReason::NvSourceUnknown)]);
    assert_eq!(has(&world, "10.1.1.12"), Some(mac_of(2)));
    let conflict = |e: &Event| matches!(e, Event::NvConflict { owner, .. } if *owner == mac_of(2));
    assert!(world.hosts[0].events.iter().any(conflict), "{:?}", world.hosts[0].events);
}

#[test]
fn s14_9_a_port_learns_so_many_addresses_and_only_of_its_subnet() {
    let mut world = with_unknown();
    let claims = |n: u32| {
        let address = std::net::Ipv4Addr::from(0x0a01_0100 + 100 + n).into();
        who_has(ip("10.1.1.11"), (mac_of(6), address))
    };
    for n in 0..learning::DEFAULT_LIMIT {
        assert!(matches!(world.send(0, 6, &claims(n))[..], [Happened::Answered(..)]), "{n}");
    }
    let learned = |world: &World| world.hosts[0].state.nv.learned.list().len() as u32;
    assert_eq!(learned(&world), learning::DEFAULT_LIMIT);
    let more =
        world.send(0, 6, &udp((mac_of(1), ip("10.1.1.11")), (mac_of(6), ip("10.1.1.250")), (1, 2), b"x"));
    assert_eq!(more, [Happened::Dropped(0, DropReason::AddressLimit)]);
    assert_eq!(learned(&world), learning::DEFAULT_LIMIT);
    for outside in ["10.1.2.5", "8.8.8.8", "10.1.1.1"] {
        let frame = udp((mac_of(1), ip("10.1.1.11")), (mac_of(7), ip(outside)), (1, 2), b"x");
        assert_eq!(
            world.send(0, 7, &frame),
            [Happened::Dropped(0, DropReason::NvSourceUnknown)],
            "{outside}"
        );
    }
    world.hosts[0].state.remove_port(vswitch::PortId(6));
    assert_eq!(learned(&world), 0);
}

#[test]
fn s14_7_an_unknown_address_is_asked_for_only_where_guests_without_known_addresses_are() {
    let mut world = with_unknown();
    let asks = who_has(ip("10.1.1.60"), (mac_of(2), ip("10.1.1.12")));
    let happened = world.send(1, 2, &asks);
    assert_eq!(
        receivers(&happened),
        [(0, 1), (0, 6), (0, 7)],
        "host 2 has the same subnet, but no such guest"
    );
    assert_eq!(world.wire.len(), 1);
}
