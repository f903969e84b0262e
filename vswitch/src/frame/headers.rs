//! The headers of a frame down to the transport ports, as policy sees them.

use std::net::IpAddr;

use crate::frame::ethernet::Ethernet;
use crate::trace::DropReason;

/// Which part of an IP packet a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The beginning, with the next header.
    First,
    /// Something from its middle or end, without a next header.
    Later,
}

/// The IP part of [`Headers`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol after extension headers.
    pub protocol: u8,
    /// Which part of the packet this is.
    pub fragment: Fragment,
    /// Source and destination port of TCP and UDP; `None` in later fragments.
    pub ports: Option<(u16, u16)>,
    /// TCP flags; 0 for everything else.
    pub tcp_flags: u8,
    /// Type and code of ICMP and ICMPv6; `None` in later fragments.
    pub icmp: Option<(u8, u8)>,
    /// Where the header of `protocol` begins, from the frame's beginning.
    pub upper: usize,
}

/// What policy looks at beyond Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Ethertype behind the (at most two) tags.
    pub ethertype: u16,
    /// Where the payload of Ethernet begins: 14, 18 or 22.
    pub payload: usize,
    /// The IP packet, if it is one.
    pub ip: Option<Ip>,
}

impl Headers {
    /// Looks at the beginning of a frame of `len` bytes in all.
    pub fn parse(head: &[u8], len: u32) -> Result<Self, DropReason> {
        let _ = len;
        let ether = Ethernet::parse(head).ok_or(DropReason::MalformedPacket)?;
        Ok(Self { ethertype: ether.ethertype(), payload: ether.header_len(), ip: None })
    }
}
