//! H22: what is no state of this very port, made by this fleet, after all that is known, is refused as a whole and said so.

use std::sync::LazyLock;

use turnpike_tests::lan::{mac, mac_text};
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Switch, eventually};

use crate::moves::{POLICY, answer, question};
use crate::world::{DEVICE, Host, World, add, key};

/// The state of a port that is made for this, on a switch that is made for this.
fn state_elsewhere(key: Option<&str>, name: &str, number: u8) -> Vec<u8> {
    let args = key.iter().flat_map(|key| ["--fleet-key".to_owned(), (*key).to_owned()]).collect();
    let switch = Switch::start_with(SwitchOptions { args, workers: 1, ..SwitchOptions::default() });
    add(&switch, name, number, DEVICE);
    exported(&switch, name)
}

fn exported(switch: &Switch, name: &str) -> Vec<u8> {
    let file = switch.dir().join("state.file");
    let path = file.to_str().expect("UTF-8");
    switch.ok(&["migrate", "export", name, "-o", path]);
    std::fs::read(path).expect("the file")
}

/// A state without key, and one of a fleet with another key; both of a port like ours.
static FOREIGN: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let (_dir, other) = key();
    [state_elsewhere(None, "a", 1), state_elsewhere(Some(&other), "a", 1)]
});

/// Loads at `host` what must be refused with this text, with no trace but an event.
#[track_caller]
fn refuse(host: &Host, channel: &turnpike_tests::Channel, bytes: &[u8], text: &str) {
    let (before, events) = (host.seen(), host.events("state-refused").len());
    assert!(channel.load_state(bytes).is_err(), "it was taken, instead of: {text}");
    let refused = host.events("state-refused");
    let (list, last) = (refused.len(), refused.last().map(ToString::to_string).unwrap_or_default());
    assert_eq!(list, events + 1, "{last}");
    assert!(last.contains(text), "{last}\n is not: {text}");
    assert!(eventually(|| host.switch.log().contains(text)), "the log does not say: {text}");
    assert_eq!(host.seen(), before, "it left a trace: {text}");
}

#[test]
fn h22_a_state_that_is_not_from_the_fleet_or_was_changed_is_refused() {
    let mut w = World::sealed(POLICY);
    assert_eq!(w.send(&[question(0)]), 1);
    let state = w.a.leave().expect("saved");
    let source = w.approach();
    let (host, channel) = (w.there(), w.a.channel());
    let [plain, other] = &*FOREIGN;
    refuse(host, channel, plain, "is not authenticated");
    refuse(host, channel, other, "does not verify with the fleet key");
    // Its seal taken off.
    let mut stripped = state[..state.len() - 32].to_vec();
    let kind = stripped.iter().zip(plain.iter()).position(|(ours, theirs)| ours != theirs).expect("a kind");
    stripped[kind] = plain[kind];
    refuse(host, channel, &stripped, "is not authenticated");
    // One bit of the content, and of the code.
    for at in (20..state.len()).step_by(state.len() / 12) {
        let mut forged = state.clone();
        forged[at] ^= 1 << (at % 8);
        refuse(host, channel, &forged, "does not verify with the fleet key");
    }
    for at in 0..4 {
        let mut forged = state.clone();
        forged[at] ^= 1;
        refuse(host, channel, &forged, "is not a sealed state");
    }
    for length in [1, 5, 100, state.len() / 2, state.len() - 33, state.len() - 1] {
        refuse(host, channel, &state[..length], "is not a sealed state");
    }
    refuse(host, channel, &[&state[..], &[0]].concat(), "is not a sealed state");
    refuse(host, channel, b"x", "is not a sealed state");
    // After all that the right one is still right.
    channel.load_state(&state).expect("the right one");
    w.arrive();
    assert_eq!(w.receive(&[answer(0)]), 1);
    drop(source);
}

#[test]
fn h22_a_state_of_another_port_is_refused() {
    let mut w = World::sealed(POLICY);
    let key = w.key().to_owned();
    let (name, address) = (state_elsewhere(Some(&key), "c", 1), state_elsewhere(Some(&key), "a", 9));
    let _state = w.a.leave().expect("saved");
    let _source = w.approach();
    let own = format!("this is port 'a' with address {}", mac_text(mac(1)));
    let of = |name: &str, number| format!("that of port '{name}' with address {}", mac_text(mac(number)));
    for (bytes, whose) in [(name, of("c", 1)), (address, of("a", 9))] {
        refuse(w.there(), w.a.channel(), &bytes, &format!("{whose}; {own}"));
    }
}

#[test]
fn h22_a_state_that_was_there_before_is_refused() {
    let mut w = World::sealed(POLICY);
    let first = w.go();
    // The tenant undoes what was billed, it thinks.
    assert_eq!(w.send(&[question(0)]), 1);
    w.a.stop().expect("stopped");
    refuse(w.here(), w.a.channel(), &first, "only a newer one is taken");
    w.a.go_on(turnpike_tests::options::Resume::Used).expect("running");
    let second = w.go();
    w.a.stop().expect("stopped");
    for old in [&first, &second] {
        refuse(w.here(), w.a.channel(), old, "only a newer one is taken");
    }
    // Nor at the other side, where the second was made.
    let _source = w.approach();
    refuse(w.there(), w.a.channel(), &first, "only a newer one is taken");
    assert_eq!(w.here().switch.counter("a", "out_packets"), 1);
}

