//! Guests that are being moved: a host that their record names beforehand is believed at once, and nobody else is.

use vswitch::nv::model::{Encap, Kind, Record};
use vswitch::nv::records::{EXPECTED, Of};
use vswitch::trace::DropReason;

use super::frames::{ip, udp, who_has};
use super::world::{Happened, World, pa, receivers, record};
use crate::support::{SECOND, mac_of};

const A: u32 = 5001;

/// Four hosts; guest 1 at host 0, guest 2 at host 1 with ports prepared for it at hosts 2 and 3, where others of the subnet are, too.
fn world(encap: Encap) -> World {
    let mut world = World::new(4);
    world.network("blue");
    world.subnet("blue", A, &["10.1.1.0/24"]);
    world.guest(0, 1, A, mac_of(1));
    for host in 1..4 {
        world.guest(host, 2, A, mac_of(2));
    }
    world.publish();
    world.record(&Record { encap, ..record(A, "10.1.1.11", mac_of(1), pa(0)) });
    for (host, ca) in [(3, "10.1.1.13"), (2, "10.1.1.14")] {
        world.record(&Record { encap, ..record(A, ca, mac_of(host as u16 + 20), pa(host)) });
    }
    world.record(&second(encap, 1, None));
    world
}

fn second(encap: Encap, host: usize, next: Option<usize>) -> Record {
    Record { encap, next: next.map(pa), ..record(A, "10.1.1.12", mac_of(2), pa(host)) }
}

fn there() -> Vec<u8> {
    udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"there")
}

fn back() -> Vec<u8> {
    udp((mac_of(1), ip("10.1.1.11")), (mac_of(2), ip("10.1.1.12")), (2, 1), b"back")
}

const SPOOFED: [Happened; 1] = [Happened::Dropped(0, DropReason::NvSourceSpoofed)];

#[test]
fn s20_5_a_guest_that_has_just_moved_is_believed_where_its_record_expects_it() {
    for encap in [Encap::Nvgre, Encap::Vxlan] {
        let mut world = world(encap);
        world.record(&second(encap, 1, Some(2)));
        for _ in 0..3 {
            assert_eq!(receivers(&world.send(2, 2, &back())), [(0, 1)], "{encap:?}");
            assert_eq!(receivers(&world.send(1, 2, &back())), [(0, 1)], "it has not moved yet");
            assert_eq!(receivers(&world.send(0, 1, &there())), [(1, 2)], "nothing is sent there");
            assert_eq!(world.send(3, 2, &back()), SPOOFED, "another host is not named");
        }
        // Its new host knows first.
        world.record_at(2, &second(encap, 2, None));
        assert_eq!(receivers(&world.send(2, 2, &back())), [(0, 1)], "{encap:?}");
        world.record(&second(encap, 2, None));
        assert_eq!(receivers(&world.send(2, 2, &back())), [(0, 1)], "{encap:?}");
        assert_eq!(receivers(&world.send(0, 1, &there())), [(2, 2)], "{encap:?}");
    }
}

#[test]
fn s20_5_a_host_that_is_expected_no_more_is_not_believed_from_the_flow_cache_either() {
    let mut world = world(Encap::Nvgre);
    world.record(&second(Encap::Nvgre, 1, Some(2)));
    for _ in 0..3 {
        assert_eq!(receivers(&world.send(2, 2, &back())), [(0, 1)]);
    }
    world.record_at(0, &second(Encap::Nvgre, 1, None));
    assert_eq!(world.send(2, 2, &back()), SPOOFED);
}

#[test]
fn s20_5_who_never_took_back_that_a_guest_was_to_come_is_believed_for_an_hour() {
    let mut world = world(Encap::Nvgre);
    world.record(&second(Encap::Nvgre, 1, Some(2)));
    world.now += EXPECTED - SECOND;
    let age = |world: &World| world.hosts.iter().for_each(|host| host.state.age(world.now));
    age(&world);
    assert_eq!(receivers(&world.send(2, 2, &back())), [(0, 1)]);
    world.now += SECOND;
    age(&world);
    assert_eq!(world.send(2, 2, &back()), SPOOFED);
    assert_eq!(receivers(&world.send(0, 1, &there())), [(1, 2)], "the record itself stays");
    // The host where the guest is hears of it, so that it can be taken out of the store.
    let lapsed: Vec<_> = world.hosts.iter().map(|host| host.state.nv.records.take_lapsed()).collect();
    assert_eq!(lapsed, [vec![], vec![second(Encap::Nvgre, 1, None)], vec![], vec![]]);
    assert!(world.hosts[0].state.nv.records.expected().is_empty());
}

