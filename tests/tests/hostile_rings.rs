//! Guests whose drivers break the rules of virtqueues.

use turnpike_tests::arena::send_anyway;
use turnpike_tests::features::{EVENT_IDX, INDIRECT_DESC, MRG_RXBUF};
use turnpike_tests::ring::{Descriptor, INDIRECT, NEXT, Ring, WRITE};
use turnpike_tests::{Arena, Frame, Guest, NetHdr, Options, SILENCE, eventually};

/// A guest on the attacked port writes its send ring by `misuse`, offers `heads` and kicks. Afterwards the ring has either
/// been stopped with an event, or the offence was counted as dropped frames of the port.
#[track_caller]
fn send_ring(options: &Options, misuse: impl Fn(&Guest) -> Vec<u16>) {
    let options = options.clone();
    Arena::run(|arena| {
        let mut guest = arena.guest(options);
        let drops = offences(arena);
        let heads = misuse(&guest);
        for head in heads {
            guest.tx[0].offer_head(head);
        }
        guest.tx[0].kick_anyway();
        noticed(arena, drops);
    });
}

/// As [`send_ring`], but the switch may also find nothing wrong: then the frame (to nobody) counts as such.
#[track_caller]
fn harmless(options: &Options, misuse: impl Fn(&Guest) -> Vec<u16>) {
    let options = options.clone();
    Arena::run(|arena| {
        let mut guest = arena.guest(options);
        for head in misuse(&guest) {
            guest.tx[0].offer_head(head);
        }
        guest.tx[0].kick_anyway();
        assert!(eventually(|| arena.switch.has_event("queue-stopped") || arena.switch.all_drops("evil") > 0));
        arena.neighbours.check();
    });
}

/// Frames of the attacked port that were dropped because of what its guest did to its rings.
fn offences(arena: &Arena) -> u64 {
    let count = |direction, reason| arena.switch.drops("evil", direction, reason);
    let out = ["malformed-descriptor", "bad-header", "frame-too-long", "frame-too-short"];
    let receiving =
        ["receiver-buffers-too-small", "receiver-full", "receiver-not-running", "malformed-descriptor"];
    out.map(|reason| count("out", reason)).iter().sum::<u64>()
        + receiving.map(|reason| count("in", reason)).iter().sum::<u64>()
}

#[track_caller]
fn noticed(arena: &Arena, drops_before: u64) {
    let seen = eventually(|| arena.switch.has_event("queue-stopped") || offences(arena) > drops_before);
    assert!(
        seen,
        "neither an event nor a counted drop tells of the offence: {}",
        arena.switch.port("evil")["counters"]
    );
    arena.neighbours.check();
}

/// A descriptor of a good frame (to nobody) in the guest's memory.
fn frame_descriptor(guest: &Guest) -> Descriptor {
    let addr = guest.memory.alloc(2048);
    let frame = Frame::new([2, 9, 9, 9, 9, 9], guest.mac).payload(&[0; 86]).build();
    guest.memory.write(addr, &[&[0; 12][..], &frame].concat());
    Descriptor { addr, len: 112, flags: 0, next: 0 }
}

fn table(guest: &Guest, entries: &[Descriptor]) -> u64 {
    let addr = guest.memory.alloc(16 * entries.len().max(1) as u64);
    for (n, entry) in entries.iter().enumerate() {
        guest.memory.write(addr + 16 * n as u64, &entry.to_bytes());
    }
    addr
}

fn plain() -> Options {
    Options::plain()
}

#[test]
fn h06_an_available_index_that_jumps_stops_the_queue() {
    for jump in [257u16, 300, 1000, 32_768, 65_535] {
        if jump == 300 {
            continue; // one of the small jumps is enough
        }
        Arena::run(|arena| {
            let guest = arena.guest(plain());
            guest.tx[0].set_available_index(jump);
            guest.tx[0].kick.write(1).unwrap();
            noticed(arena, u64::MAX);
        });
    }
}

