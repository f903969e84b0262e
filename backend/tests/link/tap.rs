//! The TAP.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backend::link::{Link, LinkBurst, LinkError, LinkOffloads, Packet, Piece, Sent, Tap, interface_exists};
use backend::spec::DataplaneError;
use vswitch::Mac;

use crate::lab::{
    MAC_A, MAC_B, NO_OFFLOAD, Namespace, PATIENCE, can_run, collect, ether_type, eventually, frame, ip,
    is_gone_error, is_local, link_value, quiet, run, send, tagged, tcp_to_segment, unique,
};

fn tap() -> Tap {
    let tap = Tap::open(&unique("t"), MAC_A, None).expect("opened");
    quiet(tap.name());
    tap
}

#[test]
fn a_new_tap_has_the_ports_address_and_mtu_is_up_and_lives_as_long_as_it_is_open() {
    if !can_run("a_new_tap_has_the_ports_address_and_mtu_is_up_and_lives_as_long_as_it_is_open") {
        return;
    }
    let name = unique("t");
    assert!(!interface_exists(&name));
    let tap = Tap::open(&name, MAC_B, Some(9000)).expect("opened");
    assert!(interface_exists(&name));
    assert_eq!(link_value(&name, "link/ether"), MAC_B.to_string());
    assert_eq!(link_value(&name, "mtu"), "9000");
    assert!(tap.is_up());
    assert!(!tap.is_gone());
    assert_eq!(tap.offloads(), LinkOffloads::ALL);
    tap.set_addresses(&[MAC_A], true).expect("nothing to do");
    assert_eq!(link_value(&name, "promiscuity"), "0");
    drop(tap);
    // A process that another test is just starting may hold a copy of the descriptor until it runs.
    assert!(eventually(|| !interface_exists(&name)));
}

#[test]
fn a_tap_that_existed_before_is_taken_over_and_stays() {
    if !can_run("a_tap_that_existed_before_is_taken_over_and_stays") {
        return;
    }
    let name = unique("t");
    ip(&["tuntap", "add", "dev", &name, "mode", "tap"]);
    let tap = Tap::open(&name, MAC_B, None).expect("opened");
    assert_eq!(link_value(&name, "link/ether"), MAC_B.to_string());
    assert!(tap.is_up());
    drop(tap);
    assert!(interface_exists(&name));
    ip(&["link", "del", &name]);
}

#[test]
fn a_name_address_or_mtu_that_a_tap_cannot_have_is_refused_with_a_reason() {
    if !can_run("a_name_address_or_mtu_that_a_tap_cannot_have_is_refused_with_a_reason") {
        return;
    }
    let held = tap();
    let error = Tap::open(held.name(), MAC_B, None).expect_err("held");
    assert!(matches!(error, LinkError::Busy { .. }), "{error}");
    assert_eq!(link_value(held.name(), "link/ether"), MAC_A.to_string(), "unchanged");

    let other = unique("t");
    for kind in [&["mode", "tun"][..], &["mode", "tap", "multi_queue"]] {
        ip(&[&["tuntap", "add", "dev", &other], kind].concat());
        let error = Tap::open(&other, MAC_B, None).expect_err("another kind");
        ip(&["link", "del", &other]);
        assert!(matches!(error, LinkError::NotTap { .. }), "{kind:?}: {error}");
    }
    let error = Tap::open("lo", MAC_B, None).expect_err("not a TAP");
    assert!(matches!(error, LinkError::NotTap { .. }), "{error}");

    for mac in [Mac([0; 6]), Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1])] {
        let error = Tap::open(&other, mac, None).expect_err("no address of an interface");
        assert!(matches!(error, LinkError::InvalidMac { mac: m, .. } if m == mac), "{error}");
    }
    for mtu in [0, 67, 9001, u16::MAX] {
        let error = Tap::open(&other, MAC_B, Some(mtu)).expect_err("out of range");
        assert!(matches!(error, LinkError::InvalidMtu { mtu: m, .. } if m == mtu), "{error}");
    }
    for name in ["", "..", "a/b", "a b", "tap%d", "sixteen-letters-", "a\nb"] {
        let error = Tap::open(name, MAC_B, None).expect_err("no name");
        assert!(matches!(error, LinkError::InvalidName { .. }), "{error}");
        let DataplaneError::Interface { reason, .. } = error.into() else { panic!("not about an interface") };
        assert!(reason.starts_with("not a valid name; a name has 1 to 15 bytes"), "{reason}");
    }
    assert!(!interface_exists(&other), "nothing is left of a refusal");
}

