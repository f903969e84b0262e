//! Ports on the move.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PortView;

/// What importing a state did.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// The port as it is now.
    pub port: PortView,
}
