//! What routers and other hosts of the provider network say about tunnels' packets of this host: ICMP errors (RFC 792, RFC 4443).
//!
//! Anybody on the provider network can send such a message, so it is believed only as far as it costs little if it lies. It must be addressed
//! to a provider address of this host and quote a packet from there to one that some record names, in a virtual subnet that exists. Then
//!
//! - *too big* lowers what fits to that provider address, never below what every router carries, for [`LIFETIME`] (RFC 1191, RFC 8201);
//! - *host unreachable*, from that provider address itself, has the record asked for again that the quoted packet went by; from anybody, if the
//!   address stands for one guest alone (IP rewrite);
//! - every *unreachable* is told to the operator, once for a provider address until there was none for [`QUIET`].
//!
//! No message changes a record, a route, or where any frame goes.
//!
//! Threading: any thread. The data path waits for no lock here: what comes while it is held is not heard.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::neighbours::Hop;
use super::policy::{Policy, Target};
use super::records::{Of, View};
use super::wire::{self, carried};
use crate::event::Event;
use crate::frame::checksum::checksum;
use crate::frame::ethernet::{HEADER_LEN, ethertype};
use crate::frame::headers::{Fragment, Headers, Ip};
use crate::frame::ipv4::{self, Ipv4};
use crate::frame::ipv6::{self, Ipv6};
use crate::frame::protocol;
use crate::hash::Seeded;
use crate::verdict::Frame;
use crate::{Nanos, PortId};

/// How long a router's word about what fits is believed, in nanoseconds (10 minutes: RFC 1191, section 6.3).
pub const LIFETIME: Nanos = 600 * SECOND;

/// How long without a complaint until a provider address counts as reachable again, in nanoseconds.
pub const QUIET: Nanos = 60 * SECOND;

/// Messages that are looked at in a second.
pub const HEARD: u32 = 64;

/// Provider addresses and next hops about which there are complaints, at most.
pub const LIMIT: usize = 1024;

/// The least that fits: what every host takes in one piece (RFC 1122, section 3.3.2), and what every link carries (RFC 8200, section 5).
pub const LEAST_V4: u16 = 576;
/// The same of IPv6.
pub const LEAST_V6: u16 = 1280;

/// What links of old routers, which do not say it, may carry (RFC 1191, section 7.1).
const PLATEAUS: [u16; 9] = [17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];

/// Bytes of an ICMP header.
const ICMP_HEADER: usize = 8;

const SECOND: Nanos = 1_000_000_000;

/// Events that wait to be taken, at most.
const PENDING: usize = 64;

/// What is remembered of complaints.
#[derive(Debug)]
pub struct Errors(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// The second in which messages are counted, and how many there were.
    heard: (u64, u32),
    /// By whom the complaint is about.
    complaints: HashMap<(PortId, IpAddr), Complaint, Seeded>,
    news: Vec<Event>,
}

#[derive(Clone, Copy, Debug)]
struct Complaint {
    /// The last one.
    at: Nanos,
    /// It is a next hop that does not answer, and ends when that does.
    silent: bool,
}

impl Inner {
    fn complain(&mut self, about: (PortId, IpAddr), complaint: Complaint, reason: impl FnOnce() -> String) {
        if let Some(known) = self.complaints.get_mut(&about) {
            *known = Complaint { silent: known.silent || complaint.silent, ..complaint };
        } else if self.complaints.len() < LIMIT && self.news.len() < PENDING {
            self.complaints.insert(about, complaint);
            let (port, address) = about;
            self.news.push(Event::ProviderUnreachable { port, address, reason: reason() });
        }
    }
}

