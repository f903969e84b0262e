//! sFlow version 5 on the wire: samples, and the datagrams they travel in.
//!
//! All numbers are big-endian words of 32 bits; whatever is shorter is padded with zeros (XDR, RFC 4506). Samples have the compact
//! format, as all port numbers fit in it.

use std::net::IpAddr;

use crate::PortId;
use crate::extension::{PortCounters, Sample};
use crate::frame::ethernet::Ethernet;
use crate::pipeline::Verdict;
use crate::trace::DropReason;

/// Longest datagram, in bytes of UDP payload: with IP and UDP headers it fits in any Ethernet frame, with room for a tunnel.
pub const LONGEST: usize = 1400;

/// Bytes of a frame that a sample shows.
pub const SHOWN: usize = 128;

const FLOW_SAMPLE: u32 = 1;
const COUNTER_SAMPLE: u32 = 2;
const RAW_HEADER: u32 = 1;
const EXTENDED_SWITCH: u32 = 1001;
const INTERFACE_COUNTERS: u32 = 1;
const ETHERNET: u32 = 1;
/// FCS: counted in the frame's length, but not shown.
const STRIPPED: u32 = 4;
/// A counter that nobody counts.
const UNKNOWN: u32 = u32::MAX;
/// The whole switch as a source: class 2 (`entPhysicalEntry`), because one random skip is drawn over all ports.
const WHOLE_SWITCH: u32 = 2 << 24 | 1;
/// Several output interfaces, of unknown number.
const SEVERAL: u32 = 0x8000_0000;
/// The frame ended in the switch itself, which answered it.
const INTERNAL: u32 = 0x3fff_ffff;
/// `ifType` propVirtual: no real medium.
const PROP_VIRTUAL: u32 = 53;

fn put(to: &mut Vec<u8>, words: &[u32]) {
    to.extend(words.iter().flat_map(|word| word.to_be_bytes()));
}

/// A record or sample: its kind, its length, its content.
fn enclosed(to: &mut Vec<u8>, kind: u32, content: &[u8]) {
    put(to, &[kind, content.len() as u32]);
    to.extend(content);
}

/// VLAN and priority on one side of the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tagged {
    /// VLAN; 0 = none.
    pub vlan: u16,
    /// 802.1p priority.
    pub priority: u8,
}

/// What a flow sample says beside the sample itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drawn {
    /// Its number among the flow samples of this switch.
    pub sequence: u32,
    /// One in how many frames is drawn.
    pub rate: u32,
    /// Samples that were drawn and not sent.
    pub lost: u32,
    /// As it came in.
    pub came: Tagged,
    /// As it goes out.
    pub goes: Tagged,
}

/// The tag that a frame has, if any.
pub fn tag_of(head: &[u8]) -> Option<Tagged> {
    let ether = Ethernet::parse(head)?;
    let tci = ether.tci(0)?;
    Some(Tagged { vlan: tci & 0xfff, priority: (tci >> 13) as u8 })
}

/// A flow sample.
pub fn flow(sample: &Sample<'_>, drawn: &Drawn) -> Vec<u8> {
    let shown = sample.head.len().min(SHOWN).min(sample.len as usize);
    let header = sample.head.get(..shown).unwrap_or_default();
    let mut raw = Vec::with_capacity(16 + SHOWN);
    put(&mut raw, &[ETHERNET, sample.len.saturating_add(STRIPPED), STRIPPED, shown as u32]);
    raw.extend(header);
    raw.resize(raw.len().next_multiple_of(4), 0);
    let Drawn { came, goes, .. } = drawn;
    let mut switch = Vec::with_capacity(16);
    put(&mut switch, &[came.vlan.into(), came.priority.into(), goes.vlan.into(), goes.priority.into()]);
    let mut content = Vec::with_capacity(256);
    put(&mut content, &[drawn.sequence, WHOLE_SWITCH, drawn.rate, sample.pool as u32, drawn.lost]);
    put(&mut content, &[sample.from.0.into(), output(sample.verdict), 2]);
    enclosed(&mut content, RAW_HEADER, &raw);
    enclosed(&mut content, EXTENDED_SWITCH, &switch);
    let mut whole = Vec::with_capacity(content.len() + 8);
    enclosed(&mut whole, FLOW_SAMPLE, &content);
    whole
}

