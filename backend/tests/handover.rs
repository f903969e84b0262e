//! `turnpike migrate new-key`, `export` and `import`, and `serve --fleet-key`, as an operator meets them.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Daemon, Done, directory, run};

const ADD: &[&str] = &["port", "add", "web", "--socket", "web.sock", "--mac", "52:54:00:00:00:01"];

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[track_caller]
fn refused(done: &Done, text: &str) {
    assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{done:?}");
    assert_eq!(done.stderr, format!("turnpike: {text}\n"));
}

fn set(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn s20_4_a_fleet_key_is_new_random_and_its_owners_alone() {
    let directory = directory();
    let d = directory.path();
    let api = d.join("api.sock");
    let made = run(d, &api, &["migrate", "new-key", "one.key"]);
    assert_eq!((made.code, made.stdout.as_str()), (0, "made one.key\n"), "{made:?}");
    let made = run(d, &api, &["migrate", "new-key", "two.key", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&made.stdout).unwrap();
    assert_eq!(json, serde_json::json!({ "file": "two.key" }));
    let keys = ["one.key", "two.key"].map(|name| (std::fs::read(d.join(name)).unwrap(), mode(&d.join(name))));
    assert_eq!((keys[0].0.len(), keys[0].1, keys[1].1), (32, 0o600, 0o600));
    assert_ne!(keys[0], keys[1]);
    // One that is there is never lost.
    let hint =
        "valid: 32 random bytes in a file that only its owner may use, as 'turnpike migrate new-key' makes";
    let again = run(d, &api, &["migrate", "new-key", "one.key"]);
    refused(&again, &format!("file 'one.key': it cannot be made: File exists (os error 17); {hint}"));
    assert_eq!(std::fs::read(d.join("one.key")).unwrap(), keys[0].0);
    let nowhere = run(d, &api, &["migrate", "new-key", "no/x.key"]);
    refused(
        &nowhere,
        &format!("file 'no/x.key': it cannot be made: No such file or directory (os error 2); {hint}"),
    );
}

#[test]
fn s20_4_a_switch_does_not_start_with_a_key_that_is_none() {
    let directory = directory();
    let d = directory.path();
    std::fs::write(d.join("short"), [1; 31]).unwrap();
    std::fs::write(d.join("long"), [1; 33]).unwrap();
    std::fs::write(d.join("open"), [1; 32]).unwrap();
    std::fs::write(d.join("foreign"), [1; 32]).unwrap();
    for name in ["short", "long", "foreign"] {
        set(&d.join(name), 0o600);
    }
    set(&d.join("open"), 0o640);
    let mut cases = vec![
        ("short", "the fleet key has 31 bytes; it must have 32"),
        ("long", "the fleet key has 33 bytes; it must have 32"),
        ("open", "its mode 640 lets others than its owner use it"),
        ("none", "it cannot be read: No such file or directory (os error 2)"),
    ];
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(d.join("foreign"), Some(65534), None).unwrap();
        cases.push(("foreign", "it belongs to uid 65534"));
    }
    for (name, text) in cases {
        let Err(said) = Daemon::try_start(d, &["--fleet-key", name]) else { panic!("it runs with {name}") };
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains(&format!("file '{name}': {text}; valid: 32 random bytes")), "{said}");
    }
}

#[test]
fn s20_4_a_port_is_exported_to_a_private_file_and_imported_as_it_was() {
    let directory = directory();
    let d = directory.path();
    let (here, there) = (d.join("here"), d.join("there"));
    for path in [&here, &there] {
        std::fs::create_dir(path).unwrap();
    }
    let [here, there] = [here, there].map(|path| Daemon::start(&path, &[]));
    here.ok(ADD);
    here.ok(&["port", "set", "web", "--vlan", "access:7", "--dhcp-guard", "on"]);
    here.ok(&["rule", "add", "web", "--action", "deny", "--direction", "in", "--weight", "5"]);
    let file = d.join("web.state");
    let path = file.to_str().unwrap();
    // A file that others could read until now.
    std::fs::write(&file, "old").unwrap();
    set(&file, 0o644);
    let text = here.ok(&["migrate", "export", "web", "-o", path]);
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(text, format!("port 'web': {} bytes written to {path}\n", bytes.len()));
    assert_eq!(mode(&file), 0o600);
    let new = d.join("new.state");
    let json = here.json(&["migrate", "export", "web", "-o", new.to_str().unwrap()]);
    assert_eq!(mode(&new), 0o600);
    assert_eq!(json["port"], "web");
    assert_eq!(json["bytes"], std::fs::read(&new).unwrap().len());

    // A port that is not there.
    let import = there.run(&["migrate", "import", path]);
    assert_eq!(import.code, 1, "{import:?}");
    assert!(import.stderr.starts_with("turnpike: port 'web': there is no such port; valid: "), "{import:?}");
    there.ok(ADD);
    assert_eq!(there.ok(&["migrate", "import", path]), "port 'web' is as in the file\n");
    let (ours, theirs) = (here.json(&["port", "show", "web"]), there.json(&["port", "show", "web"]));
    for key in ["vlan", "dhcp_guard", "counters", "mac"] {
        assert_eq!(theirs[key], ours[key], "{key}");
    }
    assert_eq!(there.json(&["rule", "list", "web"]), here.json(&["rule", "list", "web"]));
    // Again, as after a mistake: the operator's word, not a replay.
    assert_eq!(there.json(&["migrate", "import", path])["port"]["name"], "web");
    // It is on disk.
    assert_eq!(there.end("-KILL"), -1);
    let there = Daemon::start(&d.join("there"), &[]);
    assert_eq!(there.json(&["port", "show", "web"])["vlan"], ours["vlan"]);
}

