//! Neighbour discovery (RFC 4861): the messages by which a station says which addresses it has, and where.

use std::net::{IpAddr, Ipv6Addr};

use crate::frame::headers::{Fragment, Headers};
use crate::frame::ipv6::{self, Ipv6};
use crate::frame::protocol;
use crate::{HEAD_LEN, Mac};

/// `ICMPv6` types.
pub mod kind {
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;

    /// Whether the type is one of neighbour discovery.
    pub const fn is_discovery(kind: u8) -> bool {
        matches!(kind, ROUTER_SOLICITATION..=REDIRECT)
    }
}

/// Where the target address is in solicitations, advertisements and redirects.
const TARGET: usize = 8;

/// Link-layer address options: source and target.
const LINK_LAYER: std::ops::RangeInclusive<u8> = 1..=2;

/// A message that is not fragmented and whose fields can be seen, though perhaps not all of its options.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour<'a> {
    /// What can be seen of it.
    message: &'a [u8],
    kind: u8,
    /// Whether that is all.
    complete: bool,
}

/// A message that cannot be judged: fragmented (which RFC 6980 forbids), cut off, or with options that are broken or
/// beyond the frame's first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable;

impl<'a> Neighbour<'a> {
    /// The message that a frame carries, if it is one of neighbour discovery. `head` is what `headers` were made of.
    ///
    /// Its length is the IP header's: no offload changes that of an ICMP message, and what follows is padding.
    pub fn parse(headers: &Headers, head: &'a [u8]) -> Result<Option<Self>, Unreadable> {
        let Some((ip, (kind, _))) = headers.ip.and_then(|ip| Some((ip, ip.icmp?))) else { return Ok(None) };
        if ip.protocol != protocol::ICMPV6 || !kind::is_discovery(kind) {
            return Ok(None);
        }
        let head = head.get(..HEAD_LEN).unwrap_or(head);
        let packet = head.get(headers.payload..).and_then(Ipv6::parse).ok_or(Unreadable)?;
        if packet.is_fragment() || ip.fragment != Fragment::Whole {
            return Err(Unreadable);
        }
        let end = headers.payload + ipv6::HEADER_LEN + usize::from(packet.payload_len());
        let visible = head.get(ip.upper..end.min(head.len())).ok_or(Unreadable)?;
        let this = Self { message: visible, kind, complete: end <= head.len() };
        if this.message.len() < this.options_at() {
            return Err(Unreadable);
        }
        Ok(Some(this))
    }

    /// `ICMPv6` type, see [`kind`].
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// The address it is about; `None` in router solicitations and advertisements, which have none.
    pub fn target(&self) -> Option<IpAddr> {
        if self.options_at() < TARGET + 16 {
            return None;
        }
        let target = *self.message.get(TARGET..)?.first_chunk::<16>()?;
        Some(Ipv6Addr::from(target).into())
    }

    /// Whether every link-layer address option says `mac`. An error if there may be options that cannot be seen.
    pub fn link_layer_is(&self, mac: Mac) -> Result<bool, Unreadable> {
        let mut rest = self.message.get(self.options_at()..).ok_or(Unreadable)?;
        while let Some(&[kind, units]) = rest.first_chunk() {
            let len = usize::from(units) * 8;
            let (option, next) = rest.split_at_checked(len.max(8)).ok_or(Unreadable)?;
            if units == 0 {
                return Err(Unreadable); // RFC 4861, 4.6
            }
            // An address of six bytes makes an option of eight.
            if LINK_LAYER.contains(&kind) && option.get(2..) != Some(&mac.0[..]) {
                return Ok(false);
            }
            rest = next;
        }
        if rest.is_empty() && self.complete { Ok(true) } else { Err(Unreadable) }
    }

    /// Where the options begin.
    fn options_at(&self) -> usize {
        match self.kind {
            kind::ROUTER_SOLICITATION => 8,
            kind::ROUTER_ADVERTISEMENT => 16,
            kind::REDIRECT => 40,
            _ => TARGET + 16,
        }
    }
}
