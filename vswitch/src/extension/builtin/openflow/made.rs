//! Frames of the extension's own making (packet-outs, and what an entry changed) and where they are to go.
//!
//! They come back as frames of their port, and nothing in a frame says whose making it was. So where they go is kept here under what they are: who
//! sends them, their length and first bytes. Two that are the same in all of that may change places, and nobody can tell. Both lists are bounded
//! and forget within a second or two.

use std::collections::VecDeque;

use crate::extension::Sight;
use crate::{HEAD_LEN, Nanos, PortId};

/// Frames that may be on their way.
const MOST: usize = 512;

const LASTS: Nanos = 1_000_000_000;

/// Where a frame goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Nowhere,
    Normal,
    Port(PortId),
    All,
    Some(Vec<PortId>),
}

impl Way {
    pub(super) fn reaches(&self, port: PortId) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Normal | Self::All => true,
            Self::Port(id) => *id == port,
            Self::Some(ports) => ports.contains(&port),
        }
    }
}

/// What a frame is known by.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Id {
    from: PortId,
    len: u32,
    head: Vec<u8>,
}

impl Id {
    fn new(from: PortId, head: &[u8], len: u32) -> Self {
        Self { from, len, head: head.get(..HEAD_LEN).unwrap_or(head).to_vec() }
    }
}

/// With a way, and whether controllers are to see it: why, and the cookie of the entry that says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Made {
    pub(super) way: Way,
    pub(super) tell: Option<(u8, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Making {
    /// Not yet asked about.
    waiting: VecDeque<(Nanos, Id, Made)>,
    /// Where they went, for as long as receivers are asked.
    gone: VecDeque<(Nanos, Id, Way)>,
    /// Somebody only asks about this one.
    dry: Option<(Id, Made)>,
}

impl Making {
    /// A frame comes that is to go this way. What does not fit pushes out the oldest.
    pub(super) fn add(&mut self, now: Nanos, from: PortId, head: &[u8], len: u32, made: Made, dry: bool) {
        let id = Id::new(from, head, len);
        if dry {
            self.dry = Some((id, made));
            return;
        }
        if self.waiting.len() >= MOST {
            self.waiting.pop_front();
        }
        self.waiting.push_back((now, id, made));
    }

    /// Where a frame is to go that came back.
    pub(super) fn take(&mut self, sight: &Sight<'_>) -> Option<Made> {
        let id = Id::new(sight.port, sight.head, sight.len);
        if sight.dry {
            return self.dry.take().filter(|(of, _)| *of == id).map(|(_, made)| made);
        }
        let at = self.waiting.iter().position(|(_, of, _)| *of == id)?;
        let (_, _, made) = self.waiting.remove(at)?;
        if self.gone.len() >= MOST {
            self.gone.pop_front();
        }
        self.gone.push_back((sight.now, id, made.way.clone()));
        Some(made)
    }

    /// Whether a frame like this was sent to this port.
    pub(super) fn reaches(&self, from: PortId, sight: &Sight<'_>) -> bool {
        let head = sight.head.get(..HEAD_LEN).unwrap_or(sight.head);
        let is = |id: &Id| id.from == from && id.len == sight.len && id.head == head;
        self.gone.iter().any(|(_, id, way)| is(id) && way.reaches(sight.port))
    }

    /// Forgets what is too old; true = there is nothing left.
    pub(super) fn forget(&mut self, now: Nanos) -> bool {
        self.waiting.retain(|(at, ..)| now.saturating_sub(*at) < LASTS);
        self.gone.retain(|(at, ..)| now.saturating_sub(*at) < LASTS);
        self.waiting.is_empty() && self.gone.is_empty()
    }
}
