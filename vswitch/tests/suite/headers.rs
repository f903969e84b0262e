//! What policy sees of a frame, and what it refuses to guess.

use vswitch::HEAD_LEN;
use vswitch::frame::ethernet::ethertype;
use vswitch::frame::headers::{Fragment, Headers, Ip};
use vswitch::frame::{claims, protocol, singular};
use vswitch::trace::DropReason;

use crate::packets::*;
use crate::support::{Random, mac_of};

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const A6: &str = "2001:db8::1";
const B6: &str = "2001:db8::2";

fn parse(frame: &[u8]) -> Result<Headers, DropReason> {
    Headers::parse(&frame[..frame.len().min(HEAD_LEN)], frame.len() as u32)
}

fn parse_ip(packet: &[u8]) -> Result<Ip, DropReason> {
    // Without padding: what is short stays short.
    let mut frame = framed(packet);
    frame.truncate(14 + packet.len());
    parse(&frame).map(|headers| headers.ip.expect("an IP packet"))
}

fn malformed<T>() -> Result<T, DropReason> {
    Err(DropReason::MalformedPacket)
}

fn bad_fragment<T>() -> Result<T, DropReason> {
    Err(DropReason::BadFragment)
}

#[test]
fn s6_headers_are_seen_down_to_the_ports() {
    let plain = Ip {
        src: ip(A),
        dst: ip(B),
        protocol: protocol::UDP,
        fragment: Fragment::Whole,
        ports: Some((1000, 53)),
        tcp_flags: 0,
        icmp: None,
        upper: 34,
    };
    assert_eq!(parse_ip(&v4(A, B, 17, &udp(1000, 53, b"?"))), Ok(plain));
    let optional = Ip { upper: 74, ..plain };
    assert_eq!(parse_ip(&with_options(v4(A, B, 17, &udp(1000, 53, b"?")), 40)), Ok(optional));
    let tcp4 = Ip { protocol: protocol::TCP, ports: Some((40_000, 80)), tcp_flags: 0x12, ..plain };
    assert_eq!(parse_ip(&v4(A, B, 6, &tcp(40_000, 80, 0x12, b""))), Ok(tcp4));
    let (src, dst) = (ip(A6), ip(B6));
    let tcp6 = Ip { src, dst, upper: 54, ..tcp4 };
    assert_eq!(parse_ip(&v6(A6, B6, 6, &tcp(40_000, 80, 0x12, b""))), Ok(tcp6));
    let ping4 = Ip { protocol: protocol::ICMP, ports: None, icmp: Some((8, 0)), ..plain };
    assert_eq!(parse_ip(&v4(A, B, 1, &icmp(8, &[0; 4]))), Ok(ping4));
    let ping6 = Ip { src, dst, protocol: protocol::ICMPV6, icmp: Some((128, 0)), upper: 54, ..ping4 };
    assert_eq!(parse_ip(&v6(A6, B6, 58, &icmp(128, &[0; 4]))), Ok(ping6));
    let esp = Ip { protocol: 50, ports: None, ..plain };
    assert_eq!(parse_ip(&v4(A, B, 50, &[])), Ok(esp));
    // Each version has its own ICMP; the other one is a protocol like any.
    assert_eq!(parse_ip(&v4(A, B, 58, &icmp(134, &[0; 12]))).map(|ip| ip.icmp), Ok(None));
    assert_eq!(parse_ip(&v6(A6, B6, 1, &icmp(9, &[0; 4]))).map(|ip| ip.icmp), Ok(None));
}

#[test]
fn s6_two_tags_are_looked_behind_and_a_third_hides_what_follows() {
    let packet = v4(A, B, 17, &udp(1000, 53, b"?"));
    let tags = [(0x88a8, 7), (0x8100, 5), (0x8100, 5)];
    for count in 0..=2 {
        let frame = tagged(&tags[..count], ethertype::IPV4, &packet);
        let headers = parse(&frame).expect("readable");
        assert_eq!((headers.ethertype, headers.payload), (ethertype::IPV4, 14 + 4 * count));
        assert_eq!(headers.ip.map(|ip| (ip.upper, ip.ports)), Some((34 + 4 * count, Some((1000, 53)))));
        assert!(!headers.hidden(&frame));
    }
    let frame = tagged(&tags, ethertype::IPV4, &packet);
    let headers = parse(&frame).expect("readable");
    assert_eq!((headers.ethertype, headers.ip), (ethertype::VLAN, None));
    assert!(headers.hidden(&frame));
}

