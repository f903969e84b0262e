//! `turnpike port …`

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;
use vswitch::refusal::Object;

use super::client::{Client, object};
use super::policy::{PolicyArgs, settings, summary};
use super::table::{bytes, count, pairs, table};
use super::{Answer, Failure, Outcome, usage_error};
use crate::control::types::{NewPort, PolicyChange, PortChange, PortView};

#[derive(Debug, Subcommand)]
pub(super) enum Port {
    /// Add a guest port (--socket) or a host port (--tap).
    Add(Add),
    /// Remove a port; its guest loses its link.
    Remove {
        /// The port.
        name: String,
    },
    /// List all ports.
    List,
    /// Show one port with its policy and counters.
    Show {
        /// The port.
        name: String,
    },
    /// Change a port's policy; the first frame after the command is judged by the new one.
    Set {
        /// The port.
        name: String,
        #[command(flatten)]
        policy: PolicyArgs,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("device").required(true).args(["socket", "tap"]))]
pub(super) struct Add {
    /// Its name: 1 to 32 characters of A-Z a-z 0-9 . _ -, the first one a letter or a digit.
    name: String,

    /// Guest port: the vhost-user socket (at most 107 bytes).
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Guest port: connect to the socket, and retry, instead of listening on it.
    #[arg(long, conflicts_with = "tap")]
    client: bool,

    /// Host port: the TAP interface, created if missing; it gets the port's MAC address.
    #[arg(long, value_name = "IFNAME")]
    tap: Option<String>,

    /// MAC address [default: a dynamic one of this host's pool].
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,

    /// Guest port: queue pairs, 1 to 8 [default: 1].
    #[arg(long, value_name = "N", conflicts_with = "tap")]
    queues: Option<u64>,

    /// Guest port: MTU offered to the guest, 68 to 9000 bytes [default: 1500].
    #[arg(long, value_name = "N", conflicts_with = "tap")]
    mtu: Option<u64>,

    /// Guest port: virtio-net features to offer [default: all].
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "tap")]
    features: Option<Vec<String>>,

    #[command(flatten)]
    policy: PolicyArgs,
}

impl Port {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Add(add) => add.run(client, answer),
            Self::Remove { name } => {
                client.delete(&path(&name)?)?;
                answer.print(&json!({"removed": name}), |_| format!("port '{name}' removed"))
            }
            Self::List => answer.print(&client.get::<Vec<PortView>>("/v1/ports")?, |ports| list(ports)),
            Self::Show { name } => answer.print(&client.get::<PortView>(&path(&name)?)?, show),
            Self::Set { name, policy } => {
                let change = PortChange { policy: policy.change() };
                if change.policy == PolicyChange::default() {
                    usage_error(["port", "set"], "give at least one policy option, such as --link down");
                }
                let port: PortView = client.patch(&path(&name)?, &change)?;
                answer.print(&port, |p| format!("port '{}': {}", p.name, summary(&p.policy)))
            }
        }
    }
}

impl Add {
    fn run(self, client: &Client, answer: &Answer) -> Outcome {
        // The switch has another working directory.
        let socket = match self.socket {
            Some(path) => Some(absolute(path)?),
            None => None,
        };
        let new = NewPort {
            name: self.name,
            socket,
            client: self.client,
            tap: self.tap,
            mac: self.mac,
            queues: self.queues,
            mtu: self.mtu,
            features: self.features,
            policy: self.policy.change(),
        };
        let port: PortView = client.post("/v1/ports", &new)?;
        answer.print(&port, |p| {
            let what = match (&p.socket, &p.interface) {
                (Some(socket), _) if p.client == Some(true) => format!("connects to {socket}"),
                (Some(socket), _) => format!("listens on {socket}"),
                (None, interface) => format!("interface {}", interface.as_deref().unwrap_or("-")),
            };
            format!("port '{}' added: {what}, MAC {}", p.name, p.mac)
        })
    }
}

fn absolute(path: PathBuf) -> Result<String, Failure> {
    let text = path.into_os_string().into_string();
    let text = text.map_err(|p| Failure(format!("socket path '{}' is not UTF-8", p.to_string_lossy())))?;
    if text.is_empty() {
        return Ok(text);
    }
    let path = std::path::absolute(&text).map_err(|e| Failure(format!("socket path '{text}': {e}")))?;
    Ok(path.to_string_lossy().into_owned())
}

