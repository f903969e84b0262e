//! The table of lookup records against a plain map, under threads, and its figures.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use vswitch::Mac;
use vswitch::nv::model::{Encap, Kind, Record};
use vswitch::nv::overlay::Reach;
use vswitch::nv::records::{Change, GRACE, Of, Records, of};

use super::world::record;
use crate::support::{Random, SECOND, mac_of};

fn host(n: u32) -> IpAddr {
    IpAddr::from([192, 168, (n >> 8) as u8, n as u8])
}

fn numbered(n: u32) -> Record {
    let [_, a, b, c] = n.to_be_bytes();
    let mac = Mac([2, 0, 0, a, b, c]);
    Record {
        vsid: 4096 + n / 100,
        ca: [10, a, b, c].into(),
        mac,
        ..record(4096, "10.0.0.1", mac, host(n % 1000))
    }
}

fn random_record(random: &mut Random) -> Record {
    let kinds = [Kind::Static, Kind::Static, Kind::Dynamic, Kind::L2Only, Kind::Gateway];
    let encaps = [Encap::Nvgre, Encap::Vxlan, Encap::Rewrite];
    let kind = kinds[random.below(5)];
    let ca: IpAddr = match random.below(3) {
        _ if kind == Kind::L2Only => "0.0.0.0".parse().expect("an address"),
        0 => format!("2001:db8::{}", random.below(4)).parse().expect("an address"),
        _ => [10, 0, 0, random.below(6) as u8].into(),
    };
    let encap = encaps[random.below(3)];
    let rewrite_pa = (encap == Encap::Rewrite).then(|| host(1000 + random.below(12) as u32));
    let (mac, pa) = (mac_of(random.below(4) as u16), host(random.below(5) as u32));
    let next = random.once_in(4).then(|| host(random.below(5) as u32)).filter(|next| *next != pa);
    Record { vsid: 5000 + random.below(3) as u32, ca, mac, pa, kind, encap, rewrite_pa, next }
}

#[test]
fn s14_2_the_table_says_what_a_plain_map_says() {
    let mut random = Random(14);
    for round in 0..40 {
        let records = Records::new(round, 64);
        let mut map: BTreeMap<(u32, String), Record> = BTreeMap::new();
        let mut now = SECOND;
        for _ in 0..600 {
            now += random.below(3) as u64 * SECOND;
            let record = random_record(&mut random);
            let key = (record.vsid, format!("{:?}", of(&record)));
            if random.once_in(3) {
                assert_eq!(records.remove(record.vsid, of(&record)), map.remove(&key).is_some());
            } else {
                let change = records.upsert(now, &record, record.pa == host(0));
                let expected = match map.get(&key) {
                    None => Change::New,
                    Some(old) if *old == record => Change::Same,
                    Some(old) if old.pa == record.pa => Change::Changed,
                    Some(old) => Change::Moved { from: old.pa },
                };
                assert_eq!(change, expected);
                map.insert(key, record);
            }
        }
        let list: BTreeSet<String> = records.list(None).iter().map(|r| format!("{r:?}")).collect();
        assert_eq!(list, map.values().map(|r| format!("{r:?}")).collect());
        for record in map.values() {
            assert_eq!(records.get(record.vsid, of(record)), Some(*record));
            let gateway = records.find(record.vsid, Of::Gateway(record.mac)).is_some();
            let has = |r: &&Record| r.vsid == record.vsid && r.mac == record.mac && r.kind == Kind::Gateway;
            assert_eq!(gateway, map.values().any(|r| has(&r)), "{record:?}");
        }
        for vsid in 5000..5003 {
            for reach in [Reach::All, Reach::Unknown] {
                let mine = |r: &&Record| {
                    let counts = reach == Reach::All || r.kind == Kind::L2Only;
                    r.vsid == vsid && r.encap != Encap::Rewrite && counts
                };
                let expected: BTreeSet<IpAddr> = map.values().filter(mine).map(|r| r.pa).collect();
                let hosts = records.hosts(vsid, reach);
                let found: Vec<IpAddr> =
                    hosts.iter().map(|&(id, _)| records.peers.address(id).expect("a name")).collect();
                assert_eq!(found.len(), expected.len(), "each host once");
                assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
            }
        }
        records.age(now + GRACE);
        let named: BTreeSet<IpAddr> =
            map.values().flat_map(|r| [Some(r.pa), r.rewrite_pa, r.next]).flatten().collect();
        let peers: BTreeSet<IpAddr> = records.peers.list().into_iter().map(|(_, address)| address).collect();
        assert_eq!(peers, named, "no name is kept, none is lost");
        for record in map.values() {
            records.remove(record.vsid, of(record));
        }
        assert!(records.is_empty() && records.peers.is_empty());
    }
}

