//! Partial checksums and large frames: untouched between guests that both know them, completed and cut for those that do not.

use turnpike_tests::features::{
    CSUM, GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, HOST_ECN, HOST_TSO4, HOST_TSO6, MRG_RXBUF,
    RECEIVE_OFFLOADS, SEND_OFFLOADS,
};
use turnpike_tests::frame::{ext, pattern, tcp};
use turnpike_tests::{Frame, Guest, Options, Packet, Switch};

/// A switch whose ports may send and receive every tag.
fn trunks() -> Switch {
    let switch = Switch::start();
    for name in ["a", "b"] {
        switch.add_port(name, &["--mtu", "9000", "--vlan", "trunk:1-4094"]);
    }
    switch
}

fn sender() -> Options {
    Options::plain().with(SEND_OFFLOADS)
}

/// Frames of every kind that has a checksum which can be left to the device.
fn kinds(base: &Frame) -> Vec<Frame> {
    let base = base.clone().payload(&pattern(333, 7));
    let tagged = base.clone().vlan(100);
    vec![
        base.clone().ipv4().udp(1, 2),
        base.clone().ipv4().tcp(1, 2),
        base.clone().ipv6().udp(1, 2),
        base.clone().ipv6().tcp(1, 2),
        base.clone().ipv4().ip_options(&[1, 1, 1, 0]).udp(1, 2),
        base.clone().ipv6().extension(ext::HOP_BY_HOP, 8).extension(ext::DESTINATION, 16).tcp(1, 2),
        base.clone().ipv6().extension(ext::HOP_BY_HOP, 8).udp(1, 2),
        tagged.clone().ipv4().tcp(1, 2).tcp_options(12),
        tagged.clone().ipv6().udp(1, 2),
        tagged.vlan(200).ipv4().udp(1, 2),
    ]
}

#[test]
fn a_partial_checksum_passes_untouched_to_a_guest_that_knows_them() {
    let switch = trunks();
    let (mut a, mut b) = Guest::pair(&switch, sender(), Options::plain().with(GUEST_CSUM | MRG_RXBUF));
    for kind in kinds(&Frame::between(&a, &b)) {
        let (header, frame) = kind.build_partial();
        a.send_with(header, &frame);
        let got = b.expect(&frame).header;
        assert!(got.needs_csum());
        assert_eq!((got.csum_start, got.csum_offset), (header.csum_start, header.csum_offset));
    }
}

#[test]
fn a_partial_checksum_is_completed_for_a_guest_that_does_not_know_them() {
    let switch = trunks();
    for receiver in [Options::plain(), Options::plain().with(MRG_RXBUF).rx_buffer(128)] {
        let (mut a, mut b) = Guest::pair(&switch, sender(), receiver);
        for kind in kinds(&Frame::between(&a, &b)) {
            let (header, frame) = kind.build_partial();
            a.send_with(header, &frame);
            let got = b.expect(&kind.build());
            assert!(!got.header.needs_csum());
            Packet::of(&got.frame).verify().unwrap();
        }
        drop((a, b));
        switch.wait_state("a", "waiting");
        switch.wait_state("b", "waiting");
    }
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_ffff() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, sender(), Options::plain());
    // The last word makes the sum of all others 0xffff, so that its complement is zero.
    let base = Frame::between(&a, &b).ipv4().udp(1, 2);
    let with_zero = base.clone().payload(&[0, 0]).build();
    let sum = u16::from_be_bytes([with_zero[40], with_zero[41]]);
    let kind = base.payload(&sum.to_be_bytes());
    assert_eq!(kind.build()[40..42], [0xff, 0xff]);
    let (header, frame) = kind.build_partial();
    a.send_with(header, &frame);
    b.expect(&kind.build());
}

#[test]
fn a_checksum_at_odd_lengths_is_completed() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, sender(), Options::plain());
    for len in [0, 1, 2, 3, 149, 150, 151, 1400, 8001] {
        let kind = Frame::between(&a, &b).ipv4().tcp(7, 8).payload(&pattern(len, len as u64));
        let (header, frame) = kind.build_partial();
        a.send_with(header, &frame);
        b.expect(&kind.build());
    }
}

#[test]
fn a_complete_checksum_is_left_alone() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, sender(), Options::plain());
    let mut frame = Frame::between(&a, &b).ipv4().udp(1, 2).payload(&[1; 50]).build();
    frame[41] ^= 0xff; // even a wrong one: it is the sender's word
    a.send(&frame);
    b.expect(&frame);
}

