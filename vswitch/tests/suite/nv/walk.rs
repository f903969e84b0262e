//! The packet walk, rule by rule: two or three hosts, tenants Blue and Yellow.

use vswitch::explain::explain;
use vswitch::nv::model::{Encap, Kind, Record};
use vswitch::nv::policy::ROUTER_MAC;
use vswitch::pipeline::Verdict;
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId, nv};

use super::frames::{arp, discovery, echo, ip, router, udp, who_has};
use super::world::{Happened, UPLINK, World, pa, pa6, receivers, record};
use crate::support::mac_of;

const BLUE: u32 = 5001;
const BLUE_TOO: u32 = 5002;
const YELLOW: u32 = 6001;

/// Two guests of Blue in one subnet and one in another, and the same addresses again of Yellow: ports 1, 2, 3 and 4, 5; SQL and WEB of the
/// issue's example are ports 1 and 2 of Blue, 4 and 5 of Yellow, at hosts 0 and 1.
fn world(encap: Encap) -> World {
    let mut world = World::new(2);
    world.network("blue");
    world.network("yellow");
    world.subnet("blue", BLUE, &["10.1.1.0/24", "2001:db8:1::/64"]);
    world.subnet("blue", BLUE_TOO, &["10.1.2.0/24", "2001:db8:2::/64"]);
    world.subnet("yellow", YELLOW, &["10.1.1.0/24"]);
    world.guest(0, 1, BLUE, mac_of(1));
    world.guest(1, 2, BLUE, mac_of(2));
    world.guest(1, 3, BLUE_TOO, mac_of(3));
    world.guest(0, 4, YELLOW, mac_of(1)); // even the same MAC addresses
    world.guest(1, 5, YELLOW, mac_of(2));
    world.publish();
    let rewrite = |n: u8| (encap == Encap::Rewrite).then(|| [192, 168, 99, n].into());
    let mut add = |vsid, ca: &str, mac, host: usize, n| {
        world.record(&Record { encap, rewrite_pa: rewrite(n), ..record(vsid, ca, mac, pa(host)) });
    };
    add(BLUE, "10.1.1.11", mac_of(1), 0, 10);
    add(BLUE, "10.1.1.12", mac_of(2), 1, 12);
    add(BLUE_TOO, "10.1.2.13", mac_of(3), 1, 14);
    add(YELLOW, "10.1.1.11", mac_of(1), 0, 11);
    add(YELLOW, "10.1.1.12", mac_of(2), 1, 13);
    if encap != Encap::Rewrite {
        add(BLUE, "2001:db8:1::11", mac_of(1), 0, 0);
        add(BLUE, "2001:db8:1::12", mac_of(2), 1, 0);
        add(BLUE_TOO, "2001:db8:2::13", mac_of(3), 1, 0);
    }
    world
}

fn dropped(host: usize, reason: DropReason) -> Vec<Happened> {
    vec![Happened::Dropped(host, reason)]
}

#[test]
fn s14_15_tenants_with_the_same_addresses_reach_only_their_own() {
    for encap in [Encap::Nvgre, Encap::Vxlan, Encap::Rewrite] {
        let mut world = world(encap);
        let frame = udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"hello");
        for _ in 0..2 {
            // The second one is known to the flow cache.
            assert_eq!(world.send(0, 1, &frame), [Happened::Got(1, 2, frame.clone())], "{encap:?}");
            assert_eq!(world.send(0, 4, &frame), [Happened::Got(1, 5, frame.clone())], "{encap:?}");
        }
        let back = udp((mac_of(1), ip("10.1.1.11")), (mac_of(2), ip("10.1.1.12")), (2, 1), b"hello");
        assert_eq!(world.send(1, 2, &back), [Happened::Got(0, 1, back.clone())], "{encap:?}");
        assert_eq!(world.send(1, 5, &back), [Happened::Got(0, 4, back.clone())], "{encap:?}");
    }
}

#[test]
fn s14_12_ip_rewrite_shows_one_provider_address_for_each_customer_address() {
    let mut world = world(Encap::Rewrite);
    let frame = udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"hello");
    world.send(0, 1, &frame);
    world.send(0, 4, &frame);
    let addresses: Vec<&[u8]> = world.wire.iter().map(|frame| &frame[18 + 12..18 + 20]).collect();
    assert_eq!(addresses, [[192, 168, 99, 10, 192, 168, 99, 12], [192, 168, 99, 11, 192, 168, 99, 13]]);
    assert!(world.wire.iter().all(|frame| frame[12..18] == [0x81, 0, 0, 7, 8, 0]), "{:02x?}", world.wire);
}

