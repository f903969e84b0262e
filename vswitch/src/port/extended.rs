//! Extended rules applied to a packet, with the sessions that stateful rules open.
//!
//! A packet of a session passes, whatever the rules say now; a session that the rules would not grant any more is closed when they
//! change ([`crate::state::State::reconcile`]). Otherwise the heaviest rule that matches decides, and without one the packet passes. Rules
//! are about IP packets: what is not IP passes (MAC entries of the port ACL are for that), and an IP packet whose headers cannot be read is dropped.

use crate::Direction;
use crate::event::Event;
use crate::frame::headers::{Fragment, Ip};
use crate::frame::{protocol, tcp};
use crate::port::Port;
use crate::port::rule::{Action, Tuple};
use crate::session::{Grant, Key};
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, Verdict};

/// Judges a packet by the rules of the port that sends it.
pub(crate) fn out(frame: &mut Frame<'_>) -> Step {
    match check(frame, frame.port, Direction::Out) {
        Ok(()) => Step::Continue(()),
        Err(reason) => Step::Break(Verdict::Drop(reason)),
    }
}

/// Judges a packet by the rules of the port that is to receive it.
pub(crate) fn inward(frame: &mut Frame<'_>, to: &Port) -> Result<(), DropReason> {
    check(frame, to, Direction::In)
}

fn check(frame: &mut Frame<'_>, port: &Port, direction: Direction) -> Result<(), DropReason> {
    let rules = &port.policy.rules;
    if rules.is_empty() {
        return Ok(());
    }
    frame.looked = true;
    let Some(ip) = frame.visible()?.ip else { return Ok(()) };
    let tuple = tuple(frame, &ip, direction);
    let flags = (ip.protocol == protocol::TCP).then_some(ip.tcp_flags);
    let key = session_key(port, &tuple).filter(|_| rules.has_stateful());
    if let Some(key) = &key {
        // What follows may be remembered for as long as there is no session.
        frame.actions.account(direction).session = frame.state.sessions.absence(key);
    }
    if let Some(key) = key
        && let Some(found) = frame.state.sessions.find(frame.now, &key)
        && found.admits(direction, flags)
        && (frame.dry || frame.state.sessions.pass(frame.now, found.handle, direction, flags))
    {
        let account = frame.actions.account(direction);
        account.tallies[2] = found.grant.tally;
        account.session = found.handle;
        frame.single |= !found.is_steady(direction, flags.is_some());
        frame.note(|| format!("passes in a session that rule {} opened", found.grant.weight));
        return Ok(());
    }
    let Some(rule) = rules.judge(direction, &tuple) else {
        frame.note(|| "no rule matches".into());
        return Ok(());
    };
    frame.actions.account(direction).tallies[2] = rule.tally;
    if rule.action == Action::Deny {
        // A meter counts what passes.
        let account = frame.actions.account(direction);
        (account.tallies[0], account.tallies[1]) = Default::default();
        frame.notice(Event::RuleDenied { port: port.id, direction, weight: rule.weight });
        frame.note(|| format!("denied by rule {}", rule.weight));
        return Err(DropReason::RuleDenied);
    }
    frame.note(|| format!("allowed by rule {}", rule.weight));
    if let (Some(idle), Some(key)) = (rule.stateful, key) {
        // What ends a connection does not begin one.
        if flags.is_some_and(|flags| flags & tcp::flag::RST != 0) {
            return Ok(());
        }
        // The next packet belongs to the session and is not judged by this rule any more.
        frame.single = true;
        if !frame.state.sessions.would_open(frame.now, &key) {
            frame.note(|| "the port has all the sessions it may have".into());
            return Err(DropReason::SessionLimit);
        }
        let grant = Grant { opened: direction, weight: rule.weight, idle, tally: rule.tally };
        frame.opens[usize::from(direction == Direction::In)] = Some((key, grant, flags));
        frame.note(|| "opens a session".into());
    }
    Ok(())
}

/// The packet as rules see it.
fn tuple(frame: &Frame<'_>, ip: &Ip, direction: Direction) -> Tuple {
    let ((local, remote), ports) = match direction {
        Direction::Out => ((ip.src, ip.dst), ip.ports),
        Direction::In => ((ip.dst, ip.src), ip.ports.map(|(src, dst)| (dst, src))),
    };
    let later_fragment = ip.fragment == Fragment::Later;
    Tuple { local, remote, protocol: ip.protocol, ports, later_fragment, segment: frame.segment }
}

/// The session a packet may belong to: TCP and UDP have sessions, later fragments show no ports.
fn session_key(port: &Port, tuple: &Tuple) -> Option<Key> {
    let (local_port, remote_port) = tuple.ports?;
    let Tuple { local, remote, protocol, segment, .. } = *tuple;
    Some(Key { port: port.id, segment, protocol, local, remote, local_port, remote_port })
}
