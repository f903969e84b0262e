//! What this host itself has to say of records, and is already in force here: where its guests are.
//!
//! It is written sooner or later, also when the store is away now, and of one record in the order in which it was said. Until it is written,
//! what the store says of the same record is older, or is about to be refused: it is kept back, because it would undo here what has
//! happened. What was kept back is applied when the change is written and the other one is not older, or when the change was refused.
//!
//! No I/O.

use std::collections::{HashMap, HashSet, VecDeque};

use vswitch::nv::model::Record;

use crate::control::nv::object::{Change, Key, RecordKey};
use crate::store::policy::RecordChange;

/// Changes that are on their way at once.
const TOGETHER: usize = 64;

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in the store as of this revision.
    Written(i64),
    /// The store is not to be reached: again when it is.
    Lost,
    /// Somebody else made something else of it.
    Refused,
}

#[derive(Debug)]
struct Said {
    number: u64,
    changes: Vec<Change>,
    is_on_its_way: bool,
}

/// What is not written yet.
#[derive(Debug, Default)]
pub(super) struct Carried {
    said: VecDeque<Said>,
    last: u64,
    /// How many changes there are of each record.
    keys: HashMap<RecordKey, usize>,
    /// What the store said meanwhile, and as of when.
    behind: HashMap<RecordKey, (i64, Option<Record>)>,
}

impl Carried {
    /// These are to be written together.
    pub(super) fn say(&mut self, changes: Vec<Change>) {
        self.last += 1;
        records(&changes).for_each(|key| *self.keys.entry(key).or_default() += 1);
        self.said.push_back(Said { number: self.last, changes, is_on_its_way: false });
    }

    /// What can be written now, with its number; it is on its way from now on. What is of a record that something earlier is of waits.
    pub(super) fn next(&mut self) -> Vec<(u64, Vec<Change>)> {
        let mut room = TOGETHER.saturating_sub(self.said.iter().filter(|said| said.is_on_its_way).count());
        let (mut earlier, mut next): (HashSet<RecordKey>, _) = (HashSet::new(), Vec::new());
        for said in &mut self.said {
            if room == 0 {
                break;
            }
            let is_free = records(&said.changes).all(|key| !earlier.contains(&key));
            earlier.extend(records(&said.changes));
            if is_free && !said.is_on_its_way {
                said.is_on_its_way = true;
                next.push((said.number, said.changes.clone()));
                room -= 1;
            }
        }
        next
    }

    /// Nothing is on its way any more.
    pub(super) fn disconnected(&mut self) {
        self.said.iter_mut().for_each(|said| said.is_on_its_way = false);
    }

    /// This came of what has the number; what the store said meanwhile and holds.
    pub(super) fn ended(&mut self, number: u64, outcome: Outcome) -> Vec<RecordChange> {
        let Some(place) = self.said.iter().position(|said| said.number == number) else { return Vec::new() };
        if outcome == Outcome::Lost {
            self.said[place].is_on_its_way = false;
            return Vec::new();
        }
        let Some(said) = self.said.remove(place) else { return Vec::new() };
        let mut holds = Vec::new();
        for key in records(&said.changes) {
            let left = self.keys.get_mut(&key).map_or(0, |count| {
                *count -= 1;
                *count
            });
            let newer = |behind: &(i64, Option<Record>)| match outcome {
                Outcome::Written(revision) => behind.0 >= revision,
                _ => true,
            };
            if left == 0 {
                self.keys.remove(&key);
                holds.extend(self.behind.remove(&key).filter(newer).map(|(_, record)| (key, record)));
            } else if self.behind.get(&key).is_some_and(|behind| !newer(behind)) {
                self.behind.remove(&key);
            }
        }
        holds
    }

    /// The store says this of a record as of `revision`; whether it is kept back.
    pub(super) fn keeps_back(&mut self, key: RecordKey, record: Option<Record>, revision: i64) -> bool {
        let is_said = self.keys.contains_key(&key);
        if is_said && self.behind.get(&key).is_none_or(|(known, _)| *known <= revision) {
            self.behind.insert(key, (revision, record));
        }
        is_said
    }
}

