//! A real etcd, killed, restarted, compacted, stopped and given wrong values. Skipped where there is none: `etcd` in `$PATH` or `$ETCD`.
#![cfg(feature = "etcd")]

#[allow(unreachable_pub, reason = "a part of this test alone")]
mod lab;

use std::time::{Duration, Instant};

use backend::control::nv::object::{Change, Object, RecordKey};
use backend::store::policy::Status;
use serde_json::json;
use vswitch::nv::model::{Encap, Kind, Record};
use vswitch::refusal::NvRefusal;

use self::lab::{Etcd, LAB_GRACE, Lab, Relay, Seen, object, record, record_in};

/// Runs `test` with an etcd of its own.
fn with_etcd(test: impl FnOnce(Etcd)) {
    match Etcd::start() {
        Some(etcd) => test(etcd),
        None => eprintln!("skipped: there is no etcd (package etcd-server, or $ETCD)"),
    }
}

#[test]
fn s14_9_what_is_there_is_read_and_what_changes_is_followed() {
    with_etcd(|etcd| {
        let first = Lab::with_name(&etcd, "b");
        first.wait("it is there", Status::is_up);
        first.commit((0..5000).map(|n| Change::create(object(n, "192.168.1.1"))).collect()).expect("written");
        etcd.put("networks/blue", &json!({"name": "blue", "rdid": "6f9619ff-8b86-d011-b42d-00c04fc964ff"}));
        etcd.put("subnets/5001", &json!({"network": "blue", "vsid": 5001, "prefix": ["10.1.0.0/16"]}));
        let lab = Lab::new(&etcd);
        lab.until("all is read", |seen| seen.records.len() == 5000 && seen.objects.len() == 2);
        etcd.put("records/5001/10.1.0.2", &record(0, "192.168.1.2"));
        lab.until("a change is followed", |seen| seen.pa("10.1.0.2") == Some("192.168.1.2"));
        etcd.delete("records/5001/10.1.0.2");
        lab.until("what is deleted is gone", |seen| seen.records.len() == 4999);
        etcd.delete("subnets/5001");
        lab.until("objects, too", |seen| seen.objects.len() == 1);
        assert!(etcd.get("hosts/a").is_some(), "the host says that it is there");
        drop(lab);
        assert!(etcd.get("hosts/a").is_none(), "and that it goes");
    });
}

#[test]
fn s14_9_a_store_that_is_killed_and_comes_back_is_caught_up_with() {
    with_etcd(|mut etcd| {
        etcd.put("records/5001/10.1.0.2", &record(0, "192.168.1.1"));
        let lab = Lab::new(&etcd);
        lab.until("it is read", |seen| seen.records.len() == 1);
        lab.wait("it is there", Status::is_up);
        etcd.kill();
        lab.until_down();
        assert_eq!(lab.seen().records.len(), 1, "what is known stays");
        assert!(matches!(lab.commit(vec![]), Err(NvRefusal::StoreLost { .. })), "nobody waits for it");
        etcd.restart();
        etcd.put("records/5001/10.1.0.3", &record(1, "192.168.1.1"));
        etcd.delete("records/5001/10.1.0.2");
        lab.until("it is caught up with", |seen| seen.pa("10.1.0.3").is_some() && seen.records.len() == 1);
        assert_eq!((lab.status().losses(), lab.status().reloads()), (1, 0));
        assert!(lab.told("policy-store-lost") && lab.told("policy-store-up"));
    });
}

#[test]
fn s14_9_what_was_compacted_away_meanwhile_is_found_by_reading_all_again() {
    with_etcd(|mut etcd| {
        for n in 0..3 {
            etcd.put(&format!("records/5001/10.1.0.{}", n + 2), &record(n, "192.168.1.1"));
        }
        let lab = Lab::new(&etcd);
        lab.until("it is read", |seen| seen.records.len() == 3);
        lab.wait("it is there", Status::is_up);
        etcd.pause();
        lab.until_down();
        etcd.resume();
        // Its connections are old; the switch comes back by itself, but not before these are done.
        etcd.kill();
        etcd.restart_elsewhere(|etcd| {
            etcd.delete("records/5001/10.1.0.2");
            etcd.put("records/5001/10.1.0.3", &record(1, "192.168.1.9"));
            etcd.put("records/5001/10.1.0.9", &record(7, "192.168.1.1"));
            etcd.compact();
        });
        lab.until("all is read again", |seen| seen.pa("10.1.0.9").is_some());
        let seen = lab.seen();
        assert_eq!(
            (seen.records.len(), seen.pa("10.1.0.3"), seen.pa("10.1.0.2")),
            (3, Some("192.168.1.9"), None)
        );
        assert_eq!(lab.status().reloads(), 1);
    });
}

