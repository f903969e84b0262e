//! A whole guest: memory, front end, driver. Well-behaved until told otherwise.
//!
//! The handshake and everything a front end normally says goes through the `vhost` crate's front end; what that crate
//! cannot say ([`message`](crate::message)) goes over the same connection by [`Guest::channel`].
//! A guest keeps the driver's side of the bargain strictly: it kicks only when asked to and sleeps until it is called,
//! so a lost notification shows as a test that fails instead of a test that is slow.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VringConfigData};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::features::{self, protocol};
use crate::frame::Mac;
use crate::memory::Memory;
use crate::message::{self, Channel, Message};
use crate::net_hdr::{self, NetHdr};
use crate::ring::{Buffer, Ring};
use crate::switch::Switch;
use crate::{PATIENCE, SILENCE};

/// Guest address of the region with the buffers (the rings are in one at address 0).
pub const BUFFERS: u64 = 0x4000_0000;
/// Room for one frame to be sent, header included.
const TX_SLOT: u64 = 0x11000;
/// Receive buffer that takes any frame: header, 65,535 bytes of IP packet, Ethernet header and two tags.
const BIG_BUFFER: u32 = 12 + 65535 + 22;

/// How a frame to be sent is cut into descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Header and frame in one descriptor.
    Whole,
    /// A descriptor for the header, one for the frame.
    HeaderApart,
    /// Header and frame in pieces of this many bytes, wherever that cuts.
    Pieces(usize),
    /// As `HeaderApart`, in an indirect table.
    Indirect,
    /// As `Pieces`, in an indirect table.
    IndirectPieces(usize),
}

/// In what order the front end says things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Features, memory, rings, enable: cloud-hypervisor and others.
    Standard,
    /// Enables rings before any feature is set, as QEMU's vhost-user-net does.
    Qemu,
}

/// Where a ring goes on when a front end connects again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the used index (QEMU): nothing that was in flight is lost.
    Used,
    /// At the available index (cloud-hypervisor).
    Available,
}

/// What a guest is like. The default is a Linux guest with one queue pair of 256 entries.
#[derive(Clone, Debug)]
pub struct Options {
    /// virtio features it wants; it gets those that are offered.
    pub features: u64,
    /// vhost-user protocol features it wants.
    pub protocol: u64,
    /// Queue pairs it brings up.
    pub pairs: usize,
    /// Entries of each ring.
    pub ring_size: u16,
    /// Index all rings start at.
    pub first_index: u16,
    /// Length of each receive buffer, header included; `None` takes what the features call for.
    pub rx_buffer: Option<u32>,
    /// Receive buffers posted at the start; `None` fills the rings.
    pub rx_post: Option<usize>,
    /// Whether buffers are posted again as soon as their frame was read.
    pub refill: bool,
    /// How frames are cut into descriptors.
    pub shape: Shape,
    /// The order of messages.
    pub dialect: Dialect,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            features: features::LINUX,
            protocol: protocol::ALL,
            pairs: 1,
            ring_size: 256,
            first_index: 0,
            rx_buffer: None,
            rx_post: None,
            refill: true,
            shape: Shape::Whole,
            dialect: Dialect::Standard,
        }
    }
}

impl Options {
    /// Only what no ring can do without: complete checksums, no large frames, one buffer per frame.
    #[must_use]
    pub fn plain() -> Self {
        Self { features: features::BASE, ..Self::default() }
    }

    /// Wants these features too.
    #[must_use]
    pub fn with(mut self, bits: u64) -> Self {
        self.features |= bits;
        self
    }

    /// Does not want these features.
    #[must_use]
    pub fn without(mut self, bits: u64) -> Self {
        self.features &= !bits;
        self
    }

    /// Does not want these protocol features.
    #[must_use]
    pub fn without_protocol(mut self, bits: u64) -> Self {
        self.protocol &= !bits;
        self
    }

    /// Number of queue pairs.
    #[must_use]
    pub fn pairs(mut self, pairs: usize) -> Self {
        self.pairs = pairs;
        self
    }

    /// Entries of each ring.
    #[must_use]
    pub fn ring_size(mut self, size: u16) -> Self {
        self.ring_size = size;
        self
    }

    /// Index all rings start at.
    #[must_use]
    pub fn first_index(mut self, index: u16) -> Self {
        self.first_index = index;
        self
    }

    /// Length of each receive buffer, header included.
    #[must_use]
    pub fn rx_buffer(mut self, len: u32) -> Self {
        self.rx_buffer = Some(len);
        self
    }

    /// Posts only this many receive buffers and none again: the test does that with [`Guest::post`].
    #[must_use]
    pub fn post_by_hand(mut self, first: usize) -> Self {
        (self.rx_post, self.refill) = (Some(first), false);
        self
    }

    /// How frames are cut into descriptors.
    #[must_use]
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// The order of messages.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }
}

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

