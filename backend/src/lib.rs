//! The switch that moves: guest memory, rings, sockets, devices, threads, API and store.

pub mod api;
pub mod cli;
pub mod control;
pub mod dataplane;
pub mod events;
pub mod extensions;
pub mod guest;
pub mod link;
pub mod migrate;
pub mod priority;
pub mod spec;
pub mod store;
pub mod takeover;
pub mod tally;
pub mod watch;
pub mod worker;
