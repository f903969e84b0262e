//! A switch made of bytes, and frames through it: the flow cache must give the verdict that the pipeline gives.
//!
//! Input: kind of the switch (1 byte), number of ports (1), per port: flags (1) and the last byte of its address (1). Then
//! operations of one byte: a frame (followed by port, length, bytes), a new policy, a removed port, time that passes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vswitch::fdb::IDLE;
use vswitch::flow::{Forwarder, Plan};
use vswitch::pipeline::{self, Verdict};
use vswitch::port::{Policy, Port, PortKind};
use vswitch::snapshot::{Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::{Mac, PortId};

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, len: usize) -> &[u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

fn snapshot(input: &mut Input<'_>, epoch: u64) -> Option<Snapshot> {
    let kind = match input.byte()? % 3 {
        0 => SwitchKind::External,
        1 => SwitchKind::Internal,
        _ => SwitchKind::Private,
    };
    let count = input.byte()? % 12;
    let mut ports = Vec::new();
    for n in 1..=u16::from(count) {
        let (flags, last) = (input.byte()?, input.byte()?);
        let kind = match flags & 7 {
            0 => PortKind::Uplink,
            1 => PortKind::Host,
            _ => PortKind::Guest,
        };
        ports.push(Port {
            id: PortId(n),
            kind,
            mac: Mac([0x52, 0x54, 0, 0, 0, last]),
            mtu: 1500,
            policy: Policy {
                mac_spoofing: flags & 8 != 0,
                link_up: flags & 16 == 0,
                ..Policy::default()
            },
            vm: None,
        });
    }
    Some(Snapshot::new(epoch, SwitchConfig { kind, ..SwitchConfig::default() }, ports))
}

fuzz_target!(|data: &[u8]| {
    run(&mut Input(data));
});

fn run(input: &mut Input<'_>) -> Option<()> {
    // Far more room than an input can fill: whose entry goes when there is none depends on when each was last seen, which
    // the cache knows less well.
    let (cached_state, plain_state) = (State::new(1 << 20, 1), State::new(1 << 20, 2));
    let mut forwarder = Forwarder::new(3, 16);
    let (mut epoch, mut now) = (1, 0);
    let mut snap = snapshot(input, epoch)?;
    loop {
        match input.byte()? {
            0xff => {
                epoch += 1;
                snap = snapshot(input, epoch)?;
                if input.byte()? & 1 == 0 {
                    assert_eq!(cached_state.fdb.reconcile(&snap), plain_state.fdb.reconcile(&snap));
                }
            }
            0xfe => {
                let id = PortId(input.byte()?.into());
                assert_eq!(cached_state.fdb.remove_port(id), plain_state.fdb.remove_port(id));
            }
            0xfd => {
                now += IDLE * 2;
                assert_eq!(cached_state.fdb.age(now), plain_state.fdb.age(now));
            }
            from => {
                let from = PortId(u16::from(from) % 14);
                let size = usize::from(input.byte()?);
                let head = input.bytes(size);
                // The longest lengths stand for lengths around the limit.
                let len = if size >= 250 { 65_300 + size as u32 } else { head.len() as u32 };
                forwarder.begin(&snap, &cached_state, now, from);
                let mut judge =
                    || forwarder.judge(&snap, &cached_state, now, from, head, len, &mut Plan::default());
                let (cached, again) = (judge(), judge());
                let plain = || pipeline::run(&snap, &plain_state, now, from, head, len);
                let (plain, plain_again) = (plain(), plain());
                assert_eq!((cached, again), (plain, plain_again), "port {from}, {head:02x?}, {snap:?}");
                match plain {
                    Verdict::Unicast(to) => assert!(to != from && is_up(&snap, to)),
                    Verdict::Flood(set) => {
                        assert!(snap.flood(set, from).all(|to| to != from && is_up(&snap, to)));
                    }
                    Verdict::Drop(_) | Verdict::Refuse(..) => {}
                }
                assert_eq!(cached_state.fdb.len(), plain_state.fdb.len());
                forwarder.take_events().for_each(drop);
                now += 1000;
            }
        }
    }
}

fn is_up(snap: &Snapshot, id: PortId) -> bool {
    snap.port(id).is_some_and(|port| port.policy.link_up)
}
