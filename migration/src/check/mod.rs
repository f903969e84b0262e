//! What a port needs where it goes ([`Manifest`]), what is there ([`Offer`]), and everything that does not fit ([`check`]).
//!
//! Nothing is touched by a check, and it does not stop at the first problem: an operator gets the whole list with what would solve
//! each (Compare-VM; semantics section 20.4). A [`Severity::Error`] forbids the move; a [`Severity::Warning`] says what will be
//! different. Both types are written as JSON; fields a reader does not know are skipped, those it misses are at "nothing needed",
//! so that a version and the next can check each other. What may not be skipped has a version number: that of the state's format
//! and that of the conversation of the switches.
//!
//! Between switches that have shown each other who they are, or with the same fleet key on both sides, the port's policy goes with it
//! and replaces what is configured there. Otherwise the destination's policy stays, so each setting that differs is said.

mod fit;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vswitch::Mac;
use vswitch::port::{Mirror, PortKind};
use vswitch::snapshot::SwitchKind;

pub use fit::check;

/// virtio feature bit of packed rings.
pub(crate) const RING_PACKED: u32 = 34;

/// Version of the conversation of two switches ([`crate::handoff`]).
pub const HANDOFF_VERSION: u16 = 1;

/// What a port's destination must offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the port.
    pub name: String,
    /// Its configured address.
    pub mac: Mac,
    /// Name of the host it is on.
    pub host: String,
    /// Version of the conversation that the source speaks.
    pub handoff: u16,
    /// Version of the state's format that the source writes.
    pub format: u16,
    /// Bytes of the state as it is now; it grows with sessions.
    #[serde(default)]
    pub state_bytes: u64,
    /// The epoch a state would have that is saved now: milliseconds of Unix time.
    pub epoch: u64,
    /// First eight hexadecimal digits of the SHA-256 of the fleet key; none = the state is not sealed with a key.
    #[serde(default)]
    pub key: Option<String>,
    /// Kind of the source's switch.
    pub kind: SwitchKind,
    /// MTU of the source's uplink in bytes, if it has one that is up.
    #[serde(default)]
    pub uplink_mtu: Option<u16>,
    /// The device as its guest uses it.
    pub device: Device,
    /// The port's policy.
    #[serde(default)]
    pub policy: Policy,
    /// Names of the other ports of the same virtual machine.
    #[serde(default)]
    pub siblings: Vec<String>,
    /// Whether its meters count.
    #[serde(default)]
    pub metered: bool,
    /// Sessions it has now.
    #[serde(default)]
    pub sessions: u64,
    /// Addresses learned behind it.
    #[serde(default)]
    pub learned: u64,
    /// Addresses in use that count against its address limit.
    #[serde(default)]
    pub used_addresses: u64,
    /// Extensions whose state goes with it, with the version that wrote it.
    #[serde(default)]
    pub extensions: BTreeMap<String, u32>,
    /// Extensions without which it has no connectivity.
    #[serde(default)]
    pub required_extensions: Vec<String>,
}

/// A virtio device as negotiated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Feature bits the front end accepted; 0 = there was none yet.
    pub features: u64,
    /// Queue pairs.
    pub queue_pairs: u8,
    /// MTU in bytes.
    pub mtu: u16,
}

/// A port's policy as far as a check looks at it. Values are written as on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// VLAN mode; empty = `none`.
    pub vlan: String,
    /// Virtual subnet.
    pub vsid: Option<u32>,
    /// Owned addresses; `None` = any.
    pub addresses: Option<Vec<IpNet>>,
    /// Most addresses in use; 0 = no limit.
    pub address_limit: u32,
    /// Name of the virtual machine.
    pub vm: Option<String>,
    /// Whether it teams with other ports of the machine.
    pub teaming: bool,
    /// Mirroring.
    pub mirror: Mirror,
    /// That the link is administratively down.
    pub link_down: bool,
    /// Every other setting.
    pub settings: BTreeMap<String, String>,
    /// ACL entries.
    pub acl: List,
    /// Extended rules.
    pub rules: List,
}

/// A list of a port's policy: how long, and a digest by which two are told apart ([`digest`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct List {
    /// Items.
    pub count: u64,
    /// Items that need a counter.
    pub counted: u64,
    /// Digest of all items.
    pub digest: String,
}

