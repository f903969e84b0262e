//! Network virtualization: tenants' customer networks, carried over the physical one.
//!
//! A guest uses *customer addresses* (CA) and knows nothing else; on the wire there are *provider addresses* (PA) of hosts. What goes
//! where is said by [`model`]: customer networks (routing domains) of virtual subnets, one *lookup record* for each customer address,
//! customer routes, and the provider addresses of this host.
//!
//! Two kinds of policy, because they change at different rates. Networks, subnets, routes, providers and gateways are few and are part of the
//! compiled [`crate::snapshot::Snapshot`]. Lookup records are up to a million and change all the time; they are in a table of their own in
//! [`crate::state::State`], and a decision that was made with a record is good for as long as that record is what it was.
pub mod answer;
pub mod model;
pub mod nat;
pub mod overlay;
pub mod wire;
