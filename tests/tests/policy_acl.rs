//! Port ACLs (rule book, section 7): longest prefix, local and remote, MAC beside IP, exact counts, changes while frames pass.

use std::net::IpAddr;

use turnpike_tests::frame::BROADCAST;
use turnpike_tests::lan::{mac, mac_text, v4, v6};
use turnpike_tests::protocols::{arp, icmp};
use turnpike_tests::reference::{Counts, Dice, Entry, ask, listed, random_entry, random_frame};
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Frame, Lan, NetHdr, Options, PATIENCE};

fn pair() -> Lan {
    Lan::new(&[("a", ""), ("b", "")])
}

/// A UDP packet of `a` (number 1) to `b` (number 2) with these addresses.
fn out(from: impl Into<IpAddr>, to: impl Into<IpAddr>) -> Vec<u8> {
    udp(Frame::new(mac(2), mac(1)), from.into(), to.into())
}

/// The same from `b` to `a`.
fn back(from: impl Into<IpAddr>, to: impl Into<IpAddr>) -> Vec<u8> {
    udp(Frame::new(mac(1), mac(2)), from.into(), to.into())
}

fn udp(frame: Frame, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let frame = if from.is_ipv4() { frame.ipv4() } else { frame.ipv6() };
    frame.from_ip(from).to_ip(to).udp(1000, 80).payload(&[7; 64]).build()
}

fn deny(lan: &Lan, rest: &str) {
    lan.run(&format!("acl add a --action deny {rest}"));
}

fn allow(lan: &Lan, rest: &str) {
    lan.run(&format!("acl add a --action allow {rest}"));
}

#[test]
fn s7_without_an_entry_everything_passes() {
    let mut lan = pair();
    for frame in [out(v4(1), v4(2)), out(v6(1), v6(2)), Frame::new(mac(2), mac(1)).payload(&[1; 60]).build()]
    {
        lan.passes("a", "b", &frame);
    }
    // An allow alone is no white list.
    allow(&lan, "--direction both --remote 10.0.0.2");
    lan.passes("a", "b", &out(v4(1), v4(77)));
}

#[test]
fn s7_a_deny_holds_in_its_direction_only() {
    let mut lan = pair();
    deny(&lan, "--direction out --remote 10.0.0.2");
    lan.dropped("a", &out(v4(1), v4(2)), ("a", "out"), "acl-denied");
    lan.passes("b", "a", &back(v4(2), v4(1)));
    deny(&lan, "--direction in --remote 10.0.0.2");
    lan.dropped("b", &back(v4(2), v4(1)), ("a", "in"), "acl-denied");
    lan.run("acl remove a --action deny --direction out --remote 10.0.0.2");
    lan.passes("a", "b", &out(v4(1), v4(2)));
    lan.dropped("b", &back(v4(2), v4(1)), ("a", "in"), "acl-denied");
}

#[test]
fn s7_both_is_two_entries() {
    let mut lan = pair();
    deny(&lan, "--direction both --remote 10.0.0.2");
    let list = lan.switch.json(&["acl", "list", "a"]);
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    lan.dropped("a", &out(v4(1), v4(2)), ("a", "out"), "acl-denied");
    lan.dropped("b", &back(v4(2), v4(1)), ("a", "in"), "acl-denied");
    lan.run("acl remove a --action deny --direction in --remote 10.0.0.2");
    lan.passes("b", "a", &back(v4(2), v4(1)));
    lan.dropped("a", &out(v4(1), v4(2)), ("a", "out"), "acl-denied");
}

#[test]
fn s7_longest_prefix_wins() {
    let mut lan = pair();
    deny(&lan, "--direction out --remote any");
    allow(&lan, "--direction out --remote 10.0.0.0/8");
    deny(&lan, "--direction out --remote 10.1.0.0/16");
    allow(&lan, "--direction out --remote 10.1.2.0/24");
    deny(&lan, "--direction out --remote 10.1.2.3");
    for (ip, passes) in [
        ([11, 0, 0, 1], false),
        ([10, 0, 0, 9], true),
        ([10, 1, 0, 1], false),
        ([10, 1, 2, 2], true),
        ([10, 1, 2, 3], false),
        ([10, 1, 3, 3], false),
        ([255, 255, 255, 255], false),
    ] {
        let frame = out(v4(1), IpAddr::from(ip));
        if passes {
            lan.passes("a", "b", &frame);
        } else {
            lan.dropped("a", &frame, ("a", "out"), "acl-denied");
        }
    }
    // `any` is of both families.
    lan.dropped("a", &out(v6(1), v6(2)), ("a", "out"), "acl-denied");
    allow(&lan, "--direction out --remote fd00::2");
    lan.passes("a", "b", &out(v6(1), v6(2)));
    // Not IP: IP entries do not see it.
    lan.passes("a", "b", &Frame::new(mac(2), mac(1)).payload(&[1; 60]).build());
}

