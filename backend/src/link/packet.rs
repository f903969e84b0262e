//! An uplink over `AF_PACKET`: any Ethernet interface, without taking it from the host's own network stack.
//!
//! Received frames come in bursts (`recvmmsg`). The kernel takes the outer VLAN tag off on reception; it is put back
//! here, so that the switch sees the frame as it was on the wire. What the host itself sends through the interface is
//! not seen.
//!
//! Threading: the lock guards the set of addresses only.

mod bundle;
pub mod ring;
mod send;

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vswitch::Mac;

use self::ring::Ring;
use super::burst::{BURST, ETHERNET_HEADER, FRAME_AT, LinkBurst, MAX_FRAME, VLAN_TAG};
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

/// Room for one control message with `tpacket_auxdata` (40 bytes), aligned as the kernel wants it.
type Control = [u64; 8];

/// virtio-net header: the checksum is to be completed.
const NEEDS_CSUM: u8 = 1;
/// Offsets in the virtio-net header.
const FLAGS: usize = 0;
const GSO_TYPE: usize = 1;
const HDR_LEN: usize = 2;
const GSO_SIZE: usize = 4;
const CSUM_START: usize = 6;

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

    /// Takes messages from the socket into the burst's free slots; `Ok(None)` if none could be had, otherwise whether all slots that were
    /// offered are filled.
    fn receive_messages(&self, burst: &mut LinkBurst, most: usize) -> io::Result<Option<bool>> {
        let mut headers = [[0_u8; SOCKET_HEADER]; BURST];
        let mut controls = [const { MaybeUninit::<Control>::uninit() }; BURST];
        let mut vectors = [[const { MaybeUninit::<libc::iovec>::uninit() }; 2]; BURST];
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BURST];
        let mut offered = 0;
        let (first, slots) = burst.free();
        for ((((slot, header), control), vector), message) in
            slots.take(most).zip(&mut headers).zip(&mut controls).zip(&mut vectors).zip(&mut messages)
        {
            let frame = &mut slot[FRAME_AT..FRAME_AT + MAX_FRAME];
            vector[0].write(libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() });
            vector[1].write(libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() });
            // SAFETY: all zeroes is a valid `mmsghdr`: integers and null pointers.
            let message = message.write(unsafe { MaybeUninit::zeroed().assume_init() });
            message.msg_hdr.msg_iov = vector.as_mut_ptr().cast();
            message.msg_hdr.msg_iovlen = vector.len();
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of::<Control>();
            offered += 1;
        }
        // SAFETY: `offered` messages, whose vectors are written above and whose control buffers the kernel only writes; all lie in arrays that
        // outlive the call, are not moved before the last use of `messages`, and are borrowed by nobody else meanwhile.
        let received = check(unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                offered as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        })?;
        let received = received as usize;
        // SAFETY: the first `offered` messages are written, and the kernel filled in no more than those.
        let messages =
            unsafe { std::slice::from_raw_parts(messages.as_ptr().cast::<libc::mmsghdr>(), received) };
        burst.filled(received, offered);
        for ((number, message), socket_header) in messages.iter().enumerate().zip(&headers) {
            let index = first + number;
            let mut header = [0; LINK_HEADER];
            header[..SOCKET_HEADER].copy_from_slice(socket_header);
            let length = (message.msg_len as usize).saturating_sub(SOCKET_HEADER);
            let whole = message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            self.arrived(burst, index, header, length, whole, stripped_tag(&message.msg_hdr));
        }
        Ok((received > 0).then_some(received == offered))
    }
}

