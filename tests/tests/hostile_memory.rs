//! Front ends that lie about memory, or take it away.

use std::os::fd::AsFd;

use rustix::fs::FallocateFlags;
use turnpike_tests::arena::send_anyway;
use turnpike_tests::features::protocol;
use turnpike_tests::memory::{Region, USER_BASE, memfd};
use turnpike_tests::message::{self, Message};
use turnpike_tests::{Arena, Frame, Guest, NetHdr, Options};

const MIB: u64 = 0x10_0000;

#[test]
fn h19_a_memory_table_that_cannot_be_is_refused() {
    Arena::run(|arena| {
        let fd = memfd("memory", 4 * MIB);
        let one = |gpa, size, user, offset| vec![(gpa, size, user, offset)];
        let cases = [
            vec![],
            one(0, 0, USER_BASE, 0),
            one(0, u64::MAX, USER_BASE, 0),
            one(0, 1 << 62, USER_BASE, 0),
            one(0, MIB, USER_BASE, u64::MAX - 0xfff),
            one(0, MIB, USER_BASE, 1),
            one(u64::MAX - 0xfff, MIB, USER_BASE, 0),
            one(0, MIB, u64::MAX - 0xfff, 0),
            one(0, 8 * MIB, USER_BASE, 0),
            one(0, MIB, USER_BASE, 4 * MIB),
            vec![(0, MIB, USER_BASE, 0), (0, MIB, USER_BASE, 0)],
            vec![(0, MIB, USER_BASE, 0), (MIB / 2, MIB, USER_BASE + MIB, 0)],
        ];
        for case in cases {
            let channel = arena.negotiated();
            let message = Message::mem_table(&case);
            let message = case.iter().fold(message, |m, _| m.fd(&fd));
            arena.refused(&channel, &[message]);
        }
    });
}

#[test]
fn h19_descriptors_and_regions_must_be_equally_many() {
    Arena::run(|arena| {
        let fd = memfd("memory", 4 * MIB);
        let two = [(0, MIB, USER_BASE, 0), (MIB, MIB, USER_BASE + MIB, MIB)];
        for count in [0, 1, 3, 8] {
            let message = (0..count).fold(Message::mem_table(&two), |m, _| m.fd(&fd));
            arena.refused(&arena.negotiated(), &[message]);
        }
        // Counts that do not fit the payload.
        for count in [2, 9, 33, u32::MAX] {
            let message =
                Message::new(message::SET_MEM_TABLE).words32(&[count, 0]).words64(&[0, MIB, USER_BASE, 0]);
            arena.refused(&arena.negotiated(), &[message.fd(&fd)]);
        }
    });
}

#[test]
fn h19_more_regions_than_there_may_be_are_refused() {
    Arena::run(|arena| {
        let fd = memfd("memory", MIB);
        for count in [33u64, 64, 120] {
            let table: Vec<_> = (0..count).map(|n| (n * MIB, MIB, USER_BASE + n * MIB, 0)).collect();
            let message = (0..count).fold(Message::mem_table(&table), |m, _| m.fd(&fd));
            arena.refused(&arena.negotiated(), &[message]);
        }
    });
}

#[test]
fn h19_a_memory_table_under_traffic_does_no_harm() {
    Arena::run(|arena| {
        for round in 0..10 {
            let mut guest = arena.guest(Options::default());
            let frames: Vec<_> = (0..200).map(|seed| Frame::of_len(&guest, &guest, 900, seed)).collect();
            guest.send_all(&frames);
            if round % 2 == 0 {
                guest.channel().say(&Message::memory(&guest.memory)); // the same
            } else {
                let other = turnpike_tests::Memory::new(&[(0, MIB)]);
                guest.channel().say(&Message::memory(&other)); // rings and buffers are no longer there
            }
            let frame = Frame::of_len(&guest, &guest, 100, 0);
            send_anyway(&mut guest, NetHdr::default(), &frame);
            arena.settle(guest.channel());
        }
    });
}