#[test]
fn s6_a_length_is_not_an_ethertype_and_snap_hides_what_follows() {
    let packet = v4(A, B, 17, &udp(1000, 53, b"?"));
    for (snap, hides) in [
        ([0xaa, 0xaa, 3, 0, 0, 0, 8, 0], true),
        ([0xaa, 0xaa, 3, 0, 0, 0xf8, 0x86, 0xdd], true),
        ([0xaa, 0xaa, 3, 0, 0, 0, 8, 6], true),
        ([0xaa, 0xaa, 3, 0, 0, 0, 0x81, 0], true),
        ([0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0], false), // CDP
        ([0x42, 0x42, 3, 0, 0, 0, 8, 0], false),       // spanning tree
    ] {
        for length in [0, 46, 1500, 0x5ff] {
            let frame = tagged(&[], length, &[&snap[..], &packet].concat());
            let headers = parse(&frame).expect("readable");
            assert_eq!((headers.ip, headers.hidden(&frame)), (None, hides), "{snap:?}");
            assert!(singular::frame(&headers));
        }
    }
    let frame = tagged(&[], 0x600, &[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], &packet[..]].concat());
    assert!(parse(&frame).is_ok_and(|headers| !headers.hidden(&frame)));
}

#[test]
fn s6_a_frame_cut_off_anywhere_in_its_headers_is_malformed() {
    let routed = extension(protocol::ROUTING, 6, 3, &tcp(1, 2, 0x10, b""));
    let chain = extension(protocol::HOP_BY_HOP, protocol::ROUTING, 1, &routed);
    let whole = [
        (v4(A, B, 17, &udp(1, 2, b"")), 28),
        (v4(A, B, 6, &tcp(1, 2, 0x10, b"")), 40),
        (with_options(v4(A, B, 1, &icmp(8, &[0; 4])), 12), 40),
        (v6(A6, B6, 58, &icmp(128, &[0; 4])), 48),
        (v6(A6, B6, 0, &chain), 40 + 8 + 24 + 20),
    ];
    for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 7), (0x8100, 5)]] {
        for (packet, headers) in &whole {
            let mut frame = tagged(tags, ethertype_of(packet), packet);
            let headers = 14 + 4 * tags.len() + headers;
            frame.resize(headers + 100, 0);
            let complete = parse(&frame).expect("readable");
            for cut in 0..frame.len() {
                let seen = Headers::parse(&frame[..cut], cut as u32);
                let expected = if cut < headers { malformed() } else { Ok(complete) };
                assert_eq!(seen, expected, "{cut} of {headers}");
                // The same bytes, but the frame ends there: what the caller has beyond does not count.
                assert_eq!(Headers::parse(&frame, cut as u32), expected, "{cut} of {headers}");
            }
        }
    }
}

#[test]
fn s6_headers_beyond_the_first_bytes_are_malformed() {
    // 14 + 40 + options; TCP needs 20 bytes more. 192 - 74 = 118 = 14 units and 6 bytes.
    let with = |units| {
        let options = extension(protocol::DESTINATION, 6, units, &tcp(1, 2, 0x10, &[0; 500]));
        parse(&framed(&v6(A6, B6, protocol::DESTINATION, &options)))
    };
    assert_eq!(with(14).map(|h| h.ip.and_then(|ip| ip.ports)), Ok(Some((1, 2))));
    assert_eq!(with(15), malformed());
    // Even if the caller has more than it is to show.
    let frame = framed(&v6(
        A6,
        B6,
        protocol::DESTINATION,
        &extension(protocol::DESTINATION, 6, 15, &tcp(1, 2, 0x10, &[0; 500])),
    ));
    assert_eq!(Headers::parse(&frame, frame.len() as u32), malformed());
}

#[test]
fn s6_versions_and_lengths_that_contradict_are_malformed() {
    let packet = v4(A, B, 17, &udp(1, 2, &[0; 30]));
    let changed = |at: usize, value: u8| {
        let mut packet = packet.clone();
        packet[at] = value;
        parse(&tagged(&[], ethertype::IPV4, &packet)).map(|h| h.ip.is_some())
    };
    for version in (0..16).filter(|&v| v != 4) {
        assert_eq!(changed(0, version << 4 | 5), malformed(), "version {version}");
    }
    for ihl in 0..5 {
        assert_eq!(changed(0, 0x40 | ihl), malformed(), "header length {ihl}");
    }
    assert_eq!(parse(&tagged(&[], ethertype::IPV6, &packet)), malformed());
    let six = v6(A6, B6, 17, &udp(1, 2, b""));
    assert_eq!(parse(&tagged(&[], ethertype::IPV4, &six)), malformed());
    // Offloaded segments have any total length, and padding follows short packets.
    for total in [0, 1, 28, 0xff] {
        assert_eq!(changed(3, total), Ok(true), "total length {total}");
    }
}

