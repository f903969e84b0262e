//! What a worker takes frames from: the transmit ring of a queue pair, or a link.

use std::fs::File;
use std::sync::Arc;

use vswitch::frame::offload::NetHeader;
use vswitch::{HEAD_LEN, Nanos, PortId};

use super::deliver::{Blocked, fill};
use super::gather::Gathering;
use super::{LinkPort, Shared};
use crate::guest::GuestPort;
use crate::guest::burst::Burst;
use crate::guest::memory::Span;
use crate::guest::ring::Queue;
use crate::link::{LinkBurst, LinkError};

/// A kick descriptor in the worker's epoll set.
#[derive(Default)]
pub(super) struct Watch {
    pub(super) generation: u32,
    pub(super) file: Option<Arc<File>>,
}

pub(super) enum Kind {
    Guest { port: Arc<GuestPort>, pair: usize, kicks: [Watch; 2] },
    Link { port: Arc<LinkPort>, received: Box<LinkBurst>, pending: u64, gathering: Gathering, was_up: bool },
}

/// Something the worker takes frames from.
pub(super) struct Source {
    pub(super) id: PortId,
    pub(super) kind: Kind,
    pub(super) active: bool,
    pub(super) last_work: Nanos,
    /// When the oldest frame that waits began to wait.
    pub(super) blocked_since: Option<Nanos>,
    pub(super) blocked: Blocked,
    /// There is work with what is held for the port.
    pub(super) releasing: bool,
    /// What that waits for.
    pub(super) held: Blocked,
}

impl Source {
    /// The guest port, if the worker of this source sees to what is held for it.
    pub(super) fn keeper(&self) -> Option<&Arc<GuestPort>> {
        match &self.kind {
            Kind::Guest { port, pair: 0, .. } => Some(port),
            _ => None,
        }
    }

    /// The transmit ring, if it has one.
    pub(super) fn tx(&self) -> Option<&Arc<Queue>> {
        match &self.kind {
            Kind::Guest { port, pair, .. } => port.queues.get(2 * pair + 1),
            Kind::Link { .. } => None,
        }
    }
}

/// What the sleeper calls descriptor `which` of the source in `slot`.
pub(super) const fn token(slot: usize, which: usize) -> u32 {
    (slot * 2 + which) as u32
}

/// Whether any ring that a source waits for got buffers since.
pub(super) fn has_more(blocked: &Blocked) -> bool {
    blocked.link || blocked.queues.iter().any(|(_, queue)| queue.lock().has_more())
}

/// Receives frames from a link behind those that the burst has; returns a bit for each new one.
pub(super) fn receive(port: &LinkPort, received: &mut LinkBurst, shared: &Shared) -> u64 {
    if !port.is_running() {
        return 0;
    }
    let before = first(received.frames().len());
    match port.link.receive_more(received) {
        Ok(count) => first(count) & !before,
        Err(LinkError::Gone { .. }) => {
            port.stop(shared);
            0
        }
        Err(error) => {
            log::debug!("{error}");
            0
        }
    }
}

/// Of what a link had given already, the frames that come next; a bit for each.
pub(super) fn still_there(received: &mut LinkBurst) -> u64 {
    received.clear();
    received.take_in();
    first(received.frames().len())
}

/// A bit for each of the first `count` frames.
fn first(count: usize) -> u64 {
    u64::MAX.checked_shr(64 - count as u32).unwrap_or(0)
}

/// Loads the frames of a link's burst that are not finished yet; a frame's slot is its place in the link's burst.
pub(super) fn load(burst: &mut Burst, received: &LinkBurst, pending: u64) {
    burst.clear();
    for (index, frame) in received.frames().iter().enumerate() {
        if pending >> index & 1 == 0 {
            continue;
        }
        let bytes = received.bytes(frame);
        let spans = burst.spans.len() as u16;
        let target = &mut burst.frames[burst.count];
        fill(target, bytes, index as u8);
        target.header = NetHeader::parse(&frame.header);
        if bytes.len() > HEAD_LEN {
            let rest = &bytes[HEAD_LEN..];
            target.rest = (spans, 1);
            burst.spans.push(Span { ptr: rest.as_ptr().cast_mut(), len: rest.len() as u32 });
        }
        burst.count += 1;
    }
}
