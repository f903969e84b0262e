//! What each function of ABI 1 is given and what its answers mean.

use serde_json::{Value, json};
use vswitch::extension::change::Edit;
use vswitch::extension::wasm::{Limits, Module};
use vswitch::extension::{
    Answer, Change, Counters, Destination, Effects, FailMode, Injection, Judgement, PortCounters, Reason,
    Sample, Scope, Sight,
};
use vswitch::pipeline::Verdict;
use vswitch::port::PortKind;
use vswitch::trace::DropReason;
use vswitch::{Direction, HEAD_LEN, Mac, PortId, Tally};

use super::support::*;
use crate::support::SECOND;

/// Counters of the ports 1 to this.
pub(super) struct Ports(pub(super) u16);

impl Counters for Ports {
    fn of(&self, port: PortId) -> Option<PortCounters> {
        let n = u64::from(port.0);
        let counters = PortCounters {
            out_packets: n,
            out_bytes: n * 64,
            out_drops: 1,
            in_packets: n + 1,
            in_bytes: 99,
            in_drops: 2,
        };
        (port.0 <= self.0).then_some(counters)
    }
}

const SAVE: &str = r#"(func (export "tp_save") (param i64 i32) (result i64) (i64.const 0x000000f000000400))
    (func (export "tp_restore") (param i64 i32 i32 i32) (result i64) (i64.const 0))"#;

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(number)
}

