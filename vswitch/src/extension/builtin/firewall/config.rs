//! The firewall's configuration and the settings of ports: what is written, checked and made into what is asked for each packet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::super::{ConfigError, read, within};
use super::NAME;
use super::rules::{Action, Rule, Rules};
use crate::extension::Veto;
use crate::frame::protocol;
use crate::{Direction, Nanos};

const SECOND: Nanos = 1_000_000_000;
/// Rule sets, rules of one, and sets and rules of a port. All of a port's rules may be asked for one packet.
const MOST_SETS: usize = 256;
const MOST_RULES: usize = 256;
const MOST_APPLIED: usize = 16;
const MOST_OF_PORT: usize = 1024;
/// Prefixes or port ranges of one rule.
const MOST_LISTED: usize = 32;
/// Payload patterns, and bytes of one.
const MOST_PATTERNS: usize = 64;
const LONGEST_PATTERN: usize = 64;
/// Connections of a port that fit in what travels with its guest.
const MOST_SHARE: u32 = 5000;

/// What is configured, checked.
#[derive(Debug)]
pub(super) struct Config {
    sets: BTreeMap<String, Arc<[Rule]>>,
    defaults: [Action; 2],
    pub(super) connections: u32,
    pub(super) share: u32,
    pub(super) timeouts: Timeouts,
    pub(super) watch: Watch,
}

/// How long a connection lasts without a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) opening: Nanos,
    pub(super) tcp: Nanos,
    pub(super) closing: Nanos,
    pub(super) udp: Nanos,
    pub(super) other: Nanos,
}

/// What is watched for.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) scan: Option<Scan>,
    pub(super) flood: Option<Flood>,
    pub(super) patterns: Vec<Pattern>,
}

/// A port scan: more ports, or more hosts, than these, tried by one source within the window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    pub(super) ports: usize,
    pub(super) hosts: usize,
    pub(super) window: Nanos,
    pub(super) block: Nanos,
}

/// More connections of one source half open than this.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flood {
    pub(super) half_open: u32,
    pub(super) block: Nanos,
}

/// A known beginning of a payload.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) protocol: Option<u8>,
    pub(super) block: Nanos,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    sets: BTreeMap<String, Vec<WrittenRule>>,
    #[serde(default)]
    default: Defaults,
    #[serde(default = "connections")]
    connections: u32,
    #[serde(default = "share")]
    share: u32,
    #[serde(default)]
    timeouts: WrittenTimeouts,
    #[serde(default)]
    intrusion: Intrusion,
}

const fn connections() -> u32 {
    65_536
}

