//! What a burst costs: two guests in this process's memory, driven by hand, and one worker's delivery between them.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};
use vswitch::event::Event;
use vswitch::pipeline::Verdict;
use vswitch::port::acl::{self, Address, Applies, Entry};
use vswitch::port::rule::{self, Rule};
use vswitch::port::{Policy, Port as SwitchPort, PortKind};
use vswitch::snapshot::{Snapshot, SwitchConfig};
use vswitch::trace::filter::Filter;
use vswitch::{Direction, Mac, PortId, Tally};

use super::deliver::{Blocked, Delivery, Patience};
use super::{Counters, FLOWS, Port, Shared};
use crate::guest::burst::{BURST, Burst};
use crate::guest::memory::{GuestRam, Memory};
use crate::guest::ring::{RingPlace, RingShape};
use crate::guest::{GuestPort, Owner, features, tsc};
use crate::spec::{EventSink, GuestSpec, PollMode, StateKeeper};
use crate::tally::Tallies;
use crate::watch::{Fate, Record, Records, Spec, Watcher, What};

const RING: u16 = 256;
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x8000;
const USED: u64 = 0x9000;
const BUFFERS: u64 = 0x1_0000;
const BUFFER: u64 = 2048;

struct Silent;

impl EventSink for Silent {
    fn emit(&self, _: Event) {}
}

impl StateKeeper for Silent {
    fn save(&self, _: PortId) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }

    fn load(&self, _: PortId, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

struct Nobody;

impl Owner for Nobody {
    fn id(&self) -> usize {
        0
    }
    fn rescan(&self) {}
    fn inject(&self, _: PortId, _: Vec<u8>) {}
}

/// A guest whose one driver-side ring is written by the test.
struct Guest {
    port: Arc<GuestPort>,
    ram: Arc<GuestRam>,
    avail: u16,
}

const fn mac(id: u16) -> Mac {
    Mac([2, 0, 0, 0, 0, id as u8])
}

impl Guest {
    /// `queue` 0: the guest receives into its ring; 1: it sends from it.
    fn new(id: u16, queue: usize, frame: usize, flows: u64) -> Self {
        let spec = GuestSpec {
            id: PortId(id),
            name: format!("g{id}"),
            socket: "/nowhere".into(),
            client: false,
            mac: mac(id),
            queue_pairs: 1,
            mtu: 1500,
            features: features::DEFAULT,
        };
        let port = Arc::new(GuestPort::new(spec, vec![Arc::new(Nobody)], Arc::new(Silent), Arc::new(Silent)));
        let ram = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap());
        for index in 0..u64::from(RING) {
            let at = BUFFERS + index * BUFFER;
            let (len, flags) = if queue == 0 { (BUFFER as u32, 2u16) } else { (12 + frame as u32, 0) };
            ram.write_obj(at, GuestAddress(DESC + 16 * index)).unwrap();
            ram.write_obj(len, GuestAddress(DESC + 16 * index + 8)).unwrap();
            ram.write_obj(flags, GuestAddress(DESC + 16 * index + 12)).unwrap();
            ram.write_obj(index as u16, GuestAddress(AVAIL + 4 + 2 * index)).unwrap();
            let mut bytes = vec![0u8; 12 + frame];
            bytes[12..18].copy_from_slice(&mac(2).0);
            bytes[18..24].copy_from_slice(&mac(1).0);
            // An IPv4 UDP datagram from 10.0.0.1 to 10.0.0.2, one of so many flows.
            bytes[24] = 8;
            bytes[26] = 0x45;
            bytes[35] = 17;
            bytes[38..46].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            bytes[46..48].copy_from_slice(&(1000 + (index % flows) as u16).to_be_bytes());
            bytes[48..50].copy_from_slice(&9u16.to_be_bytes());
            ram.write_slice(&bytes, GuestAddress(at)).unwrap();
        }
        // No interrupts: the test looks for itself.
        ram.write_obj(1u16, GuestAddress(AVAIL)).unwrap();
        let memory = Arc::new(Memory::new(Arc::clone(&ram), None).unwrap());
        let place = RingPlace { size: RING, desc: DESC, avail: AVAIL, used: USED };
        let shape = RingShape { header_len: 12, mergeable: true, ..RingShape::default() };
        port.queues[queue].lock().start(memory, place, shape).unwrap();
        port.queues[queue].set_live(true);
        port.queue_changed(queue);
        Self { port, ram, avail: 0 }
    }

    /// Hands the device `count` more buffers.
    fn post(&mut self, count: u16) {
        self.avail = self.avail.wrapping_add(count);
        self.ram.write_obj(self.avail, GuestAddress(AVAIL + 2)).unwrap();
    }

    fn used(&self) -> u16 {
        self.ram.read_obj(GuestAddress(USED + 2)).unwrap()
    }
}

struct Bench {
    sender: Guest,
    receiver: Guest,
    shared: Shared,
    tallies: Tallies,
    counters: Counters,
    delivery: Delivery,
    burst: Burst,
}

impl Bench {
    fn new(frame: usize) -> Self {
        Self::with(frame, 1, Policy::default)
    }

