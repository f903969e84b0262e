//! Modules as text, and a small switch for them to stand in beside a neighbour that must not notice.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use vswitch::extension::wasm::{Limits, Module, ModuleError};
use vswitch::extension::{Added, Answer, Effects, Extension, FailMode, Kind, Sight, Slot, Stack};
use vswitch::flow::{Forwarder, Plan};
use vswitch::pipeline::Verdict;
use vswitch::snapshot::{Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::{Direction, PortId, Tally};

use crate::support::{SECOND, frame, guest, mac_of};

pub(super) const CAPTURE: u32 = 1;
pub(super) const FILTER: u32 = 2;
pub(super) const FORWARDING: u32 = 3;

/// What a module has unless its own text has it: by name, and text.
const USUAL: [(&str, &str); 6] = [
    ("tp_abi", r#"(func (export "tp_abi") (result i32) (i32.const 1))"#),
    ("memory", r#"(memory (export "memory") 2)"#),
    (
        "tp_buffer",
        r#"(func (export "tp_buffer") (param i32) (result i32)
             (select (i32.const 1024) (i32.const 0) (i32.le_u (local.get 0) (i32.const 100000))))"#,
    ),
    (
        "tp_reasons",
        r#"(data (i32.const 16) "unwanted\ntoo-old\n")
           (func (export "tp_reasons") (result i64) (i64.const 0x0000001100000010))"#,
    ),
    ("tp_judges", r#"(func (export "tp_judges") (param i32) (result i32) (i32.const 1))"#),
    ("tp_judge", r#"(func (export "tp_judge") (param i32) (result i32) (i32.const 0))"#),
];

/// A module of a kind. `imports` come first in its text, `body` last; what it lacks for ABI 1 is added.
pub(super) fn wat_with(kind: u32, imports: &str, body: &str) -> Vec<u8> {
    let mut text = format!("(module {imports}\n");
    for (name, usual) in USUAL {
        if !body.contains(&format!("(export \"{name}\")")) {
            text += usual;
        }
    }
    if !body.contains("tp_kind") {
        let _ = write!(text, r#"(func (export "tp_kind") (result i32) (i32.const {kind}))"#);
    }
    if kind == FORWARDING && !body.contains("tp_forward") {
        text += r#"(func (export "tp_forward") (param i32) (result i32) (i32.const 0))"#;
    }
    text += body;
    text += ")";
    wat::parse_str(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

pub(super) fn wat(kind: u32, body: &str) -> Vec<u8> {
    wat_with(kind, "", body)
}

/// A filter whose `tp_judge` has this body (local 0 = the frame, 1 and 2 = spare numbers).
pub(super) fn judging(imports: &str, body: &str) -> Vec<u8> {
    let judge = format!(
        r#"(func $judge (export "tp_judge") (param i32) (result i32) (local i32) (local i64) {body})"#
    );
    wat_with(FILTER, imports, &judge)
}

pub(super) fn start(bytes: &[u8]) -> Arc<dyn Extension> {
    start_with(bytes, &Value::Null, &Limits::default()).expect("an instance")
}

pub(super) fn start_with(
    bytes: &[u8],
    config: &Value,
    limits: &Limits,
) -> Result<Arc<dyn Extension>, ModuleError> {
    Module::new(bytes)?.start(config, limits)
}

/// Why bytes are refused.
pub(super) fn refusal(bytes: &[u8]) -> String {
    start_with(bytes, &Value::Null, &Limits::default()).expect_err("refused").to_string()
}

/// A filter that asks to see each frame and lets it pass.
#[derive(Debug, Default)]
pub(super) struct Neighbour(pub(super) AtomicU32);

impl Extension for Neighbour {
    fn kind(&self) -> Kind {
        Kind::Filter
    }

    fn judges(&self, direction: Direction) -> bool {
        direction == Direction::Out
    }

    fn judge(&self, _: &Sight<'_>, _: &mut Effects) -> Answer {
        self.0.fetch_add(1, Ordering::Relaxed);
        Answer::PASS_ONE
    }
}

/// Ports 1 to 3, and in this order: a neighbour, the modules (as `m0`, `m1`, …), another neighbour.
pub(super) struct Bench {
    pub(super) snap: Snapshot,
    pub(super) state: State,
    pub(super) forwarder: Forwarder,
    pub(super) neighbours: [Arc<Neighbour>; 2],
}

impl Bench {
    pub(super) fn new(modules: &[Arc<dyn Extension>], fail: FailMode) -> Self {
        let neighbours: [Arc<Neighbour>; 2] = Default::default();
        let slot = |neighbour: &Arc<Neighbour>, name| {
            Slot::new(name, Arc::clone(neighbour) as Arc<dyn Extension>, FailMode::Open, &[])
        };
        let mut slots = vec![slot(&neighbours[0], "above")];
        slots.extend(
            modules.iter().enumerate().map(|(n, module)| {
                Slot::new(&format!("m{n}"), Arc::clone(module), fail, &[Tally(7), Tally(8)])
            }),
        );
        slots.push(slot(&neighbours[1], "below"));
        let stack = Stack::new(slots).expect("a stack");
        let config = SwitchConfig { kind: SwitchKind::Private, ..SwitchConfig::default() };
        let ports = vec![guest(1), guest(2), guest(3)];
        let snap = Snapshot::new(1, config, ports).with_extensions(Arc::new(stack));
        Self { snap, state: State::new(64, 7), forwarder: Forwarder::new(3, 64), neighbours }
    }

    /// Sends one frame from port 1 to port `to`.
    pub(super) fn send(&mut self, to: u16, at: u64) -> (Verdict, Plan) {
        let bytes = example(to);
        let mut plan = Plan::default();
        self.forwarder.begin(&self.snap, &self.state, at, PortId(1));
        let verdict = self.forwarder.judge(
            &self.snap,
            &self.state,
            at,
            PortId(1),
            &bytes,
            bytes.len() as u32,
            &mut plan,
        );
        (verdict, plan)
    }

    /// Sends what an extension added.
    pub(super) fn send_added(&mut self, added: &Added) -> Verdict {
        let Added { place, makers, injection } = added;
        let (from, head) = (injection.from.unwrap_or(PortId::SWITCH), &injection.frame);
        let (len, above, mut plan) = (head.len() as u32, u32::from(*place) + 1, Plan::default());
        self.forwarder.effects().descend(*makers);
        let (snap, state) = (&self.snap, &self.state);
        let verdict = self.forwarder.judge_below(snap, state, SECOND, from, above, head, len, &mut plan);
        self.forwarder.effects().descend(0);
        verdict
    }

    pub(super) fn slot(&self, name: &str) -> &Slot {
        self.snap.extensions().and_then(|stack| stack.slot(name)).expect("it is in the stack")
    }

    /// How often each neighbour was asked.
    pub(super) fn asked(&self) -> [u32; 2] {
        [0, 1].map(|n| self.neighbours[n].0.load(Ordering::Relaxed))
    }
}

/// A frame of 64 bytes from port 1, of an EtherType for experiments (IEEE 802).
pub(super) fn example(to: u16) -> Vec<u8> {
    let mut bytes = frame(mac_of(to), mac_of(1), None);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes
}

/// A module's judgement of the example, straight from it.
pub(super) fn judge(instance: &dyn Extension, effects: &mut Effects) -> Answer {
    let bytes = example(2);
    instance.judge(&Sight::new(9, Direction::Out, PortId(1), &bytes, bytes.len() as u32), effects)
}

/// What its next judgement says that went wrong.
pub(super) fn fault(instance: &dyn Extension) -> String {
    match judge(instance, &mut Effects::default()).judgement {
        vswitch::extension::Judgement::Fault(why) => why,
        other => panic!("{other:?}"),
    }
}
