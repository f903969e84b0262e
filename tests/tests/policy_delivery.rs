//! What policy does to a frame is done once and wholly: to frames that have to wait, of every length, and by several queues.

use std::time::Duration;

use turnpike_tests::features::{CSUM, HOST_TSO4, MRG_RXBUF, RECEIVE_OFFLOADS};
use turnpike_tests::frame::{BROADCAST, pattern};
use turnpike_tests::lan::mac;
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Frame, Lan, NetHdr, Options, PATIENCE, Packet, Shape};

fn udp(from: u8, to: u8, seed: u64) -> Frame {
    Frame::new(mac(to), mac(from)).ipv4().udp(1000, 80).payload(&pattern(300, seed))
}

/// (packets, bytes) of a port's default meter for IPv4.
fn metered(lan: &Lan, port: &str, direction: &str) -> (u64, u64) {
    let report = lan.switch.json(&["meter", "show", port])[0]["entries"].clone();
    let rows = report.as_array().expect("a list").iter();
    let row = rows.clone().find(|row| row["direction"] == direction && row["remote"] == "0.0.0.0/0");
    let row = row.unwrap_or_else(|| panic!("no meter in {report}"));
    (row["packets"].as_u64().expect("packets"), row["bytes"].as_u64().expect("bytes"))
}

/// A frame that waits for room is judged again and again; what comes of it happens once.
#[test]
fn a_frame_that_waits_is_tagged_metered_and_copied_once() {
    let mut lan = Lan::new(&[
        ("a", "--vlan access:9 --mirror source"),
        ("monitor", "--vlan trunk:9 --mirror destination"),
    ]);
    lan.add("slow", "--vlan trunk:9", Options::default().post_by_hand(0));
    lan.run("switch set --rx-wait-us 900000");
    lan.run("meter enable --all");
    lan.run("rule add a --action allow --direction out --weight 1 --protocol udp --stateful");
    let frames: Vec<Vec<u8>> = (0..20).map(|seed| udp(1, 3, seed).build()).collect();
    for frame in &frames {
        lan.guest("a").send(frame);
    }
    std::thread::sleep(Duration::from_millis(50));
    let mut slow = lan.take("slow");
    assert!(slow.poll().is_none());
    let size = frames[0].len() as u64;
    for (number, frame) in frames.iter().enumerate() {
        slow.post(1);
        let got = slow.expect_some().frame;
        let want =
            Frame::new(mac(3), mac(1)).vlan(9).ipv4().udp(1000, 80).payload(&pattern(300, number as u64));
        turnpike_tests::traffic::assert_same(&got, &want.build());
        assert_eq!(frame.len() + 4, got.len());
        std::thread::sleep(Duration::from_millis(3));
    }
    assert!(lan.guest("a").flush(PATIENCE));
    let copies = lan.heard();
    assert_eq!(copies.by(), ["monitor"; 20], "copies");
    for (number, (_, copy)) in copies.0.iter().enumerate() {
        let want =
            Frame::new(mac(3), mac(1)).vlan(9).ipv4().udp(1000, 80).payload(&pattern(300, number as u64));
        assert_eq!(copy.frame, want.build());
    }
    assert_eq!(metered(&lan, "a", "out"), (20, 20 * size));
    assert_eq!(metered(&lan, "slow", "in"), (20, 20 * (size + 4)));
    assert_eq!(lan.switch.counter("a", "out_packets"), 20);
    assert_eq!(lan.switch.json(&["session", "list", "a"]).as_array().map(Vec::len), Some(1));
    assert_eq!(lan.switch.all_drops("a") + lan.switch.all_drops("slow"), 0);
}

#[test]
fn a_frame_that_waited_in_vain_is_counted_as_sent_and_dropped_at_the_receiver() {
    let mut lan = Lan::new(&[("a", "--vlan access:9"), ("b", "--vlan access:9")]);
    lan.add("slow", "--vlan trunk:9", Options::default().post_by_hand(0));
    lan.run("meter enable --all");
    lan.guest("a").send(&udp(1, 3, 0).build());
    lan.guest("a").send(&udp(1, 2, 1).build());
    assert!(lan.guest("a").flush(PATIENCE));
    // The one behind it was not held up, and is whole.
    assert_eq!(lan.heard().only("b").frame, udp(1, 2, 1).build());
    assert_eq!(lan.switch.drops("slow", "in", "receiver-full"), 1);
    assert_eq!(metered(&lan, "a", "out").0, 2);
    assert_eq!(metered(&lan, "slow", "in").0, 0);
}

