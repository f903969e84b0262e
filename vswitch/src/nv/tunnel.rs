//! What came out of a tunnel: whether it may have been sent so, and to whom it goes.
//!
//! Its sender's host has judged what the guest may send. Here is asked what that host may say:
//!
//! - The record of the packet's source must name the provider address that the outer packet came from, in the same encapsulation, and the
//!   frame's MAC source. The virtual subnet in the tunnel is the destination's; if the source is in another one of the same customer
//!   network, the packet was routed and its MAC source is the router's. A source outside of all subnets must be behind a guest that
//!   forwards, at that host. Of a guest that is being moved, a host that its record names as the one where it is about to be counts as well.
//! - The record of the destination must name this host, and the frame's MAC destination.
//!
//! A guest that has moved is followed: for [`super::records::GRACE`] a packet for it that arrives here is sent on to where it is, once: a packet that
//! comes from its receiver's former host, and not from its source's, is accepted there but never sent on again. In IP rewrite, where that cannot
//! be told, each such way costs the packet a hop.

use std::net::IpAddr;

use super::discovery::{self, Says};
use super::model::{Encap, Kind};
use super::overlay::{Ingress, Overlay, PaId, Rewrite, Tunnel};
use super::policy::{Policy, ROUTER_MAC, Target, VirtualSubnet, is_link_local};
use super::records::{Handle, Of, View};
use super::walk;
use crate::event::Event;
use crate::frame::ethernet::ethertype;
use crate::frame::headers::Ip;
use crate::snapshot::FloodSet;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, Verdict, stop};

/// Whether the host that sent the frame may have.
pub(crate) fn source(frame: &mut Frame<'_>) -> Step {
    match judge_source(frame) {
        Ok(()) => Step::Continue(()),
        Err(reason) => {
            frame.single = true;
            if reason == DropReason::NvSourceSpoofed
                && let Some(Ingress { vsid, src, .. }) = frame.ingress
            {
                frame.notice(Event::NvSpoofed { port: frame.port.id, vsid, mac: frame.src, provider: src });
            }
            stop(reason)
        }
    }
}

/// The receiver: the last step, always ends in a verdict.
pub(crate) fn destination(frame: &mut Frame<'_>) -> Verdict {
    judge_destination(frame).unwrap_or_else(|reason| {
        frame.single = true;
        Verdict::Drop(reason)
    })
}

/// What both steps begin with.
struct Arrived<'a> {
    policy: &'a Policy,
    subnet: &'a VirtualSubnet,
    ingress: Ingress,
    /// The packet, unless it is ARP.
    ip: Option<Ip>,
    /// The address that the frame says is its sender's.
    claimed: Option<IpAddr>,
}

fn arrived<'a>(frame: &Frame<'a>) -> Result<Arrived<'a>, DropReason> {
    let (Some(policy), Some(ingress)) = (frame.snap.nv(), frame.ingress) else {
        return Err(DropReason::NvNotHere);
    };
    let subnet = policy.subnet(ingress.vsid).ok_or(DropReason::NvNotHere)?;
    let headers = frame.headers()?;
    let (ip, claimed) = match headers.ip {
        Some(ip) => {
            let claimed = match discovery::message(headers, frame.head)? {
                Some(message) => discovery::read_neighbour(&ip, message).claimed,
                None => (!ip.src.is_unspecified()).then_some(ip.src),
            };
            (Some(ip), claimed)
        }
        None if headers.ethertype == ethertype::ARP => (None, discovery::read_arp(frame)?.claimed),
        None => return Err(DropReason::NvEthertype),
    };
    Ok(Arrived { policy, subnet, ingress, ip, claimed })
}

