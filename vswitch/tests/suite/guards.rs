//! DHCP guard, router guard and owned addresses.

use std::net::IpAddr;
use std::sync::Arc;

use vswitch::event::Event;
use vswitch::frame::ethernet::ethertype;
use vswitch::frame::protocol;
use vswitch::pipeline::{self, Verdict};
use vswitch::port::Policy;
use vswitch::port::vlan::{Vlan, VlanSet};
use vswitch::snapshot::SwitchKind;
use vswitch::trace::DropReason::{self, *};
use vswitch::{Mac, PortId};

use crate::packets::*;
use crate::support::{Switch, bridging, dropped, guest, mac_of, stranger, to};

pub(crate) const OWN: &str = "10.0.0.1";
pub(crate) const PEER: &str = "10.0.0.2";
pub(crate) const OWN6: &str = "2001:db8::1";
pub(crate) const PEER6: &str = "2001:db8::2";
/// What port 1's address makes (EUI-64).
pub(crate) const LOCAL6: &str = "fe80::5054:ff:fe00:1";

/// Port 1 with a policy and free to tag, port 2 without, and a third one that may send from any address.
pub(crate) fn switch(set: impl FnOnce(&mut Policy)) -> Switch {
    let (mut one, mut two) = (guest(1), guest(2));
    set(&mut one.policy);
    let trunk = Vlan::Trunk { allowed: VlanSet::all(), native: 0 };
    (one.policy.vlan, two.policy.vlan) = (trunk.clone(), trunk);
    Switch::new(SwitchKind::Private, vec![one, two, bridging(3)])
}

pub(crate) fn owning(list: &[&str]) -> Switch {
    let list: Arc<[_]> =
        list.iter().map(|p| p.parse().or_else(|_| p.parse::<IpAddr>().map(Into::into)).unwrap()).collect();
    switch(|policy| policy.addresses = Some(list))
}

pub(crate) trait Judge {
    fn judge(&self, frame: &[u8]) -> Verdict;
    fn event(&self, frame: &[u8]) -> Option<Event>;
    fn packet(&self, packet: &[u8]) -> Verdict {
        self.judge(&framed(packet))
    }
}

impl Judge for Switch {
    fn judge(&self, frame: &[u8]) -> Verdict {
        pipeline::run(&self.snap, &self.state, self.now, PortId(1), frame, frame.len() as u32)
    }

    fn event(&self, frame: &[u8]) -> Option<Event> {
        pipeline::decide(&self.snap, &self.state, self.now, PortId(1), frame, frame.len() as u32).event
    }
}

/// A DHCPv6 message, or the beginning of one.
fn dhcp6(kind: u8) -> Vec<u8> {
    [&[kind, 1, 2, 3], &[0; 40][..]].concat()
}

