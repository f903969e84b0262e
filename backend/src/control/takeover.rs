//! The switch changes its process: what the one offers, and how the other becomes the same switch.
//!
//! The configuration travels with the rest, so that a successor is the same switch whatever its state directory holds. While a take-over
//! is under way the switch is locked: no change comes between what was offered and what is handed over.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vswitch::PortId;
use vswitch::event::Event;
use vswitch::refusal::{Object, Refusal, Refused};
use vswitch::state::PortMemory;

use super::extension::Remembered;
use super::list::List;
use super::model::{Device, PortConfig, Settings};
use super::path::guest;
use super::{Entry, Switch, acl, nv, rule};
use crate::dataplane::takeover::{Adopted, DeviceText, Frozen};
use crate::guest::connection::Parked;
use crate::guest::features;
use crate::spec::EventSink;
use crate::store::{Saved, Store};

/// How long the store of a successor that failed may take to be free again.
const RECLAIM: Duration = Duration::from_secs(5);

/// A port's configuration with its lists.
#[derive(Debug, Serialize, Deserialize)]
pub struct PortOffer {
    config: PortConfig,
    /// Whether its guest is there.
    present: bool,
    acl: Vec<acl::Row>,
    rules: Vec<rule::Row>,
}

impl PortOffer {
    fn of(entry: &Entry) -> Self {
        let Entry { config, present, .. } = entry;
        let acl = config.acl.items().map(acl::Row::from).collect();
        let rules = config.rules.items().map(rule::Row::from).collect();
        Self { config: config.clone(), present: *present, acl, rules }
    }

    /// The port, judged as one from a store would be.
    pub fn judge(self) -> Result<(PortConfig, bool), String> {
        let Self { mut config, present, acl, rules } = self;
        let wrong = |why: Refusal| format!("port '{}': {why}", config.name);
        let acl =
            acl.iter().map(acl::Row::judge).collect::<Result<_, _>>().and_then(List::new).map_err(wrong)?;
        let rules = rules
            .iter()
            .map(rule::Row::judge)
            .collect::<Result<_, _>>()
            .and_then(List::new)
            .map_err(wrong)?;
        config.acl = Arc::new(acl);
        config.rules = Arc::new(rules);
        config.judge()?;
        Ok((config, present))
    }
}

/// A port as it arrives in another process.
#[derive(Debug)]
pub struct Arrived {
    /// Its number.
    pub id: PortId,
    /// What is behind it.
    pub device: DeviceText,
    /// The descriptors that belong to `device`.
    pub fds: Vec<OwnedFd>,
    /// What is remembered of it.
    pub memory: PortMemory,
    /// What extensions remember of it.
    pub extensions: Vec<Remembered>,
}

impl Switch {
    // === in the process that hands over ===

    /// Settings, ports, and the last number given to a port.
    pub fn take_stock(&self) -> Result<(Settings, Vec<PortOffer>, u16), Refusal> {
        let Some(data) = &self.data else { return Err(Refusal::Stopping) };
        for entry in self.ports.values() {
            let features = data.status(entry.config.id).map_or(0, |status| status.features);
            let departs = entry.departure.is_some_and(|departure| !departure.is_over());
            if entry.arrival.is_some() || departs || features & features::LOG_ALL != 0 {
                return Err(Refusal::TakeOverMoving { port: entry.config.name.clone() });
            }
        }
        Ok((self.settings.clone(), self.ports.values().map(PortOffer::of).collect(), self.last_id))
    }

    /// The file of the counters.
    pub fn counters_file(&self) -> Option<std::io::Result<OwnedFd>> {
        let data = self.data.as_ref()?.dataplane()?;
        Some(data.tallies().file().try_clone().map(OwnedFd::from))
    }

    /// Closes the store, so that another process can open it. To be followed by [`Self::reclaim_store`] or [`Self::stop`].
    pub fn release_store(&mut self) {
        self.nv_remember_all();
        self.store = Store::none();
    }

    /// Opens the store again after a take-over that failed. If the other process keeps it, every change is refused until the switch is
    /// started anew.
    pub fn reclaim_store(&mut self, directory: Option<&Path>) {
        let Some(directory) = directory else { return };
        let deadline = Instant::now() + RECLAIM;
        self.store = loop {
            match Store::open(directory) {
                Ok((store, _)) => break store,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(refused) => {
                    log::error!("changes are refused from now on: {refused}");
                    break Store::lost(refused.why.to_string());
                }
            }
        };
    }

    /// Stops everything that moves, between two frames; [`Self::thaw`] goes on.
    pub fn freeze(&self) -> Option<Frozen> {
        Some(self.data.as_ref()?.dataplane()?.freeze())
    }