/// A large frame of each kind, with the segments a receiver without TSO must see.
fn large_kinds(base: &Frame) -> Vec<(&'static str, Frame)> {
    let base = base.clone().payload(&pattern(40_001, 11));
    let tcp = |frame: Frame| {
        frame.tcp(3, 4).tcp_options(12).tcp_seq(u32::MAX - 5000, tcp::ACK | tcp::PSH | tcp::FIN)
    };
    vec![
        ("IPv4", tcp(base.clone().ipv4())),
        ("IPv4 with options", tcp(base.clone().ipv4().ip_options(&[1, 1, 1, 0]).ip_id(0xfffe, 0x4000))),
        ("IPv6", tcp(base.clone().ipv6())),
        (
            "IPv6 with extension headers",
            tcp(base.clone().ipv6().extension(ext::HOP_BY_HOP, 16).extension(ext::ROUTING, 24)),
        ),
        ("VLAN, IPv4", tcp(base.clone().vlan(9).ipv4())),
        ("VLAN, IPv6, extension", tcp(base.clone().vlan(9).ipv6().extension(ext::DESTINATION, 8))),
        ("two tags", tcp(base.clone().tag(0x88a8, 5).vlan(9).ipv4())),
    ]
}

/// Checks that `segments` are what TCP would have sent instead of the large frame.
fn check_segments(name: &str, large: &[u8], mss: usize, segments: &[Vec<u8>]) {
    let whole = Packet::of(large);
    let headers = large.len() - whole.payload().len();
    assert_eq!(segments.len(), whole.payload().len().div_ceil(mss), "{name}: number of segments");
    let mut payload = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        let packet = Packet::of(segment);
        packet.verify().unwrap_or_else(|e| panic!("{name}: segment {number}: {e}"));
        let last = number + 1 == segments.len();
        assert_eq!(packet.tags, whole.tags, "{name}");
        assert_eq!((packet.dst, packet.src), (whole.dst, whole.src), "{name}");
        assert_eq!(packet.l4, whole.l4, "{name}: headers in between are kept");
        assert_eq!(packet.payload().len(), if last { (whole.payload().len() - 1) % mss + 1 } else { mss });
        assert_eq!(packet.tcp_seq(), whole.tcp_seq().wrapping_add((number * mss) as u32), "{name}: sequence");
        let only_last = if last { 0 } else { tcp::FIN | tcp::PSH };
        let only_first = if number == 0 { 0 } else { tcp::CWR };
        assert_eq!(
            packet.tcp_flags(),
            whole.tcp_flags() & !only_last & !only_first,
            "{name}: flags of {number}"
        );
        if whole.ethertype == 0x0800 {
            assert_eq!(packet.ip_id(), whole.ip_id().wrapping_add(number as u16), "{name}: identification");
        }
        // TCP options and everything below are copied as they are.
        let l4 = packet.l4.unwrap();
        assert_eq!(segment[l4 + 20..headers], large[l4 + 20..headers], "{name}: TCP options");
        payload.extend_from_slice(packet.payload());
    }
    assert!(payload == whole.payload(), "{name}: the data changed");
}

#[test]
fn a_large_frame_passes_untouched_between_guests_that_know_them() {
    let switch = trunks();
    for receiver in
        [Options::plain().with(RECEIVE_OFFLOADS | MRG_RXBUF), Options::plain().with(RECEIVE_OFFLOADS)]
    {
        let (mut a, mut b) = Guest::pair(&switch, sender(), receiver);
        for (name, kind) in large_kinds(&Frame::between(&a, &b)) {
            let (header, frame) = kind.build_large(1448);
            a.send_with(header, &frame);
            let got = b.expect(&frame).header;
            assert_eq!((got.gso_type, got.gso_size), (header.gso_type, 1448), "{name}");
            assert!(got.needs_csum(), "{name}");
            assert_eq!((got.csum_start, got.csum_offset), (header.csum_start, header.csum_offset), "{name}");
        }
        drop((a, b));
        switch.wait_state("a", "waiting");
        switch.wait_state("b", "waiting");
    }
}

fn is_cut(receiver: Options, completed: bool) {
    let switch = trunks();
    let (mut a, mut b) = Guest::pair(&switch, sender(), receiver);
    for mss in [1448, 536, 1000] {
        for (name, kind) in large_kinds(&Frame::between(&a, &b)) {
            let (header, frame) = kind.build_large(mss);
            a.send_with(header, &frame);
            let count = 40_001usize.div_ceil(mss.into());
            let mut segments = Vec::new();
            for _ in 0..count {
                let got = b.expect_some();
                assert_eq!(got.header.gso_type, 0, "{name}");
                assert!(!completed || !got.header.needs_csum(), "{name}");
                let mut segment = got.frame;
                if got.header.needs_csum() {
                    complete(&mut segment, got.header.csum_start.into(), got.header.csum_offset.into());
                }
                segments.push(segment);
            }
            check_segments(name, &frame, mss.into(), &segments);
        }
    }
    b.expect_silence();
    assert_eq!(switch.all_drops("a") + switch.all_drops("b"), 0);
}

