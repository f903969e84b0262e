//! Attempts to get around the guards, judged by what a receiver that believes anything makes of what passed.

use vswitch::HEAD_LEN;
use vswitch::flow::{Forwarder, Plan};
use vswitch::frame::ethernet::ethertype;
use vswitch::pipeline::{self, Verdict};
use vswitch::port::Policy;
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId};

use crate::guards::{Judge, LOCAL6, OWN, OWN6, PEER, PEER6, owning, switch};
use crate::packets::*;
use crate::receiver::{Heard, Wins, heard, learned};
use crate::support::{Random, SECOND, Switch, dropped, mac_of, to};

/// Judges as the data path does: by the first bytes only.
fn passes(switch: &Switch, frame: &[u8]) -> bool {
    let head = &frame[..frame.len().min(HEAD_LEN)];
    let verdict = pipeline::run(&switch.snap, &switch.state, switch.now, PortId(1), head, frame.len() as u32);
    !matches!(verdict, Verdict::Drop(_))
}

/// A message that a guard is against: IP version, protocol, bytes.
fn evil(random: &mut Random) -> (u8, u8, Vec<u8>) {
    let size = 64 + 8 * random.below(8);
    let padding = random.bytes(size);
    let datagram = |src, dst, kind: u8| udp(src, dst, &[&[kind], &padding[..]].concat());
    let any = random.next() as u16;
    match random.below(8) {
        0 => (4, 1, icmp([5, 9][random.below(2)], &padding)),
        1 | 2 => (6, 58, icmp([134, 137][random.below(2)], &padding)),
        3 => (4, 17, datagram(67, 68, 2)),
        4 => (4, 17, datagram(any, 67 + random.below(2) as u16, 2)),
        5 => (6, 17, datagram(547, 546, 7)),
        6 => (6, 17, datagram(any, 546, [2, 7, 10][random.below(3)])),
        _ => (6, 17, datagram(any, 547, 13)),
    }
}

/// Bytes as long as `message` that no guard is against: another ICMP type, other ports.
fn decoy(message: &[u8], protocol: u8) -> Vec<u8> {
    let mut decoy = message.to_vec();
    match protocol {
        17 => decoy[..9].copy_from_slice(&[0x30, 0x39, 0x30, 0x3a, 0, 40, 0, 0, 1]),
        58 => decoy[0] = 128,
        _ => decoy[0] = 8,
    }
    decoy
}

/// Extension headers of random kinds and sizes before `payload`, and the number of the first.
fn chain(random: &mut Random, most: usize, protocol: u8, payload: Vec<u8>) -> (u8, Vec<u8>) {
    let (mut next, mut payload) = (protocol, payload);
    for _ in 0..random.below(most + 1) {
        let kind = [0, 43, 51, 60, 60, 135, 139, 140][random.below(8)];
        let units = if random.once_in(12) { 20 } else { 1 + random.below(3) };
        payload = extension(kind, next, units, &payload);
        next = kind;
    }
    (next, payload)
}

/// The pieces `(at, more, bytes)` of a payload: a regular cut, with decoys thrown in, in any order.
fn pieces(random: &mut Random, payload: &[u8], decoy: &[u8]) -> Vec<(usize, bool, Vec<u8>)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let end = (at + 8 * [1, 2, 3, 4, 12][random.below(5)]).min(payload.len());
        pieces.push((at, end < payload.len(), payload[at..end].to_vec()));
        at = end;
    }
    for _ in 0..random.below(4) {
        let at = [0, 8, 16, 24][random.below(4)].min(payload.len() / 8 * 8);
        let end = (at + 8 * random.below(6)).min(payload.len());
        let source = if random.once_in(3) { payload } else { decoy };
        let piece = (at, end < payload.len(), source[at..end].to_vec());
        pieces.insert(random.below(pieces.len() + 1), piece);
    }
    if random.once_in(3) {
        for i in 0..pieces.len() {
            let other = random.below(pieces.len());
            pieces.swap(i, other);
        }
    }
    pieces
}

/// Tags, the outermost being one that a trunk may send, and now and then LLC/SNAP.
fn wrapped(random: &mut Random, packet: &[u8]) -> Vec<u8> {
    let kind = ethertype_of(packet);
    let tags = [(0x8100, 5), ([0x8100, 0x88a8][random.below(2)], 0), (0x8100, 0), (0x8100, 6)];
    let tags = &tags[..[0, 0, 0, 1, 1, 2, 3, 4][random.below(8)]];
    if random.once_in(10) {
        let oui = [0, 0, [0, 0xf8][random.below(2)]];
        let snap = [&[0xaa, 0xaa, 3], &oui[..], &kind.to_be_bytes(), packet].concat();
        return tagged(tags, [0, 1500, snap.len() as u16][random.below(3)].min(0x5ff), &snap);
    }
    tagged(tags, kind, packet)
}

