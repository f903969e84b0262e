//! What outlives the process: the switch's settings and ports, in one embedded database file.
//!
//! Every change is durable when its function returns. The file is locked for as long as it is open, so two switches cannot
//! share a state directory. A file that cannot be read is a refusal at start; it is never repaired by forgetting.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vswitch::refusal::{Object, Refusal, Refused};

use crate::control::model::{PortConfig, Settings};

/// Name of the file in the state directory.
pub const FILE: &str = "turnpike.redb";

/// Version of what is stored. Grows when an older program could not read it correctly.
const FORMAT: u32 = 1;

/// `format` (a number) and `switch` (settings), each as JSON.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Port name → configuration as JSON.
const PORTS: TableDefinition<&str, &[u8]> = TableDefinition::new("ports");

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Saved {
    /// Switch-wide settings.
    pub settings: Settings,
    /// Ports and uplinks.
    pub ports: Vec<PortConfig>,
}

/// An open store, or none (`--state-dir none`).
#[derive(Debug)]
pub struct Store(Backing);

#[derive(Debug)]
enum Backing {
    None,
    File(Database),
    /// A full disk.
    #[cfg(test)]
    Failing,
}

impl Store {
    /// A store that keeps nothing.
    pub fn none() -> Self {
        Self(Backing::None)
    }

    /// A store that refuses every change.
    #[cfg(test)]
    pub(crate) fn failing() -> Self {
        Self(Backing::Failing)
    }

    /// Opens the store in `directory`, which is created if missing.
    pub fn open(directory: &Path) -> Result<(Self, Saved), Refused> {
        let unusable = |reason: String| {
            Refusal::StateUnusable { reason }.of(Object::State(directory.to_string_lossy().into_owned()))
        };
        std::fs::create_dir_all(directory)
            .map_err(|e| unusable(format!("cannot be created: {}", words(&e))))?;
        let path: PathBuf = directory.join(FILE);
        let object = || Object::State(path.to_string_lossy().into_owned());
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

    /// Keeps the settings.
    pub fn put_settings(&self, settings: &Settings) -> Result<(), Refusal> {
        self.write(META, "switch", Some(settings))
    }

    /// Keeps a port, in place of one of the same name.
    pub fn put_port(&self, port: &PortConfig) -> Result<(), Refusal> {
        self.write(PORTS, &port.name, Some(port))
    }

    /// Forgets a port.
    pub fn remove_port(&self, name: &str) -> Result<(), Refusal> {
        self.write(PORTS, name, None::<&PortConfig>)
    }

    fn write(
        &self,
        table: TableDefinition<&str, &[u8]>,
        key: &str,
        value: Option<&impl Serialize>,
    ) -> Result<(), Refusal> {
        match &self.0 {
            Backing::None => Ok(()),
            Backing::File(database) => {
                put(database, table, key, value).map_err(|reason| Refusal::StoreFailed { reason })
            }
            #[cfg(test)]
            Backing::Failing => Err(Refusal::StoreFailed { reason: "no space left on device".into() }),
        }
    }
}

fn put(
    database: &Database,
    table: TableDefinition<&str, &[u8]>,
    key: &str,
    value: Option<&impl Serialize>,
) -> Result<(), String> {
    let bytes = value.map(serde_json::to_vec).transpose().map_err(|e| e.to_string())?;
    let change = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(table)?;
            match &bytes {
                Some(bytes) => table.insert(key, bytes.as_slice())?,
                None => table.remove(key)?,
            };
        }
        transaction.commit()?;
        Ok(())
    };
    change().map_err(|e| e.to_string())
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
        Err(redb::TableError::TableDoesNotExist(_)) => {
            put(database, META, "format", Some(&FORMAT)).map_err(|reason| Refusal::StoreFailed { reason })?;
            return Ok(Saved::default());
        }
        Err(e) => return Err(corrupt(e.into())),
    };
    let field = |key| meta.get(key).map_err(|e| corrupt(e.into()));
    let format: u32 = match field("format")? {
        Some(bytes) => parse("format", bytes.value())?,
        None => return Err(Refusal::StateCorrupt { reason: "it has no format number".into() }),
    };
    if format != FORMAT {
        return Err(Refusal::StateVersion { found: format, known: FORMAT });
    }
    let settings =
        field("switch")?.map(|bytes| parse("switch", bytes.value())).transpose()?.unwrap_or_default();
    let mut ports: Vec<PortConfig> = Vec::new();
    match transaction.open_table(PORTS) {
        Ok(table) => {
            for row in table.iter().map_err(|e| corrupt(e.into()))? {
                let (name, bytes) = row.map_err(|e| corrupt(e.into()))?;
                ports.push(parse(&format!("port '{}'", name.value()), bytes.value())?);
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(e) => return Err(corrupt(e.into())),
    }
    let mut ids = HashSet::new();
    for port in &ports {
        port.judge().map_err(|reason| Refusal::StateCorrupt { reason })?;
        if !ids.insert(port.id) {
            let reason = format!("port '{}': number {} is given twice", port.name, port.id);
            return Err(Refusal::StateCorrupt { reason });
        }
    }
    Ok(Saved { settings, ports })
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|e| Refusal::StateCorrupt { reason: format!("{what}: {e}") })
}

#[cfg(test)]
mod tests {
    use vswitch::{Mac, PortId};

    use super::*;
    use crate::control::model::{Device, MacKind};
    use crate::control::types::Policy;

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
        PortConfig { id: PortId(id), name: name.into(), mac, mac_kind, device, policy: Policy::default() }
    }

    fn line(result: Result<(Store, Saved), Refused>) -> String {
        result.map(|_| ()).expect_err("refused").to_string()
    }

    fn raw(directory: &Path, table: TableDefinition<&str, &[u8]>, key: &str, value: &impl Serialize) {
        let database = Database::create(directory.join(FILE)).unwrap();
        put(&database, table, key, Some(value)).unwrap();
    }

    #[test]
    fn what_was_put_is_there_after_opening_again_and_what_was_removed_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { rx_wait_us: 77, ..Settings::default() };
        {
            let (store, saved) = Store::open(directory.path()).unwrap();
            assert_eq!((saved.settings, saved.ports), (Settings::default(), vec![]));
            store.put_settings(&settings).unwrap();
            store.put_port(&port("a", 1)).unwrap();
            store.put_port(&port("b", 2)).unwrap();
            store.remove_port("a").unwrap();
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
        assert!(line.contains("the store has format 9, this version knows format 1"), "{line}");
    }

    #[test]
    fn a_stored_port_that_breaks_the_rules_is_refused() {
        let policy = serde_json::json!({"mac_spoofing": false, "link": "up", "dhcp_guard": true});
        let mut with_policy = serde_json::to_value(port("a", 1)).unwrap();
        with_policy["policy"] = policy;
        let mut many_queues = serde_json::to_value(port("a", 1)).unwrap();
        many_queues["device"]["queues"] = 9.into();
        let mut no_number = serde_json::to_value(port("a", 1)).unwrap();
        no_number["id"] = 0.into();
        for (value, reason) in [
            (with_policy, "unknown field `dhcp_guard`"),
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