    fn with(frame: usize, flows: u64, policy: impl Fn() -> Policy) -> Self {
        let (sender, receiver) = (Guest::new(1, 1, frame, flows), Guest::new(2, 0, frame, flows));
        let port =
            |id| SwitchPort { policy: policy(), ..SwitchPort::new(PortId(id), PortKind::Guest, mac(id)) };
        let snapshot = Snapshot::new(1, SwitchConfig::default(), vec![port(1), port(2)]);
        let shared = Shared::new(snapshot, PollMode::Busy, 1, Arc::new(Silent));
        let ports = [&sender, &receiver].map(|g| Some(Port::Guest(Arc::clone(&g.port))));
        shared.publish(None, |table| *table = [None].into_iter().chain(ports).collect());
        let delivery = Delivery::new(1, FLOWS);
        let tallies = Tallies::open(None, 1).unwrap();
        let counters = Counters::new(tallies.worker(0).unwrap());
        Self { sender, receiver, shared, tallies, counters, delivery, burst: Burst::default() }
    }

    /// Sends and receives one burst; returns the frames that were finished.
    fn turn(&mut self, count: u16) -> u32 {
        self.sender.post(count);
        self.receiver.post(count);
        let view = self.shared.view();
        let mut ring = self.sender.port.queues[1].lock();
        self.burst.clear();
        ring.take(&mut self.burst).unwrap();
        let finished = self.delivery.forward(
            &view,
            &self.shared,
            &self.counters,
            0,
            PortId(1),
            &mut self.burst,
            Patience::Wait,
            &mut Blocked::default(),
        );
        ring.complete(&self.burst, finished);
        ring.publish();
        self.delivery.watch.flush();
        finished.count_ones()
    }

    /// Somebody watches.
    fn watch(&mut self, what: What, sample: u32) -> Records {
        let spec = Spec { port: None, drops: false, filter: Filter::default(), sample, what };
        let (watcher, records) = Watcher::new(spec);
        self.shared.watch(&watcher).expect("there is room");
        self.delivery.watch.follow(&self.shared.view().watchers);
        records
    }
}

/// What there is by now.
fn shown(watched: &mut Records) -> Vec<Record> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut all = Vec::new();
    let soon = std::time::Duration::from_millis(10);
    while let Ok(Some((records, 0))) =
        runtime.block_on(async { tokio::time::timeout(soon, watched.next()).await })
    {
        all.extend(records);
    }
    all
}