/// The frames of one attempt to deliver an evil message.
fn attempt(random: &mut Random) -> Vec<Vec<u8>> {
    let (version, protocol, message) = evil(random);
    let decoy = decoy(&message, protocol);
    let whole = random.once_in(3);
    if version == 4 {
        let options = 4 * random.below(11);
        let packets: Vec<_> = if whole {
            vec![v4(OWN, PEER, protocol, &message)]
        } else {
            let pieces = pieces(random, &message, &decoy);
            pieces.iter().map(|(at, more, piece)| v4_piece(OWN, PEER, protocol, *at, *more, piece)).collect()
        };
        return packets.into_iter().map(|p| wrapped(random, &with_options(p, options))).collect();
    }
    let inner = if random.once_in(2) { 3 } else { 0 };
    let ((next, payload), mut aside) = (chain(random, inner, protocol, message.clone()), decoy);
    let lead = payload.len() - message.len();
    aside.splice(0..0, payload[..lead].iter().copied());
    let packets: Vec<_> = if whole {
        let (next, payload) =
            if random.once_in(4) { (44, fragment(next, 0, false, &payload)) } else { (next, payload) };
        let (next, payload) = chain(random, 10, next, payload);
        vec![v6(OWN6, PEER6, next, &payload)]
    } else {
        let pieces = pieces(random, &payload, &aside);
        let one = |(at, more, piece): &(usize, bool, Vec<u8>)| {
            let next = if random.once_in(10) { 59 } else { next };
            let (next, payload) = chain(random, 2, 44, fragment(next, *at, *more, piece));
            v6(OWN6, PEER6, next, &payload)
        };
        pieces.iter().map(one).collect()
    };
    packets.into_iter().map(|p| wrapped(random, &p)).collect()
}

#[test]
fn h29_no_wrapping_or_fragmenting_gets_a_message_past_its_guard() {
    let router = switch(|policy| policy.router_guard = true);
    let dhcp = switch(|policy| policy.dhcp_guard = true);
    let mut random = Random(51);
    let mut understood = [0; 2];
    for round in 0..60_000 {
        let frames = attempt(&mut random);
        for wins in [Wins::First, Wins::Last] {
            let against = |guard: &Switch| {
                let passed: Vec<_> = frames.iter().filter(|frame| passes(guard, frame)).cloned().collect();
                heard(&passed, wins)
            };
            let all = heard(&frames, wins);
            understood[0] += u32::from(all.contains(&Heard::Router));
            understood[1] += u32::from(all.contains(&Heard::DhcpServer));
            assert!(!against(&router).contains(&Heard::Router), "round {round}: {frames:02x?}");
            assert!(!against(&dhcp).contains(&Heard::DhcpServer), "round {round}: {frames:02x?}");
        }
    }
    assert!(understood.iter().all(|&n| n > 10_000), "without a guard they are understood: {understood:?}");
}

#[test]
fn h29_the_flow_cache_opens_no_way_past_a_guard() {
    let guards: [fn(&mut Policy); 4] = [
        |policy| policy.router_guard = true,
        |policy| policy.dhcp_guard = true,
        |policy| policy.addresses = Some([OWN, OWN6].map(|a| ip(a).into()).into()),
        |policy| policy.address_limit = 1,
    ];
    for guard in guards {
        let (cached, plain) = (switch(guard), switch(guard));
        let (mut forwarder, mut random) = (Forwarder::new(7, 4096), Random(56));
        let (mut now, mut dropped) = (SECOND, 0);
        for _ in 0..30_000 {
            now += random.below(1_000_000) as u64;
            let mut frames = attempt(&mut random);
            let (version, protocol, message) = evil(&mut random);
            let message = if random.once_in(2) { decoy(&message, protocol) } else { message };
            let own = random.once_in(2);
            let packet = match (version, own) {
                (4, own) => v4(if own { OWN } else { PEER }, PEER, protocol, &message),
                (_, own) => v6(if own { OWN6 } else { PEER6 }, PEER6, protocol, &message),
            };
            frames.push(framed(&packet));
            let sender = if random.once_in(2) { OWN } else { PEER };
            frames.push(tagged(&[], ethertype::ARP, &arp(1, mac_of(1), sender, OWN)));
            let target = if random.once_in(2) { OWN6 } else { PEER6 };
            frames.push(framed(&v6(LOCAL6, PEER6, 58, &neighbour(136, target, None))));
            forwarder.begin(&cached.snap, &cached.state, now, PortId(1));
            for frame in frames {
                let (head, len) = (&frame[..frame.len().min(HEAD_LEN)], frame.len() as u32);
                let mut plan = Plan::default();
                let verdict =
                    forwarder.judge(&cached.snap, &cached.state, now, PortId(1), head, len, &mut plan);
                let expected = pipeline::run(&plain.snap, &plain.state, now, PortId(1), head, len);
                assert_eq!(verdict, expected, "{frame:02x?}");
                dropped += u32::from(matches!(verdict, Verdict::Drop(_)));
            }
        }
        let hits = forwarder.counters().hits;
        assert!(hits > 5_000 && dropped > 5_000, "{hits} {dropped}");
    }
}