#[test]
fn s14_5_the_destination_is_found_by_its_ip_address_whatever_the_mac_address_says() {
    let mut world = world(Encap::Nvgre);
    let (to, from) = (ip("10.1.1.12"), (mac_of(1), ip("10.1.1.11")));
    let wanted = udp((mac_of(2), to), from, (1, 2), b"x");
    let sent = udp((mac_of(77), to), from, (1, 2), b"x");
    assert_eq!(world.send(0, 1, &sent), [Happened::Got(1, 2, wanted)]);
}

#[test]
fn s14_10_the_router_of_every_host_routes_between_the_subnets_of_a_network_alone() {
    let mut world = world(Encap::Nvgre);
    for (to, from, gateway) in
        [("10.1.2.13", "10.1.1.11", "10.1.1.1"), ("2001:db8:2::13", "2001:db8:1::11", "2001:db8:1::1")]
    {
        let sent = echo((router(gateway).0, ip(to)), (mac_of(1), ip(from)), 64);
        let wanted = echo((mac_of(3), ip(to)), (ROUTER_MAC, ip(from)), 63);
        for _ in 0..2 {
            assert_eq!(world.send(0, 1, &sent), [Happened::Got(1, 3, wanted.clone())]);
        }
        // At the same host, too.
        let near = echo((ROUTER_MAC, ip(&from.replace("11", "12"))), (mac_of(3), ip(to)), 9);
        let wanted = echo((mac_of(2), ip(&from.replace("11", "12"))), (ROUTER_MAC, ip(to)), 8);
        assert_eq!(world.send(1, 3, &near), [Happened::Got(1, 2, wanted)]);
    }
    let other = echo((ROUTER_MAC, ip("10.1.2.13")), (mac_of(1), ip("10.1.1.11")), 64);
    assert_eq!(world.send(0, 4, &other), dropped(0, DropReason::NvNoRoute), "Yellow has no such subnet");
}

#[test]
fn s14_10_a_packet_whose_ttl_ends_at_the_router_is_answered_in_its_name() {
    let mut world = world(Encap::Nvgre);
    let from = (mac_of(1), ip("10.1.1.11"));
    let alive = echo((ROUTER_MAC, ip("10.1.2.13")), from, 2);
    assert_eq!(receivers(&world.send(0, 1, &alive)), [(1, 3)]);
    let expiring = echo((ROUTER_MAC, ip("10.1.2.13")), from, 1);
    let happened = world.send(0, 1, &expiring);
    let [Happened::Answered(0, 1, answer)] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!(answer[..12], [mac_of(1).0, ROUTER_MAC.0].concat());
    assert_eq!((&answer[26..34], answer[34]), (&[10, 1, 1, 1, 10, 1, 1, 11][..], 11));
    // Within the subnet nobody counts hops.
    let near = echo((mac_of(2), ip("10.1.1.12")), from, 1);
    assert_eq!(receivers(&world.send(0, 1, &near)), [(1, 2)]);
    assert_eq!(
        receivers(&world.send(0, 1, &alive)),
        [(1, 3)],
        "the flow is not taken for the one that ended"
    );
}

#[test]
fn s14_10_the_router_answers_echo_and_nothing_else() {
    let mut world = world(Encap::Nvgre);
    let from = (mac_of(1), ip("10.1.1.11"));
    for address in ["10.1.1.1", "10.1.2.1"] {
        let happened = world.send(0, 1, &echo(router(address), from, 64));
        assert!(matches!(&happened[..], [Happened::Answered(0, 1, a)] if a[34] == 0), "{happened:?}");
        let knock = udp(router(address), from, (1, 2), b"x");
        assert_eq!(world.send(0, 1, &knock), dropped(0, DropReason::NvForRouter));
    }
}

