//! The `turnpike` command.

use std::process::ExitCode;

use backend::guest::huge::HugePages;

#[global_allocator]
static MEMORY: HugePages = HugePages;

fn main() -> ExitCode {
    backend::cli::main()
}
