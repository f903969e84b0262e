//! Which rule decides.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use vswitch::extension::{Change, Scope};
use vswitch::frame::protocol;
use vswitch::{Direction, PortId};

use super::{ACK, GUEST, OTHER, PEER, SYN, Wall, answers, asks, denied, open, start, to_guest, to_peer};
use crate::packets::{icmp, tcp, udp, v4, v4_piece};
use crate::support::{Random, SECOND};

#[test]
fn s15_the_first_rule_that_matches_decides() {
    let rules = json!([
        { "action": "deny", "direction": "in", "protocol": "tcp", "remote": [PEER], "local-ports": [22] },
        { "action": "allow", "direction": "in", "protocol": "tcp", "remote": ["192.0.2.0/24"], "local-ports": [22, "8000-8010"] },
        { "action": "deny", "direction": "out", "protocol": "udp", "remote-ports": [53] },
        { "action": "allow", "direction": "in", "protocol": "icmp" },
    ]);
    let mut wall = Wall::new(&rules, &[]);
    let from = |src, port| v4(src, GUEST, protocol::TCP, &tcp(4000, port, SYN, &[]));
    let table = [
        (from(PEER, 22), false),
        (from("192.0.2.8", 22), true),
        (from(OTHER, 22), false),
        (from(PEER, 8000), true),
        (from(PEER, 8010), true),
        (from(PEER, 8011), false),
        (v4(OTHER, GUEST, protocol::ICMP, &icmp(8, &[0, 1, 0, 1])), true),
        (v4(PEER, GUEST, protocol::UDP, &udp(4000, 8000, b"x")), false),
    ];
    for (n, (packet, passes)) in table.iter().enumerate() {
        let expected = if *passes { "passes" } else { "denied" };
        let said = wall.come(packet).map_or_else(|reason| reason, |_| "passes".to_owned());
        assert_eq!(said, expected, "packet {n}");
    }
    assert_eq!(wall.out(&asks(4000, 53)), denied("denied"));
    assert!(wall.out(&asks(4000, 54)).is_ok());
}

#[test]
fn s15_sets_apply_in_the_order_of_the_settings_and_by_their_port() {
    let config = json!({ "sets": {
        "closed": [{ "action": "deny", "direction": "in", "protocol": "tcp" }],
        "web": [{ "action": "allow", "direction": "in", "protocol": "tcp", "local-ports": [80] }],
    } });
    let instance = start(&config);
    let mut wall = Wall { instance, now: SECOND, logs: Vec::new(), refreshed: false };
    let apply = |wall: &Wall, port: Option<u16>, sets: Option<Value>| {
        wall.instance.set(port.map(PortId), sets.as_ref()).expect("settings");
    };
    let get = to_guest(4000, 80, SYN);
    apply(&wall, Some(1), Some(json!({ "sets": ["web", "closed"] })));
    assert!(wall.come(&get).is_ok());
    apply(&wall, Some(1), Some(json!({ "sets": ["closed", "web"] })));
    assert_eq!(wall.come(&get), denied("denied"));
    // The switch's settings are for ports that have none.
    apply(&wall, None, Some(json!({ "sets": ["web"] })));
    assert_eq!(wall.come(&get), denied("denied"));
    assert!(wall.at(2, Direction::In, &get, false).is_ok());
    assert_eq!(wall.at(2, Direction::In, &to_guest(4000, 81, SYN), false), denied("denied"));
    apply(&wall, Some(1), None);
    assert!(wall.come(&get).is_ok());
    apply(&wall, None, None);
    assert_eq!(wall.come(&to_guest(4000, 81, SYN)), Ok(Scope::Flow));
    assert_eq!(wall.instance.status(Some(PortId(1))), Value::Null);
}

#[test]
fn s15_when_settings_change_all_are_asked_again_and_what_is_not_allowed_any_more_ends() {
    let mut wall = Wall::new(&json!([]), &[]);
    wall.pass(1);
    wall.refreshed = false;
    open(&mut wall, 4000);
    assert!(wall.out(&asks(4000, 53)).is_ok());
    assert!(!wall.refreshed);
    let config = json!({ "sets": { "none": [], "no-web": [{ "action": "deny", "direction": "out", "protocol": "tcp" }] } });
    wall.instance = start(&config);
    let settings = json!({ "sets": ["none"] });
    wall.instance.set(Some(PortId(1)), Some(&settings)).expect("settings");
    open(&mut wall, 4000);
    assert!(wall.out(&asks(4000, 53)).is_ok());
    wall.refreshed = false;
    wall.instance.set(Some(PortId(1)), Some(&json!({ "sets": ["no-web"] }))).expect("settings");
    assert_eq!(wall.come(&to_guest(80, 4000, ACK)), denied("denied"));
    assert!(wall.refreshed, "answers that stand are taken back");
    assert_eq!(wall.out(&to_peer(4000, 80, ACK)), denied("denied"));
    assert!(wall.come(&answers(53, 4000)).is_ok(), "this one is allowed still");
    // What is wrong changes nothing.
    let veto =
        wall.instance.set(Some(PortId(1)), Some(&json!({ "sets": ["web"] }))).expect_err("no such set");
    assert_eq!(veto.to_string(), "there is no rule set 'web'; there are: no-web, none");
    assert_eq!(wall.status("sets"), json!(["no-web"]));
    let veto = wall.instance.set(Some(PortId(1)), Some(&json!({ "set": [] }))).expect_err("no such key");
    assert!(veto.to_string().starts_with("unknown field `set`, expected `sets`"), "{veto}");
}

