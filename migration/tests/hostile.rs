//! States that a stranger made up: each is refused as a whole with what is wrong and where, at a bounded cost (H27).

mod common;

use common::raw::{changed, edited, group, repair, state, top, with, without};
use common::{any_state, full};
use migration::format::{self, decode};
use proptest::prelude::*;

/// What is wrong with a state.
fn why(bytes: &[u8]) -> String {
    decode(bytes).unwrap_err().to_string()
}

fn good() -> Vec<u8> {
    format::encode(&full()).unwrap()
}

/// Offset of a field's content.
fn at(bytes: &[u8], in_group: u16, number: u16) -> usize {
    let place = |bytes: &[u8], number| {
        let mut at = 0;
        for (other, content) in common::raw::fields(bytes) {
            if other == number {
                break;
            }
            at += 6 + content.len();
        }
        at + 6
    };
    if in_group == 0 {
        return 20 + place(&bytes[20..], number);
    }
    let outer = at(bytes, 0, in_group);
    let length = u32::from_le_bytes(bytes[outer - 4..outer].try_into().unwrap()) as usize;
    outer + place(&bytes[outer..outer + length], number)
}

/// That a changed field is refused: by this text behind its name and place, counted from the field's content.
#[track_caller]
fn refused(in_group: u16, number: u16, content: &[u8], name: &str, offset: usize, text: &str) {
    let bytes = with(&good(), in_group, number, content);
    let offset = at(&bytes, in_group, number) + offset;
    assert_eq!(why(&bytes), format!("{name} at offset {offset} {text}"));
}

#[test]
fn h27_what_is_no_state_is_told_apart() {
    assert_eq!(why(b""), "0 bytes are not a port's state; its header alone has 20");
    assert_eq!(
        why(b"GET / HTTP/1.1\r\n\r\n\r\n"),
        "this is not a port's state: it begins with [47, 45, 54, 20, 2f, 20, 48, 54] instead of \
         [89, 54, 50, 53, 54, 0d, 0a, 1a]"
    );
    let bytes = good();
    assert_eq!(
        why(&[&bytes[..], b"x"].concat()),
        format!("the state says that it has {} bytes, but {} are there", bytes.len(), bytes.len() + 1)
    );
    let mut damaged = bytes.clone();
    damaged[16..20].copy_from_slice(&[0; 4]);
    let sum = u32::from_le_bytes(bytes[16..20].try_into().unwrap());
    assert_eq!(
        why(&damaged),
        format!("the state is damaged: its checksum is 00000000, that of its content {sum:08x}")
    );
    let large = state((1, 0), &vec![0; format::MAX_SIZE]);
    assert_eq!(why(&large), "the state has 8384532 bytes; at most 8384512 are taken");
}

#[test]
fn h27_every_required_field_is_missed() {
    let required: [(u16, &[(u16, &str)]); 6] = [
        (
            0,
            &[
                (1, "identity"),
                (2, "epoch"),
                (3, "host"),
                (4, "device"),
                (5, "policy"),
                (7, "counters"),
                (8, "learned"),
                (9, "sessions"),
                (10, "used"),
                (11, "storm"),
                (12, "extensions"),
            ],
        ),
        (1, &[(1, "identity.name"), (2, "identity.mac")]),
        (4, &[(1, "device.features"), (2, "device.queue-pairs"), (3, "device.mtu")]),
        (
            5,
            &[
                (1, "policy.vlan"),
                (3, "policy.mac-spoofing"),
                (5, "policy.teaming"),
                (6, "policy.dhcp-guard"),
                (7, "policy.router-guard"),
                (9, "policy.address-limit"),
                (10, "policy.storm-limit"),
                (11, "policy.mirror"),
                (12, "policy.priority-tag"),
                (13, "policy.link-up"),
                (14, "policy.acl"),
                (15, "policy.rules"),
            ],
        ),
        (6, &[(1, "metering.since"), (2, "metering.defaults")]),
        (7, &[(1, "counters.totals"), (2, "counters.out-drops"), (3, "counters.in-drops")]),
    ];
    for (in_group, fields) in required {
        for (number, name) in fields {
            let text = why(&without(&good(), in_group, *number));
            assert_eq!(text, format!("{name} is missing; version 1 of the format requires it"));
        }
    }
    for (in_group, number) in [(0, 6), (5, 8)] {
        assert!(decode(&without(&good(), in_group, number)).is_ok(), "{in_group}.{number} may be missing");
    }
}

