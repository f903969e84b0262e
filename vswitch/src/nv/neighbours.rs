//! Next hops on the provider network: who has the Ethernet address of another host, or of the router to it.
//!
//! Only addresses that some tunnel needs are asked for, and only what was asked for is learned, so the physical network cannot fill the
//! table. A next hop is asked for every second until it answers, and again every [`RENEW`] for as long as it is used; if it does not
//! answer for [`LOST`], it is unknown again.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::table::{Key, Table};
use crate::{Mac, Nanos, PortId};

/// Next hops at most.
pub const LIMIT: u32 = 65_536;

/// How often one that does not answer is asked for, in nanoseconds.
pub const RETRY: Nanos = SECOND;

/// How long an answer holds until it is asked for again, in nanoseconds.
pub const RENEW: Nanos = 30 * SECOND;

/// How long without an answer until it is unknown again, in nanoseconds.
pub const LOST: Nanos = 60 * SECOND;

/// How long one that nobody needs is remembered, in nanoseconds.
pub const IDLE: Nanos = 300 * SECOND;

const SECOND: Nanos = 1_000_000_000;

/// A next hop: an address in one network of an uplink.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Hop {
    /// The uplink.
    pub port: PortId,
    /// The VLAN.
    pub vlan: Option<u16>,
    /// Its address.
    pub address: IpAddr,
}

/// What is known of a next hop of one uplink, as it is handed over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NextHop {
    /// The VLAN.
    pub vlan: Option<u16>,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Milliseconds since it answered.
    pub age_ms: u64,
}

/// The table. Reading is free of locks.
#[derive(Debug)]
pub struct Neighbours {
    table: Table,
    /// Grows whenever a next hop's Ethernet address becomes known, another, or unknown.
    generation: AtomicU64,
    /// The time of the last call that said it.
    clock: AtomicU64,
}

impl Neighbours {
    pub(super) fn new(seed: u64) -> Self {
        Self { table: Table::new(seed, LIMIT), generation: AtomicU64::new(0), clock: AtomicU64::new(0) }
    }

    /// The Ethernet address of a next hop, if it is known; otherwise it is asked for from now on.
    pub fn find(&self, hop: &Hop) -> Option<Mac> {
        let (key, now) = (key(hop), self.clock.load(Ordering::Relaxed));
        let Some((handle, [mac, ..])) = self.table.find(&key) else {
            self.want(&key, now);
            return None;
        };
        self.table.touch(handle.index(), now);
        (mac != 0).then(|| Mac::from_u64(mac))
    }

    /// Says what time it is to those that ask for next hops from now on.
    pub fn tick(&self, now: Nanos) {
        self.clock.store(now, Ordering::Relaxed);
    }

    fn want(&self, key: &Key, now: Nanos) {
        let _alone = self.table.exclusive();
        // Another worker may have been faster.
        if self.table.find(key).is_none() {
            self.table.insert(key, [0; 3], now);
        }
    }

    /// The Ethernet address of a next hop as it is known now. Asks for nothing.
    pub fn get(&self, hop: &Hop) -> Option<Mac> {
        self.table.find(&key(hop)).and_then(|(_, [mac, ..])| (mac != 0).then(|| Mac::from_u64(mac)))
    }

    /// Somebody said that he has an address; says whether that is news. Ignored unless it was asked for.
    pub fn hear(&self, now: Nanos, hop: &Hop, mac: Mac) -> bool {
        let key = key(hop);
        if !mac.is_valid_source() || self.table.find(&key).is_none() {
            return false;
        }
        let _alone = self.table.exclusive();
        let Some((handle, [old, asked, heard])) = self.table.find(&key) else { return false };
        let news = old != mac.to_u64();
        if news || now.saturating_sub(heard) >= SECOND {
            self.table.update(handle.index(), [mac.to_u64(), asked, now.max(1)]);
        }
        if news {
            self.generation.fetch_add(1, Ordering::Release);
        }
        news
    }