#[test]
fn h30_a_host_that_a_guest_is_expected_at_speaks_for_no_other_guest_and_in_no_other_way() {
    let mut world = world(Encap::Nvgre);
    world.record(&second(Encap::Nvgre, 1, Some(2)));
    world.guest(2, 3, A, mac_of(23));
    world.publish();
    let other = udp((mac_of(1), ip("10.1.1.11")), (mac_of(23), ip("10.1.1.13")), (2, 1), b"x");
    assert_eq!(world.send(2, 3, &other), SPOOFED);
    // The record at its host says that it is carried in another way.
    world.record_at(2, &second(Encap::Vxlan, 1, Some(2)));
    world.record_at(2, &Record { encap: Encap::Vxlan, ..record(A, "10.1.1.11", mac_of(1), pa(0)) });
    assert_eq!(world.send(2, 2, &back()), [Happened::Dropped(0, DropReason::NvMethodMismatch)]);
}

#[test]
fn s20_5_what_a_moved_guest_sends_to_another_that_has_moved_follows_that_one() {
    let mut world = world(Encap::Nvgre);
    world.guest(3, 1, A, mac_of(1));
    world.publish();
    world.record(&second(Encap::Nvgre, 1, Some(2)));
    let moved = record(A, "10.1.1.11", mac_of(1), pa(3));
    world.record_at(0, &moved);
    world.record_at(3, &moved);
    assert_eq!(receivers(&world.send(2, 2, &back())), [(3, 1)]);
    assert_eq!(world.wire.len(), 2);
}

#[test]
fn s20_5_a_guest_whose_address_is_not_known_is_learned_where_it_is_expected() {
    let mut world = world(Encap::Nvgre);
    let station = |host, next: Option<usize>| Record {
        kind: Kind::L2Only,
        next: next.map(pa),
        ..record(A, "0.0.0.0", mac_of(6), pa(host))
    };
    (1..3).for_each(|host| world.guest(host, 6, A, mac_of(6)));
    world.publish();
    world.record(&station(1, None));
    let talks = udp((mac_of(1), ip("10.1.1.11")), (mac_of(6), ip("10.1.1.60")), (1, 2), b"x");
    assert_eq!(world.send(2, 6, &talks), [Happened::Dropped(2, DropReason::NvSourceUnknown)]);
    assert_eq!(receivers(&world.send(1, 6, &talks)), [(0, 1)]);
    let learned = Record { kind: Kind::Dynamic, ..record(A, "10.1.1.60", mac_of(6), pa(1)) };
    assert_eq!(world.hosts[1].state.nv.records.get(A, Of::Address(ip("10.1.1.60"))), Some(learned));
    world.record(&station(1, Some(2)));
    // One that never had it learned before, and one that the former host has told of it.
    for knows in [false, true] {
        if knows {
            world.record_at(0, &learned);
        }
        assert_eq!(receivers(&world.send(2, 6, &talks)), [(0, 1)], "{knows}");
        let here = world.hosts[2].state.nv.records.get(A, Of::Address(ip("10.1.1.60"))).expect("learned");
        assert_eq!((here.pa, here.kind), (pa(2), Kind::Dynamic));
    }
    // The guest's own record follows it before those of its addresses do.
    world.record(&station(2, None));
    assert_eq!(receivers(&world.send(2, 6, &talks)), [(0, 1)]);
    let asks = who_has(ip("10.1.1.11"), (mac_of(6), ip("10.1.1.60")));
    assert!(matches!(world.send(2, 6, &asks)[..], [Happened::Answered(..)]));
    world.record(&station(1, None));
    assert_eq!(world.send(2, 6, &talks), SPOOFED);
}
