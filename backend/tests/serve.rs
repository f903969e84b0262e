//! The life of the process: start, restart, refused starts, signals.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{Daemon, TURNPIKE, directory, run};

#[test]
fn ready_is_one_line_that_names_the_socket_and_the_ports() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    assert_eq!(daemon.ready, format!("turnpike ready api={} ports=0", daemon.api.display()));
}

#[test]
fn sigterm_and_sigint_end_the_switch_with_code_0_and_take_the_socket_away() {
    let directory = directory();
    for signal in ["-TERM", "-INT"] {
        let daemon = Daemon::start(directory.path(), &["--state-dir", "none"]);
        daemon.ok(&["port", "add", "a", "--socket", "a.sock"]);
        let api = daemon.api.clone();
        assert_eq!(daemon.end(signal), 0);
        assert!(!api.exists());
    }
}

#[test]
fn ports_and_settings_survive_a_restart_and_a_kill() {
    let directory = directory();
    let mut daemon = Daemon::start(directory.path(), &[]);
    daemon.ok(&["switch", "set", "--kind", "internal", "--rx-wait-us", "500"]);
    daemon.ok(&["port", "add", "gone", "--socket", "gone.sock"]);
    daemon.ok(&["port", "add", "a", "--socket", "a.sock", "--queues", "4", "--mtu", "9000"]);
    daemon.ok(&[
        "port",
        "add",
        "b",
        "--socket",
        "b.sock",
        "--client",
        "--mac-spoofing",
        "on",
        "--link",
        "down",
    ]);
    daemon.ok(&["port", "remove", "gone"]);
    daemon.ok(&["port", "set", "b", "--link", "default"]);
    let before = daemon.seen();
    for signal in ["-TERM", "-KILL", "-TERM"] {
        daemon.end(signal);
        daemon = Daemon::start(directory.path(), &[]);
        assert!(daemon.ready.ends_with(" ports=2"), "{}", daemon.ready);
        assert_eq!(daemon.seen(), before);
    }
}

#[test]
fn a_second_switch_on_the_same_state_directory_is_refused() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let stderr = Daemon::try_start(directory.path(), &["--api", "other.sock"]).err().expect("refused");
    assert_eq!(
        stderr,
        "turnpike: state 'state/turnpike.redb': another switch uses it; valid: stop it first, or give another directory \
         with --state-dir\n"
    );
    daemon.ok(&["port", "list"]);
}

#[test]
fn a_second_switch_on_the_same_api_socket_is_refused_and_the_first_keeps_it() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let stderr = Daemon::try_start(directory.path(), &["--state-dir", "none"]).err().expect("refused");
    assert_eq!(
        stderr,
        format!(
            "turnpike: API socket '{}': another switch answers there; valid: stop it first, or give another path with \
             --api\n",
            daemon.api.display()
        )
    );
    daemon.ok(&["port", "list"]);
}

