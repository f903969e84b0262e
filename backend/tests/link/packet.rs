//! What only an uplink over `AF_PACKET` does.

use std::process::{Command, Stdio};

use backend::link::outbox::Outbox;
use backend::link::{LINK_HEADER, Link, LinkBurst, LinkError, MAX_FRAME, Packet, Piece};

use crate::lab::{
    NO_OFFLOAD, Namespace, PATIENCE, Veth, can_run, collect, datagram, ether_type, eventually, frame, ip,
    is_datagram, is_local, run, send, tagged, tcp_to_segment,
};
use crate::uplink::pair;

/// What the kernel counted at an interface.
fn received_by(interface: &str) -> u64 {
    let path = format!("/sys/class/net/{interface}/statistics/rx_packets");
    std::fs::read_to_string(path).expect("a counter").trim().parse().expect("a number")
}

/// Sends datagrams of these payloads through an outbox, all with a VXLAN packet's front, and says what must arrive.
fn send_datagrams(link: &Packet, payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let frames: Vec<Vec<u8>> = payloads.iter().map(|payload| datagram(payload)).collect();
    let mut outbox = Outbox::default();
    for frame in &frames {
        let (front, rest) = frame.split_at(50);
        assert!(outbox.push(NO_OFFLOAD, front, true, [Piece::of(rest)].into_iter()));
    }
    let mut sent = 0;
    while sent < frames.len() {
        sent += link.send_all(&outbox, sent).expect("sent");
    }
    frames
}

/// The same but for the UDP checksum, which tunnels leave out, and IPv4's identification and its checksum.
fn comparable(mut frame: Vec<u8>) -> Vec<u8> {
    for at in [18, 19, 24, 25, 40, 41] {
        frame[at] = 0;
    }
    frame
}

#[test]
fn datagrams_of_one_tunnel_pass_the_kernel_together_and_arrive_one_by_one() {
    if !can_run("datagrams_of_one_tunnel_pass_the_kernel_together_and_arrive_one_by_one") {
        return;
    }
    let (veth, a, b) = pair::<Packet>();
    let payload = |number: u8| vec![number; if number == 40 { 90 } else { 64 + 8 }];
    let payloads: Vec<_> = (0..60).map(payload).collect();
    let before = received_by(&veth.b);
    let frames = send_datagrams(&a, &payloads);
    let received = collect(&b, frames.len(), PATIENCE, is_datagram);
    assert!(received.iter().all(|r| (r.0[0], r.0[1]) == (0, 0) || (r.0[0], r.0[1]) == (1, 0)));
    let received: Vec<_> = received.into_iter().map(|r| comparable(r.1)).collect();
    assert_eq!(received, frames.into_iter().map(comparable).collect::<Vec<_>>());
    let passed = received_by(&veth.b) - before;
    assert!(passed <= 5, "40 together, one of another length, 19 together; {passed} passed");
    assert_eq!(b.receive_drops(), backend::link::ReceiveDrops::default());
}

#[test]
fn more_datagrams_than_a_burst_holds_all_arrive() {
    if !can_run("more_datagrams_than_a_burst_holds_all_arrive") {
        return;
    }
    let (_veth, a, b) = pair::<Packet>();
    let mut frames = Vec::new();
    for round in 0..20_u8 {
        let payloads: Vec<_> = (0..64).map(|number| vec![round ^ number; 600]).collect();
        frames.extend(send_datagrams(&a, &payloads));
        send(&a, &NO_OFFLOAD, &frame(100 + usize::from(round)));
        frames.push(frame(100 + usize::from(round)));
    }
    let wanted = |bytes: &[u8]| is_datagram(bytes) || is_local(bytes);
    let received: Vec<_> =
        collect(&b, frames.len(), PATIENCE, wanted).into_iter().map(|r| comparable(r.1)).collect();
    assert_eq!(received.len(), frames.len());
    assert_eq!(received, frames.into_iter().map(comparable).collect::<Vec<_>>());
}

