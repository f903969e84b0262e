//! What a front end can ask of the device besides moving frames: configuration, memory slots, queues, status, reset.

use turnpike_tests::features::{self, protocol};
use turnpike_tests::frame::{BROADCAST, pattern};
use turnpike_tests::message::{self, Message};
use turnpike_tests::options::Dialect;
use turnpike_tests::{Frame, Guest, Options, Packet, SILENCE, Switch};

fn exchange(a: &mut Guest, b: &mut Guest, seed: u64) {
    let frame = Frame::of_len(a, b, 700, seed);
    a.send(&frame);
    b.expect(&frame);
    let frame = Frame::of_len(b, a, 700, seed);
    b.send(&frame);
    a.expect(&frame);
}

#[test]
fn what_is_offered_is_what_is_tested_here() {
    let switch = Switch::start();
    let guest = Guest::attach(&switch, "a", Options::default().pairs(2));
    // The first is for the front end itself, when it copies the guest elsewhere.
    let tested = features::LINUX | features::LOG_ALL | features::RING_PACKED | features::IN_ORDER;
    assert_eq!(features::names(guest.offered & !tested), [""; 0], "offered, but no test uses it");
    assert_eq!(guest.offered & !tested, 0, "an unknown bit is offered");
    assert_eq!(features::names(tested & !guest.offered), [""; 0], "expected, but not offered");
    assert_eq!(guest.protocol_offered, protocol::ALL, "protocol features");
    // Rings: cloud-hypervisor compares this with rings, QEMU with queue pairs, and both ask for no more than they find.
    assert_eq!(guest.channel().ask_u64(message::GET_QUEUE_NUM).unwrap(), 4);
}

#[test]
fn a_port_offers_no_more_than_it_is_capped_to() {
    let switch = Switch::start();
    switch.add_port("a", &["--features", "mrg-rxbuf,event-idx"]);
    let mut a = Guest::attach(&switch, "a", Options::default());
    let named = features::MRG_RXBUF | features::EVENT_IDX;
    assert_eq!(features::names(a.offered & features::OFFLOADS), [""; 0]);
    assert_eq!(a.offered & (named | features::INDIRECT_DESC), named);
    let mut b = Guest::attach(&switch, "b", Options::default());
    exchange(&mut a, &mut b, 0);
}

#[test]
fn negotiated_features_are_shown() {
    let switch = Switch::start();
    let _a = Guest::attach(&switch, "a", Options::plain().with(features::EVENT_IDX));
    let shown = switch.port("a")["features"].to_string();
    assert!(shown.contains("event-idx") && !shown.contains("mrg-rxbuf"), "{shown}");
}

#[test]
fn qemu_enables_rings_before_it_sets_features() {
    let switch = Switch::start();
    let options = Options::default().dialect(Dialect::Qemu);
    let (mut a, mut b) = Guest::pair(&switch, options.clone(), options);
    exchange(&mut a, &mut b, 0);
}

#[test]
fn a_front_end_without_acknowledgements_is_served() {
    let switch = Switch::start();
    let options = Options::default().without_protocol(protocol::REPLY_ACK);
    let (mut a, mut b) = Guest::pair(&switch, options.clone(), options.dialect(Dialect::Qemu));
    exchange(&mut a, &mut b, 0);
}

#[test]
fn a_front_end_without_protocol_features_is_served() {
    let switch = Switch::start();
    let options = Options::default().without(features::PROTOCOL_FEATURES);
    let (mut a, mut b) = Guest::pair(&switch, options.clone(), options);
    exchange(&mut a, &mut b, 0);
}

#[test]
fn memory_comes_as_a_table_or_slot_by_slot() {
    let switch = Switch::start();
    let table = Options::default().without_protocol(protocol::CONFIGURE_MEM_SLOTS);
    let (mut a, mut b) = Guest::pair(&switch, table, Options::default());
    exchange(&mut a, &mut b, 0);
    assert!(b.channel().ask_u64(message::GET_MAX_MEM_SLOTS).unwrap() >= 32);
}

