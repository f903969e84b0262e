//! Changes of customers' packets: every one against the packet built anew.

use std::net::IpAddr;

use proptest::prelude::*;
use vswitch::frame::checksum::complete_checksum;
use vswitch::frame::offload::Offload;
use vswitch::frame::protocol;
use vswitch::nv::wire::rewrite::{Expired, Refused, apply, hop, macs};

use super::reference::{Packet, address, assert_right, complete, example, leave_open, packet};
use crate::packets::{arp, extension, framed, icmp, ip, tagged, tcp, udp, v4, v6};
use crate::support::{mac_of, stranger};

fn any_packet() -> impl Strategy<Value = (Packet, IpAddr, IpAddr)> {
    any::<bool>().prop_flat_map(|v6| (packet(v6), address(v6), address(v6)))
}

proptest! {
    #[test]
    fn s14_12_ip_rewrite_gives_the_packet_that_the_new_addresses_would_have_made((packet, src, dst) in any_packet()) {
        let mut frame = packet.frame();
        let original = frame.clone();
        prop_assert_eq!(apply(&mut frame, src, dst, &Offload::None), Ok(()));
        let mut expected = packet.between(src, dst).build();
        expected.resize(frame.len() - 14, 0);
        prop_assert_eq!(&frame[14..], &expected[..]);
        prop_assert_eq!(apply(&mut frame, packet.src, packet.dst, &Offload::None), Ok(()));
        prop_assert_eq!(frame, original, "there and back");
    }

    #[test]
    fn s14_12_a_checksum_left_open_stays_open_and_right((packet, src, dst) in any_packet()) {
        let packet = Packet { part: 0, ..packet };
        let mut bytes = packet.build();
        let len = bytes.len();
        if let Some((start, offset)) = leave_open(&mut bytes) {
            let mut frame = framed(&bytes);
            prop_assert_eq!(apply(&mut frame, src, dst, &Offload::Checksum { start, offset }), Ok(()));
            let frame = &mut frame[..14 + len];
            prop_assert!(complete_checksum(frame, start, offset));
            // A sum of zero may be written in two ways, and is in one of them by everybody who completes.
            let expected = packet.between(src, dst).build();
            let at = usize::from(start + offset);
            if frame[at..at + 2] != [0xff, 0xff] {
                prop_assert_eq!(&frame[14..], &expected[..]);
            }
        }
    }

    #[test]
    fn s14_12_the_quotation_of_an_error_is_rewritten_too(
        (cause, pa, pb) in any_packet(), from_router in any::<bool>(), room in 0_usize..200, open in any::<bool>(),
    ) {
        // An error about a packet from A to B goes to A, from B or from somebody on the way.
        let (a, b, sixth) = (cause.src, cause.dst, cause.src.is_ipv6());
        let from = if !from_router { b } else if sixth { ip("fd00:9::1") } else { ip("10.9.0.1") };
        prop_assume!(![b, from, pa, pb].contains(&a) && ![pa, pb].contains(&b) && pa != pb);
        let error = |cause: &Packet, from: IpAddr| {
            let quoted = cause.build();
            let least = if sixth { 40 } else { 28 + 8 * usize::from(cause.more_headers) };
            let quoted = &quoted[..(2 * room).max(least).min(quoted.len())];
            let rest = [&[0, 0, 5, 0xa0], quoted].concat();
            let (from, to) = (from.to_string(), cause.src.to_string());
            complete(if sixth {
                v6(&from, &to, protocol::ICMPV6, &icmp(2, &rest))
            } else {
                v4(&from, &to, protocol::ICMP, &icmp(3, &rest))
            })
        };
        let before = error(&cause, from);
        let after = error(&cause.between(pa, if from_router { b } else { pb }), pb);
        let mut bytes = before.clone();
        let offload = if open && sixth {
            let (start, offset) = leave_open(&mut bytes).expect("a checksum over addresses");
            Offload::Checksum { start, offset }
        } else {
            Offload::None
        };
        let mut frame = framed(&bytes);
        prop_assert_eq!(apply(&mut frame, pb, pa, &offload), Ok(()));
        if let Offload::Checksum { start, offset } = offload {
            prop_assert!(complete_checksum(&mut frame[..14 + before.len()], start, offset));
        }
        prop_assert_eq!(&frame[14..14 + after.len()], &after[..]);
        if offload == Offload::None {
            prop_assert_eq!(apply(&mut frame, from, a, &offload), Ok(()));
            prop_assert_eq!(&frame[14..14 + before.len()], &before[..], "there and back");
        }
    }

    #[test]
    fn s14_5_a_hop_changes_the_life_and_the_checksum(packet in any::<bool>().prop_flat_map(packet), life: u8) {
        let at = if packet.src.is_ipv4() { 8 } else { 7 };
        let with = |life: u8| {
            let mut bytes = packet.build();
            bytes[at] = life;
            if packet.part == 0 { complete(bytes) } else { header_only(bytes) }
        };
        let mut frame = framed(&with(life));
        let before = frame.clone();
        if life <= 1 {
            prop_assert_eq!(hop(&mut frame), Err(Expired));
            prop_assert_eq!(frame, before);
        } else {
            prop_assert_eq!(hop(&mut frame), Ok(()));
            prop_assert_eq!(frame, framed(&with(life - 1)));
        }
    }
}

