//! `turnpike extension …`

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use vswitch::extension::FailMode;
use vswitch::refusal::{Object, Refusal};

use super::client::{Client, object};
use super::table::{count, pairs, table};
use super::{Answer, Failure, Outcome, file};
use crate::control::check;
use crate::control::types::{AvailableExtension, ExtensionMove, ExtensionView, NewExtension};

const EXAMPLES: &str = "\
Extensions stand in a stack: what a guest sends goes down it, captures first, then filters, then the one forwarding extension there may be; \
what a guest receives goes up it. The position counts from 1, nearest to the guests.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Extension {
    /// List the enabled extensions, in the order of the stack.
    List {
        /// List those that can be enabled instead, by name.
        #[arg(long)]
        available: bool,
    },
    /// Enable an extension.
    Enable(Enable),
    /// Disable an extension; its settings are kept.
    Disable {
        /// Its name.
        name: String,
    },
    /// Give an extension another place among those of its kind.
    Move {
        /// Its name.
        name: String,
        /// The new position, from 1.
        #[arg(long, value_name = "POSITION")]
        at: u64,
    },
    /// Load a WebAssembly module, so that it can be enabled; it is kept in the state directory.
    Load {
        /// The module.
        #[arg(value_name = "FILE.wasm")]
        file: PathBuf,
        /// The extension's name [default: that of the file without .wasm].
        #[arg(long)]
        name: Option<String>,
    },
    /// Forget a module that is not enabled.
    Unload {
        /// Its name.
        name: String,
    },
    /// Show an extension: its state, counters and settings, and what it says of itself.
    Show {
        /// Its name.
        name: String,
        /// What it says of this port.
        #[arg(long)]
        port: Option<String>,
    },
    /// Give an extension settings of its own, in the place of those it has; one that is not enabled gets them when it is.
    Set(Set),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fail {
    Open,
    Closed,
}

#[derive(Debug, Args)]
pub(super) struct Enable {
    /// Its name.
    name: String,

    /// What it is started with: a file of TOML, or of JSON if it ends in .json, with the keys that the extension has.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Its position in the stack, from 1 [default: the first of its kind].
    #[arg(long, value_name = "POSITION")]
    at: Option<u64>,

    /// What happens to frames when it has failed: they pass it by, or end [default: open].
    #[arg(long, value_enum, value_name = "open|closed", hide_possible_values = true)]
    fail: Option<Fail>,

    /// What its module may take; may be given several times.
    #[arg(long = "limit", value_name = "KEY=VALUE")]
    limits: Vec<String>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("settings").required(true).args(["pairs", "file", "none"]))]
pub(super) struct Set {
    /// Its name.
    name: String,

    /// The settings; a value is a text, or what JSON has.
    #[arg(value_name = "KEY=VALUE")]
    pairs: Vec<String>,

    /// For this port [default: for the switch].
    #[arg(long)]
    port: Option<String>,

    /// A file with the settings: TOML, or JSON if it ends in .json.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// No settings.
    #[arg(long)]
    none: bool,
}

impl Extension {
    pub(super) fn run(self, client: &Client, answer: &Answer) -> Outcome {
        match self {
            Self::List { available: false } => {
                answer.print(&client.get::<Vec<ExtensionView>>("/v1/extensions")?, |all| list(all))
            }
            Self::List { available: true } => {
                let all: Vec<AvailableExtension> = client.get("/v1/available-extensions")?;
                answer.print(&all, |all| available(all))
            }
            Self::Enable(enable) => enable.run(client, answer),
            Self::Disable { name } => {
                client.delete(&path(&name)?)?;
                answer.print(&json!({"disabled": name}), |_| format!("extension '{name}': disabled"))
            }
            Self::Move { name, at } => {
                let view: ExtensionView = client.patch(&path(&name)?, &ExtensionMove { at })?;
                answer.print(&view, placed)
            }
            Self::Load { file, name } => {
                let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
                let name = name.or(stem).unwrap_or_default();
                let bytes = std::fs::read(&file).map_err(|e| unusable(&file, &e.to_string()))?;
                let length = bytes.len() as u64;
                client.put_bytes(&format!("{}/module", path(&name)?), bytes)?;
                answer.print(&json!({"loaded": name}), |_| {
                    format!("extension '{name}': loaded ({})", super::table::bytes(length))
                })
            }
            Self::Unload { name } => {
                client.delete(&format!("{}/module", path(&name)?))?;
                answer.print(&json!({"unloaded": name}), |_| format!("extension '{name}': unloaded"))
            }
            Self::Show { name, port } => {
                let view: ExtensionView =
                    client.get(&format!("{}{}", path(&name)?, query(port.as_deref())?))?;
                answer.print(&view, |view| show(view, port.as_deref()))
            }
            Self::Set(set) => set.run(client, answer),
        }
    }
}

