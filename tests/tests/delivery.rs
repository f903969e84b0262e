//! Frames between guests: whole, in order, to those they are meant for and to nobody else.

use turnpike_tests::features::{EVENT_IDX, INDIRECT_DESC, MRG_RXBUF};
use turnpike_tests::frame::{BROADCAST, pattern};
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Frame, Guest, NetHdr, Options, PATIENCE, Shape, Switch};

/// The smallest frame, its neighbours, every border of a descriptor piece or receive buffer, the largest.
const LENGTHS: [usize; 21] = [
    14, 15, 59, 60, 61, 64, 127, 191, 192, 193, 1499, 1500, 1514, 2035, 2036, 2037, 2048, 4083, 4096, 9000,
    9014,
];

fn every_length_arrives(a: Options, b: Options) {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, a, b);
    for (round, &len) in LENGTHS.iter().enumerate() {
        let there = Frame::of_len(&a, &b, len, round as u64);
        a.send(&there);
        b.expect(&there);
        let back = Frame::of_len(&b, &a, len, round as u64);
        b.send(&back);
        a.expect(&back);
    }
    assert_eq!(switch.all_drops("a") + switch.all_drops("b"), 0);
}

#[test]
fn unicast_arrives_byte_for_byte() {
    every_length_arrives(Options::default(), Options::default());
}

#[test]
fn unicast_arrives_between_the_plainest_guests() {
    every_length_arrives(Options::plain(), Options::plain());
}

#[test]
fn unicast_arrives_between_unlike_guests() {
    every_length_arrives(Options::plain().ring_size(64), Options::default().ring_size(1024).rx_buffer(256));
}

#[test]
fn a_header_in_a_descriptor_of_its_own_is_understood() {
    every_length_arrives(
        Options::default().shape(Shape::HeaderApart),
        Options::plain().shape(Shape::HeaderApart),
    );
}

#[test]
fn a_frame_cut_anywhere_is_put_together() {
    every_length_arrives(
        Options::default().shape(Shape::Pieces(1000)),
        Options::plain().shape(Shape::Pieces(511)),
    );
}

#[test]
fn a_header_cut_over_descriptors_is_put_together() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default().shape(Shape::Pieces(5)), Options::default());
    for len in [14, 60, 200, 1000] {
        let frame = Frame::of_len(&a, &b, len, 1);
        a.send(&frame);
        b.expect(&frame);
    }
}

#[test]
fn indirect_tables_are_read() {
    let a = Options::plain().with(INDIRECT_DESC).shape(Shape::IndirectPieces(777));
    every_length_arrives(a, Options::default().shape(Shape::Indirect));
}

#[test]
fn an_indirect_table_serves_more_descriptors_than_the_ring_has_left() {
    let switch = Switch::start();
    let options = Options::default().ring_size(64).shape(Shape::IndirectPieces(32));
    let (mut a, mut b) = Guest::pair(&switch, options, Options::default());
    let frames: Vec<_> = (0..200).map(|seed| Frame::of_len(&a, &b, 1514, seed)).collect();
    a.send_all(&frames);
    for frame in &frames {
        b.expect(frame);
    }
}

#[test]
fn a_receive_buffer_may_be_a_chain() {
    let switch = Switch::start();
    let options = Options::plain().post_by_hand(0);
    let (mut a, mut b) = Guest::pair(&switch, Options::plain(), options);
    for len in LENGTHS {
        b.post_chains(1, &[12, 100, 900, 9000]);
        let frame = Frame::of_len(&a, &b, len, 3);
        a.send(&frame);
        b.expect(&frame);
    }
}

#[test]
fn mergeable_buffers_hold_one_frame_in_many() {
    let switch = Switch::start();
    let options = Options::default().with(MRG_RXBUF).rx_buffer(128);
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), options);
    for len in [14, 116, 117, 1514, 9014] {
        let frame = Frame::of_len(&a, &b, len, 9);
        a.send(&frame);
        assert_eq!(b.expect(&frame).buffers, (len + 12).div_ceil(128), "buffers of a frame of {len} bytes");
    }
}