#[test]
fn s14_5_a_source_without_its_record_sends_nothing() {
    let mut world = world(Encap::Nvgre);
    let to = (mac_of(2), ip("10.1.1.12"));
    let unknown = udp(to, (mac_of(1), ip("10.1.1.99")), (1, 2), b"x");
    assert_eq!(world.send(0, 1, &unknown), dropped(0, DropReason::NvSourceUnknown));
    let of_another = udp((mac_of(9), ip("10.1.1.11")), (mac_of(1), ip("10.1.1.12")), (1, 2), b"x");
    assert_eq!(world.send(0, 1, &of_another), dropped(0, DropReason::NvSourceUnknown));
    let nowhere = udp((mac_of(9), ip("10.1.1.77")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"x");
    assert_eq!(world.send(0, 1, &nowhere), dropped(0, DropReason::NvDestinationUnknown));
    // That a record is missing is not remembered.
    world.record(&record(BLUE, "10.1.1.99", mac_of(1), pa(0)));
    assert_eq!(receivers(&world.send(0, 1, &unknown)), [(1, 2)]);
}

#[test]
fn s14_5_only_ip_and_arp_without_a_tag_pass() {
    let mut world = world(Encap::Nvgre);
    let mut lldp = udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"x");
    lldp[12..14].copy_from_slice(&[0x88, 0xb5]);
    assert_eq!(world.send(0, 1, &lldp), dropped(0, DropReason::NvEthertype));
    let mut tagged = udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"x");
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    assert_eq!(world.send(0, 1, &tagged), dropped(0, DropReason::NvEthertype));
}

#[test]
fn s14_5_both_records_name_one_encapsulation() {
    let mut world = world(Encap::Nvgre);
    world.record(&Record { encap: Encap::Vxlan, ..record(BLUE, "10.1.1.12", mac_of(2), pa(1)) });
    let frame = udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"x");
    assert_eq!(world.send(0, 1, &frame), dropped(0, DropReason::NvMethodMismatch));
}

#[test]
fn s14_1_customer_and_provider_addresses_are_of_any_family() {
    for encap in [Encap::Nvgre, Encap::Vxlan] {
        let mut world = world(encap);
        for (ca, mac, host) in [("10.1.1.11", mac_of(1), 0), ("10.1.1.12", mac_of(2), 1)] {
            world.record(&Record { encap, ..record(BLUE, ca, mac, pa6(host)) });
        }
        let frame = udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"x");
        assert_eq!(world.send(0, 1, &frame), [Happened::Got(1, 2, frame.clone())]);
        assert_eq!(world.wire[0][16..18], [0x86, 0xdd]);
    }
}

#[test]
fn s14_7_requests_are_answered_from_records_and_leave_no_host() {
    let mut world = world(Encap::Nvgre);
    let from = (mac_of(1), ip("10.1.1.11"));
    for (target, at) in [("10.1.1.12", mac_of(2)), ("10.1.1.1", ROUTER_MAC)] {
        let happened = world.send(0, 1, &who_has(ip(target), from));
        let [Happened::Answered(0, 1, answer)] = &happened[..] else { panic!("{happened:?}") };
        assert_eq!(answer[..42], arp(mac_of(1), 2, (at, ip(target)), from)[..42]);
    }
    assert_eq!(
        world.send(0, 1, &who_has(ip("10.1.1.77"), from)),
        dropped(0, DropReason::NvDestinationUnknown)
    );
    assert!(world.wire.is_empty());
    // Neighbour discovery alike.
    let from = (mac_of(1), ip("2001:db8:1::11"));
    let group = (Mac([0x33, 0x33, 0xff, 0, 0, 0x12]), ip("ff02::1:ff00:12"));
    let happened = world.send(0, 1, &discovery(135, ip("2001:db8:1::12"), from, group));
    let [Happened::Answered(0, 1, answer)] = &happened[..] else { panic!("{happened:?}") };
    assert_eq!((answer[54], &answer[answer.len() - 6..]), (136, &mac_of(2).0[..]));
}

#[test]
fn s14_7_a_probe_of_one_station_goes_to_it_and_its_answer_comes_back() {
    let mut world = world(Encap::Nvgre);
    let (one, other) = ((mac_of(1), ip("10.1.1.11")), (mac_of(2), ip("10.1.1.12")));
    let probe = arp(mac_of(2), 1, one, (Mac([0; 6]), other.1));
    assert_eq!(world.send(0, 1, &probe), [Happened::Got(1, 2, probe.clone())]);
    let reply = arp(mac_of(1), 2, other, one);
    assert_eq!(world.send(1, 2, &reply), [Happened::Got(0, 1, reply.clone())]);
    let (one, other) = ((mac_of(1), ip("2001:db8:1::11")), (mac_of(2), ip("2001:db8:1::12")));
    let probe = discovery(135, other.1, one, other);
    assert_eq!(world.send(0, 1, &probe), [Happened::Got(1, 2, probe.clone())]);
    let reply = discovery(136, other.1, other, one);
    assert_eq!(world.send(1, 2, &reply), [Happened::Got(0, 1, reply.clone())]);
}

