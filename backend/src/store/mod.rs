//! What outlives the process: the switch's settings and ports, in one embedded database file.
//!
//! Every change is durable when its function returns. The file is locked for as long as it is open, so two switches cannot
//! share a state directory. A file that cannot be read is a refusal at start; it is never repaired by forgetting.

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
pub struct Store {
    database: Option<Database>,
}

impl Store {
    /// A store that keeps nothing.
    pub fn none() -> Self {
        Self { database: None }
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
        Ok((Self { database: Some(database) }, saved))
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
        let Some(database) = &self.database else { return Ok(()) };
        put(database, table, key, value).map_err(|reason| Refusal::StoreFailed { reason })
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
    let mut ports = Vec::new();
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
    Ok(Saved { settings, ports })
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|e| Refusal::StateCorrupt { reason: format!("{what}: {e}") })
}
