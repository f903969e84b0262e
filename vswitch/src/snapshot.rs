//! The compiled policy of the whole switch: immutable, swapped as one piece.
//!
//! Everything that can be worked out when policy changes is worked out here, so that a flow-cache miss finds the owner
//! of an address with one probe and a flood walks a ready list. A snapshot is shared read-only by all workers.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::extension::Stack;
use crate::nv::policy::Policy;
use crate::port::vlan::{Vlan, VlanSet};
use crate::port::{self, Port, PortKind};
use crate::{Mac, PortId, Segment, hash};

/// What the switch connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchKind {
    /// Guests, the host and the physical network.
    External,
    /// Guests and the host.
    Internal,
    /// Guests only.
    Private,
}

impl SwitchKind {
    /// Whether a switch of this kind has ports of that kind.
    pub const fn admits(self, port: PortKind) -> bool {
        match port {
            PortKind::Guest => true,
            PortKind::Host => !matches!(self, Self::Private),
            PortKind::Uplink => matches!(self, Self::External),
        }
    }
}

/// Switch-wide settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchConfig {
    /// What the switch connects.
    pub kind: SwitchKind,
    /// Learned addresses the switch holds at most.
    pub fdb_size: u32,
    /// Longest time a unicast frame waits for room at its receiver, in microseconds.
    pub rx_wait_us: u32,
}

impl Default for SwitchConfig {
    fn default() -> Self {
        Self { kind: SwitchKind::Private, fdb_size: 8192, rx_wait_us: 10_000 }
    }
}

/// Which ports a flooded frame goes to; [`Snapshot::flood`] lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FloodSet {
    /// Every port and the uplink (broadcast and multicast).
    Members,
    /// Ports that may have unknown addresses behind them, that is with MAC spoofing on (unknown unicast).
    Learning,
}

/// One compiled state of the switch.
#[derive(Debug)]
pub struct Snapshot {
    epoch: u64,
    config: SwitchConfig,
    /// By port number. A port of a kind that the switch does not admit, or a second uplink, is not in here.
    ports: Vec<Option<Port>>,
    owners: Owners,
    uplink: Option<PortId>,
    /// Ports whose link is up.
    members: Vec<PortId>,
    /// Those of `members` that may have unknown addresses behind them.
    learning: Vec<PortId>,
    /// Those of `members` that get copies of mirrored frames.
    monitors: Vec<PortId>,
    /// By VLAN: the primary VLAN it belongs to, or itself. Empty if no port is in a private VLAN.
    primaries: Vec<u16>,
    nv: Option<Arc<Policy>>,
    extensions: Option<Arc<Stack>>,
    /// With network virtualization: the ports of virtual subnets by subnet and configured address.
    stations: HashMap<u128, PortId, hash::Seeded>,
    /// In whose name an extension adds a frame without a port.
    trusted: Port,
}

impl Snapshot {
    /// Compiles ports and settings. `epoch` must be greater than that of every earlier snapshot.
    ///
    /// Ports of a kind that `config.kind` does not admit and uplinks after the first are left out: they neither send
    /// nor receive. Of two ports with one number the later one counts; of two with one address, the lower number owns it.
    pub fn new(epoch: u64, config: SwitchConfig, ports: Vec<Port>) -> Self {
        let mut table: Vec<Option<Port>> = Vec::new();
        for port in ports.into_iter().filter(|p| config.kind.admits(p.kind)) {
            let index = port.id.index();
            if table.len() <= index {
                table.resize(index + 1, None);
            }
            table[index] = Some(port);
        }
        let uplink = table.iter().flatten().find(|p| p.kind == PortKind::Uplink).map(|p| p.id);
        for slot in &mut table {
            slot.take_if(|p| p.kind == PortKind::Uplink && Some(p.id) != uplink);
        }
        let up = || table.iter().flatten().filter(|p| p.policy.link_up);
        let members = up().map(|p| p.id).collect();
        let learning = up().filter(|p| p.learns()).map(|p| p.id).collect();
        let monitors = up().filter(|p| p.is_monitor()).map(|p| p.id).collect();
        let owners = Owners::new(epoch, table.iter().flatten());
        let primaries = primaries(table.iter().flatten());
        let stations = HashMap::with_hasher(hash::Seeded(hash::expand(epoch, 1)));
        let (ports, nv, extensions) = (table, None, None);
        Self {
            epoch,
            config,
            ports,
            owners,
            uplink,
            members,
            learning,
            monitors,
            primaries,
            nv,
            extensions,
            stations,
            trusted: trusted(),
        }
    }