#[test]
fn segments_to_be_made_and_checksums_pass_untouched_with_and_without_a_tag() {
    if !can_run("segments_to_be_made_and_checksums_pass_untouched_with_and_without_a_tag") {
        return;
    }
    let (_veth, a, b) = pair::<Packet>();
    let is_ipv4 = |bytes: &[u8]| ether_type(bytes) == 0x0800;

    let (header, bytes) = tcp_to_segment(60_000, 1448, 0);
    send(&a, &header, &bytes);
    let received = &collect(&b, 1, PATIENCE, is_ipv4)[0];
    assert_eq!(received.1, bytes);
    assert_eq!(
        (received.0[0], received.0[1]),
        (1, 1),
        "checksum to be completed, TCP over IPv4 to be segmented"
    );
    assert_eq!(received.0[4..10], header[4..10], "segment size and checksum's place");

    let (header, bytes) = tcp_to_segment(30_000, 1448, 4);
    let bytes = tagged(&bytes, 0x8100, 7);
    send(&a, &header, &bytes);
    let received = &collect(&b, 1, PATIENCE, is_ipv4)[0];
    assert_eq!(received.1, bytes);
    assert_eq!(received.0[4..10], header[4..10], "the checksum's place counts the tag");
    let header_length = u16::from_le_bytes([received.0[2], received.0[3]]);
    assert!(header_length >= 58, "{header_length} bytes of headers do not count the tag");
}

#[test]
fn datagrams_that_a_neighbour_sends_in_one_frame_arrive_one_by_one() {
    if !can_run("datagrams_that_a_neighbour_sends_in_one_frame_arrive_one_by_one") {
        return;
    }
    let (_veth, a, b) = pair::<Packet>();
    let (mut header, ipv4) = tcp_to_segment(20_000, 1400, 0);
    let mut udp = ipv4[..42].to_vec();
    udp[23] = 17;
    udp.extend((0..14_500_u32).map(|at| (at / 1400) as u8));
    (header[1], header[2], header[8]) = (5, 42, 6);
    send(&a, &header, &udp);
    let received = collect(&b, 11, PATIENCE, |bytes| ether_type(bytes) == 0x0800);
    let lengths: Vec<_> = received.iter().map(|r| r.1.len() - 42).collect();
    assert_eq!(lengths, [[1400; 10].as_slice(), &[500]].concat());
    for (number, (header, bytes)) in received.iter().enumerate() {
        assert!(bytes[42..].iter().all(|&byte| usize::from(byte) == number), "datagram {number}");
        // Its checksum is to be completed, from the UDP header on.
        assert_eq!((header[0], header[1], header[6], header[8]), (1, 0, 34, 6));
    }
}

#[test]
fn each_kind_of_segmentation_keeps_its_name_across_an_uplink() {
    if !can_run("each_kind_of_segmentation_keeps_its_name_across_an_uplink") {
        return;
    }
    let (_veth, a, b) = pair::<Packet>();
    let passes = |header: [u8; LINK_HEADER], bytes: &[u8]| {
        send(&a, &header, bytes);
        let received = collect(&b, 1, PATIENCE, |f| f.len() == bytes.len());
        let (got, frame) = received.first().unwrap_or_else(|| panic!("kind {} is lost", header[1]));
        assert_eq!(frame, bytes);
        assert_eq!((got[1], &got[4..10]), (header[1], &header[4..10]));
    };
    let (mut header, ipv4) = tcp_to_segment(20_000, 1400, 0);
    header[1] = 0x81;
    passes(header, &ipv4);
    // TCP over IPv6: the header is 20 bytes longer.
    let ipv6 =
        [&ipv4[..12], &[0x86, 0xdd, 0x60, 0, 0, 0, 0x4e, 0x34, 6, 64], &[0x20; 32], &ipv4[34..]].concat();
    for kind in [4, 0x84] {
        header[1] = kind;
        header[2] = 74;
        header[6] = 54;
        header[8] = 16;
        passes(header, &ipv6);
    }
}

