//! Modules that break the contract, through the real switch: each time an event names the extension, what it did is counted, and a neighbour
//! in the same stack and the ports go on as if nothing had been.

use serde_json::Value;
use turnpike_tests::extension::{module, module_with};
use turnpike_tests::frame::pattern;
use turnpike_tests::lan::mac;
use turnpike_tests::{Frame, Lan, eventually};

const INJECT: &str = r#"(import "turnpike" "tp_inject" (func $inject (param i32 i32 i32) (result i32)))"#;
const FORWARDING: u32 = 3;

fn udp(to: u8) -> Vec<u8> {
    Frame::new(mac(to), mac(1)).ipv4().udp(1000, 80).payload(&pattern(60, 7)).build()
}

/// A switch with a neighbour: a filter that sees each frame and lets it pass.
struct Bench {
    lan: Lan,
    /// Frames that the neighbour was asked about.
    judged: u64,
    /// The newest event when the case began.
    since: u64,
}

impl Bench {
    fn new() -> Self {
        let lan = Lan::new(&[("a", ""), ("b", ""), ("c", "")]);
        lan.switch.load_extension("neighbour", &module(2, "", "(i32.const 0x20)"));
        lan.run("extension enable neighbour");
        let mut bench = Self { lan, judged: 0, since: 0 };
        bench.begin();
        bench
    }

    /// A case begins; those before do not count.
    fn begin(&mut self) {
        self.judged = self.counter("neighbour", "judged");
        self.since =
            self.lan.switch.events().iter().filter_map(|event| event["seq"].as_u64()).max().unwrap_or(0);
    }

    fn counter(&self, name: &str, counter: &str) -> u64 {
        let show = self.lan.switch.json(&["extension", "show", name]);
        show["counters"][counter].as_u64().unwrap_or_else(|| panic!("no {counter} in {show}"))
    }

    /// The text of the first event of a kind that names the extension, since the case began.
    fn event(&self, kind: &str, extension: &str) -> Option<String> {
        let of = |event: &&Value| {
            let is_new = event["seq"].as_u64().is_some_and(|seq| seq > self.since);
            let named = event["extension"] == extension
                || event["object"].as_str().is_some_and(|object| object.contains(&format!("'{extension}'")))
                || event["reason"].as_str().is_some_and(|reason| reason.contains(&format!("'{extension}'")));
            is_new && event["kind"] == kind && named
        };
        self.lan
            .switch
            .events()
            .iter()
            .find(of)
            .map(|event| event["reason"].as_str().unwrap_or_default().to_owned())
    }

    #[track_caller]
    fn told(&self, kind: &str, extension: &str, why: &str) {
        let mut last = None;
        let told = eventually(|| {
            last = self.event(kind, extension);
            last.as_ref().is_some_and(|reason| reason.contains(why))
        });
        assert!(told, "{kind} of {extension}: {last:?}, expected {why}; {}", self.lan.run("events"));
    }

    /// A frame passes, is seen by the neighbour, and nobody else is hurt.
    #[track_caller]
    fn undisturbed(&mut self) {
        let before = self.counter("neighbour", "judged");
        self.lan.passes("a", "c", &udp(3));
        assert_eq!(self.counter("neighbour", "judged"), before + 1);
        assert_eq!(self.lan.switch.json(&["extension", "show", "neighbour"])["state"], "running");
        assert_eq!(self.event("extension-failed", "neighbour"), None);
    }

    fn load(&self, name: &str, bytes: &[u8]) {
        self.lan.switch.load_extension(name, bytes);
    }

    /// Takes it out again.
    fn end(&mut self, name: &str) {
        self.lan.run(&format!("extension disable {name}"));
        self.undisturbed();
    }

    /// A command that is refused; its message.
    #[track_caller]
    fn refused(&self, line: &str) -> String {
        let output = self.lan.switch.run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(1), "{line}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

#[test]
fn h27_what_is_no_module_of_this_abi_is_refused_by_name_and_nothing_else_happens() {
    let mut bench = Bench::new();
    let good = module(2, "", "(i32.const 0)");
    let text = |text: &str| wat::parse_str(text).expect("a module");
    let other_abi = r#"(module (memory (export "memory") 1)
        (func (export "tp_abi") (result i32) (i32.const 9))
        (func (export "tp_kind") (result i32) (i32.const 2)))"#;
    let lacking =
        r#"(module (memory (export "memory") 1) (func (export "tp_abi") (result i32) (i32.const 1)))"#;
    let endless = r#"(module (memory (export "memory") 1) (func $start (loop (br 0))) (start $start)
        (func (export "tp_abi") (result i32) (i32.const 1))
        (func (export "tp_kind") (result i32) (i32.const 2)))"#;
    let bomb =
        other_abi.replace("(i32.const 9)", "(i32.const 1)").replace("\"memory\") 1", "\"memory\") 65536");
    for (what, bytes, why) in [
        ("abi", text(other_abi), "ABI"),
        ("export", text(lacking), "tp_kind"),
        ("start", text(endless), "did not end"),
        ("bomb", text(&bomb), "memory"),
        ("half", good[..good.len() / 2].to_vec(), ""),
    ] {
        bench.begin();
        let file = bench.lan.switch.dir().join(format!("{what}.wasm"));
        std::fs::write(&file, bytes).expect("written");
        let line = bench.refused(&format!("extension load {}", file.display()));
        assert!(line.contains(why), "{what}: {line}");
        bench.told("refused", what, why);
        bench.undisturbed();
    }
}

