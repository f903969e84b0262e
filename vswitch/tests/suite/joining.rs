//! Joining segments: what comes out is the frame they were cut from, and nothing else is ever joined.

use proptest::prelude::*;
use vswitch::frame::join::{Joint, checksum_holds};
use vswitch::frame::offload::IpVersion;
use vswitch::frame::segment::Segmenter;

use crate::segmentation::TcpFrame;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

fn head(frame: &[u8]) -> &[u8] {
    &frame[..frame.len().min(vswitch::HEAD_LEN)]
}

/// Joins as many of the segments as go; the joined frame, what is left to its receiver, and how many segments went in.
fn joined(segments: &[Vec<u8>]) -> (Vec<u8>, Joint, usize) {
    let mut first = segments[0].clone();
    let mut joint = Joint::new(head(&first), first.len() as u32).expect("a segment of a stream");
    let mut payload: Vec<u8> = Vec::new();
    let mut count = 1;
    for segment in &segments[1..] {
        if !joint.join(&mut first, head(segment), segment.len() as u32) {
            break;
        }
        payload.extend(&segment[joint.header_len()..]);
        count += 1;
    }
    first.extend(payload);
    (first, joint, count)
}

fn frames() -> impl Strategy<Value = (TcpFrame, u16)> {
    let version = prop_oneof![Just(None), Just(Some(IpVersion::V6))];
    let payload = prop::collection::vec(any::<u8>(), 700..8000);
    (version, 0u8..4, any::<u16>(), any::<u32>(), any::<bool>(), payload, 300u16..1461).prop_map(
        |(version, options, id, sequence, push, payload, mss)| {
            let flags = if push { ACK | PSH } else { ACK };
            let options = options * 4;
            (TcpFrame { version, options, id, sequence, flags, payload, ..TcpFrame::default() }, mss)
        },
    )
}

proptest! {
    #[test]
    fn segments_of_a_frame_become_the_frame_again((frame, mss) in frames()) {
        let segments = frame.segments(mss, false);
        prop_assume!(segments.len() > 1);
        let (mut first, joint, count) = joined(&segments);
        prop_assert_eq!(count, segments.len());
        // The last one may have PSH, as all that is not joined to anything may.
        prop_assert!(segments.iter().all(|segment| checksum_holds(segment)));
        prop_assert_eq!(joint.len() as usize, first.len());
        let offload = joint.finish(&mut first);
        // The sender leaves the pseudo header's sum in the checksum field, and so does the joint.
        let mut original = frame.build();
        if frame.version.is_none() {
            prop_assert_eq!(vswitch::frame::checksum::checksum(&first[14..34]), 0);
            original[24..26].copy_from_slice(&first[24..26]);
        }
        prop_assert_eq!(&first, &original);
        let mut again = Segmenter::new(&first, &offload).expect("a valid frame");
        let mut out = vec![0; again.max_segment()];
        let mut number = 0;
        while let Some(len) = again.next(&mut out) {
            prop_assert_eq!(&out[..len], &segments[number][..], "segment {}", number);
            number += 1;
        }
        prop_assert_eq!(number, segments.len());
    }

    /// Any change of one bit of a header, but for those of the checksum itself, ends the joining before that segment.
    #[test]
    fn a_segment_that_differs_is_not_joined((frame, mss) in frames(), bit in 0usize..(74 * 8)) {
        let mut segments = frame.segments(mss, false);
        prop_assume!(segments.len() > 2 && bit / 8 < frame.headers());
        let transport = frame.headers() - 20 - usize::from(frame.options);
        let (at, mask) = (bit / 8, 1 << (bit % 8));
        prop_assume!(!(transport + 16..transport + 18).contains(&at));
        // PSH ends a frame, but the segment that has it belongs to it.
        prop_assume!(at != transport + 13 || mask != PSH);
        segments[1][at] ^= mask;
        prop_assert!(!checksum_holds(&segments[1]) || at < transport);
        let (_, _, count) = joined(&segments);
        prop_assert_eq!(count, 1);
    }
}

#[test]
fn what_opens_closes_or_is_empty_is_not_joined() {
    for flags in [0x02, 0x11, 0x14, 0x18, 0x30, 0x90] {
        let frame = TcpFrame { flags, payload: vec![1; 500], ..TcpFrame::default() }.build();
        assert!(Joint::new(head(&frame), frame.len() as u32).is_none(), "{flags:#x}");
    }
    let empty = TcpFrame::default().build();
    assert!(Joint::new(head(&empty), empty.len() as u32).is_none());
    let tagged = TcpFrame { vlans: vec![5], payload: vec![1; 500], ..TcpFrame::default() }.build();
    assert!(Joint::new(head(&tagged), tagged.len() as u32).is_none());
}
