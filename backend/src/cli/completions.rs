//! `turnpike completions` and `turnpike man`: made from the command line itself.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use super::{Failure, NoJson, Outcome, print};

/// Prints a completion script.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,

    #[command(flatten)]
    pub(super) no_json: NoJson,
}

impl Completions {
    pub(super) fn run(self, command: &mut Command) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "turnpike", &mut script);
        print(&String::from_utf8_lossy(&script), false)
    }
}

/// Writes turnpike.1 and one page per command.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The directory, which must exist.
    directory: PathBuf,

    #[command(flatten)]
    pub(super) no_json: NoJson,
}

impl Man {
    pub(super) fn run(self, command: Command) -> Outcome {
        clap_mangen::generate_to(command, &self.directory).map_err(|e| {
            Failure(format!(
                "man pages cannot be written to '{}': {e}; valid: an existing directory",
                self.directory.display()
            ))
        })
    }
}
