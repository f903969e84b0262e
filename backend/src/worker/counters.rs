//! What each worker counts. One writer (the worker), any readers; sums over workers are made on reading.

use std::sync::atomic::{AtomicU64, Ordering};

use vswitch::PortId;
use vswitch::trace::DropReason;

use crate::spec::{PortCounters, WorkerStats};

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

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// One port's counters on one worker.
pub(super) struct PortCount {
    out_packets: Counter,
    out_bytes: Counter,
    in_packets: Counter,
    in_bytes: Counter,
    out_drops: [Counter; DropReason::COUNT],
    in_drops: [Counter; DropReason::COUNT],
}

impl Default for PortCount {
    fn default() -> Self {
        let zeros = || std::array::from_fn(|_| Counter::default());
        Self {
            out_packets: Counter::default(),
            out_bytes: Counter::default(),
            in_packets: Counter::default(),
            in_bytes: Counter::default(),
            out_drops: zeros(),
            in_drops: zeros(),
        }
    }
}

/// All counters of one worker.
pub struct Counters {
    ports: Box<[PortCount]>,
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

impl Default for Counters {
    fn default() -> Self {
        Self {
            ports: (0..=MAX_PORTS).map(|_| PortCount::default()).collect(),
            frames: Counter::default(),
            bursts: Counter::default(),
            busy_cycles: Counter::default(),
            idle_cycles: Counter::default(),
            sleeps: Counter::default(),
            wakeups: Counter::default(),
        }
    }
}

impl Counters {
    #[inline]
    fn port(&self, id: PortId) -> &PortCount {
        // Numbers above the table cannot be added; slot 0 is nobody's.
        self.ports.get(id.index()).unwrap_or(&self.ports[0])
    }

    /// A port sent `packets` of `bytes` in all.
    #[inline]
    pub fn out(&self, id: PortId, packets: u64, bytes: u64) {
        let port = self.port(id);
        port.out_packets.add(packets);
        port.out_bytes.add(bytes);
    }

    /// A port got `packets` of `bytes` in all.
    #[inline]
    pub fn received(&self, id: PortId, packets: u64, bytes: u64) {
        let port = self.port(id);
        port.in_packets.add(packets);
        port.in_bytes.add(bytes);
    }

    /// What a port sent went nowhere.
    pub fn out_drop(&self, id: PortId, reason: DropReason, packets: u64) {
        self.port(id).out_drops[reason as usize].add(packets);
    }

    /// A port did not get what was meant for it.
    pub fn in_drop(&self, id: PortId, reason: DropReason, packets: u64) {
        self.port(id).in_drops[reason as usize].add(packets);
    }

    /// Forgets a port's counts, before its number is used again; the port must not be in use.
    pub fn clear(&self, id: PortId) {
        let port = self.port(id);
        for counter in [&port.out_packets, &port.out_bytes, &port.in_packets, &port.in_bytes]
            .into_iter()
            .chain(&port.out_drops)
            .chain(&port.in_drops)
        {
            counter.clear();
        }
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

/// A port's counters over all workers.
pub fn total<'a>(workers: &(impl Iterator<Item = &'a Counters> + Clone), id: PortId) -> PortCounters {
    let sum = |field: fn(&PortCount) -> &Counter| workers.clone().map(|w| field(w.port(id)).get()).sum();
    let drops = |field: fn(&PortCount) -> &[Counter; DropReason::COUNT]| {
        let of = |reason: DropReason| workers.clone().map(|w| field(w.port(id))[reason as usize].get()).sum();
        DropReason::ALL.iter().map(|&reason| (reason, of(reason))).filter(|(_, count)| *count != 0).collect()
    };
    PortCounters {
        out_packets: sum(|p| &p.out_packets),
        out_bytes: sum(|p| &p.out_bytes),
        in_packets: sum(|p| &p.in_packets),
        in_bytes: sum(|p| &p.in_bytes),
        out_drops: drops(|p| &p.out_drops),
        in_drops: drops(|p| &p.in_drops),
    }
}