/// A change made while a frame waits holds for it: it has not passed yet.
#[test]
fn a_frame_that_waits_obeys_a_change_made_meanwhile() {
    let mut lan = Lan::new(&[("a", "")]);
    lan.add("slow", "", Options::default().post_by_hand(0));
    lan.run("switch set --rx-wait-us 900000");
    let frame = udp(1, 2, 0).build();
    lan.guest("a").send(&frame);
    std::thread::sleep(Duration::from_millis(20));
    lan.run("acl add a --action deny --direction out --remote 10.0.0.2");
    let mut slow = lan.take("slow");
    slow.post(4);
    assert!(lan.guest("a").flush(PATIENCE));
    slow.expect_silence();
    assert_eq!(lan.switch.drops("a", "out", "acl-denied"), 1);
}

/// The head of a frame is copied (192 bytes of it), the rest is not: lengths around that, tags coming and going, in every shape.
#[test]
fn a_tag_comes_and_goes_at_every_length_and_in_every_shape() {
    let shapes =
        [Shape::Whole, Shape::HeaderApart, Shape::Pieces(64), Shape::Indirect, Shape::IndirectPieces(150)];
    let mut lan = Lan::new(&[]);
    lan.add("access", "--vlan access:9", Options::default());
    lan.add("trunk", "--vlan trunk:9", Options::default().with(MRG_RXBUF).rx_buffer(256));
    lan.add("plain", "--vlan trunk:9", Options::plain());
    let lengths = (0..12).chain(40..50).chain(120..190).chain([300, 1400, 1486, 1500, 8986]);
    for (number, len) in lengths.enumerate() {
        let shape = shapes[number % shapes.len()];
        lan.guest("access").shape = shape;
        lan.guest("trunk").shape = shape;
        let base = |from: u8, to: u8| Frame::new(mac(to), mac(from)).payload(&pattern(len, len as u64));
        for (from, to, sent, want) in [
            ("access", "trunk", base(1, 2), base(1, 2).vlan(9)),
            ("access", "plain", base(1, 3), base(1, 3).vlan(9)),
            ("trunk", "access", base(2, 1).vlan(9), base(2, 1)),
            ("trunk", "plain", base(2, 3).vlan(9), base(2, 3).vlan(9)),
        ] {
            let heard = lan.send(from, &sent.build());
            turnpike_tests::traffic::assert_same(&heard.only(to).frame, &want.build());
        }
        // To everybody at once: each copy with its own tag.
        let hello = base(1, 2).destination(BROADCAST);
        let heard = lan.send("access", &hello.build());
        for to in ["trunk", "plain"] {
            turnpike_tests::traffic::assert_same(&heard.only(to).frame, &hello.clone().vlan(9).build());
        }
    }
}

#[test]
fn the_largest_frame_there_is_may_become_longer_by_a_tag() {
    let mut lan = Lan::new(&[]);
    let knowing = Options::plain().with(CSUM | HOST_TSO4 | RECEIVE_OFFLOADS | MRG_RXBUF);
    lan.add("access", "--vlan access:9", knowing.clone());
    lan.add("trunk", "--vlan trunk:9", knowing);
    lan.add("plain", "--vlan trunk:9", Options::plain());
    let data = pattern(65_535 - 40, 3);
    for (to, name) in [(2, "trunk"), (3, "plain")] {
        let kind = Frame::new(mac(to), mac(1)).ipv4().tcp(1, 2).payload(&data);
        let (header, large) = kind.build_large(1400);
        let heard = lan.send_with("access", header, &large);
        let mut got = Vec::new();
        for frame in heard.frames(name) {
            assert_eq!(Packet::of(frame).tags.len(), 1);
            got.extend_from_slice(Packet::of(frame).payload());
        }
        assert!(got == data, "{name} received {} of {} bytes", got.len(), data.len());
    }
}

