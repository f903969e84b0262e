//! Port ACLs and extended rules as the rule book reads: one linear look at every entry, no tables, no caches.
//!
//! Also the dice that random tests are made with. Shares no code with the switch; entries are written to it as
//! command-line words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::frame::{Frame, Mac, pattern};
use crate::lan::{self, mac_text};

/// Random numbers that are the same in every run.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The low bits of this generator are its weak ones.
        (self.0 >> 20) as usize % limit
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of a list.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// An IP prefix: address and length.
pub type Prefix = (IpAddr, u8);

/// Whether a prefix holds an address.
#[must_use]
pub fn holds((net, len): Prefix, ip: IpAddr) -> bool {
    let (net, ip, width) = match (net, ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) => (u128::from(net.to_bits()), u128::from(ip.to_bits()), 32),
        (IpAddr::V6(net), IpAddr::V6(ip)) => (net.to_bits(), ip.to_bits(), 128),
        _ => return false,
    };
    len == 0 || net >> (width - len) == ip >> (width - len)
}

/// The prefix of this length around an address, host bits zero.
#[must_use]
pub fn prefix(ip: IpAddr, len: u8) -> Prefix {
    match ip {
        IpAddr::V4(ip) => {
            let bits = if len == 0 { 0 } else { ip.to_bits() >> (32 - len) << (32 - len) };
            (IpAddr::V4(bits.into()), len)
        }
        IpAddr::V6(ip) => {
            let bits = if len == 0 { 0 } else { ip.to_bits() >> (128 - len) << (128 - len) };
            (IpAddr::V6(bits.into()), len)
        }
    }
}

/// A prefix as it is written; a host without a length.
#[must_use]
pub fn prefix_text((ip, len): Prefix) -> String {
    if len == if ip.is_ipv4() { 32 } else { 128 } { ip.to_string() } else { format!("{ip}/{len}") }
}

/// What a frame is, seen from the port that is tested.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `out` or `in`.
    pub direction: &'static str,
    /// The guest's MAC address.
    pub local_mac: Mac,
    /// Its peer's.
    pub remote_mac: Mac,
    /// IP addresses (local, remote), if it is IP.
    pub ip: Option<(IpAddr, IpAddr)>,
    /// IP protocol.
    pub protocol: u8,
    /// Ports (local, remote), if it has any that can be seen.
    pub ports: Option<(u16, u16)>,
    /// A fragment without the transport header.
    pub later_fragment: bool,
}

/// Address of an ACL entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Every IP address.
    Any,
    /// Every MAC address.
    AnyMac,
    /// A MAC address.
    Mac(Mac),
    /// A prefix.
    Ip(Prefix),
}

/// An ACL entry. Entries for both directions are two of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `allow`, `deny` or `meter`.
    pub action: &'static str,
    /// `out` or `in`.
    pub direction: &'static str,
    /// `local` or `remote`.
    pub side: &'static str,
    /// What it matches.
    pub address: Address,
}

impl Entry {
    /// The address as it is written.
    #[must_use]
    pub fn address_text(&self) -> String {
        match self.address {
            Address::Any => "any".to_owned(),
            Address::AnyMac => "any-mac".to_owned(),
            Address::Mac(mac) => mac_text(mac),
            Address::Ip(prefix) => prefix_text(prefix),
        }
    }

    /// The command that adds it to a port.
    #[must_use]
    pub fn command(&self, port: &str) -> String {
        let Self { action, direction, side, .. } = self;
        format!("acl add {port} --action {action} --direction {direction} --{side} {}", self.address_text())
    }

    /// How exactly it matches: prefix length for IP, 1 for a MAC address and 0 for all of them; `None` = not at all.
    fn precision(&self, facts: &Facts) -> Option<u8> {
        let local = self.side == "local";
        let mac = if local { facts.local_mac } else { facts.remote_mac };
        let ip = facts.ip.map(|(own, peer)| if local { own } else { peer });
        match self.address {
            _ if self.direction != facts.direction => None,
            Address::Any => ip.map(|_| 0),
            Address::AnyMac => Some(0),
            Address::Mac(own) => (own == mac).then_some(1),
            Address::Ip(prefix) => ip.filter(|&ip| holds(prefix, ip)).map(|_| prefix.1),
        }
    }

