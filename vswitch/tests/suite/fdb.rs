//! The forwarding database: bounds, shares, ageing, generation.

use vswitch::fdb::{CHANGES_PER_SECOND, Counters, Entry, EntryKind, Fdb, IDLE, Learned};
use vswitch::snapshot::{Snapshot, SwitchConfig};
use vswitch::{Mac, PortId, Segment};

use crate::support::{Random, SECOND, bridging, guest, mac_of, stranger};

fn snapshot() -> Snapshot {
    let ports = (1..=20).map(bridging).chain([guest(21)]).collect();
    Snapshot::new(1, SwitchConfig::default(), ports)
}

fn address(port: u16, n: usize) -> Mac {
    Mac([0x06, 0, (port >> 8) as u8, port as u8, (n >> 8) as u8, n as u8])
}

fn held_by(fdb: &Fdb, port: u16) -> usize {
    fdb.entries(0).iter().filter(|e| e.port == PortId(port)).count()
}

#[test]
fn s3_4_new_refreshed_moved_pinned() {
    let (snap, fdb) = (snapshot(), Fdb::new(1024, 1));
    let (mac, one, two) = (stranger(1), PortId(1), PortId(2));
    assert_eq!(fdb.learn(0, one, mac, Segment(0), &snap), Learned::New);
    assert_eq!(fdb.learn(0, one, mac, Segment(0), &snap), Learned::Refreshed);
    assert_eq!(fdb.learn(0, two, mac, Segment(0), &snap), Learned::Moved { from: one });
    assert_eq!(fdb.lookup(mac, Segment(0)), Some(two));
    assert_eq!(fdb.learn(0, one, mac_of(21), Segment(0), &snap), Learned::Pinned { owner: PortId(21) });
    assert_eq!(fdb.lookup(mac_of(21), Segment(0)), None);
    assert_eq!(
        fdb.learn(0, one, mac_of(1), Segment(0), &snap),
        Learned::Refreshed,
        "its own needs no learning"
    );
    assert_eq!(fdb.counters(), Counters { learned: 1, moved: 1, ..Counters::default() });
    assert_eq!(fdb.len(), 1);
}

#[test]
fn s3_4_entries_are_per_vlan() {
    let (snap, fdb) = (snapshot(), Fdb::new(1024, 1));
    fdb.learn(0, PortId(1), stranger(1), Segment(10), &snap);
    fdb.learn(2_500_000, PortId(2), stranger(1), Segment(4095), &snap);
    let mut entries = fdb.entries(3_500_000);
    entries.sort_by_key(|e| e.network);
    let entry = |network, port, age_ms| Entry {
        mac: stranger(1),
        network: Segment(network),
        port: PortId(port),
        kind: EntryKind::Learned,
        age_ms,
    };
    assert_eq!(entries, [entry(10, 1, 3), entry(4095, 2, 1)]);
}

#[test]
fn s3_4_an_entry_goes_after_five_idle_minutes() {
    let (snap, fdb) = (snapshot(), Fdb::new(1024, 1));
    fdb.learn(0, PortId(1), stranger(1), Segment(0), &snap);
    fdb.learn(0, PortId(1), stranger(2), Segment(0), &snap);
    fdb.learn(SECOND, PortId(1), stranger(2), Segment(0), &snap);
    assert_eq!(fdb.age(IDLE - 1), 0);
    assert_eq!(fdb.age(IDLE), 1);
    assert_eq!(
        (fdb.lookup(stranger(1), Segment(0)), fdb.lookup(stranger(2), Segment(0))),
        (None, Some(PortId(1)))
    );
    assert_eq!(fdb.age(IDLE + SECOND), 1);
    assert_eq!(fdb.counters().purged, 2);
}

#[test]
fn time_that_runs_backwards_between_workers_ages_nothing() {
    let (snap, fdb) = (snapshot(), Fdb::new(1024, 1));
    fdb.learn(IDLE * 2, PortId(1), stranger(1), Segment(0), &snap);
    assert_eq!(fdb.learn(0, PortId(1), stranger(1), Segment(0), &snap), Learned::Refreshed);
    assert_eq!(fdb.age(0), 0);
    assert_eq!(fdb.age(IDLE * 3 - 1), 0, "the older sighting took nothing back");
}

