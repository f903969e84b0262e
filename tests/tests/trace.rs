//! `turnpike trace`: what really happened to frames, step by step, for any number of readers, at no frame's cost.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use turnpike_tests::features::SEND_OFFLOADS;
use turnpike_tests::frame::pattern;
use turnpike_tests::lan::mac_text;
use turnpike_tests::{Frame, Guest, Lan, NetHdr, Options, PATIENCE, Switch, eventually};

/// Time in which nothing more comes.
const SILENCE: Duration = Duration::from_millis(200);

fn three() -> Lan {
    Lan::new(&[("a", ""), ("b", ""), ("c", "")])
}

/// The names of the steps.
fn steps(line: &Value) -> Vec<&str> {
    line["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(|step| step["step"].as_str().expect("a name"))
        .collect()
}

/// The ports that got it, and those that did not with the reason.
fn destinations(line: &Value) -> Vec<String> {
    let list = line["destinations"].as_array().expect("destinations");
    let mut all: Vec<_> = list
        .iter()
        .map(|to| {
            let copy = if to["copy"] == true { " copy" } else { "" };
            let reason = to["reason"].as_str().map(|reason| format!(" {reason}")).unwrap_or_default();
            format!(
                "{} {}{copy}{reason}",
                to["port"].as_str().expect("a name"),
                to["verdict"].as_str().expect("one")
            )
        })
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn s19_1_every_frame_is_one_line_with_its_flow_its_verdict_and_who_got_it() {
    let mut lan = three();
    let trace = lan.switch.watch(&["trace", "--json"]);
    let frame = lan.frame("a", "b").ipv4().udp(1000, 53).payload(&[1; 100]).build();
    for _ in 0..3 {
        // Also from the flow cache.
        lan.passes("a", "b", &frame);
        let line = trace.json();
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        assert_eq!([text("port"), text("direction"), text("from")], ["a", "out", "a"]);
        assert_eq!([text("src"), text("dst")], ["a", "b"].map(|name| mac_text(lan.mac(name))));
        assert_eq!(text("flow"), "udp 10.0.0.1:1000 > 10.0.0.2:53");
        assert_eq!((&line["len"], text("verdict")), (&Value::from(frame.len()), "unicast".into()));
        assert_eq!(destinations(&line), ["b deliver"]);
        assert_eq!(line["reason"], Value::Null);
        assert!(text("time").ends_with('Z') && text("time").len() == "2026-01-01T00:00:00.123456789Z".len());
    }
    let heard = lan.broadcast("c").build();
    assert_eq!(lan.send("c", &heard).by(), ["a", "b"]);
    let line = trace.json();
    assert_eq!(
        (line["verdict"].as_str(), destinations(&line)),
        (Some("flood"), vec!["a deliver".into(), "b deliver".into()])
    );
    assert_eq!(trace.line_within(SILENCE), None);
}

#[test]
fn s19_1_the_step_that_dropped_a_frame_is_told_with_its_reason() {
    let mut lan = three();
    lan.run("acl add a --action deny --direction out --remote 10.0.0.2");
    lan.run("acl add c --action deny --direction in --remote 10.0.0.1");
    let trace = lan.switch.watch(&["trace", "--json"]);
    lan.dropped("a", &lan.frame("a", "b").ipv4().udp(1, 2).build(), ("a", "out"), "acl-denied");
    let line = trace.json();
    assert_eq!((line["verdict"].as_str(), line["reason"].as_str()), (Some("drop"), Some("acl-denied")));
    assert_eq!((steps(&line).last(), destinations(&line).len()), (Some(&"acl-out"), 0));
    lan.dropped("a", &lan.frame("a", "c").ipv4().udp(1, 2).build(), ("c", "in"), "acl-denied");
    let line = trace.json();
    assert_eq!((line["port"].as_str(), line["reason"].as_str()), (Some("a"), Some("acl-denied")));
    assert_eq!(
        (steps(&line).last(), destinations(&line)),
        (Some(&"acl-in"), vec!["c drop acl-denied".into()])
    );
    // What no step of policy sees: a header that lies, and a receiver that is not there.
    let lie = NetHdr { gso_type: 77, ..NetHdr::default() };
    lan.send_with("a", lie, &lan.frame("a", "c").ipv4().udp(1, 2).build());
    let line = trace.json();
    assert_eq!((steps(&line), line["reason"].as_str()), (vec!["virtio"], Some("bad-offload")));
    drop(lan.take("b"));
    lan.switch.wait_state("b", "waiting");
    let gone = Frame::new(turnpike_tests::lan::mac(2), turnpike_tests::lan::mac(3)).build();
    lan.send("c", &gone);
    let line = trace.json();
    assert_eq!(
        (line["verdict"].as_str(), line["reason"].as_str()),
        (Some("drop"), Some("receiver-not-running"))
    );
    assert_eq!(destinations(&line), ["b drop receiver-not-running"]);
}

#[test]
fn s19_1_what_a_frame_is_about_to_open_is_not_told_as_if_it_had_been_there() {
    let mut lan = three();
    lan.run("rule add a --direction out --action allow --weight 10 --protocol udp --stateful");
    let trace = lan.switch.watch(&["trace", "--json"]);
    let mut notes = Vec::new();
    for _ in 0..2 {
        lan.passes("a", "b", &lan.frame("a", "b").ipv4().udp(7, 8).build());
        let line = trace.json();
        let rules: Vec<_> = line["steps"]
            .as_array()
            .expect("steps")
            .iter()
            .filter(|step| step["step"] == "rules-out")
            .collect();
        notes.push(rules[0]["notes"].to_string());
    }
    assert_ne!(notes[0], notes[1], "the first opens the session, the second belongs to it");
}

#[test]
fn s19_1_a_ports_trace_has_what_it_sends_and_what_comes_to_it() {
    let mut lan = three();
    lan.run("acl add b --action deny --direction in --remote 10.0.0.3");
    let trace = lan.switch.watch(&["trace", "--json", "--port", "b"]);
    lan.passes("a", "c", &lan.frame("a", "c").ipv4().udp(1, 1).build());
    lan.passes("a", "b", &lan.frame("a", "b").ipv4().udp(2, 2).build());
    lan.passes("b", "a", &lan.frame("b", "a").ipv4().udp(3, 3).build());
    lan.dropped("c", &lan.frame("c", "b").ipv4().udp(4, 4).build(), ("b", "in"), "acl-denied");
    let flood = lan.broadcast("c").ipv4().udp(5, 5).build();
    assert_eq!(lan.send("c", &flood).by(), ["a"]);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let line = trace.json();
        let key = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        let port = key("flow").rsplit(':').next().expect("a port").to_owned();
        seen.push(
            [port, key("port"), key("direction"), key("from"), key("verdict"), key("reason")].join(" "),
        );
        if line["direction"] == "in" && line["reason"] == "acl-denied" {
            assert_eq!(steps(&line).last(), Some(&"acl-in"), "{line}");
        }
    }
    assert_eq!(
        seen,
        ["2 b in a unicast -", "3 b out b unicast -", "4 b in c drop acl-denied", "5 b in c drop acl-denied"]
    );
    assert_eq!(trace.line_within(SILENCE), None);
}

#[test]
fn s19_1_drops_are_those_of_senders_and_of_receivers() {
    let mut lan = three();
    lan.run("acl add c --action deny --direction in --remote 10.0.0.1");
    let trace = lan.switch.watch(&["trace", "--json", "--drops"]);
    lan.passes("a", "b", &lan.frame("a", "b").ipv4().udp(1, 1).build());
    lan.dropped(
        "a",
        &lan.frame("a", "b").source([2, 9, 9, 9, 9, 9]).build(),
        ("a", "out"),
        "source-not-allowed",
    );
    lan.dropped("a", &lan.frame("a", "c").ipv4().udp(2, 2).build(), ("c", "in"), "acl-denied");
    assert_eq!(lan.send("a", &lan.broadcast("a").ipv4().udp(3, 3).build()).by(), ["b"]);
    lan.passes("b", "a", &lan.frame("b", "a").build());
    let reasons: Vec<_> =
        (0..2).map(|_| trace.json()["reason"].as_str().expect("a reason").to_owned()).collect();
    assert_eq!(reasons, ["source-not-allowed", "acl-denied"]);
    let flood = trace.json();
    assert_eq!(
        (flood["verdict"].as_str(), destinations(&flood)),
        (Some("flood"), vec!["b deliver".into(), "c drop acl-denied".into()])
    );
    assert_eq!(trace.line_within(SILENCE), None);
}

#[test]
fn s19_1_a_monitors_copy_is_a_destination_and_is_said_to_be_one() {
    let mut lan = Lan::new(&[("a", "--mirror source"), ("b", ""), ("m", "--mirror destination")]);
    let trace = lan.switch.watch(&["trace", "--json"]);
    assert_eq!(lan.send("a", &lan.frame("a", "b").build()).by(), ["b", "m"]);
    assert_eq!(destinations(&trace.json()), ["b deliver", "m deliver copy"]);
}

#[test]
fn s19_1_only_what_the_filter_describes_is_shown_and_count_ends_it() {
    let mut lan = three();
    let mut trace = lan.switch.watch(&[
        "trace",
        "--filter",
        "udp and not (dst port 5-6 or host 10.0.0.3)",
        "--count",
        "2",
    ]);
    for (to, port) in [("b", 5), ("b", 4), ("c", 4), ("b", 6), ("b", 7), ("b", 8)] {
        lan.passes("a", to, &lan.frame("a", to).ipv4().udp(1, port).build());
    }
    assert!(trace.line().contains("10.0.0.2:4") && trace.line().contains("10.0.0.2:7"));
    assert!(trace.wait().success() && trace.rest().is_empty());
}

#[test]
fn s19_1_what_cannot_be_watched_is_refused_with_what_could_be() {
    let lan = three();
    let refused = |args: &[&str], said: &str| {
        let output = lan.switch.run(&[&["trace"], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(said), "{stderr}");
    };
    refused(&["--port", "d"], "port 'd': there is no such port; valid: a, b, c");
    refused(&["--filter", "hots 10.0.0.1"], "'hots' is not a value of filter; valid: host, ");
    refused(&["--filter", "tcp and"], "'tcp and' is not a value of filter; valid: behind it, host, ");
    refused(&["--filter", "tcp or udp and arp"], "'and' is not a value of filter; valid: parentheses ");
    refused(&["--sample", "0"], "sample 0 is out of range; valid: 1 to 1000000");
}

#[test]
fn s19_1_one_frame_in_so_many_is_looked_at() {
    let lan = three();
    let (mut a, mut b) = (
        Guest::attach(&lan.switch, "d", Options::default()),
        Guest::attach(&lan.switch, "e", Options::default()),
    );
    let mut trace = lan.switch.watch(&["trace", "--json", "--sample", "50"]);
    let frame = Frame::between(&a, &b).payload(&pattern(50, 1)).build();
    for _ in 0..100 {
        a.send_all(std::iter::repeat_n(&frame, 100));
        assert!(a.flush(PATIENCE) && b.receive_all().len() == 100);
    }
    let seen = trace.interrupt().len();
    // 200 on average, with a standard deviation of 8.
    assert!((140..=260).contains(&seen), "{seen} of 10000 frames were looked at");
}

#[test]
fn s19_1_starting_and_stopping_neither_loses_nor_reorders_a_frame() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default().with(SEND_OFFLOADS), Options::default());
    let total = 30_000u64;
    let numbered = |number: u64, frame: &Frame| {
        let mut bytes = frame.clone().payload(&[0; 100]).build();
        let end = bytes.len();
        bytes[end - 8..].copy_from_slice(&number.to_be_bytes());
        bytes
    };
    let plain = Frame::between(&a, &b);
    let done = std::sync::atomic::AtomicBool::new(false);
    let file = switch.dir().join("load.pcapng");
    let (mut lost, mut watched) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || rounds < 2 {
                let capture = ["capture", "-w", file.to_str().expect("UTF-8")];
                let mut all = [
                    switch.watch(&["trace", "--json"]),
                    switch.watch(&["trace", "--sample", "10"]),
                    switch.watch(&capture),
                ];
                std::thread::sleep(Duration::from_millis(20));
                for watcher in &mut all {
                    watcher.interrupt();
                }
                rounds += 1;
            }
            rounds
        });
        let (mut sent, mut expected) = (0u64, 0u64);
        while expected < total {
            while sent < total && sent < expected + 100 {
                a.send_all([&numbered(sent, &plain)]);
                sent += 1;
            }
            let Some(received) = b.receive(PATIENCE) else { break };
            let end = received.frame.len();
            let number = u64::from_be_bytes(received.frame[end - 8..].try_into().expect("8 bytes"));
            if number != expected {
                lost.push((expected, number));
            }
            expected = number + 1;
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        watched = watching.join().expect("the watchers");
        assert_eq!((expected, &lost[..]), (total, &[][..]), "expected and got");
    });
    assert!(watched >= 2, "{watched} rounds of watching");
    assert_eq!(switch.all_drops("a") + switch.all_drops("b"), 0);
}

