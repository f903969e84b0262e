//! What is refused before an instance exists, and in which words.

use serde_json::{Value, json};
use vswitch::extension::Kind;
use vswitch::extension::wasm::{Limits, MOST_MODULE, Module};

use super::support::*;

fn refused(bytes: &[u8], why: &str) {
    assert_eq!(refusal(bytes), why);
}

#[test]
fn what_is_no_module_is_refused_with_the_reason() {
    for bytes in [&b""[..], b"\0asm", b"MZ\x90\0", b"(module)", b"\0asm\x0d\0\x01\0"] {
        let why = refusal(bytes);
        assert!(why.starts_with("this is no WebAssembly module that can run here: "), "{why}");
        assert!(!why.contains('\n') && why.len() < 300, "{why}");
    }
    let long = vec![0; MOST_MODULE + 1];
    refused(&long, "the module has 4194305 bytes; at most 4194304");
    let two = r#"(memory (export "memory") 1) (memory 1)"#;
    assert!(refusal(&wat(FILTER, two)).contains("multi"), "{}", refusal(&wat(FILTER, two)));
    let wide = r#"(memory (export "memory") i64 1)"#;
    assert!(refusal(&wat(FILTER, wide)).contains("memory64"), "{}", refusal(&wat(FILTER, wide)));
}

