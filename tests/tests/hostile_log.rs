//! Front ends that lie about the dirty log, or take it away.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use turnpike_tests::arena::send_anyway;
use turnpike_tests::features::{self, protocol};
use turnpike_tests::memory::{Region, memfd};
use turnpike_tests::message::{self, Channel, Message, eventfd};
use turnpike_tests::migration::{Log, set_logging};
use turnpike_tests::{Arena, Frame, Guest, NetHdr, Options, eventually};

const MIB: u64 = 0x10_0000;

fn log_all(channel: &Channel, on: bool) -> Message {
    let offered = channel.ask_u64(message::GET_FEATURES).expect("features");
    let wanted = offered & (features::LINUX | if on { features::LOG_ALL } else { 0 });
    Message::u64(message::SET_FEATURES, wanted)
}

#[test]
fn h22_a_log_that_cannot_be_is_refused() {
    Arena::run(|arena| {
        let fd = memfd("log", 0x10000);
        // 16 MiB of memory need 512 bytes.
        for (size, offset) in [
            (0, 0),
            (1, 0),
            (511, 0),
            (0x10001, 0),
            (0x1000, 0x10000),
            (0x1000, 0xf001),
            (0x1000, 1),
            (0x1000, u64::MAX - 0xfff),
            (u64::MAX, 0),
            (u64::MAX, 0x1000),
            (1 << 40, 0),
        ] {
            let (channel, _memory) = arena.with_memory(16 * MIB);
            arena.refused(&channel, &[Message::log_base(size, offset).fd(&fd)]);
        }
        let (channel, _memory) = arena.with_memory(16 * MIB);
        let reply = channel.ask(&Message::log_base(512, 0x1000).fd(&fd)).expect("a log that fits");
        assert_eq!((reply.word64(0), reply.word64(1)), (512, 0x1000));
    });
}

#[test]
fn h22_a_log_that_is_no_memory_file_is_refused() {
    Arena::run(|arena| {
        let (socket, _peer) = UnixStream::pair().expect("socket pair");
        let (pipe, _other) = rustix::pipe::pipe().expect("pipe");
        let device = std::fs::File::open("/dev/zero").expect("/dev/zero");
        let directory = std::fs::File::open("/").expect("/");
        let kinds: [OwnedFd; 5] = [eventfd(), socket.into(), pipe, device.into(), directory.into()];
        for fd in &kinds {
            let (channel, _memory) = arena.with_memory(MIB);
            arena.refused(&channel, &[Message::log_base(0x1000, 0).fd(fd)]);
        }
        let (channel, _memory) = arena.with_memory(MIB);
        arena.refused(&channel, &[Message::log_base(0x1000, 0)]);
        let (channel, _memory) = arena.with_memory(MIB);
        let fd = memfd("log", 0x1000);
        arena.refused(&channel, &[Message::log_base(0x1000, 0).fd(&fd).fd(&fd)]);
        // Sealed against writing: it cannot be mapped.
        let fd = memfd("log", 0x1000);
        rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::WRITE).expect("seal");
        let (channel, _memory) = arena.with_memory(MIB);
        arena.refused(&channel, &[Message::log_base(0x1000, 0).fd(fd)]);
    });
}

#[test]
fn h22_a_log_smaller_than_memory_ends_the_connection_whatever_comes_first() {
    Arena::run(|arena| {
        let small = || Message::log_base(8, 0).fd(memfd("log", 0x1000));
        // Log, memory, logging on.
        let channel = arena.negotiated();
        channel.ask(&small()).expect("no memory yet, so it is long enough");
        let memory = turnpike_tests::Memory::new(&[(0, 16 * MIB)]);
        channel.confirm(Message::memory(&memory)).expect("logging is off");
        let on = log_all(&channel, true);
        arena.refused(&channel, &[on]);
        // Log, logging on, memory.
        let channel = arena.negotiated();
        channel.ask(&small()).expect("no memory yet");
        channel.say(&log_all(&channel, true));
        arena.refused(&channel, &[Message::memory(&memory)]);
        // Memory that grows.
        let channel = arena.negotiated();
        let memory = turnpike_tests::Memory::new(&[(0, MIB / 4)]);
        channel.confirm(Message::memory(&memory)).expect("memory");
        channel.ask(&small()).expect("64 pages, 8 bytes");
        channel.say(&log_all(&channel, true));
        memory.add(Region::new(MIB, MIB, 0));
        let more = memory.with_regions(|regions| Message::add_region(&regions[1]));
        arena.refused(&channel, &[more]);
        // One that was for memory that is gone since, and is not in use, hurts nobody.
        let (channel, memory) = arena.with_memory(MIB / 4);
        channel.ask(&small()).expect("64 pages, 8 bytes");
        memory.add(Region::new(MIB, MIB, 0));
        channel.confirm(Message::memory(&memory)).expect("nobody asked for logging");
    });
}

#[test]
fn h22_a_log_that_is_truncated_under_traffic_stops_only_its_rings() {
    Arena::run(|arena| {
        let mut guest = arena.guest(Options::default());
        let log = Log::of(&guest.memory);
        log.share(guest.vhost()).expect("an honest log");
        set_logging(&mut guest, true).expect("logging");
        let frame = Frame::of_len(&guest, &guest, 500, 1);
        guest.send(&frame);
        assert!(eventually(|| !log.pages().is_empty()), "nothing is logged");
        rustix::fs::ftruncate(log.file.as_fd(), 0).expect("truncate");
        // What vanished is noticed with the burst after the one that met it.
        let stopped = eventually(|| {
            send_anyway(&mut guest, NetHdr::default(), &frame);
            arena.switch.has_event("queue-stopped")
        });
        assert!(stopped, "the ring goes on without its log");
        let events = arena.switch.events();
        assert!(
            events.iter().any(|e| e.to_string().contains("the log of written pages vanished")),
            "{events:?}"
        );
        arena.neighbours.check();
    });
}

#[test]
fn h22_logging_that_is_toggled_and_swapped_with_every_message_does_no_harm() {
    Arena::run(|arena| {
        let mut guest = arena.guest(Options::default());
        let frames: Vec<_> = (0..64).map(|seed| Frame::of_len(&guest, &guest, 900, seed)).collect();
        for round in 0..300 {
            for frame in &frames[..8] {
                let _ = guest.enqueue(0, NetHdr::default(), frame);
            }
            guest.tx[0].notify();
            set_logging(&mut guest, round % 2 == 0).expect("on or off");
            if round % 3 == 0 {
                Log::of(&guest.memory).share(guest.vhost()).expect("a log that nobody reads");
            }
        }
        arena.neighbours.check();
        drop(guest);
        // Hung up in the middle of it.
        for _ in 0..20 {
            let mut guest = arena.guest(Options::default());
            Log::of(&guest.memory).share(guest.vhost()).expect("log");
            set_logging(&mut guest, true).expect("on");
            guest.send_all(&frames);
        }
    });
}

#[test]
fn h22_a_log_without_its_protocol_feature_or_memory_is_no_danger() {
    Arena::run(|arena| {
        // LOG_ALL, but no log at all: nothing to mark, frames pass.
        let mut guest = arena.guest(Options::default().without_protocol(protocol::LOG_SHMFD));
        set_logging(&mut guest, true).expect("on");
        let mut witness = Guest::attach(&arena.switch, "n9", Options::default());
        let frame = Frame::of_len(&guest, &witness, 500, 1);
        guest.send(&frame);
        witness.expect(&frame);
        drop(witness);
        arena.switch.wait_state("n9", "waiting");
        arena.switch.ok(&["port", "remove", "n9"]);
    });
}
