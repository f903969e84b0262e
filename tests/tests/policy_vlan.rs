//! VLAN modes of ports (rule book, section 4): who may send with which tag, who receives it, and with which tag.

use turnpike_tests::features::{CSUM, GUEST_CSUM, HOST_TSO4, HOST_TSO6, MRG_RXBUF, RECEIVE_OFFLOADS};
use turnpike_tests::frame::{BROADCAST, pattern};
use turnpike_tests::{Frame, Lan, Options, Packet, Switch};

/// A port's mode as the table of section 4 tells it, apart from the switch's own code.
struct Mode {
    name: &'static str,
    policy: &'static str,
    /// Where untagged frames go; 0 = they stay untagged.
    untagged: u16,
    /// Tags it may send and receives.
    tags: &'static [u16],
    /// Networks it receives without a tag.
    receives: &'static [u16],
}

const fn mode(
    name: &'static str,
    policy: &'static str,
    untagged: u16,
    tags: &'static [u16],
    receives: &'static [u16],
) -> Mode {
    Mode { name, policy, untagged, tags, receives }
}

/// Every mode, most of them twice, beside each other: primary VLAN 2 with secondaries 4 (isolated), 5 and 6 (communities).
const MODES: [Mode; 16] = [
    mode("none1", "", 0, &[], &[0]),
    mode("none2", "--vlan none", 0, &[], &[0]),
    mode("access10", "--vlan access:10", 10, &[], &[10]),
    mode("access10b", "--vlan access:10", 10, &[], &[10]),
    mode("access4094", "--vlan access:4094", 4094, &[], &[4094]),
    mode("access2", "--vlan access:2", 2, &[], &[2]),
    mode("trunk", "--vlan trunk:10,2,4-6,4094/30", 30, &[10, 2, 4, 5, 6, 4094], &[30]),
    mode("trunk0", "--vlan trunk:10-12/0", 0, &[10, 11, 12], &[0]),
    mode("native10", "--vlan trunk:11,30/10", 10, &[11, 30], &[10]),
    mode("isolated", "--vlan isolated:2/4", 4, &[], &[2]),
    mode("isolatedb", "--vlan isolated:2/4", 4, &[], &[2]),
    mode("community", "--vlan community:2/5", 5, &[], &[2, 5]),
    mode("communityb", "--vlan community:2/5", 5, &[], &[2, 5]),
    mode("community6", "--vlan community:2/6", 6, &[], &[2, 6]),
    mode("promiscuous", "--vlan promiscuous:2/4,5", 2, &[], &[2, 4, 5]),
    mode("promiscuous6", "--vlan promiscuous:2/4-6", 2, &[], &[2, 4, 5, 6]),
];

impl Mode {
    /// The network of a frame with this tag; `None` = it may not be sent.
    fn admits(&self, tag: Option<u16>) -> Option<u16> {
        match tag {
            None | Some(0) => Some(self.untagged),
            // A trunk may name its native VLAN.
            Some(id) if !self.tags.is_empty() && (self.tags.contains(&id) || id == self.untagged) => Some(id),
            Some(_) => None,
        }
    }

    /// The tags with which it receives frames of a network; `None` = not at all.
    fn gets(&self, network: u16) -> Option<Vec<u16>> {
        if self.receives.contains(&network) {
            return Some(vec![]);
        }
        self.tags.contains(&network).then(|| vec![network])
    }
}

fn all_modes() -> Lan {
    Lan::new(&MODES.map(|m| (m.name, m.policy)))
}

/// The VLAN ids of a frame's tags.
fn ids(frame: &[u8]) -> Vec<u16> {
    Packet::of(frame).tags.iter().map(|&(_, tci)| tci & 0xfff).collect()
}

fn tagged(frame: Frame, tag: Option<u16>) -> Frame {
    match tag {
        Some(id) => frame.vlan(id),
        None => frame,
    }
}

const TAGS: [Option<u16>; 12] = [
    None,
    Some(0),
    Some(2),
    Some(4),
    Some(5),
    Some(6),
    Some(10),
    Some(11),
    Some(12),
    Some(30),
    Some(4094),
    Some(4095),
];