    /// Next hops that are to be asked for now, with the Ethernet address they had. To be called about every second.
    pub fn due(&self, now: Nanos) -> Vec<(Hop, Option<Mac>)> {
        self.tick(now);
        let mut due = Vec::new();
        let _alone = self.table.exclusive();
        for index in 0..self.table.extent() {
            let Some((_, key, [mac, asked, heard])) = self.table.read(index) else { continue };
            let Some(hop) = hop(&key) else { continue };
            if self.table.touched(index) == 0 {
                self.table.touch(index, now); // it was asked for before anybody knew the time
            }
            // Of one that never answered, silence is counted from the first question.
            let heard = if heard == 0 { now.max(1) } else { heard };
            if now.saturating_sub(self.table.touched(index)) >= IDLE {
                self.table.remove(&key);
                if mac != 0 {
                    self.generation.fetch_add(1, Ordering::Release);
                }
                continue;
            }
            let known = (mac != 0 && now.saturating_sub(heard) < LOST).then(|| Mac::from_u64(mac));
            let again = asked == 0 || now.saturating_sub(asked) >= RETRY;
            let old = known.is_none() || now.saturating_sub(heard) >= RENEW;
            let lost = mac != 0 && known.is_none();
            if lost {
                self.generation.fetch_add(1, Ordering::Release);
            }
            if again && old {
                due.push((hop, known));
                self.table.update(index, [known.map_or(0, Mac::to_u64), now.max(1), heard]);
            } else if lost {
                self.table.update(index, [0, asked, heard]);
            }
        }
        due
    }

    /// Whether the Ethernet address of a next hop is known, in any network of an uplink. Walks the whole table.
    pub(super) fn knows(&self, port: PortId, address: IpAddr) -> bool {
        (0..self.table.extent()).any(|index| {
            let Some((_, key, [mac, ..])) = self.table.read(index) else { return false };
            mac != 0 && hop(&key).is_some_and(|hop| hop.port == port && hop.address == address)
        })
    }

    /// Next hops that somebody needs and that have not answered for [`LOST`].
    pub(super) fn silent(&self, now: Nanos) -> Vec<Hop> {
        let one = |index| {
            let (_, key, [mac, _, heard]) = self.table.read(index)?;
            (mac == 0 && now.saturating_sub(heard) >= LOST).then(|| hop(&key)).flatten()
        };
        (0..self.table.extent()).filter_map(one).collect()
    }

    /// What is known of an uplink's next hops, with the milliseconds since each answered.
    pub fn save(&self, now: Nanos, port: PortId) -> Vec<NextHop> {
        let one = |index| {
            let (_, key, [mac, _, heard]) = self.table.read(index)?;
            let Hop { vlan, address, .. } = hop(&key).filter(|hop| hop.port == port && mac != 0)?;
            Some(NextHop {
                vlan,
                address,
                mac: Mac::from_u64(mac),
                age_ms: now.saturating_sub(heard) / 1_000_000,
            })
        };
        (0..self.table.extent()).filter_map(one).collect()
    }

