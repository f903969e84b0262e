//! What is stored of extensions: which are enabled, in which order, and their settings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vswitch::Tally;
use vswitch::extension::{FailMode, Kind};
use vswitch::refusal::Refusal;

/// Longest configuration or settings of an extension, in bytes of JSON. Those of a port travel with it.
pub const LONGEST: usize = 64 * 1024;

/// What a switch has of extensions beside the modules themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Those that are enabled, in the order of the stack.
    #[serde(default)]
    pub enabled: Vec<Listing>,
    /// Settings of their own for the switch, by name, whether they are enabled or not.
    #[serde(default)]
    pub settings: BTreeMap<String, Value>,
}

/// One that is enabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Its name.
    pub name: String,
    /// Its kind, which is known even when it cannot be started.
    pub kind: Kind,
    /// What its instance was made with.
    #[serde(default)]
    pub config: Value,
    /// What its module may take; null = what one may that is not said.
    #[serde(default)]
    pub limits: Value,
    /// What happens to frames when it has failed.
    #[serde(default)]
    pub fail: FailMode,
    /// Where frames are counted that it drops, by its reason.
    #[serde(default)]
    pub tallies: BTreeMap<String, Tally>,
}

impl Listing {
    /// Whether an instance made from this is one made from `other`.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.config == other.config
            && self.limits == other.limits
            && self.fail == other.fail
    }
}

impl Listed {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.enabled.is_empty() && self.settings.is_empty()
    }

    /// Where frames are counted that extensions drop.
    pub fn tallies(&self) -> impl Iterator<Item = Tally> + '_ {
        self.enabled.iter().flat_map(|listing| listing.tallies.values().copied())
    }

    /// The place of an extension, from 0.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.enabled.iter().position(|listing| listing.name == name)
    }
}

/// That a value can be kept, and written as a file has it. Nothing at all is allowed.
pub(super) fn keepable(setting: &str, value: &Value) -> Result<(), Refusal> {
    let bad = |value: String, valid: &str| {
        Err(Refusal::BadValue { setting: setting.to_owned(), value, valid: valid.to_owned() })
    };
    if !matches!(value, Value::Null | Value::Object(_)) {
        return bad(short(value), "keys and values");
    }
    let length = value.to_string().len();
    if length > LONGEST {
        return bad(format!("{length} bytes"), &format!("up to {LONGEST} bytes"));
    }
    match value {
        Value::Object(keys) => match keys.values().find_map(unwritable) {
            Some(part) => bad(short(part), "texts, numbers below 2^63, true, false, lists and tables"),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The part of a value that a file has no words for.
fn unwritable(value: &Value) -> Option<&Value> {
    match value {
        Value::Null => Some(value),
        Value::Number(number) if number.is_u64() && !number.is_i64() => Some(value),
        Value::Array(items) => items.iter().find_map(unwritable),
        Value::Object(keys) => keys.values().find_map(unwritable),
        _ => None,
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_what_a_file_can_say() {
        for good in
            [json!(null), json!({}), json!({"a": [1, {"b": "c"}], "d": 1.5, "e": true, "f": i64::MAX})]
        {
            assert_eq!(keepable("config", &good), Ok(()), "{good}");
        }
        let long = json!({"a": "x".repeat(LONGEST)});
        for bad in [json!(1), json!([1]), json!("x"), json!({"a": null}), json!({"a": [u64::MAX]}), long] {
            assert!(matches!(keepable("config", &bad), Err(Refusal::BadValue { .. })), "{bad}");
        }
    }
}
