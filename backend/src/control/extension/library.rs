//! What instances are made of: extensions that come with the switch, and modules that were loaded.
//!
//! A module is a file in the state directory, named after the extension; without a state directory it is kept in memory and ends with the process.
//! It is compiled when it is first needed, because that takes time and most that were loaded are not enabled.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use vswitch::extension::builtin;
use vswitch::extension::{Extension, Kind};
use vswitch::refusal::Refusal;

use super::module::{self, Module};
use crate::control::check;
use crate::extensions::streams;

/// Directory below the state directory.
const DIRECTORY: &str = "extensions";

/// Modules that may be loaded.
const MOST_LOADED: usize = 64;

/// What can be enabled.
#[derive(Clone, Debug, Default)]
pub struct Library {
    directory: Option<PathBuf>,
    loaded: BTreeMap<String, Arc<Loaded>>,
    #[cfg(test)]
    pub(in crate::control) scripted: BTreeMap<String, crate::control::tests::extensions::Made>,
}

/// A loaded module.
#[derive(Debug)]
struct Loaded {
    bytes: Vec<u8>,
    compiled: OnceLock<Result<Module, String>>,
}

impl Loaded {
    fn module(&self) -> Result<&Module, String> {
        self.compiled.get_or_init(|| module::compile(&self.bytes)).as_ref().map_err(Clone::clone)
    }
}

/// One that can be enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Available {
    pub(super) name: String,
    pub(super) kind: Result<Kind, String>,
    pub(super) about: String,
    pub(super) built_in: bool,
}

impl Library {
    /// The library of a switch with this state directory.
    ///
    /// # Errors
    /// A module cannot be read.
    pub fn open(state: Option<&Path>) -> io::Result<Self> {
        let Some(directory) = state.map(|state| state.join(DIRECTORY)) else { return Ok(Self::default()) };
        let mut loaded = BTreeMap::new();
        let files = match fs::read_dir(&directory) {
            Ok(files) => files,
            // What is wrong with a state directory that is none is for the store to say.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Self { directory: Some(directory), ..Self::default() });
            }
            Err(e) => return Err(e),
        };
        for file in files {
            let path = file?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|end| end == "wasm") && check::name(name).is_ok() {
                let bytes = fs::read(&path)?;
                loaded.insert(name.to_owned(), Arc::new(Loaded { bytes, compiled: OnceLock::new() }));
            }
        }
        Ok(Self {
            directory: Some(directory),
            loaded,
            #[cfg(test)]
            scripted: BTreeMap::new(),
        })
    }

    /// All of it, by name.
    pub(super) fn available(&self) -> Vec<Available> {
        let built_in = builtin::available().iter().map(|one| Available {
            name: one.name.to_owned(),
            kind: Ok(one.kind),
            about: one.about.to_owned(),
            built_in: true,
        });
        let loaded = self.loaded.iter().map(|(name, loaded)| Available {
            name: name.clone(),
            kind: loaded.module().map(module::kind),
            about: format!("a module of {} bytes", loaded.bytes.len()),
            built_in: false,
        });
        let mut all: Vec<_> = built_in.chain(loaded).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// A new instance.
    pub(super) fn start(
        &self,
        name: &str,
        config: &Value,
        limits: &Value,
    ) -> Result<Arc<dyn Extension>, Refusal> {
        let refuse = |reason: String| Refusal::ExtensionStart { reason };
        #[cfg(test)]
        if let Some(made) = self.scripted.get(name) {
            return made.start(config).map_err(refuse);
        }
        if let Some(loaded) = self.loaded.get(name) {
            let module = loaded.module().map_err(refuse)?;
            return module::start(module, config, limits).map_err(refuse);
        }
        match builtin::start(name, config) {
            Some(_) if !limits.is_null() => Err(refuse("limits are for modules, and it is built in".into())),
            Some(started) => {
                let instance = started.map_err(|e| refuse(e.to_string()))?;
                streams::check(&instance.peers()).map_err(|why| refuse(format!("{name}: {why}")))?;
                Ok(instance)
            }
            None => Err(self.unknown()),
        }
    }

    /// That there is something of this name.
    pub(super) fn check(&self, name: &str) -> Result<(), Refusal> {
        #[cfg(test)]
        if self.scripted.contains_key(name) {
            return Ok(());
        }
        if self.loaded.contains_key(name) || is_built_in(name) { Ok(()) } else { Err(self.unknown()) }
    }

    fn unknown(&self) -> Refusal {
        let built_in = builtin::available().iter().map(|one| one.name.to_owned());
        Refusal::UnknownExtension { known: built_in.chain(self.loaded.keys().cloned()).collect() }
    }

    /// Loads a module, in the place of one of the same name.
    pub(super) fn load(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), Refusal> {
        check::name(name)?;
        if is_built_in(name) {
            return Err(Refusal::ExtensionBuiltIn);
        }
        if bytes.len() > module::MOST_MODULE {
            let reason = format!("it has {} bytes, and {} are allowed", bytes.len(), module::MOST_MODULE);
            return Err(Refusal::BadModule { reason });
        }
        if self.loaded.len() >= MOST_LOADED && !self.loaded.contains_key(name) {
            let (what, count) = ("modules", self.loaded.len() + 1);
            return Err(Refusal::TooManyEntries { what, count, limit: MOST_LOADED });
        }
        let loaded = Loaded { bytes, compiled: OnceLock::new() };
        loaded.module().map_err(|reason| Refusal::BadModule { reason })?;
        if let Some(directory) = &self.directory {
            write(directory, name, &loaded.bytes)
                .map_err(|e| Refusal::StoreFailed { reason: e.to_string() })?;
        }
        self.loaded.insert(name.to_owned(), Arc::new(loaded));
        Ok(())
    }

    /// Forgets a module.
    pub(super) fn unload(&mut self, name: &str) -> Result<(), Refusal> {
        if is_built_in(name) {
            return Err(Refusal::ExtensionBuiltIn);
        }
        if !self.loaded.contains_key(name) {
            return Err(self.unknown());
        }
        if let Some(directory) = &self.directory {
            match fs::remove_file(directory.join(name).with_added_extension("wasm")) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Refusal::StoreFailed { reason: e.to_string() });
                }
                _ => {}
            }
        }
        self.loaded.remove(name);
        Ok(())
    }
}

fn is_built_in(name: &str) -> bool {
    builtin::available().iter().any(|one| one.name == name)
}

/// Writes a module, whole or not at all, and so that it is there after a crash.
fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    use io::Write;
    fs::create_dir_all(directory)?;
    let path = directory.join(name).with_added_extension("wasm");
    let part = path.with_added_extension("part");
    let mut file = fs::File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, &path)?;
    fs::File::open(directory)?.sync_all()
}
