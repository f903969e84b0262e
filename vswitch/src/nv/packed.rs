//! How a lookup record is three words of key and three of value in the table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::model::{Encap, Kind};
use super::overlay::PaId;
use super::peers::LIMIT;
use super::records::{Of, View};
use super::table;
use crate::Mac;

const PA_BITS: u32 = 16;
const _: () = assert!(LIMIT <= 1 << PA_BITS);

pub(super) fn key(vsid: u32, of: Of) -> table::Key {
    let (low, high, family) = match of {
        Of::Address(IpAddr::V4(v4)) => (u64::from(u32::from(v4)), 0, 0),
        Of::Address(IpAddr::V6(v6)) => {
            let bits = u128::from(v6);
            (bits as u64, (bits >> 64) as u64, 1)
        }
        Of::Station(mac) => (mac.to_u64(), 0, 2),
        Of::Gateway(mac) => (mac.to_u64(), 0, 3),
    };
    [low, high, u64::from(vsid) << 2 | family]
}

pub(super) fn unkey(key: &table::Key) -> Option<(u32, Of)> {
    let of = match key[2] & 3 {
        0 => Of::Address(Ipv4Addr::from(u32::try_from(key[0]).ok()?).into()),
        1 => Of::Address(Ipv6Addr::from(u128::from(key[1]) << 64 | u128::from(key[0])).into()),
        2 => Of::Station(Mac::from_u64(key[0])),
        _ => Of::Gateway(Mac::from_u64(key[0])),
    };
    Some((u32::try_from(key[2] >> 2).ok()?, of))
}

/// Address, kind, encapsulation, place, and which of the optional hosts there are in the first word; the numbers of provider addresses in the
/// second; the move in the third.
pub(super) fn words(view: &View) -> table::Value {
    let kind = match view.kind {
        Kind::Static => 0,
        Kind::Dynamic => 1,
        Kind::L2Only => 2,
        Kind::Gateway => 3,
    };
    let encap = match view.encap {
        Encap::Nvgre => 0,
        Encap::Vxlan => 1,
        Encap::Rewrite => 2,
    };
    let places = [Some(view.pa), Some(view.wire), view.previous, view.next];
    let numbers = (0..).zip(places).filter_map(|(n, id)| Some(u64::from(id?.0) << (n * PA_BITS)));
    let Mac([m0, m1, m2, m3, m4, m5]) = view.mac;
    let there = u64::from(view.previous.is_some()) << 53 | u64::from(view.next.is_some()) << 54;
    [
        u64::from_le_bytes([m0, m1, m2, m3, m4, m5, 0, 0])
            | kind << 48
            | encap << 50
            | u64::from(view.local) << 52
            | there,
        numbers.fold(0, |all, number| all | number),
        view.moved,
    ]
}

pub(super) fn view(words: &table::Value) -> View {
    let pa = |number: u32| PaId(u32::from((words[1] >> (number * PA_BITS)) as u16));
    let has = |bit: u32| words[0] >> bit & 1 != 0;
    let [m0, m1, m2, m3, m4, m5, _, _] = words[0].to_le_bytes();
    View {
        mac: Mac([m0, m1, m2, m3, m4, m5]),
        pa: pa(0),
        wire: pa(1),
        previous: has(53).then(|| pa(2)),
        next: has(54).then(|| pa(3)),
        kind: match words[0] >> 48 & 3 {
            0 => Kind::Static,
            1 => Kind::Dynamic,
            2 => Kind::L2Only,
            _ => Kind::Gateway,
        },
        encap: match words[0] >> 50 & 3 {
            0 => Encap::Nvgre,
            1 => Encap::Vxlan,
            _ => Encap::Rewrite,
        },
        local: has(52),
        moved: words[2],
    }
}
