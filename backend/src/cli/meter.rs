//! `turnpike meter …`

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;
use vswitch::refusal::Object;

use super::client::{Client, object};
use super::table::{count, table};
use super::{Answer, Failure, Outcome};
use crate::control::types::MeterView;

#[derive(Debug, Subcommand)]
pub(super) enum Meter {
    /// Meter a port. Without any ACL entry it gets meters for all IPv4 and IPv6 traffic, each way; to tell prefixes apart,
    /// add `acl add … --action meter` entries first. A port that is metered already goes on counting.
    Enable(Which),
    /// End metering: the numbers are gone, and the meters that `enable` added.
    Disable(Which),
    /// Set the numbers and the duration to zero.
    Reset(Which),
    /// Show what was counted, of one port or of all that are metered.
    Show {
        /// The port.
        #[arg(conflicts_with = "total")]
        port: Option<String>,
        /// Add up equal meters over all ports.
        #[arg(long)]
        total: bool,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["port", "all"]))]
pub(super) struct Which {
    /// The port.
    port: Option<String>,
    /// All ports: `enable` all guest ports and host ports, `disable` and `reset` all that are metered.
    #[arg(long)]
    all: bool,
}

impl Which {
    fn path(&self) -> Result<String, Failure> {
        match &self.port {
            Some(port) => meter(port),
            None => Ok("/v1/meters".into()),
        }
    }
}

impl Meter {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::Enable(which) => {
                let path = which.path()?;
                let done = if which.all { client.put(&path, &())? } else { vec![client.put(&path, &())?] };
                answer.print(&done, |done| lines(done, "metered"))
            }
            Self::Disable(which) => {
                client.delete(&which.path()?)?;
                answer.print(&json!({"disabled": which.port}), |_| match &which.port {
                    Some(port) => format!("port '{port}': not metered"),
                    None => "no port is metered".into(),
                })
            }
            Self::Reset(which) => {
                let path = format!("{}/reset", which.path()?);
                let done = if which.all { client.post(&path, &())? } else { vec![client.post(&path, &())?] };
                answer.print(&done, |done| lines(done, "set to zero"))
            }
            Self::Show { port: None, total: false } => {
                answer.print(&client.get::<Vec<MeterView>>("/v1/meters")?, |list| show(list))
            }
            Self::Show { port: Some(port), .. } => {
                answer.print(&vec![client.get::<MeterView>(&meter(&port)?)?], |list| show(list))
            }
            Self::Show { total: true, .. } => {
                answer.print(&vec![client.get::<MeterView>("/v1/meters/total")?], |list| show(list))
            }
        }
    }
}

fn meter(port: &str) -> Result<String, Failure> {
    Ok(format!("{}/meter", object("ports", port, Object::Port)?))
}

fn lines(done: &[MeterView], what: &str) -> String {
    if done.is_empty() {
        return "there are no such ports".into();
    }
    let line = |view: &MeterView| format!("port '{}': {what}", view.port.as_deref().unwrap_or("-"));
    done.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn show(list: &[MeterView]) -> String {
    if list.is_empty() {
        return "no port is metered; 'turnpike meter enable PORT' begins".into();
    }
    let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let rows = list.iter().flat_map(|view| {
        let head = [view.port.clone().unwrap_or_else(|| "(all)".into()), duration(view.duration_s)];
        let none = view.entries.is_empty().then(|| {
            let dashes = std::iter::repeat_n("-".to_owned(), 5);
            head.iter().cloned().chain(dashes).collect()
        });
        let row = move |e: &crate::control::types::MeterEntry| {
            let numbers = [count(e.packets), megabytes(e.bytes)];
            let entry = [e.direction.clone(), or_dash(&e.local), or_dash(&e.remote)];
            head.iter().cloned().chain(entry).chain(numbers).collect::<Vec<_>>()
        };
        none.into_iter().chain(view.entries.iter().map(row)).collect::<Vec<_>>()
    });
    table(&["PORT", ">DURATION", "DIRECTION", "LOCAL", "REMOTE", ">PACKETS", ">MB"], rows)
}

/// Bytes in MB (1,000,000 bytes), rounded to three digits behind the point.
fn megabytes(bytes: u64) -> String {
    let thousands = bytes / 1000 + u64::from(bytes % 1000 >= 500);
    format!("{}.{:03}", thousands / 1000, thousands % 1000)
}

/// Seconds as days, hours, minutes and seconds.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60 % 60, seconds / 3600 % 24, seconds / 86_400);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", seconds % 60);
    if days == 0 { clock } else { format!("{days}d {clock}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s9_megabytes_are_rounded_in_the_report_only() {
        let shown = [0, 499, 500, 1_000_000, 1_234_567_890, u64::MAX].map(megabytes);
        assert_eq!(shown, ["0.000", "0.000", "0.001", "1.000", "1234.568", "18446744073709.552"]);
        assert_eq!([59, 3661, 90_000].map(duration), ["00:00:59", "01:01:01", "1d 01:00:00"]);
    }
}
