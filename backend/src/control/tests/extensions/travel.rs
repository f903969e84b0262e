//! What extensions remember of a port, and their settings for it, on the move (sections 15.4 and 20.2 of the semantics).

use migration::seal::FleetKey;

use super::*;

const ONE: PortId = PortId(1);

fn still(rig: &mut Rig) {
    rig.fake.notes().running.remove(&1);
    rig.switch.follow([ONE]);
    rig.heard();
}

/// A switch whose port's guest stands still, with a key.
fn host(enabled: &[&str]) -> Rig {
    let mut rig = Rig::new(enabled);
    rig.switch.set_fleet_key(FleetKey::from_bytes(&[1; 32]).unwrap());
    still(&mut rig);
    rig
}

fn remember(rig: &Rig, name: &str, memory: &[u8]) {
    rig.script.lock().unwrap().memory.insert((name.to_owned(), 1), memory.to_vec());
}

fn memory(rig: &Rig, name: &str) -> Option<Vec<u8>> {
    rig.script.lock().unwrap().memory.get(&(name.to_owned(), 1)).cloned()
}

#[test]
fn s20_2_run_time_state_and_settings_move_with_the_port() {
    let mut from = host(&["one", "two"]);
    from.switch.set_extension("one", Some("a"), Some(&json!({"x": 1}))).unwrap();
    from.switch.set_extension("absent", Some("a"), Some(&json!({"z": 3}))).unwrap();
    remember(&from, "one", b"connections");
    let mut to = host(&["two", "one"]);
    to.switch.set_extension("two", Some("a"), Some(&json!({"old": 1}))).unwrap();
    to.heard();
    let state = from.switch.depart(ONE).unwrap();
    to.switch.arrive(ONE, &state, Trust::Seal).unwrap();
    assert_eq!(memory(&to, "one").as_deref(), Some(&b"connections"[..]));
    assert_eq!(memory(&to, "two"), None);
    assert_eq!(to.heard(), ["one: set 1 {\"x\":1}", "two: set 1 none", "one: restore 1"]);
    to.run(1);
    let settings = |rig: &Rig| rig.switch.entry("a").unwrap().config.extensions.clone();
    assert_eq!(settings(&to), settings(&from), "also those of an extension that is on neither host");
}

#[test]
fn s15_4_a_restore_that_its_owner_refuses_is_refused_as_a_whole() {
    let mut from = host(&["one", "two"]);
    from.switch.set_port("a", &PortChange { policy: spoofing(true) }).unwrap();
    remember(&from, "one", b"new one");
    remember(&from, "two", b"new two");
    let mut to = host(&["two", "one"]);
    remember(&to, "one", b"old one");
    let state = from.switch.depart(ONE).unwrap();
    to.refuse("two", "restore");
    let (before, left) = (seen(&to.switch), to.switch.tallies.left());
    let line = to.switch.arrive(ONE, &state, Trust::Seal).unwrap_err().to_string();
    assert!(line.contains("extension 'two' refuses it: not today (reason 101)"), "{line}");
    assert_eq!((seen(&to.switch), to.switch.tallies.left()), (before, left));
    assert!(to.kinds(0).contains(&"state-refused".to_owned()));
    assert_eq!(
        to.heard(),
        [
            "one: policy-add 1 mac-spoofing=true",
            "two: policy-add 1 mac-spoofing=true",
            "one: restore 1",
            "two: restore 1",
            // What was taken in goes with the card; then there is what was before.
            "one: nic-delete 1",
            "one: nic-create 1",
            "one: restore 1",
            "two: nic-delete 1",
            "two: nic-create 1",
            "one: policy-delete 1 mac-spoofing=true",
            "two: policy-delete 1 mac-spoofing=true",
        ]
    );
    assert_eq!(memory(&to, "one").as_deref(), Some(&b"old one"[..]));
    to.script.lock().unwrap().refuse = None;
    to.switch.arrive(ONE, &state, Trust::Seal).unwrap();
    assert_eq!(memory(&to, "two").as_deref(), Some(&b"new two"[..]));
}

#[test]
fn an_arrival_that_is_undone_is_undone_for_extensions() {
    let mut from = host(&["one"]);
    from.switch.set_port("a", &PortChange { policy: spoofing(true) }).unwrap();
    remember(&from, "one", b"new");
    let mut to = host(&["one"]);
    remember(&to, "one", b"old");
    to.switch.arrive(ONE, &from.switch.depart(ONE).unwrap(), Trust::Seal).unwrap();
    to.heard();
    to.fake.notes().detached.insert(1);
    to.switch.follow([ONE]);
    let heard = to.heard();
    assert_eq!(heard[0], "one: policy-delete 1 mac-spoofing=true", "{heard:?}");
    assert_eq!(memory(&to, "one").as_deref(), Some(&b"old"[..]));
}

