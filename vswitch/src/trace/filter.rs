//! Which frames somebody wants to see: a small language of tests, compiled once and asked about the first bytes of frames.
//!
//! ```text
//! [src|dst] host ADDRESS[/LENGTH]     an IP address or prefix, also in ARP
//! ether [src|dst] host MAC            an Ethernet address
//! [src|dst] port N[-M]                a port of TCP or UDP
//! vlan [ID]                           the outermost tag; without ID, any (0 is a priority tag)
//! proto NAME|N                        tcp, udp, icmp, icmpv6, igmp, or a protocol's number
//! tcp | udp | icmp | icmpv6 | igmp    the same without the word
//! ip | ip6 | arp                      the ethertype
//! not T   T and T   T or T   ( T )    also ! && ||
//! ```
//!
//! `not` binds to the one test behind it. `and` and `or` next to each other need parentheses: tools disagree about which binds closer, and
//! whoever reads the wrong frames believes them. An empty expression is true of every frame.
//!
//! Headers are read as policy reads them ([`Headers`]); what policy would call malformed has no addresses, protocol or ports. A frame has two
//! sides, so `host A` is true if either is A, and `not host A` if neither is.
//!
//! Bounded: [`LONGEST`] bytes, [`DEEPEST`] parentheses within each other; asking allocates nothing.

use std::fmt;
use std::iter::Peekable;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::vec::IntoIter;

use ipnet::IpNet;

use crate::Mac;
use crate::frame::arp::Arp;
use crate::frame::ethernet::{self, ethertype};
use crate::frame::headers::Headers;
use crate::frame::protocol;

/// Longest expression, in bytes.
pub const LONGEST: usize = 4096;

/// Most `(` and `not` within each other.
pub const DEEPEST: usize = 32;

/// Names of protocols.
const PROTOCOLS: [(&str, u8); 5] = [
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("icmp", protocol::ICMP),
    ("icmpv6", protocol::ICMPV6),
    ("igmp", protocol::IGMP),
];

/// Names of ethertypes.
const TYPES: [(&str, u16); 3] = [("ip", ethertype::IPV4), ("ip6", ethertype::IPV6), ("arp", ethertype::ARP)];

const TEST: &str =
    "host, src, dst, ether, port, vlan, proto, tcp, udp, icmp, icmpv6, igmp, ip, ip6, arp, not or (";

/// A compiled expression.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Filter {
    /// `None` = every frame.
    root: Option<Node>,
}

/// Why an expression is none: the word that does not fit, and what would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{word}' does not fit there; valid: {valid}")]
pub struct FilterError {
    /// The word; empty = the expression ends too early.
    pub word: String,
    /// What would be valid in its place.
    pub valid: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Test),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Host(Side, IpNet),
    Ether(Side, Mac),
    Port(Side, RangeInclusive<u16>),
    Vlan(Option<u16>),
    Protocol(u8),
    Type(u16),
}

/// Which of a frame's two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
    Either,
}

impl Side {
    fn is<T>(self, source: T, destination: T, test: impl Fn(T) -> bool) -> bool {
        match self {
            Self::Source => test(source),
            Self::Destination => test(destination),
            Self::Either => test(source) || test(destination),
        }
    }
}

/// What is known of a frame, worked out once for all tests.
struct Seen {
    outer: ethernet::Outer,
    headers: Option<Headers>,
    arp: Option<Arp>,
}

impl Filter {
    /// Compiles an expression.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > LONGEST {
            let word = text.chars().take(20).collect();
            return Err(FilterError { word, valid: format!("an expression of at most {LONGEST} bytes") });
        }
        let mut words = Words { left: words(text).into_iter().peekable() };
        if words.left.peek().is_none() {
            return Ok(Self::default());
        }
        let root = words.expression(0)?;
        match words.left.next() {
            None => Ok(Self { root: Some(root) }),
            Some(word) => Err(wrong(&word, "and, or, or the end")),
        }
    }

    /// Whether it is true of every frame.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Whether it is true of a frame: its first bytes `head` (all of it, or at least [`crate::HEAD_LEN`]) and its whole length in bytes. What
    /// is no frame is only seen by those who ask for every one.
    pub fn matches(&self, head: &[u8], len: u32) -> bool {
        let Some(root) = &self.root else { return true };
        let Ok(outer) = ethernet::check(head, len) else { return false };
        let headers = Headers::parse(head, len).ok();
        let arp = headers
            .as_ref()
            .filter(|h| matches!(h.ethertype, ethertype::ARP | ethertype::RARP))
            .and_then(|h| Arp::parse(head.get(h.payload..)?));
        root.is_true(&Seen { outer, headers, arp })
    }
}

