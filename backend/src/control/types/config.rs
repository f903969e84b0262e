//! A whole switch as one document: what `apply` makes it equal to and what `save` prints.
//!
//! What a document does not say is at its default. In a file the keys are written with `-` and those of `policy` stand beside
//! the others; see `cli::file`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{AclSpec, ConfigExtension, NewPort, NewUplink, NvDocument, PolicyChange, RuleSpec, SwitchChange};

/// A whole switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Settings of the switch.
    #[serde(default, skip_serializing_if = "is_default")]
    pub switch: SwitchChange,
    /// The uplink, if there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uplink: Vec<ConfigUplink>,
    /// Guest ports and host ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<ConfigPort>,
    /// Extensions, in the order of the stack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extension: Vec<ConfigExtension>,
    /// Network virtualization; with a policy store that hosts share, only what is this host's own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nv: NvDocument,
}

/// An uplink with its policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigUplink {
    /// Its name.
    pub name: String,
    /// The network interface.
    pub device: String,
    /// How the interface is driven: `packet` (the default) or `xdp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Its policy, where it differs from the default.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: PolicyChange,
}

impl ConfigUplink {
    /// The uplink without its policy.
    pub fn uplink(&self) -> NewUplink {
        NewUplink { name: self.name.clone(), device: self.device.clone(), driver: self.driver.clone() }
    }
}

/// A port with everything that belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigPort {
    /// Its name.
    pub name: String,
    /// Guest port: absolute path of the vhost-user socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Guest port: connect to the socket (and retry) instead of listening on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub client: bool,
    /// Host port: name of the TAP interface, created if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// Its MAC address; without one it keeps its dynamic address or gets one.
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
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: PolicyChange,
    /// Whether its meters are reported; a port without ACL entries gets the four default meters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub metering: bool,
    /// Its ACL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acl: Vec<AclSpec>,
    /// Its extended rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<RuleSpec>,
    /// Settings for it that are extensions' own, by extension.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extension: BTreeMap<String, Value>,
}

impl ConfigPort {
    /// The port without its lists.
    pub fn port(&self) -> NewPort {
        NewPort {
            name: self.name.clone(),
            socket: self.socket.clone(),
            client: self.client,
            tap: self.tap.clone(),
            mac: self.mac.clone(),
            queues: self.queues,
            mtu: self.mtu,
            features: self.features.clone(),
            policy: self.policy.clone(),
        }
    }
}

/// What applying a document changed, or would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Whether nothing was changed because it was only asked for.
    pub dry_run: bool,
    /// The differences; none if the switch was equal to the document.
    pub changes: Vec<Difference>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// `+` added, `-` removed, `~` changed.
    pub op: String,
    /// What it is about.
    pub object: String,
    /// The new values, or the list entry.
    pub text: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
