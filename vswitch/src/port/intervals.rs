//! Prefixes cut a number line into intervals: the one search structure under port ACLs and extended rules.
//!
//! All numbers of one interval lie in the same prefixes, so what is known about them is found by one binary search, however many
//! prefixes there are and however they are nested. Nothing is hashed: nobody can choose addresses that make a search slow.
//! Immutable once built, thus usable from any thread.

use std::cmp::Reverse;

/// An address as a number.
pub(super) trait Number: Copy + Ord {
    /// The smallest number.
    const ZERO: Self;

    /// The next number, unless this is the largest.
    fn next(self) -> Option<Self>;
}

impl Number for u32 {
    const ZERO: Self = 0;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u64 {
    const ZERO: Self = 0;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    const ZERO: Self = 0;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

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
    /// Cuts the line at both ends of every prefix, given as first and last number, and says which intervals each covers.
    ///
    /// Two prefixes are disjoint, or one holds the other: the spans are wrong for ranges that merely overlap.
    pub(super) fn new(prefixes: &[(N, N)]) -> (Self, Vec<Span>) {
        // Outer prefixes come before those inside them, so the open ones form a stack.
        let mut order: Vec<(N, Reverse<N>, u32)> =
            (0..).zip(prefixes).map(|(index, &(first, last))| (first, Reverse(last), index)).collect();
        order.sort_unstable();
        let mut line = Line { starts: Vec::with_capacity(2 * order.len()), spans: vec![(0, 0); order.len()] };
        let mut open: Vec<(N, u32)> = Vec::new();
        for (first, Reverse(last), index) in order {
            while let Some((end, inner)) = open.pop_if(|(end, _)| *end < first) {
                line.close(end, inner);
            }
            line.open(first, index);
            open.push((last, index));
        }
        while let Some((end, inner)) = open.pop() {
            line.close(end, inner);
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
