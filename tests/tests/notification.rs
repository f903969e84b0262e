//! Kicks and calls: none when the other side does not want them, never one too few.
//!
//! That none is missing is shown by every other test too: a scripted guest sleeps until it is called.

use std::time::Duration;

use vhost::VhostBackend;

use turnpike_tests::features::{EVENT_IDX, MRG_RXBUF};
use turnpike_tests::message::{self, Message, NO_FD};
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Frame, Guest, Options, PATIENCE, SILENCE, Switch, eventually};

fn without_event_idx() -> Options {
    Options::plain().with(MRG_RXBUF)
}

fn with_event_idx() -> Options {
    Options::plain().with(MRG_RXBUF | EVENT_IDX)
}

fn no_call_when_suppressed(options: Options) {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, options.clone(), options);
    a.tx[0].suppress_calls();
    b.rx[0].suppress_calls();
    a.tx[0].calls();
    b.rx[0].calls();
    let frames: Vec<_> = (0..30).map(|seed| Frame::of_len(&a, &b, 200, seed)).collect();
    a.send_all(&frames);
    let mut got = Vec::new();
    assert!(eventually(|| {
        got.extend(b.poll().map(|received| received.frame));
        got.len() == 30
    }));
    assert!(got == frames);
    assert!(a.flush(PATIENCE));
    assert_eq!(b.rx[0].calls(), 0, "the receiver was called though it did not want to be");
    assert_eq!(a.tx[0].calls(), 0, "the sender was called though it did not want to be");
    // And once it wants calls again, they come.
    let frame = Frame::of_len(&a, &b, 99, 99);
    assert!(!b.rx[0].want_calls());
    a.send(&frame);
    b.expect(&frame);
}

#[test]
fn a_driver_that_suppresses_calls_by_flag_is_not_called() {
    no_call_when_suppressed(without_event_idx());
}

#[test]
fn a_driver_that_suppresses_calls_by_used_event_is_not_called() {
    no_call_when_suppressed(with_event_idx());
}

#[test]
fn used_event_ahead_of_the_next_frame_calls_when_it_is_reached() {
    let switch = Switch::start();
    let (mut a, b) = Guest::pair(&switch, with_event_idx(), with_event_idx());
    // The driver wants to be called for the eighth frame from now, not before.
    b.rx[0].calls();
    b.rx[0].want_call_at(b.rx[0].next_used.wrapping_add(7));
    for seed in 0..7 {
        a.send(&Frame::of_len(&a, &b, 60, seed));
    }
    assert!(a.flush(PATIENCE));
    std::thread::sleep(SILENCE);
    assert_eq!(b.rx[0].calls(), 0, "called too early");
    a.send(&Frame::of_len(&a, &b, 60, 7));
    assert!(eventually(|| b.rx[0].calls() > 0), "not called at the eighth frame");
}

#[test]
fn calls_are_fewer_than_frames() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, with_event_idx(), with_event_idx());
    b.rx[0].calls();
    assert!(!b.rx[0].want_calls());
    let frames: Vec<_> = (0..100).map(|seed| Frame::of_len(&a, &b, 60, seed)).collect();
    a.send_all(&frames);
    assert!(a.flush(PATIENCE));
    std::thread::sleep(SILENCE);
    assert_eq!(b.rx[0].calls(), 1, "one call is enough until the driver asks for the next");
}

fn few_kicks_while_the_switch_is_awake(options: Options) {
    let busy = SwitchOptions { poll_us: "busy".to_owned(), workers: 1, ..SwitchOptions::default() };
    let switch = Switch::start_with(busy);
    let (mut a, mut b) = Guest::pair(&switch, options.clone(), options);
    let first = Frame::of_len(&a, &b, 60, 0);
    a.send(&first);
    b.expect(&first);
    let kicks = a.tx[0].kicks;
    for seed in 0..200 {
        let frame = Frame::of_len(&a, &b, 60, seed);
        a.send(&frame);
        b.expect(&frame);
    }
    // With EVENT_IDX an index left alone is passed once in 65,536 frames.
    assert!(a.tx[0].kicks - kicks <= 1, "{} kicks of a switch that polls", a.tx[0].kicks - kicks);
}

#[test]
fn a_polling_switch_suppresses_kicks_by_flag() {
    few_kicks_while_the_switch_is_awake(without_event_idx());
}

#[test]
fn a_polling_switch_suppresses_kicks_by_avail_event() {
    few_kicks_while_the_switch_is_awake(with_event_idx());
}

fn a_sleeping_switch_wants_a_kick(options: Options) {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, options.clone(), options);
    for seed in 0..20 {
        std::thread::sleep(Duration::from_millis(20));
        let kicks = a.tx[0].kicks;
        let frame = Frame::of_len(&a, &b, 60, seed);
        a.send(&frame);
        assert_eq!(a.tx[0].kicks, kicks + 1, "the sleeping switch did not ask to be kicked");
        b.expect(&frame);
    }
}

#[test]
fn a_sleeping_switch_asks_for_a_kick_by_flag() {
    a_sleeping_switch_wants_a_kick(without_event_idx());
}

#[test]
fn a_sleeping_switch_asks_for_a_kick_by_avail_event() {
    a_sleeping_switch_wants_a_kick(with_event_idx());
}

#[test]
fn an_idle_switch_sleeps() {
    let switch = Switch::start();
    let pair = Guest::pair(&switch, Options::default(), Options::default());
    std::thread::sleep(Duration::from_millis(200));
    let before = switch.cpu_ticks();
    std::thread::sleep(Duration::from_secs(2));
    let used = switch.cpu_ticks() - before;
    // Ticks are hundredths of a second: 2 of 200 are one percent of one CPU.
    assert!(used <= 2, "{used} ticks of CPU in two idle seconds");
    drop(pair);
}

#[test]
fn posting_buffers_wakes_a_switch_that_waits_for_them() {
    let switch = Switch::start();
    switch.ok(&["switch", "set", "--rx-wait-us", "1000000"]);
    for options in [without_event_idx(), with_event_idx()] {
        let (mut a, mut b) = Guest::pair(&switch, options.clone(), options.post_by_hand(0));
        let frame = Frame::of_len(&a, &b, 60, 0);
        a.send(&frame);
        std::thread::sleep(Duration::from_millis(50));
        let posted = std::time::Instant::now();
        b.post(1);
        b.expect(&frame);
        assert!(posted.elapsed() < Duration::from_millis(500), "it took {:?}", posted.elapsed());
        drop((a, b));
        switch.wait_state("a", "waiting");
        switch.wait_state("b", "waiting");
    }
}

#[test]
fn a_notification_owed_before_its_descriptor_came_is_given_when_it_comes() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, with_event_idx(), with_event_idx());
    b.rx[0].calls();
    // Front ends that restart a ring give the kick before the call: it runs in between.
    b.acknowledged(Message::u64(message::SET_VRING_CALL, NO_FD)).unwrap();
    let frame = Frame::of_len(&a, &b, 100, 1);
    a.send(&frame);
    assert!(a.flush(PATIENCE));
    std::thread::sleep(SILENCE);
    assert_eq!(b.rx[0].calls(), 0, "called by a descriptor that was taken back");
    let call = b.rx[0].call.try_clone().unwrap();
    b.vhost().set_vring_call(0, &call).unwrap();
    assert!(eventually(|| b.rx[0].calls() > 0), "the driver waits for a call that never comes");
    b.expect(&frame);
}
