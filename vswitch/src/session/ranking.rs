//! Which port has the most of something, known at any time without asking all ports.
//!
//! Counts change by one, so the ports are kept in lists of equals and the top moves by one list at most.

use crate::PortId;

/// A count per port. A change is a few memory accesses, however many ports there are.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    /// Port numbers by count; list 0 stays empty.
    equals: Vec<Vec<u16>>,
    /// By port number: its count, and where it stands among its equals.
    places: Vec<(u32, u32)>,
    /// The largest count.
    most: usize,
}

impl Ranking {
    /// The count of a port.
    pub(super) fn count(&self, port: PortId) -> usize {
        self.places.get(port.index()).map_or(0, |&(count, _)| count as usize)
    }

    /// A port with the largest count, unless all are zero.
    pub(super) fn top(&self) -> Option<(PortId, usize)> {
        self.equals.get(self.most)?.first().map(|&port| (PortId(port), self.most))
    }

    /// One more.
    pub(super) fn increase(&mut self, port: PortId) {
        let count = self.count(port);
        self.take_out(port, count);
        self.put(port, count + 1);
    }

    /// One less. A count of zero stays.
    pub(super) fn decrease(&mut self, port: PortId) {
        let count = self.count(port);
        let Some(less) = count.checked_sub(1) else { return };
        self.take_out(port, count);
        self.put(port, less);
        if self.most == count && self.equals.get(count).is_none_or(Vec::is_empty) {
            self.most = less; // It was alone at the top, and nobody was nearer than where it is now.
        }
    }

    fn put(&mut self, port: PortId, count: usize) {
        let mut place = 0;
        if count > 0 {
            if self.equals.len() <= count {
                self.equals.resize_with(count + 1, Vec::new);
            }
            if let Some(equals) = self.equals.get_mut(count) {
                place = equals.len();
                equals.push(port.0);
            }
            self.most = self.most.max(count);
        }
        if self.places.len() <= port.index() {
            self.places.resize(port.index() + 1, (0, 0));
        }
        if let Some(entry) = self.places.get_mut(port.index()) {
            *entry = (count as u32, place as u32);
        }
    }

    fn take_out(&mut self, port: PortId, count: usize) {
        let place = self.places.get(port.index()).map_or(0, |&(_, place)| place as usize);
        let Some(equals) = self.equals.get_mut(count).filter(|list| place < list.len()) else { return };
        equals.swap_remove(place);
        if let Some(entry) = equals.get(place).and_then(|&moved| self.places.get_mut(usize::from(moved))) {
            entry.1 = place as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_is_the_largest_count_at_any_time() {
        let (mut ranking, mut counts) = (Ranking::default(), [0usize; 9]);
        assert_eq!(ranking.top(), None);
        let mut state = 1u64;
        for round in 0..20_000 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let port = (state >> 40) as usize % counts.len();
            // Grows for a while, then shrinks until all is gone.
            if (state >> 33) % 8 < if round % 4000 < 2000 { 5 } else { 2 } {
                ranking.increase(PortId(port as u16));
                counts[port] += 1;
            } else {
                ranking.decrease(PortId(port as u16));
                counts[port] = counts[port].saturating_sub(1);
            }
            let most = counts.iter().copied().max().filter(|&n| n > 0);
            assert_eq!(ranking.top().map(|(_, n)| n), most);
            assert!(ranking.top().is_none_or(|(port, n)| counts[port.index()] == n));
            assert_eq!(ranking.count(PortId(port as u16)), counts[port]);
        }
    }
}