#[test]
fn frames_pass_a_tap_byte_for_byte_both_ways() {
    if !can_run("frames_pass_a_tap_byte_for_byte_both_ways") {
        return;
    }
    let tap = tap();
    let host = Packet::open(tap.name()).expect("the host's side");
    assert!(eventually(|| host.is_up()));
    let customer = tagged(&frame(100), 0x8100, 0x6123);
    let frames = [
        frame(14),
        frame(60),
        frame(193),
        frame(1514),
        customer.clone(),
        tagged(&frame(64), 0x88a8, 5),
        tagged(&customer, 0x88a8, 6),
    ];
    for (from, to) in [(&host as &dyn Link, &tap as &dyn Link), (&tap, &host)] {
        for bytes in &frames {
            send(from, &NO_OFFLOAD, bytes);
        }
        let received: Vec<_> =
            collect(to, frames.len(), PATIENCE, is_local).into_iter().map(|r| r.1).collect();
        assert_eq!(
            received,
            frames,
            "from {} side",
            if from.raw_fd() == tap.raw_fd() { "our" } else { "the host's" }
        );
    }

    let (header, bytes) = tcp_to_segment(50_000, 1400, 4);
    let bytes = tagged(&bytes, 0x8100, 9);
    for (from, to) in [(&host as &dyn Link, &tap as &dyn Link), (&tap, &host)] {
        send(from, &header, &bytes);
        let received = &collect(to, 1, PATIENCE, |b| ether_type(b) == 0x0800)[0];
        assert_eq!(received.1, bytes);
        assert_eq!((received.0[0] & 1, received.0[1]), (1, 1), "still to be segmented");
        assert_eq!(received.0[4..10], header[4..10], "segment size and checksum's place");
        assert_eq!(received.0[10..], [0, 0]);
    }
}

#[test]
fn a_frame_that_a_tap_cannot_take_is_refused_alone() {
    if !can_run("a_frame_that_a_tap_cannot_take_is_refused_alone") {
        return;
    }
    let tap = tap();
    let host = Packet::open(tap.name()).expect("the host's side");
    let bytes = frame(200);
    // SAFETY: only the kernel reads it.
    let nowhere = unsafe { Piece::new(std::ptr::without_provenance(0x10), 100) };
    let error = tap.send(&NO_OFFLOAD, &bytes, &[nowhere]).expect_err("nothing is mapped there");
    assert!(matches!(error, LinkError::BadMemory { .. }), "{error}");
    let is_bad = |error: LinkError| assert!(matches!(error, LinkError::BadFrame { .. }), "{error}");
    is_bad(tap.send(&NO_OFFLOAD, &bytes[..13], &[]).expect_err("shorter than an Ethernet header"));
    let mut header = NO_OFFLOAD;
    header[1] = 0x33;
    is_bad(tap.send(&header, &bytes, &[]).expect_err("unknown kind of segmentation"));
    let error = tap.send(&NO_OFFLOAD, &bytes, &[Piece::of(&[]); 65]).expect_err("too many pieces");
    assert!(matches!(error, LinkError::TooManyPieces { count: 65, .. }), "{error}");
    assert_eq!(tap.send(&NO_OFFLOAD, &bytes, &[]).expect("sent"), Sent::Done);
    assert_eq!(collect(&host, 1, PATIENCE, is_local)[0].1, bytes, "the next frame goes");
}

