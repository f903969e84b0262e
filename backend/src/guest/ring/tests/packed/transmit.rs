//! Random transmit traffic: frames arrive exact and in order, finish in any order, and come back exactly once and in order.

use std::collections::VecDeque;

use proptest::prelude::*;
use vswitch::HEAD_LEN;
use vswitch::frame::offload::NetHeader;

use super::super::driver::cut;
use super::driver::{At, Driver};
use super::{firsts, sizes};
use crate::guest::burst::{BURST, Burst};
use crate::guest::ring::RingShape;

#[derive(Clone, Debug)]
enum Op {
    /// The guest sends a frame of so many bytes, in buffers cut at these places.
    Send { len: u32, cuts: Vec<u32>, indirect: bool, fill: u64 },
    /// The device takes a burst and finishes the frames of this mask; the driver wished to be notified like that.
    Serve { finished: u64, wish: u16 },
    /// The ring stops and starts again where the device says that it stopped, or where all rings begin.
    Restart { wish: u16, told: bool },
    /// The ring is handed over, and loses nothing.
    HandOver,
    /// The device goes to sleep.
    Arm,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let send = (0u32..1900, prop::collection::vec(any::<u32>(), 0..6), any::<bool>(), any::<u64>())
        .prop_map(|(len, cuts, indirect, fill)| Op::Send { len, cuts, indirect, fill });
    let mask = prop_oneof![Just(u64::MAX), Just(0), any::<u64>(), (0u32..64).prop_map(|bit| 1 << bit)];
    let serve = (mask, any::<u16>()).prop_map(|(finished, wish)| Op::Serve { finished, wish });
    let restart = any::<(u16, bool)>().prop_map(|(wish, told)| Op::Restart { wish, told });
    let rest = prop_oneof![Just(Op::Arm), Just(Op::HandOver)];
    prop::collection::vec(prop_oneof![24 => send, 8 => serve, 1 => restart, 3 => rest], 1..250)
}

/// A frame the guest sent and the device has not passed in order yet.
struct Sent {
    id: u16,
    slots: u16,
    bytes: Vec<u8>,
    finished: bool,
}

fn run(size: u16, shape: RingShape, first: u64, ops: Vec<Op>) {
    let mut driver = Driver::new(size, shape, first);
    let mut window: VecDeque<Sent> = VecDeque::new();
    let mut burst = Burst::default();
    let mut base = At(first);
    for op in ops {
        match op {
            Op::Send { len, cuts, indirect, fill } => {
                let total = len + u32::from(shape.header_len);
                let Some(chain) = driver.add(&cut(total, &cuts), indirect, false) else { continue };
                let bytes: Vec<u8> =
                    (0..u64::from(total)).map(|i| (fill.wrapping_mul(i | 1) >> 56) as u8).collect();
                let mut from = 0;
                for (addr, len) in &chain.buffers {
                    driver.ram.write(*addr, &bytes[from..from + *len as usize]);
                    from += *len as usize;
                }
                window.push_back(Sent { id: chain.id, slots: chain.slots, bytes, finished: false });
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
                driver.ring.complete(&burst, finished);
                assert_eq!(driver.reap(), [], "nothing shows before it is published");
                driver.ring.show();
                (0..BURST).filter(|slot| finished >> slot & 1 != 0).for_each(|s| window[s].finished = true);
                let leading = window.iter().take_while(|s| s.finished).count();
                pass(&mut driver, &mut base, window.drain(..leading));
            }
            Op::Restart { wish, told } => {
                driver.wish(wish);
                // What lies between finished frames is lost; what comes after the last of them is not touched.
                let passed = window.iter().rposition(|s| s.finished).map_or(0, |last| last + 1);
                let lost = window.iter().take(passed).filter(|s| !s.finished).count();
                assert_eq!(driver.ring.stop() as usize, lost);
                pass(&mut driver, &mut base, window.drain(..passed));
                let after = driver.ring.base();
                assert_eq!(after, base.told(size), "where it continues");
                driver.start(if told || driver.is_mute(after) { after } else { At(0).told(size) });
                assert_eq!(driver.ring.base(), after, "the ring's memory knows, whatever the front end says");
            }
            Op::HandOver => {
                let suspended = driver.ring.suspend();
                assert_eq!(suspended.is_some(), window.iter().any(|s| s.finished));
                assert_eq!(driver.reap(), [], "nothing is given back that was not");
                driver.start(base.told(size));
                if let Some(window) = &suspended {
                    driver.ring.resume(window);
                }
            }
            Op::Arm => {
                let nothing = window.is_empty();
                driver.check_arm(base);
                assert_eq!(nothing, driver.avail == base);
            }
        }
    }
    driver.ram.check_canaries();
}

/// The driver gets exactly these back, and was notified if the specification says so.
fn pass(driver: &mut Driver, base: &mut At, sent: impl Iterator<Item = Sent>) {
    let old = *base;
    let back: Vec<_> = sent
        .map(|sent| {
            base.0 += u64::from(sent.slots);
            (sent.id, 0)
        })
        .collect();
    assert_eq!(
        driver.notified(),
        u64::from(driver.must_notify(old, *base)),
        "one notification if one is due"
    );
    assert_eq!(driver.reap(), back);
    assert_eq!((driver.seen, driver.ring.base()), (*base, base.told(driver.size)));
}

fn check_frame(driver: &Driver, burst: &Burst, index: usize, sent: &Sent) {
    let frame = &burst.frames[index];
    let header_len = driver.ring.header_len();
    assert_eq!((frame.id, frame.fault), (sent.id, None));
    let (header, bytes) = sent.bytes.split_at(header_len);
    let mut long = [0; NetHeader::LEN];
    long[..header_len].copy_from_slice(header);
    assert_eq!(frame.header, NetHeader::parse(&long));
    assert_eq!(frame.len as usize, bytes.len());
    assert_eq!(frame.head().len(), bytes.len().min(HEAD_LEN));
    assert!(burst.rest(index).iter().all(|span| driver.ram.contains(span)));
    let mut linear = Vec::with_capacity(4096);
    burst.linearise(index, &mut linear);
    assert_eq!(linear, bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sent_frame_arrives_exact_and_comes_back_once_in_order(
        size in sizes(),
        first in firsts(),
        (event_idx, indirect, in_order) in any::<(bool, bool, bool)>(),
        ops in ops(),
    ) {
        let shape = RingShape { event_idx, indirect, in_order, packed: true, header_len: 12, ..RingShape::default() };
        run(size, shape, first * u64::from(size) / 4, ops);
    }
}

#[test]
fn a_batch_used_in_order_is_one_descriptor() {
    for in_order in [false, true] {
        let shape = RingShape { in_order, packed: true, header_len: 12, ..RingShape::default() };
        let mut driver = Driver::new(8, shape, 0);
        let ids: Vec<u16> = (0..5).map(|_| driver.add(&[100], false, false).unwrap().id).collect();
        let mut burst = Burst::default();
        driver.ring.take(&mut burst).unwrap();
        driver.ring.complete(&burst, u64::MAX);
        driver.ring.show();
        let flags = |i: u64| driver.ram.word(super::super::driver::DESC + 16 * i + 14);
        let written = (0..8).filter(|&i| flags(i) == super::driver::AVAILABLE | super::driver::DONE).count();
        assert_eq!(written, if in_order { 1 } else { 5 });
        let back: Vec<u16> = driver.reap().iter().map(|(id, _)| *id).collect();
        assert_eq!(back, ids);
    }
}
