//! Outer headers: what is sent, and what of what arrives is taken for it.

use std::net::IpAddr;

use proptest::prelude::*;
use vswitch::frame::protocol;
use vswitch::nv::model::Encap;
use vswitch::nv::wire::open::Fault;
use vswitch::nv::wire::{ETHERNET, OUTER_MAX, Outer, Tunnelled, entropy, open, overhead, tos};

use super::reference::{Packet, address, assert_right, carried, complete, example, outer, packet};
use crate::packets::{extension, fragment, framed, ip, tagged, tcp, udp, v4, v4_piece, v6};
use crate::support::{mac_of, stranger};

const TUNNELS: [Encap; 2] = [Encap::Nvgre, Encap::Vxlan];

fn found(frame: &[u8]) -> Result<Tunnelled, Fault> {
    open(frame, frame.len() as u32).expect("a tunnel's packet").map_err(|malformed| malformed.fault)
}

proptest! {
    #[test]
    fn s14_12_what_went_into_a_tunnel_comes_out_of_it(
        encap in prop::sample::select(TUNNELS.to_vec()),
        (from, to) in any::<bool>().prop_flat_map(|v6| (address(v6), address(v6))),
        inner in any::<bool>().prop_flat_map(packet),
        vlan in prop::option::of(1_u16..4095),
        (vsid, ttl, id, flow, dscp) in (4096_u32..=16_777_214, 1_u8.., any::<u16>(), any::<u32>(), any::<u8>()),
        (copy_dscp, padding) in (any::<bool>(), 0_usize..20),
    ) {
        let outer = Outer { dst: stranger(2), src: stranger(1), vlan, from, to, encap, vsid, ttl, copy_dscp };
        let inner = inner.frame();
        let mut header = [0xaa; OUTER_MAX];
        let len = outer.template().and_then(|t| t.emit(flow, inner.len(), dscp, id, &mut header));
        let len = len.expect("a packet that is not too long");
        prop_assert_eq!(len, overhead(encap, to.is_ipv6(), vlan.is_some()));
        let mut frame = [&header[..len], &inner[..]].concat();
        let network = 14 + if vlan.is_some() { 4 } else { 0 };
        if to.is_ipv4() {
            assert_right(&header_of(&frame[network..]));
        }
        let outer_tos = if copy_dscp { dscp } else { dscp & 3 };
        prop_assert_eq!(tos(&frame), outer_tos);
        if encap == Encap::Vxlan {
            let port = u16::from_be_bytes([frame[len - 16], frame[len - 15]]);
            prop_assert!(port >= 49_152);
            prop_assert_eq!(u32::from(port & 0x3fff), flow & 0x3fff);
        } else {
            prop_assert_eq!(frame[len - 1], flow as u8);
        }
        frame.resize(frame.len() + padding, 0);
        let expected = Tunnelled {
            mac: stranger(2),
            vlan,
            src: from,
            dst: to,
            encap,
            vsid,
            ecn: dscp & 3,
            inner: len,
            inner_len: inner.len() as u32,
        };
        prop_assert_eq!(found(&frame), Ok(expected));
        // A receiver sees the beginning only.
        let head = &frame[..frame.len().min(vswitch::HEAD_LEN)];
        prop_assert_eq!(open(head, frame.len() as u32), Some(Ok(expected)));
    }

    #[test]
    fn s14_12_entropy_is_one_for_a_flow_and_another_for_others(
        first in any::<bool>().prop_flat_map(packet), payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let first = Packet { part: 0, ..first };
        let of = |packet: &Packet| {
            let frame = packet.frame();
            entropy(&frame, frame.len() as u32)
        };
        let second = Packet { payload, ..first.clone() };
        prop_assert_eq!(of(&first), of(&second), "what is in packets does not matter");
        prop_assume!(first.src != first.dst);
        prop_assert_ne!(of(&first), of(&first.between(first.dst, first.src)), "the other direction");
        if matches!(first.protocol, protocol::TCP | protocol::UDP) {
            let port = Packet { ports: (first.ports.0 ^ 1, first.ports.1), ..first.clone() };
            prop_assert_ne!(of(&first), of(&port));
        }
        let parts = [1, 2].map(|part| Packet { part, payload: vec![0; 64], ..first.clone() });
        prop_assert_eq!(of(&parts[0]), of(&parts[1]), "all fragments go one way");
    }
}

