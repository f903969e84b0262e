//! The objects of network virtualization.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;

use crate::cli::client::{Client, below};
use crate::cli::table::table;
use crate::cli::{Answer, Outcome};
use crate::control::types::{
    GatewaySpec, NetworkSpec, ProviderSpec, RecordChange, RecordSpec, RouteSpec, SubnetSpec,
};

/// Adds one object and says so.
fn add<S: Serialize + serde::de::DeserializeOwned>(
    client: &Client,
    answer: &Answer,
    path: &str,
    spec: &S,
    name: &str,
) -> Outcome {
    let added: Vec<S> = client.post(path, spec)?;
    answer.print(&added, |_| format!("{name} added"))
}

/// Says that an object was removed.
fn removed(answer: &Answer, name: &str) -> Outcome {
    answer.print(&json!({"removed": name}), |_| format!("{name} removed"))
}

fn or_dash(value: Option<&String>) -> String {
    value.cloned().unwrap_or_else(|| "-".into())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// Add a customer network.
    Add {
        /// Its name; same rules as for a port.
        name: String,
        /// Its identity: a UUID that no other network has.
        #[arg(long, value_name = "UUID")]
        rdid: String,
    },
    /// Remove a customer network that nothing needs.
    Remove {
        /// The network.
        name: String,
    },
    /// List the customer networks.
    List,
}

impl Network {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Add { name, rdid } => {
                let said = format!("network '{name}'");
                add(client, answer, "/v1/nv/networks", &NetworkSpec { name, rdid }, &said)
            }
            Self::Remove { name } => {
                client.delete(&below("/v1/nv/networks", &name))?;
                removed(answer, &format!("network '{name}'"))
            }
            Self::List => answer.print(&client.get::<Vec<NetworkSpec>>("/v1/nv/networks")?, |list| {
                let rows = list.iter().map(|it| vec![it.name.clone(), it.rdid.clone()]);
                or_none(list, "no networks; add one with 'turnpike nv network add'", || {
                    table(&["NAME", "RDID"], rows)
                })
            }),
        }
    }
}

