//! Random transmit traffic: frames arrive exact and in order, finish in any order, and come back exactly once.

use std::collections::VecDeque;

use proptest::prelude::*;
use vswitch::HEAD_LEN;
use vswitch::frame::offload::NetHeader;

use super::driver::{Driver, cut, firsts, sizes};
use crate::guest::burst::{BURST, Burst};
use crate::guest::ring::RingShape;
use crate::guest::ring::receive::Receive;

#[derive(Clone, Debug)]
enum Op {
    /// The guest sends a frame of so many bytes, in buffers cut at these places.
    Send { len: u32, cuts: Vec<u32>, indirect: bool, fill: u64 },
    /// The device takes a burst and finishes the frames of this mask; the driver wished to be notified like that.
    Serve { finished: u64, wish: u16 },
    /// The ring stops and starts again.
    Restart { wish: u16 },
    /// The device goes to sleep.
    Arm,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let send = (0u32..1900, prop::collection::vec(any::<u32>(), 0..6), any::<bool>(), any::<u64>())
        .prop_map(|(len, cuts, indirect, fill)| Op::Send { len, cuts, indirect, fill });
    let mask = prop_oneof![Just(u64::MAX), Just(0), any::<u64>(), (0u32..64).prop_map(|bit| 1 << bit)];
    let serve = (mask, any::<u16>()).prop_map(|(finished, wish)| Op::Serve { finished, wish });
    let restart = any::<u16>().prop_map(|wish| Op::Restart { wish });
    prop::collection::vec(prop_oneof![12 => send, 4 => serve, 1 => restart, 1 => Just(Op::Arm)], 1..200)
}

/// A frame the guest sent and the device has not passed in order yet.
struct Sent {
    head: u16,
    bytes: Vec<u8>,
    finished: bool,
}

fn run(size: u16, shape: RingShape, first: u16, ops: Vec<Op>) {
    let mut driver = Driver::new(size, shape, first);
    let mut window: VecDeque<Sent> = VecDeque::new();
    let mut burst = Burst::default();
    let (mut base, mut sent, mut returned) = (first, 0usize, 0usize);
    let header_len = u32::from(shape.header_len);
    for op in ops {
        match op {
            Op::Send { len, cuts, indirect, fill } => {
                let total = len + header_len;
                let Some(chain) = driver.add(&cut(total, &cuts), indirect, false) else { continue };
                let bytes: Vec<u8> =
                    (0..u64::from(total)).map(|i| (fill.wrapping_mul(i | 1) >> 56) as u8).collect();
                let mut from = 0;
                for (addr, len) in &chain.buffers {
                    driver.ram.write(*addr, &bytes[from..from + *len as usize]);
                    from += *len as usize;
                }
                window.push_back(Sent { head: chain.head, bytes, finished: false });
                sent += 1;
            }
            Op::Serve { finished, wish } => {
                driver.wish(wish);
                burst.clear();
                driver.ring.take(&mut burst).unwrap();
                let mut taken = 0;
                let mut expected = window.iter().take(BURST).enumerate().filter(|(_, s)| !s.finished);
                for index in 0..burst.count {
                    let (slot, sent) = expected.next().expect("only what was sent");
                    assert_eq!(usize::from(burst.frames[index].slot), slot, "in order");
                    check_frame(&driver, &burst, index, sent);
                    taken |= 1 << slot;
                }
                assert!(expected.next().is_none(), "everything that fits the window");
                let finished = finished & taken;
                let old = driver.used_index();
                driver.ring.complete(&burst, finished);
                assert_eq!(driver.used_index(), old, "nothing shows before it is published");
                driver.ring.publish();
                let mut heads: Vec<u16> = (0..BURST)
                    .filter(|slot| finished >> slot & 1 != 0)
                    .map(|slot| window[slot].head)
                    .collect();
                (0..BURST).filter(|slot| finished >> slot & 1 != 0).for_each(|s| window[s].finished = true);
                let mut leading = Vec::new();
                while let Some(sent) = window.pop_front_if(|s| s.finished) {
                    leading.push(sent.head);
                    base = base.wrapping_add(1);
                }
                if shape.in_order {
                    heads = leading;
                }
                returned += check_returned(&mut driver, old, &heads);
                assert_eq!(driver.ring.base(), base);
            }
            Op::Restart { wish } => {
                driver.wish(wish);
                let old = driver.used_index();
                // What lies between finished frames is lost; what comes after the last of them is not touched.
                let passed = window.iter().rposition(|s| s.finished).map_or(0, |last| last + 1);
                let passed: Vec<Sent> = window.drain(..passed).collect();
                base = base.wrapping_add(passed.len() as u16);
                assert_eq!(driver.ring.stop() as usize, passed.iter().filter(|s| !s.finished).count());
                let back = passed.iter().filter(|s| shape.in_order || !s.finished);
                let back: Vec<u16> = back.map(|s| s.head).collect();
                assert!(!driver.ring.is_live());
                assert_eq!((driver.ring.base(), driver.used_index()), (base, base), "where it continues");
                returned += check_returned(&mut driver, old, &back);
                driver.start();
            }
            Op::Arm => driver.check_arm(base),
        }
        assert_eq!(usize::from(driver.used_index().wrapping_sub(first)), returned & 0xffff);
        assert_eq!(driver.outstanding.len(), sent - returned);
    }
    driver.ram.check_canaries();
}

