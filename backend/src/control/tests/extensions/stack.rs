//! Which extensions are enabled, in which order, over restarts and in documents; and ports that require one (section 15 of the semantics).

use super::*;

#[test]
fn s15_1_the_newest_of_a_kind_is_nearest_to_the_guests_and_moves_only_among_its_kind() {
    let mut rig = Rig::new(&["way", "one", "two", "tap"]);
    assert_eq!(rig.names(), ["tap", "two", "one", "way"]);
    let made = rig.script.lock().unwrap().made;
    let published = rig.fake.notes().epochs.len();
    rig.switch.move_extension("one", &ExtensionMove { at: 2 }).unwrap();
    assert_eq!(rig.stack(), ["tap", "one", "two", "way"]);
    assert_eq!(rig.fake.notes().epochs.len(), published + 1, "one snapshot with one stack");
    assert_eq!(rig.script.lock().unwrap().made, made, "the instances are the same");
    for (name, at) in [("one", 1), ("one", 4), ("tap", 2), ("way", 1), ("way", 0), ("one", u64::MAX)] {
        let line = refused(&mut rig.switch, |s| s.move_extension(name, &ExtensionMove { at }));
        assert!(line.contains("is not among those of"), "{line}");
    }
    let line = refused(&mut rig.switch, |s| {
        s.enable_extension(&NewExtension { name: "other-way".into(), ..NewExtension::default() })
    });
    assert!(line.contains("'other-way' forwards, and so does 'way': disable one of them first"), "{line}");
    rig.switch.disable_extension("two").unwrap();
    assert_eq!(rig.stack(), ["tap", "one", "way"]);
    rig.switch
        .enable_extension(&NewExtension { name: "two".into(), at: Some(3), ..NewExtension::default() })
        .unwrap();
    assert_eq!(rig.stack(), ["tap", "one", "two", "way"]);
    let line = refused(&mut rig.switch, |s| s.disable_extension("nothing"));
    assert!(line.contains("there is no such extension"), "{line}");
    assert!(refused(&mut rig.switch, |s| s.disable_extension("other-way")).contains("it is not enabled"));
}

#[test]
fn s15_1_native_forwarding_is_told_to_be_off_and_on() {
    let mut rig = Rig::new(&["one"]);
    let before = rig.switch.events.since(0).len() as u64;
    rig.enable("way").unwrap();
    rig.switch.move_extension("one", &ExtensionMove { at: 1 }).unwrap();
    rig.switch.disable_extension("way").unwrap();
    assert_eq!(
        rig.kinds(before),
        ["extension-enabled", "native-forwarding", "extension-disabled", "native-forwarding"]
    );
}

#[test]
fn an_instance_stays_over_other_changes_and_what_it_dropped_is_counted_over_restarts() {
    let state = tempfile::tempdir().unwrap();
    let (store, saved) = Store::open(state.path()).unwrap();
    let mut rig = Rig::stored(&["one", "tap"], saved, store);
    rig.switch.set_extension("one", Some("a"), Some(&json!({"x": 1}))).unwrap();
    rig.switch.set_port("a", &PortChange { policy: spoofing(true) }).unwrap();
    assert_eq!(rig.script.lock().unwrap().made, 2);
    let tallies = rig.switch.settings.extensions.enabled[1].tallies.clone();
    assert_eq!(tallies.keys().collect::<Vec<_>>(), ["too-loud", "too-old"]);
    rig.fake.notes().tallies.insert(tallies["too-loud"].0, (12, 1200));
    let (counted, listed) = (rig.fake.notes().tallies.clone(), rig.switch.settings.extensions.clone());
    drop(rig);
    let (store, saved) = Store::open(state.path()).unwrap();
    let mut rig = Rig::stored(&[], saved, store);
    rig.fake.notes().tallies = counted;
    assert_eq!(rig.switch.settings.extensions, listed);
    assert_eq!(rig.stack(), ["tap", "one"]);
    let view = rig.switch.show_extension("one", None).unwrap();
    assert_eq!(view.counters.dropped, BTreeMap::from([("too-loud".into(), 12), ("too-old".into(), 0)]));
    assert_eq!(view.ports, BTreeMap::from([("a".to_owned(), json!({"x": 1}))]));
    let left = rig.switch.tallies.left();
    rig.switch.disable_extension("one").unwrap();
    assert_eq!(rig.switch.tallies.left(), left + 2);
    assert!(
        !rig.fake.notes().tallies.contains_key(&tallies["too-loud"].0),
        "the numbers begin at zero again"
    );
    assert_eq!(rig.switch.show_extension("one", None).unwrap().ports.len(), 1, "settings are kept");
}

