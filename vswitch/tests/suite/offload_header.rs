//! The virtio-net header: what holds, what is refused, and what a receiver is told.

use vswitch::frame::offload::{
    F_DATA_VALID, F_NEEDS_CSUM, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, GuestOffloads, IpVersion,
    NetHeader, Offload, OffloadError, Treatment,
};
use vswitch::trace::DropReason;

use crate::segmentation::TcpFrame;

const ALL: GuestOffloads = GuestOffloads::ALL;
const NONE: GuestOffloads = GuestOffloads { csum: false, tso4: false, tso6: false, ecn: false };

fn v4(payload: usize) -> TcpFrame {
    TcpFrame { payload: vec![7; payload], ..TcpFrame::default() }
}

fn v6(payload: usize) -> TcpFrame {
    TcpFrame { version: Some(IpVersion::V6), ..v4(payload) }
}

/// An IPv4 frame of any protocol with 100 bytes behind the IP header.
fn v4_protocol(protocol: u8) -> Vec<u8> {
    let mut bytes = v4(80).build();
    bytes[14 + 9] = protocol;
    bytes
}

fn csum(start: u16, offset: u16) -> NetHeader {
    NetHeader { flags: F_NEEDS_CSUM, csum_start: start, csum_offset: offset, ..NetHeader::default() }
}

fn tso(gso_type: u8, mss: u16, start: u16) -> NetHeader {
    NetHeader { gso_type, gso_size: mss, ..csum(start, 16) }
}

fn check(header: NetHeader, frame: &[u8], accepted: GuestOffloads) -> Result<Offload, OffloadError> {
    header.check(frame, frame.len() as u32, accepted)
}

#[test]
fn both_forms_read_what_they_write() {
    let bytes = [1, 0x84, 0x36, 0, 0xa8, 5, 0x22, 0, 0x10, 0, 3, 0];
    let header = NetHeader {
        flags: 1,
        gso_type: 0x84,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 3,
    };
    assert_eq!(NetHeader::parse(&bytes), header);
    assert_eq!(header.emit(), bytes);
    let short = [1, 0x84, 0x36, 0, 0xa8, 5, 0x22, 0, 0x10, 0];
    assert_eq!(NetHeader::parse_legacy(&short), NetHeader { num_buffers: 0, ..header });
    assert_eq!(header.emit_legacy(), short);
}

#[test]
fn a_header_that_asks_for_nothing_holds_for_any_frame() {
    let lies = NetHeader {
        hdr_len: 9999,
        gso_size: 1,
        csum_start: 65_535,
        csum_offset: 65_535,
        ..NetHeader::default()
    };
    for frame in [&[][..], &[0; 14], &v4(10).build()] {
        assert_eq!(check(lies, frame, NONE), Ok(Offload::None));
        // Said by devices to drivers; said by a driver it is no request either.
        assert_eq!(check(NetHeader { flags: F_DATA_VALID, ..lies }, frame, NONE), Ok(Offload::None));
    }
}

#[test]
fn checksums_of_tcp_udp_and_icmpv6_hold() {
    assert_eq!(check(csum(34, 16), &v4(10).build(), ALL), Ok(Offload::Checksum { start: 34, offset: 16 }));
    assert_eq!(check(csum(34, 6), &v4_protocol(17), ALL), Ok(Offload::Checksum { start: 34, offset: 6 }));
    let mut icmp = v6(10).build();
    icmp[14 + 6] = 58;
    assert_eq!(check(csum(54, 2), &icmp, ALL), Ok(Offload::Checksum { start: 54, offset: 2 }));
    let tagged = TcpFrame { vlans: vec![1, 2], ..v4(10) }.build();
    assert_eq!(check(csum(42, 16), &tagged, ALL), Ok(Offload::Checksum { start: 42, offset: 16 }));
}

#[test]
fn checksums_of_a_packet_inside_a_tunnel_hold() {
    // VXLAN in UDP, GRE, IPv4 in IPv4: the inner transport header is further back.
    for protocol in [17, 47, 4] {
        let inner = Offload::Checksum { start: 84, offset: 16 };
        assert_eq!(check(csum(84, 16), &v4_protocol(protocol), ALL), Ok(inner));
    }
}

