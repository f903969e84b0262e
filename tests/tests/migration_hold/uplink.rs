//! Section 20: the guest is on another host: frames follow it over the uplink, and the network is told where it is.

use std::net::{IpAddr, Ipv4Addr};

use crate::rig::{Rig, UPLINK, UPLINK_MAC, flush, log_all, mac};
use turnpike_tests::{Frame, Guest, Options, Packet, eventually, skipped};
use vswitch::event::Event;
use vswitch::port::Policy;
use vswitch::trace::DropReason;
use vswitch::{PortId, announce};

/// A data path whose uplink is a veth pair, and another at the far end with one guest that sees the wire and may send anything.
struct Wire {
    near: Rig,
    _far: Rig,
    eye: Guest,
    link: String,
}

/// The eye's own number.
const EYE: u16 = 50;
/// A station on the wire.
const STATION: u16 = 60;

fn ip(args: &[&str]) -> bool {
    std::process::Command::new("ip").args(args).output().is_ok_and(|output| output.status.success())
}

fn policy(vlan: &str) -> Policy {
    Policy { vlan: vlan.parse().unwrap(), ..Policy::default() }
}

impl Wire {
    /// `None` where the machine has no veth or this is not root.
    fn new(guests: &[(u16, Policy)]) -> Option<Self> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let link = format!("tph{}n{number}", std::process::id() % 100_000);
        let peer = format!("{link}p");
        if !ip(&["link", "add", &link, "type", "veth", "peer", "name", &peer]) {
            skipped("no veth pair can be made here (root is needed)");
            return None;
        }
        for device in [&link, &peer] {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1");
            assert!(ip(&["link", "set", device, "up"]));
        }
        // The kernel says so up to a second after the cable is in, and drops what is sent before.
        let up = |device: &str| {
            let state = std::fs::read_to_string(format!("/sys/class/net/{device}/operstate"));
            state.is_ok_and(|state| state.trim() == "up")
        };
        assert!(eventually(|| up(&link) && up(&peer)));
        let mut near = Rig::new(guests);
        near.uplink(&link);
        let mut far = Rig::new(&[(EYE, Policy { mac_spoofing: true, ..policy("trunk:1-4094") })]);
        far.uplink(&peer);
        let eye = far.attach(EYE, Options::default());
        Some(Self { near, _far: far, eye, link })
    }

    /// What the eye sees of the wire: so many frames, and whatever else comes.
    #[track_caller]
    fn seen(&mut self, least: usize) -> Vec<Vec<u8>> {
        let mut all: Vec<_> = (0..least).map(|_| self.eye.expect_some()).collect();
        all.extend(self.eye.receive_all());
        all.into_iter().map(|received| received.frame).collect()
    }

    /// The guest `n` is heard on the wire.
    fn heard(&mut self, n: u16, vlan: Option<u16>) {
        let frame = Frame::new([0xff; 6], mac(n));
        let frame = vlan.map_or(frame.clone(), |id| frame.vlan(id));
        self.eye.send(&frame.arp_request().build());
        flush(&mut self.eye);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        ip(&["link", "del", &self.link]);
    }
}

fn tagged(to: u16, from: u16, vlan: Option<u16>, n: u8) -> Vec<u8> {
    let frame = Frame::new(mac(to), mac(from));
    let frame = vlan.map_or(frame.clone(), |id| frame.vlan(id));
    frame.ipv4().udp(5, 6).payload(&[n; 40]).build()
}

fn is_seen(event: &Event, n: u16) -> bool {
    matches!(event, Event::SeenElsewhere { port, at, .. } if *port == PortId(n) && *at == PortId(UPLINK))
}

