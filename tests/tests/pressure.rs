//! A receiver that is slow holds its sender back; one that is dead costs the others next to nothing.

use std::time::{Duration, Instant};

use turnpike_tests::{Frame, Guest, NetHdr, Options, PATIENCE, Switch};

#[test]
fn a_slow_receiver_loses_nothing() {
    let switch = Switch::start();
    let slow = Options::default().ring_size(64).post_by_hand(8);
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), slow);
    switch.ok(&["switch", "set", "--rx-wait-us", "1000000"]);
    let base = Frame::between(&a, &b).ipv4().udp(5, 6);
    let count = 3000u32;
    let sender = std::thread::spawn(move || {
        for number in 0..count {
            a.send(&base.clone().payload(&number.to_be_bytes()).build());
        }
        assert!(a.flush(PATIENCE));
        a
    });
    for number in 0..count {
        let received = b.expect_some();
        let got = u32::from_be_bytes(received.frame[42..46].try_into().unwrap());
        assert_eq!(got, number, "lost or out of order");
        if number % 8 == 7 {
            std::thread::sleep(Duration::from_micros(500));
            b.post(8);
        }
    }
    let _a = sender.join().unwrap();
    switch.wait_counter("b", "in_packets", count.into());
    assert_eq!(switch.all_drops("a") + switch.all_drops("b"), 0);
}

#[test]
fn a_sender_is_held_back_in_its_own_ring() {
    let switch = Switch::start();
    let slow = Options::default().ring_size(64).post_by_hand(0);
    let (mut a, b) = Guest::pair(&switch, Options::default().ring_size(64), slow);
    switch.ok(&["switch", "set", "--rx-wait-us", "1000000"]);
    let frame = Frame::of_len(&a, &b, 100, 0);
    for _ in 0..64 {
        assert!(a.send_within(0, NetHdr::default(), &frame, Duration::ZERO));
    }
    // No copy is held anywhere: the ring is full and stays so until the receiver makes room or the time is over.
    std::thread::sleep(Duration::from_millis(100));
    assert!(!a.send_within(0, NetHdr::default(), &frame, Duration::from_millis(50)));
    assert_eq!(a.tx[0].in_flight(), 64);
    drop(b);
}

#[test]
fn frames_to_a_dead_receiver_are_dropped_and_counted() {
    let switch = Switch::start();
    let (mut a, b) = Guest::pair(&switch, Options::default(), Options::default().post_by_hand(0));
    switch.ok(&["switch", "set", "--rx-wait-us", "10000"]);
    for seed in 0..50 {
        a.send(&Frame::of_len(&a, &b, 100, seed));
    }
    assert!(a.flush(PATIENCE), "frames to a dead receiver stay for ever");
    assert_eq!(switch.drops("b", "in", "receiver-full"), 50);
    assert_eq!(switch.counter("b", "in_packets"), 0);
}

#[test]
fn a_dead_receiver_does_not_stall_its_sender_to_others() {
    let switch = Switch::start();
    let (mut a, dead) = Guest::pair(&switch, Options::default(), Options::default().post_by_hand(0));
    let mut c = Guest::attach(&switch, "c", Options::default());
    switch.ok(&["switch", "set", "--rx-wait-us", "50000"]);
    for round in 0..3 {
        // Sixty waits of 50 ms each would be 3 s: the bound is for the receiver, not for each frame to it.
        let frames: Vec<_> = (0..60).map(|seed| Frame::of_len(&a, &dead, 100, seed)).collect();
        a.send_all(&frames);
        let frame = Frame::of_len(&a, &c, 100, round);
        let sent = Instant::now();
        a.send(&frame);
        c.expect(&frame);
        assert!(sent.elapsed() < Duration::from_millis(700), "stalled for {:?}", sent.elapsed());
    }
}

