//! The API: its description, its answers and its bounds.

mod common;

use std::collections::BTreeSet;

use common::{Daemon, directory};
use serde_json::{Value, json};

/// Every route of the contract.
const ROUTES: [(&str, &str); 85] = [
    ("get", "/v1/switch"),
    ("patch", "/v1/switch"),
    ("get", "/v1/ports"),
    ("post", "/v1/ports"),
    ("get", "/v1/ports/{name}"),
    ("patch", "/v1/ports/{name}"),
    ("delete", "/v1/ports/{name}"),
    ("get", "/v1/ports/{name}/acls"),
    ("post", "/v1/ports/{name}/acls"),
    ("delete", "/v1/ports/{name}/acls"),
    ("get", "/v1/ports/{name}/rules"),
    ("post", "/v1/ports/{name}/rules"),
    ("delete", "/v1/ports/{name}/rules"),
    ("get", "/v1/ports/{name}/meter"),
    ("put", "/v1/ports/{name}/meter"),
    ("delete", "/v1/ports/{name}/meter"),
    ("post", "/v1/ports/{name}/meter/reset"),
    ("get", "/v1/ports/{name}/sessions"),
    ("delete", "/v1/ports/{name}/sessions"),
    ("get", "/v1/meters"),
    ("put", "/v1/meters"),
    ("delete", "/v1/meters"),
    ("get", "/v1/meters/total"),
    ("post", "/v1/meters/reset"),
    ("get", "/v1/sessions"),
    ("get", "/v1/config"),
    ("put", "/v1/config"),
    ("post", "/v1/explain"),
    ("get", "/v1/uplinks"),
    ("post", "/v1/uplinks"),
    ("get", "/v1/uplinks/{name}"),
    ("delete", "/v1/uplinks/{name}"),
    ("delete", "/v1/migration-listener"),
    ("delete", "/v1/migrations/{name}"),
    ("get", "/v1/migration-listener"),
    ("get", "/v1/migrations"),
    ("get", "/v1/migrations/{name}"),
    ("get", "/v1/ports/{name}/manifest"),
    ("get", "/v1/ports/{name}/state"),
    ("post", "/v1/migration-check"),
    ("post", "/v1/migration-listener"),
    ("post", "/v1/migrations"),
    ("post", "/v1/states"),
    ("post", "/v1/take-over"),
    ("get", "/v1/nv/networks"),
    ("post", "/v1/nv/networks"),
    ("delete", "/v1/nv/networks/{name}"),
    ("get", "/v1/nv/subnets"),
    ("post", "/v1/nv/subnets"),
    ("delete", "/v1/nv/subnets/{vsid}"),
    ("get", "/v1/nv/records"),
    ("post", "/v1/nv/records"),
    ("patch", "/v1/nv/records"),
    ("delete", "/v1/nv/records"),
    ("get", "/v1/nv/routes"),
    ("post", "/v1/nv/routes"),
    ("delete", "/v1/nv/routes"),
    ("get", "/v1/nv/providers"),
    ("post", "/v1/nv/providers"),
    ("delete", "/v1/nv/providers/{address}"),
    ("get", "/v1/nv/gateways"),
    ("post", "/v1/nv/gateways"),
    ("delete", "/v1/nv/gateways/{network}"),
    ("get", "/v1/nv/export"),
    ("post", "/v1/nv/import"),
    ("get", "/v1/nv/resolve"),
    ("get", "/v1/nv/store"),
    ("get", "/v1/extensions"),
    ("post", "/v1/extensions"),
    ("get", "/v1/available-extensions"),
    ("put", "/v1/extensions/{name}/settings"),
    ("get", "/v1/extensions/{name}"),
    ("patch", "/v1/extensions/{name}"),
    ("delete", "/v1/extensions/{name}"),
    ("delete", "/v1/extensions/{name}/settings"),
    ("put", "/v1/extensions/{name}/module"),
    ("delete", "/v1/extensions/{name}/module"),
    ("get", "/v1/fdb"),
    ("get", "/v1/workers"),
    ("get", "/v1/events"),
    ("get", "/v1/trace"),
    ("get", "/v1/capture"),
    ("get", "/v1/openapi.json"),
    ("get", "/metrics"),
    ("get", "/v1/nothing"),
];