fn records(changes: &[Change]) -> impl Iterator<Item = RecordKey> {
    changes.iter().filter_map(|change| match change.key {
        Key::Record(key) => Some(key),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use vswitch::Mac;
    use vswitch::nv::model::{Encap, Kind};

    use super::*;
    use crate::control::nv::object::Object;

    fn record(n: u8, pa: u8, next: Option<u8>) -> Record {
        let (ca, pa) = ([10, 1, 0, n].into(), [192, 168, 1, pa].into());
        let (mac, next) = (Mac([2, 0, 0, 0, 0, n]), next.map(|next| [192, 168, 1, next].into()));
        Record { vsid: 5001, ca, mac, pa, kind: Kind::Static, encap: Encap::Nvgre, rewrite_pa: None, next }
    }

    fn change(before: Record, after: Record) -> Vec<Change> {
        vec![Change::replace(Object::Record(before), Object::Record(after))]
    }

    fn numbers(next: Vec<(u64, Vec<Change>)>) -> Vec<u64> {
        next.into_iter().map(|(number, _)| number).collect()
    }

    /// A guest that is announced and arrives, and another one.
    fn carried() -> Carried {
        let mut it = Carried::default();
        it.say(change(record(1, 1, None), record(1, 1, Some(2))));
        it.say(change(record(1, 1, Some(2)), record(1, 2, None)));
        it.say(change(record(2, 1, None), record(2, 2, None)));
        it
    }

    #[test]
    fn s20_5_what_is_said_of_one_record_is_written_in_its_order() {
        let mut it = carried();
        assert_eq!(numbers(it.next()), [1, 3]);
        assert_eq!(numbers(it.next()), [0; 0]);
        it.ended(3, Outcome::Written(10));
        assert_eq!(numbers(it.next()), [0; 0]);
        it.ended(1, Outcome::Lost);
        assert_eq!(numbers(it.next()), [1], "not the later one, although that is not on its way");
        it.ended(1, Outcome::Written(11));
        assert_eq!(numbers(it.next()), [2]);
        it.disconnected();
        assert_eq!(numbers(it.next()), [2], "nobody knows whether it was written");
        it.ended(2, Outcome::Refused);
        assert!(it.next().is_empty() && it.keys.is_empty());
    }

    #[test]
    fn s20_5_what_the_store_says_meanwhile_does_not_bring_a_guest_back_to_where_it_was() {
        let (mut it, key) = (carried(), RecordKey::of(&record(1, 1, None)));
        it.next();
        assert!(!it.keeps_back(RecordKey::of(&record(9, 1, None)), None, 9), "nothing is said of that one");
        assert!(it.keeps_back(key, Some(record(1, 1, Some(2))), 10), "the echo of the first");
        assert_eq!(it.ended(1, Outcome::Written(10)), []);
        it.next();
        assert_eq!(it.ended(2, Outcome::Written(11)), []);
        assert!(!it.keeps_back(key, Some(record(1, 2, None)), 11));
        assert!(it.behind.is_empty());
    }

    #[test]
    fn s20_5_what_somebody_else_makes_of_a_record_holds_when_it_is_newer_or_this_host_was_refused() {
        let elsewhere = record(1, 3, None);
        let key = RecordKey::of(&elsewhere);
        for (outcome, holds) in
            [(Outcome::Written(12), false), (Outcome::Written(10), true), (Outcome::Refused, true)]
        {
            let mut it = Carried::default();
            it.say(change(record(1, 1, None), record(1, 2, None)));
            it.next();
            assert!(it.keeps_back(key, Some(elsewhere), 11));
            assert!(it.keeps_back(key, Some(record(1, 1, None)), 9), "an older answer to a look-up");
            let expected: Vec<RecordChange> = holds.then_some((key, Some(elsewhere))).into_iter().collect();
            assert_eq!(it.ended(1, outcome), expected, "{outcome:?}");
            assert!(it.behind.is_empty());
        }
    }
}
