//! Changes of a port's ACL and of its extended rules.
//!
//! Adding takes any number of entries, all or nothing. An entry that counts gets its tally number when it is added and
//! keeps it, over restarts too, until it is removed; one that is replaced is a new one and begins at zero.

use std::sync::Arc;

use vswitch::Tally;
use vswitch::event::Event;
use vswitch::port::PortKind;
use vswitch::port::acl::Entry;
use vswitch::port::rule::Rule;
use vswitch::refusal::{Object, Refusal, Refused};

use super::list::{self, Item, List};
use super::model::PortConfig;
use super::types::{AclSpec, AclView, RuleKey, RuleSpec, RuleView};
use super::{Switch, acl, rule};
use crate::spec::EventSink;

/// Changed entries that an event names one by one.
const NAMED: usize = 8;

impl Switch {
    /// Adds entries to a port's ACL; returns what was added.
    pub fn add_acl(&mut self, name: &str, specs: &[AclSpec]) -> Result<Vec<AclView>, Refused> {
        let result = self.check_lists(name, "acl").map_err(|why| why.of(Object::Port(name.to_owned())));
        let result = result.and_then(|config| {
            let added = judge(name, "ACL entry", specs, acl::entries)?.into_iter().flatten().collect();
            let list = |config: &PortConfig, added| config.acl.with(added, false);
            let put = |config: &mut PortConfig, list| config.acl = list;
            self.add_items(config, added, list, put).map_err(|why| why.of(Object::Port(name.to_owned())))
        });
        let added = self.told(result)?;
        Ok(added.iter().map(|entry| self.acl_view(entry)).collect())
    }

    /// Removes what a specification stands for from a port's ACL.
    pub fn remove_acl(&mut self, name: &str, spec: &AclSpec) -> Result<(), Refused> {
        let result = self.check_lists(name, "acl").and_then(|config| {
            let wanted = acl::entries(spec)?;
            for entry in &wanted {
                if config.acl.get(&entry.key()).is_none_or(|found| found.action != entry.action) {
                    let list = format!("turnpike acl list {name}");
                    return Err(Refusal::NoSuchEntry { what: Entry::NOUN[2], entry: entry.text(), list });
                }
            }
            let keys: Vec<_> = wanted.iter().map(Item::key).collect();
            let acl = Arc::new(config.acl.without(|entry| keys.contains(&entry.key())));
            self.replace_lists(&PortConfig { acl, ..config })
        });
        self.noted(result, || Object::Port(name.to_owned()))
    }

    /// A port's ACL with what its entries counted.
    pub fn list_acl(&self, name: &str) -> Result<Vec<AclView>, Refused> {
        let entry = self.entry(name).map_err(|why| why.of(Object::Port(name.to_owned())))?;
        Ok(entry.config.acl.items().map(|entry| self.acl_view(entry)).collect())
    }

    /// Adds rules to a port; returns what was added. With `replace`, each takes the place of the rule with its direction
    /// and weight, if there is one.
    pub fn add_rules(
        &mut self,
        name: &str,
        specs: &[RuleSpec],
        replace: bool,
    ) -> Result<Vec<RuleView>, Refused> {
        let result = self.check_lists(name, "rules").map_err(|why| why.of(Object::Port(name.to_owned())));
        let result = result.and_then(|config| {
            let added = judge(name, "rule", specs, rule::rule)?;
            let list = |config: &PortConfig, added| config.rules.with(added, replace);
            let put = |config: &mut PortConfig, list| config.rules = list;
            self.add_items(config, added, list, put).map_err(|why| why.of(Object::Port(name.to_owned())))
        });
        let added = self.told(result)?;
        Ok(added.iter().map(|rule| self.rule_view(rule)).collect())
    }

    /// Removes a rule of a port.
    pub fn remove_rule(&mut self, name: &str, key: &RuleKey) -> Result<(), Refused> {
        let result = self.check_lists(name, "rules").and_then(|config| {
            let key = rule::key(key)?;
            if config.rules.get(&key).is_none() {
                let (list, entry) = (format!("turnpike rule list {name}"), rule::key_text(&key));
                return Err(Refusal::NoSuchEntry { what: Rule::NOUN[2], entry, list });
            }
            let rules = Arc::new(config.rules.without(|rule| rule.key() == key));
            self.replace_lists(&PortConfig { rules, ..config })
        });
        self.noted(result, || Object::Port(name.to_owned()))
    }

    /// A port's rules, in the order in which they are asked, with what they counted.
    pub fn list_rules(&self, name: &str) -> Result<Vec<RuleView>, Refused> {
        let entry = self.entry(name).map_err(|why| why.of(Object::Port(name.to_owned())))?;
        Ok(entry.config.rules.items().map(|rule| self.rule_view(rule)).collect())
    }