impl Packet {
    /// Takes note of a frame of which `length` bytes are in slot `index` of the burst.
    fn arrived(
        &self,
        burst: &mut LinkBurst,
        index: usize,
        mut header: [u8; LINK_HEADER],
        mut length: usize,
        whole: bool,
        tag: Option<[u16; 2]>,
    ) {
        if !whole {
            self.too_long.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut start = FRAME_AT;
        let mut sound = length >= ETHERNET_HEADER;
        if sound && let Some(tag) = tag {
            (start, length) = (start - VLAN_TAG, length + VLAN_TAG);
            put_tag_back(&mut burst.slot(index)[start..], &mut header, tag);
        }
        sound = sound && burst.push(index, start, length, header);
        if !sound {
            self.malformed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks the socket for its error, which a ring does not tell: when it woke somebody, and when nothing comes. Whoever polls without a pause
    /// does not pay for a system call each time.
    fn look_for_error(&self, burst: &LinkBurst) -> io::Result<Option<bool>> {
        let before = self.fruitless.load(Ordering::Relaxed);
        let nothing = burst.count() == 0;
        self.fruitless.store(if nothing { before.wrapping_add(1) } else { 1 }, Ordering::Relaxed);
        if before == 0 || (nothing && (before < 16 || before.is_multiple_of(256))) {
            rustix::net::sockopt::socket_error(&self.socket)?.map_err(io::Error::from)?;
            if nothing {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
        }
        Ok(None)
    }

    /// Takes frames from the ring into the burst's free slots, and those that are too long for it from the socket.
    fn receive_from(&self, ring: &Ring, burst: &mut LinkBurst) -> io::Result<()> {
        let mut result = Ok(());
        ring.each(|place| {
            if place.in_socket {
                match self.receive_messages(burst, 1) {
                    Ok(_) => {}
                    Err(error) => result = Err(error),
                }
            } else if let Some(index) = burst.next_free() {
                let mut header = [0; LINK_HEADER];
                header[..SOCKET_HEADER].copy_from_slice(&place.header);
                let length = place.bytes.len();
                burst.slot(index)[FRAME_AT..FRAME_AT + length].copy_from_slice(place.bytes);
                burst.filled(1, BURST);
                // Cut off: the socket's buffer was full of others that wait there.
                if length < place.len {
                    self.overrun.fetch_add(1, Ordering::Relaxed);
                } else {
                    self.arrived(burst, index, header, length, true, place.tag);
                }
            }
            result.is_ok() && !burst.is_full()
        });
        result
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

/// The VLAN tag (TPID, TCI) that the kernel took off a received frame.
fn stripped_tag(message: &libc::msghdr) -> Option<[u16; 2]> {
    // SAFETY: the kernel filled in the control buffer and its length; the buffer is alive and aligned for `cmsghdr`.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !control.is_null() {
        // SAFETY: not null, so it points to a whole header within the control buffer.
        let header = unsafe { *control };
        // SAFETY: the macro's length arithmetic; no pointers.
        let whole = unsafe { libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as libc::c_uint) } as usize;
        let auxiliary = (header.cmsg_level, header.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA);
        if auxiliary && header.cmsg_len >= whole {
            // SAFETY: the message's data is a whole `tpacket_auxdata`, of integers only; read without alignment.
            let data = unsafe { libc::CMSG_DATA(control).cast::<libc::tpacket_auxdata>().read_unaligned() };
            if data.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
                return None;
            }
            let known = data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let protocol = if known { data.tp_vlan_tpid } else { libc::ETH_P_8021Q as u16 };
            return Some([protocol, data.tp_vlan_tci]);
        }
        // SAFETY: both belong to the same message.
        control = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
    None
}

/// Makes of a frame, which begins behind room for a tag, one with the tag, and moves the offsets of its offload header.
fn put_tag_back(slot: &mut [u8], header: &mut [u8; LINK_HEADER], tag: [u16; 2]) {
    let addresses = 12;
    let checksum = header[FLAGS] & NEEDS_CSUM != 0;
    let segmented = header[GSO_TYPE] != 0;
    slot.copy_within(VLAN_TAG..VLAN_TAG + addresses, 0);
    slot[addresses..addresses + 2].copy_from_slice(&tag[0].to_be_bytes());
    slot[addresses + 2..addresses + 4].copy_from_slice(&tag[1].to_be_bytes());
    let mut shift = |at: usize| {
        let value = u16::from_le_bytes([header[at], header[at + 1]]).saturating_add(VLAN_TAG as u16);
        header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    };
    if checksum {
        shift(CSUM_START);
    }
    if segmented {
        shift(HDR_LEN);
    }
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
        // Again while more may wait, or when nothing of what came was fit to be delivered, so that 0 means that nothing waits; not for ever,
        // so that such frames cannot hold a worker. The descriptor stays readable.
        for _ in 0..8 {
            if !burst.take_in() || (burst.is_full() && burst.count() > 0) {
                break;
            }
            if burst.is_full() {
                burst.clear();
            }
            let received = match &self.ring {
                Some(ring) => self.receive_from(ring, burst).and_then(|()| self.look_for_error(burst)),
                None => self.receive_messages(burst, BURST),
            };
            match received {
                Ok(None) => break,
                Ok(Some(all)) if !all && burst.count() > 0 => break,
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => {
                        if self.went_down.load(Ordering::Relaxed) && self.is_gone() {
                            return Err(self.gone());
                        }
                        break;
                    }
                    // A frame of an offload kind that the header cannot describe; the kernel has dropped it.
                    Some(libc::EINVAL) => {
                        self.malformed.fetch_add(1, Ordering::Relaxed);
                    }
                    // Said once. Frames may still wait from before.
                    Some(libc::ENETDOWN) => self.went_down.store(true, Ordering::Relaxed),
                    Some(libc::ENXIO | libc::ENODEV) => return Err(self.gone()),
                    _ => return Err(LinkError::system(&self.name, "receive", error)),
                },
            }
        }
        Ok(burst.count())
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
