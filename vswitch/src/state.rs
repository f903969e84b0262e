//! What the switch remembers from frame to frame, shared by all workers: learned addresses, sessions, counts of the current second.
//!
//! Everything in here is bounded, has a share per port, and may be used from any thread. Policy is not in here; it is the
//! [`Snapshot`], and a new snapshot keeps the state.

use std::sync::Arc;

use crate::fdb::Fdb;
use crate::port::address_limit::Addresses;
use crate::port::rule::{Action, Table, Tuple};
use crate::port::storm::Storms;
use crate::session::{self, Grant, Key, Sessions};
use crate::snapshot::Snapshot;
use crate::{Nanos, PortId, hash};

/// The state of one switch.
#[derive(Debug)]
pub struct State {
    /// Learned MAC addresses.
    pub fdb: Fdb,
    /// Sessions of stateful rules.
    pub sessions: Sessions,
    /// Frames counted against storm limits.
    pub storms: Storms,
    /// IP addresses in use behind ports with an address limit.
    pub addresses: Addresses,
}

impl State {
    /// An empty state with room for `fdb_size` learned addresses. `seed` must be secret and random: guests choose the keys.
    pub fn new(fdb_size: u32, seed: u64) -> Self {
        Self {
            fdb: Fdb::new(fdb_size, seed),
            sessions: Sessions::new(session::DEFAULT_LIMIT, hash::expand(seed, 3)),
            storms: Storms::new(),
            addresses: Addresses::new(hash::expand(seed, 4)),
        }
    }

    /// Forgets what is idle. To be called every few seconds.
    pub fn age(&self, now: Nanos) {
        self.fdb.age(now);
        self.sessions.age(now);
        self.addresses.age(now);
    }

    /// Forgets everything about a port. To be called when no worker has a snapshot with the port any more.
    pub fn remove_port(&self, id: PortId) {
        self.fdb.remove_port(id);
        self.sessions.remove_port(id);
        self.addresses.remove_port(id);
        self.storms.remove_port(id);
    }

    /// Removes what policy `new` no longer allows. To be called when every worker has passed the change from `old`, and before
    /// anybody is told that the change is in force.
    pub fn reconcile(&self, now: Nanos, old: &Snapshot, new: &Snapshot) {
        self.fdb.reconcile(new);
        let rules = |snap: &Snapshot, id| snap.port(id).map(|port| Arc::clone(&port.policy.rules));
        for port in old.ports() {
            let now_ruled = rules(new, port.id).unwrap_or_default();
            if !Arc::ptr_eq(&port.policy.rules, &now_ruled) && port.policy.rules.has_stateful() {
                self.sessions.reconcile(now, Some(port.id), |key, grant| granted(&now_ruled, key, grant));
            }
        }
    }
}

/// What the rules say now about a session that they granted once: the packet that opened it is judged again.
fn granted(rules: &Table, key: &Key, grant: &Grant) -> Option<Grant> {
    let Key { local, remote, protocol, segment, local_port, remote_port, .. } = *key;
    let ports = Some((local_port, remote_port));
    let tuple = Tuple { local, remote, protocol, ports, later_fragment: false, segment };
    let rule = rules.judge(grant.opened, &tuple).filter(|rule| rule.action == Action::Allow)?;
    Some(Grant { opened: grant.opened, weight: rule.weight, idle: rule.stateful?, tally: rule.tally })
}
