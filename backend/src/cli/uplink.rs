//! `turnpike uplink …`

use clap::{Subcommand, ValueEnum};
use serde_json::json;
use vswitch::refusal::Object;

use super::client::{Client, object};
use super::{Answer, Failure, Outcome, port};
use crate::control::types::{NewUplink, PortView};
use crate::spec::UplinkDriver;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Driver {
    /// `AF_PACKET`: any Ethernet interface, which the host goes on using
    Packet,
    /// `AF_XDP`: faster; the interface is the switch's alone, the host gets nothing that it receives
    Xdp,
}

#[derive(Debug, Subcommand)]
pub(super) enum Uplink {
    /// Connect the switch to a network interface, which must exist; an external switch has one uplink.
    Add {
        /// Its name; same rules as for a port, and unique among ports and uplinks.
        name: String,
        /// The network interface.
        #[arg(long, value_name = "IF")]
        device: String,
        /// How the interface is driven.
        #[arg(long, value_enum, default_value = "packet")]
        driver: Driver,
    },
    /// Remove the uplink; the interface stays.
    Remove {
        /// The uplink.
        name: String,
    },
    /// List the uplinks.
    List,
    /// Show one uplink with its counters.
    Show {
        /// The uplink.
        name: String,
    },
}

impl Uplink {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Add { name, device, driver } => {
                let driver = match driver {
                    Driver::Packet => UplinkDriver::Packet,
                    Driver::Xdp => UplinkDriver::Xdp,
                };
                let new = NewUplink { name, device, driver: Some(driver.name().into()) };
                let uplink: PortView = client.post("/v1/uplinks", &new)?;
                answer.print(&uplink, |u| format!("uplink '{}' added: {}", u.name, new.device))
            }
            Self::Remove { name } => {
                client.delete(&path(&name)?)?;
                answer.print(&json!({"removed": name}), |_| format!("uplink '{name}' removed"))
            }
            Self::List => answer.print(&client.get::<Vec<PortView>>("/v1/uplinks")?, |uplinks| {
                if uplinks.is_empty() {
                    "no uplink; add one with 'turnpike uplink add'".into()
                } else {
                    port::list(uplinks)
                }
            }),
            Self::Show { name } => answer.print(&client.get::<PortView>(&path(&name)?)?, port::show),
        }
    }
}

fn path(name: &str) -> Result<String, Failure> {
    object("uplinks", name, Object::Uplink)
}
