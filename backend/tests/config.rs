//! Files: `apply`, `save` and `serve --config`, as an operator uses them; metering and sessions by their commands.

mod common;

use std::fmt::Write as _;
use std::time::Instant;

use common::{Daemon, directory};

fn write(directory: &std::path::Path, text: &str) -> String {
    let path = directory.join("switch.toml");
    std::fs::write(&path, text.replace("DIR", directory.to_str().expect("UTF-8"))).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

const FILE: &str = r#"
[switch]
kind = "internal"

[[port]]
name = "web"
socket = "DIR/web.sock"
vlan = "access:10"
metering = true

[[port.rule]]
action = "allow"
direction = "in"
weight = 100
protocol = "tcp"
local-port = 80
stateful = true

[[port]]
name = "db"
socket = "DIR/db.sock"
mac = "02:00:00:00:00:01"

[[port.acl]]
action = "deny"
direction = "both"
remote = "10.0.0.0/8"
"#;

#[test]
fn apply_prints_the_difference_once_and_save_prints_what_apply_takes() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let file = write(directory.path(), FILE);
    let dry = daemon.ok(&["apply", "--dry-run", &file]);
    assert_eq!(daemon.json(&["port", "list"]), serde_json::json!([]));
    assert_eq!(daemon.ok(&["apply", &file]), dry);
    let lines: Vec<_> = dry.lines().collect();
    assert_eq!(lines[0], "~ switch: kind internal");
    assert!(lines[1].starts_with("+ port 'db': socket /") && lines[1].ends_with("2 ACL entries"), "{dry}");
    assert!(lines[2].ends_with("vlan access:10, metering, 4 ACL entries, 1 rule"), "{dry}");
    assert_eq!(daemon.ok(&["apply", &file]), "nothing to change\n");

    let saved = daemon.ok(&["save"]);
    let file = write(directory.path(), &saved);
    assert_eq!(daemon.ok(&["apply", &file]), "nothing to change\n");
    assert_eq!(daemon.json(&["apply", &file])["changes"], serde_json::json!([]));
    daemon.ok(&["port", "set", "web", "--vlan", "access:11", "--dhcp-guard", "on"]);
    daemon.ok(&["port", "remove", "db"]);
    let lines = daemon.ok(&["apply", &file]);
    assert!(lines.starts_with("+ port 'db': "), "{lines}");
    assert!(lines.ends_with("\n~ port 'web': dhcp-guard false, vlan access:10\n"), "{lines}");
    assert_eq!(daemon.ok(&["save"]), saved);
}

#[test]
fn what_is_wrong_in_a_file_is_one_line_and_changes_nothing() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    daemon.ok(&["apply", &write(directory.path(), FILE)]);
    let before = daemon.seen();
    for (from, to, start) in [
        ("vlan =", "vlna =", "file '{}', line 8: 'vlna' is not known here; valid: vlan, "),
        ("weight = 100", "weihgt = 100", "file '{}', line 14: 'weihgt' is not known here; valid: weight, "),
        ("[switch]", "[swich]", "file '{}', line 2: 'swich' is not known here; valid: switch, "),
        ("access:10", "access:0", "port 'web': vlan: "),
        ("10.0.0.0/8", "10.0.0.1/8", "port 'db': "),
        ("kind = ", "kind ", "file '{}', line 3: it is not TOML: "),
    ] {
        let file = write(directory.path(), &FILE.replace(from, to));
        let done = daemon.run(&["apply", &file]);
        assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{to}");
        let start = format!("turnpike: {}", start.replace("{}", &file));
        assert!(done.stderr.starts_with(&start) && done.stderr.lines().count() == 1, "{}", done.stderr);
        assert_eq!(daemon.seen(), before);
    }
    let done = daemon.run(&["apply", "nowhere.toml"]);
    assert!(done.stderr.starts_with("turnpike: file 'nowhere.toml': it cannot be read: "), "{}", done.stderr);
    assert_eq!(done.code, 1);
}

#[test]
fn a_switch_begins_with_its_file_or_not_at_all() {
    let directory = directory();
    let file = write(directory.path(), FILE);
    for state in ["none", "state"] {
        let daemon = Daemon::start(directory.path(), &["--config", &file, "--state-dir", state]);
        assert!(daemon.ready.ends_with(" ports=2"), "{}", daemon.ready);
        assert_eq!(daemon.ok(&["apply", &file]), "nothing to change\n");
        daemon.ok(&["port", "add", "more", "--socket", "more.sock"]);
        assert_eq!(daemon.end("-TERM"), 0);
    }
    for (from, to, text) in [
        ("vlan =", "vlna =", "line 8: 'vlna' is not known here"),
        ("access:10", "access:0", "port 'web': vlan: "),
    ] {
        let file = write(directory.path(), &FILE.replace(from, to));
        let refused = Daemon::try_start(directory.path(), &["--config", &file]);
        let stderr = refused.err().expect("refused");
        assert!(stderr.lines().last().is_some_and(|line| line.contains(text)), "{stderr}");
    }
    let daemon = Daemon::start(directory.path(), &[]);
    assert!(daemon.ready.ends_with(" ports=3"), "what was refused changed nothing: {}", daemon.ready);
}

