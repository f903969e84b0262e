//! A port's lists: the entries of its ACL and its extended rules, sorted, unique and compiled once.
//!
//! A list never changes: a change makes a new one, which shares the items that stay, so that the old one can be put back and ten thousand
//! rules are neither copied nor compared to change one. Its table is compiled with it and
//! shared by every snapshot until the list changes; what a change of one port costs does not depend on the lists of others.

use std::fmt::Debug;
use std::sync::Arc;

use vswitch::Tally;
use vswitch::refusal::Refusal;

/// What a list is made of.
pub trait Item: Clone + PartialEq + Debug + Sized {
    /// What makes an item the same as another; lists are sorted by it.
    type Key: Ord;
    /// What the data path looks items up in.
    type Table: Default + Debug;
    /// Items of a list at most.
    const LIMIT: usize;
    /// What an item is called in a sentence: several, one with its article, and one without.
    const NOUN: [&'static str; 3];
    /// What to do about an item that exists already.
    const INSTEAD: &'static str;

    /// Its key.
    fn key(&self) -> Self::Key;
    /// Where it is counted, if it counts.
    fn tally(&self) -> Tally;
    /// Makes it count there; for an item that does not count, nothing.
    fn count_on(&mut self, tally: Tally);
    /// Whether it needs a tally.
    fn counts(&self) -> bool;
    /// It, for an operator; different for items with different keys, and its key in the store as well.
    fn text(&self) -> String;
    /// Compiles items.
    fn compile(items: &[Arc<Self>]) -> Self::Table;
    /// The table with few items gone and then few added, where that costs less than to compile all of them.
    fn edited(_table: &Self::Table, _gone: &[&Self], _added: &[&Self]) -> Option<Self::Table> {
        None
    }
}

/// Changed items up to which a table is edited instead of compiled.
const FEW: usize = 16;

/// A sorted list of items with different keys, and the table made of them.
#[derive(Debug)]
pub struct List<I: Item> {
    items: Vec<Arc<I>>,
    table: Arc<I::Table>,
}

impl<I: Item> Default for List<I> {
    fn default() -> Self {
        Self { items: Vec::new(), table: Arc::default() }
    }
}

/// The table follows from the items.
impl<I: Item> PartialEq for List<I> {
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}

impl<I: Item + Eq> Eq for List<I> {}

impl<I: Item> List<I> {
    /// A list of these items, in any order.
    pub fn new(items: Vec<I>) -> Result<Self, Refusal> {
        Self::default().with(items, false)
    }

    /// The items, by key.
    pub fn items(&self) -> impl ExactSizeIterator<Item = &I> {
        self.items.iter().map(|item| &**item)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What the data path looks them up in.
    pub fn table(&self) -> &Arc<I::Table> {
        &self.table
    }

    /// The item with this key.
    pub fn get(&self, key: &I::Key) -> Option<&I> {
        self.items.binary_search_by(|item| item.key().cmp(key)).ok().map(|at| &*self.items[at])
    }

    /// This list with `added` in it. With `replace`, an added item takes the place of one that has its key.
    pub fn with(&self, mut added: Vec<I>, replace: bool) -> Result<Self, Refusal> {
        let duplicate =
            |item: &I| Refusal::DuplicateEntry { what: I::NOUN[1], entry: item.text(), valid: I::INSTEAD };
        added.sort_by_key(I::key);
        let twice = added.windows(2).find_map(|pair| match pair {
            [a, b] if a.key() == b.key() => Some(a),
            _ => None,
        });
        if let Some(item) = twice {
            return Err(duplicate(item));
        }
        // Both are sorted, so that one walk over them is enough.
        let mut items = Vec::with_capacity(self.items.len() + added.len());
        let mut gone: Vec<&I> = Vec::new();
        let added: Vec<Arc<I>> = added.into_iter().map(Arc::new).collect();
        let mut old = self.items.as_slice();
        for item in &added {
            let key = item.key();
            let before = old.partition_point(|old| old.key() < key);
            items.extend_from_slice(&old[..before]);
            old = &old[before..];
            if let Some(same) = old.first().filter(|old| old.key() == key) {
                if !replace {
                    return Err(duplicate(same));
                }
                gone.push(same);
                old = &old[1..];
            }
            items.push(Arc::clone(item));
        }
        items.extend_from_slice(old);
        if items.len() > I::LIMIT {
            return Err(Refusal::TooManyEntries { what: I::NOUN[0], count: items.len(), limit: I::LIMIT });
        }
        Ok(self.followed_by(items, &gone, &added.iter().map(|item| &**item).collect::<Vec<_>>()))
    }

    /// This list without the items for which `removed` says so.
    #[must_use]
    pub fn without(&self, removed: impl Fn(&I) -> bool) -> Self {
        let (gone, rest): (Vec<Arc<I>>, Vec<Arc<I>>) =
            self.items.iter().cloned().partition(|item| removed(item));
        self.followed_by(rest, &gone.iter().map(|item| &**item).collect::<Vec<_>>(), &[])
    }

    /// The list of `items`, which are those of this one with `gone` gone and `added` added.
    fn followed_by(&self, items: Vec<Arc<I>>, gone: &[&I], added: &[&I]) -> Self {
        let few = !self.items.is_empty() && gone.len() + added.len() <= FEW;
        let edited = few.then(|| I::edited(&self.table, gone, added)).flatten();
        let table = Arc::new(edited.unwrap_or_else(|| I::compile(&items)));
        Self { items, table }
    }
}

/// What is in one of two lists only, or differs: gone from `old`, and new in `new`.
pub fn differences<'a, I: Item>(old: &'a List<I>, new: &'a List<I>) -> (Vec<&'a I>, Vec<&'a I>) {
    let (mut gone, mut added): (Vec<&I>, Vec<&I>) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.items.iter().peekable(), new.items.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) || a == b => {
                old.next();
                new.next();
            }
            (Some(a), b) if b.is_none_or(|b| a.key() <= b.key()) => {
                gone.extend(old.next().map(|item| &**item));
            }
            (_, Some(_)) => added.extend(new.next().map(|item| &**item)),
            (_, None) => return (gone, added),
        }
    }
}