/// Does the device's part of checksum offload.
fn complete(frame: &mut [u8], start: usize, offset: usize) {
    let mut sum: u32 =
        frame[start..].chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[start + offset..start + offset + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[test]
fn a_large_frame_is_cut_for_the_plainest_guest() {
    is_cut(Options::plain(), true);
}

#[test]
fn a_large_frame_is_cut_into_mergeable_buffers() {
    is_cut(Options::plain().with(MRG_RXBUF).rx_buffer(300).ring_size(1024), true);
}

#[test]
fn a_large_frame_is_cut_for_a_guest_that_knows_partial_checksums_only() {
    is_cut(Options::plain().with(GUEST_CSUM | MRG_RXBUF), false);
}

#[test]
fn tso4_and_tso6_are_negotiated_apart() {
    let switch = Switch::start();
    let receiver = Options::plain().with(GUEST_CSUM | GUEST_TSO6 | MRG_RXBUF);
    let (mut a, mut b) = Guest::pair(&switch, Options::plain().with(CSUM | HOST_TSO4 | HOST_TSO6), receiver);
    let base = Frame::between(&a, &b).payload(&pattern(10_000, 1));
    let (header, frame) = base.clone().ipv6().tcp(1, 2).build_large(1000);
    a.send_with(header, &frame);
    assert_eq!(b.expect(&frame).header.gso_size, 1000);
    let (header, frame) = base.ipv4().tcp(1, 2).build_large(1000);
    a.send_with(header, &frame);
    for _ in 0..10 {
        assert_eq!(b.expect_some().header.gso_type, 0);
    }
    drop((a, b));
    switch.wait_state("a", "waiting");
    switch.wait_state("b", "waiting");
    let receiver = Options::plain().with(GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF);
    let (mut a, mut b) = Guest::pair(&switch, sender(), receiver);
    let (header, frame) =
        Frame::between(&a, &b).ipv4().tcp(1, 2).payload(&pattern(10_000, 1)).build_large(1000);
    a.send_with(header, &frame);
    assert_eq!(b.expect(&frame).header.gso_size, 1000);
}

#[test]
fn congestion_marks_survive_passing_and_cutting() {
    let switch = Switch::start();
    let flags = tcp::ACK | tcp::CWR;
    let sender = Options::plain().with(CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN);
    let ecn = Options::plain().with(GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | MRG_RXBUF);
    let no_ecn = Options::plain().with(GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | MRG_RXBUF);
    for (receiver, passes) in [(ecn, true), (no_ecn, false)] {
        let (mut a, mut b) = Guest::pair(&switch, sender.clone(), receiver);
        for base in [Frame::between(&a, &b).ipv4(), Frame::between(&a, &b).ipv6()] {
            let (header, frame) =
                base.tcp(1, 2).tcp_seq(9, flags).payload(&pattern(5000, 1)).build_large(1000);
            a.send_with(header, &frame);
            if passes {
                assert_eq!(b.expect(&frame).header.gso_type, header.gso_type);
                continue;
            }
            let mut segments = Vec::new();
            for _ in 0..5 {
                let got = b.expect_some();
                let mut segment = got.frame;
                if got.header.needs_csum() {
                    complete(&mut segment, got.header.csum_start.into(), got.header.csum_offset.into());
                }
                segments.push(segment);
            }
            check_segments("ECN", &frame, 1000, &segments);
        }
        drop((a, b));
        switch.wait_state("a", "waiting");
        switch.wait_state("b", "waiting");
    }
}

#[test]
fn a_large_frame_counts_as_the_packets_it_becomes_on_a_wire() {
    let switch = Switch::start();
    let knowing = Options::plain().with(RECEIVE_OFFLOADS | MRG_RXBUF);
    let (mut a, mut b) = Guest::pair(&switch, sender(), knowing);
    let (header, frame) =
        Frame::between(&a, &b).ipv4().tcp(1, 2).payload(&pattern(9_500, 1)).build_large(1000);
    a.send_with(header, &frame);
    b.expect(&frame);
    let headers = frame.len() - 9_500;
    let bytes = (9_500 + 10 * headers) as u64;
    switch.wait_counter("a", "out_packets", 10);
    switch.wait_counter("a", "out_bytes", bytes);
    switch.wait_counter("b", "in_packets", 10);
    switch.wait_counter("b", "in_bytes", bytes);
    let mut c = Guest::attach(&switch, "c", Options::plain());
    let (header, frame) =
        Frame::between(&a, &c).ipv4().tcp(1, 2).payload(&pattern(9_500, 1)).build_large(1000);
    a.send_with(header, &frame);
    (0..10).for_each(|_| drop(c.expect_some()));
    switch.wait_counter("a", "out_packets", 20);
    switch.wait_counter("a", "out_bytes", 2 * bytes);
    switch.wait_counter("c", "in_packets", 10);
    switch.wait_counter("c", "in_bytes", bytes);
}

#[test]
fn a_broadcast_with_partial_checksum_suits_each_receiver() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, sender(), Options::plain());
    let mut c = Guest::attach(&switch, "c", Options::plain().with(GUEST_CSUM));
    let kind = Frame::new([0xff; 6], a.mac).ipv4().udp(67, 68).payload(&pattern(300, 2));
    let (header, frame) = kind.build_partial();
    a.send_with(header, &frame);
    b.expect(&kind.build());
    let got = c.expect_some();
    if got.header.needs_csum() {
        turnpike_tests::traffic::assert_same(&got.frame, &frame);
    } else {
        turnpike_tests::traffic::assert_same(&got.frame, &kind.build());
    }
}
