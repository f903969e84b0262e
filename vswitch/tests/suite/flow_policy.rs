//! The flow cache changes nothing but speed: random policies, random frames and random changes of policy, each frame judged
//! with the cache and by the pipeline alone, each with a state of its own.

use std::net::IpAddr;
use std::sync::Arc;

use vswitch::flow::{Forwarder, Plan};
use vswitch::nv::model::{Encap, Kind, Network, Provider, Rdid, Record, Subnet};
use vswitch::nv::overlay::Ingress;
use vswitch::nv::policy::Policy;
use vswitch::nv::records;
use vswitch::pipeline::{self, Actions, Verdict};
use vswitch::port::acl::{self, Address, Applies, Entry};
use vswitch::port::rule::{self, Rule};
use vswitch::port::{Mirror, Port, PortKind};
use vswitch::session::Handle;
use vswitch::snapshot::{Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::{Direction, Mac, PortId, Segment, Tally};

use crate::support::{Random, SECOND, mac_of, port, stranger};

/// Handles differ between two states; whether there is one, and whether it names a session or the absence of one, must not.
fn comparable(mut actions: Actions) -> (Actions, [(bool, bool); 2]) {
    let kind = |handle: &mut Handle| {
        let handle = std::mem::take(handle);
        (handle != Handle::NONE, handle.is_session())
    };
    let kinds = [kind(&mut actions.out.session), kind(&mut actions.inward.session)];
    (actions, kinds)
}

fn pick<T: Clone>(random: &mut Random, of: &[T]) -> T {
    of[random.below(of.len())].clone()
}

fn vlan(random: &mut Random) -> &'static str {
    const MODES: [&str; 15] = [
        "none",
        "none",
        "none",
        "none",
        "none",
        "none",
        "access:2",
        "access:4",
        "trunk:2-5",
        "trunk:2,4/5",
        "isolated:2/4",
        "isolated:2/5",
        "community:2/5",
        "promiscuous:2/4-5",
        "promiscuous:2/5",
    ];
    pick(random, &MODES)
}

fn address(random: &mut Random) -> &'static str {
    const ADDRESSES: [&str; 8] =
        ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1", "2001:db8::1", "2001:db8::2", "fe80::1", "0.0.0.0"];
    pick(random, &ADDRESSES)
}

fn prefix(random: &mut Random) -> &'static str {
    const PREFIXES: [&str; 8] = [
        "10.0.0.1/32",
        "10.0.0.0/30",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "2001:db8::/64",
        "2001:db8::1/128",
        "::/0",
        "10.0.0.2/31",
    ];
    pick(random, &PREFIXES)
}

fn direction(random: &mut Random) -> Direction {
    if random.once_in(2) { Direction::Out } else { Direction::In }
}

fn random_acl(random: &mut Random, tally: &mut u32) -> acl::Table {
    let count = random.below(8);
    let entry = |random: &mut Random, tally: &mut u32| {
        *tally += 1;
        let address = match random.below(6) {
            0 => Address::Any,
            1 => Address::AnyMac,
            2 => Address::Mac(mac_of(1 + random.below(6) as u16)),
            _ => Address::Ip(prefix(random).parse().expect("a prefix")),
        };
        Entry {
            direction: direction(random),
            applies: if random.once_in(2) { Applies::Local } else { Applies::Remote },
            address,
            action: pick(
                random,
                &[acl::Action::Allow, acl::Action::Deny, acl::Action::Meter, acl::Action::Meter],
            ),
            tally: Tally(*tally),
        }
    };
    acl::Table::new(&(0..count).map(|_| entry(random, tally)).collect::<Vec<_>>())
}

