//! Many customer networks behind one outside address (hyperv-semantics 14.11, mode `nat`).
//!
//! Each customer network has a range of the address's ports, a tenant's share of sessions, and a table of its own behind a lock of its own: none can
//! take anything from another, and what comes from outside belongs to the network in whose range its port is. A frame through a gateway
//! takes that one lock, for as long as a look-up lasts; frames that stay inside take none.
//!
//! Translation is endpoint-independent (RFC 4787, REQ-1): as long as one of its sessions lives, an inside address and port is the same
//! outside port to everybody. Filtering is not: only who was sent something may answer, and only from the port that it was sent to. So no two
//! live sessions have one protocol, outside port and remote end; and no two inside ends one protocol and outside port. ICMP errors about
//! a session are translated with what they quote.
//!
//! Nothing is allocated after a customer network was admitted, and every operation takes bounded time. There is no clock: time is the
//! caller's. What is not translated, and so does not pass: fragments, protocols without ports, echo requests and connections from
//! outside, packets from one inside to another through the outside address.

mod index;
mod table;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::frame::headers::{Fragment, Headers, Ip};
use crate::frame::offload::Offload;
use crate::frame::protocol;
use crate::nv::model::Rdid;
use crate::nv::wire::rewrite::{self, Ends, Quoted};
use crate::session::State;
use crate::{Direction, Nanos, hash};
use table::{End, Inside, Kind, Table};

/// The first of the ports that are given to customer networks; smaller ones are well-known services'.
pub const FIRST_PORT: u16 = 1024;

/// One second.
const SECOND: Nanos = 1_000_000_000;

/// How long a UDP session lives without a packet (RFC 4787, REQ-5).
pub const UDP_IDLE: Nanos = 300 * SECOND;

/// How long an established TCP connection lives without a packet (RFC 5382, REQ-5).
pub const TCP_IDLE: Nanos = 7_440 * SECOND;

/// How long a TCP connection that is not yet or no longer established lives without a packet (RFC 5382, REQ-5).
pub const TCP_TRANSITORY: Nanos = 240 * SECOND;

/// How long a series of echo requests lives without a packet (RFC 5508, REQ-2).
pub const ECHO_IDLE: Nanos = 60 * SECOND;

/// What each customer network gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Ports of each protocol: as many inside addresses and ports can be outside at a time. Their number decides how many customer
    /// networks there can be behind the address: 64,512 in all.
    pub ports: u16,
    /// Sessions.
    pub sessions: u32,
}

impl Default for Share {
    /// For 64 customer networks, each with up to half a megabyte of sessions.
    fn default() -> Self {
        Self { ports: 1_008, sessions: 8_192 }
    }
}

/// A customer network's number behind this address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TenantId(u16);

/// Why a packet is not translated; it is dropped. It is left as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// Not an IP packet of the outside address's version whose headers can be seen, or one that is routed by its source.
    #[error("not a packet whose addresses can be translated")]
    Unreadable,
    /// Ports are in a packet's beginning only.
    #[error("the packet is a fragment")]
    Fragment,
    /// Neither TCP nor UDP nor an echo, nor an error about one.
    #[error("the packet's protocol has no ports")]
    Protocol,
    /// From inside: its destination is the outside address itself.
    #[error("the packet is sent to the outside address itself")]
    ToItself,
    /// It belongs to no session, and cannot open one.
    #[error("the packet belongs to no session")]
    NoSession,
    /// All ports of the customer network are in use.
    #[error("all ports of the customer network are in use")]
    NoPort,
    /// All sessions of the customer network are in use.
    #[error("the customer network has as many sessions as it may have")]
    Full,
}

/// One session, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// IP protocol.
    pub protocol: u8,
    /// Customer address and port, or identifier of echoes.
    pub inside: (IpAddr, u16),
    /// The port, or identifier, that stands for it.
    pub outside: u16,
    /// The other end's address and port.
    pub remote: (IpAddr, u16),
    /// How far its connection is.
    pub state: State,
    /// Nanoseconds without a packet.
    pub idle: Nanos,
}

/// One outside address.
#[derive(Debug)]
pub struct Nat {
    outside: IpAddr,
    seed: u64,
    share: Share,
    /// Held while a range is looked for, so that no two customer networks get one.
    admission: Mutex<()>,
    tenants: Box<[Mutex<Option<Table>>]>,
}

impl Nat {
    /// An address without customer networks. Shares are made valid: at least 1 port and 1 session, at most 64,512 and 2^24.
    pub fn new(outside: IpAddr, seed: u64, share: Share) -> Self {
        let ports = share.ports.clamp(1, u16::MAX - FIRST_PORT + 1);
        let share = Share { ports, sessions: share.sessions.clamp(1, 1 << 24) };
        let tenants = (u32::from(u16::MAX) + 1 - u32::from(FIRST_PORT)) / u32::from(ports);
        let tenants = (0..tenants).map(|_| Mutex::new(None)).collect();
        Self { outside, seed, share, admission: Mutex::new(()), tenants }
    }

