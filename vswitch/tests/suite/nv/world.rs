//! Hosts that are joined by a physical network, and do with frames what workers do. Every frame is judged with the flow cache and by the
//! pipeline alone, and both must say the same.

use std::net::IpAddr;
use std::sync::Arc;

use vswitch::event::Event;
use vswitch::flow::{Forwarder, Plan};
use vswitch::frame::offload::Offload;
use vswitch::nv::model::{Encap, Gateway, Kind, Network, Provider, Rdid, Record, Route, Subnet};
use vswitch::nv::neighbours::Hop;
use vswitch::nv::overlay::{Ingress, Overlay};
use vswitch::nv::policy::Policy;
use vswitch::nv::{self, wire};
use vswitch::pipeline::{self, Verdict};
use vswitch::port::{Port, PortKind};
use vswitch::snapshot::{Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId};

use crate::support::{SECOND, guest, port};

/// The number of every host's uplink.
pub(crate) const UPLINK: PortId = PortId(1000);

/// Provider network of host `n`: a subnet of its own.
pub(crate) fn pa(n: usize) -> IpAddr {
    IpAddr::from([192, 168, n as u8, 10])
}

pub(crate) fn pa6(n: usize) -> IpAddr {
    format!("2001:db8:ffff:{n:x}::10").parse().expect("an address")
}

fn uplink_mac(n: usize) -> Mac {
    Mac([0x02, 0xee, 0, 0, 0, n as u8])
}

pub(crate) struct Host {
    number: usize,
    pub(crate) snap: Snapshot,
    pub(crate) state: State,
    forwarder: Forwarder,
    pub(crate) ports: Vec<Port>,
    pub(crate) events: Vec<Event>,
}

/// What happened to a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Happened {
    /// A port got it, as these bytes.
    Got(usize, u16, Vec<u8>),
    /// The switch answered the sender.
    Answered(usize, u16, Vec<u8>),
    /// It ended at a host.
    Dropped(usize, DropReason),
    /// It is longer than what goes from a host into a tunnel.
    TooBig(usize, usize),
}

/// All hosts, and what is the same at all of them.
pub(crate) struct World {
    pub(crate) hosts: Vec<Host>,
    pub(crate) networks: Vec<Network>,
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) routes: Vec<Route>,
    /// By host.
    pub(crate) gateways: Vec<(usize, Gateway)>,
    pub(crate) now: u64,
    pub(crate) vlan: Option<u16>,
    /// Of the uplinks.
    pub(crate) mtu: u16,
    epoch: u64,
    /// Frames on the physical network, as they were.
    pub(crate) wire: Vec<Vec<u8>>,
    /// What hosts told others about guests that are not there.
    pub(crate) told: Vec<Vec<u8>>,
}

impl World {
    pub(crate) fn new(hosts: usize) -> Self {
        let host = |number| Host {
            number,
            snap: Snapshot::new(1, SwitchConfig::default(), Vec::new()),
            state: State::new(1024, number as u64 + 1),
            forwarder: Forwarder::new(number as u64, 256),
            ports: Vec::new(),
            events: Vec::new(),
        };
        Self {
            hosts: (0..hosts).map(host).collect(),
            networks: Vec::new(),
            subnets: Vec::new(),
            routes: Vec::new(),
            gateways: Vec::new(),
            now: 1000 * SECOND,
            vlan: Some(7),
            mtu: 1500,
            epoch: 1,
            wire: Vec::new(),
            told: Vec::new(),
        }
    }

    pub(crate) fn network(&mut self, name: &str) {
        let rdid = Rdid(self.networks.len() as u128 + 1);
        self.networks.push(Network { name: name.into(), rdid });
    }

    pub(crate) fn subnet(&mut self, network: &str, vsid: u32, prefixes: &[&str]) {
        let prefixes = prefixes.iter().map(|p| p.parse().expect("a prefix")).collect();
        self.subnets.push(Subnet { network: network.into(), vsid, prefixes, gateways: Vec::new() });
    }

