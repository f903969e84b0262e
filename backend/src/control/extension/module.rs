//! Modules as the library has them.

use std::sync::Arc;

use serde_json::Value;
use vswitch::extension::{Extension, Kind};

/// Bytes that a module may have at most.
pub const MOST_MODULE: usize = 4 * 1024 * 1024;

/// A compiled module.
#[derive(Debug)]
pub(super) enum Module {}

/// Compiles a module and looks into it.
pub(super) fn compile(_: &[u8]) -> Result<Module, String> {
    Err("this version runs no modules".into())
}

/// What it is for.
pub(super) fn kind(module: &Module) -> Kind {
    match *module {}
}

/// A new instance.
pub(super) fn start(module: &Module, _: &Value, _: &Value) -> Result<Arc<dyn Extension>, String> {
    match *module {}
}
