//! A module that was compiled and looked into, ahead of any instance that does something.
//!
//! What it says of itself (kind, reasons, directions) is asked for once, of an instance that is thrown away, and never changes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use wasmtime::{Config, Engine, ExternType, InstancePre};

use super::imports::{self, Host, signature, written};
use super::instance::Instance;
use super::live::Live;
use super::{ABI, Limits, MIB, MOST_MODULE, MOST_TEXT, STACK};
use crate::Direction;
use crate::extension::stack::MOST_REASONS;
use crate::extension::{Extension, Kind, Veto};

/// Longest name of a reason, in bytes.
const LONGEST_REASON: usize = 48;

/// Different reasons that all modules of a process may have in all.
const MOST_WORDS: usize = 1024;

/// What modules may export: name, what it takes and what it gives (`L` is a 64-bit number).
const EXPORTS: [(&str, &str, &str); 16] = [
    ("tp_abi", "", "i"),
    ("tp_kind", "", "i"),
    ("tp_reasons", "", "L"),
    ("tp_buffer", "i", "i"),
    ("tp_judges", "i", "i"),
    ("tp_judge", "i", "i"),
    ("tp_forward", "i", "i"),
    ("tp_reflective", "", "i"),
    ("tp_sampling", "", "i"),
    ("tp_sample", "i", ""),
    ("tp_tick", "L", ""),
    ("tp_change", "Li", "L"),
    ("tp_set", "iii", "L"),
    ("tp_status", "i", "L"),
    ("tp_save", "Li", "L"),
    ("tp_restore", "Liii", "L"),
];

/// What goes with what: whoever exports one of the first exports all of the second.
const TOGETHER: [(&[&str], &[&str]); 7] = [
    (&["tp_judge"], &["tp_judges", "tp_buffer"]),
    (&["tp_judges"], &["tp_judge"]),
    (&["tp_sample"], &["tp_sampling", "tp_buffer"]),
    (&["tp_sampling"], &["tp_sample"]),
    (&["tp_forward", "tp_change", "tp_set"], &["tp_buffer"]),
    (&["tp_save"], &["tp_restore"]),
    (&["tp_restore"], &["tp_save", "tp_buffer"]),
];

/// Why bytes are no module for this switch, or why a module does not start.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// It is too long.
    #[error("the module has {0} bytes; at most {MOST_MODULE}")]
    TooLong(usize),
    /// It is no WebAssembly, or more of it than is allowed here.
    #[error("this is no WebAssembly module that can run here: {0}")]
    Invalid(String),
    /// It calls what there is not.
    #[error("the module imports {0}")]
    Import(String),
    /// It lacks an export.
    #[error("the module exports no '{name}'; {because}")]
    Missing {
        /// What it lacks.
        name: String,
        /// Why it needs it.
        because: String,
    },
    /// An export is not what it has to be.
    #[error("the module exports '{name}' as {found}; valid: {valid}")]
    Signature {
        /// The export.
        name: String,
        /// What it is.
        found: String,
        /// What it has to be.
        valid: String,
    },
    /// An export looks as if it were meant for the switch, which does not know it.
    #[error("the module exports {name}, which ABI {ABI} does not have; valid: {valid}")]
    Unknown {
        /// The export.
        name: String,
        /// What there is.
        valid: String,
    },
    /// It is made for another switch.
    #[error("the module is made for ABI {0}; this switch has ABI {ABI}")]
    Abi(u32),
    /// An answer about itself is not one of those there are.
    #[error("the module's {function} says {said}; valid: {valid}")]
    Says {
        /// Which function.
        function: &'static str,
        /// What it says.
        said: String,
        /// What it may say.
        valid: &'static str,
    },
    /// It did something that ends the sandbox.
    #[error("the module failed: {0}")]
    Fault(String),
    /// A limit is not one.
    #[error("'{key}' is {value}; valid: {least} to {most}")]
    Limit {
        /// Which.
        key: &'static str,
        /// What it is, or how many there are.
        value: u64,
        /// The least there may be.
        least: u64,
        /// The most there may be.
        most: u64,
    },
    /// It does not take the settings.
    #[error("the extension refuses its settings: {0}")]
    Settings(Veto),
}

/// What a module says of itself.
#[derive(Debug)]
pub(super) struct About {
    pub(super) kind: Kind,
    pub(super) reasons: Vec<&'static str>,
    pub(super) judges: [bool; 2],
    pub(super) sampling: u32,
    pub(super) reflective: bool,
}

/// A module that can be started at any number of switches. A copy is the same module.
#[derive(Clone)]
pub struct Module {
    pre: InstancePre<Host>,
    about: Arc<About>,
    /// Bytes of memory it begins with.
    memory: u64,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("about", &self.about).finish_non_exhaustive()
    }
}

