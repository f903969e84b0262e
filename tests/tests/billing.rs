//! What is billed is what passed, also when the switch is killed (section 9 of the semantics).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use turnpike_tests::options::Resume;
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Frame, Guest, NetHdr, Options, PATIENCE, Switch, eventually};

/// Frames that a worker takes from a ring at a time: all that a kill may lose or count twice.
const BURST: u64 = 64;

/// Packets and bytes that a port's meters counted in a direction.
fn metered(switch: &Switch, port: &str, direction: &str) -> (u64, u64) {
    let report = switch.json(&["meter", "show", port]);
    let entries = report[0]["entries"].as_array().expect("entries").clone();
    let sum = |key: &str| {
        let wanted = entries.iter().filter(|entry| entry["direction"] == direction);
        wanted.map(|entry| entry[key].as_u64().expect("a number")).sum()
    };
    (sum("packets"), sum("bytes"))
}

fn reconnect(guest: &mut Guest, switch: &Switch, name: &str) {
    let socket = switch.dir().join(format!("{name}.sock"));
    assert!(eventually(|| guest.reconnect(&socket, Resume::Used).is_ok()), "{name} cannot connect again");
    switch.wait_state(name, "running");
}

#[test]
fn s9_a_kill_loses_at_most_one_burst() {
    let switch = Switch::start_with(SwitchOptions { workers: 1, ..SwitchOptions::default() });
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    switch.ok(&["meter", "enable", "--all"]);
    let since = switch.json(&["meter", "show", "a"])[0]["since"].clone();
    let frame = Frame::between(&a, &b).ipv4().udp(1000, 2000).payload(&[7; 400]).build();
    let length = frame.len() as u64;

    // What the switch was done with at `a` and what it gave to `b`, and how far the bills were from that before.
    let (mut taken, mut received) = (0_u64, 0_u64);
    let (mut out_gap, mut in_gap) = (0_i64, 0_i64);
    // The rings go on where they were, and the switch with what it finds in them.
    let mut used = a.tx[0].used_index();
    for round in 0..10_u64 {
        let killed = AtomicBool::new(false);
        let before = received;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20 + round * round * 3 % 61));
                switch.kill();
                killed.store(true, Ordering::Relaxed);
            });
            let mut last_look = false;
            while !last_look {
                // One more look after the kill: what was published before it counts.
                last_look = killed.load(Ordering::Relaxed);
                if !last_look {
                    while a.enqueue(0, NetHdr::default(), &frame) {}
                    a.tx[0].notify();
                }
                while b.poll().is_some() {
                    received += 1;
                }
                let now = a.tx[0].used_index();
                taken += u64::from(now.wrapping_sub(used));
                used = now;
            }
        });
        assert!(received > before, "there was traffic in round {round}");

        switch.start_again();
        let (out, out_bytes) = metered(&switch, "a", "out");
        let (into, in_bytes) = metered(&switch, "b", "in");
        let gap = |metered: u64, passed: u64| metered.cast_signed() - passed.cast_signed();
        let gaps = (gap(out, taken), gap(into, received));
        let lost = |now: i64, then: i64| (now - then).unsigned_abs();
        assert!(lost(gaps.0, out_gap) <= BURST, "out: {out} counted, {taken} taken, gap was {out_gap}");
        assert!(lost(gaps.1, in_gap) <= BURST, "in: {into} counted, {received} received, gap was {in_gap}");
        // Packets and bytes are two numbers; a kill may come between them.
        let burst_bytes = BURST * length * (round + 1);
        assert!(out_bytes.abs_diff(out * length) <= burst_bytes, "{out} packets, {out_bytes} bytes");
        assert!(in_bytes.abs_diff(into * length) <= burst_bytes, "{into} packets, {in_bytes} bytes");
        (out_gap, in_gap) = gaps;
        reconnect(&mut b, &switch, "b");
        reconnect(&mut a, &switch, "a");
    }
    assert_eq!(switch.json(&["meter", "show", "a"])[0]["since"], since);
    println!("{taken} frames, 10 kills: off by {out_gap} (out) and {in_gap} (in)");
}

#[test]
fn s9_bytes_are_exact_and_each_direction_counts_once() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    switch.ok(&["acl", "add", "a", "--action", "meter", "--direction", "both", "--remote", "0.0.0.0/0"]);
    switch.ok(&["meter", "enable", "--all"]);
    let frames: Vec<_> = (0..500)
        .map(|n| Frame::between(&a, &b).ipv4().udp(1000, 2000).payload(&vec![1; n]).build())
        .collect();
    let bytes: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
    for frame in &frames {
        a.send(frame);
        b.expect(frame);
    }
    let answer = Frame::between(&b, &a).ipv4().udp(2000, 1000).payload(b"answer").build();
    b.send(&answer);
    a.expect(&answer);
    assert!(a.flush(PATIENCE) && b.flush(PATIENCE));
    let reports = || {
        let of = |port, direction| metered(&switch, port, direction);
        [of("a", "out"), of("a", "in"), of("b", "in"), of("b", "out")]
    };
    let answered = (1, answer.len() as u64);
    let expected = [(500, bytes), answered, (500, bytes), answered];
    assert!(eventually(|| reports() == expected), "{:?}, expected {expected:?}", reports());
    let total = switch.json(&["meter", "show", "--total"]);
    let sum: u64 =
        total[0]["entries"].as_array().expect("entries").iter().filter_map(|e| e["bytes"].as_u64()).sum();
    assert_eq!(sum, 2 * (bytes + answered.1));
    switch.kill();
    switch.start_again();
    assert_eq!(reports(), expected);
    switch.ok(&["meter", "reset", "a"]);
    assert_eq!(reports(), [(0, 0), (0, 0), (500, bytes), answered]);
}
