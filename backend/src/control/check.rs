//! Judges single values from outside. Every function either returns the value in its proper type or the refusal that
//! says what would be valid; none of them changes anything.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use vswitch::port::acl::Address;
use vswitch::refusal::Refusal;
use vswitch::{Mac, Nanos};

use super::host::{self, AtPath, Interface};
use crate::spec::UplinkDriver;

/// Longest path of a UNIX socket: `sun_path` without its final zero.
pub const SOCKET_PATH_MAX: usize = 107;

/// Largest virtual subnet id; 16777215 is not one.
pub const VSID_MAX: u64 = 16_777_214;

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

/// How an uplink's interface is driven.
pub fn driver(given: Option<&str>) -> Result<UplinkDriver, Refusal> {
    match given {
        None | Some("packet") => Ok(UplinkDriver::Packet),
        Some("xdp") => Ok(UplinkDriver::Xdp),
        Some(other) => {
            let (setting, valid) = ("driver".into(), "packet, xdp".into());
            Err(Refusal::BadValue { setting, value: other.into(), valid })
        }
    }
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

/// Hexadecimal bytes of two digits each, with white space, `:` or `-` between bytes or not.
pub fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, ':' | '-'))
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()?;
    let whole = !digits.is_empty() && digits.len().is_multiple_of(2);
    whole.then(|| digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

/// An unsigned number, without sign and white space.
pub fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The units of durations, in nanoseconds.
const UNITS: [(&str, Nanos); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

/// A duration such as `50us`, `10ms`, `30s`, `5m` or `24h`.
pub fn duration(text: &str) -> Option<Nanos> {
    let (unit, nanos) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    decimal::<Nanos>(text.strip_suffix(unit)?)?.checked_mul(*nanos)
}

/// A duration as it would be written: in the largest unit in which it is whole.
pub fn duration_text(nanos: Nanos) -> String {
    let whole = UNITS.iter().filter(|(_, unit)| nanos.is_multiple_of(*unit)).max_by_key(|(_, unit)| *unit);
    whole.map_or_else(|| format!("{nanos}ns"), |(name, unit)| format!("{}{name}", nanos / unit))
}

const IP_FORMS: &str = "an IPv4 or IPv6 address or prefix such as 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32";
const ANY_FORMS: &str =
    "an IPv4 or IPv6 address or prefix such as 10.0.0.0/8 or 2001:db8::/32, a MAC address, any or any-mac";

/// What an ACL entry matches.
pub fn address(text: &str) -> Result<Address, Refusal> {
    match text {
        "any" => return Ok(Address::Any),
        "any-mac" => return Ok(Address::AnyMac),
        _ => {}
    }
    let (start, length) = text.split_once('/').map_or((text, None), |(start, length)| (start, Some(length)));
    match (start.parse::<Mac>(), length) {
        (Ok(mac), None) if mac.0 != [0; 6] => Ok(Address::Mac(mac)),
        (Ok(_), None) => {
            Err(Refusal::BadAddress { value: text.into(), valid: "a MAC address that is not zero" })
        }
        (Ok(_), Some(_)) => Err(Refusal::BadPrefixLength { value: text.into(), max: 0 }),
        (Err(_), _) => ip(text, ANY_FORMS).map(Address::Ip),
    }
}

/// An IP address or prefix; `None` for `any`.
pub fn prefix_or_any(text: &str) -> Result<Option<IpNet>, Refusal> {
    if text == "any" { Ok(None) } else { prefix(text).map(Some) }
}

/// An IP address or prefix. Bits beyond the prefix length must be zero: whoever writes 10.0.0.1/8 means something else.
pub fn prefix(text: &str) -> Result<IpNet, Refusal> {
    ip(text, IP_FORMS)
}

/// A prefix as it is written, a single address without a length.
pub fn prefix_text(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn ip(text: &str, valid: &'static str) -> Result<IpNet, Refusal> {
    let value = || text.to_owned();
    let (start, length) = text.split_once('/').map_or((text, None), |(start, length)| (start, Some(length)));
    let address: IpAddr = start.parse().map_err(|_| no_address(text, start, valid))?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => max,
        Some(length) => decimal(length)
            .filter(|length| *length <= max)
            .ok_or_else(|| Refusal::BadPrefixLength { value: value(), max })?,
    };
    let net = IpNet::new(address, length).map_err(|_| Refusal::BadPrefixLength { value: value(), max })?;
    if net.addr() == net.network() {
        Ok(net)
    } else {
        Err(Refusal::HostBits { value: value(), network: net.trunc().to_string() })
    }
}

/// Why a text is no address: it has the wrong number of parts, a wrong part, or does not look like one at all.
fn no_address(text: &str, start: &str, valid: &'static str) -> Refusal {
    let value = text.to_owned();
    let parts = |separator, radix| {
        let list: Vec<&str> = start.split(separator).collect();
        let digits = |part: &&str| part.chars().all(|c| c.is_digit(radix));
        (list.len() > 1 && list.iter().all(digits)).then_some(list)
    };
    if let Some(list) = parts('.', 10) {
        return match list.len() {
            4 => Refusal::BadAddress { value, valid: "four numbers from 0 to 255 without leading zeros" },
            parts => Refusal::BadAddressSize { value, parts, valid: "four, as in 192.0.2.1" },
        };
    }
    if let Some(list) = parts(':', 16).or_else(|| parts('-', 16)) {
        let pairs = list.iter().all(|part| part.len() == 2);
        return match list.len() {
            parts if pairs => Refusal::BadAddressSize { value, parts, valid: "six (MAC) or eight (IPv6)" },
            _ => Refusal::BadAddress { value, valid },
        };
    }
    Refusal::BadAddressType { value, valid }
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
    fn addresses_are_shown_as_they_were_given() {
        for text in [
            "any",
            "any-mac",
            "02:00:00:00:00:01",
            "10.0.0.1",
            "0.0.0.0/0",
            "10.0.0.0/8",
            "::/0",
            "2001:db8::/32",
        ] {
            assert_eq!(address(text).map(|a| a.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(address("10.0.0.1/32").map(|a| a.to_string()), Ok("10.0.0.1".into()));
        assert_eq!(prefix("::ffff:10.0.0.1").map(|net| prefix_text(&net)), Ok("::ffff:10.0.0.1".into()));
        assert_eq!(prefix_or_any("any"), Ok(None));
    }

    #[test]
    fn what_is_no_address_is_told_apart() {
        use Refusal as R;
        assert!(matches!(prefix("any"), Err(R::BadAddressType { .. })));
        assert!(matches!(prefix("02:00:00:00:00:01"), Err(R::BadAddressSize { parts: 6, .. })));
        assert!(matches!(prefix("10.0.0.0/8/8"), Err(R::BadPrefixLength { max: 32, .. })));
        assert!(matches!(prefix("10.0.0.0/"), Err(R::BadPrefixLength { max: 32, .. })));
        assert!(matches!(prefix("10.0.0.0/-1"), Err(R::BadPrefixLength { .. })));
        assert!(matches!(prefix("fe80::1%eth0"), Err(R::BadAddressType { .. })));
        assert!(matches!(prefix("1:2:3"), Err(R::BadAddress { .. })));
        assert!(matches!(prefix(" 10.0.0.1"), Err(R::BadAddressType { .. })));
        assert!(matches!(prefix("010.0.0.1"), Err(R::BadAddress { .. })));
        assert!(
            matches!(prefix("2001:db8::1/32"), Err(R::HostBits { network, .. }) if network == "2001:db8::/32")
        );
    }

    #[test]
    fn durations_are_shown_in_the_largest_unit_in_which_they_are_whole() {
        for text in ["1ns", "50us", "10ms", "30s", "90s", "90m", "24h"] {
            assert_eq!(duration(text).map(duration_text), Some(text.to_owned()));
        }
        assert_eq!(duration("3600s").map(duration_text), Some("1h".into()));
        for wrong in ["", "s", "30", "1.5s", "-1s", "+1s", "1 s", "9999999999999h", "30S"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn hexadecimal_bytes_may_be_written_in_the_usual_ways() {
        let bytes = Some(vec![0x02, 0xab, 0xFF]);
        for text in ["02abff", "02:ab:ff", "02-AB-FF", "02 ab\n ff"] {
            assert_eq!(hexadecimal(text), bytes, "{text}");
        }
        for wrong in ["", " ", "02a", "0x02", "frame.pcap"] {
            assert_eq!(hexadecimal(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        for bad in ["", ".", "..", "a/b", "a b", "0123456789abcdef", "a:b"] {
            assert!(interface_name(bad).is_err(), "{bad}");
        }
        assert_eq!(interface_name("0123456789abcde"), Ok(()));
    }
}
