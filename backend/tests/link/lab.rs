//! Interfaces and namespaces that vanish with their owner, and frames to send through them.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backend::link::{LINK_HEADER, Link, LinkBurst, LinkError, Piece, Sent};
use vswitch::Mac;

/// How long a frame may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// `EtherType` for local experiments: the host's own frames never have it.
pub(crate) const LOCAL: u16 = 0x88b5;

pub(crate) const NO_OFFLOAD: [u8; LINK_HEADER] = [0; LINK_HEADER];

pub(crate) const MAC_A: Mac = Mac([0x52, 0x54, 0, 0, 0, 0xa]);
pub(crate) const MAC_B: Mac = Mac([0x52, 0x54, 0, 0, 0, 0xb]);

/// Whether this machine lets us make interfaces; says so loudly if not.
pub(crate) fn can_run(test: &str) -> bool {
    let name = unique("probe");
    let made = Command::new("ip").args(["tuntap", "add", "dev", &name, "mode", "tap"]).output();
    let why = match made {
        Ok(output) if output.status.success() => {
            ip(&["link", "del", &name]);
            return true;
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("ip: {error}"),
    };
    eprintln!("skipped: {test}: cannot make interfaces: {why}");
    false
}

/// A name that no other test uses, of at most 15 characters.
pub(crate) fn unique(suffix: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("tl{:x}n{number:x}{suffix}", std::process::id() & 0xffff)
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs `ip`, which must succeed, and returns what it printed.
pub(crate) fn ip(arguments: &[&str]) -> String {
    let output = run("ip", arguments);
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("ip prints text")
}

/// What `ip -d link` says about `key` of an interface (`promiscuity`, `mtu` …).
pub(crate) fn link_value(interface: &str, key: &str) -> String {
    let text = ip(&["-d", "link", "show", "dev", interface]);
    let mut words = text.split_whitespace();
    words.find(|w| *w == key);
    words.next().unwrap_or_else(|| panic!("no {key} in {text}")).to_owned()
}

/// Keeps the host from sending frames of its own accord.
pub(crate) fn quiet(interface: &str) {
    // Fails on a host without IPv6, which is as quiet.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1");
}

/// Two interfaces, connected to each other, up, in the test's namespace.
pub(crate) struct Veth {
    pub(crate) a: String,
    pub(crate) b: String,
}

impl Veth {
    pub(crate) fn new() -> Self {
        let (a, b) = (unique("a"), unique("b"));
        ip(&["link", "add", &a, "type", "veth", "peer", "name", &b]);
        for end in [&a, &b] {
            quiet(end);
            ip(&["link", "set", end, "up"]);
        }
        Self { a, b }
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        run("ip", &["link", "del", &self.a]);
    }
}

/// A network namespace.
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    pub(crate) fn new() -> Self {
        let name = unique("ns");
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        Self(name)
    }

    /// Moves an interface here, gives it an address and brings it up.
    pub(crate) fn take(&self, interface: &str, address: &str) {
        ip(&["link", "set", interface, "netns", &self.0]);
        let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
        ip(&[&["-n", &self.0, "addr", "add", address, "dev", interface], nodad].concat());
        ip(&["-n", &self.0, "link", "set", interface, "up"]);
    }

    /// A command that runs here.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.0]);
    }
}

/// A frame of `length` bytes with recognisable content.
pub(crate) fn frame(length: usize) -> Vec<u8> {
    let mut frame = [MAC_B.0, MAC_A.0].concat();
    frame.extend(LOCAL.to_be_bytes());
    frame.extend((frame.len()..length).map(|i| (i * 7) as u8));
    frame
}

/// A frame with a VXLAN packet of this inner frame, as tunnels send it: no UDP checksum.
pub(crate) fn datagram(inner: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    packet[2..4].copy_from_slice(&(36 + inner.len() as u16).to_be_bytes());
    let sum = vswitch::frame::checksum::checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0xc0, 0x01, 0x12, 0xb5]);
    packet.extend((16 + inner.len() as u16).to_be_bytes());
    packet.extend([0, 0, 8, 0, 0, 0, 0, 0x13, 0x89, 0]);
    [&MAC_B.0[..], &MAC_A.0, &[8, 0], &packet, inner].concat()
}

