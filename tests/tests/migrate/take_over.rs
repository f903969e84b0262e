//! A switch that is part of a move is not replaced; one that waits for moves is, and goes on waiting.

use turnpike_tests::{Guest, Options, Switch};

use super::pair::{Pair, refusal};
use super::{policy, running};

/// A take-over that must be refused because of the port `web`.
#[track_caller]
fn is_refused(switch: &Switch, step: &str) {
    let text = refusal(&switch.run(&["serve", "--take-over", "--state-dir", "none"]));
    assert!(text.contains("it was not taken over") && text.contains("port 'web'"), "{step}: {text}");
}

#[test]
fn s20_7_a_take_over_waits_for_the_end_of_a_move() {
    let mut r = running();
    let there = policy(&r.pair.destination);
    let sent = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    let sides = [&r.pair.source, &r.pair.destination];
    for side in sides {
        is_refused(side, "reserved");
    }
    r.web.stop().expect("stopped");
    Pair::wait_step(&r.pair.source, "web", "commit");
    for side in sides {
        is_refused(side, "commit");
    }
    // The refusals have touched nothing: the move goes on to its end.
    let web = Guest::connect(&r.there, Options::default());
    assert!(sent.join().expect("sent").status.success());
    Pair::wait_step(&r.pair.destination, "web", "done");
    assert_ne!(policy(&r.pair.destination), there);
    let moved = policy(&r.pair.destination);
    // Its front end is closed by the VMM when the guest has moved.
    drop(r.web);
    for side in sides {
        side.take_over();
    }
    assert_eq!(policy(&r.pair.destination), moved);
    assert_eq!(r.pair.destination.port("web")["state"], "running");
    drop(web);
}

#[test]
fn s20_7_a_take_over_is_possible_after_a_move_that_was_cancelled() {
    let r = running();
    let sent = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    is_refused(&r.pair.source, "reserved");
    r.pair.source.ok(&["migrate", "cancel", "web"]);
    refusal(&sent.join().expect("sent"));
    Pair::wait_step(&r.pair.destination, "web", "done");
    r.pair.source.take_over();
    r.pair.destination.take_over();
    assert_eq!(r.pair.source.port("web")["state"], "running");
}

#[test]
fn s20_7_a_successor_goes_on_to_take_ports_where_the_one_before_did() {
    let mut r = running();
    for _ in 0..2 {
        r.pair.destination.take_over();
    }
    let shown = r.pair.destination.json(&["migrate", "listen"]);
    assert_eq!(shown["address"], r.pair.address.as_str());
    let sent = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    r.web.stop().expect("stopped");
    let web = Guest::connect(&r.there, Options::default());
    assert!(sent.join().expect("sent").status.success());
    assert_eq!(policy(&r.pair.destination)["dhcp_guard"], true);
    drop(web);
    // And it can be told to stop.
    r.pair.destination.ok(&["migrate", "listen", "--stop"]);
    assert!(refusal(&r.pair.send("web").join().expect("sent")).contains("cannot be reached"));
}