#[test]
fn a_tap_tells_whether_it_is_up_in_another_namespace_and_when_it_is_gone() {
    if !can_run("a_tap_tells_whether_it_is_up_in_another_namespace_and_when_it_is_gone") {
        return;
    }
    let tap = tap();
    let namespace = Namespace::new();
    ip(&["link", "set", tap.name(), "netns", &namespace.0]);
    assert!(!tap.is_up(), "the kernel takes it down when it moves");
    let error = tap.send(&NO_OFFLOAD, &frame(60), &[]).expect_err("down");
    assert!(matches!(error, LinkError::Down { .. }), "{error}");
    let mut burst = LinkBurst::new();
    assert_eq!(tap.receive(&mut burst).expect("down is not gone"), 0);
    ip(&["-n", &namespace.0, "link", "set", tap.name(), "up"]);
    assert!(tap.is_up());
    assert_eq!(tap.send(&NO_OFFLOAD, &frame(60), &[]).expect("sent"), Sent::Done);
    ip(&["-n", &namespace.0, "link", "set", tap.name(), "down"]);
    assert!(!tap.is_up());
    assert!(!tap.is_gone());
    ip(&["-n", &namespace.0, "link", "del", tap.name()]);
    assert!(tap.is_gone());
    assert!(!tap.is_up());
    assert!(is_gone_error(&tap.receive(&mut burst).expect_err("receive")));
    assert!(is_gone_error(&tap.send(&NO_OFFLOAD, &frame(60), &[]).expect_err("send")));
}

#[test]
fn a_waiting_frame_makes_the_descriptor_readable() {
    if !can_run("a_waiting_frame_makes_the_descriptor_readable") {
        return;
    }
    let tap = tap();
    let host = Packet::open(tap.name()).expect("the host's side");
    for (from, to) in [(&host as &dyn Link, &tap as &dyn Link), (&tap, &host)] {
        let waiting = vmm_sys_util::epoll::Epoll::new().expect("epoll");
        let event = vmm_sys_util::epoll::EpollEvent::new(vmm_sys_util::epoll::EventSet::IN, 1);
        waiting.ctl(vmm_sys_util::epoll::ControlOperation::Add, to.raw_fd(), event).expect("added");
        let readable = |patience| {
            let mut events = [vmm_sys_util::epoll::EpollEvent::default()];
            waiting.wait(patience, &mut events).expect("waited") == 1
        };
        collect(to, 1, Duration::from_millis(1), |_| false);
        assert!(!readable(0), "nothing waits");
        send(from, &NO_OFFLOAD, &frame(60));
        assert!(readable(3000));
        assert_eq!(collect(to, 1, PATIENCE, is_local).len(), 1);
        assert!(!readable(0), "all is received");
    }
}

#[test]
fn a_tcp_stream_between_two_taps_passes_in_large_segments() {
    if !can_run("a_tcp_stream_between_two_taps_passes_in_large_segments") {
        return;
    }
    if run("iperf3", &["--version"]).stdout.is_empty() {
        eprintln!("skipped: a_tcp_stream_between_two_taps_passes_in_large_segments: no iperf3");
        return;
    }
    let (near, far) = (Namespace::new(), Namespace::new());
    let taps = [MAC_A, MAC_B].map(|mac| Tap::open(&unique("t"), mac, None).expect("opened"));
    near.take(taps[0].name(), "192.0.2.1/24");
    far.take(taps[1].name(), "192.0.2.2/24");

    let stop = AtomicBool::new(false);
    let segmented = std::thread::scope(|scope| {
        // A wire: what comes out of one goes into the other.
        let wire = |from: usize| {
            let (taps, stop) = (&taps, &stop);
            move || {
                let mut burst = LinkBurst::new();
                let mut segmented = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    if taps[from].receive(&mut burst).expect("received") == 0 {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                    for one in burst.frames() {
                        segmented += u64::from(one.header[1] != 0 && one.len > 1514);
                        let (head, rest) = burst.bytes(one).split_at(192.min(one.len as usize));
                        let sent = taps[1 - from].send(&one.header, head, &[Piece::of(rest)]);
                        assert_eq!(sent.expect("sent"), Sent::Done);
                    }
                }
                segmented
            }
        };
        let wires = [scope.spawn(wire(0)), scope.spawn(wire(1))];
        let mut server =
            far.command("iperf3").args(["-s", "-1"]).stdout(Stdio::null()).spawn().expect("iperf3");
        let mut moved = false;
        let done = eventually(|| {
            let client = near
                .command("timeout")
                .args(["20", "iperf3", "-c", "192.0.2.2", "-n", "20M"])
                .output()
                .expect("iperf3");
            moved = client.status.success();
            moved
        });
        stop.store(true, Ordering::Relaxed);
        let _ = server.kill();
        let _ = server.wait();
        assert!(done && moved, "the stream did not pass");
        wires.map(|w| w.join().expect("wire"))
    });
    assert!(segmented[0] > 100, "{segmented:?} frames were to be segmented");
}
