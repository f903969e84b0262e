//! What the switch itself says: byte for byte, with right checksums, and not to everybody.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use vswitch::frame::protocol;
use vswitch::nv::answer::{
    Advertised, arp_reply, arp_request, echo_reply, neighbour_advertisement, neighbour_solicitation,
    time_exceeded, too_big,
};

use super::reference::{Packet, assert_right, complete, example, packet};
use crate::packets::{
    arp, ethernet, extension, fragment, framed, icmp, ip, neighbour, tagged, tcp, udp, v4, v4_piece, v6,
    with_options,
};
use crate::support::{mac_of, stranger};
use vswitch::Mac;

const ROUTER: Mac = Mac([0x02, 0, 0, 0, 0, 0xfe]);

fn v6_address(text: &str) -> Ipv6Addr {
    text.parse().expect("an IPv6 address")
}

/// A neighbour solicitation as a station sends it.
fn solicitation(from: &str, target: &str) -> Vec<u8> {
    framed(&complete(v6(from, "ff02::1:ff00:2", protocol::ICMPV6, &neighbour(135, target, None))))
}

#[test]
fn s14_7_an_arp_request_is_answered_to_who_asked() {
    let mut out = vec![9; 3];
    let request = tagged(&[], 0x0806, &arp(1, mac_of(1), "10.0.0.1", "10.0.0.254"));
    assert!(arp_reply(&request, ROUTER, [10, 0, 0, 254].into(), &mut out));
    let mut expected = [mac_of(1).0, ROUTER.0].concat();
    expected.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2]);
    expected.extend(ROUTER.0);
    expected.extend([10, 0, 0, 254]);
    expected.extend(mac_of(1).0);
    expected.extend([10, 0, 0, 1]);
    expected.resize(60, 0);
    assert_eq!(out, expected);
}

#[test]
fn s14_7_a_probe_for_duplicates_is_answered_too() {
    // RFC 5227: the sender has no address yet.
    let mut out = Vec::new();
    let request = tagged(&[], 0x0806, &arp(1, mac_of(1), "0.0.0.0", "10.0.0.7"));
    assert!(arp_reply(&request, stranger(7), [10, 0, 0, 7].into(), &mut out));
    assert_eq!(out[..6], mac_of(1).0);
    assert_eq!(out[22..32], [&stranger(7).0[..], &[10, 0, 0, 7]].concat());
    assert_eq!(out[38..42], [0; 4]);
}

#[test]
fn s14_4_the_answer_is_in_the_vlan_of_the_question() {
    let mut out = Vec::new();
    let request = tagged(&[(0x8100, 0xe037)], 0x0806, &arp(1, mac_of(1), "10.0.0.1", "10.0.0.254"));
    assert!(arp_reply(&request, ROUTER, [10, 0, 0, 254].into(), &mut out));
    assert_eq!(out[12..18], [0x81, 0, 0, 55, 0x08, 0x06]);
    assert_eq!(out.len(), 64);
    let twice = tagged(&[(0x88a8, 5), (0x8100, 6)], 0x0806, &arp(1, mac_of(1), "10.0.0.1", "10.0.0.254"));
    assert!(!arp_reply(&twice, ROUTER, [10, 0, 0, 254].into(), &mut out));
    assert!(out.is_empty());
}

#[test]
fn s14_7_what_is_no_question_is_not_answered() {
    let mut out = vec![1];
    let reply = tagged(&[], 0x0806, &arp(2, mac_of(1), "10.0.0.1", "10.0.0.254"));
    let group = ethernet(mac_of(2), Mac([1; 6]), &[], 0x0806, &arp(1, mac_of(1), "10.0.0.1", "10.0.0.254"));
    let reverse = tagged(&[], 0x8035, &arp(1, mac_of(1), "10.0.0.1", "10.0.0.254"));
    for frame in [reply, group, reverse, example(), vec![]] {
        assert!(!arp_reply(&frame, ROUTER, [10, 0, 0, 254].into(), &mut out));
        assert!(out.is_empty());
    }
    let target = v6_address("fd00::2");
    let advertisement =
        |frame: &[u8]| neighbour_advertisement(frame, ROUTER, target, Advertised::default(), &mut Vec::new());
    let good = solicitation("fd00::1", "fd00::2");
    assert!(advertisement(&good));
    let changed = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        frame
    };
    assert!(!advertisement(&solicitation("fd00::1", "fd00::3")), "another target");
    assert!(!advertisement(&changed(21, 64)), "a router has forwarded it");
    assert!(!advertisement(&changed(54, 136)), "an advertisement");
    assert!(!advertisement(&changed(55, 1)), "a code");
    let whole = neighbour(135, "fd00::2", None);
    let piece = fragment(protocol::ICMPV6, 0, false, &whole);
    assert!(!advertisement(&framed(&v6("fd00::1", "ff02::1", protocol::FRAGMENT, &piece))), "RFC 6980");
    assert!(!advertisement(&good[..77]), "cut off");
}