#[test]
fn s6_1_dhcp_guard_drops_what_servers_send() {
    let guarded = switch(|policy| policy.dhcp_guard = true);
    let free = switch(|_| ());
    let cases = [
        // What servers send.
        (v4(OWN, PEER, 17, &udp(67, 68, &bootp(2, "0.0.0.0"))), true),
        (v4(OWN, "255.255.255.255", 17, &udp(67, 68, &bootp(2, "0.0.0.0"))), true),
        (v4(OWN, PEER, 17, &udp(67, 67, &bootp(2, "10.0.0.9"))), true),
        (v4(OWN, PEER, 17, &udp(67, 67, &bootp(1, "0.0.0.0"))), true),
        (v4(OWN, PEER, 17, &udp(67, 1234, &[])), true),
        (v4(OWN, PEER, 17, &udp(5000, 68, &bootp(2, "0.0.0.0"))), true),
        (v4(OWN, PEER, 17, &udp(5000, 67, &bootp(2, "10.0.0.9"))), true),
        (v6(OWN6, PEER6, 17, &udp(547, 546, &dhcp6(7))), true),
        (v6(OWN6, PEER6, 17, &udp(547, 547, &dhcp6(12))), true),
        (v6(OWN6, PEER6, 17, &udp(5000, 546, &dhcp6(2))), true),
        (v6(OWN6, PEER6, 17, &udp(5000, 546, &dhcp6(7))), true),
        (v6(OWN6, PEER6, 17, &udp(5000, 546, &dhcp6(10))), true),
        (v6(OWN6, PEER6, 17, &udp(5000, 547, &dhcp6(13))), true),
        (with_options(v4(OWN, PEER, 17, &udp(67, 68, &bootp(2, "0.0.0.0"))), 40), true),
        (v6(OWN6, PEER6, 0, &extension(0, 17, 2, &udp(547, 546, &dhcp6(2)))), true),
        // What clients and relay agents send, and what is not DHCP.
        (v4("0.0.0.0", "255.255.255.255", 17, &udp(68, 67, &bootp(1, "0.0.0.0"))), false),
        (v4(OWN, PEER, 17, &udp(67, 67, &bootp(1, "10.0.0.9"))), false),
        (v4(OWN, PEER, 17, &udp(5000, 68, &bootp(1, "0.0.0.0"))), false),
        (v4(OWN, PEER, 17, &udp(5000, 67, &[])), false),
        (v4(OWN, PEER, 17, &udp(5000, 69, &bootp(2, "0.0.0.0"))), false),
        (v4(OWN, PEER, 6, &tcp(67, 68, 0x10, b"")), false),
        (v6(OWN6, PEER6, 17, &udp(546, 547, &dhcp6(1))), false),
        (v6(OWN6, PEER6, 17, &udp(546, 547, &dhcp6(3))), false),
        (v6(OWN6, PEER6, 17, &udp(5000, 546, &dhcp6(1))), false),
        (v6(OWN6, PEER6, 6, &tcp(547, 546, 0x10, b"")), false),
        // The other version's ports.
        (v4(OWN, PEER, 17, &udp(547, 546, &dhcp6(2))), false),
        (v6(OWN6, PEER6, 17, &udp(67, 68, &bootp(2, "0.0.0.0"))), false),
    ];
    for (packet, servers) in &cases {
        for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 5), (0x8100, 6)]] {
            let frame = tagged(tags, ethertype_of(packet), packet);
            assert_eq!(
                guarded.judge(&frame),
                if *servers { dropped(DhcpGuard) } else { to(2) },
                "{packet:02x?}"
            );
            assert_eq!(free.judge(&frame), to(2));
        }
    }
    // A relay agent's address that is cut off is none.
    let cut = v4(OWN, PEER, 17, &udp(67, 67, &bootp(1, "10.0.0.9")[..26]));
    let mut frame = framed(&cut);
    frame.truncate(14 + cut.len());
    assert_eq!(guarded.judge(&frame), dropped(DhcpGuard));
}

#[test]
fn s6_1_dhcp_guard_is_about_what_the_port_sends() {
    let guarded = switch(|policy| policy.dhcp_guard = true);
    let offer = v4(PEER, OWN, 17, &udp(67, 68, &bootp(2, "0.0.0.0")));
    let frame = ethernet(mac_of(1), mac_of(2), &[], ethertype::IPV4, &offer);
    let verdict = pipeline::run(&guarded.snap, &guarded.state, 0, PortId(2), &frame, frame.len() as u32);
    assert_eq!(verdict, to(1));
}

#[test]
fn s6_1_dhcp_guard_drops_first_fragments_of_dhcp() {
    let guarded = switch(|policy| policy.dhcp_guard = true);
    for (src, dst, expected) in [
        (67, 67, dropped(DhcpGuard)),
        (67, 9, dropped(DhcpGuard)),
        (9, 68, dropped(DhcpGuard)),
        (9, 67, dropped(DhcpGuard)),
        (9, 9, to(2)),
    ] {
        let message = udp(src, dst, &bootp(1, "10.0.0.9"));
        assert_eq!(guarded.packet(&v4_piece(OWN, PEER, 17, 0, true, &message)), expected);
    }
    for (src, dst, expected) in [
        (547, 9, dropped(DhcpGuard)),
        (9, 546, dropped(DhcpGuard)),
        (9, 547, dropped(DhcpGuard)),
        (9, 9, to(2)),
    ] {
        let piece = fragment(17, 0, true, &udp(src, dst, &dhcp6(1)[..16]));
        assert_eq!(guarded.packet(&v6(OWN6, PEER6, 44, &piece)), expected);
    }
    // The others show no ports, and are nothing without the first.
    assert_eq!(guarded.packet(&v4_piece(OWN, PEER, 17, 8, false, &bootp(2, "0.0.0.0"))), to(2));
    assert_eq!(guarded.packet(&v4_piece(OWN, PEER, 17, 0, true, &[])), dropped(BadFragment));
}

