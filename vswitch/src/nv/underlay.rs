//! The provider network: outer headers, next hops, and who may use provider addresses there.

use std::net::IpAddr;

use super::answer::{arp_request, neighbour_solicitation};
use super::discovery::{self, Says};
use super::errors;
use super::model::Encap;
use super::neighbours::Hop;
use super::overlay::Tunnel;
use super::policy::{LocalProvider, Policy};
use super::replies::{Answer, At};
use super::wire::{self, Outer, Template, rewrite};
use crate::event::Event;
use crate::frame::ethernet::ethertype;
use crate::frame::offload::Offload;
use crate::frame::tag::Tagging;
use crate::frame::{claims, headers::Headers};
use crate::port::PortKind;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, Verdict, stop};
use crate::{Mac, Nanos, PortId, Segment, announce};

/// TTL and hop limit of outer packets.
pub(super) const TTL: u8 = 64;

/// The two ends of a tunnel, as its packets name them, and whom they are given to.
struct Ends<'a> {
    from: IpAddr,
    to: IpAddr,
    provider: &'a LocalProvider,
    next: Mac,
}

fn ends<'a>(snap: &'a Snapshot, state: &State, tunnel: &Tunnel) -> Result<Ends<'a>, DropReason> {
    let unreachable = DropReason::ProviderUnreachable;
    let policy = snap.nv().ok_or(unreachable)?;
    let peers = &state.nv.records.peers;
    let (from, to) =
        (peers.address(tunnel.src).ok_or(unreachable)?, peers.address(tunnel.dst).ok_or(unreachable)?);
    let provider = match tunnel.encap {
        Encap::Rewrite => policy.towards(to),
        Encap::Nvgre | Encap::Vxlan => policy.local(from),
    };
    let provider = provider.ok_or(unreachable)?;
    let address = provider.next_hop(to).ok_or(unreachable)?;
    let hop = Hop { port: provider.port, vlan: provider.vlan, address };
    let next = state.nv.neighbours.find(&hop).ok_or(unreachable)?;
    Ok(Ends { from, to, provider, next })
}

/// What all outer headers of a tunnel have in common. Good until policy, or [`super::neighbours::Neighbours::generation`] changes, for as long
/// as a record names both ends. The error is why a frame cannot go: the other host cannot be reached from here, or the next hop has not
/// answered (yet); it is asked for then.
pub fn template(snap: &Snapshot, state: &State, tunnel: &Tunnel) -> Result<Template, DropReason> {
    let Ends { from, to, provider, next } = ends(snap, state, tunnel)?;
    let outer = Outer {
        dst: next,
        src: provider.mac,
        vlan: provider.vlan,
        from,
        to,
        encap: tunnel.encap,
        vsid: tunnel.vsid,
        ttl: TTL,
        copy_dscp: true,
    };
    outer.template().ok_or(DropReason::ProviderUnreachable)
}

/// Writes the outer headers of one frame, of which `head` is the beginning and `len` the length, to `out`, and returns their length. The error
/// as in [`template`].
pub fn encapsulate(
    snap: &Snapshot,
    state: &State,
    tunnel: &Tunnel,
    head: &[u8],
    len: u32,
    out: &mut [u8; wire::OUTER_MAX],
) -> Result<usize, DropReason> {
    let template = template(snap, state, tunnel)?;
    let entropy = wire::entropy(head, len);
    // DF is set, so the identification says nothing (RFC 6864, section 4.1).
    template.emit(entropy, len as usize, wire::tos(head), 0, out).ok_or(DropReason::MtuExceeded)
}

/// How long a customer's packet may be, IP header included, to go into a tunnel and out of an uplink whose MTU is `mtu`.
#[inline]
pub fn room(state: &State, now: Nanos, tunnel: &Tunnel, mtu: u16) -> u16 {
    let path = state.nv.records.peers.path(tunnel.dst);
    let v6 = path.is_some_and(|(address, ..)| address.is_ipv6());
    let narrower = path.filter(|&(_, _, until)| now < until).map_or(mtu, |(_, path, _)| mtu.min(path));
    // The outer Ethernet header does not count, the inner one does.
    narrower.saturating_sub(wire::overhead(tunnel.encap, v6, false) as u16)
}

