//! Guests whose offload headers lie about their frames.

use turnpike_tests::features::{CSUM, HOST_TSO4, HOST_TSO6, MRG_RXBUF, RECEIVE_OFFLOADS, SEND_OFFLOADS};
use turnpike_tests::frame::{ext, pattern, tcp};
use turnpike_tests::net_hdr::{self, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, NEEDS_CSUM};
use turnpike_tests::{Arena, Frame, Guest, NetHdr, Options, PATIENCE, Packet, SILENCE, eventually};

/// What became of a lie: frames that the two witnesses (one with all receive offloads, one with none) got to see.
struct Seen {
    knowing: Vec<Vec<u8>>,
    plain: Vec<Vec<u8>>,
}

/// The liar sends each frame to both witnesses. Whatever the switch does with it, it does it within bounds: it drops and
/// counts, or it delivers frames no longer than what was sent and no more than `most` of them.
fn lies(options: &Options, most: usize, make: impl Fn(&Frame) -> Vec<(NetHdr, Vec<u8>)>) -> Seen {
    let mut seen = Seen { knowing: Vec::new(), plain: Vec::new() };
    Arena::run(|arena| {
        let mut liar = arena.guest(options.clone());
        let knowing = Options::plain().with(RECEIVE_OFFLOADS | MRG_RXBUF).ring_size(1024);
        let mut knowing = Guest::attach(&arena.switch, "witness", knowing);
        let mut plain = Guest::attach(&arena.switch, "witness2", Options::plain().ring_size(1024));
        for (witness, list) in [(&mut knowing, &mut seen.knowing), (&mut plain, &mut seen.plain)] {
            for (header, frame) in make(&Frame::between(&liar, witness)) {
                liar.send_with(header, &frame);
                assert!(liar.flush(PATIENCE), "the switch does not finish with {header:?}");
                let got: Vec<_> = std::iter::from_fn(|| witness.receive(SILENCE / 3)).collect();
                assert!(got.len() <= most, "{} frames from one: {header:?}", got.len());
                for received in got {
                    assert!(received.frame.len() <= frame.len(), "longer than what was sent: {header:?}");
                    check_header(&received.header, &received.frame);
                    list.push(received.frame);
                }
            }
        }
        drop((knowing, plain));
    });
    seen
}

/// What a receiver relies on: offsets inside the frame, and segments that can be made.
fn check_header(header: &NetHdr, frame: &[u8]) {
    if header.needs_csum() {
        let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
        assert!(end <= frame.len() && header.csum_start >= 14, "{header:?} on {} bytes", frame.len());
    }
    if header.gso_type & !GSO_ECN != net_hdr::GSO_NONE {
        assert!(header.needs_csum() && header.gso_size > 0, "{header:?}");
        assert!(usize::from(header.hdr_len) <= frame.len(), "{header:?} on {} bytes", frame.len());
    }
}

fn all() -> Options {
    Options::plain().with(SEND_OFFLOADS)
}

#[test]
fn h14_a_checksum_outside_the_frame_is_never_written() {
    lies(&all(), 1, |base| {
        let frame = base.clone().ipv4().udp(1, 2).payload(&[1; 100]).build();
        let len = frame.len() as u16;
        [
            (len, 0),
            (len - 1, 0),
            (len - 2, 1),
            (0, 65_535),
            (65_535, 65_535),
            (34, 65_535),
            (34, len),
            (65_535, 0),
        ]
        .map(|(csum_start, csum_offset)| {
            (NetHdr { flags: NEEDS_CSUM, csum_start, csum_offset, ..NetHdr::default() }, frame.clone())
        })
        .to_vec()
    });
}

#[test]
fn h14_a_checksum_inside_lower_headers_cannot_forge_them() {
    let seen = lies(&all(), 1, |base| {
        let frame = base.clone().ipv4().udp(1, 2).payload(&[1; 100]).build();
        // The "checksum" would land on the addresses the switch judged by, or on the IP header.
        [(0, 0), (0, 6), (6, 0), (6, 5), (12, 0), (14, 2), (14, 12), (1, 5)]
            .map(|(csum_start, csum_offset)| {
                (NetHdr { flags: NEEDS_CSUM, csum_start, csum_offset, ..NetHdr::default() }, frame.clone())
            })
            .to_vec()
    });
    for frame in seen.plain.iter().chain(&seen.knowing) {
        let packet = Packet::of(frame);
        assert_eq!((packet.ethertype, packet.protocol), (0x0800, Some(17)), "a lower header was changed");
        assert_eq!(packet.src[0] & 1, 0);
    }
}

