//! The flow cache never changes a verdict, reports events at a bounded rate, and keeps learned addresses alive.

use vswitch::event::Event;
use vswitch::fdb::IDLE;
use vswitch::flow::{FlowCache, Forwarder, Key, Plan};
use vswitch::frame::ethernet;
use vswitch::pipeline::{self, Verdict};
use vswitch::port::{Port, PortKind};
use vswitch::snapshot::{Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId};

use crate::support::{Random, SECOND, Switch, bridging, dropped, frame, guest, mac_of, port, stranger, to};

fn judge(forwarder: &mut Forwarder, switch: &Switch, from: u16, dst: Mac, src: Mac) -> Verdict {
    let frame = frame(dst, src, None);
    let (snap, state, now) = (&switch.snap, &switch.state, switch.now);
    forwarder.begin(snap, state, now, PortId(from));
    forwarder.judge(snap, state, now, PortId(from), &frame, frame.len() as u32, &mut Plan::default())
}

fn switch() -> Switch {
    let ports = vec![guest(1), guest(2), bridging(5), bridging(6), port(9, PortKind::Uplink)];
    Switch::new(SwitchKind::External, ports)
}

#[test]
fn a_verdict_is_half_a_word() {
    assert_eq!(size_of::<Verdict>(), 4);
}

#[test]
fn the_second_frame_of_a_flow_is_a_hit() {
    let (mut forwarder, switch) = (Forwarder::new(1, 1024), switch());
    for _ in 0..10 {
        assert_eq!(judge(&mut forwarder, &switch, 1, mac_of(2), mac_of(1)), to(2));
    }
    let counters = forwarder.counters();
    assert_eq!((counters.hits, counters.misses), (9, 1));
}

#[test]
fn a_new_policy_voids_what_was_remembered() {
    let (mut forwarder, mut switch) = (Forwarder::new(1, 1024), switch());
    assert_eq!(judge(&mut forwarder, &switch, 1, mac_of(2), mac_of(1)), to(2));
    switch.snap = Snapshot::new(2, switch.snap.config().clone(), vec![guest(1)]);
    let unknown = dropped(DropReason::UnknownUnicast);
    assert_eq!(judge(&mut forwarder, &switch, 1, mac_of(2), mac_of(1)), unknown);
    assert_eq!(forwarder.counters().hits, 0);
}

#[test]
fn what_was_learned_within_a_burst_counts_in_that_burst() {
    let (mut forwarder, switch) = (Forwarder::new(1, 1024), switch());
    let (snap, state, now) = (&switch.snap, &switch.state, switch.now);
    let there = frame(stranger(1), mac_of(1), None);
    let back = frame(mac_of(1), stranger(1), None);
    forwarder.begin(snap, state, now, PortId(1));
    let mut judge =
        |from, f: &[u8]| forwarder.judge(snap, state, now, PortId(from), f, 64, &mut Plan::default());
    assert_eq!(judge(1, &there), to(9));
    assert_eq!(judge(5, &back), to(1));
    assert_eq!(judge(1, &there), to(5));
}

#[test]
fn what_another_worker_learned_counts_from_the_next_burst() {
    let (mut one, mut other, switch) = (Forwarder::new(1, 1024), Forwarder::new(2, 1024), switch());
    assert_eq!(judge(&mut one, &switch, 1, stranger(1), mac_of(1)), to(9));
    judge(&mut other, &switch, 5, mac_of(1), stranger(1));
    assert_eq!(judge(&mut one, &switch, 1, stranger(1), mac_of(1)), to(5));
}

#[test]
fn s3_4_a_flow_that_hits_the_cache_keeps_its_learned_source_alive() {
    let (mut forwarder, mut switch) = (Forwarder::new(1, 1024), switch());
    let frames = 4000;
    for _ in 0..frames {
        judge(&mut forwarder, &switch, 5, mac_of(1), stranger(1));
        assert_eq!(switch.state.fdb.age(switch.now), 0);
        switch.now += IDLE / 1000;
    }
    // 1200 seconds: looked at about once in each of them, and a hit in between.
    let misses = forwarder.counters().misses;
    assert!((1000..1210).contains(&misses), "{misses}");
}

