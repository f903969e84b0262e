//! A data path in this process, told what to do without a control plane between: for what the control plane does on its own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backend::dataplane::Dataplane;
use backend::guest::features;
use backend::spec::{EventSink, GuestSpec, PollMode, StateKeeper, UplinkDriver, UplinkSpec, WorkerOptions};
use backend::tally::Tallies;
use turnpike_tests::{Guest, Options, eventually};
use vhost::VhostBackend;
use vswitch::event::Event;
use vswitch::port::{Policy, Port, PortKind};
use vswitch::snapshot::{Snapshot, SwitchConfig, SwitchKind};
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId};

/// The uplink's number.
pub(crate) const UPLINK: u16 = 99;
/// Address of its interface.
pub(crate) const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 9, 9]);

/// What happened.
#[derive(Default)]
pub(crate) struct Notes(Mutex<Vec<Event>>);

impl EventSink for Notes {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Notes {
    /// Events so far for which `wanted` holds.
    pub(crate) fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| wanted(event)).count()
    }
}

struct NoState;

impl StateKeeper for NoState {
    fn save(&self, _: PortId) -> Result<Vec<u8>, String> {
        Err("no state is kept here".into())
    }
    fn load(&self, _: PortId, _: &[u8]) -> Result<(), String> {
        Err("no state is kept here".into())
    }
}

/// A data path with its policy.
pub(crate) struct Rig {
    pub(crate) data: Dataplane,
    pub(crate) notes: Arc<Notes>,
    dir: tempfile::TempDir,
    ports: Vec<Port>,
    epoch: u64,
}

/// The address of port `n`.
pub(crate) const fn mac(n: u16) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, n as u8]
}

impl Rig {
    /// A data path with these guest ports (number, policy).
    pub(crate) fn new(guests: &[(u16, Policy)]) -> Self {
        let dir = tempfile::Builder::new().prefix("turnpike-rig-").tempdir().unwrap();
        let notes: Arc<Notes> = Arc::default();
        let options = WorkerOptions { cpus: None, poll: PollMode::Micros(20) };
        let first = Snapshot::new(1, SwitchConfig::default(), Vec::new());
        let tallies = Tallies::open(None, 2).unwrap();
        let data =
            Dataplane::start(&options, tallies, first, Arc::clone(&notes) as _, Arc::new(NoState)).unwrap();
        let mut rig = Self { data, notes, dir, ports: Vec::new(), epoch: 1 };
        for (n, policy) in guests {
            let port = Port::new(PortId(*n), PortKind::Guest, Mac(mac(*n)));
            rig.ports.push(Port { policy: policy.clone(), ..port });
        }
        rig.publish();
        for (n, _) in guests {
            let spec = GuestSpec {
                id: PortId(*n),
                name: format!("g{n}"),
                socket: rig.socket(*n),
                client: false,
                mac: Mac(mac(*n)),
                queue_pairs: 2,
                mtu: 1500,
                features: features::DEFAULT,
            };
            rig.data.add_guest(spec).unwrap();
        }
        rig
    }

    /// Adds an uplink on this interface.
    pub(crate) fn uplink(&mut self, interface: &str) {
        self.ports.push(Port::new(PortId(UPLINK), PortKind::Uplink, UPLINK_MAC));
        self.publish();
        let (name, interface, driver) = ("up".into(), interface.into(), UplinkDriver::Packet);
        let spec = UplinkSpec { id: PortId(UPLINK), name, interface, driver };
        self.data.add_uplink(&spec).unwrap();
    }

    fn publish(&mut self) {
        self.epoch += 1;
        let config = SwitchConfig { kind: SwitchKind::External, ..SwitchConfig::default() };
        self.data.publish(Snapshot::new(self.epoch, config, self.ports.clone()));
    }

    /// Changes a port.
    pub(crate) fn change(&mut self, n: u16, change: impl FnOnce(&mut Port)) {
        change(self.ports.iter_mut().find(|port| port.id == PortId(n)).unwrap());
        self.publish();
    }

    pub(crate) fn socket(&self, n: u16) -> PathBuf {
        self.dir.path().join(format!("{n}.sock"))
    }

    /// Attaches a guest.
    pub(crate) fn attach(&self, n: u16, options: Options) -> Guest {
        let mut guest = Guest::connect(&self.socket(n), options);
        guest.mac = mac(n);
        guest
    }

    pub(crate) fn in_packets(&self, n: u16) -> u64 {
        self.data.counters(PortId(n)).in_packets
    }

    /// Packets for a port that were dropped for this reason.
    pub(crate) fn dropped(&self, n: u16, reason: DropReason) -> u64 {
        let drops = self.data.counters(PortId(n)).in_drops;
        drops.iter().find(|(which, _)| *which == reason).map_or(0, |(_, count)| *count)
    }

    pub(crate) fn all_dropped(&self, n: u16) -> u64 {
        self.data.counters(PortId(n)).in_drops.iter().map(|(_, count)| count).sum()
    }

    #[track_caller]
    pub(crate) fn wait_held(&self, n: u16, frames: usize) {
        let reached = eventually(|| self.data.held(PortId(n)).0 == frames);
        assert!(reached, "{} frames are held for {n}, expected {frames}", self.data.held(PortId(n)).0);
    }

    #[track_caller]
    pub(crate) fn wait_dropped(&self, n: u16, reason: DropReason, packets: u64) {
        let reached = eventually(|| self.dropped(n, reason) == packets);
        assert!(
            reached,
            "{} packets of {n} dropped as {reason}, expected {packets}",
            self.dropped(n, reason)
        );
    }
}

/// The front end begins (or ends) to log what is written to the guest's memory.
pub(crate) fn log_all(guest: &mut Guest, on: bool) {
    let features = guest.features & !features::LOG_ALL | if on { features::LOG_ALL } else { 0 };
    guest.vhost().set_features(features).unwrap();
}

/// Waits until the switch has taken all that the guest sends.
#[track_caller]
pub(crate) fn flush(guest: &mut Guest) {
    assert!(guest.flush(Duration::from_secs(10)), "the switch takes nothing");
}
