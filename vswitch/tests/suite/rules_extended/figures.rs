//! How long extended rules take: not a test.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::IpNet;
use vswitch::Direction::Out;
use vswitch::Segment;
use vswitch::port::rule::Action::{Allow, Deny};
use vswitch::port::rule::{Rule, Table, Tuple};

use super::list::{random_port, random_rule, random_tuple};
use super::{TCP, rule, tcp};
use crate::support::Random;

/// Rules of one kind, lightest first, and packets to look up.
struct Set {
    name: &'static str,
    rules: Vec<Rule>,
    tuples: Vec<Tuple>,
}

/// Sets of rules: of every kind; and such that every field but the last looked at matches everywhere.
fn sets(random: &mut Random, many: u32) -> [Set; 6] {
    let v4 = |random: &mut Random| IpAddr::V4(Ipv4Addr::from(random.next() as u32));
    let net4 = |random: &mut Random| IpNet::new(v4(random), 1 + random.below(32) as u8).expect("<33").trunc();
    let v6 = |low: u64| IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(low)));
    let kinds = (1..=many).map(|weight| Rule {
        direction: Out,
        local: random.once_in(2).then(|| net4(random)),
        remote: (!random.once_in(8)).then(|| net4(random)),
        ..random_rule(random, weight)
    });
    let kinds = kinds.collect();
    let long =
        |random: &mut Random| IpNet::new(v4(random), 12 + random.below(21) as u8).expect("<33").trunc();
    let specific = (1..=many).map(|weight| Rule {
        direction: Out,
        local: random.once_in(2).then(|| long(random)),
        remote: Some(long(random)),
        ..random_rule(random, weight)
    });
    let specific = specific.collect();
    let random_packets: Vec<Tuple> =
        (0..512).map(|_| Tuple { local: v4(random), remote: v4(random), ..random_tuple(random) }).collect();
    let nested = (1..=many).map(|weight| {
        let prefix = |length: u32| IpNet::new(v4(&mut Random(1)), length as u8).expect("<33").trunc();
        let ports = Some(random_port(random)..=u16::MAX);
        let (local, remote) = (Some(prefix(1 + weight % 32)), Some(prefix(1 + weight / 32 % 32)));
        Rule { local, remote, remote_ports: ports, isolation: Some(Segment(9)), ..rule(weight, Deny) }
    });
    let nested = nested.collect();
    let nested_packet = Tuple { local: v4(&mut Random(1)), remote: v4(&mut Random(1)), ..tcp() };
    let hosts = (1..=many).map(|weight| {
        let host = |low: u32| Some(IpNet::from(v6(u64::from(low))));
        Rule {
            local: host(weight),
            remote: host(weight ^ 1),
            remote_ports: Some(1..=2),
            ..rule(weight, Allow)
        }
    });
    let hosts = hosts.collect();
    let host_packets = (0..512).map(|_| {
        let low = random.below(many as usize * 2) as u64;
        Tuple { local: v6(low), remote: v6(low ^ 1), ..tcp() }
    });
    let host_packets = host_packets.collect();
    let ports = (1..=many).map(|weight| {
        let port = (random.next() as u16).max(81);
        Rule { remote_ports: Some(port..=port), protocol: Some(TCP), ..rule(weight, Deny) }
    });
    let ports = ports.collect();
    let networks =
        (1..=many).map(|weight| Rule { isolation: Some(Segment(4096 + weight)), ..rule(weight, Deny) });
    [
        Set { name: "of every kind", rules: kinds, tuples: random_packets.clone() },
        Set { name: "of every kind, prefixes of 12 to 32 bits", rules: specific, tuples: random_packets },
        Set { name: "nested prefixes, only the network differs", rules: nested, tuples: vec![nested_packet] },
        Set { name: "IPv6 hosts, one port off", rules: hosts, tuples: host_packets },
        Set { name: "ports alone, none matches", rules: ports, tuples: vec![tcp()] },
        Set { name: "networks alone, none matches", rules: networks.collect(), tuples: vec![tcp()] },
    ]
}

/// Prints nanoseconds: `cargo test --release -p turnpike-vswitch -- --ignored --nocapture figures`.
#[test]
#[ignore = "prints figures, asserts nothing about them; run with --release"]
fn figures_of_extended_rules() {
    let mut random = Random(1);
    for many in [10, 100, 1_000, 10_000] {
        for Set { name, mut rules, tuples } in sets(&mut random, many) {
            let best = |work: &mut dyn FnMut() -> Table| {
                let timed = (0..15).map(|_| {
                    let start = Instant::now();
                    black_box(work());
                    start.elapsed()
                });
                timed.min().unwrap_or_default()
            };
            let table = Table::new(&rules);
            let built = best(&mut || Table::new(&rules));
            let replaced = best(&mut || table.replaced(&rule(many / 2, Deny)));
            for at in (1..rules.len()).rev() {
                rules.swap(at, random.below(at + 1));
            }
            let unsorted = best(&mut || Table::new(&rules));
            // Short runs, the best of which nothing else disturbed.
            let rounds = 4_096;
            let (mut found, mut each) = (0, u128::MAX);
            for _ in 0..30 {
                found = 0;
                let start = Instant::now();
                for tuple in tuples.iter().cycle().take(rounds) {
                    found += usize::from(black_box(table.judge(Out, black_box(tuple))).is_some());
                }
                each = each.min(start.elapsed().as_nanos() / rounds as u128);
            }
            println!(
                "{many} rules, {name}: {each} ns a look-up ({}% found), \
                 built in {built:?} (unsorted {unsorted:?}), one replaced in {replaced:?}",
                100 * found / rounds
            );
        }
    }
}
