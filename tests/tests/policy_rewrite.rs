//! H11: a guest that rewrites a frame while it is judged gains nothing: what is forwarded is what policy has seen.

use std::sync::atomic::{AtomicBool, Ordering};

use turnpike_tests::lan::{mac, v4};
use turnpike_tests::protocols::{BOOTREPLY, arp};
use turnpike_tests::ring::Descriptor;
use turnpike_tests::{Frame, Lan, Memory, Packet, eventually};

/// `a` offers one buffer over and over while another thread turns what is in it from `good` into `bad` and back; every
/// frame that `b` receives must be one that policy allows as a whole.
fn rewrite(
    policy: &str,
    commands: &[&str],
    good: &Frame,
    bad: &Frame,
    allowed: impl Fn(&Packet<'_>) -> bool,
) {
    let mut lan = Lan::new(&[("a", policy), ("b", "")]);
    for line in commands {
        lan.run(line);
    }
    let (good, bad) = (good.build(), bad.build());
    assert_eq!(good.len(), bad.len(), "both lie in the same place");
    assert_eq!(lan.send("a", &good).by(), ["b"], "the good one passes");
    assert!(lan.send("a", &bad).0.is_empty(), "the bad one does not");
    let mut liar = lan.take("a");
    let slot = liar.memory.alloc(4096);
    liar.memory.write(slot, &[&[0; 12][..], &good].concat());
    let first = (0..good.len()).find(|&i| good[i] != bad[i]).expect("they differ");
    let last = (0..good.len()).rfind(|&i| good[i] != bad[i]).expect("they differ");
    let (memory, stop) = (liar.memory.clone(), AtomicBool::new(false));
    let (mut seen, mut changed) = (0u32, 0u32);
    std::thread::scope(|scope| {
        let flip = |memory: &Memory| {
            while !stop.load(Ordering::Relaxed) {
                for frame in [&bad, &good] {
                    memory.write(slot + 12 + first as u64, &frame[first..=last]);
                }
            }
        };
        scope.spawn(move || flip(&memory));
        let len = 12 + good.len() as u32;
        for head in 0..64 {
            liar.tx[0].write_descriptor(head, Descriptor { addr: slot, len, flags: 0, next: 0 });
        }
        for _ in 0..150 {
            (0..64).for_each(|head| liar.tx[0].offer_head(head));
            liar.tx[0].kick_anyway();
            let mut wrong = None;
            let done = eventually(|| {
                let done = liar.tx[0].used_index() == liar.tx[0].next_avail;
                while let Some(received) = lan.guest("b").poll() {
                    if !allowed(&Packet::of(&received.frame)) {
                        wrong = Some(received.frame);
                    } else if received.frame != good {
                        changed += 1;
                    }
                    seen += 1;
                }
                done
            });
            if let Some(frame) = wrong {
                stop.store(true, Ordering::Relaxed);
                panic!("policy denies this frame, and it got through: {frame:02x?}");
            }
            assert!(done, "the switch does not finish");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(seen > 0, "no frame got through at all ({changed} changed ones)");
    assert!(lan.switch.all_drops("a") > 1, "the bad frame was never judged");
}

fn base() -> Frame {
    Frame::new(mac(2), mac(1)).payload(&[7; 100])
}

fn destination(packet: &Packet<'_>) -> [u8; 4] {
    packet.bytes[packet.l3 + 16..packet.l3 + 20].try_into().expect("four bytes")
}

fn ports(packet: &Packet<'_>) -> (u16, u16) {
    let l4 = packet.l4.expect("IP");
    let word = |at: usize| u16::from_be_bytes([packet.bytes[at], packet.bytes[at + 1]]);
    (word(l4), word(l4 + 2))
}

#[test]
fn h11_an_address_that_an_acl_denies() {
    let udp = base().ipv4().udp(1, 2);
    rewrite(
        "",
        &["acl add a --action deny --direction out --remote 10.0.0.128/25"],
        &udp.clone().to_ip(v4(2)),
        &udp.to_ip(v4(200)),
        |packet| destination(packet)[3] < 128,
    );
}

#[test]
fn h11_a_port_that_a_rule_denies() {
    rewrite(
        "",
        &["rule add a --action deny --direction out --weight 9 --protocol udp --remote-port 5000-65535"],
        &base().ipv4().udp(1000, 80),
        &base().ipv4().udp(1000, 0xffff),
        |packet| ports(packet).1 < 5000,
    );
}

#[test]
fn h11_a_source_that_the_port_does_not_own() {
    let udp = base().ipv4().udp(1, 2);
    rewrite("--addresses 10.0.0.1", &[], &udp.clone(), &udp.from_ip(v4(99)), |packet| {
        packet.bytes[packet.l3 + 12..packet.l3 + 16] == [10, 0, 0, 1]
    });
    rewrite(
        "--addresses 10.0.0.1",
        &[],
        &base().arp(arp::REPLY, (mac(1), v4(1)), (mac(2), v4(2))),
        &base().arp(arp::REPLY, (mac(1), v4(99)), (mac(2), v4(2))),
        |packet| packet.bytes[28..32] == [10, 0, 0, 1],
    );
}

#[test]
fn h11_a_servers_message_behind_a_guard() {
    // The port and the operation both change: no mixture of the two may be a server's message.
    let to_client = |from, operation| base().ipv4().dhcp4((from, 68), operation, [0; 4].into());
    rewrite("--dhcp-guard on", &[], &to_client(68, 1), &to_client(67, BOOTREPLY), |packet| {
        let operation = packet.bytes[packet.l4.expect("IP") + 8];
        ports(packet).0 != 67 && operation != BOOTREPLY
    });
}

#[test]
fn h11_a_tag_of_another_network() {
    // `b` is in no VLAN: an admitted tag never reaches it, so only untagged frames may come.
    let tagged = base().vlan(9).ipv4().udp(1, 2);
    let plain = base().payload(&[7; 104]).ipv4().udp(1, 2);
    rewrite("--vlan none", &[], &plain, &tagged, |packet| packet.tags.is_empty());
}
