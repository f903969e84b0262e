//! What becomes of a frame's VLAN tag on its way to a receiver.

use crate::frame::ethernet::{HEADER_LEN, TAG_LEN, ethertype, is_tag};

/// Where a tag begins: behind the addresses.
const AT: usize = 12;

/// By how much a tag makes a frame longer.
const GROWTH: i16 = 4;
const _: () = assert!(GROWTH as usize == TAG_LEN, "a tag is what it is");

/// What to do with the outermost tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tagging {
    /// Nothing: the frame goes as it came.
    #[default]
    Keep,
    /// The tag, if there is one, is taken away.
    Strip,
    /// The frame goes with the tag of this VLAN, in place of the one it has if it has one. VLAN 0 is a tag only for the
    /// sake of a priority: a frame without priority goes without it.
    Write {
        /// The VLAN, 0 to 4094.
        vid: u16,
        /// The priority that it came with stays; it becomes 0 otherwise.
        priority: bool,
    },
}

/// A tag as it is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The frame stays as it is.
    None,
    /// The four bytes after the addresses go.
    Remove,
    /// These four bytes come after the addresses.
    Insert([u8; TAG_LEN]),
    /// These two bytes replace the tag's control information.
    Replace([u8; 2]),
}

impl Change {
    /// By how many bytes the frame becomes longer.
    pub const fn growth(self) -> i16 {
        match self {
            Self::None | Self::Replace(_) => 0,
            Self::Remove => -GROWTH,
            Self::Insert(_) => GROWTH,
        }
    }

    /// Writes the changed beginning of a frame to `out` and returns its length: that of `head` and [`Change::growth`].
    /// `None` if `out` is too small or `head` is no frame.
    pub fn apply(self, head: &[u8], out: &mut [u8]) -> Option<usize> {
        let (addresses, rest) = head.split_at_checked(AT)?;
        let (tag, rest): (&[u8], &[u8]) = match &self {
            Self::None => (&[], rest),
            Self::Remove => (&[], rest.get(TAG_LEN..)?),
            Self::Insert(tag) => (tag, rest),
            Self::Replace(tci) => {
                let len = head.len();
                let target = out.get_mut(..len)?;
                target.copy_from_slice(head);
                target.get_mut(AT + 2..AT + TAG_LEN)?.copy_from_slice(tci);
                return Some(len);
            }
        };
        let len = addresses.len() + tag.len() + rest.len();
        let target = out.get_mut(..len)?;
        target[..AT].copy_from_slice(addresses);
        target[AT..AT + tag.len()].copy_from_slice(tag);
        target[AT + tag.len()..].copy_from_slice(rest);
        Some(len)
    }
}

impl Tagging {
    /// What that means for the frame that begins with `head`.
    pub fn change(self, head: &[u8]) -> Change {
        let tci = match head.get(AT..HEADER_LEN + 2) {
            Some(&[t0, t1, high, low]) if is_tag([t0, t1]) => Some(u16::from_be_bytes([high, low])),
            _ => None,
        };
        match (self, tci) {
            (Self::Keep, _) | (Self::Strip, None) => Change::None,
            (Self::Strip, Some(_)) => Change::Remove,
            (Self::Write { vid, priority }, tci) => {
                let kept = if priority { tci.unwrap_or(0) & 0xf000 } else { 0 };
                let wanted = kept | vid;
                match tci {
                    None if wanted == 0 => Change::None,
                    Some(_) if wanted == 0 => Change::Remove,
                    Some(have) if have == wanted => Change::None,
                    Some(_) => Change::Replace(wanted.to_be_bytes()),
                    None => {
                        let [t0, t1] = ethertype::VLAN.to_be_bytes();
                        let [high, low] = wanted.to_be_bytes();
                        Change::Insert([t0, t1, high, low])
                    }
                }
            }
        }
    }
}
