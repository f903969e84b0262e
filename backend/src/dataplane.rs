//! The running data path as the control plane sees it: workers, guest ports, links and the policy snapshot they follow.
//!
//! The control plane decides *what* the switch is (names, policy, store); this type makes it move. Every method may be
//! called from any thread; calls that change something are serialised by the caller.

pub mod takeover;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vswitch::event::Event;
use vswitch::explain::{Explanation, explain};
use vswitch::nv::resolve::{Resolution, resolve};
use vswitch::port::PortKind;
use vswitch::snapshot::Snapshot;
use vswitch::state::{PortMemory, State};
use vswitch::{PortId, nv};

use crate::extensions::Runner;
use crate::guest::connection::Server;
use crate::guest::hold::Room;
use crate::guest::{GuestPort, Owner, tsc};
use crate::link::{Link, Packet, Tap, Xdp};
use crate::spec::{
    DataplaneError, EventSink, GuestSpec, PortCounters, PortState, PortStatus, StateKeeper, TapSpec,
    UplinkDriver, UplinkSpec, WorkerOptions, WorkerStats,
};
use crate::tally::Tallies;
use crate::watch::{self, Watcher, Watching};
use crate::worker::{self, LinkPort, Port, Shared, Workers};

/// MTU of a TAP, in bytes.
const TAP_MTU: u16 = 1500;

/// A port's resources beside those that workers share.
struct Served {
    port: Port,
    // Dropped before the port: ends the connection and its threads.
    server: Option<Server>,
}

/// The running data path.
pub struct Dataplane {
    shared: Arc<Shared>,
    workers: Workers,
    tallies: Arc<Tallies>,
    served: Mutex<HashMap<PortId, Served>>,
    /// Room for frames that wait for guests on the move.
    room: Arc<Room>,
    /// Queue pairs handed out so far; the next goes to the worker with the fewest.
    load: Mutex<Vec<usize>>,
    keeper: Arc<dyn StateKeeper>,
    runner: Runner,
}

impl Dataplane {
    /// Starts the workers, following `snapshot` and counting in `tallies`. `keeper` is asked for what moves with a port.
    pub fn start(
        options: &WorkerOptions,
        tallies: impl Into<Arc<Tallies>>,
        snapshot: Snapshot,
        events: Arc<dyn EventSink>,
        keeper: Arc<dyn StateKeeper>,
    ) -> Result<Self, DataplaneError> {
        let tallies = tallies.into();
        let shared = Arc::new(Shared::new(snapshot, options.poll, worker::seed(), events));
        let workers = Workers::start(Arc::clone(&shared), options, &tallies)?;
        let load = Mutex::new(vec![0; shared.handles().len()]);
        let (served, room) = (Mutex::default(), Arc::default());
        let runner = Runner::start(Arc::clone(&shared), Arc::clone(&tallies))?;
        Ok(Self { shared, workers, tallies, served, room, load, keeper, runner })
    }

    /// Makes every worker follow `snapshot`; returns when each of them has passed the change.
    pub fn publish(&self, snapshot: Snapshot) {
        self.shared.state.fdb.set_limit(snapshot.config().fdb_size);
        self.shared.publish(Some(snapshot), |_| ());
        self.refresh_link_addresses();
        self.runner.attend();
    }

