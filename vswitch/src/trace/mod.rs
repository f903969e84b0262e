//! Why a frame went nowhere: the one list of drop reasons.
//!
//! Every dropped frame has exactly one reason. What a verdict says, and what is wrong with a chain or header, is counted
//! at the port the frame came from (`out_drops`); what shows at delivery (`receiver-not-running`, `receiver-full`,
//! `receiver-buffers-too-small`, `mtu-exceeded`) at the port that did not get it (`in_drops`).
//!
//! Which frames somebody wants to see is [`filter`]'s business.

pub mod filter;

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $meaning:literal;)+) => {
        /// The one reason a dropped frame has. Shown by this name (kebab-case) in counters, traces and tests.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $meaning] $(#[$doc])* $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of their numbers: `ALL[r as usize] == r`.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The kebab-case name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// One sentence for an operator: what happened and, where it helps, what would be valid.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),+ }
            }
        }
    };
}

drop_reasons! {
    FrameTooShort = "frame-too-short",
        "The frame ends before its Ethernet header (with its VLAN tag) does.";
    FrameTooLong = "frame-too-long",
        "The frame is longer than any Ethernet frame or TSO segment can be (65535 bytes and two VLAN tags).";
    NoSuchPort = "no-such-port",
        "The frame came from a port that is not, or no longer, part of the switch.";
    LinkDown = "link-down",
        "The link of the port the frame came from is set down.";
    NullDestination = "null-destination",
        "The destination address is 00:00:00:00:00:00.";
    InvalidSource = "invalid-source",
        "The source address is a group address or zero.";
    SourceNotAllowed = "source-not-allowed",
        "The source address is not the port's own and MAC spoofing is off.";
    MacPinned = "mac-pinned",
        "The source address is configured for another port.";
    ReservedMulticast = "reserved-multicast",
        "The destination is a link-local protocol address (01-80-C2-00-00-00 to 0F), which no switch forwards.";
    VlanNotAllowed = "vlan-not-allowed",
        "The frame has a VLAN tag that the port it came from may not send: any tag unless the port is a trunk, and there only the listed ones.";
    TagInHeader = "tag-in-header",
        "Behind a VLAN tag that does not stay (a priority tag, or that of a network the receiver gets untagged) there is another one, which would become the first.";
    VlanFiltered = "vlan-filtered",
        "The port that has the destination address is not in the frame's VLAN.";
    PrivateVlan = "private-vlan",
        "The port that has the destination address is in the same primary VLAN, but private VLAN rules keep the two apart.";
    VsidMismatch = "vsid-mismatch",
        "The port that has the destination address is in another virtual subnet.";
    NvSourceUnknown = "nv-source-unknown",
        "No lookup record says where the source address of the customer's packet is, or it names another MAC address.";
    NvDestinationUnknown = "nv-destination-unknown",
        "No lookup record says where the destination (or next hop) of the customer's packet is.";
    NvNoRoute = "nv-no-route",
        "The customer network has no subnet and no route for the destination.";
    NvEthertype = "nv-ethertype",
        "In a virtual subnet there is only IPv4, IPv6 and ARP, without a VLAN tag.";
    NvMethodMismatch = "nv-method-mismatch",
        "The packet came in another encapsulation, or the two records name different ones.";
    NvSourceSpoofed = "nv-source-spoofed",
        "The packet came from a provider address, or with a customer or MAC address, that its source's record does not name.";
    NvNotHere = "nv-not-here",
        "The packet was sent to this host, but its destination's record names another one.";
    NvMalformed = "nv-malformed",
        "The tunnel's header is not what its standard allows, its VSID is none, or the frame in it has a VLAN tag.";
    NvCongestion = "nv-congestion",
        "The tunnel's packet was marked as congested on its way, and the packet in it does not know such marks (RFC 6040).";
    NvTtlExpired = "nv-ttl-expired",
        "The packet's TTL or hop limit ended at the customer network's router.";
    NvForRouter = "nv-for-router",
        "The packet is for the customer network's router itself, which answers ARP, neighbour discovery and echo only.";
    ProviderUnreachable = "provider-unreachable",
        "No provider address of this host reaches the other host, or its next hop does not answer.";
    ProviderSpoofed = "provider-spoofed",
        "A port that is in a provider address's network used that address as its own.";
    MalformedPacket = "malformed-packet",
        "A header that policy has to look at is cut off, contradicts itself, is not within the first 192 bytes, or is behind a third VLAN tag or LLC/SNAP.";
    BadFragment = "bad-fragment",
        "The fragment is one that no sender makes in good faith: its first part is too short for the next header, or it overlaps one.";
    DhcpGuard = "dhcp-guard",
        "The port sent a message of a DHCP server and DHCP guard is on.";
    RouterGuard = "router-guard",
        "The port sent a router advertisement or a redirect and router guard is on.";
    AddressNotOwned = "address-not-owned",
        "The source address of the IP packet is not one of the port's `addresses`.";
    NeighbourSpoofed = "neighbour-spoofed",
        "An ARP or neighbour-discovery message claims an IP or MAC address that is not the port's.";
    AddressLimit = "address-limit",
        "The port uses as many IP addresses as its `address-limit` allows, and this is another one.";
    StormLimit = "storm-limit",
        "The port sent more broadcast, multicast and unknown unicast in this second than its `storm-limit` allows.";
    AclDenied = "acl-denied",
        "A port ACL denies the address.";
    RuleDenied = "rule-denied",
        "An extended rule denies the packet.";
    SessionLimit = "session-limit",
        "A stateful rule allows the packet, but the port has as many sessions as it may have.";
    ExtensionFiltered = "extension-filtered",
        "An extension of the switch dropped the frame, or kept the port from getting it; the extension's own counters say why.";
    ExtensionFailed = "extension-failed",
        "An extension that is to fail closed has failed; enable it again, or let it fail open.";
    ExtensionMissing = "extension-missing",
        "The port requires an extension that is not enabled.";
    UnknownUnicast = "unknown-unicast",
        "No port has or has learned the destination address, and there is no uplink to try.";
    SameSegmentReturn = "same-segment-return",
        "The destination is behind the port the frame came from.";
    ReceiverLinkDown = "receiver-link-down",
        "The link of the port that has the destination address is set down.";
    ReceiverNotRunning = "receiver-not-running",
        "The receiving port has no running ring or link.";
    ReceiverFull = "receiver-full",
        "The receiver had no room within `rx-wait-us`.";
    ReceiverBuffersTooSmall = "receiver-buffers-too-small",
        "The buffers that the receiving guest offers cannot hold the frame.";
    MtuExceeded = "mtu-exceeded",
        "The frame, or a segment it stands for, is larger than the receiver's MTU.";
    BadOffload = "bad-offload",
        "The virtio-net header contradicts the frame or asks for an offload that was not negotiated.";
    BadHeader = "bad-header",
        "The descriptor chain is shorter than a virtio-net header.";
    MalformedDescriptor = "malformed-descriptor",
        "A descriptor of the chain breaks the rules of virtio or points outside the guest's memory.";
}

impl DropReason {
    /// How many reasons there are; one more than the largest number.
    pub const COUNT: usize = Self::ALL.len();
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_index_the_list_and_names_are_unique_kebab_case() {
        for (number, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{reason}");
            assert!(reason.meaning().ends_with('.'), "{reason}");
            assert_eq!(DropReason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
    }

    #[test]
    fn the_serialised_name_is_the_shown_name() {
        for &reason in DropReason::ALL {
            let mut derived = String::new();
            for (i, c) in format!("{reason:?}").char_indices() {
                if c.is_ascii_uppercase() && i > 0 {
                    derived.push('-');
                }
                derived.push(c.to_ascii_lowercase());
            }
            assert_eq!(derived, reason.name());
        }
    }
}
