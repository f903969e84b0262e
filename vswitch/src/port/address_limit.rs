//! Address limit: a port may use so many IP addresses at a time beside those it owns.
//!
//! An address is used by sending from it, or by claiming it in ARP or a neighbour advertisement. Not counted are the addresses that the
//! port owns, the link-local one that its own MAC address makes, and the unspecified one. An address that was not used for
//! [`IDLE`] is forgotten and makes room. What uses one too many is dropped; nothing is taken from the addresses that are known.
//!
//! [`Addresses`] is shared by all workers. There is a lock per port, which is taken on a flow-cache miss and once a second per flow,
//! never per frame. One port holds at most [`MAX_PER_PORT`] addresses, so no port costs another anything.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::event::Event;
use crate::frame::claims;
use crate::hash::Seeded;
use crate::port::{MAX_PORTS, addresses};
use crate::trace::DropReason;
use crate::verdict::{Frame, Step, stop};
use crate::{Nanos, PortId};

/// How long an address counts without being used, in nanoseconds (five minutes).
pub const IDLE: Nanos = 300_000_000_000;

/// Largest limit; a larger one works like this one.
pub const MAX_PER_PORT: u32 = 1024;

/// Drops what uses one address too many.
pub(crate) fn limit(frame: &mut Frame<'_>) -> Step {
    let limit = frame.port.policy.address_limit.min(MAX_PER_PORT);
    if limit == 0 {
        return Step::Continue(());
    }
    let headers = match frame.visible() {
        Ok(headers) => headers,
        Err(reason) => return stop(reason),
    };
    let claimed = match claims::of(&headers, frame.head) {
        Ok(claimed) => claimed,
        Err(reason) => return stop(reason),
    };
    frame.revisit = true; // to keep addresses from being forgotten while frames hit the flow cache
    let source = headers.ip.map(|ip| ip.src);
    for address in [source, claimed].into_iter().flatten() {
        if let Err(step) = count(frame, address, limit) {
            return step;
        }
    }
    Step::Continue(())
}

fn count(frame: &mut Frame<'_>, address: IpAddr, limit: u32) -> Result<(), Step> {
    let port = frame.port;
    let owned = port.policy.addresses.as_deref().unwrap_or_default();
    if address.is_unspecified() || addresses::owns(owned, port.mac, address) {
        return Ok(());
    }
    let known = &frame.state.addresses;
    let used = if frame.dry { Addresses::would_use } else { Addresses::make_use };
    match used(known, frame.now, port.id, address, limit) {
        Use::Known => {}
        Use::New { count } => {
            if count == limit - limit.div_ceil(10) {
                frame.notice(Event::AddressLimitNear { port: port.id, count, limit });
            }
        }
        Use::TooMany => {
            frame.notice(Event::AddressLimitReached { port: port.id, address, limit });
            return Err(stop(DropReason::AddressLimit));
        }
    }
    Ok(())
}

/// What the use of an address means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// It was in use before.
    Known,
    /// It is another one, and within the limit.
    New {
        /// Addresses in use with it.
        count: u32,
    },
    /// It is one too many.
    TooMany,
}

/// The addresses in use behind every port with an address limit.
#[derive(Debug)]
pub struct Addresses {
    /// By port number.
    ports: Box<[Mutex<Used>]>,
}

/// The addresses of one port.
#[derive(Debug)]
struct Used {
    /// When each was last used.
    seen: HashMap<IpAddr, Nanos, Seeded>,
    /// No address becomes idle before this time, so that a flood of new ones does not walk the table for each.
    none_idle_before: Nanos,
}

impl Addresses {
    /// No addresses. `seed` must be secret and random: guests choose the keys.
    pub fn new(seed: u64) -> Self {
        let none = || Used { seen: HashMap::with_hasher(Seeded(seed)), none_idle_before: 0 };
        Self { ports: (0..=MAX_PORTS).map(|_| Mutex::new(none())).collect() }
    }

    /// Notes that `port` uses an address at `now`, if that is within its limit.
    pub fn make_use(&self, now: Nanos, port: PortId, address: IpAddr, limit: u32) -> Use {
        let Some(mut used) = self.used(port) else { return Use::TooMany };
        if let Some(seen) = used.seen.get_mut(&address) {
            *seen = now.max(*seen);
            return Use::Known;
        }
        let limit = limit.min(MAX_PER_PORT) as usize;
        if used.seen.len() >= limit {
            used.forget_idle(now);
        }
        if used.seen.len() >= limit {
            return Use::TooMany;
        }
        used.seen.insert(address, now);
        used.none_idle_before = used.none_idle_before.min(now.saturating_add(IDLE));
        Use::New { count: used.seen.len() as u32 }
    }

    /// Puts addresses in that were used behind a port on another switch, each with its age in milliseconds, within its limit.
    pub fn restore(&self, now: Nanos, port: PortId, addresses: &[(IpAddr, u64)], limit: u32) {
        for &(address, age_ms) in addresses {
            self.make_use(now.saturating_sub(age_ms.saturating_mul(1_000_000)), port, address, limit);
        }
    }

    /// What [`Addresses::make_use`] would say. Changes nothing.
    pub fn would_use(&self, now: Nanos, port: PortId, address: IpAddr, limit: u32) -> Use {
        let Some(used) = self.used(port) else { return Use::TooMany };
        if used.seen.contains_key(&address) {
            return Use::Known;
        }
        let count = used.seen.values().filter(|&&seen| !is_idle(seen, now)).count() as u32;
        if count < limit.min(MAX_PER_PORT) { Use::New { count: count + 1 } } else { Use::TooMany }
    }

    /// Forgets addresses that were not used for [`IDLE`], and says how many. To be called every few seconds.
    pub fn age(&self, now: Nanos) -> u64 {
        self.ports.iter().map(|port| lock(port).forget_idle(now)).sum()
    }

    /// Forgets the addresses of a port, and says how many.
    pub fn remove_port(&self, port: PortId) -> u64 {
        self.used(port).map_or(0, |mut used| {
            let count = used.seen.len();
            used.seen = HashMap::with_hasher(*used.seen.hasher());
            count as u64
        })
    }

    /// The addresses in use behind a port, ascending, with the time since each was last seen, in nanoseconds.
    pub fn list(&self, now: Nanos, port: PortId) -> Vec<(IpAddr, Nanos)> {
        let Some(used) = self.used(port) else { return Vec::new() };
        let age = |(&address, &seen): (&IpAddr, &Nanos)| (address, now.saturating_sub(seen));
        let mut list: Vec<_> = used.seen.iter().map(age).collect();
        list.sort_unstable();
        list
    }

    fn used(&self, port: PortId) -> Option<MutexGuard<'_, Used>> {
        self.ports.get(port.index()).map(lock)
    }
}

impl Used {
    fn forget_idle(&mut self, now: Nanos) -> u64 {
        if now < self.none_idle_before {
            return 0;
        }
        let before = self.seen.len();
        self.seen.retain(|_, &mut seen| !is_idle(seen, now));
        let oldest = self.seen.values().min();
        self.none_idle_before = oldest.map_or(Nanos::MAX, |seen| seen.saturating_add(IDLE));
        (before - self.seen.len()) as u64
    }
}

fn is_idle(seen: Nanos, now: Nanos) -> bool {
    now.saturating_sub(seen) >= IDLE
}

/// Every change is one call of the table, so what a panicking thread left behind is whole.
fn lock(used: &Mutex<Used>) -> MutexGuard<'_, Used> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}
