//! A successor takes over the running switch (`serve --take-over`): guests are not told, and nothing is forgotten.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use turnpike_tests::frame::tcp;
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Frame, Guest, Lan, NetHdr, Options, PATIENCE, Switch};

fn exchange(a: &mut Guest, b: &mut Guest, seed: u64) {
    let frame = Frame::of_len(a, b, 700, seed);
    a.send(&frame);
    b.expect(&frame);
    let frame = Frame::of_len(b, a, 700, seed);
    b.send(&frame);
    a.expect(&frame);
}

// === a successor in the test's hands ===

/// Asks the switch to hand over; its answer's status line, head and body, and the connection.
fn ask(switch: &Switch, headers: &str, body: &str) -> (String, UnixStream) {
    let mut stream = UnixStream::connect(switch.dir().join("api.sock")).expect("the API answers");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let length = body.len();
    let request = format!(
        "POST /v1/take-over HTTP/1.1\r\nHost: turnpike\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.extend(byte);
    }
    let mut answer = String::from_utf8(head).expect("text");
    let length = answer.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).expect("a body");
    answer.push_str(&String::from_utf8(body).expect("text"));
    (answer, stream)
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: turnpike-take-over\r\n";

/// The successor's end of a take-over that has begun.
struct Successor(UnixStream);

impl Successor {
    fn begin(switch: &Switch) -> Self {
        let (answer, stream) = ask(switch, UPGRADE, r#"{"version":1}"#);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        Self(stream)
    }

    fn say(&mut self, step: &Value) {
        let text = step.to_string();
        let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(text.as_bytes());
        self.0.write_all(&bytes).expect("the switch listens");
    }

    /// The next step; its descriptors are closed by the kernel.
    fn hear(&mut self) -> Value {
        let mut head = [0; 8];
        self.0.read_exact(&mut head).expect("a step");
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let mut text = vec![0; word(0)];
        self.0.read_exact(&mut text).expect("a step");
        for _ in 0..word(4).div_ceil(64) {
            self.0.read_exact(&mut [0]).expect("descriptors");
        }
        serde_json::from_slice(&text).expect("JSON")
    }

    /// Hears everything up to this step.
    fn hear_until(&mut self, name: &str) -> Value {
        loop {
            let step = self.hear();
            if step == name || step.get(name).is_some() {
                return step;
            }
            assert!(step.get("failed").is_none(), "waiting for {name}: {step}");
        }
    }

    fn offered(switch: &Switch) -> Self {
        let mut successor = Self::begin(switch);
        let offer = successor.hear_until("offer");
        for _ in 0..offer["offer"]["ports"].as_u64().expect("a number") {
            successor.hear_until("port");
        }
        successor
    }

    fn frozen(switch: &Switch) -> Self {
        let mut successor = Self::offered(switch);
        successor.say(&json!("prepared"));
        successor.hear_until("frozen");
        successor
    }

    fn started(switch: &Switch) -> Self {
        let mut successor = Self::frozen(switch);
        successor.say(&json!("ready"));
        successor.hear_until("go");
        successor
    }
}

/// `serve --take-over` with more options, which must be refused.
fn refused(switch: &Switch, args: &[&str]) -> String {
    let Output { status, stderr, .. } = switch.run(&[&["serve", "--take-over"], args].concat());
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{text}");
    text.lines().last().unwrap_or_default().to_owned()
}

// === guests go on ===

#[test]
fn s20_7_guests_go_on_through_ten_take_overs() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    exchange(&mut a, &mut b, 0);
    switch.take_over();
    let first = switch.holdings();
    for round in 1..=10 {
        let before = switch.pid();
        exchange(&mut a, &mut b, round);
        switch.take_over();
        assert_ne!(switch.pid(), before);
        assert_eq!(switch.port("a")["state"], "running");
        assert_eq!(switch.counter("a", "out_packets"), round + 1, "counters go on");
    }
    assert_eq!(switch.holdings(), first, "a successor holds what the one before held");
    assert_eq!(switch.all_drops("a") + switch.all_drops("b"), 0);
    // Ports are as good as new: another front end comes, and the switch ends as ever.
    drop(b);
    switch.wait_state("b", "waiting");
    let mut b = Guest::attach(&switch, "b", Options::default());
    exchange(&mut a, &mut b, 99);
    assert!(switch.terminate().success());
    assert!(!switch.dir().join("api.sock").exists() && !switch.dir().join("a.sock").exists());
}

