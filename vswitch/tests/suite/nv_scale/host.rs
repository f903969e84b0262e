//! One host: the switch's state, policy and ports, as its worker and control plane use them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vswitch::flow::{Forwarder, Plan as Todo};
use vswitch::nv::model::Provider;
use vswitch::nv::neighbours::Hop;
use vswitch::nv::overlay::{Ingress, Overlay};
use vswitch::nv::policy::Policy;
use vswitch::nv::{self, interest, wire};
use vswitch::pipeline::Verdict;
use vswitch::port::{Port, PortKind};
use vswitch::snapshot::{Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId};

use super::plan::{Plan, pa};
use super::store::Traffic;
use crate::support::port;

pub(super) const UPLINK: PortId = PortId(1);

/// A frame that waits for its receiver.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) from: PortId,
    pub(super) frame: Vec<u8>,
    pub(super) ingress: Option<Ingress>,
}

/// Where a judged frame goes.
pub(super) enum Goes {
    /// To a port, as these bytes.
    Port(u16, Vec<u8>),
    /// Out of the uplink, as these bytes.
    Wire(Vec<u8>),
    Nowhere(DropReason),
}

pub(super) struct Host {
    number: usize,
    pub(super) snap: Snapshot,
    policy: Arc<Policy>,
    pub(super) state: State,
    forwarder: Forwarder,
    /// Guests by port.
    pub(super) ports: BTreeMap<u16, usize>,
    next_port: u16,
    epoch: u64,
    pub(super) held: BTreeMap<u16, Vec<Held>>,
    /// Virtual subnets whose records are read and watched.
    pub(super) watched: BTreeSet<u32>,
    /// What it heard from its watches, and what that was.
    pub(super) heard: Traffic,
}

pub(super) fn uplink_mac(host: usize) -> Mac {
    Mac([0x02, 0xee, 0, 0, (host >> 8) as u8, host as u8])
}

impl Host {
    pub(super) fn new(number: usize, plan: &Plan, now: u64) -> Self {
        let [a, b, c, _] = octets(number);
        let gateway = [a, b, c, 1].into();
        let address = ipnet::IpNet::new(pa(number), 24).expect("a prefix");
        let provider = Provider { address, uplink: "up".into(), vlan: None, gateway: Some(gateway) };
        let providers = vec![(provider, UPLINK, uplink_mac(number))];
        // A host knows all networks and subnets, as it watches them whole.
        let policy = Arc::new(Policy::new(&plan.networks, &plan.subnets, &[], providers, &[]));
        let state = State::new(1024, number as u64 + 1);
        let hop = Hop { port: UPLINK, vlan: None, address: gateway };
        state.nv.neighbours.find(&hop);
        state.nv.neighbours.hear(now, &hop, Mac([0x02, 0xdd, 0, 0, 0, 1]));
        Self {
            number,
            snap: Snapshot::new(1, SwitchConfig::default(), Vec::new()),
            policy,
            state,
            forwarder: Forwarder::new(number as u64, 256),
            ports: BTreeMap::new(),
            next_port: 2,
            epoch: 1,
            held: BTreeMap::new(),
            watched: BTreeSet::new(),
            heard: Traffic::default(),
        }
    }

    /// A port for a guest; not yet in force.
    pub(super) fn add(&mut self, guest: usize) -> u16 {
        let number = self.next_port;
        self.next_port += 1;
        self.ports.insert(number, guest);
        number
    }

    /// The ports of now are in force.
    pub(super) fn publish(&mut self, plan: &Plan) {
        self.epoch += 1;
        let config = SwitchConfig { kind: SwitchKind::External, ..SwitchConfig::default() };
        let guest = |(&number, &guest): (&u16, &usize)| {
            let mut port = port(number, PortKind::Guest);
            port.mac = plan.guests[guest].mac;
            port.policy.vsid = Some(plan.guests[guest].vsid);
            port
        };
        let mut ports: Vec<Port> = self.ports.iter().map(guest).collect();
        let mut uplink = port(UPLINK.0, PortKind::Uplink);
        uplink.mac = uplink_mac(self.number);
        ports.push(uplink);
        self.snap = Snapshot::new(self.epoch, config, ports).with_nv(Arc::clone(&self.policy));
    }

    /// The virtual subnets whose records it needs.
    pub(super) fn needed(&self, plan: &Plan) -> BTreeSet<u32> {
        let local = self.ports.values().map(|&guest| plan.guests[guest].vsid).collect();
        interest::needed(plan.all_subnets(), &local, std::iter::empty())
    }

    /// What becomes of a frame here.
    pub(super) fn judge(
        &mut self,
        now: u64,
        from: PortId,
        mut frame: Vec<u8>,
        ingress: Option<&Ingress>,
    ) -> Goes {
        let (snap, state, len) = (&self.snap, &self.state, frame.len() as u32);
        let mut todo = Todo::default();
        self.forwarder.begin(snap, state, now, from);
        let verdict = match ingress {
            None => self.forwarder.judge(snap, state, now, from, &frame, len, &mut todo),
            Some(ingress) => {
                self.forwarder.judge_inner(snap, state, now, from, ingress, &frame, len, &mut todo)
            }
        };
        self.forwarder.take_events().for_each(drop);
        let overlay = if todo.flow == 0 { None } else { todo.overlay }.unwrap_or_default();
        match verdict {
            Verdict::Drop(reason) | Verdict::Refuse(reason, _) => Goes::Nowhere(reason),
            Verdict::Unicast(to) => {
                let Overlay { rewrite, tunnel, .. } = overlay;
                if let Some(rewrite) = rewrite {
                    wire::rewrite::macs(&mut frame, rewrite.dst, rewrite.src);
                    if rewrite.hop {
                        wire::rewrite::hop(&mut frame).expect("a hop is left");
                    }
                }
                let Some(tunnel) = tunnel else { return Goes::Port(to.0, frame) };
                assert_eq!(to, UPLINK);
                let mut outer = [0; wire::OUTER_MAX];
                match nv::encapsulate(snap, state, &tunnel, &frame, len, &mut outer) {
                    Ok(size) => Goes::Wire([&outer[..size], &frame].concat()),
                    Err(reason) => Goes::Nowhere(reason),
                }
            }
            Verdict::Flood(_) | Verdict::Answer => panic!("only unicast is sent here: {verdict:?}"),
        }
    }

    /// What is in a packet that arrives at the uplink.
    pub(super) fn open(&self, now: u64, frame: &[u8]) -> Result<(Vec<u8>, Ingress), DropReason> {
        let opened = nv::open(&self.snap, &self.state, now, UPLINK, frame, frame.len() as u32)
            .expect("a tunnel to this host")?;
        let mut inner = frame[usize::from(opened.strip)..].to_vec();
        inner.truncate(opened.len as usize);
        if let Some(outer) = opened.ecn {
            wire::ecn::arrive(&mut inner, outer).map_err(|_| DropReason::NvCongestion)?;
        }
        Ok((inner, opened.ingress))
    }
}

fn octets(host: usize) -> [u8; 4] {
    match pa(host) {
        std::net::IpAddr::V4(v4) => v4.octets(),
        std::net::IpAddr::V6(_) => unreachable!("provider addresses are IPv4"),
    }
}
