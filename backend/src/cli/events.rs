//! `turnpike events`

use clap::Args;

use super::client::Client;
use super::{Answer, Failure, Outcome, say};
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
        let mut last = self.since;
        client.lines(
            &path,
            || (),
            |line| {
                if answer.json {
                    return say(line);
                }
                let record: Record = serde_json::from_str(line)
                    .map_err(|e| Failure(format!("the switch sent a bad event: {e}")))?;
                let missed = record.seq.saturating_sub(last + 1);
                last = record.seq;
                let gap = if missed > 0 {
                    format!("({missed} events are not kept any more)\n")
                } else {
                    String::new()
                };
                say(&format!("{gap}{}  {:>5}  {}", record.time, record.seq, record.text()))
            },
        )
    }
}
