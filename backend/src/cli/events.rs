//! `turnpike events`

use clap::Args;

use super::client::Client;
use super::{Answer, Failure, Outcome, print};
use crate::events::Record;

/// Which events are shown.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// Go on with what happens from now on.
    #[arg(long)]
    follow: bool,

    /// Only events after this sequence number.
    #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true)]
    since: u64,
}

impl Events {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let path = format!("/v1/events?since={}&follow={}", self.since, self.follow);
        client.lines(&path, |line| {
            if answer.json {
                return print(line, true);
            }
            let record: Record = serde_json::from_str(line)
                .map_err(|e| Failure(format!("the switch sent a bad event: {e}")))?;
            print(&format!("{}  {:>5}  {}", record.time, record.seq, record.text()), true)
        })
    }
}
