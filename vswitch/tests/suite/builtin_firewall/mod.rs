//! The firewall: rules, connections, what it detects, and what travels with a guest.

mod configured;
mod connections;
mod detection;
mod moves;
mod pipeline;
mod rules;

use std::sync::Arc;

use serde_json::{Value, json};
use vswitch::extension::{
    Counters, Effects, Extension, Judgement, Output, PortCounters, Reason, Scope, Sight, builtin,
};
use vswitch::frame::protocol;
use vswitch::{Direction, PortId};

use crate::packets::{framed, tcp, udp, v4};
use crate::support::SECOND;

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 0x10;
const FIN: u8 = 1;

/// The guest behind port 1, and its peers.
const GUEST: &str = "10.0.0.1";
const PEER: &str = "192.0.2.7";
const OTHER: &str = "198.51.100.9";

struct Nothing;

impl Counters for Nothing {
    fn of(&self, _: PortId) -> Option<PortCounters> {
        None
    }
}

/// A firewall that judges single frames, in virtual time.
struct Wall {
    instance: Arc<dyn Extension>,
    now: u64,
    logs: Vec<String>,
    refreshed: bool,
}

fn start(config: &Value) -> Arc<dyn Extension> {
    builtin::start("firewall", config).expect("it exists").expect("it starts")
}

impl Wall {
    /// One with these rules in a set that port 1 has, and other keys of its configuration.
    fn new(rules: &Value, more: &[(&str, Value)]) -> Self {
        let mut config = json!({ "sets": { "one": rules } });
        for (key, value) in more {
            config[*key] = value.clone();
        }
        let instance = start(&config);
        instance.set(Some(PortId(1)), Some(&json!({ "sets": ["one"] }))).expect("settings");
        Self { instance, now: SECOND, logs: Vec::new(), refreshed: false }
    }

    /// What is said about a packet: how long it may pass, or the reason why not.
    fn at(&mut self, port: u16, direction: Direction, packet: &[u8], dry: bool) -> Result<Scope, String> {
        let frame = framed(packet);
        let mut sight = Sight::new(self.now, direction, PortId(port), &frame, frame.len() as u32);
        sight.dry = dry;
        let mut effects = Effects::default();
        let answer = self.instance.judge(&sight, &mut effects);
        for (_, output) in effects.take_outputs() {
            let Output::Log(line) = output else { panic!("{output:?}") };
            self.logs.push(line);
        }
        self.refreshed |= effects.take_refresh();
        match answer.judgement {
            Judgement::Pass => Ok(answer.scope),
            Judgement::Drop(Reason(n)) => {
                assert_eq!(answer.scope, Scope::Frame, "the next packet may be another's");
                Err(self.instance.reasons()[usize::from(n)].to_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    /// The guest sends it.
    fn out(&mut self, packet: &[u8]) -> Result<Scope, String> {
        self.at(1, Direction::Out, packet, false)
    }

    /// The guest is to get it.
    fn come(&mut self, packet: &[u8]) -> Result<Scope, String> {
        self.at(1, Direction::In, packet, false)
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.now += SECOND / 10;
            let mut effects = Effects::default();
            self.instance.tick(self.now, &Nothing, &mut effects).expect("it ticks");
            self.refreshed |= effects.take_refresh();
        }
    }

    fn status(&self, key: &str) -> Value {
        self.instance.status(Some(PortId(1)))[key].clone()
    }
}

fn denied(reason: &str) -> Result<Scope, String> {
    Err(reason.to_owned())
}

/// A TCP segment from the guest, and one to it.
fn to_peer(local: u16, remote: u16, flags: u8) -> Vec<u8> {
    v4(GUEST, PEER, protocol::TCP, &tcp(local, remote, flags, &[]))
}

fn to_guest(remote: u16, local: u16, flags: u8) -> Vec<u8> {
    v4(PEER, GUEST, protocol::TCP, &tcp(remote, local, flags, &[]))
}

fn asks(local: u16, remote: u16) -> Vec<u8> {
    v4(GUEST, PEER, protocol::UDP, &udp(local, remote, b"question"))
}

fn answers(remote: u16, local: u16) -> Vec<u8> {
    v4(PEER, GUEST, protocol::UDP, &udp(remote, local, b"answer"))
}

/// The guest opens a connection to port 80 of its peer.
fn open(wall: &mut Wall, local: u16) {
    assert!(wall.out(&to_peer(local, 80, SYN)).is_ok());
    assert!(wall.come(&to_guest(80, local, SYN | ACK)).is_ok());
    assert!(wall.out(&to_peer(local, 80, ACK)).is_ok());
}
