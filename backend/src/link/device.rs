//! An Ethernet interface of the host as an uplink has it: a packet socket that is bound to it.
//!
//! What the socket asks of the interface's receive filter ends with its descriptor, so a process that is killed leaves nothing behind; and the
//! kernel takes the interface away from the socket when that is deleted or moves to another network namespace.
//!
//! Threading: one lock guards the set of addresses.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vswitch::Mac;

use super::error::LinkError;
use super::interface::{self, check};
use super::{LinkText, packet};

/// Most unicast addresses given to the interface's filter; with more it is made promiscuous.
pub const MAX_UNICAST: usize = 64;

/// What the socket has asked of the interface's receive filter.
#[derive(Debug, Default)]
struct Membership {
    unicast: Vec<Mac>,
    promiscuous: bool,
}

/// The interface.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) socket: OwnedFd,
    pub(super) name: Arc<str>,
    pub(super) index: libc::c_int,
    pub(super) mac: Mac,
    /// Follows the interface's MTU each time `flags` looks.
    mtu: AtomicU32,
    membership: Mutex<Membership>,
}

impl Device {
    /// Finds an Ethernet interface of this network namespace. Nothing is received before [`Device::bind`].
    pub(super) fn open(interface: &str) -> Result<Self, LinkError> {
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
        Ok(Self { socket, name, index, mac, mtu: AtomicU32::new(mtu), membership: Mutex::default() })
    }

    /// Binds the socket to the interface, for frames of `protocol` (`ETH_P_*`; 0 = for none), and asks for all group addresses.
    pub(super) fn bind(&self, protocol: u16) -> Result<(), LinkError> {
        let failed = |what| move |source: io::Error| LinkError::system(&self.name, what, source);
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::c_ushort,
            sll_protocol: protocol.to_be(),
            sll_ifindex: self.index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: a whole `sockaddr_ll` of the given size, which outlives the call.
        check(unsafe {
            let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), length)
        })
        .map_err(failed("bind a packet socket"))?;
        self.member(libc::PACKET_ADD_MEMBERSHIP, libc::PACKET_MR_ALLMULTI, None)
            .map_err(failed("receive all group addresses (PACKET_MR_ALLMULTI)"))
    }

    /// Goes on with a socket that another process had bound.
    pub(super) fn adopt(text: &LinkText, socket: OwnedFd) -> Result<Self, LinkError> {
        let name = interface::interface_name(&text.interface)?;
        let failed = |source| LinkError::system(&name, "take over the packet socket", source);
        let index = bound_index(&socket).map_err(failed)?;
        let mac = text.mac.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        let membership = Membership { unicast: text.unicast.clone(), promiscuous: text.promiscuous };
        let (mtu, membership) = (AtomicU32::new(text.mtu), Mutex::new(membership));
        Ok(Self { socket, name, index, mac, mtu, membership })
    }

    /// For a process that takes the interface over.
    pub(super) fn to_text(&self) -> LinkText {
        let membership = self.membership.lock().unwrap_or_else(PoisonError::into_inner);
        LinkText {
            interface: self.name.to_string(),
            mac: Some(self.mac),
            mtu: self.mtu(),
            unicast: membership.unicast.clone(),
            promiscuous: membership.promiscuous,
            ring: None,
            xdp: None,
        }
    }

    /// The interface's MTU in bytes, as last seen.
    pub(super) fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Whether this link has made the interface promiscuous.
    pub(super) fn is_promiscuous(&self) -> bool {
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
        packet::set_option(&self.socket, libc::SOL_PACKET, action, &request)
    }

    pub(super) fn gone(&self) -> LinkError {
        LinkError::Gone { interface: self.name.clone() }
    }

    /// See [`super::Link::set_addresses`]. Up to [`MAX_UNICAST`] addresses go to the interface's filter; with more, or when the interface
    /// refuses one, it is made promiscuous instead.
    pub(super) fn set_addresses(&self, unicast: &[Mac], promiscuous: bool) -> Result<(), LinkError> {
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

    /// The interface's flags (`IFF_*`), if it is there; takes note of its MTU.
    pub(super) fn flags(&self) -> Option<libc::c_int> {
        if self.is_gone() {
            return None;
        }
        let (flags, mtu) = interface::flags_and_mtu_of(self.socket.as_fd(), self.index).ok()?;
        self.mtu.store(mtu, Ordering::Relaxed);
        Some(flags)
    }

    /// Whether these flags are those of an interface that is administratively up and has a carrier.
    pub(super) fn is_up(flags: Option<libc::c_int>) -> bool {
        let up = libc::IFF_UP | libc::IFF_RUNNING;
        flags.is_some_and(|flags| flags & up == up)
    }

    /// Asks the socket: the kernel takes the interface away from it.
    pub(super) fn is_gone(&self) -> bool {
        bound_index(&self.socket).is_ok_and(|index| index != self.index)
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
