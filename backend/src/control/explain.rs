//! What would happen to a frame now: the data path's answer with ports by name. Changes nothing.

use std::collections::BTreeMap;

use vswitch::explain::{Destination, Told};
use vswitch::frame::tag::Tagging;
use vswitch::pipeline::Verdict;
use vswitch::refusal::{Object, Refusal, Refused};
use vswitch::{HEAD_LEN, PortId};

use super::types::{DestinationView, ExplainSpec, ExplainView, StepView};
use super::{Switch, check};

/// Longest frame that can be asked about, in bytes; the switch itself drops frames before they are that long.
const LONGEST: u64 = 1 << 17;

impl Switch {
    /// What would happen to a frame, and why.
    pub fn explain(&self, spec: &ExplainSpec) -> Result<ExplainView, Refused> {
        self.explained(spec).map_err(|why| why.of(Object::Port(spec.from.clone())))
    }

    fn explained(&self, spec: &ExplainSpec) -> Result<ExplainView, Refusal> {
        let data = self.data.as_ref().ok_or(Refusal::Stopping)?;
        let from = self.entry(&spec.from)?.config.id;
        let (head, len) = frame(spec)?;
        let answer = data.explain(from, &head, len);
        let names: BTreeMap<PortId, &str> =
            self.ports.values().map(|e| (e.config.id, e.config.name.as_str())).collect();
        let (verdict, reason) = match answer.verdict {
            Verdict::Drop(reason) | Verdict::Refuse(reason, _) => ("drop", Some(reason)),
            Verdict::Unicast(_) => ("unicast", None),
            Verdict::Flood(_) => ("flood", None),
            Verdict::Answer => ("answer", None),
        };
        let destination = |d: Destination| DestinationView {
            port: names.get(&d.port).map_or_else(|| format!("#{}", d.port), |name| (*name).to_owned()),
            tag: tag(d.tagging),
            verdict: if d.refused.is_some() { "drop" } else { "deliver" }.into(),
            reason: d.refused.map(|reason| reason.name().to_owned()),
            copy: d.copy,
            steps: d.steps.into_iter().map(step).collect(),
        };
        Ok(ExplainView {
            steps: answer.steps.into_iter().map(step).collect(),
            verdict: verdict.into(),
            reason: reason.map(|reason| reason.name().to_owned()),
            meaning: reason.map(|reason| reason.meaning().to_owned()),
            destinations: answer.destinations.into_iter().map(destination).collect(),
        })
    }
}

pub(super) fn step(told: Told) -> StepView {
    let outcome = told.dropped.map_or_else(|| "pass".to_owned(), |reason| format!("drop {reason}"));
    StepView { step: told.step.to_owned(), outcome, notes: told.notes }
}

fn tag(tagging: Tagging) -> String {
    match tagging {
        Tagging::Keep => "kept".into(),
        Tagging::Strip => "removed".into(),
        Tagging::Write { vid: 0, .. } => "priority".into(),
        Tagging::Write { vid, .. } => format!("vlan {vid}"),
    }
}

/// The beginning of the frame that a specification describes, and its whole length.
fn frame(spec: &ExplainSpec) -> Result<(Vec<u8>, u32), Refusal> {
    let wrong = |valid: &str| {
        let value = spec.frame.chars().take(40).collect();
        Err(Refusal::BadValue { setting: "frame".into(), value, valid: valid.into() })
    };
    let Some(head) = check::hexadecimal(&spec.frame) else {
        return wrong("hexadecimal bytes, two digits each");
    };
    let given = head.len() as u64;
    let len = check::range("len", spec.len.unwrap_or(given), given, LONGEST, "bytes")?;
    if given < len.min(HEAD_LEN as u64) {
        return wrong("the whole frame, or at least its first 192 bytes");
    }
    Ok((head, len as u32))
}
