//! Gateways: a customer network's way to a physical one.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vswitch::Mac;
use vswitch::nv;
use vswitch::nv::model::{Gateway, GatewayMode};
use vswitch::nv::neighbours::Hop;
use vswitch::nv::policy::{ROUTER_MAC, Target};
use vswitch::pipeline;
use vswitch::trace::DropReason;

use super::frames::{ip, udp};
use super::world::{Happened, UPLINK, World, pa, receivers, record};
use crate::support::mac_of;

const BLUE: u32 = 5001;
const RED: u32 = 6001;
const SERVER: Mac = Mac([2, 0, 0, 0, 9, 9]);
const UPLINK_MAC: Mac = Mac([0x02, 0xee, 0, 0, 0, 0]);

/// Host 0 is the gateway of Blue and Red to VLAN 30, where a server is; guests 1 (Blue) and 3 (Red) are at host 0, 2 (Blue) at host 1, and
/// Blue's and Red's have the same addresses.
fn world(mode: GatewayMode, networks: &[&str]) -> World {
    let mut world = World::new(2);
    world.network("blue");
    world.network("red");
    world.subnet("blue", BLUE, &["10.1.1.0/24"]);
    world.subnet("red", RED, &["10.1.1.0/24"]);
    for network in networks {
        world.route(network, "0.0.0.0/0", "gateway");
        let address = Some("172.20.0.5/24".parse().expect("a prefix"));
        let gateway =
            Gateway { network: (*network).into(), uplink: "up".into(), mode, vlan: Some(30), address };
        world.gateways.push((0, gateway));
    }
    world.guest(0, 1, BLUE, mac_of(1));
    world.guest(1, 2, BLUE, mac_of(2));
    world.guest(0, 3, RED, mac_of(3));
    world.publish();
    world.record(&record(BLUE, "10.1.1.11", mac_of(1), pa(0)));
    world.record(&record(BLUE, "10.1.1.12", mac_of(2), pa(1)));
    world.record(&record(RED, "10.1.1.11", mac_of(3), pa(0)));
    let host = &world.hosts[0];
    let hop = Hop { port: UPLINK, vlan: Some(30), address: ip("172.20.0.9") };
    host.state.nv.neighbours.find(&hop);
    let due = nv::due(&host.snap, &host.state, world.now);
    let asks = |f: &Vec<u8>| {
        f[12..18] == [0x81, 0, 0, 30, 8, 6] && f[32..36] == [172, 20, 0, 5] && f[42..46] == [172, 20, 0, 9]
    };
    assert!(due.iter().any(|(_, frame)| asks(frame)), "asked in the gateway's name");
    host.state.nv.neighbours.hear(world.now, &hop, SERVER);
    world
}

fn out(n: u16) -> Vec<u8> {
    udp((ROUTER_MAC, ip("172.20.0.9")), (mac_of(n), ip("10.1.1.11")), (1000, 53), b"question")
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 30], &frame[12..]].concat()
}