#[test]
fn s4_every_mode_admits_and_floods_as_its_row_says() {
    let mut lan = all_modes();
    for sender in &MODES {
        let mut refused = 0;
        for tag in TAGS {
            let frame = tagged(lan.broadcast(sender.name), tag).ipv4().udp(1, 2).build();
            let heard = lan.send(sender.name, &frame);
            let network = sender.admits(tag);
            refused += u64::from(network.is_none());
            for receiver in MODES.iter().filter(|m| m.name != sender.name) {
                let want = network.and_then(|id| receiver.gets(id));
                let got: Vec<_> = heard.frames(receiver.name).into_iter().map(ids).collect();
                let context = format!("{} sends with tag {tag:?}, {} receives", sender.name, receiver.name);
                assert_eq!(got, want.into_iter().collect::<Vec<_>>(), "{context}");
                for copy in heard.frames(receiver.name) {
                    Packet::of(copy).verify().unwrap_or_else(|e| panic!("{context}: {e}"));
                    assert_eq!(Packet::of(copy).payload(), [0x5a; 50], "{context}");
                }
            }
            assert!(heard.frames(sender.name).is_empty(), "{} hears itself", sender.name);
        }
        assert_eq!(
            lan.switch.drops(sender.name, "out", "vlan-not-allowed"),
            refused,
            "tags of {} that are not allowed",
            sender.name
        );
    }
}

#[test]
fn s4_unicast_between_every_pair_of_modes() {
    let mut lan = all_modes();
    for sender in &MODES {
        let mut kept_apart = 0;
        for receiver in MODES.iter().filter(|m| m.name != sender.name) {
            for tag in [None, Some(10), Some(2), Some(5)] {
                let Some(network) = sender.admits(tag) else { continue };
                let frame = lan.frame(sender.name, receiver.name).ipv4().udp(7, 8).payload(&[9; 80]);
                let heard = lan.send(sender.name, &tagged(frame, tag).build());
                let want: Vec<Vec<u16>> = receiver.gets(network).into_iter().collect();
                let got: Vec<_> = heard.frames(receiver.name).into_iter().map(ids).collect();
                assert_eq!(got, want, "{} to {} with tag {tag:?}", sender.name, receiver.name);
                assert_eq!(heard.0.len(), want.len(), "{:?} received it", heard.by());
                kept_apart += u64::from(want.is_empty());
            }
        }
        let drops = |reason| lan.switch.drops(sender.name, "out", reason);
        assert_eq!(
            drops("vlan-filtered") + drops("private-vlan"),
            kept_apart,
            "frames of {} to ports it does not reach: {}",
            sender.name,
            lan.switch.port(sender.name)["counters"]
        );
    }
}

#[test]
fn s4_private_vlan_drops_have_a_reason_of_their_own() {
    let mut lan = all_modes();
    let frame = |lan: &Lan, from: &str, to: &str| lan.frame(from, to).payload(&[1; 60]).build();
    for (from, to) in [
        ("isolated", "isolatedb"),
        ("isolated", "community"),
        ("community", "community6"),
        ("community", "isolated"),
    ] {
        lan.dropped(from, &frame(&lan, from, to), (from, "out"), "private-vlan");
    }
    for (from, to) in
        [("access10", "access4094"), ("none1", "access10"), ("community", "access10"), ("access10", "none1")]
    {
        lan.dropped(from, &frame(&lan, from, to), (from, "out"), "vlan-filtered");
    }
}

#[test]
fn s4_a_change_of_mode_holds_for_the_next_frame() {
    let mut lan = Lan::new(&[("a", ""), ("b", "")]);
    let frame = lan.frame("a", "b").ipv4().udp(1, 2).payload(&[3; 100]).build();
    for _ in 0..30 {
        lan.passes("a", "b", &frame);
        lan.set("b", "--vlan access:7");
        assert!(lan.send("a", &frame).0.is_empty(), "it is in another VLAN now");
        lan.set("a", "--vlan access:7");
        lan.passes("a", "b", &frame);
        lan.set("a", "--vlan default");
        assert!(lan.send("a", &frame).0.is_empty(), "it is in no VLAN now");
        lan.set("b", "--vlan default");
    }
    assert_eq!(lan.switch.drops("a", "out", "vlan-filtered"), 60);
}

