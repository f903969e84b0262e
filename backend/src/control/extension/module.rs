//! Modules as the library has them: WebAssembly where this build has it, nothing where it has not.

use std::sync::Arc;

use serde_json::Value;
use vswitch::extension::{Extension, Kind};

#[cfg(feature = "wasm")]
pub use vswitch::extension::wasm::MOST_MODULE;
#[cfg(feature = "wasm")]
pub(super) use vswitch::extension::wasm::Module;

/// Bytes that a module may have at most.
#[cfg(not(feature = "wasm"))]
pub const MOST_MODULE: usize = 4 * 1024 * 1024;

/// A compiled module, of which there is none.
#[cfg(not(feature = "wasm"))]
#[derive(Debug)]
pub(super) enum Module {}

/// Compiles a module and looks into it.
#[cfg(feature = "wasm")]
pub(super) fn compile(bytes: &[u8]) -> Result<Module, String> {
    Module::new(bytes).map_err(|e| e.to_string())
}

/// What it is for.
#[cfg(feature = "wasm")]
pub(super) fn kind(module: &Module) -> Kind {
    module.kind()
}

/// A new instance. `limits` is what it may take; null means the defaults.
#[cfg(feature = "wasm")]
pub(super) fn start(module: &Module, config: &Value, limits: &Value) -> Result<Arc<dyn Extension>, String> {
    use serde::Deserialize;
    use vswitch::extension::wasm::Limits;

    let limits = match limits {
        Value::Null => Limits::default(),
        limits => Limits::deserialize(limits).map_err(|e| format!("limits: {e}"))?,
    };
    module.start(config, &limits).map_err(|e| e.to_string())
}

/// Says that there are no modules.
#[cfg(not(feature = "wasm"))]
pub(super) fn compile(_: &[u8]) -> Result<Module, String> {
    Err("this build runs no modules: it was made without the feature 'wasm'".into())
}

/// Of no module.
#[cfg(not(feature = "wasm"))]
pub(super) fn kind(module: &Module) -> Kind {
    match *module {}
}

/// Of no module.
#[cfg(not(feature = "wasm"))]
pub(super) fn start(module: &Module, _: &Value, _: &Value) -> Result<Arc<dyn Extension>, String> {
    match *module {}
}