impl Node {
    fn is_true(&self, seen: &Seen) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.is_true(seen)),
            Self::Any(nodes) => nodes.iter().any(|node| node.is_true(seen)),
            Self::Not(node) => !node.is_true(seen),
            Self::Test(test) => test.is_true(seen),
        }
    }
}

impl Test {
    fn is_true(&self, seen: &Seen) -> bool {
        let ip = seen.headers.and_then(|headers| headers.ip);
        match self {
            Self::Host(side, net) => {
                let hosts = match (ip, seen.arp) {
                    (Some(ip), _) => (ip.src, ip.dst),
                    (None, Some(arp)) => (IpAddr::V4(arp.sender), IpAddr::V4(arp.target)),
                    (None, None) => return false,
                };
                side.is(hosts.0, hosts.1, |address| net.contains(&address))
            }
            Self::Ether(side, mac) => side.is(seen.outer.src, seen.outer.dst, |address| address == *mac),
            Self::Port(side, ports) => ip.and_then(|ip| ip.ports).is_some_and(|(source, destination)| {
                side.is(source, destination, |port| ports.contains(&port))
            }),
            Self::Vlan(id) => seen.outer.tag.is_some_and(|tag| id.is_none_or(|id| id == tag)),
            Self::Protocol(number) => ip.is_some_and(|ip| ip.protocol == *number),
            Self::Type(number) => seen.headers.is_some_and(|headers| headers.ethertype == *number),
        }
    }
}

/// The words of an expression; parentheses and signs need no white space around them.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut rest = text.chars().peekable();
    let end = |word: &mut String, words: &mut Vec<String>| {
        if !word.is_empty() {
            words.push(std::mem::take(word));
        }
    };
    while let Some(c) = rest.next() {
        match c {
            '(' | ')' | '!' => {
                end(&mut word, &mut words);
                words.push(c.to_string());
            }
            '&' | '|' if rest.peek() == Some(&c) => {
                rest.next();
                end(&mut word, &mut words);
                words.push(String::from_iter([c, c]));
            }
            c if c.is_whitespace() => end(&mut word, &mut words),
            c => word.push(c),
        }
    }
    end(&mut word, &mut words);
    words
}