impl Enable {
    fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let limits = if self.limits.is_empty() { Value::Null } else { values(&self.limits)? };
        let new = NewExtension {
            config: self.config.as_deref().map_or(Ok(Value::Null), read)?,
            limits,
            fail: match self.fail {
                Some(Fail::Closed) => FailMode::Closed,
                _ => FailMode::Open,
            },
            at: self.at,
            name: self.name,
        };
        path(&new.name)?;
        answer.print(&client.post::<ExtensionView>("/v1/extensions", &new)?, placed)
    }
}

impl Set {
    fn run(self, client: &Client, answer: &Answer) -> Outcome {
        let target = format!("{}/settings{}", path(&self.name)?, query(self.port.as_deref())?);
        let settings = match &self.file {
            _ if self.none => None,
            Some(file) => Some(read(file)?),
            None => Some(values(&self.pairs)?),
        };
        match &settings {
            None => client.delete(&target)?,
            Some(settings) => client.put_bytes(&target, settings.to_string().into_bytes())?,
        }
        let about = self.port.as_ref().map_or_else(String::new, |port| format!(", port '{port}'"));
        answer.print(&json!({"extension": self.name, "port": self.port, "settings": settings}), |_| {
            let what = if settings.is_some() { "set" } else { "no settings" };
            format!("extension '{}'{about}: {what}", self.name)
        })
    }
}

fn path(name: &str) -> Result<String, Failure> {
    object("extensions", name, Object::Extension)
}

fn query(port: Option<&str>) -> Result<String, Failure> {
    let Some(port) = port else { return Ok(String::new()) };
    // A name needs no escaping.
    check::name(port).map_err(|why| why.of(Object::Port(port.to_owned())))?;
    Ok(format!("?port={port}"))
}

fn unusable(path: &Path, reason: &str) -> Failure {
    let object = Object::File { path: path.to_string_lossy().into_owned(), line: None };
    Refusal::FileUnusable { reason: reason.to_owned() }.of(object).into()
}

/// A file in an extension's own words.
fn read(path: &Path) -> Result<Value, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| unusable(path, &e.to_string()))?;
    if path.extension().is_some_and(|end| end == "json") {
        serde_json::from_str(&text).map_err(|e| unusable(path, &format!("it is not JSON: {e}")))
    } else {
        file::own_words(&text).map_err(|e| unusable(path, &format!("it is not TOML: {e}")))
    }
}

/// `KEY=VALUE`, where a value is what JSON has, or else a text.
fn values(pairs: &[String]) -> Result<Value, Failure> {
    let mut keys = Map::new();
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            let (value, valid) = (pair.clone(), "KEY=VALUE".to_owned());
            let why = Refusal::BadValue { setting: "settings".into(), value, valid };
            return Err(why.of(Object::Request).into());
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        keys.insert(key.to_owned(), value);
    }
    Ok(Value::Object(keys))
}

fn placed(view: &ExtensionView) -> String {
    let position = view.position.map_or_else(|| "none".to_owned(), |position| position.to_string());
    let kind = view.kind.as_deref().unwrap_or("extension");
    format!("extension '{}': {kind}, position {position}, {}", view.name, view.state)
}