    /// Goes on as if nothing had been.
    pub fn thaw(&self, frozen: Frozen) {
        if let Some(data) = self.data.as_ref().and_then(|data| data.dataplane()) {
            data.thaw(frozen);
        }
    }

    /// What is remembered of a port; to be asked while everything is frozen.
    pub fn memory(&self, id: PortId) -> PortMemory {
        let data = self.data.as_ref().and_then(|data| data.dataplane());
        data.map(|data| data.memory(id)).unwrap_or_default()
    }

    // === in the process that takes over ===

    /// Becomes the switch of another process but for its devices, which come with [`Self::take_devices`]. The guests of these ports are
    /// `present`.
    pub fn expect_ports(&mut self, present: &BTreeSet<PortId>, last_id: u16) {
        self.last_id = self.last_id.max(last_id);
        for entry in self.ports.values_mut() {
            entry.present = present.contains(&entry.config.id);
        }
        self.follow_devices();
        self.publish();
    }

    /// Goes on with the devices of another process: first what is remembered, then rings, then everything moves. A port whose device did
    /// not come is opened as at a start.
    pub fn take_devices(&mut self, mut arrived: Vec<Arrived>) {
        let mut before = Vec::new();
        for Arrived { id, extensions, .. } in &mut arrived {
            before.extend(self.recall(*id, std::mem::take(extensions)));
        }
        let offer = self.nv_offered();
        let Some(data) = self.data.as_ref().and_then(|data| data.dataplane()) else { return };
        let mut adopted = Vec::new();
        for Arrived { id, device, fds, memory, .. } in arrived {
            let Some(entry) = self.ports.values_mut().find(|entry| entry.config.id == id) else { continue };
            data.restore_port(id, &memory);
            match device_of(&offer.of(&entry.config), device, fds) {
                Some(device) => adopted.push(device),
                None => continue,
            }
            entry.fault = None;
        }
        for (id, error) in data.adopt(adopted) {
            if let Some(entry) = self.ports.values_mut().find(|entry| entry.config.id == id) {
                let reason = error.to_string();
                self.events.emit(Event::PortFailed { port: id, reason: reason.clone() });
                entry.fault = Some(reason);
            }
        }
        // Not earlier: no frame waits for the disk.
        for was in before {
            let Some(now) = self.ports.get(&was.name) else { continue };
            if let Err(why) = self.store.put(None, &[(Some(&was), Some(&now.config))]) {
                // What is in force is right, and is stored with the next change.
                log::error!("port '{}': {why}", was.name);
            }
        }
        self.tick();
    }
}

/// What the data path is to serve; `None` when what arrived does not fit the port.
fn device_of(config: &PortConfig, device: DeviceText, fds: Vec<OwnedFd>) -> Option<Adopted> {
    match (device, &config.device) {
        (DeviceText::Guest(text), Device::Guest { .. }) => {
            let spec = guest(config, config.device.feature_bits().ok()?)?;
            Some(Adopted::Guest(spec, Parked::from_parts(text, fds)?))
        }
        (DeviceText::Link(text), Device::Host { .. } | Device::Uplink { .. }) => {
            Some(Adopted::Link(config.id, config.device.kind(), text, fds))
        }
        _ => None,
    }
}

/// Makes a store hold what another process's switch is made of; objects that hosts share are in another store.
pub fn store_as(store: &Store, was: &Saved, now: &Saved, shares_policy: bool) -> Result<(), Refused> {
    let settings = (was.settings != now.settings).then_some(&now.settings);
    let old = |name: &str| was.ports.iter().find(|port| port.name == name);
    let gone = was.ports.iter().filter(|port| !now.ports.iter().any(|there| there.name == port.name));
    let changed = now.ports.iter().filter(|port| old(&port.name) != Some(port));
    let pairs: Vec<_> = gone
        .map(|port| (Some(port), None))
        .chain(changed.map(|port| (old(&port.name), Some(port))))
        .collect();
    let kept = |object: &&nv::object::Object| !shares_policy || object.key().is_local();
    let mut there: HashMap<_, _> = was.nv.iter().map(|object| (object.key(), object)).collect();
    let mut changes = Vec::new();
    for object in now.nv.iter().filter(kept) {
        match there.remove(&object.key()) {
            Some(same) if same == object => {}
            Some(other) => changes.push(nv::object::Change::replace(other.clone(), object.clone())),
            None => changes.push(nv::object::Change::create(object.clone())),
        }
    }
    changes.extend(there.into_values().cloned().map(nv::object::Change::remove));
    if settings.is_none() && pairs.is_empty() && changes.is_empty() {
        return Ok(());
    }
    store.put_all(settings, &pairs, &changes).map_err(|why| why.of(Object::Switch))
}
