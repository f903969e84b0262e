//! Networks beyond the uplink (rule book, section 4): two switches with a wire between them, and private VLANs across it.

use turnpike_tests::lan::mac;
use turnpike_tests::{Frame, Lan, Options, Packet, skipped};

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

/// Two switches with a wire (a veth pair) between them; the second one has one trunk of everything, which shows the wire.
struct Wire {
    near: Lan,
    far: Lan,
    link: String,
}

impl Wire {
    /// `None` where the machine has no veth or this is not root.
    fn new(near: &[(&str, &str)], far: &[(&str, &str)]) -> Option<Self> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let link = format!("tpv{}n{number}", std::process::id() % 100_000);
        let peer = format!("{link}p");
        if !ip(&["link", "add", &link, "type", "veth", "peer", "name", &peer]) {
            skipped("no veth pair can be made here (root is needed)");
            return None;
        }
        let wire = Self { near: Lan::new(near), far: lan_of_numbers_from(100, far), link };
        for (side, device) in [(&wire.near, &wire.link), (&wire.far, &peer)] {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1");
            assert!(ip(&["link", "set", device, "up"]));
            side.run(&format!("uplink add wire --device {device}"));
        }
        Some(wire)
    }

    /// Sends a frame on the near side; who hears it there, and who on the far side.
    fn send(&mut self, from: &str, frame: &[u8]) -> (Vec<String>, Vec<(String, Vec<u8>)>) {
        let near = self.near.send(from, frame).by().iter().map(|&name| name.to_owned()).collect();
        (near, self.far_hears())
    }

    /// What the far side has received, waiting until nothing more comes.
    fn far_hears(&mut self) -> Vec<(String, Vec<u8>)> {
        settle(&mut self.far)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        ip(&["link", "del", &self.link]);
    }
}

fn ip(args: &[&str]) -> bool {
    std::process::Command::new("ip").args(args).output().is_ok_and(|output| output.status.success())
}

/// Frames cross the wire within microseconds, but not before their sender is told that they are gone.
fn settle(lan: &mut Lan) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for _ in 0..12 {
        std::thread::sleep(std::time::Duration::from_millis(2));
        all.extend(lan.heard().0.into_iter().map(|(name, received)| (name, received.frame)));
    }
    all
}

/// A lan whose guests' MAC addresses do not occur on the other side.
fn lan_of_numbers_from(first: u8, ports: &[(&str, &str)]) -> Lan {
    let mut lan = Lan::new(&[]);
    for (number, (name, policy)) in ports.iter().enumerate() {
        lan.add_with_mac(name, policy, Options::default(), mac(first + number as u8));
    }
    lan
}

/// The figure of the white paper: primary VLAN 2, isolated and community ports, a promiscuous one, and the rest of the world
/// behind an uplink that carries all tags.
#[test]
fn s4_s1_figure_with_the_uplink_in_trunk_mode() {
    let Some(mut wire) = Wire::new(
        &[
            ("isolated1", "--vlan isolated:2/4"),
            ("isolated2", "--vlan isolated:2/4"),
            ("community1", "--vlan community:2/5"),
            ("community2", "--vlan community:2/5"),
            ("promiscuous", "--vlan promiscuous:2/4,5"),
        ],
        &[
            ("eye", "--vlan trunk:1-4094"),
            ("isolated3", "--vlan isolated:2/4"),
            ("community3", "--vlan community:2/5"),
            ("promiscuous2", "--vlan promiscuous:2/4,5"),
            ("other", "--vlan access:3"),
        ],
    ) else {
        return;
    };
    let figure: [(&str, u16, &[&str], &[&str]); 4] = [
        ("isolated1", 4, &["promiscuous"], &["promiscuous2"]),
        ("isolated2", 4, &["promiscuous"], &["promiscuous2"]),
        ("community1", 5, &["community2", "promiscuous"], &["community3", "promiscuous2"]),
        (
            "promiscuous",
            2,
            &["isolated1", "isolated2", "community1", "community2"],
            &["isolated3", "community3", "promiscuous2"],
        ),
    ];
    for (from, on_the_wire, near, far) in figure {
        let (here, there) = wire.send(from, &wire.near.broadcast(from).build());
        assert_eq!(here, near, "{from} on its own host");
        let eye: Vec<_> =
            there.iter().filter(|(name, _)| name == "eye").map(|(_, frame)| ids(frame)).collect();
        assert_eq!(eye, [vec![on_the_wire]], "{from} on the wire");
        let mut others: Vec<_> =
            there.iter().map(|(name, _)| name.as_str()).filter(|&name| name != "eye").collect();
        let mut far = far.to_vec();
        others.sort_unstable();
        far.sort_unstable();
        assert_eq!(others, far, "{from} on the other host");
    }
    // Unicast across the wire, both ways: an answer comes in another VLAN than the question.
    let question =
        Frame::new(wire.far.mac("promiscuous2"), wire.near.mac("isolated1")).payload(&[1; 60]).build();
    let (here, there) = wire.send("isolated1", &question);
    assert!(here.is_empty(), "{here:?}");
    assert_eq!(there.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["promiscuous2"]);
    let answer =
        Frame::new(wire.near.mac("isolated1"), wire.far.mac("promiscuous2")).payload(&[2; 60]).build();
    assert!(wire.far.send("promiscuous2", &answer).0.is_empty());
    let heard = settle(&mut wire.near);
    assert_eq!(heard, [("isolated1".to_owned(), answer)]);
    // Not so between isolated ports of two hosts.
    let hidden = Frame::new(wire.far.mac("isolated3"), wire.near.mac("isolated1")).payload(&[3; 60]).build();
    let (here, there) = wire.send("isolated1", &hidden);
    assert!(here.is_empty() && there.is_empty(), "{there:?}");
}

#[test]
fn s4_the_uplink_carries_every_vlan_tagged() {
    let Some(mut wire) = Wire::new(
        &[
            ("none", ""),
            ("a10", "--vlan access:10"),
            ("b10", "--vlan access:10"),
            ("trunk", "--vlan trunk:10,20/30"),
            ("subnet", "--vsid 5000"),
        ],
        &[("eye", "--vlan trunk:1-4094")],
    ) else {
        return;
    };
    let sent: [(&str, Option<u16>, &[u16]); 6] = [
        ("none", None, &[]),
        ("a10", None, &[10]),
        ("trunk", Some(10), &[10]),
        ("trunk", Some(20), &[20]),
        ("trunk", None, &[30]),
        ("trunk", Some(30), &[30]),
    ];
    for (from, tag, on_the_wire) in sent {
        let (_, there) = wire.send(from, &tagged(wire.near.broadcast(from), tag).build());
        let eye: Vec<_> = there.iter().map(|(_, frame)| ids(frame)).collect();
        assert_eq!(eye, [on_the_wire.to_vec()], "{from} sends with {tag:?}");
    }
    let (_, there) = wire.send("subnet", &wire.near.broadcast("subnet").build());
    assert!(there.is_empty(), "a virtual subnet's frame went out as it is");
    // Back: a broadcast of each VLAN reaches its ports only.
    let back: [(Option<u16>, &[&str]); 5] = [
        (None, &["none"]),
        (Some(10), &["a10", "b10", "trunk"]),
        (Some(20), &["trunk"]),
        (Some(30), &["trunk"]),
        (Some(40), &[]),
    ];
    for (tag, hear) in back {
        assert!(wire.far.send("eye", &tagged(wire.far.broadcast("eye"), tag).build()).0.is_empty());
        let heard = settle(&mut wire.near);
        assert_eq!(heard.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), hear, "VLAN {tag:?}");
    }
}
