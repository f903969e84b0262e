//! Names of the feature bits, as masks, and lists of names for messages.
//!
//! Written out here rather than taken from the switch, so that a wrong bit there shows.

macro_rules! bits {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        $($(#[$doc])* pub const $name: u64 = 1 << $bit;)*
        /// Every virtio bit known here, with the name the switch shows it by.
        pub const NAMES: &[(u64, &str)] = &[$(($name, $text)),*];
    };
}

bits! {
    /// Device handles packets with partial checksum (`VIRTIO_NET_F_CSUM`): the guest may send them.
    CSUM = 0, "csum";
    /// Driver handles packets with partial checksum: the guest may receive them.
    GUEST_CSUM = 1, "guest-csum";
    /// The device tells the MTU in its configuration space.
    MTU = 3, "mtu";
    /// The device has a given MAC address.
    MAC = 5, "mac";
    /// Driver can receive TSO over IPv4.
    GUEST_TSO4 = 7, "guest-tso4";
    /// Driver can receive TSO over IPv6.
    GUEST_TSO6 = 8, "guest-tso6";
    /// Driver can receive TSO with ECN.
    GUEST_ECN = 9, "guest-ecn";
    /// Driver can receive UFO.
    GUEST_UFO = 10, "guest-ufo";
    /// Device can receive TSO over IPv4: the guest may send it.
    HOST_TSO4 = 11, "host-tso4";
    /// Device can receive TSO over IPv6.
    HOST_TSO6 = 12, "host-tso6";
    /// Device can receive TSO with ECN.
    HOST_ECN = 13, "host-ecn";
    /// Device can receive UFO.
    HOST_UFO = 14, "host-ufo";
    /// Driver can merge receive buffers.
    MRG_RXBUF = 15, "mrg-rxbuf";
    /// The configuration status field is there.
    STATUS = 16, "status";
    /// There is a control queue (the VMM serves it).
    CTRL_VQ = 17, "ctrl-vq";
    /// Driver can send gratuitous packets when asked.
    GUEST_ANNOUNCE = 21, "guest-announce";
    /// Several queue pairs.
    MQ = 22, "mq";
    /// Log all writes to guest memory.
    LOG_ALL = 26, "log-all";
    /// Indirect descriptors.
    INDIRECT_DESC = 28, "indirect-desc";
    /// `used_event` and `avail_event`.
    EVENT_IDX = 29, "event-idx";
    /// vhost-user's own features can be negotiated.
    PROTOCOL_FEATURES = 30, "protocol-features";
    /// Modern virtio.
    VERSION_1 = 32, "version-1";
    /// Packed virtqueues.
    RING_PACKED = 34, "ring-packed";
    /// Buffers are used in the order in which they were made available.
    IN_ORDER = 35, "in-order";
}

/// Bits without which no ring can be brought up here.
pub const BASE: u64 = VERSION_1 | PROTOCOL_FEATURES;
/// All checksum and segmentation bits.
pub const OFFLOADS: u64 = SEND_OFFLOADS | RECEIVE_OFFLOADS;
/// What lets the guest send partial checksums and TSO.
pub const SEND_OFFLOADS: u64 = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
/// What lets the guest receive partial checksums and TSO.
pub const RECEIVE_OFFLOADS: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN;
/// What a current Linux guest accepts, as far as it is offered.
pub const LINUX: u64 = BASE
    | OFFLOADS
    | MTU
    | MAC
    | MRG_RXBUF
    | STATUS
    | CTRL_VQ
    | GUEST_ANNOUNCE
    | MQ
    | INDIRECT_DESC
    | EVENT_IDX;

/// vhost-user protocol features, as masks.
pub mod protocol {
    /// Several queue pairs.
    pub const MQ: u64 = 1 << 0;
    /// Log of dirty pages in a shared memory file.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// The front end may ask for a RARP to be sent.
    pub const RARP: u64 = 1 << 2;
    /// Any message can be acknowledged.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// The front end may tell the MTU.
    pub const MTU: u64 = 1 << 4;
    /// Configuration space access.
    pub const CONFIG: u64 = 1 << 9;
    /// Memory for inflight descriptors.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// Reset of the device.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Memory regions come and go one by one.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// The device's state can be saved and loaded.
    pub const DEVICE_STATE: u64 = 1 << 19;
    /// The driver's status byte is told.
    pub const STATUS: u64 = 1 << 16;
    /// What this library's guests accept, as far as it is offered.
    pub const ALL: u64 = MQ
        | LOG_SHMFD
        | RARP
        | REPLY_ACK
        | MTU
        | CONFIG
        | RESET_DEVICE
        | CONFIGURE_MEM_SLOTS
        | STATUS
        | DEVICE_STATE;
}

/// The names of the bits in `mask`, for messages.
#[must_use]
pub fn names(mask: u64) -> Vec<&'static str> {
    NAMES.iter().filter(|(bit, _)| mask & bit != 0).map(|&(_, name)| name).collect()
}
