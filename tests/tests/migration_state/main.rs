//! Two switches, a guest that moves between them with the state of its port, and everything that can go wrong (section 20; H22, H27).

mod deaths;
mod many;
mod moves;
mod refused;
mod world;