#[test]
fn num_buffers_is_one_without_mergeable_buffers() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::plain());
    let frame = Frame::of_len(&a, &b, 1000, 0);
    a.send(&frame);
    let header = b.expect(&frame).header;
    assert_eq!(header, NetHdr { num_buffers: 1, ..NetHdr::default() });
}

#[test]
fn rings_of_64_to_1024_entries_wrap() {
    let switch = Switch::start();
    for size in [64, 128, 256, 512, 1024] {
        let options = Options::default().ring_size(size).rx_buffer(512);
        let (mut a, mut b) = Guest::pair(&switch, options.clone(), options);
        for seed in 0..u64::from(size) * 3 {
            let frame = Frame::of_len(&a, &b, 60, seed);
            a.send(&frame);
            b.expect(&frame);
        }
        drop((a, b));
        switch.wait_state("a", "waiting");
        switch.wait_state("b", "waiting");
    }
}

#[test]
fn ring_indices_wrap_past_65535() {
    let switch = Switch::start();
    for features in [0, EVENT_IDX] {
        let options = Options::default().without(EVENT_IDX).with(features).first_index(65_400).ring_size(64);
        let (mut a, mut b) = Guest::pair(&switch, options.clone(), options);
        for seed in 0..300 {
            let frame = Frame::of_len(&a, &b, 100, seed);
            a.send(&frame);
            b.expect(&frame);
        }
        assert!(a.tx[0].used_index() < 1000, "the index did not wrap");
        drop((a, b));
        switch.wait_state("a", "waiting");
        switch.wait_state("b", "waiting");
    }
}

#[test]
fn a_flow_stays_in_order() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let receiver = std::thread::spawn({
        let count = 20_000u32;
        let base = Frame::between(&a, &b).ipv4().udp(5, 6);
        let sender = std::thread::spawn(move || {
            for number in 0..count {
                a.send(&base.clone().payload(&number.to_be_bytes()).build());
            }
            assert!(a.flush(PATIENCE));
            a
        });
        move || {
            for number in 0..count {
                let received = b.expect_some();
                let got = u32::from_be_bytes(received.frame[42..46].try_into().unwrap());
                assert_eq!(got, number, "out of order or lost");
            }
            (sender.join().unwrap(), b)
        }
    });
    receiver.join().unwrap();
    assert_eq!(switch.all_drops("a") + switch.all_drops("b"), 0);
}

#[test]
fn one_worker_is_enough() {
    let switch = Switch::start_with(SwitchOptions { workers: 1, ..SwitchOptions::default() });
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    for seed in 0..500 {
        let frame = Frame::of_len(&a, &b, 60 + seed as usize, seed);
        a.send(&frame);
        b.expect(&frame);
    }
}

#[test]
fn a_switch_that_never_polls_wakes_for_every_frame() {
    let options = SwitchOptions { poll_us: "off".to_owned(), ..SwitchOptions::default() };
    let switch = Switch::start_with(options);
    for features in [0, EVENT_IDX] {
        let options = Options::default().without(EVENT_IDX).with(features);
        let (mut a, mut b) = Guest::pair(&switch, options.clone(), options);
        for seed in 0..300 {
            let frame = Frame::of_len(&a, &b, 60, seed);
            a.send(&frame);
            b.expect(&frame);
            if seed % 50 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        drop((a, b));
        switch.wait_state("a", "waiting");
        switch.wait_state("b", "waiting");
    }
}

#[test]
fn a_switch_that_always_polls_needs_no_sleep() {
    let options = SwitchOptions { poll_us: "busy".to_owned(), workers: 1, ..SwitchOptions::default() };
    let switch = Switch::start_with(options);
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    for seed in 0..100 {
        let frame = Frame::of_len(&a, &b, 60, seed);
        a.send(&frame);
        b.expect(&frame);
    }
}

#[test]
fn broadcast_and_multicast_reach_all_others_and_not_the_sender() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::plain());
    let mut c = Guest::attach(&switch, "c", Options::default().rx_buffer(300));
    for destination in [BROADCAST, [1, 0, 0x5e, 0, 0, 9], [0x33, 0x33, 0, 0, 0, 1]] {
        let frame = Frame::new(destination, a.mac).payload(&pattern(700, 4)).build();
        a.send(&frame);
        b.expect(&frame);
        c.expect(&frame);
        a.expect_silence();
    }
    let request = Frame::between(&a, &b).arp_request().build();
    a.send(&request);
    b.expect(&request);
    c.expect(&request);
    switch.wait_counter("a", "out_packets", 4);
}