    /// The address.
    pub fn outside(&self) -> IpAddr {
        self.outside
    }

    /// Gives a customer network the lowest range of ports that is free, or says which one it has. `None` if all are given away.
    pub fn admit(&self, network: Rdid) -> Option<TenantId> {
        let _admission = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = None;
        for (number, _) in self.tenants.iter().enumerate() {
            let id = TenantId(number as u16);
            match self.lock(id).as_deref() {
                Some(Some(table)) if table.network() == network => return Some(id),
                Some(None) if free.is_none() => free = Some(id),
                _ => {}
            }
        }
        let id = free?;
        let seed = hash::expand(self.seed, u64::from(id.0));
        let table = Table::new(network, seed, *self.ports(id).start(), self.share);
        *self.lock(id)? = Some(table);
        Some(id)
    }

    /// Takes a customer network's ports back, with all its sessions.
    pub fn dismiss(&self, network: Rdid) {
        for number in 0..self.tenants.len() {
            if let Some(mut slot) = self.lock(TenantId(number as u16))
                && slot.as_ref().is_some_and(|table| table.network() == network)
            {
                *slot = None;
            }
        }
    }

    /// A customer network's ports.
    pub fn ports(&self, tenant: TenantId) -> RangeInclusive<u16> {
        let first = u32::from(FIRST_PORT) + u32::from(tenant.0) * u32::from(self.share.ports);
        first as u16..=(first + u32::from(self.share.ports) - 1) as u16
    }

    /// A customer network's sessions that are alive.
    pub fn sessions(&self, tenant: TenantId, now: Nanos) -> Vec<Session> {
        self.lock(tenant).and_then(|slot| Some(slot.as_ref()?.list(now))).unwrap_or_default()
    }

    /// Forgets what has expired. To be called about every second; what has expired is of no effect in the meantime.
    pub fn age(&self, now: Nanos) {
        for number in 0..self.tenants.len() {
            if let Some(mut slot) = self.lock(TenantId(number as u16))
                && let Some(table) = slot.as_mut()
            {
                table.collect(now, usize::MAX);
            }
        }
    }

    /// Translates a packet from inside. `head` is its frame's beginning, `offload` what its sender left open.
    pub fn translate_out(
        &self,
        now: Nanos,
        tenant: TenantId,
        head: &mut [u8],
        offload: &Offload,
    ) -> Result<(), Refused> {
        let packet = Packet::read(head).and_then(|packet| self.check(packet))?;
        if packet.ip.dst == self.outside {
            return Err(Refused::ToItself);
        }
        let mut slot = self.lock(tenant).ok_or(Refused::NoSession)?;
        let table = slot.as_mut().ok_or(Refused::NoSession)?;
        let mut new = Ends { src: self.outside, dst: packet.ip.dst, src_port: None, dst_port: None };
        let mut about = None;
        match packet.content {
            Content::Ports(kind, src, dst) => {
                let flags = packet.flags();
                let inside = Inside { kind, address: packet.ip.src, port: src };
                new.src_port =
                    Some(table.send(now, inside, End { address: packet.ip.dst, port: dst }, flags)?);
            }
            Content::Request(id) => {
                let inside = Inside { kind: Kind::Echo, address: packet.ip.src, port: id };
                new.src_port =
                    Some(table.send(now, inside, End { address: packet.ip.dst, port: 0 }, None)?);
            }
            Content::Reply(_) => return Err(Refused::NoSession),
            Content::Error(quoted) => {
                let (kind, src, dst) = ends(&quoted)?;
                let (local, remote) = if kind == Kind::Echo { (src, 0) } else { (dst, src) };
                let inside = Inside { kind, address: quoted.dst, port: local };
                let remote = End { address: quoted.src, port: remote };
                let port = Some(table.outside(now, inside, remote).ok_or(Refused::NoSession)?);
                let (src_port, dst_port) = if kind == Kind::Echo { (port, None) } else { (None, port) };
                about = Some(Ends { src: quoted.src, dst: self.outside, src_port, dst_port });
            }
        }
        drop(slot);
        rewrite::translate(head, &new, about.as_ref(), offload).map_err(|_| Refused::Unreadable)
    }

