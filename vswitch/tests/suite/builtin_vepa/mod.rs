//! Virtual Ethernet port aggregation on the real pipeline and flow cache, with a neighbour that reflects.

use std::sync::Arc;

use serde_json::{Value, json};
use vswitch::event::Event;
use vswitch::extension::change::Edit;
use vswitch::extension::{Change, Extension, FailMode, Slot, Stack, builtin};
use vswitch::flow::{Forwarder, Plan};
use vswitch::pipeline::Verdict;
use vswitch::port::{Port, PortKind};
use vswitch::snapshot::{FloodSet, Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId};

use crate::support::{SECOND, bridging, dropped, frame, guest, in_vlan, mac_of, port, stranger, to};

const UPLINK: u16 = 9;

struct Nothing;

impl vswitch::extension::Counters for Nothing {
    fn of(&self, _: PortId) -> Option<vswitch::extension::PortCounters> {
        None
    }
}

/// A switch and its neighbour.
struct Bench {
    snap: Snapshot,
    state: State,
    forwarder: Forwarder,
    vepa: Option<Arc<dyn Extension>>,
    now: u64,
}

/// Tells an instance of ports that exist, as the control plane does when it is enabled.
fn introduce(instance: &dyn Extension, ports: &[Port]) {
    for port in ports {
        let (id, mac) = (port.id, port.mac);
        let vlan = json!(port.policy.vlan.to_string());
        let create = Change::PortCreate { port: id, name: "p", kind: port.kind };
        instance.change(0, &create).expect("a port");
        let policy = Change::Policy { port: id, edit: Edit::Add, name: "vlan", value: &vlan };
        instance.change(0, &policy).expect("a policy");
        instance.change(0, &Change::NicCreate { port: id, mac, mtu: 1500 }).expect("a card");
        instance.change(0, &Change::NicConnect { port: id }).expect("a card");
    }
}

impl Bench {
    fn new(ports: Vec<Port>, enabled: bool) -> Self {
        let config = SwitchConfig { kind: SwitchKind::External, ..SwitchConfig::default() };
        let vepa =
            enabled.then(|| builtin::start("vepa", &Value::Null).expect("it exists").expect("it starts"));
        if let Some(vepa) = &vepa {
            introduce(&**vepa, &ports);
        }
        let mut snap = Snapshot::new(1, config, ports);
        if let Some(vepa) = &vepa {
            let slot = Slot::new("vepa", Arc::clone(vepa), FailMode::Open, &[]);
            snap = snap.with_extensions(Arc::new(Stack::new(vec![slot]).expect("a stack")));
        }
        let (state, forwarder) = (State::new(64, 7), Forwarder::new(3, 64));
        Self { snap, state, forwarder, vepa, now: SECOND }
    }

    fn send(&mut self, from: u16, frame: &[u8]) -> (Verdict, Plan) {
        self.forwarder.begin(&self.snap, &self.state, self.now, PortId(from));
        let mut plan = Plan::default();
        let len = frame.len() as u32;
        let (snap, state) = (&self.snap, &self.state);
        let verdict = self.forwarder.judge(snap, state, self.now, PortId(from), frame, len, &mut plan);
        (verdict, plan)
    }

    /// Which ports get a frame that is flooded from `from`.
    fn copies(&mut self, from: u16, frame: &[u8]) -> Vec<u16> {
        let receivers: Vec<PortId> = self.snap.flood(FloodSet::Members, PortId(from)).collect();
        let mut gets = |id: &PortId| {
            let ports = (PortId(from), *id);
            let len = frame.len() as u32;
            let copy = self.forwarder.copy(&self.snap, &self.state, self.now, ports, frame, len);
            copy.is_some_and(|(verdict, _)| verdict == Verdict::Unicast(*id))
        };
        receivers.into_iter().filter(|id| gets(id)).map(|id| id.0).collect()
    }