#[test]
fn a_frame_in_unmapped_memory_or_with_a_false_header_is_refused_alone() {
    if !can_run("a_frame_in_unmapped_memory_or_with_a_false_header_is_refused_alone") {
        return;
    }
    let (_veth, a, b) = pair::<Packet>();
    let bytes = frame(200);
    // SAFETY: only the kernel reads it.
    let nowhere = unsafe { Piece::new(std::ptr::without_provenance(0x10), 100) };
    let error = a.send(&NO_OFFLOAD, &bytes, &[nowhere]).expect_err("nothing is mapped there");
    assert!(matches!(error, LinkError::BadMemory { .. }), "{error}");

    let is_bad = |error: LinkError| assert!(matches!(error, LinkError::BadFrame { .. }), "{error}");
    is_bad(a.send(&NO_OFFLOAD, &bytes[..13], &[]).expect_err("shorter than an Ethernet header"));
    let mut header = NO_OFFLOAD;
    header[0] = 1;
    header[6..8].copy_from_slice(&5000_u16.to_le_bytes());
    is_bad(a.send(&header, &bytes, &[]).expect_err("checksum behind the frame's end"));
    let mut header = NO_OFFLOAD;
    header[1] = 0x33;
    is_bad(a.send(&header, &bytes, &[]).expect_err("unknown kind of segmentation"));

    send(&a, &NO_OFFLOAD, &bytes);
    assert_eq!(collect(&b, 1, PATIENCE, is_local)[0].1, bytes, "the next frame goes");
}

#[test]
fn a_frame_longer_than_its_slot_is_dropped_and_counted() {
    if !can_run("a_frame_longer_than_its_slot_is_dropped_and_counted") {
        return;
    }
    if run("iperf3", &["--version"]).stdout.is_empty() {
        eprintln!("skipped: a_frame_longer_than_its_slot_is_dropped_and_counted: no iperf3");
        return;
    }
    // Only "BIG TCP" over IPv6 makes such frames: a stream from a namespace to the interface that is ours as well.
    let veth = Veth::new();
    let sender = Namespace::new();
    for end in [&veth.a, &veth.b] {
        ip(&["link", "set", end, "gso_max_size", "180000", "gro_max_size", "180000"]);
        if std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "0").is_err() {
            eprintln!("skipped: a_frame_longer_than_its_slot_is_dropped_and_counted: no IPv6");
            return;
        }
    }
    let ours = format!("fd77:{:x}::2", std::process::id() & 0xffff);
    ip(&["addr", "add", &format!("{ours}/64"), "dev", &veth.b, "nodad"]);
    sender.take(&veth.a, &format!("fd77:{:x}::1/64", std::process::id() & 0xffff));
    let link = Packet::open(&veth.b).expect("opened");

    let mut server =
        Command::new("iperf3").args(["-s", "-1", "-B", &ours]).stdout(Stdio::null()).spawn().expect("iperf3");
    let mut burst = LinkBurst::new();
    let mut longest = 0;
    let dropped = eventually(|| {
        let mut client = sender.command("timeout");
        let mut client = client
            .args(["20", "iperf3", "-c", &ours, "-n", "40M"])
            .stdout(Stdio::null())
            .spawn()
            .expect("iperf3");
        while client.try_wait().expect("iperf3").is_none() {
            link.receive(&mut burst).expect("received");
            longest = burst.frames().iter().map(|f| f.len as usize).fold(longest, usize::max);
        }
        link.receive_drops().too_long > 0
    });
    let _ = server.kill();
    let _ = server.wait();
    assert!(dropped, "{:?}, longest {longest}", link.receive_drops());
    assert!(longest > 1514 && longest <= MAX_FRAME, "longest {longest}");
}
