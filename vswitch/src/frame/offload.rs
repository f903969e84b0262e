//! Offloads that a sender leaves to whoever delivers its frame, described by the virtio-net header (virtio 1.2, 5.1.6).
//!
//! The header comes from a guest and may lie about everything. [`NetHeader::check`] compares it with the frame and with
//! what was negotiated, and keeps only what holds: an [`Offload`]. Receivers get a header made from that, never the
//! sender's. In particular a checksum can only be asked for where the frame has one, so that completing it cannot
//! change an address or a port after policy has looked at them.

use crate::frame::ethernet::{Ethernet, ethertype};
use crate::frame::ipv4::Ipv4;
use crate::frame::ipv6::Ipv6;
use crate::frame::protocol;
use crate::frame::tcp::{self, Tcp};
use crate::trace::DropReason;

/// `flags`: the checksum at `csum_start + csum_offset` is to be completed.
pub const F_NEEDS_CSUM: u8 = 1;
/// `flags`: checksums were verified (from a device to a driver only).
pub const F_DATA_VALID: u8 = 2;
/// `gso_type`: not a TSO frame.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: UDP fragmentation.
pub const GSO_UDP: u8 = 3;
/// `gso_type`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP segmentation.
pub const GSO_UDP_L4: u8 = 5;
/// `gso_type` bit: the first segment has CWR set.
pub const GSO_ECN: u8 = 0x80;

/// Smallest payload of a segment, in bytes: less than any TCP sends when it has more to say.
pub const MIN_MSS: u16 = 8;

/// Most packets that one TSO frame may stand for.
pub const MAX_SEGMENTS: u32 = 2048;

/// The virtio-net header, in the byte order of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHeader {
    /// `F_*`.
    pub flags: u8,
    /// `GSO_*`.
    pub gso_type: u8,
    /// A hint at the length of all headers, in bytes. Never relied upon.
    pub hdr_len: u16,
    /// Payload of each segment, in bytes.
    pub gso_size: u16,
    /// Where the checksum begins to cover the frame.
    pub csum_start: u16,
    /// Where the checksum stands, counted from `csum_start`.
    pub csum_offset: u16,
    /// Buffers that the frame takes at its receiver.
    pub num_buffers: u16,
}

impl NetHeader {
    /// Bytes of the header with `num_buffers`, as guests use it (`VERSION_1` or `MRG_RXBUF`).
    pub const LEN: usize = 12;
    /// Bytes of the header without `num_buffers`, as TAP and `AF_PACKET` use it by default.
    pub const LEGACY_LEN: usize = 10;

    /// Reads the 12-byte form.
    #[inline]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }

    /// Reads the 10-byte form (little endian, as on every machine that runs this switch).
    #[inline]
    pub fn parse_legacy(bytes: &[u8; Self::LEGACY_LEN]) -> Self {
        let mut long = [0; Self::LEN];
        long[..Self::LEGACY_LEN].copy_from_slice(bytes);
        Self::parse(&long)
    }