#[test]
fn h14_a_checksum_of_an_unknown_protocol_does_no_harm() {
    lies(&all(), 1, |base| {
        let kinds = [
            base.clone().payload(&[2; 60]),
            base.clone().ipv4().protocol(132).payload(&[2; 60]),
            base.clone().ipv6().protocol(58).payload(&[2; 60]),
            base.clone().ipv4().ip_id(1, 0x2000).udp(1, 2).payload(&[2; 60]),
            base.clone().ipv4().ip_id(1, 0x0010).protocol(17).payload(&[2; 60]),
        ];
        kinds
            .map(|kind| {
                (
                    NetHdr { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..NetHdr::default() },
                    kind.build(),
                )
            })
            .to_vec()
    });
}

#[test]
fn h14_a_header_of_ones_is_dropped() {
    let seen = lies(&all(), 0, |base| {
        let header = NetHdr::from_bytes(&[0xff; 12]);
        vec![(header, base.clone().ipv4().tcp(1, 2).payload(&[1; 500]).build())]
    });
    assert!(seen.knowing.is_empty() && seen.plain.is_empty());
}

#[test]
fn h15_an_offload_that_was_not_negotiated_is_dropped() {
    let seen = lies(&Options::plain(), 0, |base| {
        let large = |frame: Frame| frame.tcp(1, 2).payload(&pattern(5000, 1)).build_large(1000);
        vec![
            base.clone().ipv4().udp(1, 2).payload(&[1; 100]).build_partial(),
            large(base.clone().ipv4()),
            large(base.clone().ipv6()),
        ]
    });
    assert!(seen.knowing.is_empty() && seen.plain.is_empty());
    lies(&Options::plain().with(CSUM | HOST_TSO4), 0, |base| {
        vec![base.clone().ipv6().tcp(1, 2).payload(&pattern(5000, 1)).build_large(1000)]
    });
    lies(&Options::plain().with(CSUM | HOST_TSO4 | HOST_TSO6), 0, |base| {
        let flags = tcp::ACK | tcp::CWR;
        let large =
            base.clone().ipv4().tcp(1, 2).tcp_seq(1, flags).payload(&pattern(5000, 1)).build_large(1000);
        assert_ne!(large.0.gso_type & GSO_ECN, 0);
        vec![large]
    });
}

#[test]
fn h15_segment_kinds_that_are_not_offered_are_dropped() {
    let seen = lies(&all(), 0, |base| {
        [GSO_UDP, GSO_UDP_L4, 2, 6, 0x7f, GSO_ECN, GSO_ECN | GSO_UDP]
            .map(|gso_type| {
                let (header, frame) =
                    base.clone().ipv4().udp(1, 2).payload(&pattern(5000, 1)).build_partial();
                (NetHdr { gso_type, gso_size: 1000, hdr_len: 42, ..header }, frame)
            })
            .to_vec()
    });
    assert!(seen.knowing.is_empty() && seen.plain.is_empty());
}

#[test]
fn h15_segment_sizes_are_bounded() {
    // One byte per segment would make 60,000 frames of one: the amplification is capped.
    lies(&all(), 1200, |base| {
        [0, 1, 2, 7, 65_535]
            .map(|gso_size| {
                let (header, frame) =
                    base.clone().ipv4().tcp(1, 2).payload(&pattern(60_000, 1)).build_large(1000);
                (NetHdr { gso_size, ..header }, frame)
            })
            .to_vec()
    });
}

#[test]
fn h15_a_header_length_that_lies_changes_nothing() {
    let seen = lies(&all(), 5, |base| {
        [0, 1, 14, 53, 55, 100, 5000, 65_535]
            .map(|hdr_len| {
                let (header, frame) =
                    base.clone().ipv4().tcp(1, 2).payload(&pattern(5000, 1)).build_large(1000);
                (NetHdr { hdr_len, ..header }, frame)
            })
            .to_vec()
    });
    for frame in &seen.plain {
        Packet::of(frame).verify().unwrap();
    }
}

