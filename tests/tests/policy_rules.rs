//! Extended rules (rule book, section 8): weights, ports, protocols, fragments, and what ACLs and rules say together.

use turnpike_tests::frame::ext;
use turnpike_tests::lan::{mac, v4, v6};
use turnpike_tests::protocols::icmp;
use turnpike_tests::reference::{Dice, Rule, judge, random_frame, random_rule};
use turnpike_tests::{Frame, Lan, eventually};

fn pair() -> Lan {
    Lan::new(&[("a", ""), ("b", "")])
}

fn rule(lan: &Lan, rest: &str) {
    lan.run(&format!("rule add a {rest}"));
}

fn four() -> Frame {
    Frame::new(mac(2), mac(1)).ipv4()
}

fn six() -> Frame {
    Frame::new(mac(2), mac(1)).ipv6()
}

#[test]
fn s8_the_heaviest_rule_that_matches_decides() {
    let mut lan = pair();
    let frame = four().udp(1000, 53).build();
    lan.passes("a", "b", &frame);
    rule(&lan, "--action deny --direction out --weight 10");
    lan.dropped("a", &frame, ("a", "out"), "rule-denied");
    rule(&lan, "--action allow --direction out --weight 20 --protocol udp --remote-port 53");
    lan.passes("a", "b", &frame);
    lan.dropped("a", &four().udp(1000, 54).build(), ("a", "out"), "rule-denied");
    rule(&lan, "--action deny --direction out --weight 30 --remote 10.0.0.2");
    lan.dropped("a", &frame, ("a", "out"), "rule-denied");
    lan.run("rule remove a --direction out --weight 30");
    lan.passes("a", "b", &frame);
    // Not IP: rules do not see it.
    lan.passes("a", "b", &Frame::new(mac(2), mac(1)).payload(&[1; 60]).build());
}

#[test]
fn s8_every_field_narrows_a_rule() {
    let mut lan = pair();
    rule(
        &lan,
        "--action deny --direction out --weight 5 --local 10.0.0.0/24 --remote 10.0.0.2 --local-port 1000-1999 --remote-port 80 --protocol tcp",
    );
    lan.dropped("a", &four().tcp(1000, 80).build(), ("a", "out"), "rule-denied");
    lan.dropped("a", &four().tcp(1999, 80).build(), ("a", "out"), "rule-denied");
    for near in [
        four().tcp(999, 80),
        four().tcp(2000, 80),
        four().tcp(1000, 81),
        four().udp(1000, 80),
        four().from_ip(v4(1)).to_ip(v4(3)).tcp(1000, 80),
        four().from_ip([10, 0, 1, 1]).tcp(1000, 80),
        six().tcp(1000, 80),
        four().icmp4(icmp::ECHO, 0),
    ] {
        lan.passes("a", "b", &near.build());
    }
    // Seen from the other side, local and remote change places.
    let answer = Frame::new(mac(1), mac(2)).ipv4().tcp(80, 1000).build();
    lan.passes("b", "a", &answer);
    rule(&lan, "--action deny --direction in --weight 5 --protocol tcp --remote-port 80 --local-port 1000");
    lan.dropped("b", &answer, ("a", "in"), "rule-denied");
    lan.passes("b", "a", &Frame::new(mac(1), mac(2)).ipv4().tcp(1000, 80).build());
}

#[test]
fn s8_protocols_by_name_and_number() {
    let mut lan = pair();
    for (protocol, good, bad) in [
        ("icmp", four().icmp4(icmp::ECHO, 0), four().udp(1, 2)),
        ("icmpv6", six().icmp6(icmp::V6_ECHO, 0), six().udp(1, 2)),
        ("47", four().protocol(47).payload(&[1; 40]), four().icmp4(icmp::ECHO, 0)),
        ("udp", six().extension(ext::HOP_BY_HOP, 8).extension(ext::ROUTING, 8).udp(1, 2), six().tcp(1, 2)),
    ] {
        rule(&lan, &format!("--action deny --direction out --weight 5 --protocol {protocol}"));
        lan.dropped("a", &good.build(), ("a", "out"), "rule-denied");
        lan.dropped("a", &good.vlan(0).build(), ("a", "out"), "rule-denied");
        lan.passes("a", "b", &bad.build());
        lan.run("rule remove a --direction out --weight 5");
    }
}