#[test]
fn every_route_is_described_and_every_described_route_is_served() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let (status, body) = daemon.http("GET", "/v1/openapi.json", "");
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&body).unwrap();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    for (method, path) in ROUTES {
        let (_, answer) = daemon.http(
            &method.to_uppercase(),
            &path
                .replace("{name}", "x")
                .replace("{vsid}", "5001")
                .replace("{address}", "192.0.2.1")
                .replace("{network}", "x")
                // These go on and on, if they are not refused.
                .replace("/v1/trace", "/v1/trace?refuse=1")
                .replace("/v1/capture", "/v1/capture?refuse=1"),
            "{}",
        );
        let served = !answer.contains("\"unknown-route\"");
        assert_eq!(served, described.contains(&(method.into(), path.into())), "{method} {path}: {answer}");
        assert_eq!(served, path != "/v1/nothing", "{method} {path}");
    }
    assert_eq!(described.len(), ROUTES.len() - 1, "{described:?}");
}

#[test]
fn the_description_is_complete_in_itself() {
    let document: Value = serde_json::to_value(backend::api::document()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["info"]["title"] == "Turnpike" && document["info"]["version"].is_string());
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(operations.insert(id.to_owned()), "{id} is there twice");
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path}");
            let in_path = path.matches('{').count();
            let declared = operation["parameters"].as_array().into_iter().flatten();
            assert_eq!(declared.filter(|p| p["in"] == "path").count(), in_path, "{method} {path}");
        }
    }
    let mut stack = vec![&document];
    while let Some(value) = stack.pop() {
        match value {
            Value::Object(map) => {
                if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                    let pointer = target.strip_prefix('#').expect("a reference within the document");
                    assert!(document.pointer(pointer).is_some(), "{target} does not exist");
                }
                stack.extend(map.values());
            }
            Value::Array(items) => stack.extend(items),
            _ => {}
        }
    }
}

#[test]
fn a_port_has_the_keys_of_the_contract() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let socket = directory.path().join("a.sock");
    let (status, body) =
        daemon.http("POST", "/v1/ports", &json!({"name": "a", "socket": socket}).to_string());
    assert_eq!(status, 201, "{body}");
    let port: Value = serde_json::from_str(&body).unwrap();
    for key in [
        "name", "id", "kind", "socket", "state", "mac", "queues", "mtu", "features", "worker", "policy",
        "counters",
    ] {
        assert!(port.get(key).is_some(), "{key} is missing: {port}");
    }
    assert_eq!((&port["kind"], &port["socket"]), (&json!("guest"), &json!(socket)));
    let default = json!({
        "vlan": "none", "vsid": null, "mac_spoofing": false, "vm": null, "teaming": false, "dhcp_guard": false,
        "router_guard": false, "addresses": null, "address_limit": 0, "storm_limit": 0, "mirror": "none",
        "priority_tag": false, "link": "up", "require_extension": [],
    });
    assert_eq!(port["policy"], default);
    assert_eq!((&port["acl_entries"], &port["rules"]), (&json!(0), &json!(0)));
    let counters = port["counters"].as_object().unwrap();
    let keys: Vec<_> = counters.keys().map(String::as_str).collect();
    assert_eq!(keys, ["in_bytes", "in_drops", "in_packets", "out_bytes", "out_drops", "out_packets"]);

    let (status, body) = daemon.http("PATCH", "/v1/ports/a", r#"{"policy": {"link": "down"}}"#);
    assert_eq!(
        (status, &serde_json::from_str::<Value>(&body).unwrap()["policy"]["link"]),
        (200, &json!("down"))
    );
    assert_eq!(daemon.http("DELETE", "/v1/ports/a", ""), (204, String::new()));
    assert_eq!(daemon.json(&["port", "list"]), json!([]));
}