#[test]
fn s15_2_a_frame_is_shown_with_all_that_is_known_of_it() {
    // What it saves is the frame that it was shown last: its buffer is at 1024.
    let instance = start(&wat(FILTER, SAVE));
    let head: Vec<u8> = (0..=255).collect();
    let mut sight = Sight::new(0x0102_0304_0506_0708, Direction::In, PortId(0x102), &head, 9000);
    (sight.from, sight.vsid, sight.dry) = (Some(PortId(0x304)), Some(0x0050_0102), true);
    assert_eq!(instance.judge(&sight, &mut Effects::default()), Answer::PASS);
    let frame = instance.save(1, PortId(1)).expect("240 bytes");
    assert_eq!(number::<8>(&frame, 0), 0x0102_0304_0506_0708);
    assert_eq!((number::<4>(&frame, 16), number::<4>(&frame, 20)), (9000, HEAD_LEN as u64));
    assert_eq!(number::<4>(&frame, 24), 0x0050_0102);
    assert_eq!(
        (number::<2>(&frame, 28), number::<2>(&frame, 30), number::<2>(&frame, 32)),
        (0x102, 0x304, 0)
    );
    assert_eq!(frame[34..42], [1, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(frame[42..42 + HEAD_LEN], head[..HEAD_LEN]);

    let short = example(2);
    instance.judge(&Sight::new(7, Direction::Out, PortId(3), &short, 64), &mut Effects::default());
    let frame = instance.save(1, PortId(1)).expect("240 bytes");
    assert_eq!((number::<8>(&frame, 0), number::<4>(&frame, 20), number::<2>(&frame, 30)), (7, 64, 0));
    assert_eq!(frame[34..42], [0; 8]);
    assert_eq!(frame[42..106], short);
}

#[test]
fn s19_a_sample_is_shown_with_what_became_of_it() {
    let sampling = r#"(func (export "tp_sampling") (result i32) (i32.const 400))
        (func (export "tp_sample") (param i32))"#;
    let instance = start(&wat(CAPTURE, &format!("{sampling} {SAVE}")));
    assert_eq!(instance.sampling(), 400);
    let flood = vswitch::snapshot::FloodSet::Members;
    for (verdict, code, to) in [
        (Verdict::Drop(DropReason::ExtensionFiltered), 1, 0),
        (Verdict::Refuse(DropReason::ExtensionFiltered, PortId(5)), 2, 5),
        (Verdict::Unicast(PortId(7)), 3, 7),
        (Verdict::Flood(flood), 4, 0),
        (Verdict::Answer, 5, 0),
    ] {
        let head = example(2);
        let from = PortId(1);
        let sample = Sample { now: 9, from, vsid: None, head: &head, len: 64, verdict, pool: 1 << 40 };
        instance.sample(&sample, &mut Effects::default()).expect("no fault");
        let frame = instance.save(1, PortId(1)).expect("240 bytes");
        assert_eq!((number::<8>(&frame, 8), number::<2>(&frame, 28)), (1 << 40, 1));
        assert_eq!((number::<2>(&frame, 32), frame[36]), (to, code));
    }
}

/// What an answer means, written the slow way.
fn meaning(answer: u32) -> Option<(u32, Scope, u8, u16)> {
    let (what, scope) = (answer % 16, answer / 16 % 16);
    let scope = [Scope::Flow, Scope::Second, Scope::Frame].get(scope as usize)?;
    Some((what, *scope, (answer / 256 % 256) as u8, (answer / 65536) as u16))
}

#[test]
fn s15_2_every_answer_means_what_the_abi_says_or_is_a_fault() {
    // It answers with its tick's number.
    let module = Module::new(&wat(
        FORWARDING,
        r#"(func (export "tp_tick") (param i64) (i64.store (i32.const 8) (local.get 0)))
           (func (export "tp_judge") (param i32) (result i32) (i32.load (i32.const 8)))
           (func (export "tp_forward") (param i32) (result i32) (i32.load (i32.const 8)))"#,
    ))
    .expect("a module");
    let start = || module.start(&Value::Null, &Limits::default()).expect("an instance");
    let answers = (0..0x1000).chain((0..0x80).map(|n| n | 5 << 16)).chain([u32::MAX, 1 << 31]);
    let (mut judging, mut forwarding) = (start(), start());
    let (head, mut effects) = (example(2), Effects::default());
    for answer in answers {
        let judgement = meaning(answer).and_then(|parts| match parts {
            (0, scope, 0, 0) => Some(Answer { judgement: Judgement::Pass, scope }),
            (1, scope, why, 0) => Some(Answer { judgement: Judgement::Drop(Reason(why)), scope }),
            (2, scope, 0, 0) => {
                let same = Box::new(vswitch::extension::Head::new(&head));
                Some(Answer { judgement: Judgement::Replace(same), scope })
            }
            _ => None,
        });
        judging.tick(answer.into(), &Ports(0), &mut effects).expect("no fault");
        let said = judge(&*judging, &mut effects);
        if let Some(expected) = judgement {
            assert_eq!(said, expected, "{answer:#x}");
        } else {
            assert!(matches!(said.judgement, Judgement::Fault(_)), "{answer:#x}: {said:?}");
            judging = start();
        }
        let destination = meaning(answer).and_then(|parts| match parts {
            (0, scope, 0, 0) => Some((Destination::Native, scope)),
            (1, scope, why, 0) => Some((Destination::Drop(Reason(why)), scope)),
            (3, scope, 0, port @ 1..) => Some((Destination::Port(PortId(port)), scope)),
            (4, scope, 0, 0) => Some((Destination::All, scope)),
            _ => None,
        });
        forwarding.tick(answer.into(), &Ports(0), &mut effects).expect("no fault");
        let sight = Sight::new(9, Direction::Out, PortId(1), &head, 64);
        let said = forwarding.forward(&sight, &mut effects);
        assert_eq!(said.clone().ok(), destination, "{answer:#x}: {said:?}");
        if said.is_err() {
            forwarding = start();
        }
    }
}

#[test]
fn s15_2_a_module_drops_on_its_own_account_and_changes_what_it_was_shown() {
    let by_type = judging(
        "",
        "(if (i32.eq (i32.load8_u offset=47 (local.get 0)) (i32.const 3)) (then (return (i32.const 0x101))))
         (i32.store8 offset=47 (local.get 0) (i32.const 3)) (i32.const 2)",
    );
    let mut bench = Bench::new(&[start(&by_type)], FailMode::Open);
    let (verdict, plan) = bench.send(3, SECOND);
    assert_eq!(verdict, Verdict::Drop(DropReason::ExtensionFiltered));
    assert_eq!(plan.actions.out.tallies[2], Tally(8), "that of its second reason");
    assert_eq!(bench.slot("m0").fault(), None);
}

#[test]
fn s15_3_a_change_is_told_with_its_name_and_its_value() {
    let save = r#"(func (export "tp_save") (param i64 i32) (result i64) (i64.const 0x0000004000000400))
        (func (export "tp_restore") (param i64 i32 i32 i32) (result i64) (i64.const 0))
        (func (export "tp_change") (param i64 i32) (result i64) (i64.const 0))"#;
    let instance = start(&wat(CAPTURE, save));
    let told = |change: &Change<'_>| {
        instance.change(1, change).expect("no veto");
        instance.save(1, PortId(1)).expect("64 bytes")
    };
    let bytes = told(&Change::PortCreate { port: PortId(0x102), name: "web", kind: PortKind::Uplink });
    assert_eq!((number::<4>(&bytes, 0), number::<4>(&bytes, 4), number::<4>(&bytes, 16)), (1, 0x102, 3));
    assert_eq!((number::<4>(&bytes, 20), number::<4>(&bytes, 24), &bytes[28..31]), (3, 0, &b"web"[..]));
    let value = json!("access:7");
    let bytes = told(&Change::Policy { port: PortId(2), edit: Edit::Update, name: "vlan", value: &value });
    assert_eq!((number::<4>(&bytes, 0), number::<4>(&bytes, 20), number::<4>(&bytes, 24)), (3, 4, 10));
    assert_eq!(&bytes[28..42], b"vlan\"access:7\"");
    let bytes = told(&Change::NicCreate { port: PortId(2), mac: Mac([2, 3, 4, 5, 6, 7]), mtu: 9000 });
    assert_eq!(
        (number::<4>(&bytes, 0), &bytes[8..14], number::<2>(&bytes, 14)),
        (6, &[2, 3, 4, 5, 6, 7][..], 9000)
    );
    let long = json!("x".repeat(70_000));
    let bytes = told(&Change::Switch { name: "rx", value: &long });
    assert_eq!((number::<4>(&bytes, 0), number::<4>(&bytes, 4)), (5, 0));
    assert_eq!((number::<4>(&bytes, 20), number::<4>(&bytes, 24)), (2, 0xffff_ffff), "there was no room");
    assert_eq!(judge(&*instance, &mut Effects::default()), Answer::PASS);
}

#[test]
fn s15_3_settings_and_status_are_json_and_name_the_port() {
    let module = r#"(global $len (mut i32) (i32.const 0)) (global $at (mut i32) (i32.const 0))
        (func (export "tp_set") (param i32 i32 i32) (result i64)
          (global.set $at (local.get 1)) (global.set $len (local.get 2))
          (i32.store (i32.const 8) (local.get 0)) (i64.const 0))
        (func (export "tp_status") (param i32) (result i64)
          (if (i32.ne (local.get 0) (i32.load (i32.const 8))) (then (return (i64.const 0))))
          (i64.or (i64.shl (i64.extend_i32_u (global.get $len)) (i64.const 32))
                  (i64.extend_i32_u (global.get $at))))"#;
    let instance = start(&wat(FILTER, module));
    let settings = json!({"ports": [53, 5353], "note": "\u{1b}"});
    for (port, other) in [(None, Some(PortId(4))), (Some(PortId(4)), None)] {
        instance.set(port, Some(&settings)).expect("settings");
        assert_eq!(instance.status(port), settings);
        assert_eq!(instance.status(other), Value::Null);
        instance.set(port, None).expect("none any more");
        assert_eq!(instance.status(port), Value::Null);
    }
    let long = json!("x".repeat(70_000));
    let refused = instance.set(None, Some(&long)).expect_err("too long");
    assert_eq!(refused.to_string(), "it has no room for settings of 70002 bytes");
    assert_eq!(instance.set(None, Some(&settings)), Ok(()), "and that was no fault");
}

#[test]
fn s15_a_tick_gives_the_counters_of_the_ports_it_heard_of() {
    let imports = r#"(import "turnpike" "tp_counters" (func $counters (param i32 i32) (result i32)))"#;
    let tick = r#"(func (export "tp_tick") (param i64)
          (i32.store (i32.const 1024) (call $counters (i32.const 1) (i32.const 1032)))
          (i32.store (i32.const 1028) (call $counters (i32.const 2) (i32.const 1080))))
        (func (export "tp_change") (param i64 i32) (result i64) (i64.const 0))"#;
    let instance = start(&wat_with(CAPTURE, imports, &format!("{tick} {SAVE}")));
    for n in [1, 2, 3] {
        let change = Change::PortCreate { port: PortId(n), name: "p", kind: PortKind::Guest };
        instance.change(1, &change).expect("no veto");
    }
    let tick = |ports| {
        instance.tick(1, &Ports(ports), &mut Effects::default()).expect("no fault");
        instance.save(1, PortId(1)).expect("240 bytes")
    };
    let bytes = tick(3);
    assert_eq!((number::<4>(&bytes, 0), number::<4>(&bytes, 4)), (1, 1));
    let numbers: Vec<_> = (0..6).map(|n| number::<8>(&bytes, 56 + 8 * n)).collect();
    assert_eq!(numbers, [2, 128, 1, 3, 99, 2]);
    instance.change(1, &Change::PortDelete { port: PortId(1) }).expect("no veto");
    assert_eq!(number::<8>(&tick(3), 0), 1 << 32, "the second only");
    assert_eq!(number::<8>(&tick(1), 0), 0, "none");
}

