//! Packed rings (virtio 1.2 §2.8) and in-order use, by a scripted front end over the whole protocol.

use turnpike_tests::features::{EVENT_IDX, IN_ORDER, INDIRECT_DESC, MRG_RXBUF, RING_PACKED};
use turnpike_tests::options::{Dialect, Resume, Shape};
use turnpike_tests::ring::{INDIRECT, NEXT, WRITE};
use turnpike_tests::{Arena, Frame, Guest, Options, PATIENCE, Switch, eventually};

fn exchange(a: &mut Guest, b: &mut Guest, seed: u64) {
    for (len, seed) in [(700, seed), (60 + seed as usize % 1400, seed + 1)] {
        let frame = Frame::of_len(a, b, len, seed);
        a.send(&frame);
        b.expect(&frame);
        let frame = Frame::of_len(b, a, len, seed);
        b.send(&frame);
        a.expect(&frame);
    }
}

fn packed() -> Options {
    Options::default().with(RING_PACKED)
}

#[test]
fn s2_8_frames_pass_whatever_the_rings_are_like() {
    let switch = Switch::start();
    let rings = [
        packed(),
        packed().ring_size(64).dialect(Dialect::Qemu),
        packed().ring_size(100).shape(Shape::HeaderApart),
        packed().with(IN_ORDER).ring_size(64),
        packed().without(EVENT_IDX).ring_size(64).shape(Shape::Pieces(50)),
        packed().without(INDIRECT_DESC | MRG_RXBUF).ring_size(64),
        packed().shape(Shape::IndirectPieces(100)).ring_size(64),
        packed().rx_buffer(200).ring_size(64),
        Options::default().with(IN_ORDER).ring_size(64),
    ];
    let mut a = Guest::attach(&switch, "a", Options::default());
    for (number, options) in rings.into_iter().enumerate() {
        let mut b = Guest::attach(&switch, "b", options.clone());
        assert_eq!(b.features & RING_PACKED, options.features & RING_PACKED);
        for seed in 0..200 {
            exchange(&mut a, &mut b, 1000 * number as u64 + seed);
        }
        // In bursts, which in-order rings give back at once.
        let frames: Vec<_> = (0..150).map(|seed| Frame::of_len(&b, &a, 300, seed)).collect();
        b.send_all(&frames);
        for frame in &frames {
            a.expect(frame);
        }
        assert!(b.flush(PATIENCE), "everything is given back");
        drop(b);
        switch.wait_state("b", "waiting");
    }
    for name in ["a", "b"] {
        assert_eq!(switch.all_drops(name), 0, "{}", switch.port(name)["counters"]);
    }
}

#[test]
fn s2_8_a_stopped_ring_says_both_its_places_and_goes_on_there() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, packed().ring_size(64), packed().with(IN_ORDER).ring_size(64));
    for round in 0..40 {
        exchange(&mut a, &mut b, 10 * round);
        for guest in [&mut a, &mut b] {
            assert!(guest.flush(PATIENCE), "all is sent");
            let bases = guest.stop().expect("the rings stop");
            let rings = guest.rx.iter().zip(&guest.tx).flat_map(|(rx, tx)| [rx.next_used, tx.next_used]);
            let want: Vec<u32> = rings.map(|place| u32::from(place) << 16 | u32::from(place)).collect();
            assert_eq!(bases, want, "round {round}");
            guest.start(&bases).expect("the rings start");
        }
    }
}

#[test]
fn s2_8_packed_rings_outlive_take_over_and_death_of_the_switch() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, packed().ring_size(64), packed().ring_size(64));
    for round in 0..12 {
        for seed in 0..5 {
            exchange(&mut a, &mut b, 100 * round + seed);
        }
        switch.take_over();
        exchange(&mut a, &mut b, 100 * round + 50);
        // What is delivered and not given back yet when the switch dies is sent again.
        assert!(a.flush(PATIENCE) && b.flush(PATIENCE), "everything is given back");
        switch.kill();
        switch.start_again();
        for (guest, name) in [(&mut a, "a"), (&mut b, "b")] {
            let socket = switch.dir().join(format!("{name}.sock"));
            // It says what it was told last, as QEMU does: where the rings began.
            assert!(eventually(|| guest.reconnect(&socket, Resume::Used).is_ok()), "{name} cannot connect");
            switch.wait_state(name, "running");
        }
    }
}

#[test]
fn h12_a_packed_ring_against_the_rules_harms_nobody_else() {
    let rings: [&[(u64, u32, u16)]; 5] = [
        &[(0x1000, 100, NEXT); 64],
        &[(u64::MAX - 8, 100, 0)],
        &[(0x1000, 100, WRITE)],
        &[(0x1000, 0x100_0000, INDIRECT)],
        &[(0x1000, 4, 0)],
    ];
    for ring in rings {
        Arena::run(|arena| {
            let guest = arena.guest(packed().ring_size(64));
            let before = arena.switch.all_drops("evil");
            let packed = guest.tx[0].packed.as_ref().expect("a packed ring");
            let mut at = packed.avail;
            for &(addr, len, flags) in ring {
                packed.write(at, addr, len, 0xffff, flags);
                at.0 += 1;
            }
            guest.tx[0].kick.write(1).expect("kick");
            let seen = eventually(|| {
                arena.switch.has_event("queue-stopped") || arena.switch.all_drops("evil") > before
            });
            assert!(seen, "neither an event nor a counted drop: {}", arena.switch.port("evil")["counters"]);
            arena.neighbours.check();
        });
    }
}
