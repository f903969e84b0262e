//! The relay between a scripted front end and a scripted library.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vswitch::PortId;

use super::*;
use crate::guest::Owner;
use crate::spec::{EventSink, GuestSpec, StateKeeper};

const NEED_REPLY: u32 = 8;

/// Keeps what the relay tells the rest of the switch.
#[derive(Default)]
pub(super) struct Notes {
    injected: Mutex<Vec<Vec<u8>>>,
    events: Mutex<Vec<Event>>,
}

impl StateKeeper for Notes {
    fn save(&self, _: PortId) -> Result<Vec<u8>, String> {
        unreachable!("no transfer is asked for here")
    }

    fn load(&self, _: PortId, _: &[u8]) -> Result<(), String> {
        unreachable!("no transfer is asked for here")
    }
}

impl Owner for Notes {
    fn id(&self) -> usize {
        0
    }

    fn rescan(&self) {}

    fn inject(&self, port: PortId, frame: Vec<u8>) {
        assert_eq!(port, PortId(3));
        self.injected.lock().unwrap().push(frame);
    }
}

impl EventSink for Notes {
    fn emit(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

fn port(notes: &Arc<Notes>) -> Arc<GuestPort> {
    port_with(notes, Arc::clone(notes) as _)
}

pub(super) fn port_with(notes: &Arc<Notes>, keeper: Arc<dyn StateKeeper>) -> Arc<GuestPort> {
    let spec = GuestSpec {
        id: PortId(3),
        name: "web".to_owned(),
        socket: "/run/web.sock".into(),
        client: false,
        mac: Mac([0x52, 0x54, 0, 0, 0, 3]),
        queue_pairs: 1,
        mtu: 1500,
        features: features::DEFAULT,
    };
    Arc::new(GuestPort::new(spec, vec![Arc::clone(notes) as _], Arc::clone(notes) as _, keeper))
}

/// A relay that runs, with both of its peers in our hands.
pub(super) struct Scene {
    pub(super) front: UnixStream,
    pub(super) library: UnixStream,
    pub(super) relay: JoinHandle<Result<(), MessageError>>,
    pub(super) port: Arc<GuestPort>,
    /// Readable when the port is being removed.
    pub(super) stop: OwnedFd,
    notes: Arc<Notes>,
}

impl Scene {
    fn new() -> Self {
        Self::of(port)
    }

    /// A scene on the port that `make` makes.
    pub(super) fn of(make: impl FnOnce(&Arc<Notes>) -> Arc<GuestPort>) -> Self {
        let notes = Arc::new(Notes::default());
        let port = make(&notes);
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let stopped = stop.try_clone().unwrap();
        let ((front, theirs), (back, library)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let relayed = Arc::clone(&port);
        let relay = std::thread::spawn(move || Relay::new(&relayed, &theirs, &back).run(stopped.as_fd()));
        Self { front, library, relay, port, stop, notes }
    }

    /// The front end says something and wants it acknowledged.
    pub(super) fn say(&self, request: u32, value: u64) {
        let mut message = Message::new(request, &value.to_ne_bytes());
        message.flags |= NEED_REPLY;
        message.write(&self.front).unwrap();
    }

    /// What the front end is answered.
    pub(super) fn answer(&self) -> u64 {
        Message::read(&self.front).unwrap().u64_at(0).unwrap()
    }

    /// What the library hears: request and value, if it has one.
    fn hears(&self) -> (u32, Option<u64>) {
        let message = Message::read(&self.library).unwrap();
        (message.request, message.u64_at(0).ok())
    }

    /// The library is asked `request` and answers.
    fn library_answers(&self, request: u32, value: u64) {
        let message = Message::read(&self.library).unwrap();
        assert_eq!(message.request, request);
        message.reply(value).write(&self.library).unwrap();
    }

    /// Negotiates `features`, as the specification orders it.
    pub(super) fn negotiate(&self, features: u64) {
        Message::new(request::SET_PROTOCOL_FEATURES, &features.to_ne_bytes()).write(&self.front).unwrap();
        self.library_answers(request::GET_FEATURES, features::DEFAULT);
        self.library_answers(request::GET_PROTOCOL_FEATURES, features::protocol().bits());
        assert_eq!(
            self.hears(),
            (request::SET_PROTOCOL_FEATURES, Some(features & !OWN_PROTOCOL_FEATURES)),
            "without what the library does not know"
        );
    }

    /// The front end goes; how did it end?
    fn end(self) -> MessageError {
        drop(self.front);
        self.relay.join().unwrap().unwrap_err()
    }
}

fn enable(ring: u64) -> u64 {
    1 << 32 | ring
}

#[test]
fn rings_enabled_before_features_get_features_first() {
    let scene = Scene::new();
    for (ring, first) in [(0, true), (1, false)] {
        scene.say(request::SET_VRING_ENABLE, enable(ring));
        if first {
            assert_eq!(scene.hears(), (request::SET_FEATURES, Some(features::PROTOCOL_FEATURES)));
        }
        assert_eq!(scene.hears(), (request::SET_VRING_ENABLE, Some(enable(ring))));
    }
    // A reset takes the features away.
    Message::new(request::RESET_DEVICE, &[]).write(&scene.front).unwrap();
    assert_eq!(scene.hears(), (request::RESET_DEVICE, None));
    scene.say(request::SET_VRING_ENABLE, enable(0));
    assert_eq!(scene.hears().0, request::SET_FEATURES);
    assert_eq!(scene.hears().0, request::SET_VRING_ENABLE);
    assert!(matches!(scene.end(), MessageError::Closed));
}

#[test]
fn features_that_were_set_are_left_alone() {
    let scene = Scene::new();
    scene.say(request::SET_FEATURES, 0x1_4000_0000);
    assert_eq!(scene.hears(), (request::SET_FEATURES, Some(0x1_4000_0000)));
    scene.say(request::SET_VRING_ENABLE, enable(0));
    assert_eq!(scene.hears(), (request::SET_VRING_ENABLE, Some(enable(0))));
}

#[test]
fn the_relays_own_protocol_features_are_added_to_what_the_library_offers() {
    let scene = Scene::new();
    Message::new(request::GET_PROTOCOL_FEATURES, &[]).write(&scene.front).unwrap();
    scene.library_answers(request::GET_PROTOCOL_FEATURES, 0x209);
    assert_eq!(
        scene.answer(),
        0x209 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 16 | 1 << 19,
        "LOG_SHMFD, RARP, NET_MTU, STATUS and DEVICE_STATE"
    );
}

#[test]
fn an_mtu_is_taken_from_68_up_to_the_ports() {
    let scene = Scene::new();
    scene.negotiate(PROTOCOL_REPLY_ACK | PROTOCOL_NET_MTU);
    let tries = [(67, 1, 1500), (68, 0, 68), (1400, 0, 1400), (1501, 1, 1400), (65_536 + 1400, 1, 1400)];
    for (mtu, answer, now) in tries.into_iter().chain([(u64::MAX, 1, 1400), (0, 1, 1400), (1500, 0, 1500)]) {
        scene.say(request::NET_SET_MTU, mtu);
        assert_eq!((scene.answer(), scene.port.mtu()), (answer, now), "MTU {mtu}");
    }
}

#[test]
fn nothing_is_acknowledged_that_was_not_negotiated() {
    let scene = Scene::new();
    scene.say(request::NET_SET_MTU, 1400);
    scene.say(request::SET_STATUS, 7);
    Message::new(request::GET_STATUS, &[]).write(&scene.front).unwrap();
    assert_eq!(scene.answer(), 7, "the first answer is that of the question");
}

#[test]
fn a_status_is_kept_and_given_back() {
    let scene = Scene::new();
    scene.negotiate(PROTOCOL_REPLY_ACK | PROTOCOL_STATUS);
    scene.say(request::SET_STATUS, 0x1_0f);
    assert_eq!(scene.answer(), 0);
    Message::new(request::GET_STATUS, &[]).write(&scene.front).unwrap();
    assert_eq!(scene.answer(), 0x0f);
}

#[test]
fn an_announcement_is_sent_and_reported() {
    let scene = Scene::new();
    scene.negotiate(PROTOCOL_REPLY_ACK | PROTOCOL_RARP);
    let mac = Mac([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]);
    scene.say(request::SEND_RARP, u64::from_ne_bytes([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc, 0, 0]));
    assert_eq!(scene.answer(), 0);
    let frames = scene.notes.injected.lock().unwrap();
    let [frame] = &frames[..] else { panic!("{} frames", frames.len()) };
    assert_eq!((frame.len(), &frame[..6], &frame[6..12]), (60, &[0xff; 6][..], &mac.0[..]));
    assert_eq!(frame[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3], "request reverse, RFC 903");
    assert_eq!((&frame[22..28], &frame[32..38]), (&mac.0[..], &mac.0[..]), "sender and target");
    assert_eq!(*scene.notes.events.lock().unwrap(), [Event::Announced { port: PortId(3), mac }]);
}

#[test]
fn acknowledgements_are_waited_for_only_where_the_library_sends_them() {
    let scene = Scene::new();
    scene.say(request::SET_VRING_ENABLE, enable(0));
    assert_eq!(scene.hears().0, request::SET_FEATURES);
    assert_eq!(scene.hears().0, request::SET_VRING_ENABLE);
    scene.negotiate(PROTOCOL_REPLY_ACK);
    scene.say(request::SET_VRING_ENABLE, enable(1));
    scene.library_answers(request::SET_VRING_ENABLE, 1);
    assert_eq!(scene.answer(), 1, "the library's refusal reaches the front end");
}

#[test]
fn a_reply_to_nothing_ends_the_connection() {
    let scene = Scene::new();
    Message::new(request::GET_FEATURES, &[]).reply(1).write(&scene.front).unwrap();
    let error = scene.relay.join().unwrap().unwrap_err();
    assert!(matches!(error, MessageError::BadFlags { flags: 5, .. }), "{error}");
}

#[test]
fn a_library_that_gives_up_ends_the_connection() {
    let scene = Scene::new();
    drop(scene.library);
    assert!(matches!(scene.relay.join().unwrap().unwrap_err(), MessageError::NoAnswer));
}

// === what a front end may not send ===

/// What the relay says about a message with these descriptors; empty if it lets it pass.
fn verdict(request: u32, payload: &[u8], fds: Vec<OwnedFd>) -> String {
    let message = Message { request, flags: 1, payload: payload.to_vec(), fds };
    let result = Relay::check(&message, false);
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

fn memfd(len: u64) -> OwnedFd {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len).unwrap();
    fd
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

fn pipe() -> OwnedFd {
    rustix::pipe::pipe().unwrap().1
}

/// A region as guest address, size, user address and offset.
type Region = [u64; 4];

fn table(count: u32, regions: &[Region]) -> Vec<u8> {
    let words = regions.iter().flatten().flat_map(|word| word.to_ne_bytes());
    [count.to_ne_bytes(), [0; 4]].concat().into_iter().chain(words).collect()
}

const MIB: u64 = 1 << 20;
const GOOD: Region = [0, MIB, 0x7f00_0000_0000, 0];

#[test]
fn h19_h21_regions_that_lie_are_refused_with_what_would_be_valid() {
    let cases: &[(Region, &str)] = &[
        (GOOD, ""),
        ([0, 0, 0, 0], "region size 0x0 is not acceptable: 1 byte to 64 TiB"),
        ([0, u64::MAX, 0, 0], "region size 0xffffffffffffffff is not acceptable: 1 byte to 64 TiB"),
        ([0, (1 << 46) + 1, 0, 0], "region size 0x400000000001 is not acceptable: 1 byte to 64 TiB"),
        ([u64::MAX, 1, 0, 0], "region guest address 0xffffffffffffffff is not acceptable"),
        ([0, MIB, u64::MAX - 1, 0], "region user address 0xfffffffffffffffe is not acceptable"),
        ([0, MIB, 0, u64::MAX - 4095], "region offset 0xfffffffffffff000 is not acceptable"),
        ([0, 1, 0, 1], "region offset 0x1 is not acceptable: a multiple of the page size"),
        ([0, MIB + 1, 0, 0], "region end 0x100001 is not acceptable: inside its file"),
        ([0, MIB, 0, 4096], "region end 0x101000 is not acceptable: inside its file"),
    ];
    for (region, want) in cases {
        let second =
            verdict(request::SET_MEM_TABLE, &table(2, &[GOOD, *region]), vec![memfd(MIB), memfd(MIB)]);
        let added = verdict(request::ADD_MEM_REG, &table(0, &[*region]), vec![memfd(MIB)]);
        assert!(second.contains(want) && second.is_empty() == want.is_empty(), "{region:x?}: {second}");
        assert!(added.contains(want) && added.is_empty() == want.is_empty(), "{region:x?}: {added}");
    }
}

#[test]
fn h21_memory_that_is_no_file_is_refused() {
    let device: OwnedFd = File::open("/dev/zero").unwrap().into();
    let directory: OwnedFd = File::open("/proc/self").unwrap().into();
    for fd in [device, directory, event(), pipe(), UnixStream::pair().unwrap().0.into()] {
        let said = verdict(request::ADD_MEM_REG, &table(0, &[GOOD]), vec![fd]);
        assert!(said.contains("region descriptor type") && said.ends_with("a memory file"), "{said}");
    }
}

#[test]
fn h19_h24_as_many_descriptors_as_regions_and_at_most_32() {
    let regions = |n: u32| table(n, &vec![GOOD; n as usize]);
    let fds = |n: usize| (0..n).map(|_| memfd(MIB)).collect::<Vec<_>>();
    assert_eq!(verdict(request::SET_MEM_TABLE, &regions(32), fds(32)), "");
    for (count, descriptors) in [(0, 0), (1, 0), (1, 2), (2, 1), (33, 33), (33, 32), (u32::MAX, 1)] {
        let payload = regions(count.min(40));
        let payload = [&count.to_ne_bytes(), &payload[4..]].concat();
        let said = verdict(request::SET_MEM_TABLE, &payload, fds(descriptors));
        assert!(said.ends_with("descriptors, expected one per memory region, 1 to 32"), "{count}: {said}");
    }
    let short = verdict(request::SET_MEM_TABLE, &table(2, &[GOOD]), fds(2));
    assert!(short.contains("40 bytes of payload, expected"), "{short}");
    assert!(verdict(request::ADD_MEM_REG, &table(0, &[GOOD]), fds(2)).ends_with("expected 1"));
    assert!(verdict(request::REM_MEM_REG, &table(0, &[GOOD]), fds(2)).ends_with("expected 0 or 1"));
    assert_eq!(verdict(request::REM_MEM_REG, &table(0, &[GOOD]), fds(1)), "");
}

#[test]
fn h05_a_notification_descriptor_is_an_eventfd_or_flagged_as_missing() {
    for request in [request::SET_VRING_KICK, request::SET_VRING_CALL, request::SET_VRING_ERR] {
        let said = |value: u64, fds| verdict(request, &value.to_ne_bytes(), fds);
        assert_eq!(said(1, vec![event()]), "");
        assert_eq!(said(0x101, vec![]), "");
        for fd in [pipe(), memfd(8), UnixStream::pair().unwrap().0.into()] {
            assert!(said(1, vec![fd]).ends_with("descriptor of ring 0x1 is not acceptable: an eventfd"));
        }
        for (value, fds) in [(1, vec![]), (0x101, vec![event()]), (1, vec![event(), event()])] {
            assert!(said(value, fds).ends_with("expected 1, or 0 with the no-descriptor flag"));
        }
        assert!(verdict(request, &[0; 4], vec![event()]).contains("4 bytes of payload, expected 8"));
    }
}

#[test]
fn h24_no_other_message_carries_descriptors() {
    for request in 0..=60 {
        let carries = matches!(request, 5 | 6 | 12..=14 | 37 | 38 | 42);
        let payload = [0, 0, 0, 0, 1, 0, 0, 0]; // a good ring size, too
        if !carries {
            assert_eq!(verdict(request, &payload, vec![]), "");
            let said = verdict(request, &payload, vec![event()]);
            assert!(said.starts_with(&format!("request {request}: ")), "{said}");
            assert!(said.ends_with("1 descriptors, expected 0"), "{request}: {said}");
        }
    }
}

#[test]
fn h01_a_ring_size_is_a_power_of_two_up_to_1024() {
    for size in [0u32, 1, 2, 3, 256, 1000, 1024, 2048, 32_768, 65_536, 65_536 + 256, u32::MAX] {
        let payload = [0u32.to_ne_bytes(), size.to_ne_bytes()].concat();
        let valid = [1, 2, 256, 1024].contains(&size);
        let said = verdict(request::SET_VRING_NUM, &payload, vec![]);
        assert_eq!(said.is_empty(), valid, "{size}: {said}");
        assert!(valid || said.ends_with("a power of two up to 1024"), "{said}");
    }
}
