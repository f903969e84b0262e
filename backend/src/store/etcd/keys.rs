//! Where objects are in etcd, and what is in their keys: one JSON object each, with the fields that the API has.
//!
//! | key below `/turnpike/v1/` | value |
//! |---|---|
//! | `networks/NAME` | `{"name":"blue","rdid":"…"}` |
//! | `subnets/VSID` | `{"network":"blue","vsid":5001,"prefixes":["10.1.0.0/16"]}` |
//! | `records/VSID/CA` | `{"vsid":5001,"ca":"10.1.1.1","mac":"…","pa":"192.168.1.10"}` |
//! | `records/VSID/l2-only/MAC` | `{"vsid":5001,"mac":"…","pa":"192.168.1.10","kind":"l2-only"}` |
//! | `routes/NETWORK/PREFIX/NEXT-HOP` | `{"network":"blue","prefix":"0.0.0.0/0","next_hop":"gateway"}` |
//! | `hosts/HOST-ID` | `{"host":"a","providers":[…],"gateways":[…]}`, there for as long as the host is |
//!
//! An object is written in one way only: numbers in decimal, addresses in their canonical form, so that one object has one key. The key and
//! the value must say the same.

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use vswitch::nv::model::NextHop;

use crate::control::nv::check::{Spec, say};
use crate::control::nv::object::{Hop, Key, Object, RecordKey};
use crate::control::types::{NetworkSpec, RecordSpec, RouteSpec, SubnetSpec};

/// What all keys begin with.
pub(super) const PREFIX: &str = "/turnpike/v1/";
/// What keys of hosts begin with, after [`PREFIX`].
pub(super) const HOSTS: &str = "hosts/";

/// The key of an object; `None` for objects that belong to one host.
pub(super) fn of(key: &Key) -> Option<String> {
    Some(match key {
        Key::Network(name) => format!("{PREFIX}networks/{name}"),
        Key::Subnet(vsid) => format!("{PREFIX}subnets/{vsid}"),
        Key::Route(network, prefix, Hop(hop)) => format!("{PREFIX}routes/{network}/{prefix}/{hop}"),
        Key::Record(key) => format!("{PREFIX}records/{key}"),
        Key::Provider(_) | Key::Gateway(_) => return None,
    })
}

/// The key of a host's presence.
pub(super) fn host(id: &str) -> String {
    format!("{PREFIX}{HOSTS}{id}")
}

/// What a key says it holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An object.
    Object(Key),
    /// A host's presence.
    Host(String),
}

/// What the key `bytes` holds, or why nothing can.
pub(super) fn meaning(bytes: &[u8]) -> Result<Meaning, String> {
    let unknown = || "the key is not one of turnpike's".to_owned();
    let text = std::str::from_utf8(bytes).map_err(|_| unknown())?;
    let rest = text.strip_prefix(PREFIX).ok_or_else(unknown)?;
    let (noun, name) = rest.split_once('/').ok_or_else(unknown)?;
    let key = match noun {
        "networks" => Some(Key::Network(name.to_owned())),
        "subnets" => name.parse().ok().map(Key::Subnet),
        "records" => record(name).map(Key::Record),
        "routes" => route(name),
        "hosts" => return Ok(Meaning::Host(name.to_owned())),
        _ => return Err(unknown()),
    };
    // One object, one key: another spelling of the same name would be a second one.
    let key = key.ok_or_else(unknown)?;
    if of(&key).as_deref() == Some(text) { Ok(Meaning::Object(key)) } else { Err(unknown()) }
}

fn record(name: &str) -> Option<RecordKey> {
    let (vsid, rest) = name.split_once('/')?;
    let vsid = vsid.parse().ok()?;
    match rest.strip_prefix("l2-only/") {
        Some(mac) => Some(RecordKey::L2Only(vsid, mac.parse().ok()?)),
        None => Some(RecordKey::Address(vsid, rest.parse::<IpAddr>().ok()?)),
    }
}

fn route(name: &str) -> Option<Key> {
    let (network, rest) = name.split_once('/')?;
    let (prefix, hop) = rest.rsplit_once('/')?;
    Some(Key::Route(network.to_owned(), prefix.parse().ok()?, Hop(hop.parse::<NextHop>().ok()?)))
}

