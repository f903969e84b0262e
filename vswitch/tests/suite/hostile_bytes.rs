//! Bytes and numbers that mean no good: nothing may panic, and what is accepted must be in bounds.

use vswitch::frame::checksum::complete_checksum;
use vswitch::frame::ethernet::Ethernet;
use vswitch::frame::ipv4::Ipv4;
use vswitch::frame::ipv6::Ipv6;
use vswitch::frame::offload::{
    GSO_TCPV4, GSO_TCPV6, GuestOffloads, IpVersion, MAX_SEGMENTS, NetHeader, Offload,
};
use vswitch::frame::segment::Segmenter;
use vswitch::frame::tcp::Tcp;

use crate::support::Random;

/// Random bytes that often look like the beginning of a frame.
fn lookalike(random: &mut Random) -> Vec<u8> {
    let len = random.below(220);
    let mut bytes = random.bytes(len);
    let mut put = |at: usize, values: &[u8]| {
        if let Some(slot) = bytes.get_mut(at..at + values.len()) {
            slot.copy_from_slice(values);
        }
    };
    let tags = random.below(4);
    for tag in 0..tags {
        put(12 + 4 * tag, if random.once_in(2) { &[0x81, 0] } else { &[0x88, 0xa8] });
    }
    let network = 14 + 4 * tags;
    if random.once_in(2) {
        put(network - 2, &[0x08, 0]);
        put(network, &[0x40 | (random.next() as u8 & 0x0f)]);
        put(network + 6, &[0x40 * (random.next() as u8 & 1), 0]);
        put(network + 9, &[[6, 17, 47, 1][random.below(4)]]);
        put(network + 32, &[(random.next() as u8) & 0xf0]);
    } else {
        put(network - 2, &[0x86, 0xdd]);
        put(network, &[0x60]);
        put(network + 6, &[[0, 6, 17, 43, 44, 51, 58, 60][random.below(8)]]);
        for at in [40, 48, 56, 64, 72, 80, 88] {
            if random.once_in(2) {
                put(network + at, &[[0, 6, 17, 43, 60][random.below(5)], random.below(2) as u8]);
            }
        }
    }
    bytes
}

/// Where the transport header is, and the kind of TSO there may be.
fn transport(head: &[u8]) -> Option<(usize, u8)> {
    let network = Ethernet::parse(head)?.header_len();
    let packet = head.get(network..)?;
    let v4 = Ipv4::parse(packet).map(|ip| (network + ip.header_len(), GSO_TCPV4));
    v4.or_else(|| Ipv6::parse(packet).map(|ip| (network + ip.upper_offset(), GSO_TCPV6)))
}

fn small_or_wild(random: &mut Random) -> u16 {
    match random.below(4) {
        0 => random.next() as u16,
        1 => [0, 1, 8, 9, 48, 1448, 65_534, 65_535][random.below(8)],
        _ => random.below(120) as u16,
    }
}

