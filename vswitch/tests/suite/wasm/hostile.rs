//! Modules that break the contract: the fault says what and where, the neighbours do not notice, and nothing is counted wrongly.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use vswitch::extension::wasm::Limits;
use vswitch::extension::{Answer, Change, Effects, Extension, FailMode, Sample, Sight, Veto};
use vswitch::pipeline::Verdict;
use vswitch::trace::DropReason;
use vswitch::{Direction, PortId};

use super::abi::Ports;
use super::support::*;
use crate::support::SECOND;

const LOG: &str = r#"(import "turnpike" "tp_log" (func $log (param i32 i32)))"#;
const INJECT: &str = r#"(import "turnpike" "tp_inject" (func $inject (param i32 i32 i32) (result i32)))"#;
const DATAGRAM: &str =
    r#"(import "turnpike" "tp_datagram" (func $datagram (param i32 i32 i32 i32 i32) (result i32)))"#;
const COUNTERS: &str = r#"(import "turnpike" "tp_counters" (func $counters (param i32 i32) (result i32)))"#;

#[test]
fn s15_a_module_that_breaks_the_contract_is_not_called_again_and_its_neighbours_go_on() {
    let lies: [(&str, &str, &str); 23] = [
        ("", "(i32.load (i32.const 0x7fffffff))", "tp_judge reached outside its memory"),
        (
            "",
            "(i32.store (i32.const 131069) (i32.const 1)) (i32.const 0)",
            "tp_judge reached outside its memory",
        ),
        (
            "",
            "(memory.fill (i32.const 131000) (i32.const 0) (i32.const 100)) (i32.const 0)",
            "tp_judge reached outside its memory",
        ),
        (
            "",
            "(memory.fill (i32.const 0) (i32.const 0) (i32.const -1)) (i32.const 0)",
            "tp_judge did not end: it was stopped after 50000 units of fuel",
        ),
        ("", "(loop (br 0)) (i32.const 0)", "tp_judge did not end: it was stopped after 50000 units of fuel"),
        (
            "",
            "(loop (drop (memory.grow (i32.const 1))) (br 0)) (i32.const 0)",
            "tp_judge did not end: it was stopped after 50000 units of fuel",
        ),
        ("", "(call $judge (local.get 0))", "tp_judge called too deep: its stack of 96 KiB is full"),
        ("", "(unreachable)", "tp_judge gave up (unreachable)"),
        ("", "(i32.div_u (i32.const 1) (local.get 1))", "tp_judge trapped: integer divide by zero"),
        ("", "(i32.const 7)", "tp_judge: answer 0x7 says 7; valid: 0 (pass), 1 (drop), 2 (change)"),
        (
            "",
            "(i32.const 0x50)",
            "tp_judge: answer 0x50 stands for 5; valid: 0 (flow), 1 (second), 2 (frame)",
        ),
        ("", "(i32.const 0x100)", "tp_judge: answer 0x100 has bits that its 0 does not have"),
        ("", "(i32.const 0x30001)", "tp_judge: answer 0x30001 has bits that its 1 does not have"),
        (
            "",
            "(i32.const -1)",
            "tp_judge: answer 0xffffffff stands for 15; valid: 0 (flow), 1 (second), 2 (frame)",
        ),
        ("", "(i32.const 0x901)", "it dropped a frame for reason 9, of 2"),
        (
            LOG,
            "(call $log (i32.const -1) (i32.const 100)) (i32.const 0)",
            "tp_judge: it gave tp_log 100 bytes at 0xffffffff, which are outside its memory",
        ),
        (
            LOG,
            "(loop (call $log (i32.const 0) (i32.const 100)) (br 0)) (i32.const 0)",
            "tp_judge did not end: it was stopped after 50000 units of fuel",
        ),
        (
            INJECT,
            "(call $inject (i32.const 1) (i32.const 0) (i32.const 13))",
            "tp_judge: it adds a frame of 13 bytes; valid: 14 to 65553",
        ),
        (
            INJECT,
            "(call $inject (i32.const 1) (i32.const 131071) (i32.const 60))",
            "tp_judge: it gave tp_inject 60 bytes at 0x1ffff, which are outside its memory",
        ),
        (
            INJECT,
            "(call $inject (i32.const 65536) (i32.const 0) (i32.const 60))",
            "tp_judge: it adds a frame of port 65536; valid: 0 (trusted) to 65535",
        ),
        (
            DATAGRAM,
            "(call $datagram (i32.const 0) (i32.const 7) (i32.const 9) (i32.const 0) (i32.const 1))",
            "tp_judge: it sends a datagram to an address of 7 bytes; valid: 4, 16",
        ),
        (
            DATAGRAM,
            "(call $datagram (i32.const 0) (i32.const 4) (i32.const 9) (i32.const 0) (i32.const 9001))",
            "tp_judge: it sends a datagram of 9001 bytes; at most 9000",
        ),
        (
            DATAGRAM,
            "(call $datagram (i32.const 131070) (i32.const 4) (i32.const 9) (i32.const 0) (i32.const 1))",
            "tp_judge: it gave tp_datagram 4 bytes at 0x1fffe, which are outside its memory",
        ),
    ];
    for (imports, body, why) in lies {
        let bytes = judging(imports, body);
        for (fail, verdict) in [
            (FailMode::Open, Verdict::Unicast(PortId(2))),
            (FailMode::Closed, Verdict::Drop(DropReason::ExtensionFailed)),
        ] {
            let mut bench = Bench::new(&[start(&bytes)], fail);
            for _ in 0..3 {
                assert_eq!(bench.send(2, SECOND).0, verdict, "{body}");
            }
            assert_eq!(bench.slot("m0").fault(), Some(why), "{body}");
            assert_eq!(bench.slot("m0").activity().judged.load(Ordering::Relaxed), 1, "{body}");
            assert_eq!(bench.slot("above").fault(), None);
            let below = if fail == FailMode::Open { 3 } else { 0 };
            assert_eq!(bench.asked(), [3, below], "{body}");
        }
    }
}