    /// Writes the 12-byte form.
    #[inline]
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        for (field, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Writes the 10-byte form.
    #[inline]
    pub fn emit_legacy(&self) -> [u8; Self::LEGACY_LEN] {
        let mut short = [0; Self::LEGACY_LEN];
        short.copy_from_slice(&self.emit()[..Self::LEGACY_LEN]);
        short
    }

    /// What of the header holds for a frame of `frame_len` bytes that begins with `head`, sent by someone who
    /// negotiated `accepted`. `head` must be the copy that policy looks at and that is delivered.
    #[inline]
    pub fn check(
        &self,
        head: &[u8],
        frame_len: u32,
        accepted: GuestOffloads,
    ) -> Result<Offload, OffloadError> {
        // Unknown flags are to be ignored (virtio 1.2, 5.1.6.2.2); F_DATA_VALID is no request.
        if self.flags & F_NEEDS_CSUM == 0 && self.gso_type == GSO_NONE {
            return Ok(Offload::None);
        }
        self.check_request(head, frame_len, accepted)
    }

    #[inline(never)]
    fn check_request(
        &self,
        head: &[u8],
        frame_len: u32,
        accepted: GuestOffloads,
    ) -> Result<Offload, OffloadError> {
        let head = head.get(..frame_len as usize).unwrap_or(head);
        if self.flags & F_NEEDS_CSUM == 0 {
            return Err(OffloadError::TsoWithoutChecksum { gso_type: self.gso_type });
        }
        if !accepted.csum {
            return Err(OffloadError::NotNegotiated { what: "checksum offload" });
        }
        let upper = Upper::find(head)?;
        self.check_checksum(&upper, frame_len)?;
        if self.gso_type == GSO_NONE {
            return Ok(Offload::Checksum { start: self.csum_start, offset: self.csum_offset });
        }
        self.check_tso(&upper, head, frame_len, accepted)
    }

    /// The checksum field must be that of the header it begins with, or one of an inner packet behind the outer headers.
    fn check_checksum(&self, upper: &Upper, frame_len: u32) -> Result<(), OffloadError> {
        let (start, offset) = (self.csum_start, self.csum_offset);
        let wrong = OffloadError::ChecksumPlace { start, offset };
        if u32::from(start) + u32::from(offset) + 2 > frame_len || start % 2 == 1 || offset % 2 == 1 {
            return Err(wrong);
        }
        let expected = match upper.protocol {
            protocol::TCP => Some(tcp::field::CHECKSUM),
            protocol::UDP => Some(UDP_CHECKSUM),
            protocol::ICMPV6 => Some(ICMPV6_CHECKSUM),
            _ => None,
        };
        let (start, offset) = (usize::from(start), usize::from(offset));
        let right = match expected {
            Some(field) if start == upper.offset => offset == field,
            // A tunnel over anything but TCP: its own header comes first, and what policy looks at is in that.
            _ => upper.protocol != protocol::TCP && start >= upper.offset + MIN_TUNNEL_HEADER,
        };
        if right { Ok(()) } else { Err(wrong) }
    }

    fn check_tso(
        &self,
        upper: &Upper,
        head: &[u8],
        frame_len: u32,
        accepted: GuestOffloads,
    ) -> Result<Offload, OffloadError> {
        let ecn = self.gso_type & GSO_ECN != 0;
        let (version, negotiated) = match self.gso_type & !GSO_ECN {
            GSO_TCPV4 => (IpVersion::V4, accepted.tso4),
            GSO_TCPV6 => (IpVersion::V6, accepted.tso6),
            _ => return Err(OffloadError::GsoType { gso_type: self.gso_type }),
        };
        if !negotiated {
            return Err(OffloadError::NotNegotiated { what: "this kind of TSO" });
        }
        if ecn && !accepted.ecn {
            return Err(OffloadError::NotNegotiated { what: "TSO with ECN" });
        }
        if upper.version != version || upper.protocol != protocol::TCP {
            return Err(OffloadError::NotTcp { gso_type: self.gso_type, protocol: upper.protocol });
        }
        // For TCP the checksum was found to be that of the header at `upper.offset`, so `csum_start` is that.
        let tcp = head.get(upper.offset..).and_then(Tcp::parse).ok_or(OffloadError::CutOff)?;
        if tcp.flags() & (tcp::flag::SYN | tcp::flag::RST) != 0 {
            return Err(OffloadError::TcpFlags { flags: tcp.flags() });
        }
        let header_len = upper.offset + tcp.header_len(); // within `head`, so it fits
        let offload = Offload::Tcp {
            version,
            ecn,
            header_len: header_len as u16,
            mss: self.gso_size,
            network_start: upper.network as u16,
            csum_start: self.csum_start,
        };
        let packet = offload.largest_packet(frame_len).saturating_sub(upper.network as u32);
        let too_small = self.gso_size < MIN_MSS || offload.wire(frame_len).0 > u64::from(MAX_SEGMENTS);
        if too_small || packet > u32::from(u16::MAX) {
            return Err(OffloadError::Mss { mss: self.gso_size, frame_len });
        }
        Ok(offload)
    }
}

/// Where the UDP checksum stands in its header.
const UDP_CHECKSUM: usize = 6;

/// Where the `ICMPv6` checksum stands in its header.
const ICMPV6_CHECKSUM: usize = 2;

/// Outer headers of a tunnel that hold addresses, ports or types: GRE has 4 bytes, UDP 8.
const MIN_TUNNEL_HEADER: usize = 8;

/// Offloads that one side negotiated: for a sender what it may leave to us (`CSUM`, `HOST_TSO4`, `HOST_TSO6`,
/// `HOST_ECN`), for a receiver what we may leave to it (`GUEST_CSUM`, `GUEST_TSO4`, …).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // four feature bits, each on its own
pub struct GuestOffloads {
    /// Checksums.
    pub csum: bool,
    /// TCP segmentation over IPv4.
    pub tso4: bool,
    /// TCP segmentation over IPv6.
    pub tso6: bool,
    /// TCP segmentation of frames with CWR set.
    pub ecn: bool,
}

impl GuestOffloads {
    /// All of them.
    pub const ALL: Self = Self { csum: true, tso4: true, tso6: true, ecn: true };
}

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a checked header asks for. Offsets are from the frame's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Nothing.
    #[default]
    None,
    /// Complete a checksum.
    Checksum {
        /// Where it begins to cover the frame.
        start: u16,
        /// Where it stands, counted from `start`.
        offset: u16,
    },
    /// Segment a TCP frame (which includes its checksums).
    Tcp {
        /// Version of IP.
        version: IpVersion,
        /// Whether the first segment has CWR set.
        ecn: bool,
        /// Bytes of all headers, which every segment gets a copy of.
        header_len: u16,
        /// Payload of each segment but the last, in bytes; at least [`MIN_MSS`].
        mss: u16,
        /// Where the IP header begins.
        network_start: u16,
        /// Where the TCP header begins.
        csum_start: u16,
    },
}