    /// The same with network virtualization; without it a port's virtual subnet only keeps it apart from others.
    #[must_use]
    pub fn with_nv(mut self, policy: Arc<Policy>) -> Self {
        for port in self.ports.iter().flatten().filter(|port| port.kind != PortKind::Uplink) {
            if let Some(vsid) = port.policy.vsid {
                self.stations.entry(station(vsid, port.mac)).or_insert(port.id);
            }
        }
        self.nv = Some(policy);
        self
    }

    /// The same with extensions; a stack without any is none.
    #[must_use]
    pub fn with_extensions(mut self, stack: Arc<Stack>) -> Self {
        self.extensions = Some(stack).filter(|stack| !stack.slots().is_empty());
        self
    }

    /// The enabled extensions, if there are any.
    #[inline]
    pub fn extensions(&self) -> Option<&Stack> {
        self.extensions.as_deref()
    }

    /// Network virtualization, if it is on.
    #[inline]
    pub fn nv(&self) -> Option<&Policy> {
        self.nv.as_deref()
    }

    /// The port of a virtual subnet for which an address is configured. Tenants may have the same addresses.
    pub(crate) fn station(&self, vsid: u32, mac: Mac) -> Option<PortId> {
        self.stations.get(&station(vsid, mac)).copied()
    }

    /// The policy generation this snapshot stands for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The switch-wide settings.
    pub fn config(&self) -> &SwitchConfig {
        &self.config
    }

    /// A port, if there is one with this number.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index()).and_then(Option::as_ref)
    }

    /// The sender of a frame: a port, or none ([`PortId::SWITCH`]), which is in every VLAN.
    #[inline]
    pub(crate) fn sender(&self, id: PortId) -> Option<&Port> {
        if id == PortId::SWITCH { Some(&self.trusted) } else { self.port(id) }
    }

    /// Every port, by number.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().flatten()
    }

    /// The port an address is configured for.
    pub fn owner(&self, mac: Mac) -> Option<PortId> {
        self.owners.get(mac)
    }

    /// The way to the physical network.
    pub fn uplink(&self) -> Option<PortId> {
        self.uplink
    }

    /// Whether these are two ports of one virtual machine that may stand in for each other (guest teaming).
    pub(crate) fn teamed(&self, one: PortId, other: PortId) -> bool {
        let vm = |id| self.port(id).filter(|port| port.policy.teaming).and_then(|port| port.vm);
        one != other && vm(one).is_some() && vm(one) == vm(other)
    }

    /// Whether `port` may have the address that is configured for `owner` for the time being: as its partner in a guest team, or because
    /// it is the uplink and the owner's guest is not here.
    pub(crate) fn stands_in(&self, port: PortId, owner: PortId) -> bool {
        let absent = |id| self.port(id).is_some_and(|port| !port.present);
        self.teamed(port, owner) || (Some(port) == self.uplink && absent(owner))
    }

    /// Whether frames that ports of this switch sent may come back at `port`: it is the uplink, and a forwarding extension has the
    /// physical network reflect them (IEEE 802.1Qbg).
    #[inline]
    pub(crate) fn reflects(&self, port: PortId) -> bool {
        Some(port) == self.uplink && self.extensions().is_some_and(Stack::reflective)
    }

    /// The ports that get copies of mirrored frames.
    #[inline]
    pub fn monitors(&self) -> &[PortId] {
        &self.monitors
    }

    /// The network whose addresses are learned together with those of `segment`: a private VLAN's primary, or the segment.
    /// Frames of a private VLAN go in one VLAN and come back in another, so the addresses must be found in both (RFC 5517, 3).
    #[inline]
    pub fn filtering(&self, segment: Segment) -> Segment {
        match self.primaries.get(segment.0 as usize) {
            Some(&primary) => Segment(u32::from(primary)),
            None => segment,
        }
    }

    /// Whether `port` is in the private VLAN that `segment` belongs to, as primary or secondary.
    pub(crate) fn same_primary(&self, port: &Port, segment: Segment) -> bool {
        let wanted = self.filtering(segment);
        port.policy.vlan.private().is_some_and(|(primary, _)| u32::from(primary) == wanted.0)
    }

    /// The ports that a frame from `from` is flooded to: those of the set whose link is up, never `from` itself.
    #[inline]
    pub fn flood(&self, set: FloodSet, from: PortId) -> impl Iterator<Item = PortId> {
        let list = match set {
            FloodSet::Members => &self.members,
            FloodSet::Learning => &self.learning,
        };
        list.iter().copied().filter(move |&id| id != from)
    }
}

