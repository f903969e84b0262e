//! Flooded frames: every receiver's part is judged for itself and not kept.

use super::Forwarder;
use crate::nv::overlay::Ingress;
use crate::pipeline::{self, Actions, Verdict};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::{Nanos, PortId};

impl Forwarder {
    /// One receiver's part of a flooded frame; see [`pipeline::copy`].
    pub fn copy(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        ports: (PortId, PortId),
        head: &[u8],
        len: u32,
    ) -> Option<(Verdict, Actions)> {
        let makers = self.effects.makers();
        let mut decision = pipeline::copy_added(snap, state, now, ports, (head, len), makers)?;
        self.absorb(state, now, &mut decision);
        Some((decision.verdict, decision.actions))
    }

    /// As [`Forwarder::copy`], for a frame that came out of a tunnel.
    #[allow(clippy::too_many_arguments)] // a frame, and what it is judged by
    pub fn copy_inner(
        &mut self,
        snap: &Snapshot,
        state: &State,
        now: Nanos,
        ports: (PortId, PortId),
        ingress: &Ingress,
        head: &[u8],
        len: u32,
    ) -> Option<(Verdict, Actions)> {
        let mut decision = pipeline::copy_inner(snap, state, now, ports, ingress, head, len)?;
        self.absorb(state, now, &mut decision);
        Some((decision.verdict, decision.actions))
    }
}