fn random_rules(random: &mut Random, tally: &mut u32) -> rule::Table {
    let count = random.below(8);
    let mut rules = Vec::new();
    for weight in 1..=count as u32 {
        *tally += 1;
        let action = if random.once_in(3) { rule::Action::Deny } else { rule::Action::Allow };
        let some = |random: &mut Random| random.once_in(3);
        let protocol = (!some(random)).then(|| pick(random, &[6, 6, 17, 17, 1, 58]));
        let with_ports = matches!(protocol, Some(6 | 17));
        let ports =
            |random: &mut Random| (with_ports && some(random)).then(|| 1..=2 + random.below(3) as u16);
        rules.push(Rule {
            direction: direction(random),
            weight,
            action,
            local: some(random).then(|| prefix(random).parse().expect("a prefix")),
            remote: some(random).then(|| prefix(random).parse().expect("a prefix")),
            local_ports: ports(random),
            remote_ports: ports(random),
            protocol,
            stateful: (action == rule::Action::Allow && with_ports).then_some(30 * SECOND),
            isolation: random.once_in(12).then_some(Segment(4)),
            tally: Tally(*tally),
        });
    }
    rule::Table::new(&rules)
}

fn random_port(random: &mut Random, n: u16, tally: &mut u32) -> Port {
    let kind = match n {
        5 => PortKind::Host,
        6 => PortKind::Uplink,
        _ => PortKind::Guest,
    };
    let mut port = port(n, kind);
    port.vm = Some(u64::from(n) % 2);
    let rare = |random: &mut Random| random.once_in(5);
    let policy = &mut port.policy;
    policy.mac_spoofing = rare(random);
    policy.link_up = !random.once_in(12);
    policy.teaming = rare(random);
    if kind == PortKind::Uplink {
        return port;
    }
    policy.vlan = vlan(random).parse().expect("a VLAN mode");
    if random.once_in(10) {
        policy.vlan = vswitch::port::vlan::Vlan::None;
        policy.vsid = Some(5000 + random.below(2) as u32);
    }
    policy.dhcp_guard = rare(random);
    policy.router_guard = rare(random);
    if random.once_in(8) {
        policy.addresses =
            Some([prefix(random), prefix(random)].map(|p| p.parse().expect("a prefix")).into());
    }
    if random.once_in(8) {
        policy.address_limit = 1 + random.below(3) as u32;
    }
    if random.once_in(8) {
        policy.storm_limit = 1 + random.below(20) as u32;
    }
    policy.mirror =
        pick(random, &[Mirror::None, Mirror::None, Mirror::None, Mirror::Source, Mirror::Destination]);
    policy.priority_tag = rare(random);
    if random.once_in(2) {
        policy.acl = Arc::new(random_acl(random, tally));
    }
    if random.once_in(2) {
        policy.rules = Arc::new(random_rules(random, tally));
    }
    port
}

fn random_mac(random: &mut Random) -> Mac {
    match random.below(12) {
        0 => Mac::BROADCAST,
        1 => Mac([0x01, 0, 0x5e, 0, 0, 1]),
        2 => stranger(random.below(3) as u16),
        _ => mac_of(1 + random.below(6) as u16),
    }
}

