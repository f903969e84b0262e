//! What is said again is what is in force.

use std::fs::File;
use std::os::fd::AsRawFd;

use super::*;

fn journal() -> Journal {
    Journal::new(4)
}

fn number(request: u32, value: u64) -> Message {
    Message::new(request, &value.to_ne_bytes())
}

fn with_file(mut message: Message) -> Message {
    message.fds.push(File::open("/dev/null").unwrap().into());
    message
}

/// A memory message with one region for each (guest address, size, user address).
fn memory(request: u32, regions: &[(u64, u64, u64)]) -> Message {
    let mut message = number(request, regions.len() as u64);
    for (guest, size, user) in regions {
        for word in [*guest, *size, *user, 0] {
            message.payload.extend(word.to_ne_bytes());
        }
        if request != request::REM_MEM_REG {
            message = with_file(message);
        }
    }
    message
}

fn addresses(index: u32, user: u64) -> Message {
    let mut message = number(request::SET_VRING_ADDR, u64::from(index));
    for word in [user, user + 0x1000, user + 0x2000, 0] {
        message.payload.extend(word.to_ne_bytes());
    }
    message
}

fn after(said: Vec<Message>) -> Vec<Message> {
    let mut journal = journal();
    for message in said {
        journal.record(message);
    }
    journal.into_messages()
}

fn kinds(messages: &[Message]) -> Vec<u32> {
    messages.iter().map(|message| message.request).collect()
}

#[test]
fn a_device_is_described_before_its_rings_and_memory_before_what_lies_in_it() {
    let messages = after(vec![
        with_file(number(request::SET_VRING_KICK, 0)),
        number(request::SET_VRING_ENABLE, 1 << 32),
        addresses(0, 0x7000_0000),
        number(request::SET_VRING_NUM, 256 << 32),
        number(request::SET_FEATURES, features::PROTOCOL_FEATURES),
        memory(request::SET_MEM_TABLE, &[(0, 0x10_0000, 0x7000_0000)]),
        number(request::SET_PROTOCOL_FEATURES, 8),
        Message::new(request::SET_OWNER, &[]),
    ]);
    let want = [
        request::SET_OWNER,
        request::SET_PROTOCOL_FEATURES,
        request::SET_MEM_TABLE,
        request::SET_FEATURES,
        request::SET_VRING_NUM,
        request::SET_VRING_ADDR,
        request::SET_VRING_KICK,
        request::SET_VRING_ENABLE,
    ];
    assert_eq!(kinds(&messages), want);
    assert!(messages.iter().all(|message| !message.needs_reply()));
}

#[test]
fn the_last_word_of_a_kind_counts_and_keeps_its_own_descriptor() {
    let last = with_file(number(request::SET_VRING_CALL, 1));
    let fd = last.fds[0].as_raw_fd();
    let messages = after(vec![with_file(number(request::SET_VRING_CALL, 1)), last]);
    assert_eq!(kinds(&messages), [request::SET_VRING_CALL]);
    assert_eq!(messages[0].fds[0].as_raw_fd(), fd);
}

#[test]
fn a_stopped_ring_stays_stopped() {
    let messages = after(vec![
        number(request::SET_VRING_NUM, 256 << 32 | 2),
        with_file(number(request::SET_VRING_KICK, 2)),
        with_file(number(request::SET_VRING_CALL, 2)),
        with_file(number(request::SET_VRING_KICK, 3)),
        number(request::GET_VRING_BASE, 2),
    ]);
    assert_eq!(kinds(&messages), [request::SET_VRING_NUM, request::SET_VRING_KICK]);
    assert_eq!(messages[1].u64_at(0).unwrap(), 3);
}

#[test]
fn a_reset_device_has_no_features_and_no_enabled_ring() {
    let messages = after(vec![
        Message::new(request::SET_OWNER, &[]),
        number(request::SET_FEATURES, features::PROTOCOL_FEATURES),
        number(request::SET_VRING_ENABLE, 1 << 32),
        Message::new(request::RESET_DEVICE, &[]),
    ]);
    assert_eq!(kinds(&messages), [request::SET_OWNER]);
}

#[test]
fn a_front_end_that_cannot_enable_rings_has_them_all_enabled() {
    let alone = after(vec![number(request::SET_VRING_ENABLE, 0), number(request::SET_FEATURES, 1)]);
    assert_eq!(kinds(&alone), [request::SET_FEATURES], "the feature says so; the message would be refused");
    let later = after(vec![
        number(request::SET_FEATURES, 1),
        number(request::SET_FEATURES, features::PROTOCOL_FEATURES),
        number(request::SET_VRING_ENABLE, 3),
    ]);
    let enabled: Vec<_> = later.iter().skip(1).map(|message| message.u64_at(0).unwrap()).collect();
    assert_eq!(enabled, [1 << 32, 1 << 32 | 1, 1 << 32 | 2, 3]);
}

#[test]
fn regions_that_come_and_go_are_folded_into_one_sorted_table() {
    let messages = after(vec![
        memory(request::SET_MEM_TABLE, &[(0x100_0000, 0x1000, 0x9000), (0, 0x1000, 0x1000)]),
        memory(request::ADD_MEM_REG, &[(0x80_0000, 0x1000, 0x5000)]),
        memory(request::REM_MEM_REG, &[(0x100_0000, 0x1000, 0x9000)]),
    ]);
    assert_eq!(kinds(&messages), [request::SET_MEM_TABLE]);
    let table = &messages[0];
    assert_eq!((table.u32_at(0).unwrap(), table.fds.len(), table.payload.len()), (2, 2, 8 + 64));
    assert_eq!((table.u64_at(8).unwrap(), table.u64_at(8 + 32).unwrap()), (0, 0x80_0000));
}

#[test]
fn more_regions_than_a_table_has_are_added_one_by_one() {
    let add = |n: u64| memory(request::ADD_MEM_REG, &[(n << 20, 0x1000, n << 20)]);
    let messages = after((0..40).map(add).collect());
    assert_eq!(messages[0].fds.len(), 32);
    assert_eq!(kinds(&messages[1..]), [request::ADD_MEM_REG; 8]);
    assert!(messages[1..].iter().all(|message| message.fds.len() == 1));
}

#[test]
fn a_ring_in_memory_that_is_gone_is_not_started() {
    let messages = after(vec![
        memory(request::SET_MEM_TABLE, &[(0, 0x1_0000, 0x7000_0000)]),
        addresses(0, 0x7000_0000),
        with_file(number(request::SET_VRING_KICK, 0)),
        memory(request::SET_MEM_TABLE, &[(0, 0x1_0000, 0x8000_0000)]),
    ]);
    assert_eq!(kinds(&messages), [request::SET_MEM_TABLE]);
}

#[test]
fn however_much_is_said_a_journal_stays_small() {
    let mut journal = journal();
    for n in 0..10_000u64 {
        journal.record(number(request::SET_VRING_NUM, n));
        journal.record(number(request::SET_VRING_KICK, n));
        journal.record(memory(request::ADD_MEM_REG, &[(n << 20, 0x1000, n << 20)]));
        journal.record(number(n as u32, n));
    }
    assert!(journal.said.len() <= 8 + 4 * 8 && journal.regions.len() <= MAX_REGIONS);
}