/// The whole life of a move at its source, in a VLAN of which the guests see nothing.
#[test]
fn s20_6_held_frames_follow_the_guest_once_and_tagged_and_come_back_when_it_does() {
    let Some(mut wire) = Wire::new(&[(1, policy("access:5")), (2, policy("access:5"))]) else { return };
    let mut a = wire.near.attach(1, Options::default());
    let mut b = wire.near.attach(2, Options::default());
    a.send(&tagged(2, 1, None, 0));
    b.expect(&tagged(2, 1, None, 0));
    log_all(&mut b, true);
    let bases = b.stop().unwrap();
    wire.near.change(2, |port| port.present = false);
    // From a guest of this host, and from the wire; and one that goes everywhere anyway.
    for n in 1..=3 {
        a.send(&tagged(2, 1, None, n));
    }
    a.send(&Frame::new([0xff; 6], mac(1)).arp_request().build());
    flush(&mut a);
    wire.near.wait_held(2, 4);
    wire.eye.send(&tagged(2, STATION, Some(5), 4));
    wire.near.wait_held(2, 5);
    assert_eq!(wire.seen(1).len(), 1, "the broadcast alone, and once");

    wire.heard(2, Some(5));
    assert!(eventually(|| wire.near.notes.count(|event| is_seen(event, 2)) == 1));
    wire.near.data.forward_held(PortId(2));
    wire.near.wait_held(2, 0);
    // What comes now follows by itself, and what came is there once.
    a.send(&tagged(2, 1, None, 9));
    // The one from the wire does not go back there with its sender's address: the network would look for the sender here.
    let mut want =
        [(1, 1), (1, 2), (1, 3), (STATION, 4), (1, 9)].map(|(from, n)| tagged(2, from, Some(5), n));
    want[3][6..12].copy_from_slice(&UPLINK_MAC.0);
    assert_eq!(wire.seen(5), want);
    assert_eq!(wire.near.in_packets(2), 1, "nothing was counted at the port");
    assert_eq!(wire.near.dropped(2, DropReason::ReceiverNotRunning), 2, "copies of two broadcasts");

    // Roll-back.
    wire.near.change(2, |port| port.present = true);
    b.start(&bases).unwrap();
    a.send(&tagged(2, 1, None, 10));
    b.expect(&tagged(2, 1, None, 10));
    b.expect_silence();
    assert!(wire.seen(0).is_empty());
}

#[test]
fn s20_6_what_comes_after_the_order_to_forward_is_forwarded_too() {
    let Some(mut wire) = Wire::new(&[(1, Policy::default()), (2, Policy::default())]) else { return };
    let mut a = wire.near.attach(1, Options::default());
    wire.near.data.hold(PortId(2), true);
    a.send(&tagged(2, 1, None, 1));
    flush(&mut a);
    wire.near.data.forward_held(PortId(2));
    // Nothing was heard of the guest, so this still goes to its port first.
    for n in 2..=200 {
        a.send(&tagged(2, 1, None, n));
    }
    flush(&mut a);
    wire.near.wait_held(2, 0);
    assert_eq!(wire.seen(200), (1..=200).map(|n| tagged(2, 1, None, n)).collect::<Vec<_>>());
    assert_eq!(wire.near.all_dropped(2), 0);
}

#[test]
fn s20_3_no_guest_can_draw_frames_for_an_absent_one() {
    let spoofing = Policy { mac_spoofing: true, ..Policy::default() };
    let Some(mut wire) = Wire::new(&[(1, Policy::default()), (2, Policy::default()), (3, spoofing)]) else {
        return;
    };
    let (mut a, mut thief) =
        (wire.near.attach(1, Options::default()), wire.near.attach(3, Options::default()));
    wire.near.change(2, |port| port.present = false);
    wire.near.data.hold(PortId(2), true);
    thief.send(&Frame::new([0xff; 6], mac(2)).arp_request().build());
    flush(&mut thief);
    a.send(&tagged(2, 1, None, 1));
    flush(&mut a);
    wire.near.wait_held(2, 1);
    thief.expect_silence();
    assert!(wire.seen(0).is_empty());
    assert_eq!(wire.near.notes.count(|event| is_seen(event, 2)), 0);
    assert_eq!(wire.near.notes.count(|event| matches!(event, Event::MacPinned { .. })), 1);
}

#[test]
fn s20_3_the_announcement_goes_out_of_the_uplink_alone_in_every_network_of_the_port() {
    let cases = [
        ("none", vec![None]),
        ("access:7", vec![Some(7)]),
        ("trunk:8,9/7", vec![Some(7), Some(8), Some(9)]),
        ("isolated:10/101", vec![Some(101)]),
    ];
    for (mode, vlans) in cases {
        let Some(mut wire) = Wire::new(&[(1, policy(mode)), (2, policy(mode))]) else { return };
        let mut neighbour = wire.near.attach(2, Options::default());
        // Exempt from policy: the port may not flood at all, and its link is down.
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        wire.near.change(1, |port| (port.policy.storm_limit, port.policy.link_up) = (1, false));
        let frames = announce::frames(vswitch::Mac(mac(1)), [address].into_iter());
        wire.near.data.announce(PortId(1), &frames);
        let seen = wire.seen(2 * vlans.len());
        let tags: Vec<_> =
            seen.iter().map(|f| Packet::of(f).tags.first().map(|(_, tci)| tci & 0xfff)).collect();
        assert_eq!(tags, vlans.iter().flat_map(|vlan| [*vlan, *vlan]).collect::<Vec<_>>(), "{mode}");
        let kinds: Vec<_> = seen.iter().map(|f| Packet::of(f).ethertype).collect();
        assert_eq!(kinds, [0x8035, 0x0806].repeat(vlans.len()), "{mode}");
        neighbour.expect_silence();
        assert_eq!(wire.near.data.counters(PortId(1)).out_packets, 0, "{mode}");
        assert_eq!(wire.near.in_packets(UPLINK), seen.len() as u64, "{mode}");
    }
}
