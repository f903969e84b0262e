//! Wire formats of network virtualization: tunnels, congestion marks, rewritten packets and the switch's own answers, each
//! compared with what a plain, slow implementation makes of the same packet, and with what tshark reads in it.

mod answers;
mod decoded;
mod figures;
mod hostile;
mod marks;
pub(crate) mod reference;
mod rewriting;
mod tunnels;
