//! The refusals with their texts, names, classes and numbers.

use super::{Class, Object, Refused, Shown, kind_word, some_of, switch_word};
use crate::Mac;
use crate::extension::{Kind, StackError};
use crate::port::PortKind;
use crate::port::vlan::VlanError;
use crate::snapshot::SwitchKind;

/// Why a change or request was refused, with the offending value. The text says what is wrong; [`Self::hint`] says
/// what would be valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the text beside each case says what its fields are")]
pub enum Refusal {
    #[error("there is no such port")]
    UnknownPort { known: Vec<String> },
    #[error("there is no such uplink")]
    UnknownUplink { known: Vec<String> },
    #[error("this is {} {}", if *.kind == PortKind::Uplink { "an" } else { "a" }, kind_word(*.kind))]
    WrongNoun { kind: PortKind, command: String },
    #[error("the name is not valid")]
    BadName,
    #[error("the name is taken by {} {}", if *.kind == PortKind::Uplink { "an" } else { "a" }, kind_word(*.kind))]
    DuplicateName { kind: PortKind },
    #[error("the switch has {limit} ports already")]
    TooManyPorts { limit: usize },

    #[error("'{}' is not a MAC address", Shown(.text))]
    BadMac { text: String },
    #[error("{mac} is a multicast address and cannot be a port's own")]
    GroupMac { mac: Mac },
    #[error("00:00:00:00:00:00 cannot be a port's address")]
    ZeroMac,
    #[error("{mac} is the address of port '{owner}'")]
    DuplicateMac { mac: Mac, owner: String },
    #[error("all 256 dynamic addresses {pool} of this host are given out")]
    MacPoolExhausted { pool: String },

