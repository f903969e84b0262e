//! Customers' frames, written out.

use std::net::{IpAddr, Ipv4Addr};

use vswitch::Mac;
use vswitch::nv::policy::ROUTER_MAC;

use crate::support::slow_sum;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ethernet(dst: Mac, src: Mac, kind: u16) -> Vec<u8> {
    [&dst.0[..], &src.0, &kind.to_be_bytes()].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A packet with this payload of a protocol.
pub(crate) fn packet(
    (dst_mac, dst): (Mac, IpAddr),
    (src_mac, src): (Mac, IpAddr),
    protocol: u8,
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    if dst.is_ipv4() {
        let mut frame = ethernet(dst_mac, src_mac, 0x0800);
        let length = (20 + payload.len()) as u16;
        let mut header = vec![0x45, 0, (length >> 8) as u8, length as u8, 0, 1, 0x40, 0, ttl, protocol, 0, 0];
        header.extend(octets(src));
        header.extend(octets(dst));
        let sum = !slow_sum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(header);
        frame.extend(payload);
        frame
    } else {
        let mut frame = ethernet(dst_mac, src_mac, 0x86dd);
        frame.extend([0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([protocol, ttl]);
        frame.extend(octets(src));
        frame.extend(octets(dst));
        frame.extend(payload);
        frame
    }
}

/// A UDP packet from one port to another; `payload` tells it from others.
pub(crate) fn udp(to: (Mac, IpAddr), from: (Mac, IpAddr), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut segment = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    segment.extend(payload);
    let pseudo = [octets(from.1), octets(to.1), vec![0, 17, (length >> 8) as u8, length as u8]].concat();
    let sum = match !slow_sum(&[&pseudo, &even(&segment)]) {
        0 => 0xffff,
        sum => sum,
    };
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    packet(to, from, 17, 64, &segment)
}

fn even(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes
}

/// An echo request.
pub(crate) fn echo(to: (Mac, IpAddr), from: (Mac, IpAddr), ttl: u8) -> Vec<u8> {
    if to.1.is_ipv4() {
        packet(to, from, 1, ttl, &[8, 0, 0xf7, 0xfc, 0, 1, 0, 2])
    } else {
        packet(to, from, 58, ttl, &[128, 0, 0, 0, 0, 1, 0, 2])
    }
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => panic!("ARP is for IPv4"),
    }
}

/// An ARP message.
pub(crate) fn arp(dst: Mac, op: u16, sender: (Mac, IpAddr), target: (Mac, IpAddr)) -> Vec<u8> {
    let mut frame = ethernet(dst, sender.0, 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(op.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend(mac.0);
        frame.extend(v4(address).octets());
    }
    frame.resize(60, 0);
    frame
}

/// A broadcast ARP request.
pub(crate) fn who_has(target: IpAddr, sender: (Mac, IpAddr)) -> Vec<u8> {
    arp(Mac::BROADCAST, 1, sender, (Mac([0; 6]), target))
}

/// A neighbour solicitation to the target's group, or an advertisement to all nodes.
pub(crate) fn discovery(kind: u8, target: IpAddr, sender: (Mac, IpAddr), dst: (Mac, IpAddr)) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(octets(target));
    message.extend([if kind == 135 { 1 } else { 2 }, 1]);
    message.extend(sender.0.0);
    let length = message.len() as u16;
    let pseudo = [octets(sender.1), octets(dst.1), vec![0, 0, 0, length as u8, 0, 0, 0, 58]].concat();
    let sum = !slow_sum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(dst, sender, 58, 255, &message)
}

/// The router's place as guests see it.
pub(crate) fn router(address: &str) -> (Mac, IpAddr) {
    (ROUTER_MAC, ip(address))
}