#[test]
fn s6_2_router_guard_drops_advertisements_and_redirects() {
    let guarded = switch(|policy| policy.router_guard = true);
    let free = switch(|_| ());
    for kind in 0..=0xff {
        let four = v4(OWN, PEER, 1, &icmp(kind, &[0; 40]));
        let six = v6(OWN6, PEER6, 58, &icmp(kind, &[0; 40]));
        let hidden = extension(0, 60, 1, &extension(60, 58, 2, &icmp(kind, &[0; 40])));
        let hidden = v6(OWN6, PEER6, 0, &hidden);
        for tags in [&[][..], &[(0x8100, 5)], &[(0x8100, 5), (0x8100, 0)]] {
            for (packet, routers) in [(&four, [5, 9]), (&six, [134, 137]), (&hidden, [134, 137])] {
                let frame = tagged(tags, ethertype_of(packet), packet);
                let expected = if routers.contains(&kind) { dropped(RouterGuard) } else { to(2) };
                assert_eq!((guarded.judge(&frame), free.judge(&frame)), (expected, to(2)), "type {kind}");
            }
        }
    }
    // The same numbers where they mean something else.
    assert_eq!(guarded.packet(&v4(OWN, PEER, 58, &icmp(134, &[0; 40]))), to(2));
    assert_eq!(guarded.packet(&v6(OWN6, PEER6, 1, &icmp(9, &[0; 40]))), to(2));
}

#[test]
fn s6_2_router_guard_drops_fragmented_discovery() {
    let guarded = switch(|policy| policy.router_guard = true);
    for (kind, reason) in [
        (133, Some(BadFragment)),
        (134, Some(RouterGuard)),
        (135, Some(BadFragment)),
        (136, Some(BadFragment)),
        (137, Some(RouterGuard)),
        (128, None),
    ] {
        let expected = reason.map_or(to(2), dropped);
        for more in [false, true] {
            let piece = fragment(58, 0, more, &icmp(kind, &[0; 36]));
            assert_eq!(guarded.packet(&v6(OWN6, PEER6, 44, &piece)), expected, "type {kind}");
        }
    }
    assert_eq!(guarded.packet(&v6(OWN6, PEER6, 44, &fragment(58, 40, false, &[134; 24]))), to(2));
    assert_eq!(guarded.packet(&v4_piece(OWN, PEER, 1, 0, true, &icmp(9, &[0; 36]))), dropped(RouterGuard));
}

