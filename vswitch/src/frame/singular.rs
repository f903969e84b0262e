//! Frames that must be judged one by one, because what policy says of them may depend on more than what frames of a flow have in
//! common: addresses, tags, protocol, ports (or ICMP type and code), and what part of a packet they carry.

use crate::frame::ethernet::ethertype;
use crate::frame::headers::{Headers, MIN_ETHERTYPE};
use crate::frame::{dhcp, neighbour, protocol, tcp};

/// Whether a UDP datagram with these ports is singular: DHCP, whose messages are told apart by their content.
#[inline]
pub const fn udp(src: u16, dst: u16) -> bool {
    dhcp::is_port(src) || dhcp::is_port(dst)
}

/// Whether a frame is singular: ARP, RARP and LLC, neighbour discovery, DHCP, and the beginning and the end of a TCP connection.
/// Frames whose headers cannot be read are too, but have none to ask for here.
pub fn frame(headers: &Headers) -> bool {
    let Some(ip) = &headers.ip else {
        return matches!(headers.ethertype, ethertype::ARP | ethertype::RARP)
            || headers.ethertype < MIN_ETHERTYPE;
    };
    match (ip.protocol, ip.ports, ip.icmp) {
        (protocol::TCP, ..) => ip.tcp_flags & (tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST) != 0,
        (protocol::UDP, Some((src, dst)), _) => udp(src, dst),
        (protocol::ICMPV6, _, Some((kind, _))) => neighbour::kind::is_discovery(kind),
        _ => false,
    }
}
