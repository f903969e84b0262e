//! Modules that want too much: frames, lines, datagrams, changes, vetoes. What is allowed of it happens, the rest is counted, and frames go on.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use vswitch::extension::wasm::Limits;
use vswitch::extension::{Change, Effects, FailMode, Output, Sight};
use vswitch::pipeline::Verdict;
use vswitch::trace::DropReason;
use vswitch::{Direction, Mac, PortId};

use super::abi::Ports;
use super::support::*;
use crate::support::SECOND;

/// Adds a copy of each frame that it sees, as of the port that sent it; asks for the next one too.
fn cloning(times: u32) -> Vec<u8> {
    let imports = r#"(import "turnpike" "tp_inject" (func $inject (param i32 i32 i32) (result i32)))"#;
    judging(
        imports,
        &format!(
            "(local.set 1 (i32.const {times}))
             (loop
               (drop (call $inject (i32.load16_u offset=28 (local.get 0))
                                   (i32.add (local.get 0) (i32.const 42)) (i32.load offset=20 (local.get 0))))
               (br_if 0 (local.tee 1 (i32.sub (local.get 1) (i32.const 1)))))
             (i32.const 0x20)"
        ),
    )
}

#[test]
fn s15_2_an_injection_storm_ends_at_the_bound_and_is_counted() {
    let mut bench = Bench::new(&[start(&cloning(100))], FailMode::Closed);
    assert_eq!(bench.send(2, SECOND).0, Verdict::Unicast(PortId(2)));
    assert_eq!(bench.asked(), [1, 1]);
    let effects = bench.forwarder.effects();
    let injected = effects.take_injected();
    assert_eq!(injected.len(), Effects::MOST_INJECTED);
    assert!(injected.iter().all(|one| one.place == 1
        && one.makers == 1 << 1
        && one.injection.from == Some(PortId(1))
        && one.injection.frame == example(2)));
    // It is asked about the frame as it leaves port 1 and as it comes to port 2.
    let refused: Vec<_> = effects.take_refused().collect();
    assert_eq!(refused, [(1, 200 - Effects::MOST_INJECTED as u64)]);
    assert!(effects.is_empty());
    assert_eq!(bench.slot("m0").fault(), None);
}

#[test]
fn s15_2_extensions_that_clone_their_own_and_each_others_frames_come_to_an_end() {
    let limits = Limits { frames_per_tick: 20, ..Limits::default() };
    let module = || start_with(&cloning(1), &Value::Null, &limits).expect("an instance");
    let modules = [module(), module(), module()];
    let mut bench = Bench::new(&modules, FailMode::Open);
    bench.send(2, SECOND);
    let run = |bench: &mut Bench| {
        let mut added = 0;
        loop {
            let injected = bench.forwarder.effects().take_injected();
            if injected.is_empty() {
                return added;
            }
            for added_one in injected {
                added += 1;
                assert!(added < 1000, "it does not end");
                bench.send_added(&added_one);
            }
        }
    };
    // A burst holds fewer of them than they add, so one frame does not use up all that they may.
    let spend = |bench: &mut Bench| {
        let frames = (0..20).map(|_| {
            bench.send(2, SECOND);
            run(bench)
        });
        frames.collect::<Vec<_>>()
    };
    let added = spend(&mut bench);
    assert!((1..=60).contains(&added[0]) && (20..=60).contains(&added.iter().sum::<u32>()), "{added:?}");
    assert_eq!(spend(&mut bench), [0; 20], "until the next tick");
    for module in &modules {
        module.tick(2, &Ports(0), &mut Effects::default()).expect("no fault");
    }
    let again = spend(&mut bench);
    assert!((20..=60).contains(&again.iter().sum::<u32>()), "{again:?}");
}

#[test]
fn s15_2_a_frame_that_is_changed_to_garbage_is_judged_as_garbage() {
    let garbage = judging(
        "",
        "(memory.fill (i32.add (local.get 0) (i32.const 42)) (i32.const 255) (i32.const 64)) (i32.const 0x22)",
    );
    let mut bench = Bench::new(&[start(&garbage)], FailMode::Open);
    let (verdict, _) = bench.send(2, SECOND);
    assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?}");
    assert_ne!(verdict, Verdict::Drop(DropReason::ExtensionFailed));
    assert_eq!(bench.forwarder.take_replaced().expect("a new beginning").bytes(), [255; 64]);
    assert_eq!(bench.slot("m0").fault(), None, "what a frame is, is policy's business");
    assert_eq!(bench.slot("m0").activity().replaced.load(Ordering::Relaxed), 1);
}

