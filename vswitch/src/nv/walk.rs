//! What a guest of a virtual subnet sends: whose packet it is, where its destination is, and how it gets there.
//!
//! | packet | goes |
//! |---|---|
//! | not IPv4, IPv6 or ARP, or with a VLAN tag | nowhere |
//! | ARP, neighbour discovery | as [`super::discovery`] says |
//! | broadcast, multicast | to all guests of the virtual subnet; one copy to each other host that has any |
//! | unicast | to the guest that the destination's record names, whatever its MAC destination says |
//!
//! 1. *Source*: the record of the packet's source address in the sender's virtual subnet must name the frame's MAC source ([`sender`]).
//! 2. *Route*: longest prefix of the customer network. The router's own addresses answer to echo only.
//! 3. *Destination*: the record of the destination or next hop. Its MAC address becomes the frame's destination. If the packet leaves its
//!    virtual subnet, or was sent to the router, it is a hop: TTL one less, MAC source the router's.
//! 4. At this host: to the port, judged there by that port's policy. At another: in a tunnel, from the provider address that the source's
//!    record names.
//!
//! No packet leaves its customer network: each look-up is in a virtual subnet of that network.

use std::net::IpAddr;

use super::model::{Encap, Kind, Record};
use super::overlay::{Overlay, PaId, Rewrite, Tunnel};
use super::policy::{Policy, ROUTER_MAC, Target, VirtualSubnet, is_link_local};
use super::records::{Handle, Of, View};
use super::{Answer, discovery, gateway, learning};
use crate::event::Event;
use crate::frame::ethernet::ethertype;
use crate::frame::headers::Ip;
use crate::frame::protocol;
use crate::port::Port;
use crate::snapshot::FloodSet;
use crate::trace::DropReason;
use crate::verdict::{Frame, Verdict};
use crate::{Mac, PortId, Segment};

/// Where a frame of a virtual subnet's port goes: always a verdict.
pub(crate) fn out(frame: &mut Frame<'_>, policy: &Policy) -> Verdict {
    judge(frame, policy).unwrap_or_else(Verdict::Drop)
}

fn judge(frame: &mut Frame<'_>, policy: &Policy) -> Result<Verdict, DropReason> {
    let vsid = frame.segment.0;
    if frame.tag.is_some() {
        return Err(DropReason::NvEthertype);
    }
    let Some(subnet) = policy.subnet(vsid) else {
        frame.note(|| format!("virtual subnet {vsid} belongs to no customer network"));
        return Err(DropReason::NvNoRoute);
    };
    let headers = *frame.headers()?;
    if headers.ethertype == ethertype::ARP {
        return discovery::arp(frame, policy, subnet);
    }
    let Some(ip) = headers.ip else { return Err(DropReason::NvEthertype) };
    if let Some(message) = discovery::message(&headers, frame.head)? {
        return discovery::neighbour(frame, policy, subnet, &ip, &message);
    }
    if is_group(subnet, ip.dst) {
        sender(frame, policy, subnet, ip.src)?;
        return Ok(flood(frame));
    }
    if frame.dst.is_group() {
        // Routers do not forward what was sent to a whole link (RFC 1812, 5.3.4).
        return Err(DropReason::NvDestinationUnknown);
    }
    unicast(frame, policy, subnet, &ip)
}

/// Whether all guests of a virtual subnet are meant: a group, or its broadcast address.
pub(super) fn is_group(subnet: &VirtualSubnet, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let directed = |prefix: &ipnet::IpNet| {
                prefix.prefix_len() < 31 && prefix.addr().is_ipv4() && prefix.broadcast() == address
            };
            v4.is_broadcast() || v4.is_multicast() || subnet.prefixes.iter().any(directed)
        }
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

/// Whose packet it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    pub(super) view: View,
}