fn list(all: &[ExtensionView]) -> String {
    if all.is_empty() {
        return "no extension is enabled; 'turnpike extension list --available' shows which can be".into();
    }
    let row = |view: &ExtensionView| {
        vec![
            view.position.map(|position| position.to_string()).unwrap_or_default(),
            view.name.clone(),
            view.kind.clone().unwrap_or_default(),
            view.state.clone(),
            fail(view).to_owned(),
            count(view.counters.judged),
            count(view.counters.dropped.values().sum()),
            view.fault.clone().unwrap_or_else(|| "-".into()),
        ]
    };
    let heads = [">POSITION", "NAME", "KIND", "STATE", "FAIL", ">JUDGED", ">DROPPED", "FAULT"];
    table(&heads, all.iter().map(row))
}

fn available(all: &[AvailableExtension]) -> String {
    let row = |one: &AvailableExtension| {
        vec![
            one.name.clone(),
            one.kind.clone().unwrap_or_else(|| "-".into()),
            one.origin.clone(),
            if one.enabled { "yes" } else { "no" }.to_owned(),
            one.problem.clone().unwrap_or_else(|| one.about.clone()),
        ]
    };
    table(&["NAME", "KIND", "ORIGIN", "ENABLED", "ABOUT"], all.iter().map(row))
}

fn fail(view: &ExtensionView) -> &'static str {
    match view.fail {
        Some(FailMode::Open) => "open",
        Some(FailMode::Closed) => "closed",
        None => "-",
    }
}

fn show(view: &ExtensionView, port: Option<&str>) -> String {
    let mut rows = vec![
        ("name", view.name.clone()),
        ("kind", view.kind.clone().unwrap_or_else(|| "-".into())),
        ("position", view.position.map_or_else(|| "-".into(), |position| position.to_string())),
        ("state", view.state.clone()),
    ];
    if let Some(fault) = &view.fault {
        rows.push(("fault", fault.clone()));
    }
    if view.fail.is_some() {
        rows.push(("fail", fail(view).to_owned()));
    }
    let mut some = |name, value: &Value| {
        if !value.is_null() {
            rows.push((name, value.to_string()));
        }
    };
    some("config", &view.config);
    some("limits", &view.limits);
    some("settings", view.settings.as_ref().unwrap_or(&Value::Null));
    some(if port.is_some() { "status of port" } else { "status" }, &view.status);
    if view.position.is_some() {
        let c = &view.counters;
        rows.push(("judged", count(c.judged)));
        rows.push(("replaced", count(c.replaced)));
        rows.push(("injected", count(c.injected)));
        rows.push(("refused", count(c.refused)));
        rows.push(("sampled", format!("{} of {}", count(c.sampled), count(c.pool))));
    }
    let dropped: Vec<_> =
        view.counters.dropped.iter().map(|(why, n)| (format!("dropped {why}"), count(*n))).collect();
    let ports: Vec<_> =
        view.ports.iter().map(|(port, settings)| (format!("port {port}"), settings.to_string())).collect();
    rows.extend(dropped.iter().chain(&ports).map(|(name, value)| (name.as_str(), value.clone())));
    pairs(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_json_has_or_texts() {
        let pairs = ["a=1", "b=true", "c=web", "d=[\"x\"]", "e=10.0.0.1:6343", "f="].map(str::to_owned);
        let wanted = json!({"a": 1, "b": true, "c": "web", "d": ["x"], "e": "10.0.0.1:6343", "f": ""});
        assert_eq!(values(&pairs).ok(), Some(wanted));
        assert!(values(&["a".to_owned()]).is_err());
        assert!(values(&["=a".to_owned()]).is_err());
    }

    #[test]
    fn a_file_is_in_the_extensions_own_words() {
        let text = "my_key = 1\nmy-key = 2\n[a-b]\nc_d = [1.5, true]\n";
        let wanted = json!({"my_key": 1, "my-key": 2, "a-b": {"c_d": [1.5, true]}});
        assert_eq!(file::own_words(text), Ok(wanted));
    }
}