fn judge_source(frame: &mut Frame<'_>) -> Result<(), DropReason> {
    let Arrived { policy, subnet, ingress, claimed, .. } = arrived(frame)?;
    let vsid = ingress.vsid;
    if ingress.gateway {
        frame.note(|| "by the customer network's gateway at this host".into());
        return Ok(());
    }
    let records = &frame.state.nv.records;
    let peer = records.peers.find(ingress.src).ok_or(DropReason::NvSourceSpoofed)?;
    let outside = claimed.is_some_and(|address| {
        !is_link_local(address) && policy.route(subnet.network, address) == Some(Target::Gateway)
    });
    if outside && frame.src == ROUTER_MAC {
        frame.note(|| format!("by the customer network's gateway at {}", ingress.src));
        return Ok(());
    }
    let (home, (handle, view)) = sender(frame, policy, subnet, vsid, claimed)?;
    if view.encap != ingress.encap {
        return Err(DropReason::NvMethodMismatch);
    }
    frame.records[0] = handle;
    if view.wire == peer {
        frame.note(|| format!("{} is where its source is, by its record", ingress.src));
        return Ok(());
    }
    if view.previous == Some(peer) && view.is_fresh(frame.now) {
        frame.revisit = true;
        frame.note(|| format!("{} is where its source was until just now", ingress.src));
        return Ok(());
    }
    if view.next == Some(peer) {
        frame.note(|| format!("{} is where its source is about to be, by its record", ingress.src));
        return Ok(());
    }
    // An address that its former host learned is where the guest's own record is, and comes after that.
    let own = if view.kind == Kind::Dynamic { records.find(home, Of::Station(view.mac)) } else { None };
    let moves = |own: View| own.encap == ingress.encap && (own.wire == peer || own.next == Some(peer));
    if own.is_some_and(|(_, own)| moves(own)) {
        frame.single = true;
        frame.note(|| format!("{} is where its source is, by the guest's own record", ingress.src));
        return Ok(());
    }
    // Its receiver's former host may have sent it on: whether that is so, the receiver's record knows.
    let known = arrived(frame)?;
    let (_, to) = receiver(frame, &known)?;
    if to.local && to.is_fresh(frame.now) && to.previous == Some(peer) {
        frame.revisit = true;
        frame.note(|| format!("sent on by {}, where its receiver was until just now", ingress.src));
        return Ok(());
    }
    frame.note(|| format!("no record says that its source is at {}", ingress.src));
    Err(DropReason::NvSourceSpoofed)
}

/// The record of the guest that sent a frame, if it may have that MAC source, and the virtual subnet that it is in.
fn sender(
    frame: &mut Frame<'_>,
    policy: &Policy,
    subnet: &VirtualSubnet,
    vsid: u32,
    claimed: Option<IpAddr>,
) -> Result<(u32, (Handle, View)), DropReason> {
    let (records, mac) = (&frame.state.nv.records, frame.src);
    let unknown = DropReason::NvSourceUnknown;
    let found = |of| records.find(vsid, of).map(|found| (vsid, found)).ok_or(unknown);
    let station = || found(Of::Station(mac));
    let Some(address) = claimed else { return station() };
    let target = if is_link_local(address) {
        Some(Target::OnLink(vsid))
    } else {
        policy.route(subnet.network, address)
    };
    let (by, home) = match target {
        Some(Target::OnLink(home)) => (address, home),
        Some(Target::Via { hop, vsid: home }) => (hop, home),
        Some(Target::Gateway) | None => return found(Of::Gateway(mac)),
    };
    let forwarded = by != address;
    let Some((handle, view)) = records.find(home, Of::Address(by)) else {
        // Its host may have learned the address just now.
        frame.single = true;
        return if home == vsid && !forwarded { station() } else { Err(unknown) };
    };
    if forwarded && view.kind != Kind::Gateway {
        return Err(unknown);
    }
    if mac == ROUTER_MAC || home == vsid && mac == view.mac {
        return Ok((home, (handle, view)));
    }
    frame.note(|| format!("its record names {}, not {mac}", view.mac));
    Err(DropReason::NvSourceSpoofed)
}

/// The record of the guest that a unicast frame is for.
fn receiver(frame: &mut Frame<'_>, arrived: &Arrived<'_>) -> Result<(Handle, View), DropReason> {
    let records = &frame.state.nv.records;
    let vsid = arrived.ingress.vsid;
    let address = match &arrived.ip {
        Some(ip) => match discovery::message(frame.headers()?, frame.head)? {
            Some(message) => match discovery::read_neighbour(ip, message).says {
                Says::Who(target) | Says::Mine(target) => target,
            },
            None => ip.dst,
        },
        None => match discovery::read_arp(frame)?.says {
            Says::Who(target) | Says::Mine(target) => target,
        },
    };
    if !arrived.subnet.has(address) {
        return records.find(vsid, Of::Gateway(frame.dst)).ok_or(DropReason::NvDestinationUnknown);
    }
    let by_address = records.find(vsid, Of::Address(address)).filter(|(_, view)| view.mac == frame.dst);
    by_address.map_or_else(
        || {
            frame.single = true;
            records.find(vsid, Of::Station(frame.dst)).ok_or(DropReason::NvDestinationUnknown)
        },
        Ok,
    )
}