#[test]
fn a_damaged_store_is_a_clear_refusal_at_start() {
    let directory = directory();
    std::fs::create_dir(directory.path().join("state")).unwrap();
    std::fs::write(directory.path().join("state/turnpike.redb"), "not a database").unwrap();
    let stderr = Daemon::try_start(directory.path(), &[]).err().expect("refused");
    assert!(stderr.starts_with("turnpike: state 'state/turnpike.redb': the store is damaged: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn bad_options_of_serve_are_refused_with_one_line_and_code_1() {
    let directory = directory();
    let api = directory.path().join("api.sock");
    for (args, expected) in [
        (["--workers", "0"], "--workers: workers 0 is out of range; valid: 1 to 64"),
        (["--workers", "65"], "--workers: workers 65 is out of range; valid: 1 to 64"),
        (["--cpus", "4000"], "--cpus: '4000' is not a value of cpus; valid: CPUs this process may use: "),
        (["--api-group", "no-such-group"], "--api-group: 'no-such-group' is not a value of group; valid: "),
        (["--state-dir", "/proc/no"], "state '/proc/no': cannot be created: "),
        (["--metrics", "192.0.2.1:1"], "--metrics: 192.0.2.1:1 cannot be listened on: "),
        (["--api", "/proc/no/api.sock"], "API socket '/proc/no/api.sock': its directory cannot be created: "),
    ] {
        let none: &[&str] = if args[0] == "--state-dir" { &[] } else { &["--state-dir", "none"] };
        let done = run(directory.path(), &api, &[&["serve"], none, &args].concat());
        assert_eq!((done.code, done.stderr.lines().count()), (1, 1), "{done:?}");
        assert!(done.stderr.starts_with(&format!("turnpike: {expected}")), "{done:?}");
        assert!(!api.exists(), "{args:?} left a socket behind");
    }
}

#[test]
fn followers_see_events_as_they_happen_and_end_with_the_switch() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let mut follower = Command::new(TURNPIKE)
        .args(["events", "--follow", "--json"])
        .env("TURNPIKE_API", &daemon.api)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    daemon.ok(&["port", "add", "a", "--socket", "a.sock"]);
    let event = next();
    assert_eq!((&event["kind"], &event["port"]), (&"port-added".into(), &"a".into()), "{event}");
    let first = event["seq"].as_u64().unwrap();
    daemon.ok(&["port", "set", "a", "--link", "down"]);
    let event = loop {
        let event = next();
        if event["kind"] == "port-changed" {
            break event;
        }
    };
    assert_eq!(event["changes"], serde_json::json!(["link=down"]));
    assert!(event["seq"].as_u64().unwrap() > first);
    let text = daemon.ok(&["events", "--since", &first.to_string()]);
    assert!(text.contains("port-changed port=a changes=link=down"), "{text}");
    assert_eq!(daemon.end("-TERM"), 0);
    assert!(follower.wait().unwrap().success());
}

#[test]
fn s19_3_a_follower_misses_nothing_and_one_that_comes_back_goes_on_where_it_was() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    daemon.ok(&["port", "add", "a", "--socket", "a.sock"]);
    let follow = |since: u64| {
        let mut follower = Command::new(TURNPIKE)
            .args(["events", "--follow", "--json", "--since", &since.to_string()])
            .env("TURNPIKE_API", &daemon.api)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
        (follower, lines.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap()))
    };
    let change = |number: u32| {
        let policy = serde_json::json!({"policy": {"storm_limit": number}});
        assert_eq!(daemon.http("PATCH", "/v1/ports/a", &policy.to_string()).0, 200);
    };
    let (mut first, mut lines) = follow(0);
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=100).for_each(change));
        while seen.len() < 40 {
            seen.push(lines.next().unwrap()["seq"].as_u64().unwrap());
        }
        // It goes away in the middle of what happens.
        first.kill().unwrap();
        first.wait().unwrap();
    });
    let (mut second, mut lines) = follow(seen.last().copied().unwrap());
    loop {
        let event = lines.next().unwrap();
        seen.push(event["seq"].as_u64().unwrap());
        if event["changes"] == serde_json::json!(["storm-limit=100"]) {
            break;
        }
    }
    second.kill().unwrap();
    second.wait().unwrap();
    let all: Vec<u64> = (1..=seen.len() as u64).collect();
    assert_eq!(seen, all, "each event once, in order");
    // Who reads no more is not written to for ever.
    let mut reader = Command::new("sh")
        .args(["-c", "\"$0\" events --follow | head -n 1", TURNPIKE])
        .env("TURNPIKE_API", &daemon.api)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ended = (0..100).any(|number| {
        change(200 + number);
        std::thread::sleep(std::time::Duration::from_millis(50));
        reader.try_wait().unwrap().is_some()
    });
    assert!(ended, "'events --follow | head' goes on");
}

#[test]
fn s19_4_top_shows_what_passes_each_second() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    daemon.ok(&["port", "add", "a", "--socket", "a.sock"]);
    let text = daemon.ok(&["top", "--count", "1"]);
    assert!(
        text.contains("OUT PKT/S") && text.contains("a     waiting") && text.contains("WORKER"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "what is no terminal gets no control codes");
    let look: serde_json::Value =
        serde_json::from_str(&daemon.ok(&["top", "--count", "1", "--json"])).unwrap();
    assert_eq!((&look["ports"][0]["port"], &look["ports"][0]["out_packets"]), (&"a".into(), &0.into()));
}

#[test]
fn completions_and_man_pages_come_from_the_command_line() {
    let directory = directory();
    let api = directory.path().join("api.sock");
    for shell in ["bash", "zsh", "fish"] {
        let done = run(directory.path(), &api, &["completions", shell]);
        assert!(done.code == 0 && done.stdout.contains("mac-spoofing"), "{shell}");
    }
    assert_eq!(run(directory.path(), &api, &["man", "."]).code, 0);
    assert!(std::fs::read_to_string(directory.path().join("turnpike-port-add.1")).unwrap().contains("mac"));
    assert_eq!(run(directory.path(), &api, &["man", "no/where"]).code, 1);
}
