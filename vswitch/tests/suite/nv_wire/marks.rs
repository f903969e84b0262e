//! Congestion marks (RFC 6040).

use proptest::prelude::*;
use vswitch::nv::wire::ecn::mark::{CE, ECT_0, ECT_1, NOT_ECT};
use vswitch::nv::wire::ecn::{Congestion, arrive, decapsulate, set};
use vswitch::nv::wire::tos;

use super::reference::{assert_right, packet};
use crate::packets::{arp, tagged};
use crate::support::mac_of;

#[test]
fn s14_12_the_inner_header_gets_what_both_marks_say() {
    // RFC 6040, figure 4: rows are the inner mark, columns the outer one.
    let outer = [NOT_ECT, ECT_0, ECT_1, CE];
    let table = [
        (NOT_ECT, [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), Err(Congestion)]),
        (ECT_0, [Ok(ECT_0), Ok(ECT_0), Ok(ECT_1), Ok(CE)]),
        (ECT_1, [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)]),
        (CE, [Ok(CE), Ok(CE), Ok(CE), Ok(CE)]),
    ];
    for (inner, row) in table {
        for (outer, expected) in outer.into_iter().zip(row) {
            assert_eq!(decapsulate(outer, inner), expected, "outer {outer}, inner {inner}");
            // DSCP in the other bits does not matter.
            assert_eq!(decapsulate(outer | 0xb8, inner | 0x28), expected, "outer {outer}, inner {inner}");
        }
    }
}

#[test]
fn s14_12_arp_does_not_understand_marks() {
    let mut frame = tagged(&[], 0x0806, &arp(1, mac_of(1), "10.0.0.1", "10.0.0.2"));
    let before = frame.clone();
    assert_eq!(arrive(&mut frame, ECT_0), Ok(()));
    assert_eq!(arrive(&mut frame, CE), Err(Congestion));
    assert_eq!(frame, before);
}

#[test]
fn s14_12_a_header_cut_short_does_not_understand_marks() {
    let whole = tagged(&[], 0x0800, &crate::packets::v4("10.0.0.1", "10.0.0.2", 17, &[0; 8]));
    for len in 14..34 {
        let mut frame = whole[..len].to_vec();
        frame.resize(16.max(len), 0);
        frame[15] = ECT_0;
        let before = frame.clone();
        assert_eq!(tos(&frame), 0, "{len} bytes");
        assert_eq!(arrive(&mut frame, ECT_1), Ok(()));
        assert_eq!(arrive(&mut frame, CE), Err(Congestion));
        assert_eq!(frame, before);
    }
}

proptest! {
    #[test]
    fn s14_12_a_mark_changes_nothing_but_itself_and_the_checksum(
        packet in any::<bool>().prop_flat_map(packet), dscp in 0_u8..64, before in 0_u8..4, outer in 0_u8..4,
    ) {
        let mut frame = packet.frame();
        let write = |frame: &mut Vec<u8>, tos: u8| if packet.src.is_ipv4() {
            frame[15] = tos;
            let sum = super::reference::complete(frame[14..].to_vec());
            frame[24..26].copy_from_slice(&sum[10..12]);
        } else {
            frame[14] = 0x60 | tos >> 4;
            frame[15] = tos << 4 | frame[15] & 15;
        };
        write(&mut frame, dscp << 2 | before);
        prop_assert_eq!(tos(&frame), dscp << 2 | before);
        let arrived = arrive(&mut frame.clone(), outer);
        prop_assert_eq!(arrived.is_err(), before == NOT_ECT && outer == CE);
        if let Ok(new) = decapsulate(outer, before) {
            let mut expected = frame.clone();
            write(&mut expected, dscp << 2 | new);
            let mut changed = frame.clone();
            arrive(&mut changed, outer).expect("a combination that is not lost");
            prop_assert_eq!(&changed, &expected);
            set(&mut frame, new);
            prop_assert_eq!(&frame, &expected);
            if packet.part == 0 {
                let end = 14 + packet.build().len();
                assert_right(&frame[14..end]);
            }
        }
    }
}