#[test]
fn h27_fields_are_there_once_and_in_order() {
    let bytes = good();
    let epoch = at(&bytes, 0, 2) - 6;
    let twice = edited(&bytes, 0, |fields| fields.insert(1, fields[1].clone()));
    assert_eq!(
        why(&twice),
        format!("field 2 of the state is there again at offset {}; each may be there once", epoch + 14)
    );
    let swapped = edited(&bytes, 0, |fields| fields.swap(1, 2));
    let at_epoch = epoch + 6 + full().host.len();
    assert_eq!(
        why(&swapped),
        format!("field 2 of the state at offset {at_epoch} stands behind field 3; numbers ascend")
    );
    let twice = edited(&bytes, 5, |fields| fields.insert(1, fields[0].clone()));
    assert!(why(&twice).starts_with("field 1 of policy is there again at offset "));
}

#[test]
fn h27_no_length_is_believed() {
    let bytes = good();
    // A field longer than the state, a group's field longer than its group.
    for (in_group, number, name) in [(0, 9, "the state"), (5, 14, "policy")] {
        let offset = at(&bytes, in_group, number);
        let mut lying = bytes.clone();
        lying[offset - 4..offset].copy_from_slice(&u32::MAX.to_le_bytes());
        repair(&mut lying);
        let left = if in_group == 0 { bytes.len() - offset } else { at(&bytes, 0, 5 + 1) - 6 - offset };
        assert_eq!(
            why(&lying),
            format!("{name} at offset {offset} needs 4294967295 bytes, but {left} are left")
        );
    }
    // A number behind which more follows, a list that ends within a record, a field that ends within its header.
    refused_trailing();
    refused(0, 9, &[4, 6, 0, 0, 1], "a session", 4, "needs 4 bytes, but 1 are left");
    let cut = state((1, 0), &[group(&top(&bytes)), vec![1, 2, 3]].concat());
    assert_eq!(why(&cut), format!("the state at offset {} needs 4 bytes, but 1 are left", bytes.len() + 2));
    refused(
        0,
        12,
        b"\x01x\0\0\0\0\xff\xff\xff\xff",
        "the state of an extension",
        6,
        "is 4294967295; valid: a length of up to 65536 bytes",
    );
    refused(
        0,
        12,
        b"\x01x\0\0\0\0\0\0\x01\0",
        "the state of an extension",
        10,
        "needs 65536 bytes, but 0 are left",
    );
    refused(0, 12, b"\x09x", "the state of an extension", 1, "needs 9 bytes, but 1 are left");
}

fn refused_trailing() {
    let bytes = with(&good(), 0, 11, &[0; 5]);
    let offset = at(&bytes, 0, 11) + 4;
    assert_eq!(why(&bytes), format!("storm is over at offset {offset}, but 1 bytes follow in it"));
    let bytes = with(&good(), 5, 13, &[1, 1, 1]);
    let offset = at(&bytes, 5, 13) + 1;
    assert_eq!(why(&bytes), format!("policy.link-up is over at offset {offset}, but 2 bytes follow in it"));
}

#[test]
fn h27_identity_and_device_are_those_of_a_port() {
    let name = "valid: a letter or digit and up to 31 letters, digits, '.', '_' or '-'";
    refused(1, 1, b"", "identity.name", 0, &format!("is '' (0 bytes); {name}"));
    refused(1, 1, b"-a", "identity.name", 0, &format!("is '-a' (2 bytes); {name}"));
    refused(1, 1, b"../a\n", "identity.name", 0, &format!("is '../a\\n' (5 bytes); {name}"));
    let long = format!("is '{}' (33 bytes); {name}", "n".repeat(33));
    refused(1, 1, &[b'n'; 33], "identity.name", 0, &long);
    let longer = format!("is '{}…' (70000 bytes); {name}", "n".repeat(40));
    refused(1, 1, &vec![b'n'; 70_000], "identity.name", 0, &longer);
    let station = "valid: a unicast MAC address that is not zero";
    refused(1, 2, &[0; 6], "identity.mac", 0, &format!("is 00:00:00:00:00:00; {station}"));
    refused(1, 2, &[1, 0, 0, 0, 0, 0], "identity.mac", 0, &format!("is 01:00:00:00:00:00; {station}"));
    refused(1, 2, &[2, 0, 0, 0, 0], "identity.mac", 0, "needs 6 bytes, but 5 are left");
    let late = "is 253370764800000; valid: milliseconds of Unix time before the year 9999";
    refused(0, 2, &253_370_764_800_000u64.to_le_bytes(), "epoch", 0, late);
    refused(0, 3, b"\xff", "host", 0, "is '\\xff' (1 bytes); valid: UTF-8");
    let host = "valid: up to 255 bytes without control characters";
    refused(0, 3, b"a\x1b[2J", "host", 0, &format!("is 'a\\x1b[2J' (5 bytes); {host}"));
    refused(0, 3, &[b'h'; 256], "host", 0, &format!("is '{}…' (256 bytes); {host}", "h".repeat(40)));
    for (number, pairs) in [(2u16, 0u8), (2, 9)] {
        refused(4, number, &[pairs], "device.queue-pairs", 0, &format!("is {pairs}; valid: 1 to 8"));
    }
    for mtu in [67u16, 9001] {
        refused(4, 3, &mtu.to_le_bytes(), "device.mtu", 0, &format!("is {mtu}; valid: 68 to 9000 bytes"));
    }
    refused(
        6,
        1,
        &(-1i64).to_le_bytes(),
        "metering.since",
        0,
        "is 18446744073709551615; valid: milliseconds of Unix time before the year 9999",
    );
    refused(6, 2, &[2], "metering.defaults", 0, "is 2; valid: 0 or 1");
}

