//! Section 20: what comes for a guest on the move waits for it; nothing is lost, doubled or counted twice.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::rig::{Rig, flush, log_all, mac};
use backend::guest::hold::{MAX_BYTES, MAX_FRAMES};
use backend::spec::PortState;
use backend::watch::{Record, Spec, What};
use turnpike_tests::features::protocol;
use turnpike_tests::memory::Region;
use turnpike_tests::{Frame, Guest, NetHdr, Options, eventually};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vswitch::event::Event;
use vswitch::port::acl::{Action, Address, Applies, Entry, Table};
use vswitch::port::{Policy, vlan::Vlan};
use vswitch::trace::DropReason;
use vswitch::trace::filter::Filter;
use vswitch::{Direction, PortId, Tally};

/// The frame number `n` from port 1 to port 2.
fn numbered(n: u32) -> Vec<u8> {
    let payload = [&n.to_be_bytes()[..], &[0x5a; 40]].concat();
    Frame::new(mac(2), mac(1)).ipv4().udp(7, 9).payload(&payload).build()
}

fn number(frame: &[u8]) -> u32 {
    let at = frame.len() - 44;
    u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

fn send(guest: &mut Guest, numbers: std::ops::Range<u32>) {
    let frames: Vec<_> = numbers.map(numbered).collect();
    guest.send_all(&frames);
    flush(guest);
}

/// What comes within a while, by number.
fn received(guest: &mut Guest) -> Vec<u32> {
    guest.receive_all().iter().map(|r| number(&r.frame)).collect()
}

fn state(rig: &Rig, n: u16) -> PortState {
    rig.data.status(PortId(n)).unwrap().state
}

fn running(rig: &Rig, n: u16) {
    assert!(eventually(|| state(rig, n) == PortState::Running));
}

fn pair(policy: Policy) -> (Rig, Guest, Guest) {
    let rig = Rig::new(&[(1, Policy::default()), (2, policy)]);
    let (a, b) = (rig.attach(1, Options::default()), rig.attach(2, Options::default()));
    running(&rig, 1);
    running(&rig, 2);
    (rig, a, b)
}

/// More than the ring has: the rest waits for buffers as the guest posts them.
#[test]
fn s20_6_what_comes_while_the_rings_stand_still_comes_first_and_in_order() {
    let (rig, mut a, mut b) = pair(Policy::default());
    send(&mut a, 0..100);
    assert_eq!(received(&mut b), (0..100).collect::<Vec<_>>());
    log_all(&mut b, true);
    let bases = b.stop().unwrap();
    send(&mut a, 100..800);
    rig.wait_held(2, 700);
    assert_eq!(rig.in_packets(2), 100, "nothing is counted before the guest has it");
    assert_eq!(rig.data.counters(PortId(1)).out_packets, 800, "its sender is done with it");
    b.start(&bases).unwrap();
    send(&mut a, 800..900);
    assert_eq!(received(&mut b), (100..900).collect::<Vec<_>>());
    assert_eq!((rig.in_packets(2), rig.all_dropped(2)), (900, 0));
    assert_eq!(rig.data.held(PortId(2)), (0, 0));
    // And the ordinary way again.
    send(&mut a, 900..1000);
    assert_eq!(received(&mut b), (900..1000).collect::<Vec<_>>());
}

#[test]
fn s20_6_without_a_migration_what_comes_for_stopped_rings_is_dropped() {
    let (rig, mut a, mut b) = pair(Policy::default());
    let bases = b.stop().unwrap();
    send(&mut a, 0..50);
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, 50);
    b.start(&bases).unwrap();
    running(&rig, 2);
    assert!(received(&mut b).is_empty());
}

