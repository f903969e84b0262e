//! What would happen to a frame, step by step: the real pipeline with an ear on it.
//!
//! It walks the same steps in the same order as every frame does ([`crate::pipeline`]) and changes nothing: nothing is learned, opened or
//! counted.

use crate::extension::Head;
use crate::frame::tag::Tagging;
use crate::nv::{self, overlay::Ingress};
use crate::pipeline::{self, Verdict};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::trace::DropReason;
use crate::verdict::Frame;
use crate::{Nanos, PortId};

/// One step and what came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The step's name.
    pub step: &'static str,
    /// What it said, in words; empty if it had nothing to say.
    pub notes: Vec<String>,
    /// Why the frame ended here.
    pub dropped: Option<DropReason>,
}

/// What one port would get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// The port.
    pub port: PortId,
    /// How its tag would be changed.
    pub tagging: Tagging,
    /// Why the port would not get it after all.
    pub refused: Option<DropReason>,
    /// It is a monitor's copy.
    pub copy: bool,
    /// What its policy said.
    pub steps: Vec<Told>,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The steps that were taken, in order.
    pub steps: Vec<Told>,
    /// The verdict.
    pub verdict: Verdict,
    /// Who would get it.
    pub destinations: Vec<Destination>,
}

impl Explanation {
    /// It ends at this step.
    fn ended(mut steps: Vec<Told>, step: &'static str, reason: DropReason) -> Self {
        steps.push(Told { step, notes: Vec::new(), dropped: Some(reason) });
        Self { steps, verdict: Verdict::Drop(reason), destinations: Vec::new() }
    }
}

impl Told {
    pub(crate) fn new(step: &'static str, frame: &mut Frame<'_>, verdict: Option<Verdict>) -> Self {
        Self { step, notes: frame.take_notes(), dropped: reason(verdict) }
    }
}

fn reason(verdict: Option<Verdict>) -> Option<DropReason> {
    match verdict {
        Some(Verdict::Drop(reason) | Verdict::Refuse(reason, _)) => Some(reason),
        _ => None,
    }
}

/// Explains what would happen now to a frame that `from` sends: its first bytes `head` (all of it, or at least
/// [`crate::HEAD_LEN`]) and its whole length in bytes.
pub fn explain(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    from: PortId,
    head: &[u8],
    len: u32,
) -> Explanation {
    if from == PortId::SWITCH {
        return Explanation::ended(Vec::new(), "frame", pipeline::nobodys(head, len));
    }
    explain_to(snap, state, now, from, (head, len), |_| true)
}

/// As [`explain`], but of those that would get a flooded frame or a monitor's copy only the ones are asked that `told` names: what it costs
/// does not depend on how many ports there are.
pub fn explain_to(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    from: PortId,
    (head, len): (&[u8], u32),
    told: impl Fn(PortId) -> bool,
) -> Explanation {
    let ended = Explanation::ended;
    let mut steps = Vec::new();
    let inner;
    let opened = if snap.uplink() == Some(from) { nv::open(snap, state, now, from, head, len) } else { None };
    let (head, len, ingress) = match opened {
        None => (head, len, None),
        Some(Err(reason)) => return ended(steps, "tunnel", reason),
        Some(Ok(opened)) => {
            steps.push(Told { step: "tunnel", notes: vec![opened.to_string()], dropped: None });
            match opened.inner(head) {
                Ok(bytes) => inner = bytes,
                Err(reason) => return ended(steps, "tunnel", reason),
            }
            (&inner[..], opened.len, Some(opened.ingress))
        }
    };
    let mut changed = None;
    let mut above = 0;
    // Once more for each extension that changes it: each begins further down the stack.
    let (verdict, actions) = loop {
        let head = changed.as_deref().map_or(head, Head::bytes);
        let parsed = match &ingress {
            None => pipeline::parse(snap, state, now, from, head, len),
            Some(ingress) => pipeline::parse_inner(snap, state, now, from, ingress, head, len),
        };
        let mut frame = match parsed {
            Ok(frame) => frame,
            Err(reason) => return ended(steps, "frame", reason),
        };
        (frame.dry, frame.above) = (true, above);
        let verdict = pipeline::walk(&mut frame, |step, frame, verdict| {
            let verdict = verdict.filter(|_| frame.replaced.is_none());
            steps.push(Told::new(step, frame, verdict));
        });
        let Some((place, new)) = frame.replaced.take() else { break (verdict, frame.actions) };
        (above, changed) = (place, Some(new));
    };
    let head = changed.as_deref().map_or(head, Head::bytes);
    let mut mirror = actions.mirror;
    let own = |port, refused| Destination {
        port,
        tagging: actions.tagging,
        refused,
        copy: false,
        steps: Vec::new(),
    };
    let mut destinations = match verdict {
        Verdict::Drop(_) | Verdict::Answer => Vec::new(),
        Verdict::Refuse(reason, to) => vec![own(to, Some(reason))],
        Verdict::Unicast(to) => vec![own(to, None)],
        Verdict::Flood(set) => {
            let to = snap.flood(set, from).filter(|&to| told(to));
            flooded(snap, state, now, from, ingress.as_ref(), (head, len), to)
        }
    };
    if matches!(verdict, Verdict::Flood(_)) {
        let mirrored = |d: &Destination| snap.port(d.port).is_some_and(crate::port::Port::is_mirrored);
        mirror |= destinations.iter().any(mirrored);
    }
    if mirror {
        for &monitor in snap.monitors() {
            // A port whose policy refused the frame does not get it as a copy either.
            if monitor == from || !told(monitor) || destinations.iter().any(|d| d.port == monitor) {
                continue;
            }
            let tagging = match &ingress {
                None => pipeline::mirrored(snap, from, monitor, head, len),
                Some(i) => pipeline::mirrored_inner(snap, i.vsid, from, monitor, head, len),
            };
            if let Some(tagging) = tagging {
                let copy =
                    Destination { port: monitor, tagging, refused: None, copy: true, steps: Vec::new() };
                destinations.push(copy);
            }
        }
    }
    Explanation { steps, verdict, destinations }
}

/// Those of these receivers of a flood that are in the frame's network, with what their policy says.
fn flooded(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    from: PortId,
    ingress: Option<&Ingress>,
    (head, len): (&[u8], u32),
    to: impl Iterator<Item = PortId>,
) -> Vec<Destination> {
    let one = |to| {
        let mut steps = Vec::new();
        let (verdict, tagging) =
            pipeline::copy_dry(snap, state, now, (from, to), ingress, (head, len), |told| steps.push(told))?;
        let refused = reason(Some(verdict));
        Some(Destination { port: to, tagging, refused, copy: false, steps })
    };
    to.filter_map(one).collect()
}
