//! What only an uplink over `AF_XDP` does.

use std::process::{Command, Stdio};
use std::time::Duration;

use backend::link::outbox::Outbox;
use backend::link::xdp::MAX_MTU;
use backend::link::{Link, LinkError, Packet, Piece, Xdp};
use vswitch::frame::checksum;

use crate::lab::{
    NO_OFFLOAD, PATIENCE, Veth, can_run, collect, ether_type, eventually, frame, ip, is_local, run, send,
    tagged, tcp_to_segment, unique,
};
use crate::uplink::pair;

/// What an interface says of XDP: nothing without a program.
fn program_of(interface: &str) -> Option<String> {
    let text = ip(&["-d", "link", "show", "dev", interface]);
    text.split_whitespace().find(|word| word.starts_with("xdp")).map(str::to_owned)
}

/// Whether the TCP checksum of an IPv4 packet behind `at` bytes is right.
fn tcp_holds(frame: &[u8], at: usize) -> bool {
    let tcp = &frame[at + 20..];
    let pseudo = [&frame[at + 12..at + 20], &[0, 6], &(tcp.len() as u16).to_be_bytes()].concat();
    checksum::checksum(&[&pseudo, tcp].concat()) == 0
}

#[test]
fn an_open_checksum_is_completed_before_a_frame_leaves() {
    if !can_run("an_open_checksum_is_completed_before_a_frame_leaves") {
        return;
    }
    let (_veth, a, b) = pair::<Xdp>();
    for tag in [0, 4] {
        let (mut header, mut bytes) = tcp_to_segment(1001, 1448, tag);
        (header[1], header[4], header[5]) = (0, 0, 0);
        if tag != 0 {
            bytes = tagged(&bytes, 0x8100, 7);
        }
        assert!(!tcp_holds(&bytes, 14 + usize::from(tag)));
        send(&a, &header, &bytes);
        let received = &collect(&b, 1, PATIENCE, |f| ether_type(f) == 0x0800)[0];
        assert_eq!((received.0, received.1.len()), (NO_OFFLOAD, bytes.len()));
        assert!(tcp_holds(&received.1, 14 + usize::from(tag)));
    }
}

#[test]
fn segments_are_cut_before_a_frame_leaves_all_of_them_or_none() {
    if !can_run("segments_are_cut_before_a_frame_leaves_all_of_them_or_none") {
        return;
    }
    let (_veth, a, b) = pair::<Xdp>();
    let (header, bytes) = tcp_to_segment(60_000, 1448, 4);
    let bytes = tagged(&bytes, 0x8100, 7);
    for _ in 0..100 {
        send(&a, &header, &bytes);
        let received = collect(&b, 42, PATIENCE, |f| ether_type(f) == 0x0800);
        let payload: Vec<u8> = received.iter().flat_map(|r| r.1[58..].to_vec()).collect();
        assert_eq!(payload, bytes[58..]);
        assert!(received.iter().all(|r| r.0 == NO_OFFLOAD && tcp_holds(&r.1, 18) && r.1.len() <= 1506));
    }
    // The most segments that a frame may stand for.
    let (header, bytes) = tcp_to_segment(2048 * 8, 8, 0);
    send(&a, &header, &bytes);
    assert_eq!(collect(&b, 2048, PATIENCE, |f| ether_type(f) == 0x0800).len(), 2048);
    let mut no_such = header;
    no_such[1] = 5;
    let error = a.send(&no_such, &bytes, &[]).expect_err("datagrams");
    assert!(matches!(error, LinkError::BadFrame { .. }), "{error}");
}