#[test]
fn s14_7_a_probe_for_duplicates_finds_the_guest_that_has_the_address() {
    let mut world = world(Encap::Nvgre);
    let nobody = ip("0.0.0.0");
    let happened = world.send(0, 1, &who_has(ip("10.1.1.12"), (mac_of(1), nobody)));
    assert!(matches!(&happened[..], [Happened::Answered(..)]), "{happened:?}");
    let own = world.send(0, 1, &who_has(ip("10.1.1.11"), (mac_of(1), nobody)));
    assert_eq!(own, dropped(0, DropReason::SameSegmentReturn));
    let group = (Mac([0x33, 0x33, 0xff, 0, 0, 0x12]), ip("ff02::1:ff00:12"));
    let happened = world.send(0, 1, &discovery(135, ip("2001:db8:1::12"), (mac_of(1), ip("::")), group));
    assert!(matches!(&happened[..], [Happened::Answered(..)]), "{happened:?}");
}

#[test]
fn s14_9_a_record_that_is_missing_is_wanted_where_not_all_are_known() {
    let mut world = world(Encap::Nvgre);
    let take = |world: &World| world.hosts[0].state.nv.wanted.take(world.now);
    let wanted = |ca: &str| (BLUE, nv::records::Of::Address(ip(ca)));
    let to = |ca: &str, from: &str| udp((mac_of(2), ip(ca)), (mac_of(1), ip(from)), (1, 2), b"hello");
    world.send(0, 1, &to("10.1.1.77", "10.1.1.11"));
    assert_eq!(take(&world), [], "all are known: it does not exist");
    world.hosts[0].state.nv.wanted.set_whole(Some([YELLOW]));
    assert_eq!(world.send(0, 1, &to("10.1.1.77", "10.1.1.11")), dropped(0, DropReason::NvDestinationUnknown));
    world.send(0, 1, &to("10.1.1.12", "10.1.1.78"));
    world.send(0, 1, &who_has(ip("10.1.1.79"), (mac_of(1), ip("10.1.1.11"))));
    assert_eq!(take(&world), [wanted("10.1.1.77"), wanted("10.1.1.78"), wanted("10.1.1.79")]);
    // Nobody is asked for what would only happen.
    let frame = to("10.1.1.80", "10.1.1.11");
    let host = &world.hosts[0];
    explain(&host.snap, &host.state, world.now, PortId(1), &frame, frame.len() as u32);
    assert_eq!(take(&world), []);
}

#[test]
fn s14_7_who_announces_what_another_has_is_not_believed() {
    let mut world = world(Encap::Nvgre);
    let theirs = who_has(ip("10.1.1.12"), (mac_of(1), ip("10.1.1.12")));
    assert_eq!(world.send(0, 1, &theirs), dropped(0, DropReason::NvSourceUnknown));
    let routers = who_has(ip("10.1.1.1"), (mac_of(1), ip("10.1.1.1")));
    assert_eq!(world.send(0, 1, &routers), dropped(0, DropReason::NvSourceUnknown));
    let lie = arp(Mac::BROADCAST, 1, (mac_of(2), ip("10.1.1.11")), (Mac([0; 6]), ip("10.1.1.12")));
    let mut lie = lie;
    lie[6..12].copy_from_slice(&mac_of(1).0);
    assert_eq!(world.send(0, 1, &lie), dropped(0, DropReason::NvSourceSpoofed));
}

#[test]
fn s14_8_broadcast_goes_once_to_each_host_that_has_guests_of_the_subnet() {
    let mut world = world(Encap::Nvgre);
    world.guest(1, 6, BLUE, mac_of(6));
    world.publish();
    world.record(&record(BLUE, "10.1.1.16", mac_of(6), pa(1)));
    let from = (mac_of(1), ip("10.1.1.11"));
    for to in ["255.255.255.255", "10.1.1.255", "224.0.0.251"] {
        world.wire.clear();
        let happened = world.send(0, 1, &udp((Mac::BROADCAST, ip(to)), from, (1, 2), b"x"));
        assert_eq!(receivers(&happened), [(1, 2), (1, 6)], "{to}: {happened:?}");
        assert_eq!(world.wire.len(), 1);
    }
}

