//! A guest sends and receives: frames into descriptor chains and back.

use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EpollEvent;

use crate::features;
use crate::guest::{Guest, TX_SLOT};
use crate::net_hdr::{self, NetHdr};
use crate::options::Shape;
use crate::ring::Buffer;
use crate::{PATIENCE, SILENCE};

/// A received frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The header before it.
    pub header: NetHdr,
    /// The frame.
    pub frame: Vec<u8>,
    /// The queue pair it came by.
    pub pair: usize,
    /// The number of buffers it took.
    pub buffers: usize,
}

impl Guest {
    /// Sends a frame with complete checksums.
    #[track_caller]
    pub fn send(&mut self, frame: &[u8]) {
        self.send_with(NetHdr::default(), frame);
    }

    /// Sends a frame behind a header of the test's choice.
    #[track_caller]
    pub fn send_with(&mut self, header: NetHdr, frame: &[u8]) {
        self.send_on(0, header, frame);
    }

    /// Sends a frame by the given queue pair, waiting for room in its ring at most [`PATIENCE`].
    #[track_caller]
    pub fn send_on(&mut self, pair: usize, header: NetHdr, frame: &[u8]) {
        assert!(
            self.send_within(pair, header, frame, PATIENCE),
            "send ring {pair} stayed full: the switch takes nothing"
        );
    }

    /// Sends a frame; false if there was no room in the ring within `timeout`.
    #[must_use]
    pub fn send_within(&mut self, pair: usize, header: NetHdr, frame: &[u8], timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !self.enqueue(pair, header, frame) {
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            if !self.tx[pair].want_calls() {
                self.wait_calls(deadline - now);
                self.drain_calls();
            }
        }
        self.tx[pair].notify();
        true
    }

    /// Puts a frame into the send ring without notifying anybody; false if there is no room.
    #[must_use]
    pub fn enqueue(&mut self, pair: usize, header: NetHdr, frame: &[u8]) -> bool {
        self.reclaim(pair);
        let Some(slot) = self.slots[pair].pop() else { return false };
        let bytes = [&header.to_bytes()[..], frame].concat();
        assert!(bytes.len() as u64 <= TX_SLOT, "a frame of {} bytes", frame.len());
        self.memory.write(slot, &bytes);
        let pieces = |sizes: Vec<usize>| {
            let mut at = slot;
            let mut buffers = Vec::new();
            for size in sizes.into_iter().filter(|&size| size > 0) {
                buffers.push(Buffer::readable(at, size as u32));
                at += size as u64;
            }
            buffers
        };
        let cut = |size: usize| {
            let mut sizes = vec![size; bytes.len() / size];
            sizes.push(bytes.len() % size);
            pieces(sizes)
        };
        let ring = &mut self.tx[pair];
        let head = match self.shape {
            Shape::Whole => ring.offer(&pieces(vec![bytes.len()])),
            Shape::HeaderApart => ring.offer(&pieces(vec![net_hdr::LEN, frame.len()])),
            Shape::Pieces(size) => ring.offer(&cut(size)),
            Shape::Indirect => ring.offer_indirect(&pieces(vec![net_hdr::LEN, frame.len()])),
            Shape::IndirectPieces(size) => ring.offer_indirect(&cut(size)),
        };
        let Some(head) = head else {
            self.slots[pair].push(slot);
            return false;
        };
        self.sending[pair].insert(head, slot);
        true
    }

    /// Writes a number over bytes 50 to 57 of the frame that lies in the send ring as chain `head`.
    pub fn stamp(&self, pair: usize, head: u16, number: u64) {
        let slot = self.sending[pair].get(&head).expect("a chain of ours");
        self.memory.write(slot + net_hdr::LEN as u64 + 50, &number.to_le_bytes());
    }

