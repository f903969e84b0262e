//! The switch as its operator knows it: settings, ports and their policy; the data path and the store follow it.
//!
//! Every change has two phases: everything is checked, then it is applied. What can still fail while applying (a socket
//! taken in between, a full disk) is undone, so a refused change leaves everything as it was. A port's policy is
//! published before its rings run, and a port is unpublished only after the data path has let go of it.
//!
//! Threading: one [`Switch`] per process, behind one mutex; its methods may wait for workers and for the disk, so the API
//! calls them on threads that may block.

pub mod acl;
mod admit;
mod apply;
mod change;
pub mod check;
mod compile;
mod explain;
pub mod extension;
pub mod handover;
pub mod host;
pub mod list;
mod lists;
pub mod meter;
pub mod model;
pub mod nv;
pub mod path;
mod port;
pub mod rule;
mod session;
pub mod takeover;
pub mod tallies;
pub mod types;
mod view;
pub(crate) mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use migration::seal::FleetKey;
use vswitch::event::Event;
use vswitch::port::PortKind;
use vswitch::refusal::{Object, Refusal, Refused};
use vswitch::snapshot::Snapshot;

use self::compile::{compile, initial_mtu, serve, system};
use self::extension::Extensions;
use self::extension::library::Library;
use self::handover::{Arrival, Departure, Kept};
use self::model::{Device, MacPool, PortConfig, Settings};
use self::nv::object::RecordKey;
use self::nv::records::RecordTable;
use self::path::DataPath;
use self::tallies::Tallies;
use self::types::{NewPort, NewUplink, PortChange, SwitchChange};
use crate::events::EventLog;
use crate::spec::{DataplaneError, EventSink, PortState};
use crate::store::policy::SharedStore;
use crate::store::{Saved, Store};

/// MTU of a port that is given none, in bytes.
const DEFAULT_MTU: u16 = 1500;

/// Why a port is not served that is still to be.
const NOT_SERVED: &str = "it has not been started";

/// Who this host is.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub id: String,
    /// Where dynamic addresses come from.
    pub pool: MacPool,
    /// Where modules of extensions come from.
    pub library: Library,
}

#[derive(Clone)]
struct Entry {
    config: PortConfig,
    /// MTU in force, in bytes.
    mtu: u16,
    /// Why the data path does not serve the port, if it does not.
    fault: Option<String>,
    /// Whether its guest is here: its rings run, or its state has arrived.
    present: bool,
    /// While its rings run, as extensions know: how often they had started.
    connected: Option<u32>,
    /// Whether it requires an extension that is not there, as last published.
    unmet: bool,
    /// A guest that is about to arrive.
    arrival: Option<Box<Arrival>>,
    /// A guest that is about to leave.
    departure: Option<Departure>,
    /// Where the socket is that it listens on, in the one spelling of [`check::same_place`].
    place: Option<PathBuf>,
}

impl Entry {
    /// A port that is not served yet.
    fn new(config: PortConfig) -> Self {
        let mtu = initial_mtu(&config.device);
        let place = match &config.device {
            Device::Guest { socket, .. } => Some(check::same_place(socket)),
            _ => None,
        };
        let present = config.device.kind() != PortKind::Guest;
        let (connected, unmet, arrival, departure) = (None, false, None, None);
        Self { config, mtu, fault: None, present, connected, unmet, arrival, departure, place }
    }
}

/// The switch.
pub struct Switch {
    host: Host,
    settings: Settings,
    ports: BTreeMap<String, Entry>,
    last_id: u16,
    epoch: u64,
    tallies: Tallies,
    /// `None` once the switch is stopping.
    data: Option<Box<dyn DataPath>>,
    store: Store,
    events: Arc<EventLog>,
    /// The enabled extensions.
    extensions: Extensions,
    /// Network virtualization but for its records.
    nv: nv::Nv,
    /// The store of it that hosts share, if they do.
    policy: Option<Arc<dyn SharedStore>>,
    /// The records; there are some once there is a data path.
    records: Option<RecordTable>,
    /// With what states of ports are sealed and verified.
    fleet_key: Option<FleetKey>,
    kept: Kept,
}