#[test]
fn one_kind_of_event_is_reported_once_a_second_per_port() {
    let (mut forwarder, mut switch) = (Forwarder::new(1, 1024), switch());
    let mut spoofed = Vec::new();
    for i in 0..10_000_u64 {
        // One flow and many flows; a neighbour that does the same is heard too.
        judge(&mut forwarder, &switch, 1, mac_of(2), stranger(if i % 2 == 0 { 0 } else { i as u16 }));
        judge(&mut forwarder, &switch, 2, mac_of(1), stranger(1));
        spoofed.extend(forwarder.take_events().map(|e| match e {
            Event::MacSpoofed { port, .. } => port.0,
            other => panic!("{other:?}"),
        }));
        switch.now += SECOND / 1000;
    }
    let of = |n| spoofed.iter().filter(|&&port| port == n).count();
    assert_eq!(of(1), 10);
    assert!((8..=10).contains(&of(2)), "a flow is looked at again every 2^30 ns: {}", of(2));
    assert!(forwarder.counters().suppressed_events > 4000);
}

#[test]
fn events_that_nobody_takes_are_bounded() {
    let ports = (1..=200).map(guest).collect();
    let (mut forwarder, switch) = (Forwarder::new(1, 1024), Switch::new(SwitchKind::Private, ports));
    assert!(!forwarder.has_events());
    for from in 1..=200 {
        judge(&mut forwarder, &switch, from, mac_of(1), stranger(1));
    }
    assert!(forwarder.has_events());
    assert_eq!(forwarder.take_events().count(), 64);
    assert_eq!(forwarder.take_events().count(), 0);
    assert_eq!(forwarder.counters().suppressed_events, 136);
}

#[test]
fn h29_random_flows_do_not_grow_the_cache_and_do_not_starve_a_neighbour() {
    let (mut forwarder, switch) = (Forwarder::new(1, 4096), switch());
    assert_eq!(FlowCache::new(1, 4096).capacity(), 4096);
    let mut random = Random(9);
    let mut neighbour_hits = 0;
    for _ in 0..100_000 {
        judge(&mut forwarder, &switch, 1, stranger(random.next() as u16), mac_of(1));
        let before = forwarder.counters().hits;
        judge(&mut forwarder, &switch, 2, mac_of(1), mac_of(2));
        neighbour_hits += forwarder.counters().hits - before;
    }
    assert!(neighbour_hits > 99_000, "{neighbour_hits}");
}

#[test]
fn capacities_are_rounded_up_and_bounded() {
    for (asked, got) in [(0, 4), (4, 4), (5, 8), (1000, 1024), (4096, 4096)] {
        assert_eq!(FlowCache::new(1, asked).capacity(), got);
    }
}

#[test]
fn the_key_holds_everything_that_the_pipeline_looks_at() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let mut head = random.bytes(20);
        if random.once_in(2) {
            head[12..14].copy_from_slice(if random.once_in(2) { &[0x81, 0x00] } else { &[0x88, 0xa8] });
        }
        if random.once_in(3) {
            head[16..18].copy_from_slice(&[0x81, 0x00]);
        }
        head.truncate(12 + random.below(9));
        let (from, len) = (PortId(random.next() as u16), 65_500 + random.below(100) as u32);
        let (key, outer) = (Key::new(from, &head, len), ethernet::check(&head, len));
        assert_eq!(key.is_some(), outer.is_ok());
        if outer.is_err() {
            continue;
        }
        let seen = |head: &[u8]| (ethernet::check(head, len), ethernet::has_inner_tag(head));
        // Any bit that the pipeline sees changes the key, any other does not.
        for bit in 0..head.len() * 8 {
            let mut other = head.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            let same = seen(&other) == seen(&head);
            assert_eq!(Key::new(from, &other, len) == key, same, "bit {bit} of {head:02x?}");
        }
        assert_ne!(Key::new(PortId(from.0 ^ 1), &head, len), key);
    }
}

fn random_ports(random: &mut Random, crowded: bool) -> Vec<Port> {
    let mut ports = Vec::new();
    for n in 1..=6 {
        if random.once_in(6) {
            continue;
        }
        let kind = match n {
            5 => PortKind::Host,
            6 => PortKind::Uplink,
            _ => PortKind::Guest,
        };
        let mut port = port(n, kind);
        port.policy.mac_spoofing = if crowded { n == 1 } else { random.once_in(2) };
        port.policy.link_up = !random.once_in(6);
        if random.once_in(8) {
            port.mac = stranger(random.below(4) as u16); // pins what may have been learned
        }
        ports.push(port);
    }
    ports
}