/// Whether it is one of those.
pub(crate) fn is_datagram(frame: &[u8]) -> bool {
    ether_type(frame) == 0x0800 && frame.get(36..38) == Some(&[0x12, 0xb5])
}

/// Puts a VLAN tag into a frame.
pub(crate) fn tagged(frame: &[u8], protocol: u16, tci: u16) -> Vec<u8> {
    [&frame[..12], &protocol.to_be_bytes(), &tci.to_be_bytes(), &frame[12..]].concat()
}

/// The first `EtherType` behind VLAN tags.
pub(crate) fn ether_type(frame: &[u8]) -> u16 {
    let mut at = 12;
    loop {
        match frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]])) {
            Some(0x8100 | 0x88a8) => at += 4,
            Some(other) => return other,
            None => return 0,
        }
    }
}

/// Sends a frame in one piece; it must go.
pub(crate) fn send(link: &dyn Link, header: &[u8; LINK_HEADER], frame: &[u8]) {
    let head = frame.len().min(192);
    let result = link.send(header, &frame[..head], &[Piece::of(&frame[head..])]);
    assert_eq!(result.expect("sent"), Sent::Done);
}

/// Waits for frames that `wanted` accepts, until there are `count` or patience ends.
pub(crate) fn collect(
    link: &dyn Link,
    count: usize,
    patience: Duration,
    wanted: impl Fn(&[u8]) -> bool,
) -> Vec<([u8; LINK_HEADER], Vec<u8>)> {
    let end = Instant::now() + patience;
    let mut burst = LinkBurst::new();
    let mut found = Vec::new();
    while found.len() < count && Instant::now() < end {
        if link.receive(&mut burst).expect("received") == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        for one in burst.frames() {
            let bytes = burst.bytes(one);
            if wanted(bytes) {
                found.push((one.header, bytes.to_vec()));
            }
        }
    }
    found
}

/// Frames of the test's own `EtherType`.
pub(crate) fn is_local(frame: &[u8]) -> bool {
    ether_type(frame) == LOCAL
}

/// Waits until `done` says so; whether it did.
pub(crate) fn eventually(mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    done()
}

/// Whether the link says that its interface is gone, by whichever call.
pub(crate) fn is_gone_error(error: &LinkError) -> bool {
    matches!(error, LinkError::Gone { .. })
}

/// The header and an IPv4 TCP frame of `payload` bytes that is to be segmented, with its checksum left to be completed;
/// `tag` bytes of VLAN tags are to be put in by the caller.
pub(crate) fn tcp_to_segment(payload: usize, gso_size: u16, tag: u16) -> ([u8; LINK_HEADER], Vec<u8>) {
    let mut bytes = [MAC_B.0, MAC_A.0].concat();
    bytes.extend(0x0800_u16.to_be_bytes());
    let total = u16::try_from(40 + payload).expect("fits IPv4");
    let mut ip = [0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let sum = fold(ip.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum());
    ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
    bytes.extend(ip);
    // Over the pseudo header only, as an offloaded checksum begins.
    let length = 20 + payload as u32;
    let pseudo = fold(0xc000 + 0x0201 + 0xc000 + 0x0202 + 6 + length);
    let mut tcp = [0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0];
    tcp[16..18].copy_from_slice(&pseudo.to_be_bytes());
    bytes.extend(tcp);
    bytes.extend((0..payload).map(|i| (i % 251) as u8));
    let mut header = [0; LINK_HEADER];
    header[0] = 1; // NEEDS_CSUM
    header[1] = 1; // TCP over IPv4
    header[2..4].copy_from_slice(&(54 + tag).to_le_bytes());
    header[4..6].copy_from_slice(&gso_size.to_le_bytes());
    header[6..8].copy_from_slice(&(34 + tag).to_le_bytes());
    header[8..10].copy_from_slice(&16_u16.to_le_bytes());
    (header, bytes)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