/// What must be done to a frame before a certain receiver can have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Nothing; the receiver gets [`Offload::header`].
    Pass,
    /// Complete the checksum, then it is a plain frame.
    Complete,
    /// Segment it; `partial` leaves each segment's checksum to the receiver.
    Segment {
        /// Whether the receiver completes checksums itself.
        partial: bool,
    },
}

impl Offload {
    /// The same request for the frame with `growth` bytes more before its network header.
    #[must_use]
    pub fn moved(self, growth: i16) -> Self {
        let moved = |at: u16| at.saturating_add_signed(growth);
        match self {
            Self::None => Self::None,
            Self::Checksum { start, offset } => Self::Checksum { start: moved(start), offset },
            Self::Tcp { version, ecn, header_len, mss, network_start, csum_start } => Self::Tcp {
                version,
                ecn,
                header_len: moved(header_len),
                mss,
                network_start: moved(network_start),
                csum_start: moved(csum_start),
            },
        }
    }

    /// The packets, and their bytes altogether, that a frame of `frame_len` bytes is on a wire.
    #[inline]
    pub fn wire(&self, frame_len: u32) -> (u64, u64) {
        match *self {
            Self::Tcp { header_len, mss, .. } => {
                let payload = frame_len.saturating_sub(header_len.into());
                let packets = u64::from(payload.div_ceil(u32::from(mss.max(1))).max(1));
                (packets, u64::from(frame_len) + (packets - 1) * u64::from(header_len))
            }
            _ => (1, u64::from(frame_len)),
        }
    }

    /// Bytes of the largest packet that a frame of `frame_len` bytes is on a wire.
    #[inline]
    pub fn largest_packet(&self, frame_len: u32) -> u32 {
        match *self {
            Self::Tcp { header_len, mss, .. } => frame_len.min(u32::from(header_len) + u32::from(mss)),
            _ => frame_len,
        }
    }

    /// What must be done for a receiver that negotiated `receiver`.
    #[inline]
    pub fn treatment(&self, receiver: GuestOffloads) -> Treatment {
        match *self {
            Self::None => Treatment::Pass,
            Self::Checksum { .. } if receiver.csum => Treatment::Pass,
            Self::Checksum { .. } => Treatment::Complete,
            Self::Tcp { version, ecn, .. } => {
                let tso = match version {
                    IpVersion::V4 => receiver.tso4,
                    IpVersion::V6 => receiver.tso6,
                };
                if receiver.csum && tso && (receiver.ecn || !ecn) {
                    Treatment::Pass
                } else {
                    Treatment::Segment { partial: receiver.csum }
                }
            }
        }
    }