#[test]
fn s4_a_tag_that_comes_or_goes_shifts_the_partial_checksum() {
    let mut lan = Lan::new(&[]);
    let sender = Options::default();
    lan.add("access", "--vlan access:9", sender.clone());
    lan.add("trunk", "--vlan trunk:9", sender);
    lan.add("plain-access", "--vlan access:9", Options::plain());
    lan.add("plain-trunk", "--vlan trunk:9", Options::plain());
    for (from, from_tag) in [("access", None), ("trunk", Some(9))] {
        for (to, to_tag) in
            [("access", None), ("trunk", Some(9)), ("plain-access", None), ("plain-trunk", Some(9))]
        {
            if from == to {
                continue;
            }
            let base = lan.frame(from, to).payload(&pattern(333, 5));
            let kinds = [
                base.clone().ipv4().udp(1, 2),
                base.clone().ipv4().ip_options(&[1, 1, 1, 0]).tcp(1, 2).tcp_options(12),
                base.clone().ipv6().tcp(1, 2),
                base.ipv6().extension(turnpike_tests::frame::ext::HOP_BY_HOP, 8).udp(1, 2),
            ];
            for kind in kinds {
                let (header, frame) = tagged(kind.clone(), from_tag).build_partial();
                let want = tagged(kind, to_tag);
                let heard = lan.send_with(from, header, &frame);
                let got = heard.only(to);
                if got.header.needs_csum() {
                    let (header, frame) = want.build_partial();
                    assert!(!to.starts_with("plain"), "{to} knows no partial checksums");
                    assert_eq!(got.frame, frame, "{from} to {to}");
                    assert_eq!(
                        (got.header.csum_start, got.header.csum_offset),
                        (header.csum_start, header.csum_offset),
                        "{from} to {to}"
                    );
                } else {
                    assert_eq!(got.frame, want.build(), "{from} to {to}");
                }
            }
        }
    }
}

#[test]
fn s4_large_frames_keep_their_segments_over_a_change_of_tag() {
    let mut lan = Lan::new(&[]);
    let knowing = Options::plain().with(CSUM | HOST_TSO4 | HOST_TSO6 | RECEIVE_OFFLOADS | MRG_RXBUF);
    lan.add("access", "--vlan access:9", knowing.clone());
    lan.add("trunk", "--vlan trunk:9", knowing);
    lan.add("plain-access", "--vlan access:9", Options::plain());
    lan.add("plain-trunk", "--vlan trunk:9", Options::plain().with(GUEST_CSUM));
    let data = pattern(20_001, 8);
    for (from, from_tag) in [("access", None), ("trunk", Some(9))] {
        for (to, to_tag) in
            [("access", None), ("trunk", Some(9)), ("plain-access", None), ("plain-trunk", Some(9))]
        {
            if from == to {
                continue;
            }
            let base = lan.frame(from, to).payload(&data);
            for kind in [base.clone().ipv4().tcp(1, 2), base.ipv6().tcp(1, 2).tcp_options(12)] {
                let (header, frame) = tagged(kind.clone(), from_tag).build_large(1400);
                let (want_header, want) = tagged(kind, to_tag).build_large(1400);
                let heard = lan.send_with(from, header, &frame);
                if to.starts_with("plain") {
                    let segments = heard.frames(to);
                    assert_eq!(segments.len(), 15, "segments for {to}");
                    let mut got = Vec::new();
                    for (received, segment) in heard.0.iter().map(|(_, r)| r).zip(segments) {
                        let packet = Packet::of(segment);
                        assert_eq!(ids(segment), to_tag.into_iter().collect::<Vec<_>>(), "{from} to {to}");
                        if !received.header.needs_csum() {
                            packet.verify().unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
                        }
                        got.extend_from_slice(packet.payload());
                    }
                    assert!(got == data, "{from} to {to}: the data changed");
                } else {
                    let got = heard.only(to);
                    assert!(got.frame == want, "{from} to {to}");
                    let fields =
                        |h: turnpike_tests::NetHdr| (h.gso_type, h.gso_size, h.csum_start, h.csum_offset);
                    assert_eq!(fields(got.header), fields(want_header), "{from} to {to}");
                    let hdr_len = usize::from(got.header.hdr_len);
                    assert!(hdr_len == 0 || hdr_len == usize::from(want_header.hdr_len), "hdr_len {hdr_len}");
                }
            }
        }
    }
    assert_eq!(lan.switch.all_drops("access") + lan.switch.all_drops("trunk"), 0);
}

#[test]
fn s4_bytes_count_as_sent_and_as_received() {
    let mut lan = Lan::new(&[("a", "--vlan access:9"), ("t", "--vlan trunk:9")]);
    let frame = lan.frame("a", "t").payload(&[1; 100]).build();
    let heard = lan.send("a", &frame);
    assert_eq!(heard.only("t").frame.len(), frame.len() + 4);
    lan.switch.wait_counter("a", "out_bytes", frame.len() as u64);
    lan.switch.wait_counter("t", "in_bytes", frame.len() as u64 + 4);
}

