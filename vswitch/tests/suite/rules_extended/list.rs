//! The compiled table of extended rules against a list that is searched from the top.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vswitch::port::rule::Action::{Allow, Deny};
use vswitch::port::rule::{Rule, Table, Tuple};
use vswitch::{Direction, Segment};

use super::{ICMP, TCP, UDP, rule};
use crate::support::Random;

use Direction::{In, Out};

fn matches(rule: &Rule, tuple: &Tuple) -> bool {
    let inside = |net: &Option<IpNet>, ip: IpAddr| net.is_none_or(|net| net.contains(&ip));
    let ranges: Vec<_> = [&rule.local_ports, &rule.remote_ports].into_iter().flatten().collect();
    let ports = match tuple.ports {
        _ if ranges.is_empty() => true,
        _ if ranges.iter().any(|range| range.is_empty()) => false,
        _ if ![TCP, UDP].contains(&tuple.protocol) => false,
        Some((local, remote)) if !tuple.later_fragment => {
            rule.local_ports.as_ref().is_none_or(|range| range.contains(&local))
                && rule.remote_ports.as_ref().is_none_or(|range| range.contains(&remote))
        }
        _ => rule.action == Deny,
    };
    ports
        && inside(&rule.local, tuple.local)
        && inside(&rule.remote, tuple.remote)
        && rule.protocol.is_none_or(|protocol| protocol == tuple.protocol)
        && rule.isolation.is_none_or(|segment| segment == tuple.segment)
}

fn naive<'a>(rules: &'a [Rule], direction: Direction, tuple: &Tuple) -> Option<&'a Rule> {
    let matching = rules.iter().filter(|rule| rule.direction == direction && matches(rule, tuple));
    matching.max_by_key(|rule| rule.weight)
}

fn random_direction(random: &mut Random) -> Direction {
    if random.once_in(2) { In } else { Out }
}

/// Addresses that often share many bits, and now and then the ends of the range.
fn random_ip(random: &mut Random) -> IpAddr {
    let spread = match random.below(16) {
        0 => random.next(),
        1 => u64::MAX,
        2 => 0,
        _ => random.next() & random.next() & 0x0001_8003_0081_0183,
    };
    if random.below(3) > 0 {
        Ipv4Addr::from(spread as u32).into()
    } else {
        Ipv6Addr::from(u128::from(spread) << 64 | u128::from(spread.rotate_left(9))).into()
    }
}

fn random_net(random: &mut Random) -> Option<IpNet> {
    // Long prefixes rarely match: most are short.
    let long = random.once_in(3);
    let length = random.below(if long { 129 } else { 12 }) as u8;
    random.once_in(2).then(|| match random_ip(random) {
        IpAddr::V4(ip) => Ipv4Net::new(ip, length.min(32)).expect("up to 32").trunc().into(),
        IpAddr::V6(ip) => Ipv6Net::new(ip, length).expect("up to 128").trunc().into(),
    })
}

pub(super) fn random_port(random: &mut Random) -> u16 {
    match random.below(8) {
        0 => 0,
        1 => u16::MAX,
        _ => 1 << random.below(12),
    }
}

/// Now and then one without a port in it.
fn random_ports(random: &mut Random) -> Option<RangeInclusive<u16>> {
    let (one, two) = (random_port(random), random_port(random));
    let range = if random.once_in(16) { one..=two } else { one.min(two)..=one.max(two) };
    random.once_in(3).then_some(range)
}

fn random_protocol(random: &mut Random) -> u8 {
    [TCP, TCP, UDP, UDP, ICMP, 58, 0, 255][random.below(8)]
}

fn random_segment(random: &mut Random) -> Segment {
    Segment([0, 1, 10, 5001, 16_777_214][random.below(5)])
}

pub(super) fn random_rule(random: &mut Random, weight: u32) -> Rule {
    Rule {
        direction: random_direction(random),
        action: if random.once_in(2) { Allow } else { Deny },
        local: random_net(random),
        remote: random_net(random),
        local_ports: random_ports(random),
        remote_ports: random_ports(random),
        protocol: random.once_in(2).then(|| random_protocol(random)),
        stateful: random.once_in(8).then_some(1),
        isolation: random.once_in(3).then(|| random_segment(random)),
        ..rule(weight, Allow)
    }
}

