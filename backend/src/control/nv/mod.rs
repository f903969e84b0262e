//! Network virtualization as its operator knows it: objects that are judged ([`check`], [`objects`]), kept, and compiled for the data path.
//!
//! Few objects are in the switch's own model; lookup records are in the data path's table and nowhere else in this process ([`records`]). Who
//! may change what depends on the policy store: with the embedded one a change is made here, like every other change of the switch; with one
//! that hosts share, a change is judged here, written there, and comes back as everybody's change does ([`follow`]). Provider addresses and
//! gateways are a host's own and are always kept here.

pub mod change;
pub mod check;
mod coming;
pub mod document;
pub mod follow;
mod memory;
pub(super) mod mtu;
pub mod object;
pub mod objects;
pub mod records;
pub mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use vswitch::nv::model::{Network, Record, Route, Subnet};
use vswitch::nv::policy::Policy;
use vswitch::port::PortKind;
use vswitch::{Mac, PortId};

use self::coming::Coming;
use self::object::{Change, Key, Object, RecordKey};
use self::objects::Objects;
use super::Entry;

/// Uplinks with their numbers and addresses.
type Uplinks = BTreeMap<String, (PortId, Mac)>;

/// The switch's model of network virtualization.
#[derive(Clone, Debug, Default)]
pub(super) struct Nv {
    /// All objects but records, whether they fit together or not.
    pub(super) objects: Objects,
    /// Whether all hosts share the objects that are not a host's own, in a store that is not this switch's.
    pub(super) shared: bool,
    /// What does not fit, as last told.
    misfits: BTreeSet<String>,
    /// In a draft: the changes that it is to make.
    pub(super) planned: Vec<Change>,
    /// Changes whenever objects do.
    version: u64,
    /// What the store was last told to be needed of it is based on: the objects, and the virtual subnets that have ports here.
    interest: Option<(u64, BTreeSet<u32>)>,
    /// Objects that hosts share, as they were last remembered, and at which [`Self::version`].
    remembered: (u64, BTreeMap<Key, Object>),
    /// Whether what hosts share is what was remembered when the switch started: the store has not answered yet.
    pub(super) from_memory: bool,
    /// Virtual subnets of ports that are about to be made.
    expected: BTreeSet<u32>,
    /// While a change is planned: records as the shared store has them, beside those that this host holds.
    read: Option<HashMap<RecordKey, Record>>,
    /// Guests that arrived before all records of their virtual subnet were known.
    early: BTreeMap<PortId, u32>,
    /// Guests that are on their way here.
    coming: Coming,
    compiled: Option<Compiled>,
}

/// What the objects are for the data path, as long as they and the uplinks stay what they are.
#[derive(Clone, Debug)]
struct Compiled {
    policy: Arc<Policy>,
    uplinks: Uplinks,
}

impl Nv {
    /// With these objects; records among them are left out.
    pub(super) fn of(objects: impl IntoIterator<Item = Object>) -> Self {
        let mut nv = Self::default();
        objects.into_iter().for_each(|object| nv.objects.put(object));
        nv
    }

    /// The objects changed: they are compiled anew when they are needed.
    pub(super) fn touch(&mut self) {
        self.compiled = None;
        self.version += 1;
    }

    /// The objects as the data path follows them. What does not fit, or is at no uplink, is left out.
    pub(super) fn policy(&mut self, ports: &BTreeMap<String, Entry>) -> Arc<Policy> {
        let uplinks: Uplinks = ports
            .values()
            .filter(|entry| entry.config.device.kind() == PortKind::Uplink)
            .map(|entry| (entry.config.name.clone(), (entry.config.id, entry.config.mac)))
            .collect();
        if let Some(compiled) = self.compiled.as_ref().filter(|compiled| compiled.uplinks == uplinks) {
            return Arc::clone(&compiled.policy);
        }
        let (usable, _) = self.objects.usable();
        let networks: Vec<Network> = usable.networks().cloned().collect();
        let subnets: Vec<Subnet> = usable.subnets().cloned().collect();
        let routes: Vec<Route> = usable.routes().cloned().collect();
        let providers = usable.providers().filter_map(|provider| {
            let (port, mac) = *uplinks.get(&provider.uplink)?;
            Some((provider.clone(), port, mac))
        });
        let gateways: Vec<_> = usable
            .gateways()
            .filter_map(|gateway| Some((gateway.clone(), uplinks.get(&gateway.uplink)?.0)))
            .collect();
        let policy = Arc::new(Policy::new(&networks, &subnets, &routes, providers.collect(), &gateways));
        self.compiled = Some(Compiled { policy: Arc::clone(&policy), uplinks });
        policy
    }

    /// The provider addresses of this host.
    pub(super) fn own(&self) -> HashSet<IpAddr> {
        self.objects.providers().map(|provider| provider.address.addr()).collect()
    }
}