fn judge_destination(frame: &mut Frame<'_>) -> Result<Verdict, DropReason> {
    let arrived = arrived(frame)?;
    let (subnet, ingress) = (arrived.subnet, arrived.ingress);
    if frame.dst.is_group() {
        // What was sent to a group arrives as that, or as ARP.
        let group = arrived.ip.is_none_or(|ip| walk::is_group(subnet, ip.dst));
        return if group {
            Ok(Verdict::Flood(FloodSet::Members))
        } else {
            Err(DropReason::NvDestinationUnknown)
        };
    }
    let (handle, view) = receiver(frame, &arrived)?;
    frame.records[1] = handle;
    if !ingress.gateway && view.encap != ingress.encap {
        return Err(DropReason::NvMethodMismatch);
    }
    if ingress.gateway {
        if walk::ttl_of(frame.head).is_none_or(|ttl| ttl <= 1) {
            return Err(DropReason::NvTtlExpired);
        }
        let rewrite = Some(Rewrite { dst: view.mac, src: ROUTER_MAC, hop: true });
        frame.overlay = Some(Overlay { rewrite, ..Overlay::NONE });
    }
    if view.local {
        let port = walk::local(frame, ingress.vsid, view.mac).ok_or(DropReason::NvNotHere)?;
        return Ok(Verdict::Unicast(port));
    }
    if ingress.gateway {
        return onward(frame, arrived.policy, ingress.vsid, &view);
    }
    follow(frame, &ingress, &view)
}

/// Carries what came through a gateway to the host where its receiver is.
fn onward(frame: &mut Frame<'_>, policy: &Policy, vsid: u32, to: &View) -> Result<Verdict, DropReason> {
    let (peers, unreachable) = (&frame.state.nv.records.peers, DropReason::ProviderUnreachable);
    if to.encap == Encap::Rewrite {
        return Err(DropReason::NvMethodMismatch); // no provider address stands for the other end
    }
    let destination = peers.address(to.wire).ok_or(unreachable)?;
    let provider = policy.towards(destination).ok_or(unreachable)?;
    let src = peers.find(provider.address.addr()).ok_or(unreachable)?;
    let tunnel = Some(Tunnel { encap: to.encap, vsid, src, dst: to.wire });
    frame.overlay = frame.overlay.map(|overlay| Overlay { tunnel, ..overlay });
    Ok(Verdict::Unicast(provider.port))
}

/// Sends a frame on to where its receiver is now, if that was here until just now.
fn follow(frame: &mut Frame<'_>, ingress: &Ingress, to: &View) -> Result<Verdict, DropReason> {
    let records = &frame.state.nv.records;
    let (Some(policy), Some(src)) = (frame.snap.nv(), records.peers.find(ingress.dst)) else {
        return Err(DropReason::NvNotHere);
    };
    let was_here = to
        .previous
        .and_then(|former| records.peers.address(former))
        .is_some_and(|former| policy.local(former).is_some());
    let direct = |peer: PaId| {
        let (_, source) = records_of(frame)?;
        Some(source.wire == peer || [source.previous, source.next].contains(&Some(peer)))
    };
    let from_source = records.peers.find(ingress.src).and_then(direct).unwrap_or(false);
    if !(was_here && to.is_fresh(frame.now) && from_source) {
        return Err(DropReason::NvNotHere);
    }
    let destination = records.peers.address(to.wire).ok_or(DropReason::ProviderUnreachable)?;
    let provider = match ingress.encap {
        Encap::Rewrite => policy.towards(destination),
        Encap::Nvgre | Encap::Vxlan => policy.local(ingress.dst),
    };
    let provider =
        provider.filter(|p| p.next_hop(destination).is_some()).ok_or(DropReason::ProviderUnreachable)?;
    let rewrite = ingress.encap == Encap::Rewrite;
    // In IP rewrite it stays its source's packet on the wire.
    let src = if rewrite { records.peers.find(ingress.src).ok_or(DropReason::NvNotHere)? } else { src };
    if rewrite && walk::ttl_of(frame.head).is_none_or(|ttl| ttl <= 1) {
        return Err(DropReason::NvTtlExpired);
    }
    let hop = rewrite.then_some(Rewrite { dst: frame.dst, src: frame.src, hop: true });
    let tunnel = Tunnel { encap: ingress.encap, vsid: ingress.vsid, src, dst: to.wire };
    frame.overlay = Some(Overlay { rewrite: hop, tunnel: Some(tunnel), ..Overlay::NONE });
    frame.revisit = true;
    frame.note(|| format!("its receiver has moved to {destination}; it is sent on"));
    Ok(Verdict::Unicast(provider.port))
}

/// What the record of the frame's source says, which [`source`] found.
fn records_of(frame: &Frame<'_>) -> Option<(Handle, View)> {
    frame.state.nv.records.at(frame.records[0])
}
