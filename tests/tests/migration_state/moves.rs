//! Section 20: a guest has at the other host what it had, and exactly what happened since.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use turnpike_tests::eventually;

use crate::world::{DEVICE, World, to_a, to_b};

/// A policy of every kind; with it `a` talks to `b` by UDP, and opens sessions.
pub(crate) const POLICY: &[&str] = &[
    "port set a --mac-spoofing on --dhcp-guard on --router-guard on --storm-limit 500 --vm shop",
    "port set a --address-limit 40",
    "acl add a --action meter --direction out --remote 10.0.0.0/8",
    "acl add a --action meter --direction in --remote 10.0.0.2",
    "acl add a --action deny --direction out --remote 10.9.0.0/16",
    "meter enable a",
    "rule add a --action deny --direction in --weight 1",
    "rule add a --action deny --direction out --weight 1",
    "rule add a --action allow --stateful --direction out --weight 10 --protocol udp --idle-timeout 1h",
];

/// A datagram with which `a` opens, or keeps, session number `n`.
pub(crate) fn question(n: u16) -> Vec<u8> {
    to_b().udp(1000 + n, 53).payload(&[7; 100]).build()
}

/// The answer in session number `n`.
pub(crate) fn answer(n: u16) -> Vec<u8> {
    to_a().udp(53, 1000 + n).payload(&[8; 200]).build()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// All numbers that count something, by where they are.
fn counts(value: &Value, at: &str, all: &mut HashMap<String, u64>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| counts(value, &format!("{at}/{key}"), all)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| counts(value, &format!("{at}/{i}"), all));
        }
        Value::Number(n) if at.ends_with("packets") || at.ends_with("bytes") || at.contains("_drops/") => {
            all.insert(at.to_owned(), n.as_u64().unwrap_or(u64::MAX));
        }
        _ => {}
    }
}

/// What the counts of `now` are more than those of `before`, without those that are the same.
fn grown(before: &Value, now: &Value) -> Vec<(String, u64)> {
    let (mut old, mut new) = (HashMap::new(), HashMap::new());
    counts(before, "", &mut old);
    counts(now, "", &mut new);
    let mut grown: Vec<_> = new
        .into_iter()
        .map(|(at, count)| {
            let was = old.remove(&at).unwrap_or_default();
            assert!(count >= was, "{at} was {was} and is {count}");
            (at, count - was)
        })
        .filter(|(_, more)| *more != 0)
        .collect();
    assert!(old.values().all(|was| *was == 0), "{old:?} are counted no more");
    grown.sort();
    grown
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !["packets", "bytes"].contains(&key.as_str()) && key != "counters");
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The same, with nothing counted.
fn without_counts(value: &Value) -> Value {
    let mut value = value.clone();
    strip(&mut value);
    value
}

/// Traffic of every kind that is counted: sessions, a denied address, a packet without session.
fn traffic(w: &mut World, rounds: u16) {
    let questions: Vec<_> = (0..20 * rounds).map(|n| question(n % 20)).collect();
    let answers: Vec<_> = (0..20 * rounds).map(|n| answer(n % 20)).collect();
    assert_eq!(w.send(&questions), questions.len());
    assert_eq!(w.receive(&answers), answers.len());
    let denied = to_b().to_ip([10, 9, 0, 1]).udp(1, 2).build();
    assert_eq!(w.send(&vec![denied; usize::from(rounds)]), 0);
    let stray = to_a().udp(99, 99).build();
    assert_eq!(w.receive(&vec![stray; 2 * usize::from(rounds)]), 0);
}

#[test]
fn s20_2_everything_of_a_port_is_at_the_other_host_as_it_was_and_counts_on() {
    let mut w = World::sealed(POLICY);
    // One more address behind the guest.
    let mut inner = to_b().udp(1000, 53).payload(&[7; 100]);
    inner = inner.source([0x52, 0x54, 0, 0, 0, 0x77]);
    assert_eq!(w.send(&[inner.build()]), 1);
    traffic(&mut w, 3);
    let before = w.here().seen();
    assert_eq!(before["sessions"].as_array().map(Vec::len), Some(20));
    assert!(before["fdb"].to_string().contains("52:54:00:00:00:77"), "{before:#}");
    w.go();
    assert_eq!(w.here().seen(), before);
    traffic(&mut w, 5);
    let after = w.here().seen();
    assert_eq!(without_counts(&after), without_counts(&before));
    let (out, into) = (question(0).len() as u64, answer(0).len() as u64);
    let grown: HashMap<_, _> = grown(&before, &after).into_iter().collect();
    let of = |at: &str| grown.get(at).copied().unwrap_or_default();
    assert_eq!(of("/port/counters/out_packets"), 100, "{grown:#?}");
    assert_eq!((of("/port/counters/out_bytes"), of("/port/counters/in_bytes")), (100 * out, 100 * into));
    assert_eq!(of("/port/counters/in_packets"), 100);
    assert_eq!(
        (of("/port/counters/out_drops/acl-denied"), of("/port/counters/in_drops/rule-denied")),
        (5, 10)
    );
    // Nothing else has grown but the meters and the lists that the same frames passed.
    let metered = after["meters"][0]["entries"].as_array().expect("meters");
    assert_eq!(metered.len(), 2);
    for entry in metered {
        // 3 + 5 rounds, and the frame of the inner address.
        let want = if entry["direction"] == "out" { (161, 161 * out) } else { (160, 160 * into) };
        assert_eq!((number(&entry["packets"]), number(&entry["bytes"])), want, "{entry}");
    }
    // The host that the guest left counts nothing of it.
    assert!(eventually(|| w.there().state() == "frozen"));
    assert_eq!(w.there().switch.counter("a", "out_packets"), 61);
}

