//! Entries of a port's ACL between their texts and what the data path follows (section 7 of the semantics).

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vswitch::port::acl::{Action, Address, Applies, Entry, Table};
use vswitch::refusal::Refusal;
use vswitch::{Direction, Mac, Tally};

use super::check;
use super::list::{Item, List};
use super::types::AclSpec;

/// A port's ACL.
pub type Acl = List<Entry>;

/// Entries of a port's ACL at most.
pub const LIMIT: usize = 4096;

/// Direction, local before remote, kind and value of the address, and whether it is a meter: allow and deny are one class,
/// in which an address can be only once.
pub type Key = (Direction, bool, u8, Option<Mac>, Option<IpNet>, bool);

impl Item for Entry {
    type Key = Key;
    type Table = Table;
    const LIMIT: usize = LIMIT;
    const NOUN: [&'static str; 3] = ["ACL entries", "an ACL entry", "ACL entry"];
    const INSTEAD: &'static str = "another address, or 'turnpike acl remove' that one first";

    fn key(&self) -> Key {
        let (kind, mac, net) = match self.address {
            Address::Any => (0, None, None),
            Address::AnyMac => (1, None, None),
            Address::Mac(mac) => (2, Some(mac), None),
            Address::Ip(net) => (3, None, Some(net)),
        };
        (self.direction, self.applies == Applies::Remote, kind, mac, net, self.action == Action::Meter)
    }

    fn tally(&self) -> Tally {
        self.tally
    }

    fn count_on(&mut self, tally: Tally) {
        self.tally = tally;
    }

    fn counts(&self) -> bool {
        self.action != Action::Allow
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn compile(items: &[Arc<Self>]) -> Table {
        Table::new(&items.iter().map(|entry| **entry).collect::<Vec<_>>())
    }
}

/// The one or two entries that a specification stands for; they count nowhere yet.
pub fn entries(spec: &AclSpec) -> Result<Vec<Entry>, Refusal> {
    let action = match spec.action.as_str() {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        "meter" => Action::Meter,
        other => return Err(Refusal::BadAction { value: other.into(), valid: "allow, deny or meter" }),
    };
    let directions = match spec.direction.as_str() {
        "in" => &[Direction::In][..],
        "out" => &[Direction::Out],
        "both" => &[Direction::Out, Direction::In],
        other => return Err(Refusal::BadDirection { value: other.into(), valid: "in, out or both" }),
    };
    let (applies, text) = match (&spec.local, &spec.remote) {
        (Some(text), None) => (Applies::Local, text),
        (None, Some(text)) => (Applies::Remote, text),
        (local, _) => return Err(Refusal::LocalOrRemote { both: local.is_some() }),
    };
    let address = check::address(text)?;
    let entry = |&direction| Entry { direction, applies, address, action, tally: Tally::NONE };
    Ok(directions.iter().map(entry).collect())
}

/// What stands for an entry.
pub fn spec(entry: &Entry) -> AclSpec {
    let address = Some(entry.address.to_string());
    let (local, remote) = match entry.applies {
        Applies::Local => (address, None),
        Applies::Remote => (None, address),
    };
    AclSpec { action: entry.action.to_string(), direction: entry.direction.to_string(), local, remote }
}

/// An entry as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    entry: AclSpec,
    tally: Tally,
}

impl From<&Entry> for Row {
    fn from(entry: &Entry) -> Self {
        Self { entry: spec(entry), tally: entry.tally }
    }
}

impl Row {
    /// The entry, judged as one from outside would be.
    pub fn judge(&self) -> Result<Entry, Refusal> {
        let mut entries = entries(&self.entry)?;
        match (entries.pop(), entries.is_empty()) {
            (Some(entry), true) => Ok(Entry { tally: self.tally, ..entry }),
            _ => Err(Refusal::BadDirection { value: self.entry.direction.clone(), valid: "in or out" }),
        }
    }
}
