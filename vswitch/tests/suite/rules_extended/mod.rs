//! Extended rules: order, fields, ports that cannot be seen, tables that change.

mod figures;
mod list;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use vswitch::port::rule::{Action, Rule, Table, Tuple};
use vswitch::{Direction, Segment, Tally};

use Action::{Allow, Deny};
use Direction::{In, Out};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A rule about everything the guest sends.
fn rule(weight: u32, action: Action) -> Rule {
    Rule {
        direction: Out,
        weight,
        action,
        local: None,
        remote: None,
        local_ports: None,
        remote_ports: None,
        protocol: None,
        stateful: None,
        isolation: None,
        tally: Tally(weight),
    }
}

fn net(text: &str) -> IpNet {
    text.parse().or_else(|_| text.parse().map(IpAddr::into)).expect(text)
}

/// A packet from port 1000 of the guest to port 80 of its peer.
fn tcp() -> Tuple {
    Tuple {
        local: Ipv4Addr::new(10, 1, 2, 3).into(),
        remote: Ipv4Addr::new(10, 9, 8, 7).into(),
        protocol: TCP,
        ports: Some((1000, 80)),
        later_fragment: false,
        segment: Segment(0),
    }
}

fn between(local: &str, remote: &str) -> Tuple {
    let ip = |text: &str| text.parse::<IpAddr>().expect(text);
    Tuple { local: ip(local), remote: ip(remote), ..tcp() }
}

fn ping() -> Tuple {
    Tuple { protocol: ICMP, ports: None, ..tcp() }
}

/// The later part of a packet.
fn later(protocol: u8) -> Tuple {
    Tuple { protocol, ports: None, later_fragment: true, ..tcp() }
}

/// The weight of the rule that decides; 0 = none.
fn decides(rules: &[Rule], tuple: &Tuple) -> u32 {
    Table::new(rules).judge(Out, tuple).map_or(0, |rule| rule.weight)
}

#[test]
fn s8_heaviest_match_decides() {
    let rules = [
        rule(5, Deny),
        Rule { remote: Some(net("10.0.0.0/8")), ..rule(300, Allow) },
        Rule { remote: Some(net("10.9.8.7")), ..rule(20, Deny) },
        Rule { remote: Some(net("10.9.0.0/16")), ..rule(1000, Deny) },
    ];
    for turned in 0..rules.len() {
        let mut rules = rules.to_vec();
        rules.rotate_left(turned);
        assert_eq!(decides(&rules, &tcp()), 1000, "however they are listed, however long the prefix");
        assert_eq!(decides(&rules, &between("10.1.2.3", "10.1.1.1")), 300);
        assert_eq!(decides(&rules, &between("10.1.2.3", "192.0.2.1")), 5);
    }
}

#[test]
fn s8_no_match_is_no_rule() {
    assert_eq!(Table::new(&[]).judge(Out, &tcp()), None);
    assert_eq!(decides(&[Rule { remote: Some(net("192.0.2.0/24")), ..rule(1, Deny) }], &tcp()), 0);
}

#[test]
fn s8_directions_are_separate() {
    let table = Table::new(&[Rule { direction: In, ..rule(7, Deny) }, rule(7, Allow)]);
    assert_eq!(table.judge(Out, &tcp()).map(|rule| rule.action), Some(Allow));
    assert_eq!(table.judge(In, &tcp()).map(|rule| rule.action), Some(Deny));
    let inward = Table::new(&[Rule { direction: In, ..rule(7, Deny) }]);
    assert_eq!(inward.judge(Out, &tcp()), None);
}

#[test]
fn s8_every_field_must_match() {
    let rules = [Rule {
        local: Some(net("10.1.0.0/16")),
        remote: Some(net("10.9.8.0/24")),
        local_ports: Some(1000..=1999),
        remote_ports: Some(80..=80),
        protocol: Some(TCP),
        isolation: Some(Segment(5)),
        ..rule(1, Deny)
    }];
    let good = Tuple { segment: Segment(5), ..tcp() };
    assert_eq!(decides(&rules, &good), 1);
    let bad = [
        Tuple { local: Ipv4Addr::new(10, 2, 2, 3).into(), ..good },
        Tuple { remote: Ipv4Addr::new(10, 9, 9, 7).into(), ..good },
        Tuple { ports: Some((999, 80)), ..good },
        Tuple { ports: Some((2000, 80)), ..good },
        Tuple { ports: Some((1000, 79)), ..good },
        Tuple { ports: Some((1000, 81)), ..good },
        Tuple { ports: Some((80, 1000)), ..good },
        Tuple { protocol: UDP, ..good },
        Tuple { segment: Segment(0), ..good },
        Tuple { segment: Segment(6), ..good },
        Tuple { segment: Segment(5005), ..good },
    ];
    for tuple in bad {
        assert_eq!(decides(&rules, &tuple), 0, "{tuple:?}");
    }
    assert_eq!(decides(&rules, &Tuple { ports: Some((1999, 80)), ..good }), 1);
}

