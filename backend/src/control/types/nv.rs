//! Objects of network virtualization as they are said: in the API, in files, and as values in a policy store.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One text, or a list of them.
fn one_or_more<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    struct Texts;
    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }
    d.deserialize_any(Texts)
}

/// A customer network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name; same rules as for a port.
    pub name: String,
    /// Its identity (routing domain): a UUID no other network has.
    pub rdid: String,
}

/// A virtual subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubnetSpec {
    /// The customer network.
    pub network: String,
    /// Its identifier on the wire, 4096 to 16777214.
    pub vsid: u64,
    /// Its prefixes, at most one of IPv4 and one of IPv6.
    #[serde(deserialize_with = "one_or_more")]
    pub prefix: Vec<String>,
    /// Addresses of the router, at most one of each family (default: the lowest host address of the prefix).
    #[serde(default, deserialize_with = "one_or_more", skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<String>,
}

/// Where one customer address is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordSpec {
    /// The virtual subnet.
    pub vsid: u64,
    /// The customer address; none for kind `l2-only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The guest's MAC address.
    pub mac: String,
    /// The provider address of the host where the guest is.
    pub pa: String,
    /// What it is for: `static` (default), `l2-only`, `gateway`, or `dynamic` where it was learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How its packets are carried: `nvgre` (default), `vxlan` or `rewrite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encap: Option<String>,
    /// `rewrite`: the provider address that stands for this customer address alone (default: `pa`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite_pa: Option<String>,
    /// The provider address of the host where the guest is about to be, while it is being moved: that host says so and takes it back. Other
    /// hosts believe what comes from there as the guest's, for an hour at most, and send nothing there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_pa: Option<String>,
}

/// A change of a record; what is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordChange {
    /// The virtual subnet of the record.
    pub vsid: u64,
    /// Its customer address; none for kind `l2-only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Kind `l2-only`: its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The new provider address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pa: Option<String>,
    /// How its packets are carried from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encap: Option<String>,
    /// The new address that stands for it on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite_pa: Option<String>,
}

/// A customer route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// The customer network.
    pub network: String,
    /// What it is for.
    pub prefix: String,
    /// Where that is: a customer address of the network, or `gateway`.
    pub next_hop: String,
    /// Of several for one prefix the smallest counts (default 0).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub metric: u64,
}

/// A provider address of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProviderSpec {
    /// The address and the length of its subnet's prefix.
    pub address: String,
    /// The uplink.
    pub uplink: String,
    /// VLAN of the outer frames (default: untagged).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u64>,
    /// The router to provider addresses of other subnets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// A customer network's way to a physical one, at this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GatewaySpec {
    /// The customer network.
    pub network: String,
    /// The uplink.
    pub uplink: String,
    /// How it connects: `forward` or `nat`.
    pub mode: String,
    /// VLAN on the physical side (default: untagged).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u64>,
    /// Its own address on the physical side, with the length of the prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// All of network virtualization as one document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NvDocument {
    /// Customer networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<NetworkSpec>,
    /// Virtual subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnet: Vec<SubnetSpec>,
    /// Customer routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<RouteSpec>,
    /// Provider addresses of this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provider: Vec<ProviderSpec>,
    /// Gateways at this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<GatewaySpec>,
    /// Lookup records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub record: Vec<RecordSpec>,
}

/// Why packets for a customer address go where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResolutionView {
    /// The virtual subnet that they are sent in.
    pub vsid: u32,
    /// The customer address.
    pub ca: String,
    /// What was found, step by step, in words.
    pub steps: Vec<String>,
    /// The record's provider address: the host where it is.
    pub pa: Option<String>,
    /// The MAC address that they are given.
    pub mac: Option<String>,
    /// The port, if it is at this host.
    pub port: Option<String>,
    /// The uplink, if it is at another host.
    pub uplink: Option<String>,
    /// Whom they are given to on the provider network.
    pub next_hop: Option<String>,
    /// How long packets of the provider network on the way there may be, in bytes: the uplink's MTU, or less by a router's word.
    #[serde(default)]
    pub path_mtu: Option<u16>,
    /// How long the guest's own packets may be, in bytes.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Why they are dropped, if they are.
    pub dropped: Option<String>,
}

/// Where the policy of network virtualization is kept, and how that fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyStoreView {
    /// `embedded`, or `etcd`.
    pub kind: String,
    /// Whether it answers; what is known stays in force when it does not.
    pub up: bool,
    /// Which member of it answers, or did last.
    pub member: String,
    /// Why it does not answer.
    pub reason: String,
    /// Up to which of its revisions everything is in force here.
    pub revision: i64,
    /// The newest revision that was heard of.
    pub newest: i64,
    /// Milliseconds since it was heard last.
    pub silent_ms: u64,
    /// How often it was lost.
    pub losses: u64,
    /// How often everything was read again because it had forgotten what happened in between.
    pub reloads: u64,
    /// Changes of keys that were followed.
    pub changes: u64,
    /// Keys with wrong values, of which the last good one stays in force.
    pub skipped: u64,
    /// What is wrong with each of these; of the first thousand.
    pub skipped_keys: std::collections::BTreeMap<String, String>,
    /// The hosts that are there.
    pub hosts: Vec<String>,
    /// Virtual subnets whose records this host follows: those of the customer networks that it has ports or gateways in.
    pub subnets: u64,
    /// Those of them whose records are still being read.
    pub reading: u64,
    /// Changes that are being written into it now.
    #[serde(default)]
    pub to_write: u64,
    /// Those of them that are written.
    #[serde(default)]
    pub written: u64,
    /// Whether what is in force was remembered when the switch ended, because the store has not answered since it started.
    #[serde(default)]
    pub from_memory: bool,
}
