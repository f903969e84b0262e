//! Drawing samples: for each extension that samples one frame in N, how many frames are skipped until the next one.
//!
//! The number is drawn anew for each sample, evenly from 1 to 2N-1, so that the mean is N and no pattern in the traffic stays
//! hidden (sFlow version 5, "packet flow sampling"). A burst without a sample costs one subtraction for each such extension.

use super::Forwarder;
use crate::extension::{Sample, stack};
use crate::hash;
use crate::snapshot::Snapshot;

#[derive(Debug)]
pub(super) struct Samples {
    seed: u64,
    drawn: u64,
    /// By place in the stack: the rate, and frames up to and with the next sample (0 = not drawn yet).
    left: [(u32, u32); stack::MOST_ENABLED],
}

impl Samples {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0, left: [(0, 0); stack::MOST_ENABLED] }
    }

    /// How many frames until the next sample, if every `rate`th is one in the mean.
    fn draw(&mut self, rate: u32) -> u32 {
        self.drawn = self.drawn.wrapping_add(1);
        let range = u64::from(rate) * 2 - 1;
        // The upper bits of the product: evenly spread over the range.
        let even = (u128::from(hash::expand(self.seed, self.drawn)) * u128::from(range)) >> 64;
        u32::try_from(even).unwrap_or(u32::MAX - 1).saturating_add(1)
    }
}

impl Forwarder {
    /// Shows extensions what was drawn of the `count` frames of a burst. `frame` gives the sample that a frame would be; `None` = it is not
    /// to be one.
    pub fn sample<'a>(&mut self, snap: &Snapshot, count: usize, frame: impl Fn(usize) -> Option<Sample<'a>>) {
        let Some(stack) = snap.extensions() else { return };
        for &(place, rate) in stack.sampling() {
            let Some(&(known, mut left)) = self.samples.left.get(place) else { continue };
            if left == 0 || known != rate {
                left = self.samples.draw(rate);
            }
            let pool = stack.drawn_from(place, count as u64);
            let mut remaining = count as u32;
            while left <= remaining {
                let at = count - remaining as usize + left as usize - 1;
                if let Some(mut sample) = frame(at) {
                    sample.pool = pool - (count - 1 - at) as u64;
                    stack.sample(place, &sample, &mut self.effects);
                }
                remaining -= left;
                left = self.samples.draw(rate);
            }
            self.samples.left[place] = (rate, left - remaining);
        }
    }
}
