//! Ports that move from switch to switch over TLS (`turnpike migrate`), with scripted front ends on both sides.
//!
//! Semantics section 20; hostile case H27.

mod pair;
mod take_over;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pair::{Pair, refusal, run};
use serde_json::Value;
use turnpike_tests::{Frame, Guest, Options, Switch, eventually};

/// A guest on the source's port `web` and one that hears it.
struct Running {
    pair: Pair,
    web: Guest,
    peer: Guest,
    /// The destination's socket.
    there: std::path::PathBuf,
}

fn running() -> Running {
    let pair = Pair::new();
    let (_, there) = pair.add("web", 1, &["--dhcp-guard", "on", "--address-limit", "7"]);
    pair.source.ok(&["acl", "add", "web", "--action", "meter", "--direction", "both", "--remote", "any"]);
    let mut web = Guest::attach(&pair.source, "web", Options::default());
    let mut peer = Guest::attach(&pair.source, "peer", Options::default());
    let frame = Frame::between(&web, &peer).udp(1, 2).payload(b"before").build();
    web.send(&frame);
    peer.expect(&frame);
    Running { pair, web, peer, there }
}

fn policy(switch: &Switch) -> Value {
    switch.port("web")["policy"].clone()
}

/// The bytes that a port's meters counted.
fn metered(switch: &Switch) -> Vec<u64> {
    let list = switch.json(&["acl", "list", "web"]);
    list.as_array().expect("a list").iter().filter_map(|entry| entry["bytes"].as_u64()).collect()
}

/// The guest still talks at the source, and what it sends is counted on.
#[track_caller]
fn is_as_it_was(r: &mut Running, before: &(Value, Vec<u64>)) {
    assert_eq!(policy(&r.pair.source), before.0);
    assert_eq!(metered(&r.pair.source), before.1);
    let frame = Frame::between(&r.web, &r.peer).udp(1, 2).payload(b"after").build();
    r.web.send(&frame);
    r.peer.expect(&frame);
}

fn resume(guest: &mut Guest, bases: &[u32]) {
    guest.start(bases).expect("the rings start again");
    for ring in guest.rx.iter_mut().chain(&mut guest.tx) {
        ring.kick_anyway();
    }
}

#[test]
fn s20_2_policy_meters_and_counters_go_over_with_the_port() {
    let mut r = running();
    let before = (policy(&r.pair.source), metered(&r.pair.source));
    let out = r.pair.source.counter("web", "out_packets");
    let sent = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    r.web.stop().expect("stopped");
    Pair::wait_step(&r.pair.source, "web", "commit");
    assert_eq!(r.pair.destination.port("web")["state"], "incoming");
    let web = Guest::connect(&r.there, Options::default());
    let output = sent.join().expect("sent");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for side in [&r.pair.source, &r.pair.destination] {
        let view = Pair::wait_step(side, "web", "done");
        assert_eq!((&view["outcome"], &view["confirmed"]), (&"committed".into(), &true.into()), "{view}");
    }
    assert_eq!((policy(&r.pair.destination), metered(&r.pair.destination)), before);
    assert_eq!(r.pair.destination.counter("web", "out_packets"), out);
    drop(web);
}

#[test]
fn s20_1_rings_wait_for_the_state() {
    let mut r = running();
    let sent = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    // The destination's front end is quicker than the source's.
    let mut web = Guest::connect(&r.there, Options::default());
    web.mac = r.pair.destination.mac("web");
    assert_ne!(r.pair.destination.port("web")["state"], "running");
    r.web.stop().expect("stopped");
    assert!(sent.join().expect("sent").status.success());
    r.pair.destination.wait_state("web", "running");
    let mut peer = Guest::attach(&r.pair.destination, "peer", Options::default());
    let frame = Frame::between(&web, &peer).udp(1, 2).payload(b"there").build();
    web.send(&frame);
    peer.expect(&frame);
}

#[test]
fn s20_1_rings_do_not_wait_for_ever() {
    let r = running();
    let sent = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    r.pair.source.kill();
    let _web = Guest::connect(&r.there, Options::default());
    let began = Instant::now();
    r.pair.destination.wait_state("web", "running");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let view = Pair::wait_step(&r.pair.destination, "web", "done");
    assert_eq!(view["outcome"], "failed", "{view}");
    assert_eq!(policy(&r.pair.destination)["dhcp_guard"], false, "its own policy");
    refusal(&sent.join().expect("sent"));
    r.pair.source.start_again();
}

#[test]
fn s20_1_a_guest_that_goes_on_at_the_source_takes_everything_back() {
    let mut r = running();
    let before = (policy(&r.pair.source), metered(&r.pair.source));
    let there = policy(&r.pair.destination);
    let sent = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    let bases = r.web.stop().expect("stopped");
    Pair::wait_step(&r.pair.source, "web", "commit");
    assert_eq!(policy(&r.pair.destination), before.0);
    resume(&mut r.web, &bases);
    assert!(refusal(&sent.join().expect("sent")).contains("rolled-back"));
    Pair::wait_step(&r.pair.destination, "web", "done");
    assert_eq!(policy(&r.pair.destination), there);
    is_as_it_was(&mut r, &before);
}

