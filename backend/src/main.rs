//! The `turnpike` command.
fn main() {}
