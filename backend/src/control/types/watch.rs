//! What is asked of a trace or a capture, and what a trace says.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::StepView;

/// Which frames a trace shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TraceSpec {
    /// Only those that this port or uplink sends or is to get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Only those that were dropped, at the sender or at a receiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drops: Option<bool>,
    /// Only those of which this is true, for example `host 10.0.0.5 and tcp and not port 22`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// One frame in so many is looked at, chosen at random, before anything else is asked of it: 1 (default) to 1000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<u64>,
    /// End after so many frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Which frames a capture holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CaptureSpec {
    /// Only those at this port or uplink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// `out` (what ports send), `in` (what they get) or `both` (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The first so many bytes of each: 1 to 262144 (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<u64>,
    /// Only those that were dropped: at the port that sent them, or at the one that was to get them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drops: Option<bool>,
    /// Only those of which this is true; as for a trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// End after so many frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// One frame of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceView {
    /// When it was judged (UTC, RFC 3339).
    pub time: String,
    /// The port that is watched, or else the one that sent it.
    pub port: String,
    /// Whether that port sent it (`out`) or was to get it (`in`).
    pub direction: String,
    /// The port that sent it.
    pub from: String,
    /// Its source address; empty if it ends before that.
    pub src: String,
    /// Its destination address.
    pub dst: String,
    /// VLAN of its outermost tag, 0 for a priority tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Protocol and addresses behind Ethernet, in words.
    pub flow: String,
    /// Its length in bytes; a TSO frame is one.
    pub len: u32,
    /// The steps that did something, in order.
    pub steps: Vec<StepView>,
    /// `drop`, `unicast`, `flood`, or `answer` where the switch itself answered.
    pub verdict: String,
    /// Why it was dropped, by its sender's policy or at its only receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The ports that it was meant for, and what became of it there.
    pub destinations: Vec<ArrivalView>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_destinations: usize,
    /// Frames before this one that were to be shown and could not be, because the reader was slow.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_shown: usize,
}

/// What became of a frame at one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArrivalView {
    /// The port.
    pub port: String,
    /// `deliver`, `drop`, or `hold` where it is kept for a guest on the move.
    pub verdict: String,
    /// The drop reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it was a monitor's copy.
    pub copy: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}
