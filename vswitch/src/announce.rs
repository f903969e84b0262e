//! Telling the physical network where a guest is: frames in the guest's name by which switches learn the way to its address, and
//! stations renew what they know of it.
//!
//! The frames are untagged; [`networks`] says in which networks they are to be sent. They are of the switch's own making and so not
//! subject to the port's policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::arp;
use crate::frame::checksum::Sum;
use crate::frame::ethernet::ethertype;
use crate::frame::neighbour::kind;
use crate::frame::protocol;
use crate::frame::tag::Tagging;
use crate::port::vlan::{Receives, Vlan};
use crate::port::{Port, PortKind};
use crate::snapshot::Snapshot;
use crate::{Mac, Segment};

/// IP addresses that are announced for one port, at most.
pub const MAX_ADDRESSES: usize = 64;

/// Networks in which one port is announced, at most.
pub const MAX_NETWORKS: usize = 64;

/// Bytes of the shortest frame on a wire, without FCS.
const SHORTEST: usize = 60;

/// All nodes of the link: ff02::1 and its Ethernet address (RFC 4291 section 2.7.1, RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// What announces a guest with this MAC address: a RARP request, which needs no IP address, and one message for each of its addresses,
/// the first [`MAX_ADDRESSES`] of those that can be announced.
///
/// Left out are addresses that are no station's, and link-local IPv6 addresses: an advertisement says whether its sender is a router, which
/// the switch cannot know, and hosts would forget a router whose link-local address says that it is none (RFC 4861 section 7.2.5).
pub fn frames(mac: Mac, addresses: impl Iterator<Item = IpAddr>) -> Vec<Vec<u8>> {
    let announced = addresses.filter_map(|address| match address {
        IpAddr::V4(address) => gratuitous_arp(mac, address),
        IpAddr::V6(address) => advertisement(mac, address),
    });
    std::iter::once(rarp(mac)).chain(announced.take(MAX_ADDRESSES)).collect()
}

/// A broadcast RARP request in which a station asks for its own address (RFC 903): every switch on its way learns where that is.
pub fn rarp(mac: Mac) -> Vec<u8> {
    let nobody = Ipv4Addr::UNSPECIFIED;
    message(ethertype::RARP, arp::op::REVERSE_REQUEST, (mac, nobody), (mac, nobody))
}

/// An ARP announcement (RFC 5227 section 3): a broadcast request of the station for its own address.
fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> Option<Vec<u8>> {
    let none = address.is_unspecified() || address.is_multicast() || address.is_broadcast();
    if none || address.is_loopback() {
        return None;
    }
    Some(message(ethertype::ARP, arp::op::REQUEST, (mac, address), (Mac([0; 6]), address)))
}

/// A broadcast ARP or RARP frame; sender and target are hardware and protocol address.
fn message(ethertype: u16, op: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(Mac::BROADCAST, sender.0, ethertype);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame.extend_from_slice(&op.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend_from_slice(&mac.0);
        frame.extend_from_slice(&address.octets());
    }
    frame.resize(SHORTEST, 0);
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861 section 7.2.6) that overrides what stations know.
fn advertisement(mac: Mac, address: Ipv6Addr) -> Option<Vec<u8>> {
    const LENGTH: u16 = 32;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER: u8 = 2;
    let none = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    if none || address.is_unicast_link_local() {
        return None;
    }
    let mut frame = ethernet(ALL_NODES_MAC, mac, ethertype::IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&LENGTH.to_be_bytes());
    frame.extend_from_slice(&[protocol::ICMPV6, 255]);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&ALL_NODES.octets());
    let mut icmp = Vec::with_capacity(usize::from(LENGTH));
    icmp.extend_from_slice(&[kind::ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0]);
    icmp.extend_from_slice(&address.octets());
    icmp.extend_from_slice(&[TARGET_LINK_LAYER, 1]);
    icmp.extend_from_slice(&mac.0);
    // RFC 8200 section 8.1: the pseudo-header counts too.
    let mut sum = Sum::new();
    sum.add(&address.octets());
    sum.add(&ALL_NODES.octets());
    sum.add_u16(LENGTH);
    sum.add_u16(u16::from(protocol::ICMPV6));
    sum.add(&icmp);
    icmp[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    frame.extend_from_slice(&icmp);
    Some(frame)
}

fn ethernet(dst: Mac, src: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend_from_slice(&dst.0);
    frame.extend_from_slice(&src.0);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame
}

/// The networks in which a guest is to be announced: those it can send in. Of a trunk the native one, then those of its VLANs that other
/// ports of the switch are in, then the rest by number, [`MAX_NETWORKS`] in all. None for a virtual subnet, whose addresses the wire
/// does not carry.
pub fn networks(snap: &Snapshot, port: &Port) -> Vec<Segment> {
    let mut networks: Vec<Segment> = port.segment(None).into_iter().collect();
    if port.policy.vsid.is_some() {
        networks.clear();
    } else if let Vlan::Trunk { allowed, .. } = &port.policy.vlan {
        let used = snap.ports().filter(|other| other.id != port.id && other.kind != PortKind::Uplink);
        let used = used.flat_map(|other| {
            let private = other.policy.vlan.private().map(|(primary, secondaries)| {
                std::iter::once(primary).chain(secondaries).map(|id| Segment(id.into())).collect::<Vec<_>>()
            });
            other.segment(None).into_iter().chain(private.into_iter().flatten())
        });
        let allowed =
            |segment: &Segment| u16::try_from(segment.0).is_ok_and(|id| id != 0 && allowed.contains(id));
        let rest = (1..=crate::port::vlan::MAX).map(|id| Segment(id.into()));
        for segment in used.filter(allowed).chain(rest.filter(allowed)) {
            if networks.len() >= MAX_NETWORKS {
                break;
            }
            if !networks.contains(&segment) {
                networks.push(segment);
            }
        }
    }
    networks
}

/// How the uplink gets an untagged frame of the switch's own in one of these networks; `None` = not at all.
pub fn tagging(uplink: &Port, network: Segment) -> Option<Tagging> {
    match uplink.receives(network) {
        Receives::No => None,
        Receives::Untagged => Some(Tagging::Keep),
        Receives::Tagged(vid) => Some(Tagging::Write { vid, priority: false }),
    }
}
