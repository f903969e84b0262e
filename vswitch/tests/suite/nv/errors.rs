//! ICMP errors of the provider network: what they say is believed as far as it costs little, and none of them changes where frames go.

use std::net::IpAddr;

use proptest::prelude::*;
use vswitch::event::Event;
use vswitch::nv::errors::{HEARD, LEAST_V4, LIFETIME, QUIET};
use vswitch::nv::model::{Encap, Record};
use vswitch::nv::records::{GRACE, Of};
use vswitch::nv::{self, neighbours};
use vswitch::pipeline;
use vswitch::trace::DropReason;
use vswitch::{HEAD_LEN, Mac};

use super::frames::{ip, packet, udp};
use super::world::{Happened, UPLINK, World, pa, pa6, receivers, record};
use crate::support::{SECOND, mac_of, slow_sum};

const A: u32 = 5001;

const ROUTER: Mac = Mac([0x02, 0xdd, 0, 0, 0, 1]);

/// The hosts' side of provider networks: 4 or 6.
type Side = fn(usize) -> IpAddr;

/// What is otherwise in a world, in words and deeds.
type Change<'a> = (&'a str, &'a dyn Fn(&mut World));

/// Guest 1 at host 0, guest 2 at host 1 with a port prepared for it at host 2.
fn world(encap: Encap, side: Side) -> World {
    let mut world = World::new(3);
    world.network("blue");
    world.subnet("blue", A, &["10.1.1.0/24"]);
    for (host, n) in [(0, 1), (1, 2), (2, 2)] {
        world.guest(host, n, A, mac_of(n));
    }
    world.publish();
    world.record(&of(1, encap, side(0)));
    world.record(&of(2, encap, side(1)));
    world
}

fn of(n: u16, encap: Encap, at: IpAddr) -> Record {
    let own = format!("192.168.99.{n}");
    let rewrite_pa = (encap == Encap::Rewrite).then(|| ip(&own));
    Record { encap, rewrite_pa, ..record(A, &format!("10.1.1.1{n}"), mac_of(n), at) }
}

/// What guest 1 sends to guest 2: so many bytes of IP, not to be fragmented.
fn there(len: usize) -> Vec<u8> {
    udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), &vec![7; len - 28])
}

/// The packet on the wire that such a frame becomes, without Ethernet.
fn on_wire(world: &mut World, len: usize) -> Vec<u8> {
    world.wire.clear();
    world.send(0, 1, &there(len));
    world.wire[0][18..].to_vec()
}

/// An ICMP error of type and code, with the word behind its checksum, about `quoted`, as host 0 gets it.
fn error(from: IpAddr, to: IpAddr, kind: [u8; 2], word: u32, quoted: &[u8]) -> Vec<u8> {
    let mut message = [&kind[..], &[0, 0], &word.to_be_bytes(), quoted].concat();
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (pseudo, protocol) = if to.is_ipv4() {
        (Vec::new(), 1)
    } else {
        let length = (message.len() as u32).to_be_bytes();
        ([&octets(from)[..], &octets(to), &length, &[0, 0, 0, 58]].concat(), 58)
    };
    let sum = !slow_sum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = packet((Mac([0x02, 0xee, 0, 0, 0, 0]), to), (ROUTER, from), protocol, 64, &message);
    frame.splice(12..12, [0x81, 0, 0, 7]);
    frame
}

fn too_big(world: &mut World, side: Side, from: IpAddr, mtu: u32, quoted: &[u8]) -> Vec<Happened> {
    let kind = if from.is_ipv4() { [3, 4] } else { [2, 0] };
    let to = if quoted[0] >> 4 == 4 {
        IpAddr::from(*quoted[12..].first_chunk::<4>().expect("a header"))
    } else {
        side(0)
    };
    world.arrive(0, &error(from, to, kind, mtu, quoted))
}

fn unreachable(from: IpAddr) -> [u8; 2] {
    if from.is_ipv4() { [3, 1] } else { [1, 3] }
}

/// The longest packet that gets from guest 1 to guest 2, by trying.
fn fits(world: &mut World) -> usize {
    let mut fit = 500;
    for len in 500..=1500 {
        match world.send(0, 1, &there(len))[..] {
            [Happened::Got(1, 2, _)] => fit = len,
            [Happened::TooBig(0, room)] => {
                assert_eq!(room, fit, "what is said to fit does");
                break;
            }
            ref other => panic!("{len}: {other:?}"),
        }
    }
    fit
}