#[test]
fn s20_7_what_the_switch_remembers_is_there_after_a_take_over() {
    let mut lan = Lan::new(&[("a", ""), ("b", ""), ("c", "")]);
    for direction in ["in", "out"] {
        lan.run(&format!("rule add a --action deny --direction {direction} --weight 1"));
    }
    lan.run("rule add a --action allow --weight 10 --stateful --direction out --protocol tcp");
    lan.run("meter enable b");
    lan.run("port set c --mac-spoofing on --address-limit 3");
    let there = lan.frame("a", "b").ipv4().tcp(1000, 80).tcp_seq(1, tcp::SYN).build();
    let back = lan.frame("b", "a").ipv4().tcp(80, 1000).tcp_seq(1, tcp::SYN | tcp::ACK).build();
    lan.passes("a", "b", &there);
    lan.passes("b", "a", &back);
    let spoofed = Frame::new(lan.mac("b"), [0x52, 0x54, 0, 0, 9, 9]).ipv4().udp(1, 2).build();
    lan.passes("c", "b", &spoofed);

    let steady = |lan: &Lan| {
        let mut sessions = lan.switch.json(&["session", "list", "a"]);
        let mut fdb = lan.switch.json(&["fdb", "show"]);
        for list in [&mut sessions, &mut fdb] {
            for entry in list.as_array_mut().expect("a list") {
                entry
                    .as_object_mut()
                    .expect("an object")
                    .retain(|key, _| !key.ends_with("_ms") && !key.ends_with("_s"));
            }
        }
        let mut meters = lan.switch.json(&["meter", "show", "b"]);
        meters[0]["duration_s"].take();
        let ports: Vec<_> = ["a", "b", "c"].iter().map(|name| lan.switch.port(name)).collect();
        let rules = lan.switch.json(&["rule", "list", "a"]);
        json!({"sessions": sessions, "fdb": fdb, "meters": meters, "ports": ports, "rules": rules})
    };
    let before = steady(&lan);
    assert_eq!(before["sessions"].as_array().map(Vec::len), Some(1), "{before}");
    assert!(before["fdb"].to_string().contains("52:54:00:00:09:09"), "{before}");
    lan.switch.take_over();
    assert_eq!(steady(&lan), before);
    // The answer passes by the session alone, and a new connection from outside does not.
    lan.passes("b", "a", &back);
    let strange = lan.frame("b", "a").ipv4().tcp(81, 1000).tcp_seq(1, tcp::SYN).build();
    lan.dropped("b", &strange, ("a", "in"), "rule-denied");
}

#[test]
fn s20_7_without_a_state_directory_configuration_and_counters_travel() {
    let mut lan = Lan::with(
        SwitchOptions { args: vec!["--state-dir".into(), "none".into()], ..SwitchOptions::default() },
        &[("a", "--vlan access:7"), ("b", "--vlan access:7")],
    );
    let frame = lan.frame("a", "b").ipv4().udp(1, 2).build();
    lan.passes("a", "b", &frame);
    lan.switch.take_over();
    lan.passes("a", "b", &frame);
    assert_eq!(lan.switch.counter("a", "out_packets"), 2);
    assert_eq!(lan.switch.port("a")["policy"]["vlan"], "access:7");
}

#[test]
fn s20_7_under_load_nothing_is_lost_or_doubled_and_the_gap_is_short() {
    const ROUNDS: usize = 30;
    let switch = Switch::start();
    switch.ok(&["switch", "set", "--rx-wait-us", "1000000"]);
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let mut frame = Frame::between(&a, &b).ipv4().udp(1000, 2000).payload(&[7; 400]).build();
    let ended = AtomicBool::new(false);
    let place = frame.len() - 8;
    let (sent, arrivals, windows) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0u64;
            while !ended.load(Ordering::Relaxed) {
                frame[place..].copy_from_slice(&sent.to_le_bytes());
                if a.send_within(0, NetHdr::default(), &frame, PATIENCE) {
                    sent += 1;
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            assert!(a.flush(PATIENCE), "the switch is done with all");
            sent
        });
        let receiver = scope.spawn(|| {
            let mut arrivals = Vec::new();
            let mut last = Instant::now();
            while !ended.load(Ordering::Relaxed) || last.elapsed() < Duration::from_millis(500) {
                if let Some(received) = b.receive(Duration::from_millis(20)) {
                    last = Instant::now();
                    let number = u64::from_le_bytes(received.frame[place..].try_into().unwrap());
                    arrivals.push((last, number));
                }
            }
            arrivals
        });
        let mut windows = Vec::new();
        for _ in 0..ROUNDS {
            std::thread::sleep(Duration::from_millis(50));
            let began = Instant::now();
            switch.take_over();
            windows.push((began, Instant::now()));
        }
        ended.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), receiver.join().unwrap(), windows)
    });
    let numbers: Vec<u64> = arrivals.iter().map(|(_, number)| *number).collect();
    assert!(
        numbers.iter().copied().eq(0..sent),
        "{sent} sent, {} arrived, not each once in order",
        numbers.len()
    );
    let gap = |(from, to): &(Instant, Instant)| {
        let pairs = arrivals.windows(2).filter(|w| w[1].0 >= *from && w[0].0 <= *to);
        pairs.map(|w| w[1].0 - w[0].0).max().unwrap_or_default()
    };
    let mut gaps: Vec<Duration> = windows.iter().map(gap).collect();
    gaps.sort();
    let (p50, p99) = (gaps[ROUNDS / 2], gaps[ROUNDS * 99 / 100]);
    println!("{ROUNDS} take-overs, {sent} frames, none lost: longest gap p50 {p50:?}, p99 {p99:?}");
    assert!(p99 < Duration::from_secs(1), "the longest gap is {p99:?}");
}