    #[error("socket path '{}' is not absolute", Shown(.path))]
    SocketNotAbsolute { path: String },
    #[error("socket path '{}' has {length} bytes", Shown(.path))]
    SocketTooLong { path: String, length: usize },
    #[error("socket path '{}': directory '{}' does not exist", Shown(.path), Shown(.directory))]
    SocketDirectoryMissing { path: String, directory: String },
    #[error("socket path '{}' is used by {by}", Shown(.path))]
    SocketInUse { path: String, by: String },
    #[error("socket path '{}' is {what}", Shown(.path))]
    SocketNotSocket { path: String, what: &'static str },
    #[error("socket '{}': {reason}", Shown(.path))]
    SocketUnusable { path: String, reason: String },

    #[error("'{}' is not an interface name", Shown(.interface))]
    BadInterfaceName { interface: String },
    #[error("there is no interface '{}'", Shown(.interface))]
    UnknownInterface { interface: String, known: Vec<String> },
    #[error("interface '{}' is used by {by}", Shown(.interface))]
    InterfaceInUse { interface: String, by: String },
    #[error("interface '{}': {reason}", Shown(.interface))]
    InterfaceUnusable { interface: String, reason: String },

    #[error("{setting} {value} is out of range")]
    OutOfRange { setting: &'static str, value: u64, min: u64, max: u64, unit: &'static str },
    #[error("'{}' is not a value of {setting}", Shown(.value))]
    BadValue { setting: String, value: String, valid: String },
    #[error("features: {reason}")]
    BadFeatures { reason: String, known: Vec<String> },
    #[error("'{}' is not known here", Shown(.key))]
    UnknownKey { key: String, known: Vec<String> },
    #[error("it is not TOML: {reason}")]
    NotToml { reason: String },
    #[error("it cannot be read: {reason}")]
    FileUnusable { reason: String },
    #[error("{what} is missing")]
    Missing { what: String, valid: String },
    #[error("{setting} cannot be set on {} {}", if *.kind == PortKind::Uplink { "an" } else { "a" }, kind_word(*.kind))]
    NotApplicable { setting: &'static str, kind: PortKind, valid: &'static str },

    #[error("vlan: {0}")]
    BadVlan(VlanError),
    #[error("vsid {vsid} and vlan {} exclude each other", Shown(.vlan))]
    VsidWithVlan { vsid: u32, vlan: String },
    #[error("VLAN {secondary} would be {here} here and is {there} on port '{port}'")]
    PrivateVlanConflict { secondary: u16, here: Box<str>, there: Box<str>, port: String },
    #[error("teaming is on, and which virtual machine the port belongs to is not said")]
    TeamingWithoutVm,
    #[error("'{}' is not a name of a virtual machine", Shown(.value))]
    BadVmName { value: String },
    #[error("'{}' is not a mirror mode", Shown(.value))]
    BadMirror { value: String },
    #[error("an uplink cannot be a mirror destination")]
    MirrorUplink,

    #[error("'{}' is not an action", Shown(.value))]
    BadAction { value: String, valid: &'static str },
    #[error("'{}' is not a direction", Shown(.value))]
    BadDirection { value: String, valid: &'static str },
    #[error("'{}' is not an address", Shown(.value))]
    BadAddressType { value: String, valid: &'static str },
    #[error("'{}' has a wrong prefix length", Shown(.value))]
    BadPrefixLength { value: String, max: u8 },
    #[error("'{}' has {parts} parts", Shown(.value))]
    BadAddressSize { value: String, parts: usize, valid: &'static str },
    #[error("'{}' is not an address", Shown(.value))]
    BadAddress { value: String, valid: &'static str },
    #[error("'{}' has bits set beyond its prefix length", Shown(.value))]
    HostBits { value: String, network: String },
    #[error("{}", if *.both { "both a local and a remote address are given" } else { "no address is given" })]
    LocalOrRemote { both: bool },
    #[error("the port would have {count} {what}")]
    TooManyEntries { what: &'static str, count: usize, limit: usize },
    #[error("there is {what} '{}' already", Shown(.entry))]
    DuplicateEntry { what: &'static str, entry: String, valid: &'static str },
    #[error("there is no {what} '{}'", Shown(.entry))]
    NoSuchEntry { what: &'static str, entry: String, list: String },
    #[error("an idle timeout is given, and the rule is not stateful")]
    IdleWithoutStateful,
    #[error("'{}' is not a protocol", Shown(.value))]
    BadProtocol { value: String },
    #[error("'{}' is not a port or a range of ports", Shown(.value))]
    BadPortRange { value: String },
    #[error("ports are given, and protocol {} has none", Shown(.protocol))]
    PortsWithoutTransport { protocol: String },
    #[error("a stateful rule is about {}", if .protocol.is_empty() { "every protocol" } else { .protocol.as_str() })]
    StatefulProtocol { protocol: String },
    #[error("a stateful rule denies")]
    StatefulDeny,
    #[error("all {limit} counters of the switch are in use")]
    NoCounter { limit: u32 },
    #[error("it is not metered")]
    NotMetered { port: String },

    #[error("{} {} switch has no {}", if *.kind == SwitchKind::Private { "a" } else { "an" }, switch_word(*.kind), kind_word(*.what))]
    KindForbids { kind: SwitchKind, what: PortKind, valid: &'static str },
    #[error("cannot be {} with {}", switch_word(*.kind), some_of(.ports))]
    KindContradicts { kind: SwitchKind, ports: Vec<String> },
    #[error("an external switch has exactly one uplink and '{existing}' is it")]
    SecondUplink { existing: String },

    #[error("its rings run")]
    NotStandingStill,
    #[error("a state has arrived for it already, and its guest is awaited")]
    StateArrived,
    #[error("{reason}")]
    StateRefused { reason: String },
    #[error("{what}")]
    StateMisfit { what: String, valid: String },
    #[error("{reason}")]
    BadFleetKey { reason: String },
    #[error("it is part of migration {id}")]
    Migrating { id: String },
    #[error("no migration of it is known")]
    NoMigration,
    #[error("it has {count} migrations under way")]
    TooManyMigrations { count: usize },
    #[error("'{}' cannot be used: {reason}", Shown(.path))]
    BadCredentials { path: String, reason: String },
    #[error("it takes ports at {address} already")]
    ListensAlready { address: String },
    #[error("it takes no ports from other switches")]
    ListensNot,

    #[error("{limit} traces and captures are under way")]
    TooManyWatchers { limit: usize },
    #[error("extension '{name}' refuses it: {why}")]
    Extension { name: String, why: String },
    #[error("there is no such extension")]
    UnknownExtension { known: Vec<String> },
    #[error("it is enabled already")]
    ExtensionEnabled,
    #[error("it is not enabled")]
    ExtensionDisabled,
    #[error("it is enabled")]
    ExtensionInUse,
    #[error("it is built in")]
    ExtensionBuiltIn,
    #[error("it cannot be started: {reason}")]
    ExtensionStart { reason: String },
    #[error("{0}")]
    ExtensionStack(StackError),
    #[error("position {position} is not among those of {kind} extensions")]
    ExtensionPosition { position: u64, kind: Kind, first: usize, last: usize },
    #[error("the module is not valid: {reason}")]
    BadModule { reason: String },

    #[error("permission denied for uid {uid}")]
    PermissionDenied { uid: u32, group: Option<String> },
    #[error("{reason}")]
    Malformed { reason: String },
    #[error("there is no {} {}", Shown(.method), Shown(.path))]
    UnknownRoute { method: String, path: String },
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the request did not arrive within {seconds} s")]
    TooSlow { seconds: u64 },

    #[error("{address} cannot be listened on: {reason}")]
    CannotListen { address: String, reason: String },
    #[error("another switch answers there")]
    ApiInUse,
    #[error("{reason}")]
    ApiUnusable { reason: String },
    #[error("another switch uses it")]
    StateInUse,
    #[error("the store is damaged: {reason}")]
    StateCorrupt { reason: String },
    #[error("the store has format {found}, this version knows format {known}")]
    StateVersion { found: u32, known: u32 },
    #[error("the counters are damaged: {reason}")]
    CountersDamaged { reason: String },
    #[error("{reason}")]
    StateUnusable { reason: String },
    #[error("the change could not be stored: {reason}")]
    StoreFailed { reason: String },
    #[error("{what}: {reason}")]
    System { what: String, reason: String },
    #[error("the switch is stopping")]
    Stopping,

    #[error("uid {uid} may not take the switch over")]
    TakeOverDenied { uid: u32 },
    #[error("the successor speaks take-over version {asked}, this switch version {known}")]
    TakeOverVersion { asked: u32, known: u32 },
    #[error("another take-over is under way")]
    TakeOverRunning,
    #[error("the guest of port '{port}' is on the move")]
    TakeOverMoving { port: String },
    #[error("it was not taken over: {reason}")]
    TakeOverFailed { reason: String },

    #[error("{0}")]
    Nv(super::NvRefusal),
}

impl Refusal {
    /// Says what the refusal is about.
    pub fn of(self, object: Object) -> Refused {
        Refused { object, why: self }
    }

    /// The stable name of this refusal (kebab-case).
    pub const fn code(&self) -> &'static str {
        self.entry().0
    }

    /// What kind of answer it is.
    pub const fn class(&self) -> Class {
        self.entry().1
    }

    const fn entry(&self) -> (&'static str, Class) {
        use Class::{BadValue, Conflict, Denied, NotFound, Unavailable};
        match self {
            Self::UnknownPort { .. } => ("unknown-port", NotFound),
            Self::UnknownUplink { .. } => ("unknown-uplink", NotFound),
            Self::WrongNoun { .. } => ("wrong-noun", Conflict),
            Self::BadName => ("bad-name", BadValue),
            Self::DuplicateName { .. } => ("duplicate-name", Conflict),
            Self::TooManyPorts { .. } => ("too-many-ports", Conflict),
            Self::BadMac { .. } => ("bad-mac", BadValue),
            Self::GroupMac { .. } => ("multicast-mac", BadValue),
            Self::ZeroMac => ("zero-mac", BadValue),
            Self::DuplicateMac { .. } => ("duplicate-mac", Conflict),
            Self::MacPoolExhausted { .. } => ("mac-pool-exhausted", Conflict),
            Self::SocketNotAbsolute { .. } => ("socket-not-absolute", BadValue),
            Self::SocketTooLong { .. } => ("socket-too-long", BadValue),
            Self::SocketDirectoryMissing { .. } => ("socket-directory-missing", BadValue),
            Self::SocketInUse { .. } => ("socket-in-use", Conflict),
            Self::SocketNotSocket { .. } => ("socket-not-socket", Conflict),
            Self::SocketUnusable { .. } => ("socket-unusable", Unavailable),
            Self::BadInterfaceName { .. } => ("bad-interface-name", BadValue),
            Self::UnknownInterface { .. } => ("unknown-interface", NotFound),
            Self::InterfaceInUse { .. } => ("interface-in-use", Conflict),
            Self::InterfaceUnusable { .. } => ("interface-unusable", Unavailable),
            Self::OutOfRange { .. } => ("out-of-range", BadValue),
            Self::BadValue { .. } => ("bad-value", BadValue),
            Self::BadFeatures { .. } => ("bad-features", BadValue),
            Self::UnknownKey { .. } => ("unknown-key", BadValue),
            Self::NotToml { .. } => ("not-toml", BadValue),
            Self::FileUnusable { .. } => ("file-unusable", Unavailable),
            Self::Missing { .. } => ("missing", BadValue),
            Self::NotApplicable { .. } => ("not-applicable", BadValue),
            Self::BadVlan(_) => ("bad-vlan", BadValue),
            Self::VsidWithVlan { .. } => ("vsid-with-vlan", BadValue),
            Self::PrivateVlanConflict { .. } => ("private-vlan-conflict", Conflict),
            Self::TeamingWithoutVm => ("teaming-without-vm", BadValue),
            Self::BadVmName { .. } => ("bad-vm-name", BadValue),
            Self::BadMirror { .. } => ("bad-mirror", BadValue),
            Self::MirrorUplink => ("mirror-uplink", BadValue),
            Self::BadAction { .. } => ("bad-action", BadValue),
            Self::BadDirection { .. } => ("bad-direction", BadValue),
            Self::BadAddressType { .. } => ("bad-address-type", BadValue),
            Self::BadPrefixLength { .. } => ("bad-prefix-length", BadValue),
            Self::BadAddressSize { .. } => ("bad-address-size", BadValue),
            Self::BadAddress { .. } => ("bad-address", BadValue),
            Self::HostBits { .. } => ("host-bits", BadValue),
            Self::LocalOrRemote { .. } => ("local-or-remote", BadValue),
            Self::TooManyEntries { .. } => ("too-many-entries", Conflict),
            Self::DuplicateEntry { .. } => ("duplicate-entry", Conflict),
            Self::NoSuchEntry { .. } => ("no-such-entry", NotFound),
            Self::IdleWithoutStateful => ("idle-without-stateful", BadValue),
            Self::BadProtocol { .. } => ("bad-protocol", BadValue),
            Self::BadPortRange { .. } => ("bad-port-range", BadValue),
            Self::PortsWithoutTransport { .. } => ("ports-without-transport", BadValue),
            Self::StatefulProtocol { .. } => ("stateful-protocol", BadValue),
            Self::StatefulDeny => ("stateful-deny", BadValue),
            Self::NoCounter { .. } => ("no-counter", Conflict),
            Self::NotMetered { .. } => ("not-metered", NotFound),
            Self::KindForbids { .. } => ("kind-forbids", Conflict),
            Self::KindContradicts { .. } => ("kind-contradicts", Conflict),
            Self::SecondUplink { .. } => ("second-uplink", Conflict),
            Self::NotStandingStill => ("not-standing-still", Conflict),
            Self::StateArrived => ("state-arrived", Conflict),
            Self::StateRefused { .. } => ("state-refused", Conflict),
            Self::StateMisfit { .. } => ("state-misfit", Conflict),
            Self::BadFleetKey { .. } => ("bad-fleet-key", BadValue),
            Self::Migrating { .. } => ("port-migrating", Conflict),
            Self::NoMigration => ("no-migration", NotFound),
            Self::TooManyMigrations { .. } => ("too-many-migrations", Conflict),
            Self::BadCredentials { .. } => ("bad-credentials", BadValue),
            Self::ListensAlready { .. } => ("listens-already", Conflict),
            Self::ListensNot => ("listens-not", NotFound),
            Self::TooManyWatchers { .. } => ("too-many-watchers", Conflict),
            Self::Extension { .. } => ("extension-refused", Conflict),
            Self::UnknownExtension { .. } => ("unknown-extension", NotFound),
            Self::ExtensionEnabled => ("extension-enabled", Conflict),
            Self::ExtensionDisabled => ("extension-disabled", Conflict),
            Self::ExtensionInUse => ("extension-in-use", Conflict),
            Self::ExtensionBuiltIn => ("extension-built-in", Conflict),
            Self::ExtensionStart { .. } => ("extension-start", BadValue),
            Self::ExtensionStack(_) => ("extension-stack", Conflict),
            Self::ExtensionPosition { .. } => ("extension-position", BadValue),
            Self::BadModule { .. } => ("bad-module", BadValue),
            Self::PermissionDenied { .. } => ("permission-denied", Denied),
            Self::Malformed { .. } => ("malformed", BadValue),
            Self::UnknownRoute { .. } => ("unknown-route", NotFound),
            Self::TooLarge { .. } => ("too-large", BadValue),
            Self::TooSlow { .. } => ("too-slow", BadValue),
            Self::CannotListen { .. } => ("cannot-listen", Unavailable),
            Self::ApiInUse => ("api-in-use", Conflict),
            Self::ApiUnusable { .. } => ("api-unusable", Unavailable),
            Self::StateInUse => ("state-in-use", Conflict),
            Self::StateCorrupt { .. } => ("state-corrupt", Unavailable),
            Self::StateVersion { .. } => ("state-version", Conflict),
            Self::CountersDamaged { .. } => ("counters-damaged", Unavailable),
            Self::StateUnusable { .. } => ("state-unusable", Unavailable),
            Self::StoreFailed { .. } => ("store-failed", Unavailable),
            Self::System { .. } => ("system", Unavailable),
            Self::Stopping => ("stopping", Unavailable),
            Self::TakeOverDenied { .. } => ("take-over-denied", Denied),
            Self::TakeOverVersion { .. } => ("take-over-version", Conflict),
            Self::TakeOverRunning => ("take-over-running", Conflict),
            Self::TakeOverMoving { .. } => ("take-over-moving", Conflict),
            Self::TakeOverFailed { .. } => ("take-over-failed", Unavailable),
            Self::Nv(why) => why.entry(),
        }
    }

    /// What is wrong with each of several objects, if it is about several.
    pub fn problems(&self) -> &[Refused] {
        match self {
            Self::Nv(why) => why.problems(),
            _ => &[],
        }
    }

    /// The number of the same refusal in the Hyper-V switch, where it has one.
    pub fn reason(&self) -> Option<u16> {
        Some(match self {
            Self::NotApplicable { setting: "mac-spoofing", .. } => 5,
            Self::BadMirror { .. } => 8,
            Self::MirrorUplink => 9,
            Self::NoCounter { .. } => 12,
            Self::BadAddressType { .. } => 14,
            Self::BadAction { .. } => 15,
            Self::BadDirection { .. } => 16,
            Self::BadPrefixLength { .. } => 17,
            Self::BadAddressSize { .. } => 18,
            Self::BadAddress { .. } | Self::HostBits { .. } => 19,
            Self::LocalOrRemote { .. } => 20,
            Self::TooManyEntries { .. } => 22,
            Self::DuplicateEntry { .. } => 24,
            Self::NoSuchEntry { .. } => 26,
            Self::OutOfRange { setting: "vsid", .. } => 27,
            Self::VsidWithVlan { .. } => 31,
            Self::NotApplicable { setting: "vlan", kind: PortKind::Uplink, .. } => 32,
            Self::BadVlan(error) => error.reason(),
            Self::IdleWithoutStateful => 77,
            Self::BadProtocol { .. } => 78,
            Self::BadPortRange { .. } | Self::PortsWithoutTransport { .. } => 79,
            Self::StatefulProtocol { .. } => 80,
            Self::Extension { .. } => 101,
            _ => return None,
        })
    }
}