#[test]
fn h27_a_policy_is_one_that_an_operator_could_give() {
    let vlan = |content: &[u8], offset, text: &str| refused(5, 1, content, "policy.vlan", offset, text);
    let modes = "valid: modes 0 to 5, and 0 where a mode has no VLAN";
    let vlans = "valid: VLANs from 1 to 4094, primary and secondary different, lists not empty";
    let ranges = "valid: ascending ranges of VLANs 1 to 4094 with a gap between any two";
    vlan(&[6, 0, 0, 0, 0], 0, &format!("is mode 6 with 0 and 0; {modes}"));
    vlan(&[0, 1, 0, 0, 0], 0, &format!("is mode 0 with 1 and 0; {modes}"));
    vlan(&[1, 1, 0, 1, 0], 0, &format!("is mode 1 with 1 and 1; {modes}"));
    vlan(&[1, 0xff, 0x0f, 0, 0], 0, &format!("is access:4095 (access VLAN '4095' is out of range); {vlans}"));
    vlan(&[3, 5, 0, 5, 0], 0, &format!("is isolated:5/5 (primary and secondary VLAN are both 5); {vlans}"));
    vlan(&[4, 5, 0, 0, 0], 0, &format!("is community:5/0 (secondary VLAN '0' is out of range); {vlans}"));
    vlan(&[2, 0, 0, 0, 0], 0, &format!("is trunk: (the list of VLANs is missing); {vlans}"));
    vlan(
        &[5, 7, 0, 0, 0, 5, 0, 9, 0],
        0,
        &format!("is promiscuous:7/5-9 (primary and secondary VLAN are both 7); {vlans}"),
    );
    vlan(&[2, 0, 0, 0, 0, 5, 0, 5, 0, 6, 0, 6, 0], 9, &format!("is 6-6; {ranges}"));
    vlan(&[2, 0, 0, 0, 0, 9, 0, 8, 0], 5, &format!("is 9-8; {ranges}"));
    vlan(&[2, 0, 0, 0, 0, 1, 0, 0xff, 0xff], 5, &format!("is 1-65535; {ranges}"));
    vlan(&[2, 0, 0, 0, 0, 0, 0, 4, 0], 0, &format!("is trunk:0-4 (trunk VLAN '0' is out of range); {vlans}"));
    for vsid in [4095u32, 16_777_215] {
        refused(5, 2, &vsid.to_le_bytes(), "policy.vsid", 0, &format!("is {vsid}; valid: 4096 to 16777214"));
    }
    refused(5, 9, &1025u32.to_le_bytes(), "policy.address-limit", 0, "is 1025; valid: 0 to 1024 addresses");
    refused(5, 11, &[3], "policy.mirror", 0, "is 3; valid: 0 (none), 1 (source) or 2 (destination)");
    refused(5, 8, b"", "policy.addresses", 0, "is empty; valid: one address or more");
    let bytes = with(&good(), 5, 2, &5000u32.to_le_bytes());
    assert!(why(&bytes).starts_with("policy at offset "));
    assert!(why(&bytes).ends_with(
        " is virtual subnet 5000 with VLAN mode trunk:10-20,42,100-4094/7; valid: a virtual subnet or a VLAN mode, not both"
    ));
    let text = why(&without(&good(), 5, 4));
    assert!(
        text.ends_with(" is teaming without a machine; valid: teaming with the machine's name in vm"),
        "{text}"
    );
}