#[test]
fn h29_fragments_do_not_carry_what_a_rule_denies() {
    let mut lan = pair();
    rule(&lan, "--action deny --direction out --weight 5 --protocol udp --remote-port 53");
    for base in [four(), six()] {
        lan.dropped(
            "a",
            &base.clone().fragment(0, true).udp(1, 53).payload(&[0; 64]).build(),
            ("a", "out"),
            "rule-denied",
        );
        // Its ports cannot be seen, so it may be one of those.
        let later = base.clone().fragment(1480, false).protocol(17).payload(&[0; 64]);
        lan.dropped("a", &later.build(), ("a", "out"), "rule-denied");
        lan.passes("a", "b", &base.clone().fragment(1480, false).protocol(6).payload(&[0; 64]).build());
        lan.passes("a", "b", &base.fragment(0, true).udp(1, 54).payload(&[0; 64]).build());
    }
    lan.run("rule remove a --direction out --weight 5");
    // White list by port: a fragment without ports is not on it.
    rule(&lan, "--action deny --direction out --weight 1");
    rule(&lan, "--action allow --direction out --weight 9 --protocol udp --remote-port 54");
    let later = four().fragment(1480, false).protocol(17).payload(&[0; 64]).build();
    lan.dropped("a", &later, ("a", "out"), "rule-denied");
    lan.passes("a", "b", &four().udp(1, 54).build());
}

#[test]
fn h29_overlapping_and_tiny_fragments_are_dropped() {
    let mut lan = pair();
    rule(&lan, "--action deny --direction out --weight 5 --protocol tcp --remote-port 25");
    // RFC 1858: a second fragment that writes the TCP flags or ports anew, and a first one that ends before them.
    let overlap = four().fragment(8, false).protocol(6).payload(&[0; 64]).build();
    lan.dropped("a", &overlap, ("a", "out"), "bad-fragment");
    let mut tiny = four().fragment(0, true).protocol(6).payload(&[0, 1, 0, 26, 0, 0, 0, 0]).build();
    lan.dropped("a", &tiny, ("a", "out"), "bad-fragment");
    tiny[37] = 25;
    assert!(lan.send("a", &tiny).0.is_empty());
    let overlap6 = six().fragment(8, false).protocol(6).payload(&[0; 64]).build();
    lan.dropped("a", &overlap6, ("a", "out"), "bad-fragment");
}

#[test]
fn s8_headers_that_policy_cannot_read_are_dropped_where_rules_are() {
    let mut lan = pair();
    let long = (0..30).fold(six(), |frame, _| frame.extension(ext::DESTINATION, 8)).udp(1, 2).build();
    let mut odd = four().udp(1, 2).build();
    odd[14] = 0x44; // a header of four words
    let cut = four().udp(1, 2).build()[..30].to_vec();
    rule(&lan, "--action deny --direction out --weight 5 --protocol udp --remote-port 2");
    for frame in [&long, &odd, &cut] {
        lan.dropped("a", frame, ("a", "out"), "malformed-packet");
    }
}

#[test]
fn s8_acl_and_rules_must_both_allow() {
    let mut lan = pair();
    let frame = four().udp(1000, 53).build();
    rule(&lan, "--action allow --direction out --weight 100");
    lan.run("acl add a --action deny --direction out --remote 10.0.0.2");
    lan.dropped("a", &frame, ("a", "out"), "acl-denied");
    lan.run("acl remove a --action deny --direction out --remote 10.0.0.2");
    lan.run("acl add a --action allow --direction out --remote 10.0.0.2");
    rule(&lan, "--action deny --direction out --weight 200");
    lan.dropped("a", &frame, ("a", "out"), "rule-denied");
}