#[test]
fn s19_1_what_was_held_and_is_given_up_is_traced_with_its_reason() {
    let (rig, mut a, mut b) = pair(Policy::default());
    let (filter, what) = (Filter::default(), What::Steps);
    let spec = Spec { port: Some(PortId(2)), drops: true, filter, sample: 1, what };
    let mut watching = rig.data.watch(spec).expect("room for a watcher");
    b.enable(0..1, false).unwrap();
    send(&mut a, 0..10);
    rig.wait_held(2, 10);
    drop(b);
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, 10);
    let mut ways = Vec::new();
    assert!(eventually(|| {
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some((records, _))) = pin!(watching.records.next()).poll(&mut context) {
            ways.extend(records);
        }
        ways.len() >= 10
    }));
    for (n, record) in (0..).zip(&ways) {
        let Record::Way(way) = record else { panic!("{record:?}") };
        assert_eq!((way.from, way.port, way.direction), (PortId(1), PortId(2), Direction::In));
        let last = way.steps.last().expect("a step");
        assert_eq!((last.step, last.dropped), ("held", Some(DropReason::ReceiverNotRunning)));
        assert_eq!(way.lost(), Some((DropReason::ReceiverNotRunning, Some(PortId(2)))));
        assert_eq!(way.head[..], numbered(n)[..], "in their order");
    }
    assert_eq!(ways.len(), 10, "each once");
}

/// As cloud-hypervisor does it to a guest that moves within its host, for which nothing is logged: rings off, stopped, state saved, gone.
#[test]
fn s20_6_what_comes_for_rings_that_are_switched_off_waits_for_them() {
    let (rig, mut a, mut b) = pair(Policy::default());
    b.enable(0..1, false).unwrap();
    send(&mut a, 0..100);
    rig.wait_held(2, 100);
    b.enable(0..1, true).unwrap();
    assert_eq!(received(&mut b), (0..100).collect::<Vec<_>>());
    // Between the two messages that stop them there is no moment at which something is lost, nor after them.
    b.enable(0..1, false).unwrap();
    send(&mut a, 100..200);
    let bases = b.stop().unwrap();
    send(&mut a, 200..300);
    rig.wait_held(2, 200);
    b.start(&bases).unwrap();
    assert_eq!(received(&mut b), (100..300).collect::<Vec<_>>());
    assert_eq!((rig.in_packets(2), rig.all_dropped(2)), (300, 0));
}

#[test]
fn s20_6_rings_that_are_taken_down_one_after_the_other_are_a_reset_and_nothing_waits() {
    let (rig, mut a, mut b) = pair(Policy::default());
    b.vhost().set_vring_enable(0, false).unwrap();
    send(&mut a, 0..10);
    rig.wait_held(2, 10);
    b.vhost().get_vring_base(0).unwrap();
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, 10);
    b.vhost().set_vring_enable(1, false).unwrap();
    b.vhost().get_vring_base(1).unwrap();
    send(&mut a, 10..20);
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, 20);
}

/// Whoever cannot save a state does not stop rings in order to.
#[test]
fn s20_6_rings_of_a_front_end_without_device_state_are_taken_down_for_good() {
    let rig = Rig::new(&[(1, Policy::default()), (2, Policy::default())]);
    let mut a = rig.attach(1, Options::default());
    let mut b = rig.attach(2, Options::default().without_protocol(protocol::DEVICE_STATE));
    running(&rig, 2);
    b.enable(0..1, false).unwrap();
    send(&mut a, 0..10);
    rig.wait_held(2, 10);
    b.stop().unwrap();
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, 10);
    send(&mut a, 10..20);
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, 20);
}

/// A sender on a thread of its own that never pauses, but for a receiver that is too far behind: what has no room is dropped after a
/// while, which is another rule's business.
struct Stream {
    got: Vec<u32>,
    seen: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
    sender: std::thread::JoinHandle<u32>,
}

impl Stream {
    fn new(mut from: Guest) -> Self {
        const AHEAD: u32 = 200;
        let (seen, over): (Arc<AtomicU32>, Arc<AtomicBool>) = Default::default();
        let (theirs, ended) = (Arc::clone(&seen), Arc::clone(&over));
        let sender = std::thread::spawn(move || {
            let mut n = 0;
            while !ended.load(Ordering::Relaxed) {
                if n - theirs.load(Ordering::Relaxed) < AHEAD {
                    send(&mut from, n..n + 4);
                    n += 4;
                } else {
                    std::thread::yield_now();
                }
            }
            n
        });
        Self { got: Vec::new(), seen, over, sender }
    }