    /// Sends a frame to the neighbour, as it leaves the uplink.
    fn leaves(&mut self, from: u16, frame: &[u8]) -> Result<Vec<u8>, Verdict> {
        match self.send(from, frame) {
            (Verdict::Unicast(PortId(UPLINK)), plan) => {
                let mut out = [0; 256];
                let change = plan.actions.tagging.change(frame);
                let len = change.apply(frame, &mut out).expect("room");
                Ok(out[..len].to_vec())
            }
            (verdict, _) => Err(verdict),
        }
    }

    /// What happened, but for what the extension kept away.
    fn events(&mut self) -> Vec<Event> {
        let other = |event: &Event| !matches!(event, Event::ExtensionDropped { .. });
        self.forwarder.take_events().filter(other).collect()
    }
}

fn four() -> Vec<Port> {
    vec![guest(1), guest(2), bridging(3), port(4, PortKind::Host), port(UPLINK, PortKind::Uplink)]
}

#[test]
fn s15_1_vepa_sends_everything_out_through_the_uplink() {
    for dst in [mac_of(2), mac_of(4), stranger(1), Mac::BROADCAST, Mac([0x01, 0, 0x5e, 0, 0, 5])] {
        for from in [1, 3, 4] {
            let mut bench = Bench::new(four(), true);
            for round in 0..3 {
                assert_eq!(bench.send(from, &frame(dst, mac_of(from), None)).0, to(UPLINK), "{dst} {round}");
            }
        }
    }
    let mut bench = Bench::new(four(), true);
    assert_eq!(bench.send(3, &frame(mac_of(1), stranger(7), None)).0, to(UPLINK), "another address");
}

#[test]
fn s15_1_without_vepa_the_same_frames_go_as_ever() {
    let mut bench = Bench::new(four(), false);
    assert_eq!(bench.send(1, &frame(mac_of(2), mac_of(1), None)).0, to(2));
    let broadcast = frame(Mac::BROADCAST, mac_of(1), None);
    assert_eq!(bench.send(1, &broadcast).0, Verdict::Flood(FloodSet::Members));
    assert_eq!(bench.send(UPLINK, &frame(mac_of(2), mac_of(1), None)).0, dropped(DropReason::MacPinned));
    assert_eq!(bench.send(UPLINK, &broadcast).0, dropped(DropReason::MacPinned));
}

#[test]
fn s15_1_an_extension_that_does_not_reflect_leaves_addresses_pinned() {
    let config = json!({ "collector": "192.0.2.9", "agent": "192.0.2.1" });
    let sflow = builtin::start("sflow", &config).expect("it exists").expect("it starts");
    let mut bench = Bench::new(four(), false);
    let slot = Slot::new("sflow", sflow, FailMode::Open, &[]);
    bench.snap = bench.snap.with_extensions(Arc::new(Stack::new(vec![slot]).expect("a stack")));
    assert_eq!(bench.send(UPLINK, &frame(mac_of(2), mac_of(1), None)).0, dropped(DropReason::MacPinned));
}

#[test]
fn s15_1_two_guests_of_one_host_meet_through_the_neighbour() {
    let mut bench = Bench::new(four(), true);
    let request = bench.leaves(1, &frame(mac_of(2), mac_of(1), None)).expect("it leaves");
    let reply = bench.leaves(2, &frame(mac_of(1), mac_of(2), None)).expect("it leaves");
    for _ in 0..3 {
        assert_eq!(bench.send(UPLINK, &request).0, to(2));
        assert_eq!(bench.send(UPLINK, &reply).0, to(1));
        bench.now += SECOND;
    }
    assert!(bench.events().is_empty(), "nobody moved and nobody is somebody else");
}

#[test]
fn s15_2_reflected_multicast_is_not_given_back_to_its_sender() {
    let mut bench = Bench::new(four(), true);
    for dst in [Mac::BROADCAST, Mac([0x33, 0x33, 0, 0, 0, 1])] {
        for (from, others) in [(1, [2, 3, 4]), (2, [1, 3, 4]), (4, [1, 2, 3])] {
            let back = bench.leaves(from, &frame(dst, mac_of(from), None)).expect("it leaves");
            assert_eq!(bench.send(UPLINK, &back).0, Verdict::Flood(FloodSet::Members));
            assert_eq!(bench.copies(UPLINK, &back), others, "{dst} of {from}");
        }
        let foreign = frame(dst, stranger(1), None);
        assert_eq!(bench.copies(UPLINK, &foreign), [1, 2, 3, 4], "what others send everybody gets");
    }
}