#[test]
fn s15_1_instances_of_one_module_know_nothing_of_each_other() {
    let counts = wat(
        FILTER,
        r#"(func (export "tp_judge") (param i32) (result i32)
             (i32.store8 (i32.const 64) (i32.add (i32.const 1) (i32.load8_u (i32.const 64)))) (i32.const 0))
           (data (i32.const 64) "0")
           (func (export "tp_status") (param i32) (result i64) (i64.const 0x0000000100000040))"#,
    );
    let module = Module::new(&counts).expect("a module");
    let start = || module.start(&Value::Null, &Limits::default()).expect("an instance");
    let (one, other) = (start(), start());
    for _ in 0..3 {
        judge(&*one, &mut Effects::default());
    }
    assert_eq!((one.status(None), other.status(None), start().status(None)), (json!(3), json!(0), json!(0)));
}

#[test]
fn h27_a_frame_costs_no_allocation_once_the_instance_runs() {
    let instance = start(&judging("", "(i32.const 0x20)"));
    let mut effects = Effects::default();
    judge(&*instance, &mut effects);
    let head = example(2);
    let used = allocation_counter::measure(|| {
        for now in 0..100 {
            let sight = Sight::new(now, Direction::Out, PortId(1), &head, 64);
            assert_eq!(instance.judge(&sight, &mut effects), Answer::PASS_ONE);
        }
    });
    assert_eq!(used.count_total, 0);
    let injection = Injection { from: Some(PortId(1)), frame: head };
    assert!(effects.inject(injection), "what it is given stays usable");
}

#[test]
fn fuel_ends_a_call_at_the_same_instruction_each_time() {
    let spins = judging(
        "",
        "(loop (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.const 1)))
               (br_if 0 (i64.lt_u (i64.load (i32.const 8)) (i64.const 700)))) (i32.const 0)",
    );
    let module = Module::new(&spins).expect("a module");
    let ends = |frame_fuel| {
        let limits = Limits { frame_fuel, ..Limits::default() };
        let instance = module.start(&Value::Null, &limits).expect("an instance");
        judge(&*instance, &mut Effects::default()) == Answer::PASS
    };
    let (mut less, mut least) = (1000, 100_000);
    while less + 1 < least {
        let middle = u64::midpoint(less, least);
        if ends(middle) { least = middle } else { less = middle }
    }
    assert!((700 * 8..700 * 16).contains(&least), "{least}");
    assert!(!ends(least - 1) && ends(least) && ends(least + 1));
}