#[test]
fn s7_the_longer_of_local_and_remote_decides_and_of_equals_the_deny() {
    let mut lan = pair();
    deny(&lan, "--direction out --local 10.0.0.0/24");
    allow(&lan, "--direction out --remote 10.7.0.0/16");
    lan.dropped("a", &out(v4(1), IpAddr::from([10, 7, 0, 1])), ("a", "out"), "acl-denied");
    allow(&lan, "--direction out --remote 10.7.7.0/25");
    lan.passes("a", "b", &out(v4(1), IpAddr::from([10, 7, 7, 1])));
    allow(&lan, "--direction out --remote 10.7.9.0/24");
    lan.dropped("a", &out(v4(1), IpAddr::from([10, 7, 9, 1])), ("a", "out"), "acl-denied");
}

#[test]
fn s7_mac_and_ip_entries_must_both_allow() {
    let mut lan = pair();
    allow(&lan, "--direction out --remote 10.0.0.2");
    deny(&lan, &format!("--direction out --remote {}", mac_text(mac(2))));
    lan.dropped("a", &out(v4(1), v4(2)), ("a", "out"), "acl-denied");
    let other = Frame::new(mac(2), mac(1)).payload(&[1; 60]).build();
    lan.dropped("a", &other, ("a", "out"), "acl-denied");
    lan.run(&format!("acl remove a --action deny --direction out --remote {}", mac_text(mac(2))));
    // One MAC address beats all of them.
    deny(&lan, "--direction out --remote any-mac");
    lan.dropped("a", &out(v4(1), v4(2)), ("a", "out"), "acl-denied");
    allow(&lan, &format!("--direction out --remote {}", mac_text(mac(2))));
    lan.passes("a", "b", &out(v4(1), v4(2)));
    lan.passes("a", "b", &other);
    deny(&lan, "--direction out --remote 10.0.0.0/31");
    lan.passes("a", "b", &out(v4(1), v4(2)));
}

#[test]
fn s7_a_flow_between_two_ports_is_judged_at_both() {
    let mut lan = pair();
    lan.run("acl add b --action deny --direction in --local 10.0.0.2");
    lan.dropped("a", &out(v4(1), v4(2)), ("b", "in"), "acl-denied");
    lan.passes("a", "b", &out(v4(1), v4(3)));
    deny(&lan, "--direction out --local 10.0.0.1");
    lan.dropped("a", &out(v4(1), v4(3)), ("a", "out"), "acl-denied");
    // Stateless: the answer has rules of its own.
    lan.passes("b", "a", &back(v4(2), v4(1)));
}

#[test]
fn s7_one_denied_receiver_of_a_broadcast_does_not_affect_the_others() {
    let mut lan = Lan::new(&[("a", ""), ("b", ""), ("c", ""), ("d", "")]);
    lan.run("acl add c --action deny --direction in --remote 10.0.0.1");
    let hello = Frame::new(BROADCAST, mac(1)).ipv4().to_ip(IpAddr::from([255; 4])).udp(1, 2).build();
    for round in 1..=20 {
        assert_eq!(lan.send("a", &hello).by(), ["b", "d"]);
        assert_eq!(lan.switch.drops("c", "in", "acl-denied"), round);
    }
    assert_eq!(lan.switch.counter("a", "out_packets"), 20);
    assert_eq!(lan.switch.all_drops("a"), 0);
}