impl Errors {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(Inner {
            heard: (0, 0),
            complaints: HashMap::with_hasher(Seeded(seed)),
            news: Vec::new(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves at worst an event too few.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_once(&self) -> Option<MutexGuard<'_, Inner>> {
        match self.0.try_lock() {
            Ok(inner) => Some(inner),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Whether one more message may be looked at now.
    fn listens(&self, now: Nanos) -> bool {
        self.at_once().is_some_and(|mut inner| {
            let (second, count) = &mut inner.heard;
            if *second != now / SECOND {
                (*second, *count) = (now / SECOND, 0);
            }
            *count += 1;
            *count <= HEARD
        })
    }

    fn complain(&self, about: (PortId, IpAddr), at: Nanos, reason: impl FnOnce() -> String) {
        if let Some(mut inner) = self.at_once() {
            inner.complain(about, Complaint { at, silent: false }, reason);
        }
    }

    /// Which next hops do not answer now, and whether one of them is known again. To be called about every second.
    pub(super) fn follow(&self, now: Nanos, silent: &[Hop], known: impl Fn(PortId, IpAddr) -> bool) {
        let mut inner = self.inner();
        for hop in silent {
            let complaint = Complaint { at: now, silent: true };
            inner.complain((hop.port, hop.address), complaint, || "it does not answer".to_owned());
        }
        let Inner { complaints, news, .. } = &mut *inner;
        complaints.retain(|&(port, address), complaint| {
            if now.saturating_sub(complaint.at) < if complaint.silent { SECOND } else { QUIET } {
                return true;
            }
            // One that is neither silent nor known is not asked for any more: nothing is known of it.
            if !complaint.silent || known(port, address) {
                if news.len() >= PENDING {
                    return true;
                }
                news.push(Event::ProviderReachable { port, address });
            }
            false
        });
    }

    /// What an operator may want to know, each once.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.inner().news)
    }

    /// About whom there are complaints now.
    pub fn list(&self) -> Vec<(PortId, IpAddr)> {
        self.inner().complaints.keys().copied().collect()
    }
}

/// Why something cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    Network,
    Host,
    Protocol,
    Port,
    Forbidden,
    Other,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "there is no route",
            Self::Host => "the host cannot be reached",
            Self::Protocol => "the host does not take this protocol",
            Self::Port => "the host does not take this port",
            Self::Forbidden => "it is forbidden",
            Self::Other => "it cannot be reached",
        })
    }
}

/// What a message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Says {
    /// Packets of so many bytes get through; 0 = of fewer than that one.
    TooBig(u32),
    Unreachable(Why),
}

fn says(ip: &Ip, icmp: &[u8]) -> Option<Says> {
    let says = match (ip.protocol, *icmp.first_chunk::<ICMP_HEADER>()?) {
        (protocol::ICMP, [3, 4, _, _, _, _, high, low]) => {
            Says::TooBig(u16::from_be_bytes([high, low]).into())
        }
        (protocol::ICMP, [3, code, ..]) => Says::Unreachable(match code {
            0 | 6 | 11 => Why::Network,
            1 | 7 | 12 => Why::Host,
            2 => Why::Protocol,
            3 => Why::Port,
            9 | 10 | 13 => Why::Forbidden,
            _ => Why::Other,
        }),
        (protocol::ICMPV6, [2, _, _, _, mtu @ ..]) => Says::TooBig(u32::from_be_bytes(mtu)),
        (protocol::ICMPV6, [1, code, ..]) => Says::Unreachable(match code {
            0 => Why::Network,
            3 => Why::Host,
            4 => Why::Port,
            1 | 5 | 6 => Why::Forbidden,
            _ => Why::Other,
        }),
        _ => return None,
    };
    Some(says)
}

/// The packet that a message is about, as far as it is quoted.
struct Quoted<'a> {
    src: IpAddr,
    dst: IpAddr,
    /// Its length, IP header included, as it says.
    len: u32,
    /// What carried it; `None` = nothing: IP rewrite, or no packet of this host's.
    carried: Option<wire::Carried<'a>>,
}

impl<'a> Quoted<'a> {
    fn parse(v4: bool, bytes: &'a [u8]) -> Option<Self> {
        let (protocol, upper, len, whole, src, dst);
        if v4 {
            let ip = Ipv4::parse(bytes)?;
            let addresses = ip.addresses();
            src = IpAddr::from(*addresses.first_chunk::<4>()?);
            dst = IpAddr::from(*addresses.last_chunk::<4>()?);
            (protocol, upper) = (ip.protocol(), ip.header_len());
            (len, whole) = (u32::from(ip.total_len()), !ip.is_fragment());
        } else {
            let ip = Ipv6::parse(bytes)?;
            let addresses = ip.addresses();
            src = IpAddr::from(*addresses.first_chunk::<16>()?);
            dst = IpAddr::from(*addresses.last_chunk::<16>()?);
            (protocol, upper) = (ip.protocol(), ip.upper_offset());
            (len, whole) = (ipv6::HEADER_LEN as u32 + u32::from(ip.payload_len()), !ip.is_fragment());
        }
        // At least as much is quoted by everybody (RFC 792); what this host sends is in one piece.
        let upper = bytes.get(upper..).filter(|upper| upper.len() >= 8 && whole)?;
        Some(Self { src, dst, len, carried: carried(protocol, upper) })
    }
}

