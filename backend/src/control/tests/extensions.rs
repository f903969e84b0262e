//! Extensions against the model: what they hear, what they may refuse, and what is left of it (sections 2, 15 and 20.2 of the semantics).

use std::collections::{BTreeMap, HashMap};

use vswitch::extension::{Change, Extension, FailMode, Kind, Veto};
use vswitch::{Direction, Nanos};

use super::*;
use crate::control::handover::Trust;
use crate::control::types::{
    AclSpec, Config, ConfigExtension, ExtensionMove, ExtensionView, NewExtension, RuleSpec,
};

mod stack;
mod travel;

/// What all scripted extensions of a test share.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// What was heard, as `name: what`.
    heard: Vec<String>,
    /// Who refuses what.
    refuse: Option<(&'static str, &'static str)>,
    /// What each remembers of a port.
    memory: HashMap<(String, u16), Vec<u8>>,
    /// Instances made.
    made: usize,
}

/// What scripted instances are made of.
#[derive(Clone, Debug)]
pub(in crate::control) struct Made {
    name: &'static str,
    kind: Kind,
    script: Arc<Mutex<Script>>,
}

impl Made {
    pub(in crate::control) fn start(&self, config: &Value) -> Result<Arc<dyn Extension>, String> {
        if config.get("wrong").is_some() {
            return Err("there is no key 'wrong'".into());
        }
        self.script.lock().unwrap().made += 1;
        Ok(Arc::new(self.clone()))
    }

    fn hear(&self, what: &str) -> Result<(), Veto> {
        let mut script = self.script.lock().unwrap();
        script.heard.push(format!("{}: {what}", self.name));
        match script.refuse {
            Some((who, start)) if who == self.name && what.starts_with(start) => Err(Veto::new("not today")),
            _ => Ok(()),
        }
    }
}

impl Extension for Made {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn reasons(&self) -> &[&str] {
        &["too-old", "too-loud"]
    }

    fn judges(&self, _: Direction) -> bool {
        true
    }

    fn change(&self, _: Nanos, change: &Change<'_>) -> Result<(), Veto> {
        let what = match change {
            Change::PortCreate { name, .. } => format!(" {name}"),
            Change::Policy { name, value, .. } | Change::Switch { name, value } => format!(" {name}={value}"),
            _ => String::new(),
        };
        let port = change.port().map(|port| format!(" {port}")).unwrap_or_default();
        self.hear(&format!("{}{port}{what}", change.name()))
    }

    fn set(&self, port: Option<PortId>, settings: Option<&Value>) -> Result<(), Veto> {
        let port = port.map(|port| format!(" {port}")).unwrap_or_default();
        let settings = settings.map_or_else(|| "none".to_owned(), Value::to_string);
        self.hear(&format!("set{port} {settings}"))
    }

    fn save(&self, _: Nanos, port: PortId) -> Option<Vec<u8>> {
        self.script.lock().unwrap().memory.get(&(self.name.to_owned(), port.0)).cloned()
    }

    fn restore(&self, _: Nanos, port: PortId, saved: &[u8]) -> Result<(), Veto> {
        self.hear(&format!("restore {port}"))?;
        self.script.lock().unwrap().memory.insert((self.name.to_owned(), port.0), saved.to_vec());
        Ok(())
    }
}

fn library(script: &Arc<Mutex<Script>>) -> Library {
    let made = |name: &'static str, kind| (name.to_owned(), Made { name, kind, script: Arc::clone(script) });
    let mut library = Library::default();
    library.scripted = BTreeMap::from([
        made("tap", Kind::Capture),
        made("one", Kind::Filter),
        made("two", Kind::Filter),
        made("way", Kind::Forwarding),
        made("other-way", Kind::Forwarding),
    ]);
    library
}

/// A switch with scripted extensions, of which these are enabled, and a running guest port `a`.
struct Rig {
    switch: Switch,
    fake: Fake,
    script: Arc<Mutex<Script>>,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new(enabled: &[&str]) -> Self {
        Self::stored(enabled, Saved::default(), Store::none())
    }

    fn stored(enabled: &[&str], saved: Saved, store: Store) -> Self {
        let (fake, script) = (Fake::default(), Arc::default());
        let is_new = saved.ports.is_empty();
        let mut switch = start_with(library(&script), saved, store, &fake);
        let dir = tempfile::tempdir().unwrap();
        if is_new {
            switch.add_port(&NewPort { mac: Some("52:54:00:00:00:01".into()), ..guest(&dir, "a") }).unwrap();
        }
        let mut rig = Self { switch, fake, script, dir };
        rig.run(1);
        for name in enabled {
            rig.enable(name).unwrap();
        }
        rig.heard();
        rig
    }