#[test]
fn h29_everything_else_gets_through() {
    let guarded = switch(|policy| (policy.router_guard, policy.dhcp_guard) = (true, true));
    let mut random = Random(52);
    for _ in 0..20_000 {
        let (version, protocol, message) = evil(&mut random);
        let message = decoy(&message, protocol);
        let tags = &[(0x88a8, 5), (0x8100, 6)][..random.below(3)];
        let cut = 24 + 8 * random.below((message.len() - 24) / 8);
        let packets = match (version, random.below(3)) {
            (4, 0) => vec![
                v4_piece(OWN, PEER, protocol, 0, true, &message[..cut]),
                v4_piece(OWN, PEER, protocol, cut, false, &message[cut..]),
            ],
            (4, _) => vec![v4(OWN, PEER, protocol, &message)],
            (_, 0) => vec![
                v6(OWN6, PEER6, 44, &fragment(protocol, 0, true, &message[..cut])),
                v6(OWN6, PEER6, 44, &fragment(protocol, cut, false, &message[cut..])),
            ],
            (_, 1) => vec![v6(OWN6, PEER6, 60, &extension(60, protocol, 2, &message))],
            _ => vec![v6(OWN6, PEER6, protocol, &message)],
        };
        let frames: Vec<_> = packets.iter().map(|p| tagged(tags, ethertype_of(p), p)).collect();
        assert!(frames.iter().all(|frame| passes(&guarded, frame)), "{frames:02x?}");
        assert_eq!(heard(&frames, Wins::Last), [Heard::Other]);
    }
}

#[test]
fn h29_no_odd_arp_makes_a_neighbour_learn_what_is_not_owned() {
    let switch = owning(&[OWN]);
    let mut random = Random(53);
    let (mut passed, mut spoofs) = (0, 0);
    for round in 0..100_000_usize {
        let kind = [ethertype::ARP, ethertype::RARP][random.below(2)];
        let mut message = arp(1 + random.below(4) as u16, mac_of(1), OWN, PEER);
        // First every value of every byte, then several at once; and any length.
        if round < 28 * 256 {
            message[round / 256] = round as u8;
        } else {
            for _ in 0..random.below(4) {
                message[random.below(28)] = [0, 1, 6, 8, random.next() as u8][random.below(5)];
            }
            message.truncate(random.below(60));
        }
        let tags = &[(0x8100, 5), (0x8100, 0), (0x8100, 0)][..random.below(4)];
        let mut frame = tagged(tags, kind, &message);
        if random.once_in(2) {
            frame.truncate(14 + 4 * tags.len() + message.len());
        }
        let learned = learned(&frame);
        let spoofed = learned.iter().any(|pair| *pair != (ip(OWN), mac_of(1)));
        spoofs += u32::from(spoofed);
        if passes(&switch, &frame) {
            passed += 1;
            assert!(!spoofed, "{learned:?} from {frame:02x?}");
        }
    }
    assert!(passed > 1000 && spoofs > 1000, "{passed} {spoofs}");
}

