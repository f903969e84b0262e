//! Packets for tests, built field by field. Checksums are zero: the switch does not check them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vswitch::Mac;
use vswitch::frame::ethernet::ethertype;
use vswitch::frame::protocol;

use crate::support::mac_of;

/// Smallest Ethernet frame without FCS; shorter ones are padded on the wire.
pub(crate) const MIN_FRAME: usize = 60;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

/// A frame from port 1's address to port 2's, with tags (type and control information).
pub(crate) fn tagged(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(mac_of(2), mac_of(1), tags, ethertype, payload)
}

pub(crate) fn ethernet(dst: Mac, src: Mac, tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [dst.0, src.0].concat();
    for (kind, tci) in tags {
        frame.extend(kind.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(MIN_FRAME), 0);
    frame
}

/// An untagged frame with an IP packet, from port 1's address to port 2's.
pub(crate) fn framed(packet: &[u8]) -> Vec<u8> {
    tagged(&[], ethertype_of(packet), packet)
}

pub(crate) fn ethertype_of(packet: &[u8]) -> u16 {
    if packet[0] >> 4 == 4 { ethertype::IPV4 } else { ethertype::IPV6 }
}

/// An IPv4 packet, or a piece of one: `at` in bytes.
pub(crate) fn v4_piece(src: &str, dst: &str, protocol: u8, at: usize, more: bool, payload: &[u8]) -> Vec<u8> {
    let [src, dst] = [src, dst].map(|a| a.parse::<Ipv4Addr>().expect("an IPv4 address").octets());
    let fragment = (at / 8) as u16 | if more { 0x2000 } else { 0 };
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(src);
    packet.extend(dst);
    packet.extend(payload);
    packet
}

pub(crate) fn v4(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    v4_piece(src, dst, protocol, 0, false, payload)
}

/// The same packet with so many bytes of options, a multiple of four.
pub(crate) fn with_options(mut packet: Vec<u8>, options: usize) -> Vec<u8> {
    packet[0] += (options / 4) as u8;
    let total = u16::from_be_bytes([packet[2], packet[3]]) + options as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet.splice(20..20, vec![1; options]);
    packet
}

pub(crate) fn v6(src: &str, dst: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let [src, dst] = [src, dst].map(|a| a.parse::<Ipv6Addr>().expect("an IPv6 address").octets());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(src);
    packet.extend(dst);
    packet.extend(payload);
    packet
}

/// An extension header of `units` times eight bytes (AH: made to fit) before `rest`.
pub(crate) fn extension(kind: u8, next: u8, units: usize, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![0; units * 8];
    header[0] = next;
    header[1] = if kind == protocol::AUTHENTICATION { units * 2 - 2 } else { units - 1 } as u8;
    header.extend(rest);
    header
}

/// A fragment header before a piece that begins at `at` (bytes).
pub(crate) fn fragment(next: u8, at: usize, more: bool, piece: &[u8]) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend((at as u16 & 0xfff8 | u16::from(more)).to_be_bytes());
    header.extend([0, 0, 0, 7]);
    header.extend(piece);
    header
}

pub(crate) fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [src, dst, 8 + payload.len() as u16, 0].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    datagram
}

pub(crate) fn tcp(src: u16, dst: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = [src, dst].map(u16::to_be_bytes).concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    segment
}

/// ICMP of either version: type, code 0, and what follows the checksum.
pub(crate) fn icmp(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0], rest].concat()
}

/// A neighbour-discovery message about `target` with one link-layer option.
pub(crate) fn neighbour(kind: u8, target: &str, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut rest = vec![0; 4];
    rest.extend(target.parse::<Ipv6Addr>().expect("an IPv6 address").octets());
    if let Some((kind, mac)) = option {
        rest.extend([kind, 1]);
        rest.extend(mac.0);
    }
    icmp(kind, &rest)
}

/// The payload of an ARP or RARP frame.
pub(crate) fn arp(op: u16, sender_mac: Mac, sender: &str, target: &str) -> Vec<u8> {
    let [sender, target] = [sender, target].map(|a| a.parse::<Ipv4Addr>().expect("an IPv4 address").octets());
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(op.to_be_bytes());
    message.extend(sender_mac.0);
    message.extend(sender);
    message.extend([0; 6]);
    message.extend(target);
    message
}

/// A DHCPv4 message, or the beginning of one.
pub(crate) fn bootp(op: u8, relay: &str) -> Vec<u8> {
    let mut message = vec![op, 1, 6, 0];
    message.resize(24, 0);
    message.extend(relay.parse::<Ipv4Addr>().expect("an IPv4 address").octets());
    message.resize(240, 0);
    message
}
