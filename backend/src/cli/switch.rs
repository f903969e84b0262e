//! `turnpike switch …`

use clap::{Args, Subcommand, ValueEnum};
use vswitch::snapshot::SwitchKind;

use super::client::Client;
use super::table::pairs;
use super::value::{OnOff, OrDefault};
use super::{Answer, Outcome, usage_error};
use crate::control::types::{SwitchChange, SwitchView};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Guests, the host and the physical network (the default)
    External,
    /// Guests and the host
    Internal,
    /// Guests only
    Private,
    /// The same as external
    Default,
}

#[derive(Debug, Subcommand)]
pub(super) enum Switch {
    /// Show switch-wide settings.
    Show,
    /// Change switch-wide settings.
    Set(Set),
}

#[derive(Debug, Args)]
pub(super) struct Set {
    /// What the switch connects; refused while ports contradict it.
    #[arg(long, value_enum)]
    kind: Option<Kind>,

    /// Learned addresses the switch holds at most, 64 to 1048576.
    #[arg(long, value_name = "N|default")]
    fdb_size: Option<OrDefault>,

    /// Longest time a unicast frame waits for room at its receiver, 0 to 1000000 microseconds.
    #[arg(long, value_name = "N|default")]
    rx_wait_us: Option<OrDefault>,

    /// Whether ports with a virtual subnet are in customer networks (see 'turnpike nv'); off, they are only kept apart.
    #[arg(long, value_enum)]
    nv: Option<OnOff>,
}

impl Switch {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Show => answer.print(&client.get::<SwitchView>("/v1/switch")?, show),
            Self::Set(Set { kind: None, fdb_size: None, rx_wait_us: None, nv: None }) => {
                usage_error(["switch", "set"], "give at least one setting, such as --kind internal")
            }
            Self::Set(set) => {
                let change = SwitchChange {
                    kind: set.kind.map(|kind| match kind {
                        Kind::External => Some(SwitchKind::External),
                        Kind::Internal => Some(SwitchKind::Internal),
                        Kind::Private => Some(SwitchKind::Private),
                        Kind::Default => None,
                    }),
                    fdb_size: set.fdb_size.map(|n| n.0),
                    rx_wait_us: set.rx_wait_us.map(|n| n.0),
                    nv: set.nv.map(OnOff::change),
                };
                answer.print(&client.patch::<SwitchView>("/v1/switch", &change)?, show)
            }
        }
    }
}

fn show(s: &SwitchView) -> String {
    let kind = match s.kind {
        SwitchKind::External => "external (guests, host and physical network)",
        SwitchKind::Internal => "internal (guests and host)",
        SwitchKind::Private => "private (guests only)",
    };
    pairs(&[
        ("kind", kind.into()),
        ("ports", s.ports.to_string()),
        ("uplink", s.uplink.clone().unwrap_or_else(|| "none".into())),
        ("workers", s.workers.to_string()),
        ("fdb-size", s.fdb_size.to_string()),
        ("rx-wait-us", s.rx_wait_us.to_string()),
        ("nv", if s.nv { "on" } else { "off" }.into()),
        ("host-id", s.host_id.clone()),
        ("dynamic MACs", s.mac_pool.clone()),
        ("version", s.version.clone()),
    ])
}