#[test]
fn s15_2_addresses_behind_a_bridging_port_are_its_own_too() {
    let mut bench = Bench::new(four(), true);
    let broadcast = frame(Mac::BROADCAST, stranger(5), None);
    assert_eq!(bench.copies(UPLINK, &broadcast), [1, 2, 3, 4], "not heard of yet");
    let back = bench.leaves(3, &broadcast).expect("it leaves");
    assert_eq!(bench.copies(UPLINK, &back), [1, 2, 4]);
    // It is learned as ever, stays so when it comes back, and is found from the uplink.
    assert_eq!(bench.send(UPLINK, &back).0, Verdict::Flood(FloodSet::Members));
    assert_eq!(bench.send(UPLINK, &frame(stranger(5), mac_of(1), None)).0, to(3));
    assert!(bench.events().is_empty(), "it has not moved to the uplink");
    // After five silent minutes it may be anywhere.
    bench.now += 301 * SECOND;
    let vepa = bench.vepa.clone().expect("enabled");
    vepa.tick(bench.now, &Nothing, &mut vswitch::extension::Effects::default()).expect("it ticks");
    assert_eq!(bench.copies(UPLINK, &back), [1, 2, 3, 4]);
}

#[test]
fn s15_2_a_stranger_that_the_neighbour_floods_back_does_not_return_to_its_sender() {
    let mut bench = Bench::new(four(), true);
    let back = bench.leaves(3, &frame(stranger(8), stranger(5), None)).expect("it leaves");
    assert_eq!(bench.send(UPLINK, &back).0, Verdict::Flood(FloodSet::Learning));
    let refused = Verdict::Refuse(DropReason::ExtensionFiltered, PortId(3));
    let (ports, len) = ((PortId(UPLINK), PortId(3)), back.len() as u32);
    let copy = bench.forwarder.copy(&bench.snap, &bench.state, bench.now, ports, &back, len);
    assert_eq!(copy.map(|(verdict, _)| verdict), Some(refused));
}

#[test]
fn s15_2_what_a_port_may_remember_is_bounded() {
    let mut bench = Bench::new(four(), true);
    let most = builtin::vepa::MOST_BEHIND as u16;
    for n in 0..most + 50 {
        assert_eq!(bench.send(3, &frame(mac_of(1), stranger(n), None)).0, to(UPLINK));
    }
    let vepa = bench.vepa.clone().expect("enabled");
    assert_eq!(vepa.status(Some(PortId(3))), json!({ "addresses-behind": most }));
    vepa.change(bench.now, &Change::NicDelete { port: PortId(3) }).expect("told");
    assert_eq!(vepa.status(None)["addresses-behind-ports"], 0);
}