/// It may send with any source and any tag; without one, in the untagged network.
fn trusted() -> Port {
    let vlan = Vlan::Trunk { native: 0, allowed: VlanSet::all() };
    let mut trusted = Port::new(PortId::SWITCH, PortKind::Host, Mac([0; 6]));
    trusted.policy = port::Policy { vlan, mac_spoofing: true, priority_tag: true, ..port::Policy::default() };
    trusted
}

fn station(vsid: u32, mac: Mac) -> u128 {
    u128::from(vsid) << 64 | u128::from(mac.to_u64())
}

/// What [`Snapshot::filtering`] needs. Of two primaries that claim one secondary the lower port's counts.
fn primaries<'a>(ports: impl Iterator<Item = &'a Port>) -> Vec<u16> {
    let mut table = Vec::new();
    for (primary, secondaries) in ports.filter_map(|port| port.policy.vlan.private()) {
        if table.is_empty() {
            table = (0..4096).collect();
        }
        for secondary in secondaries {
            if let Some(slot) = table.get_mut(usize::from(secondary))
                && *slot == secondary
            {
                *slot = primary;
            }
        }
    }
    table
}

/// Configured addresses: open addressing at a load of at most one half.
#[derive(Debug)]
struct Owners {
    seed: u64,
    /// A power of two long; the key is [`Mac::to_u64`], of which zero is never a port's address.
    slots: Vec<(u64, PortId)>,
}

impl Owners {
    fn new<'a>(seed: u64, ports: impl Iterator<Item = &'a Port> + Clone) -> Self {
        let size = (ports.clone().count() * 2).next_power_of_two().max(2);
        let mut this = Self { seed: hash::expand(seed, 0), slots: vec![(0, PortId(0)); size] };
        for port in ports.filter(|p| p.mac.is_valid_source()) {
            let slot = this.probe(port.mac.to_u64());
            if this.slots[slot].0 == 0 {
                this.slots[slot] = (port.mac.to_u64(), port.id);
            }
        }
        this
    }

    fn get(&self, mac: Mac) -> Option<PortId> {
        let (key, id) = self.slots[self.probe(mac.to_u64())];
        (key != 0).then_some(id)
    }

    /// The slot that holds the key, or the free one where it would be. Ends because half of the slots are free.
    fn probe(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash::mix(self.seed, key) as usize & mask;
        while self.slots[slot].0 != 0 && self.slots[slot].0 != key {
            slot = (slot + 1) & mask;
        }
        slot
    }
}
