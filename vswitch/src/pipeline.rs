//! THE order of steps: what is asked about a frame, in which order, until one step has the answer.
//!
//! A frame is first parsed and its port looked up (`frame-too-short`, `frame-too-long`, `no-such-port`), then [`STEPS`]
//! are taken in turn, and what none of them stopped is forwarded ([`crate::forward`]). The port it goes to is then asked [`TOWARDS`];
//! in a flood every port for itself ([`copy`]). What depends on more than the frame (the receiver's MTU and rings, offloads) is
//! asked when the frame is delivered.
//!
//! Runs on a flow-cache miss. Each rule lives in the file named after it; the order lives here and nowhere else. It is that of the
//! Hyper-V switch: what a port may send is settled before anything is forwarded, what a port may receive after that.

use crate::event::Event;
use crate::explain::Told;
use crate::frame::ethernet;
use crate::frame::tag::Tagging;
use crate::nv::overlay::Ingress;
use crate::port::vlan::Receives;
use crate::port::{
    Port, access, address_limit, addresses, admission, dhcp_guard, extended, learning, link, mirror,
    reserved, router_guard, source, storm,
};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::trace::DropReason;
use crate::verdict::{Frame, Rule, Step, Towards};
use crate::{Direction, Nanos, PortId, Segment, extension, forward, nv};

pub use crate::verdict::{Account, Actions, Decision, Verdict};

/// The steps between parsing and forwarding, in order. Names are shown in traces.
pub const STEPS: [(&str, Rule); 15] = [
    ("sender-link", link::sender),
    ("valid-source", source::valid),
    ("allowed-source", source::allowed),
    ("reserved-destination", reserved::destination),
    ("extensions-out", extension::steps::out),
    ("network", admission::admit),
    ("provider-network", nv::underlay::guard),
    ("acl-out", access::out),
    ("rules-out", extended::out),
    ("dhcp-guard", dhcp_guard::guard),
    ("router-guard", router_guard::guard),
    ("owned-addresses", addresses::owned),
    ("address-limit", address_limit::limit),
    ("storm-limit", storm::limit),
    ("learning", learning::learn),
];

/// The steps of a customer's frame that came in a tunnel, in place of [`STEPS`]: what its sender may send was settled where it was sent.
pub const TUNNEL: [(&str, Rule); 4] = [
    ("valid-source", source::valid),
    ("reserved-destination", reserved::destination),
    ("tunnel-source", nv::tunnel::source),
    ("extensions-out", extension::steps::out),
];

/// The steps of a frame that an extension added without a port: there is no sender whose policy could be asked.
pub const TRUSTED: [(&str, Rule); 3] = [
    ("valid-source", source::valid),
    ("extensions-out", extension::steps::out),
    ("network", admission::admit),
];

/// What is asked of the port a frame goes to, in order.
pub const TOWARDS: [(&str, Towards); 5] = [
    ("receiver-link", link::receiver),
    ("member", admission::membership),
    ("acl-in", access::inward),
    ("rules-in", extended::inward),
    ("extensions-in", extension::steps::inward),
];

/// Decides one frame: its first bytes `head` (all of it, or at least [`crate::HEAD_LEN`]) and its whole length `len`
/// in bytes. Learns its source and opens its sessions. Judges exactly as [`crate::flow::Forwarder::judge`] does, without a cache.
pub fn run(snap: &Snapshot, state: &State, now: Nanos, from: PortId, head: &[u8], len: u32) -> Verdict {
    decide(snap, state, now, from, head, len).verdict
}

/// As [`run`], with what else is to be known about the decision.
pub fn decide(snap: &Snapshot, state: &State, now: Nanos, from: PortId, head: &[u8], len: u32) -> Decision {
    decide_below(snap, state, now, from, None, (head, len), 0)
}

