//! Addresses that a port owns, and how many it may use (rule book, sections 6.3 and 6.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use turnpike_tests::frame::{BROADCAST, ext, pattern};
use turnpike_tests::lan::{mac, v4, v6};
use turnpike_tests::protocols::{BOOTREQUEST, arp, icmp};
use turnpike_tests::{Frame, Lan};

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// All of these reach `to` as they are.
#[track_caller]
fn all_pass(lan: &mut Lan, from: &str, to: &str, frames: &[(&str, Frame)]) {
    for (name, frame) in frames {
        let heard = lan.send(from, &frame.build());
        assert_eq!(heard.by(), [to], "{name}; drops: {}", lan.switch.port(from)["counters"]["out_drops"]);
        assert_eq!(heard.0[0].1.frame, frame.build(), "{name}");
    }
}

/// Addresses of `a`: one of each family and a prefix.
fn owning() -> Lan {
    let mut lan = Lan::new(&[("a", ""), ("b", "")]);
    lan.switch.ok(&["port", "set", "a", "--addresses", "10.0.0.1,192.168.7.0/24,fd00::1"]);
    // Whatever it owned before the list, `a` speaks from it.
    let frame = lan.frame("a", "b").ipv4().udp(1, 2).build();
    lan.passes("a", "b", &frame);
    lan
}

fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let interface = [word(mac[0] ^ 2, mac[1]), word(mac[2], 0xff), word(0xfe, mac[3]), word(mac[4], mac[5])];
    Ipv6Addr::new(0xfe80, 0, 0, 0, interface[0], interface[1], interface[2], interface[3])
}

#[test]
fn s6_3_ip_packets_come_from_owned_addresses() {
    let mut lan = owning();
    let base = lan.frame("a", "b");
    let (four, six) = (base.clone().ipv4().udp(1, 2), base.clone().ipv6().udp(1, 2));
    let good: Vec<(&str, Frame)> = vec![
        ("own IPv4", four.clone()),
        ("in an owned prefix", four.clone().from_ip(Ipv4Addr::new(192, 168, 7, 200))),
        ("own IPv6", six.clone()),
        ("link-local of the MAC", six.clone().from_ip(link_local(mac(1)))),
        ("DHCP from nobody", base.clone().ipv4().from_ip(NOBODY).dhcp4((68, 67), BOOTREQUEST, NOBODY)),
        (
            "duplicate address detection",
            base.clone().ipv6().from_ip(Ipv6Addr::UNSPECIFIED).neighbour(
                icmp::NEIGHBOUR_SOLICITATION,
                v6(1),
                None,
            ),
        ),
        ("no IP", base.clone().payload(&[1; 60])),
    ];
    all_pass(&mut lan, "a", "b", &good);
    let strangers: [IpAddr; 7] = [
        v4(2).into(),
        v4(3).into(),
        Ipv4Addr::new(192, 168, 8, 1).into(),
        Ipv4Addr::BROADCAST.into(),
        v6(2).into(),
        link_local(mac(2)).into(),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x0a00, 1).into(), // 10.0.0.1, mapped
    ];
    for ip in strangers {
        let frame = if ip.is_ipv4() { &four } else { &six }.clone().from_ip(ip);
        lan.dropped("a", &frame.build(), ("a", "out"), "address-not-owned");
        let tcp = if ip.is_ipv4() { base.clone().ipv4() } else { base.clone().ipv6() }.from_ip(ip).tcp(1, 2);
        let large = tcp.payload(&pattern(9000, 1)).build_large(1400);
        assert!(lan.send_with("a", large.0, &large.1).0.is_empty(), "a large frame from {ip}");
    }
    // Later fragments are packets too.
    let later = base.ipv4().from_ip(v4(2)).fragment(1480, false).protocol(17).payload(&pattern(100, 1));
    lan.dropped("a", &later.build(), ("a", "out"), "address-not-owned");
    // Towards the port nothing is checked.
    let inward = lan.frame("b", "a").ipv4().from_ip(v4(99)).udp(1, 2).build();
    lan.passes("b", "a", &inward);
}