#[test]
fn counts_are_exact_over_queues_and_workers() {
    let mut lan = Lan::with(SwitchOptions { workers: 2, ..SwitchOptions::default() }, &[]);
    lan.add("a", "", Options::default().pairs(4).ring_size(64));
    lan.add("b", "", Options::default().pairs(4).ring_size(256));
    lan.run("acl add a --action deny --direction out --remote 10.0.0.200");
    lan.run("acl add a --action meter --direction out --remote 0.0.0.0/0");
    lan.run("acl add b --action meter --direction in --remote 0.0.0.0/0");
    lan.run("meter enable --all");
    let (mut sent, mut denied, mut bytes) = (0u64, 0u64, 0u64);
    for round in 0..60u16 {
        for pair in 0..4 {
            for number in 0..8 {
                let bad = number % 3 == 0;
                let to = [10, 0, 0, if bad { 200 } else { 2 }];
                let ports = (1000 + round * 8 + number, 80);
                let frame = Frame::new(mac(2), mac(1))
                    .ipv4()
                    .to_ip(to)
                    .udp(ports.0, ports.1)
                    .payload(&[1; 64])
                    .build();
                assert!(lan.guest("a").enqueue(pair, NetHdr::default(), &frame));
                sent += 1;
                denied += u64::from(bad);
                bytes += if bad { 0 } else { frame.len() as u64 };
            }
        }
        let guest = lan.guest("a");
        for ring in &mut guest.tx {
            ring.notify();
        }
        assert!(guest.flush(PATIENCE));
        let heard = lan.heard().0.len();
        assert_eq!(heard, 4 * 5, "round {round}");
    }
    let list = lan.switch.json(&["acl", "list", "a"]);
    let deny = list
        .as_array()
        .expect("a list")
        .iter()
        .find(|row| row["action"] == "deny")
        .expect("the deny")
        .clone();
    assert_eq!(deny["packets"], denied, "{list}");
    assert_eq!(lan.switch.drops("a", "out", "acl-denied"), denied);
    assert_eq!(metered(&lan, "a", "out"), (sent - denied, bytes));
    assert_eq!(metered(&lan, "b", "in"), (sent - denied, bytes));
}

/// RFC 5517: one forwarding database for a primary VLAN and its secondaries.
#[test]
fn s4_addresses_learned_in_one_half_of_a_private_vlan_are_known_in_the_other() {
    let mut lan = Lan::new(&[
        ("router", "--vlan promiscuous:2/4,5 --mac-spoofing on"),
        ("isolated", "--vlan isolated:2/4"),
        ("community", "--vlan community:2/5 --mac-spoofing on"),
        ("community2", "--vlan community:2/5"),
        ("bridge", "--vlan access:3 --mac-spoofing on"),
    ]);
    let (behind_router, behind_community) = ([2, 0, 0, 0, 0, 0x71], [2, 0, 0, 0, 0, 0x72]);
    let hello = |from| Frame::new(BROADCAST, from).payload(&[1; 60]).build();
    let _ = lan.send("router", &hello(behind_router));
    let _ = lan.send("community", &hello(behind_community));
    let to = |to, from: &str, lan: &Lan| Frame::new(to, lan.mac(from)).payload(&[2; 60]).build();
    for from in ["isolated", "community2"] {
        let frame = to(behind_router, from, &lan);
        lan.passes(from, "router", &frame);
    }
    for from in ["router", "community2"] {
        let frame = to(behind_community, from, &lan);
        lan.passes(from, "community", &frame);
    }
    let frame = to(behind_community, "isolated", &lan);
    assert!(lan.send("isolated", &frame).0.is_empty(), "isolated reaches what is behind a community port");
}

#[test]
fn a_port_keeps_its_policy_and_counts_while_its_guest_is_away() {
    let mut lan = Lan::new(&[("a", "--vlan access:9"), ("b", "--vlan access:9")]);
    lan.run("acl add b --action deny --direction in --remote 10.0.0.99");
    lan.run("meter enable a");
    lan.passes("a", "b", &udp(1, 2, 0).build());
    for _ in 0..3 {
        drop(lan.take("b"));
        lan.switch.wait_state("b", "waiting");
        let guest = turnpike_tests::Guest::attach(&lan.switch, "b", Options::default());
        lan.give("b", guest);
        lan.passes("a", "b", &udp(1, 2, 0).build());
        lan.dropped("a", &udp(1, 2, 0).from_ip([10, 0, 0, 99]).build(), ("b", "in"), "acl-denied");
    }
    assert_eq!(metered(&lan, "a", "out").0, 7);
}