/// Who sends with a customer address from the frame's port: the guest whose record has address and MAC address; one whose address is not
/// known, which is learned; one that forwards, with an address that is in none of the network's subnets.
///
/// Which of these it is follows from the address alone, so that no decision that is remembered rests on a record that is not there.
pub(super) fn sender(
    frame: &mut Frame<'_>,
    policy: &Policy,
    subnet: &VirtualSubnet,
    address: IpAddr,
) -> Result<Sender, DropReason> {
    let (vsid, mac) = (frame.segment.0, frame.src);
    let records = &frame.state.nv.records;
    let station =
        || records.find(vsid, Of::Station(mac)).filter(|(_, view)| here(frame, policy, view).is_some());
    if address.is_unspecified() {
        // It has no address yet.
        let Some((record, view)) = station() else { return unknown_sender(frame, address) };
        frame.records[0] = record;
        return Ok(Sender { view });
    }
    if !subnet.has(address) {
        let inside = matches!(policy.route(subnet.network, address), Some(Target::OnLink(_)));
        let Some((record, view)) = records.find(vsid, Of::Gateway(mac)).filter(|_| !inside) else {
            return unknown_sender(frame, address);
        };
        frame.records[0] = record;
        frame.note(|| "forwarded by the sender, which may, by its record".into());
        return Ok(Sender { view });
    }
    let found = records.find(vsid, Of::Address(address));
    // A learned address is learned again, so that it is not forgotten, or by another guest.
    let learned = found.is_none_or(|(_, view)| view.kind == Kind::Dynamic && (view.local || view.mac != mac));
    if learned
        && !subnet.is_router(address)
        && let Some((_, station)) = station()
    {
        return learn(frame, policy, subnet, address, &station);
    }
    match found {
        Some((record, view)) if view.mac == mac => {
            frame.records[0] = record;
            frame.note(|| format!("{address} is the sender's, by its record"));
            Ok(Sender { view })
        }
        Some((_, view)) => {
            frame.single = true;
            let port = frame.port.id;
            frame.notice(Event::NvConflict { port, vsid, address, mac, owner: view.mac });
            frame.note(|| format!("{address} is the address of {}, by its record", view.mac));
            Err(DropReason::NvSourceUnknown)
        }
        None => unknown_sender(frame, address),
    }
}

/// Somebody may know the record that is not there.
fn miss(frame: &Frame<'_>, vsid: u32, address: IpAddr) {
    if !frame.dry {
        frame.state.nv.wanted.missed((vsid, Of::Address(address)), frame.now);
    }
}

fn unknown_sender(frame: &mut Frame<'_>, address: IpAddr) -> Result<Sender, DropReason> {
    miss(frame, frame.segment.0, address);
    frame.single = true;
    let (port, vsid, reason) = (frame.port.id, frame.segment.0, DropReason::NvSourceUnknown);
    frame.notice(Event::NvLookupFailed { port, vsid, address, reason });
    frame.note(|| format!("no record of {address} in virtual subnet {vsid} names the sender"));
    Err(reason)
}

/// The guest whose own record is `station` uses an address.
fn learn(
    frame: &mut Frame<'_>,
    policy: &Policy,
    subnet: &VirtualSubnet,
    address: IpAddr,
    station: &View,
) -> Result<Sender, DropReason> {
    let (vsid, mac, port) = (frame.segment.0, frame.src, frame.port);
    let tables = &frame.state.nv;
    let sender = |frame: &mut Frame<'_>| match frame.state.nv.records.find(vsid, Of::Address(address)) {
        Some((record, view)) if view.mac == mac => {
            frame.records[0] = record;
            Ok(Sender { view })
        }
        _ => unknown_sender(frame, address),
    };
    if frame.dry {
        frame.note(|| format!("{address} would be learned"));
        return Ok(Sender { view: *station });
    }
    let at = here(frame, policy, station).and_then(|pa| tables.records.peers.address(pa));
    let Some(pa) = at.filter(|_| subnet.has(address)) else {
        return unknown_sender(frame, address);
    };
    let (kind, encap) = (Kind::Dynamic, station.encap);
    let record = Record { vsid, ca: address, mac, pa, kind, encap, rewrite_pa: None, next: None };
    let limit = port.policy.address_limit;
    frame.revisit = true; // to keep it from being forgotten while frames hit the flow cache
    match tables.learned.learn(frame.now, port.id, limit, &record, &tables.records) {
        learning::Outcome::Known => {}
        learning::Outcome::New => {
            frame.notice(Event::NvLearned { port: port.id, vsid, address, mac });
        }
        learning::Outcome::Taken { from } => {
            frame.notice(Event::NvTaken { port: port.id, vsid, address, mac, from });
        }
        learning::Outcome::TooMany => {
            let limit = if limit == 0 { learning::DEFAULT_LIMIT } else { limit };
            frame.single = true;
            frame.notice(Event::AddressLimitReached { port: port.id, address, limit });
            return Err(DropReason::AddressLimit);
        }
    }
    sender(frame)
}

/// To every guest of the virtual subnet.
pub(super) fn flood(frame: &mut Frame<'_>) -> Verdict {
    frame.overlay = Some(Overlay { replicate: true, ..Overlay::default() });
    Verdict::Flood(FloodSet::Members)
}