#[test]
fn h20_slots_that_do_not_match_are_refused() {
    Arena::run(|arena| {
        let region = Region::new(0, MIB, 0);
        let add = || Message::add_region(&region);
        let remove = |gpa, size, user| Message::mem_region(message::REM_MEM_REG, gpa, size, user, 0);
        for messages in [
            vec![add(), add()],
            vec![remove(0, MIB, USER_BASE)],
            vec![add(), remove(0, MIB / 2, USER_BASE)],
            vec![add(), remove(0x1000, MIB, USER_BASE)],
            vec![
                add(),
                Message::mem_region(message::ADD_MEM_REG, MIB / 2, MIB, USER_BASE + MIB, 0).fd(&region.file),
            ],
            vec![Message::mem_region(message::ADD_MEM_REG, 0, 0, USER_BASE, 0).fd(&region.file)],
            vec![
                Message::mem_region(message::ADD_MEM_REG, u64::MAX - 0xfff, MIB, USER_BASE, 0)
                    .fd(&region.file),
            ],
            vec![
                Message::mem_region(message::ADD_MEM_REG, 0, MIB, USER_BASE, 0)
                    .fd(&region.file)
                    .fd(&region.file),
            ],
        ] {
            arena.refused(&arena.negotiated(), &messages);
        }
    });
}

#[test]
fn h20_removing_memory_in_use_does_no_harm() {
    Arena::run(|arena| {
        for which in 0..2 {
            let mut guest = arena.guest(Options::default());
            let frames: Vec<_> = (0..200).map(|seed| Frame::of_len(&guest, &guest, 900, seed)).collect();
            guest.send_all(&frames);
            let message = guest.memory.with_regions(|regions| {
                let r = &regions[which];
                Message::mem_region(message::REM_MEM_REG, r.gpa, r.size, r.user, r.offset)
            });
            guest.channel().say(&message);
            let frame = Frame::of_len(&guest, &guest, 100, 0);
            send_anyway(&mut guest, NetHdr::default(), &frame);
            arena.settle(guest.channel());
        }
    });
}

#[test]
fn h20_all_slots_can_be_used_and_one_more_is_refused() {
    Arena::run(|arena| {
        let channel = arena.negotiated();
        let slots = channel.ask_u64(message::GET_MAX_MEM_SLOTS).unwrap();
        assert!((8..=1024).contains(&slots), "{slots} slots");
        let fd = memfd("memory", 0x1000);
        let add = |n: u64| {
            Message::mem_region(message::ADD_MEM_REG, n << 20, 0x1000, USER_BASE + (n << 20), 0).fd(&fd)
        };
        for n in 0..slots {
            channel.confirm(add(n)).unwrap_or_else(|e| panic!("slot {n} of {slots}: {e}"));
        }
        arena.refused(&channel, &[add(slots)]);
    });
}

/// Takes the guest's memory away with `take` and has it send on; then the port must be good for the next guest.
fn vanishing(arena: &Arena, region: usize, take: impl Fn(&std::fs::File, u64)) {
    let mut guest = arena.guest(Options::default());
    let frames: Vec<_> = (0..100).map(|seed| Frame::of_len(&guest, &guest, 900, seed)).collect();
    // Offered but not announced: the switch finds them when the memory has gone.
    for frame in &frames {
        assert!(guest.enqueue(0, NetHdr::default(), frame));
    }
    guest
        .memory
        .with_regions(|regions| take(&regions[region].file, regions[region].size + regions[region].offset));
    guest.tx[0].kick_anyway();
    guest.rx[0].kick_anyway();
    arena.neighbours.check();
    // Somebody else sends to it, too.
    let mut other = Guest::attach(&arena.switch, "witness", Options::default());
    for seed in 0..5 {
        let frame = Frame::of_len(&other, &guest, 300, seed);
        send_anyway(&mut other, NetHdr::default(), &frame);
    }
    let broadcast = Frame::new([0xff; 6], other.mac).payload(&[0; 60]).build();
    send_anyway(&mut other, NetHdr::default(), &broadcast);
    arena.neighbours.check();
    std::thread::sleep(turnpike_tests::SILENCE);
}