#[test]
fn s4_a_second_tag_is_payload_of_trunks() {
    let mut lan =
        Lan::new(&[("a", "--vlan trunk:10"), ("b", "--vlan trunk:10"), ("access", "--vlan access:10")]);
    let double = lan.frame("a", "b").vlan(10).vlan(20).ipv4().udp(1, 2).payload(&[4; 60]).build();
    lan.passes("a", "b", &double);
    let provider = lan.frame("a", "b").tag(0x88a8, 10).vlan(20).ipv4().udp(1, 2).payload(&[4; 60]).build();
    let heard = lan.send("a", &provider);
    assert_eq!(ids(&heard.only("b").frame), [10, 20]);
    // An access port sends no tag, in no place.
    let hop = lan.frame("access", "a").vlan(10).vlan(20).payload(&[4; 60]).build();
    lan.dropped("access", &hop, ("access", "out"), "vlan-not-allowed");
}

/// H29: a frame with two tags whose outer one the switch takes off must not become one of the inner VLAN.
#[test]
fn h29_a_second_tag_never_becomes_the_first() {
    let mut lan = Lan::new(&[
        ("attacker", "--vlan trunk:5/10"),
        ("peer", "--vlan trunk:5,20/10"),
        ("victim", "--vlan access:20"),
        ("none", ""),
        ("none2", ""),
        ("trunk", "--vlan trunk:20"),
    ]);
    for outer in [0u16, 0xe000, 0x000a, 0xe00a] {
        for to in ["peer", "victim", "trunk"] {
            for destination in [lan.mac(to), BROADCAST] {
                let frame = Frame::new(destination, lan.mac("attacker"))
                    .tag(0x8100, outer)
                    .vlan(20)
                    .payload(&[6; 60])
                    .build();
                let heard = lan.send("attacker", &frame);
                for (by, received) in &heard.0 {
                    let first = ids(&received.frame).first().copied();
                    assert_ne!(
                        first,
                        Some(20),
                        "{by} received it as a frame of VLAN 20 (outer tag {outer:#x})"
                    );
                    assert_eq!(by, "peer", "a frame of the native VLAN");
                }
            }
        }
        // The same from a port without VLAN.
        let frame = lan.frame("none", "none2").tag(0x8100, outer).vlan(20).payload(&[6; 60]).build();
        for (by, received) in &lan.send("none", &frame).0 {
            assert_eq!((by.as_str(), ids(&received.frame)), ("none2", vec![]), "an untagged port sent a tag");
        }
    }
    let priority = lan.frame("none", "none2").tag(0x8100, 0xe000).vlan(20).payload(&[6; 60]).build();
    lan.dropped("none", &priority, ("none", "out"), "tag-in-header");
}

#[test]
fn s11_the_priority_a_guest_sends_is_reset_unless_allowed() {
    let mut lan = Lan::new(&[
        ("a", "--vlan trunk:7"),
        ("b", "--vlan trunk:7"),
        ("access", "--vlan access:7"),
        ("none", ""),
        ("none2", ""),
    ]);
    let with_priority =
        |lan: &Lan, to: &str| lan.frame("a", to).tag(0x8100, 0xa007).payload(&[1; 60]).build();
    let tci = |frame: &[u8]| Packet::of(frame).tags.iter().map(|t| t.1).collect::<Vec<_>>();
    let frame = with_priority(&lan, "b");
    assert_eq!(tci(&lan.send("a", &frame).only("b").frame), [0x0007], "reset");
    lan.set("a", "--priority-tag on");
    assert_eq!(tci(&lan.send("a", &frame).only("b").frame), [0xa007], "left as sent");
    let to_access = with_priority(&lan, "access");
    assert!(
        ids(&lan.send("a", &to_access).only("access").frame).is_empty(),
        "an access port gets no VLAN tag"
    );
    // In an access port's VLAN the priority is carried on to the tag of the VLAN.
    let own = |lan: &Lan| lan.frame("access", "b").tag(0x8100, 0x6000).payload(&[1; 60]).build();
    assert_eq!(tci(&lan.send("access", &own(&lan)).only("b").frame), [0x0007], "reset");
    lan.set("access", "--priority-tag on");
    assert_eq!(tci(&lan.send("access", &own(&lan)).only("b").frame), [0x6007], "carried on");
    lan.set("a", "--priority-tag default");
    assert_eq!(tci(&lan.send("a", &frame).only("b").frame), [0x0007], "reset again");
    let plain = lan.frame("none", "none2").tag(0x8100, 0xa000).payload(&[1; 60]).build();
    let got = lan.send("none", &plain);
    assert!(tci(&got.only("none2").frame).iter().all(|tci| tci >> 13 == 0), "the priority was not reset");
}

