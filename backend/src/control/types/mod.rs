//! What is said about the switch from outside and to the outside: request bodies and answers.
//!
//! The API's JSON, its description and the command line are all made from these types. Values arrive here unjudged
//! (numbers as wide integers, addresses as text), so that a refusal can name the offending value; [`super::check`] judges.

mod config;
mod explain;
mod extension;
mod handover;
mod lists;
mod meter;
mod nv;
mod policy;
mod session;
mod watch;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use vswitch::snapshot::SwitchKind;

use crate::spec::WorkerStats;

pub use self::config::{Applied, Config, ConfigPort, ConfigUplink, Difference};
pub use self::explain::{DestinationView, ExplainSpec, ExplainView, StepView};
pub use self::extension::{
    AvailableExtension, ConfigExtension, ExtensionCounters, ExtensionMove, ExtensionView, NewExtension,
};
pub use self::handover::Imported;
pub use self::lists::{AclSpec, AclView, RuleKey, RuleSpec, RuleView};
pub use self::meter::{MeterEntry, MeterView};
pub use self::nv::{
    GatewaySpec, NetworkSpec, NvDocument, PolicyStoreView, ProviderSpec, RecordChange, RecordSpec,
    ResolutionView, RouteSpec, SubnetSpec,
};
pub use self::policy::{LinkState, Policy, PolicyChange};
pub use self::session::{Flushed, SessionView};
pub use self::watch::{ArrivalView, CaptureSpec, TraceSpec, TraceView};

/// `Some(None)` = the key is there with `null`, which restores the default; `None` = the key is not there.
type Change<T> = Option<Option<T>>;

fn change<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Change<T>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// A new guest port (`socket`) or host port (`tap`).
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPort {
    /// Its name: 1 to 32 characters of A-Z a-z 0-9 . _ -, the first one a letter or a digit.
    pub name: String,
    /// Guest port: absolute path of the vhost-user socket, at most 107 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Guest port: connect to the socket (and retry) instead of listening on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub client: bool,
    /// Host port: name of the TAP interface, created if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// Its MAC address; without one it gets a dynamic one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Guest port: queue pairs, 1 to 8 (default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u64>,
    /// Guest port: MTU offered to the guest, 68 to 9000 bytes (default 1500).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u64>,
    /// Guest port: virtio-net features to offer (default: all that the switch has).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Its policy, where it differs from the default.
    #[serde(default)]
    pub policy: PolicyChange,
}

/// Changes of a port.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortChange {
    /// Changes of its policy; keys that are not given stay as they are.
    #[serde(default)]
    pub policy: PolicyChange,
}

/// A new uplink.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUplink {
    /// Its name; same rules as for a port, and unique among ports and uplinks.
    pub name: String,
    /// The network interface, which must exist.
    pub device: String,
    /// How the interface is driven: `packet` (`AF_PACKET`, the default) or `xdp` (`AF_XDP`: the interface is the switch's alone).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}

/// Changes of the switch; `null` restores the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchChange {
    /// What the switch connects: `external`, `internal` or `private`.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub kind: Change<SwitchKind>,
    /// Learned addresses the switch holds at most, 64 to 1048576.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub fdb_size: Change<u64>,
    /// Longest time a unicast frame waits for room at its receiver, 0 to 1000000 microseconds.
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub rx_wait_us: Change<u64>,
    /// Whether ports with a virtual subnet are in customer networks (network virtualization).
    #[serde(default, deserialize_with = "change", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    pub nv: Change<bool>,
}

/// The switch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SwitchView {
    /// What the switch connects: `external`, `internal` or `private`.
    #[schema(value_type = String)]
    pub kind: SwitchKind,
    /// Learned addresses the switch holds at most.
    pub fdb_size: u32,
    /// Longest time a unicast frame waits for room at its receiver, in microseconds.
    pub rx_wait_us: u32,
    /// Whether ports with a virtual subnet are in customer networks.
    #[serde(default)]
    pub nv: bool,
    /// Name of this host.
    pub host_id: String,
    /// Where dynamic MAC addresses come from.
    pub mac_pool: String,
    /// Number of ports, uplink included.
    pub ports: usize,
    /// Name of the uplink.
    pub uplink: Option<String>,
    /// Number of workers.
    pub workers: usize,
    /// Version of the program.
    pub version: String,
}

/// Frames and bytes since the port was added. Directions are the guest's: out = the guest sends.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Packets the port sent; a TSO frame counts as the packets it becomes on a wire.
    pub out_packets: u64,
    /// Bytes of those packets, whole frames without FCS.
    pub out_bytes: u64,
    /// Packets delivered to the port.
    pub in_packets: u64,
    /// Bytes of those packets.
    pub in_bytes: u64,
    /// Frames the port sent that went nowhere, by reason.
    pub out_drops: BTreeMap<String, u64>,
    /// Frames meant for the port that it did not get, by reason.
    pub in_drops: BTreeMap<String, u64>,
}

/// A port.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PortView {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u16,
    /// What is behind it: `guest`, `host` or `uplink`.
    pub kind: String,
    /// Guest port: the vhost-user socket.
    pub socket: Option<String>,
    /// Guest port: whether the switch connects to the socket instead of listening on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<bool>,
    /// Host port and uplink: the network interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Uplink: how the interface is driven, `packet` or `xdp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Uplink with driver `xdp`: where its program is (`native`: in the interface's driver, `generic`: in front of the host's stack) and
    /// whether the kernel copies frames (`copy` or `zero-copy`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_mode: Option<String>,
    /// Where it is in its life: `waiting`, `connected`, `running` or `stopped`.
    pub state: String,
    /// Why it is stopped, when it could not be served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Its MAC address; for the uplink that of the interface.
    pub mac: String,
    /// Where the address comes from: `static`, `dynamic` or `interface`.
    pub mac_kind: String,
    /// Queue pairs.
    pub queues: u8,
    /// MTU in force, in bytes.
    pub mtu: u16,
    /// virtio-net features the front end accepted (none while there is no front end).
    pub features: Vec<String>,
    /// virtio-net features the port offers.
    pub offered: Vec<String>,
    /// Worker of each queue pair.
    pub worker: Vec<usize>,
    /// Its policy, without its lists.
    pub policy: Policy,
    /// Number of entries of its ACL (`/v1/ports/{name}/acls`).
    pub acl_entries: usize,
    /// Number of its extended rules (`/v1/ports/{name}/rules`).
    pub rules: usize,
    /// Its counters.
    pub counters: Counters,
    /// Of a link: frames that came to it and never reached the switch since this process opened it, by cause: `overrun` (the workers were too
    /// slow), `too-long` and `malformed`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missed: BTreeMap<String, u64>,
}

/// A known address.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FdbView {
    /// The address.
    pub mac: String,
    /// VLAN it belongs to; 0 = untagged.
    pub vlan: u16,
    /// Name of the port it is behind.
    pub port: String,
    /// How it is known: `static` or `learned`.
    pub kind: String,
    /// Time since it was last seen, in milliseconds; 0 for static ones.
    pub age_ms: u64,
}

/// One worker's load.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
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
    /// Times it was woken by a descriptor.
    pub wakeups: u64,
}

impl From<WorkerStats> for WorkerView {
    fn from(w: WorkerStats) -> Self {
        let WorkerStats { id, cpu, queues, frames, bursts, busy_cycles, idle_cycles, sleeps, wakeups } = w;
        Self { id, cpu, queues, frames, bursts, busy_cycles, idle_cycles, sleeps, wakeups }
    }
}
