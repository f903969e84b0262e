//! ARP and neighbour discovery in a virtual subnet.
//!
//! | message | what becomes of it |
//! |---|---|
//! | request for the router | answered by the switch, at every host the same |
//! | request to all, of an address that has a record | answered by the switch; nothing leaves the host |
//! | request to one station (a reachability probe) | goes to the guest that has the address, which answers itself; the switch does if IP rewrite is between them |
//! | request to all, of an address without a record | if the virtual subnet has guests whose address is not known, to all local guests and to the hosts of those; else nowhere |
//! | probe whether an address is in use, which is another guest's | answered: it is |
//! | announcement, unsolicited advertisement | believed if the record says the same or was learned itself; goes where a request without a record goes, or to local guests |
//! | reply | to the guest that asked |
//!
//! Who claims an address that is not his is not believed ([`super::walk::sender`]), and the message goes nowhere. Nothing of this is
//! remembered in flow caches: every message is judged by itself.

use std::net::IpAddr;

use super::model::{Encap, Kind};
use super::policy::{Policy, ROUTER_MAC, VirtualSubnet, is_link_local};
use super::records::Of;
use super::replies::{Answer, At};
use super::walk::{self, Sender};
use crate::frame::arp::{self, Arp};
use crate::frame::headers::{Headers, Ip};
use crate::frame::neighbour::{Neighbour, Unreadable, kind};
use crate::trace::DropReason;
use crate::verdict::{Frame, Verdict};

/// What a message says, of whichever kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Message {
    /// The address that its sender says is its own; `None` = it has none yet.
    pub(super) claimed: Option<IpAddr>,
    pub(super) says: Says,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Says {
    /// Who has this address?
    Who(IpAddr),
    /// I have the claimed address, to this station.
    Mine(IpAddr),
}

/// Reads an ARP message. RARP and what is not about IPv4 over Ethernet has no place in a virtual subnet.
pub(super) fn read_arp(frame: &Frame<'_>) -> Result<Message, DropReason> {
    let payload = frame.headers()?.payload;
    let arp = frame.head.get(payload..).and_then(Arp::parse).ok_or(DropReason::NvEthertype)?;
    if arp.hardware != arp::ETHERNET {
        return Err(DropReason::NvEthertype);
    }
    if arp.sender_mac != frame.src {
        return Err(DropReason::NvSourceSpoofed);
    }
    let claimed = (!arp.sender.is_unspecified()).then_some(IpAddr::V4(arp.sender));
    let target = IpAddr::V4(arp.target);
    let says = match arp.op {
        arp::op::REQUEST => Says::Who(target),
        arp::op::REPLY => Says::Mine(target),
        _ => return Err(DropReason::NvEthertype),
    };
    Ok(Message { claimed, says })
}

/// Reads a neighbour solicitation or advertisement, if the packet is one.
pub(super) fn message(headers: &Headers, head: &[u8]) -> Result<Option<(u8, IpAddr)>, DropReason> {
    match Neighbour::parse(headers, head) {
        Ok(Some(m)) if matches!(m.kind(), kind::SOLICITATION | kind::ADVERTISEMENT) => {
            let target = m.target().ok_or(DropReason::MalformedPacket)?;
            Ok(Some((m.kind(), target)))
        }
        Ok(_) => Ok(None),
        Err(Unreadable) => Err(DropReason::MalformedPacket),
    }
}

pub(super) fn read_neighbour(ip: &Ip, (kind, target): (u8, IpAddr)) -> Message {
    if kind == kind::SOLICITATION {
        let claimed = (!ip.src.is_unspecified()).then_some(ip.src);
        Message { claimed, says: Says::Who(target) }
    } else {
        Message { claimed: Some(target), says: Says::Mine(ip.dst) }
    }
}

pub(super) fn arp(
    frame: &mut Frame<'_>,
    policy: &Policy,
    subnet: &VirtualSubnet,
) -> Result<Verdict, DropReason> {
    let message = read_arp(frame)?;
    judge(frame, policy, subnet, message)
}

pub(super) fn neighbour(
    frame: &mut Frame<'_>,
    policy: &Policy,
    subnet: &VirtualSubnet,
    ip: &Ip,
    message: &(u8, IpAddr),
) -> Result<Verdict, DropReason> {
    judge(frame, policy, subnet, read_neighbour(ip, *message))
}

