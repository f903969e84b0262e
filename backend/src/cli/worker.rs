//! `turnpike worker …`

use clap::Subcommand;

use super::client::Client;
use super::table::{count, table};
use super::{Answer, Outcome};
use crate::control::types::WorkerView;

#[derive(Debug, Subcommand)]
pub(super) enum Worker {
    /// List the workers and their load.
    List,
}

impl Worker {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let Self::List = self;
        answer.print(&client.get::<Vec<WorkerView>>("/v1/workers")?, |workers| {
            let row = |w: &WorkerView| {
                let mut row = vec![w.id.to_string(), w.cpu.map_or_else(|| "any".into(), |c| c.to_string())];
                row.push(w.queues.to_string());
                row.extend(
                    [w.frames, w.bursts, w.busy_cycles, w.idle_cycles, w.sleeps, w.wakeups].map(count),
                );
                row
            };
            let heads = [
                ">ID",
                ">CPU",
                ">QUEUES",
                ">FRAMES",
                ">BURSTS",
                ">BUSY CYCLES",
                ">IDLE CYCLES",
                ">SLEEPS",
                ">WAKEUPS",
            ];
            table(&heads, workers.iter().map(row))
        })
    }
}
