//! Segmentation of TSO frames: the segments are the frame again, and every checksum verifies.

use proptest::prelude::*;
use vswitch::frame::checksum::complete_checksum;
use vswitch::frame::offload::{
    F_NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, GuestOffloads, IpVersion, NetHeader, Offload, OffloadError,
};
use vswitch::frame::segment::Segmenter;

use crate::support::slow_sum;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// A TCP frame to be built. The default is untagged IPv4 without options, with ACK set.
#[derive(Clone, Debug)]
pub(crate) struct TcpFrame {
    pub(crate) vlans: Vec<u16>,
    pub(crate) version: Option<IpVersion>,
    /// IPv4 options, in words of four bytes.
    pub(crate) ip_options: u8,
    /// IPv6 extension headers of eight bytes, by protocol.
    pub(crate) extensions: Vec<u8>,
    /// Bytes of TCP options, a multiple of four.
    pub(crate) options: u8,
    pub(crate) id: u16,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    pub(crate) payload: Vec<u8>,
}

impl Default for TcpFrame {
    fn default() -> Self {
        Self {
            vlans: vec![],
            version: None,
            ip_options: 0,
            extensions: vec![],
            options: 0,
            id: 0xfffe,
            sequence: 0xffff_f000,
            flags: ACK,
            payload: vec![],
        }
    }
}

impl TcpFrame {
    fn v6(&self) -> bool {
        self.version == Some(IpVersion::V6)
    }

    fn network(&self) -> usize {
        14 + 4 * self.vlans.len()
    }

    fn transport(&self) -> usize {
        self.network()
            + if self.v6() { 40 + 8 * self.extensions.len() } else { 20 + 4 * usize::from(self.ip_options) }
    }

    pub(crate) fn headers(&self) -> usize {
        self.transport() + 20 + usize::from(self.options)
    }