#[test]
fn a_burst_goes_out_together_up_to_the_first_frame_that_cannot() {
    if !can_run("a_burst_goes_out_together_up_to_the_first_frame_that_cannot") {
        return;
    }
    let (_veth, a, b) = pair::<Xdp>();
    let frames: Vec<_> = (0..64).map(|n| if n == 40 { frame(1600) } else { frame(100 + n) }).collect();
    let mut outbox = Outbox::default();
    for bytes in &frames {
        let (front, rest) = bytes.split_at(50);
        assert!(outbox.push(NO_OFFLOAD, front, false, [Piece::of(rest)].into_iter()));
    }
    assert_eq!(a.send_all(&outbox, 0).expect("sent"), 40);
    let error = a.send_all(&outbox, 40).expect_err("too long");
    assert!(matches!(error, LinkError::TooLong { length: 1600, limit: 1514, .. }), "{error}");
    assert_eq!(a.send_all(&outbox, 41).expect("sent"), 23);
    let received: Vec<_> = collect(&b, 63, PATIENCE, is_local).into_iter().map(|r| r.1).collect();
    let wanted: Vec<_> = frames.into_iter().filter(|f| f.len() != 1600).collect();
    assert_eq!(received, wanted);
}

#[test]
fn the_host_gets_nothing_while_the_link_is_open_and_everything_afterwards() {
    if !can_run("the_host_gets_nothing_while_the_link_is_open_and_everything_afterwards") {
        return;
    }
    let veth = Veth::new();
    let (neighbour, host) = (Packet::open(&veth.b).expect("open"), Packet::open(&veth.a).expect("open"));
    let link = Xdp::open(&veth.a).expect("opened");
    assert_eq!(program_of(&veth.a).as_deref(), Some("xdp"), "in the driver");
    assert_eq!(link.mode().as_deref(), Some("native, copy"));
    assert!(eventually(|| link.is_up()));
    send(&neighbour, &NO_OFFLOAD, &frame(99));
    assert_eq!(collect(&link, 1, PATIENCE, is_local).len(), 1);
    assert_eq!(collect(&host, 1, Duration::from_millis(50), is_local).len(), 0);
    drop(link);
    // A process that another test is just starting may hold a copy of the descriptor until it runs.
    assert!(eventually(|| program_of(&veth.a).is_none()));
    assert!(eventually(|| neighbour.is_up() && host.is_up()));
    send(&neighbour, &NO_OFFLOAD, &frame(98));
    assert_eq!(collect(&host, 1, PATIENCE, is_local).len(), 1);
}

#[test]
fn an_interface_whose_driver_cannot_is_served_in_front_of_the_stack() {
    if !can_run("an_interface_whose_driver_cannot_is_served_in_front_of_the_stack") {
        return;
    }
    let veth = Veth::new();
    // A veth's driver takes no program while its other end may send what does not fit a page.
    ip(&["link", "set", &veth.b, "mtu", "9000"]);
    let (link, neighbour) = (Xdp::open(&veth.a).expect("open"), Packet::open(&veth.b).expect("open"));
    assert_eq!(link.mode().as_deref(), Some("generic, copy"));
    assert_eq!(program_of(&veth.a).as_deref(), Some("xdpgeneric"));
    assert!(eventually(|| link.is_up() && neighbour.is_up()));
    let frames = [frame(60), frame(1514), tagged(&frame(100), 0x8100, 7)];
    for (from, to) in [(&neighbour as &dyn Link, &link as &dyn Link), (&link, &neighbour)] {
        for bytes in &frames {
            send(from, &NO_OFFLOAD, bytes);
        }
        let received: Vec<_> = collect(to, 3, PATIENCE, is_local).into_iter().map(|r| r.1).collect();
        assert_eq!(received, frames);
    }
    // What is longer than our MTU never comes.
    let _ = neighbour.send(&NO_OFFLOAD, &frame(5000), &[]);
    assert_eq!(collect(&link, 1, Duration::from_millis(50), is_local).len(), 0);
}