#[test]
fn s14_13_what_fits_is_what_the_uplink_carries_and_resolve_tells_it() {
    for (encap, side, overhead) in
        [(Encap::Nvgre, pa as Side, 42), (Encap::Vxlan, pa6, 70), (Encap::Rewrite, pa, 0)]
    {
        let mut world = world(encap, side);
        world.mtu = 1400;
        world.publish();
        assert_eq!(fits(&mut world), 1400 - overhead, "{encap:?}");
        let mtus = |world: &World| {
            let host = &world.hosts[0];
            let found = nv::resolve(&host.snap, &host.state, world.now, A, ip("10.1.1.12"));
            let mtus = |step: &nv::resolve::Step| match step {
                nv::resolve::Step::Provider { path_mtu, mtu, .. } => Some((*path_mtu, usize::from(*mtu))),
                _ => None,
            };
            found.steps.iter().find_map(mtus)
        };
        assert_eq!(mtus(&world), Some((1400, 1400 - overhead)), "{encap:?}");
        let sent = on_wire(&mut world, 1400 - overhead);
        let from = if sent[0] >> 4 == 4 { ip("10.9.9.9") } else { ip("2001:db8:9::9") };
        too_big(&mut world, side, from, 1300, &sent);
        assert_eq!(mtus(&world), Some((1300, 1300 - overhead)), "{encap:?}");
        assert_eq!(fits(&mut world), 1300 - overhead, "{encap:?}");
    }
}

#[test]
fn s14_13_a_routers_word_lowers_what_fits_to_that_host_for_ten_minutes() {
    for (encap, side, from, overhead) in [
        (Encap::Nvgre, pa as Side, ip("10.9.9.9"), 42),
        (Encap::Vxlan, pa, ip("10.9.9.9"), 50),
        (Encap::Nvgre, pa6, ip("2001:db8:9::9"), 62),
        (Encap::Vxlan, pa6, ip("2001:db8:9::9"), 70),
        (Encap::Rewrite, pa, ip("10.9.9.9"), 0),
    ] {
        let mut world = world(encap, side);
        assert_eq!(fits(&mut world), 1500 - overhead, "{encap:?}");
        let sent = on_wire(&mut world, 1500 - overhead);
        // What every router quotes: eight bytes behind the IP header.
        let header = if from.is_ipv4() { 20 } else { 40 };
        too_big(&mut world, side, from, 1400, &sent[..header + 8]);
        assert_eq!(fits(&mut world), 1400 - overhead, "{encap:?} {from}");
        // It may become less, but not more before its time.
        too_big(&mut world, side, from, 1450, &sent);
        assert_eq!(fits(&mut world), 1400 - overhead, "{encap:?} {from}");
        too_big(&mut world, side, from, 1300, &sent);
        assert_eq!(fits(&mut world), 1300 - overhead, "{encap:?} {from}");
        world.now += LIFETIME;
        assert_eq!(fits(&mut world), 1500 - overhead, "{encap:?} {from}");
    }
}

#[test]
fn s14_13_what_fits_to_one_host_says_nothing_of_another() {
    let mut world = world(Encap::Nvgre, pa);
    let sent = on_wire(&mut world, 1400);
    too_big(&mut world, pa, ip("10.9.9.9"), 1000, &sent);
    assert_eq!(fits(&mut world), 1000 - 42);
    world.record(&of(2, Encap::Nvgre, pa(2)));
    assert_eq!(receivers(&world.send(0, 1, &there(1458))), [(2, 2)]);
}

#[test]
fn s14_13_a_routers_word_is_never_believed_below_what_every_router_carries() {
    let mut world = world(Encap::Nvgre, pa);
    let sent = on_wire(&mut world, 1458);
    // A router of old says nothing: the next plateau below the packet's length.
    too_big(&mut world, pa, ip("10.9.9.9"), 0, &sent);
    assert_eq!(fits(&mut world), 1492 - 42);
    for mtu in [68, 1, 575] {
        too_big(&mut world, pa, ip("10.9.9.9"), mtu, &sent);
        assert_eq!(fits(&mut world), usize::from(LEAST_V4) - 42);
    }
    let mut world = self::world(Encap::Nvgre, pa6);
    let sent = on_wire(&mut world, 1438);
    for mtu in [0, 1279, 1500, u32::MAX] {
        too_big(&mut world, pa6, ip("2001:db8:9::9"), mtu, &sent);
        assert_eq!(fits(&mut world), 1438, "{mtu}");
    }
    too_big(&mut world, pa6, ip("2001:db8:9::9"), 1280, &sent);
    assert_eq!(fits(&mut world), 1280 - 62);
}

