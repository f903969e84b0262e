//! `turnpike migrate …`

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use migration::format::MAX_SIZE;

use super::client::{Client, port_list};
use super::{Answer, Failure, Outcome};
use crate::control::handover;
use crate::control::types::Imported;

#[derive(Debug, Subcommand)]
pub(super) enum Migrate {
    /// Make a fleet key for `turnpike serve --fleet-key`: 32 random bytes in a new file that only you can read.
    NewKey {
        /// The file; must not exist yet. Copy it to every host of the fleet.
        file: PathBuf,
    },
    /// Write a port's state (policy, meters, counters, sessions, addresses) to a file, as a backup or for another host.
    Export {
        /// The port.
        port: String,
        /// The file; `-` writes to standard output.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Make a port, whose guest does not run, what an exported file says. The port must be there, with the same name and address.
    Import {
        /// The file; `-` reads standard input.
        file: PathBuf,
    },
}

/// Writes a file that only its owner reads: it tells a tenant's addresses and connections. One that was there may have let others
/// read until now. What is no file of its own, such as `/dev/stdout`, keeps its mode.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    file.write_all(bytes)
}

/// Reads a state's file; one that is longer than any state is not sent at all.
fn read_state(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = || {
        let source: Box<dyn Read> =
            if path.as_os_str() == "-" { Box::new(std::io::stdin()) } else { Box::new(File::open(path)?) };
        let mut bytes = Vec::new();
        source.take(MAX_SIZE as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read()
        .map_err(|e: std::io::Error| Failure(format!("file '{}' cannot be read: {e}", path.display())))?;
    if bytes.len() > MAX_SIZE {
        let what = "is longer than any state of a port";
        return Err(Failure(format!("file '{}' {what}; valid: at most {MAX_SIZE} bytes", path.display())));
    }
    Ok(bytes)
}

impl Migrate {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::NewKey { file } => {
                handover::new_key(&file)?;
                let made = serde_json::json!({ "file": file });
                answer.print(&made, |_| format!("made {}", file.display()))
            }
            Self::Export { port, output } => {
                let bytes = client.get_bytes(&port_list(&port, "state")?)?;
                if output.as_os_str() == "-" {
                    return std::io::stdout()
                        .lock()
                        .write_all(&bytes)
                        .map_err(|e| Failure(format!("cannot write to standard output: {e}")));
                }
                let unusable = |e: std::io::Error| {
                    Failure(format!("file '{}' cannot be written: {e}", output.display()))
                };
                write_private(&output, &bytes).map_err(unusable)?;
                let written = serde_json::json!({ "port": port, "file": output, "bytes": bytes.len() });
                answer.print(&written, |_| {
                    format!("port '{port}': {} bytes written to {}", bytes.len(), output.display())
                })
            }
            Self::Import { file } => {
                let imported: Imported = client.post_bytes("/v1/states", read_state(&file)?)?;
                answer.print(&imported, |imported| format!("port '{}' is as in the file", imported.port.name))
            }
        }
    }
}
