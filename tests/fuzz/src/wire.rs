//! A frame with a virtio-net header, as a guest sends it: every view, the check of the header, and what is done with an
//! offload that passed. Whatever is accepted must be in bounds, and what is made of it must be right.
//!
//! Input: virtio-net header (12 bytes), what was negotiated (1 byte), bytes beyond the frame's first ones (2), the frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vswitch::HEAD_LEN;
use vswitch::frame::checksum::complete_checksum;
use vswitch::frame::ethernet::{self, Ethernet};
use vswitch::frame::headers::Headers;
use vswitch::frame::ipv4::Ipv4;
use vswitch::frame::ipv6::Ipv6;
use vswitch::frame::offload::{GuestOffloads, IpVersion, MAX_SEGMENTS, NetHeader, Offload};
use vswitch::frame::segment::Segmenter;
use vswitch::frame::tcp::Tcp;
use vswitch::frame::{claims, singular};

fuzz_target!(|input: &[u8]| {
    let Some((header, rest)) = input.split_first_chunk::<12>() else { return };
    let Some((&[accepted, low, high], bytes)) = rest.split_first_chunk::<3>() else { return };
    views(bytes);
    let header = NetHeader::parse(header);
    assert_eq!(NetHeader::parse(&header.emit()), header);
    let mut frame = bytes.to_vec();
    frame.resize(bytes.len() + usize::from(u16::from_le_bytes([low, high])), 0x5a);
    let head = &frame[..frame.len().min(HEAD_LEN)];
    let bit = |n: u8| accepted >> n & 1 != 0;
    seen_by_policy(head, frame.len() as u32);
    let accepted = GuestOffloads { csum: bit(0), tso4: bit(1), tso6: bit(2), ecn: bit(3) };
    let frame_len = frame.len() as u32;
    if ethernet::check(head, frame_len).is_err() {
        return; // dropped before anybody asks for its offload
    }
    let Ok(offload) = header.check(head, frame_len, accepted) else { return };
    let (packets, bytes) = offload.wire(frame_len);
    assert!(packets <= u64::from(MAX_SEGMENTS) && bytes >= u64::from(frame_len));
    match offload {
        Offload::None => {}
        Offload::Checksum { start, offset } => {
            assert!(accepted.csum);
            let at = usize::from(start) + usize::from(offset);
            let before = frame.clone();
            assert!(complete_checksum(&mut frame, start, offset));
            assert_eq!(frame[..at], before[..at], "only the field changes");
            assert_eq!(frame[at + 2..], before[at + 2..], "only the field changes");
        }
        Offload::Tcp { header_len, .. } => {
            assert!(usize::from(header_len) <= head.len());
            segments(&frame, &offload, packets as usize, bytes as usize, false);
            segments(&frame, &offload, packets as usize, bytes as usize, true);
        }
    }
});

/// What policy sees is within the frame's first bytes, and does not change with what is behind them.
fn seen_by_policy(head: &[u8], len: u32) {
    let seen = Headers::parse(head, len);
    let Ok(headers) = seen else { return };
    let _ = (headers.hidden(head), singular::frame(&headers), claims::of(&headers, head));
    assert!(headers.payload <= head.len());
    if let Some(ip) = headers.ip {
        let needed = if ip.ports.is_some() || ip.icmp.is_some() { 8 } else { 0 };
        assert!(ip.upper + needed <= head.len());
    }
    let mut longer = head.to_vec();
    longer.resize(2 * HEAD_LEN, 0xa5);
    if head.len() == HEAD_LEN {
        assert_eq!(Headers::parse(&longer, len), seen);
    }
}

fn views(bytes: &[u8]) {
    if let Some(ether) = Ethernet::parse(bytes) {
        let _ = (ether.dst(), ether.src(), ether.ethertype(), ether.vlan_id(), ether.tci(0), ether.tci(2));
        assert!(ether.header_len() <= bytes.len());
        ip(&bytes[ether.header_len()..]);
    }
    ip(bytes);
}

fn ip(bytes: &[u8]) {
    if let Some(ip) = Ipv4::parse(bytes) {
        let _ = (ip.total_len(), ip.id(), ip.protocol(), ip.is_fragment(), ip.addresses());
        assert!((20..=60).contains(&ip.header_len()) && ip.header_len() <= bytes.len());
        tcp(&bytes[ip.header_len()..]);
    }
    if let Some(ip) = Ipv6::parse(bytes) {
        let _ = (ip.payload_len(), ip.protocol(), ip.is_fragment(), ip.is_routed(), ip.addresses());
        assert!(ip.upper_offset() >= 40 && ip.upper_offset() <= bytes.len());
        tcp(&bytes[ip.upper_offset()..]);
    }
}

fn tcp(bytes: &[u8]) {
    if let Some(tcp) = Tcp::parse(bytes) {
        let _ = (tcp.sequence(), tcp.flags());
        assert!((20..=60).contains(&tcp.header_len()) && tcp.header_len() <= bytes.len());
    }
}

/// Cuts the frame and looks at every segment as its receiver would.
fn segments(frame: &[u8], offload: &Offload, packets: usize, bytes: usize, partial: bool) {
    let Offload::Tcp { version, header_len, mss, network_start, csum_start, .. } = *offload else { return };
    let (header_len, network, transport) =
        (usize::from(header_len), usize::from(network_start), usize::from(csum_start));
    let mut segmenter = Segmenter::new(frame, offload).expect("what the check accepts can be segmented");
    if partial {
        segmenter = segmenter.leave_checksums_open();
    }
    assert_eq!(segmenter.count(), packets);
    let mut out = vec![0; segmenter.max_segment()];
    let (mut count, mut payload, mut total) = (0, Vec::new(), 0);
    while let Some(len) = segmenter.next(&mut out) {
        let segment = &mut out[..len];
        (count, total) = (count + 1, total + len);
        assert!(len > header_len || frame.len() == header_len, "no empty segment");
        assert!(len - header_len <= usize::from(mss));
        payload.extend_from_slice(&segment[header_len..]);
        if let Offload::Checksum { start, offset } = segmenter.segment_offload() {
            assert!(complete_checksum(segment, start, offset));
        }
        let packet = &segment[network..];
        let routed = match version {
            IpVersion::V4 => {
                let ip = Ipv4::parse(packet).expect("IPv4");
                assert_eq!(usize::from(ip.total_len()), packet.len());
                assert_eq!(sum(&[&packet[..ip.header_len()]]), 0xffff, "IPv4 header checksum");
                false
            }
            IpVersion::V6 => {
                let ip = Ipv6::parse(packet).expect("IPv6");
                assert_eq!(usize::from(ip.payload_len()) + 40, packet.len());
                ip.is_routed()
            }
        };
        if !routed {
            let addresses = match version {
                IpVersion::V4 => &packet[12..20],
                IpVersion::V6 => &packet[8..40],
            };
            let tcp = &segment[transport..];
            let len = (tcp.len() as u32).to_be_bytes();
            assert_eq!(sum(&[addresses, &len, &[0, 6], tcp]), 0xffff, "TCP checksum");
        }
    }
    assert_eq!((count, total), (packets, bytes));
    assert_eq!(payload, frame[header_len..]);
}

/// The ones' complement sum, 16 bits at a time, straight from RFC 1071. Each part but the last has an even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