    fn read(&mut self, to: &mut Guest, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            while let Some(received) = to.poll() {
                self.got.push(number(&received.frame));
            }
            self.seen.store(self.got.len() as u32, Ordering::Relaxed);
            std::thread::yield_now();
        }
    }

    /// Ends it: everything must have come, once and in order. Returns how many that was.
    fn end(mut self, to: &mut Guest) -> u32 {
        self.over.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        self.got.extend(received(to));
        let wrong = self.got.iter().zip(0..).find(|(got, want)| **got != *want);
        assert_eq!((wrong, self.got.len()), (None, sent as usize));
        sent
    }
}

/// Where frames race with the change, none is lost either.
#[test]
fn s20_6_a_steady_stream_survives_any_number_of_stops() {
    let (rig, a, mut b) = pair(Policy::default());
    log_all(&mut b, true);
    let mut stream = Stream::new(a);
    for round in 0..40 {
        stream.read(&mut b, Duration::from_millis(5));
        let bases = b.stop().unwrap();
        std::thread::sleep(Duration::from_millis(round % 4));
        b.start(&bases).unwrap();
    }
    stream.read(&mut b, Duration::from_millis(20));
    let sent = stream.end(&mut b);
    assert_eq!((rig.in_packets(2), rig.all_dropped(2)), (u64::from(sent), 0));
    assert!(rig.data.held(PortId(2)).0 == 0 && sent > 1000, "{sent}");
}

#[test]
fn s20_6_no_frame_is_lost_while_memory_is_added() {
    let (rig, a, mut b) = pair(Policy::default());
    let mut stream = Stream::new(a);
    for index in 0..60 {
        b.memory.add(Region::new(0x1_0000_0000 + index * 0x10_0000, 0x10_0000, 0));
        let region = b.memory.with_regions(|list| list.last().unwrap().info());
        b.vhost().add_mem_region(&region).unwrap();
        stream.read(&mut b, Duration::from_millis(2));
    }
    stream.end(&mut b);
    assert_eq!(rig.all_dropped(2), 0);
    assert_eq!(
        rig.notes.count(|event| *event == Event::PortStopped { port: PortId(2) }),
        0,
        "a restart of rings on other memory is no stop"
    );
}

#[test]
fn h27_held_frames_are_bounded_and_every_drop_is_counted() {
    let (rig, mut a, mut b) = pair(Policy::default());
    log_all(&mut b, true);
    let bases = b.stop().unwrap();
    let broadcast = Frame::new([0xff; 6], mac(1)).arp_request().build();
    let flooded = MAX_FRAMES / 4;
    for _ in 0..flooded + 100 {
        a.send(&broadcast);
    }
    flush(&mut a);
    rig.wait_dropped(2, DropReason::ReceiverFull, 100);
    assert_eq!(rig.data.held(PortId(2)).0, flooded, "flooded frames get a quarter of the room");
    send(&mut a, 0..(MAX_FRAMES - flooded + 200) as u32);
    rig.wait_dropped(2, DropReason::ReceiverFull, 300);
    assert_eq!(rig.data.held(PortId(2)).0, MAX_FRAMES);
    rig.data.discard_held(PortId(2));
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, MAX_FRAMES as u64);
    assert_eq!(rig.data.held(PortId(2)), (0, 0));
    // By bytes, too.
    let long = Frame::new(mac(2), mac(1)).ipv4().udp(7, 9).payload(&[1; 1400]).build();
    let fit = MAX_BYTES / long.len();
    for _ in 0..fit + 10 {
        a.send(&long);
    }
    flush(&mut a);
    rig.wait_dropped(2, DropReason::ReceiverFull, 310);
    assert_eq!(rig.data.held(PortId(2)), (fit, fit * long.len()));
    // The guest gets what there is room for, and not one frame more.
    b.start(&bases).unwrap();
    assert_eq!(b.receive_all().len(), fit);
    assert_eq!(rig.in_packets(2), fit as u64);
}

