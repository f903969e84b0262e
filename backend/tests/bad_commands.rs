//! Every bad command ends with one clear line, exit code 1, and nothing changed.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Daemon, Done, TURNPIKE, directory, finish, run};

#[test]
fn a_bad_command_is_refused_with_one_clear_line_and_changes_nothing() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let d = directory.path().canonicalize().unwrap().to_str().unwrap().to_owned();
    daemon.ok(&["port", "add", "web", "--socket", "web.sock", "--mac", "52:54:00:00:00:01"]);
    let _live = UnixListener::bind(directory.path().join("live.sock")).unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let long = "s".repeat(108 - d.len() - 1);
    let name33 = "n".repeat(33);
    let before = daemon.seen();
    let web = "52:54:00:00:00:01 is the address of port 'web'; valid: an address no other port has, or none to get a \
               dynamic one";
    let unicast = "valid: a non-zero unicast address (the first byte is even) such as 52:54:00:12:34:56";
    let name = "the name is not valid; valid: 1 to 32 characters of A-Z a-z 0-9 . _ -, the first one a letter or a digit";
    let cases: &[(&[&str], String)] = &[
        (&["port", "show", "db"], "port 'db': there is no such port; valid: web (see 'turnpike port list')".into()),
        (&["port", "remove", "db"], "port 'db': there is no such port; valid: web (see 'turnpike port list')".into()),
        (
            &["port", "set", "db", "--link", "down"],
            "port 'db': there is no such port; valid: web (see 'turnpike port list')".into(),
        ),
        (&["port", "show", "a/b"], format!("port 'a/b': {name}")),
        (&["fdb", "show", "--port", "db"], "port 'db': there is no such port; valid: web (see 'turnpike port list')".into()),
        (&["port", "add", "-x", "--socket", "x.sock"], String::new()),
        (&["port", "add", "a b", "--socket", "x.sock"], format!("port 'a b': {name}")),
        (&["port", "add", &name33, "--socket", "x.sock"], format!("port '{name33}': {name}")),
        (
            &["port", "add", "web", "--socket", "x.sock"],
            "port 'web': the name is taken by a guest port; valid: a name not in 'turnpike port list'".into(),
        ),
        (&["port", "add", "x", "--socket", "x.sock", "--mac", "52:54:00:00:00:01"], format!("port 'x': {web}")),
        (&["port", "add", "x", "--tap", "tpx0", "--mac", "52-54-00-00-00-01"], format!("port 'x': {web}")),
        (
            &["port", "add", "x", "--socket", "x.sock", "--mac", "01:00:5e:00:00:01"],
            format!("port 'x': 01:00:5e:00:00:01 is a multicast address and cannot be a port's own; {unicast}"),
        ),
        (
            &["port", "add", "x", "--socket", "x.sock", "--mac", "00:00:00:00:00:00"],
            format!("port 'x': 00:00:00:00:00:00 cannot be a port's address; {unicast}"),
        ),
        (
            &["port", "add", "x", "--socket", "x.sock", "--mac", "52:54:00:00:00"],
            "port 'x': '52:54:00:00:00' is not a MAC address; valid: six hexadecimal bytes such as 52:54:00:12:34:56".into(),
        ),
        (
            &["port", "add", "x", "--socket", "web.sock"],
            format!("port 'x': socket path '{d}/web.sock' is used by port 'web'; valid: a path nobody listens on"),
        ),
        (
            &["port", "add", "x", "--socket", "live.sock"],
            format!("port 'x': socket path '{d}/live.sock' is used by another program; valid: a path nobody listens on"),
        ),
        (
            &["port", "add", "x", "--socket", "file"],
            format!(
                "port 'x': socket path '{d}/file' is a file, not a socket; valid: a path that does not exist yet, or an \
                 abandoned socket"
            ),
        ),
        (
            &["port", "add", "x", "--socket", "no/x.sock"],
            format!(
                "port 'x': socket path '{d}/no/x.sock': directory '{d}/no' does not exist; valid: a path in an existing \
                 directory"
            ),
        ),
        (&["port", "add", "x", "--socket", &long], "… has 108 bytes; valid: at most 107 bytes".into()),
        (
            &["port", "add", "x", "--socket", "x.sock", "--queues", "0"],
            "port 'x': queues 0 is out of range; valid: 1 to 8".into(),
        ),
        (
            &["port", "add", "x", "--socket", "x.sock", "--queues", "9"],
            "port 'x': queues 9 is out of range; valid: 1 to 8".into(),
        ),
        (
            &["port", "add", "x", "--socket", "x.sock", "--mtu", "67"],
            "port 'x': mtu 67 is out of range; valid: 68 to 9000 bytes".into(),
        ),
        (
            &["port", "add", "x", "--socket", "x.sock", "--mtu", "9001"],
            "port 'x': mtu 9001 is out of range; valid: 68 to 9000 bytes".into(),
        ),
        (&["port", "add", "x", "--socket", "x.sock", "--features", "csum,warp"], "… valid: a list of ".into()),
        (
            &["port", "add", "x", "--tap", "a/b"],
            "port 'x': 'a/b' is not an interface name; valid: 1 to 15 characters without '/', ':' and white space".into(),
        ),
        (&["uplink", "add", "up", "--device", "nope0"], "uplink 'up': there is no interface 'nope0'; valid: …".into()),
        (
            &["uplink", "add", "up", "--device", "lo"],
            "uplink 'up': interface 'lo': it is not Ethernet; valid: another Ethernet interface, or this one when that is mended".into(),
        ),
        (
            &["uplink", "remove", "up"],
            "uplink 'up': there is no such uplink; valid: there is no uplink yet; add one with 'turnpike uplink add'".into(),
        ),
        (&["uplink", "remove", "web"], "uplink 'web': this is a guest port; valid: 'turnpike port remove web'".into()),
        (
            &["port", "add", "x", "--socket", "x.sock", "--vlan", "access:0"],
            "port 'x': vlan: access VLAN '0' is out of range (reason 36); valid: none, access:ID, …".into(),
        ),
        (
            &["port", "set", "web", "--teaming", "on"],
            "port 'web': teaming is on, and which virtual machine the port belongs to is not said; valid: --vm NAME …".into(),
        ),
        (
            &["port", "set", "web", "--vsid", "5000", "--vlan", "access:7"],
            "port 'web': vsid 5000 and vlan access:7 exclude each other (reason 31); valid: one of them; set the other to none".into(),
        ),
        (
            &["acl", "add", "web", "--action", "deny", "--direction", "both", "--remote", "10.0.0.1/8"],
            "port 'web': '10.0.0.1/8' has bits set beyond its prefix length (reason 19); valid: 10.0.0.0/8, or 10.0.0.1 alone".into(),
        ),
        (
            &["acl", "remove", "web", "--action", "deny", "--direction", "in", "--remote", "a b&c=d"],
            "port 'web': 'a b&c=d' is not an address (reason 14); valid: …".into(),
        ),
        (
            &["acl", "remove", "web", "--action", "deny", "--direction", "in", "--remote", "fe80::/10"],
            "port 'web': there is no ACL entry 'deny in remote fe80::/10' (reason 26); valid: one of those in 'turnpike acl list web', \
             with the same arguments"
                .into(),
        ),
        (&["acl", "list", "db"], "port 'db': there is no such port; valid: web (see 'turnpike port list')".into()),
        (&["acl", "list", "a/b"], format!("port 'a/b': {name}")),
        (
            &["rule", "add", "web", "--action", "allow", "--direction", "in", "--weight", "1", "--stateful"],
            "port 'web': a stateful rule is about every protocol (reason 80); valid: protocol tcp or udp".into(),
        ),
        (
            &["rule", "remove", "web", "--direction", "in", "--weight", "1"],
            "port 'web': there is no rule 'in weight 1' (reason 26); valid: one of those in 'turnpike rule list web', with the same \
             arguments"
                .into(),
        ),
        (
            &["explain", "--from", "web", "--frame", "nothing.pcap"],
            "frame 'nothing.pcap': these are not hexadecimal bytes, and the file cannot be read: …".into(),
        ),
        (
            &["explain", "--from", "web", "--frame", "file"],
            "frame 'file': this is not a pcap file: …".into(),
        ),
        (
            &["switch", "set", "--fdb-size", "1"],
            "switch: fdb-size 1 is out of range; valid: 64 to 1048576 addresses".into(),
        ),
        (
            &["switch", "set", "--kind", "private", "--rx-wait-us", "1000001"],
            "switch: rx-wait-us 1000001 is out of range; valid: 0 to 1000000 microseconds".into(),
        ),
    ];
    for (args, expected) in cases {
        let done = daemon.run(args);
        if expected.is_empty() {
            assert_eq!(done.code, 2, "{args:?} is wrong usage: {done:?}");
        } else {
            refused(args, &done, expected);
        }
    }
    assert_eq!(daemon.seen(), before);
    assert!(!directory.path().join("x.sock").exists());
}

