//! The frame before: within a burst most frames follow one of their own flow, and comparing them byte by byte is cheaper than making a key.
//!
//! Only for whole TCP and UDP packets in untagged IPv4 without options. The bytes that [`super::DeepKey`] is made of for these are compared,
//! and no others; so two frames that are equal here have one key.

use crate::frame::protocol;
use crate::verdict::Verdict;

/// Bytes that are compared, and that a frame must have to be: the headers down to the TCP flags.
const COMPARED: usize = 48;

/// Bytes of a frame with a whole TCP header.
const WHOLE: usize = 54;

/// Which bits of the bytes count: addresses and ethertype, version and header length, fragment offset and flag, protocol, addresses, ports.
const fn mask(tcp_flags: u8) -> [u8; COMPARED] {
    let mut mask = [0; COMPARED];
    let mut at = 0;
    while at < COMPARED {
        mask[at] = match at {
            0..=14 | 21 | 23 | 26..=37 => 0xff,
            20 => 0x3f,
            47 => tcp_flags,
            _ => 0,
        };
        at += 1;
    }
    mask
}

/// FIN, SYN and RST are part of what makes a TCP segment one of its flow.
const TCP: [u128; 3] = words(&mask(0x07));
/// That byte is payload.
const UDP: [u128; 3] = words(&mask(0));

const fn words(bytes: &[u8; COMPARED]) -> [u128; 3] {
    let (mut words, mut at) = ([0; 3], 0);
    while at < COMPARED {
        words[at / 16] |= (bytes[at] as u128) << (8 * (at % 16));
        at += 1;
    }
    words
}

#[inline]
fn load(head: &[u8], mask: &[u128; 3]) -> Option<[u128; 3]> {
    head.get(..WHOLE)?;
    let word = |at: usize| head.get(at..)?.first_chunk().map(|bytes| u128::from_le_bytes(*bytes));
    Some([word(0)? & mask[0], word(16)? & mask[1], word(32)? & mask[2]])
}

/// A frame, where its flow is remembered, and its verdict.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memo {
    bytes: [u128; 3],
    mask: &'static [u128; 3],
    /// There is something here.
    pub(crate) known: bool,
    /// The number of its plan; 0 = nothing is to be done with it beside its verdict.
    pub(crate) flow: u32,
    pub(crate) verdict: Verdict,
}

impl Memo {
    /// Nothing to compare with.
    pub(crate) const fn nothing(verdict: Verdict) -> Self {
        Self { bytes: [0; 3], mask: &UDP, known: false, flow: 0, verdict }
    }

    /// Remembers a frame that has a [`super::DeepKey`], if it is of the kind that is compared here.
    #[inline]
    pub(crate) fn set(&mut self, head: &[u8], flow: u32, verdict: Verdict) {
        self.known = false;
        let Some(header) = head.first_chunk::<WHOLE>() else { return };
        let whole = header[20] & 0x3f | header[21] == 0;
        self.mask = match (header[12..15] == [0x08, 0x00, 0x45] && whole, header[23]) {
            (true, protocol::TCP) => &TCP,
            (true, protocol::UDP) => &UDP,
            _ => return,
        };
        if let Some(bytes) = load(head, self.mask) {
            (self.bytes, self.known, self.flow, self.verdict) = (bytes, true, flow, verdict);
        }
    }

    /// Whether a frame of the same port is of the flow of the one before.
    #[inline]
    pub(crate) fn is_same(&self, head: &[u8]) -> bool {
        let Some(words) = load(head, self.mask).filter(|_| self.known) else { return false };
        // Not `==`, which calls a function.
        let [a, b, c] = std::array::from_fn(|i| words[i] ^ self.bytes[i]);
        a | b | c == 0
    }
}