/// A packet's header alone, as a packet without payload of no known protocol.
fn header_of(packet: &[u8]) -> Vec<u8> {
    packet[..20].to_vec()
}

#[test]
fn s14_12_nvgre_over_ipv4_byte_for_byte() {
    let frame = carried(&outer(Encap::Nvgre, false), &example());
    #[rustfmt::skip]
    let expected = [
        0x02, 0xaa, 0, 0, 0, 2, 0x02, 0xaa, 0, 0, 0, 1, 0x08, 0x00,
        0x45, 0, 0, 98, 0, 0, 0x40, 0, 64, 47, 0x6d, 0x08, 192, 168, 34, 8, 192, 168, 42, 12,
        0x20, 0x00, 0x65, 0x58, 0x00, 0x13, 0x89,
    ];
    assert_eq!(frame[..41], expected);
    assert_eq!(frame[41], entropy(&example(), 70) as u8);
    assert_eq!(frame[42..], example());
}

#[test]
fn s14_12_vxlan_over_ipv6_in_a_vlan_byte_for_byte() {
    let outer = Outer { vlan: Some(77), ..outer(Encap::Vxlan, true) };
    let frame = carried(&outer, &example());
    let flow = entropy(&example(), 70);
    let mut expected = vec![0x02, 0xaa, 0, 0, 0, 2, 0x02, 0xaa, 0, 0, 0, 1, 0x81, 0x00, 0, 77, 0x86, 0xdd];
    expected.extend((6 << 28 | flow & 0xf_ffff).to_be_bytes());
    expected.extend([0, 86, 17, 64]);
    expected.extend([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    expected.extend([0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    expected.extend((0xc000 | flow as u16 & 0x3fff).to_be_bytes());
    expected.extend([0x12, 0xb5, 0, 86, 0, 0, 0x08, 0, 0, 0, 0x00, 0x13, 0x89, 0]);
    expected.extend(example());
    assert_eq!(frame, expected);
    assert_eq!(frame.len() - example().len(), OUTER_MAX);
}

#[test]
fn s14_12_the_outer_header_sum_is_right_for_every_number() {
    // With this address carries go round twice for one of them.
    let template =
        Outer { from: ip("79.0.0.0"), ..outer(Encap::Nvgre, false) }.template().expect("a template");
    let mut header = [0; OUTER_MAX];
    for id in 0..=u16::MAX {
        template.emit(0, 1400, 0xff, id, &mut header).expect("a header");
        assert_right(&header_of(&header[14..]));
    }
}

#[test]
fn s14_13_a_guest_over_nvgre_has_1458_bytes_of_1500() {
    let left = |encap, v6| 1500 - overhead(encap, v6, false);
    assert_eq!(left(Encap::Nvgre, false), 1458);
    assert_eq!(left(Encap::Nvgre, true), 1438);
    assert_eq!(left(Encap::Vxlan, false), 1450);
    assert_eq!(left(Encap::Vxlan, true), 1430);
    assert_eq!(left(Encap::Rewrite, false), 1500);
    assert_eq!(overhead(Encap::Nvgre, false, true), 46);
    assert_eq!(overhead(Encap::Vxlan, true, true), OUTER_MAX);
    // The largest such packet fills the physical network's MTU, Ethernet header apart.
    let inner = left(Encap::Nvgre, false) + ETHERNET as usize;
    let frame = carried(&outer(Encap::Nvgre, false), &vec![0; inner]);
    assert_eq!(u16::from_be_bytes([frame[16], frame[17]]), 1500);
}

#[test]
fn s14_12_ip_rewrite_has_an_ethernet_header_of_its_own() {
    let outer = Outer { vlan: Some(9), ..outer(Encap::Rewrite, false) };
    let mut header = [0; OUTER_MAX];
    let len = outer.template().and_then(|t| t.emit(1, 1500, 0, 0, &mut header)).expect("a header");
    assert_eq!(header[..len], [0x02, 0xaa, 0, 0, 0, 2, 0x02, 0xaa, 0, 0, 0, 1, 0x81, 0, 0, 9, 0x08, 0]);
}

#[test]
fn s14_12_there_is_no_header_for_what_does_not_fit_one() {
    let v4 = outer(Encap::Nvgre, false);
    let v6 = outer(Encap::Nvgre, true);
    assert!(Outer { to: v6.to, ..v4 }.template().is_none());
    assert!(Outer { vsid: 1 << 24, ..v4 }.template().is_none());
    assert!(Outer { vlan: Some(4096), ..v4 }.template().is_none());
    let template = v4.template().expect("a template");
    let mut out = [0; OUTER_MAX];
    assert_eq!(template.emit(0, 65_535 - 28, 0, 0, &mut out), Some(42));
    assert_eq!(template.emit(0, 65_535 - 27, 0, 0, &mut out), None);
    assert_eq!(template.emit(0, usize::MAX, 0, 0, &mut out), None);
}

#[test]
fn s14_12_flows_are_spread() {
    let mut bits = 0_u32;
    let mut low = std::collections::HashSet::new();
    for port in 0..4096 {
        let frame = framed(&v4("10.0.0.1", "10.0.0.2", protocol::UDP, &udp(port, 53, b"")));
        let flow = entropy(&frame, frame.len() as u32);
        bits |= flow;
        low.insert(flow & 0x3fff);
    }
    assert_eq!(bits, u32::MAX);
    // 4,096 balls in 16,384 boxes fill 3,624 on average.
    assert!((3_450..3_800).contains(&low.len()), "{} source ports", low.len());
}

/// A valid frame with bytes changed at places that are counted from the tunnel's header.
fn with(encap: Encap, at: usize, bytes: &[u8]) -> Result<Tunnelled, Fault> {
    let mut frame = carried(&outer(encap, false), &example());
    frame[34 + at..34 + at + bytes.len()].copy_from_slice(bytes);
    found(&frame)
}

#[test]
fn s14_6_gre_is_nvgre_or_dropped() {
    for (flags, expected) in [
        (0x2000, true),
        (0xa000, false), // checksum
        (0x6000, false), // routing
        (0x3000, false), // sequence number
        (0x0000, false), // no key
        (0x2800, false), // strict source route
        (0x2400, false), // recursion control
        (0x2001, false), // version 1
        (0x2002, false),
        (0x2004, false),
        (0x2208, true), // reserved, to be ignored (RFC 2784, section 2.3.1)
        (0x23f8, true),
    ] {
        let result = with(Encap::Nvgre, 0, &u16::to_be_bytes(flags));
        assert_eq!(result.is_ok(), expected, "{flags:#06x}");
        assert!(expected || result == Err(Fault::GreHeader));
    }
}

#[test]
fn s14_6_a_reserved_virtual_subnet_is_dropped() {
    for encap in TUNNELS {
        for (vsid, valid) in
            [(0, false), (1, false), (4095, false), (4096, true), (0xff_fffe, true), (0xff_ffff, false)]
        {
            let at = if encap == Encap::Nvgre { 4 } else { 12 };
            let result = with(encap, at, &u32::to_be_bytes(vsid << 8 | 0x77)[..]);
            let expected = if valid { Ok(vsid) } else { Err(Fault::Vsid) };
            assert_eq!(result.map(|found| found.vsid), expected, "{encap:?} {vsid}");
        }
    }
}

#[test]
fn s14_12_a_vxlan_header_without_vni_is_dropped_and_reserved_bits_are_ignored() {
    assert_eq!(with(Encap::Vxlan, 8, &[0]), Err(Fault::VxlanHeader));
    assert_eq!(with(Encap::Vxlan, 8, &[0xf7]), Err(Fault::VxlanHeader));
    assert!(with(Encap::Vxlan, 8, &[0xff, 0xff, 0xff, 0xff]).is_ok());
    assert!(with(Encap::Vxlan, 15, &[0xff]).is_ok());
}

#[test]
fn s14_12_a_udp_checksum_is_taken_as_it_is() {
    // RFC 7348, section 5: zero must be accepted, another one need not be verified.
    assert!(with(Encap::Vxlan, 6, &[0, 0]).is_ok());
    assert!(with(Encap::Vxlan, 6, &[0x12, 0x34]).is_ok());
}

#[test]
fn h30_an_inner_frame_with_a_tag_is_dropped() {
    for tpid in [0x8100, 0x88a8] {
        for tci in [0, 1, 4095] {
            let inner = tagged(&[(tpid, tci)], 0x0800, &example()[14..]);
            for encap in TUNNELS {
                assert_eq!(found(&carried(&outer(encap, false), &inner)), Err(Fault::InnerTag));
            }
        }
    }
}

#[test]
fn h30_a_tunnel_in_a_tunnel_is_the_tenants_own() {
    for encap in TUNNELS {
        let tenants = carried(&outer(Encap::Vxlan, false), &example());
        let frame = carried(&Outer { vsid: 9000, ..outer(encap, true) }, &tenants);
        let found = found(&frame).expect("the outer one");
        assert_eq!((found.vsid, found.inner_len as usize), (9000, tenants.len()));
        assert_eq!(frame[found.inner..], tenants);
    }
}

#[test]
fn s14_13_fragments_of_tunnels_are_dropped() {
    let inner = [&[0x20, 0, 0x65, 0x58, 0, 0x13, 0x89, 0], &example()[..]].concat();
    let vxlan = udp(50_000, 4789, &[&[8, 0, 0, 0, 0, 0x13, 0x89, 0], &example()[..]].concat());
    for (protocol, payload) in [(47, inner), (protocol::UDP, vxlan)] {
        for (at, more) in [(0, true), (64, true), (64, false)] {
            let packet = complete(v4_piece("192.168.34.8", "192.168.42.12", protocol, at, more, &payload));
            assert_eq!(found(&framed(&packet)), Err(Fault::Fragment));
            let packet =
                v6("fd00::1", "fd00::2", protocol::FRAGMENT, &fragment(protocol, at, more, &payload));
            assert_eq!(found(&framed(&packet)), Err(Fault::Fragment));
        }
        // A single fragment that is all of the packet is none (RFC 6946).
        let packet = v6("fd00::1", "fd00::2", protocol::FRAGMENT, &fragment(protocol, 0, false, &payload));
        assert!(found(&framed(&packet)).is_ok());
    }
}

#[test]
fn s14_6_a_wrong_outer_header_is_dropped() {
    let good = carried(&outer(Encap::Nvgre, false), &example());
    let ipv4 = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        found(&frame)
    };
    assert_eq!(ipv4(&|f| f[24] ^= 1), Err(Fault::HeaderChecksum));
    assert_eq!(ipv4(&|f| f[22] ^= 1), Err(Fault::HeaderChecksum));
    let relength = |f: &mut Vec<u8>, len: u16| {
        f[16..18].copy_from_slice(&len.to_be_bytes());
        let header = complete(f[14..34].to_vec());
        f[14..34].copy_from_slice(&header);
    };
    let real = (good.len() - 14) as u16;
    assert!(ipv4(&|f| relength(f, real)).is_ok());
    assert_eq!(ipv4(&|f| relength(f, real + 1)), Err(Fault::Length));
    assert_eq!(ipv4(&|f| relength(f, 41)), Err(Fault::Length)); // no room for an inner header
    assert_eq!(ipv4(&|f| relength(f, 42)).map(|found| found.inner_len), Ok(14));
    assert_eq!(ipv4(&|f| relength(f, 19)), Err(Fault::Length));
    assert_eq!(ipv4(&|f| relength(f, 0)), Err(Fault::Length));

    let mut vxlan = carried(&outer(Encap::Vxlan, true), &example());
    assert!(found(&vxlan).is_ok());
    for wrong in [85_u16, 87, 8, 0] {
        vxlan[58..60].copy_from_slice(&wrong.to_be_bytes());
        assert_eq!(found(&vxlan), Err(Fault::Length), "UDP length {wrong}");
    }
    let mut v6 = carried(&outer(Encap::Nvgre, true), &example());
    v6[18..20].fill(0); // a jumbogram's length (RFC 2675)
    assert_eq!(found(&v6), Err(Fault::Length));
}

#[test]
fn s14_6_outer_extension_headers_are_read_and_source_routes_refused() {
    let gre = [&[0x20, 0, 0x65, 0x58, 0, 0x13, 0x89, 0], &example()[..]].concat();
    let options = extension(protocol::DESTINATION, 47, 2, &gre);
    let frame = framed(&v6("fd00::1", "fd00::2", protocol::DESTINATION, &options));
    assert_eq!(found(&frame).map(|found| (found.vsid, found.inner)), Ok((5001, 14 + 40 + 16 + 8)));
    let mut routed = extension(protocol::ROUTING, 47, 1, &gre);
    routed[3] = 1;
    let frame = framed(&v6("fd00::1", "fd00::2", protocol::ROUTING, &routed));
    assert_eq!(found(&frame), Err(Fault::SourceRouted));
    // An inner header that cannot be seen.
    let long = extension(protocol::DESTINATION, 47, 16, &gre);
    let frame = framed(&v6("fd00::1", "fd00::2", protocol::DESTINATION, &long));
    let opened = open(&frame[..vswitch::HEAD_LEN], frame.len() as u32).expect("GRE");
    assert_eq!(opened.map_err(|malformed| malformed.fault), Err(Fault::CutOff));
}

#[test]
fn s14_8_what_is_no_tunnel_is_left_to_the_switch() {
    let gre_ip = [&[0x20, 0, 0x08, 0x00, 0, 0x13, 0x89, 0], &example()[14..]].concat();
    let carried = carried(&outer(Encap::Nvgre, false), &example());
    let twice = [&carried[..12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], &carried[12..]].concat();
    for frame in [
        example(),
        framed(&complete(v4("10.0.0.1", "10.0.0.2", 47, &gre_ip))),
        framed(&complete(v4("10.0.0.1", "10.0.0.2", protocol::UDP, &udp(4789, 4790, b"to another port")))),
        framed(&complete(v4("10.0.0.1", "10.0.0.2", protocol::TCP, &tcp(4789, 4789, 0x10, b"TCP")))),
        tagged(&[], 0x6558, b"no IP"),
        twice,
        vec![0; 13],
    ] {
        assert_eq!(open(&frame, frame.len() as u32), None);
    }
}

#[test]
fn s14_6_an_error_says_whose_it_is() {
    let mut frame = carried(&Outer { vlan: Some(8), ..outer(Encap::Nvgre, false) }, &example());
    frame[38] |= 0x80;
    let malformed = open(&frame, frame.len() as u32).expect("GRE").expect_err("a checksum");
    assert_eq!(malformed.dst, IpAddr::from([192, 168, 42, 12]));
    assert_eq!(malformed.src, IpAddr::from([192, 168, 34, 8]));
    assert_eq!((malformed.mac, malformed.vlan), (stranger(2), Some(8)));
    assert_ne!(malformed.mac, mac_of(2));
}
