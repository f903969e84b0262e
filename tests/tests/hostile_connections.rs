//! Front ends that do not speak the protocol at all, speak it slowly, or come in crowds.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use turnpike_tests::features;
use turnpike_tests::frame::pattern;
use turnpike_tests::memory::memfd;
use turnpike_tests::message::{self, Channel, Message, eventfd};
use turnpike_tests::{Arena, Frame, Options};

#[test]
fn h23_a_bad_header_ends_the_connection() {
    Arena::run(|arena| {
        for message in [
            Message::new(message::GET_FEATURES).flags(0),
            Message::new(message::GET_FEATURES).flags(2),
            Message::new(message::GET_FEATURES).flags(u32::MAX),
            Message::new(message::SET_FEATURES).flags(message::VERSION | message::REPLY).words64(&[0]),
            Message::new(message::SET_FEATURES).size(u32::MAX),
            Message::new(message::SET_FEATURES).size(4097),
            Message::new(message::SET_FEATURES).bytes(&[0; 4096]),
            Message::new(message::SET_FEATURES).bytes(&[0; 7]),
            Message::new(message::SET_FEATURES),
            Message::new(message::SET_OWNER).bytes(&[0; 8]),
            Message::new(message::SET_VRING_ADDR).bytes(&[0; 39]),
            Message::new(0),
            Message::new(45),
            Message::new(u32::MAX),
        ] {
            let channel = arena.connection();
            channel.say(&message);
            // Whoever promises more bytes than come is waited for; hanging up ends that.
            channel.clone_stream().shutdown(std::net::Shutdown::Write).unwrap();
            assert!(channel.is_closed_soon(), "the switch tolerates {message:x?}");
        }
    });
}

#[test]
fn h23_noise_ends_the_connection() {
    Arena::run(|arena| {
        for seed in 0..50 {
            let channel = arena.connection();
            let _ = channel.send_bytes(&pattern(1 + (seed as usize * 37) % 3000, seed), &[]);
            channel.clone_stream().shutdown(std::net::Shutdown::Write).unwrap();
            assert!(channel.is_closed_soon());
        }
    });
}

