//! Ports, front ends and the switch itself come and go; the rest goes on.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use turnpike_tests::options::{Dialect, Resume};
use turnpike_tests::{Frame, Guest, Neighbours, NetHdr, Options, PATIENCE, Switch, eventually};

fn exchange(a: &mut Guest, b: &mut Guest, seed: u64) {
    let frame = Frame::of_len(a, b, 700, seed);
    a.send(&frame);
    b.expect(&frame);
    let frame = Frame::of_len(b, a, 700, seed);
    b.send(&frame);
    a.expect(&frame);
}

/// Both guests connect again after the switch came back; a new switch takes a moment to listen.
fn reconnect(guest: &mut Guest, switch: &Switch, name: &str, resume: Resume) {
    let socket = switch.dir().join(format!("{name}.sock"));
    assert!(eventually(|| guest.reconnect(&socket, resume).is_ok()), "{name} cannot connect again");
    switch.wait_state(name, "running");
}

#[test]
fn states_follow_the_front_end() {
    let switch = Switch::start();
    let socket = switch.add_port("a", &[]);
    assert_eq!(switch.port("a")["state"], "waiting");
    let channel = turnpike_tests::Channel::connect(&socket).unwrap();
    switch.wait_state("a", "connected");
    drop(channel);
    switch.wait_state("a", "waiting");
    let guest = Guest::attach(&switch, "a", Options::default());
    assert_eq!(switch.port("a")["state"], "running");
    drop(guest);
    switch.wait_state("a", "waiting");
    for kind in ["front-end-connected", "port-running", "port-stopped", "front-end-disconnected"] {
        assert!(switch.has_event(kind), "no event {kind}");
    }
}

#[test]
fn a_front_end_reconnects_a_hundred_times() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    exchange(&mut a, &mut b, 0);
    let mut before = Vec::new();
    for round in 0..100 {
        drop(b);
        switch.wait_state("b", "waiting");
        if round == 0 {
            before = switch.holdings();
        }
        let options =
            if round % 2 == 0 { Options::default() } else { Options::plain().dialect(Dialect::Qemu) };
        b = Guest::attach(&switch, "b", options.ring_size(64 << (round % 3)));
        exchange(&mut a, &mut b, round);
    }
    drop(b);
    switch.wait_state("b", "waiting");
    let mut after = Vec::new();
    let same = eventually(|| {
        after = switch.holdings();
        after == before
    });
    assert!(same, "descriptors or threads leaked: {before:?} before, {after:?} now");
    assert!(switch.counter("b", "in_packets") >= 100, "counters outlive the front end");
}

#[test]
fn the_switch_connects_when_it_is_the_client() {
    let switch = Switch::start();
    let path = switch.dir().join("vmm.sock");
    // The VMM is not there yet: the switch tries again until it is.
    switch.ok(&["port", "add", "a", "--socket", path.to_str().unwrap(), "--client"]);
    std::thread::sleep(Duration::from_millis(300));
    let listener = UnixListener::bind(&path).unwrap();
    let mut b = Guest::attach(&switch, "b", Options::default());
    for round in 0..3 {
        let mut a = Guest::accept(&listener, Options::default());
        a.mac = switch.mac("a");
        switch.wait_state("a", "running");
        exchange(&mut a, &mut b, round);
        drop(a);
    }
}

#[test]
fn a_second_front_end_waits_or_is_turned_away() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let socket = switch.dir().join("b.sock");
    for round in 0..10 {
        let second = turnpike_tests::Channel::connect(&socket);
        exchange(&mut a, &mut b, round);
        drop(second);
    }
    exchange(&mut a, &mut b, 99);
    drop(b);
    // The socket is still good for the next one.
    let mut b = Guest::attach(&switch, "b", Options::default());
    exchange(&mut a, &mut b, 100);
}

#[test]
fn a_guest_that_vanishes_under_traffic_is_forgotten() {
    let switch = Switch::start();
    let neighbours = Neighbours::start(&switch);
    let mut a = Guest::attach(&switch, "a", Options::default());
    for round in 0..10 {
        let b = Guest::attach(&switch, "b", Options::default());
        let frames: Vec<_> = (0..200).map(|seed| Frame::of_len(&a, &b, 1000, seed + round)).collect();
        a.send_all(&frames);
        drop(b); // with frames on their way in both directions
        assert!(a.flush(PATIENCE), "frames to a guest that is gone stay in the ring");
        switch.wait_state("b", "waiting");
    }
    a.send(&Frame::between(&a, &a).payload(&[0; 60]).build());
    neighbours.finish();
}

#[test]
fn frames_to_a_port_without_front_end_are_dropped_with_that_reason() {
    let switch = Switch::start();
    switch.add_port("b", &["--mac", "02:00:00:00:00:b0"]);
    let mut a = Guest::attach(&switch, "a", Options::default());
    a.send(&Frame::new([2, 0, 0, 0, 0, 0xb0], a.mac).payload(&[0; 50]).build());
    assert!(a.flush(PATIENCE));
    assert_eq!(switch.drops("b", "in", "receiver-not-running"), 1);
}

