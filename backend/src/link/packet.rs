//! An uplink over `AF_PACKET`: any Ethernet interface, without taking it from the host's own network stack.
//!
//! Received frames come in a ring of memory that the kernel fills ([`ring`]). The kernel takes the outer VLAN tag off on reception; it is
//! put back here, so that the switch sees the frame as it was on the wire. What the host itself sends through the interface is not seen.
//! Frames are sent many in one system call, datagrams of one tunnel many in one frame (`bundle`).
//!
//! Threading: one lock guards the set of addresses, another the place in the ring, which only one thread wants at a time.

mod bundle;
mod receive;
pub mod ring;
mod send;

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vswitch::Mac;

use self::ring::Ring;
use super::burst::LinkBurst;
use super::error::LinkError;
use super::interface::{self, check};
use super::outbox::Outbox;
use super::{LINK_HEADER, Link, LinkOffloads, LinkText, Piece, ReceiveDrops, Sent};

/// Bytes of the virtio-net header that the socket uses (`virtio_net_hdr`, without `num_buffers`).
const SOCKET_HEADER: usize = 10;

/// Most unicast addresses given to the interface's filter; with more it is made promiscuous.
pub const MAX_UNICAST: usize = 64;

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

/// What the socket has asked of the interface's receive filter.
#[derive(Debug, Default)]
struct Membership {
    unicast: Vec<Mac>,
    promiscuous: bool,
}

/// An interface of the host, open as an uplink.
#[derive(Debug)]
pub struct Packet {
    socket: OwnedFd,
    /// Where received frames come, unless the kernel has no memory for it: then they come through the socket.
    ring: Option<Ring>,
    name: Arc<str>,
    index: libc::c_int,
    mac: Mac,
    /// Follows the interface's MTU each time `is_up` looks.
    mtu: AtomicU32,
    membership: Mutex<Membership>,
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
        let name = interface::interface_name(interface)?;
        let failed = |what| {
            let name = name.clone();
            move |source: io::Error| LinkError::system(&name, what, source)
        };
        let index =
            interface::index_of(&name).ok_or_else(|| LinkError::Missing { interface: name.clone() })?;

        // Protocol 0: nothing is received before the socket is bound to its interface, all options set.
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })
            .map_err(failed("open a packet socket"))?;
        // SAFETY: a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };

        let (hardware, mac) =
            interface::hardware(socket.as_fd(), &name).map_err(failed("read the MAC address"))?;
        if hardware != libc::ARPHRD_ETHER {
            return Err(LinkError::NotEthernet { interface: name, hardware });
        }
        let mtu = interface::mtu(socket.as_fd(), &name).map_err(failed("read the MTU"))?;

        for (option, what) in [
            (libc::PACKET_VNET_HDR, "have offload headers (PACKET_VNET_HDR)"),
            (libc::PACKET_AUXDATA, "have VLAN tags (PACKET_AUXDATA)"),
            (
                libc::PACKET_IGNORE_OUTGOING,
                "leave out the host's own frames (PACKET_IGNORE_OUTGOING, Linux 4.20)",
            ),
        ] {
            set_option(&socket, libc::SOL_PACKET, option, &1_i32).map_err(failed(what))?;
        }
        // Beyond the administrator's limit if we may, else as far as that goes.
        for (force, option, size, what) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER, "enlarge the receive buffer"),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER, "enlarge the send buffer"),
        ] {
            set_option(&socket, libc::SOL_SOCKET, force, &size)
                .or_else(|_| set_option(&socket, libc::SOL_SOCKET, option, &size))
                .map_err(failed(what))?;
        }

        let ring = match Ring::new(&socket, mtu) {
            Ok(ring) => Some(ring),
            Err(error) => {
                log::warn!("interface '{name}': no ring for received frames ({error}); receiving is slower");
                None
            }
        };

        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: a whole `sockaddr_ll` of the given size, which outlives the call.
        check(unsafe {
            let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
        })
        .map_err(failed("bind a packet socket"))?;

        let packet = Self {
            socket,
            ring,
            name: name.clone(),
            index,
            mac,
            mtu: AtomicU32::new(mtu),
            membership: Mutex::default(),
            bundles: AtomicBool::new(true),
            went_down: AtomicBool::new(false),
            fruitless: AtomicU32::new(0),
            overrun: AtomicU64::new(0),
            too_long: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        };
        packet
            .member(libc::PACKET_ADD_MEMBERSHIP, libc::PACKET_MR_ALLMULTI, None)
            .map_err(failed("receive all group addresses (PACKET_MR_ALLMULTI)"))?;
        Ok(packet)
    }

    /// Goes on with a socket that another process had open.
    pub fn adopt(text: LinkText, socket: OwnedFd) -> Result<Self, LinkError> {
        let name = interface::interface_name(&text.interface)?;
        let failed = |source| LinkError::system(&name, "take over the packet socket", source);
        let index = bound_index(&socket).map_err(failed)?;
        let mac = text.mac.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let membership = Membership { unicast: text.unicast, promiscuous: text.promiscuous };
        let ring = text.ring.map(|ring| Ring::map(&socket, ring)).transpose().map_err(failed)?;
        Ok(Self {
            socket,
            ring,
            name: name.clone(),
            index,
            mac,
            mtu: AtomicU32::new(text.mtu),
            membership: Mutex::new(membership),
            bundles: AtomicBool::new(true),
            went_down: AtomicBool::new(false),
            fruitless: AtomicU32::new(0),
            overrun: AtomicU64::new(0),
            too_long: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        })
    }

    /// The interface's own address when it was opened.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The interface's MTU in bytes, as last seen by `open` or `is_up`.
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Whether this link has made the interface promiscuous, because it was asked to or because the filter could not
    /// take the addresses.
    pub fn is_promiscuous(&self) -> bool {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner).promiscuous
    }

    fn member(&self, action: libc::c_int, kind: libc::c_int, mac: Option<Mac>) -> io::Result<()> {
        let mut request = libc::packet_mreq {
            mr_ifindex: self.index,
            mr_type: kind as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        if let Some(mac) = mac {
            request.mr_alen = mac.0.len() as libc::c_ushort;
            request.mr_address[..mac.0.len()].copy_from_slice(&mac.0);
        }
        set_option(&self.socket, libc::SOL_PACKET, action, &request)
    }

    fn gone(&self) -> LinkError {
        LinkError::Gone { interface: self.name.clone() }
    }
}