    pub(crate) fn route(&mut self, network: &str, prefix: &str, hop: &str) {
        let (prefix, next_hop) = (prefix.parse().expect("a prefix"), hop.parse().expect("a next hop"));
        self.routes.push(Route { network: network.into(), prefix, next_hop, metric: 0 });
    }

    /// A port of a virtual subnet.
    pub(crate) fn guest(&mut self, host: usize, n: u16, vsid: u32, mac: Mac) {
        let mut port = guest(n);
        port.mac = mac;
        port.policy.vsid = Some(vsid);
        self.hosts[host].ports.push(port);
    }

    /// Every host has what was said so far.
    pub(crate) fn publish(&mut self) {
        self.epoch += 1;
        let config = SwitchConfig { kind: SwitchKind::External, ..SwitchConfig::default() };
        for host in &mut self.hosts {
            let n = host.number;
            let mut ports = host.ports.clone();
            let mut uplink = port(UPLINK.0, PortKind::Uplink);
            (uplink.mac, uplink.mtu) = (uplink_mac(n), self.mtu);
            ports.push(uplink);
            let provider = |address: IpAddr, len: u8, gateway: &str| {
                let address = ipnet::IpNet::new(address, len).expect("a prefix");
                let gateway = Some(gateway.parse().expect("an address"));
                (Provider { address, uplink: "up".into(), vlan: self.vlan, gateway }, UPLINK, uplink_mac(n))
            };
            let providers = vec![
                provider(pa(n), 24, &format!("192.168.{n}.1")),
                provider(pa6(n), 64, &format!("2001:db8:ffff:{n:x}::1")),
            ];
            let own = self.gateways.iter().filter(|(at, _)| *at == n);
            let own: Vec<(Gateway, PortId)> = own.map(|(_, gateway)| (gateway.clone(), UPLINK)).collect();
            let gateways: Vec<IpAddr> = providers.iter().filter_map(|(p, ..)| p.gateway).collect();
            let policy = Policy::new(&self.networks, &self.subnets, &self.routes, providers, &own);
            host.snap = Snapshot::new(self.epoch, config.clone(), ports).with_nv(Arc::new(policy));
            for address in gateways {
                // The router's address is that of the host that is meant, so that the wire below need not route.
                let hop = Hop { port: UPLINK, vlan: self.vlan, address };
                host.state.nv.neighbours.find(&hop);
                host.state.nv.neighbours.hear(self.now, &hop, Mac([0x02, 0xdd, 0, 0, 0, 1]));
            }
        }
    }

    /// All hosts know a record.
    pub(crate) fn record(&mut self, record: &Record) {
        for n in 0..self.hosts.len() {
            self.record_at(n, record);
        }
    }

    /// One host knows a record.
    pub(crate) fn record_at(&mut self, n: usize, record: &Record) {
        let local = record.pa == pa(n) || record.pa == pa6(n);
        self.hosts[n].state.nv.records.upsert(self.now, record, local);
    }

    /// What becomes of a frame that a port sends, everywhere.
    pub(crate) fn send(&mut self, host: usize, from: u16, frame: &[u8]) -> Vec<Happened> {
        let mut happened = Vec::new();
        self.judge(host, PortId(from), frame.to_vec(), None, &mut happened);
        happened
    }

    /// What becomes of a frame that arrives at a host's uplink.
    pub(crate) fn arrive(&mut self, host: usize, frame: &[u8]) -> Vec<Happened> {
        let mut happened = Vec::new();
        self.open(host, frame, &mut happened);
        happened
    }

