//! A successor takes over the running switch (`serve --take-over`): guests are not told.

use turnpike_tests::{Frame, Guest, Options, Switch};

fn exchange(a: &mut Guest, b: &mut Guest, seed: u64) {
    let frame = Frame::of_len(a, b, 700, seed);
    a.send(&frame);
    b.expect(&frame);
    let frame = Frame::of_len(b, a, 700, seed);
    b.send(&frame);
    a.expect(&frame);
}

#[test]
fn s20_7_guests_go_on_through_ten_take_overs() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    exchange(&mut a, &mut b, 0);
    for round in 1..=10 {
        let before = switch.pid();
        switch.take_over();
        assert_ne!(switch.pid(), before);
        assert_eq!(switch.port("a")["state"], "running");
        exchange(&mut a, &mut b, round);
        assert_eq!(switch.counter("a", "out_packets"), round + 1, "counters go on");
    }
    assert_eq!(switch.all_drops("a") + switch.all_drops("b"), 0);
    assert!(switch.terminate().success());
}