fn wrong(word: &str, valid: impl fmt::Display) -> FilterError {
    FilterError { word: word.chars().take(60).collect(), valid: valid.to_string() }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Join {
    And,
    Or,
}

fn join(word: &str) -> Option<Join> {
    match word {
        "and" | "&&" => Some(Join::And),
        "or" | "||" => Some(Join::Or),
        _ => None,
    }
}

struct Words {
    left: Peekable<IntoIter<String>>,
}

impl Words {
    fn next(&mut self, valid: &str) -> Result<String, FilterError> {
        self.left.next().ok_or_else(|| wrong("", valid))
    }

    fn expression(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut nodes = vec![self.term(depth)?];
        let mut by = None;
        while let Some(join) = self.left.peek().and_then(|word| join(word)) {
            let word = self.next(TEST)?;
            if by.is_some_and(|by| by != join) {
                return Err(wrong(&word, "parentheses around what belongs together, as in (A and B) or C"));
            }
            by = Some(join);
            nodes.push(self.term(depth)?);
        }
        Ok(match by {
            None => nodes.remove(0),
            Some(Join::And) => Node::All(nodes),
            Some(Join::Or) => Node::Any(nodes),
        })
    }

    fn term(&mut self, depth: usize) -> Result<Node, FilterError> {
        let word = self.next(TEST)?;
        let nested = word == "(" || word == "not" || word == "!";
        if nested && depth == DEEPEST {
            return Err(wrong(&word, format!("at most {DEEPEST} '(' and 'not' within each other")));
        }
        match word.as_str() {
            "(" => {
                let node = self.expression(depth + 1)?;
                match self.next(")")?.as_str() {
                    ")" => Ok(node),
                    other => Err(wrong(other, "and, or, or )")),
                }
            }
            "not" | "!" => Ok(Node::Not(Box::new(self.term(depth + 1)?))),
            _ => self.test(&word).map(Node::Test),
        }
    }

    fn test(&mut self, word: &str) -> Result<Test, FilterError> {
        match word {
            "host" => self.host(Side::Either),
            "port" => self.port(Side::Either),
            "src" | "dst" => {
                let side = side(word);
                match self.next("host or port")?.as_str() {
                    "host" => self.host(side),
                    "port" => self.port(side),
                    other => Err(wrong(other, "host or port")),
                }
            }
            "ether" => {
                let valid = "host, src host or dst host";
                let mut next = self.next(valid)?;
                let side = side(&next);
                if side != Side::Either {
                    next = self.next("host")?;
                }
                if next != "host" {
                    return Err(wrong(&next, if side == Side::Either { valid } else { "host" }));
                }
                let valid = "six hexadecimal bytes such as 52:54:00:12:34:56";
                let text = self.next(valid)?;
                text.parse().map(|mac| Test::Ether(side, mac)).map_err(|_| wrong(&text, valid))
            }
            "vlan" => {
                let digit = |text: &String| text.starts_with(|c: char| c.is_ascii_digit());
                let Some(text) = self.left.next_if(digit) else { return Ok(Test::Vlan(None)) };
                let id = text.parse().ok().filter(|id| *id <= 4094);
                id.map(|id| Test::Vlan(Some(id))).ok_or_else(|| wrong(&text, "0 (priority tag) to 4094"))
            }
            "proto" => {
                let valid = "tcp, udp, icmp, icmpv6, igmp, or 0 to 255";
                let text = self.next(valid)?;
                let number = known(&PROTOCOLS, &text).or_else(|| text.parse().ok());
                number.map(Test::Protocol).ok_or_else(|| wrong(&text, valid))
            }
            _ => known(&PROTOCOLS, word)
                .map(Test::Protocol)
                .or_else(|| known(&TYPES, word).map(Test::Type))
                .ok_or_else(|| wrong(word, TEST)),
        }
    }

    fn host(&mut self, side: Side) -> Result<Test, FilterError> {
        let valid = "an IPv4 or IPv6 address or prefix such as 10.0.0.5 or fd00::/8";
        let text = self.next(valid)?;
        let net = text.parse().or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)));
        net.map(|net: IpNet| Test::Host(side, net)).map_err(|_| wrong(&text, valid))
    }

    fn port(&mut self, side: Side) -> Result<Test, FilterError> {
        let valid = "a port or a range such as 443 or 8000-8099";
        let text = self.next(valid)?;
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Test::Port(side, first..=last)),
            _ => Err(wrong(&text, valid)),
        }
    }
}

fn side(word: &str) -> Side {
    match word {
        "src" => Side::Source,
        "dst" => Side::Destination,
        _ => Side::Either,
    }
}

fn known<T: Copy>(list: &[(&str, T)], word: &str) -> Option<T> {
    list.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.as_ref().map_or(Ok(()), |root| root.fmt(f))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, nodes: &[Self], join: &str| {
            for (place, node) in nodes.iter().enumerate() {
                f.write_str(if place == 0 { "" } else { join })?;
                match node {
                    Self::All(_) | Self::Any(_) => write!(f, "({node})")?,
                    _ => node.fmt(f)?,
                }
            }
            Ok(())
        };
        match self {
            Self::All(nodes) => list(f, nodes, " and "),
            Self::Any(nodes) => list(f, nodes, " or "),
            Self::Not(node) if matches!(**node, Self::All(_) | Self::Any(_)) => write!(f, "not ({node})"),
            Self::Not(node) => write!(f, "not {node}"),
            Self::Test(test) => test.fmt(f),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(side, net) => write!(f, "{side}host {net}"),
            Self::Ether(side, mac) => write!(f, "ether {side}host {mac}"),
            Self::Port(side, ports) => write!(f, "{side}port {}-{}", ports.start(), ports.end()),
            Self::Vlan(None) => f.write_str("vlan"),
            Self::Vlan(Some(id)) => write!(f, "vlan {id}"),
            Self::Protocol(number) => write!(f, "proto {number}"),
            Self::Type(number) => {
                f.write_str(TYPES.iter().find(|(_, n)| n == number).map_or("", |(name, _)| name))
            }
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "src ",
            Self::Destination => "dst ",
            Self::Either => "",
        })
    }
}