#[test]
fn h14_a_checksum_elsewhere_is_refused() {
    let tcp = v4(10).build();
    let refused = |frame: &[u8], start, offset| {
        assert_eq!(
            check(csum(start, offset), frame, ALL),
            Err(OffloadError::ChecksumPlace { start, offset })
        );
    };
    for (start, offset) in [(0, 12), (6, 0), (12, 0), (14, 10), (14, 12), (26, 0), (26, 8)] {
        refused(&tcp, start, offset); // inside the Ethernet and IP headers: would rewrite an address
    }
    for (start, offset) in [(34, 0), (34, 2), (34, 4), (34, 6), (34, 18), (36, 14), (54, 2)] {
        refused(&tcp, start, offset); // would rewrite a port or the sequence number
    }
    for (start, offset) in [(33, 17), (34, 15), (35, 16), (34, 17)] {
        refused(&tcp, start, offset); // odd
    }
    for (start, offset) in [(34, 65_534), (65_534, 16), (62, 2), (64, 0), (65_534, 65_534)] {
        refused(&tcp, start, offset); // beyond the frame
    }
    for (start, offset) in [(43, 17), (43, 15), (42, 15), (85, 16)] {
        refused(&v4_protocol(17), start, offset); // odd, in a tunnel
    }
    refused(&v4_protocol(17), 34, 0); // the UDP source port
    refused(&v4_protocol(47), 34, 2); // the GRE type
    refused(&v4_protocol(132), 34, 0);
}

#[test]
fn h14_a_checksum_of_an_unknown_protocol_is_refused() {
    let mut arp = v4(10).build();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(check(csum(34, 16), &arp, ALL), Err(OffloadError::NotIp { ethertype: 0x0806 }));
    let three_tags = TcpFrame { vlans: vec![1, 2, 3], ..v4(10) }.build();
    assert_eq!(check(csum(46, 16), &three_tags, ALL), Err(OffloadError::NotIp { ethertype: 0x8100 }));
}

#[test]
fn what_was_not_negotiated_is_refused() {
    let refused = |header, frame: &TcpFrame, accepted| {
        let result = check(header, &frame.build(), accepted);
        assert!(matches!(result, Err(OffloadError::NotNegotiated { .. })), "{result:?}");
    };
    refused(csum(34, 16), &v4(10), NONE);
    refused(tso(GSO_TCPV4, 1448, 34), &v4(9000), NONE);
    refused(tso(GSO_TCPV4, 1448, 34), &v4(9000), GuestOffloads { tso4: false, ..ALL });
    refused(tso(GSO_TCPV6, 1448, 54), &v6(9000), GuestOffloads { tso6: false, ..ALL });
    refused(tso(GSO_TCPV4 | GSO_ECN, 1448, 34), &v4(9000), GuestOffloads { ecn: false, ..ALL });
}

#[test]
fn tso_of_tcp_holds_and_the_header_length_is_our_own_finding() {
    for hdr_len in [0, 1, 54, 65_535] {
        let header = NetHeader { hdr_len, ..tso(GSO_TCPV4 | GSO_ECN, 1448, 34) };
        let expected = Offload::Tcp {
            version: IpVersion::V4,
            ecn: true,
            header_len: 54,
            mss: 1448,
            network_start: 14,
            csum_start: 34,
        };
        assert_eq!(check(header, &v4(9000).build(), ALL), Ok(expected), "hdr_len {hdr_len} is a hint");
        assert_eq!(expected.header(2).hdr_len, 54);
    }
    let frame = TcpFrame { vlans: vec![5, 6], extensions: vec![0, 60], options: 12, ..v6(9000) }.build();
    let expected = Offload::Tcp {
        version: IpVersion::V6,
        ecn: false,
        header_len: 22 + 40 + 16 + 32,
        mss: 1400,
        network_start: 22,
        csum_start: 78,
    };
    assert_eq!(check(tso(GSO_TCPV6, 1400, 78), &frame, ALL), Ok(expected));
}

