//! `turnpike top`: a table that is drawn again and again. Nothing of the terminal is changed but the screen, so no crate for terminals is needed and
//! Ctrl-C leaves nothing behind.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::client::Client;
use super::table::{count, table};
use super::{Answer, Failure, Outcome, say};
use crate::control::types::{PortView, WorkerView};

/// How the view is refreshed.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,

    /// End after N looks.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// What passed at a port in a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct PortRate {
    port: String,
    state: String,
    out_packets: u64,
    out_bits: u64,
    in_packets: u64,
    in_bits: u64,
    out_drops: u64,
    in_drops: u64,
    /// The commonest drop reason.
    reason: Option<String>,
}

/// What a worker did in a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct WorkerRate {
    worker: usize,
    frames: u64,
    frames_per_burst: u64,
    /// Of its time, in percent.
    busy: u64,
}

/// One look, with `--json`.
#[derive(Debug, Serialize)]
struct Look<'a> {
    ports: &'a [PortRate],
    workers: &'a [WorkerRate],
}

impl Top {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let interval = Duration::from_secs(self.interval);
        let look = || -> Result<_, Failure> {
            let ports: Vec<PortView> = client.get("/v1/ports")?;
            let workers: Vec<WorkerView> = client.get("/v1/workers")?;
            Ok((Instant::now(), ports, workers))
        };
        let mut before = look()?;
        let screen = std::io::stdout().is_terminal() && !answer.json;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            left -= 1;
            std::thread::sleep(interval);
            let now = look()?;
            let passed = now.0 - before.0;
            let ports = port_rates(&before.1, &now.1, passed);
            let workers = worker_rates(&before.2, &now.2, passed);
            before = now;
            let text = if answer.json {
                serde_json::to_string(&Look { ports: &ports, workers: &workers })
                    .map_err(|e| Failure(format!("the answer is not JSON: {e}")))?
            } else {
                draw(&ports, &workers)
            };
            // Home, the text with what was there before cleared behind each line, and below it.
            let text =
                if screen { format!("\x1b[H{}\x1b[K\x1b[J", text.replace('\n', "\x1b[K\n")) } else { text };
            if say(&text)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn per_second(before: u64, now: u64, passed: Duration) -> u64 {
    let millis = passed.as_millis().max(1);
    u64::try_from(u128::from(now.saturating_sub(before)) * 1000 / millis).unwrap_or(u64::MAX)
}

/// Busiest first.
fn port_rates(before: &[PortView], now: &[PortView], passed: Duration) -> Vec<PortRate> {
    let before: HashMap<(&str, u16), &PortView> =
        before.iter().map(|port| ((port.name.as_str(), port.id), port)).collect();
    let rate = |port: &PortView| {
        // One that is new has done nothing yet.
        let old = &before.get(&(port.name.as_str(), port.id)).unwrap_or(&port).counters;
        let new = &port.counters;
        let mut reasons: Vec<(u64, &String)> = Vec::new();
        let mut drops = [0; 2];
        for (sum, (old, new)) in
            drops.iter_mut().zip([(&old.out_drops, &new.out_drops), (&old.in_drops, &new.in_drops)])
        {
            for (reason, count) in new {
                let rate = per_second(old.get(reason).copied().unwrap_or(0), *count, passed);
                *sum += rate;
                reasons.push((rate, reason));
            }
        }
        let rate = |old, new| per_second(old, new, passed);
        PortRate {
            port: port.name.clone(),
            state: port.state.clone(),
            out_packets: rate(old.out_packets, new.out_packets),
            out_bits: rate(old.out_bytes, new.out_bytes).saturating_mul(8),
            in_packets: rate(old.in_packets, new.in_packets),
            in_bits: rate(old.in_bytes, new.in_bytes).saturating_mul(8),
            out_drops: drops[0],
            in_drops: drops[1],
            reason: reasons.into_iter().max().filter(|(rate, _)| *rate > 0).map(|(_, reason)| reason.clone()),
        }
    };
    let mut rates: Vec<_> = now.iter().map(rate).collect();
    rates.sort_by_key(|rate| {
        let sum = rate.out_packets + rate.in_packets + rate.out_drops + rate.in_drops;
        (std::cmp::Reverse(sum), rate.port.clone())
    });
    rates
}

fn worker_rates(before: &[WorkerView], now: &[WorkerView], passed: Duration) -> Vec<WorkerRate> {
    let rate = |new: &WorkerView| {
        let old = before.iter().find(|old| old.id == new.id).unwrap_or(new);
        let busy = new.busy_cycles.saturating_sub(old.busy_cycles);
        let idle = new.idle_cycles.saturating_sub(old.idle_cycles);
        let bursts = new.bursts.saturating_sub(old.bursts);
        WorkerRate {
            worker: new.id,
            frames: per_second(old.frames, new.frames, passed),
            frames_per_burst: new.frames.saturating_sub(old.frames) / bursts.max(1),
            // Asleep, it counts neither.
            busy: busy.saturating_mul(100) / (busy + idle).max(1),
        }
    };
    now.iter().map(rate).collect()
}

fn draw(ports: &[PortRate], workers: &[WorkerRate]) -> String {
    /// More would not fit on any screen.
    const SHOWN: usize = 40;
    let heads = [
        "PORT",
        "STATE",
        ">OUT PKT/S",
        ">OUT BIT/S",
        ">IN PKT/S",
        ">IN BIT/S",
        ">OUT DROPS/S",
        ">IN DROPS/S",
        "MOSTLY",
    ];
    let row = |rate: &PortRate| {
        let numbers =
            [rate.out_packets, rate.out_bits, rate.in_packets, rate.in_bits, rate.out_drops, rate.in_drops];
        let mut row = vec![rate.port.clone(), rate.state.clone()];
        row.extend(numbers.map(count));
        row.push(rate.reason.clone().unwrap_or_default());
        row
    };
    let mut text = table(&heads, ports.iter().take(SHOWN).map(row));
    // Writing to a string does not fail.
    if ports.len() > SHOWN {
        let _ = write!(text, "\n({} quieter ports are not shown)", ports.len() - SHOWN);
    }
    let row = |rate: &WorkerRate| {
        let busy = format!("{} %", rate.busy);
        vec![rate.worker.to_string(), count(rate.frames), rate.frames_per_burst.to_string(), busy]
    };
    let heads = [">WORKER", ">FRAMES/S", ">FRAMES/BURST", ">OF WAKING TIME BUSY"];
    let _ = write!(text, "\n\n{}", table(&heads, workers.iter().map(row)));
    text
}