    /// Puts in what was known of an uplink's next hops elsewhere, as far as it still holds; what is known here stays.
    pub fn restore(&self, now: Nanos, port: PortId, saved: &[NextHop]) {
        let _alone = self.table.exclusive();
        for &NextHop { vlan, address, mac, age_ms } in saved.iter().take(LIMIT as usize) {
            let (key, age) = (key(&Hop { port, vlan, address }), age_ms.saturating_mul(1_000_000));
            if age < LOST && mac.is_valid_source() && self.table.find(&key).is_none() {
                // A clock that has not run that long takes it as answered when it began.
                let heard = now.saturating_sub(age).max(1);
                self.table.insert(&key, [mac.to_u64(), 0, heard], now.max(1));
                self.generation.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// A number that has grown whenever an answer of [`Neighbours::find`] may be another.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Every next hop and what is known of it, in no order.
    pub fn list(&self) -> Vec<(Hop, Option<Mac>)> {
        let one = |index| {
            let (_, key, [mac, ..]) = self.table.read(index)?;
            Some((hop(&key)?, (mac != 0).then(|| Mac::from_u64(mac))))
        };
        (0..self.table.extent()).filter_map(one).collect()
    }
}

fn key(hop: &Hop) -> Key {
    let (bits, family) = match hop.address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 0),
        IpAddr::V6(v6) => (u128::from(v6), 1),
    };
    let place = u64::from(hop.port.0) << 32 | u64::from(hop.vlan.unwrap_or(0)) << 16;
    [bits as u64, (bits >> 64) as u64, place | family]
}

fn hop(key: &Key) -> Option<Hop> {
    let bits = u128::from(key[1]) << 64 | u128::from(key[0]);
    let address = if key[2] & 1 == 0 {
        IpAddr::V4(u32::try_from(bits).ok()?.into())
    } else {
        IpAddr::V6(Ipv6Addr::from(bits))
    };
    let vlan = (key[2] >> 16) as u16;
    Some(Hop { port: PortId((key[2] >> 32) as u16), vlan: (vlan != 0).then_some(vlan), address })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn hop() -> Hop {
        Hop { port: PortId(3), vlan: Some(7), address: [192, 168, 1, 9].into() }
    }

    #[test]
    fn s14_4_only_what_was_asked_for_is_learned() {
        let neighbours = Neighbours::new(1);
        assert!(!neighbours.hear(SECOND, &hop(), MAC));
        assert_eq!(neighbours.find(&hop()), None);
        assert_eq!(neighbours.due(2 * SECOND), [(hop(), None)]);
        assert!(neighbours.due(2 * SECOND + RETRY / 2).is_empty(), "asked just now");
        let generation = neighbours.generation();
        assert!(neighbours.hear(3 * SECOND, &hop(), MAC));
        assert!(neighbours.generation() > generation);
        assert_eq!(neighbours.find(&hop()), Some(MAC));
        assert!(!neighbours.hear(3 * SECOND, &Hop { vlan: None, ..hop() }, MAC), "another network");
        assert!(!neighbours.hear(3 * SECOND, &hop(), Mac::BROADCAST));
    }

    #[test]
    fn s20_7_what_is_known_of_an_uplinks_next_hops_is_known_to_a_successor() {
        let (before, after) = (Neighbours::new(1), Neighbours::new(2));
        let other = Hop { port: PortId(4), ..hop() };
        for hop in [hop(), other] {
            before.find(&hop);
            before.hear(SECOND, &hop, MAC);
        }
        let saved = before.save(3 * SECOND, PortId(3));
        assert_eq!(saved, [NextHop { vlan: Some(7), address: hop().address, mac: MAC, age_ms: 2000 }]);
        after.restore(9 * SECOND, PortId(3), &saved);
        assert_eq!((after.find(&hop()), after.get(&other)), (Some(MAC), None));
        assert_eq!(after.due(7 * SECOND + RENEW), [(hop(), Some(MAC))], "it is asked for again in time");
        let old = [NextHop { age_ms: 60_000, ..saved[0].clone() }];
        let third = Neighbours::new(3);
        third.restore(9 * SECOND, PortId(3), &old);
        assert_eq!(third.get(&hop()), None, "it has not answered for too long");
    }

    #[test]
    fn s14_4_an_answer_is_renewed_while_it_is_used_and_forgotten_without_one() {
        let neighbours = Neighbours::new(1);
        neighbours.find(&hop());
        neighbours.due(SECOND);
        neighbours.hear(SECOND, &hop(), MAC);
        assert!(neighbours.due(2 * SECOND).is_empty());
        assert_eq!(neighbours.due(SECOND + RENEW), [(hop(), Some(MAC))]);
        assert_eq!(neighbours.due(SECOND + LOST), [(hop(), None)]);
        assert_eq!(neighbours.find(&hop()), None);
        assert!(!neighbours.list().is_empty());
        neighbours.due(SECOND + LOST + IDLE);
        assert!(neighbours.list().is_empty());
    }
}
