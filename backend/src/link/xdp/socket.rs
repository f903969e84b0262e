//! The `AF_XDP` socket: its rings, its options, and the one system call that moves frames.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::program::patiently;
use super::ring::{Consumer, Producer, Ring};
use super::umem::{RECEIVE, SEND, Umem};
use crate::link::interface::check;
use crate::link::packet::set_option;

/// Bytes of frames on their way that the socket may have: all that there are chunks for, with what the kernel adds to each.
const SEND_BUFFER: libc::c_int = SEND as libc::c_int * 8192;
/// `XDP_MAX_TX_SKB_BUDGET`: frames that one system call sends where the kernel copies them (Linux 6.17; 32 before).
const SEND_BUDGET: libc::c_int = 9;

/// The rings of a socket.
pub(super) struct Rings {
    pub(super) fill: Producer<u64>,
    pub(super) receive: Consumer<libc::xdp_desc>,
    pub(super) send: Producer<libc::xdp_desc>,
    pub(super) done: Consumer<u64>,
}

/// A socket with the memory of `umem` and rings in which all of it has room, not bound yet.
pub(super) fn open(umem: &Umem) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_XDP, kind, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // The kernel writes to the memory only while it has chunks of it.
    set_option(&socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem.registration())?;
    for (option, count) in [
        (libc::XDP_UMEM_FILL_RING, RECEIVE),
        (libc::XDP_UMEM_COMPLETION_RING, SEND),
        (libc::XDP_RX_RING, RECEIVE),
        (libc::XDP_TX_RING, SEND),
    ] {
        set_option(&socket, libc::SOL_XDP, option, &count)?;
    }
    // An older kernel does with more system calls.
    let _ = set_option(&socket, libc::SOL_XDP, SEND_BUDGET, &SEND);
    set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER)
        .or_else(|_| set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER))?;
    Ok(socket)
}

/// Binds the socket to queue 0 of an interface: without copies where its driver can, else with them. Says whether it is without.
pub(super) fn bind(socket: &OwnedFd, interface: libc::c_int) -> io::Result<bool> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as libc::c_ushort,
        sxdp_flags: libc::XDP_USE_NEED_WAKEUP,
        sxdp_ifindex: interface as u32,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    patiently(|| {
        // SAFETY: a whole `sockaddr_xdp` of the given size, which outlives the call.
        check(unsafe {
            let length = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
        })
    })?;
    let options: libc::xdp_options = option(socket, libc::XDP_OPTIONS)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// Maps the rings of a socket that [`open`] made, in this process or another.
pub(super) fn rings(socket: &OwnedFd) -> io::Result<Rings> {
    let offsets: libc::xdp_mmap_offsets = option(socket, libc::XDP_MMAP_OFFSETS)?;
    let (fill, done) = (libc::XDP_UMEM_PGOFF_FILL_RING, libc::XDP_UMEM_PGOFF_COMPLETION_RING);
    Ok(Rings {
        fill: Producer::new(Ring::map(socket, &offsets.fr, fill as libc::off_t, RECEIVE)?),
        receive: Consumer::new(Ring::map(socket, &offsets.rx, libc::XDP_PGOFF_RX_RING, RECEIVE)?),
        send: Producer::new(Ring::map(socket, &offsets.tx, libc::XDP_PGOFF_TX_RING, SEND)?),
        done: Consumer::new(Ring::map(socket, &offsets.cr, done as libc::off_t, SEND)?),
    })
}

/// What the kernel has counted.
pub(super) fn statistics(socket: &OwnedFd) -> io::Result<libc::xdp_statistics> {
    option(socket, libc::XDP_STATISTICS)
}

/// Makes the kernel look at the ring of frames to be sent.
pub(super) fn kick_send(socket: &OwnedFd) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: no bytes and no address.
    let sent = unsafe { libc::sendto(socket.as_raw_fd(), std::ptr::null(), 0, flags, std::ptr::null(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel look at the ring of chunks for received frames.
pub(super) fn kick_receive(socket: &OwnedFd) {
    // SAFETY: no bytes and no address. Whatever the answer: there is nothing to do about it but to come again.
    let _ = unsafe {
        let (none, nowhere) = (std::ptr::null_mut(), std::ptr::null_mut());
        libc::recvfrom(socket.as_raw_fd(), none, 0, libc::MSG_DONTWAIT, nowhere, std::ptr::null_mut())
    };
}

/// An option whose value is a structure of integers.
fn option<T: Copy>(socket: &OwnedFd, name: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: room for a whole `T`, and `length` says so.
    check(unsafe {
        let to = value.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, name, to, &raw mut length)
    })?;
    if length as usize != size_of::<T>() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: only used for structures of integers, of which all bits are valid.
    Ok(unsafe { value.assume_init() })
}