/// As [`decide`], for a frame that came out of a tunnel.
#[allow(clippy::too_many_arguments)] // a frame, and what it is judged by
pub fn decide_inner(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    from: PortId,
    ingress: &Ingress,
    head: &[u8],
    len: u32,
) -> Decision {
    decide_below(snap, state, now, from, Some(ingress), (head, len), 0)
}

/// As [`decide`] or [`decide_inner`], for a frame of which only the extensions from place `above` of the stack on are asked.
pub fn decide_below(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    from: PortId,
    ingress: Option<&Ingress>,
    (head, len): (&[u8], u32),
    above: u32,
) -> Decision {
    decide_as(snap, state, now, from, ingress, (head, len), (above, 0))
}

/// As [`decide_below`], for a frame that extensions added: those of `makers`, as bits, are asked neither when it leaves `from` nor when it comes to
/// its receiver. Of such a frame alone `from` may be nobody ([`PortId::SWITCH`]).
pub fn decide_added(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    from: PortId,
    (head, len): (&[u8], u32),
    (above, makers): (u32, u8),
) -> Decision {
    decide_as(snap, state, now, from, None, (head, len), (above, makers))
}

fn decide_as(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    from: PortId,
    ingress: Option<&Ingress>,
    (head, len): (&[u8], u32),
    (above, makers): (u32, u8),
) -> Decision {
    if from == PortId::SWITCH && makers == 0 {
        return Decision::drop(nobodys(head, len));
    }
    let once = |head: &[u8], above| {
        let parsed = match ingress {
            None => parse(snap, state, now, from, head, len),
            Some(ingress) => parse_inner(snap, state, now, from, ingress, head, len),
        };
        match parsed {
            Ok(mut frame) => {
                (frame.above, frame.makers) = (above, makers);
                let verdict = walk(&mut frame, |_, _, _| ());
                frame.end(verdict)
            }
            Err(reason) => Decision::drop(reason),
        }
    };
    let mut decision = once(head, above);
    let mut replaced = None;
    // Each round begins further down the stack, so there are no more of them than extensions.
    while let Some((above, head)) = decision.replaced.take() {
        let mut effects = decision.effects;
        decision = once(head.bytes(), above);
        effects.append(std::mem::take(&mut decision.effects));
        decision.effects = effects;
        decision.single = true;
        replaced = Some((above, head));
    }
    if let (Verdict::Drop(reason), Some((below, _)), Some(stack), None) =
        (decision.verdict, &replaced, snap.extensions(), &decision.event)
    {
        // Who changed it made it what is dropped, for all that is known.
        let extension = stack.name(*below as usize - 1).to_owned();
        let (port, direction, reason) = (from, Direction::Out, format!("changed, then {}", reason.name()));
        decision.event = Some(Event::ExtensionDropped { port, extension, direction, reason });
    }
    decision.replaced = replaced;
    decision
}

/// Why a frame ends that nobody sent ([`PortId::SWITCH`]) and no extension added.
pub(crate) fn nobodys(head: &[u8], len: u32) -> DropReason {
    ethernet::check(head, len).err().unwrap_or(DropReason::NoSuchPort)
}

/// As [`copy`], for a frame that came out of a tunnel.
pub fn copy_inner(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    (from, to): (PortId, PortId),
    ingress: &Ingress,
    head: &[u8],
    len: u32,
) -> Option<Decision> {
    let mut frame = parse_inner(snap, state, now, from, ingress, head, len).ok()?;
    let verdict = one_of_flood(&mut frame, to, &mut |_, _, _| ())?;
    Some(frame.end(verdict))
}

/// One receiver's part of a flooded frame: how `to` gets it, or why not. `None` = it is not meant for that port: it is of another network.
pub fn copy(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    (from, to): (PortId, PortId),
    head: &[u8],
    len: u32,
) -> Option<Decision> {
    copy_added(snap, state, now, (from, to), (head, len), 0)
}

