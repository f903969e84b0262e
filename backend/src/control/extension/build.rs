//! Instances and their stack, made from what is listed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use vswitch::Direction;
use vswitch::Tally;
use vswitch::extension::stack::MOST_REASONS;
use vswitch::extension::{Change, Extension, FailMode, Kind, Slot, Stack, StackError};
use vswitch::refusal::{Object, Refusal, Refused};

use super::ask;
use super::model::{Listed, Listing};
use super::{Extensions, Running, steps};
use crate::control::model::Settings;
use crate::control::tallies::Tallies;
use crate::control::{Entry, Switch};

/// What stands in for an extension that could not be started. It has failed from the beginning, so nothing of it is ever called; that it
/// judges is what ends frames if it is to fail closed.
#[derive(Debug)]
struct StandIn {
    kind: Kind,
    closed: bool,
}

impl Extension for StandIn {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn judges(&self, _: Direction) -> bool {
        self.closed
    }
}

impl Extensions {
    /// The instances of a list: those that run already with the same configuration as they are, the others new. Puts the list into the order of the
    /// stack, and gives numbers to reasons that have none.
    pub(in crate::control) fn build(
        &self,
        listed: &mut Listed,
        tallies: &mut Tallies,
    ) -> Result<Self, Refused> {
        let mut running = Vec::new();
        for mut listing in std::mem::take(&mut listed.enabled) {
            let about = Object::Extension(listing.name.clone());
            let there = self.running.iter().find(|one| one.listing.is_same(&listing));
            let slot = if let Some(there) = there {
                listing.kind = there.listing.kind;
                listing.tallies.clone_from(&there.listing.tallies);
                there.slot.clone()
            } else {
                let started = self.library.start(&listing.name, &listing.config, &listing.limits);
                let counted =
                    started.and_then(|instance| Ok((count(&mut listing, &*instance, tallies)?, instance)));
                let (counts, instance) = counted.map_err(|why| why.of(about))?;
                Slot::new(&listing.name, instance, listing.fail, &counts)
            };
            running.push(Running { listing, slot });
        }
        self.stacked(listed, running)
    }

    fn stacked(&self, listed: &mut Listed, mut running: Vec<Running>) -> Result<Self, Refused> {
        running.sort_by_key(|one| one.listing.kind);
        listed.enabled = running.iter().map(|one| one.listing.clone()).collect();
        let slots = running.iter().map(|one| one.slot.clone()).collect();
        let stack = Stack::new(slots).map_err(|why| {
            let is_here = |name: &String| self.running.iter().any(|one| one.listing.name == *name);
            let why = match why {
                // Who came last is the one that is too many, wherever it would stand.
                StackError::TwoForwarding(a, b) if is_here(&a) && !is_here(&b) => {
                    StackError::TwoForwarding(b, a)
                }
                why => why,
            };
            let name = match &why {
                StackError::TwoForwarding(name, _)
                | StackError::TooMany(name)
                | StackError::TooManyReasons(name, _) => name.clone(),
            };
            Refusal::ExtensionStack(why).of(Object::Extension(name))
        })?;
        Ok(Self { library: self.library.clone(), running, stack: Arc::new(stack) })
    }

    /// The instances of these that are in `other` as well.
    pub(super) fn shared_with(&self, other: &Self) -> Vec<Slot> {
        let is_in = |slot: &&Slot| other.slots().iter().any(|there| same(slot, there));
        self.slots().iter().filter(is_in).cloned().collect()
    }

    /// The instances of these that are not in `other`.
    pub(super) fn not_in(&self, other: &Self) -> Vec<Slot> {
        let is_in = |slot: &&Slot| other.slots().iter().any(|there| same(slot, there));
        self.slots().iter().filter(|slot| !is_in(slot)).cloned().collect()
    }
}

fn same(a: &Slot, b: &Slot) -> bool {
    Arc::ptr_eq(a.instance(), b.instance())
}