/// A guest with its virtual network card.
pub struct Guest {
    /// The guest's MAC address (of its port, or made up).
    pub mac: Mac,
    /// virtio features the switch offered.
    pub offered: u64,
    /// virtio features in force.
    pub features: u64,
    /// Protocol features the switch offered.
    pub protocol_offered: u64,
    /// Protocol features in force.
    pub protocol: u64,
    /// The guest's memory: region 0 holds the rings, region 1 the buffers.
    pub memory: Arc<Memory>,
    /// Rings the guest receives by, one per queue pair.
    pub rx: Vec<Ring>,
    /// Rings the guest sends by, one per queue pair.
    pub tx: Vec<Ring>,
    /// How frames are cut into descriptors.
    pub shape: Shape,
    /// Whether receive buffers are posted again.
    pub refill: bool,
    options: Options,
    vhost: Frontend,
    channel: Channel,
    /// Per receive ring: head → address and length of its buffer.
    posted: Vec<HashMap<u16, (u64, u32)>>,
    /// Per receive ring: buffers not posted.
    spare: Vec<Vec<(u64, u32)>>,
    /// Per send ring: head → slot.
    sending: Vec<HashMap<u16, u64>>,
    /// Per send ring: free slots.
    slots: Vec<Vec<u64>>,
    calls: Epoll,
}

impl Guest {
    /// Attaches to the port `name` (adding it if there is none) and waits until the switch says that it runs.
    #[must_use]
    pub fn attach(switch: &Switch, name: &str, options: Options) -> Self {
        let socket = switch.socket_of(name, options.pairs);
        let mut guest = Self::connect(&socket, options);
        guest.mac = switch.mac(name);
        switch.wait_state(name, "running");
        guest
    }

    /// Connects to a backend that listens on `socket`.
    #[must_use]
    pub fn connect(socket: &Path, options: Options) -> Self {
        let channel = Channel::connect(socket)
            .unwrap_or_else(|e| panic!("cannot connect to {}: {e}", socket.display()));
        Self::over(channel, options).unwrap_or_else(|e| panic!("handshake on {}: {e}", socket.display()))
    }

    /// Waits for a backend to connect to `listener`.
    #[must_use]
    pub fn accept(listener: &UnixListener, options: Options) -> Self {
        let channel = Channel::accept(listener).expect("the backend connects");
        Self::over(channel, options).expect("handshake")
    }

    /// Shakes hands over a connection and brings all rings up; an error means that the backend refused.
    pub fn over(channel: Channel, options: Options) -> io::Result<Self> {
        let mergeable = options.features & features::MRG_RXBUF != 0;
        let rx_buffer = u64::from(options.rx_buffer.unwrap_or(if mergeable { 2048 } else { BIG_BUFFER }));
        let size = u64::from(options.ring_size);
        let pairs = options.pairs as u64;
        let buffers = pairs * size * (rx_buffer.next_multiple_of(64) + TX_SLOT);
        let ring_room = pairs * 2 * (size * (26 + 16 * crate::ring::MAX_INDIRECT as u64) + 256) + 0x2000;
        let memory = Arc::new(Memory::new(&[
            (0, ring_room.next_multiple_of(0x1000)),
            (BUFFERS, (buffers + 0x10_0000).next_multiple_of(0x1000)),
        ]));
        let vhost = Frontend::from_stream(channel.clone_stream(), 2 * pairs);
        let mut guest = Self {
            mac: [2, 0x70, 0, 0, 0, 1],
            offered: 0,
            features: 0,
            protocol_offered: 0,
            protocol: 0,
            memory,
            rx: Vec::new(),
            tx: Vec::new(),
            shape: options.shape,
            refill: options.refill,
            options,
            vhost,
            channel,
            posted: Vec::new(),
            spare: Vec::new(),
            sending: Vec::new(),
            slots: Vec::new(),
            calls: Epoll::new()?,
        };
        guest.negotiate()?;
        guest.make_rings(rx_buffer as u32);
        let first = u32::from(guest.options.first_index);
        guest.share_memory()?;
        guest.start(&vec![first; 2 * guest.options.pairs])?;
        guest.post(guest.options.rx_post.unwrap_or(usize::from(guest.options.ring_size)));
        Ok(guest)
    }

    /// Connects anew with the same memory and rings, as a VMM does when its backend came back.
    pub fn reconnect(&mut self, socket: &Path, resume: Resume) -> io::Result<()> {
        self.channel = Channel::connect(socket)?;
        self.vhost = Frontend::from_stream(self.channel.clone_stream(), 2 * self.options.pairs as u64);
        self.negotiate()?;
        self.share_memory()?;
        let index = |ring: &Ring| match resume {
            Resume::Used => ring.used_index(),
            Resume::Available => ring.next_avail,
        };
        let bases: Vec<u32> =
            self.rx.iter().zip(&self.tx).flat_map(|(rx, tx)| [index(rx), index(tx)]).map(u32::from).collect();
        self.start(&bases)?;
        for ring in self.rx.iter_mut().chain(&mut self.tx) {
            ring.kick_anyway();
        }
        Ok(())
    }