    fn is_mac(&self) -> bool {
        matches!(self.address, Address::AnyMac | Address::Mac(_))
    }
}

/// The entries with the longest match among those that `wanted` names.
fn best(entries: &[Entry], facts: &Facts, wanted: impl Fn(&Entry) -> bool) -> Vec<usize> {
    let matching = entries.iter().enumerate().filter(|(_, entry)| wanted(entry));
    let matching: Vec<_> =
        matching.filter_map(|(i, entry)| entry.precision(facts).map(|length| (length, i))).collect();
    let longest = matching.iter().map(|&(length, _)| length).max();
    matching.iter().filter(|&&(length, _)| Some(length) == longest).map(|&(_, i)| i).collect()
}

/// What an ACL says: the entries each of which may count the frame (one of them does).
#[derive(Debug, Default)]
pub struct Said {
    /// Entries that deny it.
    pub denied_by: Vec<usize>,
    /// IP meters.
    pub ip_meters: Vec<usize>,
    /// MAC meters.
    pub mac_meters: Vec<usize>,
}

/// Asks an ACL about a frame. The longest match decides, of equals a deny; IP and MAC entries must both allow; meters
/// decide nothing.
#[must_use]
pub fn ask(entries: &[Entry], facts: &Facts) -> Said {
    let mut said = Said::default();
    for mac in [false, true] {
        let decides = best(entries, facts, |e| e.is_mac() == mac && e.action != "meter");
        said.denied_by.extend(decides.into_iter().filter(|&i| entries[i].action == "deny"));
        let meters = best(entries, facts, |e| e.is_mac() == mac && e.action == "meter");
        if mac {
            said.mac_meters = meters;
        } else {
            said.ip_meters = meters;
        }
    }
    said
}

/// An extended rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `allow` or `deny`.
    pub action: &'static str,
    /// `out` or `in`.
    pub direction: &'static str,
    /// Heavier rules are asked first.
    pub weight: u32,
    /// The guest's addresses.
    pub local: Option<Prefix>,
    /// Its peer's.
    pub remote: Option<Prefix>,
    /// The guest's ports.
    pub local_ports: Option<(u16, u16)>,
    /// Its peer's.
    pub remote_ports: Option<(u16, u16)>,
    /// IP protocol.
    pub protocol: Option<u8>,
}

impl Rule {
    /// The command that adds it to a port.
    #[must_use]
    pub fn command(&self, port: &str) -> String {
        use std::fmt::Write;
        let Self { action, direction, weight, .. } = self;
        let mut line = format!("rule add {port} --action {action} --direction {direction} --weight {weight}");
        let range =
            |(from, to): (u16, u16)| if from == to { from.to_string() } else { format!("{from}-{to}") };
        let options = [
            ("local", self.local.map(prefix_text)),
            ("remote", self.remote.map(prefix_text)),
            ("local-port", self.local_ports.map(range)),
            ("remote-port", self.remote_ports.map(range)),
            ("protocol", self.protocol.map(protocol_text)),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                write!(line, " --{name} {value}").expect("a string takes it");
            }
        }
        line
    }

    fn matches(&self, facts: &Facts) -> bool {
        let Some((local, remote)) = facts.ip else { return false };
        let within = |range: Option<(u16, u16)>, port: Option<u16>| match (range, port) {
            (None, _) => true,
            (Some((from, to)), Some(port)) => (from..=to).contains(&port),
            // Ports that cannot be seen: a deny goes without them, so that nothing is smuggled past it.
            (Some(_), None) => facts.later_fragment && self.action == "deny",
        };
        self.direction == facts.direction
            && self.protocol.is_none_or(|protocol| protocol == facts.protocol)
            && self.local.is_none_or(|net| holds(net, local))
            && self.remote.is_none_or(|net| holds(net, remote))
            && within(self.local_ports, facts.ports.map(|(own, _)| own))
            && within(self.remote_ports, facts.ports.map(|(_, peer)| peer))
    }
}

