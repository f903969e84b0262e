//! What outlives the process: the switch's settings and ports, in one embedded database file.
//!
//! Every change is durable when its function returns. The file is locked for as long as it is open, so two switches cannot
//! share a state directory. A file that cannot be read is a refusal at start; it is never repaired by forgetting.

#[cfg(feature = "etcd")]
pub mod etcd;
mod objects;
pub mod policy;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{
    Database, DatabaseError, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition,
    TableError,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vswitch::refusal::{Object as About, Refusal, Refused};

use crate::control::list::{self, Item, List};
use crate::control::model::{PortConfig, Settings};
use crate::control::nv::object::{Change, Key, Object};
use crate::control::{acl, rule};

/// Name of the file in the state directory.
pub const FILE: &str = "turnpike.redb";

/// Version of what is stored. Grows when an older program could not read it correctly.
///
/// 1: ports without lists. 2: rows of ACL entries and rules beside the ports, which an older program would not see. 3: objects of network
/// virtualization, which keep tenants apart. 4: extensions, which filter.
const FORMAT: u32 = 4;

/// `format` (a number) and `switch` (settings), each as JSON.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Port name → configuration as JSON.
const PORTS: TableDefinition<&str, &[u8]> = TableDefinition::new("ports");

/// Port name and the entry's text → ACL entry as JSON.
const ACLS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("acls");
/// Port name and the rule's text → rule as JSON.
const RULES: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("rules");

/// Name of an object of network virtualization, as in `networks/blue` → object as JSON.
const NV: TableDefinition<&str, &[u8]> = TableDefinition::new("nv");

/// The same of what hosts share in another store, as it was last known of that: a cache, which may be behind.
const KNOWN: TableDefinition<&str, &[u8]> = TableDefinition::new("nv-known");

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Saved {
    /// Switch-wide settings.
    pub settings: Settings,
    /// Ports and uplinks.
    pub ports: Vec<PortConfig>,
    /// Objects of network virtualization.
    pub nv: Vec<Object>,
}

/// An open store, or none (`--state-dir none`).
#[derive(Debug)]
pub struct Store(Backing);

#[derive(Debug)]
enum Backing {
    None,
    File(Database),
    /// Another process has it: why.
    Lost(String),
    /// A full disk.
    #[cfg(test)]
    Failing,
}

impl Store {
    /// A store that keeps nothing.
    pub fn none() -> Self {
        Self(Backing::None)
    }

    /// A store that another process has; every change is refused for this reason.
    pub fn lost(reason: String) -> Self {
        Self(Backing::Lost(reason))
    }

    /// A store that refuses every change.
    #[cfg(test)]
    pub(crate) fn failing() -> Self {
        Self(Backing::Failing)
    }

    /// Opens the store in `directory`, which is created if missing.
    pub fn open(directory: &Path) -> Result<(Self, Saved), Refused> {
        let unusable = |reason: String| {
            Refusal::StateUnusable { reason }.of(About::State(directory.to_string_lossy().into_owned()))
        };
        std::fs::create_dir_all(directory)
            .map_err(|e| unusable(format!("cannot be created: {}", words(&e))))?;
        let path: PathBuf = directory.join(FILE);
        let object = || About::State(path.to_string_lossy().into_owned());
        let database = Database::create(&path).map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => Refusal::StateInUse.of(object()),
            DatabaseError::Storage(redb::StorageError::Io(e))
                if e.kind() != std::io::ErrorKind::InvalidData =>
            {
                unusable(format!("'{FILE}' cannot be opened: {}", words(&e)))
            }
            e => Refusal::StateCorrupt { reason: e.to_string() }.of(object()),
        })?;
        let saved = load(&database).map_err(|why| why.of(object()))?;
        Ok((Self(Backing::File(database)), saved))
    }

    /// Makes the store hold the settings, if given, and for each pair the second port in the place of the first: `None`
    /// first for a new port, `None` second for a removed one. All of it or nothing, in one transaction; of a port's lists
    /// only what differs is written.
    pub fn put(
        &self,
        settings: Option<&Settings>,
        ports: &[(Option<&PortConfig>, Option<&PortConfig>)],
    ) -> Result<(), Refusal> {
        self.put_all(settings, ports, &[])
    }

    /// The same with changes of network virtualization.
    pub fn put_all(
        &self,
        settings: Option<&Settings>,
        ports: &[(Option<&PortConfig>, Option<&PortConfig>)],
        nv: &[Change],
    ) -> Result<(), Refusal> {
        match &self.0 {
            Backing::None => Ok(()),
            Backing::File(database) => put(database, settings, ports, nv),
            Backing::Lost(reason) => Err(reason.clone()),
            #[cfg(test)]
            Backing::Failing => Err("no space left on device".into()),
        }
        .map_err(|reason| Refusal::StoreFailed { reason })
    }
}