#[test]
fn s14_9_a_wrong_value_changes_nothing_until_it_is_right() {
    with_etcd(|etcd| {
        etcd.put("records/5001/10.1.0.2", &record(0, "192.168.1.1"));
        let lab = Lab::new(&etcd);
        lab.until("it is read", |seen| seen.records.len() == 1);
        lab.wait("it is there", Status::is_up);
        etcd.put_text("records/5001/10.1.0.2", "{\"vsid\": 12");
        etcd.put_text("records/5001/10.1.0.3", "no JSON");
        etcd.put_text("tunnels/7", "{}");
        etcd.put("records/5001/10.1.0.4", &record(2, "192.168.1.1"));
        lab.until("the others are followed", |seen| seen.records.len() == 2);
        assert_eq!(lab.seen().pa("10.1.0.2"), Some("192.168.1.1"), "the last good value stays");
        assert_eq!(lab.status().skipped_count(), 3);
        assert!(lab.told("policy-skipped"));
        etcd.put("records/5001/10.1.0.2", &record(0, "192.168.1.7"));
        etcd.delete("records/5001/10.1.0.3");
        etcd.delete("tunnels/7");
        lab.until("it is right again", |seen| seen.pa("10.1.0.2") == Some("192.168.1.7"));
        lab.wait("no key is wrong", |status| status.skipped_count() == 0);
        assert!(lab.told("policy-mended"));
    });
}

#[test]
fn s14_9_a_store_that_hangs_is_told_and_waited_for_by_nobody() {
    with_etcd(|etcd| {
        etcd.put("records/5001/10.1.0.2", &record(0, "192.168.1.1"));
        let lab = Lab::new(&etcd);
        lab.until("it is read", |seen| seen.records.len() == 1);
        lab.wait("it is there", Status::is_up);
        etcd.pause();
        lab.until_down();
        assert!(lab.status().silence() < Duration::from_secs(15));
        etcd.resume();
        lab.wait("it is back", Status::is_up);
        etcd.put("records/5001/10.1.0.3", &record(1, "192.168.1.1"));
        lab.until("it is followed again", |seen| seen.records.len() == 2);
    });
}

#[test]
fn s14_9_a_change_is_one_transaction_on_what_it_is_based_on() {
    with_etcd(|etcd| {
        let lab = Lab::new(&etcd);
        lab.wait("it is there", Status::is_up);
        let (a, b) = (object(0, "192.168.1.1"), object(1, "192.168.1.1"));
        let revision =
            lab.commit(vec![Change::create(a.clone()), Change::create(b.clone())]).expect("created");
        assert_eq!(lab.seen().records.len(), 2, "and read back");
        lab.wait("all is said to be in force", |status| status.revision() >= revision);
        // Repeated it is done already; with another value it is not what was there.
        lab.commit(vec![Change::create(a.clone())]).expect("is there");
        let other = object(0, "192.168.1.9");
        assert!(matches!(lab.commit(vec![Change::create(other.clone())]), Err(NvRefusal::Exists { .. })));
        let moved = vec![
            Change::replace(a.clone(), other.clone()),
            Change::replace(object(1, "192.168.1.5"), object(1, "192.168.1.9")),
        ];
        assert_eq!(
            lab.commit(moved),
            Err(NvRefusal::Raced),
            "the second one is not what it was thought to be"
        );
        assert!(
            etcd.get("records/5001/10.1.0.2").is_some_and(|text| text.contains("192.168.1.1")),
            "so neither is"
        );
        let moved = vec![Change::replace(a, other), Change::replace(b, object(1, "192.168.1.9"))];
        let before = lab.status().revision();
        let revision = lab.commit(moved).expect("moved");
        assert_eq!(revision, before + 1, "a move is one transaction");
        assert_eq!(lab.seen().pa("10.1.0.2"), Some("192.168.1.9"));
    });
}

/// Record 0, whose guest is at one place, and about to be at another.
fn guest(pa: &str, next: Option<&str>) -> Object {
    match object(0, pa) {
        Object::Record(record) => {
            Object::Record(Record { next: next.map(|next| next.parse().expect("an address")), ..record })
        }
        other => other,
    }
}