    /// Sends many frames, kicking once for as many as fit into the ring.
    #[track_caller]
    pub fn send_all<'f>(&mut self, frames: impl IntoIterator<Item = &'f Vec<u8>>) {
        for frame in frames {
            if !self.enqueue(0, NetHdr::default(), frame) {
                self.tx[0].notify();
                self.send(frame);
            }
        }
        self.tx[0].notify();
    }

    /// Takes back the slots of frames the switch is done with.
    pub fn reclaim(&mut self, pair: usize) {
        while let Some((head, written)) = self.tx[pair].take() {
            assert_eq!(written, 0, "the switch claims to have written to a frame being sent");
            self.slots[pair].push(self.sending[pair].remove(&head).expect("a chain of ours"));
        }
    }

    /// Waits until the switch is done with all frames sent; says whether that was so within `timeout`.
    #[must_use]
    pub fn flush(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            (0..self.tx.len()).for_each(|pair| self.reclaim(pair));
            if self.tx.iter().all(|ring| ring.in_flight() == 0) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Posts up to `count` receive buffers on each queue pair and notifies.
    pub fn post(&mut self, count: usize) {
        for pair in 0..self.rx.len() {
            for _ in 0..count {
                let Some((addr, len)) = self.spare[pair].pop() else { break };
                let head =
                    self.rx[pair].offer(&[Buffer::writable(addr, len)]).expect("a descriptor per buffer");
                self.posted[pair].insert(head, (addr, len));
            }
            self.rx[pair].notify();
        }
    }

    /// Posts up to `count` receive buffers, each as a chain of pieces of the given lengths, on queue pair 0.
    pub fn post_chains(&mut self, count: usize, lengths: &[u32]) {
        for _ in 0..count {
            let Some((addr, len)) = self.spare[0].pop() else { break };
            let total: u32 = lengths.iter().sum();
            assert!(total <= len, "{total} bytes in a buffer of {len}");
            let mut at = addr;
            let mut buffers = Vec::new();
            for &part in lengths {
                buffers.push(Buffer::writable(at, part));
                at += u64::from(part);
            }
            let head = self.rx[0].offer(&buffers).expect("descriptors");
            self.posted[0].insert(head, (addr, total));
        }
        self.rx[0].notify();
    }

    /// Takes the next frame that is there, waiting for nothing.
    pub fn poll(&mut self) -> Option<Received> {
        (0..self.rx.len()).find_map(|pair| self.poll_pair(pair))
    }

    fn poll_pair(&mut self, pair: usize) -> Option<Received> {
        let (head, written) = self.rx[pair].take()?;
        let first = self.buffer(pair, head, written);
        assert!(first.len() >= net_hdr::LEN, "{} bytes in a receive buffer hold no header", first.len());
        let header = NetHdr::from_bytes(&first);
        let mut frame = first[net_hdr::LEN..].to_vec();
        // Without mergeable buffers the field must be 1, but DPDK writes 0: whether it is right is for a test to ask.
        let mergeable = self.features & features::MRG_RXBUF != 0;
        let buffers = if mergeable { usize::from(header.num_buffers) } else { 1 };
        assert_ne!(buffers, 0, "num_buffers is at least 1");
        for number in 1..buffers {
            let next = self.rx[pair].take();
            let (head, written) =
                next.unwrap_or_else(|| panic!("buffer {number} of {buffers} is not there yet"));
            let part = self.buffer(pair, head, written);
            frame.extend(part);
        }
        if self.refill {
            self.post(buffers);
        }
        Some(Received { header, frame, pair, buffers })
    }

    /// The bytes written to a used buffer, which is spare again.
    fn buffer(&mut self, pair: usize, head: u16, written: u32) -> Vec<u8> {
        let (addr, len) = self.posted[pair].remove(&head).expect("a chain of ours");
        assert!(written <= len, "{written} bytes written to a buffer of {len}");
        self.spare[pair].push((addr, len));
        self.memory.read(addr, written as usize)
    }

    /// Waits for the next frame, asleep until the switch calls; `None` if none comes.
    #[track_caller]
    pub fn receive(&mut self, timeout: Duration) -> Option<Received> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(received) = self.poll() {
                return Some(received);
            }
            let ready = self.rx.iter_mut().fold(false, |ready, ring| ring.want_calls() | ready);
            if ready {
                continue;
            }
            let now = Instant::now();
            if now >= deadline {
                return None;
            }
            if !self.wait_calls(deadline - now)
                && self.rx.iter().any(|ring| ring.used_index() != ring.next_used)
            {
                // The frame may have come this instant; its call must follow at once.
                assert!(self.wait_calls(SILENCE), "a frame lies in the ring, but the guest was never called");
            }
            self.drain_calls();
        }
    }

    /// Receives exactly this frame next, with its checksums complete or vouched for.
    #[track_caller]
    pub fn expect(&mut self, frame: &[u8]) -> Received {
        let received = self.expect_some();
        assert_same(&received.frame, frame);
        received
    }

    /// Receives a frame, whatever it is.
    #[track_caller]
    pub fn expect_some(&mut self) -> Received {
        match self.receive(PATIENCE) {
            Some(received) => received,
            None => panic!("no frame came within {PATIENCE:?}"),
        }
    }

    /// Receives nothing for a while.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        if let Some(received) = self.receive(SILENCE) {
            panic!("a frame of {} bytes came: {:02x?}", received.frame.len(), head(&received.frame));
        }
    }

    /// Receives all frames until none comes for a while.
    pub fn receive_all(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.receive(SILENCE)).collect()
    }

    /// Sleeps until a ring is called; false if none was.
    fn wait_calls(&self, timeout: Duration) -> bool {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).max(1);
        let mut events = [EpollEvent::default(); 8];
        self.calls.wait(millis, &mut events).is_ok_and(|n| n > 0)
    }

    fn drain_calls(&self) {
        for ring in self.rx.iter().chain(&self.tx) {
            ring.calls();
        }
    }
}

/// Compares frames and says where they differ.
#[track_caller]
pub fn assert_same(got: &[u8], want: &[u8]) {
    if got != want {
        let at = got.iter().zip(want).position(|(a, b)| a != b).unwrap_or(got.len().min(want.len()));
        let (got_len, want_len) = (got.len(), want.len());
        let window = |bytes: &[u8]| head(&bytes[at.min(bytes.len())..]).to_vec();
        panic!(
            "frame of {got_len} bytes, expected {want_len}; from byte {at}: got {:02x?}, expected {:02x?}",
            window(got),
            window(want)
        );
    }
}

fn head(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(64)]
}
