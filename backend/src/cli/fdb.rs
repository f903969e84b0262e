//! `turnpike fdb …`

use clap::Subcommand;
use vswitch::refusal::Object;

use super::client::{Client, object};
use super::table::{age, table};
use super::{Answer, Outcome};
use crate::control::types::FdbView;

#[derive(Debug, Subcommand)]
pub(super) enum Fdb {
    /// Show the known addresses.
    Show {
        /// Only those behind this port.
        #[arg(long, value_name = "NAME")]
        port: Option<String>,
    },
}

impl Fdb {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let Self::Show { port } = self;
        let path = match port {
            Some(name) => {
                object("ports", &name, Object::Port)?;
                format!("/v1/fdb?port={name}")
            }
            None => "/v1/fdb".into(),
        };
        answer.print(&client.get::<Vec<FdbView>>(&path)?, |entries| {
            if entries.is_empty() {
                return "no addresses are known".into();
            }
            let row = |e: &FdbView| {
                let vlan = if e.vlan == 0 { "-".into() } else { e.vlan.to_string() };
                let seen = if e.kind == "static" { "-".into() } else { age(e.age_ms) };
                vec![e.mac.clone(), vlan, e.port.clone(), e.kind.clone(), seen]
            };
            table(&["MAC", ">VLAN", "PORT", "KIND", ">LAST SEEN"], entries.iter().map(row))
        })
    }
}
