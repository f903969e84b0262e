//! Random receive traffic: frames are written exactly, in the guest's buffers only, and one by one or not at all.

use std::collections::VecDeque;

use proptest::prelude::*;
use vswitch::frame::offload::NetHeader;

use super::driver::{AREA, Chain, Driver, POISON, cut, firsts, sizes};
use crate::guest::memory::Span;
use crate::guest::ring::RingShape;
use crate::guest::ring::receive::{Put, Receive};

#[derive(Clone, Debug)]
enum Op {
    /// The guest offers a buffer of so many bytes, cut at these places.
    Offer { len: u32, cuts: Vec<u32>, indirect: bool },
    /// Frames of these lengths are put, their head so long; then all of them stay, or all of them go.
    Put { lens: Vec<u32>, ahead: usize, head: usize, fill: u64, rewind: bool, wish: u16 },
    /// Buffers are read ahead and nothing is put.
    Stage(usize),
    /// The ring stops and starts again.
    Restart,
    /// The device waits for buffers.
    Arm,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let len = prop_oneof![4 => 0..=AREA, 2 => Just(1526), 1 => 0u32..40];
    let offer = (len, prop::collection::vec(any::<u32>(), 0..5), any::<bool>())
        .prop_map(|(len, cuts, indirect)| Op::Offer { len, cuts, indirect });
    let len = prop_oneof![3 => 14u32..1515, 1 => 14u32..9000];
    let lens = prop::collection::vec(len, 1..6);
    let put = (lens, 0usize..8, 0usize..200, any::<u64>(), any::<bool>(), any::<u16>()).prop_map(
        |(lens, ahead, head, fill, rewind, wish)| Op::Put { lens, ahead, head, fill, rewind, wish },
    );
    let stage = (0usize..70).prop_map(Op::Stage);
    prop::collection::vec(
        prop_oneof![10 => offer, 4 => put, 1 => Just(Op::Restart), 1 => Just(Op::Arm), 1 => stage],
        1..150,
    )
}

/// What must become of a frame of `total` bytes with its header, and the buffers it takes.
fn expect(offered: &VecDeque<Chain>, size: u16, mergeable: bool, total: usize) -> (Put, usize) {
    let mut room = 0;
    for (index, chain) in offered.iter().enumerate() {
        let capacity = chain.capacity();
        room += capacity;
        if room >= total {
            return (Put::Done, index + 1);
        }
        if !mergeable || capacity == 0 {
            return (Put::TooSmall, 0);
        }
    }
    (if offered.len() >= usize::from(size) { Put::TooSmall } else { Put::Full }, 0)
}

fn run(size: u16, shape: RingShape, first: u16, ops: Vec<Op>) {
    let mut driver = Driver::new(size, shape, first);
    let mut offered: VecDeque<Chain> = VecDeque::new();
    let mut base = first;
    for op in ops {
        match op {
            Op::Offer { len, cuts, indirect } => {
                let Some(chain) = driver.add(&cut(len, &cuts), indirect, true) else { continue };
                poison(&driver, &chain);
                offered.push_back(chain);
            }
            Op::Put { lens, ahead, head, fill, rewind, wish } => {
                driver.wish(wish);
                if ahead > 0 {
                    driver.ring.stage(ahead).unwrap();
                }
                let (mark, old) = (driver.ring.mark(), driver.used_index());
                let mut written = Vec::new();
                let mut left = offered.clone();
                for len in lens {
                    let frame: Vec<u8> =
                        (0..u64::from(len)).map(|i| (fill.wrapping_mul(i | 1) >> 56) as u8).collect();
                    let header = NetHeader { csum_start: len as u16, num_buffers: 1, ..NetHeader::default() };
                    let total = frame.len() + driver.ring.header_len();
                    let (expected, taken) = expect(&left, size, shape.mergeable, total);
                    assert_eq!(put(&mut driver, &header, &frame, head), expected);
                    let chains: Vec<Chain> = left.drain(..taken).collect();
                    if expected == Put::Done {
                        let header = NetHeader { num_buffers: taken as u16, ..header };
                        let mut bytes = header.emit()[..driver.ring.header_len()].to_vec();
                        bytes.extend_from_slice(&frame);
                        written.push((bytes, chains));
                    }
                }
                assert_eq!(driver.used_index(), old, "nothing shows before it is published");
                if rewind {
                    driver.ring.rewind(mark);
                    written.iter().flat_map(|(_, chains)| chains).for_each(|chain| poison(&driver, chain));
                    written.clear();
                }
                driver.ring.publish();
                base = base.wrapping_add(written.iter().map(|(_, chains)| chains.len() as u16).sum());
                assert_eq!((driver.ring.base(), driver.used_index()), (base, base));
                let must = driver.must_notify(old, base);
                assert_eq!(driver.notified(), u64::from(must), "one notification if one is due");
                let reaped = driver.reap();
                let mut reaped = reaped.iter();
                for (bytes, chains) in written {
                    check_written(&driver, &bytes, &chains, &mut reaped);
                    offered.drain(..chains.len());
                }
                assert!(reaped.next().is_none());
            }
            Op::Restart => {
                assert_eq!(driver.ring.stop(), 0);
                assert_eq!((driver.ring.base(), driver.used_index()), (base, base), "where it continues");
                driver.start();
            }
            Op::Arm => driver.check_arm(base),
            Op::Stage(count) => driver.ring.stage(count).unwrap(),
        }
    }
    driver.ram.check_canaries();
}

fn poison(driver: &Driver, chain: &Chain) {
    chain.buffers.iter().for_each(|&(addr, len)| driver.ram.write(addr, &vec![POISON; len as usize]));
}

/// Puts a frame of which the first `head` bytes are the judged copy and the rest is in two pieces of other memory.
fn put(driver: &mut Driver, header: &NetHeader, frame: &[u8], head: usize) -> Put {
    let (head, rest) = frame.split_at(head.min(frame.len()));
    let (one, two) = rest.split_at(rest.len() / 3);
    let span = |part: &[u8]| Span { ptr: part.as_ptr().cast_mut(), len: part.len() as u32 };
    driver.ring.put(header, head, &[span(one), span(two)], frame.len() as u32).unwrap()
}

/// `bytes` are in these chains, nothing else was written there, and the used elements say so.
fn check_written<'a>(
    driver: &Driver,
    mut bytes: &[u8],
    chains: &[Chain],
    reaped: &mut impl Iterator<Item = &'a (u16, u32)>,
) {
    for chain in chains {
        let (head, len) = *reaped.next().expect("one element per chain");
        assert_eq!((head, len as usize), (chain.head, chain.capacity().min(bytes.len())));
        for &(addr, len) in &chain.buffers {
            let found = driver.ram.read(addr, len as usize);
            let (mine, after) = found.split_at(bytes.len().min(len as usize));
            assert_eq!(mine, &bytes[..mine.len()]);
            assert!(after.iter().all(|byte| *byte == POISON), "written behind the frame's end");
            bytes = &bytes[mine.len()..];
        }
    }
    assert!(bytes.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_put_frame_is_exact_or_leaves_no_trace(
        size in sizes(),
        first in firsts(),
        (event_idx, indirect, mergeable, legacy) in any::<(bool, bool, bool, bool)>(),
        ops in ops(),
    ) {
        let header_len = if legacy && !mergeable { 10 } else { 12 };
        let shape = RingShape { event_idx, indirect, mergeable, header_len, ..RingShape::default() };
        run(size, shape, first, ops);
    }
}