#[test]
fn h21_memory_of_the_rings_that_is_truncated_kills_nobody() {
    Arena::run(|arena| vanishing(arena, 0, |file, _| file.set_len(0).unwrap()));
}

#[test]
fn h21_memory_of_the_buffers_that_is_truncated_kills_nobody() {
    Arena::run(|arena| vanishing(arena, 1, |file, _| file.set_len(0).unwrap()));
}

#[test]
fn h21_memory_that_is_punched_out_kills_nobody() {
    Arena::run(|arena| {
        for region in 0..2 {
            vanishing(arena, region, |file, size| {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file, mode, 0, size).unwrap();
            });
        }
    });
}

#[test]
fn h21_memory_shorter_than_announced_is_refused_or_kills_nobody() {
    Arena::run(|arena| {
        let channel = arena.negotiated();
        let fd = memfd("short", 0x1000);
        channel.say(&Message::mem_region(message::ADD_MEM_REG, 0, MIB, USER_BASE, 0).fd(&fd));
        channel.say(&Message::vring(message::SET_VRING_NUM, 1, 64));
        channel.say(&Message::vring_addr(1, USER_BASE + 0x8000, USER_BASE + 0xa000, USER_BASE + 0xc000));
        channel.say(&Message::vring_fd(message::SET_VRING_KICK, 1, message::eventfd()));
        channel.say(&Message::vring(message::SET_VRING_ENABLE, 1, 1));
        arena.settle(&channel);
    });
}

#[test]
fn h21_memory_that_cannot_be_mapped_for_writing_is_refused() {
    Arena::run(|arena| {
        let path = arena.switch.dir().join("read-only");
        std::fs::write(&path, vec![0; 0x1000]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let zero = std::fs::File::options().read(true).write(true).open("/dev/zero").unwrap();
        let directory = std::fs::File::open(arena.switch.dir()).unwrap();
        let event = message::eventfd();
        for fd in [file.as_fd(), null.as_fd(), zero.as_fd(), directory.as_fd(), event.as_fd()] {
            for message in [
                Message::mem_region(message::ADD_MEM_REG, 0, 0x1000, USER_BASE, 0),
                Message::mem_table(&[(0, 0x1000, USER_BASE, 0)]),
            ] {
                arena.refused(&arena.negotiated(), &[message.fd(fd)]);
            }
        }
    });
}

#[test]
fn h21_the_switchs_own_files_cannot_be_had_as_memory() {
    Arena::run(|arena| {
        // Only what the front end can open itself can be sent; the switch must not write there unless told to by a ring.
        let state = std::fs::read_dir(arena.switch.dir().join("state")).unwrap();
        for entry in state.filter_map(Result::ok).filter(|entry| entry.path().is_file()) {
            let before = std::fs::read(entry.path()).unwrap();
            let file = std::fs::File::open(entry.path()).unwrap();
            let channel = arena.negotiated();
            channel.say(&Message::mem_region(message::ADD_MEM_REG, 0, 0x1000, USER_BASE, 0).fd(&file));
            arena.settle(&channel);
            assert_eq!(before.len(), std::fs::read(entry.path()).unwrap().len());
        }
    });
}

#[test]
fn h21_memory_added_over_a_table_does_not_leak() {
    Arena::run(|arena| {
        let channel = arena.negotiated();
        for _ in 0..200 {
            let region = Region::new(0, MIB, 0);
            channel.confirm(Message::add_region(&region)).unwrap();
            channel.confirm(Message::mem_region(message::REM_MEM_REG, 0, MIB, USER_BASE, 0)).unwrap();
        }
        assert!(arena.settle(&channel), "adding and removing a slot is no offence");
        let table = Options::default().without_protocol(protocol::CONFIGURE_MEM_SLOTS);
        drop(channel);
        drop(arena.guest(table));
    });
}
