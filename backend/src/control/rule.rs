//! Extended rules of a port between their texts and what the data path follows (section 8 of the semantics).

use std::cmp::Reverse;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vswitch::port::rule::{Action, Rule, Table};
use vswitch::refusal::Refusal;
use vswitch::{Direction, Nanos, Segment, Tally};

use super::check;
use super::list::{Item, List};
use super::types::{RuleKey, RuleSpec};

/// A port's extended rules.
pub type Rules = List<Rule>;

/// Rules of a port at most.
pub const LIMIT: usize = 10_000;

/// Idle timeout of a stateful rule that is given none, in seconds.
pub const IDLE_SECONDS: u64 = 30;

const SECOND: Nanos = 1_000_000_000;

/// Direction, then the heaviest first: the order in which rules are asked.
pub type Key = (Direction, Reverse<u32>);

impl Item for Rule {
    type Key = Key;
    type Table = Table;
    const LIMIT: usize = LIMIT;
    const NOUN: [&'static str; 3] = ["rules", "a rule", "rule"];
    const INSTEAD: &'static str = "another weight, or 'turnpike rule add --replace' to change that one";

    fn key(&self) -> Key {
        (self.direction, Reverse(self.weight))
    }

    fn tally(&self) -> Tally {
        self.tally
    }

    fn count_on(&mut self, tally: Tally) {
        self.tally = tally;
    }

    fn counts(&self) -> bool {
        true
    }

    fn text(&self) -> String {
        key_text(&self.key())
    }

    fn compile(items: &[Arc<Self>]) -> Table {
        Table::new(&items.iter().map(|rule| Self::clone(rule)).collect::<Vec<_>>())
    }

    fn edited(table: &Table, gone: &[&Self], added: &[&Self]) -> Option<Table> {
        let mut table = table.clone();
        // What is replaced goes with what replaces it.
        let stays_away = |rule: &&&Self| !added.iter().any(|new| new.key() == rule.key());
        for rule in gone.iter().filter(stays_away) {
            table = table.without(rule.direction, rule.weight)?;
        }
        Some(added.iter().fold(table, |table, rule| table.replaced(rule)))
    }
}

/// The key that a caller gives.
pub fn key(given: &RuleKey) -> Result<Key, Refusal> {
    Ok((direction(&given.direction)?, Reverse(weight(given.weight)?)))
}

/// A key, for an operator.
pub fn key_text((direction, Reverse(weight)): &Key) -> String {
    format!("{direction} weight {weight}")
}

/// The rule that a specification describes; it counts nowhere yet.
pub fn rule(spec: &RuleSpec) -> Result<Rule, Refusal> {
    let action = match spec.action.as_str() {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        other => return Err(Refusal::BadAction { value: other.into(), valid: "allow or deny" }),
    };
    let protocol = spec.protocol.as_deref().map(protocol).transpose()?;
    let transport = matches!(protocol, Some(6 | 17));
    let local_ports = spec.local_port.as_deref().map(ports).transpose()?;
    let remote_ports = spec.remote_port.as_deref().map(ports).transpose()?;
    if let Some(other) = protocol.filter(|_| !transport && (local_ports.is_some() || remote_ports.is_some()))
    {
        return Err(Refusal::PortsWithoutTransport { protocol: protocol_text(other) });
    }
    let stateful = match (spec.stateful, &spec.idle_timeout) {
        (false, None) => None,
        (false, Some(_)) => return Err(Refusal::IdleWithoutStateful),
        (true, _) if action == Action::Deny => return Err(Refusal::StatefulDeny),
        (true, _) if !transport => {
            return Err(Refusal::StatefulProtocol {
                protocol: protocol.map(protocol_text).unwrap_or_default(),
            });
        }
        (true, None) => Some(IDLE_SECONDS * SECOND),
        (true, Some(text)) => Some(idle(text)?),
    };
    Ok(Rule {
        direction: direction(&spec.direction)?,
        weight: weight(spec.weight)?,
        action,
        local: spec.local.as_deref().map(check::prefix_or_any).transpose()?.flatten(),
        remote: spec.remote.as_deref().map(check::prefix_or_any).transpose()?.flatten(),
        local_ports,
        remote_ports,
        protocol,
        stateful,
        isolation: spec.isolation_id.map(isolation).transpose()?,
        tally: Tally::NONE,
    })
}

/// What describes a rule.
pub fn spec(rule: &Rule) -> RuleSpec {
    RuleSpec {
        action: if rule.action == Action::Allow { "allow" } else { "deny" }.into(),
        direction: rule.direction.to_string(),
        weight: rule.weight.into(),
        local: rule.local.as_ref().map(check::prefix_text),
        remote: rule.remote.as_ref().map(check::prefix_text),
        local_port: rule.local_ports.as_ref().map(ports_text),
        remote_port: rule.remote_ports.as_ref().map(ports_text),
        protocol: rule.protocol.map(protocol_text),
        stateful: rule.stateful.is_some(),
        idle_timeout: rule.stateful.map(check::duration_text),
        isolation_id: rule.isolation.map(|segment| segment.0.into()),
    }
}

fn direction(text: &str) -> Result<Direction, Refusal> {
    match text {
        "in" => Ok(Direction::In),
        "out" => Ok(Direction::Out),
        other => Err(Refusal::BadDirection { value: other.into(), valid: "in or out (one rule for each)" }),
    }
}

fn weight(given: u64) -> Result<u32, Refusal> {
    check::range("weight", given, 1, i32::MAX as u64, "").map(|weight| weight as u32)
}

fn protocol(text: &str) -> Result<u8, Refusal> {
    match text {
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmp" => Ok(1),
        "icmpv6" => Ok(58),
        number => check::decimal(number).ok_or_else(|| Refusal::BadProtocol { value: number.into() }),
    }
}

pub(super) fn protocol_text(protocol: u8) -> String {
    match protocol {
        6 => "tcp".into(),
        17 => "udp".into(),
        1 => "icmp".into(),
        58 => "icmpv6".into(),
        number => number.to_string(),
    }
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, Refusal> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = check::decimal(first).zip(check::decimal(last)).filter(|(first, last)| first <= last);
    let (first, last) = range.ok_or_else(|| Refusal::BadPortRange { value: text.into() })?;
    Ok(first..=last)
}

fn ports_text(ports: &RangeInclusive<u16>) -> String {
    let (first, last) = (ports.start(), ports.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn idle(text: &str) -> Result<Nanos, Refusal> {
    let nanos = check::duration(text).filter(|nanos| (SECOND..=24 * 3600 * SECOND).contains(nanos));
    nanos.ok_or_else(|| Refusal::BadValue {
        setting: "idle-timeout".into(),
        value: text.into(),
        valid: "1s to 24h".into(),
    })
}

fn isolation(id: u64) -> Result<Segment, Refusal> {
    match id {
        1..=4094 | 4096..=check::VSID_MAX => Ok(Segment(id as u32)),
        _ => Err(Refusal::BadValue {
            setting: "isolation-id".into(),
            value: id.to_string(),
            valid: format!("1 to 4094 (VLAN) or 4096 to {} (virtual subnet)", check::VSID_MAX),
        }),
    }
}

/// A rule as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    rule: RuleSpec,
    tally: Tally,
}

impl From<&Rule> for Row {
    fn from(rule: &Rule) -> Self {
        Self { rule: spec(rule), tally: rule.tally }
    }
}

impl Row {
    /// The rule, judged as one from outside would be.
    pub fn judge(&self) -> Result<Rule, Refusal> {
        Ok(Rule { tally: self.tally, ..rule(&self.rule)? })
    }
}