#[test]
fn s14_7_a_solicitation_is_answered_with_the_flags_that_fit() {
    let mut out = Vec::new();
    let target = v6_address("fd00::2");
    for (router, certain, flags) in
        [(true, true, 0xe0), (true, false, 0xc0), (false, true, 0x60), (false, false, 0x40)]
    {
        let request = solicitation("fd00::1", "fd00::2");
        assert!(neighbour_advertisement(&request, ROUTER, target, Advertised { router, certain }, &mut out));
        let mut message = vec![136, 0, 0, 0, flags, 0, 0, 0];
        message.extend(target.octets());
        message.extend([2, 1]);
        message.extend(ROUTER.0);
        let expected = complete(v6("fd00::2", "fd00::1", protocol::ICMPV6, &message));
        assert_eq!(out, ethernet(mac_of(1), ROUTER, &[], 0x86dd, &expected));
    }
    // RFC 4861, 7.2.4: who has no address yet cannot be answered alone.
    let request = solicitation("::", "fd00::2");
    let says = Advertised { router: false, certain: true };
    assert!(neighbour_advertisement(&request, ROUTER, target, says, &mut out));
    assert_eq!(out[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(out[38..54], v6_address("ff02::1").octets());
    assert_eq!(out[58], 0x20, "not solicited");
    assert_right(&out[14..]);
}

#[test]
fn s14_4_the_switch_asks_for_provider_addresses() {
    let mut out = Vec::new();
    arp_request(stranger(1), [192, 168, 34, 8].into(), [192, 168, 34, 1].into(), Some(9), &mut out);
    let mut message = arp(1, stranger(1), "192.168.34.8", "192.168.34.1");
    message.resize(46, 0);
    let tag = [(0x8100, 9)];
    assert_eq!(out, ethernet(Mac::BROADCAST, stranger(1), &tag, 0x0806, &message));

    neighbour_solicitation(
        stranger(1),
        v6_address("fd00::1"),
        v6_address("fd00::12:3456"),
        Some(9),
        &mut out,
    );
    let message = neighbour(135, "fd00::12:3456", Some((1, stranger(1))));
    let packet = complete(v6("fd00::1", "ff02::1:ff12:3456", protocol::ICMPV6, &message));
    assert_eq!(out, ethernet(Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]), stranger(1), &tag, 0x86dd, &packet));

    // RFC 4862, 5.4.2: whether somebody else has it. Then there is no option.
    neighbour_solicitation(stranger(1), Ipv6Addr::UNSPECIFIED, v6_address("fd00::1"), None, &mut out);
    let packet = complete(v6("::", "ff02::1:ff00:1", protocol::ICMPV6, &neighbour(135, "fd00::1", None)));
    assert_eq!(out, ethernet(Mac([0x33, 0x33, 0xff, 0, 0, 1]), stranger(1), &[], 0x86dd, &packet));
}

