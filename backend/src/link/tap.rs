//! A TAP: an interface of the host whose other end is a port of the switch.
//!
//! A TAP that did not exist lives as long as this process holds it; one that existed before stays. Its owner may move
//! it to another network namespace; the descriptor keeps working. One system call per frame in both directions:
//! the kernel offers nothing else for a TAP.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vswitch::Mac;

use super::burst::{BURST, ETHERNET_HEADER, FRAME_AT, LinkBurst, MAX_FRAME};
use super::error::LinkError;
use super::interface::{self, Request, check};
use super::{Gather, LINK_HEADER, Link, LinkOffloads, LinkText, Piece, ReceiveDrops, Sent};

/// Bytes of the header that the kernel fills in (`virtio_net_hdr`); it leaves the last two of ours alone.
const KERNEL_HEADER: usize = 10;

/// Where the header begins in a slot.
const HEADER_AT: usize = FRAME_AT - LINK_HEADER;

/// A TAP, open. Closing it deletes the interface, unless that was persistent before.
#[derive(Debug)]
pub struct Tap {
    file: OwnedFd,
    name: Arc<str>,
    too_long: AtomicU64,
    malformed: AtomicU64,
}

impl Tap {
    /// Attaches to the TAP `interface` of this network namespace, creating it if there is none; gives it the address
    /// and, if asked, the MTU in bytes (68 to 9000), and brings it up.
    pub fn open(interface: &str, mac: Mac, mtu: Option<u16>) -> Result<Self, LinkError> {
        let name = interface::interface_name(interface)?;
        if !mac.is_valid_source() {
            return Err(LinkError::InvalidMac { interface: name, mac });
        }
        if let Some(mtu) = mtu.filter(|m| !(68..=9000).contains(m)) {
            return Err(LinkError::InvalidMtu { interface: name, mtu });
        }
        let existed = interface::interface_exists(&name);
        let failed = |what| {
            let name = name.clone();
            move |source: io::Error| LinkError::system(&name, what, source)
        };

        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
        // SAFETY: the path is a constant string with a terminating zero.
        let fd = check(unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) })
            .map_err(failed("open /dev/net/tun"))?;
        // SAFETY: a new descriptor that nobody else owns.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };

        let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        Request::new(&name).with_flags(kind).ioctl(file.as_fd(), libc::TUNSETIFF).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EBUSY) => LinkError::Busy { interface: name.clone() },
                Some(libc::EINVAL) if existed => LinkError::NotTap { interface: name.clone() },
                _ => LinkError::system(&name, "attach to the TAP", source),
            }
        })?;
        let size = LINK_HEADER as libc::c_int;
        // SAFETY: the request reads one `int`, which outlives the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })
            .map_err(failed("set the size of the TAP's virtio-net header"))?;
        let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        // SAFETY: the request takes its argument by value.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offloads as libc::c_ulong) })
            .map_err(failed("set the TAP's offloads"))?;

        let control = interface::control_socket().map_err(failed("open a socket"))?;
        interface::set_mac(control.as_fd(), &name, mac).map_err(failed("set the MAC address"))?;
        if let Some(mtu) = mtu {
            interface::set_mtu(control.as_fd(), &name, mtu).map_err(failed("set the MTU"))?;
        }
        interface::bring_up(control.as_fd(), &name).map_err(failed("bring the interface up"))?;
        Ok(Self { file, name, too_long: AtomicU64::new(0), malformed: AtomicU64::new(0) })
    }

    /// Goes on with a TAP that another process had open.
    pub fn adopt(text: &LinkText, file: OwnedFd) -> Result<Self, LinkError> {
        let name = interface::interface_name(&text.interface)?;
        // Answers only for a descriptor that is attached to an interface.
        Request::new(&name)
            .ioctl(file.as_fd(), libc::TUNGETIFF)
            .map_err(|source| LinkError::system(&name, "take over the TAP", source))?;
        Ok(Self { file, name, too_long: AtomicU64::new(0), malformed: AtomicU64::new(0) })
    }

    fn gone(&self) -> LinkError {
        LinkError::Gone { interface: self.name.clone() }
    }

    /// What poll(2) says without waiting.
    fn poll(&self, events: libc::c_short) -> libc::c_short {
        let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events, revents: 0 };
        // SAFETY: one `pollfd`, which outlives the call.
        if unsafe { libc::poll(&raw mut poll, 1, 0) } < 0 { 0 } else { poll.revents }
    }
}

