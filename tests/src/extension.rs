//! Extensions as small WebAssembly modules, written as text.

use crate::Switch;

/// A module of ABI 1 that judges what ports send: its kind (1 capture, 2 filter), what it imports, and the body of `tp_judge` (local 0 = the frame).
#[must_use]
pub fn module(kind: u32, imports: &str, judge: &str) -> Vec<u8> {
    module_with(kind, imports, judge, "")
}

/// The same with more functions; with a `tp_judges` of its own it may judge what ports get, too.
#[must_use]
pub fn module_with(kind: u32, imports: &str, judge: &str, more: &str) -> Vec<u8> {
    let judges = if more.contains("tp_judges") {
        ""
    } else {
        r#"(func (export "tp_judges") (param i32) (result i32) (i32.eqz (local.get 0)))"#
    };
    let text = format!(
        r#"(module {imports}
            (memory (export "memory") 2)
            (data (i32.const 16) "unwanted\n")
            (func (export "tp_abi") (result i32) (i32.const 1))
            (func (export "tp_kind") (result i32) (i32.const {kind}))
            (func (export "tp_reasons") (result i64) (i64.const 0x0000000900000010))
            (func (export "tp_buffer") (param i32) (result i32) (i32.const 1024))
            {judges}
            (func (export "tp_judge") (param i32) (result i32) {judge})
            {more})"#
    );
    wat::parse_str(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

impl Switch {
    /// Loads a module under a name.
    #[track_caller]
    pub fn load_extension(&self, name: &str, module: &[u8]) {
        let file = self.dir().join(format!("{name}.wasm"));
        std::fs::write(&file, module).expect("written");
        self.ok(&["extension", "load", file.to_str().expect("UTF-8")]);
    }
}
