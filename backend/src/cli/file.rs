//! Configuration files: TOML on one side, the document of the API on the other.
//!
//! A file has the words of the command line (`mac-spoofing`), JSON those of the API (`mac_spoofing`), and in a file a port's policy
//! stands beside its other keys. Whatever is wrong is told with its line.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};
use serde_path_to_error::Segment;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use vswitch::refusal::{Object, Refusal, Refused};

use crate::api::{distance, explain};
use crate::control::types::{Config, Policy};

/// Keys whose values are in the words of extensions, of which this program knows none.
const THEIR_OWN: [&str; 4] = ["config", "limits", "settings", "extension"];

/// Tables whose elements have a policy.
const WITH_POLICY: [&str; 2] = ["port", "uplink"];

/// What is wrong, and where in the text.
type Wrong = (Range<usize>, Refusal);

/// Reads a file; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Config, Refused> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    let name = path.to_string_lossy();
    let text = text.map_err(|e| {
        let why = Refusal::FileUnusable { reason: e.to_string() };
        why.of(Object::File { path: name.to_string(), line: None })
    })?;
    parse(&text).map_err(|(span, why)| {
        let line = text.get(..span.start).unwrap_or_default().matches('\n').count() + 1;
        why.of(Object::File { path: name.into_owned(), line: u32::try_from(line).ok() })
    })
}

fn parse(text: &str) -> Result<Config, Wrong> {
    let root = DeTable::parse(text).map_err(|e| {
        let span = e.span().unwrap_or(0..0);
        (span, Refusal::NotToml { reason: e.message().replace('\n', ", ") })
    })?;
    let policy_keys = policy_keys();
    let mut document = Map::new();
    for (key, value) in root.get_ref() {
        let known = WITH_POLICY.contains(&&**key.get_ref()).then_some(&policy_keys);
        document.insert(snake(key)?, json(value, Words::OfFile(known))?);
    }
    serde_path_to_error::deserialize(Value::Object(document)).map_err(|e| {
        let path: Vec<_> = e.path().iter().collect();
        let why = explain(&e.path().to_string(), &e.inner().to_string());
        (span(&root, &path), in_words_of_a_file(why, &path, &policy_keys))
    })
}

/// The keys of a policy, as they are in JSON.
fn policy_keys() -> BTreeSet<String> {
    match serde_json::to_value(Policy::default()) {
        Ok(Value::Object(keys)) => keys.into_iter().map(|(key, _)| key).collect(),
        _ => BTreeSet::new(),
    }
}

/// A key as JSON has it.
fn snake(key: &Spanned<std::borrow::Cow<'_, str>>) -> Result<String, Wrong> {
    let text = key.get_ref();
    if text.contains('_') {
        let known = vec![text.replace('_', "-")];
        return Err((key.span(), Refusal::UnknownKey { key: text.to_string(), known }));
    }
    Ok(text.replace('-', "_"))
}

/// In whose words keys are.
#[derive(Clone, Copy)]
enum Words<'a> {
    /// Of the command line; elements of an array get the keys of policy that are given here in a table of their own.
    OfFile(Option<&'a BTreeSet<String>>),
    /// Of an extension: as they are.
    OfExtension,
}

/// A TOML text that is one table, in an extension's own words, as JSON.
pub(super) fn own_words(text: &str) -> Result<Value, String> {
    let root = DeTable::parse(text).map_err(|e| e.message().replace('\n', ", "))?;
    let mut keys = Map::new();
    for (key, value) in root.get_ref() {
        let value = json(value, Words::OfExtension).map_err(|(_, why)| why.to_string())?;
        keys.insert(key.get_ref().to_string(), value);
    }
    Ok(Value::Object(keys))
}