/// The interface that a packet socket is bound to; the kernel makes it -1 when that is gone.
fn bound_index(socket: &OwnedFd) -> io::Result<libc::c_int> {
    let mut address = MaybeUninit::<libc::sockaddr_ll>::zeroed();
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: room for a whole `sockaddr_ll`, and `length` says so.
    check(unsafe { libc::getsockname(socket.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut length) })?;
    // SAFETY: all zeroes is a valid `sockaddr_ll`, and the kernel only wrote integers.
    let address = unsafe { address.assume_init() };
    if i32::from(address.sll_family) == libc::AF_PACKET {
        Ok(address.sll_ifindex)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// `setsockopt` with a plain value.
fn set_option<T: Copy>(
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
        &self.name
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

    fn offloads(&self) -> LinkOffloads {
        LinkOffloads::ALL
    }

    /// Up to [`MAX_UNICAST`] addresses go to the interface's filter; with more, or when the interface refuses one,
    /// it is made promiscuous instead.
    fn set_addresses(&self, unicast: &[Mac], promiscuous: bool) -> Result<(), LinkError> {
        let mut present = self.membership.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_gone() {
            return Err(self.gone());
        }
        let mut wanted: Vec<Mac> =
            unicast.iter().copied().filter(|m| m.is_valid_source() && *m != self.mac).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut everything = promiscuous;
        if wanted.len() > MAX_UNICAST {
            everything = true;
            wanted.clear();
        }
        // What is added comes first and what is left out last, so that no frame is missed in between.
        for &mac in &wanted {
            if present.unicast.contains(&mac) {
                continue;
            }
            match self.member(libc::PACKET_ADD_MEMBERSHIP, libc::PACKET_MR_UNICAST, Some(mac)) {
                Ok(()) => present.unicast.push(mac),
                Err(error) => {
                    log::info!(
                        "interface '{}': does not filter for {mac} ({error}); made promiscuous",
                        self.name
                    );
                    everything = true;
                }
            }
        }
        if everything != present.promiscuous {
            let action = if everything { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
            self.member(action, libc::PACKET_MR_PROMISC, None)
                .map_err(|e| LinkError::system(&self.name, "change promiscuous mode", e))?;
            present.promiscuous = everything;
        }
        present.unicast.retain(|mac| {
            wanted.contains(mac)
                || self.member(libc::PACKET_DROP_MEMBERSHIP, libc::PACKET_MR_UNICAST, Some(*mac)).is_err()
        });
        Ok(())
    }

    fn is_up(&self) -> bool {
        if self.is_gone() {
            return false;
        }
        let Ok((flags, mtu)) = interface::flags_and_mtu_of(self.socket.as_fd(), self.index) else {
            return false;
        };
        self.mtu.store(mtu, Ordering::Relaxed);
        let up = libc::IFF_UP | libc::IFF_RUNNING;
        let is_up = flags & up == up;
        if is_up {
            self.went_down.store(false, Ordering::Relaxed);
            // What is left of having been down would be said to the next frame that is sent.
            let _ = rustix::net::sockopt::socket_error(&self.socket);
        }
        is_up
    }

    /// Asks the socket: the kernel takes the interface away from it.
    fn is_gone(&self) -> bool {
        bound_index(&self.socket).is_ok_and(|index| index != self.index)
    }

    fn to_parts(&self) -> (LinkText, BorrowedFd<'_>) {
        let membership = self.membership.lock().unwrap_or_else(PoisonError::into_inner);
        let text = LinkText {
            interface: self.name.to_string(),
            mac: Some(self.mac),
            mtu: self.mtu(),
            unicast: membership.unicast.clone(),
            promiscuous: membership.promiscuous,
            ring: self.ring.as_ref().map(Ring::to_text),
        };
        (text, self.socket.as_fd())
    }

    fn receive_drops(&self) -> ReceiveDrops {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: room for a whole `tpacket_stats`, and `length` says so.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
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