#[test]
fn the_generation_grows_with_every_change_and_only_then() {
    let (snap, fdb) = (snapshot(), Fdb::new(64, 1));
    let mut last = fdb.generation();
    let mut grown = || {
        let before = std::mem::replace(&mut last, fdb.generation());
        fdb.generation() > before
    };
    fdb.learn(0, PortId(1), stranger(1), Segment(0), &snap);
    assert!(grown(), "new");
    fdb.learn(0, PortId(1), stranger(1), Segment(0), &snap);
    fdb.learn(0, PortId(1), mac_of(21), Segment(0), &snap);
    fdb.age(1);
    fdb.remove_port(PortId(7));
    assert_eq!((fdb.reconcile(&snap), fdb.forget(stranger(9), Segment(0))), (0, None));
    assert!(!grown(), "nothing changed");
    fdb.learn(0, PortId(2), stranger(1), Segment(0), &snap);
    assert!(grown(), "moved");
    fdb.forget(stranger(1), Segment(0));
    assert!(grown(), "forgotten");
    fdb.learn(0, PortId(1), stranger(1), Segment(0), &snap);
    assert!(grown());
    fdb.age(IDLE);
    assert!(grown(), "aged");
    fdb.learn(0, PortId(1), stranger(1), Segment(0), &snap);
    assert!(grown());
    fdb.remove_port(PortId(1));
    assert!(grown(), "port removed");
    fdb.learn(0, PortId(1), stranger(1), Segment(0), &snap);
    assert!(grown());
    fdb.set_limit(0);
    assert!(grown(), "limit lowered");
}

#[test]
fn h29_one_port_gets_no_more_than_its_share() {
    let (snap, fdb) = (snapshot(), Fdb::new(8192, 1));
    assert_eq!(fdb.share(), 1024);
    for n in 0..5000 {
        let expected = if n < 1024 { Learned::New } else { Learned::Full };
        assert_eq!(fdb.learn(0, PortId(1), address(1, n), Segment(0), &snap), expected);
    }
    let generation = fdb.generation();
    fdb.learn(0, PortId(1), address(1, 6000), Segment(0), &snap);
    assert_eq!(fdb.generation(), generation, "a flood of addresses leaves others' cached verdicts alone");
    assert_eq!(fdb.counters().full, 5000 - 1024 + 1);
    assert_eq!(fdb.learn(0, PortId(2), address(2, 0), Segment(0), &snap), Learned::New);
}

#[test]
fn h29_when_the_table_is_full_the_largest_holder_makes_room() {
    let (snap, fdb) = (snapshot(), Fdb::new(512, 1));
    assert_eq!(fdb.share(), 64);
    for port in 1..=8 {
        for n in 0..64 {
            assert_eq!(fdb.learn(n as u64, PortId(port), address(port, n), Segment(0), &snap), Learned::New);
        }
    }
    for port in 9..=16 {
        for n in 0..64 {
            fdb.learn(1000, PortId(port), address(port, n), Segment(0), &snap);
        }
    }
    assert_eq!(fdb.len(), 512);
    for port in 1..=16 {
        assert_eq!(held_by(&fdb, port), 32, "port {port}");
    }
    assert_eq!(
        fdb.learn(2000, PortId(16), stranger(1), Segment(0), &snap),
        Learned::Full,
        "nobody has more than it"
    );
}

#[test]
fn h29_two_ports_that_fight_over_an_address_are_held() {
    let (snap, fdb) = (snapshot(), Fdb::new(512, 1));
    let fight = |from: u64, rounds: u64, step: u64| {
        let before = fdb.generation();
        for i in 0..rounds {
            fdb.learn(from + i * step, PortId(1 + (i % 2) as u16), stranger(1), Segment(0), &snap);
        }
        fdb.generation() - before
    };
    assert_eq!(fight(0, 100_000, 0), 2 * u64::from(fdb.share()), "a bucket each, then quiet");
    assert!(fdb.counters().held > 0);
    let sustained = fight(SECOND, 1_000_000, 10_000);
    let seconds = 10 + 2; // ten of fighting, one before it, one for rounding
    assert!(sustained <= 2 * seconds * u64::from(CHANGES_PER_SECOND), "{sustained}");
    assert!(sustained >= 10 * u64::from(CHANGES_PER_SECOND), "{sustained}");
}

#[test]
fn removing_a_port_removes_what_it_learned() {
    let (snap, fdb) = (snapshot(), Fdb::new(512, 1));
    for n in 0..10 {
        fdb.learn(0, PortId(1), address(1, n), Segment(0), &snap);
        fdb.learn(0, PortId(2), address(2, n), Segment(0), &snap);
    }
    assert_eq!(fdb.remove_port(PortId(1)), 10);
    assert_eq!(fdb.remove_port(PortId(1)), 0);
    assert_eq!((held_by(&fdb, 1), held_by(&fdb, 2)), (0, 10));
    assert_eq!(fdb.learn(0, PortId(1), address(1, 0), Segment(0), &snap), Learned::New);
}

#[test]
fn policy_that_forbids_learning_purges_what_was_learned() {
    let (snap, fdb) = (snapshot(), Fdb::new(512, 1));
    fdb.learn(0, PortId(1), stranger(1), Segment(0), &snap);
    fdb.learn(0, PortId(2), stranger(2), Segment(0), &snap);
    fdb.learn(0, PortId(3), mac_of(40), Segment(0), &snap);
    fdb.learn(0, PortId(4), stranger(4), Segment(0), &snap);
    let later = vec![guest(1), bridging(3), bridging(4), guest(40)];
    assert_eq!(fdb.reconcile(&Snapshot::new(2, SwitchConfig::default(), later)), 3);
    assert_eq!(fdb.lookup(stranger(4), Segment(0)), Some(PortId(4)));
}

