//! `turnpike apply` and `turnpike save`.

use std::path::PathBuf;

use clap::Args;

use super::client::Client;
use super::{Answer, Failure, Outcome, file};
use crate::control::types::{Applied, Config};

const EXAMPLE: &str = "\
The file is TOML; its keys are the options of the commands that set the same thing:

  [switch]
  kind = \"external\"

  [[uplink]]
  name = \"up\"
  device = \"eth1\"

  [[port]]
  name = \"web\"
  socket = \"/run/turnpike/web.sock\"
  vlan = \"access:10\"
  dhcp-guard = true
  metering = true

  [[port.acl]]
  action = \"deny\"
  direction = \"both\"
  remote = \"10.0.0.0/8\"

  [[port.rule]]
  action = \"allow\"
  direction = \"in\"
  weight = 100
  protocol = \"tcp\"
  local-port = \"80\"
  stateful = true";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Apply {
    /// The file; - is standard input.
    file: PathBuf,

    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
}

impl Apply {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let config = file::read(&self.file)?;
        let path = format!("/v1/config?dry_run={}", self.dry_run);
        answer.print(&client.put::<Applied>(&path, &config)?, |applied| {
            if applied.changes.is_empty() { "nothing to change".into() } else { lines(applied).join("\n") }
        })
    }
}

/// Prints the switch as a file.
pub(super) fn save(client: &Client, answer: &Answer) -> Outcome {
    let config: Config = client.get("/v1/config")?;
    let text = file::text(&config).map_err(|e| Failure(format!("the configuration is not TOML: {e}")))?;
    answer.print(&config, |_| text)
}

/// One line for each difference.
pub(super) fn lines(applied: &Applied) -> Vec<String> {
    let line = |d: &crate::control::types::Difference| match d.text.as_str() {
        "" => format!("{} {}", d.op, d.object),
        text => format!("{} {}: {text}", d.op, d.object),
    };
    applied.changes.iter().map(line).collect()
}