#[test]
fn h27_acl_entries_are_those_of_a_port() {
    let entry = |head: &[u8], offset, text: &str| {
        refused(5, 14, &[head, &[0; 16]].concat(), "an ACL entry", offset, text);
    };
    entry(&[2, 0, 0, 0], 0, "is direction 2; valid: 0 (out) or 1 (in)");
    entry(&[0, 2, 0, 0], 1, "is end 2; valid: 0 (local) or 1 (remote)");
    entry(&[0, 0, 3, 0], 2, "is action 3; valid: 0 (allow), 1 (deny) or 2 (meter)");
    entry(&[0, 0, 0, 4], 3, "is kind 4; valid: 0 (any), 1 (any-mac), 2 (MAC address) or 3 (IP prefix)");
    entry(&[0, 0, 0, 2, 0, 0, 0, 0, 0, 0], 3, "is about a MAC address of zeros; valid: one that is not zero");
    let prefix = "valid: up to 32 or 128 bits, and zeros beyond them";
    entry(&[0, 0, 0, 3, 5, 0], 4, "is 5; valid: 4 (IPv4) or 6 (IPv6)");
    entry(&[0, 0, 0, 3, 4, 33, 10, 0, 0, 0], 4, &format!("is 10.0.0.0/33; {prefix}"));
    entry(&[0, 0, 0, 3, 4, 8, 10, 0, 0, 1], 4, &format!("is 10.0.0.1/8; {prefix}"));
    let v6 = [&[0, 0, 0, 3, 6, 129][..], &[0; 16]].concat();
    entry(&v6, 4, &format!("is ::/129; {prefix}"));
    refused(5, 14, &[0, 0, 0, 0, 1, 2], "an ACL entry", 4, "needs 8 bytes, but 2 are left");
    // Allow and deny of the same address contradict each other; a meter does not.
    let list = |actions: [u8; 2]| {
        with(&good(), 5, 14, &actions.map(|action| [&[0, 1, action, 0][..], &[0; 16]].concat()).concat())
    };
    let text = "policy.acl has allow out remote any twice; each may be there once";
    assert_eq!(why(&list([0, 0])), text);
    assert!(why(&list([0, 1])).starts_with("policy.acl has "));
    assert!(decode(&list([0, 2])).is_ok());
    let many: Vec<u8> = [&[0, 0, 0, 0][..], &[0; 16]].concat().repeat(10_001);
    let bytes = with(&good(), 5, 14, &many);
    let offset = at(&bytes, 5, 14) + 200_000;
    assert_eq!(
        why(&bytes),
        format!("policy.acl has more than 10000 entries: another begins at offset {offset}")
    );
}

#[test]
fn h27_rules_are_those_of_a_port() {
    let rule = |action: u8, weight: u32, present: u8, rest: &[u8]| {
        [&[1, action][..], &weight.to_le_bytes(), &[present], rest, &[0; 16]].concat()
    };
    let refuse = |content: &[u8], offset, text: &str| refused(5, 15, content, "a rule", offset, text);
    refuse(&[9], 0, "is direction 9; valid: 0 (out) or 1 (in)");
    refuse(&rule(2, 1, 0, &[]), 1, "is action 2; valid: 0 (allow) or 1 (deny)");
    for weight in [0, 1 << 31] {
        let text = format!("is {weight}; valid: a weight of 1 to 2147483647");
        refuse(&rule(0, weight, 0, &[]), 2, &text);
    }
    refuse(&rule(0, 1, 0x80, &[]), 6, "is present 0x80; valid: bits 0x01 to 0x40");
    refuse(
        &rule(0, 1, 0x04, &[2, 0, 1, 0]),
        7,
        "is about ports 2-1; valid: a range that ends where it begins or later",
    );
    refuse(
        &rule(0, 1, 0x18, &[1, 0, 2, 0, 1]),
        0,
        "is about ports of protocol 1; valid: ports of TCP (6) or UDP (17), or of any protocol",
    );
    let second = 1_000_000_000u64.to_le_bytes();
    let idle = "valid: an idle timeout of 1 s to 24 h, in ns";
    refuse(
        &rule(0, 1, 0x30, &[&[6][..], &999_999_999u64.to_le_bytes()].concat()),
        8,
        &format!("is 999999999; {idle}"),
    );
    refuse(
        &rule(0, 1, 0x30, &[&[6][..], &u64::MAX.to_le_bytes()].concat()),
        8,
        &format!("is {}; {idle}", u64::MAX),
    );
    let stateful = "is stateful, weight 1; valid: stateful only with allow and TCP (6) or UDP (17)";
    refuse(&rule(1, 1, 0x30, &[&[6][..], &second].concat()), 0, stateful);
    refuse(&rule(0, 1, 0x30, &[&[1][..], &second].concat()), 0, stateful);
    refuse(&rule(0, 1, 0x20, &second), 0, stateful);
    refuse(&rule(0, 1, 0x40, &[0; 4]), 7, "is about network 0; valid: no isolation for every network");
    refuse(
        &rule(0, 1, 0x40, &4095u32.to_le_bytes()),
        7,
        "is 4095; valid: 1 to 4094 (VLAN) or 4096 to 16777214 (virtual subnet), or 0 (untagged)",
    );
    let twice = [rule(0, 7, 0, &[]), rule(1, 7, 0, &[])].concat();
    assert_eq!(
        why(&with(&good(), 5, 15, &twice)),
        "policy.rules has in weight 7 twice; each may be there once"
    );
}

