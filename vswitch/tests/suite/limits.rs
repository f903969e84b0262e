//! Address limit and storm limit.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vswitch::event::Event;
use vswitch::frame::ethernet::ethertype;
use vswitch::port::MAX_PORTS;
use vswitch::port::address_limit::{Addresses, IDLE, MAX_PER_PORT, Use};
use vswitch::port::storm::Storms;
use vswitch::trace::DropReason::{AddressLimit, StormLimit};
use vswitch::{Mac, PortId};

use crate::guards::{Judge, LOCAL6, OWN, OWN6, PEER, PEER6, switch};
use crate::packets::*;
use crate::support::{Random, SECOND, Switch, dropped, mac_of, to};

#[test]
fn s6_4_so_many_addresses_and_no_more() {
    let mut switch = switch(|policy| {
        policy.address_limit = 2;
        policy.addresses = None;
    });
    let from = |a: &str| {
        if a.contains(':') { v6(a, PEER6, 17, &udp(1, 2, b"")) } else { v4(a, PEER, 17, &udp(1, 2, b"")) }
    };
    assert_eq!(switch.packet(&from(OWN)), to(2));
    assert_eq!(switch.packet(&from(LOCAL6)), to(2), "the port's own link-local address is not counted");
    let announce = tagged(&[], ethertype::ARP, &arp(1, mac_of(1), "10.0.0.3", "10.0.0.3"));
    assert_eq!(switch.event(&announce), None);
    assert_eq!(switch.packet(&from("10.0.0.4")), dropped(AddressLimit));
    let advertised = v6(LOCAL6, PEER6, 58, &neighbour(136, OWN6, None));
    assert_eq!(switch.packet(&advertised), dropped(AddressLimit));
    let reached = Event::AddressLimitReached { port: PortId(1), address: ip("10.0.0.4"), limit: 2 };
    assert_eq!(switch.event(&framed(&from("10.0.0.4"))), Some(reached));
    assert_eq!(
        switch.judge(&tagged(&[], ethertype::ARP, &arp(1, mac_of(1), "10.0.0.4", OWN))),
        dropped(AddressLimit)
    );
    assert_eq!(
        switch.judge(&tagged(&[], ethertype::ARP, &arp(1, mac_of(1), "0.0.0.0", OWN))),
        to(2),
        "a probe"
    );
    assert_eq!(switch.packet(&v4("0.0.0.0", PEER, 17, &udp(68, 67, b""))), to(2));
    // What is known stays known; what was idle for five minutes makes room.
    switch.now += IDLE - 1;
    assert_eq!((switch.packet(&from(OWN)), switch.packet(&from("10.0.0.4"))), (to(2), dropped(AddressLimit)));
    switch.now += 1;
    assert_eq!(switch.packet(&from(OWN6)), to(2));
    assert_eq!(switch.packet(&from("10.0.0.3")), dropped(AddressLimit));
    let list = switch.state.addresses.list(switch.now, PortId(1));
    assert_eq!(list, [(ip(OWN), 1), (ip(OWN6), 0)]);
    assert_eq!((switch.state.addresses.remove_port(PortId(1)), switch.state.addresses.age(u64::MAX)), (2, 0));
    assert_eq!(switch.packet(&from("10.0.0.3")), to(2));
}

#[test]
fn s6_4_owned_addresses_are_not_counted_and_a_warning_comes_first() {
    let switch = switch(|policy| {
        policy.address_limit = 3;
        policy.addresses = Some(Arc::new(["10.0.0.0/30".parse().unwrap(), "2001:db8::/64".parse().unwrap()]));
    });
    for last in 0..4 {
        assert_eq!(switch.packet(&v4(&format!("10.0.0.{last}"), PEER, 17, &udp(1, 2, b""))), to(2));
    }
    assert_eq!(switch.state.addresses.list(0, PortId(1)), []);
    let switch = crate::guards::switch(|policy| policy.address_limit = 3);
    let events: Vec<_> = (1..=4)
        .map(|last| switch.event(&framed(&v4(&format!("10.0.0.{last}"), PEER, 17, &udp(1, 2, b"")))))
        .collect();
    let near = Event::AddressLimitNear { port: PortId(1), count: 2, limit: 3 };
    let reached = Event::AddressLimitReached { port: PortId(1), address: ip("10.0.0.4"), limit: 3 };
    assert_eq!(events, [None, Some(near), None, Some(reached)]);
}