#[test]
fn s7_arp_and_discovery_follow_a_local_white_list() {
    let mut lan = pair();
    allow(&lan, "--direction out --local 10.0.0.1");
    allow(&lan, "--direction out --local fd00::1");
    deny(&lan, "--direction out --local any");
    let base = Frame::new(mac(2), mac(1));
    lan.passes("a", "b", &out(v4(1), v4(2)));
    lan.dropped("a", &out(v4(9), v4(2)), ("a", "out"), "acl-denied");
    lan.passes("a", "b", &base.clone().arp(arp::REPLY, (mac(1), v4(1)), (mac(2), v4(2))).build());
    let claim = base.clone().arp(arp::REPLY, (mac(1), v4(9)), (mac(2), v4(2))).build();
    lan.dropped("a", &claim, ("a", "out"), "acl-denied");
    let six = base.ipv6();
    let advertise = icmp::NEIGHBOUR_ADVERTISEMENT;
    lan.passes("a", "b", &six.clone().neighbour(advertise, v6(1), Some(mac(1))).build());
    lan.dropped("a", &six.neighbour(advertise, v6(9), Some(mac(1))).build(), ("a", "out"), "acl-denied");
}

#[test]
fn s7_large_frames_and_multicast_are_matched_like_any() {
    let mut lan = pair();
    deny(&lan, "--direction out --remote 224.0.0.0/4");
    deny(&lan, "--direction out --remote 10.0.0.2");
    let group =
        Frame::new([1, 0, 0x5e, 0, 0, 5], mac(1)).ipv4().to_ip(IpAddr::from([224, 0, 0, 5])).udp(1, 2);
    lan.dropped("a", &group.build(), ("a", "out"), "acl-denied");
    let (header, large) =
        Frame::new(mac(2), mac(1)).ipv4().to_ip(v4(2)).tcp(1, 2).payload(&[1; 7000]).build_large(1400);
    let before = lan.switch.drops("a", "out", "acl-denied");
    assert!(lan.send_with("a", header, &large).0.is_empty());
    assert!(lan.switch.drops("a", "out", "acl-denied") > before);
}

/// Random ACLs against random frames in both directions: what passes, and what each deny entry counts.
#[test]
fn s7_random_acls_decide_and_count_as_the_rule_book_reads() {
    let mut lan = pair();
    let mut all = [0, 0, 0];
    for seed in 0..12 {
        let mut dice = Dice::new(100 + seed);
        let mut entries: Vec<Entry> = Vec::new();
        while entries.len() < 24 {
            let entry = random_entry(&mut dice, &["allow", "deny"], 1, 2);
            let same =
                |e: &Entry| (e.direction, e.side, e.address) == (entry.direction, entry.side, entry.address);
            if !entries.iter().any(same) {
                entries.push(entry);
            }
        }
        // A deny of every MAC address would leave little to see.
        entries.retain(|e| {
            e.action == "allow" || !matches!(e.address, turnpike_tests::reference::Address::AnyMac)
        });
        for entry in &entries {
            lan.run(&entry.command("a"));
        }
        let (mut counts, mut denied, mut passed) = (Counts::default(), [0, 0], 0);
        for number in 0..400 {
            let (frame, facts) = random_frame(&mut dice, 1, 2);
            let (from, to) = if facts.direction == "out" { ("a", "b") } else { ("b", "a") };
            let bytes = frame.build();
            let said = ask(&entries, &facts);
            let want: &[&str] = if said.denied_by.is_empty() { &[to] } else { &[] };
            assert_eq!(
                lan.send(from, &bytes).by(),
                want,
                "seed {seed}, frame {number}: {facts:?} by {entries:?}"
            );
            counts.add(&said.denied_by, 1, bytes.len() as u64);
            denied[usize::from(facts.direction == "in")] += u64::from(want.is_empty());
            passed += u64::from(!want.is_empty());
        }
        all = [all[0] + passed, all[1] + denied[0], all[2] + denied[1]];
        let list = lan.switch.json(&["acl", "list", "a"]);
        let rows = entries.iter().enumerate().filter(|(_, e)| e.action == "deny");
        counts.check(&format!("seed {seed}"), rows.map(|(i, entry)| (i, listed(&list, entry))));
        for entry in &entries {
            lan.run(&entry.command("a").replacen("acl add", "acl remove", 1));
        }
        assert_eq!(lan.switch.json(&["acl", "list", "a"]).as_array().map(Vec::len), Some(0));
    }
    assert!(all.iter().all(|&count| count > 500), "a dull set: passed, denied out and in: {all:?}");
}