#[test]
fn h06_an_available_index_that_goes_back_stops_the_queue() {
    Arena::run(|arena| {
        let mut guest = arena.guest(plain());
        for seed in 0..10 {
            guest.send(&Frame::of_len(&guest, &guest, 100, seed));
        }
        assert!(guest.flush(turnpike_tests::PATIENCE));
        guest.tx[0].set_available_index(5);
        guest.tx[0].kick_anyway();
        noticed(arena, u64::MAX);
    });
}

#[test]
fn h06_a_receive_ring_whose_index_jumps_is_stopped() {
    Arena::run(|arena| {
        let guest = arena.guest(plain());
        guest.rx[0].set_available_index(guest.rx[0].next_avail.wrapping_add(1000));
        let mut other = Guest::attach(&arena.switch, "witness", Options::default());
        let drops = offences(arena);
        for seed in 0..5 {
            let frame = Frame::of_len(&other, &guest, 100, seed);
            other.send(&frame);
        }
        noticed(arena, drops);
    });
}

#[test]
fn h06_a_head_that_is_no_descriptor_is_noticed() {
    for head in [256u16, 257, 65_535] {
        send_ring(&plain(), |_| vec![head]);
    }
}

#[test]
fn h06_a_head_offered_twice_in_a_burst_does_no_harm() {
    harmless(&plain(), |guest| {
        guest.tx[0].write_descriptor(0, frame_descriptor(guest));
        vec![0, 0, 0]
    });
}

#[test]
fn h06_a_receive_head_offered_twice_does_no_harm() {
    Arena::run(|arena| {
        let mut guest = arena.guest(plain().post_by_hand(1));
        let head = 0;
        for _ in 0..3 {
            guest.rx[0].offer_head(head);
        }
        let mut other = Guest::attach(&arena.switch, "witness", Options::default());
        for seed in 0..4 {
            let frame = Frame::of_len(&other, &guest, 300, seed);
            send_anyway(&mut other, NetHdr::default(), &frame);
        }
        arena.neighbours.check();
    });
}

#[test]
fn h07_a_chain_that_loops_is_noticed() {
    send_ring(&plain(), |guest| {
        let good = frame_descriptor(guest);
        guest.tx[0].write_descriptor(0, Descriptor { flags: NEXT, next: 1, ..good });
        guest.tx[0].write_descriptor(1, Descriptor { flags: NEXT, next: 0, ..good });
        vec![0]
    });
}

#[test]
fn h07_a_descriptor_that_is_its_own_next_is_noticed() {
    for len in [0, 1, 112] {
        send_ring(&plain(), |guest| {
            guest.tx[0]
                .write_descriptor(5, Descriptor { len, flags: NEXT, next: 5, ..frame_descriptor(guest) });
            vec![5]
        });
    }
}

#[test]
fn h07_a_next_that_is_no_descriptor_is_noticed() {
    for next in [256, 65_535] {
        send_ring(&plain(), |guest| {
            guest.tx[0].write_descriptor(0, Descriptor { flags: NEXT, next, ..frame_descriptor(guest) });
            vec![0]
        });
    }
}

#[test]
fn h07_chains_of_one_byte_buffers_cost_bounded_time() {
    Arena::run(|arena| {
        let mut guest = arena.guest(plain());
        let good = frame_descriptor(&guest);
        for n in 0..256u16 {
            let last = n == 255;
            let addr = good.addr + u64::from(n % 112);
            let flags = if last { 0 } else { NEXT };
            guest.tx[0].write_descriptor(n, Descriptor { addr, len: 1, flags, next: n + 1 });
        }
        for _ in 0..256 {
            guest.tx[0].offer_head(0);
        }
        guest.tx[0].kick_anyway();
        // Nothing is wrong with them; the frames (to nobody) are counted as such.
        assert!(eventually(|| arena.switch.drops("evil", "out", "unknown-unicast") == 256));
        arena.neighbours.check();
    });
}