#[test]
fn s20_6_a_front_end_that_goes_takes_its_hold_along_unless_control_asked_for_it() {
    let (rig, mut a, mut b) = pair(Policy::default());
    log_all(&mut b, true);
    b.stop().unwrap();
    send(&mut a, 0..10);
    rig.wait_held(2, 10);
    drop(b);
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, 10);
    assert!(eventually(|| state(&rig, 2) == PortState::Waiting));
    send(&mut a, 0..10);
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, 20);

    let mut b = rig.attach(2, Options::default());
    running(&rig, 2);
    rig.data.hold(PortId(2), true);
    assert_eq!(state(&rig, 2), PortState::Running, "until the rings stop");
    b.stop().unwrap();
    assert_eq!(state(&rig, 2), PortState::Frozen);
    send(&mut a, 0..10);
    rig.wait_held(2, 10);
    drop(b);
    send(&mut a, 10..20);
    rig.wait_held(2, 20);
    // The guest comes back to where it was.
    let mut b = rig.attach(2, Options::default());
    assert_eq!(received(&mut b), (0..20).collect::<Vec<_>>());
    // That was the end of it.
    b.stop().unwrap();
    send(&mut a, 20..30);
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, 30);
    assert_ne!(state(&rig, 2), PortState::Frozen);
}

#[test]
fn s20_6_taking_back_the_hold_gives_up_what_is_held() {
    let rig = Rig::new(&[(1, Policy::default()), (2, Policy::default())]);
    let mut a = rig.attach(1, Options::default());
    rig.data.expect(PortId(2), true);
    send(&mut a, 0..5);
    rig.wait_held(2, 5);
    rig.data.hold(PortId(2), false);
    assert_eq!(rig.data.held(PortId(2)).0, 5, "who did not ask takes nothing back");
    rig.data.expect(PortId(2), false);
    rig.wait_dropped(2, DropReason::ReceiverNotRunning, 5);
    assert_eq!((rig.data.held(PortId(2)), state(&rig, 2)), ((0, 0), PortState::Waiting));
}

/// No frame passes before the state is there: the front end is ready long before.
#[test]
fn s20_6_rings_of_a_gated_port_start_when_the_gate_opens_and_get_what_waited() {
    let rig = Rig::new(&[(1, Policy::default()), (2, Policy::default())]);
    let mut a = rig.attach(1, Options::default());
    rig.data.expect(PortId(2), true);
    rig.data.gate(PortId(2), true);
    let mut b = rig.attach(2, Options::default());
    send(&mut a, 0..20);
    rig.wait_held(2, 20);
    assert_eq!(state(&rig, 2), PortState::Incoming);
    b.expect_silence();
    // What the guest sends waits in its ring.
    assert!(b.enqueue(0, NetHdr::default(), &Frame::new(mac(1), mac(2)).payload(&[1; 46]).build()));
    b.tx[0].notify();
    a.expect_silence();
    rig.data.gate(PortId(2), false);
    assert_eq!(received(&mut b), (0..20).collect::<Vec<_>>());
    assert!(a.receive(Duration::from_secs(5)).is_some());
    assert_eq!(state(&rig, 2), PortState::Running);
    assert_eq!(rig.notes.count(|e| *e == Event::PortRunning { port: PortId(2) }), 1);
}

