//! Wire formats: read-only views of headers, checksums and offloads.
//!
//! Views look at the first bytes of a frame only and never assume that more is there than they have checked.

pub mod arp;
pub mod checksum;
pub mod claims;
pub mod datagrams;
pub mod dhcp;
pub mod ethernet;
pub mod headers;
pub mod ipv4;
pub mod ipv6;
pub mod join;
pub mod neighbour;
pub mod offload;
pub mod segment;
pub mod singular;
pub mod tag;
pub mod tcp;

/// Numbers of IP protocols that the switch tells apart.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// `ICMPv6`.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// "No next header": nothing follows.
    pub const NONE: u8 = 59;
    /// IPv6 mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol (RFC 7401).
    pub const HOST_IDENTITY: u8 = 139;
    /// Shim6 (RFC 5533).
    pub const SHIM6: u8 = 140;
}