    /// The frame as a sender with TSO leaves it: the sum of the pseudo header stands in the checksum field.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut f = vec![0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1];
        for (i, vlan) in self.vlans.iter().enumerate() {
            f.extend(if i == 0 && self.vlans.len() > 1 { [0x88, 0xa8] } else { [0x81, 0x00] });
            f.extend(vlan.to_be_bytes());
        }
        let upper = 20 + usize::from(self.options) + self.payload.len();
        let addresses;
        if self.v6() {
            f.extend([0x86, 0xdd, 0x60, 1, 2, 3]);
            f.extend(((8 * self.extensions.len() + upper) as u16).to_be_bytes());
            let mut chain = self.extensions.clone();
            chain.push(6);
            f.extend([chain[0], 64]);
            addresses = f.len()..f.len() + 32;
            f.extend((0..32_u8).map(|i| i * 7 + 1));
            for next in &chain[1..] {
                f.extend([*next, 0, 0, 0, 0, 0, 0, 0]);
            }
        } else {
            f.extend([0x08, 0x00, 0x45 + self.ip_options, 0]);
            f.extend(((20 + 4 * usize::from(self.ip_options) + upper) as u16).to_be_bytes());
            f.extend(self.id.to_be_bytes());
            f.extend([0x40, 0, 64, 6, 0, 0]);
            addresses = f.len()..f.len() + 8;
            f.extend([10, 0, 0, 1, 192, 168, 255, 254]);
            f.extend(std::iter::repeat_n(1, 4 * usize::from(self.ip_options)));
        }
        let pseudo = slow_sum(&[&f[addresses], &[0, 6], &(upper as u16).to_be_bytes()]);
        f.extend([0x30, 0x39, 0x01, 0xbb]);
        f.extend(self.sequence.to_be_bytes());
        f.extend([0xaa, 0xbb, 0xcc, 0xdd, 0x50 + (self.options / 4) * 0x10, self.flags, 0x20, 0x00]);
        f.extend(pseudo.to_be_bytes());
        f.extend([0, 0]);
        f.extend(std::iter::repeat_n(1, usize::from(self.options)));
        assert_eq!(f.len(), self.headers());
        f.extend(&self.payload);
        f
    }

    fn offload(&self, mss: u16) -> Offload {
        let frame = self.build();
        let header = NetHeader {
            flags: F_NEEDS_CSUM,
            gso_type: if self.v6() { GSO_TCPV6 } else { GSO_TCPV4 },
            gso_size: mss,
            csum_start: self.transport() as u16,
            csum_offset: 16,
            ..NetHeader::default()
        };
        header
            .check(&frame[..frame.len().min(vswitch::HEAD_LEN)], frame.len() as u32, GuestOffloads::ALL)
            .expect("a valid frame")
    }

    pub(crate) fn segments(&self, mss: u16, partial: bool) -> Vec<Vec<u8>> {
        let (frame, offload) = (self.build(), self.offload(mss));
        let mut segmenter = Segmenter::new(&frame, &offload).expect("a valid frame");
        if partial {
            segmenter = segmenter.leave_checksums_open();
        }
        let rest = segmenter.segment_offload();
        let mut out = vec![0xee; segmenter.max_segment()];
        let mut segments = Vec::new();
        while let Some(len) = segmenter.next(&mut out) {
            let mut segment = out[..len].to_vec();
            if let Offload::Checksum { start, offset } = rest {
                assert!(partial && complete_checksum(&mut segment, start, offset));
            }
            segments.push(segment);
        }
        assert_eq!(segments.len(), segmenter.count());
        let (packets, bytes) = offload.wire(frame.len() as u32);
        assert_eq!(segments.len() as u64, packets);
        assert_eq!(segments.iter().map(Vec::len).sum::<usize>() as u64, bytes);
        segments
    }

    /// Takes the segments apart with other code than put them together, and compares.
    fn verify(&self, mss: u16, segments: &[Vec<u8>]) {
        let original = self.build();
        let (network, transport, headers) = (self.network(), self.transport(), self.headers());
        let word = |s: &[u8], at: usize| u16::from_be_bytes([s[at], s[at + 1]]);
        let mut payload: Vec<u8> = Vec::new();
        for (i, s) in segments.iter().enumerate() {
            let (first, last) = (i == 0, i + 1 == segments.len());
            assert!(s.len() <= headers + usize::from(mss));
            assert!(last || s.len() == headers + usize::from(mss));
            assert_eq!(s[..network], original[..network], "Ethernet header and tags");
            let (ip, tcp) = (&s[network..transport], &s[transport..]);
            let mut expected_ip = original[network..transport].to_vec();
            if self.v6() {
                expected_ip[4..6].copy_from_slice(&((s.len() - network - 40) as u16).to_be_bytes());
                assert_eq!(ip, expected_ip);
            } else {
                assert_eq!(slow_sum(&[ip]), 0xffff, "IPv4 header checksum");
                expected_ip[2..4].copy_from_slice(&((s.len() - network) as u16).to_be_bytes());
                expected_ip[4..6].copy_from_slice(&self.id.wrapping_add(i as u16).to_be_bytes());
                expected_ip[10..12].copy_from_slice(&ip[10..12]);
                assert_eq!(ip, expected_ip);
            }
            let mut expected_tcp = original[transport..headers].to_vec();
            expected_tcp[4..8]
                .copy_from_slice(&self.sequence.wrapping_add(payload.len() as u32).to_be_bytes());
            let cleared = if first { 0 } else { CWR } | if last { 0 } else { FIN | PSH };
            expected_tcp[13] &= !cleared;
            expected_tcp[16..18].copy_from_slice(&tcp[16..18]);
            assert_eq!(tcp[..expected_tcp.len()], expected_tcp);
            let addresses = if self.v6() { &ip[8..40] } else { &ip[12..20] };
            let length = (tcp.len() as u32).to_be_bytes();
            assert_eq!(slow_sum(&[addresses, &[0, 6], &length, tcp]), 0xffff, "TCP checksum");
            assert_eq!(word(s, transport), 0x3039);
            payload.extend(&s[headers..]);
        }
        assert_eq!(payload, self.payload);
    }
}

#[test]
fn tso_flags_go_to_the_first_and_the_last_segment() {
    let frame = TcpFrame { flags: CWR | ACK | PSH | FIN, payload: vec![1; 3000], ..TcpFrame::default() };
    let segments = frame.segments(1000, false);
    let flags: Vec<u8> = segments.iter().map(|s| s[34 + 13]).collect();
    assert_eq!(flags, [CWR | ACK, ACK, ACK | PSH | FIN]);
    frame.verify(1000, &segments);
}

#[test]
fn identification_and_sequence_numbers_wrap() {
    let frame = TcpFrame { payload: vec![1; 5000], ..TcpFrame::default() };
    let segments = frame.segments(1000, false);
    let ids: Vec<_> = segments.iter().map(|s| [s[18], s[19]]).collect();
    assert_eq!(ids, [[0xff, 0xfe], [0xff, 0xff], [0, 0], [0, 1], [0, 2]]);
    assert_eq!(segments[4][38..42], 0xffff_f000_u32.wrapping_add(4000).to_be_bytes());
    assert_eq!(segments[4][38..42], [0xff, 0xff, 0xff, 0xa0]);
    frame.verify(1000, &segments);
}