#[test]
fn s20_1_cancel_at_each_step_leaves_the_source_as_it_was() {
    let mut r = running();
    let there = policy(&r.pair.destination);
    for step in ["reserved", "commit"] {
        for by_source in [true, false] {
            let before = (policy(&r.pair.source), metered(&r.pair.source));
            let sent = r.pair.send("web");
            Pair::wait_step(&r.pair.source, "web", "reserved");
            let bases = (step == "commit").then(|| r.web.stop().expect("stopped"));
            Pair::wait_step(&r.pair.source, "web", step);
            let side = if by_source { &r.pair.source } else { &r.pair.destination };
            side.ok(&["migrate", "cancel", "web"]);
            refusal(&sent.join().expect("sent"));
            Pair::wait_step(&r.pair.destination, "web", "done");
            assert_eq!(policy(&r.pair.destination), there, "{step}");
            assert_eq!(r.pair.destination.port("web")["state"], "waiting", "{step}");
            if let Some(bases) = bases {
                resume(&mut r.web, &bases);
                r.pair.source.wait_state("web", "running");
            }
            is_as_it_was(&mut r, &before);
        }
    }
}

#[test]
fn s20_1_a_port_is_part_of_one_migration_at_a_time() {
    let r = running();
    let first = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    let second = refusal(&r.pair.send("web").join().expect("sent"));
    assert!(second.contains("port 'web': it is part of migration "), "{second}");
    r.pair.source.ok(&["migrate", "cancel", "web"]);
    refusal(&first.join().expect("sent"));
}

#[test]
fn s20_4_everything_that_does_not_fit_is_said_before_anything_moves() {
    let r = running();
    r.pair.source.add_port("big", &["--queues", "4", "--mtu", "9000"]);
    r.pair.destination.add_port("big", &["--mtu", "1500"]);
    let said = refusal(&r.pair.send("big").join().expect("sent"));
    for code in ["(mac-differs)", "(queues-missing)", "(mtu-smaller)"] {
        assert!(said.contains(code), "{code} in {said}");
    }
    let view = r.pair.source.json(&["migrate", "status", "big"]);
    assert_eq!(view["outcome"], "refused");
    assert_eq!(view["problems"].as_array().map(Vec::len), Some(3), "{view}");
    assert!(refusal(&r.pair.send("peer").join().expect("sent")).contains("(port-missing)"));
    // The same, offline: a document from one switch to the other.
    let manifest = r.pair.certificates.path("manifest.json");
    std::fs::write(&manifest, r.pair.source.ok(&["migrate", "manifest", "big"])).expect("written");
    let checked = r.pair.destination.run(&["migrate", "check", &manifest, "--json"]);
    assert_eq!(checked.status.code(), Some(1));
    let checked: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!(checked["ok"], false);
    let codes: Vec<_> = checked["problems"].as_array().expect("a list").iter().map(|p| &p["code"]).collect();
    assert_eq!(codes, ["mac-differs", "queues-missing", "mtu-smaller"]);
}

#[test]
fn wrong_certificates_are_refused_with_the_side_and_the_reason() {
    let pair = Pair::new();
    let _ = pair.add("web", 1, &[]);
    let other = pair.certificates.authority("other");
    pair.certificates.issue(&other, "stranger", |_| {});
    pair.certificates.issue(&pair.ca, "old", |c| {
        (c.not_before, c.not_after) = (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(2001, 1, 1));
    });
    pair.certificates.issue(&pair.ca, "early", |c| c.not_before = rcgen::date_time_ymd(4000, 1, 1));
    let api = pair.source.dir().join("api.sock");
    let said = |name, ca| refusal(&run(&api, &pair.send_command("web", name, ca)));
    let text = said("stranger", &pair.ca);
    assert!(text.contains("the destination refuses the certificate of this side: none of the CAs"), "{text}");
    let text = said("old", &pair.ca);
    assert!(text.contains("the destination refuses the certificate of this side: it has expired"), "{text}");
    let text = said("early", &pair.ca);
    assert!(text.contains("the destination refuses the certificate of this side: it"), "{text}");
    let text = said("source", &other);
    assert!(text.contains("the certificate of the destination is refused on this side: none of"), "{text}");
    let mut named = pair.send_command("web", "source", &pair.ca);
    named.extend(["--server-name".to_owned(), "elsewhere.example".to_owned()]);
    let text = refusal(&run(&api, &named));
    assert!(text.contains("on this side: it is not for the address or name"), "{text}");
    let told = |reason: &str| pair.destination.events().iter().any(|e| e["reason"].as_str() == Some(reason));
    let stranger = "the certificate of the source is refused on this side: none of the CAs given with --ca has signed it";
    assert!(eventually(|| told(stranger)), "{:?}", pair.destination.events());
    let mut wrong = pair.send_command("web", "source", &pair.ca);
    wrong[8] = pair.certificates.path("stranger.key");
    assert_eq!(wrong[7], "--key");
    let text = refusal(&run(&api, &wrong));
    assert!(text.contains("does not go with the certificate"), "{text}");
}