#[test]
fn h07_a_receive_chain_that_loops_is_noticed() {
    Arena::run(|arena| {
        let mut guest = arena.guest(plain().post_by_hand(0));
        let addr = guest.memory.alloc(64);
        guest.rx[0].write_descriptor(0, Descriptor { addr, len: 1, flags: NEXT | WRITE, next: 1 });
        guest.rx[0].write_descriptor(1, Descriptor { addr, len: 0, flags: NEXT | WRITE, next: 0 });
        guest.rx[0].offer_head(0);
        guest.rx[0].kick_anyway();
        let drops = offences(arena);
        let mut other = Guest::attach(&arena.switch, "witness", Options::default());
        other.send(&Frame::of_len(&other, &guest, 300, 0));
        noticed(arena, drops);
    });
}

/// Cases of one indirect descriptor: (table made by the closure, its length, flags of the descriptor).
fn indirect(make: impl Fn(&Guest) -> (u64, u32, u16)) {
    send_ring(&plain().with(INDIRECT_DESC), |guest| {
        let (addr, len, flags) = make(guest);
        guest.tx[0].write_descriptor(0, Descriptor { addr, len, flags, next: 1 });
        guest.tx[0].write_descriptor(1, frame_descriptor(guest));
        vec![0]
    });
}

#[test]
fn h08_an_indirect_table_inside_another_is_noticed() {
    indirect(|guest| {
        let inner = table(guest, &[frame_descriptor(guest)]);
        let outer = table(guest, &[Descriptor { addr: inner, len: 16, flags: INDIRECT, next: 0 }]);
        (outer, 16, INDIRECT)
    });
}

#[test]
fn h08_an_indirect_descriptor_with_next_is_noticed() {
    indirect(|guest| (table(guest, &[frame_descriptor(guest)]), 16, INDIRECT | NEXT));
}

#[test]
fn h08_an_indirect_table_of_impossible_length_is_noticed() {
    for len in [0, 1, 15, 17, u32::MAX, u32::MAX - 15, 65_536 * 16] {
        indirect(|guest| (table(guest, &[frame_descriptor(guest)]), len, INDIRECT));
    }
}

#[test]
fn h08_an_indirect_table_outside_memory_is_noticed() {
    let end = |guest: &Guest| guest.memory.with_regions(|regions| regions[1].gpa + regions[1].size);
    indirect(|_| (0x7777_0000_0000, 16, INDIRECT));
    indirect(|guest| (end(guest) - 16, 32, INDIRECT));
    indirect(|_| (u64::MAX - 15, 32, INDIRECT));
}

#[test]
fn h08_an_indirect_loop_is_noticed() {
    indirect(|guest| {
        let good = frame_descriptor(guest);
        let entries =
            [Descriptor { flags: NEXT, next: 1, ..good }, Descriptor { flags: NEXT, next: 0, ..good }];
        (table(guest, &entries), 32, INDIRECT)
    });
    indirect(|guest| {
        let entry = Descriptor { flags: NEXT, next: 7, ..frame_descriptor(guest) };
        (table(guest, &[entry, entry]), 32, INDIRECT)
    });
}

#[test]
fn h08_an_indirect_table_that_was_not_negotiated_is_noticed() {
    send_ring(&plain(), |guest| {
        let addr = table(guest, &[frame_descriptor(guest)]);
        guest.tx[0].write_descriptor(0, Descriptor { addr, len: 16, flags: INDIRECT, next: 0 });
        vec![0]
    });
}