/// The file of the store tells a switch that was killed what it took.
#[test]
fn h22_a_switch_that_was_killed_still_knows_what_it_has_seen() {
    let mut w = World::sealed(POLICY);
    let first = w.go();
    assert!(eventually(|| w.here().switch.has_event("guest-arrived")));
    w.here().switch.kill();
    w.here().switch.start_again();
    let socket = w.here().socket.clone();
    let _dead = w.a.approach(&socket).expect("handshake");
    refuse(w.here(), w.a.channel(), &first, "only a newer one is taken");
}

#[test]
fn h27_a_state_comes_and_goes_only_while_rings_stand_still_and_once() {
    let mut w = World::sealed(POLICY);
    assert!(w.a.channel().save_state().is_err(), "saved while its rings run");
    assert!(w.a.channel().load_state(&FOREIGN[0]).is_err(), "loaded while its rings run");
    assert_eq!(w.send(&[question(0)]), 1);
    let state = w.a.leave().expect("saved");
    // Saved again, it has a later epoch; which of them arrives is for the front end to choose.
    let again = w.a.channel().save_state().expect("saved again");
    assert_ne!(state, again);
    let source = w.approach();
    let channel = w.a.channel();
    channel.load_state(&state).expect("loaded");
    let provisional = w.there().seen();
    assert!(channel.load_state(&again).is_err(), "a second state was taken");
    assert!(channel.save_state().is_err(), "a state that is provisional was given away");
    assert!(eventually(|| w.there().switch.log().contains("a state has arrived for it already")));
    assert_eq!(w.there().seen(), provisional);
    assert_eq!(w.there().state(), "incoming");
    w.arrive();
    drop(source);
    assert_eq!(w.receive(&[answer(0)]), 1);
}

#[test]
fn s20_3_a_vlan_that_contradicts_another_port_is_refused() {
    let mut w = World::sealed(&["port set a --vlan isolated:2/4"]);
    w.there().run("port set b --vlan community:2/4");
    let state = w.a.leave().expect("saved");
    let source = w.approach();
    refuse(w.there(), w.a.channel(), &state, "4");
    assert!(w.there().events("state-refused")[0].to_string().contains("'b'"));
    // It is not too late to mend that.
    w.there().run("port set b --vlan community:2/5");
    w.a.channel().load_state(&state).expect("loaded");
    w.arrive();
    drop(source);
    assert_eq!(w.here().switch.port("a")["policy"]["vlan"], "isolated:2/4");
}

#[test]
fn s20_3_a_device_that_has_less_than_the_guest_uses_is_refused() {
    let text = [
        ("--mtu 1500 --queues 1", "the guest's MTU is 9000 and this port's 1500"),
        ("--mtu 9000 --queues 1 --features csum,guest-csum", "which this port does not offer"),
    ];
    for (device, text) in text {
        let mut w = World::new(true, &[], device);
        let state = w.a.leave().expect("saved");
        let source = w.approach();
        refuse(w.there(), w.a.channel(), &state, text);
        w.back(source);
        assert_eq!(w.send(&[question(0)]), 1);
    }
    // Queue pairs: of the port, not only those the guest uses.
    let mut w = World::sealed(&[]);
    w.here().run("port add many --socket many.sock --queues 4 --mac 52:54:00:00:00:21");
    let socket = w.there().switch.add_port("many", &["--queues", "2", "--mac", "52:54:00:00:00:21"]);
    let state = exported(&w.here().switch, "many");
    w.a.stop().expect("stopped");
    let _source = w.a.approach(&socket).expect("handshake");
    assert!(w.a.channel().load_state(&state).is_err());
    let event = w.there().events("state-refused")[0].to_string();
    assert!(event.contains("the guest has 4 queue pairs and this port offers 2"), "{event}");
}

#[test]
fn s20_4_a_file_is_imported_only_while_the_guest_does_not_run() {
    let mut w = World::sealed(POLICY);
    assert_eq!(w.send(&[question(0)]), 1);
    drop(exported(&w.here().switch, "a"));
    let file = w.here().switch.dir().join("state.file");
    let import = ["migrate", "import", file.to_str().expect("UTF-8")];
    let before = w.here().seen();
    let done = w.here().switch.run(&import);
    let said = String::from_utf8(done.stderr).expect("UTF-8");
    assert_eq!(
        said,
        "turnpike: port 'a': its rings run; valid: a port whose guest is stopped or not attached\n"
    );
    assert_eq!((done.status.code(), w.here().seen()), (Some(1), before));
    // Where it does not, it is the operator's word, however old, and final at once.
    w.there().switch.ok(&import);
    assert_eq!(w.there().switch.port("a")["policy"]["vm"], "shop");
    assert_eq!(w.there().switch.counter("a", "out_packets"), 1);
    // The guest's own state, saved later, is newer than that.
    w.go();
    assert_eq!(w.receive(&[answer(0)]), 1);
}
