//! What the control plane asks its host: interfaces, sockets, its name and first address. Reads only.

use std::net::Ipv4Addr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use vswitch::Mac;

/// A network interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` for what is not Ethernet, such as `lo`.
    pub mac: Option<Mac>,
}

/// The interfaces of this process's network namespace; none when the kernel does not tell.
pub fn interfaces() -> Vec<Interface> {
    let Ok(addresses) = getifaddrs() else { return Vec::new() };
    addresses
        .filter_map(|a| {
            let link = *a.address.as_ref()?.as_link_addr()?;
            // hatype 1 is ARPHRD_ETHER, which TAPs and virtual Ethernet pairs have as well.
            let mac = link.addr().filter(|_| link.hatype() == 1).map(Mac);
            Some(Interface { name: a.interface_name, mac })
        })
        .collect()
}

/// The first IPv4 address that is not a loopback one.
pub fn first_ipv4() -> Option<Ipv4Addr> {
    let addresses = getifaddrs().ok()?;
    addresses
        .filter_map(|a| Some(a.address.as_ref()?.as_sockaddr_in()?.ip()))
        .find(|ip| !ip.is_loopback() && !ip.is_link_local())
}

/// The host's name as the kernel knows it.
pub fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|n| n.trim().to_owned())
        .ok()
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "localhost".into())
}

/// MTU of an interface in bytes, if it can be told.
pub fn interface_mtu(name: &str) -> Option<u16> {
    std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
}

/// What is at a path where a socket is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtPath {
    /// Nothing.
    Nothing,
    /// A socket nobody listens on.
    Abandoned,
    /// A socket with a listener.
    Listener,
    /// Something that is not a socket, in words.
    Other(&'static str),
}

/// Looks at a path where a socket is wanted.
pub fn at_path(path: &Path) -> AtPath {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return AtPath::Nothing };
    let kind = metadata.file_type();
    if kind.is_dir() {
        AtPath::Other("a directory")
    } else if kind.is_symlink() {
        AtPath::Other("a symbolic link")
    } else if !kind.is_socket() {
        AtPath::Other("a file, not a socket")
    } else if has_listener(path) {
        AtPath::Listener
    } else {
        AtPath::Abandoned
    }
}

/// Whether somebody listens: a connection is tried without waiting. A full backlog counts as somebody.
fn has_listener(path: &Path) -> bool {
    let attempt = || {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&socket2::SockAddr::unix(path)?)
    };
    match attempt() {
        Ok(()) => true,
        Err(e) => e.kind() != std::io::ErrorKind::ConnectionRefused,
    }
}

/// A group's number, from its name or number.
pub fn group_id(group: &str) -> Option<u32> {
    if let Ok(id) = group.parse() {
        return Some(id);
    }
    nix::unistd::Group::from_name(group).ok().flatten().map(|g| g.gid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_live_only_while_somebody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(at_path(&path), AtPath::Nothing);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(at_path(&path), AtPath::Listener);
        drop(listener);
        assert_eq!(at_path(&path), AtPath::Abandoned);
        assert_eq!(at_path(dir.path()), AtPath::Other("a directory"));
    }

    #[test]
    fn loopback_is_not_an_ethernet_interface() {
        let lo = interfaces().into_iter().find(|i| i.name == "lo").expect("every namespace has lo");
        assert_eq!(lo.mac, None);
    }
}