/// The same in IP rewrite, out of the uplink that leads to the packet's destination.
#[inline]
pub fn rewrite_room(snap: &Snapshot, state: &State, now: Nanos, tunnel: &Tunnel) -> u16 {
    let to = state.nv.records.peers.address(tunnel.dst);
    let provider = to.and_then(|to| snap.nv()?.towards(to));
    // Without a way it is dropped for that reason.
    let mtu = provider.and_then(|provider| snap.port(provider.port)).map_or(u16::MAX, |port| port.mtu);
    room(state, now, tunnel, mtu)
}

/// IP rewrite: replaces the addresses of a frame with those that stand for them on the wire, and says which tag it goes with. The error as in
/// [`template`], or that the packet cannot be rewritten.
pub fn readdress(
    snap: &Snapshot,
    state: &State,
    tunnel: &Tunnel,
    head: &mut [u8],
    offload: &Offload,
) -> Result<Tagging, DropReason> {
    let Ends { from, to, provider, next } = ends(snap, state, tunnel)?;
    rewrite::apply(head, from, to, offload).map_err(|_| DropReason::MalformedPacket)?;
    rewrite::macs(head, next, provider.mac);
    Ok(match provider.vlan {
        Some(vid) => Tagging::Write { vid, priority: false },
        None => Tagging::Keep,
    })
}

/// Frames that are to go straight out of uplinks now: questions for next hops, and where addresses of IP rewrite are that came here. To be called about every second; [`errors::Errors::take`] has
/// what an operator may want to know after it.
pub fn due(snap: &Snapshot, state: &State, now: Nanos) -> Vec<(PortId, Vec<u8>)> {
    let Some(policy) = snap.nv() else { return Vec::new() };
    state.nv.neighbours.tick(now);
    // A router is needed sooner or later; it is better known before.
    for provider in policy.providers() {
        if let Some(address) = provider.gateway {
            state.nv.neighbours.find(&Hop { port: provider.port, vlan: provider.vlan, address });
        }
    }
    state.nv.nats.follow(policy, now);
    let asked = state.nv.neighbours.due(now);
    let known = |port, address| state.nv.neighbours.knows(port, address);
    // Not whom a guest asks for beyond a gateway: it may ask for anybody.
    let matters = |hop: &Hop| {
        state.nv.records.peers.find(hop.address).is_some()
            || policy.providers().iter().any(|provider| provider.gateway == Some(hop.address))
    };
    let silent: Vec<Hop> = state.nv.neighbours.silent(now).into_iter().filter(matters).collect();
    state.nv.errors.follow(now, &silent, known);
    let questions = asked.iter().filter_map(|(hop, _)| Some((hop.port, question(snap, policy, hop)?)));
    let arrived = state.nv.records.take_arrived();
    questions.chain(arrived.into_iter().filter_map(|address| announcement(policy, address))).collect()
}

/// Tells the provider network that an address of IP rewrite is here now: routers and hosts that knew it elsewhere learn so at once.
fn announcement(policy: &Policy, address: IpAddr) -> Option<(PortId, Vec<u8>)> {
    let provider = policy.providers().iter().find(|provider| provider.address.contains(&address))?;
    // The first of these announces the Ethernet address alone.
    let mut frame = announce::frames(provider.mac, std::iter::once(address)).into_iter().nth(1)?;
    if let Some(vlan) = provider.vlan {
        let [high, low] = vlan.to_be_bytes();
        let [t0, t1] = ethertype::VLAN.to_be_bytes();
        frame.splice(12..12, [t0, t1, high, low]);
    }
    Some((provider.port, frame))
}

fn question(snap: &Snapshot, policy: &Policy, hop: &Hop) -> Option<Vec<u8>> {
    let segment = Segment(hop.vlan.unwrap_or(0).into());
    let own = policy.ways().own_on(segment).iter().filter(|(port, _)| *port == hop.port).map(|(_, own)| own);
    let own = own.filter(|own| own.addr().is_ipv4() == hop.address.is_ipv4());
    let from = own.max_by_key(|own| own.contains(&hop.address))?;
    let mac = snap.port(hop.port)?.mac;
    let mut out = Vec::new();
    match (from.addr(), hop.address) {
        (IpAddr::V4(from), IpAddr::V4(to)) => arp_request(mac, from, to, hop.vlan, &mut out),
        (IpAddr::V6(from), IpAddr::V6(to)) => neighbour_solicitation(mac, from, to, hop.vlan, &mut out),
        _ => return None,
    }
    Some(out)
}