impl Store {
    /// Remembers what is known of a store that hosts share: objects as they are now, or that there is none of a key.
    pub fn remember(&self, known: &[(Key, Option<Object>)]) -> Result<(), Refusal> {
        let Backing::File(database) = &self.0 else { return Ok(()) };
        let change = || -> Result<(), Box<dyn std::error::Error>> {
            let transaction = database.begin_write()?;
            let mut table = transaction.open_table(KNOWN)?;
            for (key, object) in known {
                let key = objects::text(key);
                match object {
                    Some(object) => drop(table.insert(key.as_str(), objects::value(object).as_slice())?),
                    None => drop(table.remove(key.as_str())?),
                }
            }
            drop(table);
            transaction.commit()?;
            Ok(())
        };
        change().map_err(|e| Refusal::StoreFailed { reason: e.to_string() })
    }

    /// What was remembered. What of it cannot be read is left out: the store that it was known of has it.
    pub fn remembered(&self) -> Vec<Object> {
        let Backing::File(database) = &self.0 else { return Vec::new() };
        let read = || -> Result<Vec<Object>, Box<dyn std::error::Error>> {
            let mut known = Vec::new();
            for row in database.begin_read()?.open_table(KNOWN)?.iter()? {
                let (key, bytes) = row?;
                let object = objects::key(key.value()).map(|key| objects::object(&key, bytes.value()));
                known.extend(object.and_then(Result::ok));
            }
            Ok(known)
        };
        read().unwrap_or_else(|e| {
            log::debug!("nothing is remembered of the policy store: {e}");
            Vec::new()
        })
    }
}

