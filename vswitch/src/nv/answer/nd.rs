//! Neighbour discovery (RFC 4861).

use std::net::{IpAddr, Ipv6Addr};

use super::{ethernet, finish, ip, question, seal, v6_pair, vlan};
use crate::Mac;
use crate::frame::ethernet::ethertype;
use crate::frame::ipv6::{HEADER_LEN, Ipv6};
use crate::frame::neighbour::kind;
use crate::frame::protocol;

/// The only hop limit of valid messages: that of what no router has forwarded (RFC 4861, section 7.1).
const HOP_LIMIT: u8 = 255;

/// Where the hop limit is.
const HOP_LIMIT_AT: usize = 7;

/// Bytes of a solicitation or an advertisement without options.
const MESSAGE: usize = 24;

/// Bytes of an option with a link-layer address.
const OPTION: usize = 8;

/// All nodes of the link: ff02::1 and its Ethernet address (RFC 4291, section 2.7.1; RFC 2464, section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// What an advertisement says of its target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Advertised {
    /// It is a router.
    pub router: bool,
    /// What it says replaces what stations know (the override flag; a proxy that is not sure leaves it clear, section 7.2.8).
    pub certain: bool,
}

/// Writes the answer to a neighbour solicitation: `target` is at `mac`. Who has no address yet and asks whether somebody else has it
/// is answered as all nodes are (section 7.2.4). `false` if `request` is the beginning of no valid solicitation for `target`.
pub fn neighbour_advertisement(
    request: &[u8],
    mac: Mac,
    target: Ipv6Addr,
    says: Advertised,
    out: &mut Vec<u8>,
) -> bool {
    let done = advertisement(request, mac, target, says, out);
    finish(out, done)
}

fn advertisement(
    request: &[u8],
    mac: Mac,
    target: Ipv6Addr,
    says: Advertised,
    out: &mut Vec<u8>,
) -> Option<()> {
    const ROUTER: u8 = 0x80;
    const SOLICITED: u8 = 0x40;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER: u8 = 2;
    let ether = question(request)?;
    let packet = request.get(ether.header_len()..)?;
    let ip = Ipv6::parse(packet).filter(|_| ether.ethertype() == ethertype::IPV6)?;
    let message = packet.get(ip.upper_offset()..)?.first_chunk::<MESSAGE>()?;
    let (asker, _) = v6_pair(ip.addresses())?;
    let valid = ip.protocol() == protocol::ICMPV6
        && packet.get(HOP_LIMIT_AT) == Some(&HOP_LIMIT)
        && !ip.is_fragment()
        && message.starts_with(&[kind::SOLICITATION, 0])
        && message.ends_with(&target.octets())
        && !target.is_multicast()
        && !asker.is_multicast();
    if !valid {
        return None;
    }
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let flags = flag(says.router, ROUTER) | flag(says.certain, OVERRIDE);
    let (to, to_mac, flags) = if asker.is_unspecified() {
        (ALL_NODES, ALL_NODES_MAC, flags)
    } else {
        (asker, ether.src(), flags | SOLICITED)
    };
    let addresses = (target, to);
    let head = [kind::ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    discovery(out, (to_mac, mac, vlan(&ether)), addresses, head, target, Some((TARGET_LINK_LAYER, mac)))
}

/// Writes a multicast neighbour solicitation: who has `target`? With the unspecified address as `src_ip` it is the probe
/// for duplicates of RFC 4862, section 5.4.2.
pub fn neighbour_solicitation(
    src: Mac,
    src_ip: Ipv6Addr,
    target: Ipv6Addr,
    vlan: Option<u16>,
    out: &mut Vec<u8>,
) {
    const SOURCE_LINK_LAYER: u8 = 1;
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let group_mac = Mac([0x33, 0x33, 0xff, a, b, c]);
    let head = [kind::SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    let option = (!src_ip.is_unspecified()).then_some((SOURCE_LINK_LAYER, src));
    let done = discovery(out, (group_mac, src, vlan), (src_ip, group), head, target, option);
    finish(out, done);
}

/// One message with at most one option. It is longer than the shortest frame.
fn discovery(
    out: &mut Vec<u8>,
    (dst_mac, src_mac, vlan): (Mac, Mac, Option<u16>),
    (from, to): (Ipv6Addr, Ipv6Addr),
    head: [u8; 8],
    target: Ipv6Addr,
    option: Option<(u8, Mac)>,
) -> Option<()> {
    ethernet(out, dst_mac, src_mac, vlan, ethertype::IPV6);
    let at = out.len() + HEADER_LEN;
    let len = MESSAGE + option.map_or(0, |_| OPTION);
    ip(out, IpAddr::V6(from), IpAddr::V6(to), len, 0, HOP_LIMIT)?;
    out.extend_from_slice(&head);
    out.extend_from_slice(&target.octets());
    if let Some((kind, mac)) = option {
        out.extend_from_slice(&[kind, 1]);
        out.extend_from_slice(&mac.0);
    }
    seal(out, at, IpAddr::V6(from), IpAddr::V6(to))
}