#[test]
fn h30_an_error_must_quote_a_packet_that_this_host_may_have_sent() {
    let mut world = world(Encap::Nvgre, pa);
    let sent = on_wire(&mut world, 1458);
    let from = ip("10.9.9.9");
    world.guest(0, 3, A, mac_of(3));
    world.publish();
    world.record(&of(3, Encap::Rewrite, pa(0)));
    let good = error(from, pa(0), [3, 4], 1000, &sent);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut quoted = sent.clone();
        change(&mut quoted);
        error(from, pa(0), [3, 4], 1000, &quoted)
    };
    let bad = [
        ("to another address of this host", error(from, ip("192.168.99.3"), [3, 4], 1000, &sent)),
        ("to another host", error(from, pa(1), [3, 4], 1000, &sent)),
        ("about another's packet", changed(&|q| q[12..16].copy_from_slice(&[192, 168, 1, 10]))),
        ("about a packet to nobody", changed(&|q| q[16..20].copy_from_slice(&[192, 168, 1, 11]))),
        ("of a virtual subnet that does not exist", changed(&|q| q[24] ^= 1)),
        ("about other people's GRE", changed(&|q| q[22..24].copy_from_slice(&[8, 0]))),
        ("about TCP", changed(&|q| q[9] = 6)),
        ("about a fragment", changed(&|q| q[6] = 0x20)),
        ("about a packet that would have fitted", changed(&|q| q[2..4].copy_from_slice(&[3, 0xe8]))),
        ("with too little of it", error(from, pa(0), [3, 4], 1000, &sent[..27])),
        ("of another type", error(from, pa(0), [11, 0], 1000, &sent)),
        ("to another Ethernet address", {
            let mut frame = good.clone();
            frame[5] ^= 1;
            frame
        }),
        ("in another network", {
            let mut frame = good.clone();
            frame[15] = 8;
            frame
        }),
        ("with a wrong checksum", {
            let mut frame = error(from, pa(0), [3, 4], 1000, &sent[..28]);
            frame[18 + 20 + 2] ^= 1;
            frame
        }),
    ];
    for (what, frame) in bad {
        world.arrive(0, &frame);
        assert_eq!(receivers(&world.send(0, 1, &there(1458))), [(1, 2)], "{what}");
        world.now += SECOND;
    }
    let host = &world.hosts[0];
    let decided = pipeline::decide(&host.snap, &host.state, world.now, UPLINK, &good, good.len() as u32);
    assert!(decided.single, "each is heard, not one for all that look alike to a cache");
    assert_eq!(world.send(0, 1, &there(1458)), [Happened::TooBig(0, 958)]);
}

#[test]
fn h30_only_so_many_errors_are_heard_in_a_second() {
    let mut world = world(Encap::Nvgre, pa);
    let sent = on_wire(&mut world, 1458);
    let noise = error(ip("10.9.9.9"), pa(0), [3, 0], 0, &sent);
    for _ in 0..=HEARD {
        world.arrive(0, &noise);
    }
    too_big(&mut world, pa, ip("10.9.9.9"), 1000, &sent);
    assert_eq!(receivers(&world.send(0, 1, &there(1458))), [(1, 2)]);
    world.now += SECOND;
    too_big(&mut world, pa, ip("10.9.9.9"), 1000, &sent);
    assert!(receivers(&world.send(0, 1, &there(1458))).is_empty());
}

