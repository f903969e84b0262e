//! Section 20: fifty ports on the move at once, and one with ten thousand sessions.

use std::time::{Duration, Instant};

use turnpike_tests::lan::{mac, mac_text};
use turnpike_tests::options::Resume;
use turnpike_tests::switch::SwitchOptions;
use turnpike_tests::{Frame, Guest, Options, PATIENCE, Switch, raise_descriptor_limit};

use crate::moves::{POLICY, answer};
use crate::world::{World, key, to_b};

const PORTS: u8 = 50;
const SESSIONS: usize = 10_000;

fn name(n: u8) -> String {
    format!("p{n}")
}

#[test]
fn s20_8_fifty_ports_move_at_once_and_none_is_taken_for_another() {
    raise_descriptor_limit();
    let (_dir, key) = key();
    let args = vec!["--fleet-key".to_owned(), key];
    let [from, to] = [(); 2]
        .map(|()| Switch::start_with(SwitchOptions { args: args.clone(), ..SwitchOptions::default() }));
    let sockets = [&from, &to].map(|switch| {
        let add = |n| switch.add_port(&name(n), &["--mac", &mac_text(mac(n)), "--mtu", "9000"]);
        (1..=PORTS).map(add).collect::<Vec<_>>()
    });
    let mut guests: Vec<_> = (1..=PORTS)
        .map(|n| {
            from.ok(&["port", "set", &name(n), "--storm-limit", &(1000 + u32::from(n)).to_string()]);
            Guest::connect(&sockets[0][usize::from(n) - 1], Options::default().ring_size(32))
        })
        .collect();
    (1..=PORTS).for_each(|n| from.wait_state(&name(n), "running"));
    // Each has sent as many frames as its number says.
    for (n, guest) in (1u8..).zip(&mut guests) {
        let next = mac(n % PORTS + 1);
        let frame = Frame::new(next, mac(n)).ipv4().udp(1, 2).build();
        (0..n).for_each(|_| guest.send(&frame));
        assert!(guest.flush(PATIENCE));
    }
    for guest in &mut guests {
        guest.receive_all();
    }
    let barrier = std::sync::Barrier::new(usize::from(PORTS));
    let began = Instant::now();
    let took: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = guests
            .iter_mut()
            .zip(&sockets[1])
            .map(|(guest, socket)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let began = Instant::now();
                    let state = guest.leave().expect("saved");
                    let _source = guest.approach(socket).expect("handshake");
                    guest.channel().load_state(&state).expect("loaded");
                    guest.go_on(Resume::Used).expect("rings start");
                    began.elapsed()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("moved")).collect()
    });
    println!("{PORTS} ports in {:?}, the slowest in {:?}", began.elapsed(), took.iter().max());
    for n in 1..=PORTS {
        to.wait_state(&name(n), "running");
        let port = to.port(&name(n));
        assert_eq!(port["policy"]["storm_limit"], 1000 + u32::from(n), "{port}");
        assert_eq!(port["counters"]["out_packets"], n, "{port}");
    }
    // And they talk.
    for n in 1..=PORTS {
        let next = n % PORTS + 1;
        let frame = Frame::new(mac(next), mac(n)).ipv4().udp(3, 4).payload(&[n; 64]).build();
        guests[usize::from(n) - 1].send(&frame);
        guests[usize::from(next) - 1].expect(&frame);
    }
}

/// A guest with that many open sessions.
fn busy() -> World {
    let mut w = World::sealed(POLICY);
    let open = |n: usize| to_b().udp(1000 + (n % 50_000) as u16, 53).payload(&[7; 100]).build();
    let frames: Vec<_> = (0..SESSIONS).map(open).collect();
    assert_eq!(w.send(&frames), SESSIONS);
    w
}

fn sessions(w: &World) -> usize {
    w.here().switch.json(&["session", "list", "a"]).as_array().map_or(0, Vec::len)
}

#[test]
fn s20_2_ten_thousand_sessions_are_less_than_two_mebibytes_and_all_arrive() {
    let mut w = busy();
    assert_eq!(sessions(&w), SESSIONS);
    let state = w.go();
    assert!(state.len() < 2 << 20, "{} bytes", state.len());
    println!("{SESSIONS} sessions: {} bytes", state.len());
    assert_eq!(sessions(&w), SESSIONS);
    for n in [0, 4999, 9999] {
        assert_eq!(w.receive(&[answer(n)]), 1, "session {n}");
    }
}

/// How long a guest waits for the network; for people.
#[test]
#[ignore = "a figure; --ignored --nocapture shows it"]
fn figure_the_networks_share_of_a_move_with_ten_thousand_sessions() {
    let mut w = busy();
    let mut rows: [(&str, Vec<Duration>); 6] =
        ["stop", "save", "load", "rings", "first frame in", "save to first frame in"]
            .map(|name| (name, Vec::new()));
    let mut bytes = 0;
    for _ in 0..30 {
        let mut laps = vec![Instant::now()];
        w.a.stop().expect("stopped");
        laps.push(Instant::now());
        let state = w.a.channel().save_state().expect("saved");
        laps.push(Instant::now());
        bytes = state.len();
        // The destination's front end is there long before.
        let source = w.approach();
        // One that waits for the guest.
        let other = 1 - w.at;
        let connected = Instant::now();
        w.a.channel().load_state(&state).expect("loaded");
        let loaded = Instant::now();
        w.hosts[other].b.send(&answer(5));
        let begin = Instant::now();
        w.a.go_on(Resume::Used).expect("rings start");
        let running = Instant::now();
        assert!(w.a.receive(PATIENCE).is_some());
        let first = Instant::now();
        w.at = other;
        drop(source);
        w.here().switch.wait_state("a", "running");
        let save = laps[2] - laps[1];
        let all = save + (loaded - connected) + (first - begin);
        let values = [laps[1] - laps[0], save, loaded - connected, running - begin, first - running, all];
        rows.iter_mut().zip(values).for_each(|((_, list), value)| list.push(value));
        w.here().switch.wait_state("a", "running");
    }
    println!("{SESSIONS} sessions, {bytes} bytes, 30 moves");
    for (name, mut list) in rows {
        list.sort();
        println!("{name:24} p50 {:?}, longest {:?}", list[14], list[29]);
    }
}
