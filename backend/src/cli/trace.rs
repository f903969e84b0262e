//! `turnpike trace`

use std::fmt::Write as _;

use clap::Args;

use super::client::Client;
use super::{Answer, Failure, Outcome, say};
use crate::control::types::{ArrivalView, TraceSpec, TraceView};

/// Which frames are shown.
#[derive(Debug, Args)]
pub(super) struct Trace {
    /// Only frames that this port or uplink sends or is to get.
    #[arg(long, value_name = "NAME")]
    port: Option<String>,

    /// Only frames that were dropped, at their sender or at a receiver.
    #[arg(long)]
    drops: bool,

    /// Only frames of which this is true: tests such as `host 10.0.0.5`, `src host 10.0.0.0/8`, `ether host 52:54:00:12:34:56`, `port 443`,
    /// `dst port 8000-8099`, `vlan 10`, `proto 47`, `tcp`, `arp`, with `and`, `or`, `not` and parentheses.
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,

    /// Look at one frame in N only, chosen at random.
    #[arg(long, value_name = "N")]
    sample: Option<u64>,

    /// End after N frames.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Trace {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let Self { port, drops, filter, sample, count } = self;
        let spec = TraceSpec { port, drops: drops.then_some(true), filter, sample, count };
        let query = serde_urlencoded::to_string(&spec)
            .map_err(|e| Failure(format!("the request cannot be written: {e}")))?;
        client.lines(
            &format!("/v1/trace?{query}"),
            || eprintln!("turnpike: watching"),
            |line| {
                if answer.json {
                    return say(line);
                }
                let view: TraceView = serde_json::from_str(line)
                    .map_err(|e| Failure(format!("the switch sent a bad line: {e}")))?;
                let gap = match view.not_shown {
                    0 => String::new(),
                    missed => format!("({missed} frames are not shown)\n"),
                };
                say(&format!("{gap}{}", text(&view)))
            },
        )
    }
}

fn text(view: &TraceView) -> String {
    let TraceView { time, port, direction, src, dst, flow, len, .. } = view;
    let mut line = format!("{time}  {port} {direction}  {src} > {dst}");
    // Writing to a string does not fail.
    if let Some(vlan) = view.vlan {
        let _ = write!(line, " vlan {vlan}");
    }
    let _ = write!(line, "  {flow}  {len} bytes");
    for step in &view.steps {
        let _ = write!(line, "  {}", step.step);
        if step.outcome != "pass" {
            let _ = write!(line, " {}", step.outcome);
        }
        if !step.notes.is_empty() {
            let _ = write!(line, " ({})", step.notes.join("; "));
        }
    }
    let outcome = |to: &ArrivalView| {
        let copy = if to.copy { " (copy)" } else { "" };
        match (to.verdict.as_str(), &to.reason) {
            ("deliver", _) => format!("{}{copy}", to.port),
            ("hold", _) => format!("{}{copy} (held)", to.port),
            (_, reason) => format!("not {}{copy} ({})", to.port, reason.as_deref().unwrap_or("drop")),
        }
    };
    let mut to: Vec<_> = view.destinations.iter().map(outcome).collect();
    if view.more_destinations > 0 {
        to.push(format!("{} more", view.more_destinations));
    }
    if direction == "in" {
        let _ = write!(line, "  from {}", view.from);
    }
    let _ = match (view.verdict.as_str(), &view.reason) {
        ("drop", Some(reason)) => write!(line, "  => drop {reason}"),
        ("answer", _) => write!(line, "  => answered"),
        (verdict, _) => write!(line, "  => {verdict}"),
    };
    if !to.is_empty() {
        let _ = write!(line, ": {}", to.join(", "));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::StepView;

    #[test]
    fn s19_a_line_has_time_port_flow_steps_verdict_and_destinations() {
        let arrival = |port: &str, verdict: &str, reason: Option<&str>, copy| {
            let (port, verdict) = (port.to_owned(), verdict.to_owned());
            ArrivalView { port, verdict, reason: reason.map(str::to_owned), copy }
        };
        let step = |step: &str, outcome: &str, notes: &[&str]| {
            let notes = notes.iter().map(|&note| note.to_owned()).collect();
            StepView { step: step.to_owned(), outcome: outcome.to_owned(), notes }
        };
        let mut view = TraceView {
            time: "2026-01-01T00:00:00.000000001Z".into(),
            port: "a".into(),
            direction: "out".into(),
            from: "a".into(),
            src: "02:00:00:00:00:01".into(),
            dst: "ff:ff:ff:ff:ff:ff".into(),
            vlan: Some(5),
            flow: "udp 10.0.0.1:1 > 10.0.0.2:2".into(),
            len: 60,
            steps: vec![step("learning", "pass", &["learned"])],
            verdict: "flood".into(),
            reason: None,
            destinations: vec![
                arrival("b", "deliver", None, false),
                arrival("c", "drop", Some("receiver-full"), false),
                arrival("m", "deliver", None, true),
            ],
            more_destinations: 7,
            not_shown: 0,
        };
        let head = "2026-01-01T00:00:00.000000001Z  a out  02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff vlan 5  \
                    udp 10.0.0.1:1 > 10.0.0.2:2  60 bytes";
        let tail = "  learning (learned)  => flood: b, not c (receiver-full), m (copy), 7 more";
        assert_eq!(text(&view), format!("{head}{tail}"));
        view.steps = vec![step("acl-out", "drop acl-denied", &[])];
        (view.verdict, view.reason) = ("drop".into(), Some("acl-denied".into()));
        (view.destinations, view.more_destinations) = (Vec::new(), 0);
        assert_eq!(text(&view), format!("{head}  acl-out drop acl-denied  => drop acl-denied"));
        (view.direction, view.port, view.from) = ("in".into(), "b".into(), "a".into());
        assert!(text(&view).ends_with("acl-out drop acl-denied  from a  => drop acl-denied"));
    }
}