#[test]
fn s6_3_the_source_of_a_packet_is_owned() {
    let switch = owning(&[OWN, "10.1.0.0/16", OWN6, "2001:db8:1::/48"]);
    let udp = udp(1000, 53, b"?");
    for (src, expected) in [
        (OWN, to(2)),
        ("10.1.255.3", to(2)),
        (PEER, dropped(AddressNotOwned)),
        ("10.2.0.1", dropped(AddressNotOwned)),
        ("0.0.0.0", dropped(AddressNotOwned)),
        ("255.255.255.255", dropped(AddressNotOwned)),
        ("224.0.0.1", dropped(AddressNotOwned)),
        ("127.0.0.1", dropped(AddressNotOwned)),
        ("169.254.0.1", dropped(AddressNotOwned)),
    ] {
        assert_eq!(switch.packet(&v4(src, PEER, 17, &udp)), expected, "{src}");
        assert_eq!(
            switch.packet(&v4_piece(src, PEER, 17, 64, false, &udp)),
            expected,
            "{src}, later fragment"
        );
    }
    for (src, expected) in [
        (OWN6, to(2)),
        ("2001:db8:1:2::3", to(2)),
        (LOCAL6, to(2)),
        (PEER6, dropped(AddressNotOwned)),
        ("::", dropped(AddressNotOwned)),
        ("::1", dropped(AddressNotOwned)),
        ("fe80::1", dropped(AddressNotOwned)),
        ("fe80::1:5054:ff:fe00:1", dropped(AddressNotOwned)),
        ("fe80::5054:ff:fe00:2", dropped(AddressNotOwned)),
        ("::ffff:10.0.0.1", dropped(AddressNotOwned)),
    ] {
        assert_eq!(switch.packet(&v6(src, PEER6, 17, &udp)), expected, "{src}");
    }
    let spoofed = framed(&v4(PEER, OWN, 17, &udp));
    assert_eq!(switch.event(&spoofed), Some(Event::AddressSpoofed { port: PortId(1), address: ip(PEER) }));
    assert_eq!(switch.event(&framed(&v4(OWN, PEER, 17, &udp))), None);
    // Other ethertypes have no IP addresses; without a list every address is the port's.
    assert_eq!(switch.judge(&tagged(&[], 0x88cc, &[0; 40])), to(2));
    let free = self::switch(|_| ());
    assert_eq!(free.packet(&v4(PEER, OWN, 17, &udp)), to(2));
    // Owning nothing is not the same.
    assert_eq!(owning(&[]).packet(&v4(OWN, PEER, 17, &udp)), dropped(AddressNotOwned));
}

#[test]
fn s6_3_who_has_no_address_yet_may_ask_for_one() {
    let switch = owning(&[OWN, OWN6]);
    let zero = "0.0.0.0";
    for (packet, expected) in [
        (v4(zero, "255.255.255.255", 17, &udp(68, 67, &bootp(1, zero))), to(2)),
        (v4(zero, "224.0.0.22", 2, &icmp(0x22, &[0; 12])), to(2)),
        (v4(zero, "255.255.255.255", 17, &udp(67, 68, &bootp(2, zero))), dropped(AddressNotOwned)),
        (v4_piece(zero, PEER, 17, 0, true, &udp(68, 67, &bootp(1, zero))), dropped(AddressNotOwned)),
        (v4(zero, PEER, 6, &tcp(68, 67, 2, b"")), dropped(AddressNotOwned)),
        (v4(zero, PEER, 1, &icmp(8, &[0; 4])), dropped(AddressNotOwned)),
        (v6("::", "ff02::1:ff00:1", 58, &neighbour(135, OWN6, None)), to(2)),
        (v6("::", "ff02::2", 58, &icmp(133, &[0; 4])), to(2)),
        (v6("::", "ff02::16", 0, &extension(0, 58, 1, &icmp(143, &[0; 4]))), to(2)),
        (v6("::", "ff02::16", 58, &icmp(131, &[0; 20])), to(2)),
        (v6("::", "ff02::1", 58, &neighbour(136, OWN6, None)), dropped(AddressNotOwned)),
        (v6("::", "ff02::1", 58, &icmp(134, &[0; 12])), dropped(AddressNotOwned)),
        (v6("::", PEER6, 58, &icmp(128, &[0; 4])), dropped(AddressNotOwned)),
        (v6("::", PEER6, 17, &udp(546, 547, &dhcp6(1))), dropped(AddressNotOwned)),
    ] {
        assert_eq!(switch.packet(&packet), expected, "{packet:02x?}");
    }
}

