//! `explain` says what then really happens, and nothing happens because of it.

use turnpike_tests::frame::{BROADCAST, ext};
use turnpike_tests::lan::mac;
use turnpike_tests::protocols::{BOOTREPLY, arp, icmp};
use turnpike_tests::reference::{Dice, random_entry, random_ip, random_rule};
use turnpike_tests::{Frame, Lan};

const PORTS: [(&str, &str); 9] = [
    ("a", "--vlan trunk:1-20/9 --dhcp-guard on --router-guard on"),
    ("b", "--vlan trunk:1-20/9 --mac-spoofing on"),
    ("access", "--vlan access:9"),
    ("isolated", "--vlan isolated:2/4"),
    ("promiscuous", "--vlan promiscuous:2/4,5 --mirror source"),
    ("none", "--addresses 10.0.0.1,fd00::1"),
    ("none2", "--address-limit 3"),
    ("monitor", "--mirror destination --vlan trunk:1-100"),
    ("down", "--link down"),
];

/// What was said.
#[derive(Debug)]
struct Said {
    /// Who gets the frame or a copy, in alphabetical order.
    receivers: Vec<String>,
    /// What is counted: port, direction and reason.
    drops: Vec<(String, &'static str, String)>,
}

fn explained(lan: &Lan, from: &str, frame: &[u8]) -> Said {
    let hex = frame.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let answer = lan.switch.json(&["explain", "--from", from, "--frame", &hex]);
    let answer = answer.as_array().map_or(answer.clone(), |list| list[0].clone());
    assert!(answer["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "no steps: {answer}");
    let mut said = Said { receivers: Vec::new(), drops: Vec::new() };
    let text = |value: &serde_json::Value| {
        value.as_str().unwrap_or_else(|| panic!("no text in {answer}")).to_owned()
    };
    for place in answer["destinations"].as_array().expect("destinations") {
        match text(&place["verdict"]).as_str() {
            "deliver" => said.receivers.push(text(&place["port"])),
            _ => said.drops.push((text(&place["port"]), "in", text(&place["reason"]))),
        }
    }
    // What a receiver keeps out is counted there; all else where it came from.
    if said.drops.is_empty() && answer["reason"].is_string() {
        said.drops.push((from.to_owned(), "out", text(&answer["reason"])));
    }
    said.receivers.sort_unstable();
    said
}

/// All drops of all ports: port, direction, reason and count.
fn all_drops(lan: &Lan) -> std::collections::BTreeMap<(String, &'static str, String), u64> {
    let ports = lan.switch.json(&["port", "list"]);
    let mut all = std::collections::BTreeMap::new();
    for port in ports.as_array().expect("a list") {
        for direction in ["out", "in"] {
            let drops =
                port["counters"][format!("{direction}_drops")].as_object().expect("an object").clone();
            for (reason, count) in drops {
                let name = port["name"].as_str().expect("a name").to_owned();
                all.insert((name, direction, reason), count.as_u64().expect("a number"));
            }
        }
    }
    all
}

fn random_frame(dice: &mut Dice, from: u8) -> Vec<u8> {
    let to = match dice.below(8) {
        0 => BROADCAST,
        1 => [0x33, 0x33, 0, 0, 0, 1],
        2 => [2, 9, 9, 9, 9, 9],
        3 => [1, 0x80, 0xc2, 0, 0, 3],
        _ => mac(dice.below(PORTS.len()) as u8 + 1),
    };
    let mut frame = Frame::new(to, mac(if dice.once_in(8) { 77 } else { from })).payload(&[5; 40]);
    match dice.below(6) {
        0 => frame = frame.vlan(dice.pick(&[9, 10, 2, 4, 25])),
        1 => frame = frame.tag(0x8100, 0x6000),
        2 => frame = frame.vlan(9).vlan(10),
        _ => {}
    }
    let (v6, port) = (dice.once_in(3), dice.pick(&[53u16, 80, 1000]));
    let (src, dst) = (random_ip(dice, v6), random_ip(dice, v6));
    let ip = |frame: Frame| if v6 { frame.ipv6() } else { frame.ipv4() };
    let own = if dice.once_in(2) { ip(frame.clone()) } else { ip(frame.clone()).from_ip(src) }.to_ip(dst);
    let (four, six) = (frame.clone().ipv4(), frame.clone().ipv6());
    match dice.below(10) {
        0 => frame,
        1 => four.dhcp4((67, 68), BOOTREPLY, [0; 4].into()),
        2 => six.extension(ext::DESTINATION, 8).icmp6(icmp::V6_ROUTER_ADVERTISEMENT, 0),
        3 => frame.arp(
            arp::REPLY,
            (mac(from), [10, 0, 0, dice.pick(&[1, 2, from])].into()),
            (mac(2), [10, 0, 0, 2].into()),
        ),
        4 => own.fragment(8, false).protocol(6),
        5 => own.fragment(1480, false).protocol(17),
        6 => own.tcp(port, 80),
        _ => own.udp(port, 53),
    }
    .build()
}

#[test]
fn explain_agrees_with_what_then_happens() {
    let mut lan = Lan::new(&PORTS);
    let mut dice = Dice::new(42);
    for name in ["a", "none", "none2", "access"] {
        for _ in 0..2 {
            let entry = random_entry(&mut dice, &["allow", "deny", "meter"], 1, 2);
            let _ = lan.switch.run(&entry.command(name).split(' ').collect::<Vec<_>>());
        }
        for weight in 1..3 {
            let _ =
                lan.switch.run(&random_rule(&mut dice, weight).command(name).split(' ').collect::<Vec<_>>());
        }
        lan.run(&format!(
            "rule add {name} --action allow --direction out --weight 40 --protocol udp --stateful"
        ));
    }
    let (mut delivered, mut dropped) = (0, std::collections::BTreeSet::new());
    for number in 0..450 {
        let place = dice.below(PORTS.len());
        let from = PORTS[place].0;
        let frame = random_frame(&mut dice, place as u8 + 1);
        let said = explained(&lan, from, &frame);
        let before = all_drops(&lan);
        let heard = lan.send(from, &frame);
        let mut by = heard.by();
        by.sort_unstable();
        assert_eq!(said.receivers, by, "frame {number} of {from}: {said:?}: {frame:02x?}");
        let mut after = all_drops(&lan);
        for (place, count) in before {
            let now = after.get_mut(&place).expect("counters stay");
            *now -= count;
        }
        after.retain(|_, count| *count > 0);
        let foretold = said.drops.iter().map(|place| (place.clone(), 1)).collect();
        assert_eq!(after, foretold, "what frame {number} of {from} was counted as: {frame:02x?}");
        delivered += by.len();
        dropped.extend(said.drops.into_iter().map(|(.., reason)| reason));
    }
    assert!(
        delivered > 150 && dropped.len() >= 15,
        "a dull set: {delivered} deliveries, reasons {dropped:?}"
    );
}

#[test]
fn explain_sends_counts_and_remembers_nothing() {
    let mut lan = Lan::new(&PORTS);
    lan.run("rule add none2 --action deny --direction in --weight 1");
    lan.run("rule add none2 --action allow --direction out --weight 9 --protocol udp --stateful");
    lan.run("acl add none2 --action deny --direction out --remote 10.0.0.9");
    lan.run("meter enable none");
    // The port of meters and the like is asked about with every kind of frame; everything must be as before.
    let quiet = |lan: &Lan| {
        let ports = lan.switch.json(&["port", "list"]);
        let counters: Vec<_> =
            ports.as_array().expect("a list").iter().map(|p| p["counters"].to_string()).collect();
        let meters = lan.switch.json(&["meter", "show", "none"])[0]["entries"].to_string();
        let others = [&["session", "list"][..], &["acl", "list", "none2"], &["fdb", "show"]];
        let others: Vec<_> = others.iter().map(|args| strip_age(&lan.switch.json(args))).collect();
        (counters, meters, others, lan.switch.events().len())
    };
    let before = quiet(&lan);
    let mut dice = Dice::new(9);
    for _ in 0..300 {
        let place = dice.below(PORTS.len());
        let _ = explained(&lan, PORTS[place].0, &random_frame(&mut dice, place as u8 + 1));
    }
    let inner = [2, 1, 1, 1, 1, 1];
    let _ = explained(&lan, "b", &Frame::new(BROADCAST, inner).vlan(9).payload(&[1; 60]).build());
    assert!(lan.heard().0.is_empty(), "a frame was sent");
    assert_eq!(quiet(&lan), before);
    // No session was opened, no address used up.
    let answer = Frame::new(mac(7), mac(6)).ipv4().from_ip([10, 0, 0, 1]).udp(53, 1000).build();
    lan.dropped("none", &answer, ("none2", "in"), "rule-denied");
}

fn strip_age(value: &serde_json::Value) -> String {
    let mut list = value.as_array().cloned().unwrap_or_default();
    list.iter_mut()
        .filter_map(|row| row.as_object_mut())
        .for_each(|row| row.retain(|key, _| !key.ends_with("_ms")));
    format!("{list:?}")
}

#[test]
fn explain_refuses_what_is_no_frame_or_no_port() {
    let lan = Lan::new(&[("a", "")]);
    for bad in [
        &["explain", "--from", "nobody", "--frame", "ffffffffffff52540000000188b5"][..],
        &["explain", "--from", "a", "--frame", "xyz"],
        &["explain", "--from", "a", "--frame", "fff"],
        &["explain", "--from", "a", "--frame", "/no/such/file.pcap"],
    ] {
        let output = lan.switch.run(bad);
        assert!(!output.status.success(), "{bad:?}");
        assert!(!output.stderr.is_empty(), "{bad:?}");
    }
}