#[test]
fn s15_1_policy_stays_in_force_out_and_back() {
    let vlan = |n, mode: &str| in_vlan(guest(n), mode);
    let ports = || {
        vec![
            vlan(1, "access:7"),
            vlan(2, "access:7"),
            vlan(3, "access:8"),
            vlan(4, "isolated:20/21"),
            vlan(5, "isolated:20/21"),
            vlan(6, "promiscuous:20/21-22"),
            vlan(7, "community:20/22"),
            port(UPLINK, PortKind::Uplink),
        ]
    };
    let refused = |reason| Err(Verdict::Drop(reason));
    // Who sends to whom, and what becomes of it when it comes back; the same VLANs decide as without a neighbour.
    let table: [(u16, u16, Result<u16, DropReason>); 9] = [
        (1, 2, Ok(2)),
        (1, 3, Err(DropReason::VlanFiltered)),
        (3, 1, Err(DropReason::VlanFiltered)),
        (4, 6, Ok(6)),
        (6, 4, Ok(4)),
        (4, 5, Err(DropReason::PrivateVlan)),
        (4, 7, Err(DropReason::PrivateVlan)),
        (7, 6, Ok(6)),
        (7, 4, Err(DropReason::PrivateVlan)),
    ];
    for (from, dst, expected) in table {
        let mut bench = Bench::new(ports(), true);
        let sent = frame(mac_of(dst), mac_of(from), None);
        let back = bench.leaves(from, &sent).expect("it leaves with its VLAN's tag");
        assert_ne!(back.len(), sent.len(), "tagged");
        for _ in 0..2 {
            let verdict = bench.send(UPLINK, &back).0;
            let expected = expected.map_or_else(dropped, to);
            assert_eq!(verdict, expected, "{from} to {dst}");
        }
    }
    // A tag that a port may not send does not leave, and another's address does not either.
    let mut bench = Bench::new(ports(), true);
    let tagged = frame(mac_of(2), mac_of(1), Some(8));
    assert_eq!(bench.leaves(1, &tagged), refused(DropReason::VlanNotAllowed));
    let spoofed = frame(mac_of(2), mac_of(3), None);
    assert_eq!(bench.leaves(1, &spoofed), refused(DropReason::SourceNotAllowed));
    // From the uplink a port's address is accepted in the port's network only.
    let elsewhere = frame(mac_of(3), mac_of(1), Some(8));
    assert_eq!(bench.send(UPLINK, &elsewhere).0, dropped(DropReason::MacPinned));
}

#[test]
fn s15_2_reflected_multicast_of_tagged_ports_stays_in_its_network() {
    let ports = vec![
        in_vlan(bridging(1), "access:7"),
        in_vlan(bridging(2), "access:7"),
        in_vlan(bridging(3), "access:8"),
        port(UPLINK, PortKind::Uplink),
    ];
    let mut bench = Bench::new(ports, true);
    let shared = frame(Mac::BROADCAST, stranger(1), None);
    let in_seven = bench.leaves(1, &shared).expect("it leaves");
    // The same address in another network is somebody else's.
    let in_eight = bench.leaves(3, &shared).expect("it leaves");
    assert_eq!(bench.copies(UPLINK, &in_seven), [2]);
    assert_eq!(bench.copies(UPLINK, &in_eight), [0_u16; 0]);
    let moved = bench.leaves(2, &shared).expect("it leaves");
    assert_eq!(bench.copies(UPLINK, &moved), [1], "the address moved to another port");
}

#[test]
fn s15_1_without_an_uplink_nothing_goes_anywhere() {
    let mut bench = Bench::new(vec![guest(1), guest(2)], true);
    assert_eq!(bench.send(1, &frame(mac_of(2), mac_of(1), None)).0, dropped(DropReason::ExtensionFiltered));
    let vepa = bench.vepa.clone().expect("enabled");
    assert_eq!(vepa.reasons(), ["no-uplink", "reflected-to-sender"]);
}

#[test]
fn s15_3_a_second_uplink_is_vetoed_and_there_is_nothing_to_configure() {
    let vepa = builtin::start("vepa", &json!({})).expect("it exists").expect("it starts");
    let uplink = |port| Change::PortCreate { port: PortId(port), name: "u", kind: PortKind::Uplink };
    vepa.change(0, &uplink(1)).expect("the first");
    let veto = vepa.change(0, &uplink(2)).expect_err("the second");
    let text = "vepa sends everything to one neighbour, and port 1 leads there: remove it first";
    assert_eq!(veto.to_string(), text);
    vepa.change(0, &Change::PortDelete { port: PortId(1) }).expect("it goes");
    vepa.change(0, &uplink(2)).expect("the only one");
    let error = builtin::start("vepa", &json!({ "uplink": "eth0" })).expect("it exists").expect_err("a key");
    assert!(error.to_string().starts_with("vepa: unknown field `uplink`"), "{error}");
}
