//! What a scripted guest is like: features, queues, habits.

use crate::features::{self, protocol};

/// How a frame to be sent is cut into descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Header and frame in one descriptor.
    Whole,
    /// A descriptor for the header, one for the frame.
    HeaderApart,
    /// Header and frame in pieces of this many bytes, wherever that cuts.
    Pieces(usize),
    /// As `HeaderApart`, in an indirect table.
    Indirect,
    /// As `Pieces`, in an indirect table.
    IndirectPieces(usize),
}

/// In what order the front end says things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Features, memory, rings, enable: cloud-hypervisor and others.
    Standard,
    /// Enables rings before any feature is set, as QEMU's vhost-user-net does.
    Qemu,
}

/// Where a ring goes on when a front end connects again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the used index (QEMU): nothing that was in flight is lost.
    Used,
    /// At the available index (cloud-hypervisor).
    Available,
}

/// What a guest is like. The default is a Linux guest with one queue pair of 256 entries.
#[derive(Clone, Debug)]
pub struct Options {
    /// virtio features it wants; it gets those that are offered.
    pub features: u64,
    /// vhost-user protocol features it wants.
    pub protocol: u64,
    /// Queue pairs it brings up.
    pub pairs: usize,
    /// Entries of each ring.
    pub ring_size: u16,
    /// Index all rings start at.
    pub first_index: u16,
    /// Length of each receive buffer, header included; `None` takes what the features call for.
    pub rx_buffer: Option<u32>,
    /// Receive buffers posted at the start; `None` fills the rings.
    pub rx_post: Option<usize>,
    /// Whether buffers are posted again as soon as their frame was read.
    pub refill: bool,
    /// How frames are cut into descriptors.
    pub shape: Shape,
    /// The order of messages.
    pub dialect: Dialect,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            features: features::LINUX,
            protocol: protocol::ALL,
            pairs: 1,
            ring_size: 256,
            first_index: 0,
            rx_buffer: None,
            rx_post: None,
            refill: true,
            shape: Shape::Whole,
            dialect: Dialect::Standard,
        }
    }
}

impl Options {
    /// Only what no ring can do without: complete checksums, no large frames, one buffer per frame.
    #[must_use]
    pub fn plain() -> Self {
        Self { features: features::BASE, ..Self::default() }
    }

    /// Wants these features too.
    #[must_use]
    pub fn with(mut self, bits: u64) -> Self {
        self.features |= bits;
        self
    }

    /// Does not want these features.
    #[must_use]
    pub fn without(mut self, bits: u64) -> Self {
        self.features &= !bits;
        self
    }

    /// Does not want these protocol features.
    #[must_use]
    pub fn without_protocol(mut self, bits: u64) -> Self {
        self.protocol &= !bits;
        self
    }

    /// Number of queue pairs.
    #[must_use]
    pub fn pairs(mut self, pairs: usize) -> Self {
        self.pairs = pairs;
        self
    }

    /// Entries of each ring.
    #[must_use]
    pub fn ring_size(mut self, size: u16) -> Self {
        self.ring_size = size;
        self
    }

    /// Index all rings start at.
    #[must_use]
    pub fn first_index(mut self, index: u16) -> Self {
        self.first_index = index;
        self
    }

    /// Length of each receive buffer, header included.
    #[must_use]
    pub fn rx_buffer(mut self, len: u32) -> Self {
        self.rx_buffer = Some(len);
        self
    }

    /// Posts only this many receive buffers and none again: the test does that with [`Guest::post`](crate::Guest::post).
    #[must_use]
    pub fn post_by_hand(mut self, first: usize) -> Self {
        (self.rx_post, self.refill) = (Some(first), false);
        self
    }

    /// How frames are cut into descriptors.
    #[must_use]
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// The order of messages.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }
}