const fn share() -> u32 {
    4096
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Defaults {
    out: Action,
    r#in: Action,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { out: Action::Allow, r#in: Action::Deny }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenTimeouts {
    opening: u64,
    tcp: u64,
    closing: u64,
    udp: u64,
    other: u64,
}

impl Default for WrittenTimeouts {
    fn default() -> Self {
        Self { opening: 30, tcp: 7200, closing: 10, udp: 60, other: 30 }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WrittenRule {
    action: Action,
    direction: Direction,
    #[serde(default)]
    protocol: Option<Protocol>,
    #[serde(default)]
    local: Vec<String>,
    #[serde(default)]
    remote: Vec<String>,
    #[serde(default)]
    local_ports: Vec<Ports>,
    #[serde(default)]
    remote_ports: Vec<Ports>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Protocol {
    Number(u8),
    Name(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ports {
    One(u16),
    Range(String),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Intrusion {
    port_scan: Option<WrittenScan>,
    syn_flood: Option<WrittenFlood>,
    payloads: Vec<WrittenPattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenScan {
    #[serde(default = "scan_ports")]
    ports: usize,
    #[serde(default = "scan_hosts")]
    hosts: usize,
    #[serde(default = "ten")]
    window: u64,
    #[serde(default = "minute")]
    block: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WrittenFlood {
    #[serde(default = "half_open")]
    half_open: u32,
    #[serde(default = "minute")]
    block: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPattern {
    name: String,
    hex: String,
    #[serde(default)]
    protocol: Option<Protocol>,
    #[serde(default = "minute")]
    block: u64,
}

const fn scan_ports() -> usize {
    20
}

const fn scan_hosts() -> usize {
    50
}

const fn half_open() -> u32 {
    64
}

const fn ten() -> u64 {
    10
}

const fn minute() -> u64 {
    60
}

fn wrong(problem: impl Into<String>) -> ConfigError {
    ConfigError::new(NAME, problem)
}

fn seconds(key: &str, value: u64, least: u64) -> Result<Nanos, ConfigError> {
    Ok(within(NAME, key, value, least, 7 * 86_400)? * SECOND)
}

impl Config {
    pub(super) fn new(value: &Value) -> Result<Self, ConfigError> {
        let written: Written = read(NAME, value)?;
        if written.sets.len() > MOST_SETS {
            return Err(wrong(format!("there are {} sets; at most {MOST_SETS}", written.sets.len())));
        }
        let mut sets = BTreeMap::new();
        for (name, rules) in written.sets {
            if rules.len() > MOST_RULES {
                return Err(wrong(format!("set '{name}' has {} rules; at most {MOST_RULES}", rules.len())));
            }
            let check =
                |(n, rule)| rule_of(rule).map_err(|what| wrong(format!("rule {n} of set '{name}': {what}")));
            let rules: Result<Arc<[Rule]>, _> = (1..).zip(rules).map(check).collect();
            sets.insert(name, rules?);
        }
        let share = within(NAME, "share", written.share, 16, MOST_SHARE)?;
        let t = written.timeouts;
        // A flow's answer stands for a second, so a connection that is in use must last longer than that between two looks.
        let timeout = |name: &str, value| seconds(&format!("timeouts.{name}"), value, 5);
        Ok(Self {
            sets,
            defaults: [written.default.out, written.default.r#in],
            connections: within(NAME, "connections", written.connections, share, 1 << 22)?,
            share,
            timeouts: Timeouts {
                opening: timeout("opening", t.opening)?,
                tcp: timeout("tcp", t.tcp)?,
                closing: timeout("closing", t.closing)?,
                udp: timeout("udp", t.udp)?,
                other: timeout("other", t.other)?,
            },
            watch: watch_of(written.intrusion)?,
        })
    }

    /// The names of all sets.
    pub(super) fn sets(&self) -> impl Iterator<Item = &str> {
        self.sets.keys().map(String::as_str)
    }

    /// The rules that a port's (or the switch's) settings apply.
    pub(super) fn apply(&self, settings: &Value) -> Result<Arc<Rules>, Veto> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Settings {
            sets: Vec<String>,
        }
        let Settings { sets } = Settings::deserialize(settings).map_err(|error| {
            Veto::new(format!("{error}; write the sets to apply, in order: {{\"sets\": [\"web\"]}}"))
        })?;
        if sets.len() > MOST_APPLIED {
            return Err(Veto::new(format!("{} sets; a port has at most {MOST_APPLIED}", sets.len())));
        }
        let mut rules = Vec::new();
        for name in &sets {
            let Some(set) = self.sets.get(name) else {
                let known: Vec<&str> = self.sets().take(8).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Veto::new(format!("there is no rule set '{name}'; there are: {known}")));
            };
            rules.extend_from_slice(set);
        }
        if rules.len() > MOST_OF_PORT {
            return Err(Veto::new(format!("{} rules; a port has at most {MOST_OF_PORT}", rules.len())));
        }
        Ok(Arc::new(Rules::new(sets, rules, self.defaults)))
    }
}

fn rule_of(written: WrittenRule) -> Result<Rule, String> {
    let protocol = written.protocol.map(number).transpose()?.flatten();
    let has_ports = matches!(protocol, Some(protocol::TCP | protocol::UDP));
    let ports = [written.local_ports, written.remote_ports];
    if !has_ports && ports.iter().any(|list| !list.is_empty()) {
        return Err("it names ports; only 'protocol' tcp and udp have them".into());
    }
    let [local_ports, remote_ports] = ports.map(|list| listed(list, range));
    let [local, remote] = [written.local, written.remote].map(|list| listed(list, |text| prefix(&text)));
    Ok(Rule {
        action: written.action,
        direction: written.direction,
        protocol,
        local: local?,
        remote: remote?,
        local_ports: local_ports?,
        remote_ports: remote_ports?,
    })
}

fn listed<T, U>(list: Vec<T>, check: impl Fn(T) -> Result<U, String>) -> Result<Vec<U>, String> {
    if list.len() > MOST_LISTED {
        return Err(format!("a list of {}; at most {MOST_LISTED}, more rules hold more", list.len()));
    }
    list.into_iter().map(check).collect()
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
    let valid = "write an address or a prefix: 10.0.0.0/8, 2001:db8::/32";
    text.parse().ok().or_else(address).ok_or_else(|| format!("'{text}' is no prefix; {valid}"))
}

fn range(ports: Ports) -> Result<RangeInclusive<u16>, String> {
    let text = match ports {
        Ports::One(port) => return Ok(port..=port),
        Ports::Range(text) => text,
    };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("'{text}' is no port; write 0 to 65535, or a range such as 8000-8010")),
    }
}

/// `None` = any.
fn number(written: Protocol) -> Result<Option<u8>, String> {
    let name = match written {
        Protocol::Number(number) => return Ok(Some(number)),
        Protocol::Name(name) => name,
    };
    match name.as_str() {
        "any" => Ok(None),
        "tcp" => Ok(Some(protocol::TCP)),
        "udp" => Ok(Some(protocol::UDP)),
        "icmp" => Ok(Some(protocol::ICMP)),
        "icmpv6" => Ok(Some(protocol::ICMPV6)),
        _ => Err(format!("'{name}' is no protocol; write tcp, udp, icmp, icmpv6, any or a number up to 255")),
    }
}

fn watch_of(written: Intrusion) -> Result<Watch, ConfigError> {
    let scan = |scan: WrittenScan| {
        Ok::<_, ConfigError>(Scan {
            ports: within(NAME, "intrusion.port-scan.ports", scan.ports, 2, 256)?,
            hosts: within(NAME, "intrusion.port-scan.hosts", scan.hosts, 2, 256)?,
            window: seconds("intrusion.port-scan.window", scan.window, 1)?,
            block: seconds("intrusion.port-scan.block", scan.block, 0)?,
        })
    };
    let flood = |flood: WrittenFlood| {
        Ok::<_, ConfigError>(Flood {
            half_open: within(NAME, "intrusion.syn-flood.half-open", flood.half_open, 1, 1 << 16)?,
            block: seconds("intrusion.syn-flood.block", flood.block, 0)?,
        })
    };
    if written.payloads.len() > MOST_PATTERNS {
        let count = written.payloads.len();
        return Err(wrong(format!("'intrusion.payloads' has {count} entries; at most {MOST_PATTERNS}")));
    }
    let pattern = |pattern: WrittenPattern| {
        let WrittenPattern { name, hex, protocol, block } = pattern;
        let of = |what: String| wrong(format!("payload '{name}': {what}"));
        let bytes = bytes_of(&hex).filter(|bytes| (2..=LONGEST_PATTERN).contains(&bytes.len()));
        let valid = format!("write 2 to {LONGEST_PATTERN} bytes, two digits each");
        Ok(Pattern {
            bytes: bytes.ok_or_else(|| of(format!("'{hex}' is no pattern; {valid}")))?,
            protocol: protocol.map(number).transpose().map_err(of)?.flatten(),
            block: seconds("intrusion.payloads.block", block, 0)?,
            name,
        })
    };
    Ok(Watch {
        scan: written.port_scan.map(scan).transpose()?,
        flood: written.syn_flood.map(flood).transpose()?,
        patterns: written.payloads.into_iter().map(pattern).collect::<Result<_, ConfigError>>()?,
    })
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        hex.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
