//! A receiver that believes anything: what a guard let through and this one still understands is a hole.
//!
//! It takes off any number of tags and LLC/SNAP, walks any number of extension headers of any kind, and puts fragments together
//! however they overlap, with the first or with the last byte winning.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vswitch::Mac;

/// Which byte counts where fragments overlap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wins {
    First,
    Last,
}

/// What it understands of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// A router advertisement or a redirect.
    Router,
    /// A message of a DHCP server.
    DhcpServer,
    /// Something else.
    Other,
}

/// One piece of a fragmented packet.
struct Piece<'a> {
    version: u8,
    next: u8,
    at: usize,
    more: bool,
    bytes: &'a [u8],
}

/// Everything it hears in frames that come in this order.
pub(crate) fn heard(frames: &[Vec<u8>], wins: Wins) -> Vec<Heard> {
    let mut heard = Vec::new();
    let mut pieces = Vec::new();
    for frame in frames {
        let Some((kind, packet)) = opened(frame) else { continue };
        match kind {
            0x0800 => v4(packet, &mut heard, &mut pieces),
            0x86dd => v6(packet, &mut heard, &mut pieces),
            _ => {}
        }
    }
    for version in [4, 6] {
        let own: Vec<_> = pieces.iter().filter(|p| p.version == version).collect();
        let mut firsts = own.iter().filter(|p| p.at == 0);
        // RFC 8200, 4.5: the next header is that of the first fragment.
        let first = if wins == Wins::First { firsts.next() } else { firsts.next_back() };
        if let Some(payload) = together(&own, wins)
            && let Some(first) = first
        {
            walk(version, first.next, &payload, &mut heard, &mut Vec::new());
        }
    }
    heard
}

/// The ethertype and payload behind all tags and LLC/SNAP.
fn opened(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut at = 12;
    loop {
        let kind = u16::from_be_bytes(*frame.get(at..)?.first_chunk()?);
        match kind {
            0x8100 | 0x88a8 => at += 4,
            0..0x600 if frame.get(at + 2..at + 5) == Some(&[0xaa, 0xaa, 3]) => at += 8,
            _ => return Some((kind, frame.get(at + 2..)?)),
        }
    }
}

fn v4<'a>(packet: &'a [u8], heard: &mut Vec<Heard>, pieces: &mut Vec<Piece<'a>>) {
    let Some(header) = packet.first_chunk::<20>() else { return };
    let end = packet.len().min(usize::from(u16::from_be_bytes([header[2], header[3]])));
    let Some(bytes) = packet.get(usize::from(header[0] & 0xf) * 4..end) else { return };
    let field = u16::from_be_bytes([header[6], header[7]]);
    let (at, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
    if at == 0 && !more {
        walk(4, header[9], bytes, heard, pieces);
    } else {
        pieces.push(Piece { version: 4, next: header[9], at, more, bytes });
    }
}

fn v6<'a>(packet: &'a [u8], heard: &mut Vec<Heard>, pieces: &mut Vec<Piece<'a>>) {
    let Some(header) = packet.first_chunk::<40>() else { return };
    let end = packet.len().min(40 + usize::from(u16::from_be_bytes([header[4], header[5]])));
    walk(6, header[6], &packet[40..end], heard, pieces);
}

/// Walks extension headers to the end of the chain, or to a fragment header.
fn walk<'a>(version: u8, next: u8, bytes: &'a [u8], heard: &mut Vec<Heard>, pieces: &mut Vec<Piece<'a>>) {
    let (mut next, mut rest) = (next, bytes);
    while version == 6 && matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
        let Some(&[then, length, high, low]) = rest.first_chunk() else { return };
        let size = match next {
            44 => 8,
            51 => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        let Some(after) = rest.get(size..) else { return };
        let field = u16::from_be_bytes([high, low]);
        if next == 44 && field & 0xfff9 != 0 {
            let (at, more) = (usize::from(field & 0xfff8), field & 1 != 0);
            pieces.push(Piece { version, next: then, at, more, bytes: after });
            return;
        }
        (next, rest) = (then, after);
    }
    heard.push(understand(version, next, rest));
}