#[test]
fn s6_extension_headers_are_walked_up_to_eight() {
    let mut random = Random(31);
    let kinds = [protocol::HOP_BY_HOP, protocol::ROUTING, protocol::DESTINATION, protocol::AUTHENTICATION];
    let (mut seen, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let upper = [6, 17, 58, 50, 59][random.below(5)];
        let chain: Vec<_> =
            (0..random.below(11)).map(|_| (kinds[random.below(4)], 1 + random.below(2))).collect();
        let transport = match upper {
            6 => tcp(7, 8, 0x10, b""),
            17 => udp(7, 8, b""),
            58 => icmp(128, &[0; 4]),
            _ => vec![],
        };
        let (mut next, mut payload) = (upper, transport.clone());
        for &(kind, units) in chain.iter().rev() {
            payload = extension(kind, next, units, &payload);
            next = kind;
        }
        let at = 54 + payload.len() - transport.len();
        let got = parse_ip(&v6(A6, B6, next, &payload));
        if chain.len() <= 8 && at + transport.len() <= HEAD_LEN {
            let ip = got.expect("within the bounds");
            assert_eq!((ip.protocol, ip.upper, ip.fragment), (upper, at, Fragment::Whole));
            assert_eq!(ip.ports, matches!(upper, 6 | 17).then_some((7, 8)));
            seen += 1;
        } else {
            assert_eq!(got, malformed());
            refused += 1;
        }
    }
    assert!(seen > 1000 && refused > 1000, "{seen} {refused}");
}

#[test]
fn s6_nothing_follows_mobility_host_identity_and_shim6_headers() {
    for kind in [protocol::MOBILITY, protocol::HOST_IDENTITY, protocol::SHIM6] {
        let last = extension(kind, protocol::NONE, 1, &[]);
        assert_eq!(parse_ip(&v6(A6, B6, kind, &last)).map(|ip| ip.protocol), Ok(kind));
        let advertisement = icmp(134, &[0; 12]);
        let hiding = extension(kind, protocol::ICMPV6, 1, &advertisement);
        assert_eq!(parse_ip(&v6(A6, B6, kind, &hiding)), malformed());
        assert_eq!(parse_ip(&v6(A6, B6, kind, &[])), malformed());
    }
}

#[test]
fn s6_the_first_fragment_holds_the_transport_header() {
    for (protocol, needed) in [(6, 20), (17, 8), (1, 8), (58, 8), (47, 8), (132, 8)] {
        for len in 0..40 {
            let piece = vec![1; len];
            let four = parse_ip(&v4_piece(A, B, protocol, 0, true, &piece));
            let six = parse_ip(&v6(A6, B6, protocol::FRAGMENT, &fragment(protocol, 0, true, &piece)));
            if len < needed {
                assert_eq!((four, six), (bad_fragment(), bad_fragment()), "{protocol}: {len}");
            } else {
                assert!([four, six].iter().all(|r| r.is_ok_and(|ip| ip.fragment == Fragment::First)));
            }
        }
    }
    // Padding is not payload: what the receiver puts together ends where the header says.
    let short = framed(&v4_piece(A, B, 6, 0, true, &tcp(1, 2, 2, b"")[..16]));
    assert_eq!(parse(&short), bad_fragment());
    let short = tagged(&[], ethertype::IPV6, &v6(A6, B6, 44, &fragment(17, 0, true, &[])));
    assert_eq!(parse(&[&short[..], &[0; 40]].concat()), bad_fragment());
    // A total length below the header's own.
    let mut packet = v4_piece(A, B, 17, 0, true, &[0; 40]);
    packet[3] = 19;
    assert_eq!(parse_ip(&packet), bad_fragment());
}