impl Module {
    /// Compiles a module in the binary format and looks into it; takes up to some seconds for the longest there may be.
    ///
    /// # Errors
    /// What about it is not as ABI 1 says.
    pub fn new(bytes: &[u8]) -> Result<Self, ModuleError> {
        if bytes.len() > MOST_MODULE {
            return Err(ModuleError::TooLong(bytes.len()));
        }
        let invalid = |error: wasmtime::Error| ModuleError::Invalid(one_line(&error));
        let engine = Engine::new(&config()).map_err(invalid)?;
        let module = wasmtime::Module::from_binary(&engine, bytes).map_err(invalid)?;
        for import in module.imports() {
            imports::check(&import).map_err(ModuleError::Import)?;
        }
        check_exports(&module)?;
        let memory = memory(&module)?;
        let pre =
            imports::linker(&engine).and_then(|linker| linker.instantiate_pre(&module)).map_err(invalid)?;
        let most = Limits { memory_mib: Limits::MOST_MEMORY_MIB, ..Limits::default() };
        fits(memory, &most)?;
        let mut live = Live::new(&pre, &most).map_err(ModuleError::Fault)?;
        let about = Arc::new(About::ask(&mut live)?);
        let forwards = live.funcs.forward.is_some();
        match about.kind {
            Kind::Forwarding if !forwards => Err(missing("tp_forward", "a forwarding extension has to")),
            Kind::Capture | Kind::Filter if forwards => Err(ModuleError::Says {
                function: "tp_kind",
                said: format!("{}, and tp_forward is exported", about.kind),
                valid: "forwarding with tp_forward, another kind without it",
            }),
            _ => Ok(Self { pre, about, memory }),
        }
    }

    /// What its instances are for.
    pub fn kind(&self) -> Kind {
        self.about.kind
    }

    /// Makes an instance; `config` are the first settings that it is given, unless they are null.
    ///
    /// # Errors
    /// A limit is none, the module needs more than it may have, or it refuses its settings.
    pub fn start(&self, config: &Value, limits: &Limits) -> Result<Arc<dyn Extension>, ModuleError> {
        limits.check()?;
        fits(self.memory, limits)?;
        let mut live = Live::new(&self.pre, limits).map_err(ModuleError::Fault)?;
        live.find_place().map_err(ModuleError::Fault)?;
        let instance = Instance::new(Arc::clone(&self.about), live);
        if !config.is_null() {
            instance.set(None, Some(config)).map_err(ModuleError::Settings)?;
        }
        Ok(Arc::new(instance))
    }
}

/// How modules are compiled: no more of WebAssembly than C needs, and the same on every machine.
fn config() -> Config {
    let mut config = Config::new();
    config.consume_fuel(true).max_wasm_stack(STACK).cranelift_nan_canonicalization(true);
    config.wasm_memory64(false).wasm_multi_memory(false).wasm_relaxed_simd(false).wasm_tail_call(false);
    config
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        .native_unwind_info(false)
        .memory_init_cow(false);
    config.concurrency_support(false);
    config
}

/// An error of the sandbox in one line.
fn one_line(error: &wasmtime::Error) -> String {
    let mut text = imports::text(error.root_cause().to_string().as_bytes());
    text.truncate(text.char_indices().nth(200).map_or(text.len(), |(at, _)| at));
    text
}

/// A name of a stranger, short and without control characters.
pub(super) fn quoted(name: &str) -> String {
    let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    format!("'{name}'")
}

fn missing(name: &str, because: impl Into<String>) -> ModuleError {
    ModuleError::Missing { name: name.into(), because: because.into() }
}

fn check_exports(module: &wasmtime::Module) -> Result<(), ModuleError> {
    for export in module.exports() {
        let name = export.name();
        let known = EXPORTS.iter().find(|known| known.0 == name);
        match known {
            Some((_, takes, gives)) => {
                let (found, valid) = (signature(&export.ty()), written(takes, gives));
                if found != valid {
                    return Err(ModuleError::Signature { name: name.into(), found, valid });
                }
            }
            None if name.starts_with("tp_") => {
                let valid: Vec<_> = EXPORTS.iter().map(|known| known.0).collect();
                return Err(ModuleError::Unknown { name: quoted(name), valid: valid.join(", ") });
            }
            None => {}
        }
    }
    for name in ["tp_abi", "tp_kind", "memory"] {
        if module.get_export(name).is_none() {
            return Err(missing(name, "every module has to"));
        }
    }
    for (those, these) in TOGETHER {
        let with = those.iter().find(|name| module.get_export(name).is_some());
        let without = these.iter().find(|name| module.get_export(name).is_none());
        if let (Some(with), Some(without)) = (with, without) {
            return Err(missing(without, format!("whoever exports '{with}' has to")));
        }
    }
    Ok(())
}