#[test]
fn s6_4_addresses_in_use_match_a_list_kept_the_slow_way() {
    let mut random = Random(41);
    let addresses = Addresses::new(5);
    let mut model: Vec<(IpAddr, u64)> = Vec::new();
    let (mut now, mut full) = (0, 0);
    for _ in 0..50_000 {
        now += random.below(3) as u64 * SECOND * 4;
        let address = IpAddr::from([10, 0, 0, random.below(40) as u8]);
        let limit = 1 + random.below(20) as u32;
        if random.once_in(500) {
            addresses.age(now);
            model.retain(|(_, seen)| now - seen < IDLE);
        }
        let expected = if let Some((_, seen)) = model.iter_mut().find(|(known, _)| *known == address) {
            *seen = now;
            Use::Known
        } else {
            if model.len() >= limit as usize {
                model.retain(|(_, seen)| now - seen < IDLE);
            }
            if model.len() < limit as usize {
                model.push((address, now));
                Use::New { count: model.len() as u32 }
            } else {
                full += 1;
                Use::TooMany
            }
        };
        let would = addresses.would_use(now, PortId(7), address, limit);
        assert_eq!(addresses.make_use(now, PortId(7), address, limit), expected);
        assert_eq!(matches!(would, Use::New { .. }), matches!(expected, Use::New { .. }));
        assert_eq!(would == Use::TooMany, expected == Use::TooMany);
    }
    assert!(full > 1000, "{full}");
    assert_eq!(addresses.list(now, PortId(7)).len(), model.len());
    assert_eq!(addresses.list(now, PortId(8)), []);
}

#[test]
fn s6_4_a_port_holds_a_bounded_number_of_addresses() {
    let addresses = Addresses::new(5);
    let used = |n: u32| addresses.make_use(u64::from(n), PortId(1), IpAddr::from(n.to_be_bytes()), u32::MAX);
    assert!((1..=MAX_PER_PORT).all(|n| used(n) == Use::New { count: n }));
    assert_eq!(used(MAX_PER_PORT + 1), Use::TooMany);
    assert_eq!(addresses.make_use(0, PortId(MAX_PORTS as u16), ip(OWN), 1), Use::New { count: 1 });
    assert_eq!(addresses.make_use(0, PortId(u16::MAX), ip(OWN), 1), Use::TooMany, "no such port");
}

#[test]
fn s6_5_a_window_of_one_second() {
    let storms = Storms::new();
    let port = PortId(1);
    let taken = |now: u64, limit| (0..10).filter(|_| storms.take(now, port, limit)).count();
    assert_eq!(taken(0, 3), 3);
    assert_eq!(taken(SECOND - 1, 3), 0, "the same second");
    assert_eq!(taken(SECOND, 3), 3, "the next one starts fresh");
    assert_eq!(taken(SECOND, 5), 2, "a higher limit holds at once");
    assert_eq!(taken(SECOND, 1), 0, "and a lower one");
    assert_eq!(taken(0, 9), 4, "an older reading of the clock counts in the newer second");
    assert_eq!(taken(SECOND * 1000, 9), 9, "what was not used is lost");
    assert_eq!(taken(u64::MAX, u32::MAX), 10, "after all years there are");
    assert_eq!(taken(SECOND, 0), 10, "no limit");
    assert!((0..10).all(|_| storms.take(SECOND, PortId(2), 10)), "each port has its own");
    assert!(!storms.take(0, PortId(u16::MAX), 1), "no such port");
    storms.remove_port(PortId(2));
    assert!(storms.take(SECOND, PortId(2), 1));
    assert!(!storms.would_take(SECOND, PortId(2), 1) && storms.would_take(SECOND, PortId(2), 2));
    assert!(storms.take(SECOND, PortId(2), 2), "asking takes nothing");
}

#[test]
fn s6_5_the_limit_is_exact_over_threads() {
    let storms = Storms::new();
    let yes = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for second in 0..4 {
                    for _ in 0..20_000 {
                        if storms.take(second * SECOND * 10, PortId(3), 12_345) {
                            yes.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    // Who is behind the others counts in their second, so each of the four seconds is full and no fuller.
    assert_eq!(yes.load(Ordering::Relaxed), 4 * 12_345);
}

#[test]
fn s6_5_broadcast_and_multicast_are_limited() {
    let mut switch = switch(|policy| policy.storm_limit = 2);
    let multicast = Mac([0x01, 0, 0x5e, 0, 0, 1]);
    let passes = |switch: &Switch, dst| switch.own(1, dst) != dropped(StormLimit);
    assert!(passes(&switch, Mac::BROADCAST) && passes(&switch, multicast));
    assert!(!passes(&switch, Mac::BROADCAST) && !passes(&switch, multicast));
    assert_eq!(switch.own(1, mac_of(2)), to(2), "known unicast is not limited");
    assert!(switch.own(2, Mac::BROADCAST) != dropped(StormLimit), "nor is another port");
    switch.now += SECOND;
    assert!(passes(&switch, Mac::BROADCAST));
}