#[test]
fn h15_tso_that_contradicts_itself_or_the_frame_is_refused() {
    let frame = v4(9000).build();
    let refused = |header: NetHeader, frame: &[u8], why: fn(&OffloadError) -> bool| {
        let error = check(header, frame, ALL).expect_err("refused");
        assert!(why(&error), "{error}");
        assert_eq!(DropReason::from(error), DropReason::BadOffload);
    };
    let good = tso(GSO_TCPV4, 1448, 34);
    assert!(check(good, &frame, ALL).is_ok());
    refused(NetHeader { flags: 0, ..good }, &frame, |e| matches!(e, OffloadError::TsoWithoutChecksum { .. }));
    for gso_type in [GSO_ECN, GSO_UDP, GSO_UDP_L4, 2, 6, 0x7f, 0xff, GSO_UDP | GSO_ECN] {
        refused(NetHeader { gso_type, ..good }, &frame, |e| matches!(e, OffloadError::GsoType { .. }));
    }
    refused(NetHeader { gso_type: GSO_TCPV6, ..good }, &frame, |e| matches!(e, OffloadError::NotTcp { .. }));
    let udp = NetHeader { csum_offset: 6, ..good };
    refused(udp, &v4_protocol(17), |e| matches!(e, OffloadError::NotTcp { protocol: 17, .. }));
    for gso_size in [0, 1, 7] {
        refused(NetHeader { gso_size, ..good }, &frame, |e| matches!(e, OffloadError::Mss { .. }));
    }
    refused(good, &frame[..53], |e| matches!(e, OffloadError::CutOff));
    refused(good, &frame[..30], |e| matches!(e, OffloadError::CutOff));
    for doff in [0x00, 0x40, 0xf0] {
        let mut lying = v4(2).build();
        lying[34 + 12] = doff;
        refused(good, &lying, |e| matches!(e, OffloadError::CutOff));
    }
    for flags in [0x02, 0x12, 0x04] {
        let handshake = TcpFrame { flags, ..v4(9000) }.build();
        refused(good, &handshake, |e| matches!(e, OffloadError::TcpFlags { .. }));
    }
}

#[test]
fn h15_offloads_of_fragments_are_refused() {
    for fragment in [[0x20, 0], [0, 1], [0x1f, 0xff]] {
        let mut frame = v4(9000).build();
        frame[14 + 6..14 + 8].copy_from_slice(&fragment);
        assert_eq!(check(tso(GSO_TCPV4, 1448, 34), &frame, ALL), Err(OffloadError::Fragment));
        assert_eq!(check(csum(34, 16), &frame, ALL), Err(OffloadError::Fragment));
    }
    let mut frame = v4(9000).build();
    frame[14 + 6] = 0x40; // do not fragment
    assert!(check(csum(34, 16), &frame, ALL).is_ok());
    let v6 = TcpFrame { extensions: vec![44], ..v6(9000) }.build();
    assert_eq!(check(tso(GSO_TCPV6, 1448, 62), &v6, ALL), Err(OffloadError::Fragment));
}

#[test]
fn h15_headers_must_be_within_what_policy_looks_at() {
    let frame = TcpFrame { extensions: vec![60; 7], options: 40, ..v6(9000) }.build();
    let header = tso(GSO_TCPV6, 1448, 14 + 40 + 56);
    assert!(header.check(&frame[..192], frame.len() as u32, ALL).is_ok());
    assert_eq!(header.check(&frame[..130], frame.len() as u32, ALL), Err(OffloadError::CutOff));
    let endless = TcpFrame { extensions: vec![60; 9], ..v6(100) }.build();
    assert_eq!(check(csum(14 + 40 + 72, 16), &endless, ALL), Err(OffloadError::CutOff));
    // The head is a copy of fixed size; only the frame's own bytes count.
    let short = v4(0).build();
    let mut padded = short.clone();
    padded.resize(192, 0);
    assert_eq!(tso(GSO_TCPV4, 1448, 34).check(&padded, 53, ALL), Err(OffloadError::CutOff));
}