#[test]
fn s6_no_later_fragment_begins_within_the_transport_header() {
    for offset in 1..6 {
        for (protocol, overlaps) in [(6, offset * 8 < 20), (17, false), (58, false), (47, false)] {
            let four = parse_ip(&v4_piece(A, B, protocol, offset * 8, true, &[1; 8]));
            let piece = fragment(protocol, offset * 8, false, &[1; 8]);
            let six = parse_ip(&v6(A6, B6, protocol::FRAGMENT, &piece));
            for got in [four, six] {
                if overlaps {
                    assert_eq!(got, bad_fragment());
                } else {
                    let ip = got.expect("a fragment");
                    assert_eq!((ip.fragment, ip.ports, ip.icmp), (Fragment::Later, None, None));
                    assert_eq!(ip.protocol, protocol);
                }
            }
        }
    }
}

#[test]
fn s6_no_fragment_ends_beyond_the_largest_packet() {
    assert_eq!(
        parse_ip(&v4_piece(A, B, 17, 65_528, false, &[0; 7])).map(|ip| ip.fragment),
        Ok(Fragment::Later)
    );
    assert_eq!(parse_ip(&v4_piece(A, B, 17, 65_528, false, &[0; 8])), bad_fragment());
    let piece = fragment(17, 65_528, false, &[0; 8]);
    assert_eq!(parse_ip(&v6(A6, B6, protocol::FRAGMENT, &piece)), bad_fragment());
}

#[test]
fn s6_a_single_fragment_is_whole_and_two_fragment_headers_are_malformed() {
    let datagram = udp(5, 6, b"");
    let atomic = fragment(17, 0, false, &datagram);
    let got = parse_ip(&v6(A6, B6, protocol::FRAGMENT, &atomic));
    assert_eq!(got.map(|ip| (ip.fragment, ip.ports)), Ok((Fragment::Whole, Some((5, 6)))));
    for (first, second) in [(false, false), (true, false), (false, true)] {
        let twice = fragment(protocol::FRAGMENT, 0, first, &fragment(17, 0, second, &datagram));
        assert_eq!(parse_ip(&v6(A6, B6, protocol::FRAGMENT, &twice)), malformed());
        let apart =
            extension(protocol::DESTINATION, protocol::FRAGMENT, 1, &fragment(17, 0, second, &datagram));
        let apart = fragment(protocol::DESTINATION, 0, first, &apart);
        assert_eq!(parse_ip(&v6(A6, B6, protocol::FRAGMENT, &apart)), malformed());
    }
}

#[test]
fn s6_extension_headers_are_not_cut_up_with_the_payload() {
    let options = extension(protocol::DESTINATION, 17, 1, &udp(5, 6, &[0; 16]));
    let first = fragment(protocol::DESTINATION, 0, true, &options);
    assert_eq!(parse_ip(&v6(A6, B6, protocol::FRAGMENT, &first)), bad_fragment());
    let later = fragment(protocol::DESTINATION, 8, false, &udp(5, 6, &[0; 16]));
    assert_eq!(parse_ip(&v6(A6, B6, protocol::FRAGMENT, &later)), bad_fragment());
    // In a single fragment, and before the fragment header, they are where they can be seen.
    let single = fragment(protocol::DESTINATION, 0, false, &options);
    assert_eq!(parse_ip(&v6(A6, B6, protocol::FRAGMENT, &single)).map(|ip| ip.ports), Ok(Some((5, 6))));
    let before = extension(protocol::DESTINATION, 44, 1, &fragment(17, 0, true, &udp(5, 6, &[0; 16])));
    assert_eq!(parse_ip(&v6(A6, B6, protocol::DESTINATION, &before)).map(|ip| ip.ports), Ok(Some((5, 6))));
}

#[test]
fn h29_random_bytes_never_panic_and_what_is_seen_is_in_bounds() {
    let mut random = Random(32);
    let (mut ips, mut errors) = (0, 0);
    for _ in 0..300_000 {
        let packet = if random.once_in(2) {
            let piece = random.bytes(40);
            let (at, more) = (8 * random.below(4) * random.below(2), random.once_in(3));
            v4_piece(A, B, [6, 17, 1, 58][random.below(4)], at, more, &piece)
        } else {
            let mut payload = random.bytes(60);
            (payload[0], payload[1]) = ([6, 17, 44, 58, 60][random.below(5)], random.below(3) as u8);
            v6(A6, B6, [0, 6, 17, 43, 44, 51, 58, 60, 135][random.below(9)], &payload)
        };
        let tags = [(0x8100, 5); 3];
        let mut frame = tagged(&tags[..random.below(4)], ethertype_of(&packet), &packet);
        for _ in 0..random.below(3) {
            let at = random.below(frame.len());
            frame[at] = random.next() as u8;
        }
        frame.truncate(random.below(frame.len() * 2));
        let len = frame.len() as u32 + random.below(2) as u32 * random.below(3000) as u32;
        match Headers::parse(&frame, len) {
            Ok(headers) => {
                assert!(headers.payload <= frame.len());
                let _ = (headers.hidden(&frame), singular::frame(&headers), claims::of(&headers, &frame));
                if let Some(ip) = headers.ip {
                    ips += 1;
                    let needed = if ip.ports.is_some() || ip.icmp.is_some() { 8 } else { 0 };
                    assert!(ip.upper + needed <= frame.len().min(HEAD_LEN));
                    assert!(ip.ports.is_none() || ip.icmp.is_none());
                }
            }
            Err(reason) => {
                assert!(matches!(reason, DropReason::MalformedPacket | DropReason::BadFragment));
                errors += 1;
            }
        }
    }
    assert!(ips > 10_000 && errors > 10_000, "{ips} {errors}");
}

