//! Network virtualization: rules of the packet walk, hosts that send one another tunnels, and properties over random tenants.

mod errors;
mod expected;
mod frames;
mod gateway;
mod hostile;
mod isolation;
mod moves;
mod records;
mod walk;
mod world;

pub(crate) use frames::udp;
