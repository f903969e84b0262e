//! What extensions remember of ports goes on when a successor takes over the running switch (`serve --take-over`).

use serde_json::Value;
use turnpike_tests::extension::module_with;
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Lan, eventually};

const PORTS: [(&str, &str); 3] = [("a", ""), ("b", ""), ("c", "")];

/// Each port may send one frame. What is remembered of a port is a byte at 4096 and its number.
const ONCE: &str = "
    (if (i32.load8_u offset=4096 (i32.load16_u offset=28 (local.get 0))) (then (return (i32.const 0x21))))
    (i32.store8 offset=4096 (i32.load16_u offset=28 (local.get 0)) (i32.const 1))
    (i32.const 0x20)";

const SAVE: &str = r#"(func (export "tp_save") (param i64 i32) (result i64)
    (if (result i64) (i32.load8_u offset=4096 (local.get 1))
        (then (i64.or (i64.const 0x100000000) (i64.extend_i32_u (i32.add (i32.const 4096) (local.get 1)))))
        (else (i64.const 0))))"#;

const RESTORE: &str = r#"(func (export "tp_restore") (param i64 i32 i32 i32) (result i64)
    (i32.store8 offset=4096 (local.get 1) (i32.load8_u (local.get 2))) (i64.const 0))"#;

/// Takes the byte in, and refuses it then; a card that goes takes the byte along.
const REFUSING: &str = r#"(data (i32.const 64) "not of mine")
    (func (export "tp_restore") (param i64 i32 i32 i32) (result i64)
        (i32.store8 offset=4096 (local.get 1) (i32.load8_u (local.get 2))) (i64.const 0x0000000b00000040))
    (func (export "tp_change") (param i64 i32) (result i64)
        (if (i32.eq (i32.load (local.get 1)) (i32.const 10))
            (then (i32.store8 offset=4096 (i32.load offset=4 (local.get 1)) (i32.const 0))))
        (i64.const 0))"#;

fn firewall(lan: &Lan) {
    let config = lan.switch.dir().join("firewall.json");
    std::fs::write(&config, r#"{"default": {"out": "allow", "in": "deny"}, "sets": {"closed": []}}"#)
        .expect("written");
    lan.run(&format!("extension enable firewall --config {}", config.display()));
    lan.run(r#"extension set firewall --port b sets=["closed"]"#);
}

fn udp(lan: &Lan, from: &str, to: &str, ports: (u16, u16)) -> Vec<u8> {
    lan.frame(from, to).ipv4().udp(ports.0, ports.1).payload(&[1; 20]).build()
}

/// The events of a kind, as `port extension reason`.
fn events(lan: &Lan, kind: &str) -> Vec<String> {
    let of = |event: &&Value| event["kind"] == kind;
    let word = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let line = |event: &Value| ["port", "extension", "reason"].map(|key| word(event, key)).join(" ");
    lan.switch.events().iter().filter(of).map(line).collect()
}

#[test]
fn s15_4_connections_that_the_firewall_follows_go_on_in_the_successor_and_no_others_begin() {
    let mut lan = Lan::new(&PORTS);
    firewall(&lan);
    lan.passes("b", "a", &udp(&lan, "b", "a", (1000, 53)));
    for _ in 0..2 {
        lan.switch.take_over();
        lan.passes("a", "b", &udp(&lan, "a", "b", (53, 1000)));
        lan.dropped("c", &udp(&lan, "c", "b", (53, 1000)), ("b", "in"), "extension-filtered");
    }
    assert_eq!(events(&lan, "extension-forgot"), [""; 0]);
}

#[test]
fn s15_4_what_a_module_remembers_of_a_port_goes_on_in_the_successor() {
    let mut lan = Lan::new(&PORTS);
    lan.switch.load_extension("once", &module_with(2, "", ONCE, &[SAVE, RESTORE].concat()));
    lan.run("extension enable once");
    lan.passes("a", "b", &udp(&lan, "a", "b", (1, 2)));
    lan.switch.take_over();
    lan.dropped("a", &udp(&lan, "a", "b", (1, 2)), ("a", "out"), "extension-filtered");
    // Of a port of which nothing was remembered nothing is.
    lan.passes("b", "a", &udp(&lan, "b", "a", (1, 2)));
    assert_eq!(events(&lan, "extension-forgot"), [""; 0]);
}

#[test]
fn h27_a_module_that_cannot_save_or_does_not_take_it_is_named_and_goes_on_empty_beside_its_neighbours() {
    let traps = r#"(func (export "tp_save") (param i64 i32) (result i64) (unreachable))"#;
    let huge = r#"(func (export "tp_save") (param i64 i32) (result i64) (i64.const 0x4000000000000010))"#;
    for (more, why) in [
        ([traps, RESTORE].concat(), "a once tp_save gave up (unreachable)"),
        ([huge, RESTORE].concat(), "a once tp_save gave 1073741824 bytes; at most 262144"),
        ([SAVE, REFUSING].concat(), "a once not of mine"),
    ] {
        let mut lan = Lan::new(&PORTS);
        firewall(&lan);
        lan.switch.load_extension("once", &module_with(2, "", ONCE, &more));
        lan.run("extension enable once");
        lan.passes("a", "c", &udp(&lan, "a", "c", (1, 2)));
        lan.switch.take_over();
        assert!(eventually(|| !events(&lan, "extension-forgot").is_empty()));
        assert_eq!(events(&lan, "extension-forgot")[0], why);
        assert_eq!(lan.switch.json(&["extension", "show", "once"])["state"], "running");
        // It begins anew: the port may send one frame again.
        lan.passes("a", "c", &udp(&lan, "a", "c", (1, 2)));
        lan.dropped("a", &udp(&lan, "a", "c", (1, 2)), ("a", "out"), "extension-filtered");
        lan.dropped("c", &udp(&lan, "c", "b", (53, 1000)), ("b", "in"), "extension-filtered");
    }
}

#[test]
fn s15_4_what_an_extension_remembers_that_the_successor_lacks_is_kept_with_the_port() {
    let args = vec!["--state-dir".into(), "none".into()];
    let mut lan = Lan::with(SwitchOptions { args, ..SwitchOptions::default() }, &PORTS);
    lan.switch.load_extension("once", &module_with(2, "", ONCE, &[SAVE, RESTORE].concat()));
    lan.run("extension enable once");
    lan.passes("a", "b", &udp(&lan, "a", "b", (1, 2)));
    // Without a state directory a module ends with its process.
    lan.switch.take_over();
    assert_eq!(events(&lan, "extension-orphan"), ["a once "]);
    assert_eq!(events(&lan, "extension-forgot"), [""; 0]);
    lan.passes("a", "b", &udp(&lan, "a", "b", (1, 2)));
    // What is carried already is nothing new in the process after.
    lan.switch.take_over();
    assert_eq!(events(&lan, "extension-orphan"), [""; 0]);
}
