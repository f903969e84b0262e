//! The portable state of one port: everything that belongs to a guest's connection and must be there after a move as it was before.
//!
//! Plain values, filled by the source while the port's rings stand still and put into force by the destination before they run. All times
//! are relative (so two hosts need no common clock) but for the beginning of metering and the epoch, which are milliseconds of Unix time.
//! Directions are the guest's.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vswitch::port::vlan::Vlan;
use vswitch::port::{Mirror, acl, rule};
use vswitch::session::Saved;
use vswitch::{Mac, Segment};

/// Entries of an ACL, and rules, that a port has at most.
pub const MAX_LIST: usize = 10_000;
/// Sessions, learned addresses and used addresses that a port has at most.
pub const MAX_SESSIONS: usize = 65_536;
/// Bytes of one extension's configuration for a port, at most.
pub const MAX_EXTENSION: usize = 64 * 1024;
/// Bytes of what one extension remembers of a port, at most.
pub const MAX_EXTENSION_DATA: usize = vswitch::extension::MOST_SAVED;
/// Extensions that a port requires, at most.
pub const MAX_REQUIRED: usize = vswitch::extension::stack::MOST_ENABLED;

/// Owned addresses that a port has at most.
pub const MAX_ADDRESSES: usize = 1024;
/// Reasons for drops with a count, in each direction, at most.
pub const MAX_REASONS: usize = 256;
/// Extensions with something to remember of one port, at most.
pub const MAX_EXTENSIONS: usize = 64;
/// Fields of newer versions that are carried along, at most.
pub const MAX_UNKNOWN: usize = 256;

/// Everything that moves with a port.
#[derive(Clone, Debug, PartialEq)]
pub struct PortState {
    /// Which port this is.
    pub identity: Identity,
    /// Grows with every time the state is saved anywhere: milliseconds of Unix time, or one more than the last if that is later.
    pub epoch: u64,
    /// Name of the host that saved it; for people.
    pub host: String,
    /// What front end and guest negotiated.
    pub device: DeviceShape,
    /// The rules it lives under.
    pub policy: PortPolicy,
    /// Since when its meters count, if it is metered.
    pub metering: Option<Metering>,
    /// What it sent and received so far.
    pub counters: Counters,
    /// Addresses learned behind it.
    pub learned: Vec<Learned>,
    /// Sessions of stateful rules.
    pub sessions: Vec<Saved>,
    /// IP addresses in use that count against its address limit.
    pub used: Vec<UsedAddress>,
    /// Frames of the current second that count against its storm limit.
    pub storm: Storm,
    /// Run-time state of extensions.
    pub extensions: Vec<ExtensionState>,
    /// Fields of newer versions, which travel on with the port: ascending by group and number, each once.
    pub unknown: Vec<UnknownField>,
}

/// Which port a state belongs to: the same on every host the port can be on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The port's name, unique among the hosts that share a fleet key.
    pub name: String,
    /// Its configured MAC address.
    pub mac: Mac,
}

/// The virtio device as negotiated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceShape {
    /// virtio feature bits the front end accepted; 0 = no front end yet.
    pub features: u64,
    /// Queue pairs the port offers, 1 to 8.
    pub queue_pairs: u8,
    /// MTU the port offers, 68 to 9000 bytes.
    pub mtu: u16,
}

/// A port's policy with its lists and what they counted.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct PortPolicy {
    /// VLAN mode.
    pub vlan: Vlan,
    /// Virtual subnet.
    pub vsid: Option<u32>,
    /// Whether it may send from other MAC addresses.
    pub mac_spoofing: bool,
    /// Name of the virtual machine.
    pub vm: Option<String>,
    /// Whether teamed ports of the machine may use each other's address.
    pub teaming: bool,
    /// Whether DHCP server messages are dropped.
    pub dhcp_guard: bool,
    /// Whether router advertisements and redirects are dropped.
    pub router_guard: bool,
    /// Owned addresses; `None` = any.
    pub addresses: Option<Vec<IpNet>>,
    /// Addresses in use at most; 0 = no limit.
    pub address_limit: u32,
    /// Flooded frames a second at most; 0 = no limit.
    pub storm_limit: u32,
    /// Mirroring.
    pub mirror: Mirror,
    /// Names of extensions without which it has no connectivity: ascending, each once.
    pub require_extension: Vec<String>,
    /// Whether 802.1p priorities are kept.
    pub priority_tag: bool,
    /// Administrative link state.
    pub link_up: bool,
    /// The ACL with its meters. The tallies in the entries mean nothing here.
    pub acl: Vec<Counted<acl::Entry>>,
    /// The extended rules. The tallies in them mean nothing here.
    pub rules: Vec<Counted<rule::Rule>>,
}

/// A list's item and what it counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted<T> {
    /// The item.
    pub item: T,
    /// Packets.
    pub packets: u64,
    /// Bytes, whole frames without FCS.
    pub bytes: u64,
}

/// That a port is metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metering {
    /// Since when, in milliseconds of Unix time.
    pub since_ms: i64,
    /// Whether metering itself added the default meters.
    pub defaults: bool,
}

/// A port's counters. Drops are by the stable code of their reason, only those that are not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets sent.
    pub out_packets: u64,
    /// Bytes sent.
    pub out_bytes: u64,
    /// Packets received.
    pub in_packets: u64,
    /// Bytes received.
    pub in_bytes: u64,
    /// Packets it sent that were dropped: stable name of the reason (as in JSON) and number.
    pub out_drops: Vec<(String, u64)>,
    /// Packets for it that were dropped.
    pub in_drops: Vec<(String, u64)>,
}

/// A MAC address learned behind the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The address.
    pub mac: Mac,
    /// The network it belongs to.
    pub network: Segment,
    /// Milliseconds since it was seen.
    pub age_ms: u64,
}

/// An IP address that counts against the address limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedAddress {
    /// The address.
    pub address: IpAddr,
    /// Milliseconds since it was seen.
    pub age_ms: u64,
}

/// How much of its storm limit the port has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Storm {
    /// Frames counted in the current second.
    pub used: u32,
}

/// What an extension remembers of the port. Its owner alone knows what the bytes mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionState {
    /// The extension's name.
    pub name: String,
    /// Version of the extension that wrote it.
    pub version: u32,
    /// Its configuration for this port, if any.
    pub config: Vec<u8>,
    /// Its run-time state.
    pub data: Vec<u8>,
}

/// A field this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownField {
    /// Number of the top-level field whose group it is in; 0 = it is a top-level field itself.
    pub group: u16,
    /// Its number.
    pub number: u16,
    /// Its content.
    pub bytes: Vec<u8>,
}