#[test]
fn a_lower_limit_takes_from_the_largest_holders() {
    let (snap, fdb) = (snapshot(), Fdb::new(8192, 1));
    for n in 0..100 {
        fdb.learn(0, PortId(1), address(1, n), Segment(0), &snap);
    }
    for n in 0..10 {
        fdb.learn(0, PortId(2), address(2, n), Segment(0), &snap);
    }
    fdb.set_limit(40);
    assert_eq!((fdb.limit(), fdb.share(), fdb.len()), (40, 40, 40));
    assert_eq!((held_by(&fdb, 1), held_by(&fdb, 2)), (30, 10));
    fdb.set_limit(0);
    assert_eq!(fdb.learn(0, PortId(3), stranger(1), Segment(0), &snap), Learned::Full);
    assert!(fdb.is_empty());
}

/// Random operations against a plain list.
#[test]
fn the_table_agrees_with_a_plain_list_and_stays_bounded() {
    let snap = snapshot();
    let fdb = Fdb::new(100, 3);
    let mut random = Random(5);
    let mut model: Vec<(Mac, u16, u16, u64)> = Vec::new();
    let mut now = 0;
    for _ in 0..50_000 {
        now += random.next() % (SECOND / 10);
        let port = 1 + random.below(4) as u16;
        let (mac, vlan) = (stranger(random.below(150) as u16), random.below(2) as u16);
        let known = model.iter().position(|e| (e.0, e.1) == (mac, vlan));
        match random.below(20) {
            0 => {
                let purged = fdb.age(now);
                let before = model.len();
                model.retain(|e| now - e.3 < IDLE);
                assert_eq!(purged, (before - model.len()) as u64);
            }
            1 if random.once_in(50) => {
                fdb.remove_port(PortId(port));
                model.retain(|e| e.2 != port);
            }
            2 if random.once_in(5) => {
                let forgotten = known.map(|i| PortId(model.swap_remove(i).2));
                assert_eq!(fdb.forget(mac, Segment(vlan.into())), forgotten);
            }
            3..10 => assert_eq!(fdb.lookup(mac, Segment(vlan.into())), known.map(|i| PortId(model[i].2))),
            _ => match (fdb.learn(now, PortId(port), mac, Segment(vlan.into()), &snap), known) {
                (Learned::New, None) => {
                    model.push((mac, vlan, port, now));
                    if model.len() > 100 {
                        // One of the others had to go; the table says which.
                        let there = fdb.entries(now);
                        model.retain(|e| there.iter().any(|t| (t.mac, t.network.0) == (e.0, e.1.into())));
                        assert_eq!(model.len(), 100);
                    }
                }
                (Learned::Refreshed, Some(i)) => {
                    assert_eq!(model[i].2, port);
                    model[i].3 = now;
                }
                (Learned::Moved { from }, Some(i)) => {
                    assert_eq!(from.0, model[i].2);
                    assert_ne!(from.0, port);
                    (model[i].2, model[i].3) = (port, now);
                }
                (Learned::Full | Learned::Held, i) => assert!(i.is_none_or(|i| model[i].2 != port)),
                other => panic!("{other:?}"),
            },
        }
        assert_eq!(fdb.len(), model.len());
        assert!((1..=4).all(|p| model.iter().filter(|e| e.2 == p).count() <= fdb.share() as usize));
    }
}

#[test]
fn workers_that_use_the_table_at_once_leave_it_bounded_and_whole() {
    let (snap, fdb) = (snapshot(), Fdb::new(128, 3));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (snap, fdb) = (&snap, &fdb);
            scope.spawn(move || {
                let mut random = Random(worker);
                for i in 0..5000 {
                    let port = PortId(1 + random.below(6) as u16);
                    let mac = stranger(random.below(300) as u16);
                    match random.below(40) {
                        0 => _ = fdb.age(i * SECOND),
                        1 => _ = fdb.remove_port(port),
                        2 => _ = fdb.forget(mac, Segment(0)),
                        3 => fdb.set_limit(64 + random.below(64) as u32),
                        _ => _ = fdb.learn(i * SECOND, port, mac, Segment(0), snap),
                    }
                }
            });
        }
    });
    fdb.set_limit(128);
    assert!((1..=128).contains(&fdb.len()));
    assert!((1..=6).all(|port| held_by(&fdb, port) <= 64));
    for port in 1..=6 {
        let held = held_by(&fdb, port) as u64;
        assert_eq!(fdb.remove_port(PortId(port)), held);
    }
    assert!(fdb.is_empty(), "no entry without a holder");
}
