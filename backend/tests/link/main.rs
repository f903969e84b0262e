//! Links against the real kernel: veth pairs and TAPs with unique names, and network namespaces of their own.
//!
//! Every test needs root and `ip`; without them it says `skipped: …` and why.

mod lab;
mod packet;
mod tap;
mod uplink;
mod xdp;