#[test]
fn s6_3_arp_claims_owned_addresses_only() {
    let mut lan = owning();
    let (own, peer) = (mac(1), mac(2));
    let base = lan.frame("a", "b");
    let good = [
        ("request", base.clone().arp(arp::REQUEST, (own, v4(1)), ([0; 6], v4(2)))),
        ("reply", base.clone().arp(arp::REPLY, (own, v4(1)), (peer, v4(2)))),
        ("probe", base.clone().arp(arp::REQUEST, (own, NOBODY), ([0; 6], v4(1)))),
        ("gratuitous", base.clone().arp(arp::REQUEST, (own, v4(1)), ([0; 6], v4(1)))),
        ("in the prefix", base.clone().arp(arp::REPLY, (own, Ipv4Addr::new(192, 168, 7, 9)), (peer, v4(2)))),
    ];
    all_pass(&mut lan, "a", "b", &good);
    let bad = [
        base.clone().arp(arp::REPLY, (own, v4(2)), (peer, v4(2))),
        base.clone().arp(arp::REQUEST, (own, v4(3)), ([0; 6], v4(2))),
        base.clone().arp(arp::REPLY, (mac(9), v4(1)), (peer, v4(2))),
        base.clone().arp(arp::REPLY, (peer, v4(1)), (peer, v4(2))),
        base.clone().arp(arp::REPLY, (own, NOBODY), (peer, v4(2))),
        base.clone().destination(BROADCAST).arp(arp::REQUEST, (own, v4(3)), ([0; 6], v4(3))),
    ];
    for frame in &bad {
        for tags in [frame.build(), frame.clone().tag(0x8100, 0).build()] {
            lan.dropped("a", &tags, ("a", "out"), "neighbour-spoofed");
        }
    }
    // An ARP message that is no IPv4 over Ethernet, or cut off, claims nothing that could be checked.
    let whole = base.arp(arp::REPLY, (own, v4(1)), (peer, v4(2))).build();
    for len in 14..42 {
        assert!(lan.send("a", &whole[..len]).0.is_empty(), "an ARP message cut to {len} bytes got through");
    }
    for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16)] {
        let mut odd = whole.clone();
        odd[at] = value;
        assert!(lan.send("a", &odd).0.is_empty(), "an ARP message with {value:#x} at {at} got through");
    }
}

#[test]
fn s6_3_neighbour_discovery_claims_owned_addresses_only() {
    let mut lan = owning();
    let own = mac(1);
    let six = lan.frame("a", "b").ipv6();
    let (solicit, advertise) = (icmp::NEIGHBOUR_SOLICITATION, icmp::NEIGHBOUR_ADVERTISEMENT);
    let good = [
        ("solicitation", six.clone().neighbour(solicit, v6(2), Some(own))),
        ("advertisement", six.clone().neighbour(advertise, v6(1), Some(own))),
        ("advertisement without option", six.clone().neighbour(advertise, v6(1), None)),
        (
            "of the link-local address",
            six.clone().from_ip(link_local(own)).neighbour(advertise, link_local(own), Some(own)),
        ),
    ];
    all_pass(&mut lan, "a", "b", &good);
    let bad = [
        six.clone().neighbour(advertise, v6(2), Some(own)),
        six.clone().neighbour(advertise, v6(2), None),
        six.clone().neighbour(advertise, v6(1), Some(mac(2))),
        six.clone().neighbour(solicit, v6(2), Some(mac(2))),
        six.clone().neighbour(advertise, link_local(mac(2)), Some(own)),
        six.clone().extension(ext::DESTINATION, 8).neighbour(advertise, v6(2), Some(own)),
    ];
    for frame in &bad {
        lan.dropped("a", &frame.build(), ("a", "out"), "neighbour-spoofed");
    }
    let fragment = six.fragment(0, true).neighbour(advertise, v6(2), Some(own));
    assert!(lan.send("a", &fragment.build()).0.is_empty(), "in a fragment it got through");
}

#[test]
fn s6_3_spoofing_is_reported() {
    let mut lan = owning();
    let frame = lan.frame("a", "b").ipv4().from_ip(v4(2)).udp(1, 2).build();
    lan.dropped("a", &frame, ("a", "out"), "address-not-owned");
    assert!(turnpike_tests::eventually(|| lan.switch.has_event("address-spoofed")), "no event");
    // Any address again: the list was what bound it.
    lan.set("a", "--addresses any");
    lan.passes("a", "b", &frame);
}

#[test]
fn s6_4_no_more_addresses_than_the_limit_are_learned() {
    let mut lan = Lan::new(&[("a", "--address-limit 2"), ("b", "")]);
    let base = lan.frame("a", "b");
    let from = |ip: Ipv4Addr| base.clone().ipv4().from_ip(ip).udp(1, 2).build();
    for ip in [v4(1), v4(11), v4(1), v4(11)] {
        lan.passes("a", "b", &from(ip));
    }
    for ip in [v4(12), v4(13)] {
        lan.dropped("a", &from(ip), ("a", "out"), "address-limit");
    }
    let claim = base.clone().arp(arp::REPLY, (mac(1), v4(14)), (mac(2), v4(2))).build();
    lan.dropped("a", &claim, ("a", "out"), "address-limit");
    lan.passes("a", "b", &from(v4(11)));
    lan.passes("a", "b", &base.clone().ipv4().from_ip(NOBODY).dhcp4((68, 67), BOOTREQUEST, NOBODY).build());
    lan.set("a", "--address-limit 3");
    lan.passes("a", "b", &from(v4(12)));
    lan.dropped("a", &from(v4(13)), ("a", "out"), "address-limit");
    lan.set("a", "--address-limit default");
    lan.passes("a", "b", &from(v4(13)));
    assert!(lan.switch.has_event("address-limit-reached"));
}

#[test]
fn s6_4_owned_addresses_do_not_count() {
    let mut lan = Lan::new(&[("a", "--addresses 10.0.0.1,10.0.0.21 --address-limit 1"), ("b", "")]);
    let base = lan.frame("a", "b");
    let from = |ip: Ipv4Addr| base.clone().ipv4().from_ip(ip).udp(1, 2).build();
    for ip in [v4(1), v4(21)] {
        lan.passes("a", "b", &from(ip));
    }
}
