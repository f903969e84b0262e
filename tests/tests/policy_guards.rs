//! Guards (rule book, section 6): DHCP and router guard, addresses a port owns, how many it may use, storms, MAC addresses.

use std::net::Ipv4Addr;
use std::time::Duration;

use turnpike_tests::frame::{BROADCAST, ext, pattern, tcp};
use turnpike_tests::lan::{mac, v4, v6};
use turnpike_tests::protocols::{BOOTREPLY, BOOTREQUEST, arp, icmp};
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Frame, Lan, NetHdr, Options, Packet};

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// `a` is guarded and may send tags, so that guards can be tried through them; `b` is not guarded.
fn guarded(policy: &str) -> Lan {
    Lan::new(&[("a", &format!("--vlan trunk:1-100 {policy}")), ("b", "--vlan trunk:1-100")])
}

/// A frame plain, behind one tag and behind two.
fn behind_tags(frame: &Frame) -> [Vec<u8>; 4] {
    [
        frame.build(),
        frame.clone().vlan(7).build(),
        frame.clone().tag(0x8100, 0).build(),
        frame.clone().vlan(7).vlan(8).build(),
    ]
}

/// All of these are stopped on their way from `a` to `b`, plain and tagged, and each is counted once.
#[track_caller]
fn all_stopped(lan: &mut Lan, reason: &str, frames: &[(&str, Frame)]) {
    for (name, frame) in frames {
        for (tags, frame) in behind_tags(frame).iter().enumerate() {
            let before = lan.switch.drops("a", "out", reason);
            let heard = lan.send("a", frame);
            assert!(heard.0.is_empty(), "{name} (tags: variant {tags}) got through");
            let counters = lan.switch.port("a")["counters"]["out_drops"].clone();
            assert_eq!(
                lan.switch.drops("a", "out", reason),
                before + 1,
                "{name} (variant {tags}): {counters}"
            );
        }
    }
}

/// All of these reach `b`.
#[track_caller]
fn all_pass(lan: &mut Lan, from: &str, to: &str, frames: &[(&str, Frame)]) {
    for (name, frame) in frames {
        let heard = lan.send(from, &frame.build());
        assert_eq!(heard.by(), [to], "{name}; drops: {}", lan.switch.port(from)["counters"]["out_drops"]);
        assert_eq!(heard.0[0].1.frame, frame.build(), "{name}");
    }
}

fn server_messages(base: &Frame) -> Vec<(&'static str, Frame)> {
    let four = base.clone().ipv4();
    let six = base.clone().ipv6();
    vec![
        ("offer", four.clone().dhcp4((67, 68), BOOTREPLY, NOBODY)),
        ("broadcast offer", four.clone().destination(BROADCAST).dhcp4((67, 68), BOOTREPLY, NOBODY)),
        ("reply to a relay", four.clone().dhcp4((67, 67), BOOTREPLY, RELAY)),
        ("reply from another port", four.clone().dhcp4((1067, 68), BOOTREPLY, NOBODY)),
        ("request from the server's port without a relay", four.clone().dhcp4((67, 67), BOOTREQUEST, NOBODY)),
        ("offer behind IPv4 options", four.clone().ip_options(&[1; 12]).dhcp4((67, 68), BOOTREPLY, NOBODY)),
        (
            "offer behind the longest IPv4 options",
            four.ip_options(&[1; 40]).dhcp4((67, 68), BOOTREPLY, NOBODY),
        ),
        ("advertise", six.clone().dhcp6((547, 546), 2)),
        ("reply", six.clone().dhcp6((547, 546), 7)),
        ("reconfigure", six.clone().dhcp6((547, 546), 10)),
        ("relay-reply", six.clone().dhcp6((547, 547), 13)),
        ("advertise from another port", six.clone().dhcp6((5000, 546), 2)),
        (
            "advertise behind extension headers",
            six.extension(ext::HOP_BY_HOP, 8).extension(ext::DESTINATION, 16).dhcp6((547, 546), 2),
        ),
    ]
}

#[test]
fn s6_1_server_messages_of_a_guarded_port_are_dropped() {
    let mut lan = guarded("--dhcp-guard on");
    let messages = server_messages(&lan.frame("a", "b"));
    all_stopped(&mut lan, "dhcp-guard", &messages);
}