/// In a network where this host has provider addresses: nobody here may use them, or those of other hosts; who asks for one of this host's is
/// answered; next hops that say where they are are heard.
pub(crate) fn guard(frame: &mut Frame<'_>) -> Step {
    let Some(policy) = frame.snap.nv() else { return Step::Continue(()) };
    if frame.port.policy.vsid.is_some() || policy.ways().own_on(frame.segment).is_empty() {
        return Step::Continue(());
    }
    frame.looked = true;
    if frame.port.kind == PortKind::Uplink {
        return wire_side(frame, policy);
    }
    let headers = match frame.visible() {
        Ok(headers) => headers,
        Err(reason) => return stop(reason),
    };
    let claimed = match claims::of(&headers, frame.head) {
        Ok(claimed) => claimed,
        Err(reason) => return stop(reason),
    };
    let peers = &frame.state.nv.records.peers;
    let used = headers.ip.map(|ip| ip.src).into_iter().chain(claimed);
    let mut used =
        used.filter(|&address| policy.ways().is_own(frame.segment, address) || peers.find(address).is_some());
    if let Some(address) = used.next() {
        frame.notice(Event::AddressSpoofed { port: frame.port.id, address });
        return stop(DropReason::ProviderSpoofed);
    }
    Step::Continue(())
}

/// The physical network's side of [`guard`].
fn wire_side(frame: &mut Frame<'_>, policy: &Policy) -> Step {
    let Ok(headers) = frame.headers().copied() else { return Step::Continue(()) };
    let Some((claimed, says)) = said(frame, &headers) else {
        errors::hear(frame, policy, &headers);
        return Step::Continue(());
    };
    let vlan = u16::try_from(frame.segment.0).ok().filter(|&vlan| vlan != 0);
    if let Some(address) = claimed {
        let hop = Hop { port: frame.port.id, vlan, address };
        if policy.ways().is_own(frame.segment, address) {
            if frame.port.mac != frame.src {
                frame.notice(Event::ProviderDuplicate { port: frame.port.id, address, mac: frame.src });
            }
        } else if !frame.dry {
            frame.state.nv.neighbours.hear(frame.now, &hop, frame.src);
        }
    }
    if let Says::Who(address) = says
        && let Some(mac) = own(frame, policy, address)
    {
        frame.single = true;
        frame.note(|| format!("{address} is a provider address of this host"));
        frame.answer = Some(Answer::Neighbour(At { address, mac, router: false }));
        return Step::Break(Verdict::Answer);
    }
    Step::Continue(())
}

/// The Ethernet address of a provider address that is this host's in the frame's network, or stands for a guest of this host.
fn own(frame: &Frame<'_>, policy: &Policy, address: IpAddr) -> Option<Mac> {
    let (ways, port) = (policy.ways(), frame.port.id);
    if ways.is_own_at(frame.segment, port, address) {
        return Some(frame.port.mac);
    }
    frame.state.nv.records.rewritten(address).filter(|(_, _, view)| view.local)?;
    let mut here = ways.own_on(frame.segment).iter().filter(|(at, _)| *at == port);
    here.any(|(_, own)| own.contains(&address)).then_some(frame.port.mac)
}

/// What an ARP message or one of neighbour discovery says, and whose address it says is at the frame's source.
fn said(frame: &Frame<'_>, headers: &Headers) -> Option<(Option<IpAddr>, Says)> {
    if headers.ethertype == ethertype::ARP {
        let message = discovery::read_arp(frame).ok()?;
        return Some((message.claimed, message.says));
    }
    let ip = headers.ip?;
    let found = discovery::message(headers, frame.head).ok()??;
    let message = discovery::read_neighbour(&ip, found);
    Some((message.claimed, message.says))
}
