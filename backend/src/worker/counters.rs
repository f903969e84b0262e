//! What each worker counts. One writer (the worker), any readers; sums over workers are made on reading.
//!
//! What ports and tallies count outlives the process (see [`crate::tally`]); what a worker counts about itself does not.

use std::sync::atomic::{AtomicU64, Ordering};

use vswitch::trace::DropReason;
use vswitch::{PortId, Tally};

use crate::spec::WorkerStats;
use crate::tally::{Cell, WorkerTallies};

/// Ports that can exist at the same time; their numbers are 1 to this.
pub const MAX_PORTS: usize = 1024;

/// A number that only its worker changes.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds without a locked operation: there is one writer.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters of one worker.
pub struct Counters {
    tallies: WorkerTallies,
    /// Frames received from ports.
    pub frames: Counter,
    /// Polls that moved something.
    pub bursts: Counter,
    /// TSC cycles of rounds that moved something.
    pub busy_cycles: Counter,
    /// TSC cycles of rounds that moved nothing.
    pub idle_cycles: Counter,
    /// Times the worker slept.
    pub sleeps: Counter,
    /// Times a descriptor (and not the clock) woke it.
    pub wakeups: Counter,
}

impl Counters {
    /// Counters that keep those of ports and tallies in this worker's section; the others begin at zero.
    pub fn new(tallies: WorkerTallies) -> Self {
        Self {
            tallies,
            frames: Counter::default(),
            bursts: Counter::default(),
            busy_cycles: Counter::default(),
            idle_cycles: Counter::default(),
            sleeps: Counter::default(),
            wakeups: Counter::default(),
        }
    }

    /// A port sent `packets` of `bytes` in all.
    #[inline]
    pub fn out(&self, id: PortId, packets: u64, bytes: u64) {
        self.tallies.count(id, Cell::OutPackets, packets);
        self.tallies.count(id, Cell::OutBytes, bytes);
    }

    /// A port got `packets` of `bytes` in all.
    #[inline]
    pub fn received(&self, id: PortId, packets: u64, bytes: u64) {
        self.tallies.count(id, Cell::InPackets, packets);
        self.tallies.count(id, Cell::InBytes, bytes);
    }

    /// What a port sent went nowhere.
    pub fn out_drop(&self, id: PortId, reason: DropReason, packets: u64) {
        self.tallies.count(id, Cell::OutDrops(reason), packets);
    }

    /// A port did not get what was meant for it.
    pub fn in_drop(&self, id: PortId, reason: DropReason, packets: u64) {
        self.tallies.count(id, Cell::InDrops(reason), packets);
    }

    /// An entry or rule that counts matched `packets` of `bytes` in all; [`Tally::NONE`] counts nothing.
    #[inline]
    pub fn tally(&self, tally: Tally, packets: u64, bytes: u64) {
        self.tallies.add(tally, packets, bytes);
    }

    /// Adds this worker's part to `sum`.
    pub fn load(&self, stats: &mut WorkerStats) {
        stats.frames = self.frames.get();
        stats.bursts = self.bursts.get();
        stats.busy_cycles = self.busy_cycles.get();
        stats.idle_cycles = self.idle_cycles.get();
        stats.sleeps = self.sleeps.get();
        stats.wakeups = self.wakeups.get();
    }
}
