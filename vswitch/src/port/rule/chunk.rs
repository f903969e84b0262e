//! A piece of a rule table: rules in their order, and what it takes to find the first that matches without
//! looking at each.
//!
//! Every field of a rule is a range of small numbers here. Ports are that already; addresses become the
//! number of the interval they lie in ([`Intervals`]), of either family; networks become their place in a
//! list; and [`Kind`] folds protocol, and what a rule with ports says about packets without, into one more.
//! So a packet is looked up once per field, and what remains is the same comparison for all rules, without a
//! branch, on arrays that the compiler turns into vector instructions. What a look-up costs at most depends
//! on the number of rules alone: no choice of rules or packets makes it slower.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{Action, Rule, Tuple};
use crate::Segment;
use crate::port::intervals::{Intervals, Span};

/// Rules that are compared together.
const LANES: usize = 64;

/// At most [`Chunk::MAX`] rules of one direction.
#[derive(Debug)]
pub(super) struct Chunk {
    /// By descending weight.
    rules: Vec<Rule>,
    local: Addresses,
    remote: Addresses,
    /// The networks that rules are about, ascending.
    segments: Vec<Segment>,
    /// The rules again, in the same order.
    blocks: Vec<Block>,
}

impl Chunk {
    /// Most rules in one piece. More make look-ups a little faster and changes slower.
    pub(super) const MAX: usize = 1024;

    /// Compiles at most [`Self::MAX`] rules, sorted by descending weight.
    pub(super) fn new(rules: &[&Rule]) -> Self {
        let (local, locals) = Addresses::new(rules.iter().map(|rule| rule.local));
        let (remote, remotes) = Addresses::new(rules.iter().map(|rule| rule.remote));
        let mut segments: Vec<Segment> = rules.iter().filter_map(|rule| rule.isolation).collect();
        segments.sort_unstable();
        segments.dedup();
        let mut blocks = vec![Block::default(); rules.len().div_ceil(LANES)];
        let spans = locals.into_iter().zip(remotes);
        for (at, (rule, (local, remote))) in rules.iter().zip(spans).enumerate() {
            let Some(block) = blocks.get_mut(at / LANES) else { break };
            let lane = at % LANES;
            block.local.set(lane, local);
            block.remote.set(lane, remote);
            block.kind.set(lane, Kind::of(rule));
            block.local_port.set(lane, ports(rule.local_ports.as_ref()));
            block.remote_port.set(lane, ports(rule.remote_ports.as_ref()));
            let segment = rule.isolation.map(|segment| place(&segments, segment));
            block.segment.set(lane, segment.map_or(ANY, |place| place..=place));
        }
        Self { rules: rules.iter().map(|&rule| rule.clone()).collect(), local, remote, segments, blocks }
    }

    /// The rules by descending weight.
    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The smallest weight in it.
    pub(super) fn lightest(&self) -> u32 {
        self.rules.last().map_or(0, |rule| rule.weight)
    }

    /// The rule with this weight.
    pub(super) fn get(&self, weight: u32) -> Option<&Rule> {
        let at = self.rules.partition_point(|rule| rule.weight > weight);
        self.rules.get(at).filter(|rule| rule.weight == weight)
    }

    /// Whether a rule admits replies.
    pub(super) fn has_stateful(&self) -> bool {
        self.rules.iter().any(|rule| rule.stateful.is_some())
    }

    /// The heaviest rule that matches.
    pub(super) fn judge(&self, tuple: &Tuple) -> Option<&Rule> {
        let kind = Kind::seen(tuple);
        // Where ports are not seen, the kind says already which rules match.
        let ports = tuple.ports.filter(|_| Kind::has_ports(kind));
        let segment = (!self.segments.is_empty()).then(|| place(&self.segments, tuple.segment));
        let (local, remote) = (self.local.find(tuple.local), self.remote.find(tuple.remote));
        for (block, rules) in self.blocks.iter().zip(self.rules.chunks(LANES)) {
            let mut misses = [0; LANES];
            block.remote.compare(remote, &mut misses);
            block.local.compare(local, &mut misses);
            block.kind.compare(kind, &mut misses);
            if !any_zero(&misses) {
                continue;
            }
            if let Some((local, remote)) = ports {
                block.local_port.compare(local, &mut misses);
                block.remote_port.compare(remote, &mut misses);
            }
            if let Some(segment) = segment {
                block.segment.compare(segment, &mut misses);
            }
            if any_zero(&misses) {
                return misses.iter().position(|&miss| miss == 0).and_then(|lane| rules.get(lane));
            }
        }
        None
    }
}

/// The range that everything is in.
const ANY: RangeInclusive<u16> = 0..=u16::MAX;

/// Ports as a range; a range without ports may be anything, since [`Kind`] keeps its rule from matching.
fn ports(ports: Option<&RangeInclusive<u16>>) -> RangeInclusive<u16> {
    ports.filter(|ports| !ports.is_empty()).cloned().unwrap_or(ANY)
}

/// A network's place in the list, or a number that no place has.
fn place(segments: &[Segment], segment: Segment) -> u16 {
    segments.binary_search(&segment).map_or(u16::MAX, |place| place as u16)
}

/// One field of [`LANES`] rules: which numbers match, as the first and how many follow.
#[derive(Clone, Debug)]
struct Lanes {
    first: [u16; LANES],
    more: [u16; LANES],
}

