//! `turnpike acl …`

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::json;

use super::client::{Client, port_list};
use super::table::{bytes, count, table};
use super::{Answer, Outcome};
use crate::control::types::{AclSpec, AclView};

#[derive(Debug, Subcommand)]
pub(super) enum Acl {
    /// Add an entry. Of the entries that match an address the one with the longest prefix decides, and no match allows:
    /// `--action deny --remote any` and longer `allow` entries make a white-list. `meter` entries only count.
    Add {
        /// The port.
        port: String,
        #[command(flatten)]
        entry: Entry,
    },
    /// Remove an entry, by the arguments it was added with.
    Remove {
        /// The port.
        port: String,
        #[command(flatten)]
        entry: Entry,
    },
    /// List the entries; `deny` entries count the attempts, `meter` entries the traffic.
    List {
        /// The port.
        port: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    Allow,
    Deny,
    Meter,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Direction {
    In,
    Out,
    Both,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("address").required(true).args(["local", "remote"]))]
pub(super) struct Entry {
    /// What it does with a frame that it matches.
    #[arg(long, value_enum)]
    action: Action,

    /// Which way the frame goes: in = the guest receives, out = the guest sends; both makes two entries.
    #[arg(long, value_enum)]
    direction: Direction,

    /// The guest's own address: IPv4 or IPv6 address or prefix, MAC address, any (IPv4 and IPv6) or any-mac.
    #[arg(long, value_name = "ADDR")]
    local: Option<String>,

    /// Its peer's address, in the same forms.
    #[arg(long, value_name = "ADDR")]
    remote: Option<String>,
}

impl Entry {
    fn spec(self) -> AclSpec {
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        AclSpec {
            action: word(self.action.to_possible_value()),
            direction: word(self.direction.to_possible_value()),
            local: self.local,
            remote: self.remote,
        }
    }
}

impl Acl {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Add { port, entry } => {
                let added: Vec<AclView> = client.post(&port_list(&port, "acls")?, &entry.spec())?;
                answer.print(&added, |added| format!("port '{port}': {}", entries(added.len(), "added")))
            }
            Self::Remove { port, entry } => {
                let spec = entry.spec();
                client.delete_where(&port_list(&port, "acls")?, &spec)?;
                answer.print(&json!({"removed": spec}), |_| {
                    format!(
                        "port '{port}': {}",
                        entries(if spec.direction == "both" { 2 } else { 1 }, "removed")
                    )
                })
            }
            Self::List { port } => {
                answer.print(&client.get::<Vec<AclView>>(&port_list(&port, "acls")?)?, |list| show(list))
            }
        }
    }
}

fn entries(count: usize, done: &str) -> String {
    format!("{count} {} {done}", if count == 1 { "entry" } else { "entries" })
}

fn show(list: &[AclView]) -> String {
    if list.is_empty() {
        return "no entries: every address is allowed".into();
    }
    let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let row = |e: &AclView| {
        vec![
            e.action.clone(),
            e.direction.clone(),
            or_dash(&e.local),
            or_dash(&e.remote),
            e.packets.map_or("-".into(), count),
            e.bytes.map_or("-".into(), bytes),
        ]
    };
    table(&["ACTION", "DIRECTION", "LOCAL", "REMOTE", ">PACKETS", ">BYTES"], list.iter().map(row))
}
