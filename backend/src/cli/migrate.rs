//! `turnpike migrate …`

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use migration::format::MAX_SIZE;
use vswitch::refusal::Object;

use super::client::{Client, object, port_list};
use super::table::table;
use super::{Answer, Failure, Outcome};
use crate::control::handover;
use crate::control::types::Imported;
use crate::migrate::tls::Credentials;
use crate::migrate::view::{CheckView, ListenView, MigrationView, NewListener, NewMigration, ProblemView};

/// How often `send` looks how far the migration is.
const LOOK: Duration = Duration::from_millis(100);

/// How this switch shows other switches who it is. The files are read by the switch.
#[derive(Debug, Args)]
pub(super) struct Files {
    /// This switch's certificate in PEM, followed by those between it and the CA.
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,

    /// The certificate's private key in PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Certificates in PEM of the CAs that sign for switches.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
}

impl Files {
    /// The switch has a working directory of its own.
    fn absolute(self) -> Result<Credentials, Failure> {
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).map_err(|e| Failure(format!("path '{}': {e}", path.display())))
        };
        Ok(Credentials { cert: absolute(self.cert)?, key: absolute(self.key)?, ca: absolute(self.ca)? })
    }
}

/// For `listen`, which without files shows where it listens.
#[derive(Debug, Args)]
pub(super) struct Listen {
    /// IP address and TCP port to listen at, such as 192.0.2.1:7400; nothing = show where it listens.
    #[arg(long, value_name = "IP:PORT", requires_all = ["cert", "key", "ca"])]
    address: Option<String>,

    /// This switch's certificate in PEM, followed by those between it and the CA.
    #[arg(long, value_name = "FILE", requires = "address")]
    cert: Option<PathBuf>,

    /// The certificate's private key in PEM.
    #[arg(long, value_name = "FILE", requires = "address")]
    key: Option<PathBuf>,

    /// Certificates in PEM of the CAs that sign for switches.
    #[arg(long, value_name = "FILE", requires = "address")]
    ca: Option<PathBuf>,

    /// Take no more ports.
    #[arg(long, conflicts_with = "address")]
    stop: bool,
}

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
    /// Say what a port needs at its destination, as a document for `migrate check` there.
    Manifest {
        /// The port.
        port: String,
    },
    /// Say everything that hinders a port from coming to this switch, and what would solve it. Changes nothing; exit code 1 if it cannot
    /// come.
    Check {
        /// What `migrate manifest` printed at the source; `-` reads standard input.
        manifest: PathBuf,
    },
    /// Take ports from other switches, until the switch ends.
    Listen(Listen),
    /// Send a port to another switch while its VMM moves the guest there. Ends when the guest runs there, or it has come to nothing.
    Send {
        /// The port.
        port: String,

        /// Where the other switch listens.
        #[arg(long, value_name = "IP:PORT")]
        to: String,

        /// Name or address that the other switch's certificate must be for [default: the address].
        #[arg(long, value_name = "NAME")]
        server_name: Option<String>,

        /// Do not wait for the end.
        #[arg(long)]
        detach: bool,

        #[command(flatten)]
        files: Files,
    },
    /// Show the last migration of a port, or of each port.
    Status {
        /// The port.
        port: Option<String>,
    },
    /// End the migration of a port; the source is as it was before.
    Cancel {
        /// The port.
        port: String,
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
                let imported: Imported = client.post_bytes("/v1/states", read(&file)?)?;
                answer.print(&imported, |imported| format!("port '{}' is as in the file", imported.port.name))
            }
            Self::Manifest { port } => {
                let manifest: serde_json::Value = client.get(&port_list(&port, "manifest")?)?;
                // A document for a program, in a form that people can read as well.
                answer.print(&manifest, |manifest| format!("{manifest:#}"))
            }
            Self::Check { manifest } => {
                let manifest: serde_json::Value = serde_json::from_slice(&read(&manifest)?)
                    .map_err(|e| Failure(format!("'{}' is no manifest: {e}", manifest.display())))?;
                let checked: CheckView = client.post("/v1/migration-check", &manifest)?;
                answer.print(&checked, problems)?;
                let errors = checked.problems.iter().filter(|p| p.severity == "error").count();
                let noun = if errors == 1 { "problem" } else { "problems" };
                let failed = || Failure(format!("the port cannot come here: {errors} {noun}"));
                if checked.ok { Ok(()) } else { Err(failed()) }
            }
            Self::Listen(listen) => listen.run(client, answer),
            Self::Send { port, to, server_name, detach, files } => {
                let new = NewMigration { port, to, server_name, credentials: files.absolute()? };
                let begun: MigrationView = client.post("/v1/migrations", &new)?;
                if detach {
                    return answer
                        .print(&begun, |m| format!("migration {} of port '{}' has begun", m.id, m.port));
                }
                let over = follow(client, answer, &new.port, &begun.id)?;
                let committed = over.outcome.as_deref() == Some("committed");
                if committed || answer.json {
                    answer.print(&over, ended)?;
                }
                if committed { Ok(()) } else { Err(Failure(ended(&over))) }
            }
            Self::Status { port: Some(port) } => {
                let path = object("migrations", &port, Object::Port)?;
                let found: MigrationView = client.get(&path)?;
                answer.print(&found, |m| show(std::slice::from_ref(m)))
            }
            Self::Status { port: None } => {
                answer.print(&client.get::<Vec<MigrationView>>("/v1/migrations")?, |list| show(list))
            }
            Self::Cancel { port } => {
                let path = object("migrations", &port, Object::Port)?;
                let told: MigrationView = client.delete_with_answer(&path)?;
                let over =
                    if told.outcome.is_some() { told } else { follow(client, answer, &port, &told.id)? };
                answer.print(&over, ended)
            }
        }
    }
}

