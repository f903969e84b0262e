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

use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VringConfigData};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::features::{self, protocol};
use crate::frame::Mac;
use crate::memory::Memory;
use crate::message::{self, Channel, Message};
use crate::options::{Dialect, Options, Resume, Shape};
use crate::ring::Ring;
use crate::switch::Switch;

/// Guest address of the region with the buffers (the rings are in one at address 0).
pub const BUFFERS: u64 = 0x4000_0000;
/// Room for one frame to be sent, header included.
pub(crate) const TX_SLOT: u64 = 0x11000;
/// Receive buffer that takes any frame: header, 65,535 bytes of IP packet, Ethernet header and two tags.
const BIG_BUFFER: u32 = 12 + 65535 + 22;

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
    pub(crate) posted: Vec<HashMap<u16, (u64, u32)>>,
    /// Per receive ring: buffers not posted.
    pub(crate) spare: Vec<Vec<(u64, u32)>>,
    /// Per send ring: head → slot.
    pub(crate) sending: Vec<HashMap<u16, u64>>,
    /// Per send ring: free slots.
    pub(crate) slots: Vec<Vec<u64>>,
    pub(crate) calls: Epoll,
}

/// A connection to a backend.
pub struct Line {
    vhost: Frontend,
    channel: Channel,
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

    /// Attaches two guests, to the ports `a` and `b`.
    #[must_use]
    pub fn pair(switch: &Switch, a: Options, b: Options) -> (Self, Self) {
        (Self::attach(switch, "a", a), Self::attach(switch, "b", b))
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
        let rings = guest.rx.iter().zip(&guest.tx).flat_map(|(rx, tx)| [rx.next_used, tx.next_used]);
        let first: Vec<u32> = rings.map(u32::from).collect();
        guest.share_memory()?;
        guest.start(&first)?;
        guest.post(guest.options.rx_post.unwrap_or(usize::from(guest.options.ring_size)));
        Ok(guest)
    }

    /// Connects anew with the same memory and rings, as a VMM does when its backend came back.
    pub fn reconnect(&mut self, socket: &Path, resume: Resume) -> io::Result<()> {
        self.approach(socket)?;
        self.go_on(resume)
    }

    /// Connects to another backend with the same memory, up to where the rings would start. Returns the line there was, by which
    /// the backend before still has this guest.
    pub fn approach(&mut self, socket: &Path) -> io::Result<Line> {
        let channel = Channel::connect(socket)?;
        let vhost = Frontend::from_stream(channel.clone_stream(), 2 * self.options.pairs as u64);
        let before = self.take_line(Line { vhost, channel });
        self.negotiate()?;
        self.share_memory()?;
        Ok(before)
    }

    /// Takes another line to a backend into use and gives the one there was.
    pub fn take_line(&mut self, line: Line) -> Line {
        let channel = std::mem::replace(&mut self.channel, line.channel);
        Line { vhost: std::mem::replace(&mut self.vhost, line.vhost), channel }
    }

    /// Starts the rings where they stopped.
    pub fn go_on(&mut self, resume: Resume) -> io::Result<()> {
        let index = |ring: &Ring| match resume {
            // As QEMU, which knows of a packed ring only what it was told last.
            Resume::Used if ring.packed.is_some() => 1 << 15,
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
        let packed = self.features & features::RING_PACKED != 0;
        for pair in 0..pairs as u32 {
            let make = |index| {
                let ring = Ring::new(&self.memory, 0, index, ring_size, first_index, event_idx);
                if packed { ring.into_packed(self.features & features::IN_ORDER != 0) } else { ring }
            };
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
}

#[allow(clippy::needless_pass_by_value)] // so that it fits map_err
fn other(error: vhost::Error) -> io::Error {
    io::Error::other(error.to_string())
}