#[test]
fn s20_4_what_cannot_be_exported_or_imported_says_why_and_changes_nothing() {
    let directory = directory();
    let d = directory.path();
    let daemon = Daemon::start(d, &[]);
    daemon.ok(ADD);
    let path = d.join("web.state");
    let path = path.to_str().unwrap();
    daemon.ok(&["migrate", "export", "web", "-o", path]);
    let good = std::fs::read(path).unwrap();
    let other = ["port", "set", "web", "--vlan", "access:9"];
    daemon.ok(&other);
    let before = daemon.seen();
    refused(
        &daemon.run(&["migrate", "export", "db", "-o", "db.state"]),
        "port 'db': there is no such port; valid: web (see 'turnpike port list')",
    );
    assert!(!d.join("db.state").exists(), "a file without content");
    refused(
        &daemon.run(&["migrate", "export", "web", "-o", "no/x.state"]),
        "file 'no/x.state' cannot be written: No such file or directory (os error 2)",
    );
    refused(
        &daemon.run(&["migrate", "import", "none.state"]),
        "file 'none.state' cannot be read: No such file or directory (os error 2)",
    );
    let hint = "valid: a state of this very port, newer than any before";
    let import = |bytes: &[u8]| {
        std::fs::write(d.join("bad.state"), bytes).unwrap();
        daemon.run(&["migrate", "import", "bad.state"])
    };
    let truncated = import(&good[..good.len() - 1]);
    let (need, have) = (good.len(), good.len() - 1);
    refused(
        &truncated,
        &format!(
            "request: this is not a sealed state of a port: it says that it has {need} bytes, but {have} are there; {hint}"
        ),
    );
    for bytes in [&b""[..], b"hello", &[0xff; 5000]] {
        let done = import(bytes);
        assert!(
            done.stderr.starts_with("turnpike: request: this is not a sealed state of a port: it "),
            "{done:?}"
        );
        assert_eq!((done.code, done.stderr.lines().count()), (1, 1));
    }
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    let done = import(&damaged);
    assert_eq!((done.code, done.stderr.lines().count()), (1, 1), "{done:?}");
    assert!(done.stderr.contains("checksum"), "{done:?}");
    // More than any state has.
    let done = import(&vec![0; 9 << 20]);
    assert_eq!((done.code, done.stderr.lines().count()), (1, 1), "{done:?}");
    let long = "file 'bad.state' is longer than any state of a port; valid: at most 8384512 bytes";
    refused(&done, long);
    assert_eq!(daemon.seen(), before);
    // The same name, another address.
    daemon.ok(&["port", "remove", "web"]);
    daemon.ok(&["port", "add", "web", "--socket", "web.sock", "--mac", "52:54:00:00:00:02"]);
    refused(
        &import(&good),
        &format!(
            "port 'web': the state is that of port 'web' with address 52:54:00:00:00:01; this is port 'web' with address \
             52:54:00:00:00:02; {hint}"
        ),
    );
}

#[test]
fn s20_4_only_guest_ports_move() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only_guest_ports_move needs root, to make a tap");
        return;
    }
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let tap = format!("tpm{}", std::process::id() % 100_000);
    daemon.ok(&["port", "add", "host", "--tap", &tap]);
    let done = daemon.run(&["migrate", "export", "host", "-o", "host.state"]);
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("port 'host'") && done.stderr.contains("only guest ports have it"),
        "{done:?}"
    );
    assert!(!directory.path().join("host.state").exists());
}