#[test]
fn s15_1_forwarding_to_a_port_that_is_gone_drops_and_a_wrong_answer_is_a_fault() {
    let to = |answer: u32| {
        let forward =
            format!(r#"(func (export "tp_forward") (param i32) (result i32) (i32.const {answer}))"#);
        start(&wat(FORWARDING, &forward))
    };
    let sent = |answer| {
        let mut bench = Bench::new(&[to(answer)], FailMode::Open);
        let verdict = bench.send(2, SECOND).0;
        (verdict, bench.slot("m0").fault().map(str::to_owned))
    };
    assert_eq!(sent(0x0009_0003), (Verdict::Drop(DropReason::ReceiverNotRunning), None));
    assert_eq!(sent(0x0003_0003), (Verdict::Unicast(PortId(3)), None));
    assert_eq!(sent(0), (Verdict::Unicast(PortId(2)), None));
    assert_eq!(sent(1), (Verdict::Drop(DropReason::ExtensionFiltered), None));
    let native = Verdict::Unicast(PortId(2));
    for (answer, why) in [
        (0x3, "tp_forward: answer 0x3 sends to port 0; ports begin with 1"),
        (
            0x2,
            "tp_forward: answer 0x2 says 2; valid: 0 (as the switch does), 1 (drop), 3 (one port), 4 (all)",
        ),
        (0x1_0004, "tp_forward: answer 0x10004 has bits that its 4 does not have"),
        (0x901, "it dropped a frame for reason 9, of 2"),
    ] {
        assert_eq!(sent(answer), (native, Some(why.into())));
    }
}

#[test]
fn s15_3_who_vetoes_everything_is_heard_each_time_with_its_reason() {
    let change = r#"(data (i32.const 64) "never")
        (func (export "tp_change") (param i64 i32) (result i64) (i64.const 0x0000000500000040))"#;
    let instance = start(&wat(FILTER, change));
    let value = json!("access:7");
    let (port, mac) = (PortId(1), Mac([2, 0, 0, 0, 0, 1]));
    for change in [
        Change::PortCreate { port, name: "web", kind: vswitch::port::PortKind::Guest },
        Change::Policy { port, edit: vswitch::extension::change::Edit::Add, name: "vlan", value: &value },
        Change::Switch { name: "rx-wait-us", value: &value },
        Change::NicCreate { port, mac, mtu: 1500 },
        Change::NicDisconnect { port },
        Change::PortDelete { port },
    ] {
        assert_eq!(instance.change(1, &change).expect_err("vetoed").to_string(), "never");
    }
    let mut bench = Bench::new(&[instance], FailMode::Closed);
    assert_eq!(bench.send(2, SECOND).0, Verdict::Unicast(PortId(2)), "it works on");
}

#[test]
fn lines_of_a_log_are_short_clean_and_ten_between_two_ticks() {
    let imports = r#"(import "turnpike" "tp_log" (func $log (param i32 i32)))"#;
    let body = r#"(data (i32.const 64) "\1b[2Jhello") (func (export "tp_tick") (param i64) (local i32)
               (loop (call $log (i32.const 64) (i32.const 2000))
                 (br_if 0 (i32.lt_u (local.tee 1 (i32.add (local.get 1) (i32.const 1))) (i32.const 25)))))"#;
    let instance = start(&wat_with(CAPTURE, imports, body));
    for tick in 0..2 {
        let mut effects = Effects::default();
        effects.begin(3);
        instance.tick(tick, &Ports(0), &mut effects).expect("no fault");
        let outputs = effects.take_outputs();
        assert_eq!(outputs.len(), 10);
        for (place, output) in outputs {
            let Output::Log(line) = output else { panic!("{output:?}") };
            assert!(place == 3 && line.starts_with(" [2Jhello") && line.len() == 256, "{line:?}");
        }
        assert_eq!(effects.take_refused().collect::<Vec<_>>(), [(3, 15)]);
    }
}

#[test]
fn datagrams_go_where_the_limits_say_and_nowhere_else() {
    let imports =
        r#"(import "turnpike" "tp_datagram" (func $send (param i32 i32 i32 i32 i32) (result i32)))"#;
    let body = r#"(data (i32.const 64) "\c6\12\00\01") (data (i32.const 80) "payload")
        (func (export "tp_tick") (param i64)
          (drop (call $send (i32.const 64) (i32.const 4) (i32.const 6343) (i32.const 80) (i32.const 7)))
          (drop (call $send (i32.const 64) (i32.const 4) (i32.const 22) (i32.const 80) (i32.const 7)))
          (drop (call $send (i32.const 80) (i32.const 16) (i32.const 6343) (i32.const 80) (i32.const 7))))"#;
    let bytes = wat_with(CAPTURE, imports, body);
    let to = "198.18.0.1:6343".parse().expect("an address");
    let limits = Limits { datagrams_to: vec![to], ..Limits::default() };
    for (limits, sent) in [(limits, 1), (Limits::default(), 0)] {
        let instance = start_with(&bytes, &Value::Null, &limits).expect("an instance");
        let mut effects = Effects::default();
        instance.tick(1, &Ports(0), &mut effects).expect("no fault");
        let datagrams: Vec<_> = effects.take_outputs().into_iter().map(|(_, output)| output).collect();
        let expected = Output::Datagram { to, bytes: b"payload".to_vec() };
        assert_eq!(datagrams, vec![expected; sent]);
        assert_eq!(effects.take_refused().map(|(_, count)| count).sum::<u64>(), 3 - sent as u64);
    }
}

#[test]
fn answers_are_taken_back_once_and_by_those_who_may_remember() {
    let imports = r#"(import "turnpike" "tp_refresh" (func $refresh))"#;
    let set = r#"(func (export "tp_set") (param i32 i32 i32) (result i64) (call $refresh) (i64.const 0))"#;
    let instance = start(&wat_with(FILTER, imports, set));
    instance.set(None, Some(&json!({}))).expect("settings");
    let mut dry = Effects::default();
    let head = example(2);
    let mut sight = Sight::new(1, Direction::Out, PortId(1), &head, 64);
    sight.dry = true;
    instance.judge(&sight, &mut dry);
    assert!(dry.is_empty(), "what only asks takes nothing along");
    let mut effects = Effects::default();
    judge(&*instance, &mut effects);
    assert!(effects.take_refresh());
    judge(&*instance, &mut effects);
    assert!(!effects.take_refresh());
}