impl Link for Tap {
    fn name(&self) -> &str {
        &self.name
    }

    fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn receive_more(&self, burst: &mut LinkBurst) -> Result<usize, LinkError> {
        if !burst.take_in() {
            return Ok(burst.count());
        }
        while let Some(index) = burst.next_free() {
            // One byte more than header and longest frame: the kernel cuts a longer frame silently, so a read that
            // fills the buffer is one.
            let buffer = &mut burst.slot(index)[HEADER_AT..=FRAME_AT + MAX_FRAME];
            // SAFETY: `buffer` is exclusively borrowed and as long as said.
            let read = unsafe { libc::read(self.file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            let Ok(read) = usize::try_from(read) else {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => break,
                    // Frames already read are delivered first; the next call fails again.
                    _ if burst.count() > 0 => break,
                    Some(libc::EBADFD) => return Err(self.gone()),
                    _ => return Err(LinkError::system(&self.name, "receive", error)),
                }
            };
            let too_long = read == buffer.len();
            let kernel = buffer.first_chunk::<KERNEL_HEADER>().copied().unwrap_or_default();
            burst.filled(1, BURST);
            if too_long {
                self.too_long.fetch_add(1, Ordering::Relaxed);
            } else if read < LINK_HEADER + ETHERNET_HEADER {
                self.malformed.fetch_add(1, Ordering::Relaxed);
            } else {
                let mut header = [0; LINK_HEADER];
                header[..KERNEL_HEADER].copy_from_slice(&kernel);
                if !burst.push(index, FRAME_AT, read - LINK_HEADER, header) {
                    self.malformed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(burst.count())
    }

    fn send(&self, header: &[u8; LINK_HEADER], head: &[u8], rest: &[Piece]) -> Result<Sent, LinkError> {
        let gather = Gather::new(&self.name, header, head, rest)?;
        // SAFETY: `count` vectors are filled in; the kernel only reads what they name, and answers EFAULT where
        // nothing is mapped.
        let wrote = unsafe {
            libc::writev(self.file.as_raw_fd(), gather.vectors.as_ptr(), gather.count as libc::c_int)
        };
        if wrote >= 0 {
            return Ok(Sent::Done);
        }
        let error = io::Error::last_os_error();
        let interface = || self.name.clone();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => Ok(Sent::Full),
            Some(libc::EFAULT) => Err(LinkError::BadMemory { interface: interface() }),
            Some(libc::EINVAL) => Err(LinkError::BadFrame { interface: interface() }),
            Some(libc::EIO) => Err(LinkError::Down { interface: interface() }),
            Some(libc::EBADFD) => Err(self.gone()),
            _ => Err(LinkError::system(&self.name, "send", error)),
        }
    }

    fn offloads(&self) -> LinkOffloads {
        LinkOffloads::ALL
    }

    /// Nothing to do: a TAP hands over every frame that the host sends.
    fn set_addresses(&self, _unicast: &[Mac], _promiscuous: bool) -> Result<(), LinkError> {
        Ok(())
    }

    /// A TAP is writable exactly while it is up, in whatever network namespace it is now.
    fn is_up(&self) -> bool {
        self.poll(libc::POLLOUT) & (libc::POLLOUT | libc::POLLERR) == libc::POLLOUT
    }

    fn is_gone(&self) -> bool {
        self.poll(0) & libc::POLLERR != 0
    }

    fn receive_drops(&self) -> ReceiveDrops {
        ReceiveDrops {
            overrun: 0,
            too_long: self.too_long.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
        }
    }

    fn to_parts(&self) -> (LinkText, Vec<BorrowedFd<'_>>) {
        let text = LinkText { interface: self.name.to_string(), ..LinkText::default() };
        (text, vec![self.file.as_fd()])
    }
}