#[test]
fn s14_2_a_handle_is_good_until_its_record_changes() {
    let records = Records::new(1, 64);
    let (one, two) = (numbered(1), numbered(2));
    records.upsert(1, &one, true);
    records.upsert(1, &two, false);
    let (handle, view) = records.find(one.vsid, of(&one)).expect("a record");
    assert!(view.local && view.mac == one.mac);
    records.upsert(2, &one, true);
    records.upsert(2, &Record { pa: host(9), ..two }, false);
    assert!(records.is_current(handle), "another record changed, and this one to what it was");
    records.upsert(3, &Record { pa: host(9), ..one }, false);
    assert!(!records.is_current(handle));
    let (handle, _) = records.find(one.vsid, of(&one)).expect("a record");
    records.remove(one.vsid, of(&one));
    assert!(!records.is_current(handle));
    records.upsert(4, &one, true);
    assert!(!records.is_current(handle), "the same place, but another record");
}

#[test]
fn s14_2_a_full_table_refuses_and_changes_nothing() {
    let records = Records::new(1, 4);
    for n in 0..4 {
        assert_eq!(records.upsert(1, &numbered(n), false), Change::New);
    }
    assert_eq!(records.upsert(1, &numbered(500), false), Change::Full);
    assert_eq!((records.len(), records.peers.len()), (4, 4));
    assert!(records.find(numbered(500).vsid, of(&numbered(500))).is_none());
    records.remove(numbered(0).vsid, of(&numbered(0)));
    assert_eq!(records.upsert(1, &numbered(500), false), Change::New);
}

#[test]
fn s14_2_readers_see_whole_records_and_miss_none_while_others_come_and_go() {
    let records = Records::new(7, 4096);
    // Which host a record names follows from its MAC address.
    let of_round = |n: u32, round: u32| {
        let k = (n + round) % 200;
        Record { mac: mac_of(k as u16), pa: host(k), ..numbered(n) }
    };
    for n in 0..500 {
        records.upsert(1, &of_round(n, 0), false);
    }
    let stop = AtomicBool::new(false);
    let read = |seed| {
        let (mut random, mut looked) = (Random(seed), 0_u64);
        while !stop.load(Ordering::Relaxed) {
            let n = random.below(500) as u32;
            let wanted = numbered(n);
            let (_, view) = records.find(wanted.vsid, of(&wanted)).expect("it is never taken out");
            // The provider address may have lost its name since.
            if let Some(pa) = records.peers.address(view.pa) {
                assert_eq!(host(u32::from(view.mac.0[5]) | u32::from(view.mac.0[4]) << 8), pa);
            }
            looked += 1;
        }
        looked
    };
    let looked = std::thread::scope(|scope| {
        let readers = [scope.spawn(|| read(1)), scope.spawn(|| read(2))];
        for round in 1..60 {
            for n in 0..500 {
                records.upsert(u64::from(round), &of_round(n, round), false);
                // Others come and go in the same chains.
                let other = numbered(1000 + (n * 7 + round) % 3000);
                if records.upsert(1, &other, false) == Change::Same || n % 3 == 0 {
                    records.remove(other.vsid, of(&other));
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        readers.map(|reader| reader.join().expect("a reader")).iter().sum::<u64>()
    });
    assert!(looked > 10_000, "{looked}");
}

#[test]
fn s14_2_a_record_takes_less_than_200_bytes() {
    let count = 1 << 17;
    let records = Records::new(3, count);
    for n in 0..count {
        assert_eq!(records.upsert(1, &numbered(n), false), Change::New);
    }
    let each = records.bytes() / count as usize;
    assert!(each < 200, "{each} bytes with a hundred records in a virtual subnet");
    // The worst: every guest has a virtual subnet of its own.
    let records = Records::new(3, count);
    for n in 0..count {
        records.upsert(1, &Record { vsid: 4096 + n, ..numbered(n) }, false);
    }
    let each = records.bytes() / count as usize;
    assert!(each < 200, "{each} bytes with one record in a virtual subnet");
    println!("{each} bytes a record, at worst");
}