/// A frame that some rule may have something to say about.
fn random_frame(random: &mut Random) -> (PortId, Vec<u8>) {
    let from = 1 + random.below(6) as u16;
    let src = if random.once_in(8) { random_mac(random) } else { mac_of(from) };
    let mut frame = [random_mac(random).0, src.0].concat();
    for _ in 0..pick(random, &[0, 0, 0, 0, 1, 1, 2]) {
        frame.extend([0x81, 0, pick(random, &[0, 0, 0x60]), pick(random, &[0, 2, 4, 5, 9])]);
    }
    let (source, destination) = (address(random), address(random));
    let protocol = pick(random, &[6_u8, 6, 6, 17, 17, 1, 58, 44, 0]);
    let mut upper = Vec::new();
    for port in [(); 2].map(|()| pick(random, &[1_u16, 2, 3, 4, 67, 68, 546, 547])) {
        upper.extend(port.to_be_bytes());
    }
    if matches!(protocol, 1 | 58) {
        upper[0] = pick(random, &[5, 8, 9, 134, 135, 136, 128]);
        upper[1] = 0;
    }
    upper.extend([0; 8]);
    upper.extend([0x50, pick(random, &[0x10, 0x10, 0x10, 0x18, 0x02, 0x12, 0x11, 0x04]), 0, 0, 0, 0, 0, 0]);
    match (source.parse::<std::net::IpAddr>(), destination.parse::<std::net::IpAddr>()) {
        (Ok(std::net::IpAddr::V4(s)), Ok(std::net::IpAddr::V4(d))) => {
            if random.once_in(10) {
                frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, pick(random, &[1, 2])]);
                frame.extend(src.0);
                frame.extend(s.octets());
                frame.extend([0; 6]);
                frame.extend(d.octets());
            } else {
                let fragment: u16 = pick(random, &[0, 0, 0, 0, 0x2000, 0x0001, 0x0040, 0x4000]);
                frame.extend([0x08, 0x00, 0x45, 0, 0, 60, 0, 0]);
                frame.extend(fragment.to_be_bytes());
                frame.extend([64, protocol, 0, 0]);
                frame.extend(s.octets());
                frame.extend(d.octets());
                frame.extend(upper);
            }
        }
        (Ok(std::net::IpAddr::V6(s)), Ok(std::net::IpAddr::V6(d))) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, protocol, 255]);
            frame.extend(s.octets());
            frame.extend(d.octets());
            if matches!(protocol, 44 | 0) {
                frame.extend([pick(random, &[6, 17, 58]), 0, 0, pick(random, &[0, 1, 8]), 0, 0, 0, 0]);
            }
            frame.extend(upper);
        }
        _ => frame.extend([0x88, 0xb5, 1, 2, 3, 4]),
    }
    frame.extend([0; 24]);
    if random.once_in(30) {
        frame.truncate(14 + random.below(60));
    }
    (PortId(from), frame)
}

/// The same frame on its way back, if it is an IPv4 packet without a tag: that of the other end.
fn reply(from: PortId, frame: &[u8]) -> Option<(PortId, Vec<u8>)> {
    let to = (1..=6).find(|&n| frame.get(..6) == Some(&mac_of(n).0))?;
    let mut back = frame.to_vec();
    if frame.get(12..14) != Some(&[8, 0]) || frame.len() < 48 || PortId(to) == from {
        return None;
    }
    back[..6].copy_from_slice(&frame[6..12]);
    back[6..12].copy_from_slice(&frame[..6]);
    back[26..30].copy_from_slice(&frame[30..34]);
    back[30..34].copy_from_slice(&frame[26..30]);
    back[34..36].copy_from_slice(&frame[36..38]);
    back[36..38].copy_from_slice(&frame[34..36]);
    if frame[23] == 6 && frame[47] == 0x02 {
        back[47] = 0x12;
    }
    Some((PortId(to), back))
}

/// Network virtualization of two virtual subnets of one tenant and one of another, whose guests are these ports or at two other hosts.
fn virtualized(snap: Snapshot) -> Snapshot {
    let network = |name: &str, rdid| Network { name: name.into(), rdid: Rdid(rdid) };
    let subnet = |network: &str, vsid, prefixes: &[&str]| {
        let prefixes = prefixes.iter().map(|p| p.parse().expect("a prefix")).collect();
        Subnet { network: network.into(), vsid, prefixes, gateways: Vec::new() }
    };
    let subnets = [
        subnet("a", 5000, &["10.0.0.0/29", "2001:db8::/64"]),
        subnet("a", 5001, &["10.1.0.0/24"]),
        subnet("b", 5002, &["10.0.0.0/24"]),
    ];
    let address = format!("{}/24", pa(0)).parse().expect("a prefix");
    let provider = Provider { address, uplink: "up".into(), vlan: None, gateway: None };
    let networks = [network("a", 1), network("b", 2)];
    let policy = Policy::new(&networks, &subnets, &[], vec![(provider, PortId(6), mac_of(6))], &[]);
    snap.with_nv(Arc::new(policy))
}

/// Addresses that records mostly give to the guests of the ports and to the one behind the uplink.
const OWN: [&str; 6] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.3"];

/// A frame whose source is mostly one that a record may give to its port.
fn customers_frame(random: &mut Random) -> (PortId, Vec<u8>) {
    let (from, mut frame) = random_frame(random);
    if frame.get(12..14) == Some(&[8, 0])
        && !random.once_in(4)
        && let Some(last) = frame.get_mut(26..30)
    {
        last.copy_from_slice(&[10, 0, 0, (from.0 as u8 - 1) % 3 + 1]);
    }
    (from, frame)
}