    /// Translates a packet from outside and says whose it is.
    pub fn translate_in(
        &self,
        now: Nanos,
        head: &mut [u8],
        offload: &Offload,
    ) -> Result<(TenantId, Rdid), Refused> {
        let packet = Packet::read(head).and_then(|packet| self.check(packet))?;
        if packet.ip.dst != self.outside {
            return Err(Refused::NoSession);
        }
        let mut new = Ends { src: packet.ip.src, dst: packet.ip.dst, src_port: None, dst_port: None };
        let mut about = None;
        let (kind, port, remote) = match packet.content {
            Content::Ports(kind, src, dst) => (kind, dst, End { address: packet.ip.src, port: src }),
            Content::Reply(id) => (Kind::Echo, id, End { address: packet.ip.src, port: 0 }),
            Content::Error(quoted) if quoted.src == self.outside => {
                let (kind, src, dst) = ends(&quoted)?;
                (kind, src, End { address: quoted.dst, port: dst })
            }
            Content::Request(_) | Content::Error(_) => return Err(Refused::NoSession),
        };
        let tenant = port.checked_sub(FIRST_PORT).ok_or(Refused::NoSession)? / self.share.ports;
        let tenant = TenantId(tenant);
        let mut slot = self.lock(tenant).ok_or(Refused::NoSession)?;
        let table = slot.as_mut().ok_or(Refused::NoSession)?;
        let network = table.network();
        let inside = if let Content::Error(quoted) = packet.content {
            let inside = table.inside(now, kind, port, remote).ok_or(Refused::NoSession)?;
            about = Some(Ends {
                src: inside.address,
                dst: quoted.dst,
                src_port: Some(inside.port),
                dst_port: None,
            });
            inside
        } else {
            let inside = table.receive(now, kind, port, remote, packet.flags()).ok_or(Refused::NoSession)?;
            let port = Some(inside.port);
            (new.src_port, new.dst_port) = if kind == Kind::Echo { (port, None) } else { (None, port) };
            inside
        };
        drop(slot);
        new.dst = inside.address;
        rewrite::translate(head, &new, about.as_ref(), offload).map_err(|_| Refused::Unreadable)?;
        Ok((tenant, network))
    }

    /// A packet of the other version of IP must not open a session.
    fn check(&self, packet: Packet) -> Result<Packet, Refused> {
        if packet.ip.src.is_ipv4() == self.outside.is_ipv4() { Ok(packet) } else { Err(Refused::Unreadable) }
    }

    fn lock(&self, tenant: TenantId) -> Option<MutexGuard<'_, Option<Table>>> {
        let slot = self.tenants.get(usize::from(tenant.0))?;
        Some(slot.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A packet that is not a fragment.
struct Packet {
    ip: Ip,
    content: Content,
}

/// What tells whose a packet is.
enum Content {
    Ports(Kind, u16, u16),
    Request(u16),
    Reply(u16),
    Error(Quoted),
}

impl Packet {
    fn read(head: &[u8]) -> Result<Self, Refused> {
        let headers = Headers::parse(head, head.len() as u32).map_err(|_| Refused::Unreadable)?;
        let ip = headers.ip.ok_or(Refused::Unreadable)?;
        if ip.fragment != Fragment::Whole {
            return Err(Refused::Fragment);
        }
        let message = || head.get(ip.upper..).and_then(<[u8]>::split_first_chunk::<8>);
        let content = match (ip.protocol, ip.ports, ip.icmp) {
            (protocol::TCP, Some((src, dst)), _) => Content::Ports(Kind::Tcp, src, dst),
            (protocol::UDP, Some((src, dst)), _) => Content::Ports(Kind::Udp, src, dst),
            (protocol, _, Some((kind, _))) if rewrite::is_echo(protocol, kind) => {
                let (&[.., i0, i1, _, _], _) = message().ok_or(Refused::Unreadable)?;
                let id = u16::from_be_bytes([i0, i1]);
                if matches!(kind, 8 | 128) { Content::Request(id) } else { Content::Reply(id) }
            }
            (protocol, _, Some((kind, _))) if rewrite::is_error(protocol, kind) => {
                let (_, quoted) = message().ok_or(Refused::Unreadable)?;
                Content::Error(Quoted::parse(quoted).ok_or(Refused::Unreadable)?)
            }
            _ => return Err(Refused::Protocol),
        };
        Ok(Self { ip, content })
    }

    /// TCP flags.
    fn flags(&self) -> Option<u8> {
        (self.ip.protocol == protocol::TCP).then_some(self.ip.tcp_flags)
    }
}

/// What a quoted packet is of, and its ports; of an echo its identifier and 0.
fn ends(quoted: &Quoted) -> Result<(Kind, u16, u16), Refused> {
    let (src, dst) = quoted.ports.ok_or(Refused::Protocol)?;
    let kind = match quoted.protocol {
        protocol::TCP => Kind::Tcp,
        protocol::UDP => Kind::Udp,
        _ => Kind::Echo,
    };
    Ok((kind, src, dst))
}

/// How long a session of this kind and state lives without a packet.
const fn idle(kind: Kind, state: State) -> Nanos {
    match (kind, state) {
        (Kind::Tcp, State::Established) => TCP_IDLE,
        (Kind::Tcp, _) => TCP_TRANSITORY,
        (Kind::Udp, _) => UDP_IDLE,
        (Kind::Echo, _) => ECHO_IDLE,
    }
}

/// The direction of a packet from inside, and of one from outside.
const SENT: Direction = Direction::Out;
const RECEIVED: Direction = Direction::In;