fn understand(version: u8, protocol: u8, message: &[u8]) -> Heard {
    let router = match (version, protocol) {
        (4, 1) => matches!(message.first(), Some(5 | 9)),
        (6, 58) => matches!(message.first(), Some(134 | 137)),
        _ => false,
    };
    if router && message.len() >= 8 {
        return Heard::Router;
    }
    if protocol == 17 && message.len() > 8 {
        let port = u16::from_be_bytes([message[2], message[3]]);
        let server = match (version, port) {
            (4, 67 | 68) => message[8] == 2,
            (6, 546) => matches!(message[8], 2 | 7 | 10 | 13),
            (6, 547) => message[8] == 13,
            _ => false,
        };
        if server {
            return Heard::DhcpServer;
        }
    }
    Heard::Other
}

/// The payload, if the pieces cover it from its beginning to where one says it ends.
fn together(pieces: &[&Piece<'_>], wins: Wins) -> Option<Vec<u8>> {
    let total = pieces.iter().rev().find(|p| !p.more).map(|p| p.at + p.bytes.len())?;
    let mut payload: Vec<Option<u8>> = vec![None; total];
    for piece in pieces {
        for (slot, &byte) in payload.iter_mut().skip(piece.at).zip(piece.bytes) {
            if wins == Wins::Last || slot.is_none() {
                *slot = Some(byte);
            }
        }
    }
    payload.into_iter().collect()
}

/// The pairs of addresses that a neighbour would learn from one frame: from ARP of any hardware type and operation, and from
/// any link-layer option of any message of neighbour discovery.
pub(crate) fn learned(frame: &[u8]) -> Vec<(IpAddr, Mac)> {
    let Some((kind, payload)) = opened(frame) else { return Vec::new() };
    match kind {
        0x0806 | 0x8035 => payload.first_chunk::<28>().map_or(Vec::new(), |m| {
            let sender = Ipv4Addr::new(m[14], m[15], m[16], m[17]);
            let mac = Mac([m[8], m[9], m[10], m[11], m[12], m[13]]);
            let understood = m[2..6] == [8, 0, 6, 4] && sender != Ipv4Addr::UNSPECIFIED;
            if understood { vec![(sender.into(), mac)] } else { Vec::new() }
        }),
        0x86dd => neighbours(frame, payload).unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn neighbours(frame: &[u8], packet: &[u8]) -> Option<Vec<(IpAddr, Mac)>> {
    let header = packet.first_chunk::<40>()?;
    let end = packet.len().min(40 + usize::from(u16::from_be_bytes([header[4], header[5]])));
    let (mut next, mut rest) = (header[6], packet.get(40..end)?);
    while matches!(next, 0 | 43 | 44 | 60) {
        let size = if next == 44 { 8 } else { (usize::from(*rest.get(1)?) + 1) * 8 };
        (next, rest) = (*rest.first()?, rest.get(size..)?);
    }
    let source = Ipv6Addr::from(*packet.get(8..)?.first_chunk::<16>()?);
    let target = || rest.get(8..)?.first_chunk::<16>().map(|t| Ipv6Addr::from(*t));
    let (about, options) = match (next, rest.first()?) {
        (58, 133) => (source, 8),
        (58, 135) => (source, 24),
        (58, 136) => (target()?, 24),
        (58, 137) => (target()?, 40),
        _ => return None,
    };
    // Without an option, an advertisement is taken to come from where its frame comes from.
    let mut found = vec![(about.into(), Mac(*frame.get(6..)?.first_chunk()?))];
    if rest[0] != 136 {
        found.clear();
    }
    let mut options = rest.get(options..)?;
    while let Some(&[kind, units]) = options.first_chunk() {
        if matches!(kind, 1 | 2)
            && let Some(mac) = options.get(2..8).and_then(<[u8]>::first_chunk)
        {
            found.push((about.into(), Mac(*mac)));
        }
        options = options.get(usize::from(units).max(1) * 8..)?;
    }
    Some(found)
}