/// A protocol as it is written: a name where there is one.
#[must_use]
pub fn protocol_text(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

/// The heaviest rule that matches; none = the packet passes.
#[must_use]
pub fn judge<'a>(rules: &'a [Rule], facts: &Facts) -> Option<&'a Rule> {
    rules.iter().filter(|rule| rule.matches(facts)).max_by_key(|rule| rule.weight)
}

/// Addresses that random traffic and random policy share, so that they meet.
#[must_use]
pub fn random_ip(dice: &mut Dice, v6: bool) -> IpAddr {
    if v6 {
        let word = |dice: &mut Dice| dice.pick(&[0u16, 1, 0x10, 0xff00]);
        IpAddr::from([0xfd00, word(dice), 0, 0, 0, 0, word(dice), word(dice)])
    } else {
        IpAddr::from([10, dice.pick(&[0u8, 1, 128]), dice.pick(&[0u8, 7]), dice.pick(&[1u8, 2, 77, 200])])
    }
}

fn random_prefix(dice: &mut Dice) -> Prefix {
    let v6 = dice.once_in(3);
    let ip = random_ip(dice, v6);
    let len = if v6 {
        dice.pick(&[0, 8, 17, 32, 64, 100, 112, 127, 128])
    } else {
        dice.pick(&[0, 7, 8, 9, 16, 23, 24, 30, 32])
    };
    prefix(ip, len)
}

/// A random ACL entry of one of these actions for a port whose guest is number `own` and peer number `peer`.
pub fn random_entry(dice: &mut Dice, actions: &[&'static str], own: u8, peer: u8) -> Entry {
    let address = match dice.below(10) {
        0 => Address::Any,
        1 => Address::AnyMac,
        2 => Address::Mac(lan::mac(dice.pick(&[own, peer, 9]))),
        _ => Address::Ip(random_prefix(dice)),
    };
    Entry {
        action: dice.pick(actions),
        direction: dice.pick(&["out", "in"]),
        side: dice.pick(&["local", "remote"]),
        address,
    }
}

/// A random rule of this weight.
pub fn random_rule(dice: &mut Dice, weight: u32) -> Rule {
    let range = |dice: &mut Dice| {
        let from = dice.pick(&[1u16, 53, 80, 1000]);
        (!dice.once_in(3)).then(|| (from, from + dice.pick(&[0u16, 1, 100, 5000])))
    };
    let ports = dice.once_in(2);
    let protocol = if ports {
        Some(dice.pick(&[6, 17]))
    } else {
        dice.pick(&[None, Some(1), Some(6), Some(17), Some(58)])
    };
    let (local, remote) =
        (dice.once_in(3).then(|| random_prefix(dice)), dice.once_in(2).then(|| random_prefix(dice)));
    // Two families in one rule would never match anything (and are refused).
    let remote = remote.filter(|r| local.is_none_or(|l| l.0.is_ipv4() == r.0.is_ipv4()));
    Rule {
        action: dice.pick(&["allow", "deny"]),
        direction: dice.pick(&["out", "in"]),
        weight,
        local,
        remote,
        local_ports: if ports { range(dice) } else { None },
        remote_ports: if ports { range(dice) } else { None },
        protocol,
    }
}

/// A random frame of the port's guest (number `own`) to its peer (number `peer`) or back, and what it is.
pub fn random_frame(dice: &mut Dice, own: u8, peer: u8) -> (Frame, Facts) {
    let out = dice.once_in(2);
    let (from, to) = if out { (own, peer) } else { (peer, own) };
    let payload = pattern(dice.below(600) + 8, dice.below(1000) as u64);
    let mut frame = Frame::new(lan::mac(to), lan::mac(from)).payload(&payload);
    let mut facts = Facts {
        direction: if out { "out" } else { "in" },
        local_mac: lan::mac(own),
        remote_mac: lan::mac(peer),
        ip: None,
        protocol: 0,
        ports: None,
        later_fragment: false,
    };
    if dice.once_in(8) {
        return (frame, facts);
    }
    let v6 = dice.once_in(3);
    let (src, dst) = (random_ip(dice, v6), random_ip(dice, v6));
    frame = if v6 { frame.ipv6() } else { frame.ipv4() }.from_ip(src).to_ip(dst);
    facts.ip = Some(if out { (src, dst) } else { (dst, src) });
    if v6 && dice.once_in(4) {
        frame = frame.extension(crate::frame::ext::DESTINATION, 8);
    }
    let port = |dice: &mut Dice| dice.pick(&[1u16, 2, 53, 54, 80, 99, 1000, 1100, 6001]);
    let (sport, dport) = (port(dice), port(dice));
    let seen = Some(if out { (sport, dport) } else { (dport, sport) });
    match dice.below(8) {
        0 => {
            facts.protocol = if v6 { 58 } else { 1 };
            let echo = crate::protocols::icmp::ECHO;
            frame = if v6 { frame.icmp6(crate::protocols::icmp::V6_ECHO, 0) } else { frame.icmp4(echo, 0) };
        }
        1 => {
            (facts.protocol, facts.later_fragment) = (dice.pick(&[6, 17]), true);
            frame = frame.fragment(1480, true).protocol(facts.protocol);
        }
        2 => {
            (facts.protocol, facts.ports) = (17, seen);
            frame = frame.fragment(0, true).udp(sport, dport);
        }
        3 | 4 => {
            (facts.protocol, facts.ports) = (6, seen);
            frame = frame.tcp(sport, dport);
        }
        5 => {
            facts.protocol = 47;
            frame = frame.protocol(47);
        }
        _ => {
            (facts.protocol, facts.ports) = (17, seen);
            frame = frame.udp(sport, dport);
        }
    }
    (frame, facts)
}

/// Numbers that something must have counted: between these bounds each, because of several entries that match equally
/// well the rule book does not say which one counts, and exactly this much together.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    bounds: BTreeMap<usize, [(u64, u64); 2]>,
    total: (u64, u64),
}