/// The numbers on which the reasons of an instance are counted, in their order. A reason that had one keeps it; what the instance has no reason
/// for any more goes out of the list.
fn count(
    listing: &mut Listing,
    instance: &dyn Extension,
    tallies: &mut Tallies,
) -> Result<Vec<Tally>, Refusal> {
    let reasons = instance.reasons();
    if reasons.len() > MOST_REASONS {
        let why = StackError::TooManyReasons(listing.name.clone(), reasons.len());
        return Err(Refusal::ExtensionStack(why));
    }
    let mut before = std::mem::take(&mut listing.tallies);
    let mut counts = Vec::new();
    for reason in reasons {
        let tally = match before.remove(*reason).or_else(|| listing.tallies.get(*reason).copied()) {
            Some(tally) => tally,
            None => tallies.give_one()?,
        };
        listing.tallies.insert((*reason).to_owned(), tally);
        counts.push(tally);
    }
    listing.kind = instance.kind();
    Ok(counts)
}

/// Tells new instances of everything that exists, and gives them their settings; then they know what one does that was there from the beginning.
pub(super) fn introduce(
    slots: &[Slot],
    settings: &Settings,
    ports: &BTreeMap<String, Entry>,
) -> Result<(), ask::Vetoed> {
    let mut messages = steps::switch(&Settings::default(), settings);
    let own: Vec<_> = messages.extract_if(.., |step| matches!(step, steps::Step::Set { .. })).collect();
    for Entry { config, mtu, connected, .. } in ports.values() {
        messages.extend(steps::created(config, *mtu));
        if connected.is_some() {
            messages.push(Change::NicConnect { port: config.id }.into());
        }
    }
    messages.extend(own);
    messages.extend(ports.values().flat_map(|entry| steps::own(&entry.config)));
    for slot in slots {
        ask::ask(std::slice::from_ref(slot), messages.clone())?.done();
    }
    Ok(())
}

impl Switch {
    /// Starts what is listed, when the switch starts. What cannot be started is stood in for. Whether the list changed, so that it is to be
    /// stored.
    pub(in crate::control) fn start_extensions(&mut self) -> Result<bool, Refused> {
        let mut listed = self.settings.extensions.clone();
        let mut running = Vec::new();
        for listing in &listed.enabled {
            let one = match self.start_listed(listing) {
                Ok(one) => one,
                Err(why) => Running { listing: listing.clone(), slot: stand_in(listing, &why) },
            };
            running.push(one);
        }
        self.extensions = self.extensions.stacked(&mut listed, running)?;
        let kept: HashSet<Tally> = listed.tallies().collect();
        for tally in self.settings.extensions.tallies().filter(|tally| !kept.contains(tally)) {
            self.tallies.take_back(tally);
        }
        let is_other = listed != self.settings.extensions;
        self.settings.extensions = listed;
        Ok(is_other)
    }

    fn start_listed(&mut self, listing: &Listing) -> Result<Running, Refusal> {
        let instance = self.extensions.library.start(&listing.name, &listing.config, &listing.limits)?;
        if instance.kind() != listing.kind {
            let reason = format!("it is a {} now, and was enabled as a {}", instance.kind(), listing.kind);
            return Err(Refusal::ExtensionStart { reason });
        }
        // Those whose reasons are numbered now, and that are refused nevertheless, do not get numbers.
        let (mut listing, mut tallies) = (listing.clone(), self.tallies.clone());
        let counts = count(&mut listing, &*instance, &mut tallies)?;
        let slot = Slot::new(&listing.name, instance, listing.fail, &counts);
        introduce(std::slice::from_ref(&slot), &self.settings, &self.ports)?;
        self.tallies = tallies;
        Ok(Running { listing, slot })
    }
}

fn stand_in(listing: &Listing, why: &Refusal) -> Slot {
    let instance = StandIn { kind: listing.kind, closed: listing.fail == FailMode::Closed };
    let slot = Slot::new(&listing.name, Arc::new(instance), listing.fail, &[]);
    slot.fail(format!("it could not be started: {why}"));
    slot
}