/// Random rules against random frames in both directions, rules coming and going meanwhile.
#[test]
fn s8_random_rules_decide_as_the_rule_book_reads() {
    let mut lan = pair();
    let mut dice = Dice::new(7);
    let mut rules: Vec<Rule> = Vec::new();
    let mut next = 1;
    let (mut passed, mut denied) = (0, 0);
    for round in 0..60 {
        for _ in 0..4 {
            if rules.len() > 40 || (rules.len() > 4 && dice.once_in(3)) {
                let gone = rules.swap_remove(dice.below(rules.len()));
                lan.run(&format!("rule remove a --direction {} --weight {}", gone.direction, gone.weight));
            } else {
                // Weights rise and fall, so that new rules come before and behind the old ones.
                next += 1;
                let weight = if next % 2 == 0 { 100_000 + next } else { 100_000 - next };
                let fresh = random_rule(&mut dice, weight);
                lan.run(&fresh.command("a"));
                rules.push(fresh);
            }
        }
        for number in 0..60 {
            let (frame, facts) = random_frame(&mut dice, 1, 2);
            let (from, to) = if facts.direction == "out" { ("a", "b") } else { ("b", "a") };
            let winner = judge(&rules, &facts);
            let want: &[&str] = if winner.is_some_and(|rule| rule.action == "deny") { &[] } else { &[to] };
            let heard = lan.send(from, &frame.build());
            assert_eq!(heard.by(), want, "round {round}, frame {number}: {facts:?} by {winner:?}");
            *if want.is_empty() { &mut denied } else { &mut passed } += 1;
        }
    }
    assert!(passed > 300 && denied > 300, "a dull set: {passed} passed, {denied} denied");
    let drops = lan.switch.drops("a", "out", "rule-denied") + lan.switch.drops("a", "in", "rule-denied");
    assert_eq!(drops, denied);
}

#[test]
fn s8_a_rule_may_be_about_one_network() {
    let mut lan = Lan::new(&[("a", "--vlan trunk:10,20"), ("b", "--vlan trunk:10,20")]);
    rule(&lan, "--action deny --direction out --weight 5 --isolation-id 10");
    let frame = |id| four().vlan(id).udp(1, 2).build();
    lan.dropped("a", &frame(10), ("a", "out"), "rule-denied");
    lan.passes("a", "b", &frame(20));
}

#[test]
fn s8_a_refused_rule_changes_nothing() {
    let mut lan = pair();
    rule(&lan, "--action deny --direction out --weight 5 --protocol udp --remote-port 53");
    let before = lan.switch.json(&["rule", "list", "a"]);
    for (bad, reason) in [
        ("--action allow --direction out --weight 6 --protocol udp --idle-timeout 30s", "77"),
        ("--action allow --direction out --weight 6 --protocol udp --remote-port 70-60", "79"),
        ("--action allow --direction out --weight 6 --stateful", "80"),
        ("--action allow --direction out --weight 6 --protocol icmp --stateful", "80"),
        ("--action allow --direction out --weight 5", "24"),
    ] {
        let words: Vec<&str> = ["rule", "add", "a"].into_iter().chain(bad.split(' ')).collect();
        let output = lan.switch.run(&words);
        assert_eq!(output.status.code(), Some(1), "{bad}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(reason), "{bad}: no reason {reason} in: {said}");
    }
    for absent in ["rule remove a --direction in --weight 5", "rule remove a --direction out --weight 6"] {
        assert_eq!(lan.switch.run(&absent.split(' ').collect::<Vec<_>>()).status.code(), Some(1), "{absent}");
    }
    assert_eq!(lan.switch.json(&["rule", "list", "a"]), before);
    lan.dropped("a", &four().udp(1, 53).build(), ("a", "out"), "rule-denied");
    // Equal weights in two directions are two rules.
    rule(&lan, "--action deny --direction in --weight 5 --protocol udp");
    assert_eq!(lan.switch.json(&["rule", "list", "a"]).as_array().map(Vec::len), Some(2));
}

#[test]
fn s8_rules_survive_a_restart() {
    let mut lan = pair();
    rule(&lan, "--action allow --direction out --weight 9 --protocol tcp --stateful --idle-timeout 45s");
    rule(&lan, "--action deny --direction out --weight 5 --remote fd00::/16");
    lan.dropped("a", &six().to_ip(v6(2)).udp(1, 2).build(), ("a", "out"), "rule-denied");
    let before = lan.switch.json(&["rule", "list", "a"]);
    assert!(lan.switch.terminate().success());
    lan.switch.start_again();
    assert!(eventually(|| lan.switch.run(&["rule", "list", "a"]).status.success()));
    let after = lan.switch.json(&["rule", "list", "a"]);
    assert_eq!(after.to_string(), before.to_string());
}