impl Switch {
    /// Makes the switch that `saved` describes; `start` starts the data path with its first snapshot.
    ///
    /// A stored port that cannot be served now is kept, stopped, and tried again by [`Self::tick`].
    pub fn start<D: DataPath + 'static>(
        host: Host,
        store: Store,
        saved: Saved,
        events: Arc<EventLog>,
        start: impl FnOnce(Snapshot) -> Result<D, DataplaneError>,
    ) -> Result<Self, Refused> {
        let mut switch = Self::prepare(host, store, saved, events, start)?;
        let offer = switch.nv_offered();
        if let Some(data) = &switch.data {
            for entry in switch.ports.values_mut() {
                entry.fault = serve(&**data, &offer.of(&entry.config)).err().map(|e| e.to_string());
                if let Some(reason) = &entry.fault {
                    switch.events.emit(Event::PortFailed { port: entry.config.id, reason: reason.clone() });
                }
            }
        }
        switch.follow_devices();
        switch.follow_cards();
        Ok(switch)
    }

    /// The switch that `saved` describes, with all policy in force and no port served yet.
    pub fn prepare<D: DataPath + 'static>(
        host: Host,
        store: Store,
        saved: Saved,
        events: Arc<EventLog>,
        start: impl FnOnce(Snapshot) -> Result<D, DataplaneError>,
    ) -> Result<Self, Refused> {
        let tallies = Tallies::of(saved.ports.iter(), saved.settings.extensions.tallies())
            .map_err(|reason| Refusal::StateCorrupt { reason }.of(Object::Switch))?;
        let mut switch = Self {
            tallies,
            extensions: Extensions::new(host.library.clone()),
            host,
            settings: saved.settings,
            ports: BTreeMap::new(),
            last_id: 0,
            epoch: 0,
            data: None,
            store,
            events,
            nv: nv::Nv::default(),
            policy: None,
            records: None,
            fleet_key: None,
            kept: Kept::default(),
        };
        let (records, objects): (Vec<_>, Vec<_>) =
            saved.nv.into_iter().partition(|object| matches!(object, nv::object::Object::Record(_)));
        switch.nv = nv::Nv::of(objects);
        for config in saved.ports {
            switch.events.name_port(config.id, &config.name);
            switch.last_id = switch.last_id.max(config.id.0);
            let mut entry = Entry::new(config);
            entry.fault = Some(NOT_SERVED.to_owned());
            switch.ports.insert(entry.config.name.clone(), entry);
        }
        switch.follow_uplinks();
        let relisted = switch.start_extensions()?;
        let first = switch.snapshot();
        let data = start(first).map_err(|e| system(&e).of(Object::Switch))?;
        let table = RecordTable::new(data.state());
        table.set_own(switch.nv.own());
        let records = records.into_iter().filter_map(|object| match object {
            nv::object::Object::Record(record) => Some((RecordKey::of(&record), Some(record))),
            _ => None,
        });
        table.apply(&records.collect::<Vec<_>>());
        switch.records = Some(table);
        switch.data = Some(Box::new(data));
        switch.make_room(switch.all_tallies()).map_err(|why| why.of(Object::Switch))?;
        if relisted {
            switch.store.put(Some(&switch.settings), &[]).map_err(|why| why.of(Object::Switch))?;
        }
        Ok(switch)
    }

    /// States of ports are sealed with this key from now on, and those without its seal bring no policy.
    pub fn set_fleet_key(&mut self, key: FleetKey) {
        self.fleet_key = Some(key);
    }

    /// Number of ports, uplink included.
    pub fn port_count(&self) -> usize {
        self.ports.len()
    }

    /// Stops all rings; every later change is refused.
    pub fn stop(&mut self) {
        self.nv_remember_all();
        if let Some(data) = self.data.take() {
            data.shutdown();
        }
        self.store = Store::none();
    }

    /// To be called every few seconds: opens again what has stopped, and follows changed MTUs and uplink addresses.
    pub fn tick(&mut self) {
        let offer = self.nv_offered();
        let Some(data) = &self.data else { return };
        for entry in self.ports.values_mut() {
            let port = entry.config.id;
            let is_link = entry.config.device.interface().is_some();
            // A link stops for good when its interface is gone; one of the same name may be back.
            let gone = is_link && data.status(port).is_some_and(|s| s.state == PortState::Stopped);
            if !gone && entry.fault.is_none() {
                continue;
            }
            if gone {
                data.remove(port);
            }
            match serve(&**data, &offer.of(&entry.config)) {
                Ok(()) => {
                    log::info!("port '{}' can be served again", entry.config.name);
                    entry.fault = None;
                }
                Err(e) => {
                    let reason = e.to_string();
                    if entry.fault.replace(reason.clone()).is_none() {
                        self.events.emit(Event::PortFailed { port, reason });
                    }
                }
            }
        }
        self.follow_devices();
        self.follow_cards();
        self.follow_faults();
        self.follow_awaited();
        self.nv_remember();
    }

    /// To be called every second or sooner: asks for next hops of the provider network, and for records that are missing.
    pub fn ask_next_hops(&self) {
        self.look_up_records();
        if let Some(data) = self.data.as_ref().filter(|_| self.settings.nv) {
            data.ask_next_hops();
        }
    }

    /// Adds a guest port or a host port.
    pub fn add_port(&mut self, new: &NewPort) -> Result<(), Refused> {
        let result = self.check_port(new).and_then(|config| self.add(config));
        self.noted(result, || Object::Port(new.name.clone()))
    }

    /// Adds the uplink.
    pub fn add_uplink(&mut self, new: &NewUplink) -> Result<(), Refused> {
        let result = self.check_uplink(new).and_then(|config| self.add(config));
        self.noted(result, || Object::Uplink(new.name.clone()))
    }

    /// Removes a guest port or a host port.
    pub fn remove_port(&mut self, name: &str) -> Result<(), Refused> {
        let result = self.check_noun(name, false).and_then(|()| self.remove(name));
        self.noted(result, || Object::Port(name.to_owned()))
    }

    /// Removes the uplink.
    pub fn remove_uplink(&mut self, name: &str) -> Result<(), Refused> {
        let checked = self.check_noun(name, true).and_then(|()| self.nv_spares(name));
        let result = checked.and_then(|()| self.remove(name));
        self.noted(result, || Object::Uplink(name.to_owned()))
    }

    /// Changes a port's policy.
    pub fn set_port(&mut self, name: &str, change: &PortChange) -> Result<(), Refused> {
        let result = self.change_port(name, change);
        self.noted(result, || Object::Port(name.to_owned()))
    }

    /// Changes switch-wide settings.
    pub fn set_switch(&mut self, change: &SwitchChange) -> Result<(), Refused> {
        let result = self.change_switch(change);
        self.noted(result, || Object::Switch)
    }

    // === what changes are made of ===

    /// Gives a refusal its object and tells operators.
    fn noted<T>(&self, result: Result<T, Refusal>, object: impl FnOnce() -> Object) -> Result<T, Refused> {
        self.told(result.map_err(|why| why.of(object())))
    }

    /// Tells operators who follow the events of a refusal.
    fn told<T>(&self, result: Result<T, Refused>) -> Result<T, Refused> {
        result.inspect_err(|refused| {
            self.events.emit(Event::Refused {
                object: refused.object.to_string(),
                code: refused.why.code().to_owned(),
                reason: refused.why.to_string(),
            });
        })
    }

    fn names(&self, uplinks_only: bool) -> Vec<String> {
        let wanted = |e: &&Entry| !uplinks_only || e.config.device.kind() == PortKind::Uplink;
        self.ports.values().filter(wanted).map(|e| e.config.name.clone()).collect()
    }

    fn entry(&self, name: &str) -> Result<&Entry, Refusal> {
        self.ports.get(name).ok_or_else(|| Refusal::UnknownPort { known: self.names(false) })
    }

    fn publish(&mut self) {
        let snapshot = self.snapshot();
        if let Some(data) = &self.data {
            data.publish(snapshot);
        }
        self.nv_interest();
    }

    fn snapshot(&mut self) -> Snapshot {
        self.epoch += 1;
        self.note_unmet();
        compile(self.epoch, &self.settings, &self.ports, &mut self.nv, &self.extensions)
    }
}
