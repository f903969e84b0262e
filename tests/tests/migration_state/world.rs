//! Two switches without a network between them. Each has the port `a` of the guest that moves and a guest `b`, and both `b` have the same
//! addresses: whatever `a` talks to is on either host.

use std::path::PathBuf;

use serde_json::{Value, json};
use turnpike_tests::lan::{mac, mac_text};
use turnpike_tests::options::Resume;
use turnpike_tests::switch::{SwitchOptions, binary};
use turnpike_tests::{Frame, Guest, Line, Options, PATIENCE, Switch};

/// What `port add` is told about the guest that moves.
pub(crate) const DEVICE: &str = "--mtu 9000 --queues 1";

/// One host: a switch and the guest that stays there.
pub(crate) struct Host {
    pub(crate) switch: Switch,
    pub(crate) socket: PathBuf,
    pub(crate) b: Guest,
}

impl Host {
    pub(crate) fn new(args: &[String], device: &str) -> Self {
        let switch = Switch::start_with(SwitchOptions { args: args.to_vec(), ..SwitchOptions::default() });
        let socket = add(&switch, "a", 1, device);
        add(&switch, "b", 2, DEVICE);
        let b = Guest::attach(&switch, "b", Options::default());
        Self { switch, socket, b }
    }

    /// Runs a command given as one line.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> String {
        self.switch.ok(&line.split_whitespace().collect::<Vec<_>>())
    }

    fn json(&self, line: &str) -> Value {
        let output =
            self.switch.run(&[&line.split_whitespace().collect::<Vec<_>>()[..], &["--json"]].concat());
        // A port without metering has no report.
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Everything that belongs to port `a`, but for times that go on by themselves.
    pub(crate) fn seen(&self) -> Value {
        let mut seen = json!({
            "port": self.json("port show a"),
            "acl": self.json("acl list a"),
            "rules": self.json("rule list a"),
            "meters": self.json("meter show a"),
            "sessions": self.json("session list a"),
            "fdb": self.json("fdb show --port a"),
        });
        for key in ["state", "worker", "features", "socket", "fault"] {
            seen["port"].as_object_mut().expect("an object").remove(key);
        }
        strip(&mut seen);
        for list in ["sessions", "fdb"] {
            if let Some(list) = seen[list].as_array_mut() {
                list.sort_by_key(ToString::to_string);
            }
        }
        seen
    }

    /// The events of one kind.
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        self.switch.events().into_iter().filter(|event| event["kind"] == kind).collect()
    }

    pub(crate) fn state(&self) -> String {
        self.switch.port("a")["state"].as_str().unwrap_or_default().to_owned()
    }
}

/// Takes away what tells how long ago something was.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| {
                !["idle_ms", "expires_ms", "duration_s", "age_s", "age_ms"].contains(&key.as_str())
            });
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

pub(crate) fn add(switch: &Switch, name: &str, number: u8, more: &str) -> PathBuf {
    let own = mac_text(mac(number));
    let args: Vec<_> = ["--mac", &own].into_iter().chain(more.split_whitespace()).collect();
    switch.add_port(name, &args)
}

/// Two hosts and the guest that moves between them.
pub(crate) struct World {
    pub(crate) hosts: [Host; 2],
    pub(crate) a: Guest,
    /// Where the guest is.
    pub(crate) at: usize,
    key: Option<(tempfile::TempDir, String)>,
}

impl World {
    /// Hosts of one fleet; the port has this policy where the guest is at first, and none elsewhere.
    pub(crate) fn sealed(policy: &[&str]) -> Self {
        Self::new(true, policy, DEVICE)
    }

    pub(crate) fn new(sealed: bool, policy: &[&str], device: &str) -> Self {
        let key = sealed.then(key);
        let args: Vec<_> =
            key.iter().flat_map(|(_, path)| ["--fleet-key".to_owned(), path.clone()]).collect();
        let hosts = [Host::new(&args, DEVICE), Host::new(&args, device)];
        for line in policy {
            hosts[0].run(line);
        }
        let a = Guest::attach(&hosts[0].switch, "a", Options::default());
        Self { hosts, a, at: 0, key }
    }

    /// The fleet key's path.
    pub(crate) fn key(&self) -> &str {
        self.key.as_ref().map_or("", |(_, path)| path)
    }

    pub(crate) fn here(&self) -> &Host {
        &self.hosts[self.at]
    }

    pub(crate) fn there(&self) -> &Host {
        &self.hosts[1 - self.at]
    }

    /// A whole move, as a VMM does it: the source goes when the destination runs.
    #[track_caller]
    pub(crate) fn go(&mut self) -> Vec<u8> {
        let state = self.a.leave().expect("the state is saved");
        let source = self.approach();
        self.a.channel().load_state(&state).expect("the state is loaded");
        self.arrive();
        drop(source);
        state
    }

    /// A second front end for the guest, at the other host; the line to the first is given back.
    #[track_caller]
    pub(crate) fn approach(&mut self) -> Line {
        let socket = self.there().socket.clone();
        self.a.approach(&socket).expect("handshake at the destination")
    }

    /// The rings run at the other host.
    #[track_caller]
    pub(crate) fn arrive(&mut self) {
        self.a.go_on(Resume::Used).expect("rings start");
        self.at = 1 - self.at;
        self.here().switch.wait_state("a", "running");
    }

    /// The guest goes on where it was, on the line it had there.
    #[track_caller]
    pub(crate) fn back(&mut self, source: Line) {
        drop(self.a.take_line(source));
        self.a.go_on(Resume::Used).expect("rings start");
        self.here().switch.wait_state("a", "running");
    }

    /// Frames from `a` to `b`; how many came.
    pub(crate) fn send(&mut self, frames: &[Vec<u8>]) -> usize {
        let Self { hosts, a, at, .. } = self;
        pass(a, &mut hosts[*at].b, frames)
    }

    /// Frames from `b` to `a`; how many came.
    pub(crate) fn receive(&mut self, frames: &[Vec<u8>]) -> usize {
        let Self { hosts, a, at, .. } = self;
        pass(&mut hosts[*at].b, a, frames)
    }
}

fn pass(from: &mut Guest, to: &mut Guest, frames: &[Vec<u8>]) -> usize {
    let mut came = 0;
    // No more at once than a receive ring holds: nobody reads meanwhile.
    for part in frames.chunks(100) {
        from.send_all(part);
        assert!(from.flush(PATIENCE), "the switch does not finish with frames");
        while to.poll().is_some() {
            came += 1;
        }
    }
    came
}

pub(crate) fn key() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("fleet.key").to_str().expect("UTF-8").to_owned();
    let made = std::process::Command::new(binary()).args(["migrate", "new-key", &path]).output();
    assert!(made.expect("runs").status.success());
    (dir, path)
}

/// From `a` to `b` over IPv4.
pub(crate) fn to_b() -> Frame {
    Frame::new(mac(2), mac(1)).ipv4()
}

/// From `b` to `a` over IPv4.
pub(crate) fn to_a() -> Frame {
    Frame::new(mac(1), mac(2)).ipv4()
}