/// Hears what an ICMP error from the physical network says, if the frame is one and this host is concerned.
pub(super) fn hear(frame: &mut Frame<'_>, policy: &Policy, headers: &Headers) {
    let Some(ip) = headers.ip.filter(is_error) else { return };
    let vlan = u16::try_from(frame.segment.0).ok().filter(|&vlan| vlan != 0);
    let own = |address: IpAddr| {
        let local = policy.local(address).is_some_and(|p| p.port == frame.port.id && p.vlan == vlan);
        local || frame.state.nv.records.rewritten(address).is_some_and(|(.., view)| view.local)
    };
    if frame.dst != frame.port.mac || !own(ip.dst) {
        return;
    }
    // Each one is heard, not the first of many that look alike to a cache.
    frame.single = true;
    let Some(icmp) = frame.head.get(ip.upper..) else { return };
    let sound = frame.len as usize > frame.head.len() || is_sound(frame, headers, &ip, icmp);
    let says = says(&ip, icmp).filter(|_| sound);
    let quoted = icmp.get(ICMP_HEADER..).and_then(|bytes| Quoted::parse(ip.dst.is_ipv4(), bytes));
    let (Some(says), Some(quoted)) = (says, quoted) else {
        frame.note(|| "an ICMP error that cannot be read".into());
        return;
    };
    match concern(frame, policy, &ip, says, &quoted) {
        Some(text) => frame.note(|| text),
        None => frame.note(|| "an ICMP error about no packet of this host's".into()),
    }
}

/// Whether a packet is an ICMP error of the kinds that are heard, in one piece.
pub(super) fn is_error(ip: &Ip) -> bool {
    let kind = match (ip.protocol, ip.icmp) {
        (protocol::ICMP, Some((kind, _))) => ip.dst.is_ipv4() && kind == 3,
        (protocol::ICMPV6, Some((kind, _))) => !ip.dst.is_ipv4() && matches!(kind, 1 | 2),
        _ => false,
    };
    kind && ip.fragment == Fragment::Whole
}

/// Whether the checksums of a message hold that can be seen whole.
fn is_sound(frame: &Frame<'_>, headers: &Headers, ip: &Ip, icmp: &[u8]) -> bool {
    let Some(packet) = frame.head.get(headers.payload..) else { return false };
    if let Some(v4) = Ipv4::parse(packet) {
        let len = usize::from(v4.total_len()).saturating_sub(v4.header_len());
        let header = packet.get(..v4.header_len()).is_some_and(|header| checksum(header) == 0);
        return header && icmp.get(..len).is_some_and(|message| checksum(message) == 0);
    }
    let Some(v6) = Ipv6::parse(packet) else { return false };
    let len = (ipv6::HEADER_LEN + usize::from(v6.payload_len())).saturating_sub(v6.upper_offset());
    let Some(message) = icmp.get(..len) else { return false };
    let mut sum = crate::frame::checksum::Sum::new();
    sum.add(v6.addresses());
    sum.add_u16(len as u16);
    sum.add_u16(u16::from(ip.protocol));
    sum.add(message);
    sum.checksum() == 0
}