#[test]
fn s8_local_and_remote_are_not_exchanged() {
    let rules = [
        Rule { local: Some(net("10.9.8.7")), ..rule(1, Deny) },
        Rule { remote: Some(net("10.1.2.3")), ..rule(2, Deny) },
    ];
    assert_eq!(decides(&rules, &tcp()), 0);
    assert_eq!(decides(&rules, &between("10.9.8.7", "10.5.5.5")), 1);
    assert_eq!(decides(&rules, &between("10.5.5.5", "10.1.2.3")), 2);
}

#[test]
fn s8_protocol_is_a_number() {
    let rules =
        [Rule { protocol: Some(ICMP), ..rule(1, Deny) }, Rule { protocol: Some(255), ..rule(2, Deny) }];
    let of = |protocol| decides(&rules, &Tuple { protocol, ports: None, ..tcp() });
    assert_eq!([0, ICMP, 2, TCP, UDP, 58, 254, 255].map(of), [0, 1, 0, 0, 0, 0, 0, 2]);
    let all = |protocol| decides(&[rule(1, Deny)], &Tuple { protocol, ports: None, ..tcp() });
    assert!((0..=255).map(all).all(|weight| weight == 1));
}

#[test]
fn s8_ports_are_those_of_tcp_and_udp() {
    for action in [Allow, Deny] {
        let rules = [Rule { remote_ports: Some(0..=u16::MAX), ..rule(1, action) }];
        assert_eq!((decides(&rules, &tcp()), decides(&rules, &Tuple { protocol: UDP, ..tcp() })), (1, 1));
        assert_eq!(decides(&rules, &ping()), 0, "a packet without ports has none in any range");
        assert_eq!(decides(&rules, &later(ICMP)), 0);
        let rules = [Rule { local_ports: Some(0..=u16::MAX), protocol: Some(ICMP), ..rule(1, action) }];
        assert_eq!(
            (decides(&rules, &ping()), decides(&rules, &tcp())),
            (0, 0),
            "nor does it help to name ICMP"
        );
    }
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
fn s8_a_range_without_ports_matches_nothing() {
    let rules = [Rule { remote_ports: Some(81..=80), ..rule(1, Deny) }];
    assert_eq!([tcp(), ping(), later(TCP)].map(|tuple| decides(&rules, &tuple)), [0; 3]);
}

#[test]
fn s8_a_later_fragment_matches_a_denial_with_ports() {
    for protocol in [None, Some(TCP)] {
        let rules = [Rule { remote_ports: Some(25..=25), protocol, ..rule(1, Deny) }];
        assert_eq!(decides(&rules, &tcp()), 0, "the packet it may belong to passes");
        assert_eq!(decides(&rules, &later(TCP)), 1);
        assert_eq!(decides(&rules, &later(UDP)), u32::from(protocol.is_none()));
        assert_eq!(
            decides(&rules, &Tuple { ports: Some((1000, 80)), ..later(TCP) }),
            1,
            "ports there are not ports"
        );
    }
    let elsewhere = [Rule { remote_ports: Some(25..=25), remote: Some(net("192.0.2.1")), ..rule(1, Deny) }];
    assert_eq!(decides(&elsewhere, &later(TCP)), 0, "all else must match");
}

#[test]
fn s8_a_later_fragment_matches_no_permission_with_ports() {
    let web = |weight| Rule { remote_ports: Some(80..=80), ..rule(weight, Allow) };
    let rules = [web(9), rule(1, Deny)];
    assert_eq!((decides(&rules, &tcp()), decides(&rules, &later(TCP))), (9, 1));
    let by_address = [web(9), Rule { protocol: Some(TCP), ..rule(5, Allow) }, rule(1, Deny)];
    assert_eq!(decides(&by_address, &later(TCP)), 5, "one without ports it does");
}

#[test]
fn s8_ports_that_cannot_be_seen_are_as_in_a_later_fragment() {
    let rules = [
        Rule { remote_ports: Some(80..=80), protocol: Some(TCP), ..rule(9, Allow) },
        Rule { remote_ports: Some(25..=25), protocol: Some(TCP), ..rule(5, Deny) },
    ];
    assert_eq!(decides(&rules, &Tuple { ports: None, ..tcp() }), 5);
    assert_eq!(decides(&rules, &Tuple { ports: None, protocol: UDP, ..tcp() }), 0);
}

#[test]
fn s8_a_mapped_address_is_an_ipv6_address() {
    let rules = [
        Rule { remote: Some(net("10.0.0.0/8")), ..rule(2, Deny) },
        Rule { remote: Some(net("::/0")), ..rule(1, Deny) },
    ];
    assert_eq!(decides(&rules, &between("::1", "::ffff:10.9.8.7")), 1);
    assert_eq!(decides(&rules, &tcp()), 2);
    assert_eq!(
        decides(&[Rule { remote: Some(net("::/0")), ..rule(1, Deny) }], &tcp()),
        0,
        "every IPv6 address is no IPv4 one"
    );
}

#[test]
fn s8_isolation_restricts_a_rule_to_one_network() {
    let rules = [
        Rule { isolation: Some(Segment(10)), ..rule(3, Deny) },
        Rule { isolation: Some(Segment(5001)), ..rule(2, Deny) },
        Rule { isolation: Some(Segment(0)), ..rule(1, Deny) },
    ];
    let inside = |segment| decides(&rules, &Tuple { segment: Segment(segment), ..tcp() });
    assert_eq!([10, 5001, 0, 11, 65_535, u32::MAX].map(inside), [3, 2, 1, 0, 0, 0]);
}

#[test]
fn s8_a_table_knows_its_rules() {
    let stateful = Rule { direction: In, stateful: Some(30), ..rule(4, Allow) };
    let rules = [rule(1, Deny), Rule { direction: In, ..rule(9, Deny) }, stateful.clone(), rule(2, Allow)];
    let table = Table::new(&rules);
    assert_eq!((table.len(), table.is_empty(), table.has_stateful()), (4, false, true));
    let order = [&rules[3], &rules[0], &rules[1], &rules[2]];
    assert_eq!(table.rules().collect::<Vec<_>>(), order, "sent before received, by descending weight");
    assert_eq!((table.get(In, 4), table.get(Out, 4)), (Some(&stateful), None));
    assert_eq!((table.get(In, 0), table.get(Out, u32::MAX)), (None, None));
    let empty = Table::default();
    assert_eq!(
        (empty.len(), empty.is_empty(), empty.has_stateful(), empty.get(In, 1)),
        (0, true, false, None)
    );
    assert!(!Table::new(&rules[..2]).has_stateful());
    assert_eq!(table, Table::new(&order.map(Rule::clone)));
    assert_ne!(table, Table::new(&rules[1..]));
}

#[test]
fn s8_one_rule_is_replaced_added_and_removed() {
    let table = Table::new(&[rule(1, Deny), rule(5, Deny)]);
    let open = table.replaced(&rule(5, Allow));
    assert_eq!(open, Table::new(&[rule(1, Deny), rule(5, Allow)]));
    assert_eq!(table.judge(Out, &tcp()).map(|rule| rule.action), Some(Deny), "the old one stays as it was");
    assert_eq!(open.judge(Out, &tcp()).map(|rule| rule.action), Some(Allow));
    let more = open.replaced(&Rule { direction: In, ..rule(5, Deny) });
    assert_eq!((more.len(), more.get(Out, 5)), (3, Some(&rule(5, Allow))));
    assert_eq!(more.without(In, 5), Some(open));
    assert_eq!((more.without(Out, 2), more.without(In, 1)), (None, None));
    let none =
        more.without(Out, 5).and_then(|table| table.without(Out, 1)).and_then(|table| table.without(In, 5));
    assert_eq!(none, Some(Table::default()));
    let stateful = Table::default().replaced(&Rule { stateful: Some(1), ..rule(1, Allow) });
    assert!(stateful.has_stateful());
    assert_eq!(stateful.without(Out, 1).map(|table| table.has_stateful()), Some(false));
}
