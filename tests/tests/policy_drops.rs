//! Every drop reason there is can be had from outside, and is counted once per frame, at the right port and direction.
//!
//! The list of reasons is the switch's own: one that is added there without a way to produce it here fails this test.

use std::collections::BTreeSet;

use turnpike_tests::extension::module;
use turnpike_tests::frame::{BROADCAST, ext, pattern};
use turnpike_tests::lan::{mac, v4, v6};
use turnpike_tests::protocols::{BOOTREPLY, arp, icmp};
use turnpike_tests::ring::{Buffer, Descriptor};
use turnpike_tests::{Frame, Lan, NetHdr, Options, PATIENCE};
use vswitch::trace::DropReason;

/// How a reason is had.
enum Producer {
    /// Port options of the receiver, what is set on the sender, the frames, and where each is counted.
    Frames(&'static str, &'static [&'static str], fn(&mut Lan) -> Vec<Vec<u8>>, At),
    /// More than frames is needed; the number of frames that were dropped.
    Deed(fn(&mut Lan) -> u64, At),
    /// Not from outside, and why.
    Inside(&'static str),
    /// It takes a physical network; the test that shows it.
    Wire(&'static str),
}

/// Where a drop is counted.
#[derive(Clone, Copy)]
enum At {
    /// At the sender `a`, out.
    Sender,
    /// At the receiver `b`, in.
    Receiver,
}

use At::{Receiver, Sender};
use Producer::{Deed, Frames, Inside, Wire};

fn to_b() -> Frame {
    Frame::new(mac(2), mac(1)).payload(&[1; 60])
}

fn four() -> Frame {
    to_b().ipv4()
}

/// Sends a frame three times, which nobody gets.
fn sent_for_nothing(lan: &mut Lan, frame: &[u8]) -> u64 {
    for _ in 0..3 {
        let heard = lan.send("a", frame);
        assert!(heard.0.is_empty(), "{:?} received a frame", heard.by());
    }
    3
}

/// Puts `a` into a virtual subnet without records and lets it send a packet there; nobody gets it.
fn customer(lan: &mut Lan, to: [u8; 4]) -> u64 {
    for line in [
        "switch set --nv on",
        "port set a --vsid 5001",
        "nv network add blue --rdid 11111111-1111-1111-1111-111111111111",
        "nv subnet add --network blue --vsid 5001 --prefix 10.7.0.0/16",
    ] {
        lan.run(line);
    }
    let frame = Frame::new(mac(2), mac(1)).ipv4().from_ip([10, 7, 0, 10]).to_ip(to).udp(1000, 2000).build();
    for _ in 0..3 {
        let heard = lan.send("a", &frame);
        assert!(heard.0.is_empty(), "{:?} received a frame", heard.by());
    }
    3
}

fn producer(reason: DropReason) -> Producer {
    match reason {
        DropReason::NvSourceUnknown => Deed(|lan| customer(lan, [10, 7, 0, 11]), Sender),
        DropReason::NvNoRoute => {
            let commands = &["switch set --nv on", "port set a --vsid 5001"];
            Frames("", commands, |_| vec![four().udp(1, 2).build(); 2], Sender)
        }
        DropReason::NvDestinationUnknown => Wire("s14_5_a_source_without_its_record_sends_nothing"),
        DropReason::NvForRouter => Wire("s14_10_the_router_answers_echo_and_nothing_else"),
        DropReason::NvMethodMismatch => Wire("s14_5_both_records_name_one_encapsulation"),
        DropReason::ProviderUnreachable => {
            Wire("s14_4_a_host_that_does_not_answer_costs_nobody_else_anything")
        }
        DropReason::NvEthertype => Frames(
            "",
            &[
                "switch set --nv on",
                "port set a --vsid 5001",
                "nv network add blue --rdid 11111111-1111-1111-1111-111111111111",
                "nv subnet add --network blue --vsid 5001 --prefix 10.7.0.0/16",
            ],
            |_| vec![to_b().build(); 2],
            Sender,
        ),
        DropReason::NvSourceSpoofed => {
            Wire("h30_a_tunnels_packet_is_believed_only_as_far_as_records_confirm_it")
        }
        DropReason::NvMalformed => {
            Wire("h30_malformed_tunnels_to_this_host_are_dropped_and_others_are_ordinary_frames")
        }
        DropReason::NvCongestion => Wire("h30_congestion_marks_arrive_or_the_packet_does_not"),
        DropReason::ProviderSpoofed => Wire("h30_nobody_on_the_provider_network_uses_its_addresses"),
        DropReason::NvNotHere => {
            Wire("s20_5_what_still_arrives_at_the_former_host_follows_the_guest_for_a_while")
        }
        DropReason::NvTtlExpired => {
            Inside("a packet that goes to and fro between two hosts that both sent it on")
        }
        DropReason::FrameTooShort => Frames(
            "",
            &[],
            |_| {
                let whole = to_b().build();
                vec![vec![], whole[..1].to_vec(), whole[..13].to_vec(), to_b().vlan(7).build()[..15].to_vec()]
            },
            Sender,
        ),
        DropReason::FrameTooLong => {
            Frames("", &[], |_| vec![to_b().payload(&pattern(65_560, 1)).build()], Sender)
        }
        DropReason::NoSuchPort => Inside("a port's rings are stopped before it leaves the switch"),
        DropReason::LinkDown => Frames("", &["port set a --link down"], |_| vec![to_b().build(); 3], Sender),
        DropReason::NullDestination => Frames("", &[], |_| vec![to_b().destination([0; 6]).build()], Sender),
        DropReason::InvalidSource => Frames(
            "",
            &["port set a --mac-spoofing on"],
            |_| vec![to_b().source(BROADCAST).build(), to_b().source([0; 6]).build()],
            Sender,
        ),
        DropReason::SourceNotAllowed => {
            Frames("", &[], |_| vec![to_b().source([2, 1, 1, 1, 1, 1]).build(); 2], Sender)
        }
        DropReason::MacPinned => {
            Frames("", &["port set a --mac-spoofing on"], |_| vec![to_b().source(mac(3)).build()], Sender)
        }
        DropReason::ReservedMulticast => Frames(
            "",
            &[],
            |_| [0, 2, 3, 14].map(|last| to_b().destination([1, 0x80, 0xc2, 0, 0, last]).build()).to_vec(),
            Sender,
        ),
        DropReason::VlanNotAllowed => Frames(
            "",
            &["port set a --vlan trunk:7"],
            |_| vec![to_b().vlan(8).build(), to_b().vlan(4095).build()],
            Sender,
        ),
        DropReason::TagInHeader => Frames("", &[], |_| vec![to_b().tag(0x8100, 0).vlan(7).build()], Sender),
        DropReason::VlanFiltered => Frames("--vlan access:7", &[], |_| vec![to_b().build(); 2], Sender),
        DropReason::PrivateVlan => Frames(
            "--vlan isolated:2/4",
            &["port set a --vlan isolated:2/4"],
            |_| vec![to_b().build()],
            Sender,
        ),
        DropReason::VsidMismatch => {
            Frames("--vsid 5000", &["port set a --vsid 6000"], |_| vec![to_b().build()], Sender)
        }
        DropReason::MalformedPacket => Frames(
            "",
            &["rule add a --action deny --direction out --weight 1 --remote 10.99.0.0/16"],
            |_| {
                let long = (0..40).fold(to_b().ipv6(), |frame, _| frame.extension(ext::DESTINATION, 8));
                vec![four().udp(1, 2).build()[..30].to_vec(), long.udp(1, 2).build()]
            },
            Sender,
        ),
        DropReason::BadFragment => Frames(
            "",
            &["rule add a --action deny --direction out --weight 1 --remote 10.99.0.0/16"],
            |_| vec![four().fragment(8, false).protocol(6).build()],
            Sender,
        ),
        DropReason::DhcpGuard => Frames(
            "",
            &["port set a --dhcp-guard on"],
            |_| {
                vec![
                    four().dhcp4((67, 68), BOOTREPLY, [0; 4].into()).build(),
                    to_b().ipv6().dhcp6((547, 546), 2).build(),
                ]
            },
            Sender,
        ),
        DropReason::RouterGuard => Frames(
            "",
            &["port set a --router-guard on"],
            |_| {
                vec![
                    four().icmp4(icmp::REDIRECT, 0).build(),
                    to_b().ipv6().icmp6(icmp::V6_ROUTER_ADVERTISEMENT, 0).build(),
                ]
            },
            Sender,
        ),
        DropReason::AddressNotOwned => Frames(
            "",
            &["port set a --addresses 10.0.0.1"],
            |_| vec![four().from_ip(v4(2)).udp(1, 2).build(), to_b().ipv6().udp(1, 2).build()],
            Sender,
        ),
        DropReason::NeighbourSpoofed => Frames(
            "",
            &["port set a --addresses 10.0.0.1,fd00::1"],
            |_| {
                vec![
                    to_b().arp(arp::REPLY, (mac(1), v4(9)), (mac(2), v4(2))).build(),
                    to_b().ipv6().neighbour(icmp::NEIGHBOUR_ADVERTISEMENT, v6(9), Some(mac(1))).build(),
                ]
            },
            Sender,
        ),
        DropReason::AddressLimit => Deed(
            |lan| {
                lan.set("a", "--address-limit 1");
                lan.passes("a", "b", &four().udp(1, 2).build());
                for last in 20..25 {
                    assert!(lan.send("a", &four().from_ip(v4(last)).udp(1, 2).build()).0.is_empty());
                }
                5
            },
            Sender,
        ),
        DropReason::StormLimit => Deed(
            |lan| {
                lan.set("a", "--storm-limit 10");
                let all = vec![lan.broadcast("a").build(); 100];
                // Two guests hear what passes.
                100 - lan.send_all("a", &all).0.len() as u64 / 2
            },
            Sender,
        ),
        DropReason::AclDenied => Frames(
            "",
            &["acl add b --action deny --direction in --remote any-mac"],
            |_| vec![to_b().build(), four().udp(1, 2).build()],
            Receiver,
        ),
        DropReason::RuleDenied => Frames(
            "",
            &["rule add b --action deny --direction in --weight 1 --protocol udp"],
            |_| vec![four().udp(1, 2).build(), to_b().ipv6().udp(1, 2).build()],
            Receiver,
        ),
        DropReason::SessionLimit => Deed(fill_the_session_table, Sender),
        DropReason::ExtensionFiltered => Deed(
            |lan| {
                let config = lan.switch.dir().join("firewall.json");
                let rules = r#"{"sets": {"none": [{"action": "deny", "direction": "out"}]}}"#;
                std::fs::write(&config, rules).expect("written");
                lan.run(&format!("extension enable firewall --config {}", config.display()));
                lan.run(r#"extension set firewall --port a sets=["none"]"#);
                sent_for_nothing(lan, &four().udp(1, 2).build())
            },
            Sender,
        ),
        DropReason::ExtensionFailed => Deed(
            |lan| {
                lan.switch.load_extension("trap", &module(2, "", "(unreachable)"));
                lan.run("extension enable trap --fail closed");
                sent_for_nothing(lan, &four().udp(1, 2).build())
            },
            Sender,
        ),
        DropReason::ExtensionMissing => {
            Frames("", &["port set a --require-extension vepa"], |_| vec![to_b().build(); 2], Sender)
        }
        DropReason::UnknownUnicast => {
            Frames("", &[], |_| vec![to_b().destination([2, 9, 9, 9, 9, 9]).build(); 2], Sender)
        }
        DropReason::SameSegmentReturn => {
            Frames("", &[], |_| vec![to_b().destination(mac(1)).build()], Sender)
        }
        DropReason::ReceiverLinkDown => Deed(
            |lan| {
                lan.set("b", "--link down");
                lan.guest("a").send(&to_b().build());
                1
            },
            Receiver,
        ),
        DropReason::ReceiverNotRunning => Deed(
            |lan| {
                drop(lan.take("b"));
                lan.switch.wait_state("b", "waiting");
                (0..3).for_each(|_| lan.guest("a").send(&to_b().build()));
                3
            },
            Receiver,
        ),
        DropReason::ReceiverFull => Deed(
            |lan| {
                lan.add("full", "", Options::default().post_by_hand(1));
                let frame = Frame::new(mac(4), mac(1)).payload(&[1; 60]).build();
                lan.guest("a").send(&frame);
                assert!(lan.guest("full").receive(PATIENCE).is_some());
                lan.guest("a").send(&frame);
                lan.guest("a").send(&frame);
                assert!(lan.guest("a").flush(PATIENCE));
                check_at(lan, "full", DropReason::ReceiverFull, 2);
                0
            },
            Receiver,
        ),
        DropReason::ReceiverBuffersTooSmall => Deed(
            |lan| {
                lan.add("small", "", Options::plain().rx_buffer(200));
                let frame = Frame::new(mac(4), mac(1)).payload(&[1; 500]).build();
                assert!(lan.send("a", &frame).0.is_empty());
                check_at(lan, "small", DropReason::ReceiverBuffersTooSmall, 1);
                0
            },
            Receiver,
        ),
        DropReason::MtuExceeded => {
            Frames("", &[], |_| vec![to_b().payload(&pattern(9001, 1)).build()], Receiver)
        }
        DropReason::BadOffload => Deed(
            |lan| {
                let header = NetHdr { flags: 1, csum_start: 500, csum_offset: 0, ..NetHdr::default() };
                assert!(lan.send_with("a", header, &four().udp(1, 2).build()).0.is_empty());
                1
            },
            Sender,
        ),
        DropReason::BadHeader => Deed(
            |lan| {
                let guest = lan.guest("a");
                let slot = guest.memory.alloc(64);
                guest.tx[0].offer(&[Buffer::readable(slot, 11)]).expect("a descriptor");
                guest.tx[0].kick_anyway();
                1
            },
            Sender,
        ),
        DropReason::MalformedDescriptor => Deed(
            |lan| {
                let ring = &mut lan.guest("a").tx[0];
                ring.write_descriptor(0, Descriptor { addr: 0xdead_0000_0000, len: 100, flags: 0, next: 0 });
                ring.offer_head(0);
                ring.kick_anyway();
                1
            },
            Sender,
        ),
    }
}

/// A port's own established sessions make no room for another one.
fn fill_the_session_table(lan: &mut Lan) -> u64 {
    lan.run("rule add a --action allow --direction out --weight 9 --protocol udp --stateful");
    lan.run("rule add a --action deny --direction in --weight 1");
    let peer = |number: u16| [10, 7, (number >> 8) as u8, number as u8];
    let out = |number| four().to_ip(peer(number)).udp(1000, 80).build();
    let back =
        |number| Frame::new(mac(1), mac(2)).ipv4().from_ip(peer(number)).to_ip(v4(1)).udp(80, 1000).build();
    let share: u16 = 16_384; // an eighth of 131,072
    for (from, frames) in
        [("a", (0..share).map(out).collect::<Vec<_>>()), ("b", (0..share).map(back).collect())]
    {
        assert_eq!(lan.send_all(from, &frames).0.len(), usize::from(share), "frames of {from}");
    }
    for number in share..share + 5 {
        assert!(lan.send("a", &out(number)).0.is_empty(), "session {number} found room");
    }
    5
}

/// Checks a reason at a port other than the usual ones.
#[track_caller]
fn check_at(lan: &Lan, port: &str, reason: DropReason, count: u64) {
    lan.switch.wait_state(port, "running");
    let reached = turnpike_tests::eventually(|| lan.switch.drops(port, "in", reason.name()) == count);
    assert!(reached, "{reason} at {port}: {}", lan.switch.port(port)["counters"]);
    assert_eq!(lan.switch.all_drops(port), count);
}

#[test]
fn every_reason_is_produced_and_counted_exactly() {
    let mut failures = BTreeSet::new();
    for &reason in DropReason::ALL {
        let name = reason.name();
        let policy = match producer(reason) {
            Frames(policy, ..) => policy,
            _ => "",
        };
        let mut lan = Lan::new(&[("a", ""), ("b", policy), ("c", "")]);
        let (count, at) = match producer(reason) {
            Inside(why) | Wire(why) => {
                assert!(!why.is_empty());
                continue;
            }
            Frames(_, commands, frames, at) => {
                for line in commands {
                    lan.run(line);
                }
                let frames = frames(&mut lan);
                for frame in &frames {
                    let heard = lan.send("a", frame);
                    if !heard.0.is_empty() {
                        failures.insert(format!("{name}: {:?} received a frame", heard.by()));
                    }
                }
                (frames.len() as u64, at)
            }
            Deed(deed, at) => (deed(&mut lan), at),
        };
        if count == 0 {
            continue; // the deed has checked it itself
        }
        let (port, direction, other, other_way) = match at {
            Sender => ("a", "out", "b", "in"),
            Receiver => ("b", "in", "a", "out"),
        };
        let exact = turnpike_tests::eventually(|| lan.switch.drops(port, direction, name) == count);
        let counters = |port| lan.switch.port(port)["counters"].clone();
        if !exact || lan.switch.all_drops(port) != count {
            failures.insert(format!("{name}: expected {count} at {port} {direction}: {}", counters(port)));
        }
        if lan.switch.drops(other, other_way, name) != 0 {
            failures.insert(format!("{name}: counted at {other} too: {}", counters(other)));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Everything that was sent went somewhere or has a reason: frames of all kinds to a guarded neighbourhood, in both directions.
#[test]
fn what_goes_in_comes_out_or_has_one_reason() {
    use turnpike_tests::reference::{Dice, random_entry, random_frame, random_rule};
    let mut lan =
        Lan::new(&[("a", "--dhcp-guard on --router-guard on --storm-limit 20"), ("b", "--vlan none")]);
    let mut dice = Dice::new(77);
    for _ in 0..10 {
        let entry = random_entry(&mut dice, &["allow", "deny"], 1, 2);
        let _ = lan.switch.run(&entry.command("a").split(' ').collect::<Vec<_>>());
    }
    for weight in 1..10 {
        let _ = lan.switch.run(&random_rule(&mut dice, weight).command("b").split(' ').collect::<Vec<_>>());
    }
    let mut sent = [(0u64, 0u64); 2];
    let mut received = [(0u64, 0u64); 2];
    for number in 0..2000 {
        let (mut frame, facts) = random_frame(&mut dice, 1, 2);
        match dice.below(12) {
            0 => frame = frame.destination(BROADCAST),
            1 => frame = frame.vlan(9),
            2 => frame = frame.destination([2, 9, 9, 9, 9, 9]),
            3 => frame = frame.source([2, 8, 8, 8, 8, 8]),
            _ => {}
        }
        let from = usize::from(facts.direction == "in");
        let bytes = frame.build();
        let heard = lan.send(["a", "b"][from], &bytes);
        sent[from] = (sent[from].0 + 1, sent[from].1 + bytes.len() as u64);
        for (_, copy) in &heard.0 {
            let to = &mut received[1 - from];
            *to = (to.0 + 1, to.1 + copy.frame.len() as u64);
        }
        assert!(heard.0.len() <= 1, "frame {number} was heard twice");
    }
    for (place, name) in ["a", "b"].into_iter().enumerate() {
        let counters = lan.switch.port(name)["counters"].clone();
        let sum = |key: &str| {
            counters[key]
                .as_object()
                .expect("an object")
                .values()
                .filter_map(serde_json::Value::as_u64)
                .sum::<u64>()
        };
        let number = |key: &str| counters[key].as_u64().expect("a number");
        assert_eq!(number("out_packets") + sum("out_drops"), sent[place].0, "{name}: {counters}");
        assert_eq!((number("in_packets"), number("in_bytes")), received[place], "{name}: {counters}");
    }
    let in_drops = |name: &str| {
        let counters = lan.switch.port(name)["counters"]["in_drops"].clone();
        counters.as_object().expect("an object").values().filter_map(serde_json::Value::as_u64).sum::<u64>()
    };
    for (from, to) in [("a", "b"), ("b", "a")] {
        let went = lan.switch.counter(from, "out_packets");
        let came = lan.switch.counter(to, "in_packets") + in_drops(to);
        assert_eq!(went, came, "{from} to {to}");
    }
}
