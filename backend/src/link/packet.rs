//! An uplink over `AF_PACKET`: any Ethernet interface, without taking it from the host's own network stack.
//!
//! Received frames come in a ring of memory that the kernel fills ([`ring`]). The kernel takes the outer VLAN tag off on reception; it is
//! put back here, so that the switch sees the frame as it was on the wire. What the host itself sends through the interface is not seen.
//! Frames are sent many in one system call, datagrams of one tunnel many in one frame (`bundle`).
//!
//! Threading: one lock guards the set of addresses ([`super::device`]), another the place in the ring, which only one thread wants at a time.

mod bundle;
mod receive;
pub mod ring;
mod send;

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use vswitch::Mac;

use self::ring::Ring;
use super::burst::LinkBurst;
use super::device::Device;
pub use super::device::MAX_UNICAST;
use super::error::LinkError;
use super::interface::check;
use super::outbox::Outbox;
use super::{LINK_HEADER, Link, LinkOffloads, LinkText, Piece, ReceiveDrops, Sent};

/// Bytes of the virtio-net header that the socket uses (`virtio_net_hdr`, without `num_buffers`).
const SOCKET_HEADER: usize = 10;

/// Bytes asked for as receive buffer: some thousand full frames, a few milliseconds at 10 Gbit/s.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;

/// Bytes asked for as send buffer: some ten frames of the largest size on their way, then back pressure.
const SEND_BUFFER: libc::c_int = 1 << 20;

/// virtio-net header: the checksum is to be completed.
const NEEDS_CSUM: u8 = 1;
/// Offsets in the virtio-net header.
const FLAGS: usize = 0;
const GSO_TYPE: usize = 1;
const GSO_SIZE: usize = 4;

/// An interface of the host, open as an uplink.
#[derive(Debug)]
pub struct Packet {
    device: Device,
    /// Where received frames come, unless the kernel has no memory for it: then they come through the socket.
    ring: Option<Ring>,
    /// Whether the kernel takes many datagrams in one frame, as far as is known.
    bundles: AtomicBool,
    /// The kernel said that the interface went down; it does not say when the interface is deleted afterwards.
    went_down: AtomicBool,
    /// How often in a row nothing had come; 0 = the descriptor has fired since.
    fruitless: AtomicU32,
    overrun: AtomicU64,
    too_long: AtomicU64,
    malformed: AtomicU64,
}

impl Packet {
    /// Opens an Ethernet interface of this network namespace. It may be down: then nothing passes until it is up.
    pub fn open(interface: &str) -> Result<Self, LinkError> {
        let device = Device::open(interface)?;
        let (socket, name) = (&device.socket, &device.name);
        let failed = |what| move |source: io::Error| LinkError::system(name, what, source);

        for (option, what) in [
            (libc::PACKET_VNET_HDR, "have offload headers (PACKET_VNET_HDR)"),
            (libc::PACKET_AUXDATA, "have VLAN tags (PACKET_AUXDATA)"),
            (
                libc::PACKET_IGNORE_OUTGOING,
                "leave out the host's own frames (PACKET_IGNORE_OUTGOING, Linux 4.20)",
            ),
        ] {
            set_option(socket, libc::SOL_PACKET, option, &1_i32).map_err(failed(what))?;
        }
        // Beyond the administrator's limit if we may, else as far as that goes.
        for (force, option, size, what) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER, "enlarge the receive buffer"),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER, "enlarge the send buffer"),
        ] {
            set_option(socket, libc::SOL_SOCKET, force, &size)
                .or_else(|_| set_option(socket, libc::SOL_SOCKET, option, &size))
                .map_err(failed(what))?;
        }

        let ring = match Ring::new(socket, device.mtu()) {
            Ok(ring) => Some(ring),
            Err(error) => {
                log::warn!("interface '{name}': no ring for received frames ({error}); receiving is slower");
                None
            }
        };

        device.bind(libc::ETH_P_ALL as u16)?;
        Ok(Self::over(device, ring))
    }

    /// Goes on with a socket that another process had open.
    pub fn adopt(text: &LinkText, socket: OwnedFd) -> Result<Self, LinkError> {
        let device = Device::adopt(text, socket)?;
        let ring = text.ring.map(|ring| Ring::map(&device.socket, ring)).transpose();
        let ring = ring.map_err(|e| LinkError::system(&device.name, "take over the packet socket", e))?;
        Ok(Self::over(device, ring))
    }

    fn over(device: Device, ring: Option<Ring>) -> Self {
        Self {
            device,
            ring,
            bundles: AtomicBool::new(true),
            went_down: AtomicBool::new(false),
            fruitless: AtomicU32::new(0),
            overrun: AtomicU64::new(0),
            too_long: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        }
    }

    /// The interface's own address when it was opened.
    pub fn mac(&self) -> Mac {
        self.device.mac
    }

    /// The interface's MTU in bytes, as last seen by `open` or `is_up`.
    pub fn mtu(&self) -> u32 {
        self.device.mtu()
    }

    /// Whether this link has made the interface promiscuous, because it was asked to or because the filter could not
    /// take the addresses.
    pub fn is_promiscuous(&self) -> bool {
        self.device.is_promiscuous()
    }
}

/// `setsockopt` with a plain value.
pub(super) fn set_option<T: Copy>(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is as long as said and outlives the call; the kernel only reads it.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length)
    })
    .map(drop)
}

impl Link for Packet {
    fn name(&self) -> &str {
        &self.device.name
    }

    fn raw_fd(&self) -> RawFd {
        self.device.socket.as_raw_fd()
    }

    fn woken(&self) {
        self.fruitless.store(0, Ordering::Relaxed);
    }

    fn receive_more(&self, burst: &mut LinkBurst) -> Result<usize, LinkError> {
        self.receive_all(burst)
    }

    fn send(&self, header: &[u8; LINK_HEADER], head: &[u8], rest: &[Piece]) -> Result<Sent, LinkError> {
        self.send_one(header, head, rest)
    }

    fn send_all(&self, outbox: &Outbox, first: usize) -> Result<usize, LinkError> {
        self.send_many(outbox, first)
    }

    fn offloads(&self) -> LinkOffloads {
        LinkOffloads::ALL
    }

    fn set_addresses(&self, unicast: &[Mac], promiscuous: bool) -> Result<(), LinkError> {
        self.device.set_addresses(unicast, promiscuous)
    }

    fn is_up(&self) -> bool {
        let is_up = Device::is_up(self.device.flags());
        if is_up {
            self.went_down.store(false, Ordering::Relaxed);
            // What is left of having been down would be said to the next frame that is sent.
            let _ = rustix::net::sockopt::socket_error(&self.device.socket);
        }
        is_up
    }

    fn is_gone(&self) -> bool {
        self.device.is_gone()
    }

    fn to_parts(&self) -> (LinkText, Vec<BorrowedFd<'_>>) {
        let text = LinkText { ring: self.ring.as_ref().map(Ring::to_text), ..self.device.to_text() };
        (text, vec![self.device.socket.as_fd()])
    }

    fn receive_drops(&self) -> ReceiveDrops {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: room for a whole `tpacket_stats`, and `length` says so.
        let result = unsafe {
            libc::getsockopt(
                self.device.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        // The kernel's count starts anew with each reading.
        let new = if result == 0 { u64::from(statistics.tp_drops) } else { 0 };
        ReceiveDrops {
            overrun: self.overrun.fetch_add(new, Ordering::Relaxed) + new,
            too_long: self.too_long.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
        }
    }
}