/// One hop further: TTL 63 and the header's checksum.
fn hopped(mut frame: Vec<u8>) -> Vec<u8> {
    frame[22] -= 1;
    frame[24..26].fill(0);
    let sum = !crate::support::slow_sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn s14_11_a_forwarding_gateway_routes_customer_addresses_as_they_are() {
    let mut world = world(GatewayMode::Forward, &["blue"]);
    let wanted =
        hopped(udp((SERVER, ip("172.20.0.9")), (UPLINK_MAC, ip("10.1.1.11")), (1000, 53), b"question"));
    for _ in 0..2 {
        assert_eq!(world.send(0, 1, &out(1)), [Happened::Got(0, UPLINK.0, tagged(&wanted))]);
    }
    assert_eq!(
        world.send(0, 3, &out(3)),
        [Happened::Dropped(0, DropReason::NvNoRoute)],
        "Red has no gateway"
    );
    let back =
        |to: &str| tagged(&udp((UPLINK_MAC, ip(to)), (SERVER, ip("172.20.0.9")), (53, 1000), b"answer"));
    let inside =
        |n, to: &str| hopped(udp((mac_of(n), ip(to)), (ROUTER_MAC, ip("172.20.0.9")), (53, 1000), b"answer"));
    for _ in 0..2 {
        assert_eq!(world.arrive(0, &back("10.1.1.11")), [Happened::Got(0, 1, inside(1, "10.1.1.11"))]);
        assert_eq!(
            world.arrive(0, &back("10.1.1.12")),
            [Happened::Got(1, 2, inside(2, "10.1.1.12"))],
            "at the other host"
        );
    }
    assert_eq!(world.arrive(0, &back("10.1.1.77")), [Happened::Dropped(0, DropReason::NvDestinationUnknown)]);
    let spoofed = tagged(&udp((UPLINK_MAC, ip("10.1.1.11")), (SERVER, ip("10.1.1.12")), (53, 1000), b"x"));
    assert_eq!(world.arrive(0, &spoofed), [Happened::Dropped(0, DropReason::NvSourceSpoofed)]);
    let mut elsewhere = back("10.1.1.11");
    elsewhere[15] = 31;
    assert!(receivers(&world.arrive(0, &elsewhere)).is_empty(), "another VLAN");
}

#[test]
fn s14_11_tenants_with_the_same_addresses_share_one_behind_nat() {
    let mut world = world(GatewayMode::Nat, &["blue", "red"]);
    let mut ports = Vec::new();
    for n in [1, 3] {
        let happened = world.send(0, n, &out(n));
        let [Happened::Got(0, 1000, sent)] = &happened[..] else { panic!("{happened:?}") };
        assert_eq!(sent[..18], [&SERVER.0[..], &UPLINK_MAC.0, &[0x81, 0, 0, 30, 8, 0]].concat());
        assert_eq!(sent[30..38], [172, 20, 0, 5, 172, 20, 0, 9]);
        let port = u16::from_be_bytes([sent[38], sent[39]]);
        let wanted = udp((SERVER, ip("172.20.0.9")), (UPLINK_MAC, ip("172.20.0.5")), (port, 53), b"question");
        assert_eq!(*sent, tagged(&hopped(wanted)), "checksums too");
        ports.push((n, port));
    }
    assert_ne!(ports[0].1, ports[1].1);
    for (n, port) in ports {
        let answer = udp((UPLINK_MAC, ip("172.20.0.5")), (SERVER, ip("172.20.0.9")), (53, port), b"answer");
        let wanted = udp((mac_of(n), ip("10.1.1.11")), (ROUTER_MAC, ip("172.20.0.9")), (53, 1000), b"answer");
        for _ in 0..2 {
            assert_eq!(world.arrive(0, &tagged(&answer)), [Happened::Got(0, n, hopped(wanted.clone()))]);
        }
    }
    let nobodys = udp((UPLINK_MAC, ip("172.20.0.5")), (SERVER, ip("172.20.0.9")), (53, 999), b"x");
    assert_eq!(world.arrive(0, &tagged(&nobodys)), [Happened::Dropped(0, DropReason::NvDestinationUnknown)]);
}

/// So many customer networks, each with a gateway of its own that forwards, in VLAN 30: the addresses of network `n` are 10.x.y.0/24.
fn crowd(count: u16) -> World {
    let mut world = World::new(1);
    for n in 0..count {
        let name = format!("n{n}");
        world.network(&name);
        world.subnet(&name, BLUE + u32::from(n), &[&format!("10.{}.{}.0/24", n >> 8, n & 255)]);
        world.gateways.push((0, forwards(&name, Some(30))));
    }
    world.publish();
    world
}

fn forwards(network: &str, vlan: Option<u16>) -> Gateway {
    let address = Some("172.20.0.5/16".parse().expect("a prefix"));
    Gateway { network: network.into(), uplink: "up".into(), mode: GatewayMode::Forward, vlan, address }
}

/// What comes from a physical network for a customer address.
fn to(address: IpAddr, vlan: Option<u16>) -> Vec<u8> {
    let mut frame = udp((UPLINK_MAC, address), (SERVER, ip("172.20.0.9")), (53, 1000), b"x");
    if let Some(vlan) = vlan {
        frame.splice(12..12, [0x81, 0, 0, vlan as u8]);
    }
    frame
}

/// The shortest time that a thousand times `what` takes.
fn shortest(what: impl Fn()) -> Duration {
    let run = |_| {
        let began = Instant::now();
        (0..1000).for_each(|_| what());
        began.elapsed()
    };
    (0..20).map(run).min().expect("a time")
}

#[test]
fn s14_11_a_frame_costs_the_same_with_a_thousand_gateways_as_with_one() {
    let took = |count: u16| {
        let world = crowd(count);
        let (host, now) = (&world.hosts[0], world.now);
        let last = IpAddr::from([10, ((count - 1) >> 8) as u8, (count - 1) as u8, 9]);
        let open = |frame: &[u8], ours| {
            shortest(|| {
                let opened = nv::open(&host.snap, &host.state, now, UPLINK, frame, frame.len() as u32);
                assert_eq!(opened.is_some(), ours);
            })
        };
        let other = to(ip("192.168.0.10"), Some(31));
        // A new flow beside the gateways, and one of their network: this host's own addresses are asked for.
        let decide = |frame: &[u8]| {
            shortest(|| {
                pipeline::decide(&host.snap, &host.state, now, UPLINK, frame, frame.len() as u32);
            })
        };
        [open(&to(last, Some(30)), true), open(&other, false), decide(&other), decide(&to(last, Some(30)))]
    };
    let (one, many) = (took(1), took(1000));
    assert!(one.iter().zip(&many).all(|(&one, &many)| many < one * 4), "one: {one:?}, a thousand: {many:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The first gateway in the frame's VLAN whose customer network has the address on a link of its own, as a walk over all of them finds it.
    #[test]
    fn s14_11_the_gateway_that_is_looked_up_is_the_one_that_a_walk_finds(
        networks in prop::collection::vec((0_u8..8, prop::option::of(0_u8..4), 0_u8..3, any::<bool>()), 1..10),
        asked in prop::collection::vec((0_u8..3, 0_u8..3, 0_u8..3, 0_u8..3), 1..20),
    ) {
        let vlan = |n: u8| [None, Some(30), Some(31)][usize::from(n)];
        let mut world = World::new(1);
        for (n, (prefix, route, at, nat)) in networks.into_iter().enumerate() {
            let name = format!("n{n}");
            world.network(&name);
            let prefixes = ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "10.1.1.0/24", "10.1.2.0/24", "10.2.1.0/24", "10.1.1.0/30", "0.0.0.0/0"];
            world.subnet(&name, BLUE + n as u32, &[prefixes[usize::from(prefix)]]);
            if let Some(route) = route {
                // More specific than the subnet, perhaps: then the address is not on its link.
                world.route(&name, ["10.1.1.0/25", "10.1.0.0/17", "10.2.1.0/26", "10.0.0.0/9"][usize::from(route)], "gateway");
            }
            let mode = if nat { GatewayMode::Nat } else { GatewayMode::Forward };
            world.gateways.push((0, Gateway { mode, ..forwards(&name, vlan(at)) }));
        }
        world.publish();
        let host = &world.hosts[0];
        let policy = host.snap.nv().expect("a policy");
        for (b, c, d, at) in asked {
            let (address, at) = (IpAddr::from([10, b, c, d]), vlan(at));
            let wanted = policy.all_gateways().find_map(|(network, g)| match policy.route(network, address) {
                Some(Target::OnLink(vsid)) if g.mode == GatewayMode::Forward && g.vlan == at => Some(vsid),
                _ => None,
            });
            if let Some(vsid) = wanted {
                host.state.nv.records.upsert(world.now, &record(vsid, &address.to_string(), mac_of(9), pa(0)), true);
            }
            let frame = to(address, at);
            let opened = nv::open(&host.snap, &host.state, world.now, UPLINK, &frame, frame.len() as u32);
            let source_inside = Some(Err(DropReason::NvSourceSpoofed));
            match (wanted, opened) {
                (Some(vsid), Some(Ok(opened))) => prop_assert_eq!(opened.ingress.vsid, vsid),
                // The server's own address is in 0.0.0.0/0.
                (Some(_), opened) => prop_assert_eq!(opened, source_inside),
                (None, opened) => prop_assert_eq!(opened, None),
            }
        }
    }
}