#[test]
fn h27_a_trap_in_any_callback_ends_the_one_that_it_is_in() {
    let mut bench = Bench::new();
    let trap = |name: &str, signature: &str| format!(r#"(func (export "{name}") {signature} (unreachable))"#);
    let sampling = r#"(func (export "tp_sampling") (result i32) (i32.const 1))"#;
    let cases = [
        (2, "tp_tick", "(param i64)", "", ""),
        (2, "tp_sample", "(param i32)", sampling, ""),
        (FORWARDING, "tp_forward", "(param i32) (result i32)", "", ""),
        (2, "tp_status", "(param i32) (result i64)", "", "extension show bad"),
        (2, "tp_change", "(param i64 i32) (result i64)", "", "port set b --dhcp-guard on"),
        (2, "tp_set", "(param i32 i32 i32) (result i64)", "", "extension set bad x=1"),
    ];
    for (kind, name, signature, with, command) in cases {
        bench.begin();
        bench.load(
            "bad",
            &module_with(kind, "", "(i32.const 0x20)", &[with, &trap(name, signature)].concat()),
        );
        // One whose changes trap has failed with the first thing that it hears.
        bench.lan.run("extension enable bad");
        bench.lan.passes("a", "b", &udp(2));
        if name == "tp_set" {
            let why = bench.refused(command);
            assert!(why.contains("tp_set gave up"), "{why}");
        } else if !command.is_empty() {
            bench.lan.run(command);
        }
        bench.told("extension-failed", "bad", &format!("{name} gave up (unreachable)"));
        assert_eq!(bench.lan.switch.json(&["extension", "show", "bad"])["state"], "failed", "{name}");
        let judged = bench.counter("bad", "judged");
        bench.lan.passes("a", "b", &udp(2));
        assert_eq!(bench.counter("bad", "judged"), judged, "{name}: it is not asked any more");
        bench.undisturbed();
        bench.end("bad");
    }
}

#[test]
fn h27_a_memory_bomb_and_a_pointer_outside_end_the_one_whose_they_are() {
    let mut bench = Bench::new();
    // As much as it gets, in one call after the other; then it uses what it did not get.
    let bomb = "(drop (memory.grow (i32.const 100)))
        (i32.store (i32.const 0x3fffffff) (i32.const 1)) (i32.const 0x20)";
    let before = bench.lan.switch.private_memory_kib();
    for (judge, why) in [
        (bomb, "tp_judge reached outside its memory"),
        ("(i32.load (i32.const -4))", "tp_judge reached outside its memory"),
        ("(loop $again (br $again)) (i32.const 0)", "tp_judge did not end"),
    ] {
        bench.begin();
        bench.load("bad", &module(2, "", judge));
        bench.lan.run("extension enable bad --fail closed --limit memory-mib=1");
        bench.lan.dropped("a", &udp(2), ("a", "out"), "extension-failed");
        bench.told("extension-failed", "bad", why);
        assert_eq!(bench.counter("bad", "judged"), 1);
        bench.end("bad");
    }
    let grown = bench.lan.switch.private_memory_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more than before");
}

#[test]
fn s15_3_who_vetoes_everything_is_named_each_time_and_what_there_is_goes_on() {
    let mut bench = Bench::new();
    let veto = r#"(data (i32.const 64) "never")
        (func (export "tp_change") (param i64 i32) (result i64)
            (select (i64.const 0x0000000500000040) (i64.const 0) (i32.load8_u (i32.const 80))))
        (func (export "tp_set") (param i32 i32 i32) (result i64) (i32.store8 (i32.const 80) (i32.const 1)) (i64.const 0))"#;
    bench.load("bad", &module_with(2, "", "(i32.const 0x20)", veto));
    bench.lan.run("extension enable bad");
    bench.lan.run("extension set bad x=1");
    let socket = bench.lan.switch.dir().join("d.sock");
    let socket = socket.display();
    for line in [
        format!("port add d --socket {socket}"),
        "port set b --dhcp-guard on".to_owned(),
        "acl add b --action deny --direction in --remote any".to_owned(),
        "switch set --rx-wait-us 7".to_owned(),
    ] {
        bench.begin();
        let refused = bench.refused(&line);
        assert!(refused.contains("extension 'bad' refuses it: never (reason 101)"), "{line}: {refused}");
        bench.told("refused", "bad", "never");
        bench.undisturbed();
    }
    assert_eq!(bench.lan.switch.port("b")["policy"]["dhcp_guard"], false);
    // What may not be refused happens.
    bench.lan.run("port remove b");
    bench.end("bad");
}

#[test]
fn h27_an_injection_storm_is_told_of_and_counted_to_the_last_frame() {
    let mut bench = Bench::new();
    let storm = "(loop $again
            (drop (call $inject (i32.const 1) (i32.add (local.get 0) (i32.const 42)) (i32.load offset=20 (local.get 0))))
            (i32.store (i32.const 80) (i32.add (i32.load (i32.const 80)) (i32.const 1)))
            (br_if $again (i32.rem_u (i32.load (i32.const 80)) (i32.const 100))))
        (i32.const 0x20)";
    bench.load("bad", &module(2, INJECT, storm));
    bench.lan.run("extension enable bad");
    let heard = bench.lan.send("a", &udp(2));
    assert!(heard.by().iter().all(|by| *by == "b"), "{:?}", heard.by());
    bench.told("extension-limited", "bad", "");
    let (injected, refused) = (bench.counter("bad", "injected"), bench.counter("bad", "refused"));
    assert_eq!((injected, refused), (16, 84), "all that it wanted of the one frame that it was asked about");
    assert!(eventually(|| bench.lan.switch.counter("b", "in_packets") == 17));
    bench.lan.heard();
    bench.lan.run("extension disable bad");
    bench.undisturbed();
}

