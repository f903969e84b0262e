//! Section 20: whoever dies in the middle of a move, the port runs on one side with its state, or waits with its own policy and counts.

use std::fs::File;
use std::io::Write;

use serde_json::Value;
use turnpike_tests::device_state::{LOAD, SAVE, pipe};
use turnpike_tests::options::Resume;
use turnpike_tests::{Guest, Line, Options, eventually};

use crate::moves::{POLICY, answer, question};
use crate::world::{Host, World};

/// How far the move has come at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connected,
    /// The descriptor is there, nothing in it.
    Asked,
    /// Half the state.
    Half,
    /// All of it, and nobody asked how it went.
    Given,
    Checked,
}

const STEPS: [Step; 5] = [Step::Connected, Step::Asked, Step::Half, Step::Given, Step::Checked];

/// What the destination is configured to be, and has counted: another guest of this address was there before.
const OTHER: &[&str] = &[
    "port set a --storm-limit 9 --vm before",
    "acl add a --action meter --direction out --remote 0.0.0.0/0",
    "meter enable a",
];

fn world() -> World {
    let mut w = World::sealed(POLICY);
    for line in OTHER {
        w.there().run(line);
    }
    let mut before = Guest::attach(&w.there().switch, "a", Options::default());
    before.send_all(&vec![question(0); 17]);
    assert!(before.flush(turnpike_tests::PATIENCE));
    drop(before);
    w.hosts[1].b.receive_all();
    w.there().switch.wait_state("a", "waiting");
    assert_eq!(w.send(&[question(1), question(2)]), 2);
    w
}

/// Brings the move that far; the pipe must be kept.
fn bring(w: &World, state: &[u8], step: Step) -> Option<File> {
    let channel = w.a.channel();
    if step == Step::Connected {
        return None;
    }
    if step == Step::Checked {
        channel.load_state(state).expect("loaded");
        assert_eq!(w.there().state(), "incoming");
        return None;
    }
    let (reader, writer) = pipe().expect("a pipe");
    channel.device_state_fd(LOAD, &reader).expect("taken");
    let mut writer = File::from(writer);
    match step {
        Step::Half => writer.write_all(&state[..state.len() / 2]).expect("written"),
        Step::Given => {
            writer.write_all(state).expect("written");
            drop(writer);
            assert!(eventually(|| w.there().state() == "incoming"));
            return None;
        }
        _ => {}
    }
    Some(writer)
}

#[track_caller]
fn is_as_before(host: &Host, before: &Value, when: &str) {
    let same =
        eventually(|| ["waiting", "frozen"].contains(&host.state().as_str()) && host.seen() == *before);
    assert!(same, "{when}: {} {:#}\nand was {before:#}", host.state(), host.seen());
}

#[test]
fn s20_7_a_front_end_that_dies_at_the_destination_leaves_it_as_it_was() {
    let mut w = world();
    let (here, there) = (w.here().seen(), w.there().seen());
    for step in STEPS {
        let state = w.a.leave().expect("saved");
        let source = w.approach();
        let kept = bring(&w, &state, step);
        w.a.channel().hang_up();
        is_as_before(w.there(), &there, &format!("{step:?}"));
        drop(kept);
        w.back(source);
        assert_eq!(w.here().seen(), here, "{step:?}");
        assert_eq!(
            w.there().events("arrival-undone").len(),
            match step {
                Step::Given => 1,
                Step::Checked => 2,
                _ => 0,
            }
        );
    }
    assert_eq!(w.send(&[question(1)]) + w.receive(&[answer(2)]), 2);
    // A move after all those that failed.
    w.go();
    assert_eq!(w.send(&[question(1)]) + w.receive(&[answer(2)]), 2);
    assert_eq!(w.here().switch.counter("a", "out_packets"), 4);
}

#[test]
fn s20_7_a_front_end_that_dies_after_the_rings_ran_leaves_the_port_as_it_arrived() {
    let mut w = world();
    w.go();
    assert!(eventually(|| w.here().switch.has_event("guest-arrived")));
    let arrived = w.here().seen();
    w.a.channel().hang_up();
    is_as_before(w.here(), &arrived, "after the arrival");
    let socket = w.here().socket.clone();
    w.a.reconnect(&socket, Resume::Used).expect("a new front end");
    w.here().switch.wait_state("a", "running");
    assert_eq!(w.send(&[question(1)]), 1);
    assert_eq!(w.here().switch.counter("a", "out_packets"), 3);
}

#[test]
fn s20_7_a_front_end_that_dies_at_the_source_leaves_its_port_waiting_with_all_it_was() {
    let mut w = world();
    let before = w.here().seen();
    for saved in [false, true] {
        w.a.stop().expect("stopped");
        let (reader, writer) = pipe().expect("a pipe");
        w.a.channel().device_state_fd(SAVE, &writer).expect("taken");
        if saved {
            w.a.channel().check_device_state().expect("saved");
        }
        w.a.channel().hang_up();
        drop(reader);
        is_as_before(w.here(), &before, "the source");
        let socket = w.here().socket.clone();
        w.a.reconnect(&socket, Resume::Used).expect("a new front end");
        w.here().switch.wait_state("a", "running");
        assert_eq!(w.here().seen(), before);
    }
    assert_eq!(w.send(&[question(1)]) + w.receive(&[answer(2)]), 2);
}

