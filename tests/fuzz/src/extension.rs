//! The host's side of extensions in WebAssembly, against modules that answer anything.
//!
//! Input that begins as a WebAssembly module is loaded as one. Any other input is a script for a module that is ABI 1 in its types only: each of its functions
//! takes the next eight bytes for its answer, and before that, as the byte ahead of them says, calls a function of the host with numbers from the script or
//! writes to its own memory. After the first fault there is a new instance, and the script goes on with it.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use vswitch::extension::change::Edit;
use vswitch::extension::wasm::{Limits, Module};
use vswitch::extension::{
    Change, Counters, Effects, Extension, FailMode, Judgement, MOST_SAVED, PortCounters, Sample, Sight, Slot, Stack,
};
use vswitch::flow::{Forwarder, Plan};
use vswitch::pipeline::Verdict;
use vswitch::port::{Port, PortKind};
use vswitch::snapshot::{Snapshot, SwitchConfig};
use vswitch::state::State;
use vswitch::{Direction, Mac, PortId};

/// The script is at 0x10000 (`tp_restore` puts it there: its buffer), its end at 8, where it is read next at 12.
const SCRIPTED: &str = r#"(module
  (import "turnpike" "tp_log" (func $log (param i32 i32)))
  (import "turnpike" "tp_inject" (func $inject (param i32 i32 i32) (result i32)))
  (import "turnpike" "tp_datagram" (func $datagram (param i32 i32 i32 i32 i32) (result i32)))
  (import "turnpike" "tp_refresh" (func $refresh))
  (import "turnpike" "tp_counters" (func $counters (param i32 i32) (result i32)))
  (memory (export "memory") 3)
  (data (i32.const 16) "one\ntwo\n")
  (global $ready (mut i32) (i32.const 0))
  (func $byte (result i32) (local $at i32)
    (local.set $at (i32.load (i32.const 12)))
    (if (i32.ge_u (local.get $at) (i32.load (i32.const 8))) (then (return (i32.const 0))))
    (i32.store (i32.const 12) (i32.add (local.get $at) (i32.const 1)))
    (i32.load8_u (local.get $at)))
  (func $word (result i32)
    (i32.or (call $byte) (i32.or (i32.shl (call $byte) (i32.const 8))
      (i32.or (i32.shl (call $byte) (i32.const 16)) (i32.shl (call $byte) (i32.const 24))))))
  (func $next (result i64) (local $op i32)
    (local.set $op (i32.and (call $byte) (i32.const 15)))
    (if (i32.eq (local.get $op) (i32.const 1)) (then (call $log (call $word) (call $word))))
    (if (i32.eq (local.get $op) (i32.const 2)) (then (drop (call $inject (call $byte) (call $word) (call $word)))))
    (if (i32.eq (local.get $op) (i32.const 3))
      (then (drop (call $datagram (call $word) (call $byte) (call $word) (call $word) (call $word)))))
    (if (i32.eq (local.get $op) (i32.const 4)) (then (call $refresh)))
    (if (i32.eq (local.get $op) (i32.const 5)) (then (drop (call $counters (call $byte) (call $word)))))
    (if (i32.eq (local.get $op) (i32.const 6)) (then (drop (memory.grow (call $byte)))))
    (if (i32.eq (local.get $op) (i32.const 7)) (then (i32.store8 (call $word) (call $byte))))
    (if (i32.eq (local.get $op) (i32.const 8)) (then (loop (br 0))))
    (if (i32.eq (local.get $op) (i32.const 9)) (then (unreachable)))
    (if (i32.eq (local.get $op) (i32.const 10))
      (then (return (i64.extend_i32_u (i32.and (call $byte) (i32.const 0x23))))))
    (i64.or (i64.extend_i32_u (call $word)) (i64.shl (i64.extend_i32_u (call $word)) (i64.const 32))))
  (func $answer (param i32) (result i32) (i32.wrap_i64 (call $next)))
  (func (export "tp_abi") (result i32) (i32.const 1))
  (func (export "tp_kind") (result i32) (i32.const 3))
  (func (export "tp_reasons") (result i64) (i64.const 0x0000000800000010))
  (func (export "tp_judges") (param i32) (result i32) (i32.const 1))
  (func (export "tp_sampling") (result i32) (i32.const 4))
  (func (export "tp_reflective") (result i32) (i32.const 1))
  (func (export "tp_buffer") (param i32) (result i32)
    (if (i32.eqz (global.get $ready)) (then (return (i32.const 0x10000))))
    (if (result i32) (i32.eq (call $byte) (i32.const 255))
      (then (call $word)) (else (select (i32.const 0x8000) (i32.const 0) (i32.lt_u (local.get 0) (i32.const 0x8000))))))
  (export "tp_judge" (func $answer)) (export "tp_forward" (func $answer))
  (func (export "tp_sample") (param i32) (drop (call $next)))
  (func (export "tp_tick") (param i64) (drop (call $next)))
  (func (export "tp_change") (param i64 i32) (result i64) (call $next))
  (func (export "tp_set") (param i32 i32 i32) (result i64) (call $next))
  (func (export "tp_status") (param i32) (result i64) (call $next))
  (func (export "tp_save") (param i64 i32) (result i64) (call $next))
  (func (export "tp_restore") (param i64 i32 i32 i32) (result i64)
    (if (global.get $ready) (then (return (call $next))))
    (global.set $ready (i32.const 1))
    (i32.store (i32.const 12) (local.get 2))
    (i32.store (i32.const 8) (i32.add (local.get 2) (local.get 3)))
    (i64.const 0)))"#;