#[test]
fn s7_a_change_holds_for_the_next_frame_on_every_worker() {
    let mut lan = Lan::with(SwitchOptions { workers: 2, ..SwitchOptions::default() }, &[]);
    lan.add("a", "", Options::default().pairs(4).ring_size(64));
    lan.add("b", "", Options::default());
    let frame = out(v4(1), v4(2));
    for round in 0..50 {
        for pair in 0..4 {
            assert_eq!(lan.send_on("a", pair, NetHdr::default(), &frame).by(), ["b"], "round {round}");
        }
        lan.run("acl add a --action deny --direction out --remote 10.0.0.2");
        for pair in 0..4 {
            let heard = lan.send_on("a", pair, NetHdr::default(), &frame);
            assert!(
                heard.0.is_empty(),
                "round {round}: denied before it was sent, it passed by queue {pair}"
            );
        }
        lan.run("acl remove a --action deny --direction out --remote 10.0.0.2");
    }
    assert_eq!(lan.switch.drops("a", "out", "acl-denied"), 200);
}

#[test]
fn s7_no_frame_passes_after_the_command_returned_under_load() {
    let mut lan = pair();
    let frame = out(v4(1), v4(2));
    let mut sender = lan.take("a");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut sent = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                sender.send(&frame);
                sent += 1;
            }
            assert!(sender.flush(PATIENCE));
            sent
        });
        for round in 0..10 {
            assert!(lan.guest("b").receive(PATIENCE).is_some(), "round {round}: nothing comes");
            lan.run("acl add a --action deny --direction out --remote 10.0.0.2");
            // Everything that is there now was sent before. From here on nothing may come.
            let there = lan.heard().0.len();
            std::thread::sleep(std::time::Duration::from_millis(10));
            let late = lan.heard().0.len();
            assert_eq!(
                late, 0,
                "round {round}: {late} frames after the command had returned ({there} before)"
            );
            lan.run("acl remove a --action deny --direction out --remote 10.0.0.2");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        while !load.is_finished() {
            lan.heard();
        }
        load.join().expect("the sender")
    });
    // Every frame passed or was denied, or found the receiver full while this test did not read.
    let drops = lan.switch.drops("a", "out", "acl-denied");
    let went = lan.switch.counter("a", "out_packets");
    assert_eq!(went + drops, sent, "{}", lan.switch.port("a")["counters"]);
}

#[test]
fn s7_a_refused_entry_changes_nothing() {
    let mut lan = pair();
    deny(&lan, "--direction out --remote 10.0.0.2");
    let before = lan.switch.json(&["acl", "list", "a"]);
    for (bad, reason) in [
        ("--action deny --direction out --remote 10.0.0.2", "24"),
        ("--action deny --direction both --remote 10.0.0.2", "24"),
        ("--action deny --direction out --remote 10.0.0.1/24", "19"),
        ("--action deny --direction out --remote 10.0.0.0/33", "17"),
        ("--action deny --direction out --remote fd00::/129", "17"),
        ("--action deny --direction out --remote 10.0.0", "19"),
    ] {
        let words: Vec<&str> = ["acl", "add", "a"].into_iter().chain(bad.split(' ')).collect();
        let output = lan.switch.run(&words);
        assert_eq!(output.status.code(), Some(1), "{bad}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(reason), "{bad}: no reason {reason} in: {said}");
    }
    for absent in [
        "acl remove a --action deny --direction in --remote 10.0.0.2",
        "acl remove a --action allow --direction out --remote 10.0.0.2",
        "acl remove a --action deny --direction out --local 10.0.0.2",
        "acl remove a --action deny --direction out --remote 10.0.0.0/31",
        "acl remove a --action deny --direction both --remote 10.0.0.2",
    ] {
        let output = lan.switch.run(&absent.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(1), "{absent}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("26"), "{absent}: {output:?}");
    }
    assert_eq!(lan.switch.json(&["acl", "list", "a"]), before);
    lan.dropped("a", &out(v4(1), v4(2)), ("a", "out"), "acl-denied");
}

#[test]
fn s7_entries_and_their_counts_survive_a_restart() {
    let mut lan = pair();
    deny(&lan, "--direction out --remote 10.0.0.2");
    for _ in 0..7 {
        assert!(lan.send("a", &out(v4(1), v4(2))).0.is_empty());
    }
    let before = lan.switch.json(&["acl", "list", "a"]);
    assert_eq!(before[0]["packets"], 7, "{before}");
    assert_eq!(before[0]["bytes"], 7 * out(v4(1), v4(2)).len() as u64);
    assert!(lan.switch.terminate().success());
    lan.switch.start_again();
    assert_eq!(lan.switch.json(&["acl", "list", "a"]), before);
}
