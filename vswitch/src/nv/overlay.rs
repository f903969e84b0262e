//! What network virtualization found out about a frame: where it came from, and what is done with it beside its verdict.

use std::net::IpAddr;

use super::model::Encap;
use super::policy::NetworkId;
use crate::Mac;

/// A provider address's number in this switch's table of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PaId(pub u32);

/// Out of which tunnel a frame came. Its Ethernet header is that of the customer's frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ingress {
    /// How it was carried.
    pub encap: Encap,
    /// The virtual subnet it was sent in; not yet compared with anything.
    pub vsid: u32,
    /// Outer source address, which claims to be the sending host's.
    pub src: IpAddr,
    /// Outer destination address, one of this host's.
    pub dst: IpAddr,
    /// It came in no tunnel, but through the customer network's gateway; the addresses are the packet's own.
    pub gateway: bool,
}

/// What changes in a customer's packet that is routed, or that goes by its destination's record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// The destination address in the Ethernet header.
    pub dst: Mac,
    /// The source address in the Ethernet header.
    pub src: Mac,
    /// Whether the packet was routed: its TTL or hop limit becomes one less.
    pub hop: bool,
}

/// The tunnel that a frame goes into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// How it is carried.
    pub encap: Encap,
    /// The virtual subnet of its destination.
    pub vsid: u32,
    /// Outer source address.
    pub src: PaId,
    /// Outer destination address.
    pub dst: PaId,
}

/// Which hosts a flooded frame is replicated to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// All that have guests of its virtual subnet.
    All,
    /// Those that have guests there whose address is not known: only they can have an address that no record names.
    Unknown,
}

/// The gateway by which a packet leaves its customer network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// The customer network, in the policy of now.
    pub network: NetworkId,
    /// Which of its gateways at this host.
    pub gateway: u16,
}

/// What is done with a frame on its way beside its verdict. The default is nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overlay {
    /// Changes of the customer's packet itself.
    pub rewrite: Option<Rewrite>,
    /// It goes to another host; its receiver is the uplink.
    pub tunnel: Option<Tunnel>,
    /// It leaves its customer network; its receiver is the uplink, and [`super::exit`] makes it a frame of the physical network's.
    pub exit: Option<Exit>,
    /// A flooded frame goes to the other hosts of its virtual subnet, too.
    pub replicate: bool,
}

impl Overlay {
    /// Nothing is done.
    pub const NONE: Self = Self { rewrite: None, tunnel: None, exit: None, replicate: false };
}
