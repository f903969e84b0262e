//! Extensions of third parties: WebAssembly modules, each in a sandbox of its own.
//!
//! [`Module`] is a module that was compiled and looked into; [`Module::start`] makes an [`Extension`](super::Extension) of it. What a module
//! exports and what it may call is ABI 1, in words in examples/extensions/ABI.md, for C in examples/extensions/turnpike.h. An export that a
//! module does not have stands for the default of the method of the same name.
//!
//! # What a module can do
//! It sees what it is given: a copy of a frame's beginning, names and policies of ports, settings of its own. It has no files, no sockets, no clock
//! and no threads. Frames and lines that it wants added go through the bounds of [`Effects`](super::Effects); datagrams leave the host to
//! addresses that its [`Limits`] name, and nowhere else.
//!
//! # What it cannot do
//! - Read or write beyond its own memory: the compiled code checks, and so does the host with each pointer that it is given.
//! - Run for ever: each call has so much fuel, about one unit an instruction, and ends when it is used up. The same frames end at the same
//!   instruction on every machine.
//! - Take more memory, tables or stack than its [`Limits`] say.
//!
//! What breaks a rule is a fault: the call ends, its text names the function and the cause, and the instance is not called again.
//!
//! # Threading
//! An instance is single-threaded, as WebAssembly is, so a lock around it lets one worker in at a time. Answers for flows are kept in each worker's
//! cache, and the lock is met where a flow begins. A module that wants to see every frame is met by each worker for each
//! frame: the module's own time a frame bounds what all workers do together.
//!
//! The sandbox handles SIGSEGV, SIGILL and SIGFPE of the process; one that does not come from a module goes to whoever handled it before.

mod imports;
mod instance;
mod layout;
mod live;
mod module;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use module::{Module, ModuleError};

/// The version of the interface between switch and modules.
pub const ABI: u32 = 1;

/// Bytes that a module may have at most.
pub const MOST_MODULE: usize = 4 * 1024 * 1024;

/// Bytes of a text that goes to a module or comes from it.
pub const MOST_TEXT: usize = 64 * 1024;

/// Bytes of stack that a module's code has on the thread that calls it. Threads of the control plane may have 256 KiB in all.
const STACK: usize = 96 * 1024;

/// Bytes in a MiB.
const MIB: usize = 1024 * 1024;

/// What one instance may take.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Memory, in MiB: 1 to [`Limits::MOST_MEMORY_MIB`].
    pub memory_mib: u32,
    /// Fuel for a call about one frame: 1,000 to [`Limits::MOST_FRAME_FUEL`].
    pub frame_fuel: u64,
    /// Fuel for any other call, and for the start: 1,000 to [`Limits::MOST_CALL_FUEL`].
    pub call_fuel: u64,
    /// Frames it may add between two ticks, a tenth of a second: 0 to [`Limits::MOST_FRAMES`]. It ends the loop of one that adds a copy of what
    /// it sees come to a port, its own copies among that.
    pub frames_per_tick: u32,
    /// Where it may send datagrams.
    pub datagrams_to: Vec<SocketAddr>,
}

impl Limits {
    /// The most of [`Limits::memory_mib`].
    pub const MOST_MEMORY_MIB: u32 = 256;

    /// The most of [`Limits::frame_fuel`]; a worker stands still for about half a millisecond before it ends.
    pub const MOST_FRAME_FUEL: u64 = 1_000_000;

    /// The most of [`Limits::call_fuel`]; workers that need the instance wait for some hundred milliseconds before it ends.
    pub const MOST_CALL_FUEL: u64 = 1_000_000_000;

    /// The most of [`Limits::frames_per_tick`].
    pub const MOST_FRAMES: u32 = 100_000;

    /// The most of [`Limits::datagrams_to`].
    pub const MOST_DESTINATIONS: usize = 16;

    fn check(&self) -> Result<(), ModuleError> {
        let outside = |key, value: u64, least: u64, most: u64| {
            let refused = !(least..=most).contains(&value);
            if refused { Err(ModuleError::Limit { key, value, least, most }) } else { Ok(()) }
        };
        outside("memory-mib", self.memory_mib.into(), 1, Self::MOST_MEMORY_MIB.into())?;
        outside("frame-fuel", self.frame_fuel, 1000, Self::MOST_FRAME_FUEL)?;
        outside("call-fuel", self.call_fuel, 1000, Self::MOST_CALL_FUEL)?;
        outside("frames-per-tick", self.frames_per_tick.into(), 0, Self::MOST_FRAMES.into())?;
        outside("datagrams-to", self.datagrams_to.len() as u64, 0, Self::MOST_DESTINATIONS as u64)
    }

    fn memory(&self) -> usize {
        self.memory_mib as usize * MIB
    }
}

impl Default for Limits {
    /// 16 MiB; about 25 µs a frame and 10 ms any other call; 10,000 frames a second; no datagrams.
    fn default() -> Self {
        let (memory_mib, frame_fuel, call_fuel, frames_per_tick) = (16, 50_000, 20_000_000, 1000);
        Self { memory_mib, frame_fuel, call_fuel, frames_per_tick, datagrams_to: Vec::new() }
    }
}