#[test]
fn s20_5_a_host_that_a_guest_has_left_long_ago_tells_the_sender_and_that_one_asks_for_the_record() {
    for (encap, side) in
        [(Encap::Nvgre, pa as Side), (Encap::Vxlan, pa), (Encap::Nvgre, pa6), (Encap::Vxlan, pa6)]
    {
        let mut world = world(encap, side);
        let moved = of(2, encap, side(2));
        world.record_at(1, &moved);
        world.record_at(2, &moved);
        assert_eq!(receivers(&world.send(0, 1, &there(500))), [(2, 2)], "sent on");
        assert!(world.told.is_empty(), "while it is sent on, nothing is said");
        world.now += GRACE;
        assert_eq!(world.send(0, 1, &there(500)), [Happened::Dropped(1, DropReason::NvNotHere)]);
        let [said] = &world.told[..] else { panic!("{:?}", world.told) };
        let said = said.clone();
        let (most, at) = if side(0).is_ipv4() { (576, 18 + 20) } else { (1280, 18 + 40) };
        assert!(said.len() <= 18 + most, "{} bytes", said.len());
        assert_eq!(said[at..at + 2], unreachable(side(0)));
        let quoted = &world.wire[world.wire.len() - 1][18..];
        let rest = &said[at + 8..];
        assert_eq!(rest, &quoted[..rest.len()], "{encap:?}: it quotes the packet as it was sent");
        // Its way: by host 1's router to host 0.
        let mut arrives = said.clone();
        arrives[..6].copy_from_slice(&[0x02, 0xee, 0, 0, 0, 0]);
        world.arrive(0, &arrives);
        let asked = world.hosts[0].state.nv.wanted.take(world.now);
        assert_eq!(asked, [(A, Of::Address(ip("10.1.1.12")))], "{encap:?}");
        assert_eq!(world.send(0, 1, &there(500)), [Happened::Dropped(1, DropReason::NvNotHere)]);
        assert_eq!(world.told.len(), 1, "once a second");
        assert!(world.hosts[0].state.nv.errors.take().is_empty(), "the host itself is well");
        // The record is another by now: what is said about the old one is no news.
        world.record_at(0, &moved);
        world.now += 2 * SECOND;
        world.hosts[0].state.nv.wanted.take(world.now);
        world.arrive(0, &arrives);
        assert!(world.hosts[0].state.nv.wanted.take(world.now).is_empty());
    }
}

#[test]
fn s20_5_only_the_host_itself_can_say_that_a_guest_is_not_there() {
    let mut world = world(Encap::Nvgre, pa);
    let sent = on_wire(&mut world, 500);
    world.arrive(0, &error(ip("10.9.9.9"), pa(0), [3, 1], 0, &sent));
    assert!(world.hosts[0].state.nv.wanted.take(world.now).is_empty());
    world.arrive(0, &error(pa(1), pa(0), [3, 1], 0, &sent));
    assert_eq!(world.hosts[0].state.nv.wanted.take(world.now).len(), 1);
    // In IP rewrite the address is the guest's alone, and whoever cannot reach it says so of the guest.
    let mut world = self::world(Encap::Rewrite, pa);
    let sent = on_wire(&mut world, 500);
    world.arrive(0, &error(ip("10.9.9.9"), ip("192.168.99.1"), [3, 1], 0, &sent));
    assert_eq!(world.hosts[0].state.nv.wanted.take(world.now), [(A, Of::Address(ip("10.1.1.12")))]);
}

#[test]
fn s20_5_a_host_that_knows_nobody_of_a_virtual_subnet_says_so_and_one_with_the_guest_says_nothing() {
    let mut world = world(Encap::Nvgre, pa);
    // Host 1 has forgotten the subnet's records, its ports have gone.
    world.hosts[1].state = vswitch::state::State::new(64, 9);
    world.hosts[1].ports.clear();
    world.publish();
    assert!(matches!(world.send(0, 1, &there(500))[..], [Happened::Dropped(1, _)]));
    assert_eq!(world.told.len(), 1);
    // Whoever is at fault, nothing is said about a guest that is there, or by somebody who cannot judge the packet's source.
    let forget = |world: &World, n: u16| {
        world.hosts[1].state.nv.records.remove(A, Of::Address(ip(&format!("10.1.1.1{n}"))));
    };
    let changes: [Change<'_>; 4] = [
        ("the guest is there", &|world| forget(world, 1)),
        ("no record, but its port is there", &|world| {
            world.hosts[1].state = vswitch::state::State::new(64, 9);
            world.publish();
        }),
        ("the guest is elsewhere", &|world| {
            forget(world, 1);
            world.record_at(1, &of(2, Encap::Nvgre, pa(2)));
            world.now += GRACE;
        }),
        ("neither is known, but others are", &|world| {
            forget(world, 1);
            forget(world, 2);
            world.hosts[1].ports.clear();
            world.publish();
            world.record_at(1, &of(3, Encap::Nvgre, pa(2)));
        }),
    ];
    for (what, change) in changes {
        let mut world = self::world(Encap::Nvgre, pa);
        change(&mut world);
        assert!(matches!(world.send(0, 1, &there(500))[..], [Happened::Dropped(1, _)]), "{what}");
        assert!(world.told.is_empty(), "{what}");
    }
}

