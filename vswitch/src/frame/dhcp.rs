//! What tells a DHCP server's message from others (RFC 2131, RFC 8415).

use std::net::Ipv4Addr;

/// UDP port of DHCPv4 servers and relay agents.
pub const SERVER: u16 = 67;
/// UDP port of DHCPv4 clients.
pub const CLIENT: u16 = 68;
/// UDP port of DHCPv6 clients.
pub const CLIENT_V6: u16 = 546;
/// UDP port of DHCPv6 servers and relay agents.
pub const SERVER_V6: u16 = 547;

/// `op` of a message to a server.
pub const REQUEST: u8 = 1;
/// `op` of a message to a client.
pub const REPLY: u8 = 2;

/// Where the relay agent's address is in a DHCPv4 message.
const RELAY: std::ops::Range<usize> = 24..28;

/// DHCPv6 message types that servers send.
pub mod message {
    /// ADVERTISE.
    pub const ADVERTISE: u8 = 2;
    /// REPLY.
    pub const REPLY: u8 = 7;
    /// RECONFIGURE.
    pub const RECONFIGURE: u8 = 10;
    /// RELAY-REPL, to a relay agent.
    pub const RELAY_REPLY: u8 = 13;

    /// Whether only a server sends it.
    pub const fn is_servers(kind: u8) -> bool {
        matches!(kind, ADVERTISE | REPLY | RECONFIGURE | RELAY_REPLY)
    }
}

/// Whether one of the four ports is DHCP's.
pub const fn is_port(port: u16) -> bool {
    matches!(port, SERVER | CLIENT | CLIENT_V6 | SERVER_V6)
}

/// Whether a DHCPv4 message is what a relay agent sends to a server: a request with the agent's address in it. No if it
/// is cut off before that address.
pub fn is_relayed(message: &[u8]) -> bool {
    let relay = message.get(RELAY).and_then(<[u8]>::first_chunk::<4>);
    message.first() == Some(&REQUEST)
        && relay.is_some_and(|&relay| Ipv4Addr::from(relay) != Ipv4Addr::UNSPECIFIED)
}