#[test]
fn s15_4_what_nobody_owns_is_told_kept_and_carried_on() {
    let mut from = host(&["one"]);
    remember(&from, "one", b"connections");
    let mut to = host(&[]);
    to.switch.arrive(ONE, &from.switch.depart(ONE).unwrap(), Trust::Seal).unwrap();
    to.run(1);
    assert!(to.kinds(0).contains(&"extension-orphan".to_owned()));
    still(&mut to);
    let mut back = host(&["one"]);
    back.switch.arrive(ONE, &to.switch.depart(ONE).unwrap(), Trust::Seal).unwrap();
    assert_eq!(memory(&back, "one").as_deref(), Some(&b"connections"[..]));
    // Where its owner is and remembers nothing, there is nothing.
    to.enable("one").unwrap();
    back.run(1);
    assert!(back.switch.entry("a").unwrap().config.carried.extensions.is_empty());
}

#[test]
fn h27_nobodys_word_brings_no_settings_of_extensions() {
    let mut from = Rig::new(&["one"]);
    still(&mut from);
    from.switch.set_extension("one", Some("a"), Some(&json!({"open": true}))).unwrap();
    remember(&from, "one", b"connections");
    let mut to = Rig::new(&["one"]);
    still(&mut to);
    to.switch.set_extension("one", Some("a"), Some(&json!({"open": false}))).unwrap();
    to.heard();
    to.switch.arrive(ONE, &from.switch.depart(ONE).unwrap(), Trust::Seal).unwrap();
    assert_eq!(to.heard(), ["one: restore 1"]);
    let settings = &to.switch.entry("a").unwrap().config.extensions;
    assert_eq!(settings["one"], json!({"open": false}));
}

#[test]
fn s20_4_a_required_extension_that_is_not_there_is_a_problem() {
    let mut from = host(&["one", "two"]);
    remember(&from, "two", b"connections");
    let policy =
        PolicyChange { require_extension: Some(Some(vec!["one".into()])), ..PolicyChange::default() };
    from.switch.set_port("a", &PortChange { policy }).unwrap();
    let manifest = from.switch.manifest("a").unwrap();
    let problems = |rig: &Rig| -> Vec<String> {
        let all = migration::check::check(&manifest, &rig.switch.offer(&manifest, true, None));
        all.into_iter().map(|p| p.code).filter(|code| code.starts_with("extension")).collect()
    };
    assert_eq!(problems(&host(&[])), ["extension-required", "extension-missing"]);
    assert_eq!(problems(&host(&["one"])), ["extension-missing"]);
    assert_eq!(problems(&host(&["two", "one"])), [""; 0]);
    let mut to = host(&[]);
    to.switch.arrive(ONE, &from.switch.depart(ONE).unwrap(), Trust::Seal).unwrap();
    assert!(to.fake.notes().ports[0].unmet, "what it requires moves with it");
}

#[test]
fn s15_4_another_process_goes_on_with_what_was_remembered_and_keeps_what_nobody_owns() {
    let from = Rig::new(&["one", "two", "tap"]);
    remember(&from, "one", b"connections");
    remember(&from, "two", b"blocks");
    remember(&from, "tap", b"samples");
    let mut all = from.switch.remembered(ONE);
    assert_eq!(all.len(), 3);
    let mut to = Rig::new(&["two", "one"]);
    to.switch.set_extension("two", Some("a"), Some(&json!({"x": 1}))).unwrap();
    to.refuse("two", "restore");
    to.heard();
    let before = to.switch.recall(ONE, all.clone()).expect("there is more to be carried");
    assert!(before.carried.extensions.is_empty());
    assert_eq!(memory(&to, "one").as_deref(), Some(&b"connections"[..]));
    let heard = to.heard();
    // What it took in, if it took something, goes with the card; its settings stay.
    let forgets = ["two: nic-delete 1", "two: nic-create 1", "two: set 1 {\"x\":1}"];
    assert!(heard.windows(3).any(|three| three == forgets), "{heard:?}");
    let carried = |rig: &Rig| rig.switch.entry("a").unwrap().config.carried.extensions.clone();
    let names =
        |rig: &Rig| carried(rig).into_iter().map(|state| (state.name, state.data)).collect::<Vec<_>>();
    assert_eq!(names(&to), [("tap".to_owned(), b"samples".to_vec())]);
    let kinds: Vec<_> = to.kinds(0).into_iter().filter(|kind| kind.starts_with("extension-")).collect();
    for kind in ["extension-orphan", "extension-forgot"] {
        assert_eq!(kinds.iter().filter(|other| *other == kind).count(), 1, "{kinds:?}");
    }
    // What comes later is newer.
    remember(&from, "tap", b"later");
    all = from.switch.remembered(ONE);
    to.script.lock().unwrap().refuse = None;
    to.switch.recall(ONE, all).expect("it is another");
    assert_eq!(names(&to), [("tap".to_owned(), b"later".to_vec())]);
    assert_eq!(memory(&to, "two").as_deref(), Some(&b"blocks"[..]));
    from.heard();
    assert_eq!(to.switch.recall(PortId(7), from.switch.remembered(ONE)), None, "of a port that is not there");
}