#[test]
fn tags_options_and_extension_headers_are_kept() {
    for vlans in [vec![], vec![0x6005], vec![100, 200]] {
        let v4 = TcpFrame {
            vlans: vlans.clone(),
            ip_options: 10,
            options: 40,
            payload: (0..4000_u32).map(|i| i as u8).collect(),
            ..TcpFrame::default()
        };
        v4.verify(1448, &v4.segments(1448, false));
        let v6 = TcpFrame { version: Some(IpVersion::V6), extensions: vec![0, 60, 43], options: 12, ..v4 };
        v6.verify(1428, &v6.segments(1428, false));
    }
}

#[test]
fn s_rfc8200_8_1_behind_a_routing_header_the_senders_pseudo_header_counts() {
    let frame = TcpFrame {
        version: Some(IpVersion::V6),
        extensions: vec![43],
        payload: vec![9; 3001],
        ..TcpFrame::default()
    };
    let offload = frame.offload(1000);
    let mut bytes = frame.build();
    bytes[14 + 40 + 3] = 1; // segments left, so the last destination is not the one in the IPv6 header
    let last_destination = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let source = bytes[14 + 8..14 + 24].to_vec();
    let pseudo = slow_sum(&[&source, &last_destination, &[0, 6], &3021_u16.to_be_bytes()]);
    bytes[62 + 16..62 + 18].copy_from_slice(&pseudo.to_be_bytes());
    let mut segmenter = Segmenter::new(&bytes, &offload).expect("valid");
    let mut out = [0; 1200];
    let mut count = 0;
    while let Some(len) = segmenter.next(&mut out) {
        let tcp = &out[62..len];
        let length = (tcp.len() as u16).to_be_bytes();
        assert_eq!(slow_sum(&[&source, &last_destination, &[0, 6], &length, tcp]), 0xffff);
        count += 1;
    }
    assert_eq!(count, 4);
}

#[test]
fn a_frame_without_payload_is_one_segment() {
    let frame = TcpFrame::default();
    let segments = frame.segments(1448, false);
    assert_eq!(segments.len(), 1);
    frame.verify(1448, &segments);
}

#[test]
fn too_little_room_gives_no_segment_and_loses_none() {
    let frame = TcpFrame { payload: vec![1; 2000], ..TcpFrame::default() };
    let (bytes, offload) = (frame.build(), frame.offload(1448));
    let mut segmenter = Segmenter::new(&bytes, &offload).expect("valid");
    let mut out = [0; 1502];
    assert_eq!(segmenter.max_segment(), 1502);
    assert_eq!(segmenter.next(&mut out[..1501]), None);
    assert_eq!(segmenter.next(&mut out), Some(1502));
    assert_eq!(segmenter.next(&mut out), Some(54 + 552));
    assert_eq!(segmenter.next(&mut out), None);
}

#[test]
fn an_offload_of_another_frame_is_refused() {
    let frame = TcpFrame { payload: vec![1; 2000], ..TcpFrame::default() };
    let (bytes, offload) = (frame.build(), frame.offload(1448));
    assert_eq!(Segmenter::new(&bytes[..53], &offload).err(), Some(OffloadError::CutOff));
    assert!(Segmenter::new(&bytes, &Offload::None).is_err());
    assert!(Segmenter::new(&bytes, &Offload::Checksum { start: 34, offset: 16 }).is_err());
}

prop_compose! {
    fn any_frame()(
        vlans in prop::collection::vec(0..4096_u16, 0..3),
        v6: bool,
        ip_options in 0..11_u8,
        extensions in prop::collection::vec(prop::sample::select(vec![0_u8, 43, 60]), 0..4),
        options in 0..11_u8,
        id: u16,
        sequence: u32,
        flags in any::<u8>().prop_map(|f| f & !0x06),
        payload in prop::collection::vec(any::<u8>(), 0..6000),
    ) -> TcpFrame {
        let version = v6.then_some(IpVersion::V6);
        let (ip_options, extensions) = if v6 { (0, extensions) } else { (ip_options, vec![]) };
        TcpFrame { vlans, version, ip_options, extensions, options: options * 4, id, sequence, flags, payload }
    }
}

proptest! {
    #[test]
    fn segments_are_the_frame_again(frame in any_frame(), mss in 8..3000_u16, partial: bool) {
        frame.verify(mss, &frame.segments(mss, partial));
    }
}
