//! An uplink over `AF_XDP`: everything that an Ethernet interface with one queue receives, before the host's own network stack, which gets
//! nothing of it any more.
//!
//! Frames lie in memory that the kernel knows ([`umem`]), and their places pass through rings ([`ring`]): receiving is no system call at all, and
//! sending one for a whole burst. The kernel does nothing else for such a frame: checksums are completed and segments cut here, VLAN tags
//! are where they are on the wire, and an interface that would take them off is told not to.
//!
//! Invariants: a chunk for received frames is always in a ring (the frame is copied to the burst, and the chunk goes back at once); a chunk to
//! send from is free, or in the ring, or on its way. What was put into the ring of frames to be sent is sent, if late: it cannot be taken back.
//!
//! A process that takes the link over gets the sockets, the attachment of the program, the memory, and the numbers of the free chunks: what
//! arrives meanwhile waits in the ring, and no frame is lost. When the last process that has the descriptors ends, however that happens, the
//! kernel detaches the program and the interface is the host's again.
//!
//! Threading: the receiving half has a lock that only one thread wants at a time, the sending half one that is taken once for a burst and held
//! while the kernel sends it, as the kernel's own would be.

mod program;
mod receive;
mod ring;
mod send;
mod socket;
mod umem;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vswitch::Mac;

use self::receive::Receiver;
use self::send::Sender;
use self::socket::Rings;
use self::umem::{RECEIVE, SEND, Umem};
use super::burst::{ETHERNET_HEADER, LinkBurst, VLAN_TAG};
use super::device::Device;
use super::error::LinkError;
use super::interface;
use super::outbox::Outbox;
use super::{LINK_HEADER, Link, LinkOffloads, LinkText, Piece, ReceiveDrops, Sent};

/// Bytes of a chunk that the kernel does not receive into (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;
/// Bytes of a frame beside what the MTU counts: with two VLAN tags.
const BESIDE: usize = ETHERNET_HEADER + 2 * VLAN_TAG;

/// Largest MTU, in bytes, of an interface that can be driven so.
pub const MAX_MTU: u32 = (4096 - HEADROOM - BESIDE) as u32;

/// What another process needs beside the descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpText {
    /// Bytes of a chunk.
    pub chunk: usize,
    /// Chunks from which nothing is being sent.
    pub free: Vec<u32>,
    /// Whether the program is in the interface's driver.
    pub native: bool,
    /// Whether the kernel copies nothing.
    pub zero_copy: bool,
}

/// An interface of the host, open as an uplink that the host's own stack has no part in.
#[derive(Debug)]
pub struct Xdp {
    device: Device,
    // Dropped before the socket: from then on frames are the host's.
    attachment: OwnedFd,
    socket: OwnedFd,
    umem: Umem,
    receiver: Mutex<Receiver>,
    sender: Mutex<Sender>,
    native: bool,
    zero_copy: bool,
    /// The kernel said that the interface is down; what is sent then would only wait.
    down: AtomicBool,
    /// Not all that was to be sent could be; the kernel must be asked again.
    stuck: AtomicBool,
    /// How often in a row nothing had come; 0 = the descriptor has fired since.
    fruitless: AtomicU32,
    malformed: AtomicU64,
}

impl Xdp {
    /// Takes over what an Ethernet interface of this network namespace receives. It may be down: then nothing passes until it is up.
    pub fn open(interface: &str) -> Result<Self, LinkError> {
        let device = Device::open(interface)?;
        let (name, index) = (&device.name, device.index);
        let failed = |what| move |source: io::Error| LinkError::xdp(name, what, source);
        let Some(chunk) = chunk_for(device.mtu()) else {
            return Err(LinkError::XdpMtu { interface: name.clone(), mtu: device.mtu(), most: MAX_MTU });
        };
        let queues = interface::receive_queues(device.socket.as_fd(), name);
        if queues > 1 {
            return Err(LinkError::XdpQueues { interface: name.clone(), queues });
        }
        device.bind(0)?;

        let umem = Umem::new(chunk).map_err(failed("make memory for frames"))?;
        let socket = socket::open(&umem).map_err(failed("open an AF_XDP socket"))?;
        let mut rings = socket::rings(&socket).map_err(failed("map the rings of an AF_XDP socket"))?;
        let zero_copy = socket::bind(&socket, index).map_err(failed("bind an AF_XDP socket"))?;
        let program = program::load(&socket).map_err(failed("load an XDP program"))?;
        for number in 0..RECEIVE {
            rings.fill.put(umem.address(number));
        }
        rings.fill.publish();
        interface::leave_tags(device.socket.as_fd(), name)
            .map_err(|source| LinkError::XdpTags { interface: name.clone(), source })?;
        let (attachment, native) =
            program::attach(&program, index).map_err(failed("attach an XDP program"))?;
        let text = XdpText { chunk, free: (RECEIVE..RECEIVE + SEND).collect(), native, zero_copy };
        Ok(Self::over(device, attachment, socket, umem, rings, text))
    }