/// A value as JSON has it.
fn json(value: &Spanned<DeValue<'_>>, words: Words<'_>) -> Result<Value, Wrong> {
    let wrong = |value: &str, valid: &str| {
        let (setting, value, valid) = ("a key".into(), value.to_owned(), valid.to_owned());
        Refusal::BadValue { setting, value, valid }
    };
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            let parsed = parsed.map_err(|_| (value.span(), wrong(number.as_str(), "a number below 2^63")))?;
            parsed.into()
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            Value::Number(parsed.ok_or_else(|| (value.span(), wrong(number.as_str(), "a finite number")))?)
        }
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| json(item, words));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let (mut keys, mut policy) = (Map::new(), Map::new());
            for (key, value) in table {
                let Words::OfFile(with_policy) = words else {
                    keys.insert(key.get_ref().to_string(), json(value, words)?);
                    continue;
                };
                let name = snake(key)?;
                let plain =
                    if THEIR_OWN.contains(&&*name) { Words::OfExtension } else { Words::OfFile(None) };
                match with_policy {
                    Some(known) if name == "policy" => {
                        let known = known.iter().map(|key| key.replace('_', "-")).collect();
                        return Err((key.span(), Refusal::UnknownKey { key: name, known }));
                    }
                    Some(known) if known.contains(&name) => policy.insert(name, json(value, plain)?),
                    _ => keys.insert(name, json(value, plain)?),
                };
            }
            if !policy.is_empty() {
                keys.insert("policy".into(), Value::Object(policy));
            }
            Value::Object(keys)
        }
    })
}