/// `expected` is the whole line, or `…` and how it ends, or how it begins and `…`.
fn refused(args: &[&str], done: &Done, expected: &str) {
    assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{args:?}: {done:?}");
    let line = done.stderr.strip_suffix('\n').unwrap_or_default();
    assert_eq!(line.lines().count(), 1, "{args:?}: {done:?}");
    if let Some(rest) = expected.strip_prefix('…') {
        assert!(line.contains(rest), "{args:?}: {line}");
    } else if let Some(start) = expected.strip_suffix('…') {
        assert!(line.starts_with(&format!("turnpike: {start}")), "{args:?}: {line}");
    } else {
        assert_eq!(line, format!("turnpike: {expected}"), "{args:?}");
    }
}

#[test]
fn wrong_usage_ends_with_code_2() {
    let directory = directory();
    for args in [
        &["port"][..],
        &["port", "add", "x"],
        &["port", "add", "x", "--socket", "a", "--tap", "b"],
        &["port", "add", "x", "--tap", "b", "--queues", "2"],
        &["port", "add", "x", "--socket", "a", "--queues", "many"],
        &["port", "add", "x", "--socket", "a", "--max-rate", "1G"],
        &["port", "set", "x", "--storm-limit", "lots"],
        &["acl", "add", "x", "--action", "deny", "--direction", "in"],
        &["acl", "add", "x", "--action", "deny", "--direction", "in", "--local", "any", "--remote", "any"],
        &["acl", "add", "x", "--action", "drop", "--direction", "in", "--local", "any"],
        &["rule", "add", "x", "--action", "deny", "--direction", "both", "--weight", "1"],
        &["rule", "add", "x", "--action", "deny", "--direction", "in"],
        &["explain", "--from", "x"],
        &["port", "set", "x"],
        &["port", "set", "x", "--link", "sideways"],
        &["switch", "set"],
        &["switch", "set", "--kind", "public"],
        &["serve", "--poll-us", "soon"],
        &["serve", "--json"],
        &["fly"],
    ] {
        let done = run(directory.path(), &directory.path().join("api.sock"), args);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{args:?}: {done:?}");
        assert!(done.stderr.contains("--help"), "{args:?}: {done:?}");
    }
}