#[test]
fn a_port_can_be_removed_under_traffic() {
    let switch = Switch::start();
    let neighbours = Neighbours::start(&switch);
    let mut a = Guest::attach(&switch, "a", Options::default());
    for round in 0..10 {
        let b = Guest::attach(&switch, "b", Options::default());
        let socket = switch.dir().join("b.sock");
        let frame = Frame::of_len(&a, &b, 1000, round);
        let remover = std::thread::scope(|scope| {
            let remover = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                switch.ok(&["port", "remove", "b"]);
            });
            while !remover.is_finished() {
                let _ = a.send_within(0, NetHdr::default(), &frame, Duration::from_millis(100));
            }
            remover.join()
        });
        remover.unwrap();
        assert!(b.channel().is_closed_soon(), "the front end of a removed port is still attached");
        assert!(!socket.exists(), "the socket of a removed port is still there");
        assert!(a.flush(PATIENCE));
    }
    neighbours.finish();
}

#[test]
fn a_link_set_down_stops_traffic_both_ways_until_it_is_up() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    switch.ok(&["port", "set", "b", "--link", "down"]);
    a.send(&Frame::of_len(&a, &b, 100, 0));
    b.expect_silence();
    b.send(&Frame::of_len(&b, &a, 100, 0));
    a.expect_silence();
    assert_eq!(
        switch.drops("b", "in", "receiver-link-down") + switch.drops("a", "out", "receiver-link-down"),
        1
    );
    assert_eq!(switch.drops("b", "out", "link-down"), 1);
    switch.ok(&["port", "set", "b", "--link", "up"]);
    exchange(&mut a, &mut b, 0);
}

#[test]
fn ports_survive_a_restart_and_guests_come_back_within_a_second() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::plain().ring_size(64));
    switch.ok(&["port", "set", "a", "--mac-spoofing", "on"]);
    for round in 0..3 {
        for seed in 0..100 {
            exchange(&mut a, &mut b, seed);
        }
        let before = switch.port("a");
        assert!(switch.terminate().success(), "SIGTERM must end with exit code 0");
        switch.start_again();
        let back = Instant::now();
        let after = switch.port("a");
        for key in ["name", "mac", "queues", "mtu", "socket", "policy", "id"] {
            assert_eq!(after[key], before[key], "{key} after a restart");
        }
        let resume = if round == 1 { Resume::Available } else { Resume::Used };
        reconnect(&mut a, &switch, "a", resume);
        reconnect(&mut b, &switch, "b", resume);
        exchange(&mut a, &mut b, round);
        assert!(back.elapsed() < Duration::from_secs(1), "back after {:?}", back.elapsed());
    }
}

#[test]
fn ports_survive_a_switch_that_is_killed() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    exchange(&mut a, &mut b, 0);
    switch.kill();
    switch.start_again();
    reconnect(&mut a, &switch, "a", Resume::Used);
    reconnect(&mut b, &switch, "b", Resume::Used);
    exchange(&mut a, &mut b, 1);
}

#[test]
fn a_front_end_that_gives_the_available_index_still_receives() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    for round in 0..10 {
        exchange(&mut a, &mut b, round);
        let socket = switch.dir().join("b.sock");
        b.channel().hang_up();
        switch.wait_state("b", "waiting");
        b.reconnect(&socket, Resume::Available).unwrap();
        switch.wait_state("b", "running");
    }
    exchange(&mut a, &mut b, 99);
}

#[test]
fn sigterm_under_traffic_ends_with_exit_code_0() {
    let switch = Switch::start();
    let (mut a, b) = Guest::pair(&switch, Options::default(), Options::default());
    let frames: Vec<_> = (0..200).map(|seed| Frame::of_len(&a, &b, 1000, seed)).collect();
    a.send_all(&frames);
    let began = Instant::now();
    let status = switch.terminate();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
    assert!(a.channel().is_closed_soon() && b.channel().is_closed_soon());
    assert!(
        !switch.dir().join("api.sock").exists() || switch.run(&["port", "list"]).status.code() == Some(1)
    );
}

#[test]
fn a_hundred_ports_idle_below_one_percent() {
    turnpike_tests::raise_descriptor_limit();
    let switch = Switch::start();
    let guests: Vec<_> = (0..100)
        .map(|n| Guest::attach(&switch, &format!("p{n}"), Options::default().ring_size(64)))
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let before = switch.cpu_ticks();
    std::thread::sleep(Duration::from_secs(3));
    let used = switch.cpu_ticks() - before;
    assert!(used <= 3, "{used} ticks of 10 ms in three idle seconds");
    let mut guests = guests.into_iter();
    let (mut a, mut b) = (guests.next().unwrap(), guests.next_back().unwrap());
    exchange(&mut a, &mut b, 0);
}
