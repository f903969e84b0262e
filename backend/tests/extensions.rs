//! Extensions as an operator uses them: by commands, in files, and over a restart.

mod common;

use common::{Daemon, directory};
use serde_json::json;

const SFLOW: &str = "collector = \"127.0.0.1:6343\"\nagent = \"192.0.2.1\"\nsampling = 100\nsub-agent = 7\n";

fn write(directory: &std::path::Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text.replace("DIR", directory.to_str().expect("UTF-8")))
        .expect("written");
}

/// What is enabled, without what changes by itself.
fn enabled(daemon: &Daemon) -> Vec<serde_json::Value> {
    let mut all = daemon.json(&["extension", "list"]).as_array().expect("a list").clone();
    for one in &mut all {
        for key in ["status", "counters"] {
            one.as_object_mut().expect("an object").remove(key);
        }
    }
    all
}

#[test]
fn s15_1_extensions_are_enabled_moved_and_disabled_by_commands_and_are_there_after_a_restart() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    assert!(daemon.ok(&["extension", "list"]).starts_with("no extension is enabled;"));
    let available = daemon.ok(&["extension", "list", "--available"]);
    assert!(
        available.lines().any(|line| line.starts_with("sflow ") && line.contains(" capture ")),
        "{available}"
    );
    write(directory.path(), "sflow.toml", SFLOW);
    let line = daemon.ok(&["extension", "enable", "sflow", "--config", "sflow.toml"]);
    assert_eq!(line, "extension 'sflow': capture, position 1, running\n");
    let line = daemon.ok(&["extension", "enable", "vepa", "--fail", "closed", "--at", "2"]);
    assert_eq!(line, "extension 'vepa': forwarding, position 2, running\n");
    let list = daemon.ok(&["extension", "list"]);
    let names: Vec<_> = list.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names, ["sflow", "vepa"], "{list}");
    let show = daemon.json(&["extension", "show", "sflow"]);
    assert_eq!(show["config"]["sub-agent"], json!(7));
    let shown = daemon.ok(&["extension", "show", "vepa"]);
    assert!(shown.contains("dropped "), "{shown}");
    let metrics = daemon.http("GET", "/metrics", "").1;
    assert!(metrics.contains("turnpike_extension_failed{extension=\"vepa\"} 0"), "{metrics}");
    let socket = directory.path().join("web.sock");
    daemon.ok(&["port", "add", "web", "--socket", socket.to_str().expect("UTF-8")]);
    let refusals: [(&[&str], &str); 7] = [
        (
            &["extension", "move", "vepa", "--at", "1"],
            "position 1 is not among those of forwarding extensions; valid: 2",
        ),
        (&["extension", "enable", "vepa"], "it is enabled already"),
        (&["extension", "enable", "nothing"], "there is no such extension; valid: "),
        (&["extension", "unload", "vepa"], "it is enabled; valid: 'turnpike extension disable' first"),
        (&["extension", "load", "sflow.toml", "--name", "x"], "the module is not valid: "),
        (
            &["extension", "set", "vepa", "--port", "web", "a=1"],
            "extension 'vepa' refuses it: it has no settings (reason 101)",
        ),
        (&["extension", "disable", "firewall"], "it is not enabled"),
    ];
    let before = enabled(&daemon);
    for (args, line) in refusals {
        let done = daemon.run(args);
        assert_eq!(done.code, 1, "{args:?}");
        assert!(done.stderr.contains(line), "{args:?}: {}", done.stderr);
    }
    assert_eq!(enabled(&daemon), before);
    assert_eq!(daemon.end("-TERM"), 0);

    let daemon = Daemon::start(directory.path(), &[]);
    assert_eq!(enabled(&daemon), before);
    let saved = daemon.ok(&["save"]);
    write(directory.path(), "switch.toml", &saved);
    assert_eq!(daemon.ok(&["apply", "switch.toml"]), "nothing to change\n", "{saved}");
    assert_eq!(daemon.ok(&["extension", "disable", "sflow"]), "extension 'sflow': disabled\n");
    assert_eq!(daemon.ok(&["apply", "--dry-run", "switch.toml"]).lines().count(), 1);
    let events = daemon.ok(&["events"]);
    assert!(events.contains("extension-disabled extension=sflow"), "{events}");
}

#[test]
fn s15_3_settings_are_kept_for_an_extension_that_is_not_there_and_stand_in_files() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let file = "\
[[extension]]
name = \"later\"
enabled = false

