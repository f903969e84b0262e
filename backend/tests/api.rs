//! The API: its description, its answers and its bounds.

mod common;

use std::collections::BTreeSet;

use common::{Daemon, directory};
use serde_json::{Value, json};

/// Every route of the contract.
const ROUTES: [(&str, &str); 17] = [
    ("get", "/v1/switch"),
    ("patch", "/v1/switch"),
    ("get", "/v1/ports"),
    ("post", "/v1/ports"),
    ("get", "/v1/ports/{name}"),
    ("patch", "/v1/ports/{name}"),
    ("delete", "/v1/ports/{name}"),
    ("get", "/v1/uplinks"),
    ("post", "/v1/uplinks"),
    ("get", "/v1/uplinks/{name}"),
    ("delete", "/v1/uplinks/{name}"),
    ("get", "/v1/fdb"),
    ("get", "/v1/workers"),
    ("get", "/v1/events"),
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
        let (_, answer) = daemon.http(&method.to_uppercase(), &path.replace("{name}", "x"), "{}");
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
    assert_eq!(port["policy"], json!({"mac_spoofing": false, "link": "up"}));
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
        ("PATCH", "/v1/ports/a", "{}", 404, "unknown-port"),
        ("POST", "/v1/uplinks", r#"{"name": "u", "device": "lo", "driver": "xdp"}"#, 400, "bad-value"),
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
