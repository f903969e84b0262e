//! Migrations as the API shows and takes them.

use migration::check::{Manifest, Problem, Severity};
use migration::handoff::{End, MigrationId, Outcome};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vswitch::PortId;

use super::tls::Credentials;

/// A port to be sent to another switch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewMigration {
    /// The port.
    pub port: String,
    /// Where the other switch listens: IP address and TCP port.
    pub to: String,
    /// Name or address that the other switch's certificate must be for (default: the address it is connected at).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// How this switch shows who it is.
    #[serde(flatten)]
    pub credentials: Credentials,
}

/// Where ports of other switches are to be taken.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewListener {
    /// IP address and TCP port.
    pub address: String,
    /// How this switch shows who it is.
    #[serde(flatten)]
    pub credentials: Credentials,
}

/// Where ports of other switches are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListenView {
    /// IP address and TCP port.
    pub address: String,
}

/// This switch's part in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The port leaves.
    Source,
    /// The port comes.
    Destination,
}

impl Side {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationView {
    /// Its id, the same on both switches.
    pub id: String,
    /// The port.
    pub port: String,
    /// This switch's part.
    pub side: Side,
    /// Address of the other switch.
    pub peer: String,
    /// How far it is: `offer`, `check`, `reserved`, `freeze`, `transfer`, `commit`, `ending` or `done`.
    pub step: String,
    /// How it ended: `committed`, `rolled-back`, `cancelled`, `refused` or `failed`.
    pub outcome: Option<String>,
    /// Whether the other switch has confirmed the end.
    pub confirmed: Option<bool>,
    /// Why it ended so.
    pub reason: String,
    /// What does not fit at the destination, warnings included.
    pub problems: Vec<ProblemView>,
    /// Connections that were made.
    pub rounds: u32,
    /// Length of the state; 0 = not saved yet.
    pub state_bytes: u64,
    /// Bytes sent and received.
    pub bytes: u64,
    /// Time from the standing still of the rings to the end, as far as this switch knows, in milliseconds.
    pub frozen_ms: Option<u64>,
    /// How long it takes or took.
    pub duration_ms: u64,
    /// The port's number here.
    #[serde(skip)]
    #[schema(ignore)]
    pub(super) number: Option<PortId>,
}

impl MigrationView {
    pub(super) fn new(id: MigrationId, port: &str, number: u16, side: Side, peer: String) -> Self {
        Self {
            id: id.to_string(),
            port: port.to_owned(),
            side,
            peer,
            step: if side == Side::Source { "offer" } else { "check" }.to_owned(),
            outcome: None,
            confirmed: None,
            reason: String::new(),
            problems: Vec::new(),
            rounds: 0,
            state_bytes: 0,
            bytes: 0,
            frozen_ms: None,
            duration_ms: 0,
            number: Some(PortId(number)),
        }
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    pub(super) fn end(&mut self, end: &End) {
        let outcome = match end.outcome {
            Outcome::Committed => "committed",
            Outcome::RolledBack => "rolled-back",
            Outcome::Cancelled => "cancelled",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        };
        self.outcome = Some(outcome.to_owned());
        self.confirmed = Some(end.confirmed);
        self.reason.clone_from(&end.reason);
    }
}

/// One thing that does not fit at a port's destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemView {
    /// Stable name of its kind.
    pub code: String,
    /// `error`: the port cannot move; `warning`: it can, and something will be different.
    pub severity: String,
    /// What it is about.
    pub object: String,
    /// What the port needs.
    pub need: String,
    /// What the destination has.
    pub have: String,
    /// What would solve it.
    pub fix: String,
}

impl From<&Problem> for ProblemView {
    fn from(problem: &Problem) -> Self {
        let Problem { code, severity, object, need, have, fix } = problem.clone();
        let severity = if severity == Severity::Error { "error" } else { "warning" }.to_owned();
        Self { code, severity, object, need, have, fix }
    }
}

/// Whether a port can come here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckView {
    /// Whether nothing forbids it.
    pub ok: bool,
    /// Everything that does not fit.
    pub problems: Vec<ProblemView>,
}

/// What a port needs at its destination. A document for `check`; its fields are described in the documentation of crate `migration`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub struct ManifestView(pub Manifest);
