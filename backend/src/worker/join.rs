//! TCP segments that came through a tunnel one by one go on as one frame, if they follow one another and their receiver can have them so.
//!
//! Tunnels carry packets of the wire's size, and a guest that gets those one by one is busy with little else. So what a sender had cut for the
//! tunnel is joined again as far as it arrives together. Only frames that came directly one after the other are joined, so nothing changes its
//! place. A joined frame is finished as a whole; its segments stay in the link's burst until it is.

use vswitch::frame::join::{Joint, checksum_holds};
use vswitch::frame::offload::{F_DATA_VALID, F_NEEDS_CSUM, Offload};
use vswitch::nv::overlay::Ingress;

use super::deliver::bits;
use crate::guest::burst::{BURST, Burst};
use crate::guest::memory::Span;

/// Longest segment that is worth joining, in bytes; more than what any tunnel over jumbo frames carries.
const SEGMENT: usize = 9216;

/// The frame of a burst that segments may be joined to.
pub(super) struct Joining {
    last: Option<(usize, Ingress, Joint)>,
    /// Frames that are part of another one.
    joined: u64,
    /// Whose part each is.
    of: Vec<u8>,
    scratch: Vec<u8>,
}

impl Default for Joining {
    fn default() -> Self {
        Self { last: None, joined: 0, of: Vec::with_capacity(BURST), scratch: Vec::with_capacity(SEGMENT) }
    }
}

impl Joining {
    /// Begins a burst.
    pub(super) fn clear(&mut self) {
        (self.last, self.joined) = (None, 0);
        self.of.clear();
    }

    /// Frames that are part of another one and need not be looked at.
    pub(super) fn joined(&self) -> u64 {
        self.joined
    }

    /// The frame that frame `index` is part of, if it is.
    pub(super) fn whole(&self, index: usize) -> Option<usize> {
        let place =
            (self.joined >> index & 1 != 0).then(|| (self.joined & ((1 << index) - 1)).count_ones())?;
        self.of.get(place as usize).map(|&whole| whole.into())
    }

    /// `finished`, and the parts of what is finished.
    pub(super) fn with_parts(&self, finished: u64) -> u64 {
        bits(self.joined)
            .zip(&self.of)
            .fold(finished, |all, (part, &whole)| all | (finished >> whole & 1) << part)
    }

    /// Ends the frame that segments were joined to: what comes next is something else.
    pub(super) fn end(&mut self, burst: &mut Burst) {
        if let Some((index, _, joint)) = self.last.take()
            && joint.count() > 1
            && let Some(frame) = burst.frames.get_mut(index)
        {
            frame.len = joint.len();
            frame.offload = joint.finish(frame.head_mut());
        }
    }

    /// Joins frame `index`, whose offload was checked, to the one before it, or makes it the one that others may be joined to. True = it
    /// is part of the other one now.
    pub(super) fn take(&mut self, burst: &mut Burst, index: usize, ingress: &Ingress) -> bool {
        if let Some((whole, from, mut joint)) = self.last.take() {
            if from == *ingress && join(burst, whole, &mut joint, index, &mut self.scratch) {
                self.last = Some((whole, from, joint));
                self.joined |= 1 << index;
                self.of.push(whole as u8);
                return true;
            }
            self.last = Some((whole, from, joint));
        }
        self.end(burst);
        let frame = &burst.frames[index];
        if is_sound(burst, index, &mut self.scratch)
            && let Some(joint) = Joint::new(frame.head(), frame.len)
        {
            self.last = Some((index, *ingress, joint));
        }
        false
    }
}

/// Appends the payload of frame `index` to frame `whole`.
fn join(burst: &mut Burst, whole: usize, joint: &mut Joint, index: usize, scratch: &mut Vec<u8>) -> bool {
    if !is_sound(burst, index, scratch) {
        return false;
    }
    let Some([first, next]) = burst.frames.get_disjoint_mut([whole, index]).ok() else { return false };
    let room = burst.spans.capacity() - burst.spans.len()
        >= usize::from(first.rest.1) + usize::from(next.rest.1) + 2;
    let head = usize::from(first.head_len);
    if !room || head < joint.header_len() || next.head().len() < joint.header_len() {
        return false;
    }
    let begun = joint.count() > 1;
    if !joint.join(first.head_mut(), next.head(), next.len) {
        return false;
    }
    let frames = &mut burst.frames;
    if !begun {
        // Spans of one frame follow one another: its own come again, where others can follow.
        let (start, count) = frames[whole].rest;
        let new = burst.spans.len() as u16;
        burst.spans.extend_from_within(usize::from(start)..usize::from(start) + usize::from(count));
        frames[whole].rest = (new, count);
    }
    let payload = &frames[index].head()[joint.header_len()..];
    if !payload.is_empty() {
        // The head lies in the burst, which is not changed until the frame is delivered.
        burst.spans.push(Span { ptr: payload.as_ptr().cast_mut(), len: payload.len() as u32 });
        frames[whole].rest.1 += 1;
    }
    let (start, count) = frames[index].rest;
    burst.spans.extend_from_within(usize::from(start)..usize::from(start) + usize::from(count));
    frames[whole].rest.1 += count;
    true
}

/// Whether a segment's checksum is right, or nobody can have made it wrong on the way because it is still open.
fn is_sound(burst: &Burst, index: usize, scratch: &mut Vec<u8>) -> bool {
    let frame = &burst.frames[index];
    if matches!(frame.offload, Offload::Tcp { .. }) || frame.len as usize > SEGMENT {
        return false;
    }
    if frame.header.flags & (F_NEEDS_CSUM | F_DATA_VALID) != 0 {
        return true;
    }
    burst.linearise(index, scratch);
    checksum_holds(scratch)
}