/// What a switch has for a port that wants to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Name of the host.
    pub host: String,
    /// Version of the conversation it speaks.
    pub handoff: u16,
    /// Versions of the state's format it reads, from and to.
    pub formats: (u16, u16),
    /// Largest state it takes, in bytes.
    pub max_state: u64,
    /// Its clock, in milliseconds of Unix time.
    pub now_ms: u64,
    /// Whether the state comes over a channel on which both switches have shown who they are.
    #[serde(default)]
    pub channel: bool,
    /// Its fleet key, as in the manifest.
    #[serde(default)]
    pub key: Option<String>,
    /// Its kind.
    pub kind: SwitchKind,
    /// Its uplink, if it has one.
    #[serde(default)]
    pub uplink: Option<OfferedUplink>,
    /// The port of this name, if there is one.
    #[serde(default)]
    pub port: Option<OfferedPort>,
    /// Name of the other port that has the address already.
    #[serde(default)]
    pub mac_owner: Option<String>,
    /// Ports that can still be added.
    pub free_ports: u64,
    /// How the port's private VLANs contradict those of other ports, if they do.
    #[serde(default)]
    pub private_vlans: Option<String>,
    /// Names of all guest ports.
    #[serde(default)]
    pub guests: Vec<String>,
    /// Names of the ports that monitor (mirror destinations), without the port itself.
    #[serde(default)]
    pub monitors: Vec<String>,
    /// Most ACL entries and most rules of a port.
    pub max_list: (u64, u64),
    /// Counters not given out; what the port of this name has counts as free.
    pub free_counters: u64,
    /// Sessions the port may have.
    pub free_sessions: u64,
    /// Addresses that can still be learned.
    pub free_addresses: u64,
    /// Extensions it has, with the oldest and newest version whose state they read.
    #[serde(default)]
    pub extensions: BTreeMap<String, (u32, u32)>,
}

/// A destination's uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedUplink {
    /// Its name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// Whether it works.
    pub up: bool,
}

/// A destination's port of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedPort {
    /// What is behind it.
    pub kind: PortKind,
    /// Its address.
    pub mac: Mac,
    /// Queue pairs.
    pub queue_pairs: u8,
    /// MTU it offers, in bytes.
    pub mtu: u16,
    /// Feature bits it offers.
    pub features: u64,
    /// Whether a guest uses it: its rings run.
    pub running: bool,
    /// Why it cannot be served, if so.
    #[serde(default)]
    pub fault: Option<String>,
    /// Id of the migration it is part of, if any.
    #[serde(default)]
    pub migration: Option<String>,
    /// Newest epoch of a state of this port that the switch knows; 0 = none.
    #[serde(default)]
    pub epoch: u64,
    /// Its policy as configured.
    #[serde(default)]
    pub policy: Policy,
    /// Whether its meters count.
    #[serde(default)]
    pub metered: bool,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The port cannot move.
    Error,
    /// It can; something will be different.
    Warning,
}

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable name of its kind ([`Kind`]).
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, such as `port 'web'`.
    pub object: String,
    /// What the port needs.
    pub need: String,
    /// What the destination has.
    pub have: String,
    /// What would solve it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, object, need, have, fix, .. } = self;
        write!(f, "{object}: needs {need}, there is {have} ({code}); {fix}")
    }
}

/// Whether none of the problems forbids the move.
pub fn passes(problems: &[Problem]) -> bool {
    problems.iter().all(|p| p.severity != Severity::Error)
}

/// A digest of a list's items in order (FNV-1a, 64 bits, sixteen hexadecimal digits): tells lists apart, protects nothing.
pub fn digest(items: impl Iterator<Item = String>) -> String {
    let bytes = items.flat_map(|item| item.into_bytes().into_iter().chain([b'\n']));
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

macro_rules! kinds {
    ($($kind:ident = $code:literal $severity:ident $doc:literal),* $(,)?) => {
        /// The kinds of problems. Their names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $(#[doc = $doc] $kind),* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// Its stable name.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$kind => $code),* }
            }

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity),* }
            }
        }
    };
}