#[test]
fn s20_5_where_a_guest_is_about_to_be_is_known_to_others_and_in_the_way_of_no_change() {
    with_etcd(|etcd| {
        etcd.put("records/5001/10.1.0.2", &record(0, "192.168.1.1"));
        let (here, other) = (Lab::new(&etcd), Lab::with_name(&etcd, "b"));
        let key = RecordKey::Address(5001, [10, 1, 0, 2].into());
        let is = |seen: &Seen, wanted: &Object| {
            seen.records.get(&key).map(|record| Object::Record(*record)).as_ref() == Some(wanted)
        };
        let (before, expected) = (guest("192.168.1.1", None), guest("192.168.1.1", Some("192.168.1.2")));
        let after = guest("192.168.1.2", None);
        for lab in [&here, &other] {
            lab.until("it is read", |seen| is(seen, &before));
        }
        here.carry(vec![Change::replace(before.clone(), expected.clone())]);
        other.until("it is expected", |seen| is(seen, &expected));
        let written = etcd.get("records/5001/10.1.0.2").expect("a value");
        assert!(written.contains(r#""next_pa":"192.168.1.2""#), "{written}");
        // Somebody who does not know of it changes something else.
        let vxlan = |object: &Object| match object {
            Object::Record(record) => Object::Record(Record { encap: Encap::Vxlan, ..*record }),
            other => other.clone(),
        };
        other.commit(vec![Change::replace(before.clone(), vxlan(&before))]).expect("based on what it is");
        // All that is said while the store hangs is written in its order.
        etcd.pause();
        let (before, expected, after) = (vxlan(&before), vxlan(&expected), vxlan(&after));
        for _ in 0..20 {
            here.carry(vec![Change::replace(before.clone(), expected.clone())]);
            here.carry(vec![Change::replace(expected.clone(), before.clone())]);
        }
        here.carry(vec![Change::replace(before.clone(), expected.clone())]);
        here.carry(vec![Change::replace(expected, after.clone())]);
        here.until_down();
        etcd.resume();
        for lab in [&here, &other] {
            lab.until("it has moved", |seen| is(seen, &after));
        }
        std::thread::sleep(Duration::from_millis(300));
        assert!(is(&here.seen(), &after) && is(&other.seen(), &after), "and stays there");
        let written = etcd.get("records/5001/10.1.0.2").expect("a value");
        assert!(!written.contains("next_pa"), "{written}");
    });
}

#[test]
fn s14_9_after_a_backlog_everything_is_said_to_be_in_force_when_it_is() {
    const RECORDS: usize = 3000;
    with_etcd(|etcd| {
        etcd.put("records/5002/10.1.0.2", &record_in(5002, 0, "192.168.1.1"));
        let (relay, writer) = (Relay::new(&etcd), Lab::new(&etcd));
        let lab = Lab::through(&relay, &[5001, 5002, 5003]);
        writer.wait("it is there", Status::is_up);
        let all = |lab: &Lab| lab.wait("all is in force", |it| it.revision() >= writer.status().newest());
        lab.until("it is read", |seen| seen.records.len() == 1 && seen.whole.len() == 3);
        all(&lab);
        relay.cut();
        lab.until_down();
        for n in 0..RECORDS {
            writer.carry(vec![Change::create(object(n, "192.168.1.1"))]);
        }
        writer.until("all is written", |seen| seen.records.len() == RECORDS);
        let last = writer.status().newest();
        assert!(last - lab.status().revision() >= 3000, "each is a revision");
        relay.mend();
        let start = Instant::now();
        loop {
            let revision = lab.status().revision();
            let there = lab.seen().records.len();
            assert!(revision < last || there == RECORDS + 1, "{there} records at {revision} of {last}");
            if revision >= last {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", lab.status());
        }
        // Of the others nothing has changed, and they are no less far.
        etcd.put("records/5003/10.1.0.2", &record_in(5003, 0, "192.168.1.1"));
        lab.until("it is followed", |seen| seen.records.len() == RECORDS + 2);
        all(&lab);
        assert_eq!(lab.status().reloads(), 0);
    });
}

#[test]
fn s14_9_another_store_in_its_place_is_read_from_the_beginning() {
    with_etcd(|mut etcd| {
        for n in 0..20 {
            etcd.put(&format!("records/5001/10.1.0.{}", n + 2), &record(n, "192.168.1.1"));
        }
        let lab = Lab::new(&etcd);
        lab.until("it is read", |seen| seen.records.len() == 20);
        lab.wait("it is there", Status::is_up);
        etcd.kill();
        lab.until_down();
        etcd.forget();
        etcd.restart();
        etcd.put("records/5001/10.1.0.99", &record(97, "192.168.1.1"));
        lab.until("the new one is followed", |seen| {
            seen.pa("10.1.0.99").is_some() && seen.records.len() == 1
        });
    });
}

#[test]
fn s14_9_the_store_and_the_host_know_each_other_by_their_certificates() {
    let authority = lab::Authority::new();
    let Some(etcd) = Etcd::start_with(Some(&authority)) else {
        eprintln!("skipped: there is no etcd");
        return;
    };
    let lab = Lab::with_tls(&etcd, Some(authority.options(true)));
    lab.wait("it is known", Status::is_up);
    let unknown = Lab::with_tls(&etcd, Some(authority.options(false)));
    std::thread::sleep(Duration::from_secs(1));
    assert!(!unknown.status().is_up(), "a host without a certificate is not let in");
    let plain = Lab::with_tls(&etcd, None);
    std::thread::sleep(Duration::from_secs(1));
    assert!(!plain.status().is_up(), "nor one that does not encrypt");
    assert!(lab.status().is_up());
}

#[test]
fn s14_9_a_host_holds_the_records_that_it_needs_and_no_others() {
    with_etcd(|etcd| {
        for vsid in [5001, 5002, 500] {
            etcd.put(&format!("records/{vsid}/10.1.0.2"), &record_in(vsid, 0, "192.168.1.1"));
        }
        etcd.put("networks/blue", &json!({"name": "blue", "rdid": "6f9619ff-8b86-d011-b42d-00c04fc964ff"}));
        let lab = Lab::with_room(&etcd, "a", None, usize::MAX);
        lab.until("objects are read", |seen| seen.objects.len() == 1);
        assert!(lab.seen().records.is_empty(), "nobody needs any record");
        let held = |seen: &Seen| seen.records.keys().map(RecordKey::vsid).collect::<Vec<_>>();
        lab.follow(&[5001]);
        lab.until("it is known whole", |seen| seen.whole.contains(&5001));
        assert_eq!(held(&lab.seen()), [5001]);
        lab.follow(&[5001, 5002]);
        lab.until("so is the other", |seen| seen.whole.len() == 2);
        assert_eq!(held(&lab.seen()), [5001, 5002]);
        etcd.put("records/5002/10.1.0.3", &record_in(5002, 1, "192.168.1.1"));
        lab.until("each is followed", |seen| seen.records.len() == 3);
        // It leaves, and is back before anybody has forgotten it.
        lab.follow(&[5001]);
        etcd.put("records/5002/10.1.0.4", &record_in(5002, 2, "192.168.1.1"));
        lab.until("it is followed in its grace", |seen| seen.records.len() == 4);
        lab.follow(&[5001, 5002]);
        std::thread::sleep(2 * LAB_GRACE);
        assert_eq!(held(&lab.seen()), [5001, 5002, 5002, 5002]);
        lab.follow(&[5001]);
        lab.until("it is forgotten", |seen| held(seen) == [5001] && seen.whole.len() == 1);
        etcd.put("records/5002/10.1.0.5", &record_in(5002, 3, "192.168.1.1"));
        etcd.put("records/5001/10.1.0.5", &record(3, "192.168.1.1"));
        lab.until("the one is followed", |seen| seen.pa("10.1.0.5").is_some());
        assert_eq!(held(&lab.seen()), [5001, 5001], "the other is not");
        assert_eq!(lab.all().expect("all").len(), 6, "all valid ones can be read all the same");
    });
}

#[test]
fn s14_9_each_virtual_subnet_is_resumed_or_read_again_for_itself() {
    with_etcd(|mut etcd| {
        for vsid in [5001, 5002] {
            etcd.put(&format!("records/{vsid}/10.1.0.2"), &record_in(vsid, 0, "192.168.1.1"));
        }
        let lab = Lab::new(&etcd);
        lab.follow(&[5001, 5002]);
        lab.until("both are read", |seen| seen.whole.len() == 2);
        etcd.kill();
        lab.until_down();
        etcd.restart_elsewhere(|etcd| {
            etcd.delete("records/5001/10.1.0.2");
            etcd.put("records/5002/10.1.0.3", &record_in(5002, 1, "192.168.1.1"));
            etcd.compact();
            etcd.put("records/5002/10.1.0.4", &record_in(5002, 2, "192.168.1.1"));
        });
        let keys = |seen: &Seen| seen.records.keys().map(ToString::to_string).collect::<Vec<_>>();
        let wanted = ["5002/10.1.0.2", "5002/10.1.0.3", "5002/10.1.0.4"];
        lab.until("both are caught up with", |seen| keys(seen) == wanted && seen.whole.len() == 2);
        assert_eq!(lab.status().reloads(), 1);
        // Needed while the store is away: read when it is back.
        etcd.kill();
        lab.until_down();
        lab.follow(&[5002, 5003]);
        etcd.restart_elsewhere(|etcd| etcd.put("records/5003/10.1.0.2", &record_in(5003, 0, "192.168.1.1")));
        lab.until("the new one is read", |seen| keys(seen).contains(&"5003/10.1.0.2".to_owned()));
    });
}

#[test]
fn s14_9_what_does_not_fit_is_looked_up_and_then_followed() {
    with_etcd(|etcd| {
        for n in 0..5 {
            etcd.put(&format!("records/5001/10.1.0.{}", n + 2), &record(n, "192.168.1.1"));
        }
        let lab = Lab::with_room(&etcd, "a", None, 4);
        lab.follow(&[5001, 5002]);
        lab.until("the other, which is empty, is whole", |seen| seen.whole.contains(&5002));
        lab.wait("this one is not read on", |status| status.reading() == 0);
        assert!(lab.seen().records.is_empty() && !lab.seen().whole.contains(&5001));
        lab.look_up(5001, "10.1.0.3");
        lab.until("what was asked for is there", |seen| seen.pa("10.1.0.3") == Some("192.168.1.1"));
        etcd.put("records/5001/10.1.0.2", &record(0, "192.168.1.2"));
        etcd.put("records/5001/10.1.0.3", &record(1, "192.168.1.2"));
        lab.until("and followed", |seen| seen.pa("10.1.0.3") == Some("192.168.1.2"));
        assert_eq!(lab.seen().records.len(), 1, "nothing else is");
        etcd.delete("records/5001/10.1.0.3");
        lab.until("until it is gone", |seen| seen.records.is_empty());
        let key = RecordKey::Address(5001, [10, 1, 0, 4].into());
        assert_eq!(lab.find(vec![key]).expect("found").len(), 1, "others are found by their keys");
    });
}

#[test]
fn s14_9_a_subnet_whose_records_this_host_does_not_hold_is_not_removed_under_them() {
    with_etcd(|etcd| {
        let subnet = json!({"network": "blue", "vsid": 5009, "prefix": ["10.1.0.0/16"]});
        etcd.put("subnets/5009", &subnet);
        etcd.put("records/5009/10.1.0.2", &record_in(5009, 0, "192.168.1.1"));
        let lab = Lab::new(&etcd);
        lab.until("it is read", |seen| seen.objects.len() == 1);
        lab.wait("it is there", Status::is_up);
        let there = lab.seen().objects.into_values().next().expect("the subnet");
        let refused = lab.commit(vec![Change::remove(there.clone())]);
        assert!(matches!(refused, Err(NvRefusal::InUse { .. })), "{refused:?}");
        etcd.delete("records/5009/10.1.0.2");
        lab.commit(vec![Change::remove(there)]).expect("removed");
        assert!(lab.seen().objects.is_empty());
    });
}

#[test]
fn s14_9_what_a_host_learned_others_know_until_it_forgets_or_dies() {
    with_etcd(|mut etcd| {
        let (a, b) = (Lab::with_name(&etcd, "a"), Lab::with_name(&etcd, "b"));
        a.wait("a is there", Status::is_up);
        b.wait("b is there", Status::is_up);
        let learned = |n, pa: &str| match object(n, pa) {
            Object::Record(record) => {
                let record = Record { kind: Kind::Dynamic, ..record };
                (RecordKey::of(&record), record)
            }
            other => panic!("{other:?}"),
        };
        let publish = |lab: &Lab, n, pa: &str| {
            let (key, record) = learned(n, pa);
            lab.publish(key, Some(record));
        };
        for n in 0..3 {
            publish(&a, n, "192.168.1.1");
        }
        b.until("the other host knows", |seen| seen.records.len() == 3);
        assert!(b.seen().records.values().all(|record| record.kind == Kind::Dynamic));
        a.publish(learned(1, "192.168.1.1").0, None);
        b.until("what is forgotten is withdrawn", |seen| seen.records.len() == 2);
        publish(&b, 2, "192.168.1.2");
        a.until("who learned it last has it", |seen| seen.pa("10.1.0.4") == Some("192.168.1.2"));
        // Somebody configures one that was learned, and one that is learned is configured.
        b.commit(vec![Change::create(object(0, "192.168.1.7"))]).expect("what is configured goes before");
        etcd.put("records/5001/10.1.0.9", &record(7, "192.168.1.7"));
        publish(&a, 7, "192.168.1.1");
        let start = Instant::now();
        while !a.told("policy-learned-refused") {
            assert!(start.elapsed() < Duration::from_secs(10), "the host is told");
            std::thread::sleep(Duration::from_millis(20));
        }
        publish(&a, 20, "192.168.1.1");
        b.until("the others go on", |seen| seen.pa("10.1.0.22").is_some());
        assert_eq!(b.seen().pa("10.1.0.9"), Some("192.168.1.7"), "what is configured stays");
        // The store is away for longer than the lease.
        etcd.kill();
        a.until_down();
        etcd.restart();
        a.wait("it is back", Status::is_up);
        drop(b);
        a.until("the dead host's are gone", |seen| seen.pa("10.1.0.4").is_none());
        let seen = a.seen();
        assert_eq!((seen.pa("10.1.0.22"), seen.pa("10.1.0.2")), (Some("192.168.1.1"), Some("192.168.1.7")));
        drop(a);
        let left = Lab::with_name(&etcd, "c");
        left.until("only what is configured outlives its host", |seen| {
            seen.records.len() == 2 && seen.records.values().all(|record| record.kind == Kind::Static)
        });
    });
}

/// `cargo test -p turnpike --test etcd -- --ignored --nocapture figures`
#[test]
#[ignore = "figures"]
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
fn figures_of_record_changes() {
    const CHANGES: usize = 50_000;
    with_etcd(|mut etcd| {
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let per_second = |took: Duration| CHANGES as f64 / took.as_secs_f64();
        let writer = Lab::with_name(&etcd, "b");
        writer.wait("it is there", Status::is_up);
        let lab = Lab::new(&etcd);
        lab.wait("it is there", Status::is_up);
        let start = Instant::now();
        writer
            .commit((0..CHANGES).map(|n| Change::create(object(n, "192.168.1.1"))).collect())
            .expect("written");
        println!("written in transactions: {:.0} a second", per_second(start.elapsed()));
        lab.until("all is followed", |seen| seen.records.len() == CHANGES);
        println!("followed while they were written: {:.0} a second", per_second(start.elapsed()));
        let start = Instant::now();
        let third = Lab::with_name(&etcd, "c");
        third.until("all is read", |seen| seen.records.len() == CHANGES);
        println!("read from the beginning: {:.0} a second", per_second(start.elapsed()));
        let before = lab.status().applied();
        // What happened while it could not be reached comes as fast as it can be taken.
        etcd.pause();
        lab.until_down();
        etcd.resume();
        etcd.kill();
        etcd.restart_elsewhere(|etcd| {
            let writer = Lab::with_name(etcd, "d");
            writer.wait("it is there", Status::is_up);
            let moved = |n| Change::replace(object(n, "192.168.1.1"), object(n, "192.168.1.2"));
            writer.commit((0..CHANGES).map(moved).collect()).expect("written");
        });
        lab.wait("it is back", Status::is_up);
        // Looked at from the first change on, and not at the records themselves, which would cost more than following them.
        let start = Instant::now();
        let begun = lab.status().applied() - before;
        lab.wait("all is caught up with", |status| status.applied() >= before + CHANGES as u64);
        println!(
            "caught up with: {:.0} a second",
            (CHANGES as u64 - begun) as f64 / start.elapsed().as_secs_f64()
        );
        assert_eq!(lab.status().reloads(), 0);
        let all = |seen: &Seen| seen.records.values().all(|record| record.pa.to_string() == "192.168.1.2");
        lab.until("all is as it was written", all);
    });
}
