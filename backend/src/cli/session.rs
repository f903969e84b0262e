//! `turnpike session …`

use clap::Subcommand;

use super::client::{Client, port_list};
use super::table::{age, table};
use super::{Answer, Outcome};
use crate::control::types::{Flushed, SessionView};

#[derive(Debug, Subcommand)]
pub(super) enum Session {
    /// List the sessions that stateful rules opened, of one port or of all.
    List {
        /// The port.
        port: Option<String>,
    },
    /// End a port's sessions: its next packets are judged by the rules alone.
    Flush {
        /// The port.
        port: String,
    },
}

impl Session {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::List { port } => {
                let path = port.map_or_else(|| Ok("/v1/sessions".into()), |p| port_list(&p, "sessions"))?;
                answer.print(&client.get::<Vec<SessionView>>(&path)?, |list| show(list))
            }
            Self::Flush { port } => {
                let done: Flushed = client.delete_with_answer(&port_list(&port, "sessions")?)?;
                answer.print(&done, |done| {
                    let noun = if done.flushed == 1 { "session" } else { "sessions" };
                    format!("port '{port}': {} {noun} ended", done.flushed)
                })
            }
        }
    }
}

fn show(list: &[SessionView]) -> String {
    if list.is_empty() {
        return "no sessions".into();
    }
    let end = |address: &str, port: u16| {
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    let row = |s: &SessionView| {
        vec![
            s.port.clone(),
            s.protocol.clone(),
            s.direction.clone(),
            end(&s.local, s.local_port),
            end(&s.remote, s.remote_port),
            s.isolation_id.map_or_else(|| "-".into(), |id| id.to_string()),
            s.weight.to_string(),
            s.state.clone(),
            age(s.idle_ms),
            age(s.expires_ms),
        ]
    };
    let heads = [
        "PORT",
        "PROTOCOL",
        "OPENED",
        "LOCAL",
        "REMOTE",
        ">ISOLATION",
        ">RULE",
        "STATE",
        ">IDLE",
        ">EXPIRES IN",
    ];
    table(&heads, list.iter().map(row))
}
