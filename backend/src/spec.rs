//! What the control plane asks of the data path, and what the data path answers.
//!
//! Plain types without behaviour, below everything that moves frames.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vswitch::event::Event;
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId};

/// Where the data path reports what happened. Must not block.
pub trait EventSink: Send + Sync {
    /// Records one event.
    fn emit(&self, event: Event);
}

/// What the control plane does when a port's state leaves or arrives in its front end's own stream.
pub trait StateKeeper: Send + Sync {
    /// The port's state, sealed. Called while all of its rings stand still.
    fn save(&self, port: PortId) -> Result<Vec<u8>, String>;
    /// Takes a sealed state for the port, which is in force when this returns; the port's rings do not run yet. Refused as a whole,
    /// with the reason, or taken as a whole.
    fn load(&self, port: PortId, sealed: &[u8]) -> Result<(), String>;
}

/// How long a worker polls after its last frame before it sleeps (`--poll-us`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollMode {
    /// Never sleep.
    Busy,
    /// Poll for this many microseconds after the last work, then sleep; 0 (`off`) sleeps at once.
    Micros(u32),
}

/// How the workers are run. There is one for each section of the counters.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// CPU of each worker, in order; `None` leaves placement to the kernel.
    pub cpus: Option<Vec<usize>>,
    /// When a worker goes to sleep.
    pub poll: PollMode,
}

/// A guest port to be served over vhost-user.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    /// The port's number in the snapshot.
    pub id: PortId,
    /// The port's name, for thread names, logs and events.
    pub name: String,
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// Connect to the socket (with retries) instead of listening on it.
    pub client: bool,
    /// The guest's MAC address, offered in the device's configuration space.
    pub mac: Mac,
    /// Queue pairs, 1 to 8.
    pub queue_pairs: u8,
    /// MTU offered to the guest, 68 to 9000.
    pub mtu: u16,
    /// virtio feature bits this port may offer (see `guest::features`).
    pub features: u64,
}

/// A TAP device of the host.
#[derive(Clone, Debug)]
pub struct TapSpec {
    /// The port's number in the snapshot.
    pub id: PortId,
    /// The port's name.
    pub name: String,
    /// The interface, created if missing.
    pub interface: String,
    /// The MAC address the interface gets.
    pub mac: Mac,
}

/// How an uplink's interface is driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkDriver {
    /// `AF_PACKET`: any Ethernet interface, which the host goes on using.
    #[default]
    Packet,
    /// `AF_XDP`: an interface that is the switch's alone.
    Xdp,
}

impl UplinkDriver {
    /// Whether it is the one that nobody has to ask for.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::Xdp => "xdp",
        }
    }
}

/// The physical side of an external switch.
#[derive(Clone, Debug)]
pub struct UplinkSpec {
    /// The port's number in the snapshot.
    pub id: PortId,
    /// The port's name.
    pub name: String,
    /// The interface; must exist.
    pub interface: String,
    /// How it is driven.
    pub driver: UplinkDriver,
}

/// Where a port is in its life (`state` in JSON).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortState {
    /// No front end is attached.
    Waiting,
    /// A front end is attached, its rings do not run.
    Connected,
    /// A guest is on its way here; what comes for it is held until its rings run.
    Incoming,
    /// The guest is on its way to another host; what comes for it is held until it is there, or back.
    Frozen,
    /// At least one ring pair runs; for a link: the interface is up.
    Running,
    /// Stopped for good because of an error of its device.
    Stopped,
}

/// What a port is doing now.
#[derive(Clone, Debug)]
pub struct PortStatus {
    /// Life-cycle state.
    pub state: PortState,
    /// virtio feature bits the front end accepted (0 for links).
    pub features: u64,
    /// Worker of each queue, in queue-pair order.
    pub workers: Vec<usize>,
    /// MTU in force (a front end may have lowered it).
    pub mtu: u16,
    /// Of several ways in which the kernel can serve a link, the one in force.
    pub mode: Option<String>,
    /// Whether a front end is attached.
    pub attached: bool,
    /// How many front ends attached so far.
    pub attachments: u32,
    /// How often its receive rings began to run.
    pub starts: u32,
    /// Whether its front end wants rings to run that the gate keeps from running.
    pub knocks: bool,
    /// What came to a link and never reached the switch.
    pub missed: Option<ReceiveDrops>,
}

/// Frames that arrived at the link and never reached the switch, since the link was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveDrops {
    /// The socket's buffer was full: the workers were too slow.
    pub overrun: u64,
    /// Longer than [`crate::link::MAX_FRAME`].
    pub too_long: u64,
    /// Shorter than an Ethernet header, or of an offload kind that a virtio-net header cannot describe.
    pub malformed: u64,
}

/// Frames and bytes of one port since it was added. Directions are the guest's: out = the guest sends.
#[derive(Clone, Debug, Default)]
pub struct PortCounters {
    /// Frames the port sent; a TSO frame counts as the packets it becomes on a wire.
    pub out_packets: u64,
    /// Bytes of those packets, without FCS.
    pub out_bytes: u64,
    /// Frames delivered to the port.
    pub in_packets: u64,
    /// Bytes of those packets.
    pub in_bytes: u64,
    /// Frames the port sent that went nowhere, by reason (only non-zero ones).
    pub out_drops: Vec<(DropReason, u64)>,
    /// Frames meant for the port that it did not get, by reason (only non-zero ones).
    pub in_drops: Vec<(DropReason, u64)>,
}

/// One worker's load (`turnpike worker list`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Number, from 0.
    pub id: usize,
    /// CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Queues and links it serves.
    pub queues: usize,
    /// Frames received from ports.
    pub frames: u64,
    /// Bursts that moved something.
    pub bursts: u64,
    /// TSC cycles in bursts that moved something.
    pub busy_cycles: u64,
    /// TSC cycles in empty polls.
    pub idle_cycles: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Times it was woken by a descriptor (not by a timeout).
    pub wakeups: u64,
}

/// Why the data path could not do what the control plane asked. Maps onto a refusal with the same text.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The socket path cannot be used.
    #[error("socket '{path}': {reason}")]
    Socket {
        /// The path as given.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The network interface cannot be used.
    #[error("interface '{interface}': {reason}")]
    Interface {
        /// The interface as given.
        interface: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A thread or descriptor could not be had.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}