/// A request whose answer nobody reads.
fn silent_reader(switch: &Switch, path: &str) -> UnixStream {
    let mut stream = UnixStream::connect(switch.dir().join("api.sock")).expect("the API");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
    // The first bytes of the answer: it has begun.
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

#[test]
fn s19_1_who_does_not_read_costs_what_was_not_shown_and_nothing_else() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let frames: Vec<_> = (0..100).map(|seed| Frame::of_len(&a, &b, 1400, seed)).collect();
    let mut pass = |rounds: usize| {
        for _ in 0..rounds {
            a.send_all(&frames);
            assert!(a.flush(PATIENCE));
            let got = b.receive_all();
            assert!(got.len() == 100 && got.iter().zip(&frames).all(|(got, sent)| got.frame == *sent));
        }
    };
    pass(10);
    let before = switch.private_memory_kib();
    let traces: Vec<_> = (0..4).map(|_| silent_reader(&switch, "/v1/trace")).collect();
    let captures: Vec<_> = (0..4).map(|_| silent_reader(&switch, "/v1/capture")).collect();
    let reader = switch.watch(&["trace", "--json", "--count", "5"]);
    pass(200);
    assert_eq!(reader.json()["verdict"], "unicast");
    // Eight times 4 MiB, once more where it is being written, and what the allocator needs.
    let after = switch.private_memory_kib();
    assert!(after < before + 100 * 1024, "{before} KiB before, {after} KiB with readers that do not read");
    drop(captures);
    // One that reads after all is told what it did not see.
    let mut text = String::new();
    let mut stream = traces.into_iter().next().expect("one");
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    text.push_str(&String::from_utf8_lossy(&bytes));
    let missed: u64 = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| line["not_shown"].as_u64())
        .sum();
    let shown = text.matches("\"verdict\":\"unicast\"").count() as u64;
    assert!(missed > 5_000 && shown + missed >= 19_000, "{shown} shown, {missed} not");
}