#[test]
fn a_dead_receiver_does_not_stall_strangers() {
    let switch = Switch::start();
    let (mut a, dead) = Guest::pair(&switch, Options::default(), Options::default().post_by_hand(0));
    let mut c = Guest::attach(&switch, "c", Options::default());
    let mut d = Guest::attach(&switch, "d", Options::default());
    switch.ok(&["switch", "set", "--rx-wait-us", "1000000"]);
    for seed in 0..100 {
        assert!(a.enqueue(0, NetHdr::default(), &Frame::of_len(&a, &dead, 100, seed)));
    }
    a.tx[0].notify();
    let began = Instant::now();
    for seed in 0..50 {
        let frame = Frame::of_len(&c, &d, 200, seed);
        c.send(&frame);
        d.expect(&frame);
    }
    assert!(began.elapsed() < Duration::from_millis(800), "strangers were stalled for {:?}", began.elapsed());
}

#[test]
fn a_receiver_that_wakes_up_gets_what_waited() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default().post_by_hand(0));
    switch.ok(&["switch", "set", "--rx-wait-us", "1000000"]);
    let frames: Vec<_> = (0..20).map(|seed| Frame::of_len(&a, &b, 300, seed)).collect();
    a.send_all(&frames);
    std::thread::sleep(Duration::from_millis(100));
    b.post(20);
    for frame in &frames {
        b.expect(frame);
    }
    assert_eq!(switch.all_drops("b"), 0);
}

#[test]
fn broadcast_does_not_wait_for_a_dead_receiver() {
    let switch = Switch::start();
    let (mut a, _dead) = Guest::pair(&switch, Options::default(), Options::default().post_by_hand(0));
    let mut c = Guest::attach(&switch, "c", Options::default());
    switch.ok(&["switch", "set", "--rx-wait-us", "1000000"]);
    let began = Instant::now();
    for seed in 0..20u8 {
        let frame = Frame::new([0xff; 6], a.mac).payload(&[seed; 100]).build();
        a.send(&frame);
        c.expect(&frame);
    }
    assert!(began.elapsed() < Duration::from_millis(900), "stalled for {:?}", began.elapsed());
    assert!(a.flush(PATIENCE));
    assert_eq!(switch.drops("b", "in", "receiver-full"), 20);
}

#[test]
fn a_frame_that_no_buffer_can_hold_is_dropped_and_the_next_one_arrives() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::plain().rx_buffer(1526));
    let large = Frame::of_len(&a, &b, 4000, 0);
    a.send(&large);
    let small = Frame::of_len(&a, &b, 1514, 1);
    a.send(&small);
    b.expect(&small);
    assert_eq!(switch.drops("b", "in", "receiver-buffers-too-small"), 1);
}

#[test]
fn frames_finished_out_of_order_neither_stop_the_ring_nor_get_lost() {
    let switch = Switch::start();
    // A small ring goes round often while frames to the slow receiver still lie in their places.
    let options = Options::default().ring_size(64);
    let (mut a, mut slow) = Guest::pair(&switch, options, Options::default().post_by_hand(1));
    let mut fast = Guest::attach(&switch, "fast", Options::default());
    switch.ok(&["switch", "set", "--rx-wait-us", "1000000"]);
    let (to_slow, to_fast) =
        (Frame::between(&a, &slow).ipv4().udp(1, 2), Frame::between(&a, &fast).ipv4().udp(1, 2));
    let count = 4000u32;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let frames: Vec<_> = (0..count)
                .map(|n| {
                    if n % 8 == 0 { &to_slow } else { &to_fast }.clone().payload(&n.to_be_bytes()).build()
                })
                .collect();
            frames.chunks(48).for_each(|burst| a.send_all(burst));
            assert!(a.flush(PATIENCE));
        });
        scope.spawn(|| {
            for n in (0..count).filter(|n| n % 8 != 0) {
                assert_eq!(fast.expect_some().frame[42..46], n.to_be_bytes());
            }
        });
        for n in (0..count).step_by(8) {
            assert_eq!(slow.expect_some().frame[42..46], n.to_be_bytes());
            if n % 64 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            slow.post(1);
        }
    });
    assert!(!switch.has_event("queue-stopped"));
    assert_eq!(switch.all_drops("a") + switch.all_drops("b") + switch.all_drops("fast"), 0);
}