#[test]
fn s6_1_everything_else_passes_a_guarded_port() {
    let mut lan = guarded("--dhcp-guard on");
    let base = lan.frame("a", "b");
    let (four, six) = (base.clone().ipv4(), base.clone().ipv6());
    let frames = [
        ("discover", four.clone().from_ip(NOBODY).dhcp4((68, 67), BOOTREQUEST, NOBODY)),
        ("relayed request", four.clone().dhcp4((67, 67), BOOTREQUEST, RELAY)),
        ("solicit", six.clone().dhcp6((546, 547), 1)),
        ("UDP from 66", four.clone().udp(66, 68).payload(&[1; 300])),
        ("TCP from 67", four.clone().tcp(67, 68).payload(&[2; 300])),
        ("TCP from 547", six.tcp(547, 546).payload(&[2; 300])),
        ("later fragment of TCP", four.fragment(1480, false).protocol(6).payload(&pattern(100, 1))),
        ("no IP", base),
    ];
    all_pass(&mut lan, "a", "b", &frames);
}

#[test]
fn s6_1_towards_a_guarded_port_servers_may_speak() {
    let mut lan = guarded("--dhcp-guard on");
    let messages = server_messages(&lan.frame("b", "a"));
    all_pass(&mut lan, "b", "a", &messages);
    // Off is the default, and the guard can be taken off.
    lan.set("a", "--dhcp-guard off");
    let messages = server_messages(&lan.frame("a", "b"));
    all_pass(&mut lan, "a", "b", &messages);
}

#[test]
fn h29_a_server_message_in_fragments_never_arrives_whole() {
    let mut lan = guarded("--dhcp-guard on");
    let base = lan.frame("a", "b");
    // The first fragment tells what it is; without it the rest is worth nothing. Cut so early that it does not, it is no
    // fragment anybody would make.
    for len in [0usize, 1, 4, 7, 8, 16, 64] {
        let start = pattern(len, 1);
        let firsts = [
            base.clone().ipv4().fragment(0, true).udp(67, 68).payload(&start),
            base.clone().ipv6().fragment(0, true).udp(547, 546).payload(&[&[2], &start[..]].concat()),
        ];
        for first in firsts {
            for frame in behind_tags(&first) {
                assert!(lan.send("a", &frame).0.is_empty(), "first fragment of {len} bytes got through");
            }
        }
    }
    for cut in [0usize, 1, 2, 4, 7] {
        let mut short = base.clone().ipv4().fragment(0, true).udp(67, 68).build();
        short.truncate(34 + cut);
        short[16..18].copy_from_slice(&(20 + cut as u16).to_be_bytes());
        assert!(
            lan.send("a", &short).0.is_empty(),
            "a first fragment with {cut} bytes of UDP header got through"
        );
    }
    // An overlapping second fragment that would write the ports anew.
    for offset in [0u16, 8] {
        let over =
            base.clone().ipv4().fragment(offset, false).protocol(17).payload(&[0, 67, 0, 68, 0, 40, 0, 0]);
        if offset == 0 {
            assert!(
                lan.send("a", &over.build()).0.is_empty(),
                "an atomic fragment with a server's ports got through"
            );
        }
    }
}

fn router_messages(base: &Frame) -> Vec<(&'static str, Frame)> {
    let (four, six) = (base.clone().ipv4(), base.clone().ipv6());
    vec![
        ("ICMP redirect", four.clone().icmp4(icmp::REDIRECT, 1)),
        ("ICMP router advertisement", four.clone().icmp4(icmp::ROUTER_ADVERTISEMENT, 0)),
        ("ICMP redirect behind options", four.ip_options(&[1; 8]).icmp4(icmp::REDIRECT, 0)),
        ("router advertisement", six.clone().icmp6(icmp::V6_ROUTER_ADVERTISEMENT, 0)),
        ("redirect", six.clone().icmp6(icmp::V6_REDIRECT, 0)),
        (
            "router advertisement behind hop-by-hop options",
            six.clone().extension(ext::HOP_BY_HOP, 8).icmp6(icmp::V6_ROUTER_ADVERTISEMENT, 0),
        ),
        (
            "router advertisement behind three headers",
            six.clone()
                .extension(ext::HOP_BY_HOP, 8)
                .extension(ext::ROUTING, 8)
                .extension(ext::DESTINATION, 24)
                .icmp6(icmp::V6_ROUTER_ADVERTISEMENT, 0),
        ),
        (
            "router advertisement in one fragment",
            six.fragment(0, false).icmp6(icmp::V6_ROUTER_ADVERTISEMENT, 0),
        ),
    ]
}