#[test]
fn s19_1_so_many_may_watch_and_the_next_one_is_told() {
    let mut lan = three();
    let mut all: Vec<_> = (0..16).map(|_| lan.switch.watch(&["trace", "--json"])).collect();
    let mut refused = Vec::new();
    for _ in 0..84 {
        let output = lan.switch.run(&["trace"]);
        assert_eq!(output.status.code(), Some(1));
        refused.push(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let said = "turnpike: switch: 16 traces and captures are under way; valid: to end one of them first\n";
    assert!(refused.iter().all(|line| line == said), "{refused:?}");
    lan.passes("a", "b", &lan.frame("a", "b").build());
    for trace in &all {
        assert_eq!(trace.json()["verdict"], "unicast", "each of them sees it");
    }
    // Also a reader that is killed makes room.
    for trace in &all {
        trace.signal(Signal::KILL);
    }
    for trace in &mut all {
        trace.wait();
    }
    assert!(eventually(|| lan.switch.run(&["trace", "--count", "0"]).status.success()));
    drop(all);
    lan.passes("a", "b", &lan.frame("a", "b").build());
}

#[test]
fn s19_1_a_trace_ends_with_its_port_and_does_not_go_on_with_another_one_of_its_number() {
    let mut lan = three();
    let mut trace = lan.switch.watch(&["trace", "--json", "--port", "c"]);
    let other = lan.switch.watch(&["trace", "--json"]);
    lan.passes("c", "a", &lan.frame("c", "a").build());
    drop(lan.take("c"));
    lan.run("port remove c");
    assert!(trace.wait().success());
    assert_eq!(trace.rest().len(), 1);
    lan.add("d", "", Options::default());
    lan.passes("a", "d", &lan.frame("a", "d").build());
    assert_eq!(other.json()["port"], "c");
    assert_eq!(destinations(&other.json()), ["d deliver"]);
}

#[test]
fn s19_1_a_trace_ends_when_the_switch_stops() {
    let switch = Switch::start();
    let mut trace = switch.watch(&["trace"]);
    assert!(switch.terminate().success());
    assert!(trace.wait().success(), "{:?}", trace.errors());
}