struct Some48;

impl Counters for Some48 {
    fn of(&self, port: PortId) -> Option<PortCounters> {
        (port.0 < 3).then(PortCounters::default)
    }
}

fn limits() -> Limits {
    let to = "198.18.0.1:6343".parse().expect("an address");
    let (memory_mib, frame_fuel, call_fuel, frames_per_tick) = (2, 20_000, 50_000, 5);
    Limits { memory_mib, frame_fuel, call_fuel, frames_per_tick, datagrams_to: vec![to] }
}

/// What every instance may be asked; an answer is either within the contract or a fault.
fn exercise(extension: &Arc<dyn Extension>, rounds: u64) -> bool {
    let head: Vec<u8> = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5].into_iter().chain(0..200).collect();
    let guest = |n| Port::new(PortId(n), PortKind::Guest, Mac([2, 0, 0, 0, 0, n as u8]));
    let slot = Slot::new("module", Arc::clone(extension), FailMode::Open, &[]);
    let stack = Arc::new(Stack::new(vec![slot]).expect("a stack of one"));
    let snap = Snapshot::new(1, SwitchConfig::default(), [1, 2].map(guest).into()).with_extensions(stack);
    let (state, mut forwarder) = (State::new(16, 1), Forwarder::new(1, 64));
    let (mut effects, mut plan) = (Effects::default(), Plan::default());
    let value = json!({"ports": [1, 2]});
    for now in 0..rounds {
        let port = PortId(1 + (now % 2) as u16);
        let _ = extension.change(now, &Change::PortCreate { port, name: "web", kind: PortKind::Guest });
        let _ = extension.change(now, &Change::Policy { port, edit: Edit::Add, name: "vlan", value: &value });
        let _ = extension.set(Some(port), Some(&value));
        let _ = extension.status(None);
        let _ = extension.tick(now, &Some48, &mut effects);
        forwarder.begin(&snap, &state, now * 1_000_000_000, PortId(1));
        for len in [214, 60] {
            forwarder.judge(&snap, &state, now * 1_000_000_000, PortId(1), &head[..len], len as u32, &mut plan);
            if let Some(new) = forwarder.take_replaced() {
                assert_eq!(new.bytes().len(), len.min(vswitch::HEAD_LEN));
            }
        }
        let verdict = Verdict::Unicast(PortId(2));
        let sample = Sample { now, from: port, vsid: None, head: &head, len: 214, verdict, pool: now };
        let _ = extension.sample(&sample, &mut effects);
        let mut sight = Sight::new(now, Direction::In, port, &head, 214);
        sight.dry = true;
        let before = effects.clone();
        let answer = extension.judge(&sight, &mut effects);
        assert_eq!(before, effects, "what only asks leaves nothing");
        if let Some(saved) = extension.save(now, port) {
            assert!(saved.len() <= MOST_SAVED);
        }
        let _ = extension.restore(now, port, &[7; 100]);
        effects.append(std::mem::take(forwarder.effects()));
        assert!(effects.take_injected().len() <= Effects::MOST_INJECTED);
        assert!(effects.take_outputs().len() <= Effects::MOST_OUTPUTS);
        if matches!(answer.judgement, Judgement::Fault(_)) {
            let again = extension.tick(now, &Some48, &mut Effects::default());
            assert!(again.is_err(), "a fault stays");
            return false;
        }
    }
    true
}

fuzz_target!(|input: &[u8]| {
    static MODULE: OnceLock<Module> = OnceLock::new();
    if input.starts_with(b"\0asm") {
        if let Ok(module) = Module::new(input)
            && let Ok(extension) = module.start(&Value::Null, &limits())
        {
            exercise(&extension, 3);
        }
        return;
    }
    let module = MODULE.get_or_init(|| {
        Module::new(&wat::parse_str(SCRIPTED).expect("WebAssembly")).expect("a module of ABI 1")
    });
    let mut script = input;
    for _ in 0..4 {
        let extension = module.start(&Value::Null, &limits()).expect("it starts");
        extension.restore(0, PortId(1), script).expect("the script");
        if exercise(&extension, 8) {
            return;
        }
        script = script.get(script.len() / 2..).unwrap_or_default();
    }
});