#[test]
fn h23_a_header_split_into_bytes_is_understood() {
    Arena::run(|arena| {
        let channel = arena.connection();
        let bytes =
            [Message::new(message::SET_OWNER).to_bytes(), Message::new(message::GET_FEATURES).to_bytes()]
                .concat();
        for byte in bytes {
            channel.send_bytes(&[byte], &[]).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        match channel.receive(turnpike_tests::PATIENCE) {
            Ok(reply) => assert_ne!(reply.word64(0) & features::VERSION_1, 0),
            Err(e) => assert_ne!(e.kind(), std::io::ErrorKind::TimedOut, "neither answered nor closed"),
        }
    });
}

#[test]
fn h23_a_front_end_that_sends_a_byte_at_a_time_keeps_only_its_own_port() {
    Arena::run(|arena| {
        let channel = arena.connection();
        let message = Message::u64(message::SET_FEATURES, 0).to_bytes();
        for byte in &message[..10] {
            channel.send_bytes(&[*byte], &[]).unwrap();
            arena.neighbours.check();
            std::thread::sleep(Duration::from_millis(100));
        }
        // An administrator can end it.
        arena.switch.ok(&["port", "remove", "evil"]);
        assert!(channel.is_closed_soon(), "a slow front end outlives its port");
        let socket = arena.switch.socket_of("evil", 1);
        assert_eq!(socket, arena.socket);
    });
}

#[test]
fn h23_ten_thousand_messages_at_once_are_answered_or_refused() {
    Arena::run(|arena| {
        let channel = arena.connection();
        channel.say(&Message::new(message::SET_OWNER));
        let asker = Channel::connect(&arena.socket);
        let bytes = Message::new(message::GET_FEATURES).to_bytes().repeat(100);
        // Nobody reads the answers; the switch may wait for that only with what belongs to this connection.
        let sent = (0..100).take_while(|_| channel.send_bytes(&bytes, &[]).is_ok()).count();
        arena.neighbours.check();
        assert!(sent > 0, "not even a hundred requests were taken");
        let answers = (0..100).filter(|_| channel.receive(turnpike_tests::PATIENCE).is_ok()).count();
        assert_eq!(answers, 100, "requests were taken, but not answered");
        drop((channel, asker));
    });
}

#[test]
fn h23_a_front_end_that_reads_no_answers_stops_only_itself() {
    Arena::run(|arena| {
        let channel = arena.connection();
        let stream = channel.clone_stream();
        stream.set_nonblocking(true).unwrap();
        let bytes = Message::new(message::GET_FEATURES).to_bytes().repeat(1000);
        for _ in 0..200 {
            let _ = std::io::Write::write(&mut &stream, &bytes);
            std::thread::sleep(Duration::from_millis(2));
        }
        arena.neighbours.check();
        arena.switch.ok(&["port", "remove", "evil"]);
        let _ = arena.switch.socket_of("evil", 1);
    });
}

#[test]
fn h23_a_reply_to_nothing_is_refused() {
    Arena::run(|arena| {
        let channel = arena.negotiated();
        arena.refused(
            &channel,
            &[Message::u64(message::GET_FEATURES, 0).flags(message::VERSION | message::REPLY)],
        );
    });
}

#[test]
fn h24_descriptors_where_none_belong_are_closed() {
    Arena::run(|arena| {
        for round in 0..20 {
            let channel = arena.negotiated();
            for request in
                [message::GET_FEATURES, message::SET_VRING_NUM, message::GET_QUEUE_NUM, message::SET_STATUS]
            {
                channel
                    .say(&Message::vring(request, 0, 64).fd(eventfd()).fd(eventfd()).fd(memfd("x", round)));
            }
            arena.settle(&channel);
        }
    });
}

#[test]
fn h24_missing_descriptors_are_refused() {
    Arena::run(|arena| {
        let region = [(0, 0x10_000, 0x7000_0000, 0)];
        for message in [
            Message::mem_table(&region),
            Message::mem_region(message::ADD_MEM_REG, 0, 0x10_000, 0x7000_0000, 0),
            Message::u64(message::SET_VRING_CALL, 0),
            Message::u64(message::SET_VRING_KICK, 0),
        ] {
            arena.refused(&arena.negotiated(), &[message]);
        }
    });
}

#[test]
fn h24_more_descriptors_than_a_message_may_have_do_not_leak() {
    turnpike_tests::raise_descriptor_limit();
    Arena::run(|arena| {
        let fds: Vec<_> = (0..253).map(|_| eventfd()).collect();
        for count in [2, 9, 17, 33, 64, 253] {
            for request in [message::GET_FEATURES, message::SET_MEM_TABLE, message::SET_VRING_KICK] {
                let channel = arena.negotiated();
                let bytes = Message::u64(request, 0).to_bytes();
                let borrowed: Vec<BorrowedFd<'_>> = fds[..count].iter().map(AsFd::as_fd).collect();
                let _ = channel.send_bytes(&bytes, &borrowed);
                arena.settle(&channel);
            }
        }
    });
}

#[test]
fn h24_descriptors_inside_a_message_and_the_same_one_twice_do_not_leak() {
    Arena::run(|arena| {
        let fd = eventfd();
        for _ in 0..50 {
            let channel = arena.negotiated();
            let bytes = Message::u64(message::SET_VRING_KICK, 0).to_bytes();
            channel.send_bytes(&bytes[..6], &[fd.as_fd(), fd.as_fd()]).unwrap();
            let _ = channel.send_bytes(&bytes[6..14], &[fd.as_fd()]);
            let _ = channel.send_bytes(&bytes[14..], &[fd.as_fd(), fd.as_fd(), fd.as_fd()]);
            arena.settle(&channel);
        }
    });
}

#[test]
fn h24_an_unknown_request_that_wants_a_reply_ends_the_connection() {
    Arena::run(|arena| {
        for request in [0, 22, 26, 45, 1000, u32::MAX] {
            arena.refused(&arena.negotiated(), &[Message::u64(request, 1).need_reply()]);
        }
    });
}

#[test]
fn h28_a_reconnect_storm_leaves_nothing_behind() {
    Arena::run(|arena| {
        for round in 0..300 {
            let channel = arena.connection();
            if round % 3 == 0 {
                channel.say(&Message::new(message::SET_OWNER));
                channel.say(&Message::new(message::GET_FEATURES));
            }
        }
    });
}

#[test]
fn h28_hanging_up_inside_any_message_leaves_nothing_behind() {
    Arena::run(|arena| {
        let memory = turnpike_tests::Memory::new(&[(0, 0x10_000)]);
        for message in [
            Message::new(message::GET_FEATURES),
            Message::memory(&memory),
            Message::vring_addr(0, 0, 0, 0),
            Message::vring_fd(message::SET_VRING_KICK, 0, eventfd()),
        ] {
            let bytes = message.to_bytes();
            let fds: Vec<_> = message.fds.iter().map(AsFd::as_fd).collect();
            for cut in (1..bytes.len()).step_by(3) {
                let channel = arena.negotiated();
                let _ = channel.send_bytes(&bytes[..cut], &fds);
            }
        }
    });
}

#[test]
fn h28_many_front_ends_on_one_socket_are_served_one_at_a_time() {
    Arena::run(|arena| {
        let crowd: Vec<_> = (0..100).filter_map(|_| Channel::connect(&arena.socket).ok()).collect();
        for channel in &crowd {
            channel.say(&Message::new(message::SET_OWNER));
            channel.say(&Message::new(message::GET_FEATURES));
        }
        arena.neighbours.check();
        drop(crowd);
    });
}

#[test]
fn h28_a_front_end_that_dies_under_load_leaves_nothing_behind() {
    Arena::run(|arena| {
        for round in 0..20 {
            let mut guest = arena.guest(Options::default());
            let broadcast = Frame::new([0xff; 6], guest.mac).payload(&pattern(900, round)).build();
            let mut frames = vec![broadcast; 20];
            frames.extend((0..100).map(|seed| Frame::of_len(&guest, &guest, 1400, seed)));
            guest.send_all(&frames);
            // Everything goes at once, as when the process is killed.
            drop(guest);
        }
    });
}