#[test]
fn s20_7_a_destination_that_is_killed_knows_what_was_final_and_nothing_else() {
    let mut w = world();
    let there = w.there().seen();
    for step in STEPS {
        let state = w.a.leave().expect("saved");
        let source = w.approach();
        let kept = bring(&w, &state, step);
        w.there().switch.kill();
        drop(kept);
        w.there().switch.start_again();
        let arrived = w.there().state() == "incoming";
        if step == Step::Checked || step == Step::Given && arrived {
            // The front end may come back any moment; see below. Here it does not, and another state comes. What was only given may have
            // arrived before the end, or not.
            assert!(arrived, "killed when {step:?}");
        } else {
            is_as_before(w.there(), &there, &format!("killed when {step:?}"));
        }
        w.back(source);
    }
    let here = w.here().seen();
    // The guest that stays there has to come back, too.
    let socket = w.there().switch.dir().join("b.sock");
    let other = 1 - w.at;
    w.hosts[other].b.reconnect(&socket, Resume::Used).expect("b again");
    w.go();
    assert!(eventually(|| w.here().switch.has_event("guest-arrived")));
    assert_eq!(w.send(&[question(1)]), 1);
    w.here().switch.kill();
    w.here().switch.start_again();
    let seen = w.here().seen();
    for part in ["acl", "rules"] {
        assert_eq!(seen[part].as_array().map(Vec::len), here[part].as_array().map(Vec::len), "{part}");
    }
    assert_eq!(seen["port"]["policy"]["vm"], "shop");
    assert_eq!(seen["port"]["counters"]["out_packets"], 3);
    assert_eq!(seen["meters"][0]["since"], here["meters"][0]["since"]);
}

/// A move to a destination whose switch was killed when the state was in force and no rings had run; it is back. Also what was seen at the
/// source, and at the destination before.
fn killed_before_the_rings_ran() -> (World, Line, Value, Value) {
    let mut w = world();
    let (here, there) = (w.here().seen(), w.there().seen());
    let state = w.a.leave().expect("saved");
    let source = w.approach();
    bring(&w, &state, Step::Checked);
    w.there().switch.kill();
    w.there().switch.start_again();
    (w, source, here, there)
}

#[test]
fn s20_7_a_destination_that_is_killed_before_the_rings_ran_has_the_state_when_its_front_end_is_back() {
    let (mut w, source, before, _) = killed_before_the_rings_ran();
    // A second death changes nothing.
    w.there().switch.kill();
    w.there().switch.start_again();
    let socket = w.there().socket.clone();
    let b = w.there().switch.dir().join("b.sock");
    let other = 1 - w.at;
    w.hosts[other].b.reconnect(&b, Resume::Used).expect("b again");
    w.a.reconnect(&socket, Resume::Used).expect("the same guest");
    w.at = other;
    drop(source);
    assert!(eventually(|| w.here().switch.has_event("guest-arrived")));
    assert_eq!(w.here().seen(), before);
    assert_eq!(w.send(&[question(1)]) + w.receive(&[answer(2)]), 2);
    // It is final now: the next death does not bring anything back.
    let now = w.here().seen();
    w.here().switch.kill();
    w.here().switch.start_again();
    assert_eq!(w.here().state(), "waiting");
    assert_eq!(w.here().seen()["port"]["policy"], now["port"]["policy"]);
}

#[test]
fn s20_7_a_destination_that_is_killed_before_the_rings_ran_does_not_wait_for_ever() {
    let (mut w, source, _, there) = killed_before_the_rings_ran();
    assert_eq!(w.there().state(), "incoming");
    w.back(source);
    std::thread::sleep(std::time::Duration::from_secs(10));
    is_as_before(w.there(), &there, "nobody came back");
    assert!(w.there().switch.has_event("arrival-undone"));
}

#[test]
fn s20_7_a_source_that_is_killed_after_the_save_is_not_needed() {
    let mut w = world();
    let before = w.here().seen();
    let state = w.a.leave().expect("saved");
    w.here().switch.kill();
    let source = w.approach();
    w.a.channel().load_state(&state).expect("loaded");
    w.arrive();
    drop(source);
    assert_eq!(w.here().seen(), before);
    assert_eq!(w.send(&[question(1)]) + w.receive(&[answer(2)]), 2);
    // It comes back as what it was, and takes the guest again.
    w.there().switch.start_again();
    assert_eq!(w.there().state(), "waiting");
    assert_eq!(w.there().switch.counter("a", "out_packets"), 2);
    let now = w.here().seen();
    w.go();
    assert_eq!(w.here().seen(), now);
}

#[test]
fn s20_7_a_source_that_is_killed_while_its_guest_is_on_the_way_takes_it_back() {
    let mut w = world();
    let state = w.a.leave().expect("saved");
    let source = w.approach();
    w.a.channel().load_state(&state).expect("loaded");
    w.here().switch.kill();
    // The destination does not run it after all.
    drop(source);
    w.a.channel().hang_up();
    w.here().switch.start_again();
    let socket = w.here().socket.clone();
    w.a.reconnect(&socket, Resume::Used).expect("the guest is back");
    w.here().switch.wait_state("a", "running");
    let seen = w.here().seen();
    assert_eq!(
        (&seen["port"]["policy"]["vm"], &seen["port"]["counters"]["out_packets"]),
        (&"shop".into(), &2.into())
    );
    assert!(eventually(|| w.there().state() == "waiting"));
    assert_eq!(w.there().switch.port("a")["policy"]["vm"], "before");
}
