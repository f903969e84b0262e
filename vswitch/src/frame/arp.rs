//! ARP and RARP for IPv4 over Ethernet (RFC 826, RFC 903).

use std::net::Ipv4Addr;

use crate::Mac;

/// Bytes of a message.
pub const LEN: usize = 28;

/// Operations.
pub mod op {
    /// Who has the target address?
    pub const REQUEST: u16 = 1;
    /// The sender has the sender address.
    pub const REPLY: u16 = 2;
    /// RARP: who knows my address? Sent to announce where a station is.
    pub const REVERSE_REQUEST: u16 = 3;
}

/// Hardware type 1 (Ethernet), protocol type IPv4, address lengths 6 and 4.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// Operation, see [`op`].
    pub op: u16,
    /// Sender's Ethernet address.
    pub sender_mac: Mac,
    /// Sender's IP address.
    pub sender: Ipv4Addr,
}

impl Arp {
    /// Looks at the payload of an ARP or RARP frame; `None` if it is cut off or about anything but IPv4 over Ethernet.
    /// What follows the message is padding.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let message: &[u8; LEN] = payload.first_chunk()?;
        let (kind, rest) = message.split_first_chunk::<6>()?;
        let (op, rest) = rest.split_first_chunk::<2>()?;
        let (mac, rest) = rest.split_first_chunk::<6>()?;
        let ip = *rest.first_chunk::<4>()?;
        (*kind == KIND).then(|| Self {
            op: u16::from_be_bytes(*op),
            sender_mac: Mac(*mac),
            sender: ip.into(),
        })
    }
}