fn or_none<T>(list: &[T], nothing: &str, shown: impl FnOnce() -> String) -> String {
    if list.is_empty() { nothing.to_owned() } else { shown() }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Subnet {
    /// Add a virtual subnet to a customer network.
    Add {
        /// The customer network.
        #[arg(long, value_name = "NAME")]
        network: String,
        /// Its identifier on the wire, 4096 to 16777214, which no other subnet has.
        #[arg(long, value_name = "N")]
        vsid: u64,
        /// Its prefix, of IPv4, IPv6 or one of each; subnets of one network do not overlap.
        #[arg(long, value_name = "P[,P6]", value_delimiter = ',', required = true)]
        prefix: Vec<String>,
        /// The router's address, at most one of each family [default: the lowest host address of the prefix].
        #[arg(long, value_name = "IP", value_delimiter = ',')]
        gateway: Vec<String>,
    },
    /// Remove a virtual subnet that nothing needs.
    Remove {
        /// Its identifier.
        #[arg(value_name = "VSID")]
        vsid: u64,
    },
    /// List the virtual subnets.
    List,
}

impl Subnet {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Add { network, vsid, prefix, gateway } => {
                let spec = SubnetSpec { network, vsid, prefix, gateway };
                add(client, answer, "/v1/nv/subnets", &spec, &format!("subnet {vsid}"))
            }
            Self::Remove { vsid } => {
                client.delete(&format!("/v1/nv/subnets/{vsid}"))?;
                removed(answer, &format!("subnet {vsid}"))
            }
            Self::List => answer.print(&client.get::<Vec<SubnetSpec>>("/v1/nv/subnets")?, |list| {
                let row = |it: &SubnetSpec| {
                    vec![it.vsid.to_string(), it.network.clone(), it.prefix.join(", "), it.gateway.join(", ")]
                };
                or_none(list, "no subnets; add one with 'turnpike nv subnet add'", || {
                    table(&[">VSID", "NETWORK", "PREFIX", "ROUTER"], list.iter().map(row))
                })
            }),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// The address of a guest.
    Static,
    /// A guest whose address is not known: no --ca.
    L2Only,
    /// A guest that forwards for addresses that are not its own.
    Gateway,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Encap {
    /// GRE with the VSID in its key (RFC 7637).
    Nvgre,
    /// UDP (RFC 7348).
    Vxlan,
    /// The addresses themselves are replaced.
    Rewrite,
}

fn word(value: &impl ValueEnum) -> Option<String> {
    value.to_possible_value().map(|value| value.get_name().to_owned())
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("key").required(true).args(["ca", "mac"]))]
pub(crate) struct RecordKey {
    /// The virtual subnet.
    #[arg(long, value_name = "N")]
    vsid: u64,
    /// The customer address.
    #[arg(long, value_name = "IP")]
    ca: Option<String>,
    /// Kind l2-only: the MAC address.
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,
}

impl RecordKey {
    fn name(&self) -> String {
        match (&self.ca, &self.mac) {
            (Some(ca), _) => format!("record {}/{ca}", self.vsid),
            (None, mac) => format!("record {}/l2-only/{}", self.vsid, mac.as_deref().unwrap_or_default()),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Record {
    /// Say where a customer address is.
    Add {
        /// The virtual subnet.
        #[arg(long, value_name = "N")]
        vsid: u64,
        /// The customer address; none for kind l2-only.
        #[arg(long, value_name = "IP")]
        ca: Option<String>,
        /// The guest's MAC address.
        #[arg(long, value_name = "MAC")]
        mac: String,
        /// The provider address of the host where the guest is.
        #[arg(long, value_name = "IP")]
        pa: String,
        /// What it is for.
        #[arg(long, value_enum, default_value = "static")]
        kind: Kind,
        /// How packets are carried to it.
        #[arg(long, value_enum, default_value = "nvgre")]
        encap: Encap,
        /// Encap rewrite: the provider address that stands for this customer address alone [default: that of --pa].
        #[arg(long, value_name = "IP")]
        rewrite_pa: Option<String>,
    },
    /// Change where a record says that its guest is, or how packets are carried to it.
    Set {
        #[command(flatten)]
        key: RecordKey,
        /// The provider address of the host where the guest is now.
        #[arg(long, value_name = "IP")]
        pa: Option<String>,
        /// How packets are carried to it from now on.
        #[arg(long, value_enum)]
        encap: Option<Encap>,
        /// Encap rewrite: the provider address that stands for it from now on.
        #[arg(long, value_name = "IP")]
        rewrite_pa: Option<String>,
    },
    /// Remove a record.
    Remove {
        #[command(flatten)]
        key: RecordKey,
    },
    /// List the records that this host holds, those that were learned from guests included. With a policy store that hosts share these are
    /// the records of the customer networks that it has ports or gateways in; 'turnpike nv export' has all.
    List {
        /// Only those of this virtual subnet.
        #[arg(long, value_name = "N")]
        vsid: Option<u64>,
    },
}

impl Record {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Add { vsid, ca, mac, pa, kind, encap, rewrite_pa } => {
                let name = RecordKey { vsid, ca: ca.clone(), mac: Some(mac.clone()) }.name();
                let (kind, encap) = (word(&kind), word(&encap));
                let spec = RecordSpec { vsid, ca, mac, pa, kind, encap, rewrite_pa, next_pa: None };
                add(client, answer, "/v1/nv/records", &spec, &name)
            }
            Self::Set { key, pa, encap, rewrite_pa } => {
                let name = key.name();
                let RecordKey { vsid, ca, mac } = key;
                let change =
                    RecordChange { vsid, ca, mac, pa, encap: encap.as_ref().and_then(word), rewrite_pa };
                let changed: Vec<RecordSpec> = client.patch("/v1/nv/records", &change)?;
                answer.print(&changed, |_| format!("{name} changed"))
            }
            Self::Remove { key } => {
                let query = [("ca", &key.ca), ("mac", &key.mac)];
                let mut query: Vec<(&str, String)> =
                    query.into_iter().filter_map(|(name, it)| Some((name, it.clone()?))).collect();
                query.push(("vsid", key.vsid.to_string()));
                client.delete_where("/v1/nv/records", &query)?;
                removed(answer, &key.name())
            }
            Self::List { vsid } => {
                let path = vsid.map_or_else(
                    || "/v1/nv/records".to_owned(),
                    |vsid| format!("/v1/nv/records?vsid={vsid}"),
                );
                answer.print(&client.get::<Vec<RecordSpec>>(&path)?, |list| records(list))
            }
        }
    }
}

fn records(list: &[RecordSpec]) -> String {
    let row = |it: &RecordSpec| {
        vec![
            it.vsid.to_string(),
            or_dash(it.ca.as_ref()),
            it.mac.clone(),
            it.pa.clone(),
            it.kind.clone().unwrap_or_else(|| "static".into()),
            it.encap.clone().unwrap_or_else(|| "nvgre".into()),
            or_dash(it.rewrite_pa.as_ref()),
            or_dash(it.next_pa.as_ref()),
        ]
    };
    or_none(list, "no records; add one with 'turnpike nv record add'", || {
        table(&[">VSID", "CA", "MAC", "PA", "KIND", "ENCAP", "REWRITE-PA", "NEXT-PA"], list.iter().map(row))
    })
}

#[derive(Debug, Subcommand)]
pub(crate) enum Provider {
    /// Add a provider address of this host.
    Add {
        /// The address with the length of its subnet's prefix.
        #[arg(long, value_name = "IP/LEN")]
        address: String,
        /// The uplink that it is at.
        #[arg(long, value_name = "NAME")]
        uplink: String,
        /// VLAN of the packets between hosts [default: untagged].
        #[arg(long, value_name = "ID")]
        vlan: Option<u64>,
        /// The router to provider addresses of other subnets.
        #[arg(long, value_name = "IP")]
        gateway: Option<String>,
    },
    /// Remove a provider address of this host.
    Remove {
        /// The address, with or without length.
        address: String,
    },
    /// List the provider addresses of this host.
    List,
}

impl Provider {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Add { address, uplink, vlan, gateway } => {
                let name = format!("provider address {address}");
                let spec = ProviderSpec { address, uplink, vlan, gateway };
                add(client, answer, "/v1/nv/providers", &spec, &name)
            }
            Self::Remove { address } => {
                let alone = address.split('/').next().unwrap_or_default();
                client.delete(&below("/v1/nv/providers", alone))?;
                removed(answer, &format!("provider address {alone}"))
            }
            Self::List => answer.print(&client.get::<Vec<ProviderSpec>>("/v1/nv/providers")?, |list| {
                let row = |it: &ProviderSpec| {
                    let vlan = it.vlan.map_or_else(|| "-".into(), |id| id.to_string());
                    vec![it.address.clone(), it.uplink.clone(), vlan, or_dash(it.gateway.as_ref())]
                };
                or_none(list, "no provider addresses; add one with 'turnpike nv provider add'", || {
                    table(&["ADDRESS", "UPLINK", ">VLAN", "GATEWAY"], list.iter().map(row))
                })
            }),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RouteKey {
    /// The customer network.
    #[arg(long, value_name = "NAME")]
    network: String,
    /// What it is for; 0.0.0.0/0 is all of IPv4 that no subnet has.
    #[arg(long, value_name = "P")]
    prefix: String,
    /// Where that is: the customer address of a guest that forwards, or `gateway`.
    #[arg(long, value_name = "CA|gateway")]
    next_hop: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Route {
    /// Add a customer route.
    Add {
        #[command(flatten)]
        key: RouteKey,
        /// Of several for one prefix the smallest counts.
        #[arg(long, value_name = "N", default_value = "0")]
        metric: u64,
    },
    /// Remove a customer route.
    Remove {
        #[command(flatten)]
        key: RouteKey,
    },
    /// List the customer routes.
    List,
}

impl Route {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Add { key: RouteKey { network, prefix, next_hop }, metric } => {
                let name = format!("route {prefix} of network '{network}'");
                let spec = RouteSpec { network, prefix, next_hop, metric };
                add(client, answer, "/v1/nv/routes", &spec, &name)
            }
            Self::Remove { key: RouteKey { network, prefix, next_hop } } => {
                let query = [("network", &network), ("prefix", &prefix), ("next_hop", &next_hop)];
                client.delete_where("/v1/nv/routes", &query)?;
                removed(answer, &format!("route {prefix} of network '{network}'"))
            }
            Self::List => answer.print(&client.get::<Vec<RouteSpec>>("/v1/nv/routes")?, |list| {
                let row = |it: &RouteSpec| {
                    vec![it.network.clone(), it.prefix.clone(), it.next_hop.clone(), it.metric.to_string()]
                };
                or_none(list, "no routes; subnets of a network reach each other without", || {
                    table(&["NETWORK", "PREFIX", "NEXT-HOP", ">METRIC"], list.iter().map(row))
                })
            }),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// Routed, customer addresses as they are.
    Forward,
    /// Behind one shared address.
    Nat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Gateway {
    /// Connect a customer network to a physical one, at this host.
    Add {
        /// The customer network.
        #[arg(long, value_name = "NAME")]
        network: String,
        /// The uplink.
        #[arg(long, value_name = "NAME")]
        uplink: String,
        /// How it connects.
        #[arg(long, value_enum)]
        mode: Mode,
        /// VLAN on the physical side [default: untagged].
        #[arg(long, value_name = "ID")]
        vlan: Option<u64>,
        /// Its own address there, with the length of the prefix.
        #[arg(long, value_name = "IP/LEN")]
        address: Option<String>,
    },
    /// Remove the gateway of a customer network at this host.
    Remove {
        /// The customer network.
        #[arg(long, value_name = "NAME")]
        network: String,
    },
    /// List the gateways at this host.
    List,
}

impl Gateway {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Add { network, uplink, mode, vlan, address } => {
                let name = format!("gateway of network '{network}'");
                let mode = word(&mode).unwrap_or_default();
                let spec = GatewaySpec { network, uplink, mode, vlan, address };
                add(client, answer, "/v1/nv/gateways", &spec, &name)
            }
            Self::Remove { network } => {
                client.delete(&below("/v1/nv/gateways", &network))?;
                removed(answer, &format!("gateway of network '{network}'"))
            }
            Self::List => answer.print(&client.get::<Vec<GatewaySpec>>("/v1/nv/gateways")?, |list| {
                let row = |it: &GatewaySpec| {
                    let vlan = it.vlan.map_or_else(|| "-".into(), |id| id.to_string());
                    let address = or_dash(it.address.as_ref());
                    vec![it.network.clone(), it.uplink.clone(), it.mode.clone(), vlan, address]
                };
                or_none(list, "no gateways at this host", || {
                    table(&["NETWORK", "UPLINK", "MODE", ">VLAN", "ADDRESS"], list.iter().map(row))
                })
            }),
        }
    }
}