#[test]
fn s15_1_a_capture_in_a_sandbox_may_not_drop_or_change_either() {
    for (answer, why) in [(1, "a capture dropped a frame"), (2, "a capture changed a frame")] {
        let judge = format!(r#"(func (export "tp_judge") (param i32) (result i32) (i32.const {answer}))"#);
        let mut bench = Bench::new(&[start(&wat(CAPTURE, &judge))], FailMode::Open);
        assert_eq!(bench.send(2, SECOND).0, Verdict::Unicast(PortId(2)));
        let stack = bench.snap.extensions().expect("a stack");
        assert_eq!(stack.slot("m0").expect("a slot").fault(), Some(why));
    }
}

#[test]
fn s15_2_a_change_towards_a_port_is_a_fault() {
    let judge = r#"(func (export "tp_judge") (param i32) (result i32)
        (if (result i32) (i32.load8_u offset=34 (local.get 0)) (then (i32.const 2)) (else (i32.const 0))))"#;
    let mut bench = Bench::new(&[start(&wat(FILTER, judge))], FailMode::Open);
    assert_eq!(bench.send(2, SECOND).0, Verdict::Unicast(PortId(2)));
    assert_eq!(bench.slot("m0").fault(), Some("it changed a frame on its way to a port"));
}

#[test]
fn s15_a_trap_in_any_callback_is_a_fault_that_names_it() {
    let callbacks: [(&str, &str, &str, Call); 8] = [
        ("tp_tick", "(param i64)", "", |e| e.tick(1, &Ports(0), &mut Effects::default())),
        ("tp_sample", "(param i32)", SAMPLING, |e| e.sample(&sample(), &mut Effects::default())),
        ("tp_forward", "(param i32) (result i32)", "", |e| {
            let head = example(2);
            let sight = Sight::new(1, Direction::Out, PortId(1), &head, 64);
            e.forward(&sight, &mut Effects::default()).map(|_| ())
        }),
        ("tp_change", "(param i64 i32) (result i64)", "", |e| {
            let heard = e.change(1, &Change::NicConnect { port: PortId(1) });
            assert_eq!(heard, Ok(()), "what has failed has no say");
            e.tick(1, &Ports(0), &mut Effects::default())
        }),
        ("tp_set", "(param i32 i32 i32) (result i64)", "", |e| {
            e.set(None, Some(&json!({}))).map_err(|veto| veto.to_string().replace("it has failed: ", ""))
        }),
        ("tp_status", "(param i32) (result i64)", "", |e| {
            assert_eq!(e.status(None), Value::Null);
            e.tick(1, &Ports(0), &mut Effects::default())
        }),
        ("tp_save", "(param i64 i32) (result i64)", RESTORE, |e| {
            assert_eq!(e.save(1, PortId(1)), None);
            e.tick(1, &Ports(0), &mut Effects::default())
        }),
        ("tp_restore", "(param i64 i32 i32 i32) (result i64)", SAVE, |e| {
            let restored = e.restore(1, PortId(1), b"state");
            restored.map_err(|veto| veto.to_string().replace("it has failed: ", ""))
        }),
    ];
    for (name, signature, with, call) in callbacks {
        for (body, why) in [
            ("(unreachable)", "gave up (unreachable)"),
            ("(loop (br 0)) (unreachable)", "did not end: it was stopped after 100000 units of fuel"),
        ] {
            let kind = if name == "tp_forward" { FORWARDING } else { FILTER };
            let func = format!(r#"(func (export "{name}") {signature} {body}) {with}"#);
            let limits = Limits { call_fuel: 100_000, frame_fuel: 100_000, ..Limits::default() };
            let instance = start_with(&wat(kind, &func), &Value::Null, &limits).expect("an instance");
            let expected = format!("{name} {why}");
            assert_eq!(call(&*instance), Err(expected.clone()), "{name}");
            assert_eq!(fault(&*instance), expected, "the next frame hears of it");
            assert_eq!(
                instance.set(None, Some(&json!({}))),
                Err(Veto::new(format!("it has failed: {expected}"))),
                "nothing of it is called"
            );
        }
    }
}

/// Calls one function of a module and says what went wrong.
type Call = fn(&dyn Extension) -> Result<(), String>;

const SAMPLING: &str = r#"(func (export "tp_sampling") (result i32) (i32.const 10))"#;
const SAVE: &str = r#"(func (export "tp_save") (param i64 i32) (result i64) (i64.const 0))"#;
const RESTORE: &str = r#"(func (export "tp_restore") (param i64 i32 i32 i32) (result i64) (i64.const 0))"#;

fn sample() -> Sample<'static> {
    let verdict = Verdict::Unicast(PortId(2));
    Sample { now: 5, from: PortId(1), vsid: None, head: &[0; 64], len: 64, verdict, pool: 77 }
}