#[test]
fn without_a_switch_the_line_says_where_it_was_looked_for() {
    let directory = directory();
    let api = directory.path().join("api.sock");
    let expected = format!(
        "no switch answers at {} (is 'turnpike serve' running? another socket: --api or $TURNPIKE_API)",
        api.display()
    );
    let args = &["port", "list"][..];
    refused(args, &run(directory.path(), &api, args), &expected);
    drop(UnixListener::bind(&api).unwrap());
    refused(args, &run(directory.path(), &api, args), &expected);
    refused(&["events"], &run(directory.path(), &api, &["events"]), &expected);
}

#[test]
fn who_may_not_call_is_told_so_and_changes_nothing() {
    if !nix_root() {
        eprintln!("skipped: who_may_not_call needs root, to run a client as another user");
        return;
    }
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let program = reachable_program(directory.path());
    let before = daemon.seen();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&program).args(args);
        finish(command.current_dir(directory.path()).env("TURNPIKE_API", &daemon.api))
    };
    let add = &["port", "add", "x", "--socket", "x.sock"][..];
    // The socket's mode keeps others out …
    let mode = std::fs::metadata(&daemon.api).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let expected = format!(
        "permission denied for uid 65534 to use {}; valid: root, the switch's own user or a member of the group given \
         with 'serve --api-group'",
        daemon.api.display()
    );
    refused(add, &as_nobody(add), &expected);
    // … and where it does not, the switch does.
    std::fs::set_permissions(&daemon.api, std::fs::Permissions::from_mode(0o666)).unwrap();
    let expected = "caller: permission denied for uid 65534; valid: root or the switch's own user (a group can be allowed \
                    with 'serve --api-group')";
    for args in [add, &["port", "list"], &["events", "--follow"]] {
        refused(args, &as_nobody(args), expected);
    }
    assert_eq!(daemon.seen(), before);
}

#[test]
fn members_of_the_api_group_may_call() {
    if !nix_root() {
        eprintln!("skipped: members_of_the_api_group needs root, to run a client as another user");
        return;
    }
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &["--api-group", "4321"]);
    let program = reachable_program(directory.path());
    let mode = std::fs::metadata(&daemon.api).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    let list = |groups: &[&str]| {
        let mut command = Command::new("setpriv");
        command.arg("--reuid=65534").args(groups).arg("--").arg(&program).args(["port", "list"]);
        finish(command.current_dir(directory.path()).env("TURNPIKE_API", &daemon.api)).code
    };
    assert_eq!(list(&["--regid=4321", "--clear-groups"]), 0, "primary group");
    assert_eq!(list(&["--regid=65534", "--groups=100,4321"]), 0, "supplementary group");
    std::fs::set_permissions(&daemon.api, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(list(&["--regid=65534", "--groups=100"]), 1, "another group");
    assert_eq!(list(&["--regid=65534", "--groups=4321"]), 0, "supplementary group, judged by the switch");
}

/// The program where every user can run it.
fn reachable_program(directory: &Path) -> PathBuf {
    let program = directory.join("turnpike");
    // Copied by another process: a file this one has open for writing cannot be run while a child inherits that.
    assert!(Command::new("cp").arg(TURNPIKE).arg(&program).status().unwrap().success());
    program
}

fn nix_root() -> bool {
    nix::unistd::geteuid().is_root()
}
