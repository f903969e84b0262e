//! How objects of network virtualization are written in every store: a key that is their name, and a JSON object with the fields that the
//! API has.
//!
//! An object is written in one way only: numbers in decimal, addresses in their canonical form, so that one object has one key. The key and
//! the value must say the same.

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use vswitch::nv::model::{Kind, NextHop, Record};

use crate::control::nv::check::{Spec, say};
use crate::control::nv::object::{Hop, Key, Object, RecordKey};
use crate::control::types::{GatewaySpec, NetworkSpec, ProviderSpec, RecordSpec, RouteSpec, SubnetSpec};

/// The key of an object.
pub(super) fn text(key: &Key) -> String {
    format!("{}s/{key}", key.noun())
}

/// What a key names, if it is one in its one spelling.
pub(super) fn key(text_of_key: &str) -> Option<Key> {
    let (noun, name) = text_of_key.split_once('/')?;
    let key = match noun {
        "networks" => Key::Network(name.to_owned()),
        "subnets" => Key::Subnet(name.parse().ok()?),
        "records" => Key::Record(record(name)?),
        "routes" => route(name)?,
        "providers" => Key::Provider(name.parse().ok()?),
        "gateways" => Key::Gateway(name.to_owned()),
        _ => return None,
    };
    // Another spelling of the same name would be a second object.
    (text(&key) == text_of_key).then_some(key)
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
    // Text and numbers under names cannot fail to be written.
    json.unwrap_or_default()
}

/// The object in the value of `key`, or what is wrong with it.
pub(super) fn object(key: &Key, value: &[u8]) -> Result<Object, String> {
    let object = match key {
        Key::Network(_) => judged::<NetworkSpec>(value),
        Key::Subnet(_) => judged::<SubnetSpec>(value),
        Key::Route(..) => judged::<RouteSpec>(value),
        Key::Record(_) => record_of(value),
        Key::Provider(_) => judged::<ProviderSpec>(value),
        Key::Gateway(_) => judged::<GatewaySpec>(value),
    }?;
    let said = object.key();
    if said == *key { Ok(object) } else { Err(format!("the value is that of {} '{said}'", said.noun())) }
}

/// A record, which may be one that was learned.
fn record_of(value: &[u8]) -> Result<Object, String> {
    let mut spec: RecordSpec =
        serde_json::from_slice(value).map_err(|e| format!("the value is not valid: {e}"))?;
    let is_learned = spec.kind.as_deref() == say::kind(Kind::Dynamic);
    if is_learned {
        spec.kind = None;
    }
    let object = spec.judge().map_err(|why| format!("{why}; valid: {}", why.hint()))?;
    Ok(match object {
        Object::Record(record) if is_learned => Object::Record(Record { kind: Kind::Dynamic, ..record }),
        object => object,
    })
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
                prefix: vec!["10.1.0.0/16".into(), "fd00:1::/64".into()],
                gateway: vec!["10.1.0.254".into()],
            }
            .judge(),
            RecordSpec {
                vsid: 5001,
                ca: Some("fd00:1::5".into()),
                mac: "02:00:00:00:00:05".into(),
                pa: "192.168.1.10".into(),
                encap: Some("vxlan".into()),
                next_pa: Some("192.168.1.11".into()),
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
            ProviderSpec {
                address: "192.168.1.10/24".into(),
                uplink: "wire".into(),
                vlan: Some(7),
                gateway: Some("192.168.1.1".into()),
            }
            .judge(),
            GatewaySpec {
                network: "blue".into(),
                uplink: "wire".into(),
                mode: "nat".into(),
                vlan: None,
                address: Some("203.0.113.5/24".into()),
            }
            .judge(),
        ];
        for object in objects {
            let object = object.expect("valid");
            let written = text(&object.key());
            assert_eq!(key(&written), Some(object.key()), "{written}");
            assert_eq!(super::object(&object.key(), &value(&object)), Ok(object), "{written}");
        }
    }

    #[test]
    fn a_key_has_one_spelling() {
        for wrong in [
            "networks",
            "nets/blue",
            "subnets/05001",
            "subnets/x",
            "records/5001/10.1.01.1",
            "records/5001",
            "records/5001/FD00::1",
            "records/5001/l2-only/02:00:00:00:00:0A",
            "routes/blue/0.0.0.0",
        ] {
            assert_eq!(key(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_value_that_says_another_name_than_its_key_is_wrong() {
        let key = Key::Subnet(5001);
        let other = br#"{"network":"blue","vsid":5002,"prefix":["10.1.0.0/16"]}"#;
        assert_eq!(object(&key, other), Err("the value is that of subnet '5002'".into()));
        for wrong in ["", "{}", "7", r#"{"network":"blue","vsid":5001,"prefix":["10.1.0.0/16"],"x":1}"#] {
            assert!(object(&key, wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