#[test]
fn h27_slow_and_foolish_peers_are_cut_and_keep_nobody_out() {
    let r = running();
    let mut slow: Vec<_> = (0..20).map(|_| TcpStream::connect(&r.pair.address).expect("connected")).collect();
    slow[1].write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
    slow[2].write_all(&[0x16, 3, 1, 0xff, 0xff, 1]).expect("written");
    let sent = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(9))).expect("set");
        let mut rest = Vec::new();
        let cut = stream.read_to_end(&mut rest);
        let late = cut.err().filter(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        assert!(late.is_none(), "a connection without a handshake is still there");
    }
    r.pair.source.ok(&["migrate", "cancel", "web"]);
    refusal(&sent.join().expect("sent"));
}

#[test]
fn s20_1_a_destination_that_dies_leaves_the_port_at_the_source() {
    for step in ["reserved", "commit"] {
        let mut r = running();
        let before = (policy(&r.pair.source), metered(&r.pair.source));
        let sent = r.pair.send("web");
        Pair::wait_step(&r.pair.source, "web", "reserved");
        let bases = (step == "commit").then(|| r.web.stop().expect("stopped"));
        Pair::wait_step(&r.pair.source, "web", step);
        r.pair.destination.kill();
        if let Some(bases) = bases {
            resume(&mut r.web, &bases);
        } else {
            r.pair.source.ok(&["migrate", "cancel", "web"]);
        }
        refusal(&sent.join().expect("sent"));
        is_as_it_was(&mut r, &before);
        r.pair.destination.start_again();
    }
}

#[test]
fn s20_1_a_destination_that_comes_back_gets_the_state_again() {
    let mut r = running();
    let before = (policy(&r.pair.source), metered(&r.pair.source));
    let sent = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    r.web.stop().expect("stopped");
    Pair::wait_step(&r.pair.source, "web", "commit");
    r.pair.destination.kill();
    r.pair.destination.start_again();
    r.pair.listen();
    r.pair.destination.wait_state("web", "incoming");
    let _web = Guest::connect(&r.there, Options::default());
    assert!(sent.join().expect("sent").status.success());
    assert_eq!((policy(&r.pair.destination), metered(&r.pair.destination)), before);
}

#[test]
fn s20_1_a_source_that_dies_after_the_freeze_does_not_hold_the_guest_up() {
    let mut r = running();
    let before = (policy(&r.pair.source), metered(&r.pair.source));
    let sent = r.pair.send("web");
    Pair::wait_step(&r.pair.source, "web", "reserved");
    r.web.stop().expect("stopped");
    Pair::wait_step(&r.pair.source, "web", "commit");
    r.pair.source.kill();
    let _web = Guest::connect(&r.there, Options::default());
    r.pair.destination.wait_state("web", "running");
    assert_eq!((policy(&r.pair.destination), metered(&r.pair.destination)), before);
    let view = Pair::wait_step(&r.pair.destination, "web", "done");
    assert_eq!((&view["outcome"], &view["confirmed"]), (&"committed".into(), &false.into()), "{view}");
    refusal(&sent.join().expect("sent"));
    r.pair.source.start_again();
}

#[test]
fn s20_1_fifty_ports_move_at_once() {
    const PORTS: u8 = 50;
    let pair = Pair::new();
    let name = |n: u8| format!("p{n}");
    let sockets: Vec<_> = (1..=PORTS).map(|n| pair.add(&name(n), n, &["--vlan", "access:9"])).collect();
    let options = || Options { ring_size: 64, ..Options::default() };
    let mut guests: Vec<_> = sockets.iter().map(|(here, _)| Guest::connect(here, options())).collect();
    for n in 1..=PORTS {
        pair.source.wait_state(&name(n), "running");
        let mut args = pair.send_command(&name(n), "source", &pair.ca);
        args.push("--detach".into());
        assert!(run(&pair.source.dir().join("api.sock"), &args).status.success());
    }
    (1..=PORTS).for_each(|n| drop(Pair::wait_step(&pair.source, &name(n), "reserved")));
    for guest in &mut guests {
        guest.stop().expect("stopped");
    }
    let _there: Vec<_> = sockets.iter().map(|(_, there)| Guest::connect(there, options())).collect();
    for n in 1..=PORTS {
        let view = Pair::wait_step(&pair.source, &name(n), "done");
        assert_eq!(view["outcome"], "committed", "{view}");
        assert_eq!(pair.destination.port(&name(n))["policy"]["vlan"], "access:9");
    }
}