/// This host is number 0.
fn pa(n: u8) -> IpAddr {
    [192, 168, 0, 10 + n].into()
}

/// Both states hear of a record that comes, changes or goes.
fn change_record(random: &mut Random, now: u64, states: [&State; 2]) {
    let kind = pick(random, &[Kind::Static, Kind::Static, Kind::Static, Kind::L2Only, Kind::Gateway]);
    let n = 1 + random.below(6) as u16;
    let host = if n == 6 { 1 + random.below(2) as u8 } else { 0 };
    let mac = mac_of(n);
    let vsid = 5000 + random.below(3) as u32;
    let ca = match random.below(3) {
        _ if kind == Kind::L2Only => "0.0.0.0",
        0 => address(random),
        _ => OWN[usize::from(n) - 1],
    };
    let encap = pick(random, &[Encap::Nvgre, Encap::Nvgre, Encap::Nvgre, Encap::Nvgre, Encap::Vxlan]);
    let ca = ca.parse().expect("an address");
    let record = Record { vsid, ca, mac, pa: pa(host), kind, encap, rewrite_pa: None, next: None };
    let goes = random.once_in(5);
    for state in states {
        if goes {
            state.nv.records.remove(vsid, records::of(&record));
        } else {
            state.nv.records.upsert(now, &record, host == 0);
        }
    }
}