    fn judge(
        &mut self,
        n: usize,
        from: PortId,
        frame: Vec<u8>,
        ingress: Option<Ingress>,
        happened: &mut Vec<Happened>,
    ) {
        self.now += 1000;
        let now = self.now;
        let host = &mut self.hosts[n];
        let (snap, state, len) = (&host.snap, &host.state, frame.len() as u32);
        host.forwarder.begin(snap, state, now, from);
        let mut plan = Plan::default();
        let verdict = match &ingress {
            None => host.forwarder.judge(snap, state, now, from, &frame, len, &mut plan),
            Some(i) => host.forwarder.judge_inner(snap, state, now, from, i, &frame, len, &mut plan),
        };
        host.events.extend(host.forwarder.take_events());
        let plain = match &ingress {
            None => pipeline::decide(snap, state, now, from, &frame, len),
            Some(i) => pipeline::decide_inner(snap, state, now, from, i, &frame, len),
        };
        let overlay = if plan.flow == 0 { None } else { plan.overlay };
        assert_eq!((verdict, overlay), (plain.verdict, plain.overlay), "host {n} port {from} {frame:02x?}");
        let overlay = overlay.unwrap_or_default();
        match verdict {
            Verdict::Drop(reason) | Verdict::Refuse(reason, _) => {
                happened.push(Happened::Dropped(n, reason));
                if let Some(ingress) = &ingress
                    && nv::tells(snap, state, now, ingress, reason, &frame)
                {
                    let mut out = Vec::new();
                    assert!(nv::not_here(snap, state, ingress, &frame, &mut out), "a message {frame:02x?}");
                    self.told.push(out);
                }
            }
            Verdict::Answer => {
                let mut out = Vec::new();
                assert!(nv::answer(snap, state, now, from, &frame, len, &mut out), "an answer {frame:02x?}");
                happened.push(Happened::Answered(n, from.0, out));
            }
            Verdict::Unicast(to) => self.unicast(n, to, frame, &overlay, happened),
            Verdict::Flood(set) => {
                let receivers: Vec<PortId> = snap.flood(set, from).collect();
                for to in receivers {
                    let host = &self.hosts[n];
                    let copied = match &ingress {
                        None => pipeline::copy(&host.snap, &host.state, now, (from, to), &frame, len),
                        Some(i) => {
                            pipeline::copy_inner(&host.snap, &host.state, now, (from, to), i, &frame, len)
                        }
                    };
                    if let Some(Verdict::Unicast(to)) = copied.map(|decision| decision.verdict) {
                        happened.push(Happened::Got(n, to.0, frame.clone()));
                    }
                }
                if overlay.replicate {
                    let host = &self.hosts[n];
                    for tunnel in nv::replicas(&host.snap, &host.state, from, &frame) {
                        let overlay = Overlay { tunnel: Some(tunnel), ..Overlay::NONE };
                        self.unicast(n, UPLINK, frame.clone(), &overlay, happened);
                    }
                }
            }
        }
    }

    fn unicast(
        &mut self,
        n: usize,
        to: PortId,
        mut frame: Vec<u8>,
        overlay: &Overlay,
        happened: &mut Vec<Happened>,
    ) {
        if let Some(rewrite) = overlay.rewrite {
            wire::rewrite::macs(&mut frame, rewrite.dst, rewrite.src);
            if rewrite.hop {
                wire::rewrite::hop(&mut frame).expect("a hop is left");
            }
        }
        if let Some(exit) = overlay.exit {
            let host = &self.hosts[n];
            match nv::exit(&host.snap, &host.state, self.now, &exit, &mut frame, &Offload::None) {
                Err(reason) => happened.push(Happened::Dropped(n, reason)),
                Ok(tagging) => {
                    let mut out = vec![0; frame.len() + 8];
                    let len = tagging.change(&frame).apply(&frame, &mut out).expect("room");
                    out.truncate(len);
                    happened.push(Happened::Got(n, to.0, out));
                }
            }
            return;
        }
        let Some(tunnel) = overlay.tunnel else {
            happened.push(Happened::Got(n, to.0, frame));
            return;
        };
        let host = &self.hosts[n];
        let room = if tunnel.encap == Encap::Rewrite {
            nv::rewrite_room(&host.snap, &host.state, self.now, &tunnel)
        } else {
            nv::room(&host.state, self.now, &tunnel, self.mtu)
        };
        let room = usize::from(room);
        if frame.len() - 14 > room && (tunnel.encap != Encap::Rewrite || wire::rewrite::is_whole(&frame)) {
            happened.push(Happened::TooBig(n, room));
            return;
        }
        let sent = if tunnel.encap == Encap::Rewrite {
            let changed = nv::readdress(&host.snap, &host.state, &tunnel, &mut frame, &Offload::None);
            let tagging = match changed {
                Ok(tagging) => tagging,
                Err(reason) => {
                    happened.push(Happened::Dropped(n, reason));
                    return;
                }
            };
            let mut out = vec![0; frame.len() + 8];
            let change = tagging.change(&frame);
            let len = change.apply(&frame, &mut out).expect("room");
            out.truncate(len);
            out
        } else {
            let mut outer = [0; wire::OUTER_MAX];
            let len = frame.len() as u32;
            let size = nv::encapsulate(&host.snap, &host.state, &tunnel, &frame, len, &mut outer)
                .expect("reachable");
            [&outer[..size], &frame].concat()
        };
        assert_eq!(to, UPLINK);
        self.wire.push(sent.clone());
        // Routed: the physical network gives it to the host that has the address, with that one's MAC address.
        let Some(receiver) = (0..self.hosts.len()).find(|&m| self.has(m, &sent)) else {
            happened.push(Happened::Dropped(n, DropReason::ProviderUnreachable));
            return;
        };
        let mut sent = sent;
        sent[..6].copy_from_slice(&uplink_mac(receiver).0);
        self.open(receiver, &sent, happened);
    }