fn path(name: &str) -> Result<String, Failure> {
    object("ports", name, Object::Port)
}

fn drops(p: &PortView) -> u64 {
    p.counters.out_drops.values().chain(p.counters.in_drops.values()).sum()
}

pub(super) fn list(ports: &[PortView]) -> String {
    if ports.is_empty() {
        return "no ports; add one with 'turnpike port add'".into();
    }
    let heads = ["NAME", "KIND", "STATE", "MAC", ">MTU", ">OUT", ">IN", ">DROPS", "SOCKET OR INTERFACE"];
    table(
        &heads,
        ports.iter().map(|p| {
            vec![
                p.name.clone(),
                p.kind.clone(),
                p.state.clone(),
                p.mac.clone(),
                p.mtu.to_string(),
                count(p.counters.out_packets),
                count(p.counters.in_packets),
                count(drops(p)),
                p.socket.clone().or_else(|| behind(p)).unwrap_or_default(),
            ]
        }),
    )
}

/// The interface behind a port, and what drives it if that is not the usual one.
fn behind(p: &PortView) -> Option<String> {
    let interface = p.interface.clone()?;
    match driver(p).filter(|_| p.driver_mode.is_some()) {
        Some(driver) => Some(format!("{interface}, {driver}")),
        None => Some(interface),
    }
}

/// How many elements a list has, and how to see them.
fn entries(count: usize, one: &str, many: &str, noun: &str, port: &str) -> String {
    match count {
        0 => "none".into(),
        1 => format!("1 {one}, see 'turnpike {noun} list {port}'"),
        _ => format!("{count} {many}, see 'turnpike {noun} list {port}'"),
    }
}

/// How an uplink's interface is driven.
pub(super) fn driver(p: &PortView) -> Option<String> {
    let driver = p.driver.as_deref()?;
    Some(p.driver_mode.as_ref().map_or_else(|| driver.to_owned(), |mode| format!("{driver} ({mode})")))
}

/// One port in full.
pub(super) fn show(p: &PortView) -> String {
    let or_none = |list: String| if list.is_empty() { "none".to_owned() } else { list };
    let mut rows = vec![("name", p.name.clone()), ("id", p.id.to_string()), ("kind", p.kind.clone())];
    if let Some(socket) = &p.socket {
        let role = if p.client == Some(true) { "the switch connects" } else { "the switch listens" };
        rows.push(("socket", format!("{socket} ({role})")));
    }
    if let Some(interface) = &p.interface {
        rows.push(("interface", interface.clone()));
    }
    if let Some(driver) = driver(p) {
        rows.push(("driver", driver));
    }
    rows.push(("state", p.state.clone()));
    if let Some(fault) = &p.fault {
        rows.push(("fault", fault.clone()));
    }
    rows.push(("mac", format!("{} ({})", p.mac, p.mac_kind)));
    rows.push(("mtu", p.mtu.to_string()));
    if p.kind == "guest" {
        rows.push(("queues", p.queues.to_string()));
        rows.push(("offered", or_none(p.offered.join(" "))));
        rows.push(("features", or_none(p.features.join(" "))));
    }
    let workers = p.worker.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    rows.push(("worker", or_none(workers)));
    let policy = settings(&p.policy);
    rows.extend(policy.iter().map(|(name, value)| (name.as_str(), value.clone())));
    rows.push(("acl", entries(p.acl_entries, "entry", "entries", "acl", &p.name)));
    rows.push(("rules", entries(p.rules, "rule", "rules", "rule", &p.name)));
    let c = &p.counters;
    rows.push(("out", format!("{} packets, {}", count(c.out_packets), bytes(c.out_bytes))));
    rows.push(("in", format!("{} packets, {}", count(c.in_packets), bytes(c.in_bytes))));
    let drops = [("out drops", &c.out_drops), ("in drops", &c.in_drops)];
    let missed = (p.kind != "guest").then_some(("missed", &p.missed));
    for (name, drops) in drops.into_iter().chain(missed) {
        let text =
            drops.iter().map(|(reason, n)| format!("{reason} {}", count(*n))).collect::<Vec<_>>().join(", ");
        rows.push((name, or_none(text)));
    }
    pairs(&rows)
}