fn unicast(
    frame: &mut Frame<'_>,
    policy: &Policy,
    subnet: &VirtualSubnet,
    ip: &Ip,
) -> Result<Verdict, DropReason> {
    let vsid = frame.segment.0;
    let from = sender(frame, policy, subnet, ip.src)?;
    let target =
        if is_link_local(ip.dst) { Some(Target::OnLink(vsid)) } else { policy.route(subnet.network, ip.dst) };
    if policy.is_router(subnet.network, ip.dst) {
        let echo = matches!(
            (ip.protocol, ip.icmp),
            (protocol::ICMP, Some((8, 0))) | (protocol::ICMPV6, Some((128, 0)))
        );
        frame.note(|| format!("{} is the customer network's router", ip.dst));
        return if echo { Ok(answer(frame, Answer::Echo)) } else { Err(DropReason::NvForRouter) };
    }
    let (hop, to) = match target {
        Some(Target::OnLink(to)) => (ip.dst, to),
        Some(Target::Via { hop, vsid }) => (hop, vsid),
        Some(Target::Gateway) => {
            return gateway::leave(frame, policy, (subnet.network, &subnet.routers), ip.dst);
        }
        None => return no_route(frame, ip.dst),
    };
    frame.note(|| match target {
        Some(Target::Via { .. }) => format!("{} is behind {hop} in virtual subnet {to}", ip.dst),
        _ => format!("{} is in virtual subnet {to}", ip.dst),
    });
    let records = &frame.state.nv.records;
    let mut found = records.find(to, Of::Address(hop));
    if found.is_none() && to == vsid && hop == ip.dst {
        // What a DHCP server sends to an address that its client does not have yet.
        found = records.find(to, Of::Station(frame.dst));
        frame.single = true;
    }
    let Some(found) = found else { return unknown(frame, to, hop) };
    let via = hop != ip.dst;
    let routed = to != vsid || frame.dst == ROUTER_MAC || (via && frame.dst != found.1.mac);
    if via && found.1.mac == frame.src && to == vsid {
        return Err(DropReason::SameSegmentReturn); // its own next hop
    }
    if routed && ttl(frame).is_none_or(|ttl| ttl <= 1) {
        let router = subnet.routers.iter().copied().find(|router| router.is_ipv4() == ip.dst.is_ipv4());
        frame.single = true;
        let Some(router) = router else { return Err(DropReason::NvTtlExpired) };
        return Ok(answer(frame, Answer::TimeExceeded { router }));
    }
    carry(frame, policy, &from, found, to, routed)
}

/// TTL or hop limit of the packet in an untagged frame.
fn ttl(frame: &Frame<'_>) -> Option<u8> {
    ttl_of(frame.head)
}

/// TTL or hop limit of the packet in an untagged frame; `None` = there is none.
#[inline]
pub(crate) fn ttl_of(head: &[u8]) -> Option<u8> {
    let kind = u16::from_be_bytes(*head.get(12..)?.first_chunk()?);
    match kind {
        ethertype::IPV4 => head.get(22).copied(),
        ethertype::IPV6 => head.get(21).copied(),
        _ => None,
    }
}

pub(super) fn no_route(frame: &mut Frame<'_>, address: IpAddr) -> Result<Verdict, DropReason> {
    let (port, vsid, reason) = (frame.port.id, frame.segment.0, DropReason::NvNoRoute);
    frame.notice(Event::NvLookupFailed { port, vsid, address, reason });
    Err(reason)
}

pub(super) fn unknown(frame: &mut Frame<'_>, vsid: u32, address: IpAddr) -> Result<Verdict, DropReason> {
    miss(frame, vsid, address);
    frame.single = true;
    let (port, reason) = (frame.port.id, DropReason::NvDestinationUnknown);
    frame.notice(Event::NvLookupFailed { port, vsid, address, reason });
    frame.note(|| format!("there is no record of {address} in virtual subnet {vsid}"));
    Err(reason)
}

pub(super) fn answer(frame: &mut Frame<'_>, answer: Answer) -> Verdict {
    frame.note(|| "the switch answers itself".into());
    frame.answer = Some(answer);
    Verdict::Answer
}