/// An echo request or its reply.
fn echo(six: bool, reply: bool, src: &str, dst: &str, data: &[u8]) -> Vec<u8> {
    let rest = [&[0x12, 0x34, 0, 7], data].concat();
    let mut packet = match (six, reply) {
        (false, false) => v4(src, dst, protocol::ICMP, &icmp(8, &rest)),
        (false, true) => v4(src, dst, protocol::ICMP, &icmp(0, &rest)),
        (true, false) => v6(src, dst, protocol::ICMPV6, &icmp(128, &rest)),
        (true, true) => v6(src, dst, protocol::ICMPV6, &icmp(129, &rest)),
    };
    if reply {
        // What the switch makes of its own: hop limit 64, no fragments.
        packet[7] = if six { 64 } else { packet[7] };
        if !six {
            packet[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
        }
    }
    complete(packet)
}

proptest! {
    #[test]
    fn s14_10_the_router_answers_an_echo(six: bool, data in prop::collection::vec(any::<u8>(), 0..1500)) {
        let (guest, router) = if six { ("fd00::7", "fd00::1") } else { ("10.0.0.7", "10.0.0.1") };
        let kind = if six { 0x86dd } else { 0x0800 };
        let request = ethernet(ROUTER, mac_of(7), &[], kind, &echo(six, false, guest, router, &data));
        let mut out = Vec::new();
        prop_assert!(echo_reply(&request, &mut out));
        prop_assert_eq!(out, ethernet(mac_of(7), ROUTER, &[], kind, &echo(six, true, router, guest, &data)));
    }

    #[test]
    fn s14_5_an_error_quotes_the_packet_as_it_came(
        cause in any::<bool>().prop_flat_map(packet), extra in 0_usize..2000, big: bool, mtu in 68_u16..9000,
    ) {
        let six = cause.src.is_ipv6();
        let (src, dst) = if six { (ip("fd00::7"), ip("fd01::9")) } else { (ip("10.0.0.7"), ip("10.1.0.9")) };
        let mut cause = Packet { part: cause.part % 2, ..cause.between(src, dst) };
        cause.payload.resize(cause.payload.len() + extra, 0x55);
        let mut bytes = cause.build();
        if !six {
            bytes[6] |= 0x40;
        }
        let frame = ethernet(ROUTER, mac_of(7), &[], if six { 0x86dd } else { 0x0800 }, &bytes);
        let router = if six { "fd00::1" } else { "10.0.0.1" };
        let mut out = Vec::new();
        let said = if big {
            too_big(&frame, ip(router), ROUTER, mtu, &mut out)
        } else {
            time_exceeded(&frame, ip(router), ROUTER, &mut out)
        };
        prop_assert!(said);
        let room = if six { 1280 - 48 } else { 576 - 28 };
        let word = if big { u32::from(mtu) } else { 0 };
        let rest = [&word.to_be_bytes()[..], &bytes[..bytes.len().min(room)]].concat();
        let mut packet = if six {
            v6(router, "fd00::7", protocol::ICMPV6, &icmp(if big { 2 } else { 3 }, &rest))
        } else {
            v4(router, "10.0.0.7", protocol::ICMP, &icmp(if big { 3 } else { 11 }, &rest))
        };
        if six {
            packet[7] = 64;
        } else {
            packet[1] = 0xc0;
            packet[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
            packet[21] = if big { 4 } else { 0 };
        }
        let kind = if six { 0x86dd } else { 0x0800 };
        prop_assert_eq!(out, ethernet(mac_of(7), ROUTER, &[], kind, &complete(packet)));
    }
}

#[test]
fn s14_10_an_echo_that_nobody_answers() {
    let mut out = vec![1];
    let request = |six, src: &str, dst: &str| framed(&echo(six, false, src, dst, b"data"));
    let piece = v4_piece("10.0.0.7", "10.0.0.1", protocol::ICMP, 0, true, &icmp(8, &[0; 12]));
    let group =
        ethernet(Mac::BROADCAST, mac_of(7), &[], 0x0800, &echo(false, false, "10.0.0.7", "10.0.0.1", b""));
    let mut code = request(false, "10.0.0.7", "10.0.0.1");
    code[35] = 1;
    for frame in [
        request(false, "0.0.0.0", "10.0.0.1"),
        request(false, "127.0.0.1", "10.0.0.1"),
        request(false, "255.255.255.255", "10.0.0.1"),
        request(false, "10.0.0.7", "224.0.0.1"),
        request(false, "10.0.0.7", "255.255.255.255"),
        request(true, "::", "fd00::1"),
        request(true, "fd00::7", "ff02::1"),
        framed(&echo(false, true, "10.0.0.7", "10.0.0.1", b"")),
        framed(&v4("10.0.0.7", "10.0.0.1", protocol::ICMPV6, &icmp(128, &[0; 4]))),
        framed(&v6("fd00::7", "fd00::1", protocol::ICMP, &icmp(8, &[0; 4]))),
        framed(&piece),
        group,
        code,
        example(),
    ] {
        assert!(!echo_reply(&frame, &mut out), "{frame:02x?}");
        assert!(out.is_empty());
    }
}

#[test]
fn s14_10_options_of_a_request_are_not_repeated() {
    let packet = complete(with_options(
        v4("10.0.0.7", "10.0.0.1", protocol::ICMP, &icmp(8, b"\x12\x34\0\x07ping")),
        8,
    ));
    let mut out = Vec::new();
    assert!(echo_reply(&framed(&packet), &mut out));
    assert_eq!(out[14..46], echo(false, true, "10.0.0.1", "10.0.0.7", b"ping"));
}

#[test]
fn s14_5_an_error_is_not_answered_with_another_nor_is_a_group() {
    // RFC 1812, 4.3.2.7; RFC 4443, 2.4.
    let quoted = [&[0; 4], &example()[14..]].concat();
    let icmp4 = |kind| framed(&v4("10.0.0.7", "10.1.0.9", protocol::ICMP, &icmp(kind, &quoted)));
    let icmp6 = |kind| framed(&v6("fd00::7", "fd01::9", protocol::ICMPV6, &icmp(kind, &quoted)));
    let tcp4 = |src: &str, dst: &str| framed(&v4(src, dst, protocol::TCP, &tcp(1, 2, 0x10, b"")));
    let tcp6 = |src: &str, dst: &str| framed(&v6(src, dst, protocol::TCP, &tcp(1, 2, 0x10, b"")));
    let broadcast = ethernet(Mac::BROADCAST, mac_of(1), &[], 0x0800, &example()[14..]);
    let later4 = framed(&v4_piece("10.0.0.7", "10.1.0.9", protocol::UDP, 1480, false, &udp(1, 2, b"")));
    let later6 = fragment(protocol::UDP, 1480, false, &udp(1, 2, b""));
    let later6 = framed(&v6("fd00::7", "fd01::9", protocol::FRAGMENT, &later6));
    let behind = extension(protocol::DESTINATION, protocol::ICMPV6, 1, &icmp(1, &quoted));
    let behind = framed(&v6("fd00::7", "fd01::9", protocol::DESTINATION, &behind));
    let mut never = vec![broadcast, later4, later6, behind];
    never.extend([3, 4, 5, 11, 12].map(icmp4));
    never.extend([1, 2, 3, 4, 100, 127, 137].map(icmp6));
    never.extend(
        [("0.0.0.0", "10.1.0.9"), ("224.0.0.1", "10.1.0.9"), ("10.0.0.7", "224.0.0.1")]
            .map(|(s, d)| tcp4(s, d)),
    );
    never.extend(
        [("127.0.0.1", "10.1.0.9"), ("240.0.0.1", "10.1.0.9"), ("10.0.0.7", "255.255.255.255")]
            .map(|(s, d)| tcp4(s, d)),
    );
    never
        .extend([("::", "fd01::9"), ("ff02::1", "fd01::9"), ("fd00::7", "ff05::1")].map(|(s, d)| tcp6(s, d)));
    never.push(example()[..20].to_vec());
    let mut out = vec![1];
    for mut frame in never {
        if frame[12] == 8
            && let Some(flags) = frame.get_mut(20)
        {
            *flags |= 0x40;
        }
        for router in ["10.0.0.1", "fd00::1"] {
            assert!(!time_exceeded(&frame, ip(router), ROUTER, &mut out), "{frame:02x?}");
            assert!(!too_big(&frame, ip(router), ROUTER, 1400, &mut out), "{frame:02x?}");
            assert!(out.is_empty());
        }
    }
    // Queries are answered: they are no errors.
    for frame in [icmp4(8), icmp4(0), icmp4(13), icmp6(128), icmp6(135)] {
        let router = if frame[12] == 8 { "10.0.0.1" } else { "fd00::1" };
        assert!(time_exceeded(&frame, ip(router), ROUTER, &mut out), "{frame:02x?}");
    }
}

#[test]
fn s14_13_a_packet_that_may_be_fragmented_is_not_too_big() {
    let mut frame = framed(&v4("10.0.0.7", "10.1.0.9", protocol::UDP, &udp(1, 2, b"data")));
    let mut out = Vec::new();
    assert!(!too_big(&frame, ip("10.0.0.1"), ROUTER, 1400, &mut out));
    frame[20] |= 0x40;
    assert!(too_big(&frame, ip("10.0.0.1"), ROUTER, 1400, &mut out));
    assert_eq!(out[34..42], [3, 4, out[36], out[37], 0, 0, 0x05, 0x78]);
}

#[test]
fn s14_13_a_tso_frame_is_quoted_whatever_length_its_header_says() {
    let mut frame = framed(&v4("10.0.0.7", "10.1.0.9", protocol::TCP, &tcp(1, 2, 0x10, &[7; 3000])));
    frame[20] |= 0x40;
    for claimed in [0_u16, 19, 40, 65_535] {
        frame[16..18].copy_from_slice(&claimed.to_be_bytes());
        let mut out = Vec::new();
        assert!(too_big(&frame, ip("10.0.0.1"), ROUTER, 1400, &mut out));
        assert_eq!(out.len(), if claimed == 40 { 14 + 28 + 40 } else { 14 + 576 });
        assert_right(&out[14..]);
    }
}