#[test]
fn s20_2_a_guest_that_moves_to_and_fro_is_always_the_same() {
    let mut w = World::sealed(POLICY);
    traffic(&mut w, 1);
    let first = w.here().seen();
    for round in 0..6 {
        w.go();
        let seen = w.here().seen();
        assert_eq!(seen, first, "after move {round}");
    }
    traffic(&mut w, 1);
    for (at, count) in grown(&first, &w.here().seen()) {
        assert!([1, 2, 20, 40].contains(&count) || at.ends_with("bytes"), "{at}: {count}");
    }
}

#[test]
fn s20_2_twenty_moves_leave_nothing_behind() {
    let mut w = World::sealed(POLICY);
    traffic(&mut w, 1);
    w.go();
    w.go();
    let held = |w: &World| w.hosts.each_ref().map(|host| host.switch.holdings());
    // The line of the front end that went is closed a little later.
    let lines = |w: &World| held(w).iter().flatten().filter(|item| *item == "thread vp-a").count();
    assert!(eventually(|| lines(&w) == 1));
    let mut before = held(&w);
    assert!(eventually(|| {
        std::thread::sleep(Duration::from_millis(100));
        let now = held(&w);
        std::mem::replace(&mut before, now) == before
    }));
    for _ in 0..20 {
        w.go();
    }
    assert!(eventually(|| held(&w) == before), "{:#?}\nwere\n{before:#?}", held(&w));
    assert_eq!(w.here().seen()["sessions"].as_array().map(Vec::len), Some(20));
}

#[test]
fn s20_4_without_a_fleet_key_the_configured_policy_stays_and_counts_go_on() {
    let mut w = World::new(false, POLICY, DEVICE);
    w.there().run("port set a --dhcp-guard off --storm-limit 77");
    w.there().run("acl add a --action meter --direction out --remote 10.0.0.0/8");
    w.there().run("meter enable a");
    traffic(&mut w, 3);
    let (before, configured) = (w.here().seen(), w.there().seen());
    w.go();
    let after = w.here().seen();
    for setting in ["storm_limit", "dhcp_guard", "mac_spoofing", "router_guard", "vm", "address_limit"] {
        assert_eq!(after["port"]["policy"][setting], configured["port"]["policy"][setting], "{setting}");
    }
    assert_eq!(after["rules"], configured["rules"]);
    assert_eq!(after["port"]["counters"], before["port"]["counters"]);
    // The one meter that is at both hosts goes on, with its period.
    let entry = |seen: &Value| {
        let list = seen["meters"][0]["entries"].as_array().expect("meters").clone();
        list.into_iter().find(|entry| entry["direction"] == "out").expect("a meter")
    };
    assert_eq!(entry(&after), entry(&before));
    assert_eq!(number(&entry(&after)["packets"]), 60);
    assert_eq!(after["meters"][0]["since"], before["meters"][0]["since"]);
    let events = w.here().events("state-loaded");
    assert_eq!((events.len(), &events[0]["authenticated"]), (1, &Value::Bool(false)), "{events:?}");
    // With one, the event says the opposite.
    let mut w = World::sealed(POLICY);
    w.go();
    assert_eq!(w.here().events("state-loaded")[0]["authenticated"], true);
}

#[test]
fn s20_5_a_guest_that_is_not_there_hears_nothing_and_one_that_comes_hears_what_waited() {
    let mut w = World::sealed(&[]);
    assert_eq!(w.send(&[question(0)]), 1);
    let state = w.a.leave().expect("saved");
    let source = w.approach();
    w.a.channel().load_state(&state).expect("loaded");
    // Both hosts hold what their guest sends meanwhile.
    for host in &mut w.hosts {
        for n in 0..10 {
            host.b.send(&answer(n));
        }
        assert!(host.b.flush(turnpike_tests::PATIENCE));
    }
    w.arrive();
    let heard = w.a.receive_all();
    assert_eq!(heard.len(), 10, "what waited at the destination, and not what waits at the source");
    drop(source);
    assert!(eventually(|| w.there().state() == "frozen"));
}

#[test]
fn s20_2_a_port_that_was_not_metered_is_not_metered_elsewhere() {
    let mut w = World::sealed(&[]);
    w.there().run("acl add a --action deny --direction out --remote any");
    w.there().run("meter enable a");
    let before = w.here().seen();
    w.go();
    assert_eq!(w.here().seen(), before);
    assert_eq!(w.send(&[question(0)]), 1);
}

#[test]
fn s20_3_vlans_come_along() {
    let mut w = World::sealed(&["port set a --vlan access:7", "port set b --vlan access:7"]);
    assert_eq!(w.send(&[question(0)]), 1);
    w.go();
    assert_eq!(w.send(&[question(0)]), 0, "b is in no VLAN here");
    w.here().run("port set b --vlan access:7");
    assert_eq!(w.send(&[question(0)]), 1);
}
