//! Meters (rule book, section 9): every byte on one entry, exactly, whatever happens to the process.

use std::time::Duration;

use turnpike_tests::features::{CSUM, HOST_TSO4, HOST_TSO6, MRG_RXBUF, RECEIVE_OFFLOADS};
use turnpike_tests::frame::pattern;
use turnpike_tests::lan::{mac, mac_text, v4};
use turnpike_tests::reference::{Counts, Dice, Entry, ask, listed, random_entry, random_frame};
use turnpike_tests::{Frame, Guest, Lan, Options, eventually};

fn pair() -> Lan {
    Lan::new(&[("a", ""), ("b", "")])
}

/// The entries of a port's report.
fn entries(lan: &Lan, port: &str) -> serde_json::Value {
    let report = lan.switch.json(&["meter", "show", port]);
    let list = report.as_array().unwrap_or_else(|| panic!("no list: {report}"));
    assert_eq!(list.len(), 1, "{report}");
    assert_eq!(list[0]["port"], port);
    list[0]["entries"].clone()
}

/// (packets, bytes) of the report's entry for a direction and side, `local` or `remote`, with this address.
fn count(lan: &Lan, port: &str, direction: &str, side: &str, address: &str) -> (u64, u64) {
    let list = entries(lan, port);
    let rows = list.as_array().expect("a list").iter();
    let mut found = rows.filter(|row| row["direction"] == direction && row[side] == address);
    let row = found.next().unwrap_or_else(|| panic!("no {direction} {side} {address} in {list}"));
    (row["packets"].as_u64().expect("packets"), row["bytes"].as_u64().expect("bytes"))
}

