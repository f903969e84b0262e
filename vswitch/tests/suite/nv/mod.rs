//! Network virtualization: rules of the packet walk, hosts that send one another tunnels, and properties over random tenants.

mod frames;
mod walk;
mod world;
