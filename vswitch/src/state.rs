//! What the switch remembers from frame to frame, shared by all workers: learned addresses, sessions, counts of the current second.
//!
//! Everything in here is bounded, has a share per port, and may be used from any thread. Policy is not in here; it is the
//! [`Snapshot`], and a new snapshot keeps the state.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::fdb::Fdb;
use crate::nv;
use crate::nv::neighbours::NextHop;
use crate::port::PortKind;
use crate::port::address_limit::Addresses;
use crate::port::rule::{Action, Table, Tuple};
use crate::port::storm::Storms;
use crate::session::{self, Grant, Key, Sessions};
use crate::snapshot::Snapshot;
use crate::{Mac, Nanos, PortId, Segment, hash};

/// What the switch remembers of one port, in relative times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortMemory {
    /// Addresses learned behind it: address, network, milliseconds since it was seen.
    pub learned: Vec<(Mac, Segment, u64)>,
    /// Its sessions.
    pub sessions: Vec<session::Saved>,
    /// IP addresses that count against its limit, with the milliseconds since each was seen.
    pub used: Vec<(IpAddr, u64)>,
    /// Frames counted against its storm limit in the current second.
    pub storm: u32,
    /// An uplink's next hops on the provider network.
    #[serde(default)]
    pub next_hops: Vec<NextHop>,
}

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
    /// What network virtualization knows of guests and hosts.
    pub nv: nv::Tables,
    /// How often an extension took answers back that it had given for whole flows.
    pub(crate) taken_back: AtomicU64,
}

impl State {
    /// An empty state with room for `fdb_size` learned addresses. `seed` must be secret and random: guests choose the keys.
    pub fn new(fdb_size: u32, seed: u64) -> Self {
        Self {
            nv: nv::Tables::new(hash::expand(seed, 5), nv::records::DEFAULT_CAPACITY),
            taken_back: AtomicU64::new(0),
            fdb: Fdb::new(fdb_size, seed),
            sessions: Sessions::new(session::DEFAULT_LIMIT, hash::expand(seed, 3)),
            storms: Storms::new(),
            addresses: Addresses::new(hash::expand(seed, 4)),
        }
    }

    /// Answers that extensions gave for whole flows stand no longer: [`crate::extension::Effects::refresh`].
    pub fn take_back(&self) {
        self.taken_back.fetch_add(1, Ordering::Release);
    }

    /// Forgets what is idle. To be called every few seconds.
    pub fn age(&self, now: Nanos) {
        self.fdb.age(now);
        self.sessions.age(now);
        self.addresses.age(now);
        self.nv.age(now);
    }

    /// What is remembered of a port, as it travels with it. To be called while none of its frames is under way.
    pub fn save_port(&self, now: Nanos, id: PortId) -> PortMemory {
        let learned = self.fdb.entries(now).into_iter().filter(|entry| entry.port == id);
        let used = self.addresses.list(now, id).into_iter();
        PortMemory {
            learned: learned.map(|entry| (entry.mac, entry.network, entry.age_ms)).collect(),
            sessions: self.sessions.save(now, id),
            used: used.map(|(address, age)| (address, age / 1_000_000)).collect(),
            storm: self.storms.used(now, id),
            next_hops: self.nv.neighbours.save(now, id),
        }
    }

    /// Puts in what another switch remembered of a port, as far as the policy in `snap` allows it. To be called when every worker
    /// follows `snap` and before the port's rings run.
    pub fn restore_port(&self, now: Nanos, id: PortId, memory: &PortMemory, snap: &Snapshot) {
        let Some(port) = snap.port(id) else { return };
        // Behind the uplink are guests that are not here.
        if port.learns() || port.kind == PortKind::Uplink {
            self.fdb.restore(now, id, &memory.learned, snap);
        }
        let rules = &port.policy.rules;
        self.sessions.restore(now, id, &memory.sessions, |key, grant| granted(rules, key, grant));
        self.addresses.restore(now, id, &memory.used, port.policy.address_limit);
        self.storms.restore(now, id, memory.storm);
        if port.kind == PortKind::Uplink {
            self.nv.neighbours.restore(now, id, &memory.next_hops);
        }
    }

    /// Forgets everything about a port. To be called when no worker has a snapshot with the port any more.
    pub fn remove_port(&self, id: PortId) {
        self.fdb.remove_port(id);
        self.sessions.remove_port(id);
        self.addresses.remove_port(id);
        self.storms.remove_port(id);
        self.nv.remove_port(id);
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