#[test]
fn s14_4_a_provider_address_that_the_network_complains_about_is_reported_once_and_its_end() {
    let mut world = world(Encap::Nvgre, pa);
    let sent = on_wire(&mut world, 500);
    let news = |world: &World| world.hosts[0].state.nv.errors.take();
    for code in [0, 1, 13] {
        world.arrive(0, &error(ip("10.9.9.9"), pa(0), [3, code], 0, &sent));
    }
    let events = news(&world);
    let [Event::ProviderUnreachable { address, reason, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((*address, &reason[..]), (pa(1), "10.9.9.9 says: there is no route"));
    assert_eq!(receivers(&world.send(0, 1, &there(500))), [(1, 2)], "and frames go where they went");
    let due = |world: &World| nv::due(&world.hosts[0].snap, &world.hosts[0].state, world.now);
    world.now += QUIET - SECOND;
    due(&world);
    assert!(
        !news(&world)
            .iter()
            .any(|e| matches!(e, Event::ProviderReachable { address, .. } if *address == pa(1)))
    );
    world.now += SECOND;
    due(&world);
    assert!(
        news(&world)
            .iter()
            .any(|e| matches!(e, Event::ProviderReachable { address, .. } if *address == pa(1)))
    );
}

#[test]
fn s14_4_a_next_hop_that_does_not_answer_is_reported_once_and_its_end() {
    let world = world(Encap::Nvgre, pa);
    let (host, mut now) = (&world.hosts[0], world.now);
    let router = ip("192.168.0.1");
    let mut told = Vec::new();
    // The router was last heard of at the beginning; the other one never was.
    let stranger = ip("192.168.0.99");
    for address in [pa(1), stranger] {
        host.state.nv.neighbours.find(&neighbours::Hop { port: UPLINK, vlan: Some(7), address });
    }
    for second in 1..2 * neighbours::LOST / SECOND {
        now += SECOND;
        nv::due(&host.snap, &host.state, now);
        told.extend(host.state.nv.errors.take());
        assert_eq!(told.is_empty(), second < neighbours::LOST / SECOND, "{second}: {told:?}");
    }
    for (whom, times) in [(router, 1), (pa(1), 1), (stranger, 0)] {
        let about = |e: &&Event| matches!(e, Event::ProviderUnreachable { address, .. } if *address == whom);
        assert_eq!(told.iter().filter(about).count(), times, "{whom}: {told:?}");
    }
    let hop = neighbours::Hop { port: UPLINK, vlan: Some(7), address: router };
    host.state.nv.neighbours.hear(now, &hop, ROUTER);
    told.clear();
    for _ in 0..3 {
        now += SECOND;
        nv::due(&host.snap, &host.state, now);
        told.extend(host.state.nv.errors.take());
    }
    let back = |e: &&Event| matches!(e, Event::ProviderReachable { address, .. } if *address == router);
    assert_eq!(told.iter().filter(back).count(), 1, "{told:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever errors say, frames that fit the smallest path go where they went, and what fits never falls below what every router carries.
    #[test]
    fn h30_no_error_changes_where_frames_go(
        encap in prop_oneof![Just(Encap::Nvgre), Just(Encap::Vxlan), Just(Encap::Rewrite)],
        v6: bool,
        said in prop::collection::vec((0_u8..12, 0_u8..16, any::<u32>(), 0_usize..200, prop::collection::vec((0_usize..120, any::<u8>()), 0..4), any::<bool>()), 1..20),
    ) {
        let side: Side = if v6 && encap != Encap::Rewrite { pa6 } else { pa };
        let mut world = world(encap, side);
        let sent = on_wire(&mut world, 600);
        let small = if side(0).is_ipv4() { 576 } else { 1280 } - 70;
        let before = world.send(0, 1, &there(small));
        for (kind, code, word, len, changes, from_host) in said {
            let to = match sent[0] >> 4 {
                4 => IpAddr::from(*sent[12..].first_chunk::<4>().expect("a header")),
                _ => side(0),
            };
            let from = if from_host { side(1) } else if to.is_ipv4() { ip("10.9.9.9") } else { ip("2001:db8::9") };
            let mut frame = error(from, to, [kind, code], word, &sent[..len.max(28)]);
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(18 + at) {
                    *place = byte;
                }
            }
            let seen = frame.len().min(HEAD_LEN);
            let happened = world.arrive(0, &frame[..seen]);
            prop_assert!(receivers(&happened).is_empty(), "{happened:?}");
        }
        prop_assert_eq!(world.send(0, 1, &there(small)), before);
        prop_assert!(world.hosts[0].state.nv.records.list(None).len() == 2);
    }
}
