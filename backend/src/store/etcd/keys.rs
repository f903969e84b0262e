//! Where objects are in etcd, and what is in their keys: one JSON object each, with the fields that the API has.
//!
//! | key below `/turnpike/v1/` | value |
//! |---|---|
//! | `networks/NAME` | `{"name":"blue","rdid":"…"}` |
//! | `subnets/VSID` | `{"network":"blue","vsid":5001,"prefix":["10.1.0.0/16"]}` |
//! | `records/VSID/CA` | `{"vsid":5001,"ca":"10.1.1.1","mac":"…","pa":"192.168.1.10"}` |
//! | `records/VSID/CA` | `{…,"next_pa":"192.168.1.11"}`: its guest is being moved to the host that has this address, which says so |
//! | `records/VSID/l2-only/MAC` | `{"vsid":5001,"mac":"…","pa":"192.168.1.10","kind":"l2-only"}` |
//! | `records/VSID/CA` | `{…,"kind":"dynamic"}`: one that a host learned, there for as long as the host is |
//! | `routes/NETWORK/PREFIX/NEXT-HOP` | `{"network":"blue","prefix":"0.0.0.0/0","next_hop":"gateway"}` |
//! | `hosts/HOST-ID` | `{"host":"a","providers":[…],"gateways":[…]}`, there for as long as the host is |
//!
//! Provider addresses and gateways are a host's own: it keeps them itself, and says them in `hosts/`.

use super::rpc::end_of;
use crate::control::nv::object::Key;
use crate::store::objects;

/// What all keys begin with.
pub(super) const PREFIX: &str = "/turnpike/v1/";

/// The key of an object; `None` for objects that belong to one host.
pub(super) fn of(key: &Key) -> Option<String> {
    (!key.is_local()).then(|| format!("{PREFIX}{}", objects::text(key)))
}

/// The key of a host's presence.
pub(super) fn host(id: &str) -> String {
    format!("{PREFIX}hosts/{id}")
}

/// The part of the store that one watch follows. The keys of records are between those of other objects, which hence are two parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Scope {
    /// Other objects, those before records.
    Before,
    /// Other objects, those after records.
    After,
    /// The records of one virtual subnet.
    Records(u32),
}

impl Scope {
    /// All but records.
    pub(super) const OBJECTS: [Self; 2] = [Self::Before, Self::After];

    /// Where the key of an object is.
    pub(super) fn of(key: &Key) -> Self {
        match key {
            Key::Record(key) => Self::Records(key.vsid()),
            Key::Network(_) => Self::Before,
            _ => Self::After,
        }
    }

    /// Its first key and the one after its last.
    pub(super) fn range(self) -> (Vec<u8>, Vec<u8>) {
        let (first, last) = (PREFIX.as_bytes().to_vec(), end_of(PREFIX.as_bytes()));
        let (records, after) = all_records();
        match self {
            Self::Before => (first, records),
            Self::After => (after, last),
            Self::Records(vsid) => {
                let prefix = format!("{PREFIX}records/{vsid}/").into_bytes();
                let end = end_of(&prefix);
                (prefix, end)
            }
        }
    }
}

/// The first key of all records and the one after the last.
pub(super) fn all_records() -> (Vec<u8>, Vec<u8>) {
    let prefix = format!("{PREFIX}records/").into_bytes();
    let end = end_of(&prefix);
    (prefix, end)
}

/// What a key says it holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// An object.
    Object(Key),
    /// A host's presence.
    Host(String),
}

/// What the key `bytes` holds; `None` if nothing of turnpike's.
pub(super) fn meaning(bytes: &[u8]) -> Option<Meaning> {
    let rest = std::str::from_utf8(bytes).ok()?.strip_prefix(PREFIX)?;
    match rest.strip_prefix("hosts/") {
        Some(id) => Some(Meaning::Host(id.to_owned())),
        None => objects::key(rest).filter(|key| !key.is_local()).map(Meaning::Object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_9_keys_are_below_one_prefix_and_name_what_all_hosts_share() {
        let key = Key::Subnet(5001);
        assert_eq!(of(&key).as_deref(), Some("/turnpike/v1/subnets/5001"));
        assert_eq!(meaning(b"/turnpike/v1/subnets/5001"), Some(Meaning::Object(key)));
        assert_eq!(meaning(host("a").as_bytes()), Some(Meaning::Host("a".into())));
        assert_eq!(of(&Key::Provider([192, 0, 2, 1].into())), None);
        for other in [&b"/turnpike/v1/providers/192.0.2.1"[..], b"/other/v1/subnets/5001", &[0xff]] {
            assert_eq!(meaning(other), None);
        }
    }

    #[test]
    fn s14_9_every_key_is_followed_by_the_watch_of_its_part() {
        let record = Key::Record(crate::control::nv::object::RecordKey::Address(5001, [10, 1, 0, 2].into()));
        for (key, scope) in [
            (Key::Network("blue".into()), Scope::Before),
            (Key::Subnet(5001), Scope::After),
            (record, Scope::Records(5001)),
        ] {
            assert_eq!(Scope::of(&key), scope);
            let text = of(&key).expect("shared").into_bytes();
            let others = [Scope::Before, Scope::After, Scope::Records(5001), Scope::Records(500)];
            for other in others {
                let (first, end) = other.range();
                assert_eq!((first..end).contains(&text), other == scope, "{key} in {other:?}");
            }
        }
        let (first, end) = Scope::Before.range();
        assert!((first..end).contains(&host("a").into_bytes()));
    }
}