    fn enable(&mut self, name: &str) -> Result<ExtensionView, Refused> {
        self.switch.enable_extension(&NewExtension { name: name.into(), ..NewExtension::default() })
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.script.lock().unwrap().heard)
    }

    fn refuse(&self, who: &'static str, what: &'static str) {
        self.script.lock().unwrap().refuse = Some((who, what));
    }

    fn run(&mut self, port: u16) {
        *self.fake.notes().starts.entry(port).or_default() += 1;
        self.fake.notes().running.insert(port);
        self.switch.follow([PortId(port)]);
    }

    fn names(&self) -> Vec<String> {
        self.switch.list_extensions().into_iter().map(|view| view.name).collect()
    }

    /// The stack in force.
    fn stack(&self) -> Vec<String> {
        self.fake.notes().stack.clone()
    }

    fn kinds(&self, after: u64) -> Vec<String> {
        let all = self.switch.events.since(after);
        all.iter().map(|e| e.body["kind"].as_str().unwrap().to_owned()).collect()
    }
}

fn rule(weight: u64) -> RuleSpec {
    serde_json::from_value(json!({"action": "deny", "direction": "in", "weight": weight})).unwrap()
}

fn deny() -> AclSpec {
    AclSpec { action: "deny".into(), direction: "in".into(), local: None, remote: Some("10.0.0.0/8".into()) }
}

#[test]
fn s2_a_ports_life_is_told_in_order_to_every_extension_in_the_order_of_the_stack() {
    let mut rig = Rig::new(&["one", "tap"]);
    rig.switch.add_port(&NewPort { policy: spoofing(true), ..guest(&rig.dir, "b") }).unwrap();
    rig.run(2);
    rig.switch.set_port("b", &PortChange { policy: spoofing(false) }).unwrap();
    rig.fake.notes().running.remove(&2);
    rig.switch.follow([PortId(2)]);
    rig.run(2);
    rig.switch.remove_port("b").unwrap();
    let life = [
        "port-create 2 b",
        "policy-add 2 mac-spoofing=true",
        "nic-create 2",
        "nic-connect 2",
        "policy-delete 2 mac-spoofing=true",
        "nic-disconnect 2",
        "nic-connect 2",
        "nic-disconnect 2",
        "nic-delete 2",
        "port-teardown 2",
        "port-delete 2",
    ];
    let both = life.iter().flat_map(|what| [format!("tap: {what}"), format!("one: {what}")]);
    assert_eq!(rig.heard(), both.collect::<Vec<_>>());
}

#[test]
fn s2_rings_that_started_anew_unseen_are_a_card_that_went_and_came() {
    let mut rig = Rig::new(&["one"]);
    rig.run(1);
    assert_eq!(rig.heard(), ["one: nic-disconnect 1", "one: nic-connect 1"]);
    rig.fake.notes().mtu = 1400;
    rig.switch.tick();
    assert_eq!(rig.heard(), ["one: nic-updated 1"]);
}

/// A change that somebody makes.
type Act = fn(&mut Switch, &tempfile::TempDir) -> Result<(), Refused>;