#[test]
fn another_abi_is_refused_and_so_is_a_missing_or_wrong_export() {
    let abi = |n: i32| wat(FILTER, &format!(r#"(func (export "tp_abi") (result i32) (i32.const {n}))"#));
    refused(&abi(2), "the module is made for ABI 2; this switch has ABI 1");
    refused(&abi(-1), "the module is made for ABI 4294967295; this switch has ABI 1");
    let bare = |text: &str| wat::parse_str(format!("(module {text})")).expect("WebAssembly");
    refused(&bare(""), "the module exports no 'tp_abi'; every module has to");
    let with = r#"(func (export "tp_abi") (result i32) (i32.const 1))
                  (func (export "tp_kind") (result i32) (i32.const 1))"#;
    refused(&bare(with), "the module exports no 'memory'; every module has to");
    let judge =
        r#"(memory (export "memory") 1) (func (export "tp_judge") (param i32) (result i32) (i32.const 0))"#;
    let why = "the module exports no 'tp_judges'; whoever exports 'tp_judge' has to";
    refused(&bare(&format!("{with} {judge}")), why);
    let save = r#"(func (export "tp_save") (param i64 i32) (result i64) (i64.const 0))"#;
    refused(&wat(FILTER, save), "the module exports no 'tp_restore'; whoever exports 'tp_save' has to");
    let narrow = r#"(func (export "tp_judge") (param i64) (result i32) (i32.const 0))"#;
    refused(&wat(FILTER, narrow), "the module exports 'tp_judge' as (i64) -> (i32); valid: (i32) -> (i32)");
    let global = r#"(global (export "tp_tick") i32 (i32.const 0))"#;
    refused(&wat(FILTER, global), "the module exports 'tp_tick' as a global; valid: (i64) -> ()");
    let typo = r#"(func (export "tp_jugde\1b") (param i32) (result i32) (i32.const 0))"#;
    let why = refusal(&wat(FILTER, typo));
    assert!(
        why.starts_with(r"the module exports 'tp_jugde\u{1b}', which ABI 1 does not have; valid: tp_abi, ")
    );
}

#[test]
fn what_there_is_not_cannot_be_imported() {
    let import = |text: &str| wat_with(FILTER, text, "");
    let valid = "valid: 'turnpike' with tp_log, tp_inject, tp_datagram, tp_refresh, tp_counters";
    let memcpy = r#"(import "env" "memcpy" (func (param i32 i32 i32) (result i32)))"#;
    refused(&import(memcpy), &format!("the module imports 'env' 'memcpy'; {valid}"));
    let wasi = r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#;
    refused(&import(wasi), &format!("the module imports 'wasi_snapshot_preview1' 'fd_write'; {valid}"));
    let other = r#"(import "turnpike" "tp_log" (func (param i64)))"#;
    refused(&import(other), "the module imports 'turnpike' 'tp_log' as (i64) -> (); valid: (i32, i32) -> ()");
    let memory = r#"(import "turnpike" "tp_log" (memory 1))"#;
    assert!(refusal(&import(memory)).contains("'tp_log' as a memory; valid: (i32, i32) -> ()"));
}

#[test]
fn what_a_module_says_of_itself_is_checked() {
    let kind = |n: u32| wat(n, &format!(r#"(func (export "tp_kind") (result i32) (i32.const {n}))"#));
    refused(&kind(4), "the module's tp_kind says 4; valid: 1 (capture), 2 (filter), 3 (forwarding)");
    let judges = r#"(func (export "tp_judges") (param i32) (result i32) (i32.const 2))"#;
    refused(&wat(FILTER, judges), "the module's tp_judges says 2; valid: 0 (no), 1 (yes)");
    let forward = r#"(func (export "tp_forward") (param i32) (result i32) (i32.const 0))"#;
    let why = "the module's tp_kind says filter, and tp_forward is exported; \
               valid: forwarding with tp_forward, another kind without it";
    refused(&wat(FILTER, forward), why);
    let no_forward = r#"(func (export "tp_kind") (result i32) (i32.const 3))"#;
    let why = "the module exports no 'tp_forward'; a forwarding extension has to";
    refused(&wat(FILTER, no_forward), why);
    let reasons = |text: &str, len: usize| {
        wat(
            FILTER,
            &format!(
                r#"(data (i32.const 64) "{text}")
                   (func (export "tp_reasons") (result i64) (i64.const {}))"#,
                len << 32 | 64
            ),
        )
    };
    let valid = "valid: words of a-z, 0-9 and '-', at most 48 each, one a line";
    refused(&reasons("no\\1b[2J", 6), &format!(r"the module's tp_reasons says 'no\u{{1b}}[2J'; {valid}"));
    refused(&reasons("Too Old", 7), &format!("the module's tp_reasons says 'Too Old'; {valid}"));
    let long = "x".repeat(49);
    refused(&reasons(&long, 49), &format!("the module's tp_reasons says '{long}'; {valid}"));
    refused(&reasons("old\\nold", 7), "the module's tp_reasons says 'old' twice; valid: each reason once");
    let many: Vec<_> = (0..33).map(|n| format!("r{n}")).collect();
    let many = many.join("\\n");
    let len = many.replace("\\n", "\n").len();
    refused(&reasons(&many, len), "the module's tp_reasons says 32 and more; valid: at most 32 reasons");
    refused(&reasons("old", 1 << 20), "the module failed: tp_reasons gave 1048576 bytes; at most 65536");
    let module = Module::new(&reasons("old\\n2-old", 9)).expect("a module");
    assert_eq!(module.kind(), Kind::Filter);
    assert_eq!(
        module.start(&Value::Null, &Limits::default()).expect("it starts").reasons(),
        ["old", "2-old"]
    );
}

#[test]
fn a_start_that_does_not_end_and_a_bomb_of_memory_or_tables_are_refused() {
    let start = |body: &str| wat(FILTER, &format!("(func $start (loop {body} (br 0))) (start $start)"));
    let fuel = "the module failed: its start did not end: it was stopped after 20000000 units of fuel";
    refused(&start(""), fuel);
    refused(&start("(drop (memory.grow (i32.const 1)))"), fuel);
    refused(&start("(unreachable)"), "the module failed: its start gave up (unreachable)");
    let early = r#"(import "turnpike" "tp_log" (func $log (param i32 i32)))"#;
    let calls = "(func $start (call $log (i32.const 0) (i32.const 1))) (start $start)";
    let why = "the module failed: its start: it called tp_log before it had started";
    refused(&wat_with(FILTER, early, calls), why);
    let huge = |pages: u32| wat(FILTER, &format!(r#"(memory (export "memory") {pages})"#));
    refused(&huge(65536), "the module failed: it begins with 4096 MiB of memory; it may have 256");
    refused(&huge(257), "the module failed: it begins with 17 MiB of memory; it may have 16");
    assert!(start_with(&huge(256), &Value::Null, &Limits::default()).is_ok());
    let why = refusal(&wat(FILTER, "(table 0xffffffff funcref)"));
    assert!(
        why.starts_with("the module failed: its start failed: table minimum size of 4294967295"),
        "{why}"
    );
    let tables = "(table 1 funcref)".repeat(5);
    let why = refusal(&wat(FILTER, &tables));
    assert!(why.starts_with("the module failed: its start failed: "), "{why}");
    let grows = r#"(table $t 1 funcref) (func (export "tp_judges") (param i32) (result i32)
        (loop (br_if 0 (i32.ne (i32.const -1) (table.grow $t (ref.null func) (i32.const 1000)))))
        (i32.gt_u (table.size $t) (i32.const 10000)))"#;
    let instance = start_with(&wat(FILTER, grows), &Value::Null, &Limits::default()).expect("it starts");
    assert!(!instance.judges(vswitch::Direction::Out), "its table has 10,000 entries at most");
}

#[test]
fn memory_ends_where_the_limit_says() {
    let grows = r#"(func (export "tp_status") (param i32) (result i64)
        (loop (br_if 0 (i32.ne (i32.const -1) (memory.grow (i32.const 1)))))
        (i32.store8 (i32.const 64) (i32.add (i32.const 0x30) (i32.div_u (memory.size) (i32.const 16))))
        (i64.const 0x0000000100000040))"#;
    let module = Module::new(&wat(FILTER, grows)).expect("a module");
    for mib in [1, 3, 9] {
        let limits = Limits { memory_mib: mib, ..Limits::default() };
        let instance = module.start(&Value::Null, &limits).expect("it starts");
        assert_eq!(instance.status(None), json!(mib));
    }
}

#[test]
fn limits_are_checked_and_read_from_a_configuration() {
    let module = Module::new(&wat(FILTER, "")).expect("a module");
    let refused = |limits| module.start(&Value::Null, &limits).expect_err("refused").to_string();
    let limits = Limits::default();
    assert_eq!(refused(Limits { memory_mib: 0, ..limits.clone() }), "'memory-mib' is 0; valid: 1 to 256");
    assert_eq!(
        refused(Limits { frame_fuel: 1_000_001, ..limits.clone() }),
        "'frame-fuel' is 1000001; valid: 1000 to 1000000"
    );
    assert_eq!(
        refused(Limits { call_fuel: 999, ..limits.clone() }),
        "'call-fuel' is 999; valid: 1000 to 1000000000"
    );
    let to = vec!["198.18.0.1:9".parse().expect("an address"); 17];
    assert_eq!(refused(Limits { datagrams_to: to, ..limits }), "'datagrams-to' is 17; valid: 0 to 16");
    let read: Limits = serde_json::from_value(json!({"memory-mib": 4, "datagrams-to": ["198.18.0.1:6343"]}))
        .expect("limits");
    assert_eq!((read.memory_mib, read.frame_fuel, read.datagrams_to.len()), (4, 50_000, 1));
    assert!(serde_json::from_value::<Limits>(json!({"memory": 4})).is_err());
}

#[test]
fn settings_that_are_refused_keep_an_instance_from_starting() {
    let set = r#"(data (i32.const 64) "ports: at most 64")
        (func (export "tp_set") (param i32 i32 i32) (result i64)
          (select (i64.const 0) (i64.const 0x0000001100000040) (i32.eq (local.get 2) (i32.const 2))))"#;
    let module = Module::new(&wat(FILTER, set)).expect("a module");
    assert!(module.start(&json!({}), &Limits::default()).is_ok());
    let why = module.start(&json!({"ports": []}), &Limits::default()).expect_err("refused").to_string();
    assert_eq!(why, "the extension refuses its settings: ports: at most 64");
    let none = Module::new(&wat(FILTER, "")).expect("a module");
    let why = none.start(&json!({}), &Limits::default()).expect_err("refused").to_string();
    assert_eq!(why, "the extension refuses its settings: it has no settings");
}
