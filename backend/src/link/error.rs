//! Why a link could not be opened or a frame not be moved.
//!
//! Errors of single frames are made on the data path, where a guest can provoke one per frame: they carry a shared
//! name and never allocate.

use std::io;
use std::sync::Arc;

use vswitch::Mac;

use crate::spec::DataplaneError;

/// An error of a link; every variant names the interface.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The name cannot be an interface's.
    #[error(
        "interface '{interface}': not a valid name; a name has 1 to 15 bytes, no space, no '/', ':' or '%', and is not '.' or '..'"
    )]
    InvalidName {
        /// The name as given, with control characters escaped.
        interface: Arc<str>,
    },
    /// There is no such interface.
    #[error("interface '{interface}': does not exist; `ip link` lists those that do")]
    Missing {
        /// The interface.
        interface: Arc<str>,
    },
    /// Not an Ethernet interface.
    #[error(
        "interface '{interface}': is of hardware type {hardware}, not Ethernet (1); give an Ethernet interface"
    )]
    NotEthernet {
        /// The interface.
        interface: Arc<str>,
        /// `ARPHRD_*` of the interface.
        hardware: u16,
    },
    /// Another process holds the TAP.
    #[error(
        "interface '{interface}': TAP is in use by another process; end that process or give another name"
    )]
    Busy {
        /// The interface.
        interface: Arc<str>,
    },
    /// The name is taken by something that is not a TAP, or a TAP of another kind.
    #[error(
        "interface '{interface}': exists and is not a TAP with a single queue; give such a TAP (`ip tuntap add mode \
         tap`) or a name that is not in use"
    )]
    NotTap {
        /// The interface.
        interface: Arc<str>,
    },
    /// The address cannot be an interface's.
    #[error(
        "interface '{interface}': {mac} cannot be its MAC address; give one that is neither zero nor a group's"
    )]
    InvalidMac {
        /// The interface.
        interface: Arc<str>,
        /// The address as given.
        mac: Mac,
    },
    /// The MTU is out of range.
    #[error("interface '{interface}': MTU {mtu} is out of range; valid are 68 to 9000")]
    InvalidMtu {
        /// The interface.
        interface: Arc<str>,
        /// The MTU as given, in bytes.
        mtu: u16,
    },
    /// The process lacks a capability.
    #[error("interface '{interface}': cannot {what}: {source}; run as root or with {capability}")]
    Permission {
        /// The interface.
        interface: Arc<str>,
        /// What was attempted.
        what: &'static str,
        /// The capability that is needed.
        capability: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A step of opening failed.
    #[error("interface '{interface}': cannot {what}: {source}")]
    System {
        /// The interface.
        interface: Arc<str>,
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// `AF_XDP` cannot be had.
    #[error(
        "interface '{interface}': cannot {what}: {source}; driver 'xdp' needs Linux 5.9 with CONFIG_XDP_SOCKETS; \
         driver 'packet' works without"
    )]
    XdpUnsupported {
        /// The interface.
        interface: Arc<str>,
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody else has what `AF_XDP` needs of the interface.
    #[error(
        "interface '{interface}': cannot {what}: in use by another XDP program or AF_XDP socket; `ip -d link show \
         dev {interface}` names the program, `ip link set dev {interface} xdp off` removes one; or use driver 'packet'"
    )]
    XdpBusy {
        /// The interface.
        interface: Arc<str>,
        /// What was attempted.
        what: &'static str,
    },
    /// There is not enough memory that stays where it is.
    #[error(
        "interface '{interface}': cannot {what}: {source}; raise the limit of locked memory (systemd: \
         LimitMEMLOCK=infinity) or grant CAP_IPC_LOCK; or use driver 'packet'"
    )]
    XdpMemory {
        /// The interface.
        interface: Arc<str>,
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Frames of the interface may be longer than a chunk of `AF_XDP`.
    #[error(
        "interface '{interface}': MTU {mtu} is more than driver 'xdp' takes; valid are 68 to {most}, or use driver \
         'packet'"
    )]
    XdpMtu {
        /// The interface.
        interface: Arc<str>,
        /// Its MTU, in bytes.
        mtu: u32,
        /// The largest one, in bytes.
        most: u32,
    },
    /// The interface has more queues than are served.
    #[error(
        "interface '{interface}': has {queues} receive queues, driver 'xdp' serves one; `ethtool -L {interface} \
         combined 1` (or `rx 1 tx 1`) leaves one, or use driver 'packet'"
    )]
    XdpQueues {
        /// The interface.
        interface: Arc<str>,
        /// How many.
        queues: u32,
    },
    /// The interface takes VLAN tags off received frames where an XDP program does not see them.
    #[error(
        "interface '{interface}': cannot have VLAN tags left in received frames (rx-vlan-offload off): {source}; use \
         driver 'packet'"
    )]
    XdpTags {
        /// The interface.
        interface: Arc<str>,
        /// The system's answer.
        source: io::Error,
    },
    /// The interface was deleted, or an uplink was moved to another network namespace; the link is of no use any more.
    #[error("interface '{interface}': is gone; add it again when it is back")]
    Gone {
        /// The interface.
        interface: Arc<str>,
    },
    /// The interface is administratively down.
    #[error("interface '{interface}': is down; `ip link set dev {interface} up` starts it")]
    Down {
        /// The interface.
        interface: Arc<str>,
    },
    /// The frame does not fit the interface.
    #[error("interface '{interface}': a frame of {length} bytes is longer than the {limit} bytes it takes")]
    TooLong {
        /// The interface.
        interface: Arc<str>,
        /// Bytes of the frame; of its largest segment at least, if it is to be segmented.
        length: usize,
        /// Bytes that the interface takes.
        limit: usize,
    },
    /// A piece names memory that is not there.
    #[error("interface '{interface}': a piece of the frame is not in mapped memory")]
    BadMemory {
        /// The interface.
        interface: Arc<str>,
    },
    /// The kernel refuses the frame or its offload header.
    #[error(
        "interface '{interface}': the frame is shorter than an Ethernet header or contradicts its offload header"
    )]
    BadFrame {
        /// The interface.
        interface: Arc<str>,
    },
    /// The frame lies in too many pieces.
    #[error(
        "interface '{interface}': the frame lies in {count} pieces; at most {} can be sent",
        super::MAX_PIECES
    )]
    TooManyPieces {
        /// The interface.
        interface: Arc<str>,
        /// Pieces behind the head.
        count: usize,
    },
}