#[test]
fn s6_3_arp_speaks_of_the_port_only() {
    let switch = owning(&[OWN]);
    let (own, other) = (mac_of(1), stranger(1));
    for (op, mac, sender, expected) in [
        (1, own, OWN, to(2)),
        (1, own, "0.0.0.0", to(2)),
        (2, own, OWN, to(2)),
        (2, own, "0.0.0.0", dropped(NeighbourSpoofed)),
        (1, own, PEER, dropped(NeighbourSpoofed)),
        (2, own, PEER, dropped(NeighbourSpoofed)),
        (1, other, OWN, dropped(NeighbourSpoofed)),
        (2, other, OWN, dropped(NeighbourSpoofed)),
        (1, other, "0.0.0.0", dropped(NeighbourSpoofed)),
        (2, Mac::BROADCAST, OWN, dropped(NeighbourSpoofed)),
        (0, own, OWN, dropped(NeighbourSpoofed)),
        (3, own, OWN, dropped(NeighbourSpoofed)),
        (4, own, OWN, dropped(NeighbourSpoofed)),
        (0x0100, own, OWN, dropped(NeighbourSpoofed)),
    ] {
        for target in [OWN, PEER] {
            for tags in [&[][..], &[(0x8100, 5)]] {
                let frame = tagged(tags, ethertype::ARP, &arp(op, mac, sender, target));
                assert_eq!(switch.judge(&frame), expected, "op {op} {mac} {sender} {target}");
            }
        }
    }
    let spoofed = tagged(&[], ethertype::ARP, &arp(2, own, PEER, OWN));
    assert_eq!(switch.event(&spoofed), Some(Event::AddressSpoofed { port: PortId(1), address: ip(PEER) }));
    assert_eq!(self::switch(|_| ()).judge(&spoofed), to(2));
}

#[test]
fn s6_3_rarp_announces_the_port_only() {
    let switch = owning(&[OWN]);
    for (op, mac, sender, expected) in [
        (3, mac_of(1), "0.0.0.0", to(2)),
        (3, mac_of(1), OWN, to(2)),
        (3, mac_of(1), PEER, dropped(NeighbourSpoofed)),
        (3, mac_of(2), "0.0.0.0", dropped(NeighbourSpoofed)),
        (4, mac_of(1), OWN, dropped(NeighbourSpoofed)),
        (1, mac_of(1), OWN, dropped(NeighbourSpoofed)),
    ] {
        let frame = tagged(&[], ethertype::RARP, &arp(op, mac, sender, "0.0.0.0"));
        assert_eq!(switch.judge(&frame), expected, "op {op} {mac} {sender}");
    }
}

#[test]
fn s6_3_an_advertisement_is_for_an_owned_address() {
    let switch = owning(&[OWN6]);
    let own = Some((2, mac_of(1)));
    for (target, expected) in [
        (OWN6, to(2)),
        (LOCAL6, to(2)),
        (PEER6, dropped(NeighbourSpoofed)),
        ("fe80::1", dropped(NeighbourSpoofed)),
        ("::", dropped(NeighbourSpoofed)),
    ] {
        assert_eq!(
            switch.packet(&v6(OWN6, "ff02::1", 58, &neighbour(136, target, own))),
            expected,
            "{target}"
        );
        assert_eq!(switch.packet(&v6(OWN6, PEER6, 58, &neighbour(136, target, None))), expected, "{target}");
        // A solicitation asks about any address.
        assert_eq!(switch.packet(&v6(OWN6, PEER6, 58, &neighbour(135, target, Some((1, mac_of(1)))))), to(2));
    }
    let spoofed = framed(&v6(OWN6, PEER6, 58, &neighbour(136, PEER6, own)));
    assert_eq!(switch.event(&spoofed), Some(Event::AddressSpoofed { port: PortId(1), address: ip(PEER6) }));
}

#[test]
fn s6_3_link_layer_options_are_the_ports_address() {
    let switch = owning(&[OWN6]);
    let redirect = |option| {
        let mut message = neighbour(137, PEER6, None);
        message.extend([0; 16]);
        message.extend(option);
        message
    };
    for (mac, expected) in [(mac_of(1), to(2)), (mac_of(2), dropped(NeighbourSpoofed))] {
        let option = |kind: u8| [&[kind, 1], &mac.0[..]].concat();
        for kind in [1, 2] {
            let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
            let solicitation = [neighbour(135, PEER6, None), nonce.to_vec(), option(kind)].concat();
            let router = icmp(133, &[&[0; 4], &option(kind)[..]].concat());
            for message in
                [neighbour(136, OWN6, Some((kind, mac))), solicitation, router, redirect(option(kind))]
            {
                assert_eq!(switch.packet(&v6(OWN6, PEER6, 58, &message)), expected, "{message:02x?}");
            }
        }
    }
    // Options that are broken, longer than an address, or out of sight.
    let odd = |option: &[u8]| [&neighbour(136, OWN6, None), option].concat();
    for message in [
        odd(&[2, 0, 0, 0, 0, 0, 0, 0]),
        odd(&[2, 2]),
        odd(&[14, 2, 0, 0, 0, 0, 0, 0]),
        odd(&[[2, 2].as_slice(), &mac_of(1).0, &[0; 8]].concat()),
        odd(&[14]),
        odd(&[&[14, 20], &[0; 158][..], &[2, 1], &mac_of(1).0].concat()),
    ] {
        assert_eq!(
            switch.packet(&v6(OWN6, PEER6, 58, &message)),
            dropped(NeighbourSpoofed),
            "{message:02x?}"
        );
    }
    // A router may say much, from an address of its own.
    let long = icmp(
        134,
        &[&[0; 12], &[1, 1][..], &mac_of(1).0, &[[3, 4].as_slice(), &[0; 30]].concat().repeat(8)].concat(),
    );
    assert_eq!(switch.packet(&v6(LOCAL6, "ff02::1", 58, &long)), to(2));
    assert_eq!(switch.packet(&v6("fe80::9", "ff02::1", 58, &long)), dropped(AddressNotOwned));
}

