//! What a change of the switch is to extensions: the messages, in their order, each with its opposite.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use vswitch::PortId;
use vswitch::extension::Change;
use vswitch::extension::change::Edit;
use vswitch::port::PortKind;

use crate::control::list::{Item, List};
use crate::control::model::{PortConfig, Settings};
use crate::control::types::Policy;
use crate::control::{acl, rule};

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::control) enum Step {
    PortCreate {
        port: PortId,
        name: String,
        kind: PortKind,
    },
    Policy {
        port: PortId,
        name: String,
        before: Option<Value>,
        after: Option<Value>,
    },
    Switch {
        name: String,
        before: Value,
        after: Value,
    },
    /// One that has nothing to say but what extensions hear.
    Plain(Change<'static>),
    /// Settings that are one extension's own; told to that one only.
    Set {
        extension: String,
        port: Option<PortId>,
        before: Option<Value>,
        after: Option<Value>,
    },
}

impl Step {
    /// The message as all extensions hear it; `None` = it is about settings of one of them.
    pub(super) fn change(&self) -> Option<Change<'_>> {
        Some(match self {
            Self::PortCreate { port, name, kind } => Change::PortCreate { port: *port, name, kind: *kind },
            Self::Policy { port, name, before, after } => {
                let (edit, value) = match (before, after) {
                    (None, Some(after)) => (Edit::Add, after),
                    (_, Some(after)) => (Edit::Update, after),
                    (before, None) => (Edit::Delete, before.as_ref().unwrap_or(&Value::Null)),
                };
                Change::Policy { port: *port, edit, name, value }
            }
            Self::Switch { name, after, .. } => Change::Switch { name, value: after },
            Self::Plain(change) => change.clone(),
            Self::Set { .. } => return None,
        })
    }

    /// The port it is about.
    pub(super) fn port(&self) -> Option<PortId> {
        match self {
            Self::Set { port, .. } => *port,
            other => other.change().and_then(|change| change.port()),
        }
    }

    /// What makes it undone. What may not be refused, and only follows from what was, has none.
    pub(super) fn opposite(&self) -> Vec<Self> {
        match self.clone() {
            Self::PortCreate { port, .. } => {
                vec![Change::PortTeardown { port }.into(), Change::PortDelete { port }.into()]
            }
            Self::Policy { port, name, before, after } => {
                vec![Self::Policy { port, name, before: after, after: before }]
            }
            Self::Switch { name, before, after } => vec![Self::Switch { name, before: after, after: before }],
            Self::Plain(Change::NicCreate { port, .. }) => vec![Change::NicDelete { port }.into()],
            Self::Plain(Change::NicConnect { port }) => vec![Change::NicDisconnect { port }.into()],
            Self::Plain(Change::NicDisconnect { port }) => vec![Change::NicConnect { port }.into()],
            Self::Set { extension, port, before, after } => {
                vec![Self::Set { extension, port, before: after, after: before }]
            }
            Self::Plain(_) => Vec::new(),
        }
    }
}

impl From<Change<'static>> for Step {
    fn from(change: Change<'static>) -> Self {
        Self::Plain(change)
    }
}

/// A port comes, with its card: what it begins with, but for settings that are extensions' own.
pub(in crate::control) fn created(config: &PortConfig, mtu: u16) -> Vec<Step> {
    let (port, name, kind) = (config.id, config.name.clone(), config.device.kind());
    let mut steps = vec![Step::PortCreate { port, name, kind }];
    steps.extend(policies(config).into_iter().map(|(name, value)| Step::Policy {
        port,
        name,
        before: None,
        after: Some(value),
    }));
    steps.push(Change::NicCreate { port, mac: config.mac, mtu }.into());
    steps
}

/// The settings of a port that are extensions' own.
pub(super) fn own(config: &PortConfig) -> impl Iterator<Item = Step> + '_ {
    let nothing = BTreeMap::new();
    set(Some(config.id), &nothing, &config.extensions).into_iter()
}

/// A port goes.
pub(super) fn gone(config: &PortConfig, connected: bool) -> Vec<Step> {
    let port = config.id;
    let end = [Change::NicDelete { port }, Change::PortTeardown { port }, Change::PortDelete { port }];
    connected.then_some(Change::NicDisconnect { port }).into_iter().chain(end).map(Step::from).collect()
}

/// A port stays, with another configuration.
pub(in crate::control) fn changed(old: &PortConfig, new: &PortConfig) -> Vec<Step> {
    let port = new.id;
    let same_lists = old.acl == new.acl && old.rules == new.rules && old.metering == new.metering;
    let mut steps = Vec::new();
    if !(same_lists && old.policy == new.policy) {
        let (mut before, mut after) = (policies(old), policies(new));
        let names: BTreeSet<String> = before.keys().chain(after.keys()).cloned().collect();
        for name in names {
            let (before, after) = (before.remove(&name), after.remove(&name));
            if before != after {
                steps.push(Step::Policy { port, name, before, after });
            }
        }
    }
    steps.extend(set(Some(port), &old.extensions, &new.extensions));
    steps
}

/// Settings of the switch become others, and those that are extensions' own for the switch.
pub(in crate::control) fn switch(old: &Settings, new: &Settings) -> Vec<Step> {
    let (before, after) = (settings(old), settings(new));
    let mut steps = Vec::new();
    for (name, after) in after {
        let before = before.get(&name).cloned().unwrap_or_default();
        if before != after {
            steps.push(Step::Switch { name, before, after });
        }
    }
    steps.extend(set(None, &old.extensions.settings, &new.extensions.settings));
    steps
}

fn set(port: Option<PortId>, old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> Vec<Step> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let step = |name: &String| Step::Set {
        extension: name.clone(),
        port,
        before: old.get(name).cloned(),
        after: new.get(name).cloned(),
    };
    names.into_iter().filter(|name| old.get(*name) != new.get(*name)).map(step).collect()
}

/// What is not at its default, by its name as in a file; lists that have entries, whole.
fn policies(config: &PortConfig) -> BTreeMap<String, Value> {
    let (policy, default) = (keys(&config.policy), keys(&Policy::default()));
    let mut all: BTreeMap<String, Value> =
        policy.into_iter().filter(|(name, value)| default.get(name) != Some(value)).collect();
    let mut list = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            all.insert(name.to_owned(), value);
        }
    };
    list("acl", specs(&config.acl, acl::spec));
    list("rule", specs(&config.rules, rule::spec));
    list("metering", config.metering.as_ref().map(|_| Value::Bool(true)));
    all
}

fn specs<I: Item, S: Serialize>(list: &List<I>, spec: impl Fn(&I) -> S) -> Option<Value> {
    let specs = list.items().map(|item| serde_json::to_value(spec(item)).unwrap_or_default());
    (!list.is_empty()).then(|| Value::Array(specs.collect()))
}

fn settings(settings: &Settings) -> BTreeMap<String, Value> {
    let mut all = keys(settings);
    all.remove("extensions");
    all
}

/// The fields of a value by their names as in a file.
fn keys(value: &impl Serialize) -> BTreeMap<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(keys)) => {
            keys.into_iter().map(|(key, value)| (key.replace('_', "-"), value)).collect()
        }
        _ => BTreeMap::new(),
    }
}