/// As [`copy`], for a frame that extensions added: those of `makers`, as bits, are not asked.
pub fn copy_added(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    (from, to): (PortId, PortId),
    (head, len): (&[u8], u32),
    makers: u8,
) -> Option<Decision> {
    let mut frame = parse(snap, state, now, from, head, len).ok()?;
    frame.makers = makers;
    let verdict = one_of_flood(&mut frame, to, &mut |_, _, _| ())?;
    Some(frame.end(verdict))
}

/// As [`copy`], changing nothing, and telling every step.
pub(crate) fn copy_dry(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    (from, to): (PortId, PortId),
    ingress: Option<&Ingress>,
    (head, len): (&[u8], u32),
    mut tell: impl FnMut(Told),
) -> Option<(Verdict, Tagging)> {
    let mut frame = match ingress {
        None => parse(snap, state, now, from, head, len).ok()?,
        Some(ingress) => parse_inner(snap, state, now, from, ingress, head, len).ok()?,
    };
    frame.dry = true;
    let verdict =
        one_of_flood(&mut frame, to, &mut |step, frame, verdict| tell(Told::new(step, frame, verdict)))?;
    Some((verdict, frame.actions.tagging))
}

fn one_of_flood<'a>(
    frame: &mut Frame<'a>,
    to: PortId,
    seen: &mut impl FnMut(&'static str, &mut Frame<'a>, Option<Verdict>),
) -> Option<Verdict> {
    let to = frame.snap.port(to)?;
    if frame.ingress.is_none() {
        frame.segment = frame.port.segment(frame.tag).ok()?;
    }
    if to.receives(frame.segment) == Receives::No {
        return None;
    }
    let mut verdict = towards(frame, to, seen);
    if !open(frame) {
        verdict = Verdict::Refuse(DropReason::SessionLimit, to.id);
    }
    settle(frame, verdict);
    Some(verdict)
}

/// How a monitor gets its copy of a frame from `from`; `None` = not at all: its network is another, or it would get a second tag as the first.
pub fn mirrored(snap: &Snapshot, from: PortId, to: PortId, head: &[u8], len: u32) -> Option<Tagging> {
    let ether = ethernet::check(head, len).ok()?;
    let (from, to) = (snap.sender(from)?, snap.port(to)?);
    let tagging = admission::tagging(from, to, from.segment(ether.tag).ok()?, ether.tag.is_some())?;
    (!admission::uncovers(tagging, head)).then_some(tagging)
}

/// As [`mirrored`], for a frame of this virtual subnet that came out of a tunnel at `from`.
pub fn mirrored_inner(
    snap: &Snapshot,
    vsid: u32,
    from: PortId,
    to: PortId,
    head: &[u8],
    len: u32,
) -> Option<Tagging> {
    let ether = ethernet::check(head, len).ok()?;
    let (from, to) = (snap.port(from)?, snap.port(to)?);
    admission::tagging(from, to, Segment(vsid), ether.tag.is_some())
}

/// A customer's frame at the beginning of its way.
pub(crate) fn parse_inner<'a>(
    snap: &'a Snapshot,
    state: &'a State,
    now: Nanos,
    from: PortId,
    ingress: &Ingress,
    head: &'a [u8],
    len: u32,
) -> Result<Frame<'a>, DropReason> {
    let mut frame = parse(snap, state, now, from, head, len)?;
    if frame.tag.is_some() {
        return Err(DropReason::NvMalformed);
    }
    frame.ingress = Some(*ingress);
    frame.segment = Segment(ingress.vsid);
    Ok(frame)
}

/// A frame at the beginning of its way.
pub(crate) fn parse<'a>(
    snap: &'a Snapshot,
    state: &'a State,
    now: Nanos,
    from: PortId,
    head: &'a [u8],
    len: u32,
) -> Result<Frame<'a>, DropReason> {
    let outer = ethernet::check(head, len)?;
    let port = snap.sender(from).ok_or(DropReason::NoSuchPort)?;
    Ok(Frame::new(snap, state, now, port, (head, len), outer))
}