/// To the guest of a record in virtual subnet `to`.
pub(super) fn carry(
    frame: &mut Frame<'_>,
    policy: &Policy,
    from: &Sender,
    (handle, view): (Handle, View),
    to: u32,
    routed: bool,
) -> Result<Verdict, DropReason> {
    frame.records[1] = handle;
    let rewrite = Rewrite { dst: view.mac, src: if routed { ROUTER_MAC } else { frame.src }, hop: routed };
    let changes = rewrite.dst != frame.dst || rewrite.src != frame.src || routed;
    let rewrite = changes.then_some(rewrite);
    if view.local {
        let Some(port) = local(frame, to, view.mac) else {
            frame.note(|| format!("{} is at this host by its record, but behind no port", view.mac));
            return Err(DropReason::NvNotHere);
        };
        if port == frame.port.id {
            return Err(DropReason::SameSegmentReturn);
        }
        if let Some(rewrite) = rewrite {
            frame.overlay = Some(Overlay { rewrite: Some(rewrite), ..Overlay::default() });
            (frame.dst, frame.src) = (rewrite.dst, rewrite.src);
        }
        frame.segment = Segment(to);
        return Ok(Verdict::Unicast(port));
    }
    let packet = frame.headers()?.ip.is_some();
    if from.view.encap != view.encap || (view.encap == Encap::Rewrite && !packet) {
        frame.note(|| "source and destination are carried in different ways".into());
        return Err(DropReason::NvMethodMismatch);
    }
    let (uplink, src) = route(frame, policy, &from.view, &view)?;
    let tunnel = Tunnel { encap: view.encap, vsid: to, src, dst: view.wire };
    let peers = &frame.state.nv.records.peers;
    frame.note(|| match (peers.address(src), peers.address(view.wire)) {
        (Some(src), Some(dst)) => format!("carried from {src} to {dst} in virtual subnet {to}"),
        _ => "its provider address has just gone".into(),
    });
    frame.overlay = Some(Overlay { rewrite, tunnel: Some(tunnel), ..Overlay::default() });
    Ok(Verdict::Unicast(uplink))
}

/// By which uplink another host is reached, and from which provider address.
fn route(frame: &Frame<'_>, policy: &Policy, from: &View, to: &View) -> Result<(PortId, PaId), DropReason> {
    let peers = &frame.state.nv.records.peers;
    let unreachable = DropReason::ProviderUnreachable;
    let destination = peers.address(to.wire).ok_or(unreachable)?;
    // An address that stands for the guest alone goes where it goes.
    let own = if from.wire == from.pa { here(frame, policy, from) } else { Some(from.wire) };
    let source = own.filter(|_| to.encap != Encap::Rewrite).and_then(|own| peers.address(own));
    let provider = match source {
        Some(source) => policy.local(source).ok_or(unreachable)?,
        // A guest that arrived before its record did sends from this host all the same.
        None => policy.towards(destination).ok_or(unreachable)?,
    };
    provider.next_hop(destination).ok_or(unreachable)?;
    let src = own.or_else(|| peers.find(provider.address.addr()));
    let uplink = frame.snap.port(provider.port).map(|port| port.id);
    Ok((uplink.ok_or(unreachable)?, src.ok_or(unreachable)?))
}

/// The provider address of this host where a record says that its guest is, or is about to be: it runs before its record says so.
fn here(frame: &Frame<'_>, policy: &Policy, view: &View) -> Option<PaId> {
    let peers = &frame.state.nv.records.peers;
    let own = |pa: &PaId| peers.address(*pa).is_some_and(|address| policy.local(address).is_some());
    if view.local { Some(view.pa) } else { view.next.filter(own) }
}

/// The port behind which a guest of a virtual subnet is.
pub(super) fn local(frame: &Frame<'_>, vsid: u32, mac: Mac) -> Option<PortId> {
    frame.snap.station(vsid, mac).or_else(|| {
        let learned = frame.state.fdb.lookup(mac, Segment(vsid))?;
        let has = |port: &Port| port.learns() && port.policy.vsid == Some(vsid);
        frame.snap.port(learned).filter(|port| has(port)).map(|port| port.id)
    })
}

/// The provider address of this host that the record of a frame's sender names.
pub(super) fn home(frame: &Frame<'_>) -> Option<IpAddr> {
    let headers = frame.headers().ok()?;
    let address = match headers.ip {
        Some(ip) => ip.src,
        None => discovery::read_arp(frame).ok()?.claimed?,
    };
    let records = &frame.state.nv.records;
    let own = |of| records.find(frame.segment.0, of).filter(|(_, view)| view.local && view.mac == frame.src);
    let (_, view) = own(Of::Address(address)).or_else(|| own(Of::Station(frame.src)))?;
    records.peers.address(view.pa)
}