#[test]
fn h15_a_large_frame_that_is_not_what_it_says_is_dropped() {
    let seen = lies(&all(), 0, |base| {
        let payload = pattern(5000, 1);
        let large = |frame: Frame| frame.tcp(1, 2).payload(&payload).build_large(1000);
        let (v4, frame4) = large(base.clone().ipv4());
        let (v6, frame6) = large(base.clone().ipv6());
        let (udp, frame_udp) = base.clone().ipv4().udp(1, 2).payload(&payload).build_partial();
        let segmented = |gso_type| NetHdr { gso_type, gso_size: 1000, hdr_len: 54, ..udp };
        let mut cut = frame4.clone();
        cut.truncate(40); // ends inside the TCP header
        let mut long_header = frame4.clone();
        long_header[46] = 0xf0; // a TCP header of 60 bytes in a segment whose checksum says otherwise is legal; 14 words …
        long_header.truncate(80); // … are not there
        vec![
            (NetHdr { gso_type: GSO_TCPV6, ..v4 }, frame4.clone()),
            (NetHdr { gso_type: GSO_TCPV4, ..v6 }, frame6),
            (segmented(GSO_TCPV4), frame_udp),
            (NetHdr { flags: 0, ..v4 }, frame4.clone()), // segments need checksums
            (NetHdr { csum_offset: 6, ..v4 }, frame4),
            (v4, cut),
            (v4, long_header),
            large(base.clone().ipv4().ip_id(1, 0x2000)), // a fragment
            large(base.clone().ipv4().ip_id(1, 0x0001)),
        ]
    });
    assert!(seen.knowing.is_empty() && seen.plain.is_empty());
}

#[test]
fn h15_chains_of_ipv6_extension_headers_are_bounded() {
    lies(&all(), 5, |base| {
        let long = (0..200).fold(base.clone().ipv6(), |frame, _| frame.extension(ext::DESTINATION, 8));
        let wide = base.clone().ipv6().extension(ext::HOP_BY_HOP, 248).extension(ext::DESTINATION, 256);
        let mut lying =
            base.clone().ipv6().extension(ext::HOP_BY_HOP, 8).tcp(1, 2).payload(&[0; 3000]).build_large(1000);
        lying.1[14 + 40 + 1] = 255; // the extension claims 2048 bytes
        vec![
            long.tcp(1, 2).payload(&pattern(3000, 1)).build_large(1000),
            wide.tcp(1, 2).payload(&pattern(3000, 1)).build_large(1000),
            lying,
        ]
    });
}

#[test]
fn h15_a_lie_is_counted_as_such() {
    Arena::run(|arena| {
        let mut liar = arena.guest(all());
        let frame = Frame::new([0xff; 6], liar.mac).ipv4().udp(1, 2).payload(&[1; 100]).build();
        let header = NetHdr { flags: NEEDS_CSUM, csum_start: 500, csum_offset: 0, ..NetHdr::default() };
        for _ in 0..3 {
            liar.send_with(header, &frame);
        }
        assert!(eventually(|| arena.switch.drops("evil", "out", "bad-offload") == 3));
    });
}

#[test]
fn h11_what_was_judged_is_what_is_forwarded() {
    Arena::run(|arena| {
        let mut liar = arena.guest(Options::plain());
        let mut witness = Guest::attach(&arena.switch, "witness", Options::default().ring_size(1024));
        let honest = Frame::between(&liar, &witness).ipv4().udp(1, 2).payload(&[1; 300]).build();
        let slot = liar.memory.alloc(2048);
        liar.memory.write(slot, &[&[0; 12][..], &honest].concat());
        let (memory, own) = (liar.memory.clone(), liar.mac);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut seen = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The source address of somebody else appears and disappears while the frame is judged.
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    memory.write(slot + 12 + 6, &[2, 0xbd, 0xbd, 0xbd, 0xbd, 0xbd]);
                    memory.write(slot + 12 + 6, &own);
                }
            });
            let good = turnpike_tests::ring::Descriptor {
                addr: slot,
                len: 12 + honest.len() as u32,
                flags: 0,
                next: 0,
            };
            for _ in 0..300 {
                for head in 0..64 {
                    liar.tx[0].write_descriptor(head, good);
                    liar.tx[0].offer_head(head);
                }
                liar.tx[0].kick_anyway();
                assert!(eventually(|| {
                    while let Some(received) = witness.poll() {
                        let packet = Packet::of(&received.frame);
                        let all_or_nothing = packet.src == own;
                        assert!(all_or_nothing, "a frame with source {:02x?} got through", packet.src);
                        seen += 1;
                    }
                    liar.tx[0].used_index() == liar.tx[0].next_avail
                }));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(seen > 0, "no frame got through at all");
    });
}