impl Counts {
    /// One of these entries counts so many packets and bytes.
    pub fn add(&mut self, one_of: &[usize], packets: u64, bytes: u64) {
        for &entry in one_of {
            let [least, most] = self.bounds.entry(entry).or_default();
            if one_of.len() == 1 {
                *least = (least.0 + packets, least.1 + bytes);
            }
            *most = (most.0 + packets, most.1 + bytes);
        }
        if !one_of.is_empty() {
            self.total = (self.total.0 + packets, self.total.1 + bytes);
        }
    }

    /// Compares with what `entries` (by their index) are said to have counted.
    #[track_caller]
    pub fn check(&self, what: &str, entries: impl Iterator<Item = (usize, (u64, u64))>) {
        let mut sum = (0, 0);
        for (entry, got) in entries {
            let [least, most] = self.bounds.get(&entry).copied().unwrap_or_default();
            let fits = least.0 <= got.0 && got.0 <= most.0 && least.1 <= got.1 && got.1 <= most.1;
            assert!(
                fits,
                "{what}: entry {entry} counted {got:?} (packets, bytes), expected {least:?} to {most:?}"
            );
            sum = (sum.0 + got.0, sum.1 + got.1);
        }
        assert_eq!(sum, self.total, "{what}: (packets, bytes) of all entries together");
    }
}

/// Finds the listed numbers (packets, bytes) of an entry in `acl list` or in the entries of `meter show`.
#[track_caller]
#[must_use]
pub fn listed(list: &Value, entry: &Entry) -> (u64, u64) {
    let text = |value: &Value| {
        value
            .as_str()
            .map(|text| text.trim_end_matches(if text.contains(':') { "/128" } else { "/32" }).to_owned())
    };
    let address = Some(entry.address_text());
    let found = list.as_array().and_then(|rows| {
        rows.iter().find(|row| {
            row["direction"] == entry.direction
                && row.get("action").is_none_or(|action| action == entry.action)
                && text(&row[entry.side]) == address
        })
    });
    let row = found.unwrap_or_else(|| panic!("no {entry:?} in {list}"));
    (row["packets"].as_u64().unwrap_or(0), row["bytes"].as_u64().unwrap_or(0))
}
