//! Many workers at one table.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vswitch::Direction::In;
use vswitch::PortId;
use vswitch::session::{Handle, Sessions};

use super::{answered, grant, key, open};
use crate::support::{Random, SECOND};

#[test]
fn s8_workers_may_do_everything_at_once() {
    let sessions = Sessions::new(512, 1);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4u16)
            .map(|worker| {
                let sessions = &sessions;
                scope.spawn(move || {
                    let mut random = Random(u64::from(worker));
                    let mut handles = vec![Handle::NONE];
                    for i in 0..20_000u64 {
                        let now = i * 1_000_000;
                        let key = key(1 + random.below(6) as u16, random.below(120) as u32);
                        match random.below(10) {
                            0..5 => handles.extend(open(sessions, now, key, SECOND)),
                            5 | 6 => {
                                let _ = sessions.find(now, &key);
                            }
                            7 => sessions.close(handles[random.below(handles.len())]),
                            8 => {
                                let _ = sessions.pass(now, handles[random.below(handles.len())], In, None);
                            }
                            _ => {
                                let _ = sessions.touch(now, handles[random.below(handles.len())]);
                            }
                        }
                        assert!(sessions.len() <= 512);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut now = 0;
            while !stop.load(Ordering::Relaxed) {
                now += 10_000_000;
                sessions.age(now);
                sessions
                    .reconcile(now, None, |key, _| (key.remote_port % 7 != 0).then_some(grant(2 * SECOND)));
                sessions.flush(PortId(3));
                sessions.list(now, None);
            }
        });
        let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    let c = sessions.counters();
    assert_eq!(c.opened - c.closed - c.expired - c.evicted, sessions.len() as u64);
    for port in 1..=6 {
        sessions.remove_port(PortId(port));
    }
    assert_eq!(sessions.len(), 0);
}

#[test]
fn s8_a_late_touch_never_keeps_the_next_session_of_a_slot() {
    // One slot: every session takes the place of the one before, under a worker that still touches that one with a
    // time far ahead. A touch that got through would give the new session an hour.
    let sessions = Sessions::new(1, 1);
    let stop = AtomicBool::new(false);
    let (send, receive) = std::sync::mpsc::channel::<Handle>();
    thread::scope(|scope| {
        let stop = &stop;
        let sessions = &sessions;
        let late = scope.spawn(move || {
            let mut handle = Handle::NONE;
            let mut touched = 0u64;
            while !stop.load(Ordering::Relaxed) {
                handle = receive.try_iter().last().unwrap_or(handle);
                touched += u64::from(sessions.touch(3600 * SECOND, handle));
            }
            touched
        });
        let mut wrong = 0;
        for n in 0..30_000 {
            let old = answered(sessions, 0, key(1, n), 7200 * SECOND);
            let _ = send.send(old);
            sessions.close(old);
            answered(sessions, 0, key(1, n + 1), 7200 * SECOND);
            wrong += usize::from(sessions.find(7200 * SECOND, &key(1, n + 1)).is_some());
            sessions.flush(PortId(1));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(late.join().is_ok());
        assert_eq!(wrong, 0);
    });
}
