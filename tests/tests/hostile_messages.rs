//! Front ends that say wrong things about rings and features. Numbers are those of the list of hostile cases.

use std::io::Write;
use std::os::fd::AsFd;

use turnpike_tests::features::{self, protocol};
use turnpike_tests::memory::memfd;
use turnpike_tests::message::{self, Message, eventfd};
use turnpike_tests::{Arena, Frame, Options};

/// Ring indices that do not exist on a port with one queue pair, among them ones that are right after truncation.
const BAD_INDICES: [u32; 9] = [2, 3, 64, 255, 256, 65_536, 65_537, 0x8000_0000, u32::MAX];

#[test]
fn h01_a_ring_size_that_cannot_be_is_refused() {
    Arena::run(|arena| {
        for size in [0, 3, 100, 2048, 32_768, 65_535, 65_536, 65_792, u32::MAX] {
            let (channel, memory) = arena.with_memory(0x10_0000);
            channel.say(&Message::vring(message::SET_VRING_NUM, 0, size));
            channel.say(&Message::vring_addr(
                0,
                memory.user(0x1000),
                memory.user(0x9000),
                memory.user(0xd000),
            ));
            channel.say(&Message::vring_fd(message::SET_VRING_KICK, 0, eventfd()));
            channel.say(&Message::vring(message::SET_VRING_ENABLE, 0, 1));
            arena.settle(&channel);
        }
    });
}

#[test]
fn h01_a_thousand_ring_sizes_leave_nothing_behind() {
    Arena::run(|arena| {
        let channel = arena.negotiated();
        for round in 0..1000 {
            channel.say(&Message::vring(message::SET_VRING_NUM, round % 2, 64 << (round % 5)));
        }
        assert!(arena.settle(&channel), "good sizes, however often, are no offence");
        for round in 0..1000 {
            channel.say(&Message::vring(message::SET_VRING_NUM, round % 2, 65_535));
        }
        arena.settle(&channel);
    });
}

#[test]
fn h02_a_ring_that_does_not_exist_is_refused_in_every_message() {
    Arena::run(|arena| {
        for index in BAD_INDICES {
            let bad = [
                Message::vring(message::SET_VRING_NUM, index, 64),
                Message::vring_addr(index, 0x1000, 0x2000, 0x3000),
                Message::vring(message::SET_VRING_BASE, index, 0),
                Message::vring(message::GET_VRING_BASE, index, 0),
                Message::vring(message::SET_VRING_ENABLE, index, 1),
            ];
            for message in bad {
                arena.refused(&arena.negotiated(), &[message]);
            }
        }
    });
}

#[test]
fn h02_a_descriptor_for_a_ring_that_does_not_exist_is_refused() {
    Arena::run(|arena| {
        for request in [message::SET_VRING_KICK, message::SET_VRING_CALL, message::SET_VRING_ERR] {
            for index in [2, 0xff] {
                arena.refused(&arena.negotiated(), &[Message::vring_fd(request, index, eventfd())]);
            }
            // Only eight bits are the index; what the rest means is nobody's promise. It must do no harm.
            for index in [0x200, 0x1_0000, !0x100] {
                let channel = arena.negotiated();
                channel.say(&Message::vring_fd(request, index, eventfd()));
                arena.settle(&channel);
            }
        }
    });
}

#[test]
fn h03_ring_addresses_that_cannot_be_move_nothing() {
    const SIZE: u64 = 0x10_0000;
    Arena::run(|arena| {
        // Descriptor table, used ring, available ring, as offsets from the region's front-end address.
        let good = [0x1000, 0x3000, 0x5000];
        let mut cases = Vec::new();
        for part in 0..3 {
            for wrong in [
                SIZE,                         // just behind the region
                SIZE - 16,                    // straddling its end
                0u64.wrapping_sub(0x10_0000), // before it
                u64::MAX - 8,                 // wrapping the number space
                0u64.wrapping_sub(1 << 46),   // nowhere near
                good[part] + 1,               // misaligned
            ] {
                let mut case = good;
                case[part] = wrong;
                cases.push(case);
            }
        }
        cases.extend([[0x1000, 0x1000, 0x1000], [0x1000, 0x1008, 0x1010], [0, 0, 0]]);
        for [desc, used, avail] in cases {
            let (channel, memory) = arena.with_memory(SIZE);
            let user = |offset: u64| memory.user(0x1000).wrapping_sub(0x1000).wrapping_add(offset);
            for index in 0..2 {
                channel.say(&Message::vring(message::SET_VRING_NUM, index, 256));
                channel.say(&Message::vring_addr(index, user(desc), user(used), user(avail)));
                channel.say(&Message::vring_fd(message::SET_VRING_CALL, index.into(), eventfd()));
                channel.say(&Message::vring_fd(message::SET_VRING_KICK, index.into(), eventfd()));
                channel.say(&Message::vring(message::SET_VRING_ENABLE, index, 1));
            }
            arena.settle(&channel);
        }
    });
}