// === refusals ===

#[test]
fn a_take_over_is_refused_with_a_reason_before_anything_stops() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let (answer, _) = ask(&switch, UPGRADE, r#"{"version":2}"#);
    assert!(answer.starts_with("HTTP/1.1 409 ") && answer.contains("take-over-version"), "{answer}");
    assert!(answer.contains("the successor speaks take-over version 2, this switch version 1"), "{answer}");
    let (answer, _) = ask(&switch, "", r#"{"version":1}"#);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("must be upgraded"), "{answer}");

    let nowhere = switch.dir().join("nowhere.sock");
    let line = refused(&switch, &["--state-dir", "none", "--api", nowhere.to_str().unwrap()]);
    assert!(line.contains("it was not taken over: no switch answers"), "{line}");
    let usage = switch.run(&["serve", "--take-over", "--config", "x.toml"]);
    assert_eq!(usage.status.code(), Some(2));
    // Nothing of that touched the rings.
    exchange(&mut a, &mut b, 1);
    assert!(!switch.has_event("port-stopped"));
}

#[test]
fn a_second_take_over_at_the_same_time_is_refused() {
    let switch = Switch::start();
    let first = Successor::offered(&switch);
    let line = refused(&switch, &["--state-dir", "none"]);
    assert!(line.contains("another take-over is under way"), "{line}");
    drop(first);
    // Answers when the first one is over.
    switch.ok(&["port", "list"]);
    switch.take_over();
}

#[test]
fn a_successor_with_a_fault_of_its_own_changes_nothing() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let file = switch.dir().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let line = refused(&switch, &["--state-dir", file.to_str().unwrap()]);
    assert!(line.contains("cannot be created"), "{line}");
    let line = refused(&switch, &["--state-dir", "none", "--metrics", "192.0.2.1:9"]);
    assert!(line.contains("192.0.2.1:9 cannot be listened on"), "{line}");
    exchange(&mut a, &mut b, 1);
    switch.ok(&["port", "set", "a", "--dhcp-guard", "on"]);
    switch.take_over();
    assert_eq!(switch.port("a")["policy"]["dhcp_guard"], true);
}

// === a successor that dies ===

type Until = fn(&Switch) -> Successor;

#[test]
fn a_successor_that_dies_at_any_step_leaves_everything_as_it_was() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let pid = switch.pid();
    let steps: [(&str, Until); 4] = [
        ("asking", Successor::begin),
        ("being told", Successor::offered),
        ("everything stood", Successor::frozen),
        ("being told to start", Successor::started),
    ];
    for (round, (step, until)) in steps.into_iter().enumerate() {
        drop(until(&switch));
        exchange(&mut a, &mut b, round as u64);
        // The store is the switch's own again.
        switch.ok(&["port", "set", "a", "--dhcp-guard", if round % 2 == 0 { "on" } else { "off" }]);
        assert_eq!((switch.pid(), switch.is_alive()), (pid, true), "after {step}");
    }
    assert!(!switch.has_event("port-stopped") && !switch.has_event("front-end-disconnected"));
    assert_eq!(switch.all_drops("a") + switch.all_drops("b"), 0);
    switch.take_over();
    exchange(&mut a, &mut b, 9);
}

#[test]
fn a_successor_that_says_nothing_or_nonsense_is_left_behind() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let silent = Successor::frozen(&switch);
    // It is given two seconds.
    let again = turnpike_tests::eventually(|| switch.log().contains("everything goes on here"));
    assert!(again, "rings stand for ever");
    exchange(&mut a, &mut b, 1);
    drop(silent);
    switch.ok(&["port", "list"]);
    let mut strange = Successor::frozen(&switch);
    strange.say(&json!({"surprise": 1}));
    let failed = strange.hear();
    assert!(failed.to_string().contains("does not understand"), "{failed}");
    drop(strange);
    exchange(&mut a, &mut b, 2);
    switch.ok(&["port", "list"]);
    switch.take_over();
    exchange(&mut a, &mut b, 3);
}