    /// Goes on with what another process had open; `descriptors` and `text` as it said.
    pub fn adopt(text: &LinkText, descriptors: Vec<OwnedFd>) -> Result<Self, LinkError> {
        let wrong = |source: io::Error| {
            let name = interface::interface_name(&text.interface).unwrap_or_else(|_| "?".into());
            LinkError::system(&name, "take over the AF_XDP socket", source)
        };
        let invalid = || wrong(io::ErrorKind::InvalidData.into());
        let [socket, attachment, memory, packets] =
            <[OwnedFd; 4]>::try_from(descriptors).map_err(|_| invalid())?;
        let mut xdp = text.xdp.clone().ok_or_else(invalid)?;
        xdp.free.sort_unstable();
        xdp.free.dedup();
        xdp.free.retain(|number| (RECEIVE..RECEIVE + SEND).contains(number));
        let device = Device::adopt(text, packets)?;
        let umem = Umem::map(memory, xdp.chunk).map_err(wrong)?;
        let rings = socket::rings(&socket).map_err(wrong)?;
        Ok(Self::over(device, attachment, socket, umem, rings, xdp))
    }

    fn over(
        device: Device,
        attachment: OwnedFd,
        socket: OwnedFd,
        umem: Umem,
        rings: Rings,
        text: XdpText,
    ) -> Self {
        let Rings { fill, receive, send, done } = rings;
        Self {
            device,
            attachment,
            socket,
            umem,
            receiver: Mutex::new(Receiver { ring: receive, fill }),
            sender: Mutex::new(Sender::new(send, done, text.free)),
            native: text.native,
            zero_copy: text.zero_copy,
            down: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            fruitless: AtomicU32::new(0),
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

    /// Whether this link has made the interface promiscuous, because it was asked to or because the filter could not take the addresses.
    pub fn is_promiscuous(&self) -> bool {
        self.device.is_promiscuous()
    }
}

/// Bytes of a chunk in which every frame of an interface with this MTU has room.
fn chunk_for(mtu: u32) -> Option<usize> {
    [2048, 4096].into_iter().find(|chunk| mtu as usize + HEADROOM + BESIDE <= *chunk)
}

impl Link for Xdp {
    fn name(&self) -> &str {
        &self.device.name
    }

    fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
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

    /// Everything, although the kernel does nothing of it: it is done here.
    fn offloads(&self) -> LinkOffloads {
        LinkOffloads::ALL
    }

    fn set_addresses(&self, unicast: &[Mac], promiscuous: bool) -> Result<(), LinkError> {
        self.device.set_addresses(unicast, promiscuous)
    }

    fn is_up(&self) -> bool {
        let flags = self.device.flags();
        self.look_whether_down(flags.unwrap_or(0));
        self.send_rest();
        Device::is_up(flags)
    }

    fn is_gone(&self) -> bool {
        self.device.is_gone()
    }

    fn receive_drops(&self) -> ReceiveDrops {
        let malformed = self.malformed.load(Ordering::Relaxed);
        let Ok(counted) = socket::statistics(&self.socket) else {
            return ReceiveDrops { malformed, ..ReceiveDrops::default() };
        };
        // What found no chunk is counted twice, what was too long for one only among those that were dropped.
        let no_chunk = counted.rx_fill_ring_empty_descs.min(counted.rx_dropped);
        ReceiveDrops {
            overrun: counted.rx_ring_full + no_chunk,
            too_long: counted.rx_dropped - no_chunk,
            malformed,
        }
    }

    fn to_parts(&self) -> (LinkText, Vec<BorrowedFd<'_>>) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let xdp = XdpText {
            chunk: self.umem.chunk,
            free: sender.free.clone(),
            native: self.native,
            zero_copy: self.zero_copy,
        };
        let text = LinkText { xdp: Some(xdp), ..self.device.to_text() };
        // The socket first: whoever does not know this kind of link finds no packet socket there, and refuses it.
        let descriptors = [&self.socket, &self.attachment, &self.umem.file, &self.device.socket];
        (text, descriptors.map(AsFd::as_fd).into())
    }

    fn mode(&self) -> Option<String> {
        let place = if self.native { "native" } else { "generic" };
        let way = if self.zero_copy { "zero-copy" } else { "copy" };
        Some(format!("{place}, {way}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_an_mtu_that_is_accepted_has_room_in_a_chunk() {
        assert_eq!((chunk_for(1500), chunk_for(1770), chunk_for(1771)), (Some(2048), Some(2048), Some(4096)));
        assert_eq!((chunk_for(MAX_MTU), chunk_for(MAX_MTU + 1), chunk_for(9000)), (Some(4096), None, None));
        assert_eq!(MAX_MTU, 3818);
    }
}
