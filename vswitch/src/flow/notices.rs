//! Events on their way from a worker to the operator: bounded in number and in rate.

use crate::event::Event;
use crate::{Nanos, PortId};

/// Most events held between two calls of [`Notices::take`].
const PENDING: usize = 64;

/// Shortest time between two events of one kind for one port.
const PAUSE: Nanos = 1_000_000_000;

/// Kinds of events a frame can cause.
const KINDS: usize = 15;

#[derive(Debug, Default)]
pub(crate) struct Notices {
    pending: Vec<Event>,
    /// By port number and kind, when the next one may be reported. Grows to the largest port number that caused one.
    next: Vec<[Nanos; KINDS]>,
    suppressed: u64,
}

impl Notices {
    pub(crate) fn add(&mut self, now: Nanos, event: Event) {
        if let Some((kind, port)) = cause(&event) {
            if self.next.len() <= port.index() {
                self.next.resize(port.index() + 1, [0; KINDS]);
            }
            let next = &mut self.next[port.index()][kind];
            if now < *next || self.pending.len() >= PENDING {
                self.suppressed += 1;
                return;
            }
            *next = now.saturating_add(PAUSE);
            self.pending.push(event);
        }
    }

    pub(crate) fn take(&mut self) -> impl Iterator<Item = Event> {
        self.pending.drain(..)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

/// The kind, below [`KINDS`], and the port that caused it. Frames cause no other events.
fn cause(event: &Event) -> Option<(usize, PortId)> {
    match *event {
        Event::MacMoved { to, .. } => Some((0, to)),
        Event::MacPinned { port, .. } => Some((1, port)),
        Event::MacSpoofed { port, .. } => Some((2, port)),
        Event::FdbFull { port, .. } => Some((3, port)),
        Event::AddressSpoofed { port, .. } => Some((4, port)),
        Event::AddressLimitNear { port, .. } => Some((5, port)),
        Event::AddressLimitReached { port, .. } => Some((6, port)),
        Event::SeenElsewhere { port, .. } => Some((7, port)),
        Event::NvLookupFailed { port, .. } => Some((8, port)),
        Event::NvConflict { port, .. } => Some((9, port)),
        Event::NvLearned { port, .. } => Some((10, port)),
        Event::NvTaken { port, .. } => Some((11, port)),
        Event::NvSpoofed { port, .. } => Some((12, port)),
        Event::ProviderDuplicate { port, .. } => Some((13, port)),
        Event::ExtensionDropped { port, .. } => Some((14, port)),
        _ => None,
    }
}
