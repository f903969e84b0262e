//! What every uplink does, whichever driver it has: each test runs over `AF_PACKET` and over `AF_XDP`.

use std::os::fd::OwnedFd;
use std::time::Duration;

use backend::link::packet::MAX_UNICAST;
use backend::link::{Link, LinkBurst, LinkError, LinkText, MAX_FRAME, MAX_PIECES, Packet, Piece, Sent, Xdp};
use backend::spec::DataplaneError;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vswitch::Mac;

use crate::lab::{
    MAC_A, NO_OFFLOAD, Namespace, PATIENCE, Veth, can_run, collect, eventually, frame, ip, is_gone_error,
    is_local, link_value, run, send, tagged, tcp_to_segment,
};

/// An uplink of either driver.
pub(crate) trait Uplink: Link + std::fmt::Debug {
    fn open(interface: &str) -> Result<Self, LinkError>
    where
        Self: Sized;
    fn adopt(text: &LinkText, descriptors: Vec<OwnedFd>) -> Result<Self, LinkError>
    where
        Self: Sized;
    fn mac(&self) -> Mac;
    fn mtu(&self) -> u32;
    fn is_promiscuous(&self) -> bool;
}

macro_rules! uplink {
    ($type:ty, $descriptors:ident => $last:expr) => {
        impl Uplink for $type {
            fn open(interface: &str) -> Result<Self, LinkError> {
                <$type>::open(interface)
            }

            fn adopt(text: &LinkText, mut $descriptors: Vec<OwnedFd>) -> Result<Self, LinkError> {
                <$type>::adopt(text, $last)
            }

            fn mac(&self) -> Mac {
                self.mac()
            }

            fn mtu(&self) -> u32 {
                self.mtu()
            }

            fn is_promiscuous(&self) -> bool {
                self.is_promiscuous()
            }
        }
    };
}
uplink!(Packet, descriptors => descriptors.remove(0));
uplink!(Xdp, descriptors => std::mem::take(&mut descriptors));

/// Both ends of a veth pair.
pub(crate) fn pair<U: Uplink>() -> (Veth, U, U) {
    let veth = Veth::new();
    let a = U::open(&veth.a).expect("one end");
    let b = U::open(&veth.b).expect("other end");
    assert!(eventually(|| a.is_up() && b.is_up()), "a veth pair has a carrier when both ends are up");
    (veth, a, b)
}

/// Runs a test over both drivers.
macro_rules! over_both {
    ($(fn $name:ident<$driver:ident>() $body:block)*) => {$(
        #[test]
        fn $name() {
            fn over<$driver: Uplink>() $body
            if !can_run(stringify!($name)) {
                return;
            }
            over::<Packet>();
            over::<Xdp>();
        }
    )*};
}