#[test]
fn h03_a_ring_over_the_border_of_two_regions_does_no_harm() {
    Arena::run(|arena| {
        let channel = arena.negotiated();
        let memory = turnpike_tests::Memory::new(&[(0, 0x10_000), (0x10_000, 0x10_000)]);
        channel.confirm(Message::memory(&memory)).unwrap();
        for index in 0..2 {
            channel.say(&Message::vring(message::SET_VRING_NUM, index, 256));
            let desc = memory.user(0x10_000) - 2048;
            channel.say(&Message::vring_addr(index, desc, memory.user(0x1000), memory.user(0x2000)));
            channel.say(&Message::vring_fd(message::SET_VRING_KICK, index.into(), eventfd()));
            channel.say(&Message::vring(message::SET_VRING_ENABLE, index, 1));
        }
        memory.store_u16(0x2002, 100);
        arena.settle(&channel);
        std::thread::sleep(turnpike_tests::SILENCE);
    });
}

#[test]
fn h04_a_base_that_cannot_be_moves_nothing() {
    Arena::run(|arena| {
        for base in [1u32, 255, 256, 40_000, 65_535, 65_536, 0x8000_0000, u32::MAX] {
            let mut guest = arena.guest(Options::default());
            guest.stop().unwrap();
            let channel = guest.channel();
            channel.say(&Message::vring(message::SET_VRING_BASE, 0, base));
            channel.say(&Message::vring(message::SET_VRING_BASE, 1, base));
            for ring in [&guest.rx[0], &guest.tx[0]] {
                let [desc, used, avail] =
                    [ring.desc, ring.used, ring.avail].map(|gpa| guest.memory.user(gpa));
                channel.say(&Message::vring_addr(ring.index, desc, used, avail));
                channel.say(&Message::vring_fd(message::SET_VRING_KICK, ring.index.into(), eventfd()));
            }
            arena.settle(channel);
        }
    });
}

#[test]
fn h04_a_base_can_be_asked_for_at_any_time() {
    Arena::run(|arena| {
        let channel = arena.negotiated();
        for index in [0, 1, 0, 0] {
            channel.say(&Message::vring(message::GET_VRING_BASE, index, 0)); // never started
        }
        arena.settle(&channel);
        drop(channel);
        let mut guest = arena.guest(Options::default());
        let frames: Vec<_> = (0..100).map(|seed| Frame::of_len(&guest, &guest, 900, seed)).collect();
        guest.send_all(&frames);
        for index in [1, 1, 0, 0, 1] {
            guest.channel().say(&Message::vring(message::GET_VRING_BASE, index, 0)); // during traffic, twice
        }
        arena.settle(guest.channel());
    });
}

#[test]
fn h05_a_kick_or_call_that_is_no_event_descriptor_does_no_harm() {
    Arena::run(|arena| {
        let file = memfd("regular", 4096);
        let (pipe_out, pipe_in) = rustix::pipe::pipe().unwrap();
        let mut full = std::fs::File::from(pipe_in.try_clone().unwrap());
        full.write_all(&vec![0; 65_536]).unwrap(); // the next writer of this pipe sleeps for ever
        let null = std::fs::File::open("/dev/null").unwrap();
        for fd in [file.as_fd(), pipe_out.as_fd(), pipe_in.as_fd(), null.as_fd()] {
            for request in [message::SET_VRING_KICK, message::SET_VRING_CALL, message::SET_VRING_ERR] {
                let mut guest = arena.guest(Options::default());
                for index in 0..2 {
                    guest.channel().say(&Message::vring_fd(request, index, fd));
                }
                if arena.settle(guest.channel()) {
                    let frame = Frame::of_len(&guest, &guest, 100, 0);
                    turnpike_tests::arena::send_anyway(&mut guest, turnpike_tests::NetHdr::default(), &frame);
                }
            }
        }
    });
}

#[test]
fn h05_a_ring_without_kick_descriptor_does_no_harm() {
    Arena::run(|arena| {
        let mut guest = arena.guest(Options::default());
        for request in [message::SET_VRING_KICK, message::SET_VRING_CALL, message::SET_VRING_ERR] {
            guest.channel().say(&Message::u64(request, message::NO_FD | 1));
        }
        arena.settle(guest.channel());
        let frame = Frame::of_len(&guest, &guest, 100, 0);
        turnpike_tests::arena::send_anyway(&mut guest, turnpike_tests::NetHdr::default(), &frame);
    });
}

#[test]
fn h05_a_call_descriptor_that_would_block_stops_nobody() {
    Arena::run(|arena| {
        let mut guest = arena.guest(Options::default().without(features::EVENT_IDX));
        let call = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).unwrap(); // one more write blocks
        guest.channel().say(&Message::vring_fd(message::SET_VRING_CALL, 0, &call));
        guest.channel().say(&Message::vring_fd(message::SET_VRING_CALL, 1, &call));
        if !arena.settle(guest.channel()) {
            return;
        }
        for seed in 0..10 {
            let frame = Frame::of_len(&guest, &guest, 100, seed);
            turnpike_tests::arena::send_anyway(&mut guest, turnpike_tests::NetHdr::default(), &frame);
        }
        arena.neighbours.check();
    });
}