/// The driver sees exactly these heads since `old`, and was notified if the specification says so.
fn check_returned(driver: &mut Driver, old: u16, heads: &[u16]) -> usize {
    let must = driver.must_notify(old, driver.used_index());
    assert_eq!(driver.notified(), u64::from(must), "one notification if one is due");
    let reaped: Vec<u16> = driver
        .reap()
        .into_iter()
        .map(|(head, len)| {
            assert_eq!(len, 0, "the device wrote nothing to a transmit buffer");
            head
        })
        .collect();
    assert_eq!(reaped, heads);
    reaped.len()
}

fn check_frame(driver: &Driver, burst: &Burst, index: usize, sent: &Sent) {
    let frame = &burst.frames[index];
    let header_len = driver.ring.header_len();
    assert_eq!((frame.id, frame.fault), (sent.head, None));
    let (header, bytes) = sent.bytes.split_at(header_len);
    let mut long = [0; NetHeader::LEN];
    long[..header_len].copy_from_slice(header);
    assert_eq!(frame.header, NetHeader::parse(&long));
    assert_eq!(frame.len as usize, bytes.len());
    assert_eq!(frame.head().len(), bytes.len().min(HEAD_LEN));
    let mut whole = frame.head().to_vec();
    for span in burst.rest(index) {
        assert!(driver.ram.contains(span));
        // SAFETY: inside guest memory by the line above.
        whole.extend_from_slice(unsafe { std::slice::from_raw_parts(span.ptr, span.len as usize) });
    }
    assert_eq!(whole, bytes);
    let mut linear = Vec::with_capacity(4096);
    burst.linearise(index, &mut linear);
    assert_eq!(linear, bytes);
}

fn shape([event_idx, indirect, legacy, in_order]: [bool; 4]) -> RingShape {
    let header_len = if legacy { 10 } else { 12 };
    RingShape { event_idx, indirect, in_order, header_len, ..RingShape::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sent_frame_arrives_exact_and_comes_back_once(
        size in sizes(),
        first in firsts(),
        features: [bool; 4],
        ops in ops(),
    ) {
        run(size, shape(features), first, ops);
    }
}

#[test]
fn indices_wrap_after_65536_frames() {
    let mut ops = Vec::new();
    for round in 0..1100u64 {
        let send =
            |n: u32| Op::Send { len: 60 + n, cuts: vec![12], indirect: n.is_multiple_of(2), fill: round };
        ops.extend((0..64).map(send));
        ops.push(Op::Serve { finished: u64::MAX, wish: round as u16 });
    }
    run(128, shape([true, true, false, false]), 0, ops);
}
