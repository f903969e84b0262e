//! Sessions that travel with their port from one switch to another.
//!
//! Ages travel, not times: two switches have no common clock.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::table::Entry;
use super::track::Track;
use super::{BATCH, Grant, Key, Sessions};
use crate::{Nanos, PortId, Segment, Tally};

/// A session as it travels with its port to another switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// The network.
    pub segment: Segment,
    /// IP protocol.
    pub protocol: u8,
    /// The guest's address.
    pub local: IpAddr,
    /// Its peer's address.
    pub remote: IpAddr,
    /// The guest's TCP or UDP port.
    pub local_port: u16,
    /// Its peer's.
    pub remote_port: u16,
    /// Weight of the rule that opened it.
    pub weight: u32,
    /// The rule's idle timeout in milliseconds.
    pub timeout_ms: u64,
    /// What was seen of the connection, the direction that opened it included: bits of [`Saved::TRACK_BITS`].
    pub track: u8,
    /// Milliseconds since it was opened.
    pub age_ms: u64,
    /// Milliseconds since a packet passed.
    pub idle_ms: u64,
}

impl Saved {
    /// Bits that mean something in [`Saved::track`]; others are refused.
    pub const TRACK_BITS: u8 = 0x3f;

    fn key(&self, port: PortId) -> Key {
        let Self { segment, protocol, local, remote, local_port, remote_port, .. } = *self;
        Key { port, segment, protocol, local, remote, local_port, remote_port }
    }
}

impl Sessions {
    /// The live sessions of a port, as they travel with it. To be called while none of its frames is under way.
    pub fn save(&self, now: Nanos, port: PortId) -> Vec<Saved> {
        let table = self.read();
        let saved = |slot: u32| {
            let at = self.slots.get(slot).filter(|at| at.handle(slot).is_some() && !at.is_expired(now))?;
            let Entry { key, grant, opened_at, .. } = table.entry(slot)?;
            Some(Saved {
                segment: key.segment,
                protocol: key.protocol,
                local: key.local,
                remote: key.remote,
                local_port: key.local_port,
                remote_port: key.remote_port,
                weight: grant.weight,
                timeout_ms: grant.idle.div_ceil(1_000_000),
                track: at.track().to_bits(),
                age_ms: now.saturating_sub(*opened_at) / 1_000_000,
                idle_ms: at.idle_ms(now),
            })
        };
        table.held_by(port).filter_map(saved).collect()
    }

    /// Puts sessions of a port in that came with it from another switch, and says how many. `judge` says what this switch's rules grant
    /// the packet that opened a session; `None` leaves it out. One that is there already, is expired or finds no room is left out too.
    pub fn restore(
        &self,
        now: Nanos,
        port: PortId,
        saved: &[Saved],
        judge: impl Fn(&Key, &Grant) -> Option<Grant>,
    ) -> u64 {
        let mut restored = 0;
        for batch in saved.chunks(BATCH) {
            let wanted: Vec<_> = batch
                .iter()
                .filter_map(|saved| {
                    let (key, track) = (saved.key(port), Track::from_bits(saved.track));
                    let before = |ms: u64| now.saturating_sub(ms.saturating_mul(1_000_000));
                    let idle = saved.timeout_ms.saturating_mul(1_000_000);
                    let was = Grant { opened: track.opened, weight: saved.weight, idle, tally: Tally::NONE };
                    let grant = judge(&key, &was)?;
                    let live = saved.idle_ms.saturating_mul(1_000_000) < track.timeout(grant.idle);
                    live.then(|| (key, grant, track, (before(saved.age_ms), before(saved.idle_ms))))
                })
                .collect();
            let mut table = self.write();
            for (key, grant, track, times) in wanted {
                let hash = key.hash(self.seed);
                if table.restore(&self.slots, now, (hash, key), grant, track, times) {
                    self.present(hash);
                    restored += 1;
                }
            }
        }
        restored
    }
}
