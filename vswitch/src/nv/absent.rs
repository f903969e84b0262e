//! What this host tells another one whose tunnel's packet is for a guest that is not here (any more): ICMP "host unreachable" (RFC 1812,
//! section 5.2.7.1; RFC 4443, section 3.1), from its provider address, so that the sender asks for the guest's record again ([`super::errors`]).
//!
//! For [`super::records::GRACE`] after a move packets are sent on and nothing is said. Nothing is said about a guest that is here, whatever else is
//! wrong with a packet; about a packet whose source cannot be judged only if this host knows nobody of the virtual subnet any more. It is said
//! once a second for each receiver, [`SAID`] times in all; so who forges packets makes this host send less than he sends himself.
//!
//! The quoted packet's outer header is made anew, as its sender made it: when the packet is judged it is no longer there.
//!
//! Threading: any thread. The data path waits for no lock here: what would have been said while it is held is said to a later packet.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, TryLockError};

use super::answer;
use super::model::Encap;
use super::neighbours::Hop;
use super::overlay::{Ingress, Reach};
use super::policy::LocalProvider;
use super::records::Of;
use super::wire::{self, Outer, rewrite};
use crate::frame::ethernet::HEADER_LEN;
use crate::frame::headers::Headers;
use crate::frame::offload::Offload;
use crate::hash::Seeded;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::trace::DropReason;
use crate::{Mac, Nanos};

/// How many such messages are sent in a second, to all hosts.
pub(super) const SAID: usize = 32;

const SECOND: Nanos = 1_000_000_000;

/// About whom something was said in this second.
#[derive(Debug)]
pub struct Absent(Mutex<Said>);

#[derive(Debug)]
struct Said {
    second: u64,
    about: HashSet<(u32, Mac), Seeded>,
}

impl Absent {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(Said { second: 0, about: HashSet::with_capacity_and_hasher(SAID, Seeded(seed)) }))
    }

    fn take(&self, now: Nanos, whom: (u32, Mac)) -> bool {
        let mut said = match self.0.try_lock() {
            Ok(said) => said,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if said.second != now / SECOND {
            said.second = now / SECOND;
            said.about.clear();
        }
        said.about.len() < SAID && said.about.insert(whom)
    }
}

/// Whether the sender of a frame that came out of a tunnel is to be told that its receiver is not here: the frame was dropped for `reason`;
/// `head` is its beginning. If so, [`not_here`] is to follow.
pub fn tells(
    snap: &Snapshot,
    state: &State,
    now: Nanos,
    ingress: &Ingress,
    reason: DropReason,
    head: &[u8],
) -> bool {
    let unjudged = match reason {
        DropReason::NvNotHere | DropReason::NvDestinationUnknown => false,
        DropReason::NvSourceUnknown | DropReason::NvSourceSpoofed => true,
        _ => return false,
    };
    let (Some(&mac), vsid) = (head.first_chunk(), ingress.vsid) else { return false };
    let mac = Mac(mac);
    if ingress.gateway || mac.is_group() {
        return false;
    }
    let records = &state.nv.records;
    let find = |of| records.find(vsid, of).filter(|(_, view)| view.mac == mac);
    let ip = Headers::parse(head, head.len() as u32).ok().and_then(|headers| headers.ip);
    // In IP rewrite the customer's packet is the provider network's, and may be an error itself (RFC 1812, section 4.3.2.7).
    if ingress.encap == Encap::Rewrite && ip.is_none_or(|ip| answer::may_be_error(&ip)) {
        return false;
    }
    let found = ip.and_then(|ip| find(Of::Address(ip.dst))).or_else(|| find(Of::Station(mac)));
    let nobody = || records.hosts(vsid, Reach::All).is_empty();
    let absent = found.map_or_else(
        || snap.station(vsid, mac).is_none() && (!unjudged || nobody()),
        |(_, view)| !view.local && !unjudged,
    );
    if !absent {
        return false;
    }
    state.nv.absent.take(now, (vsid, mac))
}

/// Writes the message; `frame` is all of the customer's frame. It goes out of the uplink that the frame came by. `false` = it cannot be sent
/// (yet): the way back is not known.
pub fn not_here(snap: &Snapshot, state: &State, ingress: &Ingress, frame: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    message(snap, state, ingress, frame, out).is_some()
}

fn message(snap: &Snapshot, state: &State, ingress: &Ingress, frame: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let Ingress { encap, vsid, src, dst, .. } = *ingress;
    let policy = snap.nv()?;
    if encap == Encap::Rewrite {
        let provider = policy.towards(src)?;
        let mut packet = frame.to_vec();
        rewrite::apply(&mut packet, src, dst, &Offload::None).ok()?;
        return send(state, provider, src, [packet.get(HEADER_LEN..)?, &[]], out);
    }
    let provider = policy.local(dst)?;
    let quoted = Outer {
        dst: provider.mac,
        src: provider.mac,
        vlan: None,
        from: src,
        to: dst,
        encap,
        vsid,
        ttl: super::underlay::TTL,
        copy_dscp: true,
    };
    let (mut outer, len) = ([0; wire::OUTER_MAX], frame.len());
    let entropy = wire::entropy(frame, u32::try_from(len).ok()?);
    let size = quoted.template()?.emit(entropy, len, wire::tos(frame), 0, &mut outer)?;
    send(state, provider, src, [outer.get(HEADER_LEN..size)?, frame], out)
}

fn send(
    state: &State,
    provider: &LocalProvider,
    to: IpAddr,
    packet: [&[u8]; 2],
    out: &mut Vec<u8>,
) -> Option<()> {
    let hop = Hop { port: provider.port, vlan: provider.vlan, address: provider.next_hop(to)? };
    let next = state.nv.neighbours.find(&hop)?;
    let ends = [(next, to), (provider.mac, provider.address.addr())];
    answer::host_unreachable(ends, provider.vlan, packet, out).then_some(())
}