#[test]
fn h05_a_million_kicks_cost_the_neighbours_nothing() {
    Arena::run(|arena| {
        let mut guest = arena.guest(Options::default());
        for _ in 0..1_000_000 / 4 {
            guest.tx[0].kick_anyway();
            guest.rx[0].kick_anyway();
        }
        arena.neighbours.check();
    });
}

#[test]
fn h25_features_that_were_not_offered_are_refused() {
    Arena::run(|arena| {
        for bit in [features::HOST_UFO, 1 << 63, 1 << 40] {
            let channel = arena.negotiated();
            let offered = channel.ask_u64(message::GET_FEATURES).unwrap();
            assert_eq!(offered & bit, 0, "bit {bit:#x} is offered after all");
            arena.refused(&channel, &[Message::u64(message::SET_FEATURES, offered | bit)]);
        }
        // Unoffered protocol features are refused, or at least switch nothing on.
        for (bit, request) in [
            (protocol::INFLIGHT_SHMFD, message::GET_INFLIGHT_FD),
            (protocol::INFLIGHT_SHMFD, message::SET_INFLIGHT_FD),
        ] {
            let channel = arena.negotiated();
            channel.say(&Message::u64(message::SET_PROTOCOL_FEATURES, protocol::ALL | bit));
            let body = Message::new(request).words64(&[0x1000, 0]).fd(memfd("log", 0x1000));
            arena.refused(&channel, &[body]);
        }
        // So are requests of a protocol feature that was offered, but not accepted.
        for (bit, request, bodies) in [
            (protocol::LOG_SHMFD, message::SET_LOG_BASE, 2),
            (protocol::DEVICE_STATE, message::SET_DEVICE_STATE_FD, 1),
        ] {
            let channel = arena.negotiated();
            channel.say(&Message::u64(message::SET_PROTOCOL_FEATURES, protocol::ALL & !bit));
            let body = Message::new(request).words64(&[0x1000, 0][..bodies]).fd(memfd("log", 0x1000));
            arena.refused(&channel, &[body]);
        }
        let channel = arena.negotiated();
        channel.say(&Message::u64(message::SET_PROTOCOL_FEATURES, protocol::ALL & !protocol::DEVICE_STATE));
        arena.refused(&channel, &[Message::new(message::CHECK_DEVICE_STATE)]);
    });
}

#[test]
fn h25_features_that_change_while_rings_run_do_no_harm() {
    Arena::run(|arena| {
        let packed = features::LINUX | features::RING_PACKED | features::IN_ORDER;
        for bits in
            [0, features::BASE, features::LINUX, features::VERSION_1, features::PROTOCOL_FEATURES, packed]
        {
            let mut guest = arena.guest(Options::default());
            let frames: Vec<_> = (0..50).map(|seed| Frame::of_len(&guest, &guest, 500, seed)).collect();
            guest.send_all(&frames);
            guest.channel().say(&Message::u64(message::SET_FEATURES, guest.offered & bits));
            guest.channel().say(&Message::u64(message::SET_PROTOCOL_FEATURES, 0));
            arena.settle(guest.channel());
        }
    });
}

#[test]
fn h25_owning_twice_and_resets_in_mid_burst_do_no_harm() {
    Arena::run(|arena| {
        let channel = arena.connection();
        channel.say(&Message::new(message::SET_OWNER));
        channel.say(&Message::new(message::SET_OWNER));
        arena.settle(&channel);
        drop(channel);
        for request in [message::RESET_OWNER, message::RESET_DEVICE] {
            for _ in 0..5 {
                let mut guest = arena.guest(Options::default());
                let frames: Vec<_> = (0..200).map(|seed| Frame::of_len(&guest, &guest, 500, seed)).collect();
                guest.send_all(&frames);
                guest.channel().say(&Message::new(request));
                guest.channel().say(&Message::new(request));
                arena.settle(guest.channel());
            }
        }
    });
}

#[test]
fn h18_configuration_reads_past_the_end_are_refused() {
    Arena::run(|arena| {
        for (offset, size, payload) in [
            (0, 257, 257),
            (256, 1, 1),
            (u32::MAX, 1, 1),
            (0, u32::MAX, 8),
            (250, 250, 250),
            (0, 0, 0),
            (0, 64, 8),
        ] {
            for request in [message::GET_CONFIG, message::SET_CONFIG] {
                let channel = arena.negotiated();
                channel.say(&Message::config(request, offset, size, 0, &vec![0; payload]));
                arena.settle(&channel);
            }
        }
    });
}