#[test]
fn s14_8_dhcp_of_a_tenants_own_server_works_with_l2_only_records() {
    let mut world = world(Encap::Nvgre);
    world.guest(0, 7, BLUE, mac_of(7));
    world.publish();
    let discover = udp((Mac::BROADCAST, ip("255.255.255.255")), (mac_of(7), ip("0.0.0.0")), (68, 67), b"x");
    assert_eq!(world.send(0, 7, &discover), dropped(0, DropReason::NvSourceUnknown));
    let kind = Kind::L2Only;
    world.record(&Record { kind, ..record(BLUE, "0.0.0.0", mac_of(7), pa(0)) });
    assert_eq!(receivers(&world.send(0, 7, &discover)), [(0, 1), (1, 2)]);
    let offer = udp((mac_of(7), ip("10.1.1.70")), (mac_of(2), ip("10.1.1.12")), (67, 68), b"x");
    assert_eq!(world.send(1, 2, &offer), [Happened::Got(0, 7, offer.clone())]);
    // It uses what it was given: learned, and all others reach it.
    let says = who_has(ip("10.1.1.12"), (mac_of(7), ip("10.1.1.70")));
    assert!(matches!(&world.send(0, 7, &says)[..], [Happened::Answered(..)]));
    let talks = udp((mac_of(2), ip("10.1.1.12")), (mac_of(7), ip("10.1.1.70")), (1, 2), b"x");
    assert_eq!(receivers(&world.send(0, 7, &talks)), [(1, 2)], "before the other host knows of it");
    let news = world.hosts[0].state.nv.learned.take();
    let [vswitch::nv::learning::News::Learned(learned)] = news[..] else { panic!("{news:?}") };
    assert_eq!((learned.ca, learned.mac, learned.kind), (ip("10.1.1.70"), mac_of(7), Kind::Dynamic));
    world.record_at(1, &learned);
    let back = udp((mac_of(7), ip("10.1.1.70")), (mac_of(2), ip("10.1.1.12")), (2, 1), b"x");
    assert_eq!(world.send(1, 2, &back), [Happened::Got(0, 7, back.clone())]);
}

#[test]
fn s14_4_resolve_tells_every_step_of_the_way() {
    let world = world(Encap::Nvgre);
    let told = |vsid, ca: &str| {
        let host = &world.hosts[0];
        let answer = nv::resolve(&host.snap, &host.state, world.now, vsid, ip(ca));
        let steps: Vec<String> = answer.steps.iter().map(ToString::to_string).collect();
        (steps.join("; "), answer.dropped)
    };
    let network = "in customer network blue (00000000-0000-0000-0000-000000000001)";
    let remote = format!(
        "{network}; in virtual subnet 5002; static record of 10.1.2.13: {} at 192.168.1.10, nvgre; \
         from 192.168.0.10 to 192.168.1.10 by uplink 1000, next hop 192.168.0.1 (02:dd:00:00:00:01), path MTU 1500, \
         of which the guest may use 1458",
        mac_of(3)
    );
    assert_eq!(told(BLUE, "10.1.2.13"), (remote, None));
    let (local, dropped) = told(BLUE_TOO, "10.1.1.11");
    assert!(local.ends_with("at this host, behind port 1") && dropped.is_none(), "{local}");
    assert_eq!(told(BLUE, "10.1.1.1").0, format!("{network}; the customer network's router, at every host"));
    assert_eq!(told(BLUE, "10.1.1.77").1, Some(DropReason::NvDestinationUnknown));
    assert_eq!(told(YELLOW, "10.1.2.13").1, Some(DropReason::NvNoRoute));
    assert_eq!(told(7000, "10.1.1.11"), (String::new(), Some(DropReason::NvNoRoute)));
}

#[test]
fn s14_5_a_tunnels_packet_is_explained_from_its_outer_header_on() {
    let mut world = world(Encap::Vxlan);
    let frame = udp((mac_of(2), ip("10.1.1.12")), (mac_of(1), ip("10.1.1.11")), (1, 2), b"hello");
    let explain = |world: &World, n: usize, from, frame: &[u8]| {
        let host = &world.hosts[n];
        explain(&host.snap, &host.state, world.now, from, frame, frame.len() as u32)
    };
    let sent = explain(&world, 0, PortId(1), &frame);
    let notes = sent.steps.last().expect("a step").notes.join("; ");
    assert!(notes.ends_with("carried from 192.168.0.10 to 192.168.1.10 in virtual subnet 5001"), "{notes}");
    world.send(0, 1, &frame);
    let mut outer = world.wire[0].clone();
    outer[..6].copy_from_slice(&[0x02, 0xee, 0, 0, 0, 1]);
    let arrived = explain(&world, 1, UPLINK, &outer);
    assert_eq!(arrived.verdict, Verdict::Unicast(PortId(2)));
    assert_eq!(arrived.steps[0].notes, ["vxlan from 192.168.0.10 to 192.168.1.10, virtual subnet 5001"]);
}
