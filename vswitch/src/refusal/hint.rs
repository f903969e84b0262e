//! What would be valid instead of what was refused.

use super::{Refusal, Shown, some_of};
use crate::snapshot::SwitchKind;

impl Refusal {
    /// What would be valid.
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownPort { known } if known.is_empty() => {
                "there are no ports yet; add one with 'turnpike port add'".into()
            }
            Self::UnknownPort { known } => format!("{} (see 'turnpike port list')", some_of(known)),
            Self::UnknownUplink { known } if known.is_empty() => {
                "there is no uplink yet; add one with 'turnpike uplink add'".into()
            }
            Self::WrongNoun { command, .. } => format!("'{command}'"),
            Self::BadName | Self::BadVmName { .. } => {
                "1 to 32 characters of A-Z a-z 0-9 . _ -, the first one a letter or a digit".into()
            }
            Self::DuplicateName { .. } => "a name not in 'turnpike port list'".into(),
            Self::TooManyPorts { limit } => format!("up to {limit}; remove a port first"),
            Self::NotStandingStill => "a port whose guest is stopped or not attached".into(),
            Self::StateArrived => "to let the guest that is awaited start, or to detach its front end".into(),
            Self::StateRefused { .. } => "a state of this very port, newer than any before".into(),
            Self::BadFleetKey { .. } => {
                "32 random bytes in a file that only its owner may use, as 'turnpike migrate new-key' makes".into()
            }
            Self::BadMac { .. } => "six hexadecimal bytes such as 52:54:00:12:34:56".into(),
            Self::GroupMac { .. } | Self::ZeroMac => {
                "a non-zero unicast address (the first byte is even) such as 52:54:00:12:34:56".into()
            }
            Self::DuplicateMac { .. } => "an address no other port has, or none to get a dynamic one".into(),
            Self::MacPoolExhausted { .. } => {
                "an explicit --mac, or remove a port that has a dynamic one".into()
            }
            Self::SocketNotAbsolute { .. } => "an absolute path such as /run/turnpike/web.sock".into(),
            Self::SocketTooLong { .. } => "at most 107 bytes".into(),
            Self::SocketDirectoryMissing { .. } => "a path in an existing directory".into(),
            Self::SocketInUse { .. } => "a path nobody listens on".into(),
            Self::SocketNotSocket { .. } => "a path that does not exist yet, or an abandoned socket".into(),
            Self::SocketUnusable { .. } => "a path at which the switch may create a socket".into(),
            Self::BadInterfaceName { .. } => "1 to 15 characters without '/', ':' and white space".into(),
            Self::UnknownInterface { known, .. } if known.is_empty() => "none on this host".into(),
            Self::UnknownUplink { known }
            | Self::UnknownInterface { known, .. }
            | Self::UnknownKey { known, .. } => some_of(known),
            Self::BadFeatures { known, .. } => format!("a list of {}", known.join(",")),
            Self::InterfaceInUse { .. } => "an interface that is free".into(),
            Self::InterfaceUnusable { .. } => {
                "another Ethernet interface, or this one when that is mended".into()
            }
            Self::BadVlan(_) => {
                "none, access:ID, trunk:LIST[/NATIVE], isolated:PRI/SEC, community:PRI/SEC or \
                 promiscuous:PRI/SEC[,SEC...] with ids 1 to 4094"
                    .into()
            }
            Self::VsidWithVlan { .. } => "one of them; set the other to none".into(),
            Self::PrivateVlanConflict { .. } => {
                "a secondary VLAN belongs to one primary VLAN and is either isolated or a community".into()
            }
            Self::TeamingWithoutVm => {
                "--vm NAME as well, the same for all ports of the virtual machine; teaming shares addresses among these".into()
            }
            Self::BadMirror { .. } => "none, source or destination".into(),
            Self::MirrorUplink => "none or source; a guest port or host port as destination".into(),
            Self::BadPrefixLength { max: 0, .. } => "a MAC address without a length".into(),
            Self::BadPrefixLength { max, .. } => format!("0 to {max}"),
            Self::HostBits { value, network } => {
                format!("{network}, or {} alone", value.split('/').next().unwrap_or_default())
            }
            Self::LocalOrRemote { .. } => "either a local or a remote address".into(),
            Self::TooManyEntries { limit, .. } => format!("up to {limit}"),
            Self::NoSuchEntry { list, .. } => format!("one of those in '{list}', with the same arguments"),
            Self::IdleWithoutStateful => "--stateful as well, or no idle timeout".into(),
            Self::BadProtocol { .. } => "tcp, udp, icmp, icmpv6 or a number from 0 to 255".into(),
            Self::BadPortRange { .. } => "0 to 65535, or two of them such as 8000-8100".into(),
            Self::PortsWithoutTransport { .. } | Self::StatefulProtocol { .. } => "protocol tcp or udp".into(),
            Self::StatefulDeny => "action allow, or a rule that is not stateful".into(),
            Self::NotToml { .. } => "a file as 'turnpike save' prints it".into(),
            Self::FileUnusable { .. } => "a file that may be read, or - for standard input".into(),
            Self::Migrating { .. } => "wait for its end, or 'turnpike migrate cancel' that one first".into(),
            Self::NoMigration => "one of those that 'turnpike migrate status' lists".into(),
            Self::TooManyWatchers { .. } => "to end one of them first".into(),
            Self::TooManyMigrations { .. } => "wait for some to end".into(),
            Self::BadCredentials { .. } => {
                "a certificate, its key and the certificates of the CA, in PEM files that the switch may read".into()
            }
            Self::ListensAlready { .. } => "'turnpike migrate listen --stop' first".into(),
            Self::ListensNot => "'turnpike migrate listen --address IP:PORT --cert FILE --key FILE --ca FILE' first".into(),
            Self::NoCounter { .. } => "remove entries or rules first".into(),
            Self::NotMetered { port } => format!("'turnpike meter enable {}' first", Shown(port)),
            Self::BadAction { valid, .. }
            | Self::BadDirection { valid, .. }
            | Self::BadAddressType { valid, .. }
            | Self::BadAddressSize { valid, .. }
            | Self::BadAddress { valid, .. }
            | Self::DuplicateEntry { valid, .. }
            | Self::NotApplicable { valid, .. }
            | Self::KindForbids { valid, .. } => (*valid).to_owned(),
            Self::OutOfRange { min, max, unit: "", .. } => format!("{min} to {max}"),
            Self::OutOfRange { min, max, unit, .. } => format!("{min} to {max} {unit}"),
            Self::BadValue { valid, .. } | Self::Missing { valid, .. } | Self::StateMisfit { valid, .. } => valid.clone(),
            Self::KindContradicts { kind: SwitchKind::Private, .. } => {
                "remove these first (a private switch connects guests only)".into()
            }
            Self::KindContradicts { .. } => {
                "remove these first (an internal switch connects guests and the host only)".into()
            }
            Self::SecondUplink { existing } => format!("'turnpike uplink remove {existing}' first"),
            Self::Extension { name, .. } => {
                format!("what it accepts; 'turnpike extension show {}' says how it is set", Shown(name))
            }
            Self::UnknownExtension { known } if known.is_empty() => {
                "one loaded with 'turnpike extension load FILE.wasm' first".into()
            }
            Self::UnknownExtension { known } => {
                format!("{} (see 'turnpike extension list --available')", some_of(known))
            }
            Self::ExtensionEnabled => "'turnpike extension disable' first, to start it anew".into(),
            Self::ExtensionDisabled => "one of those in 'turnpike extension list'".into(),
            Self::ExtensionInUse => "'turnpike extension disable' first".into(),
            Self::ExtensionBuiltIn => "another name; built-in extensions are always there".into(),
            Self::ExtensionStart { .. } => "the configuration that the extension asks for (--config FILE)".into(),
            Self::ExtensionStack(_) => "fewer extensions; see 'turnpike extension list'".into(),
            Self::ExtensionPosition { first, last, kind, .. } if first == last => {
                format!("{first}, where the only {kind} extension is")
            }
            Self::ExtensionPosition { first, last, .. } => format!("{first} to {last}"),
            Self::BadModule { .. } => "a WebAssembly module with the interface of this version".into(),
            Self::PermissionDenied { group: None, .. } => {
                "root or the switch's own user (a group can be allowed with 'serve --api-group')".into()
            }
            Self::PermissionDenied { group: Some(group), .. } => {
                format!("root, the switch's own user or a member of group '{group}'")
            }
            Self::Malformed { .. } => "a JSON object as described by GET /v1/openapi.json".into(),
            Self::UnknownRoute { .. } => "the routes listed by GET /v1/openapi.json".into(),
            Self::TooLarge { limit } => format!("up to {limit} bytes"),
            Self::TooSlow { seconds } => format!("a whole request within {seconds} s"),
            Self::CannotListen { .. } => {
                "a free port of an address of this host, such as 127.0.0.1:9101".into()
            }
            Self::ApiInUse => "stop it first, or give another path with --api".into(),
            Self::ApiUnusable { .. } => "a path at which the switch may create a socket (--api)".into(),
            Self::StateInUse => "stop it first, or give another directory with --state-dir".into(),
            Self::StateCorrupt { .. } => {
                "a store written by turnpike; move this file away to start with no ports".into()
            }
            Self::StateVersion { .. } => "the version of turnpike that wrote it, or a newer one".into(),
            Self::CountersDamaged { .. } => {
                "counters written by turnpike; move this file away to start with all at zero".into()
            }
            Self::StateUnusable { .. } => {
                "a directory the switch may write to (--state-dir), or --state-dir none".into()
            }
            Self::StoreFailed { .. } => "room and write permission in the state directory".into(),
            Self::System { .. } => "try again when the system has the resource".into(),
            Self::Stopping => "try again when it runs again".into(),
            Self::TakeOverDenied { .. } => "root or the switch's own user".into(),
            Self::TakeOverVersion { known, .. } => {
                format!("a program that speaks version {known}; or stop this switch and start the other")
            }
            Self::TakeOverRunning => "try again when it has ended".into(),
            Self::TakeOverMoving { .. } => "try again when its migration has ended or was cancelled".into(),
            Self::TakeOverFailed { .. } => "the running switch goes on unchanged; try again".into(),
            Self::Nv(why) => why.hint(),
        }
    }
}