/// Takes the steps; `seen` hears of each one with the answer it gave.
pub(crate) fn walk<'a>(
    frame: &mut Frame<'a>,
    mut seen: impl FnMut(&'static str, &mut Frame<'a>, Option<Verdict>),
) -> Verdict {
    let steps: &[(&str, Rule)] = match (frame.port.id, frame.ingress) {
        (PortId::SWITCH, _) => &TRUSTED,
        (_, Some(_)) => &TUNNEL,
        (_, None) => &STEPS,
    };
    for (name, rule) in steps {
        let step = rule(frame);
        seen(name, frame, step.break_value());
        if let Step::Break(verdict) = step {
            settle(frame, verdict);
            return verdict;
        }
    }
    let mut verdict = if frame.ingress.is_some() {
        nv::tunnel::destination(frame)
    } else {
        extension::steps::forward(frame).unwrap_or_else(|| forward::destination(frame))
    };
    seen("forwarding", frame, Some(verdict));
    let to = match verdict {
        Verdict::Unicast(to) => frame.snap.port(to),
        _ => None,
    };
    if let Some(to) = to {
        let tunnel = frame.overlay.is_some_and(|o| o.tunnel.is_some() || o.exit.is_some());
        // What an uplink's policy says is about the physical network, of which the customer's frame is no part.
        verdict = match if tunnel { link::receiver(frame, to) } else { Ok(()) } {
            Err(reason) => Verdict::Refuse(reason, to.id),
            Ok(()) if tunnel => verdict,
            Ok(()) => towards(frame, to, &mut seen),
        };
    }
    if !matches!(verdict, Verdict::Drop(_) | Verdict::Answer) {
        frame.actions.mirror = mirror::wanted(frame.snap, frame.port, to);
        if !open(frame) {
            verdict = Verdict::Drop(DropReason::SessionLimit);
        }
    }
    settle(frame, verdict);
    verdict
}

/// Meters count what passes, and a rule or entry what it decided: of what was dropped for another reason nothing is counted.
fn settle(frame: &mut Frame<'_>, verdict: Verdict) {
    let judged = |reason| {
        matches!(reason, DropReason::AclDenied | DropReason::RuleDenied | DropReason::ExtensionFiltered)
    };
    match verdict {
        Verdict::Drop(reason) => {
            if !judged(reason) {
                frame.actions.out = Account::default();
            }
            let Actions { out, storm, asks, .. } = frame.actions;
            frame.actions = Actions { out, storm, asks: [asks[0], 0], ..Actions::default() };
            frame.overlay = None;
        }
        Verdict::Refuse(reason, _) if !judged(reason) => frame.actions.inward = Account::default(),
        _ => {}
    }
}

fn towards<'a>(
    frame: &mut Frame<'a>,
    to: &Port,
    seen: &mut impl FnMut(&'static str, &mut Frame<'a>, Option<Verdict>),
) -> Verdict {
    for (name, rule) in &TOWARDS {
        let refused = rule(frame, to).err().map(|reason| Verdict::Refuse(reason, to.id));
        seen(name, frame, refused);
        if let Some(verdict) = refused {
            frame.opens[1] = None;
            return verdict;
        }
    }
    Verdict::Unicast(to.id)
}

/// Opens the sessions that a frame earned on its way; false if there was no room any more.
fn open(frame: &mut Frame<'_>) -> bool {
    let opens = std::mem::take(&mut frame.opens);
    if frame.dry {
        return true;
    }
    opens
        .into_iter()
        .flatten()
        .all(|(key, grant, flags)| frame.state.sessions.open(frame.now, key, grant, flags).is_ok())
}

/// Whether the sender's storm limit has room for a frame that the flow cache knows.
pub(crate) fn storm_admits(snap: &Snapshot, state: &State, now: Nanos, from: PortId) -> bool {
    snap.port(from).is_none_or(|port| {
        let limit = port.policy.storm_limit;
        limit == 0 || state.storms.take(now, from, limit)
    })
}
