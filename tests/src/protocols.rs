//! Messages that policy cares about, as frames: ARP, neighbour discovery, router messages, DHCP.
//!
//! Each takes a [`Frame`] with its addresses set and fills in what is above them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frame::{Frame, Mac};

/// ARP operations.
pub mod arp {
    /// Who has it?
    pub const REQUEST: u16 = 1;
    /// I have it.
    pub const REPLY: u16 = 2;
}

/// ICMP and ICMPv6 types.
pub mod icmp {
    /// ICMP: use another router.
    pub const REDIRECT: u8 = 5;
    /// ICMP: an echo request.
    pub const ECHO: u8 = 8;
    /// ICMP: here is a router.
    pub const ROUTER_ADVERTISEMENT: u8 = 9;
    /// ICMP: is there a router?
    pub const ROUTER_SOLICITATION: u8 = 10;
    /// ICMPv6: an echo request.
    pub const V6_ECHO: u8 = 128;
    /// ICMPv6: is there a router?
    pub const V6_ROUTER_SOLICITATION: u8 = 133;
    /// ICMPv6: here is a router.
    pub const V6_ROUTER_ADVERTISEMENT: u8 = 134;
    /// ICMPv6: who has it?
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// ICMPv6: I have it.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// ICMPv6: use another router.
    pub const V6_REDIRECT: u8 = 137;
}

/// DHCP: what a client sends.
pub const BOOTREQUEST: u8 = 1;
/// DHCP: what a server sends.
pub const BOOTREPLY: u8 = 2;

impl Frame {
    /// An ARP message; `sender` and `target` are (MAC, IP) as it claims.
    #[must_use]
    pub fn arp(self, operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Self {
        let mut bytes = vec![0, 1, 8, 0, 6, 4];
        bytes.extend(operation.to_be_bytes());
        for (mac, ip) in [sender, target] {
            bytes.extend(mac.iter().chain(&ip.octets()));
        }
        self.ethertype(0x0806).payload(&bytes)
    }

    /// ICMP over the IPv4 header that is there.
    #[must_use]
    pub fn icmp4(self, kind: u8, code: u8) -> Self {
        self.protocol(1).payload(&[&[kind, code, 0, 0][..], &[0; 28]].concat())
    }

    /// ICMPv6 over the IPv6 headers that are there.
    #[must_use]
    pub fn icmp6(self, kind: u8, code: u8) -> Self {
        self.protocol(58).payload(&[&[kind, code, 0, 0][..], &[0; 28]].concat())
    }

    /// A neighbour solicitation or advertisement about `target`, with a link-layer address option.
    #[must_use]
    pub fn neighbour(self, kind: u8, target: Ipv6Addr, link_layer: Option<Mac>) -> Self {
        let mut bytes = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
        bytes.extend(target.octets());
        if let Some(mac) = link_layer {
            // Source link-layer address in solicitations, target's in advertisements; one unit of eight bytes.
            bytes.extend([if kind == icmp::NEIGHBOUR_SOLICITATION { 1 } else { 2 }, 1]);
            bytes.extend(mac);
        }
        self.protocol(58).payload(&bytes)
    }

    /// A DHCP message of IPv4 between two UDP ports: operation and the relay's address (`giaddr`).
    #[must_use]
    pub fn dhcp4(self, ports: (u16, u16), operation: u8, relay: Ipv4Addr) -> Self {
        let mut bytes = vec![operation, 1, 6, 0, 0x11, 0x22, 0x33, 0x44];
        bytes.resize(24, 0);
        bytes.extend(relay.octets());
        bytes.resize(236, 0);
        bytes.extend([0x63, 0x82, 0x53, 0x63, 0xff]);
        self.udp(ports.0, ports.1).payload(&bytes)
    }

    /// A DHCPv6 message of this type between two UDP ports.
    #[must_use]
    pub fn dhcp6(self, ports: (u16, u16), kind: u8) -> Self {
        self.udp(ports.0, ports.1).payload(&[kind, 1, 2, 3, 0, 1, 0, 2, 9, 9])
    }
}