#[test]
fn s15_3_a_veto_of_any_kind_leaves_everything_as_it_was_and_those_before_hear_of_the_opposite() {
    let mut rig = Rig::new(&["two", "one"]);
    rig.switch.add_acl("a", &[deny()]).unwrap();
    rig.heard();
    let cases: &[(&'static str, Act, &[&str])] = &[
        (
            "port-create",
            |s, dir| s.add_port(&guest(dir, "b")),
            &["one: port-create 2 b", "two: port-create 2 b", "one: port-teardown 2", "one: port-delete 2"],
        ),
        (
            "nic-create",
            |s, dir| s.add_port(&guest(dir, "b")),
            &[
                "one: port-create 2 b",
                "two: port-create 2 b",
                "one: nic-create 2",
                "two: nic-create 2",
                "one: nic-delete 2",
                "one: port-teardown 2",
                "two: port-teardown 2",
                "one: port-delete 2",
                "two: port-delete 2",
            ],
        ),
        (
            "policy-add 1 mac",
            |s, _| s.set_port("a", &PortChange { policy: spoofing(true) }),
            &[
                "one: policy-add 1 mac-spoofing=true",
                "two: policy-add 1 mac-spoofing=true",
                "one: policy-delete 1 mac-spoofing=true",
            ],
        ),
        ("policy-delete 1 acl", |s, _| s.remove_acl("a", &deny()), &[]),
        (
            "policy-update 1 acl",
            |s, _| s.add_acl("a", &[AclSpec { direction: "out".into(), ..deny() }]).map(drop),
            &[],
        ),
        ("policy-add 1 rule", |s, _| s.add_rules("a", &[rule(7)], false).map(drop), &[]),
        ("policy-add 1 metering", |s, _| s.enable_meters(Some("a")).map(drop), &[]),
        (
            "switch-update",
            |s, _| s.set_switch(&kind(SwitchKind::Private)),
            &[
                "one: switch-update kind=\"private\"",
                "two: switch-update kind=\"private\"",
                "one: switch-update kind=\"external\"",
            ],
        ),
        (
            "set 1",
            |s, _| s.set_extension("two", Some("a"), Some(&json!({"x": 1}))),
            &["two: set 1 {\"x\":1}"],
        ),
        ("set", |s, _| s.set_extension("two", None, Some(&json!({"x": 1}))), &["two: set {\"x\":1}"]),
        (
            "policy-add 1 rule",
            |s, dir| {
                let mut all = s.save();
                all.port[0].rule.push(rule(3));
                let new = json!({"name": "c", "socket": dir.path().join("c.sock")});
                all.port.push(serde_json::from_value(new).unwrap());
                s.apply(&all, false).map(drop)
            },
            &[],
        ),
    ];
    for (what, act, heard) in cases {
        rig.refuse("two", what);
        rig.heard();
        let (before, tallies) = (rig.fake.notes().ports.clone(), rig.switch.tallies.left());
        let dir = &rig.dir;
        let line = refused(&mut rig.switch, |s| act(s, dir));
        assert!(line.contains("extension 'two' refuses it: not today (reason 101)"), "{what}: {line}");
        assert_eq!(rig.fake.notes().ports, before, "{what}: nothing of it was published");
        assert_eq!(rig.switch.tallies.left(), tallies, "{what}: numbers are given back");
        let there = rig.heard();
        if !heard.is_empty() {
            assert_eq!(there, *heard, "{what}");
        }
        // What `one` agreed to it heard the opposite of.
        let of_one = there.iter().filter(|line| line.starts_with("one: ")).count();
        assert!(of_one == 0 || of_one > 1, "{what}: {there:?}");
    }
    rig.script.lock().unwrap().refuse = None;
    rig.switch.set_port("a", &PortChange { policy: spoofing(true) }).unwrap();
}

#[test]
fn s15_3_what_cannot_be_stored_is_told_as_undone() {
    let mut rig = Rig::new(&["one"]);
    rig.switch.store = Store::failing();
    rig.switch.set_port("a", &PortChange { policy: spoofing(true) }).unwrap_err();
    rig.switch.set_switch(&kind(SwitchKind::Private)).unwrap_err();
    rig.switch.add_port(&guest(&rig.dir, "b")).unwrap_err();
    rig.switch.set_extension("one", None, Some(&json!({"x": 1}))).unwrap_err();
    rig.switch.disable_extension("one").unwrap_err();
    assert_eq!(rig.names(), ["one"]);
    assert_eq!(
        rig.heard(),
        [
            "one: policy-add 1 mac-spoofing=true",
            "one: policy-delete 1 mac-spoofing=true",
            "one: switch-update kind=\"private\"",
            "one: switch-update kind=\"external\"",
            "one: port-create 2 b",
            "one: nic-create 2",
            "one: nic-delete 2",
            "one: port-teardown 2",
            "one: port-delete 2",
            "one: set {\"x\":1}",
            "one: set none",
        ]
    );
}

#[test]
fn s15_1_a_capture_refuses_nothing_and_has_failed_when_it_tries() {
    let mut rig = Rig::new(&["tap"]);
    rig.refuse("tap", "policy");
    rig.switch.set_port("a", &PortChange { policy: spoofing(true) }).unwrap();
    let view = rig.switch.show_extension("tap", None).unwrap();
    assert_eq!(
        (&*view.state, view.fault.as_deref()),
        ("failed", Some("a capture refused a change: not today"))
    );
}

#[test]
fn s15_3_an_extension_that_is_enabled_late_hears_of_all_that_exists_and_then_gets_its_settings() {
    let mut rig = Rig::new(&[]);
    rig.switch.set_switch(&SwitchChange { rx_wait_us: Some(Some(9)), ..SwitchChange::default() }).unwrap();
    rig.switch.set_port("a", &PortChange { policy: spoofing(true) }).unwrap();
    rig.switch.add_rules("a", &[rule(5)], false).unwrap();
    rig.switch.add_port(&guest(&rig.dir, "b")).unwrap();
    rig.switch.set_extension("one", Some("b"), Some(&json!({"x": 1}))).unwrap();
    rig.switch.set_extension("one", None, Some(&json!({"y": [2]}))).unwrap();
    assert_eq!(rig.heard(), [""; 0]);
    rig.enable("one").unwrap();
    let all = [
        "one: switch-update rx-wait-us=9",
        "one: port-create 1 a",
        "one: policy-add 1 mac-spoofing=true",
        "one: policy-add 1 rule=[{\"action\":\"deny\",\"direction\":\"in\",\"weight\":5}]",
        "one: nic-create 1",
        "one: nic-connect 1",
        "one: port-create 2 b",
        "one: nic-create 2",
        "one: set {\"y\":[2]}",
        "one: set 2 {\"x\":1}",
    ];
    assert_eq!(rig.heard(), all);
    rig.switch.disable_extension("one").unwrap();
    for what in ["port-create 2", "policy-add 1 rule", "set 2"] {
        rig.refuse("one", what);
        let enable = |s: &mut Switch| {
            s.enable_extension(&NewExtension { name: "one".into(), ..NewExtension::default() })
        };
        let line = refused(&mut rig.switch, enable);
        assert!(line.contains("extension 'one' refuses it: not today"), "{line}");
        assert_eq!((rig.names(), rig.stack()), (Vec::new(), Vec::new()));
    }
}