#[test]
fn h14_h15_no_header_of_lies_gets_past_the_check_out_of_bounds() {
    let mut random = Random(21);
    let (mut accepted, mut tso) = (0, 0);
    for _ in 0..600_000 {
        let mut head = lookalike(&mut random);
        let extra = if random.once_in(2) { 0 } else { random.below(70_000) as u32 };
        let frame_len = head.len() as u32 + extra;
        let (start, gso_type) = transport(&head).unwrap_or_default();
        if random.once_in(2) && head.len() > start + 14 {
            head[start + 12] = 0x50 + 0x10 * random.below(4) as u8;
            head[start + 13] &= !0x06;
        }
        let header = NetHeader {
            flags: random.below(4) as u8,
            gso_type: if random.once_in(2) {
                gso_type
            } else {
                [0, 0, 0, 0, 0x81, 0x84, 3, 0x80][random.below(8)]
            },
            hdr_len: small_or_wild(&mut random),
            gso_size: small_or_wild(&mut random),
            csum_start: if random.once_in(4) { small_or_wild(&mut random) } else { start as u16 },
            csum_offset: [16, 16, 16, 6, 2, 0, 1, 65_535][random.below(8)],
            num_buffers: 0,
        };
        let Ok(offload) = header.check(&head, frame_len, GuestOffloads::ALL) else { continue };
        let (packets, bytes) = offload.wire(frame_len);
        assert!(packets <= u64::from(MAX_SEGMENTS));
        assert!(bytes >= u64::from(frame_len));
        match offload {
            Offload::None => assert!(header.flags & 1 == 0 && header.gso_type == 0),
            Offload::Checksum { start, offset } => {
                accepted += 1;
                assert!(u32::from(start) + u32::from(offset) + 2 <= frame_len);
                assert!(start >= 14 + 20);
                let mut frame = head.clone();
                frame.resize(frame_len as usize, 0);
                let upto = usize::from(start) + usize::from(offset);
                assert!(complete_checksum(&mut frame, start, offset));
                assert_eq!(frame[..upto.min(head.len())], head[..upto.min(head.len())]);
            }
            Offload::Tcp { header_len, .. } => {
                tso += 1;
                assert!(usize::from(header_len) <= head.len());
                let mut frame = head.clone();
                frame.resize(frame_len as usize, 0);
                segment_all(&frame, &offload, packets as usize);
            }
        }
    }
    assert!(accepted > 1000 && tso > 1000, "the test reaches what it is about: {accepted}, {tso}");
}

fn segment_all(frame: &[u8], offload: &Offload, expected: usize) {
    let mut segmenter = Segmenter::new(frame, offload).expect("what the check accepts can be segmented");
    assert_eq!(segmenter.count(), expected);
    let mut out = vec![0; segmenter.max_segment()];
    let mut count = 0;
    while let Some(len) = segmenter.next(&mut out) {
        assert!(len <= out.len());
        count += 1;
    }
    assert_eq!(count, expected);
}

#[test]
fn an_offload_that_is_not_the_frames_own_is_refused_or_bounded() {
    let mut random = Random(22);
    for _ in 0..50_000 {
        let frame = lookalike(&mut random);
        let offload = Offload::Tcp {
            version: if random.once_in(2) { IpVersion::V4 } else { IpVersion::V6 },
            ecn: false,
            header_len: small_or_wild(&mut random),
            mss: small_or_wild(&mut random),
            network_start: small_or_wild(&mut random),
            csum_start: small_or_wild(&mut random),
        };
        if let Ok(mut segmenter) = Segmenter::new(&frame, &offload) {
            let mut out = vec![0; segmenter.max_segment()];
            let expected = segmenter.count();
            assert!(segmenter.next(&mut []).is_none(), "no room, no segment");
            let mut count = 0;
            while segmenter.next(&mut out).is_some() {
                count += 1;
            }
            assert_eq!(count, expected);
        }
    }
}

#[test]
fn parsers_take_any_bytes() {
    let mut random = Random(23);
    for _ in 0..100_000 {
        let bytes = lookalike(&mut random);
        let cut = &bytes[random.below(bytes.len() + 1)..];
        for input in [&bytes[..], cut] {
            if let Some(ether) = Ethernet::parse(input) {
                let _ = (
                    ether.dst(),
                    ether.src(),
                    ether.ethertype(),
                    ether.vlan_id(),
                    ether.tci(0),
                    ether.tci(9),
                );
                assert!(ether.header_len() <= input.len());
            }
            if let Some(ip) = Ipv4::parse(input) {
                let _ = (ip.total_len(), ip.id(), ip.protocol(), ip.is_fragment(), ip.addresses());
                assert!((20..=60).contains(&ip.header_len()) && ip.header_len() <= input.len());
            }
            if let Some(ip) = Ipv6::parse(input) {
                let _ = (ip.payload_len(), ip.protocol(), ip.is_fragment(), ip.is_routed(), ip.addresses());
                assert!(ip.upper_offset() >= 40 && ip.upper_offset() <= input.len());
            }
            if let Some(tcp) = Tcp::parse(input) {
                let _ = (tcp.sequence(), tcp.flags());
                assert!((20..=60).contains(&tcp.header_len()) && tcp.header_len() <= input.len());
            }
        }
    }
}
