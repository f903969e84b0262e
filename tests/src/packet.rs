//! A reader of frames that trusts nobody: what a receiver would make of the bytes, and whether every checksum and
//! length in them is right. Shares no code with the switch.

use crate::frame::{Mac, fold, sum};

/// A frame taken apart. Offsets are from the start of the frame.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    /// The whole frame.
    pub bytes: &'a [u8],
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// VLAN tags (TPID, TCI), outermost first.
    pub tags: Vec<(u16, u16)>,
    /// Ethertype behind the tags.
    pub ethertype: u16,
    /// Where the network header starts.
    pub l3: usize,
    /// Where the transport header starts, if this is IP.
    pub l4: Option<usize>,
    /// Transport protocol, if this is IP.
    pub protocol: Option<u8>,
    /// Where the IP packet ends according to its own length.
    pub end: usize,
}

impl<'a> Packet<'a> {
    /// Takes a frame apart; panics on one that is shorter than its headers.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let mut at = 12;
        let mut tags = Vec::new();
        while matches!(word(at), 0x8100 | 0x88a8) {
            tags.push((word(at), word(at + 2)));
            at += 4;
        }
        let (ethertype, l3) = (word(at), at + 2);
        let (mut l4, mut protocol, mut end) = (None, None, bytes.len());
        match ethertype {
            0x0800 => {
                l4 = Some(l3 + usize::from(bytes[l3] & 15) * 4);
                protocol = Some(bytes[l3 + 9]);
                end = l3 + usize::from(word(l3 + 2));
            }
            0x86dd => {
                end = l3 + 40 + usize::from(word(l3 + 4));
                let (mut next, mut place) = (bytes[l3 + 6], l3 + 40);
                while matches!(next, 0 | 43 | 60) {
                    next = bytes[place];
                    place += 8 + 8 * usize::from(bytes[place + 1]);
                }
                (l4, protocol) = (Some(place), Some(next));
            }
            _ => {}
        }
        let dst = bytes[..6].try_into().unwrap();
        let src = bytes[6..12].try_into().unwrap();
        Self { bytes, dst, src, tags, ethertype, l3, l4, protocol, end }
    }

    /// What lies behind the transport header (or behind the ethertype).
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        let start = match (self.l4, self.protocol) {
            (Some(l4), Some(6)) => l4 + usize::from(self.bytes[l4 + 12] >> 4) * 4,
            (Some(l4), Some(17)) => l4 + 8,
            (Some(l4), _) => l4,
            _ => self.l3,
        };
        &self.bytes[start..self.end]
    }

    /// TCP sequence number.
    #[must_use]
    pub fn tcp_seq(&self) -> u32 {
        let at = self.l4.expect("IP") + 4;
        u32::from_be_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    /// TCP flags.
    #[must_use]
    pub fn tcp_flags(&self) -> u8 {
        self.bytes[self.l4.expect("IP") + 13]
    }

    /// IPv4 identification.
    #[must_use]
    pub fn ip_id(&self) -> u16 {
        u16::from_be_bytes([self.bytes[self.l3 + 4], self.bytes[self.l3 + 5]])
    }

    /// Checks every length and checksum; says what is wrong first.
    pub fn verify(&self) -> Result<(), String> {
        let bytes = self.bytes;
        if self.end != bytes.len() {
            return Err(format!("IP says the frame ends at {}, it ends at {}", self.end, bytes.len()));
        }
        let (Some(l4), Some(protocol)) = (self.l4, self.protocol) else { return Ok(()) };
        let addresses = if self.ethertype == 0x0800 {
            if fold(sum(&bytes[self.l3..l4])) != 0xffff {
                return Err("IPv4 header checksum is wrong".to_owned());
            }
            &bytes[self.l3 + 12..self.l3 + 20]
        } else {
            &bytes[self.l3 + 8..self.l3 + 40]
        };
        let segment = &bytes[l4..self.end];
        if protocol == 17 && usize::from(u16::from_be_bytes([segment[4], segment[5]])) != segment.len() {
            return Err("UDP length is wrong".to_owned());
        }
        if !matches!(protocol, 6 | 17) {
            return Ok(());
        }
        let total = sum(addresses) + u64::from(protocol) + segment.len() as u64 + sum(segment);
        if fold(total) != 0xffff {
            return Err(format!("transport checksum is wrong (sum {:#06x})", fold(total)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, ext};

    #[test]
    fn a_packet_from_rfc_1071_style_reference_verifies() {
        // A DNS query as captured from a Linux host: UDP checksum 0x9c9c, IPv4 header checksum 0x9c31.
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 0, 0x1d, 0, 1, 0, 0, 64, 17, 0x7c, 0xcd, 127, 0, 0, 1, 127, 0, 0, 1]);
        frame.extend([0, 1, 0, 2, 0, 9, 0, 0, b'a']);
        assert!(Packet::of(&frame).verify().is_err(), "the UDP checksum is still zero");
        // 0x7f00+1 twice + 17 + 9 + 1 + 2 + 9 + 0x6100 = 0x15f20 + ... folded by hand: !0x5f29
        let total: u32 = 0x7f00 + 1 + 0x7f00 + 1 + 17 + 9 + 1 + 2 + 9 + 0x6100;
        let folded = (total & 0xffff) + (total >> 16);
        frame[14 + 20 + 6..14 + 20 + 8].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        Packet::of(&frame).verify().unwrap();
    }

    #[test]
    fn built_frames_verify_and_partial_ones_do_not() {
        let base = Frame::new([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]).vlan(5).payload(&[7; 33]);
        for frame in [
            base.clone().ipv4().udp(1, 2),
            base.clone().ipv4().ip_options(&[1, 1, 1, 0]).tcp(1, 2).tcp_options(12),
            base.clone().ipv6().udp(1, 2),
            base.clone().ipv6().extension(ext::HOP_BY_HOP, 8).extension(ext::ROUTING, 24).tcp(1, 2),
        ] {
            let whole = frame.build();
            Packet::of(&whole).verify().unwrap();
            assert_eq!(Packet::of(&whole).payload(), [7; 33]);
            let (header, partial) = frame.build_partial();
            assert!(Packet::of(&partial).verify().is_err());
            assert_eq!(Some(usize::from(header.csum_start)), Packet::of(&partial).l4);
        }
    }
}
