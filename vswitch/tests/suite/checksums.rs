//! The checksum routines against RFC 1071's own example and a straightforward implementation.

use proptest::prelude::*;
use vswitch::frame::checksum::{Sum, checksum, complete_checksum, update};

use crate::support::slow_sum;

#[test]
fn rfc1071_example() {
    let mut sum = Sum::new();
    sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
    assert_eq!(sum.sum(), 0xddf2);
    assert_eq!(sum.checksum(), 0x220d);
}

#[test]
fn a_captured_ipv4_header_verifies() {
    let header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0,
        0xa8, 0x00, 0xc7,
    ];
    assert_eq!(checksum(&header), 0);
}

#[test]
fn a_megabyte_of_ones_does_not_overflow() {
    let ones = vec![0xff; 1 << 20];
    assert_eq!(checksum(&ones), 0);
    let mut sum = Sum::new();
    for _ in 0..100 {
        sum.add(&ones);
    }
    assert_eq!(sum.sum(), 0xffff);
}

#[test]
fn rfc768_a_zero_checksum_is_sent_as_all_ones() {
    // The covered words add up to ffff, whose complement is zero.
    let mut frame = vec![0xff, 0xff, 0, 0];
    assert!(complete_checksum(&mut frame, 0, 2));
    assert_eq!(frame, [0xff, 0xff, 0xff, 0xff]);
}

#[test]
fn a_checksum_outside_the_frame_changes_nothing() {
    let original = [1, 2, 3, 4, 5, 6];
    for (start, offset) in [(0, 5), (6, 0), (7, 0), (4, 1), (65_535, 65_535), (0, 65_535)] {
        let mut frame = original;
        assert!(!complete_checksum(&mut frame, start, offset), "{start}+{offset}");
        assert_eq!(frame, original);
    }
    assert!(complete_checksum(&mut original.clone(), 4, 0));
}

proptest! {
    #[test]
    fn slices_add_up_to_the_whole(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70), 0..6)) {
        let mut sum = Sum::new();
        for part in &parts {
            sum.add(part);
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(sum.sum() % 0xffff, slow_sum(&parts) % 0xffff);
        prop_assert_eq!(sum.sum() == 0, slow_sum(&parts) == 0);
    }

    #[test]
    fn rfc1624_an_update_equals_a_new_sum(mut bytes in prop::collection::vec(any::<u8>(), 4..80), at in 0..38_usize, new: u16) {
        bytes.truncate(bytes.len() / 2 * 2);
        let at = at * 2 % bytes.len();
        let (before, old) = (checksum(&bytes), u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        // Ones' complement has two zeros; both verify.
        prop_assert_eq!(update(before, old, new) % 0xffff, checksum(&bytes) % 0xffff);
    }

    #[test]
    fn a_completed_checksum_verifies(
        mut frame in prop::collection::vec(any::<u8>(), 40..200), start in 7..10_u16, offset in 0..8_u16, pseudo: u16,
    ) {
        let (start, offset) = (start * 2, offset * 2);
        let at = usize::from(start + offset);
        frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        prop_assert!(complete_checksum(&mut frame, start, offset));
        prop_assert_ne!([frame[at], frame[at + 1]], [0, 0]);
        // The receiver adds the pseudo header to what is covered and must get all ones.
        prop_assert_eq!(slow_sum(&[&pseudo.to_be_bytes(), &frame[usize::from(start)..]]), 0xffff);
    }
}
