//! Extensions as their operator knows them: what can be enabled, what is, in which order and with which settings.
//!
//! [`model`] is what is stored, [`library`] what instances are made of, [`build`] makes instances and their stack, [`steps`] says what a change is
//! to extensions, [`ask`] asks them, [`change`] enables, moves and sets, [`follow`] tells what happens by itself, [`travel`] lets what they
//! remember move with a port, [`document`] and [`view`] say what there is.
//!
//! Invariants. A list of extensions becomes a stack as a whole, with one snapshot. An instance lives as long as it is enabled with the same
//! configuration, whatever else changes. Every change is asked about before anything of it is published or stored, and who agreed
//! hears of the opposite when nothing comes of it. What is enabled and cannot be started is stood in for by an instance that has failed.
//!
//! Threading: everything is called with the switch locked; instances are shared with the workers.

mod ask;
mod build;
mod change;
pub(super) mod document;
mod follow;
pub mod library;
pub mod model;
mod module;
pub(super) mod steps;
mod travel;
mod view;

use std::sync::Arc;

use vswitch::Nanos;
use vswitch::extension::{Slot, Stack};

use self::library::Library;
use self::model::Listing;
pub use self::module::MOST_MODULE;
pub(super) use self::travel::Memories;
pub use self::travel::Remembered;
use crate::guest::tsc;

/// An enabled instance and what it was made from.
#[derive(Clone, Debug)]
struct Running {
    listing: Listing,
    slot: Slot,
}

/// The instances of one switch. A clone shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct Extensions {
    pub(super) library: Library,
    /// In the order of the stack.
    running: Vec<Running>,
    stack: Arc<Stack>,
}

impl Extensions {
    /// What can be enabled, and nothing is.
    pub(super) fn new(library: Library) -> Self {
        Self { library, ..Self::default() }
    }

    /// The stack, for a snapshot.
    pub(super) fn stack(&self) -> Arc<Stack> {
        Arc::clone(&self.stack)
    }

    /// Whether an extension is enabled and works.
    pub(super) fn works(&self, name: &str) -> bool {
        self.stack.slot(name).is_some_and(|slot| slot.fault().is_none())
    }

    /// The instances, from the top down.
    fn slots(&self) -> &[Slot] {
        self.stack.slots()
    }
}

/// The clock that extensions have, which is that of the data path.
fn now() -> Nanos {
    tsc::nanos(tsc::cycles())
}