    /// The header for a receiver that gets the frame untouched, in `num_buffers` buffers.
    #[inline]
    pub fn header(&self, num_buffers: u16) -> NetHeader {
        match *self {
            Self::None => NetHeader { num_buffers, ..NetHeader::default() },
            Self::Checksum { start, offset } => NetHeader {
                flags: F_NEEDS_CSUM,
                csum_start: start,
                csum_offset: offset,
                num_buffers,
                ..NetHeader::default()
            },
            Self::Tcp { version, ecn, header_len, mss, csum_start, .. } => NetHeader {
                flags: F_NEEDS_CSUM,
                gso_type: match version {
                    IpVersion::V4 => GSO_TCPV4,
                    IpVersion::V6 => GSO_TCPV6,
                } | if ecn { GSO_ECN } else { 0 },
                hdr_len: header_len,
                gso_size: mss,
                csum_start,
                csum_offset: tcp::field::CHECKSUM as u16,
                num_buffers,
            },
        }
    }
}

/// Why a virtio-net header does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// The sender asks for what it did not negotiate.
    #[error("{what} was not negotiated")]
    NotNegotiated {
        /// What it asks for.
        what: &'static str,
    },
    /// TSO changes lengths, so checksums must be left open too.
    #[error("gso_type {gso_type:#x} without NEEDS_CSUM")]
    TsoWithoutChecksum {
        /// As the header says.
        gso_type: u8,
    },
    /// Neither TCP over IPv4 nor over IPv6.
    #[error("gso_type {gso_type:#x} is none of 0, 1 (TCPV4) and 4 (TCPV6), with or without 0x80 (ECN)")]
    GsoType {
        /// As the header says.
        gso_type: u8,
    },
    /// The frame is not what the header says it is.
    #[error("gso_type {gso_type:#x} for a frame of another IP version or of IP protocol {protocol}")]
    NotTcp {
        /// As the header says.
        gso_type: u8,
        /// As the frame says.
        protocol: u8,
    },
    /// The checksum is not where the frame has one.
    #[error("the frame has no checksum at csum_start {start} + csum_offset {offset}")]
    ChecksumPlace {
        /// As the header says.
        start: u16,
        /// As the header says.
        offset: u16,
    },
    /// Only IPv4 and IPv6 have checksums that can be left open.
    #[error("checksum offload for ethertype {ethertype:#06x}, which is not IP")]
    NotIp {
        /// As the frame says.
        ethertype: u16,
    },
    /// A part of a packet has no checksum of its own.
    #[error("offload for an IP fragment")]
    Fragment,
    /// The headers end beyond the frame, or beyond the part of it that is looked at.
    #[error("the frame's headers are broken or end beyond its first bytes")]
    CutOff,
    /// Such a segment must go alone.
    #[error("TSO of a segment with SYN or RST (flags {flags:#04x})")]
    TcpFlags {
        /// As the frame says.
        flags: u8,
    },
    /// Too small, or it would make too many packets.
    #[error(
        "gso_size {mss} for a frame of {frame_len} bytes; at least 8 and at most 2048 segments are valid"
    )]
    Mss {
        /// As the header says.
        mss: u16,
        /// Bytes of the frame.
        frame_len: u32,
    },
}

impl From<OffloadError> for DropReason {
    fn from(_: OffloadError) -> Self {
        Self::BadOffload
    }
}

/// Where a frame's transport header is.
struct Upper {
    version: IpVersion,
    protocol: u8,
    network: usize,
    offset: usize,
}

impl Upper {
    fn find(head: &[u8]) -> Result<Self, OffloadError> {
        let ether = Ethernet::parse(head).ok_or(OffloadError::CutOff)?;
        let network = ether.header_len();
        let packet = head.get(network..).ok_or(OffloadError::CutOff)?;
        let (version, protocol, offset, fragment) = match ether.ethertype() {
            ethertype::IPV4 => {
                let ip = Ipv4::parse(packet).ok_or(OffloadError::CutOff)?;
                (IpVersion::V4, ip.protocol(), ip.header_len(), ip.is_fragment())
            }
            ethertype::IPV6 => {
                let ip = Ipv6::parse(packet).ok_or(OffloadError::CutOff)?;
                (IpVersion::V6, ip.protocol(), ip.upper_offset(), ip.is_fragment())
            }
            ethertype => return Err(OffloadError::NotIp { ethertype }),
        };
        if fragment {
            return Err(OffloadError::Fragment);
        }
        Ok(Self { version, protocol, network, offset: network + offset })
    }
}