#[test]
fn h16_one_frame_becomes_a_bounded_number_of_packets() {
    let frame = v4(16_384).build();
    assert!(check(tso(GSO_TCPV4, 8, 34), &frame, ALL).is_ok());
    let frame = v4(16_385).build();
    let error = check(tso(GSO_TCPV4, 8, 34), &frame, ALL).expect_err("2049 segments");
    assert_eq!(error, OffloadError::Mss { mss: 8, frame_len: 16_439 });
    // Linux never sends segments with less than 48 bytes of TCP options and payload.
    assert!(check(tso(GSO_TCPV4, 36, 34), &v4(65_000).build(), ALL).is_ok());
}

#[test]
fn h15_a_segment_is_no_larger_than_an_ip_packet() {
    let frame = v4(65_500).build();
    let refused = check(tso(GSO_TCPV4, 65_535, 34), &frame, ALL);
    assert!(matches!(refused, Err(OffloadError::Mss { .. })), "{refused:?}");
    assert!(check(tso(GSO_TCPV4, 65_495, 34), &frame, ALL).is_ok());
    assert!(check(tso(GSO_TCPV4, 65_535, 34), &v4(1000).build(), ALL).is_ok(), "one short segment");
}

#[test]
fn a_tso_frame_counts_as_the_packets_it_becomes() {
    let offload = |mss| check(tso(GSO_TCPV4, mss, 34), &v4(4000).build(), ALL).expect("valid");
    assert_eq!(offload(1000).wire(4054), (4, 4054 + 3 * 54));
    assert_eq!(offload(999).wire(4054), (5, 4054 + 4 * 54));
    assert_eq!(offload(4000).wire(4054), (1, 4054));
    assert_eq!(offload(4000).wire(54), (1, 54));
    assert_eq!(offload(1000).largest_packet(4054), 1054);
    assert_eq!(offload(1000).largest_packet(500), 500);
    assert_eq!(Offload::None.wire(60), (1, 60));
    assert_eq!(Offload::Checksum { start: 34, offset: 6 }.wire(1514), (1, 1514));
}

#[test]
fn a_receiver_gets_what_it_negotiated() {
    let sum = Offload::Checksum { start: 34, offset: 6 };
    let only_csum = GuestOffloads { csum: true, ..NONE };
    assert_eq!(Offload::None.treatment(NONE), Treatment::Pass);
    assert_eq!(sum.treatment(only_csum), Treatment::Pass);
    assert_eq!(sum.treatment(NONE), Treatment::Complete);
    for (gso_type, start, frame) in [(GSO_TCPV4, 34, v4(9000)), (GSO_TCPV6, 54, v6(9000))] {
        let v4 = gso_type == GSO_TCPV4;
        let plain = check(tso(gso_type, 1448, start), &frame.build(), ALL).expect("valid");
        let ecn = check(tso(gso_type | GSO_ECN, 1448, start), &frame.build(), ALL).expect("valid");
        let own = GuestOffloads { csum: true, tso4: v4, tso6: !v4, ecn: false };
        assert_eq!(plain.treatment(own), Treatment::Pass);
        assert_eq!(ecn.treatment(own), Treatment::Segment { partial: true });
        assert_eq!(ecn.treatment(GuestOffloads { ecn: true, ..own }), Treatment::Pass);
        let other = GuestOffloads { tso4: !v4, tso6: v4, ..own };
        assert_eq!(plain.treatment(other), Treatment::Segment { partial: true });
        assert_eq!(plain.treatment(NONE), Treatment::Segment { partial: false });
        assert_eq!(
            plain.treatment(GuestOffloads { csum: false, ..ALL }),
            Treatment::Segment { partial: false }
        );
    }
}

#[test]
fn the_receivers_header_is_made_from_what_holds() {
    let sent = NetHeader { flags: 0xff, hdr_len: 9, num_buffers: 77, ..tso(GSO_TCPV4, 1448, 34) };
    let offload = check(sent, &v4(9000).build(), ALL).expect("valid");
    let received = NetHeader { flags: F_NEEDS_CSUM, hdr_len: 54, num_buffers: 3, ..tso(GSO_TCPV4, 1448, 34) };
    assert_eq!(offload.header(3), received);
    let sum = Offload::Checksum { start: 34, offset: 6 };
    assert_eq!(sum.header(1), NetHeader { num_buffers: 1, ..csum(34, 6) });
    assert_eq!(Offload::None.header(1), NetHeader { num_buffers: 1, ..NetHeader::default() });
}