#[test]
fn s9_four_meters_by_default_if_there_is_no_acl() {
    let mut lan = pair();
    lan.run("meter enable a");
    assert_eq!(entries(&lan, "a").as_array().map(Vec::len), Some(4));
    let four = Frame::new(mac(2), mac(1)).ipv4().udp(1, 2).payload(&[1; 100]).build();
    let six = Frame::new(mac(1), mac(2)).ipv6().udp(1, 2).payload(&[1; 200]).build();
    for _ in 0..5 {
        lan.passes("a", "b", &four);
        lan.passes("b", "a", &six);
        // Neither IPv4 nor IPv6: no IP meter counts it.
        lan.passes("a", "b", &Frame::new(mac(2), mac(1)).payload(&[1; 60]).build());
    }
    assert_eq!(count(&lan, "a", "out", "remote", "0.0.0.0/0"), (5, 5 * four.len() as u64));
    assert_eq!(count(&lan, "a", "in", "remote", "::/0"), (5, 5 * six.len() as u64));
    assert_eq!(count(&lan, "a", "in", "remote", "0.0.0.0/0"), (0, 0));
    assert_eq!(count(&lan, "a", "out", "remote", "::/0"), (0, 0));
    lan.run("meter disable a");
    assert!(!lan.switch.run(&["meter", "show", "a", "--json"]).status.success(), "a report without metering");
    assert_eq!(lan.switch.json(&["acl", "list", "a"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn s9_own_meters_are_instead_of_the_default_ones() {
    let mut lan = pair();
    lan.run("acl add a --action meter --direction out --remote 10.0.0.0/8");
    lan.run("acl add a --action meter --direction out --remote 10.0.0.2");
    lan.run("acl add a --action meter --direction out --remote 0.0.0.0/0");
    lan.run("meter enable a");
    assert_eq!(entries(&lan, "a").as_array().map(Vec::len), Some(3));
    let to = |ip: [u8; 4]| Frame::new(mac(2), mac(1)).ipv4().to_ip(ip).udp(1, 2).payload(&[1; 100]).build();
    for (ip, times) in [([10, 0, 0, 2], 1), ([10, 0, 0, 3], 2), ([11, 0, 0, 2], 4)] {
        for _ in 0..times {
            lan.passes("a", "b", &to(ip));
        }
    }
    let size = to([10, 0, 0, 2]).len() as u64;
    assert_eq!(count(&lan, "a", "out", "remote", "0.0.0.0/0"), (4, 4 * size));
    assert_eq!(count(&lan, "a", "out", "remote", "10.0.0.0/8"), (2, 2 * size));
    let one = |address| (count(&lan, "a", "out", "remote", address), (1, size));
    let host = entries(&lan, "a").to_string();
    let (got, want) = one(if host.contains("10.0.0.2/32") { "10.0.0.2/32" } else { "10.0.0.2" });
    assert_eq!(got, want);
}

#[test]
fn s23_3_a_mac_meter_counts_whole_frames_beside_the_ip_meters() {
    let mut lan = pair();
    let peer = mac_text(mac(2));
    lan.run(&format!("acl add a --action meter --direction both --remote {peer}"));
    lan.run("acl add a --action meter --direction out --remote any");
    lan.run("meter enable a");
    let ip = Frame::new(mac(2), mac(1)).ipv4().udp(1, 2).payload(&[1; 100]).build();
    let other = Frame::new(mac(2), mac(1)).payload(&[1; 60]).build();
    lan.passes("a", "b", &ip);
    lan.passes("a", "b", &other);
    assert_eq!(count(&lan, "a", "out", "remote", &peer), (2, (ip.len() + other.len()) as u64));
    assert_eq!(count(&lan, "a", "in", "remote", &peer), (0, 0));
    assert_eq!(count(&lan, "a", "out", "remote", "any"), (1, ip.len() as u64));
}

#[test]
fn s9_what_is_dropped_is_not_metered() {
    let mut lan = pair();
    lan.run("acl add a --action meter --direction both --remote any");
    lan.run("acl add a --action deny --direction out --remote 10.0.0.7");
    lan.run("rule add a --action deny --direction out --weight 5 --protocol tcp");
    lan.run("meter enable a");
    let frame = |ip| Frame::new(mac(2), mac(1)).ipv4().to_ip(ip);
    lan.dropped("a", &frame(v4(7)).udp(1, 2).build(), ("a", "out"), "acl-denied");
    lan.dropped("a", &frame(v4(2)).tcp(1, 2).build(), ("a", "out"), "rule-denied");
    lan.set("a", "--dhcp-guard on --storm-limit 1");
    lan.dropped("a", &frame(v4(2)).dhcp4((67, 68), 2, [0; 4].into()).build(), ("a", "out"), "dhcp-guard");
    let nobody = Frame::new([2, 9, 9, 9, 9, 9], mac(1)).ipv4().udp(1, 2).build();
    lan.dropped("a", &nobody, ("a", "out"), "unknown-unicast");
    let hello = Frame::new([0xff; 6], mac(1)).ipv4().udp(1, 2).build();
    let passed = lan.send_all("a", &vec![hello.clone(); 20]).0.len() as u64;
    assert_eq!(lan.switch.drops("a", "out", "storm-limit"), 20 - passed);
    assert_eq!(count(&lan, "a", "out", "remote", "any"), (passed, passed * hello.len() as u64));
    lan.set("a", "--dhcp-guard off --storm-limit 0");
    lan.run("meter reset a");
    // Denied at the receiver: it was sent, and the sender pays for it.
    lan.run("acl add b --action deny --direction in --local 10.0.0.9");
    let sent = frame(v4(9)).udp(1, 2).build();
    lan.dropped("a", &sent, ("b", "in"), "acl-denied");
    assert_eq!(count(&lan, "a", "out", "remote", "any"), (1, sent.len() as u64));
}

#[test]
fn s9_a_large_frame_counts_as_the_packets_it_becomes() {
    let mut lan = Lan::new(&[]);
    let knowing = Options::plain().with(CSUM | HOST_TSO4 | HOST_TSO6 | RECEIVE_OFFLOADS | MRG_RXBUF);
    lan.add("a", "", knowing.clone());
    lan.add("b", "", knowing);
    lan.add("plain", "", Options::plain());
    for name in ["a", "b", "plain"] {
        lan.run(&format!("meter enable {name}"));
    }
    for (number, to) in [(2, "b"), (3, "plain")] {
        let kind = Frame::new(mac(number), mac(1)).ipv4().tcp(1, 2).payload(&pattern(9_500, 1));
        let (header, frame) = kind.build_large(1000);
        assert!(!lan.send_with("a", header, &frame).0.is_empty());
        let want = (10, (9_500 + 10 * (frame.len() - 9_500)) as u64);
        assert_eq!(count(&lan, to, "in", "remote", "0.0.0.0/0"), want, "at {to}");
    }
    let (packets, bytes) = count(&lan, "a", "out", "remote", "0.0.0.0/0");
    assert_eq!((packets, bytes), (20, lan.switch.counter("a", "out_bytes")));
}

#[test]
fn s9_a_tag_counts_where_it_is() {
    let mut lan = Lan::new(&[("a", "--vlan access:9"), ("t", "--vlan trunk:9")]);
    lan.run("meter enable --all");
    let frame = Frame::new(mac(2), mac(1)).ipv4().udp(1, 2).payload(&[1; 100]).build();
    assert_eq!(lan.send("a", &frame).by(), ["t"]);
    assert_eq!(count(&lan, "a", "out", "remote", "0.0.0.0/0"), (1, frame.len() as u64));
    assert_eq!(count(&lan, "t", "in", "remote", "0.0.0.0/0"), (1, frame.len() as u64 + 4));
}

/// Random ACLs of all actions, random frames of both directions: each meter has exactly the bytes of its frames.
#[test]
fn s9_random_meters_count_every_byte_once() {
    let mut lan = pair();
    for seed in 0..10 {
        let mut dice = Dice::new(500 + seed);
        let mut list: Vec<Entry> = Vec::new();
        while list.len() < 24 {
            let entry = random_entry(&mut dice, &["meter", "meter", "meter", "deny", "allow"], 1, 2);
            let class = |e: &Entry| e.action == "meter";
            let same = |e: &Entry| {
                (e.direction, e.side, e.address, class(e))
                    == (entry.direction, entry.side, entry.address, class(&entry))
            };
            let everything = entry.action == "deny"
                && matches!(
                    entry.address,
                    turnpike_tests::reference::Address::AnyMac | turnpike_tests::reference::Address::Any
                );
            if !everything && !list.iter().any(same) {
                list.push(entry);
            }
        }
        for entry in &list {
            lan.run(&entry.command("a"));
        }
        lan.run("meter enable a");
        let (mut ip, mut by_mac) = (Counts::default(), Counts::default());
        for _ in 0..400 {
            let (frame, facts) = random_frame(&mut dice, 1, 2);
            let from = if facts.direction == "out" { "a" } else { "b" };
            let bytes = frame.build();
            let said = ask(&list, &facts);
            let heard = lan.send(from, &bytes);
            assert_eq!(heard.0.is_empty(), !said.denied_by.is_empty(), "seed {seed}: {facts:?}");
            if said.denied_by.is_empty() {
                ip.add(&said.ip_meters, 1, bytes.len() as u64);
                by_mac.add(&said.mac_meters, 1, bytes.len() as u64);
            }
        }
        let report = entries(&lan, "a");
        let mac_entry = |e: &Entry| {
            matches!(
                e.address,
                turnpike_tests::reference::Address::AnyMac | turnpike_tests::reference::Address::Mac(_)
            )
        };
        for (what, counts, macs) in [("IP meters", &ip, false), ("MAC meters", &by_mac, true)] {
            let rows = list.iter().enumerate().filter(|(_, e)| e.action == "meter" && mac_entry(e) == macs);
            counts.check(&format!("seed {seed}, {what}"), rows.map(|(i, e)| (i, listed(&report, e))));
        }
        lan.run("meter disable a");
        for entry in &list {
            lan.run(&entry.command("a").replacen("acl add", "acl remove", 1));
        }
    }
}

#[test]
fn s9_reset_zeroes_numbers_and_duration_and_goes_on() {
    let mut lan = pair();
    lan.run("meter enable a");
    let frame = Frame::new(mac(2), mac(1)).ipv4().udp(1, 2).payload(&[1; 100]).build();
    lan.passes("a", "b", &frame);
    std::thread::sleep(Duration::from_millis(1100));
    let duration =
        |lan: &Lan| lan.switch.json(&["meter", "show", "a"])[0]["duration_s"].as_f64().expect("duration_s");
    assert!(duration(&lan) >= 1.0);
    lan.run("meter reset a");
    assert!(duration(&lan) < 1.0);
    assert_eq!(count(&lan, "a", "out", "remote", "0.0.0.0/0"), (0, 0));
    lan.passes("a", "b", &frame);
    assert_eq!(count(&lan, "a", "out", "remote", "0.0.0.0/0"), (1, frame.len() as u64));
}

#[test]
fn s9_totals_add_equal_entries_over_ports() {
    let mut lan = Lan::new(&[("a", ""), ("b", ""), ("c", "")]);
    lan.run("meter enable --all");
    let frame = |from, to| Frame::new(mac(to), mac(from)).ipv4().udp(1, 2).payload(&[1; 100]).build();
    lan.passes("a", "b", &frame(1, 2));
    lan.passes("b", "c", &frame(2, 3));
    lan.passes("c", "b", &frame(3, 2));
    let size = frame(1, 2).len() as u64;
    assert_eq!(lan.switch.json(&["meter", "show"]).as_array().map(Vec::len), Some(3));
    let total = lan.switch.json(&["meter", "show", "--total"]).to_string();
    let document: serde_json::Value = serde_json::from_str(&total).expect("JSON");
    // One list of entries, in whatever frame around it.
    let rows = find_entries(&document).unwrap_or_else(|| panic!("no entries in {total}"));
    assert_eq!(rows.len(), 4, "{total}");
    for direction in ["out", "in"] {
        let row =
            rows.iter().find(|r| r["direction"] == direction && r["remote"] == "0.0.0.0/0").expect("a row");
        assert_eq!((row["packets"].as_u64(), row["bytes"].as_u64()), (Some(3), Some(3 * size)), "{total}");
    }
}

fn find_entries(value: &serde_json::Value) -> Option<&Vec<serde_json::Value>> {
    match value {
        serde_json::Value::Array(list) if list.first().is_some_and(|row| row.get("direction").is_some()) => {
            Some(list)
        }
        serde_json::Value::Array(list) => list.iter().find_map(find_entries),
        serde_json::Value::Object(map) => map.values().find_map(find_entries),
        _ => None,
    }
}

#[test]
fn s9_meters_survive_a_stop_and_go_on() {
    let mut lan = pair();
    lan.run("meter enable a");
    let frame = Frame::new(mac(2), mac(1)).ipv4().udp(1, 2).payload(&[1; 100]).build();
    for _ in 0..9 {
        lan.passes("a", "b", &frame);
    }
    let before = lan.switch.json(&["meter", "show", "a"]);
    assert!(lan.switch.terminate().success());
    lan.switch.start_again();
    let after = lan.switch.json(&["meter", "show", "a"]);
    assert_eq!(after[0]["entries"], before[0]["entries"]);
    assert_eq!(after[0]["since"], before[0]["since"]);
    let socket = lan.switch.dir().join("a.sock");
    let mut a = Guest::connect(&socket, Options::default());
    let mut b = Guest::connect(&lan.switch.dir().join("b.sock"), Options::default());
    a.send(&frame);
    b.expect(&frame);
    assert_eq!(count(&lan, "a", "out", "remote", "0.0.0.0/0"), (10, 10 * frame.len() as u64));
}

/// A burst is 64 frames; a queue's burst under way is all that a killed process may not have counted.
const BURST: u64 = 64;

#[test]
fn s9_a_killed_switch_loses_at_most_the_burst_under_way() {
    for round in 0..6u64 {
        let mut lan = pair();
        lan.run("meter enable --all");
        let frame = Frame::new(mac(2), mac(1)).ipv4().udp(1, 2).payload(&[1; 100]).build();
        let size = frame.len() as u64;
        let (mut a, mut b) = (lan.take("a"), lan.take("b"));
        let stop = std::sync::atomic::AtomicBool::new(false);
        let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
        let (taken, received) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent = 0u64;
                while !stopped() {
                    let patience = Duration::from_millis(20);
                    sent += u64::from(a.send_within(0, turnpike_tests::NetHdr::default(), &frame, patience));
                }
                a.reclaim(0);
                sent - a.tx[0].in_flight() as u64
            });
            let receiver = scope.spawn(|| {
                let mut count = 0u64;
                // Without waiting to be called: the switch may die between a frame and its call.
                while !stopped() {
                    match b.poll() {
                        Some(_) => count += 1,
                        None => std::thread::sleep(Duration::from_micros(50)),
                    }
                }
                count + std::iter::from_fn(|| b.poll()).count() as u64
            });
            assert!(eventually(|| lan.switch.counter("b", "in_packets") > 500));
            std::thread::sleep(Duration::from_millis(7 * round));
            lan.switch.kill();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            (sender.join().expect("the sender"), receiver.join().expect("the receiver"))
        });
        lan.switch.start_again();
        assert!(eventually(|| lan.switch.run(&["meter", "show", "a"]).status.success()));
        for (port, direction, happened) in [("a", "out", taken), ("b", "in", received)] {
            let (packets, bytes) = count(&lan, port, direction, "remote", "0.0.0.0/0");
            let apart = packets.abs_diff(happened);
            assert!(apart <= BURST, "round {round}: {packets} metered at {port}, {happened} happened");
            assert!(bytes.abs_diff(packets * size) <= BURST * size, "{bytes} bytes of {packets} packets");
        }
    }
}
