//! What a worker does for extensions: frames that they changed, samples, and what they want done ([`vswitch::extension::Effects`]).
//!
//! Frames that an extension adds are sent by the worker that asked it, as if their port had sent them, and are not shown to those who made them
//! ([`vswitch::extension::Added`]); so no frame makes others for ever. Everything else goes to the thread that serves extensions
//! ([`crate::extensions`]) through a bounded queue.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use vswitch::extension::{Added, Effects, Head, Output, Sample, Slot};
use vswitch::pipeline::Verdict;
use vswitch::snapshot::Snapshot;
use vswitch::trace::DropReason;
use vswitch::{Nanos, PortId};

use super::deliver::{Blocked, Context, Delivery, Patience, bits, complete, own_frame};
use super::{Handle, Own, Shared, View};
use crate::extensions::streams::Wake;
use crate::guest::burst::Burst;

/// Outputs that may wait for the thread that serves extensions.
const OUTPUTS: usize = 1024;

/// What extensions want sent or said, with their names.
#[derive(Default)]
pub struct Outputs {
    waiting: Mutex<VecDeque<(Arc<str>, Output)>>,
    /// What wakes the thread that takes them, for those that must not wait for its next round.
    wake: OnceLock<Wake>,
}

impl Outputs {
    /// Adds one; false = there are too many.
    pub fn add(&self, name: Arc<str>, output: Output) -> bool {
        let prompt = matches!(output, Output::Stream { .. } | Output::HangUp { .. });
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = waiting.len() < OUTPUTS;
        if fits {
            waiting.push_back((name, output));
        }
        drop(waiting);
        if prompt && let Some(wake) = self.wake.get() {
            wake.wake();
        }
        fits
    }

    /// Has `wake` woken from now on when there is something that must not wait. The first call counts.
    pub fn wake_by(&self, wake: Wake) {
        let _ = self.wake.set(wake);
    }

    /// All of them.
    pub fn take(&self) -> VecDeque<(Arc<str>, Output)> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Gives everything that extensions want to whom it is for: frames to `handle`'s worker, the rest to `shared`.
pub fn settle(effects: &mut Effects, snapshot: &Snapshot, shared: &Shared, handle: &Handle) {
    let Some(stack) = snapshot.extensions() else {
        *effects = Effects::default();
        return;
    };
    let refused = |slot: &Slot, count| {
        slot.activity().refused.fetch_add(count, Ordering::Relaxed);
    };
    for Added { place, makers, injection } in effects.take_injected() {
        let Some(slot) = stack.slots().get(usize::from(place)) else { continue };
        let others = stack.slots().iter().enumerate();
        let others = others.filter(|&(at, _)| makers >> at & 1 != 0 && at != usize::from(place));
        // By name: when it is sent the stack may be another.
        let by = std::iter::once(slot).chain(others.map(|(_, slot)| slot)).map(Slot::shared_name).collect();
        let from = injection.from.unwrap_or(PortId::SWITCH);
        if handle.order(from, Own::Added(by, injection.frame)) {
            slot.activity().injected.fetch_add(1, Ordering::Relaxed);
        } else {
            refused(slot, 1);
        }
    }
    for (place, output) in effects.take_outputs() {
        let Some(slot) = stack.slots().get(usize::from(place)) else { continue };
        // There was no frame to send, or nobody who could give it.
        let cut = matches!(output, Output::Stream { frame: 1.., .. });
        if cut || !shared.outputs.add(slot.shared_name(), output) {
            refused(slot, 1);
        }
    }
    for (place, count) in effects.take_refused() {
        if let Some(slot) = stack.slots().get(usize::from(place)) {
            refused(slot, count);
        }
    }
    if effects.take_refresh() {
        shared.state.take_back();
    }
}

impl Delivery {
    /// Makes frame `index`, which was judged last, what an extension made of it, if one did; the verdict is about that. An error is why it
    /// cannot be that: what its virtio-net header says of it does not hold any more.
    #[inline]
    pub(super) fn replaced(
        &mut self,
        view: &View,
        from: PortId,
        burst: &mut Burst,
        index: usize,
    ) -> Result<(), DropReason> {
        match self.forwarder.take_replaced() {
            None => Ok(()),
            Some(head) => Self::replace_head(&head, view, from, burst, index),
        }
    }

    #[cold]
    fn replace_head(
        head: &Head,
        view: &View,
        from: PortId,
        burst: &mut Burst,
        index: usize,
    ) -> Result<(), DropReason> {
        let frame = &mut burst.frames[index];
        let len = head.bytes().len().min(usize::from(frame.head_len));
        frame.head[..len].copy_from_slice(&head.bytes()[..len]);
        match frame.header.check(frame.head(), frame.len, view.sends(from)) {
            Ok(offload) => {
                frame.offload = offload;
                Ok(())
            }
            Err(_) => Err(DropReason::BadOffload),
        }
    }

    /// Gives frame `index`, which was judged last, to the extensions that want to send it to their peers.
    #[cold]
    pub(super) fn give_frame(&mut self, burst: &Burst, index: usize) {
        let frame = &burst.frames[index];
        let mut whole = Vec::with_capacity((frame.len as usize).max(frame.head().len()));
        burst.linearise(index, &mut whole);
        complete(&mut whole, &frame.offload);
        self.forwarder.effects().give_frame(&whole);
    }

    /// Draws samples of those frames of a burst that are finished: the others come again.
    pub(super) fn sample(
        &mut self,
        context: &Context<'_>,
        burst: &Burst,
        verdicts: &[Verdict],
        finished: u64,
    ) {
        let Context { view, now, from, .. } = *context;
        let customers = &self.customers;
        self.forwarder.sample(&view.snapshot, finished.count_ones() as usize, |nth| {
            let index = bits(finished).nth(nth)?;
            let frame = burst.frames.get(index).filter(|frame| frame.fault.is_none())?;
            let vsid = customers.ingress(index).map(|ingress| ingress.vsid);
            let verdict = *verdicts.get(index)?;
            Some(Sample { now, from, vsid, head: frame.head(), len: frame.len, verdict, pool: 0 })
        });
    }

    /// Sends a frame that the first of these extensions added; it is gone if that is not enabled any more.
    #[allow(clippy::too_many_arguments)] // the parts of a worker that a burst meets
    pub(super) fn send_added(
        &mut self,
        view: &View,
        shared: &Shared,
        handle: &Handle,
        now: Nanos,
        from: PortId,
        burst: &mut Burst,
        by: &[Arc<str>],
        bytes: &[u8],
    ) {
        let Some(stack) = view.snapshot.extensions() else { return };
        let place = |name: &Arc<str>| stack.slots().iter().position(|slot| slot.name() == &**name);
        let Some(last) = by.first().and_then(place) else { return };
        let makers = by.iter().filter_map(place).fold(0, |makers, at| makers | 1 << at);
        own_frame(burst, bytes);
        self.forwarder.effects().descend(makers);
        self.above = last as u32 + 1;
        let (patience, mut blocked) = (Patience::Expired, Blocked::default());
        self.forward(view, shared, &handle.counters, now, from, burst, patience, &mut blocked);
        self.above = 0;
        self.forwarder.effects().descend(0);
    }

    /// Passes on what extensions wanted since the last call.
    #[inline]
    pub(super) fn settle_effects(&mut self, view: &View, shared: &Shared, handle: &Handle) {
        if !self.forwarder.effects().is_empty() {
            settle(self.forwarder.effects(), &view.snapshot, shared, handle);
        }
    }
}
