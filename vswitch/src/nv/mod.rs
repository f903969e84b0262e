//! Network virtualization: tenants' customer networks, carried over the physical one.
//!
//! A guest uses *customer addresses* (CA) and knows nothing else; on the wire there are *provider addresses* (PA) of hosts. What goes
//! where is said by [`model`]: customer networks (routing domains) of virtual subnets, one *lookup record* for each customer address,
//! customer routes, and the provider addresses of this host.
//!
//! Two kinds of policy, because they change at different rates. Networks, subnets, routes, providers and gateways are few and are part of the
//! compiled [`crate::snapshot::Snapshot`]: [`policy`]. Lookup records are up to a million and change all the time; they are in a table of
//! their own in [`crate::state::State`]: [`records`]; a decision that was made with a record is good for as long as that record is what it was.
//!
//! | a frame | is judged by |
//! |---|---|
//! | of a port in a virtual subnet | the ordinary steps, then [`walk`], ARP and neighbour discovery by [`discovery`] |
//! | of the physical network | [`ingress`]: is it a tunnel's packet to this host |
//! | out of a tunnel | [`tunnel`]; for nobody here, [`tells`] |
//! | to and from a physical network beyond a gateway | [`gateway`] |
//! | of the provider network itself | [`underlay`], its complaints by [`errors`] |

mod absent;
pub mod answer;
pub(crate) mod discovery;
pub mod errors;
pub mod gateway;
pub mod ingress;
pub mod interest;
pub mod learning;
mod members;
pub mod model;
pub mod nat;
pub mod neighbours;
pub mod overlay;
mod packed;
pub mod peers;
pub mod policy;
pub mod records;
mod replies;
pub mod resolve;
mod table;
pub(crate) mod tunnel;
pub mod underlay;
pub(crate) mod walk;
pub mod wanted;
mod ways;
pub mod wire;

pub use absent::{Absent, not_here, tells};
pub use gateway::exit;
pub use ingress::{Opened, Readdress, open};
pub use replies::{Answer, answer, replicas, too_big};
pub use resolve::{Resolution, resolve};
pub use underlay::{due, encapsulate, readdress, rewrite_room, room, template};

use crate::{Nanos, PortId, hash};

/// What network virtualization knows of guests and hosts. All of it may be used from any thread.
#[derive(Debug)]
pub struct Tables {
    /// Lookup records.
    pub records: records::Records,
    /// Next hops on the provider network.
    pub neighbours: neighbours::Neighbours,
    /// Shared addresses of gateways.
    pub nats: gateway::Nats,
    /// Customer addresses that were learned from guests of this host.
    pub learned: learning::Learned,
    /// Lookup records that the policy store is to be asked for.
    pub wanted: wanted::Wanted,
    /// What the provider network says about packets of this host's.
    pub errors: errors::Errors,
    /// What other hosts were told about guests that are not here.
    pub absent: Absent,
}

impl Tables {
    /// Empty tables, with room for `records`. `seed` must be secret and random: guests choose addresses.
    pub fn new(seed: u64, records: u32) -> Self {
        Self {
            records: records::Records::new(hash::expand(seed, 0), records),
            neighbours: neighbours::Neighbours::new(hash::expand(seed, 1)),
            nats: gateway::Nats::new(hash::expand(seed, 3)),
            learned: learning::Learned::new(hash::expand(seed, 2)),
            wanted: wanted::Wanted::new(hash::expand(seed, 4)),
            errors: errors::Errors::new(hash::expand(seed, 5)),
            absent: Absent::new(hash::expand(seed, 6)),
        }
    }

    /// Forgets what is idle. To be called every few seconds.
    pub fn age(&self, now: Nanos) {
        self.learned.age(now, &self.records);
        self.records.age(now);
    }

    /// Forgets what was learned from a port. To be called when no worker has a snapshot with the port any more.
    pub fn remove_port(&self, id: PortId) {
        self.learned.remove_port(id, &self.records);
    }
}
