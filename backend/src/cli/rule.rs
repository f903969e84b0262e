//! `turnpike rule …`

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::client::{Client, port_list};
use super::table::{bytes, count, table};
use super::{Answer, Outcome};
use crate::control::types::{RuleKey, RuleSpec, RuleView};

#[derive(Debug, Subcommand)]
pub(super) enum Rule {
    /// Add an extended rule. The heaviest rule that matches a packet decides, and no match allows: a light rule that
    /// denies everything makes a white-list.
    Add(Add),
    /// Remove a rule.
    Remove {
        /// The port.
        port: String,
        /// Its direction.
        #[arg(long, value_enum)]
        direction: Direction,
        /// Its weight.
        #[arg(long, value_name = "N")]
        weight: u64,
    },
    /// List the rules in the order in which they are asked.
    List {
        /// The port.
        port: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Direction {
    In,
    Out,
}

impl Direction {
    fn word(self) -> String {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
        .into()
    }
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The port.
    port: String,

    /// What it does with a packet that it matches.
    #[arg(long, value_enum)]
    action: Action,

    /// Which way the packet goes: in = the guest receives, out = the guest sends.
    #[arg(long, value_enum)]
    direction: Direction,

    /// 1 to 2147483647, unique in its direction; heavier rules are asked first.
    #[arg(long, value_name = "N")]
    weight: u64,

    /// The guest's own IPv4 or IPv6 address or prefix [default: any].
    #[arg(long, value_name = "ADDR")]
    local: Option<String>,

    /// Its peer's address or prefix [default: any].
    #[arg(long, value_name = "ADDR")]
    remote: Option<String>,

    /// The guest's own TCP or UDP port or ports [default: any].
    #[arg(long, value_name = "P[-P]")]
    local_port: Option<String>,

    /// Its peer's TCP or UDP port or ports [default: any].
    #[arg(long, value_name = "P[-P]")]
    remote_port: Option<String>,

    /// Protocol [default: any].
    #[arg(long, value_name = "tcp|udp|icmp|icmpv6|N")]
    protocol: Option<String>,

    /// Let the answers pass as well; allow with TCP or UDP only.
    #[arg(long)]
    stateful: bool,

    /// Stateful: for how long nothing may pass before answers are no longer expected, 1s to 24h [default: 30s].
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<String>,

    /// The one VLAN (1 to 4094) or virtual subnet (4096 to 16777214) it is about [default: all].
    #[arg(long, value_name = "N")]
    isolation_id: Option<u64>,

    /// Take the place of the rule with this direction and weight, if there is one, without a moment in between.
    #[arg(long)]
    replace: bool,
}

impl Rule {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Add(add) => add.run(client, answer),
            Self::Remove { port, direction, weight } => {
                let key = RuleKey { direction: direction.word(), weight };
                client.delete_where(&port_list(&port, "rules")?, &key)?;
                answer.print(&json!({"removed": key}), |_| {
                    format!("port '{port}': rule {} weight {weight} removed", key.direction)
                })
            }
            Self::List { port } => {
                answer.print(&client.get::<Vec<RuleView>>(&port_list(&port, "rules")?)?, |list| show(list))
            }
        }
    }
}

impl Add {
    fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let spec = RuleSpec {
            action: match self.action {
                Action::Allow => "allow".into(),
                Action::Deny => "deny".into(),
            },
            direction: self.direction.word(),
            weight: self.weight,
            local: self.local,
            remote: self.remote,
            local_port: self.local_port,
            remote_port: self.remote_port,
            protocol: self.protocol,
            stateful: self.stateful,
            idle_timeout: self.idle_timeout,
            isolation_id: self.isolation_id,
        };
        let path = format!("{}?replace={}", port_list(&self.port, "rules")?, self.replace);
        let added: Vec<RuleView> = client.post(&path, &spec)?;
        answer.print(&added, |_| {
            let done = if self.replace { "is in force" } else { "added" };
            format!("port '{}': rule {} weight {} {done}", self.port, spec.direction, spec.weight)
        })
    }
}

fn show(list: &[RuleView]) -> String {
    if list.is_empty() {
        return "no rules: every packet is allowed".into();
    }
    let or_any = |value: &Option<String>| value.clone().unwrap_or_else(|| "any".into());
    let end = |address: &Option<String>, ports: &Option<String>| {
        let address = or_any(address);
        ports.as_ref().map_or(address.clone(), |ports| format!("{address} port {ports}"))
    };
    let row = |r: &RuleView| {
        let stateful = r.idle_timeout.as_ref().map_or("-".into(), |idle| format!("idle {idle}"));
        vec![
            r.direction.clone(),
            r.weight.to_string(),
            r.action.clone(),
            or_any(&r.protocol),
            end(&r.local, &r.local_port),
            end(&r.remote, &r.remote_port),
            stateful,
            r.isolation_id.map_or("-".into(), |id| id.to_string()),
            count(r.packets),
            bytes(r.bytes),
        ]
    };
    let heads = [
        "DIRECTION",
        ">WEIGHT",
        "ACTION",
        "PROTOCOL",
        "LOCAL",
        "REMOTE",
        "STATEFUL",
        ">NETWORK",
        ">PACKETS",
        ">BYTES",
    ];
    table(&heads, list.iter().map(row))
}
