//! The objects of network virtualization, as an operator or a policy store says them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Mac;

/// The smallest virtual subnet identifier; smaller ones are reserved (RFC 7637, section 3.3).
pub const MIN_VSID: u32 = 4096;

/// The largest virtual subnet identifier; 16777215 is reserved (RFC 7637, section 3.3).
pub const MAX_VSID: u32 = 16_777_214;

/// A customer network's number: the identity of a routing domain, a UUID in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Rdid(pub u128);

impl fmt::Display for Rdid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// The text is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a UUID (8-4-4-4-12 hexadecimal digits)")]
pub struct RdidError(pub String);

impl FromStr for Rdid {
    type Err = RdidError;

    fn from_str(text: &str) -> Result<Self, RdidError> {
        let error = || RdidError(text.to_owned());
        let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
        let lengths: Vec<usize> = inner.split('-').map(str::len).collect();
        let digits: String = inner.split('-').collect();
        if lengths != [8, 4, 4, 4, 12] || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(error());
        }
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_| error())
    }
}

impl Serialize for Rdid {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rdid {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How a customer's packets are carried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encap {
    /// GRE with the VSID in its key (RFC 7637).
    #[default]
    Nvgre,
    /// UDP to port 4789 (RFC 7348).
    Vxlan,
    /// The addresses themselves are replaced: one provider address for each customer address.
    Rewrite,
}

impl Encap {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nvgre => "nvgre",
            Self::Vxlan => "vxlan",
            Self::Rewrite => "rewrite",
        }
    }
}

/// What a lookup record is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An address that somebody configured. Nothing learned contradicts it.
    #[default]
    Static,
    /// An address that was learned from a guest.
    Dynamic,
    /// A guest whose address is not known; its `ca` is 0.0.0.0 or ::.
    L2Only,
    /// A guest that forwards for addresses that are not its own.
    Gateway,
}

impl Kind {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
            Self::L2Only => "l2-only",
            Self::Gateway => "gateway",
        }
    }
}

/// Where one customer address is. Of one virtual subnet and address there is one record; of one virtual subnet and MAC address one
/// of kind `l2-only`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Record {
    /// The virtual subnet.
    pub vsid: u32,
    /// The customer address; unspecified for `l2-only`.
    pub ca: IpAddr,
    /// The guest's MAC address.
    pub mac: Mac,
    /// The provider address of the host where the guest is.
    pub pa: IpAddr,
    /// What it is for.
    #[serde(default)]
    pub kind: Kind,
    /// How its packets are carried.
    #[serde(default)]
    pub encap: Encap,
    /// IP rewrite: the provider address that stands for this customer address alone, on the wire; `pa` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite_pa: Option<IpAddr>,
    /// The provider address of the host where the guest is about to be, while it is being moved. What comes from there is believed to be the
    /// guest's; nothing is sent there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<IpAddr>,
}

/// A customer network (routing domain).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub rdid: Rdid,
}

/// A virtual subnet of a customer network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Subnet {
    /// The customer network's name.
    pub network: String,
    /// Its identifier.
    pub vsid: u32,
    /// Its prefixes, at most one of each family. They overlap with no other of the same network.
    pub prefixes: Vec<IpNet>,
    /// Addresses of the distributed router, at most one of each family; the lowest host address of the prefix where none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
}

/// Where a customer route leads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NextHop {
    /// To a guest that forwards: a customer address of the same network.
    Address(IpAddr),
    /// To the network's gateway.
    Gateway,
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Gateway => f.write_str("gateway"),
        }
    }
}

impl FromStr for NextHop {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "gateway" { Ok(Self::Gateway) } else { text.parse().map(Self::Address) }
    }
}

impl Serialize for NextHop {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NextHop {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wanted = || serde::de::Error::custom(format!("'{text}' is neither an IP address nor 'gateway'"));
        text.parse().map_err(|_| wanted())
    }
}

/// A customer route: longest prefix first, then the smallest metric.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Route {
    /// The customer network's name.
    pub network: String,
    /// What it is for.
    pub prefix: IpNet,
    /// Where that is.
    pub next_hop: NextHop,
    /// Of several for one prefix the smallest counts.
    #[serde(default)]
    pub metric: u32,
}

/// A provider address of this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Provider {
    /// The address and the prefix of its subnet.
    pub address: IpNet,
    /// The uplink it is at.
    pub uplink: String,
    /// The VLAN of the outer frames; `None` = untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The router to provider addresses of other subnets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// How a gateway connects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayMode {
    /// Routed, customer addresses as they are.
    Forward,
    /// Behind one shared address.
    Nat,
}

/// A customer network's way to a physical one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Gateway {
    /// The customer network's name.
    pub network: String,
    /// The uplink it is at.
    pub uplink: String,
    /// How it connects.
    pub mode: GatewayMode,
    /// The VLAN on the physical side; `None` = untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Its own address and subnet on the physical side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpNet>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routing_domain_is_a_uuid_in_text() {
        let text = "6f9619ff-8b86-d011-b42d-00c04fc964ff";
        let rdid: Rdid = text.parse().expect("a UUID");
        assert_eq!(rdid.to_string(), text);
        assert_eq!("{6F9619FF-8B86-D011-B42D-00C04FC964FF}".parse(), Ok(rdid));
        for bad in [
            "",
            "6f9619ff",
            "6f9619ff-8b86-d011-b42d-00c04fc964f",
            "6f9619ff-8b86-d011-b42d-00c04fc964fg",
            "+f9619ff-8b86-d011-b42d-00c04fc964ff",
        ] {
            assert_eq!(bad.parse::<Rdid>(), Err(RdidError(bad.to_owned())));
        }
    }

    #[test]
    fn a_next_hop_is_an_address_or_the_gateway() {
        assert_eq!("gateway".parse(), Ok(NextHop::Gateway));
        assert_eq!("10.0.0.1".parse(), Ok(NextHop::Address([10, 0, 0, 1].into())));
        assert!("somewhere".parse::<NextHop>().is_err());
    }
}