    /// Whether a packet's outer destination is at a host.
    fn has(&self, m: usize, frame: &[u8]) -> bool {
        let at = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
        let dst: IpAddr = match frame[at] >> 4 {
            4 => IpAddr::from(*frame[at + 16..].first_chunk::<4>().expect("a header")),
            _ => IpAddr::from(*frame[at + 24..].first_chunk::<16>().expect("a header")),
        };
        let records = &self.hosts[m].state.nv.records;
        dst == pa(m)
            || dst == pa6(m)
            || records
                .rewritten(dst)
                .is_some_and(|(.., view)| view.local || view.moved != 0 && self.only(m, dst))
    }

    /// Whether no other host has the guest that an address stands for.
    fn only(&self, m: usize, dst: IpAddr) -> bool {
        let local =
            |n: usize| self.hosts[n].state.nv.records.rewritten(dst).is_some_and(|(.., view)| view.local);
        (0..self.hosts.len()).all(|n| n == m || !local(n))
    }

    fn open(&mut self, n: usize, frame: &[u8], happened: &mut Vec<Happened>) {
        let host = &self.hosts[n];
        let len = frame.len() as u32;
        match nv::open(&host.snap, &host.state, self.now, UPLINK, frame, len) {
            None => self.judge(n, UPLINK, frame.to_vec(), None, happened),
            Some(Err(reason)) => happened.push(Happened::Dropped(n, reason)),
            Some(Ok(opened)) => {
                let mut inner = frame[usize::from(opened.strip)..].to_vec();
                inner.truncate(opened.len as usize);
                if let Some(outer) = opened.ecn
                    && wire::ecn::arrive(&mut inner, outer).is_err()
                {
                    happened.push(Happened::Dropped(n, DropReason::NvCongestion));
                    return;
                }
                let refused = opened.rewrite.map(|rewrite| rewrite.apply(&mut inner, &Offload::None));
                if let Some(Err(reason)) = refused {
                    happened.push(Happened::Dropped(n, reason));
                    return;
                }
                self.judge(n, UPLINK, inner, Some(opened.ingress), happened);
            }
        }
    }
}

/// A record as tests write it.
pub(crate) fn record(vsid: u32, ca: &str, mac: Mac, pa: IpAddr) -> Record {
    let ca = ca.parse().expect("an address");
    Record { vsid, ca, mac, pa, kind: Kind::Static, encap: Encap::Nvgre, rewrite_pa: None, next: None }
}

/// Who got a frame: host and port, ascending.
pub(crate) fn receivers(happened: &[Happened]) -> Vec<(usize, u16)> {
    let mut got: Vec<_> = happened
        .iter()
        .filter_map(|h| match h {
            Happened::Got(host, port, _) => Some((*host, *port)),
            _ => None,
        })
        .collect();
    got.sort_unstable();
    got
}