#[test]
fn s6_frames_whose_verdict_is_more_than_their_flows_are_singular() {
    let of = |packet: &[u8]| singular::frame(&parse(&framed(packet)).expect("readable"));
    for flags in 0..=0xff_u8 {
        let opens_or_closes = flags & 0x07 != 0;
        assert_eq!(of(&v4(A, B, 6, &tcp(1, 2, flags, b""))), opens_or_closes);
        assert_eq!(of(&v6(A6, B6, 6, &tcp(1, 2, flags, b""))), opens_or_closes);
    }
    for port in [67, 68, 546, 547] {
        assert!(of(&v4(A, B, 17, &udp(port, 9, b""))) && of(&v6(A6, B6, 17, &udp(9, port, b""))));
        assert!(singular::udp(port, 9) && singular::udp(9, port));
        assert!(!of(&v4(A, B, 6, &tcp(port, port, 0x10, b""))));
    }
    assert!(!of(&v4(A, B, 17, &udp(66, 548, b""))) && !singular::udp(66, 548));
    for kind in 0..=0xff {
        assert_eq!(of(&v6(A6, B6, 58, &icmp(kind, &[0; 40]))), (133..=137).contains(&kind));
    }
    assert!(!of(&v4(A, B, 1, &icmp(135, &[0; 4]))));
    assert!(!of(&v4_piece(A, B, 17, 64, false, &udp(67, 68, b""))));
    for (kind, expected) in [
        (ethertype::ARP, true),
        (ethertype::RARP, true),
        (0x5ff, true),
        (0x88cc, false),
        (ethertype::VLAN, false),
    ] {
        let frame = tagged(&[(0x8100, 5), (0x8100, 6)], kind, &[0; 40]);
        assert_eq!(singular::frame(&parse(&frame).expect("readable")), expected);
    }
}

#[test]
fn s7_arp_and_neighbour_advertisements_claim_an_address() {
    let of = |frame: &[u8]| claims::of(&parse(frame).expect("readable"), frame);
    for op in 0..5 {
        for kind in [ethertype::ARP, ethertype::RARP] {
            let frame = tagged(&[], kind, &arp(op, mac_of(9), A, B));
            assert_eq!(of(&frame), Ok(Some(ip(A))));
            let probe = tagged(&[(0x8100, 5)], kind, &arp(op, mac_of(9), "0.0.0.0", B));
            assert_eq!(of(&probe), Ok(None));
        }
    }
    // IEEE 802 hardware is understood like Ethernet; other address lengths are not understood at all.
    let mut odd = tagged(&[], ethertype::ARP, &arp(1, mac_of(9), A, B));
    odd[15] = 6;
    assert_eq!(of(&odd), Ok(Some(ip(A))));
    odd[18] = 8;
    assert_eq!(of(&odd), Ok(None));
    let about = |kind| framed(&v6(A6, B6, 58, &neighbour(kind, A6, Some((2, mac_of(1))))));
    assert_eq!(of(&about(136)), Ok(Some(ip(A6))));
    assert_eq!((of(&about(135)), of(&about(128))), (Ok(None), Ok(None)));
    let in_pieces = fragment(58, 0, true, &neighbour(136, A6, None));
    assert_eq!(of(&framed(&v6(A6, B6, 44, &in_pieces))), malformed());
    assert_eq!(of(&framed(&v6(A6, B6, 58, &neighbour(136, A6, None)[..23]))), malformed());
    assert_eq!(of(&framed(&v4(A, B, 1, &icmp(136, &[0; 20])))), Ok(None));
}
