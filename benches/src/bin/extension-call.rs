//! Prints what an extension in WebAssembly costs that is asked about every frame, in the switch alone.
//!
//! The module reads protocol and destination port of the frame, looks the port up in a bitmap of 8 KiB in its memory, counts the frame, and lets it
//! pass for itself only (`Scope::Frame`), so that the next one is shown to it too. One JSON object on standard output: nanoseconds
//! of one call with all that is around it (`call_ns`), of a frame of a known flow without an extension and with one, and what follows for one
//! worker (`mpps`). Medians of many batches that are shorter than a time slice, so that other processes do not count.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use vswitch::extension::wasm::{Limits, Module};
use vswitch::extension::{Effects, Extension, FailMode, Sight, Slot, Stack};
use vswitch::flow::{Forwarder, Plan};
use vswitch::pipeline::Verdict;
use vswitch::port::{Port, PortKind};
use vswitch::snapshot::{Snapshot, SwitchConfig};
use vswitch::state::State;
use vswitch::{Direction, Mac, PortId};

const BATCHES: usize = 2001;
const FRAMES: usize = 256;
const LEN: usize = 64;

/// A frame is at 64 (examples/extensions/turnpike.h): its own bytes begin at 106, its protocol is at 129, its destination port at 142.
const MODULE: &str = r#"
(module
  (memory (export "memory") 1)
  (data (i32.const 1024) "unwanted-port")
  (func (export "tp_abi") (result i32) (i32.const 1))
  (func (export "tp_kind") (result i32) (i32.const 2))
  (func (export "tp_reasons") (result i64) (i64.const 0x0000000d00000400))
  (func (export "tp_buffer") (param i32) (result i32) (i32.const 64))
  (func (export "tp_judges") (param i32) (result i32) (i32.eqz (local.get 0)))
  (func (export "tp_judge") (param $frame i32) (result i32)
    (local $port i32)
    (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.const 1)))
    (if (i32.ne (i32.load8_u offset=65 (local.get $frame)) (i32.const 17)) (then (return (i32.const 0x20))))
    (local.set $port (i32.or (i32.shl (i32.load8_u offset=78 (local.get $frame)) (i32.const 8))
                             (i32.load8_u offset=79 (local.get $frame))))
    (if (result i32)
      (i32.and (i32.load8_u offset=2048 (i32.shr_u (local.get $port) (i32.const 3)))
               (i32.shl (i32.const 1) (i32.and (local.get $port) (i32.const 7))))
      (then (i32.const 0x21)) (else (i32.const 0x20)))))
"#;

fn main() {
    let bytes = wat::parse_str(MODULE).expect("the module is WebAssembly");
    let module = Module::new(&bytes).expect("the module is an extension");
    let extension = module.start(&serde_json::Value::Null, &Limits::default()).expect("it starts");
    let call = median((0..BATCHES).map(|_| call(&*extension)).collect());
    let (without, with) = (Switch::new(None), Switch::new(Some(extension)));
    let mut forwarders = [Forwarder::new(1, 1024), Forwarder::new(1, 1024)];
    let [mut plain, mut asked] = [Vec::new(), Vec::new()];
    for _ in 0..BATCHES {
        plain.push(without.batch(&mut forwarders[0]));
        asked.push(with.batch(&mut forwarders[1]));
    }
    let (plain, asked) = (median(plain), median(asked));
    println!(
        "{{\"call_ns\": {call:.1}, \"frame_ns\": {plain:.1}, \"frame_asked_ns\": {asked:.1}, \"mpps\": {:.2}}}",
        1e3 / asked
    );
}

/// Nanoseconds of one judgement.
fn call(extension: &dyn Extension) -> f64 {
    let (frame, mut effects) = (frame(), Effects::default());
    let began = Instant::now();
    for now in 0..FRAMES as u64 {
        let sight = Sight::new(now, Direction::Out, PortId(1), black_box(&frame), LEN as u32);
        black_box(extension.judge(&sight, &mut effects));
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(FRAMES as u32)
}

/// Two guests, and perhaps an extension between them.
struct Switch {
    snap: Snapshot,
    state: State,
}

impl Switch {
    fn new(extension: Option<Arc<dyn Extension>>) -> Self {
        let guest = |n| Port::new(PortId(n), PortKind::Guest, Mac([2, 0, 0, 0, 0, n as u8]));
        let mut snap = Snapshot::new(1, SwitchConfig::default(), [1, 2].map(guest).into());
        if let Some(extension) = extension {
            let slot = Slot::new("ports", extension, FailMode::Closed, &[]);
            snap = snap.with_extensions(Arc::new(Stack::new(vec![slot]).expect("a stack of one")));
        }
        Self { snap, state: State::new(64, 1) }
    }

    /// Nanoseconds of one frame of a known flow.
    fn batch(&self, forwarder: &mut Forwarder) -> f64 {
        let (frame, mut plan) = (frame(), Plan::default());
        let began = Instant::now();
        for _ in 0..FRAMES / 64 {
            forwarder.begin(&self.snap, &self.state, 1, PortId(1));
            for _ in 0..64 {
                let head = black_box(&frame);
                let verdict =
                    forwarder.judge(&self.snap, &self.state, 1, PortId(1), head, LEN as u32, &mut plan);
                assert_eq!(verdict, Verdict::Unicast(PortId(2)));
                black_box(&plan);
            }
        }
        began.elapsed().as_secs_f64() * 1e9 / f64::from(FRAMES as u32)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A UDP frame of 64 bytes from the first guest to the second.
fn frame() -> [u8; LEN] {
    let mut frame = [0; LEN];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    frame[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, LEN as u8 - 14]);
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[26..34].copy_from_slice(&[198, 18, 0, 1, 198, 18, 0, 2]);
    frame[34..40].copy_from_slice(&[0x9c, 0x40, 0x13, 0x88, 0, LEN as u8 - 34]);
    frame
}