/// Where in the file the end of a path is, or the last part of it that is there.
fn span(root: &Spanned<DeTable<'_>>, path: &[&Segment]) -> Range<usize> {
    let (mut span, mut table, mut value) = (root.span(), Some(root.get_ref()), None);
    for segment in path {
        match segment {
            Segment::Map { key } if key != "policy" => {
                let wanted = key.replace('_', "-");
                let found = table.and_then(|t| t.iter().find(|(key, _)| *key.get_ref() == wanted));
                let Some((key, found)) = found else { break };
                (span, value) = (key.span(), Some(found));
            }
            Segment::Seq { index } => {
                let items = value.and_then(|v: &Spanned<DeValue<'_>>| v.get_ref().as_array());
                let Some(found) = items.and_then(|items| items.get(*index)) else { break };
                (span, value) = (found.span(), Some(found));
            }
            _ => continue,
        }
        table = value.and_then(|v| v.get_ref().as_table());
    }
    span
}

/// A refusal with keys as a file has them.
fn in_words_of_a_file(why: Refusal, path: &[&Segment], policy_keys: &BTreeSet<String>) -> Refusal {
    let last = path.iter().rev().find_map(|segment| match segment {
        Segment::Map { key } => Some(key.replace('_', "-")),
        _ => None,
    });
    match why {
        Refusal::UnknownKey { key, mut known } => {
            if known.iter().any(|key| key == "policy") {
                known.retain(|key| key != "policy");
                known.extend(policy_keys.iter().cloned());
            }
            let key = key.replace('_', "-");
            let mut known: Vec<_> = known.iter().map(|key| key.replace('_', "-")).collect();
            known.sort_by_cached_key(|k| distance(k, &key));
            Refusal::UnknownKey { key, known }
        }
        Refusal::BadValue { setting, value, valid } => {
            Refusal::BadValue { setting: last.unwrap_or(setting), value, valid }
        }
        Refusal::Missing { what, .. } => {
            let valid = "this key in the table that begins here".into();
            Refusal::Missing { what: what.replace('_', "-"), valid }
        }
        other => other,
    }
}

/// The text of a file for a document.
pub(super) fn text(config: &Config) -> Result<String, toml::ser::Error> {
    let mut document = toml::Table::try_from(config)?;
    for (key, value) in &mut document {
        let with_policy = WITH_POLICY.contains(&key.as_str());
        for_file(value, with_policy);
    }
    // Keys of the root are the names of tables and have no `_`.
    let tables = toml::to_string(&document)?;
    let head = "# A Turnpike switch: 'turnpike apply' makes a switch equal to this file.\n";
    Ok(if tables.is_empty() { head.to_owned() } else { format!("{head}\n{tables}") })
}

/// Gives the keys in a value the names they have in a file, and policy its place.
fn for_file(value: &mut toml::Value, with_policy: bool) {
    match value {
        toml::Value::Array(items) => items.iter_mut().for_each(|item| for_file(item, with_policy)),
        toml::Value::Table(table) => {
            let mut renamed = toml::Table::new();
            for (key, mut value) in std::mem::take(table) {
                if !THEIR_OWN.contains(&key.as_str()) {
                    for_file(&mut value, false);
                }
                match value {
                    toml::Value::Table(policy) if with_policy && key == "policy" => renamed.extend(policy),
                    value => {
                        renamed.insert(key.replace('_', "-"), value);
                    }
                }
            }
            *table = renamed;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[switch]
kind = "internal"
rx-wait-us = 70

[[uplink]]
name = "up"
device = "eth1"
link = "down"

[[port]]
name = "web"
socket = "/run/web.sock"
queues = 2
vlan = "access:10"
dhcp-guard = true
addresses = ["10.0.0.2", "fd00::/64"]
metering = true

[[port.acl]]
action = "deny"
direction = "both"
remote = "10.0.0.0/8"

[[port.rule]]
action = "allow"
direction = "in"
weight = 0x10
protocol = 6
local-port = "80-90"
stateful = true
idle-timeout = "1m"

[[port]]
name = "host"
tap = "tp0"
"#;

    fn refusal(text: &str) -> (usize, String) {
        let (span, why) = parse(text).expect_err("refused");
        (text[..span.start].matches('\n').count() + 1, format!("{why}; valid: {}", why.hint()))
    }

    #[test]
    fn a_file_has_the_words_of_the_command_line() {
        let config = parse(FILE).unwrap();
        assert_eq!(config.switch.rx_wait_us, Some(Some(70)));
        let web = &config.port[0];
        assert_eq!((web.queues, web.metering), (Some(2), true));
        assert_eq!(web.policy.dhcp_guard, Some(Some(true)));
        assert_eq!(web.policy.vlan, Some(Some("access:10".into())));
        let rule = &web.rule[0];
        assert_eq!((rule.weight, rule.protocol.as_deref(), rule.stateful), (16, Some("6"), true));
        assert_eq!(config.port[1].tap.as_deref(), Some("tp0"));
        assert!(config.uplink[0].policy.link.is_some());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = parse(FILE).unwrap();
        let text = text(&config).unwrap();
        assert_eq!(parse(&text).unwrap(), config, "{text}");
        for part in
            ["[switch]\n", "[[port]]\nname = \"web\"\n", "[[port.acl]]\n", "local-port = \"80-90\"", "vlan ="]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(parse(&super::text(&Config::default()).unwrap()).unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_key_first() {
        for (from, to, line, key, nearest) in [
            ("dhcp-guard", "dhcp-gard", 16, "dhcp-gard", "dhcp-guard"),
            ("queues", "queue", 14, "queue", "queues"),
            ("rx-wait-us", "rx-wait", 4, "rx-wait", "rx-wait-us"),
            ("remote", "romete", 23, "romete", "remote"),
            ("local-port", "local-prot", 30, "local-prot", "local-port"),
            ("[switch]", "[swich]", 2, "swich", "switch"),
            ("\nlink", "\nlnk", 9, "lnk", "link"),
            ("dhcp-guard", "dhcp_guard", 16, "dhcp_guard", "dhcp-guard"),
        ] {
            let (at, text) = refusal(&FILE.replace(from, to));
            assert_eq!(at, line, "{to}: {text}");
            assert!(text.starts_with(&format!("'{key}' is not known here; valid: {nearest}")), "{text}");
        }
        let (line, text) = refusal("[[port]]\nname = \"a\"\n\n[port.policy]\nvlan = \"none\"");
        assert_eq!(line, 4);
        assert!(text.starts_with("'policy' is not known here; valid: "), "{text}");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key_and_line() {
        let cases = [
            (FILE.replace("queues = 2", "queues = \"two\""), 14, "is not a value of queues"),
            (FILE.replace("dhcp-guard = true", "dhcp-guard = 1"), 16, "is not a value of dhcp-guard"),
            (FILE.replace("\"internal\"", "\"public\""), 3, "'public' is not a value of kind"),
            (FILE.replace("weight = 0x10\n", ""), 25, "weight is missing"),
            (FILE.replace("name = \"web\"\n", ""), 11, "name is missing"),
            (FILE.replace("= 70", "= 99999999999999999999"), 4, "'99999999999999999999' is not a value"),
            (FILE.replace("= 70", "= "), 4, "it is not TOML"),
            (FILE.replace("queues = 2", "queues = 2\nqueues = 3"), 15, "it is not TOML"),
        ];
        for (file, line, start) in cases {
            let (at, text) = refusal(&file);
            assert!(at == line && text.contains(start), "line {at}: {text}");
        }
    }
}
