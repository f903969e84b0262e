//! Which tally numbers are in use: one for each ACL entry that counts and each rule, over all ports, and for each
//! reason that an enabled extension has to drop a frame.
//!
//! Numbers are stored with their entries, so what was counted survives a restart. The lowest free number is given first,
//! which keeps the file of counts small. A number is given back only when no snapshot names it any more and its counts are
//! cleared, so that an entry never begins with another one's counts.

use std::collections::BTreeSet;

use vswitch::Tally;
use vswitch::refusal::Refusal;

use super::list::Item;
use super::model::PortConfig;

/// Largest tally number.
pub const LIMIT: u32 = (1 << 20) - 1;

/// The numbers that are free.
#[derive(Clone, Debug)]
pub(super) struct Tallies {
    /// Free ones below `next`.
    free: BTreeSet<u32>,
    /// The first of those that were never given.
    next: u32,
}

impl Tallies {
    /// What the entries of `ports`, and extensions, leave free; an error names a number that is not valid or given twice.
    pub(super) fn of<'a>(
        ports: impl Iterator<Item = &'a PortConfig>,
        extensions: impl Iterator<Item = Tally>,
    ) -> Result<Self, String> {
        let mut used = BTreeSet::new();
        for Tally(number) in extensions {
            if !(1..=LIMIT).contains(&number) || !used.insert(number) {
                return Err(format!("extensions: counter {number} is out of range or given twice"));
            }
        }
        for port in ports {
            let entries = port.acl.items().map(|e| (e.counts(), e.tally()));
            let rules = port.rules.items().map(|r| (r.counts(), r.tally()));
            for (counts, Tally(number)) in entries.chain(rules) {
                if counts && !(1..=LIMIT).contains(&number) || !counts && number != 0 {
                    return Err(format!("port '{}': counter {number} is out of range", port.name));
                }
                if counts && !used.insert(number) {
                    return Err(format!("port '{}': counter {number} is given twice", port.name));
                }
            }
        }
        let next = used.last().map_or(1, |last| last + 1);
        Ok(Self { free: (1..next).filter(|number| !used.contains(number)).collect(), next })
    }

    /// Gives a number to each of `items` that counts; to all of them or to none.
    pub(super) fn give<I: Item>(&mut self, items: &mut [I]) -> Result<(), Refusal> {
        let wanted = items.iter().filter(|item| item.counts()).count();
        if self.free.len() + (LIMIT + 1 - self.next) as usize >= wanted {
            for item in items.iter_mut().filter(|item| item.counts()) {
                item.count_on(self.take());
            }
            return Ok(());
        }
        Err(Refusal::NoCounter { limit: LIMIT })
    }

    /// Gives one number.
    pub(super) fn give_one(&mut self) -> Result<Tally, Refusal> {
        if self.left() == 0 { Err(Refusal::NoCounter { limit: LIMIT }) } else { Ok(self.take()) }
    }

    /// The lowest one that is free; there must be one.
    fn take(&mut self) -> Tally {
        Tally(self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        }))
    }

    /// How many can still be given.
    pub(super) fn left(&self) -> u64 {
        self.free.len() as u64 + u64::from(LIMIT + 1 - self.next)
    }

    /// Takes a number back that nothing counts on and that is cleared.
    pub(super) fn take_back(&mut self, tally: Tally) {
        if tally != Tally::NONE {
            self.free.insert(tally.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use vswitch::port::acl::{Action, Address, Applies, Entry};

    use super::*;

    fn entries(count: usize, action: Action) -> Vec<Entry> {
        let direction = vswitch::Direction::In;
        let entry =
            Entry { direction, applies: Applies::Local, address: Address::Any, action, tally: Tally::NONE };
        vec![entry; count]
    }

    fn numbers(items: &[Entry]) -> Vec<u32> {
        items.iter().map(|e| e.tally.0).collect()
    }

    #[test]
    fn the_lowest_free_number_is_given_first_and_allow_entries_get_none() {
        let mut tallies = Tallies::of(std::iter::empty(), std::iter::empty()).unwrap();
        let mut five = entries(5, Action::Deny);
        five[1].action = Action::Allow;
        tallies.give(&mut five).unwrap();
        assert_eq!(numbers(&five), [1, 0, 2, 3, 4]);
        tallies.take_back(Tally(3));
        tallies.take_back(Tally(1));
        tallies.take_back(Tally::NONE);
        let mut three = entries(3, Action::Meter);
        tallies.give(&mut three).unwrap();
        assert_eq!(numbers(&three), [1, 3, 5]);
    }

    #[test]
    fn all_get_a_number_or_none_does() {
        let mut tallies = Tallies { free: BTreeSet::from([7]), next: LIMIT - 1 };
        let mut items = entries(4, Action::Deny);
        assert_eq!(tallies.give(&mut items), Err(Refusal::NoCounter { limit: LIMIT }));
        assert_eq!(numbers(&items), [0; 4]);
        tallies.give(&mut items[..3]).unwrap();
        assert_eq!(numbers(&items), [7, LIMIT - 1, LIMIT, 0]);
        assert!(tallies.give(&mut items[3..]).is_err());
    }
}
