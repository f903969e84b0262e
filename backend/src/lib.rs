//! The switch that moves: guest memory, rings, sockets, devices, threads, API and store.

pub mod dataplane;
pub mod link;
