//! The data path as the switch model uses it, so that the model's tests can put one in its place that refuses.

use std::net::IpAddr;
use std::sync::Arc;

use vswitch::explain::Explanation;
use vswitch::fdb::Entry;
use vswitch::nv::resolve::Resolution;
use vswitch::session::Shown;
use vswitch::snapshot::Snapshot;
use vswitch::state::{PortMemory, State};
use vswitch::{PortId, Tally};

use super::model::{Device, PortConfig};
use crate::dataplane::Dataplane;
use crate::spec::{DataplaneError, GuestSpec, PortCounters, PortStatus, TapSpec, UplinkSpec, WorkerStats};
use crate::watch::{Spec, Watching};

/// See [`Dataplane`], whose methods these are.
pub trait DataPath: Send {
    /// What is remembered from frame to frame; the lookup records are in it.
    fn state(&self) -> Arc<State>;
    /// Why packets for a customer address go where they go.
    fn resolve(&self, vsid: u32, ca: IpAddr) -> Resolution;
    /// Asks for next hops of the provider network that are not known. To be called every second.
    fn ask_next_hops(&self) {}
    /// Makes every worker follow `snapshot`.
    fn publish(&self, snapshot: Snapshot);
    /// Serves a port whose policy is published; `features` are the bits a guest port may offer.
    fn add(&self, port: &PortConfig, features: u64) -> Result<(), DataplaneError>;
    /// Stops serving a port.
    fn remove(&self, id: PortId);
    /// The same as [`Self::add`] for many ports: all of them or, with the place of the one that was refused, none.
    fn add_all(&self, ports: &[(&PortConfig, u64)]) -> Result<(), (usize, DataplaneError)> {
        for (place, (port, features)) in ports.iter().enumerate() {
            if let Err(error) = self.add(port, *features) {
                let served: Vec<_> = ports[..place].iter().map(|(port, _)| port.id).collect();
                self.remove_all(&served);
                return Err((place, error));
            }
        }
        Ok(())
    }
    /// The same as [`Self::remove`] for many ports.
    fn remove_all(&self, ids: &[PortId]) {
        for id in ids {
            self.remove(*id);
        }
    }
    /// What a port is doing.
    fn status(&self, id: PortId) -> Option<PortStatus>;
    /// A port's counters.
    fn counters(&self, id: PortId) -> PortCounters;
    /// Sets a port's counters to zero, before a number is given to a new port.
    fn clear_counters(&self, id: PortId);
    /// Packets and bytes of a tally.
    fn tally(&self, tally: Tally) -> (u64, u64);
    /// Sets a tally to zero and says what it was.
    fn clear_tally(&self, tally: Tally) -> (u64, u64);
    /// Makes room for a tally, which must succeed before a published snapshot may name it.
    fn ensure_tally(&self, tally: Tally) -> std::io::Result<()>;
    /// The sessions of a port or of all.
    fn sessions(&self, port: Option<PortId>) -> Vec<Shown>;
    /// Ends a port's sessions and says how many those were.
    fn flush_sessions(&self, port: PortId) -> u64;
    /// What would happen to a frame that a port sends: its first bytes and its whole length.
    fn explain(&self, from: PortId, head: &[u8], len: u32) -> Explanation;
    /// Shows frames to somebody; `None` if too many watch already.
    fn watch(&self, _: Spec) -> Option<Watching> {
        None
    }
    /// What is remembered of a port, none of whose frames is under way when this returns.
    fn save_port(&self, id: PortId) -> PortMemory;
    /// Puts in what was remembered of a port elsewhere, under the published policy.
    fn restore_port(&self, id: PortId, memory: &PortMemory);
    /// Forgets what is remembered of a port.
    fn forget_port(&self, id: PortId);
    /// Makes a port's counters what was counted elsewhere; what they were is there again after a crash.
    fn set_counters_for_now(&self, id: PortId, counters: &PortCounters);
    /// Makes a port's counters, for good, what they were (`Some`) or what they are now.
    fn settle_counters(&self, id: PortId, counters: Option<&PortCounters>);
    /// Makes a tally what was counted elsewhere.
    fn set_tally(&self, tally: Tally, packets: u64, bytes: u64);
    /// A guest is about to arrive at a port (or no longer): what comes for it is held.
    fn expect(&self, id: PortId, expected: bool);
    /// A guest is about to leave a port (or no longer): what comes for it while its rings stand still is held.
    fn hold(&self, id: PortId, held: bool);
    /// While closed, a port's rings do not start.
    fn gate(&self, id: PortId, closed: bool);
    /// What was held for a port's guest goes where the guest is now.
    fn forward_held(&self, id: PortId);
    /// What was held for a port's guest is dropped.
    fn discard_held(&self, id: PortId);
    /// Sends frames of the switch's own making out of the uplink, as from a port's network.
    fn announce(&self, id: PortId, frames: &[Vec<u8>]);
    /// Sends frames of the switch's own making out of an uplink, as they are.
    fn send_out(&self, uplink: PortId, frames: Vec<Vec<u8>>);
    /// The learned addresses.
    fn fdb(&self) -> Vec<Entry>;
    /// The workers' load.
    fn workers(&self) -> Vec<WorkerStats>;
    /// Stops all rings and joins all threads.
    fn shutdown(self: Box<Self>);
    /// The data path as one that can change its process, if it is one.
    fn dataplane(&self) -> Option<&Dataplane> {
        None
    }
}

impl DataPath for Dataplane {
    fn state(&self) -> Arc<State> {
        Self::state(self)
    }

