//! Extended rules: who may talk to whom, by address, port, protocol and network, in an order of their own.
//!
//! The heaviest rule that matches a packet decides, and a packet that none matches passes. A field that a
//! rule leaves out matches everything, with care where ports are concerned:
//!
//! * Only TCP and UDP have ports; no other packet ever matches a rule that names some.
//! * Ports that cannot be seen (later fragments) match a rule that denies, whatever ports it names, and no
//!   rule that allows. So nothing reaches a guest because half of it was hidden.
//! * A range without a port in it makes a rule that never matches.
//!
//! An IPv4 address written as an IPv6 one (`::ffff:a.b.c.d`) is an IPv6 address.
//!
//! A [`Table`] is immutable and may be used from any thread. It is made of pieces of at most 1,024 rules that
//! tables share: a table that differs by one rule costs one piece, however many rules there are
//! ([`Table::replaced`], [`Table::without`]).

mod chunk;

use std::cmp::Reverse;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;

use self::chunk::Chunk;
use crate::{Direction, Nanos, Segment, Tally};

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The packet passes.
    Allow,
    /// The packet is dropped.
    Deny,
}

/// One rule; a field that is `None` matches everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The direction it is evaluated in.
    pub direction: Direction,
    /// Rules of a direction are asked in descending order of weight; weights are unique in a direction.
    pub weight: u32,
    /// What it does.
    pub action: Action,
    /// The guest's address.
    pub local: Option<IpNet>,
    /// Its peer's address.
    pub remote: Option<IpNet>,
    /// The guest's TCP or UDP ports.
    pub local_ports: Option<RangeInclusive<u16>>,
    /// Its peer's.
    pub remote_ports: Option<RangeInclusive<u16>>,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// Allow only: the reverse direction passes too, until nothing passed for this long.
    pub stateful: Option<Nanos>,
    /// The one VLAN or virtual subnet it is about.
    pub isolation: Option<Segment>,
    /// Where its hits are counted.
    pub tally: Tally,
}

/// What rules look at, seen from the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// The guest's address.
    pub local: IpAddr,
    /// Its peer's address.
    pub remote: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// TCP or UDP ports (local, remote), where they can be seen.
    pub ports: Option<(u16, u16)>,
    /// A fragment other than the first: its ports cannot be seen.
    pub later_fragment: bool,
    /// The network it is in.
    pub segment: Segment,
}

/// A port's compiled rules.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// By descending weight; never an empty one.
    out: Vec<Arc<Chunk>>,
    inward: Vec<Arc<Chunk>>,
    stateful: bool,
}

/// How rules are spread over pieces does not matter.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.rules().eq(other.rules())
    }
}

impl Eq for Table {}

impl Table {
    /// Compiles rules. Of several with the same direction and weight the first listed is asked first.
    pub fn new(rules: &[Rule]) -> Self {
        let of = |direction| {
            let of_it = rules.iter().enumerate().filter(|(_, rule)| rule.direction == direction);
            let mut order: Vec<_> = of_it.map(|(index, rule)| (Reverse(rule.weight), index)).collect();
            order.sort_unstable();
            let order: Vec<&Rule> = order.into_iter().filter_map(|(_, index)| rules.get(index)).collect();
            compile(&order)
        };
        Self::of(of(Direction::Out), of(Direction::In))
    }

    fn of(out: Vec<Arc<Chunk>>, inward: Vec<Arc<Chunk>>) -> Self {
        let stateful = out.iter().chain(&inward).any(|chunk| chunk.has_stateful());
        Self { out, inward, stateful }
    }

    /// The same table with this rule in the place of that with its direction and weight, or added if there is
    /// none.
    #[must_use]
    pub fn replaced(&self, rule: &Rule) -> Self {
        self.edited(rule.direction, rule.weight, Some(rule))
    }

    /// The same table without the rule of that direction and weight; `None` if there is none.
    pub fn without(&self, direction: Direction, weight: u32) -> Option<Self> {
        self.get(direction, weight).map(|_| self.edited(direction, weight, None))
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty() && self.inward.is_empty()
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.out.iter().chain(&self.inward).map(|chunk| chunk.rules().len()).sum()
    }

    /// The rules: those for what the guest sends, then those for what it receives, each by descending weight.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.out.iter().chain(&self.inward).flat_map(|chunk| chunk.rules())
    }

    /// Whether a rule of any direction admits replies.
    pub fn has_stateful(&self) -> bool {
        self.stateful
    }

    /// The rule of a direction that has this weight.
    pub fn get(&self, direction: Direction, weight: u32) -> Option<&Rule> {
        let chunks = self.chunks(direction);
        chunks.get(holder(chunks, weight))?.get(weight)
    }

    /// The rule that decides about a packet; without one it passes.
    #[inline]
    pub fn judge(&self, direction: Direction, tuple: &Tuple) -> Option<&Rule> {
        self.chunks(direction).iter().find_map(|chunk| chunk.judge(tuple))
    }

    fn chunks(&self, direction: Direction) -> &[Arc<Chunk>] {
        match direction {
            Direction::Out => &self.out,
            Direction::In => &self.inward,
        }
    }

    /// Takes the rule of that weight out and puts `rule` in.
    fn edited(&self, direction: Direction, weight: u32, rule: Option<&Rule>) -> Self {
        let chunks = self.chunks(direction);
        // A rule lighter than all goes into the last piece.
        let at = holder(chunks, weight).min(chunks.len().saturating_sub(1));
        let mut end = chunks.len().min(at + 1);
        let mut rules: Vec<&Rule> = chunks.get(at).into_iter().flat_map(|chunk| chunk.rules()).collect();
        let heavier = rules.partition_point(|other| other.weight > weight);
        let same = rules.iter().skip(heavier).take_while(|other| other.weight == weight).count();
        rules.splice(heavier..heavier + same, rule);
        // Pieces that shrank are joined again: many small ones would make every look-up slow.
        if rules.len() < Chunk::MAX / 4
            && let Some(next) = chunks.get(end)
        {
            rules.extend(next.rules());
            end += 1;
        }
        let mut edited = chunks.to_vec();
        edited.splice(at..end, compile(&rules));
        match direction {
            Direction::Out => Self::of(edited, self.inward.clone()),
            Direction::In => Self::of(self.out.clone(), edited),
        }
    }
}

/// The piece in which a rule of this weight is if there is one, or their number if it were lighter than all.
fn holder(chunks: &[Arc<Chunk>], weight: u32) -> usize {
    chunks.partition_point(|chunk| chunk.lightest() > weight)
}

/// Spreads rules, sorted by descending weight, over as few pieces as will do, equally large ones.
fn compile(rules: &[&Rule]) -> Vec<Arc<Chunk>> {
    let pieces = rules.len().div_ceil(Chunk::MAX).max(1);
    let size = rules.len().div_ceil(pieces).max(1);
    rules.chunks(size).map(|rules| Arc::new(Chunk::new(rules))).collect()
}