kinds! {
    HandoffVersion = "handoff-version" Error "The switches speak different versions of the conversation.",
    FormatVersion = "format-version" Error "The state's format is not read there.",
    StateTooLarge = "state-too-large" Error "The state is larger than what is taken there.",
    KeyMissing = "fleet-key-missing" Warning "The state is sealed and the destination cannot verify it.",
    NotSealed = "state-not-sealed" Error "The destination takes sealed states only.",
    KeyDiffers = "fleet-key-differs" Error "Both have a fleet key, not the same.",
    ClockDiffers = "clock-differs" Error "The clocks are so far apart that a sealed state looks old or future.",
    EpochStale = "epoch-stale" Error "The destination knows a newer state of this port.",
    SameHost = "same-host" Warning "Both switches have the same host name.",
    PortMissing = "port-missing" Error "There is no port of this name.",
    NoRoom = "too-many-ports" Error "There is none, and none can be added.",
    PortKind = "port-kind" Error "It is not a guest port.",
    PortRunning = "port-running" Error "Another guest uses it.",
    PortMigrating = "port-migrating" Error "It is part of another migration.",
    PortFailed = "port-failed" Error "It is there and cannot be served.",
    MacDiffers = "mac-differs" Error "It has another address.",
    DuplicateMac = "duplicate-mac" Error "Another port has the address.",
    Queues = "queues-missing" Error "It has fewer queue pairs.",
    Mtu = "mtu-smaller" Error "Its MTU is smaller.",
    Offload = "offload-missing" Error "It does not offer an offload that the guest uses.",
    RingFormat = "ring-format" Error "It does not have the ring format that the guest uses.",
    RingFeature = "ring-feature-missing" Error "It does not offer a property of rings that the guest uses.",
    Feature = "feature-missing" Error "It does not offer another feature that the guest uses.",
    SwitchKind = "switch-kind" Error "A switch of this kind has no uplink, and the port had one.",
    UplinkMissing = "uplink-missing" Error "There is no uplink, and the port had one.",
    UplinkDown = "uplink-down" Error "The uplink does not work.",
    UplinkMtu = "uplink-mtu" Error "The uplink's MTU is smaller than what the guest reached so far.",
    VlanUnknown = "vlan-unknown" Error "The VLAN mode is not known there.",
    PrivateVlans = "private-vlan-conflict" Error "Another port there uses the same VLANs otherwise.",
    VlanDiffers = "vlan-differs" Error "The VLAN mode configured there is another, and stays.",
    VsidDiffers = "vsid-differs" Error "The virtual subnet configured there is another, and stays.",
    AddressesDiffer = "addresses-differ" Error "The port there does not own all addresses, and stays so.",
    AddressLimit = "address-limit-lower" Warning "More addresses are in use than its limit there lets.",
    VmDiffers = "vm-differs" Warning "It belongs to another virtual machine there.",
    LinkDown = "link-down" Error "Its link is administratively down there.",
    AclDiffers = "acl-differs" Warning "It has another ACL there, which stays.",
    RulesDiffer = "rules-differ" Warning "It has other rules there, which stay.",
    MirrorDiffers = "mirror-differs" Warning "It is mirrored otherwise there.",
    SettingDiffers = "setting-differs" Warning "Another setting differs there, and stays.",
    MetersOff = "meters-off" Error "It is metered and would not be there.",
    TeamPartner = "team-partner-missing" Error "A port that it teams with is not there.",
    Sibling = "vm-port-missing" Error "Another port of its virtual machine is not there.",
    MonitorMissing = "mirror-target-missing" Error "It is mirrored, and nothing monitors there.",
    AclTooLong = "acl-too-long" Error "Its ACL is longer than one may be there.",
    RulesTooLong = "rules-too-long" Error "It has more rules than a port may have there.",
    Counters = "counters-full" Error "There are not enough counters for its meters, entries and rules.",
    Sessions = "sessions-full" Error "There is no room for its sessions.",
    Addresses = "fdb-full" Warning "There is no room for the addresses learned behind it.",
    ExtensionRequired = "extension-required" Error "An extension that the port requires is not there.",
    ExtensionMissing = "extension-missing" Warning "An extension with state of the port is not there; the state is kept and moves on.",
    ExtensionVersion = "extension-version" Error "An extension there does not read the state of this version.",
}
