//! What may be configured, and what is said of the rest.

use serde_json::{Value, json};
use vswitch::extension::{Kind, builtin};

use super::start;

fn refused(config: &Value) -> String {
    builtin::start("firewall", config).expect("it exists").expect_err("wrong").to_string()
}

#[test]
fn s15_3_what_is_wrong_with_a_configuration_is_said() {
    let rule = |more: Value| {
        let mut rule = json!({ "action": "allow", "direction": "in" });
        rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({ "sets": { "web": [{ "action": "deny", "direction": "out" }, rule] } })
    };
    let wrong = [
        (json!({ "rules": [] }), "firewall: unknown field `rules`, expected one of `sets`, `default`"),
        (json!({ "share": 6000 }), "firewall: 'share' is 6000; it must be 16 to 5000"),
        (json!({ "connections": 10 }), "firewall: 'connections' is 10; it must be 4096 to 4194304"),
        (json!({ "timeouts": { "udp": 1 } }), "firewall: 'timeouts.udp' is 1; it must be 5 to 604800"),
        (
            json!({ "default": { "in": "drop" } }),
            "firewall: unknown variant `drop`, expected `allow` or `deny`",
        ),
        (rule(json!({ "direction": "up" })), "firewall: unknown variant `up`, expected `out` or `in`"),
        (
            rule(json!({ "protocol": "tpc" })),
            "firewall: rule 2 of set 'web': 'tpc' is no protocol; write tcp, udp, icmp, icmpv6, any or a number",
        ),
        (
            rule(json!({ "local-ports": [80] })),
            "firewall: rule 2 of set 'web': it names ports; only 'protocol' tcp and udp have them",
        ),
        (
            rule(json!({ "protocol": "udp", "local-ports": ["9-1"] })),
            "firewall: rule 2 of set 'web': '9-1' is no port; write 0 to 65535, or a range",
        ),
        (
            rule(json!({ "remote": ["10.0.0.0/33"] })),
            "firewall: rule 2 of set 'web': '10.0.0.0/33' is no prefix; write an address or a prefix",
        ),
        (
            rule(json!({ "remote": vec!["10.0.0.1"; 33] })),
            "firewall: rule 2 of set 'web': a list of 33; at most 32",
        ),
        (
            json!({ "intrusion": { "payloads": [{ "name": "w", "hex": "abc" }] } }),
            "firewall: payload 'w': 'abc' is no pattern; write 2 to 64 bytes, two digits each",
        ),
        (
            json!({ "intrusion": { "port-scan": { "ports": 1 } } }),
            "firewall: 'intrusion.port-scan.ports' is 1; it must be 2 to 256",
        ),
    ];
    for (config, expected) in wrong {
        let text = refused(&config);
        assert!(text.starts_with(expected), "{text}");
    }
}

#[test]
fn s15_3_a_whole_configuration_is_taken() {
    let config = json!({
        "connections": 1000,
        "share": 100,
        "default": { "out": "deny", "in": "deny" },
        "timeouts": { "opening": 30, "tcp": 7200, "closing": 10, "udp": 60, "other": 30 },
        "sets": { "web": [{
            "action": "allow", "direction": "in", "protocol": "tcp", "remote": ["10.0.0.0/8", "::/0"],
            "local": ["10.1.1.1"], "local-ports": [80, "8000-8010"], "remote-ports": ["1024-65535"],
        }] },
        "intrusion": {
            "port-scan": { "ports": 20, "hosts": 50, "window": 10, "block": 60 },
            "syn-flood": { "half-open": 64, "block": 60 },
            "payloads": [{ "name": "worm", "hex": "cafebabe", "protocol": "tcp", "block": 60 }],
        },
    });
    let wall = start(&config);
    assert_eq!(wall.kind(), Kind::Filter);
    let expected = json!({ "connections": 0, "most-connections": 1000, "sets": ["web"] });
    assert_eq!(wall.status(None), expected);
    let listed = builtin::available().iter().find(|one| one.name == "firewall").expect("it is listed");
    assert_eq!(listed.kind, Kind::Filter);
    let reasons = ["denied", "malformed", "no-room", "port-scan", "syn-flood", "known-payload"];
    assert_eq!(wall.reasons(), reasons);
}