impl LinkError {
    /// The interface concerned.
    pub fn interface(&self) -> &str {
        match self {
            Self::InvalidName { interface }
            | Self::Missing { interface }
            | Self::NotEthernet { interface, .. }
            | Self::Busy { interface }
            | Self::NotTap { interface }
            | Self::InvalidMac { interface, .. }
            | Self::InvalidMtu { interface, .. }
            | Self::Permission { interface, .. }
            | Self::System { interface, .. }
            | Self::XdpUnsupported { interface, .. }
            | Self::XdpBusy { interface, .. }
            | Self::XdpMemory { interface, .. }
            | Self::XdpMtu { interface, .. }
            | Self::XdpQueues { interface, .. }
            | Self::XdpTags { interface, .. }
            | Self::Gone { interface }
            | Self::Down { interface }
            | Self::TooLong { interface, .. }
            | Self::BadMemory { interface }
            | Self::BadFrame { interface }
            | Self::TooManyPieces { interface, .. } => interface,
        }
    }

    /// The error of a step of opening: the system's answer, or the lack of a capability.
    pub(super) fn system(interface: &Arc<str>, what: &'static str, source: io::Error) -> Self {
        let interface = interface.clone();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                Self::Permission { interface, what, capability: "CAP_NET_ADMIN and CAP_NET_RAW", source }
            }
            Some(libc::ENODEV) => Self::Missing { interface },
            _ => Self::System { interface, what, source },
        }
    }
}

impl LinkError {
    /// The same for a step of opening an `AF_XDP` socket.
    pub(super) fn xdp(interface: &Arc<str>, what: &'static str, source: io::Error) -> Self {
        let interface = interface.clone();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                let capability = "CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF";
                Self::Permission { interface, what, capability, source }
            }
            Some(libc::EBUSY | libc::EEXIST) => Self::XdpBusy { interface, what },
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::XdpMemory { interface, what, source },
            Some(
                libc::EAFNOSUPPORT
                | libc::EOPNOTSUPP
                | libc::ENOSYS
                | libc::EINVAL
                | libc::ENOPROTOOPT
                | libc::ESOCKTNOSUPPORT,
            ) => Self::XdpUnsupported { interface, what, source },
            Some(libc::ENODEV) => Self::Missing { interface },
            _ => Self::System { interface, what, source },
        }
    }
}

impl From<LinkError> for DataplaneError {
    fn from(error: LinkError) -> Self {
        let interface = error.interface().to_owned();
        let text = error.to_string();
        // Its own text begins with the interface too.
        let reason = text.strip_prefix(&format!("interface '{interface}': ")).unwrap_or(&text).to_owned();
        Self::Interface { interface, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_af_xdp_lacks_is_said_with_what_would_help() {
        let said =
            |what, code| LinkError::xdp(&"eth1".into(), what, io::Error::from_raw_os_error(code)).to_string();
        assert_eq!(
            said("load an XDP program", libc::EPERM),
            "interface 'eth1': cannot load an XDP program: Operation not permitted (os error 1); run as root or with \
             CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF"
        );
        assert_eq!(
            said("open an AF_XDP socket", libc::EAFNOSUPPORT),
            "interface 'eth1': cannot open an AF_XDP socket: Address family not supported by protocol (os error 97); driver \
             'xdp' needs Linux 5.9 with CONFIG_XDP_SOCKETS; driver 'packet' works without"
        );
        assert_eq!(
            said("open an AF_XDP socket", libc::ENOBUFS),
            "interface 'eth1': cannot open an AF_XDP socket: No buffer space available (os error 105); raise the limit of \
             locked memory (systemd: LimitMEMLOCK=infinity) or grant CAP_IPC_LOCK; or use driver 'packet'"
        );
        assert_eq!(
            said("attach an XDP program", libc::EBUSY),
            "interface 'eth1': cannot attach an XDP program: in use by another XDP program or AF_XDP socket; `ip -d link \
             show dev eth1` names the program, `ip link set dev eth1 xdp off` removes one; or use driver 'packet'"
        );
        let tags = LinkError::XdpTags { interface: "eth1".into(), source: io::ErrorKind::Unsupported.into() };
        assert_eq!(
            tags.to_string(),
            "interface 'eth1': cannot have VLAN tags left in received frames (rx-vlan-offload off): unsupported; use \
             driver 'packet'"
        );
    }
}