[extension.settings]
my_key = \"x\"

[[port]]
name = \"web\"
socket = \"DIR/web.sock\"
require-extension = [\"later\"]

[port.extension.later]
sets_of = [\"web\"]
";
    write(directory.path(), "switch.toml", file);
    daemon.ok(&["apply", "switch.toml"]);
    let show = daemon.json(&["extension", "show", "later"]);
    assert_eq!(show["state"], json!("disabled"));
    assert_eq!(
        (&show["settings"], &show["ports"]),
        (&json!({"my_key": "x"}), &json!({"web": {"sets_of": ["web"]}}))
    );
    assert_eq!(daemon.json(&["port", "show", "web"])["policy"]["require_extension"], json!(["later"]));
    assert!(daemon.ok(&["events"]).contains("extension-missing port=web extension=later"));
    write(directory.path(), "again.toml", &daemon.ok(&["save"]));
    assert_eq!(daemon.ok(&["apply", "again.toml"]), "nothing to change\n");
    daemon.ok(&["port", "set", "web", "--require-extension", "none"]);
    assert!(daemon.ok(&["events"]).contains("extensions-met port=web"));
    daemon.ok(&["extension", "set", "later", "--port", "web", "level=3", "name=web"]);
    let show = daemon.json(&["extension", "show", "later"]);
    assert_eq!(show["ports"]["web"], json!({"level": 3, "name": "web"}));
    daemon.ok(&["extension", "set", "later", "--port", "web", "--none"]);
    daemon.ok(&["extension", "set", "later", "--none"]);
    assert_eq!(daemon.run(&["extension", "show", "later"]).code, 1, "nothing is known of it any more");
}

/// A filter that lets everything pass and could drop, as a module.
#[cfg(feature = "wasm")]
const DEAF: &str = r#"(module
    (memory (export "memory") 1)
    (data (i32.const 16) "deaf\n")
    (func (export "tp_abi") (result i32) (i32.const 1))
    (func (export "tp_kind") (result i32) (i32.const 2))
    (func (export "tp_reasons") (result i64) (i64.const 0x0000000500000010))
    (func (export "tp_buffer") (param i32) (result i32) (i32.const 1024))
    (func (export "tp_judges") (param i32) (result i32) (i32.const 1))
    (func (export "tp_judge") (param i32) (result i32) (i32.const 0)))"#;

#[cfg(feature = "wasm")]
#[test]
fn a_module_is_loaded_enabled_kept_over_a_restart_and_unloaded() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    std::fs::write(directory.path().join("deaf.wasm"), wat::parse_str(DEAF).expect("a module"))
        .expect("written");
    let loaded = daemon.ok(&["extension", "load", "deaf.wasm"]);
    assert!(loaded.starts_with("extension 'deaf': loaded ("), "{loaded}");
    let enable = ["extension", "enable", "deaf", "--fail", "closed", "--limit", "memory-mib=2"];
    assert_eq!(daemon.ok(&enable), "extension 'deaf': filter, position 1, running\n");
    assert_eq!(daemon.run(&["extension", "load", "deaf.wasm"]).code, 1, "not while it is enabled");
    let view = daemon.json(&["extension", "show", "deaf"]);
    assert_eq!(
        (&view["limits"], &view["counters"]["dropped"]),
        (&json!({"memory-mib": 2}), &json!({"deaf": 0}))
    );
    assert_eq!(daemon.end("-TERM"), 0);
    let daemon = Daemon::start(directory.path(), &[]);
    assert_eq!(daemon.json(&["extension", "show", "deaf"])["state"], json!("running"));
    assert_eq!(daemon.end("-TERM"), 0);

    let kept = directory.path().join("state/extensions/deaf.wasm");
    std::fs::remove_file(kept).expect("it is kept in the state directory");
    let daemon = Daemon::start(directory.path(), &[]);
    let view = daemon.json(&["extension", "show", "deaf"]);
    assert_eq!(view["fault"], json!("it could not be started: there is no such extension"));
    daemon.ok(&["extension", "disable", "deaf"]);
    daemon.ok(&["extension", "load", "deaf.wasm"]);
    assert!(daemon.run(&["extension", "enable", "deaf", "--limit", "memory=2"]).stderr.contains("limits: "));
    daemon.ok(&enable);
    daemon.ok(&["extension", "disable", "deaf"]);
    daemon.ok(&["extension", "unload", "deaf"]);
    assert!(daemon.run(&enable).stderr.contains("there is no such extension"));
}