#[test]
fn s6_2_advertisements_and_redirects_of_a_guarded_port_are_dropped() {
    let mut lan = guarded("--router-guard on");
    let messages = router_messages(&lan.frame("a", "b"));
    all_stopped(&mut lan, "router-guard", &messages);
    let multicast = lan.frame("a", "b").destination([0x33, 0x33, 0, 0, 0, 1]);
    let messages = router_messages(&multicast);
    all_stopped(&mut lan, "router-guard", &messages);
}

#[test]
fn s6_2_everything_else_passes() {
    let mut lan = guarded("--router-guard on");
    let base = lan.frame("a", "b");
    let (four, six) = (base.clone().ipv4(), base.clone().ipv6());
    let own = v6(1);
    let frames = [
        ("echo", four.clone().icmp4(icmp::ECHO, 0)),
        ("ICMP router solicitation", four.clone().icmp4(icmp::ROUTER_SOLICITATION, 0)),
        ("destination unreachable", four.clone().icmp4(3, 1)),
        ("ICMPv6 echo", six.clone().icmp6(icmp::V6_ECHO, 0)),
        ("router solicitation", six.clone().icmp6(icmp::V6_ROUTER_SOLICITATION, 0)),
        ("neighbour solicitation", six.clone().neighbour(icmp::NEIGHBOUR_SOLICITATION, v6(2), Some(mac(1)))),
        ("neighbour advertisement", six.clone().neighbour(icmp::NEIGHBOUR_ADVERTISEMENT, own, Some(mac(1)))),
        ("first fragment of a long echo", six.clone().fragment(0, true).icmp6(icmp::V6_ECHO, 0)),
        ("UDP whose first bytes look like it", six.udp(0x8600, 134).payload(&[134; 60])),
    ];
    all_pass(&mut lan, "a", "b", &frames);
    let messages = router_messages(&lan.frame("b", "a"));
    all_pass(&mut lan, "b", "a", &messages);
    lan.set("a", "--router-guard default");
    let messages = router_messages(&lan.frame("a", "b"));
    let unfragmented: Vec<_> = messages.into_iter().filter(|(name, _)| !name.contains("fragment")).collect();
    all_pass(&mut lan, "a", "b", &unfragmented);
}

#[test]
fn h29_router_messages_do_not_hide_behind_headers_or_fragments() {
    let mut lan = guarded("--router-guard on");
    let six = lan.frame("a", "b").ipv6();
    let advert = |frame: Frame| frame.icmp6(icmp::V6_ROUTER_ADVERTISEMENT, 0);
    let long = |headers: usize, len: usize| {
        (0..headers).fold(six.clone(), |f, _| f.extension(ext::DESTINATION, len))
    };
    let frames = [
        ("first fragment of several", advert(six.clone().fragment(0, true))),
        ("behind a long chain", advert(long(30, 8))),
        ("behind more than policy looks at", advert(long(1, 200))),
        ("behind a wide chain", advert(long(4, 64))),
        ("behind three tags", advert(six.clone()).vlan(7).vlan(8).vlan(9)),
        ("behind stacked priority tags", advert(six.clone()).tag(0x8100, 0).tag(0x8100, 0).tag(0x8100, 0)),
        ("in a fragment in a fragment", advert(six.clone().fragment(0, true).fragment(0, false))),
    ];
    for (name, frame) in &frames {
        for (tags, frame) in behind_tags(frame).iter().enumerate() {
            assert!(lan.send("a", frame).0.is_empty(), "{name} (variant {tags}) got through");
        }
    }
    // A first fragment that ends before the ICMPv6 type: whoever puts it together would see an advertisement.
    let mut cut = six.clone().extension(ext::DESTINATION, 8).fragment(0, true).protocol(58).build();
    cut.truncate(14 + 40 + 8 + 8);
    assert!(lan.send("a", &cut).0.is_empty(), "a first fragment without upper header got through");
    // Truncated in the middle of the chain.
    let whole = advert(six.extension(ext::HOP_BY_HOP, 24).extension(ext::DESTINATION, 16)).build();
    for len in 54..whole.len() - 31 {
        assert!(lan.send("a", &whole[..len]).0.is_empty(), "cut to {len} bytes it got through");
    }
}