#[test]
fn s20_6_a_guest_that_posts_no_buffers_is_waited_for_asleep() {
    let rig = Rig::new(&[(1, Policy::default()), (2, Policy::default())]);
    let mut a = rig.attach(1, Options::default());
    rig.data.expect(PortId(2), true);
    send(&mut a, 0..30);
    let mut b = rig.attach(2, Options::default().post_by_hand(10));
    rig.wait_held(2, 20);
    let frames = |rig: &Rig| rig.data.workers().iter().map(|w| w.idle_cycles + w.busy_cycles).sum::<u64>();
    std::thread::sleep(Duration::from_millis(100));
    let (before, begun) = (frames(&rig), Instant::now());
    std::thread::sleep(Duration::from_millis(500));
    // Cycles are counted while a worker looks, not while it sleeps: of a core at 1 GHz or more this is at most a tenth.
    let cycles = frames(&rig) - before;
    assert!(u128::from(cycles) < begun.elapsed().as_nanos() / 10, "{cycles} cycles of waiting");
    // New frames queue behind the held ones.
    send(&mut a, 30..40);
    rig.wait_held(2, 30);
    for _ in 0..4 {
        b.post(10);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(received(&mut b), (0..40).collect::<Vec<_>>());
    rig.wait_held(2, 0);
    assert_eq!((rig.in_packets(2), rig.all_dropped(2)), (40, 0));
}

fn metered(action: Action) -> Policy {
    let remote = |action, tally| Entry {
        direction: Direction::In,
        applies: Applies::Remote,
        address: Address::Any,
        action,
        tally: Tally(tally),
    };
    let acl = Arc::new(Table::new(&[remote(action, 1)]));
    Policy { acl, ..Policy::default() }
}

#[test]
fn s9_meters_count_a_held_frame_once_and_when_the_guest_has_it() {
    let mut rig = Rig::new(&[(1, Policy::default()), (2, Policy::default())]);
    rig.data.tallies().ensure(Tally(1)).unwrap();
    rig.change(2, |port| port.policy = metered(Action::Meter));
    let (mut a, mut b) = (rig.attach(1, Options::default()), rig.attach(2, Options::default()));
    running(&rig, 2);
    log_all(&mut b, true);
    send(&mut a, 0..100);
    assert_eq!(received(&mut b).len(), 100);
    let bases = b.stop().unwrap();
    send(&mut a, 100..400);
    rig.wait_held(2, 300);
    let bytes = numbered(0).len() as u64;
    assert_eq!(rig.data.tallies().read(Tally(1)), (100, 100 * bytes));
    b.start(&bases).unwrap();
    assert_eq!(received(&mut b).len(), 300);
    assert_eq!(rig.data.tallies().read(Tally(1)), (400, 400 * bytes));
    assert_eq!((rig.in_packets(2), rig.data.counters(PortId(2)).in_bytes), (400, 400 * bytes));
}

/// Policy may change while the guest is on its way: what it gets is judged by the policy it gets it under.
#[test]
fn s20_2_held_frames_obey_the_policy_that_is_in_force_when_they_are_delivered() {
    let (mut rig, mut a, mut b) = pair(Policy::default());
    rig.data.tallies().ensure(Tally(1)).unwrap();
    log_all(&mut b, true);
    let bases = b.stop().unwrap();
    send(&mut a, 0..10);
    rig.wait_held(2, 10);
    rig.change(2, |port| port.policy = metered(Action::Deny));
    b.start(&bases).unwrap();
    assert!(received(&mut b).is_empty());
    rig.wait_dropped(2, DropReason::AclDenied, 10);
    assert_eq!(rig.data.tallies().read(Tally(1)).0, 10, "a deny entry counts attempts");
    // Another network: not even that.
    let bases = b.stop().unwrap();
    rig.change(2, |port| port.policy = Policy::default());
    send(&mut a, 10..20);
    rig.wait_held(2, 10);
    rig.change(2, |port| port.policy.vlan = Vlan::Access(7));
    b.start(&bases).unwrap();
    assert!(received(&mut b).is_empty());
    rig.wait_dropped(2, DropReason::VlanFiltered, 10);
}

/// Large frames and open checksums are held as they came, and completed for the receiver that gets them.
#[test]
fn s20_6_offloads_survive_the_wait() {
    let rig = Rig::new(&[(1, Policy::default()), (2, Policy::default())]);
    let mut a = rig.attach(1, Options::default());
    rig.data.expect(PortId(2), true);
    let base = Frame::new(mac(2), mac(1)).ipv4().tcp(7, 9).payload(&[3; 8000]);
    let (header, large) = base.build_large(1400);
    a.send_with(header, &large);
    let (partial, open) = Frame::new(mac(2), mac(1)).ipv4().udp(7, 9).payload(&[4; 600]).build_partial();
    a.send_with(partial, &open);
    flush(&mut a);
    rig.wait_held(2, 2);
    // One that can take neither.
    let mut b = rig.attach(2, Options::plain());
    let frames: Vec<_> = b.receive_all().into_iter().map(|r| r.frame).collect();
    assert_eq!(frames.len(), 7, "six segments and a datagram");
    for frame in &frames {
        turnpike_tests::Packet::of(frame).verify().unwrap();
    }
    assert_eq!(rig.in_packets(2), 7);
}