#[test]
fn unicast_is_seen_by_its_receiver_only() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let mut c = Guest::attach(&switch, "c", Options::default());
    let frame = Frame::of_len(&a, &b, 100, 0);
    a.send(&frame);
    b.expect(&frame);
    c.expect_silence();
    assert_eq!(switch.counter("c", "in_packets"), 0);
}

#[test]
fn a_frame_to_oneself_goes_nowhere() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    a.send(&Frame::of_len(&a, &a, 100, 0));
    a.expect_silence();
    b.expect_silence();
    assert_eq!(switch.drops("a", "out", "same-segment-return"), 1);
}

#[test]
fn unknown_unicast_goes_nowhere_between_guests() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    a.send(&Frame::new([2, 9, 9, 9, 9, 9], a.mac).payload(&[0; 50]).build());
    b.expect_silence();
    assert_eq!(switch.drops("a", "out", "unknown-unicast"), 1);
}

#[test]
fn link_local_protocol_frames_are_not_forwarded() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    a.send(&Frame::new([1, 0x80, 0xc2, 0, 0, 2], a.mac).payload(&[0; 50]).build());
    b.expect_silence();
    assert_eq!(switch.drops("a", "out", "reserved-multicast"), 1);
}

#[test]
fn a_false_source_address_is_dropped_counted_and_reported() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    for _ in 0..3 {
        a.send(&Frame::new(b.mac, [2, 1, 1, 1, 1, 1]).payload(&[0; 50]).build());
    }
    b.expect_silence();
    assert_eq!(switch.drops("a", "out", "source-not-allowed"), 3);
    assert!(switch.has_event("mac-spoofed"));
    let honest = Frame::of_len(&a, &b, 64, 0);
    a.send(&honest);
    b.expect(&honest);
}

#[test]
fn with_spoofing_allowed_another_source_is_learned_and_reached() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    switch.ok(&["port", "set", "a", "--mac-spoofing", "on"]);
    let inner = [2, 1, 1, 1, 1, 1];
    let frame = Frame::new(b.mac, inner).payload(&[5; 50]).build();
    a.send(&frame);
    b.expect(&frame);
    let answer = Frame::new(inner, b.mac).payload(&[6; 50]).build();
    b.send(&answer);
    a.expect(&answer);
    assert!(switch.json(&["fdb", "show", "--port", "a"]).to_string().contains("02:01:01:01:01:01"));
}

#[test]
fn group_and_zero_source_addresses_are_never_valid() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    switch.ok(&["port", "set", "a", "--mac-spoofing", "on"]);
    for source in [BROADCAST, [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
        a.send(&Frame::new(b.mac, source).payload(&[0; 50]).build());
    }
    b.expect_silence();
    assert_eq!(switch.drops("a", "out", "invalid-source"), 3);
}

#[test]
fn counters_tell_what_was_sent() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let lengths = [60usize, 61, 1514, 9014, 100];
    for (seed, &len) in lengths.iter().enumerate() {
        let frame = Frame::of_len(&a, &b, len, seed as u64);
        a.send(&frame);
        b.expect(&frame);
    }
    let bytes: usize = lengths.iter().sum();
    switch.wait_counter("a", "out_packets", 5);
    switch.wait_counter("a", "out_bytes", bytes as u64);
    switch.wait_counter("b", "in_packets", 5);
    switch.wait_counter("b", "in_bytes", bytes as u64);
    assert_eq!(switch.counter("b", "out_packets") + switch.counter("a", "in_packets"), 0);
    assert_eq!(switch.all_drops("a") + switch.all_drops("b"), 0);
}

#[test]
fn a_frame_shorter_than_an_ethernet_header_is_dropped() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    a.send(&Frame::of_len(&a, &b, 14, 0)[..13]);
    b.expect_silence();
    assert_eq!(switch.drops("a", "out", "frame-too-short"), 1);
}