/// A counter sample of one port. An interface receives what the guest behind it sends.
pub fn counters(port: PortId, sequence: u32, c: &PortCounters) -> Vec<u8> {
    let index = u32::from(port.0);
    let mut record = Vec::with_capacity(88);
    let wide = |to: &mut Vec<u8>, value: u64| to.extend(value.to_be_bytes());
    put(&mut record, &[index, PROP_VIRTUAL]);
    wide(&mut record, 0); // no speed of its own
    put(&mut record, &[1, 3]); // full duplex; administratively and really up
    wide(&mut record, c.out_bytes);
    // Packets are not counted by kind: all of them are in the first number, and the others are said to be unknown.
    put(&mut record, &[c.out_packets as u32, UNKNOWN, UNKNOWN, c.out_drops as u32, 0, UNKNOWN]);
    wide(&mut record, c.in_bytes);
    put(&mut record, &[c.in_packets as u32, UNKNOWN, UNKNOWN, c.in_drops as u32, 0]);
    put(&mut record, &[2]); // not promiscuous (a truth value as SNMP has it: 2 = false)
    let mut content = Vec::with_capacity(112);
    put(&mut content, &[sequence, index, 1]);
    enclosed(&mut content, INTERFACE_COUNTERS, &record);
    let mut whole = Vec::with_capacity(content.len() + 8);
    enclosed(&mut whole, COUNTER_SAMPLE, &content);
    whole
}

/// A datagram of samples.
pub fn datagram(
    agent: IpAddr,
    sub_agent: u32,
    sequence: u32,
    uptime_ms: u32,
    samples: &[Vec<u8>],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LONGEST);
    put(&mut bytes, &[5]);
    match agent {
        IpAddr::V4(v4) => {
            put(&mut bytes, &[1]);
            bytes.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            put(&mut bytes, &[2]);
            bytes.extend(v6.octets());
        }
    }
    put(&mut bytes, &[sub_agent, sequence, uptime_ms, samples.len() as u32]);
    for sample in samples {
        bytes.extend(sample);
    }
    bytes
}

/// Bytes of a datagram without samples.
pub const fn overhead(agent: IpAddr) -> usize {
    match agent {
        IpAddr::V4(_) => 28,
        IpAddr::V6(_) => 40,
    }
}

/// The output interface: format in the two highest bits.
fn output(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Unicast(to) => to.0.into(),
        Verdict::Flood(_) => SEVERAL,
        Verdict::Answer => INTERNAL,
        Verdict::Drop(reason) | Verdict::Refuse(reason, _) => 1 << 30 | code(reason),
    }
}

/// The nearest of the reasons that sFlow knows: codes of ICMP "destination unreachable" (RFC 1812, 5.2.7.1) and 256 to 262 of its own.
fn code(reason: DropReason) -> u32 {
    const NETWORK_UNREACHABLE: u32 = 0;
    const HOST_UNREACHABLE: u32 = 1;
    const UNSPECIFIED: u32 = 256;
    const TTL_EXCEEDED: u32 = 257;
    const ACL: u32 = 258;
    const NO_BUFFER: u32 = 259;
    const RATE_LIMIT: u32 = 261;
    const TOO_LONG: u32 = 262;
    match reason {
        DropReason::NvNoRoute | DropReason::ProviderUnreachable => NETWORK_UNREACHABLE,
        DropReason::UnknownUnicast
        | DropReason::NvDestinationUnknown
        | DropReason::ReceiverLinkDown
        | DropReason::ReceiverNotRunning => HOST_UNREACHABLE,
        DropReason::NvTtlExpired => TTL_EXCEEDED,
        DropReason::AclDenied
        | DropReason::RuleDenied
        | DropReason::ExtensionFiltered
        | DropReason::SourceNotAllowed
        | DropReason::MacPinned
        | DropReason::VlanNotAllowed
        | DropReason::VlanFiltered
        | DropReason::PrivateVlan
        | DropReason::VsidMismatch
        | DropReason::DhcpGuard
        | DropReason::RouterGuard
        | DropReason::AddressNotOwned
        | DropReason::AddressLimit
        | DropReason::NeighbourSpoofed => ACL,
        DropReason::ReceiverFull | DropReason::ReceiverBuffersTooSmall | DropReason::SessionLimit => {
            NO_BUFFER
        }
        DropReason::StormLimit => RATE_LIMIT,
        DropReason::MtuExceeded | DropReason::FrameTooLong => TOO_LONG,
        _ => UNSPECIFIED,
    }
}