#[test]
fn h27_a_frame_changed_to_garbage_ends_under_the_name_of_who_changed_it() {
    let mut bench = Bench::new();
    let garbage = "(memory.fill (i32.add (local.get 0) (i32.const 42)) (i32.const 255) (i32.const 64)) (i32.const 0x22)";
    bench.load("bad", &module(2, "", garbage));
    bench.lan.run("extension enable bad");
    bench.lan.dropped("a", &udp(2), ("a", "out"), "invalid-source");
    bench.told("extension-dropped", "bad", "changed, then invalid-source");
    assert_eq!(bench.counter("bad", "replaced"), 1);
    assert_eq!(bench.lan.switch.json(&["extension", "show", "bad"])["state"], "running");
    bench.end("bad");
}

#[test]
fn s15_1_a_port_that_is_gone_as_destination_is_told_under_the_name_of_who_chose_it() {
    let mut bench = Bench::new();
    // Port 900.
    let forward = r#"(func (export "tp_forward") (param i32) (result i32) (i32.const 0x03840023))"#;
    bench.load("bad", &module_with(FORWARDING, "", "(i32.const 0x20)", forward));
    bench.lan.run("extension enable bad");
    bench.lan.dropped("a", &udp(2), ("a", "out"), "receiver-not-running");
    bench.told("extension-dropped", "bad", "it sends to port 900, which is not there");
    // A second one that forwards is refused, and the first stays.
    bench.load("worse", &module_with(FORWARDING, "", "(i32.const 0x20)", forward));
    bench.begin();
    let line = bench.refused("extension enable worse");
    assert!(line.contains("'worse' forwards, and so does 'bad'"), "{line}");
    bench.told("refused", "worse", "forwards");
    assert_eq!(bench.lan.switch.json(&["extension", "show", "bad"])["state"], "running");
    bench.end("bad");
}

#[test]
fn h27_a_module_is_unloaded_under_load_and_no_frame_notices() {
    let mut bench = Bench::new();
    let bytes = module(2, "", "(i32.const 0x20)");
    let (mut sender, mut receiver, mut sent, mut received) = (bench.lan.take("a"), bench.lan.take("b"), 0, 0);
    bench.begin();
    for _ in 0..10 {
        bench.load("busy", &bytes);
        bench.lan.run("extension enable busy");
        assert!(bench.refused("extension unload busy").contains("it is enabled"));
        std::thread::scope(|scope| {
            let switch = &bench.lan.switch;
            let change = scope.spawn(move || {
                switch.ok(&["extension", "disable", "busy"]);
                switch.ok(&["extension", "unload", "busy"]);
            });
            while !change.is_finished() {
                sender.send_all(&vec![udp(2); 50]);
                assert!(sender.flush(turnpike_tests::PATIENCE));
                sent += 50;
                received += std::iter::from_fn(|| receiver.poll()).count() as u64;
            }
        });
    }
    assert!(sent > 0);
    assert_eq!(received, sent);
    assert!(
        bench.event("extension-unloaded", "busy").is_some()
            && bench.event("extension-failed", "busy").is_none()
    );
    assert_eq!(bench.counter("neighbour", "judged"), bench.judged + sent);
    bench.lan.give("a", sender);
    bench.lan.give("b", receiver);
    bench.undisturbed();
}