fn random_mac(random: &mut Random) -> Mac {
    match random.below(12) {
        0 => Mac::BROADCAST,
        1 => Mac([0; 6]),
        2 => Mac([0x01, 0x80, 0xc2, 0, 0, random.below(32) as u8]),
        3..8 => mac_of(1 + random.below(6) as u16),
        _ => stranger(random.below(6) as u16),
    }
}

fn random_frame(random: &mut Random) -> (PortId, Vec<u8>, u32) {
    let vlan = random.once_in(4).then(|| random.below(3) as u16);
    let (dst, mut src) = (random_mac(random), random_mac(random));
    let from = 1 + random.below(7) as u16;
    if random.once_in(2) {
        src = mac_of(from);
    }
    let mut frame = frame(dst, src, vlan);
    let mut len = frame.len() as u32;
    match random.below(50) {
        0 => {
            frame.truncate(random.below(20));
            len = frame.len() as u32;
        }
        1 => len = 65_540 + random.below(30) as u32,
        _ => {}
    }
    (PortId(from), frame, len)
}

/// The same frames and changes through a cached and an uncached switch, each with a forwarding database of its own.
///
/// Time either hardly passes or passes by more than the age limit, because the cache may date a sighting up to one look
/// (about a second) back.
#[test]
fn a_cached_verdict_is_the_pipelines_verdict() {
    let mut random = Random(11);
    let mut cases = 0;
    let mut hits = 0;
    for round in 0..100 {
        // In every fourth round a single port learns and soon has its share. Otherwise nobody gets that far: whose entry
        // goes when the table is full depends on when each was last seen, which the cache knows less well.
        let crowded = round % 4 == 0;
        let limit = if crowded { 5 } else { 64 };
        let (cached_state, plain_state) = (State::new(limit, round), State::new(limit, round + 1000));
        let mut forwarder = Forwarder::new(round, 16); // small, so that flows displace one another
        let mut flows: Vec<_> = (0..20).map(|_| random_frame(&mut random)).collect();
        let mut epoch = 1;
        let mut now = round * SECOND;
        let mut snap = Snapshot::new(epoch, SwitchConfig::default(), random_ports(&mut random, crowded));
        for _ in 0..2500 {
            if random.once_in(60) {
                epoch += 1;
                let kind = match random.below(3) {
                    0 => SwitchKind::External,
                    1 => SwitchKind::Internal,
                    _ => SwitchKind::Private,
                };
                let config = SwitchConfig { kind, ..SwitchConfig::default() };
                snap = Snapshot::new(epoch, config, random_ports(&mut random, crowded));
                if random.once_in(2) {
                    assert_eq!(cached_state.fdb.reconcile(&snap), plain_state.fdb.reconcile(&snap));
                }
            }
            if random.once_in(100) {
                now += IDLE * 2;
                assert_eq!(cached_state.fdb.age(now), plain_state.fdb.age(now));
            }
            if random.once_in(200) {
                let gone = PortId(1 + random.below(6) as u16);
                assert_eq!(cached_state.fdb.remove_port(gone), plain_state.fdb.remove_port(gone));
            }
            now += random.next() % 1000;
            for _ in 0..=random.below(3) {
                if random.once_in(20) {
                    let place = random.below(flows.len());
                    flows[place] = random_frame(&mut random);
                }
                let (from, head, len) = flows[random.below(flows.len())].clone();
                forwarder.begin(&snap, &cached_state, now, from);
                let mut plan = Plan::default();
                let cached = forwarder.judge(&snap, &cached_state, now, from, &head, len, &mut plan);
                let plain = pipeline::run(&snap, &plain_state, now, from, &head, len);
                assert_eq!(cached, plain, "port {from}, {head:02x?}, {len} bytes, {snap:?}");
                cases += 1;
            }
        }
        hits += forwarder.counters().hits;
    }
    assert!(cases > 400_000, "{cases}");
    assert!(hits > cases / 5, "the cache took part: {hits} of {cases}");
}