#[test]
fn a_frame_longer_than_a_chunk_is_dropped_and_counted() {
    if !can_run("a_frame_longer_than_a_chunk_is_dropped_and_counted") {
        return;
    }
    let (veth, a, b) = pair::<Xdp>();
    for end in [&veth.a, &veth.b] {
        ip(&["link", "set", end, "mtu", "2400"]);
    }
    assert!(eventually(|| a.is_up() && b.is_up() && a.mtu() == 2400));
    let error = a.send(&NO_OFFLOAD, &frame(2049), &[]).expect_err("longer than its own");
    assert!(matches!(error, LinkError::TooLong { limit: 2048, .. }), "{error}");
    send(&a, &NO_OFFLOAD, &frame(1792));
    send(&a, &NO_OFFLOAD, &frame(1793));
    send(&a, &NO_OFFLOAD, &frame(14));
    let received: Vec<_> = collect(&b, 2, PATIENCE, is_local).iter().map(|r| r.1.len()).collect();
    assert_eq!(received, [1792, 14]);
    let drops = b.receive_drops();
    assert_eq!((drops.overrun, drops.too_long, drops.malformed), (0, 1, 0));
}

#[test]
fn what_cannot_be_had_is_said_with_what_would_help() {
    if !can_run("what_cannot_be_had_is_said_with_what_would_help") {
        return;
    }
    let veth = Veth::new();
    let refused = |name: &str| Xdp::open(name).expect_err("refused").to_string();
    let held = Xdp::open(&veth.a).expect("opened");
    let a = &veth.a;
    assert_eq!(
        refused(a),
        format!(
            "interface '{a}': cannot bind an AF_XDP socket: in use by another XDP program or AF_XDP socket; `ip -d link \
             show dev {a}` names the program, `ip link set dev {a} xdp off` removes one; or use driver 'packet'"
        )
    );
    drop(held);
    ip(&["link", "set", a, "mtu", "9000"]);
    assert_eq!(
        refused(a),
        format!(
            "interface '{a}': MTU 9000 is more than driver 'xdp' takes; valid are 68 to {MAX_MTU}, or use driver 'packet'"
        )
    );
    ip(&["link", "set", a, "mtu", "3400"]);
    drop(Xdp::open(a).expect("what is valid is taken"));

    let (many, peer) = (unique("m"), unique("p"));
    let two = ["numrxqueues", "2", "numtxqueues", "2"];
    ip(&[&["link", "add", &many][..], &two, &["type", "veth", "peer", "name", &peer]].concat());
    let said = refused(&many);
    run("ethtool", &["-L", &many, "rx", "1", "tx", "1"]);
    let opened = Xdp::open(&many).map(drop);
    ip(&["link", "del", &many]);
    assert_eq!(
        said,
        format!(
            "interface '{many}': has 2 receive queues, driver 'xdp' serves one; `ethtool -L {many} combined 1` (or `rx 1 \
             tx 1`) leaves one, or use driver 'packet'"
        )
    );
    opened.expect("what helps helps");
}

/// Set in the process that is to die, which runs the same test: the interface.
const VICTIM: &str = "TURNPIKE_TEST_XDP";

#[test]
fn s20_4_a_killed_holder_leaves_nothing_behind() {
    if let Ok(interface) = std::env::var(VICTIM) {
        let link = Xdp::open(&interface).expect("opened");
        println!("open");
        loop {
            std::hint::black_box(&link);
            std::thread::sleep(PATIENCE);
        }
    }
    if !can_run("s20_4_a_killed_holder_leaves_nothing_behind") {
        return;
    }
    let veth = Veth::new();
    for _ in 0..5 {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "xdp::s20_4_a_killed_holder_leaves_nothing_behind"]).env(VICTIM, &veth.a);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        assert!(eventually(|| program_of(&veth.a).is_some()));
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert!(eventually(|| program_of(&veth.a).is_none()));
        let (link, neighbour) = (Xdp::open(&veth.a).expect("at once"), Xdp::open(&veth.b).expect("open"));
        assert!(eventually(|| link.is_up() && neighbour.is_up()));
        send(&neighbour, &NO_OFFLOAD, &frame(77));
        assert_eq!(collect(&link, 1, PATIENCE, is_local).len(), 1);
    }
}