#[test]
fn s4_learned_addresses_are_learned_per_network() {
    let mut lan = Lan::new(&[
        ("a", "--vlan access:10 --mac-spoofing on"),
        ("b", "--vlan access:20 --mac-spoofing on"),
        ("peer10", "--vlan access:10"),
        ("peer20", "--vlan access:20"),
    ]);
    // The same foreign address behind two ports, one in each VLAN.
    let foreign = [2, 0, 0, 0, 0, 0x77];
    for name in ["a", "b"] {
        let hello = Frame::new(BROADCAST, foreign).payload(&[1; 60]).build();
        assert_eq!(lan.send(name, &hello).by(), [if name == "a" { "peer10" } else { "peer20" }]);
    }
    for (from, to) in [("peer10", "a"), ("peer20", "b")] {
        let answer = Frame::new(foreign, lan.mac(from)).payload(&[2; 60]).build();
        lan.passes(from, to, &answer);
    }
    assert!(!lan.switch.has_event("mac-moved"), "an address in another VLAN is another one");
}

#[test]
fn s4_virtual_subnets_are_networks_of_their_own() {
    let mut lan = Lan::new(&[
        ("a", "--vsid 5000"),
        ("b", "--vsid 5000"),
        ("c", "--vsid 6000"),
        ("none", ""),
        ("access", "--vlan access:10"),
        ("trunk", "--vlan trunk:1-4094"),
    ]);
    let hello = lan.broadcast("a").build();
    assert_eq!(lan.send("a", &hello).by(), ["b"]);
    let frame = lan.frame("a", "b").payload(&[1; 60]).build();
    lan.passes("a", "b", &frame);
    for to in ["c", "none", "access", "trunk"] {
        let frame = lan.frame("a", to).payload(&[1; 60]).build();
        let reason = if to == "c" { "vsid-mismatch" } else { "" };
        let heard = lan.send("a", &frame);
        assert!(heard.0.is_empty(), "{:?} received a frame of another virtual subnet", heard.by());
        if !reason.is_empty() {
            assert_eq!(lan.switch.drops("a", "out", reason), 1);
        }
    }
    for from in ["c", "none", "access", "trunk"] {
        assert!(!lan.send(from, &lan.broadcast(from).build()).by().contains(&"a"), "{from} reaches a");
    }
    let tagged = lan.frame("a", "b").vlan(10).payload(&[1; 60]).build();
    lan.dropped("a", &tagged, ("a", "out"), "vlan-not-allowed");
}

#[test]
fn s4_a_refused_mode_leaves_the_old_one() {
    let mut lan = Lan::new(&[("a", "--vlan access:10"), ("b", "--vlan access:10"), ("c", "")]);
    for (bad, reason) in [
        ("access:0", 36),
        ("access:4095", 36),
        ("trunk:1-5000", 38),
        ("trunk:1-10/4095", 39),
        ("isolated:0/5", 40),
        ("isolated:2/4095", 41),
        ("isolated:2/4,5", 42),
        ("community:2/2", 43),
        ("promiscuous:2/", 44),
        ("bridge:4", 45),
        ("access", 46),
    ] {
        let output = lan.switch.run(&["port", "set", "a", "--vlan", bad]);
        assert!(!output.status.success(), "--vlan {bad} was taken");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&reason.to_string()), "--vlan {bad}: no reason {reason} in: {said}");
    }
    let frame = lan.frame("a", "b").payload(&[1; 60]).build();
    lan.passes("a", "b", &frame);
    for bad in [
        &["port", "set", "a", "--vsid", "5000"][..], // beside a VLAN mode
        &["port", "set", "c", "--vsid", "4095"],
        &["port", "set", "c", "--vsid", "16777215"],
        &["port", "set", "c", "--vlan", "isolated:2/7", "--vsid", "5000"],
    ] {
        assert!(!lan.switch.run(bad).status.success(), "{bad:?} was taken");
    }
    lan.passes("a", "b", &frame);
    // One secondary cannot be of two kinds, nor of two primaries.
    lan.set("a", "--vlan isolated:2/4");
    for bad in ["community:2/4", "isolated:3/4", "promiscuous:3/4"] {
        assert!(
            !lan.switch.run(&["port", "set", "c", "--vlan", bad]).status.success(),
            "{bad} beside isolated:2/4"
        );
    }
}

#[test]
fn s4_the_mode_survives_a_restart() {
    let switch = Switch::start();
    switch.add_port("a", &["--vlan", "trunk:1-100,200/7"]);
    switch.add_port("b", &["--vlan", "promiscuous:2/4,5"]);
    let shown = |name: &str| switch.port(name)["policy"]["vlan"].clone();
    let before = [shown("a"), shown("b")];
    assert_eq!(before, ["trunk:1-100,200/7", "promiscuous:2/4-5"]);
    assert!(switch.terminate().success());
    switch.start_again();
    assert_eq!([shown("a"), shown("b")], before);
}