fn put(
    database: &Database,
    settings: Option<&Settings>,
    ports: &[(Option<&PortConfig>, Option<&PortConfig>)],
    nv: &[Change],
) -> Result<(), String> {
    let change = || -> Result<(), Box<dyn std::error::Error>> {
        let transaction = database.begin_write()?;
        {
            if let Some(settings) = settings {
                transaction.open_table(META)?.insert("switch", serde_json::to_vec(settings)?.as_slice())?;
            }
            let mut configs = transaction.open_table(PORTS)?;
            let mut acls = transaction.open_table(ACLS)?;
            let mut rules = transaction.open_table(RULES)?;
            // First everything that goes, so that a number or name can be given anew in the same change.
            for (old, new) in ports {
                if let (Some(old), None) = (old, new) {
                    configs.remove(old.name.as_str())?;
                }
            }
            for (old, new) in ports {
                let Some(name) = old.or(*new).map(|p| p.name.as_str()) else { continue };
                if let Some(new) = new {
                    configs.insert(name, serde_json::to_vec(new)?.as_slice())?;
                }
                let (old_acl, new_acl) = (old.map(|p| &*p.acl), new.map(|p| &*p.acl));
                put_list::<_, acl::Row>(&mut acls, name, old_acl, new_acl)?;
                let (old_rules, new_rules) = (old.map(|p| &*p.rules), new.map(|p| &*p.rules));
                put_list::<_, rule::Row>(&mut rules, name, old_rules, new_rules)?;
            }
            if !nv.is_empty() {
                let mut table = transaction.open_table(NV)?;
                for change in nv {
                    let key = objects::text(&change.key);
                    match &change.after {
                        Some(object) => drop(table.insert(key.as_str(), objects::value(object).as_slice())?),
                        None => drop(table.remove(key.as_str())?),
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    };
    change().map_err(|e| e.to_string())
}

/// Writes what differs between two lists of port `name`.
fn put_list<I: Item, Row: Serialize + for<'a> From<&'a I>>(
    table: &mut Table<'_, (&'static str, &'static str), &'static [u8]>,
    name: &str,
    old: Option<&List<I>>,
    new: Option<&List<I>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let nothing = List::default();
    let (gone, added) = list::differences(old.unwrap_or(&nothing), new.unwrap_or(&nothing));
    for item in gone {
        table.remove((name, item.text().as_str()))?;
    }
    for item in added {
        let row = serde_json::to_vec(&Row::from(item))?;
        table.insert((name, item.text().as_str()), row.as_slice())?;
    }
    Ok(())
}

/// A system error without the number that `std` appends.
fn words(e: &std::io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn load(database: &Database) -> Result<Saved, Refusal> {
    let corrupt = |e: redb::Error| Refusal::StateCorrupt { reason: e.to_string() };
    let transaction = database.begin_read().map_err(|e| corrupt(e.into()))?;
    let meta = match transaction.open_table(META) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => {
            put_format(database)?;
            return Ok(Saved::default());
        }
        Err(e) => return Err(corrupt(e.into())),
    };
    let field = |key| meta.get(key).map_err(|e| corrupt(e.into()));
    let format: u32 = match field("format")? {
        Some(bytes) => parse("format", bytes.value())?,
        None => return Err(Refusal::StateCorrupt { reason: "it has no format number".into() }),
    };
    if !(1..=FORMAT).contains(&format) {
        return Err(Refusal::StateVersion { found: format, known: FORMAT });
    }
    let settings =
        field("switch")?.map(|bytes| parse("switch", bytes.value())).transpose()?.unwrap_or_default();
    let mut ports: Vec<PortConfig> = Vec::new();
    if let Some(table) = existing(transaction.open_table(PORTS))? {
        for row in table.iter().map_err(|e| corrupt(e.into()))? {
            let (name, bytes) = row.map_err(|e| corrupt(e.into()))?;
            ports.push(parse(&format!("port '{}'", name.value()), bytes.value())?);
        }
    }
    let mut acls = rows(existing(transaction.open_table(ACLS))?, acl::Row::judge)?;
    let mut rules = rows(existing(transaction.open_table(RULES))?, rule::Row::judge)?;
    for port in &mut ports {
        let damaged = |why: Refusal| Refusal::StateCorrupt { reason: format!("port '{}': {why}", port.name) };
        port.acl = Arc::new(List::new(acls.remove(&port.name).unwrap_or_default()).map_err(damaged)?);
        port.rules = Arc::new(List::new(rules.remove(&port.name).unwrap_or_default()).map_err(damaged)?);
    }
    if let Some(name) = acls.into_keys().chain(rules.into_keys()).next() {
        let reason = format!("there are entries of port '{name}', which does not exist");
        return Err(Refusal::StateCorrupt { reason });
    }
    let mut ids = HashSet::new();
    for port in &ports {
        port.judge().map_err(|reason| Refusal::StateCorrupt { reason })?;
        if !ids.insert(port.id) {
            let reason = format!("port '{}': number {} is given twice", port.name, port.id);
            return Err(Refusal::StateCorrupt { reason });
        }
    }
    let mut nv = Vec::new();
    if let Some(table) = existing(transaction.open_table(NV))? {
        for row in table.iter().map_err(|e| corrupt(e.into()))? {
            let (key, bytes) = row.map_err(|e| corrupt(e.into()))?;
            let damaged =
                |reason: String| Refusal::StateCorrupt { reason: format!("{}: {reason}", key.value()) };
            let named = objects::key(key.value()).ok_or_else(|| damaged("there is no such key".into()))?;
            nv.push(objects::object(&named, bytes.value()).map_err(damaged)?);
        }
    }
    if format < FORMAT {
        drop((meta, transaction));
        put_format(database)?;
    }
    Ok(Saved { settings, ports, nv })
}

/// Marks the store as one of this version.
fn put_format(database: &Database) -> Result<(), Refusal> {
    let change = || -> Result<(), Box<dyn std::error::Error>> {
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert("format", serde_json::to_vec(&FORMAT)?.as_slice())?;
        transaction.commit()?;
        Ok(())
    };
    change().map_err(|e| Refusal::StoreFailed { reason: e.to_string() })
}

/// A table, if it has been written to.
fn existing<T>(opened: Result<T, TableError>) -> Result<Option<T>, Refusal> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(Refusal::StateCorrupt { reason: e.to_string() }),
    }
}

/// The items of all ports' lists, by port.
fn rows<I, Row: DeserializeOwned>(
    table: Option<ReadOnlyTable<(&'static str, &'static str), &'static [u8]>>,
    judge: impl Fn(&Row) -> Result<I, Refusal>,
) -> Result<BTreeMap<String, Vec<I>>, Refusal> {
    let mut all: BTreeMap<String, Vec<I>> = BTreeMap::new();
    let Some(table) = table else { return Ok(all) };
    let corrupt = |e: redb::StorageError| Refusal::StateCorrupt { reason: e.to_string() };
    for row in table.iter().map_err(corrupt)? {
        let (key, bytes) = row.map_err(corrupt)?;
        let (port, item) = key.value();
        let what = format!("port '{port}', {item}");
        let item = judge(&parse(&what, bytes.value())?)
            .map_err(|why| Refusal::StateCorrupt { reason: format!("{what}: {why}") })?;
        all.entry(port.to_owned()).or_default().push(item);
    }
    Ok(all)
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|e| Refusal::StateCorrupt { reason: format!("{what}: {e}") })
}

#[cfg(test)]
mod tests {
    use vswitch::{Mac, PortId};

    use super::*;
    use crate::control::model::{Device, MacKind};
    use crate::control::types::{LinkState, Policy, RuleSpec};

    fn port(name: &str, id: u16) -> PortConfig {
        let socket = format!("/run/{name}.sock").into();
        let device = Device::Guest {
            socket,
            client: false,
            queues: 2,
            mtu: 9000,
            features: Some(vec!["csum".into()]),
        };
        let (mac, mac_kind) = (Mac([2, 0, 0, 0, 0, id as u8]), MacKind::Static);
        PortConfig {
            id: PortId(id),
            name: name.into(),
            mac,
            mac_kind,
            device,
            policy: Policy::default(),
            metering: None,
            epoch: 0,
            carried: crate::control::model::Carried::default(),
            extensions: BTreeMap::new(),
            acl: Arc::default(),
            rules: Arc::default(),
        }
    }

    fn line(result: Result<(Store, Saved), Refused>) -> String {
        result.map(|_| ()).expect_err("refused").to_string()
    }

    fn raw(directory: &Path, table: TableDefinition<&str, &[u8]>, key: &str, value: &impl Serialize) {
        let database = Database::create(directory.join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        let bytes = serde_json::to_vec(value).unwrap();
        transaction.open_table(table).unwrap().insert(key, bytes.as_slice()).unwrap();
        transaction.commit().unwrap();
    }

    #[test]
    fn what_was_put_is_there_after_opening_again_and_what_was_removed_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { rx_wait_us: 77, ..Settings::default() };
        {
            let (store, saved) = Store::open(directory.path()).unwrap();
            assert_eq!((saved.settings, saved.ports), (Settings::default(), vec![]));
            let (a, b) = (port("a", 1), port("b", 2));
            store.put(Some(&settings), &[(None, Some(&a))]).unwrap();
            store.put(None, &[(None, Some(&b))]).unwrap();
            store.put(None, &[(Some(&a), None)]).unwrap();
        }
        let (_, saved) = Store::open(directory.path()).unwrap();
        assert_eq!((saved.settings, saved.ports), (settings, vec![port("b", 2)]));
    }

    #[test]
    fn two_switches_cannot_share_a_state_directory() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Store::open(directory.path()).unwrap();
        let line = line(Store::open(directory.path()));
        assert!(
            line.ends_with(
                "another switch uses it; valid: stop it first, or give another directory with --state-dir"
            ),
            "{line}"
        );
    }

    #[test]
    fn a_damaged_store_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for garbage in [&b"not a database"[..], &[0; 8192], b"redb\x1a\x0a\xa9\x0d\x0a but no more"] {
            std::fs::write(&path, garbage).unwrap();
            let line = line(Store::open(directory.path()));
            assert!(line.contains("the store is damaged") || line.contains("cannot be opened"), "{line}");
            assert_eq!(std::fs::read(&path).unwrap(), garbage);
        }
    }

    #[test]
    fn a_store_of_another_format_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        raw(directory.path(), META, "format", &9);
        let line = line(Store::open(directory.path()));
        assert!(line.contains("the store has format 9, this version knows format 4"), "{line}");
    }

    #[test]
    fn a_store_of_the_first_format_is_taken_over_with_policies_at_their_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let mut old = serde_json::to_value(port("a", 1)).unwrap();
        old["policy"] = serde_json::json!({"mac_spoofing": true, "link": "down"});
        raw(directory.path(), META, "format", &1);
        raw(directory.path(), PORTS, "a", &old);
        for _ in 0..2 {
            let (_, saved) = Store::open(directory.path()).unwrap();
            let policy = Policy { mac_spoofing: true, link: LinkState::Down, ..Policy::default() };
            assert_eq!(saved.ports, [PortConfig { policy, ..port("a", 1) }]);
        }
        let database = Database::create(directory.path().join(FILE)).unwrap();
        let transaction = database.begin_read().unwrap();
        let format = transaction.open_table(META).unwrap().get("format").unwrap().unwrap().value().to_vec();
        assert_eq!(format, b"4", "an older program must not open it any more");
    }

    /// Writes a row of a list as it never should be.
    fn bad_row(
        directory: &Path,
        table: TableDefinition<(&str, &str), &[u8]>,
        port: &str,
        row: &serde_json::Value,
    ) {
        let database = Database::create(directory.join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        let bytes = serde_json::to_vec(row).unwrap();
        transaction.open_table(table).unwrap().insert((port, "row"), bytes.as_slice()).unwrap();
        transaction.commit().unwrap();
    }

    #[test]
    fn a_stored_entry_that_breaks_the_rules_is_refused() {
        let json = |action: &str, direction: &str| serde_json::json!({"entry": {"action": action, "direction": direction, "local": "any"}, "tally": 1});
        let rule =
            serde_json::json!({"rule": {"action": "allow", "direction": "in", "weight": 0}, "tally": 1});
        let newer = serde_json::json!({"rule": {"action": "allow", "direction": "in", "weight": 1, "log": true}, "tally": 1});
        for (table, port_name, row, reason) in [
            (ACLS, "a", json("drop", "in"), "port 'a', row: 'drop' is not an action"),
            (ACLS, "a", json("deny", "both"), "port 'a', row: 'both' is not a direction"),
            (ACLS, "b", json("deny", "in"), "there are entries of port 'b', which does not exist"),
            (RULES, "a", rule, "port 'a', row: weight 0 is out of range"),
            (RULES, "a", newer, "unknown field `log`"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            Store::open(directory.path()).unwrap().0.put(None, &[(None, Some(&port("a", 1)))]).unwrap();
            bad_row(directory.path(), table, port_name, &row);
            let line = line(Store::open(directory.path()));
            assert!(line.contains("the store is damaged") && line.contains(reason), "{line}");
        }
    }

    #[test]
    fn only_what_differs_of_a_list_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let rules = |weights: &[u64], action: &str| {
            let spec = |&weight| RuleSpec {
                action: action.into(),
                direction: "out".into(),
                weight,
                ..RuleSpec::default()
            };
            let rules = weights.iter().map(|weight| rule::rule(&spec(weight)).unwrap()).collect();
            PortConfig { rules: Arc::new(List::new(rules).unwrap()), ..port("a", 1) }
        };
        let (store, _) = Store::open(directory.path()).unwrap();
        let steps = [rules(&[1, 2, 3], "allow"), rules(&[2, 3, 4], "allow"), rules(&[2], "deny")];
        store.put(None, &[(None, Some(&steps[0]))]).unwrap();
        store.put(None, &[(Some(&steps[0]), Some(&steps[1]))]).unwrap();
        store.put(None, &[(Some(&steps[1]), Some(&steps[2]))]).unwrap();
        drop(store);
        let (store, saved) = Store::open(directory.path()).unwrap();
        assert_eq!(saved.ports, [steps[2].clone()]);
        store.put(None, &[(Some(&steps[2]), None)]).unwrap();
        drop(store);
        assert_eq!(Store::open(directory.path()).unwrap().1.ports, []);
    }

    #[test]
    fn a_stored_port_that_breaks_the_rules_is_refused() {
        let policy = serde_json::json!({"mac_spoofing": false, "link": "up", "warp": true});
        let mut with_policy = serde_json::to_value(port("a", 1)).unwrap();
        with_policy["policy"] = policy;
        let mut many_queues = serde_json::to_value(port("a", 1)).unwrap();
        many_queues["device"]["queues"] = 9.into();
        let mut no_number = serde_json::to_value(port("a", 1)).unwrap();
        no_number["id"] = 0.into();
        let mut two_networks = serde_json::to_value(port("a", 1)).unwrap();
        two_networks["policy"]["vlan"] = "access:7".into();
        two_networks["policy"]["vsid"] = 5000.into();
        for (value, reason) in [
            (two_networks, "vsid 5000 and vlan access:7 exclude each other"),
            (with_policy, "unknown field `warp`"),
            (many_queues, "queues 9"),
            (no_number, "number 0 is out of range"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            Store::open(directory.path()).unwrap();
            raw(directory.path(), PORTS, "a", &value);
            let line = line(Store::open(directory.path()));
            assert!(line.contains(reason), "{line}");
        }
    }
}