#[test]
fn memory_can_be_added_and_removed_while_traffic_runs() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    for round in 0..10 {
        let gpa = 0x10_0000_0000 + round * 0x10_0000;
        let region = turnpike_tests::memory::Region::new(gpa, 0x10_0000, 0);
        a.acknowledged(Message::add_region(&region)).unwrap();
        a.memory.add(region);
        // A frame that lies in the new slot.
        assert!(a.flush(turnpike_tests::PATIENCE));
        let frame = Frame::of_len(&a, &b, 600, round);
        let bytes = [&[0; 12][..], &frame].concat();
        a.memory.write(gpa + 64, &bytes);
        a.tx[0].offer(&[turnpike_tests::Buffer::readable(gpa + 64, bytes.len() as u32)]).unwrap();
        a.tx[0].notify();
        b.expect(&frame);
        assert!(turnpike_tests::eventually(|| a.tx[0].take().is_some()));
        let user = a.memory.user(gpa);
        a.acknowledged(Message::mem_region(message::REM_MEM_REG, gpa, 0x10_0000, user, 0)).unwrap();
        exchange(&mut a, &mut b, round);
    }
}

#[test]
fn the_configuration_space_tells_mac_link_queues_and_mtu() {
    let switch = Switch::start();
    let socket = switch.add_port("a", &["--mac", "02:00:00:00:ab:cd", "--queues", "3", "--mtu", "4242"]);
    let guest = Guest::connect(&socket, Options::default());
    let ask = |offset: u32, size: u32| {
        let zeros = vec![0; size as usize];
        let reply =
            guest.channel().ask(&Message::config(message::GET_CONFIG, offset, size, 0, &zeros)).unwrap();
        assert_eq!(reply.body.len(), 12 + size as usize, "offset {offset}, size {size}");
        reply.body[12..].to_vec()
    };
    let space = ask(0, 17);
    assert_eq!(space[..6], [2, 0, 0, 0, 0xab, 0xcd]);
    assert_eq!(u16::from_le_bytes([space[6], space[7]]) & 1, 1, "link up");
    assert_eq!(u16::from_le_bytes([space[8], space[9]]), 3, "queue pairs");
    assert_eq!(u16::from_le_bytes([space[10], space[11]]), 4242, "MTU");
    assert_eq!(ask(10, 2), 4242u16.to_le_bytes());
    assert_eq!(ask(0, 24)[..17], space);
}

#[test]
fn a_frame_longer_than_the_receivers_mtu_is_dropped() {
    let switch = Switch::start();
    switch.add_port("a", &["--mtu", "9000", "--vlan", "trunk:5"]);
    switch.add_port("b", &["--mtu", "1500", "--vlan", "trunk:5"]);
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let fits = Frame::between(&a, &b).ipv4().udp(1, 2).payload(&pattern(1472, 0)).build();
    let tagged = Frame::between(&a, &b).vlan(5).ipv4().udp(1, 2).payload(&pattern(1472, 0)).build();
    let over = Frame::between(&a, &b).ipv4().udp(1, 2).payload(&pattern(1473, 0)).build();
    a.send(&fits);
    b.expect(&fits);
    a.send(&tagged);
    b.expect(&tagged);
    a.send(&over);
    b.expect_silence();
    assert_eq!(switch.drops("b", "in", "mtu-exceeded"), 1);
}

#[test]
fn mtu_68_and_9000_are_the_bounds() {
    let switch = Switch::start();
    let small = switch.add_port("small", &["--mtu", "68"]);
    let large = switch.add_port("large", &["--mtu", "9000"]);
    let (_s, _l) = (Guest::connect(&small, Options::default()), Guest::connect(&large, Options::default()));
    for bad in ["67", "9001", "0", "x"] {
        let socket = switch.dir().join("bad.sock");
        let output = switch.run(&["port", "add", "bad", "--socket", socket.to_str().unwrap(), "--mtu", bad]);
        assert!(!output.status.success(), "--mtu {bad} was taken");
    }
}

