//! Port mirroring (rule book, section 10): every frame of a source once at every monitor, and nobody else notices.

use turnpike_tests::frame::pattern;
use turnpike_tests::lan::mac;
use turnpike_tests::{Frame, Lan, NetHdr, Options, PATIENCE, Packet};

fn frame(from: u8, to: u8) -> Vec<u8> {
    Frame::new(mac(to), mac(from)).ipv4().udp(1, 2).payload(&pattern(200, u64::from(from))).build()
}

#[test]
fn s10_what_a_source_sends_and_receives_is_copied_once_to_every_destination() {
    let mut lan = Lan::new(&[
        ("a", "--mirror source"),
        ("b", ""),
        ("monitor", "--mirror destination"),
        ("monitor2", "--mirror destination"),
        ("c", ""),
    ]);
    for (from, to) in [(1, 2), (2, 1), (1, 5), (5, 1)] {
        let names = lan.names();
        let (sender, receiver) = (names[from - 1].clone(), names[to - 1].clone());
        let sent = frame(from as u8, to as u8);
        let heard = lan.send(&sender, &sent);
        let mut by = heard.by();
        by.sort_unstable();
        let mut want = vec![receiver.as_str(), "monitor", "monitor2"];
        want.sort_unstable();
        assert_eq!(by, want, "{sender} to {receiver}");
        assert!(heard.0.iter().all(|(_, received)| received.frame == sent), "a copy differs");
    }
    // Not of the others' frames.
    lan.passes("b", "c", &frame(2, 5));
}

#[test]
fn s10_one_copy_between_two_sources_and_none_of_what_the_monitor_gets_anyway() {
    let mut lan =
        Lan::new(&[("a", "--mirror source"), ("b", "--mirror source"), ("monitor", "--mirror destination")]);
    let heard = lan.send("a", &frame(1, 2));
    assert_eq!(heard.by(), ["b", "monitor"]);
    let hello = lan.broadcast("a").build();
    assert_eq!(lan.send("a", &hello).by(), ["b", "monitor"], "a broadcast reaches the monitor once");
    assert_eq!(lan.send("a", &frame(1, 3)).by(), ["monitor"], "a frame to the monitor is no copy");
    assert_eq!(lan.send("monitor", &frame(3, 1)).by(), ["a"], "nor does it get its own back");
    assert_eq!(lan.switch.counter("monitor", "in_packets"), 3);
}

#[test]
fn s10_however_many_monitors_there_are_each_hears_a_broadcast_once() {
    let names: Vec<String> = (0..70).map(|n| format!("m{n}")).collect();
    let monitors = names.iter().map(|name| (name.as_str(), "--mirror destination"));
    let mut lan = Lan::new(&[("a", "--mirror source")].into_iter().chain(monitors).collect::<Vec<_>>());
    let hello = lan.broadcast("a").build();
    assert_eq!(lan.send("a", &hello).by().len(), names.len());
    for name in &names {
        assert_eq!(lan.switch.counter(name, "in_packets"), 1, "{name}");
    }
}

#[test]
fn s10_a_dropped_frame_is_not_copied() {
    let mut lan =
        Lan::new(&[("a", "--mirror source --dhcp-guard on"), ("b", ""), ("monitor", "--mirror destination")]);
    lan.run("acl add a --action deny --direction out --remote 10.0.0.9");
    let denied = Frame::new(mac(2), mac(1)).ipv4().to_ip([10, 0, 0, 9]).udp(1, 2).build();
    lan.dropped("a", &denied, ("a", "out"), "acl-denied");
    let offer = Frame::new(mac(2), mac(1)).ipv4().dhcp4((67, 68), 2, [0; 4].into()).build();
    lan.dropped("a", &offer, ("a", "out"), "dhcp-guard");
    let spoofed = Frame::new(mac(2), [2, 1, 1, 1, 1, 1]).payload(&[1; 60]).build();
    lan.dropped("a", &spoofed, ("a", "out"), "source-not-allowed");
    let nowhere = Frame::new([2, 9, 9, 9, 9, 9], mac(1)).payload(&[1; 60]).build();
    lan.dropped("a", &nowhere, ("a", "out"), "unknown-unicast");
}

#[test]
fn s10_a_monitor_sees_its_own_network_only_and_a_trunk_sees_the_tags() {
    let mut lan = Lan::new(&[
        ("a", "--vlan access:10 --mirror source"),
        ("b", "--vlan access:10"),
        ("same", "--vlan access:10 --mirror destination"),
        ("other", "--vlan access:20 --mirror destination"),
        ("untagged", "--mirror destination"),
        ("trunk", "--vlan trunk:1-100 --mirror destination"),
    ]);
    for (from, to) in [(1, 2), (2, 1)] {
        let sender = lan.names()[from - 1].clone();
        let heard = lan.send(&sender, &frame(from as u8, to as u8));
        let mut by = heard.by();
        by.retain(|name| !["a", "b"].contains(name));
        assert_eq!(by, ["same", "trunk"]);
        assert_eq!(heard.only("same").frame, frame(from as u8, to as u8));
        let tags = Packet::of(&heard.only("trunk").frame).tags.clone();
        assert_eq!(tags.iter().map(|t| t.1 & 0xfff).collect::<Vec<_>>(), [10]);
    }
}

