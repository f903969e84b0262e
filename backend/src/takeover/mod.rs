//! A running switch hands everything over to a successor process, for an upgrade or a restart, and its guests are not told.
//!
//! The successor asks on the API socket (`POST /v1/take-over`, upgraded), and from then on both speak this protocol on that very
//! connection. Only root and the switch's own user may ask.
//!
//! ```text
//! successor            running switch
//!                      Offer, Port…          what it is; the store is closed, everything still runs
//! Prepared                                   workers run, policy is in force, nothing is served
//!                      Device…, Frozen       rings stopped, descriptors travel
//! Ready
//!                      Go
//!                                            the successor's rings run
//! Running
//!                                            ends, with exit code 0
//! ```
//!
//! **Who runs.** Until it has said `Go` the running switch can take everything back, and does when anything fails or takes too long; the
//! successor starts nothing before it has read `Go`. Behind `Go` the running switch waits without a limit for `Running` or for the end of
//! the connection. The kernel ends the connection of a process only after it has taken its memory away, so that end means that nobody
//! touches a ring, and the running switch goes on. So the rings are never served twice, and not never.
//!
//! **Threads.** Each side has one thread for this, which may block; the switch is locked for as long as it takes.

mod give;
mod take;
mod wire;

use serde::{Deserialize, Serialize};
use vswitch::PortId;
use vswitch::state::PortMemory;

use crate::control::extension::Remembered;
use crate::control::model::Settings;
use crate::control::takeover::PortOffer;
use crate::control::types::NvDocument;
use crate::dataplane::takeover::DeviceText;
use crate::migrate::view::NewListener;

pub use give::{Giver, Outcome, Turn};
pub use take::{Claim, Devices, Offered};

/// Version of the protocol. Grows when the two ends of different versions would not understand each other.
pub const VERSION: u32 = 1;

/// What both ends say, as JSON with descriptors beside it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    /// What the switch is, and the file of its counters; as many `Port` follow.
    Offer {
        program: String,
        settings: Settings,
        last_id: u16,
        ports: usize,
        /// As many `Nv` follow the ports.
        #[serde(default)]
        nv: usize,
    },
    /// A port's configuration.
    Port(Box<PortOffer>),
    /// Objects of network virtualization.
    Nv(Box<NvDocument>),
    /// The successor is ready for devices.
    Prepared,
    /// What is behind a port, and what is remembered of it, by the switch and by its extensions.
    Device {
        id: PortId,
        device: DeviceText,
        memory: Box<PortMemory>,
        #[serde(default)]
        extensions: Vec<Remembered>,
    },
    /// Everything stands still, and this many devices were sent. With the API's listener, if there is one that of the metrics, and if the
    /// switch takes ports of others (`listening`) that for them.
    Frozen {
        devices: usize,
        #[serde(default)]
        listening: Option<NewListener>,
    },
    /// The successor has everything it needs.
    Ready,
    /// The successor may start.
    Go,
    /// The successor's rings run.
    Running,
    /// It does not work: why.
    Failed { reason: String },
}