/// The value of an object.
pub(super) fn value(object: &Object) -> Vec<u8> {
    let json = match object {
        Object::Network(it) => serde_json::to_vec(&say::network(it)),
        Object::Subnet(it) => serde_json::to_vec(&say::subnet(it)),
        Object::Route(it) => serde_json::to_vec(&say::route(it)),
        Object::Record(it) => serde_json::to_vec(&say::record(it)),
        Object::Provider(it) => serde_json::to_vec(&say::provider(it)),
        Object::Gateway(it) => serde_json::to_vec(&say::gateway(it)),
    };
    // Maps with text as keys and plain values cannot fail to be written.
    json.unwrap_or_default()
}

/// The object in the value of `key`, or what is wrong with it.
pub(super) fn object(key: &Key, value: &[u8]) -> Result<Object, String> {
    let object = match key {
        Key::Network(_) => judged::<NetworkSpec>(value),
        Key::Subnet(_) => judged::<SubnetSpec>(value),
        Key::Route(..) => judged::<RouteSpec>(value),
        Key::Record(_) => judged::<RecordSpec>(value),
        Key::Provider(_) | Key::Gateway(_) => Err("it belongs to one host".into()),
    }?;
    let said = object.key();
    if said == *key { Ok(object) } else { Err(format!("the value is that of {} '{said}'", said.noun())) }
}

fn judged<S: Spec + DeserializeOwned>(value: &[u8]) -> Result<Object, String> {
    let spec: S = serde_json::from_slice(value).map_err(|e| format!("the value is not valid: {e}"))?;
    spec.judge().map_err(|why| format!("{why}; valid: {}", why.hint()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_2_every_object_is_read_back_from_its_key_and_value() {
        let objects = [
            NetworkSpec { name: "blue".into(), rdid: "6f9619ff-8b86-d011-b42d-00c04fc964ff".into() }.judge(),
            SubnetSpec {
                network: "blue".into(),
                vsid: 5001,
                prefixes: vec!["10.1.0.0/16".into(), "fd00:1::/64".into()],
                gateways: vec!["10.1.0.254".into()],
            }
            .judge(),
            RecordSpec {
                vsid: 5001,
                ca: Some("fd00:1::5".into()),
                mac: "02:00:00:00:00:05".into(),
                pa: "192.168.1.10".into(),
                encap: Some("vxlan".into()),
                ..RecordSpec::default()
            }
            .judge(),
            RecordSpec {
                vsid: 5001,
                mac: "02:00:00:00:00:06".into(),
                pa: "fd00:2::10".into(),
                kind: Some("l2-only".into()),
                ..RecordSpec::default()
            }
            .judge(),
            RouteSpec {
                network: "blue".into(),
                prefix: "0.0.0.0/0".into(),
                next_hop: "gateway".into(),
                metric: 7,
            }
            .judge(),
        ];
        for object in objects {
            let object = object.expect("valid");
            let key = of(&object.key()).expect("a key");
            assert_eq!(meaning(key.as_bytes()), Ok(Meaning::Object(object.key())), "{key}");
            assert_eq!(super::object(&object.key(), &value(&object)), Ok(object), "{key}");
        }
    }

    #[test]
    fn a_key_has_one_spelling() {
        for key in [
            "networks", "nets/blue", "subnets/05001", "subnets/x", "records/5001/10.1.01.1", "records/5001",
            "records/5001/FD00::1", "records/5001/l2-only/02:00:00:00:00:0A", "routes/blue/0.0.0.0",
        ] {
            assert!(meaning(format!("{PREFIX}{key}").as_bytes()).is_err(), "{key}");
        }
        assert!(meaning(b"/other/v1/networks/blue").is_err() && meaning(&[0xff]).is_err());
    }

    #[test]
    fn a_value_that_says_another_name_than_its_key_is_wrong() {
        let key = Key::Subnet(5001);
        let other = br#"{"network":"blue","vsid":5002,"prefixes":["10.1.0.0/16"]}"#;
        assert_eq!(object(&key, other), Err("the value is that of subnet '5002'".into()));
        for wrong in ["", "{}", "7", r#"{"network":"blue","vsid":5001,"prefixes":["10.1.0.0/16"],"x":1}"#] {
            assert!(object(&key, wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