#[test]
fn s10_copies_pass_no_acl_of_the_monitor_and_count_on_no_meter_of_the_source() {
    let mut lan = Lan::new(&[("a", "--mirror source"), ("b", ""), ("monitor", "--mirror destination")]);
    lan.run("acl add monitor --action deny --direction in --remote any");
    lan.run("acl add monitor --action deny --direction in --remote any-mac");
    lan.run("meter enable a");
    let sent = frame(1, 2);
    assert_eq!(lan.send("a", &sent).by(), ["b", "monitor"]);
    let report = lan.switch.json(&["meter", "show", "a"])[0]["entries"].to_string();
    assert_eq!(report.matches(&format!("\"bytes\":{}", sent.len())).count(), 1, "{report}");
    assert_eq!(lan.switch.counter("a", "out_packets"), 1);
    assert_eq!(lan.switch.counter("monitor", "in_packets"), 1);
    // Its own traffic does pass its ACL.
    let own = frame(2, 3);
    lan.dropped("b", &own, ("monitor", "in"), "acl-denied");
}

#[test]
fn s10_a_monitor_that_is_a_source_as_well_makes_no_loop() {
    // A port is one or the other; two monitors and two sources in a ring are the nearest thing.
    let mut lan = Lan::new(&[
        ("a", "--mirror source"),
        ("monitor", "--mirror destination"),
        ("b", "--mirror source"),
        ("monitor2", "--mirror destination"),
    ]);
    for (from, to, by) in
        [(2, 1, vec!["a", "monitor2"]), (2, 4, vec!["monitor2"]), (1, 2, vec!["monitor", "monitor2"])]
    {
        let sender = lan.names()[from - 1].clone();
        let mut got: Vec<String> =
            lan.send(&sender, &frame(from as u8, to as u8)).by().iter().map(|&n| n.to_owned()).collect();
        got.sort_unstable();
        assert_eq!(got, by, "{from} to {to}");
    }
}

#[test]
fn s10_a_slow_monitor_loses_copies_and_slows_nobody() {
    let mut lan = Lan::new(&[("a", "--mirror source"), ("b", "")]);
    lan.add("monitor", "--mirror destination", Options::default().post_by_hand(10));
    lan.add("absent", "--mirror destination", Options::default());
    drop(lan.take("absent"));
    lan.switch.wait_state("absent", "waiting");
    let sent = frame(1, 2);
    let began = std::time::Instant::now();
    for _ in 0..500 {
        lan.guest("a").send(&sent);
        lan.guest("b").expect(&sent);
    }
    let took = began.elapsed();
    // Waiting for the monitor even once (10 ms) for each frame would take five seconds.
    assert!(took < std::time::Duration::from_secs(3), "500 frames took {took:?} beside a full monitor");
    assert!(lan.guest("a").flush(PATIENCE));
    assert_eq!(lan.switch.counter("b", "in_packets"), 500);
    assert_eq!(lan.switch.counter("monitor", "in_packets"), 10);
    assert_eq!(lan.switch.drops("monitor", "in", "receiver-full"), 490);
    assert_eq!(lan.switch.all_drops("a") + lan.switch.all_drops("b"), 0);
}

#[test]
fn s10_large_frames_are_copied_as_each_monitor_can_take_them() {
    use turnpike_tests::features::{CSUM, HOST_TSO4, MRG_RXBUF, RECEIVE_OFFLOADS};
    let mut lan = Lan::new(&[]);
    let knowing = Options::plain().with(CSUM | HOST_TSO4 | RECEIVE_OFFLOADS | MRG_RXBUF);
    lan.add("a", "--mirror source", knowing.clone());
    lan.add("b", "", knowing.clone());
    lan.add("knowing", "--mirror destination", knowing);
    lan.add("plain", "--mirror destination", Options::plain());
    let (header, large) =
        Frame::new(mac(2), mac(1)).ipv4().tcp(1, 2).payload(&pattern(5000, 1)).build_large(1000);
    let heard = lan.send_with("a", header, &large);
    assert_eq!(heard.only("b").frame, large);
    assert_eq!(heard.only("knowing").frame, large);
    assert_eq!(heard.frames("plain").len(), 5);
    for segment in heard.frames("plain") {
        Packet::of(segment).verify().unwrap();
    }
}

#[test]
fn s10_mirroring_changes_while_frames_pass() {
    let mut lan = Lan::new(&[("a", ""), ("b", ""), ("monitor", "")]);
    let sent = frame(1, 2);
    for _ in 0..20 {
        lan.passes("a", "b", &sent);
        lan.set("a", "--mirror source");
        lan.passes("a", "b", &sent);
        lan.set("monitor", "--mirror destination");
        assert_eq!(lan.send_on("a", 0, NetHdr::default(), &sent).by(), ["b", "monitor"]);
        lan.set("a", "--mirror none");
        lan.passes("a", "b", &sent);
        lan.set("monitor", "--mirror default");
    }
}