#[test]
fn s15_4_what_is_saved_is_bounded_and_inside_the_modules_memory() {
    for (answer, why) in [
        ("0x4000000000000010", "tp_save gave 1073741824 bytes; at most 262144"),
        ("0x0004000100000010", "tp_save gave 262145 bytes; at most 262144"),
        ("0x0004000000000010", "tp_save gave 262144 bytes at 0x10, which are outside its memory"),
        ("0x00000004fffffffe", "tp_save gave 4 bytes at 0xfffffffe, which are outside its memory"),
    ] {
        let save = format!(r#"(func (export "tp_save") (param i64 i32) (result i64) (i64.const {answer}))"#);
        let instance = start(&wat(FILTER, &format!("{save} {RESTORE}")));
        assert_eq!(instance.save(1, PortId(1)), None);
        assert_eq!(fault(&*instance), why);
    }
}

#[test]
fn s15_4_what_another_saved_is_refused_by_the_module_and_that_is_no_fault() {
    let restore = r#"(data (i32.const 64) "this is not mine")
        (func (export "tp_restore") (param i64 i32 i32 i32) (result i64)
          (if (result i64) (i32.and (i32.eq (local.get 3) (i32.const 8))
                                    (i32.eq (i32.load (local.get 2)) (i32.const 0x50544d31)))
            (then (i64.const 0)) (else (i64.const 0x0000001000000040))))"#;
    let instance = start(&wat(FILTER, &format!("{SAVE} {restore}")));
    for other in [&b"1MTQ\0\0\0\0"[..], b"", b"1MTP", &[0; 1000]] {
        let refused = instance.restore(1, PortId(1), other).expect_err("of another");
        assert_eq!(refused.to_string(), "this is not mine");
    }
    assert_eq!(instance.restore(1, PortId(1), b"1MTP\0\0\0\0"), Ok(()));
    let refused = instance.restore(1, PortId(1), &vec![0; 100_001]).expect_err("too long for it");
    assert_eq!(refused.to_string(), "it has no room for a state of 100001 bytes");
    assert_eq!(instance.restore(1, PortId(1), b"1MTP\0\0\0\0"), Ok(()), "it goes on");
}

#[test]
fn s15_3_the_text_of_a_veto_and_a_status_are_checked_as_all_that_comes_back() {
    let change = |answer: &str| {
        let change = format!(
            r#"(data (i32.const 64) "no\07\1b[2J\ff more")
               (func (export "tp_change") (param i64 i32) (result i64) (i64.const {answer}))"#
        );
        start(&wat(FILTER, &change))
    };
    let asked = Change::NicConnect { port: PortId(1) };
    let vetoes = change("0x0000000d00000040"); // 13 bytes
    let refused = vetoes.change(1, &asked).expect_err("a veto");
    assert_eq!(refused.to_string(), "no  [2J\u{fffd} more");
    let silent = change("0x0000000000000040").change(1, &asked).expect_err("a veto");
    assert_eq!(silent.to_string(), "it does not say why");
    let lying = change("0x7fffffff00000040");
    assert_eq!(lying.change(1, &asked), Ok(()));
    assert_eq!(fault(&*lying), "tp_change gave 2147483647 bytes; at most 65536");

    let status = |text: &str, len: usize| {
        let text = format!(
            r#"(data (i32.const 64) "{text}")
               (func (export "tp_status") (param i32) (result i64) (i64.const {}))"#,
            len << 32 | 64
        );
        start(&wat(FILTER, &text))
    };
    assert_eq!(status("[1,2]", 5).status(None), json!([1, 2]));
    let no_json = status("[1,2", 4);
    assert_eq!(no_json.status(None), Value::Null);
    assert_eq!(fault(&*no_json), "tp_status gave no JSON: EOF while parsing a list at line 1 column 4");
    let deep = status(&"[".repeat(5000), 5000);
    assert_eq!(deep.status(None), Value::Null);
    assert_eq!(fault(&*deep), "tp_status gave no JSON: recursion limit exceeded at line 1 column 128");
}

#[test]
fn s15_a_buffer_outside_its_memory_is_a_fault_and_one_that_moves_is_not() {
    let buffer = r#"(func (export "tp_buffer") (param i32) (result i32)
        (if (result i32) (i32.eq (local.get 0) (i32.const 240)) (then (i32.const 1024)) (else (i32.const 0x1ffff))))
        (func (export "tp_set") (param i32 i32 i32) (result i64) (i64.const 0))"#;
    let instance = start(&wat(FILTER, buffer));
    let refused = instance.set(None, Some(&json!([1, 2, 3]))).expect_err("a lie");
    let why = "tp_buffer gave 7 bytes at 0x1ffff, which are outside its memory";
    assert_eq!(refused.to_string(), format!("it has failed: {why}"));
    assert_eq!(fault(&*instance), why);
    let grows = r#"(func (export "tp_buffer") (param i32) (result i32)
        (i32.mul (memory.grow (i32.const 1)) (i32.const 65536)))
        (func (export "tp_set") (param i32 i32 i32) (result i64)
          (i64.extend_i32_u (i32.ne (i32.load8_u (local.get 1)) (i32.const 0x5b))))"#;
    let instance = start(&wat(FILTER, grows));
    for _ in 0..20 {
        assert_eq!(instance.set(None, Some(&json!([1]))), Ok(()));
        assert_eq!(judge(&*instance, &mut Effects::default()), Answer::PASS);
    }
}

#[test]
fn s15_counters_are_written_inside_the_modules_memory_only() {
    let tick = r#"(func (export "tp_tick") (param i64)
        (drop (call $counters (i32.const 1) (i32.const 0x1ffff))))"#;
    let instance = start(&wat_with(FILTER, COUNTERS, tick));
    assert_eq!(instance.tick(1, &Ports(1), &mut Effects::default()), Ok(()), "it heard of no port");
    let kind = vswitch::port::PortKind::Guest;
    instance.change(1, &Change::PortCreate { port: PortId(1), name: "web", kind }).expect("no veto");
    let why = "tp_tick: it gave tp_counters 48 bytes at 0x1ffff, which are outside its memory";
    assert_eq!(instance.tick(1, &Ports(1), &mut Effects::default()), Err(why.into()));
}