fn judge(
    frame: &mut Frame<'_>,
    policy: &Policy,
    subnet: &VirtualSubnet,
    message: Message,
) -> Result<Verdict, DropReason> {
    frame.single = true;
    let vsid = frame.segment.0;
    let records = &frame.state.nv.records;
    // Every station has a link-local address, and few of them a record of it.
    if let Some(address) = message.claimed.filter(|&address| !is_link_local(address)) {
        walk::sender(frame, policy, subnet, address)?;
    }
    match message.says {
        Says::Who(target) if message.claimed == Some(target) => announce(frame, policy, subnet, target),
        Says::Who(target) if subnet.is_router(target) => {
            frame.note(|| format!("{target} is the customer network's router"));
            let at = At { address: target, mac: ROUTER_MAC, router: true };
            Ok(walk::answer(frame, Answer::Neighbour(at)))
        }
        Says::Who(target) if !subnet.has(target) => walk::unknown(frame, vsid, target),
        Says::Who(target) => {
            let found = records.find(vsid, Of::Address(target));
            match (found, message.claimed) {
                (Some((_, view)), claimed) if view.mac != frame.src => {
                    // IP rewrite carries packets only, and routers in between count hops of those.
                    let carried = view.local || view.encap != Encap::Rewrite;
                    if claimed.is_none() || frame.dst.is_group() || !carried {
                        frame.note(|| format!("{target} is at {}, by its record", view.mac));
                        let router = view.kind == Kind::Gateway;
                        let at = At { address: target, mac: view.mac, router };
                        return Ok(walk::answer(frame, Answer::Neighbour(at)));
                    }
                    let from = sender(frame, policy, subnet, claimed)?;
                    walk::carry(
                        frame,
                        policy,
                        &from,
                        (found.map_or_else(Default::default, |f| f.0), view),
                        vsid,
                        false,
                    )
                }
                // It asks whether anybody else has its own address: nobody has.
                (Some(_), _) => Err(DropReason::SameSegmentReturn),
                (None, claimed) => {
                    let from = sender(frame, policy, subnet, claimed)?;
                    if frame.dst.is_group() && records.has_unknown(vsid) {
                        frame.note(|| "there are guests whose address is not known; they are asked".into());
                        return Ok(walk::flood(frame));
                    }
                    match records.find(vsid, Of::Station(frame.dst)) {
                        Some(station) => walk::carry(frame, policy, &from, station, vsid, false),
                        None => walk::unknown(frame, vsid, target),
                    }
                }
            }
        }
        Says::Mine(to) => {
            if frame.dst.is_group() || message.claimed == Some(to) || walk::is_group(subnet, to) {
                let Some(claimed) = message.claimed else { return Err(DropReason::NvSourceUnknown) };
                return announce(frame, policy, subnet, claimed);
            }
            let from = sender(frame, policy, subnet, message.claimed)?;
            if frame.dst == ROUTER_MAC {
                return Err(DropReason::NvForRouter);
            }
            let found =
                records.find(vsid, Of::Address(to)).or_else(|| records.find(vsid, Of::Station(frame.dst)));
            match found {
                Some(found) => walk::carry(frame, policy, &from, found, vsid, false),
                None => walk::unknown(frame, vsid, to),
            }
        }
    }
}

fn sender(
    frame: &mut Frame<'_>,
    policy: &Policy,
    subnet: &VirtualSubnet,
    claimed: Option<IpAddr>,
) -> Result<Sender, DropReason> {
    let unspecified = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    walk::sender(frame, policy, subnet, claimed.unwrap_or(unspecified))
}

/// A guest tells everybody that an address is its own.
fn announce(
    frame: &mut Frame<'_>,
    policy: &Policy,
    subnet: &VirtualSubnet,
    address: IpAddr,
) -> Result<Verdict, DropReason> {
    sender(frame, policy, subnet, Some(address))?;
    frame.note(|| format!("{address} is announced"));
    if !frame.dst.is_group() {
        return Err(DropReason::SameSegmentReturn);
    }
    Ok(walk::flood(frame))
}