#[test]
fn an_error_has_code_object_message_and_hint() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let error = |method: &str, path: &str, body: &str| {
        let (status, body) = daemon.http(method, path, body);
        (
            status,
            serde_json::from_str::<Value>(&body).unwrap_or_else(|_| panic!("not JSON: {body}"))["error"]
                .clone(),
        )
    };
    assert_eq!(
        error("GET", "/v1/ports/db", ""),
        (
            404,
            json!({
                "code": "unknown-port",
                "object": "port 'db'",
                "message": "there is no such port",
                "hint": "there are no ports yet; add one with 'turnpike port add'",
            })
        )
    );
    for (method, path, body, status, code) in [
        ("POST", "/v1/ports", "", 400, "malformed"),
        ("POST", "/v1/ports", "{", 400, "malformed"),
        ("POST", "/v1/ports", "[]", 400, "malformed"),
        ("POST", "/v1/ports", "{}", 400, "missing"),
        ("POST", "/v1/ports", r#"{"name": "a"}"#, 400, "missing"),
        ("POST", "/v1/ports", r#"{"name": "a", "vlan": 7}"#, 400, "unknown-key"),
        ("POST", "/v1/ports", r#"{"name": "a", "socket": "a.sock"}"#, 400, "socket-not-absolute"),
        ("POST", "/v1/ports", r#"{"name": "a", "socket": "/x", "tap": "y"}"#, 400, "bad-value"),
        ("POST", "/v1/ports", r#"{"name": "a", "tap": "y", "queues": 1}"#, 400, "not-applicable"),
        (
            "POST",
            "/v1/ports",
            r#"{"name": "a", "socket": "/tmp/x", "queues": 18446744073709551615}"#,
            400,
            "out-of-range",
        ),
        ("PATCH", "/v1/ports/a", r#"{"policy": {"link": "sideways"}}"#, 400, "bad-value"),
        ("POST", "/v1/ports/a/acls", "[]", 400, "missing"),
        ("POST", "/v1/ports/a/acls", "[7]", 400, "malformed"),
        (
            "POST",
            "/v1/ports/a/acls",
            r#"{"action": "deny", "direction": "in", "peer": "any"}"#,
            400,
            "unknown-key",
        ),
        ("POST", "/v1/ports/a/acls", r#"{"action": "deny", "direction": "in"}"#, 404, "unknown-port"),
        ("POST", "/v1/ports/a/rules", r#"{"action": "deny", "direction": "in"}"#, 400, "missing"),
        (
            "POST",
            "/v1/ports/a/rules",
            r#"{"action": "deny", "direction": "in", "weight": -1}"#,
            400,
            "bad-value",
        ),
        ("POST", "/v1/ports/a/rules?replce=true", "{}", 400, "unknown-key"),
        ("DELETE", "/v1/ports/a/rules?direction=in&weight=x", "", 400, "bad-value"),
        ("DELETE", "/v1/ports/a/acls?direction=in", "", 400, "missing"),
        ("GET", "/v1/ports/a/rules", "", 404, "unknown-port"),
        ("POST", "/v1/explain", r#"{"from": "a", "frame": "00"}"#, 404, "unknown-port"),
        ("PATCH", "/v1/ports/a", "{}", 404, "unknown-port"),
        ("POST", "/v1/uplinks", r#"{"name": "u", "device": "lo", "driver": "dpdk"}"#, 400, "bad-value"),
        ("GET", "/v1/events?since=x", "", 400, "bad-value"),
        ("GET", "/v1/fdb?prt=a", "", 400, "unknown-key"),
        ("PUT", "/v1/ports", "", 404, "unknown-route"),
        ("GET", "/v1/ports/a%00b", "", 404, "unknown-port"),
        ("GET", "/v1/ports/%ff", "", 400, "malformed"),
    ] {
        let (found, error) = error(method, path, body);
        assert_eq!((found, &error["code"]), (status, &json!(code)), "{method} {path} {body}: {error}");
        for key in ["object", "message", "hint"] {
            assert!(error[key].as_str().is_some_and(|t| !t.is_empty()), "{method} {path} {body}: {error}");
        }
    }
}

#[test]
fn a_refusal_of_the_hyper_v_switch_has_its_number() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    daemon.ok(&["port", "add", "a", "--socket", "a.sock"]);
    let (status, body) = daemon.http("PATCH", "/v1/ports/a", r#"{"policy": {"vlan": "access:4095"}}"#);
    let error = serde_json::from_str::<Value>(&body).unwrap()["error"].clone();
    assert_eq!((status, &error["code"], &error["reason"]), (400, &json!("bad-vlan"), &json!(36)));
    assert_eq!(error["message"], "vlan: access VLAN '4095' is out of range");
}

#[test]
fn ten_thousand_rules_are_one_request_and_survive_the_process() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    daemon.ok(&["port", "add", "a", "--socket", "a.sock"]);
    let rule = |weight: u32| {
        json!({
            "action": "allow", "direction": "in", "weight": weight, "local": "2001:db8:1234:5678::/64",
            "remote": "2001:db8:8765:4321::/64", "local_port": "10000-20000", "remote_port": "10000-20000",
            "protocol": "tcp", "stateful": true, "idle_timeout": "90s", "isolation_id": 16_777_214,
        })
    };
    let rules: Vec<_> = (1..=10_000).map(rule).collect();
    let (status, body) = daemon.http("POST", "/v1/ports/a/rules", &json!(rules).to_string());
    assert_eq!(status, 201, "{body}");
    let other = json!({"action": "deny", "direction": "in", "weight": 5000}).to_string();
    assert_eq!(daemon.http("POST", "/v1/ports/a/rules", &other).0, 409);
    assert_eq!(daemon.http("POST", "/v1/ports/a/rules?replace=true", &other).0, 201);
    assert_eq!(daemon.http("DELETE", "/v1/ports/a/rules?direction=in&weight=5001", "").0, 204);
    let before = daemon.json(&["rule", "list", "a"]);
    assert_eq!((before.as_array().unwrap().len(), &before[5000]["action"]), (9999, &json!("allow")));
    assert_eq!((&before[4999]["weight"], &before[4999]["action"]), (&json!(5000), &json!("deny")));
    assert_eq!(daemon.end("-KILL"), -1);
    let daemon = Daemon::start(directory.path(), &[]);
    assert_eq!(daemon.json(&["rule", "list", "a"]), before);
}

#[test]
fn explain_tells_steps_verdict_and_destinations() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    for (name, mac) in [("a", "02:00:00:00:00:0a"), ("b", "02:00:00:00:00:0b")] {
        daemon.ok(&["port", "add", name, "--socket", &format!("{name}.sock"), "--mac", mac]);
    }
    let frame = format!("02000000000b02000000000a0800{}", "00".repeat(46));
    let explain = || daemon.json(&["explain", "--from", "a", "--frame", &frame]);
    let told = explain();
    assert_eq!((&told["verdict"], told.get("reason")), (&json!("unicast"), None), "{told}");
    let to = json!([{"port": "b", "tag": "kept", "verdict": "deliver", "copy": false, "steps": []}]);
    assert_eq!(told["destinations"], to);
    assert_eq!(told["steps"][0], json!({"step": "sender-link", "outcome": "pass", "notes": []}));

    daemon.ok(&["port", "set", "b", "--vlan", "access:7"]);
    let told = explain();
    assert_eq!((&told["verdict"], &told["reason"]), (&json!("drop"), &json!("vlan-filtered")), "{told}");
    let last = told["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(last["outcome"], "drop vlan-filtered", "{told}");
    daemon.ok(&["port", "set", "b", "--vlan", "default"]);
    daemon.ok(&["acl", "add", "b", "--action", "deny", "--direction", "in", "--remote", "any-mac"]);
    let told = explain();
    assert_eq!((&told["verdict"], &told["reason"]), (&json!("drop"), &json!("acl-denied")), "{told}");
    assert_eq!(told["destinations"][0]["reason"], "acl-denied", "{told}");
    let text = daemon.ok(&["explain", "--from", "a", "--frame", &frame]);
    for part in [
        "denied by 'deny in remote any-mac'",
        "verdict: drop (acl-denied)\n",
        "to port 'b': drop (acl-denied)",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // A capture file: every frame of it.
    let mut file = 0xa1b2_c3d4_u32.to_be_bytes().to_vec();
    file.extend([0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 1]);
    for _ in 0..2 {
        file.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 60]);
        file.extend((0..60).map(|i| u8::from_str_radix(&frame[i * 2..i * 2 + 2], 16).unwrap()));
    }
    std::fs::write(directory.path().join("two.pcap"), file).unwrap();
    assert_eq!(daemon.json(&["explain", "--from", "a", "--frame", "two.pcap"]), json!([told, told]));
    let counters = &daemon.json(&["port", "show", "a"])["counters"];
    assert_eq!(
        (&counters["out_packets"], &counters["out_drops"]),
        (&json!(0), &json!({})),
        "nothing was sent"
    );
}

#[test]
fn a_body_is_bounded() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let body = format!(r#"{{"name": "{}"}}"#, "x".repeat(70_000));
    let (status, answer) = daemon.http("POST", "/v1/ports", &body);
    assert!(status == 400 && answer.contains("too-large"), "{status} {answer}");
    daemon.ok(&["port", "list"]);
}

#[test]
fn idle_connections_beyond_the_bound_do_not_stop_the_switch() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    let idle: Vec<_> =
        (0..200).filter_map(|_| std::os::unix::net::UnixStream::connect(&daemon.api).ok()).collect();
    assert!(idle.len() > 128);
    drop(idle);
    let served = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        daemon.run(&["port", "list"]).code == 0
    });
    assert!(served);
}

#[test]
fn metrics_are_prometheus_text() {
    let directory = directory();
    let daemon = Daemon::start(directory.path(), &[]);
    daemon.ok(&["port", "add", "a", "--socket", "a.sock"]);
    let (status, text) = daemon.http("GET", "/metrics", "");
    assert_eq!(status, 200);
    assert!(text.contains("\nturnpike_ports 1\n"), "{text}");
    assert!(text.contains("\nturnpike_port_packets_total{port=\"a\",direction=\"out\"} 0\n"), "{text}");
    for line in text.lines() {
        let value = line.rsplit(' ').next().unwrap();
        assert!(line.starts_with('#') || value.parse::<f64>().is_ok(), "{line}");
    }
}
