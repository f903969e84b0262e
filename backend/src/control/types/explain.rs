//! What would happen to a frame: the question and the answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A frame to be explained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainSpec {
    /// The port or uplink that would send it.
    pub from: String,
    /// The frame from its destination address on, as hexadecimal bytes; white space, `:` and `-` between them do not matter.
    pub frame: String,
    /// Its whole length in bytes, when `frame` is only its beginning: at least its first 192 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub len: Option<u64>,
}

/// One step of the pipeline and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    /// The step.
    pub step: String,
    /// `pass`, or `drop` and the drop reason.
    pub outcome: String,
    /// What the step had to say, in words.
    pub notes: Vec<String>,
}

/// What one port would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DestinationView {
    /// The port.
    pub port: String,
    /// How the port would see the frame's VLAN tag: `kept`, `removed`, `priority` or `vlan N`.
    pub tag: String,
    /// `deliver`, or `drop` where the port's own policy keeps the frame out.
    pub verdict: String,
    /// The drop reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it is a monitor's copy.
    pub copy: bool,
    /// In a flood: what the port's own policy said.
    pub steps: Vec<StepView>,
}

/// What would happen to a frame now, and why. Nothing is sent, learned or counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainView {
    /// The steps that were taken, in order.
    pub steps: Vec<StepView>,
    /// `drop`, `unicast`, `flood`, or `answer` where the switch itself answers.
    pub verdict: String,
    /// The drop reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The drop reason in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meaning: Option<String>,
    /// The ports it is meant for.
    pub destinations: Vec<DestinationView>,
}
