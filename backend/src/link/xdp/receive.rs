//! Taking frames out of the ring.

use std::sync::atomic::Ordering;

use super::ring::{Consumer, Producer};
use super::{Xdp, socket};
use crate::link::burst::{BURST, ETHERNET_HEADER, FRAME_AT, LinkBurst, MAX_FRAME};
use crate::link::{LINK_HEADER, Link, LinkError};

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiver {
    /// Frames that have come.
    pub(super) ring: Consumer<libc::xdp_desc>,
    /// Chunks for more.
    pub(super) fill: Producer<u64>,
}

impl Xdp {
    /// See [`Link::receive_more`].
    pub(super) fn receive_all(&self, burst: &mut LinkBurst) -> Result<usize, LinkError> {
        if self.stuck.load(Ordering::Relaxed) {
            self.send_rest();
        }
        if !burst.take_in() || (burst.is_full() && burst.count() > 0) {
            return Ok(burst.count());
        }
        if burst.is_full() {
            burst.clear();
        }
        // Whoever else receives now tells what there is.
        let Ok(mut receiver) = self.receiver.try_lock() else { return Ok(burst.count()) };
        let Receiver { ring, fill } = &mut *receiver;
        let (mut taken, mut unfit) = (0, 0);
        // Not for ever, so that frames that are not fit to be delivered cannot hold a worker.
        while taken < 8 * BURST
            && let Some(index) = burst.next_free()
            && let Some(frame) = ring.take()
        {
            taken += 1;
            // SAFETY: it came out of the ring just now, and the chunk goes back below, when the bytes are copied.
            let bytes = unsafe { self.umem.received(&frame) };
            // A frame in several chunks is none that was asked for.
            let whole = frame.options & libc::XDP_PKT_CONTD == 0;
            match bytes.filter(|bytes| whole && (ETHERNET_HEADER..=MAX_FRAME).contains(&bytes.len())) {
                Some(bytes) => {
                    burst.slot(index)[FRAME_AT..FRAME_AT + bytes.len()].copy_from_slice(bytes);
                    burst.filled(1, BURST);
                    burst.push(index, FRAME_AT, bytes.len(), [0; LINK_HEADER]);
                }
                None => unfit += 1,
            }
            // Room there is: there are as many places as chunks.
            if let Some(number) = self.umem.number(frame.addr) {
                fill.put(self.umem.address(number));
            }
        }
        if taken > 0 {
            ring.release();
            fill.publish();
            self.fruitless.store(1, Ordering::Relaxed);
            if unfit > 0 {
                self.malformed.fetch_add(unfit, Ordering::Relaxed);
            }
            if fill.wants_wake_up() {
                socket::kick_receive(&self.socket);
            }
        } else if burst.count() == 0 {
            drop(receiver);
            self.look_whether_gone()?;
        }
        Ok(burst.count())
    }

    /// Asks whether the interface is still there when something woke somebody and nothing has come, and now and then: whoever polls without a
    /// pause is not to pay for a system call each time.
    fn look_whether_gone(&self) -> Result<(), LinkError> {
        let before = self.fruitless.load(Ordering::Relaxed);
        self.fruitless.store(before.wrapping_add(1), Ordering::Relaxed);
        if before.is_multiple_of(4096) && self.is_gone() {
            return Err(self.device.gone());
        }
        Ok(())
    }
}