#[test]
fn h27_run_time_state_is_that_of_a_port() {
    let session = |edit: fn(&mut [u8])| {
        let mut bytes = common::raw::top(&good()).into_iter().find(|(number, _)| *number == 9).unwrap().1;
        bytes.truncate(48);
        edit(&mut bytes);
        bytes
    };
    let refuse = |edit, offset, text: &str| refused(0, 9, &session(edit), "a session", offset, text);
    refuse(|s| s[0] = 7, 0, "is 7; valid: 4 (IPv4) or 6 (IPv6)");
    refuse(|s| s[1] = 1, 0, "is of protocol 1; valid: 6 (TCP) or 17 (UDP)");
    refuse(
        |s| s[2] = 0x40,
        0,
        "is with track 0x40 and 0x00 after it; valid: a track of 0x00 to 0x3f and 0x00",
    );
    refuse(|s| s[3] = 1, 0, "is with track 0x0a and 0x01 after it; valid: a track of 0x00 to 0x3f and 0x00");
    refuse(
        |s| s[4..8].fill(0xff),
        4,
        "is 4294967295; valid: 1 to 4094 (VLAN) or 4096 to 16777214 (virtual subnet), or 0 (untagged)",
    );
    refuse(|s| s[8..12].fill(0), 8, "is 0; valid: a weight of 1 to 2147483647");
    refuse(|s| s[16..24].fill(0), 16, "is 0; valid: a timeout of 1000 to 86400000 ms");
    refuse(|s| s[0] = 6, 40, "needs 16 bytes, but 8 are left");
    let mut learned = [0; 18];
    learned[0] = 3;
    refused(
        0,
        8,
        &learned,
        "a learned address",
        0,
        "is 03:00:00:00:00:00; valid: a unicast MAC address that is not zero",
    );
    refused(0, 10, &[0; 13], "a used address", 0, "is 0; valid: 4 (IPv4) or 6 (IPv6)");
    let drops = |name: &[u8], count: u64| [&[name.len() as u8][..], name, &count.to_le_bytes()].concat();
    refused(7, 2, &drops(b"acl-deny", 0), "a count of drops", 9, "is 0; valid: 1 or more");
    refused(
        7,
        3,
        &drops(b"ACL", 1),
        "a count of drops",
        0,
        "is 'ACL' (3 bytes); valid: a reason of small letters, digits and '-'",
    );
    refused(
        7,
        3,
        &drops(b"", 1),
        "a count of drops",
        1,
        "is '' (0 bytes); valid: 1 to 64 letters, digits, '.', '_' or '-'",
    );
    let twice = drops(b"mtu", 1).repeat(2);
    assert_eq!(why(&with(&good(), 7, 2, &twice)), "counters.out-drops has mtu twice; each may be there once");
    let extension = b"\x01x\0\0\0\0\0\0\0\0\0\0\0\0".repeat(2);
    assert_eq!(why(&with(&good(), 0, 12, &extension)), "extensions has x twice; each may be there once");
    let long = [&[65][..], &[b'x'; 65]].concat();
    let text =
        format!("is '{}…' (65 bytes); valid: 1 to 64 letters, digits, '.', '_' or '-'", "x".repeat(40));
    refused(0, 12, &long, "the state of an extension", 1, &text);
}

