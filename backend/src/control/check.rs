//! Judges single values from outside. Every function either returns the value in its proper type or the refusal that
//! says what would be valid; none of them changes anything.

use std::path::{Path, PathBuf};

use vswitch::Mac;
use vswitch::refusal::Refusal;

use super::host::{self, AtPath, Interface};

/// Longest path of a UNIX socket: `sun_path` without its final zero.
pub const SOCKET_PATH_MAX: usize = 107;

/// A port's or uplink's name.
pub fn name(name: &str) -> Result<(), Refusal> {
    let valid = (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if valid { Ok(()) } else { Err(Refusal::BadName) }
}

/// A port's own MAC address.
pub fn mac(text: &str) -> Result<Mac, Refusal> {
    let mac: Mac = text.parse().map_err(|_| Refusal::BadMac { text: text.to_owned() })?;
    if mac.is_group() {
        Err(Refusal::GroupMac { mac })
    } else if mac.is_valid_source() {
        Ok(mac)
    } else {
        Err(Refusal::ZeroMac)
    }
}

/// A number within its bounds.
pub fn range(
    setting: &'static str,
    value: u64,
    min: u64,
    max: u64,
    unit: &'static str,
) -> Result<u64, Refusal> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(Refusal::OutOfRange { setting, value, min, max, unit })
    }
}

/// The path of a vhost-user socket. One to listen on must be in an existing directory and free; one to connect to may
/// appear later.
pub fn socket(path: &str, client: bool) -> Result<PathBuf, Refusal> {
    let given = path.to_owned();
    if path.len() > SOCKET_PATH_MAX {
        return Err(Refusal::SocketTooLong { length: path.len(), path: given });
    }
    let checked = Path::new(path);
    if !checked.is_absolute() || path.contains('\0') || checked.file_name().is_none() {
        return Err(Refusal::SocketNotAbsolute { path: given });
    }
    if client {
        return Ok(checked.to_owned());
    }
    let directory = checked.parent().unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        let directory = directory.to_string_lossy().into_owned();
        return Err(Refusal::SocketDirectoryMissing { path: given, directory });
    }
    match host::at_path(checked) {
        AtPath::Nothing | AtPath::Abandoned => Ok(checked.to_owned()),
        AtPath::Listener => Err(Refusal::SocketInUse { path: given, by: "another program".into() }),
        AtPath::Other(what) => Err(Refusal::SocketNotSocket { path: given, what }),
    }
}

/// A form of a path in which two spellings of one place are equal, as far as the directory exists.
pub fn same_place(path: &Path) -> PathBuf {
    let directory = path.parent().and_then(|d| d.canonicalize().ok());
    match (directory, path.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => path.to_owned(),
    }
}

/// The name of a network interface.
pub fn interface_name(interface: &str) -> Result<(), Refusal> {
    let valid = (1..=15).contains(&interface.len())
        && interface.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b))
        && !matches!(interface, "." | "..");
    if valid { Ok(()) } else { Err(Refusal::BadInterfaceName { interface: interface.to_owned() }) }
}

/// An existing Ethernet interface and its address.
pub fn ethernet(interface: &str, existing: &[Interface]) -> Result<Mac, Refusal> {
    interface_name(interface)?;
    let Some(found) = existing.iter().find(|i| i.name == interface) else {
        let known = existing.iter().filter(|i| i.mac.is_some()).map(|i| i.name.clone()).collect();
        return Err(Refusal::UnknownInterface { interface: interface.to_owned(), known });
    };
    found.mac.ok_or_else(|| Refusal::InterfaceUnusable {
        interface: interface.to_owned(),
        reason: "it is not Ethernet".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "0", "web-1.eth_0", &"x".repeat(32)] {
            assert_eq!(name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", ".", "a b", "ä", "a/b", "a\n", &"x".repeat(33)] {
            assert_eq!(name(bad), Err(Refusal::BadName), "{bad}");
        }
    }

    #[test]
    fn a_ports_address_is_nonzero_unicast() {
        assert_eq!(mac("52:54:00:12:34:56").map(|m| m.to_string()), Ok("52:54:00:12:34:56".into()));
        assert_eq!(mac("00-15-5D-00-00-01").map(|m| m.to_string()), Ok("00:15:5d:00:00:01".into()));
        assert_eq!(mac("00:00:00:00:00:00"), Err(Refusal::ZeroMac));
        assert!(matches!(mac("01:00:5e:00:00:01"), Err(Refusal::GroupMac { .. })));
        assert!(matches!(mac("ff:ff:ff:ff:ff:ff"), Err(Refusal::GroupMac { .. })));
        assert!(matches!(mac("52:54:00:12:34"), Err(Refusal::BadMac { .. })));
    }

    #[test]
    fn a_socket_path_fits_sun_path_and_its_directory_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: usize| {
            let base = dir.path().to_str().unwrap();
            format!("{base}/{}", "s".repeat(n - base.len() - 1))
        };
        assert!(socket(&path(107), false).is_ok());
        assert!(matches!(socket(&path(108), false), Err(Refusal::SocketTooLong { length: 108, .. })));
        assert!(matches!(socket("web.sock", false), Err(Refusal::SocketNotAbsolute { .. })));
        assert!(matches!(socket("/nowhere/web.sock", false), Err(Refusal::SocketDirectoryMissing { .. })));
        assert!(socket("/nowhere/web.sock", true).is_ok(), "the front end may make it later");
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        for bad in ["", ".", "..", "a/b", "a b", "0123456789abcdef", "a:b"] {
            assert!(interface_name(bad).is_err(), "{bad}");
        }
        assert_eq!(interface_name("0123456789abcde"), Ok(()));
    }
}