/// Only the checksum of the IPv4 header, computed anew.
fn header_only(mut packet: Vec<u8>) -> Vec<u8> {
    let whole = complete(packet.clone());
    if packet[0] >> 4 == 4 {
        packet[10..12].copy_from_slice(&whole[10..12]);
    }
    packet
}

#[test]
fn s14_12_a_udp_checksum_of_zero_stays_zero() {
    let mut frame =
        framed(&header_only(v4("10.1.1.1", "10.1.1.2", protocol::UDP, &udp(1, 2, b"no checksum"))));
    assert_eq!(frame[40..42], [0, 0]);
    apply(&mut frame, ip("192.168.1.10"), ip("192.168.1.12"), &Offload::None).expect("a plain packet");
    assert_eq!(frame[40..42], [0, 0]);
    assert_eq!(frame[26..34], [192, 168, 1, 10, 192, 168, 1, 12]);
}

#[test]
fn s14_12_a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
    // RFC 768. The payload makes up for everything else, so that the new sum is ffff and its complement zero.
    let build = |word: u16| {
        let datagram = udp(1, 2, &word.to_be_bytes());
        complete(v4("192.168.1.10", "192.168.1.12", protocol::UDP, &datagram))
    };
    let with_zero = build(0);
    let word = u16::from_be_bytes([with_zero[26], with_zero[27]]);
    let expected = build(word);
    assert_eq!(expected[26..28], [0xff, 0xff]);
    let mut frame =
        framed(&complete(v4("10.1.1.1", "10.1.1.2", protocol::UDP, &udp(1, 2, &word.to_be_bytes()))));
    apply(&mut frame, ip("192.168.1.10"), ip("192.168.1.12"), &Offload::None).expect("a plain packet");
    assert_eq!(frame[14..14 + expected.len()], expected);
}

#[test]
fn s14_12_what_cannot_be_rewritten_is_refused_and_left_alone() {
    let (pa4, pb4) = (ip("192.168.1.10"), ip("192.168.1.12"));
    let (pa6, pb6) = (ip("fd00::10"), ip("fd00::12"));
    let routed = extension(protocol::ROUTING, protocol::TCP, 1, &tcp(1, 2, 0x10, b""));
    let mut routed = framed(&v6("fd00::1", "fd00::2", protocol::ROUTING, &routed));
    routed[14 + 40 + 3] = 1; // segments left
    let arp = tagged(&[], 0x0806, &arp(1, mac_of(1), "10.0.0.1", "10.0.0.2"));
    let cases = [
        (example(), pa6, pb6, Refused::Family),
        (example(), pa4, pb6, Refused::Family),
        (framed(&v6("fd00::1", "fd00::2", protocol::TCP, &tcp(1, 2, 0x10, b""))), pa4, pb4, Refused::Family),
        (routed, pa6, pb6, Refused::SourceRouted),
        (arp, pa4, pb4, Refused::Unreadable),
        (example()[..30].to_vec(), pa4, pb4, Refused::Unreadable),
    ];
    for (frame, src, dst, why) in cases {
        let mut changed = frame.clone();
        assert_eq!(apply(&mut changed, src, dst, &Offload::None), Err(why));
        assert_eq!(changed, frame);
    }
}

#[test]
fn s14_15_the_worked_example_goes_as_its_provider_addresses_and_comes_back() {
    let request = complete(v4("10.1.1.2", "10.1.1.1", protocol::TCP, &tcp(40_000, 1433, 0x18, b"select 1")));
    let mut frame = framed(&request);
    apply(&mut frame, ip("192.168.1.12"), ip("192.168.1.10"), &Offload::None).expect("a plain packet");
    let wire =
        complete(v4("192.168.1.12", "192.168.1.10", protocol::TCP, &tcp(40_000, 1433, 0x18, b"select 1")));
    assert_eq!(frame, framed(&wire));
    assert_right(&frame[14..14 + wire.len()]);
    apply(&mut frame, ip("10.1.1.2"), ip("10.1.1.1"), &Offload::None).expect("a plain packet");
    assert_eq!(frame, framed(&request));
}

#[test]
fn s14_5_addresses_of_a_frame_are_replaced_and_nothing_else() {
    let mut frame = example();
    macs(&mut frame, stranger(7), stranger(8));
    assert_eq!(frame[..6], stranger(7).0);
    assert_eq!(frame[6..12], stranger(8).0);
    assert_eq!(frame[12..], example()[12..]);
    let mut short = [1; 11];
    macs(&mut short, stranger(7), stranger(8));
    assert_eq!(short, [1; 11]);
}
