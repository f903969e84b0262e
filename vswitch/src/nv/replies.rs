//! What the switch itself says in a virtual subnet, in the name of its router and of guests whose records it has; and where copies go.

use std::net::IpAddr;

use super::answer::{self as bytes, arp_reply, echo_reply, neighbour_advertisement, time_exceeded};
use super::overlay::{Reach, Tunnel};
use super::policy::ROUTER_MAC;
use super::{discovery, walk};
use crate::frame::ethernet::ethertype;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::verdict::{Frame, Verdict};
use crate::{Mac, Nanos, PortId, Segment, pipeline};

/// What is answered to a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An address is there.
    Neighbour(At),
    /// The router was asked whether it is there.
    Echo,
    /// The packet's TTL or hop limit ended at the router.
    TimeExceeded {
        /// The router's address in the sender's virtual subnet.
        router: IpAddr,
    },
}

/// Where an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At {
    /// The address.
    pub address: IpAddr,
    /// Where it is.
    pub mac: Mac,
    /// Whether it is a router's.
    pub router: bool,
}

/// Writes what the switch answers to a frame whose verdict was [`Verdict::Answer`]; it goes to the port the frame came from. `frame` is all of
/// it. `false` = nothing is answered (any more).
pub fn answer(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    from: PortId,
    frame: &[u8],
    len: u32,
    out: &mut Vec<u8>,
) -> bool {
    out.clear();
    let Ok(mut asked) = pipeline::parse(snap, state, now, from, frame, len) else { return false };
    asked.dry = true;
    if pipeline::walk(&mut asked, |_, _, _| ()) != Verdict::Answer {
        return false; // the record went meanwhile
    }
    match asked.answer {
        Some(Answer::Neighbour(At { address: IpAddr::V4(v4), mac, .. })) => arp_reply(frame, mac, v4, out),
        Some(Answer::Neighbour(At { address: IpAddr::V6(v6), mac, router })) => {
            let says = bytes::Advertised { router, certain: true };
            neighbour_advertisement(frame, mac, v6, says, out)
        }
        Some(Answer::Echo) => echo_reply(frame, out),
        Some(Answer::TimeExceeded { router }) => time_exceeded(frame, router, ROUTER_MAC, out),
        None => false,
    }
}

/// Writes what tells the sender of a frame that came from a port of a virtual subnet how long its packets may be, in the name of its router.
/// `frame` is all of it. `false` = nothing is answered.
pub fn too_big(snap: &Snapshot, _: &State, from: PortId, frame: &[u8], mtu: u16, out: &mut Vec<u8>) -> bool {
    out.clear();
    let v4 = match frame.get(12..14) {
        Some([0x08, 0x00]) => true,
        Some([0x86, 0xdd]) => false,
        _ => return false,
    };
    let vsid = snap.port(from).and_then(|port| port.policy.vsid);
    let subnet = vsid.and_then(|vsid| snap.nv()?.subnet(vsid));
    let router =
        subnet.and_then(|subnet| subnet.routers.iter().copied().find(|router| router.is_ipv4() == v4));
    router.is_some_and(|router| bytes::too_big(frame, router, ROUTER_MAC, mtu, out))
}

/// The tunnels into which copies of a flooded frame go that `from`, a port of a virtual subnet, sent: one for each other host that is to have it.
pub fn replicas(snap: &Snapshot, state: &State, from: PortId, head: &[u8]) -> Vec<Tunnel> {
    let tunnels = || {
        let (policy, port) = (snap.nv()?, snap.port(from)?);
        let vsid = port.policy.vsid?;
        let outer = crate::frame::ethernet::check(head, head.len() as u32).ok()?;
        let mut frame = Frame::new(snap, state, 0, port, (head, head.len() as u32), outer);
        frame.segment = Segment(vsid);
        let records = &state.nv.records;
        // Where guests are whose address is known, the switch answers in their place.
        let reach = if is_discovery(&frame) { Reach::Unknown } else { Reach::All };
        let hosts = records.hosts(vsid, reach);
        let own = walk::home(&frame);
        let tunnel = |(dst, encap)| {
            let to = records.peers.address(dst)?;
            if policy.local(to).is_some() {
                return None;
            }
            let source = own.filter(|own| policy.local(*own).is_some_and(|p| p.next_hop(to).is_some()));
            let source = source.or_else(|| policy.towards(to).map(|provider| provider.address.addr()))?;
            Some(Tunnel { encap, vsid, src: records.peers.find(source)?, dst })
        };
        Some(hosts.into_iter().filter_map(tunnel).collect())
    };
    tunnels().unwrap_or_default()
}

fn is_discovery(frame: &Frame<'_>) -> bool {
    let Ok(headers) = frame.headers() else { return false };
    headers.ethertype == ethertype::ARP || matches!(discovery::message(headers, frame.head), Ok(Some(_)))
}
