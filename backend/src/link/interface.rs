//! Requests about a network interface by its name (`SIOC*`), all through one small wrapper.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use vswitch::Mac;

use super::error::LinkError;

/// Whether this network namespace has an interface of that name.
pub fn interface_exists(name: &str) -> bool {
    index_of(name).is_some()
}

/// The name, if it can be an interface's.
pub fn interface_name(name: &str) -> Result<Arc<str>, LinkError> {
    let length = 1..libc::IFNAMSIZ;
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    if !length.contains(&name.len()) || name.contains(bad) || matches!(name, "." | "..") {
        return Err(LinkError::InvalidName { interface: name.escape_debug().to_string().into() });
    }
    Ok(name.into())
}

/// The interface's number.
pub(super) fn index_of(name: &str) -> Option<libc::c_int> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: `name` is a string with a terminating zero that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    libc::c_int::try_from(index).ok().filter(|&i| i > 0)
}

/// Turns a system call's -1 into the error it stands for.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A socket that serves only as the target of interface requests; it stays in the network namespace it was made in.
pub(super) fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One `ifreq`: the name and what is asked or answered.
pub(super) struct Request(libc::ifreq);

impl Request {
    /// A request about `name`, which [`interface_name`] has accepted; all else is zero.
    pub(super) fn new(name: &str) -> Self {
        // SAFETY: all zeroes is a valid `ifreq`: byte arrays, integers and a null pointer.
        let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
        for (to, &from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.as_bytes()) {
            *to = from as libc::c_char;
        }
        Self(request)
    }

    /// Sets the flags, as unsigned bits.
    pub(super) fn with_flags(mut self, flags: libc::c_int) -> Self {
        self.0.ifr_ifru.ifru_flags = flags as libc::c_short;
        self
    }

    fn with_mtu(mut self, mtu: u16) -> Self {
        self.0.ifr_ifru.ifru_mtu = mtu.into();
        self
    }

    fn with_index(mut self, index: libc::c_int) -> Self {
        self.0.ifr_ifru.ifru_ifindex = index;
        self
    }

    fn with_mac(mut self, mac: Mac) -> Self {
        // SAFETY: every byte of the union was initialised by `new`, and any bytes are a valid `sockaddr`.
        let address = unsafe { &mut self.0.ifr_ifru.ifru_hwaddr };
        address.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
            *to = from as libc::c_char;
        }
        self
    }

    /// Asks `fd`; `code` must be a request that takes an `ifreq`.
    pub(super) fn ioctl(&mut self, fd: BorrowedFd<'_>, code: libc::Ioctl) -> io::Result<()> {
        // SAFETY: `fd` is open; the codes used in this module's folder read and write at most one `ifreq`, which
        // `self` is, and which outlives the call; and for `SIOCETHTOOL` what it points to (see `ethtool`).
        check(unsafe { libc::ioctl(fd.as_raw_fd(), code, std::ptr::from_mut(&mut self.0)) }).map(drop)
    }

    fn flags(&self) -> libc::c_int {
        // SAFETY: every byte of the union is initialised; any bits are a valid integer.
        libc::c_int::from(unsafe { self.0.ifr_ifru.ifru_flags }) & 0xffff
    }

    fn mtu(&self) -> libc::c_int {
        // SAFETY: as in `flags`.
        unsafe { self.0.ifr_ifru.ifru_mtu }
    }

    fn hardware(&self) -> (u16, Mac) {
        // SAFETY: every byte of the union is initialised, and any bytes are a valid `sockaddr`.
        let address = unsafe { self.0.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        (address.sa_family, Mac(mac))
    }
}

/// The interface's flags (`IFF_*`).
pub(super) fn flags(fd: BorrowedFd<'_>, name: &str) -> io::Result<libc::c_int> {
    let mut request = Request::new(name);
    request.ioctl(fd, libc::SIOCGIFFLAGS)?;
    Ok(request.flags())
}

/// Brings the interface up.
pub(super) fn bring_up(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let flags = flags(fd, name)?;
    Request::new(name).with_flags(flags | libc::IFF_UP).ioctl(fd, libc::SIOCSIFFLAGS)
}

/// The interface's MTU in bytes.
pub(super) fn mtu(fd: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let mut request = Request::new(name);
    request.ioctl(fd, libc::SIOCGIFMTU)?;
    Ok(request.mtu().max(0).cast_unsigned())
}

/// Sets the interface's MTU.
pub(super) fn set_mtu(fd: BorrowedFd<'_>, name: &str, mtu: u16) -> io::Result<()> {
    Request::new(name).with_mtu(mtu).ioctl(fd, libc::SIOCSIFMTU)
}

/// The interface's hardware type (`ARPHRD_*`) and address.
pub(super) fn hardware(fd: BorrowedFd<'_>, name: &str) -> io::Result<(u16, Mac)> {
    let mut request = Request::new(name);
    request.ioctl(fd, libc::SIOCGIFHWADDR)?;
    Ok(request.hardware())
}

/// Sets the interface's address.
pub(super) fn set_mac(fd: BorrowedFd<'_>, name: &str, mac: Mac) -> io::Result<()> {
    Request::new(name).with_mac(mac).ioctl(fd, libc::SIOCSIFHWADDR)
}

/// Flags and MTU by the interface's number, which outlives a change of its name.
pub(super) fn flags_and_mtu_of(fd: BorrowedFd<'_>, index: libc::c_int) -> io::Result<(libc::c_int, u32)> {
    let mut request = Request::new("").with_index(index);
    request.ioctl(fd, libc::SIOCGIFNAME)?;
    // The name that was filled in is the key of the next request.
    request.ioctl(fd, libc::SIOCGIFFLAGS)?;
    let flags = request.flags();
    request.ioctl(fd, libc::SIOCGIFMTU)?;
    Ok((flags, request.mtu().max(0).cast_unsigned()))
}

// linux/ethtool.h
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// An ethtool request, which is as many words as it has, the first one saying which request it is.
fn ethtool<const N: usize>(fd: BorrowedFd<'_>, name: &str, words: &mut [u32; N]) -> io::Result<()> {
    let mut request = Request::new(name);
    // The words outlive the call; requests used here are `ethtool_value`, two words, and `ethtool_channels`, nine.
    request.0.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    request.ioctl(fd, libc::SIOCETHTOOL)
}

/// How many queues the interface receives with, as far as its driver says: else one.
pub(super) fn receive_queues(fd: BorrowedFd<'_>, name: &str) -> u32 {
    let mut words = [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    match ethtool(fd, name, &mut words) {
        Ok(()) => words[5].saturating_add(words[8]).max(1),
        Err(_) => 1,
    }
}

/// Makes the interface leave VLAN tags in the frames that it receives.
pub(super) fn leave_tags(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut words = [ETHTOOL_GFLAGS, 0];
    // A driver that knows no such thing takes nothing off.
    if ethtool(fd, name, &mut words).is_err() || words[1] & ETH_FLAG_RXVLAN == 0 {
        return Ok(());
    }
    words = [ETHTOOL_SFLAGS, words[1] & !ETH_FLAG_RXVLAN];
    ethtool(fd, name, &mut words)?;
    words = [ETHTOOL_GFLAGS, 0];
    ethtool(fd, name, &mut words)?;
    if words[1] & ETH_FLAG_RXVLAN == 0 { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}