    fn resolve(&self, vsid: u32, ca: IpAddr) -> Resolution {
        Self::resolve(self, vsid, ca)
    }

    fn ask_next_hops(&self) {
        Self::ask_next_hops(self);
    }

    fn publish(&self, snapshot: Snapshot) {
        Self::publish(self, snapshot);
    }

    fn add(&self, port: &PortConfig, features: u64) -> Result<(), DataplaneError> {
        let (id, name) = (port.id, port.name.clone());
        match &port.device {
            Device::Guest { .. } => guest(port, features).map_or(Ok(()), |spec| self.add_guest(spec)),
            Device::Host { interface } => {
                self.add_tap(&TapSpec { id, name, interface: interface.clone(), mac: port.mac })
            }
            Device::Uplink { interface, driver } => {
                let (interface, driver) = (interface.clone(), *driver);
                self.add_uplink(&UplinkSpec { id, name, interface, driver })
            }
        }
    }

    fn remove(&self, id: PortId) {
        Self::remove(self, id);
    }

    fn add_all(&self, ports: &[(&PortConfig, u64)]) -> Result<(), (usize, DataplaneError)> {
        let (mut guests, mut places, mut links) = (Vec::new(), Vec::new(), Vec::new());
        let undone = |links: &[PortId], place, error| {
            Self::remove_all(self, links);
            Err((place, error))
        };
        for (place, (port, features)) in ports.iter().enumerate() {
            match guest(port, *features) {
                Some(spec) => {
                    guests.push(spec);
                    places.push(place);
                }
                None => match self.add(port, *features) {
                    Ok(()) => links.push(port.id),
                    Err(error) => return undone(&links, place, error),
                },
            }
        }
        let added = self.add_guests(guests);
        added.or_else(|(place, error)| undone(&links, places.get(place).copied().unwrap_or_default(), error))
    }

    fn remove_all(&self, ids: &[PortId]) {
        Self::remove_all(self, ids);
    }

    fn status(&self, id: PortId) -> Option<PortStatus> {
        Self::status(self, id)
    }

    fn counters(&self, id: PortId) -> PortCounters {
        Self::counters(self, id)
    }

    fn clear_counters(&self, id: PortId) {
        Self::clear_counters(self, id);
    }

    fn tally(&self, tally: Tally) -> (u64, u64) {
        self.tallies().read(tally)
    }

    fn clear_tally(&self, tally: Tally) -> (u64, u64) {
        self.tallies().clear(tally)
    }

    fn ensure_tally(&self, tally: Tally) -> std::io::Result<()> {
        self.tallies().ensure(tally)
    }

    fn sessions(&self, port: Option<PortId>) -> Vec<Shown> {
        Self::sessions(self, port)
    }

    fn flush_sessions(&self, port: PortId) -> u64 {
        Self::flush_sessions(self, port)
    }

    fn explain(&self, from: PortId, head: &[u8], len: u32) -> Explanation {
        Self::explain(self, from, head, len)
    }

    fn watch(&self, spec: Spec) -> Option<Watching> {
        Self::watch(self, spec)
    }

    fn save_port(&self, id: PortId) -> PortMemory {
        Self::save_port(self, id)
    }

    fn restore_port(&self, id: PortId, memory: &PortMemory) {
        Self::restore_port(self, id, memory);
    }

    fn forget_port(&self, id: PortId) {
        Self::forget_port(self, id);
    }

    fn set_counters_for_now(&self, id: PortId, counters: &PortCounters) {
        self.tallies().set_port_for_now(id, counters);
    }

    fn settle_counters(&self, id: PortId, counters: Option<&PortCounters>) {
        if let Some(counters) = counters {
            self.tallies().set_port(id, counters);
        }
        self.tallies().forget_kept(id);
    }

    fn set_tally(&self, tally: Tally, packets: u64, bytes: u64) {
        self.tallies().set(tally, packets, bytes);
    }

    fn expect(&self, id: PortId, expected: bool) {
        Self::expect(self, id, expected);
    }

    fn hold(&self, id: PortId, held: bool) {
        Self::hold(self, id, held);
    }

    fn gate(&self, id: PortId, closed: bool) {
        Self::gate(self, id, closed);
    }

    fn forward_held(&self, id: PortId) {
        Self::forward_held(self, id);
    }

    fn discard_held(&self, id: PortId) {
        Self::discard_held(self, id);
    }

    fn announce(&self, id: PortId, frames: &[Vec<u8>]) {
        Self::announce(self, id, frames);
    }

    fn send_out(&self, uplink: PortId, frames: Vec<Vec<u8>>) {
        Self::send_out(self, uplink, frames);
    }

    fn fdb(&self) -> Vec<Entry> {
        Self::fdb(self)
    }

    fn workers(&self) -> Vec<WorkerStats> {
        Self::workers(self)
    }

    fn shutdown(self: Box<Self>) {
        Self::shutdown(*self);
    }

    fn dataplane(&self) -> Option<&Dataplane> {
        Some(self)
    }
}

/// What the data path needs to know of a guest port; `None` for other ports.
pub(super) fn guest(port: &PortConfig, features: u64) -> Option<GuestSpec> {
    let Device::Guest { socket, client, queues, mtu, .. } = &port.device else { return None };
    Some(GuestSpec {
        id: port.id,
        name: port.name.clone(),
        socket: socket.clone(),
        client: *client,
        mac: port.mac,
        queue_pairs: *queues,
        mtu: *mtu,
        features,
    })
}