/// For every list, more entries than it may have, each as small as it can be.
fn overfull() -> Vec<Vec<u8>> {
    let bytes = good();
    let session =
        [&[4, 6, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 232, 3, 0, 0, 0, 0, 0, 0][..], &[0; 24]].concat();
    let learned = [&[2; 6][..], &[0; 12]].concat();
    let rules = |n: u32| {
        (1..=n).flat_map(|w| [&[0, 0][..], &w.to_le_bytes(), &[0; 17]].concat()).collect::<Vec<u8>>()
    };
    let drops = |n: u32| {
        (0..n)
            .flat_map(|n| {
                let name = [b'a' + (n >> 8) as u8, b'a' + (n >> 4 & 15) as u8, b'a' + (n & 15) as u8];
                [&[3][..], &name, &[1, 0, 0, 0, 0, 0, 0, 0]].concat()
            })
            .collect::<Vec<u8>>()
    };
    let unknown =
        |fields: &mut common::raw::Fields| fields.extend((100..400).map(|number| (number, Vec::new())));
    let meters = |n: u32| {
        (0..n)
            .flat_map(|n| [&[0, 0, 2, 2, 2, 0][..], &n.to_le_bytes(), &[0; 16]].concat())
            .collect::<Vec<u8>>()
    };
    vec![
        with(&bytes, 0, 8, &learned.repeat(65_537)),
        with(&bytes, 0, 9, &session.repeat(65_537)),
        with(&bytes, 0, 10, &[4].iter().chain(&[0; 12]).copied().collect::<Vec<u8>>().repeat(65_537)),
        with(&bytes, 0, 12, &b"\x01x\0\0\0\0\0\0\0\0\0\0\0\0".repeat(65)),
        with(&bytes, 5, 8, &[4, 0, 0, 0, 0, 0].repeat(1025)),
        with(&bytes, 5, 14, &meters(10_001)),
        with(&bytes, 5, 15, &rules(10_001)),
        with(&bytes, 7, 2, &drops(257)),
        edited(&bytes, 0, unknown),
        edited(&bytes, 7, unknown),
    ]
}

/// Bytes of memory that reading takes at most, for so many bytes of input.
fn bound(input: usize) -> u64 {
    16 * input as u64 + 4096
}

#[test]
fn h27_a_list_is_bounded_and_so_is_the_memory_that_any_input_takes() {
    for bytes in overfull() {
        assert!(why(&bytes).contains(" has more than "), "{}", why(&bytes));
        let used = allocation_counter::measure(|| drop(decode(&bytes)));
        let (peak, length) = (used.bytes_max, bytes.len());
        assert!(peak <= bound(length), "{peak} bytes for {length}: {}", why(&bytes));
    }
    for state in [full(), common::large(65_536, 10_000)] {
        let bytes = format::encode(&state).unwrap();
        let used = allocation_counter::measure(|| drop(decode(&bytes)));
        assert!(used.bytes_max <= bound(bytes.len()), "{} for {}", used.bytes_max, bytes.len());
    }
    // What says that it is large costs nothing.
    for mut lying in [good(), good()[..20].to_vec()] {
        lying[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let used = allocation_counter::measure(|| drop(decode(&lying)));
        assert_eq!(used.bytes_max, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Changed anywhere, with its checksum made right: it never panics, costs little, and what is taken is written as it was read.
    #[test]
    fn h27_a_changed_state_is_refused_or_means_what_it_says(
        state in any_state(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..4),
    ) {
        let mut bytes = format::encode(&state).unwrap();
        for (index, value, kind) in changes {
            let at = 20 + index.index(bytes.len() - 20);
            match kind {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                _ => drop(bytes.remove(at)),
            }
        }
        repair(&mut bytes);
        let mut read = None;
        let used = allocation_counter::measure(|| read = decode(&bytes).ok());
        prop_assert!(used.bytes_max <= bound(bytes.len()));
        if let Some(state) = read {
            prop_assert_eq!(format::encode(&state).unwrap(), bytes);
        }
    }

    /// Bytes of all kinds behind a good header.
    #[test]
    fn h27_rubbish_is_refused(content in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&content).is_err());
        prop_assert!(decode(&state((1, 0), &content)).is_err());
    }
}

#[test]
fn h27_a_field_may_be_changed_alone() {
    // That `changed` and the like do what the other tests think they do.
    let bytes = changed(&good(), 0, 11, |content| content[0] += 1);
    assert_eq!(decode(&bytes).unwrap().storm.used, full().storm.used + 1);
    assert_eq!(edited(&good(), 0, |_| ()), good());
}
