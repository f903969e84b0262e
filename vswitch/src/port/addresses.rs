//! Owned addresses: a port with a list of IP addresses may use no others, as the source of packets or in ARP and neighbour
//! discovery. Only what the port sends is looked at, so its peers need no check of their own.
//!
//! Owned are the listed prefixes, and the link-local address that the Ethernet source makes (EUI-64, RFC 4291 appendix A). "The
//! port's MAC address" is the Ethernet source of the frame, which the source check has admitted by now.
//!
//! | frame | passes if |
//! |---|---|
//! | IPv4 | the source is owned; or is 0.0.0.0 and the packet is from a DHCP client or IGMP |
//! | IPv6 | the source is owned; or is `::` and the packet is a neighbour or router solicitation or MLD |
//! | ARP | a well-formed request or reply from the port's MAC address; the sender address is owned, or 0.0.0.0 in a request |
//! | RARP | a well-formed request from the port's MAC address; the sender address is owned or 0.0.0.0 |
//! | neighbour discovery | not fragmented; the target of an advertisement is owned; link-layer options of solicitations, neighbour advertisements and redirects can all be seen and are the port's MAC address |
//! | other ethertypes | always |
//!
//! A packet with a source that is not owned is `address-not-owned`; ARP, RARP and neighbour discovery are `neighbour-spoofed`.
//! VRRP and the like have no exception: the virtual address is to be listed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::Mac;
use crate::event::Event;
use crate::frame::arp::{self, Arp};
use crate::frame::dhcp;
use crate::frame::ethernet::ethertype;
use crate::frame::headers::{Fragment, Headers, Ip};
use crate::frame::neighbour::{Neighbour, Unreadable, kind};
use crate::frame::protocol;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, stop};

/// `ICMPv6` types of multicast listeners (RFC 2710, RFC 3810).
mod mld {
    pub(super) const REPORT: u8 = 131;
    pub(super) const DONE: u8 = 132;
    pub(super) const REPORT_V2: u8 = 143;
}

/// A frame that uses an address it may not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Spoofed {
    reason: DropReason,
    /// The address, where one can be told.
    address: Option<IpAddr>,
}

/// Drops what uses an address that the port does not own.
pub(crate) fn owned(frame: &mut Frame<'_>) -> Step {
    let Some(list) = &frame.port.policy.addresses else { return Step::Continue(()) };
    let headers = match frame.visible() {
        Ok(headers) => headers,
        Err(reason) => return stop(reason),
    };
    let owned = Owned { list, mac: frame.src };
    match owned.check(&headers, frame.head) {
        Ok(()) => Step::Continue(()),
        Err(Spoofed { reason, address }) => {
            if let Some(address) = address {
                frame.notice(Event::AddressSpoofed { port: frame.port.id, address });
            }
            stop(reason)
        }
    }
}

/// Whether a port owns an address: it is in `list`, or the link-local one of `mac`.
pub(crate) fn owns(list: &[IpNet], mac: Mac, address: IpAddr) -> bool {
    list.iter().any(|prefix| prefix.contains(&address)) || address == link_local(mac)
}

/// fe80::/64 with the interface identifier that the Ethernet address makes.
fn link_local(mac: Mac) -> IpAddr {
    let [m0, m1, m2, m3, m4, m5] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m0 ^ 2, m1, m2, 0xff, 0xfe, m3, m4, m5]).into()
}

/// What a port may use.
#[derive(Clone, Copy, Debug)]
struct Owned<'a> {
    list: &'a [IpNet],
    mac: Mac,
}

impl Owned<'_> {
    fn has(&self, address: IpAddr) -> bool {
        owns(self.list, self.mac, address)
    }

    fn check(&self, headers: &Headers, head: &[u8]) -> Result<(), Spoofed> {
        match (&headers.ip, headers.ethertype) {
            (Some(ip), _) => {
                if !(self.has(ip.src) || ip.src.is_unspecified() && may_be_unspecified(ip)) {
                    return Err(Spoofed { reason: DropReason::AddressNotOwned, address: Some(ip.src) });
                }
                match Neighbour::parse(headers, head) {
                    Ok(Some(message)) => self.neighbour(&message),
                    Ok(None) => Ok(()),
                    Err(Unreadable) => Err(spoofed(None)),
                }
            }
            (None, ethertype::ARP | ethertype::RARP) => {
                let message = head.get(headers.payload..).and_then(Arp::parse).ok_or(spoofed(None))?;
                self.arp(&message, headers.ethertype)
            }
            (None, _) => Ok(()),
        }
    }

    fn arp(&self, message: &Arp, ethertype: u16) -> Result<(), Spoofed> {
        let sender = IpAddr::V4(message.sender);
        let probe = message.sender == Ipv4Addr::UNSPECIFIED;
        let allowed = match (ethertype, message.op) {
            (ethertype::ARP, arp::op::REQUEST) | (ethertype::RARP, arp::op::REVERSE_REQUEST) => {
                probe || self.has(sender)
            }
            (ethertype::ARP, arp::op::REPLY) => self.has(sender),
            _ => false,
        };
        if allowed && message.hardware == arp::ETHERNET && message.sender_mac == self.mac {
            return Ok(());
        }
        Err(spoofed(Some(sender)))
    }

    fn neighbour(&self, message: &Neighbour<'_>) -> Result<(), Spoofed> {
        let target = message.target();
        if message.kind() == kind::ADVERTISEMENT && !target.is_some_and(|target| self.has(target)) {
            return Err(spoofed(target));
        }
        // A router's address is its source, which is owned; what else an advertisement says is for router guard to judge, and
        // it may be longer than what can be seen.
        if message.kind() == kind::ROUTER_ADVERTISEMENT || message.link_layer_is(self.mac) == Ok(true) {
            return Ok(());
        }
        Err(spoofed(target))
    }
}

/// The reason for everything but packets with a wrong source.
const fn spoofed(address: Option<IpAddr>) -> Spoofed {
    Spoofed { reason: DropReason::NeighbourSpoofed, address }
}

/// Whether a packet is one that is sent by who has no address yet.
fn may_be_unspecified(ip: &Ip) -> bool {
    match (ip.src, ip.protocol, ip.icmp) {
        (IpAddr::V4(_), protocol::UDP, _) => {
            ip.fragment == Fragment::Whole && ip.ports == Some((dhcp::CLIENT, dhcp::SERVER))
        }
        (IpAddr::V4(_), protocol::IGMP, _) => true,
        (IpAddr::V6(_), protocol::ICMPV6, Some((message, _))) => matches!(
            message,
            kind::SOLICITATION | kind::ROUTER_SOLICITATION | mld::REPORT | mld::DONE | mld::REPORT_V2
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_that_of_rfc_4291_appendix_a() {
        let mac = Mac([0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde]);
        assert_eq!(Ok(link_local(mac)), "fe80::3656:78ff:fe9a:bcde".parse());
    }
}