#[test]
fn a_front_end_may_lower_the_mtu_but_not_raise_it() {
    let switch = Switch::start();
    switch.add_port("a", &["--mtu", "1500"]);
    let guest = Guest::attach(&switch, "a", Options::default());
    guest.channel().confirm(Message::u64(message::NET_SET_MTU, 1400)).unwrap();
    assert_eq!(switch.port("a")["mtu"], 1400);
    let _ = guest.channel().confirm(Message::u64(message::NET_SET_MTU, 1600)).unwrap_err();
    assert_eq!(switch.port("a")["mtu"], 1400);
}

#[test]
fn the_driver_status_is_kept() {
    let switch = Switch::start();
    let guest = Guest::attach(&switch, "a", Options::default());
    for status in [0x0f, 0x07, 0x00] {
        guest.channel().confirm(Message::u64(message::SET_STATUS, status)).unwrap();
        assert_eq!(guest.channel().ask_u64(message::GET_STATUS).unwrap(), status);
    }
}

#[test]
fn a_rarp_is_sent_for_a_front_end_that_asks() {
    let switch = Switch::start();
    let (a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let mut mac = [0; 8];
    mac[..6].copy_from_slice(&a.mac);
    a.channel().confirm(Message::u64(message::SEND_RARP, u64::from_le_bytes(mac))).unwrap();
    let received = b.expect_some();
    let packet = Packet::of(&received.frame);
    assert_eq!((packet.dst, packet.src, packet.ethertype), (BROADCAST, a.mac, 0x8035));
    // RFC 903: reverse request, hardware addresses of sender and target are the guest's.
    assert_eq!(packet.payload()[..8], [0, 1, 8, 0, 6, 4, 0, 3]);
    assert_eq!(packet.payload()[8..14], a.mac);
    assert_eq!(packet.payload()[18..24], a.mac);
}

#[test]
fn a_guest_can_announce_itself() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    assert_ne!(a.features & features::GUEST_ANNOUNCE, 0);
    let gratuitous = Frame::between(&a, &a).arp_request().build();
    a.send(&gratuitous);
    b.expect(&gratuitous);
}

#[test]
fn a_reset_device_starts_over_on_the_same_connection() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default().post_by_hand(0));
    for _ in 0..3 {
        b.post(256);
        exchange(&mut a, &mut b, 0);
        b.channel().confirm(Message::new(message::RESET_DEVICE)).unwrap();
        // Stopped: what is sent now does not arrive.
        a.send(&Frame::of_len(&a, &b, 100, 1));
        std::thread::sleep(SILENCE);
        assert!(b.poll().is_none(), "a frame came after the reset");
        b.stop().unwrap();
        b.acknowledged(Message::u64(message::SET_FEATURES, b.features)).unwrap();
        let taken: Vec<u32> = [&b.rx[0], &b.tx[0]].iter().map(|ring| ring.used_index().into()).collect();
        b.start(&taken).unwrap();
        switch.wait_state("b", "running");
    }
}

#[test]
fn a_stopped_ring_tells_where_it_stopped_and_goes_on_there() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    for round in 0..5 {
        exchange(&mut a, &mut b, round);
        let bases = b.stop().unwrap();
        assert_eq!(bases[0], u32::from(b.rx[0].used_index()), "receive ring");
        assert_eq!(bases[1], u32::from(b.tx[0].next_avail), "send ring");
        b.start(&bases).unwrap();
        switch.wait_state("b", "running");
    }
    exchange(&mut a, &mut b, 99);
}

#[test]
fn a_disabled_ring_moves_nothing_until_it_is_enabled_again() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    b.enable(0..1, false).unwrap();
    let waiting = Frame::of_len(&a, &b, 100, 0);
    a.send(&waiting);
    std::thread::sleep(SILENCE);
    assert!(b.poll().is_none(), "a frame came through a disabled ring");
    b.enable(0..1, true).unwrap();
    switch.wait_state("b", "running");
    assert_eq!(b.receive(turnpike_tests::PATIENCE).map(|r| r.frame), Some(waiting), "what came meanwhile");
    exchange(&mut a, &mut b, 1);
}
