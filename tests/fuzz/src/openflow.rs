//! The OpenFlow agent, against controllers that say anything.
//!
//! The input is what a controller says after its greeting, as it comes; where its length field is, each message has the right one if the first byte of
//! the input is odd, so that the fuzzer is not kept busy with framing. Then frames go through what the table has become.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use vswitch::extension::builtin;
use vswitch::extension::{Change, Counters, Effects, Heard, Output, PortCounters, Sight};
use vswitch::port::PortKind;
use vswitch::{Direction, PortId};

struct Some1;

impl Counters for Some1 {
    fn of(&self, port: PortId) -> Option<PortCounters> {
        (port.0 < 3).then(PortCounters::default)
    }
}

/// Messages with their lengths put right: each is as long as its second byte and its fourth say, at most what is left.
fn framed(input: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), input);
    while let [kind, len, body @ ..] = rest {
        let take = usize::from(*len).min(body.len());
        let total = (take + 8) as u16;
        out.extend_from_slice(&[4, *kind, (total >> 8) as u8, total as u8, 0, 0, 0, 1]);
        out.extend_from_slice(&body[..take]);
        rest = &body[take..];
    }
    out
}

fuzz_target!(|input: &[u8]| {
    let config = json!({"controllers": ["tcp:192.0.2.1"], "datapath-id": "1", "flow-counts": if input.len() % 2 == 0 { "exact" } else { "none" }});
    let agent = builtin::start("openflow", &config).expect("there").expect("valid");
    let mut effects = Effects::default();
    for port in [1, 2, 3].map(PortId) {
        let kind = if port.0 == 3 { PortKind::Uplink } else { PortKind::Guest };
        let _ = agent.change(0, &Change::PortCreate { port, name: "web", kind });
    }
    let _ = agent.heard(0, 0, Heard::Opened, &Some1, &mut effects);
    let _ = agent.heard(0, 0, Heard::Bytes(&[4, 0, 0, 8, 0, 0, 0, 1]), &Some1, &mut effects);
    let said = match input.split_first() {
        Some((first, rest)) if first % 2 == 1 => framed(rest),
        _ => input.to_vec(),
    };
    let mut now = 1;
    for part in said.chunks(1000) {
        now += 1_000_000_000;
        let mut what = Heard::Bytes(part);
        for _ in 0..8 {
            agent
                .heard(now, 0, what, &Some1, &mut effects)
                .expect("a controller's nonsense is no fault of the agent");
            let full = !effects.has_room();
            let added = effects.take_injected();
            assert!(added.len() <= Effects::MOST_INJECTED);
            for (_, output) in effects.take_outputs() {
                let Output::Stream { bytes, .. } = output else { continue };
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    assert_eq!(rest[0], 4, "every message has its length");
                    rest = &rest[usize::from(u16::from_be_bytes([rest[2], rest[3]]))..];
                }
            }
            what = Heard::Bytes(&[]);
            if !full {
                break;
            }
        }
        let mut udp = [0_u8; 60];
        udp[..24]
            .copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 46, 0, 1, 0, 0, 64, 17]);
        for head in [&udp[..], &part[..part.len().min(190)]] {
            let mut sight = Sight::new(now, Direction::Out, PortId(1), head, head.len() as u32);
            let _ = agent.judge(&sight, &mut effects);
            agent.forward(&sight, &mut effects).expect("no fault");
            sight.own = true;
            agent.forward(&sight, &mut effects).expect("no fault");
            let mut inward = Sight::new(now, Direction::In, PortId(2), head, head.len() as u32);
            inward.from = Some(PortId(1));
            let _ = agent.judge(&inward, &mut effects);
        }
        effects.give_frame(&udp);
        effects.take_outputs();
        agent.tick(now, &Some1, &mut effects).expect("no fault");
        let _ = agent.status(None);
    }
});
