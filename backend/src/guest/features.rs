//! The virtio and vhost-user features a guest port may offer, and their names.
//!
//! A bit is in `DEFAULT` only if it works; front ends accept everything they know.

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use virtio_bindings::{virtio_config, virtio_net, virtio_ring};
use vswitch::frame::offload::GuestOffloads;

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VIRTIO_F_RING_PACKED`.
pub const RING_PACKED: u64 = 1 << virtio_config::VIRTIO_F_RING_PACKED;
/// `VHOST_F_LOG_ALL`: the front end's own, to have writes to guest memory logged. No guest ever sees it.
pub const LOG_ALL: u64 = 1 << 26;

macro_rules! features {
    ($($name:literal = $bit:expr),* $(,)?) => {
        /// Name and bit of every feature that can be offered and capped per port.
        pub const NAMES: &[(&str, u64)] = &[$(($name, 1 << $bit)),*];
        /// What a port offers unless it is capped.
        pub const DEFAULT: u64 = ALWAYS $(| 1 << $bit)*;
    };
}

/// Offered whatever the cap: without them there is no modern device, or the front end's own features have no place.
pub const ALWAYS: u64 = PROTOCOL_FEATURES
    | LOG_ALL
    | 1 << virtio_config::VIRTIO_F_VERSION_1
    | 1 << virtio_net::VIRTIO_NET_F_MAC
    | 1 << virtio_net::VIRTIO_NET_F_STATUS
    | 1 << virtio_net::VIRTIO_NET_F_CTRL_VQ;

features! {
    "csum" = virtio_net::VIRTIO_NET_F_CSUM,
    "guest-csum" = virtio_net::VIRTIO_NET_F_GUEST_CSUM,
    "mtu" = virtio_net::VIRTIO_NET_F_MTU,
    "guest-tso4" = virtio_net::VIRTIO_NET_F_GUEST_TSO4,
    "guest-tso6" = virtio_net::VIRTIO_NET_F_GUEST_TSO6,
    "guest-ecn" = virtio_net::VIRTIO_NET_F_GUEST_ECN,
    "host-tso4" = virtio_net::VIRTIO_NET_F_HOST_TSO4,
    "host-tso6" = virtio_net::VIRTIO_NET_F_HOST_TSO6,
    "host-ecn" = virtio_net::VIRTIO_NET_F_HOST_ECN,
    "mrg-rxbuf" = virtio_net::VIRTIO_NET_F_MRG_RXBUF,
    "guest-announce" = virtio_net::VIRTIO_NET_F_GUEST_ANNOUNCE,
    "mq" = virtio_net::VIRTIO_NET_F_MQ,
    "indirect-desc" = virtio_ring::VIRTIO_RING_F_INDIRECT_DESC,
    "event-idx" = virtio_ring::VIRTIO_RING_F_EVENT_IDX,
    "ring-packed" = virtio_config::VIRTIO_F_RING_PACKED,
    "in-order" = virtio_config::VIRTIO_F_IN_ORDER,
}

/// Protocol features that the control protocol's library serves. `relay` adds what it serves itself.
pub fn protocol() -> Protocol {
    Protocol::MQ
        | Protocol::REPLY_ACK
        | Protocol::CONFIGURE_MEM_SLOTS
        | Protocol::CONFIG
        | Protocol::RESET_DEVICE
}

/// Names of the bits set in `features`, in bit order; `version-1` and the like are left out because every port has them.
pub fn names(features: u64) -> Vec<&'static str> {
    NAMES.iter().filter(|(_, bit)| features & bit != 0).map(|(name, _)| *name).collect()
}

/// Parses a cap such as `csum,host-tso4`; `none` leaves only what every port has.
pub fn parse_list(list: &str) -> Result<u64, String> {
    if list == "none" {
        return Ok(ALWAYS);
    }
    list.split(',').try_fold(ALWAYS, |bits, name| {
        let known = NAMES.iter().find(|(known, _)| *known == name.trim());
        known.map(|(_, bit)| bits | bit).ok_or_else(|| {
            let valid: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("unknown feature '{name}'; valid: none, {}", valid.join(", "))
        })
    })
}

/// What a guest that accepted `features` may ask of the switch when it sends.
pub fn sends(features: u64) -> GuestOffloads {
    let has = |bit: u32| features & 1 << bit != 0;
    GuestOffloads {
        csum: has(virtio_net::VIRTIO_NET_F_CSUM),
        tso4: has(virtio_net::VIRTIO_NET_F_HOST_TSO4),
        tso6: has(virtio_net::VIRTIO_NET_F_HOST_TSO6),
        ecn: has(virtio_net::VIRTIO_NET_F_HOST_ECN),
    }
}

/// What a guest that accepted `features` can receive.
pub fn receives(features: u64) -> GuestOffloads {
    let has = |bit: u32| features & 1 << bit != 0;
    GuestOffloads {
        csum: has(virtio_net::VIRTIO_NET_F_GUEST_CSUM),
        tso4: has(virtio_net::VIRTIO_NET_F_GUEST_TSO4),
        tso6: has(virtio_net::VIRTIO_NET_F_GUEST_TSO6),
        ecn: has(virtio_net::VIRTIO_NET_F_GUEST_ECN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_feature_has_a_name_and_parses_back() {
        let list = names(DEFAULT).join(",");
        assert_eq!(parse_list(&list), Ok(DEFAULT));
    }

    #[test]
    fn an_unknown_feature_names_the_valid_ones() {
        let error = parse_list("csum,tso9").unwrap_err();
        assert!(error.starts_with("unknown feature 'tso9'; valid: none, csum, guest-csum"), "{error}");
    }
}