#[test]
fn s6_3_discovery_is_whole() {
    let switch = owning(&[OWN6]);
    for kind in 133..=137 {
        let message = neighbour(kind, OWN6, Some((2, mac_of(1))));
        for more in [false, true] {
            let piece = fragment(58, 0, more, &message);
            assert_eq!(switch.packet(&v6(OWN6, PEER6, 44, &piece)), dropped(NeighbourSpoofed), "type {kind}");
        }
    }
    let whole = v6(OWN6, PEER6, 58, &neighbour(136, OWN6, Some((2, mac_of(1)))));
    for cut in 48..whole.len() {
        let mut frame = framed(&whole);
        frame.truncate(14 + cut);
        assert_eq!(switch.judge(&frame), dropped(NeighbourSpoofed), "{cut} bytes");
        let mut short = framed(&whole);
        short[19] = (cut - 40) as u8; // the payload length; what follows is padding
        let complete = cut == 64;
        assert_eq!(
            switch.judge(&short),
            if complete { to(2) } else { dropped(NeighbourSpoofed) },
            "{cut} bytes"
        );
    }
}

#[test]
fn s6_guards_drop_what_they_cannot_read() {
    let guards: [fn(&mut Policy); 4] = [
        |policy| policy.dhcp_guard = true,
        |policy| policy.router_guard = true,
        |policy| policy.addresses = Some(Arc::new([ip(OWN).into(), ip(OWN6).into()])),
        |policy| policy.address_limit = 10,
    ];
    let packet = v4(OWN, PEER, 17, &udp(1000, 53, b"?"));
    let snap = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
    let frames: [(Vec<u8>, Option<DropReason>); 8] = [
        (tagged(&[], ethertype::IPV4, &packet), None),
        (tagged(&[], ethertype::IPV6, &packet), Some(MalformedPacket)),
        (tagged(&[(0x8100, 5), (0x8100, 0), (0x8100, 0)], ethertype::IPV4, &packet), Some(MalformedPacket)),
        (tagged(&[], 36, &[&snap[..], &packet].concat()), Some(MalformedPacket)),
        (tagged(&[], 36, &[0x42, 0x42, 3, 0]), None),
        (framed(&v4_piece(OWN, PEER, 6, 0, true, &tcp(1, 2, 2, b"")[..16])), Some(BadFragment)),
        (
            framed(&v6(OWN6, PEER6, 44, &fragment(60, 0, true, &extension(60, 17, 1, &udp(1, 2, &[0; 8]))))),
            Some(BadFragment),
        ),
        (
            framed(&v6(OWN6, PEER6, protocol::MOBILITY, &extension(135, 58, 1, &icmp(134, &[0; 12])))),
            Some(MalformedPacket),
        ),
    ];
    for (frame, reason) in &frames {
        for guard in guards {
            assert_eq!(switch(guard).judge(frame), reason.map_or(to(2), dropped), "{frame:02x?}");
        }
        assert_eq!(switch(|_| ()).judge(frame), to(2), "nobody looks without a guard");
    }
}