#[test]
fn h29_no_odd_discovery_makes_a_neighbour_learn_what_is_not_owned() {
    let switch = owning(&[OWN6]);
    let mut random = Random(54);
    let (mut passed, mut spoofs) = (0, 0);
    for _ in 0..200_000 {
        let target = [OWN6, LOCAL6, PEER6][random.below(3)];
        let mut message = neighbour([133, 135, 136, 137][random.below(4)], target, None);
        for _ in 0..random.below(4) {
            let mac = mac_of(1 + u16::from(random.once_in(3)));
            message.extend([[1, 2, 14][random.below(3)], 1 + u8::from(random.once_in(8))]);
            message.extend(mac.0);
        }
        if random.once_in(4) {
            let at = random.below(message.len());
            message[at] = random.next() as u8;
        }
        let (next, payload) = match random.below(6) {
            0 => (44, fragment(58, 0, random.once_in(2), &message)),
            1 => (60, extension(60, 58, [1, 2, 9][random.below(3)], &message)),
            _ => (58, message),
        };
        let mut packet = v6([OWN6, LOCAL6, "::"][random.below(3)], PEER6, next, &payload);
        if random.once_in(4) {
            packet[5] = random.below(payload.len() + 8) as u8;
        }
        let frame = tagged(&[(0x8100, 5)][..random.below(2)], ethertype::IPV6, &packet);
        let learned = learned(&frame);
        let own = [OWN6, LOCAL6, "::"].map(ip);
        let spoofed = learned.iter().any(|(address, mac)| !own.contains(address) || *mac != mac_of(1));
        // A redirect is about another address by nature: it may name it, but not with a MAC address other than the port's.
        let redirect = heard(std::slice::from_ref(&frame), Wins::Last).contains(&Heard::Router);
        let spoofed = spoofed && !(redirect && learned.iter().all(|(_, mac)| *mac == mac_of(1)));
        spoofs += u32::from(spoofed);
        if passes(&switch, &frame) {
            passed += 1;
            assert!(!spoofed, "{learned:?} from {frame:02x?}");
        }
    }
    assert!(passed > 10_000 && spoofs > 10_000, "{passed} {spoofs}");
}

#[test]
fn h29_every_source_but_the_owned_ones_is_dropped_in_every_wrapping() {
    let switch = owning(&[OWN, OWN6]);
    let mut random = Random(55);
    for _ in 0..20_000 {
        let four = random.once_in(2);
        let spoofed = random.once_in(2);
        let message = udp(1000, 53, &[0; 64]);
        let packet = match (four, spoofed) {
            (true, spoofed) => {
                let piece = 8 * random.below(3) * random.below(2);
                let packet =
                    v4_piece(if spoofed { PEER } else { OWN }, PEER, 17, piece, random.once_in(3), &message);
                with_options(packet, 4 * random.below(11))
            }
            (false, spoofed) => {
                let (next, payload) = match random.below(3) {
                    0 => (44, fragment(17, 8 * random.below(3), random.once_in(2), &message)),
                    1 => (0, extension(0, 17, 1 + random.below(4), &message)),
                    _ => (17, message),
                };
                v6(if spoofed { PEER6 } else { OWN6 }, PEER6, next, &payload)
            }
        };
        let tags = &[(0x8100, 5), (0x88a8, 0)][..random.below(3)];
        assert_eq!(passes(&switch, &tagged(tags, ethertype_of(&packet), &packet)), !spoofed, "{packet:02x?}");
        let snap = [&[0xaa, 0xaa, 3, 0, 0, 0], &ethertype_of(&packet).to_be_bytes()[..], &packet].concat();
        assert!(!passes(&switch, &tagged(tags, 100, &snap)), "hidden in LLC/SNAP");
        let tags = [(0x8100, 5), (0x8100, 0), (0x8100, 0)];
        assert!(
            !passes(&switch, &tagged(&tags, ethertype_of(&packet), &packet)),
            "hidden behind a third tag"
        );
    }
}

#[test]
fn h29_a_group_is_never_the_source() {
    let switch = owning(&[OWN]);
    let good = v4(OWN, PEER, 17, &udp(1, 2, b""));
    for src in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0x33, 0x33, 0, 0, 0, 1]), Mac([0; 6])] {
        let frame = ethernet(mac_of(2), src, &[], ethertype::IPV4, &good);
        assert_eq!(switch.judge(&frame), dropped(DropReason::InvalidSource));
    }
    assert_eq!(switch.packet(&good), to(2));
    for src in ["255.255.255.255", "10.0.0.255", "224.0.0.1", "127.0.0.1"] {
        assert_eq!(switch.packet(&v4(src, PEER, 17, &udp(1, 2, b""))), dropped(DropReason::AddressNotOwned));
    }
}
