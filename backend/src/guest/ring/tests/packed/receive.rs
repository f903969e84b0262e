//! Random receive traffic: frames are written exactly, in the guest's buffers only, and one by one or not at all.

use std::collections::VecDeque;

use proptest::prelude::*;
use vswitch::frame::offload::NetHeader;

use super::super::driver::{AREA, POISON, cut};
use super::driver::{At, Chain, Driver};
use super::{firsts, sizes};
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
    /// The ring stops and starts again, where the device says that it stopped, or where all rings begin.
    Restart(bool),
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
    let restart = any::<bool>().prop_map(Op::Restart);
    prop::collection::vec(
        prop_oneof![10 => offer, 4 => put, 1 => restart, 1 => Just(Op::Arm), 1 => stage],
        1..150,
    )
}

/// What must become of a frame of `total` bytes with its header, and the buffers it takes. `whole`: nothing of the ring is used and not shown.
fn expect(offered: &VecDeque<Chain>, size: u16, mergeable: bool, total: usize, whole: bool) -> (Put, usize) {
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
    let all = offered.iter().map(|chain| chain.slots).sum::<u16>() == size;
    (if all && whole { Put::TooSmall } else { Put::Full }, 0)
}

fn run(size: u16, shape: RingShape, first: u64, ops: Vec<Op>) {
    let mut driver = Driver::new(size, shape, first);
    let mut offered: VecDeque<Chain> = VecDeque::new();
    let mut base = At(first);
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
                let (mark, old) = (driver.ring.mark(), base);
                let mut written = Vec::new();
                let mut left = offered.clone();
                for len in lens {
                    let frame: Vec<u8> =
                        (0..u64::from(len)).map(|i| (fill.wrapping_mul(i | 1) >> 56) as u8).collect();
                    let header = NetHeader { csum_start: len as u16, num_buffers: 1, ..NetHeader::default() };
                    let total = frame.len() + driver.ring.header_len();
                    let whole = left.len() == offered.len();
                    let (expected, taken) = expect(&left, size, shape.mergeable, total, whole);
                    assert_eq!(put(&mut driver, &header, &frame, head), expected);
                    let chains: Vec<Chain> = left.drain(..taken).collect();
                    if expected == Put::Done {
                        let header = NetHeader { num_buffers: taken as u16, ..header };
                        let mut bytes = header.emit()[..driver.ring.header_len()].to_vec();
                        bytes.extend_from_slice(&frame);
                        written.push((bytes, chains));
                    }
                }
                assert_eq!(driver.reap(), [], "nothing shows before it is published");
                if rewind {
                    driver.ring.rewind(mark);
                    written.iter().flat_map(|(_, chains)| chains).for_each(|chain| poison(&driver, chain));
                    written.clear();
                }
                driver.ring.publish();
                let slots: u16 = written.iter().flat_map(|(_, chains)| chains).map(|chain| chain.slots).sum();
                base.0 += u64::from(slots);
                assert_eq!(driver.ring.base(), base.told(size));
                assert_eq!(driver.notified(), u64::from(driver.must_notify(old, base)), "one if one is due");
                let reaped = driver.reap();
                assert_eq!(driver.seen, base);
                let mut reaped = reaped.iter();
                for (bytes, chains) in written {
                    check_written(&driver, &bytes, &chains, &mut reaped);
                    offered.drain(..chains.len());
                }
                assert!(reaped.next().is_none());
            }
            Op::Restart(told) => {
                assert_eq!(driver.ring.stop(), 0);
                assert_eq!(driver.ring.base(), base.told(size), "where it continues");
                driver.start(if told || driver.is_mute(base.told(size)) { base } else { At(0) }.told(size));
                assert_eq!(driver.ring.base(), base.told(size), "the ring's memory knows");
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

/// `bytes` are in these chains, nothing else was written there, and what is used says so.
fn check_written<'a>(
    driver: &Driver,
    mut bytes: &[u8],
    chains: &[Chain],
    reaped: &mut impl Iterator<Item = &'a (u16, u32)>,
) {
    for chain in chains {
        let (id, len) = *reaped.next().expect("one used descriptor per chain");
        assert_eq!((id, len as usize), (chain.id, chain.capacity().min(bytes.len())));
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
        (event_idx, indirect, mergeable) in any::<(bool, bool, bool)>(),
        ops in ops(),
    ) {
        let shape = RingShape { event_idx, indirect, mergeable, packed: true, header_len: 12, ..RingShape::default() };
        run(size, shape, first * u64::from(size) / 4, ops);
    }
}