/// Bytes of memory it begins with.
fn memory(module: &wasmtime::Module) -> Result<u64, ModuleError> {
    match module.get_export("memory") {
        Some(ExternType::Memory(memory)) => Ok(memory.minimum().saturating_mul(memory.page_size())),
        other => Err(ModuleError::Signature {
            name: "memory".into(),
            found: other.as_ref().map_or_else(String::new, signature),
            valid: "a memory".into(),
        }),
    }
}

fn fits(memory: u64, limits: &Limits) -> Result<(), ModuleError> {
    if memory <= limits.memory() as u64 {
        return Ok(());
    }
    let needs = memory.div_ceil(MIB as u64);
    Err(ModuleError::Fault(format!(
        "it begins with {needs} MiB of memory; it may have {}",
        limits.memory_mib
    )))
}

impl About {
    fn ask(live: &mut Live) -> Result<Self, ModuleError> {
        let abi = live.funcs.abi.clone();
        let abi = live.call("tp_abi", &abi, ()).map_err(ModuleError::Fault)?;
        if abi != ABI {
            return Err(ModuleError::Abi(abi));
        }
        let kind = live.funcs.kind.clone();
        let kind = match live.call("tp_kind", &kind, ()).map_err(ModuleError::Fault)? {
            1 => Kind::Capture,
            2 => Kind::Filter,
            3 => Kind::Forwarding,
            other => {
                let valid = "1 (capture), 2 (filter), 3 (forwarding)";
                return Err(ModuleError::Says { function: "tp_kind", said: other.to_string(), valid });
            }
        };
        let reasons = reasons(live)?;
        let mut judges = [false; 2];
        if let Some(func) = live.funcs.judges.clone() {
            for (direction, place) in [Direction::Out, Direction::In].into_iter().zip(&mut judges) {
                let said = live.call("tp_judges", &func, direction as u32).map_err(ModuleError::Fault)?;
                *place = truth("tp_judges", said)?;
            }
        }
        let sampling = match live.funcs.sampling.clone() {
            Some(func) => live.call("tp_sampling", &func, ()).map_err(ModuleError::Fault)?,
            None => 0,
        };
        let reflective = match live.funcs.reflective.clone() {
            Some(func) => {
                truth("tp_reflective", live.call("tp_reflective", &func, ()).map_err(ModuleError::Fault)?)?
            }
            None => false,
        };
        Ok(Self { kind, reasons, judges, sampling, reflective })
    }
}

fn truth(function: &'static str, said: u32) -> Result<bool, ModuleError> {
    match said {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(ModuleError::Says { function, said: other.to_string(), valid: "0 (no), 1 (yes)" }),
    }
}

fn reasons(live: &mut Live) -> Result<Vec<&'static str>, ModuleError> {
    let Some(func) = live.funcs.reasons.clone() else { return Ok(Vec::new()) };
    let answer = live.call("tp_reasons", &func, ()).map_err(ModuleError::Fault)?;
    let bytes = live.given("tp_reasons", answer, MOST_TEXT).map_err(ModuleError::Fault)?.unwrap_or_default();
    let says = |said, valid| ModuleError::Says { function: "tp_reasons", said, valid };
    let mut reasons = Vec::new();
    for word in bytes.split(|&byte| byte == b'\n').filter(|word| !word.is_empty()) {
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        let word = String::from_utf8_lossy(word);
        if word.len() > LONGEST_REASON || !word.as_bytes().iter().all(plain) {
            return Err(says(quoted(&word), "words of a-z, 0-9 and '-', at most 48 each, one a line"));
        }
        if reasons.len() == MOST_REASONS {
            return Err(says(format!("{} and more", reasons.len()), "at most 32 reasons"));
        }
        let kept = keep(&word).ok_or_else(|| {
            let all = "reasons that earlier modules had: those of all modules together are too many";
            says(quoted(&word), all)
        })?;
        if reasons.contains(&kept) {
            return Err(says(format!("{} twice", quoted(&word)), "each reason once"));
        }
        reasons.push(kept);
    }
    Ok(reasons)
}

/// Keeps a word for as long as the process lives, once: instances give their reasons as references. What modules can have kept
/// is bounded, and a module that is loaded again keeps nothing new.
fn keep(word: &str) -> Option<&'static str> {
    static WORDS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(word) = words.get(word) {
        return Some(word);
    }
    if words.len() >= MOST_WORDS {
        return None;
    }
    let word: &'static str = Box::leak(word.into());
    words.insert(word);
    Some(word)
}