#[test]
fn s9_meters_by_their_commands() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    for name in ["a", "b"] {
        daemon.ok(&["port", "add", name, "--socket", &format!("{name}.sock")]);
    }
    assert_eq!(daemon.json(&["meter", "show"]), serde_json::json!([]));
    let done = daemon.run(&["meter", "show", "a"]);
    let line = "turnpike: port 'a': it is not metered; valid: 'turnpike meter enable a' first\n";
    assert_eq!((done.code, done.stderr.as_str()), (1, line));
    assert_eq!(daemon.ok(&["meter", "enable", "a"]), "port 'a': metered\n");
    let shown = daemon.json(&["meter", "show", "a"]);
    assert_eq!(shown[0]["port"], "a");
    assert!(shown[0]["since"].is_string() && shown[0]["duration_s"].is_u64());
    let expected = serde_json::json!(
        {"direction": "out", "local": null, "remote": "0.0.0.0/0", "packets": 0, "bytes": 0}
    );
    assert_eq!(shown[0]["entries"][0], expected);
    assert_eq!(daemon.ok(&["meter", "enable", "--all"]), "port 'a': metered\nport 'b': metered\n");
    let total = daemon.json(&["meter", "show", "--total"]);
    assert_eq!(total[0]["entries"].as_array().map(Vec::len), Some(4));
    assert!(daemon.ok(&["meter", "show"]).contains("0.000"));
    let since = daemon.json(&["meter", "show", "b"])[0]["since"].clone();
    assert_eq!(daemon.end("-KILL"), -1);
    let daemon = Daemon::start(directory.path(), &[]);
    assert_eq!(daemon.json(&["meter", "show", "b"])[0]["since"], since);
    daemon.ok(&["meter", "reset", "b"]);
    assert_ne!(daemon.json(&["meter", "show", "b"])[0]["since"], since);
    daemon.ok(&["meter", "disable", "--all"]);
    assert_eq!(daemon.json(&["acl", "list", "a"]), serde_json::json!([]));
    for args in
        [&["meter", "enable"][..], &["meter", "reset", "a", "--all"], &["meter", "show", "a", "--total"]]
    {
        assert_eq!(daemon.run(args).code, 2, "{args:?}");
    }
}

#[test]
fn sessions_of_a_port_without_any_are_none() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &["--state-dir", "none"]);
    daemon.ok(&["port", "add", "a", "--socket", "a.sock"]);
    assert_eq!(daemon.json(&["session", "list"]), serde_json::json!([]));
    assert_eq!(daemon.ok(&["session", "list", "a"]), "no sessions\n");
    assert_eq!(daemon.json(&["session", "flush", "a"]), serde_json::json!({"flushed": 0}));
    let done = daemon.run(&["session", "flush", "b"]);
    assert!(done.code == 1 && done.stderr.contains("there is no such port"), "{}", done.stderr);
}

/// Prints how long it takes (`--nocapture`); fails when it takes absurdly long.
#[test]
fn a_thousand_ports_with_fifty_entries_each_are_one_change() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let mut text = String::new();
    for port in 0..1000 {
        let mac = format!("02:00:00:00:{:02x}:{:02x}", port >> 8, port & 255);
        let _ =
            write!(text, "[[port]]\nname = \"p{port}\"\nsocket = \"DIR/p{port}.sock\"\nmac = \"{mac}\"\n");
        for entry in 0..50 {
            let _ = write!(
                text,
                "[[port.acl]]\naction = \"deny\"\ndirection = \"out\"\nremote = \"10.{}.{entry}.0/24\"\n",
                port & 255
            );
        }
    }
    let file = write(directory.path(), &text);
    let time = |what: &str, args: &[&str]| {
        let start = Instant::now();
        let printed = daemon.ok(args);
        println!("{what}: {:?}", start.elapsed());
        (printed, start.elapsed())
    };
    let (lines, took) = time("apply", &["apply", &file]);
    assert_eq!(lines.lines().count(), 1000);
    assert!(took.as_secs() < 60, "{took:?}");
    assert_eq!(time("again", &["apply", &file]).0, "nothing to change\n");
    let (saved, _) = time("save", &["save"]);
    let (lines, _) = time(
        "one entry",
        &["apply", &write(directory.path(), &saved.replacen("10.0.7.0/24", "10.0.77.0/24", 1))],
    );
    assert_eq!(lines.lines().count(), 2, "{lines}");
}