pub(super) fn random_tuple(random: &mut Random) -> Tuple {
    let local = random_ip(random);
    let family = |ip: &IpAddr| ip.is_ipv4() == local.is_ipv4();
    let remote = std::iter::repeat_with(|| random_ip(random)).find(family).expect("many are");
    Tuple {
        local,
        remote,
        protocol: random_protocol(random),
        ports: (!random.once_in(6)).then(|| (random_port(random), random_port(random))),
        later_fragment: random.once_in(6),
        segment: random_segment(random),
    }
}

#[test]
fn s8_a_table_says_what_its_list_says() {
    let mut random = Random(8);
    let (mut first, mut none, mut deep) = (0, 0, 0);
    for _ in 0..2_500 {
        let many = [3, 20, 60, 130][random.below(4)];
        // Weights in no order, and with gaps.
        let mut rules: Vec<Rule> =
            (1..=many).map(|n| random_rule(&mut random, (n * 7919) % 10_007)).collect();
        let table = Table::new(&rules);
        rules.sort_by_key(|rule| Reverse(rule.weight));
        for _ in 0..50 {
            let (direction, tuple) = (random_direction(&mut random), random_tuple(&mut random));
            let expected = naive(&rules, direction, &tuple);
            assert_eq!(table.judge(direction, &tuple), expected, "{direction} {tuple:?}");
            match expected.map(|rule| rules.iter().take_while(|other| other.weight > rule.weight).count()) {
                None => none += 1,
                Some(0..3) => first += 1,
                Some(_) => deep += 1,
            }
        }
    }
    assert!(first > 5_000 && none > 5_000 && deep > 50_000, "{first} {none} {deep} of 125,000");
}

#[test]
fn s8_large_tables_stay_right_while_they_change() {
    let mut random = Random(9);
    let rare = |random: &mut Random, weight| {
        // Rules that nearly never match, so that the lightest are reached.
        let remote = Ipv4Net::new(Ipv4Addr::from(random.next() as u32 & 0x0fff_ffff), 28).expect("28");
        Rule { remote: Some(remote.trunc().into()), ..random_rule(random, weight) }
    };
    let mut rules: Vec<Rule> = (0..3_000).map(|n| rare(&mut random, n * 2)).collect();
    let mut table = Table::new(&rules);
    let mut sizes = (rules.len(), rules.len());
    for step in 0..2_400 {
        // Grows, then shrinks to nearly nothing, mostly at one place.
        let weight =
            if random.once_in(4) { random.below(6_000) as u32 } else { 2_000 + random.below(900) as u32 };
        if step < 800 {
            let rule = rare(&mut random, weight);
            rules.retain(|other| (other.direction, other.weight) != (rule.direction, weight));
            table = table.replaced(&rule);
            rules.push(rule);
        } else {
            // Three at a time: those next to that weight.
            for _ in 0..3 {
                let Some(at) = (0..rules.len()).min_by_key(|&at| rules[at].weight.abs_diff(weight)) else {
                    break;
                };
                let gone = rules.swap_remove(at);
                table = table.without(gone.direction, gone.weight).expect("it is there");
                assert_eq!(table.get(gone.direction, gone.weight), None);
            }
        }
        sizes = (sizes.0.min(rules.len()), sizes.1.max(rules.len()));
        assert_eq!(table.len(), rules.len());
        if step % 100 == 0 {
            assert_eq!(table, Table::new(&rules));
            for _ in 0..200 {
                let (direction, mut tuple) = (random_direction(&mut random), random_tuple(&mut random));
                let known = rules.get(random.below(rules.len().max(1))).and_then(|rule| rule.remote);
                tuple.remote = known.map_or(tuple.remote, |net| net.addr());
                assert_eq!(table.judge(direction, &tuple), naive(&rules, direction, &tuple), "{tuple:?}");
            }
        }
    }
    assert!(sizes.0 < 100 && sizes.1 > 3_300, "{sizes:?}");
}
