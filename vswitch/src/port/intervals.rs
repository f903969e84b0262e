//! Prefixes cut a number line into intervals: the one search structure under port ACLs and extended rules.
//!
//! All numbers of one interval lie in the same prefixes, so what is known about them is found by one binary
//! search, however many prefixes there are and however they are nested. Nothing is hashed: nobody can choose
//! addresses that make a search slow. Immutable once built, thus usable from any thread.

/// An address as a number.
pub(super) trait Number: Copy + Ord {
    /// The smallest number.
    const ZERO: Self;

    /// What sorts prefixes by where they begin, the shorter first, and remembers which they are: one number
    /// where that is possible, since such sort best.
    type Key: Copy + Ord;

    /// The next number, unless this is the largest.
    fn next(self) -> Option<Self>;

    /// The largest number with the same leading bits.
    fn last(self, length: u8) -> Self;

    /// Makes a key.
    fn key(self, length: u8, index: u32) -> Self::Key;

    /// Takes a key apart.
    fn parts(key: Self::Key) -> (Self, u8, u32);
}

macro_rules! number {
    ($number:ty, $key:ty, $make:expr, $split:expr) => {
        impl Number for $number {
            const ZERO: Self = 0;

            type Key = $key;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn last(self, length: u8) -> Self {
                self | Self::MAX.checked_shr(length.into()).unwrap_or(0)
            }

            fn key(self, length: u8, index: u32) -> $key {
                $make(self, u64::from(length) << 32 | u64::from(index))
            }

            fn parts(key: $key) -> (Self, u8, u32) {
                let (number, rest): (Self, u64) = $split(key);
                (number, (rest >> 32) as u8, rest as u32)
            }
        }
    };
}

number!(u32, u128, |n, rest| u128::from(n) << 64 | u128::from(rest), |key| ((key >> 64) as u32, key as u64));
number!(u64, u128, |n, rest| u128::from(n) << 64 | u128::from(rest), |key| ((key >> 64) as u64, key as u64));
number!(u128, (u128, u64), |n, rest| (n, rest), |key| key);

/// The first and the last interval of a prefix.
pub(super) type Span = (u32, u32);

/// Intervals that follow each other without a gap; the first begins at 0.
#[derive(Clone, Debug)]
pub(super) struct Intervals<N> {
    /// Where each interval but the first begins, ascending.
    starts: Vec<N>,
}

impl<N> Default for Intervals<N> {
    fn default() -> Self {
        Self { starts: Vec::new() }
    }
}

impl<N: Number> Intervals<N> {
    /// Cuts the line at both ends of every prefix, given as its first number and how many bits of that count,
    /// and says which intervals each covers.
    pub(super) fn new(prefixes: &[(N, u8)]) -> (Self, Vec<Span>) {
        // Outer prefixes come before those inside them, so the open ones form a stack.
        let mut order: Vec<N::Key> =
            (0..).zip(prefixes).map(|(index, &(first, length))| first.key(length, index)).collect();
        order.sort_unstable();
        let mut line = Line { starts: Vec::with_capacity(2 * order.len()), spans: vec![(0, 0); order.len()] };
        let mut open: Vec<(N, u32)> = Vec::new();
        for (first, length, index) in order.into_iter().map(N::parts) {
            while let Some((last, inner)) = open.pop_if(|(last, _)| *last < first) {
                line.close(last, inner);
            }
            line.open(first, index);
            open.push((first.last(length), index));
        }
        while let Some((last, inner)) = open.pop() {
            line.close(last, inner);
        }
        (Self { starts: line.starts }, line.spans)
    }

    /// How many intervals there are; at least one.
    pub(super) fn count(&self) -> usize {
        self.starts.len() + 1
    }

    /// The interval a number lies in, counted from 0.
    #[inline]
    pub(super) fn find(&self, number: N) -> usize {
        self.starts.partition_point(|&start| start <= number)
    }
}

/// The line while it is being cut from left to right.
struct Line<N> {
    starts: Vec<N>,
    spans: Vec<Span>,
}

impl<N: Number> Line<N> {
    fn open(&mut self, first: N, index: u32) {
        // The first interval begins at 0 without being cut.
        if self.starts.last().copied().unwrap_or(N::ZERO) != first {
            self.starts.push(first);
        }
        if let Some(span) = self.spans.get_mut(index as usize) {
            span.0 = self.starts.len() as u32;
        }
    }

    fn close(&mut self, last: N, index: u32) {
        let mut interval = self.starts.len() as u32;
        if let Some(after) = last.next() {
            // A prefix inside this one may have ended at the same number, and have cut there.
            if self.starts.last() == Some(&after) {
                interval -= 1;
            } else {
                self.starts.push(after);
            }
        }
        if let Some(span) = self.spans.get_mut(index as usize) {
            span.1 = interval;
        }
    }
}