/// An IP packet behind an 802.3 length and an LLC/SNAP header (RFC 1042), which many receivers take as they take Ethernet II.
fn behind_snap(frame: &Frame, length: Option<u16>) -> Vec<u8> {
    let whole = frame.build();
    let packet = Packet::of(&whole);
    let (head, rest) = whole.split_at(packet.l3 - 2);
    let length = length.unwrap_or(rest.len() as u16 + 6);
    [head, &length.to_be_bytes(), &[0xaa, 0xaa, 3, 0, 0, 0], rest].concat()
}

#[test]
fn h29_guards_are_not_evaded_by_llc_and_snap() {
    let mut lan = guarded("--dhcp-guard on --router-guard on --addresses 10.0.0.1,fd00::1");
    lan.run("acl add a --action deny --direction out --remote 10.0.0.2");
    lan.run("acl add a --action deny --direction out --remote fd00::2");
    let base = lan.frame("a", "b");
    let frames = [
        ("router advertisement", base.clone().ipv6().to_ip(v6(9)).icmp6(icmp::V6_ROUTER_ADVERTISEMENT, 0)),
        ("DHCP offer", base.clone().ipv4().to_ip(v4(9)).dhcp4((67, 68), BOOTREPLY, NOBODY)),
        ("denied address", base.clone().ipv4().udp(1, 2)),
        ("foreign source", base.clone().ipv4().from_ip(v4(77)).to_ip(v4(9)).udp(1, 2)),
        ("ARP", base.clone().arp(arp::REPLY, (mac(1), v4(77)), (mac(2), v4(2)))),
    ];
    for (name, frame) in &frames {
        for tags in [
            frame.clone(),
            frame.clone().vlan(7),
            frame.clone().tag(0x8100, 0),
            frame.clone().vlan(7).vlan(8),
        ] {
            for length in [None, Some(0), Some(8), Some(1500), Some(1535)] {
                let heard = lan.send("a", &behind_snap(&tags, length));
                assert!(heard.0.is_empty(), "{name} in SNAP (length {length:?}) got through");
            }
        }
    }
    // Spanning tree, NetBEUI and the like are no IP, and nobody's guard.
    let llc = base.ethertype(40).payload(&[&[0xf0, 0xf0, 3][..], &[0; 57]].concat()).build();
    lan.passes("a", "b", &llc);
}

/// Sends `count` copies of a frame within one or two windows; returns how many `to` received.
fn burst(lan: &mut Lan, frame: &[u8], count: usize) -> u64 {
    lan.send_all("a", &vec![frame.to_vec(); count]).0.len() as u64
}

#[test]
fn s6_5_a_storm_is_cut_to_the_limit_in_every_second() {
    let mut lan = Lan::new(&[("a", "--storm-limit 50"), ("b", "")]);
    let kinds = [
        lan.broadcast("a").build(),
        lan.frame("a", "b").destination([1, 0, 0x5e, 0, 0, 9]).payload(&[1; 60]).build(),
        Frame::new(BROADCAST, mac(1)).arp(arp::REQUEST, (mac(1), v4(1)), ([0; 6], v4(2))).build(),
    ];
    let mut dropped = 0;
    for frame in &kinds {
        std::thread::sleep(Duration::from_millis(1050));
        let got = burst(&mut lan, frame, 200);
        // The burst takes milliseconds; a new second may begin within it, once.
        assert!(got == 50 || got == 100, "{got} of 200 passed");
        dropped += 200 - got;
        assert_eq!(lan.switch.drops("a", "out", "storm-limit"), dropped);
    }
    // Unicast to a known address is no storm.
    let unicast = lan.frame("a", "b").payload(&[1; 60]).build();
    assert_eq!(burst(&mut lan, &unicast, 300), 300);
    lan.set("a", "--storm-limit 0");
    assert_eq!(burst(&mut lan, &kinds[0], 300), 300);
}