#[test]
fn s15_hidden_ports_match_what_denies_and_nothing_that_allows_some() {
    let rules =
        |action| json!([{ "action": action, "direction": "in", "protocol": "udp", "local-ports": [53] }]);
    let piece = v4_piece(PEER, GUEST, protocol::UDP, 1480, false, &[0; 100]);
    let mut wall = Wall::new(&rules("allow"), &[]);
    assert_eq!(wall.come(&piece), denied("denied"));
    let mut wall = Wall::new(&rules("deny"), &[("default", json!({ "in": "allow" }))]);
    assert_eq!(wall.come(&piece), denied("denied"));
    let mut wall = Wall::new(&json!([]), &[("default", json!({ "in": "allow" }))]);
    assert!(wall.come(&piece).is_ok());
}

/// The rules as a plain list, asked in the plainest way.
struct Naive {
    allow: bool,
    out: bool,
    protocol: Option<u8>,
    remote: Option<(u32, u32)>,
    local_port: Option<(u16, u16)>,
}

#[test]
fn s15_rules_decide_as_a_plain_list_does() {
    let mut random = Random(15);
    for round in 0..300 {
        let mut naive = Vec::new();
        let mut written = Vec::new();
        for _ in 0..random.below(8) {
            let has_ports = random.once_in(2);
            let protocol =
                if has_ports { Some([6, 17][random.below(2)]) } else { [None, Some(47)][random.below(2)] };
            let bits = random.below(5) as u32;
            let remote = random.once_in(2).then(|| (0xc000_0200 | random.below(16) as u32, 32 - bits));
            let local_port = has_ports.then(|| (random.below(4) as u16, 4 + random.below(4) as u16));
            let rule =
                Naive { allow: random.once_in(2), out: random.once_in(2), protocol, remote, local_port };
            let mut json = json!({
                "action": if rule.allow { "allow" } else { "deny" },
                "direction": if rule.out { "out" } else { "in" },
            });
            if let Some(protocol) = protocol {
                json["protocol"] = json!(protocol);
            }
            if let Some((address, len)) = remote {
                json["remote"] = json!([format!("{}/{len}", Ipv4Addr::from(address))]);
            }
            if let Some((first, last)) = local_port {
                json["local-ports"] = json!([format!("{first}-{last}")]);
            }
            written.push(json);
            naive.push(rule);
        }
        let mut wall = Wall::new(&Value::Array(written.clone()), &[]);
        for _ in 0..20 {
            // No connections, so that only rules decide.
            wall.instance.change(wall.now, &Change::NicDelete { port: PortId(1) }).expect("told");
            let out = random.once_in(2);
            let protocol = [6, 17, 47][random.below(3)];
            let (remote, port) = (0xc000_0200 | random.below(32) as u32, random.below(10) as u16);
            let (src, dst) = if out { (port, 9) } else { (9, port) };
            let upper = match protocol {
                6 => tcp(src, dst, SYN, &[]),
                17 => udp(src, dst, b"x"),
                _ => vec![0; 20],
            };
            let peer = Ipv4Addr::from(remote).to_string();
            let (from, to) = if out { (GUEST, &*peer) } else { (&*peer, GUEST) };
            let packet = v4(from, to, protocol, &upper);
            let matches = |rule: &&Naive| {
                rule.out == out
                    && rule.protocol.is_none_or(|wanted| wanted == protocol)
                    && rule.remote.is_none_or(|(address, len)| (address ^ remote) >> (32 - len) == 0)
                    && rule.local_port.is_none_or(|(first, last)| (first..=last).contains(&port))
            };
            let expected = naive.iter().find(matches).map_or(out, |rule| rule.allow);
            let said = if out { wall.out(&packet) } else { wall.come(&packet) };
            assert_eq!(said.is_ok(), expected, "round {round}: {written:?} {packet:?}");
        }
    }
}
