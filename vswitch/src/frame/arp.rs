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

/// Protocol type IPv4, address lengths 6 and 4.
pub(crate) const KIND: [u8; 4] = [8, 0, 6, 4];

/// Hardware type Ethernet.
pub const ETHERNET: u16 = 1;

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// Hardware type; anything but [`ETHERNET`] is odd, but some receivers take it.
    pub hardware: u16,
    /// Operation, see [`op`].
    pub op: u16,
    /// Sender's Ethernet address.
    pub sender_mac: Mac,
    /// Sender's IP address.
    pub sender: Ipv4Addr,
    /// Target's IP address: the one that is asked for, or the one of who asked.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Looks at the payload of an ARP or RARP frame; `None` if it is cut off or about anything but IPv4 over addresses of six
    /// bytes. What follows the message is padding.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let &[h0, h1, k0, k1, k2, k3, o0, o1, ref rest @ ..] = payload.first_chunk::<LEN>()?;
        let (mac, rest) = rest.split_first_chunk::<6>()?;
        let (ip, rest) = rest.split_first_chunk::<4>()?;
        let target = *rest.last_chunk::<4>()?;
        (KIND == [k0, k1, k2, k3]).then(|| Self {
            hardware: u16::from_be_bytes([h0, h1]),
            op: u16::from_be_bytes([o0, o1]),
            sender_mac: Mac(*mac),
            sender: (*ip).into(),
            target: target.into(),
        })
    }
}