impl Default for Lanes {
    /// Ranges that hold [`Kind::NEVER`] only.
    fn default() -> Self {
        Self { first: [Kind::NEVER; LANES], more: [0; LANES] }
    }
}

impl Lanes {
    fn set(&mut self, lane: usize, range: RangeInclusive<u16>) {
        if let (Some(first), Some(more)) = (self.first.get_mut(lane), self.more.get_mut(lane)) {
            *first = *range.start();
            *more = range.end().wrapping_sub(*range.start());
        }
    }

    /// Leaves 0 where it was 0 and the rule's range holds the number.
    #[inline]
    fn compare(&self, number: u16, misses: &mut [u16; LANES]) {
        for ((miss, &first), &more) in misses.iter_mut().zip(&self.first).zip(&self.more) {
            *miss |= number.wrapping_sub(first).saturating_sub(more);
        }
    }
}

/// Whether any number is 0, all being looked at: that is quicker than to stop at the first.
#[inline]
fn any_zero(numbers: &[u16; LANES]) -> bool {
    numbers.iter().fold(0, |any, &number| any | u16::from(number == 0)) != 0
}

/// The fields of [`LANES`] rules; lanes without a rule match nothing.
#[derive(Clone, Debug, Default)]
struct Block {
    remote: Lanes,
    local: Lanes,
    kind: Lanes,
    local_port: Lanes,
    remote_port: Lanes,
    segment: Lanes,
}

/// Protocol and visibility of ports as one number, in such an order that whatever a rule may ask for is a
/// range: TCP with hidden ports, TCP, UDP, UDP with hidden ports, then every other protocol.
struct Kind;

impl Kind {
    const TCP_HIDDEN: u16 = 0;
    const TCP: u16 = 1;
    const UDP: u16 = 2;
    const UDP_HIDDEN: u16 = 3;
    const OTHER: u16 = 4;
    const LAST: u16 = Self::OTHER + u8::MAX as u16;
    /// What no packet is.
    const NEVER: u16 = u16::MAX;

    /// What a packet is.
    fn seen(tuple: &Tuple) -> u16 {
        let hidden = tuple.later_fragment || tuple.ports.is_none();
        match (tuple.protocol, hidden) {
            (6, true) => Self::TCP_HIDDEN,
            (6, false) => Self::TCP,
            (17, false) => Self::UDP,
            (17, true) => Self::UDP_HIDDEN,
            (protocol, _) => Self::OTHER + u16::from(protocol),
        }
    }

    /// Whether packets of a kind have ports to compare.
    fn has_ports(kind: u16) -> bool {
        kind == Self::TCP || kind == Self::UDP
    }

    /// What a rule matches.
    fn of(rule: &Rule) -> RangeInclusive<u16> {
        let named = [&rule.local_ports, &rule.remote_ports];
        if named.into_iter().flatten().any(RangeInclusive::is_empty) {
            return Self::NEVER..=Self::NEVER;
        }
        let names_ports = named.into_iter().any(Option::is_some);
        let hidden = !names_ports || rule.action == Action::Deny;
        let tcp = if hidden { Self::TCP_HIDDEN } else { Self::TCP };
        let udp = if hidden { Self::UDP_HIDDEN } else { Self::UDP };
        match rule.protocol {
            None if names_ports => tcp..=udp,
            None => tcp..=Self::LAST,
            Some(6) => tcp..=Self::TCP,
            Some(17) => Self::UDP..=udp,
            Some(_) if names_ports => Self::NEVER..=Self::NEVER,
            Some(protocol) => {
                let kind = Self::OTHER + u16::from(protocol);
                kind..=kind
            }
        }
    }
}

/// The addresses that rules name for one end, both families numbered in one row: IPv4 first.
#[derive(Debug)]
struct Addresses {
    ipv4: Intervals<u32>,
    ipv6: Intervals<u128>,
}

impl Addresses {
    /// Numbers the addresses, and says which numbers each rule's prefix covers.
    fn new(prefixes: impl Iterator<Item = Option<IpNet>>) -> (Self, Vec<RangeInclusive<u16>>) {
        let prefixes: Vec<Option<IpNet>> = prefixes.collect();
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for prefix in prefixes.iter().flatten() {
            match prefix {
                IpNet::V4(net) => ipv4.push((net.network().into(), net.prefix_len())),
                IpNet::V6(net) => ipv6.push((net.network().into(), net.prefix_len())),
            }
        }
        let ((ipv4, spans4), (ipv6, spans6)) = (Intervals::new(&ipv4), Intervals::new(&ipv6));
        let (mut spans4, mut spans6) = (spans4.into_iter(), spans6.into_iter());
        let before = ipv4.count();
        let range = |span: Option<Span>, before: usize| {
            let (first, last) = span.unwrap_or_default();
            (before + first as usize) as u16..=(before + last as usize) as u16
        };
        let ranges = prefixes.iter().map(|prefix| match prefix {
            None => ANY,
            Some(IpNet::V4(_)) => range(spans4.next(), 0),
            Some(IpNet::V6(_)) => range(spans6.next(), before),
        });
        let ranges = ranges.collect();
        (Self { ipv4, ipv6 }, ranges)
    }

    #[inline]
    fn find(&self, ip: IpAddr) -> u16 {
        match ip {
            IpAddr::V4(ip) => self.ipv4.find(ip.into()) as u16,
            IpAddr::V6(ip) => (self.ipv4.count() + self.ipv6.find(ip.into())) as u16,
        }
    }
}