impl Listen {
    fn run(self, client: &Client, answer: &Answer) -> Outcome {
        const PATH: &str = "/v1/migration-listener";
        if self.stop {
            return client.delete(PATH);
        }
        let view: ListenView = match (self.address, self.cert, self.key, self.ca) {
            (Some(address), Some(cert), Some(key), Some(ca)) => {
                let credentials = Files { cert, key, ca }.absolute()?;
                client.post(PATH, &NewListener { address, credentials })?
            }
            _ => client.get(PATH)?,
        };
        answer.print(&view, |view| format!("takes ports at {}", view.address))
    }
}

/// Reads a file; one that is longer than any state is not sent at all.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
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
        return Err(Failure(format!(
            "file '{}' is longer than any state of a port; valid: at most {MAX_SIZE} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Shows on stderr how far a migration is until it has ended.
fn follow(client: &Client, answer: &Answer, port: &str, id: &str) -> Result<MigrationView, Failure> {
    let path = object("migrations", port, Object::Port)?;
    let mut last = String::new();
    loop {
        let now: MigrationView = client.get(&path)?;
        if now.id != id {
            return Err(Failure(format!(
                "port '{port}': migration {id} has ended and another one has begun"
            )));
        }
        let line = format!("{}: {} bytes, round {}", now.step, now.bytes, now.rounds);
        if !answer.json && now.step != last {
            eprintln!("{line}");
            last.clone_from(&now.step);
        }
        if now.outcome.is_some() {
            return Ok(now);
        }
        std::thread::sleep(LOOK);
    }
}

fn ended(m: &MigrationView) -> String {
    let outcome = m.outcome.as_deref().unwrap_or(&m.step);
    let reason = if m.reason.is_empty() { String::new() } else { format!(": {}", m.reason) };
    let sure = if m.confirmed == Some(false) { " (the other switch has not confirmed it)" } else { "" };
    format!("port '{}': {outcome}{reason}{sure}", m.port)
}

fn show(list: &[MigrationView]) -> String {
    if list.is_empty() {
        return "no migrations".into();
    }
    let row = |m: &MigrationView| {
        vec![
            m.port.clone(),
            m.side.name().to_owned(),
            m.peer.clone(),
            m.step.clone(),
            m.outcome.clone().unwrap_or_else(|| "-".into()),
            m.rounds.to_string(),
            m.state_bytes.to_string(),
            m.bytes.to_string(),
            m.duration_ms.to_string(),
            m.reason.clone(),
        ]
    };
    let heads =
        ["PORT", "SIDE", "PEER", "STEP", "OUTCOME", ">ROUNDS", ">STATE BYTES", ">BYTES", ">MS", "REASON"];
    table(&heads, list.iter().map(row))
}

fn problems(checked: &CheckView) -> String {
    if checked.problems.is_empty() {
        return "nothing hinders it".into();
    }
    let row = |p: &ProblemView| {
        [&p.severity, &p.code, &p.object, &p.need, &p.have, &p.fix].map(Clone::clone).to_vec()
    };
    table(&["SEVERITY", "CODE", "OBJECT", "NEEDS", "HAS", "FIX"], checked.problems.iter().map(row))
}