/// Whom a message concerns, and what follows from it; in words. `None` = nobody here.
fn concern(frame: &Frame<'_>, policy: &Policy, ip: &Ip, says: Says, quoted: &Quoted<'_>) -> Option<String> {
    let (state, now) = (frame.state, frame.now);
    let records = &state.nv.records;
    // A router answers the packet's source; what it quotes is what this host sent.
    let peer = records.peers.find(quoted.dst).filter(|_| quoted.src == ip.dst)?;
    let About { host, record } = about(frame, policy, quoted)?;
    let record = record.filter(|(_, view)| view.wire == peer);
    if frame.dry {
        return Some(format!("{} says so about packets to {host}", ip.src));
    }
    if !state.nv.errors.listens(now) {
        return Some("there are too many of its kind".into());
    }
    match says {
        Says::TooBig(mtu) => {
            let mtu = fits(ip.dst.is_ipv4(), mtu, quoted.len)?;
            records.narrow(peer, mtu, now);
            Some(format!("{} says that packets of {mtu} bytes get to {host}", ip.src))
        }
        Says::Unreachable(why) => {
            let itself = ip.src == host;
            // The host is there and a guest of it is not; or an address is nowhere that stands for one guest.
            let guest = why == Why::Host && (itself || quoted.carried.is_none());
            if let Some((record, _)) = record.filter(|(_, view)| guest && !view.local) {
                state.nv.wanted.doubted(record, now);
            }
            if !(itself && guest) {
                let reason = || format!("{} says: {why}", ip.src);
                state.nv.errors.complain((frame.port.id, host), now, reason);
            }
            Some(format!("{} says about {host}: {why}", ip.src))
        }
    }
}

/// What a quoted packet of this host's was about.
struct About {
    /// The host that it went to.
    host: IpAddr,
    /// The record that it went by, if enough of it is quoted.
    record: Option<((u32, Of), View)>,
}

/// `None` = it is none of this host's.
fn about(frame: &Frame<'_>, policy: &Policy, quoted: &Quoted<'_>) -> Option<About> {
    let records = &frame.state.nv.records;
    let Some(carried) = &quoted.carried else {
        let (source, _, _) = records.rewritten(quoted.src).filter(|(.., view)| view.local)?;
        let (vsid, ca, to) = records.rewritten(quoted.dst)?;
        let host = records.peers.address(to.pa)?;
        let same = policy.subnet(source)?.network == policy.subnet(vsid)?.network;
        return same.then_some(About { host, record: Some(((vsid, Of::Address(ca)), to)) });
    };
    policy.local(quoted.src)?;
    if let Some(vsid) = carried.vsid {
        policy.subnet(vsid)?;
    }
    let found = carried.vsid.zip(carried.inner);
    let record = found.and_then(|(vsid, inner)| receiver(frame, policy, vsid, inner));
    let same = record.is_none_or(|(_, view)| view.encap == carried.encap);
    same.then_some(About { host: quoted.dst, record })
}

/// The longest packet that gets through by a router's word; `None` = what it says makes no sense.
fn fits(v4: bool, mtu: u32, quoted: u32) -> Option<u16> {
    let mtu = match mtu {
        0 if v4 => PLATEAUS.into_iter().find(|&plateau| u32::from(plateau) < quoted)?.into(),
        mtu => mtu,
    };
    if v4 {
        // Packets that are not longer got through, or were not this host's.
        let mtu = mtu.max(LEAST_V4.into());
        return u16::try_from(mtu).ok().filter(|_| mtu < quoted);
    }
    (u32::from(LEAST_V6)..quoted).contains(&mtu).then(|| u16::try_from(mtu).ok()).flatten()
}

/// The record that a frame in a tunnel went by.
fn receiver(frame: &Frame<'_>, policy: &Policy, vsid: u32, inner: &[u8]) -> Option<((u32, Of), View)> {
    let records = &frame.state.nv.records;
    let mac = crate::Mac(*inner.first_chunk()?);
    let kind = u16::from_be_bytes(*inner.get(12..HEADER_LEN)?.first_chunk()?);
    let at = |offset: usize| inner.get(HEADER_LEN + offset..);
    let address = match kind {
        ethertype::IPV4 => at(ipv4::field::ADDRESSES + 4)?.first_chunk::<4>().map(|&v4| IpAddr::from(v4)),
        ethertype::IPV6 => at(ipv6::field::ADDRESSES + 16)?.first_chunk::<16>().map(|&v6| IpAddr::from(v6)),
        _ => None,
    };
    let subnet = policy.subnet(vsid)?;
    let by = address.and_then(|address| match policy.route(subnet.network, address) {
        Some(Target::Via { hop, vsid: home }) if home == vsid => Some(hop),
        _ if subnet.has(address) => Some(address),
        _ => None,
    });
    let find =
        |of| records.find(vsid, of).filter(|(_, view)| view.mac == mac).map(|(_, view)| ((vsid, of), view));
    by.and_then(|by| find(Of::Address(by))).or_else(|| find(Of::Station(mac)))
}