over_both! {
fn frames_pass_an_uplink_byte_for_byte_and_in_order<U>() {
    let (_veth, a, b) = pair::<U>();
    let frames: Vec<_> = [14, 60, 64, 191, 192, 193, 1000, 1513, 1514].map(frame).into();
    for (from, to) in [(&a, &b), (&b, &a)] {
        for bytes in &frames {
            send(from, &NO_OFFLOAD, bytes);
        }
        let received = collect(to, frames.len(), PATIENCE, is_local);
        assert_eq!(received.iter().map(|r| &r.1).collect::<Vec<_>>(), frames.iter().collect::<Vec<_>>());
        assert!(received.iter().all(|r| r.0[1] == 0), "nothing is to be segmented");
    }
}

fn a_frame_is_gathered_from_as_many_pieces_as_allowed_and_no_more<U>() {
    let (_veth, a, b) = pair::<U>();
    let bytes = frame(40 + MAX_PIECES * 3);
    let (head, rest) = bytes.split_at(40);
    let pieces: Vec<_> = rest.chunks(3).map(Piece::of).collect();
    assert_eq!(pieces.len(), MAX_PIECES);
    assert_eq!(a.send(&NO_OFFLOAD, head, &pieces).expect("sent"), Sent::Done);
    assert_eq!(collect(&b, 1, PATIENCE, is_local)[0].1, bytes);

    let pieces = [pieces, vec![Piece::of(&[])]].concat();
    let error = a.send(&NO_OFFLOAD, head, &pieces).expect_err("one too many");
    assert!(matches!(error, LinkError::TooManyPieces { count, .. } if count == MAX_PIECES + 1), "{error}");
}

fn more_frames_than_one_burst_holds_all_arrive<U>() {
    let (_veth, a, b) = pair::<U>();
    let mut frames = Vec::new();
    for number in 0..200_u8 {
        let mut bytes = frame(100);
        bytes[50] = number;
        send(&a, &NO_OFFLOAD, &bytes);
        frames.push(bytes);
    }
    let received: Vec<_> = collect(&b, frames.len(), PATIENCE, is_local).into_iter().map(|r| r.1).collect();
    assert_eq!(received, frames);
    assert_eq!(b.receive_drops(), backend::link::ReceiveDrops::default());
}

fn a_vlan_tag_is_where_it_was_on_the_wire<U>() {
    let (_veth, a, b) = pair::<U>();
    let customer = tagged(&frame(100), 0x8100, 0xa123);
    let frames = [
        customer.clone(),
        tagged(&frame(100), 0x88a8, 0x0fff),
        tagged(&customer, 0x88a8, 0x0064),
        tagged(&customer, 0x8100, 0x0000),
    ];
    for bytes in &frames {
        send(&a, &NO_OFFLOAD, bytes);
    }
    let received: Vec<_> = collect(&b, frames.len(), PATIENCE, is_local).into_iter().map(|r| r.1).collect();
    assert_eq!(received, frames);
}

fn what_the_host_sends_through_the_uplink_is_not_received<U>() {
    let (veth, a, b) = pair::<U>();
    let other = Packet::open(&veth.a).expect("a second socket, as the host's own sender");
    send(&other, &NO_OFFLOAD, &frame(80));
    assert_eq!(collect(&b, 1, PATIENCE, is_local).len(), 1, "it is on the wire");
    assert_eq!(collect(&a, 1, Duration::from_millis(50), is_local).len(), 0);
    send(&b, &NO_OFFLOAD, &frame(80));
    assert_eq!(collect(&a, 1, PATIENCE, is_local).len(), 1, "what comes from the wire is received");
}

fn an_uplink_is_promiscuous_only_when_asked<U>() {
    let veth = Veth::new();
    let promiscuity = || link_value(&veth.a, "promiscuity");
    let link = U::open(&veth.a).expect("opened");
    assert_eq!((promiscuity().as_str(), link.is_promiscuous()), ("0", false));
    assert_eq!(link_value(&veth.a, "allmulti"), "1");
    link.set_addresses(&[], true).expect("set");
    link.set_addresses(&[], true).expect("set again");
    assert_eq!((promiscuity().as_str(), link.is_promiscuous()), ("1", true));
    link.set_addresses(&[], false).expect("set");
    assert_eq!((promiscuity().as_str(), link.is_promiscuous()), ("0", false));
    link.set_addresses(&[], true).expect("set");
    drop(link);
    assert_eq!(promiscuity(), "0", "closing the link leaves the interface as it was");
}

fn unicast_addresses_follow_the_given_set<U>() {
    let veth = Veth::new();
    let link = U::open(&veth.a).expect("opened");
    let mac = |n: u8| Mac([0x52, 0x54, 0, 0, 0x77, n]);
    let present = || {
        let output = run("bridge", &["fdb", "show", "dev", &veth.a]);
        let text = String::from_utf8(output.stdout).expect("bridge prints text");
        (0..=255).filter(|&n| text.contains(&mac(n).to_string())).collect::<Vec<u8>>()
    };
    link.set_addresses(&[mac(1), mac(2), mac(2), link.mac(), Mac::BROADCAST], false).expect("set");
    assert_eq!(present(), [1, 2]);
    link.set_addresses(&[mac(2), mac(3)], false).expect("set");
    assert_eq!(present(), [2, 3]);
    assert!(!link.is_promiscuous());

    let many: Vec<_> = (0..=MAX_UNICAST as u8).map(mac).collect();
    link.set_addresses(&many, false).expect("set");
    assert!(link.is_promiscuous(), "more addresses than the filter is given");
    assert!(present().is_empty());
    link.set_addresses(&many[1..], false).expect("set");
    assert!(!link.is_promiscuous());
    assert_eq!(present().len(), MAX_UNICAST);
    link.set_addresses(&[], false).expect("set");
    assert!(present().is_empty());
}

fn a_deleted_interface_is_gone<U>() {
    let (veth, a, b) = pair::<U>();
    assert!(!b.is_gone());
    // One end goes from up to gone, the other is down first, which is all that the kernel says by itself.
    ip(&["link", "set", &veth.b, "down"]);
    let mut burst = LinkBurst::new();
    assert_eq!(b.receive(&mut burst).expect("down is not gone"), 0);
    assert!(!b.is_up());
    assert!(!b.is_gone());
    drop(veth);
    for link in [&a, &b] {
        assert!(link.is_gone());
        assert!(!link.is_up());
        assert!(is_gone_error(&link.receive(&mut burst).expect_err("receive")));
        assert!(is_gone_error(&link.send(&NO_OFFLOAD, &frame(60), &[]).expect_err("send")));
        assert!(is_gone_error(&link.set_addresses(&[MAC_A], false).expect_err("set_addresses")));
    }
}

fn an_uplink_that_moves_to_another_namespace_is_gone<U>() {
    let (veth, a, _b) = pair::<U>();
    let namespace = Namespace::new();
    ip(&["link", "set", &veth.a, "netns", &namespace.0]);
    assert!(is_gone_error(&a.receive(&mut LinkBurst::new()).expect_err("receive")));
    assert!(a.is_gone());
}

fn an_uplink_works_again_when_its_interface_comes_back_up_under_another_name<U>() {
    let (veth, a, b) = pair::<U>();
    ip(&["link", "set", &veth.b, "down"]);
    assert!(!b.is_up());
    let error = b.send(&NO_OFFLOAD, &frame(60), &[]).expect_err("down");
    assert!(matches!(error, LinkError::Down { .. }), "{error}");
    assert!(eventually(|| !a.is_up()), "the other end has lost its carrier");
    let name = crate::lab::unique("c");
    ip(&["link", "set", &veth.b, "name", &name]);
    ip(&["link", "set", &name, "mtu", "1400", "up"]);
    assert!(eventually(|| a.is_up() && b.is_up()));
    assert_eq!(b.mtu(), 1400);
    send(&a, &NO_OFFLOAD, &frame(99));
    assert_eq!(collect(&b, 1, PATIENCE, is_local).len(), 1);
    send(&b, &NO_OFFLOAD, &frame(98));
    assert_eq!(collect(&a, 1, PATIENCE, is_local).len(), 1);
}

fn frames_and_segments_longer_than_the_mtu_are_refused<U>() {
    let (_veth, a, b) = pair::<U>();
    let is_too_long = |error: LinkError, length: usize, most: usize| {
        let expected =
            matches!(error, LinkError::TooLong { length: l, limit, .. } if (l, limit) == (length, most));
        assert!(expected, "{error}");
    };
    let bytes = frame(1515);
    is_too_long(a.send(&NO_OFFLOAD, &bytes, &[]).expect_err("too long"), 1515, 1514);
    send(&a, &NO_OFFLOAD, &tagged(&frame(1514), 0x8100, 5));
    assert_eq!(collect(&b, 1, PATIENCE, is_local)[0].1.len(), 1518, "a tag does not count");

    let (header, bytes) = tcp_to_segment(9000, 1460, 0);
    send(&a, &header, &bytes);
    let (header, bytes) = tcp_to_segment(9000, 1461, 0);
    is_too_long(
        a.send(&header, &bytes[..192], &[Piece::of(&bytes[192..])]).expect_err("segments"),
        1515,
        1514,
    );

    let bytes = frame(MAX_FRAME + 1);
    is_too_long(a.send(&NO_OFFLOAD, &bytes, &[]).expect_err("too long"), MAX_FRAME + 1, MAX_FRAME);
    // SAFETY: a frame of this length is refused before anybody reads it.
    let nowhere = unsafe { Piece::new(std::ptr::null(), usize::MAX) };
    let error = a.send(&NO_OFFLOAD, &bytes[..100], &[nowhere, nowhere]).expect_err("too long");
    is_too_long(error, usize::MAX, MAX_FRAME);
}

fn an_interface_that_cannot_be_an_uplink_is_refused_with_a_reason<U>() {
    let refused = |name: &str| U::open(name).expect_err("refused");
    let error = refused("tl-missing");
    assert!(matches!(error, LinkError::Missing { .. }), "{error}");
    assert_eq!(error.to_string(), "interface 'tl-missing': does not exist; `ip link` lists those that do");
    let DataplaneError::Interface { interface, reason } = error.into() else {
        panic!("not about an interface")
    };
    assert_eq!(
        (interface.as_str(), reason.as_str()),
        ("tl-missing", "does not exist; `ip link` lists those that do")
    );
    let error = refused("lo");
    assert!(matches!(error, LinkError::NotEthernet { hardware: 772, .. }), "{error}");
    for name in ["", ".", "..", "a/b", "a b", "a:b", "tap%d", "sixteen-letters-", "a\nb"] {
        let error = refused(name);
        assert!(matches!(error, LinkError::InvalidName { .. }), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

fn a_waiting_frame_makes_the_descriptor_readable<U>() {
    let (_veth, a, b) = pair::<U>();
    for (from, to) in [(&a, &b), (&b, &a)] {
        let waiting = Epoll::new().expect("epoll");
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 1);
        waiting.ctl(ControlOperation::Add, to.raw_fd(), event).expect("added");
        let readable = |patience| {
            let mut events = [EpollEvent::default()];
            waiting.wait(patience, &mut events).expect("waited") == 1
        };
        for _ in 0..3 {
            collect(to, 1, Duration::from_millis(1), |_| false);
            readable(0);
            assert!(!readable(0), "nothing waits");
            send(from, &NO_OFFLOAD, &frame(60));
            assert!(readable(3000));
            assert_eq!(collect(to, 1, PATIENCE, is_local).len(), 1);
        }
    }
}

fn s20_7_what_arrives_while_a_link_changes_hands_waits_for_the_next_holder<U>() {
    let (_veth, mut a, b) = pair::<U>();
    a.set_addresses(&[MAC_A], false).expect("set");
    for number in 0..20 {
        for length in 100..110 {
            send(&b, &NO_OFFLOAD, &frame(length));
        }
        let (text, descriptors) = a.to_parts();
        let text = serde_json::from_slice(&serde_json::to_vec(&text).expect("text")).expect("the same text");
        let descriptors = descriptors.into_iter().map(|fd| fd.try_clone_to_owned().expect("cloned")).collect();
        a = U::adopt(&text, descriptors).expect("taken over");
        let received: Vec<_> = collect(&a, 10, PATIENCE, is_local).iter().map(|r| r.1.len()).collect();
        assert_eq!(received, (100..110).collect::<Vec<_>>(), "take-over {number}");
        for length in 200..300 {
            send(&a, &NO_OFFLOAD, &frame(length));
        }
        assert_eq!(collect(&b, 100, PATIENCE, is_local).len(), 100);
        assert_eq!(a.receive_drops().malformed + b.receive_drops().overrun, 0);
    }
    let present = || run("bridge", &["fdb", "show", "dev", a.name()]).stdout;
    assert!(String::from_utf8_lossy(&present()).contains(&MAC_A.to_string()), "the filter is kept");
    a.set_addresses(&[], false).expect("set");
    assert!(!String::from_utf8_lossy(&present()).contains(&MAC_A.to_string()), "and known");
}

fn an_interface_that_goes_down_under_load_and_comes_back_carries_on<U>() {
    let (veth, a, b) = pair::<U>();
    let mut sent = 0;
    for _ in 0..5 {
        for step in 0..300 {
            if step == 100 {
                ip(&["link", "set", &veth.a, "down"]);
            }
            if step == 200 {
                ip(&["link", "set", &veth.a, "up"]);
                assert!(eventually(|| a.is_up() && b.is_up()));
            }
            match a.send(&NO_OFFLOAD, &frame(80), &[]) {
                Ok(Sent::Done) => sent += 1,
                Ok(Sent::Full) | Err(LinkError::Down { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let received = collect(&b, usize::MAX, Duration::from_millis(100), is_local).len();
        // What a neighbour's driver had when the carrier went is its loss.
        assert!(received >= 200 && received <= sent, "{received} of {sent}");
        sent = 0;
    }
}

fn everything_that_is_sent_at_a_stretch_is_received_or_counted<U>() {
    let (_veth, a, b) = pair::<U>();
    let mut sent = 0;
    for _ in 0..20_000 {
        sent += u64::from(a.send(&NO_OFFLOAD, &frame(70), &[]).expect("sent") == Sent::Done);
    }
    let received = collect(&b, usize::MAX, Duration::from_millis(200), is_local).len() as u64;
    let drops = b.receive_drops();
    assert!(sent == 20_000 && drops.overrun > 0, "{sent} sent, {drops:?}");
    assert_eq!((received + drops.overrun, drops.too_long, drops.malformed), (sent, 0, 0));
}
}