#[test]
fn s19_1_a_frame_that_waits_for_its_receiver_is_shown_once_when_it_is_gone() {
    let mut bench = Bench::new(300);
    let mut trace = bench.watch(What::Steps, 1);
    let mut capture = bench.watch(What::Bytes { out: true, inward: true, snaplen: 65_535 }, 1);
    bench.sender.post(8);
    assert_eq!(bench.turn(4), 4, "12 are there, and room for 4");
    assert_eq!((shown(&mut trace).len(), shown(&mut capture).len()), (4, 8));
    assert_eq!(bench.turn(0), 0);
    assert_eq!((shown(&mut trace).len(), shown(&mut capture).len()), (0, 0), "nothing is gone");
    bench.receiver.post(8);
    assert_eq!(bench.turn(0), 8);
    let ways = shown(&mut trace);
    assert!(ways.iter().all(|way| matches!(
        way,
        Record::Way(way) if way.verdict == Verdict::Unicast(PortId(2)) && way.arrivals[0].fate == Fate::Delivered
    )));
    let directions: Vec<_> = shown(&mut capture)
        .into_iter()
        .map(|record| match record {
            Record::Sighting(frame) if frame.bytes.len() == 300 => frame.direction,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((ways.len(), directions), (8, [[Direction::Out; 8], [Direction::In; 8]].concat()));
}

#[test]
fn s19_1_a_burst_of_which_nothing_is_looked_at_allocates_nothing() {
    let mut bench = Bench::new(60);
    assert_eq!(bench.turn(BURST as u16), BURST as u32, "warm-up delivers");
    let mut trace = bench.watch(What::Steps, 1_000_000_000);
    let info = allocation_counter::measure(|| {
        for _ in 0..100 {
            assert_eq!(bench.turn(BURST as u16), BURST as u32);
        }
    });
    assert_eq!((info.count_total, shown(&mut trace).len()), (0, 0));
}

#[test]
fn a_burst_allocates_nothing() {
    for frame in [60, 1514] {
        let mut bench = Bench::new(frame);
        assert_eq!(bench.turn(BURST as u16), BURST as u32, "warm-up delivers");
        let info = allocation_counter::measure(|| {
            for _ in 0..100 {
                assert_eq!(bench.turn(BURST as u16), BURST as u32);
            }
        });
        assert_eq!(info.count_total, 0, "allocations in 6400 frames of {frame} bytes");
        assert_eq!((bench.sender.used(), bench.receiver.used()), (101 * 64, 101 * 64));
    }
}

#[test]
fn one_used_index_store_makes_a_whole_burst_visible_and_nothing_before() {
    let mut bench = Bench::new(60);
    bench.sender.post(3);
    bench.receiver.post(3);
    let view = bench.shared.view();
    let mut ring = bench.sender.port.queues[1].lock();
    ring.take(&mut bench.burst).unwrap();
    assert_eq!((bench.sender.used(), bench.receiver.used()), (0, 0));
    let finished = bench.delivery.forward(
        &view,
        &bench.shared,
        &bench.counters,
        0,
        PortId(1),
        &mut bench.burst,
        Patience::Wait,
        &mut Blocked::default(),
    );
    assert_eq!((bench.sender.used(), bench.receiver.used()), (0, 3), "delivered, not yet given back");
    ring.complete(&bench.burst, finished);
    ring.publish();
    assert_eq!(bench.sender.used(), 3);
}

/// Guards, owned addresses, 100 ACL entries with meters, 20 rules of which 10 are stateful; the frames pass by a stateful one.
fn full() -> Policy {
    let net = |text: String| text.parse().expect("a prefix");
    let mut entries = Vec::new();
    for n in 0..100 {
        let direction = if n % 2 == 0 { Direction::Out } else { Direction::In };
        let (address, action) = match n {
            0 | 1 => (Address::Any, acl::Action::Meter),
            n if n % 3 == 0 => (Address::Ip(net(format!("10.{n}.0.0/16"))), acl::Action::Deny),
            n if n % 3 == 1 => (Address::Ip(net(format!("10.0.{n}.0/24"))), acl::Action::Meter),
            n => (Address::Ip(net(format!("10.0.0.{n}/32"))), acl::Action::Allow),
        };
        entries.push(Entry { direction, applies: Applies::Remote, address, action, tally: Tally(n + 1) });
    }
    let rule = |n: u32| Rule {
        direction: if n % 4 < 2 { Direction::Out } else { Direction::In },
        weight: n + 1,
        action: if n.is_multiple_of(2) { rule::Action::Allow } else { rule::Action::Deny },
        local: None,
        remote: Some(net(if n < 4 { "10.0.0.0/24".into() } else { format!("10.{n}.0.0/16") })),
        local_ports: None,
        remote_ports: (n % 2 == 1).then_some(20..=22),
        protocol: Some(17),
        stateful: n.is_multiple_of(2).then_some(30_000_000_000),
        isolation: None,
        tally: Tally(200 + n),
    };
    Policy {
        dhcp_guard: true,
        router_guard: true,
        addresses: Some([net("10.0.0.1/32".into()), net("10.0.0.2/32".into())].into()),
        acl: Arc::new(acl::Table::new(&entries)),
        rules: Arc::new(rule::Table::new(&(0..20).map(rule).collect::<Vec<_>>())),
        ..Policy::default()
    }
}

#[test]
fn a_burst_under_full_policy_allocates_nothing_and_every_frame_is_counted() {
    let mut bench = Bench::with(60, 4, full);
    assert_eq!(bench.turn(BURST as u16), BURST as u32, "warm-up opens the sessions");
    let info = allocation_counter::measure(|| {
        for _ in 0..100 {
            assert_eq!(bench.turn(BURST as u16), BURST as u32);
        }
    });
    assert_eq!(info.count_total, 0, "allocations in 6400 frames");
    assert_eq!(bench.receiver.used(), 101 * 64);
    let count = |tally| bench.tallies.read(Tally(tally));
    let all = (101 * 64, 101 * 64 * 60);
    assert_eq!([count(1), count(2), count(200), count(202)], [all; 4], "meters and rules of both ports");
    assert_eq!(bench.shared.state.sessions.len(), 2 * 4);
}

/// Prints TSC cycles a frame; a figure for people (`cargo test --release -- --nocapture cycles`), never a verdict.
#[test]
fn cycles_a_frame() {
    type Case = (&'static str, u64, fn() -> Policy, u32);
    let policies: [Case; 7] = [
        ("no policy", 1, Policy::default, 0),
        ("no policy, one in 1000 traced", 1, Policy::default, 1000),
        ("full policy", 1, full, 0),
        ("full policy, one in 1000 traced", 1, full, 1000),
        ("full policy, every one traced", 1, full, 1),
        ("no policy, 64 flows", 64, Policy::default, 0),
        ("full policy, 64 flows", 64, full, 0),
    ];
    for (frame, (name, flows, policy, sample)) in
        [60, 1514].into_iter().flat_map(|f| policies.map(|p| (f, p)))
    {
        let mut bench = Bench::with(frame, flows, policy);
        let _records = (sample > 0).then(|| bench.watch(What::Steps, sample));
        let (mut best, mut sum) = (u64::MAX, 0);
        for _ in 0..20 {
            let start = tsc::cycles();
            for _ in 0..100 {
                assert_eq!(bench.turn(BURST as u16), BURST as u32);
            }
            let cycles = (tsc::cycles() - start) / (100 * BURST as u64);
            (best, sum) = (best.min(cycles), sum + cycles);
        }
        println!("{frame} bytes, {name}: {best} cycles a frame at best, {} on average", sum / 20);
    }
}