/// Out of which tunnel a frame of the uplink came: always the same one.
fn tunnel(frame: &[u8]) -> Option<Ingress> {
    let sum = frame.iter().fold(0_u32, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let encap = if sum % 7 == 0 { Encap::Vxlan } else { Encap::Nvgre };
    let (src, dst) = (pa(1 + (sum % 2) as u8), pa(0));
    (sum % 3 != 0).then_some(Ingress { encap, vsid: 5000 + sum / 3 % 2, src, dst, gateway: false })
}

/// Each frame of a flow that comes again is judged from the cache, and by the pipeline alone; all that is said must be equal: the verdict,
/// the counters, the tag, the mirror, whether there is a session.
#[test]
fn s0_a_cached_decision_is_the_pipelines_decision_under_every_policy() {
    let mut random = Random(2026);
    let (mut cases, mut hits, mut sessions, mut carried) = (0_u64, 0, 0, 0);
    for round in 0..240_u64 {
        let (cached, plain) = (State::new(1024, round), State::new(1024, round + 1000));
        let mut forwarder = Forwarder::new(round, 64); // small, so that flows displace one another
        let mut tally = 0;
        let mut epoch = 1;
        let mut now = (round + 1) * 1000 * SECOND;
        let nv = round % 2 == 1;
        let frame_of = if nv { customers_frame } else { random_frame };
        let mut flows: Vec<_> = (0..30).map(|_| frame_of(&mut random)).collect();
        let compiled = |snap| if nv { virtualized(snap) } else { snap };
        let random_port = |random: &mut Random, n, tally: &mut u32| {
            let mut port = random_port(random, n, tally);
            if nv && n != 6 && !random.once_in(3) {
                port.policy.vlan = vswitch::port::vlan::Vlan::None;
                port.policy.vsid = Some(5000 + random.below(3) as u32);
            }
            port
        };
        let mut ports: Vec<Port> = (1..=6).map(|n| random_port(&mut random, n, &mut tally)).collect();
        let kind = pick(&mut random, &[SwitchKind::External, SwitchKind::Internal]);
        let config = SwitchConfig { kind, ..SwitchConfig::default() };
        let mut snap = compiled(Snapshot::new(epoch, config.clone(), ports.clone()));
        for _ in 0..if nv { 60 } else { 0 } {
            change_record(&mut random, now, [&cached, &plain]);
        }
        let (mut burst_of, mut last, mut before) = (PortId(0), 0, Plan::default());
        for step in 0..6300 {
            if random.once_in(100) {
                burst_of = PortId(0); // a change is seen between bursts
                // One port changes, as in life; or half a minute passes, or an age.
                match random.below(4) {
                    0 => now += 31 * SECOND,
                    1 => now += 400 * SECOND,
                    _ => {
                        let n = random.below(ports.len());
                        ports[n] = random_port(&mut random, ports[n].id.0, &mut tally);
                        epoch += 1;
                        let new = compiled(Snapshot::new(epoch, config.clone(), ports.clone()));
                        cached.reconcile(now, &snap, &new);
                        plain.reconcile(now, &snap, &new);
                        snap = new;
                    }
                }
            }
            if nv && random.once_in(30) {
                burst_of = PortId(0); // a flow of the burst is not asked again
                change_record(&mut random, now, [&cached, &plain]);
            }
            if random.once_in(20) {
                let (place, other) = (random.below(flows.len()), random.below(flows.len()));
                flows[place] = frame_of(&mut random);
                if let Some(back) = reply(flows[place].0, &flows[place].1) {
                    flows[other] = back;
                }
            }
            now += 1000;
            // A burst: frames of one port, often of one flow in a row.
            let place = random.below(flows.len());
            let (from, frame) =
                &flows[if flows[last].0 == burst_of && !random.once_in(3) { last } else { place }];
            let (from, len) = (*from, frame.len() as u32);
            if from != burst_of || random.once_in(4) {
                forwarder.begin(&snap, &cached, now, from);
                burst_of = from;
            }
            last = flows.iter().position(|(_, f)| f == frame).unwrap_or(place);
            let mut plan = Plan::default();
            let ingress = if nv && from == PortId(6) { tunnel(frame) } else { None };
            let verdict = match &ingress {
                None => forwarder.judge(&snap, &cached, now, from, frame, len, &mut plan),
                Some(i) => forwarder.judge_inner(&snap, &cached, now, from, i, frame, len, &mut plan),
            };
            if plan.repeats {
                (plan.actions, plan.overlay) = (before.actions, before.overlay);
            } else if plan.flow != 0 {
                before = plan;
            }
            let mut actions = if plan.flow == 0 { Actions::default() } else { plan.actions };
            let overlay = if plan.flow == 0 { None } else { plan.overlay };
            let mut expected = match &ingress {
                None => pipeline::decide(&snap, &plain, now, from, frame, len),
                Some(i) => pipeline::decide_inner(&snap, &plain, now, from, i, frame, len),
            };
            carried +=
                u64::from(overlay.is_some() || ingress.is_some() && !matches!(verdict, Verdict::Drop(_)));
            if matches!(verdict, Verdict::Drop(_)) {
                // It was counted when it was judged; nobody looks any more.
                (actions.storm, expected.actions.storm) = (false, false);
            }
            let context = || format!("round {round} step {step}, port {from}, {frame:02x?}, {snap:#?}");
            assert_eq!((verdict, overlay), (expected.verdict, expected.overlay), "{}", context());
            assert_eq!(comparable(actions), comparable(expected.actions), "{}", context());
            if let Verdict::Flood(set) = verdict {
                for to in snap.flood(set, from) {
                    let copy = |state| match &ingress {
                        None => pipeline::copy(&snap, state, now, (from, to), frame, len),
                        Some(i) => pipeline::copy_inner(&snap, state, now, (from, to), i, frame, len),
                    };
                    let said = |d: Option<pipeline::Decision>| d.map(|d| (d.verdict, comparable(d.actions)));
                    assert_eq!(said(copy(&cached)), said(copy(&plain)), "to {to}, {}", context());
                }
            }
            forwarder.take_events().for_each(drop);
            cases += 1;
            sessions += u64::from(actions.out.session.is_session() || actions.inward.session.is_session());
        }
        hits += forwarder.counters().hits;
    }
    assert!(cases > 1_000_000, "{cases}");
    assert!(hits > cases / 3, "the cache took part: {hits} of {cases}");
    assert!(carried > 1_000, "virtual subnets took part: {carried} of {cases}");
    assert!(sessions > 2000, "sessions took part: {sessions} of {cases}");
}