    /// A port's configuration, if it is one that has lists.
    fn check_lists(&self, name: &str, setting: &'static str) -> Result<PortConfig, Refusal> {
        if self.data.is_none() {
            return Err(Refusal::Stopping);
        }
        let config = &self.entry(name)?.config;
        if config.device.kind() == PortKind::Uplink {
            let valid = "only guest ports and host ports have it";
            return Err(Refusal::NotApplicable { setting, kind: PortKind::Uplink, valid });
        }
        Ok(config.clone())
    }

    /// Gives numbers to the new items and puts the list with them in force.
    fn add_items<I: Item>(
        &mut self,
        mut config: PortConfig,
        mut added: Vec<I>,
        list: impl Fn(&PortConfig, Vec<I>) -> Result<List<I>, Refusal>,
        put: impl Fn(&mut PortConfig, Arc<List<I>>),
    ) -> Result<Vec<I>, Refusal> {
        self.tallies.give(&mut added)?;
        let result =
            self.make_room(added.iter().map(Item::tally)).and_then(|()| list(&config, added.clone()));
        let result = result.and_then(|list| {
            put(&mut config, Arc::new(list));
            self.replace_lists(&config)
        });
        if let Err(why) = result {
            self.release(added.iter().map(Item::tally));
            return Err(why);
        }
        Ok(added)
    }

    /// Puts a configuration with other lists in force; numbers that nobody uses any more become free.
    fn replace_lists(&mut self, new: &PortConfig) -> Result<(), Refusal> {
        let old = self.replace(new)?;
        let (gone_entries, new_entries) = list::differences(&*old.acl, &*new.acl);
        let (gone_rules, new_rules) = list::differences(&*old.rules, &*new.rules);
        let mut changes = words("acl", &gone_entries, &new_entries);
        changes.extend(words("rule", &gone_rules, &new_rules));
        self.events.emit(Event::PortChanged { port: new.id, changes });
        let entries = gone_entries.iter().map(|entry| entry.tally());
        self.release(entries.chain(gone_rules.iter().map(|rule| rule.tally())));
        Ok(())
    }

    /// Makes sure that there is room for what is counted on these numbers; must be before a snapshot names them.
    pub(super) fn make_room(&self, mut tallies: impl Iterator<Item = Tally>) -> Result<(), Refusal> {
        let Some(data) = &self.data else { return Err(Refusal::Stopping) };
        tallies
            .try_for_each(|tally| data.ensure_tally(tally))
            .map_err(|e| Refusal::System { what: "room for what is counted".into(), reason: e.to_string() })
    }

    /// Makes numbers free that are in no published snapshot.
    pub(super) fn release(&mut self, tallies: impl Iterator<Item = Tally>) {
        for tally in tallies.filter(|tally| *tally != Tally::NONE) {
            if let Some(data) = &self.data {
                data.clear_tally(tally);
            }
            self.tallies.take_back(tally);
        }
    }

    fn counted(&self, tally: Tally) -> (u64, u64) {
        self.data.as_ref().map_or((0, 0), |data| data.tally(tally))
    }

    fn acl_view(&self, entry: &Entry) -> AclView {
        let AclSpec { action, direction, local, remote } = acl::spec(entry);
        let counted = entry.counts().then(|| self.counted(entry.tally));
        let (packets, bytes) = (counted.map(|c| c.0), counted.map(|c| c.1));
        AclView { action, direction, local, remote, packets, bytes }
    }

    fn rule_view(&self, rule: &Rule) -> RuleView {
        let spec = rule::spec(rule);
        let (packets, bytes) = self.counted(rule.tally);
        RuleView {
            action: spec.action,
            direction: spec.direction,
            weight: rule.weight,
            local: spec.local,
            remote: spec.remote,
            local_port: spec.local_port,
            remote_port: spec.remote_port,
            protocol: spec.protocol,
            stateful: spec.stateful,
            idle_timeout: spec.idle_timeout,
            isolation_id: rule.isolation.map(|segment| segment.0),
            packets,
            bytes,
        }
    }
}

/// Judges specifications; the refusal of one among several says which one it is.
pub(super) fn judge<S, I>(
    port: &str,
    what: &'static str,
    specs: &[S],
    one: impl Fn(&S) -> Result<I, Refusal>,
) -> Result<Vec<I>, Refused> {
    let object = |position| {
        if specs.len() == 1 {
            Object::Port(port.to_owned())
        } else {
            Object::Element { port: port.into(), what, position }
        }
    };
    let judged = (1..).zip(specs).map(|(position, spec)| one(spec).map_err(|why| why.of(object(position))));
    judged.collect()
}

/// What an event says about a changed list.
fn words<I: Item>(list: &str, gone: &[&I], added: &[&I]) -> Vec<String> {
    if gone.len() + added.len() > NAMED {
        return vec![format!("{list}: {} removed, {} added", gone.len(), added.len())];
    }
    let gone = gone.iter().map(|item| format!("{list}-={}", item.text()));
    gone.chain(added.iter().map(|item| format!("{list}+={}", item.text()))).collect()
}