    fn negotiate(&mut self) -> io::Result<()> {
        self.vhost.set_owner().map_err(other)?;
        self.offered = self.vhost.get_features().map_err(other)?;
        self.features = self.offered & self.options.features;
        if self.features & features::PROTOCOL_FEATURES != 0 {
            let offered = self.vhost.get_protocol_features().map_err(other)?;
            self.protocol_offered = offered.bits();
            self.protocol = offered.bits() & self.options.protocol;
            let wanted = VhostUserProtocolFeatures::from_bits_truncate(self.protocol);
            self.vhost.set_protocol_features(wanted).map_err(other)?;
            if self.protocol & protocol::REPLY_ACK != 0 {
                self.vhost.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
        }
        if self.options.dialect == Dialect::Qemu {
            for index in 0..2 * self.options.pairs as u32 {
                self.acknowledged(Message::vring(message::SET_VRING_ENABLE, index, 1))?;
            }
        }
        self.vhost.set_features(self.features).map_err(other)
    }

    fn make_rings(&mut self, rx_buffer: u32) {
        let Options { ring_size, first_index, pairs, .. } = self.options;
        let event_idx = self.features & features::EVENT_IDX != 0;
        for pair in 0..pairs as u32 {
            let make = |index| Ring::new(&self.memory, 0, index, ring_size, first_index, event_idx);
            let (rx, tx) = (make(2 * pair), make(2 * pair + 1));
            for ring in [&rx, &tx] {
                let event = EpollEvent::new(EventSet::IN, u64::from(ring.index));
                self.calls.ctl(ControlOperation::Add, ring.call.as_raw_fd(), event).expect("epoll");
            }
            self.rx.push(rx);
            self.tx.push(tx);
            self.posted.push(HashMap::new());
            self.sending.push(HashMap::new());
            let buffers = (0..ring_size).map(|_| (self.memory.alloc(u64::from(rx_buffer)), rx_buffer));
            self.spare.push(buffers.collect());
            self.slots.push((0..ring_size).map(|_| self.memory.alloc(TX_SLOT)).collect());
        }
    }

    /// Tells the switch about the memory, region by region if it can take that, otherwise as a table.
    pub fn share_memory(&mut self) -> io::Result<()> {
        let regions =
            self.memory.with_regions(|list| list.iter().map(crate::memory::Region::info).collect::<Vec<_>>());
        if self.protocol & protocol::CONFIGURE_MEM_SLOTS == 0 {
            return self.vhost.set_mem_table(&regions).map(drop).map_err(other);
        }
        self.vhost.get_max_mem_slots().map_err(other)?;
        regions.iter().try_for_each(|region| self.vhost.add_mem_region(region).map(drop).map_err(other))
    }

    /// Sets all rings up at these indices (in order of vhost-user's ring index) and enables them.
    pub fn start(&mut self, bases: &[u32]) -> io::Result<()> {
        for ring in self.rx.iter().chain(&self.tx) {
            let index = ring.index as usize;
            self.vhost.set_vring_num(index, ring.size).map_err(other)?;
            self.vhost.set_vring_base(index, bases[index] as u16).map_err(other)?;
            let addresses = VringConfigData {
                queue_max_size: ring.size,
                queue_size: ring.size,
                flags: 0,
                desc_table_addr: self.memory.user(ring.desc),
                used_ring_addr: self.memory.user(ring.used),
                avail_ring_addr: self.memory.user(ring.avail),
                log_addr: None,
            };
            self.vhost.set_vring_addr(index, &addresses).map_err(other)?;
            self.vhost.set_vring_call(index, &ring.call).map_err(other)?;
            self.vhost.set_vring_err(index, &ring.err).map_err(other)?;
            self.vhost.set_vring_kick(index, &ring.kick).map_err(other)?;
        }
        self.enable(0..self.options.pairs, true)?;
        if self.protocol & protocol::STATUS != 0 {
            self.acknowledged(Message::u64(message::SET_STATUS, 0x0f))?;
        }
        Ok(())
    }

    /// Enables or disables the rings of some queue pairs.
    pub fn enable(&mut self, pairs: std::ops::Range<usize>, on: bool) -> io::Result<()> {
        if self.features & features::PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        (2 * pairs.start..2 * pairs.end).try_for_each(|i| self.vhost.set_vring_enable(i, on).map_err(other))
    }

    /// Stops all rings and returns the indices they stopped at, in order of ring index.
    pub fn stop(&mut self) -> io::Result<Vec<u32>> {
        (0..2 * self.options.pairs).map(|index| self.vhost.get_vring_base(index).map_err(other)).collect()
    }

    /// The `vhost` crate's front end, for all it can say.
    pub fn vhost(&mut self) -> &mut Frontend {
        &mut self.vhost
    }

    /// The connection itself, for all else.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Sends a message and, if acknowledgements were negotiated, waits for a good one.
    pub fn acknowledged(&self, message: Message) -> io::Result<()> {
        if self.protocol & protocol::REPLY_ACK == 0 {
            return self.channel.send(&message);
        }
        self.channel.confirm(message)
    }

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

#[allow(clippy::needless_pass_by_value)] // so that it fits map_err
fn other(error: vhost::Error) -> io::Error {
    io::Error::other(error.to_string())
}
