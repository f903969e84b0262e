//! Extensions: what is asked for and what is shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use vswitch::extension::FailMode;

fn yes() -> bool {
    true
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// An extension that is to be enabled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExtension {
    /// Its name.
    pub name: String,
    /// What its instance is made with; the extension says which keys there are.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub config: Value,
    /// What a module may take (default: what is not said).
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub limits: Value,
    /// What happens to frames when it has failed: `open` (they pass, the default) or `closed` (they end).
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(value_type = Option<String>)]
    pub fail: FailMode,
    /// Its place in the stack, from 1; it must be among those of its kind (default: the first of its kind).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

/// Another place for an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtensionMove {
    /// Its place in the stack, from 1; it must be among those of its kind.
    pub at: u64,
}

/// An extension in a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigExtension {
    /// Its name.
    pub name: String,
    /// Whether it is enabled (default: it is); one that is not has settings that are kept for it.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub enabled: bool,
    /// What happens to frames when it has failed: `open` (default) or `closed`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(value_type = Option<String>)]
    pub fail: FailMode,
    /// What its instance is made with.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub config: Value,
    /// What a module may take.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub limits: Value,
    /// Settings of its own for the switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
}

impl Default for ConfigExtension {
    fn default() -> Self {
        Self {
            name: String::new(),
            enabled: true,
            fail: FailMode::Open,
            config: Value::Null,
            limits: Value::Null,
            settings: None,
        }
    }
}

/// What an extension did since it was enabled; what it dropped is counted on over restarts of the switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExtensionCounters {
    /// Frames it was asked about; most frames of a flow pass on the first one's answer.
    pub judged: u64,
    /// Frames it changed.
    pub replaced: u64,
    /// Frames it added.
    pub injected: u64,
    /// Frames and datagrams of it that there was no room for.
    pub refused: u64,
    /// Frames that samples were drawn from.
    pub pool: u64,
    /// Frames drawn as samples.
    pub sampled: u64,
    /// Frames it dropped, by its own reasons.
    pub dropped: BTreeMap<String, u64>,
}

/// An extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExtensionView {
    /// Its name.
    pub name: String,
    /// Enabled: `capture`, `filter` or `forwarding`.
    pub kind: Option<String>,
    /// Enabled: its place in the stack, from 1, which is nearest to the guests.
    pub position: Option<usize>,
    /// `running`, `failed` or `disabled`.
    pub state: String,
    /// Why it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Enabled: what happens to frames when it has failed: `open` or `closed`.
    #[schema(value_type = Option<String>)]
    pub fail: Option<FailMode>,
    /// What its instance was made with.
    pub config: Value,
    /// What its module may take, where that was said.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub limits: Value,
    /// Settings of its own for the switch.
    pub settings: Option<Value>,
    /// Settings of its own for ports, by port.
    pub ports: BTreeMap<String, Value>,
    /// What it says of itself, or of the port that was asked for.
    pub status: Value,
    /// What it did.
    pub counters: ExtensionCounters,
}

/// An extension that can be enabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AvailableExtension {
    /// Its name.
    pub name: String,
    /// `capture`, `filter` or `forwarding`; nothing if its module is not valid.
    pub kind: Option<String>,
    /// `built-in` or `module`.
    pub origin: String,
    /// Whether it is enabled.
    pub enabled: bool,
    /// One line about it.
    pub about: String,
    /// What is wrong with its module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
