//! Frames gathered for one link, so that one system call can take many.
//!
//! Each frame is its virtio-net header, a front that the outbox keeps a copy of (outer headers of a tunnel), and borrowed pieces, which whoever
//! puts them in keeps alive until [`Outbox::clear`]. Nothing is allocated after construction but for frames of unusually many pieces.
//!
//! Threading: owned by one worker.

use super::{LINK_HEADER, MAX_PIECES, Piece};

/// Most frames in an outbox.
pub const CAPACITY: usize = 64;

/// Longest front, in bytes: the outer headers of any tunnel.
pub const MAX_FRONT: usize = 80;

struct Entry {
    header: [u8; LINK_HEADER],
    front: [u8; MAX_FRONT],
    front_len: usize,
    datagram: bool,
    /// Where the pieces are, and how many.
    pieces: (usize, usize),
    /// Bytes of the frame, without the header.
    len: usize,
}

/// Frames on their way to one link.
pub struct Outbox {
    entries: Box<[Entry]>,
    count: usize,
    pieces: Vec<Piece>,
}

/// One frame of an outbox.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// Its virtio-net header.
    pub header: &'a [u8; LINK_HEADER],
    /// Its first bytes, as far as the outbox has a copy.
    pub front: &'a [u8],
    /// Whether the front ends with a UDP header and what a tunnel has behind it, and nothing of the frame is left to the link: then it may go
    /// together with others.
    pub datagram: bool,
    /// What comes behind them.
    pub pieces: &'a [Piece],
    /// Its length in bytes, without the header.
    pub len: usize,
}

impl Outgoing<'_> {
    /// A copy of its first `limit` bytes, for those who watch.
    pub fn copy(&self, limit: usize) -> Box<[u8]> {
        let mut copy: Vec<u8> = Vec::with_capacity(self.len.min(limit));
        copy.extend(self.front.iter().take(limit));
        for piece in self.pieces {
            let take = piece.len().min(limit - copy.len());
            copy.reserve(take);
            // SAFETY: whoever put the piece in keeps its memory mapped until `Outbox::clear`; `take` bytes are within it and within the spare
            // capacity of `copy`, which other memory cannot overlap.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    piece.0.iov_base.cast::<u8>().cast_const(),
                    copy.as_mut_ptr().add(copy.len()),
                    take,
                );
                copy.set_len(copy.len() + take);
            }
        }
        copy.into()
    }
}

impl Default for Outbox {
    fn default() -> Self {
        let entry = || Entry {
            header: [0; LINK_HEADER],
            front: [0; MAX_FRONT],
            front_len: 0,
            datagram: false,
            pieces: (0, 0),
            len: 0,
        };
        Self {
            entries: (0..CAPACITY).map(|_| entry()).collect(),
            count: 0,
            pieces: Vec::with_capacity(CAPACITY * 4),
        }
    }
}

impl Outbox {
    /// Frames in it.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether there is no room for another one.
    pub fn is_full(&self) -> bool {
        self.count == CAPACITY
    }

    /// Forgets the frames.
    pub fn clear(&mut self) {
        self.count = 0;
        self.pieces.clear();
    }

    /// Adds a frame; `datagram`: see [`Outgoing::datagram`]. False, and nothing is added, if the outbox is full, the front too long, or the pieces are too many.
    pub fn push(
        &mut self,
        header: [u8; LINK_HEADER],
        front: &[u8],
        datagram: bool,
        pieces: impl Iterator<Item = Piece>,
    ) -> bool {
        let first = self.pieces.len();
        let Some(entry) = self.entries.get_mut(self.count).filter(|_| front.len() <= MAX_FRONT) else {
            return false;
        };
        self.pieces.extend(pieces.take(MAX_PIECES + 1));
        let count = self.pieces.len() - first;
        if count > MAX_PIECES {
            self.pieces.truncate(first);
            return false;
        }
        entry.header = header;
        entry.front[..front.len()].copy_from_slice(front);
        entry.front_len = front.len();
        entry.datagram = datagram;
        entry.pieces = (first, count);
        entry.len =
            self.pieces[first..].iter().fold(front.len(), |sum, piece| sum.saturating_add(piece.len()));
        self.count += 1;
        true
    }

    /// Frame number `index`.
    pub fn get(&self, index: usize) -> Option<Outgoing<'_>> {
        let entry = self.entries[..self.count].get(index)?;
        let (first, count) = entry.pieces;
        Some(Outgoing {
            header: &entry.header,
            front: &entry.front[..entry.front_len],
            datagram: entry.datagram,
            pieces: self.pieces.get(first..first + count)?,
            len: entry.len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_were_put_in() {
        let mut outbox = Outbox::default();
        let bytes = [7; 100];
        for number in 0..CAPACITY {
            assert!(!outbox.is_full());
            let pieces = [Piece::of(&bytes[..number]), Piece::of(&bytes)];
            assert!(outbox.push(
                [number as u8; LINK_HEADER],
                &bytes[..number],
                number % 2 == 0,
                pieces.into_iter()
            ));
        }
        assert!(outbox.is_full() && !outbox.push([0; LINK_HEADER], &[], false, std::iter::empty()));
        for number in 0..CAPACITY {
            let frame = outbox.get(number).expect("it is in there");
            assert_eq!((frame.header[0], frame.front.len(), frame.pieces.len()), (number as u8, number, 2));
            assert_eq!(frame.datagram, number % 2 == 0);
            assert_eq!(frame.len, 2 * number + 100);
            for limit in [0, number, 3 * number / 2, frame.len, frame.len + 1] {
                assert_eq!(*frame.copy(limit), vec![7; limit.min(frame.len)]);
            }
        }
        assert!(outbox.get(CAPACITY).is_none());
        outbox.clear();
        assert!(outbox.is_empty() && outbox.get(0).is_none());
    }

    #[test]
    fn what_no_link_could_take_is_not_put_in() {
        let mut outbox = Outbox::default();
        assert!(!outbox.push([0; LINK_HEADER], &[0; MAX_FRONT + 1], false, std::iter::empty()));
        assert!(!outbox.push(
            [0; LINK_HEADER],
            &[],
            false,
            std::iter::repeat_n(Piece::of(&[1]), MAX_PIECES + 1)
        ));
        assert!(outbox.push(
            [0; LINK_HEADER],
            &[0; MAX_FRONT],
            false,
            std::iter::repeat_n(Piece::of(&[1]), MAX_PIECES)
        ));
    }
}