#[test]
fn s6_5_unknown_unicast_counts_too_and_all_kinds_count_together() {
    let mut lan = Lan::new(&[("a", "--storm-limit 60"), ("bridge", "--mac-spoofing on"), ("b", "")]);
    // Without a physical network, unknown addresses are looked for behind ports that may have them.
    lan.run("switch set --kind internal");
    let unknown = lan.frame("a", "b").destination([2, 9, 9, 9, 9, 9]).payload(&[1; 60]).build();
    let broadcast = lan.broadcast("a").build();
    let mixed: Vec<Vec<u8>> =
        (0..200).map(|i| if i % 2 == 0 { &unknown } else { &broadcast }.clone()).collect();
    let _ = lan.send_all("a", &mixed);
    let dropped = lan.switch.drops("a", "out", "storm-limit");
    assert!(dropped == 140 || dropped == 80, "{dropped} of 200 were dropped at a limit of 60");
}

#[test]
fn s6_5_the_limit_holds_over_all_queues_and_workers() {
    let options = SwitchOptions { workers: 2, ..SwitchOptions::default() };
    let mut lan = Lan::with(options, &[]);
    lan.add("a", "--storm-limit 40", Options::default().pairs(4));
    lan.add("b", "", Options::default());
    let frame = lan.broadcast("a").build();
    std::thread::sleep(Duration::from_millis(1050));
    let guest = lan.guest("a");
    for _ in 0..30 {
        for pair in 0..4 {
            assert!(guest.enqueue(pair, NetHdr::default(), &frame));
        }
    }
    for ring in &mut guest.tx {
        ring.notify();
    }
    assert!(guest.flush(turnpike_tests::PATIENCE));
    let got = lan.heard().0.len();
    assert!(got == 40 || got == 80, "{got} of 120 passed");
    assert_eq!(lan.switch.drops("a", "out", "storm-limit"), 120 - got as u64);
}

#[test]
fn s13_a_teaming_port_may_use_its_partners_address() {
    let mut lan = Lan::new(&[
        ("a", "--vm one --teaming on"),
        ("b", "--vm one --teaming on"),
        ("c", "--vm two --teaming on"),
        ("d", "--vm one"),
        ("peer", ""),
    ]);
    let frame = |lan: &Lan, from: &str| Frame::new(lan.mac("peer"), lan.mac(from)).payload(&[1; 60]).build();
    let as_b = frame(&lan, "b");
    lan.passes("a", "peer", &as_b);
    for stranger in ["c", "d"] {
        assert!(lan.send(stranger, &as_b).0.is_empty(), "{stranger} used the address of b");
    }
    let as_d = frame(&lan, "d");
    assert!(lan.send("a", &as_d).0.is_empty(), "d does not team");
    let made_up = Frame::new(lan.mac("peer"), [2, 1, 1, 1, 1, 1]).payload(&[1; 60]).build();
    lan.dropped("a", &made_up, ("a", "out"), "source-not-allowed");
    lan.set("b", "--teaming off");
    assert!(lan.send("a", &as_b).0.is_empty(), "b does not team any more");
    assert_eq!(lan.switch.all_drops("a"), 3);
}

#[test]
fn s3_3_guards_hold_for_frames_with_a_foreign_source_too() {
    let mut lan = Lan::new(&[("a", "--mac-spoofing on --dhcp-guard on --router-guard on"), ("b", "")]);
    let foreign = [2, 1, 1, 1, 1, 1];
    let base = Frame::new(lan.mac("b"), foreign);
    lan.dropped(
        "a",
        &base.clone().ipv4().dhcp4((67, 68), BOOTREPLY, NOBODY).build(),
        ("a", "out"),
        "dhcp-guard",
    );
    lan.dropped("a", &base.clone().ipv6().icmp6(134, 0).build(), ("a", "out"), "router-guard");
    let syn = base.ipv4().tcp(1, 2).tcp_seq(1, tcp::SYN).build();
    lan.passes("a", "b", &syn);
}
