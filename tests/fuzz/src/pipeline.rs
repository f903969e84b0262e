//! A switch made of bytes, and frames through it: the flow cache must give the verdict that the pipeline gives.
//!
//! Input: kind of the switch (1 byte), number of ports (1), per port: flags (1), the last byte of its address (1), VLAN mode and guards
//! (1), lists and limits (1). Then
//! operations of one byte: a frame (followed by port, length, bytes), a new policy, a removed port, time that passes.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vswitch::explain::explain;
use vswitch::fdb::IDLE;
use vswitch::flow::{Forwarder, Plan};
use vswitch::pipeline::{self, Verdict};
use vswitch::port::acl::{self, Address, Applies, Entry};
use vswitch::port::rule::{self, Rule};
use vswitch::port::{Mirror, Policy, Port, PortKind};
use vswitch::snapshot::{Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::{Direction, Mac, PortId, Tally};

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
        let (guards, lists) = (input.byte()?, input.byte()?);
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
            present: flags & 128 == 0 || kind != PortKind::Guest,
            unmet: false,
            policy: Policy {
                mac_spoofing: flags & 8 != 0,
                link_up: flags & 16 == 0,
                teaming: flags & 32 != 0,
                priority_tag: flags & 64 != 0,
                ..policy(guards, lists)
            },
            vm: Some(u64::from(n % 2)),
        });
    }
    Some(Snapshot::new(epoch, SwitchConfig { kind, ..SwitchConfig::default() }, ports))
}

/// One of many policies, so that short inputs reach all of them.
fn policy(guards: u8, lists: u8) -> Policy {
    const MODES: [&str; 8] = [
        "none",
        "none",
        "access:2",
        "trunk:2-5/3",
        "isolated:2/4",
        "community:2/5",
        "promiscuous:2/4-5",
        "trunk:1-4094",
    ];
    let net = |text: &str| text.parse().expect("a prefix");
    let mut tally = 0;
    let mut entry = |direction, applies, address, action| {
        tally += 1;
        Entry { direction, applies, address, action, tally: Tally(tally) }
    };
    let (ten, host) = (Address::Ip(net("10.0.0.0/8")), Address::Ip(net("10.0.0.1/32")));
    let entries = [
        entry(Direction::Out, Applies::Remote, Address::Any, acl::Action::Meter),
        entry(Direction::In, Applies::Remote, ten, acl::Action::Deny),
        entry(Direction::In, Applies::Remote, host, acl::Action::Allow),
        entry(Direction::Out, Applies::Local, Address::Any, acl::Action::Deny),
        entry(Direction::Out, Applies::Local, ten, acl::Action::Allow),
        entry(Direction::In, Applies::Local, Address::AnyMac, acl::Action::Meter),
    ];
    let rule = |direction, weight, action, protocol, ports: Option<u16>, stateful| Rule {
        direction,
        weight,
        action,
        local: None,
        remote: (weight % 3 == 0).then(|| net("10.0.0.0/30")),
        local_ports: None,
        remote_ports: ports.map(|p| p..=p + 3),
        protocol,
        stateful,
        isolation: None,
        tally: Tally(100 + weight),
    };
    let second = 1_000_000_000;
    let rules = [
        rule(Direction::Out, 9, rule::Action::Allow, Some(6), None, Some(30 * second)),
        rule(Direction::Out, 8, rule::Action::Allow, Some(17), Some(0), Some(second)),
        rule(Direction::In, 7, rule::Action::Deny, Some(17), Some(1), None),
        rule(Direction::In, 6, rule::Action::Allow, Some(1), None, None),
        rule(Direction::In, 1, rule::Action::Deny, None, None, None),
    ];
    let some = |bit: u8, all: usize| if lists & bit != 0 { usize::from(lists >> 4) % (all + 1) } else { 0 };
    Policy {
        vlan: MODES[usize::from(guards & 7)].parse().expect("a mode"),
        vsid: (guards & 0xc7 == 0xc0).then_some(5000),
        dhcp_guard: guards & 8 != 0,
        router_guard: guards & 16 != 0,
        addresses: (guards & 32 != 0).then(|| [net("10.0.0.0/29"), net("2001:db8::/64")].into()),
        address_limit: u32::from(guards & 64 != 0),
        mirror: [Mirror::None, Mirror::Source, Mirror::Destination, Mirror::None][usize::from(lists & 3)],
        acl: Arc::new(acl::Table::new(&entries[..some(4, entries.len())])),
        rules: Arc::new(rule::Table::new(&rules[..some(8, rules.len())])),
        ..Policy::default()
    }
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
                let new = snapshot(input, epoch)?;
                cached_state.reconcile(now, &snap, &new);
                plain_state.reconcile(now, &snap, &new);
                snap = new;
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
                let told = explain(&snap, &plain_state, now, from, head, len).verdict;
                let plain = || pipeline::run(&snap, &plain_state, now, from, head, len);
                let (plain, plain_again) = (plain(), plain());
                assert_eq!((cached, again), (plain, plain_again), "port {from}, {head:02x?}, {snap:?}");
                assert_eq!(
                    told, plain,
                    "what is explained is what happens: port {from}, {head:02x?}, {snap:?}"
                );
                match plain {
                    Verdict::Unicast(to) => assert!(to != from && is_up(&snap, to)),
                    Verdict::Flood(set) => {
                        assert!(snap.flood(set, from).all(|to| to != from && is_up(&snap, to)));
                    }
                    Verdict::Drop(_) | Verdict::Refuse(..) | Verdict::Answer => {}
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