    /// What is remembered from frame to frame.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.shared.state)
    }

    /// Why packets of a virtual subnet for a customer address go where they go.
    pub fn resolve(&self, vsid: u32, ca: IpAddr) -> Resolution {
        let now = tsc::nanos(tsc::cycles());
        resolve(&self.shared.view().snapshot, &self.shared.state, now, vsid, ca)
    }

    /// Sends questions for next hops of the provider network that are not known, out of the uplinks they are at; reports those that do not
    /// answer and what else the provider network complains about.
    pub fn ask_next_hops(&self) {
        let view = self.shared.view();
        for (uplink, frame) in nv::due(&view.snapshot, &self.shared.state, tsc::nanos(tsc::cycles())) {
            self.send_out(uplink, vec![frame]);
        }
        for event in self.shared.state.nv.errors.take() {
            self.shared.events.emit(event);
        }
    }

    /// What would happen now to a frame that a port sends: its first bytes and its whole length. Changes nothing.
    pub fn explain(&self, from: PortId, head: &[u8], len: u32) -> Explanation {
        let view = self.shared.view();
        explain(&view.snapshot, &self.shared.state, tsc::nanos(tsc::cycles()), from, head, len)
    }

    /// Shows frames from now on; `None` if too many watch already. No worker does anything for it any more once it was dropped.
    pub fn watch(&self, spec: watch::Spec) -> Option<Watching> {
        let (watcher, records) = Watcher::new(spec);
        self.shared.watch(&watcher)?;
        let shared = Arc::downgrade(&self.shared);
        Some(Watching::new(records, move |watcher| {
            if let Some(shared) = shared.upgrade() {
                shared.unwatch(|other| Arc::ptr_eq(other, watcher));
            }
        }))
    }

    /// What is remembered of a port. When it returns, every worker is done with the frames it had when this was called.
    pub fn save_port(&self, id: PortId) -> PortMemory {
        self.shared.publish(None, |_| ());
        self.shared.state.save_port(tsc::nanos(tsc::cycles()), id)
    }

    /// Puts in what was remembered of a port elsewhere, as far as the published policy allows it.
    pub fn restore_port(&self, id: PortId, memory: &PortMemory) {
        let view = self.shared.view();
        self.shared.state.restore_port(tsc::nanos(tsc::cycles()), id, memory, &view.snapshot);
    }

    /// Forgets what is remembered of a port whose rings stand still.
    pub fn forget_port(&self, id: PortId) {
        self.shared.state.remove_port(id);
    }

    /// The learned addresses.
    pub fn fdb(&self) -> Vec<vswitch::fdb::Entry> {
        self.shared.state.fdb.entries(tsc::nanos(tsc::cycles()))
    }

    /// The sessions of stateful rules, of a port or of all.
    pub fn sessions(&self, port: Option<PortId>) -> Vec<vswitch::session::Shown> {
        self.shared.state.sessions.list(tsc::nanos(tsc::cycles()), port)
    }

    /// Ends a port's sessions and says how many those were.
    pub fn flush_sessions(&self, port: PortId) -> u64 {
        self.shared.state.sessions.flush(port)
    }

    /// Starts to serve a guest port; its policy must already be in the published snapshot.
    pub fn add_guest(&self, spec: GuestSpec) -> Result<(), DataplaneError> {
        let id = spec.id;
        let served = self.serve_guest(spec)?;
        self.run(vec![(id, served)]);
        Ok(())
    }

    /// Starts to serve guest ports, all of them or, with the place of the one that was refused, none. Workers take over once,
    /// which for many ports takes far less than one by one.
    pub fn add_guests(&self, specs: Vec<GuestSpec>) -> Result<(), (usize, DataplaneError)> {
        let mut all = Vec::new();
        for (place, spec) in specs.into_iter().enumerate() {
            let id = spec.id;
            match self.serve_guest(spec) {
                Ok(served) => all.push((id, served)),
                Err(error) => {
                    for (_, Served { port, server }) in all {
                        drop(server);
                        self.give_back(&port);
                    }
                    return Err((place, error));
                }
            }
        }
        self.run(all);
        Ok(())
    }

    /// A guest port with its socket, which workers do not know yet.
    fn serve_guest(&self, spec: GuestSpec) -> Result<Served, DataplaneError> {
        self.make_room(spec.id)?;
        let port = self.guest_port(spec);
        let server = match &port {
            Port::Guest(port) => Server::start(Arc::clone(port)).map(Some),
            Port::Link(_) => Ok(None),
        };
        match server {
            Ok(server) => Ok(Served { port, server }),
            Err(error) => {
                self.give_back(&port);
                Err(error)
            }
        }
    }

    /// A guest port with a worker for each of its queue pairs.
    fn guest_port(&self, spec: GuestSpec) -> Port {
        let owners = (0..spec.queue_pairs)
            .map(|_| {
                let worker = self.place();
                Arc::clone(&self.shared.handles()[worker]) as Arc<dyn Owner>
            })
            .collect();
        let (events, keeper) = (Arc::clone(&self.shared.events), Arc::clone(&self.keeper));
        Port::Guest(Arc::new(GuestPort::new(spec, owners, events, keeper).with_room(&self.room)))
    }

    /// Creates (if missing) and serves a TAP.
    pub fn add_tap(&self, spec: &TapSpec) -> Result<(), DataplaneError> {
        self.make_room(spec.id)?;
        let tap = Tap::open(&spec.interface, spec.mac, None)?;
        self.add_link(spec.id, TAP_MTU, Box::new(tap));
        Ok(())
    }

    /// Serves a network interface as the uplink.
    pub fn add_uplink(&self, spec: &UplinkSpec) -> Result<(), DataplaneError> {
        self.make_room(spec.id)?;
        let (link, mtu): (Box<dyn Link>, u32) = match spec.driver {
            UplinkDriver::Packet => {
                let packet = Packet::open(&spec.interface)?;
                let mtu = packet.mtu();
                (Box::new(packet), mtu)
            }
            UplinkDriver::Xdp => {
                let xdp = Xdp::open(&spec.interface)?;
                let mtu = xdp.mtu();
                (Box::new(xdp), mtu)
            }
        };
        self.add_link(spec.id, u16::try_from(mtu).unwrap_or(u16::MAX), link);
        self.refresh_link_addresses();
        Ok(())
    }

    /// Makes sure that a port's counters have their room in the file.
    fn make_room(&self, id: PortId) -> Result<(), DataplaneError> {
        let what = "room for a port's counters";
        self.tallies.ensure_port(id).map_err(|source| DataplaneError::System { what, source })
    }

    fn add_link(&self, id: PortId, mtu: u16, link: Box<dyn Link>) {
        let port = Port::Link(Arc::new(LinkPort::new(id, link, mtu, self.place())));
        self.run(vec![(id, Served { port, server: None })]);
        self.shared.events.emit(Event::PortRunning { port: id });
    }

    /// Puts ports into the view of all workers.
    fn run(&self, all: Vec<(PortId, Served)>) {
        let ports: Vec<_> = all.iter().map(|(id, served)| (*id, served.port.clone())).collect();
        lock(&self.served).extend(all);
        self.shared.publish(None, |table| {
            for (id, port) in ports {
                if table.len() <= id.index() {
                    table.resize(id.index() + 1, None);
                }
                table[id.index()] = Some(port);
            }
        });
    }

    /// Stops serving a port and returns when no worker uses it any more.
    pub fn remove(&self, id: PortId) {
        self.remove_all(&[id]);
    }

    /// Stops serving ports and returns when no worker uses any of them any more.
    pub fn remove_all(&self, ids: &[PortId]) {
        let mut served = lock(&self.served);
        let gone: Vec<_> =
            ids.iter().filter_map(|id| served.remove(id).map(|served| (*id, served))).collect();
        drop(served);
        if gone.is_empty() {
            return;
        }
        // Their numbers may be given to other ports.
        self.shared.unwatch(|watcher| watcher.spec.port.is_some_and(|port| ids.contains(&port)));
        self.shared.publish(None, |ports| {
            for (id, _) in &gone {
                if let Some(slot) = ports.get_mut(id.index()) {
                    *slot = None;
                }
            }
        });
        for (id, Served { port, server }) in gone {
            drop(server);
            self.give_back(&port);
            self.shared.state.remove_port(id);
        }
    }

    /// What a port is doing; `None` for an unknown one.
    pub fn status(&self, id: PortId) -> Option<PortStatus> {
        let served = lock(&self.served);
        Some(match &served.get(&id)?.port {
            Port::Guest(port) => PortStatus {
                state: port.state(),
                features: port.features(),
                workers: port.owners.iter().map(|owner| owner.id()).collect(),
                mtu: port.mtu(),
                mode: None,
                attached: port.is_attached(),
                attachments: port.attachments(),
                starts: port.starts(),
                knocks: port.knocks(),
                missed: None,
            },
            Port::Link(port) => PortStatus {
                state: if port.is_running() { PortState::Running } else { PortState::Stopped },
                features: 0,
                workers: vec![port.owner],
                mtu: port.mtu,
                mode: port.link.mode(),
                attached: false,
                attachments: 0,
                starts: 0,
                knocks: false,
                missed: Some(port.link.receive_drops()),
            },
        })
    }

    /// A port's counters, summed over the workers, whether it is served now or not.
    pub fn counters(&self, id: PortId) -> PortCounters {
        self.tallies.port(id)
    }

    /// Sets a port's counters to zero: its number is given to another one.
    pub fn clear_counters(&self, id: PortId) {
        self.tallies.clear_port(id);
    }

    /// What ACL entries and rules counted.
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// The workers' load.
    pub fn workers(&self) -> Vec<WorkerStats> {
        self.shared.handles().iter().map(|handle| handle.stats()).collect()
    }

    /// Stops all rings and joins all threads.
    pub fn shutdown(self) {
        let ids: Vec<_> = lock(&self.served).keys().copied().collect();
        self.remove_all(&ids);
        drop(self.workers);
    }

    // === guests on the move ===

    /// Holds what comes for a guest port from the moment its rings stand still (`on`; at once if they do), until they run again,
    /// [`Dataplane::discard_held`], or this is taken back, which gives up what is held unless rings run.
    pub fn hold(&self, id: PortId, on: bool) {
        self.with_guest(id, |port| port.freeze(on));
    }

    /// Holds what comes for a guest that has yet to arrive at a port, until its rings run or this is taken back.
    pub fn expect(&self, id: PortId, on: bool) {
        self.with_guest(id, |port| port.expect(on));
    }

    /// While closed, the rings of a guest port do not start; opening starts those that its front end wants to run. Rings that run already
    /// go on.
    pub fn gate(&self, id: PortId, closed: bool) {
        self.with_guest(id, |port| port.gate(closed));
    }

    /// Sends what is held for a guest port out of the uplink, and what is yet to come for it too, until its rings run or the hold ends. Exempt
    /// from policy and limits. What was flooded is dropped instead: it has been there.
    pub fn forward_held(&self, id: PortId) {
        self.with_guest(id, GuestPort::forward_held);
    }

    /// Gives up what is held for a guest port; counted as `receiver-not-running`.
    pub fn discard_held(&self, id: PortId) {
        self.with_guest(id, GuestPort::discard_held);
    }

    /// Frames and bytes held for a guest port.
    pub fn held(&self, id: PortId) -> (usize, usize) {
        self.with_guest(id, GuestPort::held).unwrap_or_default()
    }

    /// Sends frames, given without tags, out of the uplink in every network that the port can send in. Exempt from policy and limits, and counted
    /// at the uplink only. See [`vswitch::announce`].
    pub fn announce(&self, id: PortId, frames: &[Vec<u8>]) {
        let worker = self.with_guest(id, |port| port.owners.first().map(|owner| owner.id())).flatten();
        if let Some(handle) = worker.and_then(|worker| self.shared.handles().get(worker)) {
            handle.announce(id, frames.to_vec());
        }
    }

    /// Sends frames out of an uplink exactly as they are, with the tags they have. Exempt from policy and limits, and counted at the uplink
    /// only. Dropped when too many wait.
    pub fn send_out(&self, uplink: PortId, frames: Vec<Vec<u8>>) {
        let owner = match lock(&self.served).get(&uplink).map(|served| &served.port) {
            Some(Port::Link(link)) => link.owner,
            _ => return,
        };
        if let Some(handle) = self.shared.handles().get(owner) {
            handle.send_out(uplink, frames);
        }
    }

    fn with_guest<R>(&self, id: PortId, what: impl FnOnce(&GuestPort) -> R) -> Option<R> {
        let port = match &lock(&self.served).get(&id)?.port {
            Port::Guest(port) => Arc::clone(port),
            Port::Link(_) => return None,
        };
        Some(what(&port))
    }

    // === placement ===

    /// The worker with the fewest queue pairs.
    fn place(&self) -> usize {
        let mut load = lock(&self.load);
        let worker = (0..load.len()).min_by_key(|&worker| load[worker]).unwrap_or(0);
        load[worker] += 1;
        worker
    }

    fn give_back(&self, port: &Port) {
        let mut load = lock(&self.load);
        let mut leave = |worker: usize| load[worker] = load[worker].saturating_sub(1);
        match port {
            Port::Guest(port) => port.owners.iter().for_each(|owner| leave(owner.id())),
            Port::Link(port) => leave(port.owner),
        }
    }

    /// Tells the uplink for which addresses it must take frames; everything only when some port may have unknown addresses behind it.
    fn refresh_link_addresses(&self) {
        let view = self.shared.view();
        let local = view.snapshot.ports().filter(|port| port.kind != PortKind::Uplink);
        let (mut addresses, mut promiscuous) = (Vec::new(), false);
        for port in local {
            addresses.push(port.mac);
            promiscuous |= port.policy.mac_spoofing;
        }
        for port in view.ports() {
            if let Port::Link(port) = port
                && let Err(error) = port.link.set_addresses(&addresses, promiscuous)
            {
                log::warn!("port {}: {error}", port.id);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