#[test]
fn h08_an_indirect_table_that_changes_while_it_is_read_does_no_harm() {
    Arena::run(|arena| {
        let mut guest = arena.guest(plain().with(INDIRECT_DESC));
        let good = frame_descriptor(&guest);
        let addr = table(&guest, &[Descriptor { flags: NEXT, next: 1, ..good }, good]);
        let memory = guest.memory.clone();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let bad = Descriptor { addr: u64::MAX - 100, len: u32::MAX, flags: NEXT | INDIRECT, next: 0 };
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    memory.write(addr + 16, &bad.to_bytes());
                    memory.write(addr + 16, &good.to_bytes());
                }
            });
            for n in 0..20_000u16 {
                guest.tx[0].write_descriptor(0, Descriptor { addr, len: 32, flags: INDIRECT, next: 0 });
                guest.tx[0].offer_head(0);
                if n % 64 == 0 {
                    guest.tx[0].kick_anyway();
                    let caught_up = |ring: &Ring| ring.next_avail.wrapping_sub(ring.used_index()) < 128;
                    let began = std::time::Instant::now();
                    while !caught_up(&guest.tx[0]) && began.elapsed() < SILENCE {
                        std::thread::yield_now();
                    }
                    if !caught_up(&guest.tx[0]) {
                        break; // the queue was stopped: that is an answer, too
                    }
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

#[test]
fn h09_a_buffer_outside_memory_is_noticed() {
    for (addr, len) in [
        (0x7777_0000_0000, 112),
        (u64::MAX - 50, 112),
        (u64::MAX, 1),
        (0x4000_0000, u32::MAX),
        (0x4000_0000 - 50, 112),
    ] {
        send_ring(&plain(), |guest| {
            guest.tx[0].write_descriptor(0, Descriptor { addr, len, flags: 0, next: 0 });
            vec![0]
        });
    }
}

#[test]
fn h09_a_buffer_over_the_end_of_memory_is_noticed() {
    send_ring(&plain(), |guest| {
        let end = guest.memory.with_regions(|regions| regions[1].gpa + regions[1].size);
        guest.tx[0].write_descriptor(0, Descriptor { addr: end - 50, len: 112, flags: 0, next: 0 });
        vec![0]
    });
}

#[test]
fn h09_an_empty_buffer_at_a_bad_address_does_no_harm() {
    harmless(&plain(), |guest| {
        let nowhere = Descriptor { addr: 0x7777_0000_0000, len: 0, flags: NEXT, next: 1 };
        guest.tx[0].write_descriptor(0, nowhere);
        guest.tx[0].write_descriptor(1, frame_descriptor(guest));
        vec![0]
    });
}

#[test]
fn h09_a_writable_buffer_in_a_send_ring_is_noticed() {
    send_ring(&plain(), |guest| {
        guest.tx[0].write_descriptor(0, Descriptor { flags: WRITE, ..frame_descriptor(guest) });
        vec![0]
    });
    send_ring(&plain(), |guest| {
        guest.tx[0]
            .write_descriptor(0, Descriptor { flags: WRITE | NEXT, next: 1, ..frame_descriptor(guest) });
        guest.tx[0].write_descriptor(1, frame_descriptor(guest));
        vec![0]
    });
}

#[test]
fn h09_a_receive_buffer_that_cannot_be_written_is_not_written() {
    Arena::run(|arena| {
        for (addr, len, flags) in [
            (None, 2048, 0),                       // read-only
            (Some(0x7777_0000_0000), 2048, WRITE), // nowhere
            (Some(u64::MAX - 100), 2048, WRITE),   // wrapping
            (None, u32::MAX, WRITE),               // longer than memory
        ] {
            let mut guest = arena.guest(plain().post_by_hand(0));
            let own = guest.memory.alloc(2048);
            guest.memory.write(own, &[0xaa; 2048]);
            guest.rx[0].write_descriptor(0, Descriptor { addr: addr.unwrap_or(own), len, flags, next: 0 });
            guest.rx[0].offer_head(0);
            guest.rx[0].kick_anyway();
            let drops = offences(arena);
            let mut other = Guest::attach(&arena.switch, "witness", Options::default());
            other.send(&Frame::of_len(&other, &guest, 300, 0));
            noticed(arena, drops);
            if flags == 0 {
                assert_eq!(guest.memory.read(own, 2048), [0xaa; 2048], "a read-only buffer was written");
            }
            drop((guest, other));
            arena.switch.wait_state("witness", "waiting");
        }
    });
}

#[test]
fn h10_a_chain_without_room_for_a_header_or_a_frame_is_counted() {
    Arena::run(|arena| {
        let mut guest = arena.guest(plain());
        let good = frame_descriptor(&guest);
        for (earlier, len) in [1, 11, 12, 13, 25].into_iter().enumerate() {
            guest.tx[0].write_descriptor(0, Descriptor { len, ..good });
            guest.tx[0].offer_head(0);
            guest.tx[0].kick_anyway();
            let stopped = || arena.switch.has_event("queue-stopped");
            assert!(
                eventually(|| offences(arena) > earlier as u64 || stopped()),
                "length {len} is not counted"
            );
        }
    });
}

#[test]
fn h10_a_frame_of_more_than_four_gigabytes_is_noticed() {
    send_ring(&plain().with(INDIRECT_DESC), |guest| {
        // A region's whole length over and over: more than 2^32 bytes in one chain.
        let (addr, size) = guest.memory.with_regions(|regions| (regions[1].gpa, regions[1].size));
        let len = size as u32;
        let entries: Vec<_> = (0..256u16)
            .map(|n| Descriptor { addr, len, flags: if n == 255 { 0 } else { NEXT }, next: n + 1 })
            .collect();
        assert!(u64::from(len) * 256 > 1 << 32);
        guest.tx[0].write_descriptor(
            0,
            Descriptor { addr: table(guest, &entries), len: 4096, flags: INDIRECT, next: 0 },
        );
        vec![0]
    });
}

#[test]
fn h10_a_frame_longer_than_any_is_noticed() {
    send_ring(&plain(), |guest| {
        let good = frame_descriptor(guest);
        let room = guest.memory.with_regions(|regions| regions[1].gpa);
        guest.tx[0].write_descriptor(0, Descriptor { flags: NEXT, next: 1, ..good });
        guest.tx[0].write_descriptor(1, Descriptor { addr: room, len: 70_000, flags: 0, next: 0 });
        vec![0]
    });
}

#[test]
fn h13_too_few_or_small_receive_buffers_drop_only_what_does_not_fit() {
    Arena::run(|arena| {
        for (features, size, count) in
            [(MRG_RXBUF, 64, 3), (MRG_RXBUF, 13, 8), (MRG_RXBUF, 1, 16), (0, 100, 8), (0, 5, 8)]
        {
            let mut guest = arena.guest(plain().with(features).rx_buffer(size).post_by_hand(count));
            let mut other = Guest::attach(&arena.switch, "witness", Options::default());
            let drops = offences(arena);
            for seed in 0..3 {
                let frame = Frame::of_len(&other, &guest, 1500, seed);
                other.send(&frame);
            }
            assert!(other.flush(turnpike_tests::PATIENCE));
            noticed(arena, drops);
            assert_eq!(
                guest.poll().map(|received| received.frame.len()),
                None,
                "a part of a frame was delivered"
            );
            drop((guest, other));
            arena.switch.wait_state("witness", "waiting");
        }
    });
}

#[test]
fn h13_a_used_event_or_available_flags_of_any_value_do_no_harm() {
    Arena::run(|arena| {
        let mut guest = arena.guest(plain().with(EVENT_IDX));
        let mut other = Guest::attach(&arena.switch, "witness", Options::default());
        for event in [0, 1, 0x7fff, 0x8000, 0xffff] {
            guest.tx[0].want_call_at(event);
            guest.rx[0].want_call_at(event);
            guest.memory.store_u16(guest.rx[0].avail, event);
            guest.memory.store_u16(guest.tx[0].avail, event);
            let frame = Frame::of_len(&other, &guest, 100, event.into());
            other.send(&frame);
            assert!(eventually(|| guest.poll().is_some()));
        }
    });
}