#[test]
fn one_that_cannot_be_started_with_the_switch_is_kept_with_its_fault_and_fails_closed_if_it_is_to() {
    let state = tempfile::tempdir().unwrap();
    let (store, saved) = Store::open(state.path()).unwrap();
    let mut rig = Rig::stored(&["tap"], saved, store);
    let closed = NewExtension { name: "one".into(), fail: FailMode::Closed, ..NewExtension::default() };
    rig.switch.enable_extension(&closed).unwrap();
    drop(rig);
    let fake = Fake::default();
    let (store, saved) = Store::open(state.path()).unwrap();
    let mut switch = start_with(Library::default(), saved, store, &fake);
    let views = switch.list_extensions();
    assert_eq!(
        views.iter().map(|v| (&*v.name, &*v.state)).collect::<Vec<_>>(),
        [("tap", "failed"), ("one", "failed")]
    );
    let why = "it could not be started: there is no such extension";
    assert_eq!(views[1].fault.as_deref(), Some(why));
    assert_eq!(fake.notes().judging, [false, true], "only what fails closed is in the way of frames");
    assert_eq!(views[1].counters.dropped.len(), 2, "what was counted is still there");
    switch.disable_extension("tap").unwrap();
    assert!(switch.enable_extension(&closed).unwrap_err().to_string().contains("it is enabled already"));
    let script = Arc::default();
    switch.extensions.library = library(&script);
    switch.disable_extension("one").unwrap();
    assert_eq!(switch.enable_extension(&closed).unwrap().state, "running");
}

#[test]
fn a_document_has_extensions_their_order_and_settings_and_applying_it_again_changes_nothing() {
    let mut rig = Rig::new(&["one", "two", "tap"]);
    rig.switch.set_extension("one", Some("a"), Some(&json!({"x": 1}))).unwrap();
    rig.switch.set_extension("way", None, Some(&json!({"for": "later"}))).unwrap();
    let document = rig.switch.save();
    let names: Vec<_> = document.extension.iter().map(|e| (&*e.name, e.enabled)).collect();
    assert_eq!(names, [("tap", true), ("two", true), ("one", true), ("way", false)]);
    assert_eq!(document.port[0].extension, BTreeMap::from([("one".to_owned(), json!({"x": 1}))]));
    assert_eq!(rig.switch.apply(&document, false).unwrap().changes, []);
    let made = rig.script.lock().unwrap().made;
    let mut other = document.clone();
    other.extension.swap(1, 2);
    other.extension.remove(0);
    other.extension[1].config = json!({"level": 2});
    other.port[0].extension.clear();
    let applied = rig.switch.apply(&other, false).unwrap();
    let lines: Vec<_> = applied.changes.iter().map(|d| format!("{}{}: {}", d.op, d.object, d.text)).collect();
    assert_eq!(
        lines,
        [
            "-extension 'tap': ",
            "~extension 'one': position 1",
            "~extension 'two': config {\"level\":2}",
            "~port 'a': extension.one none",
        ]
    );
    assert_eq!(rig.stack(), ["one", "two"]);
    assert_eq!(
        rig.script.lock().unwrap().made,
        made + 1,
        "only what has another configuration is another instance"
    );
    assert_eq!(rig.switch.save(), other);
    rig.switch.apply(&Config { extension: Vec::new(), ..other.clone() }, false).unwrap();
    assert_eq!(rig.stack(), [""; 0]);
    let wrong = ConfigExtension { config: json!({"wrong": 1}), ..other.extension[0].clone() };
    let line =
        refused(&mut rig.switch, |s| s.apply(&Config { extension: vec![wrong], ..other.clone() }, false));
    assert!(line.starts_with("extension 'one': it cannot be started: there is no key 'wrong'"), "{line}");
}

#[test]
fn s15_3_a_port_without_an_extension_that_it_requires_has_no_connectivity() {
    let mut rig = Rig::new(&[]);
    let names = |names: &[&str]| Some(Some(names.iter().map(|name| (*name).to_owned()).collect()));
    let require = |list: &[&str]| PortChange {
        policy: PolicyChange { require_extension: names(list), ..PolicyChange::default() },
    };
    rig.switch.set_port("a", &require(&["one", "two"])).unwrap();
    let unmet = |rig: &Rig| rig.fake.notes().ports[0].unmet;
    assert!(unmet(&rig));
    rig.enable("one").unwrap();
    assert!(unmet(&rig));
    rig.enable("two").unwrap();
    assert!(!unmet(&rig));
    rig.switch.extensions.stack().slot("two").unwrap().fail("a trap");
    rig.switch.tick();
    assert!(unmet(&rig), "one that has failed is none");
    rig.switch.disable_extension("two").unwrap();
    rig.enable("two").unwrap();
    assert!(!unmet(&rig));
    rig.switch.set_port("a", &require(&["other"])).unwrap();
    rig.switch.set_port("a", &require(&[])).unwrap();
    assert!(!unmet(&rig));
    let kinds = rig.kinds(0);
    let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
    assert_eq!((count("extension-missing"), count("extensions-met")), (3, 3), "{kinds:?}");
    let line = refused(&mut rig.switch, |s| s.set_port("a", &require(&["no name"])));
    assert!(line.contains("the name is not valid"), "{line}");
}
