//! Several queue pairs: all used, none required, changed while traffic runs.

use std::collections::HashSet;

use turnpike_tests::{Frame, Guest, NetHdr, Options, PATIENCE, Switch};

#[test]
fn every_queue_pair_sends() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default().pairs(4), Options::default());
    for pair in 0..4 {
        for seed in 0..20 {
            let frame = Frame::of_len(&a, &b, 200, seed);
            a.send_on(pair, NetHdr::default(), &frame);
            b.expect(&frame);
        }
    }
}

#[test]
fn eight_queue_pairs_receive_and_a_flow_keeps_to_one() {
    let switch = Switch::start();
    let (mut a, mut b) =
        Guest::pair(&switch, Options::default().ring_size(64), Options::default().pairs(8).ring_size(64));
    let mut used = HashSet::new();
    for flow in 0..64 {
        let mut of_flow = HashSet::new();
        for seed in 0..4u8 {
            let frame = Frame::between(&a, &b).ipv4().udp(1000 + flow, 80).payload(&[seed; 64]).build();
            a.send(&frame);
            of_flow.insert(b.expect(&frame).pair);
        }
        assert_eq!(of_flow.len(), 1, "flow {flow} came by several queues");
        used.extend(of_flow);
    }
    assert!(used.len() >= 4, "64 flows came by {} of 8 queues", used.len());
    assert_eq!(switch.port("b")["worker"].as_array().map(Vec::len), Some(8));
}

#[test]
fn only_enabled_queue_pairs_receive_and_the_number_may_change_under_traffic() {
    let switch = Switch::start();
    let (a, mut b) = Guest::pair(&switch, Options::default(), Options::default().pairs(4));
    let base = Frame::between(&a, &b).ipv4();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let sender = std::thread::spawn(move || {
        let mut a = a;
        let mut sent = 0u32;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            a.send(&base.clone().udp(1000 + (sent % 64) as u16, 80).payload(&sent.to_be_bytes()).build());
            sent += 1;
        }
        assert!(a.flush(PATIENCE));
        (a, sent)
    });
    for pairs in [1, 2, 4, 3, 1, 4] {
        b.enable(0..pairs, true).unwrap();
        b.enable(pairs..4, false).unwrap();
        // The change is acknowledged: from now on nothing new comes by the others, what lies in them already aside.
        let disabled: Vec<u16> = b.rx[pairs..].iter().map(turnpike_tests::Ring::used_index).collect();
        (0..400).for_each(|_| drop(b.expect_some()));
        let after: Vec<u16> = b.rx[pairs..].iter().map(turnpike_tests::Ring::used_index).collect();
        assert_eq!(after, disabled, "used indices of the disabled rings with {pairs} pairs enabled");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    while !sender.is_finished() {
        b.receive(std::time::Duration::from_millis(20));
    }
    sender.join().unwrap();
}

#[test]
fn queues_zero_and_nine_are_refused() {
    let switch = Switch::start();
    for bad in ["0", "9"] {
        let socket = switch.dir().join("bad.sock");
        let output =
            switch.run(&["port", "add", "bad", "--socket", socket.to_str().unwrap(), "--queues", bad]);
        assert!(!output.status.success(), "--queues {bad} was taken");
        assert!(!socket.exists(), "a refused port left a socket");
    }
}
